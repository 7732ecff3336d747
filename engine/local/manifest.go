package local

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/containerd/errdefs"
)

// Kinds of what a snapshot has; others have no content.
const (
	keptDir  = 'd'
	keptFile = 'f'
	keptLink = 'l' // symbolic
	keptName = 'n' // another name of a file
)

// entry is one file of a snapshot.
type entry struct {
	kind     byte
	name     string // path in the volume; "." is the top
	mode     fs.FileMode
	uid, gid uint32
	modified int64 // ns
	size     int64
	sum      string // of the content, 32 bytes
	target   string // of a link; of a name the file that has it, too
	attrs    []attr

	// was is what the file was known by when it was read.
	was stamp
}

// attr is an extended attribute.
type attr struct{ name, value string }

// words is how many bytes of texts an entry has.
func (e entry) words() (n int) {
	n = len(e.name) + len(e.target)
	for _, a := range e.attrs {
		n += len(a.name) + len(a.value)
	}
	return n
}

// stamp is what nobody who may write a file can put back once it has written to
// it: the kernel alone sets the time of a change. The zero one is of no file.
type stamp struct {
	dev, ino uint64
	changed  int64 // ns
	size     int64
}

func (e entry) equal(o entry) bool {
	return e.kind == o.kind && e.name == o.name && e.mode == o.mode && e.uid == o.uid && e.gid == o.gid && e.modified == o.modified &&
		e.size == o.size && e.sum == o.sum && e.target == o.target && e.was == o.was && slices.Equal(e.attrs, o.attrs)
}

// object is the name of a file's content.
func (e entry) object() string { return hex.EncodeToString([]byte(e.sum)) }

// manifest is a snapshot: its entries in the order in which they can be made, a
// directory before what is in it.
type manifest []entry

