package pipeline

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"sync"
	"time"

	"slipway/access"
	"slipway/crash"
	"slipway/db"
	"slipway/engine"
	"slipway/event"
	"slipway/image"
	"slipway/project"
	"slipway/source"
)

// Engine is what the Runner needs of an engine. Its volumes must be
// engine.Directories.
type Engine interface {
	engine.Builder
	engine.Runner
	Volumes() engine.Volumes
	Images() engine.Images
	Blobs() engine.Blobs
}

// Runner carries out executions.
type Runner struct {
	p     *Pipelines
	eng   Engine
	dirs  engine.Directories
	owner string
	tidy  sync.WaitGroup // Forget and Release after a commit
	work  underway
}

// NewRunner makes the runner; owner names this process in leases.
func NewRunner(p *Pipelines, e Engine, owner string) (*Runner, error) {
	dirs, ok := e.(engine.Directories)
	if !ok {
		return nil, errors.New("pipelines need an engine whose volumes are directories")
	}
	return &Runner{p: p, eng: e, dirs: dirs, owner: owner}, nil
}

// Run handles executions until ctx ends; what runs in containers is left
// running then.
func (r *Runner) Run(ctx context.Context) error {
	// Executions that wait hold no worker; those that run are bounded by the
	// limits, and a few more hands settle the rest.
	n := 8 + r.p.cfg.Limits.Runs + r.p.cfg.Limits.Builds
	if r.p.cfg.Limits.Runs <= 0 || r.p.cfg.Limits.Builds <= 0 {
		n = 256
	}
	var wg sync.WaitGroup
	wg.Go(func() { r.followDeleted(ctx) })
	err := r.p.db.Work(ctx, db.Work{Table: "executions", Owner: r.owner, N: n, Handle: r.Handle})
	wg.Wait()
	r.tidy.Wait()
	return err
}

// followDeleted cancels what runs in a project that was deleted.
func (r *Runner) followDeleted(ctx context.Context) {
	err := event.New(r.p.db).Follow(ctx, "pipeline", []event.Kind{event.ProjectDeleted}, func(tx *db.Tx, e event.Event) error {
		return cancelAll(tx, `pipeline IN (SELECT id FROM pipelines WHERE project = ?)`, 0, e.Project)
	})
	if err != nil && ctx.Err() == nil {
		slog.Error("following deleted projects ended", "room", "pipeline", "error", err)
	}
}

// errCancelled is the cause with which a step is ended when its execution is.
var errCancelled = errors.New("the execution was cancelled")

// handling is one call of Handle.
type handling struct {
	*Runner
	lease   db.Lease
	x       Execution
	slot    Class
	project project.Project
	mask    [][]byte // what messages about the step under way must not show
	// attached says that the step under way was begun by an earlier look: what we
	// had to say before it may be in its log, and its container may be writing.
	attached bool
	changed  *source.Changelog // by the commit; nil: not looked at yet
	resumed  bool              // it was under way when this handler got it
	log      *slog.Logger
}

// settled is how a step ended, with what is to become true with it.
type settled struct {
	step   int
	result Result
	tags   []string // names of the own registry for the image
	// refused says that result stands for one that could not be written.
	refused bool
}

// Handle brings an execution on, as far as it goes without waiting for anything
// but its actions.
func (r *Runner) Handle(ctx context.Context, lease db.Lease) (again time.Time, err error) {
	h := &handling{Runner: r, lease: lease, log: slog.With("room", "pipeline", "execution", lease.ID)}
	cancelled, stop := r.p.db.Watch(cancelTopic(ExecutionID(lease.ID)))
	defer stop()
	err = r.p.db.Read(ctx, func(tx *db.Tx) error {
		if h.x, err = loadExecution(tx, ExecutionID(lease.ID)); err != nil {
			return err
		}
		if err := tx.QueryRow(`SELECT slot FROM executions WHERE id = ?`, lease.ID).Scan(&h.slot); err != nil {
			return err
		}
		h.project, err = project.LoadAny(tx, h.x.Project)
		return err
	})
	if err != nil {
		return time.Time{}, fmt.Errorf("execution %s: %w", lease.ID, err)
	}
	h.resumed = h.x.Status != Enqueued
	var done *settled
	for {
		step, again, err := h.record(ctx, done)
		if err != nil || step < 0 {
			return again, err
		}
		res, err := h.supervise(ctx, cancelled, step)
		if err != nil {
			return time.Time{}, fmt.Errorf("execution %s, action %d: %w", lease.ID, step, err)
		}
		done = &res
	}
}

