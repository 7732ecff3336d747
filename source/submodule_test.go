package source

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"slipway/access"
	"slipway/project"
	"slipway/secret"
)

// library is a project that others have as a submodule.
type library struct {
	*world
	p project.Project
	c *clone
}

func (w *world) library(name string) *library {
	w.t.Helper()
	l := &library{w, w.project(name), newClone(w.t)}
	l.c.git("remote", "add", "origin", w.at(name))
	return l
}

// push commits a file and gives the hash.
func (l *library) push(name, text string) string {
	l.t.Helper()
	l.c.write(name, text)
	l.c.git("add", name)
	l.c.git("commit", "-q", "-m", text)
	l.c.git("push", "-q", "-f", "origin", "HEAD:main")
	return l.c.git("rev-parse", "HEAD")
}

// link commits submodules: their paths, each with its commit and its URL; no URL
// is no entry.
func (l *library) link(paths ...[3]string) string {
	l.t.Helper()
	var b strings.Builder
	for _, m := range paths {
		if l.c.git("update-index", "--add", "--cacheinfo", "160000,"+m[1]+","+m[0]); m[2] != "" {
			fmt.Fprintf(&b, "[submodule \"the %s\"]\n\tpath = %s\n\turl = %s\n", m[0], m[0], m[2])
		}
	}
	l.c.write(".gitmodules", b.String())
	l.c.git("add", ".gitmodules")
	l.c.git("commit", "-q", "--allow-empty", "-m", "links")
	l.c.git("push", "-q", "-f", "origin", "HEAD:main")
	return l.c.git("rev-parse", "HEAD")
}

// unlink takes what is at a path out of the next commit.
func (l *library) unlink(path string) { l.c.git("rm", "-q", "-r", "--cached", path) }

// out is a work tree of a project.
type out struct {
	*library
	dir   string
	key   string
	depth int
	lines []string
}

func (l *library) out() *out { return &out{library: l, dir: l.t.TempDir(), key: "tree"} }

func (o *out) try(revision string, m *Modules) error {
	o.lines = nil
	return o.sources.Checkout(o.t.Context(), o.p.ID, CheckoutSpec{
		Revision: revision, Branch: "main", Depth: o.depth, Dir: o.dir, Key: o.key, Modules: m, Out: func(l string) { o.lines = append(o.lines, l) },
	})
}

// get checks out as ann, and lets git say that all is as it is to be.
func (o *out) get(revision string) {
	o.t.Helper()
	must(o.t, o.try(revision, &Modules{By: o.ann.User.ID}))
	o.clean()
}

func (o *out) clean() {
	o.t.Helper()
	g := &clone{o.t, o.dir}
	if out := g.git("status", "--porcelain", "--untracked-files=no", "--ignore-submodules=untracked"); out != "" {
		o.t.Errorf("git status:\n%s", out)
	}
	g.git("submodule", "foreach", "-q", "--recursive", "git fsck --connectivity-only && git diff --exit-code HEAD")
}

// files is all that is in a tree but every .git, with contents.
func files(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	for line := range strings.Lines(list(t, dir)) {
		if !strings.Contains(line, "/.git ") && !strings.Contains(line, "/.git/") {
			b.WriteString(line)
		}
	}
	return b.String()
}

// fails is the error of a checkout, which has said what.
func (o *out) fails(revision string, m *Modules, says ...string) {
	o.t.Helper()
	err := o.try(revision, m)
	if err == nil {
		o.t.Errorf("%q: checked out all the same", says)
		return
	}
	for _, s := range says {
		contains(o.t, err.Error(), s)
	}
	if strings.Contains(err.Error(), o.token) {
		o.t.Errorf("a token in %v", err)
	}
}

func (o *out) is(path, text string) {
	o.t.Helper()
	b, err := os.ReadFile(filepath.Join(o.dir, path))
	if text == "" && os.IsNotExist(err) {
		return
	}
	if err != nil || string(b) != text {
		o.t.Errorf("%s is %q (%v), want %q", path, b, err, text)
	}
}

