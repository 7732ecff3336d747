package enginetest

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"slipway/engine"
)

// same tells if two exits are the same one.
func same(a, b engine.Exit) bool {
	return a.Used == b.Used && a.Started.Equal(b.Started) && a.Ended.Equal(b.Ended) && a.Code == b.Code && a.Reason == b.Reason && a.Signal == b.Signal
}

func (s *suite) runs(t *testing.T) {
	t.Run("a non-zero exit is a result", func(t *testing.T) {
		id, spec := s.sh(t, "exit 3")
		before := time.Now()
		x, err := s.Engine.Run(t.Context(), id, spec)
		s.ok(t, err)
		if x.Code != 3 || x.Reason != "" || x.OOM || x.Signal != 0 {
			t.Errorf("got %+v", x)
		}
		if x.Used.Memory <= 0 || x.Used.CPU <= 0 || x.Used.CPU > 10*time.Second {
			t.Errorf("it has used %+v", x.Used)
		}
		if x.Started.Before(before.Add(-time.Second)) || x.Ended.Before(x.Started) || x.Ended.After(time.Now()) {
			t.Errorf("times %s %s", x.Started, x.Ended)
		}
	})
	t.Run("the log is there when the call has ended", func(t *testing.T) {
		id, spec := s.sh(t, "echo hello; echo oops >&2; echo bye")
		_, err := s.Engine.Run(t.Context(), id, spec)
		s.ok(t, err)
		if got := Lines(t, spec.Log, "o"); !slices.Equal(got, []string{"hello", "bye"}) {
			t.Errorf("stdout: %q", got)
		}
		if got := Lines(t, spec.Log, "e"); !slices.Equal(got, []string{"oops"}) {
			t.Errorf("stderr: %q", got)
		}
	})
	t.Run("a missing program is a result", func(t *testing.T) {
		id, spec := s.sh(t, "")
		spec.Command = []string{"/bin/missing-program"}
		x, err := s.Engine.Run(t.Context(), id, spec)
		s.ok(t, err)
		if x.Code != 127 || !strings.Contains(x.Message, "/bin/missing-program") {
			t.Errorf("got %+v", x)
		}
	})
	t.Run("a repeated call gives the same exit", func(t *testing.T) {
		id, spec := s.sh(t, "echo once >> /vol/n; exit 4")
		a, err := s.Engine.Run(t.Context(), id, spec)
		s.ok(t, err)
		b, err := s.Engine.Run(t.Context(), id, spec)
		s.ok(t, err)
		if !same(a, b) || s.file(t, spec.Mounts[0].Volume, "n") != "once\n" {
			t.Errorf("%+v, then %+v; it ran: %q", a, b, s.file(t, spec.Mounts[0].Volume, "n"))
		}
		if got := Lines(t, spec.Log, "o"); len(got) > 0 {
			t.Errorf("log: %q", got)
		}
	})
	t.Run("a second call attaches", func(t *testing.T) {
		id, spec := s.sh(t, "echo once >> /vol/n; sleep 0.5; exit 5")
		a, b := s.start(t.Context(), id, spec), s.start(t.Context(), id, spec)
		ra, rb := <-a, <-b
		s.ok(t, errors.Join(ra.err, rb.err))
		if !same(ra.exit, rb.exit) || ra.exit.Code != 5 || s.file(t, spec.Mounts[0].Volume, "n") != "once\n" {
			t.Errorf("%+v and %+v; it ran: %q", ra.exit, rb.exit, s.file(t, spec.Mounts[0].Volume, "n"))
		}
	})
	s.runEnds(t)
	s.runSpecs(t)
}

// begun waits until a script that wrote /vol/begun has.
func (s *suite) begun(t testing.TB, spec engine.RunSpec) {
	t.Helper()
	until(t, "the run has begun", func() bool { return s.file(t, spec.Mounts[0].Volume, "begun") != "" })
}

