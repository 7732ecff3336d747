package main

import (
	"debug/elf"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"slipway/engine/local/wire"
)

func TestRun(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "echo one; echo two >&2; echo rou\ngh; printf three; exit 7").start()
	x := w.wait()
	if x.Code != 7 || x.Signal != 0 || x.Reason != "" || x.Error != "" || x.OOM || x.Lost != 0 || x.Started.IsZero() || x.Ended.Before(x.Started) || x.ID != "c1" || x.V != wire.Version {
		t.Errorf("%+v", x)
	}
	r := w.record()
	if r == nil || r.Code != 7 || r.Lines != x.Lines {
		t.Errorf("record %+v", r)
	}
	got := strings.Join(w.lines(), "|")
	for _, l := range []string{"o one", "e two", "o three"} {
		if !strings.Contains(got, l) {
			t.Errorf("no %q in %q", l, got)
		}
	}
	if x.Lines != int64(len(w.lines())) {
		t.Errorf("%d lines, the record says %d", len(w.lines()), x.Lines)
	}
	cmdline, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", w.pid))
	if want := strings.Join(wire.Args("test", w.cfg.Dir), "\x00") + "\x00"; string(cmdline) != want {
		t.Errorf("command line %q", cmdline)
	}
	w.delete()
	for _, p := range []string{"root/c1", "run/" + wire.SocketFile} {
		if exists(w.path(p)) {
			t.Errorf("%s is left", p)
		}
	}
	if !exists(w.path("data/" + wire.ExitFile)) {
		t.Error("the record is gone")
	}
	if b, _ := os.ReadFile(w.stderr); len(b) > 0 {
		t.Errorf("stderr: %s", b)
	}
}

func TestProtocol(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "exec sleep 1000").spawn()
	if r := w.ask(wire.Request{Op: wire.OpState}); r.Code != wire.CodeVersion || r.V != wire.Version {
		t.Errorf("state before hello: %+v", r)
	}
	w.left()
	w = w.spawn()
	r := w.ask(wire.Request{Op: wire.OpHello, V: 99})
	if r.Code != wire.CodeVersion || r.V != wire.Version || r.Error != "this child speaks protocol version 1, not 99" {
		t.Errorf("hello 99: %+v", r)
	}
	w.left()
	w = w.spawn()
	if r := w.must(hello()); r.V != wire.Version || r.Pid != w.pid || r.Phase != wire.New {
		t.Errorf("hello: %+v", r)
	}
	for op, code := range map[string]string{"nonsense": wire.CodeVersion, wire.OpStart: wire.CodeState, wire.OpSignal: wire.CodeState, wire.OpResize: wire.CodeState, wire.OpInput: wire.CodeState} {
		if r := w.ask(wire.Request{Op: op}); r.Code != code || r.Error == "" {
			t.Errorf("%s: %+v", op, r)
		}
	}
	w.must(wire.Request{Op: wire.OpKill}) // nothing is started: no effect
	r = w.must(wire.Request{Op: wire.OpStart, Config: &w.cfg})
	if r.Phase != wire.Running || r.Pid == 0 || !alive(r.Pid) {
		t.Errorf("start: %+v", r)
	}
	if r := w.ask(wire.Request{Op: wire.OpStart, Config: &w.cfg}); r.Code != wire.CodeState || r.Error != "started already" {
		t.Errorf("second start: %+v", r)
	}
	// a later server that speaks another protocol is told so and ends nothing
	c, err := net.Dial("unix", filepath.Join(w.cfg.Run, wire.SocketFile))
	if err != nil {
		t.Fatal(err)
	}
	if r := newLink(t, c).ask(wire.Request{Op: wire.OpHello, V: 2}); r.Code != wire.CodeVersion {
		t.Errorf("%+v", r)
	}
	_ = c.Close()
	_ = w.conn.Close() // the server is gone
	l := w.dial()
	if s := l.must(wire.Request{Op: wire.OpState}); s.Pid != r.Pid || s.Phase != wire.Running {
		t.Errorf("state: %+v", s)
	}
	l.must(wire.Request{Op: wire.OpSignal, Signal: int(syscall.SIGKILL)})
	if x := l.must(wire.Request{Op: wire.OpWait}).Exit; x.Code != 137 || x.Signal != 9 || x.Reason != "" {
		t.Errorf("%+v", x)
	}
	if r := l.ask(wire.Request{Op: wire.OpSignal, Signal: 9}); r.Error != "the container is exited" {
		t.Errorf("%+v", r)
	}
	l.must(wire.Request{Op: wire.OpDelete})
	w.left()
}

