package ingress

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"html/template"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Bounds of the proxy.
const (
	dialTimeout     = 2 * time.Second
	headerTimeout   = 5 * time.Minute  // until a service begins its answer
	stallTimeout    = 2 * time.Minute  // a client that takes or gives nothing
	requestHeader   = 10 * time.Second // until a client has sent its header
	idleTimeout     = 2 * time.Minute
	maxHeaderBytes  = 64 << 10
	maxBackHeader   = 256 << 10
	downTime        = time.Second // a backend that refused is asked last
	copyBufferBytes = 32 << 10
)

// proxy serves the table.
type proxy struct {
	table   atomic.Pointer[Table]
	plain   *http.Transport // HTTP/1.1 to services
	h2c     *http.Transport // HTTP/2 without TLS, for gRPC
	rev     *httputil.ReverseProxy
	pages   *template.Template
	access  *slog.Logger
	log     *slog.Logger
	count   *counters
	trusted []netip.Prefix

	next     atomic.Uint64
	down     sync.Map // netip.AddrPort -> time.Time until when it is asked last
	active   atomic.Int64
	draining atomic.Bool
}

func newProxy(log, access *slog.Logger, trusted []netip.Prefix) *proxy {
	p := &proxy{pages: pageTemplate(), log: log, access: access, count: newCounters(), trusted: trusted}
	p.table.Store(&Table{})
	dial := (&net.Dialer{Timeout: dialTimeout, KeepAlive: 30 * time.Second}).DialContext
	base := func() *http.Transport {
		return &http.Transport{
			DialContext: dial, DisableCompression: true,
			MaxIdleConns: 1024, MaxIdleConnsPerHost: 128, IdleConnTimeout: 30 * time.Second,
			ResponseHeaderTimeout: headerTimeout, ExpectContinueTimeout: time.Second,
			MaxResponseHeaderBytes: maxBackHeader, Protocols: new(http.Protocols),
		}
	}
	p.plain, p.h2c = base(), base()
	p.plain.Protocols.SetHTTP1(true)
	p.h2c.Protocols.SetUnencryptedHTTP2(true)
	p.rev = &httputil.ReverseProxy{
		Rewrite: p.rewrite, Transport: p, FlushInterval: -1, ErrorHandler: p.failed,
		BufferPool: &bufferPool{}, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	return p
}

// set replaces the table. Connections to backends that are gone are closed:
// their address may belong to another container soon.
func (p *proxy) set(t *Table) {
	old := p.table.Swap(t)
	now := backends(t)
	for b := range backends(old) {
		if !now[b] {
			p.plain.CloseIdleConnections()
			p.h2c.CloseIdleConnections()
			break
		}
	}
	p.down.Clear()
}

func backends(t *Table) map[netip.AddrPort]bool {
	m := map[netip.AddrPort]bool{}
	for _, h := range t.Hosts {
		for _, r := range h.Routes {
			for _, b := range r.Backends {
				m[b] = true
			}
		}
	}
	return m
}

// exchange is one request on its way.
type exchange struct {
	host  string
	label string // host for the metrics: "" for unknown ones
	route Route
}

type exchangeKey struct{}

func exchangeOf(ctx context.Context) *exchange {
	x, _ := ctx.Value(exchangeKey{}).(*exchange)
	return x
}

// ServeHTTP answers one request.
func (p *proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	p.active.Add(1)
	defer p.active.Add(-1)
	if p.draining.Load() && r.Header.Get("Upgrade") == "" {
		w.Header().Set("Connection", "close") // the next request goes to the successor
	}
	sw := &statusWriter{ResponseWriter: w, rc: http.NewResponseController(w), http1: r.ProtoMajor == 1}
	x := &exchange{}
	defer func() { p.note(r, x, sw, time.Since(start)) }()
	t := p.table.Load()
	name, host, ok := t.Find(r.Host)
	x.host = name
	if !ok {
		p.write(sw, r, unknownHost(name))
		return
	}
	x.label = name
	route, ok := host.Match(r.URL.Path)
	x.route = route
	switch {
	case !ok:
		p.write(sw, r, unknownPath(name, r.URL.Path))
	case route.Redirect != "":
		http.Redirect(sw, r, route.Redirect, http.StatusTemporaryRedirect)
	case route.Page:
		p.write(sw, r, defaultPage(name))
	case len(route.Backends) == 0:
		p.write(sw, r, notRunning(name, route))
	case r.Method == http.MethodConnect:
		p.write(sw, r, page{
			Status: http.StatusMethodNotAllowed, Title: "Method not allowed", Host: name,
			Message: "CONNECT is not served.", Advice: "This is no forward proxy: send the request itself.",
		})
	default:
		p.forward(sw, r, x)
	}
}

func (p *proxy) forward(sw *statusWriter, r *http.Request, x *exchange) {
	ctx := context.WithValue(r.Context(), exchangeKey{}, x)
	if sw.http1 && r.Body != http.NoBody {
		// a service may answer before it has read all
		_ = sw.rc.EnableFullDuplex()
		if r.ContentLength > 0 {
			r.Body = &guardedBody{ReadCloser: r.Body, rc: sw.rc}
		}
	}
	p.rev.ServeHTTP(sw, r.WithContext(ctx))
}

func (p *proxy) rewrite(pr *httputil.ProxyRequest) {
	x := exchangeOf(pr.In.Context())
	pr.Out.URL.Scheme = "http"
	pr.Out.URL.Host = x.route.Backends[0].String()
	pr.Out.URL.RawQuery = pr.In.URL.RawQuery // as it came, what cannot be parsed too
	pr.Out.Host = pr.In.Host
	if p.fromTrusted(pr.In.RemoteAddr) {
		pr.Out.Header["X-Forwarded-For"] = pr.In.Header["X-Forwarded-For"]
	}
	pr.SetXForwarded()
	if p.fromTrusted(pr.In.RemoteAddr) {
		for _, h := range []string{"X-Forwarded-Proto", "X-Forwarded-Host"} {
			if v := pr.In.Header.Get(h); v != "" {
				pr.Out.Header.Set(h, v)
			}
		}
	}
}

func (p *proxy) fromTrusted(remote string) bool {
	if len(p.trusted) == 0 {
		return false
	}
	a, err := netip.ParseAddrPort(remote)
	return err == nil && slices.ContainsFunc(p.trusted, func(pre netip.Prefix) bool { return pre.Contains(a.Addr().Unmap()) })
}

// RoundTrip sends the request to a backend of its route; one that does not
// take the connection is followed by the next, as long as nothing of the body
// has been read.
func (p *proxy) RoundTrip(r *http.Request) (*http.Response, error) {
	x := exchangeOf(r.Context())
	transport := p.plain
	if r.ProtoMajor == 2 && strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc") {
		transport = p.h2c
	}
	var body *onceBody
	if r.Body != nil && r.Body != http.NoBody {
		body = &onceBody{ReadCloser: r.Body}
	}
	var last error
	for _, b := range p.order(x.route.Backends) {
		out := r.Clone(r.Context())
		out.URL.Host = b.String()
		if body != nil {
			out.Body = body
		}
		res, err := transport.RoundTrip(out)
		if err == nil {
			return res, nil
		}
		last = err
		if !dialFailed(err) || r.Context().Err() != nil || body != nil && body.read.Load() {
			return nil, err
		}
		p.down.Store(b, time.Now().Add(downTime))
	}
	return nil, last
}

