package pipeline

import (
	"context"
	"errors"
	"runtime/debug"
	"sync"
	"time"

	"slipway/db"
	"slipway/engine"
)

// errCancelled is the cause with which a step is ended when its execution is.
var errCancelled = errors.New("the execution was cancelled")

// crew is what is done for an execution now: steps that run beside each other,
// or conditions that are judged.
type crew struct {
	h       *handling
	results chan settled
	ends    map[int]context.CancelCauseFunc // by step
	all     sync.WaitGroup
	// cancelled says that the execution is being cancelled, and those are ended who
	// are to be.
	cancelled bool
	// left is closed when nobody waits for results any more. There may be more of
	// them than were thought of: the steps are told anew by a definition in a file.
	left chan struct{}
}

// judging stands for the judging of conditions among the steps.
const judging = -2

func newCrew(h *handling) *crew {
	return &crew{h: h, results: make(chan settled, len(h.x.Steps)+1), ends: map[int]context.CancelCauseFunc{}, left: make(chan struct{})}
}

func (c *crew) idle() bool { return len(c.ends) == 0 }

// begin runs steps. The first of them comes to the file system first, so that
// what is said about it opens that one's log.
func (c *crew) begin(ctx context.Context, steps []int, attached bool) {
	var after <-chan struct{}
	for _, i := range steps {
		one := c.h.copy(attached)
		came := make(chan struct{})
		one.after, one.came = after, sync.OnceFunc(func() { close(came) })
		after = came
		c.run(ctx, i, func(ctx context.Context) settled {
			defer one.came()
			return one.do(ctx, i)
		})
	}
}

// ask has conditions judged, unless that is being done.
func (c *crew) ask(ctx context.Context, steps []int) {
	if len(steps) == 0 || c.ends[judging] != nil {
		return
	}
	one := c.h.copy(false)
	c.run(ctx, judging, func(ctx context.Context) settled { return settled{verdicts: one.judge(ctx, steps)} })
}

// run calls do beside the others. The end of ctx leaves running what runs.
func (c *crew) run(ctx context.Context, i int, do func(context.Context) settled) {
	sctx, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() { cancel(engine.ErrDetach) })
	over := func() {}
	if i != judging {
		over = c.h.work.add(cancel)
	}
	c.ends[i] = cancel
	c.all.Go(func() {
		res := settled{err: errors.New("it came to no end")}
		defer func() {
			if p := recover(); p != nil {
				res.err = &db.Panicked{Value: p, Stack: debug.Stack()}
			}
			if cause := context.Cause(sctx); errors.Is(cause, engine.ErrDetach) {
				res.err = cause
			}
			res.step = i
			stop()
			over()
			cancel(nil)
			select {
			case c.results <- res:
			case <-c.left:
			}
		}()
		res = do(sctx)
	})
}

// cancel ends what runs, but for the steps that are for just that.
func (c *crew) cancel() {
	c.cancelled = true
	for i, end := range c.ends {
		if i == judging || c.h.x.Steps[i].Action.When != OnTerminate {
			end(errCancelled)
		}
	}
}

// leave lets go of what runs, and waits until it is let go.
func (c *crew) leave() {
	for _, end := range c.ends {
		end(engine.ErrDetach)
	}
	close(c.left)
	c.all.Wait()
}

// wait waits until something is settled, there is news of the execution, or it
// is time.
func (c *crew) wait(ctx context.Context, news <-chan struct{}, again time.Time) (*settled, error) {
	var late <-chan time.Time
	if !again.IsZero() {
		t := time.NewTimer(time.Until(again))
		defer t.Stop()
		late = t.C
	}
	for {
		select {
		case res := <-c.results:
			delete(c.ends, res.step)
			if res.err != nil {
				return nil, res.err
			}
			return &res, nil
		case <-late:
			return nil, nil
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-news:
		}
		// Looked at first, as it needs no room on the disk.
		status, err := c.h.status(ctx)
		switch {
		case err != nil:
			return nil, err
		case status != Terminating || c.cancelled:
			return nil, nil // there are slots
		}
		c.cancel()
	}
}

// status is that of the execution in the store.
func (h *handling) status(ctx context.Context) (status Status, err error) {
	err = h.p.db.Read(ctx, func(tx *db.Tx) error {
		return tx.QueryRow(`SELECT status FROM executions WHERE id = ?`, h.x.ID).Scan(&status)
	})
	return status, err
}

// copy is a handling for one step. What is changed in it is not seen by others.
func (h *handling) copy(attached bool) *handling {
	one := *h
	one.attached, one.mask, one.fixed = attached, nil, nil
	one.ready.into(&one.x)
	return &one
}
