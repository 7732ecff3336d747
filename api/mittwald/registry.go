package mittwald

import (
	"net/http"

	"slipway/access"
	"slipway/api"
	"slipway/project"
	"slipway/secret"
)

type registryBody struct {
	ID          string           `json:"id"`
	ProjectID   string           `json:"projectId"`
	Description string           `json:"description"`
	URI         string           `json:"uri"`
	Credentials *credentialsBody `json:"credentials,omitempty"`
}

type credentialsBody struct {
	Username string `json:"username"`
	Valid    bool   `json:"valid"`
}

func fromLogin(l secret.Login) registryBody {
	out := registryBody{ID: l.ID, ProjectID: string(l.Project), Description: l.Description, URI: l.Host}
	if l.Username != "" {
		out.Credentials = &credentialsBody{l.Username, l.Valid}
	}
	return out
}

type registryRequest struct {
	Description *string                     `json:"description"`
	URI         *string                     `json:"uri"`
	Credentials api.Opt[credentialsRequest] `json:"credentials"`
}

type credentialsRequest struct {
	Username string `json:"username"`
	Password string `json:"password"`
}

// into puts what was given into a login, and finds what the room cannot: it
// takes a login without a user name and a password for an anonymous one.
func (in registryRequest) into(l *secret.Login) error {
	bad := &project.Invalid{}
	if in.Description != nil {
		l.Description = *in.Description
	}
	if in.URI != nil {
		l.Host = *in.URI
	}
	if c := in.Credentials; c.Set {
		l.Username, l.Password = c.V.Username, c.V.Password
		if !c.Null && l.Username == "" {
			bad.Add("credentials.username", "required", "must not be empty")
		}
		if !c.Null && l.Password == "" {
			bad.Add("credentials.password", "required", "must not be empty")
		}
	}
	return bad.Err()
}

// toRegistry gives the names that the fields of a login have in this dialect.
func toRegistry(path string) string {
	if to, ok := map[string]string{"host": "uri", "username": "credentials.username", "password": "credentials.password"}[path]; ok {
		return to
	}
	return path
}

// badRegistry adds what the room finds to a bad body, unless the actor may not
// make that login at all.
func (d *dialect) badRegistry(r *http.Request, by access.Actor, l secret.Login, bad error) error {
	_, _, err := d.Secrets.TryLogin(r.Context(), by, l)
	if _, ok := project.AsInvalid(err); err != nil && !ok {
		return err
	}
	return both(bad, renamed(err, toRegistry))
}

func (d *dialect) listRegistries(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	p, err := d.refer(r, by)
	if err != nil {
		return err
	}
	q := &query{r: r}
	with := q.flag("hasCredentials")
	all, err := d.Secrets.Logins(r.Context(), by, p.ID)
	if err != nil {
		return err
	}
	list := []registryBody{}
	for _, l := range all {
		if with == nil || *with == (l.Username != "") {
			list = append(list, fromLogin(l))
		}
	}
	return page(w, q, 1000, list)
}

func (d *dialect) createRegistry(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	p, err := d.refer(r, by)
	if err != nil {
		return err
	}
	var in registryRequest
	err = api.Decode(w, r, &in)
	l := secret.Login{Project: p.ID}
	err = both(err, in.into(&l))
	if in.Description == nil {
		err = both(err, &project.Invalid{Fields: []project.Field{{Path: "description", Kind: "required", Message: "a description is needed"}}})
	}
	if err != nil {
		return d.badRegistry(r, by, l, err)
	}
	made, err := d.Stacks.CreateLogin(r.Context(), by, l)
	if err != nil {
		return renamed(err, toRegistry)
	}
	return api.JSON(w, http.StatusCreated, fromLogin(made))
}

func (d *dialect) getRegistry(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	l, err := d.Secrets.Login(r.Context(), by, r.PathValue("registryId"))
	if err != nil {
		return err
	}
	return api.JSON(w, http.StatusOK, fromLogin(l))
}

func (d *dialect) patchRegistry(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	l, err := d.Secrets.Login(r.Context(), by, r.PathValue("registryId"))
	if err != nil {
		return err
	}
	var in registryRequest
	if r.ContentLength != 0 { // a change of nothing may be sent without a body
		err = api.Decode(w, r, &in)
	}
	if err := both(err, in.into(&l)); err != nil {
		return d.badRegistry(r, by, l, err)
	}
	if _, err := d.Stacks.UpdateLogin(r.Context(), by, l); err != nil {
		return renamed(err, toRegistry)
	}
	return nothing(w)
}

func (d *dialect) deleteRegistry(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	if err := d.Secrets.DeleteLogin(r.Context(), by, r.PathValue("registryId")); err != nil {
		return err
	}
	return nothing(w)
}

func (d *dialect) checkRegistry(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	valid, err := d.Stacks.CheckLogin(r.Context(), by, r.PathValue("registryId"))
	if err != nil {
		return err
	}
	return api.JSON(w, http.StatusOK, map[string]bool{"valid": valid})
}
