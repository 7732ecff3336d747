package buddy

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"slipway/access"
	"slipway/api"
	"slipway/api/apitest"
	"slipway/db"
	"slipway/engine/fake"
	"slipway/pipeline"
	"slipway/project"
	"slipway/source"
)

func TestMain(m *testing.M) {
	slog.SetDefault(slog.New(slog.DiscardHandler))
	goleak.VerifyTestMain(m)
}

// site is what a server answers with, under this public URL.
const site = "https://slipway.test"

// world is a server with this dialect, real rooms and a fake engine.
type world struct {
	t     testing.TB
	eng   *fake.Engine
	db    *db.DB
	rooms Rooms
	admin access.Actor
	home  project.Workspace
	token string
	h     http.Handler
	vars  map[string]string // captured by exchanges
	dir   string            // of the store and all else
}

func newWorld(t testing.TB) *world {
	t.Helper()
	return newWorldWith(t, source.Config{})
}

func newWorldWith(t testing.TB, cfg source.Config) *world {
	t.Helper()
	r := apitest.NewRooms(t, "admin", "acme", cfg)
	w := &world{t: t, eng: r.Engine, db: r.DB, admin: r.Admin, home: r.Home, token: r.Token, vars: map[string]string{}, dir: r.Dir}
	w.eng.Publish("docker.io/library/ubuntu:latest", w.eng.Image("true"))
	r.Language = pipeline.Language{Dialect: Name, Read: ReadDefinition}
	w.rooms = Rooms{Access: r.Access, Projects: r.Projects, Secrets: r.Secrets, Sources: r.Sources, Pipelines: r.Pipelines(site)}
	w.rooms.Files = r.Files(w.rooms.Pipelines)
	w.rooms.Hooks = r.Hooks(Payload(site+"/", w.rooms))
	s := api.NewServer(r.Access, api.Options{})
	s.Mount(New(site+"/", w.rooms))
	oauth := OAuth(r.Access, s.ClientIP, s.Handler(Name))
	s.MountRaw(OAuthPrefix, oauth)
	s.MountRaw("/api"+OAuthPrefix, oauth)
	w.h = s
	return w
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// ask sends a request with the admin's token and gives the answer.
func (w *world) ask(method, path, body string) *httptest.ResponseRecorder {
	w.t.Helper()
	var r io.Reader
	if body != "" {
		r = strings.NewReader(body)
	}
	q := httptest.NewRequestWithContext(w.t.Context(), method, path, r)
	if body != "" {
		q.Header.Set("Content-Type", "application/json")
	}
	if w.token != "" {
		q.Header.Set("Authorization", "Bearer "+w.token)
	}
	rec := httptest.NewRecorder()
	w.h.ServeHTTP(rec, q)
	return rec
}

// get asks and decodes, and fails unless the status is the one wanted.
func (w *world) get(status int, method, path, body string) map[string]any {
	w.t.Helper()
	rec := w.ask(method, path, body)
	if rec.Code != status {
		w.t.Fatalf("%s %s: %d %s", method, path, rec.Code, rec.Body)
	}
	var m map[string]any
	if rec.Body.Len() > 0 {
		w.must(json.Unmarshal(rec.Body.Bytes(), &m))
	}
	return m
}

// project makes acme/name with a commit of files ("path", "text", ...), and a
// pipeline in it; it gives the path of the pipeline.
func (w *world) project(name string, files ...string) string {
	w.t.Helper()
	p, err := w.rooms.Projects.Create(w.t.Context(), w.admin, w.home.ID, project.New{Name: name})
	w.must(err)
	for i := 0; i < len(files); i += 2 {
		_, err := w.rooms.Sources.Write(w.t.Context(), w.admin, p.ID, "main", files[i], []byte(files[i+1]), "write "+files[i])
		w.must(err)
	}
	pl := w.get(http.StatusCreated, "POST", "/workspaces/acme/projects/"+name+"/pipelines", `{"name":"Live mirror"}`)
	w.vars["pipeline"] = fmt.Sprint(pl["id"])
	return fmt.Sprintf("/workspaces/acme/projects/%s/pipelines/%v", name, pl["id"])
}

// wait waits for the end of an execution.
func (w *world) wait(path string) map[string]any {
	w.t.Helper()
	return apitest.Until(w.t, path+" ends", func() (map[string]any, bool) {
		x := w.get(http.StatusOK, "GET", path, "")
		return x, pipeline.Status(x["status"].(string)).Ended()
	})
}

// lacks tells what of the wanted members is not in an answer.
func (w *world) lacks(what string, want, got any) error {
	return (&apitest.Replay{Vars: w.vars, Open: true}).Match(what, want, got)
}

// Whatever an action was made with comes back, in both views and after a PATCH
// that changes nothing.
func TestEveryFieldComesBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	path := w.project("web") + "/actions"
	values := map[string]string{
		"name": `"x"`, "trigger_time": `"ON_FAILURE"`, "run_next": `"IN_SOFT_PARALLEL"`, "run_only_on_first_failure": `true`,
		"wait_for_approval": `true`, "wait_for_variables": `["VERSION","TOKEN"]`,
		"disabled": `true`, "ignore_errors": `true`, "timeout": `60`, "retry_count": `2`, "retry_interval": `5`, "loop": `["A","B"]`,
		"permissions":        `{"others":"READ_ONLY","users":[{"id":1,"access_level":"READ_WRITE"}],"groups":[]}`,
		"variables":          `[{"key":"K","value":"v","type":"VAR","description":null,"encrypted":false,"settable":false,"run_only_settable":false}]`,
		"trigger_conditions": `[{"trigger_condition":"ON_CHANGE_AT_PATH","trigger_condition_paths":["/a"],"trigger_variable_key":"","trigger_variable_value":"","trigger_hours":[],"trigger_days":[],"timezone":"","zone_id":"","trigger_project_name":"","trigger_pipeline_name":"","trigger_user":"","trigger_group":""}]`,
		"docker_image_name":  `"library/ubuntu"`, "docker_image_tag": `"latest"`, "inline_commands": `"a\nb"`, "entrypoint": `"sh -c"`,
		"run_as_user": `"$u"`, "mount_filesystem_disable": `true`, "volume_mappings": `["/:/x","a:/b"]`, "export_container_path": `"/e"`,
		"dockerfile_path": `"d/Dockerfile"`, "context_path": `"/d"`, "target_stage": `"s"`, "target_platform": `"linux/amd64,linux/arm64"`,
		"build_args": `["A=b"]`, "secrets": `[{"id":"s","value":"p","type":"ENV"}]`, "buildkit": `false`, "pull": `true`,
		"do_not_prune_images": `true`, "provenance": `"MIN"`, "cache_mode": `"MAX"`, "repository": `"Repo"`, "versions": `["1","2"]`,
		"package": `"pkg"`, "target_path": `"/t"`, "docker_registry": `"OTHER"`, "registry": `"r.example.com"`, "login": `"l"`,
		"password": `"secret-password"`, "insecure_registry": `true`, "region": `"eu-west-1"`, "integration": `{"hash_id":"5ddb7c18"}`,
		"image_location": `"ACTION"`, "use_image_from_action": `true`, "docker_build_action_id": `7`, "docker_build_action_name": `"b"`,
	}
	for typ, kind := range map[string]byte{typeRun: kindRun, typeBuild: kindBuild, typeMulti: kindMulti} {
		in := map[string]json.RawMessage{"type": json.RawMessage(strconv.Quote(typ))}
		for _, f := range actionFields() {
			v, ok := values[f.name]
			if !ok {
				t.Errorf("no value for %s", f.name)
			}
			if f.has(kind) {
				in[f.name] = json.RawMessage(v)
			}
		}
		body, _ := json.Marshal(in)
		rec := w.ask("POST", path, string(body))
		if rec.Code != http.StatusCreated || rec.Header().Get(api.IgnoredHeader) != "" {
			t.Fatalf("%s: %d %s %s", typ, rec.Code, rec.Header().Get(api.IgnoredHeader), rec.Body)
		}
		var made map[string]any
		w.must(json.Unmarshal(rec.Body.Bytes(), &made))
		in["password"] = json.RawMessage(`"!encrypted"`)
		var want any
		body, _ = json.Marshal(in)
		w.must(json.Unmarshal(body, &want))
		one := fmt.Sprintf("%s/%v", path, made["id"])
		delete(made, "pipeline")
		sent, _ := json.Marshal(made)
		for what, got := range map[string]any{
			"POST": made, "GET": w.get(200, "GET", one, ""), "PATCH": w.get(200, "PATCH", one, string(sent)), "GET again": w.get(200, "GET", one, ""),
		} {
			if err := w.lacks(typ+" "+what, want, got); err != nil {
				t.Error(err)
			}
		}
		// Null clears what may be without a value, and nothing else.
		for name := range in {
			w.ask("PATCH", one, fmt.Sprintf(`{"run_only_on_first_failure":null,%q:null}`, name))
		}
		w.get(204, "DELETE", one, "")
		w.get(404, "GET", one, "")
	}
}

