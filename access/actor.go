package access

import (
	"fmt"
	"slices"

	"github.com/containerd/errdefs"
)

// Actor is who asks. The zero Actor may do nothing. Handlers get it from
// Authenticate, loops of our own from System.
type Actor struct {
	User   User
	Token  Token
	system bool
	// What the user is and where; shared, never changed.
	roles  map[string]Role  // by workspace id
	grants map[string]grant // by project id
	groups []int64
}

// grant is what a user may do in one project by being in it.
type grant struct {
	workspace string
	rights    Rights
}

// System is the server itself, asking in the name of nobody or of a user whose
// earlier wish it carries out.
func System(u User) Actor { return Actor{User: u, system: true} }

// Known tells whether somebody asks at all.
func (a Actor) Known() bool { return a.system || a.User.ID != 0 }

// Sees tells whether the workspace exists for the actor.
func (a Actor) Sees(workspace string) bool {
	if a.system {
		return true
	}
	if _, member := a.roles[workspace]; !member {
		return false
	}
	return len(a.Token.Workspaces) == 0 || slices.Contains(a.Token.Workspaces, workspace)
}

// SeesProject tells whether a project exists for the actor: of those of a
// workspace a member sees the ones that it is in, by itself or with a group;
// owner and administrators see all.
func (a Actor) SeesProject(workspace, project string) bool {
	if !a.Sees(workspace) {
		return false
	}
	return a.Runs(workspace) || a.grants[project].workspace == workspace
}

// Workspaces gives the ids of those that the actor sees, sorted; all is true for
// the system, which sees every one.
func (a Actor) Workspaces() (ids []string, all bool) {
	for w := range a.roles {
		if a.Sees(w) {
			ids = append(ids, w)
		}
	}
	slices.Sort(ids)
	return ids, a.system
}

// Projects gives the ids of the projects of a workspace that the actor sees,
// sorted; all is true if that is every one.
func (a Actor) Projects(workspace string) (ids []string, all bool) {
	if a.Runs(workspace) {
		return nil, true
	}
	for p := range a.grants {
		if a.SeesProject(workspace, p) {
			ids = append(ids, p)
		}
	}
	slices.Sort(ids)
	return ids, false
}

// Groups gives the ids of the groups that the user is in.
func (a Actor) Groups() []int64 { return a.groups }

// Role is what the actor is in a workspace, "" if it does not see it.
func (a Actor) Role(workspace string) Role {
	switch {
	case a.system:
		return Owner
	case a.Sees(workspace):
		return a.roles[workspace]
	}
	return ""
}

// Runs tells whether the actor may do everything in a workspace that its token
// allows: its owner and its administrators.
func (a Actor) Runs(workspace string) bool {
	r := a.Role(workspace)
	return r == Owner || r == Admin
}

// May tells whether the actor may do what the scope stands for in a workspace as
// a whole, or with what belongs to it and to no project of it: nil,
// errdefs.ErrNotFound for a workspace it does not see, or
// errdefs.ErrPermissionDenied naming what is missing. For something of a project
// it is MayIn that is to be asked.
func (a Actor) May(workspace string, s Scope) error {
	if !a.Sees(workspace) {
		return fmt.Errorf("workspace: %w", errdefs.ErrNotFound)
	}
	if err := a.Has(s); err != nil || a.Runs(workspace) {
		return err
	}
	var all []Rights
	for _, g := range a.grants {
		if g.workspace == workspace {
			all = append(all, g.rights)
		}
	}
	return mayWhole(all, s)
}

// MayIn is May for a project and what belongs to it; one that the actor is not
// in, and what its levels there deny, is errdefs.ErrNotFound.
func (a Actor) MayIn(workspace, project string, s Scope) error {
	if !a.SeesProject(workspace, project) {
		return fmt.Errorf("project: %w", errdefs.ErrNotFound)
	}
	if err := a.Has(s); err != nil || a.Runs(workspace) {
		return err
	}
	return a.grants[project].rights.may(s)
}

// mayTeam tells whether the actor may say who is in a project.
func (a Actor) mayTeam(workspace, project string) error {
	if !a.SeesProject(workspace, project) {
		return fmt.Errorf("project: %w", errdefs.ErrNotFound)
	}
	if err := a.Has(ProjectWrite); err != nil || a.Runs(workspace) {
		return err
	}
	return a.grants[project].rights.mayTeam()
}

// MayLook tells whether the actor may know of a workspace and of those of its
// projects that it sees: whoever may do anything in one may.
func (a Actor) MayLook(workspace string) error {
	if !a.Sees(workspace) {
		return fmt.Errorf("workspace: %w", errdefs.ErrNotFound)
	}
	if a.system || slices.ContainsFunc(a.Token.Scopes, func(s Scope) bool { return !ofUser(s) && KnownScope(s) }) {
		return nil
	}
	return a.Has(Workspace)
}

// ofUser tells whether a scope is about the user alone.
func ofUser(s Scope) bool {
	switch canonical(s) {
	case UserInfo, UserKey, UserEmail, TokenInfo, TokenManage, ManageEmails:
		return true
	}
	return false
}

// Has is May for what belongs to no workspace. The zero Actor gets
// errdefs.ErrUnauthenticated.
func (a Actor) Has(s Scope) error {
	switch {
	case a.system || carries(a.Token.Scopes, s):
		return nil
	case !a.Known():
		return fmt.Errorf("a token is needed: %w", errdefs.ErrUnauthenticated)
	}
	return fmt.Errorf("the token lacks the scope %s: %w", s, errdefs.ErrPermissionDenied)
}
