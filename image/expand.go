package image

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"slipway/db"
	"slipway/engine"
)

// maxManifest bounds manifests and indexes, as registries do.
const maxManifest = 4 << 20

const (
	dockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	dockerIndex    = "application/vnd.docker.distribution.manifest.list.v2+json"
)

// content is what we read of a manifest or an index.
type content struct {
	SchemaVersion int                   `json:"schemaVersion"`
	MediaType     string                `json:"mediaType"`
	ArtifactType  string                `json:"artifactType"`
	Config        *ocispec.Descriptor   `json:"config"`
	Layers        []ocispec.Descriptor  `json:"layers"`
	Manifests     *[]ocispec.Descriptor `json:"manifests"`
	Subject       *ocispec.Descriptor   `json:"subject"`
	Annotations   map[string]string     `json:"annotations"`
}

// readContent understands a manifest or an index. mediaType may be "".
func readContent(mediaType string, body []byte) (c content, err error) {
	if err := json.Unmarshal(body, &c); err != nil {
		return c, fmt.Errorf("not a manifest: %w: %w", errdefs.ErrInvalidArgument, err)
	}
	bad := func(format string, a ...any) (content, error) {
		return c, fmt.Errorf(format+": %w", append(a, errdefs.ErrInvalidArgument)...)
	}
	switch {
	case c.SchemaVersion != 2:
		return bad("schemaVersion is %d, not 2", c.SchemaVersion)
	case mediaType != "" && c.MediaType != "" && c.MediaType != mediaType:
		return bad("the manifest says it is %s, the request %s", c.MediaType, mediaType)
	case c.Manifests != nil && (c.Config != nil || c.Layers != nil):
		return bad("both a manifest and an index")
	case c.Manifests == nil && c.Config == nil:
		return bad("neither a manifest nor an index")
	}
	if c.MediaType == "" {
		c.MediaType = mediaType
	}
	if c.MediaType == "" {
		c.MediaType = ocispec.MediaTypeImageManifest
		if c.Manifests != nil {
			c.MediaType = ocispec.MediaTypeImageIndex
		}
	}
	if c.index() != (c.MediaType == ocispec.MediaTypeImageIndex || c.MediaType == dockerIndex) ||
		!c.index() && c.MediaType != ocispec.MediaTypeImageManifest && c.MediaType != dockerManifest {
		return bad("the media type %q does not fit", c.MediaType)
	}
	for _, d := range append(c.children(), c.parts()...) {
		if err := d.Digest.Validate(); err != nil {
			return bad("it refers to the digest %q", d.Digest)
		}
	}
	if c.Subject != nil {
		if err := c.Subject.Digest.Validate(); err != nil {
			return bad("its subject has the digest %q", c.Subject.Digest)
		}
	}
	return c, nil
}

func (c content) index() bool { return c.Manifests != nil }

// children are the manifests of an index.
func (c content) children() []ocispec.Descriptor {
	if c.Manifests == nil {
		return nil
	}
	return slices.Clone(*c.Manifests)
}

// parts are the blobs of a manifest.
func (c content) parts() []ocispec.Descriptor {
	if c.Config == nil {
		return nil
	}
	return append([]ocispec.Descriptor{*c.Config}, c.Layers...)
}

// row is the manifest as it is written down, with what it links to.
func (c content) row(repo int64, digest string, size int64) (manifest, []string) {
	m := manifest{
		repo: repo, digest: digest, mediaType: c.MediaType, size: size, config: digest, artifactType: c.ArtifactType,
		annotations: c.Annotations, expanded: true,
	}
	if c.Config != nil {
		m.config = c.Config.Digest.String()
		if m.artifactType == "" {
			m.artifactType = c.Config.MediaType
		}
	}
	if c.Subject != nil {
		m.subject = c.Subject.Digest.String()
	}
	var links []string
	for _, d := range append(c.children(), c.parts()...) {
		links = append(links, d.Digest.String())
	}
	return m, links
}

// readManifest reads a manifest out of the store.
func readManifest(ctx context.Context, b engine.Blobs, digest string) ([]byte, error) {
	r, err := b.Open(ctx, digest)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	if r.Size() > maxManifest {
		return nil, fmt.Errorf("manifest %s has %d bytes: %w", digest, r.Size(), errdefs.ErrInvalidArgument)
	}
	return io.ReadAll(io.NewSectionReader(r, 0, r.Size()))
}

// expand writes down what a manifest that was tagged in the store links to,
// with the manifests of an index as far as they are there.
func (i *Images) expand(ctx context.Context, repo int64, digest string) error {
	type item struct {
		m     manifest
		links []string
	}
	var all []item
	todo := []string{digest}
	for len(todo) > 0 && len(all) < 1000 {
		d := todo[0]
		todo = todo[1:]
		body, err := readManifest(ctx, i.blobs, d)
		if errdefs.IsNotFound(err) && d != digest {
			continue // a platform that was never pulled
		}
		if err != nil {
			return fmt.Errorf("expand %s: %w", d, err)
		}
		c, err := readContent("", body)
		if err != nil {
			return fmt.Errorf("expand %s: %w", d, err)
		}
		m, links := c.row(repo, d, int64(len(body)))
		all = append(all, item{m, links})
		for _, k := range c.children() {
			todo = append(todo, k.Digest.String())
		}
	}
	return i.db.Write(ctx, func(tx *db.Tx) error {
		if _, err := findManifest(tx, repo, digest); err != nil {
			return err // removed meanwhile
		}
		for _, it := range all {
			if err := saveManifest(tx, it.m, it.links); err != nil {
				return err
			}
			if it.m.digest == digest {
				continue // its hold is there
			}
			if err := want(tx, manifestHold(repo, it.m.digest), it.m.digest, noEnd()); err != nil {
				return err
			}
		}
		return nil
	})
}

// expandRepository makes what was tagged in a repository since its last use
// known in full.
func (i *Images) expandRepository(ctx context.Context, repo int64) error {
	return i.expandThese(ctx, `expanded = 0 AND repository = ?`, repo)
}

func (i *Images) expandAll(ctx context.Context) error { return i.expandThese(ctx, `expanded = 0`) }

func (i *Images) expandThese(ctx context.Context, where string, args ...any) error {
	var list []manifest
	err := i.db.Read(ctx, func(tx *db.Tx) (err error) {
		list, err = findManifests(tx, where, args...)
		return err
	})
	if err != nil {
		return err
	}
	for _, m := range list {
		err := i.expand(ctx, m.repo, m.digest)
		if errdefs.IsNotFound(err) || errdefs.IsInvalidArgument(err) {
			slog.Warn("an image is not whole", "room", "image", "digest", m.digest, "error", err)
		} else if err != nil {
			return err
		}
	}
	return nil
}

// hexOf is a digest without its algorithm.
func hexOf(digest string) string {
	_, h, _ := strings.Cut(digest, ":")
	return h
}

// noEnd is the end of what is kept for ever.
func noEnd() time.Time { return time.Time{} }