const manifestMagic = "slipway snapshot 1\n"

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// encode writes a manifest; a sum at its end tells whether it is whole.
func (m manifest) encode() []byte {
	b := append(make([]byte, 0, len(m)*160+64), manifestMagic...)
	text := func(s string) {
		b = binary.AppendUvarint(b, uint64(len(s)))
		b = append(b, s...)
	}
	b = binary.AppendUvarint(b, uint64(len(m)))
	for _, e := range m {
		b = append(b, e.kind)
		text(e.name)
		for _, n := range []int64{int64(e.mode), int64(e.uid), int64(e.gid), e.modified, e.size} {
			b = binary.AppendVarint(b, n)
		}
		text(e.sum)
		text(e.target)
		b = binary.AppendUvarint(b, uint64(len(e.attrs)))
		for _, a := range e.attrs {
			text(a.name)
			text(a.value)
		}
		for _, n := range []uint64{e.was.dev, e.was.ino, uint64(e.was.changed), uint64(e.was.size)} {
			b = binary.AppendUvarint(b, n)
		}
	}
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// decodeManifest reads what encode wrote; errdefs.ErrDataLoss if it is not whole.
func decodeManifest(b []byte) (m manifest, err error) {
	torn := fmt.Errorf("the list of the snapshot is not whole: %w", errdefs.ErrDataLoss)
	end := len(b) - 4
	if end < len(manifestMagic) || string(b[:len(manifestMagic)]) != manifestMagic ||
		binary.BigEndian.Uint32(b[end:]) != crc32.Checksum(b[:end], castagnoli) {
		return nil, torn
	}
	r := unpacker{b: b[len(manifestMagic):end]}
	n := r.count()
	m = make(manifest, 0, min(n, len(r.b)))
	for range n {
		e := entry{kind: r.byte(), name: r.text()}
		e.mode, e.uid, e.gid = fs.FileMode(r.int()), uint32(r.int()), uint32(r.int())
		e.modified, e.size = r.int(), r.int()
		e.sum, e.target = r.text(), r.text()
		for range r.count() {
			e.attrs = append(e.attrs, attr{r.text(), r.text()})
		}
		e.was = stamp{r.uint(), r.uint(), int64(r.uint()), int64(r.uint())}
		if r.bad {
			return nil, torn
		}
		m = append(m, e)
	}
	return m, nil
}

// unpacker takes a manifest apart.
type unpacker struct {
	b   []byte
	bad bool
}

func (r *unpacker) byte() byte {
	if len(r.b) == 0 {
		r.bad = true
		return 0
	}
	c := r.b[0]
	r.b = r.b[1:]
	return c
}

func (r *unpacker) skip(n int) {
	if n <= 0 {
		r.bad, r.b = true, nil
		return
	}
	r.b = r.b[n:]
}

func (r *unpacker) uint() uint64 {
	v, n := binary.Uvarint(r.b)
	r.skip(n)
	return v
}

func (r *unpacker) int() int64 {
	v, n := binary.Varint(r.b)
	r.skip(n)
	return v
}

// count is a number of things that take a byte each at least.
func (r *unpacker) count() int {
	n := r.uint()
	if n > uint64(len(r.b)) {
		r.bad, n = true, 0
	}
	return int(n)
}

func (r *unpacker) text() string {
	n := r.count()
	s := string(r.b[:n])
	r.b = r.b[n:]
	return s
}

// chest is where the snapshots of an owner are: m/<id> are the lists, o/<sum> the
// content of files, each once, and last/<volume> is the list that was made last of
// a volume, once more.
type chest struct{ dir string }

func (s chest) list(id string) string     { return filepath.Join(s.dir, "m", fileName(id)) }
func (s chest) object(sum string) string  { return filepath.Join(s.dir, "o", sum) }
func (s chest) last(volume string) string { return filepath.Join(s.dir, "last", fileName(volume)) }

// read gives a list.
func (s chest) read(id string) (manifest, error) {
	b, err := os.ReadFile(s.list(id))
	if err != nil {
		return nil, err
	}
	return decodeManifest(b)
}

// write puts a list where it belongs, whole or not at all.
func (s chest) write(file string, text []byte) error {
	f, err := s.fresh()
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return os.Rename(f.Name(), file)
}

// fresh makes the file that is to become a list or an object. What a kill has left
// there is not written to: it may be another name of a list.
func (s chest) fresh() (*os.File, error) {
	name, err := s.free()
	if err != nil {
		return nil, err
	}
	return os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
}

// free is the name that what is not whole yet has; nothing has it then.
func (s chest) free() (string, error) {
	name := filepath.Join(s.dir, "new")
	if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	return name, nil
}

// ids are those of the lists.
func (s chest) ids() ([]string, error) {
	ents, err := os.ReadDir(filepath.Join(s.dir, "m"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var l []string
	for _, d := range ents {
		l = append(l, d.Name())
	}
	return l, err
}

// living are the objects that the lists have.
func (s chest) living() (map[string]bool, error) {
	lists, err := places(filepath.Join(s.dir, "m"))
	if err != nil {
		return nil, err
	}
	all := map[string]bool{}
	for _, ids := range lists { // those of the same content are one file
		m, err := s.read(ids[0])
		if errdefs.IsDataLoss(err) {
			continue // it cannot be restored whatever is kept
		}
		if err != nil {
			return nil, err
		}
		for _, e := range m {
			if e.kind == keptFile {
				all[e.object()] = true
			}
		}
	}
	return all, nil
}

// before is the list that was made last of a volume, as long as it is kept; nil if
// there is none.
func (s chest) before(volume string) manifest {
	b, err := os.ReadFile(s.last(volume))
	if err != nil {
		return nil
	}
	m, err := decodeManifest(b)
	if err != nil {
		return nil
	}
	return m
}

// note notes which list was made last of a volume: it has a second name then,
// which costs less than a file.
func (s chest) note(volume, id string) error {
	tmp, err := s.free()
	if err != nil {
		return err
	}
	if err := os.Link(s.list(id), tmp); err != nil {
		return err
	}
	return os.Rename(tmp, s.last(volume))
}

// drop removes lists, and the second names of those that are not there any more.
func (s chest) drop(ids []string) error {
	for _, id := range ids {
		if err := os.Remove(s.list(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	there, err := places(filepath.Join(s.dir, "m"))
	if err != nil {
		return err
	}
	last, err := places(filepath.Join(s.dir, "last"))
	for k, names := range last {
		if there[k] != nil {
			continue
		}
		for _, n := range names {
			err = errors.Join(err, os.Remove(filepath.Join(s.dir, "last", n)))
		}
	}
	return err
}

// places are the files of a directory by what they are on the disk.
func places(dir string) (map[inode][]string, error) {
	ents, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	all := map[inode][]string{}
	for _, d := range ents {
		st, err := d.Info()
		if err != nil {
			return nil, err
		}
		k := inode{owner(st).Dev, owner(st).Ino}
		all[k] = append(all[k], d.Name())
	}
	return all, err
}