func TestOneChild(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "echo once >> b/../count; exec sleep 1000").start()
	other := w.spawn()
	other.must(hello())
	if r := other.ask(wire.Request{Op: wire.OpStart, Config: &other.cfg}); r.Code != wire.CodeState || !strings.Contains(r.Error, "a child of this name lives") {
		t.Errorf("%+v", r)
	}
	other.must(wire.Request{Op: wire.OpDelete}) // leaves, and touches nothing of the first one
	other.left()
	w.must(wire.Request{Op: wire.OpKill, Reason: "stop"})
	if x := w.wait(); x.Code != 137 || x.Reason != "stop" {
		t.Errorf("%+v", x)
	}
	w.dial() // the socket is still the first one's
	w.delete()
	again := w.spawn()
	again.must(hello())
	if r := again.ask(wire.Request{Op: wire.OpStart, Config: &again.cfg}); r.Code != wire.CodeState || r.Error != "there is an exit record already" {
		t.Errorf("%+v", r)
	}
	_ = again.conn.Close()
	again.left()
}

func TestStartFails(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "")
	w.file("b/fail", `exec: "nothing": executable file not found in $PATH`)
	w = w.spawn()
	w.must(hello())
	r := w.ask(wire.Request{Op: wire.OpStart, Config: &w.cfg})
	if r.Code != wire.CodeRunc || !strings.Contains(r.Error, "executable file not found") {
		t.Errorf("%+v", r)
	}
	if x := w.wait(); x.Code != -1 || x.Error != r.Error {
		t.Errorf("%+v", x)
	}
	if x := w.record(); x == nil || x.Error != r.Error {
		t.Errorf("%+v", x)
	}
	w.delete()

	w = newWorld(t, "")
	w.cfg.Runc = "/does/not/exist"
	w = w.spawn()
	w.must(hello())
	if r := w.ask(wire.Request{Op: wire.OpStart, Config: &w.cfg}); r.Code != wire.CodeRunc || r.Error != "runc: no such file or directory" {
		t.Errorf("%+v", r)
	}
	w.delete()
	for _, id := range []string{"", "..", "a/b", "."} {
		w = newWorld(t, "")
		w.cfg.ID = id
		w = w.spawn()
		w.must(hello())
		if r := w.ask(wire.Request{Op: wire.OpStart, Config: &w.cfg}); r.Code != wire.CodeState {
			t.Errorf("id %q: %+v", id, r)
		}
		w.delete()
	}
}

func TestServerLeaves(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "").spawn() // without a word
	_ = w.conn.Close()
	w.left()

	w = newWorld(t, "read x < fifo; echo $x; exit 3")
	w.cfg.Linger = 50
	if err := unix.Mkfifo(w.path("b/fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	w = w.start()
	_ = w.conn.Close() // killed while it runs
	w.file("b/fifo", "late\n")
	w.left()
	if x := w.record(); x == nil || x.Code != 3 || !reflect.DeepEqual(w.lines(), []string{"o late"}) {
		t.Errorf("%+v %q", x, w.lines())
	}
	if exists(w.path("root/c1")) {
		t.Error("runc's state is left")
	}
}

func TestLingerWhileConnected(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "exit 1")
	w.cfg.Linger = 30
	w = w.start()
	w.wait()
	l := w.dial()
	_ = w.conn.Close()
	select {
	case <-w.gone:
		t.Fatal("left although a server is connected")
	case <-time.After(150 * time.Millisecond):
	}
	_ = l.conn.Close()
	w.left()
}

