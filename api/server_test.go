package api

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"go.uber.org/goleak"

	"slipway/access"
	"slipway/db"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// buffer is a log that may be read while it is written.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) { b.mu.Lock(); defer b.mu.Unlock(); return b.b.Write(p) }

func (b *buffer) String() string { b.mu.Lock(); defer b.mu.Unlock(); return b.b.String() }

type world struct {
	*Server
	url, secret string
	log         *buffer
}

// fail is how the test's dialect says no.
func fail(w http.ResponseWriter, _ *http.Request, status int, err error) {
	text := err.Error()
	if status >= 500 {
		text = "internal"
	}
	_ = JSON(w, status, map[string]string{"says": text})
}

func newWorld(t testing.TB, o Options, mount func(*Server)) *world {
	t.Helper()
	d, err := db.Open(t.Context(), filepath.Join(t.TempDir(), "x.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	a := access.New(d)
	w := &world{log: &buffer{}}
	if w.secret, err = a.Bootstrap(t.Context(), "admin", nil, nil); err != nil {
		t.Fatal(err)
	}
	o.Logger = slog.New(slog.NewJSONHandler(w.log, nil))
	w.Server = NewServer(a, o)
	mount(w.Server)
	s := httptest.NewServer(w.Server)
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	t.Cleanup(s.Close)
	w.url = s.URL
	return w
}

// ask sends a request; headers are "Name: value". Redirects are not followed.
func (w *world) ask(t testing.TB, method, path, body string, headers ...string) (*http.Response, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, w.url+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range headers {
		k, v, _ := strings.Cut(h, ": ")
		r.Header.Add(k, v)
	}
	res, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	return res, string(b)
}

func (w *world) bearer() string { return "Authorization: Bearer " + w.secret }

// things is a dialect with one route of every sort.
func things() Dialect {
	return Dialect{
		Name: "things", Prefixes: []string{"/things", "/alias"}, Fail: fail,
		Rewrite: func(p string) string { return strings.Replace(p, "/alias", "/things", 1) },
		Token:   func(r *http.Request) string { return r.URL.Query().Get("access_token") },
		Before:  func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("X-Limit", "60") },
		Table: map[string]Handler{
			"GET /things": func(w http.ResponseWriter, _ *http.Request, by access.Actor) error {
				return JSON(w, 200, by.User.Username)
			},
			"GET /things/{id}": func(w http.ResponseWriter, r *http.Request, _ access.Actor) error {
				return JSON(w, 200, r.PathValue("id"))
			},
			"PUT /things/{id}": func(w http.ResponseWriter, r *http.Request, _ access.Actor) error {
				var v struct {
					Name string `json:"name"`
				}
				if err := Decode(w, r, &v); err != nil {
					return err
				}
				return JSON(w, 200, v.Name)
			},
			"PUT /things/{id}/stream": func(w http.ResponseWriter, r *http.Request, _ access.Actor) error {
				n, err := io.Copy(io.Discard, r.Body)
				if err != nil {
					return err
				}
				return JSON(w, 200, n)
			},
			"GET /things/{id}/files/{path...}": func(w http.ResponseWriter, r *http.Request, _ access.Actor) error {
				return JSON(w, 200, r.PathValue("path"))
			},
			"GET /things/open": func(w http.ResponseWriter, _ *http.Request, by access.Actor) error {
				return JSON(w, 200, by.Known())
			},
			"GET /things/panic": func(http.ResponseWriter, *http.Request, access.Actor) error { panic("secret detail") },
			"GET /things/half": func(w http.ResponseWriter, r *http.Request, _ access.Actor) error {
				_, _ = io.WriteString(w, "half")
				_ = http.NewResponseController(w).Flush()
				panic("in the middle")
			},
			"GET /things/late": func(w http.ResponseWriter, r *http.Request, _ access.Actor) error {
				_, _ = io.WriteString(w, "late")
				_ = http.NewResponseController(w).Flush()
				return errors.New("in the middle")
			},
			"GET /things/error": func(_ http.ResponseWriter, r *http.Request, _ access.Actor) error {
				return map[string]error{
					"invalid": &access.Invalid{Fields: []access.Field{{Path: "a", Message: "bad"}}}, "exists": errdefs.ErrAlreadyExists,
					"broken": errors.New("secret detail"),
				}[r.URL.Query().Get("kind")]
			},
		},
		Open:   map[string]bool{"GET /things/open": true},
		Stream: map[string]bool{"PUT /things/{id}/stream": true},
	}
}

func TestRouting(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Options{}, func(s *Server) {
		s.Mount(things())
		s.MountRaw("/raw", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.URL.Path) }))
		s.MountRaw("/raw/deeper/", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "deeper") }))
	})
	for _, c := range []struct {
		method, path string
		status       int
		body         string
	}{
		{"GET", "/things", 200, `"admin"`},
		{"GET", "/things/", 200, `"admin"`},
		{"HEAD", "/things", 200, ``},
		{"GET", "/things//", 404, `{"says":"nothing is served at /things//"}`},
		{"GET", "/things/7", 200, `"7"`},
		{"GET", "/things/7/", 200, `"7"`},
		{"GET", "/alias/7", 200, `"7"`},
		{"GET", "/alias", 200, `"admin"`},
		{"GET", "/things/a%2Fb", 200, `"a/b"`},
		{"GET", "/alias/a%2Fb", 200, `"a/b"`},
		{"GET", "/things/a%20b", 200, `"a b"`},
		{"GET", "/things/7/files/a/b.txt", 200, `"a/b.txt"`},
		{"GET", "/things/7/files", 404, `{"says":"nothing is served at /things/7/files"}`},
		{"GET", "/things/7/files/../../8", 404, `{"says":"nothing is served at /things/7/files/../../8"}`},
		{"GET", "/things/7/files//x", 404, `{"says":"nothing is served at /things/7/files//x"}`},
		{"GET", "/things/7/nothing", 404, `{"says":"nothing is served at /things/7/nothing"}`},
		{"DELETE", "/things/7", 405, `{"says":"DELETE is not served at /things/7; GET, PUT is"}`},
		{"POST", "/things/", 405, `{"says":"POST is not served at /things/; GET is"}`},
		{"GET", "/thingsandmore", 404, `{"errors":[{"message":"nothing is served at /thingsandmore"}]}`},
		{"GET", "/", 404, `{"errors":[{"message":"nothing is served at /"}]}`},
		{"POST", "/nowhere", 404, `{"errors":[{"message":"nothing is served at /nowhere"}]}`},
		{"GET", "/raw/x//y/", 200, `/raw/x//y/`},
		{"GET", "/raw", 200, `/raw`},
		{"GET", "/raw/deeper/x", 200, `deeper`},
		{"GET", "/rawer", 404, `{"errors":[{"message":"nothing is served at /rawer"}]}`},
	} {
		res, body := w.ask(t, c.method, c.path, "", w.bearer())
		if res.StatusCode != c.status || strings.TrimSpace(body) != c.body {
			t.Errorf("%s %s: %d %s", c.method, c.path, res.StatusCode, body)
		}
		if res.Header.Get(RequestID) == "" {
			t.Errorf("%s: no request id", c.path)
		}
		if ours := strings.HasPrefix(c.path, "/things/") || strings.HasPrefix(c.path, "/alias"); ours && res.Header.Get("X-Limit") != "60" {
			t.Errorf("%s: Before was not called", c.path)
		}
		if c.status == 405 && res.Header.Get("Allow") == "" {
			t.Errorf("%s: no Allow", c.path)
		}
	}
	var routes []string
	for _, r := range w.Routes() {
		routes = append(routes, fmt.Sprint(r.Method, " ", r.Path, " ", r.Open))
	}
	if len(routes) != len(things().Table) || routes[0] != "GET /things false" || !slices.Contains(routes, "GET /things/open true") {
		t.Error(routes)
	}
}

