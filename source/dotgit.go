package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// part is one file of the .git that a work tree is to have: a text or the copy
// of a file of ours.
type part struct {
	text string
	from string
}

// print is what is remembered of a file that was put into a .git: by it one
// tells that nobody has touched it since. Nobody without the clock of the
// machine in hand can set a ctime.
type print struct {
	Ino, Size, Ctime, Mtime int64
	From                    string // what it was made of
}

func printOf(st *unix.Stat_t, from string) print {
	return print{int64(st.Ino), st.Size, st.Ctim.Nano(), st.Mtim.Nano(), from}
}

func (p part) source() (string, error) {
	if p.from == "" {
		return "text:" + p.text, nil
	}
	var st unix.Stat_t
	if err := unix.Lstat(p.from, &st); err != nil {
		return "", fmt.Errorf("look at %s: %w", p.from, err)
	}
	return fmt.Sprintf("%s %d %d %d", p.from, st.Ino, st.Size, st.Mtim.Nano()), nil
}

// dotGit keeps the .git of a work tree as it is to be.
type dotGit struct {
	want  map[string]part
	dirs  map[string]bool
	known map[string]print
}

func newDotGit(want map[string]part, known map[string]print) *dotGit {
	g := &dotGit{want: want, known: known, dirs: map[string]bool{".git": true}}
	for name := range want {
		for d := filepath.Dir(name); d != "."; d = filepath.Dir(d) {
			g.dirs[".git/"+d] = true
		}
	}
	for _, d := range []string{"objects/pack", "objects/info", "refs/heads", "refs/tags"} {
		for ; d != "."; d = filepath.Dir(d) {
			g.dirs[".git/"+d] = true
		}
	}
	return g
}

// clean tells whether all of it, and nothing else, is there untouched.
func (g *dotGit) clean(w *walker) (bool, error) {
	seen := 0
	ok, err := g.visit(w, ".git", func(string, *unix.Stat_t) error { return errInWay }, func(string) { seen++ })
	if err != nil {
		return false, err
	}
	return ok && seen == len(g.want), nil
}

// visit goes through what is there. strange is called for what does not belong,
// or was touched; good for the rest.
func (g *dotGit) visit(w *walker, dir string, strange func(string, *unix.Stat_t) error, good func(string)) (bool, error) {
	fd, base, err := w.parent(dir, false)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, errInWay) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	n, err := unix.Openat(fd, base, unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return false, nil //nolint:nilerr // missing or no directory
	}
	f := os.NewFile(uintptr(n), dir)
	names, err := f.Readdirnames(-1)
	_ = f.Close()
	if err != nil {
		return false, fmt.Errorf("read %s: %w", dir, err)
	}
	sort.Strings(names)
	ok := true
	for _, name := range names {
		path := dir + "/" + name
		var st unix.Stat_t
		if err := w.lstat(path, &st); err != nil {
			return false, err
		}
		if g.dirs[path] && st.Mode&unix.S_IFMT == unix.S_IFDIR {
			below, err := g.visit(w, path, strange, good)
			if err != nil {
				return false, err
			}
			ok = ok && below
			continue
		}
		if g.untouched(path, &st) {
			good(strings.TrimPrefix(path, ".git/"))
			continue
		}
		ok = false
		if err := strange(path, &st); errors.Is(err, errInWay) {
			return false, nil
		} else if err != nil {
			return false, err
		}
	}
	return ok, nil
}

func (g *dotGit) untouched(path string, st *unix.Stat_t) bool {
	name := strings.TrimPrefix(path, ".git/")
	p, wanted := g.want[name]
	if !wanted || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return false
	}
	from, err := p.source()
	return err == nil && g.known[name] == printOf(st, from)
}

// put removes what does not belong and writes what is missing.
func (g *dotGit) put(w *walker) (map[string]print, error) {
	have := map[string]bool{}
	_, err := g.visit(w, ".git", func(path string, _ *unix.Stat_t) error { return w.remove(path) }, func(name string) { have[name] = true })
	if err != nil {
		return nil, err
	}
	dirs := make([]string, 0, len(g.dirs))
	for d := range g.dirs {
		dirs = append(dirs, d)
	}
	sort.Strings(dirs)
	for _, d := range dirs {
		if _, _, err := w.parent(d+"/x", true); err != nil {
			return nil, err
		}
	}
	made := make(map[string]print, len(g.want))
	names := make([]string, 0, len(g.want))
	for name := range g.want {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		if have[name] {
			made[name] = g.known[name]
			continue
		}
		if made[name], err = g.want[name].write(w, ".git/"+name); err != nil {
			return nil, err
		}
	}
	return made, nil
}

func (p part) write(w *walker, path string) (print, error) {
	from, err := p.source()
	if err != nil {
		return print{}, err
	}
	fd, base, err := w.parent(path, true)
	if err != nil {
		return print{}, err
	}
	if err := removeat(fd, base); err != nil {
		return print{}, err
	}
	n, err := unix.Openat(fd, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return print{}, fmt.Errorf("make %s: %w", path, err)
	}
	f := os.NewFile(uintptr(n), path)
	err = f.Chmod(0o644)
	if err == nil && p.from == "" {
		_, err = f.WriteString(p.text)
	} else if err == nil {
		err = copyFile(f, p.from)
	}
	var st unix.Stat_t
	err = errors.Join(err, unix.Fstat(n, &st), f.Close())
	if err != nil {
		return print{}, fmt.Errorf("write %s: %w", path, err)
	}
	return printOf(&st, from), nil
}