// A checkout with submodules is what git itself makes of a clone with them.
func TestSubmodules(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	deep, lib, web := w.library("deep"), w.library("lib"), w.library("web")
	d1 := deep.push("d", "deep 1")
	lib.push("l", "lib 1")
	l1 := lib.link([3]string{"inner/deep", d1, "../deep.git"})
	web.push("w", "web 1")
	web.c.git("submodule", "-q", "add", "--", w.at("deep"), "other") // as people make them
	web.c.git("config", "--file", ".gitmodules", "submodule.other.url", "./../deep.git")
	web.c.git("add", ".gitmodules")
	one := web.link([3]string{"vendor/lib", l1, "../lib.git"}, [3]string{"other", d1, "./../deep.git"})
	o := web.out()
	o.get(one)
	ref := newClone(t)
	ref.git("clone", "-q", "--recurse-submodules", w.at("web"), "x")
	ref.dir = filepath.Join(ref.dir, "x")
	if got, want := files(t, o.dir), files(t, ref.dir); got != want {
		t.Errorf("checkout:\n%s\nof git itself:\n%s", got, want)
	}
	status := func(dir string) string {
		text := (&clone{t, dir}).git("submodule", "status", "--recursive")
		var b strings.Builder
		for line := range strings.Lines(text) {
			line, _, _ = strings.Cut(line, " (") // the refs that a clone has
			b.WriteString(strings.TrimSpace(line) + "\n")
		}
		return b.String()
	}
	if got, want := status(o.dir), status(ref.dir); got != want || strings.Contains(got, "-") && strings.HasPrefix(got, "-") {
		t.Errorf("submodule status:\n%s\nof git itself:\n%s", got, want)
	}
	contains(t, strings.Join(o.lines, "\n"), "Submodule vendor/lib: checked out "+l1+" of project lib\nSubmodule vendor/lib/inner/deep: checked out "+d1+" of project deep")

	// Unchanged ones want nothing from anywhere, and are not touched.
	for _, p := range []project.Project{deep.p, lib.p} {
		must(t, os.Rename(w.sources.repoPath(p.ID), w.sources.repoPath(p.ID)+".away"))
	}
	o.get(one)
	must(t, o.try(one, &Modules{By: w.ann.User.ID}))
	was := mtimes(t, o.dir)
	must(t, o.try(one, &Modules{By: w.ann.User.ID}))
	for _, p := range []project.Project{deep.p, lib.p} {
		must(t, os.RemoveAll(w.sources.repoPath(p.ID)))
		must(t, os.Rename(w.sources.repoPath(p.ID)+".away", w.sources.repoPath(p.ID)))
	}
	if now := mtimes(t, o.dir); now != was {
		t.Error("the second checkout touched something")
	}
	contains(t, strings.Join(o.lines, "\n"), "Submodule other: checked out "+d1+" of project deep")

	// One moves, one goes; what others left stays, what they changed does not.
	must(t, os.WriteFile(filepath.Join(o.dir, "vendor/lib/built"), []byte("b"), 0o644))
	must(t, os.WriteFile(filepath.Join(o.dir, "vendor/lib/l"), []byte("changed"), 0o644))
	must(t, os.WriteFile(filepath.Join(o.dir, "vendor/lib/inner/deep/mine"), []byte("m"), 0o644))
	must(t, os.WriteFile(filepath.Join(o.dir, "other/mine"), []byte("m"), 0o644))
	lib.unlink("inner/deep")
	must(t, os.Remove(filepath.Join(lib.c.dir, ".gitmodules")))
	lib.c.git("rm", "-q", "--cached", ".gitmodules")
	l2 := lib.push("l", "lib 2")
	web.unlink("other")
	two := web.link([3]string{"vendor/lib", l2, "../lib.git"})
	o.depth = 3
	o.get(two)
	for path, text := range map[string]string{
		"vendor/lib/l": "lib 2", "vendor/lib/built": "b", "vendor/lib/inner/deep/d": "", "vendor/lib/inner/deep/mine": "m",
		"vendor/lib/inner/deep/.git/HEAD": "", "other/d": "", "other/mine": "m", "other/.git/HEAD": "",
	} {
		o.is(path, text)
	}
	if n := (&clone{t, filepath.Join(o.dir, "vendor/lib")}).git("rev-list", "--count", "HEAD"); n != "3" {
		t.Errorf("%s commits of the submodule", n)
	}

	// Another repository at the same path, an ordinary folder instead of one, and
	// one instead of a folder.
	web.unlink("vendor/lib")
	must(t, os.RemoveAll(filepath.Join(web.c.dir, "other")))
	web.push("other/plain", "p")
	three := web.link([3]string{"vendor/lib", d1, "../deep.git"})
	o.get(three)
	o.is("vendor/lib/l", "")
	o.is("vendor/lib/d", "deep 1")
	o.is("vendor/lib/built", "b")
	o.is("other/plain", "p")
	o.get(one)
	o.is("other/plain", "")
	o.is("other/d", "deep 1")
	o.is("vendor/lib/inner/deep/d", "deep 1")

	// Not asked for any more, and asked for again.
	must(t, o.try(one, nil))
	contains(t, strings.Join(o.lines, "\n"), "Submodule vendor/lib is not fetched: its folder stays empty (fetch_submodules of the project is off)")
	for _, path := range []string{"vendor/lib/l", "vendor/lib/.git/HEAD", "vendor/lib/inner/deep/d", "other/d"} {
		o.is(path, "")
	}
	o.is("vendor/lib/built", "b")
	if out := (&clone{t, o.dir}).git("status", "--porcelain", "--untracked-files=no"); out != "" {
		t.Errorf("git status:\n%s", out)
	}
	must(t, o.try(one, nil))
	o.get(one)
	o.is("vendor/lib/inner/deep/d", "deep 1")

	// A copy of the tree knows what is git's in it.
	dir := filepath.Join(t.TempDir(), "copy")
	if out, err := exec.Command("cp", "-a", o.dir, dir).CombinedOutput(); err != nil {
		t.Fatal(err, string(out))
	}
	copied := &out{library: web, dir: dir, key: "copy"}
	must(t, w.sources.Checkout(t.Context(), web.p.ID, CheckoutSpec{
		Revision: two, Branch: "main", Dir: dir, Key: "copy", Of: "tree", Modules: &Modules{By: w.ann.User.ID},
	}))
	copied.clean()
	copied.is("other/d", "")
	copied.is("vendor/lib/inner/deep/d", "")
	copied.is("vendor/lib/l", "lib 2")
	copied.is("vendor/lib/built", "b")

	// Whoever writes into the tree leads nowhere.
	outside := t.TempDir()
	must(t, os.WriteFile(filepath.Join(outside, "l"), []byte("precious"), 0o644))
	must(t, os.RemoveAll(filepath.Join(o.dir, "vendor")))
	must(t, os.Symlink(outside, filepath.Join(o.dir, "vendor")))
	must(t, os.RemoveAll(filepath.Join(o.dir, "other")))
	must(t, os.Symlink(outside, filepath.Join(o.dir, "other")))
	o.get(one)
	must(t, os.RemoveAll(filepath.Join(o.dir, "vendor/lib")))
	must(t, os.Symlink(outside, filepath.Join(o.dir, "vendor/lib")))
	o.get(two)
	if got := list(t, outside); got != "-rw-r--r-- l \"precious\"\n" {
		t.Errorf("outside:\n%s", got)
	}
	must(t, os.WriteFile(filepath.Join(o.dir, "vendor/lib/.git/config"), []byte("[core]\n\tfsmonitor = touch "+outside+"/ran\n"), 0o644))
	must(t, os.WriteFile(filepath.Join(o.dir, "vendor/lib/.git/hooks"), []byte("x"), 0o644))
	o.get(two)
	o.is("vendor/lib/.git/hooks", "")
	if _, err := os.Lstat(filepath.Join(outside, "ran")); err == nil {
		t.Error("something of the tree was run")
	}
}

