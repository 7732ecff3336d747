package buddy

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
)

// TestExchanges replays testdata/*.txtar. An exchange is a section "request"
// (method, path, headers, an empty line, body) and a section "reply": the
// status and what the answer must hold. In a reply <name> stands for any value
// and gives it that name, <*> for any; in what follows <name> is that value. A
// section "wait" names an execution whose end is waited for.
func TestExchanges(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatal("no exchanges", err)
	}
	for _, file := range files {
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
			w.project("company-website", "Dockerfile", "FROM scratch\nCOPY Dockerfile /\n", "dir/Dockerfile", "FROM scratch\nCOPY Dockerfile /\n",
				"path_to_secret", "hush-hush")
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
	q.Header.Set("Authorization", "Bearer "+w.token)
	for _, l := range strings.Split(rest, "\n") {
		if name, value, ok := strings.Cut(l, ": "); ok {
			q.Header.Set(name, value)
			if value == "-" {
				q.Header.Del(name)
			}
		}
	}
	rec := httptest.NewRecorder()
	w.h.ServeHTTP(rec, q)
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
		if name, value, ok := strings.Cut(l, ": "); ok && rec.Header().Get(name) != value && (value != "<*>" || rec.Header().Get(name) == "") {
			w.t.Errorf("%s: %s is %q, want %q", at, name, rec.Header().Get(name), value)
		}
	}
	if body = strings.TrimSpace(body); body == "" {
		return
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
		w.t.Fatalf("%s: %s\nin %s", at, diff, indent(rec.Body.Bytes()))
	}
}

func indent(b []byte) string {
	var o bytes.Buffer
	_ = json.Indent(&o, b, "", "  ")
	return o.String()
}

// match tells where got lacks what is wanted; members that are not named do not
// count.
func (w *world) match(at string, want, got any) string {
	switch want := want.(type) {
	case map[string]any:
		g, ok := got.(map[string]any)
		if !ok {
			return fmt.Sprintf("%s is %v", at, got)
		}
		for _, naming := range []bool{true, false} { // names first, others may hold them
			for k, v := range want {
				value, ok := g[k]
				if s, is := v.(string); !ok {
					return fmt.Sprintf("%s.%s is not there", at, k)
				} else if (is && placeholder.FindString(s) == s && s != "") != naming {
					continue
				}
				if d := w.match(at+"."+k, v, value); d != "" {
					return d
				}
			}
		}
		return ""
	case []any:
		g, ok := got.([]any)
		if !ok || len(g) != len(want) {
			return fmt.Sprintf("%s is %v, want %d elements", at, got, len(want))
		}
		for i := range want {
			if d := w.match(fmt.Sprintf("%s[%d]", at, i), want[i], g[i]); d != "" {
				return d
			}
		}
		return ""
	case string:
		if m := placeholder.FindStringSubmatch(want); m != nil && m[0] == want {
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
