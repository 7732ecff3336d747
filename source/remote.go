package source

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"slipway/access"
	"slipway/project"
	"slipway/reach"
	"slipway/secret"
)

// SetRemote links a project to an outside repository, or with a nil remote to
// its own again. Credentials in the URL become Username and Password; a
// Password or PrivateKey of secret.Encrypted is left as it was if the URL still
// leads to the same host.
func (s *Sources) SetRemote(ctx context.Context, by access.Actor, id project.ID, r *Remote) error {
	_, err := s.update(ctx, by, id, project.Change{}, func(old *Remote) (*Remote, error) {
		if r == nil {
			return nil, nil
		}
		now := *r
		return &now, now.normalize(old, s.cfg.Private)
	})
	return err
}

// Remote gives the outside repository of a project without its secrets, which
// are secret.Encrypted where there are any, or nil.
func (s *Sources) Remote(ctx context.Context, id project.ID) (*Remote, error) {
	r, _, err := s.loadRemote(ctx, id)
	if r == nil || err != nil {
		return nil, err
	}
	if r.bare() {
		r.Username = secret.Encrypted
	}
	if r.Password != "" {
		r.Password = secret.Encrypted
	}
	if len(r.PrivateKey) > 0 {
		r.PrivateKey = []byte(secret.Encrypted)
	}
	return r, nil
}

// place is where a URL leads.
type place struct {
	scheme string // http, https or ssh
	user   string
	host   string
	port   string
}

var scp = regexp.MustCompile(`^(?:([A-Za-z0-9._-]+)@)?([A-Za-z0-9.-]+):([^/].*|/[^/].*)$`)

// parseURL understands http, https, ssh and user@host:path.
func parseURL(text string) (place, *url.URL, error) {
	switch {
	case text == "":
		return place{}, nil, errors.New("is needed")
	case strings.HasPrefix(text, "-"), strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r == 0x7f }):
		return place{}, nil, errors.New("is not a URL")
	case len(text) > 2048:
		return place{}, nil, errors.New("is longer than 2048 characters")
	}
	if !strings.Contains(text, "://") {
		m := scp.FindStringSubmatch(text)
		if m == nil || strings.HasPrefix(m[2], "-") || strings.HasPrefix(m[1], "-") || strings.HasPrefix(m[3], ":") { // ext::program
			return place{}, nil, errors.New("is not a URL: use https://host/path, ssh://user@host/path or user@host:path")
		}
		return place{scheme: "ssh", user: m[1], host: m[2], port: "22"}, nil, nil
	}
	u, err := url.Parse(text)
	if err != nil {
		return place{}, nil, errors.New("is not a URL") // the cause would show what is in it
	}
	p := place{scheme: u.Scheme, user: u.User.Username(), host: u.Hostname(), port: u.Port()}
	known := map[string]string{"http": "80", "https": "443", "ssh": "22"}[u.Scheme]
	switch {
	case known == "":
		return p, nil, fmt.Errorf("has the scheme %q; http, https and ssh are allowed", u.Scheme)
	case p.host == "" || strings.HasPrefix(p.host, "-") || strings.HasPrefix(p.user, "-"):
		return p, nil, errors.New("names no host")
	case strings.Trim(u.Path, "/") == "" || u.RawQuery != "" || u.Fragment != "":
		return p, nil, errors.New("names no repository: scheme, host and path are needed, and nothing else")
	}
	if p.port == "" {
		p.port = known
	}
	return p, u, nil
}

