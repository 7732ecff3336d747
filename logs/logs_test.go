package logs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"slipway/logs/segment"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newLogs(t testing.TB) *Logs {
	t.Helper()
	l, err := New(filepath.Join(t.TempDir(), "logs"))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func writer(t testing.TB, dir string, o segment.Options) *segment.Writer {
	t.Helper()
	w, err := segment.Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.Close() })
	return w
}

func read(t testing.TB, l *Logs, dir string, q Query) ([]Line, int64) {
	t.Helper()
	lines, total, err := l.Read(t.Context(), dir, q)
	if err != nil {
		t.Fatal(err)
	}
	return lines, total
}

func texts(lines []Line) []string {
	var out []string
	for _, l := range lines {
		out = append(out, fmt.Sprintf("%d %c %s", l.N, l.Stream, l.Text))
	}
	return out
}

// frames writes a segment by hand, so that the times are known.
func frames(t testing.TB, dir string, k int, line int64, fs ...string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o750); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	for i, f := range fs {
		at, rest, _ := strings.Cut(f, " ")
		if i == 0 {
			fmt.Fprintf(&b, "%010s000000 m segment %d line %d\n", at, k, line)
		}
		fmt.Fprintf(&b, "%010s000000 %s\n", at, rest)
	}
	if err := os.WriteFile(filepath.Join(dir, segment.Name(k)), b.Bytes(), 0o640); err != nil {
		t.Fatal(err)
	}
}

func at(s int64) time.Time { return time.Unix(s, 0) }

func TestDirs(t *testing.T) {
	t.Parallel()
	l := newLogs(t)
	base := l.dir
	seen := map[string]string{}
	for _, id := range []string{
		"", ".", "..", "../..", "/", "a/b", "a", "%61", "A", "a\x00", "..%2f", ".a", "%", "6ba7b810-9dad-11d1-80b4-00c04fd430c8", strings.Repeat("x", 400),
	} {
		for _, d := range []string{l.Service(id), l.Action(id, "x"), l.Action("x", id)} {
			rel, err := filepath.Rel(base, d)
			if n := strings.Count(rel, "/"); err != nil || !filepath.IsLocal(rel) || n != 1 && n != 2 || filepath.Clean(d) != d {
				t.Errorf("%q is %s", id, d)
			}
			if other, ok := seen[d]; ok && other != id && !(other == "x" || id == "x") {
				t.Errorf("%q and %q are both %s", id, other, d)
			}
			seen[d] = id
		}
	}
	if got := l.Action("6ba7b810-9dad", "17"); got != filepath.Join(base, "executions/6ba7b810-9dad/17") {
		t.Error(got)
	}
}

func TestReadNothing(t *testing.T) {
	t.Parallel()
	l := newLogs(t)
	for _, q := range []Query{{}, {Tail: 3}, {Offset: 5}, {Since: at(1)}} {
		if lines, total := read(t, l, l.Service("none"), q); lines != nil || total != 0 {
			t.Errorf("%v %d", lines, total)
		}
	}
	dir := l.Service("empty")
	_ = os.MkdirAll(dir, 0o750)
	_ = os.WriteFile(filepath.Join(dir, segment.Name(0)), nil, 0o640)
	for _, q := range []Query{{}, {Tail: 3}, {Offset: 5}} {
		if lines, total := read(t, l, dir, q); lines != nil || total != 0 {
			t.Errorf("%v %d", lines, total)
		}
	}
}

