package buddy

import (
	"encoding/json"
	"fmt"
	"net/url"
	"slices"

	"github.com/containerd/errdefs"

	"slipway/access"
	"slipway/api"
)

func fromKey(at place, k access.Key) object {
	return object{
		{"url", at.url("/keys/%d", k.ID)},
		{"html_url", at.page("/keys")},
		{"id", k.ID},
		{"title", k.Title},
		{"content", k.Content},
	}
}

// keys are those that the user may give to git over SSH.
func (h *handlers) keys() map[string]api.Handler {
	list := func(q ask) ([]access.Key, error) { return h.Access.Keys(q.ctx(), q.by) }
	return routes(h, atUser, noun[access.Key]{
		path: "/keys", name: "key", key: "keys", words: "title content", whole: true,
		list: list,
		create: func(q ask, b body) (k access.Key, err error) {
			d := &decoder{}
			d.member(b, "title", func(raw json.RawMessage) { k.Title = d.str(raw) })
			d.member(b, "content", func(raw json.RawMessage) { k.Content = d.whole(raw) })
			if err := d.inv.Err(); err != nil {
				return k, err
			}
			return h.Access.AddKey(q.ctx(), q.by, k)
		},
		get: func(q ask) (access.Key, error) {
			all, err := list(q)
			return oneOf(all, err, "key", q.n["key"], func(k access.Key) int64 { return k.ID })
		},
		remove: func(q ask) error { return h.Access.DeleteKey(q.ctx(), q.by, q.n["key"]) },
		title:  func(k access.Key) string { return k.Title },
		id:     func(k access.Key) int64 { return k.ID },
		from:   plain(fromKey),
	})
}

// fromEmail: nobody asked an address whether it is right.
func fromEmail(at place, e access.Email) object {
	return object{
		{"url", at.url("/emails/%s", url.PathEscape(e.Address))},
		{"html_url", at.page("/emails")},
		{"email", e.Address},
		{"confirmed", false},
	}
}

func (h *handlers) emails() map[string]api.Handler {
	return routes(h, atUser, noun[access.Email]{
		path: "/emails", name: "email", key: "emails", words: "email confirmed", text: true, whole: true,
		list: func(q ask) ([]access.Email, error) { return h.Access.Emails(q.ctx(), q.by) },
		create: func(q ask, b body) (access.Email, error) {
			address := ""
			d := &decoder{}
			d.member(b, "email", func(raw json.RawMessage) { address = d.str(raw) })
			if err := d.inv.Err(); err != nil {
				return access.Email{}, err
			}
			return h.Access.AddEmail(q.ctx(), q.by, address)
		},
		remove: func(q ask) error { return h.Access.DeleteEmail(q.ctx(), q.by, q.r.PathValue("email")) },
		title:  func(e access.Email) string { return e.Address },
		id:     func(access.Email) int64 { return 0 },
		from:   plain(fromEmail),
	})
}

// oneOf finds one of a list by what it is known by.
func oneOf[T any, K comparable](all []T, err error, what string, id K, of func(T) K) (T, error) {
	i := slices.IndexFunc(all, func(v T) bool { return of(v) == id })
	if err == nil && i < 0 {
		err = fmt.Errorf("%s %v: %w", what, id, errdefs.ErrNotFound)
	}
	if err != nil {
		var none T
		return none, err
	}
	return all[i], nil
}
