package buddy

import (
	"encoding/json"
	"net/http"

	"slipway/access"
	"slipway/api"
	"slipway/pipeline"
)

func (h *handlers) listActions(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	p, _, at, err := h.pipeline(r, by)
	if err != nil {
		return err
	}
	all, err := h.Pipelines.Actions(r.Context(), by, p.ID)
	if err != nil {
		return err
	}
	q, err := readWhole(r, len(all))
	if err != nil {
		return err
	}
	byID := r.URL.Query().Get("sort_by") == "id"
	id := func(a action) int64 {
		if byID {
			return int64(a.ID)
		}
		return 0 // in the order in which they run
	}
	l := []object{}
	for _, a := range sorted(all, q, func(a action) string { return a.Name }, id) {
		l = append(l, h.fromAction(at, &a))
	}
	if err := h.nameIntegrations(r, by, p.Workspace, l...); err != nil {
		return err
	}
	return api.JSON(w, http.StatusOK, object{{"url", at.url("/actions")}, {"html_url", at.page("/actions")}, {"actions", l}})
}

// answerAction answers one action, with its pipeline.
func (h *handlers) answerAction(w http.ResponseWriter, r *http.Request, by access.Actor, status int, at place, p *pipe, a *action) error {
	o := h.fromAction(at, a)
	if err := h.nameIntegrations(r, by, p.Workspace, o); err != nil {
		return err
	}
	return api.JSON(w, status, o.with("pipeline", shortPipeline(at, p)))
}

// after reads after_action_id: nil is the end, or where it is.
func after(d *decoder, b body) (at *pipeline.ActionID) {
	raw, ok := b["after_action_id"]
	if !ok || isNull(raw) {
		return nil
	}
	d.at("after_action_id", func() {
		id := pipeline.ActionID(d.int(raw))
		at = &id
	})
	return at
}

func (h *handlers) createAction(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	p, _, at, err := h.pipeline(r, by)
	if err != nil {
		return err
	}
	b, err := decode(w, r)
	if err != nil {
		return err
	}
	d := &decoder{}
	typ := ""
	d.at("type", func() {
		if raw, ok := b["type"]; ok {
			typ = d.str(raw)
		}
	})
	a, ok := newAction(typ)
	switch {
	case ok:
	case typ == "" && len(d.inv.Fields) == 0:
		d.inv.Add("type", "required", "is required")
	case typ != "":
		d.inv.Add("type", "enum", "must be one of "+typeRun+", "+typeBuild+", "+typeMulti)
	}
	if !ok { // what is wrong with what every type has is said all the same
		if _, err := readAction(d, b, &a, 0); err != nil {
			return err
		}
		after(d, b)
		return d.checked(a.Validate)
	}
	unknown, err := readAction(d, b, &a, kindOf(&a))
	if err != nil {
		return err
	}
	ignored(w, unknown)
	behind := after(d, b)
	requireCommands(d, b, &a)
	if err := d.checked(a.Validate); err != nil {
		return err
	}
	if a, err = h.Pipelines.CreateAction(r.Context(), by, p.ID, a, behind); err != nil {
		return err
	}
	return h.answerAction(w, r, by, http.StatusCreated, at, &p, &a)
}

// requireCommands asks for inline_commands: they may be empty, which starts the
// image's own program, but that has to be said.
func requireCommands(d *decoder, b body, a *action) {
	if raw, ok := b["inline_commands"]; a.Run != nil && a.Run.Entrypoint == "" && (!ok || isNull(raw)) {
		d.inv.Add("inline_commands", "required", "is required")
	}
}

// action gives the pipeline of the path and the action's id.
func (h *handlers) action(r *http.Request, by access.Actor) (p pipe, id pipeline.ActionID, at place, err error) {
	if p, _, at, err = h.pipeline(r, by); err != nil {
		return p, 0, at, err
	}
	n, err := number(r, "action")
	return p, pipeline.ActionID(n), at, err
}

func (h *handlers) getAction(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	p, id, at, err := h.action(r, by)
	if err != nil {
		return err
	}
	a, err := h.Pipelines.Action(r.Context(), by, p.ID, id)
	if err != nil {
		return err
	}
	return h.answerAction(w, r, by, http.StatusOK, at, &p, &a)
}

func (h *handlers) updateAction(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	p, id, at, err := h.action(r, by)
	if err != nil {
		return err
	}
	b, err := decode(w, r)
	if err != nil {
		return err
	}
	d := &decoder{}
	behind := after(d, b)
	var unknown []string
	a, err := h.Pipelines.UpdateAction(r.Context(), by, p.ID, id, func(a *action) (err error) {
		if raw, ok := b["type"]; ok && !isNull(raw) {
			var typ string
			if json.Unmarshal(raw, &typ) != nil || typ != typeOf(a) {
				d.inv.Add("type", "conflict", "cannot be changed: the action is a "+typeOf(a))
			}
		}
		if unknown, err = readAction(d, b, a, kindOf(a)); err != nil {
			return err
		}
		return d.checked(a.Validate)
	}, behind)
	ignored(w, unknown)
	if err != nil {
		return err
	}
	return h.answerAction(w, r, by, http.StatusOK, at, &p, &a)
}

func (h *handlers) deleteAction(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	p, id, _, err := h.action(r, by)
	if err != nil {
		return err
	}
	if err := h.Pipelines.DeleteAction(r.Context(), by, p.ID, id); err != nil {
		return err
	}
	return noContent(w)
}
