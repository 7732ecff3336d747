package secret

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"slices"

	"github.com/containerd/errdefs"

	"slipway/access"
	"slipway/db"
	"slipway/project"
)

// CreateIntegration makes an integration. An identifier that is taken is
// errdefs.ErrAlreadyExists; one that is made from the name gets a number then.
func (s *Secrets) CreateIntegration(ctx context.Context, by access.Actor, i Integration) (Integration, error) {
	i = i.whole()
	err := s.db.Write(ctx, func(tx *db.Tx) error {
		if err := allow(tx, by, Scope{Workspace: i.Workspace, Project: i.Project}, access.IntegrationAdd); err != nil {
			return err
		}
		var bad project.Invalid
		i.Credentials.keep(Credentials{}, &bad)
		i.Validate(&bad)
		if err := bad.Err(); err != nil {
			return err
		}
		id := make([]byte, 12)
		rand.Read(id) // never fails
		i.ID, i.Created, i.Updated = hex.EncodeToString(id), tx.Now, tx.Now
		if err := nameIntegration(tx, &i); err != nil {
			return err
		}
		return s.insertIntegration(tx, i)
	})
	if err != nil {
		return Integration{}, err
	}
	return i.hidden(), nil
}

// Integrations lists those of a workspace that the actor may use, oldest first.
func (s *Secrets) Integrations(ctx context.Context, by access.Actor, workspace string) (list []Integration, err error) {
	err = s.db.Read(ctx, func(tx *db.Tx) error {
		if err := allow(tx, by, Scope{Workspace: workspace}, access.IntegrationInfo); err != nil {
			return err
		}
		all, err := s.integrations(tx, `WHERE workspace = ? ORDER BY created, id`, workspace)
		for _, i := range all {
			if i.level(by) != Denied {
				list = append(list, i.hidden())
			}
		}
		return err
	})
	return list, err
}

// Integration gives one of a workspace.
func (s *Secrets) Integration(ctx context.Context, by access.Actor, workspace, id string) (i Integration, err error) {
	err = s.db.Read(ctx, func(tx *db.Tx) (err error) {
		i, err = s.seenIntegration(tx, by, workspace, id, access.IntegrationInfo)
		return err
	})
	return i.hidden(), err
}

func noIntegration(name string) error {
	return fmt.Errorf("integration %s: %w", name, errdefs.ErrNotFound)
}

// seenIntegration loads one for an actor that may do something with it. To
// change it the actor needs that level at the integration too.
func (s *Secrets) seenIntegration(tx *db.Tx, by access.Actor, workspace, id string, right access.Scope) (Integration, error) {
	l, err := s.integrations(tx, `WHERE workspace = ? AND id = ?`, workspace, id)
	if err != nil {
		return Integration{}, err
	}
	if len(l) == 0 || l[0].level(by) == Denied {
		return Integration{}, noIntegration(id)
	}
	if err := by.Has(right); err != nil {
		return Integration{}, err
	}
	if right == access.IntegrationManage && l[0].level(by) != Manage {
		return Integration{}, fmt.Errorf("integration %s may be used by you and not changed: %w", id, errdefs.ErrPermissionDenied)
	}
	return l[0], nil
}

// UpdateIntegration changes an integration by change, which gets it with every
// credential that there is as Encrypted; those that are left so stay, unless the
// server that they are for becomes another one. What change does to id,
// workspace and type does not count.
func (s *Secrets) UpdateIntegration(ctx context.Context, by access.Actor, workspace, id string, change func(*Integration) error) (now Integration, err error) {
	err = s.db.Write(ctx, func(tx *db.Tx) error {
		old, err := s.seenIntegration(tx, by, workspace, id, access.IntegrationManage)
		if err != nil {
			return err
		}
		now = old
		for _, text := range now.Credentials.secrets() {
			if *text != "" {
				*text = Encrypted
			}
		}
		if err := change(&now); err != nil {
			return err
		}
		now.ID, now.Workspace, now.Type, now.Created, now.Updated = old.ID, old.Workspace, old.Type, old.Created, tx.Now
		now = now.whole()
		var bad project.Invalid
		if now.ServerURL != old.ServerURL && now.Credentials.Token == Encrypted {
			bad.Add("token", "required", "is to be given anew for another server")
		}
		now.Credentials.keep(old.Credentials, &bad)
		now.Validate(&bad)
		if err := bad.Err(); err != nil {
			return err
		}
		if now.Project != old.Project {
			if err := allow(tx, by, Scope{Workspace: workspace, Project: now.Project}, access.IntegrationManage); err != nil {
				return err
			}
		}
		if now.Identifier != old.Identifier {
			if err := nameIntegration(tx, &now); err != nil {
				return err
			}
		}
		return s.updateIntegration(tx, now)
	})
	if err != nil {
		return Integration{}, err
	}
	return now.hidden(), nil
}

// DeleteIntegration removes an integration. Actions that name it fail from then
// on.
func (s *Secrets) DeleteIntegration(ctx context.Context, by access.Actor, workspace, id string) error {
	return s.db.Write(ctx, func(tx *db.Tx) error {
		if _, err := s.seenIntegration(tx, by, workspace, id, access.IntegrationManage); err != nil {
			return err
		}
		_, err := tx.Exec(`DELETE FROM integrations WHERE id = ?`, id)
		return err
	})
}

// MayUseIntegration tells whether the actor may have an action use the
// integration of that id or identifier: errdefs.ErrPermissionDenied if it is
// one that is there and denied to the actor. One that is not there is nobody's
// to deny.
func (s *Secrets) MayUseIntegration(tx *db.Tx, by access.Actor, workspace, name string) error {
	i, err := s.findIntegration(tx, workspace, name)
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err == nil && i.level(by) == Denied {
		err = fmt.Errorf("the integration %s may not be used by you: %w", name, errdefs.ErrPermissionDenied)
	}
	return err
}

// FileMayUse tells whether an action that is defined in a file may use the
// integration of that id or identifier. Who wrote the file is not known, and whoever
// starts a run of it need not have read it: so it is errdefs.ErrPermissionDenied if
// the integration is denied to anybody, unless it names the pipeline among those that
// may use it. One that is not there is nobody's to deny.
func (s *Secrets) FileMayUse(tx *db.Tx, workspace, name string, pipeline int64) error {
	i, err := s.findIntegration(tx, workspace, name)
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err == nil && i.Permissions.deny() && !slices.Contains(i.Pipelines, pipeline) {
		err = fmt.Errorf("the integration %s is denied to somebody, so a file may name it only if its allowed_pipelines name this pipeline: %w", name, errdefs.ErrPermissionDenied)
	}
	return err
}

// OpenIntegration gives the integration of that id or identifier with its
// credentials, for a pipeline, at the moment of a call. errdefs.ErrNotFound if
// there is none, ErrPermissionDenied if the pipeline may not use it.
func (s *Secrets) OpenIntegration(ctx context.Context, workspace, name string, in project.ID, pipeline int64) (i Integration, err error) {
	err = s.db.Read(ctx, func(tx *db.Tx) (err error) { i, err = s.findIntegration(tx, workspace, name); return err })
	if err == nil && !i.usable(in, pipeline) {
		err = fmt.Errorf("integration %s: this pipeline is not among those that may use it: %w", name, errdefs.ErrPermissionDenied)
	}
	if err != nil {
		return Integration{}, err
	}
	return i, nil
}
