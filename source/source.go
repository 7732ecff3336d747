// Package source is git: every project's own bare repository served over smart
// HTTP, mirrors of outside ones, and checkouts for pipelines and builds.
package source

import (
	"context"
	"io"
	"net/http"
	"time"

	"slipway/access"
	"slipway/db"
	"slipway/project"
	"slipway/secret"
)

// Push is the data of event.Pushed: one updated ref. New is zeros for a
// deleted ref, Old for a new one.
type Push struct {
	Ref    string `json:"ref"` // refs/heads/main
	Old    string `json:"old"`
	New    string `json:"new"`
	User   int64  `json:"user"`
	Remote bool   `json:"remote,omitempty"` // seen at an outside repository
}

// Commit is one commit.
type Commit struct {
	Revision   string
	Subject    string
	Message    string
	Author     Person
	Committer  Person
	AuthorDate time.Time
	CommitDate time.Time
}

// Person made a commit.
type Person struct{ Name, Email string }

// Ref is a branch or tag.
type Ref struct {
	Name    string // refs/heads/main
	Commit  string
	Default bool
}

// Remote is an outside repository that a project is linked to.
type Remote struct {
	URL        string // without credentials
	Username   string
	Password   string
	PrivateKey []byte // of an ssh deploy key
}

// Config is what the room is told by serve.
type Config struct {
	Dir     string // its own: repositories, mirrors, work indexes
	MaxPush int64  // bytes a push may bring; 0 is 2 GiB
	Private bool   // outside URLs may lead to private addresses
}

// Sources is the front door.
type Sources struct {
	cfg      Config
	db       *db.DB
	projects *project.Projects
	secrets  *secret.Secrets
}

// New makes the front door.
func New(cfg Config, d *db.DB, p *project.Projects, s *secret.Secrets) (*Sources, error) {
	return &Sources{cfg, d, p, s}, nil
}

// Handler serves /git/<workspace>/<project>.git; authenticate finds the actor
// of a request, or writes the refusal and gives ok false.
func (s *Sources) Handler(authenticate func(http.ResponseWriter, *http.Request) (by access.Actor, ok bool)) http.Handler {
	panic("unwritten")
}

// SetRemote links a project to an outside repository, or with a nil remote to
// its own again.
func (s *Sources) SetRemote(ctx context.Context, by access.Actor, id project.ID, r *Remote) error {
	panic("unwritten")
}

// Remote gives the outside repository of a project without its secrets, or nil.
func (s *Sources) Remote(ctx context.Context, id project.ID) (*Remote, error) { panic("unwritten") }

// Refs lists branches and tags of the own repository or the mirror.
func (s *Sources) Refs(ctx context.Context, by access.Actor, id project.ID) ([]Ref, error) {
	panic("unwritten")
}

// DefaultBranch is "main" until the first push names another.
func (s *Sources) DefaultBranch(ctx context.Context, id project.ID) (string, error) {
	panic("unwritten")
}

// Resolve finds the commit of a revision: a full or short hash, a ref, a
// branch, a tag, or HEAD of branch ("" is the default one). A linked project
// asks the outside repository. It gives nil, nil for HEAD of a repository with
// no commit; errdefs.ErrNotFound names an unknown revision.
func (s *Sources) Resolve(ctx context.Context, id project.ID, branch, revision string) (*Commit, error) {
	panic("unwritten")
}

// CheckoutSpec says what a work tree is to look like.
type CheckoutSpec struct {
	Revision string // full hash
	Branch   string // checked out under this name; "" is a detached HEAD
	Depth    int    // commits; 0 is all
	Dir      string // absolute path of the work tree, which may hold earlier files and is not trusted
	Key      string // of the work tree: what is remembered of it between checkouts
	Fresh    bool   // Dir is empty: forget what is remembered
	Out      func(line string)
}

// Checkout brings Dir to a commit: files of git are as in the commit, others
// stay, and .git is a repository of its own without credentials or config of
// whoever wrote into Dir before. Nothing that lies in Dir is run or followed
// out of it.
func (s *Sources) Checkout(ctx context.Context, id project.ID, spec CheckoutSpec) error {
	panic("unwritten")
}

// Archive gives the files of a commit below dir as a tar, exactly as a
// checkout would have them.
func (s *Sources) Archive(ctx context.Context, id project.ID, revision, dir string) (io.ReadCloser, error) {
	panic("unwritten")
}

// Content is a file or directory of a commit.
type Content struct {
	Path    string
	Dir     bool
	Size    int64
	Data    []byte    // of a file
	Entries []Content // of a directory, without their data
}

// Read gives a file or directory at a revision.
func (s *Sources) Read(ctx context.Context, by access.Actor, id project.ID, revision, path string) (Content, error) {
	panic("unwritten")
}

// Write commits one file on a branch, as a push would; data nil removes it. It
// makes the first commit of an empty repository.
func (s *Sources) Write(ctx context.Context, by access.Actor, id project.ID, branch, path string, data []byte, message string) (Commit, error) {
	panic("unwritten")
}

// URL is the path below the public URL where the repository is served.
func URL(workspace, name string) string { return "/git/" + workspace + "/" + name + ".git" }

// Run repeats what is unfinished (a push whose event is missing), prunes old
// mirrors and removes repositories of projects that are gone, until ctx ends.
func (s *Sources) Run(ctx context.Context) error { panic("unwritten") }
