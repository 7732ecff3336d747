package native

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"slipway/pipeline"
)

const tried = `
- pipeline: main
  variables: [{key: A, value: a}]
  actions:
  - {action: Never, type: RUN_DOCKER_CONTAINER, docker_image_name: busybox, docker_image_tag: latest, inline_commands: "true",
     trigger_conditions: [{trigger_condition: VAR_IS, trigger_variable_key: A, trigger_variable_value: b}]}
  - {action: Twice, type: RUN_DOCKER_CONTAINER, docker_image_name: busybox, docker_image_tag: latest, inline_commands: "exit 3", retry_count: 1}
  - {action: After, type: RUN_DOCKER_CONTAINER, docker_image_name: busybox, docker_image_tag: latest, inline_commands: "true"}
`

func TestAccount(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.get(200, "POST", base+"/pipelines:import", tried)
	all, err := w.pipelines.List(t.Context(), w.Admin, w.pr.ID)
	w.Must(err)
	x, err := w.pipelines.Start(t.Context(), w.Admin, all[0].ID, pipeline.Start{})
	w.Must(err)
	x, err = w.pipelines.Wait(t.Context(), w.Admin, x.ID)
	w.Must(err)
	path := fmt.Sprintf("%s/pipelines/%d/executions/%d", base, all[0].ID, x.Number)
	text := w.get(200, "GET", path, "")
	var a account
	w.Must(json.Unmarshal([]byte(text), &a))
	if a.ID != string(x.ID) || a.Number != 1 || a.Status != pipeline.Failed || a.Finished == nil || a.Conditions != nil || len(a.Actions) != 3 {
		t.Fatal(text)
	}
	never, twice, after := a.Actions[0], a.Actions[1], a.Actions[2]
	if never.Why.Reason != pipeline.WhyConditions || never.Conditions.Met || never.Conditions.Each[0].Why != `the variable A is not "b"` || len(never.Tries) > 0 || never.Started != nil {
		t.Errorf("%+v", never)
	}
	if len(twice.Tries) != 2 || twice.Why.Reason != pipeline.WhyRun {
		t.Fatalf("%+v", twice)
	}
	if l := twice.Tries[1]; l.Attempt != 2 || l.Try != 2 || l.Reason != "EXIT_CODE" || l.Code != 3.0 || l.Signal != nil || l.Memory != 1048576.0 || l.CPU != 0.001 || l.Status != pipeline.Failed || l.Started == nil || l.Finished == nil {
		t.Errorf("%+v", l)
	}
	if after.Why.Reason != pipeline.WhyFailure || after.Status != pipeline.NotExecuted {
		t.Errorf("%+v", after)
	}
	// The members are there when there is nothing to be told.
	for _, m := range []string{`"conditions":null`, `"waits":[]`, `"tries":[]`, `"build":null`, `"signal":null`} {
		if !strings.Contains(text, m) {
			t.Errorf("no %s in %s", m, text)
		}
	}
	one := w.get(200, "GET", Prefix+"/actions/"+twice.ID, "")
	var s stepAccount
	w.Must(json.Unmarshal([]byte(one), &s))
	if s.ID != twice.ID || s.Execution != a.ID || len(s.Tries) != 2 {
		t.Error(one)
	}
	w.get(404, "GET", Prefix+"/actions/none", "")
	for _, p := range []string{"/pipelines/x/executions/1", "/pipelines/999/executions/1", fmt.Sprintf("/pipelines/%d/executions/x", all[0].ID), fmt.Sprintf("/pipelines/%d/executions/2", all[0].ID)} {
		w.get(404, "GET", base+p, "")
	}
}
