package segment

import (
	"errors"
	"io/fs"
	"os"
	"time"
)

// CloseLast closes segment k, which is the last one, if ok says so of it under
// the lock of the log. A line that has begun ends there. Its writer, if there is
// one, begins the next segment when it has something to write.
func CloseLast(dir string, k int, ok func(fs.FileInfo) bool) (closed bool, err error) {
	unlock, err := Lock(dir)
	if err != nil {
		return false, err
	}
	defer unlock()
	f, err := os.OpenFile(path(dir, k), os.O_APPEND|os.O_RDWR, 0)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	st, err := f.Stat()
	if err != nil || st.Mode()&0o200 == 0 || !ok(st) {
		return false, err
	}
	w := &Writer{dir: dir, k: k}
	if err := w.take(f, k, []File{{K: k, Plain: true}}); err != nil {
		return false, err
	}
	if w.parts() {
		h := stamp(time.Now())
		b, _ := w.closing(nil, &h)
		if _, err := w.raw(b); err != nil {
			return false, err
		}
		if err := os.Chtimes(f.Name(), st.ModTime(), st.ModTime()); err != nil {
			return false, err
		}
	}
	if err := fdatasync(f); err != nil {
		return false, err
	}
	return true, f.Chmod(ModeClosed)
}
