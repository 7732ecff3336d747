package stack

import (
	"context"
	"log/slog"
	"time"

	"github.com/containerd/errdefs"

	"slipway/crash"
	"slipway/db"
	"slipway/project"
)

// A scheduled update asks for the image of a service under a definition of its
// own, which is no wish: what is declared and applied stays as it is until the
// image is known, and for good if it is the same.

// refresh is what is to be done about an update now.
type refresh int

const (
	noRefresh    refresh = iota
	beginRefresh         // ask for the image of what is declared
	leaveRefresh         // the image is the same, cannot be had, or is asked for anyway
	applyRefresh         // recreate the service with what was found
)

// refresh decides about one service; due tells that the time of its stack has
// come. It is pure.
func (w *world) refresh(s *service, due bool) refresh {
	declared, applied, found := w.definitions[s.Declared], w.definitions[s.Applied], w.definitions[s.Updating]
	// What is stopped stays so, and what is being looked for is asked for as it is.
	idle := !s.Removed.IsZero() || s.Stopped || applied.Digest == ""
	switch {
	case found == nil && due && !idle:
		return beginRefresh
	case found == nil:
		return noRefresh
	case idle:
		return leaveRefresh
	case !found.Equal(declared.Definition): // changed since; ask for that one
		return beginRefresh
	case found.Digest != "" && found.Digest != applied.Digest:
		return applyRefresh
	case found.Digest != "" || found.Tries > 0:
		return leaveRefresh
	}
	return noRefresh
}

// due tells whether the time of a stack has come.
func (r row) due(now time.Time) bool { return !r.UpdateAt.IsZero() && !r.UpdateAt.After(now) }

// refreshes tells whether anything is to be done about updates.
func (w *world) refreshes(now time.Time) bool {
	due := w.stack.due(now)
	for _, s := range w.services {
		if w.refresh(s, due) != noRefresh {
			return true
		}
	}
	return due
}

// refresh does what is to be done about updates. The next time is set with what
// this one begins, so that a time is carried out once; those that passed while no
// server ran are one together.
func (s *Stacks) refresh(ctx context.Context, l db.Lease) error {
	var done map[refresh]int
	err := s.db.Write(context.WithoutCancel(ctx), func(tx *db.Tx) error {
		done = map[refresh]int{}
		if err := tx.Check(l); err != nil {
			return err
		}
		w, err := load(tx, s.box, ID(l.ID))
		if err != nil {
			return err
		}
		p, err := project.Load(tx, w.stack.Project)
		if errdefs.IsNotFound(err) || !w.stack.Deleted.IsZero() {
			return nil // the next look sees that
		} else if err != nil {
			return err
		}
		c := &change{tx: tx, w: w, p: p}
		due := w.stack.due(tx.Now)
		for _, sv := range w.services {
			todo := w.refresh(sv, due)
			done[todo]++
			if err := c.refresh(s, sv, todo); err != nil {
				return err
			}
		}
		if due {
			w.stack.UpdateAt = w.stack.Schedule.next(tx.Now)
			if _, err := tx.Exec(`UPDATE stacks SET update_at = ? WHERE id = ?`, db.Micros(w.stack.UpdateAt), l.ID); err != nil {
				return err
			}
		}
		if !c.changed {
			return nil
		}
		return w.bump(tx, p, nil)
	})
	if err != nil {
		return err
	}
	if done[beginRefresh] > 0 {
		crash.At("stack: images asked for again")
		slog.Info("images of a stack are asked for again", "room", "stack", "stack", l.ID, "services", done[beginRefresh])
	}
	if done[applyRefresh] > 0 {
		crash.At("stack: new images applied")
		slog.Info("services are recreated with new images", "room", "stack", "stack", l.ID, "services", done[applyRefresh])
	}
	return nil
}

// refresh does it for one service.
func (c *change) refresh(st *Stacks, s *service, todo refresh) error {
	switch todo {
	case beginRefresh:
		var err error
		if s.Updating, err = c.anew(st, s); err != nil {
			return err
		}
	case applyRefresh:
		s.Declared, s.Applied, s.Updating = s.Updating, s.Updating, ""
		return c.again(s)
	case leaveRefresh:
		s.Updating = ""
	case noRefresh:
		return nil
	}
	return s.save(c.tx)
}
