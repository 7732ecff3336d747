package source

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"slipway/access"
	"slipway/project"
)

func TestResolve(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	ask := func(branch, revision string) (*Commit, error) {
		return s.sources.Resolve(t.Context(), s.p.ID, branch, revision)
	}
	for _, branch := range []string{"", "main"} {
		if c, err := ask(branch, "HEAD"); c != nil || err != nil {
			t.Errorf("nothing yet: %v, %v", c, err)
		}
	}
	for _, q := range [][2]string{{"dev", "HEAD"}, {"", "main"}, {"", "0123456"}, {"", strings.Repeat("ab", 20)}} {
		if _, err := ask(q[0], q[1]); !errdefs.IsNotFound(err) {
			t.Errorf("%v of nothing: %v", q, err)
		}
	}
	one := s.push("one line\nof two\n\nand a body")
	two := s.push("two")
	s.c.git("push", "-q", s.at("web"), one+":refs/heads/feature/x", one+":refs/heads/"+two[:7]) // a branch that looks like a hash
	s.c.git("tag", "-a", "-m", "t", "v1.0", one)
	s.c.git("push", "-q", s.at("web"), "v1.0")
	for _, q := range []struct{ branch, revision, want string }{
		{"", "", two},
		{"", "HEAD", two},
		{"HEAD", "HEAD", two},
		{"main", "", two},
		{"feature/x", "HEAD", one},
		{"refs/heads/feature/x", "HEAD", one},
		{"", "main", two},
		{"", "feature/x", one},
		{"", "refs/heads/feature/x", one},
		{"", "v1.0", one},
		{"", "refs/tags/v1.0", one},
		{"", one, one},
		{"", one[:8], one},
		{"main", one, one},
		{"", two[:7], one},
		{"", " main ", two},
	} {
		c, err := ask(q.branch, q.revision)
		if err != nil || c.Revision != q.want {
			t.Errorf("%+v: %+v, %v", q, c, err)
		}
	}
	for _, q := range [][2]string{
		{"none", "HEAD"},
		{"", "none"},
		{"", "HEAD~1"},
		{"", "main^"},
		{"", "main@{1}"},
		{"", ":/two"},
		{"", "main:f"},
		{"", "-x"},
		{"", "--all"},
		{"", "a\nb"},
		{"", "refs/slipway/x"},
		{"", ".."},
		{"", strings.Repeat("ab", 20)},
		{"a b", "HEAD"},
		{"", "0"},
	} {
		if c, err := ask(q[0], q[1]); !errdefs.IsNotFound(err) {
			t.Errorf("%q: %v, %v", q, c, err)
		}
	}
	c, err := ask("", one)
	must(t, err)
	if c.Subject != "one line of two" || c.Message != "one line\nof two\n\nand a body\n" || c.Author != (Person{"Ann", "ann@example.com"}) ||
		!c.AuthorDate.Equal(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)) {
		t.Errorf("commit %+v", c)
	}
}

