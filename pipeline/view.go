package pipeline

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"

	"slipway/access"
	"slipway/db"
	"slipway/logs"
	"slipway/source"
)

// Execution gives an execution with those of its actions that the actor sees.
func (p *Pipelines) Execution(ctx context.Context, by access.Actor, id ExecutionID) (Execution, error) {
	var x Execution
	var err error
	err = p.db.Read(ctx, func(tx *db.Tx) error { x, err = loadExecution(tx, id); return err })
	if err != nil {
		return Execution{}, err
	}
	_, err = p.project(ctx, by, x.Project, access.ExecutionInfo)
	if err == nil {
		err = p.db.Read(ctx, func(tx *db.Tx) error { return show(tx, by, &x, access.ExecutionInfo) })
	}
	if errdefs.IsNotFound(err) {
		err = fmt.Errorf("execution %s: %w", id, errdefs.ErrNotFound)
	}
	if err != nil {
		return Execution{}, err
	}
	return x, nil
}

// Numbered gives an execution by its number in the pipeline.
func (p *Pipelines) Numbered(ctx context.Context, by access.Actor, id ID, number int64) (Execution, error) {
	if _, err := p.Get(ctx, by, id); err != nil {
		return Execution{}, err
	}
	var x Execution
	err := p.db.Read(ctx, func(tx *db.Tx) error {
		var xid ExecutionID
		err := tx.QueryRow(`SELECT id FROM executions WHERE pipeline = ? AND number = ?`, id, number).Scan(&xid)
		if err != nil {
			return db.NotFound(err, "execution %d of pipeline %d", number, id)
		}
		if x, err = loadExecution(tx, xid); err != nil {
			return err
		}
		return show(tx, by, &x, access.ExecutionInfo)
	})
	return x, err
}

// Executions lists executions of a pipeline, newest first and without their
// actions, and tells how many there are in all.
func (p *Pipelines) Executions(ctx context.Context, by access.Actor, id ID, offset, limit int) (l []Execution, total int, err error) {
	if _, err := p.Get(ctx, by, id); err != nil {
		return nil, 0, err
	}
	err = p.db.Read(ctx, func(tx *db.Tx) error {
		if err := tx.QueryRow(`SELECT COUNT(*) FROM executions WHERE pipeline = ?`, id).Scan(&total); err != nil {
			return err
		}
		rows, err := tx.Query(`SELECT `+executionColumns+` FROM executions e WHERE e.pipeline = ?
			ORDER BY e.number DESC LIMIT ? OFFSET ?`, id, limit, offset)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			x, err := scanExecution(rows)
			if err != nil {
				return err
			}
			x.Steps = nil
			l = append(l, x)
		}
		return rows.Err()
	})
	return l, total, err
}

// Log reads the log of one action of an execution.
func (p *Pipelines) Log(ctx context.Context, by access.Actor, id ExecutionID, step string, q logs.Query) (lines []logs.Line, total int64, err error) {
	if _, err := p.step(ctx, by, id, step); err != nil {
		return nil, 0, err
	}
	return p.logs.Read(ctx, p.logs.Action(string(id), step), q)
}

// Follow calls f with the lines of an action's log from offset on as they
// come, until the action has ended and all is read.
func (p *Pipelines) Follow(ctx context.Context, by access.Actor, id ExecutionID, step string, offset int64, f func([]logs.Line) error) error {
	if _, err := p.step(ctx, by, id, step); err != nil {
		return err
	}
	changed, stop := p.db.Watch(Topic(id))
	defer stop()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	ended := make(chan struct{})
	go func() {
		for {
			s, err := p.step(ctx, by, id, step)
			if err != nil || s.Status.Ended() {
				close(ended)
				return
			}
			select {
			case <-changed:
			case <-ctx.Done():
			}
		}
	}()
	return p.logs.Follow(ctx, p.logs.Action(string(id), step), offset, ended, f)
}

func (p *Pipelines) step(ctx context.Context, by access.Actor, id ExecutionID, step string) (ActionExecution, error) {
	x, err := p.Execution(ctx, by, id)
	if err != nil {
		return ActionExecution{}, err
	}
	for _, s := range x.Steps {
		if s.ID == step {
			return s, nil
		}
	}
	return ActionExecution{}, fmt.Errorf("action %s of execution %s: %w", step, id, errdefs.ErrNotFound)
}

// Wait returns when the execution has ended, or with the context's cause.
func (p *Pipelines) Wait(ctx context.Context, by access.Actor, id ExecutionID) (Execution, error) {
	changed, stop := p.db.Watch(Topic(id))
	defer stop()
	for {
		x, err := p.Execution(ctx, by, id)
		if err != nil || x.Status.Ended() {
			return x, err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return x, context.Cause(ctx)
		}
	}
}

func toCommitRow(c *source.Commit) *commitRow {
	if c == nil {
		return nil
	}
	return &commitRow{
		c.Revision, c.Subject, c.Message, c.Author.Name, c.Author.Email, c.Committer.Name, c.Committer.Email,
		c.AuthorDate, c.CommitDate,
	}
}

func (c *commitRow) commit() *source.Commit {
	if c == nil {
		return nil
	}
	return &source.Commit{
		Revision: c.Revision, Subject: c.Subject, Message: c.Message,
		Author: source.Person{Name: c.Author, Email: c.AuthorEmail}, Committer: source.Person{Name: c.Committer, Email: c.CommitterEmail},
		AuthorDate: c.AuthorDate, CommitDate: c.CommitDate,
	}
}
