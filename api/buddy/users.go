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
		{"name", or(u.Name, u.Username)},
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
		{"name", or(u.Name, u.Username)},
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

func (h *handlers) fromToken(t access.Token, domains map[string]string) object {
	workspaces := []string{}
	for _, id := range t.Workspaces {
		workspaces = append(workspaces, or(domains[id], id))
	}
	return object{
		{"url", h.base + "/user/tokens/" + t.ID},
		{"html_url", h.base + "/ui/user/tokens"},
		{"id", t.ID},
		{"name", t.Name},
		{"expires_at", stamp(t.Expires)},
		{"created_at", stamp(t.Created)},
		{"last_used_at", stamp(t.LastUsed)},
		{"scopes", list(t.Scopes)},
		{"ip_restrictions", list(t.IPs)},
		{"workspace_restrictions", workspaces},
	}
}

func (h *handlers) listTokens(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	all, err := h.Access.Tokens(r.Context(), by)
	if err != nil {
		return err
	}
	domains, _, err := h.domains(r, by)
	if err != nil {
		return err
	}
	q, err := readWhole(r, len(all))
	if err != nil {
		return err
	}
	l := []object{}
	for _, t := range sorted(all, q, func(t access.Token) string { return t.Name }, func(t access.Token) int64 { return t.Created.UnixMicro() }) {
		l = append(l, h.fromToken(t, domains))
	}
	return api.JSON(w, http.StatusOK, object{
		{"url", h.base + "/user/tokens"}, {"html_url", h.base + "/ui/user/tokens"}, {"access_tokens", l},
	})
}

func (h *handlers) createToken(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	b, err := decode(w, r)
	if err != nil {
		return err
	}
	domains, ids, err := h.domains(r, by)
	if err != nil {
		return err
	}
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
			d.bad("minimum", "must be a number of days")
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
		n.Expires = t
	})
	ignored(w, others(b, "name scopes ip_restrictions workspace_restrictions expires_in expires_at"))
	if err := d.checked(func(inv *project.Invalid) {
		if bad, ok := project.AsInvalid(n.Validate(time.Now())); ok {
			inv.Fields = bad.Fields
		}
	}); err != nil {
		return err
	}
	t, secret, err := h.Access.CreateToken(r.Context(), by, n)
	if err != nil {
		return err
	}
	return api.JSON(w, http.StatusCreated, h.fromToken(t, domains).with("token", secret))
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

func (h *handlers) token(r *http.Request, by access.Actor, id string) (access.Token, error) {
	all, err := h.Access.Tokens(r.Context(), by)
	for _, t := range all {
		if t.ID == id {
			return t, nil
		}
	}
	if err == nil {
		err = fmt.Errorf("token %s: %w", id, errdefs.ErrNotFound)
	}
	return access.Token{}, err
}

func (h *handlers) getToken(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	t, err := h.token(r, by, r.PathValue("id"))
	if err != nil {
		return err
	}
	domains, _, err := h.domains(r, by)
	if err != nil {
		return err
	}
	return api.JSON(w, http.StatusOK, h.fromToken(t, domains))
}

func (h *handlers) getOwnToken(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	if by.Token.ID == "" {
		return fmt.Errorf("the token of this request: %w", errdefs.ErrNotFound)
	}
	domains, _, err := h.domains(r, by)
	if err != nil {
		return err
	}
	return api.JSON(w, http.StatusOK, h.fromToken(by.Token, domains))
}

func (h *handlers) deleteToken(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	if err := h.Access.DeleteToken(r.Context(), by, r.PathValue("id")); err != nil {
		return err
	}
	return noContent(w)
}
