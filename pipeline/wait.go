package pipeline

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Wait is a time in which an execution or a step could not go on.
type Wait struct {
	For   string
	Since time.Time
	Until time.Time // zero: it still waits
}

// What is waited for.
const (
	WaitDelay    = "DELAY"      // the time at which it is to begin
	WaitPipeline = "PIPELINE"   // another execution has the pipeline
	WaitRun      = "RUN_SLOT"   // as many runs as there may be are in progress
	WaitBuild    = "BUILD_SLOT" // as many builds
	WaitSlots    = "SLOTS"      // it needs slots of both kinds
	WaitRetry    = "RETRY"      // the time between two tries
	WaitApproval = "APPROVAL"   // somebody who may say that it may be run

	WaitVariables = "VARIABLES" // somebody who may give the variables that it asks for
)

// wait is what is waited for by who needs slots.
func (s Slots) wait() string {
	switch {
	case s.Builds == 0:
		return WaitRun
	case s.Runs == 0:
		return WaitBuild
	}
	return WaitSlots
}

// waiting is a list of waits when it is known what is waited for from now on; ""
// is nothing. What took no time is left out.
func waiting(l []Wait, what string, now time.Time) []Wait {
	if n := len(l) - 1; n >= 0 && l[n].Until.IsZero() {
		if l[n].For == what {
			return l
		}
		l = slices.Clone(l)
		if l[n].Until = now; !now.After(l[n].Since) {
			l = l[:n]
		}
	}
	if what != "" {
		l = append(slices.Clip(l), Wait{For: what, Since: now})
	}
	return l
}

// over is a list of waits none of which has lasted longer than until a time; the
// zero one changes nothing.
func over(l []Wait, end time.Time) []Wait {
	if end.IsZero() {
		return l
	}
	return waiting(l, "", end)
}

// waitsText is how waits are kept: a word for each.
func waitsText(l []Wait) string {
	words := make([]string, 0, len(l))
	for _, w := range l {
		words = append(words, fmt.Sprintf("%s:%s:%s", w.For, microText(w.Since), microText(w.Until)))
	}
	return strings.Join(words, " ")
}

func microText(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return strconv.FormatInt(t.UnixMicro(), 10)
}

// readWaits reads what waitsText wrote.
func readWaits(text string) (l []Wait, err error) {
	for _, word := range strings.Fields(text) {
		f := strings.Split(word, ":")
		if len(f) != 3 {
			return nil, fmt.Errorf("%q is no wait", word)
		}
		w := Wait{For: f[0]}
		for i, t := range []*time.Time{&w.Since, &w.Until} {
			if f[i+1] == "" {
				continue
			}
			us, err := strconv.ParseInt(f[i+1], 10, 64)
			if err != nil {
				return nil, err
			}
			*t = microTime(us)
		}
		l = append(l, w)
	}
	return l, nil
}
