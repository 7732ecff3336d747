package local

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"

	"github.com/moby/buildkit/client"

	"slipway/engine"
)

// shelfRooms are the workspaces in whose cache an owner has a shelf.
func (e *Engine) shelfRooms(owner engine.Owner) (workspaces []string) {
	files, _ := filepath.Glob(e.path("build", "w", "*", "keys", shelfName(owner)+shelfSuffix))
	for _, f := range files {
		workspaces = append(workspaces, workspaceOf(filepath.Dir(filepath.Dir(f))))
	}
	return workspaces
}

// workspaceOf is the workspace whose room has a directory.
func workspaceOf(dir string) string {
	var u usageRecord
	if text, err := os.ReadFile(filepath.Join(dir, usageFile)); err == nil && json.Unmarshal(text, &u) == nil && u.Workspace != "" {
		return u.Workspace
	}
	return filepath.Base(dir)
}

// shelfOwners are all who have a shelf.
func (e *Engine) shelfOwners() (owners []engine.Owner) {
	files, _ := filepath.Glob(e.path("build", "w", "*", "keys", "*"+shelfSuffix))
	for _, f := range files {
		if o := shelfOwner(filepath.Base(f)); o != "" {
			owners = append(owners, o)
		}
	}
	return owners
}

// removeShelves takes the shelves of an owner away. What nobody finds any more is
// freed in the background: removing a project would do that for each pipeline.
func (b *builder) removeShelves(owner engine.Owner) error {
	var errs []error
	for _, w := range b.e.shelfRooms(owner) {
		r, err := b.room(w)
		if err == nil {
			err = r.empty(owner)
			b.leave(r)
			b.orphan(w)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// orphan has a workspace looked at for what nobody finds any more.
func (b *builder) orphan(workspace string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.orphaned[workspace] = true
	if b.freeing || b.closing {
		return
	}
	b.freeing = true
	b.tidying.Go(func() {
		for w, ok := b.nextOrphaned(); ok; w, ok = b.nextOrphaned() {
			if err := b.free(w); err != nil && !b.e.closing.Load() {
				b.e.log.Error("what is left of a build cache could not be freed", "workspace", w, "err", err)
			}
		}
	})
}

func (b *builder) nextOrphaned() (string, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for w := range b.orphaned {
		delete(b.orphaned, w)
		return w, !b.closing
	}
	b.freeing = false
	return "", false
}

func (b *builder) free(workspace string) error {
	r, err := b.room(workspace)
	if err != nil {
		return err
	}
	defer b.leave(r)
	n, err := r.free(context.Background())
	if err != nil {
		return err
	}
	b.e.log.Info("what is left of a build cache was freed", "workspace", workspace, "bytes", n)
	return r.noteUsage(context.Background())
}

// free removes the results that are on no shelf, and the cache mounts of those who
// have no shelf, and of these.
func (r *room) free(ctx context.Context, without ...engine.Owner) (int64, error) {
	owners, err := r.shelved()
	if err != nil {
		return 0, err
	}
	known := map[string]bool{}
	mounts := map[string]bool{}
	for _, o := range owners {
		mounts[r.mountsPrefix(o)] = true
		s, done, err := r.shelf(o)
		if err != nil {
			return 0, err
		}
		err = s.each(func(result string) { known[refOf(result)] = true })
		done()
		if err != nil {
			return 0, err
		}
	}
	for _, o := range without {
		delete(mounts, r.mountsPrefix(o))
	}
	list, err := r.usage(ctx)
	if err != nil {
		return 0, err
	}
	var ids []string
	for _, u := range list {
		switch {
		case u.RecordType == client.UsageRecordTypeCacheMount && !mounts[mountsOf(u.Description)],
			u.RecordType == client.UsageRecordTypeRegular && !known[u.ID]:
			ids = append(ids, "id=="+u.ID)
		}
	}
	if len(ids) == 0 {
		return 0, nil
	}
	return r.prune(ctx, client.PruneInfo{All: true, Filter: ids})
}

// mountsOf is the prefix of the name of a cache mount, which BuildKit puts last
// into its description: `cached mount /x from exec ... with id "w/pipeline-1//x"`.
func mountsOf(description string) string {
	i := strings.LastIndex(description, ` with id "`)
	if i < 0 {
		return ""
	}
	parts := strings.SplitN(description[i+len(` with id "`):], "/", 3)
	if len(parts) < 3 {
		return ""
	}
	return parts[0] + "/" + parts[1] + "/"
}
