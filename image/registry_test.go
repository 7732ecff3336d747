package image

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/crane"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"slipway/access"
	"slipway/event"
	"slipway/project"
)

func digestOf(b []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(b)) }

func randomImage(t testing.TB, size int64, layers int) v1.Image {
	t.Helper()
	img, err := random.Image(size, int64(layers))
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func imageDigest(t testing.TB, img partial.WithRawManifest) string {
	t.Helper()
	d, err := partial.Digest(img)
	if err != nil {
		t.Fatal(err)
	}
	return d.String()
}

func (w *world) push(img v1.Image, name string) {
	w.t.Helper()
	w.must(crane.Push(img, w.host+"/"+name, w.as(w.ann)...))
}

func TestPushAndPull(t *testing.T) {
	t.Parallel()
	testPushAndPull(t, newWorld(t))
}

func testPushAndPull(t *testing.T, w *world) {
	img := randomImage(t, 1<<16, 3)
	ref := w.host + "/team/stacks/foo:v1" // a name that looks like somebody else's path
	w.push(img, "team/stacks/foo:v1")
	w.push(img, "team/stacks/foo:v1") // again
	got, err := crane.Pull(ref, w.as(w.ann)...)
	w.must(err)
	if imageDigest(t, got) != imageDigest(t, img) {
		t.Error("another image came back")
	}
	layers, err := got.Layers()
	w.must(err)
	for _, l := range layers {
		r, err := l.Compressed()
		w.must(err)
		var b bytes.Buffer
		_, err = b.ReadFrom(r)
		w.must(err)
		if want, _ := l.Digest(); digestOf(b.Bytes()) != want.String() {
			t.Error("a layer differs")
		}
		_ = r.Close()
	}
	d, err := crane.Digest(ref, w.as(w.ann)...)
	w.must(err)
	if d != imageDigest(t, img) {
		t.Errorf("digest %s", d)
	}
	repos, err := w.images.Repositories(t.Context(), w.annA, w.team.ID)
	if err != nil || len(repos) != 1 || repos[0].Name != "team/stacks/foo" || repos[0].Pushes != 1 || repos[0].Pulls != 1 || repos[0].Pushed.IsZero() || repos[0].Pulled.IsZero() {
		t.Errorf("repositories %+v, %v", repos, err)
	}
	tags, err := w.images.Tags(t.Context(), w.annA, w.team.ID, "stacks/foo")
	w.must(err)
	cfg, err := img.ConfigName()
	w.must(err)
	if len(tags) != 1 || tags[0].Tag != "v1" || tags[0].Digest != d || !tags[0].Own || tags[0].ConfigID != cfg.Hex {
		t.Errorf("tags %+v", tags)
	}
	ev, err := event.New(w.db).After(t.Context(), 0, 100)
	w.must(err)
	n := 0
	for _, e := range ev {
		if e.Kind == event.ImageTagged {
			n++
		}
	}
	if n != 1 { // the client sees that the second push is not needed
		t.Errorf("%d events of tagging", n)
	}
	if h := w.holds(); len(h) != 1 {
		t.Errorf("holds %v", h)
	}
}

func TestIndexPushPullDelete(t *testing.T) {
	t.Parallel()
	testIndex(t, newWorld(t))
}

func testIndex(t *testing.T, w *world) {
	idx, err := random.Index(1<<12, 2, 3)
	w.must(err)
	ref, err := name.ParseReference(w.host+"/team/multi:all", name.Insecure)
	w.must(err)
	auth := remote.WithAuth(&authn.Basic{Username: "x", Password: w.ann})
	w.must(remote.WriteIndex(ref, idx, auth))
	got, err := remote.Index(ref, auth)
	w.must(err)
	m, err := got.IndexManifest()
	w.must(err)
	if len(m.Manifests) != 3 || imageDigest(t, got) != imageDigest(t, idx) {
		t.Errorf("index %+v", m)
	}
	for _, c := range m.Manifests {
		i, err := got.Image(c.Digest)
		w.must(err)
		if _, err := i.ConfigFile(); err != nil {
			t.Error(err)
		}
	}
	repos, err := w.images.Repositories(t.Context(), w.annA, w.team.ID)
	if err != nil || repos[0].Pulls != 1 {
		t.Errorf("pulls of one index: %+v, %v", repos, err)
	}
	tags, err := w.images.Tags(t.Context(), w.annA, w.team.ID, "team/multi")
	if err != nil || len(tags) != 1 || tags[0].ConfigID != hexOf(imageDigest(t, idx)) {
		t.Errorf("image id of an index: %+v, %v", tags, err)
	}
	if a := w.do(w.ann, "DELETE", "/v2/team/multi/manifests/all", nil); a.code != 202 {
		t.Errorf("delete tag: %+v", a)
	}
	if a := w.do(w.ann, "GET", "/v2/team/multi/manifests/all", nil); a.code != 404 || a.errCode() != "MANIFEST_UNKNOWN" {
		t.Errorf("deleted tag: %+v", a)
	}
	d := imageDigest(t, idx)
	if a := w.do(w.ann, "GET", "/v2/team/multi/manifests/"+d, nil); a.code != 200 {
		t.Errorf("untagged index: %+v", a)
	}
	if a := w.do(w.ann, "DELETE", "/v2/team/multi/manifests/"+d, nil); a.code != 202 {
		t.Errorf("delete manifest: %+v", a)
	}
	if a := w.do(w.ann, "GET", "/v2/team/multi/manifests/"+d, nil); a.code != 404 {
		t.Errorf("deleted manifest: %+v", a)
	}
	w.must(w.images.Settle(t.Context()))
	for id := range w.holds() {
		if strings.HasSuffix(id, d) {
			t.Errorf("a hold is left: %s", id)
		}
	}
}

func TestConcurrentPushes(t *testing.T) {
	t.Parallel()
	testConcurrentPushes(t, newWorld(t))
}

func testConcurrentPushes(t *testing.T, w *world) {
	base := randomImage(t, 1<<15, 4)
	var wg sync.WaitGroup
	for i := range 6 {
		wg.Go(func() {
			img := base
			for n := range 2 {
				l, err := random.Layer(int64(500+100*i+n), "application/vnd.docker.image.rootfs.diff.tar.gzip")
				if err != nil {
					t.Error(err)
					return
				}
				if img, err = mutate.AppendLayers(img, l); err != nil {
					t.Error(err)
				}
				ref := fmt.Sprintf("%s/team/app%d:v%d", w.host, i%3, i*10+n)
				if err := crane.Push(img, ref, w.as(w.ann)...); err != nil {
					t.Errorf("%s: %v", ref, err)
				}
				if d, err := crane.Digest(ref, w.as(w.ann)...); err != nil || d != imageDigest(t, img) {
					t.Errorf("%s: %s, %v", ref, d, err)
				}
			}
		})
	}
	wg.Wait()
	if n := w.count(`SELECT count(*) FROM image_uploads`); n != 0 {
		t.Errorf("%d uploads are left", n)
	}
}

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

func mediaType(t testing.TB, img v1.Image) string {
	m, err := img.MediaType()
	if err != nil {
		t.Fatal(err)
	}
	return string(m)
}

func TestRights(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.push(randomImage(t, 100, 1), "team/app:v1")
	reader, stacker := w.token(access.ImageRead), w.token(access.StackRead)
	for _, c := range []struct {
		token, method, path string
		code                int
		errCode             string
	}{
		{"", "GET", "/v2/", 401, "UNAUTHORIZED"},
		{"", "GET", "/v2", 401, "UNAUTHORIZED"},
		{"", "GET", "/v2/_catalog", 401, "UNAUTHORIZED"},
		{"", "GET", "/v2/team/app/manifests/v1", 401, "UNAUTHORIZED"},
		{"", "GET", "/v2/nobody/app/manifests/v1", 401, "UNAUTHORIZED"},
		{"", "POST", "/v2/team/app/blobs/uploads/", 401, "UNAUTHORIZED"},
		{"slw_wrong", "GET", "/v2/", 401, "UNAUTHORIZED"},
		{w.ann, "GET", "/v2/", 200, ""},
		{w.rob, "GET", "/v2/team/app/manifests/v1", 404, "NAME_UNKNOWN"},
		{w.rob, "POST", "/v2/team/app/blobs/uploads/", 404, "NAME_UNKNOWN"},
		{w.rob, "POST", "/v2/nobody/app/blobs/uploads/", 404, "NAME_UNKNOWN"},
		{w.ann, "POST", "/v2/app/blobs/uploads/", 400, "NAME_INVALID"},
		{w.ann, "POST", "/v2/team/App/blobs/uploads/", 400, "NAME_INVALID"},
		{w.ann, "POST", "/v2/" + w.team.ID + "/app/blobs/uploads/", 404, "NAME_UNKNOWN"},
		{reader, "GET", "/v2/team/app/manifests/v1", 200, ""},
		{reader, "POST", "/v2/team/app/blobs/uploads/", 403, "DENIED"},
		{reader, "DELETE", "/v2/team/app/manifests/v1", 403, "DENIED"},
		{stacker, "GET", "/v2/team/app/manifests/v1", 403, "DENIED"},
		{w.ann, "GET", "/v2/team/none/tags/list", 404, "NAME_UNKNOWN"},
		{w.ann, "GET", "/v2/team/app/manifests/none", 404, "MANIFEST_UNKNOWN"},
		{w.ann, "GET", "/v2/team/app/blobs/sha256:12", 400, "DIGEST_INVALID"},
		{w.ann, "GET", "/v2/stacks/abc", 418, ""},
		{w.ann, "GET", "/v2/projects/abc/stacks", 418, ""},
		{w.ann, "GET", "/v2/team/app/tags/other", 418, ""},
	} {
		a := w.do(c.token, c.method, c.path, nil)
		if a.code != c.code || a.errCode() != c.errCode {
			t.Errorf("%s %s: %d %q, want %d %q", c.method, c.path, a.code, a.body, c.code, c.errCode)
		}
		if challenge := a.header.Get("WWW-Authenticate"); (a.code == 401) != strings.HasPrefix(challenge, "Basic realm=") {
			t.Errorf("%s %s: challenge %q", c.method, c.path, challenge)
		}
	}
}

func TestPublicRepositories(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	img := randomImage(t, 100, 1)
	w.push(img, "team/open:v1")
	w.push(img, "team/website/api:v1")
	get := func(token, path string, code int) {
		t.Helper()
		if a := w.do(token, "GET", path, nil); a.code != code {
			t.Errorf("%s: %d %s, want %d", path, a.code, a.body, code)
		}
	}
	get("", "/v2/team/open/manifests/v1", 401)
	w.must(w.images.SetPublic(t.Context(), w.annA, w.team.ID, "open", true))
	get("", "/v2/team/open/manifests/v1", 200)
	get(w.rob, "/v2/team/open/manifests/v1", 200)
	get("", "/v2/team/open/tags/list", 200)
	_, err := w.projects.Create(t.Context(), w.annA, w.team.ID, project.New{Name: "website", Public: true})
	w.must(err)
	get("", "/v2/team/website/api/manifests/v1", 200)
	for _, token := range []string{"", w.rob} {
		if a := w.do(token, "DELETE", "/v2/team/open/manifests/v1", nil); a.code != 401 && a.code != 404 {
			t.Errorf("a stranger deletes: %+v", a)
		}
	}
	if _, err := w.images.Lookup(t.Context(), w.rivals.ID, "slipway.local/team/open:v1"); err != nil {
		t.Errorf("another workspace uses a public image: %v", err)
	}
}

func TestListing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	if a := w.do(w.ann, "GET", "/v2/_catalog", nil); a.code != 200 || a.body != `{"repositories":[]}` {
		t.Errorf("nothing yet: %d %s", a.code, a.body)
	}
	img := randomImage(t, 100, 1)
	for _, tag := range []string{"c", "a", "b"} {
		w.push(img, "team/app:"+tag)
	}
	w.push(img, "team/bare:v1")
	if a := w.do(w.ann, "DELETE", "/v2/team/bare/manifests/v1", nil); a.code != 202 {
		t.Errorf("untag: %d %s", a.code, a.body)
	}
	w.push(img, "team/zoo:v1")
	w.must(crane.Push(img, w.host+"/rivals/theirs:v1", w.as(w.rob)...))
	for path, want := range map[string]string{
		"/v2/team/app/tags/list":            `{"name":"team/app","tags":["a","b","c"]}`,
		"/v2/team/app/tags/list?n=2":        `{"name":"team/app","tags":["a","b"]}`,
		"/v2/team/app/tags/list?n=2&last=b": `{"name":"team/app","tags":["c"]}`,
		"/v2/team/app/tags/list?last=c":     `{"name":"team/app","tags":[]}`,
		"/v2/team/bare/tags/list":           `{"name":"team/bare","tags":[]}`,
		"/v2/_catalog":                      `{"repositories":["team/app","team/bare","team/zoo"]}`,
		"/v2/_catalog?last=team%2Fzoo":      `{"repositories":[]}`,
		"/v2/_catalog?n=1":                  `{"repositories":["team/app"]}`,
		"/v2/_catalog?n=1&last=team%2Fbare": `{"repositories":["team/zoo"]}`,
	} {
		a := w.do(w.ann, "GET", path, nil)
		if a.code != 200 || a.body != want {
			t.Errorf("%s: %d %s, want %s", path, a.code, a.body, want)
		}
		if more := strings.Contains(path, "n=") && !strings.Contains(path, "last"); more != (a.header.Get("Link") != "") {
			t.Errorf("%s: link %q", path, a.header.Get("Link"))
		}
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

func TestReferrers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	img := randomImage(t, 100, 1)
	w.push(img, "team/app:v1")
	d := imageDigest(t, img)
	size, err := img.Size()
	w.must(err)
	config := []byte("{}")
	if a := w.do(w.ann, "POST", "/v2/team/app/blobs/uploads/?digest="+digestOf(config), config); a.code != 201 {
		t.Fatal(a)
	}
	for _, kind := range []string{"application/sig", "application/sbom"} {
		m := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"artifactType":%q,"config":{"mediaType":"application/vnd.oci.empty.v1+json","digest":%q,"size":2},"layers":[],
			"subject":{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":%q,"size":%d},"annotations":{"k":"v"}}`, ocispec.MediaTypeImageManifest, kind, digestOf(config), d, size)
		a := w.do(w.ann, "PUT", "/v2/team/app/manifests/"+digestOf([]byte(m)), []byte(m), "Content-Type: "+ocispec.MediaTypeImageManifest)
		if a.code != 201 || a.header.Get("OCI-Subject") != d {
			t.Fatalf("put: %+v", a)
		}
	}
	a := w.do(w.ann, "GET", "/v2/team/app/referrers/"+d, nil)
	if a.code != 200 || strings.Count(a.body, `"artifactType"`) != 2 || !strings.Contains(a.body, `"k":"v"`) {
		t.Errorf("referrers: %+v", a)
	}
	a = w.do(w.ann, "GET", "/v2/team/app/referrers/"+d+"?artifactType=application/sig", nil)
	if strings.Count(a.body, `"artifactType"`) != 1 || a.header.Get("OCI-Filters-Applied") != "artifactType" {
		t.Errorf("filtered: %+v", a)
	}
	if a := w.do(w.ann, "GET", "/v2/team/app/referrers/"+digestOf(nil), nil); a.code != 200 || !strings.Contains(a.body, `"manifests":[]`) {
		t.Errorf("none: %+v", a)
	}
}

func TestPathShapes(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]string{
		"/v2":                                  "1  ",
		"/v2/":                                 "1  ",
		"/v2/_catalog":                         "2  ",
		"/v2/_catalog/":                        "0  ",
		"/v2/a/manifests/latest":               "3 a latest",
		"/v2/stacks/foo/manifests/latest":      "3 stacks/foo latest",
		"/v2/projects/p1/blobs/sha256:1":       "4 projects/p1 sha256:1",
		"/v2/a/b/blobs/uploads/":               "5 a/b ",
		"/v2/a/b/blobs/uploads":                "5 a/b ",
		"/v2/a/b/blobs/uploads/xyz":            "6 a/b xyz",
		"/v2/a/b/tags/list":                    "7 a/b ",
		"/v2/a/b/referrers/sha256:1":           "8 a/b sha256:1",
		"/v2/a/blobs/uploads/manifests/latest": "3 a/blobs/uploads latest",
		"/v2/stacks/1":                         "0  ",
		"/v2/stacks/1/services/2":              "0  ",
		"/v2/manifests/latest":                 "0  ",
		"/v2/tags/list":                        "0  ",
		"/v2/a/b/tags/other":                   "0  ",
		"/v2/a/uploads/x":                      "0  ",
		"/v2/container-image-config":           "0  ",
		"/v1/a/manifests/latest":               "0  ",
	} {
		s, repo, last := parsePath(path)
		if got := fmt.Sprintf("%d %s %s", s, repo, last); got != want {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
}

func FuzzParsePath(f *testing.F) {
	for _, s := range []string{"/v2/", "/v2/a/b/manifests/c", "/v2/a/blobs/uploads/x", "/v2//tags/list", "/v2/stacks/1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, path string) {
		s, repo, last := parsePath(path)
		if s == notOCI && (repo != "" || last != "") {
			t.Errorf("%q: %q %q of no shape", path, repo, last)
		}
		if s > catalog && (repo == "" || !strings.Contains(path, repo) || !strings.HasPrefix(path, "/v2/"+repo+"/")) {
			t.Errorf("%q: repository %q", path, repo)
		}
		if last != "" && !strings.HasSuffix(path, "/"+last) {
			t.Errorf("%q: last %q", path, last)
		}
	})
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
