package pipeline

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/uuid"

	"slipway/access"
	"slipway/crash"
	"slipway/db"
	"slipway/event"
	"slipway/project"
	"slipway/secret"
	"slipway/source"
)

// Start puts an execution of a pipeline into the queue. A revision that does
// not exist, an action that is not the pipeline's and the like are a
// *project.Invalid.
func (p *Pipelines) Start(ctx context.Context, by access.Actor, id ID, in Start) (Execution, error) {
	pl, err := p.get(ctx, by, id, access.ExecutionRun)
	if err == nil && in.Mode == ByLocal {
		err = mayRunTree(by, pl, in.Definition != "")
	}
	if err != nil {
		return Execution{}, err
	}
	key, err := keyOf(by, id, in)
	if err != nil {
		return Execution{}, err
	}
	var x Execution
	var known bool
	err = p.db.Read(ctx, func(tx *db.Tx) error { x, known, err = p.keyed(tx, key); return err })
	if err != nil {
		return Execution{}, err
	}
	if known {
		return p.shown(ctx, by, x)
	}
	if err := p.room(); err != nil {
		return Execution{}, fmt.Errorf("start pipeline %d: %w", id, err)
	}
	inFile := pl.outside() || in.Definition != ""
	if !inFile && len(in.Named) == 0 { // else it is not known yet what is run
		if err := p.db.Read(ctx, func(tx *db.Tx) error { return p.permitStart(tx, by, pl, in.Only) }); err != nil {
			return Execution{}, err
		}
	}
	commit, from, err := p.resolve(ctx, pl.Project, &in)
	if err != nil {
		return Execution{}, err
	}
	var d *defined
	if inFile && !pl.Disabled {
		of := run{commit: commit, pull: in.PullRequest, by: by.User.ID, local: in.Mode == ByLocal, file: in.Definition}
		if d, err = p.defineWithin(ctx, askedPatience, pl, of); err != nil {
			return Execution{}, fmt.Errorf("start pipeline %d: %w", id, err)
		}
	}
	err = p.db.Write(ctx, func(tx *db.Tx) error {
		if x, known, err = p.keyed(tx, key); err != nil || known {
			return err
		}
		if x, err = p.startIn(tx, by.User.ID, id, in, commit, from, d); err != nil {
			return err
		}
		switch { // what is run is known now
		case in.Definition != "" || len(in.Named) > 0:
			err = permitRun(by, pl, x.actions(), x.Only)
		case d != nil:
			err = p.permitStart(tx, by, pl, in.Only)
		}
		if err != nil {
			return err
		}
		return p.rememberKey(tx, key, x.ID)
	})
	if err != nil {
		return Execution{}, fmt.Errorf("start pipeline %d: %w", id, err)
	}
	crash.At("pipeline: execution enqueued")
	return p.shown(ctx, by, x)
}

// resolve finds the commits that a start asks for, and fills in the branch.
func (p *Pipelines) resolve(ctx context.Context, pr project.ID, in *Start) (commit, from *source.Commit, err error) {
	var inv project.Invalid
	oneOf(&inv, "priority", string(in.Priority), "", "LOW", "NORMAL", "HIGH")
	validateVariables(in.Variables, &inv)
	inv.NoNUL("comment", in.Comment)
	if in.Mode == ByLocal {
		commit, err = p.workingTree(ctx, pr, in.Revision, inv)
		return commit, nil, err
	}
	if in.PullRequest != "" {
		return p.resolvePull(ctx, pr, in, inv)
	}
	find := func(path, branch, revision, given string) *source.Commit {
		c, err := p.sources.Resolve(ctx, pr, branch, revision)
		switch {
		case errdefs.IsNotFound(err):
			inv.Add(path, "unknown", fmt.Sprintf("there is no %s in the repository", given))
		case err != nil && !errdefs.IsInvalidArgument(err):
			inv.Add(path, "unavailable", err.Error())
		case err != nil:
			inv.Add(path, "format", err.Error())
		}
		return c
	}
	switch head := in.Revision == "" || in.Revision == "HEAD"; {
	case in.Tag != "" && in.Branch != "":
		inv.Add("tag", "conflict", "a run is of a branch or of a tag")
	case in.Tag != "" && head:
		commit = find("tag.name", "", "refs/tags/"+strings.TrimPrefix(in.Tag, "refs/tags/"), "tag "+in.Tag)
	case head && in.Branch != "":
		commit = find("branch.name", in.Branch, "HEAD", "branch "+in.Branch)
	case head:
		commit = find("to_revision.revision", "", "HEAD", "commit")
	default:
		commit = find("to_revision.revision", in.Branch, in.Revision, "revision "+in.Revision)
	}
	if in.From != "" {
		from = find("from_revision.revision", in.Branch, in.From, "revision "+in.From)
	}
	if err := inv.Err(); err != nil {
		return nil, nil, err
	}
	if commit == nil && (in.Branch != "" || in.Tag != "" || in.Revision != "" && in.Revision != "HEAD") {
		inv.Add("to_revision.revision", "unknown", "the project has no commit yet: only HEAD of no branch can be run")
		return nil, nil, inv.Err()
	}
	if commit != nil && in.Branch == "" && in.Tag == "" {
		if in.Branch, err = p.sources.DefaultBranch(ctx, pr); err != nil {
			return nil, nil, err
		}
	}
	return commit, from, nil
}

