package stack

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"

	"slipway/crash"
	"slipway/db"
	"slipway/engine"
	"slipway/event"
	"slipway/project"
)

const (
	lookAgain = 30 * time.Second // at a stack where nothing happens
	rounds    = 8                // of one look, before others get their turn
	parallel  = 4                // starts of one stack
	workers   = 8                // stacks at the same time
	flushTime = 3 * time.Second  // how long a stop waits for the routes
)

// Run carries out what is wished until ctx ends. Containers stay as they are
// then.
func (s *Stacks) Run(ctx context.Context) error {
	if err := s.wakeAll(ctx); err != nil {
		return err
	}
	defer s.jobs.close()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		return s.db.Work(ctx, db.Work{Table: table, Owner: "serve", N: workers, Handle: s.Handle})
	})
	g.Go(func() error { return s.listen(ctx) })
	g.Go(func() error { return s.publish(ctx) })
	g.Go(func() error { return s.checkLogins(ctx) })
	g.Go(func() error {
		return s.events.Follow(ctx, "stack", heard, s.hear)
	})
	return g.Wait()
}

// wakeAll has every stack looked at: containers may have ended while no server
// ran.
func (s *Stacks) wakeAll(ctx context.Context) error {
	return s.db.Write(ctx, func(tx *db.Tx) error {
		_, err := tx.Exec(`UPDATE stacks SET due_at = ?, due_seq = due_seq + 1 WHERE lease_owner IS NULL`, db.Micros(tx.Now))
		tx.Wake(table)
		return err
	})
}

// listen makes a stack due when the engine says that something of it changed.
func (s *Stacks) listen(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case owner, ok := <-s.engine.Changed():
			if !ok {
				return nil
			}
			if id, ours := ownerID(owner); ours {
				s.wake(ctx, id)
			}
		}
	}
}

func ownerID(o engine.Owner) (ID, bool) {
	const prefix = "stack/"
	if len(o) <= len(prefix) || o[:len(prefix)] != prefix {
		return "", false
	}
	return ID(o[len(prefix):]), true
}

// wake makes a stack due now. A wake that is lost costs time only.
func (s *Stacks) wake(ctx context.Context, id ID) {
	err := s.db.Write(context.WithoutCancel(ctx), func(tx *db.Tx) error { return tx.Due(table, string(id), tx.Now) })
	if err != nil && ctx.Err() == nil {
		slog.Error("waking a stack failed", "room", "stack", "stack", id, "error", err)
	}
}

// heard are the events that stacks follow.
var heard = []event.Kind{event.ProjectDeleted, event.ProjectRestored, event.ProjectRemoved, event.ImageTagged}

// hear follows the outbox.
func (s *Stacks) hear(tx *db.Tx, e event.Event) error {
	if e.Kind == event.ImageTagged {
		return retryImages(tx, e.Workspace)
	}
	all, err := stacksOf(tx, project.ID(e.Project), true)
	if err != nil {
		return err
	}
	for _, r := range all {
		switch {
		case e.Kind == event.ProjectDeleted && r.Deleted.IsZero():
			err = markDeleted(tx, r, e.Workspace, true)
		case e.Kind == event.ProjectRestored && r.WithProject:
			err = restore(tx, r)
		case e.Kind == event.ProjectRemoved: // purge it as soon as its containers are gone
			_, err = tx.Exec(`UPDATE stacks SET deleted = 0, with_project = 0 WHERE id = ?`, string(r.ID))
			err = errors.Join(err, tx.Due(table, string(r.ID), tx.Now))
		}
		if err != nil {
			return fmt.Errorf("stack %s: %w", r.ID, err)
		}
	}
	return nil
}

func restore(tx *db.Tx, r row) error {
	if _, err := tx.Exec(`UPDATE stacks SET deleted = NULL, with_project = 0, updated = ?, generation = generation + 1 WHERE id = ?`,
		db.Micros(tx.Now), string(r.ID)); err != nil {
		return err
	}
	// Nothing of it has run since; the next look says more.
	if _, err := tx.Exec(`UPDATE services SET status = 'starting', status_set = ?, message = '' WHERE stack = ? AND stopped = 0`,
		db.Micros(tx.Now), string(r.ID)); err != nil {
		return err
	}
	return tx.Due(table, string(r.ID), tx.Now)
}

// look is what one round found.
type look struct {
	Decision
	world    *world
	project  project.Project
	changed  []*service // rows to be saved
	statuses map[ServiceID]State
	unused   []*definition
	resolve  []*definition // images to be found
	observed bool          // the generation is to be saved as carried out
	routes   bool          // an address is different
	gone     bool          // nobody wishes for the stack any more
	refresh  bool          // there is something to be done about updates
}

