package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
	"golang.org/x/sys/unix"
)

// locks are held by path: in this process by a semaphore, beyond it by a flock
// on the file, which the git processes under it inherit. So a server that comes
// after a killed one waits until the orphans of that one are gone.
type locks struct {
	mu   sync.Mutex
	held map[string]*held
}

type held struct {
	users int
	sem   *semaphore.Weighted
}

const exclusive = 1 << 30

// lock is a lock that is held.
type lock struct {
	all    *locks
	path   string
	h      *held
	weight int64
	file   *os.File
}

// take waits for the lock; shared ones go together.
func (l *locks) take(ctx context.Context, path string, shared bool) (*lock, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	k, err := l.takeFile(ctx, f, path, shared)
	if err != nil {
		_ = f.Close()
	}
	return k, err
}

// takeFile is take with the file open already, because a process that needs
// to inherit it was started before.
func (l *locks) takeFile(ctx context.Context, f *os.File, path string, shared bool) (*lock, error) {
	l.mu.Lock()
	h := l.held[path]
	if h == nil {
		h = &held{sem: semaphore.NewWeighted(exclusive)}
		l.held[path] = h
	}
	h.users++
	l.mu.Unlock()
	k := &lock{all: l, path: path, h: h, weight: exclusive, file: f}
	how := unix.LOCK_EX
	if shared {
		k.weight, how = 1, unix.LOCK_SH
	}
	if err := h.sem.Acquire(ctx, k.weight); err != nil {
		k.drop()
		return nil, fmt.Errorf("waiting for %s: %w", path, context.Cause(ctx))
	}
	for {
		err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB)
		if err == nil {
			return k, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			h.sem.Release(k.weight)
			k.drop()
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		select { // only what an earlier server left behind is in the way
		case <-ctx.Done():
			h.sem.Release(k.weight)
			k.drop()
			return nil, fmt.Errorf("waiting for %s: %w", path, context.Cause(ctx))
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func (k *lock) drop() {
	k.all.mu.Lock()
	defer k.all.mu.Unlock()
	if k.h.users--; k.h.users == 0 {
		delete(k.all.held, k.path)
	}
}

func (k *lock) release() {
	_ = unix.Flock(int(k.file.Fd()), unix.LOCK_UN)
	_ = k.file.Close()
	k.h.sem.Release(k.weight)
	k.drop()
}

// pusher is who changes refs, and what they are told of the change.
type pusher struct {
	user int64
	base string // the branch that pull requests go to; "" is the default one
}

// begin notes in the file of an exclusive lock that something is changed, and
// in whose name. unclean tells that the last one to do so never ended.
func (k *lock) begin(by pusher) (unclean bool, err error) {
	_, unclean = k.unclean()
	if _, err := k.file.WriteAt([]byte(fmt.Sprintf("%-20d\n%s\n", by.user, by.base)), 0); err != nil {
		return unclean, fmt.Errorf("lock %s: %w", k.path, err)
	}
	return unclean, nil
}

// unclean tells who began and never ended.
func (k *lock) unclean() (by pusher, ok bool) {
	b := make([]byte, maxName+32)
	n, err := k.file.ReadAt(b, 0)
	if n == 0 || err != nil && !errors.Is(err, io.EOF) {
		return by, false
	}
	user, rest, _ := strings.Cut(string(b[:n]), "\n")
	by.user, _ = strconv.ParseInt(strings.TrimSpace(user), 10, 64)
	if base, _, whole := strings.Cut(rest, "\n"); whole && goodRef(heads+base) {
		by.base = base
	}
	return by, true
}

// end notes that all is done.
func (k *lock) end() { _ = k.file.Truncate(0) }
