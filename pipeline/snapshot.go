package pipeline

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"slipway/crash"
	"slipway/db"
	"slipway/engine"
)

// keptSnapshots is how many ended executions of a pipeline keep what the file
// system was before their actions, for keepTime at most; while the disk is nearly
// full none does.
const keptSnapshots = 10

// snapshotBounds is what a snapshot may be: beyond that an action would wait too
// long for it, and is run without.
func snapshotBounds() engine.SnapshotBounds {
	return engine.SnapshotBounds{Files: 100_000, Added: 1 << 30}
}

// Why there is no snapshot.
const (
	unkeptOld   = "it was kept for 7 days"
	unkeptLater = "only the last 10 executions of a pipeline keep theirs"
	unkeptFull  = "the disk was nearly full"
	unkeptError = "it could not be taken; the server's log says why"
)

// changesFiles tells whether an action may change the file system.
func (a Action) changesFiles() bool {
	return a.Run != nil && (!a.Run.NoMount || a.Run.ExportPath != "")
}

// before tells which snapshot shows the file system as it is before a step that
// begins now, or why there is none; without either one is to be taken. While another
// step may be changing the files it is the one from before that step, and it stays
// the same as long as nothing was run that may have changed them.
func (x Execution) before(i int) (snapshot, unkept string) {
	var last *ActionExecution
	for j := range x.Steps {
		t := &x.Steps[j]
		if j == i || t.Carried || t.Started.IsZero() || t.Snapshot == "" && t.Unkept == "" {
			continue
		}
		if t.Status == InProgress && t.Action.changesFiles() {
			return t.Snapshot, t.Unkept
		}
		if last == nil || t.Started.After(last.Started) {
			last = t
		}
	}
	if last == nil || last.Unkept == "" && x.changedSince(last.Snapshot) {
		return "", ""
	}
	return last.Snapshot, last.Unkept // what was in the way of one is in the way of the next
}

// changedSince tells whether a step that may have changed the files began with a
// snapshot.
func (x Execution) changedSince(snapshot string) bool {
	return slices.ContainsFunc(x.Steps, func(t ActionExecution) bool {
		return t.Snapshot == snapshot && !t.Carried && !t.Started.IsZero() && t.Action.changesFiles()
	})
}

func saveSnapshot(tx *db.Tx, x ExecutionID, s ActionExecution) error {
	_, err := tx.Exec(`UPDATE action_executions SET snapshot = ?, unkept = ? WHERE id = ?`, s.Snapshot, s.Unkept, s.ID)
	if err == nil && s.Snapshot != "" {
		_, err = tx.Exec(`UPDATE executions SET snapshots = 1 WHERE id = ? AND snapshots = 0`, x)
	}
	return err
}

// loadSnapshots brings up to date which snapshots there are: some may be gone, or
// could not be taken.
func loadSnapshots(tx *db.Tx, x *Execution) error {
	now, err := db.List(tx, func(scan db.Scan) (s ActionExecution, err error) {
		return s, scan(&s.Index, &s.Snapshot, &s.Unkept)
	}, `SELECT idx, snapshot, unkept FROM action_executions WHERE execution = ?`, x.ID)
	for _, s := range now {
		if s.Index >= 0 && s.Index < len(x.Steps) {
			x.Steps[s.Index].Snapshot, x.Steps[s.Index].Unkept = s.Snapshot, s.Unkept
		}
	}
	return err
}

// keeping are the snapshots that were taken, or could not be: steps that begin
// together have one, which the first of them takes.
type keeping struct {
	mu   sync.Mutex
	done map[string]bool
}

// keepFiles takes the snapshot that a step begins with, unless it is there. That it
// cannot be taken is noted and fails nothing.
func (h *handling) keepFiles(ctx context.Context, s ActionExecution) error {
	if s.Snapshot == "" {
		return nil
	}
	h.kept.mu.Lock()
	defer h.kept.mu.Unlock()
	if h.kept.done[s.Snapshot] {
		return nil
	}
	why := unkeptFull
	var err error
	if h.p.room() == nil {
		why, err = h.takeSnapshot(ctx, s)
	}
	if err == nil && why != "" {
		err = h.unkept(ctx, s.Snapshot, why)
	}
	if err != nil {
		return err
	}
	if h.kept.done == nil {
		h.kept.done = map[string]bool{}
	}
	h.kept.done[s.Snapshot] = true
	return nil
}

// takeSnapshot says why there is none, if that is so.
func (h *handling) takeSnapshot(ctx context.Context, s ActionExecution) (why string, err error) {
	_, err = h.eng.Snapshot(ctx, h.x.Pipeline.Owner(), s.Snapshot, h.volume, snapshotBounds())
	switch {
	case err == nil:
		crash.At("pipeline: snapshot taken")
		return "", nil
	case ctx.Err() != nil:
		return "", context.Cause(ctx)
	case errdefs.IsResourceExhausted(err):
		b := snapshotBounds()
		why = fmt.Sprintf("the file system is beyond what is kept: more than %d files, or %d MiB that no other snapshot of the pipeline has, or the disk is full", b.Files, b.Added>>20)
	default:
		why = unkeptError
	}
	h.log.Warn("no snapshot is kept of what the file system was before an action", "step", s.Index, "error", err)
	return why, nil
}

