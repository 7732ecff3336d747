package pipeline

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"slipway/crash"
	"slipway/db"
	"slipway/project"
)

// keptFiles is how many ended executions of a pipeline that can be retried keep
// the file system that they had to themselves, for keepTime at most; while the
// disk is nearly full none does.
const keptFiles = 3

// baseOf is the file system that the next execution of a pipeline begins with.
func baseOf(tx *db.Tx, id ID) (volume string, err error) {
	err = tx.QueryRow(`SELECT base FROM pipelines WHERE id = ?`, id).Scan(&volume)
	if err == nil && volume == "" {
		volume = id.Volume()
	}
	return volume, db.NotFound(err, "pipeline %d", id)
}

func (p *Pipelines) base(ctx context.Context, id ID) (volume string, err error) {
	err = p.db.Read(ctx, func(tx *db.Tx) error { volume, err = baseOf(tx, id); return err })
	return volume, err
}

// ownFiles is the file system that an execution has to itself; "" if it has none.
func ownFiles(tx *db.Tx, id ExecutionID) (volume string, err error) {
	err = tx.QueryRow(`SELECT volume FROM pipeline_volumes WHERE execution = ?`, id).Scan(&volume)
	if errors.Is(err, sql.ErrNoRows) {
		err = nil
	}
	return volume, err
}

// nameFiles names the file system that an execution will have to itself, before
// it is made. A retried one keeps the one it had.
func nameFiles(tx *db.Tx, x *Execution) error {
	if !x.ownsFiles() {
		return nil
	}
	have, err := ownFiles(tx, x.ID)
	if err != nil || have != "" {
		return err
	}
	_, err = tx.Exec(`INSERT INTO pipeline_volumes (volume, pipeline, execution) VALUES (?, ?, ?)`,
		x.Pipeline.Volume()+"-"+newStepID(), x.Pipeline, x.ID)
	return err
}

// ownsFiles tells whether an execution has a file system to itself.
func (x Execution) ownsFiles() bool { return x.Frozen.Concurrent || x.Rerun != nil }

// workplace is the file system of an execution that is under way, once it is known: it
// stays the same until the end.
type workplace struct {
	mu     sync.Mutex
	volume string
}

// fileSystem is the one that the actions of the execution work in: its own, or
// the pipeline's.
func (h *handling) fileSystem(ctx context.Context) (volume string, err error) {
	h.place.mu.Lock()
	defer h.place.mu.Unlock()
	if h.place.volume != "" {
		return h.place.volume, nil
	}
	if h.x.ownsFiles() {
		err = h.p.db.Read(ctx, func(tx *db.Tx) error { volume, err = ownFiles(tx, h.x.ID); return err })
		if err == nil && volume == "" {
			err = fatal("the files of execution %d are not kept any more: start it anew", h.x.Number)
		}
	} else {
		volume, err = h.p.base(ctx, h.x.Pipeline)
	}
	if err == nil {
		h.place.volume = volume
	}
	return volume, err
}

// promote makes the file system of a successful execution the one that the next
// ones begin with, unless that is of one that began later.
func promote(tx *db.Tx, x *Execution) error {
	if x.Rerun != nil { // what it began with may be days old
		return nil
	}
	own, err := ownFiles(tx, x.ID)
	if err != nil || own == "" {
		return err
	}
	was, err := baseOf(tx, x.Pipeline)
	if err != nil {
		return err
	}
	n, err := tx.Exec(`UPDATE pipelines SET base = ?, base_started = ? WHERE id = ? AND base_started <= ?`,
		own, db.Micros(x.Started), x.Pipeline, db.Micros(x.Started))
	if err != nil || n == 0 {
		return err
	}
	if x.emptied() {
		if _, err := tx.Exec(`DELETE FROM pipeline_files WHERE pipeline = ?`, x.Pipeline); err != nil {
			return err
		}
	}
	_, err = tx.Exec(`INSERT INTO pipeline_volumes (volume, pipeline) VALUES (?, ?) ON CONFLICT (volume) DO NOTHING`, was, x.Pipeline)
	return err
}

// emptied tells whether the execution begins with nothing at all.
func (x Execution) emptied() bool { return x.Refresh || x.Frozen.FromScratch || x.untrusted() }

// cloning are the file systems that are being copied, and how often.
type cloning struct {
	mu  sync.Mutex
	now map[string]int
}

// begin notes that the file system that find gives is being copied until done is
// called. What is not in use any more when it is looked for is found by nobody.
func (c *cloning) begin(find func() (string, error)) (volume string, done func(), err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if volume, err = find(); err != nil {
		return "", nil, err
	}
	if c.now == nil {
		c.now = map[string]int{}
	}
	c.now[volume]++
	return volume, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.now[volume]--; c.now[volume] == 0 {
			delete(c.now, volume)
		}
	}, nil
}

func (c *cloning) of(volume string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now[volume] > 0
}

// ownFiles makes the file system that an execution has to itself, out of that of
// the pipeline unless it is to be empty, or out of the snapshot that it begins with. What an earlier look at it left is not
// gone on with. of is what it is a copy of.
func (h *handling) ownFiles(ctx context.Context, volume string) (of string, err error) {
	if err := h.eng.Volumes().Remove(ctx, volume); err != nil {
		return "", fmt.Errorf("make a file system for the run: %w", err)
	}
	if h.x.Rerun != nil {
		return "", h.restore(ctx, volume)
	}
	if h.x.emptied() {
		return "", nil
	}
	if of, err = h.clone(ctx, volume); err != nil {
		return "", fmt.Errorf("make a copy of the pipeline's file system for the run: %w", err)
	}
	return of, nil
}

