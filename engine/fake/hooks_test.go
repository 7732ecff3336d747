package fake_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"slipway/engine"
	"slipway/engine/fake"
)

func run(t *testing.T, e *fake.Engine, id, words string) <-chan engine.Exit {
	t.Helper()
	c := make(chan engine.Exit, 1)
	spec := engine.RunSpec{Owner: "execution/x", Image: e.Image(words)}
	go func() {
		x, err := e.Run(context.Background(), id, spec)
		if err != nil {
			x.Message = err.Error()
		}
		c <- x
	}()
	return c
}

func TestBlockAndRelease(t *testing.T) {
	e := fake.New(t, "")
	c := run(t, e, "r", "block; exit 2")
	e.Await("r")
	e.Release("r")
	if x := <-c; x.Code != 2 {
		t.Errorf("got %+v", x)
	}
}

func TestEndsFromOutside(t *testing.T) {
	e := fake.New(t, "")
	for _, c := range []struct {
		id   string
		end  func(id string)
		want engine.Exit
	}{
		{"exit", func(id string) { e.Exit(id, 9) }, engine.Exit{Code: 9}},
		{"kill", func(id string) { e.Kill(id, 11) }, engine.Exit{Code: 139, Signal: 11}},
		{"lose", e.Lose, engine.Exit{Code: -1, Reason: engine.ReasonLost, Message: "the monitor was killed"}},
		{"reboot", func(string) { e.Reboot() }, engine.Exit{Code: -1, Reason: engine.ReasonHost, Message: "the host was restarted"}},
	} {
		r := run(t, e, c.id, "block")
		e.Await(c.id)
		c.end(c.id)
		x := <-r
		x.Started, x.Ended, x.Used = time.Time{}, time.Time{}, engine.Usage{}
		if x != c.want {
			t.Errorf("%s: got %+v", c.id, x)
		}
	}
	if x := <-run(t, e, "oom", "oom"); !x.OOM || x.Code != 137 {
		t.Errorf("oom: got %+v", x)
	}
	if x := <-run(t, e, "machinery", "fail-machinery"); !strings.Contains(x.Message, "machinery") {
		t.Errorf("machinery: got %+v", x)
	}
}

func TestFailNextAndBlock(t *testing.T) {
	e := fake.New(t, "")
	boom := errors.New("boom")
	e.FailNext("Ensure", boom)
	if err := e.Volumes().Ensure(t.Context(), "v", "o"); !errors.Is(err, boom) {
		t.Errorf("got %v", err)
	}
	release := e.Block("Ensure")
	done := make(chan error)
	go func() { done <- e.Volumes().Ensure(context.Background(), "v", "o") }()
	select {
	case err := <-done:
		t.Errorf("it did not wait: %v", err)
	case <-time.After(20 * time.Millisecond):
	}
	release()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if c := e.Calls(); len(c) != 2 || c[0] != "Ensure v" {
		t.Errorf("calls: %q", c)
	}
}

func TestRegistry(t *testing.T) {
	e := fake.New(t, "")
	d := e.Image("true")
	e.Publish("reg.example/a/b:1", d)
	e.Protect("reg.example", "ann", "right")
	e.Unreachable("gone.example")
	for _, c := range []struct {
		ref, password string
		is            func(error) bool
	}{
		{"reg.example/a/b:1", "right", func(err error) bool { return err == nil }},
		{"reg.example/a/b:1", "wrong", func(err error) bool {
			return errdefs.IsUnauthorized(err) && strings.Contains(err.Error(), "reg.example") && strings.Contains(err.Error(), "ann") && !strings.Contains(err.Error(), "wrong")
		}},
		{"reg.example/a/c:1", "right", errdefs.IsNotFound},
		{"gone.example/a/c:1", "right", errdefs.IsUnavailable},
	} {
		_, err := e.Images().Pull(t.Context(), engine.PullSpec{Ref: c.ref, Logins: []engine.Login{{Host: "reg.example", Username: "ann", Password: c.password}}})
		if !c.is(err) {
			t.Errorf("%s with %s: %v", c.ref, c.password, err)
		}
	}
}
