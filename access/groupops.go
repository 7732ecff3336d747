package access

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"

	"slipway/db"
)

// Groups lists the groups of a workspace, oldest first.
func (a *Access) Groups(ctx context.Context, by Actor, workspace string) (all []Group, err error) {
	err = a.read(ctx, by, workspace, GroupRead, func(tx *db.Tx) (err error) {
		all, err = db.List(tx, scanGroup, selectGroup+`WHERE g.workspace = ? ORDER BY g.id`, workspace)
		return err
	})
	return all, err
}

// Group gives a group of a workspace.
func (a *Access) Group(ctx context.Context, by Actor, workspace string, id int64) (g Group, err error) {
	err = a.read(ctx, by, workspace, GroupRead, func(tx *db.Tx) (err error) { g, err = loadGroup(tx, workspace, id); return err })
	return g, err
}

// CreateGroup makes a group without members. A name that is taken is
// errdefs.ErrAlreadyExists.
func (a *Access) CreateGroup(ctx context.Context, by Actor, workspace string, g Group) (Group, error) {
	g.Workspace = workspace
	err := a.write(ctx, by, workspace, GroupManage, func(tx *db.Tx) (err error) {
		if err := checkGroup(tx, g); err != nil {
			return err
		}
		g.ID, err = tx.Insert(`INSERT INTO member_groups (workspace, name, description, auto_assign, auto_permission) VALUES (?, ?, ?, ?, ?)`,
			workspace, g.Name, g.Description, g.AutoAssign, orNil(g.AutoPermission))
		return err
	})
	if err != nil {
		return Group{}, fmt.Errorf("group %q: %w", g.Name, err)
	}
	return g, nil
}

func checkGroup(tx *db.Tx, g Group) error {
	var bad Invalid
	if g.validate(&bad); bad.Err() != nil {
		return bad.Err()
	}
	return checkAuto(tx, g.Workspace, g.AutoPermission)
}

// UpdateGroup changes a group by change, which gets it as it is.
func (a *Access) UpdateGroup(ctx context.Context, by Actor, workspace string, id int64, change func(*Group) error) (g Group, err error) {
	err = a.write(ctx, by, workspace, GroupManage, func(tx *db.Tx) error {
		if g, err = loadGroup(tx, workspace, id); err != nil {
			return err
		}
		if err := change(&g); err != nil {
			return err
		}
		g.ID, g.Workspace = id, workspace
		if err := checkGroup(tx, g); err != nil {
			return err
		}
		_, err := tx.Exec(`UPDATE member_groups SET name = ?, description = ?, auto_assign = ?, auto_permission = ? WHERE id = ?`,
			g.Name, g.Description, g.AutoAssign, orNil(g.AutoPermission), id)
		return err
	})
	return g, err
}

// DeleteGroup ends a group, and what its members could do by it.
func (a *Access) DeleteGroup(ctx context.Context, by Actor, workspace string, id int64) error {
	return a.write(ctx, by, workspace, GroupManage, func(tx *db.Tx) error {
		if _, err := loadGroup(tx, workspace, id); err != nil {
			return err
		}
		_, err := tx.Exec(`DELETE FROM member_groups WHERE id = ?`, id)
		return err
	})
}

// GroupMembers lists who is in a group, by the order in which they came into
// the workspace.
func (a *Access) GroupMembers(ctx context.Context, by Actor, workspace string, group int64) (all []InGroup, err error) {
	err = a.read(ctx, by, workspace, GroupRead, func(tx *db.Tx) error {
		if _, err := loadGroup(tx, workspace, group); err != nil {
			return err
		}
		all, err = db.List(tx, scanInGroup, selectInGroup+`ORDER BY m.created, u.id`, workspace, group)
		return err
	})
	return all, err
}

// GroupMember gives a member of a group.
func (a *Access) GroupMember(ctx context.Context, by Actor, workspace string, group, user int64) (g InGroup, err error) {
	err = a.read(ctx, by, workspace, GroupRead, func(tx *db.Tx) (err error) {
		g, err = inGroup(tx, workspace, group, user)
		return err
	})
	return g, err
}

func inGroup(tx *db.Tx, workspace string, group, user int64) (InGroup, error) {
	if _, err := loadGroup(tx, workspace, group); err != nil {
		return InGroup{}, err
	}
	g, err := scanInGroup(tx.QueryRow(selectInGroup+`AND u.id = ?`, workspace, group, user).Scan)
	return g, db.NotFound(err, "member %d of group %d", user, group)
}

// AddToGroup puts a member of the workspace into a group; one that is in it
// already is errdefs.ErrAlreadyExists.
func (a *Access) AddToGroup(ctx context.Context, by Actor, workspace string, group, user int64, manager bool) (g InGroup, err error) {
	err = a.write(ctx, by, workspace, GroupManage, func(tx *db.Tx) error {
		if _, err := loadGroup(tx, workspace, group); err != nil {
			return err
		}
		if _, err := member(tx, workspace, user); err != nil {
			return unknown(err, "id", user, "member")
		}
		if _, err := tx.Exec(`INSERT INTO group_members (group_id, user_id, manager, created) VALUES (?, ?, ?, ?)`,
			group, user, manager, tx.Now.UnixMicro()); err != nil {
			return fmt.Errorf("member %d of group %d: %w", user, group, err)
		}
		g, err = inGroup(tx, workspace, group, user)
		return err
	})
	return g, err
}

