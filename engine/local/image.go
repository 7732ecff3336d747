package local

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/diff/apply"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/moby/buildkit/snapshot"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"slipway/engine"
)

const (
	// holdPrefix begins the names of the image records that are our holds.
	holdPrefix = "hold/"
	// expireLabel keeps content from the collector until a time.
	expireLabel = "containerd.io/gc.expire"
	// snapshotLabel is on the configuration of an image that is unpacked: it
	// names the snapshot and keeps it for as long as the image is kept.
	snapshotLabel = "containerd.io/gc.ref.snapshot." + snapshotter
	// freshFor is how long content that just came is kept without a hold.
	freshFor = 24 * time.Hour
	// stepTemp is how long what an interrupted call left behind is kept.
	stepTemp = time.Hour
)

// imageStore implements engine.Images.
type imageStore struct{ e *Engine }

// Images implements engine.Engine.
func (e *Engine) Images() engine.Images { return imageStore{e} }

// matcher is how the manifest of a platform is found; "" is that of the host.
func matcher(platform string) (platforms.MatchComparer, error) {
	if platform == "" {
		return platforms.Default(), nil
	}
	p, err := platforms.Parse(platform)
	if err != nil {
		return nil, fmt.Errorf("platform %q: %w: %w", platform, errdefs.ErrInvalidArgument, err)
	}
	return platforms.Only(p), nil
}

// found is the image of one platform.
type found struct {
	desc      ocispec.Descriptor // of the manifest
	manifest  ocispec.Manifest
	config    ocispec.Image
	platforms []string // those of an index that are in the store
}

// find looks an image up: of an index the manifest that fits best. The only
// manifest of an image without an index is taken for "" whatever it is for.
func (e *Engine) find(ctx context.Context, dgst, platform string) (f found, err error) {
	desc, err := e.describe(ctx, dgst)
	if err != nil {
		return f, err
	}
	match, err := matcher(platform)
	if err != nil {
		return f, err
	}
	if images.IsIndexType(desc.MediaType) {
		if desc, f.platforms, err = e.choose(ctx, desc, match, 0); err != nil {
			return f, fmt.Errorf("%w for %s", err, platformName(platform))
		}
	}
	f.desc = desc
	if err := e.readJSON(ctx, desc, &f.manifest); err != nil {
		return f, err
	}
	if err := e.readJSON(ctx, f.manifest.Config, &f.config); err != nil {
		return f, err
	}
	if f.platforms != nil {
		return f, nil
	}
	p := f.config.Platform
	if p.OS == "" || p.Architecture == "" {
		return f, nil // says nothing, so it may be for all
	}
	f.platforms = []string{platforms.FormatAll(platforms.Normalize(p))}
	if platform != "" && !match.Match(p) {
		return f, fmt.Errorf("it is for %s, not for %s: %w", f.platforms[0], platform, errdefs.ErrNotFound)
	}
	return f, nil
}

func platformName(p string) string {
	if p == "" {
		return platforms.FormatAll(platforms.Normalize(platforms.DefaultSpec()))
	}
	return p
}

// choose finds the best manifest of an index, and lists the platforms that are
// in the store.
func (e *Engine) choose(ctx context.Context, index ocispec.Descriptor, match platforms.MatchComparer, depth int) (best ocispec.Descriptor, all []string, err error) {
	var idx ocispec.Index
	if err := e.readJSON(ctx, index, &idx); err != nil {
		return best, nil, err
	}
	for _, m := range idx.Manifests {
		if m.Platform != nil && m.Platform.OS == "unknown" { // an attestation
			continue
		}
		if _, err := e.content.Info(ctx, m.Digest); errdefs.IsNotFound(err) {
			continue
		} else if err != nil {
			return best, nil, err
		}
		if images.IsIndexType(m.MediaType) && depth < 4 {
			b, more, err := e.choose(ctx, m, match, depth+1)
			all = append(all, more...)
			if err == nil && (best.Digest == "" || match.Less(*b.Platform, *best.Platform)) {
				best = b
			}
			continue
		}
		if !images.IsManifestType(m.MediaType) {
			continue
		}
		if m.Platform == nil {
			p, err := images.ConfigPlatform(ctx, e.content, e.configOf(ctx, m))
			if err != nil {
				continue
			}
			m.Platform = &p
		}
		all = append(all, platforms.FormatAll(platforms.Normalize(*m.Platform)))
		if match.Match(*m.Platform) && (best.Digest == "" || match.Less(*m.Platform, *best.Platform)) {
			best = m
		}
	}
	if best.Digest == "" {
		return best, all, fmt.Errorf("the index has no image: %w", errdefs.ErrNotFound)
	}
	return best, all, nil
}

func (e *Engine) configOf(ctx context.Context, manifest ocispec.Descriptor) ocispec.Descriptor {
	var m ocispec.Manifest
	_ = e.readJSON(ctx, manifest, &m) // an empty descriptor is not found then
	return m.Config
}

