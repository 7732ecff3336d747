package local

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"slipway/engine"
	"slipway/engine/enginetest"
)

// beServer is a server in a process of its own, to be killed: it starts a
// service and a run, says so, and waits.
func beServer(dir, logs, image string) {
	ctx := context.Background()
	fail := func(err error) {
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	}
	e, err := Open(ctx, Options{Dir: dir})
	fail(err)
	fail(e.Apply(ctx, "stack/p", engine.Change{Start: &engine.ServiceSpec{
		ID: "svc", Network: "p", Name: "web", Image: image, Command: []string{"/bin/sh", "-c", answers}, Log: filepath.Join(logs, "svc"),
	}}))
	go func() {
		_, err := e.Run(ctx, "run", engine.RunSpec{
			Owner: "execution/1", Image: image, Command: []string{"/bin/sh", "-c", "echo begun; while ! test -e /vol/go; do sleep 0.02; done; exit 6"},
			Log: filepath.Join(logs, "run"), Mounts: []engine.Mount{{Volume: "v", Target: "/vol"}},
		})
		fail(err)
	}()
	for {
		if m := e.monitors.get(runName("run")); m != nil && m.running() {
			break
		}
		time.Sleep(time.Millisecond)
	}
	fmt.Println("ready")
	select {}
}

// server starts one and waits until it is ready.
func (b *bench) server() *exec.Cmd {
	b.t.Helper()
	cmd := exec.Command(os.Args[0], "be-a-server", b.dir, b.logs, b.base)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.t.Fatal(err)
	}
	if l, _ := bufio.NewReader(out).ReadString('\n'); l != "ready\n" {
		b.t.Fatalf("the server says %q", l)
	}
	return cmd
}

func TestServerIsKilled(t *testing.T) {
	b := open(t)
	v := b.volume("execution/1")
	if err := b.Clone(t.Context(), v, "v", "execution/1"); err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	cmd := b.server()
	if _, err := Open(t.Context(), Options{Dir: b.dir}); err == nil || !strings.Contains(err.Error(), "another server") {
		t.Errorf("a second server: %v", err)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	b.reopen()
	svc := b.instance("stack/p", "svc")
	if svc.State != engine.Running || ask(svc.Addr.String()) == "" {
		t.Errorf("%+v", svc)
	}
	dir, _ := b.Dir(t.Context(), "v")
	if err := os.WriteFile(filepath.Join(dir, "go"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	x, err := b.Run(t.Context(), "run", engine.RunSpec{})
	if err != nil || x.Code != 6 {
		t.Errorf("%+v %v", x, err)
	}
	if got := enginetest.Lines(t, filepath.Join(b.logs, "run"), "o"); !slices.Equal(got, []string{"begun"}) {
		t.Errorf("%q", got)
	}
	for _, o := range []engine.Owner{"stack/p", "execution/1"} {
		if err := b.Engine.Remove(t.Context(), o); err != nil {
			t.Error(err)
		}
	}
	if o, _ := b.Owners(t.Context()); len(o) != 0 {
		t.Errorf("%v", o)
	}
	if got := b.traces(); got != noTraces {
		t.Error(got)
	}
}

// TestSweep makes all that a dead server and a dead child can leave, and looks
// what the next server makes of it.
func TestSweep(t *testing.T) {
	b := open(t)
	svc := b.serve("p", answers)
	keep := b.monitors.get(instanceName(svc.ID))
	id, s := b.sh("sleep 1000")
	ctx, cancel := context.WithCancelCause(t.Context())
	go func() { _, _ = b.Run(ctx, id, s) }()
	until(t, "it runs", func() bool { m := b.monitors.get(runName(id)); return m != nil && m.running() })
	lost := b.monitors.get(runName(id))
	cancel(engine.ErrDetach)
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	// A container whose record is gone altogether.
	_ = unix.Kill(lost.child, unix.SIGKILL)
	reap(lost.child)
	if err := os.RemoveAll(b.monitors.dir(lost.Name)); err != nil {
		t.Fatal(err)
	}
	// A process in a group of nobody, links of nobody, a half-made volume.
	group := b.serveCgroup() + "/i-nobody"
	for _, h := range b.cgroups.hierarchies() {
		_ = os.MkdirAll(filepath.Join(h, group), 0o755)
	}
	stray := exec.Command("sleep", "1000")
	if err := stray.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = stray.Process.Kill() })
	for _, d := range b.cgroups.dirs(group) {
		_ = os.WriteFile(filepath.Join(d, "cgroup.procs"), fmt.Appendf(nil, "%d", stray.Process.Pid), 0)
	}
	strayEnd := make(chan error, 1)
	go func() { strayEnd <- stray.Wait() }()
	link := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "sw" + b.inst[:6] + "-77"}}
	if err := netlink.LinkAdd(link); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{b.path("volumes", ".new-x", "data"), b.path("volumes", ".gone-x"), b.path("layers", "r-old", "u")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	// What the store's unpacking mounts for a moment.
	tmp, err := os.MkdirTemp("", "containerd-mount")
	if err != nil {
		t.Fatal(err)
	}
	low := b.path("core", "low")
	_ = os.MkdirAll(low+"/a", 0o755)
	_ = os.MkdirAll(low+"/b", 0o755)
	if err := unix.Mount("overlay", tmp, "overlay", unix.MS_RDONLY, "lowerdir="+low+"/a:"+low+"/b"); err != nil {
		t.Fatal(err)
	}
	b.reopen()
	if got := b.traces(); got != strings.NewReplacer("mounts 0", "mounts 2", "cgroups 0", "cgroups 1", "states 0", "states 1", "bundles 0", "bundles 1", "monitors 0", "monitors 1", "layers 0", "layers 1", "processes 0", fmt.Sprintf("processes %d", len(b.cgroups.procs(keep.Cgroup)))).Replace(noTraces) {
		t.Errorf("left: %s", got)
	}
	select {
	case <-strayEnd:
	case <-time.After(5 * time.Second):
		t.Error("the stray process lives")
	}
	if _, err := netlink.LinkByName(link.Name); err == nil {
		t.Error("the bridge of nobody is there")
	}
	if _, err := os.Stat(tmp); err == nil {
		t.Error("the store's mount is there")
	}
	vols, _ := os.ReadDir(b.path("volumes"))
	if len(vols) != 0 {
		t.Errorf("%v", vols)
	}
	until(t, "the service answers still", func() bool { return ask(svc.Addr.String()) == "hello" })
	spaces, _ := os.ReadDir(filepath.Join(b.Engine.run, "netns"))
	b.net.pool.filling.Wait()
	if n := len(spaces); n > 1+poolReady {
		t.Errorf("%d namespaces", n)
	}
}

