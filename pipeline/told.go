package pipeline

import (
	"context"
	"slices"

	"github.com/containerd/errdefs"

	"slipway/access"
	"slipway/db"
	"slipway/event"
)

// MayHear tells whether the actor may be told of an event: of an execution of a
// pipeline that is hidden from it, it is not.
func (p *Pipelines) MayHear(ctx context.Context, by access.Actor, e event.Event) (bool, error) {
	if by.Runs(e.Workspace) || !slices.Contains([]event.Kind{event.ExecutionStarted, event.ExecutionFinished}, e.Kind) {
		return true, nil
	}
	err := p.db.Read(ctx, func(tx *db.Tx) error {
		x, err := scanExecution(tx.QueryRow(`SELECT `+executionColumns+` FROM executions e WHERE e.id = ?`, e.Subject))
		if err != nil {
			return db.NotFound(err, "execution %s", e.Subject)
		}
		x.Steps = nil
		return show(tx, by, &x, access.ExecutionInfo)
	})
	if errdefs.IsNotFound(err) || errdefs.IsPermissionDenied(err) {
		return false, nil
	}
	return err == nil, err
}