// Projects of this server are read for who may read them, and no others.
func TestSubmodulesOfOthers(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{Public: "https://ci.example"})
	lib, web := w.library("lib"), w.library("web")
	l1 := lib.push("l", "lib")
	bob, err := w.access.Invite(t.Context(), w.ann, web.p.Workspace, "bob@example.com", func(*access.MemberOf) error { return nil })
	must(t, err)
	_, err = w.access.AddProjectMember(t.Context(), w.ann, web.p.Workspace, string(web.p.ID), bob.User.ID, 2)
	must(t, err)
	other, err := w.projects.CreateWorkspace(t.Context(), w.ann, "other", "other")
	must(t, err)
	w.ann, err = w.access.Authenticate(t.Context(), w.token, "127.0.0.1")
	must(t, err)
	far, err := w.projects.Create(t.Context(), w.ann, other.ID, project.New{Name: "far"})
	must(t, err)
	lib.c.git("push", "-q", strings.Replace(w.at("x"), "/acme/x.git", "/other/far.git", 1), "HEAD:main")
	o := web.out()
	relative := web.link([3]string{"lib", l1, "../lib.git"})
	absolute := web.link([3]string{"lib", l1, "https://CI.example:443/git/acme/lib"})
	foreign := web.link([3]string{"lib", l1, "../../other/far.git"})
	itself := web.link([3]string{"lib", l1, "../lib.git"}, [3]string{"self", relative, "./../web.git"})
	o.get(absolute)
	o.get(relative)
	const no = "submodule lib: there is no project acme/lib, or its repository is not for who started the run to read"
	for range 2 { // also when it is all there
		o.fails(relative, &Modules{By: bob.User.ID}, no)
		o.fails(relative, &Modules{}, no)
		o.fails(absolute, &Modules{By: w.ann.User.ID, Bare: true}, no)
		o.fails(absolute, &Modules{By: 9999}, no)
	}
	o.fails(foreign, &Modules{By: w.ann.User.ID}, "there is no project other/far, or")
	_, err = w.access.AddProjectMember(t.Context(), w.ann, web.p.Workspace, string(lib.p.ID), bob.User.ID, 1)
	must(t, err)
	must(t, o.try(relative, &Modules{By: bob.User.ID}))
	public := true
	for _, id := range []project.ID{lib.p.ID, far.ID} {
		_, err = w.projects.Update(t.Context(), w.ann, id, project.Change{Public: &public})
		must(t, err)
	}
	must(t, o.try(relative, &Modules{Bare: true}))
	must(t, o.try(foreign, &Modules{Bare: true}))
	contains(t, strings.Join(o.lines, "\n"), "of project other/far")
	o.get(itself) // of which lib is a part
	o.is("self/lib/l", "lib")
	must(t, w.projects.Delete(t.Context(), w.ann, lib.p.ID))
	o.fails(relative, &Modules{By: w.ann.User.ID}, no)
}

