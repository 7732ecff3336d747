package access

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/containerd/errdefs"
)

// How long what is given by OAuth2 is good.
const (
	CodeLives    = 2 * time.Minute // from the user's consent to the application's request
	GrantedLives = 8 * time.Hour   // a token
	RefreshLives = 30 * 24 * time.Hour
)

// Errors of the exchange.
var (
	// ErrClient says that the application is not who it says.
	ErrClient = errdefs.ErrUnauthenticated.WithMessage("there is no such application, or its secret is another one")
	// ErrGrant says that a code or a refresh token is not good.
	ErrGrant = errdefs.ErrInvalidArgument.WithMessage("the code or refresh token is unknown, was used before, has expired, or is another application's")
)

// App is an application that users may give tokens to.
type App struct {
	ID        string // client_id
	User      int64  // who registered it
	Name      string
	Redirects []string // where codes may be sent to
	Created   time.Time
}

// Validate finds what is wrong, paths in wire form.
func (p App) Validate() error {
	var bad Invalid
	name(&bad, p.Name)
	if len(p.Redirects) == 0 || len(p.Redirects) > 20 {
		bad.Add("redirect_uris", "required", "must be 1 to 20 addresses")
	}
	for i, s := range p.Redirects {
		at := fmt.Sprintf("redirect_uris.%d", i)
		bad.Text(at, s, 4096)
		u, err := url.Parse(s)
		if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil || strings.Contains(s, "#") {
			bad.Add(at, "format", "must be an address with https or http, without a user and without a fragment")
		}
	}
	return bad.Err()
}

// Ask is what an application wants of a user.
type Ask struct {
	App       string
	Redirect  string // one of the application's
	Scopes    []Scope
	Challenge string // of PKCE: the SHA-256 of a text in base64url; "" if the application sent none
}

// Granted is what an application gets.
type Granted struct {
	Token, Refresh string // secrets
	Scopes         []Scope
	Expires        time.Time // of Token
}

// proves tells whether a verifier is the text of a challenge.
func proves(challenge, verifier string) bool {
	if challenge == "" {
		return verifier == ""
	}
	sum := sha256.Sum256([]byte(verifier))
	return subtle.ConstantTimeCompare([]byte(base64.RawURLEncoding.EncodeToString(sum[:])), []byte(challenge)) == 1
}

// sooner gives the earlier of two times; zero is never.
func sooner(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// redeem decides what becomes of a grant when its code is brought at a time.
func (g grantOf) redeem(app, redirect, verifier string, now time.Time) (ends bool, err error) {
	switch {
	case g.app != app: // it is still good for the one that it was given to
		return false, ErrGrant
	case g.redeemed: // it was stolen, now or before
		return true, ErrGrant
	case !now.Before(g.expires), g.redirect != redirect, !proves(g.challenge, verifier):
		return true, ErrGrant
	}
	return false, nil
}
