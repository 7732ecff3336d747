package pipeline

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/containerd/errdefs"

	"slipway/access"
	"slipway/db"
	"slipway/engine"
	"slipway/plainfile"
	"slipway/project"
)

// Bounds of what is shown of a file system.
const (
	maxFile    = 64 << 20
	maxEntries = 10_000 // of a folder
)

// Files is the front door of the file systems of pipelines. What is in them was
// made by containers and is not trusted: no link leads out, and nothing is opened
// that is no file.
type Files struct {
	p       *Pipelines
	volumes engine.Volumes
	dirs    engine.Directories
	writing sync.Mutex
}

// NewFiles makes the front door on the engine of the runner.
func NewFiles(p *Pipelines, e Engine) (*Files, error) {
	dirs, ok := e.(engine.Directories)
	if !ok {
		return nil, errors.New("file systems of pipelines need an engine whose volumes are directories")
	}
	return &Files{p: p, volumes: e.Volumes(), dirs: dirs}, nil
}

// File is a file or folder of a file system.
type File struct {
	Path    string
	Dir     bool
	Link    bool // a symbolic link
	Target  string
	Size    int64
	Data    []byte // nil of what is larger than 64 MiB
	Entries []File // of a folder, without their data
}

// goodFile gives a path without slashes around it.
func goodFile(name string, write bool) (string, error) {
	p := strings.Trim(name, "/")
	ok := p == "" && !write || fs.ValidPath(p) && p != "." && len(p) <= 4096 && !strings.ContainsRune(p, 0) && utf8.ValidString(p)
	for part := range strings.SplitSeq(p, "/") {
		ok = ok && len(part) <= 255 && !(write && strings.EqualFold(part, ".git"))
	}
	if !ok {
		return "", &project.Invalid{Fields: []project.Field{{Path: "path", Kind: "format", Message: "is not a path inside the file system"}}}
	}
	return p, nil
}

func badFile(what string) error {
	return &project.Invalid{Fields: []project.Field{{Path: "path", Kind: "conflict", Message: what}}}
}

// root opens the file system of a pipeline; errdefs.ErrNotFound if there is none
// yet.
func (f *Files) root(ctx context.Context, id ID) (*os.Root, error) {
	volume, err := f.p.base(ctx, id)
	if err != nil {
		return nil, err
	}
	return f.open(ctx, volume)
}

func (f *Files) open(ctx context.Context, volume string) (*os.Root, error) {
	dir, err := f.dirs.Dir(ctx, volume)
	if err != nil {
		return nil, err
	}
	return os.OpenRoot(dir)
}

// Get gives a file or folder, "" being the whole file system.
func (f *Files) Get(ctx context.Context, by access.Actor, id ID, name string) (File, error) {
	if _, err := f.p.get(ctx, by, id, access.ExecutionManage); err != nil {
		return File{}, err
	}
	name, err := goodFile(name, false)
	if err != nil {
		return File{}, err
	}
	missing := fmt.Errorf("%s in the file system of pipeline %d: %w", name, id, errdefs.ErrNotFound)
	root, err := f.root(ctx, id)
	switch {
	case errdefs.IsNotFound(err) && name == "":
		return File{Dir: true}, nil // nothing ran yet
	case errdefs.IsNotFound(err):
		return File{}, missing
	case err != nil:
		return File{}, err
	}
	defer root.Close()
	if name == "" {
		return folder(root, "")
	}
	st, err := root.Lstat(name)
	switch {
	case err != nil: // also a link that leads out, or a file where a folder should be
		return File{}, missing
	case st.IsDir():
		return folder(root, name)
	case st.Mode()&fs.ModeSymlink != 0:
		to, err := root.Readlink(name)
		return File{Path: name, Link: true, Target: strings.ToValidUTF8(to, "\uFFFD")}, err
	case !st.Mode().IsRegular():
		return File{}, badFile(name + " is no regular file")
	}
	r, err := plainfile.Open(root, name)
	if err != nil {
		return File{}, fmt.Errorf("open %s: %w", name, err)
	}
	defer r.Close()
	b, err := io.ReadAll(io.LimitReader(r, maxFile+1))
	if err != nil {
		return File{}, fmt.Errorf("read %s: %w", name, err)
	}
	if len(b) > maxFile {
		return File{Path: name, Size: st.Size()}, nil
	}
	return File{Path: name, Size: int64(len(b)), Data: b}, nil
}

