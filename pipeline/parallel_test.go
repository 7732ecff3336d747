package pipeline

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"slipway/db"
	"slipway/project"
)

func beside(a Action, next RunNext) Action {
	a.RunNext = next
	return a
}

// statuses are those of the steps of an execution as it is now.
func (w *world) statuses(x Execution) []Status {
	w.t.Helper()
	x, err := w.Execution(w.t.Context(), w.admin, x.ID)
	w.must(err)
	var l []Status
	for _, s := range x.Steps {
		l = append(l, s.Status)
	}
	return l
}

// Steps that are linked run at the same time, on one file system that the first
// of them has brought to the commit; what comes next waits for all of them.
func TestParallel(t *testing.T) {
	t.Parallel()
	for _, next := range []RunNext{InSoftParallel, InHardParallel} {
		w := newWorld(t, Config{})
		w.commit("greeting", "hello")
		p := w.pipeline(Pipeline{}, beside(sh("cat greeting\nblock\ntouch a"), next), beside(sh("cat greeting\nblock\ntouch b"), next), sh("cat greeting\nblock\ntouch c"),
			sh("test -f a && test -f b && test -f c"))
		x := w.start(p, Start{})
		for i := range 3 {
			w.eng.Await(engineID(x, i, 1))
		}
		if got := w.statuses(x); got[3] != Initial {
			t.Errorf("%s: %v", next, got)
		}
		for _, i := range []int{2, 0, 1} {
			w.eng.Release(engineID(x, i, 1))
		}
		x = w.expect(x, "SUCCESSFUL SUCCESSFUL SUCCESSFUL SUCCESSFUL SUCCESSFUL")
		for i := range 3 {
			if l := w.lines(x, i); l[len(l)-1] != "hello" || i > 0 && len(l) != 1 {
				t.Errorf("%s: the log of %d: %q", next, i, l)
			}
		}
		if l := w.lines(x, 0); len(l) < 2 {
			t.Errorf("%s: the lines of the checkout are not in the first log: %q", next, l)
		}
	}
}

// One that fails does not end those beside it, but what comes after them.
func TestParallelFailure(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{Limits: Limits{Runs: 1, Builds: 1}})
	on := sh("echo failed")
	on.When = OnFailure
	p := w.pipeline(Pipeline{}, beside(sh("exit 1"), InSoftParallel), beside(sh("echo b"), InSoftParallel), sh("echo c"), sh("echo never"), on)
	x := w.expect(w.start(p, Start{}), "FAILED FAILED(ended with exit code 1) SUCCESSFUL SUCCESSFUL NOT_EXECUTED SUCCESSFUL")
	// A retry does what is broken, not what was good beside it.
	y, err := w.Operate(t.Context(), w.admin, x.ID, OpRetry)
	w.must(err)
	y = w.wait(y)
	if y.Steps[0].Attempt != 2 || y.Steps[1].Attempt != 1 || y.Steps[4].Attempt != 2 {
		t.Error(w.words(y))
	}
}

// Each has its own tries, and what it waits for holds up nobody.
func TestParallelRetries(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	a := beside(sh("test -f there && exit 0; touch there; exit 1"), InHardParallel)
	a.Retries, a.RetryInterval = 1, time.Second
	x := w.start(w.pipeline(Pipeline{}, a, sh("block")), Start{})
	w.eng.Await(engineID(x, 1, 1))
	w.until("the first is tried again beside the other", func() bool { return w.statuses(x)[0] == Successful })
	w.eng.Release(engineID(x, 1, 1))
	x = w.expect(x, "SUCCESSFUL SUCCESSFUL SUCCESSFUL")
	if x.Steps[0].Attempt != 2 || x.Steps[0].Finished.Sub(x.Steps[0].Started) < time.Second {
		t.Errorf("%+v", x.Steps[0])
	}
}

