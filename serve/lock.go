package serve

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// lockFile is held by the server of a data directory for as long as it lives;
// its text is the server's pid, for people and for stop.
const lockFile = "lock"

// lock is the right to a data directory.
type lock struct{ f *os.File }

// takeLock makes the directory and takes its lock. Whoever finds it taken gets
// an error that names the holder.
func takeLock(dir string) (*lock, error) {
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		pid := holder(dir)
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("data directory %s is in use by another server (pid %d); stop it, or give another --data-dir", dir, pid)
		}
		return nil, fmt.Errorf("data directory: lock: %w", err)
	}
	l := &lock{f}
	if err := makeRoom(dir); err != nil {
		l.Close()
		return nil, fmt.Errorf("data directory %s: %w", dir, err)
	}
	if err := l.write(strconv.Itoa(os.Getpid()) + "\n"); err != nil {
		l.Close()
		return nil, fmt.Errorf("data directory %s cannot be written: %w", dir, err)
	}
	return l, nil
}

func (l *lock) write(s string) error {
	if err := l.f.Truncate(0); err != nil {
		return err
	}
	if _, err := l.f.WriteAt([]byte(s), 0); err != nil {
		return err
	}
	return l.f.Sync()
}

// Close gives the directory back.
func (l *lock) Close() error { return l.f.Close() }

// holder is the pid that the lock file names, or 0.
func holder(dir string) int {
	b, err := os.ReadFile(filepath.Join(dir, lockFile))
	if err != nil {
		return 0
	}
	pid, _ := strconv.Atoi(strings.TrimSpace(string(b)))
	return pid
}

// writable finds out whether the directory can take what a start writes, so
// that a full disk is one clear line and not a torn store.
func writable(dir string) error {
	_, free, err := blocks(dir)
	if err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	if free < leastFree {
		return fmt.Errorf("data directory %s: %d MiB are free on its disk, too few to start; make room or move it", dir, free>>20)
	}
	f, err := os.CreateTemp(dir, ".writable")
	if err != nil {
		return fmt.Errorf("data directory %s cannot be written: %w", dir, errors.Unwrap(err))
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if _, err := f.Write(make([]byte, 64<<10)); err != nil {
		return fmt.Errorf("data directory %s cannot be written: %w", dir, err)
	}
	return nil
}

// alive tells whether pid is a server of dir, and not another process that got
// its number.
func alive(pid int, dir string) bool {
	if pid <= 0 || syscall.Kill(pid, 0) != nil {
		return false
	}
	l, err := os.Open(filepath.Join(dir, lockFile))
	if err != nil {
		return false
	}
	defer l.Close()
	if unix.Flock(int(l.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
		return false // nobody holds it
	}
	return true
}
