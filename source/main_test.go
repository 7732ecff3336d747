package source

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"slipway/access"
	"slipway/db"
	"slipway/event"
	"slipway/project"
	"slipway/secret"
)

func TestMain(m *testing.M) {
	if child(os.Args) || checkoutChild(os.Args) || writeChild(os.Args) {
		return
	}
	goleak.VerifyTestMain(m)
}

// world is a server with one workspace "acme" of ann, who has a token.
type world struct {
	t        *testing.T
	dir      string
	db       *db.DB
	access   *access.Access
	projects *project.Projects
	events   *event.Outbox
	sources  *Sources
	ann      access.Actor
	token    string
	url      string // of the HTTP server
}

func newWorld(t *testing.T, cfg Config) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir()}
	w.open(cfg)
	t.Cleanup(func() { _ = w.db.Close() })
	var err error
	w.token, err = w.access.Bootstrap(t.Context(), "ann", func(tx *db.Tx, u access.User) error {
		_, err := project.BootstrapWorkspace(tx, "acme", u)
		return err
	}, func(string) error { return nil })
	must(t, err)
	w.ann, err = w.access.Authenticate(t.Context(), w.token, "127.0.0.1")
	must(t, err)
	srv := httptest.NewServer(w.sources.Handler(w.authenticate))
	t.Cleanup(srv.Close)
	w.url = srv.URL
	return w
}

func (w *world) open(cfg Config) {
	var err error
	w.db, err = db.Open(context.Background(), filepath.Join(w.dir, "db"))
	must(w.t, err)
	w.access = access.New(w.db)
	w.projects = project.NewProjects(w.db)
	w.events = event.New(w.db)
	box, err := secret.OpenBox(filepath.Join(w.dir, "master.key"))
	must(w.t, err)
	cfg.Dir = filepath.Join(w.dir, "git")
	w.sources, err = New(cfg, w.db, w.projects, secret.New(w.db, box, w.projects))
	must(w.t, err)
}

func (w *world) authenticate(rw http.ResponseWriter, r *http.Request) (access.Actor, bool) {
	_, token, ok := r.BasicAuth()
	if !ok {
		return access.Actor{}, true
	}
	by, err := w.access.Authenticate(r.Context(), token, "127.0.0.1")
	if err != nil {
		http.Error(rw, "wrong token", http.StatusUnauthorized)
		return by, false
	}
	return by, true
}

func (w *world) project(name string) project.Project {
	w.t.Helper()
	ws, err := w.projects.Workspace(w.t.Context(), w.ann, "acme")
	must(w.t, err)
	p, err := w.projects.Create(w.t.Context(), w.ann, ws.ID, project.New{Name: name, DisplayName: name})
	must(w.t, err)
	return p
}

// at is the URL of a repository with the token in it.
func (w *world) at(name string) string {
	return strings.Replace(w.url, "://", "://x:"+w.token+"@", 1) + URL("acme", name)
}

// pushes are the push events of the outbox.
func (w *world) pushes() []string {
	w.t.Helper()
	list, err := w.events.After(w.t.Context(), 0, 10000)
	must(w.t, err)
	var out []string
	for _, e := range list {
		if e.Kind == event.Pushed {
			out = append(out, string(e.Data))
		}
	}
	return out
}

// clone is a work tree of a client.
type clone struct {
	t   *testing.T
	dir string
}

func newClone(t *testing.T) *clone {
	t.Helper()
	c := &clone{t, t.TempDir()}
	c.git("init", "-q", "-b", "main")
	return c
}

func gitEnv(more ...string) []string {
	return append([]string{
		"PATH=" + os.Getenv("PATH"), "HOME=/nonexistent", "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null", "GIT_TERMINAL_PROMPT=0", "LC_ALL=C",
		"GIT_AUTHOR_NAME=Ann", "GIT_AUTHOR_EMAIL=ann@example.com", "GIT_COMMITTER_NAME=Ann", "GIT_COMMITTER_EMAIL=ann@example.com",
		"GIT_AUTHOR_DATE=2026-01-02T03:04:05Z", "GIT_COMMITTER_DATE=2026-01-02T03:04:05Z",
		"GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=protocol.file.allow", "GIT_CONFIG_VALUE_0=always",
	}, more...)
}

func (c *clone) try(args ...string) (string, error) {
	cmd := exec.Command("git", args...)
	cmd.Dir, cmd.Env = c.dir, gitEnv()
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

func (c *clone) git(args ...string) string {
	c.t.Helper()
	out, err := c.try(args...)
	if err != nil {
		c.t.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

func (c *clone) write(name, text string) {
	c.t.Helper()
	p := filepath.Join(c.dir, name)
	must(c.t, os.MkdirAll(filepath.Dir(p), 0o755))
	must(c.t, os.WriteFile(p, []byte(text), 0o644))
}

// commit commits everything and gives the hash.
func (c *clone) commit(message string) string {
	c.t.Helper()
	c.git("add", "-A")
	c.git("commit", "-q", "--allow-empty", "-m", message)
	return c.git("rev-parse", "HEAD")
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	end := time.Now().Add(20 * time.Second)
	for !ok() {
		if time.Now().After(end) {
			t.Fatalf("waited in vain: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func contains(t *testing.T, text, part string) {
	t.Helper()
	if !strings.Contains(text, part) {
		t.Errorf("%q is not in:\n%s", part, text)
	}
}

func read(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	must(t, err)
	return string(b)
}
