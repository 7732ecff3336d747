package event

import (
	"database/sql"
	"encoding/json"
	"fmt"

	"slipway/db"
)

// sealedFor names the row of a hook's key.
func sealedFor(id string) string { return "webhooks/" + id }

func (h *Hooks) insert(tx *db.Tx, k *Hook, id string) error {
	events, projects, err := lists(*k)
	if err != nil {
		return err
	}
	var sealed []byte
	if k.Secret != "" {
		if sealed, err = h.box.Seal([]byte(k.Secret), sealedFor(id)); err != nil {
			return err
		}
	}
	return tx.QueryRow(`INSERT INTO webhooks (id, workspace, url, events, projects, secret, created, seq)
		VALUES (?, ?, ?, ?, ?, ?, ?, (SELECT COALESCE(MAX(seq), 0) FROM events)) RETURNING number`,
		id, k.Workspace, k.URL, events, projects, sealed, db.Micros(k.Created)).Scan(&k.Number)
}

func (h *Hooks) update(tx *db.Tx, k Hook) error {
	events, projects, err := lists(k)
	if err != nil {
		return err
	}
	var id string
	if err := tx.QueryRow(`SELECT id FROM webhooks WHERE number = ?`, k.Number).Scan(&id); err != nil {
		return err
	}
	if k.Secret != Encrypted {
		var sealed []byte
		if k.Secret != "" {
			if sealed, err = h.box.Seal([]byte(k.Secret), sealedFor(id)); err != nil {
				return err
			}
		}
		if _, err := tx.Exec(`UPDATE webhooks SET secret = ? WHERE number = ?`, sealed, k.Number); err != nil {
			return err
		}
	}
	if _, err := tx.Exec(`UPDATE webhooks SET url = ?, events = ?, projects = ?, tries = 0, retry_at = NULL WHERE number = ?`,
		k.URL, events, projects, k.Number); err != nil {
		return err
	}
	return tx.Due("webhooks", id, tx.Now)
}

func lists(k Hook) (events, projects string, err error) {
	if k.Projects == nil {
		k.Projects = []HookProject{}
	}
	e, err := json.Marshal(k.Events)
	if err != nil {
		return "", "", err
	}
	p, err := json.Marshal(k.Projects)
	return string(e), string(p), err
}

const hookColumns = `number, workspace, url, events, projects, secret IS NOT NULL, created`

func scanHook(row interface{ Scan(...any) error }, more ...any) (Hook, error) {
	var k Hook
	var events, projects string
	var key bool
	var created sql.NullInt64
	if err := row.Scan(append([]any{&k.Number, &k.Workspace, &k.URL, &events, &projects, &key, &created}, more...)...); err != nil {
		return k, err
	}
	if key {
		k.Secret = Encrypted
	}
	k.Created = db.Time(created)
	if err := json.Unmarshal([]byte(events), &k.Events); err != nil {
		return k, fmt.Errorf("webhook %d: %w", k.Number, err)
	}
	if err := json.Unmarshal([]byte(projects), &k.Projects); err != nil {
		return k, fmt.Errorf("webhook %d: %w", k.Number, err)
	}
	return k, nil
}

func loadHooks(tx *db.Tx, where string, args ...any) (list []Hook, err error) {
	rows, err := tx.Query(`SELECT `+hookColumns+` FROM webhooks WHERE `+where, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		k, err := scanHook(rows)
		if err != nil {
			return nil, err
		}
		list = append(list, k)
	}
	return list, rows.Err()
}

func loadRequests(tx *db.Tx, number int64) (list []Request, err error) {
	return db.List(tx, func(scan db.Scan) (r Request, err error) {
		var sent sql.NullInt64
		err = scan(&sent, &r.Status, &r.Error, &r.Body)
		r.Sent = db.Time(sent)
		return r, err
	}, `SELECT sent, status, error, body FROM webhook_requests WHERE webhook = ? ORDER BY id DESC LIMIT ?`, number, maxRemains)
}

// saveRequest keeps a request and drops those that are too many.
func saveRequest(tx *db.Tx, number int64, r Request) error {
	if _, err := tx.Exec(`INSERT INTO webhook_requests (webhook, sent, status, error, body) VALUES (?, ?, ?, ?, ?)`,
		number, db.Micros(r.Sent), r.Status, r.Error, r.Body); err != nil {
		return err
	}
	_, err := tx.Exec(`DELETE FROM webhook_requests WHERE webhook = ? AND id NOT IN
		(SELECT id FROM webhook_requests WHERE webhook = ? ORDER BY id DESC LIMIT ?)`, number, number, maxRemains)
	return err
}

// loadSending gives a hook by the id of its row, where it is, and its sealed key.
func loadSending(tx *db.Tx, id string) (k Hook, at state, sealed []byte, err error) {
	var retry sql.NullInt64
	k, err = scanHook(tx.QueryRow(`SELECT `+hookColumns+`, seq, part, tries, retry_at, secret FROM webhooks WHERE id = ?`, id),
		&at.seq, &at.part, &at.tries, &retry, &sealed)
	at.retry = db.Time(retry)
	return k, at, sealed, err
}

// saveState writes where a hook is. An address that it was given meanwhile is
// tried at once.
func saveState(tx *db.Tx, k Hook, at state) error {
	_, err := tx.Exec(`UPDATE webhooks SET seq = ?, part = ?, tries = ?, retry_at = CASE url WHEN ? THEN ? END WHERE number = ?`,
		at.seq, at.part, at.tries, k.URL, db.Micros(at.retry), k.Number)
	return err
}
