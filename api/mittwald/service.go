package mittwald

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"slipway/access"
	"slipway/api"
	"slipway/logs"
	"slipway/project"
	"slipway/stack"
)

type serviceBody struct {
	ID               string       `json:"id"`
	ShortID          string       `json:"shortId"`
	ServiceName      string       `json:"serviceName"`
	Description      string       `json:"description"`
	ProjectID        string       `json:"projectId"`
	StackID          string       `json:"stackId"`
	Status           stack.Status `json:"status"`
	StatusSetAt      any          `json:"statusSetAt"`
	Message          string       `json:"message,omitempty"`
	RequiresRecreate bool         `json:"requiresRecreate"`
	PendingState     stateBody    `json:"pendingState"`
	DeployedState    stateBody    `json:"deployedState"`
	Deploy           *deployBody  `json:"deploy,omitempty"`
	RestartPolicy    string       `json:"restartPolicy,omitempty"`
}

type stateBody struct {
	Image       string            `json:"image"`
	ImageDigest string            `json:"imageDigest,omitempty"`
	Command     []string          `json:"command,omitempty"`
	Entrypoint  []string          `json:"entrypoint,omitempty"`
	Envs        map[string]string `json:"envs,omitempty"`
	Ports       []string          `json:"ports,omitempty"`
	Volumes     []string          `json:"volumes,omitempty"`
}

type deployBody struct {
	Resources resourcesBody `json:"resources"`
}

type resourcesBody struct {
	Limits limitsBody `json:"limits"`
}

type limitsBody struct {
	CPUs   string `json:"cpus,omitempty"`
	Memory string `json:"memory,omitempty"`
}

func fromService(s stack.Service) serviceBody {
	out := serviceBody{
		ID: string(s.ID), ShortID: s.ShortID, ServiceName: s.Name, Description: s.Description, ProjectID: string(s.Project),
		StackID: string(s.Stack), Status: s.Status, StatusSetAt: api.Time(s.StatusSet), Message: s.Message,
		RequiresRecreate: s.RequiresRecreate, PendingState: fromDefinition(s.Declared, s.DeclaredDigest),
		DeployedState: fromDefinition(s.Deployed, s.DeployedDigest), RestartPolicy: string(s.Restart),
	}
	if l := s.Declared.Limits; l != (stack.Limits{}) {
		out.Deploy = &deployBody{resourcesBody{limitsBody{l.CPUs, l.Memory}}}
	}
	return out
}

func fromDefinition(d stack.Definition, digest string) stateBody {
	out := stateBody{Image: d.Image, ImageDigest: digest, Command: d.Command, Entrypoint: d.Entrypoint, Envs: d.Env}
	for _, p := range d.Ports {
		out.Ports = append(out.Ports, p.String())
	}
	for _, m := range d.Mounts {
		out.Volumes = append(out.Volumes, m.String())
	}
	return out
}

// text is a string; numbers and booleans, which YAML makes of them, are taken as
// they are written.
type text string

// UnmarshalJSON takes a scalar.
func (t *text) UnmarshalJSON(b []byte) error {
	var v any
	if err := json.Unmarshal(b, &v); err != nil {
		return err
	}
	switch v := v.(type) {
	case string:
		*t = text(v)
	case float64, bool:
		*t = text(b)
	default:
		bad := &project.Invalid{}
		bad.Add("", "type", "must be a string, a number or a boolean")
		return bad
	}
	return nil
}

// environment is a map, or a list of NAME=VALUE as compose files have it.
type environment map[string]string

// UnmarshalJSON takes both forms.
func (e *environment) UnmarshalJSON(b []byte) error {
	bad := &project.Invalid{}
	out := environment{}
	var list []text
	if err := json.Unmarshal(b, &list); err == nil {
		for i, l := range list {
			k, v, ok := strings.Cut(string(l), "=")
			if !ok {
				bad.Add(fmt.Sprint(i), "format", "must be NAME=VALUE")
			}
			out[k] = v
		}
		*e = out
		return bad.Err()
	}
	var m map[string]json.RawMessage
	if err := json.Unmarshal(b, &m); err != nil {
		bad.Add("", "type", "must be an object with a value for each name")
		return bad
	}
	for k, raw := range m {
		var t text
		if err := t.UnmarshalJSON(raw); err != nil {
			bad.Add(k, "type", "must be a string, a number or a boolean")
		}
		out[k] = string(t)
	}
	slices.SortFunc(bad.Fields, func(a, b project.Field) int { return strings.Compare(a.Path, b.Path) })
	*e = out
	return bad.Err()
}

