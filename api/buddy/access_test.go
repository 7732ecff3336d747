package buddy

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"slipway/access"
	"slipway/api"
	"slipway/source"
)

// row says of a route what a request is like that its scope is enough for.
type row struct {
	body string // "": none
	last bool   // ends what the others need
	look bool   // every scope is enough that is not about the user alone
	also int    // a status that is right, too, as things may be
}

// rows has every route of the dialect: one without a row fails.
func rows() map[string]row {
	const w, p, l = "/workspaces/{workspace}", "/workspaces/{workspace}/projects/{project}", "/workspaces/{workspace}/projects/{project}/pipelines/{pipeline}"
	m := map[string]row{}
	for _, path := range []string{
		"/user", "/user/keys", "/user/keys/{key}", "/user/emails", "/user/token", "/user/tokens", "/user/tokens/{id}", "/workspaces", w, w + "/projects", p,
		p + "/pipelines", l, l + "/actions", l + "/actions/{action}", l + "/executions", l + "/executions/{number}",
		l + "/executions/{number}/action/{action}", l + "/executions/{number}/action_executions/{step}", l + "/executions/{number}/action_executions/{step}/logs",
		w + "/members", w + "/members/{member}", w + "/groups", w + "/groups/{group}", w + "/groups/{group}/members", w + "/groups/{group}/members/{member}",
		w + "/permissions", w + "/permissions/{permission}", p + "/members", p + "/members/{member}", p + "/groups", p + "/groups/{group}",
		w + "/integrations", w + "/integrations/{integration}",
		w + "/variables", w + "/variables/{variable}", w + "/environments", w + "/environments/{environment}",
		p + "/repository/contents", p + "/repository/contents/{path...}", p + "/repository/branches", p + "/repository/branches/{ref...}", p + "/repository/tags",
		p + "/repository/tags/{ref...}", p + "/repository/commits", p + "/repository/commits/{revision...}", l + "/files/search", l + "/files/contents",
		l + "/files/contents/{path...}", w + "/webhooks", w + "/webhooks/{webhook}",
	} {
		m["GET "+path] = row{look: path == "/workspaces" || path == w || path == w+"/projects" || path == p}
	}
	for _, path := range order() {
		m["DELETE "+path] = row{last: true}
	}
	for path, body := range map[string]string{
		"/user": `{"name":"x"}`, w: `{"name":"x"}`, p: `{"access":"PRIVATE"}`, l: `{"name":"x"}`, l + "/actions/{action}": `{"name":"x"}`,
		l + "/executions/{number}": `{"operation":"RETRY"}`, w + "/members/{member}": `{"admin":false}`, w + "/groups/{group}": `{"name":"x"}`,
		w + "/groups/{group}/members/{member}": `{"status":"MEMBER"}`, w + "/permissions/{permission}": `{"name":"x"}`,
		w + "/integrations/{integration}": `{"name":"x"}`,
		w + "/variables/{variable}":       `{"value":"x"}`,
		p + "/members/{member}":           `{"permission_set":{"id":1}}`, p + "/groups/{group}": `{"permission_set":{"id":1}}`,
	} {
		m["PATCH "+path] = row{body: body}
	}
	m["PATCH "+w+"/webhooks/{webhook}"] = row{body: `{"events":["PUSH"]}`}
	for _, path := range []string{p + "/repository/contents/{path...}", l + "/files/{path...}"} {
		m["PUT "+path] = row{body: `{"content":"eA=="}`, also: 409}
	}
	for _, path := range []string{p + "/repository/contents", l + "/files"} {
		m["POST "+path] = row{body: `{"path":"y","content":"eA=="}`, also: 409} // an execution runs
	}
	m["GET "+p+"/repository/tags/{ref...}"] = row{also: 404} // it is a branch
	m["POST "+w+"/webhooks"] = row{body: `{"target_url":"http://127.0.0.1:9/","events":["PUSH"]}`}
	for path, body := range map[string]string{
		"/user/tokens": `{"name":"x"}`, "/user/emails": `{"email":"x@example.com"}`, "/user/keys": `{"content":"` + publicKey + `"}`,
		p + "/repository/branches": `{"name":"x"}`, "/workspaces": `{"domain":"x"}`, w + "/projects": `{"name":"x"}`, p + "/pipelines": `{"name":"x"}`,
		l + "/actions": `{"name":"x","type":"DOCKERFILE","dockerfile_path":"D"}`, l + "/executions": `{}`, w + "/members": `{"email":"x@example.com"}`,
		w + "/groups": `{"name":"y"}`, w + "/groups/{group}/members": `{"id":1}`, w + "/permissions": `{"name":"y"}`,
		w + "/integrations": `{"name":"y","type":"GIT_HUB","scope":"WORKSPACE","token":"t"}`,
		w + "/variables":    `{"key":"B"}`, w + "/environments": `{"name":"b"}`,
		p + "/members": `{"id":3,"permission_set":{"id":1}}`, p + "/groups": `{"id":2,"permission_set":{"id":1}}`,
	} {
		m["POST "+path] = row{body: body}
	}
	return m
}

