package pipeline

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"slipway/access"
	"slipway/db"
	"slipway/project"
	"slipway/secret"
)

// maxAsked bounds for how many variables an action may ask.
const maxAsked = 100

// validateAsked notes what is wrong with the variables that an action asks for.
func (a Action) validateAsked(inv *project.Invalid) {
	const at = "wait_for_variables"
	if len(a.Asks) > 0 && (a.When == OnWaitForApprove || a.When == OnTerminate) {
		inv.Add(at, "conflict", "does not go with trigger_time "+string(a.When))
	}
	if len(a.Asks) > maxAsked {
		inv.Add(at, "maximum", fmt.Sprintf("must be at most %d", maxAsked))
		return
	}
	for i, key := range a.Asks {
		switch at := at + "." + strconv.Itoa(i); {
		case len(key) > maxKey:
			inv.Add(at, "maximum", fmt.Sprintf("must be at most %d characters", maxKey))
		case !variableKey.MatchString(key):
			inv.Add(at, "format", "must be letters, digits and _, not beginning with a digit")
		case slices.Contains(a.Asks[:i], key):
			inv.Add(at, "conflict", "is there twice")
		}
	}
}

// unasked tells whether a step has to wait for variables before it is run.
func (s ActionExecution) unasked() bool { return len(s.Action.Asks) > 0 && s.Given.IsZero() }

// answers tells whether the execution has a variable that a step has asked for: that
// goes before those of the action itself.
func (x Execution) answers(s ActionExecution, key string) bool {
	return slices.Contains(s.Action.Asks, key) && x.hasVariable(key)
}

func (x Execution) hasVariable(key string) bool {
	return slices.ContainsFunc(x.Variables, func(v Variable) bool { return v.Key == key })
}

// give gives the execution the variables that steps of it wait for, and has them go
// on. ok is false if there are none.
func (p *Pipelines) give(tx *db.Tx, by access.Actor, x Execution, given []Variable) (ok bool, err error) {
	if x.Status != InProgress {
		return false, nil
	}
	var asking []ActionExecution
	for _, s := range x.Steps {
		if !s.Asking {
			continue
		}
		if err := permitAction(by, x.Frozen, s.Action, access.ExecutionRun); err != nil {
			return false, err
		}
		asking = append(asking, s)
	}
	if len(asking) == 0 {
		return false, nil
	}
	if err := p.checkGiven(tx, x, asking, given); err != nil {
		return false, err
	}
	if err := p.addVariables(tx, &x, given); err != nil {
		return false, err
	}
	for _, s := range asking {
		s.Asking, s.Given, s.Waits = false, tx.Now, waiting(s.Waits, "", tx.Now)
		if err := saveStep(tx, s); err != nil {
			return false, err
		}
	}
	if _, err := tx.Exec(`UPDATE executions SET asking = 0 WHERE id = ?`, x.ID); err != nil {
		return false, err
	}
	tx.Wake(newsTopic(x.ID))
	tx.Wake(Topic(x.ID))
	return true, tx.Due("executions", string(x.ID), tx.Now)
}

// checkGiven tells whether variables are those that steps ask for: all of them, but
// for those that have a value already. One that was hidden stays so.
func (p *Pipelines) checkGiven(tx *db.Tx, x Execution, asking []ActionExecution, given []Variable) error {
	var inv project.Invalid
	var asked []string
	for _, s := range asking {
		asked = append(asked, s.Action.Asks...)
	}
	slices.Sort(asked)
	asked = slices.Compact(asked)
	validateVariables(given, &inv)
	have := map[string]bool{}
	for i, v := range given {
		have[v.Key] = true
		if !slices.Contains(asked, v.Key) {
			inv.Add("variables."+strconv.Itoa(i)+".key", "unknown", "is not waited for: what is waited for is "+strings.Join(asked, ", "))
		}
	}
	for _, s := range asking {
		known, err := p.knownTo(tx, x, s)
		if err != nil {
			return err
		}
		for _, v := range known {
			i := slices.IndexFunc(given, func(g Variable) bool { return g.Key == v.Key })
			if i >= 0 && v.Secret() && given[i].isVar() {
				given[i].Encrypted = true
			}
		}
		for _, key := range s.Action.Asks {
			if !have[key] && !slices.ContainsFunc(known, func(v Variable) bool { return v.Key == key && v.Value != "" }) {
				inv.Add("variables", "required", fmt.Sprintf("%s is waited for, and has no value", key))
				have[key] = true // once is enough
			}
		}
	}
	return inv.Err()
}

// knownTo are the variables that a step would have of what it asks for.
func (p *Pipelines) knownTo(tx *db.Tx, x Execution, s ActionExecution) ([]Variable, error) {
	stored, err := p.secrets.EffectiveIn(tx, secret.Scope{
		Workspace: x.Workspace, Project: x.Project, Environment: x.Environment, Pipeline: int64(x.Pipeline), Action: int64(s.Action.ID),
	})
	if err != nil {
		return nil, fmt.Errorf("read the variables: %w", err)
	}
	var known []Variable
	for _, in := range []struct {
		vs         []Variable
		table, row string
		key        any
		own        bool
	}{
		{x.Frozen.Variables, "pipelines", x.Pipeline.row(), int64(x.Pipeline), x.own && x.Frozen.VariablesByYAML},
		{x.Variables, "executions", x.ID.row(), x.ID, false},
		{s.Action.Variables, "actions", s.Action.ID.row(), int64(s.Action.ID), x.own},
	} {
		hidden, err := p.hiddenOf(tx, x, in.table, in.row, in.key, in.own)
		if err != nil {
			return nil, err
		}
		for _, v := range in.vs {
			if v.Value == secret.Encrypted {
				v.Value = hidden["variables."+v.Key]
			}
			known = append(known, v)
		}
	}
	for _, w := range stored {
		if x.untrusted() && w.Encrypted {
			continue
		}
		known = append(known, Variable{Key: w.Key, Value: w.Value, Type: w.Type, Encrypted: w.Encrypted})
	}
	return known, nil
}

// addVariables gives an execution more variables, in the place of those of the same
// key.
func (p *Pipelines) addVariables(tx *db.Tx, x *Execution, more []Variable) error {
	secrets, err := p.unseal(tx, "executions", x.ID.row(), x.ID)
	if err != nil {
		return err
	}
	hidden, err := hideVariables(more, secrets)
	if err != nil {
		return err
	}
	all := map[string]string{}
	maps.Copy(all, secrets)
	for _, v := range more {
		delete(all, "variables."+v.Key)
		x.Variables = slices.DeleteFunc(slices.Clone(x.Variables), func(have Variable) bool { return have.Key == v.Key })
	}
	maps.Copy(all, hidden)
	x.Variables = append(x.Variables, more...)
	var text []byte
	if err := tx.QueryRow(`SELECT input FROM executions WHERE id = ?`, x.ID).Scan(&text); err != nil {
		return err
	}
	var in input
	if err := json.Unmarshal(text, &in); err != nil {
		return err
	}
	in.Start.Variables = x.Variables
	if text, err = json.Marshal(in); err != nil {
		return err
	}
	if _, err := tx.Exec(`UPDATE executions SET input = ? WHERE id = ?`, text, x.ID); err != nil {
		return err
	}
	return p.seal(tx, "executions", x.ID.row(), all, x.ID)
}
