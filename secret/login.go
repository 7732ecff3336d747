package secret

import (
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"slipway/project"
)

// Login is the login of a registry.
type Login struct {
	ID          string // UUID
	Project     project.ID
	Description string
	Host        string    // "host[:port]"
	Username    string    // "": anonymous
	Password    string    // Encrypted when read through the front door, if there is one
	Valid       bool      // as found by the last check
	Checked     time.Time // when the registry last answered one; zero: not yet
}

// usual are the registries that every project knows at first, without a login.
func usual() []Login {
	return []Login{
		{Host: "index.docker.io", Description: "Docker Hub"},
		{Host: "ghcr.io", Description: "GitHub Container Registry"},
		{Host: "registry.gitlab.com", Description: "GitLab Container Registry"},
	}
}

var hosts = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*\.?$`)

// HostProblem tells what is wrong with "host[:port]", "" if nothing is.
func HostProblem(s string) string {
	switch {
	case strings.Contains(s, "://"):
		return "must be host or host:port, without a scheme"
	case strings.Contains(s, "/"):
		return "must be host or host:port, without a path"
	}
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		host = strings.TrimSuffix(strings.TrimPrefix(s, "["), "]")
	} else if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return "has no port between 1 and 65535 after the colon"
	}
	ip, ipErr := netip.ParseAddr(host)
	switch {
	case ipErr == nil && ip.Zone() == "" && strings.TrimSuffix(net.JoinHostPort(host, port), ":") == s:
		return ""
	case len(host) > 253 || strings.HasPrefix(s, "[") || !hosts.MatchString(host):
		return "must be host or host:port"
	}
	return ""
}

// Validate finds all that is wrong.
func (l Login) Validate() error {
	var bad project.Invalid
	l.validate(&bad)
	return bad.Err()
}

func (l Login) validate(bad *project.Invalid) {
	if l.Host == "" {
		bad.Add("host", "required", "must not be empty")
	} else if m := HostProblem(l.Host); m != "" {
		bad.Add("host", "format", m)
	}
	bad.Text("description", l.Description, maxDescription)
	switch {
	case l.Username == "" && l.Password != "":
		bad.Add("username", "required", "must not be empty when there is a password")
	case strings.ContainsFunc(l.Username, unicode.IsControl) || strings.Contains(l.Username, ":"):
		bad.Add("username", "format", "must not hold a colon or control characters")
	case len(l.Username) > 1024:
		bad.Add("username", "maximum", "must be at most 1024 bytes")
	}
	switch {
	case l.Username != "" && l.Password == "":
		bad.Add("password", "required", "must not be empty when there is a user name")
	case len(l.Password) > maxValue:
		bad.Add("password", "maximum", fmt.Sprintf("must be at most %d bytes", maxValue))
	case !utf8.ValidString(l.Password) || strings.ContainsRune(l.Password, 0):
		bad.Add("password", "format", "must be text")
	}
}

func (l Login) hidden() Login {
	if l.Username != "" {
		l.Password = Encrypted
	}
	return l
}