// Whatever a commit says of its submodules does no harm, and the error names it.
func TestHostileSubmodules(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	lib, web := w.library("lib"), w.library("web")
	l1 := lib.push("l", "lib")
	web.push("w", "web")
	secretDir := t.TempDir()
	ran := filepath.Join(secretDir, "ran")
	(&clone{t, secretDir}).git("init", "-q")
	o := web.out()
	entry := func(name, path, more string) string {
		return "[submodule \"" + name + "\"]\n\tpath = " + path + "\n" + more
	}
	for _, c := range []struct{ text, says string }{
		{"", "submodule lib: .gitmodules does not say where it comes from"},
		{entry("x", "lib", ""), "submodule lib: .gitmodules gives it no url"},
		{entry("x", "../lib", "\turl = ../lib.git\n"), "submodule lib: .gitmodules does not say"},
		{entry("x", "/lib", "\turl = ../lib.git\n"), "submodule lib: .gitmodules does not say"},
		{entry("../../x", "lib", "\turl = ../lib.git\n"), "submodule lib: .gitmodules does not say"},
		{entry("a\\\\..\\\\b", "lib", "\turl = ../lib.git\n"), "submodule lib: .gitmodules does not say"},
		{entry("x", "lib", "\turl = --upload-pack=touch "+ran+"\n"), "submodule lib: its url --upload-pack"},
		{entry("x", "lib", "\turl = -u./payload\n"), "submodule lib: its url -u./payload is not a URL"},
		{entry("x", "lib", "\turl = \"ext::sh -c touch% "+ran+"\"\n"), "is not a URL"},
		{entry("x", "lib", "\turl = ext::"+ran+"\n"), "is not a URL"},
		{entry("x", "lib", "\turl = fd::7\n"), "is not a URL"},
		{entry("x", "lib", "\turl = file://"+secretDir+"\n"), "has the scheme \"file\""},
		{entry("x", "lib", "\turl = "+secretDir+"\n"), "is not a URL"},
		{entry("x", "lib", "\turl = git://127.0.0.1/x\n"), "has the scheme \"git\""},
		{entry("x", "lib", "\turl = ssh://-oProxyCommand=x/y\n"), "names no host"},
		{entry("x", "lib", "\turl = http://127.0.0.1:9/x.git\n"), "private address 127.0.0.1"},
		{entry("x", "lib", "\turl = http://localhost:9/x.git\n"), "private address"},
		{entry("x", "lib", "\turl = ../../../../../../../../lib.git\n"), "leads out of"},
		{entry("x", "lib", "\turl = ../none.git\n"), "there is no project acme/none"},
		{entry("x", "lib", "\turl = ../lib.git\n\tupdate = !touch "+ran+"\n"), "update = !"},
		{"[submodule \"x\"\n", ".gitmodules cannot be read"},
		{"[include]\n\tpath = " + secretDir + "/.git/config\n", "does not say"},
		{entry("x", "lib", "\turl = https://u:secretword@127.0.0.1/x.git\n"), "its url https://***@127.0.0.1/x.git"},
		{strings.Repeat("# long\n", 200_000), ".gitmodules is larger than"},
	} {
		web.c.git("update-index", "--add", "--cacheinfo", "160000,"+l1+",lib")
		web.c.write(".gitmodules", c.text)
		web.c.git("add", ".gitmodules")
		web.c.git("commit", "-q", "--allow-empty", "-m", "hostile")
		web.c.git("push", "-q", "-f", w.sources.repoPath(web.p.ID), "HEAD:main") // ours refuses some of it
		o.fails(web.c.git("rev-parse", "HEAD"), &Modules{By: w.ann.User.ID}, c.says)
		if text := files(t, o.dir); strings.Contains(text, "lib/") && strings.Contains(text, "lib/l") {
			t.Errorf("%s: something is there", c.text)
		}
	}
	// A link in its place, and no file at all.
	must(t, os.Remove(filepath.Join(web.c.dir, ".gitmodules")))
	must(t, os.Symlink(".git/config", filepath.Join(web.c.dir, ".gitmodules")))
	web.c.git("add", ".gitmodules")
	web.c.git("commit", "-q", "-m", "link")
	web.c.git("push", "-q", "-f", w.sources.repoPath(web.p.ID), "HEAD:main")
	o.fails(web.c.git("rev-parse", "HEAD"), &Modules{By: w.ann.User.ID}, "invalid path '.gitmodules'")
	web.c.git("rm", "-qf", ".gitmodules")
	o.fails(web.push("w", "none"), &Modules{By: w.ann.User.ID}, ".gitmodules is no file")
	must(t, o.try(web.c.git("rev-parse", "HEAD"), nil)) // whoever does not ask for them has the rest

	// What git does not check out either, what has no link, and a commit that is not
	// there.
	web.link([3]string{"lib", l1, "../lib.git"})
	web.c.write(".gitmodules", read(t, filepath.Join(web.c.dir, ".gitmodules"))+"\tupdate = none\n"+entry("y", "nowhere", "\turl = ext::x\n"))
	o.get(web.push(".gitmodules", read(t, filepath.Join(web.c.dir, ".gitmodules"))))
	contains(t, strings.Join(o.lines, "\n"), "Submodule lib is not fetched: its folder stays empty (.gitmodules says update = none)")
	o.fails(web.link([3]string{"lib", strings.Repeat("12", 20), "../lib.git"}), &Modules{By: w.ann.User.ID}, "submodule lib: project lib has no commit 1212")

	// In each other, and many.
	web.unlink("lib")
	last := web.link()
	for range deepestModule + 1 {
		last = web.link([3]string{"in", last, "../web.git"})
	}
	o.fails(last, &Modules{By: w.ann.User.ID}, "submodules are more than 10 deep in each other")
	lib.link([3]string{"in", last, "../web.git"})
	web.unlink("in")
	var many [][3]string
	for i := range mostModules + 1 {
		many = append(many, [3]string{fmt.Sprintf("m/%d", i), l1, "../lib.git"})
	}
	all := web.link(many...)
	o.fails(all, &Modules{By: w.ann.User.ID}, "there are more than 200 submodules")
	if _, err := os.Lstat(ran); err == nil {
		t.Error("something was run")
	}
}

