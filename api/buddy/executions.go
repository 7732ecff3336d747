package buddy

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"slipway/access"
	"slipway/api"
	"slipway/logs"
	"slipway/pipeline"
	"slipway/project"
	"slipway/source"
)

func (h *handlers) fromCommit(at place, c *source.Commit) any {
	if c == nil {
		return nil
	}
	person := func(p source.Person) object {
		return object{{"name", p.Name}, {"email", orNull(p.Email)}, {"avatar_url", nil}, {"url", nil}, {"html_url", nil}}
	}
	of := place{base: at.base, workspace: at.workspace, project: at.project}
	return object{
		{"url", of.url("/repository/commits/%s", c.Revision)},
		{"html_url", of.page("/commits/%s", c.Revision)},
		{"revision", c.Revision},
		{"author_date", stamp(c.AuthorDate)},
		{"commit_date", stamp(c.CommitDate)},
		{"message", or(strings.TrimRight(c.Message, "\n"), c.Subject)},
		{"author", person(c.Author)},
		{"committer", person(c.Committer)},
	}
}

// defaultBranch asks for the default branch of a project when it is wanted, and
// once.
func (h *handlers) defaultBranch(r *http.Request, id project.ID) func() (string, error) {
	return sync.OnceValues(func() (string, error) {
		branch, _, err := h.source(r, id)
		return branch, err
	})
}

// fromExecution is an execution as it is answered in lists; whole adds the rest.
func (h *handlers) fromExecution(r *http.Request, at place, x *pipeline.Execution, defaultBranch func() (string, error)) (object, error) {
	creator, err := h.user(r, x.By)
	if err != nil {
		return nil, err
	}
	of := place{base: at.base, workspace: at.workspace, project: at.project}
	var branch, tag, pull any
	if x.Branch != "" {
		def, err := defaultBranch()
		if err != nil {
			return nil, err
		}
		branch = object{
			{"url", of.url("/repository/branches/%s", x.Branch)},
			{"html_url", of.page("/branches/%s", x.Branch)},
			{"name", x.Branch},
			{"default", x.Branch == def},
		}
	}
	if x.Tag != "" {
		tag = object{{"url", of.url("/repository/tags/%s", x.Tag)}, {"html_url", of.page("/tags/%s", x.Tag)}, {"name", x.Tag}}
	}
	if x.PullRequest != "" {
		pull = object{{"url", nil}, {"html_url", nil}, {"name", x.PullRequest}, {"head_branch", orNull(x.Head)}, {"base_branch", orNull(x.Base)}}
	}
	message, err := h.message(r, at, x)
	if err != nil {
		return nil, err
	}
	triggered := "CLICK"
	switch x.Mode {
	case pipeline.ByPush, pipeline.ByHook, pipeline.ByPull:
		triggered = "EVENT"
	case pipeline.ByClock:
		triggered = "SCHEDULE"
	}
	return object{
		{"url", at.url("/executions/%d", x.Number)},
		{"html_url", at.page("/executions/%d", x.Number)},
		{"id", x.Number},
		{"hash_id", string(x.ID)},
		{"start_date", stamp(or2(x.Started, x.Created))},
		{"finish_date", stamp(x.Finished)},
		{"delay_until", stamp(x.Delayed)},
		{"triggered_on", triggered},
		{"triggeredOn", triggered},
		{"mode", x.Mode},
		{"priority", x.Priority},
		{"refresh", x.Refresh},
		{"clear_cache", x.ClearCache},
		{"status", x.Shown()},
		{"comment", orNull(x.Comment)},
		{"message", message},
		{"error_message", orNull(x.Problem)},
		{"branch", branch},
		{"tag", tag},
		{"pull_request", pull},
		{"from_revision", h.fromCommit(at, x.From)},
		{"to_revision", h.fromCommit(at, x.Commit)},
		{"creator", creator},
	}, nil
}

