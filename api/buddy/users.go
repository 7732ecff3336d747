package buddy

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"slipway/access"
	"slipway/api"
	"slipway/project"
)

func (h *handlers) fromUser(u access.User) object {
	return object{
		{"url", h.base + "/user"},
		{"html_url", h.base + "/ui/user"},
		{"id", u.ID},
		{"name", u.Called()},
		{"avatar_url", h.base + "/ui/avatar.svg"},
		{"workspaces_url", h.base + "/workspaces"},
	}
}

// user is who did something, null for the server itself or for somebody who is
// gone.
func (h *handlers) user(r *http.Request, id int64) (any, error) {
	if id == 0 {
		return nil, nil
	}
	u, err := h.Access.User(r.Context(), id)
	if errdefs.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return object{
		{"url", h.base + "/user"},
		{"html_url", h.base + "/ui/user"},
		{"id", u.ID},
		{"name", u.Called()},
		{"avatar_url", h.base + "/ui/avatar.svg"},
		{"email", orNull(u.Email)},
	}, nil
}

func (h *handlers) getUser(w http.ResponseWriter, _ *http.Request, by access.Actor) error {
	if err := by.Has(access.UserInfo); err != nil {
		return err
	}
	return api.JSON(w, http.StatusOK, h.fromUser(by.User))
}

// renameUser changes the name; nothing else of a user can be said here.
func (h *handlers) renameUser(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	if err := by.Has(access.UserInfo); err != nil {
		return err
	}
	b, err := decode(w, r)
	if err != nil {
		return err
	}
	name := by.User.Name
	d := &decoder{}
	d.member(b, "name", func(raw json.RawMessage) { name = d.str(raw) })
	ignored(w, others(b, "name id url html_url avatar_url workspaces_url"))
	if err := d.inv.Err(); err != nil {
		return err
	}
	if _, ok := b["name"]; !ok {
		return api.JSON(w, http.StatusOK, h.fromUser(by.User))
	}
	u, err := h.Access.Rename(r.Context(), by, name)
	if err != nil {
		return err
	}
	return api.JSON(w, http.StatusOK, h.fromUser(u))
}

// domains gives the names of the workspaces that the actor sees, by id and the
// other way round.
func (h *handlers) domains(r *http.Request, by access.Actor) (byID, byName map[string]string, err error) {
	l, err := h.Projects.Workspaces(r.Context(), by)
	if errdefs.IsPermissionDenied(err) { // who may not look may still have tokens
		err = nil
	}
	byID, byName = map[string]string{}, map[string]string{}
	for _, w := range l {
		byID[w.ID], byName[w.Domain] = w.Domain, w.ID
	}
	return byID, byName, err
}

// aToken is a token, and what it is said by when it was just made.
type aToken struct {
	access.Token
	secret string
}

func fromToken(at place, t aToken, domains map[string]string) object {
	workspaces := []string{}
	for _, id := range t.Workspaces {
		workspaces = append(workspaces, or(domains[id], id))
	}
	o := object{
		{"url", at.url("/tokens/%s", t.ID)},
		{"html_url", at.page("/tokens")},
		{"id", t.ID},
		{"name", t.Name},
		{"expires_at", stamp(t.Expires)},
		{"created_at", stamp(t.Created)},
		{"last_used_at", stamp(t.LastUsed)},
		{"scopes", list(t.Scopes)},
		{"ip_restrictions", list(t.IPs)},
		{"workspace_restrictions", workspaces},
	}
	if t.secret != "" {
		o = o.with("token", t.secret)
	}
	return o
}

func (h *handlers) tokens() map[string]api.Handler {
	list := func(q ask) (l []aToken, err error) {
		all, err := h.Access.Tokens(q.ctx(), q.by)
		for _, t := range all {
			l = append(l, aToken{Token: t})
		}
		return l, err
	}
	return routes(h, atUser, noun[aToken]{
		path: "/tokens", name: "id", key: "access_tokens", text: true, whole: true,
		words: "name scopes ip_restrictions workspace_restrictions expires_in expires_at",
		list:  list,
		create: func(q ask, b body) (aToken, error) {
			_, ids, err := h.domains(q.r, q.by)
			if err != nil {
				return aToken{}, err
			}
			n, err := readToken(b, ids)
			if err != nil {
				return aToken{}, err
			}
			t, secret, err := h.Access.CreateToken(q.ctx(), q.by, n)
			return aToken{t, secret}, err
		},
		get: func(q ask) (aToken, error) {
			all, err := list(q)
			return oneOf(all, err, "token", q.r.PathValue("id"), func(t aToken) string { return t.ID })
		},
		remove: func(q ask) error { return h.Access.DeleteToken(q.ctx(), q.by, q.r.PathValue("id")) },
		title:  func(t aToken) string { return t.Name },
		id:     func(t aToken) int64 { return t.Created.UnixMicro() },
		from: func(q ask, _ bool) (func(aToken) (object, error), error) {
			domains, _, err := h.domains(q.r, q.by)
			return func(t aToken) (object, error) { return fromToken(q.at, t, domains), nil }, err
		},
	})
}

// readToken reads what is asked for of a new token; ids are those of the workspaces
// by their names.
func readToken(b body, ids map[string]string) (access.NewToken, error) {
	var n access.NewToken
	d := &decoder{}
	d.member(b, "name", func(raw json.RawMessage) { n.Name = d.str(raw) })
	d.member(b, "scopes", func(raw json.RawMessage) {
		for _, s := range d.strings(raw) {
			n.Scopes = append(n.Scopes, access.Scope(s))
		}
	})
	d.member(b, "ip_restrictions", func(raw json.RawMessage) { n.IPs = d.strings(raw) })
	d.member(b, "workspace_restrictions", func(raw json.RawMessage) {
		for _, name := range d.strings(raw) {
			id, ok := ids[name]
			if !ok {
				d.bad("unknown", "there is no workspace %q", name)
			}
			n.Workspaces = append(n.Workspaces, id)
		}
	})
	d.member(b, "expires_in", func(raw json.RawMessage) {
		switch days := d.int(raw); {
		case days < 0 || days > 36500:
			d.bad("minimum", "must be a number of days, 0 (for ever) to 36500")
		case days > 0:
			n.Expires = time.Now().AddDate(0, 0, int(days))
		}
	})
	d.member(b, "expires_at", func(raw json.RawMessage) {
		s := d.str(raw)
		if s == "" {
			return
		}
		t, err := time.Parse(time.RFC3339, s)
		if err != nil {
			d.bad("format", "must be a time like 2026-01-31T12:00:00Z")
		}
		if n.Expires = t; b["expires_in"] != nil && !isNull(b["expires_in"]) {
			d.bad("conflict", "does not go with expires_in: say one of the two")
		}
	})
	if err := d.checked(func(inv *project.Invalid) {
		if bad, ok := project.AsInvalid(n.Validate(time.Now())); ok {
			inv.Fields = bad.Fields
		}
	}); err != nil {
		return n, err
	}
	return n, nil
}

func (h *handlers) getOwnToken(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	if by.Token.ID == "" {
		return fmt.Errorf("the token of this request: %w", errdefs.ErrNotFound)
	}
	domains, _, err := h.domains(r, by)
	if err != nil {
		return err
	}
	return api.JSON(w, http.StatusOK, fromToken(place{base: h.base}, aToken{Token: by.Token}, domains))
}

// others lists the members of a body that are not among words.
func others(b body, words string) (l []string) {
	for name := range b {
		if !strings.Contains(" "+words+" ", " "+name+" ") {
			l = append(l, name)
		}
	}
	return l
}
