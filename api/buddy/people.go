package buddy

import (
	"encoding/json"
	"net/http"

	"slipway/access"
	"slipway/api"
)

// inWorkspace finds the workspace of a path, and the ids of it that are named.
func (h *handlers) inWorkspace(r *http.Request, by access.Actor, names ...string) (id string, at place, ids []int64, err error) {
	ws, err := h.Projects.Workspace(r.Context(), by, r.PathValue("workspace"))
	if err != nil {
		return "", place{}, nil, err
	}
	ids, err = numbers(r, names)
	return ws.ID, place{base: h.base, workspace: ws.Domain}, ids, err
}

func numbers(r *http.Request, names []string) ([]int64, error) {
	var ids []int64
	for _, name := range names {
		n, err := number(r, name)
		if err != nil {
			return nil, err
		}
		ids = append(ids, n)
	}
	return ids, nil
}

func fromMember(at place, m access.MemberOf) object {
	return object{
		{"url", at.url("/members/%d", m.User.ID)},
		{"html_url", at.page("/members/%d", m.User.ID)},
		{"id", m.User.ID},
		{"name", m.User.Name},
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

// pageOf answers a list. Lists are asked with page and per_page; who asks
// without page gets the first twenty, as from all lists.
func pageOf[T any](w http.ResponseWriter, r *http.Request, at place, path, key string, all []T, name func(T) string, id func(T) int64, from func(T) object) error {
	q, err := readQuery(r)
	if err != nil {
		return err
	}
	l := []object{}
	for _, v := range sorted(all, q, name, id) {
		l = append(l, from(v))
	}
	return api.JSON(w, http.StatusOK, object{{"url", at.url("%s", path)}, {"html_url", at.page("%s", path)}, {key, l}})
}

func (h *handlers) listMembers(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	ws, at, _, err := h.inWorkspace(r, by)
	if err != nil {
		return err
	}
	all, err := h.Access.Members(r.Context(), by, ws)
	if err != nil {
		return err
	}
	return pageOf(w, r, at, "/members", "members", all, func(m access.MemberOf) string { return m.User.Name },
		func(m access.MemberOf) int64 { return m.User.ID }, func(m access.MemberOf) object { return fromMember(at, m) })
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

const memberWords = "email admin auto_assign_to_new_projects auto_assign_permission_set_id id url html_url name avatar_url workspace_owner"

func (h *handlers) inviteMember(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	ws, at, _, err := h.inWorkspace(r, by)
	if err != nil {
		return err
	}
	b, err := decode(w, r)
	if err != nil {
		return err
	}
	d, email := &decoder{}, ""
	d.member(b, "email", func(raw json.RawMessage) { email = d.str(raw) })
	ignored(w, others(b, memberWords))
	if len(d.inv.Fields) > 0 {
		var m access.MemberOf
		return readMember(d, b)(&m)
	}
	m, err := h.Access.Invite(r.Context(), by, ws, email, readMember(d, b))
	if err != nil {
		return err
	}
	return api.JSON(w, http.StatusCreated, fromMember(at, m))
}

func (h *handlers) getMember(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	ws, at, ids, err := h.inWorkspace(r, by, "member")
	if err != nil {
		return err
	}
	m, err := h.Access.Member(r.Context(), by, ws, ids[0])
	if err != nil {
		return err
	}
	return api.JSON(w, http.StatusOK, fromMember(at, m))
}

func (h *handlers) updateMember(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	ws, at, ids, err := h.inWorkspace(r, by, "member")
	if err != nil {
		return err
	}
	b, err := decode(w, r)
	if err != nil {
		return err
	}
	ignored(w, others(b, memberWords))
	m, err := h.Access.UpdateMember(r.Context(), by, ws, ids[0], readMember(&decoder{}, b))
	if err != nil {
		return err
	}
	return api.JSON(w, http.StatusOK, fromMember(at, m))
}

func (h *handlers) deleteMember(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	ws, _, ids, err := h.inWorkspace(r, by, "member")
	if err != nil {
		return err
	}
	if err := h.Access.DeleteMember(r.Context(), by, ws, ids[0]); err != nil {
		return err
	}
	return noContent(w)
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

func (h *handlers) listPermissions(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	ws, at, _, err := h.inWorkspace(r, by)
	if err != nil {
		return err
	}
	all, err := h.Access.PermissionSets(r.Context(), by, ws)
	if err != nil {
		return err
	}
	return pageOf(w, r, at, "/permissions", "permission_sets", all, func(p access.PermissionSet) string { return p.Name },
		func(p access.PermissionSet) int64 { return p.ID }, func(p access.PermissionSet) object { return fromPermission(at, p) })
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

const permissionWords = "name description pipeline_access_level repository_access_level sandbox_access_level environment_access_level " +
	"target_access_level project_team_access_level id url html_url type"

func (h *handlers) createPermission(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	ws, at, _, err := h.inWorkspace(r, by)
	if err != nil {
		return err
	}
	b, err := decode(w, r)
	if err != nil {
		return err
	}
	ignored(w, others(b, permissionWords))
	// What is not said of a new set is the least that the vendor's pages have for it.
	p := access.PermissionSet{Rights: access.Rights{
		Pipeline: access.ReadOnly, Repository: access.ReadOnly, Team: access.ReadOnly,
		Sandbox: access.Denied, Environment: access.Denied, Target: access.Denied,
	}}
	if err := readPermission(&decoder{}, b)(&p); err != nil {
		return err
	}
	if p, err = h.Access.CreatePermissionSet(r.Context(), by, ws, p); err != nil {
		return err
	}
	return api.JSON(w, http.StatusCreated, fromPermission(at, p))
}

func (h *handlers) getPermission(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	ws, at, ids, err := h.inWorkspace(r, by, "permission")
	if err != nil {
		return err
	}
	p, err := h.Access.PermissionSet(r.Context(), by, ws, ids[0])
	if err != nil {
		return err
	}
	return api.JSON(w, http.StatusOK, fromPermission(at, p))
}

func (h *handlers) updatePermission(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	ws, at, ids, err := h.inWorkspace(r, by, "permission")
	if err != nil {
		return err
	}
	b, err := decode(w, r)
	if err != nil {
		return err
	}
	ignored(w, others(b, permissionWords))
	p, err := h.Access.UpdatePermissionSet(r.Context(), by, ws, ids[0], readPermission(&decoder{}, b))
	if err != nil {
		return err
	}
	return api.JSON(w, http.StatusOK, fromPermission(at, p))
}

func (h *handlers) deletePermission(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	ws, _, ids, err := h.inWorkspace(r, by, "permission")
	if err != nil {
		return err
	}
	if err := h.Access.DeletePermissionSet(r.Context(), by, ws, ids[0]); err != nil {
		return err
	}
	return noContent(w)
}