// A file system that cannot be made ready fails who came to it first; the next
// one tries it too.
func TestParallelNotReady(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	w.eng.FailNext("Ensure", errors.New("no such disk"))
	x := w.wait(w.start(w.pipeline(Pipeline{}, beside(sh("true"), InHardParallel), sh("true")), Start{}))
	if x.Status != Failed || !strings.Contains(x.Steps[0].Error, "no such disk") || x.Steps[1].Status != Successful {
		t.Error(w.words(x))
	}
}

// Slots are counted by step: soft linked ones run as there are slots, a hard
// linked group has all of them at once or none, and nobody takes them meanwhile.
func TestParallelSlots(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{Limits: Limits{Runs: 2, Builds: 1}})
	soft := w.start(w.pipeline(Pipeline{Name: "soft"}, beside(sh("block"), InSoftParallel), beside(sh("block"), InSoftParallel), sh("block")), Start{})
	w.eng.Await(engineID(soft, 0, 1))
	w.eng.Await(engineID(soft, 1, 1))
	w.until("the third waits", func() bool { return w.statuses(soft)[2] == Enqueued })
	hard := w.start(w.pipeline(Pipeline{Name: "hard"}, beside(sh("block"), InHardParallel), sh("block")), Start{})
	late := w.start(w.pipeline(Pipeline{Name: "late"}, sh("true")), Start{})
	w.eng.Release(engineID(soft, 0, 1))
	w.eng.Await(engineID(soft, 2, 1))
	w.eng.Release(engineID(soft, 1, 1)) // one slot is free, and kept
	w.until("the second has ended", func() bool { return w.statuses(soft)[1] == Successful })
	if h, l := w.statuses(hard), w.statuses(late); !slices.Equal(h, []Status{Initial, Initial}) || !slices.Equal(l, []Status{Initial}) {
		t.Errorf("with one slot: %v %v", h, l)
	}
	w.eng.Release(engineID(soft, 2, 1))
	w.eng.Await(engineID(hard, 0, 1))
	w.eng.Await(engineID(hard, 1, 1))
	if l := w.statuses(late); !slices.Equal(l, []Status{Initial}) {
		t.Errorf("beside the two: %v", l)
	}
	w.eng.Release(engineID(hard, 0, 1))
	w.expect(late, "SUCCESSFUL SUCCESSFUL")
	w.eng.Release(engineID(hard, 1, 1))
	w.expect(soft, "SUCCESSFUL SUCCESSFUL SUCCESSFUL SUCCESSFUL")
	w.expect(hard, "SUCCESSFUL SUCCESSFUL SUCCESSFUL")
	w.must(w.db.Read(t.Context(), func(tx *db.Tx) error {
		var n int
		err := tx.QueryRow(`SELECT COUNT(*) FROM executions WHERE runs <> 0 OR builds <> 0 OR waiting <> 0 OR wants <> ''`).Scan(&n)
		if n != 0 {
			t.Errorf("%d hold or want slots at the end", n)
		}
		return err
	}))

	x := w.wait(w.start(w.pipeline(Pipeline{Name: "three"}, beside(sh("true"), InHardParallel), beside(sh("true"), InHardParallel), sh("true")), Start{}))
	if s := x.Steps[2]; x.Status != Failed || s.Status != Failed || !strings.Contains(s.Error, "never runs more than 2") || s.Attempt != 0 {
		t.Error(w.words(x))
	}
}

// A cancel ends all that run, and what waits for a slot does not begin.
func TestParallelCancel(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{Limits: Limits{Runs: 2, Builds: 1}})
	last := func(words string) Action { a := beside(sh(words), InSoftParallel); a.When = OnTerminate; return a }
	x := w.start(w.pipeline(Pipeline{}, beside(sh("block"), InSoftParallel), last("echo one"), beside(sh("block"), InSoftParallel), sh("block"),
		last("echo two"), last("echo three")), Start{})
	w.eng.Await(engineID(x, 0, 1))
	w.eng.Await(engineID(x, 2, 1))
	_, err := w.Operate(t.Context(), w.admin, x.ID, OpCancel)
	w.must(err)
	w.expect(x, "TERMINATED TERMINATED(cancelled) SUCCESSFUL TERMINATED(cancelled) NOT_EXECUTED SUCCESSFUL SUCCESSFUL")
}

