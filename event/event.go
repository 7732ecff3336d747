// Package event is the outbox: what became true, written in the transaction
// that made it true, read by others with cursors of their own. Nobody calls
// back.
//
//	room: one transaction             reader: one transaction
//	+---------------------+           +--------------------------+
//	| row changes         |  commit   | handle(event)            |
//	| event.Write --------+---------->| cursor moves behind it   |
//	+---------------------+   wakes   +--------------------------+
//
// So an event is never lost, never told before it is true, and handled once.
package event

import (
	"encoding/json"
	"fmt"
	"time"

	"slipway/db"
)

// Kind says what happened: "<noun>.<past tense>".
type Kind string

// Kinds. The data of each is the struct named beside it, in the room that
// writes it.
const (
	Pushed            Kind = "source.pushed"      // source.Push
	PullPushed        Kind = "source.pull_pushed" // source.Pull
	ImageTagged       Kind = "image.tagged"       // image.Tagged
	ExecutionStarted  Kind = "execution.started"  // pipeline.Ended
	ExecutionFinished Kind = "execution.finished" // pipeline.Ended
	StackChanged      Kind = "stack.changed"      // stack.Changed
	ServiceChanged    Kind = "service.changed"    // stack.StatusChange
	IngressChanged    Kind = "ingress.changed"
	ProjectCreated    Kind = "project.created"
	ProjectChanged    Kind = "project.changed" // its name, status or attributes
	ProjectDeleted    Kind = "project.deleted" // not found from here on; its data is kept for a while
	ProjectRestored   Kind = "project.restored"
	ProjectRemoved    Kind = "project.removed" // its rows are gone; what is left of its data is to go
)

// Event is one line of the outbox.
type Event struct {
	Seq       int64 // grows with every event, without gaps that matter
	At        time.Time
	Kind      Kind
	Workspace string // UUID
	Project   string // UUID, or ""
	Subject   string // id of what it is about
	Data      json.RawMessage
}

// Topic is what db.Watch is told for any new event.
const Topic = "event"

// Write adds an event to the caller's transaction. Seq and At are set here.
// data becomes JSON; nil is {}.
func Write(tx *db.Tx, e Event, data any) error {
	text := []byte("{}")
	if data != nil {
		var err error
		if text, err = json.Marshal(data); err != nil {
			return fmt.Errorf("event %s of %s: %w", e.Kind, e.Subject, err)
		}
	}
	_, err := tx.Exec(`INSERT INTO events (at, kind, workspace, project, subject, data) VALUES (?, ?, ?, ?, ?, ?)`,
		tx.Now.UnixMicro(), string(e.Kind), e.Workspace, e.Project, e.Subject, string(text))
	if err != nil {
		return fmt.Errorf("event %s of %s: %w", e.Kind, e.Subject, err)
	}
	tx.Wake(Topic)
	return nil
}
