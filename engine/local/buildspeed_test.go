package local

import (
	"bytes"
	"context"
	"fmt"
	"testing"

	"slipway/engine"
	"slipway/engine/enginetest"
)

const fiveSteps = "FROM shell\nRUN echo 1 > /1\nRUN echo 2 > /2\nCOPY a /a\nRUN echo 4 > /4\nRUN echo 5 > /5\n"

// BenchmarkBuildCached is a build of five steps that the cache has.
func BenchmarkBuildCached(b *testing.B) {
	e := open(b)
	id, spec := e.recipe(fiveSteps, map[string]string{"a": "x"})
	e.made(id, spec)
	for b.Loop() {
		if res := e.made(id, spec); res.Cached != 5 {
			b.Fatal(res)
		}
	}
}

// BenchmarkBuildChanged is one with a new file in the middle.
func BenchmarkBuildChanged(b *testing.B) {
	e := open(b)
	id, spec := e.recipe(fiveSteps, map[string]string{"a": "x"})
	e.made(id, spec)
	n := 0
	for b.Loop() {
		n++
		put(b, e, spec.Source.Volume, map[string][]byte{"a": fmt.Appendf(nil, "%d", n)})
		e.made(id, spec)
	}
}

// BenchmarkBuildLarge is one step that writes 50 MiB.
func BenchmarkBuildLarge(b *testing.B) {
	e := open(b)
	n := 0
	for b.Loop() {
		n++
		id, spec := e.recipe(fmt.Sprintf("FROM shell\nRUN dd if=/dev/urandom of=/big bs=1M count=50 2>/dev/null; echo %d\n", n), nil)
		e.made(id, spec)
	}
}

// BenchmarkBuildThenRun is from the end of a build with a changed step to the
// end of a container of its image.
func BenchmarkBuildThenRun(b *testing.B) {
	e := open(b)
	id, spec := e.recipe("FROM shell\nCOPY a /a\nRUN true\n", map[string]string{"a": "x"})
	n := 0
	for b.Loop() {
		b.StopTimer()
		n++
		put(b, e, spec.Source.Volume, map[string][]byte{"a": fmt.Appendf(nil, "%d", n)})
		res := e.made(id, spec)
		b.StartTimer()
		if x, _ := e.do("echo first", func(s *engine.RunSpec) { s.Image = res.Image.Digest }); x.Code != 0 {
			b.Fatal(x)
		}
	}
}

// BenchmarkRunAgain is the same of an image that was run before.
func BenchmarkRunAgain(b *testing.B) {
	e := open(b)
	for b.Loop() {
		if x, _ := e.do("echo first"); x.Code != 0 {
			b.Fatal(x)
		}
	}
}

func put(b *testing.B, e *bench, volume string, files map[string][]byte) {
	b.Helper()
	if err := e.Volumes().Put(context.Background(), volume, "/", bytes.NewReader(enginetest.Tar(b, nil, nil, files))); err != nil {
		b.Fatal(err)
	}
}
