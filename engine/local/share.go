package local

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/moby/buildkit/cache"
	"github.com/moby/buildkit/executor/resources"
	gw "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/solver"
	"github.com/moby/buildkit/solver/llbsolver"
	"github.com/moby/buildkit/worker"

	"slipway/engine"
)

const (
	// scopeImport is the kind of import by which a build takes from its scope, and
	// scopeOwner its only attribute.
	scopeImport = "scope"
	scopeOwner  = "owner"
	// importWord begins BuildKit's name for the opening of another cache.
	importWord = "importing cache manifest from "
)

// shelves opens those that a build needs. That of its scope is open for as long as
// the solver may look for a step on it.
func (b *building) shelves() (own, scope *shelf, done func(), err error) {
	own, back, err := b.room.shelf(b.spec.Cache.Owner)
	if err != nil || b.spec.Cache.Scope == "" {
		return own, nil, back, err
	}
	scope, scopeBack, err := b.room.shelf(b.spec.Cache.Scope)
	if err != nil {
		back()
		return nil, nil, nil, err
	}
	return own, scope, func() {
		scopeBack()
		back()
	}, nil
}

// imports are the caches in which the solver looks besides its own.
func (b *building) imports() []gw.CacheOptionsEntry {
	c := b.spec.Cache
	if !c.Take || c.Scope == "" || b.spec.NoCache {
		return nil
	}
	return []gw.CacheOptionsEntry{{Type: scopeImport, Attrs: map[string]string{scopeOwner: string(c.Scope)}}}
}

// gives is what comes between the solving of a build and its image: the scope gets
// the keys of its steps. That it could not be done is no reason to fail.
func (b *building) gives(from, to *shelf) llbsolver.Processor {
	return func(ctx context.Context, res *llbsolver.Result, _ *llbsolver.Solver, _ *solver.Job, _ *resources.SysSampler) (*llbsolver.Result, error) {
		g := &giving{from: from, to: to, keys: map[*solver.CacheKey]string{}}
		if err := g.all(ctx, res, b.spec.Cache.Give); err != nil {
			b.e.log.Error("the steps of a build could not be given to others", "build", b.id, "scope", b.spec.Cache.Scope, "err", err)
		}
		if g.given > 0 {
			kind, _, _ := strings.Cut(string(b.spec.Cache.Scope), "/")
			b.log.note(fmt.Sprintf("%d cached steps are shared with other builds of the %s", g.given, kind))
		}
		return res, nil
	}
}

// giving copies keys from one shelf to another. The results that they lead to are
// in the room, so nothing else is moved.
type giving struct {
	from, to *shelf
	image    map[string]bool             // the results that the image consists of; nil: all are given
	keys     map[*solver.CacheKey]string // the name of each key on the other shelf; "" if it has none
	given    int
}

func (g *giving) all(ctx context.Context, res *llbsolver.Result, what engine.Given) error {
	var tops []solver.CachedResult
	err := res.EachRef(func(p solver.ResultProxy) error {
		one, err := p.Result(ctx)
		if err == nil && one != nil {
			tops = append(tops, one)
		}
		return err
	})
	if err != nil {
		return err
	}
	if what == engine.GiveImage {
		g.image = map[string]bool{}
		for _, one := range tops {
			if err := g.layers(ctx, one); err != nil {
				return err
			}
		}
	}
	g.to.taking.Lock()
	defer g.to.taking.Unlock()
	for _, one := range tops {
		for _, k := range one.CacheKeys() {
			if _, err := g.key(ctx, k.CacheKey); err != nil {
				return err
			}
		}
	}
	return nil
}

// layers notes the results that make up the image.
func (g *giving) layers(ctx context.Context, res solver.CachedResult) error {
	ref, ok := res.Sys().(*worker.WorkerRef)
	if !ok || ref.ImmutableRef == nil {
		return nil
	}
	chain := ref.ImmutableRef.LayerChain()
	defer func() { _ = chain.Release(context.WithoutCancel(ctx)) }()
	for _, one := range append(cache.RefList{ref.ImmutableRef}, chain...) {
		g.image[one.ID()] = true
	}
	return nil
}

// key gives a key, after all that it stands on, with its result. It says how it is
// called on the other shelf.
func (g *giving) key(ctx context.Context, k *solver.CacheKey) (string, error) {
	if id, ok := g.keys[k]; ok {
		return id, nil
	}
	id, err := g.place(ctx, k)
	if err == nil && id != "" {
		err = g.result(ctx, k, id)
	}
	g.keys[k] = id
	return id, err
}

// place finds or makes the place of a key on the other shelf, linked with those of
// the keys that it stands on. There is none for what only this build has.
func (g *giving) place(ctx context.Context, k *solver.CacheKey) (string, error) {
	deps := k.Deps()
	if len(deps) == 0 {
		if kind, _, _ := strings.Cut(k.Digest().String(), ":"); kind == "random" || kind == "session" {
			return "", nil
		}
		return k.ID, nil
	}
	type way struct {
		from string
		link solver.CacheInfoLink
	}
	var ways []way
	var there []string // keys that all inputs lead to
	for i, alternatives := range deps {
		n := len(ways)
		var found []string
		for _, a := range alternatives {
			from, err := g.key(ctx, a.CacheKey.CacheKey)
			if err != nil {
				return "", err
			}
			if from == "" {
				continue
			}
			link := solver.CacheInfoLink{Input: solver.Index(i), Output: k.Output(), Digest: k.Digest(), Selector: a.Selector}
			ways = append(ways, way{from, link})
			err = g.to.store.WalkLinks(from, link, func(id string) error {
				found = append(found, id)
				return nil
			})
			if err != nil {
				return "", err
			}
		}
		if len(ways) == n {
			return "", nil
		}
		if i == 0 {
			there = found
		} else {
			there = slices.DeleteFunc(there, func(id string) bool { return !slices.Contains(found, id) })
		}
	}
	// Never the name that it has on its own shelf: whoever looks on both would take
	// them for one.
	id := newID()
	if len(there) > 0 {
		id = slices.Min(there)
	}
	var err error
	for _, w := range ways {
		if !g.to.store.HasLink(w.from, w.link, id) {
			err = errors.Join(err, g.to.store.AddLink(w.from, w.link, id))
		}
	}
	return id, err
}

// result gives the newest result of a key, if it is one that is to be given.
func (g *giving) result(ctx context.Context, k *solver.CacheKey, id string) error {
	records, err := g.from.solved.Records(ctx, k)
	if err != nil || len(records) == 0 {
		return err
	}
	newest := slices.MaxFunc(records, func(a, b *solver.CacheRecord) int { return a.CreatedAt.Compare(b.CreatedAt) })
	if g.image != nil && !g.image[refOf(newest.ID)] {
		return nil
	}
	if _, err := g.to.store.Load(id, newest.ID); err == nil {
		return nil
	}
	g.given++
	return g.to.store.AddResult(id, solver.CacheResult{ID: newest.ID, CreatedAt: newest.CreatedAt})
}

// refOf is the reference in the worker that a result stands for.
func refOf(result string) string {
	_, ref, _ := strings.Cut(result, "::")
	return ref
}
