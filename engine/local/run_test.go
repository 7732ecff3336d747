package local

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"slipway/engine"
	"slipway/engine/enginetest"
)

func TestRunSays(t *testing.T) {
	b := open(t)
	set := func(f func(*engine.RunSpec)) func(*engine.RunSpec) { return f }
	for _, c := range []struct {
		name   string
		script string
		spec   func(*engine.RunSpec)
		code   int
		out    string // "" is not looked at
		msg    string // part of the message
	}{
		{"a program that is not there", "", set(func(s *engine.RunSpec) { s.Command = []string{"nothing-like-it"} }), 127, "", "nothing-like-it"},
		{"a path that is not there", "", set(func(s *engine.RunSpec) { s.Command = []string{"/no/such"} }), 127, "", "/no/such"},
		{"a file that is no program", "", set(func(s *engine.RunSpec) { s.Command = []string{"/etc/passwd"} }), 126, "", "permission denied"},
		{"a directory", "", set(func(s *engine.RunSpec) { s.Command = []string{"/tmp"} }), 126, "", ""},
		{"a user that is not there", "true", set(func(s *engine.RunSpec) { s.User = "nobody-here" }), 126, "", "nobody-here"},
		{"a user by number", "id -u; id -g", set(func(s *engine.RunSpec) { s.User = "1234:77" }), 0, "1234\n77", ""},
		{"a directory that is not there is made", "pwd; stat -c %u .", set(func(s *engine.RunSpec) { s.Dir = "/a/b"; s.User = "app" }), 0, "/a/b\n1000", ""},
		{"an ended process of its own", "kill -9 $$", set(func(*engine.RunSpec) {}), 0, "", ""},
		{"the host's name", "cat /etc/hostname; hostname 2>/dev/null || cat /proc/sys/kernel/hostname; grep -c localhost /etc/hosts", set(func(*engine.RunSpec) {}), 0, "", ""},
		{"a file for another user", "cat /run/secrets/key; echo x > /run/secrets/key", set(func(s *engine.RunSpec) {
			s.User = "app"
			s.Files = []engine.File{{Path: "/run/secrets/key", Mode: 0o400, Content: []byte("secret\n")}}
		}), 1, "", ""},
		{"later variables count", "echo $PATH $FROM_IMAGE $X", set(func(s *engine.RunSpec) { s.Env = []string{"X=1", "FROM_IMAGE=no", "X=2"} }), 0, "/bin no 2", ""},
	} {
		x, out := b.do(c.script, c.spec)
		if x.Code != c.code || c.out != "" && out != c.out || !strings.Contains(x.Message, c.msg) {
			t.Errorf("%s: %+v %q", c.name, x, out)
		}
		if c.code > 125 && strings.Contains(x.Message, "runc") {
			t.Errorf("%s: %s", c.name, x.Message)
		}
	}
}

func TestRunLimits(t *testing.T) {
	b := open(t)
	x, _ := b.do("head -c 200000000 /dev/zero | /bin/busybox tail -c 190000000 | /bin/busybox wc -c", func(s *engine.RunSpec) {
		s.Limits.Memory = 32 << 20
	})
	if !x.OOM {
		t.Errorf("memory: %+v", x)
	}
	// A first process that eats it itself.
	x, _ = b.do("exec /bin/busybox tail -c 190000000 /dev/zero", func(s *engine.RunSpec) { s.Limits.Memory = 32 << 20 })
	if x.Code != 137 || !x.OOM || x.Reason != "" {
		t.Errorf("memory: %+v", x)
	}
	x, out := b.do("for i in $(seq 30); do sleep 5 & done 2>&1; wait", func(s *engine.RunSpec) { s.Limits.Pids = 10 })
	if !strings.Contains(out, "can't fork") {
		t.Errorf("pids: %+v %q", x, out)
	}
	_, out = b.do("cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us 2>/dev/null || cat /sys/fs/cgroup/cpu.max", func(s *engine.RunSpec) { s.Limits.CPUs = 0.25 })
	if !strings.HasPrefix(out, "25000") {
		t.Errorf("cpu: %q", out)
	}
	_, out = b.do("cat /sys/fs/cgroup/pids/pids.max 2>/dev/null || cat /sys/fs/cgroup/pids.max")
	if out != "4096" {
		t.Errorf("pids by default: %q", out)
	}
}

