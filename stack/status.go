package stack

import (
	"fmt"
	"net/netip"
	"time"

	"slipway/engine"
)

// State is what a service is, as it follows from what is wanted and what is
// there.
type State struct {
	Status  Status
	Message string
	Serving string     // definition of the container that serves, "" if none does
	Addr    netip.Addr // of that container
	Failed  bool       // what is applied could not take over from an older container
	Again   time.Time  // when time alone changes it
}

// Statuses tells what every service is that is not gone. It is pure.
func Statuses(want Want, have []engine.Instance, now time.Time) map[ServiceID]State {
	all := make(map[ServiceID]State, len(want.Services))
	for _, w := range want.Services {
		if !w.Gone {
			all[w.ID] = w.state(sortInstances(w, have), now)
		}
	}
	return all
}

func (w Wanted) state(s instances, now time.Time) State {
	if w.Stopped {
		if len(s.live()) > 0 {
			return State{Status: Stopping}
		}
		return State{Status: Stopped}
	}
	if s.current != nil && s.current.State == engine.Running {
		st := State{Status: Running, Serving: definitionOf(s.current.Hash), Addr: s.current.Addr}
		if ok := s.current.Started.Add(steady); w.looping() && now.Before(ok) {
			st.Status, st.Again = Error, ok
			st.Message = fmt.Sprintf("ends again and again, at last: %s; it has been started again", w.History.how())
		}
		return st
	}
	st := State{Status: Creating}
	if w.Ran {
		st.Status = Starting
	}
	for _, i := range s.outdated {
		if i.State == engine.Running { // the newest of them
			st.Serving, st.Addr = definitionOf(i.Hash), i.Addr
		}
	}
	if w.History.Hash == w.Hash {
		w.ended(&st)
	} else if w.Spec == nil {
		st.Message = w.Problem
	}
	if st.Message != "" && st.Addr.IsValid() {
		st.Message += "; the earlier container still serves"
	}
	return st
}

func (w Wanted) looping() bool { return w.History.Hash == w.Hash && w.History.Looping }

// ended is the state of a service whose wanted instance has ended.
func (w Wanted) ended(st *State) {
	how := w.History.how()
	over, ok := w.over()
	switch {
	case over && ok:
		st.Status, st.Message = Stopped, how
	case over:
		st.Status, st.Message = Error, how+"; it is not started again (restart policy "+string(w.Policy)+")"
	case st.Addr.IsValid():
		st.Status, st.Message = Error, how
	case w.History.Looping:
		st.Status, st.Message = Error, fmt.Sprintf("ends again and again, at last: %s; it is still tried", how)
	default:
		st.Status, st.Message = Starting, how+"; it is started again"
	}
	st.Failed = st.Status == Error && st.Addr.IsValid()
}
