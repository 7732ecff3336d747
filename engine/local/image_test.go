package local

import (
	"context"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"slipway/engine/enginetest"
)

// collectNow drops what nobody holds, also what came only now.
func (b *bench) collectNow(t testing.TB) {
	t.Helper()
	ctx := nsctx(context.Background())
	var all []content.Info
	if err := b.content.Walk(ctx, func(i content.Info) error {
		if i.Labels[expireLabel] != "" {
			all = append(all, i)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for _, i := range all {
		if _, err := b.content.Update(ctx, content.Info{Digest: i.Digest}, "labels."+expireLabel); err != nil {
			t.Fatal(err)
		}
	}
	list, err := b.leases.List(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range list {
		if strings.HasPrefix(l.ID, freshPrefix) {
			if err := b.leases.Delete(ctx, l); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := b.meta.GarbageCollect(ctx); err != nil {
		t.Fatal(err)
	}
}

func lines(t testing.TB, dir string) string {
	t.Helper()
	return strings.Join(enginetest.Lines(t, dir, "oem"), "\n")
}

func digestOf(s string) string { return digest.FromString(s).String() }

func TestBlobsOfManifests(t *testing.T) {
	b := open(t)
	ctx := t.Context()
	d := b.tiny("subject")
	upload := func(body string) string {
		w, err := b.Blobs().Create(ctx, b.id("up"))
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		_, _ = io.WriteString(w, body)
		sum := digestOf(body)
		if err := w.Commit(ctx, sum); err != nil {
			t.Fatal(err)
		}
		return sum
	}
	cfg := upload("{}")
	size, err := b.Blobs().Stat(ctx, d)
	if err != nil {
		t.Fatal(err)
	}
	body := fmt.Sprintf(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","artifactType":"test/signature","config":{"mediaType":"application/vnd.oci.empty.v1+json","digest":%q,"size":2},"layers":[],"subject":{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":%q,"size":%d}}`, cfg, d, size)
	signature, err := b.Blobs().PutManifest(ctx, "application/vnd.oci.image.manifest.v1+json", []byte(body))
	if err != nil {
		t.Fatal(err)
	}
	b.collectNow(t)
	if _, err := b.Blobs().Stat(ctx, signature); err != nil {
		t.Errorf("the signature went while its subject is held: %v", err)
	}
	if err := b.Images().Release(ctx, "test/"+d); err != nil {
		t.Fatal(err)
	}
	b.collectNow(t)
	if _, err := b.Blobs().Stat(ctx, signature); !errdefs.IsNotFound(err) {
		t.Errorf("the signature outlives its subject: %v", err)
	}
}
