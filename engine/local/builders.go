package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/containerd/v2/core/diff/apply"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/plugins/diff/walking"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/moby/buildkit/cache"
	"github.com/moby/buildkit/cache/contenthash"
	bkmeta "github.com/moby/buildkit/cache/metadata"
	"github.com/moby/buildkit/client"
	bkconfig "github.com/moby/buildkit/cmd/buildkitd/config"
	"github.com/moby/buildkit/session"
	ctdsnap "github.com/moby/buildkit/snapshot/containerd"
	"github.com/moby/buildkit/solver/llbsolver/history"
	"github.com/moby/buildkit/util/leaseutil"
	"github.com/moby/buildkit/worker"
	"github.com/moby/buildkit/worker/base"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"
	"golang.org/x/sync/singleflight"

	"slipway/engine"
)

const (
	// roomIdle is how long the worker of a workspace is kept open without a build.
	roomIdle = 15 * time.Minute
	// roomLabel is on every lease of a workspace's cache.
	roomLabel = "slipway/workspace"
)

// builder has one BuildKit worker for each workspace, on the stores of this
// process: what they know of each other's builds is nothing.
type builder struct {
	e *Engine

	mu      sync.Mutex
	rooms   map[string]*room // by workspace
	running map[string]chan struct{}
	closing bool

	orphaned map[string]bool // workspaces whose cache may have what nobody finds any more; guarded by mu
	freeing  bool

	steps      *steps // runs the steps of all workspaces
	history    *history.Queue
	stop       chan struct{}
	unpacking  singleflight.Group
	transports transports
	busy       sync.WaitGroup // builds
	tidying    sync.WaitGroup
	collecting sync.Mutex // one cleaning of the caches at a time
	cleaned    time.Time
}

// room is the worker of one workspace with its cache: the results of steps are in
// it, which of them is found by whom is on its shelves.
type room struct {
	e         *Engine
	workspace string
	dir       string

	// Guarded by builder.mu.
	users int
	idle  *time.Timer

	ready    chan struct{} // closed when the rest is set
	err      error
	w        *buildWorker
	wc       *worker.Controller
	sessions *session.Manager

	shelving sync.Mutex
	shelves  map[engine.Owner]*shelf

	mu      sync.Mutex
	builds  map[string]*building // by session
	granted map[digest.Digest]bool
	// The build contexts since it was opened.
	opened   string
	contexts map[string]*marks
}

func newBuilder(e *Engine) *builder {
	return &builder{e: e, rooms: map[string]*room{}, running: map[string]chan struct{}{}, orphaned: map[string]bool{}, stop: make(chan struct{})}
}

// openBuilder removes what interrupted builds left. Nothing of BuildKit is
// opened before the first build.
func (e *Engine) openBuilder(context.Context) error {
	return os.RemoveAll(e.path("build", "tmp"))
}

// executorRoot is where the bundles of build steps are: in memory, since the
// environment of a step may have a secret.
func (e *Engine) executorRoot() string { return filepath.Join(e.run, "build") }

// close ends all solvers. The builds know already that the engine is closed.
func (b *builder) close() error {
	b.mu.Lock()
	if b.closing {
		b.mu.Unlock()
		return nil
	}
	b.closing = true
	var list []*room
	for _, r := range b.rooms {
		if r.idle != nil {
			r.idle.Stop()
		}
		list = append(list, r)
	}
	b.rooms = map[string]*room{}
	b.mu.Unlock()
	close(b.stop)
	b.busy.Wait()
	b.tidying.Wait()
	var errs []error
	for _, r := range list {
		<-r.ready
		errs = append(errs, r.close())
	}
	b.transports.mu.Lock()
	defer b.transports.mu.Unlock()
	for _, t := range b.transports.all {
		t.CloseIdleConnections()
	}
	return errors.Join(errs...)
}

