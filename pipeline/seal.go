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
	hide := func(at, key string, value *string) {
		if *value == secret.Encrypted {
			old, ok := had[key]
			if !ok {
				inv.Add(at, "required", "there is no earlier value that could stay")
				return
			}
			*value = old
		}
		out[key], *value = *value, secret.Encrypted
	}
	for i := range vs {
		v := &vs[i]
		at, key := "variables."+strconv.Itoa(i), "variables."+v.Key
		if v.Value == secret.Encrypted && !v.Secret() { // no longer encrypted: a value once hidden is not shown
			v.Encrypted = true
		}
		if v.Secret() {
			hide(at+".value", key, &v.Value)
		}
		if v.Password != "" {
			hide(at+".password", key+".password", &v.Password)
		}
		if v.Passphrase != "" {
			hide(at+".passphrase", key+".passphrase", &v.Passphrase)
		}
	}
	return out, inv.Err()
}

// hideAction does the same for all secrets of an action. The password of a
// registry is kept together with the place that it is for: who may change an
// action need not be one who may know its password, and does not get it sent
// elsewhere.
func hideAction(a *Action, had map[string]string) (map[string]string, error) {
	var inv project.Invalid
	out, err := hideVariables(a.Variables, had)
	if bad, ok := project.AsInvalid(err); ok {
		inv.Fields = bad.Fields
	}
	r := a.registry()
	if r.Password == "" {
		return out, inv.Err()
	}
	password := r.Password
	if password == secret.Encrypted {
		old, ok := had["password"]
		switch {
		case !ok:
			inv.Add("password", "required", "there is no earlier password that could stay")
		case had["password for"] != r.place():
			inv.Add("password", "required", "is to be given anew for another registry")
		}
		password = old
	}
	out["password"], out["password for"], r.Password = password, r.place(), secret.Encrypted
	return out, inv.Err()
}

// place is where the password of a registry goes, and how safely; "" is nowhere.
func (r Registry) place() string {
	for _, l := range r.login(newValues()) {
		return fmt.Sprintf("%s insecure=%v", l.Host, l.Insecure)
	}
	return ""
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

// dropSecrets removes what a deleted pipeline kept hidden, once nothing of it
// runs any more: the actions that end a run may need it. The actions go too.
func dropSecrets(tx *db.Tx, workspace string, id ID) error {
	var over bool
	err := tx.QueryRow(`SELECT deleted IS NOT NULL AND NOT EXISTS (SELECT 1 FROM executions e WHERE e.pipeline = p.id
		AND e.status IN ('ENQUEUED', 'INPROGRESS', 'TERMINATING')) FROM pipelines p WHERE p.id = ?`, id).Scan(&over)
	if err != nil || !over {
		return err
	}
	tx.Wake(goneTopic)
	list, _, err := loadAllActions(tx, id)
	if err != nil {
		return err
	}
	for _, a := range list {
		if err := secret.Drop(tx, secret.Scope{Workspace: workspace, Action: int64(a.ID)}); err != nil {
			return err
		}
	}
	for _, q := range []string{
		`DELETE FROM actions WHERE pipeline = ?`,
		`UPDATE executions SET sealed = NULL WHERE pipeline = ?`,
		`UPDATE action_outputs SET sealed = NULL WHERE id IN
			(SELECT s.id FROM action_executions s JOIN executions e ON e.id = s.execution WHERE e.pipeline = ?)`,
		`UPDATE pipelines SET sealed = NULL WHERE id = ?`,
	} {
		if _, err := tx.Exec(q, id); err != nil {
			return err
		}
	}
	return secret.Drop(tx, secret.Scope{Workspace: workspace, Pipeline: int64(id)})
}
