package logs

import (
	"fmt"
	"os"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// watcher tells followers of logs that there is more: one inotify instance for
// all of them, since the kernel gives a user only 128. There is none while
// nobody follows.
type watcher struct {
	mu sync.Mutex
	f  *os.File
	by map[int32]map[chan struct{}]bool
}

// add makes ch ready whenever something in dir changes, until stop is called.
func (w *watcher) add(dir string, ch chan struct{}) (stop func(), err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.f == nil {
		fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
		if err != nil {
			return nil, fmt.Errorf("inotify: %w", err)
		}
		w.f = os.NewFile(uintptr(fd), "inotify")
		w.by = map[int32]map[chan struct{}]bool{}
		go w.loop(w.f)
	}
	f := w.f
	var wd int
	c, err := f.SyscallConn()
	if err == nil {
		err2 := c.Control(func(fd uintptr) {
			wd, err = unix.InotifyAddWatch(int(fd), dir, unix.IN_MODIFY|unix.IN_CREATE|unix.IN_MOVED_TO|unix.IN_ATTRIB)
		})
		if err == nil {
			err = err2
		}
	}
	if err != nil {
		w.idle()
		return nil, fmt.Errorf("inotify: %w", err)
	}
	k := int32(wd)
	if w.by[k] == nil {
		w.by[k] = map[chan struct{}]bool{}
	}
	w.by[k][ch] = true
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.by[k], ch)
		if len(w.by[k]) == 0 {
			delete(w.by, k)
			_ = c.Control(func(fd uintptr) { _, _ = unix.InotifyRmWatch(int(fd), uint32(k)) })
		}
		w.idle()
	}, nil
}

// idle ends the instance when nobody follows any more.
func (w *watcher) idle() {
	if len(w.by) == 0 && w.f != nil {
		_ = w.f.Close()
		w.f = nil
	}
}

func (w *watcher) loop(f *os.File) {
	buf := make([]byte, 16<<10)
	for {
		n, err := f.Read(buf)
		if err != nil {
			return
		}
		w.mu.Lock()
		if w.f != f { // closed meanwhile; the numbers are another one's
			w.mu.Unlock()
			return
		}
		for b := buf[:n]; len(b) >= unix.SizeofInotifyEvent; {
			ev := (*unix.InotifyEvent)(unsafe.Pointer(&b[0]))
			if ev.Mask&unix.IN_Q_OVERFLOW != 0 { // some were dropped: whose is not known
				for _, chs := range w.by {
					wake(chs)
				}
			}
			wake(w.by[ev.Wd])
			b = b[unix.SizeofInotifyEvent+int(ev.Len):]
		}
		w.mu.Unlock()
	}
}

func wake(chs map[chan struct{}]bool) {
	for ch := range chs {
		select {
		case ch <- struct{}{}:
		default:
		}
	}
}