// room gives the worker of a workspace, opened if need be. The caller lets it
// go by leave.
func (b *builder) room(workspace string) (*room, error) {
	b.mu.Lock()
	if b.closing {
		b.mu.Unlock()
		return nil, fmt.Errorf("the engine is closed: %w", errdefs.ErrUnavailable)
	}
	r := b.rooms[workspace]
	fresh := r == nil
	if fresh {
		r = &room{e: b.e, workspace: workspace, dir: b.e.path("build", "w", fileName(workspace)), ready: make(chan struct{}), builds: map[string]*building{}, shelves: map[engine.Owner]*shelf{}}
		b.rooms[workspace] = r
	}
	r.users++
	if r.idle != nil {
		r.idle.Stop()
		r.idle = nil
	}
	b.mu.Unlock()
	if fresh {
		r.err = r.open()
		if r.err != nil {
			b.mu.Lock()
			if b.rooms[workspace] == r {
				delete(b.rooms, workspace)
			}
			b.mu.Unlock()
		}
		close(r.ready)
	}
	<-r.ready
	if r.err != nil {
		return nil, fmt.Errorf("open the builder of workspace %s: %w", workspace, r.err)
	}
	return r, nil
}

// leave is for a user of a room that has ended. After a while without one it
// is closed.
func (b *builder) leave(r *room) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if r.users--; r.users > 0 || b.closing {
		return
	}
	r.idle = time.AfterFunc(roomIdle, func() {
		b.mu.Lock()
		if r.users > 0 || b.closing || b.rooms[r.workspace] != r {
			b.mu.Unlock()
			return
		}
		defer b.mu.Unlock() // nobody opens it again before it is closed
		delete(b.rooms, r.workspace)
		if err := r.close(); err != nil {
			b.e.log.Error("an idle builder was not closed well", "workspace", r.workspace, "err", err)
		}
	})
}

// shared makes what the solvers of all workspaces have in common.
func (b *builder) shared() (*steps, *history.Queue, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.steps != nil {
		return b.steps, b.history, nil
	}
	s, err := b.e.openSteps()
	if err != nil {
		return nil, nil, err
	}
	none, db := int64(0), &noDB{}
	b.history, err = history.NewQueue(history.QueueOpt{
		DB: db, CleanConfig: &bkconfig.HistoryConfig{MaxEntries: &none}, GracefulStop: b.stop,
		LeaseManager: leaseutil.WithNamespace(b.e.leases, namespace), ContentStore: ctdsnap.NewContentStore(b.e.content, namespace),
	})
	if err != nil {
		return nil, nil, err
	}
	db.open.Store(true)
	b.steps = s
	return b.steps, b.history, nil
}

// noDB stands for the database of BuildKit's build history, which we do not
// keep. Nothing is found in it, but that it cannot be opened is said to nobody.
type noDB struct{ open atomic.Bool }

func (d *noDB) View(func(*bolt.Tx) error) error {
	if d.open.Load() {
		return os.ErrNotExist
	}
	return nil
}

func (d *noDB) Update(func(*bolt.Tx) error) error { return os.ErrNotExist }
func (d *noDB) Close() error                      { return nil }

// results is the database of what is in a room. It refers to the engine's stores,
// which do not refer to it: a damaged one costs its workspace the cache.
func (r *room) results() string { return filepath.Join(r.dir, "metadata_v2.db") }

// open puts a worker together.
func (r *room) open() (err error) {
	e, ctx := r.e, nsctx(context.Background())
	if err := os.MkdirAll(r.dir, 0o700); err != nil {
		return err
	}
	whole, err := r.whole(r.results())
	if err == nil && !whole {
		err = r.forget(ctx)
	}
	if err != nil {
		return err
	}
	steps, _, err := e.builder.shared()
	if err != nil {
		return err
	}
	md, err := bkmeta.NewStore(r.results())
	if err != nil {
		return err
	}
	if db, ok := md.DB().(*bolt.DB); ok { // the store takes no options, but its handle does
		db.NoSync, db.NoGrowSync = true, true
	}
	cs := ctdsnap.NewContentStore(e.content, namespace)
	w, err := base.NewWorker(ctx, base.WorkerOpt{
		ID: "engine-" + e.inst, Root: r.dir, Platforms: []ocispec.Platform{platforms.Normalize(platforms.DefaultSpec())},
		Labels:      map[string]string{"org.mobyproject.buildkit.worker.executor": "oci"},
		Executor:    steps,
		Snapshotter: ctdsnap.NewSnapshotter(snapshotter, e.snap, namespace, nil),
		// Each keeps to the leases of its own: the first thing a worker does is to
		// delete all temporary ones.
		LeaseManager: leaseutil.WithNamespace(roomLeases{e.leases, r.workspace}, namespace),
		ContentStore: cs, Applier: apply.NewFileSystemApplier(cs), Differ: walking.NewWalkingDiff(cs),
		RegistryHosts:  noRegistries,
		GarbageCollect: e.meta.GarbageCollect, MetadataStore: md, MountPoolRoot: filepath.Join(r.dir, "cachemounts"),
	})
	if err != nil {
		return errors.Join(err, md.Close())
	}
	r.w = &buildWorker{Worker: w, r: r}
	if err := r.w.sources(); err != nil {
		return errors.Join(err, w.Close())
	}
	r.wc = &worker.Controller{}
	if err := r.wc.Add(r.w); err != nil {
		return errors.Join(err, w.Close())
	}
	if r.sessions, err = session.NewManager(); err != nil {
		return errors.Join(err, w.Close())
	}
	r.opened = newID()
	// Nobody compares with the contexts of before any more.
	if _, err = r.prune(ctx, client.PruneInfo{All: true, Filter: []string{"type==source.local"}}); err != nil {
		return errors.Join(err, r.close())
	}
	return nil
}

