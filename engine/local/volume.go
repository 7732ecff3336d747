package local

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/errdefs"

	"slipway/engine"
	"slipway/plainfile"
)

// volumes are directories volumes/<name>/data beside a volume.json that says
// whose they are. What containers wrote there is not to be trusted: nothing is
// opened below data but through os.Root or openat2, and nothing that is no
// directory but through plainfile.
type volumes struct{ e *Engine }

type volumeRecord struct {
	ID    string       `json:"id"`
	Owner engine.Owner `json:"owner"`
}

// Volumes implements engine.Engine.
func (e *Engine) Volumes() engine.Volumes { return volumes{e} }

// fileName makes a name for a directory, a socket and runc out of an id.
func fileName(id string) string {
	ok := id != "" && len(id) <= 60 && id[0] != '.' && id[0] != '-'
	for _, c := range []byte(id) {
		ok = ok && (c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_' || c == '.')
	}
	if ok {
		return id
	}
	sum := sha256.Sum256([]byte(id))
	return "x" + hex.EncodeToString(sum[:20])
}

func (e *Engine) volumePath(id string) string { return e.path("volumes", fileName(id)) }

// volumeDir is the directory of a volume's data; errdefs.ErrNotFound if there
// is none.
func (e *Engine) volumeDir(id string) (string, error) {
	dir := filepath.Join(e.volumePath(id), "data")
	if st, err := os.Lstat(dir); err != nil || !st.IsDir() {
		return "", fmt.Errorf("volume %q: %w", id, errdefs.ErrNotFound)
	}
	return dir, nil
}

// volumeRoot opens a volume.
func (e *Engine) volumeRoot(id string) (*os.Root, error) {
	dir, err := e.volumeDir(id)
	if err != nil {
		return nil, err
	}
	return os.OpenRoot(dir)
}

// rel makes a path of a container or volume one below a root.
func rel(p string) string {
	if p = strings.TrimPrefix(path.Clean("/"+p), "/"); p == "" {
		return "."
	}
	return p
}

// Ensure implements engine.Volumes.
func (v volumes) Ensure(_ context.Context, id string, owner engine.Owner) error {
	if id == "" {
		return fmt.Errorf("a volume without an id: %w", errdefs.ErrInvalidArgument)
	}
	if _, err := v.e.volumeDir(id); err == nil {
		return nil
	}
	return v.e.makeVolume(id, owner, func(string) error { return nil })
}

// makeVolume makes a volume whole or not at all; fill may put something into
// its data first.
func (e *Engine) makeVolume(id string, owner engine.Owner, fill func(data string) error) error {
	tmp, err := os.MkdirTemp(e.path("volumes"), ".new-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp) // nothing is there when all went well
	b, err := json.Marshal(volumeRecord{id, owner})
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(tmp, "volume.json"), b, 0o600); err != nil {
		return err
	}
	data := filepath.Join(tmp, "data")
	if err := os.Mkdir(data, 0o755); err != nil {
		return err
	}
	if err := fill(data); err != nil {
		return err
	}
	err = os.Rename(tmp, e.volumePath(id))
	if errors.Is(err, fs.ErrExist) || errors.Is(err, syscall.ENOTEMPTY) {
		return nil // another call made it meanwhile
	}
	return err
}

// Remove implements engine.Volumes.
func (v volumes) Remove(_ context.Context, id string) error {
	// Under its name it is gone at once, also after a crash; and nothing is made
	// for it, which a full disk would not allow.
	gone := v.e.path("volumes", ".gone-"+newID())
	err := os.Rename(v.e.volumePath(id), gone)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("volume %q: %w", id, err)
	}
	_ = os.RemoveAll(gone) // what is left goes with the next start
	return nil
}

// records lists the volumes.
func (v volumes) records() (l []volumeRecord, err error) {
	ents, err := os.ReadDir(v.e.path("volumes"))
	if err != nil {
		return nil, err
	}
	for _, d := range ents {
		if strings.HasPrefix(d.Name(), ".") {
			continue
		}
		var r volumeRecord
		if b, err := os.ReadFile(v.e.path("volumes", d.Name(), "volume.json")); err == nil && json.Unmarshal(b, &r) == nil {
			l = append(l, r)
		}
	}
	return l, nil
}

