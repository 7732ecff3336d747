package pipeline

import (
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"time"

	"slipway/db"
	"slipway/event"
)

// share is what an execution has of the slots, and what it waits for.
type share struct {
	Held  Slots
	Waits bool   // for slots, or for its pipeline
	Wants string // by wantsText
}

func loadShare(tx *db.Tx, id ExecutionID) (s share, err error) {
	err = tx.QueryRow(`SELECT runs, builds, waiting, wants FROM executions WHERE id = ?`, id).Scan(&s.Held.Runs, &s.Held.Builds, &s.Waits, &s.Wants)
	return s, err
}

// put writes what an execution has from now on.
func (s *share) put(tx *db.Tx, id ExecutionID, n share) error {
	if n == *s {
		return nil
	}
	*s = n
	_, err := tx.Exec(`UPDATE executions SET runs = ?, builds = ?, waiting = ?, wants = ? WHERE id = ?`,
		n.Held.Runs, n.Held.Builds, n.Waits, n.Wants, id)
	return err
}

// decide is the body of advance's transaction. It changes x and s, which are
// thrown away if the transaction fails.
func (h *handling) decide(tx *db.Tx, x *Execution, s *share, done *settled) (t turn, err error) {
	if err := tx.Check(h.lease); err != nil {
		return t, err
	}
	var delayed sql.NullInt64
	err = tx.QueryRow(`SELECT status, waiting, delayed FROM executions WHERE id = ?`, x.ID).Scan(&x.Status, &s.Waits, &delayed)
	if err != nil {
		return t, err
	}
	x.Delayed = db.Time(delayed)
	if x.Status == Enqueued {
		if t, ok, err := h.enter(tx, x, s, done); !ok || err != nil {
			return t, err
		}
	}
	if err := approvals(tx, x); err != nil {
		return t, err
	}
	had := s.Held
	if done != nil && done.defined != nil {
		done = nil
	}
	if done != nil && done.verdicts != nil {
		err = judged(tx, x, done.verdicts)
	} else if done != nil {
		err = h.settle(tx, x, *done)
	}
	if err != nil {
		return t, err
	}
	for {
		d := Next(*x, tx.Now)
		if err := d.mark(tx, x); err != nil {
			return t, err
		}
		if d.Status != "" {
			return t, h.finish(tx, x, s, d.Status)
		}
		begun, refused, err := h.begin(tx, x, s, d.Start)
		if err != nil {
			return t, err
		}
		t.begun = append(t.begun, begun...)
		if !refused {
			t.ask, t.again = d.Ask, d.Again
			break
		}
	}
	if err := noteHeld(tx, x); err != nil {
		return t, err
	}
	if !had.within(s.Held) {
		err = h.p.wake(tx, x.ID)
	}
	return t, err
}

// mark notes which steps are not run.
func (d Decision) mark(tx *db.Tx, x *Execution) error {
	for _, m := range []struct {
		steps  []int
		status Status
		why    string
	}{{d.Skip, Skipped, ""}, {d.Drop, NotExecuted, ""}, {d.Halt, Terminated, "cancelled"}} {
		for _, i := range m.steps {
			s := &x.Steps[i]
			if s.Status = m.status; m.why != "" {
				s.Error, s.Finished, s.NotBefore = m.why, tx.Now, time.Time{}
			}
			s.Held, s.Asking, s.Waits = false, false, waiting(s.Waits, "", tx.Now)
			if err := saveStep(tx, *s); err != nil {
				return err
			}
		}
	}
	for _, i := range d.Hold {
		s := &x.Steps[i]
		if s.Held {
			continue
		}
		s.Held, s.Status, s.Waits = true, Enqueued, waiting(s.Waits, WaitApproval, tx.Now)
		if err := saveStep(tx, *s); err != nil {
			return err
		}
		tx.Wake(Topic(x.ID))
	}
	for _, i := range d.Want {
		s := &x.Steps[i]
		if s.Asking {
			continue
		}
		s.Asking, s.Status, s.Waits = true, Enqueued, waiting(s.Waits, WaitVariables, tx.Now)
		if err := saveStep(tx, *s); err != nil {
			return err
		}
		tx.Wake(Topic(x.ID))
	}
	return nil
}

