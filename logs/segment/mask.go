package segment

import (
	"bytes"
	"cmp"
	"slices"
)

// Masker replaces secrets in a stream that comes in pieces. What may be the
// beginning of a secret is held back until the next piece tells. Secrets that
// overlap or touch become one "***". A nil Masker replaces nothing.
//
// It is a search for many words at once that looks at every n-th byte only
// (Wu and Manber, 1994), so that secrets cost little where there are none.
type Masker struct {
	t     *table
	held  []byte
	cover int // so many bytes of held belong to what is printed as stars already; -1: none, and no stars touch it
	out   []byte
}

// table is what the maskers of all streams share. It is never changed.
type table struct {
	words [][]byte // in order of their bytes
	max   int      // length of the longest
	min   int      // and of the shortest
	shift [1 << 16]uint8
	ends  map[uint16][][]byte // by the block that ends at the length of the shortest, longest first
	pair  [1024]uint64        // is there a word that begins with these two bytes
	first [256]bool           // or with this one
	runs  map[uint16][2]int   // the words that begin with these two bytes
}

const block = 3

var stars = []byte("***")

func hash(b []byte) uint16 { return uint16(b[0])<<8 ^ uint16(b[1])<<4 ^ uint16(b[2]) }

func two(b []byte) uint16 { return uint16(b[0])<<8 | uint16(b[1]) }

// NewMasker makes a masker for one stream; forms tells what of a secret it
// finds. It is nil when there is nothing to mask.
func NewMasker(secrets [][]byte) *Masker {
	words := forms(secrets)
	if len(words) == 0 {
		return nil
	}
	slices.SortFunc(words, bytes.Compare)
	t := &table{words: words, min: len(words[0]), ends: map[uint16][][]byte{}, runs: map[uint16][2]int{}}
	for i, p := range words {
		t.min, t.max = min(t.min, len(p)), max(t.max, len(p))
		t.first[p[0]] = true
		h := two(p)
		t.pair[h>>6] |= 1 << (h & 63)
		r, ok := t.runs[h]
		if !ok {
			r[0] = i
		}
		t.runs[h] = [2]int{r[0], i + 1}
	}
	most := uint8(min(t.min-block+1, 255))
	for i := range t.shift {
		t.shift[i] = most
	}
	for _, p := range words {
		for end := block; end <= t.min; end++ {
			h := hash(p[end-block:])
			t.shift[h] = min(t.shift[h], uint8(min(t.min-end, 255)))
		}
		h := hash(p[t.min-block:])
		t.ends[h] = append(t.ends[h], p)
	}
	for _, l := range t.ends {
		slices.SortFunc(l, func(a, b []byte) int { return cmp.Compare(len(b), len(a)) })
	}
	return &Masker{t: t, cover: -1}
}

// Clone makes a masker of the same secrets for another stream.
func (m *Masker) Clone() *Masker {
	if m == nil {
		return nil
	}
	return &Masker{t: m.t, cover: -1}
}

// Line masks one text that is whole. It has nothing to do with the stream, and
// may be called from several goroutines.
func (m *Masker) Line(text []byte) []byte { return m.Clone().Feed(text, true) }

// Feed gives what may be written now; it is good until the next call, and as
// long as b is.
func (m *Masker) Feed(b []byte, last bool) []byte {
	if m == nil {
		return b
	}
	if len(m.held) > 0 {
		m.held = append(m.held, b...)
		b = m.held
	}
	stop := len(b)
	if !last {
		stop = m.t.hold(b)
	}
	m.out = m.out[:0]
	cover, from := m.cover, max(m.cover, 0) // from: neither covered nor written yet
	at := 0
	for {
		i, n := m.t.find(b, at, stop)
		if n == 0 {
			break
		}
		if i > cover {
			m.out = append(m.out, b[from:i]...)
			m.out = append(m.out, stars...)
		}
		if i+n > cover {
			cover = i + n
		}
		from = cover
		at = i + 1
	}
	out := m.out
	if from < stop {
		if len(out) == 0 {
			out = b[from:stop]
		} else {
			m.out = append(m.out, b[from:stop]...)
			out = m.out
		}
	}
	m.cover = -1
	if cover >= stop {
		m.cover = cover - stop
	}
	m.keep(b[stop:])
	if last {
		m.cover = -1
	}
	return out
}

// keep holds rest back until the next call.
func (m *Masker) keep(rest []byte) {
	if len(rest) == 0 {
		m.held = nil
		return
	}
	// The caller may still read from the old one.
	m.held = append(make([]byte, 0, len(rest)+64), rest...)
}

// find gives the first place from at on and before stop where a word begins,
// and the length of the longest one there; 0 if there is none.
func (t *table) find(b []byte, at, stop int) (int, int) {
	if t.min < 6 {
		return t.each(b, at, stop)
	}
	for end := at + t.min; end <= len(b); {
		if s := t.shift[hash(b[end-block:end])]; s > 0 {
			end += int(s)
			continue
		}
		i := end - t.min
		if i >= stop {
			break
		}
		if k := two(b[i:]); t.pair[k>>6]&(1<<(k&63)) != 0 {
			if n := t.word(b[i:]); n > 0 {
				return i, n
			}
		}
		end++
	}
	return 0, 0
}

// each is find where the shortest word is so short that nothing can be skipped.
func (t *table) each(b []byte, at, stop int) (int, int) {
	stop = min(stop, len(b)-t.min+1)
	for i := at; i < stop; i++ {
		k := two(b[i:])
		if t.pair[k>>6]&(1<<(k&63)) == 0 || t.shift[hash(b[i+t.min-block:])] > 0 {
			continue
		}
		if n := t.word(b[i:]); n > 0 {
			return i, n
		}
	}
	return 0, 0
}

// word is the length of the longest word that b begins with.
func (t *table) word(b []byte) int {
	for _, p := range t.ends[hash(b[t.min-block:])] {
		if bytes.HasPrefix(b, p) {
			return len(p)
		}
	}
	return 0
}

// hold gives the first place in b from where on all of it may be the beginning
// of a word.
func (t *table) hold(b []byte) int {
	for i := max(0, len(b)-t.max+1); i < len(b); i++ {
		rest := b[i:]
		if len(rest) == 1 {
			if t.first[rest[0]] {
				return i
			}
			break
		}
		h := two(rest)
		if t.pair[h>>6]&(1<<(h&63)) == 0 {
			continue
		}
		r := t.runs[h]
		j, _ := slices.BinarySearchFunc(t.words[r[0]:r[1]], rest, bytes.Compare)
		for _, p := range t.words[r[0]+j : r[1]] { // those that begin with rest follow it
			if !bytes.HasPrefix(p, rest) {
				break
			}
			if len(p) > len(rest) {
				return i
			}
		}
	}
	return len(b)
}