func (s *suite) runEnds(t *testing.T) {
	t.Run("ErrDetach leaves it running", func(t *testing.T) {
		id, spec := s.sh(t, "echo x >> /vol/begun; sleep 0.6; exit 6")
		ctx, cancel := context.WithCancelCause(t.Context())
		r := s.start(ctx, id, spec)
		s.begun(t, spec)
		within(t, time.Second, "detaching", func() {
			cancel(engine.ErrDetach)
			if got := <-r; !errors.Is(got.err, engine.ErrDetach) {
				t.Errorf("the error is %v", got.err)
			}
		})
		x, err := s.Engine.Run(t.Context(), id, spec)
		s.ok(t, err)
		if x.Code != 6 || s.file(t, spec.Mounts[0].Volume, "begun") != "x\n" {
			t.Errorf("%+v; it ran: %q", x, s.file(t, spec.Mounts[0].Volume, "begun"))
		}
	})
	t.Run("any other cause ends it", func(t *testing.T) {
		id, spec := s.sh(t, "echo x > /vol/begun; sleep 60; echo late > /vol/late")
		ctx, cancel := context.WithCancelCause(t.Context())
		r := s.start(ctx, id, spec)
		s.begun(t, spec)
		cancel(errStop)
		got := <-r
		s.ok(t, got.err)
		if got.exit.Reason != engine.ReasonCancel || got.exit.Code == 0 {
			t.Errorf("got %+v", got.exit)
		}
		again, err := s.Engine.Run(t.Context(), id, spec)
		s.ok(t, err)
		if !same(got.exit, again) || s.file(t, spec.Mounts[0].Volume, "late") != "" {
			t.Errorf("%+v, then %+v", got.exit, again)
		}
	})
	t.Run("who ignores the signal is killed after the grace", func(t *testing.T) {
		id, spec := s.sh(t, "trap '' TERM; echo x > /vol/begun; sleep 60")
		ctx, cancel := context.WithCancelCause(t.Context())
		r := s.start(ctx, id, spec)
		s.begun(t, spec)
		t0 := time.Now()
		cancel(errStop)
		got := <-r
		s.ok(t, got.err)
		took := time.Since(t0)
		if got.exit.Code != 137 || got.exit.Signal != 9 || got.exit.Reason != engine.ReasonCancel || took < spec.Grace || took > spec.Grace+5*time.Second {
			t.Errorf("after %s: %+v", took, got.exit)
		}
	})
	t.Run("its time is over", func(t *testing.T) {
		id, spec := s.sh(t, "sleep 60")
		spec.Timeout = 200 * time.Millisecond
		x, err := s.Engine.Run(t.Context(), id, spec)
		s.ok(t, err)
		if x.Reason != engine.ReasonTimeout || x.Code == 0 {
			t.Errorf("got %+v", x)
		}
	})
	t.Run("a cancelled call starts nothing", func(t *testing.T) {
		id, spec := s.sh(t, "echo x > /vol/begun")
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(errStop)
		if x, err := s.Engine.Run(ctx, id, spec); err == nil && x.Reason != engine.ReasonCancel {
			t.Errorf("got %+v", x)
		}
		if s.file(t, spec.Mounts[0].Volume, "begun") != "" {
			t.Error("it ran")
		}
	})
	t.Run("a restart of the server is an ordinary second call", func(t *testing.T) {
		id, spec := s.sh(t, "echo x >> /vol/begun; sleep 1; exit 7")
		r := s.start(t.Context(), id, spec)
		s.begun(t, spec)
		s.reopen(t)
		if got := <-r; got.err == nil {
			t.Errorf("the old call gave %+v", got.exit)
		}
		x, err := s.Engine.Run(t.Context(), id, spec)
		s.ok(t, err)
		if x.Code != 7 || s.file(t, spec.Mounts[0].Volume, "begun") != "x\n" {
			t.Errorf("%+v; it ran: %q", x, s.file(t, spec.Mounts[0].Volume, "begun"))
		}
		s.reopen(t)
		y, err := s.Engine.Run(t.Context(), id, spec)
		s.ok(t, err)
		if !same(x, y) {
			t.Errorf("%+v, after a restart %+v", x, y)
		}
	})
	t.Run("Forget", func(t *testing.T) {
		id, spec := s.sh(t, "echo x >> /vol/n")
		for range 2 {
			_, err := s.Engine.Run(t.Context(), id, spec)
			s.ok(t, err)
			s.ok(t, s.Engine.Forget(t.Context(), id))
			s.ok(t, s.Engine.Forget(t.Context(), id))
		}
		if got := s.file(t, spec.Mounts[0].Volume, "n"); got != "x\nx\n" {
			t.Errorf("it ran: %q", got)
		}
		s.ok(t, s.Engine.Forget(t.Context(), "never-was"))
	})
}

