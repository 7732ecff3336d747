package pipeline

import (
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"

	"slipway/access"
	"slipway/db"
	"slipway/project"
)

func TestStartRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	w.commit("a", "b")
	p := w.pipeline(Pipeline{CommentRequired: true}, sh("true"))
	off := w.pipeline(Pipeline{Disabled: true, Reason: "holidays"}, sh("true"))
	empty, err := w.projects.Create(t.Context(), w.admin, w.home.ID, project.New{Name: "empty"})
	w.must(err)
	bare, err := w.Create(t.Context(), w.admin, empty.ID, Pipeline{Name: "bare"})
	w.must(err)
	for _, c := range []struct {
		id   ID
		in   Start
		want string
	}{
		{p.ID, Start{}, "comment"},
		{p.ID, Start{Comment: "x", Revision: "nope"}, "to_revision.revision"},
		{p.ID, Start{Comment: "x", Branch: "nope"}, "branch.name"},
		{p.ID, Start{Comment: "x", Tag: "nope"}, "tag.name"},
		{p.ID, Start{Comment: "x", Tag: "a", Branch: "b"}, "tag"},
		{p.ID, Start{Comment: "x", PullRequest: "pull/1"}, "pull_request.name"},
		{p.ID, Start{Comment: "x", Priority: "URGENT"}, "priority"},
		{p.ID, Start{Comment: "x", Only: []ActionID{999}}, "actions_to_run"},
		{p.ID, Start{Comment: "x", Variables: []Variable{{}}}, "variables.0.key"},
		{off.ID, Start{}, "pipeline"},
		{bare.ID, Start{Branch: "main"}, "to_revision.revision"},
		{bare.ID, Start{Revision: strings.Repeat("a", 40)}, "to_revision.revision"},
	} {
		_, err := w.Start(t.Context(), w.admin, c.id, c.in)
		inv, ok := project.AsInvalid(err)
		if !ok || len(inv.Fields) == 0 || inv.Fields[0].Path != c.want {
			t.Errorf("%+v: %v", c.in, err)
		}
	}
	x := w.expect(w.start(bare, Start{Revision: "HEAD"}), "SUCCESSFUL")
	if x.Commit != nil || x.Branch != "" {
		t.Errorf("without a source: %+v", x)
	}
}

func TestActor(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	p := w.pipeline(Pipeline{}, sh("true"))
	x := w.wait(w.start(p, Start{}))
	_, s, err := w.access.CreateToken(t.Context(), w.admin, access.NewToken{Name: "weak", Scopes: []access.Scope{access.Workspace}})
	w.must(err)
	weak, err := w.access.Authenticate(t.Context(), s, "")
	w.must(err)
	for who, by := range map[string]access.Actor{"nobody": {}, "weak": weak} {
		is := errdefs.IsNotFound
		if who == "weak" {
			is = errdefs.IsPermissionDenied
		}
		ctx := t.Context()
		for name, f := range map[string]func() error{
			"Create":       func() error { _, err := w.Create(ctx, by, w.pr.ID, Pipeline{}); return err },
			"List":         func() error { _, err := w.List(ctx, by, w.pr.ID); return err },
			"Get":          func() error { _, err := w.Get(ctx, by, p.ID); return err },
			"Update":       func() error { _, err := w.Update(ctx, by, p.ID, nil); return err },
			"Delete":       func() error { return w.Delete(ctx, by, p.ID) },
			"CreateAction": func() error { _, err := w.CreateAction(ctx, by, p.ID, Action{}, nil); return err },
			"Actions":      func() error { _, err := w.Actions(ctx, by, p.ID); return err },
			"Action":       func() error { _, err := w.Action(ctx, by, p.ID, 1); return err },
			"UpdateAction": func() error { _, err := w.UpdateAction(ctx, by, p.ID, 1, nil, nil); return err },
			"DeleteAction": func() error { return w.DeleteAction(ctx, by, p.ID, 1) },
			"Start":        func() error { _, err := w.Start(ctx, by, p.ID, Start{}); return err },
			"Execution":    func() error { _, err := w.Execution(ctx, by, x.ID); return err },
			"Numbered":     func() error { _, err := w.Numbered(ctx, by, p.ID, 1); return err },
			"Executions":   func() error { _, _, err := w.Executions(ctx, by, p.ID, 0, 1); return err },
			"Operate":      func() error { _, err := w.Operate(ctx, by, x.ID, OpRetry); return err },
			"Log":          func() error { _, err := w.step(ctx, by, x.ID, x.Steps[0].ID); return err },
		} {
			if err := f(); !is(err) {
				t.Errorf("%s %s: %v", who, name, err)
			}
		}
	}
}

