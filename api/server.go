package api

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"path"
	"runtime/debug"
	"sort"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"slipway/access"
)

// BodyLimit is how large a body may be, in bytes, where nothing else is said.
const BodyLimit = 16 << 20

// RequestID is the header that every answer carries.
const RequestID = "X-Request-Id"

// Options of a server.
type Options struct {
	Logger *slog.Logger
	// TrustedProxies are those whose X-Forwarded-For is believed.
	TrustedProxies []netip.Prefix
	// RateLimit is how many requests a token may make in a minute; 0 is a million.
	RateLimit int
	// Observe is told of every request that has been answered, or is nil.
	Observe func(dialect, pattern string, status int, took time.Duration)
}

// Server mounts dialects and everything else that is served on one port.
type Server struct {
	access   *access.Access
	opts     Options
	limit    limiter
	raw      []mount
	dialects []*dialect
}

type mount struct {
	prefix string
	h      http.Handler
}

type dialect struct {
	Dialect
	server *Server
	mux    *http.ServeMux
}

// NewServer makes a server without routes.
func NewServer(a *access.Access, o Options) *Server {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.RateLimit <= 0 {
		o.RateLimit = 1_000_000
	}
	return &Server{access: a, opts: o, limit: limiter{most: o.RateLimit}}
}

// Mount adds a dialect.
func (s *Server) Mount(d Dialect) {
	m := &dialect{Dialect: d, server: s, mux: http.NewServeMux()}
	for pattern, h := range d.Table {
		m.mux.Handle(pattern, m.handler(pattern, h))
	}
	s.dialects = append(s.dialects, m)
}

// MountRaw adds a handler with words of its own below a prefix. It gets the
// path as it came, goes before the dialects, and asks who by Authenticate.
func (s *Server) MountRaw(prefix string, h http.Handler) {
	s.raw = append(s.raw, mount{prefix, h})
	sort.SliceStable(s.raw, func(i, j int) bool { return len(s.raw[i].prefix) > len(s.raw[j].prefix) })
}

// Handler gives the handler of a mounted dialect, for a raw one that shares a
// prefix with it.
func (s *Server) Handler(name string) http.Handler {
	for _, d := range s.dialects {
		if d.Name == name {
			return d
		}
	}
	return http.HandlerFunc(nowhere)
}

// Routes lists the routes of all dialects.
func (s *Server) Routes() []Route {
	var l []Route
	for _, d := range s.dialects {
		for p := range d.Table {
			method, path, _ := strings.Cut(p, " ")
			l = append(l, Route{d.Name, method, path, d.Open[p]})
		}
	}
	sort.Slice(l, func(i, j int) bool {
		return l[i].Path+" "+l[i].Method < l[j].Path+" "+l[j].Method
	})
	return l
}

type requestKey struct{}

// request is what is known of a request while it is answered.
type request struct {
	id, dialect, pattern string
	path                 string // what the log says
	err                  error
}

// ID is the id of a request, as in the log.
func ID(r *http.Request) string {
	if q, ok := r.Context().Value(requestKey{}).(*request); ok {
		return q.id
	}
	return ""
}

// ServeHTTP finds whose the path is.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	q := &request{id: requestID(r), dialect: "none", path: r.URL.Path}
	r = r.WithContext(context.WithValue(r.Context(), requestKey{}, q))
	rec := &recorder{ResponseWriter: w}
	rec.Header().Set(RequestID, q.id)
	defer func() {
		p := recover()
		abort := p == http.ErrAbortHandler //nolint:errorlint // a panic's value is no wrapped error
		if p != nil && !abort {
			q.err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
			// Half an answer must not look like a whole one.
			if abort = rec.status != 0; !abort {
				s.broken(rec, r, q)
			}
		}
		s.say(r, q, rec.status, time.Since(start))
		if abort {
			panic(http.ErrAbortHandler)
		}
	}()
	s.route(q, r).ServeHTTP(rec, r)
}

func (s *Server) route(q *request, r *http.Request) http.Handler {
	for _, m := range s.raw {
		if below(r.URL.Path, m.prefix) {
			q.dialect = m.prefix
			return m.h
		}
	}
	var found http.Handler = http.HandlerFunc(nowhere)
	longest := -1
	for _, d := range s.dialects {
		for _, p := range d.Prefixes {
			if below(r.URL.Path, p) && len(p) > longest {
				found, longest = d, len(p)
			}
		}
	}
	return found
}

