package mittwald

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/txtar"
)

// TestExchanges replays the files of testdata. Each begins with what it is and
// the page that it is taken from, and then has requests and replies in turn:
//
//	-- request --
//	PUT /v2/stacks/$P
//
//	{"services": {}}
//	-- reply --
//	200
//	X-Pagination-TotalCount: 1
//
//	{"id": "$P", "generation": "*"}
//
// $P, $p and $W are the id and short id of a project and the id of its
// workspace. In a reply "*" is anything, and an unknown "$NAME" anything that is
// remembered under that name. An object has just the members named, unless one
// of them is "..."; a list just the elements. "-- until --" is a reply that is
// waited for: the request is sent again till it comes. Text that is not JSON is
// compared as it is. Every answer is held against the vendor's schema too.
func TestExchanges(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatal("no exchanges", err)
	}
	for _, f := range files {
		t.Run(strings.TrimSuffix(filepath.Base(f), ".txtar"), func(t *testing.T) {
			t.Parallel()
			replay(t, f)
		})
	}
}

func replay(t *testing.T, file string) {
	a, err := txtar.ParseFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(a.Comment), "Source: ") {
		t.Fatal("the file does not say what page it is from")
	}
	w := newWorld(t)
	e := &exchange{w: w, ref: loadReference(t), vars: map[string]string{"P": string(w.pr.ID), "p": w.pr.ShortID, "W": w.home.ID}}
	for i := 0; i+1 < len(a.Files); i += 2 {
		request, reply := a.Files[i], a.Files[i+1]
		if request.Name != "request" || reply.Name != "reply" && reply.Name != "until" {
			t.Fatalf("%d: %s is followed by %s", i, request.Name, reply.Name)
		}
		head, body, _ := strings.Cut(e.expand(string(request.Data)), "\n\n")
		method, path, _ := strings.Cut(strings.TrimSpace(head), " ")
		err := e.once(method, path, body, string(reply.Data))
		for end := time.Now().Add(20 * time.Second); err != nil && reply.Name == "until" && time.Now().Before(end); {
			time.Sleep(5 * time.Millisecond)
			err = e.once(method, path, body, string(reply.Data))
		}
		if err != nil {
			t.Fatalf("%s %s (%d): %s", method, path, i/2+1, err)
		}
	}
}

type exchange struct {
	w    *world
	ref  *reference
	vars map[string]string
}

// expand puts the names in.
func (e *exchange) expand(s string) string {
	for _, k := range slices.SortedFunc(maps.Keys(e.vars), func(a, b string) int { return len(b) - len(a) }) {
		s = strings.ReplaceAll(s, "$"+k, e.vars[k])
	}
	return s
}

func (e *exchange) once(method, path, body, reply string) error {
	resp, got := e.w.do(method, path, e.w.token, body)
	if err := e.ref.check(method, strings.Split(path, "?")[0], resp.StatusCode, resp.Header.Get("Content-Type"), got); err != nil {
		return fmt.Errorf("against the reference: %w in %s", err, got)
	}
	head, want, _ := strings.Cut(reply, "\n\n")
	lines := strings.Split(strings.TrimSpace(head), "\n")
	if lines[0] != strconv.Itoa(resp.StatusCode) {
		return fmt.Errorf("got %d %s, want %s", resp.StatusCode, got, lines[0])
	}
	for _, l := range lines[1:] {
		name, value, _ := strings.Cut(l, ": ")
		if h := resp.Header.Get(name); h != e.expand(value) {
			return fmt.Errorf("header %s is %q, want %q", name, h, value)
		}
	}
	if resp.Header.Get("ETag") != "" {
		return fmt.Errorf("there is an ETag")
	}
	if want = strings.TrimSpace(want); want == "" {
		if len(got) > 0 && resp.StatusCode < 300 {
			return fmt.Errorf("got a body: %s", got)
		}
		return nil
	}
	if !strings.HasPrefix(resp.Header.Get("Content-Type"), "application/json") {
		if s := strings.TrimSpace(string(got)); s != want {
			return fmt.Errorf("got %q, want %q", s, want)
		}
		return nil
	}
	pattern, err := parse([]byte(want))
	if err != nil {
		return fmt.Errorf("the file: %w", err)
	}
	have, err := parse(got)
	if err != nil {
		return err
	}
	found := maps.Clone(e.vars)
	if err := match(pattern, have, "$", found); err != nil {
		return fmt.Errorf("%w\nin %s", err, got)
	}
	e.vars = found
	return nil
}

