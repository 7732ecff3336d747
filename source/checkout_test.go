package source

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"slipway/project"
)

// shop is a project with a repository, and a work tree of it.
type shop struct {
	*world
	p     project.Project
	c     *clone
	dir   string
	lines []string
}

func newShop(t *testing.T) *shop {
	t.Helper()
	w := newWorld(t, Config{})
	return &shop{world: w, p: w.project("web"), c: newClone(t), dir: filepath.Join(t.TempDir(), "tree")}
}

func (s *shop) push(message string) string {
	s.t.Helper()
	hash := s.c.commit(message)
	s.c.git("push", "-q", "-f", "--tags", s.at("web"), "HEAD:main")
	return hash
}

func (s *shop) checkout(revision string, depth int) {
	s.t.Helper()
	must(s.t, os.MkdirAll(s.dir, 0o755))
	s.lines = nil
	must(s.t, s.sources.Checkout(s.t.Context(), s.p.ID, CheckoutSpec{
		Revision: revision, Branch: "main", Depth: depth, Dir: s.dir, Key: "tree",
		Out: func(l string) { s.lines = append(s.lines, l) },
	}))
	s.clean()
}

// clean asks git itself whether the tree is that of the commit.
func (s *shop) clean() {
	s.t.Helper()
	g := &clone{s.t, s.dir}
	if out := g.git("status", "--porcelain", "--untracked-files=no", "--ignore-submodules=none"); out != "" {
		s.t.Errorf("git status:\n%s", out)
	}
	g.git("fsck", "--connectivity-only")
}

// list is all that is in the tree but .git, with modes and contents.
func list(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	must(t, filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, p)
		if rel == ".git" && e.IsDir() {
			return filepath.SkipDir
		}
		fi, err := e.Info()
		if err != nil {
			return err
		}
		switch {
		case rel == ".":
		case e.IsDir():
			fmt.Fprintf(&b, "%s %s/\n", fi.Mode(), rel)
		case fi.Mode()&fs.ModeSymlink != 0:
			to, _ := os.Readlink(p)
			fmt.Fprintf(&b, "link %s -> %s\n", rel, to)
		default:
			text, _ := os.ReadFile(p)
			fmt.Fprintf(&b, "%s %s %q\n", fi.Mode(), rel, text)
		}
		return nil
	}))
	return b.String()
}