// order has the routes that end something, the narrowest first.
func order() []string {
	const w, p, l = "/workspaces/{workspace}", "/workspaces/{workspace}/projects/{project}", "/workspaces/{workspace}/projects/{project}/pipelines/{pipeline}"
	return []string{
		"/user/tokens/{id}", "/user/keys/{key}", "/user/emails/{email}", p + "/repository/branches/{ref...}", w + "/variables/{variable}", w + "/environments/{environment}", l + "/actions/{action}", l + "/files/{path...}", l,
		p + "/repository/contents/{path...}", w + "/webhooks/{webhook}", p + "/members/{member}", p + "/groups/{group}", p, w + "/groups/{group}/members/{member}",
		w + "/groups/{group}", w + "/permissions/{permission}", w + "/members/{member}", w + "/integrations/{integration}", w,
	}
}

const (
	publicKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl ann@example.com"
	otherKey  = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ ann@example.com"
)

// tableWorld has one of everything that a path can name, and says which.
type tableWorld struct {
	*world
	ids *strings.Replacer
}

func newTableWorld(t *testing.T) *tableWorld {
	t.Helper()
	w := newWorldWith(t, source.Config{})
	l := w.project("web", "x", "x")
	w.get(201, "POST", l+"/files", `{"path":"x","content":""}`)
	hook := w.get(201, "POST", "/workspaces/acme/webhooks", `{"target_url":"http://127.0.0.1:9/","events":["EXECUTION_STARTED"]}`)["id"]
	action := w.get(201, "POST", l+"/actions", `{"name":"b","type":"RUN_DOCKER_CONTAINER","docker_image_name":"ubuntu","docker_image_tag":"latest","inline_commands":"true"}`)["id"]
	x := w.get(201, "POST", l+"/executions", `{}`)["id"]
	ended := w.wait(fmt.Sprintf("%s/executions/%v", l, x))
	step := ended["action_executions"].([]any)[0].(map[string]any)["action_execution_id"]
	const ws = "/workspaces/acme"
	member := w.get(201, "POST", ws+"/members", `{"email":"m@example.com"}`)["id"]
	w.get(201, "POST", ws+"/members", `{"email":"n@example.com"}`)
	group := w.get(201, "POST", ws+"/groups", `{"name":"g"}`)["id"]
	w.get(201, "POST", ws+"/groups", `{"name":"h"}`)
	w.get(201, "POST", fmt.Sprintf("%s/groups/%v/members", ws, group), fmt.Sprintf(`{"id":%v}`, member))
	set := w.get(201, "POST", ws+"/permissions", `{"name":"p"}`)["id"]
	w.get(201, "POST", ws+"/projects/web/members", fmt.Sprintf(`{"id":%v,"permission_set":{"id":1}}`, member))
	w.get(201, "POST", ws+"/projects/web/groups", fmt.Sprintf(`{"id":%v,"permission_set":{"id":1}}`, group))
	integration := w.get(201, "POST", ws+"/integrations", `{"name":"i","type":"GIT_HUB","scope":"WORKSPACE","token":"t"}`)["hash_id"]
	variable := w.get(201, "POST", ws+"/variables", `{"key":"A"}`)["id"]
	environment := w.get(201, "POST", ws+"/environments", `{"name":"a"}`)["id"]
	token := w.get(201, "POST", "/user/tokens", `{"name":"t"}`)["id"]
	key := w.get(201, "POST", "/user/keys", `{"content":"`+otherKey+`"}`)["id"]
	w.get(201, "POST", "/user/emails", `{"email":"y@example.com"}`)
	w.get(201, "POST", ws+"/projects/web/repository/branches", `{"name":"next"}`)
	return &tableWorld{w, strings.NewReplacer("{workspace}", "acme", "{project}", "web", "{pipeline}", w.vars["pipeline"], "{action}", fmt.Sprint(action), "{number}", fmt.Sprint(x),
		"{step}", fmt.Sprint(step), "{member}", fmt.Sprint(member), "{group}", fmt.Sprint(group), "{permission}", fmt.Sprint(set), "{integration}", fmt.Sprint(integration),
		"{variable}", fmt.Sprint(variable), "{environment}", fmt.Sprint(environment), "{id}", fmt.Sprint(token),
		"{path...}", "x", "{ref...}", "next", "{key}", fmt.Sprint(key), "{email}", "y@example.com", "{revision...}", "main", "{webhook}", fmt.Sprint(hook))}
}