func (s *suite) runSpecs(t *testing.T) {
	t.Run("secrets are masked", func(t *testing.T) {
		id, spec := s.sh(t, `echo "key is $KEY."`)
		spec.Env = []string{"KEY=geheim-4711"}
		spec.Mask = [][]byte{[]byte("geheim-4711")}
		_, err := s.Engine.Run(t.Context(), id, spec)
		s.ok(t, err)
		if got := Lines(t, spec.Log, "o"); !slices.Equal(got, []string{"key is ***."}) {
			t.Errorf("log: %q", got)
		}
	})
	t.Run("the image says what the spec does not", func(t *testing.T) {
		id, spec := s.sh(t, "")
		spec.Command = nil
		_, err := s.Engine.Run(t.Context(), id, spec)
		s.ok(t, err)
		if got := Lines(t, spec.Log, "o"); !slices.Equal(got, []string{"from the image"}) {
			t.Errorf("log: %q", got)
		}
	})
	t.Run("with an entrypoint the image's command does not count", func(t *testing.T) {
		id, spec := s.sh(t, "")
		spec.Command, spec.Entrypoint = nil, []string{"/bin/echo", "own"}
		_, err := s.Engine.Run(t.Context(), id, spec)
		s.ok(t, err)
		if got := Lines(t, spec.Log, "o"); !slices.Equal(got, []string{"own"}) {
			t.Errorf("log: %q", got)
		}
	})
	t.Run("environment and directory", func(t *testing.T) {
		id, spec := s.sh(t, `echo "$FROM_IMAGE $MINE"; pwd`)
		spec.Env, spec.Dir = []string{"MINE=too"}, "/vol"
		_, err := s.Engine.Run(t.Context(), id, spec)
		s.ok(t, err)
		if got := Lines(t, spec.Log, "o"); !slices.Equal(got, []string{"yes too", "/vol"}) {
			t.Errorf("log: %q", got)
		}
	})
	t.Run("mounts and files", func(t *testing.T) {
		id, spec := s.sh(t, "echo in >> /vol/a; cat /conf/f; echo no > /ro/x; test -e /sub/a; echo sub >> /sub/b")
		v := spec.Mounts[0].Volume
		spec.Mounts = append(spec.Mounts, engine.Mount{Volume: v, Path: "ro", Target: "/ro", ReadOnly: true}, engine.Mount{Volume: v, Path: "/deep/dir", Target: "/sub"})
		spec.Files = []engine.File{{Path: "/conf/f", Mode: 0o600, Content: []byte("file content\n")}}
		_, err := s.Engine.Run(t.Context(), id, spec)
		s.ok(t, err)
		if got := Lines(t, spec.Log, "o"); !slices.Equal(got, []string{"file content"}) {
			t.Errorf("log: %q", got)
		}
		if a, x, b := s.file(t, v, "a"), s.file(t, v, "ro/x"), s.file(t, v, "deep/dir/b"); a != "in\n" || x != "" || b != "sub\n" {
			t.Errorf("in the volume: %q %q %q", a, x, b)
		}
	})
	s.runOutputs(t)
	t.Run("export", func(t *testing.T) {
		id, spec := s.sh(t, "echo made > /tmp/made; exit 9")
		spec.Export = &engine.VolumePath{Volume: spec.Mounts[0].Volume, Path: "out/fs.tar"}
		x, err := s.Engine.Run(t.Context(), id, spec)
		s.ok(t, err)
		if x.Code != 9 {
			t.Errorf("got %+v", x)
		}
		if all := entries(t, strings.NewReader(s.file(t, spec.Mounts[0].Volume, "out/fs.tar"))); all["tmp/made"] != "made\n" {
			t.Errorf("the export has %d entries, tmp/made is %q", len(all), all["tmp/made"])
		}
	})
	t.Run("an image that is not there", func(t *testing.T) {
		id, spec := s.sh(t, "true")
		spec.Image = "sha256:" + strings.Repeat("0", 64)
		if _, err := s.Engine.Run(t.Context(), id, spec); !errdefs.IsNotFound(err) {
			t.Errorf("the error is %v", err)
		}
		spec.Image = s.base
		x, err := s.Engine.Run(t.Context(), id, spec)
		s.ok(t, err)
		if x.Code != 0 {
			t.Errorf("then, with an image: %+v", x)
		}
	})
	t.Run("a volume that is not there", func(t *testing.T) {
		id, spec := s.sh(t, "true")
		spec.Mounts[0].Volume = "never-made"
		if _, err := s.Engine.Run(t.Context(), id, spec); !errdefs.IsNotFound(err) {
			t.Errorf("the error is %v", err)
		}
	})
}

