package enginetest

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"slipway/engine"
)

// service is one start of a script.
func (s *suite) service(owner engine.Owner, script string) engine.ServiceSpec {
	id := s.id("i")
	return engine.ServiceSpec{
		ID: id, Service: "svc-" + string(owner), Hash: "h-" + id, Workspace: "w", Network: "net-" + strings.ReplaceAll(string(owner), "/", "-"),
		Name: "web", Image: s.base, Command: []string{"/bin/sh", "-c", script}, StopGrace: 300 * time.Millisecond,
		Log: filepath.Join(s.dir, "log-"+strings.ReplaceAll(string(owner), "/", "-")),
	}
}

func (s *suite) apply(t testing.TB, owner engine.Owner, c engine.Change) {
	t.Helper()
	s.ok(t, s.Engine.Apply(t.Context(), owner, c))
}

func (s *suite) observe(t testing.TB, owner engine.Owner) []engine.Instance {
	t.Helper()
	have, err := s.Engine.Observe(t.Context(), owner)
	s.ok(t, err)
	return have
}

// ended waits until an instance has, woken by Changed.
func (s *suite) ended(t testing.TB, owner engine.Owner, id string) engine.Instance {
	t.Helper()
	late := time.After(20 * time.Second)
	for {
		for _, i := range s.observe(t, owner) {
			if i.ID == id && i.State == engine.Ended {
				return i
			}
		}
		select {
		case <-s.Engine.Changed():
		case <-late:
			t.Fatalf("%s did not end, or nobody was told", id)
		}
	}
}

func (s *suite) workloads(t *testing.T) {
	owner := func() engine.Owner { return engine.Owner("stack/" + s.id("s")) }
	t.Run("start, stop, remove", func(t *testing.T) {
		o := owner()
		if have := s.observe(t, o); len(have) > 0 {
			t.Fatalf("at first: %+v", have)
		}
		spec := s.service(o, "echo up; sleep 1000")
		before := time.Now().Add(-time.Second)
		s.apply(t, o, engine.Change{Start: &spec})
		have := s.observe(t, o)
		if len(have) != 1 {
			t.Fatalf("started: %+v", have)
		}
		i := have[0]
		if i.ID != spec.ID || i.Service != spec.Service || i.Hash != spec.Hash || i.Name != spec.Name || i.Image != spec.Image || i.Network != spec.Network || i.State != engine.Running || !i.Addr.IsValid() || i.Started.Before(before) || i.Exit != nil {
			t.Errorf("started: %+v", i)
		}
		until(t, "it says that it is up", func() bool { return slices.Equal(Lines(t, spec.Log, "o"), []string{"up"}) })
		s.apply(t, o, engine.Change{Start: &spec})
		if again := s.observe(t, o); len(again) != 1 || !again[0].Started.Equal(i.Started) {
			t.Errorf("started twice: %+v", again)
		}
		if err := s.Engine.Apply(t.Context(), o, engine.Change{Remove: spec.ID}); !errdefs.IsFailedPrecondition(err) {
			t.Errorf("removing what runs: %v", err)
		}
		for range 2 {
			s.apply(t, o, engine.Change{Stop: &engine.StopSpec{ID: spec.ID, Grace: 300 * time.Millisecond}})
		}
		if have = s.observe(t, o); len(have) != 1 || have[0].State != engine.Ended || have[0].Exit == nil || have[0].Exit.Reason != engine.ReasonStop {
			t.Errorf("stopped: %+v", have)
		}
		s.apply(t, o, engine.Change{Start: &spec})
		if have = s.observe(t, o); have[0].State != engine.Ended {
			t.Errorf("the same id was started again: %+v", have)
		}
		for range 2 {
			s.apply(t, o, engine.Change{Remove: spec.ID})
		}
		if have = s.observe(t, o); len(have) > 0 {
			t.Errorf("removed: %+v", have)
		}
		if got := Lines(t, spec.Log, "o"); !slices.Equal(got, []string{"up"}) {
			t.Errorf("log: %q", got)
		}
	})
	t.Run("oldest first", func(t *testing.T) {
		o := owner()
		var want, got []string
		for range 3 {
			spec := s.service(o, "sleep 1000")
			spec.Service, spec.Log = spec.ID, spec.Log+spec.ID
			want = append(want, spec.ID)
			s.apply(t, o, engine.Change{Start: &spec})
		}
		for _, i := range s.observe(t, o) {
			got = append(got, i.ID)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%q, not %q", got, want)
		}
		s.ok(t, s.Engine.Remove(t.Context(), o))
		if have := s.observe(t, o); len(have) > 0 {
			t.Errorf("after Remove: %+v", have)
		}
	})
	s.serviceEnds(t, owner)
}