// advance writes down how a step ended and begins the next one, in one
// transaction. step is -1 when there is nothing to be run now.
func (h *handling) advance(ctx context.Context, done *settled) (step int, again time.Time, err error) {
	if done == nil {
		// After a restart: what was in progress goes on.
		if i := h.inProgress(); i >= 0 {
			h.attached = h.x.prepared
			return i, time.Time{}, nil
		}
	}
	h.attached = false
	before := h.x.Status
	x, slot := h.x, h.slot
	x.Steps = slices.Clone(h.x.Steps)
	err = h.p.db.Write(ctx, func(tx *db.Tx) error {
		step, again, err = h.decide(tx, &x, &slot, done)
		return err
	})
	if err != nil {
		return -1, time.Time{}, fmt.Errorf("execution %s: %w", x.ID, err)
	}
	ended := h.x // before the next try of the same step has its number
	h.x, h.slot = x, slot
	if done != nil {
		h.forget(ended.Steps[done.step])
		crash.At("pipeline: action ended")
	}
	if step >= 0 {
		crash.At("pipeline: action in progress")
	}
	if before != x.Status {
		h.log.Info("execution "+string(x.Status), "pipeline", x.Pipeline, "number", x.Number)
		crash.At("pipeline: execution " + string(x.Status))
	}
	if x.Status.Ended() && h.resumed {
		h.clean()
	}
	return step, again, nil
}

func (h *handling) inProgress() int {
	return slices.IndexFunc(h.x.Steps, func(s ActionExecution) bool { return s.Status == InProgress })
}

// decide is the body of advance's transaction. It changes x and slot, which are
// thrown away if the transaction fails.
func (h *handling) decide(tx *db.Tx, x *Execution, slot *Class, done *settled) (step int, again time.Time, err error) {
	if err := tx.Check(h.lease); err != nil {
		return -1, time.Time{}, err
	}
	if err := tx.QueryRow(`SELECT status FROM executions WHERE id = ?`, x.ID).Scan(&x.Status); err != nil {
		return -1, time.Time{}, err
	}
	if x.Status == Enqueued {
		if ok, err := h.admit(tx, x, slot); err != nil || !ok {
			return -1, time.Time{}, err
		}
	}
	if done != nil {
		if err := h.settle(tx, x, *done); err != nil {
			return -1, time.Time{}, err
		}
	}
	d := Next(*x, tx.Now)
	for status, steps := range map[Status][]int{Skipped: d.Skip, NotExecuted: d.Drop} {
		for _, i := range steps {
			x.Steps[i].Status = status
			if err := saveStep(tx, x.Steps[i]); err != nil {
				return -1, time.Time{}, err
			}
		}
	}
	switch {
	case len(d.Start) > 0:
		step, err = h.begin(tx, x, slot, d.Start[0])
		return step, time.Time{}, err
	case d.Status != "":
		x.Status, x.Finished = d.Status, tx.Now
		if _, err := tx.Exec(`UPDATE executions SET status = ?, finished = ?, slot = '', waiting = 0 WHERE id = ?`,
			x.Status, db.Micros(x.Finished), x.ID); err != nil {
			return -1, time.Time{}, err
		}
		*slot = ""
		if err := tell(tx, event.ExecutionFinished, *x); err != nil {
			return -1, time.Time{}, err
		}
		if err := dropSecrets(tx, x.Workspace, x.Pipeline); err != nil {
			return -1, time.Time{}, err
		}
		return -1, time.Time{}, h.p.wake(tx, x.ID)
	case !d.Again.IsZero() && *slot != "":
		if err := h.release(tx, x, slot, false, ""); err != nil {
			return -1, time.Time{}, err
		}
	}
	return -1, d.Again, nil
}

