package image

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"slipway/access"
	"slipway/crash"
	"slipway/db"
	"slipway/engine"
	"slipway/event"
	"slipway/project"
)

// Tag points names of the own registry (<workspace>/<name>:<tag>) at an image
// of the store, all or none, with their events, in one transaction.
func (i *Images) Tag(ctx context.Context, by access.Actor, workspace, digest string, names ...string) error {
	if err := by.May(workspace, access.ImageWrite); err != nil {
		return err
	}
	if _, err := i.blobs.Stat(ctx, digest); err != nil {
		return fmt.Errorf("tag image: %w", err)
	}
	if err := i.db.Write(ctx, func(tx *db.Tx) error { return i.TagIn(tx, by, workspace, "", digest, names...) }); err != nil {
		return fmt.Errorf("tag image: %w", err)
	}
	crash.At("image: tagged")
	return i.Settle(ctx)
}

// TagIn is Tag in a transaction of the caller's; the image is held already, and
// stays held in the caller's name until Settle has returned. The tags are those
// of a project, and go when it is removed, until somebody else sets them; "" is
// none.
func (i *Images) TagIn(tx *db.Tx, by access.Actor, workspace string, of project.ID, digest string, names ...string) error {
	if err := by.May(workspace, access.ImageWrite); err != nil {
		return err
	}
	ws, err := project.FindWorkspace(tx, workspace)
	if err != nil {
		return err
	}
	counted := map[int64]bool{}
	for _, n := range names {
		name, tag, err := i.target(n)
		if err != nil {
			return err
		}
		if domain, ok := domainOf(name); !ok || domain != ws.Domain {
			return invalid("format", fmt.Sprintf("%q: names of this workspace begin with %s/", n, ws.Domain))
		}
		repo, err := ensureRepository(tx, ws.ID, name)
		if err != nil {
			return fmt.Errorf("repository %s: %w", name, err)
		}
		if err := saveManifest(tx, manifest{repo: repo.id, digest: digest}, nil); err != nil {
			return fmt.Errorf("manifest %s: %w", digest, err)
		}
		if err := want(tx, manifestHold(repo.id, digest), digest, noEnd()); err != nil {
			return err
		}
		if err := tagged(tx, repo, tag, digest, by.User.ID, of); err != nil {
			return fmt.Errorf("tag %s:%s: %w", name, tag, err)
		}
		if !counted[repo.id] {
			counted[repo.id] = true
			if err := countPush(tx, repo.id); err != nil {
				return err
			}
		}
	}
	return nil
}

// tagged sets a tag and says so.
func tagged(tx *db.Tx, repo repository, tag, digest string, user int64, of project.ID) error {
	if err := setTag(tx, repo.id, tag, digest, user, of); err != nil {
		return err
	}
	return event.Write(tx, event.Event{Kind: event.ImageTagged, Workspace: repo.workspace, Subject: repo.Name + ":" + tag},
		Tagged{Repository: repo.Name, Tag: tag, Digest: digest, User: user})
}

// whileRoom is read as long as there is room for it.
type whileRoom struct {
	io.Reader
	full func() error
}

func (r whileRoom) Read(b []byte) (int, error) {
	if err := r.full(); err != nil {
		return 0, err
	}
	return r.Reader.Read(b)
}

