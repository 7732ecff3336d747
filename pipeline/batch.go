package pipeline

import (
	"context"
	"fmt"
	"slices"

	"github.com/containerd/errdefs"

	"slipway/access"
	"slipway/crash"
	"slipway/db"
	"slipway/project"
	"slipway/source"
)

// Batch changes a project and its pipelines in one transaction. It is good while
// the function runs that it was given to, which must do nothing slow.
type Batch struct {
	p       *Pipelines
	tx      *db.Tx
	by      access.Actor
	project project.Project
}

// CreateProject makes a project, linked to an outside repository if remote is
// given, with what f makes in it if that is given: all of it, or nothing.
func (p *Pipelines) CreateProject(ctx context.Context, by access.Actor, workspace string, n project.New, remote *source.Remote, f func(*Batch) error) (made project.Project, err error) {
	err = p.db.Write(ctx, func(tx *db.Tx) error {
		if made, err = p.sources.CreateIn(tx, by, workspace, n, remote); err != nil || f == nil {
			return err
		}
		if err := by.May(made.Workspace, access.ExecutionManage); err != nil { // in the workspace: what is made in this transaction is in no actor yet
			return err
		}
		return f(&Batch{p, tx, by, made})
	})
	if err != nil {
		return project.Project{}, err
	}
	crash.At("pipeline: a project is made whole")
	return made, nil
}

// Together lets f change a project and its pipelines: all that it does becomes
// true, or nothing if it gives an error.
func (p *Pipelines) Together(ctx context.Context, by access.Actor, in project.ID, f func(*Batch) error) error {
	if _, err := p.project(ctx, by, in, access.ExecutionManage); err != nil {
		return err
	}
	err := p.db.Write(ctx, func(tx *db.Tx) error {
		pr, err := project.Load(tx, in)
		if err != nil {
			return err
		}
		return f(&Batch{p, tx, by, pr})
	})
	if err != nil {
		return err
	}
	crash.At("pipeline: changed together")
	return nil
}

// Project gives the project as it is now.
func (b *Batch) Project() project.Project { return b.project }

// ChangeProject changes the project itself.
func (b *Batch) ChangeProject(c project.Change) (err error) {
	b.project, err = project.UpdateIn(b.tx, b.by, b.project.ID, c)
	return err
}

// List lists the pipelines of the project, oldest first.
func (b *Batch) List() ([]Pipeline, error) { return loadPipelines(b.tx, b.project.ID) }

// Create makes a pipeline with actions.
func (b *Batch) Create(n Pipeline, actions ...Action) error {
	made, err := b.p.createIn(b.tx, b.by, b.project, n)
	if err != nil {
		return fmt.Errorf("create pipeline %q: %w", n.Name, err)
	}
	return b.CreateAction(made.ID, actions...)
}

// Update changes a pipeline, as Pipelines.Update does.
func (b *Batch) Update(id ID, change func(*Pipeline) error) error {
	if _, err := b.own(id); err != nil {
		return err
	}
	if _, err := b.p.updateIn(b.tx, id, change); err != nil {
		return fmt.Errorf("update pipeline %d: %w", id, err)
	}
	return nil
}

// UpdateAction changes the first action of a pipeline for which is holds, as
// Pipelines.UpdateAction does; found is false if there is none.
func (b *Batch) UpdateAction(id ID, is func(Action) bool, change func(*Action) error) (found bool, err error) {
	if err := b.ownActions(id); err != nil {
		return false, err
	}
	l, err := loadActions(b.tx, id)
	i := slices.IndexFunc(l, is)
	if err != nil || i < 0 {
		return false, err
	}
	if _, err := b.p.updateActionIn(b.tx, id, l[i].ID, change, nil); err != nil {
		return true, fmt.Errorf("update action %d: %w", l[i].ID, err)
	}
	return true, nil
}

// CreateAction adds actions at the end of a pipeline.
func (b *Batch) CreateAction(id ID, actions ...Action) error {
	if err := b.ownActions(id); err != nil || len(actions) == 0 {
		return err
	}
	for _, a := range actions {
		if _, err := b.p.createActionIn(b.tx, id, a, nil); err != nil {
			return fmt.Errorf("create action %q: %w", a.Name, err)
		}
	}
	return nil
}

// Delete removes a pipeline, as Pipelines.Delete does.
func (b *Batch) Delete(id ID) error {
	pl, err := b.own(id)
	if err != nil {
		return err
	}
	if err := deleteIn(b.tx, b.by, pl); err != nil {
		return fmt.Errorf("delete pipeline %d: %w", id, err)
	}
	return nil
}

func (b *Batch) own(id ID) (Pipeline, error) {
	pl, err := loadPipeline(b.tx, id)
	if err == nil && pl.Project != b.project.ID {
		err = fmt.Errorf("pipeline %d: %w", id, errdefs.ErrNotFound)
	}
	if err == nil {
		err = permit(b.by, pl, access.ExecutionManage)
	}
	return pl, err
}

// ownActions is own for who changes its actions.
func (b *Batch) ownActions(id ID) error {
	pl, err := b.own(id)
	if err == nil {
		err = pl.elsewhere()
	}
	return err
}
