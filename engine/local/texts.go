package local

import (
	"context"
	"fmt"
	"io/fs"

	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/solver/pb"
	"github.com/tonistiigi/fsutil/types"
)

// ignoreName is the file of a context that says what is not part of it.
const ignoreName = ".dockerignore"

// texts are the files that say what to build, by name. A file that is not there
// is in none of them.
type texts struct {
	dockerfile map[string][]byte // and an ignore file of its own
	context    map[string][]byte // the ignore file
}

// knowing answers for sources that ask for nothing but texts: to have them sent
// to the cache, committed and mounted, only to be read once, costs more than all
// the rest of a build whose steps are in the cache.
type knowing struct {
	client.Client
	texts texts
}

// Solve implements client.Client.
func (k knowing) Solve(ctx context.Context, req client.SolveRequest) (*client.Result, error) {
	files, err := k.asked(req.Definition)
	if err != nil {
		return nil, err
	}
	if files == nil {
		return k.Client.Solve(ctx, req)
	}
	res := client.NewResult()
	res.SetRef(inMemory(files))
	return res, nil
}

// asked gives the files that a definition is for, nil if it is for others too.
func (k knowing) asked(def *pb.Definition) (map[string][]byte, error) {
	if def == nil || len(def.Def) != 2 { // a source, and that it is the result
		return nil, nil
	}
	var op pb.Op
	if err := op.UnmarshalVT(def.Def[0]); err != nil {
		return nil, fmt.Errorf("read a step: %w", err)
	}
	switch s := op.GetSource(); {
	case s.GetIdentifier() == "local://dockerfile":
		return k.texts.dockerfile, nil
	case s.GetIdentifier() == "local://context" && s.Attrs[pb.AttrFollowPaths] == `["`+ignoreName+`"]`:
		return k.texts.context, nil
	}
	return nil, nil
}

// inMemory is the result of a source that is not anywhere else.
type inMemory map[string][]byte

var _ client.Reference = inMemory{}

// ToState implements client.Reference.
func (inMemory) ToState() (llb.State, error) {
	return llb.State{}, fmt.Errorf("texts are no part of a build: %w", fs.ErrInvalid)
}

// Evaluate implements client.Reference.
func (inMemory) Evaluate(context.Context) error { return nil }

// ReadFile implements client.Reference.
func (m inMemory) ReadFile(_ context.Context, req client.ReadRequest) ([]byte, error) {
	text, ok := m[rel(req.Filename)]
	if !ok {
		return nil, &fs.PathError{Op: "read", Path: req.Filename, Err: fs.ErrNotExist}
	}
	if r := req.Range; r != nil {
		text = text[min(max(r.Offset, 0), len(text)):]
		if r.Length > 0 {
			text = text[:min(r.Length, len(text))]
		}
	}
	return text, nil
}

// StatFile implements client.Reference.
func (m inMemory) StatFile(_ context.Context, req client.StatRequest) (*types.Stat, error) {
	text, ok := m[rel(req.Path)]
	if !ok {
		return nil, &fs.PathError{Op: "stat", Path: req.Path, Err: fs.ErrNotExist}
	}
	return &types.Stat{Path: req.Path, Mode: 0o644, Size: int64(len(text))}, nil
}

// ReadDir implements client.Reference.
func (inMemory) ReadDir(context.Context, client.ReadDirRequest) ([]*types.Stat, error) {
	return nil, fmt.Errorf("texts are in no directory: %w", fs.ErrInvalid)
}
