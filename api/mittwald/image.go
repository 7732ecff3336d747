package mittwald

import (
	"net/http"
	"strconv"
	"strings"

	"slipway/access"
	"slipway/api"
	"slipway/engine"
	"slipway/project"
	"slipway/stack"
)

type imageBody struct {
	Digest             string      `json:"digest"`
	User               string      `json:"user"`
	UserID             int         `json:"userId"`
	IsUserRoot         bool        `json:"isUserRoot"`
	Entrypoint         []string    `json:"entrypoint,omitempty"`
	Command            []string    `json:"command,omitempty"`
	Env                []envBody   `json:"env,omitempty"`
	ExposedPorts       []portBody  `json:"exposedPorts,omitempty"`
	Volumes            []mountBody `json:"volumes,omitempty"`
	HasAIGeneratedData bool        `json:"hasAiGeneratedData"`
	IsAIAvailable      bool        `json:"isAiAvailable"`
}

type envBody struct {
	Key           string `json:"key"`
	Value         string `json:"value"`
	IsAIGenerated bool   `json:"isAiGenerated"`
}

type portBody struct {
	Port          string `json:"port"`
	IsAIGenerated bool   `json:"isAiGenerated"`
}

type mountBody struct {
	Volume        string `json:"volume"`
	IsAIGenerated bool   `json:"isAiGenerated"`
}

// unknownUser is the number of a user of whom an image only says the name.
const unknownUser = -1

// fromImage: nothing here is made up by a machine.
func fromImage(img engine.Image) imageBody {
	out := imageBody{Digest: img.Digest, Entrypoint: img.Entrypoint, Command: img.Command}
	out.User, _, _ = strings.Cut(img.User, ":") // the group is behind it
	id, err := strconv.Atoi(out.User)
	switch {
	case out.User == "" || out.User == "root":
		out.User = "root"
	case err != nil:
		out.UserID = unknownUser
	default:
		out.UserID = id
	}
	out.IsUserRoot = out.UserID == 0
	for _, e := range img.Env {
		k, v, _ := strings.Cut(e, "=")
		out.Env = append(out.Env, envBody{Key: k, Value: v})
	}
	for _, p := range img.Ports {
		if !strings.Contains(p, "/") {
			p += "/tcp"
		}
		out.ExposedPorts = append(out.ExposedPorts, portBody{Port: p})
	}
	for _, v := range img.Volumes {
		out.Volumes = append(out.Volumes, mountBody{Volume: v})
	}
	return out
}

func (d *dialect) imageConfig(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	q := &query{r: r}
	q.flag("generateAiData") // isAiAvailable says what comes of it
	v := r.URL.Query()
	ask := stack.Question{Ref: v.Get("imageReference"), Login: v.Get("useCredentialsForRegistryId")}
	if id := v.Get("useCredentialsForProjectId"); id != "" {
		p, err := d.Projects.Get(r.Context(), by, id)
		if err != nil {
			return err
		}
		ask.Project = p.ID
	}
	if err := q.bad.Err(); err != nil {
		return err
	}
	img, err := d.Stacks.Inspect(r.Context(), by, ask)
	if err != nil {
		return renamed(err, func(string) string { return "imageReference" })
	}
	return api.JSON(w, http.StatusOK, fromImage(img))
}

type uriRequest struct {
	RegistryURI *string `json:"registryUri"`
}

func (d *dialect) checkURI(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	if err := by.Has(access.StackWrite); err != nil {
		return err
	}
	var in uriRequest
	if err := api.Decode(w, r, &in); err != nil {
		return err
	}
	if in.RegistryURI == nil || *in.RegistryURI == "" {
		return &project.Invalid{Fields: []project.Field{{Path: "registryUri", Kind: "required", Message: "a registry is needed, as host or host:port"}}}
	}
	valid, reason, err := d.Stacks.CheckRegistry(r.Context(), by, *in.RegistryURI)
	if err != nil {
		return err
	}
	out := map[string]any{"valid": valid}
	if reason != "" {
		out["reason"] = reason
	}
	return api.JSON(w, http.StatusOK, out)
}
