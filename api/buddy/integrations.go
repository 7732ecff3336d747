package buddy

import (
	"encoding/json"
	"net/http"

	"github.com/containerd/errdefs"

	"slipway/access"
	"slipway/api"
	"slipway/project"
	"slipway/secret"
)

// credential is a member of an integration that is written and never answered.
type credential struct {
	name string
	at   *string
}

// credentials are the plain ones; two have a name of an earlier and of a later
// age.
func credentials(i *secret.Integration) []credential {
	c := &i.Credentials
	return []credential{
		{"username", &c.Username},
		{"password", &c.Password},
		{"token", &c.Token},
		{"partner_token", &c.PartnerToken},
		{"access_key", &c.AccessKey},
		{"access_key_id", &c.AccessKey},
		{"secret_key", &c.SecretKey},
		{"secret_access_key", &c.SecretKey},
		{"api_key", &c.APIKey},
		{"config", &c.Config},
		{"google_project", &c.GoogleProject},
		{"audience", &c.Audience},
		{"app_id", &c.AppID},
		{"tenant_id", &c.TenantID},
		{"email", &c.Email},
		{"shop", &c.Shop},
	}
}

// integrationWords are the members that readIntegration reads.
const integrationWords = "name type identifier auth_type server_url scope project_name username password token partner_token access_key access_key_id " +
	"secret_key secret_access_key api_key config google_project audience app_id tenant_id email shop role_assumptions all_pipelines_allowed " +
	"allowed_pipelines permissions hash_id"

// readIntegration reads the members of a request into an integration. Null is as
// not given.
func readIntegration(d *decoder, b body, i *secret.Integration) (scope, projectName string) {
	read := func(name string, f func(raw json.RawMessage)) { d.given(b, name, f) }
	text := func(name string, at *string) { read(name, func(raw json.RawMessage) { *at = d.str(raw) }) }
	text("name", &i.Name)
	text("type", &i.Type)
	text("identifier", &i.Identifier)
	text("auth_type", &i.Auth)
	text("server_url", &i.ServerURL)
	text("scope", &scope)
	text("project_name", &projectName)
	for _, c := range credentials(i) {
		read(c.name, func(raw json.RawMessage) { *c.at = d.whole(raw) })
	}
	read("role_assumptions", func(raw json.RawMessage) {
		i.Credentials.Roles = nil
		d.each(raw, func(e json.RawMessage) {
			var r secret.Role
			b := d.object(e)
			d.member(b, "arn", func(raw json.RawMessage) { r.ARN = d.str(raw) })
			d.member(b, "external_id", func(raw json.RawMessage) { r.ExternalID = d.str(raw) })
			d.member(b, "duration", func(raw json.RawMessage) { r.Seconds = d.int(raw) })
			i.Credentials.Roles = append(i.Credentials.Roles, r)
		})
	})
	read("all_pipelines_allowed", func(raw json.RawMessage) { i.AllPipelines = d.bool(raw) })
	read("allowed_pipelines", func(raw json.RawMessage) {
		i.Pipelines = nil
		d.each(raw, func(e json.RawMessage) {
			id := int64(0)
			d.member(d.object(e), "id", func(raw json.RawMessage) { id = d.int(raw) })
			i.Pipelines = append(i.Pipelines, id)
		})
	})
	read("permissions", func(raw json.RawMessage) { i.Permissions = d.integrationPermissions(raw) })
	return scope, projectName
}

func (d *decoder) integrationPermissions(raw json.RawMessage) (p secret.IntegrationPermissions) {
	b := d.object(raw)
	d.member(b, "admins", func(raw json.RawMessage) { p.Admins = d.str(raw) })
	d.member(b, "others", func(raw json.RawMessage) { p.Others = d.str(raw) })
	for name, to := range map[string]*[]secret.IntegrationGrant{"users": &p.Users, "groups": &p.Groups} {
		d.member(b, name, func(raw json.RawMessage) {
			d.each(raw, func(e json.RawMessage) {
				var g secret.IntegrationGrant
				b := d.object(e)
				d.member(b, "id", func(raw json.RawMessage) { g.ID = d.int(raw) })
				d.member(b, "access_level", func(raw json.RawMessage) { g.Level = d.str(raw) })
				*to = append(*to, g)
			})
		})
	}
	return p
}

// integrationScope finds the project of an integration.
func (h *handlers) integrationScope(d *decoder, q ask, scope, name string) (project.ID, error) {
	switch {
	case scope == "WORKSPACE":
		return "", nil
	case scope == "":
		d.inv.Add("scope", "required", "is required")
		return "", nil
	case scope != "PROJECT":
		d.inv.Add("scope", "enum", "must be one of WORKSPACE, PROJECT")
		return "", nil
	case name == "":
		d.inv.Add("project_name", "required", "is required with scope PROJECT")
		return "", nil
	}
	p, err := h.Projects.Find(q.ctx(), q.by, q.ws.ID, name)
	if errdefs.IsNotFound(err) {
		d.inv.Add("project_name", "unknown", "there is no such project")
		err = nil
	}
	return p.ID, err
}

