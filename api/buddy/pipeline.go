package buddy

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"slipway/access"
	"slipway/api"
	"slipway/pipeline"
	"slipway/project"
)

type pipe = pipeline.Pipeline

// pipelineFields are the members of a pipeline, in the order of the answers.
func pipelineFields() []field[pipe] {
	local := func(word string) func(*pipe) any {
		return func(p *pipe) any {
			if p.DefinitionSource == "REMOTE" {
				return ""
			}
			return word
		}
	}
	return []field[pipe]{
		{name: "name", status: obeyed,
			in:  func(d *decoder, raw json.RawMessage, p *pipe) { p.Name = d.str(raw) },
			out: func(p *pipe, _ *kept) any { return p.Name }},
		{name: "identifier", status: obeyed, note: "made from the name if none is given",
			in: func(d *decoder, raw json.RawMessage, p *pipe) {
				if s := d.str(raw); s != "" {
					p.Identifier = s
				}
			},
			out: func(p *pipe, _ *kept) any { return p.Identifier }},
		{name: "on", status: obeyed, note: "derived from events unless it is given",
			in:  func(d *decoder, raw json.RawMessage, p *pipe) { p.On = d.str(raw) },
			out: func(p *pipe, _ *kept) any { return p.Trigger() }},
		{name: "refs", status: obeyed, note: "start by a push with on EVENT",
			in:  func(d *decoder, raw json.RawMessage, p *pipe) { p.Refs = d.strings(raw) },
			out: func(p *pipe, _ *kept) any { return list(p.Refs) }},
		{name: "events", status: partly, note: "PUSH and CREATE_REF start runs; DELETE_REF, SCHEDULE, PULL_REQUEST, WEBHOOK and EMAIL are stored, and each run's log says so",
			in:  func(d *decoder, raw json.RawMessage, p *pipe) { p.Events = d.events(raw) },
			out: func(p *pipe, _ *kept) any { return fromEvents(p.Events) }},
		{name: "trigger_conditions", status: partly, note: "ALWAYS is obeyed",
			in:  func(d *decoder, raw json.RawMessage, p *pipe) { p.Conditions = d.conditions(raw) },
			out: func(p *pipe, _ *kept) any { return fromConditions(p.Conditions) }},
		wordField("priority", string(pipeline.Normal), func(p *pipe) string { return string(p.Priority) },
			func(p *pipe, s string) { p.Priority = pipeline.Priority(s) }),
		boolField("always_from_scratch", func(p *pipe) *bool { return &p.FromScratch }),
		boolField("auto_clear_cache", func(p *pipe) *bool { return &p.ClearCache }),
		boolField("no_skip_to_most_recent", func(p *pipe) *bool { return &p.NoSkip }),
		boolField("concurrent_pipeline_runs", func(p *pipe) *bool { return &p.Concurrent }).as(failing, ""),
		boolField("description_required", func(p *pipe) *bool { return &p.CommentRequired }),
		{name: "clone_depth", status: obeyed, note: "0 or none is the whole history",
			in:  func(d *decoder, raw json.RawMessage, p *pipe) { p.CloneDepth = clampInt(d.int(raw)) },
			out: func(p *pipe, _ *kept) any { return p.CloneDepth }},
		boolField("fetch_all_refs", func(p *pipe) *bool { return &p.FetchAllRefs }).as(noEffect, "only the run's own revision is fetched; the log says so"),
		wordField("git_config_ref", "", func(p *pipe) string { return p.GitConfigRef }, func(p *pipe, s string) { p.GitConfigRef = s }).
			as(partly, "NONE is obeyed").answered(func(p *pipe) any {
			if p.GitConfigRef != "" {
				return p.GitConfigRef
			}
			return local("NONE")(p)
		}),
		{name: "git_config", status: failing, note: "goes with git_config_ref FIXED",
			in: func(d *decoder, raw json.RawMessage, _ *pipe) {
				delete(d.keep.Rest, "git_config")
				b := d.object(raw)
				for _, name := range []string{"project", "branch", "path"} {
					d.member(b, name, func(raw json.RawMessage) { d.str(raw) })
				}
				if !isNull(raw) {
					d.keep.Rest["git_config"] = compact(raw)
				}
			},
			out: func(p *pipe, k *kept) any {
				if raw, ok := k.Rest["git_config"]; ok && p.GitConfigRef == "FIXED" {
					return raw
				}
				return nil
			}},
		wordField("definition_source", "LOCAL", func(p *pipe) string { return p.DefinitionSource },
			func(p *pipe, s string) { p.DefinitionSource = s }).as(partly, "LOCAL is obeyed"),
		restField[pipe]("remote_project_name", aString, nil),
		restField[pipe]("remote_path", aString, nil),
		mirrored("remote_branch", "remote_ref"),
		mirrored("remote_ref", "remote_branch"),
		restField[pipe]("remote_parameters", aList, []string{}),
		wordField("git_changeset_base", "", func(p *pipe) string { return p.GitChangesetBase },
			func(p *pipe, s string) { p.GitChangesetBase = s }).as(noEffect, "belongs to conditions").
			answered(func(p *pipe) any { return or(p.GitChangesetBase, local("LATEST_RUN")(p).(string)) }),
		wordField("filesystem_changeset_base", "", func(p *pipe) string { return p.FilesChangesetBase },
			func(p *pipe, s string) { p.FilesChangesetBase = s }).as(noEffect, "belongs to conditions").
			answered(func(p *pipe) any { return or(p.FilesChangesetBase, local("DATE_MODIFIED")(p).(string)) }),
		wordField("cpu", "X64", func(p *pipe) string { return p.CPU }, func(p *pipe, s string) { p.CPU = s }).as(partly, "X64 is obeyed"),
		strField("worker", func(p *pipe) *string { return &p.Worker }).as(failing, ""),
		wordField("cache_scope", "PIPELINE", func(p *pipe) string { return p.CacheScope }, func(p *pipe, s string) { p.CacheScope = s }).
			as(noEffect, "the build cache is shared in the workspace in any case"),
		stringsField("loop", func(p *pipe) *[]string { return &p.Loop }).as(failing, "").answered(func(p *pipe) any { return list(p.Loop) }),
		{name: "permissions", status: partly, note: "DEFAULT is obeyed",
			in:  func(d *decoder, raw json.RawMessage, p *pipe) { p.Permissions = d.permissions(raw) },
			out: func(p *pipe, _ *kept) any { return fromPermissions(p.Permissions) }},
		{name: "variables", status: partly, note: "as those of an action",
			in:  func(d *decoder, raw json.RawMessage, p *pipe) { p.Variables = d.variables(raw) },
			out: func(p *pipe, _ *kept) any { return fromVariables(p.Variables) }},
		unlessNull("manage_variables_by_yaml", func(p *pipe) *bool { return &p.VariablesByYAML }),
		unlessNull("manage_permissions_by_yaml", func(p *pipe) *bool { return &p.PermissionsByYAML }),
		{name: "pause_on_repeated_failures", status: noEffect, note: "belongs to SCHEDULE events",
			in: func(d *decoder, raw json.RawMessage, p *pipe) {
				p.PauseAfterFailures, p.PauseAfterGiven = clampInt(d.int(raw)), !isNull(raw)
			},
			out: func(p *pipe, _ *kept) any {
				if !p.PauseAfterGiven && p.Trigger() == "SCHEDULE" {
					return 100
				}
				return p.PauseAfterFailures
			}},
		restField[pipe]("paused", aBool, false),
		boolField("disabled", func(p *pipe) *bool { return &p.Disabled }).as(obeyed, "it does not start"),
		strField("disabled_reason", func(p *pipe) *string { return &p.Reason }),
		{name: "fail_on_prepare_env_warning", status: noEffect, note: "preparing gives no warnings",
			in: restField[pipe]("fail_on_prepare_env_warning", aBool, nil).in,
			out: func(p *pipe, k *kept) any {
				if raw, ok := k.Rest["fail_on_prepare_env_warning"]; ok {
					return raw
				}
				return p.DefinitionSource != "REMOTE"
			}},
		restField[pipe]("do_not_create_commit_status", aBool, false),
		restField[pipe]("ignore_fail_on_project_status", aBool, false),
		restField[pipe]("target_site_url", aString, nil),
		strField("execution_message_template", func(p *pipe) *string { return &p.MessageTemplate }).as(noEffect, "stored only"),
		restField[pipe]("tags", someStrings, []string{}),
		restField[pipe]("folder", aString, nil),
	}
}

