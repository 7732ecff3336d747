package local

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"slipway/crash"
	"slipway/engine"
	"slipway/engine/local/wire"
)

// start starts the container of a record that is new. The monitor is also given
// when the container could not start: then it has ended; and when the engine is
// closed in the middle of it: then the next one knows more. An error means that
// nothing was started and nothing is kept.
func (m *monitors) start(rec record, cfg wire.Config) (*monitor, error) {
	rec.Boot, rec.At = m.e.boot, time.Now()
	mon := m.monitor(rec)
	if m.e.closing.Load() {
		return nil, errClosed
	}
	m.mu.Lock()
	if m.by[rec.Name] != nil {
		m.mu.Unlock()
		return nil, fmt.Errorf("%s is there already", rec.Name)
	}
	m.by[rec.Name] = mon
	m.mu.Unlock()
	if err := mon.launch(cfg); err != nil {
		err = errors.Join(err, mon.dismiss())
		m.forget(rec.Name)
		return nil, err
	}
	return mon, nil
}

// launch writes the record, starts the child and tells it what to run.
func (mon *monitor) launch(cfg wire.Config) error {
	m := mon.m
	cfg.ID, cfg.Dir, cfg.Run = mon.Name, m.dir(mon.Name), m.run(mon.Name)
	cfg.Runc, cfg.Root, cfg.Bundle, cfg.Cgroup, cfg.Log = m.e.runc, m.e.runcRoot, mon.Bundle, mon.Cgroup, mon.Log
	cfg.Unmount = mon.Mounts
	for _, d := range []string{cfg.Run, filepath.Dir(cfg.Log)} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return err
		}
	}
	if err := m.write(mon.record); err != nil {
		return err
	}
	crash.At("engine: a start is noted")
	conn, pid, err := m.spawn(cfg.Run)
	if err != nil {
		return fmt.Errorf("start the monitor: %w", err)
	}
	crash.At("engine: a monitor was started")
	mon.child = pid
	hello := mon.attach(conn, wire.Version)
	started := mon.send(wire.Request{Op: wire.OpStart, Config: &cfg})
	late := time.NewTimer(m.patient)
	defer late.Stop()
	select {
	case r, ok := <-hello:
		switch {
		case ok && r.Error == "":
		case m.e.closing.Load():
			return nil // the next server finds out how far it came
		default:
			return fmt.Errorf("the monitor did not answer: %s%s", r.Error, mon.complaint())
		}
	case <-late.C:
		mon.abandon()
		return fmt.Errorf("the monitor did not answer within %s", m.patient)
	}
	var r wire.Reply
	var ok bool
	select {
	case r, ok = <-started:
	case <-late.C:
		mon.abandon()
		x := readExit(m.dir(mon.Name)) // it may have failed at this very moment
		if x == nil {
			x = m.bury(mon.record, engine.ReasonNone, fmt.Sprintf("it did not run within %s", m.patient))
		}
		mon.ended(x)
		return nil
	}
	if ok && r.Error != "" && r.Code != wire.CodeRunc { // refused before anything was done
		return errors.New(r.Error)
	}
	if ok && r.Error == "" {
		mon.mu.Lock()
		mon.pid, mon.started = r.Pid, r.Start
		mon.mu.Unlock()
		mon.wait()
		return nil
	}
	// One that could not start it, or was killed in the middle, has ended.
	mon.wait()
	select {
	case <-mon.done:
		return nil
	case <-m.e.closed:
		return nil // we hung up: it goes on, or the next server sees that it does not
	}
}

// abandon kills a child that does not do what it should, and lets it alone.
func (mon *monitor) abandon() {
	mon.m.e.log.Error("a monitor does not start its container and is killed", "id", mon.ID)
	killChild(mon.child)
	mon.hangUp()
}

// killChild kills a child, with the runc that may be starting its container.
func killChild(pid int) {
	if pid > 1 {
		_ = unix.Kill(-pid, unix.SIGKILL) // it leads a group, see spawn
		_ = unix.Kill(pid, unix.SIGKILL)
	}
}

// complaint is what the child wrote before it went.
func (mon *monitor) complaint() string {
	b, _ := os.ReadFile(filepath.Join(mon.m.run(mon.Name), wire.ErrFile))
	if len(b) > 500 {
		b = b[:500]
	}
	return string(b)
}

// spawn starts a child. It gets one end of a socket pair, a file for its last
// words, and nothing else.
func (m *monitors) spawn(run string) (net.Conn, int, error) {
	p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, 0, err
	}
	ours, theirs := os.NewFile(uintptr(p[0]), "child"), os.NewFile(uintptr(p[1]), "server")
	defer ours.Close()
	defer theirs.Close()
	errf, err := os.OpenFile(filepath.Join(run, wire.ErrFile), os.O_CREATE|os.O_WRONLY|os.O_TRUNC|os.O_APPEND, 0o600)
	if err != nil {
		return nil, 0, err
	}
	defer errf.Close()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, 0, err
	}
	defer null.Close()
	// Not by os/exec: waiting for each would keep a thread for each.
	pid, err := syscall.ForkExec(m.e.child, wire.Args(m.e.inst, m.e.opts.DataDir), &syscall.ProcAttr{
		Dir: "/", Env: []string{"GOGC=25", "GOMAXPROCS=2", "GOTRACEBACK=1"},
		Files: []uintptr{null.Fd(), null.Fd(), errf.Fd(), wire.Descriptor: theirs.Fd()},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return nil, 0, err
	}
	conn, err := net.FileConn(ours)
	if err != nil {
		_ = unix.Kill(pid, unix.SIGKILL)
		reap(pid)
		return nil, 0, err
	}
	return conn, pid, nil
}
