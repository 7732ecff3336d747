package pipeline

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// fate is what will become of a step whenever it runs: for each round of its
// loop how many of its runs fail, before one that does not.
type fate struct {
	rounds []int
	unmet  bool
}

// drama is a random pipeline, and what will become of its steps.
type drama struct {
	x     Execution
	fates []fate
}

func drawDrama(t *rapid.T) drama {
	p := drama{x: Execution{Status: InProgress, Started: noon}}
	p.x.Previous = rapid.SampledFrom([]Status{"", Failed, Successful}).Draw(t, "previous")
	whens := append([]When{"", "", "", OnEvery, OnEvery}, Whens()...)
	nexts := []RunNext{"", WaitOnSuccess, InSoftParallel, InHardParallel, InHardParallel}
	for i := range rapid.IntRange(0, 8).Draw(t, "steps") {
		bits := rapid.IntRange(0, 1<<10-1).Draw(t, "bits")
		a := Action{
			ID: ActionID(i + 1), Run: &Run{}, When: rapid.SampledFrom(whens).Draw(t, "when"),
			RunNext: rapid.SampledFrom(nexts).Draw(t, "next"), Retries: bits & 3 % 3, RetryInterval: time.Duration(bits>>2&1) * time.Minute,
			Disabled: bits>>3&7 == 0, IgnoreErrors: bits>>6&3 == 0,
		}
		a.FirstFailureOnly = a.When == OnFailure && bits>>8&1 == 1
		a.Approval = a.When != OnWaitForApprove && a.When != OnTerminate && rapid.IntRange(0, 5).Draw(t, "approval") == 0
		if a.When != OnWaitForApprove && a.When != OnTerminate && rapid.IntRange(0, 5).Draw(t, "asks") == 0 {
			a.Asks = []string{"V"}
		}
		if bits>>4&1 == 1 {
			a.Build, a.Run = &Build{}, nil
		}
		f := fate{unmet: bits>>7&7 == 0}
		if f.unmet || bits>>9 == 1 {
			a.Conditions = []Condition{{Kind: onChange}}
		}
		for range 1 + bits>>5&1*rapid.IntRange(0, 2).Draw(t, "more rounds") {
			f.rounds = append(f.rounds, max(0, rapid.IntRange(-3, 3).Draw(t, "failures")))
		}
		p.x.Steps = append(p.x.Steps, ActionExecution{Index: i, Status: Initial, Action: a})
		p.fates = append(p.fates, f)
		if rapid.IntRange(0, 9).Draw(t, "only") == 0 {
			p.x.Only = append(p.x.Only, a.ID)
		}
	}
	return p
}

// end is what becomes of a step that runs, and how often it does.
func (p drama) end(i int) (Status, int) {
	runs, retries := 0, p.x.Steps[i].Action.Retries
	for _, failures := range p.fates[i].rounds {
		if failures > retries {
			return Failed, runs + retries + 1
		}
		runs += failures + 1
	}
	return Successful, runs
}