// answered replaces how a field is written.
func (f field[T]) answered(out func(*T) any) field[T] {
	f.out = func(v *T, _ *kept) any { return out(v) }
	return f
}

// mirrored are two members of which one is answered for the other.
func mirrored(name, other string) field[pipe] {
	f := restField[pipe](name, aString, nil)
	f.out = func(_ *pipe, k *kept) any {
		for _, n := range []string{name, other} {
			if raw, ok := k.Rest[n]; ok {
				return raw
			}
		}
		return nil
	}
	return f
}

// unlessNull is a switch that the vendor's SDK sends as null in every request:
// null leaves it alone.
func unlessNull(name string, at func(*pipe) *bool) field[pipe] {
	return field[pipe]{
		name: name, status: failing,
		in: func(d *decoder, raw json.RawMessage, p *pipe) {
			if !isNull(raw) {
				*at(p) = d.bool(raw)
			}
		},
		out: func(p *pipe, _ *kept) any { return *at(p) },
	}
}

// readPipeline reads the members of a request into a pipeline.
func readPipeline(d *decoder, b body, p *pipe) (unknown []string, err error) {
	d.keep = keptOf(p.Attrs)
	_, branch := b["remote_branch"]
	_, ref := b["remote_ref"]
	if branch && !ref { // the one that is sent holds for both
		delete(d.keep.Rest, "remote_ref")
	} else if ref && !branch {
		delete(d.keep.Rest, "remote_branch")
	}
	unknown = apply(d, pipelineFields(), 0, b, p)
	if p.GitConfigRef != "FIXED" {
		delete(d.keep.Rest, "git_config")
	}
	p.Attrs, err = d.keep.into(p.Attrs)
	var l []string
	for _, name := range unknown {
		switch name {
		case "id", "url", "html_url", "create_date", "last_execution_status", "last_execution_revision", "project", "creator", "actions":
		default:
			l = append(l, name)
		}
	}
	return l, err
}

