package ingress

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/net/websocket"
)

func TestServesATable(t *testing.T) {
	t.Parallel()
	p := start(t, config(t))
	addr, _ := p.Addrs()
	c := client(t, addr)
	wantGet(t, c, "http://a.example/", 404, "a.example")
	web, api := backend(t, say("web")), backend(t, say("api"))
	set(t, p, table(1, map[string][]Route{"a.example": {
		{Path: "/api", Backends: to(api)[0].Backends},
		{Path: "/old", Redirect: "https://b.example/x"},
		{Path: "/page", Page: true},
		{Path: "/off", Why: "the service is not running", Name: "worker"},
		{Path: "/", Backends: to(web)[0].Backends},
	}}))
	wantGet(t, c, "http://a.example/", 200, "web")
	wantGet(t, c, "http://A.EXAMPLE.:80/apix", 200, "web")
	wantGet(t, c, "http://a.example/api", 200, "api")
	wantGet(t, c, "http://a.example/api/x?y=1", 200, "api")
	wantGet(t, c, "http://a.example/old", 307, "")
	wantGet(t, c, "http://a.example/page", 200, "Nothing is hosted")
	wantGet(t, c, "http://a.example/off", 503, "worker")
	code, body := get(t, c, "http://a.example/off", "Accept: application/json")
	if code != 503 || !strings.HasPrefix(body, `{"errors":[{"status":503`) || !strings.Contains(body, "not running") {
		t.Errorf("json page: %d %s", code, body)
	}
	m, err := p.Metrics(t.Context())
	if err != nil || m.Hosts["a.example"].Status[200] < 5 || m.Hosts[""].Status[404] != 1 {
		t.Errorf("metrics: %+v, %v", m, err)
	}
	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(p.Collector())
	if fams, err := reg.Gather(); err != nil || len(fams) < 5 {
		t.Errorf("gather: %d families, %v", len(fams), err)
	}
}

func TestKilledProcessComesBack(t *testing.T) {
	t.Parallel()
	p := start(t, config(t))
	addr, _ := p.Addrs()
	set(t, p, table(1, map[string][]Route{"a.example": to(backend(t, say("web")))}))
	for range 3 {
		pid := p.PID()
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		begun := time.Now()
		c := client(t, addr)
		until(t, "it answers again", func() bool {
			code, body, err := try(c, "http://a.example/")
			return err == nil && code == 200 && body == "web"
		})
		if d := time.Since(begun); d > 5*time.Second {
			t.Errorf("back after %s", d)
		}
		until(t, "it is known", func() bool { return p.PID() != pid && p.PID() != 0 })
	}
	set(t, p, table(2, map[string][]Route{"b.example": to(backend(t, say("other")))}))
	wantGet(t, client(t, addr), "http://b.example/", 200, "other")
}

func TestSetWaitsForTheNextProcess(t *testing.T) {
	t.Parallel()
	p := start(t, config(t))
	addr, _ := p.Addrs()
	b := backend(t, say("web"))
	for i := range 5 {
		if err := syscall.Kill(p.PID(), syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			t.Fatal(err)
		}
		host := fmt.Sprintf("h%d.example", i)
		set(t, p, table(int64(i), map[string][]Route{host: to(b)}))
		until(t, "the table is served", func() bool {
			code, _, err := try(client(t, addr), "http://"+host+"/")
			return err == nil && code == 200
		})
	}
}

func TestTakeover(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	p := start(t, cfg)
	addr, _ := p.Addrs()
	set(t, p, table(1, map[string][]Route{"a.example": to(backend(t, say("web")))}))
	pid := p.PID()
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	wantGet(t, client(t, addr), "http://a.example/", 200, "web")
	if err := p.Set(t.Context(), Table{}); err == nil {
		t.Error("set after close")
	}
	q := start(t, cfg)
	if q.PID() != pid {
		t.Errorf("a new process %d, want %d", q.PID(), pid)
	}
	if a, _ := q.Addrs(); a != addr {
		t.Errorf("address %s, want %s", a, addr)
	}
	wantGet(t, client(t, addr), "http://a.example/", 200, "web")
}