// far is a server with libraries of which projects of another one are mirrors.
type far struct {
	*world
	here  *world
	mu    sync.Mutex
	heard []string // who asked with what
}

func newFar(t *testing.T) *far {
	t.Helper()
	f := &far{world: newWorld(t, Config{}), here: newWorld(t, Config{Private: true})}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		f.heard = append(f.heard, r.URL.Path+" "+r.Header.Get("Authorization"))
		f.mu.Unlock()
		f.sources.Handler(f.authenticate).ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	f.url = srv.URL
	return f
}

func (f *far) logins() (with, without int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, h := range f.heard {
		if strings.HasSuffix(h, " ") {
			without++
		} else {
			with++
		}
	}
	f.heard = nil
	return with, without
}

// mirrored is a project here that is linked to a library there.
func (f *far) mirrored(l *library, r *Remote) *out {
	f.t.Helper()
	p := f.here.project("copy-" + l.p.Name)
	must(f.t, f.here.sources.SetRemote(f.t.Context(), f.here.ann, p.ID, r))
	return (&library{f.here, p, l.c}).out()
}

// The login of an outside repository opens those beside it, for who may use it, and
// is nowhere to be found.
func TestOutsideSubmodules(t *testing.T) {
	t.Parallel()
	f := newFar(t)
	lib, web := f.library("lib"), f.library("web")
	l1 := lib.push("l", "one")
	one := web.link([3]string{"lib", l1, "../lib.git"})
	elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		f.heard = append(f.heard, r.URL.Path+" "+r.Header.Get("Authorization"))
		f.mu.Unlock()
		w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
		w.WriteHeader(http.StatusUnauthorized)
	}))
	t.Cleanup(elsewhere.Close)
	other := web.link([3]string{"lib", l1, elsewhere.URL + "/git/acme/lib.git"})
	o := f.mirrored(web, &Remote{URL: f.url + URL("acme", "web"), Username: "x", Password: f.token})
	s := f.here.sources
	user := &Modules{By: f.here.ann.User.ID}
	o.get(one)
	o.is("lib/l", "one")
	must(t, filepath.WalkDir(o.dir, func(p string, e os.DirEntry, err error) error {
		must(t, err)
		if !e.IsDir() && strings.Contains(read(t, p), f.token) {
			t.Errorf("the token is in %s", p)
		}
		return nil
	}))
	contains(t, read(t, filepath.Join(o.dir, "lib/.git/config")), "url = \""+f.url+"/git/acme/lib.git\"")
	f.logins()
	o.get(one)
	if with, without := f.logins(); with+without != 0 {
		t.Errorf("%d requests for nothing", with+without)
	}
	o.fails(other, user, "submodule lib: "+elsewhere.URL+"/git/acme/lib.git wants a login")
	if with, without := f.logins(); without == 0 || with > 2 { // those of the tree itself
		t.Errorf("%d requests with a login, %d without", with, without)
	}

	// A pull request of somebody gets nothing that only a login opens, also if it was
	// fetched with one before.
	for range 2 {
		o.fails(one, &Modules{By: f.here.ann.User.ID, Bare: true}, "submodule lib: "+f.url+"/git/acme/lib.git wants a login")
	}
	o.get(one)

	// A mirror that is broken is made anew, as is what it was copied from.
	broken := func(pattern string) {
		t.Helper()
		packs, err := filepath.Glob(filepath.Join(s.cfg.Dir, pattern))
		if err != nil || len(packs) == 0 {
			t.Fatal(pattern, packs, err)
		}
		for _, p := range packs {
			must(t, os.Chmod(p, 0o600))
			must(t, os.WriteFile(p, []byte("broken"), 0o600))
		}
	}
	broken("mirrors/*.modules/*.git/objects/pack/*.pack")
	o.key = "anew"
	o.get(one)
	l2 := lib.push("l", "two")
	two := web.link([3]string{"lib", l2, "../lib.git"})
	broken("mirrors/*.modules/*.git/objects/pack/*.idx")
	broken("work/*/anew/modules/*/git/objects/pack/*")
	o.get(two)
	o.is("lib/l", "two")

	// Nobody asked for it: it goes.
	old := time.Now().Add(-2 * oldMirror)
	locks, _ := filepath.Glob(filepath.Join(s.modulesPath(o.p.ID), "*.lock"))
	if len(locks) < 2 {
		t.Errorf("mirrors: %q", locks)
	}
	s.tidy(t.Context())
	if locks, _ = filepath.Glob(filepath.Join(s.modulesPath(o.p.ID), "*.lock")); len(locks) == 0 {
		t.Error("mirrors that are in use are gone")
	}
	for _, l := range locks {
		must(t, os.Chtimes(l, old, old))
	}
	s.tidy(t.Context())
	if left, _ := os.ReadDir(s.modulesPath(o.p.ID)); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
	o.get(one)

	// Another repository is linked: what the login of this one gave goes.
	must(t, s.SetRemote(t.Context(), f.here.ann, o.p.ID, &Remote{URL: elsewhere.URL + "/web.git"}))
	if _, err := os.Lstat(s.modulesPath(o.p.ID)); err == nil {
		t.Error("the mirrors are still there")
	}
	where := supply{name: "x", remote: &Remote{URL: f.url + URL("acme", "lib"), Username: "x", Password: f.token}, lent: true, from: "0123"}
	if _, err := s.fetchModule(t.Context(), o.p.ID, where, l1, 1); !errdefs.IsAborted(err) {
		t.Errorf("with a login of before: %v", err)
	}
	must(t, s.forgetModules(t.Context(), o.p.ID))
}

