// Package crash marks the places where a kill -9 hurts most, so that tests can
// put one there. Without the environment variables below At does nothing.
//
//	SLIPWAY_CRASH="NAME"    the process kills itself when it comes to NAME
//	SLIPWAY_CRASH="NAME#3"  when it comes there for the third time
//	SLIPWAY_CRASH_LIST=FILE appends every name that is reached
package crash

import (
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
)

// The only state of the package; it is read from the environment once and says
// nothing in a process that no test started.
var (
	at, nth = target(os.Getenv("SLIPWAY_CRASH"))
	list    = os.Getenv("SLIPWAY_CRASH_LIST")
	seen    atomic.Int64
)

func target(s string) (string, int64) {
	name, n, ok := strings.Cut(s, "#")
	if i, err := strconv.ParseInt(n, 10, 64); ok && err == nil && i > 0 {
		return name, i
	}
	return name, 1
}

// At is a place. Its name is "<room>: <what has just become true>".
func At(name string) {
	if list != "" {
		note(name)
	}
	if at != "" && name == at && seen.Add(1) == nth {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {} // the signal is on its way
	}
}

func note(name string) {
	f, err := os.OpenFile(list, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return
	}
	_, _ = f.WriteString(name + "\n")
	_ = f.Close()
}
