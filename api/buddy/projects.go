package buddy

import (
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/containerd/errdefs"

	"slipway/access"
	"slipway/api"
	"slipway/project"
	"slipway/source"
)

func (h *handlers) fromWorkspace(w project.Workspace) object {
	at := place{base: h.base, workspace: w.Domain}
	return object{
		{"url", at.url("")},
		{"html_url", at.page("")},
		{"id", w.Number},
		{"owner_id", w.Owner},
		{"name", w.Name},
		{"domain", w.Domain},
		{"frozen", false},
		{"create_date", stamp(w.Created)},
		{"projects_url", at.url("/projects")},
	}
}

func (h *handlers) listWorkspaces(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	q, err := readQuery(r)
	if err != nil {
		return err
	}
	all, err := h.Projects.Workspaces(r.Context(), by)
	if err != nil {
		return err
	}
	l := []object{}
	for _, ws := range sorted(all, q, func(w project.Workspace) string { return w.Name }, func(w project.Workspace) int64 { return w.Number }) {
		l = append(l, h.fromWorkspace(ws))
	}
	return api.JSON(w, http.StatusOK, object{{"url", h.base + "/workspaces"}, {"html_url", h.base + "/ui"}, {"workspaces", l}})
}

func (h *handlers) createWorkspace(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	b, err := decode(w, r)
	if err != nil {
		return err
	}
	var domain, name string
	d := &decoder{}
	d.member(b, "domain", func(raw json.RawMessage) { domain = d.str(raw) })
	d.member(b, "name", func(raw json.RawMessage) { name = d.str(raw) })
	d.member(b, "encryption_salt", func(raw json.RawMessage) { d.str(raw) })
	if domain == "" && len(d.inv.Fields) == 0 {
		d.inv.Add("domain", "required", "is required")
	}
	ignored(w, others(b, "domain name encryption_salt"))
	if err := d.inv.Err(); err != nil {
		return err
	}
	ws, err := h.Projects.CreateWorkspace(r.Context(), by, domain, name)
	if err != nil {
		return err
	}
	return api.JSON(w, http.StatusCreated, h.fromWorkspace(ws))
}

func (h *handlers) getWorkspace(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	ws, err := h.Projects.Workspace(r.Context(), by, r.PathValue("workspace"))
	if err != nil {
		return err
	}
	return api.JSON(w, http.StatusOK, h.fromWorkspace(ws))
}

func (h *handlers) renameWorkspace(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	ws, err := h.Projects.Workspace(r.Context(), by, r.PathValue("workspace"))
	if err != nil {
		return err
	}
	b, err := decode(w, r)
	if err != nil {
		return err
	}
	name := ws.Name
	d := &decoder{}
	d.member(b, "name", func(raw json.RawMessage) { name = d.str(raw) })
	d.member(b, "encryption_salt", func(raw json.RawMessage) { d.str(raw) })
	ignored(w, others(b, "name encryption_salt"))
	if err := d.inv.Err(); err != nil {
		return err
	}
	if ws, err = h.Projects.RenameWorkspace(r.Context(), by, ws.ID, name); err != nil {
		return err
	}
	return api.JSON(w, http.StatusOK, h.fromWorkspace(ws))
}

func (h *handlers) deleteWorkspace(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	ws, err := h.Projects.Workspace(r.Context(), by, r.PathValue("workspace"))
	if err != nil {
		return err
	}
	if err := h.Projects.DeleteWorkspace(r.Context(), by, ws.ID); err != nil {
		return err
	}
	return noContent(w)
}

func access2word(public bool) string {
	if public {
		return "PUBLIC"
	}
	return "PRIVATE"
}

// shortProject is a project in a list or inside of something else.
func (h *handlers) shortProject(p project.Project) object {
	at := place{base: h.base, workspace: p.Domain, project: p.Name}
	return object{
		{"url", at.url("")},
		{"html_url", at.page("")},
		{"name", p.Name},
		{"display_name", or(p.DisplayName, p.Name)},
		{"status", p.Status},
		{"access", access2word(p.Public)},
		{"create_date", stamp(p.Created)},
	}
}

// projectFields are the members of a project that no answer has in short.
func projectFields() []field[project.Project] {
	return []field[project.Project]{
		boolField("allow_pull_requests", func(p *project.Project) *bool { return &p.PullRequests }),
		boolField("fetch_submodules", func(p *project.Project) *bool { return &p.Submodules.Fetch }),
		strField("fetch_submodules_env_key", func(p *project.Project) *string { return &p.Submodules.Key }),
		restField[project.Project]("update_default_branch_from_external", aBool, true),
		restField[project.Project]("without_repository", aBool, false),
	}
}