func TestWhoAsks(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Options{}, func(s *Server) { s.Mount(things()) })
	basic := func(password string) string {
		r := httptest.NewRequest("GET", "/", nil)
		r.SetBasicAuth("anybody", password)
		return "Authorization: " + r.Header.Get("Authorization")
	}
	for _, c := range []struct {
		path, header string
		status       int
	}{
		{"/things", "", 401},
		{"/things", "Authorization: Bearer " + w.secret, 200},
		{"/things", "Authorization: bEARER  " + w.secret, 200},
		{"/things", "Authorization: Token " + w.secret, 200},
		{"/things", "authorization: token " + w.secret, 200},
		{"/things", "x-access-token: " + w.secret, 200},
		{"/things", basic(w.secret), 200},
		{"/things?access_token=" + w.secret, "", 200},
		{"/things", "Authorization: " + w.secret, 401},
		{"/things", "Authorization: Bearer x", 401},
		{"/things", "Authorization: Bearer", 401},
		{"/things", basic("wrong"), 401},
		{"/things", "Authorization: Basic ???", 401},
		{"/things?access_token=wrong", "", 401},
		{"/things?token=" + w.secret, "", 401},
		{"/things/open", "", 200},
		{"/things/open", "Authorization: Bearer " + w.secret, 200},
		{"/things/open", "Authorization: Bearer wrong", 401},
		{"/things/7/nothing", "", 401}, // a stranger is not told what there is
	} {
		var h []string
		if c.header != "" {
			h = append(h, c.header)
		}
		res, body := w.ask(t, "GET", c.path, "", h...)
		if res.StatusCode != c.status {
			t.Errorf("%s %q: %d %s", c.path, c.header, res.StatusCode, body)
		}
	}
	for _, r := range w.Routes() { // every route of the table
		path := strings.NewReplacer("{id}", "7", "{path...}", "x").Replace(r.Path)
		if res, _ := w.ask(t, r.Method, path, ""); res.StatusCode == 401 == r.Open {
			t.Errorf("%s %s: %d for a stranger", r.Method, path, res.StatusCode)
		}
	}
	if strings.Contains(w.log.String(), w.secret) {
		t.Error("the token is in the log")
	}
}

