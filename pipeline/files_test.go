package pipeline

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"slipway/access"
)

func TestFiles(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	w.commit("tracked", "of the commit")
	f, err := NewFiles(w.Pipelines, w.eng)
	w.must(err)
	p := w.pipeline(Pipeline{}, sh("true"))
	ctx := t.Context()
	put := func(name, text string, isNew bool) error {
		return f.Put(ctx, w.admin, p.ID, name, []byte(text), isNew)
	}
	if d, err := f.Get(ctx, w.admin, p.ID, ""); err != nil || !d.Dir || len(d.Entries) != 0 {
		t.Errorf("nothing yet: %+v, %v", d, err)
	}
	if err := put("a", "x", false); !errdefs.IsNotFound(err) {
		t.Errorf("of nothing: %v", err)
	}
	w.must(put("/static/file", "by hand", true))
	w.must(put("empty", "", true))
	w.must(put("static/file", "by hand, again", false))
	dir, err := w.eng.Dir(ctx, p.ID.Volume())
	w.must(err)
	outside := filepath.Join(t.TempDir(), "secret")
	w.must(os.WriteFile(outside, []byte("of the host"), 0o600))
	w.must(os.WriteFile(filepath.Join(dir, "left"), nil, 0o755))
	w.must(os.Symlink(outside, filepath.Join(dir, "out")))
	w.must(os.Symlink(filepath.Dir(outside), filepath.Join(dir, "updir")))
	w.must(unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600))

	for name, want := range map[string]string{
		"static/file": "by hand, again", "empty": "", "out": "-> " + outside, "updir": "-> " + filepath.Dir(outside),
		"static": "[static/file]", "": "[empty fifo left out static updir]",
	} {
		got, err := f.Get(ctx, w.admin, p.ID, name)
		s := string(got.Data)
		if got.Link {
			s = "-> " + got.Target
		}
		if got.Dir {
			var l []string
			for _, e := range got.Entries {
				l = append(l, e.Path)
			}
			s = fmt.Sprint(l)
		}
		if err != nil || s != want {
			t.Errorf("%s: %q, %v", name, s, err)
		}
	}
	for name, is := range map[string]func(error) bool{
		"nothing": errdefs.IsNotFound, "updir/secret": errdefs.IsNotFound, "empty/x": errdefs.IsNotFound, "../x": errdefs.IsInvalidArgument,
		"a/../b": errdefs.IsInvalidArgument, "a\x00": errdefs.IsInvalidArgument, "fifo": errdefs.IsInvalidArgument, strings.Repeat("a", 300): errdefs.IsInvalidArgument,
	} {
		if _, err := f.Get(ctx, w.admin, p.ID, name); !is(err) {
			t.Errorf("get %q: %v", name, err)
		}
	}
	for name, is := range map[string]func(error) bool{
		"": errdefs.IsInvalidArgument, ".": errdefs.IsInvalidArgument, ".git/config": errdefs.IsInvalidArgument, "x/.GIT/y": errdefs.IsInvalidArgument, "static": errdefs.IsInvalidArgument,
		"empty": errdefs.IsInvalidArgument, "empty/x": errdefs.IsInvalidArgument, "updir/x": func(err error) bool { return err != nil },
	} {
		if err := put(name, "x", true); !is(err) {
			t.Errorf("put %q: %v", name, err)
		}
	}
	if err := f.Put(ctx, w.admin, p.ID, "big", make([]byte, maxFile+1), true); !errdefs.IsInvalidArgument(err) {
		t.Errorf("too big: %v", err)
	}
	// A link is replaced, not followed; a mode stays.
	w.must(put("out", "mine", false))
	if b, err := os.ReadFile(outside); err != nil || string(b) != "of the host" {
		t.Errorf("%s, %v", b, err)
	}
	w.must(put("left", "x", false))
	if st, err := os.Lstat(filepath.Join(dir, "left")); err != nil || st.Mode().Perm() != 0o755 {
		t.Errorf("%v, %v", st, err)
	}
	if _, err := os.Lstat(filepath.Join(dir, upload)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is left: %v", upload, err)
	}

	// Cleared, what was put by hand stays; emptied, it does not.
	w.must(os.WriteFile(filepath.Join(dir, "static", "junk"), nil, 0o600))
	w.must(f.Delete(ctx, w.admin, p.ID, "left"))
	x := w.wait(w.start(p, Start{ClearCache: true}))
	names := func() string {
		t.Helper()
		l, err := f.Search(ctx, w.admin, p.ID, "", "")
		w.must(err)
		var s []string
		for _, m := range l {
			s = append(s, m.Path)
		}
		return fmt.Sprint(s)
	}
	if got := names(); !strings.HasPrefix(got, "[empty out") || !strings.Contains(got, "static/file") || strings.Contains(got, "junk") || !strings.Contains(got, "tracked") {
		t.Errorf("cleared by %s: %s", w.words(x), got)
	}
	w.wait(w.start(p, Start{Refresh: true}))
	if got := names(); strings.Contains(got, "static") || strings.Contains(got, "empty") || !strings.Contains(got, "tracked") {
		t.Errorf("refreshed: %s", got)
	}

	_, reads, err := w.access.CreateToken(ctx, w.admin, access.NewToken{Name: "r", Scopes: []access.Scope{access.ExecutionRun}})
	w.must(err)
	reader, err := w.access.Authenticate(ctx, reads, "")
	w.must(err)
	for by, is := range map[*access.Actor]func(error) bool{&reader: errdefs.IsPermissionDenied, {}: errdefs.IsNotFound} {
		_, get := f.Get(ctx, *by, p.ID, "")
		_, search := f.Search(ctx, *by, p.ID, "", "")
		for _, err := range []error{get, search, f.Put(ctx, *by, p.ID, "x", nil, true), f.Delete(ctx, *by, p.ID, "x")} {
			if !is(err) {
				t.Errorf("without a right: %v", err)
			}
		}
	}
}

