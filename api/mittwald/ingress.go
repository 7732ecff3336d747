package mittwald

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/google/uuid"

	"slipway/access"
	"slipway/api"
	"slipway/ingress"
	"slipway/project"
)

type ingressBody struct {
	ID                  string        `json:"id"`
	ProjectID           string        `json:"projectId"`
	Hostname            string        `json:"hostname"`
	Paths               []pathBody    `json:"paths"`
	IPs                 ipsBody       `json:"ips"`
	IsDefault           bool          `json:"isDefault"`
	IsEnabled           bool          `json:"isEnabled"`
	Ownership           ownershipBody `json:"ownership"`
	DNSValidationErrors []string      `json:"dnsValidationErrors"`
	TLS                 tlsBody       `json:"tls"`
}

type ownershipBody struct {
	Verified bool `json:"verified"`
}

// ipsBody: the deprecated list has no v6.
type ipsBody struct {
	V4 []string  `json:"v4"`
	V6 *[]string `json:"v6,omitempty"`
}

// tlsBody: the deprecated list has no isCreated.
type tlsBody struct {
	ACME      bool  `json:"acme"`
	IsCreated *bool `json:"isCreated,omitempty"`
}

type pathBody struct {
	Path   string     `json:"path"`
	Target targetBody `json:"target"`
}

type targetBody struct {
	Container      *containerBody `json:"container,omitempty"`
	URL            string         `json:"url,omitempty"`
	UseDefaultPage bool           `json:"useDefaultPage,omitempty"`
}

type containerBody struct {
	ID           string `json:"id"`
	PortProtocol string `json:"portProtocol"`
}

// fromIngress: every host has a certificate of the own CA from its first moment.
func (d *dialect) fromIngress(in ingress.Ingress, deprecated bool) ingressBody {
	out := ingressBody{
		ID: string(in.ID), ProjectID: string(in.Project), Hostname: in.Hostname, Paths: []pathBody{}, IPs: ipsBody{V4: []string{}},
		IsDefault: in.Default, IsEnabled: in.Enabled, Ownership: ownershipBody{in.Verified}, DNSValidationErrors: []string{}, TLS: tlsBody{ACME: true},
	}
	v6 := []string{}
	for _, a := range d.IPs {
		if a.Unmap().Is4() {
			out.IPs.V4 = append(out.IPs.V4, a.Unmap().String())
		} else {
			v6 = append(v6, a.String())
		}
	}
	if !deprecated {
		created := true
		out.IPs.V6, out.TLS.IsCreated = &v6, &created
	}
	for _, p := range in.Paths {
		b := pathBody{Path: p.Path, Target: targetBody{URL: p.URL, UseDefaultPage: p.DefaultPage}}
		if p.Service != "" {
			b.Target.Container = &containerBody{p.Service, p.Port}
		}
		out.Paths = append(out.Paths, b)
	}
	return out
}

func (d *dialect) listIngresses(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	v := r.URL.Query()
	f := ingress.Filter{Hostname: v.Get("hostnameSubstring"), Service: v.Get("containerId")}
	q := &query{r: r}
	if len(f.Hostname) > 253 {
		q.bad.Add("hostnameSubstring", "maxLength", "at most 253 bytes")
	}
	if id := v.Get("projectId"); id != "" {
		p, err := d.Projects.Get(r.Context(), by, id)
		if err != nil {
			return err
		}
		f.Project = p.ID
	}
	if v.Get("certificateId") != "" || v.Get("appInstallationId") != "" { // there are none
		return page(w, q, 10000, []ingressBody{})
	}
	return d.writeIngresses(w, r, by, q, f, false)
}

func (d *dialect) writeIngresses(w http.ResponseWriter, r *http.Request, by access.Actor, q *query, f ingress.Filter, deprecated bool) error {
	all, err := d.Ingresses.List(r.Context(), by, f)
	if err != nil {
		return err
	}
	list := make([]ingressBody, 0, len(all))
	for _, in := range all {
		list = append(list, d.fromIngress(in, deprecated))
	}
	return page(w, q, 10000, list)
}

func (d *dialect) listProjectIngresses(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	p, err := d.refer(r, by)
	if err != nil {
		return err
	}
	return d.writeIngresses(w, r, by, &query{r: r}, ingress.Filter{Project: p.ID}, true)
}

type ingressRequest struct {
	ProjectID *string       `json:"projectId"`
	Hostname  *string       `json:"hostname"`
	Paths     []pathRequest `json:"paths"`
}

type pathRequest struct {
	Path   *string                `json:"path"`
	Target api.Opt[targetRequest] `json:"target"`
}

type targetRequest struct {
	Container      *containerRequest `json:"container"`
	URL            *string           `json:"url"`
	UseDefaultPage *bool             `json:"useDefaultPage"`
	InstallationID json.RawMessage   `json:"installationId"`
	Directory      json.RawMessage   `json:"directory"`
}

type containerRequest struct {
	ID           *string `json:"id"`
	PortProtocol *string `json:"portProtocol"`
}

