package secret

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/tink-crypto/tink-go/v2/insecurecleartextkeyset"
	"github.com/tink-crypto/tink-go/v2/jwt"
	"github.com/tink-crypto/tink-go/v2/keyset"

	"slipway/db"
)

// Issuer says who a run is to clouds that lend it rights for that (OpenID
// Connect): it signs short tokens, and publishes the keys to check them with below
// the public URL. The keys are sealed in the store.
//
// Two keys are published at any time, of which one signs: those who keep a copy of
// the list know the next one long before it does, and that of before as long as
// anything it signed is good.
type Issuer struct {
	s   *Secrets
	url string
	now func() time.Time
}

const (
	tokenLife = 10 * time.Minute
	keyLife   = 90 * 24 * time.Hour // of the key that signs
	keyRest   = 24 * time.Hour      // it is published so long afterwards
)

// Run is a run of a pipeline, as its token tells it.
type Run struct {
	Workspace, Project, Pipeline string // domain, name, identifier
	ProjectID, PipelineID        string
	Execution                    string
	Ref                          string // refs/heads/main; "" of none
	Mode                         string
}

// Subject is what a cloud knows the pipeline by. None of the three names can have
// a colon in it.
func (r Run) Subject() string {
	return "workspace:" + r.Workspace + ":project:" + r.Project + ":pipeline:" + r.Pipeline
}

// Issuer is the issuer whose address is the public URL of the server, without a
// slash at its end.
func (s *Secrets) Issuer(url string) *Issuer { return &Issuer{s, url, time.Now} }

// Token signs who a run is, for one audience. It is good for ten minutes.
func (i *Issuer) Token(ctx context.Context, r Run, audience string) (string, error) {
	h, err := i.keys(ctx)
	if err != nil {
		return "", err
	}
	signer, err := jwt.NewSigner(h)
	if err != nil {
		return "", fmt.Errorf("sign a token: %w", err)
	}
	subject, now := r.Subject(), i.now()
	end := now.Add(tokenLife)
	raw, err := jwt.NewRawJWT(&jwt.RawJWTOptions{
		Issuer: &i.url, Subject: &subject, Audience: &audience, IssuedAt: &now, NotBefore: &now, ExpiresAt: &end,
		CustomClaims: map[string]any{
			"workspace": r.Workspace, "project": r.Project, "pipeline": r.Pipeline, "project_id": r.ProjectID, "pipeline_id": r.PipelineID,
			"execution": r.Execution, "ref": r.Ref, "mode": r.Mode,
		},
	})
	if err != nil {
		return "", fmt.Errorf("sign a token: %w", err)
	}
	return signer.SignAndEncode(raw)
}

