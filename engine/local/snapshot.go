package local

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"slipway/crash"
	"slipway/engine"
	"slipway/plainfile"
)

// chests are the snapshots of owners, each in a directory of its own:
// docs/decisions/0009 says why they are lists of files and not trees.
type chests struct {
	mu    sync.Mutex
	locks map[string]*sync.Mutex
	turns map[string]int // counts the snapshots that were taken
}

// chest gives the chest of an owner, which nobody else uses until done is called.
func (e *Engine) chest(owner engine.Owner) (s chest, done func()) {
	name := fileName(string(owner))
	e.chests.mu.Lock()
	if e.chests.locks == nil {
		e.chests.locks, e.chests.turns = map[string]*sync.Mutex{}, map[string]int{}
	}
	l := e.chests.locks[name]
	if l == nil {
		l = &sync.Mutex{}
		e.chests.locks[name] = l
	}
	e.chests.mu.Unlock()
	l.Lock()
	return chest{e.path("snapshots", name)}, l.Unlock
}

// turn counts the snapshots that were taken of an owner's; more are added.
func (e *Engine) turn(s chest, more int) int {
	e.chests.mu.Lock()
	defer e.chests.mu.Unlock()
	e.chests.turns[filepath.Base(s.dir)] += more
	return e.chests.turns[filepath.Base(s.dir)]
}

const ownerFile = "owner"

// make makes the directories of a chest.
func (s chest) make(owner engine.Owner) error {
	if _, err := os.Stat(filepath.Join(s.dir, ownerFile)); err == nil {
		return nil
	}
	for _, d := range []string{"m", "o", "last"} {
		if err := os.MkdirAll(filepath.Join(s.dir, d), 0o700); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(s.dir, ownerFile), []byte(owner), 0o600)
}

// slack is more than what the clock of the kernel's times may be behind ours.
const slack = 20 * time.Millisecond

// Snapshot implements engine.Snapshotter.
func (e *Engine) Snapshot(ctx context.Context, owner engine.Owner, id, volume string, most engine.SnapshotBounds) (engine.Snapshot, error) {
	what := fmt.Sprintf("snapshot %s of volume %q", id, volume)
	if id == "" || fileName(id) != id {
		return engine.Snapshot{}, fmt.Errorf("%s: it has no good id: %w", what, errdefs.ErrInvalidArgument)
	}
	root, err := e.volumeRoot(volume)
	if err != nil {
		return engine.Snapshot{}, fmt.Errorf("%s: %w", what, err)
	}
	defer root.Close()
	s, done := e.chest(owner)
	defer done()
	if m, err := s.read(id); err == nil {
		return m.told(), nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return engine.Snapshot{}, fmt.Errorf("%s: %w", what, err)
	}
	e.turn(s, 1)
	k := keeper{ctx: ctx, chest: s, most: most, begun: time.Now(), links: map[inode]string{}, known: map[string]entry{}}
	before := s.before(volume)
	for _, b := range before {
		k.known[b.name] = b
	}
	err = s.make(owner)
	if err == nil {
		err = k.tree(root)
	}
	if err == nil {
		crash.At("engine: files of a snapshot are kept")
		err = k.finish(id, volume, before)
	}
	if err != nil {
		for _, o := range k.fresh {
			err = errors.Join(err, os.Remove(o))
		}
		return engine.Snapshot{}, full(fmt.Errorf("%s: %w", what, err))
	}
	told := k.made.told()
	told.Added = k.added
	return told, nil
}

func (m manifest) told() (t engine.Snapshot) {
	t.Files = len(m) - 1 // without the top
	for _, e := range m {
		t.Size += e.size
	}
	return t
}

// keeper makes one snapshot.
type keeper struct {
	ctx   context.Context
	chest chest
	most  engine.SnapshotBounds
	begun time.Time
	known map[string]entry // of the snapshot before, by name
	links map[inode]string
	made  manifest
	added int64
	asked int64    // bytes of what was changed, as far as is known
	fresh []string // objects that were not there before
	buf   []byte
	words int // bytes of names and attributes
}

// maxWords bounds what a list has besides numbers: it is held in memory.
const maxWords = 64 << 20

