package e2e

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/crane"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// tool makes an image of the probe program; note makes it another one each time.
func tool(t *testing.T, note string) v1.Image {
	t.Helper()
	program, err := os.ReadFile(probeProgram)
	if err != nil {
		t.Fatal(err)
	}
	return imageOf(t, map[string][]byte{"probe": program, "note": []byte(note)}, nil, v1.Config{Entrypoint: []string{"/probe"}, Cmd: []string{"web"}})
}

// shell makes an image with a shell and the tools that busybox has.
func shell(t *testing.T) v1.Image {
	t.Helper()
	box, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatalf("the tests need the package busybox-static: %v", err)
	}
	links := map[string]string{"bin/sh": "busybox", "bin/cat": "busybox"}
	return imageOf(t, map[string][]byte{"bin/busybox": box}, links, v1.Config{Env: []string{"PATH=/bin"}, Cmd: []string{"/bin/sh"}})
}

// imageOf makes an image of one layer.
func imageOf(t *testing.T, files map[string][]byte, links map[string]string, c v1.Config) v1.Image {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for name, text := range files {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(text)), Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(text); err != nil {
			t.Fatal(err)
		}
	}
	for name, to := range links {
		if err := w.WriteHeader(&tar.Header{Name: name, Linkname: to, Typeflag: tar.TypeSymlink}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil })
	if err != nil {
		t.Fatal(err)
	}
	img, err := mutate.AppendLayers(empty.Image, layer)
	if err == nil {
		img, err = mutate.ConfigFile(img, &v1.ConfigFile{
			Architecture: "amd64", OS: "linux", Config: c, RootFS: v1.RootFS{Type: "layers", DiffIDs: diffs(t, img)},
		})
	}
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func diffs(t *testing.T, img v1.Image) []v1.Hash {
	t.Helper()
	c, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	return c.RootFS.DiffIDs
}

// authority signs certificates for 127.0.0.1.
type authority struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "a test"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	if c, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return &authority{key, c}
}

func (a *authority) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
}

