package stack

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"slipway/engine"
)

const (
	firstDelay = time.Second
	longDelay  = time.Minute // also the run after which the delay is short again
	manyExits  = 5
	manyIn     = 2 * time.Minute
	steady     = 10 * time.Second // a run that ends the state error
)

// History is how the instances of a service have ended. It counts those with
// the hash that is wanted; another hash begins anew.
type History struct {
	N         int64 // number of the newest instance that is counted
	Hash      string
	Code      int
	OOM       bool
	Reason    engine.Reason
	Message   string
	Ended     time.Time
	Exits     []time.Time // the last few
	Level     int         // how often the delay was doubled
	Looping   bool        // too many exits in too short a time, and no steady run since
	NotBefore time.Time   // the next start
}

// Note counts the exits that are not counted yet. It is pure.
func Note(w Wanted, have []engine.Instance, now time.Time) History {
	h := w.History
	mine := slices.SortedFunc(slices.Values(have), func(a, b engine.Instance) int { return cmp.Compare(number(a.ID), number(b.ID)) })
	for _, i := range mine {
		if ServiceID(i.Service) != w.ID || i.Hash != w.Hash || i.State != engine.Ended || i.Exit == nil || number(i.ID) <= h.N {
			continue
		}
		h = h.add(i, now)
	}
	return h
}

func (h History) add(i engine.Instance, now time.Time) History {
	x := *i.Exit
	if x.Ended.IsZero() || x.Ended.After(now) {
		x.Ended = now
	}
	if h.Hash != i.Hash {
		h = History{Hash: i.Hash}
	}
	h.N, h.Code, h.OOM, h.Reason, h.Message, h.Ended = number(i.ID), x.Code, x.OOM, x.Reason, x.Message, x.Ended
	if x.Reason == engine.ReasonHost { // not the service's fault
		h.NotBefore = x.Ended
		return h
	}
	var ran time.Duration
	if !x.Started.IsZero() {
		ran = x.Ended.Sub(x.Started)
	}
	if ran >= longDelay {
		h.Level = 0
	}
	h.Exits = append(slices.Clone(h.Exits), x.Ended)
	if len(h.Exits) > manyExits {
		h.Exits = h.Exits[len(h.Exits)-manyExits:]
	}
	many := len(h.Exits) == manyExits && x.Ended.Sub(h.Exits[0]) <= manyIn
	h.Looping = many || h.Looping && ran < steady
	h.NotBefore = x.Ended.Add(min(firstDelay<<min(h.Level, 10), longDelay))
	h.Level++
	return h
}

// how says how the newest one ended.
func (h History) how() string {
	switch {
	case h.OOM:
		return "ran out of memory"
	case h.Message != "":
		return h.Message
	case h.Reason == engine.ReasonHost:
		return "the host was restarted"
	case h.Reason == engine.ReasonLost:
		return "its container was lost"
	}
	return fmt.Sprintf("exited with code %d", h.Code)
}
