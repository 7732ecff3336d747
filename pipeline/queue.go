package pipeline

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"slipway/db"
	"slipway/event"
)

// arrive brings an execution into the queue, or makes it due when it may come
// there: at its time, and if the conditions of its pipeline are met.
func (p *Pipelines) arrive(tx *db.Tx, x *Execution) error {
	at := tx.Now
	if x.Delayed.After(at) {
		at = x.Delayed
		if err := wait(tx, x.ID, x.Waits, WaitDelay); err != nil {
			return err
		}
	} else if !x.undefined && !x.unjudged() {
		return p.enqueue(tx, x)
	}
	return tx.Due("executions", string(x.ID), at)
}

// enqueue makes an execution wait to be admitted; those it supersedes end.
func (p *Pipelines) enqueue(tx *db.Tx, x *Execution) error {
	if _, err := tx.Exec(`UPDATE executions SET waiting = 1, wants = ?, runs = 0, builds = 0, queued = ? WHERE id = ?`,
		wantsText(wantedUnits(*x)), db.Micros(tx.Now), x.ID); err != nil {
		return err
	}
	if err := tx.Due("executions", string(x.ID), tx.Now); err != nil {
		return err
	}
	a, err := p.admission(tx)
	if err != nil {
		return err
	}
	if a.skips(x.ID) {
		x.Status, x.Finished = Skipped, tx.Now
	}
	return p.supersede(tx, a.Skip)
}

// wantedUnits are the slots that an execution needs to begin.
func wantedUnits(x Execution) (units []Slots) {
	x.Status = InProgress
	for _, u := range Next(x, x.Created.AddDate(100, 0, 0)).Start {
		units = append(units, slotsOf(x, u))
	}
	return units
}

// admission asks Admit about all that wait and run, and notes what those wait for
// that do not begin.
func (p *Pipelines) admission(tx *db.Tx) (Admission, error) {
	rows, err := tx.Query(`SELECT id, pipeline, waiting, wants, runs, builds, priority, queued, number, no_skip, concurrent,
		started IS NOT NULL, branch, coalesce(json_extract(input, '$.Start.Tag'), ''),
		coalesce(json_extract(input, '$.Start.PullRequest'), ''), waits,
		coalesce(nullif(json_extract(input, '$.Loop.First'), ''), id), rerun FROM executions
		WHERE status IN ('ENQUEUED', 'INPROGRESS', 'TERMINATING')`)
	if err != nil {
		return Admission{}, err
	}
	defer rows.Close()
	var queue []Waiting
	var running []Running
	waits := map[ExecutionID]string{}
	for rows.Next() {
		var w Waiting
		var waiting bool
		var slots Slots
		var wants, tag, pull, waited string
		var queued int64
		if err := rows.Scan(&w.ID, &w.Pipeline, &waiting, &wants, &slots.Runs, &slots.Builds, &w.Priority, &queued, &w.Number,
			&w.NoSkip, &w.Concurrent, &w.Begun, &w.Ref, &tag, &pull, &waited, &w.Start, &w.Rerun); err != nil {
			return Admission{}, err
		}
		w.Queued = microTime(queued)
		if tag != "" {
			w.Ref = "refs/tags/" + tag
		} else if pull != "" {
			w.Ref = "refs/" + pull
		}
		if waiting {
			w.Units = readWants(wants)
			queue = append(queue, w)
			if !w.Begun {
				waits[w.ID] = waited
			}
		}
		if w.Begun {
			running = append(running, Running{w.ID, w.Pipeline, slots, w.Concurrent})
		}
	}
	if err := rows.Err(); err != nil {
		return Admission{}, err
	}
	_ = rows.Close()
	a := Admit(queue, running, p.cfg.Limits)
	for id, text := range waits {
		what, ok := a.Wait[id]
		if !ok {
			continue // it waits until it has begun
		}
		l, err := readWaits(text)
		if err != nil {
			return Admission{}, fmt.Errorf("execution %s in the store: %w", id, err)
		}
		if err := wait(tx, id, l, what); err != nil {
			return Admission{}, err
		}
	}
	return a, nil
}

// wait notes what an execution waits for from now on; "" is nothing.
func wait(tx *db.Tx, id ExecutionID, l []Wait, what string) error {
	next := waiting(l, what, tx.Now)
	if slices.Equal(next, l) {
		return nil
	}
	_, err := tx.Exec(`UPDATE executions SET waits = ? WHERE id = ?`, waitsText(next), id)
	return err
}

// supersede ends executions that a newer one replaces. Their first action says
// which.
func (p *Pipelines) supersede(tx *db.Tx, all []Superseded) error {
	for _, s := range all {
		why := fmt.Sprintf("skipped: execution %d of the same branch or tag is newer; with no_skip_to_most_recent each one runs", s.Newer)
		if err := p.skip(tx, s.ID, why); err != nil {
			return err
		}
	}
	return nil
}

// skip ends an execution that has not begun. Its first action says why.
func (p *Pipelines) skip(tx *db.Tx, id ExecutionID, why string) error {
	if _, err := tx.Exec(`UPDATE executions SET status = 'SKIPPED', finished = ?, waiting = 0, due_at = NULL WHERE id = ?`,
		db.Micros(tx.Now), id); err != nil {
		return err
	}
	if _, err := tx.Exec(`UPDATE action_executions SET status = 'NOT_EXECUTED'
		WHERE execution = ? AND status IN ('INITIAL', 'ENQUEUED')`, id); err != nil {
		return err
	}
	if _, err := tx.Exec(`UPDATE action_executions SET error = ? WHERE execution = ? AND idx = 0`, why, id); err != nil {
		return err
	}
	x, err := scanExecution(tx.QueryRow(`SELECT `+executionColumns+` FROM executions e WHERE e.id = ?`, id))
	if err != nil {
		return err
	}
	return tell(tx, event.ExecutionFinished, x)
}

// judgedItself writes how the conditions of the pipeline were judged. An
// execution that does not meet them ends; one for which they could not be judged
// goes on, and meets what was in the way again.
func (p *Pipelines) judgedItself(tx *db.Tx, x *Execution, v Verdict) (met bool, err error) {
	x.Verdict = &v
	if _, err := tx.Exec(`UPDATE executions SET verdict = ? WHERE id = ?`, v.text(), x.ID); err != nil {
		return false, err
	}
	if v.Met || v.Error != "" {
		return true, nil
	}
	x.Status, x.Finished = Skipped, tx.Now
	return false, p.skip(tx, x.ID, v.why())
}

// text is how a verdict is kept; "" is none.
func (v *Verdict) text() string {
	if v == nil {
		return ""
	}
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // it is of plain parts
	}
	return string(b)
}

func readVerdict(text string) (*Verdict, error) {
	if text == "" {
		return nil, nil
	}
	var v Verdict
	return &v, json.Unmarshal([]byte(text), &v)
}

// wake makes those due who may go on now, but for the one who asks.
func (p *Pipelines) wake(tx *db.Tx, by ExecutionID) error {
	a, err := p.admission(tx)
	if err != nil {
		return err
	}
	for _, id := range a.Start {
		if id == by {
			continue
		}
		if err := tx.Due("executions", string(id), tx.Now); err != nil {
			return err
		}
		tx.Wake(newsTopic(id))
	}
	return nil
}

func microTime(us int64) time.Time { return time.UnixMicro(us).UTC() }
