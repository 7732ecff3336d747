package buddy

import (
	"context"
	"encoding/json"

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
		func(p access.InProject) string { return p.Member.User.Called() }, func(p access.InProject) int64 { return p.Member.User.ID },
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

// routes are those of who is in a project.
func (t team) routes(h *handlers) map[string]api.Handler {
	return routes(h, atProject, noun[access.InProject]{
		path: "/" + t.key, name: t.noun, key: t.key, words: "permission_set",
		list: func(q ask) ([]access.InProject, error) { return t.list(q.ctx(), q.by, q.ws.ID, string(q.pr.ID)) },
		create: func(q ask, b body) (p access.InProject, err error) {
			d := &decoder{}
			id, set := d.id(b, "id"), d.permissionSet(b)
			if err := d.inv.Err(); err != nil {
				return p, err
			}
			return t.add(q.ctx(), q.by, q.ws.ID, string(q.pr.ID), id, set)
		},
		get: func(q ask) (access.InProject, error) {
			return t.get(q.ctx(), q.by, q.ws.ID, string(q.pr.ID), q.n[t.noun])
		},
		update: func(q ask, b body) (p access.InProject, err error) {
			d := &decoder{}
			set := d.permissionSet(b)
			d.member(b, "id", func(raw json.RawMessage) { d.int(raw) })
			if err := d.inv.Err(); err != nil {
				return p, err
			}
			return t.set(q.ctx(), q.by, q.ws.ID, string(q.pr.ID), q.n[t.noun], set)
		},
		remove: func(q ask) error { return t.remove(q.ctx(), q.by, q.ws.ID, string(q.pr.ID), q.n[t.noun]) },
		title:  t.name, id: t.id, from: plain(t.whole),
	})
}
