package stack

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/containerd/errdefs"
	"github.com/google/uuid"

	"slipway/access"
	"slipway/db"
	"slipway/event"
	"slipway/logs"
	"slipway/project"
)

var noAddr netip.Addr

// become writes the event of a change of status; the row is saved by the caller.
func (s *service) become(tx *db.Tx, r row, workspace string, to Status, message string) error {
	if s.Status == to {
		s.Message = message
		return nil
	}
	from := s.Status
	s.Status, s.StatusSet, s.Message = to, tx.Now, message
	return event.Write(tx, event.Event{Kind: event.ServiceChanged, Workspace: workspace, Project: string(r.Project), Subject: string(s.ID)},
		StatusChange{Service: s.ID, Stack: r.ID, From: from, To: to, Message: message})
}

// find finds a service by UUID or short id.
func (w *world) find(ref string) (*service, error) {
	for _, s := range w.services {
		if s.Removed.IsZero() && (string(s.ID) == ref || s.Short == ref) {
			return s, nil
		}
	}
	return nil, fmt.Errorf("service %s: %w", ref, errdefs.ErrNotFound)
}

// Service finds a service of a stack by UUID or short id.
func (s *Stacks) Service(ctx context.Context, by access.Actor, id ID, ref string) (out Service, err error) {
	err = s.read(ctx, by, id, func(w *world, _ project.Project) error {
		sv, err := w.find(ref)
		if err == nil {
			out = w.viewService(sv)
		}
		return err
	})
	return out, err
}

// Find finds a service by UUID or short id, whatever stack it is of.
func (s *Stacks) Find(ctx context.Context, by access.Actor, ref string) (out Service, err error) {
	err = s.db.Read(ctx, func(tx *db.Tx) error {
		var id ID
		err := tx.QueryRow(`SELECT stack FROM services WHERE (id = ? OR short = ?) AND removed IS NULL`, ref, ref).Scan(&id)
		if err != nil {
			return db.NotFound(err, "service %s", ref)
		}
		w, _, err := s.open(tx, by, id, access.StackRead)
		if err != nil {
			return err
		}
		sv, err := w.find(ref)
		if err == nil {
			out = w.viewService(sv)
		}
		return err
	})
	return out, err
}

// act changes the wish for one service.
func (s *Stacks) act(ctx context.Context, by access.Actor, id ID, ref string, f func(*change, *service) error) error {
	return s.write(ctx, by, id, func(tx *db.Tx, w *world, p project.Project) error {
		sv, err := w.find(ref)
		if err != nil {
			return err
		}
		c := &change{tx: tx, w: w, p: p}
		if err := f(c, sv); err != nil || !c.changed {
			return err
		}
		return w.bump(tx, p, nil)
	})
}

func refuse(what string, s *service, why string) error {
	return fmt.Errorf("cannot %s service %s, it is already %s: %w", what, s.ID, why, errdefs.ErrFailedPrecondition)
}

// Start starts a stopped service, or one that has ended or waits for its next
// try. A running one is errdefs.ErrFailedPrecondition.
func (s *Stacks) Start(ctx context.Context, by access.Actor, id ID, ref string) error {
	return s.act(ctx, by, id, ref, func(c *change, sv *service) error {
		switch {
		case sv.Stopped:
		case sv.Status == Running:
			return refuse("start", sv, "running")
		case sv.History.Hash != sv.hash(): // about to start
			return nil
		}
		return c.again(sv)
	})
}

// Stop stops a service until it is started again. A stopped one is
// errdefs.ErrFailedPrecondition.
func (s *Stacks) Stop(ctx context.Context, by access.Actor, id ID, ref string) error {
	return s.act(ctx, by, id, ref, func(c *change, sv *service) error {
		if sv.Status == Stopped {
			return refuse("stop", sv, "stopped")
		}
		if sv.Stopped {
			return nil
		}
		sv.Stopped, sv.Failed, c.changed = true, false, true
		c.unroute(sv)
		return c.setStatus(sv, Stopping, "")
	})
}

// Restart replaces the container of a service by one of the same definition,
// and starts a stopped one.
func (s *Stacks) Restart(ctx context.Context, by access.Actor, id ID, ref string) error {
	return s.act(ctx, by, id, ref, func(c *change, sv *service) error { return c.again(sv) })
}

// Recreate applies the declared definition in a new container.
func (s *Stacks) Recreate(ctx context.Context, by access.Actor, id ID, ref string) error {
	return s.act(ctx, by, id, ref, func(c *change, sv *service) error { return c.recreate(sv) })
}

// Pull asks for the image again, even if one of that name is there, and
// recreates the service with it; with onlyPull the new image waits for that.
func (s *Stacks) Pull(ctx context.Context, by access.Actor, id ID, ref string, onlyPull bool) error {
	return s.act(ctx, by, id, ref, func(c *change, sv *service) error { return c.pull(s, sv, onlyPull) })
}

func (c *change) pull(st *Stacks, s *service, onlyPull bool) error {
	anew, err := c.anew(st, s)
	if err != nil {
		return err
	}
	s.Declared, c.changed = anew, true
	if onlyPull {
		return s.save(c.tx)
	}
	s.Applied = anew
	return c.again(s)
}

// anew is what is declared once more, for its image to be asked for again.
func (c *change) anew(st *Stacks, s *service) (id string, err error) {
	def := &definition{ID: uuid.NewString(), Service: s.ID, Definition: c.w.definitions[s.Declared].Definition, Refresh: true}
	return def.ID, def.insert(c.tx, st.box)
}

// Logs gives the lines that a service wrote, oldest first, in pieces; tail is
// how many of the last ones, 0 all.
func (s *Stacks) Logs(ctx context.Context, by access.Actor, id ID, ref string, tail int, f func([]logs.Line) error) error {
	sv, err := s.Service(ctx, by, id, ref)
	if err != nil {
		return err
	}
	dir := s.logs.Service(string(sv.ID))
	if tail > 0 {
		lines, err := s.tail(ctx, dir, tail)
		if err != nil || len(lines) == 0 {
			return err
		}
		return f(lines)
	}
	const piece = 5000
	for at := int64(0); ; {
		lines, total, err := s.logs.Read(ctx, dir, logs.Query{Offset: at, Limit: piece})
		if err != nil {
			return fmt.Errorf("log of service %s: %w", sv.ID, err)
		}
		if len(lines) == 0 {
			return nil
		}
		at = lines[len(lines)-1].N + 1
		if err := f(written(lines)); err != nil || at >= total {
			return err
		}
	}
}

// tail gives the last n lines that the service wrote itself.
func (s *Stacks) tail(ctx context.Context, dir string, n int) ([]logs.Line, error) {
	for want := n + 16; ; want *= 2 {
		lines, total, err := s.logs.Read(ctx, dir, logs.Query{Tail: want})
		if err != nil {
			return nil, fmt.Errorf("log: %w", err)
		}
		own := written(lines)
		if len(own) >= n {
			return own[len(own)-n:], nil
		}
		if int64(want) >= total || len(lines) < want {
			return own, nil
		}
	}
}

// written leaves out the notes of ours.
func written(lines []logs.Line) []logs.Line {
	out := make([]logs.Line, 0, len(lines))
	for _, l := range lines {
		if l.Stream != 'm' {
			out = append(out, l)
		}
	}
	return out
}
