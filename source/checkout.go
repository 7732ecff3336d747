package source

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"slipway/crash"
	"slipway/project"
)

// memory is what is remembered of a work tree: this, and the index beside it.
type memory struct {
	Dir      string
	Revision string
	Branch   string
	Depth    int
	Refs     string // branches and tags that its .git knows
	Origin   string
	Git      map[string]print
	Notes    []string // what was said about it
	Modules  []module // of its commit, if they were asked for
	From     string   // of a submodule: what its objects were come by with
}

var keyText = regexp.MustCompile(`^[0-9A-Za-z][0-9A-Za-z._-]{0,127}$`)

// checkout is one checkout under way.
type checkout struct {
	s      *Sources
	id     project.ID
	spec   CheckoutSpec
	repo   string // where the objects are
	origin string // of a linked project
	at     string // what is remembered lies here
	was    memory
	index  *index
	tree   *walker
	stage  *walker // the whole tree, in which files are written before they have their place
	mods   []module
	sub    *submodule // nil of the whole
}

// Checkout brings Dir to a commit: files of git are as in the commit, others
// stay, and .git is a repository of its own without credentials or config of
// whoever wrote into Dir before. Nothing that lies in Dir is run or followed
// out of it. A file whose content is right is left as it is, with its time.
// Submodules are fetched if the spec says so, the contents of Git LFS are not,
// which Out is told.
func (s *Sources) Checkout(ctx context.Context, id project.ID, spec CheckoutSpec) error {
	if err := spec.validate(); err != nil {
		return err
	}
	if !idText.MatchString(string(id)) {
		return fmt.Errorf("project %q: %w", id, errdefs.ErrNotFound)
	}
	c := &checkout{s: s, id: id, spec: spec, at: filepath.Join(s.cfg.Dir, "work", string(id), spec.Key)}
	if err := os.MkdirAll(filepath.Join(c.at, "empty"), 0o700); err != nil {
		return fmt.Errorf("check out: %w", err)
	}
	k, err := s.locks.take(ctx, c.at+"/lock", false)
	if err != nil {
		return err
	}
	defer k.release()
	now := time.Now()
	if err := os.Chtimes(c.at, now, now); err != nil { // it is in use
		return fmt.Errorf("check out: %w", err)
	}
	if c.tree, err = openWalker(spec.Dir); err != nil {
		return fmt.Errorf("check out: %w", err)
	}
	defer c.tree.close()
	c.stage = c.tree
	if err := c.inherit(now); err != nil {
		return fmt.Errorf("check out: %w", err)
	}
	if spec.Fresh {
		if err := os.RemoveAll(filepath.Join(c.at, modulesDir)); err != nil {
			return fmt.Errorf("check out: %w", err)
		}
	}
	if err := c.whole(ctx); err != nil {
		return err
	}
	if err := c.submodules(ctx); err != nil {
		return fmt.Errorf("check out %s: %w", spec.Revision, err)
	}
	return nil
}

// whole is the checkout without its submodules.
func (c *checkout) whole(ctx context.Context) error {
	for again := false; ; again = true {
		err := c.run(ctx)
		var g *gitError
		if err == nil || again || c.origin == "" || context.Cause(ctx) != nil || !errors.As(err, &g) {
			if err != nil {
				return fmt.Errorf("check out %s: %w", c.spec.Revision, err)
			}
			return nil
		}
		// A mirror that cannot be read is a cache gone bad.
		if err := c.s.forget(ctx, c.id); err != nil {
			return err
		}
	}
}

func (spec *CheckoutSpec) validate() error {
	var bad project.Invalid
	if !isHash(spec.Revision) {
		bad.Add("revision", "format", "is not a full hash")
	}
	if spec.Branch != "" && !goodRef("refs/heads/"+spec.Branch) {
		bad.Add("branch", "format", "is not the name of a branch")
	}
	if spec.Ref != "" && !goodRef(spec.Ref) {
		bad.Add("ref", "format", "is not the name of a ref")
	}
	if spec.Depth < 0 {
		bad.Add("depth", "minimum", "is less than 0")
	}
	if !filepath.IsAbs(spec.Dir) {
		bad.Add("dir", "format", "is not an absolute path")
	}
	if !keyText.MatchString(spec.Key) || spec.Of != "" && !keyText.MatchString(spec.Of) {
		bad.Add("key", "format", "is not a plain name")
	}
	return bad.Err()
}

