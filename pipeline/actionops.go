package pipeline

import (
	"context"
	"fmt"
	"slices"

	"slipway/access"
	"slipway/db"
	"slipway/project"
)

// CreateAction adds an action behind the one that after names: nil is the end,
// 0 the beginning.
func (p *Pipelines) CreateAction(ctx context.Context, by access.Actor, id ID, a Action, after *ActionID) (Action, error) {
	pl, err := p.get(ctx, by, id, access.ExecutionManage)
	if err != nil {
		return Action{}, err
	}
	if err := pl.elsewhere(); err != nil {
		return Action{}, err
	}
	var made Action
	err = p.db.Write(ctx, func(tx *db.Tx) (err error) {
		if made, err = p.createActionIn(tx, id, a, after); err != nil {
			return err
		}
		return p.mayName(tx, by, pl.Workspace, Registry{}, *made.registry())
	})
	if err != nil {
		return Action{}, fmt.Errorf("create action %q: %w", a.Name, err)
	}
	return made, nil
}

func (p *Pipelines) createActionIn(tx *db.Tx, id ID, a Action, after *ActionID) (Action, error) {
	if _, err := loadPipeline(tx, id); err != nil {
		return Action{}, err
	}
	var inv project.Invalid
	a.Validate(&inv)
	if err := inv.Err(); err != nil {
		return Action{}, err
	}
	a.Pipeline, a.LastStatus, a.LastRevision = id, Initial, ""
	secrets, err := hideAction(&a, nil)
	if err != nil {
		return Action{}, err
	}
	spec, err := actionSpec(a)
	if err != nil {
		return Action{}, err
	}
	n, err := tx.Insert(`INSERT INTO actions (pipeline, position, spec)
		VALUES (?, (SELECT COALESCE(MAX(position), 0) + 1 FROM actions WHERE pipeline = ?), ?)`, id, id, spec)
	if err != nil {
		return Action{}, err
	}
	a.ID = ActionID(n)
	if err := p.seal(tx, "actions", a.ID.row(), secrets, n); err != nil {
		return Action{}, err
	}
	return a, place(tx, id, a.ID, after)
}

// mayName tells whether the actor may have an action name its integration: one
// that it did not name before must not be denied to the actor.
func (p *Pipelines) mayName(tx *db.Tx, by access.Actor, workspace string, old, now Registry) error {
	if now.Integration == nil || old.Integration != nil && *old.Integration == *now.Integration {
		return nil
	}
	return p.secrets.MayUseIntegration(tx, by, workspace, now.Integration.name())
}

// fileMayName is mayName for an action that a file defines, whoever runs it.
func (p *Pipelines) fileMayName(tx *db.Tx, pl Pipeline, old, now Registry) error {
	if now.Integration == nil || old.Integration != nil && *old.Integration == *now.Integration {
		return nil
	}
	return p.secrets.FileMayUse(tx, pl.Workspace, now.Integration.name(), int64(pl.ID))
}

// Actions lists the actions of a pipeline that the actor sees, in the order in
// which they run.
func (p *Pipelines) Actions(ctx context.Context, by access.Actor, id ID) ([]Action, error) {
	pl, err := p.Get(ctx, by, id)
	if err != nil {
		return nil, err
	}
	var l []Action
	err = p.db.Read(ctx, func(tx *db.Tx) error { l, err = loadActions(tx, id); return err })
	return slices.DeleteFunc(l, func(a Action) bool { return permitAction(by, pl, a, access.ExecutionInfo) != nil }), err
}

// Action gives one action.
func (p *Pipelines) Action(ctx context.Context, by access.Actor, id ID, action ActionID) (Action, error) {
	pl, err := p.Get(ctx, by, id)
	if err != nil {
		return Action{}, err
	}
	var a Action
	err = p.db.Read(ctx, func(tx *db.Tx) error { a, err = loadAction(tx, id, action); return err })
	if err == nil {
		err = permitAction(by, pl, a, access.ExecutionInfo)
	}
	if err != nil {
		return Action{}, err
	}
	return a, nil
}

