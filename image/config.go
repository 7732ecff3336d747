package image

import (
	"context"
	"strings"
)

// ConfigID is the hex of the digest of an image's configuration, by which some
// clients know it; for an index that of the index itself. errdefs.ErrNotFound if
// the image is not in the store any more.
func (i *Images) ConfigID(ctx context.Context, digest string) (string, error) {
	img, err := i.store.Inspect(ctx, digest, "")
	if err != nil {
		return "", err
	}
	id := img.ConfigDigest
	if len(img.Platforms) > 1 {
		id = img.Digest
	}
	return strings.TrimPrefix(id, "sha256:"), nil
}