// Values that say nothing come back as they were given.
func TestEmptyValuesComeBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	path := w.project("web") + "/actions"
	for _, c := range []string{
		`{"type":"RUN_DOCKER_CONTAINER","docker_image_name":"","docker_image_tag":"","use_image_from_action":true,"docker_build_action_id":0,"inline_commands":"","volume_mappings":[],"timeout":0}`,
		`{"type":"RUN_DOCKER_CONTAINER","docker_image_name":null,"use_image_from_action":true,"inline_commands":"x","volume_mappings":"/:/buddy/x","run_as_user":""}`,
		`{"type":"DOCKER_BUILD_MULTI_ARCH","dockerfile_path":"","versions":[],"build_args":[],"secrets":[],"pull":false,"repository":""}`,
		`{"type":"DOCKERFILE","dockerfile_path":"Dockerfile","secrets":[{"secret_id":"a","secret_src":"b"}],"integration":{"id":12},"buildkit":true}`,
		`{"type":"DOCKERFILE","dockerfile_path":"Dockerfile","integration":{"identifier":"x"},"docker_registry":"GIT_HUB_CONTAINER_REGISTRY"}`,
	} {
		c = strings.Replace(c, `"type"`, `"name":"n","type"`, 1)
		made := w.get(201, "POST", path, c)
		var want any
		w.must(json.Unmarshal([]byte(c), &want))
		for _, got := range []any{made, w.get(200, "GET", fmt.Sprintf("%s/%v", path, made["id"]), "")} {
			if err := w.lacks("action", want, got); err != nil {
				t.Errorf("%v in %s", err, c)
			}
		}
	}
}

