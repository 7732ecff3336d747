package project

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/containerd/errdefs"

	"slipway/access"
	"slipway/crash"
	"slipway/db"
	"slipway/event"
)

// Projects is the front door.
type Projects struct {
	db *db.DB
}

// NewProjects makes the front door.
func NewProjects(d *db.DB) *Projects { return &Projects{db: d} }

// BootstrapWorkspace makes a workspace in the transaction that makes its owner.
func BootstrapWorkspace(tx *db.Tx, domain string, owner access.User) (Workspace, error) {
	return newWorkspace(tx, Workspace{Domain: domain, Name: domain, Owner: owner.ID})
}

// CreateWorkspace makes a workspace with the actor as its owner; a taken
// domain is errdefs.ErrAlreadyExists. name is the domain if it is empty; domain
// is made from name if that is empty.
func (p *Projects) CreateWorkspace(ctx context.Context, by access.Actor, domain, name string) (w Workspace, err error) {
	if err := by.Has(access.WorkspacesManage); err != nil {
		return Workspace{}, err
	}
	if len(by.Token.Workspaces) > 0 {
		return Workspace{}, fmt.Errorf("the token is bound to other workspaces: %w", errdefs.ErrPermissionDenied)
	}
	var bad Invalid
	if domain != "" || name == "" {
		CheckName(&bad, "domain", domain)
	}
	if name != "" {
		checkDisplayName(&bad, "name", name)
	} else {
		name = domain
	}
	if err := bad.Err(); err != nil {
		return Workspace{}, err
	}
	err = p.db.Write(ctx, func(tx *db.Tx) (err error) {
		derived := domain == ""
		if taken, err := exists(tx, `SELECT 1 FROM workspaces WHERE domain = ?`, domain); err != nil {
			return err
		} else if taken {
			return fmt.Errorf("workspace %s: the domain is taken: %w", domain, errdefs.ErrAlreadyExists)
		}
		for n := 1; derived; n++ {
			domain = numbered(slug(name, "workspace"), n)
			if derived, err = exists(tx, `SELECT 1 FROM workspaces WHERE domain = ?`, domain); err != nil {
				return err
			}
		}
		w, err = newWorkspace(tx, Workspace{Domain: domain, Name: name, Owner: by.User.ID})
		return err
	})
	return w, err
}

// RenameWorkspace changes the name for people; the domain stays.
func (p *Projects) RenameWorkspace(ctx context.Context, by access.Actor, ref, name string) (w Workspace, err error) {
	err = p.db.Write(ctx, func(tx *db.Tx) (err error) {
		if w, err = seenWorkspace(tx, by, ref); err != nil {
			return err
		}
		if err := by.May(w.ID, access.WorkspacesManage); err != nil {
			return err
		}
		var bad Invalid
		checkDisplayName(&bad, "name", name)
		if err := bad.Err(); err != nil {
			return err
		}
		w.Name = name
		_, err = tx.Exec(`UPDATE workspaces SET name = ? WHERE id = ?`, name, w.ID)
		return err
	})
	return w, err
}

// DeleteWorkspace ends a workspace, which its owner alone may: it is not found
// from then on, nobody is in it, and its projects are deleted as by Delete. Its
// domain stays taken until Remove has dropped it with the last of them.
func (p *Projects) DeleteWorkspace(ctx context.Context, by access.Actor, ref string) error {
	err := p.db.Write(ctx, func(tx *db.Tx) error {
		w, err := seenWorkspace(tx, by, ref)
		if err != nil {
			return err
		}
		if err := by.May(w.ID, access.WorkspacesManage); err != nil {
			return err
		}
		if by.Role(w.ID) != access.Owner {
			return fmt.Errorf("only its owner may delete the workspace: %w", errdefs.ErrPermissionDenied)
		}
		all, err := selectProjects(tx, []string{w.ID}, false, Filter{})
		if err != nil {
			return err
		}
		for _, gone := range all {
			if err := deleteIn(tx, gone); err != nil {
				return err
			}
		}
		if _, err := tx.Exec(`UPDATE workspaces SET deleted = ? WHERE id = ?`, tx.Now.UnixMicro(), w.ID); err != nil {
			return err
		}
		return access.RemoveWorkspace(tx, w.ID)
	})
	if err == nil {
		crash.At("project: a workspace is deleted")
	}
	return err
}

