package pipeline

import (
	"testing"

	"slipway/access"
	"slipway/event"
)

// Of the executions of a pipeline that is hidden from somebody, it hears nothing.
func TestWhoHears(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	developer := w.member("d@example.com", 2)
	run := Action{Name: "a", Run: &Run{Image: "busybox", Tag: "latest", Commands: "true"}}
	open := w.wait(w.start(w.pipeline(Pipeline{Name: "open"}, run), Start{}))
	hidden := w.wait(w.start(w.pipeline(Pipeline{Name: "hidden", Permissions: &Permissions{Others: "DENIED"}}, run), Start{}))
	for _, c := range []struct {
		by   access.Actor
		x    Execution
		want bool
	}{{w.admin, open, true}, {w.admin, hidden, true}, {developer, open, true}, {developer, hidden, false}} {
		for _, kind := range []event.Kind{event.ExecutionStarted, event.ExecutionFinished} {
			may, err := w.MayHear(t.Context(), c.by, event.Event{Kind: kind, Workspace: c.x.Workspace, Project: string(c.x.Project), Subject: string(c.x.ID)})
			if err != nil || may != c.want {
				t.Errorf("%s of %s: %v, %v", kind, c.x.Frozen.Name, may, err)
			}
		}
	}
	if may, err := w.MayHear(t.Context(), developer, event.Event{Kind: event.ImageTagged, Workspace: open.Workspace}); err != nil || !may {
		t.Errorf("another event: %v, %v", may, err)
	}
}
