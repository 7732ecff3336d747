package event

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/uuid"

	"slipway/access"
	"slipway/db"
)

// Sealer seals texts for a row; a secret.Box does.
type Sealer interface {
	Seal(text []byte, row string) ([]byte, error)
	Open(sealed []byte, row string) ([]byte, error)
}

// HookConfig is what Hooks are told by serve.
type HookConfig struct {
	Private bool   // they may lead to private addresses
	Owner   string // of the leases; names this process

	// Payload makes what is sent for an event: a JSON object with members.
	// errdefs.ErrNotFound is an event of which nothing is left; nobody is told.
	Payload func(context.Context, Event) ([]byte, error)
}

// Hooks is the front door of webhooks, and what sends them.
type Hooks struct {
	cfg    HookConfig
	db     *db.DB
	box    Sealer
	direct *http.Client
	proxy  *http.Client
	first  time.Duration // the first pause after a failure
}

// NewHooks makes the front door.
func NewHooks(cfg HookConfig, d *db.DB, box Sealer) *Hooks {
	return &Hooks{cfg: cfg, db: d, box: box, direct: client(cfg.Private, false), proxy: client(cfg.Private, true), first: 5 * time.Second}
}

// change changes a hook and checks it, and names all that is wrong.
func (h *Hooks) change(k *Hook, how func(*Hook) error) error {
	was := *k
	var bad access.Invalid
	for _, err := range []error{how(k), k.Validate(h.cfg.Private)} {
		var inv *access.Invalid
		if err != nil && !errors.As(err, &inv) {
			return err
		}
		if inv != nil {
			bad.Fields = append(bad.Fields, inv.Fields...)
		}
	}
	if k.Secret == Encrypted && was.Secret == "" {
		bad.Add("secret_key", "required", "there is no key yet that "+Encrypted+" could stand for")
	}
	k.Number, k.Workspace, k.Created = was.Number, was.Workspace, was.Created
	return bad.Err()
}

// Create makes a hook as how says, which is told of what happens from now on. It
// is given back with its key, this once.
func (h *Hooks) Create(ctx context.Context, by access.Actor, workspace string, how func(*Hook) error) (Hook, error) {
	if err := by.May(workspace, access.WebhookAdd); err != nil {
		return Hook{}, err
	}
	k := Hook{Workspace: workspace}
	if err := h.change(&k, how); err != nil {
		return Hook{}, err
	}
	err := h.db.Write(ctx, func(tx *db.Tx) error {
		var n int
		if err := tx.QueryRow(`SELECT COUNT(*) FROM webhooks WHERE workspace = ?`, k.Workspace).Scan(&n); err != nil {
			return err
		}
		if n >= maxHooks {
			return &access.Invalid{Fields: []access.Field{{Kind: "maximum", Message: fmt.Sprintf("a workspace has at most %d webhooks", maxHooks)}}}
		}
		k.Created = tx.Now
		return h.insert(tx, &k, uuid.NewString())
	})
	if err != nil {
		return Hook{}, fmt.Errorf("create a webhook: %w", err)
	}
	return k, nil
}

// maxHooks bounds those of a workspace.
const maxHooks = 1000

// List gives the hooks of a workspace, oldest first and without their requests.
func (h *Hooks) List(ctx context.Context, by access.Actor, workspace string) (list []Hook, err error) {
	if err := by.May(workspace, access.WebhookInfo); err != nil {
		return nil, err
	}
	err = h.db.Read(ctx, func(tx *db.Tx) (err error) {
		list, err = loadHooks(tx, `workspace = ? ORDER BY number`, workspace)
		return err
	})
	return list, err
}

// Get gives a hook with its last requests.
func (h *Hooks) Get(ctx context.Context, by access.Actor, workspace string, number int64) (k Hook, err error) {
	err = h.db.Read(ctx, func(tx *db.Tx) error {
		if k, err = seenHook(tx, by, workspace, number, access.WebhookInfo); err != nil {
			return err
		}
		k.Requests, err = loadRequests(tx, number)
		return err
	})
	return k, err
}

// seenHook loads a hook for an actor that may do something with it.
func seenHook(tx *db.Tx, by access.Actor, workspace string, number int64, right access.Scope) (Hook, error) {
	if err := by.May(workspace, right); err != nil {
		return Hook{}, err
	}
	l, err := loadHooks(tx, `workspace = ? AND number = ?`, workspace, number)
	if err == nil && len(l) == 0 {
		err = fmt.Errorf("webhook %d: %w", number, errdefs.ErrNotFound)
	}
	if err != nil {
		return Hook{}, err
	}
	return l[0], nil
}

// Update changes a hook; a key that is left as Encrypted stays. What it could not
// be told yet is tried again at once.
func (h *Hooks) Update(ctx context.Context, by access.Actor, workspace string, number int64, how func(*Hook) error) (Hook, error) {
	var k Hook
	err := h.db.Write(ctx, func(tx *db.Tx) error {
		was, err := seenHook(tx, by, workspace, number, access.WebhookManage)
		if err != nil {
			return err
		}
		k = was
		if err := h.change(&k, how); err != nil {
			return err
		}
		if err := h.update(tx, k); err != nil {
			return err
		}
		k.Requests, err = loadRequests(tx, number)
		return err
	})
	if err != nil {
		return Hook{}, err
	}
	if k.Secret != "" {
		k.Secret = Encrypted
	}
	return k, nil
}

// Delete ends a hook; a request that is on its way arrives.
func (h *Hooks) Delete(ctx context.Context, by access.Actor, workspace string, number int64) error {
	return h.db.Write(ctx, func(tx *db.Tx) error {
		if _, err := seenHook(tx, by, workspace, number, access.WebhookManage); err != nil {
			return err
		}
		_, err := tx.Exec(`DELETE FROM webhooks WHERE number = ?`, number)
		return err
	})
}
