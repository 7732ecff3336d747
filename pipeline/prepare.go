package pipeline

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"

	"slipway/crash"
	"slipway/db"
	"slipway/plainfile"
	"slipway/source"
)

// prepare brings the pipeline's file system to the commit of the execution; say
// gets the lines that open the log of the first action.
func (h *handling) prepare(ctx context.Context, say func(string)) error {
	x := &h.x
	if x.local() {
		if _, err := h.p.sources.Local(ctx, x.Project, x.Commit.Revision); errdefs.IsNotFound(err) {
			return fatal("the working tree of execution %d is not kept any more: run it anew", x.Number)
		} else if err != nil {
			return err
		}
	}
	if x.Commit != nil && x.Commit.CommitDate.IsZero() { // started by a push, or by who could not wait for it
		c, err := h.p.sources.Commit(ctx, x.Project, x.Commit.Revision)
		if err != nil {
			return fmt.Errorf("find commit %s of project %s: %w", x.Commit.Revision, h.project.Name, err)
		}
		x.Commit = c
	}
	volume, of := h.volume, ""
	// A retry goes on with what the actions before it have made.
	goesOn := slices.ContainsFunc(x.Steps, func(s ActionExecution) bool { return s.Status == Successful && !s.Carried })
	if x.emptiesCache() && !goesOn && x.Rerun == nil {
		if err := h.clearBuilds(ctx); err != nil {
			return err
		}
	}
	cleared := false // but for some files
	if x.ownsFiles() && !goesOn {
		var err error
		if of, err = h.ownFiles(ctx, volume); err != nil {
			return err
		}
	}
	switch {
	case goesOn && x.ownsFiles():
		if _, err := h.dirs.Dir(ctx, volume); err != nil { // never an empty one in its place
			return fatal("open the files of execution %d, to go on where it ended: start it anew: %w", x.Number, err)
		}
	case goesOn:
	case x.Rerun != nil:
		say(fmt.Sprintf("The file system is as it was before this action in execution %d", x.Rerun.Of))
	case x.emptied():
		say("Starting with an empty file system")
		if err := h.removeFiles(ctx, volume); err != nil {
			return fmt.Errorf("empty the file system of the pipeline: %w", err)
		}
	case x.emptiesCache():
		var err error
		if cleared, err = h.clearFiles(ctx, volume); err != nil {
			return fmt.Errorf("empty the file system of the pipeline: %w", err)
		}
		if say("Starting with an empty file system"); cleared {
			say("Files that were put there are kept")
		}
	}
	if err := h.eng.Volumes().Ensure(ctx, volume, x.Pipeline.Owner()); err != nil {
		return fmt.Errorf("make the file system of the pipeline: %w", err)
	}
	dir, err := h.dirs.Dir(ctx, volume)
	if err != nil {
		return fmt.Errorf("open the file system of the pipeline: %w", err)
	}
	if x.Commit != nil && x.Rerun == nil { // what it begins with is not only the commit
		fresh, err := isEmpty(dir)
		if err != nil {
			return fmt.Errorf("open the file system of the pipeline: %w", err)
		}
		spec := source.CheckoutSpec{
			Revision: x.Commit.Revision, Branch: x.Branch, Ref: x.pullRef(), Depth: x.Frozen.CloneDepth, AllRefs: x.Frozen.FetchAllRefs,
			Dir: dir, Key: volume, Of: of, Fresh: fresh || cleared, Out: say,
		}
		if spec.AllRefs {
			spec.Depth = 0
		}
		if m := h.project.Submodules; m.Fetch {
			// Strangers say what the submodules of a fork are, also if somebody here
			// starts it.
			spec.Modules = &source.Modules{By: x.By, Key: m.Key, Bare: x.Fork}
		}
		err = h.p.sources.Checkout(ctx, x.Project, spec)
		if err != nil {
			return fmt.Errorf("check out commit %s of project %s: %w", x.Commit.Revision, h.project.Name, err)
		}
	}
	return nil
}

// readiness is the file system of the pipeline being brought to the commit, once
// for all steps of an execution.
type readiness struct {
	turn chan struct{} // held by who does it
	is   atomic.Pointer[Execution]
}

func newReadiness() *readiness { return &readiness{turn: make(chan struct{}, 1)} }

// into notes in x that it is done, if it is.
func (r *readiness) into(x *Execution) {
	if is := r.is.Load(); is != nil {
		x.prepared, x.Commit = true, is.Commit
	}
}

