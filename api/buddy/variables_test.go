package buddy

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A scope says what a token may do with variables, and nothing is seen from
// another workspace.
func TestVariableScopes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.project("web")
	const v = "/workspaces/acme/variables"
	const e = "/workspaces/acme/environments"
	one := fmt.Sprintf("%s/%v", v, w.get(201, "POST", v, `{"key":"A","value":"x"}`)["id"])
	ofPipe := fmt.Sprintf(`{"key":"B","pipeline":{"id":%s}}`, w.vars["pipeline"])
	env := fmt.Sprintf("%s/%v", e, w.get(201, "POST", e, `{"name":"live"}`)["id"])
	_, err := w.rooms.Projects.CreateWorkspace(t.Context(), w.admin, "other", "")
	w.must(err)
	admin := w.token
	token := func(scopes string) string {
		w.token = admin
		return fmt.Sprint(w.get(201, "POST", "/user/tokens", `{"name":"t","scopes":[`+scopes+`]}`)["token"])
	}
	// Variables: GET of the list, POST, POST of a pipeline, GET, PATCH, DELETE; environments: the same without PATCH.
	for _, c := range []struct {
		scopes string
		want   [10]int
	}{
		{`"EXECUTION_MANAGE","PROJECT_MANAGE"`, [10]int{403, 403, 403, 403, 403, 403, 403, 403, 403, 403}},
		{`"VARIABLE_INFO"`, [10]int{200, 403, 403, 200, 403, 403, 403, 403, 403, 403}},
		{`"VARIABLE_ADD"`, [10]int{200, 201, 201, 200, 403, 403, 403, 403, 403, 403}},
		{`"VARIABLE_MANAGE"`, [10]int{200, 400, 400, 200, 200, 204, 403, 403, 403, 403}},
		{`"ENVIRONMENT_MANAGE","WORKSPACE"`, [10]int{403, 403, 403, 404, 404, 404, 200, 201, 200, 204}},
	} {
		w.token = token(c.scopes)
		for i, q := range [][3]string{
			{"GET", v, ""},
			{"POST", v, `{"key":"C"}`},
			{"POST", v, ofPipe},
			{"GET", one, ""},
			{"PATCH", one, `{"value":"y"}`},
			{"DELETE", one, ""},
			{"GET", e, ""},
			{"POST", e, `{"name":"next"}`},
			{"GET", env, ""},
			{"DELETE", env, ""},
		} {
			if rec := w.ask(q[0], q[1], q[2]); rec.Code != c.want[i] {
				t.Errorf("%s: %s %s: %d instead of %d: %s", c.scopes, q[0], q[1], rec.Code, c.want[i], rec.Body)
			}
		}
	}
	// By the path of another workspace of one's own, and by a token bound to it.
	w.token = admin
	own := fmt.Sprint(w.get(201, "POST", v, `{"key":"D"}`)["id"])
	env = fmt.Sprint(w.get(201, "POST", e, `{"name":"again"}`)["id"])
	for _, q := range [][3]string{
		{"GET", v + "/" + own, ""},
		{"PATCH", v + "/" + own, "{}"},
		{"DELETE", v + "/" + own, ""},
		{"GET", e + "/" + env, ""},
		{"DELETE", e + "/" + env, ""},
		{"GET", v + "?pipelineId=" + w.vars["pipeline"], ""},
		{"GET", v + "?projectName=web", ""},
		{"GET", v + "?environment_id=" + env, ""},
	} {
		path := strings.Replace(q[1], "/acme/", "/other/", 1)
		if rec := w.ask(q[0], path, q[2]); rec.Code != http.StatusNotFound {
			t.Errorf("%s %s: %d %s", q[0], path, rec.Code, rec.Body)
		}
	}
	for _, body := range []string{ofPipe, `{"key":"B","project":{"name":"web"}}`, `{"key":"B","environment":{"id":"` + env + `"}}`} {
		if rec := w.ask("POST", "/workspaces/other/variables", body); rec.Code != http.StatusBadRequest {
			t.Errorf("%s: %d %s", body, rec.Code, rec.Body)
		}
	}
	w.token = fmt.Sprint(w.get(201, "POST", "/user/tokens", `{"name":"t","scopes":["VARIABLE_MANAGE","ENVIRONMENT_MANAGE"],"workspace_restrictions":["other"]}`)["token"])
	for _, q := range [][3]string{{"GET", v, ""}, {"POST", v, `{"key":"C"}`}, {"GET", v + "/" + own, ""}, {"GET", e, ""}, {"POST", e, `{"name":"x"}`}} {
		if rec := w.ask(q[0], q[1], q[2]); rec.Code != http.StatusNotFound {
			t.Errorf("%s %s: %d %s", q[0], q[1], rec.Code, rec.Body)
		}
	}
}

// An encrypted value is in no answer and nowhere in the data folder.
func TestVariableStaysSecret(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.project("web")
	var said strings.Builder
	ask := func(status int, method, path, body string) map[string]any {
		t.Helper()
		m := w.get(status, method, path, body)
		fmt.Fprintln(&said, m)
		return m
	}
	const v = "/workspaces/acme/variables"
	one := fmt.Sprintf("%s/%v", v, ask(201, "POST", v, `{"key":"K","value":"hunter-one-two","encrypted":true,"settable":true}`)["id"])
	ask(201, "POST", v, `{"key":"F","value":"hunter-file-two","encrypted":true,"type":"FILE","file_place":"CONTAINER","file_path":"/f"}`)
	ask(201, "POST", p+"/actions", `{"name":"a","type":"RUN_DOCKER_CONTAINER","docker_image_name":"library/ubuntu","docker_image_tag":"latest",
		"inline_commands":"echo $K; cat /f; export OUTPUT_K=\"$K\" K=hunter-$X"}`)
	ask(201, "POST", p+"/actions", `{"name":"b","type":"RUN_DOCKER_CONTAINER","docker_image_name":"library/ubuntu","docker_image_tag":"latest","inline_commands":"echo $K $OUTPUT_K"}`)
	x := fmt.Sprintf("%s/executions/%v", p, ask(201, "POST", p+"/executions", `{"variables":[{"key":"X","value":"three-four","encrypted":true}]}`)["id"])
	fmt.Fprintln(&said, w.wait(x))
	done := ask(200, "GET", x, "")
	for _, s := range done["action_executions"].([]any) {
		ask(200, "GET", fmt.Sprintf("%s/action_executions/%v", x, s.(map[string]any)["action_execution_id"]), "")
		ask(200, "GET", fmt.Sprintf("%s/action_executions/%v/logs", x, s.(map[string]any)["action_execution_id"]), "")
	}
	ask(200, "PATCH", one, `{"value":"!encrypted","encrypted":true}`)
	ask(200, "GET", v, "")
	for _, secret := range []string{"hunter-one-two", "hunter-file-two", "three-four"} {
		if strings.Contains(said.String(), secret) {
			t.Errorf("%s is in an answer: %s", secret, said.String())
		}
		err := filepath.WalkDir(w.dir, func(path string, d os.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return nil
			}
			if b, err := os.ReadFile(path); err == nil && strings.Contains(string(b), secret) {
				t.Errorf("%s is in %s", secret, path)
			}
			return nil
		})
		w.must(err)
	}
	if done["status"] != "SUCCESSFUL" {
		t.Errorf("%v", done)
	}
}
