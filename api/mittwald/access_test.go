package mittwald

import (
	"net/http"
	"strings"
	"testing"

	"slipway/access"
)

// TestNobodyGetsInWithoutARight walks the whole table as a stranger, as
// somebody who may only read, and as somebody who may nothing here.
func TestNobodyGetsInWithoutARight(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	_, body := w.do(http.MethodPatch, "/v2/stacks/"+string(w.pr.ID), w.token, `{"services":{"web":{"image":"nginx:1"}},"volumes":{"d":{"name":"d"}}}`)
	v, err := parse(body)
	w.must(err)
	first := func(list string) string {
		return v.(map[string]any)[list].([]any)[0].(map[string]any)["id"].(string)
	}
	all, err := w.rooms.Ingresses.List(t.Context(), w.admin, noFilter())
	w.must(err)
	logins, err := w.rooms.Secrets.Logins(t.Context(), w.admin, w.pr.ID)
	w.must(err)
	tokens, err := w.access.Tokens(t.Context(), w.admin)
	w.must(err)
	ids := strings.NewReplacer("{apiTokenId}", tokens[0].ID, "{registryId}", logins[0].ID, "{projectId}", string(w.pr.ID), "{stackId}", string(w.pr.ID), "{serverId}", w.home.ID, "{customerId}", w.home.ID,
		"{serviceId}", first("services"), "{volumeId}", first("volumes"), "{ingressId}", string(all[0].ID))
	token := func(scopes ...access.Scope) string {
		_, secret, err := w.access.CreateToken(t.Context(), w.admin, access.NewToken{Name: "t", Scopes: scopes})
		w.must(err)
		return secret
	}
	reader, powerless := token(access.ProjectRead, access.StackRead, access.UserInfo, access.TokenInfo), token(access.VariableInfo)
	// Whoever is a member of the workspace, with whatever right, sees that it and
	// its projects are there.
	anybody := map[string]bool{
		"GET /v2/users/self": true, "GET /v2/time-zones": true, "GET /v2/domains": true, "GET /v2/customers/{customerId}": true, "GET /v2/projects": true, "GET /v2/projects/{projectId}": true,
	}
	for pattern := range New(w.rooms).Table {
		if pattern == hookRoute { // its own token is all it asks for: testdata/webhook.txtar
			continue
		}
		method, path, _ := strings.Cut(pattern, " ")
		path = ids.Replace(path)
		if strings.HasSuffix(path, "image-config") {
			path += "?imageReference=nginx:1&useCredentialsForProjectId=" + string(w.pr.ID)
		}
		bodies := map[string]string{http.MethodGet: "", http.MethodDelete: ""}
		in, none := bodies[method]
		if !none {
			in = `{"description":"x","projectId":"` + string(w.pr.ID) + `","uri":"x.example.com","registryUri":"x.example.com","hostname":"x.example.com","paths":[{"path":"/","target":{"useDefaultPage":true}}]}`
			if strings.HasSuffix(path, "/paths") {
				in = `[{"path":"/","target":{"useDefaultPage":true}}]`
			}
			if method == http.MethodPut && strings.HasSuffix(path, string(w.pr.ID)) {
				in = `{}`
			}
		}
		want := map[string]int{"": 401, "slw_wrong": 401, reader: 403, powerless: 403}
		if method == http.MethodGet {
			want[reader], want[powerless] = 200, 404
		}
		for tk, status := range want {
			resp, got := w.do(method, path, tk, in)
			if tk == powerless && resp.StatusCode == 200 && (strings.TrimSpace(string(got)) == "[]" || anybody[pattern]) {
				continue
			}
			if resp.StatusCode != status {
				t.Errorf("%s as %q: %d %s, want %d", pattern, map[string]string{reader: "reader", powerless: "powerless"}[tk], resp.StatusCode, got, status)
			}
		}
	}
}