// Workspaces lists those that the actor sees, oldest first.
func (p *Projects) Workspaces(ctx context.Context, by access.Actor) (list []Workspace, err error) {
	err = p.db.Read(ctx, func(tx *db.Tx) (err error) {
		all, err := workspaces(tx)
		for _, w := range all {
			if by.MayLook(w.ID) == nil {
				list = append(list, w)
			}
		}
		return err
	})
	if err == nil && len(list) == 0 { // nothing to see, or no right to look
		if ids, _ := by.Workspaces(); len(ids) > 0 {
			err = by.MayLook(ids[0])
		}
	}
	return list, err
}

// Workspace finds one by UUID or domain.
func (p *Projects) Workspace(ctx context.Context, by access.Actor, ref string) (w Workspace, err error) {
	err = p.db.Read(ctx, func(tx *db.Tx) (err error) {
		if w, err = seenWorkspace(tx, by, ref); err != nil {
			return err
		}
		return by.MayLook(w.ID)
	})
	return w, err
}

// seenWorkspace finds a workspace that the actor sees.
func seenWorkspace(tx *db.Tx, by access.Actor, ref string) (Workspace, error) {
	w, err := FindWorkspace(tx, ref)
	if err == nil && !by.Sees(w.ID) {
		err = notFound("workspace", ref)
	}
	if err != nil {
		return Workspace{}, err
	}
	return w, nil
}

// seen finds a project that the actor sees.
func seen(by access.Actor, ref string, load func() (Project, error)) (Project, error) {
	p, err := load()
	if err == nil && !by.SeesProject(p.Workspace, string(p.ID)) {
		err = notFound("project", ref)
	}
	if err != nil {
		return Project{}, err
	}
	return p, nil
}

func notFound(noun, ref string) error { return fmt.Errorf("%s %s: %w", noun, ref, errdefs.ErrNotFound) }

// Create makes a project in a workspace (UUID or domain). A name given outright
// that is taken is errdefs.ErrAlreadyExists; one made from DisplayName gets -2,
// -3... What belongs to it from the first moment, its repository and its default
// stack, is made by their rooms when first looked for.
func (p *Projects) Create(ctx context.Context, by access.Actor, workspace string, n New) (made Project, err error) {
	err = p.db.Write(ctx, func(tx *db.Tx) (err error) {
		made, err = CreateIn(tx, by, workspace, n)
		return err
	})
	if err != nil {
		return Project{}, err
	}
	crash.At("project: a project is made")
	return made, nil
}

// CreateIn is Create in a transaction of the caller's.
func CreateIn(tx *db.Tx, by access.Actor, workspace string, n New) (Project, error) {
	w, err := seenWorkspace(tx, by, workspace)
	if err != nil {
		return Project{}, err
	}
	if err := by.May(w.ID, access.ProjectWrite); err != nil {
		return Project{}, err
	}
	if err := n.Validate(); err != nil {
		return Project{}, err
	}
	made := Project{
		Workspace: w.ID, Domain: w.Domain, Name: n.Name, DisplayName: n.DisplayName, Status: Active, Public: n.Public, PullRequests: n.PullRequests,
		Submodules: n.Submodules,
		CreatedBy:  by.User.ID, Created: tx.Now, Updated: tx.Now, Attrs: merge(nil, n.Attrs),
	}
	if made.DisplayName == "" {
		made.DisplayName = n.Name
	}
	if err := takeName(tx, &made, Slug(n.DisplayName)); err != nil {
		return Project{}, err
	}
	if err := insert(tx, &made); err != nil {
		return Project{}, err
	}
	if err := access.Assign(tx, made.Workspace, string(made.ID), by.User.ID); err != nil {
		return Project{}, err
	}
	return made, tell(tx, event.ProjectCreated, made)
}

// takeName makes sure that the project's name is free, or finds one like base if
// it has none, and takes it away from whoever had it earlier.
func takeName(tx *db.Tx, p *Project, base string) error {
	taken := func(name string) (bool, error) {
		return exists(tx, `SELECT 1 FROM projects WHERE workspace = ? AND name = ? AND id <> ? AND deleted IS NULL`, p.Workspace, name, string(p.ID))
	}
	if p.Name != "" {
		if t, err := taken(p.Name); err != nil {
			return err
		} else if t {
			return fmt.Errorf("project %s: the name is taken: %w", p.Name, errdefs.ErrAlreadyExists)
		}
	}
	for n := 1; p.Name == ""; n++ {
		name := numbered(base, n)
		if t, err := taken(name); err != nil {
			return err
		} else if !t {
			p.Name = name
		}
	}
	_, err := tx.Exec(`DELETE FROM project_aliases WHERE workspace = ? AND name = ?`, p.Workspace, p.Name)
	return err
}

