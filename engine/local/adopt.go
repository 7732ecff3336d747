package local

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"slipway/engine"
	"slipway/engine/local/wire"
)

// adoptAtOnce bounds how many children are asked at the same time.
const adoptAtOnce = 32

// openMonitors finds all containers of earlier servers again.
func (e *Engine) openMonitors() error {
	m := &monitors{e: e, by: map[string]*monitor{}}
	e.monitors = m
	ents, err := os.ReadDir(e.path("runs"))
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	room := make(chan struct{}, adoptAtOnce)
	for _, d := range ents {
		var rec record
		b, err := os.ReadFile(filepath.Join(m.dir(d.Name()), wire.StartFile))
		if err != nil || json.Unmarshal(b, &rec) != nil || rec.Name != d.Name() || !m.begun(rec) {
			// Killed while it was written, or before the child began: nothing
			// was started.
			_ = os.RemoveAll(m.dir(d.Name()))
			_ = os.RemoveAll(m.run(d.Name()))
			continue
		}
		mon := m.monitor(rec)
		m.by[rec.Name] = mon
		room <- struct{}{}
		wg.Go(func() {
			mon.adopt()
			<-room
		})
	}
	wg.Wait()
	return nil
}

// begun says whether a child may have started the container. One that was
// killed before it took its lock has not, but after a restart of the host
// nobody knows.
func (m *monitors) begun(rec record) bool {
	if rec.Boot != m.e.boot || readExit(m.dir(rec.Name)) != nil {
		return true
	}
	_, err := os.Stat(filepath.Join(m.run(rec.Name), wire.LockFile))
	return err == nil
}

// adopt connects to the child of an earlier server, or finds out how the
// container ended.
func (mon *monitor) adopt() {
	m := mon.m
	version := wire.Version
	for range 2 {
		c, err := net.DialTimeout("unix", filepath.Join(m.run(mon.Name), wire.SocketFile), 5*time.Second)
		if err != nil {
			break
		}
		r, ok := <-mon.attach(c, version)
		if ok && r.Error == "" {
			mon.mu.Lock()
			mon.child = r.Pid
			mon.mu.Unlock()
			mon.resume(version)
			return
		}
		mon.hangUp()
		if !ok || r.Code != wire.CodeVersion || r.V == version || r.V == 0 {
			break
		}
		// Of another release. In its own version it still understands kill,
		// wait and delete, and these are all that it is asked.
		version = r.V
	}
	x := readExit(m.dir(mon.Name))
	if x == nil {
		why := engine.ReasonLost
		if mon.Boot != m.e.boot {
			why = engine.ReasonHost
		}
		x = m.lost(mon.record, why)
	}
	mon.ended(x)
}

// resume goes on with a child that answers.
func (mon *monitor) resume(version int) {
	if version != wire.Version {
		mon.foreign = version
		mon.started = mon.At
		mon.m.e.log.Warn("a container is watched by a monitor of another release; it can only be ended", "id", mon.ID, "protocol", version)
		mon.wait()
		return
	}
	if r, err := mon.ask(wire.Request{Op: wire.OpState}); err == nil {
		mon.mu.Lock()
		mon.pid, mon.started = r.Pid, r.Start
		mon.mu.Unlock()
		if r.Exit != nil {
			mon.ended(r.Exit)
			return
		}
	}
	mon.wait()
}

// Foreign lists the runs and instances whose monitors speak a protocol of
// another release: they go on and can be ended, no more.
func (e *Engine) Foreign() (ids []string) {
	for _, mon := range e.monitors.all("") {
		select {
		case <-mon.done:
		default:
			if mon.foreign != 0 {
				ids = append(ids, mon.ID)
			}
		}
	}
	return ids
}

// lost ends what is left of a container without a child and writes the exit
// record that the child could not write.
func (m *monitors) lost(rec record, why engine.Reason) *wire.Exit {
	msg := "its monitor was killed, so how it ended is not known"
	if why == engine.ReasonHost {
		msg = "the host was restarted"
	}
	if err := m.e.clear(rec); err != nil {
		m.e.log.Error("what a lost monitor left could not be cleared", "id", rec.ID, "err", err)
	}
	x := &wire.Exit{V: wire.Version, ID: rec.Name, Code: -1, Reason: string(why), Error: msg, Started: rec.At, Ended: time.Now()}
	if err := m.writeExit(rec, x); err != nil {
		m.e.log.Error("an exit record could not be written", "id", rec.ID, "err", err)
	}
	return x
}

// clear does what a child does at the end: no process, no cgroup, no state of
// runc and no mount of a container is left.
func (e *Engine) clear(rec record) error {
	err := e.cgroups.kill(rec.Cgroup)
	e.cgroups.remove(rec.Cgroup)
	err = errors.Join(err, os.RemoveAll(filepath.Join(e.runcRoot, rec.Name)))
	for _, p := range rec.Mounts {
		if uerr := unix.Unmount(p, unix.MNT_DETACH); uerr != nil && uerr != unix.EINVAL && uerr != unix.ENOENT {
			err = errors.Join(err, fmt.Errorf("unmount %s: %w", p, uerr))
		}
	}
	return err
}

// exitOf says how a container ended. That it did not start because of the
// program is told as a shell tells it.
func exitOf(x *wire.Exit) engine.Exit {
	out := engine.Exit{
		Code: x.Code, Signal: x.Signal, OOM: x.OOM, Reason: engine.Reason(x.Reason), Message: x.Error,
		Started: x.Started, Ended: x.Ended, LostLog: x.Lost,
	}
	switch out.Reason {
	case engine.ReasonNone, engine.ReasonCancel, engine.ReasonTimeout, engine.ReasonStop, engine.ReasonHost, engine.ReasonLost:
	default: // the child's own words for a kill that nobody gave a reason for
		out.Reason = engine.ReasonStop
	}
	if x.Error != "" && x.Code == -1 && out.Reason != engine.ReasonLost && out.Reason != engine.ReasonHost {
		out.Code = startCode(x.Error)
		out.Message = startMessage(x.Error)
	}
	return out
}

// startCode is 127 if the program is not there, 126 if it cannot be run, and -1
// for anything else that runc says.
func startCode(msg string) int {
	i := strings.Index(msg, "exec")
	switch {
	case i < 0:
		return -1
	case strings.Contains(msg, "executable file not found"), strings.Contains(msg, "no such file or directory"):
		return 127
	case strings.Contains(msg, "permission denied"), strings.Contains(msg, "is a directory"), strings.Contains(msg, "exec format error"):
		return 126
	}
	return -1
}

// startMessage takes away runc's own preliminaries.
func startMessage(msg string) string {
	for _, p := range []string{"runc run failed: ", "unable to start container process: ", "error during container init: "} {
		msg = strings.TrimPrefix(msg, p)
	}
	return msg
}
