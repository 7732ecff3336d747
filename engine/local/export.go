package local

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// exportRun writes the file system of an ended container as a tar into a volume.
// It may be done again: the layer is removed only after it.
func (e *Engine) exportRun(rec record) error {
	to := *rec.Export
	v, err := e.view(e.ctx, rec.Image, rec.Platform)
	if err != nil {
		return fmt.Errorf("export: %w", err)
	}
	defer e.dropView(v)
	// What it wrote is one more read-only directory over those of the image.
	at := filepath.Join(e.run, "b", rec.Name, "export")
	if err := os.MkdirAll(at, 0o700); err != nil {
		return fmt.Errorf("export: %w", err)
	}
	lower := strings.Join(append([]string{filepath.Join(rec.Layer, "u")}, v.lower...), ":")
	if err := mountOverlay(at, "index=off", "ro", "nodev", "lowerdir="+lower); err != nil {
		return fmt.Errorf("export: %w", err)
	}
	defer func() { _ = unix.Unmount(at, unix.MNT_DETACH) }()
	vol, err := e.volumeRoot(to.Volume)
	if err != nil {
		return fmt.Errorf("export: %w", err)
	}
	defer vol.Close()
	name := rel(to.Path)
	if name == "." {
		return fmt.Errorf("export: to no file: %w", errdefs.ErrInvalidArgument)
	}
	if err := vol.MkdirAll(path.Dir(name), 0o755); err != nil {
		return fmt.Errorf("export to %s: %w: %w", to.Path, errdefs.ErrInvalidArgument, err)
	}
	// Always the same name: what a killed server left is overwritten.
	tmp := path.Join(path.Dir(name), ".export-"+rec.Name)
	if err := writeTar(e.ctx, at, vol, tmp); err != nil {
		_ = vol.Remove(tmp)
		return fmt.Errorf("export to %s: %w", to.Path, err)
	}
	if err := vol.Rename(tmp, name); err != nil {
		_ = vol.Remove(tmp)
		return fmt.Errorf("export to %s: %w: %w", to.Path, errdefs.ErrInvalidArgument, err)
	}
	return nil
}

// writeTar packs a directory into a file of a volume, durably.
func writeTar(ctx context.Context, from string, vol *os.Root, name string) error {
	src, err := os.OpenRoot(from)
	if err != nil {
		return err
	}
	defer src.Close()
	_ = vol.Remove(name) // never through a link of that name
	f, err := vol.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	b := bufio.NewWriterSize(f, 1<<20)
	t := tar.NewWriter(b)
	p := packer{root: src, t: t, links: map[inode]string{}}
	err = p.dir(ctx, ".")
	if err == nil {
		err = errors.Join(t.Close(), b.Flush(), f.Sync())
	}
	return errors.Join(err, f.Close())
}