// finish writes the list, or gives that of before a second name if nothing is
// different.
func (k *keeper) finish(id, volume string, before manifest) error {
	if slices.EqualFunc(k.made, before, entry.equal) {
		if os.Link(k.chest.last(volume), k.chest.list(id)) == nil {
			return nil
		} // it has as many names as it can have
	}
	if err := k.chest.write(k.chest.list(id), k.made.encode()); err != nil {
		return err
	}
	_ = k.chest.note(volume, id) // it only saves the next one time
	return nil
}

// tree reads a volume from its top on. It stays on directories that it has opened,
// so that nothing in them leads out.
func (k *keeper) tree(root *os.Root) error {
	top, err := plainfile.Dir(root, ".")
	if err != nil {
		return err
	}
	defer top.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(top.Fd()), &st); err != nil {
		return err
	}
	return k.dir(top, ".", &st, 0)
}

// deepest is how deep directories may be in each other: each is open meanwhile.
const deepest = 200

func beyond(format string, a ...any) error {
	return fmt.Errorf(format+": %w", append(a, errdefs.ErrResourceExhausted)...)
}

// dir reads an open directory with all that is in it.
func (k *keeper) dir(d *os.File, name string, st *unix.Stat_t, depth int) error {
	if depth > deepest {
		return beyond("directories are more than %d deep in each other", deepest)
	}
	e := k.entry(keptDir, name, st)
	if was, same := k.same(e); same {
		e.attrs = was.attrs
	} else if err := e.readAttrs(d); err != nil {
		return err
	}
	if err := k.add(e); err != nil {
		return err
	}
	var names []string
	for {
		some, err := d.Readdirnames(4096)
		names = append(names, some...)
		if k.most.Files > 0 && len(k.made)+len(names) > k.most.Files+1 {
			return beyond("there are more than %d files", k.most.Files)
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
	}
	slices.Sort(names)
	for _, n := range names {
		if k.ctx.Err() != nil {
			return context.Cause(k.ctx)
		}
		if err := k.one(d, n, path.Join(name, n), depth); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// one reads what has a name in a directory.
func (k *keeper) one(in *os.File, base, name string, depth int) error {
	var st unix.Stat_t
	if err := unix.Fstatat(int(in.Fd()), base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		fd, err := unix.Openat(int(in.Fd()), base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		d := os.NewFile(uintptr(fd), base)
		defer d.Close()
		return k.dir(d, name, &st, depth+1)
	case unix.S_IFLNK:
		e := k.entry(keptLink, name, &st)
		var to [unix.PathMax]byte
		n, err := unix.Readlinkat(int(in.Fd()), base, to[:])
		if err != nil {
			return err
		}
		e.target, e.size = string(to[:n]), 0
		return k.add(e)
	case unix.S_IFREG:
		return k.file(in, base, name, &st)
	}
	return nil // sockets, pipes and devices have no content
}

func (k *keeper) file(in *os.File, base, name string, st *unix.Stat_t) error {
	if st.Nlink > 1 {
		i := inode{st.Dev, st.Ino}
		if first, ok := k.links[i]; ok {
			return k.add(entry{kind: keptName, name: name, target: first})
		}
		k.links[i] = name
	}
	e := k.entry(keptFile, name, st)
	if was, same := k.same(e); same {
		e.sum, e.attrs = was.sum, was.attrs
		return k.add(e)
	}
	at, err := plainfile.Find(int(in.Fd()), base, unix.RESOLVE_BENEATH|unix.RESOLVE_NO_SYMLINKS)
	if err != nil {
		return err
	}
	defer at.Close()
	f, err := plainfile.Reopen(at)
	if errors.Is(err, plainfile.ErrIrregular) {
		return fs.ErrNotExist
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if err := e.readAttrs(f); err != nil {
		return err
	}
	if err := k.content(f, &e); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return k.add(e)
}

func (k *keeper) add(e entry) error {
	if k.most.Files > 0 && len(k.made) > k.most.Files {
		return beyond("there are more than %d files", k.most.Files)
	}
	if k.words += e.words(); k.words > maxWords {
		return beyond("the names and attributes of its files have more than %d MiB", maxWords>>20)
	}
	k.made = append(k.made, e)
	return nil
}

// entry is what is to be kept of a file but for its content. One that was changed
// just now is not known again by its times: it could be changed within what the
// clock cannot tell apart.
func (k *keeper) entry(kind byte, name string, st *unix.Stat_t) entry {
	e := entry{
		kind: kind, name: name, mode: fs.FileMode(st.Mode & 0o7777), uid: st.Uid, gid: st.Gid, modified: st.Mtim.Nano(),
		was: stamp{st.Dev, st.Ino, st.Ctim.Nano(), st.Size},
	}
	if kind == keptFile {
		e.size = st.Size
	}
	if !time.Unix(0, e.was.changed).Before(k.begun.Add(-slack)) {
		e.was = stamp{}
	}
	return e
}

// same finds the file in the snapshot before, if it was not changed since.
func (k *keeper) same(e entry) (was entry, same bool) {
	was, ok := k.known[e.name]
	return was, ok && was.kind == e.kind && was.was == e.was && e.was != stamp{}
}

// small is up to which size a file is read into memory.
const small = 1 << 20

// content keeps what is in a file.
func (k *keeper) content(f *os.File, e *entry) error {
	if k.asked += e.size; k.most.Added > 0 && k.asked > 4*k.most.Added {
		return beyond("files of more than %d MiB were changed", 4*k.most.Added>>20)
	}
	if e.size > small {
		return k.large(f, e)
	}
	if k.buf == nil {
		k.buf = make([]byte, small+1)
	}
	n, err := io.ReadFull(f, k.buf)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return err
	}
	if n > small {
		return k.large(f, e) // it has grown
	}
	sum := sha256.Sum256(k.buf[:n])
	e.size, e.sum = int64(n), string(sum[:])
	return k.put(e, func(w *os.File) error { _, err := w.Write(k.buf[:n]); return err })
}

// put makes the object of an entry with write, unless it is there.
func (k *keeper) put(e *entry, write func(*os.File) error) error {
	name := k.chest.object(e.object())
	if st, err := os.Lstat(name); err == nil && st.Size() == e.size {
		return nil
	} else if err == nil { // a kill or a crash left a part of it
		if err := os.Remove(name); err != nil {
			return err
		}
	}
	if err := k.take(e.size); err != nil {
		return err
	}
	w, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	k.fresh = append(k.fresh, name)
	return errors.Join(write(w), w.Close())
}

// take counts what is added.
func (k *keeper) take(n int64) error {
	if k.added += n; k.most.Added > 0 && k.added > k.most.Added {
		return beyond("more than %d MiB are to be copied", k.most.Added>>20)
	}
	return nil
}

// large keeps a file that is read twice at most: to see whether its content is
// there already, and to copy it. The copy has the name of what was copied,
// whatever the file is by then.
func (k *keeper) large(f *os.File, e *entry) error {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	h := sha256.New()
	n, err := io.Copy(h, limited{k.ctx, f})
	if err != nil {
		return err
	}
	e.size, e.sum = n, string(h.Sum(nil))
	if st, err := os.Lstat(k.chest.object(e.object())); err == nil && st.Size() == n {
		return nil
	}
	if k.most.Added > 0 && k.added+n > k.most.Added {
		return k.take(n)
	}
	w, err := k.chest.fresh()
	if err != nil {
		return err
	}
	defer os.Remove(w.Name()) // not there when all went well
	h.Reset()
	if err = unix.IoctlFileClone(int(w.Fd()), int(f.Fd())); err == nil {
		n, err = io.Copy(h, limited{k.ctx, w})
	} else if _, err = f.Seek(0, io.SeekStart); err == nil {
		n, err = io.Copy(io.MultiWriter(h, &holes{f: w}), limited{k.ctx, f})
		if err == nil {
			err = w.Truncate(n)
		}
	}
	if err = errors.Join(err, w.Close()); err != nil {
		return err
	}
	e.size, e.sum = n, string(h.Sum(nil))
	if err := k.take(n); err != nil {
		return err
	}
	name := k.chest.object(e.object())
	if err := os.Rename(w.Name(), name); err != nil {
		return err
	}
	k.fresh = append(k.fresh, name)
	return nil
}

// limited reads until a context ends.
type limited struct {
	ctx context.Context
	r   io.Reader
}

func (l limited) Read(b []byte) (int, error) {
	if l.ctx.Err() != nil {
		return 0, context.Cause(l.ctx)
	}
	return l.r.Read(b)
}

// holes writes no zeros: what is skipped has none on the disk. The file is to be
// cut to its size at the end.
type holes struct {
	f  *os.File
	at int64
}

var nothing [32 << 10]byte

func (h *holes) Write(b []byte) (int, error) {
	n := len(b)
	for len(b) > 0 {
		part := b[:min(len(b), len(nothing))]
		if len(part) < len(nothing) || !bytes.Equal(part, nothing[:]) {
			if _, err := h.f.WriteAt(part, h.at); err != nil {
				return 0, err
			}
		}
		h.at, b = h.at+int64(len(part)), b[len(part):]
	}
	return n, nil
}

// keptAttr tells whether an extended attribute is kept.
func keptAttr(name string) bool {
	return strings.HasPrefix(name, "user.") || name == "security.capability" || strings.HasPrefix(name, "system.posix_acl_")
}

func (e *entry) readAttrs(f *os.File) error {
	var buf [4096]byte
	list := buf[:]
	n, err := unix.Flistxattr(int(f.Fd()), list)
	if errors.Is(err, unix.ERANGE) {
		list = make([]byte, 64<<10)
		n, err = unix.Flistxattr(int(f.Fd()), list)
	}
	if errors.Is(err, unix.ENOTSUP) || n == 0 && err == nil {
		return nil
	}
	if err != nil {
		return err
	}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(list[:n]), "\x00"), "\x00") {
		if !keptAttr(name) {
			continue
		}
		value := make([]byte, 64<<10)
		n, err := unix.Fgetxattr(int(f.Fd()), name, value)
		if errors.Is(err, unix.ENODATA) {
			continue
		}
		if err != nil {
			return err
		}
		e.attrs = append(e.attrs, attr{name, string(value[:n])})
	}
	return nil
}

// Restore implements engine.Snapshotter.
func (e *Engine) Restore(ctx context.Context, owner engine.Owner, id, volume string) error {
	what := fmt.Sprintf("restore snapshot %q", id)
	if _, err := e.volumeDir(volume); err == nil {
		return fmt.Errorf("%s: volume %q: %w", what, volume, errdefs.ErrAlreadyExists)
	}
	if volume == "" {
		return fmt.Errorf("%s: a volume without an id: %w", what, errdefs.ErrInvalidArgument)
	}
	s, done := e.chest(owner)
	defer done()
	m, err := s.read(id)
	if errors.Is(err, fs.ErrNotExist) {
		err = errdefs.ErrNotFound
	}
	if err == nil {
		err = e.makeVolume(volume, owner, func(data string) error {
			root, err := os.OpenRoot(data)
			if err != nil {
				return err
			}
			defer root.Close()
			return restorer{ctx, s, root}.all(m)
		})
	}
	if err != nil {
		return full(fmt.Errorf("%s: %w", what, err))
	}
	return nil
}

// restorer makes the files of a snapshot below a root.
type restorer struct {
	ctx   context.Context
	chest chest
	root  *os.Root
}

func (r restorer) all(m manifest) error {
	for _, e := range m {
		if r.ctx.Err() != nil {
			return context.Cause(r.ctx)
		}
		if err := r.one(e); err != nil {
			return fmt.Errorf("%s: %w", e.name, err)
		}
	}
	for _, e := range slices.Backward(m) {
		if e.kind == keptDir { // what was made in it has changed its times
			if err := r.times(e); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r restorer) times(e entry) error {
	return r.root.Chtimes(e.name, time.Time{}, time.Unix(0, e.modified))
}

func (r restorer) one(e entry) error {
	switch e.kind {
	case keptDir:
		if e.name != "." {
			if err := r.root.Mkdir(e.name, 0o700); err != nil {
				return err
			}
		}
		d, err := plainfile.Dir(r.root, e.name)
		if err != nil {
			return err
		}
		return errors.Join(e.dress(d), d.Close())
	case keptLink:
		if err := r.root.Symlink(e.target, e.name); err != nil {
			return err
		}
		return r.root.Lchown(e.name, int(e.uid), int(e.gid))
	case keptName:
		return r.root.Link(e.target, e.name)
	}
	f, err := r.root.OpenFile(e.name, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	if err := errors.Join(r.content(f, e), e.dress(f), f.Close()); err != nil {
		return err
	}
	return r.times(e)
}

// content fills a file with its object, if that is what it was.
func (r restorer) content(f *os.File, e entry) error {
	o, err := os.Open(r.chest.object(e.object()))
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("its content is gone: %w", errdefs.ErrDataLoss)
	}
	if err != nil {
		return err
	}
	defer o.Close()
	h := sha256.New()
	var n int64
	if err = unix.IoctlFileClone(int(f.Fd()), int(o.Fd())); err == nil {
		n, err = io.Copy(h, limited{r.ctx, f})
	} else {
		n, err = io.Copy(io.MultiWriter(h, &holes{f: f}), limited{r.ctx, o})
		if err == nil {
			err = f.Truncate(n)
		}
	}
	if err == nil && (n != e.size || string(h.Sum(nil)) != e.sum) {
		err = fmt.Errorf("its content is not what it was: %w", errdefs.ErrDataLoss)
	}
	return err
}

// dress gives an open file its owner, mode and attributes, in this order: a change
// of the owner takes set-id bits and capabilities away.
func (e entry) dress(f *os.File) error {
	fd := int(f.Fd())
	err := errors.Join(unix.Fchown(fd, int(e.uid), int(e.gid)), unix.Fchmod(fd, uint32(e.mode)))
	for _, a := range e.attrs {
		err = errors.Join(err, unix.Fsetxattr(fd, a.name, []byte(a.value), 0))
	}
	return err
}

// Snapshots implements engine.Snapshotter.
func (e *Engine) Snapshots(_ context.Context, owner engine.Owner) ([]string, error) {
	s, done := e.chest(owner)
	defer done()
	l, err := s.ids()
	if err != nil {
		return nil, fmt.Errorf("snapshots of %s: %w", owner, err)
	}
	return l, nil
}

// DropSnapshots implements engine.Snapshotter.
func (e *Engine) DropSnapshots(ctx context.Context, owner engine.Owner, ids ...string) error {
	s, done := e.chest(owner)
	err := s.drop(ids)
	done()
	for more := true; more && err == nil; {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		more, err = e.collect(owner)
	}
	if err != nil {
		return fmt.Errorf("drop snapshots of %s: %w", owner, err)
	}
	return nil
}

// collect removes content that no snapshot of an owner has, some at a time:
// whoever is to take another one waits for no more than that. more tells that one
// was taken meanwhile, which may have what is not removed yet.
func (e *Engine) collect(owner engine.Owner) (more bool, err error) {
	s, done := e.chest(owner)
	turn := e.turn(s, 0)
	living, err := s.living()
	ents, rerr := os.ReadDir(filepath.Join(s.dir, "o"))
	if errors.Is(rerr, fs.ErrNotExist) {
		rerr = nil
	}
	done()
	if err = errors.Join(err, rerr); err != nil {
		return false, err
	}
	for some := range slices.Chunk(ents, 256) {
		_, done := e.chest(owner)
		if e.turn(s, 0) != turn {
			done()
			return true, nil
		}
		for _, d := range some {
			if living[d.Name()] {
				continue
			}
			if rerr := os.Remove(s.object(d.Name())); rerr != nil && !errors.Is(rerr, fs.ErrNotExist) {
				err = errors.Join(err, rerr)
			}
		}
		done()
	}
	return false, err
}

// chestOwners lists whom snapshots belong to.
func (e *Engine) chestOwners() (l []engine.Owner, err error) {
	ents, err := os.ReadDir(e.path("snapshots"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	for _, d := range ents {
		if b, err := os.ReadFile(e.path("snapshots", d.Name(), ownerFile)); err == nil {
			l = append(l, engine.Owner(b))
		}
	}
	return l, err
}

// dropChest removes all snapshots of an owner. The file that says whose they are
// goes last, so that a rest is found again.
func (e *Engine) dropChest(owner engine.Owner) error {
	s, done := e.chest(owner)
	defer done()
	e.turn(s, 1)
	for _, d := range []string{"m", "last", "o"} {
		if err := os.RemoveAll(filepath.Join(s.dir, d)); err != nil {
			return err
		}
	}
	return os.RemoveAll(s.dir)
}
