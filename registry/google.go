package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/jwt"

	"slipway/engine"
	"slipway/secret"
)

// GoogleHosts are those of Google's older registry.
func GoogleHosts() []string { return []string{"gcr.io", "us.gcr.io", "eu.gcr.io", "asia.gcr.io"} }

const (
	googleUser  = "oauth2accesstoken"
	googleScope = "https://www.googleapis.com/auth/cloud-platform"
)

// google is the login of one of Google's registries, of the older or the newer
// one: a token that Google gives for a text signed with the key of the service
// account. The key itself goes to nobody.
func (e *Exchange) google(ctx context.Context, i secret.Integration, host string) (Login, error) {
	if host == "" {
		return Login{}, fmt.Errorf("registry is required: %w", errdefs.ErrInvalidArgument)
	}
	if host = strings.ToLower(host); !slices.Contains(GoogleHosts(), host) && !strings.HasSuffix(host, ".pkg.dev") && host != e.cfg.GoogleHost {
		return Login{}, foreign(host, "one of Google's")
	}
	// Where the file says that tokens are to be had is not looked at: it is not
	// for the file to say who is asked by this server.
	var key struct {
		Email string `json:"client_email"`
		Key   string `json:"private_key"`
		ID    string `json:"private_key_id"`
	}
	if json.Unmarshal([]byte(i.Credentials.APIKey), &key) != nil || key.Email == "" || key.Key == "" {
		return Login{}, fmt.Errorf("api_key is not the JSON of a service account, with client_email and private_key: %w", errdefs.ErrInvalidArgument)
	}
	c := jwt.Config{Email: key.Email, PrivateKey: []byte(key.Key), PrivateKeyID: key.ID, Scopes: []string{googleScope}, TokenURL: e.cfg.Google}
	var token *oauth2.Token
	err := e.tries(ctx, func() (err error) {
		token, err = c.TokenSource(context.WithValue(ctx, oauth2.HTTPClient, e.client)).Token()
		var answer *oauth2.RetrieveError
		switch {
		case err == nil && token.AccessToken == "":
			return fmt.Errorf("Google gives an answer without a token: %w", errdefs.ErrUnavailable)
		case err == nil:
			return nil
		case errors.As(err, &answer):
			return refused(ctx, "Google", answer.Response.StatusCode, err)
		case strings.Contains(err.Error(), "cannot fetch token"):
			return refused(ctx, "Google", 0, err)
		}
		return fmt.Errorf("the private_key in api_key is none: %w", errdefs.ErrInvalidArgument)
	})
	if err != nil {
		return Login{}, err
	}
	return Login{engine.Login{Host: host, Username: googleUser, Password: token.AccessToken}, token.Expiry}, nil
}
