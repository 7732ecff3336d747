package pipeline

import (
	"context"
	"testing"

	"slipway/engine"
)

// TestCancelWhileDown cancels an execution while no server is there: the next
// one ends its container, though all it can know by itself fails with the
// cancel.
func TestCancelWhileDown(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	x := w.start(w.pipeline(Pipeline{}, sh("block")), Start{})
	id := engineID(x, 0, 1)
	w.eng.Await(id)
	w.stop()
	_, err := w.Operate(t.Context(), w.admin, x.ID, OpCancel)
	w.must(err)
	w.eng.FailNext("Inspect", context.Canceled)
	w.restart()
	w.expect(x, "TERMINATED TERMINATED(cancelled)")
	w.stop()
	if _, ok := w.eng.RunSpec(id); ok {
		t.Error("the engine still has its container")
	}
}

// TestForgottenLater lets a server die between the end of an action and the
// engine's forgetting it: it is forgotten when the execution has ended.
func TestForgottenLater(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	x := w.start(w.pipeline(Pipeline{}, sh("true"), sh("block")), Start{})
	first, second := engineID(x, 0, 1), engineID(x, 1, 1)
	w.eng.Await(second)
	w.stop()
	// As if it had not been forgotten.
	spec, _ := w.eng.RunSpec(second)
	_, err := w.eng.Run(t.Context(), first, engine.RunSpec{Owner: x.ID.Owner(), Image: spec.Image, Log: t.TempDir()})
	w.must(err)
	w.restart()
	w.eng.Release(second)
	w.expect(x, "SUCCESSFUL SUCCESSFUL SUCCESSFUL")
	w.stop()
	if _, ok := w.eng.RunSpec(first); ok {
		t.Error("the engine still has the first action's record")
	}
}
