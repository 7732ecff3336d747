package apitest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/txtar"
)

// Replay sends the requests of a file to a dialect and holds its answers
// against the replies.
//
// A file begins with a line "Source: " that names the page it is taken from.
// Its sections are
//
//   - request: method and path, headers, an empty line, the body. A header with
//     the value "-" is left out.
//   - reply: the status, headers, an empty line, what the body is.
//   - until: a reply that is waited for; the request is sent again till it comes.
//   - wait: the text of the section is given to Wait.
//
// An object has just the members named, unless one of them is "..." or Open
// says so; a list just the elements, unless the last one is "...". In a reply
// <name> stands for any value and gives it that name, where it has none; <*> is
// any value, and text<*> one that begins so. Everywhere else <name> is the value.
type Replay struct {
	T       testing.TB
	Handler http.Handler
	Vars    map[string]string // names that are known; more become known
	Header  http.Header       // of each request that does not say otherwise
	Open    bool              // members of objects that are not named do not count
	Wait    func(text string)
	// Check, if it is not nil, says more about an answer than the file does.
	Check func(method, path string, rec *httptest.ResponseRecorder) error
}

// Files calls f for each file of testdata, in a test of its own, for it to make
// a Replay and to run it with that file.
func Files(t *testing.T, f func(t *testing.T, file string)) {
	t.Helper()
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatal("no exchanges", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			t.Parallel()
			f(t, file)
		})
	}
}

// Run replays a file.
func (r *Replay) Run(file string) {
	r.T.Helper()
	a, err := txtar.ParseFile(file)
	if err != nil {
		r.T.Fatal(err)
	}
	if !strings.Contains(string(a.Comment), "Source: ") {
		r.T.Error("the file does not name its source")
	}
	var request string
	for i, f := range a.Files {
		text := string(f.Data)
		switch f.Name {
		case "request":
			request = r.fill(text)
			continue
		case "reply":
			err = r.exchange(request, text)
		case "until":
			err = r.exchange(request, text)
			for end := time.Now().Add(20 * time.Second); err != nil && time.Now().Before(end); {
				<-time.After(5 * time.Millisecond)
				err = r.exchange(request, text)
			}
		case "wait":
			r.Wait(strings.TrimSpace(r.fill(text)))
		default:
			err = fmt.Errorf("unknown section %s", f.Name)
		}
		if err != nil {
			first, _, _ := strings.Cut(request, "\n")
			r.T.Fatalf("%s, section %d, %s: %v", file, i+1, first, err)
		}
	}
}

var blank = regexp.MustCompile(`<([A-Za-z0-9]+|\*)>`)

// fill puts in the values of the names that are known.
func (r *Replay) fill(s string) string {
	return blank.ReplaceAllStringFunc(s, func(p string) string {
		if v, ok := r.Vars[p[1:len(p)-1]]; ok {
			return v
		}
		return p
	})
}

// section takes the first line, the headers and the body apart.
func section(text string) (first string, header map[string]string, body string) {
	head, body, _ := strings.Cut(text, "\n\n")
	lines := strings.Split(strings.TrimSpace(head), "\n")
	header = map[string]string{}
	for _, l := range lines[1:] {
		if name, value, ok := strings.Cut(l, ": "); ok {
			header[name] = value
		}
	}
	return lines[0], header, strings.TrimSpace(body)
}

func (r *Replay) exchange(request, reply string) error {
	r.T.Helper()
	first, header, body := section(request)
	method, path, ok := strings.Cut(first, " ")
	if !ok {
		return fmt.Errorf("no request: %q", first)
	}
	q := httptest.NewRequestWithContext(r.T.Context(), method, path, strings.NewReader(body))
	maps.Copy(q.Header, r.Header.Clone())
	for name, value := range header {
		q.Header.Set(name, value)
		if value == "-" {
			q.Header.Del(name)
		}
	}
	rec := httptest.NewRecorder()
	r.Handler.ServeHTTP(rec, q)
	if r.Check != nil {
		if err := r.Check(method, path, rec); err != nil {
			return err
		}
	}
	found := maps.Clone(r.Vars)
	again := *r
	again.Vars = found
	if err := again.compare(rec, reply); err != nil {
		return err
	}
	maps.Copy(r.Vars, found) // those of an answer that is not the right one do not count
	return nil
}

