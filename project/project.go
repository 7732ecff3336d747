// Package project holds workspaces, which are tenants, and the projects in
// them. Everything else belongs to a project, or to a workspace.
package project

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"slipway/access"
	"slipway/db"
)

// Invalid is bad input: every bad field at once. errdefs.IsInvalidArgument
// knows it.
type Invalid struct{ Fields []Field }

// Field is one bad field. Path is that of the core's struct in wire form
// ("services.web.ports.0"); a dialect whose names differ maps it.
type Field struct {
	Path    string
	Kind    string // required, type, format, enum, minimum, maximum, conflict, unknown, unsupported
	Message string
}

func (e *Invalid) Error() string {
	l := make([]string, len(e.Fields))
	for i, f := range e.Fields {
		l[i] = f.Path + ": " + f.Message
	}
	return strings.Join(l, "; ")
}

// Is makes it an errdefs.ErrInvalidArgument.
func (e *Invalid) Is(target error) bool { return target == errdefs.ErrInvalidArgument }

// Add notes one more bad field.
func (e *Invalid) Add(path, kind, message string) {
	e.Fields = append(e.Fields, Field{path, kind, message})
}

// Err is nil when no field is bad.
func (e *Invalid) Err() error {
	if len(e.Fields) == 0 {
		return nil
	}
	return e
}

// AsInvalid finds an Invalid in an error.
func AsInvalid(err error) (*Invalid, bool) {
	var i *Invalid
	ok := errors.As(err, &i)
	return i, ok
}

// Workspace is a tenant.
type Workspace struct {
	ID      string // UUID
	Number  int64  // server-wide integer, for the dialect that has integers
	Domain  string // its name in paths and image names
	Name    string
	Owner   int64 // user
	Created time.Time
}

// ID is the UUID of a project.
type ID string

// Project is a place for source, pipelines and stacks.
type Project struct {
	ID          ID
	ShortID     string // p-xxxxxx
	Number      int64
	Workspace   string // UUID
	Domain      string // of the workspace, read only
	Name        string // in paths; changeable
	DisplayName string
	Status      string // ACTIVE or CLOSED
	Public      bool
	CreatedBy   int64
	Created     time.Time
	Updated     time.Time
	// Attrs holds what one dialect knows and no rule reads, keyed by dialect.
	Attrs map[string]json.RawMessage
}

// New is what a project is made of. Name is taken as it is, or made from
// DisplayName.
type New struct {
	Name        string
	DisplayName string
	Public      bool
	Attrs       map[string]json.RawMessage
}

// Change is what Update changes; nil fields stay.
type Change struct {
	Name        *string
	DisplayName *string
	Status      *string
	Public      *bool
	Attrs       map[string]json.RawMessage
}

// Filter is what List selects.
type Filter struct {
	Workspace string // UUID; "": all that the actor sees
	Status    string
	Search    string
}

// Projects is the front door.
type Projects struct {
	db *db.DB
}

// NewProjects makes the front door.
func NewProjects(d *db.DB) *Projects { return &Projects{db: d} }

// BootstrapWorkspace makes a workspace in the transaction that makes its owner.
func BootstrapWorkspace(tx *db.Tx, domain string, owner access.User) (Workspace, error) {
	panic("unwritten")
}

// CreateWorkspace makes a workspace with the actor as its owner; a taken
// domain is errdefs.ErrAlreadyExists.
func (p *Projects) CreateWorkspace(ctx context.Context, by access.Actor, domain, name string) (Workspace, error) {
	panic("unwritten")
}

// Workspaces lists those that the actor sees, oldest first.
func (p *Projects) Workspaces(ctx context.Context, by access.Actor) ([]Workspace, error) {
	panic("unwritten")
}

// Workspace finds one by UUID or domain.
func (p *Projects) Workspace(ctx context.Context, by access.Actor, ref string) (Workspace, error) {
	panic("unwritten")
}

// Create makes a project. What belongs to it from the first moment, its
// repository and its default stack, is made by their rooms when first looked
// for.
func (p *Projects) Create(ctx context.Context, by access.Actor, workspace string, n New) (Project, error) {
	panic("unwritten")
}

// Get finds a project by UUID or short id.
func (p *Projects) Get(ctx context.Context, by access.Actor, ref string) (Project, error) {
	panic("unwritten")
}

// Find finds a project by the name of its workspace and its own, or an earlier
// name that nobody took since.
func (p *Projects) Find(ctx context.Context, by access.Actor, workspace, name string) (Project, error) {
	panic("unwritten")
}

// List lists the projects that the actor sees, oldest first.
func (p *Projects) List(ctx context.Context, by access.Actor, f Filter) ([]Project, error) {
	panic("unwritten")
}

// Update changes a project.
func (p *Projects) Update(ctx context.Context, by access.Actor, id ID, c Change) (Project, error) {
	panic("unwritten")
}

// Delete marks a project deleted: it is not found from then on, and an event
// "project.deleted" tells the other rooms.
func (p *Projects) Delete(ctx context.Context, by access.Actor, id ID) error { panic("unwritten") }

// Load reads a project in the caller's transaction, without asking who.
func Load(tx *db.Tx, id ID) (Project, error) { panic("unwritten") }
