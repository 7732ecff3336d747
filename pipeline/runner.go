package pipeline

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"slipway/access"
	"slipway/crash"
	"slipway/db"
	"slipway/engine"
	"slipway/event"
	"slipway/image"
	"slipway/project"
)

// Engine is what the Runner needs of an engine. Its volumes must be
// engine.Directories.
type Engine interface {
	engine.Builder
	engine.Runner
	Volumes() engine.Volumes
	Images() engine.Images
	Blobs() engine.Blobs
	engine.Snapshotter
}

// Runner carries out executions.
type Runner struct {
	p     *Pipelines
	eng   Engine
	dirs  engine.Directories
	owner string
	tidy  sync.WaitGroup // Forget and Release after a commit
	work  underway

	cloning cloning
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
	wg.Go(func() { r.readFiles(ctx) })
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

// readFiles reads the files that pushes concern.
func (r *Runner) readFiles(ctx context.Context) {
	err := r.p.db.Work(ctx, db.Work{Table: Readers, Owner: r.owner, N: readers, Handle: r.p.Read})
	if err != nil && ctx.Err() == nil {
		slog.Error("reading definitions ended", "room", "pipeline", "error", err)
	}
}

// handling is one call of Handle. A copy of it does one step.
type handling struct {
	*Runner
	lease   db.Lease
	x       Execution
	share   share
	project project.Project
	ready   *readiness
	place   *workplace
	kept    *keeping
	changed *atomic.Pointer[news] // by the commit; nil: not looked at yet
	resumed bool                  // it was under way when this handler got it
	log     *slog.Logger

	// Of the copy for a step:

	mask [][]byte // what messages about the step must not show
	// attached says that the step was begun by an earlier look: what we had to say
	// before it may be in its log, and its container may be writing.
	attached bool
	fixed    map[string]string // variables of the round of its loop
	volume   string            // where it works
	used     engine.Usage      // by what it has run
	built    *Built            // of a build
	after    <-chan struct{}   // closed when the step before it has come to the file system
	came     func()            // it has come to the file system, or will not
}

// settled is how a step ended, with what is to become true with it; or how
// conditions were judged.
type settled struct {
	step   int
	result Result
	tags   []string // names of the own registry for the image
	// refused says that result stands for one that could not be written.
	refused  bool
	by       *handling // the copy that did it
	verdicts map[int]Verdict
	defined  *defined // the actions were read from their file
	err      error    // nothing was settled
}

// turn is what is to be done until an execution is looked at again.
type turn struct {
	begun []int // steps to be run
	ask   []int // steps whose conditions are to be judged
	// define says that the actions are to be read from their file first.
	define bool
	again  time.Time // when to look again if nothing happens
}

// Handle brings an execution on, as far as it goes without waiting for anything
// but its actions.
func (r *Runner) Handle(ctx context.Context, lease db.Lease) (again time.Time, err error) {
	h := &handling{Runner: r, lease: lease, ready: newReadiness(), place: &workplace{}, kept: &keeping{}, changed: new(atomic.Pointer[news]), log: slog.With("room", "pipeline", "execution", lease.ID)}
	news, stop := r.p.db.Watch(newsTopic(ExecutionID(lease.ID)))
	defer stop()
	err = r.p.db.Read(ctx, func(tx *db.Tx) error {
		if h.x, err = loadExecution(tx, ExecutionID(lease.ID)); err != nil {
			return err
		}
		if h.share, err = loadShare(tx, h.x.ID); err != nil {
			return err
		}
		h.project, err = project.LoadAny(tx, h.x.Project)
		return err
	})
	if err != nil {
		return time.Time{}, fmt.Errorf("execution %s: %w", lease.ID, err)
	}
	h.resumed = h.x.Status != Enqueued
	c := newCrew(h)
	defer c.leave()
	// After a restart: what was in progress goes on.
	c.begin(ctx, h.inProgress(), h.x.prepared)
	var done *settled
	for {
		if h.x.Status == Terminating {
			c.cancel()
		}
		t, err := h.record(ctx, done)
		if err != nil {
			return time.Time{}, err
		}
		c.begin(ctx, t.begun, false)
		c.ask(ctx, t.ask)
		c.define(ctx, t.define)
		if c.idle() {
			return t.again, nil
		}
		if done, err = c.wait(ctx, news, t.again); err != nil {
			return time.Time{}, fmt.Errorf("execution %s: %w", lease.ID, err)
		}
	}
}

// advance writes down how a step ended and begins what comes next, in one
// transaction.
func (h *handling) advance(ctx context.Context, done *settled) (t turn, err error) {
	before := h.x.Status
	x, share := h.x, h.share
	x.Steps = slices.Clone(h.x.Steps)
	err = h.p.db.Write(ctx, func(tx *db.Tx) error {
		t, err = h.decide(tx, &x, &share, done)
		return err
	})
	if err != nil {
		return turn{}, fmt.Errorf("execution %s: %w", x.ID, err)
	}
	ended := h.x // before the next try of the same step has its number
	h.x, h.share = x, share
	switch {
	case done == nil:
	case done.defined != nil:
		crash.At("pipeline: defined by a file")
		if x.Problem != "" && len(x.Steps) > 0 {
			if err := h.p.logs.Append(h.p.logs.Action(string(x.ID), x.Steps[0].ID), nil, x.Problem); err != nil {
				h.log.Warn("the reason of a failure is not in its log", "step", 0, "error", err)
			}
		}
	case done.verdicts != nil:
		crash.At("pipeline: conditions judged")
	default:
		h.forget(ended.Steps[done.step])
		crash.At("pipeline: action ended")
	}
	if len(t.begun) > 0 {
		crash.At("pipeline: action in progress")
	}
	if before != x.Status {
		h.log.Info("execution "+string(x.Status), "pipeline", x.Pipeline, "number", x.Number)
		crash.At("pipeline: execution " + string(x.Status))
	}
	if x.Status.Ended() && h.resumed {
		h.clean()
	}
	if x.Status.Ended() {
		h.cleanFiles()
	}
	return t, nil
}

func (h *handling) inProgress() (steps []int) {
	for i, s := range h.x.Steps {
		if s.Status == InProgress {
			steps = append(steps, i)
		}
	}
	return steps
}

// settle writes how a step ended.
func (h *handling) settle(tx *db.Tx, x *Execution, done settled) error {
	if err := endTry(tx, x.Steps[done.step], done.result); err != nil {
		return err
	}
	s := Settle(x.Steps[done.step], done.result, tx.Now)
	x.Steps[done.step] = s
	if err := saveStep(tx, s); err != nil {
		return err
	}
	if err := h.p.keepOutputs(tx, x, done.step, done.result.Outputs); err != nil {
		return err
	}
	tx.Wake(Topic(x.ID))
	if done.result.Status != Successful || done.result.Digest == "" {
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
	if s.Action.Build != nil && !s.Action.Build.KeepImages && !x.apart() {
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
		WHERE s.action = ? AND s.kept = 1 AND e.number < ? AND e.status NOT IN ('ENQUEUED', 'INPROGRESS', 'TERMINATING')`,
		s.Action.ID, x.Number)
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

// cleanFiles removes the file systems of the pipeline's runs and the snapshots that
// nobody needs now.
func (h *handling) cleanFiles() {
	h.tidy.Go(func() {
		ctx := context.Background()
		err := h.tidySnapshots(ctx, h.x.Pipeline)
		if h.x.ownsFiles() {
			err = errors.Join(err, h.tidyFiles(ctx, h.x.Pipeline))
		}
		if err != nil {
			h.log.Warn("remove the files of runs", "error", err) // the hourly look takes them
		}
	})
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
