package pipeline

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// index reads an index of the store.
func (w *world) index(digest string) (platforms []string) {
	w.t.Helper()
	b, err := w.eng.Blobs().Open(w.t.Context(), digest)
	w.must(err)
	defer b.Close()
	text := make([]byte, b.Size())
	_, err = b.ReadAt(text, 0)
	w.must(err)
	var i ocispec.Index
	w.must(json.Unmarshal(text, &i))
	for _, m := range i.Manifests {
		platforms = append(platforms, m.Platform.OS+"/"+m.Platform.Architecture)
	}
	return platforms
}

// A build that takes an image instead of running a Dockerfile: of an earlier
// build, of a registry, and of a package.
func TestCopies(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	w.commit("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")
	w.eng.Protect("r.example.com", "ann", "pw")
	other := Registry{Kind: OtherRegistry, URL: "r.example.com", Username: "ann", Password: "pw"}
	wide := Action{Name: "wide", Build: &Build{Multi: true, Dockerfile: "Dockerfile", Platforms: "linux/amd64,linux/arm64,linux/s390x", Package: "tool", Versions: []string{"1.0"}}}
	first := w.expect(w.start(w.pipeline(Pipeline{Name: "first"}, wide), Start{}), "SUCCESSFUL SUCCESSFUL")
	built := first.Steps[0].Digest
	if got := first.Steps[0].Image; got != "slipway.local/acme/tool:1.0" {
		t.Errorf("a package is called %s", got)
	}
	w.eng.Publish("docker.io/team/public:2", built)
	w.eng.Publish("r.example.com/team/private:2", built)

	of := func(more func(*Build)) Action {
		b := Build{Multi: true, Dockerfile: "nowhere", Repository: "copied", Platforms: "linux/arm64/v8,linux/amd64"}
		more(&b)
		return Action{Name: "copy", Build: &b}
	}
	for name, c := range map[string]struct {
		a         Action
		image     string
		platforms string
	}{
		"action": {of(func(b *Build) { b.From = ImageFrom{Use: true, Name: "wide"} }), "slipway.local/acme/copied:latest", "linux/amd64 linux/arm64"},
		"location action, pushed": {of(func(b *Build) {
			b.Location, b.Registry, b.Tag = LocationAction, other, "a,b"
		}), "r.example.com/copied:a", "linux/amd64 linux/arm64"},
		"all of it": {of(func(b *Build) {
			b.Location, b.Platforms = LocationAction, "linux/s390x,linux/amd64,linux/arm64"
		}), "slipway.local/acme/copied:latest", "linux/amd64 linux/arm64 linux/s390x"},
		"the host's": {of(func(b *Build) { b.Location, b.Platforms = LocationAction, "" }), "slipway.local/acme/copied:latest", "linux/amd64"},
		"public":     {of(func(b *Build) { b.Location, b.Image = LocationPublic, "team/public:2" }), "slipway.local/acme/copied:latest", "linux/amd64 linux/arm64"},
		"private": {of(func(b *Build) {
			b.Location, b.Image, b.Registry, b.Tag, b.Platforms = LocationPrivate, "team/private", other, "2", "linux/s390x"
		}), "r.example.com/copied:2", "linux/s390x"},
		"package": {of(func(b *Build) {
			b.Location, b.Package, b.Versions, b.Tag, b.Platforms = LocationPackage, "tool", []string{"1.0"}, "stable", "linux/arm64"
		}), "slipway.local/acme/copied:stable", "linux/arm64"},
	} {
		x := w.expect(w.start(w.pipeline(Pipeline{Name: name}, wide, c.a), Start{}), "SUCCESSFUL SUCCESSFUL SUCCESSFUL")
		s := x.Steps[1]
		if s.Image != c.image || strings.Join(w.index(s.Digest), " ") != c.platforms {
			t.Errorf("%s: %s with %v, want %s", name, s.Image, w.index(s.Digest), c.image)
		}
		if host, _, _ := strings.Cut(c.image, "/"); host == "r.example.com" && w.eng.Published(c.image) != s.Digest {
			t.Errorf("%s is not pushed", name)
		}
		if c.platforms == "linux/amd64 linux/arm64 linux/s390x" && s.Digest != x.Steps[0].Digest {
			t.Errorf("%s: nothing is left out, and it is another image", name)
		}
		if l := strings.Join(w.lines(x, 1), "\n"); !strings.Contains(l, "No Dockerfile is run") || !strings.Contains(l, "what is for one has no effect") {
			t.Errorf("%s: the log is %s", name, l)
		}
		// What was made can be run, and is held by its execution.
		w.until("the holds of builds are released", func() bool {
			h, err := w.eng.Images().Holds(t.Context(), "build/")
			w.must(err)
			return len(h) == 0
		})
		w.eng.Collect()
		if _, err := w.eng.Images().Inspect(t.Context(), s.Digest, strings.Fields(c.platforms)[0]); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCopiesThatFail(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	w.commit("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")
	wide := Action{Name: "wide", Build: &Build{Multi: true, Dockerfile: "Dockerfile", Platforms: "linux/amd64,linux/arm64"}}
	for name, c := range map[string]struct {
		b    Build
		want string
	}{
		"a platform that is missing": {Build{From: ImageFrom{Use: true}, Platforms: "linux/amd64,linux/riscv64"}, "the image of the build action has no image for linux/riscv64"},
		"public, too":                {Build{Location: LocationPublic, Image: "busybox", Platforms: "linux/riscv64"}, "busybox:latest has no image for linux/riscv64"},
		"no platform at all":         {Build{From: ImageFrom{Use: true}, Platforms: "one two"}, "target_platform"},
		"no name":                    {Build{Location: LocationPublic}, "docker_image_name is required with image_location PUBLIC_REGISTRY"},
		"no package":                 {Build{Location: LocationPackage}, "package is required"},
		"no such build":              {Build{From: ImageFrom{Use: true, Name: "never"}}, `no build action "never"`},
		"nobody has it":              {Build{Location: LocationPublic, Image: "nowhere:1"}, "nowhere:1"},
	} {
		b := c.b
		b.Multi = true
		x := w.wait(w.start(w.pipeline(Pipeline{Name: name}, wide, Action{Name: "copy", Build: &b}), Start{}))
		if x.Status != Failed || !strings.Contains(x.Steps[1].Error, c.want) {
			t.Errorf("%s: %s", name, w.words(x))
		}
	}
}

// An index is narrowed with its attestations, and nothing else of it is touched.
func TestNarrowed(t *testing.T) {
	t.Parallel()
	entry := func(digest, arch, of string) string {
		if of != "" {
			return fmt.Sprintf(`{"digest":"sha256:%s","annotations":{"vnd.docker.reference.digest":"sha256:%s"},"platform":{"os":"unknown","architecture":"unknown"}}`, digest, of)
		}
		return fmt.Sprintf(`{"digest":"sha256:%s","platform":{"os":"linux","architecture":%q}}`, digest, arch)
	}
	text := func(entries ...string) []byte {
		return fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":"application/vnd.docker.distribution.manifest.list.v2+json","x-ours":1,"manifests":[%s]}`, strings.Join(entries, ","))
	}
	all := text(entry("a", "amd64", ""), entry("b", "arm64", ""), entry("c", "", "a"), entry("d", "", "b"))
	digests := func(b []byte) (l []string) {
		var i ocispec.Index
		if err := json.Unmarshal(b, &i); err != nil {
			t.Fatal(err)
		}
		for _, m := range i.Manifests {
			l = append(l, m.Digest.Encoded())
		}
		return l
	}
	here := func(digest string) bool { return digest != "sha256:d" }
	for _, c := range []struct {
		text   []byte
		wanted []string
		want   []string
	}{
		{all, []string{"linux/amd64"}, []string{"a", "c"}},
		{all, []string{"linux/arm64"}, []string{"b"}}, // its attestation did not come along
		{all, []string{"linux/amd64", "linux/arm64"}, []string{"a", "b", "c"}},
		{text(entry("a", "amd64", ""), entry("c", "", "a")), []string{"linux/amd64"}, nil},
		{[]byte(`{"schemaVersion":2,"config":{},"layers":[]}`), []string{"linux/amd64"}, nil},
	} {
		media, less, err := narrowed(c.text, c.wanted, here)
		switch {
		case err != nil:
			t.Error(err)
		case c.want == nil && less != nil:
			t.Errorf("%v: %s", c.wanted, less)
		case c.want != nil && (!slices.Equal(digests(less), c.want) || !bytes.Contains(less, []byte(`"x-ours":1`)) || !strings.HasSuffix(media, "list.v2+json")):
			t.Errorf("%v: %s %s", c.wanted, media, less)
		}
	}
	if _, _, err := narrowed([]byte("{"), nil, here); err == nil {
		t.Error("nonsense is an index")
	}
}

func TestPinned(t *testing.T) {
	t.Parallel()
	for ref, want := range map[string]string{
		"nginx": "nginx@D", "nginx:1": "nginx@D", "localhost:5000/x": "localhost:5000/x@D", "localhost:5000/x:1": "localhost:5000/x@D", "a/b@sha256:1": "a/b@D",
	} {
		if got := pinned(ref, "D"); got != want {
			t.Errorf("%s is %s", ref, got)
		}
	}
}
