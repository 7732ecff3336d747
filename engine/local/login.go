package local

import (
	"context"
	"fmt"
	"io"
	"mime"
	"net/http"

	remoteserrors "github.com/containerd/containerd/v2/core/remotes/errors"
	"github.com/containerd/errdefs"

	"slipway/engine"
)

// checkLogin asks a host for the root of the registry API. The way there is
// that of pulls; only a login is never tried at a mirror, which does not get it
// at a pull either.
func (e *Engine) checkLogin(ctx context.Context, l engine.Login) error {
	places, err := e.hosts(canonicalHost(l.Host), []engine.Login{l})
	if err != nil {
		return err
	}
	at := places[0]
	if l.Username != "" {
		at = places[len(places)-1]
	}
	r := &registry{host: l.Host, login: at.login}
	resp, err := at.root(ctx)
	if errdefs.IsNotImplemented(err) { // it asks for something that no registry asks for
		return noRegistry(l.Host)
	}
	if err != nil {
		return r.explain(ctx, err)
	}
	defer resp.Body.Close()
	switch code := resp.StatusCode; {
	case code == http.StatusOK && registryLike(resp),
		code == http.StatusUnauthorized && l.Username == "" && resp.Header.Get("WWW-Authenticate") != "":
		return nil
	case l.Username != "" && (code == http.StatusUnauthorized || code == http.StatusForbidden), code == http.StatusTooManyRequests, code >= 500:
		return r.explain(ctx, remoteserrors.NewUnexpectedStatusErr(resp))
	}
	return noRegistry(l.Host)
}

func noRegistry(host string) error {
	return fmt.Errorf("%s does not answer as a registry: %w", host, errdefs.ErrFailedPrecondition)
}

// registryLike tells the answer of a registry from a page that some server has
// for every path.
func registryLike(resp *http.Response) bool {
	media, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	return resp.Header.Get("Docker-Distribution-API-Version") != "" || media == "application/json" || resp.ContentLength == 0
}

// root gets the root of the API, with the login if that is asked for.
func (p endpoint) root(ctx context.Context) (*http.Response, error) {
	var seen []*http.Response
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.Scheme+"://"+p.Host+p.Path+"/", nil)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errdefs.ErrInvalidArgument, err)
		}
		req.Header.Set("User-Agent", "slipway")
		if err := p.Authorizer.Authorize(ctx, req); err != nil {
			return nil, err
		}
		resp, err := p.Client.Do(req)
		seen = append(seen, resp)
		if err != nil || resp.StatusCode != http.StatusUnauthorized || len(seen) > 1 || p.login.Username == "" {
			return resp, err
		}
		if err := p.Authorizer.AddResponses(ctx, seen); err != nil {
			resp.Body.Close()
			return nil, err
		}
		_, _ = io.CopyN(io.Discard, resp.Body, 1<<16) // so that the connection is used again
		resp.Body.Close()
	}
}
