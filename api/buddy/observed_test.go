package buddy

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
)

// observed is a request that clients of the vendor's were seen to send.
type observed struct {
	line        string
	method      string
	path        *regexp.Regexp
	status      string
	query, body []string // keys
}

var words = regexp.MustCompile(`:[a-z_]+`)

func readObserved(t *testing.T) (all []observed) {
	t.Helper()
	b, err := os.ReadFile("testdata/observed.txt")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if f[0] == "#" {
			continue
		}
		path, query, _ := strings.Cut(f[1], "?")
		pattern := words.ReplaceAllStringFunc(path, func(w string) string {
			if w == ":path" {
				return ".+"
			}
			return "[^/]+"
		})
		o := observed{line: strings.TrimSpace(line), method: f[0], path: regexp.MustCompile("^" + pattern + "$"), status: f[2], body: f[3:]}
		if query != "" {
			o.query = strings.Split(query, "&")
		}
		all = append(all, o)
	}
	return all
}

// exchange is a request of testdata with the status that it gets there.
type exchange struct {
	method, path string
	query, body  []string
	status       string
}

// exchanges are those of all files. A name in a body may stand for a number.
func exchanges(t *testing.T) (all []exchange) {
	t.Helper()
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	bare := regexp.MustCompile(`([:\[] ?)<(\w+)>`)
	for _, file := range files {
		a, err := txtar.ParseFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var x exchange
		for _, s := range a.Files {
			head, body, _ := strings.Cut(string(s.Data), "\n\n")
			first, _, _ := strings.Cut(head, "\n")
			switch s.Name {
			case "request":
				method, url, _ := strings.Cut(first, " ")
				path, query, _ := strings.Cut(url, "?")
				x = exchange{method: method, path: rewrite(strings.TrimSuffix(path, "/"))}
				for part := range strings.SplitSeq(query, "&") {
					key, _, _ := strings.Cut(part, "=")
					x.query = append(x.query, key)
				}
				members := map[string]json.RawMessage{}
				_ = json.Unmarshal([]byte(bare.ReplaceAllString(body, "${1}1")), &members) // some are no JSON, on purpose
				for name := range members {
					x.body = append(x.body, name)
				}
			case "reply", "until":
				x.status = first
				all = append(all, x)
			}
		}
	}
	return all
}

// Everything that clients were seen to send is in an exchange, with all of its
// keys, and gets the answer that they took.
func TestObserved(t *testing.T) {
	t.Parallel()
	rows, all := readObserved(t), exchanges(t)
	if len(rows) != 80 {
		t.Errorf("there are %d rows", len(rows))
	}
	for _, o := range rows {
		lacks := map[string]bool{"any request": true}
		for _, k := range o.query {
			lacks["?"+k] = true
		}
		for _, k := range o.body {
			lacks[k] = true
		}
		for _, x := range all {
			if x.method != o.method || x.status != o.status || !o.path.MatchString(x.path) {
				continue
			}
			delete(lacks, "any request")
			for _, k := range x.query {
				delete(lacks, "?"+k)
			}
			for _, k := range x.body {
				delete(lacks, k)
			}
		}
		for k := range lacks {
			t.Errorf("no exchange shows %s of %s", k, o.line)
		}
	}
}
