package local

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/moby/buildkit/client"
	"golang.org/x/sys/unix"

	"slipway/engine"
)

const (
	// tidyEvery is the least time between two looks at the size of the caches.
	tidyEvery = time.Minute
	// cacheShare of the disk is what caches may take by default.
	cacheShare = 5
	usageFile  = "usage.json"
)

// usageRecord is what a workspace's cache had when it was last looked at, so
// that those that are not open need not be opened to be counted.
type usageRecord struct {
	Workspace string    `json:"workspace"`
	Size      int64     `json:"size"`
	Oldest    time.Time `json:"oldest"` // last use of what was not used for longest
}

// CacheUsage implements engine.Cacher.
func (e *Engine) CacheUsage(ctx context.Context, workspace string) ([]engine.CacheRecord, error) {
	if !e.hasCache(workspace) {
		return nil, nil
	}
	r, err := e.builder.room(workspace)
	if err != nil {
		return nil, err
	}
	defer e.builder.leave(r)
	list, err := r.usage(ctx)
	if err != nil {
		return nil, fmt.Errorf("build cache of workspace %s: %w", workspace, err)
	}
	var out []engine.CacheRecord
	for _, u := range list {
		c := engine.CacheRecord{ID: u.ID, What: u.Description, Size: max(u.Size, 0), Created: u.CreatedAt, LastUsed: u.CreatedAt, InUse: u.InUse}
		if u.LastUsedAt != nil {
			c.LastUsed = *u.LastUsedAt
		}
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b engine.CacheRecord) int {
		return cmp.Or(a.LastUsed.Compare(b.LastUsed), cmp.Compare(a.ID, b.ID))
	})
	return out, nil
}

// ClearCache implements engine.Cacher.
func (e *Engine) ClearCache(ctx context.Context, workspace string, owner engine.Owner) (n int64, err error) {
	if !e.hasCache(workspace) {
		return 0, nil
	}
	r, err := e.builder.room(workspace)
	if err != nil {
		return 0, err
	}
	defer e.builder.leave(r)
	if owner == "" {
		n, err = r.prune(ctx, client.PruneInfo{All: true})
	} else if err = r.empty(owner); err == nil {
		n, err = r.free(ctx, owner)
	}
	if err != nil {
		return n, fmt.Errorf("build cache of workspace %s: %w", workspace, err)
	}
	return n, r.noteUsage(ctx)
}

// hasCache tells whether a workspace ever built.
func (e *Engine) hasCache(workspace string) bool {
	_, err := os.Stat(e.path("build", "w", fileName(workspace)))
	return err == nil
}

func (r *room) usage(ctx context.Context) ([]*client.UsageInfo, error) {
	return r.w.DiskUsage(nsctx(ctx), client.DiskUsageInfo{})
}

// prune removes what the rule says and is not in use.
func (r *room) prune(ctx context.Context, rule client.PruneInfo) (n int64, err error) {
	ch := make(chan client.UsageInfo, 32)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for u := range ch {
			n += u.Size
		}
	}()
	err = r.w.Prune(nsctx(ctx), ch, rule)
	close(ch)
	<-done
	if n == 0 {
		return n, err
	}
	r.shelving.Lock()
	defer r.shelving.Unlock()
	for _, s := range r.shelves { // one that is closed does it when it is opened
		err = errors.Join(err, s.solved.ReleaseUnreferenced(nsctx(ctx)))
	}
	return n, err
}

// noteUsage writes the record of a workspace's cache.
func (r *room) noteUsage(ctx context.Context) error {
	list, err := r.usage(ctx)
	if err != nil {
		return err
	}
	u := usageRecord{Workspace: r.workspace, Oldest: time.Now()}
	for _, i := range list {
		u.Size += max(i.Size, 0)
		if at := lastUse(i); at.Before(u.Oldest) {
			u.Oldest = at
		}
	}
	b, err := json.Marshal(u)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(r.dir, usageFile), b, 0o600)
}

