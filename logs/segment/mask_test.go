package segment

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/url"
	"strings"
	"testing"
)

// naive masks by looking for every word at every place.
func naive(words [][]byte, text []byte) []byte {
	hit := make([]bool, len(text))
	for i := range text {
		for _, p := range words {
			if bytes.HasPrefix(text[i:], p) {
				for j := range p {
					hit[i+j] = true
				}
			}
		}
	}
	var out []byte
	for i, b := range text {
		if !hit[i] {
			out = append(out, b)
		} else if i == 0 || !hit[i-1] {
			out = append(out, "***"...)
		}
	}
	return out
}

// feed gives the text in pieces whose lengths are in cuts.
func feed(m *Masker, text, cuts []byte) []byte {
	var out []byte
	for i := 0; len(text) > 0; i++ {
		n := len(text)
		if len(cuts) > 0 {
			n = min(n, int(cuts[i%len(cuts)]))
		}
		piece := bytes.Clone(text[:n]) // of its own, so that nobody keeps it
		out = append(out, m.Feed(piece, false)...)
		for j := range piece {
			piece[j] = '!'
		}
		text = text[n:]
		if i > 1<<16 {
			return append(out, m.Feed(text, true)...)
		}
	}
	return append(out, m.Feed(nil, true)...)
}

func FuzzMasker(f *testing.F) {
	f.Add([]byte("secret|sec"), []byte("a secret sec se"), []byte{3, 1, 4})
	f.Add([]byte("aaa|aaaa|aab"), []byte("aaaaabaaaaaaab"), []byte{1})
	f.Add([]byte("two\nlines of it"), []byte("x two\r\nlines of it two\nlin lines of it"), []byte{5})
	f.Add([]byte("ababab"), []byte("abababababab ababa"), []byte{2, 0, 1})
	f.Fuzz(func(t *testing.T, list, text, cuts []byte) {
		if len(list) > 200 || len(text) > 4000 {
			return
		}
		secrets := bytes.Split(list, []byte("|"))
		words := forms(secrets)
		m := NewMasker(secrets)
		if (m == nil) != (len(words) == 0) {
			t.Fatal("nil")
		}
		want := naive(words, text)
		if got := feed(m.Clone(), text, nil); !bytes.Equal(got, want) {
			t.Fatalf("whole: %q, should be %q", got, want)
		}
		if got := feed(m.Clone(), text, cuts); !bytes.Equal(got, want) {
			t.Fatalf("in pieces: %q, should be %q", got, want)
		}
		if got := m.Line(text); !bytes.Equal(got, want) {
			t.Fatalf("line: %q, should be %q", got, want)
		}
	})
}

// Words of few letters make many overlaps.
func TestMaskerRandom(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	word := func(n int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = "abc"[r.IntN(3)]
		}
		return b
	}
	for range 3000 {
		secrets := make([][]byte, 1+r.IntN(4))
		for i := range secrets {
			secrets[i] = word(3 + r.IntN(6))
		}
		text := word(r.IntN(300))
		cuts := []byte{byte(r.IntN(9)), byte(1 + r.IntN(20))}
		want := naive(forms(secrets), text)
		if got := feed(NewMasker(secrets), text, cuts); !bytes.Equal(got, want) {
			t.Fatalf("secrets %q, text %q, cuts %v: %q, should be %q", secrets, text, cuts, got, want)
		}
	}
}

