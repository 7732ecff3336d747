package mittwald

import (
	"net/http"
	"slices"
	"strconv"
	"strings"

	"slipway/access"
	"slipway/api"
	"slipway/project"
)

type person struct {
	FirstName string `json:"firstName"`
	LastName  string `json:"lastName"`
}

type user struct {
	UserID            string `json:"userId"`
	Person            person `json:"person"`
	Email             string `json:"email"`
	RegisteredAt      any    `json:"registeredAt"`
	PasswordUpdatedAt any    `json:"passwordUpdatedAt"`
}

func (d *dialect) self(w http.ResponseWriter, _ *http.Request, by access.Actor) error {
	u := by.User
	first, last, _ := strings.Cut(u.Name, " ")
	if first == "" {
		first = u.Username
	}
	out := user{UserID: u.UUID, Person: person{first, last}, Email: u.Email, RegisteredAt: api.Time(u.Created), PasswordUpdatedAt: api.Time(u.Created)}
	if out.Email == "" { // clients take it for a name to log in with
		out.Email = u.Username + "@localhost"
	}
	return api.JSON(w, http.StatusOK, out)
}

type customer struct {
	CustomerID     string `json:"customerId"`
	CustomerNumber string `json:"customerNumber"`
	Name           string `json:"name"`
	CreationDate   any    `json:"creationDate"`
	MemberCount    int    `json:"memberCount"`
	ProjectCount   int    `json:"projectCount"`
}

func (d *dialect) getCustomer(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	ws, err := d.Projects.Workspace(r.Context(), by, r.PathValue("customerId"))
	if err != nil {
		return err
	}
	all, err := d.Projects.List(r.Context(), by, project.Filter{Workspace: ws.ID})
	if err != nil {
		return err
	}
	return api.JSON(w, http.StatusOK, customer{
		CustomerID: ws.ID, CustomerNumber: strconv.FormatInt(ws.Number, 10), Name: ws.Name,
		CreationDate: api.Time(ws.Created), MemberCount: 1, ProjectCount: len(all),
	})
}

// projectItem is a project in a list; projectBody is one alone.
type projectItem struct {
	ID                             string            `json:"id"`
	ShortID                        string            `json:"shortId"`
	Description                    string            `json:"description"`
	CreatedAt                      any               `json:"createdAt"`
	CustomerID                     string            `json:"customerId"`
	ServerID                       string            `json:"serverId"`
	ServerGroupID                  string            `json:"serverGroupId"`
	Enabled                        bool              `json:"enabled"`
	IsReady                        bool              `json:"isReady"`
	Readiness                      string            `json:"readiness"`
	Status                         string            `json:"status"`
	StatusSetAt                    any               `json:"statusSetAt"`
	SupportedFeatures              []string          `json:"supportedFeatures"`
	WebStorageUsageInBytes         int64             `json:"webStorageUsageInBytes"`
	WebStorageUsageInBytesSetAt    any               `json:"webStorageUsageInBytesSetAt"`
	BackupStorageUsageInBytes      int64             `json:"backupStorageUsageInBytes"`
	BackupStorageUsageInBytesSetAt any               `json:"backupStorageUsageInBytesSetAt"`
	DeletionRequested              bool              `json:"deletionRequested"`
	CustomerMeta                   *customerMeta     `json:"customerMeta,omitempty"`
	Directories                    map[string]string `json:"directories,omitempty"`
}

type customerMeta struct {
	ID string `json:"id"`
}

func fromProject(p project.Project) projectItem {
	status, enabled := "ready", p.Status != "CLOSED"
	if !enabled {
		status = "disabled"
	}
	return projectItem{
		ID: string(p.ID), ShortID: p.ShortID, Description: p.DisplayName, CreatedAt: api.Time(p.Created), CustomerID: p.Workspace,
		ServerID: p.Workspace, ServerGroupID: p.Workspace, Enabled: enabled, IsReady: true, Readiness: "ready", Status: status,
		StatusSetAt: api.Time(p.Updated), SupportedFeatures: []string{"container"},
		WebStorageUsageInBytesSetAt: api.Time(p.Updated), BackupStorageUsageInBytesSetAt: api.Time(p.Updated),
	}
}

func (d *dialect) listProjects(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	q := &query{r: r}
	v := r.URL.Query()
	sort := q.oneOf("sort", "createdAt", "createdAt", "description")
	order := q.oneOf("order", "asc", "asc", "desc")
	all, err := d.Projects.List(r.Context(), by, project.Filter{})
	if err != nil {
		return err
	}
	list := []projectItem{}
	for _, p := range all {
		workspace := func(name string) bool { return v.Get(name) == "" || v.Get(name) == p.Workspace }
		if workspace("customerId") && workspace("serverId") && finds(v.Get("searchTerm"), p.DisplayName, p.ShortID, p.Name) {
			i := fromProject(p)
			i.CustomerMeta = &customerMeta{p.Workspace}
			list = append(list, i)
		}
	}
	if sort == "description" {
		slices.SortStableFunc(list, func(a, b projectItem) int { return strings.Compare(a.Description, b.Description) })
	}
	if order == "desc" {
		slices.Reverse(list)
	}
	return page(w, q, 10000, list)
}

func (d *dialect) getProject(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	p, err := d.refer(r, by)
	if err != nil {
		return err
	}
	out := fromProject(p)
	out.Directories = map[string]string{"Home": "/home/" + p.ShortID}
	return api.JSON(w, http.StatusOK, out)
}

type projectRequest struct {
	Description *string `json:"description"`
}

// toDescription names the one field that this dialect has for the names of a
// project.
func toDescription(string) string { return "description" }

func (d *dialect) createProject(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	ws, err := d.Projects.Workspace(r.Context(), by, r.PathValue("serverId"))
	if err != nil {
		return err
	}
	var in projectRequest
	if err := api.Decode(w, r, &in); err != nil {
		return err
	}
	if in.Description == nil || strings.TrimSpace(*in.Description) == "" {
		return &project.Invalid{Fields: []project.Field{{Path: "description", Kind: "required", Message: "a description is needed"}}}
	}
	p, err := d.Projects.Create(r.Context(), by, ws.ID, project.New{DisplayName: *in.Description})
	if err != nil {
		return renamed(err, toDescription)
	}
	return api.JSON(w, http.StatusCreated, map[string]string{"id": string(p.ID)})
}

func (d *dialect) patchProject(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	p, err := d.refer(r, by)
	if err != nil {
		return err
	}
	var in projectRequest
	if err := api.Decode(w, r, &in); err != nil {
		return err
	}
	if in.Description != nil && strings.TrimSpace(*in.Description) == "" {
		return &project.Invalid{Fields: []project.Field{{Path: "description", Kind: "format", Message: "must not be empty"}}}
	}
	if _, err := d.Projects.Update(r.Context(), by, p.ID, project.Change{DisplayName: in.Description}); err != nil {
		return renamed(err, toDescription)
	}
	return nothing(w)
}

func (d *dialect) deleteProject(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	p, err := d.refer(r, by)
	if err != nil {
		return err
	}
	if err := d.Projects.Delete(r.Context(), by, p.ID); err != nil {
		return err
	}
	return nothing(w)
}
