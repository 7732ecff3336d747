package segment

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"unicode/utf8"
)

const (
	minSecret = 3        // shorter ones would make the log unreadable and show themselves by it
	minLine   = 8        // of a secret with several lines, that is masked alone
	minBase64 = 4        // characters that depend on the secret only
	longForm  = 16 << 10 // of longer secrets the rarer forms are left out
)

// forms gives all that is to be masked for some secrets: each one, with CRLF as
// a terminal shows it, each of its lines alone, inside a JSON string, inside a
// URL, as hex and as base64. Those that are the same are given once.
func forms(secrets [][]byte) [][]byte {
	var out [][]byte
	seen := map[string]bool{}
	add := func(p []byte) {
		if len(p) < minSecret || seen[string(p)] {
			return
		}
		seen[string(p)] = true
		out = append(out, bytes.Clone(p))
	}
	for _, s := range secrets {
		s = bytes.TrimRight(s, "\r\n")
		if len(s) < minSecret {
			continue
		}
		s = bytes.ReplaceAll(s, []byte("\r\n"), []byte("\n"))
		add(s)
		crlf := bytes.ReplaceAll(s, []byte("\n"), []byte("\r\n"))
		add(crlf)
		if bytes.IndexByte(s, '\n') >= 0 {
			for l := range bytes.SplitSeq(s, []byte("\n")) {
				if l = bytes.TrimSpace(l); len(l) >= minLine && !armor(l) {
					add(l)
				}
			}
		}
		base64Forms(s, add)
		if len(s) > longForm {
			continue
		}
		// The line end that was cut off is part of what a file has.
		base64Forms(append(bytes.Clone(s), '\n'), add)
		if len(crlf) != len(s) {
			base64Forms(crlf, add)
		}
		for _, how := range []jsonForm{{}, {html: true}, {ascii: true}, {slash: true}, {slash: true, ascii: true}} {
			add(how.quote(s))
		}
		for _, keep := range []string{"-_.~", "-_.!~*'()", "-_.~$&+,/:;=@", "-_.~$&+=:@", "-_.*"} {
			for _, upper := range []bool{true, false} {
				add(percent(s, keep, upper, false))
				add(percent(s, keep, upper, true))
			}
		}
		h := hex.AppendEncode(nil, s)
		add(h)
		add(bytes.ToUpper(h))
	}
	return out
}

// armor says whether a line is one of those around a PEM block, which are the
// same for all keys.
func armor(l []byte) bool {
	return bytes.HasPrefix(l, []byte("-----")) && bytes.HasSuffix(l, []byte("-----"))
}

// base64Forms gives the base64 of the secret alone and in the middle of
// something longer: what its neighbours have an influence on is left out at
// both ends. What stands alone may also be wrapped, at 76 or at 64 characters.
func base64Forms(s []byte, add func([]byte)) {
	for _, enc := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
		for shift, from := range []int{0, 2, 3} {
			b := enc.AppendEncode(nil, append(make([]byte, shift, shift+len(s)), s...))
			to := (shift + len(s)) * 8 / 6
			if to-from < minBase64 {
				continue
			}
			add(b[from:to])
			add(b[from:]) // the secret is the end of what was encoded
			if shift > 0 || enc != base64.RawStdEncoding {
				continue
			}
			for _, width := range []int{76, 64} {
				for l := b; len(b) > width && len(l) >= minLine; l = l[min(width, len(l)):] {
					add(l[:min(width, len(l))])
				}
			}
		}
	}
}

// jsonForm is a way to write a text as a JSON string; encoders differ in them.
type jsonForm struct{ html, ascii, slash bool }

func (f jsonForm) quote(s []byte) []byte {
	var out []byte
	u := func(c uint16) {
		const digits = "0123456789abcdef"
		out = append(out, '\\', 'u', digits[c>>12], digits[c>>8&15], digits[c>>4&15], digits[c&15])
	}
	for i := 0; i < len(s); {
		c, n := rune(s[i]), 1
		if c >= utf8.RuneSelf {
			c, n = utf8.DecodeRune(s[i:])
		}
		switch {
		case c == '"' || c == '\\' || c == '/' && f.slash:
			out = append(out, '\\', byte(c))
		case c == '\n':
			out = append(out, `\n`...)
		case c == '\r':
			out = append(out, `\r`...)
		case c == '\t':
			out = append(out, `\t`...)
		case c == '\b':
			out = append(out, `\b`...)
		case c == '\f':
			out = append(out, `\f`...)
		case c < ' ' || f.html && (c == '<' || c == '>' || c == '&'):
			u(uint16(c))
		case c > 0xffff && f.ascii:
			u(uint16(0xd800 + (c-0x10000)>>10))
			u(uint16(0xdc00 + (c-0x10000)&0x3ff))
		case c >= utf8.RuneSelf && f.ascii && (c != utf8.RuneError || n > 1):
			u(uint16(c))
		default:
			out = append(out, s[i:i+n]...)
		}
		i += n
	}
	return out
}

// percent writes a text as part of a URL.
func percent(s []byte, keep string, upper, plus bool) []byte {
	digits := "0123456789abcdef"
	if upper {
		digits = "0123456789ABCDEF"
	}
	var out []byte
	for _, c := range s {
		switch {
		case 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || bytes.IndexByte([]byte(keep), c) >= 0:
			out = append(out, c)
		case c == ' ' && plus:
			out = append(out, '+')
		default:
			out = append(out, '%', digits[c>>4], digits[c&15])
		}
	}
	return out
}
