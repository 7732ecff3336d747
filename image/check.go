package image

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/containerd/errdefs"

	"slipway/db"
)

// named is an image and what it is known by.
type named struct{ name, digest string }

// Check looks whether what tags lead to, and what is held, can be read whole,
// and says so of each image of which something is missing or cut. The bytes of
// layers are not read.
func (i *Images) Check(ctx context.Context) error {
	all, err := i.named(ctx)
	if err != nil {
		return err
	}
	seen := map[string]error{}
	var bad []named
	for _, n := range all {
		if _, ok := seen[n.digest]; ok {
			continue // told of under its first name
		}
		if err := i.whole(ctx, n.digest, seen); ctx.Err() != nil {
			return context.Cause(ctx)
		} else if err != nil {
			bad = append(bad, n)
		}
	}
	if len(bad) == 0 {
		return nil
	}
	if all, err = i.named(ctx); err != nil {
		return err
	}
	var errs []error
	for _, n := range bad {
		if slices.Contains(all, n) { // else it was removed meanwhile
			errs = append(errs, fmt.Errorf("%s: %w", n.name, seen[n.digest]))
		}
	}
	return errors.Join(errs...)
}

// named lists what there is to check.
func (i *Images) named(ctx context.Context) (all []named, err error) {
	err = i.db.Read(ctx, func(tx *db.Tx) (err error) {
		all, err = db.List(tx, func(scan db.Scan) (n named, err error) {
			var rank int
			err = scan(&rank, &n.name, &n.digest)
			return n, err
		}, `SELECT 0, 'the tag ' || r.name || ':' || t.tag, t.digest FROM image_tags t JOIN image_repositories r ON r.id = t.repository
			UNION ALL SELECT 1, 'the image ' || name, digest FROM image_outside
			UNION ALL SELECT 2, 'the image held as ' || id, digest FROM image_holds WHERE state = 'held' ORDER BY 1, 2`)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("image check: %w", err)
	}
	return all, nil
}

// whole tells what is missing of a manifest, or of an index as far as it was
// ever here, and notes it in seen.
func (i *Images) whole(ctx context.Context, digest string, seen map[string]error) (err error) {
	if err, ok := seen[digest]; ok {
		return err
	}
	defer func() { seen[digest] = err }()
	body, err := readManifest(ctx, i.blobs, digest)
	if err != nil {
		return fmt.Errorf("manifest %s: %w", digest, err)
	}
	c, err := readContent("", body)
	if err != nil {
		return fmt.Errorf("manifest %s: %w", digest, err)
	}
	for _, d := range c.children() {
		if _, err := i.blobs.Stat(ctx, d.Digest.String()); errdefs.IsNotFound(err) {
			continue // a platform that was never pulled
		}
		if err := i.whole(ctx, d.Digest.String(), seen); err != nil {
			return err
		}
	}
	for _, d := range c.parts() {
		if len(d.URLs) > 0 {
			continue // is somewhere else by its nature
		}
		b, err := i.blobs.Open(ctx, d.Digest.String())
		if err != nil {
			return fmt.Errorf("blob %s of manifest %s: %w", d.Digest, digest, err)
		}
		size := b.Size()
		if err := b.Close(); err != nil {
			return err
		}
		if size != d.Size {
			return fmt.Errorf("blob %s of manifest %s has %d bytes instead of %d: %w", d.Digest, digest, size, d.Size, errdefs.ErrDataLoss)
		}
	}
	return nil
}