func TestTimeout(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "exec sleep 1000")
	w.cfg.Timeout = 100
	w = w.start()
	if x := w.wait(); x.Code != 143 || x.Signal != 15 || x.Reason != wire.ReasonTimeout {
		t.Errorf("%+v", x)
	}
	w.delete()

	w = newWorld(t, "trap '' TERM; echo ready; while :; do sleep 1000; done")
	w.cfg.Timeout, w.cfg.Grace = 300, 200
	w.cgroup()
	w = w.start()
	if x := w.wait(); x.Code != 137 || x.Reason != wire.ReasonTimeout {
		t.Errorf("%+v", x)
	}
	w.delete()
}

func TestStopSignal(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "trap 'exit 5' USR1; echo $$ > ready; while :; do sleep 0.05; done")
	w.cfg.Stop = int(syscall.SIGUSR1)
	w = w.start()
	w.pidFile("ready")
	w.must(wire.Request{Op: wire.OpKill, Grace: -1, Reason: "stop"})
	if x := w.wait(); x.Code != 5 || x.Reason != "stop" {
		t.Errorf("%+v", x)
	}
	w.delete()
}

// A process that ignores SIGTERM, with grandchildren in sessions of their own
// and a pipe that is always full.
func TestStubborn(t *testing.T) {
	t.Parallel()
	w := newWorld(t, `trap '' TERM
(setsid sh -c 'trap "" TERM; echo $$ > daemon; while :; do sleep 1000; done' &)
yes full of it & yes full of it >&2 &
while :; do wait; done`)
	w.cfg.LogMax = 1 << 20
	w.cgroup()
	w = w.start()
	daemon := w.pidFile("daemon")
	t0 := time.Now()
	w.must(wire.Request{Op: wire.OpKill, Grace: 500, Reason: "cancel"})
	x := w.wait()
	w.must(wire.Request{Op: wire.OpDelete})
	if took := time.Since(t0); took > 2500*time.Millisecond || took < 500*time.Millisecond {
		t.Errorf("took %v", took)
	}
	if x.Code != 137 || x.Reason != "cancel" || x.Lost != 0 {
		t.Errorf("%+v", x)
	}
	if alive(daemon) {
		t.Error("the daemon lives")
	}
	g := cgroup{root: "/sys/fs/cgroup", path: w.cfg.Cgroup}
	if l := g.dirs(); len(l) > 0 {
		t.Errorf("cgroups left: %q", l)
	}
	lines := w.lines()
	if last := lines[len(lines)-1]; last != "m the log has reached its bound of 1048576 bytes; the rest is left out" {
		t.Errorf("last line %q", last)
	}
}

// What the first process leaves behind is ended, even if it has the pipe.
func TestOrphans(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "(setsid sh -c 'echo $$ > orphan; while :; do echo still here; sleep 0.01; done' &) ; while ! test -s orphan; do sleep 0.01; done; exit 4")
	w.cgroup()
	w = w.start()
	orphan := w.pidFile("orphan")
	if x := w.wait(); x.Code != 4 || x.Reason != "" {
		t.Errorf("%+v", x)
	}
	until(t, "orphan gone", func() bool { return !alive(orphan) })
	w.delete()
}

// Nobody can be ended who is outside the cgroup, but he cannot hold up the end
// either.
func TestPipeHeldOutside(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "(setsid sh -c 'echo $$ > orphan; exec sleep 1000' &) ; while ! test -s orphan; do sleep 0.01; done; echo done; exit 4").start()
	orphan := w.pidFile("orphan")
	defer syscall.Kill(orphan, syscall.SIGKILL)
	x := w.wait()
	if took := time.Since(x.Ended); x.Code != 4 || took > 3*time.Second || took < drainTime-100*time.Millisecond {
		t.Errorf("%+v after %v", x, took)
	}
	if got := w.lines(); !reflect.DeepEqual(got, []string{"o done"}) {
		t.Errorf("%q", got)
	}
	w.delete()
}

