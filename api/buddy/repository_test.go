package buddy

import (
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"slipway/access"
	"slipway/api/apitest"
	"slipway/source"
)

func TestBadContent(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	pipe := w.project("web", "a", "1", "d/b", "2")
	const p = "/workspaces/acme/projects/web/repository"
	for _, c := range []struct {
		method, path, body string
		status             int
		want               string
	}{
		{"POST", p + "/contents", `{}`, 400, "path: is required|content: is required"},
		{"POST", p + "/contents", `{"path":5,"content":[],"message":1,"branch":{}}`, 400, "path: must be a string|content: must be a string|message: must be a string|branch: must be a string"},
		{"POST", p + "/contents", `{"path":"x","content":"!"}`, 400, "content: is no base64"},
		{"POST", p + "/contents", `{"path":"x","content":"AAA="}`, 201, ""},
		{"POST", p + "/contents", `{"path":"x","content":"AAA="}`, 400, "path: x is there already"},
		{"POST", p + "/contents", `{"path":"../x","content":"AAA="}`, 400, "path: is not a path"},
		{"POST", p + "/contents", `{"path":"d/.git/x","content":"AAA="}`, 400, "path: is not a path"},
		{"POST", p + "/contents", `{"path":"a/x","content":"AAA="}`, 400, "path: a is no folder"},
		{"POST", p + "/contents", `{"path":"y","content":"AAA=","branch":"none"}`, 404, "branch"},
		{"POST", p + "/contents", `{"path":"y","content":"AAA=","branch":"a..b"}`, 400, "branch: is not the name"},
		{"POST", p + "/contents", `{"path":"y","content":"AAA=","message":"` + strings.Repeat("x", 4097) + `"}`, 400, "message: must be at most 4096"},
		{"PUT", p + "/contents/y", `{"content":"AAA="}`, 404, "y on main does not exist"},
		{"PUT", p + "/contents/d", `{"content":"AAA="}`, 400, "path: d is a folder"},
		{"PUT", p + "/contents/a", `{}`, 400, "content: is required"},
		{"DELETE", p + "/contents/y", ``, 404, "y on main does not exist"},
		{"DELETE", p + "/contents/d", `{"message":"m"}`, 400, "path: d is a folder"},
		{"GET", p + "/contents/y", ``, 404, "does not exist"},
		{"GET", p + "/contents/a?revision=none", ``, 404, `revision \"none\" does not exist`},
		{"GET", p + "/contents?revision=main~1", ``, 404, "revision"},
		{"GET", p + "/contents/%2e%2e/x", ``, 404, ""},
		{"GET", p + "/contents/.git/x", ``, 400, "path: is not a path"},
		{"GET", p + "/branches/none", ``, 404, "none"},
		{"GET", p + "/commits/none", ``, 404, "none"},
		{"GET", p + "/commits?revision=none", ``, 404, "none"},
		{"GET", p + "/commits?path=../x", ``, 400, "path: is not a path"},
		{"GET", p + "/commits?page=0", ``, 400, "page: must be"},
		{"POST", pipe + "/files", `{"path":"/","content":"!"}`, 400, "path: is required|content: is no base64"},
		{"POST", pipe + "/files", `{"path":"../x","content":""}`, 400, "path: is not a path"},
		{"POST", pipe + "/files", `{"path":".git/x","content":""}`, 400, "path: is not a path"},
		{"PUT", pipe + "/files/x", `{"content":""}`, 404, "does not exist"},
		{"DELETE", pipe + "/files/x", ``, 404, "does not exist"},
		{"GET", pipe + "/files/contents/x", ``, 404, "does not exist"},
		{"GET", pipe + "/files/search?content_filter=" + strings.Repeat("x", 256), ``, 400, "content_filter: must be at most"},
		{"POST", "/workspaces/acme/webhooks", `{}`, 400, "target_url: is required|events: names no event"},
		{
			"POST", "/workspaces/acme/webhooks", `{"target_url":"x","events":["NO"],"projects":["none","web"],"secret_key":"!encrypted"}`,
			400, "target_url: must begin|events.0: must be one of|projects.0: there is no project none|secret_key: there is no key",
		},
		{"POST", "/workspaces/acme/webhooks", `{"target_url":1,"events":"PUSH","projects":[1],"secret_key":{}}`, 400, "target_url: must be a string|events: must be a list|projects.0: must be a string|secret_key: must be a string"},
		{"GET", "/workspaces/acme/webhooks/7", ``, 404, "webhook 7 does not exist"},
		{"PATCH", "/workspaces/acme/webhooks/x", `{}`, 404, "does not exist"},
		{"DELETE", "/workspaces/acme/webhooks/7", ``, 404, "does not exist"},
	} {
		rec := w.ask(c.method, c.path, c.body)
		if rec.Code != c.status {
			t.Errorf("%s %s %.80s: %d %s", c.method, c.path, c.body, rec.Code, rec.Body)
			continue
		}
		var m struct{ Errors []struct{ Message string } }
		if err := json.Unmarshal(rec.Body.Bytes(), &m); err != nil || c.status >= 400 && len(m.Errors) != len(strings.Split(c.want, "|")) {
			t.Errorf("%s %s %.80s: %s", c.method, c.path, c.body, rec.Body)
		}
		for _, want := range strings.Split(c.want, "|") {
			if !strings.Contains(rec.Body.String(), want) {
				t.Errorf("%s %s %.80s: no %q in %s", c.method, c.path, c.body, want, rec.Body)
			}
		}
	}
	// A file of 20 MiB is no body that is too large.
	large := base64.StdEncoding.EncodeToString(make([]byte, 20<<20))
	if rec := w.ask("PUT", p+"/contents/a", `{"content":"`+large+`"}`); rec.Code != http.StatusOK {
		t.Errorf("20 MiB: %d %.200s", rec.Code, rec.Body)
	}
}

