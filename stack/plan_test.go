package stack

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"slipway/engine"
)

var t0 = time.Date(2026, 5, 4, 3, 2, 1, 0, time.UTC)

// simulated is an engine as Plan sees it, with a clock.
type simulated struct {
	want Want
	have []engine.Instance
	now  time.Time
}

func (s *simulated) service(id string) *Wanted {
	for i := range s.want.Services {
		if string(s.want.Services[i].ID) == id {
			return &s.want.Services[i]
		}
	}
	return nil
}

func (s *simulated) note() {
	for i := range s.want.Services {
		if w := &s.want.Services[i]; !w.Gone {
			w.History = Note(*w, s.have, s.now)
		}
	}
}

func (s *simulated) apply(c engine.Change) {
	at := slices.IndexFunc(s.have, func(i engine.Instance) bool { return i.ID == subject(c) })
	switch {
	case c.Start != nil:
		i := engine.Instance{ID: c.Start.ID, Service: c.Start.Service, Hash: c.Start.Hash, State: engine.Running, Started: s.now}
		if at >= 0 {
			s.have[at] = i
		} else {
			s.have = append(s.have, i)
		}
		if w := s.service(i.Service); number(i.ID) >= w.Next {
			w.Next = number(i.ID) + 1
		}
	case c.Stop != nil && at >= 0:
		s.have[at].State = engine.Ended
		s.have[at].Exit = &engine.Exit{Code: 143, Reason: engine.ReasonStop, Started: s.have[at].Started, Ended: s.now}
	case at >= 0:
		s.have = slices.Delete(s.have, at, at+1)
	}
}

func drawWorld(t *rapid.T) *simulated {
	s := &simulated{now: t0, want: Want{Uses: map[string]Use{}}}
	volumes := []string{"a", "b", "c"}
	used := map[string]bool{}
	for n := range rapid.IntRange(0, 5).Draw(t, "services") {
		name := rapid.SampledFrom([]string{"web", "db", "job"}).Draw(t, "name")
		w := Wanted{ID: ServiceID(fmt.Sprintf("s%d", n)), Name: name}
		w.Gone = rapid.Bool().Draw(t, "gone")
		if !w.Gone && used[name] { // one of a name is not gone
			w.Gone = true
		}
		used[name] = used[name] || !w.Gone
		w.Stopped = rapid.IntRange(0, 4).Draw(t, "stopped") == 0
		w.Policy = rapid.SampledFrom([]RestartPolicy{RestartNo, OnFailure, Always, UnlessStopped}).Draw(t, "policy")
		w.Ran = rapid.Bool().Draw(t, "ran")
		var hashes []string
		for d := range rapid.IntRange(1, 3).Draw(t, "definitions") {
			id := fmt.Sprintf("d%d%d", n, d)
			mounts := rapid.SliceOfDistinct(rapid.SampledFrom(volumes), rapid.ID).Draw(t, "mounts")
			s.want.Uses[id] = Use{Mounts: mounts, Writes: mounts[:rapid.IntRange(0, len(mounts)).Draw(t, "writes")]}
			hashes = append(hashes, id+".1")
		}
		w.Hash = hashes[len(hashes)-1]
		drawInstances(t, s, &w, hashes)
		if rapid.IntRange(0, 5).Draw(t, "image") > 0 {
			w.Spec = &engine.ServiceSpec{Service: string(w.ID), Hash: w.Hash}
		}
		s.want.Services = append(s.want.Services, w)
	}
	if rapid.Bool().Draw(t, "stranger") {
		s.have = append(s.have, engine.Instance{ID: "gone.1", Service: "gone", Hash: "x.1", State: engine.Running, Started: t0.Add(-time.Hour)})
	}
	for _, v := range rapid.SliceOfDistinct(rapid.SampledFrom(volumes), rapid.ID).Draw(t, "doomed") {
		s.want.Volumes = append(s.want.Volumes, Doomed{ID: VolumeID("v" + v), Key: v, Since: t0})
	}
	s.note()
	return s
}

