package local

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"

	"slipway/engine"
)

// running finds the container of an instance, or of a run, that runs.
func (e *Engine) running(id string) (*monitor, error) {
	if e.closing.Load() {
		return nil, errClosed
	}
	mon := e.monitors.get(instanceName(id))
	if mon == nil {
		mon = e.monitors.get(runName(id))
	}
	if mon != nil {
		select {
		case <-mon.done:
		default:
			return mon, nil
		}
	}
	return nil, fmt.Errorf("%w: %w", errNoInstance, errdefs.ErrNotFound)
}

// Stats implements engine.Stater.
func (e *Engine) Stats(_ context.Context, id string) (engine.Stats, error) {
	mon, err := e.running(id)
	if err != nil {
		return engine.Stats{}, wrap("stats of", id, err)
	}
	u, err := e.cgroups.usage(mon.Cgroup)
	if err != nil {
		return engine.Stats{}, wrap("stats of", id, fmt.Errorf("%w: %w", err, errdefs.ErrNotFound))
	}
	s := engine.Stats{Memory: u.memory, Limit: u.limit, CPU: u.cpu, Pids: u.pids, ReadAt: time.Now()}
	if e.memory > 0 && s.Limit >= e.memory {
		s.Limit = 0
	}
	last := mon.Last
	if mon.Slot > 0 {
		last = mon.Slot
	}
	if last > 0 {
		e.net.mu.Lock()
		number := e.net.plan.Numbers[mon.Network]
		e.net.mu.Unlock()
		// What the host's end sends is what the container gets.
		dir := filepath.Join("/sys/class/net", e.net.vethName(number, last), "statistics")
		s.RxBytes, s.TxBytes = readNumber(dir, "tx_bytes"), readNumber(dir, "rx_bytes")
	}
	return s, nil
}
