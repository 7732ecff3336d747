package local

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/sys/user"
	"golang.org/x/sys/unix"

	"slipway/plainfile"
)

// accountsMax bounds how much of passwd and group is read.
const accountsMax = 4 << 20

// findIn gives the place that a path leads to for a process whose root directory
// is dir: links, absolute ones too, lead nowhere but below it. Nothing is made,
// and nothing opened.
func findIn(dir, name string) (*os.File, error) {
	d, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: dir, Err: err}
	}
	defer unix.Close(d)
	return plainfile.Find(d, rel(name), unix.RESOLVE_IN_ROOT|unix.RESOLVE_NO_MAGICLINKS)
}

// readIn reads a regular file below dir; it is empty if it is not there.
func readIn(dir, name string) (string, error) {
	at, err := findIn(dir, name)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	defer at.Close()
	f, err := plainfile.Reopen(at)
	if err != nil {
		return "", fmt.Errorf("%s cannot be read: %w", name, err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, accountsMax))
	return string(b), err
}

// errNoUser says that a user or group is not in the image.
var errNoUser = errors.New("no such user")

// lookUser finds a user ("name", "name:group" or numbers) in a file system;
// "" is root.
func lookUser(rootfs, spec string) (*user.ExecUser, error) {
	passwd, err := readIn(rootfs, "/etc/passwd")
	if err != nil {
		return nil, err
	}
	group, err := readIn(rootfs, "/etc/group")
	if err != nil {
		return nil, err
	}
	u, err := user.GetExecUser(spec, &user.ExecUser{Home: "/"}, strings.NewReader(passwd), strings.NewReader(group))
	if err != nil {
		return nil, fmt.Errorf("user %q: %w: %w", spec, errNoUser, err)
	}
	return u, nil
}

// makeDirIn makes a directory of a container's file system, which is mounted
// and not yet used, if it is not there.
func makeDirIn(rootfs, name string, uid, gid int) error {
	f, err := findIn(rootfs, name)
	if err == nil {
		return f.Close()
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil // runc says it better
	}
	root, err := os.OpenRoot(rootfs)
	if err != nil {
		return err
	}
	defer root.Close()
	if err := root.MkdirAll(rel(name), 0o755); err != nil {
		return nil // through a link that leads out, or a file: runc says it
	}
	return root.Lchown(rel(name), uid, gid)
}

// openMount opens the part of a volume that a mount asks for; it is made as a
// directory if it is not there.
func (e *Engine) openMount(volume, name string) (*os.File, error) {
	dir, err := e.volumeDir(volume)
	if err != nil {
		return nil, err
	}
	f, err := findIn(dir, name)
	if errors.Is(err, fs.ErrNotExist) {
		root, rerr := os.OpenRoot(dir)
		if rerr != nil {
			return nil, rerr
		}
		defer root.Close()
		if merr := root.MkdirAll(rel(name), 0o755); merr != nil {
			return nil, fmt.Errorf("volume %q: %s: %w: %w", volume, name, errdefs.ErrInvalidArgument, merr)
		}
		f, err = findIn(dir, name)
	}
	if err != nil {
		return nil, fmt.Errorf("volume %q: %w: %w", volume, errdefs.ErrInvalidArgument, err)
	}
	return f, nil
}

// bindFile mounts what f is at a place, which is made to fit. The name by which
// it was found does not count any more.
func bindFile(f *os.File, at string) error {
	st, err := f.Stat()
	if err != nil {
		return err
	}
	switch {
	case st.IsDir():
		err = os.Mkdir(at, 0o700)
	case st.Mode().IsRegular():
		err = os.WriteFile(at, nil, 0o600)
	default:
		err = fmt.Errorf("%s is no file and no directory: %w", f.Name(), errdefs.ErrInvalidArgument)
	}
	if err != nil {
		return err
	}
	from := "/proc/self/fd/" + strconv.Itoa(int(f.Fd()))
	if err := unix.Mount(from, at, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount %s: %w", f.Name(), err)
	}
	return nil
}

// isRootPath says whether a path is that of the volume itself.
func isRootPath(p string) bool { return path.Clean("/"+p) == "/" }
