package local

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	remoteserrors "github.com/containerd/containerd/v2/core/remotes/errors"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/semaphore"

	"slipway/engine"
)

const (
	// dockerHub is the host in names of images; the registry has another.
	dockerHub, dockerRegistry = "docker.io", "registry-1.docker.io"
	// transfers is how many blobs of one image come or go at a time.
	transfers = 4
	// fetches is how often an image is fetched when a blob of it breaks off.
	fetches = 3
)

// Pull implements engine.Images.
func (s imageStore) Pull(ctx context.Context, spec engine.PullSpec) (engine.Image, error) {
	ctx = nsctx(ctx)
	desc, err := s.e.pull(ctx, spec)
	if err != nil {
		return engine.Image{}, fmt.Errorf("pull %s: %w", spec.Ref, err)
	}
	img, err := s.e.inspect(ctx, desc.Digest.String(), spec.Platform)
	if err != nil {
		return engine.Image{}, fmt.Errorf("pull %s: %w", spec.Ref, err)
	}
	s.e.sync()
	return img, nil
}

// Head implements engine.Images.
func (s imageStore) Head(ctx context.Context, spec engine.PullSpec) (string, error) {
	r, err := s.e.registry(spec.Ref, spec.Logins)
	if err != nil {
		return "", fmt.Errorf("head %s: %w", spec.Ref, err)
	}
	_, desc, err := r.Resolve(nsctx(ctx), spec.Ref)
	if err != nil {
		return "", fmt.Errorf("head %s: %w", spec.Ref, r.explain(ctx, err))
	}
	return desc.Digest.String(), nil
}

// CheckLogin implements engine.Images.
func (s imageStore) CheckLogin(ctx context.Context, l engine.Login) error {
	if err := s.e.checkLogin(ctx, l); err != nil {
		return fmt.Errorf("check login: %w", err)
	}
	return nil
}

// Push implements engine.Images.
func (s imageStore) Push(ctx context.Context, dgst, ref string, logins []engine.Login) error {
	if err := s.e.push(nsctx(ctx), dgst, ref, logins); err != nil {
		return fmt.Errorf("push %s: %w", ref, err)
	}
	return nil
}

// pull brings one platform of an image into the store, where it stays for a day.
func (e *Engine) pull(ctx context.Context, spec engine.PullSpec) (desc ocispec.Descriptor, err error) {
	match, err := matcher(spec.Platform)
	if err != nil {
		return desc, err
	}
	r, err := e.registry(spec.Ref, spec.Logins)
	if err != nil {
		return desc, err
	}
	_, desc, err = r.Resolve(ctx, spec.Ref)
	if err != nil {
		return desc, r.explain(ctx, err)
	}
	if manifestTypeOf(desc.MediaType) == "" {
		return desc, fmt.Errorf("registry %s gives %q where an image should be: %w", r.host, desc.MediaType, errdefs.ErrFailedPrecondition)
	}
	fetcher, err := r.Fetcher(ctx, spec.Ref)
	if err != nil {
		return desc, r.explain(ctx, err)
	}
	err = e.leased(ctx, func(ctx context.Context) error {
		err := e.fetch(ctx, fetcher, desc, match)
		for n := 1; n < fetches && errors.Is(err, io.ErrUnexpectedEOF) && ctx.Err() == nil; n++ {
			err = e.fetch(ctx, fetcher, desc, match) // what came of a blob before it broke off is not asked for again
		}
		if err != nil {
			return r.explain(ctx, err)
		}
		if _, err := e.find(ctx, desc.Digest.String(), spec.Platform); err != nil {
			return err
		}
		return e.fresh(ctx, desc.Digest)
	})
	return desc, err
}

// manifestTypeOf is the media type if it is that of a manifest or an index.
func manifestTypeOf(t string) string {
	if images.IsManifestType(t) || images.IsIndexType(t) {
		return t
	}
	return ""
}

// fetch brings what a manifest, or the best fitting one of an index, refers to.
func (e *Engine) fetch(ctx context.Context, from remotes.Fetcher, desc ocispec.Descriptor, match platforms.MatchComparer) error {
	get := remotes.FetchHandler(e.content, from)
	bounded := images.HandlerFunc(func(ctx context.Context, d ocispec.Descriptor) ([]ocispec.Descriptor, error) {
		if manifestTypeOf(d.MediaType) != "" && d.Size > manifestMax {
			return nil, fmt.Errorf("manifest %s is %d bytes long: %w", d.Digest, d.Size, errdefs.ErrInvalidArgument)
		}
		return get(ctx, d)
	})
	children := images.SetChildrenLabels(e.content, images.ChildrenHandler(e.content))
	one := images.LimitManifests(images.FilterPlatforms(children, match), match, 1)
	return images.Dispatch(ctx, images.Handlers(bounded, one), semaphore.NewWeighted(transfers), desc)
}

