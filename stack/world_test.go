package stack

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"slipway/access"
	"slipway/db"
	"slipway/engine"
	"slipway/engine/fake"
	"slipway/event"
	"slipway/image"
	"slipway/ingress"
	"slipway/logs"
	"slipway/project"
	"slipway/secret"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv("STACK_TEST_DIR"); dir != "" {
		updateChild(dir)
		return
	}
	goleak.VerifyTestMain(m)
}

// rig is a server's worth of rooms on a real store and the fake engine.
type rig struct {
	t testing.TB
	*Stacks
	dir      string
	store    *db.DB
	rooms    Rooms
	cfg      Config
	access   *access.Access
	projects *project.Projects
	home     project.Workspace
	admin    access.Actor
	pr       project.Project
	eng      *fake.Engine
	table    *tables
	stop     func()
}

// tables is a router that remembers all it was given.
type tables struct {
	mu   sync.Mutex
	all  []ingress.Table
	fail error
}

func (r *tables) Set(_ context.Context, t ingress.Table) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fail != nil {
		return r.fail
	}
	r.all = append(r.all, t)
	return nil
}

func (r *tables) last() ingress.Table {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.all) == 0 {
		return ingress.Table{}
	}
	return r.all[len(r.all)-1]
}

func newRig(t testing.TB) *rig {
	t.Helper()
	w := openRig(t, t.TempDir())
	w.run()
	return w
}

// openRig makes one that does not run yet, or opens the one that lies in dir,
// with an engine that has none of its containers.
func openRig(t testing.TB, dir string) *rig {
	t.Helper()
	w := &rig{t: t, dir: dir, table: &tables{}}
	w.eng = fake.New(t, filepath.Join(w.dir, "engine"))
	d, err := db.Open(t.Context(), filepath.Join(w.dir, "x.db"))
	w.must(err)
	t.Cleanup(func() { w.must(d.Close()) })
	w.store = d
	w.access = access.New(d)
	token := filepath.Join(w.dir, "token")
	_, err = w.access.Bootstrap(t.Context(), "admin", func(tx *db.Tx, u access.User) (err error) {
		w.home, err = project.BootstrapWorkspace(tx, "acme", u)
		return err
	}, func(secret string) error { return os.WriteFile(token, []byte(secret), 0o600) })
	w.must(err)
	s, err := os.ReadFile(token)
	w.must(err)
	w.admin, err = w.access.Authenticate(t.Context(), string(s), "")
	w.must(err)
	w.projects = project.NewProjects(d)
	box, err := secret.OpenBox(filepath.Join(w.dir, "key"))
	w.must(err)
	l, err := logs.New(filepath.Join(w.dir, "logs"))
	w.must(err)
	w.rooms = Rooms{
		DB: d, Projects: w.projects, Secrets: secret.New(d, box, w.projects), Events: event.New(d),
		Ingresses: ingress.New(d, w.projects, "localhost"), Logs: l, Router: w.table,
	}
	if w.pr, err = w.projects.Find(t.Context(), w.admin, "acme", "web"); err != nil {
		w.pr, err = w.projects.Create(t.Context(), w.admin, w.home.ID, project.New{Name: "web", DisplayName: "Web"})
	}
	w.must(err)
	w.eng.Publish("docker.io/library/app:1", w.eng.Image("echo one"))
	w.eng.Publish("docker.io/library/app:2", w.eng.Image("echo two"))
	return w
}

func (w *rig) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// run begins a life of the server.
func (w *rig) run() {
	w.t.Helper()
	w.rooms.Engine = w.eng
	w.rooms.Images = image.New(image.Config{Hosts: []string{"slipway.local"}}, w.store, w.projects, w.eng.Images(), w.eng.Blobs())
	w.Stacks = New(w.cfg, w.rooms)
	ctx, cancel := context.WithCancelCause(context.Background())
	done := make(chan error, 1)
	s := w.Stacks
	go func() { done <- s.Run(ctx) }()
	w.stop = sync.OnceFunc(func() {
		cancel(engine.ErrDetach)
		if err := <-done; err != nil && !errors.Is(err, context.Canceled) && !errors.Is(err, engine.ErrDetach) {
			w.t.Error(err)
		}
	})
	w.t.Cleanup(w.stop)
}

// die ends this life as a kill -9 does, as far as one process can, and begins
// the next one.
func (w *rig) die() {
	w.t.Helper()
	old := w.eng
	w.eng = old.Reopen()
	w.stop()
	w.run()
}

func (w *rig) id() ID { return ID(w.pr.ID) }

// until waits for something to become true.
func (w *rig) until(what string, f func() bool) {
	w.t.Helper()
	for end := time.Now().Add(20 * time.Second); !f(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			st, _ := w.Get(context.Background(), w.admin, w.id())
			have, _ := w.eng.Observe(context.Background(), w.id().Owner())
			w.t.Fatalf("not in time: %s\n%+v\n%+v\n%v", what, st, have, w.eng.Calls())
		}
	}
}

func (w *rig) get() Stack {
	w.t.Helper()
	s, err := w.Get(w.t.Context(), w.admin, w.id())
	w.must(err)
	return s
}

func (w *rig) service(name string) Service {
	w.t.Helper()
	for _, s := range w.get().Services {
		if s.Name == name {
			return s
		}
	}
	return Service{}
}

func (w *rig) untilStatus(name string, s Status) Service {
	w.t.Helper()
	w.until(name+" is "+string(s), func() bool { return w.service(name).Status == s })
	return w.service(name)
}

// rest waits until what was wished is carried out.
func (w *rig) rest() {
	w.t.Helper()
	w.until("the generation is observed", func() bool { s := w.get(); return s.Generation == s.ObservedGeneration })
}

func (w *rig) put(services map[string]Definition, volumes ...string) Stack {
	w.t.Helper()
	d := Declaration{Services: map[string]Declared{}, Volumes: map[string]string{}}
	for n, s := range services {
		d.Services[n] = Declared{Definition: s}
	}
	for _, v := range volumes {
		d.Volumes[v] = ""
	}
	s, err := w.Put(w.t.Context(), w.admin, w.id(), d)
	w.must(err)
	return s
}

func (w *rig) have() []engine.Instance {
	w.t.Helper()
	have, err := w.eng.Observe(w.t.Context(), w.id().Owner())
	w.must(err)
	return have
}

// only waits until one container of a service is left, and gives it.
func (w *rig) only(s ServiceID) (out engine.Instance) {
	w.t.Helper()
	w.until("one container of "+string(s), func() bool {
		n := 0
		for _, i := range w.have() {
			if i.Service == string(s) {
				n++
				out = i
			}
		}
		return n == 1 && out.State == engine.Running
	})
	return out
}
