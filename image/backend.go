package image

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"net/http"
	"strconv"
	"time"

	"cuelabs.dev/go/oci/ociregistry"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"slipway/access"
	"slipway/db"
	"slipway/engine"
)

const octets = "application/octet-stream"

// blobReader is an open blob, or a part of one.
type blobReader struct {
	io.Reader
	blob engine.Blob
	desc ociregistry.Descriptor
}

// Descriptor is that of the whole blob.
func (b blobReader) Descriptor() ociregistry.Descriptor { return b.desc }

// Close ends the reading.
func (b blobReader) Close() error { return b.blob.Close() }

// statBlob gives the size of a blob that a repository may serve.
func (i *Images) statBlob(ctx context.Context, repo int64, d string) (int64, error) {
	if repo == 0 {
		return 0, errdefs.ErrNotFound
	}
	has := func() (ok bool, err error) {
		err = i.db.Read(ctx, func(tx *db.Tx) error {
			ok, err = hasBlob(tx, repo, d)
			return err
		})
		return ok, err
	}
	ok, err := has()
	if err == nil && !ok {
		if err = i.expandRepository(ctx, repo); err == nil {
			ok, err = has()
		}
	}
	if err == nil && !ok {
		err = fmt.Errorf("blob %s: %w", d, errdefs.ErrNotFound)
	}
	if err != nil {
		return 0, err
	}
	return i.blobs.Stat(ctx, d)
}

func unknownBlob(err error, d string) error {
	if errdefs.IsNotFound(err) {
		detail, _ := json.Marshal(map[string]string{"digest": d})
		return ociregistry.NewError("blob "+d+" is not known in this repository", ociregistry.ErrBlobUnknown.Code(), detail)
	}
	return err
}

// ResolveBlob is for HEAD.
func (b *backend) ResolveBlob(ctx context.Context, _ string, d ociregistry.Digest) (ociregistry.Descriptor, error) {
	size, err := b.i.statBlob(ctx, b.repo.id, d.String())
	return ociregistry.Descriptor{Digest: d, Size: size, MediaType: octets}, unknownBlob(err, d.String())
}

// GetBlob reads a whole blob.
func (b *backend) GetBlob(ctx context.Context, repo string, d ociregistry.Digest) (ociregistry.BlobReader, error) {
	return b.GetBlobRange(ctx, repo, d, 0, -1)
}

// GetBlobRange reads a part of a blob.
func (b *backend) GetBlobRange(ctx context.Context, repo string, d ociregistry.Digest, from, to int64) (ociregistry.BlobReader, error) {
	desc, err := b.ResolveBlob(ctx, repo, d)
	if err != nil {
		return nil, err
	}
	blob, err := b.i.blobs.Open(ctx, d.String())
	if err != nil {
		return nil, unknownBlob(err, d.String())
	}
	if to < 0 || to > desc.Size {
		to = desc.Size
	}
	return blobReader{io.NewSectionReader(blob, from, max(0, to-from)), blob, desc}, nil
}

func unknownManifest(err error, what string) error {
	if errdefs.IsNotFound(err) {
		return ociregistry.NewError(what+" is not known in this repository", ociregistry.ErrManifestUnknown.Code(), nil)
	}
	return err
}

// manifest finds a manifest of the repository that is in reach.
func (b *backend) manifest(ctx context.Context, d string) (m manifest, err error) {
	return b.known(ctx, d, reachManifest)
}

// known finds a manifest of the repository in one way; of one that was only tagged
// yet everything is found out first.
func (b *backend) known(ctx context.Context, d string, look func(tx *db.Tx, repo int64, digest string) (manifest, error)) (m manifest, err error) {
	find := func() error {
		return b.i.db.Read(ctx, func(tx *db.Tx) error {
			m, err = look(tx, b.repo.id, d)
			return err
		})
	}
	err = find()
	if errdefs.IsNotFound(err) || err == nil && !m.expanded { // perhaps of an index that was tagged
		if err = b.i.expandRepository(ctx, b.repo.id); err == nil {
			err = find()
		}
	}
	if err == nil && !m.expanded {
		err = errdefs.ErrNotFound.WithMessage(fmt.Sprintf("manifest %s: its content is gone", d))
	}
	if err == nil {
		_, err = b.i.blobs.Stat(ctx, d)
	}
	return m, unknownManifest(err, "manifest "+d)
}

