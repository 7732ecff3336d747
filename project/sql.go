package project

import (
	"crypto/rand"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/uuid"

	"slipway/access"
	"slipway/db"
)

func exists(tx *db.Tx, query string, args ...any) (bool, error) {
	var one int
	err := tx.QueryRow(query, args...).Scan(&one)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	return err == nil, err
}

// number gives the next server-wide integer of a noun.
func number(tx *db.Tx, noun string) (n int64, err error) {
	err = tx.QueryRow(`UPDATE counters SET last = last + 1 WHERE name = ? RETURNING last`, noun).Scan(&n)
	return n, err
}

const workspaceColumns = `id, number, domain, name, owner, created`

func scanWorkspace(scan db.Scan) (w Workspace, err error) {
	var created sql.NullInt64
	err = scan(&w.ID, &w.Number, &w.Domain, &w.Name, &w.Owner, &created)
	w.Created = db.Time(created)
	return w, err
}

// FindWorkspace reads a workspace by UUID or domain in the caller's
// transaction, without asking who.
func FindWorkspace(tx *db.Tx, ref string) (Workspace, error) {
	w, err := scanWorkspace(tx.QueryRow(`SELECT `+workspaceColumns+` FROM workspaces WHERE (id = ? OR domain = ?) AND deleted IS NULL
		ORDER BY id = ? DESC LIMIT 1`, ref, ref, ref).Scan)
	if err != nil {
		return Workspace{}, db.NotFound(err, "workspace %s", ref)
	}
	return w, nil
}

func workspaces(tx *db.Tx) (list []Workspace, err error) {
	return db.List(tx, scanWorkspace, `SELECT `+workspaceColumns+` FROM workspaces WHERE deleted IS NULL ORDER BY number`)
}

func newWorkspace(tx *db.Tx, w Workspace) (_ Workspace, err error) {
	w.ID, w.Created = uuid.NewString(), tx.Now
	if w.Number, err = number(tx, "workspace"); err != nil {
		return Workspace{}, err
	}
	_, err = tx.Exec(`INSERT INTO workspaces (`+workspaceColumns+`) VALUES (?, ?, ?, ?, ?, ?)`,
		w.ID, w.Number, w.Domain, w.Name, w.Owner, db.Micros(w.Created))
	if err != nil {
		return Workspace{}, fmt.Errorf("workspace %s: %w", w.Domain, err)
	}
	if err := access.AddMember(tx, w.ID, w.Owner, access.Owner); err != nil {
		return Workspace{}, err
	}
	return w, nil
}

const selectProject = `SELECT p.id, p.short_id, p.number, p.workspace, w.domain, p.name, p.display_name, p.status, p.public, p.pull_requests,
	p.fetch_submodules, p.submodules_key, p.created_by, p.created, p.updated, p.attrs FROM projects p JOIN workspaces w ON w.id = p.workspace `

func scanProject(scan db.Scan) (p Project, err error) {
	var created, updated sql.NullInt64
	var attrs string
	err = scan(&p.ID, &p.ShortID, &p.Number, &p.Workspace, &p.Domain, &p.Name, &p.DisplayName, &p.Status, &p.Public, &p.PullRequests,
		&p.Submodules.Fetch, &p.Submodules.Key, &p.CreatedBy, &created, &updated, &attrs)
	if err != nil {
		return Project{}, err
	}
	p.Created, p.Updated = db.Time(created), db.Time(updated)
	if err := json.Unmarshal([]byte(attrs), &p.Attrs); err != nil {
		return Project{}, fmt.Errorf("project %s: attributes: %w", p.ID, err)
	}
	return p, nil
}

func one(tx *db.Tx, ref, where string, args ...any) (Project, error) {
	p, err := scanProject(tx.QueryRow(selectProject+where, args...).Scan)
	if err != nil {
		return Project{}, db.NotFound(err, "project %s", ref)
	}
	return p, nil
}

func many(tx *db.Tx, where string, args ...any) (list []Project, err error) {
	return db.List(tx, scanProject, selectProject+where, args...)
}

// Load reads a project in the caller's transaction, without asking who. A
// deleted one is errdefs.ErrNotFound.
func Load(tx *db.Tx, id ID) (Project, error) {
	return one(tx, string(id), `WHERE p.id = ? AND p.deleted IS NULL`, string(id))
}

// LoadAny is Load that also finds a deleted project that was not removed yet.
func LoadAny(tx *db.Tx, id ID) (Project, error) {
	return one(tx, string(id), `WHERE p.id = ?`, string(id))
}

func loadDeleted(tx *db.Tx, id ID) (Project, error) {
	return one(tx, string(id), `WHERE p.id = ? AND p.deleted IS NOT NULL`, string(id))
}

