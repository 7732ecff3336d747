package registry

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"go.uber.org/goleak"

	"slipway/db"
	"slipway/engine"
	"slipway/project"
	"slipway/registry/registrytest"
	"slipway/secret"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func amazonOf(c secret.Credentials) secret.Integration {
	return secret.Integration{ID: "a", Type: secret.Amazon, Auth: secret.AuthDefault, Credentials: c}
}

// The keys of an integration become a token of ECR, straight or by roles.
func TestAmazon(t *testing.T) {
	t.Parallel()
	a := registrytest.NewAmazon(t)
	e := New(Config{ECR: a.URL, STS: a.URL})
	keys := secret.Credentials{AccessKey: "AKIDBASE", SecretKey: "base-secret"}
	roles := func(names ...string) secret.Credentials {
		c := keys
		for _, n := range names {
			c.Roles = append(c.Roles, secret.Role{ARN: "arn:aws:iam::123456789012:role/" + n, ExternalID: "ours", Seconds: 900})
		}
		return c
	}
	const home = "123456789012.dkr.ecr.eu-west-1.amazonaws.com"
	for _, c := range []struct {
		name        string
		c           secret.Credentials
		region, ask string
		host, user  string // user is behind the number of the token
		is          func(error) bool
		says        string
	}{
		{name: "keys", c: keys, host: home, user: "AKIDBASE"},
		{name: "a role", c: roles("one"), host: home, user: "ASIAONE"},
		{name: "a role by a role", c: roles("one", "chained"), host: home, user: "ASIACHAINED"},
		{name: "another account", c: keys, ask: "999999999999.dkr.ecr.eu-west-1.amazonaws.com", host: "999999999999.dkr.ecr.eu-west-1.amazonaws.com", user: "AKIDBASE"},
		{name: "somebody else's host", c: keys, ask: "evil.example", is: errdefs.IsPermissionDenied, says: "evil.example"},
		{name: "a wrong secret", c: secret.Credentials{AccessKey: "AKIDBASE", SecretKey: "guessed-secret"}, is: errdefs.IsUnauthorized, says: "SignatureDoesNotMatch"},
		{name: "an unknown key", c: secret.Credentials{AccessKey: "AKIDNONE", SecretKey: "guessed-secret"}, is: errdefs.IsUnauthorized, says: "AKIDNONE"},
		{name: "a role that is not given", c: roles("forbidden"), is: errdefs.IsUnauthorized, says: "role/forbidden"},
		{name: "no region", c: keys, region: "-", is: errdefs.IsInvalidArgument, says: "region is required"},
		{name: "a region that is a host", c: keys, region: "eu-west-1.evil.example/", is: errdefs.IsInvalidArgument, says: "region"},
	} {
		region := "eu-west-1"
		if c.region != "" {
			region = strings.TrimPrefix(c.region, "-")
		}
		l, err := e.Login(t.Context(), Want{Kind: KindECR, Region: region, Host: c.ask, Integration: amazonOf(c.c)})
		e.Forget(Want{Kind: KindECR, Region: region, Host: c.ask, Integration: amazonOf(c.c)})
		if c.is != nil {
			if !c.is(err) || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "guessed-secret") {
				t.Errorf("%s: %v", c.name, err)
			}
			continue
		}
		if err != nil || l.Host != c.host || l.Username != "AWS" || !strings.HasPrefix(l.Password, "token-") || !strings.HasSuffix(l.Password, "-"+c.user) || time.Until(l.Expires) < 11*time.Hour {
			t.Errorf("%s: %+v, %v", c.name, l, err)
		}
	}
}

