package stack

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"slipway/engine"
)

const (
	// settle is how long a new container must have run before the one it
	// replaces is stopped. The routes lead to it from its first moment; should it
	// end before, they lead back.
	settle = time.Second
	// defaultGrace is between the stop signal and SIGKILL.
	defaultGrace = 10 * time.Second
)

// Want is what a stack shall be, as the decisions need it.
type Want struct {
	Services []Wanted
	// Uses tells what the containers of a definition do with volumes; there are
	// those of every instance that may be around.
	Uses map[string]Use
	// Volumes are those that shall go, with their data.
	Volumes []Doomed
}

// Use is what the containers of a definition do with the volumes of the stack,
// by key.
type Use struct {
	Mounts, Writes []string
	Grace          time.Duration
}

// Doomed is a volume that shall go.
type Doomed struct {
	ID    VolumeID
	Key   string
	Since time.Time // who was started later mounts another volume of that key
}

// Wanted is one service as it shall be.
type Wanted struct {
	ID      ServiceID
	Name    string
	Gone    bool // removed: its containers end, then it is forgotten
	Stopped bool
	Hash    string              // of the instance that shall run
	Spec    *engine.ServiceSpec // of the next start, but for its ID; nil while the image is not there
	Problem string              // why there is no Spec, once it is known
	Policy  RestartPolicy
	Next    int64 // number of the next start
	Ran     bool  // it ran at some time
	History History
}

// Decision is what Plan found.
type Decision struct {
	Changes []engine.Change // in this order; those of different services are independent of each other
	Drop    []VolumeID      // nobody uses them any more
	Forget  []ServiceID     // nothing is left of them
	Again   time.Time       // when time alone changes the decision
}

func (d *Decision) again(t time.Time) {
	if d.Again.IsZero() || t.Before(d.Again) {
		d.Again = t
	}
}

// instances are those of one service, as Plan and Statuses look at them.
type instances struct {
	ended    []engine.Instance
	current  *engine.Instance  // has the wanted hash and has not ended
	surplus  []engine.Instance // have it too
	outdated []engine.Instance // have another one, and have not ended
}

func sortInstances(w Wanted, have []engine.Instance) instances {
	var s instances
	var same []engine.Instance
	for _, i := range have {
		switch {
		case ServiceID(i.Service) != w.ID:
		case i.State == engine.Ended:
			s.ended = append(s.ended, i)
		case i.Hash == w.Hash:
			same = append(same, i)
		default:
			s.outdated = append(s.outdated, i)
		}
	}
	byNumber := func(a, b engine.Instance) int {
		return cmp.Or(cmp.Compare(number(a.ID), number(b.ID)), cmp.Compare(a.ID, b.ID))
	}
	slices.SortFunc(s.ended, byNumber)
	slices.SortFunc(s.outdated, byNumber)
	rank := map[engine.InstanceState]int{engine.Running: 0, engine.Starting: 1, engine.Stopping: 2}
	slices.SortFunc(same, func(a, b engine.Instance) int {
		return cmp.Or(cmp.Compare(rank[a.State], rank[b.State]), byNumber(a, b))
	})
	if len(same) > 0 {
		s.current, s.surplus = &same[0], same[1:]
	}
	return s
}

func (s instances) live() []engine.Instance {
	var l []engine.Instance
	if s.current != nil {
		l = append(l, *s.current)
	}
	return append(append(l, s.surplus...), s.outdated...)
}

// number is the n of "<service>.<n>".
func number(id string) int64 {
	_, n, _ := strings.Cut(id, ".")
	i, _ := strconv.ParseInt(n, 10, 64)
	return i
}

func instanceID(s ServiceID, n int64) string { return string(s) + "." + strconv.FormatInt(n, 10) }

// Plan decides what is to be done now so that have becomes want. It is pure and
// gives the same for the same input in any order. Exits that Note has not seen
// yet are left alone.
func Plan(want Want, have []engine.Instance, now time.Time) Decision {
	p := planner{want: want, have: have, now: now}
	services := slices.SortedFunc(slices.Values(want.Services), func(a, b Wanted) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(string(a.ID), string(b.ID)))
	})
	known := map[string]bool{}
	for _, w := range services {
		known[string(w.ID)] = true
		p.service(w)
	}
	// What is marked as ours and is of no service: its row is gone.
	for _, i := range have {
		if !known[i.Service] {
			p.end(i)
		}
	}
	for _, v := range want.Volumes {
		if !p.used(v) {
			p.Drop = append(p.Drop, v.ID)
		}
	}
	slices.Sort(p.Drop)
	// Endings first: they make room.
	slices.SortStableFunc(p.Changes, func(a, b engine.Change) int { return cmp.Compare(phase(a), phase(b)) })
	return p.Decision
}

func phase(c engine.Change) int {
	switch {
	case c.Remove != "":
		return 0
	case c.Stop != nil:
		return 1
	}
	return 2
}

