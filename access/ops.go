package access

import (
	"context"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/uuid"

	"slipway/crash"
	"slipway/db"
)

// Bootstrap makes the first user with a token of every scope and calls made, in
// the same transaction, to make what belongs to it. keep puts the secret where
// its owner finds it, before it is worth anything; nothing is made if that
// fails. Bootstrap does nothing, and gives "", if there is a user.
func (a *Access) Bootstrap(ctx context.Context, username string, made func(*db.Tx, User) error, keep func(secret string) error) (secret string, err error) {
	err = a.db.Write(ctx, func(tx *db.Tx) error {
		var n int
		if err := tx.QueryRow(`SELECT COUNT(*) FROM users`).Scan(&n); err != nil || n > 0 {
			return err
		}
		u, err := AddUser(tx, User{Username: username, Name: username})
		if err != nil {
			return err
		}
		s, hash := newSecret()
		t := Token{User: u.ID, Name: username, Scopes: Scopes()}
		if _, err := insertToken(tx, t, hash); err != nil {
			return err
		}
		if made != nil {
			if err := made(tx, u); err != nil {
				return err
			}
		}
		if keep != nil {
			if err := keep(s); err != nil {
				return err
			}
		}
		secret = s
		return nil
	})
	if err != nil {
		return "", fmt.Errorf("make the first user: %w", err)
	}
	if secret != "" {
		crash.At("access: the first user is made")
	}
	return secret, nil
}

var usernames = regexp.MustCompile(`^[a-z0-9]+([._@+-][a-z0-9]+)*$`)

// AddUser makes a user in the caller's transaction, without asking who. ID, UUID
// and Created are set here; a taken name is errdefs.ErrAlreadyExists.
func AddUser(tx *db.Tx, u User) (User, error) {
	var bad Invalid
	if !usernames.MatchString(u.Username) || len(u.Username) > 128 {
		bad.Add("username", "format", "must be lower-case letters, digits and . _ - @ + between them, at most 128")
	}
	if err := bad.Err(); err != nil {
		return User{}, err
	}
	u.UUID, u.Created = uuid.NewString(), tx.Now
	var err error
	u.ID, err = tx.Insert(`INSERT INTO users (uuid, username, name, email, created) VALUES (?, ?, ?, ?, ?)`,
		u.UUID, u.Username, u.Name, u.Email, db.Micros(u.Created))
	if err != nil {
		return User{}, fmt.Errorf("user %s: %w", u.Username, err)
	}
	tx.Wake(Topic)
	return u, nil
}

// NewToken is what a token is made of.
type NewToken struct {
	Name       string
	Scopes     []Scope
	Workspaces []string
	IPs        []string
	Expires    time.Time
}

// Validate finds what is wrong at a time, paths in wire form.
func (n NewToken) Validate(now time.Time) error {
	var bad Invalid
	if strings.TrimSpace(n.Name) == "" {
		bad.Add("name", "required", "must not be empty")
	}
	bad.Text("name", n.Name, 255)
	for i, s := range n.Scopes {
		if !KnownScope(s) {
			bad.Add(fmt.Sprintf("scopes.%d", i), "enum", fmt.Sprintf("%q is not a scope", s))
		}
	}
	for i, s := range n.IPs {
		if _, err := ParsePrefix(s); err != nil {
			bad.Add(fmt.Sprintf("ip_restrictions.%d", i), "format", fmt.Sprintf("%q is neither an address nor a prefix", s))
		}
	}
	if !n.Expires.IsZero() && !n.Expires.After(now) {
		bad.Add("expires_at", "minimum", "must be in the future")
	}
	return bad.Err()
}

// CreateToken makes a token of the actor's user. It never carries more than
// the token it was made with: a scope or workspace that this one lacks is
// errdefs.ErrPermissionDenied, and its restrictions and end are inherited. The
// secret is given here and nowhere else.
func (a *Access) CreateToken(ctx context.Context, by Actor, n NewToken) (Token, string, error) {
	if err := by.Has(TokenManage); err != nil {
		return Token{}, "", err
	}
	if by.User.ID == 0 {
		return Token{}, "", fmt.Errorf("a token belongs to a user: %w", errdefs.ErrInvalidArgument)
	}
	if err := n.Validate(time.Now()); err != nil {
		return Token{}, "", err
	}
	n, err := n.within(by)
	if err != nil {
		return Token{}, "", fmt.Errorf("token %q: %w", n.Name, err)
	}
	secret, hash := newSecret()
	t := Token{
		User: by.User.ID, Name: n.Name, Scopes: n.Scopes, Workspaces: n.Workspaces, IPs: n.IPs,
		Expires: n.Expires.UTC().Truncate(time.Microsecond),
	}
	err = a.db.Write(ctx, func(tx *db.Tx) (err error) {
		if !by.system { // it may have ended since it was authenticated
			if err := hasToken(tx, by.Token.ID); err != nil {
				return fmt.Errorf("the token of this request: %w", errdefs.ErrUnauthenticated)
			}
		}
		t, err = insertToken(tx, t, hash)
		return err
	})
	if err != nil {
		return Token{}, "", fmt.Errorf("token %q: %w", n.Name, err)
	}
	return t, secret, nil
}