// tell writes an event about a project; its data is {"name": ...}.
func tell(tx *db.Tx, kind event.Kind, p Project) error {
	return event.Write(tx, event.Event{Kind: kind, Workspace: p.Workspace, Project: string(p.ID), Subject: string(p.ID)},
		map[string]string{"name": p.Name})
}

// merge puts the attributes of some dialects over those that are there.
func merge(have, with map[string]json.RawMessage) map[string]json.RawMessage {
	m := map[string]json.RawMessage{}
	for k, v := range have {
		m[k] = v
	}
	for k, v := range with {
		if len(v) == 0 || string(v) == "null" {
			delete(m, k)
		} else {
			m[k] = v
		}
	}
	return m
}

// Get finds a project by UUID or short id.
func (p *Projects) Get(ctx context.Context, by access.Actor, ref string) (found Project, err error) {
	err = p.db.Read(ctx, func(tx *db.Tx) (err error) {
		found, err = seen(by, ref, func() (Project, error) { return loadRef(tx, ref) })
		if err != nil {
			return err
		}
		return by.MayLook(found.Workspace)
	})
	return found, err
}

// Find finds a project by the name (or UUID) of its workspace and its own name,
// or an earlier name that nobody took since.
func (p *Projects) Find(ctx context.Context, by access.Actor, workspace, name string) (found Project, err error) {
	err = p.db.Read(ctx, func(tx *db.Tx) (err error) {
		w, err := seenWorkspace(tx, by, workspace)
		if err != nil {
			return err
		}
		if err := by.MayLook(w.ID); err != nil {
			return err
		}
		found, err = seen(by, name, func() (Project, error) { return loadName(tx, w.ID, name) })
		return err
	})
	return found, err
}

// List lists the projects that the actor sees, oldest first.
func (p *Projects) List(ctx context.Context, by access.Actor, f Filter) (list []Project, err error) {
	ids, all := by.Workspaces()
	if f.Workspace != "" {
		if err := by.MayLook(f.Workspace); err != nil {
			return nil, err
		}
		ids, all = []string{f.Workspace}, false
	} else if len(ids) > 0 {
		if err := by.MayLook(ids[0]); err != nil {
			return nil, err
		}
	}
	err = p.db.Read(ctx, func(tx *db.Tx) (err error) {
		list, err = selectProjects(tx, ids, all, f)
		return err
	})
	list = slices.DeleteFunc(list, func(p Project) bool { return !by.SeesProject(p.Workspace, string(p.ID)) })
	return list, err
}

// Update changes a project. A taken name is errdefs.ErrAlreadyExists; the old
// one leads to it until somebody takes it.
func (p *Projects) Update(ctx context.Context, by access.Actor, id ID, c Change) (now Project, err error) {
	err = p.db.Write(ctx, func(tx *db.Tx) (err error) {
		now, err = UpdateIn(tx, by, id, c)
		return err
	})
	if err != nil {
		return Project{}, err
	}
	return now, nil
}

// UpdateIn is Update in a transaction of the caller's.
func UpdateIn(tx *db.Tx, by access.Actor, id ID, c Change) (Project, error) {
	now, err := seen(by, string(id), func() (Project, error) { return Load(tx, id) })
	if err != nil {
		return Project{}, err
	}
	if err := by.MayIn(now.Workspace, string(now.ID), access.ProjectWrite); err != nil {
		return Project{}, err
	}
	if err := c.Validate(); err != nil {
		return Project{}, err
	}
	if c.Name != nil && *c.Name != now.Name {
		old := now.Name
		now.Name = *c.Name
		if err := takeName(tx, &now, ""); err != nil {
			return Project{}, err
		}
		if err := addAlias(tx, now, old); err != nil {
			return Project{}, err
		}
	}
	set(&now.DisplayName, c.DisplayName)
	set(&now.Status, c.Status)
	set(&now.Public, c.Public)
	set(&now.PullRequests, c.PullRequests)
	set(&now.Submodules, c.Submodules)
	now.Attrs, now.Updated = merge(now.Attrs, c.Attrs), tx.Now
	if err := update(tx, now); err != nil {
		return Project{}, err
	}
	return now, tell(tx, event.ProjectChanged, now)
}