// UpdateInGroup makes a member of a group its manager, or no longer.
func (a *Access) UpdateInGroup(ctx context.Context, by Actor, workspace string, group, user int64, manager bool) (g InGroup, err error) {
	err = a.write(ctx, by, workspace, GroupManage, func(tx *db.Tx) error {
		if g, err = inGroup(tx, workspace, group, user); err != nil {
			return err
		}
		g.Manager = manager
		_, err := tx.Exec(`UPDATE group_members SET manager = ? WHERE group_id = ? AND user_id = ?`, manager, group, user)
		return err
	})
	return g, err
}

// RemoveFromGroup takes a member out of a group.
func (a *Access) RemoveFromGroup(ctx context.Context, by Actor, workspace string, group, user int64) error {
	return a.write(ctx, by, workspace, GroupManage, func(tx *db.Tx) error {
		if _, err := inGroup(tx, workspace, group, user); err != nil {
			return err
		}
		_, err := tx.Exec(`DELETE FROM group_members WHERE group_id = ? AND user_id = ?`, group, user)
		return err
	})
}

// PermissionSets lists the permission sets of a workspace, those that all have
// first.
func (a *Access) PermissionSets(ctx context.Context, by Actor, workspace string) (all []PermissionSet, err error) {
	err = a.read(ctx, by, workspace, PermissionRead, func(tx *db.Tx) (err error) {
		all, err = db.List(tx, scanSet, `SELECT `+setColumns+` FROM permission_sets s WHERE s.workspace IS NULL OR s.workspace = ? ORDER BY s.id`, workspace)
		return err
	})
	return all, err
}

// PermissionSet gives a permission set of a workspace.
func (a *Access) PermissionSet(ctx context.Context, by Actor, workspace string, id int64) (p PermissionSet, err error) {
	err = a.read(ctx, by, workspace, PermissionRead, func(tx *db.Tx) (err error) { p, err = loadSet(tx, workspace, id); return err })
	return p, err
}

// CreatePermissionSet makes one of a workspace's own.
func (a *Access) CreatePermissionSet(ctx context.Context, by Actor, workspace string, p PermissionSet) (PermissionSet, error) {
	p.Workspace, p.Kind = workspace, custom
	err := a.write(ctx, by, workspace, PermissionManage, func(tx *db.Tx) (err error) {
		var bad Invalid
		if p.validate(&bad); bad.Err() != nil {
			return bad.Err()
		}
		r := p.Rights
		p.ID, err = tx.Insert(`INSERT INTO permission_sets (workspace, kind, name, description, pipeline, repository, sandbox, environment, target, team)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`, workspace, p.Kind, p.Name, p.Description,
			string(r.Pipeline), string(r.Repository), string(r.Sandbox), string(r.Environment), string(r.Target), string(r.Team))
		return err
	})
	if err != nil {
		return PermissionSet{}, fmt.Errorf("permission set %q: %w", p.Name, err)
	}
	return p, nil
}

// own loads a permission set that the workspace itself has.
func ownSet(tx *db.Tx, workspace string, id int64) (PermissionSet, error) {
	p, err := loadSet(tx, workspace, id)
	if err == nil && p.Workspace == "" {
		err = fmt.Errorf("permission set %s is that of every workspace, and stays as it is: %w", p.Name, errdefs.ErrPermissionDenied)
	}
	return p, err
}

// UpdatePermissionSet changes one of the workspace's own by change, which gets
// it as it is; what others may do by it changes at once.
func (a *Access) UpdatePermissionSet(ctx context.Context, by Actor, workspace string, id int64, change func(*PermissionSet) error) (p PermissionSet, err error) {
	err = a.write(ctx, by, workspace, PermissionManage, func(tx *db.Tx) error {
		if p, err = ownSet(tx, workspace, id); err != nil {
			return err
		}
		if err := change(&p); err != nil {
			return err
		}
		p.ID, p.Workspace, p.Kind = id, workspace, custom
		var bad Invalid
		if p.validate(&bad); bad.Err() != nil {
			return bad.Err()
		}
		r := p.Rights
		_, err := tx.Exec(`UPDATE permission_sets SET name = ?, description = ?, pipeline = ?, repository = ?, sandbox = ?, environment = ?, target = ?, team = ?
			WHERE id = ?`, p.Name, p.Description, string(r.Pipeline), string(r.Repository), string(r.Sandbox), string(r.Environment), string(r.Target), string(r.Team), id)
		return err
	})
	return p, err
}

// DeletePermissionSet removes one of the workspace's own; one that somebody has
// is errdefs.ErrConflict.
func (a *Access) DeletePermissionSet(ctx context.Context, by Actor, workspace string, id int64) error {
	return a.write(ctx, by, workspace, PermissionManage, func(tx *db.Tx) error {
		p, err := ownSet(tx, workspace, id)
		if err != nil {
			return err
		}
		var used int
		if err := tx.QueryRow(`SELECT (SELECT COUNT(*) FROM project_members WHERE permission = ?1) + (SELECT COUNT(*) FROM project_groups WHERE permission = ?1)
			+ (SELECT COUNT(*) FROM members WHERE auto_permission = ?1) + (SELECT COUNT(*) FROM member_groups WHERE auto_permission = ?1)`, id).Scan(&used); err != nil {
			return err
		}
		if used > 0 {
			return fmt.Errorf("permission set %s is in use: %w", p.Name, errdefs.ErrConflict)
		}
		_, err = tx.Exec(`DELETE FROM permission_sets WHERE id = ?`, id)
		return err
	})
}