func TestFrozen(t *testing.T) {
	t.Parallel()
	for _, grace := range []int64{0, 300} {
		w := newWorld(t, "echo $$ > ready; exec sleep 1000")
		w.cgroup()
		w = w.start()
		pid := w.pidFile("ready")
		g := cgroup{root: "/sys/fs/cgroup", path: w.cfg.Cgroup}
		for _, d := range g.dirs() {
			put(filepath.Join(d, "freezer.state"), "FROZEN")
			if g.v2() {
				put(filepath.Join(d, "cgroup.freeze"), "1")
			}
		}
		w.must(wire.Request{Op: wire.OpKill, Grace: grace, Reason: "cancel"})
		want := 137
		if grace > 0 { // thawed, so that it hears the signal
			want = 143
		}
		if x := w.wait(); x.Code != want || x.Reason != "cancel" {
			t.Errorf("%+v", x)
		}
		if alive(pid) {
			t.Error("alive")
		}
		w.delete()
	}
}

func TestHostGoesDown(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "trap 'echo bye; exit 0' TERM; echo $$ > ready; while :; do sleep 0.05; done").start()
	w.pidFile("ready")
	_ = syscall.Kill(w.pid, syscall.SIGTERM)
	x := w.wait()
	w.left()
	if r := w.record(); x.Code != 0 || x.Reason != wire.ReasonHost || r == nil || r.Reason != wire.ReasonHost || !reflect.DeepEqual(w.lines(), []string{"o bye"}) {
		t.Errorf("%+v %+v %q", x, r, w.lines())
	}

	w = newWorld(t, "exit 0").start() // one that only waits for its server
	w.wait()
	_ = syscall.Kill(w.pid, syscall.SIGTERM)
	w.left()

	w = newWorld(t, "").spawn()
	w.must(hello())
	_ = syscall.Kill(w.pid, syscall.SIGTERM)
	w.left()
}

func TestTerminal(t *testing.T) {
	t.Parallel()
	w := newWorld(t, `test -t 1 && echo is a terminal; read x; echo "got $x"; stty size; exit 3`)
	w.cfg.TTY = true
	w = w.start()
	w.must(wire.Request{Op: wire.OpResize, W: 101, H: 33})
	w.must(wire.Request{Op: wire.OpInput, Data: []byte("words\n")})
	x := w.wait()
	got := strings.ReplaceAll(strings.Join(w.lines(), "|"), "\r", "")
	if x.Code != 3 || !strings.Contains(got, "o is a terminal") || !strings.Contains(got, "o got words") || !strings.Contains(got, "o 33 101") {
		t.Errorf("%+v %q", x, got)
	}
	w.delete()
}

func TestDeleteRunning(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "trap '' TERM; echo $$ > ready; while :; do sleep 1000; done")
	w.cgroup()
	w.file("b/pidns", "")
	w = w.start()
	pid := w.must(wire.Request{Op: wire.OpState}).Pid
	w.pidFile("ready")
	w.delete()
	if x := w.record(); alive(pid) || x == nil || x.Code != 137 || x.Reason != wire.ReasonDelete {
		t.Errorf("%+v", x)
	}
}

func TestUnmount(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "exit 0")
	w.small("b/rootfs", 4096)
	w.cfg.Unmount = []string{w.path("b/rootfs")}
	w.file("b/rootfs/x", "")
	w = w.start()
	w.wait()
	w.delete()
	if exists(w.path("b/rootfs/x")) {
		t.Error("still mounted")
	}
}

// Many short ones, to see that no start hangs and no status is lost.
func TestMany(t *testing.T) {
	t.Parallel()
	for i := range 40 {
		w := newWorld(t, fmt.Sprintf("(exit 0) & (exit 1) & exit %d", i))
		w = w.start()
		if x := w.wait(); x.Code != i {
			t.Errorf("%d: %+v", i, x)
		}
		w.delete()
	}
}

func TestBinary(t *testing.T) {
	t.Parallel()
	if race {
		return // not the one that is built for use
	}
	st, err := os.Stat(binary)
	if err != nil || st.Size() > 3_000_000 {
		t.Errorf("%d bytes %v", st.Size(), err)
	}
	f, err := elf.Open(binary)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			t.Error("not static")
		}
	}
}
