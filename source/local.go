package source

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"slipway/project"
)

// A working tree that somebody has before him comes as a commit, by a push to
// /git/<workspace>/<project>.git/local/<commit>, and lies in a repository of its
// own, local/<project>/<commit>.git. That has the objects that the project's, or
// the mirror of a linked project, has not, and finds the others there. So nobody
// can fetch it, no branch, tag or revision leads to it, and all of it goes with
// its folder.

// localRef keeps the commit of a working tree in its repository.
const localRef = "refs/slipway/local"

// LocalTree is the commit of a working tree that was pushed.
type LocalTree struct {
	Project project.ID
	Commit  string
	At      time.Time // when it came, or was asked for by Local
}

func (s *Sources) localPath(id project.ID, hash string) string {
	return filepath.Join(s.cfg.Dir, "local", string(id), hash+".git")
}

// openLocal makes the repository of a working tree beside base, the one of its
// project.
func (s *Sources) openLocal(id project.ID, hash, base string) (string, error) {
	dir := s.localPath(id, hash)
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return "", err
	}
	if _, err := os.Lstat(filepath.Join(dir, "HEAD")); err != nil {
		if err := makeBare(dir); err != nil {
			return "", fmt.Errorf("make a repository for a working tree: %w", err)
		}
	}
	if err := replace(filepath.Join(dir, "objects", "info", "alternates"), []byte(filepath.Join(base, "objects")+"\n")); err != nil {
		return "", err
	}
	shallow, err := os.ReadFile(filepath.Join(base, "shallow"))
	if errors.Is(err, fs.ErrNotExist) {
		return dir, nil
	}
	if err == nil {
		err = replace(filepath.Join(dir, "shallow"), shallow)
	}
	return dir, err
}

// serveLocal takes the push of a working tree.
func (s *Sources) serveLocal(w http.ResponseWriter, r *http.Request, id project.ID, base string, a asked) error {
	dir, err := s.openLocal(id, a.local, base)
	if err != nil {
		return err
	}
	c := s.serving("receive-pack", dir, "")
	c.config = append(c.config, "transfer.hideRefs=refs/", "transfer.hideRefs=!"+localRef, "core.alternateRefsPrefixes=refs/heads/ refs/tags/")
	if a.advertise {
		return s.tellRefs(w, r, a.command, c)
	}
	return s.converse(w, r, c, s.cfg.MaxPush+maxAsking, "a push is larger than this server takes")
}

// Local finds the commit of a working tree that was pushed; errdefs.ErrNotFound
// is one that was not, or is gone. It is on disk, and stays for a day at least.
func (s *Sources) Local(ctx context.Context, id project.ID, hash string) (*Commit, error) {
	missing := fmt.Errorf("working tree %s: it was not pushed, or is not kept any more: %w", hash, errdefs.ErrNotFound)
	if !isHash(hash) || !s.hasLocal(ctx, id, hash) {
		return nil, missing
	}
	dir, now := s.localPath(id, hash), time.Now()
	if err := os.Chtimes(dir, now, now); err != nil {
		return nil, missing
	}
	if err := syncRefs(dir, []string{localRef}); err != nil {
		return nil, err
	}
	for d := filepath.Dir(dir); len(d) >= len(s.cfg.Dir); d = filepath.Dir(d) {
		if err := syncDir(d); err != nil {
			return nil, err
		}
	}
	return s.commit(ctx, dir, hash, names(hash))
}

// hasLocal tells whether all of a working tree is here.
func (s *Sources) hasLocal(ctx context.Context, id project.ID, hash string) bool {
	dir := s.localPath(id, hash)
	if _, err := os.Lstat(filepath.Join(dir, "HEAD")); err != nil {
		return false
	}
	tips, err := s.git.tips(ctx, dir, localRef)
	return err == nil && tips[localRef].hash == hash
}

// localFor gives the repository of a working tree if a commit is one, "" if it is
// none. What the project itself has is never looked for there, so that nobody can
// put anything in its place.
func (s *Sources) localFor(ctx context.Context, id project.ID, hash string) string {
	if !isHash(hash) {
		return ""
	}
	dir := s.localPath(id, hash)
	if _, err := os.Lstat(dir); err != nil {
		return ""
	}
	for _, base := range []string{s.repoPath(id), s.mirrorPath(id)} {
		if s.has(ctx, base, hash) {
			return ""
		}
	}
	if !s.hasLocal(ctx, id, hash) {
		return ""
	}
	return dir
}

// beside are the repositories of which a repository of a working tree has objects,
// itself the first; of another one it is alone.
func beside(dir string) []string {
	all := []string{dir}
	b, err := os.ReadFile(filepath.Join(dir, "objects", "info", "alternates"))
	if err != nil {
		return all
	}
	for line := range strings.Lines(string(b)) {
		all = append(all, filepath.Dir(strings.TrimSuffix(line, "\n")))
	}
	return all
}

// LocalTrees lists the working trees that are here.
func (s *Sources) LocalTrees() ([]LocalTree, error) {
	found, err := filepath.Glob(filepath.Join(s.cfg.Dir, "local", "*", "*.git"))
	if err != nil {
		return nil, err
	}
	var list []LocalTree
	for _, p := range found {
		fi, err := os.Lstat(p)
		hash := strings.TrimSuffix(filepath.Base(p), ".git")
		if err != nil || !isHash(hash) {
			continue
		}
		list = append(list, LocalTree{project.ID(filepath.Base(filepath.Dir(p))), hash, fi.ModTime()})
	}
	return list, nil
}

// RemoveLocal removes a working tree.
func (s *Sources) RemoveLocal(t LocalTree) error {
	if !idText.MatchString(string(t.Project)) || !isHash(t.Commit) {
		return fmt.Errorf("working tree %s of project %q: %w", t.Commit, t.Project, errdefs.ErrNotFound)
	}
	return os.RemoveAll(s.localPath(t.Project, t.Commit))
}
