// Package trigger is what starts work: a push now; forge hooks, cron, polling
// and tag pushes later.
package trigger

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"

	"github.com/containerd/errdefs"

	"slipway/crash"
	"slipway/db"
	"slipway/event"
	"slipway/pipeline"
	"slipway/project"
	"slipway/source"
)

// Trigger follows the outbox and starts what it asks for.
type Trigger struct {
	outbox    *event.Outbox
	pipelines *pipeline.Pipelines
}

// New makes it. The store and the sources are for the ways of starting that
// need to look for themselves.
func New(_ *db.DB, o *event.Outbox, _ *source.Sources, p *pipeline.Pipelines) *Trigger {
	return &Trigger{o, p}
}

// cursor is how far we have read.
const cursor = "trigger"

// Run starts pipelines, in the order of the pushes, until ctx ends. A push and
// what it starts are told in one transaction with the cursor: nothing starts
// twice or not at all.
func (t *Trigger) Run(ctx context.Context) error {
	return t.outbox.Follow(ctx, cursor, []event.Kind{event.Pushed}, t.pushed)
}

func (t *Trigger) pushed(tx *db.Tx, e event.Event) error {
	var push source.Push
	if err := json.Unmarshal(e.Data, &push); err != nil {
		slog.Error("a push event cannot be read", "room", "trigger", "event", e.Seq, "error", err)
		return nil // reading it again would not help those after it
	}
	started, err := t.pipelines.Triggered(tx, project.ID(e.Project), push)
	switch {
	case errdefs.IsNotFound(err):
		return nil // the project is gone
	case err != nil:
		return fmt.Errorf("push of %s: %w", push.Ref, err)
	}
	for _, x := range started {
		slog.Info("execution started by a push", "room", "trigger", "execution", string(x), "project", e.Project, "ref", push.Ref, "commit", push.New)
	}
	crash.At("trigger: a push is handled")
	return nil
}
