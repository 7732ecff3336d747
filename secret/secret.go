// Package secret keeps what must not be read from the disk: the master key,
// variables and registry logins.
package secret

import (
	"context"
	"time"

	"slipway/access"
	"slipway/db"
	"slipway/project"
)

// Encrypted stands for a secret value in every answer; sent back it means
// unchanged.
const Encrypted = "!encrypted"

// Box seals and opens with the master key.
type Box struct{}

// OpenBox reads the master key in file, or makes it (0600).
func OpenBox(file string) (*Box, error) { panic("unwritten") }

// Seal encrypts text bound to a row: opening it as another row's fails.
func (b *Box) Seal(text []byte, row string) ([]byte, error) { panic("unwritten") }

// Open decrypts what Seal gave.
func (b *Box) Open(sealed []byte, row string) ([]byte, error) { panic("unwritten") }

// Scope is where a variable or login holds; the narrowest set field says.
type Scope struct {
	Workspace string     // UUID, always set
	Project   project.ID // or ""
	Pipeline  int64      // or 0
	Action    int64      // or 0
}

// Variable is a named value for pipelines.
type Variable struct {
	ID          int64
	Scope       Scope
	Key         string
	Value       string // Encrypted when it is read through the front door and is encrypted
	Type        string // VAR, FILE, SSH_KEY
	Description string
	Encrypted   bool
	Settable    bool
	FilePlace   string // NONE or CONTAINER
	FilePath    string
	FileMode    string
	Updated     time.Time
}

// Login is the login of a registry.
type Login struct {
	ID          string // UUID
	Project     project.ID
	Description string
	Host        string // "host[:port]"
	Username    string
	Password    string // Encrypted when read through the front door
	Valid       bool   // as found by the last check
	Checked     time.Time
}

// Secrets is the front door.
type Secrets struct {
	db       *db.DB
	box      *Box
	projects *project.Projects
}

// New makes the front door.
func New(d *db.DB, b *Box, p *project.Projects) *Secrets { return &Secrets{d, b, p} }

// Box gives the box, for rooms that seal columns of their own.
func (s *Secrets) Box() *Box { return s.box }

// CreateVariable makes a variable.
func (s *Secrets) CreateVariable(ctx context.Context, by access.Actor, v Variable) (Variable, error) {
	panic("unwritten")
}

// Variables lists the variables of exactly that scope.
func (s *Secrets) Variables(ctx context.Context, by access.Actor, at Scope) ([]Variable, error) {
	panic("unwritten")
}

// UpdateVariable replaces a variable but for id and scope.
func (s *Secrets) UpdateVariable(ctx context.Context, by access.Actor, v Variable) (Variable, error) {
	panic("unwritten")
}

// DeleteVariable removes a variable.
func (s *Secrets) DeleteVariable(ctx context.Context, by access.Actor, id int64) error {
	panic("unwritten")
}

// Effective gives the variables that hold at a scope with their true values,
// narrower ones winning. It is for the runner, at the moment of a call.
func (s *Secrets) Effective(ctx context.Context, at Scope) ([]Variable, error) { panic("unwritten") }

// CreateLogin, Logins, UpdateLogin and DeleteLogin keep the logins of a project.
func (s *Secrets) CreateLogin(ctx context.Context, by access.Actor, l Login) (Login, error) {
	panic("unwritten")
}

// Logins lists the logins of a project.
func (s *Secrets) Logins(ctx context.Context, by access.Actor, id project.ID) ([]Login, error) {
	panic("unwritten")
}

// UpdateLogin replaces a login but for its id and project.
func (s *Secrets) UpdateLogin(ctx context.Context, by access.Actor, l Login) (Login, error) {
	panic("unwritten")
}

// DeleteLogin removes a login.
func (s *Secrets) DeleteLogin(ctx context.Context, by access.Actor, id string) error {
	panic("unwritten")
}

// OpenLogins gives the logins of a project with their passwords, for the
// engine, at the moment of a call.
func (s *Secrets) OpenLogins(ctx context.Context, id project.ID) ([]Login, error) {
	panic("unwritten")
}
