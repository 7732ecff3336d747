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
	roles  map[string]Role // by workspace id; shared, never changed
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

// May tells whether the actor may do what the scope stands for in a workspace:
// nil, errdefs.ErrNotFound for a workspace it does not see, or
// errdefs.ErrPermissionDenied naming the scope. To change the workspace itself
// (WorkspacesManage) one must own it.
func (a Actor) May(workspace string, s Scope) error {
	if !a.Sees(workspace) {
		return fmt.Errorf("workspace: %w", errdefs.ErrNotFound)
	}
	if s == WorkspacesManage && a.Role(workspace) != Owner {
		return fmt.Errorf("only its owner may change the workspace: %w", errdefs.ErrPermissionDenied)
	}
	return a.Has(s)
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

// MayAny is May for any one of several scopes; the error names the first.
func (a Actor) MayAny(workspace string, first Scope, others ...Scope) error {
	err := a.May(workspace, first)
	for _, s := range others {
		if err == nil || !a.Sees(workspace) {
			return err
		}
		if a.May(workspace, s) == nil {
			return nil
		}
	}
	return err
}