// readRaw reads a manifest or a configuration.
func (e *Engine) readRaw(ctx context.Context, desc ocispec.Descriptor) ([]byte, error) {
	if desc.Size > manifestMax {
		return nil, fmt.Errorf("%s is %d bytes long: %w", desc.Digest, desc.Size, errdefs.ErrInvalidArgument)
	}
	return content.ReadBlob(ctx, e.content, desc)
}

func (e *Engine) readJSON(ctx context.Context, desc ocispec.Descriptor, v any) error {
	b, err := e.readRaw(ctx, desc)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("%s: %w: %w", desc.Digest, errdefs.ErrInvalidArgument, err)
	}
	return nil
}

// Inspect implements engine.Images.
func (s imageStore) Inspect(ctx context.Context, dgst, platform string) (engine.Image, error) {
	img, err := s.e.inspect(nsctx(ctx), dgst, platform)
	if err != nil {
		return engine.Image{}, fmt.Errorf("image %s: %w", dgst, err)
	}
	return img, nil
}

func (e *Engine) inspect(ctx context.Context, dgst, platform string) (engine.Image, error) {
	f, err := e.find(ctx, dgst, platform)
	if err != nil {
		return engine.Image{}, err
	}
	size := f.desc.Size
	for _, d := range append([]ocispec.Descriptor{f.manifest.Config}, f.manifest.Layers...) {
		info, err := e.content.Info(ctx, d.Digest)
		if err != nil {
			return engine.Image{}, err
		}
		size += info.Size
	}
	c := f.config.Config
	img := engine.Image{
		Digest: dgst, ConfigDigest: f.manifest.Config.Digest.String(), Platforms: f.platforms, Size: size,
		User: c.User, Env: c.Env, Entrypoint: c.Entrypoint, Command: c.Cmd, Dir: c.WorkingDir, Labels: c.Labels,
		StopSignal: c.StopSignal, Ports: slices.Sorted(maps.Keys(c.ExposedPorts)), Volumes: slices.Sorted(maps.Keys(c.Volumes)),
	}
	if f.config.Created != nil {
		img.Created = *f.config.Created
	}
	return img, nil
}

// Hold implements engine.Images.
func (s imageStore) Hold(ctx context.Context, id, dgst string) error {
	if id == "" {
		return fmt.Errorf("a hold without an id: %w", errdefs.ErrInvalidArgument)
	}
	if err := s.e.hold(nsctx(ctx), id, dgst, nil); err != nil {
		return fmt.Errorf("hold %s of image %s: %w", id, dgst, err)
	}
	s.e.sync()
	return nil
}

// hold makes or moves a hold; durable is it with the next sync.
func (e *Engine) hold(ctx context.Context, id, dgst string, labels map[string]string) error {
	desc, err := e.describe(ctx, dgst)
	if err != nil {
		return err
	}
	img := images.Image{Name: holdPrefix + id, Target: desc, Labels: labels}
	for {
		_, err := e.images.Update(ctx, img)
		if errdefs.IsNotFound(err) {
			_, err = e.images.Create(ctx, img)
			if errdefs.IsAlreadyExists(err) {
				continue
			}
		}
		if err != nil {
			return err
		}
		break
	}
	// The collector may have been faster.
	if _, err := e.content.Info(ctx, desc.Digest); err != nil {
		return errors.Join(err, e.images.Delete(ctx, img.Name))
	}
	return nil
}

// Release implements engine.Images.
func (s imageStore) Release(ctx context.Context, id string) error {
	err := s.e.images.Delete(nsctx(ctx), holdPrefix+id)
	if err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("release hold %s: %w", id, err)
	}
	return nil
}

// Holds implements engine.Images.
func (s imageStore) Holds(ctx context.Context, prefix string) (map[string]string, error) {
	list, err := s.e.images.List(nsctx(ctx))
	if err != nil {
		return nil, fmt.Errorf("list the holds: %w", err)
	}
	out := map[string]string{}
	for _, i := range list {
		if id, ok := strings.CutPrefix(i.Name, holdPrefix); ok && strings.HasPrefix(id, prefix) {
			out[id] = i.Target.Digest.String()
		}
	}
	return out, nil
}

// fresh keeps content, and what it refers to, from the collector for a day at
// least. A lease of its own does it: the label that is said to expire content
// (expireLabel) keeps nothing in the collector's eyes. Leases that are over the
// collector takes itself.
func (e *Engine) fresh(ctx context.Context, dgst digest.Digest) error {
	id := fmt.Sprintf("%s%d-%s", freshPrefix, time.Now().Unix()/int64(freshFor.Seconds()), dgst)
	l, err := e.leases.Create(ctx, leases.WithID(id), leases.WithExpiration(2*freshFor))
	if errdefs.IsAlreadyExists(err) {
		l, err = leases.Lease{ID: id}, nil
	}
	if err == nil {
		err = e.leases.AddResource(ctx, l, leases.Resource{ID: dgst.String(), Type: "content"})
	}
	if err != nil {
		return fmt.Errorf("keep %s for a while: %w", dgst, err)
	}
	_, err = e.content.Info(ctx, dgst) // the collector may have been faster
	return err
}