// TestRunUsage: what a run needed is told, its memory at the peak and what all of
// its processes have computed.
func TestRunUsage(t *testing.T) {
	b := open(t)
	idle, _ := b.do("true")
	if idle.Used.Memory <= 0 || idle.Used.Memory > 64<<20 || idle.Used.CPU <= 0 || idle.Used.CPU > 2*time.Second {
		t.Errorf("nothing is done with %+v", idle.Used)
	}
	id, spec := b.sh("head -c 100000000 /dev/zero | tail -c 90000000 | wc -c; (i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done) & wait")
	busy, err := b.Run(t.Context(), id, spec)
	if err != nil {
		t.Fatal(err)
	}
	if busy.Used.Memory < 90_000_000 || busy.Used.CPU < idle.Used.CPU+50*time.Millisecond {
		t.Errorf("90 MB and a loop are %+v, nothing is %+v", busy.Used, idle.Used)
	}
	b.restart()
	if again, err := b.Run(t.Context(), id, spec); err != nil || again.Used != busy.Used {
		t.Errorf("after a restart %+v, before %+v: %v", again.Used, busy.Used, err)
	}
}

// traces counts what this engine has on the host.
func (b *bench) traces() string {
	b.t.Helper()
	list, err := mounts()
	if err != nil {
		b.t.Fatal(err)
	}
	n := 0
	for _, m := range list {
		if below(m.at, filepath.Join(b.Engine.run, "b")) {
			n++
		}
	}
	procs := len(b.cgroups.procs("/slipway-" + b.inst))
	groups := len(b.cgroups.children(b.workCgroup())) + len(b.cgroups.children(b.serveCgroup()))
	count := func(dir string) int {
		ents, _ := os.ReadDir(dir)
		return len(ents)
	}
	return fmt.Sprintf("mounts %d processes %d cgroups %d states %d bundles %d monitors %d layers %d", n, procs, groups,
		count(b.runcRoot), count(filepath.Join(b.Engine.run, "b")), count(filepath.Join(b.Engine.run, "m")), count(b.path("layers")))
}

const noTraces = "mounts 0 processes 0 cgroups 0 states 0 bundles 0 monitors 0 layers 0"

func TestCancelStubborn(t *testing.T) {
	b := open(t)
	script := `trap '' TERM INT HUP
(trap '' TERM; (trap '' TERM; while true; do sleep 100; done) & while true; do echo noise; done) &
echo begun
while true; do echo more noise; done`
	id, s := b.sh(script, func(s *engine.RunSpec) { s.Grace = time.Second })
	ctx, cancel := context.WithCancelCause(t.Context())
	done := make(chan engine.Exit, 1)
	go func() {
		x, err := b.Run(ctx, id, s)
		if err != nil {
			t.Error(err)
		}
		done <- x
	}()
	until(t, "it makes noise", func() bool {
		st, err := os.Stat(filepath.Join(s.Log, "000000.log"))
		return err == nil && st.Size() > 1<<20
	})
	t0 := time.Now()
	cancel(errors.New("stop"))
	x := <-done
	if took := time.Since(t0); took < s.Grace || took > s.Grace+2*time.Second || x.Code != 137 || x.Reason != engine.ReasonCancel {
		t.Errorf("after %s: %+v", took, x)
	}
	if got := b.traces(); got != noTraces {
		t.Errorf("left: %s", got)
	}
}

