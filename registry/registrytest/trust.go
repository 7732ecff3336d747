package registrytest

import (
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"strings"
	"time"
)

// Trust says whose word a cloud takes, as is set up there for an identity
// provider.
type Trust struct {
	Issuer, Audience, Subject string
}

// Check verifies a token with the keys that its issuer publishes.
func (t Trust) Check(token string) (claims map[string]any, err error) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return nil, fmt.Errorf("a token of %d parts", len(parts))
	}
	var raw [3][]byte
	for n, p := range parts {
		if raw[n], err = base64.RawURLEncoding.DecodeString(p); err != nil {
			return nil, err
		}
	}
	var head struct{ Alg, Kid string }
	if err := errors.Join(json.Unmarshal(raw[0], &head), json.Unmarshal(raw[1], &claims)); err != nil {
		return nil, err
	}
	if claims["iss"] != t.Issuer || claims["aud"] != t.Audience || claims["sub"] != t.Subject || head.Alg != "RS256" {
		return claims, fmt.Errorf("not trusted: %v of %v for %v by %s", claims["sub"], claims["iss"], claims["aud"], head.Alg)
	}
	now := float64(time.Now().Unix())
	begin, _ := claims["iat"].(float64)
	end, _ := claims["exp"].(float64)
	if begin > now+60 || end < now || end > now+3600 {
		return claims, fmt.Errorf("good from %v to %v, and it is %v", begin, end, now)
	}
	key, err := t.key(head.Kid)
	if err != nil {
		return claims, err
	}
	sum := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	return claims, rsa.VerifyPKCS1v15(key, crypto.SHA256, sum[:], raw[2])
}

// Keys are the ids of the keys that an issuer publishes.
func (t Trust) Keys() (ids []string, err error) {
	l, err := t.published()
	for _, k := range l {
		ids = append(ids, k.Kid)
	}
	return ids, err
}

type webKey struct{ Kty, Alg, Use, Kid, N, E string }

func (t Trust) published() ([]webKey, error) {
	var config struct {
		Issuer string
		Keys   string `json:"jwks_uri"`
	}
	if err := fetch(t.Issuer+"/.well-known/openid-configuration", &config); err != nil {
		return nil, err
	}
	if config.Issuer != t.Issuer {
		return nil, fmt.Errorf("the issuer %s calls itself %s", t.Issuer, config.Issuer)
	}
	var set struct{ Keys []webKey }
	err := fetch(config.Keys, &set)
	return set.Keys, err
}

func (t Trust) key(id string) (*rsa.PublicKey, error) {
	l, err := t.published()
	if err != nil {
		return nil, err
	}
	for _, k := range l {
		if k.Kid != id || k.Kty != "RSA" || k.Alg != "RS256" || k.Use != "sig" {
			continue
		}
		n, nerr := base64.RawURLEncoding.DecodeString(k.N)
		e, eerr := base64.RawURLEncoding.DecodeString(k.E)
		return &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: int(new(big.Int).SetBytes(e).Int64())}, errors.Join(nerr, eerr)
	}
	return nil, fmt.Errorf("no key %q is published", id)
}

func fetch(at string, out any) error {
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	r, err := c.Get(at)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	if r.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", at, r.Status)
	}
	return json.NewDecoder(r.Body).Decode(out)
}