// admit asks whether an execution that waits may begin, and begins it.
func (h *handling) admit(tx *db.Tx, x *Execution, slot *Class) (bool, error) {
	a, err := h.p.admission(tx, "")
	if err != nil {
		return false, err
	}
	if err := h.p.supersede(tx, a.Skip); err != nil {
		return false, err
	}
	if a.skips(x.ID) {
		x.Status = Skipped
		return false, nil
	}
	if !slices.Contains(a.Start, x.ID) {
		return false, nil
	}
	err = tx.QueryRow(`SELECT status FROM executions WHERE pipeline = ? AND id <> ? AND status IN ('SUCCESSFUL', 'FAILED')
		ORDER BY finished DESC LIMIT 1`, x.Pipeline, x.ID).Scan(&x.Previous)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return false, err
	}
	x.Status, x.Started, *slot = InProgress, tx.Now, nextClass(*x)
	_, err = tx.Exec(`UPDATE executions SET status = ?, started = ?, previous = ?, slot = ?, waiting = 0 WHERE id = ?`,
		x.Status, db.Micros(x.Started), x.Previous, *slot, x.ID)
	if err != nil {
		return false, err
	}
	return true, tell(tx, event.ExecutionStarted, *x)
}

// settle writes how a step ended.
func (h *handling) settle(tx *db.Tx, x *Execution, done settled) error {
	s := Settle(x.Steps[done.step], done.result, tx.Now)
	x.Steps[done.step] = s
	if err := saveStep(tx, s); err != nil {
		return err
	}
	if err := h.p.keepOutputs(tx, x, done.step, done.result.Outputs); err != nil {
		return err
	}
	tx.Wake(Topic(x.ID))
	if s.Status != Successful || s.Digest == "" {
		return nil
	}
	if err := image.Keep(tx, h.keepID(s), s.Digest, tx.Now.Add(keepTime)); err != nil {
		return err
	}
	if _, err := tx.Exec(`UPDATE action_executions SET kept = 1 WHERE id = ?`, s.ID); err != nil {
		return err
	}
	if len(done.tags) > 0 {
		by := access.System(access.User{ID: x.By})
		if err := h.p.images.TagIn(tx, by, x.Workspace, x.Project, s.Digest, done.tags...); err != nil {
			return fmt.Errorf("tag %v: %w", done.tags, err)
		}
	}
	if s.Action.Build != nil && !s.Action.Build.KeepImages {
		return h.dropEarlier(tx, x, s)
	}
	return nil
}

// keepTime is how long the result of a build is held in its execution's name.
const keepTime = 7 * 24 * time.Hour

func (h *handling) keepID(s ActionExecution) string {
	return "execution/" + string(h.x.ID) + "/" + strconv.Itoa(s.Index)
}

// dropEarlier ends the holds of earlier results of the same action; those with
// a tag stay by it.
func (h *handling) dropEarlier(tx *db.Tx, x *Execution, s ActionExecution) error {
	rows, err := tx.Query(`SELECT s.id, s.execution, s.idx FROM action_executions s JOIN executions e ON e.id = s.execution
		WHERE s.action = ? AND s.kept = 1 AND s.execution <> ? AND e.status NOT IN ('ENQUEUED', 'INPROGRESS', 'TERMINATING')`,
		s.Action.ID, x.ID)
	if err != nil {
		return err
	}
	defer rows.Close()
	drop := map[string]string{}
	for rows.Next() {
		var id, execution string
		var idx int
		if err := rows.Scan(&id, &execution, &idx); err != nil {
			return err
		}
		drop[id] = "execution/" + execution + "/" + strconv.Itoa(idx)
	}
	if err := rows.Err(); err != nil {
		return err
	}
	_ = rows.Close()
	for id, keep := range drop {
		if err := image.Drop(tx, keep); err != nil {
			return err
		}
		if _, err := tx.Exec(`UPDATE action_executions SET kept = 0 WHERE id = ?`, id); err != nil {
			return err
		}
	}
	return nil
}

