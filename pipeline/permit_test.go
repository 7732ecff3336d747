package pipeline

import (
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"pgregory.net/rapid"

	"slipway/access"
	"slipway/logs"
)

func TestNarrow(t *testing.T) {
	t.Parallel()
	const user, group, better = 7, 3, 4
	p := func(others string, grants ...string) *Permissions {
		p := &Permissions{Others: others}
		for _, g := range grants {
			who, level, _ := strings.Cut(g, " ")
			switch who {
			case "user":
				p.Users = append(p.Users, Grant{user, level})
			case "other":
				p.Users = append(p.Users, Grant{user + 1, level})
			case "group":
				p.Groups = append(p.Groups, Grant{group, level})
			case "better":
				p.Groups = append(p.Groups, Grant{better, level})
			case "strangers":
				p.Groups = append(p.Groups, Grant{99, level})
			}
		}
		return p
	}
	for _, c := range []struct {
		p               *Permissions
		info, run, edit string
	}{
		{nil, "ok", "ok", "ok"},
		{p(""), "ok", "ok", "ok"},
		{p("DEFAULT"), "ok", "ok", "ok"},
		{p("ALLOWED"), "ok", "ok", "ok"},
		{p("READ_WRITE"), "ok", "ok", "ok"},
		{p("RUN_ONLY"), "ok", "ok", "no"},
		{p("READ_ONLY"), "ok", "no", "no"},
		{p("DENIED"), "hidden", "hidden", "hidden"},
		{p("DENIED", "user RUN_ONLY"), "ok", "ok", "no"},
		{p("DENIED", "other RUN_ONLY", "strangers READ_WRITE"), "hidden", "hidden", "hidden"},
		{p("DENIED", "user DEFAULT"), "ok", "ok", "ok"},
		{p("DENIED", "group READ_ONLY"), "ok", "no", "no"},
		{p("DENIED", "group READ_ONLY", "better RUN_ONLY"), "ok", "ok", "no"},
		{p("DENIED", "better DEFAULT", "group READ_ONLY"), "ok", "ok", "ok"},
		{p("READ_WRITE", "group DENIED"), "hidden", "hidden", "hidden"},
		{p("READ_WRITE", "user READ_ONLY", "group READ_WRITE"), "ok", "no", "no"},
	} {
		for s, want := range map[access.Scope]string{access.ExecutionInfo: c.info, access.ExecutionRun: c.run, access.ExecutionManage: c.edit} {
			got := "ok"
			switch err := narrow(c.p.level(user, []int64{1, group, better}), s); {
			case errdefs.IsNotFound(err):
				got = "hidden"
			case errdefs.IsPermissionDenied(err):
				got = "no"
			case err != nil:
				got = err.Error()
			}
			if got != want {
				t.Errorf("%+v, %s: %s, want %s", c.p, s, got, want)
			}
		}
	}
}

// member puts a new member into the project and gives it as an actor.
func (w *world) member(email string, set int64) access.Actor {
	w.t.Helper()
	m, err := w.access.Invite(w.t.Context(), w.admin, w.home.ID, email, func(*access.MemberOf) error { return nil })
	w.must(err)
	if set != 0 {
		_, err = w.access.AddProjectMember(w.t.Context(), w.admin, w.home.ID, string(w.pr.ID), m.User.ID, set)
		w.must(err)
	}
	_, s, err := w.access.CreateToken(w.t.Context(), access.System(m.User), access.NewToken{Name: "all", Scopes: access.Scopes()})
	w.must(err)
	a, err := w.access.Authenticate(w.t.Context(), s, "")
	w.must(err)
	return a
}