// resolvePull is resolve for a pull request. inv has what is wrong besides.
func (p *Pipelines) resolvePull(ctx context.Context, pr project.ID, in *Start, inv project.Invalid) (commit, from *source.Commit, err error) {
	const at = "pull_request.name"
	if in.Branch != "" || in.Tag != "" {
		inv.Add(at, "conflict", "a run is of a pull request, of a branch or of a tag")
		return nil, nil, inv.Err()
	}
	pull, err := p.sources.PullRequest(ctx, pr, in.PullRequest)
	switch {
	case errdefs.IsNotFound(err):
		inv.Add(at, "unknown", err.Error())
	case errdefs.IsInvalidArgument(err):
		inv.Add(at, "format", err.Error())
	case err != nil:
		inv.Add(at, "unavailable", err.Error())
	default:
		in.PullRequest, in.Head, in.Base, commit = strings.TrimPrefix(pull.Ref, "refs/"), pull.Head, pull.Base, pull.Commit
		in.Fork = pull.Head == ""
	}
	if r := in.Revision; commit != nil && r != "" && r != "HEAD" && r != commit.Revision {
		inv.Add("to_revision.revision", "conflict", fmt.Sprintf("the pull request is at %s: only that can be run of it", commit.Revision))
	}
	if in.From != "" && commit != nil {
		if from, err = p.sources.Resolve(ctx, pr, "", in.From); err != nil {
			inv.Add("from_revision.revision", "unknown", err.Error())
		}
	}
	return commit, from, inv.Err()
}

// StartIn is Start in a transaction of the caller's, without asking who: user
// is in whose name it runs. Revisions are found already; commit is nil for a
// project without a source. A pipeline with a loop has an execution for each of
// its rounds, of which this is the first; one whose loop cannot be made has one
// that says so.
func (p *Pipelines) StartIn(tx *db.Tx, user int64, id ID, in Start, commit, from *source.Commit) (Execution, error) {
	return p.startIn(tx, user, id, in, commit, from, nil)
}

