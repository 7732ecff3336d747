package pipeline

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"

	"slipway/access"
	"slipway/db"
	"slipway/logs"
)

// StreamLog calls f with the lines of the log of an action execution, found
// by its id alone. They are good until f returns.
func (p *Pipelines) StreamLog(ctx context.Context, by access.Actor, step string, f func([]logs.Line) error) error {
	x, err := p.executionOf(ctx, step)
	if err != nil {
		return err
	}
	if _, err := p.step(ctx, by, x, step); err != nil {
		return unknownStep(err, step)
	}
	return p.logs.Stream(ctx, p.logs.Action(string(x), step), logs.Query{}, f)
}

// unknownStep is an error about a step that was asked for by its id: whose
// execution is not seen does not hear of that one either.
func unknownStep(err error, step string) error {
	if errdefs.IsNotFound(err) {
		return fmt.Errorf("action execution %s: %w", step, errdefs.ErrNotFound)
	}
	return err
}

// executionOf is the execution that a step is of; those of a deleted pipeline are not
// found.
func (p *Pipelines) executionOf(ctx context.Context, step string) (x ExecutionID, err error) {
	err = p.db.Read(ctx, func(tx *db.Tx) error {
		return db.NotFound(tx.QueryRow(`SELECT s.execution FROM action_executions s JOIN executions e ON e.id = s.execution
			JOIN pipelines p ON p.id = e.pipeline WHERE s.id = ? AND p.deleted IS NULL`, step).Scan(&x), "action execution %s", step)
	})
	return x, err
}
