package local

import (
	"context"
	"net/http"
	"sync"

	"github.com/containerd/containerd/v2/core/remotes/docker"
)

// oneByOne lets one request of a registry at a time ask for its token. The
// authorizer of containerd looks at the end of a token's time while another
// request writes it; those that wait would wait for the same token anyway.
type oneByOne struct {
	mu sync.Mutex
	docker.Authorizer
}

// Authorize implements docker.Authorizer.
func (o *oneByOne) Authorize(ctx context.Context, r *http.Request) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.Authorizer.Authorize(ctx, r)
}

// AddResponses implements docker.Authorizer.
func (o *oneByOne) AddResponses(ctx context.Context, l []*http.Response) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.Authorizer.AddResponses(ctx, l)
}
