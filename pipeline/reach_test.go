package pipeline

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"slipway/access"
	"slipway/db"
	"slipway/registry"
	"slipway/secret"
)

func (w *world) integration(i secret.Integration) secret.Integration {
	w.t.Helper()
	i.Workspace = w.home.ID
	if i.Pipelines == nil {
		i.AllPipelines = true
	}
	i, err := w.secrets.CreateIntegration(w.t.Context(), w.admin, i)
	w.must(err)
	return i
}

// builds is an action that builds a small image.
func builds(r Registry, more func(*Build)) Action {
	b := Build{Dockerfile: "Dockerfile", Repository: "team/app", Tag: "1", Registry: r}
	if more != nil {
		more(&b)
	}
	return Action{Name: "b", Build: &b}
}

// Each kind of registry is reached with the login that its integration means;
// where no kind is given it follows from the integration.
func TestKinds(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	w.commit("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")
	hub := w.integration(secret.Integration{Name: "hub", Type: secret.DockerHub, Credentials: secret.Credentials{Username: "ann", Password: "pa$word"}})
	git := w.integration(secret.Integration{Name: "git", Type: secret.GitHub, Credentials: secret.Credentials{Token: "ghp_1"}})
	w.integration(secret.Integration{Name: "ghe", Type: secret.GitHubEnterprise, ServerURL: "https://git.example", Credentials: secret.Credentials{Username: "bot", Token: "ghp_2"}})
	w.integration(secret.Integration{Name: "ocean", Type: secret.DigitalOcean, Credentials: secret.Credentials{Token: "dop_1"}})
	w.eng.Protect("docker.io", "ann", "pa$word")
	w.eng.Protect("ghcr.io", "x-access-token", "ghp_1")
	w.eng.Protect("containers.git.example", "bot", "ghp_2")
	w.eng.Protect("registry.digitalocean.com", "dop_1", "dop_1")
	w.eng.Protect("r.example.com", "ann", "own")
	for name, c := range map[string]struct {
		r    Registry
		want string
	}{
		"hub":             {Registry{Kind: DockerHub, Integration: &Integration{HashID: hub.ID}}, "docker.io/team/app:1"},
		"hub derived":     {Registry{Integration: &Integration{Identifier: "hub"}}, "docker.io/team/app:1"},
		"github":          {Registry{Kind: GitHubRegistry, Integration: &Integration{ID: git.ID}}, "ghcr.io/team/app:1"},
		"github derived":  {Registry{Integration: &Integration{Identifier: "git"}}, "ghcr.io/team/app:1"},
		"github own":      {Registry{Kind: GitHubRegistry, Integration: &Integration{Identifier: "ghe"}}, "containers.git.example/team/app:1"},
		"ocean":           {Registry{Kind: DigitalOceanRegistry, URL: "registry.digitalocean.com/mine", Integration: &Integration{Identifier: "ocean"}}, "registry.digitalocean.com/mine/team/app:1"},
		"ocean derived":   {Registry{Integration: &Integration{Identifier: "ocean"}}, "registry.digitalocean.com/team/app:1"},
		"login first":     {Registry{Kind: GitHubRegistry, Username: "x-access-token", Password: "ghp_1", Integration: &Integration{Identifier: "git"}}, "ghcr.io/team/app:1"},
		"other":           {Registry{URL: "r.example.com", Username: "ann", Password: "own"}, "r.example.com/team/app:1"},
		"none has no use": {Registry{Kind: RegistryNone, Integration: &Integration{Identifier: "nowhere"}}, ""},
	} {
		x := w.expect(w.start(w.pipeline(Pipeline{Name: name}, builds(c.r, nil)), Start{}), "SUCCESSFUL SUCCESSFUL")
		if got := w.eng.Published(c.want); c.want != "" && got != x.Steps[0].Digest {
			t.Errorf("%s: published %q, built %q: %q", name, got, x.Steps[0].Digest, w.lines(x, 0))
		}
		if log := strings.Join(w.lines(x, 0), "\n"); strings.Contains(log, "pa$word") || strings.Contains(log, "ghp_") {
			t.Errorf("%s: a secret is in the log: %s", name, log)
		}
	}
	// A run and a FROM use the same login.
	w.eng.Publish("ghcr.io/team/tool:1", w.eng.Image("echo it runs"))
	r := Registry{Kind: GitHubRegistry, Integration: &Integration{Identifier: "git"}}
	run := Action{Name: "r", Run: &Run{Image: "team/tool", Tag: "1", Commands: "echo it runs", Registry: r}}
	w.commit("Dockerfile", "FROM ghcr.io/team/tool:1\nCOPY Dockerfile /\n")
	x := w.expect(w.start(w.pipeline(Pipeline{Name: "use"}, run, builds(r, nil)), Start{}), "SUCCESSFUL SUCCESSFUL SUCCESSFUL")
	if l := w.lines(x, 0); !slices.Contains(l, "it runs") {
		t.Errorf("%q", l)
	}
}

