package pipeline

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/uuid"

	"slipway/access"
	"slipway/crash"
	"slipway/db"
	"slipway/image"
	"slipway/project"
)

// Rerun says how an execution begins that goes on from an action of another one.
type Rerun struct {
	Of   int64    // number of that one
	Like int64    // number of the one that was no rerun: what was changed is told since the one before it
	From int      // index of the action
	Keys []string `json:",omitempty"` // of its variables that hold over all others
}

// like is the number of the execution that an execution is as.
func (x Execution) like() int64 {
	if x.Rerun != nil {
		return x.Rerun.Like
	}
	return x.Number
}

// edited are the variables of a rerun that hold over all others.
func (x Execution) edited() []Variable {
	return slices.DeleteFunc(slices.Clone(x.Variables), func(v Variable) bool { return !slices.Contains(x.Rerun.Keys, v.Key) })
}

// RerunInput is what an execution is begun with at one of its actions.
type RerunInput struct {
	From      string     // the id of an action execution, or the number of its action
	Commands  *string    // in the place of those of that action
	Variables []Variable // hold over all others of these names in that run
	Comment   *string    // in the place of that of the execution
	Key       string     `json:"-"` // as of Start
}

// Reruns is the front door for executions that begin with an action of another
// one.
type Reruns struct {
	p   *Pipelines
	eng Engine
}

// NewReruns makes the front door on the engine of the runner.
func NewReruns(p *Pipelines, e Engine) *Reruns { return &Reruns{p, e} }

// conflict is what cannot be done with things as they are.
func conflict(format string, a ...any) error {
	return fmt.Errorf(format+": %w", append(a, errdefs.ErrConflict)...)
}

// Rerun puts an execution into the queue that goes on from an action of an ended
// one, with the file system as it was before that action, and what the execution
// was of: its definition, commit and variables. What is not kept any more is an
// errdefs.ErrConflict that says so.
func (r *Reruns) Rerun(ctx context.Context, by access.Actor, id ExecutionID, in RerunInput) (Execution, error) {
	seen, err := r.p.Execution(ctx, by, id)
	if err != nil {
		return Execution{}, err
	}
	pl, err := r.p.get(ctx, by, seen.Pipeline, access.ExecutionRun)
	if err != nil {
		return Execution{}, err
	}
	if in.Commands != nil { // who may only run it is not to see its secrets by commands of its own
		if _, err := r.p.get(ctx, by, seen.Pipeline, access.ExecutionManage); err != nil {
			return Execution{}, err
		}
	}
	var key *startKey
	if in.Key != "" {
		if key, err = keyFor(by, pl.ID, in.Key, struct {
			Of ExecutionID
			RerunInput
		}{id, in}); err != nil {
			return Execution{}, err
		}
	}
	var x Execution
	var known bool
	err = r.p.db.Read(ctx, func(tx *db.Tx) error { x, known, err = r.p.keyed(tx, key); return err })
	if err != nil {
		return Execution{}, err
	}
	if known {
		return r.p.shown(ctx, by, x)
	}
	of := fmt.Sprintf("run execution %d of pipeline %d again", seen.Number, pl.ID)
	if err := r.p.room(); err != nil {
		return Execution{}, fmt.Errorf("%s: %w", of, err)
	}
	i, err := find(seen, in.From)
	if err != nil {
		return Execution{}, err
	}
	if err := r.there(ctx, seen, i); err != nil {
		return Execution{}, fmt.Errorf("%s: %w", of, err)
	}
	err = r.p.db.Write(ctx, func(tx *db.Tx) error {
		if x, known, err = r.p.keyed(tx, key); err != nil || known {
			return err
		}
		if x, err = r.p.rerunIn(tx, by, id, i, in); err != nil {
			return err
		}
		return r.p.rememberKey(tx, key, x.ID)
	})
	if err != nil {
		return Execution{}, fmt.Errorf("%s: %w", of, err)
	}
	crash.At("pipeline: rerun enqueued")
	return r.p.shown(ctx, by, x)
}

