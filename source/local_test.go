package source

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"slipway/access"
)

// tree pushes the checkout as it is with what was not committed, and gives its
// commit.
func (c *clone) tree(to string) string {
	c.t.Helper()
	c.git("add", "-A")
	args := []string{"commit-tree", c.git("write-tree"), "-m", "working tree"}
	if head, err := c.try("rev-parse", "--verify", "-q", "HEAD"); err == nil {
		args = append(args, "-p", strings.TrimSpace(head))
	}
	hash := c.git(args...)
	c.git("push", "-q", to+"/local/"+hash, hash+":"+localRef)
	return hash
}

// TestWorkingTree: what is pushed to be run is there for that, with the objects of
// the project, and for nobody else; nothing of the project moves.
func TestWorkingTree(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	big := strings.Repeat("all work and no play ", 1<<15)
	s.c.write("big", big)
	s.c.write("gone", "x")
	s.c.git("tag", "-f", "v1", s.push("one"))
	head := s.push("one, tagged")
	events := len(s.pushes())
	s.c.write("a\nb", "new")
	must(t, os.Remove(filepath.Join(s.c.dir, "gone")))
	must(t, os.Symlink("big", filepath.Join(s.c.dir, "link")))
	s.c.write("run.sh", "#!/bin/sh\n")
	must(t, os.Chmod(filepath.Join(s.c.dir, "run.sh"), 0o755))
	hash := s.c.tree(s.at("web"))

	c, err := s.sources.Local(t.Context(), s.p.ID, hash)
	if err != nil || c.Revision != hash || c.Subject != "working tree" {
		t.Fatalf("%+v, %v", c, err)
	}
	for _, depth := range []int{0, 1} {
		s.dir = filepath.Join(t.TempDir(), "tree")
		must(t, os.MkdirAll(s.dir, 0o755))
		must(t, s.sources.Checkout(t.Context(), s.p.ID, CheckoutSpec{Revision: hash, Depth: depth, Dir: s.dir, Key: "tree", Fresh: true, Out: func(string) {}}))
		s.clean()
		if got, want := list(t, s.dir), list(t, s.c.dir); got != want {
			t.Errorf("depth %d:\n%s\nwant\n%s", depth, got, want)
		}
	}
	l, err := s.sources.Changes(t.Context(), s.p.ID, head, hash)
	if err != nil || len(l.Added) != 3 || len(l.Deleted) != 1 || len(l.Changed) != 0 {
		t.Errorf("%+v, %v", l, err)
	}
	if b, err := s.sources.File(t.Context(), s.p.ID, hash, "big"); err != nil || string(b) != big {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	// Only what is new was sent.
	var size int64
	must(t, filepath.Walk(s.sources.localPath(s.p.ID, hash), func(_ string, fi os.FileInfo, err error) error {
		if err == nil && fi.Mode().IsRegular() {
			size += fi.Size()
		}
		return err
	}))
	if size > 8<<10 {
		t.Errorf("%d bytes for one small file", size)
	}

	if _, err := s.sources.Resolve(t.Context(), s.p.ID, "", hash); !errdefs.IsNotFound(err) {
		t.Errorf("it is a revision of the project: %v", err)
	}
	other := newClone(t)
	if out, err := other.try("fetch", s.at("web"), hash); err == nil {
		t.Errorf("it was fetched: %s", out)
	}
	if out, err := other.try("fetch", s.at("web")+"/local/"+hash, localRef); err == nil {
		t.Errorf("it was fetched where it was pushed: %s", out)
	}
	if out := other.git("ls-remote", s.at("web")); strings.Contains(out, hash) || strings.Contains(out, "slipway") {
		t.Errorf("it is listed: %s", out)
	}
	if n := len(s.pushes()); n != events {
		t.Errorf("%d events more", n-events)
	}

	trees, err := s.sources.LocalTrees()
	if err != nil || len(trees) != 1 || trees[0].Commit != hash || trees[0].Project != s.p.ID || time.Since(trees[0].At) > time.Minute {
		t.Fatalf("%+v, %v", trees, err)
	}
	must(t, s.sources.RemoveLocal(trees[0]))
	if _, err := s.sources.Local(t.Context(), s.p.ID, hash); !errdefs.IsNotFound(err) {
		t.Errorf("after its end: %v", err)
	}
}

// TestWorkingTreeRefused: the address takes the one ref of the one commit that it
// names, of who may push and run.
func TestWorkingTreeRefused(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	s.c.write("f", "1")
	head := s.push("one")
	s.c.write("f", "2")
	hash := s.c.commit("two")
	at := s.at("web") + "/local/"
	for _, refs := range [][]string{{hash + ":refs/heads/main"}, {hash + ":refs/heads/new"}, {hash + ":refs/slipway/other"}, {hash + ":refs/tags/v"}} {
		if out, err := s.c.try(append([]string{"push", at + hash}, refs...)...); err == nil {
			t.Errorf("%s: %s", refs, out)
		}
	}
	if out, err := s.c.try("push", at+"nothing", hash+":"+localRef); err == nil {
		t.Errorf("no commit: %s", out)
	}
	// What is in the place of another commit is not that one.
	s.c.git("push", "-q", at+head, hash+":"+localRef)
	if _, err := s.sources.Local(t.Context(), s.p.ID, head); !errdefs.IsNotFound(err) {
		t.Errorf("a commit under another's name: %v", err)
	}
	if b, err := s.sources.File(t.Context(), s.p.ID, head, "f"); err != nil || string(b) != "1" {
		t.Errorf("what the project has: %q, %v", b, err)
	}
	_, token, err := s.access.CreateToken(t.Context(), s.ann, access.NewToken{Name: "push", Scopes: []access.Scope{access.RepositoryWrite}})
	must(t, err)
	if out, err := s.c.try("push", strings.Replace(at, s.token, token, 1)+hash, hash+":"+localRef); err == nil || !strings.Contains(out, "403") {
		t.Errorf("who may not run: %s", out)
	}
	r, err := http.Get(s.url + URL("acme", "web") + "/local/" + hash + "/info/refs?service=git-receive-pack")
	must(t, err)
	_ = r.Body.Close()
	if r.StatusCode != http.StatusUnauthorized {
		t.Errorf("a stranger: %d", r.StatusCode)
	}
}

// TestWorkingTreeOfALinkedProject: it lies beside the mirror, which nobody else may
// push to.
func TestWorkingTreeOfALinkedProject(t *testing.T) {
	t.Parallel()
	l := newLinked(t)
	l.c.write("f", strings.Repeat("f", 1<<16))
	one := l.push("one")
	l.c.write("g", "new")
	hash := l.c.tree(l.here.at("copy"))
	c, err := l.here.sources.Local(t.Context(), l.q.ID, hash)
	if err != nil || c.Revision != hash {
		t.Fatalf("%+v, %v", c, err)
	}
	l.out(hash, 0)
	if got := read(t, filepath.Join(l.tree, "g")); got != "new" {
		t.Errorf("%q", got)
	}
	if ch, err := l.here.sources.Changes(t.Context(), l.q.ID, one, hash); err != nil || len(ch.Paths()) != 1 {
		t.Errorf("%+v, %v", ch, err)
	}
}

// TestWorkingTreeWithoutCommits is one of a checkout, and of a project, that have
// none.
func TestWorkingTreeWithoutCommits(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	s.c.write("f", "1")
	hash := s.c.tree(s.at("web"))
	if _, err := s.sources.Local(t.Context(), s.p.ID, hash); err != nil {
		t.Fatal(err)
	}
	must(t, os.MkdirAll(s.dir, 0o755))
	must(t, s.sources.Checkout(t.Context(), s.p.ID, CheckoutSpec{Revision: hash, Dir: s.dir, Key: "tree", Out: func(string) {}}))
	if got := read(t, filepath.Join(s.dir, "f")); got != "1" {
		t.Errorf("%q", got)
	}
	if c, err := s.sources.Resolve(t.Context(), s.p.ID, "", "HEAD"); c != nil || err != nil {
		t.Errorf("the project has a commit: %+v, %v", c, err)
	}
}
