package local

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"slipway/engine"
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
	n, err := b.ClearCache(t.Context(), "w2", "")
	if err != nil || n < 20<<20 || usage("w2") > 1<<20 {
		t.Errorf("cleared %d, left %d: %v", n, usage("w2"), err)
	}
	if list, err := b.CacheUsage(t.Context(), "never built"); err != nil || len(list) > 0 {
		t.Errorf("%v %v", list, err)
	}
}

// TestCacheScopes builds for several owners of a workspace, that have steps in
// common or not.
func TestCacheScopes(t *testing.T) {
	b := open(t)
	const text = "FROM shell AS made\nCOPY a /a\nRUN echo one > /one\nRUN echo two > /two\nFROM shell\nCOPY --from=made /two /two\nRUN echo three\n"
	files := map[string]string{"a": "x"}
	build := func(text string, c engine.BuildCache) (string, string) {
		t.Helper()
		id, spec := b.recipe(text, files)
		spec.Cache = c
		res := b.made(id, spec)
		return fmt.Sprintf("%d/%d", res.Cached, res.Steps), lines(t, spec.Log)
	}
	expect := func(what, text string, c engine.BuildCache, cached string) {
		t.Helper()
		if got, log := build(text, c); got != cached {
			t.Errorf("%s: %s cached, want %s\n%s", what, got, cached, log)
		}
	}
	of := func(owner, scope string, give engine.Given) engine.BuildCache {
		return engine.BuildCache{Owner: engine.Owner(owner), Scope: engine.Owner(scope), Take: scope != "", Give: give}
	}
	other := strings.Replace(text, "echo two", "echo twice", 1)
	end := strings.Replace(text, "echo three", "echo 3", 1)

	expect("the first", text, of("pipeline/1", "", ""), "0/5")
	expect("again", text, of("pipeline/1", "", ""), "5/5")
	expect("another owner", text, of("pipeline/2", "", ""), "0/5")
	expect("nobody's", text, engine.BuildCache{}, "0/5")
	expect("an empty scope", text, of("pipeline/3", "project/1", ""), "0/5")
	expect("nothing was given to it", text, of("pipeline/4", "project/1", engine.GiveImage), "0/5")
	expect("the image was given", text, of("pipeline/5", "project/1", ""), "5/5")
	expect("what is taken is one's own", text, of("pipeline/5", "", ""), "5/5")
	expect("of its last stage the begin", end, of("pipeline/6", "project/1", ""), "4/5")
	expect("of its other stages nothing", other, of("pipeline/6", "project/1", engine.GiveAll), "0/5")
	expect("all was given", strings.Replace(other, "echo one", "echo  one", 1), of("pipeline/7", "project/1", ""), "3/5") // what is copied is the same
	expect("the other stage", strings.Replace(other, "twice", "thrice", 1), of("pipeline/7", "project/1", ""), "2/5")
	expect("another scope", text, of("pipeline/8", "project/2", ""), "0/5")
	expect("not to take", text, engine.BuildCache{Owner: "pipeline/9", Scope: "project/1", Give: engine.GiveAll}, "0/5")
	for range 2 { // the same is given once
		if _, log := build(text, of("pipeline/1", "project/3", engine.GiveAll)); strings.Contains(log, "importing") {
			t.Errorf("log:\n%s", log)
		}
	}
	id, spec := b.recipe(text, files)
	spec.Workspace, spec.Cache = "other", of("pipeline/1", "project/1", engine.GiveAll)
	if res := b.made(id, spec); res.Cached != 0 {
		t.Errorf("the same names in another workspace: %+v", res)
	}
}

// TestCacheMountsOfScopes: those that give have their cache mounts in common.
func TestCacheMountsOfScopes(t *testing.T) {
	b := open(t)
	n := 0
	says := func(c engine.BuildCache) string {
		t.Helper()
		n++
		id, spec := b.recipe(fmt.Sprintf("FROM shell\nRUN --mount=type=cache,target=/cache echo %d >> /cache/who; echo has: $(cat /cache/who)\n", n), nil)
		spec.Cache = c
		b.made(id, spec)
		_, said, _ := strings.Cut(lines(t, spec.Log), "\nhas: ")
		said, _, _ = strings.Cut(said, "\n")
		return said
	}
	for i, c := range []struct {
		cache engine.BuildCache
		want  string
	}{
		{engine.BuildCache{Owner: "pipeline/1"}, "1"},
		{engine.BuildCache{Owner: "pipeline/2"}, "2"},
		{engine.BuildCache{Owner: "pipeline/1", Scope: "project/1", Give: engine.GiveImage}, "3"},
		{engine.BuildCache{Owner: "pipeline/2", Scope: "project/1", Give: engine.GiveAll}, "3 4"},
		{engine.BuildCache{Owner: "pipeline/2", Scope: "project/1", Take: true}, "2 5"},
		{engine.BuildCache{}, "6"},
		{engine.BuildCache{Owner: "pipeline/1"}, "1 7"},
	} {
		if got := says(c.cache); got != c.want {
			t.Errorf("build %d has %q, want %q", i+1, got, c.want)
		}
	}
}

