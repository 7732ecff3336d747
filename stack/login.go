package stack

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"

	"slipway/access"
	"slipway/crash"
	"slipway/db"
	"slipway/engine"
	"slipway/project"
	"slipway/secret"
)

const (
	askTime     = 15 * time.Second // for a registry to answer
	askedLately = time.Hour        // then it is asked again
	askedAtOnce = 8
)

// CreateLogin is that of secret.Secrets, once the registry was asked: one that
// refuses the login, or is none, is errdefs.ErrFailedPrecondition. One that
// cannot be asked is asked again later, and the login is not valid until then.
func (s *Stacks) CreateLogin(ctx context.Context, by access.Actor, l secret.Login) (secret.Login, error) {
	return s.keepLogin(ctx, by, l, s.secrets.CreateLoginIn)
}

// UpdateLogin is that of secret.Secrets; a registry with another host, user or
// password is asked as with CreateLogin.
func (s *Stacks) UpdateLogin(ctx context.Context, by access.Actor, l secret.Login) (secret.Login, error) {
	return s.keepLogin(ctx, by, l, s.secrets.UpdateLoginIn)
}

func (s *Stacks) keepLogin(ctx context.Context, by access.Actor, l secret.Login,
	keep func(*db.Tx, access.Actor, secret.Login) (secret.Login, error),
) (kept secret.Login, err error) {
	open, changed, err := s.secrets.TryLogin(ctx, by, l) // nobody is asked for whom may not, or with nonsense
	if err != nil {
		return secret.Login{}, err
	}
	known := false
	if changed {
		if known, err = s.ask(ctx, open); err != nil {
			return secret.Login{}, err
		}
	}
	err = s.db.Write(ctx, func(tx *db.Tx) error {
		if kept, err = keep(tx, by, l); err != nil || !changed {
			return err
		}
		if open.ID = kept.ID; known && open.Username != "" {
			// unless somebody changed it meanwhile: the answer is about the one that was asked for
			if same, err := s.secrets.CheckedIn(tx, open, true); err != nil {
				return err
			} else if same {
				kept.Valid, kept.Checked = true, tx.Now
			}
		}
		// What could not be had without it is looked for at once.
		p, err := project.Load(tx, open.Project)
		if err != nil {
			return err
		}
		return retryImages(tx, p.Workspace)
	})
	if err != nil {
		return secret.Login{}, err
	}
	crash.At("stack: login kept")
	return kept, nil
}

// CheckLogin asks the registry of a login now, and tells whether it lets the
// user in. A login without credentials is errdefs.ErrFailedPrecondition.
func (s *Stacks) CheckLogin(ctx context.Context, by access.Actor, id string) (valid bool, err error) {
	l, err := s.secrets.Login(ctx, by, id)
	if err != nil {
		return false, err
	}
	if l, _, err = s.secrets.TryLogin(ctx, by, l); err != nil {
		return false, err
	}
	if l.Username == "" {
		return false, fmt.Errorf("registry %s has no credentials here: %w", l.Host, errdefs.ErrFailedPrecondition)
	}
	return s.recheck(ctx, l)
}

// recheck asks the registry of a login that is kept, and writes down what it
// says.
func (s *Stacks) recheck(ctx context.Context, l secret.Login) (valid bool, err error) {
	known, refused := s.ask(ctx, l)
	if ctx.Err() != nil {
		return false, context.Cause(ctx)
	}
	if !known {
		return false, nil
	}
	return refused == nil, s.secrets.Checked(ctx, l, refused == nil)
}

// ask asks a registry whether it lets a user in. The error says why not; known
// is false if the registry cannot be asked.
func (s *Stacks) ask(ctx context.Context, l secret.Login) (known bool, refused error) {
	actx, cancel := context.WithTimeoutCause(ctx, askTime, fmt.Errorf("the registry did not answer within %s: %w", askTime, errdefs.ErrUnavailable))
	defer cancel()
	err := s.engine.Images().CheckLogin(actx, forEngine(l))
	switch {
	case ctx.Err() != nil:
		return false, context.Cause(ctx)
	case err == nil:
		return true, nil
	case errdefs.IsUnauthorized(err):
		return true, fmt.Errorf("registry %s refuses the login of user %s: %w", l.Host, l.Username, errdefs.ErrFailedPrecondition)
	case errdefs.IsFailedPrecondition(err):
		return true, fmt.Errorf("%s does not answer as a registry: %w", l.Host, errdefs.ErrFailedPrecondition)
	}
	slog.Info("a registry cannot be asked about a login", "room", "stack", "registry", l.Host, "error", err)
	return false, nil
}

func forEngine(l secret.Login) engine.Login {
	return engine.Login{Host: l.Host, Username: l.Username, Password: l.Password}
}

// checkLogins asks the registries of all logins now and then: those that never
// answered at every look, the others when their answer is old.
func (s *Stacks) checkLogins(ctx context.Context) error {
	tick := time.NewTicker(s.cfg.CheckLogins)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if err := s.checkOldLogins(ctx); err != nil && ctx.Err() == nil {
			slog.Error("logins of registries cannot be checked", "room", "stack", "error", err)
		}
	}
}

func (s *Stacks) checkOldLogins(ctx context.Context) error {
	old, err := s.secrets.LoginsToCheck(ctx, time.Now().Add(-askedLately))
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(askedAtOnce)
	for _, l := range old {
		g.Go(func() error {
			_, err := s.recheck(ctx, l)
			return err
		})
	}
	return g.Wait()
}
