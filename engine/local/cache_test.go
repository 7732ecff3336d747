package local

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
)

// TestCachesApart builds in two workspaces at the same time with a cache mount
// of the same id.
func TestCachesApart(t *testing.T) {
	b := open(t)
	var wg sync.WaitGroup
	for _, w := range []string{"one", "two"} {
		id, spec := b.recipe("FROM shell\nARG WHO\nRUN --mount=type=cache,target=/cache for i in 1 2 3 4 5 6 7 8 9 10; do echo $WHO >> /cache/who; sleep 0.1; done; echo \"cache of $WHO:\" $(cat /cache/who)\n", nil)
		spec.Workspace, spec.Args = w, map[string]string{"WHO": w}
		wg.Go(func() {
			if res, err := b.Build(context.Background(), id, spec); err != nil || res.Failure != "" {
				t.Errorf("%+v %v", res, err)
			}
			log := lines(t, spec.Log)
			other := map[string]string{"one": "two", "two": "one"}[w]
			_, said, _ := strings.Cut(log, "\ncache of ")
			if strings.Contains(said, other) || strings.Count(said, w) < 10 {
				t.Errorf("%s:\n%s", w, log)
			}
		})
	}
	wg.Wait()
	id, spec := b.recipe("FROM shell\nRUN --mount=type=cache,target=/cache echo \"still:\" $(cat /cache/who)\n", nil)
	spec.Workspace = "one"
	b.made(id, spec)
	if log := lines(t, spec.Log); !strings.Contains(log, "still: one one") {
		t.Errorf("the next build of the workspace has\n%s", log)
	}
}

func TestCacheBounds(t *testing.T) {
	b := open(t)
	for i := range 3 {
		id, spec := b.recipe(fmt.Sprintf("FROM shell\nRUN dd if=/dev/zero of=/big bs=1M count=%d\n", 20+i), nil)
		spec.Workspace = fmt.Sprintf("w%d", i)
		b.made(id, spec)
		if err := b.Images().Release(t.Context(), "build/"+id); err != nil {
			t.Fatal(err)
		}
	}
	usage := func(w string) (n int64) {
		list, err := b.CacheUsage(t.Context(), w)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range list {
			n += r.Size
		}
		return n
	}
	a, c := usage("w0"), usage("w2")
	if a < 20<<20 || c < 20<<20 {
		t.Fatalf("usage %d and %d", a, c)
	}
	if err := b.builder.collect(t.Context(), 60<<20); err != nil {
		t.Fatal(err)
	}
	a2, c2 := usage("w0"), usage("w2")
	if a2 >= a || c2 != c {
		t.Errorf("the oldest had %d, now %d; the newest %d, now %d", a, a2, c, c2)
	}
	n, err := b.ClearCache(t.Context(), "w2")
	if err != nil || n < 20<<20 || usage("w2") > 1<<20 {
		t.Errorf("cleared %d, left %d: %v", n, usage("w2"), err)
	}
	if list, err := b.CacheUsage(t.Context(), "never built"); err != nil || len(list) > 0 {
		t.Errorf("%v %v", list, err)
	}
}

// TestDamagedCache opens a workspace whose databases are broken.
func TestDamagedCache(t *testing.T) {
	b := open(t)
	id, spec := b.recipe("FROM shell\nRUN echo x > /x\nCMD [\"/bin/cat\",\"/x\"]\n", nil)
	first := b.made(id, spec)
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{"cache.db", "metadata_v2.db"} {
		if err := os.WriteFile(b.path("build", "w", "w", f), bytes.Repeat([]byte("broken"), 10000), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(b.path(dirtyMark), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	b.reopen()
	if out := b.says(first.Image.Digest); out != "x" {
		t.Errorf("the image of before says %q", out)
	}
	spec.Log += "-again"
	if res := b.made(id, spec); res.Cached != 0 {
		t.Errorf("%+v", res)
	}
}