// inherit remembers of a copy which files of git the original has.
func (c *checkout) inherit(now time.Time) error {
	if c.spec.Of == "" || c.spec.Of == c.spec.Key {
		return nil
	}
	of := filepath.Join(filepath.Dir(c.at), c.spec.Of)
	raw, err := os.ReadFile(filepath.Join(of, "index"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = os.Chtimes(of, now, now) // it is in use
	}
	if err == nil {
		err = os.RemoveAll(filepath.Join(c.at, "state.json"))
	}
	if err == nil {
		err = inheritModules(of, c.at)
	}
	if err == nil {
		err = replace(filepath.Join(c.at, "index"), raw)
	}
	return err
}

// Forget drops what is remembered of a work tree that is gone.
func (s *Sources) Forget(id project.ID, key string) error {
	if !idText.MatchString(string(id)) || !keyText.MatchString(key) {
		return fmt.Errorf("work tree %q of project %q: %w", key, id, errdefs.ErrNotFound)
	}
	return os.RemoveAll(filepath.Join(s.cfg.Dir, "work", string(id), key))
}

// forget drops the mirror of a project.
func (s *Sources) forget(ctx context.Context, id project.ID) error {
	return s.forgetMirror(ctx, s.mirrorOf(id))
}

func (s *Sources) forgetMirror(ctx context.Context, m mirror) error {
	k, err := s.locks.take(ctx, m.lock(), false)
	if err != nil {
		return err
	}
	defer k.release()
	return s.drop(m)
}

// objectsOf gives the repository that holds a commit, and of a linked project
// the URL of the origin.
func (s *Sources) objectsOf(ctx context.Context, id project.ID, revision string, depth int) (dir, origin string, err error) {
	return s.objectsAt(ctx, id, revision, "", depth)
}

// objectsAt is objectsOf for a commit that may be at a ref which is no branch and no
// tag.
func (s *Sources) objectsAt(ctx context.Context, id project.ID, revision, ref string, depth int) (dir, origin string, err error) {
	if dir := s.localFor(ctx, id, revision); dir != "" {
		return dir, "", nil
	}
	return s.keptAt(ctx, id, revision, ref, depth)
}

// keptAt is objectsAt without the working trees that were pushed.
func (s *Sources) keptAt(ctx context.Context, id project.ID, revision, ref string, depth int) (dir, origin string, err error) {
	remote, _, err := s.loadRemote(ctx, id)
	if err != nil {
		return "", "", err
	}
	if remote != nil {
		dir, err = s.fetch(ctx, id, remote, revision, ref, depth)
		return dir, remote.URL, err
	}
	dir, err = s.own(id)
	return dir, "", err
}

// fetchEverything brings all branches and tags of an outside repository into the
// mirror.
func (s *Sources) fetchEverything(ctx context.Context, id project.ID) error {
	remote, _, err := s.loadRemote(ctx, id)
	if err != nil || remote == nil {
		return err
	}
	_, err = s.wholeMirror(ctx, id, remote, true)
	return err
}

func (c *checkout) run(ctx context.Context) error {
	if c.spec.AllRefs {
		if err := c.s.fetchEverything(ctx, c.id); err != nil {
			return err
		}
	}
	var err error
	if c.repo, c.origin, err = c.s.objectsAt(ctx, c.id, c.spec.Revision, c.spec.Ref, c.spec.Depth); err != nil {
		return err
	}
	around := beside(c.repo) // of a working tree: what the project has
	refs, err := c.s.branchesAndTags(ctx, around[len(around)-1], c.spec)
	if err != nil {
		return err
	}
	c.was = c.remembered()
	ok, err := c.asRemembered()
	if err != nil {
		return err
	}
	if !ok {
		return c.change(ctx, refs)
	}
	if c.mods, err = c.modules(ctx); err != nil {
		return err
	}
	return c.finish(ctx, refs, c.was.Notes)
}

// asRemembered tells whether the files are those of the commit, and untouched.
func (c *checkout) asRemembered() (bool, error) {
	if c.index == nil || len(c.was.Notes) == 0 || c.was.Revision != c.spec.Revision || c.was.Branch != c.spec.Branch {
		return false, nil
	}
	wrong, err := c.wrong()
	return len(wrong) == 0, err
}

// remembered reads what is known of the work tree; nothing if it is a new one.
func (c *checkout) remembered() memory {
	var m memory
	c.index = nil
	if c.spec.Fresh {
		return m
	}
	b, err := os.ReadFile(filepath.Join(c.at, "state.json"))
	if err != nil || json.Unmarshal(b, &m) != nil || m.Dir != c.spec.Dir {
		m = memory{}
	}
	if raw, err := os.ReadFile(filepath.Join(c.at, "index")); err == nil {
		c.index, _ = parseIndex(raw)
	}
	return m
}

// parts are the files that .git is to hold.
func (c *checkout) parts(refs string) (map[string]part, error) {
	objects := c.repo
	if c.spec.Depth > 0 {
		objects = filepath.Join(c.at, "git")
	}
	want, err := c.s.parts(objects, refs, c.origin, activeModules(c.mods), c.spec)
	if err == nil {
		want["index"] = part{from: filepath.Join(c.at, "index")}
	}
	return want, err
}

// change brings the files, then .git, to the commit.
func (c *checkout) change(ctx context.Context, refs string) error {
	old := c.index
	now, err := c.readTree(ctx)
	if err != nil {
		return err
	}
	lost := now.inherit(old)
	c.index = now
	lines, err := c.notes(ctx)
	if err != nil {
		return err
	}
	if c.mods, err = c.modules(ctx); err != nil {
		return err
	}
	// From here on the tree is between two commits: the new index is kept with
	// what it inherited, so that a crash loses sight of no file.
	if err := os.RemoveAll(filepath.Join(c.at, "state.json")); err != nil {
		return err
	}
	if err := c.keepIndex(old, lost); err != nil {
		return err
	}
	if err := c.sweepStaging(); err != nil {
		return err
	}
	if err := c.removeLost(old, lost); err != nil {
		return err
	}
	c.tree.pop(0)
	crash.At("source: files of the old commit are gone")
	wrong, err := c.wrong()
	if err != nil {
		return err
	}
	if err := c.write(ctx, wrong); err != nil {
		return err
	}
	crash.At("source: files are checked out")
	if err := replace(filepath.Join(c.at, "index"), c.index.bytes()); err != nil {
		return err
	}
	return c.finish(ctx, refs, lines)
}

// removeLost removes the files that only the old commit has. Of a submodule these
// are those of its own commit; what others left there stays.
func (c *checkout) removeLost(old *index, lost []string) error {
	modules := map[string]bool{}
	if old != nil {
		for _, e := range old.links() {
			modules[e.path] = true
		}
	}
	for _, path := range lost {
		var err error
		if modules[path] {
			err = c.clearModule(path)
		} else {
			err = c.tree.remove(path)
		}
		if err == nil {
			err = c.tree.empty(path)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// finish brings .git to what it is to be, when all files are, and remembers
// the tree.
func (c *checkout) finish(ctx context.Context, refs string, lines []string) error {
	same := c.was.Revision == c.spec.Revision && c.was.Branch == c.spec.Branch && c.was.Depth == c.spec.Depth &&
		c.was.Refs == refs && c.was.Origin == c.origin && c.was.From == c.from()
	if c.spec.Depth > 0 && !same {
		if err := c.s.history(ctx, c.repo, filepath.Join(c.at, "git"), c.spec); err != nil {
			return err
		}
	}
	want, err := c.parts(refs)
	if err != nil {
		return err
	}
	c.tree.pop(0)
	git := newDotGit(want, c.was.Git)
	if same {
		ok, err := git.clean(c.tree)
		if err != nil {
			return err
		}
		if ok {
			c.say(lines)
			return nil
		}
	}
	made, err := git.put(c.tree)
	if err != nil {
		return err
	}
	m := memory{c.spec.Dir, c.spec.Revision, c.spec.Branch, c.spec.Depth, refs, c.origin, made, lines, c.mods, c.from()}
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if err := replace(filepath.Join(c.at, "state.json"), b); err != nil {
		return err
	}
	crash.At("source: a checkout is done")
	c.say(lines)
	return nil
}

// readTree makes the index of the commit. Git sees an empty folder for a work
// tree.
func (c *checkout) readTree(ctx context.Context) (*index, error) {
	name := filepath.Join(c.at, "index.new")
	for _, left := range []string{name, name + ".lock"} {
		if err := os.RemoveAll(left); err != nil {
			return nil, err
		}
	}
	_, err := c.s.git.run(ctx, call{
		repo: c.repo, tree: filepath.Join(c.at, "empty"), index: name, nosync: true,
		args: []string{"read-tree", c.spec.Revision},
	})
	if err != nil {
		return nil, err
	}
	raw, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	return parseIndex(raw)
}

// keepIndex remembers the paths of both commits: those of the new one as they
// will be, and those that are to go as they were.
func (c *checkout) keepIndex(old *index, lost []string) error {
	if len(lost) == 0 {
		return replace(filepath.Join(c.at, "index"), c.index.bytes())
	}
	return replace(filepath.Join(c.at, "index"), union(c.index, old).bytes())
}

// wrong lists the entries whose files are not as they are to be.
func (c *checkout) wrong() ([]int, error) {
	var list []int
	for i, e := range c.index.entries {
		var st unix.Stat_t
		err := c.tree.lstat(e.path, &st)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		if err == nil && (c.index.same(i, &st) || e.mode == modeModule && fits(e.mode, &st)) {
			continue
		}
		list = append(list, i)
	}
	return list, nil
}

const staging = ".slipway-checkout-"

// write lets git write files into a new folder that nobody else has seen, and
// moves them to their places.
func (c *checkout) write(ctx context.Context, wrong []int) error {
	if len(wrong) == 0 {
		return nil
	}
	name := staging + uuid.NewString()
	if err := mkdirat(c.stage.root, name, 0o700); err != nil {
		return fmt.Errorf("make a folder in the work tree: %w", err)
	}
	defer func() { _ = removeat(c.stage.root, name) }()
	staged := filepath.Join(c.stageDir(), name)
	var paths bytes.Buffer
	for _, i := range wrong {
		if c.index.entries[i].mode != modeModule {
			paths.WriteString(c.index.entries[i].path)
			paths.WriteByte(0)
		}
	}
	if paths.Len() > 0 {
		_, err := c.s.git.run(ctx, call{
			repo: c.repo, tree: filepath.Join(c.at, "empty"), index: filepath.Join(c.at, "index.new"), nosync: true, write: true,
			args:  []string{"checkout-index", "--quiet", "--force", "-z", "--stdin", "--prefix=" + staged + "/"},
			stdin: &paths,
		})
		if err != nil {
			return err
		}
	}
	from, err := openWalker(staged)
	if err != nil {
		return err
	}
	defer from.close()
	for _, i := range wrong {
		if err := c.place(from, i); err != nil {
			return fmt.Errorf("%s: %w", c.index.entries[i].path, err)
		}
	}
	return nil
}

// place moves one file to where it belongs, unless what is there is the same.
func (c *checkout) place(from *walker, i int) error {
	e := c.index.entries[i]
	to, base, err := c.tree.parent(e.path, true)
	if err != nil {
		return err
	}
	var st unix.Stat_t
	err = lstatat(to, base, &st)
	there := err == nil
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if e.mode == modeModule {
		if there {
			if err := removeat(to, base); err != nil {
				return err
			}
		}
		if err := mkdirat(to, base, 0o755); err != nil {
			return err
		}
		if err := lstatat(to, base, &st); err != nil {
			return err
		}
		c.index.set(i, &st)
		return nil
	}
	fd, name, err := from.parent(e.path, false)
	if err != nil {
		return err
	}
	same := false
	if there && fits(e.mode, &st) {
		if same, err = equal(fd, name, to, base); err != nil {
			return err
		}
	}
	if !same {
		if there && st.Mode&unix.S_IFMT == unix.S_IFDIR {
			if err := removeat(to, base); err != nil {
				return err
			}
		}
		if err := unix.Renameat(fd, name, to, base); err != nil {
			return fmt.Errorf("move into place: %w", err)
		}
	}
	if err := lstatat(to, base, &st); err != nil {
		return err
	}
	c.index.set(i, &st)
	return nil
}

// sweepStaging removes what a killed checkout left in the work tree.
func (c *checkout) sweepStaging() error {
	f, err := os.Open(c.stageDir())
	if err != nil {
		return err
	}
	names, err := f.Readdirnames(-1)
	_ = f.Close()
	if err != nil {
		return err
	}
	for _, name := range names {
		if rest, ok := strings.CutPrefix(name, staging); ok && uuid.Validate(rest) == nil {
			if err := removeat(c.stage.root, name); err != nil {
				return err
			}
		}
	}
	return nil
}

// replace writes a file that is there whole or not at all.
func replace(name string, data []byte) error {
	tmp := name + ".tmp"
	if err := os.WriteFile(tmp, data, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, name)
}
