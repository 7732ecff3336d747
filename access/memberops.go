package access

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"

	"slipway/db"
)

// manages tells whether the actor may change who is in a workspace, or what the
// scope stands for: it needs the scope, and runs the workspace.
func manages(tx *db.Tx, by Actor, workspace string, s Scope) error {
	if err := by.May(workspace, s); err != nil {
		return err
	}
	if !by.Runs(workspace) {
		return errOnlyAdmins
	}
	return still(tx, by, workspace)
}

// still tells whether the actor's user is a member as it was when it was
// authenticated: it may have been removed, or the workspace ended, since.
func still(tx *db.Tx, by Actor, workspace string) error {
	if by.system {
		return nil
	}
	m, err := member(tx, workspace, by.User.ID)
	if err == nil && m.Role != by.roles[workspace] {
		err = errdefs.ErrNotFound
	}
	if errdefs.IsNotFound(err) {
		return fmt.Errorf("workspace: %w", errdefs.ErrNotFound)
	}
	return err
}

// write changes something that the actor must manage, and throws away what is
// known of actors.
func (a *Access) write(ctx context.Context, by Actor, workspace string, s Scope, f func(*db.Tx) error) error {
	return a.db.Write(ctx, func(tx *db.Tx) error {
		if err := manages(tx, by, workspace, s); err != nil {
			return err
		}
		tx.Wake(Topic)
		return f(tx)
	})
}

// read is write for who only looks.
func (a *Access) read(ctx context.Context, by Actor, workspace string, s Scope, f func(*db.Tx) error) error {
	if err := by.May(workspace, s); err != nil {
		return err
	}
	return a.db.Read(ctx, f)
}

// Members lists the members of a workspace, oldest first.
func (a *Access) Members(ctx context.Context, by Actor, workspace string) (all []MemberOf, err error) {
	err = a.read(ctx, by, workspace, MemberRead, func(tx *db.Tx) (err error) { all, err = members(tx, workspace); return err })
	return all, err
}

// Member gives a member of a workspace.
func (a *Access) Member(ctx context.Context, by Actor, workspace string, user int64) (m MemberOf, err error) {
	err = a.read(ctx, by, workspace, MemberRead, func(tx *db.Tx) (err error) { m, err = member(tx, workspace, user); return err })
	return m, err
}

// Invite makes the user of an e-mail address a member, as change has it; there
// is one from then on if there was none. Who is a member already is
// errdefs.ErrAlreadyExists.
func (a *Access) Invite(ctx context.Context, by Actor, workspace, email string, change func(*MemberOf) error) (m MemberOf, err error) {
	err = a.write(ctx, by, workspace, MemberManage, func(tx *db.Tx) error {
		var bad Invalid
		if validEmail(&bad, email); bad.Err() != nil {
			return bad.Err()
		}
		u, err := userOfEmail(tx, email)
		if err != nil {
			return err
		}
		if _, err := member(tx, workspace, u.ID); err == nil {
			return fmt.Errorf("%s is a member already: %w", email, errdefs.ErrAlreadyExists)
		} else if !errdefs.IsNotFound(err) {
			return err
		}
		if err := AddMember(tx, workspace, u.ID, Member); err != nil {
			return err
		}
		m, err = updateMember(tx, workspace, u.ID, change)
		return err
	})
	return m, err
}

// UpdateMember changes a member by change, which gets it as it is: whether it is
// an administrator, and whether it is put into new projects. The owner stays
// what it is.
func (a *Access) UpdateMember(ctx context.Context, by Actor, workspace string, user int64, change func(*MemberOf) error) (m MemberOf, err error) {
	err = a.write(ctx, by, workspace, MemberManage, func(tx *db.Tx) error {
		m, err = updateMember(tx, workspace, user, change)
		return err
	})
	return m, err
}

func updateMember(tx *db.Tx, workspace string, user int64, change func(*MemberOf) error) (MemberOf, error) {
	m, err := member(tx, workspace, user)
	if err != nil {
		return m, err
	}
	role := m.Role
	if err := change(&m); err != nil {
		return m, err
	}
	if role == Owner {
		m.Role = Owner
	}
	if err := checkAuto(tx, workspace, m.AutoPermission); err != nil {
		return m, err
	}
	_, err = tx.Exec(`UPDATE members SET admin = ?, auto_assign = ?, auto_permission = ? WHERE workspace = ? AND user_id = ?`,
		m.Role == Admin, m.AutoAssign, orNil(m.AutoPermission), workspace, user)
	return m, err
}

