package access

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"database/sql"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/uuid"

	"slipway/db"
)

// ofServer tells whether the actor may change what is the server's as a whole.
func (a Actor) ofServer() error {
	if err := a.Has(WorkspacesManage); err != nil {
		return err
	}
	if len(a.Token.Workspaces) > 0 {
		return fmt.Errorf("the token is good for some workspaces only, and the server is that of all: %w", errdefs.ErrPermissionDenied)
	}
	return nil
}

// CreateApp registers an application. Its secret is given here and nowhere else.
func (a *Access) CreateApp(ctx context.Context, by Actor, p App) (App, string, error) {
	if err := by.ofServer(); err != nil {
		return App{}, "", err
	}
	if err := p.Validate(); err != nil {
		return App{}, "", err
	}
	redirects, err := json.Marshal(p.Redirects)
	if err != nil {
		return App{}, "", err
	}
	secret, hash := newSecretOf(appPrefix)
	p.ID, p.User = uuid.NewString(), by.User.ID
	err = a.db.Write(ctx, func(tx *db.Tx) error {
		p.Created = tx.Now
		_, err := tx.Exec(`INSERT INTO oauth_apps (id, user_id, secret, name, redirects, created) VALUES (?, ?, ?, ?, ?, ?)`,
			p.ID, p.User, hash[:], p.Name, string(redirects), db.Micros(p.Created))
		return err
	})
	if err != nil {
		return App{}, "", fmt.Errorf("application %q: %w", p.Name, err)
	}
	return p, secret, nil
}

// Apps lists the applications, oldest first.
func (a *Access) Apps(ctx context.Context, by Actor) (all []App, err error) {
	if err := by.ofServer(); err != nil {
		return nil, err
	}
	err = a.db.Read(ctx, func(tx *db.Tx) (err error) {
		all, err = db.List(tx, func(scan db.Scan) (App, error) { p, _, err := scanApp(scan); return p, err },
			`SELECT `+appColumns+` FROM oauth_apps ORDER BY created, id`)
		return err
	})
	return all, err
}

// DeleteApp ends an application, and every token that it was given.
func (a *Access) DeleteApp(ctx context.Context, by Actor, id string) error {
	if err := by.ofServer(); err != nil {
		return err
	}
	return a.db.Write(ctx, func(tx *db.Tx) error {
		tx.Wake(Topic)
		return gone(tx, "application "+id, `DELETE FROM oauth_apps WHERE id = ?`, id)
	})
}

// App gives an application that may send users to a place; errdefs.ErrNotFound if
// there is none, or the place is not one of its.
func (a *Access) App(ctx context.Context, id, redirect string) (p App, err error) {
	err = a.db.Read(ctx, func(tx *db.Tx) (err error) {
		p, _, err = loadApp(tx, id)
		return err
	})
	if err == nil && !slices.Contains(p.Redirects, redirect) {
		err = fmt.Errorf("the application %s is not to be at that address: %w", p.Name, errdefs.ErrNotFound)
	}
	return p, err
}

// Consent lets an application have a token of the actor's user, with no more
// than the actor has, and gives the code that it is got with. The rules are
// those of CreateToken.
func (a *Access) Consent(ctx context.Context, by Actor, ask Ask) (code string, err error) {
	if err := by.Has(TokenManage); err != nil {
		return "", err
	}
	app, err := a.App(ctx, ask.App, ask.Redirect)
	if err != nil {
		return "", err
	}
	n := NewToken{Name: app.Name, Scopes: ask.Scopes}
	if err := n.Validate(time.Now()); err != nil {
		return "", err
	}
	if n, err = n.within(by); err != nil {
		return "", err
	}
	lists, err := n.lists()
	if err != nil {
		return "", err
	}
	code, hash := newSecretOf(codePrefix)
	err = a.db.Write(ctx, func(tx *db.Tx) error {
		if err := hasToken(tx, by.Token.ID); err != nil { // it may have ended since
			return fmt.Errorf("the token of this request: %w", errdefs.ErrUnauthenticated)
		}
		if _, err := tx.Exec(`DELETE FROM oauth_grants WHERE expires < ?`, db.Micros(tx.Now.Add(-GrantedLives))); err != nil {
			return err
		}
		_, err := tx.Exec(`INSERT INTO oauth_grants (id, app, user_id, scopes, workspaces, ips, redirect, challenge, code, expires, until, created, token)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`, uuid.NewString(), app.ID, by.User.ID, lists[0], lists[1], lists[2], ask.Redirect, ask.Challenge,
			hash[:], db.Micros(tx.Now.Add(CodeLives)), db.Micros(n.Expires), db.Micros(tx.Now), by.Token.ID)
		return err
	})
	if err != nil {
		return "", fmt.Errorf("application %s: %w", app.Name, err)
	}
	return code, nil
}

// Client is an application that says who it is.
type Client struct{ ID, Secret string }

// Redeem turns a code into a token, once: brought again, it ends what came of it.
// The place is the one that the code was sent to. ErrClient, ErrGrant.
func (a *Access) Redeem(ctx context.Context, c Client, code, redirect, verifier string) (Granted, error) {
	hash := sha256.Sum256([]byte(code))
	return a.give(ctx, c, func(tx *db.Tx, app App) (grantOf, bool, error) {
		g, err := loadGrant(tx, `code = ?`, hash[:])
		if err != nil {
			return g, false, err
		}
		ends, err := g.redeem(app.ID, redirect, verifier, tx.Now)
		return g, ends, err
	}, nil)
}