func (r *Replay) compare(rec *httptest.ResponseRecorder, reply string) error {
	status, header, body := section(reply)
	if status != strconv.Itoa(rec.Code) {
		return fmt.Errorf("status %d, want %s: %s", rec.Code, status, rec.Body)
	}
	for name, value := range header {
		if got := rec.Header().Get(name); got == "" || !r.matchText(value, got) {
			return fmt.Errorf("%s is %q, want %q", name, got, r.fill(value))
		}
	}
	switch {
	case body == "" && rec.Code < 300 && rec.Body.Len() > 0 && !r.Open:
		return fmt.Errorf("there is a body: %s", rec.Body)
	case body == "":
		return nil
	case !strings.HasPrefix(rec.Header().Get("Content-Type"), "application/json"):
		if got := strings.TrimSpace(rec.Body.String()); got != r.fill(body) {
			return fmt.Errorf("got %q (%s), want %q", got, rec.Header().Get("Content-Type"), body)
		}
		return nil
	}
	want, err := parse([]byte(body))
	if err != nil {
		return fmt.Errorf("%w in %s", err, body)
	}
	got, err := parse(rec.Body.Bytes())
	if err == nil {
		err = r.Match("", want, got)
	}
	if err != nil {
		var b bytes.Buffer
		_ = json.Indent(&b, rec.Body.Bytes(), "", "  ")
		return fmt.Errorf("%w\nin %s", err, b.String())
	}
	return nil
}

func parse(b []byte) (v any, err error) {
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	return v, d.Decode(&v)
}

// Match tells where decoded JSON is not what is wanted; at is what it is called.
func (r *Replay) Match(at string, want, got any) error {
	switch want := want.(type) {
	case map[string]any:
		return r.matchObject(at, want, got)
	case []any:
		g, ok := got.([]any)
		n := len(want)
		if n > 0 && want[n-1] == "..." {
			if n--; len(g) > n {
				g = g[:n]
			}
		}
		if !ok || len(g) != n {
			return fmt.Errorf("%s is %v, want %d elements", at, got, n)
		}
		for i := range g {
			if err := r.Match(fmt.Sprintf("%s[%d]", at, i), want[i], g[i]); err != nil {
				return err
			}
		}
		return nil
	case string:
		if r.matchText(want, got) {
			return nil
		}
	default:
		if want == got {
			return nil
		}
	}
	return fmt.Errorf("%s is %v, want %v", at, got, want)
}

func (r *Replay) matchObject(at string, want map[string]any, got any) error {
	g, ok := got.(map[string]any)
	if !ok {
		return fmt.Errorf("%s is %v", at, got)
	}
	if _, open := want["..."]; !open && !r.Open {
		for k, v := range g {
			if _, ok := want[k]; !ok {
				return fmt.Errorf("%s.%s is there: %v", at, k, v)
			}
		}
	}
	keys := slices.Sorted(maps.Keys(want))
	for _, naming := range []bool{true, false} { // what gives a name first: others may hold it
		for _, k := range keys {
			s, _ := want[k].(string)
			if k == "..." || r.names(s) != naming {
				continue
			}
			value, ok := g[k]
			if !ok {
				return fmt.Errorf("%s.%s is not there", at, k)
			}
			if err := r.Match(at+"."+k, want[k], value); err != nil {
				return err
			}
		}
	}
	return nil
}

// names tells whether a text is a name alone that is not known.
func (r *Replay) names(s string) bool {
	m := blank.FindStringSubmatch(s)
	if m == nil || m[0] != s {
		return false
	}
	_, known := r.Vars[m[1]]
	return !known
}

// matchText compares a value with a text that may have names in it.
func (r *Replay) matchText(want string, got any) bool {
	text := fmt.Sprint(got)
	switch {
	case want == "<*>":
		return true
	case r.names(want):
		r.Vars[want[1:len(want)-1]] = text
		return true
	}
	want = r.fill(want)
	if prefix, ok := strings.CutSuffix(want, "<*>"); ok {
		return strings.HasPrefix(text, prefix)
	}
	return got != nil && text == want
}