func TestForms(t *testing.T) {
	t.Parallel()
	secret := "p\"ß/w <&> 😀+\\x=7%tail"
	m := NewMasker([][]byte{[]byte(secret)})
	quoted, _ := json.Marshal(secret)
	var plain bytes.Buffer
	enc := json.NewEncoder(&plain)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(secret)
	for name, text := range map[string]string{
		"raw":           secret,
		"json":          strings.Trim(string(quoted), `"`),
		"json no html":  strings.Trim(strings.TrimSpace(plain.String()), `"`),
		"json ascii":    `p\"\u00df/w <&> \ud83d\ude00+\\x=7%tail`,
		"json slash":    `p\"ß\/w <&> 😀+\\x=7%tail`,
		"query":         url.QueryEscape(secret),
		"path":          url.PathEscape(secret),
		"component":     strings.ReplaceAll(url.QueryEscape(secret), "+", "%20"),
		"lower percent": strings.ToLower(url.QueryEscape(secret)),
		"hex":           hex.EncodeToString([]byte(secret)),
		"HEX":           strings.ToUpper(hex.EncodeToString([]byte(secret))),
	} {
		if got := string(m.Line([]byte("<" + text + ">"))); got != "<***>" {
			t.Errorf("%s: %q", name, got)
		}
	}
	for _, enc := range []*base64.Encoding{base64.StdEncoding, base64.URLEncoding, base64.RawStdEncoding, base64.RawURLEncoding} {
		for _, before := range []string{"", "u", "us", "usr", "user:"} {
			for _, after := range []string{"", "\n", "@host", "x"} {
				text := enc.EncodeToString([]byte(before + secret + after))
				got := string(m.Line([]byte(text)))
				if !strings.Contains(got, "***") || len(got) > len("***")+(len(before)+len(after)+4)*4/3+4 {
					t.Errorf("base64 of %q: %q gives %q", before+"..."+after, text, got)
				}
			}
		}
	}
}

func TestMaskLines(t *testing.T) {
	t.Parallel()
	key := "-----BEGIN KEY-----\nMIIEvQIBADANBgkqhkiG\n9w0BAQ\nEFAASCBKcwggSjAgEAAoIBAQC7\n-----END KEY-----\n"
	m := NewMasker([][]byte{[]byte(key)})
	for text, want := range map[string]string{
		"x " + key:                                  "x ***\n",
		strings.ReplaceAll(key, "\n", "\r\n"):       "***\r\n",
		strings.ReplaceAll(key, "\n", `\n`):         `***\n`,
		"  MIIEvQIBADANBgkqhkiG\n9w0BAQ\nEFAASCBKc": "  ***\n9w0BAQ\nEFAASCBKc",
		"-----BEGIN KEY-----":                       "-----BEGIN KEY-----",
	} {
		if got := string(m.Line([]byte(text))); got != want {
			t.Errorf("%q: %q", text, got)
		}
	}
	long := strings.Repeat("0123456789abcdefghijklmnopqrstuvwxyz", 6)
	m = NewMasker([][]byte{[]byte(long)})
	for _, width := range []int{76, 64} {
		b := base64.StdEncoding.EncodeToString([]byte(long + "\n"))
		var wrapped []string
		for ; len(b) > width; b = b[width:] {
			wrapped = append(wrapped, b[:width])
		}
		wrapped = append(wrapped, b)
		if got := string(m.Line([]byte(strings.Join(wrapped, "\n")))); strings.Trim(got, "*\n=") != "" {
			t.Errorf("base64 in lines of %d: %q", width, got)
		}
	}
}

func TestNoMasker(t *testing.T) {
	t.Parallel()
	for _, s := range [][][]byte{nil, {nil}, {[]byte("ab")}, {[]byte("\r\n\n")}} {
		if m := NewMasker(s); m != nil {
			t.Errorf("%q", s)
		}
	}
	var m *Masker
	if got := m.Line([]byte("x")); string(got) != "x" {
		t.Errorf("%q", got)
	}
	if m.Clone() != nil {
		t.Error("a clone of nothing")
	}
}

func secrets20() [][]byte {
	var l [][]byte
	for i := range 20 {
		l = append(l, fmt.Appendf(nil, "s3cr3t-%02d-%x", i, uint64(i)*0x9e3779b97f4a7c15))
	}
	return l
}

func BenchmarkMasker(b *testing.B) {
	text := bytes.Repeat([]byte("2026/11/21 10:12:13 INFO request served path=/api/v1/items status=200 bytes=5321 took=3.4ms id=abc\n"), 640)
	for name, s := range map[string][][]byte{"20": secrets20(), "short": append(secrets20(), []byte("zzq"))} {
		b.Run(name, func(b *testing.B) {
			m := NewMasker(s)
			b.SetBytes(int64(len(text)))
			for b.Loop() {
				m.Feed(text, false)
			}
		})
	}
}

func BenchmarkNewMasker(b *testing.B) {
	s := secrets20()
	for b.Loop() {
		NewMasker(s)
	}
}
