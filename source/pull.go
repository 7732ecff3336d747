package source

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"slipway/db"
	"slipway/project"
)

// PullRequest is one as forges show it: as a ref.
type PullRequest struct {
	Ref    string // refs/pull/12/head
	Head   string // the branch it is of, if that is in the same repository; else ""
	Base   string // the branch it goes to, if that is known
	Commit *Commit
}

// pulls is where pull requests are in the own repository.
const pulls = "refs/pull/"

var ownPull = regexp.MustCompile(`^refs/pull/([1-9][0-9]{0,9})/head$`)

// pull is what a moved ref means for a pull request; ok is false for a ref of another
// name, which means nothing. It notes in m where the pull request goes.
func (l look) pull(tx *db.Tx, id project.ID, m *move) (p Pull, ok bool, err error) {
	name := ownPull.FindStringSubmatch(m.push.Ref)
	if name == nil {
		return p, false, nil
	}
	if m.base == "" {
		if m.base, err = toldBase(tx, id, m.push.Ref); err != nil {
			return p, false, err
		}
	}
	p = Pull{Number: name[1], Ref: m.push.Ref, Old: m.push.Old, New: m.push.New, Base: cmp.Or(m.base, l.head), What: PullPushed, User: m.push.User}
	commit := p.New
	switch {
	case p.New == zeros:
		p.What, commit = PullClosed, p.Old
	case p.Old == zeros:
		p.What = PullOpened
	}
	p.Head = branchAt(l.refs, commit)
	return p, true, nil
}

// branchAt gives the branch that is at a commit; "" if none is, or nobody knows which.
func branchAt(refs map[string]tip, commit string) (branch string) {
	for ref, t := range refs {
		if name, ok := strings.CutPrefix(ref, heads); ok && t.commit == commit {
			if branch != "" {
				return ""
			}
			branch = name
		}
	}
	return branch
}

// ownPullRequest is PullRequest for the own repository.
func (s *Sources) ownPullRequest(ctx context.Context, id project.ID, name string, refs []string) (p PullRequest, err error) {
	dir, err := s.own(id)
	if err != nil {
		return p, err
	}
	have, err := s.git.tips(ctx, dir, heads, pulls)
	if err != nil {
		return p, err
	}
	i := slices.IndexFunc(refs, func(ref string) bool { return ownPull.MatchString(ref) && have[ref].commit != "" })
	if i < 0 {
		return p, errdefs.ErrNotFound.WithMessage(fmt.Sprintf("the project's own repository has no pull request %s; with allow_pull_requests it takes pushes to refs/pull/<number>/head", name))
	}
	p.Ref, p.Head = refs[i], branchAt(have, have[refs[i]].commit)
	if err := s.db.Read(ctx, func(tx *db.Tx) error { p.Base, err = toldBase(tx, id, p.Ref); return err }); err != nil {
		return p, err
	}
	p.Base = cmp.Or(p.Base, headOf(dir))
	p.Commit, err = s.commit(ctx, dir, name, []string{have[p.Ref].commit})
	return p, err
}

// MergeBase gives the commit at which a commit has left a branch; "" if there is none,
// or no such branch. A linked project fetches what it lacks.
func (s *Sources) MergeBase(ctx context.Context, id project.ID, branch, commit string) (hash string, err error) {
	c, err := s.Resolve(ctx, id, branch, "HEAD")
	if errdefs.IsNotFound(err) || err == nil && c == nil {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	var repo string
	for _, h := range []string{c.Revision, commit} {
		if repo, _, err = s.objectsOf(ctx, id, h, 0); err != nil {
			return "", fmt.Errorf("history of %s: %w", h, err)
		}
	}
	out, err := s.git.run(ctx, call{repo: repo, args: []string{"merge-base", c.Revision, commit}})
	var g *gitError
	if errors.As(err, &g) && g.code == 1 { // nothing in common
		return "", nil
	}
	return strings.TrimSpace(string(out)), err
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
// if the repository shows none; an outside one has as long as in Resolve.
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
		return s.ownPullRequest(ctx, id, name, refs)
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
