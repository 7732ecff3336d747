package local

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/images/archive"
	"github.com/containerd/containerd/v2/pkg/archive/compression"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"slipway/engine"
)

// Load implements engine.Images.
func (s imageStore) Load(ctx context.Context, r io.Reader) ([]engine.LoadedImage, error) {
	var out []engine.LoadedImage
	// What the lease holds goes with it, unless it was found to be whole.
	err := s.e.leased(nsctx(ctx), func(ctx context.Context) (err error) {
		out, err = s.e.load(ctx, r)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("load an image archive: %w", err)
	}
	s.e.sync()
	return out, nil
}

// apart gives the uploads of one archive names of their own: what a broken one
// left must not be gone on with. It notes what the archive has.
type apart struct {
	content.Store
	prefix string
	has    map[digest.Digest]bool
}

// noted is an upload of an archive.
type noted struct {
	content.Writer
	has map[digest.Digest]bool
}

func (n noted) Commit(ctx context.Context, size int64, expected digest.Digest, opts ...content.Opt) error {
	err := n.Writer.Commit(ctx, size, expected, opts...)
	if err == nil || errdefs.IsAlreadyExists(err) {
		n.has[n.Digest()] = true
	}
	return err
}

func (a apart) Writer(ctx context.Context, opts ...content.WriterOpt) (content.Writer, error) {
	var o content.WriterOpts
	for _, opt := range opts {
		if err := opt(&o); err != nil {
			return nil, err
		}
	}
	w, err := a.Store.Writer(ctx, append(opts, content.WithRef(a.prefix+o.Ref))...)
	if errdefs.IsAlreadyExists(err) && o.Desc.Digest != "" {
		// That a digest is in the store proves nothing of the archive: who only
		// names the content of others is not to get it.
		return &compared{desc: o.Desc, sum: digest.Canonical.Digester(), has: a.has, ref: o.Ref}, nil
	}
	if err != nil {
		return nil, err
	}
	return noted{w, a.has}, nil
}

// compared takes what the store has already, and finds out whether it is that.
type compared struct {
	desc ocispec.Descriptor
	sum  digest.Digester
	n    int64
	ref  string
	has  map[digest.Digest]bool
}

func (c *compared) Write(b []byte) (int, error) {
	n, err := c.sum.Hash().Write(b)
	c.n += int64(n)
	return n, err
}

// Close implements content.Writer.
func (c *compared) Close() error { return nil }

// Digest implements content.Writer.
func (c *compared) Digest() digest.Digest { return c.sum.Digest() }

// Commit implements content.Writer.
func (c *compared) Commit(_ context.Context, size int64, expected digest.Digest, _ ...content.Opt) error {
	if expected == "" {
		expected = c.desc.Digest
	}
	if got := c.Digest(); got != expected || size > 0 && size != c.n {
		return fmt.Errorf("%s has the digest %s and %d bytes: %w", expected, got, c.n, errdefs.ErrInvalidArgument)
	}
	c.has[expected] = true
	return fmt.Errorf("%s: %w", expected, errdefs.ErrAlreadyExists)
}

// Status implements content.Writer.
func (c *compared) Status() (content.Status, error) {
	return content.Status{Ref: c.ref, Offset: c.n, Total: c.desc.Size, Expected: c.desc.Digest}, nil
}

// Truncate implements content.Writer.
func (c *compared) Truncate(size int64) error {
	if size != 0 {
		return fmt.Errorf("truncate to %d: %w", size, errdefs.ErrNotImplemented)
	}
	c.sum, c.n = digest.Canonical.Digester(), 0
	return nil
}

func (e *Engine) load(ctx context.Context, r io.Reader) ([]engine.LoadedImage, error) {
	z, err := compression.DecompressStream(r)
	if err != nil {
		return nil, badArchive(ctx, err)
	}
	defer z.Close()
	has := map[digest.Digest]bool{}
	top, err := archive.ImportIndex(ctx, apart{e.content, "load-" + newID() + "-", has}, z)
	if err != nil {
		return nil, badArchive(ctx, err)
	}
	var idx ocispec.Index
	if err := e.readJSON(ctx, top, &idx); err != nil {
		return nil, badArchive(ctx, err)
	}
	var out []engine.LoadedImage
	for _, m := range idx.Manifests {
		if err := e.link(ctx, m, has, 0); err != nil {
			return nil, badArchive(ctx, err)
		}
		if err := e.unpackable(ctx, m, true); err != nil {
			return nil, badArchive(ctx, err)
		}
		img, err := e.inspectAny(ctx, m.Digest.String())
		if err != nil {
			return nil, badArchive(ctx, err)
		}
		out = append(out, engine.LoadedImage{Name: archiveName(m.Annotations), Image: img})
	}
	if len(out) == 0 {
		return nil, badArchive(ctx, errors.New("no image is in it"))
	}
	for _, m := range idx.Manifests {
		if err := e.fresh(ctx, m.Digest); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// inspectAny inspects an image for the host, or for any platform that it has.
func (e *Engine) inspectAny(ctx context.Context, dgst string) (engine.Image, error) {
	img, err := e.inspect(ctx, dgst, "")
	if err == nil || !errdefs.IsNotFound(err) {
		return img, err
	}
	desc, derr := e.describe(ctx, dgst)
	if derr != nil || !images.IsIndexType(desc.MediaType) {
		return img, err
	}
	match, _ := matcher("")
	_, all, _ := e.choose(ctx, desc, match, 0)
	for _, p := range all {
		if img, perr := e.inspect(ctx, dgst, p); perr == nil {
			return img, nil
		}
	}
	return img, err
}

// archiveName is the name that an archive gives an image; a tag alone is none.
func archiveName(a map[string]string) string {
	if n := a[images.AnnotationImageName]; n != "" {
		return n
	}
	if n := a[ocispec.AnnotationRefName]; strings.ContainsAny(n, "/:") {
		return n
	}
	return ""
}

// badArchive says that the fault is in what was sent, if it is not on our side.
func badArchive(ctx context.Context, err error) error {
	switch err = full(err); {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, unix.EIO), errdefs.IsInvalidArgument(err), errdefs.IsResourceExhausted(err):
		return err
	}
	return fmt.Errorf("it is cut or broken: %w: %w", errdefs.ErrInvalidArgument, err)
}

// link checks that an archive has all of an image, and writes the labels by
// which its parts keep each other. That the store has a part does not count: it
// may be somebody else's. Of an index some platforms may be missing, not all.
func (e *Engine) link(ctx context.Context, desc ocispec.Descriptor, has map[digest.Digest]bool, depth int) error {
	if !has[desc.Digest] {
		return fmt.Errorf("%s is not in it: %w", desc.Digest, errdefs.ErrNotFound)
	}
	if depth > 4 {
		return fmt.Errorf("indexes within indexes: %w", errdefs.ErrInvalidArgument)
	}
	children, err := images.Children(ctx, e.content, desc)
	if err != nil {
		return err
	}
	index := images.IsIndexType(desc.MediaType)
	there := 0
	for _, c := range children {
		switch {
		case has[c.Digest]:
			there++
		case !index:
			return fmt.Errorf("%s refers to %s, which is not in it: %w", desc.Digest, c.Digest, errdefs.ErrNotFound)
		default:
			continue
		}
		if index && (images.IsIndexType(c.MediaType) || images.IsManifestType(c.MediaType)) {
			if err := e.link(ctx, c, has, depth+1); err != nil {
				return err
			}
		}
	}
	if len(children) == 0 && !index || there == 0 && len(children) > 0 {
		return fmt.Errorf("%s (%s): nothing that it refers to is there: %w", desc.Digest, desc.MediaType, errdefs.ErrNotFound)
	}
	h := images.SetChildrenLabels(e.content, images.ChildrenHandler(e.content))
	_, err = h(ctx, desc)
	return err
}

// unpackable checks, without unpacking all of it, that containers can be made of
// an image: that it is one, and that its layers begin as archives of files do. Of
// an index what is no image, an attestation say, may be beside the images.
func (e *Engine) unpackable(ctx context.Context, desc ocispec.Descriptor, alone bool) error {
	children, err := images.Children(ctx, e.content, desc)
	if err != nil {
		return err
	}
	for n, c := range children {
		if _, err := e.content.Info(ctx, c.Digest); errdefs.IsNotFound(err) {
			continue // a platform that was left out
		}
		switch {
		case images.IsIndexType(desc.MediaType):
			err = e.unpackable(ctx, c, false)
		case n == 0 && !images.IsConfigType(c.MediaType):
			if alone {
				return fmt.Errorf("%s is no image: its configuration is of the type %q: %w", desc.Digest, c.MediaType, errdefs.ErrInvalidArgument)
			}
			return nil
		case n > 0 && (alone || images.IsLayerType(c.MediaType)):
			if err = e.beginsAsTar(ctx, c); err != nil {
				err = fmt.Errorf("layer %s of %s (%s) cannot be unpacked: %w: %w", c.Digest, desc.Digest, c.MediaType, errdefs.ErrInvalidArgument, err)
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// beginsAsTar reads the first header of a layer.
func (e *Engine) beginsAsTar(ctx context.Context, layer ocispec.Descriptor) error {
	ra, err := e.content.ReaderAt(ctx, layer)
	if err != nil {
		return err
	}
	defer ra.Close()
	z, err := compression.DecompressStream(io.NewSectionReader(ra, 0, ra.Size()))
	if err != nil {
		return err
	}
	defer z.Close()
	if _, err = tar.NewReader(z).Next(); errors.Is(err, io.EOF) {
		return nil // no files
	}
	return err
}

// Export implements engine.Images.
func (s imageStore) Export(ctx context.Context, dgst, name string, w io.Writer) error {
	if err := s.e.export(nsctx(ctx), dgst, name, w); err != nil {
		return fmt.Errorf("export image %s: %w", dgst, err)
	}
	return nil
}

func (e *Engine) export(ctx context.Context, dgst, name string, w io.Writer) error {
	desc, err := e.describe(ctx, dgst)
	if err != nil {
		return err
	}
	var names []string
	if name != "" {
		names = append(names, name)
	}
	return archive.Export(ctx, e.content, w, archive.WithManifest(desc, names...), archive.WithAllPlatforms(),
		archive.WithSkipDockerManifest(), archive.WithSkipMissing(e.content))
}