// shortPipeline is a pipeline inside of an action or an execution.
func shortPipeline(at place, p *pipe) object {
	at = at.in(p.ID)
	return object{
		{"url", at.url("")},
		{"html_url", at.page("")},
		{"id", p.ID},
		{"identifier", p.Identifier},
		{"name", p.Name},
		{"on", p.Trigger()},
		{"refs", list(p.Refs)},
		{"events", fromEvents(p.Events)},
		{"last_execution_status", or(string(p.LastStatus), string(pipeline.Initial))},
		{"last_execution_revision", orNull(p.LastRevision)},
	}
}

// fromPipeline is a pipeline as it is answered.
func fromPipeline(at place, p *pipe) object {
	at = at.in(p.ID)
	o := object{
		{"url", at.url("")},
		{"html_url", at.page("")},
		{"id", p.ID},
	}
	o = append(o, write(pipelineFields(), 0, p, keptOf(p.Attrs))...)
	return append(o,
		member{"last_execution_status", or(string(p.LastStatus), string(pipeline.Initial))},
		member{"last_execution_revision", orNull(p.LastRevision)},
		member{"create_date", stamp(p.Created)})
}

// wholePipeline adds what only the view of one pipeline has.
func (h *handlers) wholePipeline(r *http.Request, at place, pr project.Project, p *pipe) (object, error) {
	creator, err := h.user(r, p.CreatedBy)
	if err != nil {
		return nil, err
	}
	return append(fromPipeline(at, p), member{"project", h.shortProject(pr)}, member{"creator", creator}), nil
}

// project finds the project of a path.
func (h *handlers) project(r *http.Request, by access.Actor) (project.Project, place, error) {
	pr, err := h.Projects.Find(r.Context(), by, r.PathValue("workspace"), r.PathValue("project"))
	return pr, place{base: h.base, workspace: pr.Domain, project: pr.Name}, err
}

