package fake

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"slipway/engine"
)

type volumes struct{ e *Engine }

// Volumes implements engine.Engine.
func (e *Engine) Volumes() engine.Volumes { return volumes{e} }

func (w *world) path(id string) string { return filepath.Join(w.dir, "volumes", id) }

// root opens a volume.
func (w *world) root(id string) (*os.Root, error) {
	if id == "" || id != filepath.Base(id) || strings.HasPrefix(id, ".") {
		return nil, fmt.Errorf("volume %q: %w", id, errdefs.ErrInvalidArgument)
	}
	r, err := os.OpenRoot(w.path(id))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("volume %s: %w", id, errdefs.ErrNotFound)
	}
	return r, err
}

func (w *world) removeVolume(id string) error {
	delete(w.volumes, id)
	return os.RemoveAll(w.path(id))
}

// Ensure implements engine.Volumes.
func (v volumes) Ensure(ctx context.Context, id string, owner engine.Owner) error {
	if err := v.e.call(ctx, "Ensure", id); err != nil {
		return fmt.Errorf("volume %s: %w", id, err)
	}
	if id == "" || id != filepath.Base(id) || strings.HasPrefix(id, ".") {
		return fmt.Errorf("volume %q: %w", id, errdefs.ErrInvalidArgument)
	}
	v.e.w.mu.Lock()
	defer v.e.w.mu.Unlock()
	if _, ok := v.e.w.volumes[id]; ok {
		return nil
	}
	if err := os.MkdirAll(v.e.w.path(id), 0o755); err != nil {
		return fmt.Errorf("volume %s: %w", id, err)
	}
	v.e.w.volumes[id] = owner
	return nil
}

// Remove implements engine.Volumes.
func (v volumes) Remove(ctx context.Context, id string) error {
	if err := v.e.call(ctx, "RemoveVolume", id); err != nil {
		return fmt.Errorf("volume %s: %w", id, err)
	}
	v.e.w.mu.Lock()
	defer v.e.w.mu.Unlock()
	if _, ok := v.e.w.volumes[id]; !ok {
		return nil
	}
	return v.e.w.removeVolume(id)
}

// Put implements engine.Volumes.
func (v volumes) Put(ctx context.Context, id, dir string, r io.Reader) error {
	if err := v.e.call(ctx, "Put", id, dir); err != nil {
		return fmt.Errorf("volume %s: %w", id, err)
	}
	root, err := v.e.w.root(id)
	if err != nil {
		return err
	}
	defer root.Close()
	if err := root.MkdirAll(rel(dir), 0o755); err != nil {
		return fmt.Errorf("volume %s: %w", id, err)
	}
	below, err := root.OpenRoot(rel(dir))
	if err != nil {
		return fmt.Errorf("volume %s: %w", id, err)
	}
	defer below.Close()
	if err := unpack(below, tar.NewReader(r)); err != nil {
		return fmt.Errorf("unpacking into volume %s: %w", id, err)
	}
	return nil
}

// unpack writes the entries of a tar below root; os.Root lets none of them out.
func unpack(root *os.Root, t *tar.Reader) error {
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%w: %w", errdefs.ErrInvalidArgument, err)
		}
		for part := range strings.SplitSeq(h.Name, "/") {
			if part == ".." {
				return fmt.Errorf("entry %q leads out: %w", h.Name, errdefs.ErrInvalidArgument)
			}
		}
		name := rel(h.Name)
		if name == "." {
			continue
		}
		if err := root.MkdirAll(path.Dir(name), 0o755); err != nil {
			return fmt.Errorf("entry %q: %w: %w", h.Name, errdefs.ErrInvalidArgument, err)
		}
		switch h.Typeflag {
		case tar.TypeDir:
			err = root.MkdirAll(name, 0o755)
		case tar.TypeReg:
			err = unpackFile(root, name, t, fs.FileMode(h.Mode&0o777))
		case tar.TypeSymlink:
			_ = root.Remove(name)
			err = root.Symlink(h.Linkname, name)
		case tar.TypeLink:
			_ = root.Remove(name)
			err = root.Link(rel(h.Linkname), name)
		default:
			err = errors.New("only files, directories and links can be put")
		}
		if err != nil {
			return fmt.Errorf("entry %q: %w: %w", h.Name, errdefs.ErrInvalidArgument, err)
		}
	}
}

