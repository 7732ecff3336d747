package pipeline

import (
	"cmp"
	"slices"
	"time"
)

// Class is what a step takes a slot of.
type Class string

// Classes.
const (
	ClassRun   Class = "RUN"
	ClassBuild Class = "BUILD"
)

func (a Action) class() Class {
	if a.Build != nil {
		return ClassBuild
	}
	return ClassRun
}

// Limits bound how many steps of a class run at the same time; 0 is no bound.
type Limits struct{ Runs, Builds int }

func (l Limits) of(c Class) int {
	if c == ClassBuild {
		return l.Builds
	}
	return l.Runs
}

// Waiting is an execution without a slot.
type Waiting struct {
	ID         ExecutionID
	Pipeline   ID
	Ref        string // branch or tag, "" without a source
	Class      Class  // of its next step; "" needs no slot
	Priority   Priority
	Queued     time.Time
	Number     int64
	NoSkip     bool
	Concurrent bool
	Begun      bool // it is between two of its steps
}

// Running is an execution that has begun. Class is that of the slot it holds,
// or "".
type Running struct {
	ID       ExecutionID
	Pipeline ID
	Class    Class
}

// Admission says what becomes of those who wait.
type Admission struct {
	Start []ExecutionID
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
// higher priorities, then older ones. Executions of one pipeline run one after
// the other unless they are concurrent, and of those that still wait for it
// the newest of a ref replaces the others unless they are not to be skipped.
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
	used, busy := map[Class]int{}, map[ID]bool{}
	for _, r := range running {
		busy[r.Pipeline] = true
		if r.Class != "" {
			used[r.Class]++
		}
	}
	for _, w := range queue {
		if w.Begun {
			busy[w.Pipeline] = true
		}
	}
	var a Admission
	type key struct {
		ID
		ref string
	}
	newest := map[key]Waiting{} // of those that stay in the queue
	var old []Waiting
	for _, w := range queue {
		n := limits.of(w.Class)
		free := w.Class == "" || n <= 0 || used[w.Class] < n
		if free && (w.Begun || w.Concurrent || !busy[w.Pipeline]) {
			a.Start = append(a.Start, w.ID)
			if w.Class != "" {
				used[w.Class]++
			}
			busy[w.Pipeline] = true
			continue
		}
		if w.Begun || w.Concurrent {
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
		a.Skip = append(a.Skip, Superseded{w.ID, newest[key{w.Pipeline, w.Ref}].Number})
	}
	return a
}
