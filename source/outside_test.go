package source

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"slipway/access"
)

// between is a server before the outside of a linked project; what it does not
// answer itself it passes on.
func (l *linked) between(answer func(w http.ResponseWriter, r *http.Request, body string) bool) {
	l.t.Helper()
	to, err := url.Parse(l.url)
	must(l.t, err)
	proxy := httputil.NewSingleHostReverseProxy(to)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		r.Body = io.NopCloser(bytes.NewReader(b))
		if !answer(w, r, string(b)) {
			proxy.ServeHTTP(w, r)
		}
	}))
	l.t.Cleanup(srv.Close)
	must(l.t, l.here.sources.SetRemote(l.t.Context(), l.here.ann, l.q.ID, &Remote{URL: srv.URL + URL("acme", "web"), Username: "x", Password: l.token}))
}

// A login is for the host that it was given for, wherever that one leads.
func TestLoginStaysWithItsHost(t *testing.T) {
	t.Parallel()
	l := newLinked(t)
	l.push("one")
	var mu sync.Mutex
	var heard []string
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		heard = append(heard, r.Method+" "+r.URL.Path+" "+r.Header.Get("Authorization"))
		mu.Unlock()
		// It asks for none, so that git goes on.
		l.sources.Handler(func(http.ResponseWriter, *http.Request) (access.Actor, bool) { return l.ann, true }).ServeHTTP(w, r)
	}))
	t.Cleanup(other.Close)
	_, port, _ := strings.Cut(strings.TrimPrefix(other.URL, "http://"), ":")
	for _, code := range []int{301, 302, 307, 308} {
		for _, host := range []string{"127.0.0.1", "localhost"} {
			l.between(func(w http.ResponseWriter, r *http.Request, _ string) bool {
				http.Redirect(w, r, "http://"+host+":"+port+r.URL.RequestURI(), code)
				return true
			})
			_, err := l.here.sources.Resolve(t.Context(), l.q.ID, "", "HEAD")
			if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "leads on to another address") {
				t.Errorf("%d to %s: %v", code, host, err)
			}
		}
	}
	for _, h := range heard {
		if !strings.HasSuffix(h, " ") {
			t.Errorf("another server got a login: %s", h)
		}
	}
}

// Who waits for an answer does not wait for an outside that gives none.
func TestSlowOutside(t *testing.T) {
	t.Parallel()
	l := newLinked(t)
	l.c.write("f", "1")
	one := l.push("one")
	const patience = time.Second
	l.here.sources.patience = patience
	over := make(chan struct{})
	t.Cleanup(func() { close(over) }) // before the servers are closed
	stalled := func(what string) {
		l.between(func(_ http.ResponseWriter, r *http.Request, body string) bool {
			if !strings.Contains(body, what) {
				return false
			}
			select {
			case <-r.Context().Done():
			case <-over:
			}
			return true
		})
	}
	stalled("")
	begun := time.Now()
	ask := func(revision string) (err error) {
		if revision == "" {
			_, err = l.here.sources.DefaultBranch(t.Context(), l.q.ID)
		} else {
			_, err = l.here.sources.Resolve(t.Context(), l.q.ID, "", revision)
		}
		return err
	}
	for _, revision := range []string{"", "HEAD", "main", one[:9]} {
		if err := ask(revision); !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), "http://127.0.0.1:") || !strings.HasSuffix(err.Error(), "/git/acme/web.git did not answer within "+patience.String()+": unavailable") {
			t.Errorf("%s: %v", revision, err)
		}
	}
	if d := time.Since(begun); d > 20*time.Second {
		t.Errorf("it took %s", d)
	}
	// Which commit it is was told: what it says can be fetched by who has time.
	if c, err := l.here.sources.Resolve(t.Context(), l.q.ID, "", one); err != nil || *c != (Commit{Revision: one}) {
		t.Errorf("a full hash: %+v, %v", c, err)
	}
	stalled("command=fetch")
	c, err := l.here.sources.Resolve(t.Context(), l.q.ID, "", "main")
	if err != nil || *c != (Commit{Revision: one}) {
		t.Errorf("a slow fetch: %+v, %v", c, err)
	}
	gaveUp := make(chan struct{})
	l.between(func(_ http.ResponseWriter, r *http.Request, body string) bool {
		if strings.Contains(body, "command=fetch") {
			select {
			case <-gaveUp:
			case <-r.Context().Done():
			}
		}
		return false
	})
	short := func() error { return ask(one[:9]) }
	if err := short(); !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), "try again in some minutes, or give the full hash") {
		t.Errorf("a short hash: %v", err)
	}
	close(gaveUp)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- l.here.sources.Run(ctx) }()
	until(t, "who asks again finds what was fetched meanwhile", func() bool { return short() == nil })
	cancel()
	<-done
	must(t, l.here.sources.forget(t.Context(), l.q.ID))
	if c, err := l.here.sources.Commit(t.Context(), l.q.ID, one); err != nil || c.Subject != "one" {
		t.Errorf("with time: %+v, %v", c, err)
	}
}

