package source

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"

	"slipway/access"
	"slipway/project"
)

// Bounds of what is shown of a commit.
const (
	maxPatch = 1 << 20 // bytes of all patches together; without them beyond
	maxFiles = 3000
)

// Detail is a commit with what it changed from its first parent.
type Detail struct {
	Commit
	Parents []string
	Files   []Changed // the first 3000
	Added   int       // lines, in all files
	Removed int
}

// Changed is a file that a commit changed.
type Changed struct {
	Path    string
	Old     string // where it was, of a renamed one
	Status  byte   // A, M, D, R, T as git says
	Added   int    // lines; 0 of what is no text
	Removed int
	Patch   string // its hunks; "" of what is no text or too large
}

// back finds a repository with a commit and so much of what is before it, 0
// being all.
func (s *Sources) back(ctx context.Context, by access.Actor, id project.ID, revision string, depth int) (dir string, c *Commit, err error) {
	if _, err := s.allowed(ctx, by, id, access.RepositoryRead); err != nil {
		return "", nil, err
	}
	if c, err = s.Resolve(ctx, id, "", revision); err != nil || c == nil {
		return "", c, err
	}
	remote, _, err := s.loadRemote(ctx, id)
	if err != nil {
		return "", c, err
	}
	if remote == nil {
		dir, err = s.own(id)
		return dir, c, err
	}
	dir, err = within(ctx, s.patience, s.tooSlow(remote), func(ctx context.Context) (string, error) {
		dir, _, err := s.objectsOf(ctx, id, c.Revision, depth)
		return dir, err
	})
	return dir, c, err
}

// Commits lists commits from a revision back, "" being the default branch, and
// of a path only those that changed it. An empty repository has none. Of a
// linked project all of the history is fetched for it.
func (s *Sources) Commits(ctx context.Context, by access.Actor, id project.ID, revision, path string, skip, limit int) ([]Commit, error) {
	path, err := cleanPath(path)
	if err != nil {
		return nil, err
	}
	dir, c, err := s.back(ctx, by, id, revision, 0)
	if err != nil || c == nil {
		return nil, err
	}
	args := []string{"rev-list", "--skip=" + strconv.Itoa(skip), "--max-count=" + strconv.Itoa(limit), c.Revision, "--"}
	if path != "" {
		args = append(args, path)
	}
	list, err := s.listed(ctx, dir, args)
	if err != nil {
		return nil, fmt.Errorf("commits of project %s: %w", id, err)
	}
	return list, nil
}

// listed gives the commits that rev-list finds.
func (s *Sources) listed(ctx context.Context, dir string, args []string) ([]Commit, error) {
	out, err := s.git.run(ctx, call{repo: dir, args: args, env: []string{"GIT_LITERAL_PATHSPECS=1"}})
	if err != nil {
		return nil, err
	}
	hashes := strings.Fields(string(out))
	if len(hashes) == 0 {
		return nil, nil
	}
	found, err := s.git.objects(ctx, dir, maxCommit, hashes...)
	if err != nil {
		return nil, err
	}
	list := make([]Commit, 0, len(found))
	for _, o := range found {
		if o.kind != "commit" {
			return nil, errdefs.ErrDataLoss
		}
		list = append(list, parseCommit(o.hash, o.data))
	}
	return list, nil
}

// Between gives the commits that one has before it and another one has not, both
// by their full hashes, newest first; none if that one is not there any more. depth is how much of the history is looked at
// in an outside repository, in commits, 0 being all.
func (s *Sources) Between(ctx context.Context, id project.ID, from, to string, depth, limit int) ([]Commit, error) {
	if !isHash(from) || !isHash(to) {
		return nil, fmt.Errorf("commits from %q to %q: not full hashes: %w", from, to, errdefs.ErrInvalidArgument)
	}
	dir, _, err := s.objectsOf(ctx, id, to, depth)
	if err != nil {
		return nil, fmt.Errorf("commits up to %s: %w", to, err)
	}
	list, err := s.listed(ctx, dir, []string{"rev-list", "--max-count=" + strconv.Itoa(limit), to, "^" + from, "--"})
	if err != nil && !s.has(ctx, dir, from) { // a mirror was made anew
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("commits from %s to %s: %w", from, to, err)
	}
	return list, nil
}

