package buddy

import (
	"encoding/json"

	"slipway/access"
	"slipway/api"
)

func fromMember(at place, m access.MemberOf) object {
	return object{
		{"url", at.url("/members/%d", m.User.ID)},
		{"html_url", at.page("/members/%d", m.User.ID)},
		{"id", m.User.ID},
		{"name", m.User.Called()},
		{"email", orNull(m.User.Email)},
		{"avatar_url", at.base + "/ui/avatar.svg"},
		{"admin", m.Role != access.Member},
		{"workspace_owner", m.Role == access.Owner},
		{"auto_assign_to_new_projects", m.AutoAssign},
		{"auto_assign_permission_set_id", idOrNull(m.AutoPermission)},
	}
}

func idOrNull(id int64) any {
	if id == 0 {
		return nil
	}
	return id
}

// autoAssign reads what members and groups have for new projects.
func (d *decoder) autoAssign(b body, assign *bool, set *int64) {
	d.given(b, "auto_assign_to_new_projects", func(raw json.RawMessage) { *assign = d.bool(raw) })
	d.member(b, "auto_assign_permission_set_id", func(raw json.RawMessage) { *set = d.int(raw) })
}

// given is member for one that is there and not null.
func (d *decoder) given(b body, name string, f func(raw json.RawMessage)) {
	if raw, ok := b[name]; ok && !isNull(raw) {
		d.at(name, func() { f(raw) })
	}
}

// readMember gives what a body changes of a member.
func readMember(d *decoder, b body) func(*access.MemberOf) error {
	return func(m *access.MemberOf) error {
		d.given(b, "admin", func(raw json.RawMessage) {
			m.Role = access.Member
			if d.bool(raw) {
				m.Role = access.Admin
			}
		})
		d.autoAssign(b, &m.AutoAssign, &m.AutoPermission)
		return d.inv.Err()
	}
}

func (h *handlers) members() map[string]api.Handler {
	a := h.Access
	return routes(h, atWorkspace, noun[access.MemberOf]{
		path: "/members", name: "member", key: "members",
		words: "email admin auto_assign_to_new_projects auto_assign_permission_set_id name avatar_url workspace_owner",
		list:  func(q ask) ([]access.MemberOf, error) { return a.Members(q.ctx(), q.by, q.ws.ID) },
		create: func(q ask, b body) (access.MemberOf, error) {
			d, email := &decoder{}, ""
			d.member(b, "email", func(raw json.RawMessage) { email = d.str(raw) })
			if len(d.inv.Fields) > 0 {
				var m access.MemberOf
				return m, readMember(d, b)(&m)
			}
			return a.Invite(q.ctx(), q.by, q.ws.ID, email, readMember(d, b))
		},
		get: func(q ask) (access.MemberOf, error) { return a.Member(q.ctx(), q.by, q.ws.ID, q.n["member"]) },
		update: func(q ask, b body) (access.MemberOf, error) {
			return a.UpdateMember(q.ctx(), q.by, q.ws.ID, q.n["member"], readMember(&decoder{}, b))
		},
		remove: func(q ask) error { return a.DeleteMember(q.ctx(), q.by, q.ws.ID, q.n["member"]) },
		title:  func(m access.MemberOf) string { return m.User.Called() },
		id:     func(m access.MemberOf) int64 { return m.User.ID },
		from:   plain(fromMember),
	})
}

func fromPermission(at place, p access.PermissionSet) object {
	return object{
		{"url", at.url("/permissions/%d", p.ID)},
		{"html_url", at.page("/permissions/%d", p.ID)},
		{"id", p.ID},
		{"name", p.Name},
		{"description", orNull(p.Description)},
		{"type", p.Kind},
		{"pipeline_access_level", p.Rights.Pipeline},
		{"repository_access_level", p.Rights.Repository},
		{"sandbox_access_level", p.Rights.Sandbox},
		{"environment_access_level", p.Rights.Environment},
		{"target_access_level", p.Rights.Target},
		{"project_team_access_level", p.Rights.Team},
	}
}

// readPermission gives what a body changes of a permission set.
func readPermission(d *decoder, b body) func(*access.PermissionSet) error {
	return func(p *access.PermissionSet) error {
		d.member(b, "name", func(raw json.RawMessage) { p.Name = d.str(raw) })
		d.member(b, "description", func(raw json.RawMessage) { p.Description = d.str(raw) })
		for _, l := range []struct {
			name string
			at   *access.Level
		}{
			{"pipeline_access_level", &p.Rights.Pipeline},
			{"repository_access_level", &p.Rights.Repository},
			{"sandbox_access_level", &p.Rights.Sandbox},
			{"environment_access_level", &p.Rights.Environment},
			{"target_access_level", &p.Rights.Target},
			{"project_team_access_level", &p.Rights.Team},
		} {
			d.given(b, l.name, func(raw json.RawMessage) { *l.at = access.Level(d.str(raw)) })
		}
		return d.inv.Err()
	}
}

func (h *handlers) permissionSets() map[string]api.Handler {
	a := h.Access
	return routes(h, atWorkspace, noun[access.PermissionSet]{
		path: "/permissions", name: "permission", key: "permission_sets",
		words: "name description pipeline_access_level repository_access_level sandbox_access_level environment_access_level " +
			"target_access_level project_team_access_level type",
		list: func(q ask) ([]access.PermissionSet, error) { return a.PermissionSets(q.ctx(), q.by, q.ws.ID) },
		create: func(q ask, b body) (access.PermissionSet, error) {
			// What is not said of a new set is the least that the vendor's pages have for it.
			p := access.PermissionSet{Rights: access.Rights{
				Pipeline: access.ReadOnly, Repository: access.ReadOnly, Team: access.ReadOnly,
				Sandbox: access.Denied, Environment: access.Denied, Target: access.Denied,
			}}
			if err := readPermission(&decoder{}, b)(&p); err != nil {
				return p, err
			}
			return a.CreatePermissionSet(q.ctx(), q.by, q.ws.ID, p)
		},
		get: func(q ask) (access.PermissionSet, error) {
			return a.PermissionSet(q.ctx(), q.by, q.ws.ID, q.n["permission"])
		},
		update: func(q ask, b body) (access.PermissionSet, error) {
			return a.UpdatePermissionSet(q.ctx(), q.by, q.ws.ID, q.n["permission"], readPermission(&decoder{}, b))
		},
		remove: func(q ask) error { return a.DeletePermissionSet(q.ctx(), q.by, q.ws.ID, q.n["permission"]) },
		title:  func(p access.PermissionSet) string { return p.Name },
		id:     func(p access.PermissionSet) int64 { return p.ID },
		from:   plain(fromPermission),
	})
}
