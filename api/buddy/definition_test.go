package buddy

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"slipway/db"
	"slipway/project"
	"slipway/source"
)

const run = `
      type: RUN_DOCKER_CONTAINER
      docker_image_name: ubuntu
      docker_image_tag: latest
      inline_commands: `

// put commits a file to a project of acme.
func (w *world) put(name, branch, path, text string) {
	w.t.Helper()
	pr, err := w.rooms.Projects.Find(w.t.Context(), w.admin, "acme", name)
	w.must(err)
	_, err = w.rooms.Sources.Write(w.t.Context(), w.admin, pr.ID, branch, path, []byte(text), "write "+path)
	w.must(err)
}

// ran starts a pipeline, waits for the end and gives what became of its actions:
// "name status", the last one with the error of the execution.
func (w *world) ran(path, body string) (x map[string]any, words string) {
	w.t.Helper()
	x = w.get(201, "POST", path+"/executions", body)
	x = w.wait(fmt.Sprintf("%s/executions/%v", path, x["id"]))
	return x, told(x)
}

func told(x map[string]any) string {
	l := []string{x["status"].(string)}
	for _, s := range x["action_executions"].([]any) {
		a := s.(map[string]any)["action"].(map[string]any)
		l = append(l, fmt.Sprintf("%v %v", a["name"], s.(map[string]any)["status"]))
	}
	return strings.Join(l, ", ")
}

// ids gives the actions of a pipeline: "name id".
func (w *world) ids(path string) (l []string) {
	w.t.Helper()
	for _, a := range w.get(200, "GET", path+"/actions", "")["actions"].([]any) {
		l = append(l, fmt.Sprintf("%v %v", a.(map[string]any)["name"], a.(map[string]any)["id"]))
	}
	return l
}

// log gives the log of an action of an execution.
func (w *world) log(path string, x map[string]any, step int) string {
	w.t.Helper()
	s := x["action_executions"].([]any)[step].(map[string]any)["action_execution_id"]
	return fmt.Sprint(w.get(200, "GET", fmt.Sprintf("%s/executions/%v/action_executions/%v/logs", path, x["id"], s), "")["logs"])
}

func (w *world) refused(path, body string, want ...string) {
	w.t.Helper()
	rec := w.ask("POST", path+"/executions", body)
	for _, part := range want {
		if rec.Code != 400 || !strings.Contains(rec.Body.String(), part) {
			w.t.Errorf("%d %s, which is to be 400 and say %q", rec.Code, rec.Body, part)
		}
	}
}

// The actions are those of the file on a branch, read anew for each run.
func TestFixedDefinition(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	path := w.project("web", "README", "x")
	w.project("defs", "README", "x")
	fixed := `{"git_config_ref":"FIXED","git_config":{"project":"defs","branch":"main","path":"ci/web.yml"}}`
	w.get(201, "POST", path+"/actions", `{"name":"Old","type":"RUN_DOCKER_CONTAINER","docker_image_name":"ubuntu","docker_image_tag":"latest","inline_commands":"true"}`)
	w.get(200, "PATCH", path, fixed)
	w.refused(path, "", "git_config: there is no file ci/web.yml at main (commit ", "of project defs")
	w.put("defs", "main", "ci/web.yml", "- pipeline: other\n  actions: 3\n- pipeline: live-mirror\n  actions:\n    - action: A\n      type: RUN_DOCKER_CONTAINER\n      inline_commands: 5\n      docker_image_name: [x]\n")
	w.refused(path, "", "git_config: ci/web.yml at main (commit ", "pipelines.1.actions.0.inline_commands: line 7: must be a string", "pipelines.1.actions.0.docker_image_name: line 8:")
	w.put("defs", "main", "ci/web.yml", "- pipeline: live-mirror\n  priority: HIGH\n  refs: [refs/heads/dev]\n  later: 1\n  variables: [{key: V, value: w}]\n  actions:\n    - action: One"+run+"\"true\"\n    - action: Two"+run+"\"true\"\n")
	x, words := w.ran(path, "")
	if words != "SUCCESSFUL, One SUCCESSFUL, Two SUCCESSFUL" || x["priority"] != "HIGH" {
		t.Fatal(words, x["priority"])
	}
	for _, part := range []string{
		"Note: the actions are those of ci/web.yml at main", "pipelines.0.later is not known here",
		"variables (without manage_variables_by_yaml) have no effect in a file",
	} {
		if log := w.log(path, x, 0); !strings.Contains(log, part) {
			t.Errorf("the log does not say %q:\n%s", part, log)
		}
	}
	first := w.ids(path)
	w.put("defs", "main", "ci/web.yml", "- pipeline: live-mirror\n  actions:\n    - action: Three"+run+"\"true\"\n    - action: Two"+run+"\"false\"\n")
	w.ran(path, "")
	if l := w.ids(path); len(l) != 2 || l[1] != first[1] {
		t.Errorf("%v after %v", l, first)
	}
	w.put("defs", "main", "ci/web.yml", "- pipeline: live-mirror\n  actions:\n    - action: One"+run+"\"true\"\n    - action: Two"+run+"\"true\"\n")
	w.ran(path, "")
	if l := w.ids(path); fmt.Sprint(l) != fmt.Sprint(first) {
		t.Errorf("%v after %v", l, first)
	}
	if x = w.get(200, "GET", path, ""); x["priority"] != "NORMAL" || len(x["actions"].([]any)) != 2 {
		t.Errorf("the pipeline has become %v", x)
	}
	one := path + "/actions/" + strings.Fields(first[0])[1]
	for _, c := range [][2]string{{"POST", path + "/actions"}, {"PATCH", one}, {"DELETE", one}} {
		body := `{"name":"New","type":"RUN_DOCKER_CONTAINER","docker_image_name":"ubuntu","docker_image_tag":"latest","inline_commands":"true"}`
		if rec := w.ask(c[0], c[1], body); rec.Code != 400 || !strings.Contains(rec.Body.String(), "git_config_ref: the actions of this pipeline are those of ci/web.yml") {
			t.Errorf("%s: %d %s", c[0], rec.Code, rec.Body)
		}
	}
	w.get(200, "PATCH", path, `{"git_config_ref":"NONE"}`)
	w.get(200, "PATCH", one, `{"name":"Uno"}`)
}