func folder(root *os.Root, name string) (File, error) {
	at := name
	if at == "" {
		at = "."
	}
	d, err := plainfile.Dir(root, at)
	if err != nil {
		return File{}, fmt.Errorf("open %s: %w", at, err)
	}
	defer d.Close()
	list, err := d.ReadDir(maxEntries + 1)
	if err != nil && !errors.Is(err, io.EOF) {
		return File{}, fmt.Errorf("list %s: %w", at, err)
	}
	if len(list) > maxEntries {
		return File{}, badFile(fmt.Sprintf("%s has more than %d entries: search in it", at, maxEntries))
	}
	out := File{Path: name, Dir: true}
	for _, e := range list {
		entry := File{Path: path.Join(name, e.Name()), Dir: e.IsDir(), Link: e.Type()&fs.ModeSymlink != 0}
		if st, err := root.Lstat(entry.Path); err == nil && st.Mode().IsRegular() {
			entry.Size = st.Size()
		}
		out.Entries = append(out.Entries, entry)
	}
	sortFiles(out.Entries)
	return out, nil
}

// ErrRunning is what cannot be done while an execution runs.
var ErrRunning = fmt.Errorf("when it has ended: %w", errdefs.ErrConflict)

// idle fails while an execution of the pipeline is under way: its actions are not
// to find other files than those they began with.
func (f *Files) idle(ctx context.Context, id ID) error {
	var number int64
	err := f.p.db.Read(ctx, func(tx *db.Tx) error {
		return tx.QueryRow(`SELECT COALESCE(MAX(number), 0) FROM executions WHERE pipeline = ? AND started IS NOT NULL AND finished IS NULL`, id).Scan(&number)
	})
	if err == nil && number != 0 {
		err = fmt.Errorf("execution %d of the pipeline is running: its files are changed %w", number, ErrRunning)
	}
	return err
}

