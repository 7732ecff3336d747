package image

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"

	"slipway/crash"
	"slipway/db"
	"slipway/engine"
	"slipway/project"
)

// headTime is how long a registry may take to tell the digest of a tag whose
// image is here.
const headTime = 15 * time.Second

// Request is one question of Resolve.
type Request struct {
	Workspace string // UUID
	Ref       string // as the user wrote it
	Platform  string
	Refresh   bool
	Logins    []engine.Login
	Warn      func(line string)
}

// Resolve finds the image of a reference for a workspace and brings it into
// the store if need be: own ones from the store (only those the workspace may
// see), others by the pull rules (latest and refresh ask the registry by HEAD;
// unreachable with a local copy: that one, with a warning). It holds the image
// for a day.
func (i *Images) Resolve(ctx context.Context, r Request) (engine.Image, error) {
	n, err := parse(r.Ref)
	if err != nil {
		return engine.Image{}, err
	}
	var img engine.Image
	if i.hosts[strings.ToLower(reference.Domain(n))] {
		digest, err := i.own(ctx, r.Workspace, n)
		if err != nil {
			return engine.Image{}, fmt.Errorf("image %s: %w", r.Ref, err)
		}
		if img, err = i.store.Inspect(ctx, digest, r.Platform); err != nil {
			return engine.Image{}, fmt.Errorf("image %s: %w", r.Ref, err)
		}
	} else if img, err = i.outside(ctx, r, n); err != nil {
		return engine.Image{}, err
	}
	if err := i.holdResolved(ctx, r.Workspace, img.Digest); err != nil {
		return engine.Image{}, fmt.Errorf("image %s: %w", r.Ref, err)
	}
	return img, nil
}

// Lookup is Resolve without any network: the digest of an own, loaded or
// pulled image; errdefs.ErrNotFound else, and of a name of the own registry
// engine.ErrNoImage. It is made for engine.BuildSpec.
func (i *Images) Lookup(ctx context.Context, workspace, ref string) (string, error) {
	n, err := parse(ref)
	if err != nil {
		return "", err
	}
	if i.hosts[strings.ToLower(reference.Domain(n))] {
		digest, err := i.own(ctx, workspace, n)
		if err != nil {
			return "", fmt.Errorf("image %s: %w", ref, err)
		}
		return digest, nil
	}
	o, err := i.have(ctx, workspace, n)
	return o.digest, err
}

// own finds an image of the own registry that a workspace may see: of its own
// repositories, and of public ones.
func (i *Images) own(ctx context.Context, workspace string, n reference.Named) (digest string, err error) {
	name, tag, want, _ := split(n)
	var repo repository
	err = i.db.Read(ctx, func(tx *db.Tx) (err error) {
		if repo, err = findRepository(tx, name); err != nil {
			return err
		}
		if digest = want; digest == "" {
			digest, err = findTag(tx, repo.id, tag)
		} else {
			_, err = reachManifest(tx, repo.id, digest)
		}
		return err
	})
	if errdefs.IsNotFound(err) {
		return "", engine.ErrNoImage
	}
	if err != nil {
		return "", err
	}
	if repo.workspace == workspace {
		return digest, nil
	}
	if ok, err := i.public(ctx, repo); err != nil || !ok {
		return "", cmp.Or(err, engine.ErrNoImage)
	}
	return digest, nil
}

// have finds what a workspace has pulled or loaded under a name.
func (i *Images) have(ctx context.Context, workspace string, n reference.Named) (o outside, err error) {
	err = i.db.Read(ctx, func(tx *db.Tx) error {
		o, err = findOutside(tx, workspace, n.String())
		d, ok := n.(reference.Digested)
		if !ok || !errdefs.IsNotFound(err) {
			return err
		}
		// by digest: what was got from the same repository by a tag will do
		list, err := listOutside(tx, workspace)
		if err != nil {
			return err
		}
		for _, have := range list {
			if have.digest == d.Digest().String() && tagOf(have.name, "", "").Repository == n.Name() {
				o = have
				return nil
			}
		}
		return fmt.Errorf("%s: %w", n, errdefs.ErrNotFound)
	})
	return o, err
}

