package logs

import "time"

// mark is a place in a segment where a line begins and none has begun before
// and not ended. Segments are only added to, so a mark stays right.
type mark struct {
	k    int
	made time.Time // the head of the segment, in case it is another one now
	off  int64
	n    int64
}

// marks are what is remembered of a log, so that a client that asks for piece
// after piece does not make us read everything before it each time.
type marks struct {
	end  mark // up to here the last segment was counted
	page mark // up to here the last reader came
}

// maxMarks is of how many logs something is remembered.
const maxMarks = 256

func (l *Logs) marked(dir string) marks {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.marks[dir]
}

func (l *Logs) mark(dir string, f func(*marks)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	m, ok := l.marks[dir]
	for d := range l.marks {
		if ok || len(l.marks) < maxMarks {
			break
		}
		delete(l.marks, d) // any
	}
	f(&m)
	l.marks[dir] = m
}

// page remembers where a reader stopped, at the beginning of what it read last.
func (l *Logs) page(c *cursor) {
	if m := c.mark; c.f != nil && c.head.End < 0 && m.off > 0 {
		l.mark(c.dir, func(ms *marks) { ms.page = m })
	}
}

// seek goes as near to line n as is remembered. The segment was opened just now.
func (c *cursor) seek(n int64) {
	ms := c.l.marked(c.dir)
	best := mark{}
	for _, m := range []mark{ms.end, ms.page} {
		if m.k == c.head.K && m.made.Equal(c.head.Time) && m.n <= n && m.off > best.off {
			best = m
		}
	}
	if best.off > 0 {
		c.at(best.off, best.n)
	}
}
