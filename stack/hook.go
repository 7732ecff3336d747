package stack

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/errdefs"

	"slipway/access"
	"slipway/db"
	"slipway/project"
)

// hookCalls is how often the hook of a service pulls in a minute.
const hookCalls = 10

// ErrTooOften is the error of a hook that was called too often in this minute.
var ErrTooOften = errors.New("the webhook of this service was called too often in this minute")

// RotateHook makes the token with which anybody may have the image of a service
// pulled, and ends the one before it. It is given here and nowhere else.
func (s *Stacks) RotateHook(ctx context.Context, by access.Actor, id ID, ref string) (token string, err error) {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails
	token = base64.RawURLEncoding.EncodeToString(b[:])
	sum := sha256.Sum256([]byte(token))
	err = s.write(ctx, by, id, func(tx *db.Tx, w *world, _ project.Project) error {
		sv, err := w.find(ref)
		if err != nil {
			return err
		}
		_, err = tx.Exec(`INSERT INTO service_hooks (service, sum, created) VALUES (?, ?, ?)
			ON CONFLICT (service) DO UPDATE SET sum = excluded.sum, created = excluded.created`, string(sv.ID), sum[:], db.Micros(tx.Now))
		return err
	})
	return token, err
}

// CallHook is Pull for whoever knows the token of a service of the stack. That
// there is no such stack and that the token is of none of its services are the
// same errdefs.ErrNotFound.
func (s *Stacks) CallHook(ctx context.Context, id ID, token string) error {
	sum := sha256.Sum256([]byte(token))
	// Strangers are no reason to keep the only writer busy.
	err := s.db.Read(ctx, func(tx *db.Tx) error {
		_, err := hooked(tx, id, sum[:])
		return err
	})
	if err != nil {
		return err
	}
	var last struct{ minute, calls int64 }
	return s.write(ctx, access.System(access.User{}), id, func(tx *db.Tx, w *world, p project.Project) error {
		service, err := hooked(tx, id, sum[:]) // it may have ended since
		if err != nil {
			return err
		}
		sv, err := w.find(string(service))
		if err != nil {
			return err
		}
		if err := tx.QueryRow(`SELECT minute, calls FROM service_hooks WHERE service = ?`, string(service)).Scan(&last.minute, &last.calls); err != nil {
			return err
		}
		now := tx.Now.Unix() / int64(time.Minute/time.Second)
		if last.minute != now {
			last.minute, last.calls = now, 0
		}
		if last.calls++; last.calls > hookCalls {
			return ErrTooOften
		}
		if _, err := tx.Exec(`UPDATE service_hooks SET minute = ?, calls = ? WHERE service = ?`, last.minute, last.calls, string(service)); err != nil {
			return err
		}
		c := &change{tx: tx, w: w, p: p}
		if err := c.pull(s, sv, false); err != nil {
			return err
		}
		return w.bump(tx, p, nil)
	})
}

// hooked finds the service of a stack whose token has a sum. How long it takes
// tells nothing of how much of the token is right.
func hooked(tx *db.Tx, id ID, sum []byte) (service ServiceID, err error) {
	type hook struct {
		service ServiceID
		sum     []byte
	}
	all, err := db.List(tx, func(scan db.Scan) (h hook, err error) {
		err = scan(&h.service, &h.sum)
		return h, err
	}, `SELECT h.service, h.sum FROM service_hooks h JOIN services s ON s.id = h.service WHERE s.stack = ? AND s.removed IS NULL`, string(id))
	for _, h := range all {
		if subtle.ConstantTimeCompare(h.sum, sum) == 1 {
			service = h.service
		}
	}
	if err == nil && service == "" {
		err = fmt.Errorf("webhook: %w", errdefs.ErrNotFound)
	}
	return service, err
}
