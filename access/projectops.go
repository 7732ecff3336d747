package access

import (
	"context"
	"fmt"

	"slipway/db"
)

// A project's members and groups are two tables of the same shape.
type belonging struct {
	table, column, noun string
	sel, order          string
	scan                func(db.Scan) (InProject, error)
	exists              func(tx *db.Tx, workspace string, id int64) error
}

func ofMembers() belonging {
	return belonging{
		"project_members", "user_id", "member", selectProjectMember, `ORDER BY p.created, p.user_id`, scanProjectMember,
		func(tx *db.Tx, workspace string, id int64) error { _, err := member(tx, workspace, id); return err },
	}
}

func ofGroups() belonging {
	return belonging{
		"project_groups", "group_id", "group", selectProjectGroup, `ORDER BY p.created, p.group_id`, scanProjectGroup,
		func(tx *db.Tx, workspace string, id int64) error { _, err := loadGroup(tx, workspace, id); return err },
	}
}

func (b belonging) one(tx *db.Tx, project string, id int64) (InProject, error) {
	p, err := b.scan(tx.QueryRow(b.sel+`AND p.`+b.column+` = ?`, project, id).Scan)
	return p, db.NotFound(err, "%s %d of the project", b.noun, id)
}

func (a *Access) inProject(ctx context.Context, by Actor, b belonging, workspace, project string) (all []InProject, err error) {
	if err := by.MayIn(workspace, project, ProjectRead); err != nil {
		return nil, err
	}
	err = a.db.Read(ctx, func(tx *db.Tx) (err error) {
		all, err = db.List(tx, b.scan, b.sel+b.order, project)
		return err
	})
	return all, err
}

func (a *Access) oneInProject(ctx context.Context, by Actor, b belonging, workspace, project string, id int64) (p InProject, err error) {
	if err := by.MayIn(workspace, project, ProjectRead); err != nil {
		return p, err
	}
	err = a.db.Read(ctx, func(tx *db.Tx) (err error) { p, err = b.one(tx, project, id); return err })
	return p, err
}

// team changes who is in a project.
func (a *Access) team(ctx context.Context, by Actor, workspace, project string, f func(*db.Tx) error) error {
	if err := by.mayTeam(workspace, project); err != nil {
		return err
	}
	return a.db.Write(ctx, func(tx *db.Tx) error {
		if err := still(tx, by, workspace); err != nil {
			return err
		}
		tx.Wake(Topic)
		return f(tx)
	})
}

func (a *Access) putInProject(ctx context.Context, by Actor, b belonging, workspace, project string, id, set int64, anew bool) (p InProject, err error) {
	err = a.team(ctx, by, workspace, project, func(tx *db.Tx) error {
		if anew {
			if err := b.exists(tx, workspace, id); err != nil {
				return unknown(err, "id", id, b.noun)
			}
		} else if _, err := b.one(tx, project, id); err != nil {
			return err
		}
		if _, err := loadSet(tx, workspace, set); err != nil {
			return unknown(err, "permission_set.id", set, "permission set")
		}
		if anew {
			_, err = tx.Exec(`INSERT INTO `+b.table+` (project, workspace, `+b.column+`, permission, created) VALUES (?, ?, ?, ?, ?)`,
				project, workspace, id, set, tx.Now.UnixMicro())
		} else {
			_, err = tx.Exec(`UPDATE `+b.table+` SET permission = ? WHERE project = ? AND `+b.column+` = ?`, set, project, id)
		}
		if err != nil {
			return fmt.Errorf("%s %d of the project: %w", b.noun, id, err)
		}
		p, err = b.one(tx, project, id)
		return err
	})
	return p, err
}

func (a *Access) removeFromProject(ctx context.Context, by Actor, b belonging, workspace, project string, id int64) error {
	return a.team(ctx, by, workspace, project, func(tx *db.Tx) error {
		if _, err := b.one(tx, project, id); err != nil {
			return err
		}
		_, err := tx.Exec(`DELETE FROM `+b.table+` WHERE project = ? AND `+b.column+` = ?`, project, id)
		return err
	})
}

// ProjectMembers lists the members of a project with their permission sets,
// oldest first. Owner and administrators of the workspace may do everything
// whether they are among them or not.
func (a *Access) ProjectMembers(ctx context.Context, by Actor, workspace, project string) ([]InProject, error) {
	return a.inProject(ctx, by, ofMembers(), workspace, project)
}

// ProjectMember gives a member of a project.
func (a *Access) ProjectMember(ctx context.Context, by Actor, workspace, project string, user int64) (InProject, error) {
	return a.oneInProject(ctx, by, ofMembers(), workspace, project, user)
}

// AddProjectMember puts a member of the workspace into a project; one that is in
// it already is errdefs.ErrAlreadyExists.
func (a *Access) AddProjectMember(ctx context.Context, by Actor, workspace, project string, user, set int64) (InProject, error) {
	return a.putInProject(ctx, by, ofMembers(), workspace, project, user, set, true)
}

// SetProjectMember gives a member of a project another permission set.
func (a *Access) SetProjectMember(ctx context.Context, by Actor, workspace, project string, user, set int64) (InProject, error) {
	return a.putInProject(ctx, by, ofMembers(), workspace, project, user, set, false)
}

// RemoveProjectMember takes a member out of a project.
func (a *Access) RemoveProjectMember(ctx context.Context, by Actor, workspace, project string, user int64) error {
	return a.removeFromProject(ctx, by, ofMembers(), workspace, project, user)
}

// ProjectGroups is ProjectMembers for groups.
func (a *Access) ProjectGroups(ctx context.Context, by Actor, workspace, project string) ([]InProject, error) {
	return a.inProject(ctx, by, ofGroups(), workspace, project)
}

// ProjectGroup gives a group of a project.
func (a *Access) ProjectGroup(ctx context.Context, by Actor, workspace, project string, group int64) (InProject, error) {
	return a.oneInProject(ctx, by, ofGroups(), workspace, project, group)
}

// AddProjectGroup puts a group of the workspace into a project.
func (a *Access) AddProjectGroup(ctx context.Context, by Actor, workspace, project string, group, set int64) (InProject, error) {
	return a.putInProject(ctx, by, ofGroups(), workspace, project, group, set, true)
}

// SetProjectGroup gives a group of a project another permission set.
func (a *Access) SetProjectGroup(ctx context.Context, by Actor, workspace, project string, group, set int64) (InProject, error) {
	return a.putInProject(ctx, by, ofGroups(), workspace, project, group, set, false)
}

// RemoveProjectGroup takes a group out of a project.
func (a *Access) RemoveProjectGroup(ctx context.Context, by Actor, workspace, project string, group int64) error {
	return a.removeFromProject(ctx, by, ofGroups(), workspace, project, group)
}
