// Package wire is what the server and the child program have in common: the
// protocol and the names of the files. Standard library only. The log that a
// child writes is in the format of package slipway/logs/segment.
package wire

import "time"

// Version is that of the protocol. The first message on a connection is
// "hello" with the version that the client speaks; every other operation is
// refused until then. "hello", "kill", "wait" and "delete" must never change
// their meaning, so that a newer server can always end an older child.
const Version = 1

// Names of the files in the lasting directory and in the run directory of a
// container.
const (
	StartFile  = "start.json" // written by the server before the child is started
	ExitFile   = "exit.json"  // written by the child, once
	SocketFile = "s"          // in the run directory, as are the next ones
	LockFile   = "lock"       // held by the child as long as it lives
	PidFile    = "pid"
	RuncLog    = "runc.json"
	TTYFile    = "tty" // socket on which runc hands over the terminal
	ErrFile    = "err" // stderr of the child itself: empty unless something is wrong with it
)

// Descriptor is the one on which a child finds its end of the socket pair.
const Descriptor = 3

// Args is the command line of a child. It is read by people and by whoever
// looks for processes of a data directory, not by the child.
func Args(instance, dataDir string) []string {
	return []string{"slipway-child", instance, dataDir}
}

// Config is all a child has to know. It comes through the inherited socket,
// never by arguments, environment or disk, because of Mask.
type Config struct {
	ID     string `json:"id"`
	Dir    string `json:"dir"`    // lasting directory, which is there: the exit record
	Run    string `json:"run"`    // run directory, which is there: socket, lock, pid
	Bundle string `json:"bundle"` // of runc
	Runc   string `json:"runc"`
	Root   string `json:"root"`   // of runc
	Cgroup string `json:"cgroup"` // path of the container in every hierarchy, as in its spec
	// CgroupRoot is where the hierarchies are mounted; "" is /sys/fs/cgroup.
	CgroupRoot string `json:"cgroup_root,omitempty"`

	Log     string   `json:"log"`                // directory
	LogMax  int64    `json:"log_max,omitempty"`  // bytes; the rest is left out, which one note says. 0: no bound
	LogKeep int64    `json:"log_keep,omitempty"` // bytes; older segments are dropped. 0: all are kept
	Mask    [][]byte `json:"mask,omitempty"`     // secrets

	TTY     bool  `json:"tty,omitempty"`
	Stop    int   `json:"stop,omitempty"`    // signal that asks for an end, 0: SIGTERM
	Grace   int64 `json:"grace,omitempty"`   // ms between that and SIGKILL; 0: 10 s, below 0: none
	Timeout int64 `json:"timeout,omitempty"` // ms after the start; 0: none
	Linger  int64 `json:"linger,omitempty"`  // ms an ended one waits for a server; 0: 10 min

	Unmount     []string `json:"unmount,omitempty"` // after the end
	OOMScoreAdj int      `json:"oom_score_adj"`     // of the child itself; never negative
}

// Operations.
const (
	OpHello  = "hello"  // V; answers V, Pid of the child, Phase
	OpStart  = "start"  // Config; answers when the container runs
	OpState  = "state"  // answers Phase, Pid, Start, Exit
	OpWait   = "wait"   // answers as state does, when the container has ended
	OpSignal = "signal" // Signal, to the first process
	OpKill   = "kill"   // Grace, Reason; answers at once
	OpResize = "resize" // W, H
	OpInput  = "input"  // Data
	OpDelete = "delete" // kills if need be, cleans up, answers and leaves
)

// Request is one line from the server.
type Request struct {
	N      int     `json:"n"` // comes back in the reply
	Op     string  `json:"op"`
	V      int     `json:"v,omitempty"`
	Config *Config `json:"config,omitempty"`
	Signal int     `json:"signal,omitempty"`
	Grace  int64   `json:"grace,omitempty"` // ms, of kill; 0: SIGKILL at once, below 0: that of the config
	Reason string  `json:"reason,omitempty"`
	W      uint16  `json:"w,omitempty"` // columns
	H      uint16  `json:"h,omitempty"` // rows
	Data   []byte  `json:"data,omitempty"`
}

// Codes of errors.
const (
	CodeVersion = "version" // another protocol, or an unknown operation
	CodeState   = "state"   // not possible in this phase, or refused before anything was done
	CodeRunc    = "runc"    // the container did not start; there is an exit record
)

// Reply is one line from the child.
type Reply struct {
	N     int       `json:"n"`
	Error string    `json:"error,omitempty"`
	Code  string    `json:"code,omitempty"` // of the error
	V     int       `json:"v,omitempty"`
	Pid   int       `json:"pid,omitempty"` // hello: of the child; else of the container
	Phase string    `json:"phase,omitempty"`
	Start time.Time `json:"start,omitzero"`
	Exit  *Exit     `json:"exit,omitempty"`
}

// Phases.
const (
	New      = "new"
	Starting = "starting"
	Running  = "running"
	Exited   = "exited"
)

// Reasons that the child itself gives; others come with kill.
const (
	ReasonTimeout = "timeout"
	ReasonHost    = "host" // SIGTERM to the child: the host goes down
	ReasonKill    = "kill" // a kill without a reason
	ReasonDelete  = "delete"
)

// Exit is the exit record.
type Exit struct {
	V       int       `json:"v"`
	ID      string    `json:"id"`
	Code    int       `json:"code"` // 128+signal when a signal ended it, -1 when there is none
	Signal  int       `json:"signal,omitempty"`
	OOM     bool      `json:"oom,omitempty"`
	Reason  string    `json:"reason,omitempty"` // why it was asked to end, if it was before it ended
	Error   string    `json:"error,omitempty"`  // it did not start, or its end is not known
	Started time.Time `json:"started,omitzero"`
	Ended   time.Time `json:"ended"`
	Memory  int64     `json:"memory,omitempty"`   // bytes at the peak; 0: not known
	CPU     int64     `json:"cpu,omitempty"`      // µs that its processes have used; 0: not known
	Lines   int64     `json:"lines"`              // whole lines in the log at the end
	Lost    int64     `json:"lost,omitempty"`     // bytes that could not be written; those over LogMax do not count
	LogFail string    `json:"log_fail,omitempty"` // the log could not be made durable
}