// outside resolves a name of another registry.
func (i *Images) outside(ctx context.Context, r Request, n reference.Named) (engine.Image, error) {
	have, err := i.have(ctx, r.Workspace, n)
	if err != nil && !errdefs.IsNotFound(err) {
		return engine.Image{}, err
	}
	var local engine.Image
	there := err == nil
	if there {
		if local, err = i.store.Inspect(ctx, have.digest, r.Platform); errdefs.IsNotFound(err) {
			there = false // of another platform, or lost
		} else if err != nil {
			return engine.Image{}, err
		}
	}
	if there && !(r.Refresh || isLatest(n)) {
		return local, i.used(ctx, have)
	}
	if there {
		ok, err := i.current(ctx, r, n, have)
		if err != nil {
			return engine.Image{}, err
		}
		if ok {
			return local, i.used(ctx, have)
		}
	}
	img, err := i.pull(ctx, r, n)
	if err != nil && there && (have.loaded || unreachable(ctx, err)) {
		warn(r, "%s cannot be pulled (%v); using the copy that is here", n, err)
		return local, i.used(ctx, have)
	}
	return img, err
}

func isLatest(n reference.Named) bool {
	t, ok := n.(reference.Tagged)
	return ok && t.Tag() == "latest"
}

// current asks the registry whether the copy that is here is what the tag
// means now. A registry that cannot be asked makes it so, with a warning.
func (i *Images) current(ctx context.Context, r Request, n reference.Named, have outside) (bool, error) {
	if d, ok := n.(reference.Digested); ok {
		return d.Digest().String() == have.digest, nil
	}
	hctx, cancel := context.WithTimeoutCause(ctx, headTime, fmt.Errorf("the registry did not answer within %s: %w", headTime, errdefs.ErrUnavailable))
	defer cancel()
	digest, err := i.store.Head(hctx, engine.PullSpec{Ref: n.String(), Platform: r.Platform, Logins: r.Logins})
	switch {
	case err == nil:
		return digest == have.digest, nil
	case ctx.Err() != nil:
		return false, context.Cause(ctx)
	case have.loaded || hctx.Err() != nil || unreachable(ctx, err):
		warn(r, "%s: its registry cannot be asked (%v); using the copy that is here", n, err)
		return true, nil
	}
	return false, fmt.Errorf("image %s: %w", n, err)
}

// unreachable tells an error of the way to a registry from an answer of it.
func unreachable(ctx context.Context, err error) bool {
	return ctx.Err() == nil && !errdefs.IsUnauthorized(err) && !errdefs.IsPermissionDenied(err) && !errdefs.IsNotFound(err) && !errdefs.IsInvalidArgument(err)
}

func warn(r Request, format string, a ...any) {
	if r.Warn != nil {
		r.Warn(fmt.Sprintf(format, a...))
	}
}

func (i *Images) pull(ctx context.Context, r Request, n reference.Named) (engine.Image, error) {
	img, err := i.store.Pull(ctx, engine.PullSpec{Ref: n.String(), Platform: r.Platform, Logins: r.Logins})
	if err != nil {
		return img, fmt.Errorf("image %s: %w", n, err)
	}
	crash.At("image: pulled")
	err = i.db.Write(ctx, func(tx *db.Tx) error {
		if _, err := project.FindWorkspace(tx, r.Workspace); err != nil {
			return err
		}
		return saveOutside(tx, outside{workspace: r.Workspace, name: n.String(), digest: img.Digest, config: configOf(img)})
	})
	if err != nil {
		return img, fmt.Errorf("image %s: %w", n, err)
	}
	return img, nil
}

// used notes now and then that a name is in use.
func (i *Images) used(ctx context.Context, o outside) error {
	if time.Since(nullable(o.used)) < unusedFor/30 {
		return nil
	}
	return i.db.Write(ctx, func(tx *db.Tx) error {
		_, err := tx.Exec(`UPDATE image_outside SET used = ? WHERE id = ?`, db.Micros(tx.Now), o.id)
		return err
	})
}

// holdResolved holds what Resolve gives for a day. Asking again within half of
// it costs no write.
func (i *Images) holdResolved(ctx context.Context, workspace, digest string) error {
	id := keepHold("resolved/" + workspace + "/" + digest)
	fresh := false
	err := i.db.Read(ctx, func(tx *db.Tx) error {
		var n int
		err := tx.QueryRow(`SELECT count(*) FROM image_holds WHERE id = ? AND state = 'held' AND until > ?`,
			id, db.Micros(tx.Now.Add(resolveFor/2))).Scan(&n)
		fresh = n > 0
		return err
	})
	if err != nil || fresh {
		return err
	}
	return i.holding(ctx, func(hold func(id, digest string) error) error {
		if err := hold(id, digest); err != nil {
			return err
		}
		return i.db.Write(ctx, func(tx *db.Tx) error { return held(tx, id, digest, tx.Now.Add(resolveFor)) })
	})
}

// public tells whether everybody may pull from a repository: it says so itself,
// or the project of its name does.
func (i *Images) public(ctx context.Context, r repository) (bool, error) {
	if r.Public {
		return true, nil
	}
	return i.publicProject(ctx, r.Name)
}
