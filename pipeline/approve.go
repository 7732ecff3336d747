package pipeline

import (
	"slices"

	"slipway/access"
	"slipway/db"
)

// approve says of the steps of an execution that wait for it that they may be
// run. ok is false if there are none.
func approve(tx *db.Tx, by access.Actor, x Execution) (ok bool, err error) {
	for _, s := range x.Steps {
		if !s.Held || x.Status != InProgress {
			continue
		}
		if err := permitAction(by, x.Frozen, s.Action, access.ExecutionRun); err != nil {
			return false, err
		}
		s.Held, s.Approved, s.Approver, ok = false, tx.Now, by.User.ID, true
		s.Waits = waiting(s.Waits, "", tx.Now)
		if err := saveStep(tx, s); err != nil {
			return false, err
		}
	}
	if !ok {
		return false, nil
	}
	if _, err := tx.Exec(`UPDATE executions SET held = 0 WHERE id = ?`, x.ID); err != nil {
		return false, err
	}
	tx.Wake(newsTopic(x.ID))
	tx.Wake(Topic(x.ID))
	return true, tx.Due("executions", string(x.ID), tx.Now)
}

// approvals notes in x what was approved, and given to it, since it was read.
func approvals(tx *db.Tx, x *Execution) error {
	if !slices.ContainsFunc(x.Steps, func(s ActionExecution) bool { return s.Held || s.Asking }) {
		return nil
	}
	now, err := loadExecution(tx, x.ID)
	if err != nil {
		return err
	}
	for i, s := range now.Steps {
		if was := &x.Steps[i]; was.Held && !s.Approved.IsZero() {
			was.Held, was.Approved, was.Approver, was.Waits = false, s.Approved, s.Approver, s.Waits
		}
		if was := &x.Steps[i]; was.Asking && !s.Given.IsZero() {
			was.Asking, was.Given, was.Waits = false, s.Given, s.Waits
		}
	}
	x.Held, x.Asking, x.Variables = now.Held, now.Asking, now.Variables
	return nil
}

// noteHeld notes whether an execution does nothing but wait to be approved, or for
// variables.
func noteHeld(tx *db.Tx, x *Execution) error {
	held, asking := false, false
	for _, s := range x.Steps {
		if s.Status == InProgress {
			held, asking = false, false
			break
		}
		held, asking = held || s.Held, asking || s.Asking
	}
	if asking = asking && !held; held == x.Held && asking == x.Asking {
		return nil
	}
	x.Held, x.Asking = held, asking
	tx.Wake(Topic(x.ID))
	_, err := tx.Exec(`UPDATE executions SET held = ?, asking = ? WHERE id = ?`, held, asking, x.ID)
	return err
}

// approver is who approved last what is run now; 0 if nobody did.
func (x Execution) approver() (user int64) {
	var last ActionExecution
	for _, s := range x.Steps {
		if s.Approved.After(last.Approved) {
			last = s
		}
	}
	return last.Approver
}
