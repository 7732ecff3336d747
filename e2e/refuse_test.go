package e2e

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/crane"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"slipway/cli"
)

// TestRefused brings what a server must not take: it says precisely why, and
// keeps nothing of it.
func TestRefused(t *testing.T) {
	t.Parallel()
	s := newServer(t, "--push-max", "1MiB")
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()

	t.Run("git", func(t *testing.T) {
		small := s.job("unknown")
		if err := small.commit(ctx, map[string]string{"a": "a"}); err != nil {
			t.Fatal(err)
		}
		if _, err := small.git(ctx, "push", s.URL+"/git/default/unknown.git", "main"); err == nil || !strings.Contains(err.Error(), "not found") {
			t.Errorf("push to an unknown project: %v", err)
		}
		if _, err := s.raw("GET", "/git/default/unknown.git/info/refs?service=git-receive-pack", "", nil, 404); err != nil {
			t.Error(err)
		}
		large := s.job("large")
		if err := large.makeProject(ctx); err != nil {
			t.Fatal(err)
		}
		noise := make([]byte, 3<<20)
		_, _ = rand.Read(noise)
		if err := large.commit(ctx, map[string]string{"noise": string(noise)}); err != nil {
			t.Fatal(err)
		}
		before := s.bytes("")
		_, err := large.git(ctx, "push", "--porcelain", s.URL+"/git/default/large.git", "main")
		if err == nil || !strings.Contains(err.Error(), "exceeds maximum allowed size (1024.00 KiB)") {
			t.Errorf("a push over the limit: %v", err)
		}
		if refs, err := large.git(ctx, "ls-remote", s.URL+"/git/default/large.git"); err != nil || refs != "" {
			t.Errorf("after a push over the limit: %q, %v", refs, err)
		}
		until(t, 10*time.Second, "nothing of the push is left", func() error {
			if now := s.bytes(""); now > before+512<<10 {
				return fmt.Errorf("the data directory grew from %d to %d bytes", before, now)
			}
			return nil
		})
		// What is small enough goes.
		if _, err := small.git(ctx, "push", s.URL+"/git/default/large.git", "main"); err != nil {
			t.Error(err)
		}
	})

	t.Run("archive", func(t *testing.T) {
		ref, err := name.NewTag("cut.example/cut:1")
		if err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		if err := tarball.Write(ref, tool(t, "cut"), &b); err != nil {
			t.Fatal(err)
		}
		blobs := s.blobs()
		for _, n := range []int{0, 100, 700, b.Len() / 2, b.Len() - 2000} {
			err := s.Do(ctx, "POST", "/slipway/v1/images:load?name=cut.example/cut:1", io.Reader(bytes.NewReader(b.Bytes()[:n])), nil)
			if !cli.IsStatus(err, http.StatusBadRequest) || !strings.Contains(err.Error(), "archive") {
				t.Errorf("the first %d of %d bytes: %v", n, b.Len(), err)
			}
		}
		d := s.one("cut", nil, runs("cut.example/cut", "1", "/probe true"))
		d.failed(t, []string{"cut.example"})
		s.same(t, blobs)
		// The whole one is taken, and runs without a network.
		if err := s.Do(ctx, "POST", "/slipway/v1/images:load?name=cut.example/cut:1", io.Reader(&b), nil); err != nil {
			t.Error(err)
		}
		s.one("whole", nil, runs("cut.example/cut", "1", "/probe true")).ok(t, "it is true")
	})

	t.Run("manifests", func(t *testing.T) {
		blobs := s.blobs()
		config := []byte(`{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}`)
		digest := fmt.Sprintf("sha256:%x", sha256.Sum256(config))
		missing := "sha256:" + strings.Repeat("0123456789abcdef", 4)
		other := fmt.Sprintf("sha256:%x", sha256.Sum256([]byte("x")))
		manifest := func(config, layer string) []byte {
			m, _ := json.Marshal(map[string]any{
				"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
				"config": map[string]any{"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": 78},
				"layers": []any{map[string]any{"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": layer, "size": 10}},
			})
			return m
		}
		oci := "application/vnd.oci.image.manifest.v1+json"
		for what, c := range map[string]struct {
			method, path, contentType string
			body                      []byte
			says                      []string
		}{
			"no blob of it is there":  {"PUT", "/v2/default/bad/manifests/1", oci, manifest(digest, missing), []string{"MANIFEST_BLOB_UNKNOWN", digest}},
			"a manifest by another":   {"PUT", "/v2/default/bad/manifests/" + other, oci, manifest(digest, missing), []string{"DIGEST_INVALID"}},
			"a wrong digest":          {"PUT", "/v2/default/bad/manifests/" + missing, oci, manifest(digest, missing), []string{"DIGEST_INVALID"}},
			"no manifest":             {"PUT", "/v2/default/bad/manifests/2", oci, []byte(`{"schemaVersion":`), []string{"MANIFEST_INVALID"}},
			"a wrong digest of blob":  {"POST", "/v2/default/bad/blobs/uploads/?digest=" + missing, "application/octet-stream", config, []string{"DIGEST_INVALID"}},
			"a digest that is no one": {"POST", "/v2/default/bad/blobs/uploads/?digest=sha256:x", "application/octet-stream", config, []string{"DIGEST_INVALID"}},
		} {
			said, err := s.raw(c.method, c.path, c.contentType, c.body, 400, 404)
			for _, w := range c.says {
				if err != nil || !strings.Contains(said, w) {
					t.Errorf("%s: %v: %q is not in %s", what, err, w, said)
				}
			}
		}
		for _, path := range []string{"/v2/default/bad/tags/list", "/v2/default/bad/manifests/1", "/v2/default/bad/blobs/" + digest, "/v2/default/bad/blobs/" + missing} {
			if said, err := s.raw("GET", path, "", nil, 404); err != nil {
				t.Errorf("%s: %v: %s", path, err, said)
			}
		}
		if l, err := crane.Catalog(s.listen, s.own()...); err != nil || strings.Contains(fmt.Sprint(l), "bad") {
			t.Errorf("%v, %v", l, err)
		}
		s.same(t, blobs)
	})
}

