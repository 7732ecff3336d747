package pipeline

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"slipway/db"
	"slipway/project"
)

// asking is an action that waits for variables.
func asking(a Action, keys ...string) Action {
	a.Asks = keys
	return a
}

// An execution waits for variables for as long as nobody gives them, also across a
// restart, and takes nothing from others meanwhile.
func TestAskedVariables(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{Limits: Limits{Runs: 1, Builds: 1}})
	ctx := t.Context()
	ask := asking(sh("echo $VERSION $TOKEN $LEVEL"), "VERSION", "TOKEN", "LEVEL")
	ask.Variables = []Variable{{Key: "LEVEL", Value: "low"}, {Key: "TOKEN", Encrypted: true, Value: ""}, {Key: "VERSION", Value: ""}}
	told := sh("echo somebody")
	told.When = OnWaitForApprove
	p := w.pipeline(Pipeline{}, ask, told, sh("echo $VERSION $LEVEL"))
	other := w.pipeline(Pipeline{Name: "other"}, sh("true"))
	x := w.start(p, Start{})
	waits := func() bool { x = w.now(x); return x.Shown() == WaitingForVariables }
	w.until("it waits", waits)
	if got := w.words(x); got != "INPROGRESS ENQUEUED INITIAL INITIAL" || x.Steps[0].Shown() != WaitingForVariables {
		t.Error(got)
	}
	a := w.account(x)
	if s := a.Steps[0]; s.Why.Word != WhyWaits || s.Why.Text != "it waits for somebody to give VERSION, TOKEN, LEVEL (operation APPLY_VARIABLES)" || s.Waits[0].For != WaitVariables {
		t.Errorf("%+v", s)
	}
	if p, err := w.Get(ctx, w.admin, p.ID); err != nil || p.LastStatus != WaitingForVariables {
		t.Errorf("%s, %v", p.LastStatus, err)
	}
	w.expect(w.start(other, Start{}), "SUCCESSFUL SUCCESSFUL")
	w.restart()
	w.expect(w.start(other, Start{}), "SUCCESSFUL SUCCESSFUL")
	w.until("it waits", waits)
	v := func(key, value string) Variable { return Variable{Key: key, Value: value} }
	apply := func(given ...Variable) error {
		_, err := w.Operate(ctx, w.admin, x.ID, OpApplyVariables, given...)
		return err
	}
	for want, given := range map[string][]Variable{
		"variables variables":                       nil,
		"variables":                                 {v("VERSION", "1")},
		"variables.2.key":                           {v("VERSION", "1"), v("TOKEN", "x"), v("OTHER", "x")},
		"variables.2.key variables.2.value":         {v("VERSION", "1"), v("TOKEN", "x"), v("VERSION", "\x00")},
		"variables.0.value":                         {{Key: "VERSION", Value: "!encrypted", Encrypted: true}, v("TOKEN", "x")},
		"variables variables.0.key variables.0.key": {v("a b", ""), v("TOKEN", "x")},
	} {
		got := refusedMembers(apply(given...))
		slices.Sort(got)
		if strings.Join(got, " ") != want {
			t.Errorf("%v: %v, want %s", given, got, want)
		}
	}
	for op, given := range map[Operation][]Variable{OpApply: nil, OpRetry: {v("VERSION", "1")}, OpCancel: {v("VERSION", "1")}} {
		if _, err := w.Operate(ctx, w.admin, x.ID, op, given...); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", op, err)
		}
	}
	reader := w.member("reader@example.com", 1)
	if _, err := w.Operate(ctx, reader, x.ID, OpApplyVariables, v("VERSION", "1"), v("TOKEN", "x")); !errdefs.IsPermissionDenied(err) {
		t.Errorf("who may not run it gives variables: %v", err)
	}
	if x = w.now(x); x.Shown() != WaitingForVariables || len(x.Variables) != 0 {
		t.Fatalf("%s %+v", w.words(x), x.Variables)
	}
	w.must(apply(v("VERSION", "1.2"), v("TOKEN", "hidden-token")))
	x = w.expect(x, "SUCCESSFUL SUCCESSFUL NOT_EXECUTED SUCCESSFUL")
	if got := w.last(x, 0); got != "1.2 *** low" || w.last(x, 2) != "1.2 " {
		t.Errorf("%q, %q", got, w.last(x, 2))
	}
	if s := x.Steps[0]; s.Asking || x.Asking || s.Given.IsZero() || fmt.Sprint(x.Variables[1].Value) != "!encrypted" {
		t.Errorf("%+v %+v", s, x.Variables)
	}
	if text := w.account(x).Steps[0].Why.Text; !strings.HasSuffix(text, "; it got the variables that it asked for") {
		t.Error(text)
	}
	if bad, ok := project.AsInvalid(apply(v("VERSION", "1"))); !ok || bad.Fields[0].Path != "operation" {
		t.Errorf("nothing waits: %v", bad)
	}
	var rows int
	w.must(w.db.Read(ctx, func(tx *db.Tx) error {
		return tx.QueryRow(`SELECT count(*) FROM executions WHERE input LIKE '%hidden-token%' OR frozen LIKE '%hidden-token%'`).Scan(&rows)
	}))
	if rows != 0 {
		t.Error("the value is in the store as it is")
	}
}

