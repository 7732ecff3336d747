package buddy

import (
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

// readPipeline reads the members of a request into a pipeline.
func readPipeline(d *decoder, b body, p *pipe) (unknown []string, err error) {
	d.keep = keptOf(p.Attrs)
	unknown = apply(d, pipelineFields(), 0, b, p)
	if p.GitConfigRef != "FIXED" {
		if raw, ok := b["git_config"]; ok && !isNull(raw) && !isEmpty(compact(raw)) {
			d.inv.Add("git_config", "conflict", "goes with git_config_ref FIXED alone: a DYNAMIC file is .buddy/<identifier>.yml or buddy.yml of the run's commit")
		}
		p.GitConfig = nil
	}
	d.mirrored(b, p)
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
		d, had := &decoder{}, p.GitChangesetBase
		if unknown, err = readPipeline(d, b, p); err != nil {
			return err
		}
		if had == "" && p.GitChangesetBase == "LATEST_RUN" { // that is what was answered
			p.GitChangesetBase = ""
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
