package source

import (
	"bytes"
	"crypto/sha1" //nolint:gosec // the format of git
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// index is a git index, versions 2 and 3: the paths of a commit, and for each
// what lstat said of the file when it was written. Git writes it from a commit
// and never sees the work tree; the stats are ours.
type index struct {
	raw     []byte // without the hash at the end
	entries []entry
}

type entry struct {
	path string
	mode uint32
	hash [sha1.Size]byte
	at   int // of the entry in raw
}

// Kinds of entries.
const (
	modeFile    = 0o100644
	modeProgram = 0o100755
	modeLink    = 0o120000
	modeModule  = 0o160000
)

const (
	statSize  = 40
	entryHead = statSize + sha1.Size + 2
)

var errIndex = errors.New("the index is not one of git's")

func parseIndex(b []byte) (*index, error) {
	if len(b) < 12+sha1.Size || string(b[:4]) != "DIRC" {
		return nil, errIndex
	}
	version, n := binary.BigEndian.Uint32(b[4:]), binary.BigEndian.Uint32(b[8:])
	if version != 2 && version != 3 {
		return nil, fmt.Errorf("%w: version %d", errIndex, version)
	}
	body := b[:len(b)-sha1.Size]
	if uint64(n) > uint64(len(body))/entryHead {
		return nil, errIndex
	}
	x := &index{raw: bytes.Clone(body), entries: make([]entry, 0, n)}
	at := 12
	for range n {
		if at+entryHead > len(body) {
			return nil, errIndex
		}
		e := entry{mode: binary.BigEndian.Uint32(body[at+24:]), at: at}
		copy(e.hash[:], body[at+statSize:])
		name := at + entryHead
		if binary.BigEndian.Uint16(body[at+entryHead-2:])&0x4000 != 0 {
			name += 2
		}
		if name > len(body) {
			return nil, errIndex
		}
		end := bytes.IndexByte(body[name:], 0)
		if end <= 0 {
			return nil, errIndex
		}
		e.path = string(body[name : name+end])
		if !goodPath(e.path) {
			return nil, fmt.Errorf("%w: path %q", errIndex, e.path)
		}
		x.entries = append(x.entries, e)
		at += (name - at + end + 8) &^ 7
	}
	return x, nil
}

// stat gives what is remembered of a file; zeros if it was never written.
func (x *index) stat(i int) []byte {
	at := x.entries[i].at
	return x.raw[at : at+statSize]
}

// forgotten tells whether nothing is remembered of a file.
func (x *index) forgotten(i int) bool { return binary.BigEndian.Uint64(x.stat(i)) == 0 }

// set remembers what lstat says of a file. The mode stays that of the commit.
func (x *index) set(i int, st *unix.Stat_t) {
	b := x.stat(i)
	mode := binary.BigEndian.Uint32(b[24:])
	copy(b, statBytes(st))
	binary.BigEndian.PutUint32(b[24:], mode)
}

// same tells whether a file is as it was when it was remembered. The device is
// not looked at: it changes when the machine starts again.
func (x *index) same(i int, st *unix.Stat_t) bool {
	b, now := x.stat(i), statBytes(st)
	if x.forgotten(i) || !bytes.Equal(b[:16], now[:16]) || !bytes.Equal(b[20:24], now[20:24]) || !bytes.Equal(b[28:], now[28:]) {
		return false
	}
	return fits(x.entries[i].mode, st)
}

// fits tells whether a file is of the kind of an entry.
func fits(mode uint32, st *unix.Stat_t) bool {
	switch mode {
	case modeFile:
		return st.Mode&unix.S_IFMT == unix.S_IFREG && st.Mode&0o100 == 0
	case modeProgram:
		return st.Mode&unix.S_IFMT == unix.S_IFREG && st.Mode&0o100 != 0
	case modeLink:
		return st.Mode&unix.S_IFMT == unix.S_IFLNK
	case modeModule:
		return st.Mode&unix.S_IFMT == unix.S_IFDIR
	}
	return false
}

func statBytes(st *unix.Stat_t) []byte {
	b := make([]byte, 0, statSize)
	for _, v := range [...]uint32{
		uint32(st.Ctim.Sec), uint32(st.Ctim.Nsec), uint32(st.Mtim.Sec), uint32(st.Mtim.Nsec),
		uint32(st.Dev), uint32(st.Ino), st.Mode, st.Uid, st.Gid, uint32(st.Size),
	} {
		b = binary.BigEndian.AppendUint32(b, v)
	}
	return b
}

// inherit takes over what an earlier index remembers of files that are the same
// in both, and gives the paths that only the earlier one has.
func (x *index) inherit(old *index) (lost []string) {
	if old == nil {
		return nil
	}
	i := 0
	for j, was := range old.entries {
		for i < len(x.entries) && x.entries[i].path < was.path {
			i++
		}
		if i == len(x.entries) || x.entries[i].path != was.path {
			lost = append(lost, was.path)
			continue
		}
		if now := x.entries[i]; now.hash == was.hash && now.mode == was.mode {
			copy(x.stat(i), old.stat(j))
		}
	}
	return lost
}

// links are the entries of submodules, in their order.
func (x *index) links() (list []entry) {
	for _, e := range x.entries {
		if e.mode == modeModule {
			list = append(list, e)
		}
	}
	return list
}

// find gives the place of a path.
func (x *index) find(path string) (int, bool) {
	return slices.BinarySearchFunc(x.entries, path, func(e entry, path string) int { return strings.Compare(e.path, path) })
}

// bytes gives the file.
func (x *index) bytes() []byte {
	sum := sha1.Sum(x.raw) //nolint:gosec // the format of git
	return append(bytes.Clone(x.raw), sum[:]...)
}

func (e entry) hex() string { return hex.EncodeToString(e.hash[:]) }

// goodPath tells whether a path stays below the folder it is relative to and
// out of its .git.
func goodPath(p string) bool {
	if p == "" || len(p) > 4096 {
		return false
	}
	for len(p) > 0 {
		part, rest, more := p, "", false
		for i := range len(p) {
			if p[i] == '/' {
				part, rest, more = p[:i], p[i+1:], true
				break
			}
		}
		if part == "" || part == "." || part == ".." || len(part) == 4 && equalFold(part, ".git") {
			return false
		}
		for i := range len(part) {
			if part[i] == 0 {
				return false
			}
		}
		if more && rest == "" {
			return false
		}
		p = rest
	}
	return true
}

func equalFold(a, b string) bool {
	for i := range len(a) {
		c := a[i]
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		if c != b[i] {
			return false
		}
	}
	return true
}

// union is an index with the paths of both; of a path in both that of x.
func union(x, y *index) *index {
	var u index
	u.raw = append(u.raw, "DIRC\x00\x00\x00\x02\x00\x00\x00\x00"...)
	i, j := 0, 0
	for i < len(x.entries) || j < len(y.entries) {
		if j == len(y.entries) || i < len(x.entries) && x.entries[i].path <= y.entries[j].path {
			if j < len(y.entries) && y.entries[j].path == x.entries[i].path {
				j++
			}
			u.add(x.entries[i], x.stat(i))
			i++
		} else {
			u.add(y.entries[j], y.stat(j))
			j++
		}
	}
	binary.BigEndian.PutUint32(u.raw[8:], uint32(len(u.entries)))
	return &u
}

func (x *index) add(e entry, stat []byte) {
	e.at = len(x.raw)
	x.raw = append(x.raw, stat...)
	x.raw = append(x.raw, e.hash[:]...)
	x.raw = binary.BigEndian.AppendUint16(x.raw, uint16(min(len(e.path), 0xfff)))
	x.raw = append(x.raw, e.path...)
	pad := 8 - (entryHead+len(e.path))%8
	x.raw = append(x.raw, make([]byte, pad)...)
	x.entries = append(x.entries, e)
}
