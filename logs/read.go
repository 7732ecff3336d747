package logs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"slices"
	"sort"
	"strings"
	"time"

	"slipway/logs/segment"
)

// Query selects lines. Zero values select all.
type Query struct {
	Offset  int64 // of the first line
	Limit   int   // 0: no limit
	Tail    int   // the last lines; excludes Offset and Limit
	Since   time.Time
	Until   time.Time
	Streams string // only these, as in "oe"; the numbers of the lines stay the same
	Open    bool   // also what there is of lines that have not ended yet
}

func (q Query) want() want {
	w := all()
	w.from = max(0, q.Offset)
	w.streams = q.Streams
	if !q.Since.IsZero() {
		w.since = q.Since.UnixMicro()
	}
	if !q.Until.IsZero() {
		w.until = q.Until.UnixMicro()
	}
	return w
}

// Read gives the lines of a log and how many there are in all, with those that
// were dropped because of their age. A log that is not there has none. The
// lines may be kept.
func (l *Logs) Read(ctx context.Context, dir string, q Query) (lines []Line, total int64, err error) {
	if err := l.Stream(ctx, dir, q, func(part []Line) error {
		size := 0
		for _, x := range part {
			size += len(x.Text)
		}
		if size < bufSize/8 { // few lines should not keep all that was read with them
			for i := range part {
				part[i].Text = strings.Clone(part[i].Text)
			}
		}
		lines = append(lines, part...)
		return nil
	}); err != nil {
		return nil, 0, err
	}
	if total, err = l.Total(dir); err != nil {
		return nil, 0, err
	}
	if n := len(lines); n > 0 {
		total = max(total, lines[n-1].N+1)
	}
	return lines, total, nil
}

// Stream calls f with the lines that q selects, some hundreds or thousands at a
// time, in order. The slice is used again after f has returned; the texts may be
// kept, but a kept one keeps the others of its slice in memory. It needs no more
// memory for a longer log, except with Tail, which keeps what it selects. An
// error of f ends it and is returned.
func (l *Logs) Stream(ctx context.Context, dir string, q Query, f func([]Line) error) error {
	if q.Tail > 0 {
		lines, err := l.tail(ctx, dir, q)
		if err != nil || len(lines) == 0 {
			return err
		}
		return f(lines)
	}
	p := &pull{want: q.want(), left: math.MaxInt, open: q.Open, f: f}
	if q.Limit > 0 {
		p.left = q.Limit
	}
	return l.again(func() error { return l.stream(ctx, dir, p) })
}

// pull is a reading that goes on where it was when a segment is gone.
type pull struct {
	want
	left  int // lines
	open  bool
	f     func([]Line) error
	lines []Line
}

// give hands lines over and says whether more are wanted.
func (p *pull) give() (bool, error) {
	part := p.lines[:min(p.left, len(p.lines))]
	if len(part) == 0 {
		return true, nil
	}
	p.left -= len(part)
	p.from = part[len(part)-1].N + 1
	return p.left > 0, p.f(part)
}

// again repeats a reading when a segment was dropped in the middle of it.
func (l *Logs) again(f func() error) (err error) {
	for range 5 {
		if err = f(); !errors.Is(err, errGone) {
			break
		}
	}
	return err
}

// stream reads from the segment on in which the wanted lines begin.
func (l *Logs) stream(ctx context.Context, dir string, p *pull) error {
	list, err := list(dir)
	if err != nil || len(list) == 0 {
		return err
	}
	first, err := l.first(dir, list, p.want)
	if err != nil {
		return err
	}
	c := &cursor{l: l, dir: dir}
	defer c.close()
	defer l.page(c)
	for i := first; i < len(list); i++ {
		last := i == len(list)-1
		if err := c.to(list[i].K); err != nil {
			if last && errors.Is(err, segment.ErrHead) { // it is just being made
				return nil
			}
			return fmt.Errorf("log: segment %d: %w", list[i].K, err)
		}
		if i == first {
			c.seek(p.from)
		}
		if p.after(c.head.Time) {
			return nil
		}
		for over := false; !over; {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if p.lines, over, err = c.next(p.want, p.lines[:0]); err != nil {
				return fmt.Errorf("log: segment %d: %w", list[i].K, err)
			}
			if over && last && p.open {
				p.lines = c.begun(p.want, p.lines)
			}
			if more, err := p.give(); err != nil || !more {
				return err
			}
		}
	}
	return nil
}

