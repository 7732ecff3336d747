package pipeline

import (
	"context"
	"fmt"
	"slices"

	"slipway/engine"
	"slipway/project"
)

// What a pipeline's CacheScope says.
const (
	scopePipeline  = "PIPELINE"
	scopeProject   = "PROJECT"
	scopeWorkspace = "WORKSPACE"
)

// CacheOwner has in the engine what builds of a project's pipelines have of each
// other's cached steps.
func CacheOwner(id project.ID) engine.Owner { return engine.Owner("project/" + string(id)) }

// WorkspaceCacheOwner is CacheOwner for all projects of a workspace.
func WorkspaceCacheOwner(id string) engine.Owner { return engine.Owner("workspace/" + id) }

// shares tells whether builds of the pipeline have steps in common with others.
func (p Pipeline) shares() bool { return p.CacheScope != "" && p.CacheScope != scopePipeline }

// shareNoMore takes the cache scope of the pipeline of the store if the file of some
// branch says a wider one: who may commit there could read what others of the scope
// have. It gives the note about it.
func (p *Pipeline) shareNoMore(than Pipeline) (notes []string) {
	wide := []string{scopePipeline, scopeProject, scopeWorkspace}
	if slices.Index(wide, p.CacheScope) > max(0, slices.Index(wide, than.CacheScope)) {
		notes = []string{fmt.Sprintf("cache_scope %s has no effect: this run is not of the last commit of the default branch", p.CacheScope)}
		p.CacheScope = than.CacheScope
	}
	return notes
}

// emptiesCache tells whether an execution begins without what earlier ones left,
// but for the files that were put there.
func (x Execution) emptiesCache() bool { return x.ClearCache || x.Frozen.ClearCache }

// asides end the owners of what builds of a pipeline have that no others find: those of
// pull requests and working trees, and, apart from them, those of what strangers wrote,
// which get no secrets and must not leave anything for builds that do.
const (
	asideSuffix    = "-aside"
	strangerSuffix = "-stranger"
)

func asides() []string { return []string{asideSuffix, strangerSuffix} }

// aside is the end of the owner of an execution's cached steps; "" if they are the
// pipeline's.
func (x Execution) aside() string {
	switch {
	case x.untrusted():
		return strangerSuffix
	case x.PullRequest != "" || x.local():
		return asideSuffix
	}
	return ""
}

// cacheOf says whose cached steps a build of an execution uses. That of a pull
// request, or of somebody's working tree, takes those of the pipeline, and what it
// does itself is found by such builds alone: nobody has looked at what it is of.
func cacheOf(x Execution, b Build) engine.BuildCache {
	c := engine.BuildCache{Owner: x.Pipeline.Owner(), Take: !x.emptiesCache()}
	if end := x.aside(); end != "" {
		c.Owner, c.Scope = c.Owner+engine.Owner(end), c.Owner
		return c
	}
	switch x.Frozen.CacheScope {
	case scopeProject:
		c.Scope = CacheOwner(x.Project)
	case scopeWorkspace:
		c.Scope = WorkspaceCacheOwner(x.Workspace)
	default:
		c.Take = false
		return c
	}
	c.Give = engine.GiveImage
	if b.CacheMode == "MAX" {
		c.Give = engine.GiveAll
	}
	return c
}

// clearBuilds forgets the cached steps of the pipeline's builds, if the engine
// keeps any; a run that stands beside the pipeline has only its own forgotten.
func (h *handling) clearBuilds(ctx context.Context) error {
	c, ok := h.eng.(engine.Cacher)
	if !ok {
		return nil
	}
	ends := []string{h.x.aside()}
	if ends[0] == "" {
		ends = append(ends, asides()...)
	}
	for _, end := range ends {
		if _, err := c.ClearCache(ctx, h.x.Workspace, h.x.Pipeline.Owner()+engine.Owner(end)); err != nil {
			return fmt.Errorf("empty the build cache of the pipeline: %w", err)
		}
	}
	return nil
}