func TestDetachAndAttach(t *testing.T) {
	b := open(t)
	v := b.volume("execution/x")
	id, s := b.sh("i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done; sleep 0.5; exit 7", func(s *engine.RunSpec) {
		s.Mounts = []engine.Mount{{Volume: v, Target: "/vol"}}
	})
	ctx, cancel := context.WithCancelCause(t.Context())
	done := make(chan error, 1)
	go func() { _, err := b.Run(ctx, id, s); done <- err }()
	until(t, "it has begun", func() bool { _, err := os.Stat(filepath.Join(s.Log, "000000.log")); return err == nil })
	cancel(engine.ErrDetach)
	if err := <-done; !errors.Is(err, engine.ErrDetach) {
		t.Fatal(err)
	}
	b.restart()
	x, err := b.Run(t.Context(), id, s)
	if err != nil || x.Code != 7 {
		t.Fatalf("%+v %v", x, err)
	}
	lines := enginetest.Lines(t, s.Log, "o")
	for i, l := range lines {
		if l != fmt.Sprintf("line %d", i) {
			t.Fatalf("line %d is %q", i, l)
		}
	}
	if len(lines) != 20000 {
		t.Errorf("%d lines", len(lines))
	}
	until(t, "nothing is left", func() bool { return b.traces() == noTraces })
	// Ended while there was no server.
	id, s = b.sh("sleep 0.3; exit 9")
	ctx, cancel = context.WithCancelCause(t.Context())
	go func() { _, err := b.Run(ctx, id, s); done <- err }()
	until(t, "it runs", func() bool { m := b.monitors.get(runName(id)); return m != nil && m.running() })
	cancel(engine.ErrDetach)
	<-done
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	until(t, "it has ended", func() bool { return readExit(b.monitors.dir(runName(id))) != nil })
	b.reopen()
	if x, err := b.Run(t.Context(), id, s); err != nil || x.Code != 9 || x.Reason != "" {
		t.Errorf("%+v %v", x, err)
	}
	until(t, "nothing is left", func() bool { return b.traces() == noTraces })
}

func TestMonitorIsKilled(t *testing.T) {
	b := open(t)
	id, s := b.sh("sleep 100")
	done := make(chan engine.Exit, 1)
	go func() {
		x, err := b.Run(t.Context(), id, s)
		if err != nil {
			t.Error(err)
		}
		done <- x
	}()
	until(t, "it runs", func() bool { m := b.monitors.get(runName(id)); return m != nil && m.running() })
	_ = unix.Kill(b.monitors.get(runName(id)).child, unix.SIGKILL)
	x := <-done
	if x.Code != -1 || x.Reason != engine.ReasonLost || x.Message == "" {
		t.Errorf("%+v", x)
	}
	until(t, "nothing is left", func() bool { return b.traces() == noTraces })
	// The child and the server, and another one with the boot of the host.
	for _, reason := range []engine.Reason{engine.ReasonLost, engine.ReasonHost} {
		id, s := b.sh("sleep 100")
		ctx, cancel := context.WithCancelCause(t.Context())
		go func() { _, _ = b.Run(ctx, id, s); done <- engine.Exit{} }()
		until(t, "it runs", func() bool { m := b.monitors.get(runName(id)); return m != nil && m.running() })
		mon := b.monitors.get(runName(id))
		cancel(engine.ErrDetach)
		<-done
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
		_ = unix.Kill(mon.child, unix.SIGKILL)
		if reason == engine.ReasonHost {
			rec := mon.record
			rec.Boot = "another"
			if err := b.monitors.write(rec); err != nil {
				t.Fatal(err)
			}
		}
		reap(mon.child)
		b.reopen()
		x, err := b.Run(t.Context(), id, s)
		if err != nil || x.Reason != reason || x.Code != -1 {
			t.Errorf("%+v %v", x, err)
		}
		until(t, "nothing is left", func() bool { return b.traces() == noTraces })
	}
}

func TestManyAtOnce(t *testing.T) {
	b := open(t)
	var wg sync.WaitGroup
	for i := range 24 {
		wg.Go(func() {
			x, out := b.do(fmt.Sprintf("echo %d; exit %d", i, i))
			if x.Code != i || out != fmt.Sprint(i) {
				t.Errorf("%d: %+v %q", i, x, out)
			}
		})
	}
	wg.Wait()
	until(t, "nothing is left", func() bool { return b.traces() == noTraces })
	if n := len(b.net.pool.busy); n > poolKeep {
		t.Errorf("the pool has %d namespaces", n)
	}
}

// Whoever a container runs as may write to what it owns, also what others have
// made there before.
func TestOwn(t *testing.T) {
	b := open(t)
	v := b.volume("execution/own")
	mount := []engine.Mount{{Volume: v, Target: "/vol", Own: true}, {Volume: v, Path: "sub", Target: "/sub", Own: true}}
	for i, user := range []string{"", "4321", "5432:10", "", "4321"} {
		id, s := b.sh("mkdir -p /vol/d && echo $(id -u) >> /vol/d/who && echo x >> /sub/f && ln -sf /etc/passwd /vol/link", func(s *engine.RunSpec) {
			s.Mounts, s.User = mount, user
		})
		if x, err := b.Run(t.Context(), id, s); err != nil || x.Code != 0 {
			t.Fatalf("%d as %q: %+v %v", i, user, x, err)
		}
	}
	dir, err := b.Dir(t.Context(), v)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(dir, "d", "who")); err != nil || string(got) != "0\n4321\n5432\n0\n4321\n" {
		t.Errorf("%q %v", got, err)
	}
	id, s := b.sh("echo x > /vol/x", func(s *engine.RunSpec) {
		s.Mounts, s.User = []engine.Mount{{Volume: v, Target: "/vol", Own: true, ReadOnly: true}}, "5432"
	})
	if x, err := b.Run(t.Context(), id, s); err != nil || x.Code == 0 {
		t.Errorf("%+v %v", x, err)
	}
	if i, err := os.Lstat(filepath.Join(dir, "d")); err != nil || owner(i).Uid != 4321 {
		t.Errorf("a mount that is only read has another owner: %v", err)
	}
}

