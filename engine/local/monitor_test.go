package local

import (
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"slipway/engine"
	"slipway/engine/local/wire"
)

// oldChild plays a child of a release with protocol 99: it understands hello in
// that version, kill, wait and delete.
type oldChild struct {
	mu   sync.Mutex
	asks []string
	kill chan struct{}
	once sync.Once
}

func (o *oldChild) serve(c net.Conn) {
	defer c.Close()
	dec, enc := json.NewDecoder(c), json.NewEncoder(c)
	hello := false
	var wmu sync.Mutex
	say := func(r wire.Reply) {
		wmu.Lock()
		defer wmu.Unlock()
		_ = enc.Encode(r)
	}
	for {
		var q wire.Request
		if dec.Decode(&q) != nil {
			return
		}
		o.mu.Lock()
		o.asks = append(o.asks, q.Op)
		o.mu.Unlock()
		switch {
		case !hello && q.V != 99:
			say(wire.Reply{N: q.N, Error: "this child speaks protocol version 99", Code: wire.CodeVersion, V: 99})
			return
		case !hello:
			hello = true
			say(wire.Reply{N: q.N, V: 99, Pid: 0})
		case q.Op == wire.OpKill:
			o.once.Do(func() { close(o.kill) })
			say(wire.Reply{N: q.N})
		case q.Op == wire.OpWait:
			go func() {
				<-o.kill
				say(wire.Reply{N: q.N, Exit: &wire.Exit{Code: 143, Signal: 15, Reason: "stop", Ended: time.Now()}})
			}()
		default:
			say(wire.Reply{N: q.N})
		}
	}
}

func TestForeignMonitor(t *testing.T) {
	b := open(t)
	name := instanceName("old")
	rec := record{
		Name: name, Kind: kindInstance, ID: "old", Owner: "stack/p", Boot: b.boot, At: time.Now(), Network: "p", Last: 7,
		Cgroup: b.serveCgroup() + "/" + name, Bundle: filepath.Join(b.Engine.run, "b", name), Layer: b.path("layers", name),
	}
	if err := b.monitors.write(rec); err != nil {
		t.Fatal(err)
	}
	run := b.monitors.run(name)
	for _, d := range []string{run, rec.Bundle, rec.Layer} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(run, wire.LockFile), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(run, wire.SocketFile))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	old := &oldChild{kill: make(chan struct{})}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go old.serve(c)
		}
	}()
	b.reopen()
	if i := b.instance("stack/p", "old"); i.State != engine.Running {
		t.Errorf("%+v", i)
	}
	b.restart()
	b.apply("stack/p", engine.Change{Stop: &engine.StopSpec{ID: "old", Grace: time.Second}})
	if i := b.instance("stack/p", "old"); i.State != engine.Ended || i.Exit.Code != 143 || i.Exit.Reason != engine.ReasonStop {
		t.Errorf("%+v", i)
	}
	b.apply("stack/p", engine.Change{Remove: "old"})
	old.mu.Lock()
	defer old.mu.Unlock()
	for _, op := range old.asks {
		switch op {
		case wire.OpHello, wire.OpKill, wire.OpWait, wire.OpDelete:
		default:
			t.Errorf("it was asked %q", op)
		}
	}
}

// TestFrozen ends a container that somebody has frozen.
func TestFrozen(t *testing.T) {
	b := open(t)
	i := b.serve("p", answers)
	mon := b.monitors.get(instanceName(i.ID))
	frozen := false
	for _, d := range b.cgroups.dirs(mon.Cgroup) {
		frozen = writeExisting(filepath.Join(d, "freezer.state"), "FROZEN") == nil || writeExisting(filepath.Join(d, "cgroup.freeze"), "1") == nil || frozen
	}
	if !frozen {
		t.Fatal("it could not be frozen")
	}
	t0 := time.Now()
	b.apply("stack/p", engine.Change{Stop: &engine.StopSpec{ID: i.ID, Grace: 200 * time.Millisecond}})
	if took := time.Since(t0); took > 3*time.Second {
		t.Errorf("it took %s", took)
	}
	until(t, "nothing is left", func() bool { return b.traces() == noTraces })
	// The same when the monitor is gone.
	i = b.serve("p", answers)
	mon = b.monitors.get(instanceName(i.ID))
	for _, d := range b.cgroups.dirs(mon.Cgroup) {
		_ = writeExisting(filepath.Join(d, "freezer.state"), "FROZEN")
		_ = writeExisting(filepath.Join(d, "cgroup.freeze"), "1")
	}
	_ = unix.Kill(mon.child, unix.SIGKILL)
	until(t, "nothing is left", func() bool { return b.traces() == noTraces })
}

// TestHungMonitor has a monitor that was stopped: after the grace and ten
// seconds more it is killed, and what it watched with it.
func TestHungMonitor(t *testing.T) {
	b := open(t)
	i := b.serve("p", answers)
	mon := b.monitors.get(instanceName(i.ID))
	_ = unix.Kill(mon.child, unix.SIGSTOP)
	t0 := time.Now()
	b.apply("stack/p", engine.Change{Stop: &engine.StopSpec{ID: i.ID, Grace: 100 * time.Millisecond}})
	if took := time.Since(t0); took > hung+5*time.Second {
		t.Errorf("it took %s", took)
	}
	if x := b.instance("stack/p", i.ID); x.Exit.Reason != engine.ReasonLost {
		t.Errorf("%+v", x.Exit)
	}
	until(t, "nothing is left", func() bool { return b.traces() == noTraces })
}