func unpackFile(root *os.Root, name string, r io.Reader, mode fs.FileMode) error {
	if st, err := root.Lstat(name); err == nil && !st.Mode().IsRegular() {
		if err := root.RemoveAll(name); err != nil {
			return err
		}
	}
	f, err := root.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	return errors.Join(err, f.Close())
}

// Get implements engine.Volumes.
func (v volumes) Get(ctx context.Context, id, name string) (io.ReadCloser, error) {
	if err := v.e.call(ctx, "Get", id, name); err != nil {
		return nil, fmt.Errorf("volume %s: %w", id, err)
	}
	root, err := v.e.w.root(id)
	if err != nil {
		return nil, err
	}
	st, err := root.Stat(rel(name))
	if err != nil {
		_ = root.Close()
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("volume %s: %s: %w", id, name, errdefs.ErrNotFound)
		}
		return nil, fmt.Errorf("volume %s: %w: %w", id, errdefs.ErrInvalidArgument, err)
	}
	pr, pw := io.Pipe()
	go func() {
		defer root.Close()
		t := tar.NewWriter(pw)
		var err error
		if st.IsDir() {
			err = pack(root, rel(name), t)
		} else {
			err = packOne(root, rel(name), path.Base(rel(name)), t)
		}
		pw.CloseWithError(errors.Join(err, t.Close()))
	}()
	return pr, nil
}

func pack(root *os.Root, top string, t *tar.Writer) error {
	return fs.WalkDir(root.FS(), top, func(p string, _ fs.DirEntry, err error) error {
		if err != nil || p == top {
			return err
		}
		n, err := filepath.Rel(top, p)
		if err != nil {
			return err
		}
		return packOne(root, p, n, t)
	})
}

func packOne(root *os.Root, p, name string, t *tar.Writer) error {
	st, err := root.Lstat(p)
	if err != nil {
		return err
	}
	link := ""
	if st.Mode()&fs.ModeSymlink != 0 {
		if link, err = root.Readlink(p); err != nil {
			return err
		}
	}
	h, err := tar.FileInfoHeader(st, link)
	if err != nil {
		return err
	}
	h.Name = name
	if st.IsDir() {
		h.Name += "/"
	}
	if err := t.WriteHeader(h); err != nil || !st.Mode().IsRegular() {
		return err
	}
	f, err := root.Open(p)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.CopyN(t, f, h.Size)
	return err
}

// Usage implements engine.Volumes.
func (v volumes) Usage(ctx context.Context, id string) (int64, error) {
	if err := v.e.call(ctx, "Usage", id); err != nil {
		return 0, err
	}
	root, err := v.e.w.root(id)
	if err != nil {
		return 0, err
	}
	defer root.Close()
	var sum int64
	err = fs.WalkDir(root.FS(), ".", func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if st, err := d.Info(); err == nil && st.Mode().IsRegular() {
			sum += st.Size()
		}
		return nil
	})
	return sum, err
}

// Clone implements engine.Snapshotter.
func (e *Engine) Clone(ctx context.Context, from, to string, owner engine.Owner) error {
	if err := e.call(ctx, "Clone", from, to); err != nil {
		return fmt.Errorf("clone of volume %s: %w", from, err)
	}
	e.w.mu.Lock()
	_, there := e.w.volumes[to]
	_, source := e.w.volumes[from]
	e.w.mu.Unlock()
	if !source {
		return fmt.Errorf("clone of volume %s: %w", from, errdefs.ErrNotFound)
	}
	if there {
		return fmt.Errorf("clone of volume %s: %s: %w", from, to, errdefs.ErrAlreadyExists)
	}
	r, err := volumes{e}.Get(ctx, from, "/")
	if err != nil {
		return err
	}
	defer r.Close()
	if err := (volumes{e}).Ensure(ctx, to, owner); err != nil {
		return err
	}
	return volumes{e}.Put(ctx, to, "/", r)
}

// kept is a snapshot: a tar of what was in the volume, with what it had.
type kept struct {
	tar      []byte
	contents []string // of its files
	told     engine.Snapshot
}