// begin marks a step as in progress, or as waiting when there is no slot of its
// class; then it gives -1 and holds no worker.
func (h *handling) begin(tx *db.Tx, x *Execution, slot *Class, i int) (int, error) {
	s := &x.Steps[i]
	class := s.Action.class()
	if class != *slot {
		w := Waiting{
			ID: x.ID, Pipeline: x.Pipeline, Class: class, Priority: x.Priority, Queued: x.Started, Number: x.Number, Begun: true,
		}
		a, err := h.p.admission(tx, x.ID, w)
		if err != nil {
			return -1, err
		}
		if !slices.Contains(a.Start, x.ID) {
			s.Status = Enqueued
			if err := saveStep(tx, *s); err != nil {
				return -1, err
			}
			tx.Wake(Topic(x.ID))
			return -1, h.release(tx, x, slot, true, class)
		}
		had := *slot
		*slot = class
		if _, err := tx.Exec(`UPDATE executions SET slot = ?, waiting = 0 WHERE id = ?`, class, x.ID); err != nil {
			return -1, err
		}
		if had != "" {
			if err := h.p.wake(tx, x.ID); err != nil {
				return -1, err
			}
		}
	}
	s.Status, s.NotBefore, s.Error, s.Code = InProgress, time.Time{}, "", 0
	s.Attempt++
	if s.Started.IsZero() {
		s.Started = tx.Now
	}
	tx.Wake(Topic(x.ID))
	return i, saveStep(tx, *s)
}

// release gives the slot back.
func (h *handling) release(tx *db.Tx, x *Execution, slot *Class, waiting bool, class Class) error {
	had := *slot
	*slot = ""
	if _, err := tx.Exec(`UPDATE executions SET slot = '', waiting = ?, class = ? WHERE id = ?`, waiting, class, x.ID); err != nil {
		return err
	}
	if had == "" {
		return nil
	}
	return h.p.wake(tx, x.ID)
}

// engineID names a step's try in the engine.
func (h *handling) engineID(s ActionExecution) string {
	return string(h.x.ID) + "-" + strconv.Itoa(s.Index) + "-" + strconv.Itoa(s.Attempt)
}

// clean forgets every try of an execution that has ended and was not always in
// this handler's hands: a server that was killed had no time to.
func (h *handling) clean() {
	for _, s := range h.x.Steps {
		for ; s.Attempt > 0; s.Attempt-- {
			h.forget(s)
		}
	}
}

// forget drops what the engine keeps of a try whose result is on disk. It is
// done beside the next step.
func (h *handling) forget(s ActionExecution) {
	id := h.engineID(s)
	h.tidy.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		var err error
		if s.Action.Build != nil {
			// first held in the execution's own name, then not any more in the build's
			if err = h.p.images.Settle(ctx); err == nil {
				err = h.eng.Images().Release(ctx, "build/"+id)
			}
		} else {
			err = h.eng.Forget(ctx, id)
		}
		if err != nil {
			h.log.Warn("forget "+id, "error", err) // the sweep takes it once the execution has ended
		}
	})
}

// supervise runs a step and ends it when the execution is cancelled.
func (h *handling) supervise(ctx context.Context, cancelled <-chan struct{}, i int) (settled, error) {
	sctx, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cancel(nil)
	stop := context.AfterFunc(ctx, func() { cancel(engine.ErrDetach) })
	defer stop()
	defer h.work.add(cancel)()
	over := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		// A status that was read with the step's start needs no second look.
		for h.x.Status != Terminating || h.x.Steps[i].Action.When == OnTerminate {
			select {
			case <-cancelled:
			case <-over:
				return
			}
			if h.isTerminating(sctx, i) {
				break
			}
		}
		cancel(errCancelled)
	})
	res := h.do(sctx, i)
	close(over)
	wg.Wait()
	if cause := context.Cause(sctx); errors.Is(cause, engine.ErrDetach) {
		return settled{}, cause
	}
	return res, nil
}

// isTerminating tells whether a step is to be ended: its execution is being
// cancelled, and the step is not one for just that.
func (h *handling) isTerminating(ctx context.Context, i int) bool {
	if h.x.Steps[i].Action.When == OnTerminate {
		return false
	}
	var status Status
	err := h.p.db.Read(ctx, func(tx *db.Tx) error {
		return tx.QueryRow(`SELECT status FROM executions WHERE id = ?`, h.x.ID).Scan(&status)
	})
	return err == nil && status == Terminating
}