// TestHungMonitorAtStart has monitors that are stopped when the server starts:
// it starts all the same, and what they watch goes on.
func TestHungMonitorAtStart(t *testing.T) {
	b := open(t)
	wakes, stays := b.serve("p", answers), b.serve("p", answers)
	child := func(i engine.Instance) int { return b.monitors.get(instanceName(i.ID)).child }
	children := []int{child(wakes), child(stays)}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	for _, pid := range children {
		_ = unix.Kill(pid, unix.SIGSTOP)
	}
	t0 := time.Now()
	b.reopen()
	b.restart() // the end of a server does not wait for them, nor end them
	if took := time.Since(t0); took > 2*adoptTime+5*time.Second {
		t.Errorf("it took %s", took)
	}
	for n, i := range []engine.Instance{wakes, stays} {
		if now := b.instance("stack/p", i.ID); now.State != engine.Running || ask(now.Addr.String()) != "hello" || child(i) != children[n] {
			t.Errorf("%+v, monitor %d", now, child(i))
		}
	}
	_ = unix.Kill(children[0], unix.SIGCONT)
	until(t, "it is adopted", func() bool { return b.instance("stack/p", wakes.ID).Started.Equal(wakes.Started) })
	for _, i := range []engine.Instance{wakes, stays} {
		b.apply("stack/p", engine.Change{Stop: &engine.StopSpec{ID: i.ID, Grace: 200 * time.Millisecond}})
	}
	for i, why := range map[engine.Instance]engine.Reason{wakes: engine.ReasonStop, stays: engine.ReasonLost} {
		if now := b.instance("stack/p", i.ID); now.State != engine.Ended || now.Exit.Reason != why {
			t.Errorf("%+v, want %s", now, why)
		}
	}
	until(t, "nothing is left", func() bool { return b.traces() == noTraces })
}

// TestStartThatHangs has a monitor that never says hello, and a runc that never
// comes back: the start ends after its time, says why, and leaves nothing.
func TestStartThatHangs(t *testing.T) {
	b := open(t)
	hangs := filepath.Join(t.TempDir(), "hangs")
	if err := os.WriteFile(hangs, []byte("#!/bin/sh\necho $$ > \"$0.pid\"\nexec sleep 1000\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	gone := func() {
		t.Helper()
		pid, err := os.ReadFile(hangs + ".pid")
		if err != nil {
			t.Fatal(err)
		}
		until(t, "what hung is gone", func() bool {
			stat, err := os.ReadFile("/proc/" + strings.TrimSpace(string(pid)) + "/stat")
			return err != nil || strings.Contains(string(stat), ") Z ")
		})
		until(t, "nothing is left", func() bool { return b.traces() == noTraces })
	}
	runc, child := b.runc, b.child
	b.monitors.patient = 500 * time.Millisecond

	b.child = hangs
	id, s := b.sh("exit 3")
	if _, err := b.Run(t.Context(), id, s); err == nil || !strings.Contains(err.Error(), "the monitor did not answer within 500ms") {
		t.Errorf("a run: %v", err)
	}
	gone()
	err := b.Apply(t.Context(), "stack/p", engine.Change{Start: &engine.ServiceSpec{
		ID: "svc", Service: "web", Workspace: "w", Network: "p", Image: b.base, Command: []string{"/bin/sh", "-c", answers}, Log: filepath.Join(b.logs, "svc"),
	}})
	if err == nil || !strings.Contains(err.Error(), "the monitor did not answer within 500ms") {
		t.Errorf("an instance: %v", err)
	}
	gone()

	b.child, b.runc = child, hangs
	x, _ := b.do("exit 3")
	if x.Code != -1 || x.Reason != engine.ReasonNone || x.Message != "it did not run within 500ms" {
		t.Errorf("a run: %+v", x)
	}
	gone()

	b.runc, b.monitors.patient = runc, startTime
	if x, err := b.Run(t.Context(), id, s); err != nil || x.Code != 3 { // nothing was started before
		t.Errorf("the run again: %+v %v", x, err)
	}
}

// TestFullDisk has the engine on a small disk.
func TestFullDisk(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "disk")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("small", dir, "tmpfs", 0, "size=64m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	b := open(t, func(o *Options) { o.Dir = filepath.Join(dir, "engine") })
	if x, _ := b.do("exit 3"); x.Code != 3 {
		t.Fatalf("%+v", x)
	}
	i := b.serve("p", answers)
	// A run fills it by itself; its own end is known all the same.
	x, out := b.do("head -c 100000000 /dev/zero > /big; echo $?")
	if x.Code != 0 || out == "0" {
		t.Errorf("%+v %q", x, out)
	}
	until(t, "there is space again", func() bool {
		var st unix.Statfs_t
		return unix.Statfs(dir, &st) == nil && st.Bavail*uint64(st.Bsize) > 8<<20
	})
	f, err := os.Create(filepath.Join(dir, "filler"))
	if err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = f.Write(make([]byte, 4096))
	}
	_ = f.Close()
	id, s := b.sh("exit 5")
	if _, err := b.Run(t.Context(), id, s); err == nil {
		t.Error("it was started on a full disk")
	} else {
		t.Log(err)
	}
	until(t, "the service goes on", func() bool { return ask(i.Addr.String()) == "hello" })
	_ = os.Remove(f.Name())
	if x, err := b.Run(t.Context(), id, s); err != nil || x.Code != 5 {
		t.Errorf("%+v %v", x, err)
	}
}