// Put writes a file, whole or not at all. There must be none with isNew, and one
// without. It stays when the file system is cleared.
func (f *Files) Put(ctx context.Context, by access.Actor, id ID, name string, data []byte, isNew bool) error {
	if _, err := f.p.get(ctx, by, id, access.ExecutionManage); err != nil {
		return err
	}
	name, err := goodFile(name, true)
	if err != nil {
		return err
	}
	if len(data) > maxFile {
		return &project.Invalid{Fields: []project.Field{{Path: "content", Kind: "maximum", Message: "is larger than 64 MiB"}}}
	}
	if err := errors.Join(f.p.room(), f.idle(ctx, id)); err != nil {
		return err
	}
	volume, err := f.p.base(ctx, id)
	if err != nil {
		return err
	}
	if err := f.volumes.Ensure(ctx, volume, id.Owner()); err != nil {
		return fmt.Errorf("make the file system of pipeline %d: %w", id, err)
	}
	root, err := f.open(ctx, volume)
	if err != nil {
		return err
	}
	defer root.Close()
	f.writing.Lock()
	defer f.writing.Unlock()
	mode := fs.FileMode(0o644)
	st, err := root.Lstat(name)
	switch {
	case err == nil && st.IsDir():
		return badFile(name + " is a folder")
	case err == nil && isNew:
		return badFile(name + " is there already")
	case err == nil && st.Mode().IsRegular():
		mode = st.Mode().Perm()
	case err != nil && !isNew:
		return fmt.Errorf("%s in the file system of pipeline %d: %w", name, id, errdefs.ErrNotFound)
	}
	if err := root.MkdirAll(path.Dir(name), 0o755); err != nil {
		return badFile(fmt.Sprintf("its folder cannot be made: %v", err))
	}
	// A kill between the two leaves the name of a file that is not there.
	err = f.p.db.Write(ctx, func(tx *db.Tx) error {
		if _, err := tx.Exec(`INSERT INTO pipeline_files (pipeline, path) VALUES (?, ?) ON CONFLICT DO NOTHING`, id, name); err != nil {
			return err
		}
		return disown(tx, id)
	})
	if err == nil {
		err = replace(root, name, data, mode)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

// upload is where a file lies until it is whole.
const upload = ".slipway-upload"

// replace puts a whole file in the place of whatever has its name. What a killed
// server left of another is written over.
func replace(root *os.Root, name string, data []byte, mode fs.FileMode) error {
	if err := root.RemoveAll(upload); err != nil {
		return err
	}
	w, err := root.OpenFile(upload, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = w.Write(data)
	err = errors.Join(err, w.Chmod(mode), w.Sync(), w.Close())
	if err == nil {
		err = root.Rename(upload, name)
	}
	if err != nil {
		return errors.Join(err, root.RemoveAll(upload))
	}
	return nil
}

// Delete removes a file; what a link leads to stays.
func (f *Files) Delete(ctx context.Context, by access.Actor, id ID, name string) error {
	if _, err := f.p.get(ctx, by, id, access.ExecutionManage); err != nil {
		return err
	}
	name, err := goodFile(name, true)
	if err != nil {
		return err
	}
	if err := f.idle(ctx, id); err != nil {
		return err
	}
	missing := fmt.Errorf("%s in the file system of pipeline %d: %w", name, id, errdefs.ErrNotFound)
	root, err := f.root(ctx, id)
	if errdefs.IsNotFound(err) {
		return missing
	}
	if err != nil {
		return err
	}
	defer root.Close()
	f.writing.Lock()
	defer f.writing.Unlock()
	st, err := root.Lstat(name)
	switch {
	case err != nil:
		return missing
	case st.IsDir():
		return badFile(name + " is a folder")
	}
	err = f.p.db.Write(ctx, func(tx *db.Tx) error {
		if _, err := tx.Exec(`DELETE FROM pipeline_files WHERE pipeline = ? AND path = ?`, id, name); err != nil {
			return err
		}
		return disown(tx, id)
	})
	if err != nil {
		return err
	}
	if err := root.Remove(name); err != nil {
		return fmt.Errorf("remove %s: %w", name, err)
	}
	return nil
}

// removeFiles removes a file system with the files that were put there.
func (h *handling) removeFiles(ctx context.Context, volume string) error {
	if h.x.Frozen.Concurrent { // those of the pipeline stay where they are
		return h.eng.Volumes().Remove(ctx, volume)
	}
	err := h.p.db.Write(ctx, func(tx *db.Tx) error {
		_, err := tx.Exec(`DELETE FROM pipeline_files WHERE pipeline = ?`, h.x.Pipeline)
		return err
	})
	return errors.Join(err, h.eng.Volumes().Remove(ctx, volume))
}

// clearFiles empties a file system but for the files that were put there. What it
// leaves is told by left.
func (h *handling) clearFiles(ctx context.Context, volume string) (left bool, err error) {
	keep, folders := map[string]bool{}, map[string]bool{}
	err = h.p.db.Read(ctx, func(tx *db.Tx) error {
		put, err := db.Column[string](tx, `SELECT path FROM pipeline_files WHERE pipeline = ?`, h.x.Pipeline)
		for _, p := range put {
			keep[p] = true
			for p = path.Dir(p); p != "."; p = path.Dir(p) {
				folders[p] = true
			}
		}
		return err
	})
	if err != nil {
		return false, err
	}
	if len(keep) == 0 {
		return false, h.eng.Volumes().Remove(ctx, volume)
	}
	dir, err := h.dirs.Dir(ctx, volume)
	if errdefs.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return false, err
	}
	defer root.Close()
	return true, clearBut(root, ".", keep, folders)
}

// clearBut removes what is in a folder but for some files and the folders that
// they are in.
func clearBut(root *os.Root, at string, keep, folders map[string]bool) error {
	d, err := plainfile.Dir(root, at)
	if err != nil {
		return err
	}
	list, err := d.ReadDir(-1)
	if err := errors.Join(err, d.Close()); err != nil {
		return err
	}
	for _, e := range list {
		name := path.Join(at, e.Name())
		switch {
		case keep[name] && e.Type().IsRegular():
		case folders[name] && e.IsDir():
			err = clearBut(root, name, keep, folders)
		default:
			err = root.RemoveAll(name)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
