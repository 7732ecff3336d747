package trigger

import (
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"slipway/access"
	"slipway/pipeline"
	"slipway/project"
	"slipway/source"
)

func TestPushStartsWhatAsksForIt(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	w := newWorld(t, t.TempDir())
	defer w.close()
	ann, sources, pipelines, p, must := w.ann, w.sources, w.pipelines, w.pr, w.must
	other, err := w.projects.Create(ctx, ann, w.home.ID, project.New{Name: "other"})
	must(err)
	add := func(in project.ID, name string, n pipeline.Pipeline) pipeline.ID {
		t.Helper()
		n.Name = name
		made, err := pipelines.Create(ctx, ann, in, n)
		must(err)
		return made.ID
	}
	on := func(kind string, refs ...string) pipeline.Pipeline {
		return pipeline.Pipeline{Events: []pipeline.EventRule{{Type: kind, Refs: refs}}}
	}
	ids := map[string]pipeline.ID{
		"push main": add(p.ID, "push main", on(pipeline.EventPush, "refs/heads/main")),
		"push all":  add(p.ID, "push all", on(pipeline.EventPush, "refs/heads/*")),
		"new":       add(p.ID, "new", on(pipeline.EventCreateRef, "refs/heads/*")),
		"tags":      add(p.ID, "tags", on(pipeline.EventPush, "refs/tags/*")),
		"on event":  add(p.ID, "on event", pipeline.Pipeline{On: "EVENT", Refs: []string{"refs/heads/main"}}),
		"on click":  add(p.ID, "on click", pipeline.Pipeline{On: "CLICK", Refs: []string{"refs/heads/main"}}),
		"refs only": add(p.ID, "refs only", pipeline.Pipeline{Refs: []string{"refs/heads/main"}}),
		"disabled":  add(p.ID, "disabled", pipeline.Pipeline{On: "EVENT", Refs: []string{"refs/heads/main"}, Disabled: true}),
		"elsewhere": add(other.ID, "elsewhere", on(pipeline.EventPush, "refs/heads/main")),
	}
	defer w.run()()

	want := map[string][]string{}
	push := func(branch string, starts ...string) {
		t.Helper()
		c, err := sources.Write(ctx, ann, p.ID, branch, "f", []byte(time.Now().String()), "")
		must(err)
		for _, name := range starts {
			want[name] = append([]string{c.Revision + " " + branch}, want[name]...)
		}
		// Nothing else starts, and nothing twice: all is settled when the events
		// have been handled, in their order.
		end := time.Now().Add(10 * time.Second)
		for name, id := range ids {
			for {
				list, _, err := pipelines.Executions(ctx, ann, id, 0, 100)
				must(err)
				var got []string
				for _, x := range list {
					if x.By != ann.User.ID {
						t.Errorf("%s: started by %d", name, x.By)
					}
					got = append(got, x.Commit.Revision+" "+x.Branch)
				}
				if slices.Equal(got, want[name]) {
					break
				}
				if time.Now().After(end) || len(got) > len(want[name]) {
					t.Fatalf("%s after a push to %s: %v, want %v", name, branch, got, want[name])
				}
				time.Sleep(5 * time.Millisecond)
			}
		}
	}
	push("main", "push main", "push all", "new", "on event")
	push("main", "push main", "push all", "on event")
	push("dev", "push all", "new")
	push("dev", "push all")
}

// Refs that are made, moved and deleted by git start what asks for just that.
func TestGitPushes(t *testing.T) {
	t.Parallel()
	w := newWorld(t, t.TempDir())
	defer w.close()
	srv := httptest.NewServer(w.sources.Handler(func(http.ResponseWriter, *http.Request) (access.Actor, bool) { return w.ann, true }))
	defer srv.Close()
	on := func(kind string, refs ...string) pipeline.Pipeline {
		return w.pipeline(pipeline.Pipeline{Name: kind, Events: []pipeline.EventRule{{Type: kind, Refs: refs}}, NoSkip: true})
	}
	all := []pipeline.Pipeline{
		on(pipeline.EventPush, "refs/heads/*", "refs/tags/v*"),
		on(pipeline.EventCreateRef, "refs/*"),
		on(pipeline.EventDeleteRef, "refs/heads/feature/*", "refs/tags/*"),
	}
	defer w.run()()
	dir := t.TempDir()
	git := func(args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "git", args...)
		cmd.Dir = dir
		cmd.Env = []string{
			"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "GIT_CONFIG_NOSYSTEM=1", "GIT_AUTHOR_NAME=Ann", "GIT_AUTHOR_EMAIL=ann@example.com",
			"GIT_COMMITTER_NAME=Ann", "GIT_COMMITTER_EMAIL=ann@example.com",
		}
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("git %v: %v: %s", args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	git("init", "-q", "-b", "main")
	commit := func(text string) string {
		t.Helper()
		w.must(os.WriteFile(filepath.Join(dir, "f"), []byte(text), 0o600))
		git("add", "-A")
		git("commit", "-qm", text)
		return git("rev-parse", "HEAD")
	}
	want := make([][]string, len(all))
	push := func(what string, starts map[string]string) {
		t.Helper()
		git(append([]string{"push", "-q", srv.URL + source.URL("acme", "web")}, strings.Fields(what)...)...)
		for i, p := range all {
			if x, ok := starts[p.Name]; ok {
				want[i] = append([]string{x}, want[i]...)
			}
		}
		for i, p := range all {
			var got []string
			w.until(p.Name+" after push "+what, func() bool {
				got = nil
				for _, x := range w.started(p) {
					got = append(got, x.Commit.Revision+" "+x.Branch+x.Tag)
				}
				return len(got) >= len(want[i])
			})
			if !slices.Equal(got, want[i]) {
				t.Fatalf("%s after push %s: %v, want %v", p.Name, what, got, want[i])
			}
		}
	}
	one := commit("one")
	push("main", map[string]string{"PUSH": one + " main", "CREATE_REF": one + " main"})
	two := commit("two")
	push("main", map[string]string{"PUSH": two + " main"})
	push("HEAD:refs/heads/feature/a", map[string]string{"PUSH": two + " feature/a", "CREATE_REF": two + " feature/a"})
	push(one+":refs/tags/v1", map[string]string{"PUSH": one + " v1", "CREATE_REF": one + " v1"})
	push(one+":refs/tags/other", map[string]string{"CREATE_REF": one + " other"})
	push(":refs/heads/feature/a", map[string]string{"DELETE_REF": two + " feature/a"})
	push("--delete v1", map[string]string{"DELETE_REF": one + " v1"})
	push(one+":refs/heads/main --force", map[string]string{"PUSH": one + " main"})
}
