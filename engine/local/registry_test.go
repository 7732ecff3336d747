package local

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
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
	"slipway/engine/enginetest"
)

// outside is somebody's registry.
type outside struct {
	*httptest.Server
	host string
	ca   []byte

	mu   sync.Mutex
	seen []string // "METHOD path"
	down bool
}

const rightPassword = "right-4711"

// startRegistry starts one: with TLS and a CA of its own, or by plain HTTP; how
// is "", "basic" or "token".
func startRegistry(t testing.TB, tls bool, how string) *outside {
	t.Helper()
	o := &outside{}
	inner := ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0)))
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		o.mu.Lock()
		o.seen = append(o.seen, r.Method+" "+r.URL.Path)
		down := o.down
		o.mu.Unlock()
		if down {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		user, password, basic := r.BasicAuth()
		right := basic && user == "ann" && password == rightPassword
		switch {
		case r.URL.Path == "/token" && r.Method == http.MethodPost: // as many: no OAuth
			w.WriteHeader(http.StatusMethodNotAllowed)
			return
		case r.URL.Path == "/token":
			if basic && !right {
				http.Error(w, `{"details":"incorrect username or password"}`, http.StatusUnauthorized)
				return
			}
			token := "nothing"
			if right {
				token = "granted"
			}
			_ = json.NewEncoder(w).Encode(map[string]string{"token": token})
			return
		case how == "basic" && !right:
			w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			http.Error(w, `{"errors":[{"code":"UNAUTHORIZED","message":"no"}]}`, http.StatusUnauthorized)
			return
		case how == "token" && r.Header.Get("Authorization") != "Bearer granted":
			challenge := `Bearer realm="` + o.URL + `/token",service="test"`
			if r.Header.Get("Authorization") != "" {
				challenge += `,error="insufficient_scope"`
			}
			w.Header().Set("WWW-Authenticate", challenge)
			http.Error(w, `{"errors":[{"code":"UNAUTHORIZED","message":"no"}]}`, http.StatusUnauthorized)
			return
		}
		inner.ServeHTTP(w, r)
	})
	if tls {
		o.Server = httptest.NewTLSServer(h)
		o.Config.ErrorLog = log.New(io.Discard, "", 0)
		o.ca = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: o.Certificate().Raw})
	} else {
		o.Server = httptest.NewServer(h)
	}
	t.Cleanup(o.Close)
	o.host = strings.TrimPrefix(strings.TrimPrefix(o.URL, "https://"), "http://")
	return o
}

// startPage starts a server that is no registry and has a page for every path.
func startPage(t testing.TB) (host string) {
	t.Helper()
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write([]byte("<html>hello")) }))
	t.Cleanup(web.Close)
	return strings.TrimPrefix(web.URL, "http://")
}

func (o *outside) login(password string) []engine.Login {
	return []engine.Login{{Host: o.host, Username: "ann", Password: password}}
}

func (o *outside) requests(prefix string) (n int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, s := range o.seen {
		if strings.HasPrefix(s, prefix) {
			n++
		}
	}
	return n
}

func (o *outside) stop(down bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.down = down
}

// tiny is an image of one file, loaded and held.
func (b *bench) tiny(content string) string {
	b.t.Helper()
	i := enginetest.Image{Layer: enginetest.Tar(b.t, nil, nil, map[string][]byte{"file": []byte(content)})}
	i.Config.OS, i.Config.Architecture = "linux", "amd64"
	return b.keep(i)
}

func (b *bench) keep(i enginetest.Image) string {
	b.t.Helper()
	l, err := b.Images().Load(context.Background(), bytes.NewReader(enginetest.Archive(b.t, i)))
	if err != nil {
		b.t.Fatal(err)
	}
	if err := b.Images().Hold(context.Background(), "test/"+l[0].Digest, l[0].Digest); err != nil {
		b.t.Fatal(err)
	}
	return l[0].Digest
}

