package main

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"slipway/engine/local/wire"
)

func (c *child) signal(s syscall.Signal) error {
	c.mu.Lock()
	phase, pid := c.phase, c.pid
	c.mu.Unlock()
	if phase != wire.Running {
		return errors.New("the container is " + phase)
	}
	return c.reap.kill(pid, s)
}

// kill asks for an end and forces it after the grace.
func (c *child) kill(graceMS int64, reason string) {
	c.mu.Lock()
	grace := time.Duration(max(0, graceMS)) * time.Millisecond
	if graceMS < 0 {
		if grace = time.Duration(c.cfg.Grace) * time.Millisecond; grace == 0 {
			grace = defaultGrace
		}
	}
	if reason == "" {
		reason = wire.ReasonKill
	}
	if c.reaped || c.phase == wire.New {
		c.mu.Unlock()
		return
	}
	if c.reason == "" {
		c.reason = reason
	}
	running, pid, stop := c.phase == wire.Running, c.pid, syscall.Signal(c.cfg.Stop)
	c.mu.Unlock()
	if !running {
		return // start looks at the reason
	}
	if stop == 0 {
		stop = syscall.SIGTERM
	}
	if grace <= 0 {
		c.force(pid)
		return
	}
	_ = c.reap.kill(pid, stop)
	c.cg.thaw() // one that is frozen hears nothing
	time.AfterFunc(grace, func() {
		select {
		case <-c.ended:
		default:
			c.force(pid)
		}
	})
}

// force takes a pid namespace along with its first process, and the rest of
// the cgroup where there is none.
func (c *child) force(pid int) {
	_ = c.reap.kill(pid, syscall.SIGKILL)
	c.cg.kill()
}

// watch waits for the end of the container and writes it down.
func (c *child) watch(pid int, t0 time.Time) {
	st := c.reap.wait(pid)
	x := &wire.Exit{Started: t0, Ended: st.at, Code: st.ws.ExitStatus()}
	if st.ws.Signaled() {
		x.Signal = int(st.ws.Signal())
		x.Code = 128 + x.Signal
	}
	c.mu.Lock()
	c.reaped = true
	x.Reason = c.reason
	c.mu.Unlock()
	x.OOM = c.cg.oom()
	c.cg.kill() // nothing is left where there is a pid namespace
	x.Memory, x.CPU = c.cg.used()
	c.finish(x)
}

// finish closes the log, writes the exit record, answers and cleans up.
func (c *child) finish(x *wire.Exit) {
	c.drain()
	x.V, x.ID = wire.Version, c.cfg.ID
	if x.Ended.IsZero() {
		x.Ended = time.Now()
	}
	synced := make(chan error, 1)
	if c.log != nil {
		x.Lines, x.Lost = c.log.Lines(), c.log.Lost()
		go func() { synced <- c.log.Close() }()
	} else {
		synced <- nil
	}
	err := c.record(x, synced)
	c.mu.Lock()
	c.exit, c.phase, c.idle = x, wire.Exited, time.Now()
	c.mu.Unlock()
	close(c.ended)
	if err == nil {
		close(c.saved)
	} else {
		complain("exit record: " + err.Error())
		go c.retry(x)
	}
	if !c.cg.remove() || os.RemoveAll(filepath.Join(c.cfg.Root, c.cfg.ID)) != nil {
		c.runcDelete()
	}
	for _, m := range c.cfg.Unmount {
		_ = unix.Unmount(m, unix.MNT_DETACH)
	}
	close(c.clean)
}

// drain lets the pumps read what was written before the end. A process
// outside the cgroup may have the pipes for ever.
func (c *child) drain() {
	done := make(chan struct{})
	go func() { c.pumps.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(drainTime):
		c.mu.Lock()
		for _, r := range c.outs {
			_ = r.Close()
		}
		c.mu.Unlock()
		<-done
	}
}

// record writes the exit record and gives it its name when the log is on disk
// too: both syncs at once are one commit of the file system.
func (c *child) record(x *wire.Exit, synced <-chan error) error {
	path := filepath.Join(c.cfg.Dir, wire.ExitFile)
	err := writeSynced(path+".new", x)
	if e := <-synced; e != nil {
		complain("log: " + e.Error())
		x.LogFail = e.Error()
		err = writeSynced(path+".new", x)
	}
	if err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

func writeSynced(path string, x *wire.Exit) error {
	b, err := json.Marshal(x)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(append(b, '\n'))
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// retry writes the record as soon as it can be written: the disk may be full
// exactly now. It is in memory until then. Without its directory it is not
// wanted any more.
func (c *child) retry(x *wire.Exit) {
	synced := make(chan error, 1)
	for {
		time.Sleep(retryTime)
		synced <- nil
		err := c.record(x, synced)
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			close(c.saved)
			return
		}
	}
}

// runcDelete is for what did not go by itself.
func (c *child) runcDelete() {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return
	}
	defer null.Close()
	n := null.Fd()
	if pid, err := c.reap.spawn(c.cfg.Runc, []string{"--root", c.cfg.Root, "delete", "--force", c.cfg.ID}, []uintptr{n, n, n}); err == nil {
		c.reap.wait(pid)
	}
}
