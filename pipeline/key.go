package pipeline

import (
	"bytes"
	"crypto/sha256"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"slipway/access"
	"slipway/db"
	"slipway/project"
)

// keyTime is how long the key of a start is known.
const keyTime = 24 * time.Hour

// ErrKeyUsed is a key that came with another start before.
var ErrKeyUsed = fmt.Errorf("the Idempotency-Key was used for another start of this pipeline: take a new one: %w", errdefs.ErrConflict)

// startKey names a start, as who asks for it does.
type startKey struct {
	by       access.Actor
	pipeline ID
	token    string
	key      string
	asked    []byte // what for: a sum of it
}

// keyOf is the key of a start that has one.
func keyOf(by access.Actor, id ID, in Start) (*startKey, error) {
	if in.Key == "" {
		return nil, nil
	}
	return keyFor(by, id, in.Key, in)
}

// keyFor is a key with what it is asked for.
func keyFor(by access.Actor, id ID, key string, in any) (*startKey, error) {
	var inv project.Invalid
	notLonger(&inv, nameMax, "Idempotency-Key", key)
	if strings.ContainsFunc(key, func(r rune) bool { return r < ' ' || r > '~' }) {
		inv.Add("Idempotency-Key", "format", "must be plain characters")
	}
	if err := inv.Err(); err != nil {
		return nil, err
	}
	text, err := json.Marshal(in)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(text)
	return &startKey{by, id, by.Token.ID, key, sum[:]}, nil
}

// row is what the sum is sealed for: without the master key nobody can try what
// values it is of.
func (k *startKey) row() string {
	return "start/" + strconv.FormatInt(int64(k.pipeline), 10) + "/" + k.token + "/" + k.key
}

// keyed finds the execution that a key stands for. A key with another start is
// ErrKeyUsed.
func (p *Pipelines) keyed(tx *db.Tx, k *startKey) (x Execution, known bool, err error) {
	if k == nil {
		return x, false, nil
	}
	var id ExecutionID
	var sealed []byte
	err = tx.QueryRow(`SELECT execution, asked FROM execution_keys WHERE pipeline = ? AND token = ? AND key = ? AND created > ?`,
		k.pipeline, k.token, k.key, db.Micros(tx.Now.Add(-keyTime))).Scan(&id, &sealed)
	if errors.Is(err, sql.ErrNoRows) {
		return x, false, nil
	}
	if err != nil {
		return x, false, err
	}
	asked, err := p.secrets.Box().Open(sealed, k.row())
	if err != nil {
		return x, false, fmt.Errorf("open the key of execution %s: %w", id, err)
	}
	if !bytes.Equal(asked, k.asked) {
		return x, false, ErrKeyUsed
	}
	if x, err = loadExecution(tx, id); err == nil {
		err = show(tx, k.by, &x, access.ExecutionInfo)
	}
	return x, err == nil, err
}

// rememberKey writes down what a key stands for, and drops those that are old.
func (p *Pipelines) rememberKey(tx *db.Tx, k *startKey, id ExecutionID) error {
	if k == nil {
		return nil
	}
	if _, err := tx.Exec(`DELETE FROM execution_keys WHERE created <= ?`, db.Micros(tx.Now.Add(-keyTime))); err != nil {
		return err
	}
	sealed, err := p.secrets.Box().Seal(k.asked, k.row())
	if err != nil {
		return err
	}
	_, err = tx.Exec(`INSERT INTO execution_keys (pipeline, token, key, asked, execution, created) VALUES (?, ?, ?, ?, ?, ?)`,
		k.pipeline, k.token, k.key, sealed, id, db.Micros(tx.Now))
	return err
}