// within narrows a new token to what its maker carries.
func (n NewToken) within(by Actor) (NewToken, error) {
	if by.system {
		return n, nil
	}
	have := by.Token
	for _, s := range n.Scopes {
		if !carries(have.Scopes, s) {
			return n, fmt.Errorf("the token of this request lacks the scope %s: %w", s, errdefs.ErrPermissionDenied)
		}
	}
	for _, w := range n.Workspaces {
		if !by.Sees(w) {
			return n, fmt.Errorf("workspace: %w", errdefs.ErrNotFound)
		}
	}
	if len(n.Workspaces) == 0 {
		n.Workspaces = have.Workspaces
	}
	if len(n.IPs) == 0 {
		n.IPs = have.IPs
	} else if len(have.IPs) > 0 {
		for _, s := range n.IPs {
			if !slices.ContainsFunc(have.IPs, func(h string) bool { return covers(h, s) }) {
				return n, fmt.Errorf("the token of this request may not be used from %s itself: %w", s, errdefs.ErrPermissionDenied)
			}
		}
	}
	if !have.Expires.IsZero() && (n.Expires.IsZero() || n.Expires.After(have.Expires)) {
		n.Expires = have.Expires
	}
	return n, nil
}

// covers tells whether one prefix holds another.
func covers(wide, narrow string) bool {
	w, err := ParsePrefix(wide)
	if err != nil {
		return false
	}
	n, err := ParsePrefix(narrow)
	return err == nil && w.Bits() <= n.Bits() && netip.Prefix.Contains(w, n.Addr())
}

// Tokens lists the actor's tokens, oldest first.
func (a *Access) Tokens(ctx context.Context, by Actor) (list []Token, err error) {
	if err := by.Has(TokenInfo); err != nil {
		return nil, err
	}
	err = a.db.Read(ctx, func(tx *db.Tx) (err error) {
		list, err = tokensOf(tx, by.User.ID)
		return err
	})
	return list, err
}

// UpdateToken gives a token of the actor's another name and, unless expires is
// nil, another end, which is no later than that of the token of this request.
func (a *Access) UpdateToken(ctx context.Context, by Actor, id, name string, expires *time.Time) error {
	if err := by.Has(TokenManage); err != nil {
		return err
	}
	n := NewToken{Name: name}
	if expires != nil {
		n.Expires = *expires
	}
	if err := n.Validate(time.Now()); err != nil {
		return err
	}
	if have := by.Token.Expires; expires != nil && !have.IsZero() && (n.Expires.IsZero() || n.Expires.After(have)) {
		return fmt.Errorf("the token of this request ends at %s itself: %w", have.Format(time.RFC3339), errdefs.ErrPermissionDenied)
	}
	err := a.db.Write(ctx, func(tx *db.Tx) error {
		done, err := tx.Exec(`UPDATE tokens SET name = ?, expires = CASE WHEN ? THEN ? ELSE expires END WHERE id = ? AND user_id = ? AND grant_id IS NULL`,
			n.Name, expires != nil, db.Micros(n.Expires), id, by.User.ID)
		if err == nil && done == 0 {
			err = errdefs.ErrNotFound
		}
		if err != nil {
			return fmt.Errorf("token %s: %w", id, err)
		}
		tx.Wake(Topic)
		return nil
	})
	if err == nil {
		crash.At("access: a token is changed")
	}
	return err
}

// DeleteToken ends a token of the actor's at once; one of an application's ends
// with all that the application was given. A token may always end itself.
func (a *Access) DeleteToken(ctx context.Context, by Actor, id string) error {
	if err := by.Has(TokenManage); err != nil && (by.Token.ID == "" || by.Token.ID != id) {
		return err
	}
	return a.db.Write(ctx, func(tx *db.Tx) error {
		n, err := tx.Exec(`DELETE FROM oauth_grants WHERE id = (SELECT grant_id FROM tokens WHERE id = ? AND user_id = ?)`, id, by.User.ID)
		if err == nil && n == 0 {
			n, err = tx.Exec(`DELETE FROM tokens WHERE id = ? AND user_id = ?`, id, by.User.ID)
		}
		if err == nil && n == 0 {
			err = errdefs.ErrNotFound
		}
		if err != nil {
			return fmt.Errorf("token %s: %w", id, err)
		}
		tx.Wake(Topic)
		return nil
	})
}

// User gives a user; rooms use it to name who made a thing.
func (a *Access) User(ctx context.Context, id int64) (u User, err error) {
	err = a.db.Read(ctx, func(tx *db.Tx) (err error) {
		u, err = LoadUser(tx, id)
		return err
	})
	return u, err
}

// AddMember makes a user a member of a workspace, in the caller's transaction,
// or gives a member another role.
func AddMember(tx *db.Tx, workspace string, user int64, r Role) error {
	_, err := tx.Exec(`INSERT INTO members (workspace, user_id, role, created) VALUES (?, ?, ?, ?)
		ON CONFLICT (workspace, user_id) DO UPDATE SET role = excluded.role`, workspace, user, string(r), tx.Now.UnixMicro())
	if err != nil {
		return fmt.Errorf("member %d: %w", user, err)
	}
	tx.Wake(Topic)
	return nil
}

// RemoveMember ends a membership, in the caller's transaction; errdefs.ErrNotFound
// if there is none.
func RemoveMember(tx *db.Tx, workspace string, user int64) error {
	n, err := tx.Exec(`DELETE FROM members WHERE workspace = ? AND user_id = ?`, workspace, user)
	if err == nil && n == 0 {
		err = errdefs.ErrNotFound
	}
	if err != nil {
		return fmt.Errorf("member %d: %w", user, err)
	}
	tx.Wake(Topic)
	return nil
}