// A mirror is read, and says whose it is to who would write.
func TestContentOfAMirror(t *testing.T) {
	t.Parallel()
	w := newWorldWith(t, source.Config{Private: true})
	w.project("origin", "a", "1")
	_, token, err := w.rooms.Access.CreateToken(t.Context(), w.admin, access.NewToken{Name: "git", Scopes: []access.Scope{access.RepositoryRead}})
	w.must(err)
	git := httptest.NewServer(w.rooms.Sources.Handler(func(rw http.ResponseWriter, r *http.Request) (access.Actor, bool) {
		_, password, _ := r.BasicAuth()
		by, err := w.rooms.Access.Authenticate(r.Context(), password, "")
		if err != nil {
			rw.Header().Set("WWW-Authenticate", "Basic")
			rw.WriteHeader(http.StatusUnauthorized)
		}
		return by, err == nil
	}))
	t.Cleanup(git.Close)
	origin := git.URL + source.URL("acme", "origin")
	w.get(201, "POST", "/workspaces/acme/projects", `{"name":"copy","custom_repo_url":"`+origin+`","custom_repo_user":"x","custom_repo_pass":"`+token+`"}`)
	const p = "/workspaces/acme/projects/copy/repository"
	if got := w.get(200, "GET", p+"/contents/a", ""); got["content"] != "MQ==" {
		t.Errorf("%v", got)
	}
	if got := w.get(200, "GET", p+"/commits", ""); len(got["commits"].([]any)) != 1 {
		t.Errorf("%v", got)
	}
	head := w.get(200, "GET", p+"/branches/main", "")["commit"].(map[string]any)["revision"].(string)
	if got := w.get(200, "GET", p+"/commits/"+head, ""); len(got["files"].([]any)) != 1 {
		t.Errorf("%v", got)
	}
	for _, q := range [][2]string{{"POST", p + "/contents"}, {"PUT", p + "/contents/a"}, {"DELETE", p + "/contents/a"}} {
		rec := w.ask(q[0], q[1], `{"path":"b","content":"MQ=="}`)
		if rec.Code != http.StatusConflict || !strings.Contains(rec.Body.String(), origin) || strings.Contains(rec.Body.String(), token) {
			t.Errorf("%v: %d %s", q, rec.Code, rec.Body)
		}
	}
}

// What webhooks are sent: the views of this API, as it was then.
func TestWebhookPayload(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	pipe := w.project("web", "Dockerfile", "FROM scratch\n")
	w.get(201, "POST", pipe+"/actions", `{"name":"a","type":"RUN_DOCKER_CONTAINER","docker_image_name":"ubuntu","docker_image_tag":"latest","inline_commands":"exit 3"}`)
	told := make(chan map[string]any, 10)
	receiver := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		m := map[string]any{"header": r.Header.Get("X-Slipway-Event")}
		if err := json.Unmarshal(b, &m); err != nil {
			t.Errorf("%s: %v", b, err)
		}
		told <- m
	}))
	t.Cleanup(receiver.Close)
	w.get(201, "POST", "/workspaces/acme/webhooks", `{"target_url":"`+receiver.URL+`","secret_key":"open-sesame","projects":["web"],
		"events":["PUSH","EXECUTION_STARTED","EXECUTION_SUCCESSFUL","EXECUTION_FAILED","EXECUTION_FINISHED"]}`)
	w.get(201, "POST", "/workspaces/acme/projects/web/repository/contents", `{"path":"x","content":"","message":"one more"}`)
	w.get(201, "POST", pipe+"/executions", `{"comment":"go"}`)
	for _, want := range []string{
		`{"header":"PUSH","workspace":{"domain":"acme"},"project":{"name":"web"},"invoker":{"name":"admin"},"current_date":"<*>","secret_key":"open-sesame",
			"execution":null,"push":{"ref":"refs/heads/main","branch":{"name":"main"},"tag":null,"from_revision":{"message":"write Dockerfile"},"to_revision":{"message":"one more"}}}`,
		`{"header":"EXECUTION_STARTED","invoker":{"name":"admin"},"push":null,"execution":{"id":1,"status":"INPROGRESS","finish_date":null,"comment":"go",
			"to_revision":{"message":"one more"},"pipeline":{"name":"Live mirror","last_execution_status":"INPROGRESS"}}}`,
		`{"header":"EXECUTION_FAILED","execution":{"id":1,"status":"FAILED","finish_date":"<*>"}}`,
		`{"header":"EXECUTION_FINISHED","execution":{"id":1,"status":"FAILED","start_date":"<*>"}}`,
	} {
		got := apitest.Until(t, want, func() (map[string]any, bool) {
			select {
			case m := <-told:
				return m, true
			default:
				return nil, false
			}
		})
		var m any
		w.must(json.Unmarshal([]byte(want), &m))
		if err := w.lacks("payload", m, any(got)); err != nil {
			t.Errorf("%v\nin %v", err, got)
		}
	}
	// The key is in no answer but the first, and in no request that is kept.
	for _, path := range []string{"/workspaces/acme/webhooks", "/workspaces/acme/webhooks/1"} {
		if rec := w.ask("GET", path, ""); rec.Code != 200 || strings.Contains(rec.Body.String(), "sesame") {
			t.Errorf("%s: %s", path, rec.Body)
		}
	}
	// A project that is deleted keeps its name in what chose it.
	w.get(204, "DELETE", "/workspaces/acme/projects/web", "")
	got := w.get(200, "PATCH", "/workspaces/acme/webhooks/1", `{"projects":["web"]}`)
	if l := got["projects"].([]any); len(l) != 1 || l[0] != "web" {
		t.Errorf("%v", got)
	}
}
