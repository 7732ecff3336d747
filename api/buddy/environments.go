package buddy

import (
	"encoding/json"
	"net/http"

	"github.com/containerd/errdefs"

	"slipway/access"
	"slipway/api"
	"slipway/project"
	"slipway/secret"
)

// Scopes of environments.
const (
	ofWorkspace = "WORKSPACE"
	ofProject   = "PROJECT"
)

func (h *handlers) environments() map[string]api.Handler {
	return routes(h, atWorkspace, noun[secret.Environment]{
		path: "/environments", name: "environment", key: "environments", words: "identifier name scope project", text: true,
		list: func(q ask) ([]secret.Environment, error) {
			var in project.ID
			v := q.r.URL.Query()
			if name := or(v.Get("project_name"), v.Get("projectName")); name != "" {
				p, err := h.Projects.Find(q.ctx(), q.by, q.ws.ID, name)
				if err != nil {
					return nil, err
				}
				in = p.ID
			}
			return h.Secrets.Environments(q.ctx(), q.by, q.ws.ID, in)
		},
		create: h.createEnvironment,
		get: func(q ask) (secret.Environment, error) {
			return h.Secrets.Environment(q.ctx(), q.by, q.ws.ID, q.r.PathValue("environment"))
		},
		remove: func(q ask) error {
			return h.Secrets.DeleteEnvironment(q.ctx(), q.by, q.ws.ID, q.r.PathValue("environment"))
		},
		title: func(e secret.Environment) string { return e.Name },
		id:    func(e secret.Environment) int64 { return e.Created.UnixMicro() },
		from: func(q ask, _ bool) (func(secret.Environment) (object, error), error) {
			return func(e secret.Environment) (object, error) { return h.fromEnvironment(q.r, q.by, q.at, e) }, nil
		},
	})
}

func (h *handlers) fromEnvironment(r *http.Request, by access.Actor, at place, e secret.Environment) (object, error) {
	scope := ofWorkspace
	var of any
	if e.Project != "" {
		p, err := h.Projects.Get(r.Context(), by, string(e.Project))
		if err != nil {
			return nil, err
		}
		scope, of = ofProject, h.shortProject(p)
	}
	return object{
		{"url", at.url("/environments/%s", e.ID)},
		{"html_url", at.page("/environments/%s", e.ID)},
		{"id", e.ID},
		{"identifier", e.Identifier},
		{"name", e.Name},
		{"scope", scope},
		{"project", of},
		{"create_date", stamp(e.Created)},
	}, nil
}

func (h *handlers) createEnvironment(q ask, b body) (secret.Environment, error) {
	d := &decoder{}
	e := secret.Environment{Workspace: q.ws.ID}
	scope, name := "", ""
	d.member(b, "identifier", func(raw json.RawMessage) { e.Identifier = d.str(raw) })
	d.member(b, "name", func(raw json.RawMessage) { e.Name = d.str(raw) })
	d.member(b, "scope", func(raw json.RawMessage) { scope = d.str(raw) })
	d.member(b, "project", func(raw json.RawMessage) {
		d.member(d.object(raw), "name", func(raw json.RawMessage) { name = d.str(raw) })
	})
	switch {
	case scope != "" && scope != ofWorkspace && scope != ofProject:
		d.inv.Add("scope", "enum", "must be one of WORKSPACE, PROJECT")
	case scope == ofProject && name == "":
		d.inv.Add("project.name", "required", "must say which one")
	case scope == ofWorkspace && name != "":
		d.inv.Add("project", "conflict", "goes with scope PROJECT")
	}
	if name != "" {
		p, err := h.Projects.Find(q.ctx(), q.by, q.ws.ID, name)
		if errdefs.IsNotFound(err) {
			d.inv.Add("project.name", "unknown", "does not exist")
		} else if err != nil {
			return e, err
		}
		e.Project = p.ID
	}
	if err := d.valid(e.Validate); err != nil {
		return e, err
	}
	return h.Secrets.CreateEnvironment(q.ctx(), q.by, e)
}
