package pipeline

import (
	"context"
	"database/sql/driver"
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"modernc.org/sqlite"

	"slipway/access"
	"slipway/db"
	"slipway/engine/fake"
	"slipway/image"
	"slipway/logs"
	"slipway/project"
	"slipway/secret"
	"slipway/source"
)

// passings counts the calls of passing() in SQL, which fails the first time as a
// disk may.
var passings atomic.Int32

func TestMain(m *testing.M) {
	sqlite.MustRegisterScalarFunction("passing", 0, func(*sqlite.FunctionContext, []driver.Value) (driver.Value, error) {
		if passings.Add(1) == 1 {
			return nil, errors.New("disk I/O error")
		}
		return int64(1), nil
	})
	slog.SetDefault(slog.New(slog.DiscardHandler))
	goleak.VerifyTestMain(m)
}

// world is the room with the others that it needs, on a store and an engine of
// its own.
type world struct {
	*Pipelines
	t     testing.TB
	eng   *fake.Engine
	admin access.Actor
	home  project.Workspace
	pr    project.Project
	r     *Runner
	stop  func() // ends the runner as a shutdown does
	git   string // where source keeps what it has
}

func newWorld(t testing.TB, cfg Config) *world {
	t.Helper()
	dir := t.TempDir()
	w := &world{t: t, eng: fake.New(t, filepath.Join(dir, "engine")), git: filepath.Join(dir, "git")}
	d, err := db.Open(t.Context(), filepath.Join(dir, "x.db"))
	w.must(err)
	t.Cleanup(func() { w.must(d.Close()) })
	a := access.New(d)
	s, err := a.Bootstrap(t.Context(), "admin", func(tx *db.Tx, u access.User) (err error) {
		w.home, err = project.BootstrapWorkspace(tx, "acme", u)
		return err
	}, nil)
	w.must(err)
	w.admin, err = a.Authenticate(t.Context(), s, "")
	w.must(err)
	projects := project.NewProjects(d)
	box, err := secret.OpenBox(filepath.Join(dir, "key"))
	w.must(err)
	secrets := secret.New(d, box, projects)
	sources, err := source.New(source.Config{Dir: w.git}, d, projects, secrets)
	w.must(err)
	images := image.New(image.Config{Hosts: []string{"slipway.local"}}, d, projects, w.eng.Images(), w.eng.Blobs())
	l, err := logs.New(filepath.Join(dir, "logs"))
	w.must(err)
	w.Pipelines = New(cfg, d, a, projects, secrets, sources, images, l)
	w.pr, err = projects.Create(t.Context(), w.admin, w.home.ID, project.New{Name: "web"})
	w.must(err)
	w.eng.Publish("docker.io/library/busybox:latest", w.eng.Image("true"))
	w.run()
	return w
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// run begins a life of the runner, which ends with the test at the latest.
func (w *world) run() {
	w.t.Helper()
	r, err := NewRunner(w.Pipelines, w.eng, "test")
	w.must(err)
	w.r = r
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	stopped := false
	w.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
			w.t.Error(err)
		}
	}
	w.t.Cleanup(w.stop)
}

// restart ends the server and begins another one; containers go on meanwhile.
func (w *world) restart() {
	w.t.Helper()
	w.stop()
	w.eng = w.eng.Reopen()
	images := image.New(image.Config{Hosts: []string{"slipway.local"}}, w.db, w.projects, w.eng.Images(), w.eng.Blobs())
	w.Pipelines = New(w.cfg, w.db, w.access, w.projects, w.secrets, w.sources, images, w.logs)
	w.run()
}

func (w *world) pipeline(p Pipeline, actions ...Action) Pipeline {
	w.t.Helper()
	if p.Name == "" {
		p.Name = "pipe"
	}
	p, err := w.Create(w.t.Context(), w.admin, w.pr.ID, p)
	w.must(err)
	for _, a := range actions {
		if a.Name == "" {
			a.Name = "action"
		}
		_, err := w.CreateAction(w.t.Context(), w.admin, p.ID, a, nil)
		w.must(err)
	}
	return p
}

// sh is an action that runs words in busybox.
func sh(words string) Action {
	return Action{Name: "run", Run: &Run{Image: "busybox", Tag: "latest", Commands: words}}
}

func (w *world) start(p Pipeline, in Start) Execution {
	w.t.Helper()
	x, err := w.Start(w.t.Context(), w.admin, p.ID, in)
	w.must(err)
	return x
}

func (w *world) wait(x Execution) Execution {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 30*time.Second)
	defer cancel()
	y, err := w.Wait(ctx, w.admin, x.ID)
	if err != nil {
		w.t.Fatalf("execution %d is %s: %v", y.Number, w.words(y), err)
	}
	return y
}

// words is the status of an execution and of its actions.
func (w *world) words(x Execution) string {
	l := []string{string(x.Status)}
	for _, s := range x.Steps {
		word := string(s.Status)
		if s.Error != "" {
			word += "(" + s.Error + ")"
		}
		l = append(l, word)
	}
	return strings.Join(l, " ")
}

// expect waits for the end of an execution and compares its words.
func (w *world) expect(x Execution, want string) Execution {
	w.t.Helper()
	x = w.wait(x)
	if got := w.words(x); got != want {
		w.t.Fatalf("execution %d:\n got %s\nwant %s", x.Number, got, want)
	}
	return x
}

// until waits for something that becomes true soon.
func (w *world) until(what string, f func() bool) {
	w.t.Helper()
	for end := time.Now().Add(20 * time.Second); !f(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			w.t.Fatalf("%s did not come true", what)
		}
	}
}

func (w *world) lines(x Execution, step int) []string {
	w.t.Helper()
	l, _, err := w.Log(w.t.Context(), w.admin, x.ID, x.Steps[step].ID, logs.Query{})
	w.must(err)
	var out []string
	for _, n := range l {
		out = append(out, n.Text)
	}
	return out
}

// commit writes a file to the project's repository.
func (w *world) commit(path, text string) source.Commit {
	w.t.Helper()
	c, err := w.sources.Write(w.t.Context(), w.admin, w.pr.ID, "main", path, []byte(text), "write "+path)
	w.must(err)
	return c
}

// engineID of a step's first attempt.
func engineID(x Execution, step, attempt int) string {
	h := handling{x: x}
	s := x.Steps[step]
	s.Attempt = attempt
	return h.engineID(s)
}

// atomicError is an error that a test changes while others ask for it.
type atomicError struct{ at atomic.Pointer[error] }

func (a *atomicError) set(err error) { a.at.Store(&err) }

func (a *atomicError) get() error {
	if p := a.at.Load(); p != nil {
		return *p
	}
	return nil
}
