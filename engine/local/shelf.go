package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/moby/buildkit/cache/remotecache"
	"github.com/moby/buildkit/frontend"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/solver"
	"github.com/moby/buildkit/solver/bboltcachestorage"
	"github.com/moby/buildkit/solver/llbsolver"
	"github.com/moby/buildkit/worker"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"slipway/engine"
)

const (
	// shelvesIdle is how many shelves of a room stay open without a build.
	shelvesIdle = 8
	// commonShelf is the name of the shelf without an owner.
	commonShelf = "common"
	shelfSuffix = ".db"
)

// shelf has the keys by which the steps in a room are found: those of builds of
// one owner, or those that several owners have in common. A build looks for its
// steps on the shelf of its owner and on that of its scope, and no other.
type shelf struct {
	r      *room
	owner  engine.Owner
	file   string
	store  *bboltcachestorage.Store
	solved solver.CacheManager // on store
	taking sync.Mutex          // one gives at a time

	// Guarded by room.shelving.
	solvers map[engine.Owner]*llbsolver.Solver // by whose cache mounts their steps have
	users   int
	used    time.Time
}

// shelfName is the name of the file of an owner's shelf, without its suffix, and
// of its cache mounts: of "pipeline/7" it is "pipeline-7".
func shelfName(owner engine.Owner) string {
	if owner == "" {
		return commonShelf
	}
	return fileName(strings.Replace(string(owner), "/", "-", 1))
}

// shelfOwner is the owner of a file; "" if it cannot be told.
func shelfOwner(file string) engine.Owner {
	kind, id, ok := strings.Cut(strings.TrimSuffix(file, shelfSuffix), "-")
	if !ok || !strings.HasSuffix(file, shelfSuffix) {
		return ""
	}
	return engine.Owner(kind + "/" + id)
}

func (r *room) shelfFile(owner engine.Owner) string {
	return filepath.Join(r.dir, "keys", shelfName(owner)+shelfSuffix)
}

// databases are those of a room that may have changed.
func (r *room) databases() []string {
	r.shelving.Lock()
	defer r.shelving.Unlock()
	l := []string{r.results()}
	for _, s := range r.shelves {
		l = append(l, s.file)
	}
	return l
}

// shelf gives the shelf of an owner, made if need be. The caller gives it back
// by done.
func (r *room) shelf(owner engine.Owner) (s *shelf, done func(), err error) {
	r.shelving.Lock()
	defer r.shelving.Unlock()
	if s = r.shelves[owner]; s == nil {
		if s, err = r.openShelf(owner); err != nil {
			return nil, nil, fmt.Errorf("the cache of %q: %w", owner, err)
		}
		r.shelves[owner] = s
	}
	s.users++
	return s, func() {
		r.shelving.Lock()
		defer r.shelving.Unlock()
		s.users--
		s.used = time.Now()
		r.closeIdle(shelvesIdle)
	}, nil
}

func (r *room) openShelf(owner engine.Owner) (*shelf, error) {
	s := &shelf{r: r, owner: owner, file: r.shelfFile(owner), solvers: map[engine.Owner]*llbsolver.Solver{}}
	if err := os.MkdirAll(filepath.Dir(s.file), 0o700); err != nil {
		return nil, err
	}
	whole, err := r.whole(s.file)
	if err == nil && !whole {
		err = os.Remove(s.file)
	}
	if err != nil {
		return nil, err
	}
	if s.store, err = bboltcachestorage.NewStore(s.file); err != nil {
		return nil, err
	}
	s.solved = solver.NewCacheManager(nsctx(context.Background()), "local", s.store, worker.NewCacheResultStorage(r.wc))
	return s, nil
}

// closeIdle closes the shelves that were not used for longest, but for so many.
// room.shelving is held.
func (r *room) closeIdle(keep int) {
	var idle []*shelf
	for _, s := range r.shelves {
		if s.users == 0 {
			idle = append(idle, s)
		}
	}
	slices.SortFunc(idle, func(a, b *shelf) int { return a.used.Compare(b.used) })
	for _, s := range idle[:max(0, len(idle)-keep)] {
		delete(r.shelves, s.owner)
		if err := s.close(); err != nil {
			r.e.log.Error("the keys of a build cache were not closed well", "workspace", r.workspace, "owner", s.owner, "err", err)
		}
	}
}

