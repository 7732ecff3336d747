// Package trigger is what starts work: a ref that moves, a pull request and the clock; forge
// hooks, polling and tag pushes later. It also counts the failures after which
// the clock of a pipeline stops.
package trigger

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"

	"slipway/crash"
	"slipway/db"
	"slipway/event"
	"slipway/pipeline"
	"slipway/project"
	"slipway/source"
)

// Trigger follows the outbox and the clock, and starts what they ask for.
type Trigger struct {
	db        *db.DB
	outbox    *event.Outbox
	pipelines *pipeline.Pipelines
}

// New makes it. The sources are for the ways of starting that need to look for
// themselves.
func New(d *db.DB, o *event.Outbox, _ *source.Sources, p *pipeline.Pipelines) *Trigger {
	return &Trigger{d, o, p}
}

// cursor is how far we have read; owner is us in leases, the same after a
// restart, so that what a killed server held is claimed at once.
const (
	cursor = "trigger"
	owner  = "trigger"
)

// hands is how many pipelines are started by the clock at the same time: one
// may wait for an outside repository.
const hands = 8

// Run starts pipelines until ctx ends.
func (t *Trigger) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		return t.outbox.Follow(ctx, cursor, []event.Kind{event.Pushed, event.PullPushed, event.ExecutionFinished}, t.happened)
	})
	g.Go(func() error {
		return t.db.Work(ctx, db.Work{
			Table: pipeline.Schedules, Owner: owner, N: hands,
			Handle: t.pipelines.Scheduled,
		})
	})
	return g.Wait()
}

// happened handles events in their order. A push and what it starts are told in
// one transaction with the cursor: nothing starts twice or not at all.
func (t *Trigger) happened(tx *db.Tx, e event.Event) error {
	if e.Kind == event.ExecutionFinished {
		var x pipeline.Ended
		if err := json.Unmarshal(e.Data, &x); err != nil {
			return unreadable(e, err)
		}
		return t.pipelines.Ran(tx, x)
	}
	if e.Kind == event.PullPushed {
		return t.pulled(tx, e)
	}
	return t.pushed(tx, e)
}

// pulled handles what has happened to a pull request.
func (t *Trigger) pulled(tx *db.Tx, e event.Event) error {
	var pull source.Pull
	if err := json.Unmarshal(e.Data, &pull); err != nil {
		return unreadable(e, err)
	}
	return t.PullRequest(tx, project.ID(e.Project), pull)
}

// PullRequest starts what asks for something that has happened to a pull request of a
// project, in the caller's transaction. Whoever learns of one tells it here.
func (t *Trigger) PullRequest(tx *db.Tx, in project.ID, pull source.Pull) error {
	started, err := t.pipelines.Pulled(tx, in, pull)
	switch {
	case errdefs.IsNotFound(err):
		return nil // the project is gone
	case err != nil:
		return fmt.Errorf("pull request %s: %w", pull.Number, err)
	}
	for _, x := range started {
		slog.Info("execution started by a pull request", "room", "trigger", "execution", string(x), "project", string(in), "pull", pull.Number, "what", pull.What)
	}
	crash.At("trigger: a pull request is handled")
	return nil
}

// unreadable leaves an event alone: reading it again would not help those after
// it.
func unreadable(e event.Event, err error) error {
	slog.Error("an event cannot be read", "room", "trigger", "event", e.Seq, "kind", e.Kind, "error", err)
	return nil
}

func (t *Trigger) pushed(tx *db.Tx, e event.Event) error {
	var push source.Push
	if err := json.Unmarshal(e.Data, &push); err != nil {
		return unreadable(e, err)
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