// expected is the model: what becomes of each step of an execution that nobody
// cancels, how often it runs, and what becomes of the execution.
func (p drama) expected() (Status, []Status, []int) {
	statuses, runs := make([]Status, len(p.x.Steps)), make([]int, len(p.x.Steps))
	var failed, warned, held bool
	for _, stage := range []When{OnEvery, OnSuccess, OnBackToSuccess, OnWarning, OnFailure, OnWaitForApprove, OnTerminate} {
		linked, failedBefore, warnedBefore := false, failed, warned
		for i, s := range p.x.Steps {
			a := s.Action
			if a.When != stage && (a.When != "" || stage != OnEvery) {
				continue
			}
			if !linked { // what its group has made of things is known to the next one
				failedBefore, warnedBefore = failed, warned
			}
			linked = a.RunNext == InSoftParallel || a.RunNext == InHardParallel
			reached := map[When]bool{
				OnEvery: !failedBefore, OnSuccess: !failedBefore, OnBackToSuccess: !failedBefore && p.x.Previous == Failed, OnWarning: warnedBefore,
				OnFailure: failedBefore && !(a.FirstFailureOnly && p.x.Previous == Failed), OnWaitForApprove: held,
			}[stage]
			switch {
			case a.Disabled || len(p.x.Only) > 0 && !slices.Contains(p.x.Only, a.ID):
				statuses[i] = Skipped
			case !reached:
				statuses[i] = NotExecuted
			case p.fates[i].unmet:
				statuses[i] = Skipped
			default:
				statuses[i], runs[i] = p.end(i)
				held = held || a.Approval
				failed = failed || statuses[i] == Failed && !a.IgnoreErrors
				warned = warned || statuses[i] == Failed && a.IgnoreErrors
			}
		}
	}
	if failed {
		return Failed, statuses, runs
	}
	return Successful, statuses, runs
}

// stage is one that performs a drama: it has slots, and time.
type stage struct {
	*rapid.T
	drama
	now     time.Time
	running []int
	failed  []int // runs of the present round that have failed
	runs    []int
	kills   bool           // it may be cancelled
	before  map[int]Status // what steps were when it was
}

// perform plays it to its end.
func (s *stage) perform() {
	s.failed = make([]int, len(s.x.Steps))
	s.runs = make([]int, len(s.x.Steps))
	for range 1000 {
		d := Next(s.x, s.now)
		if d.Status != "" {
			s.check(len(s.running) == 0, "it ends while %v run", s.running)
			s.mark(d)
			s.x.Status = d.Status
			after := Next(s.x, s.now)
			s.check(fmt.Sprint(after) == fmt.Sprint(Decision{}), "after its end: %+v", after)
			return
		}
		s.mark(d)
		s.hold(d.Hold)
		s.want(d.Want)
		waits := len(d.Hold)+len(d.Want) > 0
		switch {
		case s.kills && rapid.IntRange(0, 30).Draw(s.T, "cancel") == 0:
			s.cancel()
		case len(d.Ask) > 0:
			s.check(!slices.ContainsFunc(slices.Concat(s.running, slices.Concat(d.Start...)), func(i int) bool { return !s.apart(i, d.Ask[0]) }),
				"asks %v while %v run, and starts %v", d.Ask, s.running, d.Start)
			for _, i := range d.Ask {
				s.x.Steps[i].Verdict = &Verdict{Met: !s.fates[i].unmet}
				if s.fates[i].unmet {
					s.x.Steps[i].Status = Skipped
				}
			}
		case len(d.Start) > 0 && (len(s.running) == 0 || rapid.Bool().Draw(s.T, "slots")):
			s.units(d.Start)
			s.start(d.Start[rapid.IntRange(0, len(d.Start)-1).Draw(s.T, "unit")])
		case len(s.running) > 0:
			n := rapid.IntRange(0, len(s.running)-1).Draw(s.T, "which")
			s.settle(n)
		case d.Again.After(s.now) && (!waits || rapid.Bool().Draw(s.T, "time goes by")):
			s.now = d.Again
		default:
			s.check(waits, "stuck: %+v", d)
			s.approve()
			s.give()
		}
		if waits && s.x.Status == InProgress && rapid.IntRange(0, 5).Draw(s.T, "give") == 0 {
			s.give()
		}
		if len(d.Hold) > 0 && s.x.Status == InProgress && rapid.IntRange(0, 5).Draw(s.T, "approve") == 0 {
			s.approve()
		}
	}
	s.Fatal("no end")
}

func (s *stage) check(ok bool, format string, a ...any) {
	if !ok {
		s.Fatalf(format, a...)
	}
}

