package ingress

import (
	"fmt"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/uuid"
	"golang.org/x/net/idna"

	"slipway/project"
)

// ID is the UUID of an ingress.
type ID string

// Ingress leads a hostname to targets.
type Ingress struct {
	ID       ID
	Project  project.ID
	Hostname string // lower case, ASCII form
	Paths    []Path
	Default  bool // the one made with the project; cannot be deleted
	Enabled  bool
	Verified bool
	Created  time.Time
	Updated  time.Time
}

// Path leads a path prefix to one target; exactly one of Service, URL and
// DefaultPage is set.
type Path struct {
	Path        string // begins with /
	Service     string // service UUID
	Port        string // "8080/tcp"
	URL         string // redirect
	DefaultPage bool
}

// Bounds of what an ingress holds.
const (
	maxPaths    = 100
	maxPathSize = 1024
	maxURLSize  = 2048
)

// Hostname gives the form in which a hostname is stored and compared: lower
// case, ASCII, without a dot at the end. A bad one is a *project.Invalid at
// "hostname".
func Hostname(s string) (string, error) {
	bad := &project.Invalid{}
	if s == "" {
		bad.Add("hostname", "required", "a hostname is needed")
		return "", bad
	}
	h := strings.TrimSuffix(s, ".")
	if len(h) > 1000 || !utf8.ValidString(h) {
		bad.Add("hostname", "format", "is no hostname")
		return "", bad
	}
	h, err := profile().ToASCII(h)
	if err != nil || strings.HasSuffix(h, ".") { // one dot at the end is the root, two are nothing
		bad.Add("hostname", "format", fmt.Sprintf("%q is no hostname", short(s, 80)))
		return "", bad
	}
	if _, err := netip.ParseAddr(h); err == nil || numeric(h) {
		bad.Add("hostname", "format", "an address is no hostname; a name is needed")
		return "", bad
	}
	return h, nil
}

// profile is how browsers look names up, with the strict rules for letters and
// lengths.
func profile() *idna.Profile {
	return idna.New(idna.MapForLookup(), idna.BidiRule(), idna.StrictDomainName(true), idna.VerifyDNSLength(true))
}

// numeric tells whether the last label is a number: browsers take such a name
// for an IPv4 address.
func numeric(h string) bool {
	last := h[strings.LastIndexByte(h, '.')+1:]
	_, err := strconv.ParseUint(last, 0, 64)
	return err == nil
}

// ValidatePaths finds everything that is wrong with the paths of an ingress,
// as a *project.Invalid with paths like "paths.0.path", or nil.
func ValidatePaths(paths []Path) error {
	bad := &project.Invalid{}
	switch {
	case len(paths) == 0:
		bad.Add("paths", "required", "at least one path is needed")
	case len(paths) > maxPaths:
		bad.Add("paths", "maximum", fmt.Sprintf("at most %d paths", maxPaths))
		return bad
	}
	seen := map[string]int{}
	for i, p := range paths {
		at := fmt.Sprintf("paths.%d", i)
		if kind, msg := badPath(p.Path); kind != "" {
			bad.Add(at+".path", kind, msg)
		} else if j, ok := seen[trimPath(p.Path)]; ok {
			bad.Add(at+".path", "conflict", fmt.Sprintf("is the same as paths.%d.path", j))
		} else {
			seen[trimPath(p.Path)] = i
		}
		badTarget(bad, at, p)
	}
	return bad.Err()
}

func badPath(p string) (kind, message string) {
	switch {
	case p == "":
		return "required", "a path is needed"
	case len(p) > maxPathSize:
		return "maximum", fmt.Sprintf("at most %d bytes", maxPathSize)
	case p[0] != '/':
		return "format", "must begin with /"
	case !utf8.ValidString(p) || strings.ContainsFunc(p, unicode.IsControl):
		return "format", "control characters are not allowed"
	case strings.ContainsAny(p, "?#\\"):
		return "format", "?, # and \\ are not allowed"
	}
	for seg := range strings.SplitSeq(strings.TrimPrefix(trimPath(p), "/"), "/") {
		if seg == "." || seg == ".." || seg == "" && p != "/" {
			return "format", "empty, . and .. segments are not allowed"
		}
	}
	return "", ""
}

func badTarget(bad *project.Invalid, at string, p Path) {
	n := 0
	if p.Service != "" || p.Port != "" {
		n++
		if uuid.Validate(p.Service) != nil || len(p.Service) != 36 {
			bad.Add(at+".service", "format", "must be the UUID of a service")
		}
		if _, err := tcpPort(p.Port); err != nil {
			bad.Add(at+".port", "format", err.Error())
		}
	}
	if p.URL != "" {
		n++
		if msg := badURL(p.URL); msg != "" {
			bad.Add(at+".url", "format", msg)
		}
	}
	if p.DefaultPage {
		n++
	}
	if n != 1 {
		bad.Add(at+".target", "required", "exactly one target is needed: a service with its port, a URL, or the default page")
	}
}

func badURL(s string) string {
	if len(s) > maxURLSize {
		return fmt.Sprintf("at most %d bytes", maxURLSize)
	}
	u, err := url.Parse(s)
	switch {
	case err != nil, u.Scheme != "http" && u.Scheme != "https", u.Hostname() == "":
		return "must be an http or https URL with a host"
	case u.User != nil:
		return "a URL with a login is not allowed"
	}
	return ""
}

// tcpPort reads "8080/tcp".
func tcpPort(s string) (uint16, error) {
	num, proto, _ := strings.Cut(s, "/")
	n, err := strconv.ParseUint(num, 10, 16)
	if err != nil || n == 0 || proto != "tcp" {
		return 0, fmt.Errorf("must be a port from 1 to 65535 and tcp, as in 8080/tcp")
	}
	return uint16(n), nil
}

// trimPath gives the form in which paths are compared: no slash at the end but
// for the root.
func trimPath(p string) string {
	if t := strings.TrimRight(p, "/"); t != "" {
		return t
	}
	return "/"
}

// short cuts a text that goes into a message or a log line.
func short(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + "..."
}