// raw asks without any client of ours, and gives what is said with one of the
// wanted statuses.
func (s *server) raw(method, path, contentType string, body []byte, want ...int) (string, error) {
	req, err := http.NewRequest(method, s.URL+path, bytes.NewReader(body))
	if err != nil {
		return "", err
	}
	req.SetBasicAuth("x", s.Token)
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	for _, w := range want {
		if res.StatusCode == w {
			return string(b), err
		}
	}
	return string(b), fmt.Errorf("status %d, want %v", res.StatusCode, want)
}

// blobs are the files of the content store, half uploaded ones too.
func (s *server) blobs() map[string]bool {
	found := map[string]bool{}
	_ = filepath.WalkDir(filepath.Join(s.data, "engine"), func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && (strings.Contains(p, "/blobs/sha256/") || strings.Contains(p, "/ingest/")) {
			found[p] = true
		}
		return nil
	})
	return found
}

// same waits until the content store has no more than it had.
func (s *server) same(t *testing.T, before map[string]bool) {
	t.Helper()
	until(t, 30*time.Second, "nothing is stored", func() error {
		for p := range s.blobs() {
			if !before[p] {
				return fmt.Errorf("%s is new", p)
			}
		}
		return nil
	})
}

// bytes is how much is in a folder of the data directory.
func (s *server) bytes(dir string) (n int64) {
	_ = filepath.WalkDir(filepath.Join(s.data, dir), func(_ string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && !strings.HasSuffix(d.Name(), "-wal") {
			if i, err := d.Info(); err == nil {
				n += i.Size()
			}
		}
		return nil
	})
	return n
}
