package access

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/crypto/ssh"

	"slipway/db"
)

// What users say of themselves: public keys, and addresses beside the one that
// they were invited by. Nobody has asked an address whether it is right, so that
// nothing is given to it, and no user is found by it.

// Bounds of what one user may say.
const (
	mostKeys   = 100
	mostEmails = 20
	maxKeyText = 16 << 10
)

// Key is a public key of a user.
type Key struct {
	ID      int64
	Title   string
	Content string // one line, as in authorized_keys
	Created time.Time
}

// Email is an address of a user.
type Email struct {
	Address string
	First   bool // the user's own, which stays
}

// change writes something of the actor's own user. A token that is bound to
// workspaces may not: the user is in others, too.
func (a *Access) change(ctx context.Context, by Actor, s Scope, f func(*db.Tx) error) error {
	if err := by.Has(s); err != nil {
		return err
	}
	if len(by.Token.Workspaces) > 0 {
		return fmt.Errorf("the token is bound to workspaces, and the user is not: %w", errdefs.ErrPermissionDenied)
	}
	return a.db.Write(ctx, f)
}

// full tells whether a user may say no more.
func full(tx *db.Tx, table string, user int64, most int) error {
	var n int
	err := tx.QueryRow(`SELECT COUNT(*) FROM `+table+` WHERE user_id = ?`, user).Scan(&n)
	if err == nil && n >= most {
		err = fmt.Errorf("a user has at most %d: %w", most, errdefs.ErrFailedPrecondition)
	}
	return err
}

// AddKey keeps a public key. One that is there is errdefs.ErrAlreadyExists.
func (a *Access) AddKey(ctx context.Context, by Actor, k Key) (Key, error) {
	if err := by.Has(UserKey); err != nil {
		return Key{}, err
	}
	var bad Invalid
	k.Content = strings.TrimSpace(k.Content)
	key, comment, options, rest, err := ssh.ParseAuthorizedKey([]byte(k.Content))
	switch {
	case k.Content == "":
		bad.Add("content", "required", "must not be empty")
	case len(k.Content) > maxKeyText:
		bad.Add("content", "maximum", fmt.Sprintf("must be at most %d bytes", maxKeyText))
	case err != nil || len(rest) > 0 || len(options) > 0 || strings.ContainsAny(k.Content, "\r\n"):
		bad.Add("content", "format", "must be one public key, as in a file id_ed25519.pub")
	case k.Title == "":
		if k.Title = comment; k.Title == "" {
			k.Title = ssh.FingerprintSHA256(key)
		}
	}
	bad.Text("title", k.Title, maxName)
	if err := bad.Err(); err != nil {
		return Key{}, err
	}
	err = a.change(ctx, by, UserKey, func(tx *db.Tx) error {
		if err := full(tx, "user_keys", by.User.ID, mostKeys); err != nil {
			return err
		}
		k.Created = tx.Now
		k.ID, err = tx.Insert(`INSERT INTO user_keys (user_id, title, content, created) VALUES (?, ?, ?, ?)`, by.User.ID, k.Title, k.Content, db.Micros(k.Created))
		return err
	})
	if err != nil {
		return Key{}, fmt.Errorf("key %q: %w", k.Title, err)
	}
	return k, nil
}

// Keys lists the actor's public keys, oldest first.
func (a *Access) Keys(ctx context.Context, by Actor) (all []Key, err error) {
	if err := by.Has(UserKey); err != nil {
		return nil, err
	}
	err = a.db.Read(ctx, func(tx *db.Tx) (err error) {
		all, err = db.List(tx, func(scan db.Scan) (k Key, err error) {
			var created int64
			err = scan(&k.ID, &k.Title, &k.Content, &created)
			k.Created = time.UnixMicro(created)
			return k, err
		}, `SELECT id, title, content, created FROM user_keys WHERE user_id = ? ORDER BY id`, by.User.ID)
		return err
	})
	return all, err
}

// DeleteKey forgets a public key of the actor's.
func (a *Access) DeleteKey(ctx context.Context, by Actor, id int64) error {
	return a.change(ctx, by, UserKey, func(tx *db.Tx) error {
		return gone(tx, fmt.Sprintf("key %d", id), `DELETE FROM user_keys WHERE id = ? AND user_id = ?`, id, by.User.ID)
	})
}

// gone is a statement that must find something.
func gone(tx *db.Tx, what, statement string, args ...any) error {
	n, err := tx.Exec(statement, args...)
	if err == nil && n == 0 {
		err = errdefs.ErrNotFound
	}
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// AddEmail keeps one more address. One that is there is errdefs.ErrAlreadyExists.
func (a *Access) AddEmail(ctx context.Context, by Actor, address string) (Email, error) {
	if err := by.Has(ManageEmails); err != nil {
		return Email{}, err
	}
	var bad Invalid
	if validEmail(&bad, address); bad.Err() != nil {
		return Email{}, bad.Err()
	}
	err := a.change(ctx, by, ManageEmails, func(tx *db.Tx) error {
		if err := full(tx, "user_emails", by.User.ID, mostEmails); err != nil {
			return err
		}
		all, err := emails(tx, by.User.ID)
		if err != nil {
			return err
		}
		for _, e := range all {
			if strings.EqualFold(e.Address, address) {
				return fmt.Errorf("is there already: %w", errdefs.ErrAlreadyExists)
			}
		}
		_, err = tx.Exec(`INSERT INTO user_emails (user_id, email, created) VALUES (?, ?, ?)`, by.User.ID, address, tx.Now.UnixMicro())
		return err
	})
	if err != nil {
		return Email{}, fmt.Errorf("address %s: %w", address, err)
	}
	return Email{Address: address}, nil
}

// Emails lists the addresses of the actor's user, its own first.
func (a *Access) Emails(ctx context.Context, by Actor) (all []Email, err error) {
	if err := by.Has(UserEmail); err != nil {
		return nil, err
	}
	err = a.db.Read(ctx, func(tx *db.Tx) (err error) {
		all, err = emails(tx, by.User.ID)
		return err
	})
	return all, err
}

func emails(tx *db.Tx, user int64) (all []Email, err error) {
	return db.List(tx, func(scan db.Scan) (e Email, err error) {
		var at int64
		err = scan(&e.Address, &e.First, &at)
		return e, err
	}, `SELECT email, 1, 0 AS at FROM users WHERE id = ? AND email <> ''
		UNION ALL SELECT email, 0, created FROM user_emails WHERE user_id = ? ORDER BY at`, user, user)
}

// DeleteEmail forgets an address of the actor's user. That which it was invited
// by stays: errdefs.ErrFailedPrecondition.
func (a *Access) DeleteEmail(ctx context.Context, by Actor, address string) error {
	return a.change(ctx, by, ManageEmails, func(tx *db.Tx) error {
		if address != "" && strings.EqualFold(address, by.User.Email) {
			return fmt.Errorf("%s is the address that the user is known by, which stays: %w", address, errdefs.ErrFailedPrecondition)
		}
		return gone(tx, "address "+address, `DELETE FROM user_emails WHERE user_id = ? AND lower(email) = lower(?)`, by.User.ID, address)
	})
}
