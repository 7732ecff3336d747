package ingress

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"
)

func TestCertificates(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	p := start(t, cfg)
	set(t, p, table(1, map[string][]Route{"a.example": to(backend(t, say("secure"))), "b.example": nil}))
	_, addr := p.Addrs()
	leaf := func(name string) *x509.Certificate {
		t.Helper()
		c, err := tls.Dial("tcp", addr, &tls.Config{RootCAs: roots(t, p), ServerName: name})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		defer c.Close()
		return c.ConnectionState().PeerCertificates[0]
	}
	a := leaf("a.example")
	if life := a.NotAfter.Sub(a.NotBefore); life < leafLife || life > leafLife+2*time.Hour {
		t.Errorf("it lives %s", life)
	}
	if leaf("a.example").SerialNumber.Cmp(a.SerialNumber) != 0 || leaf("b.example").SerialNumber.Cmp(a.SerialNumber) == 0 {
		t.Error("the cache does not work by name")
	}
	if _, err := tls.Dial("tcp", addr, &tls.Config{RootCAs: roots(t, p), ServerName: "stranger.example"}); err == nil {
		t.Error("a name that nobody has got a certificate")
	}
	if st, err := os.Stat(cfg.DataDir + "/" + caKeyFile); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("key %v, %v", st, err)
	}
	tr := &http.Transport{
		ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{RootCAs: roots(t, p)},
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", addr)
		},
	}
	defer tr.CloseIdleConnections()
	res, err := (&http.Client{Transport: tr}).Get("https://a.example/")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.ProtoMajor != 2 {
		t.Errorf("by %s", res.Proto)
	}
}

func TestAuthority(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	now := time.Now()
	clock := func() time.Time { return now }
	known := func(h string) bool { return strings.HasSuffix(h, ".example") }
	open := func() *authority {
		t.Helper()
		a, err := openAuthority(dir, clock, known)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	get := func(a *authority, name string) *tls.Certificate {
		t.Helper()
		c, err := a.get(&tls.ClientHelloInfo{ServerName: name})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	a := open()
	if b := open(); !bytes.Equal(a.cert.Raw, b.cert.Raw) {
		t.Error("another CA at the second start")
	}
	one := get(a, "A.example.")
	if get(a, "a.example") != one {
		t.Error("not cached")
	}
	if get(a, "") != get(a, "nobody.test") {
		t.Error("unknown names do not share one")
	}
	for i := range maxCerts + 10 {
		get(a, fmt.Sprintf("h%d.example", i))
	}
	if len(a.leafs) > maxCerts || a.order.Len() != len(a.leafs) {
		t.Errorf("%d certificates are kept", len(a.leafs))
	}
	now = now.Add(leafLife * 3 / 4)
	if c := get(a, "a.example"); c == one || !c.Leaf.NotAfter.After(now.Add(leafLife-time.Hour)) {
		t.Error("not renewed")
	}
	old := a.cert
	now = old.NotAfter.Add(-leafLife / 2)
	c := get(a, "a.example")
	if c.Leaf.NotAfter.After(a.cert.NotAfter) || a.cert.NotAfter.Equal(old.NotAfter) {
		t.Error("it outlives its CA")
	}
	// what a kill between key and certificate leaves, and a broken certificate
	for _, content := range []string{"", "broken"} {
		if content == "" {
			_ = os.Remove(dir + "/" + caCertFile)
		} else if err := os.WriteFile(dir+"/"+caCertFile, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if b := open(); !b.key.Equal(a.key) {
			t.Error("the key changed")
		}
	}
	if err := os.WriteFile(dir+"/"+caKeyFile, []byte("broken"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := openAuthority(dir, clock, known); err == nil {
		t.Error("a broken key is accepted")
	}
}
