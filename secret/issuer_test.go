package secret

import (
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"slipway/db"
	"slipway/registry/registrytest"
)

// TestIssuer: what is signed is checked with what is published, over two changes of
// the keys; nobody reads a private one in the store.
func TestIssuer(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	srv := httptest.NewUnstartedServer(nil)
	i := w.Issuer("http://" + srv.Listener.Addr().String())
	now := time.Now()
	i.now = func() time.Time { return now }
	srv.Config.Handler = i.Handler()
	srv.Start()
	t.Cleanup(srv.Close)
	r := Run{Workspace: "acme", Project: "web", Pipeline: "main", ProjectID: "p", PipelineID: "1", Execution: "x", Ref: "refs/heads/main", Mode: "MANUAL"}
	trust := registrytest.Trust{Issuer: srv.URL, Audience: "sts.amazonaws.com", Subject: "workspace:acme:project:web:pipeline:main"}
	sign := func() string {
		t.Helper()
		token, err := i.Token(t.Context(), r, "sts.amazonaws.com")
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	keys := func() []string {
		t.Helper()
		l, err := trust.Keys()
		if err != nil || len(l) != 2 {
			t.Fatalf("%q, %v", l, err)
		}
		return l
	}
	first, before := sign(), keys()
	claims, err := trust.Check(first)
	if err != nil || claims["ref"] != "refs/heads/main" || claims["pipeline_id"] != "1" || claims["mode"] != "MANUAL" {
		t.Fatalf("%v, %v", claims, err)
	}
	if _, err := (registrytest.Trust{Issuer: srv.URL, Audience: "other", Subject: trust.Subject}).Check(first); err == nil {
		t.Error("it is good for another audience")
	}
	if _, err := trust.Check(first[:len(first)-6] + "AAAAAA"); err == nil {
		t.Error("another signature is good")
	}
	var sealed []byte
	if err := w.Secrets.db.Read(t.Context(), func(tx *db.Tx) error { return tx.QueryRow(`SELECT sealed FROM issuer_keys`).Scan(&sealed) }); err != nil || len(sealed) < 2000 || strings.Contains(string(sealed), "googleapis") {
		t.Errorf("%d bytes, %v", len(sealed), err)
	}

	// The next key was published before it signs, and the one of before is for a while.
	now = now.Add(keyLife)
	if again := keys(); !slices.Equal(slices.Sorted(slices.Values(again)), slices.Sorted(slices.Values(before))) {
		t.Errorf("%q became %q", before, again)
	}
	if _, err := trust.Check(first); err != nil {
		t.Errorf("what the key of before signed: %v", err)
	}
	now = now.Add(keyRest)
	after := keys()
	if n := slices.IndexFunc(after, func(k string) bool { return !slices.Contains(before, k) }); n < 0 || slices.Equal(after, before) {
		t.Errorf("%q became %q", before, after)
	}
	if _, err := trust.Check(first); err == nil || !strings.Contains(err.Error(), "no key") {
		t.Errorf("a key that is gone: %v", err)
	}
	now = time.Now()
	if _, err := trust.Check(sign()); err != nil {
		t.Error(err)
	}
}

func TestKeysAreDue(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	some := []byte("x")
	for _, c := range []struct {
		r    ring
		age  time.Duration
		want change
	}{
		{ring{}, 0, begin},
		{ring{some, at, false}, keyLife - 1, stay},
		{ring{some, at, false}, keyLife, turn},
		{ring{some, at, true}, keyRest - 1, stay},
		{ring{some, at, true}, keyRest, renew},
		{ring{some, at, true}, 2 * keyLife, renew},
	} {
		if got := c.r.due(at.Add(c.age)); got != c.want {
			t.Errorf("%+v after %s: %q, want %q", c.r, c.age, got, c.want)
		}
	}
}