// A token is kept while it is good, and got anew when it is not, when the
// integration was changed, and when a registry takes it no more. A vendor that
// asks us to come later is asked again.
func TestTokensAreKept(t *testing.T) {
	t.Parallel()
	a := registrytest.NewAmazon(t)
	e := New(Config{ECR: a.URL})
	w := Want{Kind: KindECR, Region: "eu-west-1", Integration: amazonOf(secret.Credentials{AccessKey: "AKIDBASE", SecretKey: "base-secret"})}
	number := func() string {
		t.Helper()
		l, err := e.Login(t.Context(), w)
		if err != nil {
			t.Fatal(err)
		}
		n, _, _ := strings.Cut(strings.TrimPrefix(l.Password, "token-"), "-")
		return n
	}
	if one, two := number(), number(); one != "1" || two != "1" {
		t.Errorf("tokens %s and %s, asked %d times", one, two, a.Times())
	}
	w.Integration.Updated = time.Now()
	if n := number(); n != "2" {
		t.Errorf("after a change: %s", n)
	}
	e.Forget(w)
	a.Be(1, time.Minute) // soon over: not worth keeping
	if three, four := number(), number(); three != "3" || four != "4" {
		t.Errorf("tokens %s and %s", three, four)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(engine.ErrDetach)
	if _, err := e.Login(ctx, w); err != engine.ErrDetach { //nolint:errorlint // the very one
		t.Errorf("cancelled: %v", err)
	}
	a.Close()
	if _, err := e.Login(t.Context(), w); !errdefs.IsUnavailable(err) {
		t.Errorf("nobody there: %v", err)
	}
}

// The key of a service account signs what Google gives a token for.
func TestGoogle(t *testing.T) {
	t.Parallel()
	g := registrytest.NewGoogle(t)
	e := New(Config{Google: g.URL})
	e.pause = time.Millisecond
	other, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	good := registrytest.Account(t, g.Key)
	login := func(kind, host, key string) (Login, error) {
		i := secret.Integration{ID: key, Type: secret.Google, Auth: secret.AuthDefault, Credentials: secret.Credentials{APIKey: key}}
		return e.Login(t.Context(), Want{Kind: kind, Host: host, Integration: i})
	}
	for _, c := range []struct {
		name, kind, host, key string
		is                    func(error) bool
	}{
		{"the older", KindGCR, "eu.gcr.io", good, nil},
		{"the newer", KindArtifact, "europe-docker.pkg.dev", good, nil},
		{"no host", KindGCR, "", good, errdefs.IsInvalidArgument},
		{"somebody else's host", KindGCR, "evil.example", good, errdefs.IsPermissionDenied},
		{"no JSON", KindGCR, "gcr.io", "x", errdefs.IsInvalidArgument},
		{"no key in it", KindGCR, "gcr.io", `{"client_email":"a","private_key":"none"}`, errdefs.IsInvalidArgument},
		{"another key", KindGCR, "gcr.io", registrytest.Account(t, other), errdefs.IsUnauthorized},
	} {
		l, err := login(c.kind, c.host, c.key)
		if c.is == nil && (err != nil || l.Host != c.host || l.Username != "oauth2accesstoken" || !strings.HasPrefix(l.Password, "ya29.") || time.Until(l.Expires) < 50*time.Minute) {
			t.Errorf("%s: %+v, %v", c.name, l, err)
		}
		if c.is != nil && (!c.is(err) || strings.Contains(err.Error(), "PRIVATE KEY")) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	g.Busy(2)
	if l, err := login(KindArtifact, "us-docker.pkg.dev", good); err != nil || l.Password == "" {
		t.Errorf("after two refusals for now: %v", err)
	}
	g.Busy(3)
	if _, err := login(KindArtifact, "asia-docker.pkg.dev", good); !errdefs.IsUnavailable(err) {
		t.Errorf("after three: %v", err)
	}
}

// What needs no exchange, and what is refused before one.
func TestPlain(t *testing.T) {
	t.Parallel()
	e := New(Config{})
	c := secret.Credentials{Username: "ann", Password: "pw", Token: "tok"}
	anonymous := secret.Credentials{Token: "tok"}
	for _, x := range []struct {
		kind, host string
		i          secret.Integration
		want       engine.Login
		is         func(error) bool
	}{
		{KindDockerHub, "", secret.Integration{Type: secret.DockerHub, Credentials: c}, engine.Login{Host: "docker.io", Username: "ann", Password: "pw"}, nil},
		{KindDigitalOcean, "", secret.Integration{Type: secret.DigitalOcean, Credentials: c}, engine.Login{Host: "registry.digitalocean.com", Username: "tok", Password: "tok"}, nil},
		{KindGitHub, "", secret.Integration{Type: secret.GitHub, Credentials: c}, engine.Login{Host: "ghcr.io", Username: "ann", Password: "tok"}, nil},
		{KindGitHub, "GHCR.io", secret.Integration{Type: secret.GitHub, Credentials: anonymous}, engine.Login{Host: "ghcr.io", Username: "x-access-token", Password: "tok"}, nil},
		{KindGitHub, "", secret.Integration{Type: secret.GitHubEnterprise, ServerURL: "https://git.example:8443/", Credentials: c}, engine.Login{Host: "containers.git.example:8443", Username: "ann", Password: "tok"}, nil},
		{KindGitHub, "git.example", secret.Integration{Type: secret.GitHubEnterprise, ServerURL: "https://git.example", Credentials: c}, engine.Login{Host: "git.example", Username: "ann", Password: "tok"}, nil},
		{KindGitHub, "evil.example", secret.Integration{Type: secret.GitHubEnterprise, ServerURL: "https://git.example", Credentials: c}, engine.Login{}, errdefs.IsPermissionDenied},
		{KindGitHub, "evil.example", secret.Integration{Type: secret.GitHub, Credentials: c}, engine.Login{}, errdefs.IsPermissionDenied},
		{KindDockerHub, "", secret.Integration{Type: secret.GitHub, Credentials: c}, engine.Login{}, errdefs.IsInvalidArgument},
		{"OTHER", "", secret.Integration{Type: secret.DockerHub, Credentials: c}, engine.Login{}, errdefs.IsInvalidArgument},
		{KindECR, "", secret.Integration{Type: secret.Amazon, Auth: secret.AuthOIDC}, engine.Login{}, errdefs.IsNotImplemented},
		{KindECR, "", secret.Integration{Type: secret.Amazon, Auth: secret.AuthTrusted}, engine.Login{}, errdefs.IsNotImplemented},
	} {
		l, err := e.Login(t.Context(), Want{Kind: x.kind, Host: x.host, Integration: x.i})
		if x.is == nil && (err != nil || l.Login != x.want || !l.Expires.IsZero()) || x.is != nil && !x.is(err) {
			t.Errorf("%s of %s: %+v, %v", x.kind, x.i.Type, l, err)
		}
	}
}

// Who a run is becomes a token at clouds that trust this server, for the audience
// and of the pipeline that they were told.
func TestIdentity(t *testing.T) {
	t.Parallel()
	d, err := db.Open(t.Context(), filepath.Join(t.TempDir(), "x.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	box, err := secret.OpenBox(filepath.Join(t.TempDir(), "key"))
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(nil)
	issuer := secret.New(d, box, project.NewProjects(d)).Issuer("http://" + srv.Listener.Addr().String())
	srv.Config.Handler = issuer.Handler()
	srv.Start()
	t.Cleanup(srv.Close)
	a, g := registrytest.NewAmazon(t), registrytest.NewGoogle(t)
	run := secret.Run{Workspace: "acme", Project: "web", Pipeline: "main"}
	trust := registrytest.Trust{Issuer: srv.URL, Audience: "sts.amazonaws.com", Subject: run.Subject()}
	a.Trust(trust)
	trust.Audience = "https:" + registrytest.Provider
	g.Trust(trust)
	e := New(Config{ECR: a.URL, STS: a.URL, Google: g.URL, GoogleSTS: g.URL, GoogleIAM: g.URL, Identity: issuer.Token})
	e.pause = time.Millisecond
	other := run
	other.Pipeline = "other"
	roles := func(names ...string) secret.Credentials {
		var c secret.Credentials
		for _, n := range names {
			c.Roles = append(c.Roles, secret.Role{ARN: "arn:aws:iam::123456789012:role/" + n, ExternalID: "ours"})
		}
		return c
	}
	wrong := roles("one")
	wrong.Audience = "elsewhere"
	config := func(account string) secret.Credentials {
		return secret.Credentials{GoogleProject: "demo", Config: `{"type":"external_account","audience":"` + registrytest.Provider + `","token_url":"http://127.0.0.1:1/",
			"service_account_impersonation_url":"` + account + `","credential_source":{"file":"/etc/passwd"}}`}
	}
	const iam = "https://iamcredentials.googleapis.com/v1/projects/-/serviceAccounts/"
	for _, c := range []struct {
		name, kind, typ string
		c               secret.Credentials
		run             secret.Run
		password        string // what it has in it
		is              func(error) bool
	}{
		{"a role", KindECR, secret.Amazon, roles("one"), run, "-ASIAONE", nil},
		{"a role by a role", KindECR, secret.Amazon, roles("one", "chained"), run, "-ASIACHAINED", nil},
		{"another pipeline", KindECR, secret.Amazon, roles("one"), other, "", errdefs.IsUnauthorized},
		{"another audience", KindECR, secret.Amazon, wrong, run, "", errdefs.IsUnauthorized},
		{"a role that is not given", KindECR, secret.Amazon, roles("forbidden"), run, "", errdefs.IsUnauthorized},
		{"no role", KindECR, secret.Amazon, secret.Credentials{}, run, "", errdefs.IsInvalidArgument},
		{"a service account", KindArtifact, secret.Google, config(iam + registrytest.Robot + ":generateAccessToken"), run, "ya29.token-", nil},
		{"the provider itself", KindArtifact, secret.Google, config(""), run, "federated", nil},
		{"another service account", KindArtifact, secret.Google, config(iam + "root@demo.iam.gserviceaccount.com:generateAccessToken"), run, "", errdefs.IsUnauthorized},
		{"no service account", KindArtifact, secret.Google, config("https://evil.example/"), run, "", errdefs.IsInvalidArgument},
		{"another pipeline of Google's", KindArtifact, secret.Google, config(""), other, "", errdefs.IsUnauthorized},
		{"no config", KindArtifact, secret.Google, secret.Credentials{Config: "x"}, run, "", errdefs.IsInvalidArgument},
		{"GitHub", KindGitHub, secret.GitHub, secret.Credentials{Token: "x"}, run, "", errdefs.IsNotImplemented},
	} {
		w := Want{Kind: c.kind, Region: "eu-west-1", Run: c.run, Integration: secret.Integration{ID: "one", Type: c.typ, Auth: secret.AuthOIDC, Credentials: c.c}}
		if c.kind == KindArtifact {
			w.Host = "europe-docker.pkg.dev"
		}
		l, err := e.Login(t.Context(), w)
		if c.is == nil && (err != nil || !strings.Contains(l.Password, c.password) || time.Until(l.Expires) < 30*time.Minute) || c.is != nil && !c.is(err) {
			t.Errorf("%s: %+v, %v", c.name, l, err)
		}
		if err != nil && strings.Contains(err.Error(), "eyJ") {
			t.Errorf("%s shows a token: %v", c.name, err)
		}
		e.Forget(w)
	}
	// What one pipeline was given, another one does not get.
	w := Want{Kind: KindECR, Region: "eu-west-1", Run: run, Integration: secret.Integration{ID: "one", Type: secret.Amazon, Auth: secret.AuthOIDC, Credentials: roles("one")}}
	if _, err := e.Login(t.Context(), w); err != nil {
		t.Fatal(err)
	}
	w.Run = other
	if l, err := e.Login(t.Context(), w); !errdefs.IsUnauthorized(err) {
		t.Errorf("%+v, %v", l, err)
	}
}
