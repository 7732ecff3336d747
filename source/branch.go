package source

import (
	"context"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"

	"slipway/access"
	"slipway/crash"
	"slipway/project"
)

const heads = "refs/heads/"

// CreateBranch makes a branch at a revision ("" is the head of the default
// branch), as a push would. A name that is taken is errdefs.ErrAlreadyExists, a
// revision that is not there errdefs.ErrNotFound, a linked project ErrReadOnly.
func (s *Sources) CreateBranch(ctx context.Context, by access.Actor, id project.ID, name, revision string) error {
	p, dir, err := s.written(ctx, by, id)
	if err != nil {
		return err
	}
	if !goodRef(heads+name) || name == "HEAD" || strings.HasPrefix(name, "refs/") { // they would be taken for something else
		return &project.Invalid{Fields: []project.Field{{Path: "name", Kind: "format", Message: "is not the name of a branch"}}}
	}
	c, err := s.Resolve(ctx, p.ID, "", revision)
	if err == nil && c == nil {
		err = fmt.Errorf("a commit in project %s: %w", p.Name, errdefs.ErrNotFound)
	}
	if err != nil {
		return err
	}
	return s.moveRef(ctx, by, p.ID, dir, heads+name, func(ctx context.Context, k *lock) error {
		refs, err := s.git.tips(ctx, dir)
		if err != nil {
			return err
		}
		for ref := range refs {
			// Git keeps a branch as a file: none is below another.
			if ref == heads+name || strings.HasPrefix(ref, heads+name+"/") || strings.HasPrefix(heads+name, ref+"/") {
				return fmt.Errorf("there is a branch %s already: %w", strings.TrimPrefix(ref, heads), errdefs.ErrAlreadyExists)
			}
		}
		return s.updateRef(ctx, k, dir, heads+name, c.Revision, zeros)
	})
}

// DeleteBranch ends a branch, as a push would. The default one stays:
// errdefs.ErrFailedPrecondition.
func (s *Sources) DeleteBranch(ctx context.Context, by access.Actor, id project.ID, name string) error {
	p, dir, err := s.written(ctx, by, id)
	if err != nil {
		return err
	}
	return s.moveRef(ctx, by, p.ID, dir, heads+name, func(ctx context.Context, k *lock) error {
		refs, err := s.git.tips(ctx, dir)
		if err != nil {
			return err
		}
		now, ok := refs[heads+name]
		switch {
		case !ok:
			return fmt.Errorf("branch %s: %w", name, errdefs.ErrNotFound)
		case name == headOf(dir):
			return fmt.Errorf("%s is the default branch, which stays: %w", name, errdefs.ErrFailedPrecondition)
		}
		return s.updateRef(ctx, k, dir, heads+name, zeros, now.hash)
	})
}

// updateRef moves a ref, if it is where it was.
func (s *Sources) updateRef(ctx context.Context, k *lock, dir, ref, to, was string) error {
	c := call{repo: dir, args: []string{"update-ref", ref, to, was}}
	c.files = append(c.files, k.file)
	if _, err := s.git.run(ctx, c); err != nil {
		return fmt.Errorf("move %s: %w", ref, err)
	}
	crash.At("source: a branch is made or removed")
	return nil
}
