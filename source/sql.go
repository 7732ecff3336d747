package source

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"

	"slipway/db"
	"slipway/project"
)

// loadTold gives the refs of a project as they were when they were last told.
func loadTold(tx *db.Tx, id project.ID) (map[string]tip, error) {
	rows, err := tx.Query(`SELECT ref, hash, commit_hash FROM source_refs WHERE project = ?`, string(id))
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	told := map[string]tip{}
	for rows.Next() {
		var ref string
		var t tip
		if err := rows.Scan(&ref, &t.hash, &t.commit); err != nil {
			return nil, err
		}
		told[ref] = t
	}
	return told, rows.Err()
}

func saveTold(tx *db.Tx, id project.ID, m move) error {
	if m.push.New == zeros {
		_, err := tx.Exec(`DELETE FROM source_refs WHERE project = ? AND ref = ?`, string(id), m.push.Ref)
		return err
	}
	_, err := tx.Exec(`INSERT INTO source_refs (project, ref, hash, commit_hash, base) VALUES (?, ?, ?, ?, ?)
		ON CONFLICT (project, ref) DO UPDATE SET hash = excluded.hash, commit_hash = excluded.commit_hash, base = excluded.base`,
		string(id), m.push.Ref, m.now.hash, m.now.commit, m.base)
	return err
}

// toldBase gives the branch that a pull request of the own repository goes to, as a
// push said it; "" if none did.
func toldBase(tx *db.Tx, id project.ID, ref string) (base string, err error) {
	err = tx.QueryRow(`SELECT base FROM source_refs WHERE project = ? AND ref = ?`, string(id), ref).Scan(&base)
	if errors.Is(err, sql.ErrNoRows) {
		err = nil
	}
	return base, err
}

// login is what of a Remote is sealed.
type login struct {
	Username   string `json:"username,omitempty"` // without a password it is one itself
	Password   string `json:"password,omitempty"`
	PrivateKey []byte `json:"private_key,omitempty"`
}

// bare tells whether the user name is all that there is of a login: forges take
// a token in its place.
func (r *Remote) bare() bool {
	return r.Username != "" && r.Password == "" && strings.HasPrefix(r.URL, "http")
}

func sealedAs(id project.ID) string { return "source_remotes/" + string(id) }

// loadRemote gives the outside repository of a project with its secrets, or
// nil, and the default branch that was seen there, or "".
func (s *Sources) loadRemote(ctx context.Context, id project.ID) (r *Remote, branch string, err error) {
	err = s.db.Read(ctx, func(tx *db.Tx) (err error) {
		r, branch, err = s.remoteIn(tx, id)
		return err
	})
	return r, branch, err
}

// remoteIn is loadRemote in a transaction.
func (s *Sources) remoteIn(tx *db.Tx, id project.ID) (*Remote, string, error) {
	var r Remote
	var sealed []byte
	var branch sql.NullString
	err := tx.QueryRow(`SELECT url, username, login, branch FROM source_remotes WHERE project = ?`, string(id)).
		Scan(&r.URL, &r.Username, &sealed, &branch)
	err = db.NotFound(err, "remote of project %s", id)
	if errdefs.IsNotFound(err) || errors.Is(err, sql.ErrNoRows) {
		return nil, "", nil
	}
	if err != nil {
		return nil, "", fmt.Errorf("load the remote of project %s: %w", id, err)
	}
	if len(sealed) > 0 {
		text, err := s.secrets.Box().Open(sealed, sealedAs(id))
		if err != nil {
			return nil, "", fmt.Errorf("open the login of the remote of project %s: %w", id, err)
		}
		var l login
		if err := json.Unmarshal(text, &l); err != nil {
			return nil, "", fmt.Errorf("open the login of the remote of project %s: %w", id, err)
		}
		r.Password, r.PrivateKey = l.Password, l.PrivateKey
		if l.Username != "" {
			r.Username = l.Username
		}
	}
	return &r, branch.String, nil
}

func (s *Sources) writeRemote(tx *db.Tx, id project.ID, r *Remote) error {
	if r == nil {
		_, err := tx.Exec(`DELETE FROM source_remotes WHERE project = ?`, string(id))
		return err
	}
	var sealed []byte
	username, l := r.Username, login{Password: r.Password, PrivateKey: r.PrivateKey}
	if r.bare() {
		username, l.Username = "", r.Username
	}
	if l.Username+l.Password != "" || len(l.PrivateKey) > 0 {
		text, err := json.Marshal(l)
		if err != nil {
			return err
		}
		if sealed, err = s.secrets.Box().Seal(text, sealedAs(id)); err != nil {
			return fmt.Errorf("seal the login: %w", err)
		}
	}
	_, err := tx.Exec(`INSERT INTO source_remotes (project, url, username, login, updated_at) VALUES (?, ?, ?, ?, ?)
		ON CONFLICT (project) DO UPDATE SET url = excluded.url, username = excluded.username, login = excluded.login,
			branch = NULL, updated_at = excluded.updated_at`,
		string(id), r.URL, username, sealed, db.Micros(tx.Now))
	return err
}

func (s *Sources) saveBranch(ctx context.Context, id project.ID, url, branch string) error {
	return s.db.Write(ctx, func(tx *db.Tx) error {
		_, err := tx.Exec(`UPDATE source_remotes SET branch = ? WHERE project = ? AND url = ?`, branch, string(id), url)
		return err
	})
}
