package access

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"

	"slipway/db"
)

// Topic is what db.Watch is told when users, tokens or members change.
const Topic = "access"

// Role is what a user is in a workspace.
type Role string

// Roles. Owner and administrators may do everything in the workspace, but only
// the owner ends it; a member may do what the permission set says with which it,
// or a group of its, is in a project.
const (
	Owner  Role = "OWNER"
	Admin  Role = "ADMIN"
	Member Role = "MEMBER"
)

// User is a person, or a machine with tokens of its own.
type User struct {
	ID       int64
	UUID     string
	Username string
	Name     string
	Email    string
	Created  time.Time
}

// Called is how the user is told of: by its name, or by its user name if it has
// given itself none, as who was invited has not.
func (u User) Called() string { return cmp.Or(u.Name, u.Username) }

// Token is a token without its secret.
type Token struct {
	ID         string
	User       int64
	Name       string
	Scopes     []Scope  // as they were given
	Workspaces []string // ids of the workspaces it is bound to; none: all of the user's
	IPs        []string // addresses or prefixes it may come from; none: any
	Created    time.Time
	Expires    time.Time // zero: never
	LastUsed   time.Time // exact to a minute
	Grant      string    // when it is made: what a user gave an application, "" for none
}

// Access is the front door.
type Access struct {
	db      *db.DB
	changed <-chan struct{}

	mu    sync.RWMutex
	era   int64                        // counts the changes that were noticed
	known map[[sha256.Size]byte]*known // tokens that asked lately
}

// known is a token that was authenticated. It is never changed.
type known struct {
	actor Actor
	from  []netip.Prefix
	used  *atomic.Int64 // when last_used was written, microseconds
}

// How many tokens are remembered, and how often last_used is written.
const (
	mostKnown = 10_000
	usedEvery = time.Minute
)

// New makes the front door.
func New(d *db.DB) *Access {
	changed, _ := d.Watch(Topic) // as long as d
	return &Access{db: d, changed: changed, known: map[[sha256.Size]byte]*known{}}
}

// A secret is a prefix, by which it is found in what should not hold it, and
// 32 random bytes.
const (
	secretPrefix  = "slw_" // tokens
	appPrefix     = "sls_" // what applications say who they are with
	codePrefix    = "slc_" // what they get a token with
	refreshPrefix = "slr_" // and the next one
)

var secretSize = len(secretPrefix) + base64.RawURLEncoding.EncodedLen(32)

func newSecret() (string, [sha256.Size]byte) { return newSecretOf(secretPrefix) }

func newSecretOf(prefix string) (string, [sha256.Size]byte) {
	b := make([]byte, 32)
	rand.Read(b) // never fails
	s := prefix + base64.RawURLEncoding.EncodeToString(b)
	return s, sha256.Sum256([]byte(s))
}

// Authenticate finds the actor of a secret ("slw_..."). errdefs.ErrUnauthenticated
// if there is none, it has expired or the address is not allowed. ip is that of
// the client, without port.
func (a *Access) Authenticate(ctx context.Context, secret, ip string) (Actor, error) {
	if len(secret) != secretSize || !strings.HasPrefix(secret, secretPrefix) {
		return Actor{}, fmt.Errorf("not a token: %w", errdefs.ErrUnauthenticated)
	}
	hash := sha256.Sum256([]byte(secret))
	k, err := a.find(ctx, hash)
	if err != nil {
		return Actor{}, err
	}
	now := time.Now()
	if e := k.actor.Token.Expires; !e.IsZero() && !now.Before(e) {
		return Actor{}, fmt.Errorf("the token has expired: %w", errdefs.ErrUnauthenticated)
	}
	if len(k.from) > 0 && !allowed(k.from, ip) {
		return Actor{}, fmt.Errorf("the token may not be used from %s: %w", ip, errdefs.ErrUnauthenticated)
	}
	a.used(ctx, k, now)
	return k.actor, nil
}

