package segment

import (
	"bytes"
	"testing"
)

func TestCredentialsInURLsAreHidden(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"fatal: https://bob:pa55@host/x.git not found": "fatal: https://***@host/x.git not found",
		"https://token@host":                           "https://***@host",
		"https://bob:p@55@host:8443/x@y":               "https://***@host:8443/x@y",
		"two https://a:b@c and ssh://git@d/e":          "two https://***@c and ssh://***@d/e",
		"https://host/@scope/name":                     "https://host/@scope/name",
		"mail bob@host, see https://host":              "mail bob@host, see https://host",
		"https://host bob@other":                       "https://host bob@other",
		"://":                                          "://",
		"https://@host":                                "https://@host",
	} {
		if got := string(appendHidden(nil, []byte(in))); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

func FuzzCredentialsInURLs(f *testing.F) {
	f.Add([]byte("https://bob:pa55@host/x"))
	f.Fuzz(func(t *testing.T, b []byte) {
		once := appendHidden(nil, b)
		if twice := appendHidden(nil, once); !bytes.Equal(once, twice) {
			t.Errorf("%q becomes %q becomes %q", b, once, twice)
		}
	})
}
