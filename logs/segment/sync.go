package segment

import (
	"errors"
	"os"
	"syscall"
)

// Lost is how many bytes could not be written.
func (w *Writer) Lost() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.lost
}

// Lines is how many whole lines the log has, those of dropped segments too.
func (w *Writer) Lines() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.lines
}

// Err is why bytes could not be written, the last time.
func (w *Writer) Err() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.why
}

// durable syncs and closes a segment that is not written any more, in the
// background: its last bytes need not wait for it, and a long log is not
// written out all at its end.
func (w *Writer) durable(f *os.File) {
	w.syncing.Go(func() {
		w.syncs <- struct{}{}
		defer func() { <-w.syncs }()
		w.bad = errors.Join(w.bad, fdatasync(f), f.Close())
	})
}

// Sync makes all that was written durable.
func (w *Writer) Sync() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.sync()
}

func (w *Writer) sync() error {
	var err error
	if w.f != nil {
		err = fdatasync(w.f)
	}
	w.syncing.Wait()
	if w.d != nil { // the names of the segments
		err = errors.Join(err, w.d.Sync())
	}
	err = errors.Join(err, w.bad)
	w.bad = nil
	return err
}

// Close syncs and closes. What is written afterwards is lost.
func (w *Writer) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.d == nil {
		return nil
	}
	err := w.sync()
	if w.f != nil {
		err = errors.Join(err, w.f.Close())
	}
	err = errors.Join(err, w.d.Close())
	w.f, w.d = nil, nil
	return err
}

func fdatasync(f *os.File) error {
	for {
		err := syscall.Fdatasync(int(f.Fd()))
		if err != syscall.EINTR {
			return err
		}
	}
}
