package pipeline

import (
	"errors"
	"testing"
)

// TestEnd ends what runs: it has failed for the reason given, is not tried
// again, and what comes after it is not ended with it.
func TestEnd(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	if n := w.r.End(errors.New("nothing runs")); n != 0 {
		t.Errorf("%d were ended", n)
	}
	a := sh("echo one\nblock")
	a.Retries = 3
	after := sh("echo after")
	after.When = OnFailure
	x := w.start(w.pipeline(Pipeline{}, a, after), Start{})
	w.eng.Await(engineID(x, 0, 1))
	if n := w.r.End(errors.New("the disk is full")); n != 1 {
		t.Errorf("%d were ended", n)
	}
	x = w.expect(x, "FAILED FAILED(the disk is full) SUCCESSFUL")
	if l := w.lines(x, 0); l[len(l)-1] != "the disk is full" || x.Steps[0].Attempt != 1 {
		t.Errorf("after %d: %q", x.Steps[0].Attempt, l)
	}
	w.until("nothing is left to be ended", func() bool { return w.r.End(errors.New("again")) == 0 })
}

// TestGone says so when a deleted pipeline's file system is not wanted any more,
// and not before.
func TestGone(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	gone, stop := w.Gone()
	defer stop()
	idle, busy := w.pipeline(Pipeline{Name: "idle"}, sh("true")), w.pipeline(Pipeline{Name: "busy"}, sh("block"))
	last := sh("block")
	last.When = OnTerminate
	_, err := w.CreateAction(t.Context(), w.admin, busy.ID, last, nil)
	w.must(err)
	living := func(p Pipeline) bool {
		l, err := w.Living(t.Context(), p.ID.Owner())
		w.must(err)
		return l
	}
	w.must(w.Delete(t.Context(), w.admin, idle.ID))
	<-gone
	x := w.start(busy, Start{})
	w.eng.Await(engineID(x, 0, 1))
	w.must(w.Delete(t.Context(), w.admin, busy.ID))
	w.eng.Await(engineID(x, 1, 1)) // the action that ends it still needs it
	select {
	case <-gone:
		t.Error("it is gone while it runs")
	default:
	}
	if living(idle) || !living(busy) {
		t.Error("which of them lives?")
	}
	w.eng.Release(engineID(x, 1, 1))
	<-gone
	if living(busy) {
		t.Error("it lives on")
	}
}
