package local

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/moby/buildkit/cache"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	"github.com/moby/buildkit/executor"
	"github.com/moby/buildkit/frontend"
	"github.com/moby/buildkit/frontend/gateway/forwarder"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/solver"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/source"
	"github.com/moby/buildkit/source/containerimage"
	bkhttp "github.com/moby/buildkit/source/http"
	srctypes "github.com/moby/buildkit/source/types"
	"github.com/moby/buildkit/worker"
	"github.com/moby/buildkit/worker/base"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"slipway/engine"
)

const (
	// fromPrefix begins the names of the image records of base images that a
	// workspace's builds brought: "from/<workspace>/<reference>".
	fromPrefix = "from/"
	// fromKept is how long such an image is kept after its last use, and
	// fromTouch how exactly that is noted.
	fromKept, fromTouch = 7 * 24 * time.Hour, 24 * time.Hour
	imageScheme         = srctypes.DockerImageScheme + "://"
	// diffAnnotation tells BuildKit the digest of a layer without compression.
	diffAnnotation = "containerd.io/uncompressed"
)

// dockerfiles is the frontend: BuildKit's, with our answers to names of images.
type dockerfiles struct{ r *room }

// Solve implements frontend.Frontend.
func (d dockerfiles) Solve(ctx context.Context, up frontend.FrontendLLBBridge, x executor.Executor, opt map[string]string, in map[string]*pb.Definition, sid string, sm *session.Manager) (*frontend.Result, error) {
	d.r.mu.Lock()
	b := d.r.builds[sid]
	d.r.mu.Unlock()
	if b == nil {
		return nil, fmt.Errorf("no build has the session %s", sid)
	}
	return forwarder.NewGatewayForwarder(d.r.wc.Infos(), b.front).Solve(ctx, bridge{up, b}, x, opt, in, sid, sm)
}

// bridge stands between the frontend and the solver.
type bridge struct {
	frontend.FrontendLLBBridge
	b *building
}

// Solve implements frontend.FrontendLLBBridge. It puts limits on the steps;
// they are no part of what makes a step the same as one in the cache. And it says
// where else steps are looked for.
func (br bridge) Solve(ctx context.Context, req frontend.SolveRequest, sid string) (*frontend.Result, error) {
	if req.Definition != nil {
		for _, md := range req.Definition.Metadata {
			md.LinuxResources = br.b.limits
		}
		req.CacheImports = br.b.imports()
	}
	return br.FrontendLLBBridge.Solve(ctx, req, sid)
}

// ResolveSourceMetadata implements frontend.FrontendLLBBridge: a name becomes a
// digest here, whose image is in the store when it returns. So BuildKit itself
// never asks a registry.
func (br bridge) ResolveSourceMetadata(ctx context.Context, op *pb.SourceOp, opt sourceresolver.Opt) (*sourceresolver.MetaResponse, error) {
	ref, ok := strings.CutPrefix(op.Identifier, imageScheme)
	if !ok {
		return br.FrontendLLBBridge.ResolveSourceMetadata(ctx, op, opt)
	}
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return nil, err
	}
	platform := platforms.DefaultSpec()
	if opt.ImageOpt != nil && opt.ImageOpt.Platform != nil {
		platform = *opt.ImageOpt.Platform
	}
	d, err := br.b.base(ctx, reference.TagNameOnly(named), platforms.FormatAll(platforms.Normalize(platform)))
	if err != nil {
		return nil, err
	}
	br.b.room.w.grant(d)
	pinned, err := reference.WithDigest(named, d)
	if err != nil {
		return nil, err
	}
	op = op.CloneVT()
	op.Identifier = imageScheme + pinned.String()
	return br.FrontendLLBBridge.ResolveSourceMetadata(ctx, op, opt)
}

