package pipeline

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"slipway/db"
	"slipway/project"
	"slipway/secret"
)

// maxRounds bounds how often a loop runs its action.
const maxRounds = 1000

// looped gives the name of a variable of a loop, which may be written $NAME or
// ${NAME} too.
func looped(name string) string {
	name = strings.TrimSpace(name)
	if strings.HasPrefix(name, "$") {
		if inner, n := variableAt(name); n == len(name) {
			return inner
		}
	}
	return name
}

// validateLoop notes what is wrong with the names of a loop.
func validateLoop(inv *project.Invalid, loop []string) {
	seen := map[string]bool{}
	for i, name := range loop {
		at := fmt.Sprintf("loop.%d", i)
		inv.Text(at, name, nameMax)
		if name = looped(name); seen[name] {
			inv.Add(at, "conflict", "is there twice")
		}
		seen[name] = true
	}
}

// combinations are the rounds of a loop: one for each combination of the comma
// separated values of its variables, the last variable changing first; most is how
// many there may be.
func combinations(loop []string, vars map[string]string, most int) ([]map[string]string, error) {
	rounds := []map[string]string{{}}
	for _, name := range loop {
		name = looped(name)
		text, ok := vars[name]
		if !ok {
			return nil, fmt.Errorf("loop: there is no variable %s", name)
		}
		values := commaList(text)
		if len(rounds)*len(values) > most {
			return nil, fmt.Errorf("loop: there are more than %d combinations of the values of %s", most, strings.Join(loop, ", "))
		}
		var next []map[string]string
		for _, r := range rounds {
			for _, value := range values {
				n := map[string]string{name: value}
				for k, v := range r {
					n[k] = v
				}
				next = append(next, n)
			}
		}
		rounds = next
	}
	return rounds, nil
}

// maxRuns bounds how many executions the loop of a pipeline starts.
const maxRuns = 100

// maxSteps bounds how many actions these have together.
const maxSteps = 2000

// rounds are the executions that one start of a pipeline makes: one, or one for
// each combination of the values of the variables of its loop, with these in the
// place of that start's own.
func (p *Pipelines) rounds(tx *db.Tx, a adopted, in Start) (l [][]Variable, err error) {
	pl, given := a.pipeline, in.Variables
	if len(pl.Loop) == 0 {
		return [][]Variable{given}, nil
	}
	v, err := p.atStart(tx, a, in)
	if err != nil {
		return nil, err
	}
	all, err := combinations(pl.Loop, v.byKey, maxRuns)
	switch {
	case err != nil:
		return nil, &fatalError{err}
	case len(all) == 0:
		return nil, fatal("loop: there are no values of %s to run the pipeline with", strings.Join(pl.Loop, ", "))
	case len(all)*len(a.actions) > maxSteps:
		return nil, fatal("loop: %d runs of %d actions are %d, and one start makes at most %d actions: take fewer values of %s", len(all), len(a.actions), len(all)*len(a.actions), maxSteps, strings.Join(pl.Loop, ", "))
	}
	for _, r := range all {
		vs := slices.DeleteFunc(slices.Clone(given), func(w Variable) bool { _, is := r[w.Key]; return is })
		for _, name := range pl.Loop {
			key := looped(name)
			if !slices.ContainsFunc(vs, func(w Variable) bool { return w.Key == key }) {
				vs = append(vs, Variable{Key: key, Value: r[key], Encrypted: v.secret[key]})
			}
		}
		l = append(l, vs)
	}
	return l, nil
}

// atStart are the variables that are known before any action runs.
func (p *Pipelines) atStart(tx *db.Tx, a adopted, in Start) (*values, error) {
	v, pl := newValues(), a.pipeline
	stored, err := p.secrets.EffectiveIn(tx, secret.Scope{Workspace: pl.Workspace, Project: pl.Project, Environment: in.Environment, Pipeline: int64(pl.ID)})
	if err != nil {
		return nil, fmt.Errorf("read the variables: %w", err)
	}
	for _, w := range stored {
		v.stored(w)
	}
	hidden, err := p.unseal(tx, "pipelines", pl.ID.row(), int64(pl.ID))
	if err != nil {
		return nil, err
	}
	for _, w := range pl.Variables {
		value, ok := a.hidden[pl.ID.row()+"/variables."+w.Key] // of the file
		if !ok {
			value, ok = hidden["variables."+w.Key]
		}
		if ok && w.Value == secret.Encrypted {
			w.Value = value
		}
		v.inline(w, tierPipeline)
	}
	for _, w := range in.Variables {
		v.inline(w, tierRun)
	}
	return v, nil
}

// round gives the variables of the combination that is run now, in place of v,
// and how many there are from it on. The log says which it is.
func (h *handling) round(ctx context.Context, s ActionExecution, v *values, log *lines) (*values, int, error) {
	rounds, err := combinations(s.Action.Loop, v.byKey, maxRounds)
	if err != nil {
		return v, 0, &fatalError{err}
	}
	left := len(rounds) - s.Round
	if left <= 0 {
		h.once(ctx, log, prefixed([]string{"loop: there are no values to run this action with"}))
		return v, 0, log.err
	}
	h.fixed = rounds[s.Round]
	if v, err = h.values(ctx, s); err != nil {
		return v, 0, err
	}
	var with []string
	for _, name := range s.Action.Loop {
		name = looped(name)
		value := v.byKey[name]
		if v.secret[name] {
			value = "***"
		}
		with = append(with, name+"="+value)
	}
	h.once(ctx, log, prefixed([]string{fmt.Sprintf("loop %d of %d: %s", s.Round+1, len(rounds), strings.Join(with, ", "))}))
	return v, left, log.err
}