// Snapshot implements engine.Snapshotter.
func (e *Engine) Snapshot(ctx context.Context, owner engine.Owner, id, volume string, most engine.SnapshotBounds) (engine.Snapshot, error) {
	if err := e.call(ctx, "Snapshot", id, volume); err != nil {
		return engine.Snapshot{}, fmt.Errorf("snapshot of volume %s: %w", volume, err)
	}
	if id == "" || id != filepath.Base(id) || strings.HasPrefix(id, ".") {
		return engine.Snapshot{}, fmt.Errorf("snapshot %q: %w", id, errdefs.ErrInvalidArgument)
	}
	r, err := volumes{e}.Get(ctx, volume, "/")
	if err != nil {
		return engine.Snapshot{}, err
	}
	defer r.Close()
	var k kept
	if k.tar, err = io.ReadAll(r); err != nil {
		return engine.Snapshot{}, err
	}
	e.w.mu.Lock()
	defer e.w.mu.Unlock()
	if have, ok := e.w.kept[owner][id]; ok {
		return have.told, nil
	}
	known := map[string]bool{}
	for _, o := range e.w.kept[owner] {
		for _, c := range o.contents {
			known[c] = true
		}
	}
	t := tar.NewReader(bytes.NewReader(k.tar))
	for h, err := t.Next(); err == nil; h, err = t.Next() {
		b, err := io.ReadAll(t)
		if err != nil {
			return engine.Snapshot{}, err
		}
		if k.told.Files++; h.Typeflag != tar.TypeReg {
			continue
		}
		if !known[string(b)] {
			k.told.Added += h.Size
		}
		known[string(b)], k.told.Size, k.contents = true, k.told.Size+h.Size, append(k.contents, string(b))
	}
	if most.Files > 0 && k.told.Files > most.Files || most.Added > 0 && k.told.Added > most.Added {
		return engine.Snapshot{}, fmt.Errorf("snapshot of volume %s: it is more than %d files or %d bytes: %w", volume, most.Files, most.Added, errdefs.ErrResourceExhausted)
	}
	if e.w.kept[owner] == nil {
		e.w.kept[owner] = map[string]kept{}
	}
	e.w.kept[owner][id] = k
	return k.told, nil
}

// Restore implements engine.Snapshotter.
func (e *Engine) Restore(ctx context.Context, owner engine.Owner, id, volume string) error {
	if err := e.call(ctx, "Restore", id, volume); err != nil {
		return fmt.Errorf("restore snapshot %s: %w", id, err)
	}
	e.w.mu.Lock()
	k, ok := e.w.kept[owner][id]
	_, there := e.w.volumes[volume]
	e.w.mu.Unlock()
	if there {
		return fmt.Errorf("restore snapshot %s: volume %s: %w", id, volume, errdefs.ErrAlreadyExists)
	}
	if !ok {
		return fmt.Errorf("restore snapshot %s: %w", id, errdefs.ErrNotFound)
	}
	if err := (volumes{e}).Ensure(ctx, volume, owner); err != nil {
		return err
	}
	return volumes{e}.Put(ctx, volume, "/", bytes.NewReader(k.tar))
}

// Snapshots implements engine.Snapshotter.
func (e *Engine) Snapshots(ctx context.Context, owner engine.Owner) (l []string, err error) {
	if err := e.call(ctx, "Snapshots", string(owner)); err != nil {
		return nil, err
	}
	e.w.mu.Lock()
	defer e.w.mu.Unlock()
	return slices.Sorted(maps.Keys(e.w.kept[owner])), nil
}

// DropSnapshots implements engine.Snapshotter.
func (e *Engine) DropSnapshots(ctx context.Context, owner engine.Owner, ids ...string) error {
	if err := e.call(ctx, "DropSnapshots", ids...); err != nil {
		return err
	}
	e.w.mu.Lock()
	defer e.w.mu.Unlock()
	for _, id := range ids {
		delete(e.w.kept[owner], id)
	}
	return nil
}

// Dir implements engine.Directories.
func (e *Engine) Dir(ctx context.Context, id string) (string, error) {
	if err := e.call(ctx, "Dir", id); err != nil {
		return "", err
	}
	e.w.mu.Lock()
	defer e.w.mu.Unlock()
	if _, ok := e.w.volumes[id]; !ok {
		return "", fmt.Errorf("volume %s: %w", id, errdefs.ErrNotFound)
	}
	return e.w.path(id), nil
}
