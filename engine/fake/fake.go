package fake

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"slipway/engine"
)

// The fake is everything that an engine can be.
var (
	_ engine.Engine      = (*Engine)(nil)
	_ engine.Execer      = (*Engine)(nil)
	_ engine.Stater      = (*Engine)(nil)
	_ engine.Snapshotter = (*Engine)(nil)
	_ engine.Cacher      = (*Engine)(nil)
	_ engine.Directories = (*Engine)(nil)
	_ engine.Networks    = (*Engine)(nil)
)

var errClosed = fmt.Errorf("the engine is closed: %w", errdefs.ErrUnavailable)

// world is what a server's end does not touch.
type world struct {
	t   testing.TB
	dir string

	mu        sync.Mutex
	procs     sync.WaitGroup
	runs      map[string]*proc
	instances map[string]*instance
	started   int // counts instances: their order and their addresses
	volumes   map[string]engine.Owner
	kept      map[engine.Owner]map[string]kept // snapshots, by id
	nets      []string
	blobs     map[string]*blob
	uploads   map[string]*upload
	holds     map[string]string
	remotes   map[string]string                           // reference -> digest
	hosts     map[string]*host                            // registries that are not open to all
	caches    map[string]map[engine.Owner]map[string]step // workspace -> owner -> key of a step
	builds    map[string]engine.BuildSpec
	gates     map[string]*gate
	calls     []string
	fail      map[string][]error
	blocked   map[string]chan struct{}
	live      *Engine
}

// gate is the word "block" of one id.
type gate struct {
	reached, open chan struct{}
	isReached     bool
	isOpen        bool
}

// Engine is one life of the fake.
type Engine struct {
	w *world

	once    sync.Once
	closed  chan struct{}
	changed chan engine.Owner
	pending []engine.Owner // guarded by w.mu
	kick    chan struct{}
	pump    sync.WaitGroup
}

// New makes a world in dir, or in a directory of the test's if dir is "", and
// its first engine. The world ends with the test.
func New(t testing.TB, dir string) *Engine {
	t.Helper()
	if dir == "" {
		dir = t.TempDir()
	}
	if err := os.MkdirAll(filepath.Join(dir, "volumes"), 0o700); err != nil {
		t.Fatal(err)
	}
	w := &world{
		t: t, dir: dir,
		runs: map[string]*proc{}, instances: map[string]*instance{}, volumes: map[string]engine.Owner{}, kept: map[engine.Owner]map[string]kept{},
		blobs: map[string]*blob{}, uploads: map[string]*upload{}, holds: map[string]string{},
		remotes: map[string]string{}, hosts: map[string]*host{}, caches: map[string]map[engine.Owner]map[string]step{},
		builds: map[string]engine.BuildSpec{}, gates: map[string]*gate{}, fail: map[string][]error{},
		blocked: map[string]chan struct{}{},
	}
	t.Cleanup(w.end)
	return w.open()
}

func (w *world) open() *Engine {
	e := &Engine{w: w, closed: make(chan struct{}), changed: make(chan engine.Owner), kick: make(chan struct{}, 1)}
	w.mu.Lock()
	w.live = e
	w.mu.Unlock()
	e.pump.Add(1)
	go e.tell()
	return e
}

// end ends all containers with the world.
func (w *world) end() {
	w.mu.Lock()
	e := w.live
	all := w.all()
	w.mu.Unlock()
	_ = e.Close()
	for _, p := range all {
		p.end(&ending{code: 137, signal: 9, reason: engine.ReasonHost})
	}
	w.procs.Wait()
}

// all lists the containers. w.mu is held.
func (w *world) all() (all []*proc) {
	for _, p := range w.runs {
		all = append(all, p)
	}
	for _, i := range w.instances {
		all = append(all, i.proc)
	}
	return all
}

// Reopen ends this engine as the end of a server's process would, and gives the
// next one.
func (e *Engine) Reopen() *Engine {
	_ = e.Close()
	return e.w.open()
}