func (s *suite) serviceEnds(t *testing.T, owner func() engine.Owner) {
	t.Run("an end by itself is told", func(t *testing.T) {
		o := owner()
		spec := s.service(o, "sleep 0.3; exit 5")
		s.apply(t, o, engine.Change{Start: &spec})
		i := s.ended(t, o, spec.ID)
		if i.Exit.Code != 5 || i.Exit.Reason != "" || i.Exit.Ended.IsZero() {
			t.Errorf("got %+v", i.Exit)
		}
		s.ok(t, s.Engine.Remove(t.Context(), o))
	})
	t.Run("a failure to start is its exit", func(t *testing.T) {
		o := owner()
		spec := s.service(o, "")
		spec.Command = []string{"/bin/missing-program"}
		s.apply(t, o, engine.Change{Start: &spec})
		i := s.ended(t, o, spec.ID)
		if i.Exit.Code != 127 || !strings.Contains(i.Exit.Message, "/bin/missing-program") {
			t.Errorf("got %+v", i.Exit)
		}
		s.ok(t, s.Engine.Remove(t.Context(), o))
	})
	t.Run("an image that is not there", func(t *testing.T) {
		o := owner()
		spec := s.service(o, "sleep 1000")
		spec.Image = "sha256:" + strings.Repeat("0", 64)
		if err := s.Engine.Apply(t.Context(), o, engine.Change{Start: &spec}); !errdefs.IsNotFound(err) {
			t.Errorf("the error is %v", err)
		}
	})
	t.Run("restarts of the server are not noticed", func(t *testing.T) {
		o := owner()
		stays, ends := s.service(o, "sleep 1000"), s.service(o, "sleep 0.3; exit 8")
		ends.Service, ends.Name, ends.Log = "other", "other", ends.Log+"-other"
		s.apply(t, o, engine.Change{Start: &stays})
		s.apply(t, o, engine.Change{Start: &ends})
		before := s.observe(t, o)
		s.reopen(t)
		after := s.observe(t, o)
		if len(after) != 2 || after[0].State != engine.Running || !after[0].Started.Equal(before[0].Started) || after[0].Addr != before[0].Addr {
			t.Errorf("%+v, then %+v", before, after)
		}
		if i := s.ended(t, o, ends.ID); i.Exit.Code != 8 {
			t.Errorf("got %+v", i.Exit)
		}
		s.apply(t, o, engine.Change{Stop: &engine.StopSpec{ID: stays.ID, Grace: 300 * time.Millisecond}})
		s.ok(t, s.Engine.Remove(t.Context(), o))
	})
	t.Run("an empty change", func(t *testing.T) {
		if err := s.Engine.Apply(t.Context(), owner(), engine.Change{}); !errdefs.IsInvalidArgument(err) {
			t.Errorf("the error is %v", err)
		}
	})
}

func (s *suite) owners(t *testing.T) {
	has := func(o engine.Owner) bool {
		all, err := s.Engine.Owners(t.Context())
		s.ok(t, err)
		return slices.Contains(all, o)
	}
	t.Run("a volume", func(t *testing.T) {
		o := engine.Owner("pipeline/77001")
		v := s.volume(t, o)
		if !has(o) {
			t.Error("its owner is not listed")
		}
		for range 2 {
			s.ok(t, s.Engine.Remove(t.Context(), o))
		}
		if has(o) {
			t.Error("its owner is still listed")
		}
		if _, err := s.Engine.Volumes().Usage(t.Context(), v); !errdefs.IsNotFound(err) {
			t.Errorf("the volume: %v", err)
		}
	})
	t.Run("a run", func(t *testing.T) {
		id, spec := s.sh(t, "echo x > /vol/begun; sleep 60")
		r := s.start(t.Context(), id, spec)
		s.begun(t, spec)
		if !has(spec.Owner) {
			t.Error("its owner is not listed")
		}
		s.ok(t, s.Engine.Remove(t.Context(), spec.Owner))
		if got := <-r; got.err == nil && got.exit.Reason != engine.ReasonStop {
			t.Errorf("the run gave %+v", got.exit)
		}
		if has(spec.Owner) {
			t.Error("its owner is still listed")
		}
	})
	t.Run("an instance", func(t *testing.T) {
		o := engine.Owner("stack/" + s.id("s"))
		spec := s.service(o, "sleep 1000")
		s.apply(t, o, engine.Change{Start: &spec})
		if !has(o) {
			t.Error("its owner is not listed")
		}
		s.ok(t, s.Engine.Remove(t.Context(), o))
		if has(o) || len(s.observe(t, o)) > 0 {
			t.Error("something of it is still there")
		}
	})
}
