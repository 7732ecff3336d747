package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	introapi "github.com/containerd/containerd/api/services/introspection/v1"
	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/diff/apply"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/containerd/v2/plugins/diff/walking"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay"
	"github.com/containerd/errdefs"
	bolt "go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
)

const (
	// dirtyMark is a file that is there while the stores are open.
	dirtyMark = "dirty"
	// snapshotter is the name of the only one.
	snapshotter = "overlayfs"
	// settle is how long after a change the stores are made durable and what
	// nothing refers to any more is collected.
	settle = 500 * time.Millisecond
	// openTimeout bounds the wait for a database that another has open.
	openTimeout = 10 * time.Second
)

// openStores makes the stores. They are put together by hand: none of them
// needs containerd's plugin graph.
func (e *Engine) openStores(ctx context.Context) error {
	if err := e.checkStores(); err != nil {
		return err
	}
	root := e.path("core")
	cs, err := local.NewStore(filepath.Join(root, "content"))
	if err != nil {
		return err
	}
	sn, err := newSnapshotter(filepath.Join(root, snapshotter))
	if err != nil {
		return err
	}
	e.closers = append(e.closers, func() { _ = sn.Close() })
	o := *bolt.DefaultOptions
	o.NoFreelistSync, o.NoSync, o.NoGrowSync, o.Timeout = true, true, true, openTimeout
	h, err := bolt.Open(filepath.Join(root, "meta.db"), 0o600, &o)
	if err != nil {
		return err
	}
	e.closers = append(e.closers, func() { _ = h.Close() })
	e.meta = metadata.NewDB(h, cs, map[string]snapshots.Snapshotter{snapshotter: sn})
	if err := e.meta.Init(ctx); err != nil {
		return err
	}
	e.content, e.snap = e.meta.ContentStore(), e.meta.Snapshotter(snapshotter)
	e.images, e.leases = metadata.NewImageStore(e.meta), metadata.NewLeaseManager(e.meta)
	d := struct {
		diff.Comparer
		diff.Applier
	}{walking.NewWalkingDiff(e.content), apply.NewFileSystemApplier(e.content)}
	// The client asks services that are not there if it has to find out the
	// default runtime or the snapshotter's abilities.
	e.client, err = client.New("", client.WithDefaultNamespace(namespace), client.WithDefaultRuntime("none"), client.WithServices(
		client.WithContentStore(e.content),
		client.WithImageStore(e.images),
		client.WithContainerStore(metadata.NewContainerStore(e.meta)),
		client.WithSnapshotters(map[string]snapshots.Snapshotter{snapshotter: e.snap}),
		client.WithDiffService(d),
		client.WithLeasesService(e.leases),
		client.WithIntrospectionService(introspection{}),
	))
	if err != nil {
		return err
	}
	if err := e.recoverContent(ctx); err != nil {
		return err
	}
	e.startCollector()
	return nil
}

func newSnapshotter(root string) (snapshots.Snapshotter, error) {
	if err := os.MkdirAll(root, 0o700); err != nil {
		return nil, err
	}
	ms, err := storage.NewMetaStore(filepath.Join(root, "metadata.db"), func(o *bolt.Options) error {
		o.NoSync, o.NoGrowSync, o.NoFreelistSync, o.Timeout = true, true, true, openTimeout
		o.OpenFile = nil
		return nil
	})
	if err != nil {
		return nil, err
	}
	return overlay.NewSnapshotter(root, overlay.AsynchronousRemove, overlay.WithMetaStore(ms))
}

// startCollector makes the stores durable, and collects, a moment after they
// changed. An engine with nothing to do does nothing.
func (e *Engine) startCollector() {
	kick, stop, ended := make(chan struct{}, 1), make(chan struct{}), make(chan struct{})
	var mu sync.Mutex
	garbage := false
	e.syncer.touch = func(dirty bool) {
		mu.Lock()
		garbage = garbage || dirty
		mu.Unlock()
		select {
		case kick <- struct{}{}:
		default:
		}
	}
	e.meta.RegisterMutationCallback(e.syncer.touch)
	go func() {
		defer close(ended)
		for {
			select {
			case <-kick:
			case <-stop:
				return
			}
			select {
			case <-time.After(settle):
			case <-stop:
				return
			}
			mu.Lock()
			collect := garbage
			garbage = false
			mu.Unlock()
			if collect {
				if _, err := e.meta.GarbageCollect(context.Background()); err != nil {
					e.log.Error("the collector failed", "err", err)
				}
			}
			e.sync()
		}
	}()
	e.closers = append(e.closers, func() {
		close(stop)
		<-ended
		e.sync()
	})
}

// syncer remembers which state of each database file is durable.
type syncer struct {
	touch func(garbage bool) // the stores were changed: sync, and maybe collect, soon
	mu    sync.Mutex
	done  map[string]time.Time
}

