// Package access says who is asking and what they may do: users, tokens with
// scopes, members of workspaces, and Actor, which every front door takes as the
// parameter by.
package access

import (
	"context"
	"time"

	"slipway/db"
)

// Scope is a right that a token carries. The words are those of the richest
// dialect; a wider scope includes the narrower ones.
type Scope string

// Scopes.
const (
	Workspace        Scope = "WORKSPACE"         // read workspaces and projects
	WorkspacesManage Scope = "WORKSPACES_MANAGE" // make and change workspaces
	ProjectManage    Scope = "PROJECT_MANAGE"    // make and change projects; ours
	ProjectDelete    Scope = "PROJECT_DELETE"
	RepositoryRead   Scope = "REPOSITORY_READ"
	RepositoryWrite  Scope = "REPOSITORY_WRITE" // includes read
	ExecutionInfo    Scope = "EXECUTION_INFO"
	ExecutionRun     Scope = "EXECUTION_RUN"    // includes info
	ExecutionManage  Scope = "EXECUTION_MANAGE" // includes run
	StackRead        Scope = "STACK_READ"       // ours: stacks, services, volumes, ingresses, logs
	StackWrite       Scope = "STACK_WRITE"      // ours; includes read
	ImageRead        Scope = "IMAGE_READ"       // ours: pull
	ImageWrite       Scope = "IMAGE_WRITE"      // ours: push, load, delete; includes read
	VariableInfo     Scope = "VARIABLE_INFO"
	VariableAdd      Scope = "VARIABLE_ADD"
	VariableManage   Scope = "VARIABLE_MANAGE"
	TokenInfo        Scope = "TOKEN_INFO"
	TokenManage      Scope = "TOKEN_MANAGE"
	UserInfo         Scope = "USER_INFO"
)

// Role is what a user is in a workspace.
type Role string

// Roles.
const (
	Owner  Role = "OWNER"
	Member Role = "MEMBER"
)

// User is a person, or a machine with tokens of its own.
type User struct {
	ID       int64
	UUID     string
	Username string
	Name     string
	Email    string
	Created  time.Time
}

// Token is a token without its secret.
type Token struct {
	ID         string
	User       int64
	Name       string
	Scopes     []Scope
	Workspaces []string // ids of the workspaces it is bound to; none: all of the user's
	IPs        []string // addresses or prefixes it may come from; none: any
	Created    time.Time
	Expires    time.Time // zero: never
	LastUsed   time.Time
}

// Actor is who asks. The zero Actor may do nothing. Handlers get it from
// Authenticate, loops of our own from System.
type Actor struct {
	User   User
	Token  Token
	system bool
	roles  map[string]Role // by workspace id
}

// System is the server itself, asking in the name of nobody or of a user whose
// earlier wish it carries out.
func System(u User) Actor { return Actor{User: u, system: true} }

// Known tells whether somebody asks at all.
func (a Actor) Known() bool { return a.system || a.User.ID != 0 }

// Sees tells whether the workspace exists for the actor.
func (a Actor) Sees(workspace string) bool { panic("unwritten") }

// May tells whether the actor may do what the scope stands for in a workspace:
// nil, errdefs.ErrNotFound for a workspace it does not see, or
// errdefs.ErrPermissionDenied naming the scope.
func (a Actor) May(workspace string, s Scope) error { panic("unwritten") }

// Has is May for what belongs to no workspace.
func (a Actor) Has(s Scope) error { panic("unwritten") }

// Access is the front door.
type Access struct {
	db *db.DB
}

// New makes the front door.
func New(d *db.DB) *Access { return &Access{db: d} }

// Bootstrap makes the first user with a token of every scope and calls made,
// in the same transaction, to make what belongs to it. It does nothing, and
// gives "", if there is a user.
func (a *Access) Bootstrap(ctx context.Context, username string, made func(*db.Tx, User) error) (secret string, err error) {
	panic("unwritten")
}

// Authenticate finds the actor of a secret ("slw_..."). errdefs.ErrUnauthenticated
// if there is none, it has expired or the address is not allowed.
func (a *Access) Authenticate(ctx context.Context, secret, ip string) (Actor, error) {
	panic("unwritten")
}

// NewToken is what a token is made of.
type NewToken struct {
	Name       string
	Scopes     []Scope
	Workspaces []string
	IPs        []string
	Expires    time.Time
}

// CreateToken makes a token of the actor's user. It never carries more than
// the token it was made with. The secret is given here and nowhere else.
func (a *Access) CreateToken(ctx context.Context, by Actor, n NewToken) (Token, string, error) {
	panic("unwritten")
}

// Tokens lists the actor's tokens, oldest first.
func (a *Access) Tokens(ctx context.Context, by Actor) ([]Token, error) { panic("unwritten") }

// DeleteToken ends a token at once.
func (a *Access) DeleteToken(ctx context.Context, by Actor, id string) error { panic("unwritten") }

// User gives a user; rooms use it to name who made a thing.
func (a *Access) User(ctx context.Context, id int64) (User, error) { panic("unwritten") }

// AddMember makes a user a member of a workspace, in the caller's transaction.
func AddMember(tx *db.Tx, workspace string, user int64, r Role) error { panic("unwritten") }
