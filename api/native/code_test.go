package native

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"slipway/api"
	"slipway/api/apitest"
	"slipway/api/buddy"
	"slipway/pipeline"
	"slipway/project"
	"slipway/source"
)

func TestMain(m *testing.M) {
	slog.SetDefault(slog.New(slog.DiscardHandler))
	goleak.VerifyTestMain(m)
}

// world is a server with this dialect and one project, acme/web.
type world struct {
	*apitest.Rooms
	pipelines *pipeline.Pipelines
	pr        project.Project
	h         http.Handler
}

const base = Prefix + "/workspaces/acme/projects/web"

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{Rooms: apitest.NewRooms(t, "admin", "acme", source.Config{})}
	w.pipelines = w.Pipelines("https://slipway.test")
	var err error
	w.pr, err = w.Projects.Create(t.Context(), w.Admin, w.Home.ID, project.New{Name: "web"})
	w.Must(err)
	w.Engine.Publish("docker.io/library/busybox:latest", w.Engine.Image("true"))
	s := api.NewServer(w.Access, api.Options{})
	s.Mount((&Handlers{
		Projects: w.Projects, Pipelines: w.pipelines, Reruns: pipeline.NewReruns(w.pipelines, w.Engine), Code: Code{buddy.Name, buddy.ReadYAML, buddy.WriteYAML},
	}).Dialect())
	w.h = s
	return w
}

func (w *world) ask(method, path, body, token string) (int, http.Header, string) {
	w.T.Helper()
	q := httptest.NewRequestWithContext(w.T.Context(), method, path, strings.NewReader(body))
	if token != "" {
		q.Header.Set("Authorization", "Bearer "+token)
	}
	rec := httptest.NewRecorder()
	w.h.ServeHTTP(rec, q)
	return rec.Code, rec.Header(), rec.Body.String()
}

func (w *world) get(status int, method, path, body string) string {
	w.T.Helper()
	code, _, text := w.ask(method, path, body, w.Token)
	if code != status {
		w.T.Fatalf("%s %s: %d %s", method, path, code, text)
	}
	return text
}

const first = `
- pipeline: main
  name: Main
  variables:
  - {key: TOKEN, value: open sesame, encrypted: true}
  actions:
  - {action: Build, type: DOCKER_BUILD_MULTI_ARCH}
  - {action: Try, type: RUN_DOCKER_CONTAINER, docker_image_name: busybox, docker_image_tag: latest, inline_commands: "true",
     variables: [{key: SECRET, value: close sesame, encrypted: true}]}
- pipeline: hooked
  events: [{type: WEBHOOK}]
`