func (h *handlers) integrations() map[string]api.Handler {
	return routes(h, atWorkspace, noun[secret.Integration]{
		path: "/integrations", name: "integration", key: "integrations", words: integrationWords, text: true, whole: true,
		list:   func(q ask) ([]secret.Integration, error) { return h.Secrets.Integrations(q.ctx(), q.by, q.ws.ID) },
		create: h.createIntegration,
		get: func(q ask) (secret.Integration, error) {
			return h.Secrets.Integration(q.ctx(), q.by, q.ws.ID, q.r.PathValue("integration"))
		},
		update: h.updateIntegration,
		remove: func(q ask) error {
			return h.Secrets.DeleteIntegration(q.ctx(), q.by, q.ws.ID, q.r.PathValue("integration"))
		},
		title: func(i secret.Integration) string { return i.Name },
		id:    func(i secret.Integration) int64 { return i.Created.UnixMicro() },
		from: func(q ask, _ bool) (func(secret.Integration) (object, error), error) {
			return func(i secret.Integration) (object, error) { return h.fromIntegration(q.r, q.by, q.at, i) }, nil
		},
	})
}

func (h *handlers) createIntegration(q ask, b body) (secret.Integration, error) {
	d, i := &decoder{}, secret.Integration{Workspace: q.ws.ID, AllPipelines: true}
	scope, name := readIntegration(d, b, &i)
	var err error
	if i.Project, err = h.integrationScope(d, q, scope, name); err != nil {
		return i, err
	}
	if err := d.checked(i.Validate); err != nil {
		return i, err
	}
	return h.Secrets.CreateIntegration(q.ctx(), q.by, i)
}

func (h *handlers) updateIntegration(q ask, b body) (secret.Integration, error) {
	// The project is looked for before the change, which does nothing slow.
	d, given := &decoder{}, secret.Integration{}
	scope, name := readIntegration(d, b, &given)
	if scope == "" && name != "" {
		scope = ofProject
	}
	var in project.ID
	if scope != "" {
		var err error
		if in, err = h.integrationScope(d, q, scope, name); err != nil {
			return given, err
		}
	}
	return h.Secrets.UpdateIntegration(q.ctx(), q.by, q.ws.ID, q.r.PathValue("integration"), func(i *secret.Integration) error {
		typ := i.Type
		if given.Type != "" && given.Type != typ {
			d.inv.Add("type", "conflict", "cannot be changed: the integration is one of "+typ)
		}
		readIntegration(&decoder{}, b, i) // what is wrong with it d knows
		i.Type = typ
		if scope != "" {
			i.Project = in
		}
		return d.checked(i.Validate)
	})
}

// fromIntegration is an integration as it is answered: never with a credential.
func (h *handlers) fromIntegration(r *http.Request, by access.Actor, at place, i secret.Integration) (object, error) {
	scope, name := "WORKSPACE", any(nil)
	if i.Project != "" {
		p, err := h.Projects.Get(r.Context(), by, string(i.Project))
		if err != nil {
			return nil, err
		}
		scope, name = "PROJECT", p.Name
	}
	pipelines := []object{}
	for _, id := range i.Pipelines {
		pipelines = append(pipelines, object{{"id", id}})
	}
	grants := func(l []secret.IntegrationGrant) []object {
		out := []object{}
		for _, g := range l {
			out = append(out, object{{"id", g.ID}, {"access_level", g.Level}})
		}
		return out
	}
	o := object{
		{"url", at.url("/integrations/%s", i.ID)},
		{"html_url", at.page("/integrations/%s", i.ID)},
		{"hash_id", i.ID},
		{"identifier", i.Identifier},
		{"name", i.Name},
		{"type", i.Type},
		{"auth_type", i.Auth},
		{"scope", scope},
		{"project_name", name},
		{"all_pipelines_allowed", i.AllPipelines},
		{"allowed_pipelines", pipelines},
		{"permissions", object{
			{"admins", i.Permissions.Admins},
			{"others", i.Permissions.Others},
			{"users", grants(i.Permissions.Users)},
			{"groups", grants(i.Permissions.Groups)},
		}},
	}
	if i.ServerURL != "" {
		o = o.with("server_url", i.ServerURL)
	}
	return o, nil
}

// nameIntegrations adds to the integrations of actions both of the names that
// they are known by. Those that the actor does not see, or that are not there,
// stay as they were given.
func (h *handlers) nameIntegrations(r *http.Request, by access.Actor, workspace string, actions ...object) error {
	var seen []secret.Integration
	looked := false
	for _, a := range actions {
		for i, m := range a {
			given, ok := m.value.(object)
			if m.name != "integration" || !ok {
				continue
			}
			if !looked {
				var err error
				seen, err = h.Secrets.Integrations(r.Context(), by, workspace)
				if err != nil && !errdefs.IsPermissionDenied(err) && !errdefs.IsNotFound(err) {
					return err
				}
				looked = true
			}
			a[i].value = given.named(seen)
		}
	}
	return nil
}

// named is an integration as an action names it, by the first of its names.
func (o object) named(seen []secret.Integration) object {
	for _, i := range seen {
		if name := o[0].value; name != i.ID && name != i.Identifier {
			continue
		}
		both := object{{"hash_id", i.ID}, {"identifier", i.Identifier}}
		for _, m := range o {
			if m.name == "id" {
				both = append(both, m)
			}
		}
		return both
	}
	return o
}
