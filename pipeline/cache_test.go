package pipeline

import (
	"strings"
	"testing"

	"slipway/engine"
)

// TestCacheOf: whose steps a build uses, and what it gives.
func TestCacheOf(t *testing.T) {
	t.Parallel()
	const own, of, all = engine.Owner("pipeline/7"), engine.Owner("project/p"), engine.Owner("workspace/w")
	for _, c := range []struct {
		scope, mode, pull string
		clear             bool
		want              engine.BuildCache
	}{
		{"", "MAX", "", false, engine.BuildCache{Owner: own}},
		{"PIPELINE", "", "", true, engine.BuildCache{Owner: own}},
		{"PROJECT", "", "", false, engine.BuildCache{Owner: own, Scope: of, Take: true, Give: engine.GiveImage}},
		{"PROJECT", "MIN", "", true, engine.BuildCache{Owner: own, Scope: of, Give: engine.GiveImage}},
		{"WORKSPACE", "MAX", "", false, engine.BuildCache{Owner: own, Scope: all, Take: true, Give: engine.GiveAll}},
		{"WORKSPACE", "MAX", "pull/3/head", false, engine.BuildCache{Owner: own + "-aside", Scope: own, Take: true}},
		{"", "", "pull/3/head", true, engine.BuildCache{Owner: own + "-aside", Scope: own}},
	} {
		x := Execution{Pipeline: 7, Project: "p", Workspace: "w", PullRequest: c.pull, Frozen: Pipeline{CacheScope: c.scope}}
		x.ClearCache = c.clear
		if got := cacheOf(x, Build{CacheMode: c.mode}); got != c.want {
			t.Errorf("%+v: %+v", c, got)
		}
		if c.pull != "" { // what a stranger wrote has nothing in common with the others, but for what it takes
			fork := x
			fork.Mode, fork.Fork = ByPull, true
			if got := cacheOf(fork, Build{}); got.Owner != own+"-stranger" || got.Scope != own || got.Give != "" {
				t.Errorf("%+v of a stranger: %+v", c, got)
			}
		}
		x.ClearCache, x.Frozen.ClearCache = false, c.clear
		if got := cacheOf(x, Build{CacheMode: c.mode}); got != c.want {
			t.Errorf("%+v, always: %+v", c, got)
		}
		if mounts := cacheOf(x, Build{CacheMode: c.mode}).Mounts(); (mounts == c.want.Scope) != (c.want.Give != "") {
			t.Errorf("%+v: cache mounts of %s", c, mounts)
		}
	}
}

// TestCacheIsCleared: a run that clears the cache forgets the steps of its
// pipeline, and of no other.
func TestCacheIsCleared(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	w.commit("Dockerfile", "FROM busybox\nRUN echo made > /made\n")
	build := Action{Name: "build", Build: &Build{Dockerfile: "Dockerfile"}}
	one, two := w.pipeline(Pipeline{Name: "one"}, build), w.pipeline(Pipeline{Name: "two"}, build)
	for i, c := range []struct {
		p    Pipeline
		in   Start
		want bool
	}{
		{one, Start{}, false},
		{two, Start{}, false},
		{one, Start{}, true},
		{one, Start{ClearCache: true}, false},
		{two, Start{}, true},
		{one, Start{Refresh: true}, true},
	} {
		x := w.expect(w.start(c.p, c.in), "SUCCESSFUL SUCCESSFUL")
		if log := strings.Join(w.lines(x, 0), "\n"); strings.Contains(log, "CACHED") != c.want {
			t.Errorf("run %d: cached is not %v\n%s", i+1, c.want, log)
		}
	}
}

// TestShareNoMore: a file that does not hold makes no scope wider.
func TestShareNoMore(t *testing.T) {
	t.Parallel()
	for _, c := range [][3]string{
		{"PROJECT", "", ""},
		{"WORKSPACE", "PROJECT", "PROJECT"},
		{"WORKSPACE", "PIPELINE", "PIPELINE"},
		{"PROJECT", "PROJECT", "PROJECT"},
		{"PIPELINE", "WORKSPACE", "PIPELINE"},
		{"", "PROJECT", ""},
		{"", "", ""},
	} {
		p := Pipeline{CacheScope: c[0]}
		notes := p.shareNoMore(Pipeline{CacheScope: c[1]})
		if p.CacheScope != c[2] || (len(notes) > 0) != (c[0] != c[2]) {
			t.Errorf("%q of a file, with %q: %q, %q", c[0], c[1], p.CacheScope, notes)
		}
	}
}
