package mittwald

import (
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/containerd/errdefs"

	"slipway/access"
	"slipway/api"
	"slipway/project"
)

// roles are the two words of this dialect for what a token may do, as the scopes
// of which it speaks. Writing needs no reading beside it.
var roles = map[string][]access.Scope{
	"api_read":  {access.ProjectRead, access.StackRead, access.ImageRead, access.UserInfo, access.TokenInfo},
	"api_write": {access.ProjectWrite, access.ProjectDelete, access.StackWrite, access.ImageWrite, access.TokenManage},
}

var roleNames = []string{"api_read", "api_write"}

type tokenBody struct {
	ID          string   `json:"apiTokenId"`
	Description string   `json:"description"`
	Roles       []string `json:"roles"`
	CreatedAt   any      `json:"createdAt"`
	ExpiresAt   any      `json:"expiresAt,omitempty"`
}

// fromToken: a token that was made elsewhere has the roles whose scopes were all
// given to it, which may be none.
func fromToken(t access.Token) tokenBody {
	out := tokenBody{ID: t.ID, Description: t.Name, Roles: []string{}, CreatedAt: api.Time(t.Created)}
	for _, name := range roleNames {
		if !slices.ContainsFunc(roles[name], func(s access.Scope) bool { return !slices.Contains(t.Scopes, s) }) {
			out.Roles = append(out.Roles, name)
		}
	}
	if !t.Expires.IsZero() {
		out.ExpiresAt = api.Time(t.Expires)
	}
	return out
}

// toToken gives the names that the fields of a token have in this dialect.
func toToken(path string) string {
	if to, ok := map[string]string{"name": "description", "expires_at": "expiresAt"}[path]; ok {
		return to
	}
	return path
}

type tokenRequest struct {
	Description api.Opt[string]   `json:"description"`
	Roles       api.Opt[[]string] `json:"roles"`
	ExpiresAt   api.Opt[string]   `json:"expiresAt"`
}

// into gives a new token, with what is wrong with it.
func (in tokenRequest) into(bad *project.Invalid) access.NewToken {
	out := access.NewToken{Name: in.Description.V}
	if e := in.ExpiresAt; e.Set && !e.Null {
		t, err := time.Parse(time.RFC3339, e.V)
		if err != nil || t.IsZero() {
			bad.Add("expiresAt", "format", "must be a time as in 2027-01-31T12:00:00Z")
		}
		out.Expires = t
	}
	return out
}

// scopes are those of the roles, with what is wrong with them.
func (in tokenRequest) scopes(bad *project.Invalid) (out []access.Scope) {
	if len(in.Roles.V) == 0 {
		bad.Add("roles", "required", "must be one of api_read and api_write, or both")
	}
	for i, name := range in.Roles.V {
		switch at := fmt.Sprintf("roles.%d", i); {
		case roles[name] == nil:
			bad.Add(at, "enum", "must be one of api_read, api_write")
		case slices.Contains(in.Roles.V[:i], name):
			bad.Add(at, "conflict", "is there already")
		}
		out = append(out, roles[name]...)
	}
	return out
}

func (d *dialect) listTokens(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	all, err := d.Access.Tokens(r.Context(), by)
	if err != nil {
		return err
	}
	list := make([]tokenBody, 0, len(all))
	for _, t := range all {
		list = append(list, fromToken(t))
	}
	return page(w, &query{r: r}, 1000, list)
}

func (d *dialect) createToken(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	if err := by.Has(access.TokenManage); err != nil {
		return err
	}
	var in tokenRequest
	err := api.Decode(w, r, &in)
	bad := &project.Invalid{}
	n := in.into(bad)
	n.Scopes = in.scopes(bad)
	if err := both(both(err, bad.Err()), renamed(n.Validate(time.Now()), toToken)); err != nil {
		return err
	}
	_, secret, err := d.Access.CreateToken(r.Context(), by, n)
	if err != nil {
		return renamed(err, toToken)
	}
	return api.JSON(w, http.StatusCreated, map[string]string{"token": secret})
}

// token finds {apiTokenId} among those of the user.
func (d *dialect) token(r *http.Request, by access.Actor) (access.Token, error) {
	all, err := d.Access.Tokens(r.Context(), by)
	if err != nil {
		return access.Token{}, err
	}
	id := r.PathValue("apiTokenId")
	for _, t := range all {
		if t.ID == id {
			return t, nil
		}
	}
	return access.Token{}, fmt.Errorf("token %s: %w", id, errdefs.ErrNotFound)
}

func (d *dialect) getToken(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	t, err := d.token(r, by)
	if err != nil {
		return err
	}
	return api.JSON(w, http.StatusOK, fromToken(t))
}

// putToken changes a token; without expiresAt it ends when it did, with null
// never.
func (d *dialect) putToken(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	if err := by.Has(access.TokenManage); err != nil {
		return err
	}
	t, err := d.token(r, by)
	if err != nil {
		return err
	}
	var in tokenRequest
	err = api.Decode(w, r, &in)
	bad := &project.Invalid{}
	n := in.into(bad)
	if in.Roles.Set {
		bad.Add("roles", "unsupported", "the roles of a token stay as they were made")
	}
	if err := both(both(err, bad.Err()), renamed(n.Validate(time.Now()), toToken)); err != nil {
		return err
	}
	var expires *time.Time
	if in.ExpiresAt.Set {
		expires = &n.Expires
	}
	if err := d.Access.UpdateToken(r.Context(), by, t.ID, n.Name, expires); err != nil {
		return renamed(err, toToken)
	}
	return nothing(w)
}

func (d *dialect) deleteToken(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	if err := d.Access.DeleteToken(r.Context(), by, r.PathValue("apiTokenId")); err != nil {
		return err
	}
	return nothing(w)
}