// What an outside repository sends has a bound, and what did come goes at once.
func TestTooLargeOutside(t *testing.T) {
	t.Parallel()
	l := newLinked(t)
	l.here.sources.cfg.MaxPush = 64 << 10
	small := l.push("small")
	big := make([]byte, 256<<10)
	_, _ = rand.Read(big)
	l.c.write("f", string(big))
	hash := l.push("big")
	for range 2 {
		_, err := l.here.sources.Resolve(t.Context(), l.q.ID, "", "HEAD")
		if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "/git/acme/web.git sends more at once than this server takes") {
			t.Errorf("too large: %v", err)
		}
		if left, _ := filepath.Glob(filepath.Join(l.here.sources.mirrorPath(l.q.ID), "objects/pack/*")); len(left) != 0 {
			t.Errorf("left: %q", left)
		}
	}
	if c, err := l.here.sources.Resolve(t.Context(), l.q.ID, "", small); err != nil || c.Revision != small {
		t.Errorf("what is small enough: %+v, %v", c, err)
	}
	l.here.sources.cfg.MaxPush = 1 << 20
	if c, err := l.here.sources.Resolve(t.Context(), l.q.ID, "", "HEAD"); err != nil || c.Revision != hash {
		t.Errorf("with a higher bound: %+v, %v", c, err)
	}
}

// A mirror that is used for years does not keep all that was ever asked for.
func TestMirrorIsTrimmed(t *testing.T) {
	t.Parallel()
	l := newLinked(t)
	s := l.here.sources
	var hashes []string
	for i := range 3 {
		l.c.write("f", fmt.Sprint(i))
		hashes = append(hashes, l.push(fmt.Sprint(i)))
		l.out(hashes[i], 1)
	}
	dir := s.mirrorPath(l.q.ID)
	g := &clone{t, dir}
	var refs strings.Builder
	for i := range 2 * newest { // as if as many newer ones had been asked for
		fmt.Fprintf(&refs, "create refs/slipway/0-%d %s\n", i, hashes[2])
	}
	_, err := s.git.run(t.Context(), call{repo: dir, args: []string{"update-ref", "--stdin"}, stdin: strings.NewReader(refs.String())})
	must(t, err)
	s.tidy(t.Context())
	if n := len(strings.Fields(g.git("for-each-ref", "--format=x"))); n != newest {
		t.Errorf("%d refs, want %d", n, newest)
	}
	if s.has(t.Context(), dir, hashes[0]) || !s.has(t.Context(), dir, hashes[2]) {
		t.Error("the old commit is there, or the new one is not")
	}
	g.git("fsck", "--full", "--strict")
	l.out(hashes[0], 1) // it is fetched again
	l.out(hashes[1], 2)
	l.out(hashes[2], 0)
	g.git("fsck", "--full", "--strict")
}
