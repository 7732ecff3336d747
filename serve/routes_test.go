package serve

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"slipway/api"
	"slipway/cli"
	"slipway/engine/local"
	"slipway/ingress"
)

// TestMain plays the roles that serve starts this program for.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "ingress":
			os.Exit(ingress.Main(os.Args[2:]))
		case "checkdb":
			os.Exit(local.CheckDB(os.Args[2:]))
		}
	}
	os.Exit(m.Run())
}

// world is a server with something of every noun in it.
type world struct {
	*cli.Client
	t        *testing.T
	routes   []api.Route
	ids      map[string]string // by the names in the patterns
	other    string            // a token of another workspace
	powerles string            // a token that may nothing here
	outsider string            // a token of a member who is in no project
}

// begin starts a server; stop ends it as SIGTERM does, waits for that, and may
// be called again.
func begin(t *testing.T, change ...func(*Config)) (s *Server, c *cli.Client, stop func()) {
	t.Helper()
	dir := t.TempDir()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	cfg := Config{
		DataDir: filepath.Join(dir, "data"), Listen: addr, PublicURL: "http://" + addr, Domain: "localhost", PublicIP: "127.0.0.1",
		MasterKeyFile: filepath.Join(dir, "data", "master.key"), CacheMax: "1GiB", PushMax: "1GiB", LogMax: "1MiB", FreeMin: 0, LogFormat: "text", LogLevel: "warn",
		IngressHTTP: "127.0.0.1:0", PrivateSources: true,
	}
	for _, f := range change {
		f(&cfg)
	}
	s = &Server{cfg: cfg, log: newLogger(cfg, t.Output()), ready: make(chan struct{}), going: make(chan struct{})}
	ctx, end := context.WithCancel(context.Background())
	if err := s.open(ctx); err != nil {
		t.Fatal(err, s.close())
	}
	ended := make(chan error, 1)
	go func() { ended <- s.run(ctx, io.Discard) }()
	stop = sync.OnceFunc(func() {
		end()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		stop()
		if err := s.close(); err != nil {
			t.Error(err)
		}
		if err := Stop(context.Background(), cfg, true, t.Output()); err != nil {
			t.Error(err)
		}
	})
	<-s.ready
	token, err := os.ReadFile(filepath.Join(cfg.DataDir, "admin-token"))
	if err != nil {
		t.Fatal(err)
	}
	return s, cli.NewClient("http://"+addr, strings.TrimSpace(string(token))), stop
}

func newWorld(t *testing.T) *world {
	t.Helper()
	s, c, _ := begin(t)
	w := &world{Client: c, t: t, routes: s.handler().Routes(), ids: map[string]string{}}
	w.fill()
	return w
}

func (w *world) do(method, path string, body, out any) {
	w.t.Helper()
	if err := w.Do(context.Background(), method, path, body, out); err != nil {
		w.t.Fatal(err)
	}
}

