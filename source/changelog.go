package source

import (
	"context"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"

	"slipway/project"
)

// Changelog is what differs between two commits: paths in the order of git.
type Changelog struct{ Added, Changed, Deleted []string }

// Changelog compares two commits, given by their full hashes. A from that is not
// there any more, as after a force-push, is errdefs.ErrNotFound. A linked project
// fetches what it lacks.
func (s *Sources) Changelog(ctx context.Context, id project.ID, from, to string) (Changelog, error) {
	var l Changelog
	var dir string
	for _, hash := range []string{from, to} {
		if !isHash(hash) {
			return l, fmt.Errorf("changes from %q to %q: no full hashes: %w", from, to, errdefs.ErrInvalidArgument)
		}
		repo, _, err := s.objectsOf(ctx, id, hash, 1)
		if err == nil && !s.has(ctx, repo, hash) {
			err = fmt.Errorf("there is no commit %s any more: %w", hash, errdefs.ErrNotFound)
		}
		if err != nil {
			return l, fmt.Errorf("changes from %s to %s: %w", from, to, err)
		}
		dir = repo
	}
	out, err := s.git.run(ctx, call{repo: dir, args: []string{"diff-tree", "-r", "-z", "--name-status", "--no-renames", "--no-ext-diff", from, to}})
	if err != nil {
		return l, fmt.Errorf("changes from %s to %s: %w", from, to, err)
	}
	words := strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00")
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
