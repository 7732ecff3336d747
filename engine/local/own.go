package local

import (
	"errors"
	"io/fs"
	"os"
	"syscall"

	"slipway/plainfile"
)

// own makes a user the owner of all that is below a directory, or of a file. It
// looks at nothing if root is to own what is root's: whoever else had it was made
// its owner here, the directory itself included. What goes away meanwhile is
// nobody's.
func own(dir string, uid, gid int) error {
	is, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	if uid == 0 && owner(is).Uid == 0 {
		return nil
	}
	if !is.IsDir() {
		return os.Lchown(dir, uid, gid)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	return fs.WalkDir(plainfile.Tree(root), ".", func(name string, d fs.DirEntry, err error) error {
		var i fs.FileInfo
		if err == nil {
			i, err = d.Info()
		}
		if err == nil && (int(owner(i).Uid) != uid || int(owner(i).Gid) != gid) {
			err = root.Lchown(name, uid, gid)
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
}

func owner(i fs.FileInfo) *syscall.Stat_t { return i.Sys().(*syscall.Stat_t) }