// fill makes one of everything that a path can name.
func (w *world) fill() {
	w.t.Helper()
	var p, pl, a, x, tok struct{ ID any }
	const base = "/workspaces/default/projects"
	w.do("POST", base, map[string]any{"name": "app", "display_name": "App"}, nil)
	var projects []struct{ ID, CustomerID, Description string }
	w.do("GET", "/v2/projects", nil, &projects)
	for _, v := range projects {
		if v.Description == "App" {
			w.ids["projectId"], w.ids["customerId"], w.ids["serverId"] = v.ID, v.CustomerID, v.CustomerID
		}
	}
	_ = p
	w.do("POST", base+"/app/pipelines", map[string]any{"name": "p"}, &pl)
	at := fmt.Sprintf("%s/app/pipelines/%.0f", base, pl.ID)
	w.do("POST", at+"/actions", map[string]any{"name": "b", "type": "DOCKERFILE", "dockerfile_path": "Dockerfile"}, &a)
	w.do("POST", at+"/executions", map[string]any{"to_revision": map[string]any{"revision": "HEAD"}}, &x)
	var e struct {
		ActionExecutions []struct {
			ID string `json:"action_execution_id"`
		} `json:"action_executions"`
	}
	w.do("GET", fmt.Sprintf("%s/executions/%.0f", at, x.ID), nil, &e)
	w.do("PUT", "/v2/stacks/"+w.ids["projectId"], map[string]any{
		"services": map[string]any{"web": map[string]any{"image": "nowhere.invalid/x:1", "description": "web", "volumes": []string{"data:/data"}}}, "volumes": map[string]any{"data": map[string]any{"name": "data"}},
	}, nil)
	var services, volumes, ingresses, registries []struct{ ID string }
	w.do("GET", "/v2/projects/"+w.ids["projectId"]+"/registries", nil, &registries)
	w.do("GET", "/v2/projects/"+w.ids["projectId"]+"/services", nil, &services)
	w.do("GET", "/v2/projects/"+w.ids["projectId"]+"/volumes", nil, &volumes)
	w.do("GET", "/v2/ingresses?projectId="+w.ids["projectId"], nil, &ingresses)
	var build struct {
		BuildID string `json:"build_id"`
	}
	w.do("POST", "/v1/repositories/default", map[string]any{
		"repo_name": "built", "build_config": map[string]any{
			"code_repo_client": "Simple", "code_repo_clone_url": "http://127.0.0.1:9/x.git",
			"tag_configs": []any{map[string]any{"code_repo_type": "branch", "code_repo_type_value": "main", "docker_repo_tag": "latest", "dockerfile_location": "/", "build_cache_enabled": true}},
		},
	}, nil)
	w.do("POST", "/user/tokens", map[string]any{"name": "t", "scopes": []string{"USER_INFO"}}, &tok)
	w.people()
	var variable, environment struct{ ID any }
	w.do("POST", "/workspaces/default/variables", map[string]any{"key": "A"}, &variable)
	w.do("POST", "/workspaces/default/environments", map[string]any{"name": "live"}, &environment)
	w.ids["variable"], w.ids["environment"] = fmt.Sprintf("%.0f", variable.ID), fmt.Sprint(environment.ID)
	w.ids["workspace"], w.ids["namespace"], w.ids["project"], w.ids["repo"] = "default", "default", "app", "built"
	w.ids["pipeline"], w.ids["action"], w.ids["number"], w.ids["step"] = fmt.Sprintf("%.0f", pl.ID), fmt.Sprintf("%.0f", a.ID), fmt.Sprintf("%.0f", x.ID), e.ActionExecutions[0].ID
	w.ids["stackId"], w.ids["serviceId"], w.ids["volumeId"], w.ids["ingressId"] = w.ids["projectId"], services[0].ID, volumes[0].ID, ingresses[0].ID
	w.ids["registryId"] = registries[0].ID
	w.ids["code"] = "nobody-knows"
	w.ids["key"], w.ids["email"], w.ids["application"] = "1", "x@example.com", "nobody"
	var i struct {
		HashID string `json:"hash_id"`
	}
	w.do("POST", "/workspaces/default/integrations", map[string]any{"name": "git", "type": "GIT_HUB", "scope": "WORKSPACE", "token": "t"}, &i)
	w.ids["integration"] = i.HashID
	w.ids["path..."], w.ids["ref..."], w.ids["revision..."] = "Dockerfile", "main", "main"
	var hook struct{ ID float64 }
	w.do("POST", "/workspaces/default/webhooks", map[string]any{"target_url": "http://127.0.0.1:9/x", "events": []string{"PUSH"}}, &hook)
	w.ids["webhook"] = fmt.Sprintf("%.0f", hook.ID)
	w.ids["id"], w.ids["apiTokenId"], w.ids["build"] = fmt.Sprint(tok.ID), fmt.Sprint(tok.ID), build.BuildID
	if w.ids["build"] == "" {
		w.ids["build"] = "00000000-0000-4000-8000-000000000000"
	}
	w.do("POST", "/workspaces", map[string]any{"domain": "other", "name": "Other"}, nil)
	w.other = w.token(map[string]any{"name": "other", "scopes": allScopes, "workspace_restrictions": []string{"other"}})
	w.powerles = w.token(map[string]any{"name": "powerless", "scopes": []string{"USER_INFO"}, "workspace_restrictions": []string{"default"}})
}

