package source

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"slipway/project"
)

// Changelog is what differs between two commits: paths in the order of git.
type Changelog struct{ Added, Changed, Deleted []string }

// Paths are all that differ, sorted.
func (l Changelog) Paths() []string {
	return slices.Sorted(slices.Values(slices.Concat(l.Added, l.Changed, l.Deleted)))
}

// Changes compares two commits, given by their full hashes, whatever the way from one to the other is. With from "" all files of
// the other are new. A from that is not there any more, as after a force-push
// that the outside repository has tidied up after, is errdefs.ErrNotFound. A
// linked project fetches what it lacks.
func (s *Sources) Changes(ctx context.Context, id project.ID, from, to string) (l Changelog, err error) {
	if from != "" && !isHash(from) || !isHash(to) {
		return l, fmt.Errorf("changes from %q to %q: not full hashes: %w", from, to, errdefs.ErrInvalidArgument)
	}
	if from != "" { // first: a mirror that cannot have it may be made anew
		repo, _, err := s.objectsOf(ctx, id, from, 1)
		if err == nil && !s.has(ctx, repo, from) {
			err = fmt.Errorf("there is no commit %s any more: %w", from, errdefs.ErrNotFound)
		}
		if err != nil {
			return l, fmt.Errorf("changes since %s: %w", from, err)
		}
	}
	repo, _, err := s.objectsOf(ctx, id, to, 1)
	if err == nil && !s.has(ctx, repo, to) {
		err = errors.New("the commit is missing")
	}
	if err != nil {
		return l, fmt.Errorf("changes of %s: %w", to, err)
	}
	args := []string{"diff-tree", "-r", "-z", "--name-status", "--no-renames", "--no-ext-diff", from, to}
	if from == "" {
		args = []string{"ls-tree", "-r", "-z", "--name-only", "--full-tree", to}
	}
	out, err := s.git.run(ctx, call{repo: repo, args: args})
	if err != nil {
		return l, fmt.Errorf("changes of %s: %w", to, err)
	}
	words := strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00")
	if from == "" {
		if len(out) > 0 {
			l.Added = words
		}
		return l, nil
	}
	for i := 0; i+1 < len(words); i += 2 {
		switch words[i] {
		case "A":
			l.Added = append(l.Added, words[i+1])
		case "D":
			l.Deleted = append(l.Deleted, words[i+1])
		default:
			l.Changed = append(l.Changed, words[i+1])
		}
	}
	return l, nil
}
