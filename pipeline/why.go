package pipeline

import (
	"fmt"
	"slices"
	"strings"
)

// Why says why a step was run, waits, or was not run.
type Why struct {
	Word string
	Text string
}

// Words of Why.
const (
	WhyRun          = "RUN"                // its turn had come
	WhyNotReached   = "NOT_REACHED"        // its turn has not come
	WhyWaits        = "WAITS"              // its turn has come
	WhyDisabled     = "DISABLED"           // it is disabled
	WhyNotAskedFor  = "NOT_ASKED_FOR"      // the start named other actions
	WhyConditions   = "CONDITIONS_NOT_MET" // its trigger conditions, or those of the pipeline
	WhyUnknown      = "CONDITIONS_UNKNOWN" // they could not be judged
	WhyNoSlots      = "NO_SLOTS"           // it needs more than there ever are
	WhyFailure      = "AFTER_FAILURE"      // an action before it failed
	WhyNoFailure    = "NO_FAILURE"         // it is for a failure, and there was none
	WhyNotFirst     = "NOT_FIRST_FAILURE"  // it is for the first failure, and the run before failed, too
	WhyNotBack      = "NO_FAILURE_BEFORE"  // it is for the first success after a failure
	WhyNoWarning    = "NO_WARNING"         // it is for an error that was ignored
	WhyNotCancelled = "NOT_CANCELLED"      // it is for a cancelled execution
	WhyCancelled    = "CANCELLED"          // the execution was cancelled before its turn
	WhyNoApproval   = "NO_APPROVAL"        // it is for a wait for approval, and there was none
	WhySuperseded   = "SUPERSEDED"         // a newer execution was run instead
	WhyCarried      = "CARRIED_OVER"       // it was run in the execution that this one goes on from
)

// refuses says why the stage of an action is not one that is run; "" if it is.
func (g going) refuses(x Execution, a Action) string {
	if g.terminating {
		if a.When == OnTerminate && !x.Started.IsZero() {
			return ""
		}
		return WhyCancelled
	}
	switch a.stage() {
	case OnEvery, OnSuccess:
		if g.failed {
			return WhyFailure
		}
	case OnBackToSuccess:
		if g.failed {
			return WhyFailure
		}
		if x.Previous != Failed {
			return WhyNotBack
		}
	case OnWarning:
		if !g.warned {
			return WhyNoWarning
		}
	case OnFailure:
		if !g.failed {
			return WhyNoFailure
		}
		if a.FirstFailureOnly && x.Previous == Failed {
			return WhyNotFirst
		}
	case OnTerminate:
		return WhyNotCancelled
	default:
		if !g.held {
			return WhyNoApproval
		}
	}
	return ""
}

// past is what an execution has come to after one of its groups.
func (g going) past(x Execution, group []int) going {
	for _, i := range group {
		if s := x.Steps[i]; s.Status == Failed {
			g.failed = g.failed || !s.Action.IgnoreErrors
			g.warned = g.warned || s.Action.IgnoreErrors
		}
	}
	return g
}

func (x Execution) asksFor(a Action) bool { return len(x.Only) == 0 || slices.Contains(x.Only, a.ID) }

