package local

import (
	"context"
	"io"

	"slipway/engine"
)

// builder is BuildKit's solver on the stores of this process.
type builder struct{}

// openBuilder sets e.builder.
func (e *Engine) openBuilder(ctx context.Context) error { return nil }

func (b *builder) close() error { return nil }

// Build implements engine.Builder.
func (e *Engine) Build(ctx context.Context, id string, spec engine.BuildSpec) (engine.BuildResult, error) {
	panic("unwritten")
}

// Images implements engine.Engine.
func (e *Engine) Images() engine.Images { panic("unwritten") }

// Blobs implements engine.Engine.
func (e *Engine) Blobs() engine.Blobs { panic("unwritten") }

var _ io.Reader