func drawInstances(t *rapid.T, s *simulated, w *Wanted, hashes []string) {
	w.Next = 1
	for range rapid.IntRange(0, 3).Draw(t, "instances") {
		i := engine.Instance{
			ID: instanceID(w.ID, w.Next), Service: string(w.ID), Hash: rapid.SampledFrom(hashes).Draw(t, "hash"),
			State:   rapid.SampledFrom([]engine.InstanceState{engine.Starting, engine.Running, engine.Stopping, engine.Ended}).Draw(t, "state"),
			Started: t0.Add(-time.Duration(rapid.IntRange(0, 100_000).Draw(t, "ago")) * time.Millisecond),
		}
		if i.State == engine.Ended {
			i.Exit = &engine.Exit{
				Code: rapid.IntRange(0, 1).Draw(t, "code"), Started: i.Started, Ended: t0,
				Reason: rapid.SampledFrom([]engine.Reason{engine.ReasonNone, engine.ReasonHost, engine.ReasonLost}).Draw(t, "reason"),
			}
		}
		s.have = append(s.have, i)
		w.Next++
	}
}

// TestPlanClosesTheGap: from any world, round after round, what is wanted comes
// true, no step of it is harmful, and then nothing is left to do.
func TestPlanClosesTheGap(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := drawWorld(t)
		for round := 0; ; round++ {
			d := Plan(s.want, s.have, s.now)
			checkStable(t, s, d)
			checkDecision(t, s, d)
			ends := slices.ContainsFunc(s.have, func(i engine.Instance) bool { return i.State == engine.Stopping })
			if len(d.Changes) == 0 && d.Again.IsZero() && !ends {
				break
			}
			if round > 12 {
				t.Fatalf("it does not come to rest: %v", d)
			}
			for _, c := range d.Changes {
				if c.Start != nil {
					checkStart(t, s, c.Start)
				}
				s.apply(c)
			}
			s.ripen()
			if len(d.Changes) == 0 && !d.Again.IsZero() {
				s.now = d.Again
			}
			s.note()
		}
		checkRest(t, s)
	})
}

// ripen ends what only waits for its own end.
func (s *simulated) ripen() {
	for i := range s.have {
		if s.have[i].State == engine.Stopping {
			s.have[i].State = engine.Ended
			s.have[i].Exit = &engine.Exit{Code: 143, Reason: engine.ReasonStop, Started: s.have[i].Started, Ended: s.now}
		}
	}
}

// checkStable: the order of the input does not matter.
func checkStable(t *rapid.T, s *simulated, d Decision) {
	want, have := s.want, slices.Clone(s.have)
	want.Services, want.Volumes = slices.Clone(want.Services), slices.Clone(want.Volumes)
	rand.Shuffle(len(have), func(i, j int) { have[i], have[j] = have[j], have[i] })
	rand.Shuffle(len(want.Services), func(i, j int) { want.Services[i], want.Services[j] = want.Services[j], want.Services[i] })
	rand.Shuffle(len(want.Volumes), func(i, j int) { want.Volumes[i], want.Volumes[j] = want.Volumes[j], want.Volumes[i] })
	again := Plan(want, have, s.now)
	slices.Sort(d.Forget)
	slices.Sort(again.Forget)
	// Strangers come in the order of the input; there is one at most.
	if !reflect.DeepEqual(d, again) {
		t.Fatalf("the order of the input matters:\n%v\n%v", d, again)
	}
}

// checkDecision: only what is ours and what must go is touched, and who serves
// goes on until another can.
func checkDecision(t *rapid.T, s *simulated, d Decision) {
	seen := map[string]bool{}
	for _, c := range d.Changes {
		id := subject(c)
		if seen[id] {
			t.Fatalf("%s is changed twice", id)
		}
		seen[id] = true
		at := slices.IndexFunc(s.have, func(i engine.Instance) bool { return i.ID == id })
		if at < 0 {
			if c.Start == nil {
				t.Fatalf("%s is not there", describe(c))
			}
			continue
		}
		i := s.have[at]
		w := s.service(i.Service)
		switch {
		case c.Remove != "" && i.State != engine.Ended:
			t.Fatalf("%s would be removed while it is %s", id, i.State)
		case c.Stop != nil && w != nil && !w.Gone && !w.Stopped && i.Hash != w.Hash && i.State == engine.Running:
			checkHandover(t, s, *w, i)
		}
	}
	for _, v := range d.Drop {
		for _, i := range s.have {
			if !i.Started.After(t0) && slices.Contains(s.want.Uses[definitionOf(i.Hash)].Mounts, strings.TrimPrefix(string(v), "v")) {
				t.Fatalf("volume %s would be removed, %s has it", v, i.ID)
			}
		}
	}
}