// sync makes all metadata durable. It is called a moment after every change of
// the metadata database; who promises durability, or changed another database
// only, calls it. Some of the databases do not give their handle away, so it
// works on the files: what one handle wrote is flushed by a sync through any
// other.
func (e *Engine) sync() {
	s := &e.syncer
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.done == nil {
		s.done = map[string]time.Time{}
	}
	for _, f := range append(e.databases(), e.builder.databases()...) {
		st, err := os.Stat(f)
		if err != nil || s.done[f].Equal(st.ModTime()) {
			continue
		}
		if h, err := os.Open(f); err == nil {
			if err := unix.Fdatasync(int(h.Fd())); err == nil {
				s.done[f] = st.ModTime()
			} else {
				e.log.Error("sync failed", "file", filepath.Base(f), "err", err)
			}
			_ = h.Close()
		}
	}
}

// databases are the files that refer to each other: one is damaged, all go.
func (e *Engine) databases() []string {
	return []string{
		e.path("core", "meta.db"), e.path("core", snapshotter, "metadata.db"),
	}
}

// checkStores looks at the databases after an unclean end. A damaged page makes
// bbolt panic, later and in any goroutine, so the look is taken by a process of
// its own. When one is damaged all are put aside.
func (e *Engine) checkStores() error {
	mark := e.path(dirtyMark)
	if _, err := os.Stat(mark); errors.Is(err, os.ErrNotExist) {
		if err := os.WriteFile(mark, nil, 0o600); err != nil {
			return err
		}
		if e.idle() { // nothing is mounted from there
			old, _ := filepath.Glob(e.path("broken-*"))
			for _, d := range old {
				_ = os.RemoveAll(d)
			}
		}
		return nil
	}
	e.unclean = true
	check, err := e.checkCommand()
	if err != nil {
		return err
	}
	cmd := exec.Command(check[0], append(check[1:len(check):len(check)], e.databases()...)...)
	cmd.Env = []string{"GOTRACEBACK=none"}
	out, err := cmd.CombinedOutput()
	if err == nil {
		return nil
	}
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return fmt.Errorf("check the databases: %w", err) // not run is not damaged
	}
	why, _, _ := strings.Cut(strings.ReplaceAll(string(out), e.dir+"/", ""), "\n")
	e.damage = &damage{}
	aside := e.path("broken-" + time.Now().UTC().Format("20060102T150405.000"))
	e.log.Error("the engine's stores are damaged and were put aside", "why", why, "aside", aside)
	if err := os.MkdirAll(aside, 0o700); err != nil {
		return err
	}
	for _, d := range []string{"build", "core"} { // core last: it is what is looked for
		if err := os.Rename(e.path(d), filepath.Join(aside, d)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

// checkCommand is the program that looks at databases.
func (e *Engine) checkCommand() ([]string, error) {
	if e.opts.Check != nil {
		return e.opts.Check, nil
	}
	self, err := os.Executable()
	return []string{self, "checkdb"}, err
}

// CheckDB is the role "checkdb FILE..." of the program: 0 if each database that
// is there is whole. It ends with a panic or another code if one is not.
func CheckDB(files []string) int {
	there := map[string]bool{}
	for _, f := range files {
		st, err := os.Stat(f)
		if os.IsNotExist(err) {
			continue
		}
		there[filepath.Base(f)] = true
		if err == nil && st.Size() == 0 {
			err = errors.New("empty file")
		}
		if err == nil {
			err = checkDB(f)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, f+":", err)
			return 1
		}
	}
	if there["metadata.db"] && !there["meta.db"] { // the other way is usual: it is made late
		fmt.Fprintln(os.Stderr, "metadata.db is there without meta.db")
		return 1
	}
	return 0
}

func checkDB(file string) error {
	db, err := bolt.Open(file, 0o600, &bolt.Options{ReadOnly: true, Timeout: openTimeout})
	if err != nil {
		return err
	}
	defer db.Close()
	return db.View(func(tx *bolt.Tx) error {
		for err := range tx.Check() {
			return err
		}
		return nil
	})
}

// introspection answers the client's questions about plugins: only the
// snapshotter is known. A pull with unpack asks, through a nil connection if
// there is no such service.
type introspection struct{}

func (introspection) Plugins(context.Context, ...string) (*introapi.PluginsResponse, error) {
	return &introapi.PluginsResponse{Plugins: []*introapi.Plugin{{Type: "io.containerd.snapshotter.v1", ID: snapshotter}}}, nil
}

func (introspection) Server(context.Context) (*introapi.ServerResponse, error) {
	return &introapi.ServerResponse{UUID: "engine"}, nil
}

func (introspection) PluginInfo(context.Context, string, string, any) (*introapi.PluginInfoResponse, error) {
	return nil, errdefs.ErrNotImplemented
}
