package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"slipway/engine"
)

// Owners implements engine.Engine.
func (e *Engine) Owners(context.Context) ([]engine.Owner, error) {
	if e.closing.Load() {
		return nil, errClosed
	}
	seen := map[engine.Owner]bool{}
	for _, mon := range e.monitors.all("") {
		seen[mon.Owner] = true
	}
	list, err := volumes{e}.records()
	if err != nil {
		return nil, err
	}
	for _, v := range list {
		seen[v.Owner] = true
	}
	kept, err := e.chestOwners()
	if err != nil {
		return nil, err
	}
	for _, o := range append(kept, e.shelfOwners()...) {
		seen[o] = true
	}
	var l []engine.Owner
	for o := range seen {
		l = append(l, o)
	}
	slices.Sort(l)
	return l, nil
}

// Remove implements engine.Engine.
func (e *Engine) Remove(ctx context.Context, owner engine.Owner) error {
	if e.closing.Load() {
		return errClosed
	}
	err := e.endAll(ctx, func(m *monitor) bool { return m.Owner == owner }, 0)
	list, lerr := volumes{e}.records()
	err = errors.Join(err, lerr)
	for _, v := range list {
		if v.Owner == owner {
			err = errors.Join(err, volumes{e}.Remove(ctx, v.ID))
		}
	}
	err = errors.Join(err, e.builder.removeShelves(owner), e.dropChest(owner))
	e.notify(owner)
	return wrap("remove", string(owner), err)
}

// endAll ends containers, all at once, and forgets them. Grace below 0 is that
// of each container.
func (e *Engine) endAll(ctx context.Context, which func(*monitor) bool, grace int64) error {
	var wg sync.WaitGroup
	var mu sync.Mutex
	var errs []error
	for _, mon := range e.monitors.all("") {
		if !which(mon) {
			continue
		}
		wg.Go(func() {
			if err := e.endOne(ctx, mon, grace); err != nil {
				mu.Lock()
				errs = append(errs, fmt.Errorf("%s: %w", mon.ID, err))
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (e *Engine) endOne(ctx context.Context, mon *monitor, grace int64) error {
	mon.killMillis(grace, engine.ReasonStop)
	if mon.Kind == kindInstance {
		if err := e.settledOf(ctx, mon); err != nil {
			return err
		}
		return e.removeInstance(ctx, mon.Owner, mon.ID)
	}
	e.runs.mu.Lock()
	r := e.runs.by[mon.Name]
	e.runs.mu.Unlock()
	if r != nil {
		select {
		case <-r.done:
		case <-e.closed:
			return errClosed
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return e.Forget(ctx, mon.ID)
}

// Wipe ends all containers, gives each the grace of its own, and closes the
// engine; nothing of it is left on the host but what is in its directory:
// images, volumes and the build cache.
func (e *Engine) Wipe(ctx context.Context) error {
	err := e.endAll(ctx, func(*monitor) bool { return true }, -1)
	numbers := map[string]int{}
	e.net.mu.Lock()
	for name, number := range e.net.plan.Numbers {
		numbers[name] = number
	}
	e.net.mu.Unlock()
	err = errors.Join(err, e.Close())
	if err != nil {
		return fmt.Errorf("wipe: %w", err)
	}
	for _, number := range numbers {
		if l, lerr := netlink.LinkByName(e.net.bridgeName(number)); lerr == nil {
			err = errors.Join(err, netlink.LinkDel(l))
		}
	}
	err = errors.Join(err, dropRules(e.inst), e.dropEmulation())
	e.cgroups.remove("/slipway-" + e.inst)
	list, merr := mounts()
	err = errors.Join(err, merr)
	for _, m := range slices.Backward(list) {
		if below(m.at, e.run) || m.at == e.run {
			_ = unix.Unmount(m.at, unix.MNT_DETACH)
		}
	}
	return errors.Join(err, os.RemoveAll(e.run))
}
