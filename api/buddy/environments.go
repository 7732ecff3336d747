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

func (h *handlers) listEnvironments(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	ws, at, err := h.workspace(r, by)
	if err != nil {
		return err
	}
	q, err := readQuery(r)
	if err != nil {
		return err
	}
	var in project.ID
	if name := or(r.URL.Query().Get("project_name"), r.URL.Query().Get("projectName")); name != "" {
		p, err := h.Projects.Find(r.Context(), by, ws.ID, name)
		if err != nil {
			return err
		}
		in = p.ID
	}
	all, err := h.Secrets.Environments(r.Context(), by, ws.ID, in)
	if err != nil {
		return err
	}
	l := []object{}
	for _, e := range sorted(all, q, func(e secret.Environment) string { return e.Name }, func(e secret.Environment) int64 { return e.Created.UnixMicro() }) {
		o, err := h.fromEnvironment(r, by, at, e)
		if err != nil {
			return err
		}
		l = append(l, o)
	}
	return api.JSON(w, http.StatusOK, object{{"url", at.url("/environments")}, {"html_url", at.page("/environments")}, {"environments", l}})
}

func (h *handlers) createEnvironment(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	ws, at, err := h.workspace(r, by)
	if err != nil {
		return err
	}
	b, err := decode(w, r)
	if err != nil {
		return err
	}
	d := &decoder{}
	e := secret.Environment{Workspace: ws.ID}
	scope, name := "", ""
	d.member(b, "identifier", func(raw json.RawMessage) { e.Identifier = d.str(raw) })
	d.member(b, "name", func(raw json.RawMessage) { e.Name = d.str(raw) })
	d.member(b, "scope", func(raw json.RawMessage) { scope = d.str(raw) })
	d.member(b, "project", func(raw json.RawMessage) {
		d.member(d.object(raw), "name", func(raw json.RawMessage) { name = d.str(raw) })
	})
	ignored(w, others(b, "identifier name scope project"))
	switch {
	case scope != "" && scope != ofWorkspace && scope != ofProject:
		d.inv.Add("scope", "enum", "must be one of WORKSPACE, PROJECT")
	case scope == ofProject && name == "":
		d.inv.Add("project.name", "required", "must say which one")
	case scope == ofWorkspace && name != "":
		d.inv.Add("project", "conflict", "goes with scope PROJECT")
	}
	if name != "" {
		p, err := h.Projects.Find(r.Context(), by, ws.ID, name)
		if errdefs.IsNotFound(err) {
			d.inv.Add("project.name", "unknown", "does not exist")
		} else if err != nil {
			return err
		}
		e.Project = p.ID
	}
	if err := d.checked(func(inv *project.Invalid) {
		if bad, ok := project.AsInvalid(e.Validate()); ok {
			inv.Fields = bad.Fields
		}
	}); err != nil {
		return err
	}
	if e, err = h.Secrets.CreateEnvironment(r.Context(), by, e); err != nil {
		return err
	}
	o, err := h.fromEnvironment(r, by, at, e)
	if err != nil {
		return err
	}
	return api.JSON(w, http.StatusCreated, o)
}

func (h *handlers) getEnvironment(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	ws, at, err := h.workspace(r, by)
	if err != nil {
		return err
	}
	e, err := h.Secrets.Environment(r.Context(), by, ws.ID, r.PathValue("environment"))
	if err != nil {
		return err
	}
	o, err := h.fromEnvironment(r, by, at, e)
	if err != nil {
		return err
	}
	return api.JSON(w, http.StatusOK, o)
}

func (h *handlers) deleteEnvironment(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	ws, _, err := h.workspace(r, by)
	if err != nil {
		return err
	}
	if err := h.Secrets.DeleteEnvironment(r.Context(), by, ws.ID, r.PathValue("environment")); err != nil {
		return err
	}
	return noContent(w)
}