func (h *handlers) fromProject(r *http.Request, p project.Project) (object, error) {
	at := place{base: h.base, workspace: p.Domain, project: p.Name}
	creator, err := h.user(r, p.CreatedBy)
	if err != nil {
		return nil, err
	}
	branch, remote, err := h.source(r, p.ID)
	if err != nil {
		return nil, err
	}
	o := append(h.shortProject(p), object{
		{"created_by", creator},
		{"http_repository", h.base + source.URL(p.Domain, p.Name)},
		{"ssh_repository", nil},
		{"default_branch", orNull(branch)},
		{"size", 0},
		{"integration", nil},
		{"external_project_id", nil},
		{"custom_repo_url", nil},
		{"custom_repo_user", nil},
		{"repository_url", at.url("/repository")},
		{"pipelines_url", at.url("/pipelines")},
	}...)
	if remote != nil {
		for i, m := range o {
			switch m.name {
			case "custom_repo_url":
				o[i].value = remote.URL
			case "custom_repo_user":
				o[i].value = orNull(remote.Username)
			}
		}
	}
	return append(o, write(projectFields(), 0, &p, keptOf(p.Attrs))...), nil
}

// source gives the default branch and the outside repository of a project. The
// branch is "" while that has not told which, and our answers go without.
func (h *handlers) source(r *http.Request, id project.ID) (branch string, remote *source.Remote, err error) {
	if remote, err = h.Sources.Remote(r.Context(), id); err != nil {
		return "", nil, err
	}
	branch, err = h.Sources.DefaultBranch(r.Context(), id)
	if remote != nil && (errdefs.IsUnavailable(err) || errdefs.IsFailedPrecondition(err)) {
		err = nil
	}
	return branch, remote, err
}

func (h *handlers) listProjects(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	ws, err := h.Projects.Workspace(r.Context(), by, r.PathValue("workspace"))
	if err != nil {
		return err
	}
	q, err := readQuery(r)
	if err != nil {
		return err
	}
	status := r.URL.Query().Get("status")
	if status != "" && status != "ACTIVE" && status != "CLOSED" {
		var inv project.Invalid
		inv.Add("status", "enum", "must be one of ACTIVE, CLOSED")
		return inv.Err()
	}
	all, err := h.Projects.List(r.Context(), by, project.Filter{Workspace: ws.ID, Status: status})
	if err != nil {
		return err
	}
	at := place{base: h.base, workspace: ws.Domain}
	l := []object{}
	for _, p := range sorted(all, q, func(p project.Project) string { return p.Name }, func(p project.Project) int64 { return p.Number }) {
		l = append(l, h.shortProject(p))
	}
	return api.JSON(w, http.StatusOK, object{{"url", at.url("/projects")}, {"html_url", at.page("")}, {"projects", l}})
}

// projectBody is what a request says of a project.
type projectBody struct {
	name, display, status, access *string
	remote                        source.RemoteChange
	key                           *int64 // of a variable; 0 is none, nil as it is
	pulls                         bool
	submodules                    project.Submodules
	attrs                         map[string]json.RawMessage
}

func readProject(w http.ResponseWriter, r *http.Request, p project.Project) (projectBody, error) {
	var in projectBody
	b, err := decode(w, r)
	if err != nil {
		return in, err
	}
	d := &decoder{keep: keptOf(p.Attrs)}
	text := func(name string, to **string) {
		d.member(b, name, func(raw json.RawMessage) {
			if s := d.str(raw); !isNull(raw) {
				*to = &s
			}
		})
	}
	text("name", &in.name)
	text("display_name", &in.display)
	text("status", &in.status)
	text("access", &in.access)
	for name, to := range map[string]**string{
		"custom_repo_url": &in.remote.URL, "custom_repo_user": &in.remote.Username, "custom_repo_pass": &in.remote.Password,
	} {
		d.member(b, name, func(raw json.RawMessage) {
			s := d.str(raw) // null clears
			*to = &s
		})
	}
	d.member(b, "custom_repo_ssh_key_id", func(raw json.RawMessage) {
		id := d.int(raw)
		in.key = &id
	})
	if in.access != nil && *in.access != "PRIVATE" && *in.access != "PUBLIC" {
		d.inv.Add("access", "enum", "must be one of PRIVATE, PUBLIC")
	}
	for _, name := range []string{"integration", "external_project_id", "external_project_access", "git_lab_project_id"} {
		if raw, ok := b[name]; ok && !isNull(raw) && !isEmpty(compact(raw)) {
			d.inv.Add(name, "unsupported", "is not supported by this version: give custom_repo_url, and custom_repo_user and custom_repo_pass or custom_repo_ssh_key_id")
		}
	}
	apply(d, projectFields(), 0, b, &p)
	ignored(w, others(b, "name display_name status access custom_repo_url custom_repo_user custom_repo_pass integration "+
		"external_project_id external_project_access git_lab_project_id custom_repo_ssh_key_id allow_pull_requests fetch_submodules "+
		"fetch_submodules_env_key update_default_branch_from_external without_repository "+
		"id url html_url create_date created_by http_repository ssh_repository default_branch size"))
	if err := d.inv.Err(); err != nil {
		return in, err
	}
	in.pulls = p.PullRequests
	in.submodules = p.Submodules
	in.attrs, err = d.keep.into(nil)
	return in, err
}

