package local

import (
	"context"
	"errors"
	"fmt"
	"maps"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	"github.com/moby/buildkit/frontend/dockerfile/dockerfile2llb"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerui"
	"github.com/moby/buildkit/frontend/gateway/client"
	solvererrs "github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/util/flightcontrol"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// front turns the Dockerfile into steps and solves them, once for each
// platform. The library's own front writes to a shared field from several
// stages at once, answers requests that nobody can make here, and runs the image
// of a "# syntax=" line; ours has the language that is inside.
func (b *building) front(ctx context.Context, c client.Client) (_ *client.Result, err error) {
	c = knowing{c, b.texts}
	ui, err := dockerui.NewClient(c)
	if err != nil {
		return nil, err
	}
	text, err := ui.ReadEntrypoint(ctx, "Dockerfile")
	if err != nil {
		return nil, err
	}
	defer func() {
		var at *parser.LocationError
		if errors.As(err, &at) {
			for _, l := range at.Locations {
				err = located(err, text.SourceMap, l)
			}
		}
	}()
	base := dockerfile2llb.ConvertOpt{Config: ui.Config, Client: ui, SourceMap: text.SourceMap, MetaResolver: newBases(c)}
	res, err := ui.Build(ctx, func(ctx context.Context, p *ocispec.Platform, nth int) (*dockerui.BuildResult, error) {
		opt := base
		opt.BuildArgs, opt.TargetPlatform = maps.Clone(base.BuildArgs), p
		if nth == 0 { // the same for each platform
			opt.Warn = func(rule, about, url, msg string, at []parser.Range) {
				line := 0
				if len(at) > 0 {
					line = at[0].Start.Line
				}
				text.Warn(ctx, linter.LintFormatShort(rule, msg, line), client.WarnOpts{Level: 1, Detail: [][]byte{[]byte(about)}, URL: url, Range: ranges(at)})
			}
		}
		return solveStages(ctx, c, text.Data, opt, ui.CacheImports)
	})
	if err != nil {
		return nil, err
	}
	return res.Finalize()
}

// solveStages makes the image of one platform.
func solveStages(ctx context.Context, c client.Client, text []byte, opt dockerfile2llb.ConvertOpt, imports []client.CacheOptionsEntry) (*dockerui.BuildResult, error) {
	made, err := dockerfile2llb.Dockerfile2LLB(ctx, text, opt)
	if err != nil {
		return nil, err
	}
	def, err := made.State.Marshal(ctx)
	if err != nil {
		return nil, fmt.Errorf("write down the steps: %w", err)
	}
	r, err := c.Solve(ctx, client.SolveRequest{Definition: def.ToPB(), CacheImports: imports})
	if err != nil {
		return nil, err
	}
	ref, err := r.SingleRef()
	if err != nil {
		return nil, err
	}
	return &dockerui.BuildResult{Reference: ref, Image: made.Image, BaseImage: made.BaseImage, Epoch: made.Epoch}, nil
}

// bases finds each base image once in a build, however many stages begin with
// it; also what failed is not tried again.
type bases struct {
	c     client.Client
	group flightcontrol.CachedGroup[baseConfig]
}

type baseConfig struct {
	ref    string
	digest digest.Digest
	config []byte
}

func newBases(c client.Client) *bases {
	b := &bases{c: c}
	b.group.CacheError = true
	return b
}

// ResolveImageConfig implements llb.ImageMetaResolver.
func (b *bases) ResolveImageConfig(ctx context.Context, ref string, opt sourceresolver.Opt) (string, digest.Digest, []byte, error) {
	key := ref
	if o := opt.ImageOpt; o != nil {
		key += " " + o.ResolveMode
		if o.Platform != nil {
			key += " " + platforms.FormatAll(*o.Platform)
		}
	}
	got, err := b.group.Do(ctx, key, func(ctx context.Context) (baseConfig, error) {
		var got baseConfig
		var err error
		got.ref, got.digest, got.config, err = b.c.ResolveImageConfig(ctx, ref, opt)
		return got, err
	})
	return got.ref, got.digest, got.config, err
}

// located says where in the Dockerfile an error belongs.
func located(err error, m *llb.SourceMap, at []parser.Range) error {
	if m == nil {
		return err
	}
	return solvererrs.WithSource(err, &solvererrs.Source{
		Info:   &pb.SourceInfo{Data: m.Data, Filename: m.Filename, Language: m.Language, Definition: m.Definition.ToPB()},
		Ranges: ranges(at),
	})
}

func ranges(at []parser.Range) []*pb.Range {
	out := make([]*pb.Range, 0, len(at))
	for _, r := range at {
		out = append(out, &pb.Range{Start: position(r.Start), End: position(r.End)})
	}
	return out
}

func position(p parser.Position) *pb.Position {
	return &pb.Position{Line: int32(p.Line), Character: int32(p.Character)} //nolint:gosec // a place in a text
}