// Close leaves all containers running. Calls that wait fail.
func (e *Engine) Close() error {
	e.once.Do(func() { close(e.closed) })
	e.pump.Wait()
	return nil
}

// call notes a call and does to it what the test has asked for.
func (e *Engine) call(ctx context.Context, name string, what ...string) error {
	e.w.mu.Lock()
	e.w.calls = append(e.w.calls, strings.Join(append([]string{name}, what...), " "))
	wait := e.w.blocked[name]
	var fail error
	if f := e.w.fail[name]; len(f) > 0 {
		fail, e.w.fail[name] = f[0], f[1:]
	}
	e.w.mu.Unlock()
	if wait != nil {
		select {
		case <-wait:
		case <-e.closed:
		case <-ctx.Done():
		}
	}
	select {
	case <-e.closed:
		return errClosed
	default:
	}
	return fail
}

// notify tells that something of owner is different. w.mu is held.
func (w *world) notify(owner engine.Owner) {
	e := w.live
	if !slices.Contains(e.pending, owner) {
		e.pending = append(e.pending, owner)
	}
	select {
	case e.kick <- struct{}{}:
	default:
	}
}

// tell brings what is pending to the reader of Changed.
func (e *Engine) tell() {
	defer e.pump.Done()
	for {
		select {
		case <-e.kick:
		case <-e.closed:
			return
		}
		for {
			e.w.mu.Lock()
			if len(e.pending) == 0 {
				e.w.mu.Unlock()
				break
			}
			owner := e.pending[0]
			e.pending = e.pending[1:]
			e.w.mu.Unlock()
			select {
			case e.changed <- owner:
			case <-e.closed:
				return
			}
		}
	}
}

// Changed implements engine.Workloads.
func (e *Engine) Changed() <-chan engine.Owner { return e.changed }

// Owners implements engine.Engine.
func (e *Engine) Owners(ctx context.Context) ([]engine.Owner, error) {
	if err := e.call(ctx, "Owners"); err != nil {
		return nil, err
	}
	e.w.mu.Lock()
	defer e.w.mu.Unlock()
	set := map[engine.Owner]bool{}
	for _, p := range e.w.all() {
		set[p.owner] = true
	}
	for _, o := range e.w.volumes {
		set[o] = true
	}
	for _, of := range e.w.caches {
		for o := range of {
			set[o] = true
		}
	}
	delete(set, "")
	for o, k := range e.w.kept {
		if len(k) > 0 {
			set[o] = true
		}
	}
	var out []engine.Owner
	for o := range set {
		out = append(out, o)
	}
	slices.Sort(out)
	return out, nil
}

// Remove implements engine.Engine.
func (e *Engine) Remove(ctx context.Context, owner engine.Owner) error {
	if err := e.call(ctx, "Remove", string(owner)); err != nil {
		return err
	}
	e.w.mu.Lock()
	var mine []*proc
	for _, p := range e.w.all() {
		if p.owner == owner {
			mine = append(mine, p)
		}
	}
	e.w.mu.Unlock()
	for _, p := range mine {
		p.kill(0, engine.ReasonStop)
	}
	for _, p := range mine {
		<-p.done
	}
	e.w.mu.Lock()
	defer e.w.mu.Unlock()
	for _, of := range e.w.caches {
		delete(of, owner)
	}
	for id, p := range e.w.runs {
		if p.owner == owner {
			delete(e.w.runs, id)
		}
	}
	for id, i := range e.w.instances {
		if i.owner == owner {
			delete(e.w.instances, id)
			e.w.notify(owner)
		}
	}
	delete(e.w.kept, owner)
	var errs []error
	for id, o := range e.w.volumes {
		if o == owner {
			errs = append(errs, e.w.removeVolume(id))
		}
	}
	return errors.Join(errs...)
}

// cause says why ctx ended: ErrDetach and everything else are two things.
func detached(ctx context.Context) bool { return errors.Is(context.Cause(ctx), engine.ErrDetach) }

// epoch is when all fake images were created.
var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
