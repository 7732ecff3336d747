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

// readIntegration reads the members of a request into an integration, and lists
// those that nobody knows. Null is as not given.
func readIntegration(d *decoder, b body, i *secret.Integration) (scope, projectName string, unknown []string) {
	known := map[string]bool{}
	read := func(name string, f func(raw json.RawMessage)) {
		known[name] = true
		if raw, ok := b[name]; ok && !isNull(raw) {
			d.at(name, func() { f(raw) })
		}
	}
	text := func(name string, at *string) { read(name, func(raw json.RawMessage) { *at = d.str(raw) }) }
	text("name", &i.Name)
	text("type", &i.Type)
	text("identifier", &i.Identifier)
	text("auth_type", &i.Auth)
	text("server_url", &i.ServerURL)
	text("scope", &scope)
	text("project_name", &projectName)
	for _, c := range credentials(i) {
		text(c.name, c.at)
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
	for name := range b {
		if !known[name] && name != "hash_id" && name != "url" && name != "html_url" {
			unknown = append(unknown, name)
		}
	}
	return scope, projectName, unknown
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
func (h *handlers) integrationScope(d *decoder, r *http.Request, by access.Actor, workspace, scope, name string) (project.ID, error) {
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
	p, err := h.Projects.Find(r.Context(), by, workspace, name)
	if errdefs.IsNotFound(err) {
		d.inv.Add("project_name", "unknown", "there is no such project")
		err = nil
	}
	return p.ID, err
}

// integrations gives the workspace of a path, for what is in it.
func (h *handlers) integrations(r *http.Request, by access.Actor) (project.Workspace, place, error) {
	ws, err := h.Projects.Workspace(r.Context(), by, r.PathValue("workspace"))
	return ws, place{base: h.base, workspace: ws.Domain}, err
}

func (h *handlers) listIntegrations(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	ws, at, err := h.integrations(r, by)
	if err != nil {
		return err
	}
	q, err := readQuery(r)
	if err != nil {
		return err
	}
	l, err := h.Secrets.Integrations(r.Context(), by, ws.ID)
	if err != nil {
		return err
	}
	if v := r.URL.Query(); !v.Has("page") && !v.Has("per_page") { // clients ask once, and want all
		q.size = max(len(l), 1)
	}
	l = sorted(l, q, func(i secret.Integration) string { return i.Name }, func(i secret.Integration) int64 { return i.Created.UnixMicro() })
	out := []object{}
	for _, i := range l {
		o, err := h.fromIntegration(r, by, at, i)
		if err != nil {
			return err
		}
		out = append(out, o)
	}
	return api.JSON(w, http.StatusOK, object{{"url", at.url("/integrations")}, {"html_url", at.page("/integrations")}, {"integrations", out}})
}

func (h *handlers) createIntegration(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	ws, at, err := h.integrations(r, by)
	if err != nil {
		return err
	}
	b, err := decode(w, r)
	if err != nil {
		return err
	}
	d, i := &decoder{}, secret.Integration{Workspace: ws.ID, AllPipelines: true}
	scope, name, unknown := readIntegration(d, b, &i)
	ignored(w, unknown)
	if i.Project, err = h.integrationScope(d, r, by, ws.ID, scope, name); err != nil {
		return err
	}
	if err := d.checked(i.Validate); err != nil {
		return err
	}
	if i, err = h.Secrets.CreateIntegration(r.Context(), by, i); err != nil {
		return err
	}
	return h.answerIntegration(w, r, by, at, http.StatusCreated, i)
}

func (h *handlers) getIntegration(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	ws, at, err := h.integrations(r, by)
	if err != nil {
		return err
	}
	i, err := h.Secrets.Integration(r.Context(), by, ws.ID, r.PathValue("integration"))
	if err != nil {
		return err
	}
	return h.answerIntegration(w, r, by, at, http.StatusOK, i)
}

func (h *handlers) updateIntegration(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	ws, at, err := h.integrations(r, by)
	if err != nil {
		return err
	}
	b, err := decode(w, r)
	if err != nil {
		return err
	}
	// The project is looked for before the change, which does nothing slow.
	d, given := &decoder{}, secret.Integration{}
	scope, name, unknown := readIntegration(d, b, &given)
	ignored(w, unknown)
	if scope == "" && name != "" {
		scope = "PROJECT"
	}
	var in project.ID
	if scope != "" {
		if in, err = h.integrationScope(d, r, by, ws.ID, scope, name); err != nil {
			return err
		}
	}
	i, err := h.Secrets.UpdateIntegration(r.Context(), by, ws.ID, r.PathValue("integration"), func(i *secret.Integration) error {
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
	if err != nil {
		return err
	}
	return h.answerIntegration(w, r, by, at, http.StatusOK, i)
}

func (h *handlers) deleteIntegration(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	ws, _, err := h.integrations(r, by)
	if err != nil {
		return err
	}
	if err := h.Secrets.DeleteIntegration(r.Context(), by, ws.ID, r.PathValue("integration")); err != nil {
		return err
	}
	return noContent(w)
}

func (h *handlers) answerIntegration(w http.ResponseWriter, r *http.Request, by access.Actor, at place, status int, i secret.Integration) error {
	o, err := h.fromIntegration(r, by, at, i)
	if err != nil {
		return err
	}
	return api.JSON(w, status, o)
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
