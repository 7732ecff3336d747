package pipeline

import "strings"

// Slots counts what steps that run at the same time take, by kind.
type Slots struct{ Runs, Builds int }

// Limits bound how many steps of a kind run at the same time; 0 is no bound.
type Limits struct{ Runs, Builds int }

func (a Action) slots() Slots {
	if a.Build != nil {
		return Slots{Builds: 1}
	}
	return Slots{Runs: 1}
}

func (s Slots) plus(o Slots) Slots  { return Slots{s.Runs + o.Runs, s.Builds + o.Builds} }
func (s Slots) minus(o Slots) Slots { return Slots{s.Runs - o.Runs, s.Builds - o.Builds} }

// within tells whether o has as many of each kind.
func (s Slots) within(o Slots) bool { return s.Runs <= o.Runs && s.Builds <= o.Builds }

// allow tells whether so many can ever run at the same time.
func (l Limits) allow(s Slots) bool {
	return (l.Runs <= 0 || s.Runs <= l.Runs) && (l.Builds <= 0 || s.Builds <= l.Builds)
}

// slotsOf is what some steps take together.
func slotsOf(x Execution, steps []int) (n Slots) {
	for _, i := range steps {
		n = n.plus(x.Steps[i].Action.slots())
	}
	return n
}

// holds is what the steps take that are in progress.
func (x Execution) holds() (n Slots) {
	for _, s := range x.Steps {
		if s.Status == InProgress {
			n = n.plus(s.Action.slots())
		}
	}
	return n
}

// wantsText writes units as they are kept: a word for each, with a letter for
// each slot.
func wantsText(units []Slots) string {
	words := make([]string, 0, len(units))
	for _, u := range units {
		words = append(words, strings.Repeat("R", u.Runs)+strings.Repeat("B", u.Builds))
	}
	return strings.Join(words, " ")
}

// readWants reads what wantsText wrote.
func readWants(text string) []Slots {
	var units []Slots
	for _, w := range strings.Fields(text) {
		units = append(units, Slots{strings.Count(w, "R"), strings.Count(w, "B")})
	}
	return units
}

// room is what is left of the slots.
type room struct {
	limits       Limits
	used         Slots
	runs, builds bool // what is left of these is kept for a unit that needs several
}

// take takes slots for a unit, all or none. What it cannot have yet is given to
// nobody after it. One that can never have its slots takes none: it is begun in
// order to be refused.
func (r *room) take(u Slots) bool {
	if !r.limits.allow(u) {
		return true
	}
	fits := func(n, used, limit int, kept bool) bool { return n == 0 || limit <= 0 || !kept && used+n <= limit }
	if fits(u.Runs, r.used.Runs, r.limits.Runs, r.runs) && fits(u.Builds, r.used.Builds, r.limits.Builds, r.builds) {
		r.used = r.used.plus(u)
		return true
	}
	r.runs, r.builds = r.runs || u.Runs > 0, r.builds || u.Builds > 0
	return false
}
