package buddy

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"slipway/access"
	"slipway/event"
	"slipway/pipeline"
	"slipway/project"
	"slipway/source"
)

// Payload makes what webhooks are sent for an event: the same views as those of
// the API, with the status as it was then. What is gone is errdefs.ErrNotFound.
func Payload(publicURL string, rooms Rooms) func(context.Context, event.Event) ([]byte, error) {
	h := &handlers{rooms, strings.TrimSuffix(publicURL, "/")}
	return func(ctx context.Context, e event.Event) ([]byte, error) {
		o, err := h.payload((&http.Request{}).WithContext(ctx), e) // views want one for its context
		if err != nil {
			return nil, err
		}
		return json.Marshal(o)
	}
}

func (h *handlers) payload(r *http.Request, e event.Event) (object, error) {
	by := access.System(access.User{})
	pr, err := h.Projects.Get(r.Context(), by, e.Project)
	if err != nil {
		return nil, err
	}
	ws, err := h.Projects.Workspace(r.Context(), by, pr.Workspace)
	if err != nil {
		return nil, err
	}
	at := place{base: h.base, workspace: ws.Domain, project: pr.Name}
	var user int64
	var execution, push any
	if e.Kind == event.Pushed {
		user, push, err = h.pushed(r, at, e)
	} else {
		user, execution, err = h.ran(r, at, e)
	}
	if err != nil {
		return nil, err
	}
	invoker, err := h.user(r, user)
	if err != nil {
		return nil, err
	}
	return object{
		{"workspace", h.fromWorkspace(ws)},
		{"invoker", invoker},
		{"project", h.shortProject(pr)},
		{"current_date", stamp(e.At)},
		{"execution", execution},
		{"push", push},
	}, nil
}

// pushed is what a push did.
func (h *handlers) pushed(r *http.Request, at place, e event.Event) (user int64, view object, err error) {
	var p source.Push
	if err := json.Unmarshal(e.Data, &p); err != nil {
		return 0, nil, fmt.Errorf("event %d: %w", e.Seq, err)
	}
	commit := func(hash string) *source.Commit {
		if strings.Trim(hash, "0") == "" {
			return nil
		}
		if c, err := h.Sources.Resolve(r.Context(), project.ID(e.Project), "", hash); err == nil {
			return c
		}
		return &source.Commit{Revision: hash} // it is known all the same
	}
	var branch, tag any
	if name, ok := strings.CutPrefix(p.Ref, "refs/heads/"); ok {
		branch = fromRef(at, "branches", source.Ref{Name: name})[:3]
	} else if name, ok := strings.CutPrefix(p.Ref, "refs/tags/"); ok {
		tag = fromRef(at, "tags", source.Ref{Name: name})
	}
	return p.User, object{
		{"ref", p.Ref},
		{"branch", branch},
		{"tag", tag},
		{"from_revision", h.fromCommit(at, commit(p.Old))},
		{"to_revision", h.fromCommit(at, commit(p.New))},
	}, nil
}

// ran is an execution when it began or ended.
func (h *handlers) ran(r *http.Request, at place, e event.Event) (user int64, view any, err error) {
	var end pipeline.Ended
	if err := json.Unmarshal(e.Data, &end); err != nil {
		return 0, nil, fmt.Errorf("event %d: %w", e.Seq, err)
	}
	by := access.System(access.User{})
	x, err := h.Pipelines.Execution(r.Context(), by, end.Execution)
	if err != nil {
		return 0, nil, err
	}
	p, err := h.Pipelines.Get(r.Context(), by, x.Pipeline)
	if errdefs.IsNotFound(err) { // it was deleted while it ran
		p, err = x.Frozen, nil
		p.ID = x.Pipeline
	}
	if err != nil {
		return 0, nil, err
	}
	x.Status, p.LastStatus = end.Status, end.Status
	if e.Kind == event.ExecutionStarted {
		x.Finished = time.Time{}
	}
	at = at.in(x.Pipeline)
	o, err := h.fromExecution(r, at, &x, h.defaultBranch(r, x.Project))
	if err != nil {
		return 0, nil, err
	}
	return x.By, o.with("pipeline", shortPipeline(at, &p)), nil
}
