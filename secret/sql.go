package secret

import (
	"cmp"
	"database/sql"
	"fmt"
	"maps"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/google/uuid"

	"slipway/db"
	"slipway/project"
)

func variableRow(id int64) string { return fmt.Sprintf("variable/%d", id) }

func loginRow(id string) string { return "login/" + id }

// insertVariable makes a row, whose number the value is sealed with afterwards.
func insertVariable(tx *db.Tx, v Variable) (int64, error) {
	id, err := tx.Insert(`INSERT INTO variables (workspace, project, environment, pipeline, action, place, name, value, type, encrypted, settable, file_place, updated)
		VALUES (?, ?, ?, ?, ?, ?, ?, x'', ?, ?, ?, ?, ?)`, v.Scope.Workspace, orNull(string(v.Scope.Project)), orNull(v.Scope.Environment),
		v.Scope.Pipeline, v.Scope.Action, v.Scope.place(), v.Key, v.Type, v.Encrypted, v.Settable, v.FilePlace, db.Micros(v.Updated))
	if err != nil {
		return 0, fmt.Errorf("variable %s: %w", v.Key, err)
	}
	return id, nil
}

func orNull(s string) any {
	if s == "" {
		return nil
	}
	return s
}

func (s *Secrets) saveVariable(tx *db.Tx, v Variable) error {
	sealed, err := s.box.Seal([]byte(v.Value), variableRow(v.ID))
	if err != nil {
		return err
	}
	_, err = tx.Exec(`UPDATE variables SET name = ?, value = ?, type = ?, description = ?, encrypted = ?, settable = ?, run_settable = ?,
		file_place = ?, file_path = ?, file_mode = ?, updated = ? WHERE id = ?`, v.Key, sealed, v.Type, v.Description, v.Encrypted, v.Settable,
		v.RunOnlySettable, v.FilePlace, v.FilePath, v.FileMode, db.Micros(v.Updated), v.ID)
	if err != nil {
		return fmt.Errorf("variable %s: %w", v.Key, err)
	}
	return nil
}

// variables reads variables with their true values.
func (s *Secrets) variables(tx *db.Tx, where string, args ...any) (list []Variable, err error) {
	return db.List(tx, func(scan db.Scan) (v Variable, err error) {
		var sealed []byte
		var updated sql.NullInt64
		if err := scan(&v.ID, &v.Scope.Workspace, &v.Scope.Project, &v.Scope.Environment, &v.Scope.Pipeline, &v.Scope.Action, &v.Key,
			&sealed, &v.Type, &v.Description, &v.Encrypted, &v.Settable, &v.RunOnlySettable, &v.FilePlace, &v.FilePath, &v.FileMode, &updated); err != nil {
			return v, err
		}
		text, err := s.box.Open(sealed, variableRow(v.ID))
		if err != nil {
			return v, fmt.Errorf("variable %s: %w", v.Key, err)
		}
		v.Value, v.Updated = string(text), db.Time(updated)
		return v, nil
	}, `SELECT id, workspace, COALESCE(project, ''), COALESCE(environment, ''), pipeline, action, name, value, type, description,
		encrypted, settable, run_settable, file_place, file_path, file_mode, updated FROM variables `+where, args...)
}

func (s *Secrets) effective(tx *db.Tx, at Scope) ([]Variable, error) {
	byKey := map[string]Variable{}
	for _, place := range at.places() { // the narrower over the wider
		l, err := s.variables(tx, `WHERE workspace = ? AND place = ?`, at.Workspace, place)
		if err != nil {
			return nil, err
		}
		for _, v := range l {
			byKey[v.Key] = v
		}
	}
	return slices.SortedFunc(maps.Values(byKey), func(a, b Variable) int { return cmp.Compare(a.Key, b.Key) }), nil
}

func hasUsual(tx *db.Tx, id project.ID) (bool, error) {
	var n int
	err := tx.QueryRow(`SELECT COUNT(*) FROM login_defaults WHERE project = ?`, string(id)).Scan(&n)
	return n > 0, err
}

// giveUsual gives a project the usual registries, once.
func (s *Secrets) giveUsual(tx *db.Tx, id project.ID) error {
	if n, err := tx.Exec(`INSERT INTO login_defaults (project) VALUES (?) ON CONFLICT DO NOTHING`, string(id)); err != nil || n == 0 {
		return err
	}
	for _, l := range usual() {
		l.ID, l.Project = uuid.NewString(), id
		if err := s.insertLogin(tx, l); err != nil {
			return err
		}
	}
	return nil
}

// hostFree fails with errdefs.ErrAlreadyExists if the host of a login has another
// one in its project.
func hostFree(tx *db.Tx, l Login) error {
	var n int
	if err := tx.QueryRow(`SELECT COUNT(*) FROM logins WHERE project = ? AND host = ? AND id <> ?`, string(l.Project), l.Host, l.ID).Scan(&n); err != nil {
		return err
	}
	given, err := hasUsual(tx, l.Project)
	if err != nil {
		return err
	}
	if n > 0 || !given && slices.ContainsFunc(usual(), func(u Login) bool { return u.Host == l.Host }) {
		return fmt.Errorf("registry %s: the project has one of this host: %w", l.Host, errdefs.ErrAlreadyExists)
	}
	return nil
}

func (s *Secrets) insertLogin(tx *db.Tx, l Login) error {
	sealed, err := s.box.Seal([]byte(l.Password), loginRow(l.ID))
	if err != nil {
		return err
	}
	_, err = tx.Exec(`INSERT INTO logins (id, project, description, host, username, password, valid, checked, created, rank)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, (SELECT COUNT(*) FROM logins WHERE project = ?))`, l.ID, string(l.Project), l.Description, l.Host,
		l.Username, sealed, l.Valid, db.Micros(l.Checked), tx.Now.UnixMicro(), string(l.Project))
	if err != nil {
		return fmt.Errorf("registry %s: %w", l.Host, err)
	}
	return nil
}

func (s *Secrets) updateLogin(tx *db.Tx, l Login) error {
	sealed, err := s.box.Seal([]byte(l.Password), loginRow(l.ID))
	if err != nil {
		return err
	}
	_, err = tx.Exec(`UPDATE logins SET description = ?, host = ?, username = ?, password = ?, valid = ?, checked = ? WHERE id = ?`,
		l.Description, l.Host, l.Username, sealed, l.Valid, db.Micros(l.Checked), l.ID)
	if err != nil {
		return fmt.Errorf("registry %s: %w", l.Host, err)
	}
	return nil
}

// logins reads logins with their passwords.
func (s *Secrets) logins(tx *db.Tx, where string, args ...any) (list []Login, err error) {
	return db.List(tx, func(scan db.Scan) (l Login, err error) {
		var sealed []byte
		var checked sql.NullInt64
		if err := scan(&l.ID, &l.Project, &l.Description, &l.Host, &l.Username, &sealed, &l.Valid, &checked); err != nil {
			return l, err
		}
		text, err := s.box.Open(sealed, loginRow(l.ID))
		if err != nil {
			return l, fmt.Errorf("registry %s: %w", l.Host, err)
		}
		l.Password, l.Checked = string(text), db.Time(checked)
		return l, nil
	}, `SELECT id, project, description, host, username, password, valid, checked FROM logins `+where, args...)
}
