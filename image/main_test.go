package image

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/crane"
	"go.uber.org/goleak"

	"slipway/access"
	"slipway/db"
	"slipway/engine"
	"slipway/engine/fake"
	"slipway/engine/local"
	"slipway/project"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "checkdb" { // asked by the local engine after a kill
		os.Exit(local.CheckDB(os.Args[2:]))
	}
	if len(os.Args) > 2 && os.Args[1] == "be-a-registry" {
		os.Exit(beARegistry(os.Args[2]))
	}
	goleak.VerifyTestMain(m)
}

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

// world is a server with two workspaces, team and rivals.
type world struct {
	t          testing.TB
	file       string
	db         *db.DB
	access     *access.Access
	projects   *project.Projects
	images     *Images
	eng        *fake.Engine
	store      engine.Images
	blobs      engine.Blobs
	team       project.Workspace
	rivals     project.Workspace
	ann, rob   string // tokens of their owners
	annA, robA access.Actor
	url, host  string
}

func newWorld(t testing.TB) *world {
	t.Helper()
	e := fake.New(t, t.TempDir())
	w := newWorldOn(t, e.Images(), e.Blobs())
	w.eng = e
	return w
}

func newWorldOn(t testing.TB, store engine.Images, blobs engine.Blobs) *world {
	t.Helper()
	w := &world{t: t, file: filepath.Join(t.TempDir(), "slipway.db"), store: store, blobs: blobs}
	w.open()
	t.Cleanup(func() { _ = w.db.Close() })
	ctx := t.Context()
	var err error
	w.ann, err = w.access.Bootstrap(ctx, "ann", func(tx *db.Tx, u access.User) (err error) {
		w.team, err = project.BootstrapWorkspace(tx, "team", u)
		return err
	}, nil)
	w.must(err)
	var rob access.User
	w.must(w.db.Write(ctx, func(tx *db.Tx) (err error) {
		if rob, err = access.AddUser(tx, access.User{Username: "rob"}); err != nil {
			return err
		}
		w.rivals, err = project.BootstrapWorkspace(tx, "rivals", rob)
		return err
	}))
	_, w.rob, err = w.access.CreateToken(ctx, access.System(rob), access.NewToken{Name: "rob", Scopes: access.Scopes()})
	w.must(err)
	w.annA, err = w.access.Authenticate(ctx, w.ann, "127.0.0.1")
	w.must(err)
	w.robA, err = w.access.Authenticate(ctx, w.rob, "127.0.0.1")
	w.must(err)
	s := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w.images.Handler(w.authenticate, http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
			rw.WriteHeader(http.StatusTeapot)
		})).ServeHTTP(rw, r)
	}))
	t.Cleanup(s.Close)
	w.url, w.host = s.URL, strings.TrimPrefix(s.URL, "http://")
	return w
}

// open begins a life of the server; after a kill it is called again.
func (w *world) open() {
	w.t.Helper()
	d, err := db.Open(w.t.Context(), w.file)
	w.must(err)
	w.db, w.access, w.projects = d, access.New(d), project.NewProjects(d)
	w.images = New(Config{Hosts: []string{"slipway.local", "Registry.Example:5000"}}, d, w.projects, w.store, w.blobs)
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) authenticate(r *http.Request) (access.Actor, error) {
	secret := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	if _, p, ok := r.BasicAuth(); ok {
		secret = p
	}
	if secret == "" {
		return access.Actor{}, fmt.Errorf("no token: %w", errdefs.ErrUnauthenticated)
	}
	return w.access.Authenticate(r.Context(), secret, "127.0.0.1")
}

func (w *world) as(token string) []crane.Option {
	return []crane.Option{crane.WithAuth(&authn.Basic{Username: "any", Password: token}), crane.Insecure, crane.WithContext(w.t.Context())}
}

// run starts the loop, as serve does; stop ends it.
func (w *world) run() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	images := w.images
	go func() { done <- images.Run(ctx) }()
	return func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Errorf("run: %v", err)
		}
	}
}

// token makes a token of ann with these scopes only.
func (w *world) token(scopes ...access.Scope) string {
	w.t.Helper()
	_, secret, err := w.access.CreateToken(w.t.Context(), w.annA, access.NewToken{Name: "t", Scopes: scopes})
	w.must(err)
	return secret
}

type answer struct {
	code   int
	body   string
	header http.Header
}

func (a answer) errCode() string {
	var e struct {
		Errors []struct{ Code, Message string }
	}
	if json.Unmarshal([]byte(a.body), &e) != nil || len(e.Errors) != 1 || e.Errors[0].Message == "" {
		return ""
	}
	return e.Errors[0].Code
}

// do asks the registry. A path that is no URL is below /v2/.
func (w *world) do(token, method, path string, body []byte, header ...string) answer {
	w.t.Helper()
	url := path
	if !strings.HasPrefix(url, "http://") {
		url = w.url + path
	}
	r, err := http.NewRequestWithContext(w.t.Context(), method, url, bytes.NewReader(body))
	w.must(err)
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	for _, h := range header {
		k, v, _ := strings.Cut(h, ": ")
		r.Header.Set(k, v)
	}
	res, err := http.DefaultTransport.RoundTrip(r)
	w.must(err)
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	w.must(err)
	return answer{res.StatusCode, string(b), res.Header}
}

// holds are those of the engine, by id without prefix.
func (w *world) holds() map[string]string {
	w.t.Helper()
	h, err := w.store.Holds(w.t.Context(), prefix)
	w.must(err)
	out := map[string]string{}
	for k, v := range h {
		out[strings.TrimPrefix(k, prefix)] = v
	}
	return out
}

func (w *world) count(query string, args ...any) (n int) {
	w.t.Helper()
	w.must(w.db.Read(w.t.Context(), func(tx *db.Tx) error { return tx.QueryRow(query, args...).Scan(&n) }))
	return n
}
