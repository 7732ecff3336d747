package segment

import (
	"errors"
	"os"
	"time"
)

// resume finds the last segment and goes on with it, or begins the next.
func (w *Writer) resume() error {
	list, err := List(w.dir)
	if err != nil {
		return err
	}
	w.base = 0
	for i, s := range list {
		if i < len(list)-1 {
			w.base += w.bytes(s)
		}
	}
	if len(list) == 0 {
		return w.begin(w.k + 1) // 0 for a new log; else somebody has removed all
	}
	last := list[len(list)-1]
	if !last.Plain {
		h, err := w.head(last)
		if err != nil {
			return err
		}
		w.lines = h.End
		w.base += h.Size
		return w.begin(last.K + 1)
	}
	f, err := os.OpenFile(path(w.dir, last.K), os.O_APPEND|os.O_RDWR, 0)
	if err != nil {
		return err
	}
	if err := w.take(f, last.K, list); err != nil {
		_ = f.Close()
		return err
	}
	return nil
}

// take goes on with the segment f: it is scanned, and what a writer that was
// killed left half done is repaired.
func (w *Writer) take(f *os.File, k int, list []File) error {
	st, err := f.Stat()
	if err != nil {
		return err
	}
	h, err := ReadHead(f)
	if errors.Is(err, ErrHead) && st.Size() < maxHead { // killed while it began
		if w.lines, err = w.before(list); err != nil {
			return err
		}
		if err := f.Truncate(0); err != nil {
			return err
		}
		if _, err := f.Write(head(time.Now(), k, w.lines)); err != nil {
			return err
		}
		st, err = f.Stat()
		h = Head{Line: w.lines}
	}
	if err != nil && !errors.Is(err, ErrHead) {
		return err
	}
	var c Count
	if err := c.CountFile(f, 0, make([]byte, scanSize)); err != nil {
		return err
	}
	w.k, w.lines, w.size = k, h.Line+c.Lines, c.Bytes
	if st.Mode()&0o200 == 0 {
		w.base += w.size
		if err := w.begin(k + 1); err != nil {
			return err
		}
		return f.Close()
	}
	if c.Bytes < st.Size() {
		if err := f.Truncate(c.Bytes); err != nil {
			return err
		}
	}
	w.f, w.part = f, c.Part
	w.full = w.full || c.full && w.o.Max > 0
	w.shut = w.parts()
	return nil
}

// before is how many lines there are in all segments but the last.
func (w *Writer) before(list []File) (int64, error) {
	if len(list) < 2 {
		return 0, nil
	}
	s := list[len(list)-2]
	h, err := w.head(s)
	if err != nil || h.End >= 0 {
		return h.End, err
	}
	f, err := os.Open(path(w.dir, s.K))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	var c Count
	err = c.CountFile(f, 0, make([]byte, scanSize))
	return h.Line + c.Lines, err
}

func (w *Writer) head(s File) (Head, error) {
	p := path(w.dir, s.K)
	if !s.Plain {
		p += Suffix
	}
	f, err := os.Open(p)
	if err != nil {
		return Head{}, err
	}
	defer f.Close()
	return ReadHead(f)
}

// bytes is how large a segment was when it was closed.
func (w *Writer) bytes(s File) int64 {
	if !s.Plain {
		h, err := w.head(s)
		if err != nil {
			return 0
		}
		return h.Size
	}
	st, err := os.Stat(path(w.dir, s.K))
	if err != nil {
		return 0
	}
	return st.Size()
}