func TestQueries(t *testing.T) {
	t.Parallel()
	l := newLogs(t)
	dir := l.Service("s")
	frames(t, dir, 4, 10, "100 o ten\r", "101 O ele", "102 e eleven", "103 O v", "104 o twelve", "105 m note")
	frames(t, dir, 5, 14, "200 e fourteen", "201 o fifteen")
	frames(t, dir, 6, 16, "300 o sixteen", "301 e seventeen", "302 E open", "302 O too")
	names := []string{"10 o ten", "11 e eleven", "12 o elevtwelve", "13 m note", "14 e fourteen", "15 o fifteen", "16 o sixteen", "17 e seventeen"}
	for range 2 { // plain, and then compressed
		for _, c := range []struct {
			q    Query
			want []string
		}{
			{Query{}, names},
			{Query{Offset: 3}, names},
			{Query{Offset: -3}, names},
			{Query{Offset: 12}, names[2:]},
			{Query{Offset: 14}, names[4:]},
			{Query{Offset: 15, Limit: 2}, names[5:7]},
			{Query{Limit: 3}, names[:3]},
			{Query{Offset: 17, Limit: 30}, names[7:]},
			{Query{Offset: 18}, nil},
			{Query{Offset: 1000, Limit: 1}, nil},
			{Query{Tail: 1}, names[7:]},
			{Query{Tail: 3}, names[5:]},
			{Query{Tail: 6}, names[2:]},
			{Query{Tail: 8}, names},
			{Query{Tail: 80}, names},
			{Query{Streams: "oe", Tail: 5}, []string{names[2], names[4], names[5], names[6], names[7]}},
			{Query{Streams: "m"}, names[3:4]},
			{Query{Streams: "m", Tail: 2}, names[3:4]},
			{Query{Streams: "e", Offset: 12, Limit: 1}, names[4:5]},
			{Query{Since: at(104)}, names[2:]},
			{Query{Since: at(106)}, names[4:]},
			{Query{Since: at(200)}, names[4:]},
			{Query{Since: at(301)}, names[7:]},
			{Query{Since: at(400)}, nil},
			{Query{Until: at(99)}, nil},
			{Query{Until: at(102)}, names[:2]},
			{Query{Until: at(200)}, names[:5]},
			{Query{Since: at(104), Until: at(201)}, names[2:6]},
			{Query{Since: at(104), Until: at(201), Tail: 2}, names[4:6]},
			{Query{Since: at(104), Limit: 2}, names[2:4]},
			{Query{Until: at(200), Tail: 2}, names[3:5]},
			{Query{Since: at(301), Open: true}, []string{names[7], "18 e open", "19 o too"}},
			{Query{Tail: 2, Open: true}, []string{"18 e open", "19 o too"}},
			{Query{Offset: 16, Limit: 3, Open: true}, []string{names[6], names[7], "18 e open"}},
		} {
			got, total := read(t, l, dir, c.q)
			if !reflect.DeepEqual(texts(got), c.want) || total < 18 {
				t.Errorf("%+v: %q, should be %q; %d", c.q, texts(got), c.want, total)
			}
		}
		for k := 4; k < 6; k++ {
			p := filepath.Join(dir, segment.Name(k))
			if _, err := os.Stat(p); err == nil {
				_ = os.Chmod(p, segment.ModeClosed)
				if err := (&keeper{l: l}).compress(t.Context(), dir, k); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	if _, total := read(t, l, dir, Query{Limit: 1}); total != 18 {
		t.Errorf("%d lines", total)
	}
}

// Random logs and random questions, against the list of all lines.
func TestRandom(t *testing.T) {
	t.Parallel()
	for seed := range uint64(8) {
		r := rand.New(rand.NewPCG(seed, 7))
		l := newLogs(t)
		dir := l.Action("x", "y")
		var want []Line
		w := writer(t, dir, segment.Options{Segment: int64(500 + r.IntN(60_000))})
		for i := range 3000 {
			text := fmt.Sprintf("%d %s", i, strings.Repeat("x", r.IntN(40)))
			if r.IntN(200) == 0 {
				text += strings.Repeat("long", 20_000)
			}
			s := "oem"[r.IntN(3)]
			w.Line(s, []byte(text))
			want = append(want, Line{N: int64(i), Stream: s, Text: text})
		}
		list, _ := segment.List(dir)
		k := &keeper{l: l}
		for range 200 {
			if r.IntN(20) == 0 && len(list) > 1 {
				n := r.IntN(len(list) - 1)
				if list[n].Plain {
					if err := k.compress(t.Context(), dir, list[n].K); err != nil {
						t.Fatal(err)
					}
					list[n].Plain = false
				}
			}
			q := Query{Streams: []string{"", "", "oe", "m"}[r.IntN(4)]}
			if r.IntN(3) == 0 {
				q.Tail = 1 + r.IntN(4000)
			} else {
				q.Offset, q.Limit = int64(r.IntN(3500)), r.IntN(2)*r.IntN(2000)
			}
			var exp []Line
			for _, x := range want {
				if x.N >= q.Offset && (q.Streams == "" || strings.IndexByte(q.Streams, x.Stream) >= 0) && (q.Limit == 0 || len(exp) < q.Limit) {
					exp = append(exp, x)
				}
			}
			if q.Tail > 0 {
				exp = exp[max(0, len(exp)-q.Tail):]
			}
			got, total := read(t, l, dir, q)
			for i := range got {
				got[i].Time = time.Time{}
			}
			if total != 3000 || !slices.Equal(got, exp) {
				t.Fatalf("seed %d %+v: %d lines, should be %d; total %d", seed, q, len(got), len(exp), total)
			}
		}
	}
}

func TestPaging(t *testing.T) {
	t.Parallel()
	l := newLogs(t)
	dir := l.Action("x", "y")
	w := writer(t, dir, segment.Options{Segment: 100 << 10})
	n := int64(0)
	for at := int64(0); at < 20_000; {
		for range 700 { // it grows meanwhile
			w.Line('o', fmt.Appendf(nil, "line %d", n))
			n++
		}
		got, total := read(t, l, dir, Query{Offset: at, Limit: 531})
		if total != n || len(got) != 531 {
			t.Fatalf("%d of %d lines at %d", len(got), total, at)
		}
		for _, x := range got {
			if x.N != at || x.Text != fmt.Sprintf("line %d", at) {
				t.Fatalf("%+v at %d", x, at)
			}
			at++
		}
	}
}

// A log that is removed and made again is another one.
func TestAnother(t *testing.T) {
	t.Parallel()
	l := newLogs(t)
	dir := l.Service("s")
	for i := range 3 {
		w := writer(t, dir, segment.Options{})
		for n := range 1000 - 10*i {
			w.Line('o', fmt.Appendf(nil, "%d %d", i, n))
		}
		got, total := read(t, l, dir, Query{Offset: 500, Limit: 1})
		if total != int64(1000-10*i) || got[0].Text != fmt.Sprintf("%d 500", i) {
			t.Errorf("%v %d", got, total)
		}
		if err := l.Remove(dir); err != nil {
			t.Error(err)
		}
	}
}

func TestRemove(t *testing.T) {
	t.Parallel()
	l := newLogs(t)
	if err := l.Append(l.Action("x", "y"), nil, "one"); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{l.dir, filepath.Join(l.dir, "services"), "/", "", l.dir + "/../x/y", filepath.Dir(l.dir)} {
		if err := l.Remove(bad); err == nil {
			t.Errorf("%q was removed", bad)
		}
	}
	if err := errors.Join(l.Remove(l.Execution("x")), l.Remove(l.Execution("x"))); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(l.Execution("x")); err == nil {
		t.Error("still there")
	}
}

func TestAppend(t *testing.T) {
	t.Parallel()
	l := newLogs(t)
	dir := l.Action("x", "y")
	m := segment.NewMasker([][]byte{[]byte("hunter2")})
	w := writer(t, dir, segment.Options{})
	w.Line('o', []byte("output"))
	if err := errors.Join(l.Append(dir, m, "the password is hunter2", "two\nlines"), l.Append(dir, nil, "end")); err != nil {
		t.Fatal(err)
	}
	w.Line('o', []byte("more"))
	got, _ := read(t, l, dir, Query{})
	if want := []string{"0 o output", "1 m the password is ***", "2 m two", "3 m lines", "4 m end", "5 o more"}; !reflect.DeepEqual(texts(got), want) {
		t.Errorf("%q", texts(got))
	}
	if err := l.Append("/proc/nothing/here", nil, "x"); err == nil {
		t.Error("no error")
	}
}

func TestStreamEnds(t *testing.T) {
	t.Parallel()
	l := newLogs(t)
	dir := l.Action("x", "y")
	w := writer(t, dir, segment.Options{})
	for range 50_000 {
		w.Line('o', []byte("some text that is a little longer"))
	}
	mine, calls := errors.New("mine"), 0
	if err := l.Stream(t.Context(), dir, Query{}, func([]Line) error { calls++; return mine }); !errors.Is(err, mine) || calls != 1 {
		t.Errorf("%v after %d calls", err, calls)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	calls = 0
	if err := l.Stream(ctx, dir, Query{}, func([]Line) error { calls++; cancel(mine); return nil }); !errors.Is(err, mine) || calls != 1 {
		t.Errorf("%v after %d calls", err, calls)
	}
}

// BenchmarkStream reads 1,000,000 lines of 100 bytes.
func BenchmarkStream(b *testing.B) {
	l := newLogs(b)
	dir := l.Action("x", "y")
	w := writer(b, dir, segment.Options{})
	text := bytes.Repeat([]byte("2026/11/21 10:12:13 INFO request served path=/api/v1/items status=200 bytes=5321 took=3.4ms id=abc\n"), 1000)
	for range 1000 {
		w.Line('o', text)
	}
	_ = w.Close()
	run := func(b *testing.B) {
		b.ReportAllocs()
		b.SetBytes(100_000_000)
		for b.Loop() {
			n, size := 0, 0
			if err := l.Stream(b.Context(), dir, Query{}, func(part []Line) error {
				for _, x := range part {
					size += len(x.Text)
				}
				n += len(part)
				return nil
			}); err != nil || n != 1_000_000 {
				b.Fatal(n, err)
			}
		}
	}
	b.Run("plain", run)
	b.Run("last page", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if lines, _ := read(b, l, dir, Query{Offset: 999_000, Limit: 100}); len(lines) != 100 {
				b.Fatal(len(lines))
			}
		}
	})
	b.Run("tail", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if lines, _ := read(b, l, dir, Query{Tail: 100}); len(lines) != 100 {
				b.Fatal(len(lines))
			}
		}
	})
	list, _ := segment.List(dir)
	for _, s := range list[:len(list)-1] {
		if err := (&keeper{l: l}).compress(b.Context(), dir, s.K); err != nil {
			b.Fatal(err)
		}
	}
	b.Run("compressed", run)
}
