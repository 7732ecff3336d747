package native

import (
	"net/http"
	"time"

	"slipway/access"
	"slipway/api"
)

// app is an application that users may give tokens to by OAuth2.
type app struct {
	ID        string    `json:"client_id"`
	Secret    string    `json:"client_secret,omitempty"` // when it is made
	Name      string    `json:"name"`
	Redirects []string  `json:"redirect_uris"`
	Created   time.Time `json:"created"`
}

func fromApp(p access.App, secret string) app {
	return app{p.ID, secret, p.Name, p.Redirects, p.Created.UTC().Truncate(time.Millisecond)}
}

func (h *Handlers) listApps(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	all, err := h.Access.Apps(r.Context(), by)
	if err != nil {
		return err
	}
	l := []app{}
	for _, p := range all {
		l = append(l, fromApp(p, ""))
	}
	return api.JSON(w, http.StatusOK, map[string]any{"applications": l})
}

func (h *Handlers) createApp(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	var b struct {
		Name      string   `json:"name"`
		Redirects []string `json:"redirect_uris"`
	}
	if err := api.Decode(w, r, &b); err != nil {
		return err
	}
	p, secret, err := h.Access.CreateApp(r.Context(), by, access.App{Name: b.Name, Redirects: b.Redirects})
	if err != nil {
		return err
	}
	return api.JSON(w, http.StatusCreated, fromApp(p, secret))
}

func (h *Handlers) deleteApp(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	if err := h.Access.DeleteApp(r.Context(), by, r.PathValue("application")); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