func lastUse(u *client.UsageInfo) time.Time {
	if u.LastUsedAt != nil {
		return *u.LastUsedAt
	}
	return u.CreatedAt
}

// cacheMax is how much the caches of all workspaces may take.
func (e *Engine) cacheMax() int64 {
	if e.opts.CacheMax > 0 {
		return e.opts.CacheMax
	}
	var st unix.Statfs_t
	if err := unix.Statfs(e.dir, &st); err != nil {
		return 10 << 30
	}
	return int64(st.Blocks) / cacheShare * st.Bsize
}

// tidy looks at the size of the caches in the background, now and then.
func (b *builder) tidy() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closing || time.Since(b.cleaned) < tidyEvery {
		return
	}
	b.cleaned = time.Now()
	b.tidying.Go(func() {
		if err := b.collect(context.Background(), b.e.cacheMax()); err != nil && !b.e.closing.Load() {
			b.e.log.Error("the build caches could not be cleaned", "err", err)
		}
	})
}

// collect brings the caches of all workspaces together below limit: what was
// not used for longest goes first, whose ever it is.
func (b *builder) collect(ctx context.Context, limit int64) error {
	b.collecting.Lock()
	defer b.collecting.Unlock()
	all, total, err := b.measure(ctx)
	if err != nil || total <= limit {
		return err
	}
	// A little more than needed, so that the next build does not begin it again.
	limit -= limit / 10
	type use struct {
		at   time.Time
		size int64
	}
	var uses []use
	for _, u := range all {
		r, err := b.room(u.Workspace)
		if err != nil {
			return err
		}
		list, err := r.usage(ctx)
		b.leave(r)
		if err != nil {
			return err
		}
		for _, i := range list {
			if !i.InUse {
				uses = append(uses, use{lastUse(i), max(i.Size, 0)})
			}
		}
	}
	slices.SortFunc(uses, func(a, b use) int { return a.at.Compare(b.at) })
	var until time.Time
	for _, u := range uses {
		if total <= limit {
			break
		}
		total -= u.size
		until = u.at
	}
	for _, u := range all {
		if !u.Oldest.After(until) {
			if err := b.pruneUntil(ctx, u.Workspace, until); err != nil {
				return err
			}
		}
	}
	return nil
}

// pruneUntil removes what a workspace did not use after that time.
func (b *builder) pruneUntil(ctx context.Context, workspace string, until time.Time) error {
	r, err := b.room(workspace)
	if err != nil {
		return err
	}
	defer b.leave(r)
	keep := time.Since(until) - time.Millisecond
	n, err := r.prune(ctx, client.PruneInfo{All: true, KeepDuration: max(keep, time.Nanosecond)})
	if err != nil {
		return err
	}
	b.e.log.Info("a build cache was cleaned", "workspace", workspace, "bytes", n)
	return r.noteUsage(ctx)
}

// measure sums the caches up. Open ones are measured, others have a record.
func (b *builder) measure(ctx context.Context) (all []usageRecord, total int64, err error) {
	b.mu.Lock()
	var open []string
	for w := range b.rooms {
		open = append(open, w)
	}
	b.mu.Unlock()
	for _, w := range open {
		r, err := b.room(w)
		if err != nil {
			return nil, 0, err
		}
		err = r.noteUsage(ctx)
		b.leave(r)
		if err != nil {
			return nil, 0, err
		}
	}
	dirs, err := os.ReadDir(b.e.path("build", "w"))
	if err != nil {
		return nil, 0, err
	}
	for _, d := range dirs {
		var u usageRecord
		text, err := os.ReadFile(b.e.path("build", "w", d.Name(), usageFile))
		if err != nil || json.Unmarshal(text, &u) != nil {
			continue // never built to an end
		}
		all = append(all, u)
		total += u.Size
	}
	return all, total, nil
}
