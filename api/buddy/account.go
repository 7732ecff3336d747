package buddy

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"

	"github.com/containerd/errdefs"

	"slipway/access"
	"slipway/api"
)

func (h *handlers) fromKey(k access.Key) object {
	return object{
		{"url", fmt.Sprintf("%s/user/keys/%d", h.base, k.ID)},
		{"html_url", h.base + "/ui/user/keys"},
		{"id", k.ID},
		{"title", k.Title},
		{"content", k.Content},
	}
}

func (h *handlers) listKeys(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	all, err := h.Access.Keys(r.Context(), by)
	if err != nil {
		return err
	}
	q, err := readWhole(r, len(all))
	if err != nil {
		return err
	}
	l := []object{}
	for _, k := range sorted(all, q, func(k access.Key) string { return k.Title }, func(k access.Key) int64 { return k.ID }) {
		l = append(l, h.fromKey(k))
	}
	return api.JSON(w, http.StatusOK, object{{"url", h.base + "/user/keys"}, {"html_url", h.base + "/ui/user/keys"}, {"keys", l}})
}

func (h *handlers) getKey(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	all, err := h.Access.Keys(r.Context(), by)
	if err != nil {
		return err
	}
	id, err := number(r, "key")
	if err != nil {
		return err
	}
	for _, k := range all {
		if k.ID == id {
			return api.JSON(w, http.StatusOK, h.fromKey(k))
		}
	}
	return fmt.Errorf("key %d: %w", id, errdefs.ErrNotFound)
}

func (h *handlers) addKey(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	b, err := decode(w, r)
	if err != nil {
		return err
	}
	var k access.Key
	d := &decoder{}
	d.member(b, "title", func(raw json.RawMessage) { k.Title = d.str(raw) })
	d.member(b, "content", func(raw json.RawMessage) { k.Content = d.whole(raw) })
	ignored(w, others(b, "title content id url html_url"))
	if err := d.inv.Err(); err != nil {
		return err
	}
	if k, err = h.Access.AddKey(r.Context(), by, k); err != nil {
		return err
	}
	return api.JSON(w, http.StatusCreated, h.fromKey(k))
}

func (h *handlers) deleteKey(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	if err := by.Has(access.UserKey); err != nil {
		return err
	}
	id, err := number(r, "key")
	if err != nil {
		return err
	}
	if err := h.Access.DeleteKey(r.Context(), by, id); err != nil {
		return err
	}
	return noContent(w)
}

// fromEmail: nobody asked an address whether it is right.
func (h *handlers) fromEmail(e access.Email) object {
	return object{
		{"url", h.base + "/user/emails/" + url.PathEscape(e.Address)},
		{"html_url", h.base + "/ui/user/emails"},
		{"email", e.Address},
		{"confirmed", false},
	}
}

func (h *handlers) listEmails(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	all, err := h.Access.Emails(r.Context(), by)
	if err != nil {
		return err
	}
	q, err := readWhole(r, len(all))
	if err != nil {
		return err
	}
	l := []object{}
	for _, e := range sorted(all, q, func(e access.Email) string { return e.Address }, func(access.Email) int64 { return 0 }) {
		l = append(l, h.fromEmail(e))
	}
	return api.JSON(w, http.StatusOK, object{{"url", h.base + "/user/emails"}, {"html_url", h.base + "/ui/user/emails"}, {"emails", l}})
}

func (h *handlers) addEmail(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	b, err := decode(w, r)
	if err != nil {
		return err
	}
	address := ""
	d := &decoder{}
	d.member(b, "email", func(raw json.RawMessage) { address = d.str(raw) })
	ignored(w, others(b, "email url html_url confirmed"))
	if err := d.inv.Err(); err != nil {
		return err
	}
	e, err := h.Access.AddEmail(r.Context(), by, address)
	if err != nil {
		return err
	}
	return api.JSON(w, http.StatusCreated, h.fromEmail(e))
}

func (h *handlers) deleteEmail(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	if err := h.Access.DeleteEmail(r.Context(), by, r.PathValue("email")); err != nil {
		return err
	}
	return noContent(w)
}
