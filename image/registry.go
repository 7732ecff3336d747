package image

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"

	"cuelabs.dev/go/oci/ociregistry"
	"cuelabs.dev/go/oci/ociregistry/ociref"
	"cuelabs.dev/go/oci/ociregistry/ociserver"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"slipway/access"
	"slipway/db"
	"slipway/project"
)

// Handler serves the OCI distribution API on /v2/. other answers what has no
// OCI shape. authenticate gives the zero Actor, or errdefs.ErrUnauthenticated,
// for a request without a token; a wrong token is errdefs.ErrUnauthenticated.
func (i *Images) Handler(authenticate func(*http.Request) (access.Actor, error), other http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s, repo, last := parsePath(r.URL.Path)
		if s == notOCI {
			other.ServeHTTP(w, r)
			return
		}
		w.Header().Set("Docker-Distribution-API-Version", "registry/2.0")
		by, err := authenticate(r)
		if errdefs.IsUnauthorized(err) && r.Header.Get("Authorization") == "" && r.Header.Get("X-Access-Token") == "" {
			by, err = access.Actor{}, nil // a stranger; public repositories are open to all
		}
		b := &backend{i: i, by: by, append: r.Header.Get("Content-Range") == ""}
		if err != nil {
			b.fail(w, r, err)
			return
		}
		next, err := b.admit(w, r, s, repo, last)
		if err != nil {
			b.fail(w, r, err)
			return
		}
		if next == nil {
			return // answered
		}
		ociserver.New(b, &ociserver.Options{WriteError: b.fail, DebugID: "image"}).ServeHTTP(w, next)
	})
}

// backend is the registry for one request.
type backend struct {
	*ociregistry.Funcs
	i      *Images
	by     access.Actor
	append bool // the request says nothing of where its bytes belong
	repo   repository
	list   []string // of the request for the catalog, or for the tags of repo
	failed error    // what really went wrong, where ociserver drops it
}

// admit checks that the actor may do what the request wants, and mends what
// ociserver does not do well. A nil request has been answered.
func (b *backend) admit(w http.ResponseWriter, r *http.Request, s shape, repo, last string) (*http.Request, error) {
	if s == ping || s == catalog {
		if !b.by.Known() {
			return r, ociregistry.ErrUnauthorized
		}
		if s == ping || r.Method != http.MethodGet {
			return r, nil
		}
		var err error
		if b.list, err = b.repositories(r.Context(), r.URL.Query().Get("last")); err != nil || len(b.list) > 0 {
			return r, err
		}
		return nil, writeList(w, map[string]any{"repositories": []string{}})
	}
	scope := access.ImageWrite
	if r.Method == http.MethodGet || r.Method == http.MethodHead {
		scope = access.ImageRead
	}
	if s == upload && r.Method == http.MethodGet {
		scope = access.ImageWrite
	}
	if !ociref.IsValidRepository(repo) || len(repo) > maxRepoName {
		return r, ociregistry.ErrNameInvalid
	}
	var err error
	if b.repo, err = b.enter(r.Context(), repo, scope); err != nil {
		return r, err
	}
	switch {
	case s == manifests && r.Method == http.MethodPut:
		return b.checkManifest(r, last)
	case s == uploads && r.URL.Query().Has("mount"):
		return b.checkMount(r)
	case s == tags && r.Method == http.MethodGet:
		if b.list, err = b.tags(r.Context(), r.URL.Query().Get("last")); err != nil || len(b.list) > 0 {
			return r, err
		}
		return nil, writeList(w, map[string]any{"name": repo, "tags": []string{}})
	case s == referrers && r.Method == http.MethodGet && ociref.IsValidDigest(last):
		return nil, b.writeReferrers(w, r, last)
	case s == upload && r.Method == http.MethodDelete:
		if err := b.cancelUpload(r.Context(), last); err != nil {
			return r, err
		}
		w.WriteHeader(http.StatusNoContent)
		return nil, nil
	}
	return r, nil
}

// enter finds a repository for an actor. For a writer one that is not there
// yet has the id 0.
func (b *backend) enter(ctx context.Context, name string, scope access.Scope) (r repository, err error) {
	unknown := ociregistry.NewError(fmt.Sprintf("repository %s is not known", name), ociregistry.ErrNameUnknown.Code(), nil)
	domain, ok := domainOf(name)
	if !ok {
		return r, ociregistry.NewError(fmt.Sprintf("repository %s: names have the form <workspace>/<name>", name), ociregistry.ErrNameInvalid.Code(), nil)
	}
	err = b.i.db.Read(ctx, func(tx *db.Tx) error {
		if r, err = findRepository(tx, name); !errdefs.IsNotFound(err) {
			return err
		}
		ws, err := project.FindWorkspace(tx, domain)
		if err == nil && ws.Domain != domain { // found by its UUID
			err = errdefs.ErrNotFound
		}
		r = repository{workspace: ws.ID, Repository: Repository{Name: name}}
		return err
	})
	if err != nil && !errdefs.IsNotFound(err) {
		return r, err
	}
	found := err == nil
	if found {
		err = b.by.May(r.workspace, scope)
		if err == nil && (r.id != 0 || scope == access.ImageWrite) {
			return r, nil
		}
	}
	// the actor may not, or there is no such thing: a public repository is open
	// to readers, and nobody learns what else there is
	if found && r.id != 0 && scope == access.ImageRead {
		if open, perr := b.i.public(ctx, r); perr != nil || open {
			return r, perr
		}
	}
	switch {
	case !b.by.Known():
		return r, ociregistry.ErrUnauthorized
	case found && b.by.Sees(r.workspace) && err != nil:
		return r, ociregistry.NewError(fmt.Sprintf("repository %s: %v", name, err), ociregistry.ErrDenied.Code(), nil)
	}
	return r, unknown
}

