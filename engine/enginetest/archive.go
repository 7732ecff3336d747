package enginetest

import (
	"archive/tar"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Busybox is where busybox-static lies, one program without libraries.
const Busybox = "/bin/busybox"

// Image is an image to be put into an archive.
type Image struct {
	Name   string
	Config ocispec.Image
	Layer  []byte // a tar

	ConfigType string // "": that of images
}

// Shell is an image with a shell and its tools, a user "app" (1000) and the
// command "echo from the image".
func Shell(t testing.TB) Image {
	t.Helper()
	box, err := os.ReadFile(Busybox)
	if err != nil {
		t.Fatalf("the tests need the package busybox-static: %v", err)
	}
	files := map[string][]byte{
		"etc/passwd": []byte("root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000:app:/:/bin/sh\n"),
		"etc/group":  []byte("root:x:0:\napp:x:1000:\n"),
		"tmp/empty":  nil,
	}
	links := map[string]string{}
	for _, n := range []string{"sh", "echo", "cat", "test", "sleep", "env", "id", "pwd", "ls", "mkdir", "rm", "touch", "true", "false", "wget", "nslookup", "head", "dd", "grep", "ln", "ip", "stat", "seq", "nc"} {
		links["bin/"+n] = "busybox"
	}
	created := time.Date(2026, 2, 3, 4, 5, 6, 0, time.UTC)
	return Image{
		Name: "docker.io/library/shell:1",
		Config: ocispec.Image{
			Created: &created, Platform: ocispec.Platform{OS: "linux", Architecture: runtime.GOARCH},
			Config: ocispec.ImageConfig{
				Env: []string{"PATH=/bin", "FROM_IMAGE=yes"}, Cmd: []string{"/bin/sh", "-c", "echo from the image"},
				WorkingDir: "/tmp", Labels: map[string]string{"kind": "test"}, ExposedPorts: map[string]struct{}{"80/tcp": {}},
			},
		},
		Layer: Tar(t, map[string][]byte{"bin/busybox": box}, links, files),
	}
}

// Tar packs programs (0755), links and files (0644).
func Tar(t testing.TB, programs map[string][]byte, links map[string]string, files map[string][]byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	dirs := map[string]bool{}
	parents := func(name string) {
		for i, c := range name {
			if c == '/' && !dirs[name[:i]] {
				dirs[name[:i]] = true
				mode := int64(0o755)
				if name[:i] == "tmp" {
					mode = 0o1777
				}
				_ = w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: name[:i] + "/", Mode: mode})
			}
		}
	}
	put := func(m map[string][]byte, mode int64) {
		for _, n := range slices.Sorted(maps.Keys(m)) {
			parents(n)
			_ = w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: n, Mode: mode, Size: int64(len(m[n]))})
			_, _ = w.Write(m[n])
		}
	}
	put(programs, 0o755)
	for _, n := range slices.Sorted(maps.Keys(links)) {
		parents(n)
		_ = w.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: n, Linkname: links[n]})
	}
	put(files, 0o644)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// blobs of an image: its manifest, its configuration and its layer.
func (i Image) blobs(t testing.TB) (manifest ocispec.Descriptor, all map[digest.Digest][]byte) {
	t.Helper()
	all = map[digest.Digest][]byte{}
	add := func(media string, b []byte) ocispec.Descriptor {
		d := digest.FromBytes(b)
		all[d] = b
		return ocispec.Descriptor{MediaType: media, Digest: d, Size: int64(len(b))}
	}
	layer := add(ocispec.MediaTypeImageLayer, i.Layer)
	i.Config.RootFS = ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{layer.Digest}}
	config := add(cmp.Or(i.ConfigType, ocispec.MediaTypeImageConfig), marshal(t, i.Config))
	return add(ocispec.MediaTypeImageManifest, marshal(t, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: config, Layers: []ocispec.Descriptor{layer},
	})), all
}

// Digest is that of its manifest.
func (i Image) Digest(t testing.TB) string {
	d, _ := i.blobs(t)
	return d.Digest.String()
}

func marshal(t testing.TB, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Archive packs images as an OCI archive.
func Archive(t testing.TB, list ...Image) []byte {
	t.Helper()
	files := map[string][]byte{"oci-layout": []byte(`{"imageLayoutVersion":"1.0.0"}`)}
	idx := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
	for _, i := range list {
		m, all := i.blobs(t)
		if i.Name != "" {
			m.Annotations = map[string]string{"io.containerd.image.name": i.Name}
		}
		idx.Manifests = append(idx.Manifests, m)
		for d, b := range all {
			files["blobs/"+strings.Replace(d.String(), ":", "/", 1)] = b
		}
	}
	files["index.json"] = marshal(t, idx)
	return Tar(t, nil, nil, files)
}

// DockerArchive packs an image as `docker save` did.
func DockerArchive(t testing.TB, i Image) []byte {
	t.Helper()
	_, all := i.blobs(t)
	layer := digest.FromBytes(i.Layer)
	i.Config.RootFS = ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{layer}}
	config := marshal(t, i.Config)
	name := digest.FromBytes(config).Encoded() + ".json"
	return Tar(t, nil, nil, map[string][]byte{
		name:                           config,
		layer.Encoded() + "/layer.tar": all[layer],
		"manifest.json": marshal(t, []map[string]any{{
			"Config": name, "RepoTags": []string{i.Name}, "Layers": []string{layer.Encoded() + "/layer.tar"},
		}}),
	})
}

// one reads the first entry of a tar.
func one(t testing.TB, r io.Reader) (string, []byte) {
	t.Helper()
	tr := tar.NewReader(r)
	h, err := tr.Next()
	if errors.Is(err, io.EOF) {
		return "", nil
	}
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(tr)
	if err != nil {
		t.Fatal(err)
	}
	return h.Name, b
}

// entries reads a whole tar.
func entries(t testing.TB, r io.Reader) map[string]string {
	t.Helper()
	out := map[string]string{}
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		switch h.Typeflag {
		case tar.TypeDir:
			out[strings.TrimSuffix(strings.TrimPrefix(h.Name, "./"), "/")] = "dir"
		case tar.TypeSymlink:
			out[strings.TrimPrefix(h.Name, "./")] = "-> " + h.Linkname
		default:
			out[strings.TrimPrefix(h.Name, "./")] = string(b)
		}
	}
}