// freshPrefix begins the leases of what came lately.
const freshPrefix = "fresh-"

func freshLabels() map[string]string {
	return map[string]string{expireLabel: time.Now().Add(freshFor).UTC().Format(time.RFC3339)}
}

// leased runs f with a lease that keeps what it makes until it has returned.
func (e *Engine) leased(ctx context.Context, f func(context.Context) error) error {
	l, err := e.leases.Create(ctx, leases.WithRandomID(), leases.WithExpiration(stepTemp))
	if err != nil {
		return err
	}
	err = f(leases.WithLease(ctx, l.ID))
	if derr := e.leases.Delete(context.WithoutCancel(ctx), l); !errdefs.IsNotFound(derr) {
		err = errors.Join(err, derr)
	}
	return err
}

// rootfs gives the key of the snapshot with the file system of an image, which
// is unpacked if it was not yet, and the image's configuration. The snapshot
// stays for as long as the image is held. Unpacking ends with the engine alone,
// which waits for whoever calls this.
func (e *Engine) rootfs(ctx context.Context, dgst, platform string) (key string, cfg ocispec.Image, err error) {
	ctx = nsctx(ctx)
	f, err := e.find(ctx, dgst, platform)
	if err != nil {
		return "", cfg, err
	}
	if key, ok := e.unpacked(ctx, f); ok {
		return key, f.config, nil
	}
	// Not with the caller's context: others may wait for it too.
	_, err, _ = e.builder.unpacking.Do(f.manifest.Config.Digest.String(), func() (any, error) {
		return nil, e.leased(nsctx(e.ctx), func(ctx context.Context) error { return e.unpack(ctx, f) })
	})
	if err != nil {
		return "", cfg, fmt.Errorf("unpack: %w", err)
	}
	return chainKey(f.config.RootFS.DiffIDs), f.config, nil
}

// unpacked gives the snapshot of an image if there is one.
func (e *Engine) unpacked(ctx context.Context, f found) (string, bool) {
	info, err := e.content.Info(ctx, f.manifest.Config.Digest)
	if err != nil {
		return "", false
	}
	if info.Labels[snapshotLabel] == "" {
		return "", len(f.manifest.Layers) == 0
	}
	_, err = e.snap.Stat(ctx, info.Labels[snapshotLabel])
	return info.Labels[snapshotLabel], err == nil
}

// chainKey is the name of the snapshot of these layers. It is that of the
// builder, so that an image that was run is not unpacked again for a FROM.
func chainKey(diffs []digest.Digest) string {
	if len(diffs) == 0 {
		return ""
	}
	return snapshot.LayerSnapshotID(identity.ChainID(diffs))
}

// unpack makes the snapshots of the layers that have none.
func (e *Engine) unpack(ctx context.Context, f found) error {
	diffs, layers := f.config.RootFS.DiffIDs, f.manifest.Layers
	if len(diffs) != len(layers) {
		return fmt.Errorf("the image has %d layers, its configuration %d: %w", len(layers), len(diffs), errdefs.ErrInvalidArgument)
	}
	applier := apply.NewFileSystemApplier(e.content)
	for i, layer := range layers {
		key := chainKey(diffs[:i+1])
		if _, err := e.snap.Stat(ctx, key); err == nil {
			continue
		} else if !errdefs.IsNotFound(err) {
			return err
		}
		active := "unpack-" + newID() + " " + key
		ms, err := e.snap.Prepare(ctx, active, chainKey(diffs[:i]))
		if err != nil {
			return err
		}
		got, err := applier.Apply(ctx, layer, ms)
		if err == nil && got.Digest != diffs[i] {
			err = fmt.Errorf("layer %s unpacks to %s, not to %s: %w", layer.Digest, got.Digest, diffs[i], errdefs.ErrInvalidArgument)
		}
		if err == nil {
			err = e.snap.Commit(ctx, key, active)
		}
		if err != nil {
			_ = e.snap.Remove(context.WithoutCancel(ctx), active)
			if !errdefs.IsAlreadyExists(err) {
				return err
			}
		}
	}
	return e.label(ctx, f.manifest.Config.Digest, chainKey(diffs))
}

// label notes which snapshot an image has, and so keeps it.
func (e *Engine) label(ctx context.Context, config digest.Digest, key string) error {
	if key == "" {
		return nil
	}
	_, err := e.content.Update(ctx, content.Info{Digest: config, Labels: map[string]string{snapshotLabel: key}}, "labels."+snapshotLabel)
	return err
}
