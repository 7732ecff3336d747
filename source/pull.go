package source

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"slipway/project"
)

// PullRequest is one at an outside repository, as that shows it: as a ref.
type PullRequest struct {
	Ref    string // refs/pull/12/head
	Head   string // the branch it is of, if that is in the same repository; else ""
	Commit *Commit
}

var pullName = regexp.MustCompile(`^(?:refs/)?(?:(pull|merge-requests|pull-requests)/)?([0-9]{1,10})(?:/(head|merge|from))?$`)

// pullRefs are the refs that a name may stand for: a number, pull/12 or a whole
// ref. The forges differ in how they call them.
func pullRefs(name string) (l []string) {
	m := pullName.FindStringSubmatch(strings.TrimSpace(name))
	if m == nil {
		return nil
	}
	for _, k := range [][2]string{{"pull", "head"}, {"merge-requests", "head"}, {"pull-requests", "from"}} {
		if m[1] != "" && m[1] != k[0] {
			continue
		}
		end := k[1]
		if m[3] != "" {
			end = m[3]
		}
		l = append(l, "refs/"+k[0]+"/"+m[2]+"/"+end)
	}
	return l
}

// PullRequest finds a pull request by its number or ref. It is errdefs.ErrNotFound
// if the outside repository shows none, errdefs.ErrFailedPrecondition if the project
// has its own repository, which knows none; the outside has as long as in Resolve.
func (s *Sources) PullRequest(ctx context.Context, id project.ID, name string) (PullRequest, error) {
	refs := pullRefs(name)
	if len(refs) == 0 {
		return PullRequest{}, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("%q is no pull request: give its number, or a ref like pull/12/head", name))
	}
	remote, _, err := s.loadRemote(ctx, id)
	if err != nil {
		return PullRequest{}, err
	}
	if remote == nil {
		return PullRequest{}, errdefs.ErrFailedPrecondition.WithMessage("the project has its own repository here, which knows no pull requests: start its branch")
	}
	return within(ctx, s.patience, s.tooSlow(remote), func(ctx context.Context) (PullRequest, error) {
		return s.pullRequest(ctx, id, remote, name, refs)
	})
}

func (s *Sources) pullRequest(ctx context.Context, id project.ID, r *Remote, name string, refs []string) (p PullRequest, err error) {
	args := append([]string{"ls-remote", "--quiet", "--", r.URL, "refs/heads/*"}, refs...)
	c, done, err := s.dialled(ctx, id, r, call{args: args})
	if err != nil {
		return p, err
	}
	defer done()
	out, err := s.git.run(ctx, c)
	if err != nil {
		return p, outside(r, err)
	}
	shown, heads := map[string]string{}, map[string][]string{}
	for line := range strings.Lines(string(out)) {
		hash, ref, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
		if !ok || !isHash(hash) || !goodRef(ref) {
			continue
		}
		shown[ref] = hash
		if branch, ok := strings.CutPrefix(ref, "refs/heads/"); ok {
			heads[hash] = append(heads[hash], branch)
		}
	}
	i := slices.IndexFunc(refs, func(ref string) bool { return shown[ref] != "" })
	if i < 0 {
		return p, errdefs.ErrNotFound.WithMessage(fmt.Sprintf("%s shows no pull request %s (%s)", redact(r.URL), name, strings.Join(refs, ", ")))
	}
	p.Ref = refs[i]
	hash := shown[p.Ref]
	if of := heads[hash]; len(of) == 1 { // of several nobody knows which
		p.Head = of[0]
	}
	p.Commit, err = s.soon(ctx, id, r, name, hash, p.Ref)
	return p, err
}
