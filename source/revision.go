package source

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"slipway/project"
)

const maxCommit = 4 << 20

// maxName bounds the name of a ref.
const maxName = 1024

func isHash(s string) bool { return len(s) == 40 && isHex(s) }

func isHex(s string) bool {
	return s != "" && strings.Trim(s, "0123456789abcdef") == ""
}

// goodRef tells whether a name can be that of a ref, and so holds none of the
// characters by which git's revisions are made of others.
func goodRef(name string) bool {
	if name == "" || len(name) > maxName || strings.HasPrefix(name, "/") || strings.HasSuffix(name, "/") || strings.HasSuffix(name, ".") {
		return false
	}
	for _, part := range strings.Split(name, "/") {
		if part == "" || strings.HasPrefix(part, ".") || strings.HasPrefix(part, "-") || strings.HasSuffix(part, ".lock") {
			return false
		}
	}
	if strings.Contains(name, "..") || strings.Contains(name, "@{") || name == "@" {
		return false
	}
	return !strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r == 0x7f || strings.ContainsRune(`~^:?*[\`, r) })
}

// names gives what a revision may stand for, the likeliest first.
func names(revision string) []string {
	var list []string
	if isHash(revision) {
		return []string{revision}
	}
	if strings.HasPrefix(revision, "refs/heads/") || strings.HasPrefix(revision, "refs/tags/") {
		return []string{revision}
	}
	if goodRef("refs/heads/" + revision) {
		list = append(list, "refs/heads/"+revision, "refs/tags/"+revision)
	}
	if len(revision) >= 4 && len(revision) < 40 && isHex(revision) {
		list = append(list, revision)
	}
	return list
}

// Resolve finds the commit of a revision: a full or short hash, a ref, a
// branch, a tag, or HEAD of branch ("" is the default one). A linked project
// asks the outside repository, which has some seconds: one that is slower is
// errdefs.ErrUnavailable, or, if it is known which commit is meant, that without
// what it says and without knowing whether it is there. It gives nil, nil for HEAD of a repository with no
// commit; errdefs.ErrNotFound names an unknown revision.
func (s *Sources) Resolve(ctx context.Context, id project.ID, branch, revision string) (*Commit, error) {
	revision = strings.TrimSpace(revision)
	if branch == "HEAD" {
		branch = ""
	}
	remote, known, err := s.loadRemote(ctx, id)
	if err != nil {
		return nil, err
	}
	if remote != nil {
		return within(ctx, s.patience, s.tooSlow(remote), func(ctx context.Context) (*Commit, error) {
			return s.resolveRemote(ctx, id, remote, known, branch, revision)
		})
	}
	dir, err := s.own(id)
	if err != nil {
		return nil, err
	}
	if revision != "" && revision != "HEAD" {
		return s.commit(ctx, dir, revision, names(revision))
	}
	head := headOf(dir)
	if branch == "" {
		branch = head
	}
	c, err := s.commit(ctx, dir, branch, []string{"refs/heads/" + strings.TrimPrefix(branch, "refs/heads/")})
	if errdefs.IsNotFound(err) && branch == head {
		refs, rerr := s.git.tips(ctx, dir)
		if rerr == nil && len(refs) == 0 {
			return nil, nil
		}
	}
	return c, err
}

// Commit gives a commit by its full hash. A linked project fetches it, however
// long that takes.
func (s *Sources) Commit(ctx context.Context, id project.ID, hash string) (*Commit, error) {
	remote, _, err := s.loadRemote(ctx, id)
	if err != nil {
		return nil, err
	}
	if remote != nil {
		return s.fetched(ctx, id, remote, hash, hash, "")
	}
	dir, err := s.own(id)
	if err != nil {
		return nil, err
	}
	return s.commit(ctx, dir, hash, names(hash))
}

// commit gives the first of some names that leads to a commit.
func (s *Sources) commit(ctx context.Context, dir, asked string, names []string) (*Commit, error) {
	var good []string
	for _, n := range names {
		if goodRef(n) {
			good = append(good, n+"^{commit}")
		}
	}
	if len(good) == 0 {
		return nil, fmt.Errorf("revision %q: %w", asked, errdefs.ErrNotFound)
	}
	if c, ok := s.seenCommit(dir, names); ok {
		return &c, nil
	}
	list, err := s.git.objects(ctx, dir, maxCommit, good...)
	if err != nil {
		return nil, fmt.Errorf("revision %q: %w", asked, err)
	}
	for _, o := range list {
		switch o.kind {
		case "commit":
			c := parseCommit(o.hash, o.data)
			s.sawCommit(dir, c)
			return &c, nil
		case "ambiguous":
			return nil, errdefs.ErrNotFound.WithMessage(fmt.Sprintf("revision %q: several commits begin so", asked))
		}
	}
	return nil, fmt.Errorf("revision %q: %w", asked, errdefs.ErrNotFound)
}

func (s *Sources) resolveRemote(ctx context.Context, id project.ID, r *Remote, known, branch, revision string) (*Commit, error) {
	if isHash(revision) {
		return s.soon(ctx, id, r, revision, revision, "")
	}
	v, err := s.look(ctx, id, r, known)
	if err != nil {
		return nil, err
	}
	head := revision == "" || revision == "HEAD"
	if head {
		if len(v.refs) == 0 && (branch == "" || branch == v.head) {
			return nil, nil
		}
		revision = branch
		if branch == "" {
			revision = v.head
		}
	}
	for _, name := range names(revision) {
		hash, ok := v.refs[name]
		if !ok && !strings.HasPrefix(name, "refs/") {
			return s.resolveShort(ctx, id, r, revision)
		}
		if !ok || head && !strings.HasPrefix(name, "refs/heads/") {
			continue
		}
		return s.soon(ctx, id, r, revision, hash, name)
	}
	return nil, errdefs.ErrNotFound.WithMessage(fmt.Sprintf("revision %q: %s has no such branch or tag", revision, redact(r.URL)))
}

// fetched gives a commit of an outside repository, and fetches it if need be.
func (s *Sources) fetched(ctx context.Context, id project.ID, r *Remote, asked, hash, ref string) (*Commit, error) {
	dir, err := s.fetch(ctx, id, r, hash, ref, 1)
	if err != nil {
		return nil, fmt.Errorf("revision %q: %w", asked, err)
	}
	return s.commit(ctx, dir, asked, []string{hash})
}

// soon is fetched for who has no time: what the commit says can be fetched by
// who has.
func (s *Sources) soon(ctx context.Context, id project.ID, r *Remote, asked, hash, ref string) (*Commit, error) {
	c, err := s.fetched(ctx, id, r, asked, hash, ref)
	if err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return &Commit{Revision: hash}, nil
	}
	return c, err
}

// resolveShort finds a shortened hash outside: in the history as it is here,
// then in all of it.
func (s *Sources) resolveShort(ctx context.Context, id project.ID, r *Remote, short string) (c *Commit, err error) {
	for _, fresh := range []bool{false, true} {
		var dir string
		if dir, err = s.wholeMirror(ctx, id, r, fresh); err != nil {
			break
		}
		if c, err = s.commit(ctx, dir, short, []string{short}); !errdefs.IsNotFound(err) {
			break
		}
	}
	if err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) {
		s.goOn(id)
		return nil, fmt.Errorf("revision %q: all of %s is fetched to find it, which goes on: try again in some minutes, or give the full hash: %w",
			short, redact(r.URL), errdefs.ErrUnavailable)
	}
	return c, err
}

// parseCommit reads a commit object.
func parseCommit(hash string, data []byte) Commit {
	c := Commit{Revision: hash}
	head, text, _ := bytes.Cut(data, []byte("\n\n"))
	for line := range strings.Lines(string(head)) {
		key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		switch key {
		case "author":
			c.Author, c.AuthorDate = parsePerson(value)
		case "committer":
			c.Committer, c.CommitDate = parsePerson(value)
		}
	}
	c.Message = strings.ToValidUTF8(string(text), "\uFFFD")
	subject, _, _ := strings.Cut(strings.TrimLeft(c.Message, "\n"), "\n\n")
	c.Subject = strings.TrimSpace(strings.ReplaceAll(subject, "\n", " "))
	return c
}

// parsePerson reads "Name <email> seconds zone".
func parsePerson(line string) (Person, time.Time) {
	line = strings.ToValidUTF8(line, "\uFFFD")
	name, rest, _ := strings.Cut(line, "<")
	i := strings.LastIndexByte(rest, '>')
	if i < 0 {
		return Person{Name: strings.TrimSpace(name)}, time.Time{}
	}
	p := Person{strings.TrimSpace(name), strings.TrimSpace(rest[:i])}
	f := strings.Fields(rest[i+1:])
	if len(f) == 0 {
		return p, time.Time{}
	}
	sec, err := strconv.ParseInt(f[0], 10, 64)
	if err != nil {
		return p, time.Time{}
	}
	return p, time.Unix(sec, 0).UTC()
}
