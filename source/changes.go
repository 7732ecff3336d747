package source

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"

	"slipway/project"
)

// Changes lists the files that differ between two commits, given by their full
// hashes, whatever the way from one to the other is. With from "" all files of
// the other are new. A from that is not there any more, as after a force-push
// that the outside repository has tidied up after, is errdefs.ErrNotFound. A
// linked project fetches what it lacks.
func (s *Sources) Changes(ctx context.Context, id project.ID, from, to string) ([]string, error) {
	if from != "" && !isHash(from) || !isHash(to) {
		return nil, fmt.Errorf("changes from %q to %q: not full hashes: %w", from, to, errdefs.ErrInvalidArgument)
	}
	if from != "" { // first: a mirror that cannot have it may be made anew
		repo, _, err := s.objectsOf(ctx, id, from, 1)
		if err == nil && !s.has(ctx, repo, from) {
			err = fmt.Errorf("there is no commit %s any more: %w", from, errdefs.ErrNotFound)
		}
		if err != nil {
			return nil, fmt.Errorf("changes since %s: %w", from, err)
		}
	}
	repo, _, err := s.objectsOf(ctx, id, to, 1)
	if err == nil && !s.has(ctx, repo, to) {
		err = errors.New("the commit is missing")
	}
	if err != nil {
		return nil, fmt.Errorf("changes of %s: %w", to, err)
	}
	args := []string{"diff-tree", "-r", "-z", "--name-only", "--no-renames", "--no-ext-diff", from, to}
	if from == "" {
		args = []string{"ls-tree", "-r", "-z", "--name-only", "--full-tree", to}
	}
	out, err := s.git.run(ctx, call{repo: repo, args: args})
	if err != nil {
		return nil, fmt.Errorf("changes of %s: %w", to, err)
	}
	return strings.FieldsFunc(string(out), func(r rune) bool { return r == 0 }), nil
}