// people makes a member, a group and a permission set, and puts them into the
// project.
func (w *world) people() {
	w.t.Helper()
	const ws = "/workspaces/default"
	for _, name := range []string{"member", "group", "permission"} {
		var made struct{ ID int64 }
		w.do("POST", ws+"/"+name+"s", map[string]any{"name": name, "email": name + "@example.com"}, &made)
		w.ids[name] = fmt.Sprint(made.ID)
	}
	var out struct{ ID int64 }
	w.do("POST", ws+"/members", map[string]any{"email": "outsider@example.com"}, &out)
	var tok struct{ Token string }
	w.do("POST", fmt.Sprintf("/slipway/v1/workspaces/default/members/%d/tokens", out.ID), map[string]any{"name": "first"}, &tok)
	w.outsider = tok.Token
	w.do("POST", ws+"/groups/"+w.ids["group"]+"/members", map[string]any{"id": json.Number(w.ids["member"])}, nil)
	for _, name := range []string{"member", "group"} {
		w.do("POST", ws+"/projects/app/"+name+"s", map[string]any{"id": json.Number(w.ids[name]), "permission_set": map[string]any{"id": 1}}, nil)
	}
}

var allScopes = []string{
	"WORKSPACE", "REPOSITORY_WRITE", "EXECUTION_MANAGE", "PROJECT_DELETE", "VARIABLE_MANAGE", "TOKEN_MANAGE", "TOKEN_INFO", "USER_INFO", "WORKSPACES_MANAGE",
	"PROJECT_MANAGE", "STACK_WRITE", "IMAGE_WRITE", "INTEGRATION_MANAGE", "ENVIRONMENT_MANAGE",
}

func (w *world) token(body map[string]any) string {
	w.t.Helper()
	var t struct{ Token string }
	w.do("POST", "/user/tokens", body, &t)
	return t.Token
}

func (w *world) path(pattern string) string {
	segments := strings.Split(pattern, "/")
	for i, s := range segments {
		name, ok := strings.CutPrefix(s, "{")
		if !ok {
			continue
		}
		id := w.ids[strings.TrimSuffix(name, "}")]
		if id == "" {
			w.t.Fatalf("%s: nothing was made for %s", pattern, s)
		}
		// Two dialects call different things an action.
		if strings.HasPrefix(pattern, "/slipway/v1/logs/actions/") {
			id = w.ids["step"]
		}
		if strings.HasSuffix(pattern, "/build-config") && s == "{repo}" {
			id = "built"
		}
		segments[i] = id
	}
	return strings.Join(segments, "/")
}