// startIn is StartIn with the definition of the pipeline, if it is in a file and was
// read already.
func (p *Pipelines) startIn(tx *db.Tx, user int64, id ID, in Start, commit, from *source.Commit, d *defined) (Execution, error) {
	var x Execution
	pl, err := loadPipeline(tx, id)
	if err != nil {
		return x, err
	}
	if !pl.outside() && in.Definition == "" { // not any more
		d = nil
	}
	a := adopted{pipeline: pl, undefined: d == nil && pl.outside()}
	switch {
	case d == nil:
		a.actions, err = loadActions(tx, id)
	case in.Definition != "":
		a, err = p.lend(tx, user, pl, d)
		pl = a.pipeline
	default:
		a, err = p.adopt(tx, pl, d)
		pl = a.pipeline
	}
	if err != nil {
		return x, err
	}
	var inv project.Invalid
	if pl.Disabled {
		inv.Add("pipeline", "conflict", strings.TrimSuffix("is disabled: "+pl.Reason, ": "))
	}
	if pl.CommentRequired && strings.TrimSpace(in.Comment) == "" {
		inv.Add("comment", "required", "is required by the pipeline")
	}
	in.Only = slices.Concat(in.Only, named(a.actions, in.Named, &inv))
	in.Named = nil
	for _, o := range in.Only {
		if !slices.ContainsFunc(a.actions, func(a Action) bool { return a.ID == o }) {
			inv.Add("actions_to_run", "unknown", fmt.Sprintf("there is no action %d in this pipeline", o))
		}
	}
	if in.Environment != "" {
		e, err := secret.EnvironmentFor(tx, pl.Workspace, pl.Project, in.Environment)
		switch {
		case errdefs.IsNotFound(err):
			inv.Add("environment", "unknown", fmt.Sprintf("there is no environment %q in the project or the workspace", in.Environment))
		case err != nil:
			return x, err
		}
		in.Environment = e.ID
	}
	if err := inv.Err(); err != nil {
		return x, err
	}
	rounds, refused := [][]Variable{in.Variables}, ""
	if !a.undefined { // else it is known when the file is read
		if rounds, refused, err = p.startRounds(tx, a, in); err != nil {
			return x, err
		}
	}
	for i, variables := range rounds {
		in.Variables = slices.Clone(variables)
		n, err := p.startOne(tx, user, a, in, commit, from, looping{x.ID, refused})
		if err != nil {
			return Execution{}, err
		}
		if i == 0 {
			x = n
		}
	}
	return x, nil
}

// named are the actions that have one of some names, all of which must be there.
func named(actions []Action, names []string, inv *project.Invalid) (ids []ActionID) {
	for _, name := range names {
		n := len(ids)
		for _, a := range actions {
			if a.Name == name {
				ids = append(ids, a.ID)
			}
		}
		if len(ids) == n {
			inv.Add("actions", "unknown", fmt.Sprintf("there is no action %q in this pipeline", name))
		}
	}
	return ids
}

// startRounds is rounds; those of a loop that cannot be made are one, which is
// refused.
func (p *Pipelines) startRounds(tx *db.Tx, a adopted, in Start) (l [][]Variable, refused string, err error) {
	l, err = p.rounds(tx, a, in)
	var never *fatalError
	if errors.As(err, &never) {
		return [][]Variable{in.Variables}, err.Error(), nil
	}
	return l, "", err
}

// looping is what an execution has of the loop of its pipeline.
type looping struct {
	First   ExecutionID `json:",omitempty"` // of the same start; "" for itself
	Refused string      `json:",omitempty"` // why there is no loop
}

// startOne is StartIn for one execution.
func (p *Pipelines) startOne(tx *db.Tx, user int64, a adopted, in Start, commit, from *source.Commit, loop looping) (Execution, error) {
	pl := a.pipeline
	if in.Mode == ByLocal {
		pl, a.notes = pl.ofTree(), slices.Concat([]string{localNote}, a.notes)
	}
	if in.Mode == ByPull && in.Fork {
		pl = pl.ofTree()
	}
	x := Execution{
		ID: ExecutionID(uuid.NewString()), Pipeline: pl.ID, Project: pl.Project, Workspace: pl.Workspace, Status: Enqueued, loop: loop,
		Mode: in.Mode, By: user, Created: tx.Now, Branch: in.Branch, Tag: in.Tag, Commit: commit, From: from,
		PullRequest: in.PullRequest, Head: in.Head, Base: in.Base, Fork: in.Fork,
		Comment: in.Comment, Refresh: in.Refresh, ClearCache: in.ClearCache, Priority: in.Priority, Only: in.Only, Environment: in.Environment, Frozen: pl,
		undefined: a.undefined, own: a.own, Notes: a.notes,
	}
	if in.Delay.After(tx.Now) {
		x.Delayed = in.Delay.UTC().Truncate(time.Microsecond)
	}
	if x.Priority == "" {
		x.Priority = pl.Priority
	}
	if x.Priority == "" {
		x.Priority = Normal
	}
	if x.Mode == "" {
		x.Mode = Manual
	}
	secrets, err := hideVariables(in.Variables, nil)
	if err != nil {
		return x, err
	}
	x.Variables = in.Variables
	if err := insertExecution(tx, &x, in, a.actions); err != nil {
		return x, err
	}
	maps.Copy(secrets, a.hidden)
	if err := p.seal(tx, "executions", x.ID.row(), secrets, x.ID); err != nil {
		return x, err
	}
	return x, p.arrive(tx, &x)
}