// base finds a base image: what the caller knows, what an earlier build of this
// workspace brought, what the registry has.
func (b *building) base(ctx context.Context, ref reference.Named, platform string) (digest.Digest, error) {
	ctx = nsctx(ctx)
	e, name := b.e, ref.String()
	if b.spec.Lookup != nil {
		d, err := b.spec.Lookup(ctx, name)
		switch {
		case err == nil:
			if _, err = e.find(ctx, d, platform); err == nil {
				return digest.Digest(d), nil
			}
			b.log.note(fmt.Sprintf("%s is here as %s, which is not usable: %v", reference.FamiliarString(ref), d, err))
		case ctx.Err() != nil:
			return "", context.Cause(ctx)
		case errors.Is(err, engine.ErrNoImage):
			return "", fmt.Errorf("%s: %w", reference.FamiliarString(ref), engine.ErrNoImage)
		case !errdefs.IsNotFound(err):
			return "", &machinery{fmt.Errorf("look for %s: %w", name, err)}
		}
	}
	record := fromPrefix + b.spec.Workspace + "/" + platform + "/" + name
	have := b.brought(ctx, record, platform)
	_, pinned := ref.(reference.Digested)
	tagged, _ := ref.(reference.Tagged)
	ask := b.spec.Pull || !pinned && tagged != nil && tagged.Tag() == "latest"
	if have != "" && (!ask || pinned) {
		return have, nil
	}
	spec := engine.PullSpec{Ref: name, Platform: platform, Logins: b.spec.Logins}
	d, err := b.bring(ctx, ref, spec, have)
	if err != nil {
		if have != "" && errdefs.IsUnavailable(err) {
			b.log.note(fmt.Sprintf("%s is taken as it is here: %v", reference.FamiliarString(ref), err))
			return have, nil
		}
		return "", err
	}
	return d, b.remember(ctx, record, d)
}

// bring asks the registry, and takes the image from it if it is not have.
func (b *building) bring(ctx context.Context, ref reference.Named, spec engine.PullSpec, have digest.Digest) (digest.Digest, error) {
	if have != "" {
		d, err := imageStore{b.e}.Head(ctx, spec)
		if err != nil || d == have.String() {
			return have, err
		}
	}
	b.log.note("pulling " + reference.FamiliarString(ref))
	begun := time.Now()
	desc, err := b.e.pull(ctx, spec)
	if err != nil {
		return "", err
	}
	b.log.note(fmt.Sprintf("pulled %s in %.1fs", reference.FamiliarString(ref), time.Since(begun).Seconds()))
	return desc.Digest, nil
}

// brought is the base image that an earlier build brought under that name; ""
// if there is none, or a part of it is gone.
func (b *building) brought(ctx context.Context, record, platform string) digest.Digest {
	img, err := b.e.images.Get(ctx, record)
	if err != nil {
		return ""
	}
	if _, err := b.e.inspect(ctx, img.Target.Digest.String(), platform); err != nil {
		return ""
	}
	if at, err := time.Parse(time.RFC3339, img.Labels[expireLabel]); err == nil && time.Until(at) < fromKept-fromTouch {
		if err := b.remember(ctx, record, img.Target.Digest); err != nil {
			return ""
		}
	}
	return img.Target.Digest
}

// remember keeps a base image for the next build of this workspace.
func (b *building) remember(ctx context.Context, record string, d digest.Digest) error {
	desc, err := b.e.describe(ctx, d.String())
	if err != nil {
		return err
	}
	img := images.Image{Name: record, Target: desc, Labels: map[string]string{expireLabel: time.Now().Add(fromKept).UTC().Format(time.RFC3339)}}
	_, err = b.e.images.Update(ctx, img)
	if errdefs.IsNotFound(err) {
		_, err = b.e.images.Create(ctx, img)
	}
	if errdefs.IsAlreadyExists(err) { // another build was faster
		return nil
	}
	return err
}

// buildWorker is BuildKit's worker with sources of our own.
type buildWorker struct {
	*base.Worker
	r *room
}

// sources replaces what would reach out from the host.
func (w *buildWorker) sources() error {
	web, err := bkhttp.NewSource(bkhttp.Opt{CacheAccessor: w.CacheMgr, Transport: w.r.e.webTransport()})
	if err != nil {
		return err
	}
	w.HTTPSource, w.GitSource = web, nil
	w.SourceManager.Register(web)
	w.SourceManager.Register(noGit{})
	w.SourceManager.Register(imageSource{w.ImageSource, w})
	return nil
}

