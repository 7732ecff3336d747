package local

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"slipway/engine"
)

// listen answers "open" to who connects.
func listen(t *testing.T, addr string) string {
	t.Helper()
	l, err := net.Listen("tcp4", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte("open\n"))
			_ = c.Close()
		}
	}()
	return l.Addr().String()
}

// reach is a script that says open or shut.
func reach(addr string) string {
	host, port, _ := strings.Cut(addr, ":")
	return fmt.Sprintf("nc -w 1 %s %s </dev/null 2>/dev/null | grep open || echo shut\n", host, port)
}

func TestRunReachesNobody(t *testing.T) {
	b := open(t)
	gw := b.net.gateway()
	hostAddr := ""
	addrs, _ := net.InterfaceAddrs()
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && n.IP.To4() != nil && !n.IP.IsLoopback() && !strings.HasPrefix(n.IP.String(), "10.") {
			hostAddr = n.IP.String()
		}
	}
	svc := b.serve("project-a", "while true; do echo open | nc -l -p 80; done")
	targets := map[string]string{
		"the host's loopback":  listen(t, "127.0.0.1:0"),
		"the gateway":          listen(t, gw+":0"),
		"the metadata address": "169.254.169.254:80",
		"a service":            svc.Addr.String() + ":80",
	}
	if hostAddr != "" {
		targets["another address of the host"] = listen(t, hostAddr+":0")
	}
	// From here it is open, else the test says nothing.
	until(t, "the service answers the host", func() bool {
		c, err := net.DialTimeout("tcp", targets["a service"], time.Second)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})
	for what, addr := range targets {
		if _, out := b.do(reach(addr)); out != "shut" {
			t.Errorf("%s (%s): %q", what, addr, out)
		}
	}
	// A run in the network of the service does reach it.
	_, out := b.do(reach(targets["a service"]), func(s *engine.RunSpec) { s.Network = "project-a" })
	if out != "open" {
		t.Errorf("a run in its network: %q", out)
	}
	other := b.serve("project-b", "sleep 1000")
	for _, addr := range []string{targets["a service"], targets["the gateway"]} {
		code, text := b.exec(other.ID, reach(addr))
		if code != 0 || text != "shut" {
			t.Errorf("a service of another project, to %s: %d %q", addr, code, text)
		}
	}
}

func TestRunsDoNotReachEachOther(t *testing.T) {
	b := open(t)
	id, s := b.sh("ip addr show eth0; while true; do echo open | nc -l -p 80; done")
	ctx, cancel := context.WithCancelCause(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = b.Run(ctx, id, s)
	}()
	var addr string
	until(t, "the run runs", func() bool {
		mon := b.monitors.get(runName(id))
		if mon == nil {
			return false
		}
		addr = b.net.address("", mon.Slot).String() + ":80"
		c, err := net.DialTimeout("tcp", addr, time.Second)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})
	if _, out := b.do(reach(addr)); out != "shut" {
		t.Errorf("straight: %q", out)
	}
	// By way of the gateway, with a route of its own it could not make anyway.
	if _, out := b.do("ip route add " + strings.Split(addr, ":")[0] + " via " + b.net.gateway() + " 2>&1; " + reach(addr)); !strings.HasSuffix(out, "shut") {
		t.Errorf("by the gateway: %q", out)
	}
	cancel(errCancelled)
	<-done
}

func TestNetworkNone(t *testing.T) {
	b := open(t)
	_, out := b.do("ip -o link | grep -c .; ip -o addr show lo | grep -c 127.0.0.1", func(s *engine.RunSpec) { s.Network = "none" })
	if !strings.HasSuffix(out, "1") || strings.Contains(out, "eth0") {
		t.Errorf("%q", out)
	}
}

func TestNoVersion6(t *testing.T) {
	b := open(t)
	_, out := b.do("cat /proc/net/if_inet6 | grep -c . ; cat /proc/sys/net/ipv6/conf/eth0/disable_ipv6")
	if out != "0\n1" {
		t.Errorf("%q", out)
	}
	br, err := os.ReadFile(filepath.Join("/proc/sys/net/ipv6/conf", b.net.bridgeName(0), "disable_ipv6"))
	if err == nil && strings.TrimSpace(string(br)) != "1" {
		t.Errorf("the bridge: %s", br)
	}
}

