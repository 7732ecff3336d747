package mittwald

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"slipway/access"
	"slipway/api"
	"slipway/project"
	"slipway/stack"
)

type stackBody struct {
	ID             string        `json:"id"`
	ProjectID      string        `json:"projectId"`
	Description    string        `json:"description"`
	Prefix         string        `json:"prefix"`
	Disabled       bool          `json:"disabled"`
	Services       []serviceBody `json:"services,omitempty"`
	Volumes        []volumeBody  `json:"volumes,omitempty"`
	UpdateSchedule *scheduleBody `json:"updateSchedule"`
}

type scheduleBody struct {
	Cron     string `json:"cron"`
	Timezone string `json:"timezone,omitempty"`
}

func fromStack(s stack.Stack) stackBody {
	out := stackBody{ID: string(s.ID), ProjectID: string(s.Project), Description: s.Description, Prefix: s.Prefix}
	if u := s.Schedule; u != (stack.Schedule{}) {
		out.UpdateSchedule = &scheduleBody{u.Cron, u.Timezone}
	}
	for _, v := range s.Services {
		out.Services = append(out.Services, fromService(v))
	}
	for _, v := range s.Volumes {
		out.Volumes = append(out.Volumes, fromVolume(v))
	}
	return out
}

// stackRequest is the body of PUT.
type stackRequest struct {
	Services map[string]serviceRequest `json:"services"`
	Volumes  map[string]volumeRequest  `json:"volumes"`
}

// patchRequest is the body of PATCH.
type patchRequest struct {
	stackRequest
	scheduleRequest
	Description api.Opt[string] `json:"description"`
}

type volumeRequest struct {
	Name api.Opt[string] `json:"name"`
}

// decodeStack reads the body of PUT and PATCH. empty are the services that are
// an empty object; ignored is what nobody reads.
func decodeStack(w http.ResponseWriter, r *http.Request, in any) (empty map[string]bool, ignored []string, err error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, nil, fmt.Errorf("read the body: %w", err)
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	err = api.Decode(w, r, in)
	bad, isBad := project.AsInvalid(err)
	if err != nil && !isBad {
		return nil, nil, err
	}
	if !isBad {
		bad = &project.Invalid{}
	}
	var raw struct {
		Services map[string]json.RawMessage `json:"services"`
	}
	_ = json.Unmarshal(body, &raw) // what is wrong with it is in bad already
	empty = map[string]bool{}
	for name, b := range raw.Services {
		switch compact(b) {
		case "{}":
			empty[name] = true
		case "null":
			bad.Add("services."+name, "type", "must be an object, not null")
		}
	}
	if list := w.Header().Get(api.IgnoredHeader); list != "" {
		ignored = strings.Split(list, ", ")
	}
	return empty, ignored, bad.Err()
}

func compact(b []byte) string {
	var out bytes.Buffer
	if json.Compact(&out, b) != nil {
		return ""
	}
	return out.String()
}

// both joins what the decoder and the validation found, each field once.
func both(a, b error) error {
	x, ok1 := project.AsInvalid(a)
	y, ok2 := project.AsInvalid(b)
	switch {
	case a != nil && !ok1:
		return a
	case !ok1:
		return b
	case !ok2:
		return a
	}
	out := &project.Invalid{Fields: x.Fields}
	seen := map[string]bool{}
	for _, f := range x.Fields {
		seen[f.Path] = true
	}
	for _, f := range y.Fields {
		if !seen[f.Path] {
			out.Fields = append(out.Fields, f)
		}
	}
	return out
}

func (d *dialect) listStacks(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	f := stack.Filter{Search: r.URL.Query().Get("searchTerm")}
	if r.PathValue("projectId") != "" {
		p, err := d.refer(r, by)
		if err != nil {
			return err
		}
		f.Project = p.ID
	}
	all, err := d.Stacks.List(r.Context(), by, f)
	if err != nil {
		return err
	}
	list := make([]stackBody, 0, len(all))
	for _, s := range all {
		list = append(list, fromStack(s))
	}
	return page(w, &query{r: r}, 1000, list)
}

type createStackRequest struct {
	Description    *string         `json:"description"`
	TemplateConfig json.RawMessage `json:"templateConfig"`
}

func (d *dialect) createStack(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	p, err := d.refer(r, by)
	if err != nil {
		return err
	}
	var in createStackRequest
	if err := api.Decode(w, r, &in); err != nil {
		return err
	}
	if t := compact(in.TemplateConfig); t != "" && t != "null" {
		return errdefs.ErrNotFound.WithMessage("there are no templates here")
	}
	description := ""
	if in.Description != nil {
		description = *in.Description
	}
	s, err := d.Stacks.Create(r.Context(), by, p.ID, description)
	if err != nil {
		return err
	}
	return api.JSON(w, http.StatusCreated, fromStack(s))
}