// push sends an image, all of it.
func (e *Engine) push(ctx context.Context, dgst, ref string, logins []engine.Login) error {
	desc, err := e.describe(ctx, dgst)
	if err != nil {
		return err
	}
	if err := e.whole(ctx, desc); err != nil {
		return err
	}
	r, err := e.registry(ref, logins)
	if err != nil {
		return err
	}
	p, err := r.Pusher(ctx, ref)
	if err != nil {
		return r.explain(ctx, err)
	}
	if err := remotes.PushContent(ctx, p, desc, e.content, semaphore.NewWeighted(transfers), platforms.All, nil); err != nil {
		return r.explain(ctx, err)
	}
	return nil
}

// whole checks that nothing of an image is missing, so that a push does not
// end half way.
func (e *Engine) whole(ctx context.Context, desc ocispec.Descriptor) error {
	return images.Walk(ctx, images.HandlerFunc(func(ctx context.Context, d ocispec.Descriptor) ([]ocispec.Descriptor, error) {
		if _, err := e.content.Info(ctx, d.Digest); err != nil {
			return nil, err
		}
		return images.Children(ctx, e.content, d)
	}), desc)
}

// registry is the way to the registry of one reference.
type registry struct {
	remotes.Resolver
	host  string // as in the reference
	login engine.Login
}

// transports are the connections to registries, kept for the next call.
type transports struct {
	mu  sync.Mutex
	by  map[string]http.RoundTripper
	all []*http.Transport
}

func (e *Engine) registry(ref string, logins []engine.Login) (*registry, error) {
	named, err := reference.ParseNamed(ref)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errdefs.ErrInvalidArgument, err)
	}
	r := &registry{host: reference.Domain(named)}
	hosts, err := e.hosts(r.host, logins)
	if err != nil {
		return nil, err
	}
	r.login = hosts[0].login
	list := make([]docker.RegistryHost, len(hosts))
	for i, h := range hosts {
		list[i] = h.RegistryHost
	}
	r.Resolver = docker.NewResolver(docker.ResolverOptions{
		Hosts:   func(string) ([]docker.RegistryHost, error) { return list, nil },
		Headers: http.Header{"User-Agent": {"slipway"}},
	})
	return r, nil
}

// endpoint is one place that a registry is asked at.
type endpoint struct {
	docker.RegistryHost
	login engine.Login
}

// hosts are the places to ask for a host: the mirror instead of it where there
// is one, but for pushes.
func (e *Engine) hosts(host string, logins []engine.Login) ([]endpoint, error) {
	real := host
	if host == dockerHub {
		real = dockerRegistry
	}
	caps := docker.HostCapabilityPull | docker.HostCapabilityResolve
	own := e.endpoint(docker.RegistryHost{Scheme: "https", Host: real, Path: "/v2", Capabilities: caps | docker.HostCapabilityPush}, loginFor(logins, host))
	mirror := e.opts.Mirrors[host]
	if mirror == "" {
		return []endpoint{own}, nil
	}
	u, err := url.Parse(mirror)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, fmt.Errorf("the mirror of %s is no http(s) URL: %w", host, errdefs.ErrInvalidArgument)
	}
	own.Capabilities = docker.HostCapabilityPush
	path := strings.TrimSuffix(u.Path, "/")
	if !strings.HasSuffix(path, "/v2") {
		path += "/v2"
	}
	// The host's login is not for the mirror.
	m := e.endpoint(docker.RegistryHost{Scheme: u.Scheme, Host: u.Host, Path: path, Capabilities: caps}, loginFor(logins, u.Host))
	return []endpoint{m, own}, nil
}

// loginFor is the login of a host; Insecure without a user counts too.
func loginFor(logins []engine.Login, host string) engine.Login {
	for _, l := range logins {
		if canonicalHost(l.Host) == canonicalHost(host) {
			return l
		}
	}
	return engine.Login{Host: host}
}

// canonicalHost makes the names of Docker's registry one.
func canonicalHost(h string) string {
	switch h = strings.ToLower(h); h {
	case "index.docker.io", dockerRegistry, "hub.docker.com":
		return dockerHub
	}
	return h
}

func (e *Engine) endpoint(h docker.RegistryHost, l engine.Login) endpoint {
	plain := l.Insecure || e.opts.PlainLoopback && loopback(h.Host)
	c := &http.Client{Transport: e.transport(l.Insecure, plain)}
	h.Client = c
	h.Authorizer = &authorizer{Authorizer: docker.NewDockerAuthorizer(docker.WithAuthClient(c), docker.WithAuthCreds(func(string) (string, string, error) {
		return l.Username, l.Password, nil
	}))}
	return endpoint{h, l}
}

// authorizer lets one request at a time ask for a token: containerd's has a
// race when several do.
type authorizer struct {
	docker.Authorizer
	mu sync.Mutex
}

