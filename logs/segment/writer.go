package segment

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// Sizes in bytes.
const (
	DefaultSegment = 8 << 20
	// MaxLine is the longest line; a longer one is broken.
	MaxLine = 1 << 20
	// MaxFrame is how much of a line is in one frame; a reader can count on no
	// frame being longer than it and its header.
	MaxFrame = 16 << 10
	scanSize = 64 << 10
)

const boundNote = "the log has reached its bound of "

// Options bound a log. Zero values are no bound.
type Options struct {
	Segment int64 // bytes after which a new segment begins; 0 is 8 MiB, or a quarter of Keep
	Max     int64 // bytes of lines kept; then one note says that the rest is left out
	Keep    int64 // bytes kept on disk; older segments are dropped
}

// Writer writes one log. It never fails because the disk is full: what cannot
// be written is counted, and a note tells of it later. Several writers, in
// several processes too, may write the same log.
type Writer struct {
	mu    sync.Mutex
	dir   string
	o     Options
	d     *os.File // the directory, for its lock
	f     *os.File // the last segment; nil when it has to be looked for
	k     int
	size  int64 // of f, as this writer left it
	base  int64 // bytes of the segments before it
	lines int64 // whole lines in the log
	part  [256]bool
	shut  bool // what part tells of does not go on
	full  bool // Max is reached, and said
	lost  int64
	told  int64 // of lost
	why   error
	buf   []byte

	syncs   chan struct{} // one at a time
	syncing sync.WaitGroup
	bad     error // of a sync; under syncs
}

// chunk is a run of frames of one stream.
type chunk struct {
	b      []byte
	lines  int64 // that end in b
	stream byte
	part   bool // the last frame is partial
}

// Open makes the log in dir or goes on with it; a torn last frame is cut off.
func Open(dir string, o Options) (*Writer, error) {
	if o.Segment <= 0 {
		o.Segment = DefaultSegment
		if o.Keep > 0 {
			o.Segment = max(64<<10, min(o.Segment, o.Keep/4))
		}
	}
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, err
	}
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	w := &Writer{dir: dir, o: o, d: d, k: -1, syncs: make(chan struct{}, 1)}
	if err := w.enter(); err != nil {
		_ = d.Close()
		return nil, err
	}
	w.leave()
	return w, nil
}

// Line writes one line of a stream ('o', 'e' or 'm'). A text with line ends is
// several lines.
func (w *Writer) Line(stream byte, text []byte) {
	h := stamp(time.Now())
	c := chunk{stream: stream}
	for {
		line, rest, more := bytes.Cut(text, []byte{'\n'})
		c.line(&h, line, 0)
		if !more || len(rest) == 0 {
			break
		}
		text = rest
	}
	w.write(&c)
}

// line appends a whole line, of which so many bytes are in the log already.
func (c *chunk) line(h *header, line []byte, before int) {
	for len(line) > MaxFrame {
		before = c.partial(h, line[:MaxFrame], before)
		line = line[MaxFrame:]
	}
	c.b = h.frame(c.b, c.stream, false, line)
	c.lines++
	c.part = false
}

// partial appends a part of a line and says how much of the line is written
// now; 0 when it has been broken.
func (c *chunk) partial(h *header, b []byte, before int) int {
	before += len(b)
	if before >= MaxLine {
		c.line(h, b, 0)
		return 0
	}
	c.b = h.frame(c.b, c.stream, true, b)
	c.part = true
	return before
}