func TestCheckout(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	s.c.write("a.txt", "one\n")
	s.c.write("src/main.go", "package main\n")
	s.c.write("src/deep/er/x", "x")
	s.c.write("run.sh", "#!/bin/sh\n")
	must(t, os.Chmod(filepath.Join(s.c.dir, "run.sh"), 0o755))
	must(t, os.Symlink("../a.txt", filepath.Join(s.c.dir, "src", "link")))
	s.c.write("crlf.txt", "x\ny\n")
	s.c.write(".gitattributes", "crlf.txt text eol=crlf\nhidden.txt export-ignore\nsubst.txt export-subst\n")
	s.c.write("hidden.txt", "h")
	s.c.write("subst.txt", "$Format:%H$")
	s.c.write("name with \"quotes\"\tand\nmore é", "n")
	one := s.push("one")
	s.checkout(one, 0)
	want := list(t, s.dir)
	ref := newClone(t)
	ref.git("-c", "core.fileMode=true", "pull", "-q", s.at("web"), "main")
	if plain := list(t, ref.dir); plain != want {
		t.Errorf("checkout:\n%s\nof git itself:\n%s", want, plain)
	}
	if !slices.Equal(s.lines, []string{"Checked out " + one + " (main): one"}) {
		t.Errorf("lines %q", s.lines)
	}
	// The archive holds the same.
	if got := untar(t, s.world, s.p.ID, one, ""); got != want {
		t.Errorf("archive:\n%s\ncheckout:\n%s", got, want)
	}
	if got := untar(t, s.world, s.p.ID, one, "/src/"); got != list(t, filepath.Join(s.dir, "src")) {
		t.Errorf("archive of src:\n%s", got)
	}
	if _, err := s.sources.Archive(t.Context(), s.p.ID, one, "nowhere"); !errdefs.IsNotFound(err) {
		t.Errorf("archive of nowhere: %v", err)
	}
	if _, err := s.sources.Archive(t.Context(), s.p.ID, one, "a.txt"); !errdefs.IsNotFound(err) {
		t.Errorf("archive of a file: %v", err)
	}
	if _, err := s.sources.Archive(t.Context(), s.p.ID, one, "../x"); !errdefs.IsInvalidArgument(err) {
		t.Errorf("archive of what is outside: %v", err)
	}

	// The next commit: unchanged files keep their time, removed ones go with
	// their folders, what is not git's stays.
	old := time.Unix(1e9, 0)
	must(t, os.Chtimes(filepath.Join(s.dir, "a.txt"), old, old))
	must(t, os.WriteFile(filepath.Join(s.dir, "src", "built.o"), []byte("o"), 0o644))
	before := mtime(t, filepath.Join(s.dir, "run.sh"))
	s.c.git("rm", "-q", "-r", "src/deep")
	s.c.write("src/main.go", "package main // two\n")
	two := s.push("two")
	s.checkout(two, 0)
	if got := mtime(t, filepath.Join(s.dir, "a.txt")); !got.Equal(old) {
		t.Errorf("a.txt is of %s: its content had not changed", got)
	}
	if got := mtime(t, filepath.Join(s.dir, "run.sh")); !got.Equal(before) {
		t.Error("run.sh was written again")
	}
	if _, err := os.Lstat(filepath.Join(s.dir, "src", "deep")); !errors.Is(err, fs.ErrNotExist) {
		t.Error("src/deep is still there")
	}
	if read(t, filepath.Join(s.dir, "src", "built.o")) != "o" || read(t, filepath.Join(s.dir, "src", "main.go")) != "package main // two\n" {
		t.Error("wrong files")
	}
	if g := (&clone{t, s.dir}); g.git("rev-parse", "HEAD") != two || g.git("symbolic-ref", "HEAD") != "refs/heads/main" || g.git("rev-list", "--count", "HEAD") != "2" {
		t.Error("wrong .git")
	}

	// Back again, and detached.
	must(t, s.sources.Checkout(t.Context(), s.p.ID, CheckoutSpec{Revision: one, Dir: s.dir, Key: "tree"}))
	must(t, os.Remove(filepath.Join(s.dir, "src", "built.o")))
	if got := list(t, s.dir); got != want {
		t.Errorf("back:\n%s\nwant:\n%s", got, want)
	}
	if g := (&clone{t, s.dir}); g.git("rev-parse", "HEAD") != one || g.git("rev-parse", "--abbrev-ref", "HEAD") != "HEAD" {
		t.Error("not detached")
	}
}

func mtime(t *testing.T, name string) time.Time {
	t.Helper()
	fi, err := os.Lstat(name)
	must(t, err)
	return fi.ModTime()
}

func untar(t *testing.T, w *world, id project.ID, revision, below string) string {
	t.Helper()
	r, err := w.sources.Archive(t.Context(), id, revision, below)
	must(t, err)
	dir := t.TempDir()
	in := tar.NewReader(r)
	for {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		must(t, err)
		name := filepath.Join(dir, h.Name)
		switch h.Typeflag {
		case tar.TypeDir:
			must(t, os.Mkdir(name, 0o755))
			must(t, os.Chmod(name, fs.FileMode(h.Mode)))
		case tar.TypeSymlink:
			must(t, os.Symlink(h.Linkname, name))
		case tar.TypeReg:
			b, err := io.ReadAll(in)
			must(t, err)
			must(t, os.WriteFile(name, b, 0o600))
			must(t, os.Chmod(name, fs.FileMode(h.Mode)))
		default:
			t.Errorf("%s has type %c", h.Name, h.Typeflag)
		}
	}
	must(t, r.Close())
	return list(t, dir)
}

