package fake

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"runtime"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"slipway/engine"
)

type config = ocispec.Image

// host is a registry that is not open to all.
type host struct {
	user, password string
	gone, page     bool
}

type images struct{ e *Engine }

// Images implements engine.Engine.
func (e *Engine) Images() engine.Images { return images{e} }

func newConfig(cmd []string) config {
	at := epoch
	return config{
		Created:  &at,
		Platform: ocispec.Platform{OS: "linux", Architecture: runtime.GOARCH},
		Config:   ocispec.ImageConfig{Cmd: cmd, Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}},
	}
}

// make stores an image with one layer. w.mu is held.
func (w *world) make(cfg config, layer string) (string, error) {
	var files bytes.Buffer
	t := tar.NewWriter(&files)
	if err := t.WriteHeader(&tar.Header{Name: "layer", Mode: 0o644, Size: int64(len(layer))}); err != nil {
		return "", err
	}
	if _, err := io.WriteString(t, layer); err != nil {
		return "", err
	}
	if err := t.Close(); err != nil {
		return "", err
	}
	cfg.RootFS = ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromBytes(files.Bytes())}}
	cb, err := json.Marshal(cfg)
	if err != nil {
		return "", err
	}
	ld, cd := w.put(files.Bytes()), w.put(cb)
	ld.MediaType, cd.MediaType = ocispec.MediaTypeImageLayer, ocispec.MediaTypeImageConfig
	mb, err := json.Marshal(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Config: cd, Layers: []ocispec.Descriptor{ld},
	})
	if err != nil {
		return "", err
	}
	return w.putManifest(ocispec.MediaTypeImageManifest, mb)
}

// platform writes one, the host's if it is "".
func platform(p string) string {
	if p == "" {
		return "linux/" + runtime.GOARCH
	}
	return p
}

func platformOf(p *ocispec.Platform) string {
	if p == nil {
		return ""
	}
	s := p.OS + "/" + p.Architecture
	if p.Variant != "" {
		s += "/" + p.Variant
	}
	return s
}

// found is an image of the store for one platform.
type found struct {
	manifest  ocispec.Manifest
	config    config
	configs   []string // platforms of an index
	size      int64
	configDig string
}

// find looks an image up. w.mu is held.
func (w *world) find(d, plat string) (found, error) {
	b := w.blobs[d]
	if b == nil {
		return found{}, fmt.Errorf("image %s: %w", d, missing(d))
	}
	var idx ocispec.Index
	if err := json.Unmarshal(b.body, &idx); err != nil {
		return found{}, fmt.Errorf("image %s: %w: %w", d, errdefs.ErrInvalidArgument, err)
	}
	if len(idx.Manifests) > 0 {
		var all []string
		hit := ""
		for _, m := range idx.Manifests {
			p := platformOf(m.Platform)
			if p != "" && p != "unknown/unknown" {
				all = append(all, p)
			}
			if p == platform(plat) {
				hit = m.Digest.String()
			}
		}
		if hit == "" {
			return found{}, fmt.Errorf("image %s has no %s: %w", d, platform(plat), errdefs.ErrNotFound)
		}
		f, err := w.find(hit, plat)
		f.configs = all
		return f, err
	}
	var f found
	if err := json.Unmarshal(b.body, &f.manifest); err != nil || f.manifest.Config.Digest == "" {
		return found{}, fmt.Errorf("%s is not an image: %w", d, errdefs.ErrInvalidArgument)
	}
	f.size = int64(len(b.body))
	for _, k := range append([]ocispec.Descriptor{f.manifest.Config}, f.manifest.Layers...) {
		c := w.blobs[k.Digest.String()]
		if c == nil {
			return found{}, fmt.Errorf("image %s: %w", d, missing(k.Digest.String()))
		}
		f.size += int64(len(c.body))
	}
	f.configDig = f.manifest.Config.Digest.String()
	if err := json.Unmarshal(w.blobs[f.configDig].body, &f.config); err != nil {
		return found{}, fmt.Errorf("image %s: its configuration: %w: %w", d, errdefs.ErrInvalidArgument, err)
	}
	f.configs = []string{platformOf(&f.config.Platform)}
	if plat != "" && f.configs[0] != platform(plat) {
		return found{}, fmt.Errorf("image %s is for %s, not for %s: %w", d, f.configs[0], plat, errdefs.ErrNotFound)
	}
	return f, nil
}