// publicProject tells whether a repository has the name of a public project.
func (i *Images) publicProject(ctx context.Context, name string) (bool, error) {
	domain, rest, _ := strings.Cut(name, "/")
	first, _, _ := strings.Cut(rest, "/")
	p, err := i.projects.Find(ctx, access.System(access.User{}), domain, first)
	if errdefs.IsNotFound(err) {
		return false, nil
	}
	return p.Public, err
}

// checkManifest reads a manifest that is pushed, which ociserver would read
// without a bound and judge without its reasons.
func (b *backend) checkManifest(r *http.Request, ref string) (*http.Request, error) {
	bad := func(format string, a ...any) (*http.Request, error) {
		return r, ociregistry.NewError(fmt.Sprintf(format, a...), ociregistry.ErrManifestInvalid.Code(), nil)
	}
	if !ociref.IsValidDigest(ref) && !ociref.IsValidTag(ref) {
		return bad("%q is neither a tag nor a digest", short(ref))
	}
	body, err := io.ReadAll(http.MaxBytesReader(nil, r.Body, maxManifest))
	var big *http.MaxBytesError
	if errors.As(err, &big) {
		return r, ociregistry.NewHTTPError(fmt.Errorf("a manifest has at most %d bytes", maxManifest), http.StatusRequestEntityTooLarge, nil, nil)
	}
	if err != nil {
		return bad("the manifest was cut off: %v", err)
	}
	media := r.Header.Get("Content-Type")
	if media == "application/octet-stream" || media == "application/json" {
		media = ""
	}
	c, err := readContent(media, body)
	if err != nil {
		return bad("%v", err)
	}
	if d, derr := digest.Parse(ref); derr == nil && d.Algorithm().FromBytes(body) != d {
		return r, ociregistry.NewError(fmt.Sprintf("the manifest has the digest %s, not %s", d.Algorithm().FromBytes(body), d), ociregistry.ErrDigestInvalid.Code(), nil)
	}
	r = r.Clone(r.Context())
	r.Body = io.NopCloser(bytes.NewReader(body))
	r.ContentLength = int64(len(body))
	r.Header.Set("Content-Type", c.MediaType)
	return r, nil
}

// checkMount turns a mount that cannot be into an ordinary upload, as clients
// expect.
func (b *backend) checkMount(r *http.Request) (*http.Request, error) {
	q := r.URL.Query()
	from, d := q.Get("from"), q.Get("mount")
	if ociref.IsValidRepository(from) && ociref.IsValidDigest(d) {
		ok, err := b.mountable(r.Context(), from, d)
		if err != nil || ok {
			return r, err
		}
	}
	q.Del("mount")
	q.Del("from")
	r = r.Clone(r.Context())
	r.URL.RawQuery = q.Encode()
	return r, nil
}

// mountable tells whether the actor may pull a blob of another repository.
func (b *backend) mountable(ctx context.Context, from, d string) (bool, error) {
	r, err := b.enter(ctx, from, access.ImageRead)
	var oci ociregistry.Error
	if errors.As(err, &oci) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	_, err = b.i.statBlob(ctx, r.id, d)
	if errdefs.IsNotFound(err) {
		return false, nil
	}
	return err == nil, err
}

// fail writes an error in the OCI shape. What is our own fault is logged and
// not shown.
func (b *backend) fail(w http.ResponseWriter, r *http.Request, err error) {
	if b.failed != nil {
		err = b.failed
	}
	err = asOCI(err)
	body, status := ociregistry.MarshalError(err)
	if status >= http.StatusInternalServerError && status != http.StatusInsufficientStorage {
		slog.Error("registry", "room", "image", "method", r.Method, "path", r.URL.Path, "error", err)
		body, _ = json.Marshal(ociregistry.WireErrors{Errors: []ociregistry.WireError{{Code_: "UNKNOWN", Message: "the server failed; its log says why"}}})
	}
	h := w.Header()
	if status == http.StatusUnauthorized {
		h.Set("WWW-Authenticate", `Basic realm="slipway"`)
	}
	h.Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		_, _ = w.Write(body)
	}
}

// asOCI gives an error of ours its code.
func asOCI(err error) error {
	var oci ociregistry.Error
	var coded ociregistry.HTTPError
	switch {
	case errors.As(err, &oci):
		return err
	case errors.As(err, &coded):
		if coded.StatusCode() == http.StatusRequestedRangeNotSatisfiable {
			return ociregistry.NewError(err.Error(), ociregistry.ErrRangeInvalid.Code(), nil)
		}
		return err
	case errdefs.IsUnauthorized(err):
		return ociregistry.ErrUnauthorized
	case errdefs.IsPermissionDenied(err):
		return ociregistry.NewError(err.Error(), ociregistry.ErrDenied.Code(), nil)
	case errdefs.IsResourceExhausted(err):
		return ociregistry.NewHTTPError(err, http.StatusInsufficientStorage, nil, nil)
	case errors.Is(err, context.Canceled):
		return ociregistry.NewHTTPError(err, statusGone, nil, nil)
	}
	return err
}

// statusGone is for the log only: the client does not read it any more.
const statusGone = 499

func short(s string) string {
	if len(s) > 100 {
		return s[:100] + "..."
	}
	return s
}
