package ingress

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

func discard() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

// inProcess is a proxy of this process behind a plain listener.
func inProcess(t testing.TB, tab Table, trusted ...netip.Prefix) (*proxy, string) {
	t.Helper()
	p := newProxy(discard(), discard(), trusted)
	p.set(&tab)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := p.server(nil)
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		_ = s.Close()
		<-done
		p.plain.CloseIdleConnections()
		p.h2c.CloseIdleConnections()
	})
	return p, l.Addr().String()
}

func TestForwardedRequest(t *testing.T) {
	t.Parallel()
	b := backend(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Seen", fmt.Sprint(r.Host, "|", r.RequestURI, "|", r.Header.Get("X-Forwarded-For"), "|", r.Header.Get("X-Forwarded-Proto"), "|", r.Header.Get("X-Forwarded-Host"), "|", r.Header.Get("X-Hop"), "|", r.Header.Get("User-Agent")))
		w.Header().Set("Connection", "X-Secret")
		w.Header().Set("X-Secret", "hop")
		w.WriteHeader(201)
	})
	tab := table(1, map[string][]Route{"a.example": to(b)})
	ask := func(addr string) *http.Response {
		t.Helper()
		r, _ := http.NewRequest("GET", "http://a.example:8080/a%2Fb/%20c?x=1;y=%zz&&z", nil)
		r.Header.Set("X-Forwarded-For", "198.51.100.1")
		r.Header.Set("X-Forwarded-Proto", "https")
		r.Header.Set("Connection", "X-Hop")
		r.Header.Set("X-Hop", "1")
		r.Header.Set("User-Agent", "")
		res, err := client(t, addr).Transport.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		return res
	}
	_, addr := inProcess(t, tab)
	res := ask(addr)
	if got, want := res.Header.Get("X-Seen"), "a.example:8080|/a%2Fb/%20c?x=1;y=%zz&&z|127.0.0.1|http|a.example:8080||"; got != want || res.StatusCode != 201 {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if res.Header.Get("X-Secret") != "" {
		t.Error("a hop-by-hop header of the answer came through")
	}
	_, addr = inProcess(t, tab, netip.MustParsePrefix("127.0.0.0/8"))
	if got, want := ask(addr).Header.Get("X-Seen"), "a.example:8080|/a%2Fb/%20c?x=1;y=%zz&&z|198.51.100.1, 127.0.0.1|https|a.example:8080||"; got != want {
		t.Errorf("behind a trusted proxy: got  %s\nwant %s", got, want)
	}
}

func TestAnotherBackendIsTried(t *testing.T) {
	t.Parallel()
	dead := closedPort(t)
	live := backend(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) })
	p, addr := inProcess(t, table(1, map[string][]Route{"a.example": to(dead, live), "dead.example": to(dead)}))
	c := client(t, addr)
	body := strings.Repeat("body", 100_000)
	for range 10 {
		if code, got, err := post(c, "http://a.example/", body); err != nil || code != 200 || got != body {
			t.Fatalf("%d, %d bytes, %v", code, len(got), err)
		}
		p.down.Clear() // and without the memory of who is down
	}
	wantGet(t, c, "http://dead.example/", 502, "takes no connections on port")
	// a backend that takes the request and dies is not followed by another: it
	// may have done its work
	l, err := net.Listen("tcp", "127.0.0.1:0")
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
			_, _ = c.Read(make([]byte, 10))
			_ = c.Close()
		}
	}()
	tab := table(2, map[string][]Route{"half.example": to(netip.MustParseAddrPort(l.Addr().String()))})
	p.set(&tab)
	if code, got, err := post(c, "http://half.example/", "x"); err != nil || code != 502 || !strings.Contains(got, "whole HTTP answer") {
		t.Errorf("%d %s %v", code, got, err)
	}
	for _, secret := range []string{"127.0.0.1", "EOF", "connection"} {
		if _, got, _ := post(c, "http://half.example/", "x"); strings.Contains(got, secret+":") {
			t.Errorf("the page says %q: %s", secret, got)
		}
	}
}

func TestPagesEscape(t *testing.T) {
	t.Parallel()
	_, addr := inProcess(t, table(1, map[string][]Route{"a.example": {{Path: "/only", Page: true}}}))
	c := client(t, addr)
	code, body := get(t, c, "http://a.example/%3Cscript%3Ealert(1)%3C/script%3E")
	if code != 404 || strings.Contains(body, "<script>") || !strings.Contains(body, "&lt;script&gt;") {
		t.Errorf("%d %s", code, body)
	}
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: <b>x</b>\r\n\r\n")
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	b, _ := io.ReadAll(res.Body)
	if strings.Contains(string(b), "<b>") {
		t.Errorf("a host is not escaped: %s", b)
	}
	for accept, want := range map[string]bool{
		"application/json": true, "application/problem+json, */*": true, "*/*": false, "": false, "text/html, application/json": false, "application/json;q=0.9, text/html": true,
	} {
		if got := wantsJSON([]string{accept}); got != want {
			t.Errorf("%q: %v", accept, got)
		}
	}
	res, err = c.Head("http://a.example/none")
	if err != nil || res.StatusCode != 404 || res.ContentLength < 100 {
		t.Errorf("HEAD: %+v, %v", res, err)
	}
}

