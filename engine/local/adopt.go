package local

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"slipway/engine"
	"slipway/engine/local/wire"
)

const (
	// adoptAtOnce bounds how many children are asked at the same time.
	adoptAtOnce = 32
	// adoptTime is how long a start waits for a child; one that answers later is
	// adopted then.
	adoptTime = 3 * time.Second
)

// openMonitors finds all containers of earlier servers again.
func (e *Engine) openMonitors() error {
	m := &monitors{e: e, by: map[string]*monitor{}, patient: startTime}
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
			adopted := make(chan struct{})
			m.readers.Go(func() {
				defer close(adopted)
				mon.adopt()
			})
			select {
			case <-adopted:
			case <-time.After(adoptTime):
				mon.presume()
			}
			<-room
		})
	}
	wg.Wait()
	return nil
}

// presume takes a container whose child does not answer (yet) for one that
// runs, if it was started at all. It goes on; when it is to end, its child is
// killed for not doing it.
func (mon *monitor) presume() {
	mon.m.e.log.Warn("the monitor of a container does not answer; it is waited for in the background", "id", mon.ID)
	b, err := os.ReadFile(filepath.Join(mon.m.run(mon.Name), wire.PidFile))
	if err != nil {
		return
	}
	pid, _ := strconv.Atoi(strings.TrimSpace(string(b)))
	mon.mu.Lock()
	defer mon.mu.Unlock()
	if mon.pid == 0 { // it has not answered at this very moment
		mon.pid, mon.started = pid, mon.At
	}
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
		mon.mu.Lock()
		mon.child = peer(c)
		mon.mu.Unlock()
		r, ok := <-mon.attach(c, version)
		if ok && r.Error == "" {
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
		if m.e.closing.Load() {
			return // we hung up on a child that did not answer
		}
		why := engine.ReasonLost
		if mon.Boot != m.e.boot {
			why = engine.ReasonHost
		}
		x = m.lost(mon.record, why)
	}
	mon.ended(x)
}

// peer is the pid of the process that listens on the other end, which is known
// even if it does not answer; 0 if it is not.
func peer(c net.Conn) (pid int) {
	rc, err := c.(*net.UnixConn).SyscallConn()
	if err != nil {
		return 0
	}
	_ = rc.Control(func(fd uintptr) {
		if cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			pid = int(cred.Pid)
		}
	})
	return pid
}

// resume goes on with a child that answers.
func (mon *monitor) resume(version int) {
	if version != wire.Version {
		mon.mu.Lock()
		mon.foreign, mon.started = version, mon.At
		mon.mu.Unlock()
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

// lost is bury for a container whose child was killed, so that nobody saw its
// end.
func (m *monitors) lost(rec record, why engine.Reason) *wire.Exit {
	msg := "its monitor was killed, so how it ended is not known"
	if why == engine.ReasonHost {
		msg = "the host was restarted"
	}
	return m.bury(rec, why, msg)
}

// bury ends what is left of a container without a child and writes the exit
// record that the child could not write.
func (m *monitors) bury(rec record, why engine.Reason, msg string) *wire.Exit {
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
		Used: engine.Usage{Memory: x.Memory, CPU: time.Duration(x.CPU) * time.Microsecond},
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