// clone makes the file system of an execution out of the base; nothing if there
// is none. from is what it was made of.
func (h *handling) clone(ctx context.Context, volume string) (from string, err error) {
	from, done, err := h.cloning.begin(func() (string, error) { return h.p.base(ctx, h.x.Pipeline) })
	if err != nil {
		return "", err
	}
	defer done()
	err = h.eng.Clone(ctx, from, volume, h.x.Pipeline.Owner())
	if errdefs.IsNotFound(err) { // nothing ran yet
		return "", nil
	}
	if err == nil {
		crash.At("pipeline: file system copied")
	}
	return from, err
}

// ownVolume is a file system that an execution had to itself.
type ownVolume struct {
	Volume   string
	Status   Status // of the execution; "" if it has none
	Finished time.Time
}

// unwanted picks the file systems that nobody needs any more out of those of a
// pipeline, the latest ended first: executions under way need theirs, and some
// that can be retried keep it.
func unwanted(all []ownVolume, keep int, now time.Time) (gone []string) {
	kept := 0
	for _, v := range all {
		switch {
		case v.Status != "" && !v.Status.Ended():
		case (v.Status == Failed || v.Status == Terminated) && kept < keep && now.Sub(v.Finished) < keepTime:
			kept++
		default:
			gone = append(gone, v.Volume)
		}
	}
	return gone
}

// letGo says of the file systems of a pipeline's executions that nobody needs
// which they are. From then on no retry goes on with them.
func (p *Pipelines) letGo(tx *db.Tx, id ID) (gone []string, err error) {
	rows, err := tx.Query(`SELECT v.volume, coalesce(e.status, ''), e.finished FROM pipeline_volumes v JOIN pipelines p ON p.id = v.pipeline
		LEFT JOIN executions e ON e.id = v.execution WHERE v.pipeline = ? AND v.volume <> p.base ORDER BY e.finished DESC`, id)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var all []ownVolume
	for rows.Next() {
		var v ownVolume
		var finished sql.NullInt64
		if err := rows.Scan(&v.Volume, &v.Status, &finished); err != nil {
			return nil, err
		}
		v.Finished = db.Time(finished)
		all = append(all, v)
	}
	if err := rows.Err(); err != nil {
		return nil, err
	}
	_ = rows.Close()
	keep := keptFiles
	if p.room() != nil {
		keep = 0
	}
	gone = unwanted(all, keep, tx.Now)
	for _, v := range gone {
		if _, err := tx.Exec(`UPDATE pipeline_volumes SET execution = NULL WHERE volume = ?`, v); err != nil {
			return nil, err
		}
	}
	return gone, nil
}

// disown has a retry of earlier executions begin with the file system of the
// pipeline, because that was changed by hand: theirs would bring back what was
// there before.
func disown(tx *db.Tx, id ID) error {
	_, err := tx.Exec(`UPDATE pipeline_volumes SET execution = NULL WHERE pipeline = ?`, id)
	return err
}

// tidyFiles removes the file systems of a pipeline's executions that nobody
// needs. One that is just being copied stays until the next time.
func (r *Runner) tidyFiles(ctx context.Context, id ID) error {
	var gone []string
	var of project.ID
	err := r.p.db.Write(ctx, func(tx *db.Tx) (err error) {
		if err := tx.QueryRow(`SELECT project FROM pipelines WHERE id = ?`, id).Scan(&of); err != nil {
			return err
		}
		gone, err = r.p.letGo(tx, id)
		return err
	})
	if err != nil {
		return fmt.Errorf("file systems of pipeline %d: %w", id, err)
	}
	var errs []error
	for _, v := range gone {
		if r.cloning.of(v) {
			continue
		}
		err := errors.Join(r.eng.Volumes().Remove(ctx, v), r.p.sources.Forget(of, v))
		if err == nil {
			crash.At("pipeline: file system of a run removed")
			err = r.p.db.Write(ctx, func(tx *db.Tx) error {
				_, err := tx.Exec(`DELETE FROM pipeline_volumes WHERE volume = ? AND execution IS NULL`, v)
				return err
			})
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// TidyFiles removes the file systems that executions had to themselves and the
// snapshots that nobody needs any more: those for which a killed server had no
// time, and those that were kept long enough.
func (r *Runner) TidyFiles(ctx context.Context) error {
	var ids, all []ID
	err := r.p.db.Read(ctx, func(tx *db.Tx) (err error) {
		if ids, err = db.Column[ID](tx, `SELECT DISTINCT pipeline FROM pipeline_volumes`); err == nil {
			all, err = db.Column[ID](tx, `SELECT id FROM pipelines WHERE deleted IS NULL`)
		}
		return err
	})
	errs := []error{err}
	for _, id := range ids {
		errs = append(errs, r.tidyFiles(ctx, id))
	}
	for _, id := range all {
		errs = append(errs, r.tidySnapshots(ctx, id))
	}
	return errors.Join(errs...)
}
