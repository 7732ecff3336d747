package local

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/moby/buildkit/cache"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/exporter"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	"github.com/moby/buildkit/frontend"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/filesync"
	"github.com/moby/buildkit/session/secrets/secretsprovider"
	bkerrdefs "github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/solver/llbsolver"
	"github.com/moby/buildkit/solver/llbsolver/compat"
	"github.com/moby/buildkit/solver/llbsolver/proc"
	provenancetypes "github.com/moby/buildkit/solver/llbsolver/provenance/types"
	"github.com/moby/buildkit/util/archutil"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/test/bufconn"

	"slipway/engine"
)

// statusTime is how long the reports of a build may take to end after it.
const statusTime = 5 * time.Second

// solve lets BuildKit work, in this process, without its control service.
func (b *building) solve(ctx context.Context, dockerfile string, tree contextFS) error {
	r := b.room
	key := b.sharedKey()
	tree.marks = r.contextMarks(key)
	if b.spec.Source.Volume != "" && tree.marks.known() { // an archive is unpacked anew each time
		b.written = &written{names: map[string]bool{}}
		tree.written = b.written
	}
	sess, err := session.NewSession(ctx, key)
	if err != nil {
		return &machinery{err}
	}
	sess.Allow(filesync.NewFSSyncProvider(filesync.StaticDirSource{"context": tree}))
	values := map[string][]byte{}
	for _, s := range b.spec.Secrets {
		values[s.ID] = s.Value
	}
	sess.Allow(secretsprovider.FromMap(values))
	r.mu.Lock()
	r.builds[sess.ID()] = b
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		delete(r.builds, sess.ID())
		r.mu.Unlock()
	}()
	own, scope, done, err := b.shelves()
	if err != nil {
		return &machinery{err}
	}
	defer done()
	solver, err := own.solver(b.spec.Cache.Mounts())
	if err != nil {
		return &machinery{err}
	}
	exp, err := r.w.Exporter(client.ExporterImage, r.sessions)
	if err != nil {
		return &machinery{err}
	}
	inst, err := exp.Resolve(ctx, 0, b.exportAttributes())
	if err != nil {
		return &machinery{err}
	}
	var post []llbsolver.Processor
	if scope != nil && b.spec.Cache.Give != engine.GiveNothing {
		post = append(post, b.gives(own, scope))
	}
	if b.spec.Provenance != "" {
		post = append(post, proc.ProvenanceProcessor(provenancetypes.ProvenanceSLSA1, map[string]string{"mode": b.spec.Provenance}, nil))
	}

	// The session and the reports outlive a cancel: they tell of it.
	outer, stop := context.WithCancelCause(context.WithoutCancel(ctx))
	defer stop(nil)
	job := newID()
	var g errgroup.Group
	g.Go(func() error { return sess.Run(outer, r.dial) })
	reports := make(chan *client.SolveStatus, 16)
	g.Go(func() error {
		b.log.follow(reports)
		return nil
	})
	g.Go(func() error { return solver.Status(outer, job, reports) })
	_, err = solver.Solve(ctx, job, sess.ID(), frontend.SolveRequest{Frontend: "dockerfile.v0", FrontendOpt: b.attributes(dockerfile)},
		compat.CompatibilityVersionCurrent, llbsolver.ExporterRequest{Exporters: []exporter.ExporterInstance{handing{inst, b}}},
		nil, post, true, nil, "", false)
	_ = sess.Close()
	late := time.AfterFunc(statusTime, func() { stop(errors.New("the reports of the build did not end")) })
	defer late.Stop()
	if gerr := g.Wait(); gerr != nil && err == nil {
		b.e.log.Debug("the reports of a build ended early", "build", b.id, "err", gerr)
	}
	return err
}

// sharedKey tells which earlier context of the workspace is compared with, so
// that only what is different is copied. It is another one whenever the room is
// opened: what was before is not known then.
func (b *building) sharedKey() string {
	from := b.spec.Source.Volume
	if from == "" {
		from = "archive " + b.spec.Name
	}
	return strings.Join([]string{b.room.opened, string(b.spec.Cache.Owner), from, rel(b.spec.Context)}, " ")
}

// dial connects a session to its manager.
func (r *room) dial(ctx context.Context, _ string, meta map[string][]string) (net.Conn, error) {
	l := bufconn.Listen(256 << 10)
	go func() {
		defer l.Close()
		if conn, err := l.Accept(); err == nil {
			_ = r.sessions.HandleConn(ctx, conn, meta) // ctx is the session's
		}
	}()
	return l.DialContext(ctx)
}

// handing is BuildKit's image exporter, which packs the layers and writes the
// manifest. Then the snapshots that the steps left are handed over: they are
// the unpacked image already.
type handing struct {
	exporter.ExporterInstance
	b *building
}

// Export implements exporter.ExporterInstance.
func (h handing) Export(ctx context.Context, src *exporter.Source, info exporter.ExportBuildInfo) (map[string]string, exporter.FinalizeFunc, exporter.DescriptorReference, error) {
	resp, fin, ref, err := h.ExporterInstance.Export(ctx, src, info)
	if err != nil {
		return resp, fin, ref, err
	}
	if err := h.handOver(nsctx(ctx), src, info.SessionID, resp[exptypes.ExporterImageDigestKey]); err != nil {
		if ref != nil {
			_ = ref.Release()
		}
		return nil, nil, nil, &machinery{fmt.Errorf("keep the image: %w", err)}
	}
	return resp, fin, ref, nil
}

