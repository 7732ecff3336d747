package local

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"slipway/engine"
)

const (
	uploadPrefix = "upload/"
	// subjectLabel is on a manifest that tells of another: a signature, say. It
	// names the other, which may come later.
	subjectLabel = "slipway/subject"
)

// blobStore implements engine.Blobs.
type blobStore struct{ e *Engine }

// Blobs implements engine.Engine.
func (e *Engine) Blobs() engine.Blobs { return blobStore{e} }

// parseDigest checks a digest from outside.
func parseDigest(s string) (digest.Digest, error) {
	d, err := digest.Parse(s)
	if err != nil {
		return "", fmt.Errorf("digest %q: %w: %w", s, errdefs.ErrInvalidArgument, err)
	}
	return d, nil
}

// openBlob is content with its size.
type openBlob struct{ content.ReaderAt }

// Open implements engine.Blobs.
func (s blobStore) Open(ctx context.Context, dgst string) (engine.Blob, error) {
	d, err := parseDigest(dgst)
	if err != nil {
		return nil, err
	}
	r, err := s.e.content.ReaderAt(nsctx(ctx), ocispec.Descriptor{Digest: d})
	if err != nil {
		return nil, fmt.Errorf("blob %s: %w", d, err)
	}
	return openBlob{r}, nil
}

// Stat implements engine.Blobs.
func (s blobStore) Stat(ctx context.Context, dgst string) (int64, error) {
	d, err := parseDigest(dgst)
	if err != nil {
		return 0, err
	}
	info, err := s.e.content.Info(nsctx(ctx), d)
	if err != nil {
		return 0, fmt.Errorf("blob %s: %w", d, err)
	}
	return info.Size, nil
}

// Create implements engine.Blobs. While one writer of an upload is open another
// is errdefs.ErrUnavailable.
func (s blobStore) Create(ctx context.Context, ref string) (engine.BlobWriter, error) {
	if ref == "" {
		return nil, fmt.Errorf("an upload without a ref: %w", errdefs.ErrInvalidArgument)
	}
	w, err := s.e.content.Writer(nsctx(ctx), content.WithRef(uploadPrefix+ref))
	if err != nil {
		return nil, fmt.Errorf("upload %s: %w", ref, full(err))
	}
	st, err := w.Status()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("upload %s: %w", ref, err), w.Close())
	}
	return &upload{e: s.e, ref: ref, w: w, size: st.Offset}, nil
}

// Abort implements engine.Blobs.
func (s blobStore) Abort(ctx context.Context, ref string) error {
	err := s.e.content.Abort(nsctx(ctx), uploadPrefix+ref)
	if err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("abort upload %s: %w", ref, err)
	}
	return nil
}

// Walk implements engine.Blobs.
func (s blobStore) Walk(ctx context.Context, f func(digest string, size int64) error) error {
	return s.e.content.Walk(nsctx(ctx), func(i content.Info) error { return f(i.Digest.String(), i.Size) })
}

// upload implements engine.BlobWriter.
type upload struct {
	e    *Engine
	ref  string
	w    content.Writer
	size int64
}

func (u *upload) Write(b []byte) (int, error) {
	n, err := u.w.Write(b)
	u.size += int64(n)
	if err != nil {
		return n, fmt.Errorf("upload %s: %w", u.ref, full(err))
	}
	return n, nil
}

func (u *upload) Size() int64  { return u.size }
func (u *upload) Close() error { return u.w.Close() }

func (u *upload) Commit(ctx context.Context, dgst string) error {
	ctx = nsctx(ctx)
	d, err := parseDigest(dgst)
	if err != nil {
		return err
	}
	if d.Algorithm() != digest.Canonical {
		return fmt.Errorf("upload %s: digests of %s are not kept: %w", u.ref, d.Algorithm(), errdefs.ErrInvalidArgument)
	}
	if is := u.w.Digest(); is != d {
		return fmt.Errorf("upload %s: what came is %s, not %s: %w", u.ref, is, d, errdefs.ErrInvalidArgument)
	}
	// A lease covers the moment in which the blob is there and its label is not.
	err = u.e.leased(ctx, func(ctx context.Context) error {
		err := u.w.Commit(ctx, u.size, d, content.WithLabels(freshLabels()))
		if errdefs.IsAlreadyExists(err) {
			err = nil
		}
		if err != nil {
			return err
		}
		return u.e.fresh(ctx, d)
	})
	if err != nil {
		return fmt.Errorf("upload %s: %w", u.ref, full(err))
	}
	_ = u.e.content.Abort(ctx, uploadPrefix+u.ref) // is still there if the blob was
	u.e.sync()
	return nil
}

// PutManifest implements engine.Blobs.
func (s blobStore) PutManifest(ctx context.Context, mediaType string, body []byte) (string, error) {
	desc := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(body), Size: int64(len(body))}
	err := s.e.leased(nsctx(ctx), func(ctx context.Context) error { return s.e.putManifest(ctx, desc, body) })
	if err != nil {
		return "", fmt.Errorf("manifest %s: %w", desc.Digest, full(err))
	}
	s.e.sync()
	return desc.Digest.String(), nil
}