// serviceRequest is a service in the body of PUT and PATCH. The lower half are
// keys of compose files that weaken the isolation of a container: they are
// refused unless they say no.
type serviceRequest struct {
	Image         api.Opt[string]        `json:"image"`
	Description   api.Opt[string]        `json:"description"`
	Command       api.Opt[[]string]      `json:"command"`
	Entrypoint    api.Opt[[]string]      `json:"entrypoint"`
	Environment   api.Opt[environment]   `json:"environment"`
	Envs          api.Opt[environment]   `json:"envs"`
	Ports         api.Opt[[]text]        `json:"ports"`
	Volumes       api.Opt[[]text]        `json:"volumes"`
	Deploy        api.Opt[deployRequest] `json:"deploy"`
	RestartPolicy api.Opt[string]        `json:"restartPolicy"`

	CapAdd            json.RawMessage `json:"cap_add" isolation:"yes"`
	Cgroup            json.RawMessage `json:"cgroup" isolation:"yes"`
	CgroupParent      json.RawMessage `json:"cgroup_parent" isolation:"yes"`
	DeviceCgroupRules json.RawMessage `json:"device_cgroup_rules" isolation:"yes"`
	Devices           json.RawMessage `json:"devices" isolation:"yes"`
	GPUs              json.RawMessage `json:"gpus" isolation:"yes"`
	IPC               json.RawMessage `json:"ipc" isolation:"yes"`
	NetworkMode       json.RawMessage `json:"network_mode" isolation:"yes"`
	PID               json.RawMessage `json:"pid" isolation:"yes"`
	Privileged        json.RawMessage `json:"privileged" isolation:"yes"`
	SecurityOpt       json.RawMessage `json:"security_opt" isolation:"yes"`
	Sysctls           json.RawMessage `json:"sysctls" isolation:"yes"`
	UsernsMode        json.RawMessage `json:"userns_mode" isolation:"yes"`
	UTS               json.RawMessage `json:"uts" isolation:"yes"`
	VolumesFrom       json.RawMessage `json:"volumes_from" isolation:"yes"`
}

type deployRequest struct {
	Resources struct {
		Limits struct {
			CPUs   api.Opt[text] `json:"cpus"`
			Memory api.Opt[text] `json:"memory"`
		} `json:"limits"`
	} `json:"resources"`
}

// declared is a service of a PUT.
func (in serviceRequest) declared(bad *project.Invalid, at string) stack.Declared {
	in.checkIsolation(bad, at)
	limits := in.Deploy.V.Resources.Limits
	return stack.Declared{
		Description: in.Description.V,
		Restart:     stack.RestartPolicy(in.RestartPolicy.V),
		Definition: stack.Definition{
			Image: in.Image.V, Command: in.Command.V, Entrypoint: in.Entrypoint.V, Env: in.env(),
			Ports: in.ports(bad, at), Mounts: in.mounts(bad, at),
			Limits: stack.Limits{CPUs: string(limits.CPUs.V), Memory: string(limits.Memory.V)},
		},
	}
}

// patch is a service of a PATCH: what is left out stays, null takes it away.
func (in serviceRequest) patch(bad *project.Invalid, at string) stack.ServicePatch {
	in.checkIsolation(bad, at)
	out := stack.ServicePatch{
		Image: given(in.Image), Description: given(in.Description), Command: given(in.Command), Entrypoint: given(in.Entrypoint),
	}
	if in.RestartPolicy.Set {
		p := stack.RestartPolicy(in.RestartPolicy.V)
		out.Restart = &p
	}
	if in.Environment.Set || in.Envs.Set {
		env := in.env()
		out.Env = &env
	}
	if in.Ports.Set {
		p := in.ports(bad, at)
		out.Ports = &p
	}
	if in.Volumes.Set {
		m := in.mounts(bad, at)
		out.Mounts = &m
	}
	if in.Deploy.Set {
		cpus, memory := string(in.Deploy.V.Resources.Limits.CPUs.V), string(in.Deploy.V.Resources.Limits.Memory.V)
		out.CPUs, out.Memory = &cpus, &memory
	}
	return out
}

func given[T any](o api.Opt[T]) *T {
	if !o.Set {
		return nil
	}
	return &o.V
}

// env joins the two names of the environment; the present one wins.
func (in serviceRequest) env() map[string]string {
	out := map[string]string{}
	for _, m := range []environment{in.Envs.V, in.Environment.V} {
		for k, v := range m {
			out[k] = v
		}
	}
	return out
}

func (in serviceRequest) ports(bad *project.Invalid, at string) (out []stack.Port) {
	for i, p := range in.Ports.V {
		l, err := stack.ParsePort(string(p))
		if err != nil {
			bad.Add(fmt.Sprintf("%s.ports.%d", at, i), "format", fmt.Sprintf("input %q: %s", p, err))
		}
		out = append(out, l...)
	}
	return out
}

