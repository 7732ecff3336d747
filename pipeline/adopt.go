package pipeline

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"slipway/db"
	"slipway/event"
	"slipway/secret"
)

// adopted is what an execution gets of its pipeline: a definition with the rows of
// its actions.
type adopted struct {
	pipeline  Pipeline
	actions   []Action
	undefined bool     // it is to be read from a file yet; the actions are those of the last one
	own       bool     // it was read from a file
	notes     []string // about that file
	// hidden are its secret values by the names that they have in the seal of the
	// execution: the next one may be of another file.
	hidden map[string]string
}

// adopt makes the actions of a pipeline those of a definition that was read from a
// file, and its variables and permissions if it says so; if the file does not hold
// for the pipeline, the execution alone has these variables, and permissions stay as
// they are. What is wrong is a *project.Invalid.
func (p *Pipelines) adopt(tx *db.Tx, pl Pipeline, d *defined) (a adopted, err error) {
	a = d.adopted(pl)
	if d.holds || d.Pipeline.VariablesByYAML || d.Pipeline.PermissionsByYAML {
		if err := p.adoptRow(tx, pl, &a, d); err != nil {
			return a, d.from.wrong("", err)
		}
	}
	if !d.holds {
		a.pipeline.starts(pl.onBranch(d))
		a.notes = append(a.notes, a.pipeline.shareNoMore(pl)...)
	}
	have, gone, err := loadAllActions(tx, pl.ID)
	if err != nil {
		return a, err
	}
	var narrow *Permissions
	if !d.holds {
		narrow = narrowest(have)
	}
	var order []ActionID
	for i, n := range d.Actions {
		now, hidden, err := p.adoptAction(tx, pl, n, &have, gone, d.holds, narrow)
		if err != nil {
			return a, d.from.wrong(fmt.Sprintf("actions.%d (%s): ", i, n.Name), err)
		}
		a.add(now, hidden)
		order = append(order, now.ID)
	}
	for _, old := range have {
		if !gone[old.ID] {
			if _, err := tx.Exec(`UPDATE actions SET gone = 1 WHERE id = ?`, old.ID); err != nil {
				return a, err
			}
		}
	}
	if err := dropGone(tx, pl, maxGone); err != nil {
		return a, err
	}
	return a, inOrder(tx, pl.ID, order)
}

// adopted is what an execution gets of a definition for a pipeline, without its
// actions.
func (d *defined) adopted(pl Pipeline) adopted {
	a := adopted{pipeline: d.Pipeline, own: true, notes: d.notes, hidden: map[string]string{}}
	a.pipeline.Project, a.pipeline.Workspace = pl.Project, pl.Workspace
	if !d.Pipeline.VariablesByYAML {
		a.pipeline.Variables = pl.Variables
	}
	return a
}

// add adds an action with its hidden values.
func (a *adopted) add(n Action, hidden map[string]string) {
	for k, v := range hidden {
		a.hidden[n.ID.row()+"/"+k] = v
	}
	a.actions = append(a.actions, n)
}

// takeFrom takes the action of the store that one of a file is out of those that
// are left, if there is one: rather one that the last file had, too.
func (n Action) takeFrom(have *[]Action, gone map[ActionID]bool) (old Action, ok bool) {
	i := slices.IndexFunc(*have, func(old Action) bool { return n.isOne(old) && !gone[old.ID] })
	if i < 0 {
		i = slices.IndexFunc(*have, n.isOne)
	}
	if i < 0 {
		return old, false
	}
	old = (*have)[i]
	*have = slices.Delete(*have, i, i+1)
	return old, true
}

// maxGone is how many actions a pipeline keeps the rows of, and so their ids, that
// its file has no more: another file may.
const maxGone = 100

