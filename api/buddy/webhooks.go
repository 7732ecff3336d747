package buddy

import (
	"encoding/json"
	"net/http"
	"strconv"

	"slipway/access"
	"slipway/api"
	"slipway/event"
	"slipway/project"
)

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

// changeHook reads what a body changes of a hook.
func (h *handlers) changeHook(q ask, b body) (func(*event.Hook) error, error) {
	d, given := &decoder{}, event.Hook{}
	var projects []string
	d.member(b, "target_url", func(raw json.RawMessage) { given.URL = d.str(raw) })
	d.member(b, "secret_key", func(raw json.RawMessage) { given.Secret = d.str(raw) })
	d.member(b, "events", func(raw json.RawMessage) {
		for _, w := range d.strings(raw) {
			given.Events = append(given.Events, event.Word(w))
		}
	})
	d.member(b, "projects", func(raw json.RawMessage) { projects = d.strings(raw) })
	if err := d.inv.Err(); err != nil {
		return nil, err
	}
	ids, names, err := h.names(q.r, q.by, q.ws.ID)
	return func(k *event.Hook) error {
		d := &decoder{}
		d.member(b, "target_url", func(json.RawMessage) { k.URL = given.URL })
		d.member(b, "secret_key", func(json.RawMessage) { k.Secret = given.Secret })
		d.member(b, "events", func(json.RawMessage) { k.Events = given.Events })
		d.member(b, "projects", func(json.RawMessage) { d.hookProjects(k, projects, ids, names) })
		return d.inv.Err()
	}, err
}

// hookProjects gives a hook its projects; ids are those of the workspace by name.
func (d *decoder) hookProjects(k *event.Hook, projects []string, ids, names map[string]string) {
	had := k.Projects
	k.Projects = nil
	for i, name := range projects {
		id, ok := ids[name]
		for _, p := range had { // one that was deleted meanwhile can stay
			if _, there := names[p.ID]; !ok && !there && p.Name == name {
				id, ok = p.ID, true
			}
		}
		if !ok {
			d.at(strconv.Itoa(i), func() { d.bad("unknown", "there is no project %s", name) })
			if len(d.inv.Fields) > 100 {
				return
			}
			continue
		}
		k.Projects = append(k.Projects, event.HookProject{ID: id, Name: name})
	}
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

func (h *handlers) webhooks() map[string]api.Handler {
	return routes(h, atWorkspace, noun[event.Hook]{
		path: "/webhooks", name: "webhook", key: "webhooks", words: "target_url events projects secret_key requests", whole: true,
		list: func(q ask) ([]event.Hook, error) { return h.Hooks.List(q.ctx(), q.by, q.ws.ID) },
		create: func(q ask, b body) (event.Hook, error) {
			change, err := h.changeHook(q, b)
			if err != nil {
				return event.Hook{}, err
			}
			return h.Hooks.Create(q.ctx(), q.by, q.ws.ID, change)
		},
		get: func(q ask) (event.Hook, error) { return h.Hooks.Get(q.ctx(), q.by, q.ws.ID, q.n["webhook"]) },
		update: func(q ask, b body) (event.Hook, error) {
			change, err := h.changeHook(q, b)
			if err != nil {
				return event.Hook{}, err
			}
			return h.Hooks.Update(q.ctx(), q.by, q.ws.ID, q.n["webhook"], change)
		},
		remove: func(q ask) error { return h.Hooks.Delete(q.ctx(), q.by, q.ws.ID, q.n["webhook"]) },
		title:  func(k event.Hook) string { return k.URL },
		id:     func(k event.Hook) int64 { return k.Number },
		from: func(q ask, alone bool) (func(event.Hook) (object, error), error) {
			_, names, err := h.names(q.r, q.by, q.ws.ID)
			write := fromHook
			if alone {
				write = wholeHook
			}
			return func(k event.Hook) (object, error) { return write(q.at, k, names), nil }, err
		},
	})
}
