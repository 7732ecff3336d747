package mittwald

import (
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// TestDocsSayWhatIsServed holds the tables of docs/mittwald.md to the route
// table and to the struct of a service.
func TestDocsSayWhatIsServed(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/mittwald.md")
	if err != nil {
		t.Fatal(err)
	}
	tables := map[string][]string{} // the first cells, by the head of the table
	head := ""
	for _, line := range strings.Split(string(page), "\n") {
		cell, ok := strings.CutPrefix(line, "| ")
		if !ok {
			if !strings.HasPrefix(line, "|") {
				head = ""
			}
			continue
		}
		cell, _, _ = strings.Cut(cell, " |")
		if head == "" {
			head = cell
			continue
		}
		tables[head] = append(tables[head], strings.Trim(cell, "`"))
	}
	var routes, fields, keys []string
	for p := range New(Rooms{}).Table {
		routes = append(routes, p)
	}
	s := reflect.TypeFor[serviceRequest]()
	for i := range s.NumField() {
		if f := s.Field(i); f.Tag.Get("isolation") != "" {
			keys = append(keys, f.Tag.Get("json"))
		} else {
			fields = append(fields, f.Tag.Get("json"))
		}
	}
	for head, want := range map[string][]string{"route": routes, "field": fields, "key": keys} {
		got := tables[head]
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("the table of each %s:\ngot  %q\nwant %q", head, got, want)
		}
	}
}
