package pipeline

import (
	"database/sql"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"slipway/db"
	"slipway/project"
)

const pipelineColumns = `p.id, p.project, p.workspace, p.name, p.identifier, p.spec, p.created, p.created_by,
	COALESCE((SELECT CASE WHEN e.held = 1 AND e.status = 'INPROGRESS' THEN 'WAITING_FOR_APPLY'
		WHEN e.asking = 1 AND e.status = 'INPROGRESS' THEN 'WAITING_FOR_VARIABLES' ELSE e.status END FROM executions e
		WHERE e.pipeline = p.id AND e.mode <> 'LOCAL' ORDER BY e.number DESC LIMIT 1), 'INITIAL'),
	COALESCE((SELECT e.revision FROM executions e WHERE e.pipeline = p.id AND e.status = 'SUCCESSFUL' AND e.rerun = 0 AND e.mode <> 'LOCAL'
		ORDER BY e.number DESC LIMIT 1), '')`

type scanner interface{ Scan(...any) error }

func scanPipeline(row scanner) (Pipeline, error) {
	var (
		p       Pipeline
		id      ID
		pr      project.ID
		ws      string
		name    string
		ident   string
		spec    []byte
		created sql.NullInt64
		by      int64
		status  Status
		rev     string
	)
	if err := row.Scan(&id, &pr, &ws, &name, &ident, &spec, &created, &by, &status, &rev); err != nil {
		return p, err
	}
	if err := json.Unmarshal(spec, &p); err != nil {
		return p, fmt.Errorf("pipeline %d in the store: %w", id, err)
	}
	for i := range p.Events {
		p.Events[i].moved()
	}
	p.ID, p.Project, p.Workspace, p.Name, p.Identifier = id, pr, ws, name, ident
	p.Created, p.CreatedBy, p.LastStatus, p.LastRevision = db.Time(created), by, status, rev
	return p, nil
}

func loadPipeline(tx *db.Tx, id ID) (Pipeline, error) {
	p, err := scanPipeline(tx.QueryRow(`SELECT `+pipelineColumns+` FROM pipelines p WHERE p.id = ? AND p.deleted IS NULL`, id))
	return p, db.NotFound(err, "pipeline %d", id)
}

func loadPipelines(tx *db.Tx, pr project.ID) ([]Pipeline, error) {
	rows, err := tx.Query(`SELECT `+pipelineColumns+` FROM pipelines p WHERE p.project = ? AND p.deleted IS NULL ORDER BY p.id`, pr)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var l []Pipeline
	for rows.Next() {
		p, err := scanPipeline(rows)
		if err != nil {
			return nil, err
		}
		l = append(l, p)
	}
	return l, rows.Err()
}

// specOf is what of a pipeline is kept as JSON.
func specOf(p Pipeline) ([]byte, error) {
	p.ID, p.Project, p.Workspace, p.Name, p.Identifier = 0, "", "", "", ""
	p.Created, p.CreatedBy, p.LastStatus, p.LastRevision = time.Time{}, 0, "", ""
	return json.Marshal(p)
}

const actionColumns = `a.id, a.pipeline, a.spec,
	COALESCE((SELECT x.status FROM action_executions x JOIN executions e ON e.id = x.execution WHERE x.action = a.id AND x.started IS NOT NULL AND e.mode <> 'LOCAL'
		ORDER BY x.started DESC LIMIT 1), 'INITIAL'),
	COALESCE((SELECT e.revision FROM action_executions x JOIN executions e ON e.id = x.execution
		WHERE x.action = a.id AND x.status = 'SUCCESSFUL' AND e.mode <> 'LOCAL' ORDER BY x.started DESC LIMIT 1), '')`

func scanAction(row scanner) (Action, error) {
	var (
		a      Action
		id     ActionID
		pl     ID
		spec   []byte
		status Status
		rev    string
	)
	if err := row.Scan(&id, &pl, &spec, &status, &rev); err != nil {
		return a, err
	}
	if err := json.Unmarshal(spec, &a); err != nil {
		return a, fmt.Errorf("action %d in the store: %w", id, err)
	}
	a.ID, a.Pipeline, a.LastStatus, a.LastRevision = id, pl, status, rev
	return a, nil
}

func loadAction(tx *db.Tx, pl ID, id ActionID) (Action, error) {
	a, err := scanAction(tx.QueryRow(`SELECT `+actionColumns+` FROM actions a WHERE a.id = ? AND a.pipeline = ? AND a.gone = 0`, id, pl))
	return a, db.NotFound(err, "action %d of pipeline %d", id, pl)
}