func TestBadInput(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.project("web")
	a := fmt.Sprintf("%s/actions/%v", p, w.get(201, "POST", p+"/actions", `{"name":"b","type":"DOCKERFILE","dockerfile_path":"Dockerfile","disabled":true}`)["id"])
	x := fmt.Sprintf("%s/executions/%v", p, w.get(201, "POST", p+"/executions", "")["id"])
	w.wait(x)
	const v = "/workspaces/acme/variables"
	for _, c := range []struct {
		method, path, body string
		status             int
		want               string // words of the messages
	}{
		{"POST", p + "/actions", `{`, 400, "no JSON"},
		{"POST", p + "/actions", ``, 400, "empty"},
		{"POST", p + "/actions", `[]`, 400, "object"},
		{"POST", p + "/actions", `{}`, 400, "type: is required|name: is required"},
		{"POST", p + "/actions", `{"type":"NPM","name":"x"}`, 400, "type: must be one of"},
		{"POST", p + "/actions", `{"type":5,"name":"x"}`, 400, "type: must be a string"},
		{
			"POST", p + "/actions", `{"type":"NPM","name":1,"timeout":-1,"retry_count":"x","docker_registry":"QUAY","variables":[{}],"dockerfile_path":5,"after_action_id":"x"}`,
			400, "type: must be one of|name: must be a string|retry_count: must be an integer|after_action_id: must be an integer|timeout: must not be negative|variables.0.key: is required|docker_registry: must be one of",
		},
		{"POST", p + "/actions", `{"type":"RUN_DOCKER_CONTAINER"}`, 400, "inline_commands: is required|name: is required|docker_image_name: is required|docker_image_tag: is required"},
		{
			"POST", p + "/actions", `{"type":"DOCKERFILE","name":1,"dockerfile_path":[],"build_args":"x","buildkit":"yes","timeout":1.5,"retry_count":"1","variables":[{"key":2}],"secrets":[3]}`,
			400, "name: must be a string|timeout: must be an integer|retry_count: must be an integer|variables.0.key: must be a string|dockerfile_path: must be a string|build_args: must be a list|secrets.0: must be an object|buildkit: must be true or false",
		},
		{
			"POST", p + "/actions", `{"type":"DOCKERFILE","name":"x","dockerfile_path":"D","trigger_time":"NEVER","docker_registry":"QUAY","provenance":"ALL","cache_mode":"X","after_action_id":99}`,
			400, "trigger_time: must be one of|docker_registry: must be one of|provenance: must be one of|cache_mode: must be one of",
		},
		{"POST", p + "/actions", `{"type":"DOCKERFILE","name":"x","dockerfile_path":"D","after_action_id":99}`, 400, "after_action_id: there is no action 99"},
		{"PATCH", a, `{"type":"DOCKER_BUILD_MULTI_ARCH"}`, 400, "type: cannot be changed"},
		{"PATCH", a, `{"dockerfile_path":null}`, 400, "dockerfile_path: is required"},
		{"PATCH", a, `{"password":"x"}`, 400, "login: is required"},
		{"PATCH", a, `{"login":"x","password":"!encrypted"}`, 400, "no earlier password"},
		{"PATCH", p + "/actions/999", `{}`, 404, ""},
		{"PATCH", p + "/actions/x", `{}`, 404, ""},
		{
			"POST", "/workspaces/acme/projects/web/pipelines", `{"name":" ","priority":"URGENT","clone_depth":-1,"events":[{"type":"NEVER"},{"type":"EMAIL","prefix":"x"}],"refs":"x"}`,
			400, "name: is required|priority: must be one of|clone_depth: must not be negative|events.0.type: must be one of|events.1.type: EMAIL is not supported|refs: must be a list",
		},
		{"POST", "/workspaces/acme/projects/web/pipelines", `{"name":"other","identifier":"live-mirror"}`, 400, "identifier: is taken"},
		{
			"POST", p + "/executions", `{"to_revision":"HEAD","branch":{"name":1},"actions_to_run":["a"],"delay_until":"tomorrow","environment":7}`,
			400, "to_revision: must be an object|branch.name: must be a string|actions_to_run.0: must be an integer|delay_until: must be a time|environment: must be an object",
		},
		{"POST", p + "/executions", `{"branch":{"name":"main"}}`, 400, "no commit yet"},
		{"PATCH", x, `{}`, 400, "operation: is required"},
		{"PATCH", x, `{"operation":"STOP"}`, 400, "operation: must be one of"},
		{"PATCH", x, `{"operation":"CANCEL"}`, 400, "cannot be cancelled"},
		{"PATCH", x, `{"operation":"RETRY"}`, 400, "cannot be retried"},
		{"PATCH", x, `{"operation":"APPLY"}`, 400, "waits to be approved"},
		{"PATCH", x, `{"operation":"RUN_DELAYED"}`, 400, "does not wait for its time"},
		{
			"POST", p + "/actions", `{"type":"DOCKERFILE","name":"x","dockerfile_path":"D","trigger_conditions":[{"trigger_condition":"ON_CHANGE_AT_PATH"},{"trigger_condition":"DATETIME","trigger_hours":[1],"timezone":"Mars/Olympus"}]}`,
			400, "trigger_conditions.0.trigger_condition_paths: is required|trigger_conditions.1.timezone: there is no time zone",
		},
		{"GET", p + "/executions/99", ``, 404, "does not exist"},
		{"GET", x + "/action_executions/0123456789abcdef01234567", ``, 404, "does not exist"},
		{"GET", p + "/executions?page=0&per_page=x&sort_by=age&sort_direction=UP", ``, 400, "page: must be at least 1|per_page: must be a whole number|sort_by: must be one of|sort_direction: must be one of"},
		{"GET", "/workspaces/other", ``, 404, ""},
		{"GET", "/workspaces/acme/projects/none/pipelines", ``, 404, ""},
		{"GET", "/workspaces/acme/variables2", ``, 404, ""},
		{"POST", v, `{}`, 400, "key: must not be empty"},
		{
			"POST", v, `{"key":"1","value":5,"type":"IOS_KEYCHAIN","encrypted":"x","init_path":"p","defaults":"a,b","password":"x","passphrase":"x","key_identifier":"x","file_chmod":"9"}`,
			400, "value: must be a string|encrypted: must be true or false|init_path: is not supported|defaults: is not supported|password: is not supported|passphrase: is not supported|key_identifier: is not supported|key: must be letters|type: is not supported|file_chmod: must be octal",
		},
		{"POST", v, `{"key":"A","type":"FILE","settable":true}`, 400, "settable: goes with type VAR|file_place: must be CONTAINER"},
		{"POST", v, `{"key":"A","project":{"name":"none"}}`, 400, "project.name: does not exist"},
		{"POST", v, `{"key":"A","project":{}}`, 400, "project.name: must say which one"},
		{"POST", v, `{"key":"A","pipeline":{"id":999}}`, 400, "pipeline.id: does not exist"},
		{"POST", v, `{"key":"A","pipeline":{"id":"x"}}`, 400, "pipeline.id: must be an integer"},
		{"POST", v, `{"key":"A","action":{"id":999}}`, 400, "action.id: does not exist"},
		{"POST", v, `{"key":"A","environment":{"id":"none"}}`, 400, "environment.id: does not exist"},
		{"POST", v, `{"key":"A","project":{"name":"web"},"environment":{"id":"none"}}`, 400, "scope: a variable is of one"},
		{"POST", v, `{"key":"A","encrypted":true,"value":"!encrypted"}`, 400, "value: there is no value yet"},
		{"POST", v, `{"key":"id_workspace"}`, 400, "id_workspace"},
		{"POST", v, `{"key":"A","value":"` + strings.Repeat("x", 1<<20+1) + `","type":"FILE","file_place":"NONE","description":"` + strings.Repeat("x", 4097) + `"}`, 400, "value: must be at most 1048576 bytes|description: must be at most 4096"},
		{"GET", v + "?projectName=none", ``, 404, ""},
		{"GET", v + "?pipelineId=x", ``, 400, "pipelineId: must be a number"},
		{"GET", v + "?actionId=999", ``, 404, ""},
		{"GET", v + "?environment_id=none", ``, 404, ""},
		{"GET", v + "/999", ``, 404, ""},
		{"PATCH", v + "/x", `{}`, 404, ""},
		{"DELETE", v + "/999", ``, 404, ""},
		{"POST", "/workspaces/acme/environments", `{"name":5,"identifier":"a b","scope":"ALL","project":{"name":"none"}}`, 400, "name: must be a string|identifier: must be letters|scope: must be one of|project.name: does not exist"},
		{"POST", "/workspaces/acme/environments", `{"name":"x","scope":"PROJECT"}`, 400, "project.name: must say which one"},
		{"GET", "/workspaces/acme/environments/none", ``, 404, ""},
		{
			"POST", p + "/actions", `{"type":"DOCKERFILE","name":"x","dockerfile_path":"D","variables":[{"key":"A","passphrase":"x","type":"GPG_KEY","file_place":"NONE"},{"key":"B","type":"IOS_KEYCHAIN"}]}`,
			400, "variables.0.passphrase: is not supported|variables.1.type: is not supported",
		},
		{"POST", "/workspaces", `{}`, 400, "domain: is required"},
		{"POST", "/workspaces", `{"domain":"acme"}`, 400, "taken"},
		{"POST", "/workspaces/acme/projects", `{"name":"web"}`, 400, `"project web: the name is taken"`},
		{"POST", "/workspaces/acme/projects", `{"name":""}`, 400, `"name: must not be empty"`},
		{"POST", "/workspaces/acme/projects", `{}`, 400, `"display_name: must not be empty"`},
		{"GET", "/workspaces/acme/nothing", ``, 404, `"nothing is served at /workspaces/acme/nothing"`},
		{
			"POST", "/workspaces/acme/projects", `{"display_name":5,"access":"OPEN","external_project_id":"x","fetch_submodules":"y"}`,
			400, "display_name: must be a string|access: must be one of|external_project_id: is not supported|fetch_submodules: must be true or false",
		},
		{"GET", "/workspaces/acme/projects?status=GONE", ``, 400, "status: must be one of"},
		{
			"POST", "/user/tokens", `{"scopes":["NO"],"workspace_restrictions":["no"],"ip_restrictions":["x"],"expires_at":"tomorrow"}`,
			400, "workspace_restrictions: there is no workspace|expires_at: must be a time|name: must not be empty|scopes.0|ip_restrictions.0",
		},
	} {
		rec := w.ask(c.method, c.path, c.body)
		if rec.Code != c.status {
			t.Errorf("%s %s %s: %d %s", c.method, c.path, c.body, rec.Code, rec.Body)
			continue
		}
		var m struct{ Errors []struct{ Message string } }
		if err := json.Unmarshal(rec.Body.Bytes(), &m); err != nil || len(m.Errors) == 0 {
			t.Errorf("%s %s: %s", c.method, c.path, rec.Body)
			continue
		}
		for _, want := range strings.Split(c.want, "|") {
			if !strings.Contains(rec.Body.String(), want) {
				t.Errorf("%s %s %s: no %q in %s", c.method, c.path, c.body, want, rec.Body)
			}
		}
		if n := len(strings.Split(c.want, "|")); c.want != "" && len(m.Errors) != n {
			t.Errorf("%s %s %s: %d messages, want %d: %s", c.method, c.path, c.body, len(m.Errors), n, rec.Body)
		}
	}
	w.token = ""
	if rec := w.ask("GET", "/user", ""); rec.Code != http.StatusUnauthorized {
		t.Errorf("a stranger: %d %s", rec.Code, rec.Body)
	}
}