// config gives the configuration of an image. w.mu is held.
func (w *world) config(d, plat string) (config, error) {
	f, err := w.find(d, plat)
	return f.config, err
}

func (w *world) inspect(d, plat string) (engine.Image, error) {
	f, err := w.find(d, plat)
	if err != nil {
		return engine.Image{}, err
	}
	c := f.config.Config
	img := engine.Image{
		Digest: d, ConfigDigest: f.configDig, Platforms: f.configs, Size: f.size, User: c.User, Env: c.Env,
		Entrypoint: c.Entrypoint, Command: c.Cmd, Dir: c.WorkingDir, Labels: c.Labels, StopSignal: c.StopSignal,
		Ports: slices.Sorted(maps.Keys(c.ExposedPorts)), Volumes: slices.Sorted(maps.Keys(c.Volumes)),
	}
	if f.config.Created != nil {
		img.Created = *f.config.Created
	}
	return img, nil
}

// remote finds what a registry has behind a reference. w.mu is held.
func (w *world) remote(ref string, logins []engine.Login) (string, error) {
	name, _, _ := strings.Cut(ref, "/")
	if err := w.enter(name, logins); err != nil {
		return "", fmt.Errorf("%s: %w", ref, err)
	}
	if d, ok := w.remotes[ref]; ok {
		return d, nil
	}
	if base, d, ok := strings.Cut(ref, "@"); ok {
		for r, have := range w.remotes {
			if have == d && strings.HasPrefix(r, base) {
				return d, nil
			}
		}
	}
	return "", fmt.Errorf("%s: the registry has no such image: %w", ref, errdefs.ErrNotFound)
}

// enter asks a registry to be let in. w.mu is held.
func (w *world) enter(name string, logins []engine.Login) error {
	h := w.hosts[name]
	if h == nil {
		return nil
	}
	if h.gone {
		return fmt.Errorf("registry %s cannot be reached: %w", name, errdefs.ErrUnavailable)
	}
	if h.page {
		return fmt.Errorf("%s does not answer as a registry: %w", name, errdefs.ErrFailedPrecondition)
	}
	for _, l := range logins {
		if l.Host == name && l.Username != "" {
			if l.Username == h.user && l.Password == h.password {
				return nil
			}
			return fmt.Errorf("registry %s refuses the login of user %s: %w", name, l.Username, errdefs.ErrUnauthenticated)
		}
	}
	return fmt.Errorf("registry %s wants a login: %w", name, errdefs.ErrUnauthenticated)
}

// Pull implements engine.Images.
func (i images) Pull(ctx context.Context, s engine.PullSpec) (engine.Image, error) {
	if err := i.e.call(ctx, "Pull", s.Ref); err != nil {
		return engine.Image{}, fmt.Errorf("pull %s: %w", s.Ref, err)
	}
	i.e.w.mu.Lock()
	defer i.e.w.mu.Unlock()
	d, err := i.e.w.remote(s.Ref, s.Logins)
	if err != nil {
		return engine.Image{}, fmt.Errorf("pull %w", err)
	}
	return i.e.w.inspect(d, platform(s.Platform))
}

// Head implements engine.Images.
func (i images) Head(ctx context.Context, s engine.PullSpec) (string, error) {
	if err := i.e.call(ctx, "Head", s.Ref); err != nil {
		return "", fmt.Errorf("head %s: %w", s.Ref, err)
	}
	i.e.w.mu.Lock()
	defer i.e.w.mu.Unlock()
	return i.e.w.remote(s.Ref, s.Logins)
}

