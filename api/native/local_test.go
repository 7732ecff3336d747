package native

import (
	"fmt"
	"strings"
	"testing"

	"slipway/access"
	"slipway/project"
)

// TestRunLocal is about what is refused; e2e has a run.
func TestRunLocal(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.get(200, "POST", base+"/pipelines:import", tried)
	all, err := w.pipelines.List(t.Context(), w.Admin, w.pr.ID)
	w.Must(err)
	path := fmt.Sprintf("%s/pipelines/%d/executions:local", base, all[0].ID)
	const unknown = `"commit":"1111111111111111111111111111111111111111"`
	for _, c := range []struct {
		path, body string
		status     int
		says       string
	}{
		{path, `{}`, 400, `"field":"commit"`},
		{path, `{"commit":"HEAD"}`, 400, `"field":"commit"`},
		{path, `{` + unknown + `}`, 400, "it was not pushed"},
		{path, `{` + unknown + `,"variables":[{"key":"a-b","value":"x"}]}`, 400, `"field":"variables.0.key"`},
		{path, `{` + unknown + `,"definition":"` + strings.Repeat("x", 5000) + `"}`, 400, `"field":"definition"`},
		{path, `{` + unknown + `,"comment":"` + strings.Repeat("x", 5000) + `"}`, 400, `"field":"comment"`},
		{path, `{"commit":1}`, 400, `"field":"commit"`},
		{base + "/pipelines/77/executions:local", `{` + unknown + `}`, 404, ""},
		{base + "/pipelines/x/executions:local", `{` + unknown + `}`, 404, ""},
	} {
		if text := w.get(c.status, "POST", c.path, c.body); !strings.Contains(text, c.says) {
			t.Errorf("%s: %s", c.body, text)
		}
	}
	// The pipeline of another project is not this one's.
	_, err = w.Projects.Create(t.Context(), w.Admin, w.Home.ID, project.New{Name: "other"})
	w.Must(err)
	w.get(404, "POST", strings.Replace(path, "/web/", "/other/", 1), `{`+unknown+`}`)
	for scopes, status := range map[string]int{"EXECUTION_INFO": 403, "EXECUTION_RUN": 403, "EXECUTION_RUN REPOSITORY_WRITE": 400} {
		var l []access.Scope
		for _, s := range strings.Fields(scopes) {
			l = append(l, access.Scope(s))
		}
		_, token, err := w.Access.CreateToken(t.Context(), w.Admin, access.NewToken{Name: "x", Scopes: l})
		w.Must(err)
		if code, _, text := w.ask("POST", path, `{`+unknown+`}`, token); code != status {
			t.Errorf("%s: %d %s", scopes, code, text)
		}
	}
	if code, _, _ := w.ask("POST", path, `{`+unknown+`}`, ""); code != 401 {
		t.Errorf("without a token: %d", code)
	}
	if l, n, err := w.pipelines.Executions(t.Context(), w.Admin, all[0].ID, 0, 10); err != nil || n != 0 {
		t.Errorf("%v, %v", l, err)
	}
}
