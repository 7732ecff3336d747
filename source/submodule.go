package source

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"slipway/access"
	"slipway/crash"
	"slipway/db"
	"slipway/project"
	"slipway/secret"
)

// A submodule is checked out as the whole is: into its folder of the work tree,
// with a .git of its own there. What is remembered of it lies in modulesDir of
// what is remembered of the tree that it is in.
const modulesDir = "modules"

// Bounds of the submodules of one checkout.
const (
	mostModules   = 200
	deepestModule = 10 // in each other
	gatherTime    = time.Hour
)

// submodule is what a checkout knows if it is of one.
type submodule struct {
	path  string // from the whole tree
	depth int
	where supply
	all   *gathering
}

// gathering is what all submodules of a checkout have in common.
type gathering struct {
	top     *checkout
	project project.Project
	remote  *Remote // that the project is linked to, or nil
	n       int
	key     []byte // of Modules.Key, once it was needed
}

// supply is where a submodule comes from.
type supply struct {
	name   string     // for people
	base   string     // URL that those of its own submodules are relative to
	own    project.ID // a project of this server, or
	remote *Remote    // an outside repository,
	lent   bool       // that is opened with the login of the project's
	from   string     // what it is opened with, and what: its objects are for nobody else
}

// below is a path of the commit as one of the whole tree.
func (c *checkout) below(path string) string {
	if c.sub == nil {
		return path
	}
	return c.sub.path + "/" + path
}

func (c *checkout) stageDir() string {
	if c.sub == nil {
		return c.spec.Dir
	}
	return c.sub.all.top.spec.Dir
}

func (c *checkout) from() string {
	if c.sub == nil {
		return ""
	}
	return c.sub.where.from
}

// moduleAt is where something is remembered of the submodule at a path.
func moduleAt(at, path string) string {
	sum := sha256.Sum256([]byte(path))
	return filepath.Join(at, modulesDir, hex.EncodeToString(sum[:16]))
}

// submodules brings the folders of submodules to what the commit says, when all
// else is there. Folders of those that are not fetched are empty, but for what
// others left in them.
func (c *checkout) submodules(ctx context.Context) error {
	links := c.index.links()
	if err := c.forgetModules(links); err != nil {
		return err
	}
	if len(links) == 0 {
		return nil
	}
	if c.spec.Modules == nil {
		for _, e := range links {
			if err := c.leaveOut(e.path, "fetch_submodules of the project is off"); err != nil {
				return err
			}
		}
		return nil
	}
	if c.sub != nil {
		return c.gather(ctx, c.sub.all, c.sub.where.base, c.sub.depth+1)
	}
	all := &gathering{top: c}
	err := c.s.db.Read(ctx, func(tx *db.Tx) (err error) {
		if all.project, err = project.Load(tx, c.id); err != nil {
			return err
		}
		all.remote, _, err = c.s.remoteIn(tx, c.id)
		return err
	})
	if err != nil {
		return err
	}
	base := c.s.cfg.Public + URL(all.project.Domain, all.project.Name)
	if all.remote != nil {
		base = all.remote.URL
	}
	ctx, cancel := context.WithTimeoutCause(ctx, gatherTime, fmt.Errorf("the submodules took more than %s: %w", gatherTime, errdefs.ErrUnavailable))
	defer cancel()
	return c.gather(ctx, all, base, 1)
}

