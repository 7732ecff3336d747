package local

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"slipway/engine"
	"slipway/engine/local/wire"
)

// prepare makes all that a container needs before its child is started. What
// was made is in the record, also on an error; undo takes it away.
func (e *Engine) prepare(ctx context.Context, c *container, image, platform string) error {
	for _, m := range c.mounts { // first what costs nothing
		if _, err := e.volumeDir(m.Volume); err != nil {
			return err
		}
	}
	v, err := e.view(ctx, image, platform)
	if err != nil {
		return err
	}
	c.rec.View = v.name
	c.image = v.image.Config
	c.rec.Bundle = filepath.Join(e.run, "b", c.rec.Name)
	c.rec.Layer = e.path("layers", c.rec.Name)
	for _, d := range []string{c.rootfs(), filepath.Join(c.rec.Layer, "u"), filepath.Join(c.rec.Layer, "w")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	if err := v.overlay(c.rec.Layer, c.rootfs()); err != nil {
		return err
	}
	c.rec.Mounts = append(c.rec.Mounts, c.rootfs())
	if err := e.connect(c); err != nil {
		return err
	}
	return e.build(c)
}

// connect puts a container into its network. In the record, Network "none" is
// none, "" that of runs and builds.
func (e *Engine) connect(c *container) error {
	n := e.net
	switch c.rec.Network {
	case "none":
		c.rec.Network = ""
	case "":
		s, err := n.pool.get()
		if err != nil {
			return err
		}
		c.rec.Slot, c.netns, c.resolv = s.number, s.path, n.resolv("")
		c.addr = n.address("", s.number)
	default:
		name := c.rec.Network
		last, err := n.take(name)
		if err != nil {
			return err
		}
		c.rec.Last = last
		if err := n.up(name, false); err != nil {
			return err
		}
		c.rec.Netns = filepath.Join(e.run, "netns", c.rec.Name)
		if err := n.newNamespace(name, c.rec.Netns, last); err != nil {
			return err
		}
		c.netns, c.resolv = c.rec.Netns, n.resolv(name)
		c.addr = n.address(name, last)
	}
	return nil
}

// address is that of a container in a network; not valid if it has none.
func (n *network) address(name string, last int) netip.Addr {
	n.mu.Lock()
	defer n.mu.Unlock()
	number, ok := n.plan.Numbers[name]
	if !ok || last == 0 {
		return netip.Addr{}
	}
	return n.plan.addr(number, last)
}

// disconnect gives back what connect took. The container has ended.
func (e *Engine) disconnect(rec record) {
	if e.net == nil {
		return
	}
	n := e.net
	if rec.Slot > 0 {
		n.pool.putNumber(rec.Slot)
	}
	if rec.Last > 0 {
		n.mu.Lock()
		number, ok := n.plan.Numbers[rec.Network]
		n.mu.Unlock()
		if ok && rec.Netns != "" {
			n.dropNamespace(rec.Netns, number, rec.Last)
		}
		if rec.Kind == kindRun { // an instance keeps its address until it is removed
			n.give(rec.Network, rec.Last)
		}
	}
}

// undo takes away what prepare made for a container that was not started.
func (e *Engine) undo(c *container) {
	for _, p := range c.rec.Mounts {
		_ = unix.Unmount(p, unix.MNT_DETACH)
	}
	dropOutput(c.rec)
	e.disconnect(c.rec)
	if c.rec.Last > 0 {
		e.net.give(c.rec.Network, c.rec.Last)
	}
	e.dropViewOf(c.rec.View)
	e.removeDirs(c.rec)
}

// removeDirs removes what a container wrote, and its bundle.
func (e *Engine) removeDirs(rec record) {
	var err error
	if rec.Layer != "" {
		err = os.RemoveAll(rec.Layer)
	}
	if err = errors.Join(err, removeBundle(rec.Bundle)); err != nil {
		e.log.Error("what a container left could not be removed", "id", rec.ID, "err", err)
	}
}

// removeBundle removes a bundle, in which nothing should be mounted any more.
// It never goes deeper: if something is, it must not be emptied.
func removeBundle(dir string) error {
	if dir == "" {
		return nil
	}
	ents, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	for _, d := range ents {
		err = errors.Join(err, os.Remove(filepath.Join(dir, d.Name())))
	}
	return errors.Join(err, os.Remove(dir))
}

// launch prepares a container and starts it. A fault of what was asked for is
// an end, with a record like any other.
func (e *Engine) launch(ctx context.Context, c *container, image, platform string, cfg wire.Config) (*monitor, error) {
	err := e.prepare(ctx, c, image, platform)
	var bad *badStart
	if errors.As(err, &bad) {
		mon, err := e.monitors.stillborn(c.rec, bad)
		if err != nil {
			e.undo(c)
			return nil, err
		}
		return mon, nil
	}
	if err == nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err == nil {
		cfg.Stop = e.stopOf(cfg.Stop, c.image.StopSignal)
		var mon *monitor
		if mon, err = e.monitors.start(c.rec, cfg); err == nil {
			return mon, nil
		}
	}
	e.undo(c)
	return nil, err
}

// stopOf is the signal that the spec says, else the image's. One of the image
// that nobody knows does not count.
func (e *Engine) stopOf(spec int, image string) int {
	if spec != 0 {
		return spec
	}
	s, err := stopSignal(image)
	if err != nil {
		s = unix.SIGTERM
	}
	return int(s)
}

// stillborn keeps the record of a container that could not be started because
// of what was asked for.
func (m *monitors) stillborn(rec record, bad *badStart) (*monitor, error) {
	rec.Boot, rec.At = m.e.boot, time.Now()
	mon := m.monitor(rec)
	if err := m.write(rec); err != nil {
		return nil, err
	}
	x := &wire.Exit{V: wire.Version, ID: rec.Name, Code: bad.code, Error: bad.msg, Started: rec.At, Ended: time.Now()}
	if err := m.writeExit(rec, x); err != nil {
		_ = os.RemoveAll(m.dir(rec.Name))
		return nil, err
	}
	for _, p := range rec.Mounts {
		_ = unix.Unmount(p, unix.MNT_DETACH)
	}
	dropOutput(rec)
	m.mu.Lock()
	m.by[rec.Name] = mon
	m.mu.Unlock()
	mon.ended(x)
	return mon, nil
}

// settle cleans up after a container that has ended; its record stays. An
// engine that is closed leaves it to the next one.
func (e *Engine) settle(mon *monitor) {
	err := mon.dismiss()
	if e.closing.Load() {
		return
	}
	if err != nil {
		e.log.Error("a container has left something", "id", mon.ID, "err", err)
	}
	dropOutput(mon.record)
	e.disconnect(mon.record)
	e.removeDirs(mon.record)
	e.dropViewOf(mon.View)
}

// settled says whether that has been done.
func (e *Engine) settled(rec record) bool {
	_, err := os.Stat(rec.Layer)
	_, err2 := os.Stat(rec.Bundle)
	return errors.Is(err, os.ErrNotExist) && errors.Is(err2, os.ErrNotExist)
}

// idle says whether no container has anything.
func (e *Engine) idle() bool {
	for _, mon := range e.monitors.all("") {
		if !e.settled(mon.record) {
			return false
		}
	}
	return true
}

// millis is a time as the child takes it; something above 0 stays above 0.
func millis(d time.Duration) int64 {
	if d > 0 {
		return max(1, d.Milliseconds())
	}
	return 0
}

// graceMillis is a grace as the child's config takes it: below 0 is none.
func graceMillis(d time.Duration) int64 {
	if d <= 0 {
		return -1
	}
	return millis(d)
}

func wrap(what, id string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s %s: %w", what, id, err)
}

var _ engine.Runner = (*Engine)(nil)
