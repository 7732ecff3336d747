// Package crash marks the places where a kill -9 hurts most, so that tests can
// put one there. Without the environment variables below At does nothing.
//
//	SLIPWAY_CRASH="NAME"    the process kills itself when it comes to NAME
//	SLIPWAY_CRASH="NAME#3"  when it comes there for the third time
//	SLIPWAY_CRASH="@FILE"   at what FILE says when a place is reached, counted
//	                        since FILE says it; without FILE nothing happens
//	SLIPWAY_CRASH_LIST=FILE appends every name that is reached
package crash

import (
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// The only state of the package; it is read from the environment once and says
// nothing in a process that no test started.
var (
	where = os.Getenv("SLIPWAY_CRASH")
	list  = os.Getenv("SLIPWAY_CRASH_LIST")

	mu     sync.Mutex
	target string // as it was when a place was last reached
	seen   int64  // how often target was reached
)

// At is a place. Its name is "<room>: <what has just become true>".
func At(name string) {
	if list != "" {
		note(name)
	}
	if where != "" && reached(name) {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {} // the signal is on its way
	}
}

func reached(name string) bool {
	mu.Lock()
	defer mu.Unlock()
	now := where
	if file, ok := strings.CutPrefix(where, "@"); ok {
		b, _ := os.ReadFile(file)
		now = strings.TrimSpace(string(b))
	}
	if now != target {
		target, seen = now, 0
	}
	at, nth := parse(now)
	if name != at {
		return false
	}
	seen++
	return seen == nth
}

// parse reads "NAME" or "NAME#3".
func parse(s string) (string, int64) {
	name, n, ok := strings.Cut(s, "#")
	if i, err := strconv.ParseInt(n, 10, 64); ok && err == nil && i > 0 {
		return name, i
	}
	return name, 1
}

func note(name string) {
	f, err := os.OpenFile(list, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return
	}
	_, _ = f.WriteString(name + "\n")
	_ = f.Close()
}