func TestImportAndExport(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	if text := w.get(200, "GET", base+"/pipelines:export", ""); strings.TrimSpace(text) != "[]" {
		t.Errorf("nothing is %q", text)
	}
	stays, err := w.pipelines.Create(t.Context(), w.Admin, w.pr.ID, pipeline.Pipeline{Name: "Stays"})
	w.Must(err)
	load := func(file string) (l []imported) {
		t.Helper()
		var a struct{ Pipelines []imported }
		w.Must(json.Unmarshal([]byte(w.get(200, "POST", base+"/pipelines:import", file)), &a))
		return a.Pipelines
	}
	made := load(first)
	if len(made) != 2 || !made[0].Created || made[0].Identifier != "main" || made[0].Name != "Main" || made[1].Name != "hooked" {
		t.Fatalf("made %+v", made)
	}
	main := made[0].ID
	actions := func() (l []string, ids []pipeline.ActionID) {
		t.Helper()
		all, err := w.pipelines.Actions(t.Context(), w.Admin, main)
		w.Must(err)
		for _, a := range all {
			l, ids = append(l, a.Name), append(ids, a.ID)
		}
		return l, ids
	}
	_, was := actions()
	one := w.get(200, "GET", fmt.Sprintf("%s/pipelines/%d/yaml", base, main), "")
	if strings.Contains(one, "sesame") || strings.Count(one, "'!encrypted'")+strings.Count(one, `"!encrypted"`) != 2 {
		t.Errorf("hidden values: %s", one)
	}
	// The same file again changes nothing, and what is hidden stays.
	if again := load(one); again[0].Created || again[0].ID != main {
		t.Errorf("again %+v", again)
	}
	if _, is := actions(); fmt.Sprint(is) != fmt.Sprint(was) {
		t.Errorf("actions %v, were %v", is, was)
	}
	if text := w.get(200, "GET", fmt.Sprintf("%s/pipelines/%d/yaml", base, main), ""); text != one {
		t.Errorf("now\n%swas\n%s", text, one)
	}
	x, err := w.pipelines.Start(t.Context(), w.Admin, main, pipeline.Start{Only: was[1:]})
	w.Must(err)
	if x, err = w.pipelines.Wait(t.Context(), w.Admin, x.ID); err != nil || x.Status != pipeline.Successful {
		t.Errorf("run: %s %+v %v", x.Status, x.Steps, err)
	}
	// Another order, one more, one less, and a field that is not said any more.
	load("- pipeline: main\n  actions:\n  - {action: New, type: DOCKER_BUILD_MULTI_ARCH}\n" +
		"  - {action: Try, type: RUN_DOCKER_CONTAINER, docker_image_name: busybox, docker_image_tag: latest, inline_commands: 'false'}\n")
	names, is := actions()
	if fmt.Sprint(names) != "[New Try]" || is[1] != was[1] {
		t.Errorf("actions %v %v, were %v", names, is, was)
	}
	if p, err := w.pipelines.Get(t.Context(), w.Admin, main); err != nil || len(p.Variables) != 0 || p.Name != "main" {
		t.Errorf("pipeline %+v %v", p, err)
	}
	if p, err := w.pipelines.Get(t.Context(), w.Admin, stays.ID); err != nil || p.Name != "Stays" {
		t.Errorf("one that is not in the file: %v", err)
	}
	// All of a file, or nothing.
	before := w.get(200, "GET", base+"/pipelines:export", "")
	for file, want := range map[string]string{
		"- pipeline: new\n- pipeline: main\n  actions:\n  - {action: x, type: RUN_DOCKER_CONTAINER}":                                                                                                            `"field":"pipelines.1.actions.0.docker_image_name"`,
		"- pipeline: new\n- pipeline: other\n  variables: [{key: A, value: '!encrypted', encrypted: true}]":                                                                                                     "no earlier value",
		"- pipeline: new\n  actions:\n  - action: x\n    type: DOCKER_BUILD_MULTI_ARCH\n  - action: y\n    type: DOCKER_BUILD_MULTI_ARCH\n    variables:\n    - {key: A, value: '!encrypted', encrypted: true}": `"pipelines.0.actions.1.variables.0.value: line 8: there is no earlier value`,
		"": "must be a list of pipelines",
	} {
		if text := w.get(400, "POST", base+"/pipelines:import", file); !strings.Contains(text, want) {
			t.Errorf("%q: %s", file, text)
		}
	}
	if now := w.get(200, "GET", base+"/pipelines:export", ""); now != before {
		t.Errorf("a bad file changed something:\n%s", now)
	}
	_, h, _ := w.ask("POST", base+"/pipelines:import", "- {pipeline: main, colour: red}", w.Token)
	if h.Get(api.IgnoredHeader) != "pipelines.0.colour" {
		t.Errorf("ignored %q", h.Get(api.IgnoredHeader))
	}
	w.get(404, "GET", base+"/pipelines/x/yaml", "")
	w.get(404, "GET", base+"/pipelines/999/yaml", "")
	w.get(404, "POST", Prefix+"/workspaces/acme/projects/none/pipelines:import", first)
}

func TestHooks(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.get(200, "POST", base+"/pipelines:import", first)
	var a struct{ Hooks []hook }
	w.Must(json.Unmarshal([]byte(w.get(200, "GET", base+"/hooks", "")), &a))
	if len(a.Hooks) != 1 || a.Hooks[0].Source != "PIPELINE" || a.Hooks[0].Name != "hooked" || a.Hooks[0].Secret != nil {
		t.Fatalf("hooks %+v", a.Hooks)
	}
	path, ok := strings.CutPrefix(a.Hooks[0].URL, "https://slipway.test")
	if !ok {
		t.Fatal(a.Hooks[0].URL)
	}
	code, _, text := w.ask("POST", path, `{"anything":"at all"}`, "")
	if want := fmt.Sprintf(`{"execution":1,"pipeline":%d,"status":"ENQUEUED"}`, a.Hooks[0].Pipeline); code != http.StatusAccepted || strings.TrimSpace(text) != want {
		t.Errorf("%d %s, want %s", code, text, want)
	}
	if code, _, text := w.ask("POST", path+"x", "", ""); code != http.StatusNotFound || !strings.Contains(text, `"errors"`) {
		t.Errorf("an unknown code: %d %s", code, text)
	}
	if code, _, _ := w.ask("GET", base+"/hooks", "", ""); code != http.StatusUnauthorized {
		t.Errorf("a stranger: %d", code)
	}
}
