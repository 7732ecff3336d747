package pipeline

import (
	"encoding/json"
	"fmt"
	"strconv"

	"github.com/containerd/errdefs"

	"slipway/db"
	"slipway/project"
	"slipway/secret"
)

// Rows that have sealed values; the names are part of the seal.

func (i ID) row() string          { return "pipeline/" + strconv.FormatInt(int64(i), 10) }
func (i ActionID) row() string    { return "action/" + strconv.FormatInt(int64(i), 10) }
func (i ExecutionID) row() string { return "execution/" + string(i) }

// hideVariables takes secret values out of vs and gives them by key. A value of
// secret.Encrypted stands for the one of had.
func hideVariables(vs []Variable, had map[string]string) (map[string]string, error) {
	out := map[string]string{}
	var inv project.Invalid
	for i := range vs {
		v := &vs[i]
		if !v.Secret() && v.Value != secret.Encrypted {
			continue
		}
		value := v.Value
		if value == secret.Encrypted {
			old, ok := had["variables."+v.Key]
			if !ok {
				inv.Add("variables."+strconv.Itoa(i)+".value", "required", "there is no earlier value that could stay")
				continue
			}
			value = old
		}
		if !v.Secret() { // no longer encrypted: a value once hidden is not shown
			v.Encrypted = true
		}
		out["variables."+v.Key], v.Value = value, secret.Encrypted
	}
	return out, inv.Err()
}

// hideAction does the same for all secrets of an action.
func hideAction(a *Action, had map[string]string) (map[string]string, error) {
	out, err := hideVariables(a.Variables, had)
	if err != nil {
		return nil, err
	}
	r := a.registry()
	if r.Password == "" {
		return out, nil
	}
	password := r.Password
	if password == secret.Encrypted {
		old, ok := had["password"]
		if !ok {
			var inv project.Invalid
			inv.Add("password", "required", "there is no earlier password that could stay")
			return nil, inv.Err()
		}
		password = old
	}
	out["password"], r.Password = password, secret.Encrypted
	return out, nil
}

// seal writes the secrets of a row, key being its id.
func (p *Pipelines) seal(tx *db.Tx, table, row string, secrets map[string]string, key any) error {
	var sealed []byte
	if len(secrets) > 0 {
		text, err := json.Marshal(secrets)
		if err != nil {
			return err
		}
		if sealed, err = p.secrets.Box().Seal(text, row); err != nil {
			return fmt.Errorf("seal %s: %w", row, err)
		}
	}
	_, err := tx.Exec(`UPDATE `+table+` SET sealed = ? WHERE id = ? AND (sealed IS NOT NULL OR ? > 0)`, sealed, key, len(sealed))
	return err
}

// unseal reads them; a row that is gone has none.
func (p *Pipelines) unseal(tx *db.Tx, table, row string, key any) (map[string]string, error) {
	var sealed []byte
	err := tx.QueryRow(`SELECT sealed FROM `+table+` WHERE id = ?`, key).Scan(&sealed)
	if err = db.NotFound(err, "%s", row); err != nil || len(sealed) == 0 {
		if errdefs.IsNotFound(err) {
			err = nil
		}
		return nil, err
	}
	text, err := p.secrets.Box().Open(sealed, row)
	if err != nil {
		return nil, fmt.Errorf("open the secrets of %s: %w", row, err)
	}
	var m map[string]string
	return m, json.Unmarshal(text, &m)
}