func (s *stage) mark(d Decision) {
	for status, steps := range map[Status][]int{Skipped: d.Skip, NotExecuted: d.Drop, Terminated: d.Halt} {
		for _, i := range steps {
			was := s.x.Steps[i].Status
			s.check(was == Initial || was == Enqueued, "step %d was %s and is %s", i, was, status)
			s.x.Steps[i].Status = status
		}
	}
}

// hold notes what waits to be approved: what was wanted, and nothing twice.
func (s *stage) hold(steps []int) {
	for _, i := range steps {
		st := &s.x.Steps[i]
		s.check((st.Status == Initial || st.Held) && st.Action.Approval && st.Approved.IsZero(), "%d waits to be approved: %+v", i, st)
		st.Held, st.Status = true, Enqueued
	}
}

// want notes what waits for variables: what was wanted, approved before, and nothing
// twice.
func (s *stage) want(steps []int) {
	for _, i := range steps {
		st := &s.x.Steps[i]
		approved := !st.Action.Approval || !st.Approved.IsZero()
		s.check((st.Status == Initial || st.Status == Enqueued) && len(st.Action.Asks) > 0 && st.Given.IsZero() && approved && !st.Held, "%d waits for variables: %+v", i, st)
		st.Asking, st.Status = true, Enqueued
	}
}

// give gives all that wait for variables theirs.
func (s *stage) give() {
	for i := range s.x.Steps {
		if st := &s.x.Steps[i]; st.Asking {
			st.Asking, st.Given = false, s.now
		}
	}
}

// approve says of all that wait that they may be run.
func (s *stage) approve() {
	for i := range s.x.Steps {
		if st := &s.x.Steps[i]; st.Held {
			st.Held, st.Approved = false, s.now
		}
	}
}

// units looks at what may begin: steps of one group, whose predecessors have
// ended, and those that are hard linked in one unit.
func (s *stage) units(units [][]int) {
	all := slices.Concat(units...)
	for _, i := range all {
		st := s.x.Steps[i]
		s.check(st.Status == Initial || st.Status == Enqueued, "%d begins and is %s", i, st.Status)
		for j, other := range s.x.Steps {
			if other.Action.stage() != st.Action.stage() || s.group(i) == s.group(j) {
				continue
			}
			s.check(j > i || other.Status.Ended(), "%d begins before %d, which is %s", i, j, other.Status)
			s.check(j < i || !slices.Contains(s.running, j), "%d begins and %d runs", i, j)
		}
		for _, j := range all {
			s.check(s.group(i) == s.group(j) || s.apart(i, j), "%d and %d begin, of different groups", i, j)
		}
		s.check(!st.Action.Approval || !st.Approved.IsZero(), "%d begins and is not approved", i)
		s.check(len(st.Action.Asks) == 0 || !st.Given.IsZero(), "%d begins without its variables", i)
	}
	for _, u := range units {
		for _, i := range u {
			for j := range s.x.Steps {
				if s.x.Steps[j].Status == Initial && s.hard(i, j) && s.x.Steps[i].Status == Initial {
					s.check(slices.Contains(u, j), "%d begins without %d: %v", i, j, units)
				}
			}
		}
	}
}

// apart tells whether just one of two steps is run because others wait to be
// approved.
func (s *stage) apart(i, j int) bool {
	return (s.x.Steps[i].Action.When == OnWaitForApprove) != (s.x.Steps[j].Action.When == OnWaitForApprove)
}

// group is the first step of those beside which one runs.
func (s *stage) group(i int) int { return s.first(i, InSoftParallel, InHardParallel) }

func (s *stage) hard(i, j int) bool {
	return s.x.Steps[i].Action.stage() == s.x.Steps[j].Action.stage() && s.first(i, InHardParallel) == s.first(j, InHardParallel)
}

func (s *stage) first(i int, links ...RunNext) int {
	for j := i - 1; j >= 0; j-- {
		if s.x.Steps[j].Action.stage() != s.x.Steps[i].Action.stage() {
			continue
		}
		if !slices.Contains(links, s.x.Steps[j].Action.RunNext) {
			break
		}
		i = j
	}
	return i
}

