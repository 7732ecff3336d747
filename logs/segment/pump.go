package segment

import (
	"bytes"
	"os"
	"time"
)

const (
	firstRead = 8 << 10
	maxRead   = 64 << 10
	maxWrite  = 128 << 10
	flushTime = 40 * time.Millisecond
)

// Pump copies a stream of a container to the log, masked, until its end or
// until r is closed. Complete lines are written at once, others after 40 ms.
func Pump(r *os.File, stream byte, m *Masker, w *Writer) {
	var (
		c      = chunk{stream: stream}
		part   []byte    // of a line, not written yet
		before int       // bytes of the same line that are
		since  time.Time // when part began
		timed  bool
		buf    = make([]byte, firstRead)
	)
	for {
		switch {
		case len(part) > 0:
			_ = r.SetReadDeadline(since.Add(flushTime))
			timed = true
		case timed:
			_ = r.SetReadDeadline(time.Time{})
			timed = false
		}
		n, err := r.Read(buf)
		end := err != nil && !os.IsTimeout(err)
		b := buf[:n]
		if n > 0 || end {
			b = m.Feed(b, end)
		}
		now := time.Now()
		h := stamp(now)
		c = chunk{b: c.b[:0], stream: stream}
		for len(b) > 0 {
			i := bytes.IndexByte(b, '\n')
			if i < 0 {
				if len(part) == 0 {
					since = now
				}
				part = append(part, b...)
				break
			}
			if len(part) > 0 {
				part = append(part, b[:i]...)
				c.line(&h, part, before)
				part = part[:0]
			} else {
				c.line(&h, b[:i], before)
			}
			before = 0
			b = b[i+1:]
			if len(c.b) > maxWrite { // many short lines
				w.write(&c)
				c = chunk{b: c.b[:0], stream: stream}
			}
		}
		rest := part
		for len(rest) > MaxFrame {
			before = c.partial(&h, rest[:MaxFrame], before)
			rest = rest[MaxFrame:]
		}
		part = part[:copy(part, rest)]
		switch {
		case end && len(part) > 0:
			c.line(&h, part, before)
		case len(part) > 0 && err != nil:
			before = c.partial(&h, part, before)
			part = part[:0]
		}
		w.write(&c)
		if end {
			w.end(stream)
			return
		}
		if n == len(buf) && n < maxRead {
			buf = make([]byte, 4*n)
		}
	}
}
