// Package apitest is what the tests of the dialects share: rooms to serve, and
// exchanges with a vendor's clients that are replayed.
package apitest

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"slipway/access"
	"slipway/db"
	"slipway/engine/fake"
	"slipway/event"
	"slipway/image"
	"slipway/logs"
	"slipway/pipeline"
	"slipway/project"
	"slipway/secret"
	"slipway/source"
)

// Rooms are real rooms on a store of their own, over a fake engine. They end
// with the test.
type Rooms struct {
	T        testing.TB
	Dir      string // for whatever the test wants to keep, too
	DB       *db.DB
	Engine   *fake.Engine
	Access   *access.Access
	Projects *project.Projects
	Secrets  *secret.Secrets
	Sources  *source.Sources
	Images   *image.Images
	Logs     *logs.Logs

	Home  project.Workspace
	Admin access.Actor // the owner of Home
	Token string       // Admin's

	Language pipeline.Language // of definitions in files
}

// NewRooms makes rooms with one user, who owns one workspace. Dir of cfg is set.
func NewRooms(t testing.TB, admin, home string, cfg source.Config) *Rooms {
	t.Helper()
	dir := t.TempDir()
	r := &Rooms{T: t, Dir: dir, Engine: fake.New(t, filepath.Join(dir, "engine"))}
	var err error
	r.DB, err = db.Open(t.Context(), filepath.Join(dir, "x.db"))
	r.Must(err)
	t.Cleanup(func() { r.Must(r.DB.Close()) })
	r.Access = access.New(r.DB)
	r.Token, err = r.Access.Bootstrap(t.Context(), admin, func(tx *db.Tx, u access.User) (err error) {
		r.Home, err = project.BootstrapWorkspace(tx, home, u)
		return err
	}, nil)
	r.Must(err)
	r.Admin, err = r.Access.Authenticate(t.Context(), r.Token, "")
	r.Must(err)
	r.Projects = project.NewProjects(r.DB)
	box, err := secret.OpenBox(filepath.Join(dir, "key"))
	r.Must(err)
	r.Secrets = secret.New(r.DB, box, r.Projects)
	cfg.Dir = filepath.Join(dir, "git")
	r.Sources, err = source.New(cfg, r.DB, r.Projects, r.Secrets)
	r.Must(err)
	r.Images = image.New(image.Config{Hosts: []string{"slipway.local"}}, r.DB, r.Projects, r.Engine.Images(), r.Engine.Blobs())
	r.Logs, err = logs.New(filepath.Join(dir, "logs"))
	r.Must(err)
	return r
}

// Must ends the test if there is an error.
func (r *Rooms) Must(err error) {
	r.T.Helper()
	if err != nil {
		r.T.Fatal(err)
	}
}

// Pipelines makes that room, and runs what is started in it.
func (r *Rooms) Pipelines(publicURL string) *pipeline.Pipelines {
	r.T.Helper()
	p := pipeline.New(pipeline.Config{PublicURL: publicURL, Language: r.Language}, r.DB, r.Access, r.Projects, r.Secrets, r.Sources, r.Images, r.Logs)
	runner, err := pipeline.NewRunner(p, r.Engine, "test")
	r.Must(err)
	r.run(runner.Run)
	return p
}

// Files makes the front door of the file systems of pipelines.
func (r *Rooms) Files(p *pipeline.Pipelines) *pipeline.Files {
	r.T.Helper()
	f, err := pipeline.NewFiles(p, r.Engine)
	r.Must(err)
	return f
}

// Hooks makes that room, which may tell addresses of this host, and runs it.
func (r *Rooms) Hooks(payload func(context.Context, event.Event) ([]byte, error)) *event.Hooks {
	r.T.Helper()
	h := event.NewHooks(event.HookConfig{Private: true, Owner: "test", Payload: payload}, r.DB, r.Secrets.Box())
	r.run(h.Run)
	return h
}

// run runs a loop until the test ends.
func (r *Rooms) run(loop func(context.Context) error) {
	ctx, cancel := context.WithCancelCause(context.Background())
	done := make(chan error, 1)
	go func() { done <- loop(ctx) }()
	r.T.Cleanup(func() {
		cancel(nil)
		if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
			r.T.Error(err)
		}
	})
}

// Until asks again and again till the answer is the one that is waited for, and
// gives it.
func Until(t testing.TB, what string, ask func() (answer map[string]any, ok bool)) map[string]any {
	t.Helper()
	late := time.After(20 * time.Second)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		answer, ok := ask()
		if ok {
			return answer
		}
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("not in time: %s: %v", what, answer)
		}
	}
}