// A restart goes on with all that were in progress, and with what waited.
func TestParallelRestart(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{Limits: Limits{Runs: 3, Builds: 1}})
	p := w.pipeline(Pipeline{}, beside(sh("echo a\nblock\necho b"), InSoftParallel), beside(sh("echo a\nblock\necho b"), InSoftParallel),
		beside(sh("echo a\nblock\necho b"), InSoftParallel), sh("echo c"))
	x := w.start(p, Start{})
	for i := range 3 {
		w.eng.Await(engineID(x, i, 1))
	}
	w.stop()
	w.eng.Exit(engineID(x, 1, 1), 0) // while nobody looks
	w.restart()
	w.until("the one that had no slot has run", func() bool { return w.statuses(x)[3] == Successful })
	w.eng.Release(engineID(x, 0, 1))
	w.restart()
	w.eng.Release(engineID(x, 2, 1))
	x = w.expect(x, "SUCCESSFUL SUCCESSFUL SUCCESSFUL SUCCESSFUL SUCCESSFUL")
	for _, i := range []int{0, 2} {
		if l := w.lines(x, i); !slices.Equal(l[len(l)-2:], []string{"a", "b"}) || x.Steps[i].Attempt != 1 {
			t.Errorf("the log of %d after %d: %q", i, x.Steps[i].Attempt, l)
		}
	}
	// Cancelled while nobody looks.
	y := w.start(p, Start{})
	for i := range 3 {
		w.eng.Await(engineID(y, i, 1))
	}
	w.stop()
	_, err := w.Operate(t.Context(), w.admin, y.ID, OpCancel)
	w.must(err)
	w.restart()
	w.expect(y, "TERMINATED TERMINATED(cancelled) TERMINATED(cancelled) TERMINATED(cancelled) NOT_EXECUTED")
	w.stop()
	for i := range 4 {
		for _, of := range []Execution{x, y} {
			if spec, ok := w.eng.RunSpec(engineID(of, i, 1)); ok {
				t.Errorf("the engine still knows step %d: %+v", i, spec)
			}
		}
	}
}

// TestParallelEnd ends all that run beside each other, for one reason.
func TestParallelEnd(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	x := w.start(w.pipeline(Pipeline{}, beside(sh("block"), InHardParallel), sh("block")), Start{})
	w.eng.Await(engineID(x, 0, 1))
	w.eng.Await(engineID(x, 1, 1))
	if n := w.r.End(errors.New("the disk is full")); n != 2 {
		t.Errorf("%d were ended", n)
	}
	w.expect(x, "FAILED FAILED(the disk is full) FAILED(the disk is full)")
}

