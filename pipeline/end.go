package pipeline

import (
	"context"
	"errors"
	"sync"
)

// underway is what runs: how each step is ended.
type underway struct {
	mu   sync.Mutex
	last int
	ends map[int]context.CancelCauseFunc
}

// add notes a step; over is to be called when it has ended.
func (u *underway) add(end context.CancelCauseFunc) (over func()) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.ends == nil {
		u.ends = map[int]context.CancelCauseFunc{}
	}
	u.last++
	n := u.last
	u.ends[n] = end
	return func() {
		u.mu.Lock()
		defer u.mu.Unlock()
		delete(u.ends, n)
	}
}

// endedError is why steps were ended from above.
type endedError struct{ error }

func (e *endedError) Unwrap() error { return e.error }

// End ends all actions that run: they fail for that reason, and are not tried
// again. It does not wait for it, and says how many there are; who calls it
// again is told how many are left.
func (r *Runner) End(why error) int {
	r.work.mu.Lock()
	defer r.work.mu.Unlock()
	for _, end := range r.work.ends {
		end(&endedError{why})
	}
	return len(r.work.ends)
}

// endedFromAbove is the reason if a step was ended by End.
func endedFromAbove(ctx context.Context) error {
	var e *endedError
	if errors.As(context.Cause(ctx), &e) {
		return &fatalError{e}
	}
	return nil
}

// goneTopic is woken when a deleted pipeline has nothing left that runs.
const goneTopic = "pipeline: gone"

// Gone is signalled when Living says of another pipeline that it is not wanted
// any more. stop ends it.
func (p *Pipelines) Gone() (c <-chan struct{}, stop func()) { return p.db.Watch(goneTopic) }