func TestRegistries(t *testing.T) {
	for _, c := range []struct {
		name string
		tls  bool
		how  string
	}{{"open", true, ""}, {"basic", true, "basic"}, {"token", true, "token"}, {"plain", false, ""}, {"plain with basic", false, "basic"}} {
		t.Run(c.name, func(t *testing.T) {
			o := startRegistry(t, c.tls, c.how)
			b := open(t, func(opts *Options) { opts.CAs, opts.PlainLoopback = [][]byte{o.ca}, true })
			ctx := t.Context()
			d := b.tiny("hello " + c.name)
			ref := o.host + "/team/app:1.0"
			if err := b.Images().Push(ctx, d, ref, o.login(rightPassword)); err != nil {
				t.Fatal(err)
			}
			if err := b.Images().Release(ctx, "test/"+d); err != nil {
				t.Fatal(err)
			}
			b.collectNow(t)
			if _, err := b.Images().Inspect(ctx, d, ""); !errdefs.IsNotFound(err) {
				t.Fatalf("it is still here: %v", err)
			}
			spec := engine.PullSpec{Ref: ref, Logins: o.login(rightPassword)}
			if got, err := b.Images().Head(ctx, spec); err != nil || got != d {
				t.Errorf("head: %s %v", got, err)
			}
			img, err := b.Images().Pull(ctx, spec)
			if err != nil {
				t.Fatal(err)
			}
			if img.Digest != d {
				t.Errorf("pulled %s, not %s", img.Digest, d)
			}
			if img, err = b.Images().Pull(ctx, engine.PullSpec{Ref: o.host + "/team/app@" + d, Logins: o.login(rightPassword)}); err != nil || img.Digest != d {
				t.Errorf("by digest: %+v %v", img, err)
			}
			if _, err := b.Images().Pull(ctx, engine.PullSpec{Ref: o.host + "/team/none:1", Logins: o.login(rightPassword)}); !errdefs.IsNotFound(err) {
				t.Errorf("an unknown image: %v", err)
			}
			if err := b.Images().CheckLogin(ctx, o.login(rightPassword)[0]); err != nil {
				t.Errorf("a check of the right login: %v", err)
			}
			if err := b.Images().CheckLogin(ctx, engine.Login{Host: o.host}); err != nil {
				t.Errorf("a check without a login: %v", err)
			}
			if c.how == "" {
				return
			}
			refused := func(what string, err error, who string) {
				t.Helper()
				if !errdefs.IsUnauthorized(err) || !strings.Contains(err.Error(), o.host) || !strings.Contains(err.Error(), who) || strings.Contains(err.Error(), "wrong-0815") {
					t.Errorf("%s: %v", what, err)
				}
			}
			_, err = b.Images().Pull(ctx, engine.PullSpec{Ref: ref, Logins: o.login("wrong-0815")})
			refused("a pull with the wrong password", err, "user ann")
			_, err = b.Images().Head(ctx, engine.PullSpec{Ref: ref, Logins: o.login("wrong-0815")})
			refused("a head with the wrong password", err, "user ann")
			refused("a check of the wrong password", b.Images().CheckLogin(ctx, o.login("wrong-0815")[0]), "user ann")
			refused("a push with the wrong password", b.Images().Push(ctx, d, ref, o.login("wrong-0815")), "user ann")
			_, err = b.Images().Pull(ctx, engine.PullSpec{Ref: ref})
			refused("a pull without a login", err, "login")
		})
	}
}

func TestRegistriesThatFail(t *testing.T) {
	o := startRegistry(t, true, "")
	web := startPage(t)
	b := open(t, func(opts *Options) { opts.PlainLoopback = true }) // without the CA
	ctx := t.Context()
	d := b.tiny("x")
	for _, c := range []struct {
		name, ref string
		logins    []engine.Login
		is        func(error) bool
	}{
		{"an unknown CA", o.host + "/a/b:1", nil, func(err error) bool { return err != nil && strings.Contains(err.Error(), "certificate") }},
		{"nobody listens", "127.0.0.1:1/a/b:1", nil, errdefs.IsUnavailable},
		{"no such host", "no-such-host.invalid/a/b:1", nil, errdefs.IsUnavailable},
		{"no registry", web + "/a/b:1", nil, errdefs.IsFailedPrecondition},
		{"nonsense", "???", nil, errdefs.IsInvalidArgument},
	} {
		if _, err := b.Images().Pull(ctx, engine.PullSpec{Ref: c.ref, Logins: c.logins}); !c.is(err) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	insecure := []engine.Login{{Host: o.host, Insecure: true}}
	if err := b.Images().Push(ctx, d, o.host+"/a/b:1", insecure); err != nil {
		t.Errorf("without a look at the certificate: %v", err)
	}
	if img, err := b.Images().Pull(ctx, engine.PullSpec{Ref: o.host + "/a/b:1", Logins: insecure}); err != nil || img.Digest != d {
		t.Errorf("without a look at the certificate: %v", err)
	}
	if err := b.Images().Push(ctx, "sha256:"+strings.Repeat("0", 64), o.host+"/a/b:1", insecure); !errdefs.IsNotFound(err) {
		t.Errorf("a push of nothing: %v", err)
	}
}

func TestMirror(t *testing.T) {
	o := startRegistry(t, false, "")
	b := open(t, func(opts *Options) {
		opts.PlainLoopback = true
		opts.Mirrors = map[string]string{"docker.io": o.URL, "reg.invalid": o.URL + "/sub"}
	})
	ctx := t.Context()
	d := b.tiny("mirrored")
	if err := b.Images().Push(ctx, d, o.host+"/library/app:1", nil); err != nil {
		t.Fatal(err)
	}
	secret := []engine.Login{{Host: "docker.io", Username: "ann", Password: rightPassword}}
	if got, err := b.Images().Head(ctx, engine.PullSpec{Ref: "docker.io/library/app:1", Logins: secret}); err != nil || got != d {
		t.Errorf("%s %v", got, err)
	}
	if _, err := b.Images().Head(ctx, engine.PullSpec{Ref: "reg.invalid/library/app:1"}); err == nil || o.requests("HEAD /sub/v2/library/app/") == 0 {
		t.Errorf("a mirror below a path: %v", err)
	}
	// A login is for its host alone; whether there is a registry is what a pull
	// would find.
	if err := b.Images().CheckLogin(ctx, engine.Login{Host: "reg.invalid", Username: "ann", Password: rightPassword}); !errdefs.IsUnavailable(err) {
		t.Errorf("a login of a host with a mirror: %v", err)
	}
	if err := b.Images().CheckLogin(ctx, engine.Login{Host: "index.docker.io"}); err != nil || o.requests("GET /v2/") == 0 {
		t.Errorf("a host with a mirror: %v", err)
	}
}