func (s *stage) start(unit []int) {
	for _, i := range unit {
		s.x.Steps[i].Status = InProgress
		s.x.Steps[i].Attempt++
		s.x.Steps[i].Started = s.now
		s.runs[i]++
		s.running = append(s.running, i)
	}
}

func (s *stage) settle(n int) {
	i := s.running[n]
	s.running = slices.Delete(s.running, n, n+1)
	st := s.x.Steps[i]
	r := Result{Status: Successful, More: st.Round < len(s.fates[i].rounds)-1}
	switch {
	case s.x.Status == Terminating && st.Action.When != OnTerminate && rapid.IntRange(0, 4).Draw(s.T, "late") > 0:
		r.Status = Terminated
	case s.failed[i] < s.fates[i].rounds[st.Round]:
		s.failed[i]++
		r.Status = Failed
	default:
		s.failed[i] = 0
	}
	s.x.Steps[i] = Settle(st, r, s.now)
}

func (s *stage) cancel() {
	s.x.Status, s.kills, s.before = Terminating, false, map[int]Status{}
	for i, st := range s.x.Steps {
		s.before[i] = st.Status
		if st.Attempt > 0 && st.Status == Enqueued {
			s.before[i] = Terminated
		}
	}
}

// ended compares the end of one that was cancelled with the model.
func (s *stage) ended() {
	s.check(s.x.Status == Terminated, "cancelled, and %s", s.x.Status)
	for i, st := range s.x.Steps {
		a, was := st.Action, s.before[i]
		skip := a.Disabled || len(s.x.Only) > 0 && !slices.Contains(s.x.Only, a.ID)
		var want []Status
		switch {
		case was.Ended():
			want = []Status{was}
		case a.When == OnTerminate && !skip && s.fates[i].unmet:
			want = []Status{Skipped}
		case a.When == OnTerminate && !skip:
			end, runs := s.end(i)
			want = []Status{end}
			s.check(s.runs[i] == runs, "%d runs %d times, want %d", i, s.runs[i], runs)
		case was == InProgress:
			want = []Status{Terminated, Successful, Failed}
		case skip:
			want = []Status{Skipped}
		default:
			want = []Status{NotExecuted}
		}
		s.check(slices.Contains(want, st.Status), "%d was %s when it was cancelled, and is %s, want %s", i, was, st.Status, want)
	}
}

// TestFlow plays 10,000 random pipelines and compares what becomes of them with
// the model: statuses, order, groups, retries, loops, conditions, and what a
// cancel at any time and a retry leave.
func TestFlow(t *testing.T) {
	t.Parallel()
	for range 100 { // of a hundred
		rapid.Check(t, func(t *rapid.T) {
			p := drawDrama(t)
			s := &stage{T: t, drama: p, now: noon, kills: rapid.Bool().Draw(t, "may be cancelled")}
			s.x.Steps = slices.Clone(p.x.Steps)
			s.perform()
			if s.before != nil {
				s.ended()
			} else {
				status, steps, runs := p.expected()
				s.check(s.x.Status == status, "it is %s, want %s: %s", s.x.Status, status, tale(s.x))
				for i, st := range s.x.Steps {
					s.check(st.Status == steps[i] && s.runs[i] == runs[i], "%d is %s after %d runs, want %s after %d: %s",
						i, st.Status, s.runs[i], steps[i], runs[i], tale(s.x))
				}
			}
			s.told()
			s.again()
		})
	}
}

// told checks that of each step of one that has ended it is known why it was run
// or not.
func (s *stage) told() {
	for i, st := range s.x.Steps {
		why := s.x.Why(i)
		s.check((why.Word == WhyRun) == (st.Status != Skipped && st.Status != NotExecuted) && why.Text != "" && why.Word != WhyWaits && why.Word != WhyNotReached,
			"%d is %s after %d runs, since %+v: %s", i, st.Status, s.runs[i], why, tale(s.x))
		s.check(st.Status != Terminated || s.x.Status == Terminated, "%d is cancelled, and nobody cancelled: %s", i, tale(s.x))
	}
}