func set[T any](to, from *T) {
	if from != nil {
		*to = *from
	}
}

// Delete marks a project deleted: it is not found from then on, its name is
// free, and an event "project.deleted" tells the other rooms.
func (p *Projects) Delete(ctx context.Context, by access.Actor, id ID) error {
	err := p.db.Write(ctx, func(tx *db.Tx) error {
		gone, err := seen(by, string(id), func() (Project, error) { return Load(tx, id) })
		if err != nil {
			return err
		}
		if err := by.MayIn(gone.Workspace, string(gone.ID), access.ProjectDelete); err != nil {
			return err
		}
		return deleteIn(tx, gone)
	})
	if err == nil {
		crash.At("project: a project is deleted")
	}
	return err
}

func deleteIn(tx *db.Tx, gone Project) error {
	if _, err := tx.Exec(`UPDATE projects SET deleted = ? WHERE id = ?`, tx.Now.UnixMicro(), string(gone.ID)); err != nil {
		return err
	}
	return tell(tx, event.ProjectDeleted, gone)
}

// Restore brings back a deleted project, as long as it was not removed. If its
// name was taken meanwhile it gets -2, -3...
func (p *Projects) Restore(ctx context.Context, by access.Actor, id ID) (back Project, err error) {
	err = p.db.Write(ctx, func(tx *db.Tx) (err error) {
		if back, err = seen(by, string(id), func() (Project, error) { return loadDeleted(tx, id) }); err != nil {
			return err
		}
		if err := by.MayIn(back.Workspace, string(back.ID), access.ProjectDelete); err != nil {
			return err
		}
		base := back.Name
		back.Name, back.Updated = "", tx.Now
		if err := takeName(tx, &back, base); err != nil {
			return err
		}
		if err := update(tx, back); err != nil {
			return err
		}
		if _, err := tx.Exec(`UPDATE projects SET deleted = NULL WHERE id = ?`, string(id)); err != nil {
			return err
		}
		return tell(tx, event.ProjectRestored, back)
	})
	if err != nil {
		return Project{}, err
	}
	return back, nil
}

// Living tells whether there is a project, be it a deleted one that may come back.
func (p *Projects) Living(ctx context.Context, id ID) (bool, error) {
	return p.there(ctx, `SELECT COUNT(*) FROM projects WHERE id = ?`, string(id))
}

// LivingWorkspace is Living for a workspace.
func (p *Projects) LivingWorkspace(ctx context.Context, id string) (bool, error) {
	return p.there(ctx, `SELECT COUNT(*) FROM workspaces WHERE id = ?`, id)
}

func (p *Projects) there(ctx context.Context, count, id string) (is bool, err error) {
	err = p.db.Read(ctx, func(tx *db.Tx) error { return tx.QueryRow(count, id).Scan(&is) })
	return is, err
}

// Remove drops the rows of projects that were deleted longer than keep ago, with
// everything in the store that belongs to them, and then those of workspaces; an
// event "project.removed" tells the rooms that keep data elsewhere. It gives how
// many projects there were.
func (p *Projects) Remove(ctx context.Context, keep time.Duration) (n int, err error) {
	err = p.db.Write(ctx, func(tx *db.Tx) error {
		old, err := deletedBefore(tx, tx.Now.Add(-keep))
		if err != nil {
			return err
		}
		for _, gone := range old {
			if _, err := tx.Exec(`DELETE FROM projects WHERE id = ?`, string(gone.ID)); err != nil {
				return fmt.Errorf("project %s: %w", gone.ID, err)
			}
			if err := tell(tx, event.ProjectRemoved, gone); err != nil {
				return err
			}
		}
		n = len(old)
		_, err = tx.Exec(`DELETE FROM workspaces WHERE deleted < ? AND NOT EXISTS (SELECT 1 FROM projects p WHERE p.workspace = workspaces.id)`,
			tx.Now.Add(-keep).UnixMicro())
		return err
	})
	return n, err
}
