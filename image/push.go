package image

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strconv"

	"cuelabs.dev/go/oci/ociregistry"
	"github.com/containerd/errdefs"
	"github.com/google/uuid"
	"github.com/opencontainers/go-digest"

	"slipway/crash"
	"slipway/db"
	"slipway/engine"
)

// uploadPrefix begins the names of our uploads in the engine; repository and
// upload follow.
const uploadPrefix = "registry/"

// blobUpload is an upload in progress. Its bytes are in the engine, its row
// says that it is one, of this repository, so that it goes on after a restart.
type blobUpload struct {
	ctx  context.Context
	b    *backend
	id   string
	w    engine.BlobWriter
	from int64 // where the client says its bytes begin; -1: at the end
	done bool
}

func (b *backend) uploadRef(id string) string {
	return uploadPrefix + strconv.FormatInt(b.repo.id, 10) + "/" + id
}

// open begins an upload.
func (b *backend) open(ctx context.Context) (*blobUpload, error) {
	if err := b.i.room(); err != nil {
		return nil, err
	}
	id := uuid.NewString()
	err := b.i.db.Write(ctx, func(tx *db.Tx) (err error) {
		if b.repo, err = ensureRepository(tx, b.repo.workspace, b.repo.Name); err != nil {
			return err
		}
		_, err = tx.Exec(`INSERT INTO image_uploads (id, repository, created) VALUES (?, ?, ?)`, id, b.repo.id, db.Micros(tx.Now))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("begin upload: %w", err)
	}
	crash.At("image: upload begun")
	w, err := b.i.blobs.Create(ctx, b.uploadRef(id))
	if err != nil {
		return nil, fmt.Errorf("begin upload: %w", err)
	}
	return &blobUpload{ctx: ctx, b: b, id: id, w: w, from: -1}, nil
}

// find tells whether an upload is one of this repository.
func (b *backend) findUpload(ctx context.Context, id string) error {
	return b.i.db.Read(ctx, func(tx *db.Tx) error {
		var n int
		if err := tx.QueryRow(`SELECT count(*) FROM image_uploads WHERE id = ? AND repository = ?`, id, b.repo.id).Scan(&n); err != nil {
			return err
		}
		if n == 0 {
			return ociregistry.ErrBlobUploadUnknown
		}
		return nil
	})
}

// cancelUpload drops an upload; id is in the form of the path.
func (b *backend) cancelUpload(ctx context.Context, id string) error {
	raw, err := base64.RawURLEncoding.DecodeString(id)
	if err != nil {
		return ociregistry.ErrBlobUploadUnknown
	}
	if err := b.findUpload(ctx, string(raw)); err != nil {
		return err
	}
	return b.forget(ctx, string(raw), true)
}

// forget removes the row of an upload, and with abort its bytes.
func (b *backend) forget(ctx context.Context, id string, abort bool) error {
	if abort {
		if err := b.i.blobs.Abort(ctx, b.uploadRef(id)); err != nil {
			return err
		}
	}
	return b.i.db.Write(ctx, func(tx *db.Tx) error {
		_, err := tx.Exec(`DELETE FROM image_uploads WHERE id = ?`, id)
		return err
	})
}

// PushBlobChunked begins an upload.
func (b *backend) PushBlobChunked(ctx context.Context, _ string, _ int) (ociregistry.BlobWriter, error) {
	return b.open(ctx)
}

// PushBlobChunkedResume goes on with an upload.
func (b *backend) PushBlobChunkedResume(ctx context.Context, _, id string, offset int64, _ int) (ociregistry.BlobWriter, error) {
	if err := b.findUpload(ctx, id); err != nil {
		return nil, err
	}
	w, err := b.i.blobs.Create(ctx, b.uploadRef(id))
	if errdefs.IsUnavailable(err) {
		return nil, ociregistry.NewError("another request writes to this upload", ociregistry.ErrBlobUploadInvalid.Code(), nil)
	}
	if err != nil {
		return nil, fmt.Errorf("go on with upload: %w", err)
	}
	if b.append { // the offset is only a default then
		offset = -1
	}
	return &blobUpload{ctx: ctx, b: b, id: id, w: w, from: offset}, nil
}

// Write adds bytes. The place that the client names is judged on the first
// bytes: the closing request of an upload mostly has none, and names none.
func (u *blobUpload) Write(p []byte) (int, error) {
	if len(p) > 0 && u.from >= 0 && u.from != u.w.Size() {
		u.b.failed = ociregistry.ErrRangeInvalid
		return 0, u.b.failed
	}
	u.from = -1
	if err := u.b.i.full(); err != nil {
		return 0, u.refuse(fmt.Errorf("write upload: %w", err))
	}
	n, err := u.w.Write(p)
	if err != nil {
		err = u.refuse(fmt.Errorf("write upload: %w", err))
	}
	return n, err
}

// refuse has an error answered that ociserver would not. If it is one of a full
// disk the upload is dropped: to keep it would keep the disk full.
func (u *blobUpload) refuse(err error) error {
	if errdefs.IsResourceExhausted(err) {
		if derr := u.Cancel(); derr != nil {
			slog.Error("an upload without room could not be dropped", "room", "image", "upload", u.id, "error", derr)
		}
	}
	u.b.failed = err
	return err
}

// Size is how much there is.
func (u *blobUpload) Size() int64 { return u.w.Size() }

// ChunkSize is the least that a chunk must have: no bound.
func (u *blobUpload) ChunkSize() int { return 1 }

// ID names the upload in its URL.
func (u *blobUpload) ID() string { return u.id }

// Close leaves the upload as it is.
func (u *blobUpload) Close() error { return u.w.Close() }

// Cancel drops the upload unless it is done.
func (u *blobUpload) Cancel() error {
	if u.done {
		return nil
	}
	return errors.Join(u.w.Close(), u.b.forget(context.WithoutCancel(u.ctx), u.id, true))
}

// Commit ends the upload. Nothing is kept of one with a wrong digest.
func (u *blobUpload) Commit(d ociregistry.Digest) (ociregistry.Descriptor, error) {
	size := u.w.Size()
	desc := ociregistry.Descriptor{Digest: d, Size: size, MediaType: octets}
	err := u.w.Commit(u.ctx, d.String())
	if errdefs.IsAlreadyExists(err) {
		err = nil
	}
	if errdefs.IsInvalidArgument(err) || errdefs.IsFailedPrecondition(err) {
		return desc, errors.Join(ociregistry.NewError(fmt.Sprintf("the uploaded %d bytes do not have the digest %s", size, d), ociregistry.ErrDigestInvalid.Code(), nil), u.Cancel())
	}
	if err != nil {
		return desc, u.refuse(fmt.Errorf("commit upload: %w", err))
	}
	crash.At("image: blob stored")
	err = u.b.i.db.Write(u.ctx, func(tx *db.Tx) error {
		if _, err := tx.Exec(`DELETE FROM image_uploads WHERE id = ?`, u.id); err != nil {
			return err
		}
		return addBlob(tx, u.b.repo.id, d.String())
	})
	u.done = err == nil
	return desc, err
}

// PushBlob takes a blob in one request.
func (b *backend) PushBlob(ctx context.Context, _ string, d ociregistry.Descriptor, r io.Reader) (ociregistry.Descriptor, error) {
	u, err := b.open(ctx)
	if err != nil {
		return d, err
	}
	defer func() { _ = u.Close() }()
	n, err := io.Copy(u, r)
	if err == nil && d.Size >= 0 && n != d.Size {
		err = ociregistry.ErrSizeInvalid
	}
	if err != nil {
		return d, errors.Join(err, u.Cancel())
	}
	return u.Commit(d.Digest)
}

// MountBlob gives the repository a blob of another; that the actor may was
// found out before.
func (b *backend) MountBlob(ctx context.Context, from, _ string, d ociregistry.Digest) (ociregistry.Descriptor, error) {
	ok, err := b.mountable(ctx, from, d.String())
	if err == nil && !ok {
		err = ociregistry.ErrBlobUnknown
	}
	if err != nil {
		return ociregistry.Descriptor{}, err
	}
	size, err := b.i.blobs.Stat(ctx, d.String())
	if err != nil {
		return ociregistry.Descriptor{}, unknownBlob(err, d.String())
	}
	err = b.i.db.Write(ctx, func(tx *db.Tx) (err error) {
		if b.repo, err = ensureRepository(tx, b.repo.workspace, b.repo.Name); err != nil {
			return err
		}
		return addBlob(tx, b.repo.id, d.String())
	})
	return ociregistry.Descriptor{Digest: d, Size: size, MediaType: octets}, err
}

// PushManifest stores a manifest all of whose parts the repository has.
func (b *backend) PushManifest(ctx context.Context, _, tag string, body []byte, mediaType string) (ociregistry.Descriptor, error) {
	d := digest.FromBytes(body)
	desc := ociregistry.Descriptor{Digest: d, Size: int64(len(body)), MediaType: mediaType}
	c, err := readContent(mediaType, body)
	if err != nil {
		return desc, ociregistry.NewError(err.Error(), ociregistry.ErrManifestInvalid.Code(), nil)
	}
	if err := b.complete(ctx, c); err != nil {
		return desc, err
	}
	if b.repo.id == 0 { // an empty index
		if err := b.i.db.Write(ctx, func(tx *db.Tx) (err error) {
			b.repo, err = ensureRepository(tx, b.repo.workspace, b.repo.Name)
			return err
		}); err != nil {
			return desc, err
		}
	}
	got, err := b.i.blobs.PutManifest(ctx, mediaType, body)
	switch {
	case errdefs.IsNotFound(err):
		return desc, ociregistry.NewError(err.Error(), ociregistry.ErrManifestBlobUnknown.Code(), nil)
	case errdefs.IsInvalidArgument(err):
		return desc, ociregistry.NewError(err.Error(), ociregistry.ErrManifestInvalid.Code(), nil)
	case err != nil:
		return desc, fmt.Errorf("store manifest: %w", err)
	case got != d.String():
		return desc, fmt.Errorf("store manifest: its digest became %s instead of %s", got, d)
	}
	crash.At("image: manifest stored")
	err = b.i.holding(ctx, func(hold func(id, digest string) error) error {
		if err := hold(manifestHold(b.repo.id, got), got); err != nil {
			return err
		}
		return b.i.db.Write(ctx, func(tx *db.Tx) error { return b.pushed(tx, c, got, tag, desc.Size) })
	})
	if err != nil {
		return desc, fmt.Errorf("push manifest: %w", err)
	}
	crash.At("image: manifest pushed")
	return desc, nil
}

func (b *backend) pushed(tx *db.Tx, c content, d, tag string, size int64) error {
	m, links := c.row(b.repo.id, d, size)
	if err := saveManifest(tx, m, links); err != nil {
		return err
	}
	if err := held(tx, manifestHold(b.repo.id, d), d, noEnd()); err != nil {
		return err
	}
	if tag == "" {
		return nil
	}
	if err := countPush(tx, b.repo.id); err != nil {
		return err
	}
	return tagged(tx, b.repo, tag, d, b.by.User.ID, "")
}

// complete refuses a manifest that refers to what the repository does not
// have, though the store might: otherwise to know a digest would be enough to
// read somebody else's layers.
func (b *backend) complete(ctx context.Context, c content) error {
	missing := func(err error, d digest.Digest, what string) error {
		if !errdefs.IsNotFound(err) {
			return err
		}
		detail, _ := json.Marshal(map[string]string{"digest": d.String()})
		return ociregistry.NewError(fmt.Sprintf("the manifest refers to the %s %s, which this repository does not have", what, d), ociregistry.ErrManifestBlobUnknown.Code(), detail)
	}
	for _, p := range c.parts() {
		if _, err := b.i.statBlob(ctx, b.repo.id, p.Digest.String()); err != nil {
			return missing(err, p.Digest, "blob")
		}
	}
	for _, k := range c.children() {
		var oci ociregistry.Error
		// One that was just pushed by its digest may be what a deleted project had tagged.
		if _, err := b.known(ctx, k.Digest.String(), findManifest); errors.As(err, &oci) {
			return missing(errdefs.ErrNotFound, k.Digest, "manifest")
		} else if err != nil {
			return err
		}
	}
	return nil
}