// TestCacheGoesWithItsOwner removes owners, and clears what others have.
func TestCacheGoesWithItsOwner(t *testing.T) {
	b := open(t)
	text := func(what string) string {
		return "FROM shell\nRUN --mount=type=cache,target=/cache dd if=/dev/zero of=/cache/big bs=1M count=5; dd if=/dev/zero of=/" + what + " bs=1M count=20\n"
	}
	build := func(what string, c engine.BuildCache) int {
		t.Helper()
		id, spec := b.recipe(text(what), nil)
		spec.Cache = c
		res := b.made(id, spec)
		if err := b.Images().Release(t.Context(), "build/"+id); err != nil {
			t.Fatal(err)
		}
		return res.Cached
	}
	usage := func() (n int64) {
		list, err := b.CacheUsage(t.Context(), "w")
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range list {
			n += r.Size
		}
		return n >> 20
	}
	one, two := engine.BuildCache{Owner: "pipeline/1"}, engine.BuildCache{Owner: "pipeline/2"}
	shared := engine.BuildCache{Owner: "pipeline/3", Scope: "project/p", Take: true, Give: engine.GiveAll}
	build("a", one)
	build("b", two)
	build("c", shared)
	full := usage()
	if full < 75 {
		t.Fatalf("%d MiB", full)
	}
	each := full / 3 // as a layer, as a blob, and a cache mount
	owners, err := b.Owners(t.Context())
	if err != nil || !slices.Contains(owners, "pipeline/1") || !slices.Contains(owners, "project/p") {
		t.Errorf("%v %v", owners, err)
	}
	if n, err := b.ClearCache(t.Context(), "w", "pipeline/1"); err != nil || n>>20 < each-1 {
		t.Errorf("cleared %d: %v", n, err)
	}
	if n := usage(); n < 2*each-1 || n > 2*each+10 {
		t.Errorf("%d of %d MiB", n, full)
	}
	if build("a", one) != 0 || build("b", two) != 1 || build("c", shared) != 1 {
		t.Error("others than the cleared one are cleared")
	}
	gone := func(owner engine.Owner, left int64) {
		t.Helper()
		if err := b.Remove(t.Context(), owner); err != nil {
			t.Fatal(err)
		}
		until(t, fmt.Sprintf("%s is gone", owner), func() bool { return usage() < left })
		if owners, err := b.Owners(t.Context()); err != nil || slices.Contains(owners, owner) {
			t.Errorf("%v %v", owners, err)
		}
	}
	gone("pipeline/2", 2*each+10)
	gone("pipeline/3", 2*each+10)
	if build("c", engine.BuildCache{Owner: "pipeline/4", Scope: "project/p", Take: true, Give: engine.GiveAll}) != 1 {
		t.Error("what was given went with who gave it")
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	b.reopen()
	if build("a", one) != 1 {
		t.Error("one that is not removed has lost its steps")
	}
	gone("pipeline/4", 2*each+10)
	gone("project/p", each+10)
	gone("pipeline/1", 10)
}

// TestManyOwners: what is open of them is bounded.
func TestManyOwners(t *testing.T) {
	b := open(t)
	id, spec := b.recipe(fiveSteps, map[string]string{"a": "x"})
	for i := range shelvesIdle + 5 {
		spec.Cache.Owner = engine.Owner(fmt.Sprintf("pipeline/%d", i))
		b.made(id, spec)
	}
	r, err := b.builder.room("w")
	if err != nil {
		t.Fatal(err)
	}
	defer b.builder.leave(r)
	if n := len(r.databases()); n != shelvesIdle+1 {
		t.Errorf("%d databases are open", n)
	}
	spec.Cache.Owner = "pipeline/0"
	if res := b.made(id, spec); res.Cached != 5 {
		t.Errorf("the first again: %+v", res)
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
	for _, f := range []string{"keys/common.db", "metadata_v2.db"} {
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
