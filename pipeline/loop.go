package pipeline

import (
	"context"
	"fmt"
	"strings"
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

// combinations are the rounds of a loop: one for each combination of the comma
// separated values of its variables, the last variable changing first.
func combinations(loop []string, vars map[string]string) ([]map[string]string, error) {
	rounds := []map[string]string{{}}
	for _, name := range loop {
		name = looped(name)
		text, ok := vars[name]
		if !ok {
			return nil, fmt.Errorf("loop: there is no variable %s", name)
		}
		values := commaList(text)
		if len(rounds)*len(values) > maxRounds {
			return nil, fmt.Errorf("loop: there are more than %d combinations of the values of %s", maxRounds, strings.Join(loop, ", "))
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

// round gives the variables of the combination that is run now, in place of v,
// and how many there are from it on. The log says which it is.
func (h *handling) round(ctx context.Context, s ActionExecution, v *values, log *lines) (*values, int, error) {
	rounds, err := combinations(s.Action.Loop, v.byKey)
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
