// Package enginetest holds every engine to the words of the contract in
// package engine. It uses only what the fake understands too: a shell with
// echo, cat, test, sleep, trap and exit.
package enginetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"slipway/engine"
	"slipway/logs/segment"
)

// Harness is an engine under test.
type Harness struct {
	Engine engine.Engine
	// Reopen ends the engine as the end of the server's process would and gives
	// the next one on the same data.
	Reopen func(t testing.TB) engine.Engine
	// Collect, if set, lets the engine drop at once what nothing holds.
	Collect func(t testing.TB)
	// Registries are hosts as the engine sees them: a registry that lets only
	// that login in, one that cannot be reached, and one that is no registry.
	Registries func(t testing.TB) (guarded engine.Login, closed, page string)
}

// suite is the world of one Run: one engine for all subtests, ids of their own
// for each.
type suite struct {
	*Harness
	base string // digest of the image with a shell
	dir  string
	n    atomic.Int64
}

// Run holds an engine to the contract.
func Run(t *testing.T, open func(t *testing.T) *Harness) {
	s := &suite{Harness: open(t), dir: t.TempDir()}
	loaded, err := s.Engine.Images().Load(t.Context(), bytes.NewReader(Archive(t, Shell(t))))
	if err != nil {
		t.Fatal(err)
	}
	s.base = loaded[0].Digest
	s.ok(t, s.Engine.Images().Hold(t.Context(), "enginetest", s.base))
	t.Run("Run", s.runs)
	t.Run("Build", s.builds)
	t.Run("Workloads", s.workloads)
	t.Run("Volumes", s.volumes)
	t.Run("Images", s.images)
	t.Run("Load", s.loads)
	t.Run("Blobs", s.blobs)
	t.Run("Owners", s.owners)
}

func (s *suite) ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// id makes a name that no other test has.
func (s *suite) id(what string) string { return fmt.Sprintf("%s-%d", what, s.n.Add(1)) }

func (s *suite) reopen(t testing.TB) {
	t.Helper()
	s.Engine = s.Reopen(t)
}

// volume makes a volume.
func (s *suite) volume(t testing.TB, owner engine.Owner) string {
	t.Helper()
	id := s.id("v")
	s.ok(t, s.Engine.Volumes().Ensure(t.Context(), id, owner))
	return id
}

// sh is a run of a script with a log and a volume on /vol.
func (s *suite) sh(t testing.TB, script string) (id string, spec engine.RunSpec) {
	t.Helper()
	id = s.id("run")
	owner := engine.Owner("execution/" + id)
	return id, engine.RunSpec{
		Owner: owner, Workspace: "w", Image: s.base, Command: []string{"/bin/sh", "-c", script}, Network: "none",
		Mounts: []engine.Mount{{Volume: s.volume(t, owner), Target: "/vol"}},
		Log:    filepath.Join(s.dir, id), Grace: 300 * time.Millisecond,
	}
}

// file reads a file of a volume; "" if it is not there.
func (s *suite) file(t testing.TB, volume, name string) string {
	t.Helper()
	r, err := s.Engine.Volumes().Get(t.Context(), volume, name)
	if err != nil {
		return ""
	}
	defer r.Close()
	_, body := one(t, r)
	return string(body)
}

// Lines reads a log: the text of its whole lines of these streams.
func Lines(t testing.TB, dir string, streams string) (out []string) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*.log"))
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(names)
	part := map[byte]string{}
	for _, n := range names {
		b, err := os.ReadFile(n)
		if err != nil {
			t.Fatal(err)
		}
		// What is behind the last line end is being written.
		for l := range bytes.SplitSeq(b[:bytes.LastIndexByte(b, '\n')+1], []byte("\n")) {
			if len(l) == 0 {
				continue
			}
			f, ok := segment.Parse(l)
			if !ok {
				t.Errorf("a frame of %s cannot be read: %q", filepath.Base(n), l)
				continue
			}
			if f.Stream == 'm' && strings.HasPrefix(string(f.Bytes), "segment ") {
				continue
			}
			part[f.Stream] += string(f.Bytes)
			if f.Partial {
				continue
			}
			if strings.IndexByte(streams, f.Stream) >= 0 {
				out = append(out, part[f.Stream])
			}
			part[f.Stream] = ""
		}
	}
	return out
}

// until waits for something to become true.
func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	end := time.Now().Add(20 * time.Second)
	for !ok() {
		if time.Now().After(end) {
			t.Fatalf("it never came to this: %s", what)
		}
		<-time.After(5 * time.Millisecond)
	}
}

// within fails if f takes longer.
func within(t testing.TB, d time.Duration, what string, f func()) {
	t.Helper()
	t0 := time.Now()
	f()
	if took := time.Since(t0); took > d {
		t.Errorf("%s took %s, more than %s", what, took, d)
	}
}

var errStop = errors.New("somebody said stop")

// result is the end of a Run that was started in the background.
type result struct {
	exit engine.Exit
	err  error
}

func (s *suite) start(ctx context.Context, id string, spec engine.RunSpec) <-chan result {
	c := make(chan result, 1)
	e := s.Engine
	go func() {
		x, err := e.Run(ctx, id, spec)
		c <- result{x, err}
	}()
	return c
}
