package local

import (
	"context"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
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
