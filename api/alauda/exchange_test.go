package alauda

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/http/httptest"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
)

// TestExchanges replays testdata/*.txtar. An exchange is a section "request"
// (method, path, headers, an empty line, body) and a section "reply": the
// status, headers and what the answer is. An object has just the members named,
// unless one of them is "..."; a list just the elements, unless the last one is
// "...". In a reply <name> stands for any value and gives it that name, <*> for
// any; in what follows <name> is that value. A section "wait" names a build whose
// end is waited for. <git> is an outside git server, <head> the commit of its
// branch master, <first> that of its tag 1.0, <wrong> that of broken.
func TestExchanges(t *testing.T) {
	t.Parallel()
	names, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(names) == 0 {
		t.Fatal("no exchanges", err)
	}
	for _, file := range names {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			t.Parallel()
			a, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if !strings.HasPrefix(string(a.Comment), "Source: ") {
				t.Error("the file does not name its source")
			}
			w := newWorld(t)
			var rec *httptest.ResponseRecorder
			for i, f := range a.Files {
				text := w.fill(string(f.Data))
				switch f.Name {
				case "request":
					rec = w.send(text)
				case "reply":
					w.compare(fmt.Sprintf("%s, section %d", file, i+1), rec, text)
				case "wait":
					w.wait(strings.TrimSpace(text))
				default:
					t.Fatalf("unknown section %s", f.Name)
				}
			}
		})
	}
}

var placeholder = regexp.MustCompile(`<([a-z0-9]+|\*)>`)

func (w *world) fill(s string) string {
	return placeholder.ReplaceAllStringFunc(s, func(p string) string {
		if v, ok := w.vars[strings.Trim(p, "<>")]; ok {
			return v
		}
		return p
	})
}

func (w *world) send(text string) *httptest.ResponseRecorder {
	w.t.Helper()
	head, body, _ := strings.Cut(text, "\n\n")
	first, rest, _ := strings.Cut(strings.TrimSpace(head), "\n")
	method, path, ok := strings.Cut(first, " ")
	if !ok {
		w.t.Fatalf("no request: %q", first)
	}
	q := httptest.NewRequestWithContext(w.t.Context(), method, path, strings.NewReader(strings.TrimSpace(body)))
	q.Header.Set("Authorization", "Token "+w.token)
	for _, l := range strings.Split(rest, "\n") {
		if name, value, ok := strings.Cut(l, ": "); ok {
			q.Header.Set(name, strings.ReplaceAll(value, "TOKEN", w.token))
		}
	}
	rec := httptest.NewRecorder()
	w.serve.ServeHTTP(rec, q)
	return rec
}

func (w *world) compare(at string, rec *httptest.ResponseRecorder, text string) {
	w.t.Helper()
	head, body, _ := strings.Cut(text, "\n\n")
	first, rest, _ := strings.Cut(strings.TrimSpace(head), "\n")
	if want, err := strconv.Atoi(first); err != nil || rec.Code != want {
		w.t.Fatalf("%s: status %d, want %s: %s", at, rec.Code, first, rec.Body)
	}
	for _, l := range strings.Split(rest, "\n") {
		if name, value, ok := strings.Cut(l, ": "); ok && rec.Header().Get(name) != value {
			w.t.Errorf("%s: %s is %q, want %q", at, name, rec.Header().Get(name), value)
		}
	}
	if ct := rec.Header().Get("Content-Type"); ct != "application/json" {
		w.t.Errorf("%s: content type %q", at, ct)
	}
	var got, want any
	w.must(json.Unmarshal(rec.Body.Bytes(), &got))
	if err := json.Unmarshal([]byte(body), &want); err != nil {
		w.t.Fatalf("%s: %v in %s", at, err, body)
	}
	if diff := w.match("", want, got); diff != "" {
		var b bytes.Buffer
		_ = json.Indent(&b, rec.Body.Bytes(), "", "  ")
		w.t.Fatalf("%s: %s\nin %s", at, diff, b.String())
	}
}

// match tells where got is not what is wanted.
func (w *world) match(at string, want, got any) string {
	switch want := want.(type) {
	case map[string]any:
		return w.matchObject(at, want, got)
	case []any:
		g, ok := got.([]any)
		n := len(want)
		if n > 0 && want[n-1] == "..." {
			if n--; len(g) > n {
				g = g[:n]
			}
		}
		if !ok || len(g) != n {
			return fmt.Sprintf("%s is %v, want %d elements", at, got, n)
		}
		for i := range g {
			if d := w.match(fmt.Sprintf("%s[%d]", at, i), want[i], g[i]); d != "" {
				return d
			}
		}
		return ""
	case string:
		if m := placeholder.FindStringSubmatch(want); m != nil && m[0] == want && w.vars[m[1]] == "" {
			if n, ok := got.(float64); ok {
				got = strconv.FormatFloat(n, 'f', -1, 64)
			}
			if m[1] != "*" {
				w.vars[m[1]] = fmt.Sprint(got)
			}
			return ""
		}
		if fmt.Sprint(got) == w.fill(want) && got != nil {
			return ""
		}
	default:
		if want == got {
			return ""
		}
	}
	return fmt.Sprintf("%s is %v, want %v", at, got, want)
}

func (w *world) matchObject(at string, want map[string]any, got any) string {
	g, ok := got.(map[string]any)
	if !ok {
		return fmt.Sprintf("%s is %v", at, got)
	}
	if _, open := want["..."]; !open {
		for k := range g {
			if _, ok := want[k]; !ok {
				return fmt.Sprintf("%s.%s is there", at, k)
			}
		}
	}
	for _, k := range slices.Sorted(maps.Keys(want)) {
		value, ok := g[k]
		if k == "..." {
			continue
		}
		if !ok {
			return fmt.Sprintf("%s.%s is not there", at, k)
		}
		if d := w.match(at+"."+k, want[k], value); d != "" {
			return d
		}
	}
	return ""
}