// forgetModules drops what is remembered of submodules in whose place something
// else is.
func (c *checkout) forgetModules(links []entry) error {
	list, err := os.ReadDir(filepath.Join(c.at, modulesDir))
	if err != nil {
		return ignoreMissing(err)
	}
	keep := map[string]bool{}
	for _, e := range links {
		keep[filepath.Base(moduleAt("", e.path))] = true
	}
	for _, d := range list {
		if !keep[d.Name()] {
			if err := os.RemoveAll(filepath.Join(c.at, modulesDir, d.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// leaveOut takes the files of a submodule away that is not to be fetched.
func (c *checkout) leaveOut(path, why string) error {
	if _, err := os.Lstat(moduleAt(c.at, path)); err == nil {
		if err := c.clearModule(path); err != nil {
			return err
		}
		if _, _, err := c.tree.parent(path+"/x", true); err != nil { // the folder stays
			return err
		}
		c.tree.pop(0)
	}
	c.say([]string{fmt.Sprintf("Submodule %s is not fetched: its folder stays empty (%s)", c.below(path), why)})
	return nil
}

// clearModule takes the files of a submodule away, those of its own submodules and
// its .git; what others left in its folder stays.
func (c *checkout) clearModule(path string) error {
	defer c.tree.pop(0)
	return clearModule(c.tree, path, moduleAt(c.at, path))
}

func clearModule(w *walker, path, at string) error {
	if raw, err := os.ReadFile(filepath.Join(at, "index")); err == nil {
		x, err := parseIndex(raw)
		if err != nil {
			x = &index{}
		}
		for _, e := range x.entries {
			name := path + "/" + e.path
			if e.mode == modeModule {
				err = clearModule(w, name, moduleAt(at, e.path))
			} else {
				err = w.remove(name)
			}
			if err == nil {
				err = w.empty(name)
			}
			if err != nil {
				return err
			}
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := w.remove(path + "/.git"); err != nil {
		return err
	}
	if err := w.empty(path + "/.git"); err != nil {
		return err
	}
	crash.At("source: files of a submodule are gone")
	return os.RemoveAll(at)
}

// inheritModules remembers of the submodules of a copy which files the original
// has.
func inheritModules(of, at string) error {
	to := filepath.Join(at, modulesDir)
	if err := os.RemoveAll(to); err != nil {
		return err
	}
	list, err := os.ReadDir(filepath.Join(of, modulesDir))
	if err != nil {
		return ignoreMissing(err)
	}
	for _, d := range list {
		from, to := filepath.Join(of, modulesDir, d.Name()), filepath.Join(to, d.Name())
		raw, err := os.ReadFile(filepath.Join(from, "index"))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = os.MkdirAll(to, 0o700)
		}
		if err == nil {
			err = inheritModules(from, to)
		}
		if err == nil {
			err = replace(filepath.Join(to, "index"), raw)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// gather checks the submodules of a commit out, one after the other. base is the
// URL that theirs are relative to.
func (c *checkout) gather(ctx context.Context, all *gathering, base string, depth int) error {
	for i, e := range c.index.links() {
		m, path := c.mods[i], c.below(e.path)
		if m.Skip {
			if err := c.leaveOut(e.path, ".gitmodules says update = none"); err != nil {
				return err
			}
			continue
		}
		if all.n++; all.n > mostModules {
			return noModule("there are more than %d submodules", mostModules)
		}
		if depth > deepestModule {
			return noModule("submodule %s: submodules are more than %d deep in each other", path, deepestModule)
		}
		where, err := all.supply(ctx, base, m)
		if err != nil {
			return fmt.Errorf("submodule %s: %w", path, err)
		}
		if err := c.gatherOne(ctx, e, &submodule{path, depth, where, all}); err != nil {
			return err
		}
	}
	return nil
}

func (c *checkout) gatherOne(ctx context.Context, e entry, of *submodule) error {
	in, _, err := c.tree.parent(e.path+"/x", true)
	if err != nil {
		return err
	}
	fd, err := unix.Openat(in, ".", unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", of.path, err)
	}
	sub := &checkout{
		s: c.s, id: c.id, at: moduleAt(c.at, e.path), tree: &walker{root: fd}, stage: c.stage, sub: of,
		spec: CheckoutSpec{
			Revision: e.hex(), Depth: max(c.spec.Depth, 1), Dir: filepath.Join(c.spec.Dir, filepath.FromSlash(e.path)),
			Modules: c.spec.Modules, Out: c.spec.Out,
		},
	}
	defer sub.tree.close()
	if r := of.where.remote; r != nil {
		sub.origin = r.URL
	}
	if err := os.MkdirAll(filepath.Join(sub.at, "empty"), 0o700); err != nil {
		return err
	}
	if err := sub.mended(ctx); err != nil {
		return fmt.Errorf("submodule %s: %w", of.path, err)
	}
	crash.At("source: a submodule is checked out")
	return sub.submodules(ctx)
}

// mended is bring, once more without what may be a cache gone bad.
func (c *checkout) mended(ctx context.Context) error {
	err := c.bring(ctx)
	var g *gitError
	if err == nil || context.Cause(ctx) != nil || !errors.As(err, &g) {
		return err
	}
	if err := errors.Join(os.RemoveAll(filepath.Join(c.at, "state.json")), os.RemoveAll(filepath.Join(c.at, "git"))); err != nil {
		return err
	}
	where := c.sub.where
	switch {
	case where.remote != nil:
		err = c.s.forgetMirror(ctx, c.s.moduleMirror(c.id, where.from))
	default:
		err = c.s.forget(ctx, where.own) // there is none unless it is linked itself
	}
	if err != nil {
		return err
	}
	return c.bring(ctx)
}

// bring brings the folder of a submodule to its commit. One that is as it is to be
// costs a look at its files.
func (c *checkout) bring(ctx context.Context) error {
	c.was = c.remembered()
	same, err := c.asRemembered()
	if err != nil {
		return err
	}
	if same && c.was.From == c.from() && c.was.Depth == c.spec.Depth && len(c.was.Modules) == len(c.index.links()) {
		c.mods = c.was.Modules
		return c.finish(ctx, c.was.Refs, c.was.Notes)
	}
	if c.repo, err = c.supplied(ctx); err != nil {
		return err
	}
	refs, err := c.s.branchesAndTags(ctx, c.repo, c.spec)
	if err != nil {
		return err
	}
	if !same || c.was.From != c.from() { // what is said of it is another text
		return c.change(ctx, refs)
	}
	if c.mods, err = c.modules(ctx); err != nil {
		return err
	}
	return c.finish(ctx, refs, c.was.Notes)
}

// supplied gives the repository that has the commit of a submodule.
func (c *checkout) supplied(ctx context.Context) (dir string, err error) {
	where, hash := c.sub.where, c.spec.Revision
	if where.remote == nil {
		dir, _, err = c.s.keptAt(ctx, where.own, hash, "", c.spec.Depth)
	} else {
		dir, err = c.s.fetchModule(ctx, c.id, where, hash, c.spec.Depth)
	}
	if err != nil {
		return "", err
	}
	if !c.s.has(ctx, dir, hash) {
		return "", noModule("%s has no commit %s", where.name, hash)
	}
	crash.At("source: a submodule is fetched")
	return dir, nil
}

// supply finds out where a submodule comes from, and what it is opened with.
func (g *gathering) supply(ctx context.Context, base string, m module) (supply, error) {
	text, err := relativeURL(base, m.URL)
	if err != nil {
		return supply{}, err
	}
	s, use := g.top.s, g.top.spec.Modules
	if workspace, name, ok := s.ownURL(text); ok {
		return g.ownSupply(ctx, workspace, name)
	}
	r := &Remote{URL: text}
	if err := r.normalize(nil, s.cfg.Private); err != nil {
		if bad, ok := project.AsInvalid(err); ok {
			err = noModule("its url %s %s", redact(text), bad.Fields[0].Message)
		}
		return supply{}, err
	}
	p, _, err := parseURL(r.URL)
	if err != nil {
		return supply{}, err
	}
	to := supply{name: redact(r.URL), base: r.URL, remote: r}
	near := g.remote != nil && sameHost(g.remote.URL, r.URL)
	how := "url " + r.Username + ":" + r.Password // what stands in the commit is no secret
	switch {
	case use.Bare:
	case p.scheme == "ssh":
		if how, err = g.unlock(ctx, r, near); err != nil {
			return supply{}, err
		}
		to.lent = how != "" && use.Key == ""
	case r.Username+r.Password == "" && near && g.remote.Username+g.remote.Password != "":
		r.Username, r.Password, how, to.lent = g.remote.Username, g.remote.Password, "login", true
	}
	sum := sha256.Sum256([]byte(r.URL + "\n" + how))
	to.from = hex.EncodeToString(sum[:16])
	return to, nil
}

// unlock gives a submodule over ssh its key, if there is one, and tells which.
func (g *gathering) unlock(ctx context.Context, r *Remote, near bool) (string, error) {
	name := g.top.spec.Modules.Key
	switch {
	case name != "":
		if err := g.openKey(ctx, name); err != nil {
			return "", err
		}
		r.PrivateKey = g.key
	case near:
		r.PrivateKey, r.Username = g.remote.PrivateKey, g.remote.Username
	}
	if len(r.PrivateKey) == 0 {
		return "", nil
	}
	key, err := ssh.ParsePrivateKey(r.PrivateKey)
	if err != nil {
		return "", noModule("the key of the variable %q (fetch_submodules_env_key) is not an ssh private key without a passphrase", name)
	}
	return "key " + r.Username + " " + ssh.FingerprintSHA256(key.PublicKey()), nil
}

// openKey finds the variable with the key for submodules over ssh.
func (g *gathering) openKey(ctx context.Context, name string) error {
	if g.key != nil {
		return nil
	}
	list, err := g.top.s.secrets.Effective(ctx, secret.Scope{Workspace: g.project.Workspace, Project: g.project.ID})
	if err != nil {
		return err
	}
	i := slices.IndexFunc(list, func(v secret.Variable) bool { return v.Key == name })
	if i < 0 {
		return noModule("fetch_submodules_env_key: there is no variable %q in the project or its workspace", name)
	}
	if list[i].Type != secret.SSHKey {
		return noModule("fetch_submodules_env_key: the variable %q is of type %s, not %s", name, list[i].Type, secret.SSHKey)
	}
	g.key = []byte(list[i].Value)
	return nil
}

// ownSupply is supply for a project of this server: one that everybody may read,
// or one of the same workspace that the user of the run may read.
func (g *gathering) ownSupply(ctx context.Context, workspace, name string) (supply, error) {
	s, use := g.top.s, g.top.spec.Modules
	refused := noModule("there is no project %s/%s, or its repository is not for who started the run to read", workspace, name)
	p, err := s.projects.Find(ctx, access.System(access.User{}), workspace, name)
	if errdefs.IsNotFound(err) {
		return supply{}, refused
	}
	if err != nil {
		return supply{}, err
	}
	to := supply{name: "project " + p.Name, base: s.cfg.Public + URL(p.Domain, p.Name), own: p.ID, from: "project " + string(p.ID)}
	if p.Domain != g.project.Domain {
		to.name = "project " + p.Domain + "/" + p.Name
	}
	switch {
	case p.Public || p.ID == g.project.ID && !use.Bare:
		return to, nil
	case use.Bare || use.By == 0 || p.Workspace != g.project.Workspace:
		return supply{}, refused
	}
	err = s.db.Read(ctx, func(tx *db.Tx) error {
		by, err := access.As(tx, use.By, access.ProjectRead, access.RepositoryRead)
		if err != nil {
			return err
		}
		if !by.SeesProject(p.Workspace, string(p.ID)) {
			return refused
		}
		return by.MayIn(p.Workspace, string(p.ID), access.RepositoryRead)
	})
	if errdefs.IsPermissionDenied(err) || errdefs.IsNotFound(err) {
		err = refused
	}
	return to, err
}

// Mirrors of submodules belong to one project, and of what was opened with a login
// or key there is another one than of what was not.

func (s *Sources) modulesPath(id project.ID) string {
	return filepath.Join(s.cfg.Dir, "mirrors", string(id)+".modules")
}

func (s *Sources) moduleMirror(id project.ID, from string) mirror {
	return mirror{id, filepath.Join(s.modulesPath(id), from+".git")}
}

// lockModules is shared by who uses mirrors of submodules, and had alone by who
// removes them all.
func (s *Sources) lockModules(ctx context.Context, id project.ID, shared bool) (*lock, error) {
	return s.locks.take(ctx, s.modulesPath(id)+".lock", shared)
}

func (s *Sources) fetchModule(ctx context.Context, id project.ID, where supply, hash string, depth int) (string, error) {
	k, err := s.lockModules(ctx, id, true)
	if err != nil {
		return "", err
	}
	defer k.release()
	m := s.moduleMirror(id, where.from)
	if err := os.MkdirAll(filepath.Dir(m.dir), 0o700); err != nil {
		return "", err
	}
	may := func() error {
		if s.cfg.Room != nil {
			if err := s.cfg.Room(); err != nil {
				return err
			}
		}
		if !where.lent {
			return nil
		}
		now, _, err := s.loadRemote(ctx, id)
		if err == nil && (now == nil || !sameHost(now.URL, where.remote.URL)) {
			err = fmt.Errorf("the project was linked to something else meanwhile: %w", errdefs.ErrAborted)
		}
		return err
	}
	return s.fetchInto(ctx, m, where.remote, may, hash, "", depth)
}

// dropModules removes the mirrors of all submodules of a project; the caller has
// the lock of lockModules alone.
func (s *Sources) dropModules(id project.ID) error { return os.RemoveAll(s.modulesPath(id)) }

func (s *Sources) forgetModules(ctx context.Context, id project.ID) error {
	k, err := s.lockModules(ctx, id, false)
	if err != nil {
		return err
	}
	defer k.release()
	return s.dropModules(id)
}

// manyModules is how many mirrors of submodules a project keeps: those that were
// fetched into last.
const manyModules = 2 * mostModules

// tidyModules drops mirrors of submodules that nobody has used for long, and what
// are too many, and tidies the others.
func (s *Sources) tidyModules(ctx context.Context, id project.ID) error {
	dir := s.modulesPath(id)
	if _, err := os.Lstat(dir); err != nil {
		return ignoreMissing(err)
	}
	k, err := s.lockModules(ctx, id, true)
	if err != nil {
		return err
	}
	defer k.release()
	list, err := os.ReadDir(dir)
	if err != nil {
		return ignoreMissing(err)
	}
	type used struct {
		mirror
		at time.Time
	}
	var all []used
	for _, e := range list {
		name := filepath.Join(dir, e.Name())
		fi, err := os.Lstat(name)
		if err != nil {
			return ignoreMissing(err)
		}
		switch {
		case strings.HasSuffix(name, ".lock"):
			all = append(all, used{mirror{id, strings.TrimSuffix(name, ".lock") + ".git"}, fi.ModTime()})
		case strings.HasPrefix(e.Name(), ".new-") && time.Since(fi.ModTime()) > time.Hour: // half-made
			if err := os.RemoveAll(name); err != nil {
				return err
			}
		}
	}
	slices.SortFunc(all, func(a, b used) int { return b.at.Compare(a.at) })
	for i, m := range all {
		if context.Cause(ctx) != nil {
			return context.Cause(ctx)
		}
		if i < manyModules && time.Since(m.at) < oldMirror {
			err = s.tidyMirror(ctx, m.mirror)
		} else {
			err = s.removeMirror(ctx, m.mirror)
		}
		var g *gitError
		if errors.As(err, &g) && context.Cause(ctx) == nil { // a cache gone bad
			err = s.removeMirror(ctx, m.mirror)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// removeMirror removes a mirror with its lock.
func (s *Sources) removeMirror(ctx context.Context, m mirror) error {
	k, err := s.locks.take(ctx, m.lock(), false)
	if err != nil {
		return err
	}
	defer k.release()
	if err := s.drop(m); err != nil {
		return err
	}
	return os.Remove(m.lock())
}