// order is the backends in turn, those that refused lately last.
func (p *proxy) order(all []netip.AddrPort) []netip.AddrPort {
	if len(all) == 1 {
		return all
	}
	n := int(p.next.Add(1) % uint64(len(all)))
	l := append(slices.Clone(all[n:]), all[:n]...)
	now := time.Now()
	slices.SortStableFunc(l, func(a, b netip.AddrPort) int { return p.isDown(a, now) - p.isDown(b, now) })
	return l
}

func (p *proxy) isDown(b netip.AddrPort, now time.Time) int {
	if until, ok := p.down.Load(b); ok && now.Before(until.(time.Time)) {
		return 1
	}
	return 0
}

func dialFailed(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}

// failed answers for a service that did not.
func (p *proxy) failed(w http.ResponseWriter, r *http.Request, err error) {
	x := exchangeOf(r.Context())
	pg := page{
		Status: http.StatusBadGateway, Title: "Service does not answer", Host: x.host, Path: x.route.Path, Service: x.route.label(),
		Advice: "Look at the log of the service, and check that it listens on this port on all addresses (0.0.0.0).",
	}
	var nerr net.Error
	var tooLarge *http.MaxBytesError
	switch {
	case r.Context().Err() != nil || errors.Is(err, context.Canceled):
		pg.Status, pg.Title = statusGone, "Client went away"
	case dialFailed(err):
		pg.Message = fmt.Sprintf("The service is running but takes no connections on port %d.", x.route.Backends[0].Port())
	case errors.As(err, &tooLarge):
		pg.Status, pg.Title, pg.Advice = http.StatusRequestEntityTooLarge, "Request too large", ""
	case errors.As(err, &nerr) && nerr.Timeout():
		pg.Status, pg.Title = http.StatusGatewayTimeout, "Service is too slow"
		pg.Message = fmt.Sprintf("The service took the request and did not begin an answer within %s.", headerTimeout)
		pg.Advice = "Look at the log of the service."
	default:
		pg.Message = "The service took the connection and ended it without a whole HTTP answer."
		pg.Advice = "Look at the log of the service, and check that this port speaks HTTP."
	}
	if pg.Status != statusGone {
		p.log.Info("service does not answer", "host", x.host, "service", x.route.Service, "status", pg.Status, "error", short(err.Error(), 300))
	}
	p.write(w, r, pg)
}

