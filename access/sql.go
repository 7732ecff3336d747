package access

import (
	"crypto/sha256"
	"database/sql"
	"encoding/json"
	"fmt"

	"github.com/google/uuid"

	"slipway/db"
)

// LoadUser reads a user in the caller's transaction.
func LoadUser(tx *db.Tx, id int64) (User, error) {
	u := User{ID: id}
	var created sql.NullInt64
	err := tx.QueryRow(`SELECT uuid, username, name, email, created FROM users WHERE id = ?`, id).
		Scan(&u.UUID, &u.Username, &u.Name, &u.Email, &created)
	if err != nil {
		return User{}, db.NotFound(err, "user %d", id)
	}
	u.Created = db.Time(created)
	return u, nil
}

func roles(tx *db.Tx, user int64) (map[string]Role, error) {
	rows, err := tx.Query(`SELECT workspace, `+roleColumn+` FROM members m WHERE user_id = ?`, user)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	m := map[string]Role{}
	for rows.Next() {
		var w string
		var r Role
		if err := rows.Scan(&w, &r); err != nil {
			return nil, err
		}
		m[w] = r
	}
	return m, rows.Err()
}

const tokenColumns = `id, user_id, name, scopes, workspaces, ips, created, expires, last_used`

func scanToken(scan db.Scan) (Token, error) {
	var t Token
	var lists [3]string
	var created, expires, used sql.NullInt64
	if err := scan(&t.ID, &t.User, &t.Name, &lists[0], &lists[1], &lists[2], &created, &expires, &used); err != nil {
		return Token{}, err
	}
	for i, to := range []any{&t.Scopes, &t.Workspaces, &t.IPs} {
		if err := json.Unmarshal([]byte(lists[i]), to); err != nil {
			return Token{}, fmt.Errorf("token %s: %w", t.ID, err)
		}
	}
	t.Created, t.Expires, t.LastUsed = db.Time(created), db.Time(expires), db.Time(used)
	return t, nil
}

func tokenByHash(tx *db.Tx, hash [sha256.Size]byte) (Token, error) {
	t, err := scanToken(tx.QueryRow(`SELECT `+tokenColumns+` FROM tokens WHERE hash = ?`, hash[:]).Scan)
	return t, db.NotFound(err, "token")
}

// hasToken is errdefs.ErrNotFound for a token that has ended.
func hasToken(tx *db.Tx, id string) error {
	var there bool
	return db.NotFound(tx.QueryRow(`SELECT TRUE FROM tokens WHERE id = ?`, id).Scan(&there), "token %s", id)
}

func tokensOf(tx *db.Tx, user int64) (list []Token, err error) {
	return db.List(tx, scanToken, `SELECT `+tokenColumns+` FROM tokens WHERE user_id = ? ORDER BY created, id`, user)
}

// insertToken gives the token an id and stores it.
func insertToken(tx *db.Tx, t Token, hash [sha256.Size]byte) (Token, error) {
	t.ID, t.Created = uuid.NewString(), tx.Now
	lists, err := NewToken{Scopes: t.Scopes, Workspaces: t.Workspaces, IPs: t.IPs}.lists()
	if err != nil {
		return Token{}, err
	}
	var grant any
	if t.Grant != "" {
		grant = t.Grant
	}
	_, err = tx.Exec(`INSERT INTO tokens (id, user_id, hash, name, scopes, workspaces, ips, created, expires, grant_id) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		t.ID, t.User, hash[:], t.Name, lists[0], lists[1], lists[2], db.Micros(t.Created), db.Micros(t.Expires), grant)
	return t, err
}

// lists gives the lists of a token as they are stored.
func (n NewToken) lists() (l [3]string, err error) {
	for i, v := range []any{orEmpty(n.Scopes), orEmpty(n.Workspaces), orEmpty(n.IPs)} {
		b, err := json.Marshal(v)
		if err != nil {
			return l, err
		}
		l[i] = string(b)
	}
	return l, nil
}

func orEmpty[T any](l []T) []T {
	if l == nil {
		return []T{}
	}
	return l
}