// Handle brings one stack closer to what is wished. It is the handler of the
// work table; all that it does is safe to repeat.
func (s *Stacks) Handle(ctx context.Context, l db.Lease) (time.Time, error) {
	id := ID(l.ID)
	for range rounds {
		if ctx.Err() != nil {
			return time.Time{}, context.Cause(ctx)
		}
		have, err := s.engine.Observe(ctx, id.Owner())
		if err != nil {
			return time.Time{}, fmt.Errorf("stack %s: %w", id, err)
		}
		s.routes.askers(id, have)
		r, err := s.round(ctx, l, have)
		if err != nil {
			return time.Time{}, fmt.Errorf("stack %s: %w", id, err)
		}
		for _, d := range r.resolve {
			s.resolve(r.world.stack, r.project, d)
		}
		s.measure(r.world)
		more, err := s.apply(ctx, l, r)
		if err != nil {
			return time.Time{}, fmt.Errorf("stack %s: %w", id, err)
		}
		if r.refresh {
			more = true
			if err := s.refresh(ctx, l); err != nil {
				return time.Time{}, fmt.Errorf("stack %s: update: %w", id, err)
			}
		}
		if !more {
			return s.rest(ctx, l, r, have)
		}
	}
	return time.Now(), nil
}

// rest says when to look again at a stack where nothing is to be done now, and
// ends a deleted one.
func (s *Stacks) rest(ctx context.Context, l db.Lease, r *look, have []engine.Instance) (time.Time, error) {
	d := r.Decision
	if w := r.world; !w.stack.Deleted.IsZero() {
		end := w.stack.Deleted.Add(s.cfg.Keep)
		switch {
		case len(have) > 0:
		case w.stack.WithProject:
			return time.Time{}, nil // until the project is restored or removed
		case time.Now().Before(end):
			return end, nil
		default:
			return time.Time{}, s.purge(ctx, l, w)
		}
	}
	if len(have) > 0 || len(r.world.services) > 0 || len(r.world.volumes) > 0 {
		d.again(time.Now().Add(lookAgain))
	}
	if at := r.world.stack.UpdateAt; !at.IsZero() && !r.gone {
		d.again(at)
	}
	return d.Again, nil
}

// round decides and writes down what it decided. A round that changes no row
// writes nothing.
func (s *Stacks) round(ctx context.Context, l db.Lease, have []engine.Instance) (r *look, err error) {
	if err = s.db.Read(ctx, func(tx *db.Tx) error {
		r, err = s.look(tx, ID(l.ID), have)
		return err
	}); err != nil || !r.dirty() {
		return r, err
	}
	err = s.db.Write(context.WithoutCancel(ctx), func(tx *db.Tx) error {
		if err := tx.Check(l); err != nil {
			return err
		}
		// Wishes may have come between: decide again on what is there now.
		if r, err = s.look(tx, ID(l.ID), have); err != nil {
			return err
		}
		return r.save(tx)
	})
	if err == nil {
		crash.At("stack: round written")
	}
	return r, err
}

// look decides, without writing anything.
func (s *Stacks) look(tx *db.Tx, id ID, have []engine.Instance) (*look, error) {
	w, err := load(tx, s.box, id)
	if err != nil {
		return nil, err
	}
	gone := !w.stack.Deleted.IsZero()
	p, err := project.Load(tx, w.stack.Project)
	if errdefs.IsNotFound(err) { // deleted; the event of it is on its way
		gone = true
	} else if err != nil {
		return nil, err
	}
	logOf := func(id ServiceID) string { return s.logs.Service(string(id)) }
	want := w.want(p, gone, logOf, s.cfg.LogKeep)
	for i := range want.Services {
		if v := &want.Services[i]; !v.Gone {
			v.History = Note(*v, have, tx.Now)
		}
	}
	r := &look{world: w, project: p, gone: gone, refresh: !gone && w.refreshes(tx.Now), Decision: Plan(want, have, tx.Now), statuses: Statuses(want, have, tx.Now)}
	r.decide(want, s.jobs, tx.Now)
	r.unused = w.unused(have)
	return r, nil
}

// decide finds which rows differ from what is true now.
func (r *look) decide(want Want, j *jobs, now time.Time) {
	w := r.world
	busy := len(r.Changes) > 0
	for i, s := range w.services {
		if v := want.Services[i]; !v.Gone {
			if r.differs(s, v) {
				r.changed = append(r.changed, s)
			}
			busy = r.images(s, j, now) || busy
		}
	}
	r.observed = !busy && w.stack.Observed != w.stack.Generation
}

