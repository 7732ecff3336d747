// Package pipeline is work that ends: pipelines of actions, their executions,
// the pure decisions about them (Next, Admit) and the Runner.
package pipeline

// ID is the server-wide number of a pipeline.
type ID int64

// ActionID is the server-wide number of an action.
type ActionID int64

// ExecutionID is the UUID of an execution.
type ExecutionID string

// Status is a state of an execution or of one of its actions.
type Status string

// States.
const (
	Initial     Status = "INITIAL"
	Enqueued    Status = "ENQUEUED"
	InProgress  Status = "INPROGRESS"
	Terminating Status = "TERMINATING"
	Successful  Status = "SUCCESSFUL"
	Failed      Status = "FAILED"
	Terminated  Status = "TERMINATED"
	Skipped     Status = "SKIPPED"
	NotExecuted Status = "NOT_EXECUTED"
)

// Ended is the data of event.ExecutionStarted and event.ExecutionFinished.
type Ended struct {
	Execution ExecutionID `json:"execution"`
	Pipeline  ID          `json:"pipeline"`
	Number    int64       `json:"number"`
	Status    Status      `json:"status"`
}
