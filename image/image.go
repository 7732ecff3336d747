// Package image is the registry: repositories of a workspace, their tags, the
// OCI distribution API over them, and where any image reference leads to.
package image

import (
	"context"
	"io"
	"net/http"
	"time"

	"slipway/access"
	"slipway/db"
	"slipway/engine"
	"slipway/project"
)

// Tagged is the data of event.ImageTagged.
type Tagged struct {
	Repository string `json:"repository"` // <workspace>/<name>
	Tag        string `json:"tag"`
	Digest     string `json:"digest"`
	User       int64  `json:"user"`
}

// Tag is a name of an image.
type Tag struct {
	Repository string // <workspace domain>/<name>; for an outside one the full name with host
	Tag        string
	Digest     string
	ConfigID   string // hex of the config digest
	Own        bool   // of the own registry; else loaded or pulled
	Updated    time.Time
}

// Repository is a named set of images.
type Repository struct {
	Name          string
	Public        bool
	Pulls, Pushes int64
	Pulled        time.Time
	Pushed        time.Time
}

// Config is what the room is told by serve.
type Config struct {
	// Hosts are the names that mean the own registry: host of the public URL,
	// the listen address, and slipway.local.
	Hosts []string
}

// Images is the front door.
type Images struct {
	cfg      Config
	db       *db.DB
	projects *project.Projects
	store    engine.Images
	blobs    engine.Blobs
}

// New makes the front door.
func New(cfg Config, d *db.DB, p *project.Projects, store engine.Images, blobs engine.Blobs) *Images {
	return &Images{cfg, d, p, store, blobs}
}

// Handler serves the OCI distribution API on /v2/. other answers what has no
// OCI shape, challenge writes the 401 of an OCI path.
func (i *Images) Handler(authenticate func(*http.Request) (access.Actor, error), other http.Handler) http.Handler {
	panic("unwritten")
}

// Own takes a reference apart if it means the own registry: host is one of
// ours. name is without host and tag ("<workspace>/<name>").
func (i *Images) Own(ref string) (name, tag, digest string, own bool) { panic("unwritten") }

// Normalize completes a reference as a source: "nginx" becomes
// "docker.io/library/nginx:latest". Bad ones are a *project.Invalid with an
// empty path.
func Normalize(ref string) (string, error) { panic("unwritten") }

// Resolve finds the image of a reference for a workspace and brings it into
// the store if need be: own ones from the store (only those the workspace may
// see), others by the pull rules (latest and refresh ask the registry by HEAD;
// unreachable with a local copy: that one, with a warning). It holds the image
// for a day.
func (i *Images) Resolve(ctx context.Context, r Request) (engine.Image, error) { panic("unwritten") }

// Request is one question of Resolve.
type Request struct {
	Workspace string // UUID
	Ref       string // as the user wrote it
	Platform  string
	Refresh   bool
	Logins    []engine.Login
	Warn      func(line string)
}

// Lookup is Resolve without any network: the digest of an own, loaded or
// pulled image; errdefs.ErrNotFound else. It is made for engine.BuildSpec.
func (i *Images) Lookup(ctx context.Context, workspace, ref string) (string, error) {
	panic("unwritten")
}

// Tag points names of the own registry (<workspace>/<name>:<tag>) at an image
// of the store, all or none, with their events, in one transaction.
func (i *Images) Tag(ctx context.Context, by access.Actor, workspace, digest string, names ...string) error {
	panic("unwritten")
}

// TagIn is Tag in a transaction of the caller's; the image is held already.
func (i *Images) TagIn(tx *db.Tx, by access.Actor, workspace, digest string, names ...string) error {
	panic("unwritten")
}

// Load stores the images of an archive; name renames the only one of it.
func (i *Images) Load(ctx context.Context, by access.Actor, workspace, name string, archive io.Reader) ([]Tag, error) {
	panic("unwritten")
}

// Repositories lists the repositories of a workspace.
func (i *Images) Repositories(ctx context.Context, by access.Actor, workspace string) ([]Repository, error) {
	panic("unwritten")
}

// Tags lists the tags of a repository, newest first; name "" is all of the
// workspace, loaded and pulled ones too.
func (i *Images) Tags(ctx context.Context, by access.Actor, workspace, name string) ([]Tag, error) {
	panic("unwritten")
}

// Untag removes a tag.
func (i *Images) Untag(ctx context.Context, by access.Actor, workspace, name, tag string) error {
	panic("unwritten")
}

// Run keeps the holds of the store true to the rows (tags, and what other
// rooms hold by Keep) until ctx ends.
func (i *Images) Run(ctx context.Context) error { panic("unwritten") }

// Keep holds an image in the name of something else ("revision/<id>",
// "execution/<id>/<action>") in the caller's transaction, until the time or
// until it is dropped. Resolve, Build and PutManifest hold it long enough for
// the transaction to be in time.
func Keep(tx *db.Tx, id, digest string, until time.Time) error { panic("unwritten") }

// Drop ends a Keep.
func Drop(tx *db.Tx, id string) error { panic("unwritten") }
