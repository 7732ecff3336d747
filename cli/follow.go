package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"
)

// execution is a run of a pipeline, as the server tells it.
type execution struct {
	Status           string
	HTMLURL          string `json:"html_url"`
	ErrorMessage     string `json:"error_message"`
	ActionExecutions []struct {
		ID           string `json:"action_execution_id"`
		Status       string
		ErrorMessage string `json:"error_message"`
		StartDate    string `json:"start_date"`
		Action       struct{ Name string }
	} `json:"action_executions"`
}

func ended(status string) bool {
	switch status {
	case "SUCCESSFUL", "FAILED", "TERMINATED", "SKIPPED", "NOT_EXECUTED":
		return true
	}
	return false
}

// failure says why an execution is what it is.
func (e *execution) failure() string {
	for _, a := range e.ActionExecutions {
		if a.ErrorMessage != "" && a.Status != "SKIPPED" {
			return a.Action.Name + ": " + a.ErrorMessage
		}
	}
	return e.ErrorMessage
}

// looks is how often an execution is looked at, away how long a server may not
// answer before who follows gives up.
const (
	looks = 100 * time.Millisecond
	away  = 10 * time.Minute
)

// follower shows the logs of an execution as they grow.
type follower struct {
	*Client
	path string // of the execution
	out  io.Writer
	// indent comes before each line of a log.
	indent string
	shown  map[string]int  // lines, by action
	whole  map[string]bool // actions that are at their end, with their log
	// interrupts ends the execution, a second one the following.
	interrupts <-chan os.Signal
	cancelled  bool
	held       bool // that it waits for somebody was said
	lost       time.Time
}

// errLeft is a second interrupt.
var errLeft = errors.New("left; the run goes on, or ends, without us")

// follow shows the logs until the execution ends.
func (f *follower) follow(ctx context.Context) (*execution, error) {
	tick := time.NewTicker(looks)
	defer tick.Stop()
	for {
		e, err := f.look(ctx)
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if err = f.patient(err); err != nil {
			return nil, err
		}
		if e != nil && ended(e.Status) {
			return e, nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-f.interrupts:
			if f.cancelled {
				return nil, errLeft
			}
			f.cancelled = true
			fmt.Fprintln(f.out, "cancelling the run; once more leaves it")
			if err := f.patient(f.cancel(ctx)); err != nil {
				return nil, err
			}
		}
	}
}

// patient lets an error pass that may be over soon: the server is restarted, or
// the way to it is.
func (f *follower) patient(err error) error {
	var refused *Refused
	switch {
	case err == nil:
		if !f.lost.IsZero() {
			fmt.Fprintln(f.out, "the server answers again")
		}
		f.lost = time.Time{}
		return nil
	case errors.As(err, &refused) && refused.Status < 500 && refused.Status != http.StatusTooManyRequests:
		return err
	case f.lost.IsZero():
		f.lost = time.Now()
		fmt.Fprintln(f.out, err, "- the run goes on; trying again")
		return nil
	case time.Since(f.lost) > away:
		return err
	}
	return nil
}

// cancel ends the execution. One that has ended meanwhile stays as it is.
func (f *follower) cancel(ctx context.Context) error {
	err := f.Do(ctx, "PATCH", f.path, map[string]any{"operation": "CANCEL"}, nil)
	if IsStatus(err, http.StatusBadRequest) {
		return nil
	}
	if err != nil {
		f.cancelled = false
	}
	return err
}

// look shows what is new.
func (f *follower) look(ctx context.Context) (*execution, error) {
	var e execution
	if err := f.Do(ctx, "GET", f.path, nil, &e); err != nil {
		return nil, err
	}
	if e.Status == "WAITING_FOR_APPLY" && !f.held {
		fmt.Fprintln(f.out, "the run waits for somebody to approve its next action:", e.HTMLURL)
	}
	f.held = e.Status == "WAITING_FOR_APPLY"
	for _, a := range e.ActionExecutions {
		if a.StartDate == "" || f.whole[a.ID] && !ended(e.Status) {
			continue
		}
		if err := f.show(ctx, a.ID, a.Action.Name); err != nil {
			return nil, err
		}
		f.whole[a.ID] = ended(a.Status)
	}
	return &e, nil
}

// show prints the lines of an action that are new.
func (f *follower) show(ctx context.Context, id, name string) error {
	const most = 1000
	for {
		var l struct{ Logs []string }
		p := fmt.Sprintf("%s/action_executions/%s/logs?offset=%d&limit=%d", f.path, id, f.shown[id], most)
		if err := f.Do(ctx, "GET", p, nil, &l); err != nil {
			return err
		}
		for _, line := range l.Logs {
			fmt.Fprintf(f.out, "%s%s | %s\n", f.indent, name, line)
		}
		f.shown[id] += len(l.Logs)
		if len(l.Logs) < most {
			return nil
		}
	}
}
