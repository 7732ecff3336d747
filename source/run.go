package source

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"slipway/crash"
	"slipway/db"
	"slipway/project"
)

// When things are tidied.
const (
	oldObjects = 24 * time.Hour      // half-written objects, which a slow push may still be writing
	oldMirror  = 14 * 24 * time.Hour // nobody fetched into it
	oldProject = 7 * 24 * time.Hour  // deleted, and could be restored until now
	oldWork    = 90 * 24 * time.Hour // what is remembered of a work tree that nobody checks out into
	between    = 10 * time.Minute
	manyPacks  = 40
	newest     = 100 // commits that a mirror keeps because they were asked for
)

// Run repeats what is unfinished (a push whose event is missing), goes on with
// fetches that nobody can wait for, packs repositories, prunes old mirrors and removes what is here of projects that
// are gone, until ctx ends.
func (s *Sources) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	s.catchUpAll(ctx)
	s.tidy(ctx)
	tick := time.NewTicker(between)
	defer tick.Stop()
	for {
		s.fetchWhole(ctx, &wg)
		var retry <-chan time.Time
		if s.pending() {
			retry = time.After(time.Second)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-s.wake:
		case <-retry:
			s.retell(ctx)
		case <-tick.C:
			s.tidy(ctx)
		}
	}
}

func (s *Sources) pending() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.untold) > 0
}

// retell tries again what failed.
func (s *Sources) retell(ctx context.Context) {
	s.mu.Lock()
	list := make([]project.ID, 0, len(s.untold))
	for id := range s.untold {
		list = append(list, id)
	}
	s.mu.Unlock()
	for _, id := range list {
		s.catchUpLogged(ctx, id)
	}
}

func (s *Sources) catchUpLogged(ctx context.Context, id project.ID) {
	err := s.catchUp(ctx, id)
	if context.Cause(ctx) != nil {
		return
	}
	s.mu.Lock()
	if err == nil {
		delete(s.untold, id)
	} else {
		s.untold[id] = true
	}
	s.mu.Unlock()
	if err != nil {
		slog.Error("a push is not told yet", "room", "source", "project", string(id), "error", err)
	}
}

// catchUpAll compares every repository with what was told of it.
func (s *Sources) catchUpAll(ctx context.Context) {
	for _, id := range s.ids("repos") {
		if context.Cause(ctx) != nil {
			return
		}
		s.catchUpLogged(ctx, id)
	}
}