// again retries one that failed or was cancelled, now with luck: what was good is
// not done again, all else is, and it is successful.
func (s *stage) again() {
	if s.x.Status == Successful {
		return
	}
	was := s.x.Steps
	s.x = Again(s.x)
	s.check(s.x.Status == Enqueued, "retried, and %s", s.x.Status)
	s.x.Status, s.x.Started, s.kills, s.before = InProgress, s.now, false, nil
	s.fates = slices.Clone(s.fates)
	for i := range s.fates {
		s.fates[i] = fate{rounds: []int{0}}
	}
	s.perform()
	s.check(s.x.Status == Successful, "retried with luck, and %s: %s", s.x.Status, tale(s.x))
	s.told()
	broken := -1 // the first group that has to be done again
	for i, st := range was {
		over := st.Status == Successful || st.Status == Skipped || st.Status == Failed && st.Action.IgnoreErrors
		if g := s.group(i); st.Action.stage() == OnEvery && !over && (broken < 0 || g < broken) {
			broken = g
		}
	}
	for i, st := range was {
		if st.Action.stage() != OnEvery || st.Status == Skipped {
			continue
		}
		over := st.Status == Successful || st.Status == Failed && st.Action.IgnoreErrors
		stays := over && (broken < 0 || s.group(i) <= broken)
		s.check(stays == (s.runs[i] == 0), "%d was %s and is run %d times: %s", i, st.Status, s.runs[i], tale(s.x))
	}
}

// tale is an execution in a line.
func tale(x Execution) string {
	l := []string{string(x.Status)}
	for i, s := range x.Steps {
		l = append(l, fmt.Sprintf("%d@%s:%s>%s", i, s.Action.stage(), s.Status, s.Action.RunNext))
	}
	return strings.Join(l, " ")
}

// TestAdmitKeepsLimits: whatever waits, no more runs than may, each unit is whole,
// and as long as anything waits that could run alone something runs.
func TestAdmitKeepsLimits(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		limits := Limits{rapid.IntRange(0, 3).Draw(t, "runs"), rapid.IntRange(0, 3).Draw(t, "builds")}
		var queue []Waiting
		var running []Running
		var used Slots
		draw := func(most int) (u Slots) {
			return Slots{rapid.IntRange(0, most).Draw(t, "r"), rapid.IntRange(0, most).Draw(t, "b")}
		}
		for i := range rapid.IntRange(0, 6).Draw(t, "waiting") {
			w := Waiting{ID: ExecutionID(fmt.Sprint(i)), Pipeline: ID(rapid.IntRange(1, 4).Draw(t, "pipeline")), Number: int64(i), Queued: noon, Concurrent: rapid.Bool().Draw(t, "concurrent")}
			for range rapid.IntRange(0, 3).Draw(t, "units") {
				if u := draw(3); u != (Slots{}) {
					w.Units = append(w.Units, u)
				}
			}
			if rapid.Bool().Draw(t, "begun") {
				w.Begun = true
				if u := draw(1); limits.allow(used.plus(u)) {
					used = used.plus(u)
					running = append(running, Running{w.ID, w.Pipeline, u, w.Concurrent})
				}
			}
			queue = append(queue, w)
		}
		a := Admit(queue, running, limits)
		could := false
		for _, w := range queue {
			for n, u := range w.Units {
				if !limits.allow(u) {
					continue
				}
				could = true
				if slices.Contains(a.Units[w.ID], n) {
					used = used.plus(u)
				}
			}
		}
		if !limits.allow(used) {
			t.Fatalf("%+v run, of at most %+v", used, limits)
		}
		if could && len(running) == 0 && len(a.Start) == 0 {
			t.Fatalf("nothing runs: %+v", queue)
		}
	})
}

