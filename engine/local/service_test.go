package local

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"slipway/engine"
	"slipway/engine/enginetest"
)

func (b *bench) apply(owner engine.Owner, c engine.Change) {
	b.t.Helper()
	if err := b.Apply(context.Background(), owner, c); err != nil {
		b.t.Fatal(err)
	}
}

const answers = `while true; do echo hello | nc -l -p 80; done`

// ask connects to a service of answers.
func ask(addr string) string {
	c, err := net.DialTimeout("tcp", addr+":80", time.Second)
	if err != nil {
		return err.Error()
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(time.Second))
	out, _ := io.ReadAll(c)
	return strings.TrimSpace(string(out))
}

func TestServiceOverRestart(t *testing.T) {
	b := open(t)
	owner := engine.Owner("stack/p")
	stays := b.serve("p", answers)
	ends := b.serve("p", "sleep 0.3; exit 5")
	if stays.State != engine.Running || !stays.Addr.IsValid() || stays.Started.IsZero() || stays.Hash != "h" || stays.Name != "web" {
		t.Errorf("%+v", stays)
	}
	until(t, "it answers", func() bool { return ask(stays.Addr.String()) == "hello" })
	pid := b.monitors.get(instanceName(stays.ID)).pid
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	until(t, "it answers without a server", func() bool { return ask(stays.Addr.String()) == "hello" })
	until(t, "the other has ended", func() bool { return readExit(b.monitors.dir(instanceName(ends.ID))) != nil })
	b.reopen()
	select {
	case o := <-b.Changed():
		if o != owner {
			t.Error(o)
		}
	case <-time.After(5 * time.Second):
		t.Error("nothing was told")
	}
	got := b.instance(owner, stays.ID)
	if got.State != engine.Running || got.Addr != stays.Addr || !got.Started.Equal(stays.Started) || b.monitors.get(instanceName(stays.ID)).pid != pid {
		t.Errorf("%+v, before %+v", got, stays)
	}
	if x := b.instance(owner, ends.ID); x.State != engine.Ended || x.Exit == nil || x.Exit.Code != 5 || x.Exit.Reason != "" {
		t.Errorf("%+v", x)
	}
	// A second start of the same id is nothing new.
	b.apply(owner, engine.Change{Start: &engine.ServiceSpec{ID: stays.ID, Network: "p", Image: b.base, Log: b.logs + "/x"}})
	if err := b.Apply(t.Context(), owner, engine.Change{Remove: stays.ID}); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("remove of a running one: %v", err)
	}
	if err := b.Apply(t.Context(), "stack/other", engine.Change{Stop: &engine.StopSpec{ID: stays.ID}}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("stop by another: %v", err)
	}
	t0 := time.Now()
	b.apply(owner, engine.Change{Stop: &engine.StopSpec{ID: stays.ID, Grace: 300 * time.Millisecond}})
	if took := time.Since(t0); took > 2*time.Second {
		t.Errorf("stop took %s", took)
	}
	if x := b.instance(owner, stays.ID); x.State != engine.Ended || x.Exit.Reason != engine.ReasonStop || x.Exit.Code != 137 {
		t.Errorf("%+v %+v", x, x.Exit)
	}
	b.apply(owner, engine.Change{Remove: stays.ID})
	b.apply(owner, engine.Change{Remove: stays.ID})
	b.apply(owner, engine.Change{Remove: ends.ID})
	if l, _ := b.Observe(t.Context(), owner); len(l) != 0 {
		t.Errorf("%+v", l)
	}
	if got := b.traces(); got != noTraces {
		t.Error(got)
	}
	if err := b.Engine.Remove(t.Context(), owner); err != nil {
		t.Fatal(err)
	}
	until(t, "its network is gone", func() bool {
		l, err := b.Networks(t.Context())
		return err == nil && len(l) == 1
	})
}

