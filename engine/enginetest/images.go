package enginetest

import (
	"bytes"
	"compress/gzip"
	"context"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"slipway/engine"
)

func archive(t testing.TB, r io.Reader) func(context.Context) (io.ReadCloser, error) {
	t.Helper()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return func(context.Context) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil }
}

// small is an image of one file, unlike any other.
func (s *suite) small() Image {
	name := s.id("small")
	i := Image{Name: "docker.io/library/" + name + ":1"}
	i.Config.OS, i.Config.Architecture = "linux", "amd64"
	i.Config.Config.Labels = map[string]string{"name": name}
	i.Layer = []byte(strings.Repeat(name, 3000))
	return i
}

func (s *suite) tiny(t testing.TB) Image {
	i := s.small()
	i.Layer = Tar(t, nil, nil, map[string][]byte{"file": i.Layer})
	return i
}

func (s *suite) all(t testing.TB) map[string]int64 {
	t.Helper()
	out := map[string]int64{}
	s.ok(t, s.Engine.Blobs().Walk(t.Context(), func(d string, n int64) error { out[d] = n; return nil }))
	return out
}

func (s *suite) images(t *testing.T) {
	load := func(t *testing.T, b []byte) []engine.LoadedImage {
		t.Helper()
		out, err := s.Engine.Images().Load(t.Context(), bytes.NewReader(b))
		s.ok(t, err)
		return out
	}
	t.Run("load and inspect", func(t *testing.T) {
		img := s.tiny(t)
		out := load(t, Archive(t, img, s.tiny(t)))
		if len(out) != 2 || out[0].Name != img.Name || out[0].Digest != img.Digest(t) || out[0].Labels["name"] == "" {
			t.Fatalf("got %+v", out)
		}
		in, err := s.Engine.Images().Inspect(t.Context(), out[0].Digest, "linux/amd64")
		s.ok(t, err)
		if in.Size <= int64(len(img.Layer)) || in.ConfigDigest == "" || in.Labels["name"] != img.Config.Config.Labels["name"] || !slices.Equal(in.Platforms, []string{"linux/amd64"}) {
			t.Errorf("got %+v", in)
		}
		if _, err := s.Engine.Images().Inspect(t.Context(), out[0].Digest, "linux/s390x"); !errdefs.IsNotFound(err) {
			t.Errorf("for another platform: %v", err)
		}
	})
	t.Run("load of a zipped archive", func(t *testing.T) {
		img := s.tiny(t)
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		_, _ = z.Write(Archive(t, img))
		_ = z.Close()
		if out := load(t, b.Bytes()); len(out) != 1 || out[0].Digest != img.Digest(t) {
			t.Errorf("got %+v", out)
		}
	})
	t.Run("load of a docker archive", func(t *testing.T) {
		img := s.tiny(t)
		out := load(t, DockerArchive(t, img))
		if len(out) != 1 || out[0].Name != img.Name || out[0].Labels["name"] != img.Config.Config.Labels["name"] {
			t.Errorf("got %+v", out)
		}
	})
	t.Run("load of what is there", func(t *testing.T) {
		img := s.tiny(t)
		for name, b := range map[string][]byte{"oci": Archive(t, img), "docker": DockerArchive(t, img)} {
			first := load(t, b)
			if again := load(t, b); len(again) != 1 || again[0].Digest != first[0].Digest {
				t.Errorf("%s: %+v, then %+v", name, first, again)
			}
		}
		// An archive that only names what is there does not get it.
		b := bytes.Replace(Archive(t, img), img.Layer[600:620], bytes.Repeat([]byte{'#'}, 20), 1)
		if _, err := s.Engine.Images().Load(t.Context(), bytes.NewReader(b)); !errdefs.IsInvalidArgument(err) {
			t.Errorf("other bytes under the digest: %v", err)
		}
	})
	t.Run("export and load again", func(t *testing.T) {
		var b bytes.Buffer
		s.ok(t, s.Engine.Images().Export(t.Context(), s.base, "example.com/x:1", &b))
		if out := load(t, b.Bytes()); len(out) != 1 || out[0].Digest != s.base || out[0].Name != "example.com/x:1" {
			t.Errorf("got %+v", out)
		}
		if err := s.Engine.Images().Export(t.Context(), "sha256:"+strings.Repeat("0", 64), "", io.Discard); !errdefs.IsNotFound(err) {
			t.Errorf("of nothing: %v", err)
		}
	})
	t.Run("nothing is kept of a broken archive", func(t *testing.T) {
		img := s.tiny(t)
		whole := Archive(t, img)
		bad := bytes.Replace(whole, []byte("smallsmall"), []byte("smellsmell"), 1)
		if bytes.Equal(bad, whole) {
			bad = bytes.Replace(whole, img.Layer[600:620], bytes.Repeat([]byte{'#'}, 20), 1)
		}
		before := s.all(t)
		for name, b := range map[string][]byte{
			"cut": whole[:len(whole)/2], "cut at a file": whole[:1024], "empty": nil, "no tar": []byte("hello"),
			"another digest": bad, "nothing in it": Tar(t, nil, nil, map[string][]byte{"x": nil}),
			"no index": bytes.ReplaceAll(whole, []byte("index.json"), []byte("index.josn")),
		} {
			if _, err := s.Engine.Images().Load(t.Context(), bytes.NewReader(b)); !errdefs.IsInvalidArgument(err) {
				t.Errorf("%s: %v", name, err)
			}
		}
		until(t, "nothing more is there than before", func() bool {
			if s.Collect != nil {
				s.Collect(t)
			}
			for d := range s.all(t) {
				if _, ok := before[d]; !ok {
					return false
				}
			}
			return true
		})
	})
	t.Run("logins", s.logins)
	s.holds(t)
}

