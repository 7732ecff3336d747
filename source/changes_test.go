package source

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

func TestChanges(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	p := w.project("web")
	c := newClone(t)
	c.git("remote", "add", "origin", w.at("web"))
	commit := func(name, text string) string {
		c.write(name, text)
		return c.commit(name)
	}
	push := func(how ...string) { c.git(append([]string{"push", "-q"}, how...)...) }
	changes := func(from, to string) string {
		t.Helper()
		l, err := w.sources.Changes(t.Context(), p.ID, from, to)
		must(t, err)
		return strings.Join(l.Paths(), " ")
	}
	first := commit("a", "1")
	second := commit("dir/b c", "1")
	push("origin", "main")
	if got := changes("", second); got != "a dir/b c" {
		t.Errorf("a first push: %q", got)
	}
	if got := changes(first, second); got != "dir/b c" {
		t.Errorf("one more: %q", got)
	}
	if got := changes(second, second); got != "" {
		t.Errorf("the same: %q", got)
	}
	// A merge has the files of both sides.
	c.git("checkout", "-q", "-b", "side", first)
	side := commit("side", "1")
	c.git("checkout", "-q", "main")
	third := commit("third", "1")
	c.git("merge", "-q", "-m", "merge", "side")
	merged := c.git("rev-parse", "HEAD")
	push("origin", "main")
	for from, want := range map[string]string{second: "side third", third: "side", side: "dir/b c third"} {
		if got := changes(from, merged); got != want {
			t.Errorf("the merge since %s: %q, want %q", from[:7], got, want)
		}
	}
	// A force-push leaves the old commit behind, and it can still be compared with.
	c.git("reset", "-q", "--hard", first)
	c.git("rm", "-q", "a")
	forced := commit("new", "1")
	push("--force", "origin", "main")
	if got := changes(merged, forced); got != "a dir/b c new side third" {
		t.Errorf("a force-push: %q", got)
	}
	gone := "0123456789012345678901234567890123456789"
	if _, err := w.sources.Changes(t.Context(), p.ID, gone, forced); !errdefs.IsNotFound(err) {
		t.Errorf("since a commit that is gone: %v", err)
	}
	if _, err := w.sources.Changes(t.Context(), p.ID, "main", forced); !errdefs.IsInvalidArgument(err) {
		t.Errorf("since a name: %v", err)
	}
	if _, err := w.sources.Changes(t.Context(), p.ID, "", gone); err == nil {
		t.Error("of a commit that is gone: no error")
	}
}

func TestChangesOfMirror(t *testing.T) {
	t.Parallel()
	l := newLinked(t)
	l.c.write("a", "1")
	first := l.push("1")
	l.c.write("b", "1")
	second := l.push("2")
	for from, want := range map[string]string{"": "a b", first: "b", second: ""} {
		got, err := l.here.sources.Changes(t.Context(), l.q.ID, from, second)
		if err != nil || strings.Join(got.Paths(), " ") != want {
			t.Errorf("since %q: %q, %v", from, got, err)
		}
	}
	if _, err := l.here.sources.Changes(t.Context(), l.q.ID, "0123456789012345678901234567890123456789", second); !errdefs.IsNotFound(err) {
		t.Errorf("since a commit that is gone: %v", err)
	}
}
