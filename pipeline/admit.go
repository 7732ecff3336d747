package pipeline

import (
	"cmp"
	"slices"
	"time"
)

// Waiting is an execution that could go on if it had slots, or its pipeline to
// itself.
type Waiting struct {
	ID       ExecutionID
	Pipeline ID
	Ref      string // branch or tag, "" without a source
	// Start is what those have in common that one start has made; they do not
	// replace each other.
	Start ExecutionID
	// Units are what it could begin: the slots of each are taken together, or
	// not at all. Without any it needs no slot.
	Units      []Slots
	Priority   Priority
	Queued     time.Time
	Number     int64
	NoSkip     bool
	Concurrent bool
	Rerun      bool // it neither replaces others nor is replaced
	Begun      bool // it has begun, and may have steps in progress
}

// Running is an execution that has begun, with the slots it holds.
type Running struct {
	ID         ExecutionID
	Pipeline   ID
	Slots      Slots
	Concurrent bool
}

// Admission says what becomes of those who wait.
type Admission struct {
	Start []ExecutionID
	Units map[ExecutionID][]int  // which units of those in Start begin
	Wait  map[ExecutionID]string // what the others wait for
	Skip  []Superseded
}

// Superseded is an execution that is replaced by a newer one of the same
// pipeline and ref.
type Superseded struct {
	ID    ExecutionID
	Newer int64 // number of that one
}

func (a Admission) skips(id ExecutionID) bool {
	return slices.ContainsFunc(a.Skip, func(s Superseded) bool { return s.ID == id })
}

// Admit decides who may go on. Executions that have begun come first, then
// higher priorities, then older ones; what one of them needs and cannot have yet
// is kept for it. Executions of one pipeline run one after the other unless they
// are concurrent, and of those that still wait for it the newest of a ref
// replaces the others unless they are not to be skipped. One that is not
// concurrent has the pipeline to itself: those that are wait for it as well.
func Admit(queue []Waiting, running []Running, limits Limits) Admission {
	queue = slices.Clone(queue)
	rank := map[Priority]int{High: -1, Low: 1}
	slices.SortStableFunc(queue, func(a, b Waiting) int {
		if a.Begun != b.Begun {
			if a.Begun {
				return -1
			}
			return 1
		}
		return cmp.Or(cmp.Compare(rank[a.Priority], rank[b.Priority]), a.Queued.Compare(b.Queued),
			cmp.Compare(a.Number, b.Number))
	})
	left, busy, alone := room{limits: limits}, map[ID]bool{}, map[ID]bool{}
	for _, r := range running {
		busy[r.Pipeline] = true
		alone[r.Pipeline] = alone[r.Pipeline] || !r.Concurrent
		left.used = left.used.plus(r.Slots)
	}
	for _, w := range queue {
		if w.Begun {
			busy[w.Pipeline] = true
			alone[w.Pipeline] = alone[w.Pipeline] || !w.Concurrent
		}
	}
	a := Admission{Units: map[ExecutionID][]int{}, Wait: map[ExecutionID]string{}}
	var wait []Waiting
	for _, w := range queue {
		if !w.Begun && (alone[w.Pipeline] || !w.Concurrent && busy[w.Pipeline]) {
			alone[w.Pipeline] = alone[w.Pipeline] || !w.Concurrent // its turn comes before that of later ones
			a.Wait[w.ID] = WaitPipeline
			wait = append(wait, w)
			continue
		}
		var units []int
		var need Slots
		for i, u := range w.Units {
			need = need.plus(u)
			if left.take(u) {
				units = append(units, i)
			}
		}
		if len(units) == 0 && len(w.Units) > 0 {
			a.Wait[w.ID] = need.wait()
			wait = append(wait, w)
			continue
		}
		a.Start = append(a.Start, w.ID)
		if len(units) > 0 {
			a.Units[w.ID] = units
		}
		busy[w.Pipeline] = true
		alone[w.Pipeline] = alone[w.Pipeline] || !w.Concurrent
	}
	a.Skip = superseded(wait)
	return a
}

// superseded are those of who stay in the queue that a newer one replaces.
func superseded(wait []Waiting) (skip []Superseded) {
	type key struct {
		ID
		ref string
	}
	newest := map[key]Waiting{}
	var old []Waiting
	for _, w := range wait {
		if w.Begun || w.Concurrent || w.Rerun {
			continue
		}
		of := key{w.Pipeline, w.Ref}
		have, ok := newest[of]
		if !ok || w.Queued.After(have.Queued) || w.Queued.Equal(have.Queued) && w.Number > have.Number {
			newest[of], w = w, have
		}
		if ok && !w.NoSkip {
			old = append(old, w)
		}
	}
	for _, w := range old {
		if by := newest[key{w.Pipeline, w.Ref}]; w.Start == "" || w.Start != by.Start {
			skip = append(skip, Superseded{w.ID, by.Number})
		}
	}
	return skip
}