// Refresh turns a refresh token into a token and the next refresh token. The one
// that was brought is good until the next one is used, so that an answer may be
// lost on its way. ErrClient, ErrGrant.
func (a *Access) Refresh(ctx context.Context, c Client, refresh string) (Granted, error) {
	hash := sha256.Sum256([]byte(refresh))
	return a.give(ctx, c, func(tx *db.Tx, app App) (grantOf, bool, error) {
		g, err := loadGrant(tx, `(refresh = ? OR refresh_before = ?)`, hash[:], hash[:])
		if err == nil && (g.app != app.ID || !tx.Now.Before(g.expires)) {
			err = ErrGrant
		}
		return g, false, err
	}, hash[:])
}

// give looks for the grant of a client that is who it says, and makes a token of
// it; before is the refresh token that is used up by that.
func (a *Access) give(ctx context.Context, c Client, find func(*db.Tx, App) (g grantOf, ends bool, err error), before []byte) (out Granted, err error) {
	var refused error // with it, a grant that ends does so
	err = a.db.Write(ctx, func(tx *db.Tx) error {
		out, refused = Granted{}, nil
		app, secret, err := loadApp(tx, c.ID)
		given := sha256.Sum256([]byte(c.Secret))
		if errdefs.IsNotFound(err) || err == nil && subtle.ConstantTimeCompare(secret, given[:]) != 1 {
			return ErrClient
		}
		if err != nil {
			return err
		}
		g, ends, err := find(tx, app)
		if errdefs.IsNotFound(err) {
			return ErrGrant
		}
		if ends {
			refused = err
			_, err = tx.Exec(`DELETE FROM oauth_grants WHERE id = ?`, g.id)
			tx.Wake(Topic)
			return err
		}
		if err != nil {
			return err
		}
		out, err = g.token(tx, app, before)
		return err
	})
	if err == nil {
		err = refused
	}
	return out, err
}

// token makes the next token of a grant.
func (g grantOf) token(tx *db.Tx, app App, before []byte) (out Granted, err error) {
	t := Token{User: g.user, Name: app.Name, Scopes: g.Scopes, Workspaces: g.Workspaces, IPs: g.IPs, Grant: g.id}
	t.Expires = sooner(tx.Now.Add(GrantedLives), g.until)
	if !tx.Now.Before(t.Expires) {
		return out, ErrGrant
	}
	// Those that are over are in the way of the user who looks at its tokens.
	if _, err := tx.Exec(`DELETE FROM tokens WHERE grant_id = ? AND expires < ?`, g.id, db.Micros(tx.Now)); err != nil {
		return out, err
	}
	var hash, next [sha256.Size]byte
	out.Token, hash = newSecret()
	out.Refresh, next = newSecretOf(refreshPrefix)
	if t, err = insertToken(tx, t, hash); err != nil {
		return out, err
	}
	_, err = tx.Exec(`UPDATE oauth_grants SET redeemed = 1, refresh = ?, refresh_before = ?, expires = ? WHERE id = ?`,
		next[:], before, db.Micros(sooner(tx.Now.Add(RefreshLives), g.until)), g.id)
	tx.Wake(Topic)
	out.Scopes, out.Expires = t.Scopes, t.Expires
	return out, err
}

// grantOf is what a user gave an application.
type grantOf struct {
	NewToken
	id, app, redirect, challenge string
	user                         int64
	redeemed                     bool
	expires, until               time.Time
}

func loadGrant(tx *db.Tx, where string, args ...any) (g grantOf, err error) {
	var lists [3]string
	var expires, until sql.NullInt64
	err = tx.QueryRow(`SELECT id, app, user_id, scopes, workspaces, ips, redirect, challenge, redeemed, expires, until FROM oauth_grants WHERE `+where, args...).
		Scan(&g.id, &g.app, &g.user, &lists[0], &lists[1], &lists[2], &g.redirect, &g.challenge, &g.redeemed, &expires, &until)
	if err != nil {
		return g, db.NotFound(err, "grant")
	}
	g.expires, g.until = db.Time(expires), db.Time(until)
	for i, to := range []any{&g.Scopes, &g.Workspaces, &g.IPs} {
		if err := json.Unmarshal([]byte(lists[i]), to); err != nil {
			return g, fmt.Errorf("grant %s: %w", g.id, err)
		}
	}
	return g, nil
}

const appColumns = `id, user_id, secret, name, redirects, created`

func scanApp(scan db.Scan) (p App, secret []byte, err error) {
	var redirects string
	var created sql.NullInt64
	if err := scan(&p.ID, &p.User, &secret, &p.Name, &redirects, &created); err != nil {
		return p, nil, err
	}
	p.Created = db.Time(created)
	return p, secret, json.Unmarshal([]byte(redirects), &p.Redirects)
}

func loadApp(tx *db.Tx, id string) (App, []byte, error) {
	p, secret, err := scanApp(tx.QueryRow(`SELECT `+appColumns+` FROM oauth_apps WHERE id = ?`, id).Scan)
	return p, secret, db.NotFound(err, "application %q", id)
}