// Put implements engine.Volumes.
func (v volumes) Put(ctx context.Context, id, dir string, r io.Reader) error {
	root, err := v.e.volumeRoot(id)
	if err != nil {
		return err
	}
	defer root.Close()
	if err := root.MkdirAll(rel(dir), 0o755); err != nil {
		return fmt.Errorf("volume %q: %s: %w: %w", id, dir, errdefs.ErrInvalidArgument, err)
	}
	below, err := plainfile.Below(root, rel(dir))
	if err != nil {
		return fmt.Errorf("volume %q: %s: %w: %w", id, dir, errdefs.ErrInvalidArgument, err)
	}
	defer below.Close()
	if err := untar(ctx, below, tar.NewReader(r)); err != nil {
		return fmt.Errorf("unpack into volume %q: %w", id, err)
	}
	return nil
}

// untar writes the entries of a tar below root. os.Root follows links, but
// none out of it.
func untar(ctx context.Context, root *os.Root, t *tar.Reader) error {
	var dirs []*tar.Header // their times are set last: what is written in them changes them
	for {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		h, err := t.Next()
		if err == io.EOF {
			break
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
		if err := untarOne(root, name, h, t); err != nil {
			if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EIO) || errors.Is(err, syscall.EDQUOT) {
				return fmt.Errorf("entry %q: %w", h.Name, err)
			}
			return fmt.Errorf("entry %q: %w: %w", h.Name, errdefs.ErrInvalidArgument, err)
		}
		if h.Typeflag == tar.TypeDir && name != "." {
			dirs = append(dirs, h)
		}
	}
	for i := len(dirs) - 1; i >= 0; i-- {
		_ = root.Chtimes(rel(dirs[i].Name), dirs[i].ModTime, dirs[i].ModTime)
	}
	return nil
}

func untarOne(root *os.Root, name string, h *tar.Header, r io.Reader) error {
	if h.Typeflag == tar.TypeXGlobalHeader || name == "." && h.Typeflag == tar.TypeDir {
		return nil
	}
	if err := root.MkdirAll(path.Dir(name), 0o755); err != nil {
		return err
	}
	if st, err := root.Lstat(name); err == nil && (!st.IsDir() || h.Typeflag != tar.TypeDir) {
		// Replaced, not written through: it may be a link, or have other names.
		if err := root.RemoveAll(name); err != nil {
			return err
		}
	}
	switch h.Typeflag {
	case tar.TypeDir:
		if err := root.Mkdir(name, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	case tar.TypeReg:
		f, err := root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		_, err = io.Copy(f, r)
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
	case tar.TypeSymlink:
		if err := root.Symlink(h.Linkname, name); err != nil {
			return err
		}
		return root.Lchown(name, h.Uid, h.Gid)
	case tar.TypeLink:
		for part := range strings.SplitSeq(h.Linkname, "/") {
			if part == ".." {
				return fmt.Errorf("the link to %q leads out", h.Linkname)
			}
		}
		return root.Link(rel(h.Linkname), name)
	default:
		return errors.New("only files, directories and links can be unpacked")
	}
	// The owner first: changing it takes set-id bits away.
	if err := root.Lchown(name, h.Uid, h.Gid); err != nil {
		return err
	}
	if err := root.Chmod(name, h.FileInfo().Mode()&(fs.ModePerm|fs.ModeSetuid|fs.ModeSetgid|fs.ModeSticky)); err != nil {
		return err
	}
	if h.ModTime.Unix() != 0 || h.Typeflag != tar.TypeDir {
		return root.Chtimes(name, time.Time{}, h.ModTime)
	}
	return nil
}

// Get implements engine.Volumes.
func (v volumes) Get(ctx context.Context, id, name string) (io.ReadCloser, error) {
	root, err := v.e.volumeRoot(id)
	if err != nil {
		return nil, err
	}
	st, err := root.Stat(rel(name))
	if err != nil {
		_ = root.Close()
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("volume %q: %s: %w", id, name, errdefs.ErrNotFound)
		}
		return nil, fmt.Errorf("volume %q: %w: %w", id, errdefs.ErrInvalidArgument, err)
	}
	if !st.IsDir() && !st.Mode().IsRegular() {
		_ = root.Close()
		return nil, fmt.Errorf("volume %q: %s is no file and no directory: %w", id, name, errdefs.ErrInvalidArgument)
	}
	pr, pw := io.Pipe()
	go func() {
		defer root.Close()
		t := tar.NewWriter(pw)
		p := packer{root: root, t: t, links: map[inode]string{}}
		var err error
		if st.IsDir() {
			err = p.dir(ctx, rel(name))
		} else {
			err = p.one(rel(name), path.Base(rel(name)), true)
		}
		if err == nil {
			err = t.Close()
		}
		pw.CloseWithError(err)
	}()
	return pr, nil
}

