package native

import (
	"fmt"
	"io"
	"net/http"
	"strconv"

	"github.com/containerd/errdefs"

	"slipway/access"
	"slipway/api"
	"slipway/pipeline"
)

// Code is the format in which pipelines are written as code.
type Code struct {
	Dialect string // whose words they are
	Read    func(text []byte) (list []pipeline.Definition, ignored []string, err error)
	Write   func(list ...pipeline.Definition) ([]byte, error)
}

const yamlType = "application/yaml"

// exportAll gives all pipelines of a project as code.
func (h *Handlers) exportAll(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	pr, err := h.project(r, by)
	if err != nil {
		return err
	}
	all, err := h.Pipelines.List(r.Context(), by, pr.ID)
	if err != nil {
		return err
	}
	var list []pipeline.Definition
	for _, p := range all {
		d, err := h.Pipelines.Definition(r.Context(), by, p.ID)
		if errdefs.IsNotFound(err) {
			continue // deleted meanwhile
		}
		if err != nil {
			return err
		}
		list = append(list, d)
	}
	return h.code(w, list...)
}

// exportOne gives one pipeline as code.
func (h *Handlers) exportOne(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	pr, err := h.project(r, by)
	if err != nil {
		return err
	}
	id, err := strconv.ParseInt(r.PathValue("pipeline"), 10, 64)
	if err != nil {
		return fmt.Errorf("pipeline %q: %w", r.PathValue("pipeline"), errdefs.ErrNotFound)
	}
	d, err := h.Pipelines.Definition(r.Context(), by, pipeline.ID(id))
	if err == nil && d.Pipeline.Project != pr.ID {
		err = fmt.Errorf("pipeline %d: %w", id, errdefs.ErrNotFound)
	}
	if err != nil {
		return err
	}
	return h.code(w, d)
}

func (h *Handlers) code(w http.ResponseWriter, list ...pipeline.Definition) error {
	text, err := h.Code.Write(list...)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", yamlType)
	_, _ = w.Write(text) // whoever has gone needs no answer
	return nil
}

// imported is a pipeline that was made of code.
type imported struct {
	ID         pipeline.ID `json:"id"`
	Identifier string      `json:"identifier"`
	Name       string      `json:"name"`
	Created    bool        `json:"created"`
}

// importAll makes pipelines of code: all that the file has, or none.
func (h *Handlers) importAll(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	pr, err := h.project(r, by)
	if err != nil {
		return err
	}
	if err := by.MayIn(pr.Workspace, string(pr.ID), access.ExecutionManage); err != nil {
		return err
	}
	text, err := io.ReadAll(r.Body)
	if err != nil {
		return fmt.Errorf("read the body: %w", err)
	}
	list, ignored, err := h.Code.Read(text)
	if len(ignored) > 0 {
		w.Header().Set(api.IgnoredHeader, api.Ignored(ignored))
	}
	if err != nil {
		return err
	}
	done, err := h.Pipelines.Import(r.Context(), by, pr.ID, h.Code.Dialect, list)
	if err != nil {
		return err
	}
	l := []imported{}
	for _, d := range done {
		l = append(l, imported{d.Pipeline.ID, d.Pipeline.Identifier, d.Pipeline.Name, d.Created})
	}
	return api.JSON(w, http.StatusOK, map[string]any{"pipelines": l})
}
