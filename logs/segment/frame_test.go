package segment

import (
	"bytes"
	"fmt"
	"testing"
	"time"
)

func TestParse(t *testing.T) {
	t.Parallel()
	at := time.UnixMicro(1_766_000_000_123_456)
	h := stamp(at)
	for _, f := range []Frame{
		{at, 'o', false, []byte("hello")}, {at, 'e', true, []byte("")}, {at, 'm', false, []byte("a\rb\x00c")}, {time.UnixMicro(0), 'o', true, nil},
	} {
		h = stamp(f.Time)
		b := h.frame(nil, f.Stream, f.Partial, f.Bytes)
		got, ok := Parse(b[:len(b)-1])
		if !ok || !got.Time.Equal(f.Time) || got.Stream != f.Stream || got.Partial != f.Partial || !bytes.Equal(got.Bytes, f.Bytes) {
			t.Errorf("%q: %+v", b, got)
		}
	}
	for _, bad := range []string{
		"", "x", "1766000000123456 o", "1766000000123456 x hello", "1766000000123456  hello", "176600000012345a o hello",
		"1766000000123456oo hello", "1766000000123456 oohello", "-766000000123456 o hello", "176600000012345: o hello", "1766000000123456 \x0f hello",
	} {
		if f, ok := Parse([]byte(bad)); ok {
			t.Errorf("%q: %+v", bad, f)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("1766000000123456 o hello"))
	f.Add([]byte("1766000000123456 M segment 3 line 5"))
	f.Add([]byte("9999999999999999 e "))
	f.Fuzz(func(t *testing.T, line []byte) {
		got, ok := Parse(line)
		var us int64
		var s byte
		n, err := fmt.Sscanf(string(line[:min(len(line), 18)]), "%16d %c", &us, &s)
		plain := len(line) >= HeaderLen && n == 2 && err == nil && bytes.IndexFunc(line[:16], func(r rune) bool { return r < '0' || r > '9' }) < 0 &&
			line[16] == ' ' && line[18] == ' ' && bytes.IndexByte([]byte("oemOEM"), line[17]) >= 0
		if ok != plain {
			t.Fatalf("%q: %v, but %v by another way", line, ok, plain)
		}
		if !ok {
			return
		}
		if got.Time.UnixMicro() != us || got.Stream != s|0x20 || got.Partial != (s < 'a') {
			t.Fatalf("%q: %+v", line, got)
		}
		if bytes.IndexByte(line, '\n') < 0 {
			h := stamp(got.Time)
			if again := h.frame(nil, got.Stream, got.Partial, got.Bytes); !bytes.Equal(again[:len(again)-1], line) {
				t.Fatalf("%q is written as %q", line, again)
			}
		}
	})
}

func FuzzHead(f *testing.F) {
	f.Add([]byte("1766000000123456 m segment 3 line 5\n"))
	f.Add(AppendHead(nil, Head{K: 3, Line: 5, End: 7, Size: 100}))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := ReadHead(bytes.NewReader(b))
		if err == nil && h.End >= 0 {
			again, err := ReadHead(bytes.NewReader(AppendHead(nil, h)))
			if err != nil || again != h {
				t.Fatalf("%+v is read as %+v, %v", h, again, err)
			}
		}
	})
}