func insertExecution(tx *db.Tx, x *Execution, in Start, actions []Action) error {
	if _, err := tx.Exec(`UPDATE pipelines SET next_number = next_number + 1 WHERE id = ?`, x.Pipeline); err != nil {
		return err
	}
	err := tx.QueryRow(`SELECT next_number - 1 FROM pipelines WHERE id = ?`, x.Pipeline).Scan(&x.Number)
	if err != nil {
		return err
	}
	if x.Twin, err = twins(tx, x.Project, x.Created); err != nil {
		return err
	}
	input, err := json.Marshal(input{Start: in, Twin: x.Twin, Loop: x.loop, Rerun: x.Rerun, Commit: toCommitRow(x.Commit), From: toCommitRow(x.From)})
	if err != nil {
		return err
	}
	frozen, err := x.frozenText(actions)
	if err != nil {
		return err
	}
	revision := ""
	if x.Commit != nil {
		revision = x.Commit.Revision
	}
	_, err = tx.Exec(`INSERT INTO executions (id, pipeline, number, status, priority, mode, created_by, created, queued,
		branch, revision, input, frozen, no_skip, concurrent, delayed, undefined)
		VALUES (?, ?, ?, 'ENQUEUED', ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		x.ID, x.Pipeline, x.Number, x.Priority, x.Mode, x.By, db.Micros(x.Created), db.Micros(x.Created),
		x.Branch, revision, input, frozen, x.Frozen.NoSkip, x.Frozen.Concurrent, db.Micros(x.Delayed), x.undefined)
	if err != nil {
		return err
	}
	for i, a := range actions {
		if err := x.addStep(tx, ActionExecution{ID: newStepID(), Index: i, Action: a, Status: Initial}); err != nil {
			return err
		}
	}
	return nil
}

func (x *Execution) addStep(tx *db.Tx, s ActionExecution) error {
	x.Steps = append(x.Steps, s)
	_, err := tx.Exec(`INSERT INTO action_executions (id, execution, idx, action, status) VALUES (?, ?, ?, ?, ?)`,
		s.ID, x.ID, s.Index, s.Action.ID, s.Status)
	return err
}

// newStepID is 24 hex digits.
func newStepID() string {
	var b [12]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// tell writes the event of an execution that has begun or ended.
func tell(tx *db.Tx, kind event.Kind, x Execution) error {
	tx.Wake(Topic(x.ID))
	return event.Write(tx, event.Event{
		Kind: kind, Workspace: x.Workspace, Project: string(x.Project), Subject: string(x.ID),
	}, Ended{x.ID, x.Pipeline, x.Number, x.Status, x.local()})
}

// Topic is what db.Watch is told when anything of an execution changes.
func Topic(id ExecutionID) string { return "execution/" + string(id) }

// newsTopic is what who handles an execution is told when it is cancelled, or can
// have slots that it waits for.
func newsTopic(id ExecutionID) string { return "news/" + string(id) }

// cancelAll cancels the executions that are not at their end and fit a
// condition.
func cancelAll(tx *db.Tx, where string, user int64, args ...any) error {
	ids, err := db.Column[ExecutionID](tx, `SELECT id FROM executions WHERE status IN ('ENQUEUED', 'INPROGRESS') AND `+where, args...)
	if err != nil {
		return err
	}
	for _, id := range ids {
		if _, err := tx.Exec(`UPDATE executions SET status = 'TERMINATING', cancelled_by = ?, cancelled = ?, waiting = 0
			WHERE id = ?`, user, db.Micros(tx.Now), id); err != nil {
			return err
		}
		if err := tx.Due("executions", string(id), tx.Now); err != nil {
			return err
		}
		tx.Wake(newsTopic(id))
		tx.Wake(Topic(id))
	}
	return nil
}

// Operate does an operation on an execution; one that does not fit its status
// is a *project.Invalid. given are for OpApplyVariables.
func (p *Pipelines) Operate(ctx context.Context, by access.Actor, id ExecutionID, op Operation, given ...Variable) (Execution, error) {
	x, err := p.Execution(ctx, by, id)
	if err != nil {
		return x, err
	}
	if err := by.MayIn(x.Workspace, string(x.Project), access.ExecutionRun); err != nil {
		return x, err
	}
	err = p.db.Write(ctx, func(tx *db.Tx) error {
		if x, err = loadExecution(tx, id); err != nil {
			return err
		}
		if err := p.mayOperate(tx, by, x, op); err != nil {
			return err
		}
		var inv project.Invalid
		if len(given) > 0 && op != OpApplyVariables {
			inv.Add("variables", "conflict", "go with the operation APPLY_VARIABLES alone")
			return inv.Err()
		}
		switch op {
		case OpCancel:
			if x.Status != Enqueued && x.Status != InProgress {
				inv.Add("operation", "conflict", fmt.Sprintf("an execution that is %s cannot be cancelled", x.Shown()))
				return inv.Err()
			}
			err = cancelAll(tx, `id = ?`, by.User.ID, id)
		case OpRetry:
			if x.Status != Failed && x.Status != Terminated {
				inv.Add("operation", "conflict", fmt.Sprintf("an execution that is %s cannot be retried", x.Shown()))
				return inv.Err()
			}
			err = p.again(tx, x)
		case OpRunDelayed:
			if x.Status != Enqueued || !x.Delayed.After(tx.Now) {
				inv.Add("operation", "conflict", fmt.Sprintf("an execution that is %s does not wait for its time", x.Shown()))
				return inv.Err()
			}
			if _, err = tx.Exec(`UPDATE executions SET delayed = NULL WHERE id = ?`, id); err == nil {
				err = tx.Due("executions", string(id), tx.Now)
			}
		case OpApply:
			var waited bool
			if waited, err = approve(tx, by, x); err == nil && !waited {
				inv.Add("operation", "conflict", fmt.Sprintf("no action of the execution, which is %s, waits to be approved", x.Shown()))
				return inv.Err()
			}
		case OpApplyVariables:
			var waited bool
			if waited, err = p.give(tx, by, x, slices.Clone(given)); err == nil && !waited {
				inv.Add("operation", "conflict", fmt.Sprintf("no action of the execution, which is %s, waits for variables", x.Shown()))
				return inv.Err()
			}
		default:
			inv.Add("operation", "enum", "must be one of CANCEL, RETRY, APPLY, APPLY_VARIABLES, RUN_DELAYED")
			return inv.Err()
		}
		if err != nil {
			return err
		}
		if x, err = loadExecution(tx, id); err != nil {
			return err
		}
		return show(tx, by, &x, access.ExecutionInfo)
	})
	if err != nil {
		return Execution{}, fmt.Errorf("execution %s: %w", id, err)
	}
	crash.At("pipeline: execution " + strings.ToLower(string(op)))
	return x, nil
}

// again puts an ended execution into the queue once more.
func (p *Pipelines) again(tx *db.Tx, x Execution) error {
	if err := p.room(); err != nil {
		return err
	}
	if _, err := loadPipeline(tx, x.Pipeline); err != nil {
		return err
	}
	x = Again(x)
	if x.ownsFiles() {
		own, err := ownFiles(tx, x.ID)
		if err != nil {
			return err
		}
		if own == "" { // what its actions have made is not there any more
			x = anew(x)
		}
	}
	for _, s := range x.Steps {
		if err := errors.Join(saveStep(tx, s), saveSnapshot(tx, x.ID, s)); err != nil {
			return err
		}
	}
	if _, err := tx.Exec(`UPDATE executions SET status = 'ENQUEUED', started = NULL, finished = NULL, prepared = 0,
		delayed = NULL, cancelled_by = NULL, cancelled = NULL, waits = '', problem = '' WHERE id = ?`, x.ID); err != nil {
		return err
	}
	tx.Wake(Topic(x.ID))
	if x.undefined {
		return tx.Due("executions", string(x.ID), tx.Now)
	}
	return p.enqueue(tx, &x)
}
