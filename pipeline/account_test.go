package pipeline

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"slipway/access"
	"slipway/logs"
)

func (w *world) account(x Execution) Account {
	w.t.Helper()
	a, err := w.Account(w.t.Context(), w.admin, x.ID)
	w.must(err)
	return a
}

// whys are the words for why each step was run or not.
func (a Account) whys() string {
	var l []string
	for _, s := range a.Steps {
		l = append(l, s.Why.Word)
	}
	return strings.Join(l, " ")
}

// tries are those of a step in words.
func (s StepAccount) tries() string {
	var l []string
	for _, t := range s.Tries {
		l = append(l, fmt.Sprintf("%d.%d.%d %s %s %d", t.Attempt, t.Round, t.Try, t.Status, t.Reason, t.Code))
	}
	return strings.Join(l, ", ")
}

// waits are those of an execution or step in words.
func waits(l []Wait) string {
	var words []string
	for _, w := range l {
		word := w.For
		if w.Until.IsZero() {
			word += "..."
		}
		words = append(words, word)
	}
	return strings.Join(words, " ")
}

func stagedAt(when When, a Action) Action {
	a.When = when
	return a
}

func TestWhyEachStepRan(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	off := sh("true")
	off.Disabled = true
	unmet := sh("true")
	unmet.Conditions = []Condition{{Kind: varIs, Key: "A", Value: "b"}}
	met := sh("true")
	met.Conditions = []Condition{{Kind: varIsNot, Key: "A", Value: "b"}}
	warns := sh("exit 1")
	warns.IgnoreErrors = true
	stages := []Action{
		stagedAt(OnSuccess, sh("true")), stagedAt(OnBackToSuccess, sh("true")), stagedAt(OnWarning, sh("true")), stagedAt(OnFailure, sh("true")),
		stagedAt(OnTerminate, sh("true")), stagedAt(OnWaitForApprove, sh("true")),
	}
	first := stagedAt(OnFailure, sh("true"))
	first.FirstFailureOnly = true
	p := w.pipeline(Pipeline{}, append([]Action{off, unmet, met, warns}, stages...)...)
	good := w.account(w.wait(w.start(p, Start{})))
	if got, want := good.whys(), "DISABLED CONDITIONS_NOT_MET RUN RUN RUN NO_FAILURE_BEFORE RUN NO_FAILURE NOT_CANCELLED NO_APPROVAL"; got != want {
		t.Errorf("whys\n got %s\nwant %s", got, want)
	}
	for i, text := range map[int]string{
		0: "the action is disabled", 1: `VAR_IS: the variable A is not "b"`, 2: "its trigger conditions are met", 6: "an error was ignored",
	} {
		if !strings.Contains(good.Steps[i].Why.Text, text) {
			t.Errorf("%d: %q does not say %q", i, good.Steps[i].Why.Text, text)
		}
	}
	if v := good.Steps[1].Verdict; v == nil || v.Met || len(v.Each) != 1 || good.Steps[0].Verdict != nil {
		t.Errorf("verdict %+v", v)
	}
	bad := w.pipeline(Pipeline{Name: "bad"}, append([]Action{sh("exit 3"), sh("true"), first}, stages...)...)
	one := w.account(w.wait(w.start(bad, Start{})))
	if got, want := one.whys(), "RUN AFTER_FAILURE RUN AFTER_FAILURE AFTER_FAILURE NO_WARNING RUN NOT_CANCELLED NO_APPROVAL"; got != want {
		t.Errorf("whys\n got %s\nwant %s", got, want)
	}
	if got := w.account(w.wait(w.start(bad, Start{}))).Steps[2].Why; got.Word != WhyNotFirst {
		t.Errorf("the second failure: %+v", got)
	}
	actions, err := w.Actions(t.Context(), w.admin, bad.ID)
	w.must(err)
	only := w.account(w.wait(w.start(bad, Start{Only: []ActionID{actions[1].ID}})))
	if got := only.Steps[0].Why.Word + " " + only.Steps[1].Why.Word; got != "NOT_ASKED_FOR RUN" {
		t.Errorf("whys %s", got)
	}
	unmeetable := w.pipeline(Pipeline{Name: "none", Conditions: []Condition{{Kind: varIs, Key: "A", Value: "b"}}}, sh("true"), sh("true"))
	none := w.account(w.wait(w.start(unmeetable, Start{Mode: ByClock})))
	if got := none.whys(); got != "CONDITIONS_NOT_MET CONDITIONS_NOT_MET" || none.Verdict == nil || none.Verdict.Met {
		t.Errorf("%s: whys %s, %+v", none.Status, got, none.Verdict)
	}
}

