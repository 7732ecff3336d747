package pipeline

import (
	"slices"
	"time"

	"slipway/engine"
)

// Decision is what is to be done about an execution now.
type Decision struct {
	Ask   []int   // steps whose conditions are to be judged before anything goes on
	Start [][]int // steps that begin, as slots are free: those of one unit together
	Skip  []int   // steps that are not wanted
	Drop  []int   // steps that will never be reached
	Halt  []int   // steps that would be run once more, if the execution were not cancelled
	Hold  []int   // steps whose turn it is, but for being approved
	Want  []int   // steps whose turn it is, but for variables that they ask for
	// Status is what the execution becomes, if it ends; "" if it goes on.
	Status Status
	// Again is when to ask again if nothing else happens; zero: not needed.
	Again time.Time
}

// stages in the order in which they run.
func stages() []When {
	return []When{OnEvery, OnSuccess, OnBackToSuccess, OnWarning, OnFailure, OnWaitForApprove, OnTerminate}
}

func (a Action) stage() When {
	if a.When == "" {
		return OnEvery
	}
	return a.When
}

// groups are the steps in the order in which they run: stage by stage, and in
// one group those of a stage that run beside each other, because each but the
// last is linked with the next one.
func groups(steps []ActionExecution) (all [][]int) {
	for _, stage := range stages() {
		linked := false
		for i, s := range steps {
			if s.Action.stage() != stage {
				continue
			}
			if linked {
				all[len(all)-1] = append(all[len(all)-1], i)
			} else {
				all = append(all, []int{i})
			}
			linked = s.Action.RunNext == InSoftParallel || s.Action.RunNext == InHardParallel
		}
	}
	return all
}

// going is what an execution has come to before one of its groups.
type going struct {
	failed, warned bool
	terminating    bool
	held           bool // a step waits to be approved, or has waited
}

// Next decides how an execution that was admitted goes on. It does nothing for
// one that waits to be admitted or has ended. A group of steps begins when the
// one before it has ended, and whether its steps are wanted is known from then
// on: one of them that fails ends what comes after the group, not the others.
func Next(x Execution, now time.Time) Decision {
	var d Decision
	if x.Status != InProgress && x.Status != Terminating {
		return d
	}
	g := going{terminating: x.Status == Terminating, held: x.held()}
	for _, group := range groups(x.Steps) {
		wanted, busy := d.look(x, group, g)
		if busy || len(wanted) > 0 {
			d.begin(x, group, wanted, now)
			if len(d.Hold) > 0 {
				d.beside(x, now)
			}
			return d
		}
		g = g.past(x, group)
	}
	switch {
	case g.terminating:
		d.Status = Terminated
	case g.failed:
		d.Status = Failed
	default:
		d.Status = Successful
	}
	return d
}

// look finds the steps of a group that are wanted and not in progress yet, and
// notes what becomes of the others.
func (d *Decision) look(x Execution, group []int, g going) (wanted []int, busy bool) {
	for _, i := range group {
		s := x.Steps[i]
		switch {
		case s.Status == InProgress:
			busy = true
		case s.Status.Ended():
		case s.Action.Disabled || !x.asksFor(s.Action):
			d.Skip = append(d.Skip, i)
		case g.refuses(x, s.Action) == "":
			wanted = append(wanted, i)
		case !s.Started.IsZero():
			d.Halt = append(d.Halt, i)
		default:
			d.Drop = append(d.Drop, i)
		}
	}
	return wanted, busy
}

// held tells whether a step waits to be approved, or has waited since the start
// or the last Retry.
func (x Execution) held() bool {
	return slices.ContainsFunc(x.Steps, func(s ActionExecution) bool {
		return s.Held || !s.Approved.IsZero() && !s.Approved.Before(x.Started)
	})
}

// beside goes on with what is run because steps wait to be approved.
func (d *Decision) beside(x Execution, now time.Time) {
	for _, group := range groups(x.Steps) {
		if x.Steps[group[0]].Action.stage() != OnWaitForApprove {
			continue
		}
		if wanted, busy := d.look(x, group, going{held: true}); busy || len(wanted) > 0 {
			d.begin(x, group, wanted, now)
			return
		}
	}
}