// differs brings a row to what is true now and tells whether that changed it.
func (r *look) differs(s *service, v Wanted) (changed bool) {
	changed = v.History.N != s.History.N || v.History.Hash != s.History.Hash
	s.History = v.History
	for _, c := range r.Changes {
		if c.Start != nil && c.Start.Service == string(s.ID) && number(c.Start.ID) >= s.Next {
			s.Next, changed = number(c.Start.ID)+1, true
		}
	}
	st := r.statuses[s.ID]
	if !st.Again.IsZero() {
		r.again(st.Again)
	}
	if st.Serving != "" && st.Serving != s.Serving {
		s.Serving, changed = st.Serving, true
	}
	if st.Addr != s.Addr {
		s.Addr, changed, r.routes = st.Addr, true, true
	}
	if st.Addr.IsValid() && !s.Ran && st.Serving == s.Applied {
		s.Ran, changed = true, true
	}
	if st.Failed != s.Failed {
		s.Failed, changed = st.Failed, true
	}
	return changed || st.Status != s.Status || st.Message != s.Message
}

// images finds which images of a service are to be looked for, and tells
// whether one never was.
func (r *look) images(s *service, j *jobs, now time.Time) (busy bool) {
	for _, id := range slices.Compact([]string{s.Applied, s.Declared}) {
		d := r.world.definitions[id]
		waits := s.Stopped && id == s.Applied  // until it is started
		later := id != s.Applied && !d.Refresh // when it is applied
		if d.Digest != "" || waits || later {
			continue
		}
		if d.RetryAt.After(now) {
			r.again(d.RetryAt)
			continue
		}
		busy = busy || d.Tries == 0
		r.find(d, j)
	}
	if d := r.world.definitions[s.Updating]; d != nil && d.Digest == "" && d.Tries == 0 {
		r.find(d, j)
	}
	return busy
}

// find has an image looked for, unless that is being done.
func (r *look) find(d *definition, j *jobs) {
	if !j.runs("image " + d.ID) {
		r.resolve = append(r.resolve, d)
	}
}

func (r *look) dirty() bool {
	forgets := false
	for _, s := range r.world.services {
		forgets = forgets || r.forgets(s)
	}
	return len(r.changed) > 0 || len(r.unused) > 0 || r.observed || r.routes || forgets
}

// forgets tells whether the row of a service is to go now. The services of a
// deleted stack stay with it.
func (r *look) forgets(s *service) bool {
	if s.Removed.IsZero() {
		return false
	}
	for _, id := range r.Forget {
		if id == s.ID {
			return true
		}
	}
	return false
}

func (r *look) save(tx *db.Tx) error {
	w := r.world
	for _, s := range r.changed {
		st := r.statuses[s.ID]
		if s.Status != st.Status {
			slog.Info("service", "room", "stack", "stack", w.stack.ID, "service", s.ID, "name", s.Name, "from", s.Status, "to", st.Status, "why", st.Message)
		}
		if err := s.become(tx, w.stack, r.project.Workspace, st.Status, st.Message); err != nil {
			return err
		}
		if err := s.save(tx); err != nil {
			return err
		}
	}
	for _, d := range r.unused {
		if err := d.drop(tx); err != nil {
			return err
		}
	}
	for _, s := range w.services {
		if r.forgets(s) {
			if err := w.forget(tx, s); err != nil {
				return err
			}
		}
	}
	if r.routes {
		tx.Wake(routesTopic)
	}
	if !r.observed {
		return nil
	}
	_, err := tx.Exec(`UPDATE stacks SET observed_generation = ? WHERE id = ?`, w.stack.Generation, string(w.stack.ID))
	return err
}

// forget removes the row of a service of which nothing is left.
func (w *world) forget(tx *db.Tx, s *service) error {
	for _, id := range sortedKeys(w.definitions) {
		if d := w.definitions[id]; d.Service == s.ID {
			if err := d.drop(tx); err != nil {
				return err
			}
		}
	}
	_, err := tx.Exec(`DELETE FROM services WHERE id = ?`, string(s.ID))
	return err
}

// purge removes a deleted stack with all that is left of it.
func (s *Stacks) purge(ctx context.Context, l db.Lease, w *world) error {
	for _, sv := range w.services {
		if err := s.logs.Remove(s.logs.Service(string(sv.ID))); err != nil {
			return fmt.Errorf("log of service %s: %w", sv.ID, err)
		}
	}
	if err := s.engine.Remove(ctx, w.stack.ID.Owner()); err != nil {
		return fmt.Errorf("remove: %w", err)
	}
	crash.At("stack: deleted stack emptied")
	return s.db.Write(ctx, func(tx *db.Tx) error {
		if err := tx.Check(l); err != nil {
			return err
		}
		for _, sv := range w.services {
			if err := w.forget(tx, sv); err != nil {
				return err
			}
		}
		_, err := tx.Exec(`DELETE FROM stacks WHERE id = ?`, l.ID)
		return err
	})
}
