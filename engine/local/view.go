package local

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	// viewPrefix begins the names of views and of the leases that hold them.
	viewPrefix = "view-"
	// viewIdle is how long a view is kept for the next container of its image.
	viewIdle = 5 * time.Minute
)

// views are the images that containers run on: for each a read-only snapshot,
// held by a lease, on whose directories every container mounts an overlay of
// its own. So a start writes to no database.
type views struct {
	mu sync.Mutex
	by map[string]*view // by name
}

// view is one image of one platform, unpacked.
type view struct {
	name  string
	ready chan struct{} // closed when the rest is set
	err   error
	lower []string // directories, the uppermost first
	image ocispec.Image

	making  bool // ready will be closed
	adopted int  // users that an earlier server started
	users   int
	idle    *time.Timer
}

func viewName(dgst, platform string) string {
	sum := sha256.Sum256([]byte(dgst + " " + platform))
	return viewPrefix + hex.EncodeToString(sum[:16])
}

// view gives the view of an image, made if it is not there. The caller lets it
// go by dropView.
func (e *Engine) view(ctx context.Context, dgst, platform string) (*view, error) {
	name := viewName(dgst, platform)
	v, fresh := e.useView(name)
	if fresh {
		if !e.begin() {
			return nil, errClosed
		}
		// Not with the caller's context: others wait for it too.
		go func() {
			defer e.ending.Done()
			e.makeView(v, dgst, platform)
		}()
	}
	select {
	case <-v.ready:
	case <-ctx.Done():
		e.dropView(v)
		return nil, context.Cause(ctx)
	case <-e.closed:
		return nil, errClosed
	}
	if v.err != nil {
		return nil, fmt.Errorf("image %s: %w", dgst, v.err)
	}
	return v, nil
}

// makeView makes a view that its first user asked for.
func (e *Engine) makeView(v *view, dgst, platform string) {
	defer close(v.ready)
	if v.err = v.make(nsctx(e.ctx), e, dgst, platform); v.err == nil {
		return
	}
	e.views.mu.Lock()
	defer e.views.mu.Unlock()
	delete(e.views.by, v.name) // the next one tries again
	if v.adopted > 0 {
		e.views.by[v.name] = &view{name: v.name, ready: make(chan struct{}), adopted: v.adopted, users: v.adopted}
	}
}

// useView gives the view of a name with one more user, and says whether the
// caller has to make it.
func (e *Engine) useView(name string) (v *view, fresh bool) {
	e.views.mu.Lock()
	defer e.views.mu.Unlock()
	v = e.views.by[name]
	if v == nil {
		v = &view{name: name, ready: make(chan struct{})}
		e.views.by[name] = v
	}
	fresh = !v.making
	v.making = true
	v.users++
	if v.idle != nil {
		v.idle.Stop()
		v.idle = nil
	}
	return v, fresh
}

// dropView is for a user that has ended. After a while without one the image
// may be collected.
func (e *Engine) dropView(v *view) {
	if v == nil {
		return
	}
	e.views.mu.Lock()
	defer e.views.mu.Unlock()
	if v.users--; v.users > 0 || e.closing.Load() {
		return
	}
	v.idle = time.AfterFunc(viewIdle, func() {
		e.views.mu.Lock()
		defer e.views.mu.Unlock()
		if v.users > 0 || e.views.by[v.name] != v || e.closing.Load() {
			return
		}
		delete(e.views.by, v.name)
		e.releaseView(v.name)
	})
}

// dropViewOf is dropView for a container that an earlier server started.
func (e *Engine) dropViewOf(name string) {
	e.views.mu.Lock()
	v := e.views.by[name]
	e.views.mu.Unlock()
	e.dropView(v)
}

func (e *Engine) releaseView(name string) {
	ctx := nsctx(context.Background())
	if err := e.leases.Delete(ctx, leases.Lease{ID: name}); err != nil && !errdefs.IsNotFound(err) {
		e.log.Error("an unused image could not be let go", "view", name, "err", err)
	}
}

// openViews takes the views that running containers use, and lets the others go.
func (e *Engine) openViews(ctx context.Context) error {
	e.views.by = map[string]*view{}
	for _, mon := range e.monitors.all("") {
		if mon.View == "" || e.settled(mon.record) {
			continue
		}
		v := e.views.by[mon.View]
		if v == nil {
			v = &view{name: mon.View, ready: make(chan struct{})}
			e.views.by[mon.View] = v
		}
		v.adopted++
		v.users++
	}
	list, err := e.leases.List(nsctx(ctx))
	if err != nil {
		return err
	}
	for _, l := range list {
		if strings.HasPrefix(l.ID, viewPrefix) && e.views.by[l.ID] == nil {
			e.releaseView(l.ID)
		}
	}
	return nil
}

// closeViews stops the timers.
func (e *Engine) closeViews() {
	e.views.mu.Lock()
	defer e.views.mu.Unlock()
	for _, v := range e.views.by {
		if v.idle != nil {
			v.idle.Stop()
		}
	}
}

// make finds the image in the store and makes the snapshot.
func (v *view) make(ctx context.Context, e *Engine, dgst, platform string) error {
	key, image, err := e.rootfs(ctx, dgst, platform)
	if err != nil {
		return err
	}
	_, err = e.leases.Create(ctx, leases.WithID(v.name))
	if err != nil && !errdefs.IsAlreadyExists(err) {
		return err
	}
	ctx = leases.WithLease(ctx, v.name)
	ms, err := e.snap.View(ctx, v.name, key)
	if errdefs.IsAlreadyExists(err) {
		ms, err = e.snap.Mounts(ctx, v.name)
	}
	if err != nil {
		return err
	}
	v.image, v.lower = image, lowerDirs(ms)
	return nil
}

// lowerDirs turns the mounts of a read-only snapshot into the lower directories
// of an overlay.
func lowerDirs(ms []mount.Mount) []string {
	for _, m := range ms {
		if m.Type == "bind" {
			return []string{m.Source}
		}
		for _, o := range m.Options {
			if v, ok := strings.CutPrefix(o, "lowerdir="); ok {
				return strings.Split(v, ":")
			}
		}
	}
	return nil
}

// overlay mounts the file system of a container: what it writes goes to layer.
func (v *view) overlay(layer, to string) error {
	// volatile: what is written goes with the container, so it is never synced.
	// Not nodev: a container that fills a root directory of its own (debootstrap)
	// needs device nodes there; what it may open is for its cgroup to say.
	return mountOverlay(to, "volatile", "index=off", "lowerdir="+strings.Join(v.lower, ":"), "upperdir="+layer+"/u", "workdir="+layer+"/w")
}

// mountOverlay mounts it by containerd's way, which shortens lists of
// directories that are too long for a page.
func mountOverlay(to string, options ...string) error {
	m := mount.Mount{Type: "overlay", Source: "overlay", Options: options}
	if err := m.Mount(to); err != nil {
		return fmt.Errorf("mount the file system: %w", err)
	}
	return nil
}
