package source

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"slipway/project"
)

// Times that an outside repository may take.
const (
	asking   = 15 * time.Second // while somebody waits for an answer
	listing  = time.Minute
	fetching = 20 * time.Minute
)

// within gives f so much time, and the error late if that is not enough.
func within[T any](ctx context.Context, d time.Duration, late error, f func(context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, d, late)
	defer cancel()
	v, err := f(ctx)
	if errors.Is(err, late) {
		err = late // without where it was on the way
	}
	return v, err
}

// tooSlow is the error of an outside repository that keeps somebody waiting.
func (s *Sources) tooSlow(r *Remote) error {
	return fmt.Errorf("%s did not answer within %s: %w", redact(r.URL), s.patience, errdefs.ErrUnavailable)
}

// goOn leaves it to Run to fetch all of an outside repository, once at a time:
// who asked for it has no more time, and nothing of a fetch that is cut is kept.
func (s *Sources) goOn(id project.ID) {
	s.mu.Lock()
	if _, ok := s.whole[id]; !ok {
		s.whole[id] = false
	}
	s.mu.Unlock()
	s.nudge()
}

// nudge makes Run look what there is to do.
func (s *Sources) nudge() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// fetchWhole begins what goOn left to Run.
func (s *Sources) fetchWhole(ctx context.Context, wg *sync.WaitGroup) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, begun := range s.whole {
		if begun {
			continue
		}
		s.whole[id] = true
		wg.Go(func() {
			err := s.fetchAll(ctx, id)
			s.mu.Lock()
			delete(s.whole, id)
			s.mu.Unlock()
			if err != nil && context.Cause(ctx) == nil {
				slog.Warn("cannot fetch all of an outside repository", "room", "source", "project", string(id), "error", err)
			}
		})
	}
}

func (s *Sources) fetchAll(ctx context.Context, id project.ID) error {
	r, _, err := s.loadRemote(ctx, id)
	if err != nil || r == nil {
		return err
	}
	_, err = s.wholeMirror(ctx, id, r, true)
	return err
}
