package logs

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/klauspost/compress/zstd"

	"slipway/crash"
	"slipway/logs/segment"
)

const (
	passTime   = 5 * time.Minute
	settleTime = 10 * time.Minute // a segment is compressed so long after its last line
	idleTime   = time.Hour        // the last one is closed so long after its last line
	leastSize  = 8 << 10          // below that nothing is won
	tmpSuffix  = ".tmp"
)

// Run compresses closed segments and drops those of services that are older
// than keep (0: none is), until ctx ends. The last segment of a log always
// stays; that of a service is closed when it holds a seventh of keep, so that
// a service that says little has no lines that are much too old.
func (l *Logs) Run(ctx context.Context, keep time.Duration) error {
	k := &keeper{l: l, keep: keep}
	t := time.NewTicker(passTime)
	defer t.Stop()
	for {
		if err := k.pass(ctx, time.Now()); err != nil && ctx.Err() == nil {
			slog.Warn("some logs were not tidied", "room", "logs", "error", err)
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return nil
		}
	}
}

type keeper struct {
	l    *Logs
	keep time.Duration
	done map[string]still // logs in which nothing is to be done
}

// still is what says that nothing has changed in a log.
type still struct {
	dir  time.Time // of change
	last string    // the segment that may be written
	size int64
}

func (s still) holds(dir string) bool {
	st, err := os.Stat(dir)
	if err != nil || !st.ModTime().Equal(s.dir) {
		return false
	}
	st, err = os.Stat(s.last)
	return s.last == "" || err == nil && st.Size() == s.size
}

// pass looks at every log once.
func (k *keeper) pass(ctx context.Context, now time.Time) error {
	var errs []error
	seen := map[string]still{}
	visit := func(dir string, keep time.Duration) {
		if ctx.Err() != nil {
			return
		}
		if was, ok := k.done[dir]; ok && keep == 0 && was.holds(dir) {
			seen[dir] = was
			return
		}
		now, idle, err := k.tidy(ctx, dir, keep, now)
		if err != nil {
			errs = append(errs, err)
		} else if idle {
			seen[dir] = now
		}
	}
	for _, x := range subs(filepath.Join(k.l.dir, "executions")) {
		for _, a := range subs(x) {
			visit(a, 0)
		}
	}
	for _, s := range subs(filepath.Join(k.l.dir, "services")) {
		visit(s, k.keep)
	}
	k.done = seen
	return errors.Join(errs...)
}

func subs(dir string) []string {
	l, _ := os.ReadDir(dir)
	var out []string
	for _, e := range l {
		if e.IsDir() {
			out = append(out, filepath.Join(dir, e.Name()))
		}
	}
	return out
}

// tidy does what is to be done in one log. It is idle if there will be nothing
// more unless it is written to.
func (k *keeper) tidy(ctx context.Context, dir string, keep time.Duration, now time.Time) (was still, idle bool, err error) {
	if err := k.leftovers(dir); err != nil {
		return was, false, err
	}
	list, err := segment.List(dir)
	if err != nil {
		return was, false, ignore(err)
	}
	if st, err := os.Stat(dir); err == nil {
		was.dir = st.ModTime()
	}
	idle = true
	for i, s := range list {
		last := i == len(list)-1
		p := filepath.Join(dir, segment.Name(s.K))
		st, err := os.Stat(p)
		if !s.Plain {
			st, err = os.Stat(p + segment.Suffix)
		}
		if err != nil {
			return was, false, ignore(err)
		}
		age := now.Sub(st.ModTime())
		switch {
		case keep > 0 && age > keep && !last:
			err = drop(dir, s.K)
		case !s.Plain:
		case s.Zst:
			err = k.swap(dir, s.K) // killed before the last step
		case st.Mode().Perm() != segment.ModeClosed:
			var closed bool
			if closed, err = k.close(dir, s.K, st, keep, now); closed && err == nil {
				err = k.compress(ctx, dir, s.K)
			} else {
				was.last, was.size = p, st.Size()
				idle = idle && (st.Size() < leastSize || closed)
			}
		case age > settleTime && st.Size() >= leastSize:
			err = k.compress(ctx, dir, s.K)
		case st.Size() >= leastSize:
			idle = false
		}
		if err != nil {
			return was, false, ignore(err)
		}
	}
	return was, idle, nil
}

// ignore forgets that something is gone: logs are removed at any time.
func ignore(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return fmt.Errorf("logs: %w", err)
}