// stackID is {stackId}: a UUID, no short id.
func stackID(r *http.Request) stack.ID { return stack.ID(r.PathValue("stackId")) }

func (d *dialect) getStack(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	s, err := d.Stacks.Get(r.Context(), by, stackID(r))
	if err != nil {
		return err
	}
	return api.JSON(w, http.StatusOK, fromStack(s))
}

func (d *dialect) putStack(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	var in stackRequest
	_, ignored, err := decodeStack(w, r, &in)
	decl, e := in.declaration()
	err = both(err, e)
	if err != nil {
		return both(err, decl.Validate())
	}
	decl.Ignored = slices.Concat(ignored, in.mapped(w))
	s, err := d.Stacks.Put(r.Context(), by, stackID(r), decl)
	if err != nil {
		return err
	}
	return api.JSON(w, http.StatusOK, fromStack(s))
}

// declaration is the body of a PUT: what is left out is left to its default.
func (in stackRequest) declaration() (stack.Declaration, error) {
	bad := &project.Invalid{}
	out := stack.Declaration{Services: map[string]stack.Declared{}, Volumes: map[string]string{}}
	for _, name := range slices.Sorted(maps.Keys(in.Services)) {
		out.Services[name] = in.Services[name].declared(bad, "services."+name)
	}
	for key, v := range in.Volumes {
		out.Volumes[key] = v.Name.V
	}
	return out, bad.Err()
}

func (d *dialect) patchStack(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	q := &query{r: r}
	recreate := q.flag("recreate")
	if err := q.bad.Err(); err != nil {
		return err
	}
	var in patchRequest
	empty, ignored, err := decodeStack(w, r, &in)
	patch, e := in.patch(empty)
	if err := both(err, e); err != nil {
		return err
	}
	patch.Recreate = recreate != nil && *recreate
	patch.Ignored = slices.Concat(ignored, in.mapped(w))
	s, err := d.Stacks.Patch(r.Context(), by, stackID(r), patch)
	if err != nil {
		return err
	}
	return api.JSON(w, http.StatusOK, fromStack(s))
}

func (in patchRequest) patch(empty map[string]bool) (stack.Patch, error) {
	bad := &project.Invalid{}
	schedule, wrong := in.schedule()
	out := stack.Patch{Schedule: schedule, Services: map[string]stack.ServicePatch{}, Volumes: map[string]stack.VolumePatch{}}
	if in.Description.Set {
		out.Description = &in.Description.V
	}
	for _, name := range slices.Sorted(maps.Keys(in.Services)) {
		if empty[name] {
			out.Services[name] = stack.ServicePatch{Remove: true}
			continue
		}
		out.Services[name] = in.Services[name].patch(bad, "services."+name)
	}
	for key, v := range in.Volumes {
		p := stack.VolumePatch{}
		if v.Name.Set && !v.Name.Null {
			p.Name = &v.Name.V
		}
		out.Volumes[key] = p
	}
	return out, both(bad.Err(), wrong)
}

func (d *dialect) deleteStack(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	if err := d.Stacks.Delete(r.Context(), by, stackID(r)); err != nil {
		return err
	}
	return nothing(w)
}

type scheduleRequest struct {
	UpdateSchedule api.Opt[updateRequest] `json:"updateSchedule"`
}

type updateRequest struct {
	Cron     api.Opt[string] `json:"cron"`
	Timezone api.Opt[string] `json:"timezone"`
}

// schedule is what was asked for: nil if nothing was, the zero value for none.
func (in scheduleRequest) schedule() (*stack.Schedule, error) {
	u := in.UpdateSchedule
	switch {
	case !u.Set:
		return nil, nil
	case u.Null:
		return &stack.Schedule{}, nil
	}
	to := &stack.Schedule{Cron: u.V.Cron.V, Timezone: u.V.Timezone.V}
	return to, to.Validate() // an empty one is not none
}

// putSchedule sets when a stack is updated, or that it is not.
func (d *dialect) putSchedule(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	var in scheduleRequest
	err := api.Decode(w, r, &in)
	to, wrong := in.schedule()
	if err := both(err, wrong); err != nil {
		return err
	}
	if to == nil { // left out takes it away too
		to = &stack.Schedule{}
	}
	if _, err := d.Stacks.Patch(r.Context(), by, stackID(r), stack.Patch{Schedule: to}); err != nil {
		return err
	}
	return nothing(w)
}