func (r *room) close() error {
	if r.sessions == nil {
		return nil
	}
	// What BuildKit remembers of references in the process would use the
	// database that is closed now.
	if all, err := r.w.MetadataStore.All(); err == nil {
		for _, i := range all {
			contenthash.ClearCacheContext(refID{id: i.ID()})
		}
	}
	r.shelving.Lock()
	defer r.shelving.Unlock()
	var errs []error
	for _, s := range r.shelves {
		errs = append(errs, s.close())
	}
	return errors.Join(append(errs, r.wc.Close())...)
}

// refID stands for a reference of which only the id counts.
type refID struct {
	cache.RefMetadata
	id string
}

// ID implements cache.RefMetadata.
func (r refID) ID() string { return r.id }

// whole looks at a database if the last server did not end by itself, in a
// process of its own, since a damaged page makes bbolt panic.
func (r *room) whole(file string) (bool, error) {
	if _, err := os.Stat(file); !r.e.unclean || err != nil {
		return true, nil
	}
	command, err := r.e.checkCommand()
	if err != nil {
		return false, err
	}
	cmd := exec.Command(command[0], append(slices.Clone(command[1:]), file)...)
	cmd.Env = []string{"GOTRACEBACK=none"}
	out, err := cmd.CombinedOutput()
	if err == nil {
		return true, nil
	}
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return false, fmt.Errorf("check %s: %w", filepath.Base(file), err)
	}
	r.e.log.Warn("a build cache is damaged and was begun anew", "workspace", r.workspace, "file", filepath.Base(file), "why", firstLine(out))
	return false, nil
}

func firstLine(b []byte) string {
	for i, c := range b {
		if c == '\n' {
			return string(b[:i])
		}
	}
	return string(b)
}

// forget drops the cache of a workspace that is not open.
func (r *room) forget(ctx context.Context) error {
	if err := os.RemoveAll(r.dir); err != nil {
		return err
	}
	l := roomLeases{r.e.leases, r.workspace}
	list, err := l.List(ctx)
	if err != nil {
		return err
	}
	for _, one := range list {
		if err := l.Delete(ctx, one); err != nil && !errdefs.IsNotFound(err) {
			return err
		}
	}
	return os.MkdirAll(r.dir, 0o700)
}

// roomLeases shows a solver its own leases only.
type roomLeases struct {
	leases.Manager
	workspace string
}

// Create implements leases.Manager.
func (l roomLeases) Create(ctx context.Context, opts ...leases.Opt) (leases.Lease, error) {
	return l.Manager.Create(ctx, append(opts, leases.WithLabel(roomLabel, l.workspace))...)
}

// List implements leases.Manager.
func (l roomLeases) List(ctx context.Context, filters ...string) ([]leases.Lease, error) {
	all, err := l.Manager.List(ctx, filters...)
	return slices.DeleteFunc(all, func(one leases.Lease) bool { return one.Labels[roomLabel] != l.workspace }), err
}

// noRegistries keeps BuildKit from asking any: images are brought by us.
func noRegistries(host string) ([]docker.RegistryHost, error) {
	return nil, fmt.Errorf("the builder asks no registry (%s): %w", host, errdefs.ErrPermissionDenied)
}

// databases are those of the rooms that are open. They are made durable with
// the others, so that less of a cache is lost when the machine stops.
func (b *builder) databases() (files []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, r := range b.rooms {
		files = append(files, r.databases()...)
	}
	return files
}
