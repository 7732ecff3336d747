package segment

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// pumped starts a pump and gives the writing end and a way to wait for it.
func pumped(t testing.TB, stream byte, m *Masker, w *Writer) (*os.File, func()) {
	t.Helper()
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		t.Fatal(err)
	}
	_, _ = unix.FcntlInt(uintptr(p[0]), unix.F_SETPIPE_SZ, 256<<10)
	r, in := os.NewFile(uintptr(p[0]), "r"), os.NewFile(uintptr(p[1]), "w")
	done := make(chan struct{})
	go func() {
		Pump(r, stream, m, w)
		_ = r.Close()
		close(done)
	}()
	return in, func() { _ = in.Close(); <-done }
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("never: " + what)
		}
	}
}

func raw(t *testing.T, dir string) string {
	t.Helper()
	b, err := os.ReadFile(dir + "/" + Name(0))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestPump(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	w := open(t, dir, Options{})
	in, end := pumped(t, 'o', nil, w)
	_, _ = in.WriteString("one\ntwo")
	until(t, "a part is written", func() bool { return strings.HasSuffix(raw(t, dir), " O two\n") })
	_, _ = in.WriteString(" goes on\n\nlast")
	end()
	if got := read(t, dir); !reflect.DeepEqual(got, []string{"o one", "o two goes on", "o ", "o last"}) {
		t.Errorf("%q", got)
	}
}

// A line whose end never comes is a line at the end of the stream, once.
func TestPumpEnd(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	w := open(t, dir, Options{})
	in, end := pumped(t, 'e', nil, w)
	_, _ = in.WriteString("prompt> ")
	until(t, "the prompt", func() bool { return strings.HasSuffix(raw(t, dir), " E prompt> \n") })
	end()
	if got := read(t, dir); !reflect.DeepEqual(got, []string{"e prompt> "}) || w.Lines() != 1 {
		t.Errorf("%q", got)
	}
}

// Drops of output that never pause are written all the same.
func TestPumpDrops(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	w := open(t, dir, Options{})
	in, end := pumped(t, 'o', nil, w)
	until(t, "a part", func() bool {
		_, _ = in.WriteString(".")
		return strings.Contains(raw(t, dir), " O .")
	})
	end()
}

func TestPumpLong(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	w := open(t, dir, Options{Segment: 300 << 10})
	in, end := pumped(t, 'o', nil, w)
	var text bytes.Buffer
	for i := range 200_000 {
		fmt.Fprintf(&text, "%d,", i)
	}
	_, _ = in.Write(text.Bytes())
	_, _ = in.WriteString("\nnext\n")
	end()
	got := read(t, dir)
	var all string
	for _, l := range got[:len(got)-1] {
		if len(l) > MaxLine+MaxFrame+2 {
			t.Errorf("a line of %d bytes", len(l))
		}
		all += l[2:]
	}
	if all != text.String() || got[len(got)-1] != "o next" {
		t.Errorf("%d lines, %d bytes of %d", len(got), len(all), text.Len())
	}
}

// Two streams in any pieces, with masks and small segments: all lines are
// there, in the order of their stream, and no secret is. It is less than MaxLine
// in all, so that no segment has to end in a line.
func TestPumpRandom(t *testing.T) {
	t.Parallel()
	secret := "abcabcabd-hush"
	for seed := range uint64(6) {
		dir := t.TempDir()
		w := open(t, dir, Options{Segment: 20 << 10})
		m := NewMasker([][]byte{[]byte(secret)})
		var wg sync.WaitGroup
		want := map[byte][]string{}
		for i, s := range []byte("oe") {
			r := rand.New(rand.NewPCG(seed, uint64(i)))
			var text []byte
			for range 400 {
				line := strings.Repeat("abc", r.IntN(9)) + []string{"", secret, "abcabcabd"}[r.IntN(3)] + strings.Repeat("yz", r.IntN(100)*r.IntN(100)*(r.IntN(12)/11))
				text = append(text, line+"\n"...)
			}
			for l := range strings.SplitSeq(strings.TrimSuffix(string(naive(m.t.words, text)), "\n"), "\n") {
				want[s] = append(want[s], string(s)+" "+l)
			}
			in, end := pumped(t, s, m.Clone(), w)
			wg.Go(func() {
				for len(text) > 0 {
					n := min(len(text), 1+r.IntN(5000))
					_, _ = in.Write(text[:n])
					text = text[n:]
					if r.IntN(60) == 0 {
						time.Sleep(50 * time.Millisecond) // longer than a part waits
					}
				}
				end()
			})
		}
		wg.Wait()
		got := map[byte][]string{}
		for _, l := range read(t, dir) {
			got[l[0]] = append(got[l[0]], l)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("seed %d: %d and %d lines of %d and %d", seed, len(got['o']), len(got['e']), len(want['o']), len(want['e']))
		}
	}
}

func TestPumpClosed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	w := open(t, dir, Options{})
	r, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	done := make(chan struct{})
	go func() { Pump(r, 'o', nil, w); close(done) }()
	_, _ = in.WriteString("held")
	until(t, "read", func() bool { return strings.Contains(raw(t, dir), "held") })
	_ = r.Close()
	<-done
	if got := read(t, dir); !reflect.DeepEqual(got, []string{"o held"}) {
		t.Errorf("%q", got)
	}
}

// BenchmarkPump is 1,000,000 lines of 100 bytes, one an operation.
func BenchmarkPump(b *testing.B) {
	line := "2026/11/21 10:12:13 INFO request served path=/api/v1/items status=200 bytes=5321 took=3.4ms id=abcd\n"
	text := bytes.Repeat([]byte(line), 10_000)
	for name, m := range map[string]*Masker{"plain": nil, "masked": NewMasker(secrets20())} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(line)) * 1_000_000)
			for b.Loop() {
				w, err := Open(b.TempDir(), Options{})
				if err != nil {
					b.Fatal(err)
				}
				in, end := pumped(b, 'o', m.Clone(), w)
				for range 100 {
					_, _ = in.Write(text)
				}
				end()
				b.StopTimer()
				if err := w.Close(); err != nil || w.Lost() > 0 || w.Lines() != 1_000_000 {
					b.Fatal(err, w.Lost(), w.Lines())
				}
				b.StartTimer()
			}
		})
	}
}

func BenchmarkLine(b *testing.B) {
	w, err := Open(b.TempDir(), Options{Keep: 64 << 20})
	if err != nil {
		b.Fatal(err)
	}
	defer w.Close()
	text := bytes.Repeat([]byte("x"), 100)
	for b.Loop() {
		w.Line('o', text)
	}
}
