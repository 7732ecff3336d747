package image

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"iter"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

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

// TestListedOnce: what says whether there is anything to list is what is listed.
func TestListedOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.push(randomImage(t, 100, 1), "team/app:v1")
	read := func(list iter.Seq2[string, error]) (all []string) {
		for s, err := range list {
			w.must(err)
			all = append(all, s)
		}
		return all
	}
	lists := map[shape]*backend{}
	for s, repo := range map[shape]string{catalog: "", tags: "team/app"} {
		b := &backend{i: w.images, by: w.annA}
		next, err := b.admit(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil), s, repo, "")
		if err != nil || next == nil {
			t.Fatalf("%v, %v", next, err)
		}
		lists[s] = b
	}
	w.must(w.db.Close())
	if l := read(lists[catalog].Repositories(t.Context(), "")); !slices.Equal(l, []string{"team/app"}) {
		t.Errorf("repositories: %q", l)
	}
	if l := read(lists[tags].Tags(t.Context(), "team/app", "")); !slices.Equal(l, []string{"v1"}) {
		t.Errorf("tags: %q", l)
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
