package segment

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Mode of a segment that is written, and of one that never will be again.
const (
	ModeOpen   os.FileMode = 0o640
	ModeClosed os.FileMode = 0o440
)

// Suffix of a compressed segment, after its name.
const Suffix = ".zst"

// Name is the file name of segment k.
func Name(k int) string { return fmt.Sprintf("%06d.log", k) }

// File is one segment in a directory.
type File struct {
	K     int
	Plain bool // NNNNNN.log is there
	Zst   bool // NNNNNN.log.zst is there
}

// List gives the segments of a log in order. One that is there in both forms
// (it is just being replaced) is given once.
func List(dir string) ([]File, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	l := make([]File, 0, len(names))
	for _, n := range names {
		n, zst := strings.CutSuffix(n, Suffix)
		digits, ok := strings.CutSuffix(n, ".log")
		k, err := strconv.Atoi(digits)
		if !ok || err != nil || k < 0 || Name(k) != n {
			continue
		}
		l = append(l, File{K: k, Plain: !zst, Zst: zst})
	}
	slices.SortFunc(l, func(a, b File) int { return a.K - b.K })
	out := l[:0]
	for _, f := range l {
		if n := len(out); n > 0 && out[n-1].K == f.K {
			out[n-1].Plain = out[n-1].Plain || f.Plain
			out[n-1].Zst = out[n-1].Zst || f.Zst
			continue
		}
		out = append(out, f)
	}
	return out, nil
}

// Head is what a segment says of itself at its beginning.
type Head struct {
	K    int
	Line int64 // whole lines of the log before this segment
	Time time.Time
	End  int64 // whole lines before its end; -1 if it is not compressed
	Size int64 // bytes, when not compressed; -1 if it is not compressed
}

const (
	skippable = 0x184D2A50 // magic number of a zstd frame that readers skip
	maxHead   = 256
)

// ErrHead is given for a file that does not begin as a segment does.
var ErrHead = errors.New("not a segment of a log")

// ReadHead reads the head of a segment, compressed or not. An empty one, whose
// head is just being written, is ErrHead too.
func ReadHead(f io.ReaderAt) (Head, error) {
	var buf [maxHead]byte
	n, err := f.ReadAt(buf[:], 0)
	if n == 0 && err != nil && err != io.EOF {
		return Head{}, err
	}
	b := buf[:n]
	zst := len(b) > 8 && binary.LittleEndian.Uint32(b) == skippable
	if zst {
		b = b[8:min(len(b), 8+int(min(maxHead, binary.LittleEndian.Uint32(b[4:]))))]
	}
	first, rest, ok := bytes.Cut(b, []byte{'\n'})
	if !ok {
		return Head{}, ErrHead
	}
	h, ok := parseHead(first)
	if !ok {
		return Head{}, ErrHead
	}
	if zst {
		if _, err := fmt.Sscanf(string(rest), "end %d size %d\n", &h.End, &h.Size); err != nil || h.End < h.Line || h.Size < 0 {
			return Head{}, ErrHead
		}
	}
	return h, nil
}

// parseHead reads the first frame of a segment.
func parseHead(line []byte) (Head, bool) {
	f, ok := Parse(line)
	if !ok || f.Stream != 'm' || f.Partial {
		return Head{}, false
	}
	rest, ok := strings.CutPrefix(string(f.Bytes), "segment ")
	if !ok {
		return Head{}, false
	}
	ks, ls, ok := strings.Cut(rest, " line ")
	k, e1 := strconv.Atoi(ks)
	n, e2 := strconv.ParseInt(ls, 10, 64)
	if !ok || e1 != nil || e2 != nil || k < 0 || n < 0 {
		return Head{}, false
	}
	return Head{K: k, Line: n, Time: f.Time, End: -1, Size: -1}, true
}

func head(t time.Time, k int, line int64) []byte {
	h := stamp(t)
	return h.frame(nil, 'm', false, []byte("segment "+strconv.Itoa(k)+" line "+strconv.FormatInt(line, 10)))
}

// AppendHead appends what a compressed segment begins with.
func AppendHead(out []byte, h Head) []byte {
	b := head(h.Time, h.K, h.Line)
	b = fmt.Appendf(b, "end %d size %d\n", h.End, h.Size)
	out = binary.LittleEndian.AppendUint32(out, skippable)
	out = binary.LittleEndian.AppendUint32(out, uint32(len(b)))
	return append(out, b...)
}

// Lock takes the lock of a log's directory, which the writers of the log hold
// while they write. It waits for it.
func Lock(dir string) (unlock func(), err error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := flock(d, syscall.LOCK_EX); err != nil {
		_ = d.Close()
		return nil, err
	}
	return func() { _ = d.Close() }, nil
}

func flock(f *os.File, how int) error {
	for {
		err := syscall.Flock(int(f.Fd()), how)
		if err != syscall.EINTR {
			return err
		}
	}
}

// Count scans frames: how many whole lines end in b, how many of its bytes are
// complete frames, and which streams have begun a line that has not ended.
type Count struct {
	Lines int64
	Bytes int64
	Part  [256]bool
	full  bool // a note says that the bound is reached
	head  bool // the first frame was seen
}

// Add counts the complete frames at the beginning of b and returns how many
// bytes they are. Calls go on where the one before ended.
func (c *Count) Add(b []byte) int {
	done := 0
	for {
		i := bytes.IndexByte(b[done:], '\n')
		if i < 0 {
			c.Bytes += int64(done)
			return done
		}
		line := b[done : done+i]
		done += i + 1
		_, s, partial, ok := Header(line)
		switch {
		case !ok:
		case !c.head && s == 'm' && isHead(line):
		case partial:
			c.Part[s] = true
		default:
			c.Part[s] = false
			c.Lines++
			c.full = c.full || s == 'm' && bytes.HasPrefix(line[HeaderLen:], []byte(boundNote))
		}
		c.head = true
	}
}

func isHead(line []byte) bool {
	_, ok := parseHead(line)
	return ok
}

// CountFile counts a segment that is not compressed, from offset on. With an
// offset above 0 the first frame is not looked at as a head.
func (c *Count) CountFile(f io.ReaderAt, off int64, buf []byte) error {
	c.head = c.head || off > 0
	n := 0
	for {
		m, err := f.ReadAt(buf[n:], off)
		off += int64(m)
		n += m
		done := c.Add(buf[:n])
		if done == 0 && n == len(buf) { // a line that no writer of ours made
			done, n = n, 0
			c.Bytes += int64(done)
			continue
		}
		n = copy(buf, buf[done:n])
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func path(dir string, k int) string { return filepath.Join(dir, Name(k)) }