func TestServiceFailsToStart(t *testing.T) {
	b := open(t)
	i := b.serve("p", "", func(s *engine.ServiceSpec) { s.Command = []string{"/no/such"} })
	if i.State != engine.Ended || i.Exit == nil || i.Exit.Code != 127 || !strings.Contains(i.Exit.Message, "/no/such") {
		t.Errorf("%+v %+v", i, i.Exit)
	}
	i = b.serve("p", "true", func(s *engine.ServiceSpec) { s.User = "nobody-here" })
	if i.State != engine.Ended || i.Exit == nil || i.Exit.Code != 126 {
		t.Errorf("%+v %+v", i, i.Exit)
	}
	err := b.Apply(t.Context(), "stack/p", engine.Change{Start: &engine.ServiceSpec{ID: "z", Network: "p", Image: "sha256:" + strings.Repeat("1", 64), Log: b.logs + "/z"}})
	if !errdefs.IsNotFound(err) {
		t.Errorf("%v", err)
	}
	until(t, "nothing is left", func() bool { return b.traces() == noTraces })
	if n := len(b.net.taken["p"]); n != 2 { // of the two that are not removed
		t.Errorf("%d addresses", n)
	}
}

func TestServiceMonitorKilled(t *testing.T) {
	b := open(t)
	i := b.serve("p", answers)
	<-b.Changed()
	_ = unix.Kill(b.monitors.get(instanceName(i.ID)).child, unix.SIGKILL)
	<-b.Changed()
	until(t, "it is known", func() bool {
		i = b.instance("stack/p", i.ID)
		return i.State == engine.Ended
	})
	if i.Exit.Reason != engine.ReasonLost || i.Exit.Code != -1 {
		t.Errorf("%+v", i.Exit)
	}
	until(t, "nothing is left", func() bool { return b.traces() == noTraces })
}

func TestStopSignal(t *testing.T) {
	b := open(t)
	i := b.serve("p", "trap 'echo quit; exit 3' QUIT; while true; do sleep 0.05; done", func(s *engine.ServiceSpec) {
		s.StopSignal = "SIGQUIT"
		s.Env = []string{"A=b"}
	})
	until(t, "the trap is set", func() bool {
		_, out := b.exec(i.ID, "grep SigCgt /proc/1/status")
		return !strings.HasSuffix(out, "0000000000000000")
	})
	b.apply("stack/p", engine.Change{Stop: &engine.StopSpec{ID: i.ID, Grace: 5 * time.Second}})
	if x := b.instance("stack/p", i.ID).Exit; x.Code != 3 || x.Reason != engine.ReasonStop {
		t.Errorf("%+v", x)
	}
	for name, want := range map[string]int{"": 15, "TERM": 15, "sigint": 2, "9": 9, "SIGRTMIN+3": 37, "SIGRTMAX-1": 63, "SIGNO": 0, "0": 0, "RTMIN+99": 0} {
		got, err := stopSignal(name)
		if int(got) != want || (err != nil) != (want == 0) {
			t.Errorf("%q: %d %v", name, got, err)
		}
	}
}