// TestAdmitOneByOne lets runs come and end at any time: those of a pipeline are
// beside each other only if all of them may be, none is overtaken by a later one
// of its pipeline, only a newer start of the same ref replaces one, and each has
// its turn.
func TestAdmitOneByOne(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var queue, begun []Waiting
		skipped := map[ExecutionID]bool{}
		coming := rapid.IntRange(1, 14).Draw(t, "coming")
		check := func(ok bool, format string, a ...any) {
			if !ok {
				t.Fatalf(format, a...)
			}
		}
		same := func(a, b Waiting) bool { return a.Pipeline == b.Pipeline }
		admit := func(all []Waiting) {
			var running []Running
			for _, w := range begun {
				running = append(running, Running{w.ID, w.Pipeline, Slots{}, w.Concurrent})
			}
			a := Admit(queue, running, Limits{})
			for _, s := range a.Skip {
				w := all[slices.IndexFunc(all, func(w Waiting) bool { return w.ID == s.ID })]
				by := all[slices.IndexFunc(all, func(n Waiting) bool { return n.Number == s.Newer })]
				check(!w.Concurrent && !w.NoSkip && same(w, by) && w.Ref == by.Ref && w.Start != by.Start && by.Number > w.Number, "%+v is replaced by %+v", w, by)
				skipped[w.ID] = true
			}
			var wait []Waiting
			for _, w := range queue {
				switch {
				case slices.Contains(a.Start, w.ID):
					check(!skipped[w.ID], "%s begins, and is replaced", w.ID)
					begun = append(begun, w)
				case !skipped[w.ID]:
					wait = append(wait, w)
				}
			}
			queue = wait
			for _, w := range begun {
				for _, o := range begun {
					check(w.ID == o.ID || !same(w, o) || w.Concurrent && o.Concurrent, "%+v is beside %+v", w, o)
				}
				for _, o := range queue {
					check(!same(w, o) || w.Number < o.Number, "%+v waits, and %+v has begun", o, w)
				}
			}
		}
		var all []Waiting
		for len(all) < coming || len(queue) > 0 || len(begun) > 0 {
			switch {
			case len(all) < coming && rapid.Bool().Draw(t, "comes"):
				n := len(all) + 1
				w := Waiting{
					ID: ExecutionID(fmt.Sprint(n)), Start: ExecutionID(fmt.Sprint(n)), Number: int64(n), Queued: noon.Add(time.Duration(n) * time.Second),
					Pipeline: ID(rapid.IntRange(1, 2).Draw(t, "pipeline")), Ref: rapid.SampledFrom([]string{"main", "dev"}).Draw(t, "ref"),
					Concurrent: rapid.Bool().Draw(t, "concurrent"), NoSkip: rapid.Bool().Draw(t, "none is skipped"),
				}
				if n > 1 && rapid.Bool().Draw(t, "of the same start") {
					last := all[n-2]
					w.Start, w.Pipeline, w.Ref, w.Concurrent, w.NoSkip = last.Start, last.Pipeline, last.Ref, last.Concurrent, last.NoSkip
				}
				all, queue = append(all, w), append(queue, w)
			case len(begun) > 0:
				i := rapid.IntRange(0, len(begun)-1).Draw(t, "ends")
				begun = slices.Delete(begun, i, i+1)
			case len(queue) > 0:
				t.Fatalf("none begins: %+v", queue)
			}
			admit(all)
		}
	})
}

func TestWantsText(t *testing.T) {
	t.Parallel()
	units := []Slots{{Runs: 1}, {Runs: 2, Builds: 1}, {Builds: 1}}
	if text := wantsText(units); text != "R RRB B" || !slices.Equal(readWants(text), units) {
		t.Errorf("%q %v", text, readWants(text))
	}
}
