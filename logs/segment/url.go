package segment

import "bytes"

var scheme = []byte("://")

// appendHidden appends b with the credentials of every URL in it hidden:
// "https://***@host/". The text of a frame goes through here, whoever wrote it.
func appendHidden(out, b []byte) []byte {
	for {
		i := bytes.Index(b, scheme)
		if i < 0 {
			return append(out, b...)
		}
		i += len(scheme)
		out, b = append(out, b[:i]...), b[i:]
		if n := userinfo(b); n > 0 {
			out, b = append(out, stars...), b[n:]
		}
	}
}

// userinfo is how much of b, which follows "://", is the part of a URL before
// the @ of its host; 0 if there is none. A password may hold an @ of its own, so
// the last one before the path counts.
func userinfo(b []byte) int {
	at := 0
	for i, c := range b {
		switch c {
		case '@':
			at = i
		case '/', '?', '#', ' ', '\t', '"', '\'', '<', '>', '\\', '`':
			return at
		}
	}
	return at
}
