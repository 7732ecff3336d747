package fake

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"github.com/containerd/errdefs"

	"slipway/engine"
)

// instance is one start of a service.
type instance struct {
	*proc
	n    int
	spec engine.ServiceSpec
	addr netip.Addr
}

// Observe implements engine.Workloads.
func (e *Engine) Observe(ctx context.Context, owner engine.Owner) ([]engine.Instance, error) {
	if err := e.call(ctx, "Observe", string(owner)); err != nil {
		return nil, fmt.Errorf("observe %s: %w", owner, err)
	}
	e.w.mu.Lock()
	defer e.w.mu.Unlock()
	var mine []*instance
	for _, i := range e.w.instances {
		if i.owner == owner {
			mine = append(mine, i)
		}
	}
	slices.SortFunc(mine, func(a, b *instance) int { return a.n - b.n })
	out := make([]engine.Instance, 0, len(mine))
	for _, i := range mine {
		out = append(out, i.view())
	}
	return out, nil
}

func (i *instance) view() engine.Instance {
	v := engine.Instance{
		ID: i.id, Service: i.spec.Service, Hash: i.spec.Hash, Name: i.spec.Name, Image: i.spec.Image,
		Network: i.spec.Network, Addr: i.addr, State: engine.Running, Started: i.started,
	}
	i.mu.Lock()
	if i.reason != engine.ReasonNone {
		v.State = engine.Stopping
	}
	i.mu.Unlock()
	if i.ended() {
		x := i.exit
		v.State, v.Exit = engine.Ended, &x
	}
	return v
}

// Apply implements engine.Workloads.
func (e *Engine) Apply(ctx context.Context, owner engine.Owner, c engine.Change) error {
	switch {
	case c.Start != nil:
		if err := e.call(ctx, "Apply", "start", c.Start.ID); err != nil {
			return fmt.Errorf("start %s: %w", c.Start.ID, err)
		}
		return e.startInstance(owner, *c.Start)
	case c.Stop != nil:
		if err := e.call(ctx, "Apply", "stop", c.Stop.ID); err != nil {
			return fmt.Errorf("stop %s: %w", c.Stop.ID, err)
		}
		return e.stopInstance(ctx, owner, *c.Stop)
	case c.Remove != "":
		if err := e.call(ctx, "Apply", "remove", c.Remove); err != nil {
			return fmt.Errorf("remove %s: %w", c.Remove, err)
		}
		return e.removeInstance(owner, c.Remove)
	}
	return fmt.Errorf("an empty change: %w", errdefs.ErrInvalidArgument)
}

func (e *Engine) startInstance(owner engine.Owner, s engine.ServiceSpec) error {
	w := e.w
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.instances[s.ID] != nil {
		return nil
	}
	cfg, err := w.config(s.Image, "")
	if err != nil {
		return fmt.Errorf("start %s: %w", s.ID, err)
	}
	if err := w.prepare(s.Mounts); err != nil {
		return fmt.Errorf("start %s: %w", s.ID, err)
	}
	log, err := openLog(s.Log, 0, s.LogKeep, nil)
	if err != nil {
		return fmt.Errorf("start %s: %w", s.ID, err)
	}
	w.started++
	i := &instance{n: w.started, spec: s, proc: &proc{
		w: w, id: s.ID, owner: owner, argv: argv(s.Entrypoint, s.Command, cfg), env: s.Env, dir: s.Dir,
		user: s.User, mounts: s.Mounts, stays: true, log: log,
	}}
	if !slices.Contains(w.nets, s.Network) {
		w.nets = append(w.nets, s.Network)
	}
	i.addr = network(slices.Index(w.nets, s.Network)).Addr()
	for range 1 + w.started%250 {
		i.addr = i.addr.Next()
	}
	w.instances[s.ID] = i
	w.launch(i.proc, cfg, s.Files)
	w.notify(owner)
	return nil
}

// network is the address range of the n-th network.
func network(n int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 254, byte(n + 1), 0}), 24)
}

// owned finds an instance; nil if there is none.
func (w *world) owned(owner engine.Owner, id string) (*instance, error) {
	i := w.instances[id]
	if i != nil && i.owner != owner {
		return nil, fmt.Errorf("%s is not of %s: %w", id, owner, errdefs.ErrInvalidArgument)
	}
	return i, nil
}

func (e *Engine) stopInstance(ctx context.Context, owner engine.Owner, s engine.StopSpec) error {
	e.w.mu.Lock()
	i, err := e.w.owned(owner, s.ID)
	e.w.mu.Unlock()
	if i == nil || err != nil {
		return err
	}
	if !i.ended() {
		i.kill(s.Grace, engine.ReasonStop)
		e.w.mu.Lock()
		e.w.notify(owner)
		e.w.mu.Unlock()
	}
	select {
	case <-i.done:
		return nil
	case <-e.closed:
		return fmt.Errorf("stop %s: %w", s.ID, errClosed)
	case <-ctx.Done():
		return fmt.Errorf("stop %s: %w", s.ID, context.Cause(ctx))
	}
}

func (e *Engine) removeInstance(owner engine.Owner, id string) error {
	e.w.mu.Lock()
	defer e.w.mu.Unlock()
	i, err := e.w.owned(owner, id)
	if i == nil || err != nil {
		return err
	}
	if !i.ended() {
		return fmt.Errorf("remove %s: it still runs: %w", id, errdefs.ErrFailedPrecondition)
	}
	delete(e.w.instances, id)
	e.w.notify(owner)
	return nil
}

// Networks implements engine.Networks.
func (e *Engine) Networks(ctx context.Context) ([]engine.Network, error) {
	if err := e.call(ctx, "Networks"); err != nil {
		return nil, err
	}
	e.w.mu.Lock()
	defer e.w.mu.Unlock()
	out := []engine.Network{{Name: "", Prefix: netip.MustParsePrefix("10.254.0.0/24"), Gateway: netip.MustParseAddr("10.254.0.1")}}
	for n, name := range e.w.nets {
		p := network(n)
		out = append(out, engine.Network{Name: name, Prefix: p, Gateway: p.Addr().Next()})
	}
	return out, nil
}