// list gives the segments of a log; none if it is not there.
func list(dir string) ([]segment.File, error) {
	l, err := segment.List(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return l, err
}

// first is the segment in which the wanted lines begin. The heads of the
// segments are the index: no segment is read for it.
func (l *Logs) first(dir string, list []segment.File, w want) (int, error) {
	var err error
	i := sort.Search(len(list)-1, func(i int) bool {
		h, e := l.headOf(dir, list[i+1].K)
		if e != nil {
			if i+2 < len(list) || !errors.Is(e, segment.ErrHead) { // else it is just being made
				err = e
			}
			return true
		}
		return h.Line > w.from && (w.since == math.MinInt64 || h.Time.UnixMicro() > w.since-late)
	})
	return i, err
}

// Total is how many lines there are, with those that were dropped because of
// their age. Only the last segment is read for it, and of that only what has
// been added since the last time.
func (l *Logs) Total(dir string) (n int64, err error) {
	err = l.again(func() error {
		list, err := list(dir)
		if err != nil {
			return err
		}
		for i := len(list) - 1; i >= 0; i-- {
			n, err = l.count(dir, list[i].K)
			if errors.Is(err, segment.ErrHead) && i > 0 { // it is just being made
				continue
			}
			if errors.Is(err, segment.ErrHead) {
				n, err = 0, nil
			}
			return err
		}
		return nil
	})
	return n, err
}

// count gives the number of the line after segment k.
func (l *Logs) count(dir string, k int) (int64, error) {
	c := &cursor{l: l, dir: dir}
	defer c.close()
	if err := c.to(k); err != nil {
		return 0, err
	}
	if c.head.End >= 0 {
		return c.head.End, nil
	}
	c.seek(math.MaxInt64)
	w := all()
	w.from = math.MaxInt64
	for over := false; !over; {
		var err error
		if _, over, err = c.next(w, nil); err != nil {
			return 0, err
		}
	}
	if m := c.mark; m.off > 0 {
		l.mark(dir, func(ms *marks) { ms.end = m })
	}
	return c.n, nil
}

// tail gives the last lines that are wanted, going back segment by segment: no
// line is in two.
func (l *Logs) tail(ctx context.Context, dir string, q Query) (out []Line, err error) {
	w := q.want()
	w.from = 0
	plain := q.Since.IsZero() && q.Until.IsZero() && q.Streams == "" && !q.Open
	err = l.again(func() error {
		out = nil
		if plain {
			total, err := l.Total(dir)
			if err != nil {
				return err
			}
			w.from = max(0, total-int64(q.Tail))
		}
		list, err := list(dir)
		if err != nil {
			return err
		}
		for i := len(list) - 1; i >= 0 && len(out) < q.Tail; i-- {
			last := i == len(list)-1
			part, head, err := l.one(ctx, dir, list[i].K, w, q.Tail-len(out), q.Open && last)
			if last && errors.Is(err, segment.ErrHead) { // it is just being made
				continue
			}
			if err != nil {
				return err
			}
			out = append(part, out...)
			if head.Line <= w.from || w.since > math.MinInt64 && head.Time.UnixMicro() < w.since-late {
				break
			}
		}
		return nil
	})
	return out, err
}

// one gives the last n wanted lines of one segment.
func (l *Logs) one(ctx context.Context, dir string, k int, w want, n int, open bool) (out []Line, h segment.Head, err error) {
	c := &cursor{l: l, dir: dir}
	defer c.close()
	if err := c.to(k); err != nil {
		return nil, h, err
	}
	if w.after(c.head.Time) {
		return nil, c.head, nil
	}
	c.seek(w.from)
	for over := false; !over; {
		if ctx.Err() != nil {
			return nil, h, context.Cause(ctx)
		}
		if out, over, err = c.next(w, out); err != nil {
			return nil, h, err
		}
		if len(out) > 2*n {
			out = slices.Delete(out, 0, len(out)-n)
		}
	}
	if open {
		out = c.begun(w, out)
	}
	return out[max(0, len(out)-n):], c.head, nil
}
