package source

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
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
)

// Run repeats what is unfinished (a push whose event is missing), packs
// repositories, prunes old mirrors and removes repositories of projects that
// are gone, until ctx ends.
func (s *Sources) Run(ctx context.Context) error {
	s.catchUpAll(ctx)
	s.tidy(ctx)
	tick := time.NewTicker(between)
	defer tick.Stop()
	for {
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
	for _, id := range s.ids("repos") {
		if context.Cause(ctx) != nil {
			return
		}
		gone, err := s.removeGone(ctx, id, time.Now())
		log("cannot remove the repository of a deleted project", id, err)
		if !gone {
			log("cannot pack a repository", id, s.pack(ctx, s.repoPath(id), s.repoLock(id)))
		}
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
		log("cannot tidy a mirror", id, s.tidyMirror(ctx, id))
	}
}

// removeGone removes all that is here of a project that was deleted a week ago.
// The moment is remembered by a file, so that nothing of other rooms is read
// but whether there is such a project.
func (s *Sources) removeGone(ctx context.Context, id project.ID, now time.Time) (bool, error) {
	mark := filepath.Join(s.repoPath(id), "deleted")
	err := s.db.Read(ctx, func(tx *db.Tx) error {
		_, err := project.Load(tx, id)
		return err
	})
	if err == nil {
		if err := os.Remove(mark); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return false, err
		}
		return false, nil
	}
	if !errdefs.IsNotFound(err) {
		return false, err
	}
	fi, err := os.Lstat(mark)
	if errors.Is(err, fs.ErrNotExist) {
		return true, os.WriteFile(mark, nil, 0o600)
	}
	if err != nil || now.Sub(fi.ModTime()) < oldProject {
		return true, err
	}
	k, err := s.locks.take(ctx, s.repoLock(id), false)
	if err != nil {
		return true, err
	}
	defer k.release()
	if err := s.forget(ctx, id); err != nil {
		return true, err
	}
	err = s.db.Write(ctx, func(tx *db.Tx) error {
		_, err := tx.Exec(`DELETE FROM source_refs WHERE project = ?`, string(id))
		if err == nil {
			_, err = tx.Exec(`DELETE FROM source_remotes WHERE project = ?`, string(id))
		}
		return err
	})
	if err != nil {
		return true, fmt.Errorf("forget the refs: %w", err)
	}
	for _, p := range []string{filepath.Join(s.cfg.Dir, "work", string(id)), s.repoPath(id)} {
		if err := os.RemoveAll(p); err != nil {
			return true, err
		}
	}
	for _, p := range []string{s.repoLock(id), s.mirrorLock(id), filepath.Join(s.cfg.Dir, "mirrors", string(id)+".hosts")} {
		if err := os.Remove(p); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return true, err
		}
	}
	crash.At("source: a repository is removed")
	slog.Info("repository of a deleted project removed", "room", "source", "project", string(id))
	return true, nil
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
func (s *Sources) tidyMirror(ctx context.Context, id project.ID) error {
	fi, err := os.Lstat(s.mirrorLock(id))
	if err == nil && time.Since(fi.ModTime()) < oldMirror {
		return s.pack(ctx, s.mirrorPath(id), s.mirrorLock(id))
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return s.forget(ctx, id)
}