// An action with a loop runs once for each combination, in their order, and goes
// on after a failure and after a restart where it was.
func TestLoop(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	a := sh("echo $WHERE/$GO-$OS $KEY >> made\necho $KEY\nblock")
	a.Loop = []string{"GO", "$OS"}
	a.Variables = []Variable{
		{Key: "OS", Value: " linux , darwin,"},
		{Key: "WHERE", Value: "out/$OS"},
		{Key: "KEY", Value: "secret-one", Encrypted: true},
	}
	p := w.pipeline(Pipeline{Variables: []Variable{{Key: "GO", Value: "1.25,1.26"}}}, a, sh("cat made"))
	x := w.start(p, Start{})
	for n := range 4 {
		w.eng.Await(engineID(x, 0, n+1))
		if n == 1 {
			w.restart()
		}
		w.eng.Release(engineID(x, 0, n+1))
	}
	x = w.expect(x, "SUCCESSFUL SUCCESSFUL SUCCESSFUL")
	want := []string{
		"out/linux/1.25-linux secret-one", "out/darwin/1.25-darwin secret-one", "out/linux/1.26-linux secret-one", "out/darwin/1.26-darwin secret-one",
	}
	if got := w.lines(x, 1); !slices.Equal(got, want) {
		t.Errorf("made %q", got)
	}
	got := strings.Join(w.lines(x, 0), "|")
	if !strings.HasSuffix(got, "loop 1 of 4: GO=1.25, OS=linux|***|Note: loop 2 of 4: GO=1.25, OS=darwin|***|"+
		"Note: loop 3 of 4: GO=1.26, OS=linux|***|Note: loop 4 of 4: GO=1.26, OS=darwin|***") {
		t.Errorf("the log says %q", got)
	}

	for name, c := range map[string]struct {
		a    Action
		want string
	}{
		"tries":   {Action{Loop: []string{"V"}, Retries: 1, Run: &Run{Image: "busybox", Tag: "latest", Commands: "echo $V\ntest -f $V && exit 0; touch $V; exit 1"}}, "SUCCESSFUL SUCCESSFUL"},
		"failure": {Action{Loop: []string{"V"}, Run: &Run{Image: "busybox", Tag: "latest", Commands: "test $V = one"}}, "FAILED FAILED(ended with exit code 1)"},
		"none":    {Action{Loop: []string{"NONE"}, Run: &Run{Image: "busybox", Tag: "latest", Commands: "exit 1"}}, "SUCCESSFUL SUCCESSFUL"},
		"unknown": {Action{Loop: []string{"X"}, Run: &Run{Image: "busybox", Tag: "latest", Commands: "exit 1"}}, "FAILED FAILED(loop: there is no variable X)"},
		"secret":  {Action{Loop: []string{"KEYS"}, Run: &Run{Image: "busybox", Tag: "latest", Commands: "echo $KEYS"}}, "SUCCESSFUL SUCCESSFUL"},
	} {
		c.a.Name = name
		p := w.pipeline(Pipeline{Name: name, Variables: []Variable{
			{Key: "V", Value: "one,two"}, {Key: "NONE", Value: " , "}, {Key: "KEYS", Value: "alpha-key,beta-key", Encrypted: true},
		}}, c.a)
		x := w.expect(w.start(p, Start{}), c.want)
		switch s := x.Steps[0]; {
		case name == "tries" && s.Attempt != 4, name == "failure" && s.Attempt != 2, name == "none" && s.Attempt != 1:
			t.Errorf("%s: %d attempts: %q", name, s.Attempt, w.lines(x, 0))
		case name == "secret" && strings.Contains(strings.Join(w.lines(x, 0), ""), "-key"):
			t.Errorf("%q", w.lines(x, 0))
		}
	}
}

func TestCombinations(t *testing.T) {
	t.Parallel()
	vars := map[string]string{"A": "1,2", "B": "x", "MANY": strings.Repeat("v,", 600)}
	if l, err := combinations([]string{"A", "${B}"}, vars, maxRounds); err != nil || len(l) != 2 || l[1]["A"] != "2" || l[1]["B"] != "x" {
		t.Error(l, err)
	}
	if _, err := combinations([]string{"A", "MANY"}, vars, maxRounds); err == nil || !strings.Contains(err.Error(), "more than 1000") {
		t.Error(err)
	}
	if _, err := combinations([]string{"MANY"}, vars, maxRuns); err == nil || !strings.Contains(err.Error(), "more than 100 ") {
		t.Error(err)
	}
	var inv project.Invalid
	validateLoop(&inv, []string{"A", "B", "$A", "x\x00", strings.Repeat("n", nameMax+1)})
	if bad, ok := project.AsInvalid(inv.Err()); !ok || fmt.Sprint(bad.Fields) != "[{loop.2 conflict is there twice} {loop.3 format must not contain NUL} {loop.4 maximum must be at most 255 characters}]" {
		t.Errorf("%v", inv.Err())
	}
}