// pipeline finds the pipeline of a path.
func (h *handlers) pipeline(r *http.Request, by access.Actor) (pipe, project.Project, place, error) {
	pr, at, err := h.project(r, by)
	if err != nil {
		return pipe{}, pr, at, err
	}
	id, err := number(r, "pipeline")
	if err != nil {
		return pipe{}, pr, at, err
	}
	p, err := h.Pipelines.Get(r.Context(), by, pipeline.ID(id))
	if err == nil && p.Project != pr.ID {
		err = fmt.Errorf("pipeline %d: %w", id, errdefs.ErrNotFound)
	}
	return p, pr, at.in(p.ID), err
}

func (h *handlers) listPipelines(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	pr, at, err := h.project(r, by)
	if err != nil {
		return err
	}
	q, err := readQuery(r)
	if err != nil {
		return err
	}
	all, err := h.Pipelines.List(r.Context(), by, pr.ID)
	if err != nil {
		return err
	}
	l := []object{}
	for _, p := range sorted(all, q, func(p pipe) string { return p.Name }, func(p pipe) int64 { return int64(p.ID) }) {
		l = append(l, fromPipeline(at, &p))
	}
	return api.JSON(w, http.StatusOK, object{{"url", at.url("/pipelines")}, {"html_url", at.page("/pipelines")}, {"pipelines", l}})
}

func (h *handlers) createPipeline(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	pr, at, err := h.project(r, by)
	if err != nil {
		return err
	}
	b, err := decode(w, r)
	if err != nil {
		return err
	}
	var p pipe
	d := &decoder{}
	unknown, err := readPipeline(d, b, &p)
	if err != nil {
		return err
	}
	ignored(w, unknown)
	if err := d.checked(p.Validate); err != nil {
		return err
	}
	if p, err = h.Pipelines.Create(r.Context(), by, pr.ID, p); err != nil {
		return err
	}
	o, err := h.wholePipeline(r, at, pr, &p)
	if err != nil {
		return err
	}
	return api.JSON(w, http.StatusCreated, o)
}

// checked adds what the core finds wrong to what the decoder found; a field, and
// what is below it, is named once.
func (d *decoder) checked(validate func(*project.Invalid)) error {
	var more project.Invalid
	validate(&more)
	known := slices.Clone(d.inv.Fields)
	for _, f := range more.Fields {
		if !slices.ContainsFunc(known, func(k project.Field) bool { return f.Path == k.Path || strings.HasPrefix(f.Path, k.Path+".") }) {
			d.inv.Fields = append(d.inv.Fields, f)
		}
	}
	return d.inv.Err()
}

func (h *handlers) getPipeline(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	p, pr, at, err := h.pipeline(r, by)
	if err != nil {
		return err
	}
	o, err := h.wholePipeline(r, at, pr, &p)
	if err != nil {
		return err
	}
	actions, err := h.Pipelines.Actions(r.Context(), by, p.ID)
	if err != nil {
		return err
	}
	l := []object{}
	for _, a := range actions {
		l = append(l, shortAction(at, &a))
	}
	return api.JSON(w, http.StatusOK, o.with("actions", l))
}

func (h *handlers) updatePipeline(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	p, pr, at, err := h.pipeline(r, by)
	if err != nil {
		return err
	}
	b, err := decode(w, r)
	if err != nil {
		return err
	}
	var unknown []string
	p, err = h.Pipelines.Update(r.Context(), by, p.ID, func(p *pipe) (err error) {
		d := &decoder{}
		if unknown, err = readPipeline(d, b, p); err != nil {
			return err
		}
		return d.checked(p.Validate)
	})
	ignored(w, unknown)
	if err != nil {
		return err
	}
	o, err := h.wholePipeline(r, at, pr, &p)
	if err != nil {
		return err
	}
	return api.JSON(w, http.StatusOK, o)
}

func (h *handlers) deletePipeline(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	p, _, _, err := h.pipeline(r, by)
	if err != nil {
		return err
	}
	if err := h.Pipelines.Delete(r.Context(), by, p.ID); err != nil {
		return err
	}
	return noContent(w)
}