// copyFile copies without linking: what is in a work tree may be overwritten in
// place.
func copyFile(to *os.File, name string) error {
	from, err := os.Open(name)
	if err != nil {
		return err
	}
	defer func() { _ = from.Close() }()
	_, err = io.Copy(to, from)
	return err
}

// branchesAndTags is what a work tree knows of refs: with all of the history
// everything that the repository has, else the tags of the commit.
func (s *Sources) branchesAndTags(ctx context.Context, dir string, spec CheckoutSpec) (string, error) {
	tips, err := s.tips(ctx, dir)
	if err != nil {
		return "", err
	}
	lines := map[string]string{}
	for name, t := range tips {
		if spec.Depth > 0 && (!strings.HasPrefix(name, "refs/tags/") || t.hash != spec.Revision && t.commit != spec.Revision) {
			continue
		}
		if branch, ok := strings.CutPrefix(name, "refs/heads/"); ok {
			name = "refs/remotes/origin/" + branch
		}
		lines[name] = t.hash + " " + name + "\n"
		if t.commit != t.hash {
			lines[name] += "^" + t.commit + "\n"
		}
	}
	if spec.Branch != "" {
		lines["refs/heads/"+spec.Branch] = spec.Revision + " refs/heads/" + spec.Branch + "\n"
	}
	names := make([]string, 0, len(lines))
	for name := range lines {
		names = append(names, name)
	}
	sort.Strings(names)
	b := strings.Builder{}
	b.WriteString("# pack-refs with: peeled fully-peeled sorted \n")
	for _, name := range names {
		b.WriteString(lines[name])
	}
	return b.String(), nil
}

// parts gives the files of the .git of a work tree. objects is where they lie,
// refs what branchesAndTags gave, more the end of its config.
func (s *Sources) parts(objects, refs, origin, more string, spec CheckoutSpec) (map[string]part, error) {
	head := spec.Revision + "\n"
	if spec.Branch != "" {
		head = "ref: refs/heads/" + spec.Branch + "\n"
	}
	config := "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = false\n\tlogallrefupdates = true\n"
	if origin != "" {
		config += "[remote \"origin\"]\n\turl = " + quoteConfig(origin) + "\n\tfetch = +refs/heads/*:refs/remotes/origin/*\n"
		if spec.Branch != "" {
			config += "[branch " + quoteConfig(spec.Branch) + "]\n\tremote = origin\n\tmerge = " + quoteConfig("refs/heads/"+spec.Branch) + "\n"
		}
	}
	want := map[string]part{"HEAD": {text: head}, "config": {text: config + more}, "packed-refs": {text: refs}}
	if b, err := os.ReadFile(filepath.Join(objects, "shallow")); err == nil && len(b) > 0 {
		want["shallow"] = part{text: string(b)}
	}
	for _, dir := range beside(objects) {
		if err := objectFiles(want, dir); err != nil {
			return nil, err
		}
	}
	return want, nil
}

// objectFiles adds the objects of a repository to the files of a .git.
func objectFiles(want map[string]part, dir string) error {
	store := filepath.Join(dir, "objects")
	return filepath.WalkDir(store, func(p string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			if e != nil && e.IsDir() && p != store && !keptDir(e.Name()) {
				return filepath.SkipDir
			}
			return err
		}
		rel, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		in, name := filepath.Base(filepath.Dir(p)), e.Name()
		switch {
		case in == "pack" && strings.HasPrefix(name, "pack-") && (strings.HasSuffix(name, ".pack") || strings.HasSuffix(name, ".idx")):
		case len(in) == 2 && isHex(name) && len(name) == 38:
		default:
			return nil
		}
		want[rel] = part{from: p}
		return nil
	})
}

func keptDir(name string) bool { return name == "pack" || len(name) == 2 && isHex(name) }

func quoteConfig(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", " ").Replace(s) + `"`
}

// history brings the last commits of a revision into our own small repository
// beside the work index, from which the .git of the work tree is copied.
func (s *Sources) history(ctx context.Context, dir, small string, spec CheckoutSpec) error {
	if packs, _ := filepath.Glob(filepath.Join(small, "objects", "pack", "*.pack")); len(packs) > 24 {
		if err := os.RemoveAll(small); err != nil {
			return err
		}
	}
	if _, err := os.Lstat(filepath.Join(small, "HEAD")); err != nil {
		if err := os.RemoveAll(small); err != nil {
			return err
		}
		if err := makeBare(small); err != nil {
			return err
		}
	} else if err := sweep(small, 0); err != nil {
		return err
	}
	tags, err := s.git.tips(ctx, dir, "--points-at="+spec.Revision, "refs/tags")
	if err != nil {
		return err
	}
	args := []string{
		"fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--no-auto-maintenance", "--force", "--update-shallow",
		"--depth=" + strconv.Itoa(spec.Depth), "--", "file://" + dir, "+" + spec.Revision + ":refs/heads/at",
	}
	for name := range tags {
		if goodRef(name) {
			args = append(args, "+"+name+":"+name)
		}
	}
	_, err = s.git.run(ctx, call{repo: small, args: args, nosync: true, config: []string{"protocol.file.allow=always"}})
	return err
}
