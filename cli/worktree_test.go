package cli

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// checkout is a repository of the test.
type checkout struct {
	t   *testing.T
	dir string
}

// newCheckout makes one, for whose user git has no settings.
func newCheckout(t *testing.T) *checkout {
	t.Helper()
	for k, v := range map[string]string{"HOME": t.TempDir(), "XDG_CONFIG_HOME": "", "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": "/dev/null"} {
		t.Setenv(k, v)
	}
	c := &checkout{t, t.TempDir()}
	c.git("init", "-q", "-b", "main")
	return c
}

func (c *checkout) git(args ...string) string {
	c.t.Helper()
	cmd := exec.Command("git", append([]string{"-C", c.dir, "-c", "user.name=Ann", "-c", "user.email=ann@example.com", "-c", "protocol.file.allow=always"}, args...)...)
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); err != nil {
		c.t.Fatalf("git %q: %v: %s", args, err, said.String())
	}
	return out.String()
}

func (c *checkout) write(name, text string) {
	c.t.Helper()
	at := filepath.Join(c.dir, name)
	if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
		c.t.Fatal(err)
	}
	if err := os.WriteFile(at, []byte(text), 0o644); err != nil {
		c.t.Fatal(err)
	}
}

func (c *checkout) commit() {
	c.t.Helper()
	c.git("add", "-A")
	c.git("commit", "-q", "-m", "Work")
}

// take is takeTree of a folder of the checkout; nothing of the checkout may be
// another than before.
func (c *checkout) take(dir string) *worktree {
	c.t.Helper()
	state := func() string {
		var b strings.Builder
		err := filepath.WalkDir(filepath.Join(c.dir, ".git"), func(p string, e os.DirEntry, err error) error {
			if err == nil && e.Type().IsRegular() {
				var text []byte
				text, err = os.ReadFile(p)
				b.WriteString(p + "\n" + string(text) + "\n")
			}
			return err
		})
		if err != nil {
			c.t.Fatal(err)
		}
		return b.String()
	}
	before := state()
	t, err := takeTree(c.t.Context(), filepath.Join(c.dir, dir))
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(t.close)
	if state() != before {
		c.t.Error("the checkout's own files have changed")
	}
	return t
}

// holds lists what is in a tree.
func (c *checkout) holds(t *worktree) []string {
	c.t.Helper()
	out, err := t.git(c.t.Context(), nil, "ls-tree", "-r", "-z", t.commit)
	if err != nil {
		c.t.Fatal(err)
	}
	var l []string
	for _, e := range strings.Split(strings.TrimSuffix(out, "\x00"), "\x00") {
		about, name, _ := strings.Cut(e, "\t")
		mode, _, _ := strings.Cut(about, " ")
		l = append(l, mode+" "+name)
	}
	return l
}

