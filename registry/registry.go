// Package registry turns an integration into the login of somebody's registry:
// it knows where the registries of Docker, Amazon, Google, GitHub and
// DigitalOcean are, and how credentials become a token there.
//
// The credentials of an integration go to the vendor that they are of and to
// nobody else: a host that an action names is taken only if it is the vendor's.
package registry

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"slipway/engine"
	"slipway/secret"
)

// Hosts that do not depend on anything.
const (
	DockerHub    = "docker.io"
	GitHub       = "ghcr.io"
	DigitalOcean = "registry.digitalocean.com"
)

// Config says where vendors are asked; the zero Config is where they are.
type Config struct {
	ECR, STS   string // base URLs of Amazon's services, "": by region
	Google     string // URL of Google's token endpoint
	GoogleHost string // host of a registry that counts as one of Google's, too; "": none
	// Base URLs of Google's services that take the word of another issuer, and that
	// give tokens of a service account.
	GoogleSTS, GoogleIAM string

	// Identity says who a run is, for an audience; nil: nobody can say it.
	Identity func(ctx context.Context, of secret.Run, audience string) (token string, err error)
}

// endpoints are what of a Config can be said by names.
func (c *Config) endpoints() map[string]*string {
	return map[string]*string{"amazon-ecr": &c.ECR, "amazon-sts": &c.STS, "google-token": &c.Google, "google-registry": &c.GoogleHost, "google-sts": &c.GoogleSTS, "google-iam": &c.GoogleIAM}
}

// Endpoints are the names that Elsewhere knows.
func Endpoints() []string { return slices.Sorted(maps.Keys((&Config{}).endpoints())) }

// Elsewhere reads where vendors are asked, as NAME=URL: for private clouds with
// their interfaces, and for tests. Of a registry the URL says only the host.
func Elsewhere(list []string) (c Config, err error) {
	for _, l := range list {
		name, text, ok := strings.Cut(l, "=")
		at := c.endpoints()[name]
		u, err := url.Parse(text)
		if !ok || err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Scheme != "https" && u.Scheme != "http" {
			return c, fmt.Errorf("%q is not NAME=http(s)://host", l)
		}
		if at == nil {
			return c, fmt.Errorf("there is no %q, but %s", name, strings.Join(Endpoints(), ", "))
		}
		if *at = strings.TrimSuffix(text, "/"); at == &c.GoogleHost {
			*at = strings.ToLower(u.Host)
		}
	}
	return c, nil
}

// Exchange gets logins.
type Exchange struct {
	cfg    Config
	client *http.Client
	pause  time.Duration // before the second try of a call that has none of its own

	mu   sync.Mutex
	have map[string]Login // tokens that are still good, by what they were wanted for
}