// enter brings an execution into the queue, if it is not there yet, and from the
// queue to its begin; ok is false if it does not begin.
func (h *handling) enter(tx *db.Tx, x *Execution, s *share, done *settled) (t turn, ok bool, err error) {
	if !s.Waits {
		if x.Delayed.After(tx.Now) {
			return turn{again: x.Delayed}, false, nil
		}
		if x.undefined {
			if done == nil || done.defined == nil {
				return turn{define: true}, false, nil
			}
			if failed, err := h.definedNow(tx, x, done.defined); failed || err != nil {
				return turn{}, false, err
			}
		}
		if x.unjudged() {
			v, ok := Verdict{}, false
			if done != nil {
				v, ok = done.verdicts[itself]
			}
			if !ok {
				return turn{ask: []int{itself}}, false, nil
			}
			if met, err := h.p.judgedItself(tx, x, v); !met || err != nil {
				return turn{}, false, err
			}
		}
		if err := h.p.enqueue(tx, x); err != nil {
			return turn{}, false, err
		}
	}
	ok, err = h.admit(tx, x, s)
	return turn{}, ok, err
}

// admit asks whether an execution that waits may begin, and begins it.
func (h *handling) admit(tx *db.Tx, x *Execution, s *share) (bool, error) {
	a, err := h.p.admission(tx)
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
	if x.Rerun == nil { // else it is that of the execution it goes on from
		err = tx.QueryRow(`SELECT status FROM executions WHERE pipeline = ? AND id <> ? AND status IN ('SUCCESSFUL', 'FAILED') AND mode <> 'LOCAL'
		ORDER BY finished DESC LIMIT 1`, x.Pipeline, x.ID).Scan(&x.Previous)
	}
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return false, err
	}
	var waited string
	if err := tx.QueryRow(`SELECT waits FROM executions WHERE id = ?`, x.ID).Scan(&waited); err != nil {
		return false, err
	}
	if x.Waits, err = readWaits(waited); err != nil {
		return false, fmt.Errorf("execution %s in the store: %w", x.ID, err)
	}
	x.Waits = waiting(x.Waits, "", tx.Now)
	units := wantedUnits(*x)
	x.Status, x.Started, *s = InProgress, tx.Now, share{}
	for _, n := range a.Units[x.ID] {
		if n < len(units) {
			s.Held = s.Held.plus(units[n])
		}
	}
	_, err = tx.Exec(`UPDATE executions SET status = ?, started = ?, previous = ?, runs = ?, builds = ?, waiting = 0, wants = '', waits = ? WHERE id = ?`,
		x.Status, db.Micros(x.Started), x.Previous, s.Held.Runs, s.Held.Builds, waitsText(x.Waits), x.ID)
	if err != nil {
		return false, err
	}
	if err := nameFiles(tx, x); err != nil {
		return false, err
	}
	return true, tell(tx, event.ExecutionStarted, *x)
}

// judged writes how the conditions of steps were judged.
func judged(tx *db.Tx, x *Execution, all map[int]Verdict) error {
	for i, v := range all {
		if i == itself || x.Status != InProgress {
			continue
		}
		s := &x.Steps[i]
		s.Verdict = &v
		switch {
		case v.Error != "":
			s.Status, s.Error, s.Code, s.Finished = Failed, v.Error, -1, tx.Now
		case !v.Met:
			s.Status, s.Error = Skipped, v.why()
		}
		if err := saveStep(tx, *s); err != nil {
			return err
		}
	}
	tx.Wake(Topic(x.ID))
	return nil
}

// begin marks the steps of units as in progress, as far as there are slots for
// them, and the others as waiting. An execution keeps the slots that it has for
// what comes next; more are those of the queue to give. refused tells that a unit
// has failed, because it would need more slots than there are.
func (h *handling) begin(tx *db.Tx, x *Execution, s *share, units [][]int) (begun []int, refused bool, err error) {
	spare := s.Held.minus(x.holds())
	var rest [][]int
	for _, u := range units {
		switch need := slotsOf(*x, u); {
		case !h.p.cfg.Limits.allow(need):
			refused = true
			err = h.refuse(tx, x, u)
		case need.within(spare):
			spare = spare.minus(need)
			begun = append(begun, u...)
			err = start(tx, x, u)
		default:
			rest = append(rest, u)
		}
		if err != nil {
			return nil, false, err
		}
	}
	if len(rest) > 0 {
		if err := s.put(tx, x.ID, share{x.holds(), true, x.wants(rest)}); err != nil {
			return nil, false, err
		}
		a, err := h.p.admission(tx)
		if err != nil {
			return nil, false, err
		}
		var wait [][]int
		for n, u := range rest {
			if !slices.Contains(a.Units[x.ID], n) {
				wait = append(wait, u)
				continue
			}
			begun = append(begun, u...)
			if err := start(tx, x, u); err != nil {
				return nil, false, err
			}
		}
		if rest = wait; len(rest) > 0 {
			if err := enqueued(tx, x, rest); err != nil {
				return nil, false, err
			}
		}
	}
	if len(begun) > 0 {
		tx.Wake(Topic(x.ID))
	}
	return begun, refused, s.put(tx, x.ID, share{x.holds(), len(rest) > 0, x.wants(rest)})
}

