package source

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/errdefs"

	"slipway/access"
	"slipway/project"
)

func TestEdit(t *testing.T) {
	t.Parallel()
	full := false
	w := newWorld(t, Config{Room: func() error {
		if full {
			return errdefs.ErrResourceExhausted
		}
		return nil
	}})
	p := w.project("web")
	edit := func(e Edit) (Commit, error) { return w.sources.Edit(t.Context(), w.ann, p.ID, e) }
	one, err := edit(Edit{Path: "/a", Data: []byte{}, Message: "first", Expect: NoFile})
	must(t, err)
	if one.Message != "first" || w.told(p)["refs/heads/main"] != one.Revision {
		t.Errorf("%+v", one)
	}
	_, err = edit(Edit{Branch: "main", Path: "d/e/f", Data: []byte("x"), Expect: NoFile})
	must(t, err)
	k := newClone(t)
	k.git("pull", "-q", w.at("web"), "main")
	must(t, os.Symlink("a", k.dir+"/link"))
	k.git("add", "-A")
	k.commit("a link")
	k.git("push", "-q", w.at("web"), "HEAD:main")
	for _, c := range []struct {
		e    Edit
		is   func(error) bool
		want string
	}{
		{Edit{Path: "a", Data: []byte("x"), Expect: NoFile}, errdefs.IsInvalidArgument, "path: a is there already"},
		{Edit{Path: "d/e", Data: []byte("x"), Expect: NoFile}, errdefs.IsInvalidArgument, "path: d/e is a folder"},
		{Edit{Path: "d/e"}, errdefs.IsInvalidArgument, "path: d/e is a folder"},
		{Edit{Path: "a/b", Data: []byte("x"), Expect: NoFile}, errdefs.IsInvalidArgument, "path: a is no folder"},
		{Edit{Path: "d/e/f/g/h", Data: []byte("x")}, errdefs.IsInvalidArgument, "path: d/e/f is no folder"},
		{Edit{Path: "link/x", Data: []byte("x")}, errdefs.IsInvalidArgument, "path: link is no folder"},
		{Edit{Path: "b", Data: []byte("x"), Expect: AFile}, errdefs.IsNotFound, "b on main"},
		{Edit{Path: "b", Expect: AFile}, errdefs.IsNotFound, "b on main"},
		{Edit{Branch: "dev", Path: "b", Data: []byte("x"), Expect: NoFile}, errdefs.IsNotFound, `branch "dev"`},
		{Edit{Path: "x", Data: []byte("x"), Message: strings.Repeat("é", 4097)}, errdefs.IsInvalidArgument, "message: must be at most 4096"},
		{Edit{Path: "x", Data: []byte("x"), Message: "a\x00b"}, errdefs.IsInvalidArgument, "message: must not contain NUL"},
		{Edit{Branch: "a..b", Path: "../x", Data: make([]byte, maxContent+1)}, errdefs.IsInvalidArgument, "branch: is not the name of a branch; path: is not a path inside the repository; content: is larger"},
	} {
		if _, err := edit(c.e); !c.is(err) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v", c.e.Path, err)
		}
	}
	now, err := edit(Edit{Path: "a", Data: []byte("y"), Expect: AFile})
	must(t, err)
	if got, err := w.sources.Read(t.Context(), w.ann, p.ID, now.Revision, "a"); err != nil || string(got.Data) != "y" {
		t.Errorf("%+v, %v", got, err)
	}
	got, err := w.sources.Read(t.Context(), w.ann, p.ID, "", "link")
	if err != nil || !got.Link || string(got.Data) != "a" {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := edit(Edit{Path: "d/e/f", Expect: AFile}); err != nil {
		t.Error(err)
	}
	full = true
	if _, err := edit(Edit{Path: "n", Data: []byte("x")}); !errdefs.IsResourceExhausted(err) {
		t.Errorf("without room: %v", err)
	}
	if _, err := edit(Edit{Path: "a"}); err != nil {
		t.Errorf("removed without room: %v", err)
	}
}

