package project

import (
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"slipway/access"
	"slipway/db"
	"slipway/event"
)

func TestWorkspaces(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	made, err := w.CreateWorkspace(t.Context(), w.admin, "third", "")
	if err != nil || made.Name != "third" || made.Number != 3 || made.Owner != w.admin.User.ID {
		t.Error(made, err)
	}
	admin := w.token(t, w.admin, access.Scopes()...)
	l, err := w.Workspaces(t.Context(), admin)
	if err != nil || len(l) != 2 || l[0].Domain != "home" || l[1].Domain != "third" {
		t.Error(l, err)
	}
	if d, err := w.CreateWorkspace(t.Context(), w.admin, "", "Third"); err != nil || d.Domain != "third-2" {
		t.Error(d, err)
	}
	if _, err := w.CreateWorkspace(t.Context(), w.guest, "home", ""); !errdefs.IsAlreadyExists(err) || err.Error() != "workspace home: the domain is taken: already exists" {
		t.Error(err)
	}
	if _, err := w.CreateWorkspace(t.Context(), w.weak, "x", ""); !errdefs.IsPermissionDenied(err) {
		t.Error(err)
	}
	for _, domain := range []string{"", "A", "a/b", "-a"} {
		if _, err := w.CreateWorkspace(t.Context(), w.admin, domain, ""); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %v", domain, err)
		}
	}
	_, s, err := w.access.CreateToken(t.Context(), admin, access.NewToken{Name: "bound", Scopes: access.Scopes(), Workspaces: []string{made.ID}})
	if err != nil {
		t.Fatal(err)
	}
	bound := w.ask(t, s)
	if l, err := w.Workspaces(t.Context(), bound); err != nil || len(l) != 1 || l[0].ID != made.ID {
		t.Error(l, err)
	}
	if _, err := w.CreateWorkspace(t.Context(), bound, "fourth", ""); !errdefs.IsPermissionDenied(err) {
		t.Error(err)
	}
	for _, ref := range []string{"third", made.ID} {
		if got, err := w.Workspace(t.Context(), admin, ref); err != nil || got.ID != made.ID {
			t.Error(got, err)
		}
		if _, err := w.Workspace(t.Context(), w.guest, ref); !errdefs.IsNotFound(err) {
			t.Error(err)
		}
	}
	if _, err := w.Workspace(t.Context(), w.weak, "home"); !errdefs.IsPermissionDenied(err) {
		t.Error(err)
	}
	if _, err := w.Workspaces(t.Context(), w.weak); !errdefs.IsPermissionDenied(err) {
		t.Error(err)
	}
	if r, err := w.RenameWorkspace(t.Context(), admin, "third", "Number three"); err != nil || r.Name != "Number three" || r.Domain != "third" {
		t.Error(r, err)
	}
	if _, err := w.RenameWorkspace(t.Context(), w.guest, "third", "x"); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
}

func TestMembersSeeTheirProjects(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	in, err := w.Create(ctx, w.admin, "home", New{Name: "in"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Create(ctx, w.admin, "home", New{Name: "out"}); err != nil {
		t.Fatal(err)
	}
	m, err := w.access.Invite(ctx, w.admin, w.home.ID, "ann@example.com", func(*access.MemberOf) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.access.AddProjectMember(ctx, w.admin, w.home.ID, string(in.ID), m.User.ID, 2); err != nil {
		t.Fatal(err)
	}
	ann := w.token(t, access.System(m.User), access.Scopes()...)
	for _, f := range []Filter{{}, {Workspace: w.home.ID}} {
		if l, err := w.List(ctx, ann, f); err != nil || len(l) != 1 || l[0].ID != in.ID {
			t.Error(l, err)
		}
	}
	if _, err := w.Find(ctx, ann, "home", "in"); err != nil {
		t.Error(err)
	}
	if _, err := w.Find(ctx, ann, "home", "out"); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
	name := "renamed"
	for what, err := range map[string]error{
		"update":    second(w.Update(ctx, ann, in.ID, Change{Name: &name})),
		"delete":    w.Delete(ctx, ann, in.ID),
		"rename":    second(w.RenameWorkspace(ctx, ann, "home", "x")),
		"workspace": w.DeleteWorkspace(ctx, ann, "home"),
	} {
		if !errdefs.IsPermissionDenied(err) {
			t.Errorf("%s by a developer: %v", what, err)
		}
	}
	if _, err := w.access.SetProjectMember(ctx, w.admin, w.home.ID, string(in.ID), m.User.ID, 3); err != nil {
		t.Fatal(err)
	}
	made, err := w.Create(ctx, ann, "home", New{Name: "own"})
	if err != nil {
		t.Fatal("a member makes no project", err)
	}
	ann = w.token(t, access.System(m.User), access.Scopes()...)
	for _, id := range []ID{in.ID, made.ID} {
		if _, err := w.Update(ctx, ann, id, Change{DisplayName: &name}); err != nil {
			t.Error("its manager may not rename it", err)
		}
	}
}

func second[T any](_ T, err error) error { return err }

func TestDeleteWorkspace(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	p, err := w.Create(ctx, w.admin, "home", New{Name: "app"})
	if err != nil {
		t.Fatal(err)
	}
	m, err := w.access.Invite(ctx, w.admin, w.home.ID, "ann@example.com", func(m *access.MemberOf) error { m.Role = access.Admin; return nil })
	if err != nil {
		t.Fatal(err)
	}
	ann := w.token(t, access.System(m.User), access.Scopes()...)
	if err := w.DeleteWorkspace(ctx, ann, "home"); !errdefs.IsPermissionDenied(err) {
		t.Error("an administrator ends it", err)
	}
	if err := w.DeleteWorkspace(ctx, w.guest, "home"); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
	if err := w.DeleteWorkspace(ctx, w.admin, "home"); err != nil {
		t.Fatal(err)
	}
	now := w.token(t, access.System(w.admin.User), access.Scopes()...)
	for what, err := range map[string]error{
		"workspace": second(w.Workspace(ctx, now, "home")),
		"by id":     second(w.Workspace(ctx, access.System(access.User{}), w.home.ID)),
		"project":   second(w.Get(ctx, access.System(access.User{}), string(p.ID))),
		"again":     w.DeleteWorkspace(ctx, w.admin, "home"),
	} {
		if !errdefs.IsNotFound(err) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if l, err := w.Workspaces(ctx, now); err != nil || len(l) != 0 {
		t.Error(l, err)
	}
	read := func(q string) (n int) {
		t.Helper()
		if err := w.db.Read(ctx, func(tx *db.Tx) error { return tx.QueryRow(q).Scan(&n) }); err != nil {
			t.Error(err)
		}
		return n
	}
	if n := read(`SELECT COUNT(*) FROM events WHERE kind = '` + string(event.ProjectDeleted) + `'`); n != 1 {
		t.Errorf("%d projects were told of", n)
	}
	if _, err := w.CreateWorkspace(ctx, now, "home", ""); !errdefs.IsAlreadyExists(err) {
		t.Error("its domain is free before its projects are gone", err)
	}
	if n, err := w.Remove(ctx, -time.Second); err != nil || n != 1 {
		t.Error(n, err)
	}
	if n := read(`SELECT COUNT(*) FROM workspaces WHERE domain = 'home'`); n != 0 {
		t.Error("its row is still there")
	}
	if _, err := w.CreateWorkspace(ctx, now, "home", ""); err != nil {
		t.Error(err)
	}
}
