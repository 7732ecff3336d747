package segment

import (
	"encoding/binary"
	"time"
)

// HeaderLen is the length of what comes before the bytes of a frame.
const HeaderLen = 19

// Frame is one frame.
type Frame struct {
	Time    time.Time
	Stream  byte // o, e or m
	Partial bool
	Bytes   []byte
}

// Parse reads one line without its end.
func Parse(line []byte) (Frame, bool) {
	us, s, partial, ok := Header(line)
	if !ok {
		return Frame{}, false
	}
	return Frame{Time: time.UnixMicro(us), Stream: s, Partial: partial, Bytes: line[HeaderLen:]}, true
}

// Header reads what is before the bytes of a frame: the time in microseconds
// since 1970, the stream, and whether the line goes on.
func Header(line []byte) (us int64, stream byte, partial, ok bool) {
	if len(line) < HeaderLen || line[16] != ' ' || line[18] != ' ' {
		return 0, 0, false, false
	}
	a, b := binary.LittleEndian.Uint64(line), binary.LittleEndian.Uint64(line[8:])
	if !digits(a) || !digits(b) {
		return 0, 0, false, false
	}
	s := line[17] | 0x20
	if s != 'o' && s != 'e' && s != 'm' || line[17]&^0x20 != s&^0x20 {
		return 0, 0, false, false
	}
	return eight(a)*100_000_000 + eight(b), s, line[17] != s, true
}

// digits says whether all eight bytes are decimal digits.
func digits(v uint64) bool {
	const high, three, six = 0xf0f0f0f0f0f0f0f0, 0x3030303030303030, 0x0606060606060606
	return v&high == three && (v+six)&high == three
}

// eight is the number that eight digits make, the first one in the lowest byte.
func eight(v uint64) int64 {
	v = (v & 0x0f0f0f0f0f0f0f0f) * (10<<8 | 1) >> 8
	v = (v & 0x00ff00ff00ff00ff) * (100<<16 | 1) >> 16
	v = (v & 0x0000ffff0000ffff) * (10000<<32 | 1) >> 32
	return int64(v)
}

// header is the head of a frame; frame puts in the letter of the stream.
type header [HeaderLen]byte

func stamp(t time.Time) (h header) {
	us := t.UnixMicro()
	for i := 15; i >= 0; i-- {
		h[i] = byte('0' + us%10)
		us /= 10
	}
	h[16], h[18] = ' ', ' '
	return h
}

// frame appends one frame to out, with credentials in URLs hidden.
func (h *header) frame(out []byte, stream byte, partial bool, b []byte) []byte {
	if partial {
		stream &^= 0x20
	}
	h[17] = stream
	out = append(out, h[:]...)
	return append(appendHidden(out, b), '\n')
}
