package mittwald

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"slipway/access"
	"slipway/api"
	"slipway/db"
	"slipway/engine"
	"slipway/engine/fake"
	"slipway/event"
	"slipway/image"
	"slipway/ingress"
	"slipway/logs"
	"slipway/project"
	"slipway/secret"
	"slipway/stack"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is a server of the dialect on a real store and the fake engine.
type world struct {
	t      testing.TB
	srv    *httptest.Server
	server *api.Server
	access *access.Access
	rooms  Rooms
	eng    *fake.Engine
	home   project.Workspace
	pr     project.Project
	admin  access.Actor
	token  string
}

type noRouter struct{}

func (noRouter) Set(context.Context, ingress.Table) error { return nil }

func newWorld(t testing.TB) *world {
	t.Helper()
	dir := t.TempDir()
	w := &world{t: t, eng: fake.New(t, filepath.Join(dir, "engine"))}
	d, err := db.Open(t.Context(), filepath.Join(dir, "x.db"))
	w.must(err)
	t.Cleanup(func() { w.must(d.Close()) })
	w.access = access.New(d)
	w.token, err = w.access.Bootstrap(t.Context(), "admin", func(tx *db.Tx, u access.User) (err error) {
		w.home, err = project.BootstrapWorkspace(tx, "acme", u)
		return err
	}, nil)
	w.must(err)
	w.admin, err = w.access.Authenticate(t.Context(), w.token, "")
	w.must(err)
	projects := project.NewProjects(d)
	box, err := secret.OpenBox(filepath.Join(dir, "key"))
	w.must(err)
	l, err := logs.New(filepath.Join(dir, "logs"))
	w.must(err)
	ingresses := ingress.New(d, projects, "localhost")
	secrets := secret.New(d, box, projects)
	stacks := stack.New(stack.Config{}, stack.Rooms{
		DB: d, Projects: projects, Secrets: secrets, Events: event.New(d), Ingresses: ingresses, Logs: l,
		Images: image.New(image.Config{Hosts: []string{"slipway.local"}}, d, projects, w.eng.Images(), w.eng.Blobs()),
		Engine: w.eng, Router: noRouter{},
	})
	w.pr, err = projects.Create(t.Context(), w.admin, w.home.ID, project.New{DisplayName: "My project"})
	w.must(err)
	for _, ref := range []string{"nginx:1", "nginx:2", "my-registry/my-container:v1.0.1"} {
		full, err := image.Normalize(ref)
		w.must(err)
		w.eng.Publish(full, w.eng.Image("echo "+ref))
	}
	w.eng.Protect("guarded.example:5000", "ann", "right-4711")
	w.eng.NoRegistry("page.example")
	w.eng.Unreachable("away.example")
	w.rooms = Rooms{Projects: projects, Secrets: secrets, Stacks: stacks, Ingresses: ingresses, IPs: []netip.Addr{netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("2001:db8::7")}}
	w.server = api.NewServer(w.access, api.Options{})
	w.server.Mount(New(w.rooms))
	w.srv = httptest.NewServer(w.server)
	t.Cleanup(w.srv.Close)
	ctx, cancel := context.WithCancelCause(context.Background())
	done := make(chan error, 1)
	go func() { done <- stacks.Run(ctx) }()
	t.Cleanup(sync.OnceFunc(func() {
		cancel(engine.ErrDetach)
		if err := <-done; err != nil && !errors.Is(err, context.Canceled) && !errors.Is(err, engine.ErrDetach) {
			t.Error(err)
		}
	}))
	return w
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// do sends one request and gives the answer with its body.
func (w *world) do(method, path, token, body string) (*http.Response, []byte) {
	w.t.Helper()
	req, err := http.NewRequestWithContext(context.Background(), method, w.srv.URL+path, strings.NewReader(body))
	w.must(err)
	if token != "" {
		req.Header.Set("X-Access-Token", token)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := w.srv.Client().Do(req)
	w.must(err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	w.must(err)
	return resp, b
}

// parse reads JSON; numbers stay as they are written.
func parse(b []byte) (v any, err error) {
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	err = d.Decode(&v)
	return v, err
}

func noFilter() ingress.Filter { return ingress.Filter{} }