// find gives the index of the step that a rerun is to begin with, among those that
// who asks sees.
func find(seen Execution, from string) (int, error) {
	number, err := strconv.ParseInt(from, 10, 64)
	n := slices.IndexFunc(seen.Steps, func(s ActionExecution) bool { return s.ID == from || err == nil && s.Action.ID == ActionID(number) })
	if n < 0 {
		inv := project.Invalid{}
		if from == "" {
			inv.Add("from", "required", "is required: an action of the execution, or its action_execution_id")
		} else {
			inv.Add("from", "unknown", fmt.Sprintf("there is no action %s in the execution", from))
		}
		return 0, inv.Err()
	}
	return seen.Steps[n].Index, nil
}

// there tells whether the engine has what a rerun takes over.
func (r *Reruns) there(ctx context.Context, seen Execution, i int) error {
	var x Execution
	err := r.p.db.Read(ctx, func(tx *db.Tx) (err error) { x, err = loadExecution(tx, seen.ID); return err })
	if err == nil {
		err = begins(x, i)
	}
	if err != nil {
		return err
	}
	have, err := r.eng.Snapshots(ctx, x.Pipeline.Owner())
	if err != nil {
		return err
	}
	if !slices.Contains(have, x.Steps[i].Snapshot) {
		return notKept(x, i, "it is not there any more")
	}
	n := carriedOver(x, i)
	for _, s := range n.Steps {
		from := s.Action.imageFrom()
		if s.Carried || s.Action.Disabled || from == nil {
			continue
		}
		t, ok := n.giver(s, *from)
		if !ok || !t.Carried || t.Digest == "" {
			continue
		}
		if _, err := r.eng.Images().Inspect(ctx, t.Digest, ""); errdefs.IsNotFound(err) {
			return conflict("the image that the action %q built is not kept any more, and %q uses it: begin with %q", t.Action.Name, s.Action.Name, t.Action.Name)
		} else if err != nil {
			return err
		}
	}
	return nil
}

func notKept(x Execution, i int, why string) error {
	return conflict("what the file system was before the action %q in execution %d is not kept: %s; begin with another action, or start the pipeline anew", x.Steps[i].Action.Name, x.Number, why)
}

// begins tells why no rerun can begin with a step.
func begins(x Execution, i int) error {
	s := x.Steps[i]
	switch {
	case !x.Status.Ended():
		return conflict("it is %s: it can be run again when it has ended", x.Shown())
	case s.Action.stage() == OnTerminate || s.Action.stage() == OnWaitForApprove:
		var inv project.Invalid
		inv.Add("from", "conflict", fmt.Sprintf("an action with trigger_time %s is run beside others: nothing begins with it", s.Action.stage()))
		return inv.Err()
	case s.Carried:
		return conflict("the action %q was not run in it, but taken over from execution %d: run that one again", s.Action.Name, x.Rerun.Of)
	case s.Started.IsZero():
		return conflict("the action %q was not run in it: begin with one that was", s.Action.Name)
	case s.Snapshot == "":
		return notKept(x, i, s.Unkept)
	}
	return nil
}

// carriedOver is an execution as a rerun that begins with a step finds it: what came
// before is as it was, and of those that ran beside that step what was done without
// changing its files.
func carriedOver(x Execution, from int) Execution {
	first := x.Steps[from]
	x.Steps = slices.Clone(x.Steps)
	x.Rerun = &Rerun{Of: x.Number, Like: x.like(), From: from}
	came := false
	for _, group := range groups(x.Steps) {
		here := slices.Contains(group, from)
		for _, i := range group {
			s := &x.Steps[i]
			over := s.Status == Successful || s.Status == Skipped || s.Status == Failed && s.Action.IgnoreErrors
			beside := here && i != from && over && (s.Snapshot != first.Snapshot || !s.Action.changesFiles())
			if !came && !here || beside {
				s.Carried, s.Snapshot, s.Unkept = true, "", ""
				s.Attempt, s.Held, s.Waits = 0, false, nil
				continue
			}
			given := s.Given
			*s = x.again(i)
			s.Given = given // the execution has what was given
			if s.Attempt = 0; i != from {
				s.Verdict = nil
			}
		}
		came = came || here
	}
	return x
}

