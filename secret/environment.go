package secret

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/uuid"

	"slipway/access"
	"slipway/db"
	"slipway/project"
)

// Rights on environments; the words are Buddy's.
const (
	environmentInfo   access.Scope = "ENVIRONMENT_INFO"
	environmentAdd    access.Scope = "ENVIRONMENT_ADD"
	environmentManage access.Scope = "ENVIRONMENT_MANAGE"
)

// Environment is a place that something is deployed to, of a workspace or of a
// project. Here it is a scope of variables and no more.
type Environment struct {
	ID         string // UUID
	Workspace  string // UUID
	Project    project.ID
	Identifier string // unique in its workspace or project
	Name       string
	Created    time.Time
}

const maxName = 255

// whole fills in what was left out.
func (e Environment) whole() Environment {
	if e.Identifier == "" {
		e.Identifier = project.Slug(e.Name)
	}
	return e
}

// Validate finds all that is wrong.
func (e Environment) Validate() error {
	var bad project.Invalid
	e = e.whole()
	if e.Name == "" {
		bad.Add("name", "required", "must not be empty")
	}
	bad.Text("name", e.Name, maxName)
	switch {
	case len(e.Identifier) > maxName:
		bad.Add("identifier", "maximum", fmt.Sprintf("must be at most %d characters", maxName))
	case !identifiers.MatchString(e.Identifier):
		bad.Add("identifier", "format", "must be letters and digits, with . _ - between them")
	}
	return bad.Err()
}

// CreateEnvironment makes an environment; its identifier is made from the name
// if none is given. A taken one is errdefs.ErrAlreadyExists.
func (s *Secrets) CreateEnvironment(ctx context.Context, by access.Actor, e Environment) (Environment, error) {
	e = e.whole()
	err := s.db.Write(ctx, func(tx *db.Tx) error {
		if err := allow(tx, by, Scope{Workspace: e.Workspace, Project: e.Project}, environmentAdd); err != nil {
			return err
		}
		if err := e.Validate(); err != nil {
			return err
		}
		e.ID, e.Created = uuid.NewString(), tx.Now
		_, err := tx.Exec(`INSERT INTO environments (id, workspace, project, identifier, name, created) VALUES (?, ?, ?, ?, ?, ?)`,
			e.ID, e.Workspace, orNull(string(e.Project)), e.Identifier, e.Name, db.Micros(e.Created))
		return err
	})
	if err != nil {
		return Environment{}, fmt.Errorf("environment %s: %w", e.Identifier, err)
	}
	return e, nil
}

// Environments lists those of a workspace and of its projects, or of one
// project, oldest first.
func (s *Secrets) Environments(ctx context.Context, by access.Actor, workspace string, in project.ID) (list []Environment, err error) {
	err = s.db.Read(ctx, func(tx *db.Tx) (err error) {
		if err := allow(tx, by, Scope{Workspace: workspace, Project: in}, environmentInfo); err != nil {
			return err
		}
		list, err = environments(tx, `WHERE workspace = ? AND (? = '' OR project = ?)
			AND (project IS NULL OR project IN (SELECT id FROM projects WHERE deleted IS NULL)) ORDER BY created, id`, workspace, string(in), string(in))
		return err
	})
	list = slices.DeleteFunc(list, func(e Environment) bool {
		return e.Project != "" && by.MayIn(workspace, string(e.Project), environmentInfo) != nil
	})
	return list, err
}

// Environment gives one of a workspace.
func (s *Secrets) Environment(ctx context.Context, by access.Actor, workspace, id string) (e Environment, err error) {
	err = s.db.Read(ctx, func(tx *db.Tx) (err error) {
		e, err = seenEnvironment(tx, by, workspace, id, environmentInfo)
		return err
	})
	return e, err
}

// DeleteEnvironment removes an environment with its variables.
func (s *Secrets) DeleteEnvironment(ctx context.Context, by access.Actor, workspace, id string) error {
	return s.db.Write(ctx, func(tx *db.Tx) error {
		if _, err := seenEnvironment(tx, by, workspace, id, environmentManage); err != nil {
			return err
		}
		_, err := tx.Exec(`DELETE FROM environments WHERE id = ?`, id)
		return err
	})
}

func seenEnvironment(tx *db.Tx, by access.Actor, workspace, id string, right access.Scope) (Environment, error) {
	e, err := loadEnvironment(tx, workspace, id)
	if err != nil {
		return Environment{}, err
	}
	if err := allow(tx, by, Scope{Workspace: e.Workspace, Project: e.Project}, right); errdefs.IsNotFound(err) {
		return Environment{}, fmt.Errorf("environment %s: %w", id, errdefs.ErrNotFound)
	} else if err != nil {
		return Environment{}, err
	}
	return e, nil
}

func loadEnvironment(tx *db.Tx, workspace, id string) (Environment, error) {
	l, err := environments(tx, `WHERE id = ? AND workspace = ?`, id, workspace)
	if err == nil && len(l) == 0 {
		err = fmt.Errorf("environment %s: %w", id, errdefs.ErrNotFound)
	}
	if err != nil {
		return Environment{}, err
	}
	return l[0], nil
}

// EnvironmentFor finds the environment that a run in a project names by its id or
// identifier: one of the project, or else of the workspace itself. Whether who
// asks may run there is for the caller to know.
func EnvironmentFor(tx *db.Tx, workspace string, in project.ID, name string) (Environment, error) {
	l, err := environments(tx, `WHERE workspace = ? AND (project IS NULL OR project = ?) AND (id = ? OR identifier = ?)
		ORDER BY id = ? DESC, project IS NULL LIMIT 1`, workspace, string(in), name, name, name)
	if err == nil && len(l) == 0 {
		err = fmt.Errorf("environment %s: %w", name, errdefs.ErrNotFound)
	}
	if err != nil {
		return Environment{}, err
	}
	return l[0], nil
}

func environments(tx *db.Tx, where string, args ...any) (list []Environment, err error) {
	return db.List(tx, func(scan db.Scan) (e Environment, err error) {
		var created sql.NullInt64
		err = scan(&e.ID, &e.Workspace, &e.Project, &e.Identifier, &e.Name, &created)
		e.Created = db.Time(created)
		return e, err
	}, `SELECT id, workspace, COALESCE(project, ''), identifier, name, created FROM environments `+where, args...)
}

// placed fills in whose environment a scope names; one that is not the
// workspace's is errdefs.ErrNotFound.
func placed(tx *db.Tx, at Scope) (Scope, error) {
	if at.Environment == "" {
		return at, nil
	}
	e, err := loadEnvironment(tx, at.Workspace, at.Environment)
	if err != nil {
		return at, err
	}
	at.Project = e.Project
	if at.Project != "" {
		_, err = project.Load(tx, at.Project)
	}
	return at, err
}