// send asks a route with a token; from is the address of the client.
func (w *tableWorld) send(pattern, body, token string) *httptest.ResponseRecorder {
	w.t.Helper()
	method, path, _ := strings.Cut(pattern, " ")
	var q *http.Request
	if body == "" {
		q = httptest.NewRequestWithContext(w.t.Context(), method, w.ids.Replace(path), nil)
	} else {
		q = httptest.NewRequestWithContext(w.t.Context(), method, w.ids.Replace(path), strings.NewReader(body))
		q.Header.Set("Content-Type", "application/json")
	}
	if token != "" {
		q.Header.Set("Authorization", "Bearer "+token)
	}
	rec := httptest.NewRecorder()
	w.h.ServeHTTP(rec, q)
	return rec
}

// TestEveryRouteAsksForItsScope walks the table of routes as a stranger, with
// tokens that may nothing, that have every scope but the one needed, that are of
// another workspace or for another address, and with one that has just what is
// needed.
func TestEveryRouteAsksForItsScope(t *testing.T) {
	t.Parallel()
	w := newTableWorld(t)
	secret := func(n access.NewToken) string {
		t.Helper()
		n.Name = "t"
		_, s, err := w.rooms.Access.CreateToken(t.Context(), w.admin, n)
		w.must(err)
		return s
	}
	if _, err := w.rooms.Projects.CreateWorkspace(t.Context(), w.admin, "other", ""); err != nil {
		t.Fatal(err)
	}
	other, err := w.rooms.Projects.Workspace(t.Context(), access.System(access.User{}), "other")
	w.must(err)
	admin, err := w.rooms.Access.Authenticate(t.Context(), w.token, "")
	w.must(err)
	w.admin = admin // sees the other workspace, too
	powerless, foreign := secret(access.NewToken{}), secret(access.NewToken{Scopes: access.Scopes(), Workspaces: []string{other.ID}})
	elsewhere := secret(access.NewToken{Scopes: access.Scopes(), IPs: []string{"203.0.113.7"}})
	all := rows()
	table := New(site, w.rooms).Table
	for pattern := range all {
		if _, ok := table[pattern]; !ok {
			t.Errorf("%s is no route", pattern)
		}
	}
	for _, last := range []bool{true, false} {
		for pattern := range table {
			r, ok := all[pattern]
			if !ok && last {
				t.Errorf("%s has no row: add one to rows, and its scopes to accepted", pattern)
			}
			if !ok || r.last != last {
				continue
			}
			want := func(what, token string, status int) {
				t.Helper()
				if rec := w.send(pattern, r.body, token); rec.Code != status {
					t.Errorf("%s %s: %d %s, want %d", pattern, what, rec.Code, rec.Body, status)
				}
			}
			need := accepted(pattern)
			want("as a stranger", "", 401)
			want("with a wrong token", "slw_wrong", 401)
			want("from elsewhere", elsewhere, 401)
			if strings.Contains(pattern, "{workspace}") {
				want("from another workspace", foreign, 404)
			}
			if len(need) == 0 {
				want("with nothing", powerless, 200)
				continue
			}
			want("with nothing", powerless, 403)
			var wrong []access.Scope
			for _, s := range access.Scopes() {
				if !s.Includes(need[0]) && (!r.look || strings.HasPrefix(string(s), "USER_") || strings.HasPrefix(string(s), "TOKEN_")) {
					wrong = append(wrong, s)
				}
			}
			want("with every other scope", secret(access.NewToken{Scopes: wrong}), 403)
			if last { // what it ends, the others need
				continue
			}
			right := secret(access.NewToken{Scopes: need[:1]})
			rec := w.send(pattern, r.body, right)
			if rec.Code >= 300 && rec.Code != 400 && rec.Code != r.also {
				t.Errorf("%s with %s: %d %s", pattern, need[0], rec.Code, rec.Body)
			}
			if got := rec.Header().Get("X-Accepted-0Auth-Scopes"); got != string(need[0]) || rec.Header().Get("X-0Auth-Scopes") != string(need[0]) {
				t.Errorf("%s: scopes %q, accepted %q", pattern, rec.Header().Get("X-0Auth-Scopes"), got)
			}
		}
	}
	runs := w.ids.Replace("/workspaces/{workspace}/projects/{project}/pipelines/{pipeline}/executions")
	for _, x := range w.get(200, "GET", runs, "")["executions"].([]any) {
		w.wait(fmt.Sprintf("%s/%v", runs, x.(map[string]any)["id"])) // nothing is deleted under one
	}
	for _, path := range order() {
		pattern := "DELETE " + path
		if rec := w.send(pattern, "", secret(access.NewToken{Scopes: accepted(pattern)})); rec.Code != 204 {
			t.Errorf("%s with %v: %d %s", pattern, accepted(pattern), rec.Code, rec.Body)
		}
	}
}