type inode struct{ dev, ino uint64 }

// packer writes what is below a root as a tar.
type packer struct {
	root  *os.Root
	t     *tar.Writer
	links map[inode]string // first names of files with several
}

// dir writes all below top, with names relative to it. What goes away
// meanwhile is left out.
func (p *packer) dir(ctx context.Context, top string) error {
	return fs.WalkDir(plainfile.Tree(p.root), top, func(name string, _ fs.DirEntry, err error) error {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil || name == top {
			if errors.Is(err, fs.ErrNotExist) && name != top {
				return nil
			}
			return err
		}
		r, err := filepath.Rel(top, name)
		if err != nil {
			return err
		}
		if err := p.one(name, r, false); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	})
}

// one writes the entry of one file, as name. Follow is for the file that was
// asked for by its name.
func (p *packer) one(from, name string, follow bool) error {
	stat := p.root.Lstat
	if follow {
		stat = p.root.Stat
	}
	st, err := stat(from)
	if err != nil {
		return err
	}
	if st.Mode().IsRegular() {
		return p.file(from, name)
	}
	if st.Mode()&(fs.ModeSocket|fs.ModeDevice) != 0 { // of no use elsewhere
		return nil
	}
	link := ""
	if st.Mode()&fs.ModeSymlink != 0 {
		if link, err = p.root.Readlink(from); err != nil {
			return err
		}
	}
	h, err := header(st, name, link)
	if err != nil {
		return err
	}
	return p.t.WriteHeader(h)
}

func (p *packer) file(from, name string) error {
	f, err := plainfile.Open(p.root, from)
	if errors.Is(err, plainfile.ErrIrregular) {
		return nil // something took the file's place
	}
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat() // of what was opened, whatever the name is now
	if err != nil {
		return err
	}
	h, err := header(st, name, "")
	if err != nil {
		return err
	}
	if s, ok := st.Sys().(*syscall.Stat_t); ok && s.Nlink > 1 {
		k := inode{s.Dev, s.Ino}
		if first, ok := p.links[k]; ok {
			h.Typeflag, h.Linkname, h.Size = tar.TypeLink, first, 0
			return p.t.WriteHeader(h)
		}
		p.links[k] = name
	}
	if err := p.t.WriteHeader(h); err != nil {
		return err
	}
	n, err := io.CopyN(p.t, f, h.Size)
	if errors.Is(err, io.EOF) { // it became shorter: the header is out already
		_, err = io.CopyN(p.t, zeros{}, h.Size-n)
	}
	return err
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}

// header is that of a file. Users are numbers: the names of this host are not
// those of the container.
func header(st fs.FileInfo, name, link string) (*tar.Header, error) {
	h, err := tar.FileInfoHeader(st, link)
	if err != nil {
		return nil, err
	}
	h.Uname, h.Gname = "", ""
	h.Name = name
	if st.IsDir() {
		h.Name += "/"
	}
	return h, nil
}

// Usage implements engine.Volumes.
func (v volumes) Usage(ctx context.Context, id string) (int64, error) {
	root, err := v.e.volumeRoot(id)
	if err != nil {
		return 0, err
	}
	defer root.Close()
	var sum int64
	seen := map[inode]bool{}
	err = fs.WalkDir(plainfile.Tree(root), ".", func(_ string, d fs.DirEntry, err error) error {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			return err
		}
		st, err := d.Info()
		if err != nil {
			return nil
		}
		if s, ok := st.Sys().(*syscall.Stat_t); ok && !st.IsDir() {
			if k := (inode{s.Dev, s.Ino}); s.Nlink == 1 || !seen[k] {
				seen[k] = s.Nlink > 1
				sum += s.Blocks * 512
			}
		}
		return nil
	})
	return sum, err
}

// Dir implements engine.Directories.
func (e *Engine) Dir(_ context.Context, volume string) (string, error) { return e.volumeDir(volume) }
