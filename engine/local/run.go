package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"slipway/crash"
	"slipway/engine"
	"slipway/engine/local/wire"
)

var errClosed = fmt.Errorf("the engine is closed: %w", errdefs.ErrUnavailable)

// detached says whether who called is only going away.
func detached(ctx context.Context) bool { return errors.Is(context.Cause(ctx), engine.ErrDetach) }

// runs are the runs that somebody asked for, or that an earlier server started.
type runs struct {
	mu sync.Mutex
	by map[string]*run // by name
}

// run is one of them, from its preparation to the end of its clean-up.
type run struct {
	e    *Engine
	id   string
	name string

	ctx    context.Context // of the preparation
	cancel context.CancelCauseFunc
	stop   chan struct{} // closed when it is to end
	once   sync.Once
	grace  time.Duration // set before stop is closed

	done chan struct{} // closed when exit and err are set
	exit engine.Exit
	err  error         // the machinery failed; the next call tries again
	kept bool          // there is a record, so exit is good for ever
	over chan struct{} // closed when it has been cleaned up after
}

func (e *Engine) newRun(id, name string) *run {
	r := &run{e: e, id: id, name: name, stop: make(chan struct{}), done: make(chan struct{}), over: make(chan struct{})}
	r.ctx, r.cancel = context.WithCancelCause(context.Background())
	return r
}

func runName(id string) string { return "r-" + fileName(id) }

// errCancelled is the cause for the preparation of a run that is not wanted any
// more.
var errCancelled = errors.New("cancelled before it was started")

// Run implements engine.Runner.
func (e *Engine) Run(ctx context.Context, id string, spec engine.RunSpec) (engine.Exit, error) {
	r, err := e.attach(ctx, id, spec)
	if err != nil || r == nil {
		return engine.Exit{Code: -1, Reason: engine.ReasonCancel, Message: errCancelled.Error()}, wrap("run", id, err)
	}
	select {
	case <-r.done:
	case <-e.closed:
		return engine.Exit{}, wrap("run", id, errClosed)
	case <-ctx.Done():
		if detached(ctx) {
			return engine.Exit{}, wrap("run", id, engine.ErrDetach)
		}
		r.end(spec.Grace)
		select {
		case <-r.over: // it is gone with all that it had
		case <-e.closed:
			return engine.Exit{}, wrap("run", id, errClosed)
		}
	}
	return r.exit, wrap("run", id, r.err)
}

// attach gives the run of that id, started if it was not there; nil if there is
// none and ctx has ended.
func (e *Engine) attach(ctx context.Context, id string, spec engine.RunSpec) (*run, error) {
	name := runName(id)
	e.runs.mu.Lock()
	defer e.runs.mu.Unlock()
	if r := e.runs.by[name]; r != nil && !r.failed() {
		return r, nil
	}
	if ctx.Err() != nil {
		if detached(ctx) {
			return nil, engine.ErrDetach
		}
		return nil, nil
	}
	if !e.begin() {
		return nil, errClosed
	}
	r := e.newRun(id, name)
	e.runs.by[name] = r
	go func() {
		defer e.ending.Done()
		if mon := e.monitors.get(name); mon != nil { // its end could not be dealt with
			r.follow(mon)
			return
		}
		r.main(spec)
	}()
	return r, nil
}

// failed says whether the next call has to try again.
func (r *run) failed() bool {
	select {
	case <-r.over:
		return r.err != nil || !r.kept
	default:
		return false
	}
}

// end asks for an end. The first one counts.
func (r *run) end(grace time.Duration) {
	r.once.Do(func() {
		r.grace = grace
		r.cancel(errCancelled)
		close(r.stop)
	})
}

