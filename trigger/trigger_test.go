package trigger

import (
	"context"
	"path/filepath"
	"slices"
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

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestPushStartsWhatAsksForIt(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	dir := t.TempDir()
	d, err := db.Open(ctx, filepath.Join(dir, "db"))
	must(err)
	defer func() { _ = d.Close() }()
	a, projects := access.New(d), project.NewProjects(d)
	var home project.Workspace
	token, err := a.Bootstrap(ctx, "ann", func(tx *db.Tx, u access.User) (err error) {
		home, err = project.BootstrapWorkspace(tx, "acme", u)
		return err
	}, nil)
	must(err)
	ann, err := a.Authenticate(ctx, token, "")
	must(err)
	box, err := secret.OpenBox(filepath.Join(dir, "key"))
	must(err)
	secrets := secret.New(d, box, projects)
	sources, err := source.New(source.Config{Dir: filepath.Join(dir, "git")}, d, projects, secrets)
	must(err)
	pipelines := pipeline.New(pipeline.Config{}, d, a, projects, secrets, sources, nil, nil)
	p, err := projects.Create(ctx, ann, home.ID, project.New{Name: "web"})
	must(err)
	other, err := projects.Create(ctx, ann, home.ID, project.New{Name: "other"})
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
	outbox := event.New(d)
	trigger := New(d, outbox, sources, pipelines)
	running, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- trigger.Run(running) }()
	defer func() { stop(); <-ended }()

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
