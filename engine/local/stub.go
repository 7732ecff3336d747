package local

import (
	"context"

	resourcestypes "github.com/moby/buildkit/executor/resources/types"
	bknet "github.com/moby/buildkit/util/network"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"slipway/engine"
)

type (
	cgroups  struct{}
	network  struct{}
	monitors struct{}
	monitor  struct{}
	views    struct{}
	runs     struct{}
	services struct{}
	volumes  struct{}
)

func (e *Engine) openCgroups() error                     { return nil }
func (e *Engine) openMonitors() error                    { e.monitors = &monitors{}; return nil }
func (e *Engine) openNetwork() error                     { e.net = &network{}; return nil }
func (e *Engine) openServices(ctx context.Context) error { return nil }
func (e *Engine) openRuns(ctx context.Context) error     { return nil }
func (e *Engine) sweep() error                           { return nil }

func (m *monitors) close()                     {}
func (m *monitors) all(kind string) []*monitor { return nil }
func (n *network) close() error                { return nil }

// gateway is where containers of the default network send their DNS questions.
func (n *network) gateway() string { panic("unwritten") }

// New is BuildKit's way to ask for a namespace of the pool.
func (n *network) New(ctx context.Context, hostname string, o bknet.NamespaceOptions) (bknet.Namespace, error) {
	panic("unwritten")
}

// Close implements BuildKit's network provider; the engine closes it itself.
func (n *network) Close() error { return nil }

var (
	_ bknet.Provider
	_ *resourcestypes.NetworkSample
	_ specs.Spec
)

func (e *Engine) Run(ctx context.Context, id string, spec engine.RunSpec) (engine.Exit, error) {
	panic("unwritten")
}
func (e *Engine) Forget(ctx context.Context, id string) error { panic("unwritten") }
func (e *Engine) Observe(ctx context.Context, owner engine.Owner) ([]engine.Instance, error) {
	panic("unwritten")
}
func (e *Engine) Apply(ctx context.Context, owner engine.Owner, c engine.Change) error {
	panic("unwritten")
}
func (e *Engine) Changed() <-chan engine.Owner                       { panic("unwritten") }
func (e *Engine) Volumes() engine.Volumes                            { panic("unwritten") }
func (e *Engine) Owners(ctx context.Context) ([]engine.Owner, error) { panic("unwritten") }
func (e *Engine) Remove(ctx context.Context, o engine.Owner) error   { panic("unwritten") }

// volumeDir is the directory of a volume, for builds that take their context
// from it. Its content is not to be trusted.
func (e *Engine) volumeDir(id string) (string, error) { panic("unwritten") }