// Platforms implements worker.Worker. What else this host can run is looked up
// only when it is asked for.
func (w *buildWorker) Platforms(bool) []ocispec.Platform { return w.WorkerOpt.Platforms }

// ownerWorker is the worker of a room for builds that have the same cache mounts.
type ownerWorker struct {
	*buildWorker
	mounts string // begins the names of their cache mounts
}

// ResolveOp implements worker.Worker. BuildKit has one list of cache mounts for
// all workers of a process, by their ids; so each id gets the name of who has it.
func (w *ownerWorker) ResolveOp(v solver.Vertex, up frontend.FrontendLLBBridge, sm *session.Manager, proxy worker.ProxyOpt) (solver.Op, error) {
	op, ok := v.Sys().(*pb.Op)
	if ok && op.GetExec() != nil {
		op = op.CloneVT()
		for _, m := range op.GetExec().Mounts {
			if m.CacheOpt != nil {
				m.CacheOpt.ID = w.mounts + m.CacheOpt.ID
			}
		}
		v = changed{v, op}
	}
	return w.Worker.ResolveOp(v, up, sm, proxy)
}

// changed is a vertex with another operation.
type changed struct {
	solver.Vertex
	op *pb.Op
}

// Sys implements solver.Vertex.
func (c changed) Sys() any { return c.op }

// grant notes that builds of this workspace may use an image.
func (w *buildWorker) grant(d digest.Digest) {
	w.r.mu.Lock()
	defer w.r.mu.Unlock()
	if w.r.granted == nil {
		w.r.granted = map[digest.Digest]bool{}
	}
	w.r.granted[d] = true
}

func (w *buildWorker) mayUse(d digest.Digest) bool {
	w.r.mu.Lock()
	defer w.r.mu.Unlock()
	return w.r.granted[d]
}

// ResolveSourceMetadata implements worker.Worker: images are in the store.
func (w *buildWorker) ResolveSourceMetadata(ctx context.Context, op *pb.SourceOp, opt sourceresolver.Opt, sm *session.Manager, job solver.JobContext) (*sourceresolver.MetaResponse, error) {
	ref, ok := strings.CutPrefix(op.Identifier, imageScheme)
	if !ok {
		return w.Worker.ResolveSourceMetadata(ctx, op, opt, sm, job)
	}
	id, err := containerimage.NewImageIdentifier(ref)
	if err != nil {
		return nil, err
	}
	platform := ""
	if opt.ImageOpt != nil && opt.ImageOpt.Platform != nil {
		platform = platforms.FormatAll(*opt.ImageOpt.Platform)
	}
	f, err := w.image(ctx, id, platform)
	if err != nil {
		return nil, err
	}
	cfg, err := w.r.e.readRaw(nsctx(ctx), f.manifest.Config) // also what the OCI type has no place for, as ONBUILD
	if err != nil {
		return nil, err
	}
	return &sourceresolver.MetaResponse{Op: op, Image: &sourceresolver.ResolveImageResponse{Digest: id.Reference.Digest(), Config: cfg}}, nil
}

// image finds the image of an identifier, which names a digest that the
// workspace may use.
func (w *buildWorker) image(ctx context.Context, id *containerimage.ImageIdentifier, platform string) (found, error) {
	d := id.Reference.Digest()
	if d == "" || !w.mayUse(d) {
		return found{}, fmt.Errorf("%s was not resolved: %w", id.Reference, errdefs.ErrPermissionDenied)
	}
	return w.r.e.find(nsctx(ctx), d.String(), platform)
}

// imageSource gives the layers of images of the store.
type imageSource struct {
	*containerimage.Source
	w *buildWorker
}

// Resolve implements source.Source.
func (s imageSource) Resolve(_ context.Context, id source.Identifier, _ *session.Manager, _ solver.Vertex) (source.SourceInstance, error) {
	img, ok := id.(*containerimage.ImageIdentifier)
	if !ok {
		return nil, fmt.Errorf("%T names no image", id)
	}
	platform := ""
	if img.Platform != nil {
		platform = platforms.FormatAll(platforms.Normalize(*img.Platform))
	}
	return &imageInstance{s.w, img, platform}, nil
}

