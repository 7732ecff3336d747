package local

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// damage tells of stores that were found damaged and begun anew. Pushed images
// survive it: their blobs are checked and taken over. Holds, the build cache
// and unpacked layers do not; who has a list of what to hold holds it again.
type damage struct {
	recovered []string // digests of manifests and indexes that are whole
	lost      []string // digests of blobs that are not what their name says
}

const (
	// recoveredLease holds what was taken over until its owners have had time to
	// hold it again.
	recoveredLease = "recovered"
	recoveredFor   = 7 * 24 * time.Hour
	// manifestMax is the size above which a blob is not looked at for being a
	// manifest.
	manifestMax = 4 << 20
)

// recoverContent moves the whole blobs of the stores that were put aside to the
// new ones. One that was killed on the way is gone on with by the next server.
func (e *Engine) recoverContent(ctx context.Context) error {
	ctx = nsctx(ctx)
	asides, _ := filepath.Glob(e.path("broken-*", "core", "content"))
	for _, dir := range asides {
		if e.damage == nil {
			e.damage = &damage{} // an earlier server was killed on the way
		}
		if err := e.recoverFrom(ctx, filepath.Join(dir, "blobs", "sha256")); err != nil {
			return fmt.Errorf("take the content over: %w", err)
		}
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	return nil
}

func (e *Engine) recoverFrom(ctx context.Context, old string) error {
	ents, err := os.ReadDir(old)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if _, err := e.leases.Create(ctx, leases.WithID(recoveredLease), leases.WithExpiration(recoveredFor)); err != nil && !errdefs.IsAlreadyExists(err) {
		return err
	}
	ctx = leases.WithLease(ctx, recoveredLease)
	fresh := e.path("core", "content", "blobs", "sha256")
	if err := os.MkdirAll(fresh, 0o755); err != nil {
		return err
	}
	var manifests []ocispec.Descriptor
	for _, d := range ents {
		want := digest.NewDigestFromEncoded(digest.SHA256, d.Name())
		if want.Validate() != nil {
			continue
		}
		from := filepath.Join(old, d.Name())
		desc, err := lookAt(from, want)
		if err != nil {
			e.damage.lost = append(e.damage.lost, want.String())
			continue
		}
		if err := os.Rename(from, filepath.Join(fresh, d.Name())); err != nil {
			return err
		}
		if err := e.adoptBlob(ctx, desc); err != nil {
			return err
		}
		if desc.MediaType != "" {
			manifests = append(manifests, desc)
		}
	}
	for _, m := range manifests {
		if err := e.linkManifest(ctx, m); err != nil {
			e.log.Warn("a manifest could not be taken over", "digest", m.Digest, "err", err)
			continue
		}
		e.damage.recovered = append(e.damage.recovered, m.Digest.String())
	}
	e.sync()
	e.log.Warn("content was taken over", "images", len(e.damage.recovered), "broken", e.damage.lost)
	return nil
}

// lookAt checks a blob and says what it is; the media type is "" if it is no
// manifest or index.
func lookAt(path string, want digest.Digest) (ocispec.Descriptor, error) {
	desc := ocispec.Descriptor{Digest: want}
	f, err := os.Open(path)
	if err != nil {
		return desc, err
	}
	defer f.Close()
	v := want.Verifier()
	if desc.Size, err = io.Copy(v, f); err != nil {
		return desc, err
	}
	if !v.Verified() {
		return desc, errors.New("the content does not fit the digest")
	}
	if desc.Size > manifestMax {
		return desc, nil
	}
	b := make([]byte, desc.Size)
	if _, err := f.ReadAt(b, 0); err != nil && err != io.EOF {
		return desc, err
	}
	desc.MediaType = manifestType(b)
	return desc, nil
}

// manifestType is the media type of a manifest or index, "" if b is none.
func manifestType(b []byte) string {
	var m struct {
		SchemaVersion int             `json:"schemaVersion"`
		MediaType     string          `json:"mediaType"`
		Config        json.RawMessage `json:"config"`
		Layers        json.RawMessage `json:"layers"`
		Manifests     json.RawMessage `json:"manifests"`
	}
	if len(b) == 0 || b[0] != '{' || json.Unmarshal(b, &m) != nil || m.SchemaVersion != 2 {
		return ""
	}
	switch {
	case images.IsManifestType(m.MediaType), images.IsIndexType(m.MediaType):
		return m.MediaType
	case m.Manifests != nil:
		return ocispec.MediaTypeImageIndex
	case m.Config != nil:
		return ocispec.MediaTypeImageManifest
	}
	return ""
}

// adoptBlob makes a blob that is in the store below known to the metadata.
func (e *Engine) adoptBlob(ctx context.Context, desc ocispec.Descriptor) error {
	w, err := e.content.Writer(ctx, content.WithRef("recover-"+desc.Digest.Encoded()), content.WithDescriptor(ocispec.Descriptor{Digest: desc.Digest, Size: desc.Size}))
	if errdefs.IsAlreadyExists(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer w.Close()
	// Without a write the commit only makes an entry.
	if err := w.Commit(ctx, desc.Size, desc.Digest); err != nil && !errdefs.IsAlreadyExists(err) {
		return err
	}
	return nil
}

// linkManifest writes the labels by which a manifest keeps what it refers to.
func (e *Engine) linkManifest(ctx context.Context, desc ocispec.Descriptor) error {
	for _, err := range e.missing(ctx, desc) {
		return err
	}
	h := images.SetChildrenLabels(e.content, images.ChildrenHandler(e.content))
	_, err := h(ctx, desc)
	return err
}

// missing lists what a manifest refers to and is not there. That a platform of
// an index is not there is usual.
func (e *Engine) missing(ctx context.Context, desc ocispec.Descriptor) (errs []error) {
	children, err := images.Children(ctx, e.content, desc)
	if err != nil {
		return []error{err}
	}
	for _, c := range children {
		if _, err := e.content.Info(ctx, c.Digest); err != nil && !images.IsIndexType(desc.MediaType) {
			errs = append(errs, fmt.Errorf("%s: %w", c.Digest, err))
		}
	}
	return errs
}

// describe finds a manifest or index in the store.
func (e *Engine) describe(ctx context.Context, dgst string) (ocispec.Descriptor, error) {
	d, err := digest.Parse(dgst)
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("%q: %w: %w", dgst, errdefs.ErrInvalidArgument, err)
	}
	info, err := e.content.Info(ctx, d)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	desc := ocispec.Descriptor{Digest: d, Size: info.Size}
	if info.Size > manifestMax {
		return desc, fmt.Errorf("%s is no image: %w", dgst, errdefs.ErrInvalidArgument)
	}
	b, err := content.ReadBlob(ctx, e.content, desc)
	if err != nil {
		return desc, err
	}
	if desc.MediaType = manifestType(b); desc.MediaType == "" {
		return desc, fmt.Errorf("%s is no image: %w", dgst, errdefs.ErrInvalidArgument)
	}
	return desc, nil
}
