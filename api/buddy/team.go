package buddy

import (
	"context"
	"encoding/json"
	"net/http"

	"slipway/access"
	"slipway/api"
)

// team is who is in a project: members or groups, in the same words.
type team struct {
	key, noun string
	list      func(ctx context.Context, by access.Actor, workspace, project string) ([]access.InProject, error)
	get       func(ctx context.Context, by access.Actor, workspace, project string, id int64) (access.InProject, error)
	add, set  func(ctx context.Context, by access.Actor, workspace, project string, id, permission int64) (access.InProject, error)
	remove    func(ctx context.Context, by access.Actor, workspace, project string, id int64) error
	name      func(access.InProject) string
	id        func(access.InProject) int64
	from      func(at place, p access.InProject) object // at is the workspace
}

func (h *handlers) memberTeam() team {
	a := h.Access
	return team{
		"members", "member", a.ProjectMembers, a.ProjectMember, a.AddProjectMember, a.SetProjectMember, a.RemoveProjectMember,
		func(p access.InProject) string { return p.Member.User.Name }, func(p access.InProject) int64 { return p.Member.User.ID },
		func(at place, p access.InProject) object { return fromMember(at, p.Member) },
	}
}

func (h *handlers) groupTeam() team {
	a := h.Access
	return team{
		"groups", "group", a.ProjectGroups, a.ProjectGroup, a.AddProjectGroup, a.SetProjectGroup, a.RemoveProjectGroup,
		func(p access.InProject) string { return p.Group.Name }, func(p access.InProject) int64 { return p.Group.ID },
		func(at place, p access.InProject) object { return fromGroup(at, p.Group) },
	}
}

// whole is a member or group with what it may do in the project.
func (t team) whole(at place, p access.InProject) object {
	ws := place{base: at.base, workspace: at.workspace}
	o := t.from(ws, p)
	o[0].value = at.url("/%s/%d", t.key, t.id(p))
	return o.with("permission_set", fromPermission(ws, p.Permission))
}

func (h *handlers) listTeam(w http.ResponseWriter, r *http.Request, by access.Actor, t team) error {
	pr, at, err := h.project(r, by)
	if err != nil {
		return err
	}
	all, err := t.list(r.Context(), by, pr.Workspace, string(pr.ID))
	if err != nil {
		return err
	}
	return pageOf(w, r, at, "/"+t.key, t.key, all, t.name, t.id, func(p access.InProject) object { return t.whole(at, p) })
}

// permissionSet reads {"permission_set": {"id": 2}}.
func (d *decoder) permissionSet(b body) (id int64) {
	raw, ok := b["permission_set"]
	d.at("permission_set", func() {
		if !ok || isNull(raw) {
			d.bad("required", "is required")
			return
		}
		if set := d.object(raw); set != nil {
			id = d.id(set, "id")
		}
	})
	return id
}

func (h *handlers) addTeam(w http.ResponseWriter, r *http.Request, by access.Actor, t team) error {
	pr, at, err := h.project(r, by)
	if err != nil {
		return err
	}
	b, err := decode(w, r)
	if err != nil {
		return err
	}
	d := &decoder{}
	id := d.id(b, "id")
	set := d.permissionSet(b)
	ignored(w, others(b, "id permission_set"))
	if err := d.inv.Err(); err != nil {
		return err
	}
	p, err := t.add(r.Context(), by, pr.Workspace, string(pr.ID), id, set)
	if err != nil {
		return err
	}
	return api.JSON(w, http.StatusCreated, t.whole(at, p))
}

func (h *handlers) getTeam(w http.ResponseWriter, r *http.Request, by access.Actor, t team) error {
	pr, at, err := h.project(r, by)
	if err != nil {
		return err
	}
	id, err := number(r, t.noun)
	if err != nil {
		return err
	}
	p, err := t.get(r.Context(), by, pr.Workspace, string(pr.ID), id)
	if err != nil {
		return err
	}
	return api.JSON(w, http.StatusOK, t.whole(at, p))
}

func (h *handlers) setTeam(w http.ResponseWriter, r *http.Request, by access.Actor, t team) error {
	pr, at, err := h.project(r, by)
	if err != nil {
		return err
	}
	id, err := number(r, t.noun)
	if err != nil {
		return err
	}
	b, err := decode(w, r)
	if err != nil {
		return err
	}
	d := &decoder{}
	set := d.permissionSet(b)
	d.member(b, "id", func(raw json.RawMessage) { d.int(raw) })
	ignored(w, others(b, "id permission_set"))
	if err := d.inv.Err(); err != nil {
		return err
	}
	p, err := t.set(r.Context(), by, pr.Workspace, string(pr.ID), id, set)
	if err != nil {
		return err
	}
	return api.JSON(w, http.StatusOK, t.whole(at, p))
}

func (h *handlers) removeTeam(w http.ResponseWriter, r *http.Request, by access.Actor, t team) error {
	pr, _, err := h.project(r, by)
	if err != nil {
		return err
	}
	id, err := number(r, t.noun)
	if err != nil {
		return err
	}
	if err := t.remove(r.Context(), by, pr.Workspace, string(pr.ID), id); err != nil {
		return err
	}
	return noContent(w)
}

// of makes the handler of a route for one of the two.
func of(t team, f func(http.ResponseWriter, *http.Request, access.Actor, team) error) api.Handler {
	return func(w http.ResponseWriter, r *http.Request, by access.Actor) error { return f(w, r, by, t) }
}
