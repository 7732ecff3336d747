package local

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/containerd/errdefs"
	"github.com/tonistiigi/fsutil"
	"github.com/tonistiigi/fsutil/types"

	"slipway/engine"
	"slipway/plainfile"
)

// dockerfileMax is the size above which a Dockerfile is not taken for one.
const dockerfileMax = 4 << 20

// openSource opens the files of a build. An archive is unpacked first; done
// removes it again.
func (e *Engine) openSource(ctx context.Context, src engine.Source) (root *os.Root, done func(), err error) {
	if src.Archive == nil {
		root, err = e.volumeRoot(src.Volume)
		if err != nil {
			return nil, nil, err
		}
		return root, func() { _ = root.Close() }, nil
	}
	if err := os.MkdirAll(e.path("build", "tmp"), 0o700); err != nil {
		return nil, nil, err
	}
	dir, err := os.MkdirTemp(e.path("build", "tmp"), "source-")
	if err != nil {
		return nil, nil, err
	}
	remove := func() { _ = os.RemoveAll(dir) }
	r, err := src.Archive(ctx)
	if err != nil {
		remove()
		return nil, nil, err
	}
	defer r.Close()
	if root, err = os.OpenRoot(dir); err != nil {
		remove()
		return nil, nil, err
	}
	done = func() {
		_ = root.Close()
		remove()
	}
	if err := untar(ctx, root, tar.NewReader(r)); err != nil {
		done()
		if errdefs.IsInvalidArgument(err) {
			return nil, nil, failed("the source cannot be unpacked: %v", err)
		}
		return nil, nil, err
	}
	return root, done, nil
}

// dockerfile reads the Dockerfile and what it says to ignore. A lone file whose
// name differs in case only is taken.
func (b *building) dockerfile(root *os.Root) (name string, files map[string][]byte, err error) {
	name = rel(b.spec.Dockerfile)
	if b.spec.Dockerfile == "" {
		name = path.Join(rel(b.spec.Context), "Dockerfile")
	}
	text, err := readBounded(root, name)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		other, ok := lone(root, name)
		if !ok {
			return "", nil, failed("%s: no such file in the source", name)
		}
		b.log.note(fmt.Sprintf("there is no %s, %s is taken", name, other))
		name = other
		text, err = readBounded(root, name)
	}
	if err != nil {
		return "", nil, failed("%s cannot be read: %v", name, err)
	}
	base := path.Base(name)
	files = map[string][]byte{base: text}
	ignore, err := readBounded(root, name+".dockerignore")
	switch {
	case err == nil:
		files[base+".dockerignore"] = ignore
	case !errors.Is(err, fs.ErrNotExist):
		return "", nil, failed("%s.dockerignore cannot be read: %v", name, err)
	}
	return base, files, nil
}

// lone finds the only file of that name in other letters.
func lone(root *os.Root, name string) (string, bool) {
	ents, err := fs.ReadDir(plainfile.Tree(root), path.Dir(name))
	if err != nil {
		return "", false
	}
	hit := ""
	for _, d := range ents {
		if strings.EqualFold(d.Name(), path.Base(name)) && !d.IsDir() {
			if hit != "" {
				return "", false
			}
			hit = path.Join(path.Dir(name), d.Name())
		}
	}
	return hit, hit != ""
}

func readBounded(root *os.Root, name string) ([]byte, error) {
	f, err := plainfile.Open(root, name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, dockerfileMax+1))
	if err == nil && len(b) > dockerfileMax {
		err = fmt.Errorf("it is longer than %d bytes", dockerfileMax)
	}
	return b, err
}

// contextFS is the build context as BuildKit reads it. All goes through os.Root:
// no link leads out of it, also when somebody changes it meanwhile; and through
// plainfile: nothing is opened but files and directories.
type contextFS struct {
	root    *os.Root
	git     bool // .git is part of it
	marks   *marks
	written *written // nil: not asked for
}

// written are files that were written since their context was walked before.
type written struct {
	mu    sync.Mutex
	names map[string]bool
}

func (w *written) add(name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.names[name] = true
}

func (w *written) list() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Sorted(maps.Keys(w.names))
}

// marks are what the files of a context were when they were last walked. What
// is sent is only what has another size or time than last time, so a file that
// changed and has the same ones (those of a tar, say) gets another time, by a
// billionth of a second.
type marks struct {
	mu sync.Mutex
	by map[uint64]mark
}

type mark struct {
	size, mtime, ctime int64
	ino                uint64
	more               int64 // nanoseconds
}

// known tells whether the context was walked before.
func (m *marks) known() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.by) > 0
}

