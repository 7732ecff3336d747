// Package alauda is the dialect of build repositories: a project with a build
// configuration whose tag configs are pipelines, and builds, which are
// executions of those. docs/alauda.md says what is served.
package alauda

import (
	"fmt"
	"net/http"
	"strconv"

	"github.com/containerd/errdefs"

	"slipway/access"
	"slipway/api"
	"slipway/image"
	"slipway/pipeline"
	"slipway/project"
	"slipway/source"
)

// Handlers holds the front doors that the dialect speaks to.
type Handlers struct {
	PublicURL string // without a slash at the end
	Access    *access.Access
	Projects  *project.Projects
	Sources   *source.Sources
	Pipelines *pipeline.Pipelines
	Images    *image.Images
}

// Dialect is the dialect as a value.
func (h *Handlers) Dialect() api.Dialect {
	return api.Dialect{
		Name: "alauda", Prefixes: []string{"/v1"}, Fail: fail,
		Table: map[string]api.Handler{
			"POST /v1/repositories/{namespace}":                    h.createRepository,
			"GET /v1/repositories/{namespace}/{repo}":              h.getRepository,
			"PUT /v1/repositories/{namespace}/{repo}/build-config": h.putBuildConfig,
			"GET /v1/builds":              h.listBuilds,
			"POST /v1/builds":             h.startBuild,
			"GET /v1/builds/{build}":      h.getBuild,
			"GET /v1/builds/{build}/logs": h.getLogs,
		},
	}
}

// fault is the shape of an error: what each known client looks for is in it.
type fault struct {
	Detail string       `json:"detail"`
	Errors []faultField `json:"errors"`
}

type faultField struct {
	Code    string `json:"code"`
	Message string `json:"message"`
	Field   string `json:"field,omitempty"`
}

var codes = map[int]string{
	400: "invalid_args", 401: "unauthenticated", 403: "permission_denied", 404: "resource_not_exist", 405: "method_not_allowed",
	409: "resource_already_exist", 412: "invalid_state", 413: "too_large", 507: "no_room",
}

func fail(w http.ResponseWriter, _ *http.Request, status int, err error) {
	code := codes[status]
	if code == "" {
		code = "server_error"
	}
	f := fault{Detail: api.Text(err)}
	if bad, ok := project.AsInvalid(err); ok {
		for _, e := range bad.Fields {
			f.Errors = append(f.Errors, faultField{code, e.Message, e.Path})
		}
	} else {
		if status >= 500 && status != http.StatusInsufficientStorage {
			f.Detail = "internal error; the server's log has it under the request id"
		}
		f.Errors = []faultField{{Code: code, Message: f.Detail}}
	}
	if status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", "Token")
	}
	_ = api.JSON(w, status, f)
}

// find finds a project by the names in the path.
func (h *Handlers) find(r *http.Request, by access.Actor, namespace, repo string) (project.Project, error) {
	p, err := h.Projects.Find(r.Context(), by, namespace, repo)
	if errdefs.IsNotFound(err) {
		err = fmt.Errorf("repository %s/%s: %w", namespace, repo, errdefs.ErrNotFound)
	}
	return p, err
}

// paths gives the fields of an Invalid of a room the paths that they have here.
func paths(err error, names func(path string) string) error {
	inv, ok := project.AsInvalid(err)
	if !ok {
		return err
	}
	out := &project.Invalid{}
	for _, f := range inv.Fields {
		out.Add(names(f.Path), f.Kind, f.Message)
	}
	return out
}

// username is how the dialect names a user.
func (h *Handlers) username(r *http.Request, id int64) string {
	u, err := h.Access.User(r.Context(), id)
	if err != nil {
		return ""
	}
	return u.Username
}

// unixTime reads a query parameter of Unix seconds; -1 is none.
func unixTime(r *http.Request, name string) (int64, error) {
	s := r.URL.Query().Get(name)
	if s == "" {
		return -1, nil
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 {
		return 0, &project.Invalid{Fields: []project.Field{{Path: name, Kind: "type", Message: "must be a time in seconds since 1970"}}}
	}
	return n, nil
}