// A file is that of the commit of the run; a run that a push starts fails with what
// is wrong with it.
func TestDynamicDefinition(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	path := w.project("web", "buddy.yml", "- pipeline: \"Live mirror\"\n  actions:\n    - action: Main"+run+"\"true\"\n")
	w.get(200, "PATCH", path, `{"git_config_ref":"DYNAMIC","events":[{"type":"PUSH","refs":["refs/heads/*"]}]}`)
	_, words := w.ran(path, "")
	first := w.ids(path)
	if words != "SUCCESSFUL, Main SUCCESSFUL" {
		t.Fatal(words)
	}
	w.put("web", "dev", ".buddy/live-mirror.yml", "- pipeline: live-mirror\n  no_skip_to_most_recent: true\n  actions:\n    - action: Dev"+run+"\"true\"\n")
	if _, words = w.ran(path, `{"branch":{"name":"dev"}}`); words != "SUCCESSFUL, Dev SUCCESSFUL" {
		t.Error(words)
	}
	if x, words := w.ran(path, `{"branch":{"name":"main"}}`); words != "SUCCESSFUL, Main SUCCESSFUL" || fmt.Sprint(w.ids(path)) != fmt.Sprint(first) {
		t.Error(words, w.ids(path), x["error_message"])
	}
	if rec := w.ask("PATCH", path, `{"git_config_ref":"DYNAMIC","git_config":{"path":"x"}}`); rec.Code != 400 {
		t.Errorf("a file that is not looked at: %d %s", rec.Code, rec.Body)
	}
	pr, err := w.rooms.Projects.Find(t.Context(), w.admin, "acme", "web")
	w.must(err)
	w.put("web", "main", "buddy.yml", "- pipeline: live-mirror\n  actions:\n    - action: Main\n      type: BUILD\n")
	x := w.pushed(pr, path)
	if told(x) != "FAILED, Main FAILED" || !strings.Contains(fmt.Sprint(x["error_message"]), "git_config_ref: buddy.yml at commit ") ||
		!strings.Contains(fmt.Sprint(x["error_message"]), "pipelines.0.actions.0.type: line 4: must be one of") {
		t.Error(told(x), x["error_message"])
	}
	w.put("web", "main", "buddy.yml", "- pipeline: live-mirror\n  actions:\n    - action: Late"+run+"\"true\"\n")
	if x = w.pushed(pr, path); told(x) != "SUCCESSFUL, Late SUCCESSFUL" {
		t.Error(told(x), x["error_message"])
	}
}

// pushed starts what the last push to main asks for, and waits for its end.
func (w *world) pushed(pr project.Project, path string) map[string]any {
	w.t.Helper()
	c, err := w.rooms.Sources.Resolve(w.t.Context(), pr.ID, "main", "HEAD")
	w.must(err)
	executions := func() []any { return w.get(200, "GET", path+"/executions", "")["executions"].([]any) }
	before := len(executions())
	w.must(w.db.Write(w.t.Context(), func(tx *db.Tx) error {
		_, err := w.rooms.Pipelines.Triggered(tx, pr.ID, source.Push{Ref: "refs/heads/main", Old: c.Revision, New: c.Revision, User: w.admin.User.ID})
		return err
	}))
	for end := time.Now().Add(20 * time.Second); len(executions()) == before; time.Sleep(time.Millisecond) { // the file is read first
		if time.Now().After(end) {
			w.t.Fatal("the push starts nothing")
		}
	}
	return w.wait(fmt.Sprintf("%s/executions/%v", path, executions()[0].(map[string]any)["id"]))
}