// Load stores the images of an archive; name renames the only one of it.
func (i *Images) Load(ctx context.Context, by access.Actor, workspace, name string, archive io.Reader) ([]Tag, error) {
	if err := by.May(workspace, access.ImageWrite); err != nil {
		return nil, err
	}
	if name != "" {
		if _, err := Normalize(name); err != nil {
			return nil, at(err, "name")
		}
	}
	if err := i.room(); err != nil {
		return nil, err
	}
	loaded, err := i.store.Load(ctx, whileRoom{archive, i.full})
	if err != nil {
		return nil, fmt.Errorf("load images: %w", err)
	}
	crash.At("image: archive loaded")
	names, err := loadedNames(name, loaded)
	if err != nil {
		return nil, err
	}
	err = i.db.Write(ctx, func(tx *db.Tx) error {
		for n, img := range loaded {
			if _, _, _, own := i.Own(names[n]); own {
				if err := i.TagIn(tx, by, workspace, "", img.Digest, names[n]); err != nil {
					return err
				}
				continue
			}
			err := saveOutside(tx, outside{workspace: workspace, name: names[n], digest: img.Digest, config: configOf(img.Image), loaded: true})
			if err != nil {
				return fmt.Errorf("image %s: %w", names[n], err)
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("load images: %w", err)
	}
	if err := i.Settle(ctx); err != nil {
		return nil, err
	}
	out := make([]Tag, len(loaded))
	for n, img := range loaded {
		out[n] = tagOf(names[n], img.Digest, configOf(img.Image))
		if own, tag, _, ok := i.Own(names[n]); ok {
			out[n].Repository, out[n].Tag, out[n].Own = own, tag, true
		}
	}
	return out, nil
}

// configOf is the digest that an image id is made of: of an index its own.
func configOf(img engine.Image) string {
	if len(img.Platforms) > 1 || img.ConfigDigest == "" {
		return img.Digest
	}
	return img.ConfigDigest
}

// loadedNames are the normalized names under which loaded images are kept.
func loadedNames(name string, loaded []engine.LoadedImage) ([]string, error) {
	bad := &project.Invalid{}
	switch {
	case len(loaded) == 0:
		bad.Add("", "format", "the archive holds no image")
	case name != "" && len(loaded) > 1:
		bad.Add("name", "conflict", fmt.Sprintf("the archive holds %d images; one name cannot be given to all of them", len(loaded)))
	}
	names := make([]string, len(loaded))
	for n, img := range loaded {
		given := img.Name
		if name != "" {
			given = name
		}
		if given == "" {
			bad.Add("name", "required", "the archive names no image; give a name")
			continue
		}
		var err error
		if names[n], err = Normalize(given); err != nil {
			return nil, at(err, "name")
		}
		if strings.Contains(names[n], "@") {
			bad.Add("name", "format", fmt.Sprintf("%q: a name with a digest cannot be given", given))
		}
	}
	return names, bad.Err()
}

// at gives the fields of an Invalid a path.
func at(err error, path string) error {
	inv, ok := project.AsInvalid(err)
	if !ok {
		return err
	}
	out := &project.Invalid{}
	for _, f := range inv.Fields {
		out.Add(path, f.Kind, f.Message)
	}
	return out
}

func tagOf(name, digest, config string) Tag {
	repo, tag := name, ""
	if n := strings.LastIndexByte(name, ':'); n > strings.LastIndexByte(name, '/') {
		repo, tag = name[:n], name[n+1:]
	}
	if r, _, ok := strings.Cut(name, "@"); ok {
		repo, tag = r, ""
	}
	return Tag{Repository: repo, Tag: tag, Digest: digest, ConfigID: hexOf(config)}
}

// Repositories lists the repositories of a workspace by name.
func (i *Images) Repositories(ctx context.Context, by access.Actor, workspace string) ([]Repository, error) {
	if err := by.May(workspace, access.ImageRead); err != nil {
		return nil, err
	}
	if err := i.flushPulls(ctx); err != nil {
		return nil, err
	}
	var out []Repository
	err := i.db.Read(ctx, func(tx *db.Tx) error {
		list, err := listRepositories(tx, workspace, "")
		for _, r := range list {
			out = append(out, r.Repository)
		}
		return err
	})
	return out, err
}

// SetPublic lets everybody pull from a repository, or no longer.
func (i *Images) SetPublic(ctx context.Context, by access.Actor, workspace, name string, public bool) error {
	if err := by.May(workspace, access.ImageWrite); err != nil {
		return err
	}
	return i.db.Write(ctx, func(tx *db.Tx) error {
		r, err := i.ownRepository(tx, workspace, name)
		if err != nil {
			return err
		}
		_, err = tx.Exec(`UPDATE image_repositories SET public = ? WHERE id = ?`, public, r.id)
		return err
	})
}

// ownRepository finds a repository of a workspace; the workspace part of the
// name may be left out.
func (i *Images) ownRepository(tx *db.Tx, workspace, name string) (repository, error) {
	ws, err := project.FindWorkspace(tx, workspace)
	if err != nil {
		return repository{}, err
	}
	if !strings.HasPrefix(name, ws.Domain+"/") {
		name = ws.Domain + "/" + name
	}
	r, err := findRepository(tx, name)
	if err == nil && r.workspace != ws.ID {
		err = fmt.Errorf("repository %s: %w", name, errdefs.ErrNotFound)
	}
	return r, err
}

// Tags lists the tags of a repository, newest first; name "" is all of the
// workspace, loaded and pulled ones too.
func (i *Images) Tags(ctx context.Context, by access.Actor, workspace, name string) ([]Tag, error) {
	if err := by.May(workspace, access.ImageRead); err != nil {
		return nil, err
	}
	if err := i.expandThese(ctx, `expanded = 0 AND repository IN (SELECT id FROM image_repositories WHERE workspace = ?)`, workspace); err != nil {
		return nil, err
	}
	var list []Tag
	err := i.db.Read(ctx, func(tx *db.Tx) error {
		full := ""
		if name != "" {
			r, err := i.ownRepository(tx, workspace, name)
			if err != nil && !errdefs.IsNotFound(err) {
				return err
			}
			if full = r.Name; err != nil {
				full = name // that of another registry, perhaps
			}
		}
		own, err := listTags(tx, workspace, full)
		if err != nil {
			return err
		}
		others, err := listOutside(tx, workspace)
		if err != nil {
			return err
		}
		list = own
		for _, o := range others {
			t := tagOf(o.name, o.digest, o.config)
			t.Updated = nullable(o.updated)
			if name == "" || t.Repository == name {
				list = append(list, t)
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list tags: %w", err)
	}
	slices.SortStableFunc(list, func(a, b Tag) int { return b.Updated.Compare(a.Updated) })
	return list, nil
}

// Untag removes a tag. name is that of a repository of the workspace, or of an
// image that it pulled or loaded, as Tags gives it.
func (i *Images) Untag(ctx context.Context, by access.Actor, workspace, name, tag string) error {
	if err := by.May(workspace, access.ImageWrite); err != nil {
		return err
	}
	err := i.db.Write(ctx, func(tx *db.Tx) error {
		r, err := i.ownRepository(tx, workspace, name)
		if err == nil {
			if _, err := findTag(tx, r.id, tag); err != nil {
				return err
			}
			return removeTag(tx, r.id, tag)
		}
		if !errdefs.IsNotFound(err) {
			return err
		}
		full, err := Normalize(name + ":" + tag)
		if err != nil {
			return fmt.Errorf("image %s:%s: %w", name, tag, errdefs.ErrNotFound)
		}
		o, err := findOutside(tx, workspace, full)
		if err != nil {
			return err
		}
		return removeOutside(tx, o.id)
	})
	if err != nil {
		return fmt.Errorf("untag: %w", err)
	}
	crash.At("image: untagged")
	return nil
}