// Detail gives a commit and what it changed. HEAD of an empty repository is
// errdefs.ErrNotFound.
func (s *Sources) Detail(ctx context.Context, by access.Actor, id project.ID, revision string) (Detail, error) {
	dir, c, err := s.back(ctx, by, id, revision, 2)
	if err != nil {
		return Detail{}, err
	}
	if c == nil {
		return Detail{}, errdefs.ErrNotFound.WithMessage("the repository has no commit yet")
	}
	d := Detail{Commit: *c}
	out, err := s.git.run(ctx, call{repo: dir, args: []string{"rev-list", "--parents", "--max-count=1", c.Revision}})
	if err != nil {
		return d, fmt.Errorf("commit %s: %w", c.Revision, err)
	}
	if f := strings.Fields(string(out)); len(f) > 1 {
		d.Parents = f[1:]
	}
	args := slices.Clip([]string{"diff-tree", "--root", "-r", "-M", "--no-commit-id", "--no-color", "--no-ext-diff", "--no-textconv", "--diff-merges=first-parent"})
	names, err := s.git.run(ctx, call{repo: dir, args: append(args, "-z", "--raw", "--abbrev=40", c.Revision)})
	if err != nil {
		return d, fmt.Errorf("commit %s: %w", c.Revision, err)
	}
	d.Files = parseRaw(names)
	lines, err := s.git.run(ctx, call{repo: dir, args: append(args, "-z", "--numstat", c.Revision)})
	if err != nil {
		return d, fmt.Errorf("commit %s: %w", c.Revision, err)
	}
	parseCounts(lines, d.Files)
	for _, f := range d.Files {
		d.Added += f.Added
		d.Removed += f.Removed
	}
	patch, err := s.git.some(ctx, call{repo: dir, args: append(args, "-p", "--unified=3", c.Revision)}, maxPatch)
	if err != nil {
		return d, fmt.Errorf("commit %s: %w", c.Revision, err)
	}
	parsePatches(patch, d.Files)
	d.Files = d.Files[:min(len(d.Files), maxFiles)]
	return d, nil
}

// some is run for what may be large: of more than so many bytes it gives none.
func (g program) some(ctx context.Context, c call, most int64) ([]byte, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	cmd := g.command(ctx, c)
	var errs tail
	cmd.Stderr = &errs
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return nil, fmt.Errorf("git %s: %w", c.args[0], err)
	}
	b, err := io.ReadAll(io.LimitReader(out, most+1))
	if err == nil && int64(len(b)) > most {
		cancel(errTooBig)
		_ = cmd.Wait()
		return nil, nil
	}
	if ended := cmd.Wait(); ended != nil {
		return nil, c.failed(ctx, ended, errs.String())
	}
	return b, err
}

// parseRaw reads what diff-tree -z --raw says: ":mode mode hash hash status",
// then one path, or two of what was renamed.
func parseRaw(b []byte) (list []Changed) {
	f := bytes.Split(b, []byte{0})
	for i := 0; i+1 < len(f); {
		head := strings.Fields(string(f[i]))
		if len(head) != 5 || head[4] == "" {
			break
		}
		c := Changed{Status: head[4][0], Path: string(f[i+1])}
		i += 2
		if (c.Status == 'R' || c.Status == 'C') && i < len(f) {
			c.Old, c.Path = c.Path, string(f[i])
			i++
		}
		list = append(list, c)
	}
	return list
}

// parseCounts reads what diff-tree -z --numstat says of the same files: "added
// removed path", a renamed one with an empty path and then both. What is no text
// has "-".
func parseCounts(b []byte, files []Changed) {
	f := bytes.Split(b, []byte{0})
	for i, n := 0, 0; i < len(f) && n < len(files); n++ {
		head := strings.SplitN(string(f[i]), "\t", 3)
		if len(head) != 3 {
			return
		}
		files[n].Added, _ = strconv.Atoi(head[0])
		files[n].Removed, _ = strconv.Atoi(head[1])
		if i++; head[2] == "" {
			i += 2
		}
	}
}

// parsePatches takes the hunks of the same files apart. A line of a file begins
// with a sign, so that what begins a file's part is never one of them.
func parsePatches(b []byte, files []Changed) {
	parts := bytes.Split(append([]byte{'\n'}, b...), []byte("\ndiff --git "))
	if len(parts) != len(files)+1 {
		return
	}
	for i, p := range parts[1:] {
		if at := bytes.Index(p, []byte("\n@@ ")); at >= 0 {
			files[i].Patch = strings.ToValidUTF8(string(p[at+1:]), "\uFFFD")
		}
	}
}