func allowed(from []netip.Prefix, ip string) bool {
	addr, err := netip.ParseAddr(ip)
	if err != nil {
		return false
	}
	addr = addr.Unmap().WithZone("")
	return slices.ContainsFunc(from, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// find gives a token from memory or from the store.
func (a *Access) find(ctx context.Context, hash [sha256.Size]byte) (*known, error) {
	if len(a.changed) > 0 { // sent before the commit's Write returned
		a.forget()
	}
	a.mu.RLock()
	k, era := a.known[hash], a.era
	a.mu.RUnlock()
	if k != nil {
		return k, nil
	}
	k, err := a.load(ctx, hash)
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if era == a.era { // else it may be what was before the change
		if len(a.known) >= mostKnown {
			clear(a.known)
		}
		a.known[hash] = k
	}
	return k, nil
}

// forget drops what is known of tokens, if something has changed. The news is
// taken under the lock: who finds it gone finds what was known gone too.
func (a *Access) forget() {
	a.mu.Lock()
	defer a.mu.Unlock()
	select {
	case <-a.changed:
		clear(a.known)
		a.era++
	default:
	}
}

// actor is who asks with a token.
func actor(tx *db.Tx, t Token) (a Actor, err error) {
	a.Token = t
	if a.User, err = LoadUser(tx, t.User); err != nil {
		return a, err
	}
	if a.roles, err = roles(tx, t.User); err != nil {
		return a, err
	}
	if a.grants, err = grants(tx, t.User); err != nil {
		return a, err
	}
	a.groups, err = groupsOf(tx, t.User)
	return a, err
}

// As is a user as an actor, who may do what the user may now as far as some
// scopes let it: for what the server does by an earlier wish of that user, and
// only if the user still could. A user who is gone may do nothing.
func As(tx *db.Tx, user int64, scopes ...Scope) (Actor, error) {
	a, err := actor(tx, Token{User: user, Scopes: scopes})
	if errdefs.IsNotFound(err) {
		return Actor{}, nil
	}
	return a, err
}

func (a *Access) load(ctx context.Context, hash [sha256.Size]byte) (*known, error) {
	k := &known{used: new(atomic.Int64)}
	err := a.db.Read(ctx, func(tx *db.Tx) (err error) {
		t, err := tokenByHash(tx, hash)
		if errdefs.IsNotFound(err) {
			return fmt.Errorf("no such token: %w", errdefs.ErrUnauthenticated)
		} else if err != nil {
			return err
		}
		k.actor, err = actor(tx, t)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("authenticate: %w", err)
	}
	if !k.actor.Token.LastUsed.IsZero() {
		k.used.Store(k.actor.Token.LastUsed.UnixMicro())
	}
	for _, s := range k.actor.Token.IPs {
		p, err := ParsePrefix(s)
		if err != nil { // checked when it was made
			return nil, fmt.Errorf("token %s: address %q: %w", k.actor.Token.ID, s, errdefs.ErrDataLoss)
		}
		k.from = append(k.from, p)
	}
	return k, nil
}

// used notes that a token was used, seldom enough that a request costs no
// write. That it cannot be noted is no reason to refuse a request.
func (a *Access) used(ctx context.Context, k *known, now time.Time) {
	last := k.used.Load()
	if now.UnixMicro()-last < usedEvery.Microseconds() || !k.used.CompareAndSwap(last, now.UnixMicro()) {
		return
	}
	err := a.db.Write(ctx, func(tx *db.Tx) error {
		_, err := tx.Exec(`UPDATE tokens SET last_used = ? WHERE id = ?`, tx.Now.UnixMicro(), k.actor.Token.ID)
		return err
	})
	if err != nil {
		slog.WarnContext(ctx, "last use of a token not noted", "room", "access", "token", k.actor.Token.ID, "error", err)
	}
}

// ParsePrefix reads an address or a prefix; an address is the prefix of itself
// alone.
func ParsePrefix(s string) (netip.Prefix, error) {
	if strings.Contains(s, "/") {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return p, err
		}
		if p.Addr().Is4In6() {
			if p.Bits() < 96 {
				return p, fmt.Errorf("%s: too wide", s)
			}
			p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
		}
		return p.Masked(), nil
	}
	addr, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Prefix{}, err
	}
	addr = addr.Unmap().WithZone("")
	return netip.PrefixFrom(addr, addr.BitLen()), nil
}