// A project that is a mirror itself is a submodule as any other.
func TestMirroredSubmodule(t *testing.T) {
	t.Parallel()
	f := newFar(t)
	lib := f.library("lib")
	l1 := lib.push("l", "one")
	p := f.here.project("lib")
	must(t, f.here.sources.SetRemote(t.Context(), f.here.ann, p.ID, &Remote{URL: f.url + URL("acme", "lib"), Username: "x", Password: f.token}))
	web := f.here.library("web")
	o := web.out()
	o.get(web.link([3]string{"lib", l1, "../lib.git"}))
	o.is("lib/l", "one")
}

// Keys are of the variable that the project names, for all submodules over ssh, or
// that of the project's own repository for those beside it.
func TestSubmodulesOverSSH(t *testing.T) {
	t.Parallel()
	f := newFar(t)
	lib, web := f.library("lib"), f.library("web")
	l1 := lib.push("l", "one")
	repo, err := f.sources.own(lib.p.ID)
	must(t, err)
	key, signer := newKey(t)
	addr := serveSSH(t, signer.PublicKey(), repo)
	one := web.link([3]string{"lib", l1, "ssh://git@" + addr + "/lib.git"})
	o := f.mirrored(web, &Remote{URL: f.url + URL("acme", "web"), Username: "x", Password: f.token})
	with := func(name string) *Modules { return &Modules{By: f.here.ann.User.ID, Key: name} }
	o.fails(one, with(""), "wants a login")
	o.fails(one, with("MODULES_KEY"), `submodule lib: fetch_submodules_env_key: there is no variable "MODULES_KEY" in the project or its workspace`)
	make := func(v secret.Variable) {
		t.Helper()
		v.Scope.Workspace = o.p.Workspace
		_, err := f.here.sources.secrets.CreateVariable(t.Context(), f.here.ann, v)
		must(t, err)
	}
	make(secret.Variable{Key: "WORD", Value: "x"})
	make(secret.Variable{Key: "MODULES_KEY", Value: string(key), Type: secret.SSHKey, Encrypted: true, FilePlace: secret.None, FilePath: "~/.ssh/k"})
	o.fails(one, with("WORD"), `fetch_submodules_env_key: the variable "WORD" is of type VAR, not SSH_KEY`)
	must(t, o.try(one, with("MODULES_KEY")))
	o.clean()
	o.is("lib/l", "one")
	bare := with("MODULES_KEY")
	bare.Bare = true
	o.fails(one, bare, "wants a login")
	wrong, _ := newKey(t)
	make(secret.Variable{
		Scope: secret.Scope{Project: o.p.ID}, Key: "MODULES_KEY", Value: string(wrong), Type: secret.SSHKey, Encrypted: true, FilePlace: secret.None, FilePath: "~/.ssh/k",
	})
	o.fails(one, with("MODULES_KEY"), "refuses the login") // the narrower one holds
	hosts := read(t, filepath.Join(f.here.sources.cfg.Dir, "mirrors", string(o.p.ID)+".hosts"))
	contains(t, hosts, "ssh-ed25519")

	// The key of the project's own repository, which is on the same host.
	both := f.mirrored(lib, &Remote{URL: "ssh://git@" + addr + "/web.git", PrivateKey: key})
	two := lib.link([3]string{"self", l1, "../lib.git"})
	both.get(two)
	both.is("self/l", "one")
}