// New makes an exchange.
func New(cfg Config) *Exchange {
	if cfg.Google == "" {
		cfg.Google = "https://oauth2.googleapis.com/token"
	}
	if cfg.GoogleSTS == "" {
		cfg.GoogleSTS = "https://sts.googleapis.com"
	}
	if cfg.GoogleIAM == "" {
		cfg.GoogleIAM = "https://iamcredentials.googleapis.com"
	}
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.DisableKeepAlives = true // a token is asked for now and then
	return &Exchange{cfg: cfg, pause: 500 * time.Millisecond, have: map[string]Login{}, client: &http.Client{
		Transport: t, Timeout: 30 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// Login is a login with its end; zero: it has none.
type Login struct {
	engine.Login
	Expires time.Time
}

// Kinds of registries that an integration has a login of.
const (
	KindDockerHub    = "DOCKER_HUB"
	KindECR          = "AMAZON_ECR"
	KindGCR          = "GOOGLE_GCR"
	KindArtifact     = "GOOGLE_ARTIFACT_REGISTRY"
	KindGitHub       = "GIT_HUB_CONTAINER_REGISTRY"
	KindDigitalOcean = "DIGITAL_OCEAN_CONTAINER_REGISTRY"
)

// Types are the types of integration that have a login of a kind of registry;
// none, if no integration has.
func Types(kind string) []string {
	return map[string][]string{
		KindDockerHub: {secret.DockerHub}, KindECR: {secret.Amazon}, KindGCR: {secret.Google}, KindArtifact: {secret.Google},
		KindGitHub: {secret.GitHub, secret.GitHubEnterprise}, KindDigitalOcean: {secret.DigitalOcean},
	}[kind]
}

// Want is a login that is wanted.
type Want struct {
	Kind        string
	Host        string // that the action names; "": that of the vendor
	Region      string // of KindECR
	Integration secret.Integration
	Run         secret.Run // who it is for
}

// key is by which a token is known again; a change of the integration makes
// another one needed, and so does another pipeline where the cloud asks which it
// is.
func (w Want) key() string {
	who := ""
	if w.Integration.Auth == secret.AuthOIDC {
		who = fmt.Sprintf("%q ", w.Run)
	}
	return who + fmt.Sprint(w.Integration.ID, w.Integration.Updated.UnixMicro(), " ", w.Kind, " ", w.Region, " ", w.Host)
}

// spare is how long a token must be good for at least when it is given.
const spare = 5 * time.Minute

// Forget drops the token that was got for a want, because a registry takes it
// no more: the next one is a new one.
func (e *Exchange) Forget(w Want) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.have, w.key())
}

// Login gives a login, one that was got before if that is good for a while yet.
// Errors are errdefs.ErrUnauthenticated where the vendor
// refuses the credentials, ErrUnavailable where it cannot be asked,
// ErrPermissionDenied for a host that is not the vendor's, ErrInvalidArgument
// for what cannot be asked with, and ErrNotImplemented for a way of
// saying who one is that is not known.
func (e *Exchange) Login(ctx context.Context, w Want) (Login, error) {
	good := func(l Login) bool { return time.Until(l.Expires) > spare }
	e.mu.Lock()
	l, ok := e.have[w.key()]
	e.mu.Unlock()
	if ok && good(l) {
		return l, nil
	}
	l, err := e.login(ctx, w)
	if err == nil && good(l) {
		e.mu.Lock()
		defer e.mu.Unlock()
		maps.DeleteFunc(e.have, func(_ string, l Login) bool { return !good(l) })
		e.have[w.key()] = l
	}
	return l, err
}

// usable tells whether an integration can say who it is in its way.
func (e *Exchange) usable(i secret.Integration) error {
	var why string
	switch {
	case i.Auth == secret.AuthTrusted:
		why = "it lends its rights to the account of Buddy's own in that cloud, and this server has none; give it keys and auth_type DEFAULT, or auth_type OIDC"
	case i.Auth == secret.AuthOIDC && i.Type != secret.Amazon && i.Type != secret.Google:
		why = "only Amazon and Google take the word of another server; give it keys and auth_type DEFAULT"
	case i.Auth == secret.AuthOIDC && e.cfg.Identity == nil:
		why = "this server signs nothing"
	default:
		return nil
	}
	return fmt.Errorf("an integration of type %s with auth_type %s cannot be used: %s: %w", i.Type, i.Auth, why, errdefs.ErrNotImplemented)
}

func (e *Exchange) login(ctx context.Context, w Want) (Login, error) {
	i := w.Integration
	if err := e.usable(i); err != nil {
		return Login{}, err
	}
	if !slices.Contains(Types(w.Kind), i.Type) {
		return Login{}, fmt.Errorf("an integration of type %s has no login of %s: %w", i.Type, w.Kind, errdefs.ErrInvalidArgument)
	}
	switch c := i.Credentials; w.Kind {
	case KindECR:
		return e.amazon(ctx, w)
	case KindGCR, KindArtifact:
		return e.google(ctx, w)
	case KindGitHub:
		return gitHub(i, w.Host)
	case KindDockerHub:
		return Login{Login: engine.Login{Host: DockerHub, Username: c.Username, Password: c.Password}}, nil
	default: // of DigitalOcean's, where the token is both parts
		return Login{Login: engine.Login{Host: DigitalOcean, Username: c.Token, Password: c.Token}}, nil
	}
}

// gitHub is the login of GitHub's registry, or of that of somebody's own GitHub,
// which has it at a name of its own. A token needs no user name there; one that
// is given is used.
func gitHub(i secret.Integration, asked string) (Login, error) {
	hosts := []string{GitHub}
	if i.Type == secret.GitHubEnterprise {
		u, err := url.Parse(i.ServerURL)
		if err != nil {
			return Login{}, fmt.Errorf("server_url: %w: %w", errdefs.ErrInvalidArgument, err)
		}
		hosts = []string{"containers." + u.Host, u.Host}
	}
	host, err := same(asked, hosts...)
	if err != nil {
		return Login{}, err
	}
	user := i.Credentials.Username
	if user == "" {
		user = "x-access-token"
	}
	return Login{Login: engine.Login{Host: host, Username: user, Password: i.Credentials.Token}}, nil
}

// same gives what was asked for if it is one of the hosts, or the first of them.
func same(asked string, hosts ...string) (string, error) {
	if asked == "" {
		return hosts[0], nil
	}
	for _, h := range hosts {
		if strings.EqualFold(asked, h) {
			return strings.ToLower(asked), nil
		}
	}
	return "", foreign(asked, strings.Join(hosts, " or "))
}

func foreign(host, want string) error {
	return fmt.Errorf("registry %s is not %s, and the credentials of the integration go nowhere else: %w", host, want, errdefs.ErrPermissionDenied)
}

// refused puts an error of a vendor into one of our kinds, by the status of its
// answer; 0 is none. who is who was asked.
func refused(ctx context.Context, who string, status int, err error) error {
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case status == 0:
		return fmt.Errorf("%s gives no answer: %w (%w)", who, errdefs.ErrUnavailable, err)
	case status < 400, status >= 500, status == http.StatusTooManyRequests, status == http.StatusRequestTimeout:
		return fmt.Errorf("%s asks us to come later: %w (%w)", who, errdefs.ErrUnavailable, err)
	}
	return fmt.Errorf("%s refuses the credentials of the integration: %w (%w)", who, errdefs.ErrUnauthenticated, err)
}

// tries makes a call three times at most, as long as it is errdefs.ErrUnavailable.
func (e *Exchange) tries(ctx context.Context, call func() error) error {
	for n, pause := 1, e.pause; ; n, pause = n+1, 2*pause {
		err := call()
		if err == nil || n == 3 || !errdefs.IsUnavailable(err) {
			return err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), err)
		}
	}
}
