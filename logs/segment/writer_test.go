package segment

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// read gives the lines of a log, as "o text", in the plainest way. It checks
// that every segment says rightly how many there were before it, and can be
// read without those before.
func read(t *testing.T, dir string) []string {
	t.Helper()
	list, err := List(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	var n int64
	for i, s := range list {
		b, err := os.ReadFile(filepath.Join(dir, Name(s.K)))
		if err != nil {
			t.Fatal(err)
		}
		h, err := ReadHead(bytes.NewReader(b))
		if err != nil || h.K != s.K {
			t.Fatalf("segment %d: %+v %v", s.K, h, err)
		}
		if i > 0 && h.Line != n {
			t.Fatalf("segment %d says %d lines before it, there are %d", s.K, h.Line, n)
		}
		n = h.Line
		part := map[byte]string{}
		for j, l := range strings.SplitAfter(string(b), "\n") {
			if l == "" || j == 0 {
				continue
			}
			f, ok := Parse([]byte(strings.TrimSuffix(l, "\n")))
			if !ok || !strings.HasSuffix(l, "\n") {
				t.Fatalf("segment %d: bad frame %q", s.K, l)
			}
			part[f.Stream] += string(f.Bytes)
			if len(f.Bytes) > MaxFrame {
				t.Fatalf("a frame of %d bytes", len(f.Bytes))
			}
			if !f.Partial {
				out = append(out, string(f.Stream)+" "+part[f.Stream])
				delete(part, f.Stream)
				n++
			}
		}
		if len(part) > 0 && i < len(list)-1 {
			t.Fatalf("segment %d ends in a line: %q", s.K, part)
		}
	}
	return out
}

func open(t *testing.T, dir string, o Options) *Writer {
	t.Helper()
	w, err := Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.Close() })
	return w
}

func segments(t *testing.T, dir string) []File {
	t.Helper()
	l, err := List(dir)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestLines(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "a", "b")
	w := open(t, dir, Options{})
	long := strings.Repeat("0123456789", 5000)
	huge := strings.Repeat("x", 3*MaxLine/2)
	w.Line('o', []byte("one"))
	w.Line('e', nil)
	w.Line('m', []byte("two\nthree\n"))
	w.Line('o', []byte(long))
	w.Line('o', []byte(huge))
	if err := w.Close(); err != nil || w.Lost() != 0 {
		t.Fatal(err)
	}
	got := read(t, dir)
	if len(got) != 7 || !reflect.DeepEqual(got[:5], []string{"o one", "e ", "m two", "m three", "o " + long}) {
		t.Fatalf("%d lines", len(got))
	}
	if len(got[5]) < MaxLine || got[5][2:]+got[6][2:] != huge {
		t.Errorf("a huge line in pieces of %d and %d", len(got[5]), len(got[6]))
	}
	if w.Lines() != 7 {
		t.Errorf("%d lines", w.Lines())
	}
	w.Line('o', []byte("after the end"))
	if w.Lost() == 0 || w.Close() != nil {
		t.Error("written after the end")
	}
}

// What a writer that was killed left behind is repaired by the next one.
func TestResume(t *testing.T) {
	t.Parallel()
	head := string(head(time.Unix(1, 0), 0, 0))
	one := "0000001000000000 o one\n"
	for name, c := range map[string]struct {
		tail string
		want []string
	}{
		"clean":         {head + one, []string{"o one", "m next"}},
		"torn frame":    {head + one + "0000001000000000 o tw", []string{"o one", "m next"}},
		"torn header":   {head + one + "00000010", []string{"o one", "m next"}},
		"torn line":     {head + one + "0000001000000000 O tw\n", []string{"o one", "o tw", "m next"}},
		"two torn":      {head + "0000001000000000 E a\n0000001000000000 O tw\n" + one + "0000001000000000 O b\n", []string{"o twone", "o b", "e a", "m next"}},
		"empty":         {"", []string{"m next"}},
		"torn head":     {head[:10], []string{"m next"}},
		"torn at bytes": {head + one + "0000001000000000 o t\r", []string{"o one", "m next"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, Name(0)), []byte(c.tail), 0o640); err != nil {
				t.Fatal(err)
			}
			w := open(t, dir, Options{})
			w.Line('m', []byte("next"))
			if got := read(t, dir); !reflect.DeepEqual(got, c.want) || w.Lines() != int64(len(c.want)) {
				t.Errorf("%q, %d lines", got, w.Lines())
			}
		})
	}
}

