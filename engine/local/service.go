package local

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/errdefs"

	"slipway/crash"
	"slipway/engine"
	"slipway/engine/local/wire"
)

// services are the containers that stay. Each start has a container, and so a
// record, of its own; nothing is started again here.
type services struct {
	changed chan engine.Owner
	kick    chan struct{}

	mu       sync.Mutex
	pending  []engine.Owner
	starting map[string]chan struct{} // by name; closed when the start has been tried
}

func instanceName(id string) string { return "i-" + fileName(id) }

// Changed implements engine.Workloads.
func (e *Engine) Changed() <-chan engine.Owner { return e.services.changed }

// notify tells that something of owner is different.
func (e *Engine) notify(owner engine.Owner) {
	s := &e.services
	s.mu.Lock()
	if !slices.Contains(s.pending, owner) {
		s.pending = append(s.pending, owner)
	}
	s.mu.Unlock()
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

// tell brings what is pending to the reader of Changed.
func (e *Engine) tell() {
	s := &e.services
	for {
		select {
		case <-s.kick:
		case <-e.closed:
			return
		}
		for {
			s.mu.Lock()
			if len(s.pending) == 0 {
				s.mu.Unlock()
				break
			}
			o := s.pending[0]
			s.pending = s.pending[1:]
			s.mu.Unlock()
			select {
			case s.changed <- o:
			case <-e.closed:
				return
			}
		}
	}
}

// Apply implements engine.Workloads.
func (e *Engine) Apply(ctx context.Context, owner engine.Owner, c engine.Change) error {
	if !e.begin() {
		return errClosed
	}
	defer e.ending.Done()
	switch {
	case c.Start != nil:
		return wrap("start", c.Start.ID, e.startInstance(ctx, owner, *c.Start))
	case c.Stop != nil:
		return wrap("stop", c.Stop.ID, e.stopInstance(ctx, owner, *c.Stop))
	case c.Remove != "":
		return wrap("remove", c.Remove, e.removeInstance(ctx, owner, c.Remove))
	}
	return fmt.Errorf("an empty change: %w", errdefs.ErrInvalidArgument)
}

// instanceOf finds an instance; nil if there is none.
func (e *Engine) instanceOf(owner engine.Owner, id string) (*monitor, error) {
	mon := e.monitors.get(instanceName(id))
	if mon != nil && mon.Owner != owner {
		return nil, fmt.Errorf("it is not of %s: %w", owner, errdefs.ErrInvalidArgument)
	}
	return mon, nil
}

func (e *Engine) startInstance(ctx context.Context, owner engine.Owner, s engine.ServiceSpec) error {
	name := instanceName(s.ID)
	if s.ID == "" || s.Network == "" {
		return fmt.Errorf("an instance needs an id and a network: %w", errdefs.ErrInvalidArgument)
	}
	done := make(chan struct{})
	for {
		e.services.mu.Lock()
		other := e.services.starting[name]
		if other == nil {
			e.services.starting[name] = done
		}
		e.services.mu.Unlock()
		if other == nil {
			break
		}
		select { // another call is at it
		case <-other:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	defer func() {
		e.services.mu.Lock()
		delete(e.services.starting, name)
		e.services.mu.Unlock()
		close(done)
	}()
	mon, err := e.instanceOf(owner, s.ID)
	if mon != nil || err != nil {
		return err
	}
	return e.newInstance(ctx, owner, s)
}

func (e *Engine) newInstance(ctx context.Context, owner engine.Owner, s engine.ServiceSpec) error {
	stop := 0
	if s.StopSignal != "" {
		sig, err := stopSignal(s.StopSignal)
		if err != nil {
			return err
		}
		stop = int(sig)
	}
	name := instanceName(s.ID)
	c := &container{
		rec: record{
			Name: name, Kind: kindInstance, ID: s.ID, Owner: owner, Cgroup: e.serveCgroup() + "/" + name, Log: s.Log,
			Grace: s.StopGrace, Network: s.Network, Service: s.Service, Hash: s.Hash, Host: s.Name, Image: s.Image,
		},
		entrypoint: s.Entrypoint, command: s.Command, env: s.Env, dir: s.Dir, user: s.User,
		mounts: s.Mounts, files: s.Files, limits: s.Limits, noNew: s.NoNewPrivileges,
		oom: e.oomServe, host: hostName(s.Name),
	}
	cfg := wire.Config{Stop: stop, Grace: graceMillis(s.StopGrace), LogKeep: s.LogKeep, OOMScoreAdj: e.oomServe}
	mon, err := e.launch(ctx, c, s.Image, "", cfg)
	if err != nil {
		return err
	}
	crash.At("engine: an instance was started")
	e.watch(mon)
	if e.closing.Load() {
		return errClosed
	}
	e.notify(owner)
	return nil
}

// watch waits for the end of an instance in the background and cleans up after
// it. The record and the address stay until it is removed.
func (e *Engine) watch(mon *monitor) {
	e.ending.Go(func() {
		select {
		case <-mon.done:
		case <-e.closed:
			return // it goes on
		}
		e.notify(mon.Owner)
		e.settle(mon)
		close(mon.settled)
		crash.At("engine: an instance has ended")
	})
}

func (e *Engine) stopInstance(ctx context.Context, owner engine.Owner, s engine.StopSpec) error {
	mon, err := e.instanceOf(owner, s.ID)
	if mon == nil || err != nil {
		return err
	}
	select {
	case <-mon.done:
	default:
		mon.kill(s.Grace, engine.ReasonStop)
		e.notify(owner)
	}
	return e.settledOf(ctx, mon)
}

// settledOf waits until an instance has ended and left nothing.
func (e *Engine) settledOf(ctx context.Context, mon *monitor) error {
	select {
	case <-mon.settled:
		return nil
	case <-e.closed:
		return errClosed
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (e *Engine) removeInstance(ctx context.Context, owner engine.Owner, id string) error {
	mon, err := e.instanceOf(owner, id)
	if mon == nil || err != nil {
		return err
	}
	select {
	case <-mon.done:
	default:
		return fmt.Errorf("it still runs: %w", errdefs.ErrFailedPrecondition)
	}
	if err := e.settledOf(ctx, mon); err != nil {
		return err
	}
	e.monitors.forget(mon.Name)
	e.net.give(mon.Network, mon.Last)
	e.notify(owner)
	return nil
}

// Observe implements engine.Workloads.
func (e *Engine) Observe(_ context.Context, owner engine.Owner) ([]engine.Instance, error) {
	if e.closing.Load() {
		return nil, errClosed
	}
	mine := slices.DeleteFunc(e.monitors.all(kindInstance), func(m *monitor) bool { return m.Owner != owner })
	slices.SortFunc(mine, func(a, b *monitor) int {
		if c := a.At.Compare(b.At); c != 0 {
			return c
		}
		return strings.Compare(a.ID, b.ID)
	})
	out := make([]engine.Instance, 0, len(mine))
	for _, m := range mine {
		out = append(out, e.instanceView(m))
	}
	return out, nil
}

func (e *Engine) instanceView(m *monitor) engine.Instance {
	m.mu.Lock()
	v := engine.Instance{
		ID: m.ID, Service: m.Service, Hash: m.Hash, Name: m.Host, Image: m.Image, Network: m.Network,
		Addr: e.net.address(m.Network, m.Last), State: engine.Running, Started: m.started,
	}
	switch {
	case m.asked:
		v.State = engine.Stopping
	case m.pid == 0 && m.foreign == 0:
		v.State = engine.Starting
	}
	m.mu.Unlock()
	select {
	case <-m.done:
		x := exitOf(m.exit)
		v.State, v.Exit, v.Started = engine.Ended, &x, x.Started
	default:
	}
	return v
}

// openServices goes on with the instances of an earlier server. What happened
// while there was none is told.
func (e *Engine) openServices() {
	s := &e.services
	s.changed, s.kick, s.starting = make(chan engine.Owner), make(chan struct{}, 1), map[string]chan struct{}{}
	e.ending.Go(e.tell)
	for _, mon := range e.monitors.all(kindInstance) {
		e.watch(mon)
		e.notify(mon.Owner)
	}
}

var errNoInstance = errors.New("it does not run")