func TestLastTableIsServedWithoutServe(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	p := start(t, cfg)
	set(t, p, table(1, map[string][]Route{"a.example": to(backend(t, say("web")))}))
	_ = p.Close()
	if err := syscall.Kill(p.PID(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	until(t, "it is gone", func() bool { return gone(p.PID()) })
	p.reap()
	q := start(t, cfg)
	addr, _ := q.Addrs()
	wantGet(t, client(t, addr), "http://a.example/", 200, "web")
}

func TestTwoStartsAtOnce(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	var wg sync.WaitGroup
	got := make([]*Process, 4)
	for i := range got {
		wg.Go(func() {
			var err error
			if got[i], err = Start(context.Background(), cfg); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, p := range got {
		if p == nil {
			return
		}
		if p.PID() != got[0].PID() {
			t.Errorf("processes %d and %d", p.PID(), got[0].PID())
		}
	}
	for _, p := range got[1:] {
		_ = p.Close()
		p.children = nil
	}
	for _, p := range got {
		if err := p.Stop(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

func TestTakenPort(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	cfg := config(t)
	cfg.HTTPS = l.Addr().String()
	_, port, _ := net.SplitHostPort(cfg.HTTPS)
	p, err := Start(t.Context(), cfg)
	if err == nil {
		_ = p.Stop(t.Context())
		t.Fatal("started")
	}
	if !strings.Contains(err.Error(), "port "+port) || !strings.Contains(err.Error(), "--ingress-https") {
		t.Errorf("error does not name the port: %v", err)
	}
	if _, err := os.Stat(socketPath(cfg.RunDir)); !os.IsNotExist(err) {
		t.Errorf("a socket is left: %v", err)
	}
}

// TestHandoverUnderLoad replaces the process again and again while requests
// run on fresh and on kept connections, and wants not one of them to fail.
func TestHandoverUnderLoad(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	cfg.build = "build-0"
	p := start(t, cfg)
	addr, secure := p.Addrs()
	zone := Zone{Network: "n", Listen: loopback(9), Names: map[string]addrs{"db": {loopback(9)}}}
	tab := table(1, map[string][]Route{"a.example": to(backend(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		_, _ = w.Write(b)
		_, _ = io.WriteString(w, "web")
	}))})
	tab.Zones = []Zone{zone}
	set(t, p, tab)
	ws, err := dialWebSocket(addr, "a.example")
	_ = ws
	if err == nil {
		t.Fatal("the echo backend of this test is no WebSocket")
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	trust := roots(t, p)
	var n, failed atomic.Int64
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			c, url := client(t, addr), "http://a.example/"
			c.Transport.(*http.Transport).DisableKeepAlives = i%2 == 0
			if i >= 6 { // HTTP/2 over TLS
				c, url = client(t, secure), "https://a.example/"
				c.Transport.(*http.Transport).TLSClientConfig = &tls.Config{RootCAs: trust}
				c.Transport.(*http.Transport).ForceAttemptHTTP2 = true
			}
			for ctx.Err() == nil {
				code, body, err := post(c, url, strings.Repeat("x", 1000*i))
				if err != nil || code != 200 || len(body) != 1000*i+3 {
					failed.Add(1)
					t.Errorf("request %d: %d, %d bytes, %v", n.Load(), code, len(body), err)
				}
				n.Add(1)
			}
		})
	}
	for i := range 4 {
		before := n.Load()
		until(t, "requests run", func() bool { return n.Load() > before+200 })
		_ = p.Close()
		old := p.PID()
		cfg.build = fmt.Sprintf("build-%d", i+1)
		p = start(t, cfg)
		if p.PID() == old {
			t.Error("the process was not replaced")
		}
		if a, _ := p.Addrs(); a != addr {
			t.Errorf("address %s, want %s", a, addr)
		}
		if got := lookup(t, "udp", zone.Listen, "db.", 1); len(got.Answer) != 1 {
			t.Errorf("dns after the handover: %v", got)
		}
	}
	before := n.Load()
	until(t, "requests run", func() bool { return n.Load() > before+200 })
	cancel()
	wg.Wait()
	t.Logf("%d requests, %d failed", n.Load(), failed.Load())
}

func post(c *http.Client, url, body string) (int, string, error) {
	res, err := c.Post(url, "text/plain", strings.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return res.StatusCode, string(b), err
}

func dialWebSocket(addr, host string) (*websocket.Conn, error) {
	cfg, err := websocket.NewConfig("ws://"+host+"/", "http://"+host+"/")
	if err != nil {
		return nil, err
	}
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	ws, err := websocket.NewClient(cfg, c)
	if err != nil {
		_ = c.Close()
	}
	return ws, err
}

// TestHandoverKeepsWebSockets replaces the process under an open WebSocket and
// a long answer; both go on in the old process, which then ends.
func TestHandoverKeepsWebSockets(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	cfg.build = "old"
	p := start(t, cfg)
	addr, _ := p.Addrs()
	echo := websocket.Server{Handler: func(c *websocket.Conn) { _, _ = io.Copy(c, c) }}
	goOn := make(chan struct{})
	set(t, p, table(1, map[string][]Route{
		"ws.example": to(backend(t, echo.ServeHTTP)),
		"slow.example": to(backend(t, func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, "first,")
			_ = http.NewResponseController(w).Flush()
			<-goOn
			_, _ = io.WriteString(w, "last")
		})),
	}))
	ws, err := dialWebSocket(addr, "ws.example")
	if err != nil {
		t.Fatal(err)
	}
	defer ws.Close()
	ping := func(text string) {
		t.Helper()
		if _, err := ws.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 100)
		if n, err := ws.Read(b); err != nil || string(b[:n]) != text {
			t.Fatalf("echo %q, %v", b[:n], err)
		}
	}
	ping("one")
	res, err := client(t, addr).Get("http://slow.example/")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	part := make([]byte, 6)
	if _, err := io.ReadFull(res.Body, part); err != nil || string(part) != "first," {
		t.Fatalf("no streaming: %q, %v", part, err)
	}
	old := p.PID()
	_ = p.Close()
	cfg.build = "new"
	q := start(t, cfg)
	ping("two")
	close(goOn)
	if rest, err := io.ReadAll(res.Body); err != nil || string(rest) != "last" {
		t.Errorf("rest %q, %v", rest, err)
	}
	ping("three")
	if gone(old) {
		t.Error("the old process did not wait")
	}
	_ = ws.Close()
	until(t, "the old process ends", func() bool { return gone(old) })
	if gone(q.PID()) {
		t.Error("the new process ended")
	}
	p.reap()
}

func TestFailedHandoverChangesNothing(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	p := start(t, cfg)
	addr, _ := p.Addrs()
	set(t, p, table(1, map[string][]Route{"a.example": to(backend(t, say("web")))}))
	_ = p.Close()
	// a successor that dies with the sockets in its hands
	c, err := dialControl(t.Context(), cfg.RunDir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.call(t.Context(), request{Op: "handover"}); err != nil {
		t.Fatal(err)
	}
	if err := writeLine(c.conn, request{V: protocol, Op: "send"}); err != nil {
		t.Fatal(err)
	}
	got, err := receiveSockets(c.conn)
	if err != nil || got[sockHTTP] == nil || got[sockHTTPS] == nil || got[sockLock] == nil {
		t.Fatalf("sockets %v, %v", got, err)
	}
	closeFiles(got)
	c.close()
	wantGet(t, client(t, addr), "http://a.example/", 200, "web")
	// one that cannot listen
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	bad := cfg
	bad.HTTP = l.Addr().String()
	if _, err := Start(t.Context(), bad); err == nil || !strings.Contains(err.Error(), "is taken") {
		t.Errorf("start on a taken port: %v", err)
	}
	wantGet(t, client(t, addr), "http://a.example/", 200, "web")
	q := start(t, cfg)
	if q.PID() != p.PID() {
		t.Error("not the same process")
	}
}

func TestTableSwapUnderLoad(t *testing.T) {
	t.Parallel()
	p := start(t, config(t))
	addr, _ := p.Addrs()
	a, b := backend(t, say("a")), backend(t, say("b"))
	set(t, p, table(0, map[string][]Route{"x.example": to(a)}))
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var n atomic.Int64
	for range 4 {
		wg.Go(func() {
			c := client(t, addr)
			for ctx.Err() == nil {
				if code, body, err := try(c, "http://x.example/"); err != nil || code != 200 || body != "a" && body != "b" {
					t.Errorf("%d %q %v", code, body, err)
				}
				n.Add(1)
			}
		})
	}
	for i := int64(1); i <= 200; i++ {
		l := to(a)
		if i%2 == 0 {
			l = to(b)
		}
		set(t, p, table(i, map[string][]Route{"x.example": l}))
		if _, body := get(t, client(t, addr), "http://x.example/"); body != map[bool]string{true: "b", false: "a"}[i%2 == 0] {
			t.Fatalf("table %d is not served when Set returns: %q", i, body)
		}
	}
	cancel()
	wg.Wait()
	t.Logf("%d requests", n.Load())
}

func TestControlRefuses(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	p := start(t, cfg)
	for _, c := range []struct {
		q    request
		part string
	}{
		{request{Op: "set"}, "without a table"},
		{request{Op: "dance"}, "unknown op"},
		{request{V: 9, Op: "set", Table: &Table{}}, "protocol 9"},
	} {
		if _, err := ask(t.Context(), cfg.RunDir, c.q); err == nil || !strings.Contains(err.Error(), c.part) {
			t.Errorf("%+v: %v", c.q, err)
		}
	}
	if _, err := ask(t.Context(), cfg.RunDir, request{V: 9, Op: "hello"}); err != nil {
		t.Errorf("hello of another protocol: %v", err)
	}
	c, err := net.Dial("unix", socketPath(cfg.RunDir))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, _ = io.WriteString(c, "{nonsense\n")
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("after nonsense: %v", err)
	}
	st, err := os.Stat(socketPath(cfg.RunDir))
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("socket %v %v", st.Mode(), err)
	}
	if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/oom_score_adj", p.PID())); err != nil || strings.TrimSpace(string(b)) != "0" {
		t.Errorf("oom_score_adj %q %v", b, err)
	}
	if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p.PID())); err != nil || !strings.Contains(string(b), cfg.DataDir) {
		t.Errorf("command line %q %v", b, err)
	}
}