// begin decides which steps of a group begin: all that are wanted, in units of
// those that are hard linked, when all of them have been judged. A unit waits for
// those of it that wait to be approved, or for variables.
func (d *Decision) begin(x Execution, group, wanted []int, now time.Time) {
	for _, i := range wanted {
		if s := x.Steps[i]; s.Verdict == nil && conditional(s.Action.Conditions) {
			d.Ask = append(d.Ask, i)
		}
	}
	if len(d.Ask) > 0 {
		return
	}
	var unit []int
	held := false
	for n, i := range group {
		s := x.Steps[i]
		switch at := s.NotBefore; {
		case !slices.Contains(wanted, i):
		case s.Action.Approval && s.Approved.IsZero():
			d.Hold, held = append(d.Hold, i), true
		case s.unasked():
			d.Want, held = append(d.Want, i), true
		case !at.After(now):
			unit = append(unit, i)
		case d.Again.IsZero() || at.Before(d.Again):
			d.Again = at
		}
		if s.Action.RunNext == InHardParallel && n < len(group)-1 {
			continue
		}
		if len(unit) > 0 && !held {
			d.Start = append(d.Start, unit)
		}
		unit, held = nil, false
	}
}

// Result is how one run of a step ended.
type Result struct {
	Status Status // Successful, Failed or Terminated
	Code   int    // exit code, -1 if there is none
	Error  string
	Reason EndReason
	Signal int // that ended it
	Used   engine.Usage
	Build  *Built
	// Final says that another try would end the same way.
	Final bool
	// More says that a loop has more combinations after this one.
	More    bool
	Digest  string
	Image   string
	Outputs []Output // what its commands have exported
}

// Settle is the step after one run: ended, or waiting for the next one.
func Settle(s ActionExecution, r Result, now time.Time) ActionExecution {
	s.Code, s.Error = r.Code, r.Error
	if r.Digest != "" {
		s.Digest, s.Image = r.Digest, r.Image
	}
	switch {
	case r.Status == Failed:
		s.Tries++
		if !r.Final && s.Tries <= s.Action.Retries {
			s.Status, s.Waits = Enqueued, []Wait{{For: WaitRetry, Since: now}}
			s.NotBefore = now.Add(s.Action.RetryInterval)
			return s
		}
	case r.Status == Successful && r.More:
		s.Round++
		s.Status, s.Tries, s.NotBefore = Enqueued, 0, time.Time{}
		return s
	}
	s.Status, s.Finished, s.NotBefore = r.Status, now, time.Time{}
	return s
}

// anew is an execution that Again has left with all its steps to be done again,
// but those that were left out, or done in another execution. That which it began
// with has its snapshot still.
func anew(x Execution) Execution {
	x.Steps = slices.Clone(x.Steps)
	for i, s := range x.Steps {
		if s.Status != Skipped && !s.Carried {
			x.Steps[i] = x.again(i)
		}
	}
	return x
}

// again is a step that is to be done again. What the file system was before it is
// not what it will be then, but for the step that the execution begins with.
func (x Execution) again(i int) ActionExecution {
	s := x.Steps[i]
	if x.Rerun == nil || x.Rerun.From != i {
		s.Snapshot, s.Unkept = "", ""
	}
	s.Status, s.Tries, s.Round, s.Error, s.Code, s.Digest, s.Image = Initial, 0, 0, "", 0, "", ""
	s.NotBefore, s.Started, s.Finished, s.Waits = time.Time{}, time.Time{}, time.Time{}, nil
	s.Held, s.Approved, s.Approver, s.Asking, s.Given = false, time.Time{}, 0, false, time.Time{}
	return s
}

// Again is the execution as Retry leaves it: what was not successful in the
// chain from the group of the first failure on, and every later stage, is to be
// done again. Conditions that were not met, or not come to, are judged anew.
func Again(x Execution) Execution {
	x.Steps = slices.Clone(x.Steps)
	broken := false
	for _, group := range groups(x.Steps) {
		chain := x.Steps[group[0]].Action.stage() == OnEvery
		failed := false
		for _, i := range group {
			s := x.Steps[i]
			over := s.Status == Successful || s.Status == Skipped || s.Status == Failed && s.Action.IgnoreErrors
			failed = failed || !over
			unmet := s.Verdict != nil && !s.Verdict.Met
			if chain && !broken && over || s.Status == Skipped && !unmet || s.Carried {
				continue
			}
			x.Steps[i] = x.again(i)
			if unmet {
				x.Steps[i].Verdict = nil
			}
			if chain && !broken { // what was before it is of more use than what it left when it failed
				x.Steps[i].Snapshot, x.Steps[i].Unkept = s.Snapshot, s.Unkept
			}
		}
		broken = broken || chain && failed
	}
	x.Status, x.Started, x.Finished, x.CancelledBy, x.Cancelled = Enqueued, time.Time{}, time.Time{}, 0, time.Time{}
	x.prepared, x.Waits = false, nil
	return x
}
