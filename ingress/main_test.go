package ingress

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// TestMain lets the test binary be the ingress process, as the real program is.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "ingress" {
		os.Exit(Main(os.Args[2:]))
	}
	goleak.VerifyTestMain(m)
}

// until waits for something to become true.
func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("never happened: %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// config is that of a process of this test, on ports of its own.
func config(t testing.TB) Config {
	t.Helper()
	run, err := os.MkdirTemp("", "ing") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(run) })
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return Config{Program: self, DataDir: t.TempDir(), RunDir: run, HTTP: "127.0.0.1:0", HTTPS: "127.0.0.1:0"}
}

func start(t testing.TB, cfg Config) *Process {
	t.Helper()
	p, err := Start(t.Context(), cfg)
	if err != nil {
		t.Fatalf("start: %v\n%s", err, logOf(cfg))
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := p.Stop(ctx); err != nil {
			t.Errorf("stop: %v", err)
		}
		if t.Failed() {
			t.Log(logOf(cfg))
		}
	})
	return p
}

func logOf(cfg Config) string {
	b, _ := os.ReadFile(cfg.DataDir + "/ingress.log")
	return string(b[max(0, len(b)-6000):])
}

// backend is a service of the test; it gives its address.
func backend(t testing.TB, h http.HandlerFunc) netip.AddrPort {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetHTTP1(true)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Start()
	t.Cleanup(s.Close)
	return netip.MustParseAddrPort(s.Listener.Addr().String())
}

func say(text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, text) }
}

// closedPort is an address where nobody listens.
func closedPort(t testing.TB) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return netip.MustParseAddrPort(l.Addr().String())
}

func table(version int64, hosts map[string][]Route) Table {
	t := Table{Version: version, Hosts: map[string]Host{}}
	for h, r := range hosts {
		t.Hosts[h] = Host{Project: "p", Routes: r}
	}
	return t
}

func to(b ...netip.AddrPort) []Route {
	return []Route{{Path: "/", Backends: b, Service: "s", Name: "web"}}
}

func set(t testing.TB, p *Process, tab Table) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := p.Set(ctx, tab); err != nil {
		t.Fatal(err)
	}
}

// client asks every hostname at one address.
func client(t testing.TB, addr string) *http.Client {
	t.Helper()
	tr := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", addr)
		},
		MaxIdleConnsPerHost: 64,
	}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 30 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

func get(t testing.TB, c *http.Client, url string, header ...string) (int, string) {
	t.Helper()
	code, body, err := try(c, url, header...)
	if err != nil {
		t.Fatal(err)
	}
	return code, body
}

func try(c *http.Client, url string, header ...string) (int, string, error) {
	r, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return 0, "", err
	}
	for _, h := range header {
		k, v, _ := strings.Cut(h, ": ")
		r.Header.Set(k, v)
	}
	res, err := c.Do(r)
	if err != nil {
		return 0, "", err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return res.StatusCode, string(b), err
}

func wantGet(t testing.TB, c *http.Client, url string, code int, part string) {
	t.Helper()
	got, body := get(t, c, url)
	if got != code || !strings.Contains(body, part) {
		t.Errorf("%s: %d %q, want %d with %q", url, got, body, code, part)
	}
}

func loopback(n int) netip.Addr {
	return netip.MustParseAddr(fmt.Sprintf("127.83.%d.%d", os.Getpid()%250, n))
}