// A retry asks again, and has what was given before; what the action says of it has
// no say.
func TestAskedAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	ctx := t.Context()
	ask := approved(asking(sh("echo $CODE\nexit $CODE"), "CODE"))
	ask.Variables = []Variable{{Key: "CODE", Value: "4", Settable: true}}
	x := w.start(w.pipeline(Pipeline{}, ask), Start{})
	waits := func(s Status) func() bool { return func() bool { x = w.now(x); return x.Shown() == s } }
	once := func(given ...Variable) {
		t.Helper()
		w.until("it waits to be approved", waits(WaitingForApply))
		if _, err := w.Operate(ctx, w.admin, x.ID, OpApplyVariables, given...); !errdefs.IsInvalidArgument(err) {
			t.Errorf("before it was approved: %v", err)
		}
		_, err := w.Operate(ctx, w.admin, x.ID, OpApply)
		w.must(err)
		w.until("it waits for variables", waits(WaitingForVariables))
		_, err = w.Operate(ctx, w.admin, x.ID, OpApplyVariables, given...)
		w.must(err)
		x = w.wait(x)
	}
	retry := func() {
		t.Helper()
		_, err := w.Operate(ctx, w.admin, x.ID, OpRetry)
		w.must(err)
	}
	once()
	if x.Steps[0].Code != 4 {
		t.Errorf("%+v", x.Steps[0])
	}
	retry()
	once(Variable{Key: "CODE", Value: "3"})
	if x.Steps[0].Code != 3 {
		t.Errorf("%+v", x.Steps[0])
	}
	retry()
	once()
	if x.Steps[0].Code != 3 {
		t.Errorf("%+v", x.Steps[0])
	}
	retry()
	w.until("it waits to be approved", waits(WaitingForApply))
	_, err := w.Operate(ctx, w.admin, x.ID, OpApply)
	w.must(err)
	w.until("it waits for variables", waits(WaitingForVariables))
	_, err = w.Operate(ctx, w.admin, x.ID, OpCancel)
	w.must(err)
	x = w.expect(x, "TERMINATED NOT_EXECUTED")
	if x.Steps[0].Asking || x.Asking {
		t.Errorf("%+v", x.Steps[0])
	}
}

func TestBadAsked(t *testing.T) {
	t.Parallel()
	for want, a := range map[string]Action{
		"wait_for_variables.1 wait_for_variables.2 wait_for_variables.3": asking(sh("true"), "A", "a b", "A", strings.Repeat("x", maxKey+1)),
		"wait_for_variables": {Name: "x", When: OnTerminate, Asks: []string{"A"}, Run: sh("true").Run},
	} {
		var inv project.Invalid
		a.Validate(&inv)
		if got := strings.Join(refusedMembers(inv.Err()), " "); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	var inv project.Invalid
	many := asking(sh("true"), slices.Repeat([]string{"A"}, maxAsked+1)...)
	if many.Validate(&inv); len(inv.Fields) != 1 || inv.Fields[0].Kind != "maximum" {
		t.Errorf("%+v", inv)
	}
}