func TestCheckoutHistory(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	var hashes []string
	for i := range 5 {
		s.c.write("f", fmt.Sprint(i))
		if i == 3 {
			s.c.git("tag", "-a", "-m", "x", "early", hashes[1])
		}
		hashes = append(hashes, s.push(fmt.Sprint(i)))
	}
	s.c.git("tag", "light")
	s.c.git("tag", "-a", "-m", "heavy", "heavy")
	s.c.git("push", "-q", "--tags", s.at("web"), "HEAD:other")
	g := &clone{t, s.dir}
	for _, step := range []struct {
		at, depth int
		commits   string
		describe  bool
	}{{0, 1, "1", false}, {4, 1, "1", true}, {4, 3, "3", true}, {2, 2, "2", false}, {4, 0, "5", true}, {3, 0, "4", true}, {4, 1, "1", true}, {4, 100, "5", true}} {
		s.checkout(hashes[step.at], step.depth)
		if n := g.git("rev-list", "--count", "HEAD"); n != step.commits {
			t.Errorf("%+v: %s commits", step, n)
		}
		if _, err := g.try("describe"); (err == nil) != step.describe {
			t.Errorf("%+v: describe: %v", step, err)
		}
	}
	// A tag that comes later is seen by the next run of the same commit.
	s.checkout(hashes[4], 1)
	s.c.git("tag", "late")
	s.c.git("push", "-q", "--tags", s.at("web"))
	s.checkout(hashes[4], 1)
	contains(t, g.git("tag", "-l"), "late")
	for _, name := range []string{"config", "HEAD", "packed-refs"} {
		if text := read(t, filepath.Join(s.dir, ".git", name)); strings.Contains(text, "slw_") || strings.Contains(text, s.sources.cfg.Dir) {
			t.Errorf("%s: %s", name, text)
		}
	}
	must(t, filepath.WalkDir(filepath.Join(s.dir, ".git"), func(p string, e fs.DirEntry, err error) error {
		must(t, err)
		if fi, err := e.Info(); err == nil && !e.IsDir() && links(fi) != 1 {
			t.Errorf("%s has %d links", p, links(fi))
		}
		return nil
	}))
}

