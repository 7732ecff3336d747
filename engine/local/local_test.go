package local

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"slipway/engine"
	"slipway/engine/enginetest"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "checkdb" {
		os.Exit(CheckDB(os.Args[2:]))
	}
	if len(os.Args) > 4 && os.Args[1] == "be-a-server" {
		beServer(os.Args[2], os.Args[3], os.Args[4])
	}
	if len(os.Args) > 5 && os.Args[1] == "be-a-builder" {
		beBuilder(os.Args[2], os.Args[3], os.Args[4], os.Args[5])
	}
	goleak.VerifyTestMain(m,
		// BuildKit's: one sleeps for ever, the other 10 s after each build.
		goleak.IgnoreAnyFunction("github.com/moby/buildkit/solver/llbsolver/history.NewQueue.func2"),
		goleak.IgnoreAnyFunction("github.com/moby/buildkit/solver.(*Job).Discard.func1"))
}

// bench is one engine under test, on a directory of its own.
type bench struct {
	*Engine
	t    testing.TB
	dir  string // of the engine
	logs string
	opts []func(*Options)
	base string // digest of the image with a shell
	n    atomic.Int64
}

// open gives an engine with an image. At the end everything of it is taken off
// the host.
func open(t testing.TB, opts ...func(*Options)) *bench {
	t.Helper()
	b := &bench{t: t, dir: filepath.Join(t.TempDir(), "engine"), logs: t.TempDir()}
	b.reopen(opts...)
	t.Cleanup(func() {
		if b.closing.Load() { // the test ended early
			b.reopen()
		}
		if err := b.Wipe(context.Background()); err != nil {
			t.Errorf("wipe: %v", err)
		}
	})
	b.load()
	return b
}

// reopen opens the engine on the same directory.
func (b *bench) reopen(opts ...func(*Options)) {
	b.t.Helper()
	o := Options{Dir: b.dir, Logger: slog.New(slog.NewTextHandler(testWriter{b.t}, &slog.HandlerOptions{Level: slog.LevelWarn}))}
	if opts != nil {
		b.opts = opts
	}
	for _, f := range b.opts {
		f(&o)
	}
	b.dir = o.Dir
	e, err := Open(context.Background(), o)
	if err != nil {
		b.t.Fatal(err)
	}
	b.Engine = e
}

// restart is the end of the server and the start of the next one.
func (b *bench) restart() {
	b.t.Helper()
	if err := b.Close(); err != nil {
		b.t.Fatal(err)
	}
	b.reopen()
}

func (b *bench) load() {
	b.t.Helper()
	l, err := b.Images().Load(context.Background(), bytes.NewReader(enginetest.Archive(b.t, enginetest.Shell(b.t))))
	if err != nil {
		b.t.Fatal(err)
	}
	b.base = l[0].Digest
	if err := b.Images().Hold(context.Background(), "test", b.base); err != nil {
		b.t.Fatal(err)
	}
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Helper()
	w.t.Logf("%s", bytes.TrimSpace(p))
	return len(p), nil
}

func (b *bench) id(what string) string { return fmt.Sprintf("%s-%d", what, b.n.Add(1)) }

// sh is a run of a script.
func (b *bench) sh(script string, more ...func(*engine.RunSpec)) (string, engine.RunSpec) {
	id := b.id("run")
	s := engine.RunSpec{
		Owner: engine.Owner("execution/" + id), Workspace: "w", Image: b.base, Command: []string{"/bin/sh", "-c", script},
		Log: filepath.Join(b.logs, id), Grace: 300 * time.Millisecond,
	}
	for _, f := range more {
		f(&s)
	}
	return id, s
}

// do runs a script to its end and gives its output too.
func (b *bench) do(script string, more ...func(*engine.RunSpec)) (engine.Exit, string) {
	b.t.Helper()
	id, s := b.sh(script, more...)
	x, err := b.Run(context.Background(), id, s)
	if err != nil {
		b.t.Fatal(err)
	}
	return x, strings.Join(enginetest.Lines(b.t, s.Log, "oe"), "\n")
}

func (b *bench) volume(owner engine.Owner) string {
	b.t.Helper()
	id := b.id("v")
	if err := b.Volumes().Ensure(context.Background(), id, owner); err != nil {
		b.t.Fatal(err)
	}
	return id
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

func TestContract(t *testing.T) {
	enginetest.Run(t, func(t *testing.T) *enginetest.Harness {
		b := open(t, func(o *Options) { o.PlainLoopback = true })
		return &enginetest.Harness{Engine: b.Engine, Reopen: func(t testing.TB) engine.Engine {
			b.restart()
			return b.Engine
		}, Collect: func(t testing.TB) { b.collectNow(t) }, Registries: func(t testing.TB) (engine.Login, string, string) {
			o := startRegistry(t, false, "basic")
			return o.login(rightPassword)[0], "127.0.0.1:1", startPage(t)
		}}
	})
}