// Why tells why a step was run, waits, or was not run. The execution has all of
// its steps.
func (x Execution) Why(i int) Why {
	s := x.Steps[i]
	v := s.Verdict
	switch {
	case s.Carried:
		return Why{WhyCarried, fmt.Sprintf("what became of it in execution %d is taken over: this one begins with an action after it, or beside it", x.Rerun.Of)}
	case s.Status == Enqueued || s.Status == Initial && !x.Status.Ended():
		return x.comes(s)
	case !s.Started.IsZero():
		return Why{WhyRun, x.cause(s)}
	case s.Action.Disabled:
		return Why{WhyDisabled, "the action is disabled"}
	case !x.asksFor(s.Action):
		return Why{WhyNotAskedFor, "the execution was started with other actions only"}
	case v != nil && v.Error != "":
		return Why{WhyUnknown, v.Error}
	case v != nil && !v.Met:
		return Why{WhyConditions, v.why()}
	case s.Status == Failed:
		return Why{WhyNoSlots, s.Error}
	case x.Verdict != nil && !x.Verdict.Met && x.Verdict.Error == "":
		return Why{WhyConditions, x.Verdict.why()}
	case x.Status == Skipped:
		return Why{WhySuperseded, x.Steps[0].Error}
	}
	word := x.refusal(i)
	return Why{word, map[string]string{
		WhyFailure:      "an action before it failed",
		WhyNoFailure:    "it is run after a failure, and nothing failed",
		WhyNotFirst:     "it is run after the first failure only, and the execution before failed, too",
		WhyNotBack:      "it is run at the first success after a failure, and the execution before did not fail",
		WhyNoWarning:    "it is run after an error that was ignored, and there was none",
		WhyNotCancelled: "it is run when the execution is cancelled, and it was not",
		WhyCancelled:    "the execution was cancelled",
		WhyNoApproval:   "it is run when the execution waits for an approval, and it did not",
	}[word]}
}

// EndedBy is the user whose cancelling ended a step or kept it from its turn; 0 if it
// was nobody's.
func (x Execution) EndedBy(s ActionExecution) int64 {
	if s.Status == Terminated || s.Status == NotExecuted && x.Status == Terminated {
		return x.CancelledBy
	}
	return 0
}

// refusal is why a step was not reached by an execution that has ended.
func (x Execution) refusal(i int) string {
	g := going{terminating: x.Status == Terminated || x.Status == Terminating, held: x.held()}
	for _, group := range groups(x.Steps) {
		if slices.Contains(group, i) {
			if word := g.refuses(x, x.Steps[i].Action); word != "" {
				return word
			}
			return WhyNotReached
		}
		g = g.past(x, group)
	}
	return WhyNotReached
}

// comes is why a step is not run yet.
func (x Execution) comes(s ActionExecution) Why {
	what, before := s.Waits, "it"
	if x.Started.IsZero() {
		what, before = x.Waits, "the execution"
	}
	if n := len(what) - 1; n >= 0 && what[n].Until.IsZero() {
		return Why{WhyWaits, fmt.Sprintf("%s waits for %s", before, map[string]string{
			WaitDelay:    "the time at which it is to begin",
			WaitPipeline: "another execution of the pipeline to end",
			WaitRun:      "a slot: as many runs as there may be are in progress (--actions-parallel)",
			WaitBuild:    "a slot: as many builds as there may be are in progress (--builds-parallel)",
			WaitSlots:    "slots: as many runs or builds as there may be are in progress (--actions-parallel, --builds-parallel)",
			WaitRetry:    "the time between two tries",
			WaitApproval: "somebody to approve it (operation APPLY)",

			WaitVariables: "somebody to give " + strings.Join(s.Action.Asks, ", ") + " (operation APPLY_VARIABLES)",
		}[what[n].For])}
	}
	if s.Status == Enqueued || x.Started.IsZero() {
		return Why{WhyWaits, before + " is about to begin"}
	}
	return Why{WhyNotReached, "actions before it have not ended"}
}

// cause is why a step was run.
func (x Execution) cause(s ActionExecution) string {
	text := map[When]string{
		OnEvery:          "no action before it failed",
		OnSuccess:        "the chain succeeded",
		OnBackToSuccess:  "the chain succeeded, and the execution before failed",
		OnWarning:        "an error was ignored",
		OnFailure:        "an action failed",
		OnTerminate:      "the execution was cancelled",
		OnWaitForApprove: "an action waited to be approved",
	}[s.Action.stage()]
	if !s.Approved.IsZero() {
		text += "; it was approved"
	}
	if !s.Given.IsZero() {
		text += "; it got the variables that it asked for"
	}
	if s.Verdict != nil && s.Verdict.Met {
		text += "; its trigger conditions are met"
	}
	return text
}