func TestReadAndWrite(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	p := w.project("web")
	write := func(branch, path, text string) (Commit, error) {
		return w.sources.Write(t.Context(), w.ann, p.ID, branch, path, []byte(text), "")
	}
	if c, err := w.sources.Read(t.Context(), w.ann, p.ID, "", "/"); err != nil || !c.Dir || len(c.Entries) != 0 {
		t.Errorf("nothing yet: %+v, %v", c, err)
	}
	if _, err := w.sources.Read(t.Context(), w.ann, p.ID, "", "x"); !errdefs.IsNotFound(err) {
		t.Errorf("file of nothing: %v", err)
	}
	one, err := write("", "dir/a \"b\"\\é.txt", "hello\n")
	must(t, err)
	if one.Subject != "Update dir/a \"b\"\\é.txt" || one.Author.Name != "ann" {
		t.Errorf("commit %+v", one)
	}
	two, err := write("main", "/run.sh", "x")
	must(t, err)
	three, err := write("dev", "run.sh", "y") // a branch of its own
	must(t, err)
	c, err := w.sources.Read(t.Context(), w.ann, p.ID, "main", "run.sh")
	if err != nil || string(c.Data) != "x" || c.Size != 1 {
		t.Errorf("%+v, %v", c, err)
	}
	c, err = w.sources.Read(t.Context(), w.ann, p.ID, three.Revision, "")
	if err != nil || fmt.Sprint(c.Entries) != "[{dir true false false 0 [] []} {run.sh false false false 1 [] []}]" {
		t.Errorf("%+v, %v", c, err)
	}
	c, err = w.sources.Read(t.Context(), w.ann, p.ID, "", "dir")
	if err != nil || len(c.Entries) != 1 || c.Entries[0].Path != "dir/a \"b\"\\é.txt" {
		t.Errorf("%+v, %v", c, err)
	}
	for _, missing := range []string{"nothing", "dir/nothing", "run.sh/x", "di*", ":(glob)**"} {
		if _, err := w.sources.Read(t.Context(), w.ann, p.ID, "", missing); !errdefs.IsNotFound(err) {
			t.Errorf("%s: %v", missing, err)
		}
	}
	for _, bad := range []string{"", "/", "..", "../x", "a/../../x", ".git/config", "a/.GIT/x", "a\nb", "a\x00b", strings.Repeat("a", 5000)} {
		if _, err := write("", bad, "x"); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if _, err := write("a..b", "x", "x"); !errdefs.IsInvalidArgument(err) {
		t.Errorf("branch: %v", err)
	}
	if _, err := write("", "dir", "x"); !errdefs.IsInvalidArgument(err) {
		t.Errorf("over a folder: %v", err)
	}
	// Gone, and gone already.
	if _, err := w.sources.Write(t.Context(), w.ann, p.ID, "dev", "run.sh", nil, "away"); err != nil {
		t.Error(err)
	}
	if _, err := w.sources.Write(t.Context(), w.ann, p.ID, "dev", "run.sh", nil, "away"); !errdefs.IsNotFound(err) {
		t.Errorf("removed twice: %v", err)
	}
	now := w.told(p)
	if now["refs/heads/main"] != two.Revision || len(w.pushes()) != 4 {
		t.Errorf("told %v", now)
	}
	// An executable file stays one.
	k := newClone(t)
	k.git("pull", "-q", w.at("web"), "main")
	must(t, os.Chmod(filepath.Join(k.dir, "run.sh"), 0o755))
	k.commit("mode")
	k.git("push", "-q", w.at("web"), "HEAD:main")
	_, err = write("main", "run.sh", "z")
	must(t, err)
	k.git("pull", "-q", w.at("web"), "main")
	if fi, err := os.Stat(filepath.Join(k.dir, "run.sh")); err != nil || fi.Mode()&0o100 == 0 {
		t.Errorf("mode %v, %v", fi, err)
	}

	_, reads, err := w.access.CreateToken(t.Context(), w.ann, access.NewToken{Name: "r", Scopes: []access.Scope{access.RepositoryRead}})
	must(t, err)
	reader, err := w.access.Authenticate(t.Context(), reads, "")
	must(t, err)
	if _, err := w.sources.Read(t.Context(), reader, p.ID, "", "run.sh"); err != nil {
		t.Errorf("reader reads: %v", err)
	}
	if _, err := w.sources.Write(t.Context(), reader, p.ID, "", "x", []byte("x"), ""); !errdefs.IsPermissionDenied(err) {
		t.Errorf("reader writes: %v", err)
	}
	if err := w.sources.SetRemote(t.Context(), reader, p.ID, &Remote{URL: "https://example.com/x"}); !errdefs.IsPermissionDenied(err) {
		t.Errorf("reader links: %v", err)
	}
	for _, err := range []error{
		func() error { _, err := w.sources.Refs(t.Context(), access.Actor{}, p.ID); return err }(),
		func() error { _, err := w.sources.Read(t.Context(), access.Actor{}, p.ID, "", ""); return err }(),
		func() error {
			_, err := w.sources.Write(t.Context(), access.Actor{}, p.ID, "", "x", nil, "")
			return err
		}(),
	} {
		if !errdefs.IsNotFound(err) {
			t.Errorf("a stranger: %v", err)
		}
	}
}

func TestTidy(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	p := w.project("web")
	for i := range manyPacks + 5 {
		_, err := w.sources.Write(t.Context(), w.ann, p.ID, "", fmt.Sprintf("f%d", i%7), []byte(fmt.Sprint(i)), "")
		must(t, err)
	}
	count := func() int {
		l, _ := filepath.Glob(filepath.Join(w.sources.repoPath(p.ID), "objects/pack/*.pack"))
		return len(l)
	}
	if count() < manyPacks {
		t.Fatalf("%d packs", count())
	}
	dead := filepath.Join(w.sources.repoPath(p.ID), "objects", "tmp_objdir-incoming-abc")
	must(t, os.Mkdir(dead, 0o700))
	old := time.Now().Add(-48 * time.Hour)
	must(t, os.Chtimes(dead, old, old))
	w.sources.tidy(t.Context())
	if count() > 5 {
		t.Errorf("%d packs after tidying", count())
	}
	if _, err := os.Stat(dead); err == nil {
		t.Error("half a push is still there")
	}
	repo := &clone{t, w.sources.repoPath(p.ID)}
	repo.git("fsck", "--full", "--strict")
	w.told(p)
}

// A deleted project is kept for a week, and comes back whole until then.
func TestRemovedProject(t *testing.T) {
	t.Parallel()
	l := newLinked(t)
	l.c.write("f", "1")
	l.out(l.push("1"), 1)
	for _, p := range []struct {
		w  *world
		id project.ID
	}{{l.shop.world, l.shop.p.ID}, {l.here, l.q.ID}} { // with a repository, and with a mirror alone
		here := func() []string {
			list, _ := filepath.Glob(filepath.Join(p.w.sources.cfg.Dir, "*", "*"+string(p.id)+"*"))
			return slices.DeleteFunc(list, func(name string) bool { return strings.HasSuffix(name, ".deleted") })
		}
		look := func(ago time.Duration, what string, kept bool) {
			t.Helper()
			must(t, p.w.sources.removeGone(t.Context(), p.id, time.Now().Add(ago)))
			if got := here(); (len(got) > 0) != kept {
				t.Errorf("%s: %q", what, got)
			}
		}
		if got := p.w.sources.all(); !slices.Equal(got, []project.ID{p.id}) {
			t.Errorf("found %q, want %q", got, p.id)
		}
		must(t, p.w.projects.Delete(t.Context(), p.w.ann, p.id))
		look(0, "deleted", true)
		look(oldProject+time.Hour, "as long as it can be restored", true)
		_, err := p.w.projects.Restore(t.Context(), p.w.ann, p.id)
		must(t, err)
		look(0, "restored", true)
		must(t, p.w.projects.Delete(t.Context(), p.w.ann, p.id))
		_, err = p.w.projects.Remove(t.Context(), -time.Second)
		must(t, err)
		look(oldProject+time.Hour, "restored meanwhile, so the week begins anew", true)
		look(oldProject-time.Hour, "a week is not over", true)
		look(oldProject+time.Hour, "removed", false)
		if got := p.w.sources.all(); len(got) != 0 {
			t.Errorf("left: %q", got)
		}
	}
}

// What an orphan of a killed server still does is waited for.
func TestLockOfOrphan(t *testing.T) {
	t.Parallel()
	l := locks{held: map[string]*held{}}
	other := locks{held: map[string]*held{}} // as another process has it
	name := filepath.Join(t.TempDir(), "lock")
	a, err := l.take(t.Context(), name, false)
	must(t, err)
	if unclean, err := a.begin(pusher{7, "dev"}); unclean || err != nil {
		t.Errorf("%v, %v", unclean, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := other.take(ctx, name, false); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("taken: %v", err)
	}
	if _, err := l.take(ctx, name, true); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("shared beside exclusive: %v", err)
	}
	a.release()
	b, err := other.take(t.Context(), name, false)
	must(t, err)
	if by, ok := b.unclean(); by != (pusher{7, "dev"}) || !ok {
		t.Errorf("begun by %+v, %v", by, ok)
	}
	b.end()
	b.release()
	c, err := l.take(t.Context(), name, true)
	must(t, err)
	d, err := l.take(t.Context(), name, true)
	must(t, err)
	if _, ok := c.unclean(); ok {
		t.Error("unclean")
	}
	c.release()
	d.release()
	if len(l.held)+len(other.held) != 0 {
		t.Error("locks are kept for ever")
	}
}

func TestOwnIsMadeOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	p := w.project("web")
	errs := make(chan error, 8)
	for range cap(errs) {
		go func() { _, err := w.sources.own(p.ID); errs <- err }()
	}
	for range cap(errs) {
		must(t, <-errs)
	}
	if left, _ := filepath.Glob(filepath.Join(w.sources.cfg.Dir, "repos", ".new-*")); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
	for _, bad := range []project.ID{"", "../x", "a/b", ".hidden"} {
		if _, err := w.sources.own(bad); !errdefs.IsNotFound(err) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// What is remembered of refs is never older than the refs.
func TestRefsAreAsTheyAre(t *testing.T) {
	w := newWorld(t, Config{})
	p := w.project("remembered")
	dir, err := w.sources.own(p.ID)
	must(t, err)
	git := (&clone{t, dir}).git
	tree := git("write-tree")
	commit := func(text string) string { return git("commit-tree", "-m", text, tree) }
	is := func(name, want string) {
		t.Helper()
		for range 2 { // the second time from memory
			tips, err := w.sources.tips(t.Context(), dir)
			if err != nil || tips[name].commit != want {
				t.Fatalf("%s is %+v, not %s: %v", name, tips[name], want, err)
			}
			c, err := w.sources.Resolve(t.Context(), p.ID, "", name)
			if want == "" && !errdefs.IsNotFound(err) || want != "" && (err != nil || c.Revision != want) {
				t.Fatalf("%s resolves to %+v, not %s: %v", name, c, want, err)
			}
		}
	}
	one, two := commit("one"), commit("two")
	git("update-ref", "refs/heads/main", one)
	is("refs/heads/main", one)
	if w.sources.known(dir) == nil {
		t.Error("nothing is remembered")
	}
	git("update-ref", "refs/heads/main", two)
	is("refs/heads/main", two)
	git("tag", "-a", "-m", "t", "v1", one)
	is("refs/tags/v1", one)
	git("pack-refs", "--all")
	is("refs/heads/main", two)
	git("update-ref", "refs/heads/main", one)
	is("refs/heads/main", one)
	git("pack-refs", "--all")
	is("refs/heads/main", one)
	git("tag", "-f", "v1", two)
	git("pack-refs", "--all")
	is("refs/tags/v1", two)
	git("update-ref", "-d", "refs/tags/v1")
	is("refs/tags/v1", "")
}