// A checkout that is killed anywhere leaves submodules that the next one mends.
func TestServerKilledDuringSubmodules(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	deep, lib, web := w.library("deep"), w.library("lib"), w.library("web")
	d1 := deep.push("d", "deep")
	lib.push("l", "lib")
	l1 := lib.link([3]string{"deep", d1, "../deep.git"})
	lib.push("l", "lib 2")
	l2 := lib.link([3]string{"deep", d1, "../deep.git"})
	one := web.link([3]string{"a", l1, "../lib.git"}, [3]string{"b", l1, "../lib.git"})
	web.unlink("b")
	two := web.link([3]string{"a", l2, "../lib.git"}, [3]string{"c", d1, "../deep.git"})
	web.unlink("a")
	web.unlink("c")
	web.c.write("a/l", "plain") // what was in the submodule is the commit's own
	web.c.git("add", "a/l")
	three := web.link([3]string{"d", l2, "../lib.git"})
	want := map[string]string{}
	for _, hash := range []string{one, two, three} {
		o := web.out()
		o.key = "whole"
		o.get(hash)
		want[hash] = files(t, o.dir)
		must(t, w.sources.Forget(web.p.ID, "whole"))
	}
	self, err := os.Executable()
	must(t, err)
	must(t, w.db.Close())
	for i, place := range []string{
		"source: a submodule is fetched", "source: a submodule is checked out", "source: files of a submodule are gone",
		"source: files of the old commit are gone", "source: files are checked out", "source: a checkout is done",
	} {
		for _, then := range []string{one, two, three} {
			o := web.out()
			w.open(Config{})
			o.get(one)
			must(t, w.db.Close())
			to := []string{two, three}[i%2]
			cmd := exec.Command(self, "checkout-child", w.dir, string(web.p.ID), to, o.dir)
			cmd.Env = append(os.Environ(), "SLIPWAY_CRASH="+place)
			out, err := cmd.CombinedOutput()
			if st, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || st.Signal() != syscall.SIGKILL {
				t.Fatalf("%s: %v %s", place, err, out)
			}
			w.open(Config{})
			o.get(then)
			if got := files(t, o.dir); got != want[then] {
				t.Errorf("%s:\n%s\nwant:\n%s", place, got, want[then])
			}
			must(t, w.sources.Forget(web.p.ID, "tree"))
			must(t, w.db.Close())
		}
	}
	w.open(Config{})
}