func (a *authority) server(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "127.0.0.1"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, c, a.cert, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// outside is a registry of the test.
type outside struct {
	t    *testing.T
	host string
	opts []crane.Option

	mu       sync.Mutex
	password string                                            // of ann
	asks     []string                                          // requests that passed the login
	lets     func(r *http.Request, user, password string) bool // with "basic", instead of ann's login
}

// newOutside starts a registry with TLS by an authority. kind is "", "basic" or
// "bearer"; the login is ann with the password.
func newOutside(t *testing.T, ca *authority, kind, password string) *outside {
	t.Helper()
	o := &outside{t: t, password: password}
	inner := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		o.mu.Lock()
		password, lets := o.password, o.lets
		o.mu.Unlock()
		token := "t-" + password
		user, pass, _ := r.BasicAuth()
		good := user == "ann" && pass == password || lets != nil && lets(r, user, pass)
		switch {
		case r.URL.Path == "/token":
			if !good {
				http.Error(w, `{"details":"incorrect username or password"}`, http.StatusUnauthorized)
				return
			}
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprintf(w, `{"token":%q,"access_token":%q,"expires_in":300}`, token, token)
			return
		case kind == "basic" && !good:
			w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
		case kind == "bearer" && r.Header.Get("Authorization") != "Bearer "+token:
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="https://%s/token",service="test",scope="repository:x:pull,push"`, o.host))
		default:
			o.mu.Lock()
			o.asks = append(o.asks, r.Method+" "+r.URL.Path)
			o.mu.Unlock()
			inner.ServeHTTP(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusUnauthorized)
		fmt.Fprint(w, `{"errors":[{"code":"UNAUTHORIZED","message":"who are you?"}]}`)
	}))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.TLS = &tls.Config{Certificates: []tls.Certificate{ca.server(t)}}
	s.StartTLS()
	t.Cleanup(s.Close)
	o.host = s.Listener.Addr().String()
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	o.opts = []crane.Option{crane.WithTransport(&http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, DisableKeepAlives: true})}
	if kind != "" {
		o.opts = append(o.opts, crane.WithAuth(&authn.Basic{Username: "ann", Password: password}))
	}
	return o
}

// let has a registry of kind "basic" ask who is let in, beside ann.
func (o *outside) let(who func(r *http.Request, user, password string) bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.lets = who
}

// change gives ann another password.
func (o *outside) change(password string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.password = password
}

func (o *outside) push(img v1.Image, name string) {
	o.t.Helper()
	if err := crane.Push(img, o.host+"/"+name, o.opts...); err != nil {
		o.t.Fatal(err)
	}
}

func (o *outside) digest(name string) string {
	o.t.Helper()
	d, err := crane.Digest(o.host+"/"+name, o.opts...)
	if err != nil {
		o.t.Errorf("digest of %s: %v", name, err)
	}
	return d
}

// asked counts the requests whose path has a text.
func (o *outside) asked(part string) (n int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, a := range o.asks {
		if strings.Contains(a, part) {
			n++
		}
	}
	return n
}

// own is how a standard client speaks to the server's registry.
func (s *server) own() []crane.Option {
	return []crane.Option{
		crane.WithAuth(&authn.Basic{Username: "anybody", Password: s.Token}),
		crane.WithTransport(&http.Transport{DisableKeepAlives: true}),
	}
}

// give puts an image into the server's own registry.
func (s *server) give(img v1.Image, name string) {
	s.t.Helper()
	if err := crane.Push(img, s.listen+"/"+name, s.own()...); err != nil {
		s.t.Fatal(err)
	}
}

// done is an execution with the logs of its actions.
type done struct {
	execution
	*job
	logs []string
}

// text is all that was said.
func (d done) text() string { return d.String() + "\n" + strings.Join(d.logs, "\n") }

// one runs actions once, in a project of their own with these files.
func (s *server) one(name string, files map[string]string, actions ...map[string]any) done {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	d := done{job: s.job(name, actions...)}
	err := d.makeProject(ctx)
	if err == nil {
		err = d.makePipeline(ctx)
	}
	if err == nil && files != nil {
		if err = d.commit(ctx, files); err == nil {
			err = d.push(ctx)
		}
	} else if err == nil {
		err = s.Do(ctx, "POST", d.pipelinePath()+"/executions", map[string]any{}, nil)
	}
	if err == nil {
		d.execution, err = d.finish(ctx)
	}
	for _, a := range d.Steps {
		if err == nil {
			var l []string
			l, err = d.log(ctx, d.ID, a)
			d.logs = append(d.logs, l...)
		}
	}
	if err != nil {
		s.t.Fatalf("%s: %v", name, err)
	}
	return d
}

// runs is an action that runs an image.
func runs(img, tag, entrypoint string, more ...any) map[string]any {
	return with(map[string]any{
		"name": "Run", "type": "RUN_DOCKER_CONTAINER", "docker_image_name": img, "docker_image_tag": tag, "entrypoint": entrypoint, "inline_commands": "",
	}, more...)
}

// with adds members to an action: name, value, name, value...
func with(a map[string]any, more ...any) map[string]any {
	for i := 0; i+1 < len(more); i += 2 {
		a[more[i].(string)] = more[i+1]
	}
	return a
}

// ok fails unless the execution succeeded and said a text.
func (d done) ok(t *testing.T, says string) {
	t.Helper()
	if d.Status != "SUCCESSFUL" || !strings.Contains(d.text(), says) {
		t.Errorf("%s: not as wanted (%q): %s", d.name, says, d.text())
	}
}

// failed fails unless the execution failed, and its message has all the words
// and none of the forbidden ones.
func (d done) failed(t *testing.T, words []string, forbidden ...string) {
	t.Helper()
	var why string
	for _, a := range d.Steps {
		why += a.ErrorMessage
	}
	for _, w := range words {
		if d.Status != "FAILED" || !strings.Contains(why, w) {
			t.Errorf("%s: is %s, and %q is not in %q", d.name, d.Status, w, why)
		}
	}
	for _, w := range forbidden {
		if strings.Contains(d.text(), w) {
			t.Errorf("%s: %q is in %s", d.name, w, d.text())
		}
	}
}
