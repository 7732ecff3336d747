package e2e

import (
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"slipway/registry/registrytest"
)

// TestVendors: an integration of the API becomes a token of its vendor, with which
// the program pulls what an action runs and pushes what one builds. The vendors and
// their registries are on this machine.
func TestVendors(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, ca.pem(), 0o600); err != nil {
		t.Fatal(err)
	}
	amazon, google := registrytest.NewAmazon(t), registrytest.NewGoogle(t)
	ecr, gar := newOutside(t, ca, "basic", "for the test itself"), newOutside(t, ca, "basic", "for the test itself")
	amazon.Home(ecr.host)
	gar.let(func(_ *http.Request, user, password string) bool { return google.Good(user, password) })
	s := newServer(t, "--registry-ca", file, "--vendor-endpoint", "amazon-ecr="+amazon.URL, "--vendor-endpoint", "amazon-sts="+amazon.URL,
		"--vendor-endpoint", "google-token="+google.URL, "--vendor-endpoint", "google-sts="+google.URL, "--vendor-endpoint", "google-iam="+google.URL,
		"--vendor-endpoint", "google-registry=https://"+gar.host)
	integration := func(name, typ string, more ...any) map[string]any {
		t.Helper()
		var made struct {
			HashID string `json:"hash_id"`
		}
		s.must("POST", "/workspaces/default/integrations", with(map[string]any{"name": name, "type": typ, "scope": "WORKSPACE", "all_pipelines_allowed": true}, more...), &made)
		return map[string]any{"hash_id": made.HashID}
	}
	img := tool(t, "outside")
	from := map[string]string{"Dockerfile": "FROM scratch\nCOPY page /page\n", "page": "built"}

	t.Run("amazon", func(t *testing.T) {
		ecr.push(img, "team/tool:1")
		role := []any{map[string]any{"arn": "arn:aws:iam::123456789012:role/chained", "external_id": "ours", "duration": 900}}
		in := []any{
			"docker_registry", "AMAZON_ECR", "region", "eu-west-1",
			"integration", integration("Amazon", "AMAZON", "access_key", "AKIDBASE", "secret_key", "base-secret", "role_assumptions", role),
		}
		// The token ends when a push has begun: it goes on with another one.
		var cut atomic.Bool
		ecr.let(func(r *http.Request, user, password string) bool {
			if r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/blobs/uploads/") && cut.CompareAndSwap(false, true) {
				amazon.End()
			}
			return amazon.Good(user, password)
		})
		d := s.one("amazon", from, with(build(), append(in, "repository", "team/made", "docker_image_tag", "1")...),
			runs("team/tool", "1", "/probe true", append(in, "name", "Pull")...))
		d.ok(t, "Pushed "+ecr.host+"/team/made:1")
		if d.ok(t, "it is true"); ecr.digest("team/made:1") == "" || !cut.Load() {
			t.Error(d.text())
		}
		asked := amazon.Asked()
		if slices.Contains(asked, "ecr AKIDBASE") || !slices.Contains(asked, "sts AKIDBASE") || !slices.Contains(asked, "ecr ASIACHAINED") {
			t.Errorf("asked %q", asked)
		}
		for _, never := range []string{"base-secret", "token-1-", "secret-of-", "session-of-"} {
			if strings.Contains(d.text()+s.said(), never) {
				t.Errorf("%q was said", never)
			}
		}
		wrong := integration("Wrong", "AMAZON", "access_key", "AKIDBASE", "secret_key", "guessed-secret")
		s.one("amazon-wrong", nil, with(runs("team/other", "1", "/probe true", in...), "integration", wrong)).failed(t, []string{"SignatureDoesNotMatch"}, "guessed-secret")
	})

	// No key at all: the clouds fetch those of this server, and know the pipeline.
	t.Run("identity", func(t *testing.T) {
		trust := registrytest.Trust{Issuer: s.URL, Audience: "sts.amazonaws.com", Subject: "workspace:default:project:identity:pipeline:work"}
		amazon.Trust(trust)
		trust.Audience = "https:" + registrytest.Provider
		google.Trust(trust)
		ecr.push(img, "team/tool:2")
		gar.push(img, "demo/team/tool:2")
		ecr.let(func(_ *http.Request, user, password string) bool { return amazon.Good(user, password) })
		byAmazon := integration("By who it is", "AMAZON", "auth_type", "OIDC", "role_assumptions", []any{map[string]any{"arn": "arn:aws:iam::123456789012:role/keyless"}})
		byGoogle := integration("By who it is at Google", "GOOGLE_SERVICE_ACCOUNT", "auth_type", "OIDC", "google_project", "demo",
			"config", `{"type":"external_account","audience":"`+registrytest.Provider+`","service_account_impersonation_url":"https://iamcredentials.googleapis.com/v1/projects/-/serviceAccounts/`+registrytest.Robot+`:generateAccessToken"}`)
		actions := []map[string]any{
			runs("team/tool", "2", "/probe true", "docker_registry", "AMAZON_ECR", "region", "eu-west-1", "integration", byAmazon),
			runs("tool", "2", "/probe true", "name", "Google", "docker_registry", "GOOGLE_ARTIFACT_REGISTRY", "registry", gar.host+"/demo/team", "integration", byGoogle),
		}
		s.one("identity", nil, actions...).ok(t, "it is true")
		if asked := amazon.Asked(); !slices.Contains(asked, "sts "+trust.Subject) || !slices.Contains(asked, "ecr ASIAKEYLESS") {
			t.Errorf("asked %q", asked)
		}
		s.one("stranger", nil, actions[0]).failed(t, []string{"refuses the credentials", "project:stranger:"}, "eyJ")
	})

	t.Run("google", func(t *testing.T) {
		gar.push(img, "demo/team/tool:1")
		in := []any{
			"docker_registry", "GOOGLE_ARTIFACT_REGISTRY", "registry", gar.host + "/demo/team",
			"integration", integration("Google", "GOOGLE_SERVICE_ACCOUNT", "api_key", registrytest.Account(t, google.Key)),
		}
		d := s.one("google", from, with(build(), append(in, "repository", "made", "docker_image_tag", "1")...),
			runs("tool", "1", "/probe true", append(in, "name", "Pull")...))
		d.ok(t, "Pushed "+gar.host+"/demo/team/made:1")
		if d.ok(t, "it is true"); gar.digest("demo/team/made:1") == "" || strings.Contains(d.text()+s.said(), "ya29.") {
			t.Error(d.text())
		}
	})
}