// What an integration cannot do fails the action, naming it.
func TestIntegrationsThatFail(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	w.commit("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")
	w.integration(secret.Integration{Name: "hub", Type: secret.DockerHub, Credentials: secret.Credentials{Username: "ann", Password: "password-1"}})
	w.integration(secret.Integration{Name: "narrow", Type: secret.DockerHub, Pipelines: []int64{99999}, Credentials: secret.Credentials{Username: "a", Password: "password-1"}})
	w.integration(secret.Integration{Name: "oidc", Type: secret.Amazon, Auth: secret.AuthOIDC})
	w.integration(secret.Integration{Name: "git", Type: secret.GitHub, Credentials: secret.Credentials{Token: "password-1"}})
	w.integration(secret.Integration{Name: "google", Type: secret.Google, Credentials: secret.Credentials{APIKey: "password-1"}})
	w.eng.Protect("docker.io", "ann", "another")
	for name, c := range map[string]struct {
		r    Registry
		want string
	}{
		"nowhere":      {Registry{Kind: DockerHub, Integration: &Integration{HashID: "5ddb7c18"}}, "integration 5ddb7c18: there is none"},
		"no kind":      {Registry{Integration: &Integration{Identifier: "gone"}}, "integration gone: there is none"},
		"not allowed":  {Registry{Integration: &Integration{Identifier: "narrow"}}, "integration narrow may not be used by this pipeline"},
		"another type": {Registry{Kind: AmazonECR, Region: "eu-west-1", Integration: &Integration{Identifier: "hub"}}, "integration hub is of type DOCKER_HUB, and docker_registry AMAZON_ECR needs one of AMAZON"},
		"oidc":         {Registry{Kind: AmazonECR, Region: "eu-west-1", Integration: &Integration{Identifier: "oidc"}}, "auth_type OIDC"},
		"foreign host": {Registry{Kind: GitHubRegistry, URL: "evil.example", Integration: &Integration{Identifier: "git"}}, "evil.example"},
		"no host":      {Registry{Kind: AmazonECR, Username: "AWS", Password: "password-1"}, "registry is required"},
		"google":       {Registry{Kind: GoogleGCR, Integration: &Integration{Identifier: "google"}}, "registry is required"},
		"key":          {Registry{Kind: GoogleArtifact, URL: "eu-docker.pkg.dev", Integration: &Integration{Identifier: "google"}}, "service account"},
		"refused":      {Registry{Kind: DockerHub, Integration: &Integration{Identifier: "hub"}}, "refuses the login of user ann"},
	} {
		x := w.wait(w.start(w.pipeline(Pipeline{Name: name}, builds(c.r, nil)), Start{}))
		if e := x.Steps[0].Error; x.Status != Failed || !strings.Contains(e, c.want) || strings.Contains(e, "password-1") {
			t.Errorf("%s: %s", name, w.words(x))
		}
	}
}

