package logs

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"

	"slipway/logs/segment"
)

// bufSize is what is read at once. The texts of all lines of one read are one
// piece of memory.
const bufSize = 128 << 10

// Line is one whole line. Its text has no line end.
type Line struct {
	N      int64 // number in the log, from 0
	Time   time.Time
	Stream byte // o, e or m
	Text   string
}

// cursor reads a log forward, segment by segment.
type cursor struct {
	l    *Logs
	dir  string
	head segment.Head
	f    *os.File // nil: no segment is open
	zst  *zstd.Decoder
	buf  *[]byte
	have int   // bytes in buf that are not a whole frame yet
	off  int64 // of what comes after them in the segment
	n    int64 // number of the next line
	top  bool  // the head has not been passed
	mark mark
	part ['o' - 'e' + 1][]byte
}

// errGone is given for a segment that was dropped between the look into the
// directory and now.
var errGone = errors.New("the segment is gone")

// open goes to the beginning of a segment. It may be replaced by its
// compressed form, or dropped, at any moment.
func (l *Logs) open(dir string, k int) (*os.File, segment.Head, error) {
	for range 3 {
		for _, suffix := range []string{"", segment.Suffix} {
			f, err := os.Open(filepath.Join(dir, segment.Name(k)) + suffix)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return nil, segment.Head{}, err
			}
			h, err := segment.ReadHead(f)
			if err != nil {
				_ = f.Close()
			}
			return f, h, err
		}
	}
	return nil, segment.Head{}, errGone
}

func (l *Logs) headOf(dir string, k int) (segment.Head, error) {
	f, h, err := l.open(dir, k)
	if err == nil {
		_ = f.Close()
	}
	return h, err
}

// to opens segment k.
func (c *cursor) to(k int) error {
	f, h, err := c.l.open(c.dir, k)
	if err != nil {
		return err
	}
	c.release()
	c.f, c.head, c.n, c.top = f, h, h.Line, true
	if h.End >= 0 {
		if c.zst, err = c.l.decoder(f); err != nil {
			c.close()
			return err
		}
	}
	if c.buf == nil {
		if c.buf, _ = c.l.bufs.Get().(*[]byte); c.buf == nil {
			b := make([]byte, bufSize)
			c.buf = &b
		}
	}
	return nil
}

// at goes to a place in a segment that is not compressed, before line n.
func (c *cursor) at(off, n int64) bool {
	var before [1]byte
	if c.head.End >= 0 || off <= 0 {
		return false
	}
	if _, err := c.f.ReadAt(before[:], off-1); err != nil || before[0] != '\n' {
		return false
	}
	if _, err := c.f.Seek(off, io.SeekStart); err != nil {
		return false
	}
	c.off, c.n, c.top = off, n, false
	return true
}

func (l *Logs) decoder(r io.Reader) (*zstd.Decoder, error) {
	if d, ok := l.zst.Get().(*zstd.Decoder); ok {
		return d, d.Reset(r)
	}
	return zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxMemory(64<<20))
}

// release gives the segment up.
func (c *cursor) release() {
	if c.zst != nil {
		_ = c.zst.Reset(nil)
		c.l.zst.Put(c.zst)
	}
	if c.f != nil {
		_ = c.f.Close()
	}
	c.f, c.zst, c.have, c.off, c.mark = nil, nil, 0, 0, mark{}
	for i := range c.part {
		c.part[i] = c.part[i][:0]
	}
}

func (c *cursor) close() {
	c.release()
	if c.buf != nil {
		c.l.bufs.Put(c.buf)
		c.buf = nil
	}
}

// next adds the wanted lines of the next piece of the segment to out, if there
// are any. It is over when there is no more now, or none that can be wanted.
func (c *cursor) next(w want, out []Line) (_ []Line, over bool, err error) {
	if c.zst == nil && !c.top && c.whole() {
		c.mark = mark{c.head.K, c.head.Time, c.off - int64(c.have), c.n}
	}
	b, err := c.read()
	if err != nil || len(b) == 0 {
		return out, true, err
	}
	out, over = c.take(b, w, out)
	buf := *c.buf
	c.have = copy(buf, buf[len(b):c.have])
	return out, over, nil
}

// read gives what comes next of the segment, whole frames only; nothing when
// there is no more now.
func (c *cursor) read() ([]byte, error) {
	r := io.Reader(c.f)
	if c.zst != nil {
		r = c.zst
	}
	buf := *c.buf
	for {
		n, err := r.Read(buf[c.have:])
		c.off += int64(n)
		c.have += n
		if n > 0 {
			if i := bytes.LastIndexByte(buf[c.have-n:c.have], '\n'); i >= 0 {
				return buf[:c.have-n+i+1], nil
			}
			if c.have == len(buf) { // no frame of ours is so long
				c.have = 0
			}
		}
		if err == io.EOF {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

// want is what a reader takes.
type want struct {
	from         int64 // number of a line
	since, until int64 // microseconds
	streams      string
}

func all() want { return want{since: math.MinInt64, until: math.MaxInt64} }

// late is how much later than the next a line may be stamped: two streams are
// written at the same time, and clocks are put right.
const late = int64(2 * time.Second / time.Microsecond)

// after says that a segment that began then is later than what is wanted.
func (w want) after(t time.Time) bool {
	return w.until < math.MaxInt64-late && t.UnixMicro() > w.until+late
}

// take adds the lines of b that are wanted to out. It is over when no later
// one can be.
func (c *cursor) take(b []byte, w want, out []Line) (_ []Line, over bool) {
	text := "" // of b from here to its end, made when the first line of it is wanted
	base := 0
	for at := 0; at < len(b); {
		i := bytes.IndexByte(b[at:], '\n')
		if i < 0 {
			break
		}
		line, start := b[at:at+i], at+segment.HeaderLen
		at += i + 1
		us, s, partial, ok := segment.Header(line)
		if c.top || !ok {
			c.top = false
			continue
		}
		p := &c.part[s-'e']
		if partial {
			*p = append(*p, line[segment.HeaderLen:]...)
			continue
		}
		n := c.n
		c.n++
		if w.until < math.MaxInt64-late && us > w.until+late {
			return out, true
		}
		if n < w.from || us < w.since || us > w.until || w.streams != "" && strings.IndexByte(w.streams, s) < 0 {
			*p = (*p)[:0]
			continue
		}
		var t string
		if len(*p) > 0 {
			*p = append(*p, line[segment.HeaderLen:]...)
			t = string(*p)
			if *p = (*p)[:0]; cap(*p) > bufSize {
				*p = nil
			}
		} else {
			if text == "" {
				base, text = start, string(b[start:])
			}
			t = text[start-base : at-1-base]
		}
		out = append(out, Line{N: n, Time: time.UnixMicro(us), Stream: s, Text: strings.TrimSuffix(t, "\r")})
	}
	return out, false
}

// begun gives the lines that have begun and not ended.
func (c *cursor) begun(w want, out []Line) []Line {
	for _, s := range []byte("emo") {
		p := &c.part[s-'e']
		if len(*p) == 0 {
			continue
		}
		if c.n >= w.from && (w.streams == "" || strings.IndexByte(w.streams, s) >= 0) {
			out = append(out, Line{N: c.n, Time: time.Now(), Stream: s, Text: string(*p)})
		}
		c.n++
		*p = (*p)[:0]
	}
	return out
}

// whole says whether no line has begun that has not ended.
func (c *cursor) whole() bool {
	for _, p := range c.part {
		if len(p) > 0 {
			return false
		}
	}
	return true
}
