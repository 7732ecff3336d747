// Package mittwald speaks the container part of the mittwald API, version 2:
// projects, registries, stacks, services, volumes and ingresses. It decodes a request to
// its own structs, calls one front door, and encodes the answer; what the words
// mean is decided in the rooms. docs/mittwald.md lists what is served.
package mittwald

import (
	"fmt"
	"net/http"
	"net/netip"

	"slipway/access"
	"slipway/api"
	"slipway/ingress"
	"slipway/project"
	"slipway/secret"
	"slipway/stack"
)

// Rooms are what the dialect speaks about.
type Rooms struct {
	Access    *access.Access
	Projects  *project.Projects
	Secrets   *secret.Secrets
	Stacks    *stack.Stacks
	Ingresses *ingress.Ingresses
	PublicURL string // how the server is reached
	// IPs are the addresses under which hosted services are reached.
	IPs []netip.Addr
}

type dialect struct{ Rooms }

// hookRoute asks for no token of a user, but for that of a service.
const hookRoute = "GET /v2/stacks/{stackId}/webhooks/pull-image"

// New is the dialect as a value. It shares /v2 with the image registry, which
// hands over what has no OCI shape.
func New(r Rooms) api.Dialect {
	d := &dialect{r}
	return api.Dialect{
		Name:     "mittwald",
		Prefixes: []string{"/v2"},
		Fail:     fail,
		Before:   before,
		Open:     map[string]bool{hookRoute: true},
		Table: map[string]api.Handler{
			"GET /v2/users/self":                            d.self,
			"GET /v2/customers/{customerId}":                d.getCustomer,
			"GET /v2/users/self/api-tokens":                 d.listTokens,
			"POST /v2/users/self/api-tokens":                d.createToken,
			"GET /v2/users/self/api-tokens/{apiTokenId}":    d.getToken,
			"PUT /v2/users/self/api-tokens/{apiTokenId}":    d.putToken,
			"DELETE /v2/users/self/api-tokens/{apiTokenId}": d.deleteToken,
			"GET /v2/projects":                              d.listProjects,
			"POST /v2/servers/{serverId}/projects":          d.createProject,
			"GET /v2/projects/{projectId}":                  d.getProject,
			"PATCH /v2/projects/{projectId}":                d.patchProject,
			"DELETE /v2/projects/{projectId}":               d.deleteProject,
			"GET /v2/stacks":                                d.listStacks,
			"GET /v2/projects/{projectId}/stacks":           d.listStacks,
			"POST /v2/projects/{projectId}/stacks":          d.createStack,
			"GET /v2/stacks/{stackId}":                      d.getStack,
			"PUT /v2/stacks/{stackId}":                      d.putStack,
			"PATCH /v2/stacks/{stackId}":                    d.patchStack,
			"DELETE /v2/stacks/{stackId}":                   d.deleteStack,
			"PUT /v2/stacks/{stackId}/update-schedule":      d.putSchedule,

			"GET /v2/projects/{projectId}/registries":                       d.listRegistries,
			"POST /v2/projects/{projectId}/registries":                      d.createRegistry,
			"GET /v2/registries/{registryId}":                               d.getRegistry,
			"PATCH /v2/registries/{registryId}":                             d.patchRegistry,
			"DELETE /v2/registries/{registryId}":                            d.deleteRegistry,
			"POST /v2/registries/{registryId}/actions/validate-credentials": d.checkRegistry,

			"POST /v2/actions/validate-container-registry-uri": d.checkURI,
			"GET /v2/container-image-config":                   d.imageConfig,
			"GET /v2/time-zones":                               d.listZones,
			"GET /v2/domains":                                  d.listDomains,

			"GET /v2/services":                                                d.listServices,
			"GET /v2/projects/{projectId}/services":                           d.listServices,
			"GET /v2/stacks/{stackId}/services/{serviceId}":                   d.getService,
			"GET /v2/stacks/{stackId}/services/{serviceId}/logs":              d.getLogs,
			"POST /v2/stacks/{stackId}/services/{serviceId}/actions/start":    d.act(r.Stacks.Start),
			"POST /v2/stacks/{stackId}/services/{serviceId}/actions/stop":     d.act(r.Stacks.Stop),
			"POST /v2/stacks/{stackId}/services/{serviceId}/actions/restart":  d.act(r.Stacks.Restart),
			"POST /v2/stacks/{stackId}/services/{serviceId}/actions/recreate": d.act(r.Stacks.Recreate),
			"POST /v2/stacks/{stackId}/services/{serviceId}/webhook-token":    d.rotateHook,
			hookRoute: d.callHook,
			"POST /v2/stacks/{stackId}/services/{serviceId}/actions/pull": d.pull,
			"GET /v2/projects/{projectId}/volumes":                        d.listVolumes,
			"GET /v2/stacks/{stackId}/volumes":                            d.listVolumes,
			"GET /v2/stacks/{stackId}/volumes/{volumeId}":                 d.getVolume,
			"DELETE /v2/stacks/{stackId}/volumes/{volumeId}":              d.deleteVolume,

			"GET /v2/ingresses":                      d.listIngresses,
			"GET /v2/projects/{projectId}/ingresses": d.listProjectIngresses,
			"POST /v2/ingresses":                     d.createIngress,
			"GET /v2/ingresses/{ingressId}":          d.getIngress,
			"DELETE /v2/ingresses/{ingressId}":       d.deleteIngress,
			"PATCH /v2/ingresses/{ingressId}/paths":  d.patchPaths,
			"PUT /v2/ingresses/{ingressId}/paths":    d.patchPaths,
		},
	}
}