// below tells whether a path is prefix or lies under it.
func below(p, prefix string) bool {
	rest, ok := strings.CutPrefix(p, strings.TrimSuffix(prefix, "/"))
	return ok && (rest == "" || rest[0] == '/')
}

func nowhere(w http.ResponseWriter, r *http.Request) {
	_ = JSON(w, http.StatusNotFound, map[string]any{"errors": []any{map[string]string{"message": "nothing is served at " + r.URL.Path}}})
}

// broken answers after a panic in the words of whoever should have answered.
func (s *Server) broken(w http.ResponseWriter, r *http.Request, q *request) {
	for _, d := range s.dialects {
		if d.Name == q.dialect {
			d.Fail(w, r, http.StatusInternalServerError, errors.New("internal error"))
			return
		}
	}
	w.WriteHeader(http.StatusInternalServerError)
}

// say writes the one line of a request.
func (s *Server) say(r *http.Request, q *request, status int, took time.Duration) {
	level, args := slog.LevelInfo, []any{
		"room", "api", "id", q.id, "method", r.Method, "path", q.path, "status", status, "ms", took.Milliseconds(), "dialect", q.dialect,
	}
	if q.err != nil {
		args = append(args, "err", q.err)
	}
	if status >= 500 {
		level = slog.LevelError
	}
	s.opts.Logger.Log(context.WithoutCancel(r.Context()), level, "request", args...)
	if s.opts.Observe != nil {
		s.opts.Observe(q.dialect, q.pattern, status, took)
	}
}

func requestID(r *http.Request) string {
	id := r.Header.Get(RequestID)
	sane := func(c rune) bool {
		return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune("-_.:", c)
	}
	if id != "" && len(id) <= 128 && strings.IndexFunc(id, func(c rune) bool { return !sane(c) }) < 0 {
		return id
	}
	var b [8]byte
	_, _ = rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// recorder remembers the status.
type recorder struct {
	http.ResponseWriter
	status int
}

func (r *recorder) WriteHeader(status int) {
	if r.status == 0 && status >= 200 {
		r.status = status
	}
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Write(b []byte) (int, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	return r.ResponseWriter.Write(b)
}

// Unwrap lets http.ResponseController find what it needs.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// Flush, Hijack and ReadFrom are for those who ask the writer itself.
func (r *recorder) Flush() {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	_ = http.NewResponseController(r.ResponseWriter).Flush()
}

// Hijack takes the connection over.
func (r *recorder) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	if r.status == 0 {
		r.status = http.StatusSwitchingProtocols
	}
	return http.NewResponseController(r.ResponseWriter).Hijack()
}

// ReadFrom copies files without a detour.
func (r *recorder) ReadFrom(src io.Reader) (int64, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	return io.Copy(r.ResponseWriter, src)
}

// ServeHTTP answers a path of the dialect.
func (d *dialect) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	q, _ := r.Context().Value(requestKey{}).(*request)
	if q == nil {
		q = &request{}
	}
	q.dialect = d.Name
	if d.Secret != "" && strings.HasPrefix(r.URL.Path, d.Secret) {
		q.path = d.Secret + "***"
	}
	if d.Before != nil {
		d.Before(w, r)
	}
	u := *r.URL
	if d.Rewrite != nil {
		rewrite(&u, d.Rewrite)
	}
	if len(u.Path) > 1 {
		u.Path, u.RawPath = strings.TrimSuffix(u.Path, "/"), strings.TrimSuffix(u.RawPath, "/")
	}
	r2 := r.Clone(r.Context())
	r2.URL = &u
	// The mux would redirect to a clean path, which loses the body of a POST.
	clean := u.Path != "" && path.Clean(u.Path) == u.Path
	if pattern := d.served(r2); clean && pattern != "" {
		q.pattern = pattern
		d.mux.ServeHTTP(w, r2)
		return
	}
	// Strangers are told nothing of what there is.
	if _, err := d.server.authenticate(r, d.Token); err != nil {
		d.fail(w, r, q, err)
		return
	}
	if allow := d.allowed(r2); clean && len(allow) > 0 {
		w.Header().Set("Allow", strings.Join(allow, ", "))
		d.Fail(w, r, http.StatusMethodNotAllowed, fmt.Errorf("%s is not served at %s; %s is", r.Method, r.URL.Path, strings.Join(allow, ", ")))
		return
	}
	d.Fail(w, r, http.StatusNotFound, errdefs.ErrNotFound.WithMessage("nothing is served at "+r.URL.Path))
}

// rewrite changes a path and keeps what is escaped in it.
func rewrite(u *url.URL, f func(string) string) {
	was := u.EscapedPath()
	raw := f(was)
	if raw == was {
		return
	}
	if p, err := url.PathUnescape(raw); err == nil {
		u.Path, u.RawPath = p, raw
	}
}