// Whatever an earlier run left in the tree, nothing outside is touched, nothing
// is run, and the tree is that of the commit afterwards.
func TestCheckoutOfHostileTree(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	s.c.write("a.txt", "a\n")
	s.c.write("src/main.go", "package main\n")
	s.c.write("src/deep/x", "x")
	s.c.write("z", "z")
	one := s.push("one")
	s.c.git("rm", "-q", "src/deep/x")
	s.c.write("src/new/y", "y")
	s.c.write("z", "z2")
	two := s.push("two")

	outside := t.TempDir()
	must(t, os.MkdirAll(filepath.Join(outside, "deep"), 0o755))
	for _, f := range []string{"main.go", "deep/x", "z", "HEAD"} {
		must(t, os.WriteFile(filepath.Join(outside, f), []byte("precious"), 0o644))
	}
	precious := list(t, outside)
	ran := filepath.Join(t.TempDir(), "ran")
	in := func(name string) string { return filepath.Join(s.dir, name) }
	trap := "#!/bin/sh\ntouch " + ran + "\n"
	harm := map[string]func(){
		"parent is a link out": func() {
			must(t, os.RemoveAll(in("src")))
			must(t, os.Symlink(outside, in("src")))
		},
		"parent is a link inside": func() {
			must(t, os.Rename(in("src"), in("moved")))
			must(t, os.Symlink("moved", in("src")))
		},
		"deep parent is a link": func() {
			must(t, os.RemoveAll(in("src/deep")))
			must(t, os.Symlink(filepath.Join(outside, "deep"), in("src/deep")))
		},
		"file is a link out": func() {
			must(t, os.Remove(in("z")))
			must(t, os.Symlink(filepath.Join(outside, "z"), in("z")))
		},
		"file is a hard link": func() {
			must(t, os.Remove(in("z")))
			must(t, os.WriteFile(in("other"), []byte("other"), 0o644))
			must(t, os.Link(in("other"), in("z")))
		},
		"file is a folder": func() {
			must(t, os.Remove(in("z")))
			must(t, os.MkdirAll(in("z/full/of"), 0o755))
			must(t, os.Symlink(outside, in("z/full/of/link")))
		},
		"folder is a file": func() {
			must(t, os.RemoveAll(in("src")))
			must(t, os.WriteFile(in("src"), []byte("f"), 0o644))
		},
		"file is a pipe": func() {
			must(t, os.Remove(in("z")))
			must(t, mkfifo(in("z")))
		},
		"same size and time": func() {
			was := mtime(t, in("z"))
			must(t, os.WriteFile(in("z"), []byte(strings.Repeat("q", len(read(t, in("z"))))), 0o644))
			must(t, os.Chtimes(in("z"), was, was))
		},
		"mode": func() { must(t, os.Chmod(in("z"), 0o755)) },
		"git is a link": func() {
			must(t, os.RemoveAll(in(".git")))
			must(t, os.Symlink(outside, in(".git")))
		},
		"git is a file": func() {
			must(t, os.RemoveAll(in(".git")))
			must(t, os.WriteFile(in(".git"), []byte("gitdir: "+outside+"\n"), 0o644))
		},
		"parts of git are links": func() {
			must(t, os.RemoveAll(in(".git/objects")))
			must(t, os.Symlink(outside, in(".git/objects")))
			must(t, os.Remove(in(".git/HEAD")))
			must(t, os.Symlink(filepath.Join(outside, "HEAD"), in(".git/HEAD")))
		},
		"config, hooks and filters": func() {
			must(t, os.MkdirAll(in(".git/hooks"), 0o755))
			must(t, os.MkdirAll(in(".git/info"), 0o755))
			for _, h := range []string{"post-checkout", "post-index-change", "reference-transaction", "fsmonitor"} {
				must(t, os.WriteFile(in(".git/hooks/"+h), []byte(trap), 0o755))
			}
			must(t, os.WriteFile(in(".git/config"), []byte("[core]\n\tfsmonitor = .git/hooks/fsmonitor\n\thooksPath = .git/hooks\n\tsshCommand = touch "+ran+
				"\n[filter \"evil\"]\n\tsmudge = touch "+ran+"\n\tprocess = touch "+ran+"\n\trequired = true\n[include]\n\tpath = "+outside+"/HEAD\n"), 0o644))
			must(t, os.WriteFile(in(".git/info/attributes"), []byte("* filter=evil\n"), 0o644))
			must(t, os.WriteFile(in(".gitattributes"), []byte("* filter=evil ident eol=crlf text\n"), 0o644))
			must(t, os.WriteFile(in("src/.gitattributes"), []byte("* filter=evil eol=crlf text\n"), 0o644))
			must(t, os.WriteFile(in(".git/HEAD"), []byte("ref: refs/heads/../../../x\n"), 0o644))
			must(t, os.WriteFile(in("z"), []byte("dirty"), 0o644))
			must(t, os.Remove(in("a.txt")))
		},
		"all is gone": func() {
			for _, n := range []string{".git", "src", "a.txt", "z"} {
				must(t, os.RemoveAll(in(n)))
			}
		},
	}
	want := map[string]string{one: "", two: ""}
	for hash := range want {
		must(t, os.RemoveAll(s.dir))
		s.checkout(hash, 1)
		want[hash] = list(t, s.dir)
	}
	for name, do := range harm {
		for _, depth := range []int{0, 1} {
			for i, to := range []string{one, two} {
				if depth == 1 && i == 0 {
					continue
				}
				t.Run(fmt.Sprintf("%s/%d/%v", name, depth, to == one), func(t *testing.T) {
					s.t = t
					must(t, os.RemoveAll(s.dir))
					s.checkout(one, depth)
					do()
					s.checkout(to, depth)
					for _, extra := range []string{"moved", "other", ".gitattributes", "src/.gitattributes"} {
						must(t, os.RemoveAll(in(extra))) // what git does not know may stay
					}
					if fi, err := os.Lstat(in("src/deep")); err == nil && fi.Mode()&fs.ModeSymlink != 0 && to == two {
						must(t, os.Remove(in("src/deep")))
					}
					if got := list(t, s.dir); got != want[to] {
						t.Errorf("tree:\n%s\nwant:\n%s", got, want[to])
					}
					if got := list(t, outside); got != precious {
						t.Errorf("outside:\n%s", got)
					}
					if _, err := os.Lstat(ran); err == nil {
						t.Fatal("something of the tree was run")
					}
				})
			}
		}
	}
}

