package fake

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"slipway/engine"
)

// imageName is the annotation that containerd and docker put names under.
const imageName = "io.containerd.image.name"

func broken(format string, a ...any) error {
	return fmt.Errorf("not an image archive: %w: %w", errdefs.ErrInvalidArgument, fmt.Errorf(format, a...))
}

// Load implements engine.Images.
func (i images) Load(ctx context.Context, r io.Reader) ([]engine.LoadedImage, error) {
	if err := i.e.call(ctx, "Load"); err != nil {
		return nil, err
	}
	files, err := untar(r)
	if err != nil {
		return nil, err
	}
	w := i.e.w
	w.mu.Lock()
	defer w.mu.Unlock()
	before := maps.Clone(w.blobs)
	out, err := w.load(files)
	if err != nil {
		w.blobs = before
		return nil, err
	}
	return out, nil
}

func untar(r io.Reader) (map[string][]byte, error) {
	br := bufio.NewReader(r)
	r = br
	if b, _ := br.Peek(2); bytes.Equal(b, []byte{0x1f, 0x8b}) {
		z, err := gzip.NewReader(br)
		if err != nil {
			return nil, broken("%w", err)
		}
		r = z
	}
	files := map[string][]byte{}
	t := tar.NewReader(r)
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return files, nil
		}
		if err != nil {
			return nil, broken("%w", err)
		}
		b, err := io.ReadAll(t)
		if err != nil {
			return nil, broken("%s: %w", h.Name, err)
		}
		files[path.Clean(h.Name)] = b
	}
}

// load stores the images of an archive's files. w.mu is held.
func (w *world) load(files map[string][]byte) ([]engine.LoadedImage, error) {
	if b, ok := files["index.json"]; ok {
		return w.loadOCI(files, b)
	}
	if b, ok := files["manifest.json"]; ok {
		return w.loadDocker(files, b)
	}
	return nil, broken("it has neither index.json nor manifest.json")
}

func (w *world) loadOCI(files map[string][]byte, b []byte) ([]engine.LoadedImage, error) {
	var idx ocispec.Index
	if err := json.Unmarshal(b, &idx); err != nil {
		return nil, broken("index.json: %w", err)
	}
	for name, b := range files {
		rest, ok := strings.CutPrefix(name, "blobs/")
		if !ok || len(b) == 0 {
			continue
		}
		d := digest.Digest(strings.Replace(rest, "/", ":", 1))
		if d.Validate() != nil {
			continue
		}
		if is := d.Algorithm().FromBytes(b); is != d {
			return nil, broken("%s is %s", name, is)
		}
		w.put(b)
	}
	var out []engine.LoadedImage
	for _, m := range idx.Manifests {
		c := w.blobs[m.Digest.String()]
		if c == nil {
			return nil, broken("%s is not in it", m.Digest)
		}
		if _, err := w.putManifest("", c.body); err != nil {
			return nil, broken("%w", err)
		}
		if err := w.unpackable(m.Digest.String(), true); err != nil {
			return nil, broken("%w", err)
		}
		img, err := w.inspect(m.Digest.String(), "")
		if err != nil {
			return nil, broken("%w", err)
		}
		name := m.Annotations[imageName]
		if name == "" {
			name = m.Annotations[ocispec.AnnotationRefName]
		}
		out = append(out, engine.LoadedImage{Name: name, Image: img})
	}
	if len(out) == 0 {
		return nil, broken("no image is in it")
	}
	return out, nil
}

func (w *world) loadDocker(files map[string][]byte, b []byte) ([]engine.LoadedImage, error) {
	var list []struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	if err := json.Unmarshal(b, &list); err != nil {
		return nil, broken("manifest.json: %w", err)
	}
	var out []engine.LoadedImage
	for _, m := range list {
		cb, ok := files[path.Clean(m.Config)]
		if !ok {
			return nil, broken("%s is not in it", m.Config)
		}
		cd := w.put(cb)
		cd.MediaType = ocispec.MediaTypeImageConfig
		man := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Config: cd}
		for _, l := range m.Layers {
			lb, ok := files[path.Clean(l)]
			if !ok {
				return nil, broken("%s is not in it", l)
			}
			ld := w.put(lb)
			ld.MediaType = ocispec.MediaTypeImageLayer
			man.Layers = append(man.Layers, ld)
		}
		mb, err := json.Marshal(man)
		if err != nil {
			return nil, err
		}
		d, err := w.putManifest(man.MediaType, mb)
		if err != nil {
			return nil, broken("%w", err)
		}
		if err := w.unpackable(d, true); err != nil {
			return nil, broken("%w", err)
		}
		img, err := w.inspect(d, "")
		if err != nil {
			return nil, broken("%w", err)
		}
		names := m.RepoTags
		if len(names) == 0 {
			names = []string{""}
		}
		for _, n := range names {
			out = append(out, engine.LoadedImage{Name: n, Image: img})
		}
	}
	if len(out) == 0 {
		return nil, broken("no image is in it")
	}
	return out, nil
}

// unpackable checks that containers could be made of an image. w.mu is held.
func (w *world) unpackable(d string, alone bool) error {
	var m struct {
		Config    ocispec.Descriptor
		Layers    []ocispec.Descriptor
		Manifests []ocispec.Descriptor
	}
	b := w.blobs[d]
	if b == nil {
		return nil // a platform that was left out
	}
	if err := json.Unmarshal(b.body, &m); err != nil {
		return err
	}
	for _, c := range m.Manifests {
		if err := w.unpackable(c.Digest.String(), false); err != nil {
			return err
		}
	}
	if m.Manifests != nil || m.Config.MediaType != ocispec.MediaTypeImageConfig && !alone {
		return nil
	}
	if m.Config.MediaType != ocispec.MediaTypeImageConfig {
		return fmt.Errorf("%s is no image: its configuration is of the type %q", d, m.Config.MediaType)
	}
	for _, l := range m.Layers {
		if !alone && !strings.Contains(l.MediaType, ".layer.") {
			continue
		}
		if _, err := untar(bytes.NewReader(w.blobs[l.Digest.String()].body)); err != nil {
			return fmt.Errorf("layer %s of %s (%s) cannot be unpacked: %w", l.Digest, d, l.MediaType, err)
		}
	}
	return nil
}

// Export implements engine.Images.
func (i images) Export(ctx context.Context, d, name string, out io.Writer) error {
	if err := i.e.call(ctx, "Export", d); err != nil {
		return err
	}
	w := i.e.w
	w.mu.Lock()
	defer w.mu.Unlock()
	b := w.blobs[d]
	if b == nil {
		return fmt.Errorf("export: image %s: %w", d, missing(d))
	}
	keep := map[string]bool{}
	w.mark(d, keep)
	top := ocispec.Descriptor{MediaType: b.media, Digest: digest.Digest(d), Size: int64(len(b.body))}
	if top.MediaType == "" {
		top.MediaType = ocispec.MediaTypeImageManifest
	}
	if name != "" {
		top.Annotations = map[string]string{imageName: name}
	}
	idx, err := json.Marshal(ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{top}})
	if err != nil {
		return err
	}
	t := tar.NewWriter(out)
	put := func(name string, b []byte) error {
		err := t.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(b))})
		_, werr := t.Write(b)
		return errors.Join(err, werr)
	}
	err = errors.Join(put("oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`)), put("index.json", idx))
	for _, k := range slices.Sorted(maps.Keys(keep)) {
		err = errors.Join(err, put("blobs/"+strings.Replace(k, ":", "/", 1), w.blobs[k].body))
	}
	return errors.Join(err, t.Close())
}
