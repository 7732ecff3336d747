package native

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"slipway/pipeline"
)

const again = `
- pipeline: main
  actions:
  - {action: Make, type: RUN_DOCKER_CONTAINER, docker_image_name: busybox, docker_image_tag: latest, inline_commands: "echo made > f"}
  - {action: Use, type: RUN_DOCKER_CONTAINER, docker_image_name: busybox, docker_image_tag: latest, inline_commands: "test -e never"}
`

func TestRerun(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.get(200, "POST", base+"/pipelines:import", again)
	all, err := w.pipelines.List(t.Context(), w.Admin, w.pr.ID)
	w.Must(err)
	x, err := w.pipelines.Start(t.Context(), w.Admin, all[0].ID, pipeline.Start{})
	w.Must(err)
	path := fmt.Sprintf("%s/pipelines/%d/executions/1", base, all[0].ID)
	if code, _, text := w.ask("POST", path+"/rerun", fmt.Sprintf(`{"from":%q}`, x.Steps[0].ID), w.Token); code != 409 && code != 201 {
		t.Errorf("before its end: %d %s", code, text)
	}
	_, err = w.pipelines.Wait(t.Context(), w.Admin, x.ID)
	w.Must(err)
	told := func(text string) (a account) {
		t.Helper()
		w.Must(json.Unmarshal([]byte(text), &a))
		return a
	}
	a := told(w.get(200, "GET", path, ""))
	if s := a.Actions[1].Snapshot; a.Rerun != nil || s == nil || !s.Kept || s.Until == nil || s.Why != nil {
		t.Errorf("the first: %+v", a)
	}
	r := told(w.get(201, "POST", path+"/rerun", fmt.Sprintf(`{"from":%d,"inline_commands":"test -e f","comment":"again","variables":[{"key":"A","value":"b"}]}`, a.Actions[1].Action)))
	if r.Number == 1 || r.Rerun == nil || r.Rerun.Of != 1 || r.Rerun.From != r.Actions[1].ID || r.Actions[0].Why.Reason != pipeline.WhyCarried || r.Actions[0].Snapshot.Kept || r.Actions[0].Snapshot.Why == nil {
		t.Errorf("the second: %+v", r)
	}
	if x, err := w.pipelines.Wait(t.Context(), w.Admin, pipeline.ExecutionID(r.ID)); err != nil || x.Status != pipeline.Successful {
		t.Errorf("%+v %v", x, err)
	}
	for body, want := range map[string]string{
		`{}`:                             `"field":"from"`,
		`{"from":"none"}`:                `"field":"from"`,
		`{"from":true}`:                  `"field":"from"`,
		`{"from":1.5}`:                   `"field":"from"`,
		`{"from":1,"comment":null}`:      `"field":"comment"`,
		`{"from":1,"inline_commands":5}`: `"field":"inline_commands"`,
		`{"from":1,"variables":[{"key":"A","value":1}]}`: `"field":"variables.0.value"`,
	} {
		if text := w.get(400, "POST", path+"/rerun", body); !strings.Contains(text, want) {
			t.Errorf("%s: %s", body, text)
		}
	}
	if text := w.get(409, "POST", fmt.Sprintf("%s/pipelines/%d/executions/%d/rerun", base, all[0].ID, r.Number), fmt.Sprintf(`{"from":%d}`, a.Actions[0].Action)); !strings.Contains(text, "run that one again") {
		t.Error(text)
	}
	w.get(404, "POST", base+"/pipelines/999/executions/1/rerun", `{"from":1}`)
}