// write appends frames.
func (w *Writer) write(c *chunk) {
	if len(c.b) == 0 {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.full && c.stream != 'm' {
		return
	}
	rest := c.b
	err := w.enter()
	if err == nil {
		rest, err = w.put(c)
		w.leave()
	}
	if err != nil {
		w.lost += int64(len(rest) - HeaderLen*bytes.Count(rest, []byte{'\n'}))
		w.why = err
		w.shut = true
	}
}

// end completes a line of the stream that has begun.
func (w *Writer) end(stream byte) {
	w.mu.Lock()
	part := w.part[stream]
	w.mu.Unlock()
	if part {
		h := stamp(time.Now())
		c := chunk{stream: stream}
		c.line(&h, nil, 0)
		w.write(&c)
	}
}

func (w *Writer) parts() bool { return w.part['o'] || w.part['e'] || w.part['m'] }

// closing appends what ends all lines that have begun.
func (w *Writer) closing(out []byte, h *header) ([]byte, int64) {
	n := int64(0)
	for _, s := range []byte("oem") {
		if w.part[s] {
			out = h.frame(out, s, false, nil)
			n++
		}
	}
	return out, n
}

// put writes frames, what has to be said before them, and at the bound of the
// log what has to be said after them. With an error it gives the frames that
// are not in the log.
func (w *Writer) put(c *chunk) ([]byte, error) {
	b, lines, part := c.b, c.lines, c.part
	full := false
	if w.o.Max > 0 && c.stream != 'm' {
		if room := w.o.Max - w.base - w.size; int64(len(b)) > room {
			b, lines, part = c.cut(room)
			full = true
		}
	}
	if w.size+int64(len(b)) > w.o.Segment && (!w.parts() || w.size+int64(len(b)) > w.o.Segment+MaxLine) {
		if err := w.rotate(); err != nil {
			return b, err
		}
	}
	var told int64
	before, whole := 0, b
	if w.shut || w.lost > w.told || full {
		h := stamp(time.Now())
		out := w.buf[:0]
		var n int64
		begun := w.part
		if w.shut {
			out, n = w.closing(out, &h)
			lines += n
			begun = [256]bool{}
		}
		if told = w.lost - w.told; told > 0 {
			out = h.frame(out, 'm', false, fmt.Appendf(nil, "%d bytes of output could not be written: %s", told, reason(w.why)))
			lines++
		}
		before = len(out)
		out = append(out, b...)
		if full {
			if len(b) > 0 {
				begun[c.stream] = part
			}
			save := w.part
			w.part = begun
			out, n = w.closing(out, &h)
			w.part = save
			out = h.frame(out, 'm', false, []byte(boundNote+strconv.FormatInt(w.o.Max, 10)+" bytes; the rest is left out"))
			lines += n + 1
		}
		w.buf = out
		b = out
	}
	if n, err := w.raw(b); err != nil {
		if n >= before {
			w.told += told
		}
		return whole[min(len(whole), max(0, n-before)):], err
	}
	w.lines += lines
	if w.shut || full {
		w.part, w.shut = [256]bool{}, false
	}
	if !full {
		w.part[c.stream] = part
	}
	w.full = w.full || full
	w.told += told
	return nil, nil
}

// reason is the error without the path, which is nothing for a log.
func reason(err error) string {
	var no syscall.Errno
	if errors.As(err, &no) {
		return no.Error()
	}
	return err.Error()
}

// cut gives the frames that fit into n bytes.
func (c *chunk) cut(n int64) (b []byte, lines int64, part bool) {
	b = c.b[:max(0, min(n, int64(len(c.b))))]
	b = b[:bytes.LastIndexByte(b, '\n')+1]
	for f := range bytes.Lines(b) {
		if _, _, p, ok := Header(f); ok {
			if part = p; !p {
				lines++
			}
		}
	}
	return b, lines, part
}

// raw writes frames to the file. With an error it says how many bytes of them
// are there all the same; they are whole frames.
func (w *Writer) raw(b []byte) (int, error) {
	n, err := w.f.Write(b)
	if err != nil {
		if n > 0 {
			n = bytes.LastIndexByte(b[:n], '\n') + 1
			_ = w.f.Truncate(w.size + int64(n))
			w.size = -1 // what is there is looked at again
		}
		return n, err
	}
	w.size += int64(n)
	return n, nil
}

// enter takes the lock and makes sure that w.f is the last segment and all
// that w knows of it is so.
func (w *Writer) enter() error {
	if w.d == nil {
		return fs.ErrClosed
	}
	if err := flock(w.d, syscall.LOCK_EX); err != nil {
		return err
	}
	err := w.current()
	if err != nil {
		w.leave()
	}
	return err
}

func (w *Writer) leave() { _ = flock(w.d, syscall.LOCK_UN) }

func (w *Writer) current() error {
	if w.f != nil {
		var st syscall.Stat_t
		if err := syscall.Fstat(int(w.f.Fd()), &st); err != nil {
			return err
		}
		if st.Size == w.size && st.Mode&0o200 != 0 && st.Nlink > 0 {
			return nil
		}
		if st.Nlink == 0 { // removed: nobody wants it, and it takes space
			_ = w.f.Close()
			w.f = nil
		} else {
			w.release()
		}
	}
	return w.resume()
}

// release gives the segment up without having closed it.
func (w *Writer) release() {
	f := w.f
	w.f = nil
	w.durable(f)
}

// begin makes segment k and writes its head.
func (w *Writer) begin(k int) error {
	f, err := os.OpenFile(path(w.dir, k), os.O_CREATE|os.O_EXCL|os.O_APPEND|os.O_RDWR, ModeOpen)
	if err != nil {
		return err
	}
	first := head(time.Now(), k, w.lines)
	if _, err := f.Write(first); err != nil {
		_ = os.Remove(f.Name())
		_ = f.Close()
		return err
	}
	w.f, w.k, w.size = f, k, int64(len(first))
	w.part, w.shut = [256]bool{}, false
	return nil
}

// rotate ends the segment and begins the next. Where the next cannot be made
// it goes on with this one.
func (w *Writer) rotate() error {
	if w.parts() {
		h := stamp(time.Now())
		b, n := w.closing(nil, &h)
		if _, err := w.raw(b); err != nil {
			return err
		}
		w.lines += n
		w.part, w.shut = [256]bool{}, false
	}
	old, size := w.f, w.size
	if err := old.Chmod(ModeClosed); err != nil {
		return nil //nolint:nilerr // a larger segment is better than a lost line
	}
	if err := w.begin(w.k + 1); err != nil {
		return old.Chmod(ModeOpen)
	}
	w.base += size
	w.durable(old)
	w.drop()
	return nil
}

// drop removes the oldest segments while there are more bytes than are kept.
func (w *Writer) drop() {
	if w.o.Keep <= 0 {
		return
	}
	list, err := List(w.dir)
	if err != nil {
		return
	}
	var sum int64
	for i := len(list) - 1; i >= 0; i-- {
		p := path(w.dir, list[i].K)
		var size int64
		for _, n := range []string{p, p + Suffix} {
			if st, err := os.Stat(n); err == nil {
				size = st.Size()
				break
			}
		}
		if sum += size; sum > w.o.Keep && i < len(list)-1 {
			_ = os.Remove(p)
			_ = os.Remove(p + Suffix)
		}
	}
}
