package pipeline

import (
	"errors"
	"testing"

	"github.com/containerd/errdefs"

	"slipway/access"
	"slipway/project"
	"slipway/source"
)

func TestProjectIsMadeWholeOrNotAtAll(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	ctx := t.Context()
	n := project.New{Name: "whole"}
	remote := &source.Remote{URL: "https://user:pw@git.example.com/a/b.git"}
	stop := errors.New("not this one")
	_, err := w.CreateProject(ctx, w.admin, w.home.ID, n, remote, func(b *Batch) error {
		w.must(b.Create(Pipeline{Name: "one"}, sh("true")))
		return stop
	})
	if !errors.Is(err, stop) {
		t.Error(err)
	}
	_, err = w.CreateProject(ctx, w.admin, w.home.ID, n, remote, func(b *Batch) error { return b.Create(Pipeline{Name: "one"}, Action{}) })
	if !errdefs.IsInvalidArgument(err) {
		t.Error(err)
	}
	_, err = w.CreateProject(ctx, w.admin, w.home.ID, n, &source.Remote{URL: "ftp://x/y"}, nil)
	if inv, ok := project.AsInvalid(err); !ok || inv.Fields[0].Path != "url" {
		t.Error(err)
	}
	_, s, err := w.access.CreateToken(ctx, w.admin, access.NewToken{Name: "half", Scopes: []access.Scope{access.ProjectManage}})
	w.must(err)
	half, err := w.access.Authenticate(ctx, s, "")
	w.must(err)
	if _, err := w.CreateProject(ctx, half, w.home.ID, n, nil, func(*Batch) error { return nil }); !errdefs.IsPermissionDenied(err) {
		t.Error(err)
	}
	if _, err := w.projects.Find(ctx, w.admin, "acme", "whole"); !errdefs.IsNotFound(err) {
		t.Errorf("a part of it is there: %v", err)
	}
	pr, err := w.CreateProject(ctx, w.admin, w.home.ID, n, remote, func(b *Batch) error {
		return b.Create(Pipeline{Name: "one"}, sh("true"), sh("false"))
	})
	w.must(err)
	r, err := w.sources.Remote(ctx, pr.ID)
	if err != nil || r == nil || r.URL != "https://git.example.com/a/b.git" || r.Username != "user" || r.Password == "pw" {
		t.Errorf("remote: %+v %v", r, err)
	}
	l, err := w.List(ctx, w.admin, pr.ID)
	if err != nil || len(l) != 1 || l[0].CreatedBy != w.admin.User.ID {
		t.Fatalf("%+v %v", l, err)
	}
	if as, err := w.Actions(ctx, w.admin, l[0].ID); err != nil || len(as) != 2 {
		t.Errorf("%+v %v", as, err)
	}
}

func TestTogether(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	ctx := t.Context()
	a, b := w.pipeline(Pipeline{Name: "a"}, sh("true")), w.pipeline(Pipeline{Name: "b"})
	other, err := w.projects.Create(ctx, w.admin, w.home.ID, project.New{Name: "other"})
	w.must(err)
	foreign, err := w.Create(ctx, w.admin, other.ID, Pipeline{Name: "x"})
	w.must(err)
	name := "changed"
	all := func(m *Batch) error {
		w.must(m.ChangeProject(project.Change{DisplayName: &name}))
		w.must(m.Delete(a.ID))
		w.must(m.Update(b.ID, func(p *Pipeline) error { p.Name = "a"; return nil }))
		found, err := m.UpdateAction(b.ID, func(Action) bool { return true }, func(*Action) error { return nil })
		if w.must(err); found {
			t.Error("b has an action")
		}
		w.must(m.CreateAction(b.ID, sh("true")))
		found, err = m.UpdateAction(b.ID, func(a Action) bool { return a.Run != nil }, func(a *Action) error { a.Name = "now"; return nil })
		if w.must(err); !found {
			t.Error("b has no action")
		}
		if m.Project().DisplayName != name {
			t.Error(m.Project())
		}
		return nil
	}
	for what, wrong := range map[string]func(*Batch) error{
		"update": func(m *Batch) error { return m.Update(foreign.ID, func(*Pipeline) error { return nil }) },
		"delete": func(m *Batch) error { return m.Delete(foreign.ID) },
		"action": func(m *Batch) error { return m.CreateAction(foreign.ID, sh("true")) },
		"change": func(m *Batch) error {
			_, err := m.UpdateAction(foreign.ID, func(Action) bool { return true }, nil)
			return err
		},
		"gone": func(m *Batch) error { return m.Delete(a.ID) },
	} {
		if err := w.Together(ctx, w.admin, w.pr.ID, func(m *Batch) error { w.must(all(m)); return wrong(m) }); !errdefs.IsNotFound(err) {
			t.Errorf("%s: %v", what, err)
		}
	}
	names := func() (l []string) {
		list, err := w.List(ctx, w.admin, w.pr.ID)
		w.must(err)
		for _, p := range list {
			l = append(l, p.Name)
		}
		return l
	}
	if pr, err := w.projects.Get(ctx, w.admin, string(w.pr.ID)); err != nil || pr.DisplayName == name || len(names()) != 2 {
		t.Errorf("a part of it became true: %+v %v %v", pr, names(), err)
	}
	w.must(w.Together(ctx, w.admin, w.pr.ID, all))
	as, err := w.Actions(ctx, w.admin, b.ID)
	if err != nil || len(as) != 1 || as[0].Name != "now" || len(names()) != 1 || names()[0] != "a" {
		t.Errorf("%+v %v %v", as, names(), err)
	}
	if err := w.Together(ctx, access.Actor{}, w.pr.ID, nil); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
}
