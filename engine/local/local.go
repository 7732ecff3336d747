package local

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/log"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"slipway/engine"
)

// namespace is the one that all of ours lives in inside containerd's stores.
const namespace = "slipway"

// Options say how to open the engine.
type Options struct {
	// Dir is the engine's own directory, "<data>/engine". It is made.
	Dir string
	// DataDir is named in the command line of every process of ours; "" is Dir.
	DataDir string
	Logger  *slog.Logger

	CAs           [][]byte          // PEM of certificate authorities of private registries
	Mirrors       map[string]string // host of a registry -> URL to ask instead
	PlainLoopback bool              // registries on loopback addresses may be spoken to by plain HTTP
	CacheMax      int64             // bytes of build cache that are kept; 0 is 20 % of the disk

	// Check is the command that ends with 0 if the database files appended to it
	// are whole; nil is this program with the argument "checkdb". See CheckDB.
	Check []string
}

// Engine is the engine of this machine. All of it lives in this process but
// the containers and the monitor of each.
type Engine struct {
	opts Options
	log  *slog.Logger
	dir  string // lasting data
	run  string // sockets, bundles and mounts; on tmpfs
	inst string // eight hex digits made from dir
	boot string // the kernel's id of this boot

	runc     string // path of the program
	runcRoot string // state of the containers that are ours alone
	child    string // path of the program

	// The stores, see store.go. Every call on them needs a context of nsctx.
	client  *client.Client
	meta    *metadata.DB
	content content.Store
	images  images.Store
	snap    snapshots.Snapshotter
	leases  leases.Manager
	syncer  syncer
	damage  *damage // found at the start; nil: the stores were whole
	unclean bool    // the last server did not end by itself

	// What all containers have in common, see spec.go.
	nofile      uint64
	memory      int64 // of the host, in bytes
	noSwapLimit bool  // the host cannot bound swap
	oomServe    int
	seccomp     *specs.LinuxSeccomp

	cgroups  cgroups
	net      *network // also BuildKit's network provider
	monitors *monitors
	views    views
	runs     runs
	services services
	chests   chests
	builder  *builder // see build.go

	closing   atomic.Bool
	ctx       context.Context // ends with it, too
	cancel    context.CancelCauseFunc
	closed    chan struct{}  // closed when the engine is going away
	clean     bool           // all parts came up, so Close may say that the stores are whole
	ending    sync.WaitGroup // what begin let in
	beginning sync.Mutex
	lock      *os.File
	closers   []func()
}

var _ engine.Engine = (*Engine)(nil)

// nsctx adds the namespace that every call on the stores needs.
func nsctx(ctx context.Context) context.Context {
	return namespaces.WithNamespace(ctx, namespace)
}

// Open takes the lock of the directory, finds the containers of an earlier
// server again, sweeps what it left, and starts all parts.
func Open(ctx context.Context, o Options) (_ *Engine, err error) {
	if o.Dir, err = filepath.Abs(o.Dir); err != nil {
		return nil, err
	}
	if o.DataDir == "" {
		o.DataDir = o.Dir
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	once()
	e := &Engine{opts: o, log: o.Logger.With("room", "engine"), dir: o.Dir, inst: instance(o.Dir), boot: bootID(), closed: make(chan struct{})}
	e.ctx, e.cancel = context.WithCancelCause(context.Background())
	e.builder = newBuilder(e)
	e.run = "/run/slipway-" + e.inst // short: a socket path may have 107 bytes
	e.runcRoot = filepath.Join(e.run, "runc")
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("engine: %w", err), e.Close())
		}
	}()
	for _, d := range []string{e.dir, e.path("bin"), e.path("runs"), e.path("layers"), e.path("volumes"), e.path("snapshots")} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, err
		}
	}
	// First of all: a second server would hang on the databases.
	if e.lock, err = lockFile(e.path("lock")); err != nil {
		return nil, err
	}
	if err := memoryDir(e.run); err != nil {
		return nil, err
	}
	for _, d := range []string{"m", "b", "netns"} {
		if err := os.MkdirAll(filepath.Join(e.run, d), 0o711); err != nil {
			return nil, err
		}
	}
	if e.runc, err = unpack(e.path("bin"), "runc"); err != nil {
		return nil, err
	}
	if e.child, err = unpack(e.path("bin"), "child"); err != nil {
		return nil, err
	}
	if err := e.start(ctx); err != nil {
		return nil, err
	}
	e.clean = true
	return e, nil
}