// unkept notes that a snapshot could not be taken. It is done before anything that
// begins with it: a second look must not take it of what that has changed.
func (h *handling) unkept(ctx context.Context, snapshot, why string) error {
	return h.p.db.Write(ctx, func(tx *db.Tx) error {
		if err := tx.Check(h.lease); err != nil {
			return err
		}
		_, err := tx.Exec(`UPDATE action_executions SET snapshot = '', unkept = ? WHERE execution = ? AND snapshot = ?`, why, h.x.ID, snapshot)
		return err
	})
}

// restore makes the file system that a rerun begins with.
func (h *handling) restore(ctx context.Context, volume string) error {
	s := h.x.Steps[h.x.Rerun.From]
	if s.Snapshot == "" {
		return fatal("what the file system was before the action %q in execution %d is not kept any more: %s", s.Action.Name, h.x.Rerun.Of, s.Unkept)
	}
	err := h.eng.Restore(ctx, h.x.Pipeline.Owner(), s.Snapshot, volume)
	if errdefs.IsNotFound(err) || errdefs.IsDataLoss(err) {
		return fatal("what the file system was before the action %q in execution %d is not kept any more: begin with an action before it, or start the pipeline: %w",
			s.Action.Name, h.x.Rerun.Of, err)
	}
	if err != nil {
		return fmt.Errorf("make the file system as it was in execution %d: %w", h.x.Rerun.Of, err)
	}
	crash.At("pipeline: snapshot restored")
	return nil
}

// keeps is an execution that has snapshots.
type keeps struct {
	ID       ExecutionID
	Status   Status
	Finished time.Time
	Begins   bool // it is to begin with one
}

// SnapshotsEnd is until when the snapshots of an execution are kept at most; zero as
// long as it has not ended.
func (x Execution) SnapshotsEnd() time.Time {
	if x.Finished.IsZero() {
		return x.Finished
	}
	return x.Finished.Add(keepTime)
}

// outdated says which executions keep no snapshots any more, and why; all are those
// of a pipeline, the newest first.
func outdated(all []keeps, low bool, now time.Time) map[ExecutionID]string {
	gone := map[ExecutionID]string{}
	kept := 0
	for _, x := range all {
		switch {
		case x.Begins:
		case low:
			gone[x.ID] = unkeptFull
		case !x.Status.Ended():
		case now.Sub(x.Finished) >= keepTime:
			gone[x.ID] = unkeptOld
		case kept == keptSnapshots:
			gone[x.ID] = unkeptLater
		default:
			kept++
		}
	}
	return gone
}

// snapshotsOf are the executions of a pipeline that have snapshots, the newest
// first.
func snapshotsOf(tx *db.Tx, id ID) ([]keeps, error) {
	return db.List(tx, func(scan db.Scan) (x keeps, err error) {
		var finished sql.NullInt64
		err = scan(&x.ID, &x.Status, &finished, &x.Begins)
		x.Finished, x.Begins = db.Time(finished), x.Begins && !x.Status.Ended()
		return x, err
	}, `SELECT e.id, e.status, e.finished, e.rerun AND NOT e.prepared FROM executions e
		WHERE e.pipeline = ? AND e.snapshots = 1 ORDER BY e.number DESC`, id)
}

// namedSnapshots are those that the executions of a pipeline have.
func namedSnapshots(tx *db.Tx, id ID) ([]string, error) {
	return db.Column[string](tx, `SELECT DISTINCT s.snapshot FROM executions e JOIN action_executions s ON s.execution = e.id
		WHERE e.pipeline = ? AND e.snapshots = 1 AND s.snapshot <> ''`, id)
}

// tidySnapshots drops the snapshots of a pipeline that are not kept any more: from
// the store first, and then what the engine has and the store does not name. What is
// there was named before it was taken.
func (r *Runner) tidySnapshots(ctx context.Context, id ID) error {
	low := r.p.room() != nil
	find := func(tx *db.Tx) (map[ExecutionID]string, error) {
		all, err := snapshotsOf(tx, id)
		return outdated(all, low, tx.Now), err
	}
	have, err := r.eng.Snapshots(ctx, id.Owner())
	if err != nil || len(have) == 0 {
		return err
	}
	var gone map[ExecutionID]string
	var living []string
	err = r.p.db.Read(ctx, func(tx *db.Tx) error {
		if gone, err = find(tx); err == nil {
			living, err = namedSnapshots(tx, id)
		}
		return err
	})
	if err == nil && len(gone) > 0 {
		err = r.p.db.Write(ctx, func(tx *db.Tx) error {
			if gone, err = find(tx); err != nil {
				return err
			}
			for x, why := range gone {
				if _, err := tx.Exec(`UPDATE action_executions SET snapshot = '', unkept = ? WHERE execution = ? AND snapshot <> ''`, why, x); err != nil {
					return err
				}
				if _, err := tx.Exec(`UPDATE executions SET snapshots = 0 WHERE id = ?`, x); err != nil {
					return err
				}
			}
			living, err = namedSnapshots(tx, id)
			return err
		})
	}
	if err != nil {
		return fmt.Errorf("snapshots of pipeline %d: %w", id, err)
	}
	drop := slices.DeleteFunc(have, func(s string) bool { return slices.Contains(living, s) })
	if len(drop) == 0 {
		return nil
	}
	crash.At("pipeline: snapshots are not named")
	if err := r.eng.DropSnapshots(ctx, id.Owner(), drop...); err != nil {
		return fmt.Errorf("snapshots of pipeline %d: %w", id, err)
	}
	return nil
}
