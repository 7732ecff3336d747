package stack

import (
	"context"
	"sync"

	"slipway/engine"
)

// jobs are the slow things that a look at a stack begins and does not wait for:
// a stop with its grace, a pull, the measuring of volumes. Each has a key and
// runs once at a time. What a killed server had under way follows again from
// the rows and from what is observed.
type jobs struct {
	ctx  context.Context
	end  context.CancelCauseFunc
	wait sync.WaitGroup

	mu      sync.Mutex
	running map[string]bool
	closed  bool
}

func newJobs() *jobs {
	j := &jobs{running: map[string]bool{}}
	j.ctx, j.end = context.WithCancelCause(context.Background())
	return j
}

// start begins a job unless it runs already.
func (j *jobs) start(key string, f func(context.Context)) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.running[key] || j.closed {
		return
	}
	j.running[key] = true
	j.wait.Go(func() {
		defer j.done(key)
		f(j.ctx)
	})
}

func (j *jobs) done(key string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	delete(j.running, key)
}

func (j *jobs) runs(key string) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.running[key]
}

// close lets go of what runs, without ending it in the engine, and waits.
func (j *jobs) close() {
	j.mu.Lock()
	j.closed = true
	j.mu.Unlock()
	j.end(engine.ErrDetach)
	j.wait.Wait()
}
