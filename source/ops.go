package source

import (
	"bytes"
	"context"
	"fmt"
	"sort"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/containerd/errdefs"

	"slipway/access"
	"slipway/crash"
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
	repo, _, err := s.objectsOf(ctx, id, c.Revision, 1)
	if err != nil {
		return Content{}, err
	}
	if path != "" {
		e, err := s.lsTree(ctx, repo, c.Revision, path, false)
		if err != nil {
			return Content{}, err
		}
		if len(e) == 0 || e[0].path != path {
			return Content{}, fmt.Errorf("%s at %s: %w", path, c.Revision, errdefs.ErrNotFound)
		}
		if e[0].kind == "blob" {
			return s.readFile(ctx, repo, e[0])
		}
		if e[0].kind != "tree" {
			return Content{Path: path, Dir: true}, nil // a submodule
		}
	}
	list, err := s.lsTree(ctx, repo, c.Revision, path, true)
	if err != nil {
		return Content{}, err
	}
	dir := Content{Path: path, Dir: true}
	for _, e := range list {
		dir.Entries = append(dir.Entries, Content{Path: e.path, Dir: e.kind != "blob", Size: e.size})
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
	return Content{Path: e.path, Size: list[0].size, Data: list[0].data}, nil
}

// Write commits one file on a branch, as a push would; data nil removes it. It
// makes the first commit of an empty repository, and a branch that is not there
// from the default one. A linked project gives errdefs.ErrConflict.
func (s *Sources) Write(ctx context.Context, by access.Actor, id project.ID, branch, path string, data []byte, message string) (Commit, error) {
	p, err := s.allowed(ctx, by, id, access.RepositoryWrite)
	if err != nil {
		return Commit{}, err
	}
	remote, _, err := s.loadRemote(ctx, p.ID)
	if err != nil {
		return Commit{}, err
	}
	if remote != nil {
		return Commit{}, fmt.Errorf("this project mirrors %s and is read only: %w", redact(remote.URL), errdefs.ErrConflict)
	}
	dir, err := s.own(p.ID)
	if err != nil {
		return Commit{}, err
	}
	branch = strings.TrimPrefix(branch, "refs/heads/")
	if branch == "" {
		branch = headOf(dir)
	}
	path, err = cleanWrite(branch, path, data)
	if err != nil {
		return Commit{}, err
	}
	if message == "" {
		if message = "Update " + path; data == nil {
			message = "Remove " + path
		}
	}
	k, err := s.locks.take(ctx, s.repoLock(p.ID), false)
	if err != nil {
		return Commit{}, err
	}
	defer k.release()
	// What has begun to move refs is not left halfway.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), moving)
	defer cancel()
	if unclean, err := k.begin(by.User.ID); err != nil {
		return Commit{}, err
	} else if unclean {
		if err := sweep(dir, oldObjects); err != nil {
			return Commit{}, err
		}
	}
	c, err := s.commitFile(ctx, k, dir, by.User, branch, path, data, message)
	if terr := s.tell(ctx, p.ID, dir, by.User.ID, []string{"refs/heads/" + branch}); terr != nil {
		s.later(p.ID)
		return c, terr
	}
	if err != nil {
		return c, err
	}
	k.end()
	return c, nil
}

func cleanWrite(branch, path string, data []byte) (string, error) {
	var bad project.Invalid
	if !goodRef("refs/heads/" + branch) {
		bad.Add("branch", "format", "is not the name of a branch")
	}
	path, err := cleanPath(path)
	if err != nil || path == "" || !utf8.ValidString(path) {
		bad.Add("path", "format", "is not a path inside the repository")
	}
	if len(data) > maxContent {
		bad.Add("content", "maximum", "is larger than 64 MiB")
	}
	return path, bad.Err()
}

// commitFile makes the commit with one run of fast-import, which also moves the
// branch, if it is still where it was.
func (s *Sources) commitFile(ctx context.Context, k *lock, dir string, u access.User, branch, path string, data []byte, message string) (Commit, error) {
	refs, err := s.git.tips(ctx, dir)
	if err != nil {
		return Commit{}, err
	}
	ref := "refs/heads/" + branch
	now, ok := refs[ref]
	if !ok {
		if now, ok = refs["refs/heads/"+headOf(dir)]; !ok && len(refs) > 0 {
			return Commit{}, fmt.Errorf("branch %q: %w", branch, errdefs.ErrNotFound)
		}
	}
	base := now.hash
	mode := "100644"
	var there []listed
	if base != "" {
		if there, err = s.lsTree(ctx, dir, base, path, false); err != nil {
			return Commit{}, err
		}
	}
	switch {
	case len(there) == 1 && there[0].kind != "blob":
		return Commit{}, fmt.Errorf("%s is a folder: %w", path, errdefs.ErrFailedPrecondition)
	case len(there) == 1 && there[0].mode == "100755":
		mode = "100755"
	case len(there) == 0 && data == nil:
		return Commit{}, fmt.Errorf("%s on %s: %w", path, branch, errdefs.ErrNotFound)
	}
	who := signature(u)
	var in bytes.Buffer
	fmt.Fprintf(&in, "feature done\ncommit %s\nauthor %[2]s\ncommitter %[2]s\ndata %d\n%s\n", ref, who, len(message), message)
	if base != "" {
		fmt.Fprintf(&in, "from %s\n", base)
	}
	if data == nil {
		fmt.Fprintf(&in, "D %s\n", quotePath(path))
	} else {
		fmt.Fprintf(&in, "M %s inline %s\ndata %d\n", mode, quotePath(path), len(data))
		in.Write(data)
		in.WriteByte('\n')
	}
	in.WriteString("done\n")
	c := call{repo: dir, args: []string{"fast-import", "--quiet", "--date-format=raw"}, stdin: &in}
	c.files = append(c.files, k.file)
	if _, err := s.git.run(ctx, c); err != nil {
		return Commit{}, fmt.Errorf("commit %s: %w", path, err)
	}
	crash.At("source: a file is committed")
	made, err := s.commit(ctx, dir, branch, []string{ref})
	if err != nil {
		return Commit{}, err
	}
	return *made, nil
}

// signature is how a commit names its maker.
func signature(u access.User) string {
	clean := func(s string) string {
		s = strings.Map(func(r rune) rune {
			if r < ' ' || r == '<' || r == '>' || r == 0x7f {
				return -1
			}
			return r
		}, s)
		return strings.Trim(s, " .,:;\"'")
	}
	name, mail := clean(u.Name), clean(u.Email)
	if name == "" {
		if name = clean(u.Username); name == "" {
			name = "Slipway"
		}
	}
	if mail == "" {
		if mail = clean(u.Username); mail == "" {
			mail = "slipway"
		}
		mail += "@slipway.local"
	}
	return fmt.Sprintf("%s <%s> %d +0000", name, mail, time.Now().Unix())
}

// quotePath writes a path as fast-import reads it.
func quotePath(p string) string {
	var b strings.Builder
	b.WriteByte('"')
	for i := range len(p) {
		switch c := p[i]; {
		case c == '"' || c == '\\':
			b.WriteByte('\\')
			b.WriteByte(c)
		case c < ' ' || c == 0x7f:
			fmt.Fprintf(&b, "\\%03o", c)
		default:
			b.WriteByte(c)
		}
	}
	b.WriteByte('"')
	return b.String()
}