func TestCheckoutTwiceIsQuick(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	for i := range 200 {
		s.c.write(fmt.Sprintf("d%d/f%d", i%10, i), fmt.Sprint(i))
	}
	one := s.push("one")
	s.checkout(one, 1)
	must(t, s.sources.Checkout(t.Context(), s.p.ID, CheckoutSpec{Revision: one, Branch: "main", Depth: 1, Dir: s.dir, Key: "tree"}))
	was := mtimes(t, s.dir)
	must(t, s.sources.Checkout(t.Context(), s.p.ID, CheckoutSpec{Revision: one, Branch: "main", Depth: 1, Dir: s.dir, Key: "tree"}))
	if now := mtimes(t, s.dir); now != was {
		t.Error("the second checkout touched something")
	}
	// Also when a run has asked git for the state, which touches its index.
	(&clone{t, s.dir}).git("update-index", "--refresh")
	s.checkout(one, 1)
}

func mtimes(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	must(t, filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		must(t, err)
		fi, err := e.Info()
		must(t, err)
		fmt.Fprintln(&b, p, fi.ModTime().UnixNano())
		return nil
	}))
	return b.String()
}

func TestCheckoutNotes(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	s.c.write("a", "a")
	first := s.c.commit("lib")
	s.c.git("update-index", "--add", "--cacheinfo", "160000,"+first+",lib/x")
	s.c.write(".gitattributes", "*.bin filter=lfs diff=lfs merge=lfs -text\n")
	s.c.write("b.bin", "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
	s.c.git("add", ".gitattributes", "b.bin")
	s.c.git("commit", "-q", "-m", "with a submodule")
	hash := s.c.git("rev-parse", "HEAD")
	s.c.git("push", "-q", s.at("web"), "HEAD:main")
	for range 2 { // also when there is nothing to do
		s.checkout(hash, 1)
		text := strings.Join(s.lines, "\n")
		contains(t, text, "Submodule lib/x is not fetched")
		contains(t, text, "Git LFS is not fetched")
	}
	if fi, err := os.Stat(filepath.Join(s.dir, "lib", "x")); err != nil || !fi.IsDir() {
		t.Error("no folder for the submodule")
	}
	if err := s.sources.Checkout(t.Context(), s.p.ID, CheckoutSpec{Revision: strings.Repeat("12", 20), Dir: s.dir, Key: "tree"}); err == nil {
		t.Error("an unknown commit was checked out")
	}
	s.clean()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.sources.Checkout(ctx, s.p.ID, CheckoutSpec{Revision: hash, Dir: s.dir, Key: "tree"}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	bad := CheckoutSpec{Revision: "main", Branch: "a..b", Depth: -1, Dir: "rel", Key: "../x"}
	err := s.sources.Checkout(t.Context(), s.p.ID, bad)
	if inv, ok := project.AsInvalid(err); !ok || len(inv.Fields) != 5 {
		t.Errorf("bad spec: %v", err)
	}
}