func TestHowEachTryEnded(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	w.eng.Publish("docker.io/library/oom:latest", w.eng.Image("oom"))
	again := sh("test -f there && exit 0; touch there; exit 7")
	again.Retries, again.RetryInterval = 1, time.Second
	loop := sh("echo $A")
	loop.Loop = []string{"A"}
	loop.Variables = []Variable{{Key: "A", Value: "x,y"}}
	missing := sh("true")
	missing.Run.Image = "nowhere"
	late := sh("sleep 60")
	late.Timeout = time.Second
	memory := sh("oom")
	var all []Action
	for _, a := range []Action{again, loop, missing, late, memory} {
		a.IgnoreErrors = true
		all = append(all, a)
	}
	x := w.wait(w.start(w.pipeline(Pipeline{}, all...), Start{}))
	a := w.account(x)
	for i, want := range []string{
		"1.1.1 FAILED EXIT_CODE 7, 2.1.2 SUCCESSFUL DONE 0",
		"1.1.1 SUCCESSFUL DONE 0, 2.2.1 SUCCESSFUL DONE 0",
		"1.1.1 FAILED NO_IMAGE -1",
		"1.1.1 FAILED TIMEOUT 143",
		"1.1.1 FAILED OUT_OF_MEMORY 137",
	} {
		if got := a.Steps[i].tries(); got != want {
			t.Errorf("%d: tries\n got %s\nwant %s (%s)", i, got, want, a.Steps[i].Error)
		}
	}
	second := a.Steps[0].Tries[1]
	if waits(second.Waits) != WaitRetry || second.Waits[0].Until.Sub(second.Waits[0].Since) < time.Second || second.Started.Before(second.Waits[0].Until) {
		t.Errorf("the second try: %+v", second)
	}
	for _, s := range a.Steps {
		for _, try := range s.Tries {
			if try.Started.Before(s.Started) || try.Finished.After(s.Finished) || try.Finished.Before(try.Started) {
				t.Errorf("times of %+v in those of %s to %s", try, s.Started, s.Finished)
			}
			if (try.Error == "") != (try.Reason == EndDone) {
				t.Errorf("%+v", try)
			}
			if ran := try.Reason != EndNoImage; ran != (try.Memory > 0) || ran != (try.CPU > 0) {
				t.Errorf("it has used %d bytes and %d µs: %+v", try.Memory, try.CPU, try)
			}
		}
	}
	// What was tried before a retry by hand is still told.
	y := w.wait(w.start(w.pipeline(Pipeline{Name: "once"}, sh("test -f too && exit 0; touch too; exit 9")), Start{}))
	_, err := w.Operate(t.Context(), w.admin, y.ID, OpRetry)
	w.must(err)
	w.wait(y)
	if got := w.account(y).Steps[0].tries(); got != "1.1.1 FAILED EXIT_CODE 9, 2.1.1 SUCCESSFUL DONE 0" {
		t.Errorf("tries %s", got)
	}
	s, of, err := w.StepAccount(t.Context(), w.admin, x.Steps[3].ID)
	if err != nil || s.ID != x.Steps[3].ID || of.ID != x.ID || len(s.Tries) != 1 {
		t.Errorf("%+v %v", s, err)
	}
	if _, _, err := w.StepAccount(t.Context(), w.admin, "nothing"); !errdefs.IsNotFound(err) {
		t.Errorf("a step that is not there: %v", err)
	}
}

