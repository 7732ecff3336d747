package source

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"slipway/plainfile"
)

// walker goes through a folder that others wrote into. It opens every directory
// on the way by its parent's descriptor and never follows a link, so whatever
// lies there, and whoever changes it meanwhile, nothing outside is touched. It
// is quickest when paths come in order.
type walker struct {
	root  int
	names []string
	fds   []int
}

// errInWay is a path that leads through something that is no directory.
var errInWay = errors.New("not a directory")

func openWalker(dir string) (*walker, error) {
	fd, err := unix.Open(dir, unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", dir, err)
	}
	return &walker{root: fd}, nil
}

func (w *walker) close() {
	w.pop(0)
	_ = unix.Close(w.root)
}

func (w *walker) pop(n int) {
	for _, fd := range w.fds[n:] {
		_ = unix.Close(fd)
	}
	w.fds, w.names = w.fds[:n], w.names[:n]
}

// parent gives the directory of a path and the last part of its name. Without
// make a missing directory is fs.ErrNotExist and one that is something else
// errInWay; with make both become a directory.
func (w *walker) parent(path string, make bool) (fd int, base string, err error) {
	depth, fd := 0, w.root
	for {
		part, rest, more := strings.Cut(path, "/")
		if !more {
			w.pop(depth)
			return fd, part, nil
		}
		if depth < len(w.names) && w.names[depth] == part {
			fd = w.fds[depth]
		} else {
			w.pop(depth)
			next, err := w.enter(fd, part, make)
			if err != nil {
				return -1, "", err
			}
			w.names, w.fds = append(w.names, part), append(w.fds, next)
			fd = next
		}
		depth, path = depth+1, rest
	}
}

func (w *walker) enter(fd int, name string, make bool) (int, error) {
	const how = unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC | unix.O_NONBLOCK
	for tries := 0; ; tries++ {
		next, err := unix.Openat(fd, name, how, 0)
		switch {
		case err == nil:
			return next, nil
		case errors.Is(err, unix.EINTR):
			continue
		case absent(err) && !make:
			return -1, fs.ErrNotExist
		case (errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP)) && !make:
			return -1, errInWay
		case errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP):
			if err := unix.Unlinkat(fd, name, 0); err != nil && !errors.Is(err, unix.ENOENT) {
				return -1, fmt.Errorf("remove %s: %w", name, err)
			}
		case !errors.Is(err, unix.ENOENT):
			return -1, fmt.Errorf("open %s: %w", name, err)
		}
		if tries > 3 {
			return -1, fmt.Errorf("make %s: somebody is in the way", name)
		}
		if err := mkdirat(fd, name, 0o755); err != nil && !errors.Is(err, unix.EEXIST) {
			return -1, fmt.Errorf("make %s: %w", name, err)
		}
	}
}

// mkdirat makes a directory of exactly that mode, whatever the umask.
func mkdirat(fd int, name string, mode uint32) error {
	if err := unix.Mkdirat(fd, name, mode); err != nil {
		return err
	}
	d, err := unix.Openat(fd, name, unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(d) }()
	return unix.Fchmod(d, mode)
}

// absent tells that nothing has a name. Git knows names that are too long for
// any file system: a commit with one cannot be checked out, and must not be in
// the way of the next.
func absent(err error) bool { return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENAMETOOLONG) }

// lstat looks at a path; fs.ErrNotExist also if it leads through what is no
// directory.
func (w *walker) lstat(path string, st *unix.Stat_t) error {
	fd, base, err := w.parent(path, false)
	if err != nil {
		if errors.Is(err, errInWay) {
			return fs.ErrNotExist
		}
		return err
	}
	return lstatat(fd, base, st)
}

func lstatat(fd int, name string, st *unix.Stat_t) error {
	err := unix.Fstatat(fd, name, st, unix.AT_SYMLINK_NOFOLLOW)
	if absent(err) {
		return fs.ErrNotExist
	}
	if err != nil {
		return fmt.Errorf("look at %s: %w", name, err)
	}
	return nil
}

// remove takes away what is at a path, a directory with all it holds.
func (w *walker) remove(path string) error {
	fd, base, err := w.parent(path, false)
	if errors.Is(err, errInWay) || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return removeat(fd, base)
}

func removeat(fd int, name string) error {
	err := unix.Unlinkat(fd, name, 0)
	switch {
	case err == nil || absent(err):
		return nil
	case !errors.Is(err, unix.EISDIR) && !errors.Is(err, unix.EPERM):
		return fmt.Errorf("remove %s: %w", name, err)
	}
	root, err := os.OpenRoot(fmt.Sprintf("/proc/self/fd/%d", fd))
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	return root.RemoveAll(name)
}

// empty removes the directories above a path as far as nothing is in them.
func (w *walker) empty(path string) error {
	for {
		i := strings.LastIndexByte(path, '/')
		if i < 0 {
			return nil
		}
		path = path[:i]
		fd, base, err := w.parent(path, false)
		if err != nil {
			return nil //nolint:nilerr // nothing of it is there
		}
		err = unix.Unlinkat(fd, base, unix.AT_REMOVEDIR)
		switch {
		case errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.EEXIST) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.EBUSY):
			return nil
		case err != nil && !absent(err):
			return fmt.Errorf("remove %s: %w", path, err)
		}
	}
}

// openat opens a regular file for reading.
func openat(fd int, name string) (*os.File, error) {
	at, err := plainfile.Find(fd, name, unix.RESOLVE_BENEATH|unix.RESOLVE_NO_SYMLINKS)
	if err != nil {
		return nil, err
	}
	defer func() { _ = at.Close() }()
	f, err := plainfile.Reopen(at)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	return f, nil
}

// equal tells whether two files or links have the same content.
func equal(afd int, a string, bfd int, b string) (bool, error) {
	var sa, sb unix.Stat_t
	if err := lstatat(afd, a, &sa); err != nil {
		return false, err
	}
	if err := lstatat(bfd, b, &sb); err != nil {
		return false, err
	}
	if sa.Mode&unix.S_IFMT != sb.Mode&unix.S_IFMT || sa.Size != sb.Size {
		return false, nil
	}
	switch sa.Mode & unix.S_IFMT {
	case unix.S_IFLNK:
		la, erra := readlinkat(afd, a)
		lb, errb := readlinkat(bfd, b)
		return la == lb, errors.Join(erra, errb)
	case unix.S_IFREG:
		if sa.Mode&0o111 != sb.Mode&0o111 {
			return false, nil
		}
	default:
		return false, nil
	}
	fa, err := openat(afd, a)
	if err != nil {
		return false, err
	}
	defer func() { _ = fa.Close() }()
	fb, err := openat(bfd, b)
	if err != nil {
		return false, err
	}
	defer func() { _ = fb.Close() }()
	return sameBytes(fa, fb)
}

func sameBytes(a, b io.Reader) (bool, error) {
	x, y := make([]byte, 64<<10), make([]byte, 64<<10)
	for {
		n, err := io.ReadFull(a, x)
		m, berr := io.ReadFull(b, y)
		if !bytes.Equal(x[:n], y[:m]) {
			return false, nil
		}
		if end(err) && end(berr) {
			return true, nil
		}
		if err != nil {
			return false, err
		}
		if berr != nil {
			return false, berr
		}
	}
}

func end(err error) bool { return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) }

func readlinkat(fd int, name string) (string, error) {
	b := make([]byte, 4096)
	n, err := unix.Readlinkat(fd, name, b)
	if err != nil {
		return "", fmt.Errorf("read link %s: %w", name, err)
	}
	return string(b[:n]), nil
}
