// Package event is the outbox: what became true, written in the transaction
// that made it true, read by others with cursors of their own. Nobody calls
// back.
package event

import (
	"context"
	"encoding/json"
	"time"

	"slipway/db"
)

// Kind says what happened: "<noun>.<past tense>".
type Kind string

// Kinds. The data of each is the struct named beside it, in the room that
// writes it.
const (
	Pushed            Kind = "source.pushed"      // source.Push
	ImageTagged       Kind = "image.tagged"       // image.Tagged
	ExecutionStarted  Kind = "execution.started"  // pipeline.Ended
	ExecutionFinished Kind = "execution.finished" // pipeline.Ended
	StackChanged      Kind = "stack.changed"      // nothing more
	ServiceChanged    Kind = "service.changed"    // stack.StatusChange
	IngressChanged    Kind = "ingress.changed"
	ProjectCreated    Kind = "project.created"
	ProjectDeleted    Kind = "project.deleted"
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
func Write(tx *db.Tx, e Event, data any) error { panic("unwritten") }

// Outbox reads events.
type Outbox struct {
	db *db.DB
}

// New makes the reader.
func New(d *db.DB) *Outbox { return &Outbox{db: d} }

// After gives up to limit events after seq, oldest first.
func (o *Outbox) After(ctx context.Context, seq int64, limit int) ([]Event, error) {
	panic("unwritten")
}

// Follow calls handle for every event of the given kinds after the cursor of
// that name, in order, until ctx ends. handle gets the transaction that also
// moves the cursor, so an event is handled exactly once; an error is tried
// again in a second, and the events after it wait. A new cursor begins at the
// beginning.
func (o *Outbox) Follow(ctx context.Context, cursor string, kinds []Kind, handle func(*db.Tx, Event) error) error {
	panic("unwritten")
}

// Prune drops events older than keep that every cursor has passed.
func (o *Outbox) Prune(ctx context.Context, keep time.Duration) error { panic("unwritten") }
