package buddy

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"

	"github.com/containerd/errdefs"

	"slipway/access"
	"slipway/api"
	"slipway/pipeline"
	"slipway/project"
	"slipway/secret"
)

// variableWords are the members of a variable that are read, but for its scope.
const variableWords = "key value type description encrypted settable run_only_settable init_path defaults file_place file_path file_chmod " +
	"password passphrase key_identifier"

// readVariable reads the members that are given into v.
func readVariable(d *decoder, b body, v *secret.Variable) {
	for _, m := range []struct {
		name string
		at   *string
	}{
		{"key", &v.Key},
		{"value", &v.Value},
		{"type", &v.Type},
		{"description", &v.Description},
		{"file_place", &v.FilePlace},
		{"file_path", &v.FilePath},
		{"file_chmod", &v.FileMode},
	} {
		d.member(b, m.name, func(raw json.RawMessage) {
			if m.name == "type" && (isNull(raw) || string(raw) == `""`) {
				return
			}
			*m.at = d.str(raw)
		})
	}
	for _, m := range []struct {
		name string
		at   *bool
	}{{"encrypted", &v.Encrypted}, {"settable", &v.Settable}, {"run_only_settable", &v.RunOnlySettable}} {
		d.member(b, m.name, func(raw json.RawMessage) { *m.at = d.bool(raw) })
	}
	for _, name := range []string{"init_path", "defaults", "password", "passphrase", "key_identifier"} {
		d.member(b, name, func(raw json.RawMessage) {
			if d.str(raw) != "" {
				d.bad("unsupported", "%s", secret.Unobeyed(name))
			}
		})
	}
}

// scopeWords are the four ways to say where a variable holds.
type scopeWords struct {
	project          string
	pipeline, action int64
	environment      string
}

// readScope reads the scope objects of a body, of which one at most is given.
func readScope(d *decoder, b body) (s scopeWords) {
	given := 0
	inner := func(name, of string, f func(raw json.RawMessage)) {
		d.member(b, name, func(raw json.RawMessage) {
			if isNull(raw) {
				return
			}
			given++
			in := d.object(raw)
			if v, ok := in[of]; !ok || isNull(v) || isEmpty(compact(v)) {
				d.inv.Add(name+"."+of, "required", "must say which one")
			}
			d.member(in, of, f)
		})
	}
	inner("project", "name", func(raw json.RawMessage) { s.project = d.str(raw) })
	inner("pipeline", "id", func(raw json.RawMessage) { s.pipeline = d.int(raw) })
	inner("action", "id", func(raw json.RawMessage) { s.action = d.int(raw) })
	inner("environment", "id", func(raw json.RawMessage) { s.environment = d.str(raw) })
	if given > 1 {
		d.inv.Add("scope", "conflict", "a variable is of one of project, pipeline, action and environment")
	}
	return s
}

// queryScope reads them from a query, in the spelling of all clients. The
// narrowest counts; what is said beside it must be true.
func queryScope(r *http.Request) (s scopeWords, err error) {
	q := r.URL.Query()
	var inv project.Invalid
	get := func(names ...string) (string, string) {
		for _, n := range names {
			if v := q.Get(n); v != "" {
				return n, v
			}
		}
		return "", ""
	}
	number := func(to *int64, names ...string) {
		n, v := get(names...)
		if v == "" {
			return
		}
		id, err := strconv.ParseInt(v, 10, 64)
		if err != nil || id <= 0 {
			inv.Add(n, "format", "must be a number")
		}
		*to = id
	}
	_, s.project = get("projectName", "project_name")
	number(&s.pipeline, "pipelineId", "pipeline_id")
	number(&s.action, "actionId", "action_id")
	_, s.environment = get("environment_id", "environmentId")
	return s, inv.Err()
}

// scope finds what the words mean; member is the one that an unknown thing is
// named by.
func (h *handlers) scope(q ask, s scopeWords) (at secret.Scope, member string, err error) {
	at = secret.Scope{Workspace: q.ws.ID}
	switch {
	case s.action != 0:
		at, err = h.Pipelines.Where(q.ctx(), q.by, q.ws.ID, pipeline.ID(s.pipeline), pipeline.ActionID(s.action))
		member = "action.id"
	case s.pipeline != 0:
		at, err = h.Pipelines.Where(q.ctx(), q.by, q.ws.ID, pipeline.ID(s.pipeline), 0)
		member = "pipeline.id"
	case s.environment != "":
		at.Environment = s.environment
		return at, "environment.id", nil
	}
	if err != nil || s.project == "" {
		return at, member, err
	}
	p, err := h.Projects.Find(q.ctx(), q.by, q.ws.ID, s.project)
	if err == nil && at.Project != "" && at.Project != p.ID {
		err = fmt.Errorf("%s in project %s: %w", member, s.project, errdefs.ErrNotFound)
	}
	at.Project = p.ID
	return at, or(member, "project.name"), err
}

// workspace finds the workspace of a path.
func (h *handlers) workspace(r *http.Request, by access.Actor) (project.Workspace, place, error) {
	ws, err := h.Projects.Workspace(r.Context(), by, r.PathValue("workspace"))
	return ws, place{base: h.base, workspace: ws.Domain}, err
}

