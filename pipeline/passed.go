package pipeline

import (
	"cmp"
	"encoding/json"
	"slices"

	"github.com/containerd/errdefs"

	"slipway/db"
	"slipway/secret"
)

// Passed are the variables that a step got, or would get, from those that had
// ended when it began, sorted by key; of several of a key the last one.
func (x Execution) Passed(s ActionExecution) []Output {
	var out []Output
	for _, t := range x.givers(s) {
		for _, o := range t.Outputs {
			if o.Own {
				continue
			}
			out = slices.DeleteFunc(out, func(have Output) bool { return have.Key == o.Key })
			out = append(out, o)
		}
	}
	slices.SortFunc(out, func(a, b Output) int { return cmp.Compare(a.Key, b.Key) })
	return out
}

// givers are the steps that had something to pass on when a step began, the
// earliest first.
func (x Execution) givers(s ActionExecution) []ActionExecution {
	var l []ActionExecution
	for _, t := range x.Steps {
		if t.ID != s.ID && len(t.Outputs) > 0 && !t.Finished.IsZero() && !s.Started.IsZero() && !t.Finished.After(s.Started) {
			l = append(l, t)
		}
	}
	slices.SortStableFunc(l, func(a, b ActionExecution) int { return a.Finished.Compare(b.Finished) })
	return l
}

// plain are outputs that other steps get, as variables.
func plain(out []Output) []Variable {
	var l []Variable
	for _, o := range out {
		if !o.Own {
			l = append(l, o.Variable)
		}
	}
	return l
}

func outputRow(step string) string { return "output/" + step }

// keepOutputs writes what a step that has ended passes on, and gives settable
// variables their new values for later runs, unless it is one that leaves nothing.
func (p *Pipelines) keepOutputs(tx *db.Tx, x *Execution, i int, out []Output) error {
	s := &x.Steps[i]
	s.Outputs = nil
	if !s.Status.Ended() {
		return nil
	}
	for _, o := range out {
		if o.Settable && !x.apart() {
			if err := p.set(tx, x, s.Action.ID, o); err != nil {
				return err
			}
		}
	}
	if _, err := tx.Exec(`DELETE FROM action_outputs WHERE id = ?`, s.ID); err != nil || len(out) == 0 {
		return err
	}
	vs := make([]Variable, len(out))
	for i := range out {
		vs[i] = out[i].Variable
	}
	secrets, err := hideVariables(vs, nil)
	if err != nil {
		return err
	}
	for i := range vs {
		s.Outputs = append(s.Outputs, Output{Variable: vs[i], Own: out[i].Own})
	}
	text, err := json.Marshal(s.Outputs)
	if err != nil {
		return err
	}
	if _, err := tx.Exec(`INSERT INTO action_outputs (id, variables) VALUES (?, ?)`, s.ID, text); err != nil {
		return err
	}
	return p.seal(tx, "action_outputs", outputRow(s.ID), secrets, s.ID)
}

// set gives a settable variable its new value where it is kept. One that is not
// there any more, or not settable any more, is left alone.
func (p *Pipelines) set(tx *db.Tx, x *Execution, action ActionID, o Output) error {
	at := secret.Scope{Workspace: x.Workspace, Project: x.Project, Pipeline: int64(x.Pipeline)}
	switch o.tier {
	case tierAction:
		at.Action = int64(action)
		fallthrough
	case tierStored:
		_, err := p.secrets.SetIn(tx, at, o.Key, o.Value, o.Encrypted)
		return err
	case tierPipeline:
		pl, err := loadPipeline(tx, x.Pipeline)
		if err != nil {
			return ifThere(err)
		}
		if i := slices.IndexFunc(x.Frozen.Variables, func(v Variable) bool { return v.Key == o.Key }); i >= 0 {
			if _, is := settableNow(x.Frozen.Variables[i], pl.Variables); !is {
				return nil
			}
		}
		return p.setInline(tx, "pipelines", x.Pipeline.row(), int64(x.Pipeline), pl.Variables, o, func() ([]byte, error) { return specOf(pl) })
	case tierInline:
		a, err := loadAction(tx, x.Pipeline, action)
		if err != nil {
			return ifThere(err)
		}
		return p.setInline(tx, "actions", action.row(), int64(action), a.Variables, o, func() ([]byte, error) { return actionSpec(a) })
	}
	return nil
}

// setInline sets one of vs, which are the variables of what spec gives.
func (p *Pipelines) setInline(tx *db.Tx, table, row string, id int64, vs []Variable, o Output, spec func() ([]byte, error)) error {
	i := slices.IndexFunc(vs, func(v Variable) bool { return v.Key == o.Key })
	if i < 0 || !vs[i].Settable || !vs[i].isVar() {
		return nil
	}
	secrets, err := p.unseal(tx, table, row, id)
	if err != nil {
		return err
	}
	if secrets == nil {
		secrets = map[string]string{}
	}
	vs[i].Value = o.Value
	if vs[i].Encrypted = vs[i].Encrypted || o.Encrypted; vs[i].Encrypted {
		secrets["variables."+o.Key], vs[i].Value = o.Value, secret.Encrypted
	}
	text, err := spec()
	if err != nil {
		return err
	}
	if _, err := tx.Exec(`UPDATE `+table+` SET spec = ? WHERE id = ?`, text, id); err != nil {
		return err
	}
	return p.seal(tx, table, row, secrets, id)
}

func ifThere(err error) error {
	if errdefs.IsNotFound(err) {
		return nil
	}
	return err
}

// settableNow gives a settable variable as later runs have left it, from those of
// today; is tells whether there is one. What a file says otherwise is another one.
func settableNow(w Variable, now []Variable) (_ Variable, is bool) {
	n := slices.IndexFunc(now, func(n Variable) bool { return n.Key == w.Key && n.Settable && n.isVar() && n.First == w.First })
	if !w.Settable || n < 0 {
		return w, false
	}
	w.Value, w.Encrypted = now[n].Value, now[n].Encrypted
	return w, true
}
