package e2e

import (
	"context"
	"fmt"
	"testing"
	"time"
)

// account is what the native dialect tells of an execution.
type account struct {
	Actions []struct {
		Name       string
		Why        struct{ Reason string }
		Conditions struct{ Each []struct{ Met bool } }
		Tries      []struct {
			Attempt  int
			Reason   string
			ExitCode *int     `json:"exit_code"`
			Memory   *int64   `json:"memory_peak"`
			CPU      *float64 `json:"cpu_seconds"`
			Waits    []struct{ For string }
			Build    *struct {
				Steps, Cached int
				FirstMiss     *struct{ Step, Reason, Text string } `json:"first_miss"`
			}
		}
	}
}

// TestAccount: why actions ran or not, how their tries ended, what they used in
// their containers, and what a build had of the cache.
func TestAccount(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.give(shell(t), "default/shell:1")
	sh := func(name, commands string, more ...any) map[string]any {
		return with(runs("slipway.local/default/shell", "1", "", "name", name, "inline_commands", commands), more...)
	}
	d := s.one("told", map[string]string{"Dockerfile": "FROM slipway.local/default/shell:1\nRUN echo made > /made\nCOPY page /page\n", "page": "1"},
		build(),
		sh("Hungry", "head -c 60000000 /dev/zero | tail -c 50000000 | wc -c"),
		sh("Never", "true", "trigger_conditions", []any{map[string]any{"trigger_condition": "VAR_IS", "trigger_variable_key": "NONE", "trigger_variable_value": "x"}}),
		sh("Twice", "exit 3", "retry_count", 1, "ignore_errors", true),
		sh("Slow", "sleep 60", "timeout", 1, "ignore_errors", true),
		sh("Refused", "true", "docker_image_name", "slipway.local/default/none", "ignore_errors", true))
	look := func(n int64) account {
		t.Helper()
		var a account
		s.must("GET", fmt.Sprintf("/slipway/v1%s/executions/%d", d.pipelinePath(), n), nil, &a)
		if len(a.Actions) != 6 {
			t.Fatalf("%+v: %s", a, d.text())
		}
		return a
	}
	a := look(d.ID)
	for i, want := range []struct {
		why    string
		tries  int
		reason string
	}{{"RUN", 1, "DONE"}, {"RUN", 1, "DONE"}, {"CONDITIONS_NOT_MET", 0, ""}, {"RUN", 2, "EXIT_CODE"}, {"RUN", 1, "TIMEOUT"}, {"RUN", 1, "NO_IMAGE"}} {
		got := a.Actions[i]
		if got.Why.Reason != want.why || len(got.Tries) != want.tries || want.tries > 0 && got.Tries[len(got.Tries)-1].Reason != want.reason {
			t.Errorf("%s: %+v, want %+v", got.Name, got, want)
		}
	}
	if t.Failed() {
		t.Fatal(d.text())
	}
	if v := a.Actions[2].Conditions.Each; len(v) != 1 || v[0].Met {
		t.Errorf("conditions %+v", v)
	}
	if h := a.Actions[1].Tries[0]; h.Memory == nil || *h.Memory < 50_000_000 || h.CPU == nil || *h.CPU <= 0 {
		t.Errorf("50 MB are %+v", h)
	}
	if x := a.Actions[3].Tries[1]; x.Attempt != 2 || x.ExitCode == nil || *x.ExitCode != 3 || len(x.Waits) != 0 || x.CPU == nil {
		t.Errorf("the second try: %+v", x)
	}
	b := a.Actions[0].Tries[0]
	if b.Build == nil || b.Build.Steps != 2 || b.Build.Cached != 0 || b.Build.FirstMiss == nil || b.Build.FirstMiss.Reason != "FIRST_BUILD" || b.Memory == nil {
		t.Errorf("the build: %+v", b.Build)
	}
	if err := d.commit(t.Context(), map[string]string{"page": "2"}); err != nil {
		t.Fatal(err)
	}
	if err := d.push(t.Context()); err != nil {
		t.Fatal(err)
	}
	err := keep(t.Context(), "the push starts a run", time.Minute, func(ctx context.Context) error {
		l, err := d.executions(ctx)
		if err == nil && len(l) != 2 {
			err = fmt.Errorf("there are %v", l)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	e, err := d.finish(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	again := look(e.ID).Actions[0].Tries[0].Build
	if again == nil || again.Steps != 2 || again.Cached != 1 || again.FirstMiss == nil || again.FirstMiss.Reason != "FILES" || again.FirstMiss.Step != "3/3 COPY page /page" ||
		again.FirstMiss.Text != "the files that it copies changed; written since the build before: page" {
		t.Errorf("the next build: %+v, %+v", again, again.FirstMiss)
	}
}
