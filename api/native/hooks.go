package native

import (
	"net/http"

	"slipway/access"
	"slipway/api"
	"slipway/project"
)

// projectPath is the path of a project in the dialect.
const projectPath = Prefix + "/workspaces/{workspace}/projects/{project}"

// hooksPrefix is where URLs lie that start something.
const hooksPrefix = "/hooks"

// hook is a URL that starts something. Secret is what its caller signs with; a
// URL that starts a pipeline is the secret itself.
type hook struct {
	URL      string  `json:"url"`
	Secret   *string `json:"secret"`
	Source   string  `json:"source"`
	Pipeline int64   `json:"pipeline"`
	Name     string  `json:"name"`
}

func (h *Handlers) project(r *http.Request, by access.Actor) (project.Project, error) {
	return h.Projects.Find(r.Context(), by, r.PathValue("workspace"), r.PathValue("project"))
}

func (h *Handlers) listHooks(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	pr, err := h.project(r, by)
	if err != nil {
		return err
	}
	all, err := h.Pipelines.Hooks(r.Context(), by, pr.ID)
	if err != nil {
		return err
	}
	l := []hook{}
	for _, k := range all {
		l = append(l, hook{URL: k.URL, Source: "PIPELINE", Pipeline: int64(k.Pipeline), Name: k.Name})
	}
	w.Header().Set("Cache-Control", "no-store")
	return api.JSON(w, http.StatusOK, map[string]any{"hooks": l})
}

// startByHook starts the pipeline whose URL was asked for. What its caller sends
// along is not read.
func (h *Handlers) startByHook(w http.ResponseWriter, r *http.Request, _ access.Actor) error {
	x, err := h.Pipelines.StartByHook(r.Context(), r.PathValue("code"))
	if err != nil {
		return err
	}
	return api.JSON(w, http.StatusAccepted, map[string]any{"pipeline": x.Pipeline, "execution": x.Number, "status": x.Status})
}
