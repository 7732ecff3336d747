package source

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"

	"slipway/access"
	"slipway/crash"
	"slipway/db"
	"slipway/project"
	"slipway/secret"
)

// RemoteChange says what becomes of the outside repository of a project. What is
// nil stays.
type RemoteChange struct {
	URL      *string // "" links the project to its own repository again
	Username *string
	Password *string
	// PrivateKey is that of an SSH deploy key; "" for none.
	PrivateKey *string
}

// of gives the remote that a change makes of the one there was: that itself if
// nothing changes, nil for none. A login stays with its host, a key with its
// repository.
func (c RemoteChange) of(old *Remote, private bool) (*Remote, error) {
	have := Remote{}
	if old != nil {
		have = *old
	}
	if c.Username != nil && *c.Username == secret.Encrypted && have.bare() {
		c.Username = nil // as it was told
	}
	to := have
	for _, f := range []struct{ to, from *string }{{&to.URL, c.URL}, {&to.Username, c.Username}, {&to.Password, c.Password}} {
		if f.from != nil {
			*f.to = *f.from
		}
	}
	if c.PrivateKey != nil {
		to.PrivateKey = []byte(*c.PrivateKey)
	}
	if to.URL == "" {
		var bad project.Invalid
		const alone = "belongs to an outside repository, and there is no URL of one"
		if c.Username != nil && *c.Username != "" {
			bad.Add("username", "conflict", alone)
		}
		if c.Password != nil && *c.Password != "" {
			bad.Add("password", "conflict", alone)
		}
		if len(to.PrivateKey) > 0 && c.PrivateKey != nil {
			bad.Add("private_key", "conflict", alone)
		}
		return nil, bad.Err()
	}
	if to.URL == have.URL && to.Username == have.Username && bytes.Equal(to.PrivateKey, have.PrivateKey) && (to.Password == have.Password || to.Password == secret.Encrypted && have.Password != "") {
		return old, nil
	}
	if c.Password == nil && have.Password != "" {
		to.Password = secret.Encrypted
	}
	if _, u, err := parseURL(to.URL); err == nil && u != nil && u.User != nil { // a login in a URL is one that is given
		if _, ok := u.User.Password(); ok && c.Password == nil {
			to.Password = ""
		}
		if c.Username == nil {
			to.Username = ""
		}
	}
	token := have.bare() && to.Username == have.Username
	if err := to.normalize(old, private); err != nil {
		return nil, err
	}
	if token && c.Username == nil && !sameHost(have.URL, to.URL) {
		var bad project.Invalid
		bad.Add("username", "required", "is to be given anew for another host")
		return nil, bad.Err()
	}
	if to.URL != have.URL && c.PrivateKey == nil {
		to.PrivateKey = nil
	}
	return &to, nil
}

// UpdateProject changes a project and the outside repository that it is linked
// to: both, or nothing.
func (s *Sources) UpdateProject(ctx context.Context, by access.Actor, id project.ID, c project.Change, remote RemoteChange) (project.Project, error) {
	return s.update(ctx, by, id, c, func(old *Remote) (*Remote, error) { return remote.of(old, s.cfg.Private) })
}

// update changes a project; next gives its new remote for the one it has, and
// that itself if it stays.
func (s *Sources) update(ctx context.Context, by access.Actor, id project.ID, c project.Change, next func(old *Remote) (*Remote, error)) (now project.Project, err error) {
	p, err := s.allowed(ctx, by, id, access.ProjectWrite)
	if err != nil {
		return now, err
	}
	old, _, err := s.loadRemote(ctx, p.ID)
	if err != nil {
		return now, err
	}
	to, err := next(old)
	if err = allBad(c.Validate(), err); err != nil {
		return now, err
	}
	moved := leads(old, to)
	if moved {
		busy := fmt.Errorf("the mirror of %s is busy: try again later: %w", redact(old.URL), errdefs.ErrUnavailable)
		k, err := within(ctx, s.patience, busy, func(ctx context.Context) (*lock, error) { return s.locks.take(ctx, s.mirrorLock(p.ID), false) })
		if err != nil {
			return now, err
		}
		defer k.release()
		all, err := within(ctx, s.patience, busy, func(ctx context.Context) (*lock, error) { return s.lockModules(ctx, p.ID, false) })
		if err != nil {
			return now, err
		}
		defer all.release()
		// What another URL or nobody gives is not ours to show, nor what its login
		// gave of others. A mirror is a cache, so it goes first: whoever is killed in
		// between leaves nothing of it.
		if err := errors.Join(s.drop(s.mirrorOf(p.ID)), s.dropModules(p.ID)); err != nil {
			return now, fmt.Errorf("link project %s: %w", p.Name, err)
		}
	}
	err = s.db.Write(ctx, func(tx *db.Tx) (err error) {
		now, err = s.updateIn(tx, by, p.ID, c, next, moved)
		return err
	})
	if err != nil {
		return project.Project{}, fmt.Errorf("change project %s: %w", p.Name, err)
	}
	crash.At("source: a project is linked")
	return now, nil
}

// updateIn is update in its transaction; moved tells that the mirror of the old
// remote is gone.
func (s *Sources) updateIn(tx *db.Tx, by access.Actor, id project.ID, c project.Change, next func(old *Remote) (*Remote, error), moved bool) (project.Project, error) {
	now, err := project.UpdateIn(tx, by, id, c)
	if err != nil {
		return now, err
	}
	old, _, err := s.remoteIn(tx, id)
	if err != nil {
		return now, err
	}
	to, err := next(old)
	if err != nil || to == old {
		return now, err
	}
	if leads(old, to) && !moved {
		return now, fmt.Errorf("somebody else linked it at the same time: %w", errdefs.ErrAborted)
	}
	return now, s.writeRemote(tx, id, to)
}

// leads tells whether a new remote leads away from where the old one did.
func leads(old, to *Remote) bool { return old != nil && (to == nil || to.URL != old.URL) }

// allBad puts the bad fields of two errors into one.
func allBad(a, b error) error {
	x, ok := project.AsInvalid(a)
	y, also := project.AsInvalid(b)
	if !ok || !also {
		return errors.Join(a, b)
	}
	return &project.Invalid{Fields: append(append([]project.Field{}, x.Fields...), y.Fields...)}
}
