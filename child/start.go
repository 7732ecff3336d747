package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"slipway/engine/local/wire"
	"slipway/logs/segment"
)

func refusal(msg string) wire.Reply { return wire.Reply{Error: msg, Code: wire.CodeState} }

// start makes the container. Whatever happens after the lock is taken ends
// with an exit record, so that a start is never in doubt.
func (c *child) start(cfg *wire.Config) wire.Reply {
	if cfg == nil || cfg.ID == "" || cfg.ID != filepath.Base(cfg.ID) || cfg.ID[0] == '.' || cfg.Dir == "" || cfg.Run == "" || cfg.Root == "" || cfg.Log == "" {
		return refusal("the config is not complete")
	}
	c.mu.Lock()
	if c.phase != wire.New || c.over {
		c.mu.Unlock()
		return refusal("started already")
	}
	c.phase, c.cfg = wire.Starting, *cfg
	c.mu.Unlock()
	if err := c.claim(); err != nil {
		c.mu.Lock()
		c.phase, c.over = wire.New, true
		c.mu.Unlock()
		close(c.no)
		return refusal(err.Error())
	}
	c.mask = segment.NewMasker(c.cfg.Mask)
	c.cfg.Mask, cfg.Mask = nil, nil
	c.cg = cgroup{root: c.cfg.CgroupRoot, path: c.cfg.Cgroup}
	if c.cg.root == "" {
		c.cg.root = "/sys/fs/cgroup"
	}
	if adj := max(0, c.cfg.OOMScoreAdj); os.WriteFile("/proc/self/oom_score_adj", []byte(strconv.Itoa(adj)), 0) != nil {
		complain("oom_score_adj stays as it was")
	}
	t0 := time.Now()
	pid, err := c.create()
	if err != nil {
		c.mu.Lock()
		reason := c.reason
		c.reaped = true
		c.mu.Unlock()
		c.cg.kill()
		c.finish(&wire.Exit{Code: -1, Error: err.Error(), Reason: reason, Started: t0})
		return wire.Reply{Error: err.Error(), Code: wire.CodeRunc}
	}
	c.mu.Lock()
	c.phase, c.pid, c.started = wire.Running, pid, t0
	r := c.reason
	c.mu.Unlock()
	c.reap.settle(pid)
	go c.watch(pid, t0)
	if r != "" { // asked to end while it started
		c.kill(0, r)
	}
	if c.cfg.Timeout > 0 {
		time.AfterFunc(time.Duration(c.cfg.Timeout)*time.Millisecond-time.Since(t0), func() { c.kill(-1, wire.ReasonTimeout) })
	}
	time.AfterFunc(time.Second, debug.FreeOSMemory) // the start took more than the rest will need
	return wire.Reply{Pid: pid, Phase: wire.Running, Start: t0}
}

// claim makes this child the one of its container.
func (c *child) claim() (err error) {
	if c.lock, err = os.OpenFile(c.run(wire.LockFile), os.O_CREATE|os.O_RDWR, 0o600); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = c.lock.Close()
		}
	}()
	if err := unix.Flock(int(c.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return errors.New("a child of this name lives: " + err.Error())
	}
	if _, err := os.Stat(filepath.Join(c.cfg.Dir, wire.ExitFile)); err == nil {
		return errors.New("there is an exit record already")
	}
	_ = os.Remove(c.run(wire.SocketFile)) // of one that was killed; we have the lock
	if c.l, err = net.ListenUnix("unix", &net.UnixAddr{Name: c.run(wire.SocketFile), Net: "unix"}); err != nil {
		return err
	}
	go func() {
		for {
			conn, err := c.l.Accept()
			if err != nil {
				return
			}
			go c.serve(conn)
		}
	}()
	return nil
}

