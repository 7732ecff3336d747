package pipeline

import (
	"strings"
	"time"

	"slipway/access"
	"slipway/project"
	"slipway/source"
)

// Modes say what began an execution.
const (
	Manual  = "MANUAL"
	ByPush  = "ON_EVERY_PUSH"
	ByClock = "SCHEDULED"
	ByHook  = "WEBHOOK"
	ByPull  = "PULL_REQUEST"
	// ByLocal is by hand, of a working tree that was pushed for it; Revision is its
	// commit then.
	ByLocal = "LOCAL"
)

// Start is what an execution is started with.
type Start struct {
	Revision    string // to_revision; "" and HEAD are the head of Branch
	From        string // from_revision
	Branch      string // "" is the default branch
	Tag         string
	PullRequest string // its number, or ref; once it is found pull/12/head
	Head        string `json:",omitempty"` // the branch of the pull request, if it is known
	Base        string `json:",omitempty"` // the branch it goes to, if that is known
	Fork        bool   `json:",omitempty"` // it is of no branch of the repository
	Comment     string
	Refresh     bool // begin with an empty file system
	ClearCache  bool
	Priority    Priority
	Variables   []Variable
	Only        []ActionID // the others are SKIPPED; none: all
	Mode        string     // "" is Manual
	Delay       time.Time  `json:",omitzero"`  // not before
	Named       []string   `json:",omitempty"` // Only, by names
	Definition  string     `json:",omitempty"` // with ByLocal: the file of the working tree that says what is run, instead of the pipeline
	Environment string     `json:",omitempty"` // whose variables hold, by id or identifier; kept as its id

	// Key says that who asks may ask again: another start of the pipeline with it,
	// by the same token and within a day, is this one.
	Key string `json:"-"`
}

// Execution is one run of a pipeline.
type Execution struct {
	ID        ExecutionID
	Number    int64 // counts per pipeline
	Pipeline  ID
	Project   project.ID
	Workspace string
	Status    Status
	Mode      string
	By        int64 // user
	Created   time.Time
	Queued    time.Time // when it came into the queue the last time
	Twin      int       // how many of the project were made in the same second before
	Started   time.Time
	Finished  time.Time

	Branch      string
	Tag         string
	PullRequest string         // pull/12/head
	Head        string         // its branch, if it is known
	Base        string         // the branch it goes to, if that is known
	Fork        bool           // it is of no branch of the repository, as far as is known
	Commit      *source.Commit // nil without a source
	From        *source.Commit
	Comment     string
	Refresh     bool
	ClearCache  bool
	Priority    Priority
	Variables   []Variable // secret values are secret.Encrypted
	Only        []ActionID
	Environment string // UUID, or ""

	CancelledBy int64
	Cancelled   time.Time
	Previous    Status    // of the execution that ended before this one began
	Delayed     time.Time // when it comes into the queue, if not at once
	Verdict     *Verdict  // about the conditions of the pipeline, if they were asked
	Waits       []Wait    // before it began, since the start or the last Retry
	Held        bool      // nothing is in progress, and a step waits to be approved
	Asking      bool      // nothing is in progress, and what a step waits for are variables

	// Frozen is the pipeline as it was at the start, Steps its actions and what
	// became of them, in order. Lists of executions leave both out.
	Frozen Pipeline
	Steps  []ActionExecution
	// Notes are what was to be said of the file with the definition, Problem is why
	// there are no actions of it.
	Notes   []string
	Problem string

	// Rerun says where the execution began; nil: with its first action.
	Rerun *Rerun

	loop      looping
	prepared  bool // the file system is at the commit
	undefined bool // its actions are to be read from a file; Steps are those of the last one
	own       bool // they were: it has the secrets of them itself
}

// pullRef is the ref of the pull request that the execution is of, "" of none.
func (x Execution) pullRef() string {
	if x.PullRequest == "" {
		return ""
	}
	return "refs/" + x.PullRequest
}

// actions are those that the execution was started with.
func (x Execution) actions() (l []Action) {
	for _, s := range x.Steps {
		l = append(l, s.Action)
	}
	return l
}

// local tells whether the execution is of somebody's working tree.
func (x Execution) local() bool { return x.Mode == ByLocal }

// ActionExecution is one action of an execution.
type ActionExecution struct {
	ID      string // 24 hex digits
	Index   int
	Action  Action // as it was at the start
	Status  Status
	Attempt int // counts engine runs; part of their ids
	Tries   int // failed tries since the start, the last Retry or the last round
	Round   int // of a loop: combinations that are done
	// Verdict is about the conditions of the action; nil if it has none, or was
	// not reached.
	Verdict *Verdict
	Waits   []Wait // before the next try

	Held     bool      // its turn has come, and it waits to be approved
	Approved time.Time // zero: it was not, or need not be
	Approver int64     // user
	Asking   bool      // its turn has come, and it waits for variables
	Given    time.Time // when it got them

	NotBefore time.Time // of the next try
	Started   time.Time
	Finished  time.Time
	Error     string // why it failed, where, and what to do
	Code      int    // exit code, -1 if there is none
	Digest    string // of the image it built
	Image     string // a name of it
	Outputs   []Output

	Snapshot string // of the file system before it began; "" if there is none
	Unkept   string // why there is none, if it has begun
	Carried  bool   // it was run in the execution that this one goes on from
}

// Shown is the status that is told.
func (x Execution) Shown() Status {
	if x.Held && x.Status == InProgress {
		return WaitingForApply
	}
	if x.Asking && x.Status == InProgress {
		return WaitingForVariables
	}
	return x.Status
}

// Shown is the status that is told.
func (s ActionExecution) Shown() Status {
	switch {
	case s.Held:
		return WaitingForApply
	case s.Asking:
		return WaitingForVariables
	}
	return s.Status
}

// Operation is what is asked of an execution.
type Operation string

// Operations.
const (
	OpCancel         Operation = "CANCEL"
	OpRetry          Operation = "RETRY"
	OpApply          Operation = "APPLY"
	OpApplyVariables Operation = "APPLY_VARIABLES"
	OpRunDelayed     Operation = "RUN_DELAYED"
)

// Ended is the data of event.ExecutionStarted and event.ExecutionFinished.
type Ended struct {
	Execution ExecutionID `json:"execution"`
	Pipeline  ID          `json:"pipeline"`
	Number    int64       `json:"number"`
	Status    Status      `json:"status"`
	Local     bool        `json:"local,omitempty"` // of somebody's working tree
}

// event says in one word what began the execution.
func (x Execution) event() string {
	switch x.Mode {
	case ByPush:
		return "PUSH"
	case ByClock:
		return "SCHEDULE"
	case ByHook:
		return "WEBHOOK"
	case ByPull:
		return "PULL_REQUEST"
	}
	return "CLICK"
}

// Message is the title that the pipeline's template gives the execution; without
// one it is the subject of the commit. It knows the default variables, and no
// others: they may be secret.
func (x Execution) Message(workspace, projectName, url string, by access.User) string {
	if x.Frozen.MessageTemplate == "" {
		if x.Commit == nil {
			return ""
		}
		return x.Commit.Subject
	}
	known := map[string]string{}
	for _, d := range defaults(x, ActionExecution{}, about{Domain: workspace, Project: projectName, InvokerName: by.Called(), Email: by.Email, URL: url}) {
		if !strings.HasPrefix(d[0], "BUDDY_ACTION_") {
			known[d[0]] = d[1]
		}
	}
	text := []rune(expand(x.Frozen.MessageTemplate, known))
	return string(text[:min(len(text), textMax)])
}