// rerunIn starts a rerun in a transaction of the caller's.
func (p *Pipelines) rerunIn(tx *db.Tx, by access.Actor, id ExecutionID, from int, in RerunInput) (Execution, error) {
	old, err := loadExecution(tx, id)
	if err != nil {
		return old, err
	}
	if err := begins(old, from); err != nil {
		return old, err
	}
	x := carriedOver(old, from)
	pl, err := loadPipeline(tx, x.Pipeline)
	if err != nil {
		return x, err
	}
	if err := p.permitRerun(tx, by, pl, x, in); err != nil {
		return x, err
	}
	if pl.Disabled {
		return x, conflict("the pipeline is disabled")
	}
	start, err := p.restart(tx, pl, &x, in)
	if err != nil {
		return x, err
	}
	secrets, err := p.rerunSecrets(tx, old, &x, in)
	if err != nil {
		return x, err
	}
	start.Variables = x.Variables
	x.ID, x.Status, x.By, x.Created = ExecutionID(uuid.NewString()), Enqueued, by.User.ID, tx.Now
	x.Started, x.Finished, x.Delayed, x.Cancelled = time.Time{}, time.Time{}, time.Time{}, time.Time{}
	x.CancelledBy, x.Waits, x.Held, x.prepared, x.loop = 0, nil, false, false, looping{}
	return x, p.insertRerun(tx, &x, start, secrets)
}

// permitRerun tells whether the actor may run all that a rerun would run, and write
// commands for the action it begins with.
func (p *Pipelines) permitRerun(tx *db.Tx, by access.Actor, pl Pipeline, x Execution, in RerunInput) error {
	if x.local() {
		if err := mayRunTree(by, pl, x.own); err != nil {
			return err
		}
	}
	if by.Runs(pl.Workspace) {
		return nil
	}
	now, err := loadActions(tx, pl.ID)
	if err != nil {
		return err
	}
	var actions []Action
	for _, s := range x.Steps {
		if s.Carried {
			continue
		}
		a := asNow(s.Action, now)
		a.Disabled = s.Action.Disabled
		actions = append(actions, a)
	}
	if err := permitRun(by, pl, actions, x.Only); err != nil || in.Commands == nil {
		return err
	}
	return permitAction(by, pl, asNow(x.Steps[x.Rerun.From].Action, now), access.ExecutionManage)
}

// restart is what a rerun is started with: what the execution was started with, but
// for what is said anew.
func (p *Pipelines) restart(tx *db.Tx, pl Pipeline, x *Execution, in RerunInput) (Start, error) {
	var text []byte
	var was input
	if err := tx.QueryRow(`SELECT input FROM executions WHERE id = ?`, x.ID).Scan(&text); err != nil {
		return was.Start, err
	}
	if err := json.Unmarshal(text, &was); err != nil {
		return was.Start, fmt.Errorf("execution %s in the store: %w", x.ID, err)
	}
	start := was.Start
	x.Refresh, x.ClearCache = false, false
	start.Refresh, start.ClearCache = false, false
	var inv project.Invalid
	if in.Comment != nil {
		inv.Text("comment", *in.Comment, textMax)
		x.Comment, start.Comment = *in.Comment, *in.Comment
	}
	if in.Commands != nil {
		a := &x.Steps[x.Rerun.From].Action
		if a.Run == nil {
			inv.Add("inline_commands", "conflict", fmt.Sprintf("the action %q is a build, which has none", a.Name))
		} else {
			run := *a.Run
			run.Commands, a.Run = *in.Commands, &run
			run.validate(&inv)
		}
	}
	validateVariables(in.Variables, &inv)
	if pl.CommentRequired && strings.TrimSpace(x.Comment) == "" {
		inv.Add("comment", "required", "is required by the pipeline")
	}
	start.Delay = time.Time{}
	return start, inv.Err()
}