// normalize checks a remote and takes the credentials out of its URL.
func (r *Remote) normalize(old *Remote, private bool) error {
	var bad project.Invalid
	p, u, err := parseURL(r.URL)
	if err != nil {
		bad.Add("url", "format", err.Error())
		return bad.Err()
	}
	if u != nil && u.User != nil {
		if pass, ok := u.User.Password(); ok && r.Password == "" {
			r.Password = pass
		}
		if p.scheme == "ssh" {
			u.User = url.User(p.user)
		} else {
			if r.Username == "" {
				r.Username = p.user
			}
			u.User = nil
		}
		r.URL = u.String()
	}
	if ip, err := netip.ParseAddr(p.host); err == nil && !private && reach.Inside(ip) {
		bad.Add("url", "format", "leads to the private address "+ip.String()+", which this server does not allow")
	}
	if r.Password == secret.Encrypted || string(r.PrivateKey) == secret.Encrypted {
		keep := Remote{}
		if old != nil && sameHost(old.URL, r.URL) {
			keep = *old
		}
		if r.Password == secret.Encrypted {
			if r.Password = keep.Password; r.Password == "" {
				bad.Add("password", "required", "is to be given anew for another host")
			}
		}
		if string(r.PrivateKey) == secret.Encrypted {
			if r.PrivateKey = keep.PrivateKey; len(r.PrivateKey) == 0 {
				bad.Add("private_key", "required", "is to be given anew for another host")
			}
		}
	}
	if strings.ContainsAny(r.Username, ":\r\n\x00") || strings.ContainsAny(r.Password, "\r\n\x00") {
		bad.Add("username", "format", "user name and password may hold no line break, the name no colon")
	}
	if len(r.PrivateKey) > 0 {
		if _, err := ssh.ParsePrivateKey(r.PrivateKey); err != nil {
			bad.Add("private_key", "format", "is not an ssh private key without a passphrase")
		}
	}
	return bad.Err()
}

// sameHost tells whether two URLs lead to the same server.
func sameHost(a, b string) bool {
	p, _, err := parseURL(a)
	q, _, also := parseURL(b)
	return err == nil && also == nil && p.scheme == q.scheme && p.host == q.host && p.port == q.port
}

// reach finds the address that may be spoken to, so that git need not look
// the name up again and find another.
func (p place) reach(ctx context.Context, private bool) (netip.Addr, error) {
	list, err := net.DefaultResolver.LookupNetIP(ctx, "ip", p.host)
	if ctx.Err() != nil {
		return netip.Addr{}, fmt.Errorf("look the host %s up: %w", p.host, context.Cause(ctx))
	}
	if err != nil || len(list) == 0 {
		return netip.Addr{}, fmt.Errorf("the host %s is not found: %w", p.host, errdefs.ErrUnavailable)
	}
	var no netip.Addr
	for _, ip := range list {
		if private || !reach.Inside(ip) {
			return ip.Unmap(), nil
		}
		no = ip.Unmap()
	}
	return netip.Addr{}, fmt.Errorf("the host %s has the private address %s, which this server does not allow: %w", p.host, no, errdefs.ErrFailedPrecondition)
}

// dialled is a call of git to an outside repository: credentials travel in the
// environment and in memory, never in arguments or files.
func (s *Sources) dialled(ctx context.Context, id project.ID, r *Remote, c call) (call, func(), error) {
	done := func() {}
	p, _, err := parseURL(r.URL)
	if err != nil {
		return c, done, fmt.Errorf("the URL of the remote %s: %w", err.Error(), errdefs.ErrFailedPrecondition)
	}
	c.config = append(c.config, "protocol."+p.scheme+".allow=always",
		"http.lowSpeedLimit=1000", "http.lowSpeedTime=30", "http.maxRequests=2", "http.sslVerify=true")
	c.hide = append(c.hide, r.Password)
	if r.bare() {
		c.hide = append(c.hide, r.Username)
	}
	if !s.cfg.Private || r.Username != "" || r.Password != "" {
		// Where a redirect leads was looked at by nobody, and git would send the
		// login there.
		c.config = append(c.config, "http.followRedirects=false")
	}
	var pin netip.Addr
	if !proxied() || p.scheme == "ssh" {
		if pin, err = p.reach(ctx, s.cfg.Private); err != nil {
			return c, done, err
		}
	} else if ip, err := netip.ParseAddr(p.host); err == nil && !s.cfg.Private && reach.Inside(ip) {
		return c, done, fmt.Errorf("%s is a private address: %w", ip, errdefs.ErrFailedPrecondition)
	}
	if p.scheme == "ssh" {
		return s.overSSH(id, r, p, pin, c)
	}
	if pin.IsValid() {
		if _, err := netip.ParseAddr(p.host); err != nil {
			ip := pin.String()
			if pin.Is6() {
				ip = "[" + ip + "]"
			}
			c.config = append(c.config, "http.curloptResolve="+p.host+":"+p.port+":"+ip)
		}
	}
	if r.Username != "" || r.Password != "" {
		basic := base64.StdEncoding.EncodeToString([]byte(r.Username + ":" + r.Password))
		c.config = append(c.config, "http.extraHeader=Authorization: Basic "+basic)
		c.hide = append(c.hide, basic)
	}
	return c, done, nil
}