// Nothing is changed under an execution.
func TestFilesOfARun(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	f, err := NewFiles(w.Pipelines, w.eng)
	w.must(err)
	p := w.pipeline(Pipeline{}, sh("sleep 1000"))
	w.must(f.Put(t.Context(), w.admin, p.ID, "a", []byte("x"), true))
	x := w.start(p, Start{})
	w.until("it runs", func() bool {
		now, err := w.Execution(t.Context(), w.admin, x.ID)
		return err == nil && now.Status == InProgress
	})
	for what, err := range map[string]error{
		"put": f.Put(t.Context(), w.admin, p.ID, "a", []byte("y"), false), "delete": f.Delete(t.Context(), w.admin, p.ID, "a"),
	} {
		if !errdefs.IsConflict(err) || !strings.Contains(err.Error(), "execution 1") {
			t.Errorf("%s: %v", what, err)
		}
	}
	if got, err := f.Get(t.Context(), w.admin, p.ID, "a"); err != nil || string(got.Data) != "x" {
		t.Errorf("%+v, %v", got, err)
	}
	_, err = w.Operate(t.Context(), w.admin, x.ID, OpCancel)
	w.must(err)
	w.wait(x)
	w.must(f.Delete(t.Context(), w.admin, p.ID, "a"))
}

func TestSearch(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		pattern string
		is, not []string
	}{
		{"*.txt", []string{"a.txt", ".txt"}, []string{"d/a.txt", "a.txt.x"}},
		{"**/*.txt", []string{"a.txt", "d/a.txt", "d/e/a.txt"}, []string{"a.txtx", "d/a"}},
		{"/d/**", []string{"d/a", "d/e/f"}, []string{"d", "x/d/a"}},
		{"**", []string{"a", "d/e/f"}, nil},
		{"d/?/[x]*", []string{"d/a/[x]", "d/é/[x]y"}, []string{"d/ab/[x]", "d/a/x"}},
		{"a/**/b", []string{"a/b", "a/c/b", "a/c/d/b"}, []string{"a/bc/b/c", "b"}},
		{strings.Repeat("**/a/", 40) + "b", nil, []string{strings.Repeat("a/", 1000)}},
	} {
		m, err := pathPattern(c.pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range c.is {
			if !m.MatchString(name) {
				t.Errorf("%s does not match %s", c.pattern, name)
			}
		}
		for _, name := range c.not {
			if m.MatchString(name) {
				t.Errorf("%s matches %s", c.pattern, name)
			}
		}
	}
	w := newWorld(t, Config{})
	f, err := NewFiles(w.Pipelines, w.eng)
	w.must(err)
	p := w.pipeline(Pipeline{})
	if l, err := f.Search(t.Context(), w.admin, p.ID, "**", "x"); err != nil || len(l) != 0 {
		t.Errorf("of nothing: %v, %v", l, err)
	}
	for name, text := range map[string]string{"a": "one\nfind me\nthree\nfind me, too", "b": "\x00find me", "d/c": "find\nme"} {
		w.must(f.Put(t.Context(), w.admin, p.ID, name, []byte(text), true))
	}
	l, err := f.Search(t.Context(), w.admin, p.ID, "", "find me")
	if err != nil || fmt.Sprint(l) != "[{a [{2 find me} {4 find me, too}]}]" {
		t.Errorf("%v, %v", l, err)
	}
	if _, err := f.Search(t.Context(), w.admin, p.ID, strings.Repeat("x", 256), ""); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a long pattern: %v", err)
	}
}