// The actions are those of a template in a project that who says so may read, with
// values for its parameters.
func TestRemoteDefinition(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	path := w.project("web", "README", "x")
	w.project("templates", "t1.yml", "- pipeline: \"template\"\n  execution_message_template: \"!{title:untitled}\"\n  actions:\n    - action: \"!first\"\n      type: RUN_DOCKER_CONTAINER\n      docker_image_name: !{image:ubuntu}\n      docker_image_tag: latest\n      inline_commands: \"true !important\"\n!more\n")
	remote := `{"definition_source":"REMOTE","remote_project_name":"templates","remote_path":"/t1.yml","remote_branch":"main","remote_parameters":[%s]}`
	w.get(200, "PATCH", path, fmt.Sprintf(remote, `{"key":"first","value":"One"},{"key":"more","value":"    - action: Two`+strings.ReplaceAll(strings.ReplaceAll(run, "\n", `\n`), `"`, `\"`)+`\"true\"\n"},{"key":"idle","value":"x"}`))
	x, words := w.ran(path, "")
	if words != "SUCCESSFUL, One SUCCESSFUL, Two SUCCESSFUL" || x["message"] != "untitled" {
		t.Error(words, x["message"])
	}
	if log := w.log(path, x, 0); !strings.Contains(log, "remote_parameters idle is not known here") {
		t.Error(log)
	}
	w.put("templates", "main", "t1.yml", "- pipeline: t\n  actions:\n    - action: !{first}\n")
	w.get(200, "PATCH", path, fmt.Sprintf(remote, ``))
	w.refused(path, "", "remote_path: t1.yml at main (commit ", "of project templates", "line 3: the parameter first has no value")
	if rec := w.ask("POST", path+"/actions", `{"name":"x","type":"DOCKERFILE","dockerfile_path":"x"}`); rec.Code != 400 || !strings.Contains(rec.Body.String(), "definition_source: ") {
		t.Errorf("an action: %d %s", rec.Code, rec.Body)
	}
	for body, want := range map[string]string{
		`{"remote_project_name":"none"}`:                                          "remote_project_name: there is no project",
		`{"remote_path":""}`:                                                      "remote_path: is required",
		`{"remote_parameters":[{"key":"a b","value":"x"}]}`:                       "remote_parameters.0.key: must be letters",
		`{"remote_parameters":[{"key":"a","value":"1"},{"key":"a","value":"2"}]}`: "remote_parameters.1.key: is there twice",
		`{"remote_parameters":[{"key":"a","value":1}]}`:                           "remote_parameters.0.value: must be a string",
		`{"remote_branch":"a","remote_ref":"b"}`:                                  "remote_ref: says something else",
		`{"git_config_ref":"FIXED"}`:                                              "git_config.path: is required",
		`{"git_config_ref":"FIXED","git_config":{"project":"secret","path":"x"}}`: "git_config.project: there is no project",
	} {
		if rec := w.ask("PATCH", path, body); rec.Code != 400 || !strings.Contains(rec.Body.String(), want) {
			t.Errorf("%s: %d %s", body, rec.Code, rec.Body)
		}
	}
}

// A file that has no actions, perhaps because the word for them is written wrong,
// makes no run that is successful.
func TestDefinitionOfNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	path := w.project("web", "buddy.yml", "- pipeline: live-mirror\n  acitons:\n    - action: A"+run+"exit 1\n")
	w.get(200, "PATCH", path, `{"git_config_ref":"DYNAMIC"}`)
	w.refused(path, "", "buddy.yml at commit ", "actions: there are none", "acitons is not known here")
}

// Variables and permissions are those of the file if the pipeline says so; hidden
// values stay hidden, and settable ones keep what runs gave them.
func TestManagedByYAML(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	file := func(commands, version string) string {
		return "- pipeline: live-mirror\n  permissions: {others: READ_ONLY}\n  variables:\n    - {key: VERSION, value: \"" + version + "\", settable: true}\n    - {key: TOKEN, value: \"!encrypted\", encrypted: true}\n    - {key: PLAIN, value: hidden-here, encrypted: true}\n  actions:\n    - action: A" + run + "'" + commands + "'\n"
	}
	path := w.project("web", "buddy.yml", file("true", "1"))
	w.get(200, "PATCH", path, `{"git_config_ref":"DYNAMIC","manage_variables_by_yaml":true,"manage_permissions_by_yaml":true}`)
	w.refused(path, "", "buddy.yml at commit ", "variables.1.value: there is no earlier value")
	w.get(200, "PATCH", path, `{"variables":[{"key":"TOKEN","value":"given-by-api","encrypted":true}]}`)
	if _, words := w.ran(path, ""); words != "SUCCESSFUL, A SUCCESSFUL" {
		t.Fatal(words)
	}
	p := w.get(200, "GET", path, "")
	if err := w.lacks("pipeline", map[string]any{"permissions": map[string]any{"others": "READ_ONLY"}}, p); err != nil {
		t.Error(err)
	}
	vs := fmt.Sprint(p["variables"])
	if len(p["variables"].([]any)) != 3 || strings.Contains(vs, "hidden-here") || strings.Contains(vs, "given-by-api") {
		t.Error(vs)
	}
}
