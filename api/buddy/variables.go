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
				d.bad("unsupported", secret.Unobeyed)
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
func (h *handlers) scope(r *http.Request, by access.Actor, ws project.Workspace, s scopeWords) (at secret.Scope, member string, err error) {
	at = secret.Scope{Workspace: ws.ID}
	switch {
	case s.action != 0:
		at, err = h.Pipelines.Where(r.Context(), by, ws.ID, pipeline.ID(s.pipeline), pipeline.ActionID(s.action))
		member = "action.id"
	case s.pipeline != 0:
		at, err = h.Pipelines.Where(r.Context(), by, ws.ID, pipeline.ID(s.pipeline), 0)
		member = "pipeline.id"
	case s.environment != "":
		at.Environment = s.environment
		return at, "environment.id", nil
	}
	if err != nil || s.project == "" {
		return at, member, err
	}
	p, err := h.Projects.Find(r.Context(), by, ws.ID, s.project)
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

func (h *handlers) listVariables(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	ws, at, err := h.workspace(r, by)
	if err != nil {
		return err
	}
	words, err := queryScope(r)
	if err != nil {
		return err
	}
	q, err := readQuery(r)
	if err != nil {
		return err
	}
	scope, _, err := h.scope(r, by, ws, words)
	if err != nil {
		return err
	}
	all, err := h.Secrets.Variables(r.Context(), by, scope)
	if err != nil {
		return err
	}
	if r.URL.Query().Get("per_page") == "" && r.URL.Query().Get("page") == "" {
		q.size = max(q.size, len(all)) // clients of this list ask for it once
	}
	l := []object{}
	for _, v := range sorted(all, q, func(v secret.Variable) string { return v.Key }, func(v secret.Variable) int64 { return v.ID }) {
		o, err := h.fromStored(r, by, at, v)
		if err != nil {
			return err
		}
		l = append(l, o)
	}
	return api.JSON(w, http.StatusOK, object{{"url", at.url("/variables")}, {"html_url", at.page("/variables")}, {"variables", l}})
}

func (h *handlers) createVariable(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	ws, at, err := h.workspace(r, by)
	if err != nil {
		return err
	}
	b, err := decode(w, r)
	if err != nil {
		return err
	}
	d := &decoder{}
	v := secret.Variable{}
	readVariable(d, b, &v)
	words := readScope(d, b)
	ignored(w, others(b, variableWords+" project pipeline action environment"))
	where, member, err := h.scope(r, by, ws, words)
	switch {
	case errdefs.IsNotFound(err):
		d.inv.Add(member, "unknown", "does not exist")
	case err != nil:
		return err
	}
	v.Scope = where
	if err := d.checked(func(inv *project.Invalid) {
		if bad, ok := project.AsInvalid(v.Validate()); ok {
			inv.Fields = bad.Fields
		}
	}); err != nil {
		return err
	}
	made, err := h.Secrets.CreateVariable(r.Context(), by, v)
	if errdefs.IsNotFound(err) && member != "" {
		var inv project.Invalid
		inv.Add(member, "unknown", "does not exist")
		return inv.Err()
	}
	if err != nil {
		return err
	}
	return h.answerVariable(w, r, by, http.StatusCreated, at, made)
}

// variable finds the variable of a path.
func (h *handlers) variable(r *http.Request, by access.Actor) (secret.Variable, place, error) {
	ws, at, err := h.workspace(r, by)
	if err != nil {
		return secret.Variable{}, at, err
	}
	id, err := number(r, "variable")
	if err != nil {
		return secret.Variable{}, at, err
	}
	v, err := h.Secrets.Variable(r.Context(), by, id)
	if err == nil && v.Scope.Workspace != ws.ID {
		err = fmt.Errorf("variable %d: %w", id, errdefs.ErrNotFound)
	}
	if s := v.Scope; err == nil && s.Pipeline != 0 { // which may be gone, or hidden
		if _, err = h.Pipelines.Where(r.Context(), by, ws.ID, pipeline.ID(s.Pipeline), pipeline.ActionID(s.Action)); errdefs.IsNotFound(err) {
			err = fmt.Errorf("variable %d: %w", id, errdefs.ErrNotFound)
		}
	}
	return v, at, err
}

func (h *handlers) getVariable(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	v, at, err := h.variable(r, by)
	if err != nil {
		return err
	}
	return h.answerVariable(w, r, by, http.StatusOK, at, v)
}

func (h *handlers) updateVariable(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	v, at, err := h.variable(r, by)
	if err != nil {
		return err
	}
	b, err := decode(w, r)
	if err != nil {
		return err
	}
	ignored(w, others(b, variableWords))
	v, err = h.Secrets.UpdateVariable(r.Context(), by, v.ID, func(v *secret.Variable) error {
		d := &decoder{}
		readVariable(d, b, v)
		return d.checked(func(inv *project.Invalid) {
			if bad, ok := project.AsInvalid(v.Validate()); ok {
				inv.Fields = bad.Fields
			}
		})
	})
	if err != nil {
		return err
	}
	return h.answerVariable(w, r, by, http.StatusOK, at, v)
}

func (h *handlers) deleteVariable(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	v, _, err := h.variable(r, by)
	if err != nil {
		return err
	}
	if err := h.Secrets.DeleteVariable(r.Context(), by, v.ID); err != nil {
		return err
	}
	return noContent(w)
}

func (h *handlers) answerVariable(w http.ResponseWriter, r *http.Request, by access.Actor, status int, at place, v secret.Variable) error {
	o, err := h.fromStored(r, by, at, v)
	if err != nil {
		return err
	}
	return api.JSON(w, status, o)
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