// message is what the execution is called by the template of its pipeline.
func (h *handlers) message(r *http.Request, at place, x *pipeline.Execution) (any, error) {
	u, err := h.Access.User(r.Context(), x.By)
	if err != nil && !errdefs.IsNotFound(err) {
		return nil, err
	}
	return orNull(x.Message(at.workspace, at.project, at.page("/executions/%d", x.Number), u)), nil
}

func or2[T interface{ IsZero() bool }](a, b T) T {
	if a.IsZero() {
		return b
	}
	return a
}

func (h *handlers) wholeExecution(r *http.Request, at place, p *pipe, x *pipeline.Execution) (object, error) {
	o, err := h.fromExecution(r, at, x, h.defaultBranch(r, x.Project))
	if err != nil {
		return nil, err
	}
	steps := []object{}
	for _, s := range x.Steps {
		steps = append(steps, fromStep(at, x, s))
	}
	var environment any
	if x.Environment != "" {
		of := place{base: at.base, workspace: at.workspace}
		environment = object{{"url", of.url("/environments/%s", x.Environment)}, {"id", x.Environment}}
	}
	return append(o,
		member{"environment", environment},
		member{"pipeline", shortPipeline(at, p)},
		member{"variables", fromVariables(x.Variables)},
		member{"action_executions", steps}), nil
}

// fromStep is one action of an execution.
func fromStep(at place, x *pipeline.Execution, s pipeline.ActionExecution) object {
	progress := 0
	if s.Status.Ended() {
		progress = 100
	}
	var terminator, termination any
	if by := x.EndedBy(s); by != 0 {
		terminator, termination = by, stamp(x.Cancelled)
	}
	var approver any
	if s.Approver != 0 {
		approver = s.Approver
	}
	a := s.Action
	a.LastStatus = s.Shown()
	return object{
		{"action_execution_id", s.ID},
		{"url", at.url("/executions/%d/action_executions/%s", x.Number, s.ID)},
		{"html_url", at.page("/executions/%d/%s", x.Number, s.ID)},
		{"status", s.Shown()},
		{"progress", progress},
		{"start_date", stamp(s.Started)},
		{"finish_date", stamp(s.Finished)},
		{"error_message", orNull(s.Error)},
		{"action", shortAction(at, &a)},
		{"terminator_id", terminator},
		{"termination_date", termination},
		{"approver_id", approver},
		{"approval_date", stamp(s.Approved)},
		{"passed_variables", fromOutputs(x.Passed(s))},
		{"outputted_variables", fromOutputs(s.Outputs)},
	}
}

func fromOutputs(out []pipeline.Output) []object {
	l := []object{}
	for _, o := range out {
		l = append(l, fromVariable(o.Variable))
	}
	return l
}

func (h *handlers) listExecutions(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	p, _, at, err := h.pipeline(r, by)
	if err != nil {
		return err
	}
	q, err := readQuery(r)
	if err != nil {
		return err
	}
	all, total, err := h.Pipelines.Executions(r.Context(), by, p.ID, (q.page-1)*q.size, q.size)
	if err != nil {
		return err
	}
	l := []object{}
	branch := h.defaultBranch(r, p.Project)
	for i := range all {
		o, err := h.fromExecution(r, at, &all[i], branch)
		if err != nil {
			return err
		}
		l = append(l, o)
	}
	return api.JSON(w, http.StatusOK, object{
		{"url", at.url("/executions")},
		{"html_url", at.page("/executions")},
		{"page", q.page},
		{"page_size", q.size},
		{"total_page_count", api.Pages(total, q.size)},
		{"element_count", len(l)},
		{"total_element_count", total},
		{"executions", l},
	})
}