func TestWhatIsWaitedFor(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{Limits: Limits{Runs: 1, Builds: 1}})
	pipe := w.pipeline(Pipeline{Name: "first", NoSkip: true}, sh("block"), sh("true"))
	a := w.start(pipe, Start{})
	w.eng.Await(engineID(a, 0, 1))
	b := w.start(pipe, Start{})
	other := w.start(w.pipeline(Pipeline{Name: "other"}, beside(sh("block"), InSoftParallel), sh("true")), Start{})
	delayed := w.start(w.pipeline(Pipeline{Name: "late"}, sh("true")), Start{Delay: time.Now().Add(time.Hour)})
	for _, c := range []struct {
		x          Execution
		waits, why string
	}{
		{a, "", WhyRun}, {b, "PIPELINE...", WhyWaits}, {other, "RUN_SLOT...", WhyWaits}, {delayed, "DELAY...", WhyWaits},
	} {
		acc := w.account(c.x)
		if got := waits(acc.Waits); got != c.waits || acc.Steps[0].Why.Word != c.why {
			t.Errorf("%d waits for %q, want %q: %+v", c.x.Number, got, c.waits, acc.Steps[0].Why)
		}
	}
	if why := w.account(b).Steps[0].Why.Text; why != "the execution waits for another execution of the pipeline to end" {
		t.Errorf("why %q", why)
	}
	if why := w.account(a).Steps[1].Why.Word; why != WhyNotReached {
		t.Errorf("what comes later: %q", why)
	}
	w.eng.Release(engineID(a, 0, 1))
	w.eng.Await(engineID(b, 0, 1)) // the older one
	if got := waits(w.account(b).Waits); got != "PIPELINE" && got != "PIPELINE RUN_SLOT" {
		t.Errorf("the second waited for %q", got)
	}
	w.eng.Release(engineID(b, 0, 1))
	w.wait(b)
	w.eng.Await(engineID(other, 0, 1))
	acc := w.account(other)
	if n := len(acc.Waits); n != 1 || acc.Waits[0].For != WaitRun || !acc.Waits[0].Until.Equal(acc.Started) || acc.Waits[0].Since.After(acc.Waits[0].Until) {
		t.Errorf("%+v, begun at %s", acc.Waits, acc.Started)
	}
	if got := waits(acc.Steps[1].Waits); got != "RUN_SLOT..." || acc.Steps[1].Why.Word != WhyWaits {
		t.Errorf("beside the first: %q %+v", got, acc.Steps[1].Why)
	}
	w.eng.Release(engineID(other, 0, 1))
	w.wait(other)
	if s := w.account(other).Steps[1]; len(s.Waits) != 0 || waits(s.Tries[0].Waits) != WaitRun {
		t.Errorf("it has waited: %+v", s)
	}
	// What waited when it was cancelled waits no more.
	_, err := w.Operate(t.Context(), w.admin, delayed.ID, OpCancel)
	w.must(err)
	w.wait(delayed)
	acc = w.account(delayed)
	if got := waits(acc.Waits); got != "DELAY" || acc.whys() != WhyCancelled {
		t.Errorf("cancelled: waits %q, whys %s", got, acc.whys())
	}
	// One that a newer one replaced says so.
	hold := w.pipeline(Pipeline{Name: "skips"}, sh("block"))
	first := w.start(hold, Start{})
	w.eng.Await(engineID(first, 0, 1))
	old, young := w.start(hold, Start{}), w.start(hold, Start{})
	if got := w.account(old); got.whys() != WhySuperseded || !strings.Contains(got.Steps[0].Why.Text, "is newer") || waits(got.Waits) != WaitPipeline {
		t.Errorf("replaced: %+v", got)
	}
	w.eng.Release(engineID(first, 0, 1))
	w.eng.Await(engineID(young, 0, 1))
	w.eng.Release(engineID(young, 0, 1))
	w.wait(young)
}

