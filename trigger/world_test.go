package trigger

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"slipway/access"
	"slipway/db"
	"slipway/event"
	"slipway/pipeline"
	"slipway/project"
	"slipway/secret"
	"slipway/source"
)

func TestMain(m *testing.M) {
	slog.SetDefault(slog.New(slog.DiscardHandler))
	if dir := os.Getenv("TRIGGER_TEST_DIR"); dir != "" {
		clockChild(dir)
		return
	}
	if dir := os.Getenv("TRIGGER_TEST_FOLLOW"); dir != "" {
		followChild(dir)
		return
	}
	goleak.VerifyTestMain(m)
}

// world is a store with the rooms that the trigger knows, and no runner: what is
// started stays in the queue.
type world struct {
	t         testing.TB
	db        *db.DB
	projects  *project.Projects
	sources   *source.Sources
	pipelines *pipeline.Pipelines
	home      project.Workspace
	ann       access.Actor
	token     string
	pr        project.Project
}

// newWorld makes one, or opens the one that lies in dir.
func newWorld(t testing.TB, dir string) *world {
	t.Helper()
	w := &world{t: t}
	var err error
	ctx := context.Background()
	_, err = os.Stat(filepath.Join(dir, "token"))
	there := err == nil
	w.db, err = db.Open(ctx, filepath.Join(dir, "db"))
	w.must(err)
	a := access.New(w.db)
	w.projects = project.NewProjects(w.db)
	box, err := secret.OpenBox(filepath.Join(dir, "key"))
	w.must(err)
	secrets := secret.New(w.db, box, w.projects)
	w.sources, err = source.New(source.Config{Dir: filepath.Join(dir, "git")}, w.db, w.projects, secrets)
	w.must(err)
	w.pipelines = pipeline.New(pipeline.Config{}, w.db, a, w.projects, secrets, w.sources, nil, nil)
	if there {
		b, err := os.ReadFile(filepath.Join(dir, "token"))
		w.must(err)
		w.token = string(b)
	} else {
		w.token, err = a.Bootstrap(ctx, "ann", func(tx *db.Tx, u access.User) (err error) {
			w.home, err = project.BootstrapWorkspace(tx, "acme", u)
			return err
		}, nil)
		w.must(err)
		w.must(os.WriteFile(filepath.Join(dir, "token"), []byte(w.token), 0o600))
	}
	w.ann, err = a.Authenticate(ctx, w.token, "")
	w.must(err)
	if there {
		w.pr, err = w.projects.Find(ctx, w.ann, "acme", "web")
	} else {
		w.pr, err = w.projects.Create(ctx, w.ann, w.home.ID, project.New{Name: "web"})
	}
	w.must(err)
	return w
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) close() {
	w.t.Helper()
	w.must(w.db.Close())
}

// run begins a life of the trigger.
func (w *world) run() (stop func()) {
	ctx, cancel := context.WithCancelCause(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- New(w.db, event.New(w.db), w.sources, w.pipelines).Run(ctx) }()
	return func() {
		w.t.Helper()
		cancel(nil)
		if err := <-ended; err != nil && !errors.Is(err, context.Canceled) {
			w.t.Error(err)
		}
	}
}

func (w *world) pipeline(n pipeline.Pipeline) pipeline.Pipeline {
	w.t.Helper()
	if n.Name == "" {
		n.Name = "pipe"
	}
	p, err := w.pipelines.Create(context.Background(), w.ann, w.pr.ID, n)
	w.must(err)
	return p
}

func (w *world) change(p pipeline.Pipeline, f func(*pipeline.Pipeline)) {
	w.t.Helper()
	_, err := w.pipelines.Update(context.Background(), w.ann, p.ID, func(n *pipeline.Pipeline) error { f(n); return nil })
	w.must(err)
}

// started lists the executions of a pipeline, newest first.
func (w *world) started(p pipeline.Pipeline) []pipeline.Execution {
	w.t.Helper()
	l, _, err := w.pipelines.Executions(context.Background(), w.ann, p.ID, 0, 1000)
	w.must(err)
	return l
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