func (h *handlers) variables() map[string]api.Handler {
	return routes(h, atWorkspace, noun[secret.Variable]{
		path: "/variables", name: "variable", key: "variables", words: variableWords + " project pipeline action environment", whole: true,
		list: func(q ask) ([]secret.Variable, error) {
			words, err := queryScope(q.r)
			if err != nil {
				return nil, err
			}
			scope, _, err := h.scope(q, words)
			if err != nil {
				return nil, err
			}
			return h.Secrets.Variables(q.ctx(), q.by, scope)
		},
		create: h.createVariable,
		get:    h.variable,
		update: func(q ask, b body) (secret.Variable, error) {
			v, err := h.variable(q)
			if err != nil {
				return v, err
			}
			return h.Secrets.UpdateVariable(q.ctx(), q.by, v.ID, func(v *secret.Variable) error {
				d := &decoder{}
				readVariable(d, b, v)
				return d.valid(v.Validate)
			})
		},
		remove: func(q ask) error {
			v, err := h.variable(q)
			if err != nil {
				return err
			}
			return h.Secrets.DeleteVariable(q.ctx(), q.by, v.ID)
		},
		title: func(v secret.Variable) string { return v.Key },
		id:    func(v secret.Variable) int64 { return v.ID },
		from: func(q ask, _ bool) (func(secret.Variable) (object, error), error) {
			return func(v secret.Variable) (object, error) { return h.fromStored(q.r, q.by, q.at, v) }, nil
		},
	})
}

func (h *handlers) createVariable(q ask, b body) (v secret.Variable, err error) {
	d := &decoder{}
	readVariable(d, b, &v)
	where, member, err := h.scope(q, readScope(d, b))
	switch {
	case errdefs.IsNotFound(err):
		d.inv.Add(member, "unknown", "does not exist")
	case err != nil:
		return v, err
	}
	v.Scope = where
	if err := d.valid(v.Validate); err != nil {
		return v, err
	}
	made, err := h.Secrets.CreateVariable(q.ctx(), q.by, v)
	if errdefs.IsNotFound(err) && member != "" {
		var inv project.Invalid
		inv.Add(member, "unknown", "does not exist")
		err = inv.Err()
	}
	return made, err
}

// valid adds what is wrong with a whole to what is wrong with its members.
func (d *decoder) valid(validate func() error) error {
	return d.checked(func(inv *project.Invalid) {
		if bad, ok := project.AsInvalid(validate()); ok {
			inv.Fields = bad.Fields
		}
	})
}

// variable finds the variable of a path.
func (h *handlers) variable(q ask) (secret.Variable, error) {
	id := q.n["variable"]
	v, err := h.Secrets.Variable(q.ctx(), q.by, id)
	if err == nil && v.Scope.Workspace != q.ws.ID {
		err = fmt.Errorf("variable %d: %w", id, errdefs.ErrNotFound)
	}
	if s := v.Scope; err == nil && s.Pipeline != 0 { // which may be gone, or hidden
		if _, err = h.Pipelines.Where(q.ctx(), q.by, q.ws.ID, pipeline.ID(s.Pipeline), pipeline.ActionID(s.Action)); errdefs.IsNotFound(err) {
			err = fmt.Errorf("variable %d: %w", id, errdefs.ErrNotFound)
		}
	}
	return v, err
}

// fromStored is a variable that stands by itself.
func (h *handlers) fromStored(r *http.Request, by access.Actor, at place, v secret.Variable) (object, error) {
	o := object{
		{"url", at.url("/variables/%d", v.ID)},
		{"html_url", at.page("/variables/%d", v.ID)},
		{"id", v.ID},
		{"key", v.Key},
		{"value", v.Value},
		{"type", v.Type},
		{"description", orNull(v.Description)},
		{"encrypted", v.Encrypted},
		{"settable", v.Settable},
		{"run_only_settable", v.RunOnlySettable},
		{"file_place", v.FilePlace},
		{"file_path", orNull(v.FilePath)},
		{"file_chmod", orNull(v.FileMode)},
		{"init_path", nil},
		{"defaults", nil},
	}
	if v.Type == secret.SSHKey {
		o = append(o, member{"public_value", orNull(v.Public.Line)}, member{"key_fingerprint", orNull(v.Public.Fingerprint)},
			member{"checksum", orNull(v.Public.Checksum)})
	}
	var of, pipe, action, environment any
	s := v.Scope
	switch {
	case s.Action != 0:
		action = object{{"id", s.Action}}
	case s.Pipeline != 0:
		pipe = object{{"id", s.Pipeline}}
	case s.Environment != "":
		environment = object{{"url", at.url("/environments/%s", s.Environment)}, {"id", s.Environment}}
	case s.Project != "":
		p, err := h.Projects.Get(r.Context(), by, string(s.Project))
		if err != nil {
			return nil, err
		}
		of = h.shortProject(p)
	}
	return append(o, member{"project", of}, member{"pipeline", pipe}, member{"action", action}, member{"environment", environment}), nil
}
