package buddy

import (
	"encoding/json"
	"net/http"

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

func (h *handlers) listGroups(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	ws, at, _, err := h.inWorkspace(r, by)
	if err != nil {
		return err
	}
	all, err := h.Access.Groups(r.Context(), by, ws)
	if err != nil {
		return err
	}
	return pageOf(w, r, at, "/groups", "groups", all, func(g access.Group) string { return g.Name },
		func(g access.Group) int64 { return g.ID }, func(g access.Group) object { return fromGroup(at, g) })
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

const groupWords = "name description auto_assign_to_new_projects auto_assign_permission_set_id id url html_url members_url"

func (h *handlers) createGroup(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	ws, at, _, err := h.inWorkspace(r, by)
	if err != nil {
		return err
	}
	b, err := decode(w, r)
	if err != nil {
		return err
	}
	ignored(w, others(b, groupWords))
	var g access.Group
	if err := readGroup(&decoder{}, b)(&g); err != nil {
		return err
	}
	if g, err = h.Access.CreateGroup(r.Context(), by, ws, g); err != nil {
		return err
	}
	return api.JSON(w, http.StatusCreated, fromGroup(at, g))
}

func (h *handlers) getGroup(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	ws, at, ids, err := h.inWorkspace(r, by, "group")
	if err != nil {
		return err
	}
	g, err := h.Access.Group(r.Context(), by, ws, ids[0])
	if err != nil {
		return err
	}
	return api.JSON(w, http.StatusOK, fromGroup(at, g))
}

func (h *handlers) updateGroup(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	ws, at, ids, err := h.inWorkspace(r, by, "group")
	if err != nil {
		return err
	}
	b, err := decode(w, r)
	if err != nil {
		return err
	}
	ignored(w, others(b, groupWords))
	g, err := h.Access.UpdateGroup(r.Context(), by, ws, ids[0], readGroup(&decoder{}, b))
	if err != nil {
		return err
	}
	return api.JSON(w, http.StatusOK, fromGroup(at, g))
}

func (h *handlers) deleteGroup(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	ws, _, ids, err := h.inWorkspace(r, by, "group")
	if err != nil {
		return err
	}
	if err := h.Access.DeleteGroup(r.Context(), by, ws, ids[0]); err != nil {
		return err
	}
	return noContent(w)
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

func (h *handlers) listGroupMembers(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	ws, at, ids, err := h.inWorkspace(r, by, "group")
	if err != nil {
		return err
	}
	all, err := h.Access.GroupMembers(r.Context(), by, ws, ids[0])
	if err != nil {
		return err
	}
	return pageOf(w, r, at, "/groups/"+r.PathValue("group")+"/members", "members", all, func(g access.InGroup) string { return g.User.Name },
		func(g access.InGroup) int64 { return g.User.ID }, func(g access.InGroup) object { return fromInGroup(at, ids[0], g) })
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

func (h *handlers) addGroupMember(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	ws, at, ids, err := h.inWorkspace(r, by, "group")
	if err != nil {
		return err
	}
	b, err := decode(w, r)
	if err != nil {
		return err
	}
	d := &decoder{}
	id := d.id(b, "id")
	manager := readStatus(d, b)
	ignored(w, others(b, "id status"))
	if err := d.inv.Err(); err != nil {
		return err
	}
	g, err := h.Access.AddToGroup(r.Context(), by, ws, ids[0], id, manager)
	if err != nil {
		return err
	}
	return api.JSON(w, http.StatusCreated, fromInGroup(at, ids[0], g))
}

// id reads an id that must be there.
func (d *decoder) id(b body, name string) (id int64) {
	d.member(b, name, func(raw json.RawMessage) { id = d.int(raw) })
	if id == 0 && len(d.inv.Fields) == 0 {
		d.at(name, func() { d.bad("required", "is required") })
	}
	return id
}

func (h *handlers) getGroupMember(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	ws, at, ids, err := h.inWorkspace(r, by, "group", "member")
	if err != nil {
		return err
	}
	g, err := h.Access.GroupMember(r.Context(), by, ws, ids[0], ids[1])
	if err != nil {
		return err
	}
	return api.JSON(w, http.StatusOK, fromInGroup(at, ids[0], g))
}

func (h *handlers) updateGroupMember(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	ws, at, ids, err := h.inWorkspace(r, by, "group", "member")
	if err != nil {
		return err
	}
	b, err := decode(w, r)
	if err != nil {
		return err
	}
	d := &decoder{}
	manager := readStatus(d, b)
	ignored(w, others(b, "status id"))
	if err := d.inv.Err(); err != nil {
		return err
	}
	g, err := h.Access.UpdateInGroup(r.Context(), by, ws, ids[0], ids[1], manager)
	if err != nil {
		return err
	}
	return api.JSON(w, http.StatusOK, fromInGroup(at, ids[0], g))
}

func (h *handlers) deleteGroupMember(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	ws, _, ids, err := h.inWorkspace(r, by, "group", "member")
	if err != nil {
		return err
	}
	if err := h.Access.RemoveFromGroup(r.Context(), by, ws, ids[0], ids[1]); err != nil {
		return err
	}
	return noContent(w)
}