// An integration that is denied to somebody is none that they can have an
// action use.
func TestDeniedIntegration(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	var u access.User
	w.must(w.db.Write(t.Context(), func(tx *db.Tx) (err error) {
		if u, err = access.AddUser(tx, access.User{Username: "member"}); err != nil {
			return err
		}
		if err = access.AddMember(tx, w.home.ID, u.ID, access.Member); err == nil {
			_, err = tx.Exec(`UPDATE members SET admin = TRUE WHERE user_id = ?`, u.ID)
		}
		return err
	}))
	i := secret.Integration{Name: "hub", Type: secret.DockerHub, Credentials: secret.Credentials{Username: "ann", Password: "pw"}}
	i.Permissions.Users = []secret.IntegrationGrant{{ID: u.ID, Level: secret.Denied}}
	w.integration(i)
	_, s, err := w.access.CreateToken(t.Context(), access.System(u), access.NewToken{Name: "t", Scopes: access.Scopes()})
	w.must(err)
	member, err := w.access.Authenticate(t.Context(), s, "")
	w.must(err)
	p := w.pipeline(Pipeline{}, builds(Registry{Integration: &Integration{Identifier: "hub"}}, nil), sh("true"))
	denied := builds(Registry{Integration: &Integration{Identifier: "hub"}}, nil)
	if _, err := w.CreateAction(t.Context(), member, p.ID, denied, nil); !errdefs.IsPermissionDenied(err) {
		t.Errorf("create: %v", err)
	}
	l, err := w.Actions(t.Context(), w.admin, p.ID)
	w.must(err)
	if len(l) != 2 {
		t.Fatalf("%d actions", len(l))
	}
	update := func(a Action, change func(*Action)) error {
		_, err := w.UpdateAction(t.Context(), member, p.ID, a.ID, func(a *Action) error { change(a); return nil }, nil)
		return err
	}
	if err := update(l[1], func(a *Action) { a.Run.Registry.Integration = &Integration{Identifier: "hub"} }); !errdefs.IsPermissionDenied(err) {
		t.Errorf("update: %v", err)
	}
	if err := update(l[0], func(a *Action) { a.Name = "other" }); err != nil {
		t.Errorf("what is there already stays: %v", err)
	}
	if err := update(l[1], func(a *Action) { a.Run.Registry.Integration = &Integration{Identifier: "gone"} }); err != nil {
		t.Errorf("what is not there may be named: %v", err)
	}
}

// ecr gives tokens with a number, for a registry of its account.
const ecrHost = "123456789012.dkr.ecr.eu-west-1.amazonaws.com"

func ecr(t *testing.T, n *atomic.Int32) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		token := base64.StdEncoding.EncodeToString(fmt.Appendf(nil, "AWS:token-%d", n.Add(1)))
		w.Header().Set("Content-Type", "application/x-amz-json-1.1")
		fmt.Fprintf(w, `{"authorizationData":[{"authorizationToken":%q,"expiresAt":%d,"proxyEndpoint":"https://%s"}]}`, token, time.Now().Add(time.Hour).Unix(), ecrHost)
	}))
	t.Cleanup(s.Close)
	return s.URL
}