func (m manifest) descriptor() ociregistry.Descriptor {
	return ociregistry.Descriptor{Digest: digest.Digest(m.digest), Size: m.size, MediaType: m.mediaType}
}

// ResolveManifest is for HEAD.
func (b *backend) ResolveManifest(ctx context.Context, _ string, d ociregistry.Digest) (ociregistry.Descriptor, error) {
	m, err := b.manifest(ctx, d.String())
	return m.descriptor(), err
}

func (b *backend) tag(ctx context.Context, tag string) (d string, err error) {
	err = b.i.db.Read(ctx, func(tx *db.Tx) error {
		d, err = findTag(tx, b.repo.id, tag)
		return err
	})
	return d, unknownManifest(err, "tag "+tag)
}

// ResolveTag is for HEAD.
func (b *backend) ResolveTag(ctx context.Context, repo, tag string) (ociregistry.Descriptor, error) {
	d, err := b.tag(ctx, tag)
	if err != nil {
		return ociregistry.Descriptor{}, err
	}
	return b.ResolveManifest(ctx, repo, digest.Digest(d))
}

// GetManifest reads a manifest. One that is part of an index is no pull of its
// own.
func (b *backend) GetManifest(ctx context.Context, _ string, d ociregistry.Digest) (ociregistry.BlobReader, error) {
	m, err := b.manifest(ctx, d.String())
	if err != nil {
		return nil, err
	}
	blob, err := b.i.blobs.Open(ctx, m.digest)
	if err != nil {
		return nil, unknownManifest(err, "manifest "+m.digest)
	}
	part := false
	err = b.i.db.Read(ctx, func(tx *db.Tx) error {
		var n int
		err := tx.QueryRow(`SELECT count(*) FROM image_links WHERE repository = ? AND blob = ?`, b.repo.id, m.digest).Scan(&n)
		part = n > 0
		return err
	})
	if err != nil {
		_ = blob.Close()
		return nil, err
	}
	if !part {
		b.i.countPull(b.repo.id, 1, time.Now())
	}
	return blobReader{io.NewSectionReader(blob, 0, blob.Size()), blob, m.descriptor()}, nil
}

// GetTag reads the manifest of a tag.
func (b *backend) GetTag(ctx context.Context, repo, tag string) (ociregistry.BlobReader, error) {
	d, err := b.tag(ctx, tag)
	if err != nil {
		return nil, err
	}
	return b.GetManifest(ctx, repo, digest.Digest(d))
}

func listSeq(list []string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		for _, v := range list {
			if !yield(v, nil) {
				return
			}
		}
	}
}

// Repositories gives the catalog that the request is for.
func (b *backend) Repositories(context.Context, string) iter.Seq2[string, error] {
	return listSeq(b.list)
}

// repositories lists what the actor may pull from in its workspaces.
func (b *backend) repositories(ctx context.Context, after string) (names []string, err error) {
	err = b.i.db.Read(ctx, func(tx *db.Tx) error {
		list, err := listRepositories(tx, "", after)
		for _, r := range list {
			if b.by.May(r.workspace, access.ImageRead) == nil {
				names = append(names, r.Name)
			}
		}
		return err
	})
	return names, err
}

// Tags gives the tags that the request is for.
func (b *backend) Tags(context.Context, string, string) iter.Seq2[string, error] {
	return listSeq(b.list)
}