func (e *Engine) putManifest(ctx context.Context, desc ocispec.Descriptor, body []byte) error {
	var m struct {
		MediaType string               `json:"mediaType"`
		Config    *ocispec.Descriptor  `json:"config"`
		Layers    []ocispec.Descriptor `json:"layers"`
		Manifests []ocispec.Descriptor `json:"manifests"`
		Subject   *ocispec.Descriptor  `json:"subject"`
	}
	if err := json.Unmarshal(body, &m); err != nil {
		return fmt.Errorf("%w: %w", errdefs.ErrInvalidArgument, err)
	}
	is := manifestType(body)
	switch {
	case len(body) > manifestMax:
		return fmt.Errorf("longer than %d bytes: %w", manifestMax, errdefs.ErrInvalidArgument)
	case is == "":
		return fmt.Errorf("neither a manifest nor an index: %w", errdefs.ErrInvalidArgument)
	case m.MediaType != "" && desc.MediaType != "" && m.MediaType != desc.MediaType:
		return fmt.Errorf("it says it is %s, not %s: %w", m.MediaType, desc.MediaType, errdefs.ErrInvalidArgument)
	case desc.MediaType != "" && images.IsIndexType(desc.MediaType) != images.IsIndexType(is):
		return fmt.Errorf("it is no %s: %w", desc.MediaType, errdefs.ErrInvalidArgument)
	}
	desc.MediaType = is
	children := slices.Concat(m.Layers, m.Manifests)
	if m.Config != nil {
		children = slices.Insert(children, 0, *m.Config)
	}
	lease, _ := leases.FromContext(ctx)
	for _, c := range children {
		d, err := parseDigest(c.Digest.String())
		if err != nil {
			return err
		}
		// Held first, looked for then: so it cannot go in between.
		if err := e.leases.AddResource(ctx, leases.Lease{ID: lease}, leases.Resource{ID: d.String(), Type: "content"}); err != nil {
			return err
		}
		if _, err := e.content.Info(ctx, d); err != nil {
			return fmt.Errorf("it refers to %s: %w", d, err)
		}
	}
	labels := freshLabels()
	if m.Subject != nil {
		if _, err := parseDigest(m.Subject.Digest.String()); err != nil {
			return err
		}
		labels[subjectLabel] = m.Subject.Digest.String()
	}
	if err := e.writeBlob(ctx, desc, body, labels); err != nil {
		return err
	}
	if err := e.linkChildren(ctx, desc, children); err != nil {
		return err
	}
	if m.Subject != nil {
		if err := e.linkReferrer(ctx, m.Subject.Digest, desc.Digest); err != nil {
			return err
		}
	}
	if err := e.fresh(ctx, desc.Digest); err != nil {
		return err
	}
	return e.linkReferrers(ctx, desc.Digest)
}

// writeBlob stores content with labels, also if it is there already.
func (e *Engine) writeBlob(ctx context.Context, desc ocispec.Descriptor, body []byte, labels map[string]string) error {
	w, err := content.OpenWriter(ctx, e.content, content.WithRef("put-"+newID()), content.WithDescriptor(desc))
	if errdefs.IsAlreadyExists(err) {
		return e.setLabels(ctx, desc.Digest, labels)
	}
	if err != nil {
		return err
	}
	defer w.Close()
	if _, err := w.Write(body); err != nil {
		return err
	}
	err = w.Commit(ctx, desc.Size, desc.Digest, content.WithLabels(labels))
	if errdefs.IsAlreadyExists(err) {
		return e.setLabels(ctx, desc.Digest, labels)
	}
	return err
}

func (e *Engine) setLabels(ctx context.Context, d digest.Digest, labels map[string]string) error {
	var paths []string
	for k := range labels {
		paths = append(paths, "labels."+k)
	}
	_, err := e.content.Update(ctx, content.Info{Digest: d, Labels: labels}, paths...)
	return err
}

// linkChildren lets a manifest keep what it refers to, whatever the media types
// of that are.
func (e *Engine) linkChildren(ctx context.Context, desc ocispec.Descriptor, children []ocispec.Descriptor) error {
	labels := map[string]string{}
	for i, c := range children {
		labels[fmt.Sprintf("containerd.io/gc.ref.content.%d", i)] = c.Digest.String()
	}
	if len(labels) == 0 {
		return nil
	}
	return e.setLabels(ctx, desc.Digest, labels)
}

// linkReferrer lets a manifest keep one that tells of it. If it is not there
// yet it will do so when it comes.
func (e *Engine) linkReferrer(ctx context.Context, subject, referrer digest.Digest) error {
	err := e.setLabels(ctx, subject, map[string]string{"containerd.io/gc.ref.content.r." + referrer.Encoded()[:32]: referrer.String()})
	if errdefs.IsNotFound(err) {
		return nil
	}
	return err
}

// linkReferrers does it for those that came before their subject.
func (e *Engine) linkReferrers(ctx context.Context, subject digest.Digest) error {
	var all []digest.Digest
	err := e.content.Walk(ctx, func(i content.Info) error {
		all = append(all, i.Digest)
		return nil
	}, fmt.Sprintf("labels.%q==%s", subjectLabel, subject))
	for _, r := range all {
		err = errors.Join(err, e.linkReferrer(ctx, subject, r))
	}
	return err
}