func loadActions(tx *db.Tx, pl ID) ([]Action, error) {
	all, gone, err := loadAllActions(tx, pl)
	return slices.DeleteFunc(all, func(a Action) bool { return gone[a.ID] }), err
}

// loadAllActions gives those, too, that the file which was read last has no more.
func loadAllActions(tx *db.Tx, pl ID) (l []Action, gone map[ActionID]bool, err error) {
	rows, err := tx.Query(`SELECT a.gone, `+actionColumns+` FROM actions a WHERE a.pipeline = ? ORDER BY a.position, a.id`, pl)
	if err != nil {
		return nil, nil, err
	}
	defer rows.Close()
	gone = map[ActionID]bool{}
	for rows.Next() {
		var is bool
		a, err := scanAction(with{rows, &is})
		if err != nil {
			return nil, nil, err
		}
		if l = append(l, a); is {
			gone[a.ID] = true
		}
	}
	return l, gone, rows.Err()
}

// with scans a column before the others.
type with struct {
	scanner
	first any
}

func (w with) Scan(to ...any) error { return w.scanner.Scan(append([]any{w.first}, to...)...) }

func actionSpec(a Action) ([]byte, error) {
	a.ID, a.Pipeline, a.LastStatus, a.LastRevision = 0, 0, "", ""
	return json.Marshal(a)
}

// input is the part of a start that no query asks for.
type input struct {
	Start  Start   // without secret values
	Twin   int     `json:",omitempty"`
	Loop   looping `json:",omitzero"`
	Commit *commitRow
	From   *commitRow
	Rerun  *Rerun `json:",omitempty"`
}

// frozen is a pipeline as it was when an execution was started.
type frozen struct {
	Pipeline Pipeline
	Actions  []Action
	Own      bool     `json:",omitempty"` // they are of a file, and its secrets are the execution's
	Notes    []string `json:",omitempty"` // about that file
}

// frozenText is what is kept of an execution's pipeline and actions.
func (x *Execution) frozenText(actions []Action) ([]byte, error) {
	return json.Marshal(frozen{Pipeline: x.Frozen, Actions: actions, Own: x.own, Notes: x.Notes})
}

const executionColumns = `e.id, e.pipeline, e.number, e.status, e.priority, e.mode, e.created_by, e.created,
	e.started, e.finished, e.input, e.frozen, e.previous, e.prepared, e.cancelled_by, e.cancelled,
	e.delayed, e.verdict, e.queued, e.waits, e.undefined, e.problem, e.held, e.asking`

func scanExecution(row scanner) (Execution, error) {
	var (
		x                           Execution
		in                          input
		fr                          frozen
		inJSON, frJSON              []byte
		created, start, end, cancel sql.NullInt64
		cancelledBy, delayed        sql.NullInt64
		queued                      sql.NullInt64
		verdict, waits              string
	)
	err := row.Scan(&x.ID, &x.Pipeline, &x.Number, &x.Status, &x.Priority, &x.Mode, &x.By, &created,
		&start, &end, &inJSON, &frJSON, &x.Previous, &x.prepared, &cancelledBy, &cancel, &delayed, &verdict, &queued, &waits, &x.undefined, &x.Problem, &x.Held, &x.Asking)
	if err != nil {
		return x, err
	}
	if x.Verdict, err = readVerdict(verdict); err != nil {
		return x, fmt.Errorf("execution %s in the store: %w", x.ID, err)
	}
	if x.Waits, err = readWaits(waits); err != nil {
		return x, fmt.Errorf("execution %s in the store: %w", x.ID, err)
	}
	if err := json.Unmarshal(inJSON, &in); err != nil {
		return x, fmt.Errorf("execution %s in the store: %w", x.ID, err)
	}
	if err := json.Unmarshal(frJSON, &fr); err != nil {
		return x, fmt.Errorf("execution %s in the store: %w", x.ID, err)
	}
	x.Created, x.Started, x.Finished = db.Time(created), db.Time(start), db.Time(end)
	x.Twin, x.Rerun, x.loop, x.Delayed, x.Queued = in.Twin, in.Rerun, in.Loop, db.Time(delayed), db.Time(queued)
	x.CancelledBy, x.Cancelled = cancelledBy.Int64, db.Time(cancel)
	x.Branch, x.Tag, x.PullRequest, x.Head = in.Start.Branch, in.Start.Tag, in.Start.PullRequest, in.Start.Head
	x.Base, x.Fork = in.Start.Base, in.Start.Fork
	x.Commit, x.From, x.Comment = in.Commit.commit(), in.From.commit(), in.Start.Comment
	x.Refresh, x.ClearCache = in.Start.Refresh, in.Start.ClearCache
	x.Variables, x.Only, x.Environment = in.Start.Variables, in.Start.Only, in.Start.Environment
	x.Frozen, x.own, x.Notes = fr.Pipeline, fr.Own, fr.Notes
	x.Project, x.Workspace = fr.Pipeline.Project, fr.Pipeline.Workspace
	x.Steps = make([]ActionExecution, len(fr.Actions))
	for i, a := range fr.Actions {
		x.Steps[i] = ActionExecution{Index: i, Action: a}
	}
	return x, nil
}