// openKey takes the key of an outside repository out of the variable that is
// named.
func (h *handlers) openKey(r *http.Request, by access.Actor, workspace string, in *projectBody) error {
	if in.key == nil {
		return nil
	}
	key := ""
	if *in.key != 0 {
		var err error
		key, err = h.Secrets.OpenKey(r.Context(), by, workspace, *in.key)
		if errdefs.IsNotFound(err) {
			var inv project.Invalid
			inv.Add("custom_repo_ssh_key_id", "unknown", fmt.Sprintf("there is no variable %d of type SSH_KEY in this workspace", *in.key))
			return inv.Err()
		}
		if err != nil {
			return err
		}
	}
	in.remote.PrivateKey = &key
	return nil
}

// remotePaths gives what is wrong with an outside repository the names that it
// has here.
func remotePaths(err error) error {
	return renamed(err, map[string]string{"url": "custom_repo_url", "username": "custom_repo_user", "password": "custom_repo_pass", "private_key": "custom_repo_ssh_key_id"})
}

// renamed gives an error whose fields have other names here.
func renamed(err error, names map[string]string) error {
	bad, ok := project.AsInvalid(err)
	if !ok {
		return err
	}
	out := &project.Invalid{}
	for _, f := range bad.Fields {
		out.Add(or(names[f.Path], f.Path), f.Kind, f.Message)
	}
	return out
}

// given is what a member says, "" if it is absent.
func given(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

func (h *handlers) createProject(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	ws, err := h.Projects.Workspace(r.Context(), by, r.PathValue("workspace"))
	if err != nil {
		return err
	}
	in, err := readProject(w, r, project.Project{})
	if err != nil {
		return err
	}
	if err := h.openKey(r, by, ws.ID, &in); err != nil {
		return err
	}
	n := project.New{Attrs: in.attrs, Public: in.access != nil && *in.access == "PUBLIC", PullRequests: in.pulls, Submodules: in.submodules}
	if in.name != nil {
		n.Name = *in.name
	}
	if in.display != nil {
		n.DisplayName = *in.display
	}
	var remote *source.Remote
	if to := (source.Remote{
		URL: given(in.remote.URL), Username: given(in.remote.Username), Password: given(in.remote.Password), PrivateKey: []byte(given(in.remote.PrivateKey)),
	}); to.URL+to.Username+to.Password+string(to.PrivateKey) != "" {
		remote = &to
	}
	p, err := h.Pipelines.CreateProject(r.Context(), by, ws.ID, n, remote, nil)
	if err != nil {
		if in.name != nil && in.display == nil { // what was sent empty is told of, not what might have been sent instead
			err = renamed(err, map[string]string{"display_name": "name"})
		}
		return remotePaths(err)
	}
	o, err := h.fromProject(r, p)
	if err != nil {
		return err
	}
	return api.JSON(w, http.StatusCreated, o)
}

func (h *handlers) getProject(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	p, _, err := h.project(r, by)
	if err != nil {
		return err
	}
	o, err := h.fromProject(r, p)
	if err != nil {
		return err
	}
	return api.JSON(w, http.StatusOK, o)
}

func (h *handlers) updateProject(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	p, _, err := h.project(r, by)
	if err != nil {
		return err
	}
	in, err := readProject(w, r, p)
	if err != nil {
		return err
	}
	if err := h.openKey(r, by, p.Workspace, &in); err != nil {
		return err
	}
	c := project.Change{Name: in.name, DisplayName: in.display, Status: in.status, Attrs: in.attrs}
	if in.pulls != p.PullRequests {
		c.PullRequests = &in.pulls
	}
	if in.submodules != p.Submodules {
		c.Submodules = &in.submodules
	}
	if in.access != nil {
		public := *in.access == "PUBLIC"
		c.Public = &public
	}
	if p, err = h.Sources.UpdateProject(r.Context(), by, p.ID, c, in.remote); err != nil {
		return remotePaths(err)
	}
	o, err := h.fromProject(r, p)
	if err != nil {
		return err
	}
	return api.JSON(w, http.StatusOK, o)
}

func (h *handlers) deleteProject(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	p, _, err := h.project(r, by)
	if err != nil {
		return err
	}
	if err := h.Projects.Delete(r.Context(), by, p.ID); err != nil {
		return err
	}
	return noContent(w)
}
