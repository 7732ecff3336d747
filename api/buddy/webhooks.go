package buddy

import (
	"fmt"
	"net/http"
	"strconv"

	"github.com/containerd/errdefs"

	"slipway/access"
	"slipway/api"
	"slipway/event"
	"slipway/project"
)

// hookBody is what is said of a webhook.
type hookBody struct {
	URL      api.Opt[string]   `json:"target_url"`
	Events   api.Opt[[]string] `json:"events"`
	Projects api.Opt[[]string] `json:"projects"`
	Secret   api.Opt[string]   `json:"secret_key"`
}

// names gives the projects of a workspace by their names, and the other way
// round.
func (h *handlers) names(r *http.Request, by access.Actor, workspace string) (ids, names map[string]string, err error) {
	all, err := h.Projects.List(r.Context(), by, project.Filter{Workspace: workspace})
	ids, names = map[string]string{}, map[string]string{}
	for _, p := range all {
		ids[p.Name], names[string(p.ID)] = string(p.ID), p.Name
	}
	return ids, names, err
}

// into changes a hook as the body says; ids are the projects by name.
func (b hookBody) into(k *event.Hook, ids, names map[string]string) error {
	b.URL.Into(&k.URL)
	b.Secret.Into(&k.Secret)
	if b.Events.Set {
		k.Events = nil
		for _, w := range b.Events.V {
			k.Events = append(k.Events, event.Word(w))
		}
	}
	if !b.Projects.Set {
		return nil
	}
	var inv project.Invalid
	had := k.Projects
	k.Projects = nil
	for i, name := range b.Projects.V {
		id, ok := ids[name]
		for _, p := range had { // one that was deleted meanwhile can stay
			if _, there := names[p.ID]; !ok && !there && p.Name == name {
				id, ok = p.ID, true
			}
		}
		if !ok {
			inv.Add("projects."+strconv.Itoa(i), "unknown", "there is no project "+name)
			if len(inv.Fields) > 100 {
				break
			}
			continue
		}
		k.Projects = append(k.Projects, event.HookProject{ID: id, Name: name})
	}
	return inv.Err()
}

// fromHook is a webhook in a list; whole adds its last requests.
func fromHook(at place, k event.Hook, names map[string]string) object {
	projects := []string{}
	for _, p := range k.Projects {
		projects = append(projects, or(names[p.ID], p.Name))
	}
	return object{
		{"url", at.url("/webhooks/%d", k.Number)},
		{"html_url", at.page("/webhooks/%d", k.Number)},
		{"id", k.Number},
		{"target_url", k.URL},
		{"secret_key", orNull(k.Secret)},
		{"projects", projects},
		{"events", list(k.Events)},
	}
}

func wholeHook(at place, k event.Hook, names map[string]string) object {
	requests := []object{}
	for _, q := range k.Requests {
		var status any // a number would break clients
		if q.Status != 0 {
			status = strconv.Itoa(q.Status)
		}
		requests = append(requests, object{{"post_date", stamp(q.Sent)}, {"response_status", status}, {"body", q.Body}, {"error", orNull(q.Error)}})
	}
	return fromHook(at, k, names).with("requests", requests)
}

// hooks finds the workspace of a path, and the number of a webhook if there is
// one in it.
func (h *handlers) hooks(r *http.Request, by access.Actor) (ws project.Workspace, at place, n int64, err error) {
	if ws, err = h.Projects.Workspace(r.Context(), by, r.PathValue("workspace")); err != nil {
		return ws, at, 0, err
	}
	at = place{base: h.base, workspace: ws.Domain}
	if s := r.PathValue("webhook"); s != "" {
		if n, err = strconv.ParseInt(s, 10, 64); err != nil {
			err = fmt.Errorf("webhook %q: %w", s, errdefs.ErrNotFound)
		}
	}
	return ws, at, n, err
}

func (h *handlers) listHooks(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	ws, at, _, err := h.hooks(r, by)
	if err != nil {
		return err
	}
	all, err := h.Hooks.List(r.Context(), by, ws.ID)
	if err != nil {
		return err
	}
	_, names, err := h.names(r, by, ws.ID)
	if err != nil {
		return err
	}
	l := []object{}
	for _, k := range all {
		l = append(l, fromHook(at, k, names))
	}
	return api.JSON(w, http.StatusOK, object{{"url", at.url("/webhooks")}, {"html_url", at.page("/webhooks")}, {"webhooks", l}})
}

func (h *handlers) createHook(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	ws, at, _, err := h.hooks(r, by)
	if err != nil {
		return err
	}
	var b hookBody
	if err := api.Decode(w, r, &b); err != nil {
		return err
	}
	ids, names, err := h.names(r, by, ws.ID)
	if err != nil {
		return err
	}
	k, err := h.Hooks.Create(r.Context(), by, ws.ID, func(k *event.Hook) error { return b.into(k, ids, names) })
	if err != nil {
		return err
	}
	return api.JSON(w, http.StatusCreated, wholeHook(at, k, names))
}

func (h *handlers) getHook(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	ws, at, n, err := h.hooks(r, by)
	if err != nil {
		return err
	}
	k, err := h.Hooks.Get(r.Context(), by, ws.ID, n)
	if err != nil {
		return err
	}
	_, names, err := h.names(r, by, ws.ID)
	if err != nil {
		return err
	}
	return api.JSON(w, http.StatusOK, wholeHook(at, k, names))
}

func (h *handlers) updateHook(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	ws, at, n, err := h.hooks(r, by)
	if err != nil {
		return err
	}
	var b hookBody
	if err := api.Decode(w, r, &b); err != nil {
		return err
	}
	ids, names, err := h.names(r, by, ws.ID)
	if err != nil {
		return err
	}
	k, err := h.Hooks.Update(r.Context(), by, ws.ID, n, func(k *event.Hook) error { return b.into(k, ids, names) })
	if err != nil {
		return err
	}
	return api.JSON(w, http.StatusOK, wholeHook(at, k, names))
}

func (h *handlers) deleteHook(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	ws, _, n, err := h.hooks(r, by)
	if err != nil {
		return err
	}
	if err := h.Hooks.Delete(r.Context(), by, ws.ID, n); err != nil {
		return err
	}
	return noContent(w)
}