// all lists the projects of which anything is here.
func (s *Sources) all() []project.ID {
	found := map[project.ID]bool{}
	for _, pattern := range []string{
		"repos/*.git", "repos/*.lock", "repos/*.deleted", "mirrors/*.git", "mirrors/*.lock", "mirrors/*.hosts", "mirrors/*.modules", "work/*", "local/*",
	} {
		list, _ := filepath.Glob(filepath.Join(s.cfg.Dir, pattern))
		for _, p := range list {
			name, _, _ := strings.Cut(filepath.Base(p), ".")
			if idText.MatchString(name) {
				found[project.ID(name)] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(found))
}

// ids lists the projects that have a repository or a mirror.
func (s *Sources) ids(kind string) []project.ID {
	list, err := os.ReadDir(filepath.Join(s.cfg.Dir, kind))
	if err != nil {
		slog.Error("cannot list repositories", "room", "source", "error", err)
		return nil
	}
	var ids []project.ID
	for _, e := range list {
		if name, ok := strings.CutSuffix(e.Name(), ".git"); ok && idText.MatchString(name) {
			ids = append(ids, project.ID(name))
		}
	}
	return ids
}

// tidy goes through everything once. What fails is logged and tried the next
// time.
func (s *Sources) tidy(ctx context.Context) {
	log := func(what string, id project.ID, err error) {
		if err != nil && context.Cause(ctx) == nil {
			slog.Warn(what, "room", "source", "project", string(id), "error", err)
		}
	}
	for _, d := range []string{"repos", "mirrors"} {
		left, _ := filepath.Glob(filepath.Join(s.cfg.Dir, d, ".new-*"))
		for _, p := range left {
			if fi, err := os.Lstat(p); err == nil && time.Since(fi.ModTime()) > time.Hour {
				log("cannot remove a half-made repository", "", os.RemoveAll(p))
			}
		}
	}
	for _, id := range s.all() {
		if context.Cause(ctx) != nil {
			return
		}
		log("cannot remove what is here of a deleted project", id, s.removeGone(ctx, id, time.Now()))
	}
	for _, id := range s.ids("repos") {
		if context.Cause(ctx) != nil {
			return
		}
		log("cannot pack a repository", id, s.pack(ctx, s.repoPath(id), s.repoLock(id)))
	}
	trees, _ := filepath.Glob(filepath.Join(s.cfg.Dir, "work", "*", "*"))
	for _, p := range trees {
		if fi, err := os.Lstat(p); err == nil && time.Since(fi.ModTime()) > oldWork {
			log("cannot remove what is remembered of a work tree", "", os.RemoveAll(p))
		}
	}
	for _, id := range s.ids("mirrors") {
		if context.Cause(ctx) != nil {
			return
		}
		log("cannot tidy a mirror", id, s.tidyMirror(ctx, s.mirrorOf(id)))
	}
	for _, id := range s.all() {
		if context.Cause(ctx) != nil {
			return
		}
		log("cannot tidy the mirrors of submodules", id, s.tidyModules(ctx, id))
	}
}

// removeGone removes all that is here of a project that was deleted a week ago
// and cannot be restored any more. When it was first seen to be deleted is
// remembered by a file, which also keeps for a week what a store that was
// brought back from a backup does not know.
func (s *Sources) removeGone(ctx context.Context, id project.ID, now time.Time) error {
	mark := filepath.Join(s.cfg.Dir, "repos", string(id)+".deleted")
	var deleted, removed bool
	err := s.db.Read(ctx, func(tx *db.Tx) error {
		_, err := project.Load(tx, id)
		if deleted = errdefs.IsNotFound(err); !deleted {
			return err
		}
		_, err = project.LoadAny(tx, id)
		if removed = errdefs.IsNotFound(err); !removed {
			return err
		}
		return nil
	})
	if err != nil {
		return err
	}
	if !deleted {
		return ignoreMissing(os.Remove(mark))
	}
	fi, err := os.Lstat(mark)
	if errors.Is(err, fs.ErrNotExist) {
		return os.WriteFile(mark, nil, 0o600)
	}
	if err != nil || !removed || now.Sub(fi.ModTime()) < oldProject {
		return err
	}
	k, err := s.locks.take(ctx, s.repoLock(id), false)
	if err != nil {
		return err
	}
	defer k.release()
	if err := s.forget(ctx, id); err != nil {
		return err
	}
	if err := s.forgetModules(ctx, id); err != nil {
		return err
	}
	hosts := filepath.Join(s.cfg.Dir, "mirrors", string(id)+".hosts")
	// The mark is the last: a kill before leaves it to the next time.
	for _, p := range []string{
		filepath.Join(s.cfg.Dir, "work", string(id)), filepath.Join(s.cfg.Dir, "local", string(id)), s.repoPath(id), s.mirrorLock(id),
		s.modulesPath(id), s.modulesPath(id) + ".lock", hosts, s.repoLock(id), mark,
	} {
		if err := os.RemoveAll(p); err != nil {
			return err
		}
	}
	crash.At("source: a repository is removed")
	slog.Info("repository of a deleted project removed", "room", "source", "project", string(id))
	return nil
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// pack puts the many small packs that pushes leave into few. Objects that no
// ref leads to any more stay: an execution may still want its commit.
func (s *Sources) pack(ctx context.Context, dir, lockPath string) error {
	packs, err := filepath.Glob(filepath.Join(dir, "objects", "pack", "pack-*.pack"))
	if err != nil || len(packs) < manyPacks {
		return err
	}
	k, err := s.locks.take(ctx, lockPath, false)
	if err != nil {
		return err
	}
	defer k.release()
	if err := sweep(dir, oldObjects); err != nil {
		return err
	}
	for _, args := range [][]string{{"repack", "--quiet", "-d", "--geometric=2"}, {"pack-refs", "--all"}} {
		if _, err := s.git.run(ctx, call{repo: dir, args: args, files: []*os.File{k.file}}); err != nil {
			return err
		}
	}
	return nil
}

// tidyMirror drops what nobody has used for long.
func (s *Sources) tidyMirror(ctx context.Context, m mirror) error {
	fi, err := os.Lstat(m.lock())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err != nil || time.Since(fi.ModTime()) >= oldMirror {
		return s.forgetMirror(ctx, m)
	}
	dir := m.dir
	asked, err := s.asked(ctx, dir)
	if err != nil {
		return err
	}
	if len(asked) > 2*newest { // not each time: all packs are written anew
		return s.trim(ctx, dir, m.lock())
	}
	return s.pack(ctx, dir, m.lock())
}

// asked lists the refs that keep commits of a mirror because they were asked
// for, the newest commit first.
func (s *Sources) asked(ctx context.Context, dir string) ([]string, error) {
	if _, err := os.Lstat(filepath.Join(dir, "HEAD")); err != nil {
		return nil, ignoreMissing(err)
	}
	out, err := s.git.run(ctx, call{repo: dir, args: []string{"for-each-ref", "--sort=-committerdate", "--format=%(refname)", "refs/slipway/"}})
	return strings.Fields(string(out)), err
}

// trim keeps of a mirror its branches and tags and the newest of what was asked
// for, and drops all that nothing leads to any more. A commit that is wanted
// again is fetched again.
func (s *Sources) trim(ctx context.Context, dir, lockPath string) error {
	k, err := s.locks.take(ctx, lockPath, false)
	if err != nil {
		return err
	}
	defer k.release()
	asked, err := s.asked(ctx, dir)
	if err != nil || len(asked) <= newest {
		return err
	}
	if err := sweep(dir, 0); err != nil { // nobody else writes here
		return err
	}
	var drop strings.Builder
	for _, ref := range asked[newest:] {
		drop.WriteString("delete " + ref + "\n")
	}
	for _, c := range []call{
		{args: []string{"update-ref", "--stdin"}, stdin: strings.NewReader(drop.String())},
		{args: []string{"pack-refs", "--all"}},
		{args: []string{"repack", "--quiet", "-a", "-d"}},
		{args: []string{"prune", "--expire=now"}}, // also of where history is cut off
	} {
		c.repo, c.nosync, c.files = dir, true, []*os.File{k.file}
		if _, err := s.git.run(ctx, c); err != nil {
			return err
		}
	}
	return nil
}