func TestBodies(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Options{}, func(s *Server) { s.Mount(things()) })
	for _, c := range []struct {
		path, body string
		status     int
		says       string
	}{
		{"/things/7", `{"name":"x","other":1}`, 200, `"x"`},
		{"/things/7", `{"name":1}`, 400, `{"says":"name: must be a string, not a number"}`},
		{"/things/7", ``, 400, `{"says":"the body is empty; JSON is expected"}`},
		{"/things/7", `{"name":"` + strings.Repeat("x", BodyLimit-11) + `"}`, 200, ""},
		{"/things/7", `{"name":"` + strings.Repeat("x", BodyLimit-10) + `"}`, 413, ""},
		{"/things/7/stream", strings.Repeat("x", BodyLimit+10), 200, fmt.Sprint(BodyLimit + 10)},
	} {
		res, body := w.ask(t, "PUT", c.path, c.body, w.bearer())
		if res.StatusCode != c.status || c.says != "" && strings.TrimSpace(body) != c.says {
			t.Errorf("%s: %d %.100s", c.path, res.StatusCode, body)
		}
		if strings.Contains(c.body, "other") && res.Header.Get(IgnoredHeader) != "other" {
			t.Error(res.Header)
		}
	}
}

func TestErrorsAndPanics(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Options{}, func(s *Server) { s.Mount(things()) })
	for path, want := range map[string]string{
		"/things/error?kind=invalid": `400 {"says":"a: bad"}`,
		"/things/error?kind=exists":  `409 {"says":"already exists"}`,
		"/things/error?kind=broken":  `500 {"says":"internal"}`,
		"/things/panic":              `500 {"says":"internal"}`,
	} {
		res, body := w.ask(t, "GET", path, "", w.bearer(), "X-Request-Id: req-"+path[8:12])
		if got := fmt.Sprint(res.StatusCode, " ", strings.TrimSpace(body)); got != want {
			t.Errorf("%s: %s", path, got)
		}
		if id := res.Header.Get(RequestID); id != "req-"+path[8:12] {
			t.Error(id)
		}
	}
	// Half an answer is cut, so that it is not taken for a whole one.
	for _, name := range []string{"half", "late"} {
		c, err := net.Dial("tcp", strings.TrimPrefix(w.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		fmt.Fprintf(c, "GET /things/%s HTTP/1.1\r\nHost: x\r\n%s\r\n\r\n", name, w.bearer())
		res, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		if b, err := io.ReadAll(res.Body); string(b) != name || err == nil {
			t.Errorf("%q, %v", b, err)
		}
	}
	lines := map[string]map[string]any{}
	end := time.Now().Add(10 * time.Second)
	for len(lines) < 6 && time.Now().Before(end) { // the line comes after the answer
		for l := range strings.Lines(w.log.String()) {
			var m map[string]any
			if err := json.Unmarshal([]byte(l), &m); err != nil {
				t.Fatal(err)
			}
			lines[fmt.Sprint(m["path"], m["status"])] = m
		}
	}
	p := lines["/things/panic500"]
	if p == nil || p["level"] != "ERROR" || p["id"] != "req-pani" || !strings.Contains(fmt.Sprint(p["err"]), "secret detail") ||
		!strings.Contains(fmt.Sprint(p["err"]), "server_test.go") {
		t.Error(p)
	}
	if l := lines["/things/late200"]; l == nil || l["err"] != "in the middle" {
		t.Error(l)
	}
	if l := lines["/things/error400"]; l == nil || l["level"] != "INFO" || l["dialect"] != "things" || l["method"] != "GET" {
		t.Error(l)
	}
}

func TestRequestIDs(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Options{}, func(*Server) {})
	for id, kept := range map[string]bool{"abc-1.2:3_4": true, "a b": false, "<x>": false, "ü": false, strings.Repeat("x", 129): false, strings.Repeat("x", 128): true} {
		res, _ := w.ask(t, "GET", "/", "", "X-Request-Id: "+id)
		if got := res.Header.Get(RequestID); (got == id) != kept || got == "" {
			t.Errorf("%q: %q", id, got)
		}
	}
	a, _ := w.ask(t, "GET", "/", "")
	b, _ := w.ask(t, "GET", "/", "")
	if a.Header.Get(RequestID) == b.Header.Get(RequestID) {
		t.Error("the same id twice")
	}
}