type imageInstance struct {
	w        *buildWorker
	id       *containerimage.ImageIdentifier
	platform string
}

// CacheKey implements source.SourceInstance.
func (i *imageInstance) CacheKey(ctx context.Context, _ solver.JobContext, _ int) (key, pin string, opts solver.CacheOpts, done bool, err error) {
	f, err := i.w.image(ctx, i.id, i.platform)
	if err != nil {
		return "", "", nil, false, err
	}
	return digest.FromString("image " + f.desc.Digest.String()).String(), i.id.Reference.Digest().String(), nil, true, nil
}

// Snapshot implements source.SourceInstance.
func (i *imageInstance) Snapshot(ctx context.Context, _ solver.JobContext) (ref cache.ImmutableRef, err error) {
	f, err := i.w.image(ctx, i.id, i.platform)
	if err != nil {
		return nil, err
	}
	diffs := f.config.RootFS.DiffIDs
	if len(diffs) != len(f.manifest.Layers) {
		return nil, fmt.Errorf("%s: %d layers, %d in the configuration: %w", i.id.Reference, len(f.manifest.Layers), len(diffs), errdefs.ErrInvalidArgument)
	}
	for n, layer := range f.manifest.Layers {
		parent := ref
		layer.Annotations = map[string]string{diffAnnotation: diffs[n].String()}
		ref, err = i.w.CacheMgr.GetByBlob(ctx, layer, parent, cache.WithImageRef(i.id.Reference.String()))
		if parent != nil {
			_ = parent.Release(context.WithoutCancel(ctx))
		}
		if err != nil {
			return nil, err
		}
	}
	if ref == nil {
		return nil, nil
	}
	for _, d := range []digest.Digest{f.desc.Digest, f.manifest.Config.Digest} {
		if err := i.w.LeaseManager().AddResource(ctx, leases.Lease{ID: ref.ID()}, leases.Resource{ID: d.String(), Type: "content"}); err != nil {
			return nil, errors.Join(err, ref.Release(context.WithoutCancel(ctx)))
		}
	}
	return ref, nil
}

// noGit answers for git repositories in ADD. BuildKit would run git on the
// host, in the host's network.
type noGit struct{}

func (noGit) Schemes() []string { return []string{srctypes.GitScheme} }

func (noGit) Identifier(string, string, map[string]string, *pb.Platform) (source.Identifier, error) {
	return nil, errors.New("ADD of a git repository is not possible here: let a step clone it (RUN git clone ...)")
}

func (noGit) Resolve(context.Context, source.Identifier, *session.Manager, solver.Vertex) (source.SourceInstance, error) {
	return nil, errdefs.ErrNotImplemented
}

// webTransport is for ADD of a URL, which is fetched from the host's network.
// It goes only where a step could go: neither to this host nor to a container.
func (e *Engine) webTransport() *http.Transport {
	d := &net.Dialer{Timeout: 30 * time.Second, Control: func(_, address string, _ syscall.RawConn) error {
		host, _, err := net.SplitHostPort(address)
		if err != nil {
			return err
		}
		ip := net.ParseIP(host)
		if ip == nil || e.own(ip) {
			return fmt.Errorf("builds may not reach %s: %w", host, errdefs.ErrPermissionDenied)
		}
		return nil
	}}
	return &http.Transport{DialContext: d.DialContext, TLSHandshakeTimeout: 30 * time.Second, ResponseHeaderTimeout: time.Minute, IdleConnTimeout: 30 * time.Second}
}

// own tells whether an address is this host's, or one that only it can reach.
func (e *Engine) own(ip net.IP) bool {
	if ip.IsLoopback() || ip.IsLinkLocalUnicast() || ip.IsLinkLocalMulticast() || ip.IsMulticast() || ip.IsUnspecified() {
		return true
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return true
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && n.IP.Equal(ip) {
			return true
		}
	}
	if v4 := ip.To4(); v4 != nil && v4[0] == 10 {
		e.net.mu.Lock()
		defer e.net.mu.Unlock()
		for _, b := range e.net.plan.Bases {
			if v4[1] == b {
				return true
			}
		}
	}
	return false
}
