package source

import (
	"bytes"
	"context"
	"fmt"
	"sort"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"

	"slipway/access"
	"slipway/project"
)

// maxContent is the largest file that is read or written through the API.
const maxContent = 64 << 20

// allowed finds the project and asks whether the actor may.
func (s *Sources) allowed(ctx context.Context, by access.Actor, id project.ID, scope access.Scope) (project.Project, error) {
	p, err := s.projects.Get(ctx, by, string(id))
	if err != nil {
		return p, err
	}
	return p, by.MayIn(p.Workspace, string(p.ID), scope)
}

// Refs lists branches and tags of the own repository or, of a linked project,
// of the outside one, in the order of their names.
func (s *Sources) Refs(ctx context.Context, by access.Actor, id project.ID) ([]Ref, error) {
	if _, err := s.allowed(ctx, by, id, access.RepositoryRead); err != nil {
		return nil, err
	}
	v, err := s.refsOf(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("refs of project %s: %w", id, err)
	}
	list := make([]Ref, 0, len(v.refs))
	for name, hash := range v.refs {
		list = append(list, Ref{Name: name, Commit: hash, Default: name == "refs/heads/"+v.head})
	}
	sort.Slice(list, func(i, j int) bool { return list[i].Name < list[j].Name })
	return list, nil
}

func (s *Sources) refsOf(ctx context.Context, id project.ID) (seen, error) {
	remote, known, err := s.loadRemote(ctx, id)
	if err != nil {
		return seen{}, err
	}
	if remote != nil {
		return s.look(ctx, id, remote, known)
	}
	dir, err := s.own(id)
	if err != nil {
		return seen{}, err
	}
	tips, err := s.git.tips(ctx, dir)
	if err != nil {
		return seen{}, err
	}
	v := seen{refs: map[string]string{}, head: headOf(dir)}
	for name, t := range tips {
		v.refs[name] = t.commit
	}
	return v, nil
}

// DefaultBranch is "main" until the first push names another. That of a linked
// project is what the outside repository said last; one that never did is asked,
// and has as long as in Resolve.
func (s *Sources) DefaultBranch(ctx context.Context, id project.ID) (string, error) {
	remote, known, err := s.loadRemote(ctx, id)
	if err != nil {
		return "", err
	}
	if remote == nil {
		return headOf(s.repoPath(id)), nil
	}
	if known != "" {
		return known, nil
	}
	return within(ctx, s.patience, s.tooSlow(remote), func(ctx context.Context) (string, error) {
		v, err := s.look(ctx, id, remote, "")
		return v.head, err
	})
}

// listed is one line of ls-tree.
type listed struct {
	mode, kind, hash string
	size             int64
	path             string
}

// linkMode is the mode of a symbolic link.
const linkMode = "120000"

// lsTree lists what a commit has at a path: the thing itself, or with inside
// what is in the folder.
func (s *Sources) lsTree(ctx context.Context, repo, revision, path string, inside bool) ([]listed, error) {
	args := []string{"ls-tree", "-z", "-l", "--full-tree", revision}
	if path != "" {
		if inside {
			path += "/"
		}
		args = append(args, "--", path)
	}
	out, err := s.git.run(ctx, call{repo: repo, args: args, env: []string{"GIT_LITERAL_PATHSPECS=1"}})
	if err != nil {
		return nil, err
	}
	var list []listed
	for _, line := range bytes.Split(out, []byte{0}) {
		head, name, ok := bytes.Cut(line, []byte{'\t'})
		f := strings.Fields(string(head))
		if !ok || len(f) != 4 {
			continue
		}
		size, _ := strconv.ParseInt(f[3], 10, 64)
		list = append(list, listed{f[0], f[1], f[2], size, string(name)})
	}
	return list, nil
}

// Read gives a file or directory at a revision, "" being the default branch;
// errdefs.ErrNotFound names what is missing, errdefs.ErrOutOfRange is a file of
// more than 64 MiB.
func (s *Sources) Read(ctx context.Context, by access.Actor, id project.ID, revision, path string) (Content, error) {
	if _, err := s.allowed(ctx, by, id, access.RepositoryRead); err != nil {
		return Content{}, err
	}
	path, err := cleanPath(path)
	if err != nil {
		return Content{}, err
	}
	c, err := s.Resolve(ctx, id, "", revision)
	if err != nil {
		return Content{}, err
	}
	if c == nil {
		if path == "" {
			return Content{Dir: true}, nil
		}
		return Content{}, errdefs.ErrNotFound.WithMessage(path + ": the repository has no commit yet")
	}
	return s.content(ctx, id, c.Revision, path)
}

// File gives a file of a commit, to the server itself. errdefs.ErrNotFound is no
// such file, also one that is a folder or a link.
func (s *Sources) File(ctx context.Context, id project.ID, hash, path string) ([]byte, error) {
	path, err := cleanPath(path)
	if err != nil {
		return nil, err
	}
	c, err := s.content(ctx, id, hash, path)
	if err != nil {
		return nil, err
	}
	if c.Dir || c.Link {
		return nil, fmt.Errorf("%s at %s is no file: %w", path, hash, errdefs.ErrNotFound)
	}
	return c.Data, nil
}

// content is Read of a commit, with a path that is clean.
func (s *Sources) content(ctx context.Context, id project.ID, hash, path string) (Content, error) {
	repo, _, err := s.objectsOf(ctx, id, hash, 1)
	if err != nil {
		return Content{}, err
	}
	if path != "" {
		e, err := s.lsTree(ctx, repo, hash, path, false)
		if err != nil {
			return Content{}, err
		}
		if len(e) == 0 || e[0].path != path {
			return Content{}, fmt.Errorf("%s at %s: %w", path, hash, errdefs.ErrNotFound)
		}
		if e[0].kind == "blob" {
			return s.readFile(ctx, repo, e[0])
		}
		if e[0].kind != "tree" {
			return Content{Path: path, Dir: true, Module: true}, nil
		}
	}
	list, err := s.lsTree(ctx, repo, hash, path, true)
	if err != nil {
		return Content{}, err
	}
	dir := Content{Path: path, Dir: true}
	for _, e := range list {
		dir.Entries = append(dir.Entries, Content{Path: e.path, Dir: e.kind != "blob", Link: e.mode == linkMode, Module: e.kind == "commit", Size: e.size})
	}
	return dir, nil
}

func (s *Sources) readFile(ctx context.Context, repo string, e listed) (Content, error) {
	list, err := s.git.objects(ctx, repo, maxContent, e.hash)
	if err != nil {
		return Content{}, fmt.Errorf("%s: %w", e.path, err)
	}
	if list[0].kind != "blob" {
		return Content{}, fmt.Errorf("%s: %w", e.path, errdefs.ErrDataLoss)
	}
	return Content{Path: e.path, Link: e.mode == linkMode, Size: list[0].size, Data: list[0].data}, nil
}
