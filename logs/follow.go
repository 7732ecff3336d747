package logs

import (
	"context"
	"errors"
	"fmt"
	"os"

	"slipway/logs/segment"
)

// Follow calls f with the lines from offset on, as they come, until ctx ends
// (then its cause is returned) or ended is closed and all is read; with that, a
// line that never ended is one too. A log that is not there yet is waited for.
// The lines of a call are those of one read; they may be kept, but the slice is
// used again. A reader that is slower than the container misses what is
// dropped meanwhile, which the numbers of the lines tell.
func (l *Logs) Follow(ctx context.Context, dir string, offset int64, ended <-chan struct{}, f func([]Line) error) error {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return fmt.Errorf("follow: %w", err)
	}
	more := make(chan struct{}, 1)
	stop, err := l.watch.add(dir, more)
	if err != nil {
		return fmt.Errorf("follow: %w", err)
	}
	defer stop()
	w := all()
	w.from = max(0, offset)
	fo := &follower{l: l, c: &cursor{l: l, dir: dir}, w: w, k: -1, f: f}
	defer fo.c.close()
	for last := false; ; {
		if err := fo.advance(ctx); err != nil {
			return err
		}
		if last {
			fo.lines = fo.c.begun(fo.w, fo.lines[:0])
			return fo.give()
		}
		select {
		case <-more:
		case <-ended:
			last = true
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

type follower struct {
	l     *Logs
	c     *cursor
	w     want
	k     int // the segment that is read; -1: none yet
	f     func([]Line) error
	lines []Line
}

func (fo *follower) give() error {
	if len(fo.lines) == 0 {
		return nil
	}
	fo.w.from = fo.lines[len(fo.lines)-1].N + 1
	return fo.f(fo.lines)
}

// advance reads all there is now.
func (fo *follower) advance(ctx context.Context) error {
	for {
		if fo.c.f == nil {
			ok, err := fo.open()
			if err != nil {
				return fmt.Errorf("follow: %w", err)
			}
			if !ok {
				return nil
			}
		}
		closed, err := fo.closed() // before it is read to its end: then that is its end
		if err != nil {
			return fmt.Errorf("follow: %w", err)
		}
		for over := false; !over; {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if fo.lines, over, err = fo.c.next(fo.w, fo.lines[:0]); err != nil {
				return fmt.Errorf("follow: segment %d: %w", fo.k, err)
			}
			if err := fo.give(); err != nil {
				return err
			}
		}
		if !closed {
			return nil
		}
		next, err := fo.next()
		if err != nil || next < 0 {
			return err
		}
		fo.c.release()
	}
}

// closed says whether nothing will be added to the segment.
func (fo *follower) closed() (bool, error) {
	if fo.c.zst != nil {
		return true, nil
	}
	st, err := fo.c.f.Stat()
	if err != nil {
		return false, err
	}
	return st.Mode().Perm() == segment.ModeClosed, nil
}

// next is the segment after the one that is read; -1 if there is none.
func (fo *follower) next() (int, error) {
	list, err := list(fo.c.dir)
	if err != nil {
		return -1, err
	}
	for _, s := range list {
		if s.K > fo.k {
			return s.K, nil
		}
	}
	return -1, nil
}

// open opens the next segment, or at first the one where the offset is.
func (fo *follower) open() (bool, error) {
	for range 5 {
		k := -1
		var err error
		if fo.k >= 0 {
			if k, err = fo.next(); err != nil {
				return false, err
			}
		} else {
			list, err := list(fo.c.dir)
			if err != nil {
				return false, err
			}
			if len(list) > 0 {
				i, err := fo.l.first(fo.c.dir, list, fo.w)
				if errors.Is(err, errGone) {
					continue
				}
				if err != nil {
					return false, err
				}
				k = list[i].K
			}
		}
		if k < 0 {
			return false, nil
		}
		err = fo.c.to(k)
		if errors.Is(err, errGone) {
			continue
		}
		if errors.Is(err, segment.ErrHead) { // it is just being made
			return false, nil
		}
		if err == nil {
			if fo.k < 0 {
				fo.c.seek(fo.w.from)
			}
			fo.k = k
		}
		return err == nil, err
	}
	return false, nil
}
