package fake

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"slipway/engine"
)

// blob is content; media is set if it is a manifest or an index.
type blob struct {
	body  []byte
	media string
}

// upload is a begun blob.
type upload struct{ body []byte }

type blobs struct{ e *Engine }

// Blobs implements engine.Engine.
func (e *Engine) Blobs() engine.Blobs { return blobs{e} }

type reader struct{ *bytes.Reader }

func (reader) Close() error { return nil }

// Open implements engine.Blobs.
func (b blobs) Open(ctx context.Context, d string) (engine.Blob, error) {
	if err := b.e.call(ctx, "OpenBlob", d); err != nil {
		return nil, err
	}
	b.e.w.mu.Lock()
	defer b.e.w.mu.Unlock()
	c := b.e.w.blobs[d]
	if c == nil {
		return nil, missing(d)
	}
	return reader{bytes.NewReader(c.body)}, nil
}

func missing(d string) error {
	if err := digest.Digest(d).Validate(); err != nil {
		return fmt.Errorf("digest %q: %w: %w", d, errdefs.ErrInvalidArgument, err)
	}
	return fmt.Errorf("blob %s: %w", d, errdefs.ErrNotFound)
}

// Stat implements engine.Blobs.
func (b blobs) Stat(ctx context.Context, d string) (int64, error) {
	if err := b.e.call(ctx, "Stat", d); err != nil {
		return 0, err
	}
	b.e.w.mu.Lock()
	defer b.e.w.mu.Unlock()
	c := b.e.w.blobs[d]
	if c == nil {
		return 0, missing(d)
	}
	return int64(len(c.body)), nil
}

// Create implements engine.Blobs.
func (b blobs) Create(ctx context.Context, ref string) (engine.BlobWriter, error) {
	if err := b.e.call(ctx, "Create", ref); err != nil {
		return nil, err
	}
	if ref == "" {
		return nil, fmt.Errorf("an upload needs a ref: %w", errdefs.ErrInvalidArgument)
	}
	b.e.w.mu.Lock()
	defer b.e.w.mu.Unlock()
	if b.e.w.uploads[ref] == nil {
		b.e.w.uploads[ref] = &upload{}
	}
	return &writer{b.e, ref}, nil
}

// Abort implements engine.Blobs.
func (b blobs) Abort(ctx context.Context, ref string) error {
	if err := b.e.call(ctx, "Abort", ref); err != nil {
		return err
	}
	b.e.w.mu.Lock()
	defer b.e.w.mu.Unlock()
	delete(b.e.w.uploads, ref)
	return nil
}

// Walk implements engine.Blobs.
func (b blobs) Walk(ctx context.Context, f func(digest string, size int64) error) error {
	if err := b.e.call(ctx, "Walk"); err != nil {
		return err
	}
	b.e.w.mu.Lock()
	sizes := map[string]int64{}
	var all []string
	for d, c := range b.e.w.blobs {
		sizes[d] = int64(len(c.body))
		all = append(all, d)
	}
	b.e.w.mu.Unlock()
	slices.Sort(all)
	for _, d := range all {
		if err := f(d, sizes[d]); err != nil {
			return err
		}
	}
	return nil
}

// PutManifest implements engine.Blobs.
func (b blobs) PutManifest(ctx context.Context, mediaType string, body []byte) (string, error) {
	if err := b.e.call(ctx, "PutManifest", mediaType); err != nil {
		return "", err
	}
	b.e.w.mu.Lock()
	defer b.e.w.mu.Unlock()
	return b.e.w.putManifest(mediaType, body)
}

// children are the blobs that a manifest or an index cannot be without.
func children(mediaType string, body []byte) ([]ocispec.Descriptor, error) {
	var m struct {
		MediaType string                `json:"mediaType"`
		Config    *ocispec.Descriptor   `json:"config"`
		Layers    []ocispec.Descriptor  `json:"layers"`
		Manifests *[]ocispec.Descriptor `json:"manifests"`
	}
	if err := json.Unmarshal(body, &m); err != nil {
		return nil, fmt.Errorf("not a manifest: %w: %w", errdefs.ErrInvalidArgument, err)
	}
	if m.MediaType != "" && mediaType != "" && m.MediaType != mediaType {
		return nil, fmt.Errorf("the manifest says it is %s, not %s: %w", m.MediaType, mediaType, errdefs.ErrInvalidArgument)
	}
	switch {
	case m.Manifests != nil:
		return *m.Manifests, nil
	case m.Config != nil:
		return append([]ocispec.Descriptor{*m.Config}, m.Layers...), nil
	}
	return nil, fmt.Errorf("neither a manifest nor an index: %w", errdefs.ErrInvalidArgument)
}

// putManifest stores it when all it refers to is there. w.mu is held.
func (w *world) putManifest(mediaType string, body []byte) (string, error) {
	kids, err := children(mediaType, body)
	if err != nil {
		return "", err
	}
	for _, k := range kids {
		if w.blobs[k.Digest.String()] == nil {
			return "", fmt.Errorf("the manifest refers to blob %s: %w", k.Digest, errdefs.ErrNotFound)
		}
	}
	d := digest.FromBytes(body).String()
	w.blobs[d] = &blob{slices.Clone(body), mediaType}
	return d, nil
}

// put stores content. w.mu is held.
func (w *world) put(body []byte) ocispec.Descriptor {
	d := digest.FromBytes(body)
	if w.blobs[d.String()] == nil {
		w.blobs[d.String()] = &blob{body: body}
	}
	return ocispec.Descriptor{Digest: d, Size: int64(len(body))}
}

// writer is an upload.
type writer struct {
	e   *Engine
	ref string
}

func (u *writer) upload() (*upload, error) {
	select {
	case <-u.e.closed:
		return nil, errClosed
	default:
	}
	up := u.e.w.uploads[u.ref]
	if up == nil {
		return nil, fmt.Errorf("upload %s: %w", u.ref, errdefs.ErrNotFound)
	}
	return up, nil
}

func (u *writer) Write(b []byte) (int, error) {
	u.e.w.mu.Lock()
	defer u.e.w.mu.Unlock()
	up, err := u.upload()
	if err != nil {
		return 0, err
	}
	up.body = append(up.body, b...)
	return len(b), nil
}

func (u *writer) Size() int64 {
	u.e.w.mu.Lock()
	defer u.e.w.mu.Unlock()
	up, err := u.upload()
	if err != nil {
		return 0
	}
	return int64(len(up.body))
}

func (u *writer) Close() error { return nil }

func (u *writer) Commit(_ context.Context, d string) error {
	u.e.w.mu.Lock()
	defer u.e.w.mu.Unlock()
	up, err := u.upload()
	if err != nil {
		return err
	}
	if err := digest.Digest(d).Validate(); err != nil {
		return fmt.Errorf("digest %q: %w: %w", d, errdefs.ErrInvalidArgument, err)
	}
	if is := digest.Digest(d).Algorithm().FromBytes(up.body); is.String() != d {
		return fmt.Errorf("what was uploaded is %s, not %s: %w", is, d, errdefs.ErrInvalidArgument)
	}
	delete(u.e.w.uploads, u.ref)
	if u.e.w.blobs[d] == nil {
		u.e.w.blobs[d] = &blob{body: up.body}
	}
	return nil
}