// dropGone removes actions that the file has no more, with their secrets: all but the
// newest, and but those of executions that are not at their end; with keep 0 really
// all.
func dropGone(tx *db.Tx, pl Pipeline, keep int) error {
	l, err := db.Column[ActionID](tx, `SELECT a.id FROM actions a WHERE a.pipeline = ?1 AND a.gone = 1 AND (?2 = 0
		OR a.id NOT IN (SELECT n.id FROM actions n WHERE n.pipeline = ?1 AND n.gone = 1 ORDER BY n.id DESC LIMIT ?2)
		AND NOT EXISTS (SELECT 1 FROM action_executions s JOIN executions e ON e.id = s.execution
			WHERE s.action = a.id AND e.status IN ('ENQUEUED', 'INPROGRESS', 'TERMINATING')))`, pl.ID, keep)
	if err != nil {
		return err
	}
	for _, id := range l {
		if err := deleteAction(tx, pl, id); err != nil {
			return err
		}
	}
	return nil
}

// deleteAction removes an action of the pipeline with its secrets.
func deleteAction(tx *db.Tx, pl Pipeline, id ActionID) error {
	n, err := tx.Exec(`DELETE FROM actions WHERE id = ? AND pipeline = ?`, id, pl.ID)
	if err == nil && n == 0 {
		err = fmt.Errorf("action %d of pipeline %d: %w", id, pl.ID, errdefs.ErrNotFound)
	}
	if err != nil {
		return err
	}
	return secret.Drop(tx, secret.Scope{Workspace: pl.Workspace, Action: int64(id)})
}

// adoptRow gives the pipeline in the store what the file is to manage of it, if the
// file holds for it.
func (p *Pipelines) adoptRow(tx *db.Tx, pl Pipeline, a *adopted, d *defined) error {
	row := pl
	if d.fresh(pl) {
		row = pl.said(d)
	}
	if a.pipeline.PermissionsByYAML {
		row.Permissions = a.pipeline.Permissions
	}
	had, err := p.unseal(tx, "pipelines", pl.ID.row(), int64(pl.ID))
	if err != nil {
		return err
	}
	all := had
	if a.pipeline.VariablesByYAML {
		row.Variables = fromFile(a.pipeline.Variables, pl.Variables)
		hidden, err := hideVariables(row.Variables, had)
		if err != nil {
			return err
		}
		all = overlaid(had, hidden)
		a.pipeline.Variables = slices.Clone(row.Variables)
		for k, v := range hidden {
			a.hidden[pl.ID.row()+"/"+k] = v
		}
	}
	if !d.holds {
		a.pipeline.Permissions = pl.Permissions
		return nil
	}
	a.pipeline.starts(row)
	if err := p.replace(tx, pl, row); err != nil || maps.Equal(all, had) {
		return err
	}
	return p.seal(tx, "pipelines", pl.ID.row(), all, int64(pl.ID))
}

// overlaid puts hidden values of a row together, later ones in the place of earlier
// ones: what one file does not name another one may. A password stays with the place
// that it is for.
func overlaid(earlier, later map[string]string) map[string]string {
	all := map[string]string{}
	maps.Copy(all, earlier)
	if _, ok := later["password"]; ok {
		delete(all, "password for")
	}
	maps.Copy(all, later)
	return all
}

// adoptAction finds the row of an action by name and kind, or makes one, and gives
// it what the file says. It is taken out of have. Permissions of one that is there,
// and its hidden values, stay if the file does not hold for the pipeline; hidden are
// those of the file. Permissions of a new one are then narrow and what the file says:
// it may be one of the others under another name.
func (p *Pipelines) adoptAction(tx *db.Tx, pl Pipeline, n Action, have *[]Action, gone map[ActionID]bool, holds bool, narrow *Permissions) (now Action, hidden map[string]string, err error) {
	old, ok := n.takeFrom(have, gone)
	if !ok {
		n.Variables = fromFile(n.Variables, nil)
		if !holds {
			n.Permissions = both(n.Permissions, narrow)
		}
		if now, err = p.createActionIn(tx, pl.ID, n, nil); err == nil {
			err = p.fileMayName(tx, pl, Registry{}, *now.registry())
		}
		if err == nil {
			hidden, err = p.unseal(tx, "actions", now.ID.row(), int64(now.ID))
		}
		return now, hidden, err
	}
	named := *old.registry()
	if gone[old.ID] {
		named = Registry{} // it may be of a working tree, or of a file of long ago
		if _, err := tx.Exec(`UPDATE actions SET gone = 0 WHERE id = ?`, old.ID); err != nil {
			return now, nil, err
		}
	}
	had, err := p.unseal(tx, "actions", old.ID.row(), int64(old.ID))
	if err != nil {
		return now, nil, err
	}
	now, err = p.updateActionIn(tx, pl.ID, old.ID, func(a *Action) error {
		n.Variables = fromFile(n.Variables, a.Variables)
		n.Attrs = withOthers(p.cfg.Language.Dialect, n.Attrs, a.Attrs)
		if !holds {
			n.Permissions = a.Permissions
			if gone[old.ID] { // it may be older than what narrows the others
				n.Permissions = both(a.Permissions, narrow)
			}
		}
		*a = n
		return nil
	}, nil)
	if err == nil {
		err = p.fileMayName(tx, pl, named, *now.registry())
	}
	if err != nil {
		return now, nil, err
	}
	if hidden, err = p.unseal(tx, "actions", old.ID.row(), int64(old.ID)); err != nil {
		return now, nil, err
	}
	all := overlaid(had, hidden)
	if !holds {
		all = overlaid(hidden, had)
	}
	return now, hidden, p.seal(tx, "actions", old.ID.row(), all, int64(old.ID))
}

