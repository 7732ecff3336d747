package pipeline

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"

	"slipway/access"
	"slipway/db"
	"slipway/project"
	"slipway/secret"
)

// Where tells where the variables of a pipeline hold, or of an action if that is
// given; the pipeline may be 0 then. What the actor does not see in the workspace
// is errdefs.ErrNotFound; what it may do there is for who keeps variables to ask.
func (p *Pipelines) Where(ctx context.Context, by access.Actor, workspace string, id ID, action ActionID) (secret.Scope, error) {
	at := secret.Scope{Workspace: workspace, Action: int64(action)}
	gone := fmt.Errorf("pipeline %d: %w", id, errdefs.ErrNotFound)
	if action != 0 {
		gone = fmt.Errorf("action %d: %w", action, errdefs.ErrNotFound)
	}
	if !by.Sees(workspace) {
		return at, gone
	}
	err := p.db.Read(ctx, func(tx *db.Tx) error {
		if id == 0 {
			if err := tx.QueryRow(`SELECT pipeline FROM actions WHERE id = ?`, action).Scan(&id); err != nil {
				return db.NotFound(err, "action %d", action)
			}
		}
		pl, err := loadPipeline(tx, id)
		if err != nil {
			return err
		}
		if pl.Workspace != workspace || !by.SeesProject(workspace, string(pl.Project)) || errdefs.IsNotFound(permit(by, pl, access.ExecutionInfo)) {
			return gone
		}
		if action != 0 {
			a, err := loadAction(tx, id, action)
			if err != nil {
				return err
			}
			if errdefs.IsNotFound(permitAction(by, pl, a, access.ExecutionInfo)) {
				return gone
			}
		}
		if _, err := project.Load(tx, pl.Project); err != nil {
			return err
		}
		at.Project, at.Pipeline = pl.Project, int64(pl.ID)
		return nil
	})
	if errdefs.IsNotFound(err) {
		return at, gone
	}
	return at, err
}