func TestClientIP(t *testing.T) {
	t.Parallel()
	s := NewServer(nil, Options{TrustedProxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("::1/128")}})
	for _, c := range []struct{ remote, forwarded, want string }{
		{"192.0.2.1:80", "", "192.0.2.1"},
		{"192.0.2.1:80", "198.51.100.1", "192.0.2.1"}, // not a proxy of ours
		{"10.0.0.1:80", "198.51.100.1", "198.51.100.1"},
		{"10.0.0.1:80", "203.0.113.9, 198.51.100.1", "198.51.100.1"}, // the first may be a lie
		{"10.0.0.1:80", "198.51.100.1, 10.0.0.2, 10.1.1.1", "198.51.100.1"},
		{"10.0.0.1:80", "nonsense", "10.0.0.1"},
		{"10.0.0.1:80", "", "10.0.0.1"},
		{"[::1]:80", "2001:db8::1", "2001:db8::1"},
		{"[::ffff:10.0.0.1]:80", "198.51.100.1", "198.51.100.1"},
	} {
		r := httptest.NewRequest("GET", "/", nil)
		r.RemoteAddr = c.remote
		if c.forwarded != "" {
			r.Header.Set("X-Forwarded-For", c.forwarded)
		}
		if got := s.ClientIP(r).String(); got != c.want {
			t.Errorf("%+v: %s", c, got)
		}
	}
}

// What is mounted raw can do with the writer what it could without us.
func TestRawHandlers(t *testing.T) {
	t.Parallel()
	saw := make(chan http.ResponseWriter, 10)
	patterns := make(chan string, 10) // of the requests, in their order: told after each answer
	w := newWorld(t, Options{Observe: func(_, p string, _ int, _ time.Duration) { patterns <- p }}, func(s *Server) {
		s.Mount(things())
		s.MountRaw("/hijack", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			c, rw, err := w.(http.Hijacker).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			_, _ = rw.WriteString("HTTP/1.1 101 Switching Protocols\r\n\r\nhello")
			_ = rw.Flush()
			_ = c.Close()
		}))
		s.MountRaw("/stream", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			saw <- w
			by, err := s.Authenticate(r)
			fmt.Fprint(w, by.User.Username, err != nil, ID(r) != "")
			w.(http.Flusher).Flush()
			_, _ = w.(io.ReaderFrom).ReadFrom(strings.NewReader("-copied"))
		}))
		s.MountRaw("/things/raw", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			r.URL.Path = "/things/7"
			s.Handler("things").ServeHTTP(w, r)
		}))
	})
	if res, _ := w.ask(t, "GET", "/hijack", ""); res.StatusCode != 101 {
		t.Error(res.Status)
	}
	if _, body := w.ask(t, "GET", "/stream", "", w.bearer()); body != "adminfalse true-copied" {
		t.Error(body)
	}
	if _, body := w.ask(t, "GET", "/stream", ""); body != "true true-copied" {
		t.Error(body)
	}
	if _, ok := (<-saw).(interface{ Unwrap() http.ResponseWriter }); !ok {
		t.Error("no way to the writer below")
	}
	for range 3 {
		<-patterns
	}
	if _, body := w.ask(t, "GET", "/things/raw", "", w.bearer()); strings.TrimSpace(body) != `"7"` {
		t.Error(body)
	}
	if pattern := <-patterns; pattern != "GET /things/{id}" {
		t.Error(pattern)
	}
	rec := httptest.NewRecorder()
	w.Handler("nobody's").ServeHTTP(rec, httptest.NewRequest("GET", "/x", nil))
	if rec.Code != 404 {
		t.Error(rec.Code)
	}
}

