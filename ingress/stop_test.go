package ingress

import (
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/net/websocket"
)

func TestStopLeavesNothing(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	p := start(t, cfg)
	pid := p.PID()
	addr, _ := p.Addrs()
	if err := p.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !gone(pid) {
		t.Error("the process is still there")
	}
	if _, err := net.Dial("tcp", addr); err == nil {
		t.Error("somebody answers")
	}
	if l, _ := filepath.Glob(cfg.RunDir + "/*"); len(l) > 0 {
		t.Errorf("left: %v", l)
	}
	if err := StopRunning(t.Context(), cfg); err != nil {
		t.Errorf("stop of nothing: %v", err)
	}
}

// TestStopEndsDrainingProcesses stops while a predecessor still drains.
func TestStopEndsDrainingProcesses(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	cfg.build = "old"
	p := start(t, cfg)
	addr, _ := p.Addrs()
	echo := websocket.Server{Handler: func(c *websocket.Conn) { _, _ = io.Copy(c, c) }}
	set(t, p, table(1, map[string][]Route{"ws.example": to(backend(t, echo.ServeHTTP))}))
	ws, err := dialWebSocket(addr, "ws.example")
	if err != nil {
		t.Fatal(err)
	}
	defer ws.Close()
	old := p.PID()
	_ = p.Close()
	cfg.build = "new"
	q := start(t, cfg)
	if err := q.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	until(t, "the draining one ends too", func() bool { return gone(old) })
	p.reap()
}

// freeze stops a process and waits until all its threads have.
func freeze(t *testing.T, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	until(t, "it hangs", func() bool {
		threads, _ := filepath.Glob("/proc/" + strconv.Itoa(pid) + "/task/*/stat")
		for _, f := range threads {
			if b, err := os.ReadFile(f); err != nil || !strings.Contains(string(b), ") T ") {
				return false
			}
		}
		return len(threads) > 0
	})
}

// TestHungProcess has a process that was stopped: the next start puts another in
// its place, and stop ends it.
func TestHungProcess(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	p := start(t, cfg)
	b := backend(t, say("hello"))
	set(t, p, table(1, map[string][]Route{"a.localhost": to(b)}))
	hung := p.PID()
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	freeze(t, hung)
	next := start(t, cfg)
	if next.PID() == hung {
		t.Error("the hung one was taken over")
	}
	addr, _ := next.Addrs()
	wantGet(t, client(t, addr), "http://a.localhost/", 200, "hello") // its last table
	if err := next.Close(); err != nil {
		t.Fatal(err)
	}
	freeze(t, next.PID())
	ctx, cancel := context.WithTimeout(t.Context(), 2*answerTimeout)
	defer cancel()
	if err := StopRunning(ctx, cfg); err != nil {
		t.Error(err)
	}
}

// TestStopOfOneThatIsReplaced has a process that hangs, and another that takes
// its socket's place while its answer is waited for: the one that was asked is
// ended.
func TestStopOfOneThatIsReplaced(t *testing.T) {
	t.Parallel()
	cfg, place := config(t), config(t)
	p, other := start(t, cfg), start(t, place)
	hung, lives := p.PID(), other.PID()
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	sockets := func() int { // of the process: the listener, and its end of each connection
		b, err := os.ReadFile("/proc/net/unix")
		if err != nil {
			t.Fatal(err)
		}
		return strings.Count(string(b), socketPath(cfg.RunDir)+"."+strconv.Itoa(hung)+"\n")
	}
	until(t, "nobody is connected", func() bool { return sockets() == 1 })
	freeze(t, hung)
	stopped := make(chan error, 1)
	go func() { stopped <- StopRunning(context.WithoutCancel(t.Context()), cfg) }()
	until(t, "it has been asked", func() bool { return sockets() == 2 })
	if err := os.Remove(socketPath(cfg.RunDir)); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(socketPath(place.RunDir), socketPath(cfg.RunDir)); err != nil {
		t.Fatal(err)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	if !gone(hung) {
		t.Error("the one that hangs is still there")
	}
	if gone(lives) {
		t.Error("the one that took its place was ended")
	}
}

// TestStopThatFails is of a process that lives but does not do it.
func TestStopThatFails(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	l, err := net.Listen("unix", socketPath(cfg.RunDir))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_ = c.Close()
		}
	}()
	if err := StopRunning(t.Context(), cfg); err == nil {
		t.Error("it is said to be stopped")
	}
}
