package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// RuncVersion is that of the runc which is built in; build-runc.sh builds it.
const RuncVersion = "v1.5.2"

// RunDir is where the engine of that directory has its sockets and bundles.
// It is short, for a socket's path may have 107 bytes.
func RunDir(dir string) string {
	if abs, err := filepath.Abs(dir); err == nil {
		dir = abs
	}
	return "/run/slipway-" + instance(dir)
}

// StopAll ends all containers of an engine that nobody has open and removes
// what it has on the host but its directory. That there is no engine, or that
// it left nothing, is no error.
func StopAll(ctx context.Context, dir string) error {
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	e, err := Open(ctx, Options{Dir: dir, DataDir: filepath.Dir(dir)})
	if err != nil {
		return err
	}
	return e.Wipe(ctx)
}

// Verify checks the databases and the held images of an engine that nobody
// has open, and what more is to be checked of it.
func Verify(ctx context.Context, dir string, more func(context.Context, *Engine) error) error {
	e, err := Open(ctx, Options{Dir: dir, DataDir: filepath.Dir(dir)})
	if err != nil {
		return err
	}
	return errors.Join(e.Check(ctx), more(ctx, e), e.Close())
}

// Check looks whether every held image is there whole, and says so of each
// that is not. The databases are checked at Open, after an unclean end.
func (e *Engine) Check(ctx context.Context) error {
	holds, err := e.Images().Holds(ctx, "")
	if err != nil {
		return err
	}
	var errs []error
	seen := map[string]bool{}
	for id, digest := range holds {
		if seen[digest] {
			continue
		}
		seen[digest] = true
		if _, err := e.Images().Inspect(ctx, digest, ""); err != nil {
			errs = append(errs, fmt.Errorf("the image %s, held as %s: %w", digest, id, err))
		}
	}
	return errors.Join(errs...)
}
