package local

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// TestFreshContentStays runs the collector right after each step of a push and
// wants everything to be there yet.
func TestFreshContentStays(t *testing.T) {
	b := open(t)
	ctx := context.Background()
	collect := func() {
		t.Helper()
		if _, err := b.meta.GarbageCollect(nsctx(ctx)); err != nil {
			t.Fatal(err)
		}
	}
	there := func(d string) {
		t.Helper()
		if _, err := b.Blobs().Stat(ctx, d); err != nil {
			t.Errorf("collected: %v", err)
		}
	}
	var desc []string
	for _, text := range []string{"{}", "a layer"} {
		for range 2 { // the second time it is there already
			w, err := b.Blobs().Create(ctx, b.id("up"))
			if err != nil {
				t.Fatal(err)
			}
			_, _ = w.Write([]byte(text))
			if err := w.Commit(ctx, digestOf(text)); err != nil {
				t.Fatal(err)
			}
			_ = w.Close()
			collect()
			there(digestOf(text))
		}
		desc = append(desc, fmt.Sprintf(`{"mediaType":"application/octet-stream","digest":%q,"size":%d}`, digestOf(text), len(text)))
	}
	body := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":%s,"layers":[%s]}`, ocispec.MediaTypeImageManifest, desc[0], desc[1])
	d, err := b.Blobs().PutManifest(ctx, ocispec.MediaTypeImageManifest, []byte(body))
	if err != nil {
		t.Fatal(err)
	}
	collect()
	there(d)
	if err := b.Images().Hold(ctx, "x", d); err != nil {
		t.Fatal(err)
	}
	b.collectNow(t)
	for _, d := range []string{d, digestOf("{}"), digestOf("a layer")} {
		there(d)
	}
	if err := b.Images().Release(ctx, "x"); err != nil {
		t.Fatal(err)
	}
	b.collectNow(t)
	if _, err := b.Blobs().Stat(ctx, d); !errdefs.IsNotFound(err) {
		t.Errorf("still there, or %v", err)
	}
	list, err := b.leases.List(nsctx(ctx))
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range list {
		if strings.HasPrefix(l.ID, freshPrefix) {
			t.Errorf("a lease is left: %s", l.ID)
		}
	}
}