func TestTakeTree(t *testing.T) {
	c := newCheckout(t)
	for _, name := range []string{"same", "changed", "deleted", "staged", "mode", "sub/deep/file"} {
		c.write(name, name)
	}
	c.write(".gitignore", "*.log\n")
	c.commit()
	c.write("changed", "new text")
	c.write("staged", "for the next commit")
	c.git("add", "staged")
	c.write("staged", "and changed again")
	c.write("new\nname", "n")
	c.write("sub/untracked", "u")
	c.write("noise.log", "ignored")
	if err := os.Remove(filepath.Join(c.dir, "deleted")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/nowhere", filepath.Join(c.dir, "link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(c.dir, "mode"), 0o755); err != nil {
		t.Fatal(err)
	}
	hook := filepath.Join(c.dir, ".git", "hooks", "post-index-change")
	if err := os.WriteFile(hook, []byte("#!/bin/sh\ntouch "+c.dir+"/hooked\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	w := c.take("sub/deep")
	want := []string{
		"100644 .gitignore", "100644 changed", "120000 link", "100755 mode", "100644 new\nname", "100644 same", "100644 staged",
		"100644 sub/deep/file", "100644 sub/untracked",
	}
	if got := c.holds(w); !slices.Equal(got, want) {
		t.Errorf("%q\nwant %q", got, want)
	}
	if text, err := w.git(t.Context(), nil, "show", w.commit+":staged"); err != nil || text != "and changed again" {
		t.Errorf("%q, %v", text, err)
	}
	head := strings.TrimSpace(c.git("rev-parse", "HEAD"))
	if about := "Working tree of main at " + head[:7] + " with 3 changed, 3 new, 1 deleted"; w.about != about {
		t.Errorf("%q, want %q", w.about, about)
	}
	said, err := w.git(t.Context(), nil, "log", "-1", "--format=%P %s %an", w.commit)
	if err != nil || said != head+" "+w.about+" Slipway\n" {
		t.Errorf("%q, %v", said, err)
	}
	if _, err := os.Lstat(filepath.Join(c.dir, "hooked")); err == nil {
		t.Error("a hook ran")
	}
	if !w.has(t.Context(), "sub/untracked") || w.has(t.Context(), "noise.log") || w.has(t.Context(), "*") {
		t.Error("has")
	}
}

func TestTakeTreeWithoutCommits(t *testing.T) {
	c := newCheckout(t)
	c.write("f", "1")
	w := c.take(".")
	if got := c.holds(w); !slices.Equal(got, []string{"100644 f"}) || w.about != "Working tree of main with 1 new" {
		t.Errorf("%q %q", got, w.about)
	}
	if out, err := w.git(t.Context(), nil, "log", "--format=%P", w.commit); err != nil || strings.TrimSpace(out) != "" {
		t.Errorf("%q, %v", out, err)
	}
}

func TestTakeTreeWithSubmodules(t *testing.T) {
	inner := newCheckout(t)
	inner.write("f", "1")
	inner.commit()
	c := &checkout{t, t.TempDir()}
	c.git("init", "-q", "-b", "main")
	c.git("submodule", "--quiet", "add", inner.dir, "lib/inner")
	c.commit()
	c.write("lib/inner/g", "not seen")
	if w := c.take("."); !slices.Equal(w.modules, []string{"lib/inner"}) {
		t.Errorf("%q", w.modules)
	}
	// A linked work tree has its own index and the objects of the other.
	other := filepath.Join(t.TempDir(), "linked")
	c.git("worktree", "add", "-q", other, "HEAD")
	w, err := takeTree(t.Context(), other)
	if err != nil {
		t.Fatal(err)
	}
	defer w.close()
	if got := c.holds(w); !slices.Equal(got, []string{"100644 .gitmodules", "160000 lib/inner"}) {
		t.Errorf("%q", got)
	}
}

func TestTakeTreeOfNoCheckout(t *testing.T) {
	newCheckout(t)
	if _, err := takeTree(t.Context(), t.TempDir()); err == nil || !strings.Contains(err.Error(), "is in no checkout of git") {
		t.Error(err)
	}
	bare := &checkout{t, t.TempDir()}
	bare.git("init", "-q", "--bare")
	if _, err := takeTree(t.Context(), bare.dir); err == nil {
		t.Error("a bare repository has a working tree")
	}
}

func TestProjectOf(t *testing.T) {
	t.Setenv("SLIPWAY_PROJECT", "")
	cl := NewClient("https://slipway.test:8443/", "x")
	for _, c := range []struct {
		flag    string
		remotes []string
		want    string // "" is an error
	}{
		{"a/b", nil, "a/b"},
		{"a", nil, ""},
		{"a/b/c", nil, ""},
		{"", nil, ""},
		{"", []string{"git@github.com:a/b.git", "https://github.com/git/a/b.git", "https://x:y@slipway.test:8443/git/acme/web.git"}, "acme/web"},
		{"", []string{"https://slipway.test:8443/git/acme/web"}, ""},
		{"", []string{"https://slipway.test:8443/git/acme/web/more.git"}, ""},
		{"other/one", []string{"https://slipway.test:8443/git/acme/web.git"}, "other/one"},
	} {
		r := localRun{project: c.flag}
		if got, err := r.projectOf(cl, c.remotes); got != c.want || (err == nil) != (c.want != "") {
			t.Errorf("%+v: %q, %v", c, got, err)
		}
	}
}

func TestVariablesOfARun(t *testing.T) {
	t.Setenv("GIVEN", "from outside")
	r := localRun{vars: []string{"A=1=2", "GIVEN", "EMPTY="}, secrets: []string{"GIVEN"}}
	l, err := r.variables()
	if err != nil || len(l) != 4 || l[0]["value"] != "1=2" || l[1]["value"] != "from outside" || l[2]["value"] != "" || l[3]["encrypted"] != true {
		t.Errorf("%v, %v", l, err)
	}
	for _, bad := range []localRun{{vars: []string{"NOT_THERE"}}, {secrets: []string{"NOT_THERE"}}, {secrets: []string{"A=1"}}} {
		if _, err := bad.variables(); err == nil {
			t.Errorf("%+v", bad)
		}
	}
}