func (in serviceRequest) mounts(bad *project.Invalid, at string) (out []stack.Mount) {
	for i, v := range in.Volumes.V {
		m, err := stack.ParseMount(string(v))
		if err != nil {
			bad.Add(fmt.Sprintf("%s.volumes.%d", at, i), "format", fmt.Sprintf("input %q: %s", v, err))
		}
		out = append(out, m)
	}
	return out
}

// mapped adds to the list of what is ignored that the public side of a port
// mapping has no effect between services.
func (in stackRequest) mapped(w http.ResponseWriter) []string {
	var notes []string
	for _, name := range slices.Sorted(maps.Keys(in.Services)) {
		for _, p := range in.Services[name].ports(&project.Invalid{}, "") {
			if p.Public != p.Target {
				notes = append(notes, fmt.Sprintf("services.%s.ports: %d is reached at %d", name, p.Public, p.Target))
			}
		}
	}
	if len(notes) == 0 {
		return nil
	}
	all := notes
	if have := w.Header().Get(api.IgnoredHeader); have != "" {
		all = append([]string{have}, notes...)
	}
	w.Header().Set(api.IgnoredHeader, strings.Join(all, ", "))
	return notes
}

func (d *dialect) listServices(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	q := &query{r: r}
	v := r.URL.Query()
	status := q.oneOf("status", "", "running", "stopped", "error", "creating", "starting", "stopping")
	sort := q.oneOf("sortOrder", "", "descriptionAsc", "descriptionDesc")
	recreate := q.flag("requiresRecreate")
	all, err := d.stacks(r, by)
	if err != nil {
		return err
	}
	list := []serviceBody{}
	for _, st := range all {
		if v.Get("stackId") != "" && v.Get("stackId") != string(st.ID) {
			continue
		}
		for _, s := range st.Services {
			if (status == "" || status == string(s.Status)) && (recreate == nil || *recreate == s.RequiresRecreate) &&
				finds(v.Get("searchTerm"), s.Name, s.Description, s.ShortID) {
				list = append(list, fromService(s))
			}
		}
	}
	if sort != "" {
		slices.SortStableFunc(list, func(a, b serviceBody) int { return strings.Compare(a.Description, b.Description) })
	}
	if sort == "descriptionDesc" {
		slices.Reverse(list)
	}
	return page(w, q, 1000, list)
}

// stacks lists the stacks that a list of services or volumes is of: one, those
// of a project, or all.
func (d *dialect) stacks(r *http.Request, by access.Actor) ([]stack.Stack, error) {
	if r.PathValue("stackId") != "" {
		s, err := d.Stacks.Get(r.Context(), by, stackID(r))
		return []stack.Stack{s}, err
	}
	var f stack.Filter
	if r.PathValue("projectId") != "" {
		p, err := d.refer(r, by)
		if err != nil {
			return nil, err
		}
		f.Project = p.ID
	}
	return d.Stacks.List(r.Context(), by, f)
}

func (d *dialect) getService(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	s, err := d.Stacks.Service(r.Context(), by, stackID(r), r.PathValue("serviceId"))
	if err != nil {
		return err
	}
	return api.JSON(w, http.StatusOK, fromService(s))
}

func (d *dialect) getLogs(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	q := &query{r: r}
	tail, limited := q.number("tail", 0)
	if err := q.bad.Err(); err != nil {
		return err
	}
	begin := func() { w.Header().Set("Content-Type", "text/plain; charset=utf-8") }
	if limited && tail == 0 {
		if _, err := d.Stacks.Service(r.Context(), by, stackID(r), r.PathValue("serviceId")); err != nil {
			return err
		}
		begin()
		return nil
	}
	gone := errors.New("the reader has gone")
	var buf []byte
	err := d.Stacks.Logs(r.Context(), by, stackID(r), r.PathValue("serviceId"), tail, func(lines []logs.Line) error {
		begin()
		buf = buf[:0]
		for _, l := range lines {
			buf = append(append(buf, l.Text...), '\n')
		}
		if _, err := w.Write(buf); err != nil {
			return gone
		}
		return nil
	})
	switch {
	case errors.Is(err, gone):
		return nil
	case err == nil:
		begin() // of an empty log, too
	}
	return err
}

func (d *dialect) act(f func(context.Context, access.Actor, stack.ID, string) error) api.Handler {
	return func(w http.ResponseWriter, r *http.Request, by access.Actor) error {
		if err := f(r.Context(), by, stackID(r), r.PathValue("serviceId")); err != nil {
			return err
		}
		return nothing(w)
	}
}

func (d *dialect) pull(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	q := &query{r: r}
	skip := q.flag("skipRecreate")
	if err := q.bad.Err(); err != nil {
		return err
	}
	if err := d.Stacks.Pull(r.Context(), by, stackID(r), r.PathValue("serviceId"), skip != nil && *skip); err != nil {
		return err
	}
	return nothing(w)
}