// CheckLogin implements engine.Images.
func (i images) CheckLogin(ctx context.Context, l engine.Login) error {
	if err := i.e.call(ctx, "CheckLogin", l.Host); err != nil {
		return fmt.Errorf("check login: %w", err)
	}
	i.e.w.mu.Lock()
	defer i.e.w.mu.Unlock()
	err := i.e.w.enter(l.Host, []engine.Login{l})
	if l.Username == "" && errdefs.IsUnauthorized(err) {
		return nil
	}
	return err
}

// Push implements engine.Images.
func (i images) Push(ctx context.Context, d, ref string, logins []engine.Login) error {
	if err := i.e.call(ctx, "Push", d, ref); err != nil {
		return fmt.Errorf("push %s: %w", ref, err)
	}
	i.e.w.mu.Lock()
	defer i.e.w.mu.Unlock()
	if i.e.w.blobs[d] == nil {
		return fmt.Errorf("push %s: %w", ref, missing(d))
	}
	name, _, _ := strings.Cut(ref, "/")
	if err := i.e.w.enter(name, logins); err != nil {
		return fmt.Errorf("push %s: %w", ref, err)
	}
	i.e.w.remotes[ref] = d
	return nil
}

// Inspect implements engine.Images.
func (i images) Inspect(ctx context.Context, d, plat string) (engine.Image, error) {
	if err := i.e.call(ctx, "Inspect", d); err != nil {
		return engine.Image{}, err
	}
	i.e.w.mu.Lock()
	defer i.e.w.mu.Unlock()
	return i.e.w.inspect(d, plat)
}

// Hold implements engine.Images.
func (i images) Hold(ctx context.Context, id, d string) error {
	if err := i.e.call(ctx, "Hold", id, d); err != nil {
		return err
	}
	i.e.w.mu.Lock()
	defer i.e.w.mu.Unlock()
	if i.e.w.blobs[d] == nil {
		return fmt.Errorf("hold %s: %w", id, missing(d))
	}
	i.e.w.holds[id] = d
	return nil
}

// Release implements engine.Images.
func (i images) Release(ctx context.Context, id string) error {
	if err := i.e.call(ctx, "Release", id); err != nil {
		return err
	}
	i.e.w.mu.Lock()
	defer i.e.w.mu.Unlock()
	delete(i.e.w.holds, id)
	return nil
}

// Holds implements engine.Images.
func (i images) Holds(ctx context.Context, prefix string) (map[string]string, error) {
	if err := i.e.call(ctx, "Holds", prefix); err != nil {
		return nil, err
	}
	i.e.w.mu.Lock()
	defer i.e.w.mu.Unlock()
	out := map[string]string{}
	for id, d := range i.e.w.holds {
		if strings.HasPrefix(id, prefix) {
			out[id] = d
		}
	}
	return out, nil
}

// Collect drops what no hold leads to, as an engine does when it likes.
func (e *Engine) Collect() {
	e.w.mu.Lock()
	defer e.w.mu.Unlock()
	keep := map[string]bool{}
	for _, d := range e.w.holds {
		e.w.mark(d, keep)
	}
	for _, p := range e.w.all() {
		if p.run != nil && !p.ended() {
			e.w.mark(p.run.Image, keep)
		}
	}
	for _, i := range e.w.instances {
		e.w.mark(i.spec.Image, keep)
	}
	maps.DeleteFunc(e.w.blobs, func(d string, _ *blob) bool { return !keep[d] })
}

func (w *world) mark(d string, keep map[string]bool) {
	b := w.blobs[d]
	if keep[d] || b == nil {
		return
	}
	keep[d] = true
	kids, err := children("", b.body)
	if err != nil {
		return
	}
	for _, k := range kids {
		w.mark(k.Digest.String(), keep)
	}
}