func loadSteps(tx *db.Tx, x *Execution) error {
	rows, err := tx.Query(`SELECT s.id, s.idx, s.status, s.attempt, s.tries, s.not_before, s.started, s.finished, s.error, s.code, s.digest, s.image,
		s.round, s.verdict, s.waits, s.held, s.approved, coalesce(s.approver, 0), s.asking, s.given, s.snapshot, s.unkept, s.carried, o.variables FROM action_executions s LEFT JOIN action_outputs o ON o.id = s.id WHERE s.execution = ? ORDER BY s.idx`, x.ID)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var s ActionExecution
		var before, start, end, approved, given sql.NullInt64
		var outputs []byte
		var verdict, waits string
		if err := rows.Scan(&s.ID, &s.Index, &s.Status, &s.Attempt, &s.Tries, &before, &start, &end,
			&s.Error, &s.Code, &s.Digest, &s.Image, &s.Round, &verdict, &waits, &s.Held, &approved, &s.Approver, &s.Asking, &given, &s.Snapshot, &s.Unkept, &s.Carried, &outputs); err != nil {
			return err
		}
		if s.Verdict, err = readVerdict(verdict); err != nil {
			return fmt.Errorf("execution %s in the store: %w", x.ID, err)
		}
		if s.Waits, err = readWaits(waits); err != nil {
			return fmt.Errorf("execution %s in the store: %w", x.ID, err)
		}
		if len(outputs) > 0 && s.Status.Ended() { // else they are of an earlier attempt
			if err := json.Unmarshal(outputs, &s.Outputs); err != nil {
				return fmt.Errorf("execution %s in the store: %w", x.ID, err)
			}
		}
		if s.Index < 0 || s.Index >= len(x.Steps) {
			return fmt.Errorf("execution %s in the store: no action %d", x.ID, s.Index)
		}
		s.NotBefore, s.Started, s.Finished, s.Approved = db.Time(before), db.Time(start), db.Time(end), db.Time(approved)
		s.Given = db.Time(given)
		s.Action = x.Steps[s.Index].Action
		x.Steps[s.Index] = s
	}
	return rows.Err()
}

func loadExecution(tx *db.Tx, id ExecutionID) (Execution, error) {
	x, err := scanExecution(tx.QueryRow(`SELECT `+executionColumns+` FROM executions e WHERE e.id = ?`, id))
	if err != nil {
		return x, db.NotFound(err, "execution %s", id)
	}
	return x, loadSteps(tx, &x)
}

func saveStep(tx *db.Tx, s ActionExecution) error {
	_, err := tx.Exec(`UPDATE action_executions SET status = ?, attempt = ?, tries = ?, not_before = ?, started = ?,
		finished = ?, error = ?, code = ?, digest = ?, image = ?, round = ?, verdict = ?, waits = ?, held = ?,
		approved = ?, approver = ?, asking = ?, given = ? WHERE id = ?`,
		s.Status, s.Attempt, s.Tries, db.Micros(s.NotBefore), db.Micros(s.Started), db.Micros(s.Finished),
		s.Error, s.Code, s.Digest, s.Image, s.Round, s.Verdict.text(), waitsText(s.Waits), s.Held,
		db.Micros(s.Approved), s.Approver, s.Asking, db.Micros(s.Given), s.ID)
	return err
}

// commitRow is a commit as it is kept.
type commitRow struct {
	Revision, Subject, Message string
	Author, AuthorEmail        string
	Committer, CommitterEmail  string
	AuthorDate, CommitDate     time.Time
}

// unknownExecutions gives those of the ids that have no row.
func unknownExecutions(tx *db.Tx, ids []string) ([]string, error) {
	list, err := json.Marshal(append([]string{}, ids...)) // none is [], not null
	if err != nil {
		return nil, err
	}
	return db.Column[string](tx, `SELECT j.value FROM json_each(?) j WHERE NOT EXISTS (SELECT 1 FROM executions e WHERE e.id = j.value)`, string(list))
}
