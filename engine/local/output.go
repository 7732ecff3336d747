package local

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"

	"github.com/containerd/errdefs"
	"github.com/moby/sys/user"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"slipway/engine"
)

// What a run writes to the file of its spec's Output may be secret: it is in
// memory alone. While the container runs it lies in a file system of its size in
// the bundle, which the child leaves alone; then, until the run is forgotten, in
// a file.

func (rec record) outputMount() string { return filepath.Join(rec.Bundle, "output") }

func (m *monitors) output(name string) string { return filepath.Join(m.e.run, "o", name) }

// bindOutput makes the file that a run may write.
func (e *Engine) bindOutput(c *container, u *user.ExecUser) (specs.Mount, error) {
	at := path.Clean("/" + c.output)
	if isRootPath(at) {
		return specs.Mount{}, fmt.Errorf("an output without a path: %w", errdefs.ErrInvalidArgument)
	}
	dir := c.rec.outputMount()
	if err := os.Mkdir(dir, 0o700); err != nil {
		return specs.Mount{}, err
	}
	if err := unix.Mount("slipway", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, fmt.Sprintf("mode=0700,size=%d", engine.MaxOutput)); err != nil {
		return specs.Mount{}, fmt.Errorf("a file system in memory on %s: %w", dir, err)
	}
	c.rec.Output = true
	f := filepath.Join(dir, "file")
	if err := os.WriteFile(f, nil, 0o600); err != nil {
		return specs.Mount{}, err
	}
	if err := os.Chown(f, u.Uid, u.Gid); err != nil {
		return specs.Mount{}, err
	}
	return specs.Mount{Destination: at, Type: "bind", Source: f, Options: []string{"bind", "rprivate", "nosuid", "nodev", "noexec"}}, nil
}

// takeOutput gives what a run that has ended wrote, and puts it where it stays
// until the run is forgotten.
func (e *Engine) takeOutput(rec record) (string, error) {
	if !rec.Output {
		return "", nil
	}
	kept := e.monitors.output(rec.Name)
	f, err := os.Open(filepath.Join(rec.outputMount(), "file"))
	if errors.Is(err, os.ErrNotExist) { // it was taken, or the host was restarted
		b, err := os.ReadFile(kept)
		if errors.Is(err, os.ErrNotExist) {
			err = nil
		}
		return string(b), err
	}
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, engine.MaxOutput))
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(filepath.Dir(kept), 0o700); err != nil {
		return "", err
	}
	if err := os.WriteFile(kept+".new", b, 0o600); err != nil {
		return "", err
	}
	return string(b), os.Rename(kept+".new", kept)
}

// dropOutput takes the file away that a run could write.
func dropOutput(rec record) {
	if rec.Output {
		_ = unix.Unmount(rec.outputMount(), unix.MNT_DETACH)
	}
}