// ask sends a request with any token and gives status, type and text.
func (w *world) ask(method, path, token string, body []byte) (int, string, http.Header) {
	w.t.Helper()
	req, err := http.NewRequest(method, w.URL+path, bytes.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := w.HTTP.Do(req)
	if err != nil {
		w.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return res.StatusCode, string(b), res.Header
}

// mayAll are routes that any known user may ask: they tell of that user, or
// list what it sees, which may be nothing.
func mayAll(r api.Route) bool {
	switch r.Method + " " + r.Path {
	case "GET /user", "PATCH /user", "GET /user/token", "GET /workspaces", "GET /v2/users/self", "GET /v2/projects", "GET /v2/stacks", "GET /v2/services", "GET /v2/ingresses", "GET /v2/time-zones", "GET /v2/domains",
		"GET /slipway/v1/server", "GET /v1/builds":
		return true
	}
	return false
}

// named tells whether the path names something of the workspace.
func named(r api.Route) bool {
	return strings.Contains(r.Path, "{") && !strings.HasPrefix(r.Path, "/user/") && !strings.HasPrefix(r.Path, "/v2/users/self/") && !strings.HasPrefix(r.Path, "/slipway/v1/oauth2/")
}

// inProject tells whether the path names a project or something of one.
func inProject(r api.Route) bool {
	for _, s := range []string{"project", "repo", "projectId", "stackId", "serviceId", "volumeId", "ingressId", "registryId", "build", "/logs/actions/", "/v1/actions/"} {
		if strings.Contains(r.Path, "{"+s+"}") || s[0] == '/' && strings.Contains(r.Path, s) {
			return true
		}
	}
	return false
}

// TestNoRouteIsOpen walks every table as a stranger, as somebody of another
// workspace, as a member who is in no project, and as somebody who may do
// nothing.
func TestNoRouteIsOpen(t *testing.T) {
	w := newWorld(t)
	var open []string
	for _, r := range w.routes {
		path := w.path(r.Path)
		status, text, h := w.ask(r.Method, path, "", []byte(`{}`))
		if r.Open {
			open = append(open, r.Method+" "+r.Path)
		} else if status != http.StatusUnauthorized {
			t.Errorf("%s %s as a stranger: %d %s", r.Method, path, status, text)
		}
		if h.Get(api.RequestID) == "" || !strings.HasPrefix(h.Get("Content-Type"), "application/json") {
			t.Errorf("%s %s: %v", r.Method, path, h)
		}
		if status, text, _ := w.ask(r.Method, path, "slw_wrong", []byte(`{}`)); status != http.StatusUnauthorized && !r.Open {
			t.Errorf("%s %s with a wrong token: %d %s", r.Method, path, status, text)
		}
		if named(r) {
			if status, text, _ := w.ask(r.Method, path, w.other, []byte(`{}`)); status != http.StatusNotFound {
				t.Errorf("%s %s from another workspace: %d %s", r.Method, path, status, text)
			}
		}
		if inProject(r) {
			if status, text, _ := w.ask(r.Method, path, w.outsider, []byte(`{}`)); status != http.StatusNotFound {
				t.Errorf("%s %s as a member who is not in the project: %d %s", r.Method, path, status, text)
			}
		}
		if mayAll(r) || r.Open {
			continue
		}
		want := http.StatusForbidden
		if r.Dialect == "mittwald" && r.Method == http.MethodGet {
			want = http.StatusNotFound
		}
		body := `{}`
		switch {
		case r.Path == "/workspaces":
			body = `{"domain":"third"}`
		case r.Path == "/user/tokens":
			body = `{"name":"t","scopes":["USER_INFO"]}`
		case strings.HasSuffix(r.Path, "/branches"):
			body = `{"name":"x"}`
		case r.Path == "/v2/ingresses":
			body = `{"projectId":"` + w.ids["projectId"] + `","hostname":"x.localhost","paths":[{"path":"/","target":{"useDefaultPage":true}}]}`
		case strings.Contains(r.Path, "/repository/contents"), strings.Contains(r.Path, "{pipeline}/files"):
			body = `{"path":"x","content":""}`
		case strings.Contains(r.Path, "{build}"):
			want = http.StatusNotFound // there was no source to build, so there is none
		}
		if status, text, _ := w.ask(r.Method, path, w.powerles, []byte(body)); status != want {
			t.Errorf("%s %s without a right: %d %s, want %d", r.Method, path, status, text, want)
		}
	}
	// The one list of open routes.
	if want := []string{"POST /hooks/{code}", "GET /v2/stacks/{stackId}/webhooks/pull-image"}; fmt.Sprint(open) != fmt.Sprint(want) {
		t.Errorf("open routes are %v, want %v", open, want)
	}
}

// TestBadInput sends what is no JSON, the wrong type and too much to every
// route that reads a body: 400 and 413 in the dialect's shape, and nothing of
// it is kept.
func TestBadInput(t *testing.T) {
	w := newWorld(t)
	reads := 0
	for _, r := range w.routes {
		if r.Method == http.MethodGet || r.Method == http.MethodDelete || strings.Contains(r.Path, "/actions/start") || strings.HasSuffix(r.Path, ":load") || strings.HasSuffix(r.Path, ":check") || strings.HasPrefix(r.Path, "/hooks/") ||
			strings.HasPrefix(r.Path, "/v2/stacks/{stackId}/services/{serviceId}/actions/") || strings.HasSuffix(r.Path, "/actions/validate-credentials") || strings.HasSuffix(r.Path, "/webhook-token") {
			continue
		}
		reads++
		path := w.path(r.Path)
		for name, body := range map[string]string{
			"broken": `{"name": `, "a list or a string": `"x"`, "trailing comma": `{"name": "x",}`, "twice": `{"name":"a","name":"b"}`, "empty": ``, "not UTF-8": "{\"name\":\"\xff\"}",
		} {
			status, text, _ := w.ask(r.Method, path, w.Token, []byte(body))
			if name == "empty" && (status == http.StatusCreated && strings.HasSuffix(r.Path, "/executions") || status == http.StatusNoContent && r.Path == "/v2/registries/{registryId}") {
				continue // everything in it may be left out
			}
			if status != http.StatusBadRequest || !shaped(r.Dialect, text) {
				t.Errorf("%s %s, %s: %d %s", r.Method, path, name, status, text)
			}
		}
		most := 17 << 20
		if strings.Contains(r.Path, "/repository/contents") || strings.Contains(r.Path, "{pipeline}/files") {
			most = 90 << 20 // a file of 64 MiB in base64
		}
		big := append([]byte(`{"name":"`), bytes.Repeat([]byte("x"), most)...)
		if status, text, _ := w.ask(r.Method, path, w.Token, append(big, `"}`...)); status != http.StatusRequestEntityTooLarge || !shaped(r.Dialect, text) {
			t.Errorf("%s %s, too large: %d %s", r.Method, path, status, text)
		}
	}
	if reads < 15 {
		t.Errorf("only %d routes read a body", reads)
	}
}

// shaped tells whether an error is in the shape of its dialect and says
// something.
func shaped(dialect, text string) bool {
	var e struct {
		Type, Message, Detail string
		Errors                []struct{ Message string }
	}
	if json.Unmarshal([]byte(text), &e) != nil {
		return false
	}
	switch dialect {
	case "mittwald":
		return e.Type != "" && e.Message != ""
	case "alauda":
		return e.Detail != "" && len(e.Errors) > 0 && e.Errors[0].Message != ""
	}
	return len(e.Errors) > 0 && e.Errors[0].Message != ""
}

// TestUnservedPaths are the dialect's 404, never a stub.
func TestUnservedPaths(t *testing.T) {
	w := newWorld(t)
	for path, dialect := range map[string]string{
		"/workspaces/default/nothing": "buddy", "/user/nothing": "buddy", "/v1/nothing": "alauda", "/v2/nothing": "mittwald", "/slipway/v1/nothing": "native",
	} {
		status, text, _ := w.ask(http.MethodGet, path, w.Token, nil)
		if status != http.StatusNotFound || !shaped(dialect, text) {
			t.Errorf("%s: %d %s", path, status, text)
		}
	}
	if status, text, _ := w.ask(http.MethodGet, "/nothing", w.Token, nil); status != http.StatusNotFound || !shaped("", text) {
		t.Errorf("/nothing: %d %s", status, text)
	}
	for _, path := range []string{"/oauth2/token", "/api/oauth2/token"} {
		if status, text, h := w.ask(http.MethodPost, path, "", nil); status != http.StatusBadRequest || !strings.Contains(text, "unsupported_grant_type") || h.Get(api.RequestID) == "" {
			t.Errorf("%s: %d %s", path, status, text)
		}
	}
	if status, _, h := w.ask(http.MethodPut, "/v2/", "", nil); status == http.StatusOK || h.Get(api.RequestID) == "" {
		t.Errorf("PUT /v2/: %d %v", status, h)
	}
}
