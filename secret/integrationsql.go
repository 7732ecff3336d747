package secret

import (
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"

	"slipway/db"
	"slipway/project"
)

func integrationRow(id string) string { return "integration/" + id }

// nameIntegration makes an identifier of the name, or sees to it that the one
// given is free.
func nameIntegration(tx *db.Tx, i *Integration) error {
	given := i.Identifier
	for n := 1; ; n++ {
		name := given
		if name == "" {
			if name = project.Slug(i.Name); n > 1 {
				name = fmt.Sprintf("%s-%d", name, n)
			}
		}
		var taken int
		err := tx.QueryRow(`SELECT COUNT(*) FROM integrations WHERE workspace = ? AND identifier = ? AND id <> ?`, i.Workspace, name, i.ID).Scan(&taken)
		switch {
		case err != nil:
			return err
		case taken == 0:
			i.Identifier = name
			return nil
		case given != "":
			return fmt.Errorf("identifier %s: another integration has it: %w", given, errdefs.ErrAlreadyExists)
		}
	}
}

// columns are what both an insert and an update write.
func (s *Secrets) integrationColumns(i Integration) ([]any, error) {
	pipelines, err1 := json.Marshal(append([]int64{}, i.Pipelines...))
	permissions, err2 := json.Marshal(i.Permissions)
	text, err3 := json.Marshal(i.Credentials)
	if err := errors.Join(err1, err2, err3); err != nil {
		return nil, fmt.Errorf("integration %s: %w", i.ID, err)
	}
	sealed, err := s.box.Seal(text, integrationRow(i.ID))
	return []any{
		orNull(string(i.Project)), i.Identifier, i.Name, i.Type, i.Auth, i.AllPipelines, string(pipelines), string(permissions),
		i.ServerURL, sealed, db.Micros(i.Created), db.Micros(i.Updated), i.ID,
	}, err
}

func (s *Secrets) insertIntegration(tx *db.Tx, i Integration) error {
	row, err := s.integrationColumns(i)
	if err == nil {
		_, err = tx.Exec(`INSERT INTO integrations (project, identifier, name, type, auth_type, all_pipelines, pipelines, permissions,
			server_url, sealed, created, updated, id, workspace) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`, append(row, i.Workspace)...)
	}
	if err != nil {
		return fmt.Errorf("integration %s: %w", i.Name, err)
	}
	return nil
}

func (s *Secrets) updateIntegration(tx *db.Tx, i Integration) error {
	row, err := s.integrationColumns(i)
	if err == nil {
		_, err = tx.Exec(`UPDATE integrations SET project = ?, identifier = ?, name = ?, type = ?, auth_type = ?, all_pipelines = ?, pipelines = ?,
			permissions = ?, server_url = ?, sealed = ?, created = ?, updated = ? WHERE id = ?`, row...)
	}
	if err != nil {
		return fmt.Errorf("integration %s: %w", i.ID, err)
	}
	return nil
}

// findIntegration finds one by its id, or else by its identifier.
func (s *Secrets) findIntegration(tx *db.Tx, workspace, name string) (Integration, error) {
	l, err := s.integrations(tx, `WHERE workspace = ?1 AND (id = ?2 OR identifier = ?2) ORDER BY id <> ?2`, workspace, name)
	if err == nil && len(l) == 0 {
		err = noIntegration(name)
	}
	if err != nil {
		return Integration{}, err
	}
	return l[0], nil
}

// integrations reads integrations with their credentials. Those of a deleted
// project are gone with it.
func (s *Secrets) integrations(tx *db.Tx, where string, args ...any) (list []Integration, err error) {
	return db.List(tx, func(scan db.Scan) (i Integration, err error) {
		var pipelines, permissions, sealed []byte
		var created, updated sql.NullInt64
		if err := scan(&i.ID, &i.Workspace, &i.Project, &i.Identifier, &i.Name, &i.Type, &i.Auth, &i.AllPipelines, &pipelines, &permissions,
			&i.ServerURL, &sealed, &created, &updated); err != nil {
			return i, err
		}
		text, err := s.box.Open(sealed, integrationRow(i.ID))
		if err == nil {
			err = errors.Join(json.Unmarshal(text, &i.Credentials), json.Unmarshal(pipelines, &i.Pipelines), json.Unmarshal(permissions, &i.Permissions))
		}
		if err != nil {
			return i, fmt.Errorf("integration %s: %w", i.ID, err)
		}
		i.Created, i.Updated = db.Time(created), db.Time(updated)
		return i, nil
	}, `SELECT id, workspace, COALESCE(project, ''), identifier, name, type, auth_type, all_pipelines, pipelines, permissions,
		server_url, sealed, created, updated FROM (SELECT * FROM integrations i WHERE project IS NULL
			OR EXISTS (SELECT 1 FROM projects p WHERE p.id = i.project AND p.deleted IS NULL)) `+where, args...)
}
