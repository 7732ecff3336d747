package stack

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"slipway/engine"
	"slipway/ingress"
	"slipway/project"
	"slipway/secret"
)

func ended(n int64, at time.Duration, ran time.Duration, x engine.Exit) engine.Instance {
	x.Ended = t0.Add(at)
	x.Started = x.Ended.Add(-ran)
	return engine.Instance{ID: instanceID("s", n), Service: "s", Hash: "d.1", State: engine.Ended, Exit: &x}
}

func TestNoteDoublesTheDelay(t *testing.T) {
	t.Parallel()
	w := Wanted{ID: "s", Hash: "d.1", Policy: Always}
	var delays []time.Duration
	at := time.Duration(0)
	for n := range int64(9) {
		w.History = Note(w, []engine.Instance{ended(n+1, at, 0, engine.Exit{Code: 1})}, t0.Add(at))
		delays = append(delays, w.History.NotBefore.Sub(t0.Add(at)))
		at += delays[n]
		if looping := n >= 4; w.History.Looping != looping {
			t.Errorf("exit %d: looping is %v", n+1, w.History.Looping)
		}
	}
	s := time.Second
	if want := []time.Duration{s, 2 * s, 4 * s, 8 * s, 16 * s, 32 * s, 60 * s, 60 * s, 60 * s}; !slices.Equal(delays, want) {
		t.Errorf("got %v, want %v", delays, want)
	}
	// Seen twice, counted once.
	again := Note(w, []engine.Instance{ended(9, at, 0, engine.Exit{Code: 1})}, t0.Add(at))
	if again.N != 9 || again.Level != w.History.Level {
		t.Errorf("got %+v", again)
	}
	// A steady run ends it, a long one makes the delay short again.
	w.History = Note(w, []engine.Instance{ended(10, time.Hour, 30*s, engine.Exit{Code: 1})}, t0.Add(time.Hour))
	if w.History.Looping || w.History.Level == 1 {
		t.Errorf("got %+v", w.History)
	}
	w.History = Note(w, []engine.Instance{ended(11, 2*time.Hour, time.Hour, engine.Exit{Code: 1})}, t0.Add(2*time.Hour))
	if d := w.History.NotBefore.Sub(t0.Add(2 * time.Hour)); d != s {
		t.Errorf("got %v", d)
	}
	// The host is not the service's fault.
	w.History = Note(w, []engine.Instance{ended(12, 3*time.Hour, s, engine.Exit{Code: -1, Reason: engine.ReasonHost})}, t0.Add(3*time.Hour))
	if w.History.NotBefore.After(t0.Add(3*time.Hour)) || len(w.History.Exits) != 5 {
		t.Errorf("got %+v", w.History)
	}
	// Another definition begins anew.
	w.Hash = "e.2"
	if over, _ := w.over(); over {
		t.Error("it is over before it began")
	}
}