// Who may not see an action is told nothing of it, in the account neither.
func TestAccountIsNarrowed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	hidden := sh("true")
	hidden.Permissions = &Permissions{Others: string(access.Denied)}
	x := w.wait(w.start(w.pipeline(Pipeline{}, hidden, sh("true")), Start{}))
	by := w.member("m@example.com", 1)
	a, err := w.Account(t.Context(), by, x.ID)
	w.must(err)
	if len(a.Steps) != 1 || a.Steps[0].ID != x.Steps[1].ID || len(a.Execution.Steps) > 0 {
		t.Errorf("%+v", a.Steps)
	}
	if _, _, err := w.StepAccount(t.Context(), by, x.Steps[0].ID); !errdefs.IsNotFound(err) {
		t.Errorf("a hidden one: %v", err)
	}
}

// A login that is refused is told as that.
func TestRefusedPull(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	w.eng.FailNext("Pull", fmt.Errorf("registry x refuses the login of user y: %w", errdefs.ErrUnauthenticated))
	x := w.wait(w.start(w.pipeline(Pipeline{}, sh("true")), Start{}))
	if got := w.account(x).Steps[0].tries(); got != "1.1.1 FAILED PULL_REFUSED -1" {
		t.Errorf("tries %s", got)
	}
	w.eng.Protect("closed.example", "ann", "right")
	w.commit("Dockerfile", "FROM closed.example/team/base:1\n")
	x = w.wait(w.start(w.pipeline(Pipeline{Name: "build"}, Action{Name: "build", Build: &Build{Dockerfile: "Dockerfile"}}), Start{}))
	if got := w.account(x).Steps[0].tries(); got != "1.1.1 FAILED PULL_REFUSED 1" {
		t.Errorf("tries of a build: %s (%s)", got, x.Steps[0].Error)
	}
}

func TestWaitsText(t *testing.T) {
	t.Parallel()
	l := []Wait{{WaitDelay, noon, noon.Add(time.Second)}, {For: WaitRun, Since: noon.Add(time.Second)}}
	got, err := readWaits(waitsText(l))
	if err != nil || !slices.EqualFunc(got, l, func(a, b Wait) bool { return a.For == b.For && a.Since.Equal(b.Since) && a.Until.Equal(b.Until) }) {
		t.Errorf("%q is %v %v", waitsText(l), got, err)
	}
	for _, text := range []string{"X", "X:1", "X:a:", "X:1:2:3"} {
		if _, err := readWaits(text); err == nil {
			t.Errorf("%q is read", text)
		}
	}
	if l := waiting(l, WaitRun, noon.Add(2*time.Second)); len(l) != 2 {
		t.Errorf("the same again: %v", l)
	}
	if l := waiting(l, "", noon.Add(time.Second)); len(l) != 1 {
		t.Errorf("what took no time stays: %v", l)
	}
}

// What ran of a deleted pipeline is not found by the id of a step either.
func TestStepsOfADeletedPipeline(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	p := w.pipeline(Pipeline{Name: "p"}, sh("echo done"))
	x := w.wait(w.start(p, Start{}))
	step := x.Steps[0].ID
	ask := func() (account, log error) {
		_, _, account = w.StepAccount(t.Context(), w.admin, step)
		return account, w.StreamLog(t.Context(), w.admin, step, func([]logs.Line) error { return nil })
	}
	if account, log := ask(); account != nil || log != nil {
		t.Errorf("before: %v, %v", account, log)
	}
	w.must(w.Delete(t.Context(), w.admin, p.ID))
	if account, log := ask(); !errdefs.IsNotFound(account) || !errdefs.IsNotFound(log) {
		t.Errorf("after: %v, %v", account, log)
	}
}
