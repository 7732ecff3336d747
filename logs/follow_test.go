package logs

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"sync"
	"testing"
	"time"

	"slipway/logs/segment"
)

// following starts a follower and gives what it got and a way to wait for its
// end.
type following struct {
	mu    sync.Mutex
	lines []Line
	ended chan struct{}
	err   chan error
}

func follow(ctx context.Context, l *Logs, dir string, offset int64) *following {
	f := &following{ended: make(chan struct{}), err: make(chan error, 1)}
	go func() {
		f.err <- l.Follow(ctx, dir, offset, f.ended, func(part []Line) error {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.lines = append(f.lines, part...)
			return nil
		})
	}()
	return f
}

func (f *following) got() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return texts(f.lines)
}

func (f *following) until(t *testing.T, want ...string) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !reflect.DeepEqual(f.got(), want); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("got %q, should be %q", f.got(), want)
		}
	}
}

func (f *following) end(t *testing.T) {
	t.Helper()
	close(f.ended)
	if err := <-f.err; err != nil {
		t.Error(err)
	}
}

func TestFollow(t *testing.T) {
	t.Parallel()
	l := newLogs(t)
	dir := l.Action("x", "y")
	f := follow(t.Context(), l, dir, 0) // nothing is there yet
	w := writer(t, dir, segment.Options{Segment: 100})
	w.Line('o', []byte("zero\r"))
	f.until(t, "0 o zero")
	late := follow(t.Context(), l, dir, 1)
	ahead := follow(t.Context(), l, dir, 3)
	for i := range 4 {
		w.Line('e', fmt.Appendf(nil, "line %d over some segments", i+1))
	}
	all := []string{"0 o zero"}
	for i := range 4 {
		all = append(all, fmt.Sprintf("%d e line %d over some segments", i+1, i+1))
	}
	f.until(t, all...)
	late.until(t, all[1:]...)
	ahead.until(t, all[3:]...)
	w.Line('m', []byte("the last"))
	f.end(t)
	if got := f.got(); got[len(got)-1] != "5 m the last" {
		t.Errorf("%q", got)
	}
	late.end(t)
	ahead.end(t)
	if l.watch.f != nil {
		t.Error("inotify is still there")
	}
}

func TestFollowEnds(t *testing.T) {
	t.Parallel()
	l := newLogs(t)
	dir := l.Action("x", "y")
	cause := errors.New("cause")
	ctx, cancel := context.WithCancelCause(t.Context())
	f := follow(ctx, l, dir, 0)
	cancel(cause)
	if err := <-f.err; !errors.Is(err, cause) {
		t.Error(err)
	}
	if err := l.Append(dir, nil, "x"); err != nil {
		t.Fatal(err)
	}
	if err := l.Follow(t.Context(), dir, 0, nil, func([]Line) error { return cause }); !errors.Is(err, cause) {
		t.Error(err)
	}
}

// What a container wrote that was killed with its monitor is a line too.
func TestFollowOpenLine(t *testing.T) {
	t.Parallel()
	l := newLogs(t)
	dir := l.Action("x", "y")
	frames(t, dir, 0, 0, "100 o one", "101 O two and", "102 e err", "103 O  no end")
	f := follow(t.Context(), l, dir, 0)
	f.until(t, "0 o one", "1 e err")
	f.end(t)
	f.until(t, "0 o one", "1 e err", "2 o two and no end")
}

// Followers that come and go while segments are written, closed, compressed and
// dropped: every line once and in order.
func TestFollowSwaps(t *testing.T) {
	t.Parallel()
	const n = 8000
	l := newLogs(t)
	dir := l.Service("s")
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() { // compresses whatever is closed
		k := &keeper{l: l}
		for {
			list, _ := segment.List(dir)
			for _, s := range list {
				p := filepath.Join(dir, segment.Name(s.K))
				if st, err := os.Stat(p); err == nil && st.Mode().Perm() == segment.ModeClosed {
					if err := k.compress(t.Context(), dir, s.K); err != nil {
						t.Error(err)
					}
				} else if err == nil && s.K%7 == 3 && s.K == list[len(list)-1].K {
					if _, err := segment.CloseLast(dir, s.K, func(os.FileInfo) bool { return true }); err != nil {
						t.Error(err)
					}
				}
			}
			select {
			case <-stop:
				return
			default:
			}
		}
	})
	var fs []*following
	r := rand.New(rand.NewPCG(1, 1))
	w := writer(t, dir, segment.Options{Segment: 10 << 10})
	for i := range n {
		if i%1000 == 0 {
			fs = append(fs, follow(t.Context(), l, dir, int64(r.IntN(i+1))))
		}
		w.Line('o', fmt.Appendf(nil, "line %d", i))
		if i%500 == 0 {
			if err := l.Stream(t.Context(), dir, Query{Offset: int64(r.IntN(i + 1))}, func([]Line) error { return nil }); err != nil {
				t.Error(err)
			}
		}
	}
	for _, f := range fs {
		f.end(t)
		first := f.lines[0].N
		for i, x := range f.lines {
			if x.N != first+int64(i) || x.Text != fmt.Sprintf("line %d", x.N) {
				t.Fatalf("%+v after %d lines from %d on", x, i, first)
			}
		}
		if f.lines[len(f.lines)-1].N != n-1 {
			t.Errorf("ends with %+v", f.lines[len(f.lines)-1])
		}
	}
	close(stop)
	wg.Wait()
	got, total := read(t, l, dir, Query{})
	if len(got) != n || total != n {
		t.Errorf("%d lines, %d", len(got), total)
	}
}

// A slow reader of a log of which little is kept.
func TestFollowDropped(t *testing.T) {
	t.Parallel()
	l := newLogs(t)
	dir := l.Service("s")
	w := writer(t, dir, segment.Options{Segment: 1 << 10, Keep: 4 << 10})
	w.Line('o', []byte("line 0"))
	ended, step := make(chan struct{}), make(chan struct{})
	var lines []Line
	done := make(chan error)
	go func() {
		done <- l.Follow(t.Context(), dir, 0, ended, func(part []Line) error {
			lines = append(lines, part...)
			<-step
			return nil
		})
	}()
	step <- struct{}{}
	for i := range 2000 {
		w.Line('o', fmt.Appendf(nil, "line %d", i+1))
	}
	close(ended)
	close(step)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	last := int64(-1)
	for _, x := range lines {
		if x.N <= last || x.Text != fmt.Sprintf("line %d", x.N) {
			t.Fatalf("%+v after %d", x, last)
		}
		last = x.N
	}
	if last != 2000 || len(lines) == 2001 {
		t.Errorf("%d lines up to %d", len(lines), last)
	}
}

func TestManyFollowers(t *testing.T) {
	t.Parallel()
	l := newLogs(t)
	var fs []*following
	for i := range 300 { // more than there may be inotify instances
		fs = append(fs, follow(t.Context(), l, l.Service(fmt.Sprint(i%30)), 0))
	}
	for i := range 30 {
		if err := l.Append(l.Service(fmt.Sprint(i)), nil, fmt.Sprint("to ", i)); err != nil {
			t.Fatal(err)
		}
	}
	for i, f := range fs {
		f.until(t, fmt.Sprint("0 m to ", i%30))
		f.end(t)
	}
}