func proxied() bool {
	for _, name := range proxies {
		if strings.HasSuffix(strings.ToLower(name), "s_proxy") || strings.HasSuffix(strings.ToLower(name), "p_proxy") || strings.EqualFold(name, "all_proxy") {
			if os.Getenv(name) != "" {
				return true
			}
		}
	}
	return false
}

// overSSH gives git an ssh that reads no file of the machine but a key that is
// only in our memory, and remembers the host's key for this project alone.
func (s *Sources) overSSH(id project.ID, r *Remote, p place, pin netip.Addr, c call) (call, func(), error) {
	done := func() {}
	words := []string{
		"ssh", "-F", "/dev/null", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=accept-new",
		"-o", "UserKnownHostsFile=" + filepath.Join(s.cfg.Dir, "mirrors", string(id)+".hosts"), "-o", "GlobalKnownHostsFile=/dev/null",
		"-o", "HashKnownHosts=no", "-o", "UpdateHostKeys=no", "-o", "ConnectTimeout=15", "-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=4",
		"-o", "ForwardAgent=no", "-o", "ClearAllForwardings=yes", "-o", "PermitLocalCommand=no", "-o", "ProxyCommand=none",
		"-o", "PreferredAuthentications=publickey", "-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none",
		"-o", "HostKeyAlias=" + hostAlias(p), "-o", "HostName=" + pin.String(),
	}
	if len(r.PrivateKey) > 0 {
		name, close, err := inMemory(r.PrivateKey)
		if err != nil {
			return c, done, fmt.Errorf("hold the deploy key: %w", err)
		}
		done = close
		words = append(words, "-i", name)
	} else {
		words = append(words, "-i", "/nonexistent")
	}
	if r.Username != "" && p.user == "" {
		words = append(words, "-l", r.Username)
	}
	for i, w := range words {
		words[i] = "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
	}
	c.env = append(c.env, "GIT_SSH_COMMAND="+strings.Join(words, " "), "GIT_SSH_VARIANT=ssh")
	return c, done, nil
}

func hostAlias(p place) string {
	if p.port == "22" {
		return p.host
	}
	return "[" + p.host + "]:" + p.port
}

// inMemory puts text into a file that is in no directory, readable by our user
// alone, and gives a name by which a child finds it.
func inMemory(text []byte) (name string, done func(), err error) {
	fd, err := unix.MemfdCreate("key", unix.MFD_CLOEXEC)
	if err != nil {
		return "", nil, err
	}
	f := os.NewFile(uintptr(fd), "key")
	if len(text) > 0 && text[len(text)-1] != '\n' {
		text = append(append([]byte{}, text...), '\n')
	}
	if err = f.Chmod(0o600); err == nil {
		_, err = f.Write(text)
	}
	if err != nil {
		_ = f.Close()
		return "", nil, err
	}
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), fd), func() { _ = f.Close() }, nil
}