// readStart reads what an execution is started with.
func readStart(d *decoder, b body) (in pipeline.Start) {
	named := func(name, inner string, to *string) {
		d.member(b, name, func(raw json.RawMessage) {
			d.member(d.object(raw), inner, func(raw json.RawMessage) { *to = d.str(raw) })
		})
	}
	named("to_revision", "revision", &in.Revision)
	named("from_revision", "revision", &in.From)
	named("branch", "name", &in.Branch)
	named("tag", "name", &in.Tag)
	named("pull_request", "name", &in.PullRequest)
	d.member(b, "comment", func(raw json.RawMessage) { in.Comment = d.str(raw) })
	d.member(b, "refresh", func(raw json.RawMessage) { in.Refresh = d.bool(raw) })
	d.member(b, "clear_cache", func(raw json.RawMessage) { in.ClearCache = d.bool(raw) })
	d.member(b, "priority", func(raw json.RawMessage) { in.Priority = pipeline.Priority(d.str(raw)) })
	d.member(b, "variables", func(raw json.RawMessage) { in.Variables = d.variables(raw) })
	d.member(b, "actions_to_run", func(raw json.RawMessage) {
		for _, id := range d.ints(raw) {
			in.Only = append(in.Only, pipeline.ActionID(id))
		}
	})
	d.member(b, "environment", func(raw json.RawMessage) {
		if bytes.HasPrefix(raw, []byte(`"`)) {
			in.Environment = d.str(raw)
			return
		}
		e := d.object(raw)
		for _, name := range []string{"identifier", "id"} { // the id says more
			d.member(e, name, func(raw json.RawMessage) { in.Environment = or(d.str(raw), in.Environment) })
		}
	})
	d.member(b, "delay_until", func(raw json.RawMessage) {
		if text := d.str(raw); text != "" {
			var err error
			if in.Delay, err = time.Parse(time.RFC3339, text); err != nil {
				d.bad("format", "must be a time like 2026-01-31T12:00:00Z")
			}
		}
	})
	if raw, ok := b["package_version"]; ok && !isNull(raw) && !isEmpty(compact(raw)) {
		d.inv.Add("package_version", "unsupported", "is not supported by this version")
	}
	return in
}

func (h *handlers) startExecution(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	p, _, at, err := h.pipeline(r, by)
	if err != nil {
		return err
	}
	b := body{}
	if r.ContentLength != 0 { // a start without any wish may be without a body
		if b, err = decode(w, r); err != nil {
			return err
		}
	}
	d := &decoder{}
	in := readStart(d, b)
	in.Key = r.Header.Get("Idempotency-Key")
	ignored(w, others(b, "to_revision from_revision branch tag pull_request comment refresh clear_cache priority variables "+
		"actions_to_run delay_until environment package_version"))
	if err := d.inv.Err(); err != nil {
		return err
	}
	x, err := h.Pipelines.Start(r.Context(), by, p.ID, in)
	if err != nil {
		return err
	}
	p.LastStatus = x.Shown()
	return h.answerExecution(w, r, http.StatusCreated, at, &p, &x)
}

func (h *handlers) answerExecution(w http.ResponseWriter, r *http.Request, status int, at place, p *pipe, x *pipeline.Execution) error {
	o, err := h.wholeExecution(r, at, p, x)
	if err != nil {
		return err
	}
	return api.JSON(w, status, o)
}

// execution finds the execution of a path.
func (h *handlers) execution(r *http.Request, by access.Actor) (pipeline.Execution, pipe, place, error) {
	p, _, at, err := h.pipeline(r, by)
	if err != nil {
		return pipeline.Execution{}, p, at, err
	}
	n, err := number(r, "number")
	if err != nil {
		return pipeline.Execution{}, p, at, err
	}
	x, err := h.Pipelines.Numbered(r.Context(), by, p.ID, n)
	return x, p, at, err
}

func (h *handlers) getExecution(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	x, p, at, err := h.execution(r, by)
	if err != nil {
		return err
	}
	return h.answerExecution(w, r, http.StatusOK, at, &p, &x)
}

