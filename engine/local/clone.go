package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"slipway/engine"
	"slipway/plainfile"
)

// Clone implements engine.Snapshotter. Where the file system can the copy
// shares its blocks with the original.
func (e *Engine) Clone(ctx context.Context, from, to string, owner engine.Owner) error {
	src, err := e.volumeRoot(from)
	if err != nil {
		return fmt.Errorf("clone: %w", err)
	}
	defer src.Close()
	if _, err := e.volumeDir(to); err == nil {
		return fmt.Errorf("clone: volume %q: %w", to, errdefs.ErrAlreadyExists)
	}
	if to == "" {
		return fmt.Errorf("clone: a volume without an id: %w", errdefs.ErrInvalidArgument)
	}
	err = e.makeVolume(to, owner, func(data string) error {
		dst, err := os.OpenRoot(data)
		if err != nil {
			return err
		}
		defer dst.Close()
		c := cloner{ctx: ctx, src: src, dst: dst, links: map[inode]string{}}
		return c.tree()
	})
	if err != nil {
		return fmt.Errorf("clone of volume %q: %w", from, err)
	}
	return nil
}

// cloner copies a tree. Both sides are roots, so that a container that writes
// to the original at the same time cannot lead it out.
type cloner struct {
	ctx      context.Context
	src, dst *os.Root
	links    map[inode]string
	copies   bool // the file system cannot share blocks
}

func (c *cloner) tree() error {
	type dir struct {
		name string
		st   *syscall.Stat_t
	}
	var dirs []dir
	err := fs.WalkDir(plainfile.Tree(c.src), ".", func(name string, d fs.DirEntry, err error) error {
		if c.ctx.Err() != nil {
			return context.Cause(c.ctx)
		}
		var st fs.FileInfo
		if err == nil {
			st, err = d.Info()
		}
		if errors.Is(err, fs.ErrNotExist) && name != "." {
			return nil // gone meanwhile
		}
		if err != nil {
			return err
		}
		s, _ := st.Sys().(*syscall.Stat_t)
		if st.IsDir() {
			dirs = append(dirs, dir{name, s})
		}
		if err := c.one(name, st, s); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	})
	if err != nil {
		return err
	}
	for i := len(dirs) - 1; i >= 0; i-- {
		_ = c.times(dirs[i].name, dirs[i].st)
	}
	return nil
}

func (c *cloner) one(name string, st fs.FileInfo, s *syscall.Stat_t) error {
	switch {
	case st.IsDir():
		if name != "." {
			if err := c.dst.Mkdir(name, 0o700); err != nil {
				return err
			}
		}
	case st.Mode()&fs.ModeSymlink != 0:
		to, err := c.src.Readlink(name)
		if err != nil {
			return err
		}
		if err := c.dst.Symlink(to, name); err != nil {
			return err
		}
		return c.dst.Lchown(name, int(s.Uid), int(s.Gid))
	case st.Mode().IsRegular():
		if s.Nlink > 1 {
			k := inode{s.Dev, s.Ino}
			if first, ok := c.links[k]; ok {
				return c.dst.Link(first, name)
			}
			c.links[k] = name
		}
		if err := c.file(name); err != nil {
			return err
		}
	default:
		return nil // sockets, pipes and devices have no content
	}
	if err := c.dst.Lchown(name, int(s.Uid), int(s.Gid)); err != nil {
		return err
	}
	if err := c.dst.Chmod(name, st.Mode()&(fs.ModePerm|fs.ModeSetuid|fs.ModeSetgid|fs.ModeSticky)); err != nil {
		return err
	}
	if st.IsDir() {
		return nil
	}
	return c.times(name, s)
}

func (c *cloner) times(name string, s *syscall.Stat_t) error {
	return c.dst.Chtimes(name, time.Unix(s.Atim.Unix()), time.Unix(s.Mtim.Unix()))
}

func (c *cloner) file(name string) error {
	in, err := plainfile.Open(c.src, name)
	if errors.Is(err, plainfile.ErrIrregular) {
		return fs.ErrNotExist // the file is gone meanwhile
	}
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := c.dst.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if !c.copies {
		if err := unix.IoctlFileClone(int(out.Fd()), int(in.Fd())); err == nil {
			return out.Close()
		}
		c.copies = true
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}