// What a pipeline and its actions leave to members, at every door.
func TestPermissions(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	ctx := t.Context()
	reader, developer, nobody := w.member("r@example.com", 1), w.member("d@example.com", 2), w.member("n@example.com", 0)
	run := func(name string) Action {
		return Action{Name: name, Run: &Run{Image: "busybox", Tag: "latest", Commands: "true"}}
	}
	pl, err := w.Create(ctx, w.admin, w.pr.ID, Pipeline{Name: "open"})
	w.must(err)
	shown, err := w.CreateAction(ctx, w.admin, pl.ID, run("shown"), nil)
	w.must(err)
	hidden, err := w.CreateAction(ctx, w.admin, pl.ID, run("hidden"), nil)
	w.must(err)
	x, err := w.Start(ctx, w.admin, pl.ID, Start{})
	w.must(err)
	_, err = w.Wait(ctx, w.admin, x.ID)
	w.must(err)

	const ok, no, gone = "ok", "no", "gone"
	say := func(err error) string {
		switch {
		case err == nil:
			return ok
		case errdefs.IsNotFound(err):
			return gone
		case errdefs.IsPermissionDenied(err):
			return no
		}
		return err.Error()
	}
	doors := []struct {
		name string
		try  func(by access.Actor) error
	}{
		{"get", func(by access.Actor) error { _, err := w.Get(ctx, by, pl.ID); return err }},
		{"action", func(by access.Actor) error { _, err := w.Action(ctx, by, pl.ID, hidden.ID); return err }},
		{"execution", func(by access.Actor) error { _, err := w.Execution(ctx, by, x.ID); return err }},
		{"log", func(by access.Actor) error {
			whole, err := w.Execution(ctx, w.admin, x.ID)
			if err == nil {
				_, _, err = w.Log(ctx, by, x.ID, whole.Steps[1].ID, logs.Query{Limit: 1})
			}
			return err
		}},
		{"run", func(by access.Actor) error { _, err := w.Start(ctx, by, pl.ID, Start{}); return err }},
		{"run shown", func(by access.Actor) error {
			_, err := w.Start(ctx, by, pl.ID, Start{Only: []ActionID{shown.ID}})
			return err
		}},
		{"edit", func(by access.Actor) error {
			_, err := w.Update(ctx, by, pl.ID, func(*Pipeline) error { return nil })
			return err
		}},
		{"edit action", func(by access.Actor) error {
			_, err := w.UpdateAction(ctx, by, pl.ID, hidden.ID, func(*Action) error { return nil }, nil)
			return err
		}},
		{"add action", func(by access.Actor) error { _, err := w.CreateAction(ctx, by, pl.ID, Action{}, nil); return orOK(err) }},
	}
	look := func(what string, by access.Actor, want string) {
		t.Helper()
		var got []string
		for _, d := range doors {
			if s := say(d.try(by)); s != ok {
				got = append(got, d.name+" "+s)
			}
		}
		if s := strings.Join(got, ", "); s != want {
			t.Errorf("%s:\n got %s\nwant %s", what, s, want)
		}
	}
	set := func(p, a *Permissions) {
		t.Helper()
		_, err := w.Update(ctx, w.admin, pl.ID, func(n *Pipeline) error { n.Permissions = p; return nil })
		w.must(err)
		_, err = w.UpdateAction(ctx, w.admin, pl.ID, hidden.ID, func(n *Action) error { n.Permissions = a; return nil }, nil)
		w.must(err)
	}
	const nothing = "get gone, action gone, execution gone, log gone, run gone, run shown gone, edit gone, edit action gone, add action gone"
	const readOnly = "run no, run shown no, edit no, edit action no, add action no"
	look("admin", w.admin, "")
	look("nobody", nobody, nothing)
	look("reader", reader, readOnly)
	look("developer", developer, "")
	set(&Permissions{Others: "READ_WRITE"}, nil)
	look("a reader is given no more", reader, readOnly)
	set(&Permissions{Others: "RUN_ONLY"}, nil)
	look("run only", developer, "edit no, edit action no, add action no")
	set(&Permissions{Others: "DENIED", Users: []Grant{{developer.User.ID, "READ_ONLY"}}}, nil)
	look("one may read", developer, readOnly)
	look("the others nothing", reader, nothing)
	look("whoever runs the workspace all", w.admin, "")
	if l, err := w.List(ctx, reader, w.pr.ID); err != nil || len(l) != 0 {
		t.Error(l, err)
	}
	if l, n, err := w.Search(ctx, reader, Search{Workspace: w.home.ID, Limit: 10}); err != nil || len(l) != 0 || n != 0 {
		t.Error(l, n, err)
	}
	if l, _, err := w.Search(ctx, developer, Search{Workspace: w.home.ID, Limit: 10}); err != nil || len(l) == 0 {
		t.Error(l, err)
	}
	if l, n, err := w.Search(ctx, nobody, Search{Workspace: w.home.ID, Limit: 10}); err != nil || len(l) != 0 || n != 0 {
		t.Error(l, n, err)
	}
	set(nil, &Permissions{Others: "DENIED"})
	look("an action is hidden", developer, "action gone, log gone, run no, edit action gone")
	if l, err := w.Actions(ctx, developer, pl.ID); err != nil || len(l) != 1 || l[0].ID != shown.ID {
		t.Error(l, err)
	}
	if got, err := w.Numbered(ctx, developer, pl.ID, x.Number); err != nil || len(got.Steps) != 1 {
		t.Error(got.Steps, err)
	}
	if got, err := w.Numbered(ctx, w.admin, pl.ID, x.Number); err != nil || len(got.Steps) != 2 {
		t.Error(got.Steps, err)
	}
	if x, err := w.Start(ctx, developer, pl.ID, Start{Only: []ActionID{shown.ID}}); err != nil || len(x.Steps) != 1 {
		t.Error(x.Steps, err)
	}
	set(nil, &Permissions{Others: "READ_ONLY"})
	look("an action may be read only", developer, "run no, edit action no")
	if _, err := w.Operate(ctx, reader, x.ID, OpRetry); !errdefs.IsPermissionDenied(err) {
		t.Error(err)
	}
}

// orOK takes bad input for a door that is open.
func orOK(err error) error {
	if errdefs.IsInvalidArgument(err) {
		return nil
	}
	return err
}

// Both leave nobody more than either does.
func TestBoth(t *testing.T) {
	t.Parallel()
	words := []string{"DENIED", "READ_ONLY", "RUN_ONLY", "READ_WRITE", "DEFAULT"}
	some := rapid.Custom(func(t *rapid.T) *Permissions {
		if rapid.Bool().Draw(t, "none") {
			return nil
		}
		p := &Permissions{Others: rapid.SampledFrom(words).Draw(t, "others")}
		for id := int64(1); id <= 3; id++ {
			if rapid.Bool().Draw(t, "user") {
				p.Users = append(p.Users, Grant{id, rapid.SampledFrom(words).Draw(t, "level")})
			}
			if rapid.Bool().Draw(t, "group") {
				p.Groups = append(p.Groups, Grant{id, rapid.SampledFrom(words).Draw(t, "level")})
			}
		}
		return p
	})
	rapid.Check(t, func(t *rapid.T) {
		a, b := some.Draw(t, "a"), some.Draw(t, "b")
		user := rapid.Int64Range(1, 4).Draw(t, "of")
		groups := rapid.SliceOfDistinct(rapid.Int64Range(1, 4), rapid.ID).Draw(t, "groups")
		rank := func(p *Permissions) int { return slices.Index(levels(), p.level(user, groups)) }
		if got := rank(both(a, b)); got > min(rank(a), rank(b)) {
			t.Errorf("%+v and %+v: %+v", a, b, both(a, b))
		}
	})
}