func TestPlace(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	p := w.pipeline(Pipeline{})
	add := func(name string, after *ActionID) ActionID {
		t.Helper()
		a := sh("true")
		a.Name = name
		a, err := w.CreateAction(t.Context(), w.admin, p.ID, a, after)
		w.must(err)
		return a.ID
	}
	order := func(want string) {
		t.Helper()
		l, err := w.Actions(t.Context(), w.admin, p.ID)
		w.must(err)
		var names []string
		for _, a := range l {
			names = append(names, a.Name)
		}
		if diff := cmp.Diff(want, strings.Join(names, " ")); diff != "" {
			t.Error(diff)
		}
	}
	first, zero := add("a", nil), ActionID(0)
	last := add("b", nil)
	order("a b")
	add("c", &first)
	order("a c b")
	add("d", &zero)
	order("d a c b")
	_, err := w.UpdateAction(t.Context(), w.admin, p.ID, first, func(*Action) error { return nil }, &last)
	w.must(err)
	order("d c b a")
	bad := ActionID(999)
	if _, err := w.CreateAction(t.Context(), w.admin, p.ID, sh("true"), &bad); !errdefs.IsInvalidArgument(err) {
		t.Errorf("behind none: %v", err)
	}
	order("d c b a")
	w.must(w.DeleteAction(t.Context(), w.admin, p.ID, last))
	order("d c a")
}

func TestSweepLogs(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	w.must(w.SweepLogs(t.Context())) // there is none yet
	x := w.expect(w.start(w.pipeline(Pipeline{}, sh("echo here")), Start{}), "SUCCESSFUL SUCCESSFUL")
	const gone = "6d3c7e3e-0000-4000-8000-000000000000"
	w.must(w.logs.Append(w.logs.Action(gone, "a"), nil, "of a project that is gone"))
	w.must(w.SweepLogs(t.Context()))
	if got := w.logs.Executions(); len(got) != 1 || got[0] != string(x.ID) {
		t.Errorf("left: %q", got)
	}
	if got := w.lines(x, 0); len(got) != 1 || got[0] != "here" {
		t.Errorf("its log: %q", got)
	}
}

// What a project had stays as long as it can be restored, and no longer.
func TestOfARemovedProject(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	w.commit("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")
	p := w.pipeline(Pipeline{}, Action{Name: "b", Build: &Build{Dockerfile: "Dockerfile", Repository: "app", Tag: "1"}})
	x := w.expect(w.start(p, Start{}), "SUCCESSFUL SUCCESSFUL")
	left := func() (executions, tags, logs int, files bool) {
		t.Helper()
		w.must(w.SweepLogs(t.Context()))
		files, err := w.Living(t.Context(), p.ID.Owner())
		w.must(err)
		w.must(w.db.Read(t.Context(), func(tx *db.Tx) error {
			return tx.QueryRow(`SELECT (SELECT COUNT(*) FROM executions), (SELECT COUNT(*) FROM image_tags)`).Scan(&executions, &tags)
		}))
		return executions, tags, len(w.logs.Executions()), files
	}
	w.must(w.projects.Delete(t.Context(), w.admin, w.pr.ID))
	_, err := w.projects.Remove(t.Context(), time.Hour)
	w.must(err)
	if e, i, l, f := left(); e != 1 || i != 1 || l != 1 || !f {
		t.Errorf("while it can be restored: %d executions, %d tags, %d logs, files %v", e, i, l, f)
	}
	_, err = w.projects.Remove(t.Context(), -time.Second)
	w.must(err)
	if e, i, l, f := left(); e+i+l != 0 || f {
		t.Errorf("then: %d executions, %d tags, %d logs of %s, files %v", e, i, l, x.ID, f)
	}
}