// Handler serves what clouds look up below /.well-known: where the keys are, and
// the keys.
func (i *Issuer) Handler() http.Handler {
	const config, keys = "/.well-known/openid-configuration", "/.well-known/jwks.json"
	give := func(w http.ResponseWriter, b []byte, err error) {
		if err != nil {
			slog.Error("the keys for clouds cannot be shown", "room", "secret", "error", err)
			http.Error(w, "internal error", http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "public, max-age=300")
		_, _ = w.Write(b) // whoever has gone needs no answer
	}
	m := http.NewServeMux()
	m.HandleFunc("GET "+config, func(w http.ResponseWriter, _ *http.Request) {
		b, err := json.Marshal(map[string]any{
			"issuer": i.url, "jwks_uri": i.url + keys, "response_types_supported": []string{"id_token"}, "subject_types_supported": []string{"public"},
			"id_token_signing_alg_values_supported": []string{"RS256"},
			"claims_supported":                      []string{"iss", "sub", "aud", "iat", "nbf", "exp", "workspace", "project", "pipeline", "project_id", "pipeline_id", "execution", "ref", "mode"},
		})
		give(w, b, err)
	})
	m.HandleFunc("GET "+keys, func(w http.ResponseWriter, r *http.Request) {
		b, err := i.published(r.Context())
		give(w, b, err)
	})
	return m
}

// published are the public halves of the keys.
func (i *Issuer) published(ctx context.Context) ([]byte, error) {
	h, err := i.keys(ctx)
	if err != nil {
		return nil, err
	}
	public, err := h.Public()
	if err != nil {
		return nil, err
	}
	return jwt.JWKSetFromPublicKeysetHandle(public)
}

// ring are the keys as they are kept.
type ring struct {
	sealed   []byte // nil: there are none
	since    time.Time
	previous bool
}

// change is what is to be done with keys.
type change string

const (
	stay   change = ""
	begin  change = "make the first two"
	turn   change = "let the other one sign"
	renew  change = "replace the one of before by a next one"
	sealAs        = "issuer_keys/1"
)

// due says what is to be done with the keys now.
func (r ring) due(now time.Time) change {
	age := now.Sub(r.since)
	switch {
	case r.sealed == nil:
		return begin
	case r.previous && age >= keyRest:
		return renew
	case !r.previous && age >= keyLife:
		return turn
	}
	return stay
}

// keys gives the keys, after what is due was done with them. Of several who do it
// at the same time the first counts.
func (i *Issuer) keys(ctx context.Context) (*keyset.Handle, error) {
	for {
		r, err := i.load(ctx)
		if err != nil {
			return nil, fmt.Errorf("read the keys for clouds: %w", err)
		}
		what := r.due(i.now())
		var h *keyset.Handle
		if r.sealed != nil {
			if h, err = i.open(r.sealed); err != nil {
				return nil, err
			}
		}
		if what == stay {
			return h, nil
		}
		if err := i.change(ctx, r, h, what); err != nil {
			return nil, fmt.Errorf("keys for clouds: %s: %w", what, err)
		}
	}
}

func (i *Issuer) load(ctx context.Context) (r ring, err error) {
	err = i.s.db.Read(ctx, func(tx *db.Tx) error {
		var since sql.NullInt64
		err := tx.QueryRow(`SELECT sealed, since, previous FROM issuer_keys WHERE id = 1`).Scan(&r.sealed, &since, &r.previous)
		r.since = db.Time(since)
		return err
	})
	if errors.Is(err, sql.ErrNoRows) {
		return ring{}, nil
	}
	return r, err
}

func (i *Issuer) open(sealed []byte) (*keyset.Handle, error) {
	text, err := i.s.box.Open(sealed, sealAs)
	if err != nil {
		return nil, fmt.Errorf("open the keys for clouds: %w", err)
	}
	// What Read says about something broken could hold parts of a key.
	h, err := insecurecleartextkeyset.Read(keyset.NewBinaryReader(bytes.NewReader(text)))
	if err != nil {
		return nil, errors.New("the keys for clouds are damaged")
	}
	return h, nil
}

// change makes other keys of those that are there, outside of a transaction, as a
// new key takes its time, and keeps them if the others are still those.
func (i *Issuer) change(ctx context.Context, r ring, h *keyset.Handle, what change) error {
	h, since, err := changed(h, r.since, what, i.now())
	if err != nil {
		return err
	}
	var text bytes.Buffer
	if err := insecurecleartextkeyset.Write(h, keyset.NewBinaryWriter(&text)); err != nil {
		return errors.New("they cannot be written")
	}
	sealed, err := i.s.box.Seal(text.Bytes(), sealAs)
	if err != nil {
		return err
	}
	return i.s.db.Write(ctx, func(tx *db.Tx) error {
		if what == begin {
			_, err := tx.Exec(`INSERT INTO issuer_keys (id, sealed, since, previous) VALUES (1, ?, ?, 0) ON CONFLICT (id) DO NOTHING`, sealed, db.Micros(since))
			return err
		}
		_, err := tx.Exec(`UPDATE issuer_keys SET sealed = ?, since = ?, previous = ? WHERE id = 1 AND sealed = ?`,
			sealed, db.Micros(since), what == turn, r.sealed)
		return err
	})
}

// changed is the keys after a change, and since when the one of them signs that
// does.
func changed(h *keyset.Handle, since time.Time, what change, now time.Time) (*keyset.Handle, time.Time, error) {
	m := keyset.NewManager()
	if h != nil {
		m = keyset.NewManagerFromHandle(h)
	}
	add := func() (uint32, error) { return m.Add(jwt.RS256_2048_F4_Key_Template()) }
	switch what {
	case begin:
		first, err := add()
		if err == nil {
			err = m.SetPrimary(first)
		}
		if err == nil {
			_, err = add()
		}
		if err != nil {
			return nil, since, err
		}
		since = now
	case turn:
		if err := m.SetPrimary(other(h)); err != nil {
			return nil, since, err
		}
		since = now
	case renew:
		if err := m.Delete(other(h)); err != nil {
			return nil, since, err
		}
		if _, err := add(); err != nil {
			return nil, since, err
		}
	}
	h, err := m.Handle()
	return h, since, err
}

// other is the key that does not sign.
func other(h *keyset.Handle) uint32 {
	for n := range h.Len() {
		if e, err := h.Entry(n); err == nil && !e.IsPrimary() {
			return e.KeyID()
		}
	}
	return 0
}