// checkAuto looks for the permission set that new projects are given with.
func checkAuto(tx *db.Tx, workspace string, set int64) error {
	if set == 0 {
		return nil
	}
	_, err := loadSet(tx, workspace, set)
	return unknown(err, "auto_assign_permission_set_id", set, "permission set")
}

// unknown turns errdefs.ErrNotFound into bad input: what a body names is not
// there.
func unknown(err error, path string, id int64, noun string) error {
	if !errdefs.IsNotFound(err) {
		return err
	}
	var bad Invalid
	bad.Add(path, "unknown", fmt.Sprintf("there is no %s %d in this workspace", noun, id))
	return bad.Err()
}

func orNil(id int64) any {
	if id == 0 {
		return nil
	}
	return id
}

// DeleteMember ends a membership, in the groups and projects of the workspace
// too. The owner cannot go: errdefs.ErrFailedPrecondition.
func (a *Access) DeleteMember(ctx context.Context, by Actor, workspace string, user int64) error {
	return a.write(ctx, by, workspace, MemberManage, func(tx *db.Tx) error {
		m, err := member(tx, workspace, user)
		if err != nil {
			return err
		}
		if m.Role == Owner {
			return fmt.Errorf("the owner of a workspace stays in it: %w", errdefs.ErrFailedPrecondition)
		}
		if _, err := tx.Exec(`DELETE FROM project_members WHERE workspace = ? AND user_id = ?`, workspace, user); err != nil {
			return err
		}
		if _, err := tx.Exec(`DELETE FROM group_members WHERE user_id = ?
			AND group_id IN (SELECT id FROM member_groups WHERE workspace = ?)`, user, workspace); err != nil {
			return err
		}
		return RemoveMember(tx, workspace, user)
	})
}

// MemberToken makes a token of a member, good for this workspace alone, for
// whoever manages it to hand over: the way in for somebody who was invited. It
// carries no more than the token of who asks, and nothing that is about the
// user alone, who may be in other workspaces too. Nobody but the owner gets a
// token of the owner.
func (a *Access) MemberToken(ctx context.Context, by Actor, workspace string, user int64, n NewToken) (t Token, secret string, err error) {
	if err := by.Has(TokenManage); err != nil {
		return t, "", err
	}
	n.Workspaces = []string{workspace}
	if len(n.Scopes) == 0 {
		for _, s := range Scopes() {
			if !ofUser(s) && s != WorkspacesManage && (by.system || carries(by.Token.Scopes, s)) {
				n.Scopes = append(n.Scopes, s)
			}
		}
	}
	err = a.write(ctx, by, workspace, MemberManage, func(tx *db.Tx) error {
		m, err := member(tx, workspace, user)
		if err != nil {
			return err
		}
		if m.Role == Owner && user != by.User.ID {
			return fmt.Errorf("a token of the owner: %w", errdefs.ErrPermissionDenied)
		}
		if err := n.Validate(tx.Now); err != nil {
			return err
		}
		for _, s := range n.Scopes {
			if ofUser(s) || s == WorkspacesManage {
				return fmt.Errorf("%s is about the user, who may be in other workspaces too: %w", s, errdefs.ErrPermissionDenied)
			}
		}
		if n, err = n.within(by); err != nil {
			return err
		}
		s, hash := newSecret()
		secret = s
		t, err = insertToken(tx, Token{
			User: user, Name: n.Name, Scopes: n.Scopes, Workspaces: n.Workspaces, IPs: n.IPs, Expires: n.Expires,
		}, hash)
		return err
	})
	if err != nil {
		return Token{}, "", fmt.Errorf("token %q: %w", n.Name, err)
	}
	return t, secret, nil
}

// Rename changes the name of the actor's own user. A token that is bound to
// workspaces may not: the user is in others, too.
func (a *Access) Rename(ctx context.Context, by Actor, to string) (u User, err error) {
	if err := by.Has(UserInfo); err != nil {
		return User{}, err
	}
	if len(by.Token.Workspaces) > 0 {
		return User{}, fmt.Errorf("the token is bound to workspaces, and the user is not: %w", errdefs.ErrPermissionDenied)
	}
	var bad Invalid
	if name(&bad, to); bad.Err() != nil {
		return User{}, bad.Err()
	}
	err = a.db.Write(ctx, func(tx *db.Tx) error {
		if _, err := tx.Exec(`UPDATE users SET name = ? WHERE id = ?`, to, by.User.ID); err != nil {
			return err
		}
		tx.Wake(Topic)
		u, err = LoadUser(tx, by.User.ID)
		return err
	})
	return u, err
}