// time gives the time of a file that is to be sent, and tells whether it was
// written since the last walk, or was not there.
func (m *marks) time(name string, st *syscall.Stat_t) (at int64, written bool) {
	h := fnv.New64a()
	_, _ = io.WriteString(h, name)
	now := mark{size: st.Size, mtime: st.Mtim.Nano(), ctime: st.Ctim.Nano(), ino: st.Ino}
	m.mu.Lock()
	defer m.mu.Unlock()
	was, ok := m.by[h.Sum64()]
	if ok {
		now.more = was.more
		if was.size == now.size && was.mtime == now.mtime && (was.ctime != now.ctime || was.ino != now.ino) {
			now.more++
		}
	}
	m.by[h.Sum64()] = now
	return now.mtime + now.more, !ok || was.size != now.size || was.mtime != now.mtime || was.ctime != now.ctime || was.ino != now.ino
}

// contextMarks gives those of a context.
func (r *room) contextMarks(key string) *marks {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.contexts == nil {
		r.contexts = map[string]*marks{}
	}
	if r.contexts[key] == nil {
		r.contexts[key] = &marks{by: map[uint64]mark{}}
	}
	return r.contexts[key]
}

var _ fsutil.FS = contextFS{}

// inContext opens the directory of the context.
func inContext(root *os.Root, spec engine.BuildSpec) (contextFS, error) {
	below, err := plainfile.Below(root, rel(spec.Context))
	if err != nil {
		return contextFS{}, failed("the context %s is no directory of the source: %v", rel(spec.Context), err)
	}
	return contextFS{root: below, git: spec.KeepGit}, nil
}

// ignore reads what is to be left out.
func (c contextFS) ignore() (map[string][]byte, error) {
	text, err := readBounded(c.root, ignoreName)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return map[string][]byte{}, nil
	case err != nil:
		return nil, failed("%s cannot be read: %v", ignoreName, err)
	}
	return map[string][]byte{ignoreName: text}, nil
}

// Walk implements fsutil.FS. Everything belongs to root, as with docker. Pipes,
// sockets and devices are left out.
func (c contextFS) Walk(ctx context.Context, target string, fn fs.WalkDirFunc) error {
	seen := map[inode]string{}
	// WalkDir follows a link where it begins.
	if fi, err := c.root.Lstat(rel(target)); err == nil && fi.Mode()&fs.ModeSymlink != 0 {
		st, err := c.stat(rel(target), seen)
		if err != nil {
			return err
		}
		return fn(rel(target), &fsutil.DirEntryInfo{Stat: st}, nil)
	}
	return fs.WalkDir(plainfile.Tree(c.root), rel(target), func(name string, d fs.DirEntry, err error) error {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if name == "." && err == nil {
			return nil
		}
		if name == ".git" && !c.git {
			if d != nil && d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		var st *types.Stat
		if err == nil {
			st, err = c.stat(name, seen)
		}
		if errors.Is(err, fs.ErrNotExist) && name != rel(target) { // gone meanwhile
			if d != nil && d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if err != nil {
			return fn(name, nil, err)
		}
		if st == nil {
			return nil
		}
		return fn(name, &fsutil.DirEntryInfo{Stat: st}, nil)
	})
}

// stat describes a file; nil if it is of no kind that is taken.
func (c contextFS) stat(name string, seen map[inode]string) (*types.Stat, error) {
	fi, err := c.root.Lstat(name)
	if err != nil {
		return nil, err
	}
	st := &types.Stat{Path: name, Mode: uint32(fi.Mode()), ModTime: fi.ModTime().UnixNano()}
	switch {
	case fi.IsDir():
		return st, nil
	case fi.Mode()&fs.ModeSymlink != 0:
		st.Size = fi.Size()
		st.Linkname, err = c.root.Readlink(name)
		return st, err
	case !fi.Mode().IsRegular():
		return nil, nil
	}
	st.Size = fi.Size()
	s, ok := fi.Sys().(*syscall.Stat_t)
	if ok && c.marks != nil {
		var written bool
		if st.ModTime, written = c.marks.time(name, s); written && c.written != nil {
			c.written.add(name)
		}
	}
	if ok && s.Nlink > 1 {
		k := inode{s.Dev, s.Ino}
		if first, ok := seen[k]; ok {
			st.Linkname, st.Size = first, 0
		} else {
			seen[k] = name
		}
	}
	return st, nil
}

// Open implements fsutil.FS.
func (c contextFS) Open(name string) (io.ReadCloser, error) { return plainfile.Open(c.root, rel(name)) }