func TestStatusTable(t *testing.T) {
	t.Parallel()
	addr := netip.MustParseAddr("10.0.0.9")
	up := func(n int64, hash string, ago time.Duration) engine.Instance {
		i := instance(instanceID("s", n), hash, engine.Running, ago)
		i.Addr = addr
		return i
	}
	failed := History{N: 2, Hash: "new.1", Code: 7, NotBefore: t0.Add(time.Second)}
	looping := failed
	looping.Looping = true
	for name, c := range map[string]struct {
		w    Wanted
		have []engine.Instance
		want Status
		says string
		fail bool
	}{
		"new":                          {w: Wanted{Spec: &engine.ServiceSpec{}}, want: Creating},
		"new, no image":                {w: Wanted{Problem: "no image"}, want: Creating, says: "no image"},
		"ran before, no image":         {w: Wanted{Problem: "no image", Ran: true}, have: []engine.Instance{up(1, "old.1", 0)}, want: Starting, says: "no image; the earlier container still serves"},
		"running":                      {w: Wanted{}, have: []engine.Instance{up(1, "new.1", 0)}, want: Running},
		"starting":                     {w: Wanted{Ran: true}, have: []engine.Instance{instance("s.1", "new.1", engine.Starting, 0)}, want: Starting},
		"being replaced":               {w: Wanted{Ran: true, Spec: &engine.ServiceSpec{}}, have: []engine.Instance{up(1, "old.1", 0)}, want: Starting},
		"stopping":                     {w: Wanted{Stopped: true}, have: []engine.Instance{up(1, "new.1", 0)}, want: Stopping},
		"stopped":                      {w: Wanted{Stopped: true}, want: Stopped},
		"ended well, for good":         {w: Wanted{Policy: RestartNo, History: History{N: 1, Hash: "new.1"}}, want: Stopped, says: "exited with code 0"},
		"ended well, once more":        {w: Wanted{Policy: Always, History: History{N: 1, Hash: "new.1"}}, want: Starting, says: "exited with code 0; it is started again"},
		"ended well, on failure":       {w: Wanted{Policy: OnFailure, History: History{N: 1, Hash: "new.1"}}, want: Stopped},
		"ended badly, for good":        {w: Wanted{Policy: RestartNo, History: failed}, want: Error, says: "exited with code 7; it is not started again (restart policy no)"},
		"ended badly, once more":       {w: Wanted{Policy: OnFailure, History: failed}, want: Starting, says: "exited with code 7; it is started again"},
		"again and again":              {w: Wanted{Policy: Always, History: looping}, want: Error, says: "ends again and again, at last: exited with code 7; it is still tried"},
		"again and again, started":     {w: Wanted{Policy: Always, History: looping}, have: []engine.Instance{up(3, "new.1", time.Second)}, want: Error},
		"again and again, then steady": {w: Wanted{Policy: Always, History: looping}, have: []engine.Instance{up(3, "new.1", steady)}, want: Running},
		"a replacement that does not start": {
			w: Wanted{Policy: Always, Ran: true, History: failed}, have: []engine.Instance{up(1, "old.1", time.Hour)}, want: Error,
			says: "exited with code 7; the earlier container still serves", fail: true,
		},
		"out of memory":     {w: Wanted{Policy: Always, History: History{N: 1, Hash: "new.1", OOM: true, Code: 137}}, want: Starting, says: "ran out of memory; it is started again"},
		"the machinery":     {w: Wanted{Policy: RestartNo, History: History{N: 1, Hash: "new.1", Code: -1, Reason: notStarted, Message: "could not be started: x"}}, want: Starting},
		"the host":          {w: Wanted{Policy: Always, History: History{N: 1, Hash: "new.1", Code: -1, Reason: engine.ReasonHost}}, want: Starting, says: "the host was restarted; it is started again"},
		"removed elsewhere": {w: Wanted{Policy: Always, History: History{N: 1, Hash: "new.1", Code: -1, Reason: engine.ReasonLost}}, want: Starting, says: "its container was lost; it is started again"},
	} {
		t.Run(name, func(t *testing.T) {
			c.w.ID, c.w.Hash = "s", "new.1"
			got := Statuses(Want{Services: []Wanted{c.w}}, c.have, t0)["s"]
			if got.Status != c.want || c.says != "" && got.Message != c.says || got.Failed != c.fail {
				t.Errorf("got %+v, want %s %q", got, c.want, c.says)
			}
			if runs := len(c.have) > 0 && c.have[0].Addr.IsValid() && !c.w.Stopped; got.Addr.IsValid() != runs {
				t.Errorf("got %+v", got)
			}
		})
	}
}

func TestMergeOfPatches(t *testing.T) {
	t.Parallel()
	have := Declaration{
		Services: map[string]Declared{"web": {Description: "Web", Definition: Definition{Image: "a", Env: map[string]string{"A": "1"}, Mounts: []Mount{{Volume: "used", Target: "/u"}}}}},
		Volumes:  map[string]string{"used": "used", "idle": "idle"},
	}
	got := Patch{
		Services: map[string]ServicePatch{"web": {Image: ptr("b"), Env: &map[string]string{"B": "2"}}, "gone": {Remove: true}},
		Volumes:  map[string]VolumePatch{"used": {}, "idle": {}, "new": {}, "back": {Name: ptr("Back")}, "orphan": {}},
	}.merge(have, map[string]string{"back": "old", "orphan": "orphan"})
	web := got.Services["web"]
	if web.Image != "b" || web.Description != "Web" || len(web.Env) != 1 || web.Env["B"] != "2" || len(web.Mounts) != 1 || len(got.Services) != 1 {
		t.Errorf("got %+v", got.Services)
	}
	if want := map[string]string{"used": "used", "new": "new", "back": "Back"}; !equalMaps(got.Volumes, want) {
		t.Errorf("got %v, want %v", got.Volumes, want)
	}
	if have.Services["web"].Image != "a" || len(have.Volumes) != 2 {
		t.Errorf("the patch changed what was there: %+v", have)
	}
	if s, v, found := (Declaration{Services: have.Services}).missing(); !found || s != "web" || v != "used" {
		t.Errorf("got %s %s", s, v)
	}
}