// fromFile gives the variables of a file, settable ones with the value that runs
// gave them since the file last said another one.
func fromFile(file, had []Variable) []Variable {
	file = slices.Clone(file)
	for i := range file {
		v := &file[i]
		if !v.Settable || v.Encrypted || !v.isVar() {
			continue
		}
		v.First = v.Value
		if n := slices.IndexFunc(had, func(h Variable) bool { return h.Key == v.Key && h.Settable && h.isVar() && h.First == v.Value }); n >= 0 {
			v.Value, v.Encrypted = had[n].Value, had[n].Encrypted
		}
	}
	return file
}

// inOrder puts the actions of a pipeline into an order, unless they are in it.
func inOrder(tx *db.Tx, pl ID, order []ActionID) error {
	now, err := loadActions(tx, pl)
	if err != nil || slices.EqualFunc(now, order, func(a Action, id ActionID) bool { return a.ID == id }) {
		return err
	}
	for i, id := range order {
		if _, err := tx.Exec(`UPDATE actions SET position = ? WHERE id = ?`, i+1, id); err != nil {
			return err
		}
	}
	return nil
}

// define has the definition of the execution read from its file, unless that is
// being done.
func (c *crew) define(ctx context.Context, wanted bool) {
	if !wanted || c.ends[judging] != nil {
		return
	}
	one := c.h.copy(false)
	c.run(ctx, judging, func(ctx context.Context) settled {
		d, err := one.p.defineWithin(ctx, ownPatience, one.x.Frozen, run{commit: one.x.Commit, pull: one.x.PullRequest, by: one.x.By, fork: one.x.untrusted()})
		if err != nil {
			d = &defined{err: err}
		}
		return settled{defined: d}
	})
}

// definedNow gives an execution the definition that was read for it; it fails if
// there is none, or if the pipeline is not defined by a file any more.
func (h *handling) definedNow(tx *db.Tx, x *Execution, d *defined) (ended bool, err error) {
	if d.err != nil {
		return true, h.p.problem(tx, x, h.masked(d.err.Error()))
	}
	pl, err := loadPipeline(tx, x.Pipeline)
	if err != nil {
		return false, err
	}
	if !pl.outside() { // its actions are made by hand by now
		return true, h.p.problem(tx, x, "the definition is not in a file any more: start it anew")
	}
	var a adopted
	if x.untrusted() { // what strangers wrote changes nothing of the pipeline
		a, err = h.p.lend(tx, x.By, pl, d)
		a.pipeline = a.pipeline.ofTree()
	} else {
		a, err = h.p.adopt(tx, pl, d)
	}
	if err != nil {
		return false, err
	}
	if a.pipeline.Disabled && slices.Contains(d.Says, "disabled") {
		x.Status, x.Finished = Skipped, tx.Now
		return true, h.p.skip(tx, x.ID, strings.TrimSuffix("the pipeline is disabled by "+d.from.name+": "+a.pipeline.Reason, ": "))
	}
	x.Frozen, x.Notes, x.undefined, x.own = a.pipeline, a.notes, false, true
	x.Priority = cmp.Or(x.Frozen.Priority, Normal) // nobody asked for another one
	secrets, err := h.p.unseal(tx, "executions", x.ID.row(), x.ID)
	if err != nil {
		return false, err
	}
	if secrets == nil {
		secrets = map[string]string{}
	}
	maps.Copy(secrets, a.hidden)
	if err := h.p.loopNow(tx, x, a, secrets); err != nil {
		return false, err
	}
	if err := h.p.seal(tx, "executions", x.ID.row(), secrets, x.ID); err != nil {
		return false, err
	}
	return false, x.setSteps(tx, a.actions)
}