type planner struct {
	Decision
	want Want
	have []engine.Instance
	now  time.Time
}

func (p *planner) service(w Wanted) {
	s := sortInstances(w, p.have)
	for _, i := range s.ended {
		if w.Gone || i.Hash != w.Hash || number(i.ID) <= w.History.N {
			p.Changes = append(p.Changes, engine.Change{Remove: i.ID})
		}
	}
	if w.Gone || w.Stopped {
		for _, i := range s.live() {
			p.stop(i)
		}
		if w.Gone && len(s.live()) == 0 && len(s.ended) == 0 {
			p.Forget = append(p.Forget, w.ID)
		}
		return
	}
	for _, i := range s.surplus {
		p.stop(i)
	}
	if s.current != nil {
		p.keep(w, s)
		return
	}
	for _, i := range s.ended {
		if i.Hash == w.Hash && number(i.ID) > w.History.N {
			return // how it ended decides, and that is not noted yet
		}
	}
	p.begin(w, s)
}

// keep decides about a service whose wanted instance is there.
func (p *planner) keep(w Wanted, s instances) {
	switch s.current.State {
	case engine.Starting:
		if number(s.current.ID) <= w.History.N { // that start has failed
			p.stop(*s.current)
		} else if w.Spec != nil { // a server died while it started it
			p.start(w, s.current.ID)
		}
	case engine.Running:
		settled := s.current.Started.Add(settle)
		for _, i := range s.outdated {
			if i.State != engine.Running || !p.now.Before(settled) {
				p.stop(i)
			} else {
				p.again(settled)
			}
		}
	}
}

// begin decides about a service whose wanted instance is not there.
func (p *planner) begin(w Wanted, s instances) {
	if over, ok := w.over(); over {
		for _, i := range s.outdated {
			if ok {
				p.stop(i) // it has done its work
			}
		}
		return
	}
	if w.Spec == nil {
		return
	}
	if w.History.Hash == w.Hash && p.now.Before(w.History.NotBefore) {
		p.again(w.History.NotBefore)
		return
	}
	free := true
	for _, i := range s.outdated {
		if i.State != engine.Running || p.conflict(w, i) {
			p.stop(i)
			free = false
		}
	}
	for _, o := range p.want.Services { // one of that name that is on its way out
		if o.Gone && o.Name == w.Name && o.ID != w.ID {
			for _, i := range sortInstances(o, p.have).live() {
				free = free && !p.conflict(w, i)
			}
		}
	}
	if free {
		p.start(w, instanceID(w.ID, w.Next))
	}
}

// over tells whether the service has ended for good, and well.
func (w Wanted) over() (over, ok bool) {
	if w.History.Hash != w.Hash || w.History.Reason == notStarted {
		return false, false
	}
	ok = w.History.Code == 0 && w.History.Reason == engine.ReasonNone
	switch w.Policy {
	case RestartNo:
		return true, ok
	case OnFailure:
		return ok, ok
	}
	return false, ok
}

// conflict tells whether the next start and an instance would both write to a
// volume.
func (p *planner) conflict(w Wanted, i engine.Instance) bool {
	theirs := p.want.Uses[definitionOf(i.Hash)].Writes
	return slices.ContainsFunc(p.want.Uses[definitionOf(w.Hash)].Writes, func(v string) bool { return slices.Contains(theirs, v) })
}

// used tells whether somebody may still have a volume mounted.
func (p *planner) used(v Doomed) bool {
	return slices.ContainsFunc(p.have, func(i engine.Instance) bool {
		use, known := p.want.Uses[definitionOf(i.Hash)]
		return (!known || slices.Contains(use.Mounts, v.Key)) && !i.Started.After(v.Since)
	})
}

func (p *planner) start(w Wanted, id string) {
	spec := *w.Spec
	spec.ID = id
	p.Changes = append(p.Changes, engine.Change{Start: &spec})
}

func (p *planner) stop(i engine.Instance) {
	grace := p.want.Uses[definitionOf(i.Hash)].Grace
	if grace <= 0 {
		grace = defaultGrace
	}
	p.Changes = append(p.Changes, engine.Change{Stop: &engine.StopSpec{ID: i.ID, Grace: grace}})
}

func (p *planner) end(i engine.Instance) {
	if i.State == engine.Ended {
		p.Changes = append(p.Changes, engine.Change{Remove: i.ID})
		return
	}
	p.stop(i)
}

// subject is the instance that a change is about.
func subject(c engine.Change) string {
	switch {
	case c.Start != nil:
		return c.Start.ID
	case c.Stop != nil:
		return c.Stop.ID
	}
	return c.Remove
}

// describe is a change for a log line.
func describe(c engine.Change) string {
	switch {
	case c.Start != nil:
		return fmt.Sprintf("start %s", c.Start.ID)
	case c.Stop != nil:
		return fmt.Sprintf("stop %s", c.Stop.ID)
	}
	return fmt.Sprintf("remove %s", c.Remove)
}
