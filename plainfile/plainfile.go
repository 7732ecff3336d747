// Package plainfile opens regular files in places that others write to: volumes
// and file systems of containers. Who may make device nodes there decides what
// an open does, and it is done with the rights of the server: so nothing is
// opened before it is known to be a file.
package plainfile

import (
	"errors"
	"io/fs"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// ErrIrregular is the answer for what is there and is no regular file.
var ErrIrregular = errors.New("it is no regular file")

// errOut is a path that leads out of the directory below which it is looked for.
var errOut = errors.New("it leads out of its directory")

// Open opens a regular file below root to read it. Links are followed, but none
// out of it.
func Open(root *os.Root, name string) (*os.File, error) {
	dir, err := root.Open(".")
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	at, err := Find(int(dir.Fd()), name, unix.RESOLVE_BENEATH|unix.RESOLVE_NO_MAGICLINKS)
	if err != nil {
		return nil, err
	}
	defer at.Close()
	return Reopen(at)
}

// Find gives the place that a path leads to from a directory, by the rules of
// resolve (openat2). Nothing is opened: all that can be done with it is to look
// what is there, to mount it and to reopen it.
func Find(dir int, name string, resolve uint64) (*os.File, error) {
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: resolve}
	err := error(unix.EAGAIN)
	for range 10 { // the kernel says EAGAIN when something was renamed meanwhile
		var fd int
		fd, err = unix.Openat2(dir, name, &how)
		if err == nil {
			return os.NewFile(uintptr(fd), name), nil
		}
		if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if errors.Is(err, unix.EXDEV) {
		err = errOut
	}
	return nil, &fs.PathError{Op: "open", Path: name, Err: err}
}

// Reopen opens what Find found to read it, if it is a regular file: that very
// one, whatever has its name now.
func Reopen(at *os.File) (*os.File, error) {
	st, err := at.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, ErrIrregular
	}
	self := "/proc/self/fd/" + strconv.Itoa(int(at.Fd()))
	for {
		// Not waiting for a lease that somebody has on it.
		fd, err := unix.Open(self, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, &fs.PathError{Op: "open", Path: at.Name(), Err: err}
		}
		return os.NewFile(uintptr(fd), at.Name()), nil
	}
}

// Dir opens a directory below root, and nothing else that has its name.
func Dir(root *os.Root, name string) (*os.File, error) {
	return root.OpenFile(name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
}

// Below is root.OpenRoot, which would open whatever has the name.
func Below(root *os.Root, name string) (*os.Root, error) {
	d, err := Dir(root, name)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	return os.OpenRoot("/proc/self/fd/" + strconv.Itoa(int(d.Fd())))
}

// Tree is what is below root for fs.WalkDir and fs.ReadDir: it opens directories
// only.
func Tree(root *os.Root) fs.FS { return tree{root} }

type tree struct{ root *os.Root }

var _ fs.StatFS = tree{}

// Open implements fs.FS.
func (t tree) Open(name string) (fs.File, error) {
	d, err := Dir(t.root, name)
	if err != nil {
		return nil, err
	}
	return d, nil
}

// Stat implements fs.StatFS.
func (t tree) Stat(name string) (fs.FileInfo, error) { return t.root.Stat(name) }