func TestBigBodies(t *testing.T) {
	t.Parallel()
	b := backend(t, func(w http.ResponseWriter, r *http.Request) {
		h := sha256.New()
		n, _ := io.Copy(h, r.Body)
		w.Header().Set("X-Sum", fmt.Sprintf("%d %x", n, h.Sum(nil)))
		_, _ = io.Copy(w, io.LimitReader(zeros{}, 64<<20))
	})
	_, addr := inProcess(t, table(1, map[string][]Route{"a.example": to(b)}))
	h := sha256.New()
	up := io.TeeReader(io.LimitReader(rand.Reader, 64<<20), h)
	res, err := client(t, addr).Post("http://a.example/", "application/octet-stream", up)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if want := fmt.Sprintf("%d %s", 64<<20, hex.EncodeToString(h.Sum(nil))); res.Header.Get("X-Sum") != want {
		t.Errorf("got %s, want %s", res.Header.Get("X-Sum"), want)
	}
	if n, err := io.Copy(io.Discard, res.Body); err != nil || n != 64<<20 {
		t.Errorf("%d bytes, %v", n, err)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestCutAnswer(t *testing.T) {
	t.Parallel()
	b := backend(t, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "part")
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	})
	_, addr := inProcess(t, table(1, map[string][]Route{"a.example": to(b)}))
	if _, body, err := try(client(t, addr), "http://a.example/"); err == nil {
		t.Errorf("a cut answer looks whole: %q", body)
	}
}

// duplex answers each line of the request with that line, as it comes.
func duplex(w http.ResponseWriter, r *http.Request) {
	rc := http.NewResponseController(w)
	_ = rc.EnableFullDuplex()
	w.Header().Set("Content-Type", r.Header.Get("Content-Type"))
	w.Header().Set("Trailer", "Grpc-Status")
	w.Header().Set("X-Proto", r.Proto)
	w.WriteHeader(200)
	_ = rc.Flush()
	in := bufio.NewScanner(r.Body)
	for in.Scan() {
		_, _ = fmt.Fprintln(w, "re: "+in.Text())
		_ = rc.Flush()
	}
	w.Header().Set("Grpc-Status", "0")
}

func TestStreamsBothWays(t *testing.T) {
	t.Parallel()
	b := backend(t, duplex)
	p := start(t, config(t))
	set(t, p, table(1, map[string][]Route{"a.example": to(b)}))
	plain, secure := p.Addrs()
	dial := func(addr string) func(context.Context, string, string, *tls.Config) (net.Conn, error) {
		return func(ctx context.Context, network, _ string, cfg *tls.Config) (net.Conn, error) {
			var d net.Dialer
			c, err := d.DialContext(ctx, "tcp", addr)
			if err != nil || cfg == nil {
				return c, err
			}
			return tls.Client(c, cfg), nil
		}
	}
	h1 := client(t, plain).Transport
	h2 := &http2.Transport{DialTLSContext: dial(secure), TLSClientConfig: &tls.Config{RootCAs: roots(t, p), ServerName: "a.example", NextProtos: []string{"h2"}}}
	h2c := &http2.Transport{AllowHTTP: true, DialTLSContext: func(ctx context.Context, n, a string, _ *tls.Config) (net.Conn, error) {
		return dial(plain)(ctx, n, a, nil)
	}}
	defer h2.CloseIdleConnections()
	defer h2c.CloseIdleConnections()
	for _, c := range []struct {
		name, url, content, proto string
		via                       http.RoundTripper
	}{
		{"http/1.1", "http://a.example/", "text/plain", "HTTP/1.1", h1},
		{"h2", "https://a.example/", "text/plain", "HTTP/1.1", h2},
		{"h2c", "http://a.example/", "text/plain", "HTTP/1.1", h2c},
		{"grpc over h2", "https://a.example/", "application/grpc", "HTTP/2.0", h2},
		{"grpc over h2c", "http://a.example/", "application/grpc+proto", "HTTP/2.0", h2c},
	} {
		r, w := io.Pipe()
		req, _ := http.NewRequest("POST", c.url, r)
		req.Header.Set("Content-Type", c.content)
		req.Header.Set("Te", "trailers")
		res, err := c.via.RoundTrip(req)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			_ = w.Close()
			continue
		}
		in := bufio.NewReader(res.Body)
		for i := range 3 {
			if _, err := fmt.Fprintf(w, "line %d\n", i); err != nil {
				t.Errorf("%s: %v", c.name, err)
				break
			}
			if got, err := in.ReadString('\n'); err != nil || got != fmt.Sprintf("re: line %d\n", i) {
				t.Errorf("%s: %q, %v", c.name, got, err)
				break
			}
		}
		_ = w.Close()
		if _, err := io.Copy(io.Discard, in); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if res.Trailer.Get("Grpc-Status") != "0" {
			t.Errorf("%s: trailers %v", c.name, res.Trailer)
		}
		if res.Header.Get("X-Proto") != c.proto {
			t.Errorf("%s: the service was asked with %s", c.name, res.Header.Get("X-Proto"))
		}
		_ = res.Body.Close()
	}
}

