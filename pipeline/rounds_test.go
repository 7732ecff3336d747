package pipeline

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"slipway/secret"
)

// TestLoopOfAPipeline: one start makes a run for each combination of values, one
// after the other, and none of them replaces another.
func TestLoopOfAPipeline(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	_, err := w.secrets.CreateVariable(t.Context(), w.admin, secret.Variable{
		Key: "REGION", Value: "eu, us", Scope: secret.Scope{Workspace: w.home.ID, Project: w.pr.ID},
	})
	w.must(err)
	p := w.pipeline(Pipeline{
		Loop: []string{"STRATEGY", "$REGION"}, Variables: []Variable{{Key: "STRATEGY", Value: "canary,rolling", Encrypted: true}},
	}, sh("echo $STRATEGY $REGION\nblock"))
	first := w.start(p, Start{Comment: "all of them"})
	l, total, err := w.Executions(t.Context(), w.admin, p.ID, 0, 10)
	w.must(err)
	if total != 4 || first.Number != 1 {
		t.Fatalf("%d runs, the first of them %d", total, first.Number)
	}
	var said []string
	for _, x := range slices.Backward(l) {
		if x.Comment != "all of them" {
			t.Errorf("execution %d says %q", x.Number, x.Comment)
		}
		id := w.blocked(x)
		spec, _ := w.eng.RunSpec(id)
		env := map[string]string{}
		for _, e := range spec.Env {
			k, v, _ := strings.Cut(e, "=")
			env[k] = v
		}
		said = append(said, env["STRATEGY"]+"@"+env["REGION"])
		w.eng.Release(id)
		x = w.expect(x, "SUCCESSFUL SUCCESSFUL")
		for _, text := range []string{strings.Join(w.lines(x, 0), "\n"), fmt.Sprint(x.Variables)} {
			if strings.Contains(text, "canary") || strings.Contains(text, "rolling") {
				t.Errorf("a secret value is told: %s", text)
			}
		}
	}
	if want := []string{"canary@eu", "canary@us", "rolling@eu", "rolling@us"}; !slices.Equal(said, want) {
		t.Errorf("ran with %v", said)
	}
	// Values that the start gives are those of its runs.
	w.start(p, Start{Variables: []Variable{{Key: "STRATEGY", Value: "blue"}, {Key: "OTHER", Value: "x"}}})
	if l, total, err = w.Executions(t.Context(), w.admin, p.ID, 0, 10); err != nil || total != 6 {
		t.Errorf("%d runs, %v", total, err)
	}
	w.release(l)
}

// blocked waits until the first action of an execution blocks, and gives its name
// in the engine.
func (w *world) blocked(x Execution) string {
	w.t.Helper()
	id := engineID(w.now(x), 0, 1)
	w.eng.Await(id)
	return id
}

// release lets those of some executions that are not at their end come to it, the
// oldest first.
func (w *world) release(newestFirst []Execution) {
	w.t.Helper()
	for _, x := range slices.Backward(newestFirst) {
		if !x.Status.Ended() {
			w.eng.Release(w.blocked(x))
			w.wait(x)
		}
	}
}

// TestNewerLoop: the runs of a newer start replace those of an older one that
// still wait, all of them.
func TestNewerLoop(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	p := w.pipeline(Pipeline{Loop: []string{"V"}, Variables: []Variable{{Key: "V", Value: "1,2,3"}}}, sh("block"))
	w.blocked(w.start(p, Start{}))
	w.start(p, Start{})
	l, _, err := w.Executions(t.Context(), w.admin, p.ID, 0, 10)
	w.must(err)
	var got []Status
	for _, x := range l {
		got = append(got, x.Status)
	}
	if want := []Status{Enqueued, Enqueued, Enqueued, Skipped, Skipped, InProgress}; !slices.Equal(got, want) {
		t.Error(got)
	}
	w.release(l)
}

// TestLoopThatCannotBe: a start has one run then, which says why.
func TestLoopThatCannotBe(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	for name, c := range map[string]struct {
		values *string
		want   string
	}{
		"unknown":  {nil, "loop: there is no variable X"},
		"none":     {new(string), "loop: there are no values of X to run the pipeline with"},
		"too many": {ptr(strings.Repeat("x,", maxRuns) + "x"), fmt.Sprintf("loop: there are more than %d combinations of the values of X", maxRuns)},
	} {
		p := Pipeline{Name: name, Loop: []string{"X"}}
		if c.values != nil {
			p.Variables = []Variable{{Key: "X", Value: *c.values}}
		}
		w.expect(w.start(w.pipeline(p, sh("true")), Start{}), "FAILED FAILED("+c.want+")")
	}
}

// TestConcurrentLoop: the runs of a loop go beside each other in a pipeline whose
// runs may.
func TestConcurrentLoop(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	p := w.pipeline(Pipeline{Concurrent: true, Loop: []string{"V"}, Variables: []Variable{{Key: "V", Value: "1,2,3"}}}, sh("block"))
	w.start(p, Start{})
	l, _, err := w.Executions(t.Context(), w.admin, p.ID, 0, 10)
	w.must(err)
	for _, x := range l {
		w.blocked(x)
	}
	w.release(l)
}

func ptr[T any](v T) *T { return &v }
