package source

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"slipway/db"
	"slipway/project"
	"slipway/secret"
)

// Push is the data of event.Pushed: one updated ref. Old and New are commits,
// of an annotated tag those that it stands for. New is zeros for a deleted ref,
// Old for a new one.
type Push struct {
	Ref    string `json:"ref"` // refs/heads/main
	Old    string `json:"old"`
	New    string `json:"new"`
	User   int64  `json:"user"`
	Remote bool   `json:"remote,omitempty"` // seen at an outside repository
}

// Pull is the data of event.PullPushed: something has happened to a pull request.
type Pull struct {
	Number string `json:"number"`
	Ref    string `json:"ref"`  // refs/pull/12/head
	Old    string `json:"old"`  // commit; zeros if it is new
	New    string `json:"new"`  // zeros if it is gone
	Base   string `json:"base"` // the branch that it goes to
	Head   string `json:"head"` // the branch of the same repository that it is of, if that is known
	What   string `json:"what"` // PullOpened and so on
	User   int64  `json:"user"`
}

// What may have happened to a pull request, in the words of forges, of which these
// are known by its ref alone.
const (
	PullOpened  = "opened"
	PullPushed  = "synchronize"
	PullClosed  = "closed"
	PullReopens = "reopened"
)

// Fork tells whether its commits may be those of somebody who may not push to the
// repository.
func (p Pull) Fork() bool { return p.Head == "" }

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
	Commit  string // of an annotated tag the commit it stands for
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
	MaxPush int64  // bytes a push, or a fetch of a mirror, may bring at once; 0 is 2 GiB
	Private bool   // outside URLs may lead to private addresses
	Public  string // URL of this server, by which submodules may name its projects; "" is none

	// Room tells why no push and no file may come in (too little free disk); nil
	// never does.
	Room func() error
}

// CheckoutSpec says what a work tree is to look like.
type CheckoutSpec struct {
	Revision string // full hash
	Branch   string // checked out under this name; "" is a detached HEAD
	Ref      string // where an outside repository has the commit, if at no branch or tag
	Depth    int    // commits; 0 is all
	AllRefs  bool   // with the branches and tags of an outside repository, too
	Dir      string // absolute path of the work tree, which may hold earlier files and is not trusted
	Key      string // of the work tree: what is remembered of it between checkouts
	Fresh    bool   // Dir was emptied: forget what is remembered
	Of       string // key of the work tree that Dir is a copy of, if it is new and one
	Modules  *Modules
	Out      func(line string)
}

// Modules says that a checkout has its submodules too, and how they are come by.
// Without it their folders are empty.
type Modules struct {
	By  int64  // user in whose name projects of this server are read; 0 is nobody: public ones alone
	Key string // name of the variable of the project, or its workspace, with the key for ssh; "" is none

	// Bare says that nothing is opened with a login or a key, and no project that
	// is not public: whoever wrote the commit need not be one who may use them.
	Bare bool
}

// Content is a file or directory of a commit.
type Content struct {
	Path    string
	Dir     bool
	Link    bool // a symbolic link; Data is where it leads
	Module  bool // a submodule, which is an empty directory
	Size    int64
	Data    []byte    // of a file
	Entries []Content // of a directory, without their data
}

// zeros is the hash of what is not there.
const zeros = "0000000000000000000000000000000000000000"

// Sources is the front door.
type Sources struct {
	cfg      Config
	db       *db.DB
	projects *project.Projects
	secrets  *secret.Secrets
	git      program
	locks    locks
	seen     looks
	idle     time.Duration // a client that says nothing for so long is gone
	patience time.Duration // so long an outside repository may keep waiting who asked

	mu      sync.Mutex
	untold  map[project.ID]bool // refs moved and telling it failed
	whole   map[project.ID]bool // all of the outside is to be fetched; whether that has begun
	wake    chan struct{}       // untold or whole has something new
	refresh map[project.ID]time.Time
}

// New makes the front door. It fails with a message for the operator when git
// is missing or too old.
func New(cfg Config, d *db.DB, p *project.Projects, s *secret.Secrets) (*Sources, error) {
	if cfg.MaxPush <= 0 {
		cfg.MaxPush = 2 << 30
	}
	if cfg.Public == "" {
		cfg.Public = "http://slipway.invalid" // what relative URLs are relative to
	}
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("source: %w", err)
	}
	cfg.Dir = dir
	g, err := findGit(context.Background())
	if err != nil {
		return nil, err
	}
	for _, name := range []string{"repos", "mirrors", "work"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o700); err != nil {
			return nil, fmt.Errorf("source: %w", err)
		}
	}
	return &Sources{
		cfg: cfg, db: d, projects: p, secrets: s, git: g,
		idle: time.Minute, patience: asking,
		locks:   locks{held: map[string]*held{}},
		untold:  map[project.ID]bool{},
		whole:   map[project.ID]bool{},
		wake:    make(chan struct{}, 1),
		refresh: map[project.ID]time.Time{},
	}, nil
}

// URL is the path below the public URL where the repository is served.
func URL(workspace, name string) string { return "/git/" + workspace + "/" + name + ".git" }

// closer is a reader with an own way to end.
type closer struct {
	io.Reader
	close func() error
}

func (c closer) Close() error { return c.close() }
