package pipeline

import (
	"strings"
	"testing"

	"slipway/project"
	"slipway/secret"
)

// TestEnvironmentOfARun: the variables of the environment that a start names hold,
// over those of the project and below those of the pipeline.
func TestEnvironmentOfARun(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	ctx := t.Context()
	made := func(e secret.Environment) secret.Environment {
		e.Workspace = w.home.ID
		e, err := w.secrets.CreateEnvironment(ctx, w.admin, e)
		w.must(err)
		return e
	}
	live := made(secret.Environment{Name: "Live"})
	other, err := w.projects.Create(ctx, w.admin, w.home.ID, project.New{Name: "other"})
	w.must(err)
	made(secret.Environment{Name: "Elsewhere", Project: other.ID})
	for _, v := range []secret.Variable{
		{Key: "A", Value: "project", Scope: secret.Scope{Workspace: w.home.ID, Project: w.pr.ID}},
		{Key: "A", Value: "of-live", Encrypted: true, Scope: secret.Scope{Workspace: w.home.ID, Environment: live.ID}},
		{Key: "B", Value: "live", Scope: secret.Scope{Workspace: w.home.ID, Environment: live.ID}},
		{Key: "TIMES", Value: "1,2", Scope: secret.Scope{Workspace: w.home.ID, Environment: live.ID}},
	} {
		_, err := w.secrets.CreateVariable(ctx, w.admin, v)
		w.must(err)
	}
	p := w.pipeline(Pipeline{Variables: []Variable{{Key: "B", Value: "pipeline"}}}, sh("echo $A $B\ntest $A = $WANT"))
	run := func(environment, want string) Execution {
		return w.start(p, Start{Environment: environment, Variables: []Variable{{Key: "WANT", Value: want}}})
	}
	w.expect(run("", "project"), "SUCCESSFUL SUCCESSFUL")
	for _, name := range []string{live.ID, "live"} {
		x := w.expect(run(name, "of-live"), "SUCCESSFUL SUCCESSFUL")
		if l := strings.Join(w.lines(x, 0), "\n"); x.Environment != live.ID || strings.Contains(l, "of-live") || !strings.Contains(l, "pipeline") {
			t.Errorf("%s: %q %s", name, x.Environment, l)
		}
	}
	for _, name := range []string{"elsewhere", "nothing"} {
		_, err := w.Start(ctx, w.admin, p.ID, Start{Environment: name})
		if inv, ok := project.AsInvalid(err); !ok || inv.Fields[0].Path != "environment" {
			t.Errorf("%s: %v", name, err)
		}
	}
	looping := w.pipeline(Pipeline{Name: "loop", Loop: []string{"TIMES"}}, sh("true"))
	w.start(looping, Start{Environment: "live"})
	if _, n, err := w.Executions(ctx, w.admin, looping.ID, 0, 10); err != nil || n != 2 {
		t.Errorf("%d runs, %v", n, err)
	}
	// One that is gone when its run begins.
	block := w.pipeline(Pipeline{Name: "block"}, sh("block"), sh("true"))
	x := w.start(block, Start{Environment: "live"})
	id := w.blocked(x)
	w.must(w.secrets.DeleteEnvironment(ctx, w.admin, w.home.ID, live.ID))
	w.eng.Release(id)
	w.expect(x, "FAILED SUCCESSFUL FAILED(the environment that the execution was started with is gone, and its variables with it)")
}