// checkHandover: an older container that runs is stopped for a reason only.
func checkHandover(t *rapid.T, s *simulated, w Wanted, old engine.Instance) {
	if over, ok := w.over(); over && ok {
		return
	}
	p := planner{want: s.want}
	if p.conflict(w, old) {
		return
	}
	for _, i := range s.have {
		if i.Service == old.Service && i.Hash == w.Hash && i.State == engine.Running && !s.now.Before(i.Started.Add(settle)) {
			return
		}
	}
	t.Fatalf("%s serves and nobody is ready to follow it", old.ID)
}

// checkStart: no two containers of a name write to one volume.
func checkStart(t *rapid.T, s *simulated, spec *engine.ServiceSpec) {
	w := s.service(spec.Service)
	p := planner{want: s.want}
	for _, i := range s.have {
		o := s.service(i.Service)
		if o == nil || i.ID == spec.ID || i.State == engine.Ended || o.Name != w.Name || i.Hash == w.Hash {
			continue
		}
		if (o.ID == w.ID || o.Gone) && p.conflict(*w, i) && !slices.ContainsFunc(s.have, func(h engine.Instance) bool { return h.ID == spec.ID }) {
			t.Fatalf("%s starts beside %s and both write to a volume", spec.ID, i.ID)
		}
	}
	if w.Gone || w.Stopped {
		t.Fatalf("%s is not wanted", spec.ID)
	}
}

// checkRest: what is wanted is there, and nothing else.
func checkRest(t *rapid.T, s *simulated) {
	states := Statuses(s.want, s.have, s.now)
	for _, w := range s.want.Services {
		var right, other, ended int
		for _, i := range s.have {
			switch {
			case i.Service != string(w.ID):
			case i.State == engine.Ended:
				ended++
			case i.Hash == w.Hash && i.State == engine.Running:
				right++
			default:
				other++
			}
		}
		over, ok := w.over()
		runs := !w.Gone && !w.Stopped && right == 1
		switch {
		case ended > 0:
			t.Fatalf("%s: an ended instance is left", w.ID)
		case (w.Gone || w.Stopped) && right+other > 0:
			t.Fatalf("%s: should have ended", w.ID)
		case w.Gone:
		case !w.Stopped && !over && w.Spec != nil && (right != 1 || other > 0):
			t.Fatalf("%s: %d right, %d other", w.ID, right, other)
		case over && ok && !runs && right+other > 0 && w.Spec != nil:
			t.Fatalf("%s: an older container is left", w.ID)
		case runs != (states[w.ID].Status == Running) && states[w.ID].Status != Error:
			t.Fatalf("%s: %v though %d right", w.ID, states[w.ID], right)
		}
	}
	for _, i := range s.have {
		if s.service(i.Service) == nil {
			t.Fatalf("%s is of nobody", i.ID)
		}
	}
}

func started(changes []engine.Change) (ids []string) {
	for _, c := range changes {
		ids = append(ids, describe(c))
	}
	return ids
}

func instance(id, hash string, state engine.InstanceState, ago time.Duration) engine.Instance {
	service, _, _ := strings.Cut(id, ".")
	return engine.Instance{ID: id, Service: service, Hash: hash, State: state, Started: t0.Add(-ago)}
}

