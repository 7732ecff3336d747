package event

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"

	"slipway/db"
)

// child is the test program as a server that sends, which a test kills.
func child(args []string) bool {
	if len(args) != 3 || args[1] != "send-child" {
		return false
	}
	d, err := db.Open(context.Background(), filepath.Join(args[2], "x.db"))
	if err != nil {
		panic(err)
	}
	h := NewHooks(HookConfig{Private: true, Owner: "child", Payload: payload}, d, box{})
	fmt.Println("ready")
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	panic(h.Run(ctx))
}

// TestSenderKilled: a kill loses nothing and changes no order. Only what was on
// its way is sent again, as the same delivery.
func TestSenderKilled(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	open := func() *db.DB {
		d, err := db.Open(t.Context(), filepath.Join(dir, "x.db"))
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	d := open()
	tenants(t, d)
	var pid atomic.Int64
	r := newReceiver(t, func(n int, _ http.ResponseWriter) {
		if n == 3 { // it is sent, and nobody knows
			_ = syscall.Kill(int(pid.Load()), syscall.SIGKILL)
		}
	})
	make1(t, hooks(t, d, true), Hook{Workspace: "w", URL: r.URL, Events: []Word{OnPush, OnFinished, OnSuccessful}})
	for i := range 3 {
		happen(t, d, Pushed, "w", "p", fmt.Sprint(i), "")
		happen(t, d, ExecutionFinished, "w", "p", fmt.Sprint(i), "SUCCESSFUL")
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for len(r.all()) < 10 {
		before := len(r.all())
		cmd := exec.Command(self, "send-child", dir)
		cmd.Env = append(os.Environ(), "SLIPWAY_CRASH=event: a request to a webhook is kept")
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		pid.Store(int64(cmd.Process.Pid))
		if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		if s, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && s.Signal() != syscall.SIGKILL {
			t.Fatalf("the sender ended with %v", cmd.ProcessState)
		}
		if len(r.all()) != before+1 {
			t.Fatalf("%d requests, and then %d", before, len(r.all()))
		}
	}
	l := r.all()
	if l[2].delivery != l[3].delivery {
		t.Errorf("sent again as %s, before as %s", l[3].delivery, l[2].delivery)
	}
	want := []string{
		"PUSH 0", "EXECUTION_SUCCESSFUL 0", "EXECUTION_FINISHED 0", "EXECUTION_FINISHED 0", "PUSH 1", "EXECUTION_SUCCESSFUL 1", "EXECUTION_FINISHED 1",
		"PUSH 2", "EXECUTION_SUCCESSFUL 2", "EXECUTION_FINISHED 2",
	}
	if got := r.words(); !slices.Equal(got, want) {
		t.Errorf("told %q", got)
	}
	d = open()
	h := hooks(t, d, true)
	stop := h.running(t)
	happen(t, d, Pushed, "w", "p", "last", "")
	until(t, "it goes on", func() bool { return len(r.all()) == 11 })
	stop()
	if err := d.Close(); err != nil {
		t.Error(err)
	}
}