// tags lists the tags of the repository. One into which an upload was begun and
// nothing came yet is not known.
func (b *backend) tags(ctx context.Context, after string) (list []string, err error) {
	err = b.i.db.Read(ctx, func(tx *db.Tx) (err error) {
		list, err = db.Column[string](tx, `SELECT tag FROM image_tags t WHERE repository = ? AND tag > ? AND `+living+` ORDER BY tag`, b.repo.id, after)
		if len(list) > 0 || err != nil {
			return err
		}
		var n int
		if err := tx.QueryRow(`SELECT COUNT(*) FROM image_manifests m WHERE repository = ? AND `+anchor, b.repo.id).Scan(&n); err != nil || n > 0 {
			return err
		}
		return ociregistry.NewError(fmt.Sprintf("repository %s is not known", b.repo.Name), ociregistry.ErrNameUnknown.Code(), nil)
	})
	return list, err
}

// writeList answers with a list, which may be empty; ociserver would write null
// then.
func writeList(w http.ResponseWriter, list map[string]any) error {
	body, err := json.Marshal(list)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	_, _ = w.Write(body)
	return nil
}

// writeReferrers lists the manifests that are about another. ociserver would
// write null for an empty list.
func (b *backend) writeReferrers(w http.ResponseWriter, r *http.Request, d string) error {
	if err := b.i.expandRepository(r.Context(), b.repo.id); err != nil {
		return err
	}
	kind := r.URL.Query().Get("artifactType")
	idx := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{}}
	idx.SchemaVersion = 2
	err := b.i.db.Read(r.Context(), func(tx *db.Tx) error {
		all, err := findManifests(tx, `repository = ? AND subject = ?`, b.repo.id, d)
		for _, m := range all {
			is, err := inReach(tx, b.repo.id, m.digest)
			if err != nil {
				return err
			}
			if is && (kind == "" || kind == m.artifactType) {
				desc := m.descriptor()
				desc.ArtifactType, desc.Annotations = m.artifactType, m.annotations
				idx.Manifests = append(idx.Manifests, desc)
			}
		}
		return err
	})
	if err != nil {
		return err
	}
	body, err := json.Marshal(idx)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", ocispec.MediaTypeImageIndex)
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	if kind != "" {
		w.Header().Set("OCI-Filters-Applied", "artifactType")
	}
	_, _ = w.Write(body)
	return nil
}

// DeleteBlob ends the right of the repository to a blob that no manifest of it
// needs.
func (b *backend) DeleteBlob(ctx context.Context, _ string, d ociregistry.Digest) error {
	if _, err := b.i.statBlob(ctx, b.repo.id, d.String()); err != nil {
		return unknownBlob(err, d.String())
	}
	return b.i.db.Write(ctx, func(tx *db.Tx) error {
		users, err := db.Column[string](tx, `SELECT manifest FROM image_links WHERE repository = ? AND blob = ? LIMIT 1`, b.repo.id, d.String())
		if err != nil {
			return err
		}
		if len(users) > 0 {
			return ociregistry.NewError(fmt.Sprintf("the manifest %s needs this blob; delete that one first", users[0]), ociregistry.ErrDenied.Code(), nil)
		}
		_, err = tx.Exec(`DELETE FROM image_blobs WHERE repository = ? AND digest = ?`, b.repo.id, d.String())
		return err
	})
}

// DeleteManifest removes a manifest with its tags.
func (b *backend) DeleteManifest(ctx context.Context, _ string, d ociregistry.Digest) error {
	err := b.i.db.Write(ctx, func(tx *db.Tx) error {
		if _, err := reachManifest(tx, b.repo.id, d.String()); err != nil {
			return err
		}
		return removeManifest(tx, b.repo.id, d.String())
	})
	return unknownManifest(err, "manifest "+d.String())
}

// DeleteTag removes a tag and leaves the manifest.
func (b *backend) DeleteTag(ctx context.Context, _, tag string) error {
	err := b.i.db.Write(ctx, func(tx *db.Tx) error {
		if _, err := findTag(tx, b.repo.id, tag); err != nil {
			return err
		}
		return removeTag(tx, b.repo.id, tag)
	})
	return unknownManifest(err, "tag "+tag)
}