func TestResumeAfterSegments(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	w := open(t, dir, Options{Segment: 200})
	for i := range 20 {
		w.Line('o', fmt.Appendf(nil, "line %d", i))
	}
	_ = w.Close()
	n := len(segments(t, dir))
	for i, s := range segments(t, dir) {
		st, _ := os.Stat(filepath.Join(dir, Name(s.K)))
		if closed := st.Mode().Perm() == ModeClosed; closed != (i < n-1) {
			t.Errorf("segment %d of %d has mode %v", s.K, n, st.Mode())
		}
	}
	// killed while the next one was made
	for _, torn := range []string{"", "00000010000"} {
		last := segments(t, dir)
		k := last[len(last)-1].K
		if err := os.Chmod(filepath.Join(dir, Name(k)), ModeClosed); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, Name(k+1)), []byte(torn), ModeOpen); err != nil {
			t.Fatal(err)
		}
		w = open(t, dir, Options{Segment: 200})
		w.Line('m', []byte("after"))
		_ = w.Close()
	}
	// killed before the next one was made
	last := segments(t, dir)
	if err := os.Chmod(filepath.Join(dir, Name(last[len(last)-1].K)), ModeClosed); err != nil {
		t.Fatal(err)
	}
	w = open(t, dir, Options{Segment: 200})
	w.Line('m', []byte("after"))
	got := read(t, dir)
	if len(got) != 23 || got[19] != "o line 19" || got[22] != "m after" || w.Lines() != 23 {
		t.Errorf("%q", got)
	}
}

func TestRotate(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	w := open(t, dir, Options{Segment: 4 << 10})
	var want []string
	for i := range 2000 {
		s := "oe"[i%2]
		w.Line(s, fmt.Appendf(nil, "line %d", i))
		want = append(want, fmt.Sprintf("%c line %d", s, i))
	}
	if got := read(t, dir); !reflect.DeepEqual(got, want) {
		t.Errorf("%d lines", len(got))
	}
	l := segments(t, dir)
	for _, s := range l {
		if st, _ := os.Stat(filepath.Join(dir, Name(s.K))); st.Size() > 4<<10 {
			t.Errorf("segment %d has %d bytes", s.K, st.Size())
		}
	}
	if len(l) < 10 {
		t.Errorf("%d segments", len(l))
	}
}

func TestMax(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for range 3 { // over several writers too
		w := open(t, dir, Options{Segment: 1 << 10, Max: 5000})
		for i := range 1000 {
			w.Line('o', fmt.Appendf(nil, "line %d", i))
		}
		if w.Lost() != 0 {
			t.Errorf("lost %d", w.Lost())
		}
		_ = w.Close()
	}
	w := open(t, dir, Options{Max: 5000})
	w.Line('m', []byte("of ours"))
	got := read(t, dir)
	notes := 0
	for i, l := range got {
		if l == "m the log has reached its bound of 5000 bytes; the rest is left out" {
			notes++
		} else if l != fmt.Sprintf("o line %d", i) && l != "m of ours" {
			t.Errorf("line %d is %q", i, l)
		}
	}
	if notes < 1 || got[len(got)-1] != "m of ours" || len(got) > 5000/28+5 || len(got) < 150 {
		t.Errorf("%d notes, %q", notes, got[len(got)-5:])
	}
	if notes != 1 {
		t.Errorf("%d notes", notes)
	}
}

func TestMaxInALine(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	w := open(t, dir, Options{Max: 20 << 10})
	w.Line('o', bytes.Repeat([]byte("x"), 100<<10))
	w.Line('o', []byte("more"))
	got := read(t, dir)
	if len(got) != 2 || got[0] != "o "+strings.Repeat("x", 16<<10) || !strings.HasPrefix(got[1], "m the log has reached") {
		t.Errorf("%d lines", len(got))
	}
}

func TestKeep(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	w := open(t, dir, Options{Segment: 1 << 10, Keep: 5 << 10})
	for i := range 1000 {
		w.Line('o', fmt.Appendf(nil, "line %d", i))
	}
	var sum int64
	l := segments(t, dir)
	for _, s := range l {
		st, _ := os.Stat(filepath.Join(dir, Name(s.K)))
		sum += st.Size()
	}
	got := read(t, dir)
	if sum > 6<<10 || l[0].K == 0 || len(got) < 100 || got[len(got)-1] != "o line 999" || w.Lines() != 1000 {
		t.Errorf("%d bytes, %d segments, %d lines", sum, len(l), len(got))
	}
	h := firstHead(t, dir)
	if got[0] != fmt.Sprintf("o line %d", h.Line) {
		t.Errorf("%q is line %d", got[0], h.Line)
	}
}