// rerunSecrets gives a rerun its variables, and the secret values that it has
// itself.
func (p *Pipelines) rerunSecrets(tx *db.Tx, old Execution, x *Execution, in RerunInput) (map[string]string, error) {
	secrets, err := p.unseal(tx, "executions", old.ID.row(), old.ID)
	if err != nil {
		return nil, err
	}
	vs := slices.Clone(in.Variables)
	hidden, err := hideVariables(vs, secrets)
	if err != nil {
		return nil, err
	}
	if secrets == nil {
		secrets = map[string]string{}
	}
	if old.Rerun != nil {
		x.Rerun.Keys = slices.Clone(old.Rerun.Keys)
	}
	x.Variables = slices.Clone(x.Variables)
	for _, v := range vs {
		x.Variables = slices.DeleteFunc(x.Variables, func(had Variable) bool { return had.Key == v.Key })
		x.Variables = append(x.Variables, v)
		delete(secrets, "variables."+v.Key)
		if !slices.Contains(x.Rerun.Keys, v.Key) {
			x.Rerun.Keys = append(x.Rerun.Keys, v.Key)
		}
	}
	maps.Copy(secrets, hidden)
	return secrets, nil
}

// insertRerun writes a rerun with what it takes over.
func (p *Pipelines) insertRerun(tx *db.Tx, x *Execution, start Start, secrets map[string]string) error {
	steps := x.Steps
	var actions []Action
	for _, s := range steps {
		actions = append(actions, s.Action)
	}
	x.Steps = nil
	if err := insertExecution(tx, x, start, actions); err != nil {
		return err
	}
	if _, err := tx.Exec(`UPDATE executions SET rerun = 1, previous = ?, verdict = ? WHERE id = ?`, x.Previous, x.Verdict.text(), x.ID); err != nil {
		return err
	}
	for i, s := range steps {
		from := s.ID
		s.ID = x.Steps[i].ID
		x.Steps[i] = s
		if err := saveStep(tx, s); err != nil {
			return err
		}
		if err := saveSnapshot(tx, x.ID, s); err != nil {
			return err
		}
		if !s.Carried {
			continue
		}
		if err := p.carry(tx, x, s, from); err != nil {
			return err
		}
	}
	if err := p.seal(tx, "executions", x.ID.row(), secrets, x.ID); err != nil {
		return err
	}
	return p.arrive(tx, x)
}

// carry takes over what a step has left for others: its image and its variables.
func (p *Pipelines) carry(tx *db.Tx, x *Execution, s ActionExecution, from string) error {
	if _, err := tx.Exec(`UPDATE action_executions SET carried = 1 WHERE id = ?`, s.ID); err != nil {
		return err
	}
	if s.Status == Successful && s.Digest != "" {
		var held bool
		if err := tx.QueryRow(`SELECT EXISTS (SELECT 1 FROM image_holds WHERE digest = ? AND state <> 'dropped')`, s.Digest).Scan(&held); err != nil {
			return err
		}
		if held { // else nobody needs it, or it is on its way out
			if err := image.Keep(tx, "execution/"+string(x.ID)+"/"+strconv.Itoa(s.Index), s.Digest, tx.Now.Add(keepTime)); err != nil {
				return err
			}
			if _, err := tx.Exec(`UPDATE action_executions SET kept = 1 WHERE id = ?`, s.ID); err != nil {
				return err
			}
		}
	}
	if len(s.Outputs) == 0 {
		return nil
	}
	hidden, err := p.unseal(tx, "action_outputs", outputRow(from), from)
	if err != nil {
		return err
	}
	text, err := json.Marshal(s.Outputs)
	if err != nil {
		return err
	}
	if _, err := tx.Exec(`INSERT INTO action_outputs (id, variables) VALUES (?, ?)`, s.ID, text); err != nil {
		return err
	}
	return p.seal(tx, "action_outputs", outputRow(s.ID), hidden, s.ID)
}