// A token that has come to its end meanwhile is got anew, and what was under
// way is tried with the new one; a login that does not end is tried once.
func TestTokenThatEnds(t *testing.T) {
	t.Parallel()
	var tokens atomic.Int32
	w := newWorld(t, Config{Registries: registry.New(registry.Config{ECR: ecr(t, &tokens)})})
	w.commit("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")
	w.integration(secret.Integration{Name: "cloud", Type: secret.Amazon, Credentials: secret.Credentials{AccessKey: "a", SecretKey: "b"}})
	w.integration(secret.Integration{Name: "hub", Type: secret.DockerHub, Credentials: secret.Credentials{Username: "ann", Password: "pw"}})
	cloud := Registry{Region: "eu-west-1", Integration: &Integration{Identifier: "cloud"}} // AMAZON with a region is ECR
	w.eng.Protect(ecrHost, "AWS", "token-2")                                               // the first is over
	p := w.pipeline(Pipeline{Name: "push"}, builds(cloud, nil))
	x := w.expect(w.start(p, Start{}), "SUCCESSFUL SUCCESSFUL")
	if got := w.eng.Published(ecrHost + "/team/app:1"); got != x.Steps[0].Digest || tokens.Load() != 2 {
		t.Errorf("published %q with token %d", got, tokens.Load())
	}
	w.eng.Protect(ecrHost, "AWS", "token-3")
	run := Action{Name: "r", Run: &Run{Image: "team/app", Tag: "latest", Commands: "true", Registry: cloud}}
	w.eng.Publish(ecrHost+"/team/app:latest", w.eng.Image("true"))
	w.expect(w.start(w.pipeline(Pipeline{Name: "pull"}, run), Start{}), "SUCCESSFUL SUCCESSFUL")
	if tokens.Load() != 3 {
		t.Errorf("%d tokens for a pull", tokens.Load())
	}
	w.eng.Protect(ecrHost, "AWS", "never")
	if x := w.wait(w.start(p, Start{})); x.Status != Failed || !strings.Contains(x.Steps[0].Error, "refuses the login of user AWS") || tokens.Load() != 3+renewals {
		t.Errorf("%d tokens, %s", tokens.Load(), w.words(x))
	}
	w.eng.Protect("docker.io", "ann", "other")
	w.wait(w.start(w.pipeline(Pipeline{Name: "hub"}, builds(Registry{Integration: &Integration{Identifier: "hub"}}, nil)), Start{}))
	if n := slices.Collect(func(yield func(string) bool) {
		for _, c := range w.eng.Calls() {
			if strings.HasPrefix(c, "Push ") && strings.Contains(c, "docker.io/") && !yield(c) {
				return
			}
		}
	}); len(n) != 1 {
		t.Errorf("%d pushes with a password that is wrong", len(n))
	}
}

// A registry that asks us to come later is asked again, and the log says so.
func TestPushOnceMore(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	w.commit("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")
	busy := fmt.Errorf("registry r.example.com asks us to come later: %w", errdefs.ErrUnavailable)
	w.eng.FailNext("Push", busy)
	p := w.pipeline(Pipeline{}, builds(Registry{Kind: OtherRegistry, URL: "r.example.com"}, nil))
	x := w.expect(w.start(p, Start{}), "SUCCESSFUL SUCCESSFUL")
	if w.eng.Published("r.example.com/team/app:1") != x.Steps[0].Digest || !slices.Contains(w.lines(x, 0), "Note: r.example.com/team/app:1 could not be pushed; once more in 1s") {
		t.Errorf("%q", w.lines(x, 0))
	}
	for range 1 + len(pauses()) {
		w.eng.FailNext("Push", busy)
	}
	if x := w.wait(w.start(p, Start{})); x.Status != Failed || !strings.Contains(x.Steps[0].Error, "come later") {
		t.Error(w.words(x))
	}
}

// The kind that holds when none is given.
func TestHolds(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		r         Registry
		typ, host string
		want      RegistryKind
	}{
		{Registry{}, "", "", RegistryNone},
		{Registry{URL: "r.example"}, "", "r.example", OtherRegistry},
		{Registry{Username: "u"}, "", "", OtherRegistry},
		{Registry{Region: "eu-west-1"}, secret.Amazon, "", AmazonECR},
		{Registry{}, secret.Amazon, "", RegistryNone},
		{Registry{URL: "r.example"}, secret.Amazon, "r.example", OtherRegistry},
		{Registry{URL: "eu.gcr.io"}, secret.Google, "eu.gcr.io", GoogleGCR},
		{Registry{URL: "eu-docker.pkg.dev/x"}, secret.Google, "eu-docker.pkg.dev", GoogleArtifact},
		{Registry{URL: "r.example"}, secret.Google, "r.example", OtherRegistry},
		{Registry{}, secret.DockerHub, "", DockerHub},
		{Registry{}, secret.GitHub, "", GitHubRegistry},
		{Registry{}, secret.GitHubEnterprise, "", GitHubRegistry},
		{Registry{}, secret.DigitalOcean, "", DigitalOceanRegistry},
		{Registry{}, "SENTRY", "", RegistryNone},
		{Registry{Kind: OtherRegistry}, secret.DockerHub, "", OtherRegistry},
	} {
		if got := c.r.holds(c.typ, c.host); got != c.want {
			t.Errorf("%+v with %s at %q is %s, want %s", c.r, c.typ, c.host, got, c.want)
		}
	}
}