func TestProcessIsConfined(t *testing.T) {
	b := open(t)
	script := `exec 2>/dev/null
grep -E '^(NoNewPrivs|Seccomp|CapEff):' /proc/self/status | tr -d '\t'
cat /proc/self/oom_score_adj
mount -t tmpfs x /tmp && echo mounted
echo 1 > /proc/sys/vm/swappiness && echo wrote
echo 1 > /sys/kernel/mm/ksm/run && echo wrote
head -c1 /proc/kcore | wc -c
true`
	x, out := b.do(strings.NewReplacer("mount", "/bin/busybox mount", "tr ", "/bin/busybox tr ", "wc ", "/bin/busybox wc ").Replace(script))
	if x.Code != 0 || out != "CapEff:00000000a80425fb\nNoNewPrivs:0\nSeccomp:2\n900\n0" {
		t.Errorf("%+v\n%s", x, out)
	}
	_, out = b.do("grep NoNewPrivs /proc/self/status", func(s *engine.RunSpec) { s.NoNewPrivileges = true })
	if out != "NoNewPrivs:\t1" {
		t.Errorf("%q", out)
	}
	_, out = b.do("id -u; id -g; grep CapEff /proc/self/status; echo $HOME", func(s *engine.RunSpec) { s.User = "app" })
	if out != "1000\n1000\nCapEff:\t0000000000000000\n/" {
		t.Errorf("%q", out)
	}
}

// TestOwnFilesAreBounded has a container write to the files of /etc that are in
// the server's memory.
func TestOwnFilesAreBounded(t *testing.T) {
	b := open(t)
	i := b.serve("p", answers)
	before := free(t, b.Engine.run)
	_, out := b.exec(i.ID, `echo 10.0.0.1 other >> /etc/hosts && grep -c other /etc/hosts
for f in hosts hostname resolv.conf; do head -c 30000000 /dev/zero 2>/dev/null >> /etc/$f || echo full; done`)
	if out != "1\nfull\nfull\nfull" {
		t.Errorf("%q", out)
	}
	if gone := before - free(t, b.Engine.run); gone > 2*etcMax {
		t.Errorf("%d bytes of the server's memory are gone", gone)
	}
	if i = b.serve("p", answers); i.State != engine.Running {
		t.Errorf("the next one: %+v", i)
	}
}

// free is the room of a file system in bytes.
func free(t testing.TB, dir string) int64 {
	t.Helper()
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		t.Fatal(err)
	}
	return int64(st.Bavail) * st.Bsize
}

// serve starts a service with a script.
func (b *bench) serve(network, script string, more ...func(*engine.ServiceSpec)) engine.Instance {
	b.t.Helper()
	id := b.id("svc")
	owner := engine.Owner("stack/" + network)
	s := engine.ServiceSpec{
		ID: id, Service: "service-" + id, Hash: "h", Workspace: "w", Network: network, Name: "web", Image: b.base,
		Command: []string{"/bin/sh", "-c", script}, Log: filepath.Join(b.logs, id), StopGrace: 300 * time.Millisecond,
	}
	for _, f := range more {
		f(&s)
	}
	if err := b.Apply(context.Background(), owner, engine.Change{Start: &s}); err != nil {
		b.t.Fatal(err)
	}
	return b.instance(owner, id)
}

func (b *bench) instance(owner engine.Owner, id string) engine.Instance {
	b.t.Helper()
	l, err := b.Observe(context.Background(), owner)
	if err != nil {
		b.t.Fatal(err)
	}
	for _, i := range l {
		if i.ID == id {
			return i
		}
	}
	b.t.Fatalf("no instance %s in %+v", id, l)
	return engine.Instance{}
}

// exec runs a script in a container.
func (b *bench) exec(id, script string) (int, string) {
	b.t.Helper()
	var out strings.Builder
	code, err := b.Exec(context.Background(), id, engine.ExecSpec{Command: []string{"/bin/sh", "-c", script}, Stdout: &out, Stderr: &out})
	if err != nil {
		b.t.Fatal(err)
	}
	return code, strings.TrimSpace(out.String())
}
