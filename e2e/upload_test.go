package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/crane"
)

// killUpload kills the server while a layer is on its way into the registry.
func (s *server) killUpload(ctx context.Context, t *testing.T, p *prober) {
	img := tool(t, "interrupted")
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	r, err := layers[0].Compressed()
	if err != nil {
		t.Fatal(err)
	}
	blob, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	digest := fmt.Sprintf("sha256:%x", sha256.Sum256(blob))
	before := s.blobs()
	// Two uploads stop after half of it: one goes on later, one does not.
	var at [2]string
	for i := range at {
		at[i] = s.halfUpload(ctx, t, blob)
	}
	s.kill()
	p.more(5)
	s.start(nil)
	if said, err := s.raw("HEAD", "/v2/default/cut/blobs/"+digest, "", nil, http.StatusNotFound); err != nil {
		t.Errorf("half a blob is there: %v: %s", err, said)
	}
	s.resume(ctx, t, at[0], blob, digest)
	if said, err := s.raw("DELETE", at[1], "", nil, http.StatusNoContent, http.StatusNotFound); err != nil {
		t.Errorf("the other upload: %v: %s", err, said)
	}
	if said, err := s.raw("GET", at[1], "", nil, http.StatusNotFound); err != nil || !strings.Contains(said, "BLOB_UPLOAD_UNKNOWN") {
		t.Errorf("after it was dropped: %v: %s", err, said)
	}
	// A whole push works, and what is stored is what its name says.
	s.give(img, "default/cut:1")
	got, err := crane.Pull(s.listen+"/default/cut:1", s.own()...)
	if err == nil {
		err = crane.Save(got, "x", filepath.Join(t.TempDir(), "x.tar"))
	}
	if err != nil {
		t.Error(err)
	}
	until(t, 10*time.Second, "nothing half is stored", func() error {
		for f := range s.blobs() {
			if before[f] {
				continue
			}
			if strings.Contains(f, "/ingest/") {
				return fmt.Errorf("%s is there", f)
			}
			b, err := os.ReadFile(f)
			if err != nil {
				return err
			}
			if fmt.Sprintf("%x", sha256.Sum256(b)) != filepath.Base(f) {
				return fmt.Errorf("%s is not what its name says", f)
			}
		}
		return nil
	})
}

// request is one of a registry's client, with a way to give a body slowly.
func (s *server) request(ctx context.Context, method, path string, body io.Reader, header ...string) (*http.Response, error) {
	q, err := http.NewRequestWithContext(ctx, method, s.URL+strings.TrimPrefix(path, s.URL), body)
	if err != nil {
		return nil, err
	}
	q.SetBasicAuth("anybody", s.Token)
	for i := 0; i+1 < len(header); i += 2 {
		q.Header.Set(header[i], header[i+1])
	}
	return (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(q)
}

// halfUpload begins an upload whose request does not come to its end, and waits
// until the server has the half of it. It gives its path.
func (s *server) halfUpload(ctx context.Context, t *testing.T, blob []byte) string {
	t.Helper()
	res, err := s.request(ctx, "POST", "/v2/default/cut/blobs/uploads/", nil)
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	at := strings.TrimPrefix(res.Header.Get("Location"), s.URL)
	if res.StatusCode != http.StatusAccepted || at == "" {
		t.Fatalf("begin an upload: %s, %v", res.Status, res.Header)
	}
	have := s.bytes("engine")
	out, in := io.Pipe()
	go func() {
		res, err := s.request(ctx, "PATCH", at, out, "Content-Type", "application/octet-stream")
		if err == nil {
			_ = res.Body.Close()
			err = errors.New("the server answered")
		}
		_ = out.CloseWithError(err)
	}()
	if _, err := in.Write(blob[:len(blob)/2]); err != nil {
		t.Fatal(err)
	}
	// It ends when the server does.
	until(t, 10*time.Second, "the server has some of it", func() error {
		if now := s.bytes("engine"); now < have+int64(len(blob)/4) {
			return fmt.Errorf("%d bytes more", now-have)
		}
		return nil
	})
	return at
}

// resume goes on with an upload where the server says that it stopped, if it
// still knows it.
func (s *server) resume(ctx context.Context, t *testing.T, at string, blob []byte, digest string) {
	t.Helper()
	res, err := s.request(ctx, "GET", at, nil)
	if err != nil {
		t.Fatal(err)
	}
	said, _ := io.ReadAll(res.Body)
	_ = res.Body.Close()
	if res.StatusCode == http.StatusNotFound && strings.Contains(string(said), "BLOB_UPLOAD_UNKNOWN") {
		t.Log("the upload is forgotten")
		return
	}
	_, last, _ := strings.Cut(res.Header.Get("Range"), "-")
	end, err := strconv.Atoi(last)
	if res.StatusCode != http.StatusNoContent || err != nil || end < 0 || end >= len(blob)/2 {
		t.Fatalf("the upload: %s, range %q: %s", res.Status, res.Header.Get("Range"), said)
	}
	t.Logf("the upload goes on after %d of %d bytes", end+1, len(blob))
	if to := res.Header.Get("Location"); to != "" {
		at = to
	}
	res, err = s.request(ctx, "PATCH", at, bytes.NewReader(blob[end+1:]), "Content-Type", "application/octet-stream",
		"Content-Range", fmt.Sprintf("%d-%d", end+1, len(blob)-1))
	if err != nil {
		t.Fatal(err)
	}
	said, _ = io.ReadAll(res.Body)
	_ = res.Body.Close()
	if res.StatusCode != http.StatusAccepted {
		t.Fatalf("go on: %s: %s", res.Status, said)
	}
	if to := res.Header.Get("Location"); to != "" {
		at = to
	}
	mark := "?"
	if strings.Contains(at, "?") {
		mark = "&"
	}
	if res, err = s.request(ctx, "PUT", at+mark+"digest="+digest, nil); err != nil {
		t.Fatal(err)
	}
	said, _ = io.ReadAll(res.Body)
	_ = res.Body.Close()
	if res.StatusCode != http.StatusCreated {
		t.Fatalf("end it: %s: %s", res.Status, said)
	}
	got, err := s.raw("GET", "/v2/default/cut/blobs/"+digest, "", nil, http.StatusOK)
	if err != nil || got != string(blob) {
		t.Errorf("what came of it has %d bytes of %d, %v", len(got), len(blob), err)
	}
}