// await returns when the file system is ready, or when it is this step's turn to
// make it so; then it has the turn.
func (h *handling) await(ctx context.Context) error {
	if h.x.prepared {
		return nil
	}
	if h.after != nil {
		select {
		case <-h.after:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	select {
	case h.ready.turn <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	h.came()
	if h.ready.into(&h.x); h.x.prepared {
		<-h.ready.turn
	}
	return nil
}

// makeReady brings the file system to the commit, unless that is done. What is to
// be said about the step is in its log then.
func (h *handling) makeReady(ctx context.Context, s ActionExecution, log *lines) error {
	if err := h.await(ctx); err != nil {
		return err
	}
	if h.x.prepared {
		if s.Attempt == 1 {
			h.once(ctx, log, prefixed(notes(h.x.Frozen, s.Action)))
		} else {
			h.once(ctx, log, prefixed(s.attempts()))
		}
		if log.err != nil {
			return fmt.Errorf("write the log: %w", log.err)
		}
		return nil
	}
	defer func() { <-h.ready.turn }()
	if err := h.p.room(); err != nil {
		return fmt.Errorf("no new work is taken: %w", err)
	}
	// What an earlier look at this run left of these lines is written anew.
	if s.Attempt == 1 {
		if err := h.p.logs.Remove(log.dir); err != nil {
			return fmt.Errorf("open the log: %w", err)
		}
	}
	for _, n := range prefixed(slices.Concat(s.attempts(), h.x.Notes, pipelineNotes(h.x.Frozen), pullNotes(h.x), notes(h.x.Frozen, s.Action))) {
		log.say(n)
	}
	err := h.prepare(ctx, log.say)
	log.flush()
	if err = errors.Join(err, log.err); err != nil {
		return &reasoned{err, EndCheckout}
	}
	if err := h.prepared(ctx); err != nil {
		return err
	}
	x := h.x
	h.ready.is.Store(&x)
	return nil
}

// prepared writes down that the file system is ready, and the lines about it
// are in the log: a second look at the same run leaves both alone, containers
// may be using them.
func (h *handling) prepared(ctx context.Context) error {
	err := h.p.db.Write(ctx, func(tx *db.Tx) error {
		if err := tx.Check(h.lease); err != nil {
			return err
		}
		var text []byte
		if err := tx.QueryRow(`SELECT input FROM executions WHERE id = ?`, h.x.ID).Scan(&text); err != nil {
			return err
		}
		var in input
		if err := json.Unmarshal(text, &in); err != nil {
			return err
		}
		in.Commit = toCommitRow(h.x.Commit)
		text, err := json.Marshal(in)
		if err != nil {
			return err
		}
		_, err = tx.Exec(`UPDATE executions SET prepared = 1, input = ? WHERE id = ?`, text, h.x.ID)
		return err
	})
	if err != nil {
		return err
	}
	h.x.prepared = true
	crash.At("pipeline: file system prepared")
	return nil
}

func isEmpty(dir string) (bool, error) {
	f, err := os.Open(dir)
	if err != nil {
		return false, err
	}
	defer f.Close()
	_, err = f.Readdirnames(1)
	if errors.Is(err, io.EOF) {
		return true, nil
	}
	return false, err
}

// maxSecret bounds a build secret that is a file.
const maxSecret = 1 << 20

// secretFile reads a file below the file system of the pipeline; no link of it
// leads out.
func (h *handling) secretFile(ctx context.Context, path string) ([]byte, error) {
	dir, err := h.dirs.Dir(ctx, h.volume)
	if err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	f, err := plainfile.Open(root, path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
	if err == nil && len(b) > maxSecret {
		err = fmt.Errorf("%s is larger than %d bytes: %w", path, maxSecret, errdefs.ErrInvalidArgument)
	}
	return b, err
}

// lines writes lines of ours into a step's log before its container does, a
// few at a time so that a long checkout is seen while it goes on.
type lines struct {
	h       *handling
	dir     string
	pending []string
	flushed time.Time
	err     error
}

func (l *lines) say(s string) {
	l.pending = append(l.pending, s)
	if time.Since(l.flushed) > 500*time.Millisecond {
		l.flush()
	}
}

func (l *lines) flush() {
	if len(l.pending) > 0 && l.err == nil {
		l.err = l.h.p.logs.Append(l.dir, nil, l.pending...)
	}
	l.pending, l.flushed = nil, time.Now()
}
