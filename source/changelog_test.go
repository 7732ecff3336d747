package source

import (
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

func TestChangelog(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	p := w.project("web")
	write := func(branch, path, text string) string {
		t.Helper()
		c, err := w.sources.Write(t.Context(), w.ann, p.ID, branch, path, []byte(text), "")
		must(t, err)
		return c.Revision
	}
	from := write("main", "stays", "1")
	old := write("main", "grüße \"x\".txt", "1")
	write("main", "grüße \"x\".txt", "2")
	to := write("main", "dir/new", "1")
	l, err := w.sources.Changes(t.Context(), p.ID, old, to)
	if err != nil || !slices.Equal(l.Added, []string{"dir/new"}) || !slices.Equal(l.Changed, []string{"grüße \"x\".txt"}) || len(l.Deleted) > 0 {
		t.Errorf("%q %v", l, err)
	}
	// The other way round what was added is deleted.
	if l, err = w.sources.Changes(t.Context(), p.ID, to, from); err != nil || len(l.Deleted) != 2 || len(l.Added)+len(l.Changed) > 0 {
		t.Errorf("%q %v", l, err)
	}
	if l, err = w.sources.Changes(t.Context(), p.ID, to, to); err != nil || len(l.Added)+len(l.Changed)+len(l.Deleted) > 0 {
		t.Errorf("%q %v", l, err)
	}
	if _, err := w.sources.Changes(t.Context(), p.ID, strings.Repeat("ab", 20), to); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
	if _, err := w.sources.Changes(t.Context(), p.ID, "HEAD", to); !errdefs.IsInvalidArgument(err) {
		t.Error(err)
	}
	for _, c := range []struct {
		from, to string
		limit, n int
	}{{from, to, 9, 3}, {from, to, 2, 2}, {old, to, 9, 2}, {to, from, 9, 0}, {strings.Repeat("ab", 20), to, 9, 0}} {
		l, err := w.sources.Between(t.Context(), p.ID, c.from, c.to, 0, c.limit)
		if err != nil || len(l) != c.n || c.n > 0 && l[0].Revision != to {
			t.Errorf("%+v: %+v %v", c, l, err)
		}
	}
}