func TestRelativeURL(t *testing.T) {
	t.Parallel()
	for _, c := range [][3]string{
		{"https://h/a/b.git", "../c.git", "https://h/a/c.git"},
		{"https://h/a/b.git/", "./../c.git/", "https://h/a/c.git"},
		{"https://h/a/b.git", "./c", "https://h/a/b.git/c"},
		{"https://h/a/b.git", "../../x/c", "https://h/x/c"},
		{"git@h:a/b.git", "../c.git", "git@h:a/c.git"},
		{"git@h:b.git", "../c.git", "git@h:c.git"},
		{"git@h:b.git", "../../c.git", ""},
		{"https://h/a/b.git", "https://k/c", "https://k/c"},
	} {
		got, err := relativeURL(c[0], c[1])
		if got != c[2] || (err == nil) != (c[2] != "") {
			t.Errorf("%s at %s is %q, %v; want %q", c[1], c[0], got, err, c[2])
		}
	}
}

// A cancelled checkout says so.
func TestSubmodulesCancelled(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	lib, web := w.library("lib"), w.library("web")
	one := web.link([3]string{"lib", lib.push("l", "lib"), "../lib.git"})
	ctx, cancel := context.WithCancel(t.Context())
	o := web.out()
	err := w.sources.Checkout(ctx, web.p.ID, CheckoutSpec{
		Revision: one, Branch: "main", Dir: o.dir, Key: "tree", Modules: &Modules{By: w.ann.User.ID}, Out: func(string) { cancel() },
	})
	if err == nil || context.Cause(ctx) == nil || !strings.Contains(err.Error(), context.Canceled.Error()) {
		t.Errorf("cancelled: %v", err)
	}
	o.get(one)
}