// before sets what every answer has: no route has a limit.
func before(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("X-RateLimit-Exempt", "yes")
}

// failure is the body of an error. The shape of validationErrors is that of the
// reference, params.traceId that of what production answers.
type failure struct {
	Type             string            `json:"type"`
	Message          string            `json:"message"`
	Params           *params           `json:"params,omitempty"`
	ValidationErrors []validationError `json:"validationErrors,omitempty"`
}

type params struct {
	TraceID string `json:"traceId"`
}

type validationError struct {
	Path    string `json:"path"`
	Message string `json:"message"`
	Type    string `json:"type"`
}

// types are the words for the statuses. Only VError, ValidationError and
// InternalServerError are known from answers; the others are in their style.
var types = map[int]string{
	http.StatusBadRequest:            "ValidationError",
	http.StatusUnauthorized:          "UnauthorizedError",
	http.StatusForbidden:             "PermissionDeniedError",
	http.StatusNotFound:              "NotFoundError",
	http.StatusMethodNotAllowed:      "MethodNotAllowedError",
	http.StatusConflict:              "ConflictError",
	http.StatusPreconditionFailed:    "VError",
	http.StatusRequestEntityTooLarge: "PayloadTooLargeError",
	http.StatusServiceUnavailable:    "ServiceUnavailableError",
	http.StatusTooManyRequests:       "RateLimitError",
}

// keywords are the words for what is wrong with a field: those of JSON schema.
var keywords = map[string]string{"conflict": "uniqueItems", "unknown": "additionalProperties", "unsupported": "not"}

func fail(w http.ResponseWriter, r *http.Request, status int, err error) {
	if status == http.StatusForbidden && (r.Method == http.MethodGet || r.Method == http.MethodHead) {
		// A client that has once written retries GET and 403 for minutes.
		status, err = http.StatusNotFound, fmt.Errorf("there is nothing at %s that you may read", r.URL.Path)
	}
	if status == http.StatusInsufficientStorage {
		status = http.StatusPreconditionFailed // a 5xx is retried for minutes
	}
	f := failure{Type: types[status], Message: api.Text(err)}
	if f.Type == "" {
		f.Type = "InternalServerError"
	}
	if status >= http.StatusInternalServerError {
		f.Message = "an internal error occurred"
	}
	if id := api.ID(r); id != "" {
		f.Params = &params{TraceID: id}
	}
	if bad, ok := project.AsInvalid(err); ok && status == http.StatusBadRequest {
		f.Message = "Validation failed"
		for _, b := range bad.Fields {
			kind := b.Kind
			if k := keywords[kind]; k != "" {
				kind = k
			}
			f.ValidationErrors = append(f.ValidationErrors, validationError{Path: b.Path, Message: b.Message, Type: kind})
		}
	} else if status == http.StatusBadRequest {
		f.ValidationErrors = []validationError{{Message: f.Message, Type: "format"}}
	}
	_ = api.JSON(w, status, f) // whoever has gone needs no answer
}

// renamed gives an error whose fields have other names on the wire.
func renamed(err error, names func(path string) string) error {
	bad, ok := project.AsInvalid(err)
	if !ok {
		return err
	}
	out := &project.Invalid{}
	for _, f := range bad.Fields {
		out.Add(names(f.Path), f.Kind, f.Message)
	}
	return out
}

// refer resolves {projectId}: a UUID or a short id.
func (d *dialect) refer(r *http.Request, by access.Actor) (project.Project, error) {
	return d.Projects.Get(r.Context(), by, r.PathValue("projectId"))
}

func nothing(w http.ResponseWriter) error {
	w.WriteHeader(http.StatusNoContent)
	return nil
}
