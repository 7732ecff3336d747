package trigger

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"slipway/access"
	"slipway/pipeline"
	"slipway/project"
	"slipway/source"
)

// tree is a work tree of a client of the world's git server.
func (w *world) tree() (git func(args ...string) string, at string) {
	w.t.Helper()
	yes := true
	_, err := w.projects.Update(context.Background(), w.ann, w.pr.ID, project.Change{PullRequests: &yes})
	w.must(err)
	srv := httptest.NewServer(w.sources.Handler(func(http.ResponseWriter, *http.Request) (access.Actor, bool) { return w.ann, true }))
	w.t.Cleanup(srv.Close)
	dir := w.t.TempDir()
	git = func(args ...string) string {
		w.t.Helper()
		cmd := exec.CommandContext(w.t.Context(), "git", args...)
		cmd.Dir = dir
		cmd.Env = []string{
			"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "GIT_CONFIG_NOSYSTEM=1", "GIT_AUTHOR_NAME=Ann", "GIT_AUTHOR_EMAIL=ann@example.com",
			"GIT_COMMITTER_NAME=Ann", "GIT_COMMITTER_EMAIL=ann@example.com",
		}
		out, err := cmd.CombinedOutput()
		if err != nil {
			w.t.Fatalf("git %v: %v: %s", args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	git("init", "-q", "-b", "main")
	w.must(os.WriteFile(filepath.Join(dir, "f"), []byte("1"), 0o600))
	git("add", "-A")
	git("commit", "-qm", "one")
	return git, srv.URL + source.URL("acme", "web")
}

// What git pushes to refs/pull/<number>/head starts the pipelines that ask for pull
// requests, and those alone.
func TestPullRequests(t *testing.T) {
	t.Parallel()
	w := newWorld(t, t.TempDir())
	defer w.close()
	git, at := w.tree()
	on := func(name string, branches []string, events ...string) pipeline.Pipeline {
		return w.pipeline(pipeline.Pipeline{Name: name, NoSkip: name != "latest", Events: []pipeline.EventRule{{Type: pipeline.EventPullRequest, Branches: branches, Events: events}}})
	}
	main, closed, latest := on("main", []string{"main"}), on("closed", nil, "closed"), on("latest", nil)
	pushed := w.pipeline(pipeline.Pipeline{Name: "pushed", Events: []pipeline.EventRule{{Type: pipeline.EventPush, Refs: []string{"*"}}}})
	defer w.run()()
	git("push", "-q", at, "main")
	head := git("rev-parse", "HEAD")
	git("push", "-q", at, "HEAD:refs/pull/12/head")
	git("push", "-q", "-o", "base=dev", at, "HEAD:refs/pull/13/head")
	for _, m := range []string{"two", "three"} {
		git("commit", "-q", "--allow-empty", "-m", m)
		git("push", "-q", at, "HEAD:refs/heads/work", "HEAD:refs/pull/12/head")
	}
	git("push", "-q", at, ":refs/pull/12/head")
	w.until("all has started", func() bool {
		return len(w.started(main)) == 3 && len(w.started(closed)) == 1 && len(w.started(latest)) == 4 && len(w.started(pushed)) == 3
	})
	x := w.started(main)[2]
	if x.PullRequest != "pull/12/head" || x.Head != "main" || x.Base != "main" || x.Commit.Revision != head || x.Mode != pipeline.ByPull || x.By != w.ann.User.ID || x.Fork {
		t.Errorf("%+v", x)
	}
	if x := w.started(main)[0]; x.Head != "work" || x.Fork || x.Commit.Revision != git("rev-parse", "HEAD") {
		t.Errorf("%+v", x)
	}
	if x := w.started(closed)[0]; x.PullRequest != "pull/12/head" || x.Commit.Revision != git("rev-parse", "HEAD") {
		t.Errorf("%+v", x)
	}
	// A newer run of the same pull request replaces the one that waits.
	var all []string
	for _, x := range w.started(latest) {
		all = append(all, x.PullRequest+" "+string(x.Status))
	}
	if got := strings.Join(all, ", "); got != "pull/12/head ENQUEUED, pull/12/head SKIPPED, pull/13/head ENQUEUED, pull/12/head ENQUEUED" {
		t.Error(got)
	}
}

// A server that is killed while it handles a pull request handles it once.
func TestKilledPullRequest(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	w := newWorld(t, dir)
	git, at := w.tree()
	p := w.pipeline(pipeline.Pipeline{Events: []pipeline.EventRule{{Type: pipeline.EventPullRequest}}})
	git("push", "-q", at, "HEAD:refs/heads/main", "HEAD:refs/pull/1/head")
	w.close()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), "TRIGGER_TEST_FOLLOW="+dir, "SLIPWAY_CRASH=trigger: a pull request is handled")
	out, _ := cmd.CombinedOutput()
	if s, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || s.Signal() != syscall.SIGKILL {
		t.Fatalf("%v: %s", cmd.ProcessState, out)
	}
	w = newWorld(t, dir)
	defer w.close()
	if l := w.started(p); len(l) != 0 { // the transaction was not at its end
		t.Errorf("%+v", l)
	}
	defer w.run()()
	w.until("it is started", func() bool { return len(w.started(p)) > 0 })
	if l := w.started(p); len(l) != 1 {
		t.Errorf("%d executions", len(l))
	}
}

// followChild handles what is in the outbox.
func followChild(dir string) {
	newWorld(&fatal{}, dir).run()
	time.Sleep(20 * time.Second) // it does not come to that
}
