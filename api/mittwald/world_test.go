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
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.uber.org/goleak"

	"slipway/access"
	"slipway/api"
	"slipway/api/apitest"
	"slipway/engine"
	"slipway/engine/fake"
	"slipway/event"
	"slipway/image"
	"slipway/ingress"
	"slipway/project"
	"slipway/source"
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
	r := apitest.NewRooms(t, "admin", "acme", source.Config{})
	w := &world{t: t, eng: r.Engine, access: r.Access, home: r.Home, admin: r.Admin, token: r.Token}
	ingresses := ingress.New(r.DB, r.Projects, "localhost")
	stacks := stack.New(stack.Config{}, stack.Rooms{
		DB: r.DB, Projects: r.Projects, Secrets: r.Secrets, Events: event.New(r.DB), Ingresses: ingresses, Logs: r.Logs,
		Images: r.Images, Engine: w.eng, Router: noRouter{},
	})
	var err error
	w.pr, err = r.Projects.Create(t.Context(), w.admin, w.home.ID, project.New{DisplayName: "My project"})
	w.must(err)
	for _, ref := range []string{"nginx:1", "nginx:2", "my-registry/my-container:v1.0.1"} {
		full, err := image.Normalize(ref)
		w.must(err)
		w.eng.Publish(full, w.eng.Image("echo "+ref))
	}
	w.eng.Publish("guarded.example:5000/team/app:1", w.eng.Image("echo guarded"))
	w.eng.Publish("docker.io/library/rich:1", w.rich())
	w.eng.Protect("guarded.example:5000", "ann", "right-4711")
	w.eng.NoRegistry("page.example")
	w.eng.Unreachable("away.example")
	w.rooms = Rooms{Access: r.Access, PublicURL: "https://slipway.test", Projects: r.Projects, Secrets: r.Secrets, Stacks: stacks, Ingresses: ingresses, IPs: []netip.Addr{netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("2001:db8::7")}}
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

// rich makes an image that says more of itself than fake.Engine.Image lets it.
func (w *world) rich() string {
	w.t.Helper()
	put := func(media string, body []byte) ocispec.Descriptor {
		b, err := w.eng.Blobs().Create(w.t.Context(), string(digest.FromBytes(body)))
		w.must(err)
		_, err = b.Write(body)
		w.must(err)
		w.must(b.Commit(w.t.Context(), string(digest.FromBytes(body))))
		return ocispec.Descriptor{MediaType: media, Digest: digest.FromBytes(body), Size: int64(len(body))}
	}
	encode := func(v any) []byte {
		b, err := json.Marshal(v)
		w.must(err)
		return b
	}
	layer := []byte("a layer")
	config := put(ocispec.MediaTypeImageConfig, encode(ocispec.Image{
		Platform: ocispec.Platform{OS: "linux", Architecture: runtime.GOARCH},
		Config: ocispec.ImageConfig{
			User: "1000:100", Entrypoint: []string{"/bin/app"}, Env: []string{"A=b=c"},
			ExposedPorts: map[string]struct{}{"80/tcp": {}}, Volumes: map[string]struct{}{"/data": {}},
		},
		RootFS: ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromBytes(layer)}},
	}))
	d, err := w.eng.Blobs().PutManifest(w.t.Context(), ocispec.MediaTypeImageManifest, encode(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: config, Layers: []ocispec.Descriptor{put(ocispec.MediaTypeImageLayer, layer)},
	}))
	w.must(err)
	return d
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
