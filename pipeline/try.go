package pipeline

import (
	"database/sql"
	"encoding/json"
	"fmt"
	"time"

	"slipway/db"
)

// Try is one run of a step.
type Try struct {
	Attempt  int    // counts the runs of the step
	Try      int    // from 1, since the start, the last Retry or the last round
	Round    int    // of its loop, from 1
	Status   Status // InProgress until it has ended
	Started  time.Time
	Finished time.Time
	Waits    []Wait // before it
	Ending
}

// Ending is how a try ended.
type Ending struct {
	Reason EndReason `json:"reason,omitempty"`
	Code   int       `json:"code"` // exit code, -1 if there is none
	Signal int       `json:"signal,omitempty"`
	Error  string    `json:"error,omitempty"`
	Memory int64     `json:"memory,omitempty"` // bytes at the peak; 0: not known, or nothing ran
	CPU    int64     `json:"cpu,omitempty"`    // µs; 0: not known, or nothing ran
	Build  *Built    `json:"build,omitempty"`
}

// beginTry notes that the try of a step has begun whose number it has.
func beginTry(tx *db.Tx, s ActionExecution) error {
	_, err := tx.Exec(`INSERT INTO action_tries (id, attempt, try, round, status, started, waits) VALUES (?, ?, ?, ?, ?, ?, ?)`,
		s.ID, s.Attempt, s.Tries+1, s.Round+1, InProgress, db.Micros(tx.Now), waitsText(s.Waits))
	return err
}

// endTry notes how the try of a step has ended.
func endTry(tx *db.Tx, s ActionExecution, r Result) error {
	ending, err := json.Marshal(Ending{r.Reason, r.Code, r.Signal, r.Error, r.Used.Memory, r.Used.CPU.Microseconds(), r.Build})
	if err != nil {
		return err
	}
	_, err = tx.Exec(`UPDATE action_tries SET status = ?, finished = ?, ending = ? WHERE id = ? AND attempt = ?`,
		r.Status, db.Micros(tx.Now), string(ending), s.ID, s.Attempt)
	return err
}

// loadTries gives the tries of the steps of an execution, by the id of the step.
func loadTries(tx *db.Tx, id ExecutionID) (map[string][]Try, error) {
	rows, err := tx.Query(`SELECT t.id, t.attempt, t.try, t.round, t.status, t.started, t.finished, t.waits, t.ending
		FROM action_tries t JOIN action_executions s ON s.id = t.id WHERE s.execution = ? ORDER BY t.id, t.attempt`, id)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	all := map[string][]Try{}
	for rows.Next() {
		var step, waits string
		var ending []byte
		var start, end sql.NullInt64
		t := Try{Ending: Ending{Code: -1}}
		if err := rows.Scan(&step, &t.Attempt, &t.Try, &t.Round, &t.Status, &start, &end, &waits, &ending); err != nil {
			return nil, err
		}
		t.Started, t.Finished = db.Time(start), db.Time(end)
		if t.Waits, err = readWaits(waits); err == nil && len(ending) > 0 {
			err = json.Unmarshal(ending, &t.Ending)
		}
		if err != nil {
			return nil, fmt.Errorf("action execution %s in the store: %w", step, err)
		}
		all[step] = append(all[step], t)
	}
	return all, rows.Err()
}
