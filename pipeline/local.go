package pipeline

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/containerd/errdefs"

	"slipway/access"
	"slipway/db"
	"slipway/project"
	"slipway/source"
)

// A run of somebody's working tree, which was pushed to source for it, is one that
// nothing is built on: it has the files of the pipeline as a copy, which goes with
// it; its images have a tag of the user's and go nowhere; settable variables keep
// their values; and no condition, change, status of the pipeline or later run looks
// at how it went.

// unstarted is how long a working tree is kept that no run is of.
const unstarted = 24 * time.Hour

// mayRunTree tells whether the actor, who may run a pipeline, may run it of a
// working tree: so only who may push, and with a definition in the tree only who
// may change the pipeline.
func mayRunTree(by access.Actor, pl Pipeline, defined bool) error {
	err := by.MayIn(pl.Workspace, string(pl.Project), access.RepositoryWrite)
	if err == nil && defined {
		err = by.MayIn(pl.Workspace, string(pl.Project), access.ExecutionManage)
	}
	if err == nil && defined {
		err = permit(by, pl, access.ExecutionManage)
	}
	return err
}

// workingTree finds the commit of a start with ByLocal. inv has what is wrong
// besides.
func (p *Pipelines) workingTree(ctx context.Context, pr project.ID, hash string, inv project.Invalid) (*source.Commit, error) {
	c, err := p.sources.Local(ctx, pr, hash)
	if errdefs.IsNotFound(err) {
		inv.Add("commit", "unknown", err.Error())
		err = nil
	}
	return c, errors.Join(err, inv.Err())
}

// localNote opens the log of a run of a working tree.
const localNote = "a working tree is run: files, images and variables that it makes or changes are its own"

// ofTree makes a pipeline that of a run of a working tree: it has files of its own,
// as the runs of a concurrent pipeline have, and keeps them.
func (p Pipeline) ofTree() Pipeline {
	p.Concurrent = true
	return p
}

// lend gives a run alone a definition that a file of a working tree has. The
// pipeline and its actions stay as they are; an action that it has not gets an id
// as one that no file has any more.
func (p *Pipelines) lend(tx *db.Tx, user int64, pl Pipeline, d *defined) (a adopted, err error) {
	a = d.adopted(pl)
	a.pipeline.Permissions = pl.Permissions
	if d.Pipeline.VariablesByYAML {
		if err := p.adoptRow(tx, pl, &a, d); err != nil {
			return a, d.from.wrong("", err)
		}
	}
	by, err := access.As(tx, user)
	if err != nil {
		return a, err
	}
	have, gone, err := loadAllActions(tx, pl.ID)
	if err != nil {
		return a, err
	}
	narrow := narrowest(have)
	for i, n := range d.Actions {
		if d.fork && !slices.ContainsFunc(have, n.isOne) {
			n.Permissions = both(n.Permissions, narrow)
		}
		now, hidden, err := p.lendAction(tx, by, pl, n, &have, gone, d.fork)
		if err != nil {
			return a, d.from.wrong(fmt.Sprintf("actions.%d (%s): ", i, n.Name), err)
		}
		a.add(now, hidden)
	}
	if d.fork { // strangers cannot make so many that those of others go
		return a, nil
	}
	return a, dropGone(tx, pl, maxGone)
}

// lendAction is adoptAction for lend. What runs without anything hidden need not be
// of who may change the action.
func (p *Pipelines) lendAction(tx *db.Tx, by access.Actor, pl Pipeline, n Action, have *[]Action, gone map[ActionID]bool, open bool) (now Action, hidden map[string]string, err error) {
	mayName := func(old, now Registry) error {
		if open { // who starts it has not written it
			return p.fileMayName(tx, pl, old, now)
		}
		return p.mayName(tx, by, pl.Workspace, old, now)
	}
	old, ok := n.takeFrom(have, gone)
	if !ok {
		n.Variables = fromFile(n.Variables, nil)
		if now, err = p.createActionIn(tx, pl.ID, n, nil); err != nil {
			return now, nil, err
		}
		if _, err = tx.Exec(`UPDATE actions SET gone = 1 WHERE id = ?`, now.ID); err != nil {
			return now, nil, err
		}
		if err = mayName(Registry{}, *now.registry()); err == nil {
			hidden, err = p.unseal(tx, "actions", now.ID.row(), int64(now.ID))
		}
		return now, hidden, err
	}
	if err := permitAction(by, pl, old, access.ExecutionManage); err != nil && !open {
		return now, nil, err
	}
	had, err := p.unseal(tx, "actions", old.ID.row(), int64(old.ID))
	if err != nil {
		return now, nil, err
	}
	n.ID, n.Pipeline, n.Permissions = old.ID, pl.ID, old.Permissions
	n.Variables = fromFile(n.Variables, old.Variables)
	var inv project.Invalid
	if n.Validate(&inv); len(inv.Fields) > 0 {
		return now, nil, inv.Err()
	}
	if hidden, err = hideAction(&n, had); err == nil {
		err = mayName(*old.registry(), *n.registry())
	}
	return n, hidden, err
}

// SweepLocal removes working trees of which no run needs anything any more: those
// of ended runs when what these made is not kept any more either, and those that
// nobody started.
func (p *Pipelines) SweepLocal(ctx context.Context) error {
	trees, err := p.sources.LocalTrees()
	if err != nil {
		return fmt.Errorf("sweep working trees: %w", err)
	}
	for _, t := range trees {
		var wanted bool
		err := p.db.Read(ctx, func(tx *db.Tx) error {
			since := tx.Now.Add(-keepTime)
			return tx.QueryRow(`SELECT EXISTS (SELECT 1 FROM executions e JOIN pipelines p ON p.id = e.pipeline
				WHERE p.project = ? AND e.mode = 'LOCAL' AND e.revision = ? AND (e.finished IS NULL OR e.finished > ?))`,
				t.Project, t.Commit, db.Micros(since)).Scan(&wanted)
		})
		if err != nil {
			return fmt.Errorf("sweep working trees: %w", err)
		}
		if wanted || time.Since(t.At) < unstarted {
			continue
		}
		if err := p.sources.RemoveLocal(t); err != nil {
			return fmt.Errorf("sweep working trees: %w", err)
		}
	}
	return nil
}