// wants is how units are kept that wait for slots.
func (x Execution) wants(units [][]int) string {
	var l []Slots
	for _, u := range units {
		l = append(l, slotsOf(x, u))
	}
	return wantsText(l)
}

// start marks steps as in progress.
func start(tx *db.Tx, x *Execution, steps []int) error {
	if err := loadSnapshots(tx, x); err != nil {
		return err
	}
	for _, i := range steps {
		s := &x.Steps[i]
		s.Status, s.NotBefore, s.Error, s.Code = InProgress, time.Time{}, "", 0
		s.Attempt++
		s.Waits = waiting(s.Waits, "", tx.Now)
		if s.Started.IsZero() {
			s.Started = tx.Now
		}
		if err := beginTry(tx, *s); err != nil {
			return err
		}
		s.Waits = nil
		if err := saveStep(tx, *s); err != nil {
			return err
		}
		if s.Snapshot != "" || s.Unkept != "" {
			continue
		}
		if s.Snapshot, s.Unkept = x.before(i); s.Snapshot == "" && s.Unkept == "" {
			s.Snapshot = "s" + newStepID()
		}
		if err := saveSnapshot(tx, x.ID, *s); err != nil {
			return err
		}
	}
	return nil
}

// enqueued marks the steps of units as waiting.
func enqueued(tx *db.Tx, x *Execution, units [][]int) error {
	for _, u := range units {
		what := slotsOf(*x, u).wait()
		for _, i := range u {
			s := &x.Steps[i]
			waits := waiting(s.Waits, what, tx.Now)
			if s.Status == Enqueued && slices.Equal(waits, s.Waits) {
				continue
			}
			s.Status, s.Waits = Enqueued, waits
			if err := saveStep(tx, *s); err != nil {
				return err
			}
			tx.Wake(Topic(x.ID))
		}
	}
	return nil
}

// refuse fails steps that are to begin together and never could.
func (h *handling) refuse(tx *db.Tx, x *Execution, steps []int) error {
	need, l := slotsOf(*x, steps), h.p.cfg.Limits
	why := fmt.Sprintf("run_next IN_HARD_PARALLEL: %d runs and %d builds are to begin together, and this server never runs more than %d and %d at the same time: "+
		"link them with IN_SOFT_PARALLEL, or raise --actions-parallel and --builds-parallel", need.Runs, need.Builds, l.Runs, l.Builds)
	for _, i := range steps {
		s := &x.Steps[i]
		s.Status, s.Error, s.Code, s.Finished = Failed, why, -1, tx.Now
		if err := saveStep(tx, *s); err != nil {
			return err
		}
	}
	tx.Wake(Topic(x.ID))
	return nil
}

// finish ends an execution.
func (h *handling) finish(tx *db.Tx, x *Execution, s *share, status Status) error {
	x.Status, x.Finished, x.Held, x.Asking, *s = status, tx.Now, false, false, share{}
	if _, err := tx.Exec(`UPDATE executions SET status = ?, finished = ?, held = 0, asking = 0, runs = 0, builds = 0, waiting = 0, wants = '' WHERE id = ?`,
		x.Status, db.Micros(x.Finished), x.ID); err != nil {
		return err
	}
	if status == Successful && !x.apart() {
		if err := promote(tx, x); err != nil {
			return err
		}
	}
	if err := tell(tx, event.ExecutionFinished, *x); err != nil {
		return err
	}
	if err := dropSecrets(tx, x.Workspace, x.Pipeline); err != nil {
		return err
	}
	return h.p.wake(tx, x.ID)
}