// A password is in no answer, no row in the clear and no error.
func TestPasswordStays(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.project("web")
	made := w.get(201, "POST", p+"/actions", `{"name":"r","type":"RUN_DOCKER_CONTAINER","docker_image_name":"x","docker_image_tag":"1","inline_commands":"true",
		"docker_registry":"OTHER","registry":"r.example.com","login":"l","password":"open-sesame","variables":[{"key":"K","value":"close-sesame","encrypted":true}]}`)
	one := fmt.Sprintf("%s/actions/%v", p, made["id"])
	w.get(200, "PATCH", one, `{"password":"!encrypted","variables":[{"key":"K","value":"!encrypted","encrypted":true}]}`)
	w.get(200, "PATCH", one, `{"name":"renamed"}`)
	x := w.get(201, "POST", p+"/executions", `{}`)
	w.wait(fmt.Sprintf("%s/executions/%v", p, x["id"]))
	for _, path := range []string{one, p + "/actions", p, fmt.Sprintf("%s/executions/%v", p, x["id"])} {
		if rec := w.ask("GET", path, ""); strings.Contains(rec.Body.String(), "sesame") {
			t.Errorf("%s: %s", path, rec.Body)
		}
	}
}

func FuzzAction(f *testing.F) {
	f.Add(`{"name":"x","timeout":1,"variables":[{"key":"a"}]}`)
	f.Add(`{"volume_mappings":"/:/x","secrets":[{"secret_id":"a"}],"integration":{"id":"5"}}`)
	f.Fuzz(func(_ *testing.T, s string) {
		for _, typ := range []string{typeRun, typeBuild, typeMulti} {
			var b body
			if json.Unmarshal([]byte(s), &b) != nil {
				return
			}
			a, _ := newAction(typ)
			d := &decoder{}
			if _, err := readAction(d, b, &a, kindOf(&a)); err != nil {
				continue
			}
			_ = d.checked(a.Validate)
			if _, err := json.Marshal((&handlers{}).fromAction(place{}, &a)); err != nil {
				panic(err)
			}
		}
	})
}