// create makes the pipes (or the terminal) and calls runc.
func (c *child) create() (pid int, err error) {
	o := segment.Options{Max: c.cfg.LogMax, Keep: c.cfg.LogKeep}
	if c.log, err = segment.Open(c.cfg.Log, o); err != nil {
		return 0, errors.New("log: " + err.Error())
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return 0, err
	}
	defer null.Close()
	args := []string{
		"--root", c.cfg.Root, "--log", c.run(wire.RuncLog), "--log-format", "json", "run", "--detach", "--no-new-keyring",
		"--pid-file", c.run(wire.PidFile), "--bundle", c.cfg.Bundle,
	}
	files := []uintptr{null.Fd(), null.Fd(), null.Fd()}
	var ends []*os.File // of the pipes, that the container has
	var console func()
	if c.cfg.TTY {
		var stop func()
		if console, stop, err = c.console(); err != nil {
			return 0, err
		}
		defer stop()
		args = append(args, "--console-socket", c.run(wire.TTYFile))
	} else {
		for i, s := range []byte("oe") {
			r, w, err := pipe()
			if err != nil {
				for _, e := range ends {
					_ = e.Close()
				}
				return 0, err
			}
			ends = append(ends, w)
			files[i+1] = w.Fd()
			c.pump(r, s)
		}
	}
	pid, err = c.reap.spawn(c.cfg.Runc, append(args, c.cfg.ID), files)
	for _, e := range ends { // so that the end is seen
		_ = e.Close()
	}
	if err != nil {
		return 0, errors.New("runc: " + err.Error())
	}
	if st := c.reap.wait(pid); !st.ws.Exited() || st.ws.ExitStatus() != 0 {
		return 0, errors.New(c.runcError(st.ws))
	}
	if console != nil {
		console()
	}
	b, err := os.ReadFile(c.run(wire.PidFile))
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(b)))
}

// pipe gives a pipe whose reading end does not block a thread.
func pipe() (r, w *os.File, err error) {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return nil, nil, err
	}
	_, _ = unix.FcntlInt(uintptr(p[0]), unix.F_SETPIPE_SZ, 256<<10) // as large as it may be; 64 KiB do too
	if err := unix.SetNonblock(p[0], true); err != nil {
		_, _ = unix.Close(p[0]), unix.Close(p[1])
		return nil, nil, err
	}
	return os.NewFile(uintptr(p[0]), "output"), os.NewFile(uintptr(p[1]), "pipe"), nil
}

func (c *child) pump(r *os.File, stream byte) {
	m := c.mask.Clone()
	c.mu.Lock()
	c.outs = append(c.outs, r)
	c.mu.Unlock()
	c.pumps.Go(func() {
		segment.Pump(r, stream, m, c.log)
		_ = r.Close()
	})
}

// console makes the socket on which runc hands over the terminal that it made.
// take waits for it, when runc has succeeded.
func (c *child) console() (take, stop func(), err error) {
	_ = os.Remove(c.run(wire.TTYFile))
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: c.run(wire.TTYFile), Net: "unix"})
	if err != nil {
		return nil, nil, err
	}
	_ = l.SetDeadline(time.Now().Add(10 * time.Second))
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn, err := l.AcceptUnix()
		if err != nil {
			return
		}
		defer conn.Close()
		oob := make([]byte, 64)
		_, n, _, _, err := conn.ReadMsgUnix(make([]byte, 256), oob)
		if err != nil {
			return
		}
		if ms, err := unix.ParseSocketControlMessage(oob[:n]); err == nil && len(ms) > 0 {
			if fds, err := unix.ParseUnixRights(&ms[0]); err == nil && len(fds) > 0 {
				unix.CloseOnExec(fds[0])
				_ = unix.SetNonblock(fds[0], true)
				t := os.NewFile(uintptr(fds[0]), "tty")
				c.mu.Lock()
				c.tty = t
				c.mu.Unlock()
				c.pump(t, 'o')
			}
		}
	}()
	return func() { <-done }, func() { _ = l.Close(); <-done }, nil
}

// runcError finds runc's own words in its log.
func (c *child) runcError(ws unix.WaitStatus) string {
	b, _ := os.ReadFile(c.run(wire.RuncLog))
	msg := ""
	for l := range bytes.Lines(b) {
		var e struct{ Level, Msg string }
		if json.Unmarshal(l, &e) == nil && (e.Level == "error" || e.Level == "fatal") {
			msg = e.Msg
		}
	}
	if msg == "" {
		if msg = "runc ended with code " + strconv.Itoa(ws.ExitStatus()); ws.Signaled() {
			msg = "runc was ended by " + ws.Signal().String()
		}
	}
	return msg
}