func TestCommits(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	p := w.project("web")
	if l, err := w.sources.Commits(t.Context(), w.ann, p.ID, "", "", 0, 10); err != nil || len(l) != 0 {
		t.Errorf("of nothing: %v, %v", l, err)
	}
	if _, err := w.sources.Detail(t.Context(), w.ann, p.ID, "HEAD"); !errdefs.IsNotFound(err) {
		t.Errorf("of nothing: %v", err)
	}
	c := newClone(t)
	c.write("a b.txt", "1\n2\n3\n")
	c.write("bin", "\x00\x01")
	one := c.commit("one")
	c.write("a b.txt", "1\n2\n4\n5\n")
	c.write("sub/\"é\"", strings.Repeat("the same\n", 20))
	two := c.commit("two")
	c.git("mv", "sub/\"é\"", "moved")
	c.git("rm", "-q", "bin")
	three := c.commit("three")
	c.git("checkout", "-q", "-b", "side", one)
	c.write("side", "x\n")
	side := c.commit("side")
	c.git("checkout", "-q", "-")
	c.git("checkout", "-q", "-B", "main", three)
	c.git("merge", "-q", "-m", "merged", "side")
	merged := c.git("rev-parse", "HEAD")
	c.git("push", "-q", w.at("web"), "HEAD:main")
	list := func(revision, path string, skip, limit int) (l []string) {
		t.Helper()
		all, err := w.sources.Commits(t.Context(), w.ann, p.ID, revision, path, skip, limit)
		must(t, err)
		for _, c := range all {
			l = append(l, c.Subject)
		}
		return l
	}
	if l := list(three, "", 0, 10); fmt.Sprint(l) != "[three two one]" {
		t.Errorf("%v", l)
	}
	if l := list(three, "", 1, 1); fmt.Sprint(l) != "[two]" {
		t.Errorf("%v", l)
	}
	if l := list("", "a b.txt", 0, 10); fmt.Sprint(l) != "[two one]" {
		t.Errorf("%v", l)
	}
	if l := list("", "*", 0, 10); len(l) != 0 {
		t.Errorf("a pattern: %v", l)
	}
	if l := list("", "", 100, 10); len(l) != 0 {
		t.Errorf("beyond the end: %v", l)
	}
	for revision, want := range map[string]string{
		one:    "[] 3+0- A a b.txt 3+0- @@ -0,0 +1,3 @@;A bin 0+0- ;",
		two:    "[" + one + "] 22+1- M a b.txt 2+1- @@ -1,3 +1,4 @@;A sub/\"é\" 20+0- @@ -0,0 +1,20 @@;",
		three:  "[" + two + "] 0+0- D bin 0+0- ;R moved 0+0- ;",
		merged: "[" + three + " " + side + "] 1+0- A side 1+0- @@ -0,0 +1 @@;",
	} {
		d, err := w.sources.Detail(t.Context(), w.ann, p.ID, revision)
		must(t, err)
		got := fmt.Sprintf("%v %d+%d- ", d.Parents, d.Added, d.Removed)
		for _, f := range d.Files {
			first, _, _ := strings.Cut(f.Patch, "\n")
			got += fmt.Sprintf("%c %s %d+%d- %s;", f.Status, f.Path, f.Added, f.Removed, first)
		}
		if got != want {
			t.Errorf("%s:\n%s\nwant\n%s", d.Subject, got, want)
		}
	}
	c.write("large", strings.Repeat("x", maxPatch+1))
	large := c.commit("large")
	c.git("push", "-q", w.at("web"), "HEAD:main")
	if d, err := w.sources.Detail(t.Context(), w.ann, p.ID, large); err != nil || len(d.Files) != 1 || d.Files[0].Patch != "" || d.Added != 1 {
		t.Errorf("%v, %v", d.Files, err)
	}
	for _, ask := range []string{"nothing", "--all", "HEAD~1", strings.Repeat("12", 20)} {
		if _, err := w.sources.Detail(t.Context(), w.ann, p.ID, ask); !errdefs.IsNotFound(err) {
			t.Errorf("%s: %v", ask, err)
		}
		if _, err := w.sources.Commits(t.Context(), w.ann, p.ID, ask, "", 0, 10); !errdefs.IsNotFound(err) {
			t.Errorf("%s: %v", ask, err)
		}
	}
	if _, err := w.sources.Commits(t.Context(), access.Actor{}, p.ID, "", "", 0, 10); !errdefs.IsNotFound(err) {
		t.Errorf("a stranger: %v", err)
	}
	if _, err := w.sources.Commits(t.Context(), w.ann, p.ID, "", "../x", 0, 10); !errdefs.IsInvalidArgument(err) {
		t.Errorf("path: %v", err)
	}
}

