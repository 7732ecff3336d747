package ingress

import (
	"container/list"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// Lives of the private CA and of what it signs. A certificate is made again
// before a third of its life is left, the CA while it outlives every leaf.
const (
	caLife   = 2 * 365 * 24 * time.Hour
	leafLife = 90 * 24 * time.Hour
	maxCerts = 4096
)

// caCert and caKey are the files of the private CA; clients are told to trust
// the first.
const (
	caCertFile = "ca.crt"
	caKeyFile  = "ca.key"
)

// authority is the private CA of a data dir. It signs a certificate for a
// hostname when the first client asks for it.
type authority struct {
	dir   string
	now   func() time.Time
	known func(host string) bool

	mu    sync.Mutex
	cert  *x509.Certificate
	key   *ecdsa.PrivateKey
	leafs map[string]*list.Element
	order *list.List // of *leaf, the last used first
}

type leaf struct {
	host string
	cert *tls.Certificate
}

// openAuthority reads the CA in dir or makes it. known says which hostnames
// may have a certificate of their own; all others share one.
func openAuthority(dir string, now func() time.Time, known func(string) bool) (*authority, error) {
	a := &authority{dir: dir, now: now, known: known, leafs: map[string]*list.Element{}, order: list.New()}
	a.mu.Lock()
	defer a.mu.Unlock()
	return a, a.load()
}

// load makes what is missing: first the key, then a certificate for it, so
// that a kill between the two is repaired by the next start.
func (a *authority) load() error {
	if err := os.MkdirAll(a.dir, 0o700); err != nil {
		return err
	}
	key, err := a.loadKey()
	if err != nil {
		return fmt.Errorf("private CA: %w", err)
	}
	a.key = key
	cert, err := readCert(filepath.Join(a.dir, caCertFile))
	if err == nil && key.PublicKey.Equal(cert.PublicKey) && a.now().Add(leafLife+24*time.Hour).Before(cert.NotAfter) {
		a.cert = cert
		return nil
	}
	if a.cert, err = a.makeCA(); err != nil {
		return fmt.Errorf("private CA: %w", err)
	}
	return nil
}

func (a *authority) loadKey() (*ecdsa.PrivateKey, error) {
	file := filepath.Join(a.dir, caKeyFile)
	b, err := os.ReadFile(file)
	if err == nil {
		block, _ := pem.Decode(b)
		if block == nil {
			return nil, fmt.Errorf("%s holds no key", file)
		}
		k, err := x509.ParseECPrivateKey(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		return k, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalECPrivateKey(k)
	if err != nil {
		return nil, err
	}
	return k, writeFile(file, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), 0o600)
}

func (a *authority) makeCA() (*x509.Certificate, error) {
	serial, err := serialNumber()
	if err != nil {
		return nil, err
	}
	now := a.now()
	t := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "Slipway private CA", Organization: []string{"Slipway"}},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(caLife),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, &a.key.PublicKey, a.key)
	if err != nil {
		return nil, err
	}
	b := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	if err := writeFile(filepath.Join(a.dir, caCertFile), b, 0o644); err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

func readCert(file string) (*x509.Certificate, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(b)
	if block == nil {
		return nil, fmt.Errorf("%s holds no certificate", file)
	}
	return x509.ParseCertificate(block.Bytes)
}

// get is tls.Config.GetCertificate.
func (a *authority) get(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	host := hostOnly(hello.ServerName)
	if host == "" || len(host) > 253 || !a.known(host) {
		host = "" // the one that all unknown names share
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.now()
	if e := a.leafs[host]; e != nil {
		l := e.Value.(*leaf)
		if now.Before(l.cert.Leaf.NotAfter.Add(-leafLife / 3)) {
			a.order.MoveToFront(e)
			return l.cert, nil
		}
		a.drop(e)
	}
	if now.Add(leafLife).After(a.cert.NotAfter) {
		if err := a.load(); err != nil {
			return nil, err
		}
	}
	c, err := a.sign(host, now)
	if err != nil {
		return nil, err
	}
	a.leafs[host] = a.order.PushFront(&leaf{host, c})
	for a.order.Len() > maxCerts {
		a.drop(a.order.Back())
	}
	return c, nil
}

func (a *authority) drop(e *list.Element) {
	delete(a.leafs, a.order.Remove(e).(*leaf).host)
}

func (a *authority) sign(host string, now time.Time) (*tls.Certificate, error) {
	serial, err := serialNumber()
	if err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	t := &x509.Certificate{
		SerialNumber: serial, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(leafLife),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true, Subject: pkix.Name{Organization: []string{"Slipway"}},
		DNSNames: []string{host},
	}
	if host == "" {
		t.DNSNames = []string{"localhost"}
		t.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}
	}
	der, err := x509.CreateCertificate(rand.Reader, t, a.cert, &key.PublicKey, a.key)
	if err != nil {
		return nil, err
	}
	l, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: [][]byte{der, a.cert.Raw}, PrivateKey: key, Leaf: l}, nil
}

func serialNumber() (*big.Int, error) {
	return rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
}

// writeFile puts a file in place whole and on disk, or not at all.
func writeFile(file string, b []byte, mode os.FileMode) error {
	tmp := fmt.Sprintf("%s.%d.tmp", file, os.Getpid())
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(tmp, file)
	}
	if err != nil {
		_ = os.Remove(tmp)
	}
	return err
}
