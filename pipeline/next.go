package pipeline

import (
	"slices"
	"time"
)

// Decision is what is to be done about an execution now.
type Decision struct {
	Start []int // steps that begin
	Skip  []int // steps that are not wanted
	Drop  []int // steps that will never be reached
	// Status is what the execution becomes, if it ends; "" if it goes on.
	Status Status
	// Again is when to ask again if nothing else happens; zero: not needed.
	Again time.Time
}

// stages in the order in which they run.
func stages() []When {
	return []When{OnEvery, OnSuccess, OnBackToSuccess, OnWarning, OnFailure, OnTerminate, OnWaitForApprove}
}

// Next decides how an execution that was admitted goes on. It does nothing
// while a step is in progress, and nothing for one that waits to be admitted
// or has ended.
func Next(x Execution, now time.Time) Decision {
	var d Decision
	if x.Status != InProgress && x.Status != Terminating {
		return d
	}
	var failed, warned bool
	for _, s := range x.Steps {
		switch {
		case s.Status == InProgress:
			return d
		case s.Status == Failed && s.Action.IgnoreErrors:
			warned = true
		case s.Status == Failed:
			failed = true
		}
	}
	terminating := x.Status == Terminating
	applies := func(a Action) bool {
		if terminating {
			return a.When == OnTerminate && !x.Started.IsZero()
		}
		switch a.When {
		case "", OnEvery, OnSuccess:
			return !failed
		case OnBackToSuccess:
			return !failed && x.Previous == Failed
		case OnWarning:
			return warned
		case OnFailure:
			return failed && (!a.FirstFailureOnly || x.Previous != Failed)
		}
		return false
	}
	for _, stage := range stages() {
		for i, s := range x.Steps {
			when := s.Action.When
			if when == "" {
				when = OnEvery
			}
			switch {
			case when != stage || s.Status.Ended():
			case s.Action.Disabled || len(x.Only) > 0 && !slices.Contains(x.Only, s.Action.ID):
				d.Skip = append(d.Skip, i)
			case !applies(s.Action):
				d.Drop = append(d.Drop, i)
			case s.NotBefore.After(now):
				d.Again = s.NotBefore
				return d
			default:
				d.Start = []int{i}
				return d
			}
		}
	}
	switch {
	case terminating:
		d.Status = Terminated
	case failed:
		d.Status = Failed
	default:
		d.Status = Successful
	}
	return d
}

// Result is how one try of a step ended.
type Result struct {
	Status Status // Successful, Failed or Terminated
	Code   int    // exit code, -1 if there is none
	Error  string
	// Final says that another try would end the same way.
	Final   bool
	Digest  string
	Image   string
	Outputs []Output // what its commands have exported
}

// Settle is the step after one try: ended, or waiting for the next one.
func Settle(s ActionExecution, r Result, now time.Time) ActionExecution {
	s.Code, s.Error = r.Code, r.Error
	if r.Status == Failed {
		s.Tries++
		if !r.Final && s.Tries <= s.Action.Retries {
			s.Status = Enqueued
			s.NotBefore = now.Add(s.Action.RetryInterval)
			return s
		}
	}
	s.Status, s.Finished, s.NotBefore = r.Status, now, time.Time{}
	if r.Digest != "" {
		s.Digest, s.Image = r.Digest, r.Image
	}
	return s
}

// Again is the execution as Retry leaves it: what was not successful in the
// chain, and every later stage, is to be done again.
func Again(x Execution) Execution {
	x.Steps = slices.Clone(x.Steps)
	broken := false
	for i, s := range x.Steps {
		chain := s.Action.When == "" || s.Action.When == OnEvery
		if chain && s.Status != Successful && s.Status != Skipped && (s.Status != Failed || !s.Action.IgnoreErrors) {
			broken = true
		}
		if chain && !broken || s.Status == Skipped {
			continue
		}
		s.Status, s.Tries, s.Error, s.Code, s.Digest, s.Image = Initial, 0, "", 0, "", ""
		s.NotBefore, s.Started, s.Finished = time.Time{}, time.Time{}, time.Time{}
		x.Steps[i] = s
	}
	x.Status, x.Started, x.Finished, x.CancelledBy, x.Cancelled = Enqueued, time.Time{}, time.Time{}, 0, time.Time{}
	x.prepared = false
	return x
}