// loopNow makes an execution the first round of the loop that its file says, if it
// says one, and starts those of the others. secrets get the values of the round
// that are hidden.
func (p *Pipelines) loopNow(tx *db.Tx, x *Execution, a adopted, secrets map[string]string) error {
	if len(a.pipeline.Loop) == 0 {
		return nil
	}
	var text []byte
	if err := tx.QueryRow(`SELECT input FROM executions WHERE id = ?`, x.ID).Scan(&text); err != nil {
		return err
	}
	var in input
	if err := json.Unmarshal(text, &in); err != nil {
		return err
	}
	rounds, refused, err := p.startRounds(tx, a, in.Start)
	if err != nil {
		return err
	}
	for i, variables := range rounds {
		next := in.Start
		if next.Variables = slices.Clone(variables); i > 0 {
			if _, err := p.startOne(tx, x.By, a, next, x.Commit, x.From, looping{x.ID, refused}); err != nil {
				return err
			}
			continue
		}
		hidden, err := hideVariables(next.Variables, secrets)
		if err != nil {
			return err
		}
		maps.Copy(secrets, hidden)
		x.Variables, x.loop = next.Variables, looping{Refused: refused}
		first := in
		first.Start, first.Loop = next, x.loop
		if text, err = json.Marshal(first); err != nil {
			return err
		}
		if _, err := tx.Exec(`UPDATE executions SET input = ? WHERE id = ?`, text, x.ID); err != nil {
			return err
		}
	}
	return nil
}

// setSteps replaces the actions of an execution that has not begun.
func (x *Execution) setSteps(tx *db.Tx, actions []Action) error {
	known := map[ActionID]string{}
	for _, s := range x.Steps {
		known[s.Action.ID] = s.ID
	}
	if _, err := tx.Exec(`DELETE FROM action_executions WHERE execution = ?`, x.ID); err != nil {
		return err
	}
	text, err := x.frozenText(actions)
	if err != nil {
		return err
	}
	if _, err := tx.Exec(`UPDATE executions SET frozen = ?, no_skip = ?, concurrent = ?, priority = ?, undefined = 0 WHERE id = ?`,
		text, x.Frozen.NoSkip, x.Frozen.Concurrent, x.Priority, x.ID); err != nil {
		return err
	}
	x.Steps = nil
	for i, a := range actions {
		id := known[a.ID]
		if id == "" {
			id = newStepID()
		}
		if err := x.addStep(tx, ActionExecution{ID: id, Index: i, Action: a, Status: Initial}); err != nil {
			return err
		}
	}
	tx.Wake(Topic(x.ID))
	return nil
}

// problem ends an execution whose actions cannot be told. The first action that the
// last file had says why, too.
func (p *Pipelines) problem(tx *db.Tx, x *Execution, why string) error {
	x.Status, x.Finished, x.Problem = Failed, tx.Now, why
	if _, err := tx.Exec(`UPDATE executions SET status = 'FAILED', finished = ?, problem = ?, waiting = 0, due_at = NULL WHERE id = ?`,
		db.Micros(tx.Now), why, x.ID); err != nil {
		return err
	}
	for i := range x.Steps {
		s := &x.Steps[i]
		if s.Status = NotExecuted; i == 0 {
			s.Status, s.Error, s.Code, s.Finished = Failed, why, -1, tx.Now
		}
		if err := saveStep(tx, *s); err != nil {
			return err
		}
	}
	if err := dropSecrets(tx, x.Workspace, x.Pipeline); err != nil {
		return err
	}
	return tell(tx, event.ExecutionFinished, *x)
}