func (s *suite) logins(t *testing.T) {
	guarded, closed, page := s.Registries(t)
	wrong := guarded
	wrong.Password = "wrong-0815"
	for name, c := range map[string]struct {
		login engine.Login
		is    func(error) bool
	}{
		"the right one":             {guarded, func(err error) bool { return err == nil }},
		"a wrong one":               {wrong, errdefs.IsUnauthorized},
		"none":                      {engine.Login{Host: guarded.Host}, func(err error) bool { return err == nil }},
		"out of reach":              {engine.Login{Host: closed, Username: "ann", Password: "p"}, errdefs.IsUnavailable},
		"no registry":               {engine.Login{Host: page, Username: "ann", Password: "p"}, errdefs.IsFailedPrecondition},
		"no registry and no login":  {engine.Login{Host: page}, errdefs.IsFailedPrecondition},
		"out of reach and no login": {engine.Login{Host: closed}, errdefs.IsUnavailable},
	} {
		err := s.Engine.Images().CheckLogin(t.Context(), c.login)
		if !c.is(err) || err != nil && (!strings.Contains(err.Error(), c.login.Host) || strings.Contains(err.Error(), wrong.Password)) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := s.Engine.Images().CheckLogin(t.Context(), wrong); err == nil || !strings.Contains(err.Error(), wrong.Username) {
		t.Errorf("the user is not named: %v", err)
	}
}

func (s *suite) holds(t *testing.T) {
	im := func() engine.Images { return s.Engine.Images() }
	t.Run("holds", func(t *testing.T) {
		a, b := s.tiny(t), s.tiny(t)
		_, err := im().Load(t.Context(), bytes.NewReader(Archive(t, a, b)))
		s.ok(t, err)
		p := s.id("hold") + "/"
		s.ok(t, im().Hold(t.Context(), p+"x", a.Digest(t)))
		s.ok(t, im().Hold(t.Context(), p+"y", b.Digest(t)))
		want := map[string]string{p + "x": a.Digest(t), p + "y": b.Digest(t)}
		s.reopen(t)
		if got, err := im().Holds(t.Context(), p); err != nil || !maps.Equal(got, want) {
			t.Errorf("%v %v, not %v", got, err, want)
		}
		s.ok(t, im().Hold(t.Context(), p+"x", b.Digest(t)))
		want[p+"x"] = b.Digest(t)
		if got, err := im().Holds(t.Context(), p); err != nil || !maps.Equal(got, want) {
			t.Errorf("moved: %v %v, not %v", got, err, want)
		}
		for range 2 {
			s.ok(t, im().Release(t.Context(), p+"x"))
		}
		if s.Collect != nil {
			s.Collect(t)
			_, err := im().Inspect(t.Context(), b.Digest(t), "linux/amd64")
			s.ok(t, err)
		}
		s.ok(t, im().Release(t.Context(), p+"y"))
		if got, err := im().Holds(t.Context(), p); err != nil || len(got) > 0 {
			t.Errorf("released: %v %v", got, err)
		}
		if s.Collect != nil {
			until(t, "what nobody holds is gone", func() bool {
				s.Collect(t)
				_, err := im().Inspect(t.Context(), a.Digest(t), "linux/amd64")
				return errdefs.IsNotFound(err)
			})
		}
	})
	t.Run("a hold of what is not there", func(t *testing.T) {
		if err := im().Hold(t.Context(), "x", "sha256:"+strings.Repeat("0", 64)); !errdefs.IsNotFound(err) {
			t.Errorf("the error is %v", err)
		}
	})
}

func (s *suite) blobs(t *testing.T) {
	bl := func() engine.Blobs { return s.Engine.Blobs() }
	upload := func(t *testing.T, b []byte) digest.Digest {
		t.Helper()
		w, err := bl().Create(t.Context(), s.id("up"))
		s.ok(t, err)
		_, err = w.Write(b)
		s.ok(t, err)
		d := digest.FromBytes(b)
		s.ok(t, w.Commit(t.Context(), d.String()))
		s.ok(t, w.Close())
		return d
	}
	t.Run("upload and read", func(t *testing.T) {
		body := []byte("blob " + s.id("b"))
		d := upload(t, body)
		upload(t, body) // that it is there already is success
		r, err := bl().Open(t.Context(), d.String())
		s.ok(t, err)
		defer r.Close()
		got, err := io.ReadAll(io.NewSectionReader(r, 0, r.Size()))
		s.ok(t, err)
		n, err := bl().Stat(t.Context(), d.String())
		s.ok(t, err)
		if !bytes.Equal(got, body) || n != int64(len(body)) || s.all(t)[d.String()] != n {
			t.Errorf("got %q of %d", got, n)
		}
	})
	t.Run("what is not there", func(t *testing.T) {
		d := "sha256:" + strings.Repeat("1", 64)
		if _, err := bl().Stat(t.Context(), d); !errdefs.IsNotFound(err) {
			t.Errorf("Stat: %v", err)
		}
		if _, err := bl().Open(t.Context(), d); !errdefs.IsNotFound(err) {
			t.Errorf("Open: %v", err)
		}
		if _, err := bl().Open(t.Context(), "nonsense"); !errdefs.IsInvalidArgument(err) {
			t.Errorf("Open of nonsense: %v", err)
		}
		s.ok(t, bl().Abort(t.Context(), "never-begun"))
	})
	t.Run("a wrong digest", func(t *testing.T) {
		ref := s.id("up")
		w, err := bl().Create(t.Context(), ref)
		s.ok(t, err)
		_, err = w.Write([]byte("one thing"))
		s.ok(t, err)
		d := digest.FromString("another").String()
		if err := w.Commit(t.Context(), d); !errdefs.IsInvalidArgument(err) {
			t.Errorf("the error is %v", err)
		}
		_ = w.Close()
		if _, err := bl().Stat(t.Context(), d); !errdefs.IsNotFound(err) {
			t.Errorf("Stat: %v", err)
		}
		s.ok(t, bl().Abort(t.Context(), ref))
	})
	t.Run("an upload goes on, over a restart too", func(t *testing.T) {
		ref := s.id("up")
		body := []byte(strings.Repeat("piece ", 20000) + ref)
		cut := 0
		for _, to := range []int{100, 70000, len(body)} {
			w, err := bl().Create(t.Context(), ref)
			s.ok(t, err)
			if w.Size() != int64(cut) {
				t.Fatalf("it has %d bytes, not %d", w.Size(), cut)
			}
			_, err = w.Write(body[cut:to])
			s.ok(t, err)
			cut = to
			if to < len(body) {
				s.ok(t, w.Close())
				s.reopen(t)
				continue
			}
			s.ok(t, w.Commit(t.Context(), digest.FromBytes(body).String()))
			s.ok(t, w.Close())
		}
		if n, err := bl().Stat(t.Context(), digest.FromBytes(body).String()); err != nil || n != int64(len(body)) {
			t.Errorf("%d %v", n, err)
		}
	})
	t.Run("an aborted upload is gone", func(t *testing.T) {
		ref := s.id("up")
		w, err := bl().Create(t.Context(), ref)
		s.ok(t, err)
		_, err = w.Write([]byte("lost"))
		s.ok(t, err)
		s.ok(t, w.Close())
		s.ok(t, bl().Abort(t.Context(), ref))
		w, err = bl().Create(t.Context(), ref)
		s.ok(t, err)
		if w.Size() != 0 {
			t.Errorf("it has %d bytes", w.Size())
		}
		s.ok(t, w.Close())
		s.ok(t, bl().Abort(t.Context(), ref))
	})
	s.manifests(t, upload)
}

func (s *suite) manifests(t *testing.T, upload func(*testing.T, []byte) digest.Digest) {
	t.Run("a manifest needs its blobs", func(t *testing.T) {
		img := s.tiny(t)
		m, all := img.blobs(t)
		body := all[m.Digest]
		delete(all, m.Digest)
		layer := digest.FromBytes(img.Layer)
		for d, b := range all {
			if d != layer {
				upload(t, b)
			}
		}
		put := func() (string, error) {
			return s.Engine.Blobs().PutManifest(t.Context(), ocispec.MediaTypeImageManifest, body)
		}
		if _, err := put(); !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), layer.String()) {
			t.Errorf("the error is %v", err)
		}
		if _, err := s.Engine.Blobs().Stat(t.Context(), m.Digest.String()); !errdefs.IsNotFound(err) {
			t.Errorf("the manifest: %v", err)
		}
		upload(t, img.Layer)
		d, err := put()
		s.ok(t, err)
		again, err := put()
		s.ok(t, err)
		if d != m.Digest.String() || again != d {
			t.Errorf("%s, %s, not %s", d, again, m.Digest)
		}
		s.ok(t, s.Engine.Images().Hold(t.Context(), "put/"+d, d))
		if s.Collect != nil {
			s.Collect(t)
		}
		in, err := s.Engine.Images().Inspect(t.Context(), d, "")
		s.ok(t, err)
		if in.Labels["name"] != img.Config.Config.Labels["name"] {
			t.Errorf("got %+v", in)
		}
		idx := marshal(t, ocispec.Index{
			Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex,
			Manifests: []ocispec.Descriptor{{MediaType: m.MediaType, Digest: m.Digest, Size: m.Size, Platform: &ocispec.Platform{OS: "linux", Architecture: "amd64"}}},
		})
		top, err := s.Engine.Blobs().PutManifest(t.Context(), ocispec.MediaTypeImageIndex, idx)
		s.ok(t, err)
		if in, err = s.Engine.Images().Inspect(t.Context(), top, "linux/amd64"); err != nil || in.Digest != top || in.ConfigDigest == "" {
			t.Errorf("the index: %+v %v", in, err)
		}
	})
	t.Run("what is no manifest", func(t *testing.T) {
		for _, b := range []string{"", "hello", "{}", "[]", `{"mediaType":"x","config":{}}`} {
			if _, err := s.Engine.Blobs().PutManifest(t.Context(), ocispec.MediaTypeImageManifest, []byte(b)); !errdefs.IsInvalidArgument(err) {
				t.Errorf("%q: %v", b, err)
			}
		}
	})
}