// served gives the pattern of the table that a request is for, "" for none. That
// the mux would redirect does not count: API routes never do.
func (d *dialect) served(r *http.Request) string {
	h, pattern := d.mux.Handler(r)
	if _, ours := h.(route); !ours {
		return ""
	}
	return pattern
}

// allowed lists the methods that the path of a request is served by.
func (d *dialect) allowed(r *http.Request) []string {
	var l []string
	for _, m := range []string{"GET", "POST", "PUT", "PATCH", "DELETE"} {
		other := *r
		other.Method = m
		if d.served(&other) != "" {
			l = append(l, m)
		}
	}
	return l
}

// route is a handler of a table.
type route func(http.ResponseWriter, *http.Request)

func (f route) ServeHTTP(w http.ResponseWriter, r *http.Request) { f(w, r) }

func (d *dialect) handler(pattern string, h Handler) http.Handler {
	open, stream, limit := d.Open[pattern], d.Stream[pattern], d.Limits[pattern]
	if limit == 0 {
		limit = BodyLimit
	}
	return route(func(w http.ResponseWriter, r *http.Request) {
		q, _ := r.Context().Value(requestKey{}).(*request)
		by, err := d.server.authenticate(r, d.Token)
		if err == nil {
			err = d.count(w, pattern, by)
		}
		if err != nil && !(open && errors.Is(err, errNoToken)) {
			d.fail(w, r, q, err)
			return
		}
		if !stream {
			r.Body = http.MaxBytesReader(w, r.Body, limit)
		}
		if err := h(w, r, by); err != nil {
			d.fail(w, r, q, err)
		}
	})
}

// count takes one request from what is left to a token.
func (d *dialect) count(w http.ResponseWriter, pattern string, by access.Actor) error {
	quota, ok := d.server.limit.take(by.Token.ID, time.Now())
	if d.Known != nil {
		d.Known(w.Header(), pattern, by, quota)
	}
	if !ok {
		return errTooMany
	}
	return nil
}

func (d *dialect) fail(w http.ResponseWriter, r *http.Request, q *request, err error) {
	status := Status(err)
	if q != nil {
		q.err = err
	}
	if rec, ok := w.(*recorder); ok && rec.status != 0 {
		// What has begun must not end like a whole answer; the line in the log has
		// the error.
		panic(http.ErrAbortHandler)
	}
	d.Fail(w, r, status, err)
}

var errNoToken = fmt.Errorf("a token is needed: %w", errdefs.ErrUnauthenticated)

// Authenticate finds who asks, by a token in any of the places that all
// dialects know. A request without one is errdefs.ErrUnauthenticated. It is not
// counted: a limit in the midst of a push or pull would break it.
func (s *Server) Authenticate(r *http.Request) (access.Actor, error) { return s.authenticate(r, nil) }

func (s *Server) authenticate(r *http.Request, more func(*http.Request) string) (access.Actor, error) {
	secret := Token(r)
	if secret == "" && more != nil {
		secret = more(r)
	}
	if secret == "" {
		return access.Actor{}, errNoToken
	}
	return s.access.Authenticate(r.Context(), secret, s.ClientIP(r).String())
}

// Token is the secret in a request: Bearer or Token in any case, the password
// of Basic, or x-access-token.
func Token(r *http.Request) string {
	if scheme, rest, ok := strings.Cut(r.Header.Get("Authorization"), " "); ok {
		switch strings.ToLower(scheme) {
		case "bearer", "token":
			return strings.TrimSpace(rest)
		case "basic":
			_, password, _ := r.BasicAuth()
			return password
		}
	}
	return r.Header.Get("X-Access-Token")
}

// ClientIP is the address that a request came from: of the connection, or the
// last one in X-Forwarded-For that no trusted proxy has.
func (s *Server) ClientIP(r *http.Request) netip.Addr {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		host = r.RemoteAddr
	}
	addr, _ := netip.ParseAddr(host)
	addr = addr.Unmap()
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for i := len(hops) - 1; i >= 0 && s.trusts(addr); i-- {
		hop, err := netip.ParseAddr(strings.TrimSpace(hops[i]))
		if err != nil {
			break
		}
		addr = hop.Unmap()
	}
	return addr
}

func (s *Server) trusts(a netip.Addr) bool {
	for _, p := range s.opts.TrustedProxies {
		if p.Contains(a) {
			return true
		}
	}
	return false
}
