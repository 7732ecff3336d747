package native

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"

	"slipway/access"
	"slipway/api"
	"slipway/pipeline"
	"slipway/project"
)

// localPath is where a working tree is run.
const localPath = projectPath + "/pipelines/{pipeline}/executions:local"

// localRun is what a run of a working tree is started with.
type localRun struct {
	Commit     string          `json:"commit"`
	Definition string          `json:"definition"`
	Actions    []string        `json:"actions"`
	Variables  []localVariable `json:"variables"`
	Comment    string          `json:"comment"`
	Refresh    bool            `json:"refresh"`
	ClearCache bool            `json:"clear_cache"`
}

type localVariable struct {
	Key       string `json:"key"`
	Value     string `json:"value"`
	Encrypted bool   `json:"encrypted"`
}

// runLocal starts a run of a working tree that was pushed before.
func (h *Handlers) runLocal(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	p, err := h.pipeline(r, by)
	if err != nil {
		return err
	}
	var b localRun
	if err := api.Decode(w, r, &b); err != nil {
		return err
	}
	var inv project.Invalid
	if b.Commit == "" {
		inv.Add("commit", "required", "is required: the working tree, as it was pushed")
	}
	inv.Text("definition", b.Definition, 4096)
	inv.Text("comment", b.Comment, 4096)
	if err := inv.Err(); err != nil {
		return err
	}
	in := pipeline.Start{
		Mode: pipeline.ByLocal, Revision: b.Commit, Definition: strings.Trim(b.Definition, "/"), Named: b.Actions,
		Comment: b.Comment, Refresh: b.Refresh, ClearCache: b.ClearCache, Key: r.Header.Get("Idempotency-Key"),
	}
	for _, v := range b.Variables {
		in.Variables = append(in.Variables, pipeline.Variable{Key: v.Key, Value: v.Value, Encrypted: v.Encrypted})
	}
	x, err := h.Pipelines.Start(r.Context(), by, p.ID, in)
	if err != nil {
		return err
	}
	return api.JSON(w, http.StatusCreated, map[string]any{"id": x.ID, "pipeline": x.Pipeline, "number": x.Number, "status": x.Shown()})
}

// pipeline finds the pipeline of a path.
func (h *Handlers) pipeline(r *http.Request, by access.Actor) (pipeline.Pipeline, error) {
	pr, err := h.project(r, by)
	if err != nil {
		return pipeline.Pipeline{}, err
	}
	gone := fmt.Errorf("pipeline %q: %w", r.PathValue("pipeline"), errdefs.ErrNotFound)
	id, err := strconv.ParseInt(r.PathValue("pipeline"), 10, 64)
	if err != nil {
		return pipeline.Pipeline{}, gone
	}
	p, err := h.Pipelines.Get(r.Context(), by, pipeline.ID(id))
	if err == nil && p.Project != pr.ID {
		err = gone
	}
	return p, err
}
