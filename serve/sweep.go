package serve

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"slipway/engine"
	"slipway/project"
)

// sweep removes from the engine what has no living owner: what was started for
// an execution or a stack that a killed server had no time to write down, or to
// clean up after. prefix is of the owners to look at.
func (s *Server) sweep(ctx context.Context, prefix string) error {
	owners, err := s.engine.Owners(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, o := range owners {
		if !strings.HasPrefix(string(o), prefix) {
			continue
		}
		lives, err := s.living(ctx, o)
		if err != nil {
			return err
		}
		if lives {
			continue
		}
		s.log.Info("swept", "owner", o)
		if err := s.engine.Remove(ctx, o); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", o, err))
		}
	}
	return errors.Join(errs...) // what cannot be removed now is looked at again
}

func (s *Server) living(ctx context.Context, o engine.Owner) (bool, error) {
	switch kind, id, _ := strings.Cut(string(o), "/"); kind {
	case "execution", "pipeline":
		return s.pipelines.Living(ctx, o)
	case "stack":
		return s.stacks.Living(ctx, o)
	case "project":
		return s.projects.Living(ctx, project.ID(id))
	case "workspace":
		return s.projects.LivingWorkspace(ctx, id)
	}
	return true, nil // not ours to judge
}
