package access

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"slipway/db"
)

// projects makes rows of projects; this room knows only their ids.
func (w *world) projects(t *testing.T, workspace string, ids ...string) {
	t.Helper()
	err := w.db.Write(t.Context(), func(tx *db.Tx) error {
		if _, err := tx.Exec(`INSERT OR IGNORE INTO workspaces (id, number, domain, name, owner, created) VALUES (?, ?, ?, 'x', 1, 1)`, workspace, len(workspace)+int(workspace[len(workspace)-1]), workspace); err != nil {
			return err
		}
		for _, id := range ids {
			var n int
			if err := tx.QueryRow(`SELECT COUNT(*) + 1 FROM projects`).Scan(&n); err != nil {
				return err
			}
			if _, err := tx.Exec(`INSERT INTO projects (id, short_id, number, workspace, name, display_name, status, public, created, updated)
				VALUES (?, ?, ?, ?, ?, 'x', 'ACTIVE', 0, 1, 1)`, id, id, n, workspace, id); err != nil {
				return err
			}
			if err := Assign(tx, workspace, id, w.adminUser.ID); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func nothing[T any](*T) error { return nil }

// invite makes a member and gives it with a token of every scope.
func (w *world) invite(t *testing.T, email string) (MemberOf, string) {
	t.Helper()
	m, err := w.Invite(t.Context(), w.admin, home, email, nothing)
	if err != nil {
		t.Fatal(err)
	}
	_, s, err := w.CreateToken(t.Context(), System(m.User), NewToken{Name: "all", Scopes: Scopes()})
	if err != nil {
		t.Fatal(err)
	}
	return m, s
}

func TestMembersOfProjects(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.projects(t, home, "one", "two")
	ann, secret := w.invite(t, "ann@example.com")
	if ann.Role != Member || ann.User.Name != "" || ann.User.Username != "ann@example.com" {
		t.Error(ann)
	}
	by := func() Actor { return w.ask(t, secret) }
	if by().SeesProject(home, "one") || !by().Sees(home) || by().Runs(home) || !w.admin.SeesProject(home, "one") {
		t.Error("a member sees a project that it is not in")
	}
	if err := by().MayIn(home, "one", Workspace); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
	in, err := w.AddProjectMember(t.Context(), w.admin, home, "one", ann.User.ID, readOnlySet)
	if err != nil || in.Permission.Kind != "READ_ONLY" || in.Member.User.ID != ann.User.ID {
		t.Error(in, err)
	}
	if ids, all := by().Projects(home); !slices.Equal(ids, []string{"one"}) || all {
		t.Error(ids, all)
	}
	if err := by().MayIn(home, "one", ExecutionInfo); err != nil {
		t.Error(err)
	}
	if err := by().MayIn(home, "one", ExecutionRun); !errdefs.IsPermissionDenied(err) {
		t.Error(err)
	}
	if by().SeesProject(other, "one") || by().SeesProject(home, "two") {
		t.Error("sees too much")
	}
	// A group adds to that.
	g, err := w.CreateGroup(t.Context(), w.admin, home, Group{Name: "devs"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.AddProjectGroup(t.Context(), w.admin, home, "one", g.ID, developerSet); err != nil {
		t.Error(err)
	}
	if _, err := w.AddProjectGroup(t.Context(), w.admin, home, "two", g.ID, readOnlySet); err != nil {
		t.Error(err)
	}
	isIn := func(name string) (in bool) {
		if err := w.db.Read(t.Context(), func(tx *db.Tx) (err error) { in, err = IsInGroup(tx, home, ann.User.ID, name); return err }); err != nil {
			t.Error(err)
		}
		return in
	}
	if isIn("devs") || len(by().Groups()) != 0 {
		t.Error("is in the group")
	}
	if _, err := w.AddToGroup(t.Context(), w.admin, home, g.ID, ann.User.ID, true); err != nil {
		t.Error(err)
	}
	if !isIn("devs") || isIn("none") || !slices.Equal(by().Groups(), []int64{g.ID}) {
		t.Error("is not in the group")
	}
	if err := by().MayIn(home, "one", ExecutionManage); err != nil {
		t.Error(err)
	}
	if err := by().MayIn(home, "two", ExecutionManage); !errdefs.IsPermissionDenied(err) {
		t.Error(err)
	}
	// A developer does not say who is in the project, its manager does.
	if _, err := w.AddProjectMember(t.Context(), by(), home, "one", w.adminUser.ID, managerSet); !errdefs.IsPermissionDenied(err) {
		t.Error(err)
	}
	if in, err := w.SetProjectMember(t.Context(), w.admin, home, "one", ann.User.ID, managerSet); err != nil || in.Permission.ID != managerSet {
		t.Error(in, err)
	}
	bob, bobs := w.invite(t, "bob@example.com")
	if _, err := w.AddProjectMember(t.Context(), by(), home, "one", bob.User.ID, readOnlySet); err != nil {
		t.Error(err)
	}
	if _, err := w.AddProjectMember(t.Context(), by(), home, "one", bob.User.ID, readOnlySet); !errdefs.IsAlreadyExists(err) {
		t.Error(err)
	}
	if _, err := w.AddProjectMember(t.Context(), by(), home, "one", w.guestUser.ID, readOnlySet); !errdefs.IsInvalidArgument(err) {
		t.Error(err)
	}
	if _, err := w.SetProjectMember(t.Context(), by(), home, "one", w.guestUser.ID, readOnlySet); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
	if l, err := w.ProjectMembers(t.Context(), w.ask(t, bobs), home, "one"); err != nil || len(l) != 3 {
		t.Error(l, err)
	}
	// Whoever goes is nowhere any more.
	if err := w.DeleteMember(t.Context(), w.admin, home, ann.User.ID); err != nil {
		t.Error(err)
	}
	if a := by(); a.Sees(home) || a.SeesProject(home, "one") || len(a.Groups()) != 0 || isIn("devs") {
		t.Error("is still there")
	}
	if l, err := w.ProjectMembers(t.Context(), w.admin, home, "one"); err != nil || len(l) != 2 {
		t.Error(l, err)
	}
}

func TestAdministrators(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.projects(t, home, "one")
	ann, secret := w.invite(t, "Ann@Example.com")
	was := w.ask(t, secret)
	admin := func(is bool) func(*MemberOf) error {
		return func(m *MemberOf) error {
			if m.Role = Member; is {
				m.Role = Admin
			}
			return nil
		}
	}
	for what, err := range map[string]error{
		"member":     second(w.UpdateMember(t.Context(), was, home, ann.User.ID, admin(true))),
		"invitation": second(w.Invite(t.Context(), was, home, "x@example.com", nothing)),
		"group":      second(w.CreateGroup(t.Context(), was, home, Group{Name: "x"})),
		"set":        second(w.CreatePermissionSet(t.Context(), was, home, PermissionSet{Name: "x"})),
		"end":        w.DeleteMember(t.Context(), was, home, w.adminUser.ID),
	} {
		if !errdefs.IsPermissionDenied(err) {
			t.Errorf("%s by a member: %v", what, err)
		}
	}
	if m, err := w.UpdateMember(t.Context(), w.admin, home, ann.User.ID, admin(true)); err != nil || m.Role != Admin {
		t.Error(m, err)
	}
	now := w.ask(t, secret)
	if !now.Runs(home) || !now.SeesProject(home, "one") || now.MayIn(home, "one", ProjectDelete) != nil || now.May(home, WorkspacesManage) != nil {
		t.Error("an administrator may not")
	}
	if _, err := w.Invite(t.Context(), now, home, "ann@example.com", nothing); !errdefs.IsAlreadyExists(err) {
		t.Errorf("the same address in another case: %v", err)
	}
	// The owner stays.
	if m, err := w.UpdateMember(t.Context(), now, home, w.adminUser.ID, admin(false)); err != nil || m.Role != Owner {
		t.Error(m, err)
	}
	if err := w.DeleteMember(t.Context(), now, home, w.adminUser.ID); !errdefs.IsFailedPrecondition(err) {
		t.Error(err)
	}
	// Who was an administrator when it asked, and is none any more.
	if _, err := w.UpdateMember(t.Context(), w.admin, home, ann.User.ID, admin(false)); err != nil {
		t.Error(err)
	}
	if _, err := w.Invite(t.Context(), now, home, "late@example.com", nothing); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
	// A user of another workspace is invited as it is.
	if err := w.db.Write(t.Context(), func(tx *db.Tx) error {
		_, err := tx.Exec(`UPDATE users SET email = 'guest@example.com' WHERE id = ?`, w.guestUser.ID)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if m, err := w.Invite(t.Context(), w.admin, home, "guest@example.com", nothing); err != nil || m.User.ID != w.guestUser.ID {
		t.Error(m, err)
	}
	for _, email := range []string{"", "x", "a b@c", "X <x@y.z>", "x@" + strings.Repeat("y", 300)} {
		if _, err := w.Invite(t.Context(), w.admin, home, email, nothing); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %v", email, err)
		}
	}
	if _, err := w.Member(t.Context(), w.guest, other, ann.User.ID); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
	if _, err := w.Members(t.Context(), w.guest, home); !errdefs.IsNotFound(err) {
		t.Error("it was not a member when it asked", err)
	}
}

func second[T any](_ T, err error) error { return err }

func TestGroupsAndSets(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.projects(t, home, "one")
	ann, _ := w.invite(t, "ann@example.com")
	sets, err := w.PermissionSets(t.Context(), w.admin, home)
	if err != nil || len(sets) != 3 || sets[0].ID != readOnlySet || sets[1].Kind != "DEVELOPER" || sets[2].ID != managerSet {
		t.Error(sets, err)
	}
	for _, s := range sets {
		if err := w.DeletePermissionSet(t.Context(), w.admin, home, s.ID); !errdefs.IsPermissionDenied(err) {
			t.Error(err)
		}
		if _, err := w.UpdatePermissionSet(t.Context(), w.admin, home, s.ID, nothing); !errdefs.IsPermissionDenied(err) {
			t.Error(err)
		}
	}
	own, err := w.CreatePermissionSet(t.Context(), w.admin, home, PermissionSet{
		Name: "testers", Kind: "DEVELOPER", Rights: Rights{RunOnly, ReadOnly, Denied, UseOnly, Manage, ReadOnly},
	})
	if err != nil || own.Kind != "CUSTOM" {
		t.Fatal(own, err)
	}
	if got, err := w.PermissionSet(t.Context(), w.admin, home, own.ID); err != nil || got != own {
		t.Error(got, err)
	}
	if _, err := w.PermissionSet(t.Context(), w.guest, other, own.ID); !errdefs.IsNotFound(err) {
		t.Error("another workspace's", err)
	}
	_, err = w.CreatePermissionSet(t.Context(), w.admin, home, PermissionSet{Name: strings.Repeat("x", 256), Description: strings.Repeat("x", 4097), Rights: Rights{Pipeline: "ALL"}})
	var bad *Invalid
	if !errors.As(err, &bad) || len(bad.Fields) != 8 {
		t.Error(err)
	}
	g, err := w.CreateGroup(t.Context(), w.admin, home, Group{Name: "devs", AutoAssign: true, AutoPermission: own.ID})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.CreateGroup(t.Context(), w.admin, home, Group{Name: "devs"}); !errdefs.IsAlreadyExists(err) {
		t.Error(err)
	}
	for _, bad := range []Group{{}, {Name: strings.Repeat("x", 256)}, {Name: "x", AutoPermission: 99}} {
		if _, err := w.CreateGroup(t.Context(), w.admin, home, bad); !errdefs.IsInvalidArgument(err) {
			t.Error(err)
		}
	}
	if _, err := w.UpdateMember(t.Context(), w.admin, home, ann.User.ID, func(m *MemberOf) error { m.AutoAssign = true; return nil }); err != nil {
		t.Error(err)
	}
	w.projects(t, home, "two")
	if l, err := w.ProjectMembers(t.Context(), w.admin, home, "two"); err != nil || len(l) != 2 || l[0].Permission.ID != managerSet || l[1].Permission.ID != developerSet {
		t.Error(l, err)
	}
	if l, err := w.ProjectGroups(t.Context(), w.admin, home, "two"); err != nil || len(l) != 1 || l[0].Permission != own || l[0].Group.ID != g.ID {
		t.Error(l, err)
	}
	if err := w.DeletePermissionSet(t.Context(), w.admin, home, own.ID); !errdefs.IsConflict(err) {
		t.Error("it is in use", err)
	}
	if _, err := w.AddToGroup(t.Context(), w.admin, home, g.ID, ann.User.ID, false); err != nil {
		t.Error(err)
	}
	if _, err := w.AddToGroup(t.Context(), w.admin, home, g.ID, w.guestUser.ID, false); !errdefs.IsInvalidArgument(err) {
		t.Error(err)
	}
	if l, err := w.GroupMembers(t.Context(), w.admin, home, g.ID); err != nil || len(l) != 1 || l[0].Manager {
		t.Error(l, err)
	}
	if m, err := w.UpdateInGroup(t.Context(), w.admin, home, g.ID, ann.User.ID, true); err != nil || !m.Manager {
		t.Error(m, err)
	}
	if err := w.RemoveFromGroup(t.Context(), w.admin, home, g.ID, ann.User.ID); err != nil {
		t.Error(err)
	}
	if err := w.RemoveFromGroup(t.Context(), w.admin, home, g.ID, ann.User.ID); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
	if err := w.DeleteGroup(t.Context(), w.guest, home, g.ID); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
	if err := w.DeleteGroup(t.Context(), w.admin, home, g.ID); err != nil {
		t.Error(err)
	}
	if l, err := w.ProjectGroups(t.Context(), w.admin, home, "two"); err != nil || len(l) != 0 {
		t.Error(l, err)
	}
	if err := w.DeletePermissionSet(t.Context(), w.admin, home, own.ID); err != nil {
		t.Error(err)
	}
	if err := w.db.Write(t.Context(), func(tx *db.Tx) error { return RemoveWorkspace(tx, home) }); err != nil {
		t.Error(err)
	}
	if n := query(t, w, `SELECT (SELECT COUNT(*) FROM members WHERE workspace = ?1) + (SELECT COUNT(*) FROM project_members) + (SELECT COUNT(*) FROM permission_sets WHERE workspace = ?1)`, home); n != 0 {
		t.Errorf("%d rows are left", n)
	}
}

func TestTokensOfMembers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ann, secret := w.invite(t, "ann@example.com")
	tok, s, err := w.MemberToken(t.Context(), w.admin, home, ann.User.ID, NewToken{Name: "first"})
	if err != nil || !slices.Equal(tok.Workspaces, []string{home}) || slices.ContainsFunc(tok.Scopes, ofUser) || !slices.Contains(tok.Scopes, ExecutionManage) {
		t.Fatal(tok, err)
	}
	a := w.ask(t, s)
	if a.User.ID != ann.User.ID || !a.Sees(home) || a.Runs(home) {
		t.Error(a)
	}
	for what, err := range map[string]error{
		"by a member":       third(w.MemberToken(t.Context(), w.ask(t, secret), home, ann.User.ID, NewToken{Name: "x"})),
		"about the user":    third(w.MemberToken(t.Context(), w.admin, home, ann.User.ID, NewToken{Name: "x", Scopes: []Scope{TokenInfo}})),
		"the user's name":   second(w.Rename(t.Context(), a, "Eve")),
		"of all workspaces": third(w.MemberToken(t.Context(), w.admin, home, ann.User.ID, NewToken{Name: "x", Scopes: []Scope{WorkspacesManage}})),
	} {
		if !errdefs.IsPermissionDenied(err) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, _, err := w.MemberToken(t.Context(), w.admin, home, w.guestUser.ID, NewToken{Name: "x"}); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
	if _, err := w.UpdateMember(t.Context(), w.admin, home, ann.User.ID, func(m *MemberOf) error { m.Role = Admin; return nil }); err != nil {
		t.Error(err)
	}
	if _, _, err := w.MemberToken(t.Context(), w.ask(t, secret), home, w.adminUser.ID, NewToken{Name: "x"}); !errdefs.IsPermissionDenied(err) {
		t.Error("an administrator gets a token of the owner", err)
	}
	if u, err := w.Rename(t.Context(), w.ask(t, secret), "Ann"); err != nil || u.Name != "Ann" || w.ask(t, secret).User.Name != "Ann" {
		t.Error(u, err)
	}
	if _, err := w.Rename(t.Context(), w.admin, strings.Repeat("x", 256)); !errdefs.IsInvalidArgument(err) {
		t.Error(err)
	}
}

func third[T, U any](_ T, _ U, err error) error { return err }
