package registry

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/google/externalaccount"
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
func (e *Exchange) google(ctx context.Context, w Want) (Login, error) {
	i, host := w.Integration, w.Host
	if host == "" {
		return Login{}, fmt.Errorf("registry is required: %w", errdefs.ErrInvalidArgument)
	}
	if host = strings.ToLower(host); !slices.Contains(GoogleHosts(), host) && !strings.HasSuffix(host, ".pkg.dev") && host != e.cfg.GoogleHost {
		return Login{}, foreign(host, "one of Google's")
	}
	if i.Auth == secret.AuthOIDC {
		return e.federated(ctx, w, host)
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

var (
	poolProvider   = regexp.MustCompile(`^//iam\.googleapis\.com/projects/[0-9a-z-]+/locations/[a-z0-9-]+/workloadIdentityPools/[a-z0-9-]+/providers/[a-z0-9-]+$`)
	impersonated   = regexp.MustCompile(`/serviceAccounts/([A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+):generateAccessToken$`)
	answeredStatus = regexp.MustCompile(`status code ([0-9]{3})`)
)

// federated is the login for who the run is, of the provider of a workload identity
// pool that trusts this server, or of the service account that its configuration
// names. Of that the names are taken; who is asked is not for it to say.
func (e *Exchange) federated(ctx context.Context, w Want, host string) (Login, error) {
	c := w.Integration.Credentials
	var file struct {
		Audience string `json:"audience"`
		Account  string `json:"service_account_impersonation_url"`
	}
	if json.Unmarshal([]byte(c.Config), &file) != nil || !poolProvider.MatchString(file.Audience) {
		return Login{}, fmt.Errorf("config is not the JSON of a workload identity provider, with its audience: %w", errdefs.ErrInvalidArgument)
	}
	said := externalaccount.Config{
		Audience: file.Audience, SubjectTokenType: "urn:ietf:params:oauth:token-type:jwt", TokenURL: e.cfg.GoogleSTS + "/v1/token", Scopes: []string{googleScope},
		SubjectTokenSupplier: supplier(func(ctx context.Context) (string, error) {
			return e.cfg.Identity(ctx, w.Run, cmp.Or(c.Audience, "https:"+file.Audience))
		}),
	}
	if file.Account != "" {
		m := impersonated.FindStringSubmatch(file.Account)
		if m == nil {
			return Login{}, fmt.Errorf("service_account_impersonation_url in config names no service account: %w", errdefs.ErrInvalidArgument)
		}
		said.ServiceAccountImpersonationURL = e.cfg.GoogleIAM + "/v1/projects/-/serviceAccounts/" + m[1] + ":generateAccessToken"
	}
	var token *oauth2.Token
	err := e.tries(ctx, func() error {
		source, err := externalaccount.NewTokenSource(context.WithValue(ctx, oauth2.HTTPClient, e.client), said)
		if err != nil {
			return fmt.Errorf("config: %w: %w", errdefs.ErrInvalidArgument, err)
		}
		if token, err = source.Token(); err == nil {
			return nil
		}
		status := 0
		if m := answeredStatus.FindStringSubmatch(err.Error()); m != nil {
			status, _ = strconv.Atoi(m[1])
		}
		return refused(ctx, "Google, asked for "+w.Run.Subject()+",", status, err)
	})
	if err != nil {
		return Login{}, err
	}
	return Login{engine.Login{Host: host, Username: googleUser, Password: token.AccessToken}, token.Expiry}, nil
}

// supplier gives the token that says who asks.
type supplier func(context.Context) (string, error)

// SubjectToken implements externalaccount.SubjectTokenSupplier.
func (s supplier) SubjectToken(ctx context.Context, _ externalaccount.SupplierOptions) (string, error) {
	return s(ctx)
}