// leftovers removes what a server that was killed was just making.
func (k *keeper) leftovers(dir string) error {
	l, _ := filepath.Glob(filepath.Join(dir, "*"+tmpSuffix))
	for _, p := range l {
		if err := os.Remove(p); err != nil {
			return ignore(err)
		}
	}
	return nil
}

func drop(dir string, n int) error {
	unlock, err := segment.Lock(dir)
	if err != nil {
		return err
	}
	defer unlock()
	p := filepath.Join(dir, segment.Name(n))
	for _, q := range []string{p, p + segment.Suffix} {
		if err := os.Remove(q); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	crash.At("logs: old segment is dropped")
	return nil
}

// close closes the last segment of a log that was not written to for long, or
// that holds too much of what keep is. Its writer begins the next one then.
func (k *keeper) close(dir string, n int, st fs.FileInfo, keep time.Duration, now time.Time) (bool, error) {
	h, err := k.l.headOf(dir, n)
	if err != nil {
		return false, nil //nolint:nilerr // it is just being made
	}
	quiet := now.Sub(st.ModTime()) > idleTime && st.Size() >= leastSize
	if !quiet && (keep == 0 || now.Sub(h.Time) < keep/7 || st.Size() < 128) {
		return false, nil
	}
	closed, err := segment.CloseLast(dir, n, func(again fs.FileInfo) bool {
		return !quiet || again.ModTime().Equal(st.ModTime())
	})
	if err != nil || !closed {
		return false, err
	}
	crash.At("logs: segment is closed")
	return quiet, nil
}

// compress replaces a closed segment by its compressed form.
func (k *keeper) compress(ctx context.Context, dir string, n int) (err error) {
	p := filepath.Join(dir, segment.Name(n))
	unlock, err := segment.Lock(dir) // who closes one may have to open it again before he lets the lock go
	if err != nil {
		return err
	}
	st, err := os.Stat(p)
	unlock()
	if err != nil || st.Mode().Perm() != segment.ModeClosed {
		return err
	}
	tmp := p + segment.Suffix + tmpSuffix
	if err := pack(ctx, p, tmp, k.l); err != nil {
		return errors.Join(err, os.RemoveAll(tmp))
	}
	if err := os.Chtimes(tmp, st.ModTime(), st.ModTime()); err != nil {
		return err
	}
	crash.At("logs: compressed segment is written")
	return k.swap(dir, n)
}

// swap gives the compressed form its name, if it has not got it yet, and
// removes the other.
func (k *keeper) swap(dir string, n int) error {
	unlock, err := segment.Lock(dir)
	if err != nil {
		return err
	}
	defer unlock()
	p := filepath.Join(dir, segment.Name(n))
	z := p + segment.Suffix
	if _, err := os.Stat(p); err != nil { // dropped meanwhile
		_ = os.Remove(z + tmpSuffix)
		return err
	}
	if err := os.Rename(z+tmpSuffix, z); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = errors.Join(d.Sync(), d.Close())
	if err != nil {
		return err
	}
	crash.At("logs: compressed segment has its name")
	if err := os.Remove(p); err != nil {
		return err
	}
	crash.At("logs: plain segment is removed")
	return nil
}

// pack writes the compressed form of a segment.
func pack(ctx context.Context, from, to string, l *Logs) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	h, err := segment.ReadHead(in)
	if err != nil {
		return err
	}
	st, err := in.Stat()
	if err != nil {
		return err
	}
	if h.End, err = l.count(filepath.Dir(from), h.K); err != nil {
		return err
	}
	h.Size = st.Size()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, segment.ModeOpen)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	bw := bufio.NewWriterSize(out, 256<<10)
	if _, err := bw.Write(segment.AppendHead(nil, h)); err != nil {
		return err
	}
	z, err := zstd.NewWriter(bw, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(1<<20), zstd.WithLowerEncoderMem(true))
	if err != nil {
		return err
	}
	if _, err := io.Copy(z, &stoppable{ctx, in}); err != nil {
		return errors.Join(err, z.Close())
	}
	if err := errors.Join(z.Close(), bw.Flush()); err != nil {
		return err
	}
	if err := out.Chmod(segment.ModeClosed); err != nil {
		return err
	}
	return out.Sync()
}

// stoppable is a file whose reading ends with a context.
type stoppable struct {
	ctx context.Context
	f   io.Reader
}

func (s *stoppable) Read(b []byte) (int, error) {
	if s.ctx.Err() != nil {
		return 0, context.Cause(s.ctx)
	}
	return s.f.Read(b)
}
