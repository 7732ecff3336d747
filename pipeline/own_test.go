package pipeline

import (
	"slices"
	"strings"
	"testing"
)

// The registry of the server is spoken to in the pipeline's own name, and the
// log says that the login of the action is not used.
func TestOwnRegistry(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	w.commit("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")
	own := Registry{Kind: OtherRegistry, URL: "slipway.local", Username: "nobody", Password: "wrong"}
	build := func(repository string) Execution {
		b := Build{Dockerfile: "Dockerfile", Repository: repository, Registry: own}
		return w.wait(w.start(w.pipeline(Pipeline{Name: repository}, Action{Build: &b}), Start{}))
	}
	said := func(x Execution) {
		t.Helper()
		if l := w.lines(x, 0); !slices.Contains(l, "Note: "+loginUnused) {
			t.Errorf("%s: %q", w.words(x), l)
		}
	}
	good := build(w.home.Domain + "/good")
	if s := good.Steps[0]; s.Status != Successful || s.Image != "slipway.local/"+w.home.Domain+"/good:latest" {
		t.Errorf("own: %s %+v", w.words(good), s)
	}
	said(good)
	if bad := build("second/good"); bad.Status != Failed || !strings.Contains(bad.Steps[0].Error, `of the workspace "second"`) {
		t.Errorf("another's: %s", w.words(bad))
	}
	said(w.wait(w.start(w.pipeline(Pipeline{Name: "run"}, Action{Run: &Run{
		Image: w.home.Domain + "/good", Tag: "latest", Commands: "true", Registry: own,
	}}), Start{})))
}