// start brings the parts up, in this order: what lives is found before the
// sweep, which must not touch it, and the stores are swept before they are used.
func (e *Engine) start(ctx context.Context) error {
	last := time.Now()
	lap := func(part string) {
		e.log.Debug("started", "part", part, "ms", time.Since(last).Milliseconds())
		last = time.Now()
	}
	if err := e.openCgroups(); err != nil {
		return fmt.Errorf("cgroups: %w", err)
	}
	if err := e.openSpec(); err != nil {
		return err
	}
	if err := e.openMonitors(); err != nil {
		return fmt.Errorf("monitors: %w", err)
	}
	lap("monitors")
	if err := e.sweep(); err != nil {
		return fmt.Errorf("sweep: %w", err)
	}
	lap("sweep")
	if err := e.openStores(ctx); err != nil {
		return fmt.Errorf("stores: %w", err)
	}
	if err := e.openViews(ctx); err != nil {
		return fmt.Errorf("images in use: %w", err)
	}
	lap("stores")
	if err := e.openNetwork(); err != nil {
		return fmt.Errorf("network: %w", err)
	}
	lap("network")
	e.openEmulation()
	if err := e.openBuilder(ctx); err != nil {
		return fmt.Errorf("builder: %w", err)
	}
	lap("builder")
	e.openServices()
	e.openRuns()
	lap("containers")
	return nil
}

// Close leaves all containers running. Calls that are under way should have
// been detached before.
func (e *Engine) Close() error {
	e.beginning.Lock()
	again := e.closing.Swap(true)
	e.beginning.Unlock()
	if again {
		return nil
	}
	close(e.closed)
	e.cancel(errClosed)
	if e.monitors != nil {
		e.monitors.hangUp()
	}
	e.ending.Wait()
	if e.monitors != nil {
		e.monitors.close()
	}
	e.closeViews()
	var err error
	if e.builder != nil {
		err = errors.Join(err, e.builder.close())
	}
	if e.net != nil {
		e.net.close()
	}
	for i := len(e.closers) - 1; i >= 0; i-- {
		e.closers[i]()
	}
	if e.clean {
		err = errors.Join(err, os.Remove(e.path(dirtyMark)))
	}
	if e.lock != nil {
		err = errors.Join(err, e.lock.Close())
	}
	return err
}

// begin lets in what Close has to wait for; who was let in calls
// e.ending.Done at its end.
func (e *Engine) begin() bool {
	e.beginning.Lock()
	defer e.beginning.Unlock()
	if e.closing.Load() {
		return false
	}
	e.ending.Add(1)
	return true
}

// path is a place in the lasting directory.
func (e *Engine) path(elem ...string) string {
	return filepath.Join(append([]string{e.dir}, elem...)...)
}

// workCgroup is the parent of all that ends: runs and build steps.
func (e *Engine) workCgroup() string { return "/slipway-" + e.inst + "/work" }

// serveCgroup is the parent of services.
func (e *Engine) serveCgroup() string { return "/slipway-" + e.inst + "/serve" }

// oomWork is the oom_score_adj of runs and build steps: under memory pressure
// they end before the server, and the server before services (0). None is ever
// negative: root may lack the capability for that.
const oomWork = 900

func instance(dir string) string {
	sum := sha256.Sum256([]byte(dir))
	return hex.EncodeToString(sum[:4])
}

func bootID() string {
	b, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if len(b) > 36 {
		b = b[:36]
	}
	return string(b)
}

// memoryDir makes a directory in memory: what is in it shall not touch a lasting
// disk, nor outlive the host. Where its parent is on a disk it gets a file
// system of its own.
func memoryDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return err
	}
	if st.Type == unix.TMPFS_MAGIC {
		return nil
	}
	flags := uintptr(unix.MS_NOSUID | unix.MS_NODEV)
	err := unix.Mount("slipway", dir, "tmpfs", flags, "mode=0700,noswap")
	if err != nil { // older kernels do not know noswap
		err = unix.Mount("slipway", dir, "tmpfs", flags, "mode=0700")
	}
	if err != nil {
		return fmt.Errorf("a file system in memory on %s: %w", dir, err)
	}
	return nil
}

func lockFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("%s is in use by another server", filepath.Dir(path))
		}
		return nil, err
	}
	return f, nil
}

// once does what is for the whole process. The loggers of containerd and
// BuildKit are turned off: their errors come back to us as values. Descriptors
// that whoever started us left open must not live on in our children, which
// may outlive us for years.
var once = sync.OnceFunc(func() {
	logrus.SetOutput(io.Discard)
	_ = log.SetLevel("panic")
	_ = unix.CloseRange(3, math.MaxInt32, unix.CLOSE_RANGE_CLOEXEC)
})
