package pipeline

import (
	"context"
	"database/sql"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"slipway/crash"
	"slipway/db"
	"slipway/project"
	"slipway/source"
)

// Schedules is the table that Scheduled handles.
const Schedules = "schedules"

// alarm is all that decides when the clock starts a pipeline.
func (p Pipeline) alarm() string {
	s := fmt.Sprint(p.On == "CLICK", p.Paused, p.Disabled)
	for _, e := range p.Events {
		if e.Type == EventSchedule {
			s += fmt.Sprintf(" %q %q %q %d", e.Cron, e.Timezone, e.StartDate, e.Delay)
		}
	}
	return s
}

// arm writes down what starts a pipeline beside people and pushes. old is the
// pipeline as it was, nil for a new one: what does not change goes on.
func (p *Pipelines) arm(tx *db.Tx, old *Pipeline, n Pipeline) error {
	if err := p.armHook(tx, n); err != nil {
		return err
	}
	if old != nil && old.alarm() == n.alarm() {
		return nil
	}
	if !n.hasClock() {
		_, err := tx.Exec(`DELETE FROM schedules WHERE pipeline = ?`, n.ID)
		return err
	}
	next, row := n.scheduled(tx.Now), strconv.FormatInt(int64(n.ID), 10)
	goesOn := old != nil && old.Paused && !n.Paused // its failures are counted anew
	if _, err := tx.Exec(`INSERT INTO schedules (id, pipeline, next) VALUES (?, ?, ?) ON CONFLICT (id) DO UPDATE
		SET next = excluded.next, failures = CASE WHEN ? THEN 0 ELSE failures END`, row, n.ID, db.Micros(next), goesOn); err != nil {
		return err
	}
	if next.IsZero() {
		return nil
	}
	return tx.Due(Schedules, row, next)
}

// disarm forgets all of that.
func disarm(tx *db.Tx, id ID) error {
	for _, q := range []string{`DELETE FROM schedules WHERE pipeline = ?`, `DELETE FROM pipeline_hooks WHERE pipeline = ?`} {
		if _, err := tx.Exec(q, id); err != nil {
			return err
		}
	}
	return nil
}

// Scheduled starts a pipeline if its time has come, and says when it is to be
// looked at again. The start and the next time are one transaction, so that a
// time has one run; times that passed while there was no server have one
// together.
func (p *Pipelines) Scheduled(ctx context.Context, lease db.Lease) (again time.Time, err error) {
	n, err := strconv.ParseInt(lease.ID, 10, 64)
	if err != nil {
		return again, fmt.Errorf("schedule %q: %w", lease.ID, err)
	}
	var pl Pipeline
	var due, now time.Time
	err = p.db.Read(ctx, func(tx *db.Tx) error {
		now = tx.Now
		pl, due, err = loadSchedule(tx, ID(n))
		return err
	})
	if errdefs.IsNotFound(err) {
		return again, nil // deleted
	}
	if err != nil {
		return again, fmt.Errorf("schedule of pipeline %d: %w", n, err)
	}
	var in Start
	var commit *source.Commit
	starts := !due.IsZero() && !due.After(now)
	if starts {
		if err := p.room(); err != nil {
			return again, fmt.Errorf("start pipeline %d by its schedule: %w", n, err)
		}
		in, commit, err = p.unattended(ctx, pl, ByClock)
		if starts = err == nil; err != nil && !lasting(err) {
			return again, fmt.Errorf("start pipeline %d by its schedule: %w", n, err)
		} else if err != nil {
			slog.Warn("a scheduled run is left out", "room", "pipeline", "pipeline", n, "error", err)
		}
	}
	var x Execution
	err = p.db.Write(ctx, func(tx *db.Tx) error {
		x, again, err = p.onTime(tx, lease, ID(n), due, now, func(pl Pipeline) (Execution, error) {
			if !starts {
				return Execution{}, nil
			}
			return p.StartIn(tx, pl.CreatedBy, pl.ID, in, commit, nil)
		})
		return err
	})
	if err != nil {
		return time.Time{}, fmt.Errorf("schedule of pipeline %d: %w", n, err)
	}
	if x.ID != "" {
		crash.At("pipeline: started by the clock")
		slog.Info("execution started by its schedule", "room", "pipeline", "execution", string(x.ID), "pipeline", n, "of", due)
	}
	return again, nil
}