func match(want, got any, at string, vars map[string]string) error {
	switch w := want.(type) {
	case map[string]any:
		g, ok := got.(map[string]any)
		if !ok {
			return fmt.Errorf("%s: %v is no object", at, got)
		}
		_, open := w["..."]
		for _, k := range slices.Sorted(maps.Keys(w)) {
			if k == "..." {
				continue
			}
			v, ok := g[k]
			if !ok {
				return fmt.Errorf("%s: %s is missing", at, k)
			}
			if err := match(w[k], v, at+"."+k, vars); err != nil {
				return err
			}
		}
		for k := range g {
			if _, ok := w[k]; !ok && !open {
				return fmt.Errorf("%s: %s = %v is not expected", at, k, g[k])
			}
		}
	case []any:
		g, ok := got.([]any)
		if !ok || len(g) != len(w) {
			return fmt.Errorf("%s: got %v, want %d elements", at, got, len(w))
		}
		for i := range w {
			if err := match(w[i], g[i], fmt.Sprintf("%s[%d]", at, i), vars); err != nil {
				return err
			}
		}
	case string:
		return matchText(w, got, at, vars)
	case json.Number, bool, nil:
		if want != got {
			return fmt.Errorf("%s: got %v, want %v", at, got, want)
		}
	}
	return nil
}

func matchText(w string, got any, at string, vars map[string]string) error {
	if w == "*" {
		return nil
	}
	name, isVar := strings.CutPrefix(w, "$")
	if isVar {
		if _, known := vars[name]; !known {
			vars[name] = fmt.Sprint(got)
			return nil
		}
	}
	for k, v := range vars {
		w = strings.ReplaceAll(w, "$"+k, v)
	}
	if prefix, ok := strings.CutSuffix(w, "*"); ok {
		if s, ok := got.(string); ok && strings.HasPrefix(s, prefix) {
			return nil
		}
	}
	if w != got {
		return fmt.Errorf("%s: got %v, want %q", at, got, w)
	}
	return nil
}

// TestUnservedPathsAnswerTheVendors404: no stub, and nothing for strangers.
func TestUnservedPathsAnswerTheVendors404(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ref := loadReference(t)
	for _, path := range []string{
		"/v2/container-image-config?imageReference=nginx", "/v2/container-templates",
		"/v2/stacks/" + string(w.pr.ID) + "/nothing", "/v2/nowhere",
	} {
		resp, body := w.do(http.MethodGet, path, w.token, "")
		if err := ref.checkError(resp.StatusCode, body); err != nil || resp.StatusCode != 404 {
			t.Errorf("%s: %d %s %v", path, resp.StatusCode, body, err)
		}
		if resp, body := w.do(http.MethodGet, path, "", ""); resp.StatusCode != 401 {
			t.Errorf("%s: a stranger got %d %s", path, resp.StatusCode, body)
		}
	}
}

// TestEveryRouteIsInTheReference: no path of our own making.
func TestEveryRouteIsInTheReference(t *testing.T) {
	t.Parallel()
	ref := loadReference(t)
	for pattern := range New(Rooms{}).Table {
		method, path, _ := strings.Cut(pattern, " ")
		if path != "/v2/users/self" && ref.Paths[path][method] == nil {
			t.Errorf("%s is not in the reference", pattern)
		}
	}
}