// paths gives the core's paths; the front door finds what is wrong with them.
// id is "" when the project is not known.
func (d *dialect) paths(r *http.Request, by access.Actor, id project.ID, in []pathRequest) ([]ingress.Path, error) {
	bad := &project.Invalid{}
	out := make([]ingress.Path, 0, len(in))
	for i, p := range in {
		at := fmt.Sprintf("paths.%d", i)
		path := ingress.Path{}
		if p.Path != nil {
			path.Path = *p.Path
		}
		t := p.Target.V
		if t.InstallationID != nil || t.Directory != nil {
			bad.Add(at+".target", "unsupported", "there are no app installations here: a container, a url or the default page can be the target")
		}
		if t.URL != nil {
			path.URL = *t.URL
		}
		path.DefaultPage = t.UseDefaultPage != nil && *t.UseDefaultPage
		if c := t.Container; c != nil {
			d.container(r, by, id, c, &path, bad, at)
		}
		out = append(out, path)
	}
	return out, bad.Err()
}

func (d *dialect) container(r *http.Request, by access.Actor, id project.ID, c *containerRequest, path *ingress.Path, bad *project.Invalid, at string) {
	if c.ID == nil || *c.ID == "" {
		bad.Add(at+".service", "required", "the id of a service is needed")
	} else if uuid.Validate(*c.ID) == nil {
		path.Service = *c.ID
		if s, err := d.Stacks.Find(r.Context(), by, *c.ID); errdefs.IsNotFound(err) || err == nil && id != "" && s.Project != id {
			bad.Add(at+".service", "format", "is no service of the project")
		}
	} else {
		path.Service = *c.ID // a short id is no container id
	}
	if c.PortProtocol == nil || *c.PortProtocol == "" {
		bad.Add(at+".port", "required", "a port is needed")
		return
	}
	if path.Port = *c.PortProtocol; !strings.Contains(path.Port, "/") {
		path.Port += "/tcp"
	}
}

// wire gives the names that the fields of paths have in this dialect; root is
// "paths." or, where the body is the list itself, nothing.
func wire(root string) func(string) string {
	return func(p string) string {
		rest, ok := strings.CutPrefix(p, "paths")
		if !ok {
			return p
		}
		i, field, _ := strings.Cut(strings.TrimPrefix(rest, "."), ".")
		if i == "" {
			return strings.TrimSuffix(root, ".")
		}
		to := map[string]string{"service": "target.container.id", "port": "target.container.portProtocol", "url": "target.url"}[field]
		if to == "" {
			to = field
		}
		return strings.TrimSuffix(root+i+"."+to, ".")
	}
}

func (d *dialect) createIngress(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	var in ingressRequest
	if err := api.Decode(w, r, &in); err != nil {
		return err
	}
	var p project.Project
	var bad error
	if in.ProjectID == nil || *in.ProjectID == "" {
		bad = &project.Invalid{Fields: []project.Field{{Path: "projectId", Kind: "required", Message: "a project is needed"}}}
	} else {
		var err error
		if p, err = d.Projects.Get(r.Context(), by, *in.ProjectID); err != nil {
			return err
		}
	}
	paths, err := d.paths(r, by, p.ID, in.Paths)
	bad = both(bad, err)
	if in.Hostname == nil {
		in.Hostname = new(string)
	}
	if bad != nil {
		_, err := ingress.Hostname(*in.Hostname)
		return renamed(both(both(bad, err), ingress.ValidatePaths(paths)), wire("paths."))
	}
	made, err := d.Ingresses.Create(r.Context(), by, p.ID, *in.Hostname, paths)
	if err != nil {
		return renamed(err, wire("paths."))
	}
	return api.JSON(w, http.StatusCreated, map[string]any{"id": made.ID, "ownership": ownershipBody{made.Verified}})
}

func ingressID(r *http.Request) ingress.ID { return ingress.ID(r.PathValue("ingressId")) }

func (d *dialect) getIngress(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	in, err := d.Ingresses.Get(r.Context(), by, ingressID(r))
	if err != nil {
		return err
	}
	return api.JSON(w, http.StatusOK, d.fromIngress(in, false))
}

func (d *dialect) deleteIngress(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	if err := d.Ingresses.Delete(r.Context(), by, ingressID(r)); err != nil {
		return err
	}
	return nothing(w)
}

func (d *dialect) patchPaths(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	have, err := d.Ingresses.Get(r.Context(), by, ingressID(r))
	if err != nil {
		return err
	}
	var in []pathRequest
	if err := api.Decode(w, r, &in); err != nil {
		return err
	}
	paths, bad := d.paths(r, by, have.Project, in)
	if bad != nil {
		return renamed(both(bad, ingress.ValidatePaths(paths)), wire(""))
	}
	if _, err := d.Ingresses.SetPaths(r.Context(), by, have.ID, paths); err != nil {
		return renamed(err, wire(""))
	}
	return nothing(w)
}