func (h *handlers) operate(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	x, p, at, err := h.execution(r, by)
	if err != nil {
		return err
	}
	b, err := decode(w, r)
	if err != nil {
		return err
	}
	op := ""
	d := &decoder{}
	d.member(b, "operation", func(raw json.RawMessage) { op = d.str(raw) })
	var given []pipeline.Variable
	d.member(b, "variables", func(raw json.RawMessage) { given = d.variables(raw) })
	if op == "" && len(d.inv.Fields) == 0 {
		d.inv.Add("operation", "required", "is required")
	}
	ignored(w, others(b, "operation variables"))
	if err := d.inv.Err(); err != nil {
		return err
	}
	if x, err = h.Pipelines.Operate(r.Context(), by, x.ID, pipeline.Operation(op), given...); err != nil {
		return err
	}
	p.LastStatus = x.Shown()
	return h.answerExecution(w, r, http.StatusOK, at, &p, &x)
}

// step finds the action execution of a path.
func (h *handlers) step(r *http.Request, by access.Actor, is func(pipeline.ActionExecution) bool) (pipeline.ActionExecution, pipeline.Execution, place, error) {
	x, _, at, err := h.execution(r, by)
	if err != nil {
		return pipeline.ActionExecution{}, x, at, err
	}
	for _, s := range x.Steps {
		if is(s) {
			return s, x, at, nil
		}
	}
	return pipeline.ActionExecution{}, x, at, fmt.Errorf("action execution %s%s: %w", r.PathValue("step"), r.PathValue("action"), errdefs.ErrNotFound)
}

func (h *handlers) getStep(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	s, x, at, err := h.step(r, by, func(s pipeline.ActionExecution) bool { return s.ID == r.PathValue("step") })
	if err != nil {
		return err
	}
	return api.JSON(w, http.StatusOK, fromStep(at, &x, s))
}

func (h *handlers) getLogs(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	s, x, at, err := h.step(r, by, func(s pipeline.ActionExecution) bool { return s.ID == r.PathValue("step") })
	if err != nil {
		return err
	}
	var inv project.Invalid
	read := func(name string, def, least int) int {
		n, err := api.Number(r, name, def, least)
		if i, ok := project.AsInvalid(err); ok {
			inv.Fields = append(inv.Fields, i.Fields...)
		}
		return n
	}
	offset, limit := read("offset", 0, 0), read("limit", 100, 1)
	if err := inv.Err(); err != nil {
		return err
	}
	lines, total, err := h.Pipelines.Log(r.Context(), by, x.ID, s.ID, logs.Query{Offset: int64(offset), Limit: min(limit, 1000)})
	if err != nil {
		return err
	}
	return api.JSON(w, http.StatusOK, object{
		{"url", at.url("/executions/%d/action_executions/%s/logs", x.Number, s.ID)},
		{"html_url", at.page("/executions/%d/%s", x.Number, s.ID)},
		{"offset", offset},
		{"element_count", len(lines)},
		{"total_element_count", total},
		{"logs", texts(lines)},
	})
}

func texts(lines []logs.Line) []string {
	l := make([]string, 0, len(lines))
	for _, n := range lines {
		l = append(l, n.Text)
	}
	return l
}

// getStepOfAction is the older view of an action's run, by the action's id and
// with its log.
func (h *handlers) getStepOfAction(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	id, err := number(r, "action")
	if err != nil {
		return err
	}
	s, x, at, err := h.step(r, by, func(s pipeline.ActionExecution) bool { return int64(s.Action.ID) == id })
	if err != nil {
		return err
	}
	lines, _, err := h.Pipelines.Log(r.Context(), by, x.ID, s.ID, logs.Query{Limit: 10000})
	if err != nil {
		return err
	}
	o := fromStep(at, &x, s)
	o[1].value = at.url("/executions/%d/action/%d", x.Number, id)
	return api.JSON(w, http.StatusOK, o.with("log", texts(lines)))
}