// Authorize implements docker.Authorizer.
func (a *authorizer) Authorize(ctx context.Context, r *http.Request) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.Authorizer.Authorize(ctx, r)
}

// AddResponses implements docker.Authorizer.
func (a *authorizer) AddResponses(ctx context.Context, list []*http.Response) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.Authorizer.AddResponses(ctx, list)
}

// loopback tells whether a host is this machine by its very name.
func loopback(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.Trim(host, "[]")
	ip := net.ParseIP(host)
	return host == "localhost" || strings.HasSuffix(host, ".localhost") || ip != nil && ip.IsLoopback()
}

// transport makes connections: without a look at certificates, or with a try by
// plain HTTP where the other side does not speak TLS.
func (e *Engine) transport(insecure, plain bool) http.RoundTripper {
	t := &e.builder.transports
	t.mu.Lock()
	defer t.mu.Unlock()
	key := fmt.Sprint(insecure, plain)
	if t.by[key] != nil {
		return t.by[key]
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	for _, ca := range e.opts.CAs {
		pool.AppendCertsFromPEM(ca)
	}
	base := &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second, Control: noMetadata}).DialContext,
		TLSHandshakeTimeout:   10 * time.Second,
		ResponseHeaderTimeout: time.Minute,
		ExpectContinueTimeout: 5 * time.Second,
		MaxIdleConns:          16, MaxIdleConnsPerHost: transfers, IdleConnTimeout: time.Minute,
		TLSClientConfig: &tls.Config{RootCAs: pool, InsecureSkipVerify: insecure}, //nolint:gosec // asked for by the login
		// HTTP/2 bounds the flow of a large upload.
		TLSNextProto: map[string]func(string, *tls.Conn) http.RoundTripper{},
	}
	var rt http.RoundTripper = base
	if plain {
		rt = docker.NewHTTPFallback(base)
	}
	if t.by == nil {
		t.by = map[string]http.RoundTripper{}
	}
	t.by[key] = rt
	t.all = append(t.all, base)
	return rt
}

// noMetadata keeps names of images from leading to what clouds tell their
// machines on link-local addresses.
func noMetadata(_, address string, _ syscall.RawConn) error {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return err
	}
	if ip := net.ParseIP(host); ip == nil || ip.IsLinkLocalUnicast() || ip.IsMulticast() || ip.IsUnspecified() {
		return fmt.Errorf("no registry is looked for at %s: %w", host, errdefs.ErrPermissionDenied)
	}
	return nil
}

// explain turns an error of a registry into one of a kind of ours, which says
// who was asked and as whom, and never how.
func (r *registry) explain(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	text := err.Error()
	if r.login.Password != "" {
		text = strings.ReplaceAll(text, r.login.Password, "***")
		text = strings.ReplaceAll(text, url.QueryEscape(r.login.Password), "***")
	}
	say := func(kind error, format string, a ...any) error {
		return fmt.Errorf("%s: %w (%s)", fmt.Sprintf(format, a...), kind, text)
	}
	var status remoteserrors.ErrUnexpectedStatus
	code := 0
	if errors.As(err, &status) {
		code = status.StatusCode
	}
	var unreachable net.Error
	switch {
	case errors.Is(err, docker.ErrInvalidAuthorization), code == http.StatusUnauthorized, code == http.StatusForbidden,
		strings.Contains(text, "authorization failed"), strings.Contains(text, "no basic auth credentials"):
		if r.login.Username == "" {
			return say(errdefs.ErrUnauthenticated, "registry %s lets nobody in without a login, or has no such image", r.host)
		}
		return say(errdefs.ErrUnauthenticated, "registry %s refuses the login of user %s", r.host, r.login.Username)
	case errdefs.IsNotFound(err), code == http.StatusNotFound:
		return say(errdefs.ErrNotFound, "registry %s has no such image", r.host)
	case code == http.StatusTooManyRequests:
		return say(errdefs.ErrUnavailable, "registry %s asks us to come later", r.host)
	case code >= 500:
		return say(errdefs.ErrUnavailable, "registry %s is out of order", r.host)
	case code != 0:
		return say(errdefs.ErrFailedPrecondition, "%s does not answer as a registry", r.host)
	case errors.Is(err, io.ErrUnexpectedEOF):
		return say(errdefs.ErrUnavailable, "registry %s breaks off", r.host)
	case errors.As(err, &unreachable):
		return say(errdefs.ErrUnavailable, "registry %s cannot be reached", r.host)
	}
	return fmt.Errorf("registry %s: %w", r.host, hidden{err, text})
}

// hidden is an error whose text is another.
type hidden struct {
	error
	text string
}

func (h hidden) Error() string { return h.text }
func (h hidden) Unwrap() error { return h.error }
