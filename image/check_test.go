package image

import (
	"context"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"slipway/engine"
)

// lossy is a store that has lost blobs without knowing it, or their ends.
type lossy struct {
	engine.Blobs
	gone, cut map[string]bool
}

type cutBlob struct{ engine.Blob }

func (c cutBlob) Size() int64 { return c.Blob.Size() - 1 }

func (l lossy) Open(ctx context.Context, d string) (engine.Blob, error) {
	if l.gone[d] {
		return l.Blobs.Open(ctx, "sha256:"+strings.Repeat("0", 64))
	}
	b, err := l.Blobs.Open(ctx, d)
	if err == nil && l.cut[d] {
		return cutBlob{b}, nil
	}
	return b, err
}

// Every tag is followed to its last blob.
func TestCheck(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	lost := lossy{w.blobs, map[string]bool{}, map[string]bool{}}
	images := New(Config{}, w.db, w.projects, w.store, lost)
	one, err := random.Image(100, 2)
	w.must(err)
	w.push(one, "team/one:v1")
	many, err := random.Index(100, 1, 2)
	w.must(err)
	ref, err := name.ParseReference(w.host + "/team/many:v1")
	w.must(err)
	w.must(remote.WriteIndex(ref, many, remote.WithAuth(&authn.Basic{Username: "x", Password: w.ann})))
	w.must(images.Check(t.Context()))

	layers, err := one.Layers()
	w.must(err)
	layer, err := layers[1].Digest()
	w.must(err)
	index, err := many.IndexManifest()
	w.must(err)
	for _, c := range []struct {
		lose       map[string]bool
		digest, in string
	}{
		{lost.gone, layer.String(), "the tag team/one:v1"},
		{lost.cut, layer.String(), "the tag team/one:v1"},
		{lost.gone, index.Manifests[1].Digest.String(), "the tag team/many:v1"},
	} {
		c.lose[c.digest] = true
		err := images.Check(t.Context())
		if err == nil || !strings.Contains(err.Error(), c.in) || !strings.Contains(err.Error(), c.digest) {
			t.Errorf("without %s: %v", c.digest, err)
		}
		delete(c.lose, c.digest)
	}
	w.must(images.Check(t.Context()))
}
