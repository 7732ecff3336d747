package ingress

import (
	"bufio"
	"os"
	"sync"
	"time"
)

// maxLog bounds the log file; one older file is kept beside it.
const maxLog = 32 << 20

// logFile writes lines to a file that never grows beyond maxLog. Lines are
// buffered for at most a second. Two processes may share a file for the time of
// a handover: each line is one append.
type logFile struct {
	path string
	mu   sync.Mutex
	f    *os.File
	w    *bufio.Writer
	size int64
	stop chan struct{}
	done sync.WaitGroup
}

func openLog(path string) (*logFile, error) {
	l := &logFile{path: path, stop: make(chan struct{})}
	if err := l.open(); err != nil {
		return nil, err
	}
	l.done.Go(func() {
		t := time.NewTicker(time.Second)
		defer t.Stop()
		for {
			select {
			case <-l.stop:
				return
			case <-t.C:
				l.flush()
			}
		}
	})
	return l, nil
}

func (l *logFile) open() error {
	f, err := os.OpenFile(l.path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o640)
	if err != nil {
		return err
	}
	st, err := f.Stat()
	if err != nil {
		_ = f.Close()
		return err
	}
	l.f, l.size = f, st.Size()
	l.w = bufio.NewWriterSize(f, 64<<10)
	return nil
}

// Write appends one line.
func (l *logFile) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.f == nil {
		return len(p), nil
	}
	if l.size+int64(len(p)) > maxLog {
		l.rotate()
	}
	if l.w.Available() < len(p) {
		_ = l.w.Flush() // whole lines only
	}
	n, err := l.w.Write(p)
	l.size += int64(n)
	return n, err
}

// rotate keeps the old file beside the new one. If the disk refuses, logging
// goes on in the old one.
func (l *logFile) rotate() {
	_ = l.w.Flush()
	// another process may have done it
	if st, err := os.Stat(l.path); err == nil {
		if own, err := l.f.Stat(); err == nil && os.SameFile(st, own) {
			_ = os.Rename(l.path, l.path+".1")
		}
	}
	old := l.f
	if l.open() == nil {
		_ = old.Close()
	} else {
		l.size = 0
	}
}

func (l *logFile) flush() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.f != nil {
		_ = l.w.Flush()
	}
}

func (l *logFile) close() {
	close(l.stop)
	l.done.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	_ = l.w.Flush()
	_ = l.f.Close()
	l.f = nil
}
