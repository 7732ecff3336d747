package image

import (
	"bytes"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func TestUploads(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	body := bytes.Repeat([]byte("0123456789"), 1000)
	d := digestOf(body)
	begin := func() string {
		t.Helper()
		a := w.do(w.ann, "POST", "/v2/team/up/blobs/uploads/", nil)
		if a.code != 202 || a.header.Get("Location") == "" || a.header.Get("Range") != "0-0" {
			t.Fatalf("begin: %+v", a)
		}
		return w.url + a.header.Get("Location")
	}
	want := func(a answer, code int, errCode string) {
		t.Helper()
		if a.code != code || a.errCode() != errCode {
			t.Errorf("%d %s %s, want %d %s", a.code, a.errCode(), a.body, code, errCode)
		}
	}
	loc := begin()
	want(w.do(w.ann, "PATCH", loc, body[:4000], "Content-Range: 0-3999"), 202, "")
	want(w.do(w.ann, "PATCH", loc, body[5000:6000], "Content-Range: 5000-5999"), 416, "RANGE_INVALID")
	a := w.do(w.ann, "GET", loc, nil)
	if want(a, 204, ""); a.header.Get("Range") != "0-3999" {
		t.Errorf("range %q", a.header.Get("Range"))
	}
	// another life of the server
	w.must(w.db.Close())
	w.open()
	want(w.do(w.ann, "PATCH", loc, body[4000:7000], "Content-Range: 4000-6999"), 202, "")
	want(w.do(w.rob, "PATCH", loc, body[7000:]), 404, "NAME_UNKNOWN")
	want(w.do(w.ann, "PATCH", strings.Replace(loc, "team/up", "team/other", 1), body[7000:]), 404, "BLOB_UPLOAD_UNKNOWN")
	want(w.do(w.ann, "PUT", loc+"?digest="+d, body[8000:], "Content-Range: 8000-9999"), 416, "RANGE_INVALID")
	want(w.do(w.ann, "PUT", loc+"?digest="+d, body[7000:]), 201, "")
	want(w.do(w.ann, "GET", loc, nil), 404, "BLOB_UPLOAD_UNKNOWN")
	want(w.do(w.ann, "HEAD", "/v2/team/up/blobs/"+d, nil), 200, "")
	if a := w.do(w.ann, "GET", "/v2/team/up/blobs/"+d, nil); a.body != string(body) || a.header.Get("Docker-Content-Digest") != d {
		t.Error("the blob differs")
	}
	if a := w.do(w.ann, "GET", "/v2/team/up/blobs/"+d, nil, "Range: bytes=10-19"); a.code != 206 || a.body != "0123456789" || a.header.Get("Content-Range") != "bytes 10-19/10000" {
		t.Errorf("range: %+v", a)
	}
	want(w.do(w.ann, "GET", "/v2/team/up/blobs/"+d, nil, "Range: bytes=20000-20010"), 416, "RANGE_INVALID")
	// in one request
	other := []byte("another")
	want(w.do(w.ann, "POST", "/v2/team/up/blobs/uploads/?digest="+digestOf(other), other), 201, "")
	want(w.do(w.ann, "POST", "/v2/team/up/blobs/uploads/?digest="+digestOf([]byte("no")), other), 400, "DIGEST_INVALID")
	want(w.do(w.ann, "POST", "/v2/team/up/blobs/uploads/?digest=sha256:12", other), 400, "DIGEST_INVALID")
	// a wrong digest keeps nothing
	loc = begin()
	want(w.do(w.ann, "PUT", loc+"?digest="+digestOf([]byte("no")), []byte("yes")), 400, "DIGEST_INVALID")
	want(w.do(w.ann, "GET", loc, nil), 404, "BLOB_UPLOAD_UNKNOWN")
	want(w.do(w.ann, "HEAD", "/v2/team/up/blobs/"+digestOf([]byte("yes")), nil), 404, "")
	loc = begin()
	want(w.do(w.ann, "DELETE", loc, nil), 204, "")
	want(w.do(w.ann, "PATCH", loc, body), 404, "BLOB_UPLOAD_UNKNOWN")
	want(w.do(w.ann, "DELETE", "/v2/team/up/blobs/"+d, nil), 202, "")
	want(w.do(w.ann, "GET", "/v2/team/up/blobs/"+d, nil), 404, "BLOB_UNKNOWN")
	if n := w.count(`SELECT count(*) FROM image_uploads`); n != 0 {
		t.Errorf("%d uploads are left", n)
	}
}

// TestOthersBlobs: to know a digest is no right to the content.
func TestOthersBlobs(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	img := randomImage(t, 1000, 1)
	w.push(img, "team/secret:v1")
	raw, err := img.RawManifest()
	w.must(err)
	layers, err := img.Layers()
	w.must(err)
	layer, err := layers[0].Digest()
	w.must(err)
	d := imageDigest(t, img)
	for _, path := range []string{"/v2/team/secret/blobs/" + layer.String(), "/v2/rivals/mine/blobs/" + layer.String(), "/v2/team/secret/manifests/v1", "/v2/rivals/mine/manifests/" + d, "/v2/team/secret/tags/list"} {
		if a := w.do(w.rob, "GET", path, nil); a.code != 404 {
			t.Errorf("%s: %+v", path, a)
		}
	}
	a := w.do(w.rob, "PUT", "/v2/rivals/mine/manifests/v1", raw, "Content-Type: "+mediaType(t, img))
	if a.code != 404 || a.errCode() != "MANIFEST_BLOB_UNKNOWN" {
		t.Errorf("a manifest of others' blobs: %+v", a)
	}
	// a mount needs the right to pull there, and becomes an upload without it
	mount := "/v2/rivals/mine/blobs/uploads/?mount=" + layer.String() + "&from=team/secret"
	if a := w.do(w.rob, "POST", mount, nil); a.code != 202 || a.header.Get("Location") == "" {
		t.Errorf("mount without a right: %+v", a)
	}
	if a := w.do(w.rob, "GET", "/v2/rivals/mine/blobs/"+layer.String(), nil); a.code != 404 {
		t.Errorf("mounted all the same: %+v", a)
	}
	mount = strings.Replace(mount, "rivals/mine", "team/other", 1)
	if a := w.do(w.ann, "POST", mount, nil); a.code != 201 {
		t.Errorf("mount: %+v", a)
	}
	if a := w.do(w.ann, "HEAD", "/v2/team/other/blobs/"+layer.String(), nil); a.code != 200 {
		t.Errorf("mounted: %+v", a)
	}
	if a := w.do(w.ann, "DELETE", "/v2/team/secret/blobs/"+layer.String(), nil); a.code != 403 || a.errCode() != "DENIED" {
		t.Errorf("delete of a blob in use: %+v", a)
	}
}

func TestBadManifests(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.push(randomImage(t, 100, 1), "team/app:v1")
	config := []byte("{}")
	if a := w.do(w.ann, "POST", "/v2/team/app/blobs/uploads/?digest="+digestOf(config), config); a.code != 201 {
		t.Fatal(a)
	}
	desc := func(b []byte) string {
		return fmt.Sprintf(`{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,"size":%d}`, digestOf(b), len(b))
	}
	good := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":%s,"layers":[]}`, ocispec.MediaTypeImageManifest, desc(config))
	before := w.count(`SELECT count(*) FROM image_manifests`)
	for what, c := range map[string]struct {
		ref, body, media string
		code             int
		errCode          string
	}{
		"no JSON":          {"x", "{", ocispec.MediaTypeImageManifest, 400, "MANIFEST_INVALID"},
		"schema 1":         {"x", `{"schemaVersion":1}`, "", 400, "MANIFEST_INVALID"},
		"neither":          {"x", `{"schemaVersion":2}`, "", 400, "MANIFEST_INVALID"},
		"another type":     {"x", good, ocispec.MediaTypeImageIndex, 400, "MANIFEST_INVALID"},
		"unknown type":     {"x", strings.Replace(good, "image.manifest", "image.other", 1), "", 400, "MANIFEST_INVALID"},
		"bad digest in it": {"x", strings.Replace(good, "sha256:", "md5:", 1), "", 400, "MANIFEST_INVALID"},
		"wrong digest":     {digestOf(config), good, "", 400, "DIGEST_INVALID"},
		"bad tag":          {"-x", good, "", 400, "MANIFEST_INVALID"},
		"missing blob":     {"x", strings.Replace(good, digestOf(config), digestOf([]byte("no")), 1), "", 404, "MANIFEST_BLOB_UNKNOWN"},
		"missing manifest": {"x", fmt.Sprintf(`{"schemaVersion":2,"manifests":[%s]}`, desc([]byte("no"))), "", 404, "MANIFEST_BLOB_UNKNOWN"},
		"too big":          {"x", strings.Repeat(" ", maxManifest) + good, "", 413, "UNKNOWN"},
	} {
		h := []string{}
		if c.media != "" {
			h = append(h, "Content-Type: "+c.media)
		}
		a := w.do(w.ann, "PUT", "/v2/team/app/manifests/"+c.ref, []byte(c.body), h...)
		if a.code != c.code || a.errCode() != c.errCode {
			t.Errorf("%s: %d %s, want %d %s", what, a.code, a.body, c.code, c.errCode)
		}
	}
	if n := w.count(`SELECT count(*) FROM image_manifests`); n != before {
		t.Errorf("%d manifests were stored", n-before)
	}
	if a := w.do(w.ann, "PUT", "/v2/team/app/manifests/x", []byte(good)); a.code != http.StatusCreated {
		t.Errorf("good: %+v", a)
	}
}

func TestUploadWithoutRoom(t *testing.T) {
	w := newWorld(t)
	w.images.room = func() error {
		return fmt.Errorf("the disk is nearly full: %w", errdefs.ErrResourceExhausted)
	}
	a := w.do(w.ann, "POST", "/v2/team/app/blobs/uploads/", nil)
	if a.code != 507 || !strings.Contains(a.body, "nearly full") {
		t.Errorf("%d %s", a.code, a.body)
	}
	if _, err := w.images.Load(t.Context(), w.annA, w.team.ID, "", strings.NewReader("")); !errdefs.IsResourceExhausted(err) {
		t.Error(err)
	}
}