func (h handing) handOver(ctx context.Context, src *exporter.Source, sid, dgst string) error {
	e := h.b.e
	list := map[string]cache.ImmutableRef{}
	if src.Ref != nil {
		list[h.b.onlyPlatform()] = src.Ref
	}
	if len(src.Refs) > 0 {
		ps, err := exptypes.ParsePlatforms(src.Metadata)
		if err != nil {
			return err
		}
		for _, p := range ps.Platforms {
			if ref := src.Refs[p.ID]; ref != nil {
				list[platforms.FormatAll(p.Platform)] = ref
			}
		}
	}
	for platform, ref := range list {
		if err := errors.Join(ref.Finalize(ctx), ref.Extract(ctx, session.NewGroup(sid))); err != nil {
			return err
		}
		key := ref.GetString("cache.snapshot")
		if key == "" {
			key = ref.ID()
		}
		f, err := e.find(ctx, dgst, platform)
		if err != nil {
			return err
		}
		if len(f.manifest.Layers) == 0 {
			continue
		}
		if err := e.label(ctx, f.manifest.Config.Digest, key); err != nil {
			return err
		}
	}
	var labels map[string]string
	if h.b.spec.Name != "" {
		labels = map[string]string{"slipway/name": h.b.spec.Name}
	}
	if err := e.hold(ctx, "build/"+h.b.id, dgst, labels); err != nil {
		return err
	}
	h.b.result = dgst
	return nil
}

func (b *building) onlyPlatform() string {
	if len(b.spec.Platforms) == 1 {
		return b.spec.Platforms[0]
	}
	return ""
}

// explain says why there is no image, in words for who wrote the Dockerfile;
// or gives an error if it is not theirs to mend.
func (b *building) explain(err error) (string, error) {
	var m *machinery
	if errors.As(err, &m) {
		return "", m.error
	}
	if errors.Is(err, unix.ENOSPC) || strings.Contains(err.Error(), unix.ENOSPC.Error()) {
		return "", fmt.Errorf("%w: %s", errdefs.ErrResourceExhausted, b.log.masked(err.Error()))
	}
	var f *failure
	if errors.As(err, &f) {
		return b.log.masked(f.text), nil
	}
	where := b.where(err)
	var exit *gwpb.ExitError
	if errors.As(err, &exit) && exit.ExitCode != 0 {
		return b.log.masked(where + exitText(exit, err, b.spec.Platforms)), nil
	}
	text := err.Error()
	for _, noise := range []string{"failed to solve: ", "dockerfile parse error on ", "failed to resolve source metadata for "} {
		text = strings.TrimPrefix(text, noise)
	}
	if _, after, ok := strings.Cut(text, "failed to calculate checksum of ref "); ok {
		if _, file, ok := strings.Cut(after, ": "); ok {
			file = strings.TrimSuffix(file, ": not found")
			text = file + " is not in the build context, or is left out by .dockerignore"
		}
	}
	return b.log.masked(where + text), nil
}

// where names the step and the line of the Dockerfile: "#3 [2/4] RUN make
// (Dockerfile line 7): ".
func (b *building) where(err error) string {
	var at []string
	var v *bkerrdefs.VertexError
	if errors.As(err, &v) && v.Vertex != nil {
		if s := b.log.step(v.Digest); s != "" {
			at = append(at, s)
		}
	}
	for _, s := range bkerrdefs.Sources(err) {
		if s.Info != nil && len(s.Ranges) > 0 && s.Ranges[0].Start != nil && s.Ranges[0].Start.Line > 0 {
			at = append(at, fmt.Sprintf("(%s line %d)", s.Info.Filename, s.Ranges[0].Start.Line))
			break
		}
	}
	if len(at) == 0 {
		return ""
	}
	return strings.Join(at, " ") + ": "
}

func exitText(x *gwpb.ExitError, err error, list []string) string {
	code := x.ExitCode
	text := fmt.Sprintf("exit code %d", code)
	switch {
	case strings.Contains(err.Error(), "exec format error") && foreign(list):
		return text + ": this machine cannot run programs of that platform; install qemu-user-static and restart the server"
	case strings.Contains(err.Error(), "cannot allocate memory"), strings.Contains(strings.ToLower(err.Error()), "oom"), code == 137:
		return text + ": the step was killed, most likely since it ran out of memory; give it more, or let it use less"
	case code == 127:
		return text + ": a program that it calls is not in the image; its output says which"
	case code == 126:
		return text + ": a program that it calls cannot be executed; its output says which"
	}
	return text + "; its output above says why"
}

// foreign tells whether there is a platform that this machine cannot run.
func foreign(list []string) bool {
	can := archutil.SupportedPlatforms(true)
	for _, p := range list {
		want, err := platforms.Parse(p)
		if err == nil && !slices.ContainsFunc(can, platforms.Only(want).Match) {
			return true
		}
	}
	return false
}

var _ engine.Builder = (*Engine)(nil)