func TestTwoEngines(t *testing.T) {
	a, b := open(t), open(t)
	if a.inst == b.inst || a.net.plan.Bases[0] == b.net.plan.Bases[0] {
		t.Fatalf("%s %s %v %v", a.inst, b.inst, a.net.plan, b.net.plan)
	}
	one, two := a.serve("p", answers), b.serve("p", answers)
	if _, err := b.exec(two.ID, reach(one.Addr.String()+":80")); err != "shut" {
		t.Errorf("across engines: %s", err)
	}
	until(t, "both answer", func() bool { return ask(one.Addr.String()) == "hello" && ask(two.Addr.String()) == "hello" })
	a.restart()
	if err := a.Engine.Remove(t.Context(), "stack/p"); err != nil {
		t.Fatal(err)
	}
	if got := ask(two.Addr.String()); got != "hello" {
		until(t, "the other goes on", func() bool { return ask(two.Addr.String()) == "hello" })
	}
}

// hostTraces are names on the host that begin with those of an instance.
func hostTraces(inst string) (l []string) {
	links, _ := netlink.LinkList()
	for _, k := range links {
		if n := k.Attrs().Name; strings.HasPrefix(n, "sw"+inst[:6]) || strings.HasPrefix(n, "v"+inst[:6]) {
			l = append(l, n)
		}
	}
	list, _ := mounts()
	for _, m := range list {
		if strings.Contains(m.at, inst) {
			l = append(l, m.at)
		}
	}
	groups, _ := filepath.Glob("/sys/fs/cgroup/*/slipway-" + inst)
	l = append(l, groups...)
	run, _ := filepath.Glob("/run/slipway-" + inst)
	l = append(l, run...)
	if out, err := exec.Command("nft", "list", "tables").Output(); err == nil && strings.Contains(string(out), inst) {
		l = append(l, "table")
	}
	return l
}

func TestWipe(t *testing.T) {
	b := open(t)
	v := b.volume("stack/p")
	b.serve("p", answers)
	b.serve("q", "trap '' TERM; sleep 1000")
	id, s := b.sh("sleep 1000")
	go func() { _, _ = b.Run(context.Background(), id, s) }()
	until(t, "it runs", func() bool { m := b.monitors.get(runName(id)); return m != nil && m.running() })
	if len(hostTraces(b.inst)) < 5 {
		t.Fatalf("%v", hostTraces(b.inst))
	}
	if err := b.Wipe(t.Context()); err != nil {
		t.Fatal(err)
	}
	until(t, "nothing is on the host", func() bool { return len(hostTraces(b.inst)) == 0 })
	b.reopen()
	if _, err := b.Dir(t.Context(), v); err != nil {
		t.Error("the volume is gone too:", err)
	}
	if x, _ := b.do("exit 3"); x.Code != 3 {
		t.Errorf("%+v", x)
	}
}