// UpdateAction changes an action by change, as Update does; its kind stays. A
// given after moves it.
func (p *Pipelines) UpdateAction(ctx context.Context, by access.Actor, id ID, action ActionID, change func(*Action) error, after *ActionID) (Action, error) {
	pl, err := p.get(ctx, by, id, access.ExecutionManage)
	if err != nil {
		return Action{}, err
	}
	if err := pl.elsewhere(); err != nil {
		return Action{}, err
	}
	var n Action
	err = p.db.Write(ctx, func(tx *db.Tx) error {
		if err := mayChange(tx, by, pl, action); err != nil {
			return err
		}
		old, err := loadAction(tx, id, action)
		if err != nil {
			return err
		}
		if n, err = p.updateActionIn(tx, id, action, change, after); err != nil {
			return err
		}
		return p.mayName(tx, by, pl.Workspace, *old.registry(), *n.registry())
	})
	if err != nil {
		return Action{}, fmt.Errorf("update action %d: %w", action, err)
	}
	return n, nil
}

// mayChange tells whether the actor may change an action by its permissions.
func mayChange(tx *db.Tx, by access.Actor, pl Pipeline, action ActionID) error {
	a, err := loadAction(tx, pl.ID, action)
	if err != nil {
		return err
	}
	return permitAction(by, pl, a, access.ExecutionManage)
}

func (p *Pipelines) updateActionIn(tx *db.Tx, id ID, action ActionID, change func(*Action) error, after *ActionID) (Action, error) {
	old, err := loadAction(tx, id, action)
	if err != nil {
		return Action{}, err
	}
	n, err := loadAction(tx, id, action) // a copy that shares nothing with old
	if err != nil {
		return Action{}, err
	}
	if err := change(&n); err != nil {
		return Action{}, err
	}
	n.ID, n.Pipeline, n.LastStatus, n.LastRevision = old.ID, old.Pipeline, old.LastStatus, old.LastRevision
	var inv project.Invalid
	if (n.Build == nil) != (old.Build == nil) || n.Build != nil && n.Build.Multi != old.Build.Multi {
		inv.Add("type", "conflict", "cannot be changed")
	}
	n.Validate(&inv)
	if err := inv.Err(); err != nil {
		return Action{}, err
	}
	had, err := p.unseal(tx, "actions", action.row(), int64(action))
	if err != nil {
		return Action{}, err
	}
	secrets, err := hideAction(&n, had)
	if err != nil {
		return Action{}, err
	}
	spec, err := actionSpec(n)
	if err != nil {
		return Action{}, err
	}
	if _, err := tx.Exec(`UPDATE actions SET spec = ? WHERE id = ?`, spec, action); err != nil {
		return Action{}, err
	}
	if err := p.seal(tx, "actions", action.row(), secrets, int64(action)); err != nil {
		return Action{}, err
	}
	return n, place(tx, id, action, after)
}

// DeleteAction removes an action with its secrets; executions that were started
// with it keep their copy of the rest.
func (p *Pipelines) DeleteAction(ctx context.Context, by access.Actor, id ID, action ActionID) error {
	pl, err := p.get(ctx, by, id, access.ExecutionManage)
	if err != nil {
		return err
	}
	if err := pl.elsewhere(); err != nil {
		return err
	}
	err = p.db.Write(ctx, func(tx *db.Tx) error {
		if err := mayChange(tx, by, pl, action); err != nil {
			return err
		}
		return deleteAction(tx, pl, action)
	})
	if err != nil {
		return fmt.Errorf("delete action %d: %w", action, err)
	}
	return nil
}

// place moves an action behind another one.
func place(tx *db.Tx, pl ID, a ActionID, after *ActionID) error {
	if after == nil || *after == a {
		return nil
	}
	l, err := db.Column[ActionID](tx, `SELECT id FROM actions WHERE pipeline = ? AND id <> ? ORDER BY position, id`, pl, a)
	if err != nil {
		return err
	}
	at := 0
	if *after != 0 {
		if at = slices.Index(l, *after) + 1; at == 0 {
			var inv project.Invalid
			inv.Add("after_action_id", "unknown", fmt.Sprintf("there is no action %d in this pipeline", *after))
			return inv.Err()
		}
	}
	for i, id := range slices.Insert(l, at, a) {
		if _, err := tx.Exec(`UPDATE actions SET position = ? WHERE id = ?`, i+1, id); err != nil {
			return err
		}
	}
	return nil
}