func loadRef(tx *db.Tx, ref string) (Project, error) {
	if strings.HasPrefix(ref, "p-") {
		return one(tx, ref, `WHERE p.short_id = ? AND p.deleted IS NULL`, ref)
	}
	return Load(tx, ID(ref))
}

// loadName reads a project by its name or by one that it had.
func loadName(tx *db.Tx, workspace, name string) (Project, error) {
	p, err := one(tx, name, `WHERE p.workspace = ? AND p.name = ? AND p.deleted IS NULL`, workspace, name)
	if errdefs.IsNotFound(err) {
		p, err = one(tx, name, `JOIN project_aliases a ON a.project = p.id WHERE a.workspace = ? AND a.name = ? AND p.deleted IS NULL`, workspace, name)
	}
	return p, err
}

// Named gives the project of a name in a workspace if the actor sees it, in the
// caller's transaction; else errdefs.ErrNotFound.
func Named(tx *db.Tx, by access.Actor, workspace, name string) (Project, error) {
	return seen(by, name, func() (Project, error) { return loadName(tx, workspace, name) })
}

func selectProjects(tx *db.Tx, workspaces []string, all bool, f Filter) ([]Project, error) {
	where, args := `WHERE p.deleted IS NULL`, []any{}
	if !all {
		if len(workspaces) == 0 {
			return nil, nil
		}
		where += ` AND p.workspace IN (` + strings.TrimSuffix(strings.Repeat("?,", len(workspaces)), ",") + `)`
		for _, w := range workspaces {
			args = append(args, w)
		}
	}
	if f.Status != "" {
		where += ` AND p.status = ?`
		args = append(args, f.Status)
	}
	list, err := many(tx, where+` ORDER BY p.number`, args...)
	if f.Search == "" || err != nil {
		return list, err
	}
	var found []Project
	for _, p := range list {
		if contains(p.Name, f.Search) || contains(p.DisplayName, f.Search) {
			found = append(found, p)
		}
	}
	return found, nil
}

func contains(text, part string) bool {
	return strings.Contains(strings.ToLower(text), strings.ToLower(part))
}

func deletedBefore(tx *db.Tx, t time.Time) ([]Project, error) {
	return many(tx, `WHERE p.deleted < ? ORDER BY p.deleted`, t.UnixMicro())
}

// insert gives the project its ids and stores it.
func insert(tx *db.Tx, p *Project) (err error) {
	p.ID = ID(uuid.NewString())
	if p.Number, err = number(tx, "project"); err != nil {
		return err
	}
	for taken := true; taken; {
		p.ShortID = "p-" + shortID()
		if taken, err = exists(tx, `SELECT 1 FROM projects WHERE short_id = ?`, p.ShortID); err != nil {
			return err
		}
	}
	attrs, err := json.Marshal(p.Attrs)
	if err != nil {
		return fmt.Errorf("project %s: attributes: %w", p.Name, err)
	}
	_, err = tx.Exec(`INSERT INTO projects (id, short_id, number, workspace, name, display_name, status, public, pull_requests, fetch_submodules,
		submodules_key, created_by, created, updated, attrs) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		string(p.ID), p.ShortID, p.Number, p.Workspace, p.Name, p.DisplayName, p.Status, p.Public, p.PullRequests, p.Submodules.Fetch,
		p.Submodules.Key, p.CreatedBy, db.Micros(p.Created), db.Micros(p.Updated), string(attrs))
	if err != nil {
		return fmt.Errorf("project %s: %w", p.Name, err)
	}
	return nil
}

// shortID gives six characters that are easy to read out: no 0 or o, 1 or l.
func shortID() string {
	const letters = "23456789abcdefghijkmnpqrstuvwxyz" // 32
	b := make([]byte, 6)
	rand.Read(b) // never fails
	for i := range b {
		b[i] = letters[b[i]%32]
	}
	return string(b)
}

func update(tx *db.Tx, p Project) error {
	attrs, err := json.Marshal(p.Attrs)
	if err != nil {
		return fmt.Errorf("project %s: attributes: %w", p.ID, err)
	}
	_, err = tx.Exec(`UPDATE projects SET name = ?, display_name = ?, status = ?, public = ?, pull_requests = ?, fetch_submodules = ?,
		submodules_key = ?, updated = ?, attrs = ? WHERE id = ?`, p.Name, p.DisplayName, p.Status, p.Public, p.PullRequests, p.Submodules.Fetch,
		p.Submodules.Key, db.Micros(p.Updated), string(attrs), string(p.ID))
	if err != nil {
		return fmt.Errorf("project %s: %w", p.ID, err)
	}
	return nil
}

func addAlias(tx *db.Tx, p Project, name string) error {
	_, err := tx.Exec(`INSERT INTO project_aliases (workspace, name, project) VALUES (?, ?, ?)
		ON CONFLICT (workspace, name) DO UPDATE SET project = excluded.project`, p.Workspace, name, string(p.ID))
	return err
}