func TestExec(t *testing.T) {
	b := open(t)
	i := b.serve("p", "sleep 1000", func(s *engine.ServiceSpec) { s.Env = []string{"A=from service"} })
	if code, out := b.exec(i.ID, "echo $A; exit 4"); code != 4 || out != "from service" {
		t.Errorf("%d %q", code, out)
	}
	var out bytes.Buffer
	run := func(s engine.ExecSpec) (int, string) {
		t.Helper()
		out.Reset()
		s.Stdout, s.Stderr = &out, &out
		code, err := b.Exec(t.Context(), i.ID, s)
		if err != nil {
			t.Errorf("%v: %v", s.Command, err)
		}
		return code, out.String()
	}
	if code, o := run(engine.ExecSpec{Command: []string{"cat"}, Stdin: strings.NewReader("piped in")}); code != 0 || o != "piped in" {
		t.Errorf("%d %q", code, o)
	}
	if code, o := run(engine.ExecSpec{Command: []string{"/bin/sh", "-c", "id -u; pwd; echo $B"}, User: "app", Dir: "/etc", Env: []string{"B=c"}}); code != 0 || o != "1000\n/etc\nc\n" {
		t.Errorf("%d %q", code, o)
	}
	if code, o := run(engine.ExecSpec{Command: []string{"not-there"}}); code != 127 || !strings.Contains(o, "not-there") {
		t.Errorf("%d %q", code, o)
	}
	if code, _ := run(engine.ExecSpec{Command: []string{"/bin/sh", "-c", "kill -9 $$"}}); code != 137 {
		t.Errorf("%d", code)
	}
	size := make(chan [2]uint16, 1)
	size <- [2]uint16{123, 45}
	if code, o := run(engine.ExecSpec{Command: []string{"/bin/sh", "-c", "test -t 0 && test -t 1 && sleep 0.3; /bin/busybox stty size; echo $TERM"}, TTY: true, Resize: size}); code != 0 || o != "45 123\r\nxterm\r\n" {
		t.Errorf("%d %q", code, o)
	}
	// Ended from outside it is gone from the container too.
	ctx, cancel := context.WithCancelCause(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := b.Exec(ctx, i.ID, engine.ExecSpec{Command: []string{"sleep", "777"}})
		done <- err
	}()
	count := func() string {
		_, o := b.exec(i.ID, "/bin/busybox ps | grep 'sleep 77[7]' | /bin/busybox wc -l")
		return o
	}
	until(t, "it runs", func() bool { return count() == "1" })
	cancel(fmt.Errorf("enough"))
	if err := <-done; err == nil || !strings.Contains(err.Error(), "enough") {
		t.Error(err)
	}
	until(t, "it is gone", func() bool { return count() == "0" })
	if _, err := b.Exec(t.Context(), "no-such", engine.ExecSpec{Command: []string{"true"}}); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
	ents, _ := os.ReadDir(b.monitors.run(instanceName(i.ID)))
	for _, e := range ents {
		if strings.HasPrefix(e.Name(), "x") {
			t.Errorf("left: %s", e.Name())
		}
	}
}

func TestStats(t *testing.T) {
	b := open(t)
	i := b.serve("p", "while true; do :; done", func(s *engine.ServiceSpec) { s.Limits.Memory = 64 << 20 })
	free := b.serve("p", answers)
	until(t, "it answers", func() bool { return ask(free.Addr.String()) == "hello" })
	var s engine.Stats
	until(t, "it has used the processor", func() bool {
		var err error
		if s, err = b.Stats(t.Context(), i.ID); err != nil {
			t.Fatal(err)
		}
		return s.CPU > 50*time.Millisecond
	})
	if s.Limit != 64<<20 || s.Memory <= 0 || s.Memory > 64<<20 || s.Pids != 1 || s.ReadAt.IsZero() {
		t.Errorf("%+v", s)
	}
	s, err := b.Stats(t.Context(), free.ID)
	if err != nil || s.Limit != 0 || s.RxBytes < 100 || s.TxBytes < 100 {
		t.Errorf("%+v %v", s, err)
	}
	if _, err := b.Stats(t.Context(), "no-such"); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
}

func TestServiceLogAcrossStarts(t *testing.T) {
	b := open(t)
	log := b.logs + "/one"
	for n := range 2 {
		i := b.serve("p", fmt.Sprintf("echo start %d", n), func(s *engine.ServiceSpec) { s.Log = log })
		until(t, "it has ended", func() bool { return b.instance("stack/p", i.ID).State == engine.Ended })
		b.apply("stack/p", engine.Change{Remove: i.ID})
	}
	if got := enginetest.Lines(t, log, "o"); strings.Join(got, ",") != "start 0,start 1" {
		t.Errorf("%q", got)
	}
}