func TestExport(t *testing.T) {
	b := open(t)
	v := b.volume("execution/x")
	id, s := b.sh("echo new > /etc/new; rm /etc/group; ln -s /etc/passwd /link; exit 4", func(s *engine.RunSpec) {
		s.Export = &engine.VolumePath{Volume: v, Path: "deep/out.tar"}
		s.Mounts = []engine.Mount{{Volume: v, Target: "/vol"}}
	})
	x, err := b.Run(t.Context(), id, s)
	if err != nil || x.Code != 4 {
		t.Fatalf("%+v %v", x, err)
	}
	check := func() {
		t.Helper()
		dir, _ := b.Dir(t.Context(), v)
		f, err := os.Open(filepath.Join(dir, "deep", "out.tar"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		got := map[string]string{}
		tr := tar.NewReader(f)
		for {
			h, err := tr.Next()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(tr)
			got[h.Name] = string(body) + h.Linkname
		}
		_, group := got["etc/group"]
		if got["etc/new"] != "new\n" || group || got["link"] != "/etc/passwd" || got["bin/sh"] != "busybox" || got["deep/out.tar"] != "" {
			t.Errorf("%d entries: %q %v %q", len(got), got["etc/new"], group, got["link"])
		}
		ents, _ := os.ReadDir(filepath.Join(dir, "deep"))
		if len(ents) != 1 {
			t.Errorf("%v", ents)
		}
	}
	check()
	// The place is a directory at first: the call fails, and the next one, with
	// another server, does what is left.
	dir, _ := b.Dir(t.Context(), v)
	_ = os.Remove(filepath.Join(dir, "deep", "out.tar"))
	id, s2 := b.sh("echo new > /etc/new; rm /etc/group; ln -s /etc/passwd /link; exit 4")
	s2.Export = s.Export
	if err := os.MkdirAll(filepath.Join(dir, "deep", "out.tar", "x"), 0o755); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := b.Run(t.Context(), id, s2); err == nil {
			t.Error("no error")
		}
		b.restart()
	}
	_ = os.RemoveAll(filepath.Join(dir, "deep", "out.tar"))
	if x, err := b.Run(t.Context(), id, s2); err != nil || x.Code != 4 {
		t.Errorf("%+v %v", x, err)
	}
	check()
	until(t, "nothing is left", func() bool { return b.traces() == noTraces })
}

func TestSecretsAreNotOnDisk(t *testing.T) {
	b := open(t)
	secret := []byte("very-secret-4711")
	id, s := b.sh("echo $KEY; cat /key; sleep 0.2", func(s *engine.RunSpec) {
		s.Env = []string{"KEY=" + string(secret)}
		s.Files = []engine.File{{Path: "/key", Content: secret}}
		s.Mask = [][]byte{secret}
	})
	done := make(chan struct{})
	go func() { defer close(done); _, _ = b.Run(t.Context(), id, s) }()
	until(t, "it runs", func() bool { m := b.monitors.get(runName(id)); return m != nil && m.running() })
	look := func(dir string) {
		_ = filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return nil
			}
			if c, err := os.ReadFile(p); err == nil && bytes.Contains(c, secret) {
				t.Errorf("it is in %s", p)
			}
			return nil
		})
	}
	look(b.dir)
	look(b.logs)
	<-done
	look(b.dir)
	look(b.logs)
	var st unix.Statfs_t
	if err := unix.Statfs(b.Engine.run, &st); err != nil || st.Type != unix.TMPFS_MAGIC {
		t.Errorf("the run directory is not in memory: %x %v", st.Type, err)
	}
}