func (s *shelf) close() error {
	var errs []error
	for _, one := range s.solvers {
		errs = append(errs, one.Close())
	}
	return errors.Join(append(errs, s.store.Close())...)
}

// solver gives what does the builds of an owner whose steps have these cache
// mounts. Two builds of one solver that want the same step at the same time do
// it once.
func (s *shelf) solver(mounts engine.Owner) (*llbsolver.Solver, error) {
	r := s.r
	_, hist, err := r.e.builder.shared()
	if err != nil {
		return nil, err
	}
	r.shelving.Lock()
	defer r.shelving.Unlock()
	if one := s.solvers[mounts]; one != nil {
		return one, nil
	}
	wc := &worker.Controller{} // never closed: the worker is the room's
	if err := wc.Add(&ownerWorker{r.w, r.mountsPrefix(mounts)}); err != nil {
		return nil, err
	}
	one, err := llbsolver.New(llbsolver.Opt{
		SessionManager: r.sessions, WorkerController: wc, HistoryQueue: hist,
		Frontends:      map[string]frontend.Frontend{"dockerfile.v0": dockerfiles{r}},
		CacheManager:   s.solved,
		CacheResolvers: map[string]remotecache.ResolveCacheImporterFunc{scopeImport: r.scope},
	})
	if err != nil {
		return nil, err
	}
	s.solvers[mounts] = one
	return one, nil
}

// scope finds the shelf that a build takes from, which it has open, in the way in
// which BuildKit asks for the caches of others.
func (r *room) scope(_ context.Context, _ session.Group, attrs map[string]string) (remotecache.Importer, ocispec.Descriptor, error) {
	r.shelving.Lock()
	defer r.shelving.Unlock()
	s := r.shelves[engine.Owner(attrs[scopeOwner])]
	if s == nil {
		return nil, ocispec.Descriptor{}, fmt.Errorf("the cache of %q is not open", attrs[scopeOwner])
	}
	return importer{s}, ocispec.Descriptor{}, nil
}

type importer struct{ s *shelf }

// Resolve implements remotecache.Importer.
func (i importer) Resolve(context.Context, ocispec.Descriptor, string, worker.Worker) (solver.CacheManager, error) {
	return i.s.solved, nil
}

// mountsPrefix begins the names of the cache mounts of an owner.
func (r *room) mountsPrefix(owner engine.Owner) string {
	return fileName(r.workspace) + "/" + shelfName(owner) + "/"
}

// shelved lists the owners that have a shelf in the room, open or not.
func (r *room) shelved() (owners []engine.Owner, err error) {
	ents, err := os.ReadDir(filepath.Join(r.dir, "keys"))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	for _, d := range ents {
		switch owner := shelfOwner(d.Name()); {
		case owner != "":
			owners = append(owners, owner)
		case d.Name() == commonShelf+shelfSuffix:
			owners = append(owners, "")
		}
	}
	return owners, err
}

// empty makes a shelf forget all, and removes it if nobody has it in use.
func (r *room) empty(owner engine.Owner) error {
	if _, err := os.Stat(r.shelfFile(owner)); err != nil {
		return nil
	}
	s, done, err := r.shelf(owner)
	if err != nil {
		return err
	}
	var found []string
	err = s.each(func(result string) { found = append(found, result) })
	for _, result := range found {
		err = errors.Join(err, s.store.Release(result))
	}
	done()
	r.shelving.Lock()
	defer r.shelving.Unlock()
	now := r.shelves[owner]
	if s.users > 0 || err != nil || now != nil && now != s { // it was opened anew meanwhile
		return err
	}
	if now == s {
		delete(r.shelves, owner)
		err = s.close()
	}
	return errors.Join(err, os.Remove(s.file))
}

// each calls f for every result that the shelf has a key of.
func (s *shelf) each(f func(result string)) error {
	seen := map[string]bool{}
	return s.store.Walk(func(id string) error {
		return s.store.WalkResults(id, func(res solver.CacheResult) error {
			if !seen[res.ID] {
				seen[res.ID] = true
				f(res.ID)
			}
			return nil
		})
	})
}