func TestPlanTable(t *testing.T) {
	t.Parallel()
	spec := func(hash string) *engine.ServiceSpec { return &engine.ServiceSpec{Service: "s", Hash: hash} }
	shared := map[string]Use{"old": {Mounts: []string{"d"}, Writes: []string{"d"}}, "new": {Mounts: []string{"d"}, Writes: []string{"d"}}}
	reads := map[string]Use{"old": {Mounts: []string{"d"}, Writes: []string{"d"}}, "new": {Mounts: []string{"d"}}}
	for name, c := range map[string]struct {
		w     []Wanted
		uses  map[string]Use
		have  []engine.Instance
		want  []string
		again time.Duration
	}{
		"a new one starts":     {w: []Wanted{{ID: "s", Hash: "new.1", Spec: spec("new.1"), Next: 1}}, want: []string{"start s.1"}},
		"its image is missing": {w: []Wanted{{ID: "s", Hash: "new.1", Next: 1}}},
		"all is well":          {w: []Wanted{{ID: "s", Hash: "new.1", Spec: spec("new.1"), Next: 2}}, have: []engine.Instance{instance("s.1", "new.1", engine.Running, 0)}},
		"the new one starts first": {
			w: []Wanted{{ID: "s", Hash: "new.2", Spec: spec("new.2"), Next: 2}}, have: []engine.Instance{instance("s.1", "old.1", engine.Running, time.Hour)},
			want: []string{"start s.2"},
		},
		"it has to settle": {
			w: []Wanted{{ID: "s", Hash: "new.2", Spec: spec("new.2"), Next: 3}}, again: settle - 100*time.Millisecond,
			have: []engine.Instance{instance("s.1", "old.1", engine.Running, time.Hour), instance("s.2", "new.2", engine.Running, 100*time.Millisecond)},
		},
		"then the old one stops": {
			w: []Wanted{{ID: "s", Hash: "new.2", Spec: spec("new.2"), Next: 3}}, want: []string{"stop s.1"},
			have: []engine.Instance{instance("s.1", "old.1", engine.Running, time.Hour), instance("s.2", "new.2", engine.Running, settle)},
		},
		"both write to a volume: the old one stops first": {
			w: []Wanted{{ID: "s", Hash: "new.2", Spec: spec("new.2"), Next: 2}}, uses: shared,
			have: []engine.Instance{instance("s.1", "old.1", engine.Running, time.Hour)}, want: []string{"stop s.1"},
		},
		"only one writes": {
			w: []Wanted{{ID: "s", Hash: "new.2", Spec: spec("new.2"), Next: 2}}, uses: reads,
			have: []engine.Instance{instance("s.1", "old.1", engine.Running, time.Hour)}, want: []string{"start s.2"},
		},
		"the old one does not run": {
			w:    []Wanted{{ID: "s", Hash: "new.2", Spec: spec("new.2"), Next: 2}},
			have: []engine.Instance{instance("s.1", "old.1", engine.Stopping, time.Hour)}, want: []string{"stop s.1"},
		},
		"declared again: beside the one that stops": {
			w:    []Wanted{{ID: "r", Name: "web", Gone: true, Hash: "old.1"}, {ID: "s", Name: "web", Hash: "new.1", Spec: spec("new.1"), Next: 1}},
			have: []engine.Instance{instance("r.1", "old.1", engine.Running, time.Hour)}, want: []string{"stop r.1", "start s.1"},
		},
		"declared again: both write": {
			w:    []Wanted{{ID: "r", Name: "web", Gone: true, Hash: "old.1"}, {ID: "s", Name: "web", Hash: "new.1", Spec: spec("new.1"), Next: 1}},
			uses: shared, have: []engine.Instance{instance("r.1", "old.1", engine.Running, time.Hour)}, want: []string{"stop r.1"},
		},
		"two of other names may write to one volume": {
			w:    []Wanted{{ID: "r", Name: "db", Hash: "old.1"}, {ID: "s", Name: "web", Hash: "new.1", Spec: spec("new.1"), Next: 1}},
			uses: shared, have: []engine.Instance{instance("r.1", "old.1", engine.Running, time.Hour)}, want: []string{"start s.1"},
		},
		"a server died in the middle of a start": {
			w: []Wanted{{ID: "s", Hash: "new.1", Spec: spec("new.1"), Next: 2}}, have: []engine.Instance{instance("s.1", "new.1", engine.Starting, 0)},
			want: []string{"start s.1"},
		},
		"back-off": {
			w:     []Wanted{{ID: "s", Hash: "new.1", Spec: spec("new.1"), Next: 2, Policy: Always, History: History{N: 1, Hash: "new.1", NotBefore: t0.Add(time.Second)}}},
			again: time.Second, have: []engine.Instance{instance("s.1", "new.1", engine.Ended, 0)}, want: []string{"remove s.1"},
		},
		"a failed start is stopped before the next": {
			w:    []Wanted{{ID: "s", Hash: "new.1", Spec: spec("new.1"), Next: 2, Policy: Always, History: History{N: 1, Hash: "new.1", NotBefore: t0.Add(time.Second)}}},
			have: []engine.Instance{instance("s.1", "new.1", engine.Starting, 0)}, want: []string{"stop s.1"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			if c.uses == nil {
				c.uses = map[string]Use{"old": {}, "new": {}}
			}
			d := Plan(Want{Services: c.w, Uses: c.uses}, c.have, t0)
			if got := started(d.Changes); !slices.Equal(got, c.want) {
				t.Errorf("got %v, want %v", got, c.want)
			}
			if c.again > 0 && !d.Again.Equal(t0.Add(c.again)) || c.again == 0 && !d.Again.IsZero() {
				t.Errorf("again at %v, want %v", d.Again, c.again)
			}
		})
	}
}