func TestRateLimit(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := api.NewServer(w.rooms.Access, api.Options{RateLimit: 150})
	s.Mount(New(site, w.rooms))
	w.h = s
	var rec *httptest.ResponseRecorder
	for i := range 400 { // a minute may end in between, once
		rec = w.ask("GET", "/user", "")
		if rec.Code != 200 {
			if i < 150 {
				t.Fatalf("request %d: %d %s", i, rec.Code, rec.Body)
			}
			break
		}
	}
	if rec.Code != http.StatusTooManyRequests || rec.Header().Get("X-Rate-Limit-Remaining") != "0" || rec.Header().Get("X-Rate-Limit-Limit") != "150" {
		t.Errorf("%d %v", rec.Code, rec.Header())
	}
	reset, err := strconv.ParseInt(rec.Header().Get("X-Rate-Limit-Reset"), 10, 64)
	if err != nil || !time.Unix(reset, 0).After(time.Now()) {
		t.Errorf("the reset is not to come: %v", rec.Header())
	}
	// Another token has its own.
	_, w.token, err = w.rooms.Access.CreateToken(t.Context(), w.admin, access.NewToken{Name: "x", Scopes: []access.Scope{access.UserInfo}})
	w.must(err)
	w.get(200, "GET", "/user", "")
}

// Clients ask for page after page until one is empty: there is an end to every
// list.
func TestListsEnd(t *testing.T) {
	t.Parallel()
	w := newTableWorld(t)
	lists := 0
	for pattern := range New(site, w.rooms).Table {
		path, ok := strings.CutPrefix(pattern, "GET ")
		if !ok || strings.HasSuffix(path, "}") || strings.HasSuffix(path, "/contents") || strings.HasSuffix(path, "/logs") {
			continue // one thing, a folder, lines that have offsets
		}
		path = w.ids.Replace(path)
		for name, l := range w.get(200, "GET", path, "") {
			_, plural := l.([]any)
			if !plural || !strings.HasSuffix(pattern, "/"+name) && name != "access_tokens" && name != "permission_sets" {
				continue // it is not what was asked for, but a part of it
			}
			lists++
			if got := w.get(200, "GET", path+"?page=9&per_page=50", "")[name]; len(got.([]any)) != 0 {
				t.Errorf("%s has a ninth page: %v", path, got)
			}
			if got := w.get(200, "GET", path+"?page=1&per_page=1", "")[name]; len(got.([]any)) > 1 {
				t.Errorf("%s has more than one on a page of one: %v", path, got)
			}
		}
	}
	if lists < 19 {
		t.Errorf("only %d lists", lists)
	}
}
