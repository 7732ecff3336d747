package secret

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"slipway/access"
	"slipway/project"
)

func TestEnvironments(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	e, err := w.CreateEnvironment(t.Context(), w.admin, Environment{Workspace: w.home.ID, Name: "Live site"})
	if err != nil || e.Identifier != "live-site" || e.ID == "" {
		t.Fatal(e, err)
	}
	of, err := w.CreateEnvironment(t.Context(), w.admin, Environment{Workspace: w.home.ID, Project: w.p.ID, Identifier: "live-site", Name: "x"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.CreateEnvironment(t.Context(), w.admin, Environment{Workspace: w.home.ID, Identifier: "live-site", Name: "x"}); !errdefs.IsAlreadyExists(err) {
		t.Error(err)
	}
	if l, err := w.Environments(t.Context(), w.admin, w.home.ID, ""); err != nil || len(l) != 2 || l[0] != e || l[1] != of {
		t.Error(l, err)
	}
	if l, err := w.Environments(t.Context(), w.admin, w.home.ID, w.p.ID); err != nil || len(l) != 1 || l[0] != of {
		t.Error(l, err)
	}
	// Its variables are its own, and go with it.
	at := Scope{Workspace: w.home.ID, Environment: of.ID}
	v := w.variable(t, at, "A", "x", false)
	if v.Scope.Project != w.p.ID || v.Scope.Environment != of.ID {
		t.Errorf("%+v", v.Scope)
	}
	if l, err := w.Variables(t.Context(), w.admin, at); err != nil || len(l) != 1 || l[0] != v {
		t.Error(l, err)
	}
	if l, err := w.Effective(t.Context(), w.at(w.p.ID, 1, 1)); err != nil || len(l) != 0 {
		t.Error("it holds where nothing names it:", l, err)
	}
	if err := w.DeleteEnvironment(t.Context(), w.admin, w.home.ID, of.ID); err != nil {
		t.Error(err)
	}
	if _, err := w.Variable(t.Context(), w.admin, v.ID); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
	if _, err := w.CreateVariable(t.Context(), w.admin, Variable{Scope: at, Key: "B"}); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
	if _, err := w.Variables(t.Context(), w.admin, at); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
}

func TestEnvironmentRights(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	e, err := w.CreateEnvironment(t.Context(), w.admin, Environment{Workspace: w.home.ID, Name: "live"})
	if err != nil {
		t.Fatal(err)
	}
	no, gone := errdefs.IsPermissionDenied, errdefs.IsNotFound
	ok := func(err error) bool { return err == nil }
	for _, c := range []struct {
		by                        access.Actor
		create, list, one, remove func(error) bool
	}{
		{access.Actor{}, gone, gone, gone, gone},
		{w.guest, gone, gone, gone, gone},
		{w.weak, no, no, no, no},
		{w.token(t, w.admin, environmentInfo), no, ok, ok, no},
		{w.token(t, w.admin, environmentAdd), ok, ok, ok, no},
		{w.token(t, w.admin, environmentManage), errdefs.IsAlreadyExists, ok, ok, ok},
	} {
		_, create := w.CreateEnvironment(t.Context(), c.by, Environment{Workspace: w.home.ID, Name: "other"})
		_, list := w.Environments(t.Context(), c.by, w.home.ID, "")
		_, one := w.Environment(t.Context(), c.by, w.home.ID, e.ID)
		remove := w.DeleteEnvironment(t.Context(), c.by, w.home.ID, e.ID)
		if !c.create(create) || !c.list(list) || !c.one(one) || !c.remove(remove) {
			t.Errorf("%v: %v, %v, %v, %v", c.by.Token.Scopes, create, list, one, remove)
		}
	}
	for want, e := range map[string]Environment{
		"name ":            {},
		"identifier":       {Name: "x", Identifier: "a b"},
		"name":             {Name: strings.Repeat("x", 256), Identifier: "x"},
		"name identifier ": {Name: "a\x00", Identifier: strings.Repeat("x", 256)},
	} {
		e.Workspace = w.home.ID
		_, err := w.CreateEnvironment(t.Context(), w.admin, e)
		bad, _ := project.AsInvalid(err)
		var got []string
		if bad != nil {
			for _, f := range bad.Fields {
				got = append(got, f.Path)
			}
		}
		if s := strings.Join(got, " "); s != strings.TrimSpace(want) {
			t.Errorf("%q instead of %q: %v", s, want, err)
		}
	}
}