// writeChild is the test program as a server that writes a file and is killed.
func writeChild(args []string) bool {
	if len(args) != 5 || args[1] != "write-child" {
		return false
	}
	w := &world{t: &testing.T{}, dir: args[2]}
	w.open(Config{})
	by, err := w.access.Authenticate(context.Background(), args[3], "")
	if err == nil {
		_, err = w.sources.Write(context.Background(), by, project.ID(args[4]), "", "f", []byte("x"), "")
	}
	if err == nil {
		err = w.sources.CreateBranch(context.Background(), by, project.ID(args[4]), "other", "")
	}
	fmt.Println("not killed", err)
	return true
}

// TestKilledWhileWriting: what a killed server has committed is told by the next.
func TestKilledWhileWriting(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	p := w.project("web")
	must(t, w.db.Close())
	self, err := os.Executable()
	must(t, err)
	for i, place := range []string{"source: a file is committed", "source: refs have moved", "source: the push is told", "source: a branch is made or removed"} {
		branches, pushes := 1, i+1
		if i == 3 { // a commit, and a branch
			branches, pushes = 2, 5
		}
		cmd := exec.Command(self, "write-child", w.dir, w.token, string(p.ID))
		cmd.Env = append(os.Environ(), "SLIPWAY_CRASH="+place)
		out, err := cmd.StdoutPipe()
		must(t, err)
		must(t, cmd.Start())
		said, _ := bufio.NewReader(out).ReadString('\n')
		_ = cmd.Wait()
		if s, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || s.Signal() != syscall.SIGKILL {
			t.Fatalf("%s: the server ended with %v: %s", place, cmd.ProcessState, said)
		}
		w.again()
		if now := w.told(p); len(now) != branches || len(w.pushes()) != pushes {
			t.Errorf("%s: %v, %d pushes", place, now, len(w.pushes()))
		}
		must(t, w.db.Close())
	}
	w.again()
}

// Branches are made and removed as by a push.
func TestBranches(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	p := w.project("web")
	ctx := t.Context()
	if err := w.sources.CreateBranch(ctx, w.ann, p.ID, "early", ""); !errdefs.IsNotFound(err) {
		t.Errorf("in an empty repository: %v", err)
	}
	first, err := w.sources.Write(ctx, w.ann, p.ID, "main", "f", []byte("1"), "")
	must(t, err)
	_, err = w.sources.Write(ctx, w.ann, p.ID, "main", "f", []byte("2"), "")
	must(t, err)
	must(t, w.sources.CreateBranch(ctx, w.ann, p.ID, "feature/old", first.Revision[:10]))
	if c, err := w.sources.Resolve(ctx, p.ID, "feature/old", "HEAD"); err != nil || c.Revision != first.Revision {
		t.Errorf("%+v %v", c, err)
	}
	for name, is := range map[string]func(error) bool{
		"main": errdefs.IsAlreadyExists, "feature": errdefs.IsAlreadyExists, "feature/old/x": errdefs.IsAlreadyExists, "a..b": errdefs.IsInvalidArgument, "": errdefs.IsInvalidArgument, "HEAD": errdefs.IsInvalidArgument, "refs/heads/q": errdefs.IsInvalidArgument,
	} {
		if err := w.sources.CreateBranch(ctx, w.ann, p.ID, name, ""); !is(err) {
			t.Errorf("make %q: %v", name, err)
		}
	}
	if err := w.sources.CreateBranch(ctx, w.ann, p.ID, "x", "nothing"); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
	for name, is := range map[string]func(error) bool{"main": errdefs.IsFailedPrecondition, "none": errdefs.IsNotFound, "a..b": errdefs.IsNotFound} {
		if err := w.sources.DeleteBranch(ctx, w.ann, p.ID, name); !is(err) {
			t.Errorf("remove %q: %v", name, err)
		}
	}
	must(t, w.sources.DeleteBranch(ctx, w.ann, p.ID, "feature/old"))
	if l := w.pushes(); len(l) != 4 {
		t.Errorf("%q", l)
	}
}