// main starts the container and goes on with it.
func (r *run) main(spec engine.RunSpec) {
	c := &container{
		rec: record{
			Name: r.name, Kind: kindRun, ID: r.id, Owner: spec.Owner, Cgroup: r.e.workCgroup() + "/" + r.name, Log: spec.Log,
			Network: spec.Network, Grace: spec.Grace, Export: spec.Export, Image: spec.Image, Platform: spec.Platform,
		},
		entrypoint: spec.Entrypoint, command: spec.Command, env: spec.Env, dir: spec.Dir, user: spec.User,
		mounts: spec.Mounts, files: spec.Files, output: spec.Output, limits: spec.Limits, noNew: spec.NoNewPrivileges,
		oom: max(oomWork, r.e.oomServe), host: hostName(r.id),
	}
	if c.limits.Memory <= 0 {
		c.limits.Memory = r.e.memory / 2
	}
	cfg := wire.Config{
		Timeout: millis(spec.Timeout), Grace: graceMillis(spec.Grace), LogMax: spec.LogMax, Mask: spec.Mask,
		OOMScoreAdj: r.e.oomServe,
	}
	mon, err := r.e.launch(r.ctx, c, spec.Image, spec.Platform, cfg)
	switch {
	case err == nil:
		r.follow(mon)
		return
	case errors.Is(err, errCancelled):
		r.exit = engine.Exit{Code: -1, Reason: engine.ReasonCancel, Message: errCancelled.Error()}
	default:
		r.err = err
	}
	close(r.done)
	close(r.over)
}

// follow waits for the end of a container that was started, now or by an
// earlier server, and deals with it.
func (r *run) follow(mon *monitor) {
	crash.At("engine: a run was started")
	select {
	case <-mon.done:
	case <-r.e.closed:
		return // it goes on
	case <-r.stop:
		mon.kill(r.grace, engine.ReasonCancel)
		select {
		case <-mon.done:
		case <-r.e.closed:
			return
		}
	}
	crash.At("engine: a run has ended")
	r.exit, r.kept = exitOf(mon.exit), true
	r.exit.Output, r.err = r.e.takeOutput(mon.record)
	if r.err == nil && mon.Export != nil && !r.e.settled(mon.record) {
		if r.err = r.e.exportRun(mon.record); r.err == nil {
			crash.At("engine: a run was exported")
		}
	}
	close(r.done) // the clean-up is not in the way of the answer
	if r.err == nil {
		r.e.settle(mon)
	}
	close(r.over)
}

// Forget implements engine.Runner.
func (e *Engine) Forget(ctx context.Context, id string) error {
	name := runName(id)
	e.runs.mu.Lock()
	r := e.runs.by[name]
	e.runs.mu.Unlock()
	if r != nil {
		select {
		case <-r.done:
		default:
			return wrap("forget", id, fmt.Errorf("it still runs: %w", errdefs.ErrFailedPrecondition))
		}
		select {
		case <-r.over:
		case <-ctx.Done():
			return wrap("forget", id, context.Cause(ctx))
		}
	}
	e.runs.mu.Lock()
	defer e.runs.mu.Unlock()
	if e.runs.by[name] != r {
		return nil // somebody started it anew
	}
	delete(e.runs.by, name)
	if mon := e.monitors.get(name); mon != nil {
		if !e.settled(mon.record) { // what could not be exported is not wanted any more
			e.settle(mon)
		}
		e.monitors.forget(name)
	}
	return wrap("forget", id, errors.Join(os.RemoveAll(e.monitors.output(name)), os.RemoveAll(e.monitors.dir(name))))
}

// openRuns goes on with the runs of an earlier server.
func (e *Engine) openRuns() {
	e.runs.by = map[string]*run{}
	for _, mon := range e.monitors.all(kindRun) {
		r := e.newRun(mon.ID, mon.Name)
		e.runs.by[mon.Name] = r
		select {
		case <-mon.done:
			if e.settled(mon.record) {
				r.exit, r.kept = exitOf(mon.exit), true
				r.exit.Output, r.err = e.takeOutput(mon.record)
				close(r.done)
				close(r.over)
				if mon.conn != nil {
					_ = mon.dismiss()
				}
				continue
			}
		default:
		}
		e.ending.Go(func() { r.follow(mon) })
	}
}