func roots(t testing.TB, p *Process) *x509.CertPool {
	t.Helper()
	b, err := os.ReadFile(p.CA())
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(b) {
		t.Fatal("no certificate in the CA file")
	}
	return pool
}

func TestGuards(t *testing.T) {
	t.Parallel()
	_, addr := inProcess(t, table(1, map[string][]Route{"a.example": to(backend(t, say("ok")))}))
	send := func(text string) *http.Response {
		t.Helper()
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		_, _ = io.WriteString(c, text)
		res, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatalf("%.40q: %v", text, err)
		}
		return res
	}
	if r := send("GET / HTTP/1.1\r\nHost: a.example\r\nX-Big: " + strings.Repeat("x", 100<<10) + "\r\n\r\n"); r.StatusCode != 431 {
		t.Errorf("a header of 100 KiB: %d", r.StatusCode)
	}
	if r := send("CONNECT a.example:80 HTTP/1.1\r\nHost: a.example:80\r\n\r\n"); r.StatusCode == 200 {
		t.Errorf("CONNECT: %d", r.StatusCode)
	}
	if r := send("POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"); r.StatusCode/100 == 5 {
		t.Errorf("length and chunks: %d", r.StatusCode)
	}
	if r := send("GET / HTTP/1.1\r\nHost: a.example\r\nHost: b.example\r\n\r\n"); r.StatusCode != 400 {
		t.Errorf("two hosts: %d", r.StatusCode)
	}
	if r := send("GET http://a.example/ HTTP/1.1\r\nHost: b.example\r\n\r\n"); r.StatusCode != 200 {
		t.Errorf("absolute form: %d", r.StatusCode)
	}
	if r := send("GET / HTTP/1.0\r\nHost: a.example\r\n\r\n"); r.StatusCode != 200 {
		t.Errorf("HTTP/1.0: %d", r.StatusCode)
	}
}

func TestMetricsAreBounded(t *testing.T) {
	t.Parallel()
	c := newCounters()
	for i := range maxHostMetrics + 100 {
		c.add(fmt.Sprintf("h%d", i), 200, time.Millisecond, 10)
	}
	c.add("h1", 500, time.Hour, 10)
	s := c.snapshot()
	if len(s) > maxHostMetrics+1 || s["h1"].Status[500] != 1 || s["h1"].Buckets[len(s["h1"].Buckets)-1] != 1 || s[""].Status[200] != 100 {
		t.Errorf("%d hosts, %+v, %+v", len(s), s["h1"], s[""])
	}
}

func TestLogFileIsBounded(t *testing.T) {
	t.Parallel()
	path := t.TempDir() + "/log"
	l, err := openLog(path)
	if err != nil {
		t.Fatal(err)
	}
	line := []byte(strings.Repeat("x", 1<<20-1) + "\n")
	for range maxLog>>20 + 5 {
		if _, err := l.Write(line); err != nil {
			t.Fatal(err)
		}
	}
	l.close()
	for _, f := range []string{path, path + ".1"} {
		st, err := os.Stat(f)
		if err != nil || st.Size() > maxLog || st.Size()%(1<<20) != 0 {
			t.Errorf("%s: %v, %v", f, st, err)
		}
	}
	if _, err := l.Write(line); err != nil {
		t.Errorf("after the end: %v", err)
	}
}

func BenchmarkProxy(b *testing.B) {
	back := backend(b, say("hello"))
	_, addr := inProcess(b, table(1, map[string][]Route{"a.example": to(back)}))
	b.RunParallel(func(pb *testing.PB) {
		c := client(b, addr)
		for pb.Next() {
			if code, _, err := try(c, "http://a.example/"); err != nil || code != 200 {
				b.Fatal(code, err)
			}
		}
	})
}