// statusGone is what is noted when the client left before the answer.
const statusGone = 499

// note counts the request and writes its line.
func (p *proxy) note(r *http.Request, x *exchange, w *statusWriter, took time.Duration) {
	status := w.status
	if status == 0 {
		status = http.StatusOK
		if r.Context().Err() != nil {
			status = statusGone
		}
	}
	p.count.add(x.label, status, took, w.bytes)
	if !p.access.Enabled(r.Context(), slog.LevelInfo) {
		return
	}
	p.access.LogAttrs(r.Context(), slog.LevelInfo, "request",
		slog.String("host", short(x.host, 260)), slog.String("method", short(r.Method, 20)),
		slog.String("path", short(r.URL.Path, 200)), slog.Int("status", status), slog.Int64("bytes", w.bytes),
		slog.Int64("us", took.Microseconds()), slog.String("from", r.RemoteAddr), slog.String("proto", r.Proto),
		slog.Bool("tls", r.TLS != nil), slog.String("service", x.route.Service))
}

// server is an http.Server with the guards that both listeners share.
func (p *proxy) server(tc *tls.Config) *http.Server {
	s := &http.Server{
		Handler: p, ReadHeaderTimeout: requestHeader, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeaderBytes,
		TLSConfig: tc, Protocols: new(http.Protocols), ErrorLog: slog.NewLogLogger(p.log.Handler(), slog.LevelDebug),
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: 250, PingTimeout: 15 * time.Second, SendPingTimeout: 30 * time.Second, WriteByteTimeout: stallTimeout,
		},
	}
	s.Protocols.SetHTTP1(true)
	s.Protocols.SetHTTP2(tc != nil)
	s.Protocols.SetUnencryptedHTTP2(tc == nil)
	return s
}

// statusWriter notes what was answered and gives a client that takes nothing
// only so much time.
type statusWriter struct {
	http.ResponseWriter
	rc     *http.ResponseController
	status int
	bytes  int64
	http1  bool
	armed  time.Time
}

// Unwrap lets http.ResponseController find the methods below.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// WriteHeader notes the status.
func (w *statusWriter) WriteHeader(code int) {
	if code >= 200 || code == http.StatusSwitchingProtocols {
		w.status = code
	}
	w.ResponseWriter.WriteHeader(code)
}

func (w *statusWriter) Write(b []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	// an HTTP/2 stream would be ended by the deadline though nobody writes;
	// there HTTP2Config.WriteByteTimeout stands guard
	if now := time.Now(); w.http1 && now.Sub(w.armed) > time.Second {
		w.armed = now
		_ = w.rc.SetWriteDeadline(now.Add(stallTimeout))
	}
	n, err := w.ResponseWriter.Write(b)
	w.bytes += int64(n)
	return n, err
}

// Hijack is for WebSockets; from then on no deadline holds.
func (w *statusWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	w.status = http.StatusSwitchingProtocols
	return w.rc.Hijack()
}

// guardedBody gives a client that promised a body only so much time between
// two parts of it.
type guardedBody struct {
	io.ReadCloser
	rc    *http.ResponseController
	armed time.Time
}

func (b *guardedBody) Read(p []byte) (int, error) {
	if now := time.Now(); now.Sub(b.armed) > time.Second {
		b.armed = now
		_ = b.rc.SetReadDeadline(now.Add(stallTimeout))
	}
	n, err := b.ReadCloser.Read(p)
	if errors.Is(err, io.EOF) {
		_ = b.rc.SetReadDeadline(time.Time{})
	}
	return n, err
}

// onceBody is a request body that outlives a failed try. A transport closes
// the body of a request that it could not send; this one is closed by the
// ReverseProxy when the exchange is over.
type onceBody struct {
	io.ReadCloser
	read atomic.Bool
}

func (b *onceBody) Read(p []byte) (int, error) {
	b.read.Store(true)
	return b.ReadCloser.Read(p)
}

// Close leaves the body open for the next try.
func (b *onceBody) Close() error { return nil }

type bufferPool struct{ pool sync.Pool }

// Get gives a buffer of the pool or a new one.
func (b *bufferPool) Get() []byte {
	if p, ok := b.pool.Get().(*[]byte); ok {
		return *p
	}
	return make([]byte, copyBufferBytes)
}

// Put gives a buffer back.
func (b *bufferPool) Put(p []byte) { b.pool.Put(&p) }
