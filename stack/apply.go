package stack

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"

	"slipway/crash"
	"slipway/db"
	"slipway/engine"
)

// notStarted is the reason of an exit that never was: the machinery failed.
const notStarted engine.Reason = "not started"

// apply does what was decided. more tells that something is different now and
// is to be looked at; stops go on by themselves and are followed by a look when
// they are through.
func (s *Stacks) apply(ctx context.Context, l db.Lease, r *look) (more bool, err error) {
	owner := r.world.stack.ID.Owner()
	ctx, end := detached(ctx)
	defer end()
	var g errgroup.Group
	g.SetLimit(parallel)
	for _, c := range r.Changes {
		switch {
		case c.Stop != nil:
			s.stop(r.world.stack.ID, *c.Stop)
		case c.Remove != "":
			more = true
			if err := s.engine.Apply(ctx, owner, c); err != nil {
				return false, errors.Join(err, g.Wait())
			}
			crash.At("stack: ended instance removed")
		default:
			more = true
			g.Go(func() error { return s.start(ctx, l, r.world, c) })
		}
	}
	if err := g.Wait(); err != nil {
		return false, err
	}
	for _, id := range r.Drop {
		if err := s.drop(ctx, l, id); err != nil {
			return false, err
		}
		more = true
	}
	for _, sv := range r.world.services {
		if r.forgets(sv) { // its row is gone already
			if err := s.logs.Remove(s.logs.Service(string(sv.ID))); err != nil {
				return false, fmt.Errorf("log of service %s: %w", sv.ID, err)
			}
			more = true
		}
	}
	return more, nil
}

// detached gives a context whose end leaves what the engine has started.
func detached(ctx context.Context) (context.Context, func()) {
	out, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() { cancel(engine.ErrDetach) })
	return out, func() { stop(); cancel(engine.ErrDetach) }
}

// start makes the volumes of an instance and starts it. That the machinery
// cannot do it is noted like an exit, so that it is tried again, later and
// later.
func (s *Stacks) start(ctx context.Context, l db.Lease, w *world, c engine.Change) error {
	err := s.ensure(ctx, w, c.Start.Mounts)
	if err == nil {
		err = s.engine.Apply(ctx, w.stack.ID.Owner(), c)
	}
	if err == nil {
		crash.At("stack: instance started")
		s.routes.ring()
		return nil
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	slog.Error("a service cannot be started", "room", "stack", "stack", w.stack.ID, "service", c.Start.Service, "instance", c.Start.ID, "error", err)
	return s.db.Write(ctx, func(tx *db.Tx) error {
		if err := tx.Check(l); err != nil {
			return err
		}
		return noteFailure(tx, s, w.stack.ID, c.Start, err)
	})
}

func (s *Stacks) ensure(ctx context.Context, w *world, mounts []engine.Mount) error {
	for _, m := range mounts {
		if err := s.engine.Volumes().Ensure(ctx, m.Volume, w.volumeOwner(m.Volume)); err != nil {
			return fmt.Errorf("volume of %s: %w", m.Target, err)
		}
	}
	return nil
}

// noteFailure writes into the history that a start failed. An image that is not
// in the store any more is looked for again.
func noteFailure(tx *db.Tx, s *Stacks, id ID, spec *engine.ServiceSpec, cause error) error {
	w, err := load(tx, s.box, id)
	if err != nil {
		return err
	}
	for _, sv := range w.services {
		if string(sv.ID) != spec.Service {
			continue
		}
		if errdefs.IsNotFound(cause) {
			if _, err := tx.Exec(`UPDATE service_definitions SET digest = '', tries = 0, retry_at = NULL WHERE id = ? AND digest = ?`,
				definitionOf(spec.Hash), spec.Image); err != nil {
				return err
			}
		}
		sv.History = sv.History.add(engine.Instance{ID: spec.ID, Hash: spec.Hash, Exit: &engine.Exit{
			Code: -1, Reason: notStarted, Message: "could not be started: " + cause.Error(), Ended: tx.Now,
		}}, tx.Now)
		return sv.save(tx)
	}
	return nil
}

// stop ends an instance without being waited for. Routes that lead to it are
// gone before it is.
func (s *Stacks) stop(id ID, spec engine.StopSpec) {
	s.jobs.start("stop "+spec.ID, func(ctx context.Context) {
		flush, cancel := context.WithTimeout(ctx, flushTime)
		err := s.routes.flush(flush)
		cancel()
		if err != nil && ctx.Err() == nil {
			slog.Warn("an instance is stopped before the routes are changed", "room", "stack", "instance", spec.ID, "error", err)
		}
		err = s.engine.Apply(ctx, id.Owner(), engine.Change{Stop: &spec})
		if ctx.Err() != nil {
			return // the next server goes on
		}
		if err != nil {
			slog.Error("an instance cannot be stopped", "room", "stack", "instance", spec.ID, "error", err)
			select { // and try again
			case <-ctx.Done():
				return
			case <-time.After(firstDelay):
			}
		} else {
			crash.At("stack: instance stopped")
		}
		s.jobs.done("stop " + spec.ID)
		s.wake(ctx, id)
	})
}

// drop removes the data of a volume, then its row.
func (s *Stacks) drop(ctx context.Context, l db.Lease, id VolumeID) error {
	if err := s.engine.Volumes().Remove(ctx, id.Engine()); err != nil {
		return fmt.Errorf("volume %s: %w", id, err)
	}
	crash.At("stack: volume removed")
	return s.db.Write(ctx, func(tx *db.Tx) error {
		if err := tx.Check(l); err != nil {
			return err
		}
		_, err := tx.Exec(`DELETE FROM volumes WHERE id = ? AND removed IS NOT NULL`, string(id))
		return err
	})
}