func equalMaps(a, b map[string]string) bool {
	if len(a) != len(b) {
		return false
	}
	for k, v := range a {
		if w, ok := b[k]; !ok || v != w {
			return false
		}
	}
	return true
}

func TestValidateFindsEverything(t *testing.T) {
	t.Parallel()
	err := Declaration{
		Services: map[string]Declared{
			"ok":  {Restart: OnFailure, Definition: Definition{Image: "nginx", Limits: Limits{CPUs: "0.5", Memory: "512mb"}}},
			"-a":  {Definition: Definition{Image: "nginx"}},
			"web": {Definition: Definition{Image: "nginx"}},
			"Web": {Restart: "never", Description: "a\x00", Definition: Definition{
				Env:     map[string]string{"": "x", "A": "\x00", "B": strings.Repeat("x", secret.MaxWord-1), "C": strings.Repeat("x", secret.MaxWord-2)},
				Command: []string{"a", "b\x00", strings.Repeat("x", secret.MaxWord+1), strings.Repeat("x", secret.MaxWord)}, StopGrace: -1, Limits: Limits{CPUs: "0x1", Memory: "1k"},
				Ports:  []Port{{0, 80, "tcp"}, {80, 80, "icmp"}, {80, 80, "tcp"}, {80, 81, "tcp"}, {80, 80, "udp"}},
				Mounts: []Mount{{Volume: "v", Target: "/a"}, {Volume: "v", Target: "/a/"}, {Volume: "v", Home: "p-1", Target: "/b"}, {Volume: "v", Target: "/"}, {Home: "p-1", Path: "../x", Target: "/c"}, {Home: "p-1", Path: "x\x00", Target: "/d"}},
			}},
		},
		Volumes: map[string]string{"v": "", "w": "v", "a/b": ""},
	}.Validate()
	bad, ok := project.AsInvalid(err)
	if !ok {
		t.Fatal(err)
	}
	var got []string
	for _, f := range bad.Fields {
		got = append(got, f.Path+" "+f.Kind)
	}
	want := []string{
		"services.-a format", "services.Web.description format", "services.Web.restartPolicy enum", "services.Web.image required", "services.Web.command.1 format",
		"services.Web.command.2 maximum", "services.Web.environment. format", "services.Web.environment.A format", "services.Web.environment.B maximum", "services.Web.ports.0 format", "services.Web.ports.1 format",
		"services.Web.ports.3 conflict", "services.Web.volumes.1 conflict", "services.Web.volumes.2 format", "services.Web.volumes.3 format",
		"services.Web.volumes.4 format", "services.Web.volumes.5 format", "services.Web.deploy.resources.limits.cpus format", "services.Web.deploy.resources.limits.memory format",
		"services.Web.stop_grace_period minimum", "services.web conflict", "volumes.a/b format", "volumes.w.name conflict",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestLimits(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]int64{"512mb": 512 << 20, "1g": 1 << 30, "1.5GB": 3 << 29, "8388608": 8 << 20, "8192k": 8 << 20, "": 0} {
		if got, err := (Limits{Memory: in}).memory(); err != nil || got != want {
			t.Errorf("%s: %d, %v", in, got, err)
		}
	}
	for _, in := range []string{"1", "mb", "-5mb", "1tb", "1e9", "NaN", "9999999gb", "5 mb"} {
		if got, err := (Limits{Memory: in}).memory(); err == nil {
			t.Errorf("%s was taken for %d", in, got)
		}
	}
	for _, in := range []string{"0", "-1", "NaN", "Inf", "1e3", "x", "99999", "0.009", "0.00000001"} {
		if got, err := (Limits{CPUs: in}).cpus(); err == nil {
			t.Errorf("%s was taken for %v", in, got)
		}
	}
}

func TestNamesOfTwoStacks(t *testing.T) {
	t.Parallel()
	a, b, c := netip.MustParseAddr("10.1.0.2"), netip.MustParseAddr("10.1.0.3"), netip.MustParseAddr("10.1.0.4")
	places := []place{
		{Stack: "1", Project: "p", Prefix: "p-1", Askers: []netip.Addr{a}, Services: []placed{{ID: "x", Name: "Web", Addr: a}, {ID: "y", Name: "db"}}},
		{Stack: "2", Project: "p", Prefix: "s-2", Askers: []netip.Addr{b, c}, Services: []placed{{ID: "z", Name: "web", Addr: b}, {ID: "u", Name: "cache", Addr: c, Ports: []Port{{8080, 80, "tcp"}}}}},
		{Stack: "3", Project: "q", Prefix: "p-3", Services: []placed{{ID: "v", Name: "web", Addr: a}}},
	}
	in := ingress.Ingress{Project: "p", Hostname: "h", Enabled: true, Paths: []ingress.Path{{Path: "/", Service: "u", Port: "8080/tcp"}, {Path: "/q", Service: "v", Port: "80/tcp"}}}
	tb := build([]ingress.Ingress{in}, places, []ingress.Network{{Name: "p"}, {Name: "q"}})
	z := tb.Zones[0]
	for _, q := range []struct {
		from netip.Addr
		name string
		want netip.Addr
		ok   bool
	}{
		{a, "web", a, true},
		{b, "WEB.", b, true},
		{b, "web.p-1", a, true},
		{a, "web.s-2", b, true},
		{a, "db", netip.Addr{}, true},     // there, but not running
		{a, "cache", netip.Addr{}, false}, // of another stack
		{a, "cache.s-2", c, true},
		{netip.MustParseAddr("10.1.0.9"), "cache", c, true},               // not known yet: only one can be meant
		{netip.MustParseAddr("10.1.0.9"), "web", netip.Addr{}, false},     // two could be
		{netip.MustParseAddr("10.1.0.9"), "web.p-3", netip.Addr{}, false}, // another project
	} {
		got, ok := z.Lookup(q.from, q.name)
		if ok != q.ok || len(got) > 0 != q.want.IsValid() || len(got) > 0 && got[0] != q.want {
			t.Errorf("%s asks for %s: %v, %v", q.from, q.name, got, ok)
		}
	}
	h := tb.Hosts["h"]
	if r, _ := h.Match("/"); len(r.Backends) != 1 || r.Backends[0] != netip.AddrPortFrom(c, 80) {
		t.Errorf("got %+v", r)
	}
	if r, _ := h.Match("/q"); len(r.Backends) != 0 {
		t.Errorf("a service of another project is served: %+v", r)
	}
}

func FuzzParsePort(f *testing.F) {
	for _, s := range []string{"80", "80/tcp", "8080:80/udp", "1-3:4-6/sctp", "0", "65536", "a", "1-99999", "+1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		ports, err := ParsePort(s)
		if err != nil {
			return
		}
		for _, p := range ports {
			again, err := ParsePort(p.String())
			if err != nil || len(again) != 1 || again[0] != p || p.Public == 0 || p.Target == 0 {
				t.Errorf("%q gives %v, which gives %v, %v", s, p, again, err)
			}
		}
	})
}

func FuzzParseMount(f *testing.F) {
	for _, s := range []string{"data:/x", "data:/x:ro", "/home/p-abc123/html:/x", "/home/../etc:/x", "./a:/x", "a:b:c:d", ":/x", "~:/x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		m, err := ParseMount(s)
		if err != nil {
			return
		}
		if (m.Volume == "") == (m.Home == "") || strings.Contains(m.Path, "..") && slices.Contains(strings.Split(m.Path, "/"), "..") {
			t.Errorf("%q gives %+v", s, m)
		}
		if again, err := ParseMount(m.String()); err != nil || again != m {
			t.Errorf("%q gives %+v, which gives %+v, %v", s, m, again, err)
		}
	})
}
