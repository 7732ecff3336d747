package buddy

import (
	"encoding/json"

	"slipway/access"
	"slipway/api"
)

func fromGroup(at place, g access.Group) object {
	return object{
		{"url", at.url("/groups/%d", g.ID)},
		{"html_url", at.page("/groups/%d", g.ID)},
		{"id", g.ID},
		{"name", g.Name},
		{"description", orNull(g.Description)},
		{"auto_assign_to_new_projects", g.AutoAssign},
		{"auto_assign_permission_set_id", idOrNull(g.AutoPermission)},
		{"members_url", at.url("/groups/%d/members", g.ID)},
	}
}

// readGroup gives what a body changes of a group.
func readGroup(d *decoder, b body) func(*access.Group) error {
	return func(g *access.Group) error {
		d.member(b, "name", func(raw json.RawMessage) { g.Name = d.str(raw) })
		d.member(b, "description", func(raw json.RawMessage) { g.Description = d.str(raw) })
		d.autoAssign(b, &g.AutoAssign, &g.AutoPermission)
		return d.inv.Err()
	}
}

func (h *handlers) groups() map[string]api.Handler {
	a := h.Access
	return routes(h, atWorkspace, noun[access.Group]{
		path: "/groups", name: "group", key: "groups",
		words: "name description auto_assign_to_new_projects auto_assign_permission_set_id members_url",
		list:  func(q ask) ([]access.Group, error) { return a.Groups(q.ctx(), q.by, q.ws.ID) },
		create: func(q ask, b body) (g access.Group, err error) {
			if err := readGroup(&decoder{}, b)(&g); err != nil {
				return g, err
			}
			return a.CreateGroup(q.ctx(), q.by, q.ws.ID, g)
		},
		get: func(q ask) (access.Group, error) { return a.Group(q.ctx(), q.by, q.ws.ID, q.n["group"]) },
		update: func(q ask, b body) (access.Group, error) {
			return a.UpdateGroup(q.ctx(), q.by, q.ws.ID, q.n["group"], readGroup(&decoder{}, b))
		},
		remove: func(q ask) error { return a.DeleteGroup(q.ctx(), q.by, q.ws.ID, q.n["group"]) },
		title:  func(g access.Group) string { return g.Name },
		id:     func(g access.Group) int64 { return g.ID },
		from:   plain(fromGroup),
	})
}

func fromInGroup(at place, group int64, g access.InGroup) object {
	status := "MEMBER"
	if g.Manager {
		status = "MANAGER"
	}
	o := fromMember(at, g.MemberOf)
	o[0].value = at.url("/groups/%d/members/%d", group, g.User.ID)
	return o.with("status", status)
}

// readStatus reads what somebody is in a group.
func readStatus(d *decoder, b body) (manager bool) {
	d.given(b, "status", func(raw json.RawMessage) {
		switch s := d.str(raw); s {
		case "MANAGER":
			manager = true
		case "MEMBER", "":
		default:
			d.bad("enum", "must be one of MEMBER, MANAGER")
		}
	})
	return manager
}

func (h *handlers) groupMembers() map[string]api.Handler {
	a := h.Access
	return routes(h, atWorkspace, noun[access.InGroup]{
		path: "/groups/{group}/members", name: "member", key: "members", words: "status",
		list: func(q ask) ([]access.InGroup, error) { return a.GroupMembers(q.ctx(), q.by, q.ws.ID, q.n["group"]) },
		create: func(q ask, b body) (g access.InGroup, err error) {
			d := &decoder{}
			id := d.id(b, "id")
			manager := readStatus(d, b)
			if err := d.inv.Err(); err != nil {
				return g, err
			}
			return a.AddToGroup(q.ctx(), q.by, q.ws.ID, q.n["group"], id, manager)
		},
		get: func(q ask) (access.InGroup, error) {
			return a.GroupMember(q.ctx(), q.by, q.ws.ID, q.n["group"], q.n["member"])
		},
		update: func(q ask, b body) (g access.InGroup, err error) {
			d := &decoder{}
			manager := readStatus(d, b)
			if err := d.inv.Err(); err != nil {
				return g, err
			}
			return a.UpdateInGroup(q.ctx(), q.by, q.ws.ID, q.n["group"], q.n["member"], manager)
		},
		remove: func(q ask) error { return a.RemoveFromGroup(q.ctx(), q.by, q.ws.ID, q.n["group"], q.n["member"]) },
		title:  func(g access.InGroup) string { return g.User.Called() },
		id:     func(g access.InGroup) int64 { return g.User.ID },
		from: func(q ask, _ bool) (func(access.InGroup) (object, error), error) {
			return func(g access.InGroup) (object, error) { return fromInGroup(q.at, q.n["group"], g), nil }, nil
		},
	})
}

// id reads an id that must be there.
func (d *decoder) id(b body, name string) (id int64) {
	d.member(b, name, func(raw json.RawMessage) { id = d.int(raw) })
	if id == 0 && len(d.inv.Fields) == 0 {
		d.at(name, func() { d.bad("required", "is required") })
	}
	return id
}