func (s *suite) runOutputs(t *testing.T) {
	run := func(t *testing.T, script string) (id string, spec engine.RunSpec, x engine.Exit) {
		t.Helper()
		id, spec = s.sh(t, script)
		spec.Output, spec.User = "/dev/told", "65534"
		spec.Export = &engine.VolumePath{Volume: spec.Mounts[0].Volume, Path: "out/fs.tar"}
		x, err := s.Engine.Run(t.Context(), id, spec)
		s.ok(t, err)
		return id, spec, x
	}
	t.Run("output", func(t *testing.T) {
		id, spec, x := run(t, "test -f /dev/told || exit 9; echo one > /dev/told; echo two >> /dev/told; exit 3")
		if x.Output != "one\ntwo\n" || x.Code != 3 {
			t.Errorf("got %+v", x)
		}
		if all := entries(t, strings.NewReader(s.file(t, spec.Mounts[0].Volume, "out/fs.tar"))); all["dev/told"] != "" {
			t.Errorf("it is a part of the file system: %q", all["dev/told"])
		}
		for range 2 {
			s.reopen(t)
			again, err := s.Engine.Run(t.Context(), id, spec)
			s.ok(t, err)
			if !same(x, again) || again.Output != "one\ntwo\n" {
				t.Errorf("after a restart: %+v", again)
			}
		}
		s.ok(t, s.Engine.Forget(t.Context(), id))
	})
	t.Run("an output that nothing is written to", func(t *testing.T) {
		if _, _, x := run(t, "true"); len(x.Output) > 0 || x.Code != 0 {
			t.Errorf("got %+v", x)
		}
	})
	t.Run("an output of who is killed", func(t *testing.T) {
		id, spec := s.sh(t, "echo so far > /dev/told; echo x > /vol/begun; sleep 60")
		spec.Output = "/dev/told"
		ctx, cancel := context.WithCancelCause(t.Context())
		r := s.start(ctx, id, spec)
		s.begun(t, spec)
		cancel(errStop)
		got := <-r
		s.ok(t, got.err)
		if got.exit.Output != "so far\n" || got.exit.Reason != engine.ReasonCancel {
			t.Errorf("got %+v", got.exit)
		}
	})
}