func TestStatus(t *testing.T) {
	t.Parallel()
	for status, errs := range map[int][]error{
		200: {nil},
		400: {errdefs.ErrInvalidArgument, &access.Invalid{}, errdefs.ErrOutOfRange},
		401: {errdefs.ErrUnauthenticated},
		403: {errdefs.ErrPermissionDenied},
		404: {errdefs.ErrNotFound},
		409: {errdefs.ErrAlreadyExists, errdefs.ErrConflict, errdefs.ErrAborted},
		412: {errdefs.ErrFailedPrecondition},
		413: {&http.MaxBytesError{}},
		500: {errors.New("x"), errdefs.ErrUnknown, errdefs.ErrInternal, errdefs.ErrDataLoss, errdefs.ErrNotImplemented},
		503: {errdefs.ErrUnavailable, context.Canceled, context.DeadlineExceeded},
		507: {errdefs.ErrResourceExhausted},
	} {
		for _, err := range errs {
			if got := Status(err); got != status {
				t.Errorf("%v: %d", err, got)
			}
			if err != nil {
				if got := Status(fmt.Errorf("wrapped: %w", err)); got != status {
					t.Errorf("%v, wrapped: %d", err, got)
				}
			}
		}
	}
}

func TestPages(t *testing.T) {
	t.Parallel()
	l := []int{1, 2, 3, 4, 5}
	for _, c := range []struct {
		skip, limit int
		want        []int
	}{{0, 0, l}, {0, 2, l[:2]}, {4, 2, l[4:]}, {5, 2, nil}, {99, 2, nil}, {-3, 2, l[:2]}, {1, 99, l[1:]}} {
		if got := Slice(l, c.skip, c.limit); !slices.Equal(got, c.want) {
			t.Errorf("%+v: %v", c, got)
		}
	}
	for _, c := range [][3]int{{0, 20, 0}, {1, 20, 1}, {20, 20, 1}, {21, 20, 2}, {5, 0, 1}} {
		if got := Pages(c[0], c[1]); got != c[2] {
			t.Errorf("%v: %d", c, got)
		}
	}
	for q, want := range map[string]string{
		"": "7", "n=3": "3", "n=0": "minimum", "n=-99999999999999999999": "type", "n=x": "type", "n=1.5": "type",
		"n=99999999999999999999": "2147483647", "n=3000000000": "2147483647",
	} {
		n, err := Number(httptest.NewRequest("GET", "/?"+q, nil), "n", 7, 1)
		got := fmt.Sprint(n)
		var bad *access.Invalid
		if errors.As(err, &bad) {
			got = bad.Fields[0].Kind
		}
		if got != want {
			t.Errorf("%q: %s", q, got)
		}
	}
}

func BenchmarkRequest(b *testing.B) {
	w := newWorld(b, Options{}, func(s *Server) { s.Mount(things()) })
	r := httptest.NewRequest("GET", "/things/7", nil)
	r.Header.Set("Authorization", "Bearer "+w.secret)
	for b.Loop() {
		rec := httptest.NewRecorder()
		w.ServeHTTP(rec, r)
		if rec.Code != 200 {
			b.Fatal(rec.Code)
		}
	}
}

// The rest of a secret path is in no line of the log.
func TestSecretPath(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Options{}, func(s *Server) {
		s.Mount(Dialect{
			Name: "hooks", Prefixes: []string{"/hooks"}, Secret: "/hooks/",
			Fail: func(w http.ResponseWriter, _ *http.Request, status int, _ error) { w.WriteHeader(status) },
			Table: map[string]Handler{"POST /hooks/{code}": func(w http.ResponseWriter, _ *http.Request, _ access.Actor) error {
				w.WriteHeader(http.StatusAccepted)
				return nil
			}},
			Open: map[string]bool{"POST /hooks/{code}": true},
		})
	})
	for method, path := range map[string]string{"POST": "/hooks/open-sesame", "GET": "/hooks/open-sesame", "PUT": "/hooks/open-sesame/x"} {
		w.ask(t, method, path, "")
	}
	if text := w.log.String(); strings.Contains(text, "sesame") || !strings.Contains(text, `"/hooks/***"`) {
		t.Error(text)
	}
}