// onTime is the body of Scheduled's transaction: it has the pipeline started if
// it is to be, and sets its next time. seen is the time that was written down at
// now.
func (p *Pipelines) onTime(tx *db.Tx, lease db.Lease, id ID, seen, now time.Time, start func(Pipeline) (Execution, error)) (x Execution, next time.Time, err error) {
	if err := tx.Check(lease); err != nil {
		return x, next, err
	}
	pl, next, err := loadSchedule(tx, id)
	switch {
	case errdefs.IsNotFound(err):
		return x, next, nil
	case err != nil:
		return x, next, err
	case !next.Equal(seen), next.After(now): // changed meanwhile, or not yet
		return x, next, nil
	}
	_, err = project.Load(tx, pl.Project)
	if err == nil && !next.IsZero() {
		x, err = start(pl)
	}
	if err != nil && !lasting(err) { // the project may be gone
		return x, next, err
	}
	next = pl.scheduled(tx.Now)
	_, err = tx.Exec(`UPDATE schedules SET next = ? WHERE pipeline = ?`, db.Micros(next), id)
	return x, next, err
}

// loadSchedule gives a pipeline and when its clock starts it.
func loadSchedule(tx *db.Tx, id ID) (pl Pipeline, next time.Time, err error) {
	if pl, err = loadPipeline(tx, id); err != nil {
		return pl, next, err
	}
	var at sql.NullInt64
	err = tx.QueryRow(`SELECT next FROM schedules WHERE pipeline = ?`, id).Scan(&at)
	return pl, db.Time(at), db.NotFound(err, "schedule of pipeline %d", id)
}

// unattended is how a pipeline is started that nobody stands before: on the
// first of its refs that is the name of one, else on the default branch.
func (p *Pipelines) unattended(ctx context.Context, pl Pipeline, mode string) (in Start, commit *source.Commit, err error) {
	in.Mode = mode
	if i := slices.IndexFunc(pl.Refs, func(ref string) bool { return !strings.Contains(ref, "*") }); i >= 0 {
		if tag, ok := strings.CutPrefix(pl.Refs[i], "refs/tags/"); ok {
			in.Tag = tag
		} else {
			in.Branch = strings.TrimPrefix(pl.Refs[i], "refs/heads/")
		}
	}
	if pl.CommentRequired {
		in.Comment = map[string]string{ByClock: "started by its schedule", ByHook: "started by its webhook"}[mode]
	}
	commit, _, err = p.resolve(ctx, pl.Project, &in)
	return in, commit, err
}

// lasting tells of an error that the same start would meet again: a branch that
// is not there is one, an outside repository that does not answer is none.
func lasting(err error) bool {
	bad, ok := project.AsInvalid(err)
	return ok && !slices.ContainsFunc(bad.Fields, func(f project.Field) bool { return f.Kind == "unavailable" }) || errdefs.IsNotFound(err)
}

// Ran counts the failures of a pipeline with a clock, which stops after so many
// in a row as the pipeline says, but for those of working trees; it is told of every end of an execution, in the
// caller's transaction.
func (p *Pipelines) Ran(tx *db.Tx, e Ended) error {
	if e.Local {
		return nil
	}
	switch e.Status {
	case Successful:
		_, err := tx.Exec(`UPDATE schedules SET failures = 0 WHERE pipeline = ? AND failures > 0`, e.Pipeline)
		return err
	case Failed:
	default:
		return nil
	}
	n, err := tx.Exec(`UPDATE schedules SET failures = failures + 1 WHERE pipeline = ?`, e.Pipeline)
	if err != nil || n == 0 {
		return err
	}
	var failures int
	if err := tx.QueryRow(`SELECT failures FROM schedules WHERE pipeline = ?`, e.Pipeline).Scan(&failures); err != nil {
		return err
	}
	pl, err := loadPipeline(tx, e.Pipeline)
	if errdefs.IsNotFound(err) {
		return nil
	}
	if most := pl.PauseAfter(); err != nil || pl.Paused || most == 0 || failures < most {
		return err
	}
	pl.Paused = true
	spec, err := specOf(pl)
	if err != nil {
		return err
	}
	if _, err := tx.Exec(`UPDATE pipelines SET spec = ? WHERE id = ?`, spec, pl.ID); err != nil {
		return err
	}
	if _, err := tx.Exec(`UPDATE schedules SET next = NULL WHERE pipeline = ?`, pl.ID); err != nil {
		return err
	}
	slog.Warn("the schedule of a pipeline is paused", "room", "pipeline", "pipeline", int64(pl.ID), "failures", failures)
	return nil
}
