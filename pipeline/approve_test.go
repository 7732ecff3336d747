package pipeline

import (
	"testing"
	"time"

	"github.com/containerd/errdefs"
)

// approved is an action that waits to be approved.
func approved(a Action) Action {
	a.Approval = true
	return a
}

// An execution waits for as long as nobody approves, also across a restart, and
// takes nothing from others meanwhile.
func TestApproval(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{Limits: Limits{Runs: 1, Builds: 1}})
	ctx := t.Context()
	told := sh("echo it waits")
	told.When = OnWaitForApprove
	p := w.pipeline(Pipeline{}, sh("true"), approved(sh("echo by $BUDDY_APPROVING_ACTOR")), told, sh("true"))
	other := w.pipeline(Pipeline{Name: "other"}, sh("true"))
	x := w.start(p, Start{})
	w.until("it waits", func() bool {
		x = w.now(x)
		return x.Shown() == WaitingForApply && x.Steps[2].Status == Successful
	})
	if got := w.words(x); got != "INPROGRESS SUCCESSFUL ENQUEUED SUCCESSFUL INITIAL" || x.Steps[1].Shown() != WaitingForApply {
		t.Error(got)
	}
	if a := w.account(x); a.Steps[1].Why.Word != WhyWaits || len(a.Steps[1].Waits) != 1 || a.Steps[1].Waits[0].For != WaitApproval {
		t.Errorf("%+v", a.Steps[1])
	}
	if p, err := w.Get(ctx, w.admin, p.ID); err != nil || p.LastStatus != WaitingForApply {
		t.Errorf("%s, %v", p.LastStatus, err)
	}
	if l := w.lines(x, 2); l[len(l)-1] != "it waits" {
		t.Errorf("%q", l)
	}
	w.expect(w.start(other, Start{}), "SUCCESSFUL SUCCESSFUL")
	w.restart()
	w.expect(w.start(other, Start{}), "SUCCESSFUL SUCCESSFUL")
	if x = w.now(x); x.Shown() != WaitingForApply {
		t.Fatal(w.words(x))
	}
	reader := w.member("reader@example.com", 1)
	if _, err := w.Operate(ctx, reader, x.ID, OpApply); !errdefs.IsPermissionDenied(err) {
		t.Errorf("who may not run it approves it: %v", err)
	}
	if _, err := w.Operate(ctx, w.admin, x.ID, OpApplyVariables); !errdefs.IsInvalidArgument(err) {
		t.Errorf("it waits for no variables: %v", err)
	}
	begun := time.Now()
	if y, err := w.Operate(ctx, w.admin, x.ID, OpApply); err != nil || y.Shown() != InProgress || y.Steps[1].Approver != w.admin.User.ID {
		t.Fatalf("%v %+v", err, y.Steps[1])
	}
	x = w.expect(x, "SUCCESSFUL SUCCESSFUL SUCCESSFUL SUCCESSFUL SUCCESSFUL")
	if s := x.Steps[1]; s.Held || x.Held || s.Approved.Before(begun.Add(-time.Second)) || s.Approver != w.admin.User.ID {
		t.Errorf("%+v", s)
	}
	if got := w.last(x, 1); got != "by admin" {
		t.Errorf("%q", got)
	}
	if _, err := w.Operate(ctx, w.admin, x.ID, OpApply); !errdefs.IsInvalidArgument(err) {
		t.Errorf("nothing waits: %v", err)
	}
}

// One that waits can be cancelled, and a retry asks again.
func TestApprovalRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	ctx := t.Context()
	x := w.start(w.pipeline(Pipeline{}, approved(sh("exit 3")), sh("true")), Start{})
	waits := func() bool { x = w.now(x); return x.Shown() == WaitingForApply }
	w.until("it waits", waits)
	_, err := w.Operate(ctx, w.admin, x.ID, OpCancel)
	w.must(err)
	x = w.expect(x, "TERMINATED NOT_EXECUTED NOT_EXECUTED")
	if x.EndedBy(x.Steps[0]) != w.admin.User.ID || x.EndedBy(ActionExecution{Status: Skipped}) != 0 {
		t.Errorf("cancelled by %d", x.EndedBy(x.Steps[0]))
	}
	if l := x.Steps[0].Waits; len(l) != 1 || l[0].For != WaitApproval || l[0].Until.IsZero() {
		t.Errorf("%+v", l)
	}
	_, err = w.Operate(ctx, w.admin, x.ID, OpRetry)
	w.must(err)
	for range 2 {
		w.until("it waits", waits)
		_, err = w.Operate(ctx, w.admin, x.ID, OpApply)
		w.must(err)
		if x = w.wait(x); x.Status != Failed || x.Steps[0].Code != 3 || x.Steps[1].Status != NotExecuted {
			t.Fatal(w.words(x))
		}
		_, err = w.Operate(ctx, w.admin, x.ID, OpRetry)
		w.must(err)
	}
}

// Those that begin together wait for one of them; what is beside them does not.
func TestApprovalBeside(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	x := w.start(w.pipeline(Pipeline{}, beside(sh("block"), InSoftParallel), beside(sh("true"), InHardParallel), approved(sh("true")), sh("true")), Start{})
	w.until("one waits", func() bool { x = w.now(x); return x.Steps[2].Held })
	w.eng.Await(engineID(x, 0, 1))
	if x = w.now(x); x.Shown() != InProgress || x.Steps[1].Status != Initial {
		t.Errorf("%s", w.words(x))
	}
	w.eng.Release(engineID(x, 0, 1))
	w.until("all wait", func() bool { x = w.now(x); return x.Shown() == WaitingForApply })
	if got := w.words(x); got != "INPROGRESS SUCCESSFUL INITIAL ENQUEUED INITIAL" {
		t.Error(got)
	}
	_, err := w.Operate(t.Context(), w.admin, x.ID, OpApply)
	w.must(err)
	w.expect(x, "SUCCESSFUL SUCCESSFUL SUCCESSFUL SUCCESSFUL SUCCESSFUL")
}

// What was approved is not asked for again by a retry that does not come to it.
func TestApprovalKept(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	told := sh("echo it waits")
	told.When = OnWaitForApprove
	x := w.start(w.pipeline(Pipeline{}, approved(sh("true")), sh("exit 3"), told), Start{})
	w.until("it waits", func() bool { x = w.now(x); return x.Shown() == WaitingForApply })
	_, err := w.Operate(t.Context(), w.admin, x.ID, OpApply)
	w.must(err)
	if x = w.wait(x); x.Status != Failed || x.Steps[2].Status != Successful {
		t.Fatal(w.words(x))
	}
	_, err = w.Operate(t.Context(), w.admin, x.ID, OpRetry)
	w.must(err)
	if x = w.wait(x); x.Status != Failed || x.Steps[0].Attempt != 1 || x.Steps[2].Status != NotExecuted || x.Steps[2].Attempt != 1 {
		t.Fatal(w.words(x))
	}
}