func firstHead(t *testing.T, dir string) Head {
	t.Helper()
	f, err := os.Open(filepath.Join(dir, Name(segments(t, dir)[0].K)))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h, err := ReadHead(f)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func TestFullDisk(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=256k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	filler := filepath.Join(dir, "filler")
	if err := os.WriteFile(filler, make([]byte, 128<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	log := filepath.Join(dir, "log")
	w := open(t, log, Options{Segment: 32 << 10})
	n := 0
	for ; w.Lost() == 0; n++ {
		w.Line('o', fmt.Appendf(nil, "line %d", n))
	}
	w.Line('o', bytes.Repeat([]byte("x"), 40<<10))
	lost := w.Lost()
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	w.Line('e', []byte("again"))
	w.Line('e', []byte("and again"))
	got := read(t, log)
	want := []string{fmt.Sprintf("o line %d", n-2), fmt.Sprintf("m %d bytes of output could not be written: no space left on device", lost), "e again", "e and again"}
	if !reflect.DeepEqual(got[len(got)-4:], want) {
		t.Errorf("%q, want %q", got[len(got)-4:], want)
	}
	if w.Lost() != lost || w.Err() == nil || w.Lines() != int64(len(got)) {
		t.Errorf("%d lost, %d lines", w.Lost(), w.Lines())
	}
}

// A line of which one part is lost ends where it was cut.
func TestFullDiskInALine(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	w := open(t, dir, Options{})
	h := stamp(time.Now())
	c := chunk{stream: 'o'}
	c.partial(&h, []byte("begun"), 0)
	w.write(&c)
	d := w.d
	w.d = nil // any failure
	c = chunk{stream: 'o'}
	c.partial(&h, []byte("lost"), 5)
	w.write(&c)
	w.d = d
	c = chunk{stream: 'o'}
	c.line(&h, []byte("end"), 9)
	w.write(&c)
	got := read(t, dir)
	if len(got) != 3 || got[0] != "o begun" || !strings.HasPrefix(got[1], "m 5 bytes of output could not be written") || got[2] != "o end" {
		t.Errorf("%q", got)
	}
}

// Several writers of one log, as when a service is declared again while its
// predecessor stops: no line is lost, and all segments count rightly.
func TestTwoWriters(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			wr, err := Open(dir, Options{Segment: 2 << 10})
			if err != nil {
				t.Error(err)
				return
			}
			for i := range 500 {
				wr.Line('o', fmt.Appendf(nil, "writer %d line %d", w, i))
			}
			if err := wr.Close(); err != nil || wr.Lost() != 0 {
				t.Error(err, wr.Lost())
			}
		})
	}
	wg.Wait()
	next := map[int]int{}
	for _, l := range read(t, dir) {
		var w, i int
		if _, err := fmt.Sscanf(l, "o writer %d line %d", &w, &i); err != nil || next[w] != i {
			t.Fatalf("%q, expected line %d", l, next[w])
		}
		next[w]++
	}
	if !reflect.DeepEqual(next, map[int]int{0: 500, 1: 500, 2: 500, 3: 500}) {
		t.Errorf("%v", next)
	}
}

// A segment may be closed from outside while its writer is idle.
func TestClosedByAnother(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	w := open(t, dir, Options{})
	w.Line('o', []byte("one"))
	unlock, err := Lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	p := filepath.Join(dir, Name(0))
	if err := os.Chmod(p, ModeClosed); err != nil {
		t.Fatal(err)
	}
	st, _ := os.Stat(p)
	b := AppendHead(nil, Head{K: 0, Line: 0, Time: time.Now(), End: 1, Size: st.Size()})
	if err := os.WriteFile(p+Suffix, append(b, "packed"...), 0o440); err != nil {
		t.Fatal(err)
	}
	plain, _ := os.ReadFile(p)
	if err := os.Remove(p); err != nil {
		t.Fatal(err)
	}
	unlock()
	w.Line('o', []byte("two"))
	if w.Lines() != 2 || w.Lost() != 0 {
		t.Errorf("%d lines, %d lost", w.Lines(), w.Lost())
	}
	_ = w.Close()
	w = open(t, dir, Options{})
	w.Line('o', []byte("three"))
	if l := segments(t, dir); !reflect.DeepEqual(l, []File{{K: 0, Zst: true}, {K: 1, Plain: true}}) {
		t.Errorf("%+v", l)
	}
	if err := os.WriteFile(p, plain, 0o440); err != nil {
		t.Fatal(err)
	}
	if got := read(t, dir); !reflect.DeepEqual(got, []string{"o one", "o two", "o three"}) {
		t.Errorf("%q", got)
	}
}

func TestSync(t *testing.T) {
	t.Parallel()
	w := open(t, t.TempDir(), Options{Segment: 1 << 10})
	for range 200 {
		w.Line('o', []byte("text"))
	}
	if err := w.Sync(); err != nil {
		t.Error(err)
	}
	w.Line('o', []byte("text"))
	if err := w.Close(); err != nil {
		t.Error(err)
	}
}

// A log that is removed while it is written begins again, with the numbers
// going on; without its directory all is lost, and nothing else happens.
func TestRemoved(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "log")
	w := open(t, dir, Options{})
	w.Line('o', []byte("one"))
	if err := os.Remove(filepath.Join(dir, Name(0))); err != nil {
		t.Fatal(err)
	}
	w.Line('o', []byte("two"))
	if h := firstHead(t, dir); h.K != 1 || h.Line != 1 {
		t.Errorf("%+v", h)
	}
	if got := read(t, dir); !reflect.DeepEqual(got, []string{"o two"}) || w.Lines() != 2 {
		t.Errorf("%q", got)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	w.Line('o', []byte("three"))
	if w.Lost() != 6 {
		t.Errorf("lost %d", w.Lost())
	}
	_ = w.Close()
}
