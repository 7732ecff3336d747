package local

import (
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	ggcr "github.com/google/go-containerregistry/pkg/registry"

	"slipway/engine"
)

// faulty is a registry with a token that ends, which is busy at times, and
// whose connections break.
type faulty struct {
	host string

	mu    sync.Mutex
	token string
	ends  int    // after so many blobs the token is the next; 0: never
	next  string // token
	busy  int    // so many answers are 429
	cut   int    // so many blobs break off, on their way in or out
	blobs int    // that came
}

func startFaulty(t *testing.T, f *faulty) *faulty {
	t.Helper()
	inner := ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0)))
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Header.Del("Range") // it knows none without an end
		user, password, _ := r.BasicAuth()
		blob := strings.Contains(r.URL.Path, "/blobs/") && (r.Method == http.MethodPut || r.Method == http.MethodGet)
		f.mu.Lock()
		good := user == "AWS" && password == f.token
		busy, cut := f.busy > 0, blob && good && f.busy == 0 && f.cut > 0
		if busy {
			f.busy--
		} else if cut {
			f.cut--
		}
		f.mu.Unlock()
		switch {
		case busy:
			w.WriteHeader(http.StatusTooManyRequests)
			return
		case !good:
			w.Header().Set("WWW-Authenticate", `Basic realm="ecr"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		case cut && r.Method == http.MethodPut:
			_, _ = io.CopyN(io.Discard, r.Body, 10)
			panic(http.ErrAbortHandler)
		case cut:
			rec := httptest.NewRecorder()
			inner.ServeHTTP(rec, r)
			w.Header().Set("Content-Length", rec.Header().Get("Content-Length"))
			w.WriteHeader(rec.Code)
			_, _ = w.Write(rec.Body.Bytes()[:rec.Body.Len()/2])
			panic(http.ErrAbortHandler)
		}
		rec := httptest.NewRecorder()
		inner.ServeHTTP(rec, r)
		f.mu.Lock()
		if rec.Code == http.StatusCreated && strings.Contains(r.URL.Path, "/blobs/") {
			if f.blobs++; f.blobs == f.ends {
				f.token = f.next
			}
		}
		f.mu.Unlock()
		for name, v := range rec.Header() {
			w.Header()[name] = v
		}
		w.WriteHeader(rec.Code)
		_, _ = w.Write(rec.Body.Bytes())
	}))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	t.Cleanup(s.Close)
	f.host = strings.TrimPrefix(s.URL, "http://")
	return f
}

// A push that its token ends in goes on with the next one, and sends nothing
// twice; a registry that is busy for a moment is asked again; a blob that breaks
// off on its way is fetched to its end, and pushed by the next try.
func TestRegistryWithFaults(t *testing.T) {
	b := open(t, func(opts *Options) { opts.PlainLoopback = true })
	ctx := t.Context()
	with := func(f *faulty, token string) []engine.Login {
		return []engine.Login{{Host: f.host, Username: "AWS", Password: token}}
	}
	t.Run("a token that ends", func(t *testing.T) {
		f := startFaulty(t, &faulty{token: "one", next: "two", ends: 1})
		d := b.tiny("a token that ends")
		err := b.Images().Push(ctx, d, f.host+"/team/app:1", with(f, "one"))
		if !errdefs.IsUnauthorized(err) || strings.Contains(err.Error(), `"one"`) {
			t.Fatalf("after its end: %v", err)
		}
		if err := b.Images().Push(ctx, d, f.host+"/team/app:1", with(f, "two")); err != nil {
			t.Fatal(err)
		}
		if f.blobs != 2 {
			t.Errorf("%d blobs were sent of 2", f.blobs)
		}
		if got, err := b.Images().Head(ctx, engine.PullSpec{Ref: f.host + "/team/app:1", Logins: with(f, "two")}); err != nil || got != d {
			t.Errorf("it is not there: %s, %v", got, err)
		}
	})
	t.Run("busy", func(t *testing.T) {
		f := startFaulty(t, &faulty{token: "one", busy: 2})
		d := b.tiny("busy")
		if err := b.Images().Push(ctx, d, f.host+"/team/app:1", with(f, "one")); err != nil {
			t.Error(err)
		}
		f.mu.Lock()
		f.busy = 1000
		f.mu.Unlock()
		if err := b.Images().Push(ctx, d, f.host+"/team/other:1", with(f, "one")); !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), "come later") {
			t.Errorf("busy for long: %v", err)
		}
	})
	t.Run("a blob that breaks off", func(t *testing.T) {
		f := startFaulty(t, &faulty{token: "one", cut: 1})
		d := b.tiny(strings.Repeat("a blob that breaks off ", 1000))
		err := b.Images().Push(ctx, d, f.host+"/team/app:1", with(f, "one"))
		if err != nil && !errdefs.IsUnavailable(err) {
			t.Errorf("on its way in: %v", err)
		}
		if err := b.Images().Push(ctx, d, f.host+"/team/app:1", with(f, "one")); err != nil {
			t.Fatalf("the next try: %v", err)
		}
		if err := b.Images().Release(ctx, "test/"+d); err != nil {
			t.Fatal(err)
		}
		b.collectNow(t)
		f.mu.Lock()
		f.cut = 1
		f.mu.Unlock()
		img, err := b.Images().Pull(ctx, engine.PullSpec{Ref: f.host + "/team/app:1", Logins: with(f, "one")})
		if err != nil || img.Digest != d {
			t.Errorf("on its way out: %+v, %v", img, err)
		}
	})
}
