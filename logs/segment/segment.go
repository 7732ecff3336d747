// Package segment is the format of every log: how frames are written, masked,
// put into segments and parsed again. The monitors use it too, so it knows the
// standard library only.
//
// A log is a directory of segments 000000.log, 000001.log, ... of which the
// last one is written. A segment is a sequence of frames, one a line:
//
//	TTTTTTTTTTTTTTTT S BYTES\n
//
// T: 16 digits, microseconds since 1970. S: the stream, o stdout, e stderr, m a
// note of ours; a capital letter when the line is not complete, so that the
// next frame of that stream goes on with it. BYTES: any but the line end. After
// any line end a reader is in step again. The first frame of a segment is the
// note "segment K line L", L being how many whole lines came before it.
package segment

import (
	"os"
	"time"
)

// Options bound a log. Zero values are no bound.
type Options struct {
	Segment int64 // bytes after which a new segment begins; 0 is 8 MiB
	Max     int64 // bytes of lines kept; then one note says that the rest is left out
	Keep    int64 // bytes kept; older segments are dropped
}

// Frame is one frame.
type Frame struct {
	Time    time.Time
	Stream  byte // o, e or m
	Partial bool
	Bytes   []byte
}

// Parse reads one line without its end.
func Parse(line []byte) (Frame, bool) { panic("unwritten") }

// Writer writes one log. It never fails because the disk is full: what cannot
// be written is counted, and a note tells of it later.
type Writer struct{}

// Open makes the log in dir or goes on with it; a torn last frame is cut off.
func Open(dir string, o Options) (*Writer, error) { panic("unwritten") }

// Line writes one line of a stream ('o', 'e' or 'm').
func (w *Writer) Line(stream byte, text []byte) { panic("unwritten") }

// Lost is how many bytes could not be written.
func (w *Writer) Lost() int64 { panic("unwritten") }

// Sync makes all that was written durable.
func (w *Writer) Sync() error { panic("unwritten") }

// Close syncs and closes.
func (w *Writer) Close() error { panic("unwritten") }

// Pump copies a stream of a container to the log, masked, until its end.
// Complete lines are written at once, others after 40 ms.
func Pump(r *os.File, stream byte, m *Masker, w *Writer) { panic("unwritten") }

// Masker replaces secrets in a stream that comes in pieces. A nil Masker
// replaces nothing.
type Masker struct{}

// NewMasker makes a masker for one stream: each secret, with CRLF, and its
// base64 in all alignments. It is nil when there is nothing to mask.
func NewMasker(secrets [][]byte) *Masker { panic("unwritten") }

// Feed gives what may be written now; it is good until the next call.
func (m *Masker) Feed(b []byte, last bool) []byte { panic("unwritten") }

// Line masks one text that is whole.
func (m *Masker) Line(text []byte) []byte { panic("unwritten") }
