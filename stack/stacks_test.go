package stack

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"slipway/access"
	"slipway/engine"
	"slipway/ingress"
	"slipway/logs"
	"slipway/project"
)

func TestDefaultStackIsThereFromTheFirstMoment(t *testing.T) {
	t.Parallel()
	w := newRig(t)
	all, err := w.List(t.Context(), w.admin, Filter{})
	w.must(err)
	if len(all) != 1 || string(all[0].ID) != string(w.pr.ID) || all[0].Description != "default" || all[0].Prefix != w.pr.ShortID || !all[0].Default() {
		t.Errorf("got %+v", all)
	}
	other, err := w.projects.Create(t.Context(), w.admin, w.home.ID, project.New{Name: "other"})
	w.must(err)
	if s, err := w.Get(t.Context(), w.admin, ID(other.ID)); err != nil || s.Project != other.ID {
		t.Errorf("got %+v, %v", s, err)
	}
	if err := w.Delete(t.Context(), w.admin, w.id()); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("got %v, want that the default stack stays", err)
	}
}

func TestPutRunsAndRepeatsWithoutChange(t *testing.T) {
	t.Parallel()
	w := newRig(t)
	def := map[string]Definition{"web": {Image: "app:1", Env: map[string]string{"A": "b c"}, Command: []string{"/bin/sh", "-c", "echo $A"}, Ports: []Port{{80, 80, "tcp"}}}}
	s := w.put(def)
	if len(s.Services) != 1 || s.Services[0].Status != Creating || s.Services[0].ID == "" || !strings.HasPrefix(s.Services[0].ShortID, "c-") {
		t.Fatalf("got %+v", s)
	}
	web := w.untilStatus("web", Running)
	w.rest()
	before, calls := w.get(), len(w.eng.Calls())
	after := w.put(def)
	if after.Generation != before.Generation || web.StatusSet.IsZero() || web.DeployedDigest == "" || web.RequiresRecreate {
		t.Errorf("got %+v, then %+v", before, after)
	}
	for _, c := range w.eng.Calls()[calls:] {
		if strings.HasPrefix(c, "Apply") {
			t.Errorf("the same declaration led to %s", c)
		}
	}
	var lines []string
	w.until("the log is there", func() bool {
		lines = nil
		w.must(w.Logs(t.Context(), w.admin, w.id(), web.ShortID, 0, func(l []logs.Line) error {
			for _, x := range l {
				lines = append(lines, x.Text)
			}
			return nil
		}))
		return len(lines) > 0
	})
	if !slices.Equal(lines, []string{"b c"}) {
		t.Errorf("got %q", lines)
	}
}

func TestChangeWaitsForRecreateAndIsNeverUnserved(t *testing.T) {
	t.Parallel()
	w := newRig(t)
	w.put(map[string]Definition{"web": {Image: "app:1", Ports: []Port{{80, 80, "tcp"}}}})
	old := w.untilStatus("web", Running)
	_, err := w.rooms.Ingresses.Create(t.Context(), w.admin, w.pr.ID, "web.example.com", []ingress.Path{{Path: "/", Service: string(old.ID), Port: "80/tcp"}})
	w.must(err)
	routed := func() bool { return backends(w.table.last()) > 0 }
	w.until("it is routed", routed)
	from := len(w.table.all)

	s := w.put(map[string]Definition{"web": {Image: "app:2", Ports: []Port{{80, 80, "tcp"}}}})
	if web := s.Services[0]; !web.RequiresRecreate || web.Declared.Image != "app:2" || web.Deployed.Image != "app:1" || web.Status != Running {
		t.Fatalf("got %+v", web)
	}
	w.must(w.Recreate(t.Context(), w.admin, w.id(), string(old.ID)))
	if web := w.service("web"); web.Status == Running && web.Deployed.Image == "app:1" {
		t.Errorf("the old container is taken for the new one: %+v", web)
	}
	w.untilStatus("web", Running)
	web := w.service("web")
	if web.Deployed.Image != "app:2" || web.RequiresRecreate {
		t.Errorf("got %+v", web)
	}
	if i := w.only(old.ID); i.ID != instanceID(old.ID, 2) {
		t.Errorf("got %+v", i)
	}
	w.table.mu.Lock()
	defer w.table.mu.Unlock()
	for _, tb := range w.table.all[from:] {
		if backends(tb) == 0 {
			t.Errorf("a table without a backend was served: %+v", tb)
		}
	}
}

func backends(t ingress.Table) int {
	n := 0
	for _, r := range t.Hosts["web.example.com"].Routes {
		n += len(r.Backends)
	}
	return n
}

func TestVolumeThatBothWriteStopsTheOldOneFirst(t *testing.T) {
	t.Parallel()
	w := newRig(t)
	m := []Mount{{Volume: "data", Target: "/data"}}
	w.put(map[string]Definition{"web": {Image: "app:1", Mounts: m}}, "data")
	web := w.untilStatus("web", Running)
	w.must(w.Restart(t.Context(), w.admin, w.id(), web.ShortID))
	if s := w.service("web").Status; s != Starting {
		t.Errorf("got %s", s)
	}
	w.untilStatus("web", Running)
	var seq []string
	for _, c := range w.eng.Calls() {
		if f := strings.Fields(c); f[0] == "Apply" && f[1] != "remove" {
			seq = append(seq, f[1])
		}
	}
	// A stop may be asked for twice when it ends while it is looked at.
	if seq = slices.Compact(seq); !slices.Equal(seq, []string{"start", "stop", "start"}) {
		t.Errorf("got %v", seq)
	}
	// The volume is detached, keeps its id, and comes back.
	v := w.get().Volumes[0]
	if err := w.DeleteVolume(t.Context(), w.admin, w.id(), v.ID); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("a volume in use: %v", err)
	}
	w.put(nil)
	if o := w.get().Volumes[0]; !o.Orphaned || o.ID != v.ID || len(o.Services) > 0 || len(v.Services) != 1 {
		t.Errorf("got %+v after %+v", o, v)
	}
	w.put(map[string]Definition{"web": {Image: "app:1", Mounts: m}}, "data")
	if o := w.get().Volumes[0]; o.Orphaned || o.ID != v.ID {
		t.Errorf("got %+v", o)
	}
	w.untilStatus("web", Running)
	w.put(nil)
	w.must(w.DeleteVolume(t.Context(), w.admin, w.id(), v.ID))
	w.until("the data is gone", func() bool {
		_, err := w.eng.Volumes().Usage(t.Context(), v.ID.Engine())
		return errdefs.IsNotFound(err)
	})
	if len(w.get().Volumes) > 0 {
		t.Error("a deleted volume is still there")
	}
}

func TestStopStartRestart(t *testing.T) {
	t.Parallel()
	w := newRig(t)
	w.put(map[string]Definition{"web": {Image: "app:1"}})
	web := w.untilStatus("web", Running)
	ctx, id := t.Context(), w.id()
	if err := w.Start(ctx, w.admin, id, web.ShortID); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "it is already running") {
		t.Errorf("got %v", err)
	}
	w.must(w.Stop(ctx, w.admin, id, web.ShortID))
	if s := w.service("web").Status; s != Stopping && s != Stopped {
		t.Errorf("got %s", s)
	}
	w.untilStatus("web", Stopped)
	if err := w.Stop(ctx, w.admin, id, web.ShortID); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("got %v", err)
	}
	w.rest()
	w.until("nothing is left", func() bool { return len(w.have()) == 0 })
	w.die() // stays stopped
	w.rest()
	if s := w.service("web").Status; s != Stopped {
		t.Errorf("got %s", s)
	}
	w.must(w.Start(ctx, w.admin, id, string(web.ID)))
	w.untilStatus("web", Running)
	w.must(w.Restart(ctx, w.admin, id, string(web.ID)))
	w.untilStatus("web", Running)
	if i := w.only(web.ID); i.ID != instanceID(web.ID, 3) {
		t.Errorf("got %s", i.ID)
	}
	// Force: the same definition in a new container.
	w.must(w.Recreate(ctx, w.admin, id, string(web.ID)))
	w.untilStatus("web", Running)
	if i := w.only(web.ID); i.ID != instanceID(web.ID, 4) {
		t.Errorf("got %s", i.ID)
	}
}

func TestStatusIsTrueAtOnceAndTheServiceComesBack(t *testing.T) {
	t.Parallel()
	w := newRig(t)
	w.put(map[string]Definition{"web": {Image: "app:1"}, "job": {Image: "app:1"}})
	_, err := w.Patch(t.Context(), w.admin, w.id(), Patch{Services: map[string]ServicePatch{"job": {Restart: ptr(OnFailure)}}})
	w.must(err)
	web, job := w.untilStatus("web", Running), w.untilStatus("job", Running)
	w.rest()
	at := time.Now()
	w.eng.Exit(w.only(web.ID).ID, 3)
	s := w.untilStatus("web", Starting)
	if took := time.Since(at); took > time.Second {
		t.Errorf("it took %s", took)
	}
	if !strings.Contains(s.Message, "exited with code 3") {
		t.Errorf("got %q", s.Message)
	}
	w.eng.Exit(w.only(job.ID).ID, 0)
	w.untilStatus("job", Stopped)
	w.untilStatus("web", Running)
	if took := time.Since(at); took < 900*time.Millisecond {
		t.Errorf("it was started again after %s", took)
	}
	if s := w.service("job"); s.Status != Stopped {
		t.Errorf("got %+v", s)
	}
	w.must(w.Start(t.Context(), w.admin, w.id(), job.ShortID))
	w.untilStatus("job", Running)
}

func ptr[T any](v T) *T { return &v }

func TestMissingImageIsWaitedFor(t *testing.T) {
	t.Parallel()
	w := newRig(t)
	w.put(map[string]Definition{"web": {Image: "later:1"}})
	w.until("it says why", func() bool { return strings.Contains(w.service("web").Message, "later:1") })
	if s := w.service("web"); s.Status != Creating {
		t.Errorf("got %+v", s)
	}
	w.must(w.Recreate(t.Context(), w.admin, w.id(), w.service("web").ShortID))
	w.eng.Publish("docker.io/library/later:1", w.eng.Image("echo late"))
	w.untilStatus("web", Running)

	// A push into the own registry is heard of.
	w.put(map[string]Definition{"web": {Image: "later:1"}, "own": {Image: "slipway.local/acme/own:1"}})
	w.until("it says why", func() bool { return w.service("own").Message != "" })
	w.must(w.images.Tag(t.Context(), w.admin, w.home.ID, w.eng.Image("echo own"), "acme/own:1"))
	w.untilStatus("own", Running)
}

func TestPullTakesTheNewImage(t *testing.T) {
	t.Parallel()
	w := newRig(t)
	w.put(map[string]Definition{"web": {Image: "app:1"}})
	web := w.untilStatus("web", Running)
	moved := w.eng.Image("echo moved")
	w.eng.Publish("docker.io/library/app:1", moved)
	w.must(w.Recreate(t.Context(), w.admin, w.id(), web.ShortID))
	w.untilStatus("web", Running)
	if w.service("web").DeployedDigest == moved {
		t.Error("recreate pulled")
	}
	w.must(w.Pull(t.Context(), w.admin, w.id(), web.ShortID, true))
	w.until("the new image is known", func() bool { return w.service("web").DeclaredDigest == moved })
	if s := w.service("web"); !s.RequiresRecreate || s.Status != Running {
		t.Errorf("got %+v", s)
	}
	w.must(w.Pull(t.Context(), w.admin, w.id(), web.ShortID, false))
	w.until("it runs the new image", func() bool { s := w.service("web"); return s.Status == Running && s.DeployedDigest == moved })
	w.rest()
	if s := w.service("web"); s.RequiresRecreate {
		t.Errorf("got %+v", s)
	}
}

func TestRemovedAndDeclaredAgain(t *testing.T) {
	t.Parallel()
	w := newRig(t)
	stubborn := Definition{Image: "app:1", Command: []string{"/bin/sh", "-c", "trap '' TERM"}, StopGrace: time.Hour}
	w.put(map[string]Definition{"web": stubborn})
	first := w.untilStatus("web", Running)
	w.put(nil)
	if s := w.get(); len(s.Services) > 0 {
		t.Errorf("got %+v", s.Services)
	}
	w.put(map[string]Definition{"web": {Image: "app:2"}})
	second := w.untilStatus("web", Running)
	if first.ID == second.ID || first.ShortID == second.ShortID {
		t.Errorf("got %+v after %+v", second, first)
	}
	if have := w.have(); len(have) != 2 {
		t.Errorf("got %+v", have)
	}
	w.eng.Kill(instanceID(first.ID, 1), 9)
	w.only(second.ID)
	w.until("the old one is gone", func() bool { return len(w.have()) == 1 })
}

func TestNothingIsStuckOrDoubledAfterAKill(t *testing.T) {
	t.Parallel()
	for _, call := range []string{"Apply", "Observe", "Ensure", "Pull", "Hold"} {
		t.Run(call, func(t *testing.T) {
			t.Parallel()
			w := newRig(t)
			release := w.eng.Block(call)
			w.put(map[string]Definition{"web": {Image: "app:1", Mounts: []Mount{{Volume: "data", Target: "/data"}}}}, "data")
			w.until("the call is under way", func() bool {
				return slices.ContainsFunc(w.eng.Calls(), func(c string) bool { return strings.HasPrefix(c, call) })
			})
			w.die()
			release()
			web := w.untilStatus("web", Running)
			w.rest()
			if have := w.have(); len(have) != 1 || have[0].Service != string(web.ID) {
				t.Errorf("got %+v", have)
			}
			// And in the middle of a stop.
			release = w.eng.Block("Apply")
			w.must(w.Restart(t.Context(), w.admin, w.id(), web.ShortID))
			w.die()
			release()
			w.untilStatus("web", Running)
			w.only(web.ID)
			w.rest()
		})
	}
}

func TestMachineryThatFailsIsTriedAgain(t *testing.T) {
	t.Parallel()
	w := newRig(t)
	w.eng.FailNext("Apply", errdefs.ErrUnavailable)
	w.put(map[string]Definition{"web": {Image: "app:1"}})
	w.until("it says why", func() bool { return strings.Contains(w.service("web").Message, "could not be started") })
	web := w.untilStatus("web", Running)
	if i := w.only(web.ID); number(i.ID) != 2 {
		t.Errorf("got %s", i.ID)
	}
}

func TestDeletedProjectStopsAndComesBack(t *testing.T) {
	t.Parallel()
	w := newRig(t)
	w.put(map[string]Definition{"web": {Image: "app:1", Mounts: []Mount{{Volume: "data", Target: "/data"}}}}, "data")
	web := w.untilStatus("web", Running)
	other, err := w.Create(t.Context(), w.admin, w.pr.ID, "other")
	w.must(err)
	w.must(w.Delete(t.Context(), w.admin, other.ID)) // stays deleted
	w.must(w.projects.Delete(t.Context(), w.admin, w.pr.ID))
	if _, err := w.Get(t.Context(), w.admin, w.id()); !errdefs.IsNotFound(err) {
		t.Errorf("got %v", err)
	}
	w.until("nothing runs", func() bool { return len(w.have()) == 0 })
	if ok, err := w.Living(t.Context(), w.id().Owner()); !ok || err != nil {
		t.Errorf("its volumes would be swept: %v, %v", ok, err)
	}
	_, err = w.projects.Restore(t.Context(), w.admin, w.pr.ID)
	w.must(err)
	w.until("it is back", func() bool { _, err := w.Get(t.Context(), w.admin, w.id()); return err == nil })
	if back := w.untilStatus("web", Running); back.ID != web.ID {
		t.Errorf("got %+v", back)
	}
	if _, err := w.Get(t.Context(), w.admin, other.ID); !errdefs.IsNotFound(err) {
		t.Errorf("got %v", err)
	}
	w.must(w.projects.Delete(t.Context(), w.admin, w.pr.ID))
	_, err = w.projects.Remove(t.Context(), 0)
	w.must(err)
	w.until("all of it is gone", func() bool {
		owners, err := w.eng.Owners(t.Context())
		w.must(err)
		ok, err := w.Living(t.Context(), w.id().Owner())
		w.must(err)
		return !ok && !slices.Contains(owners, w.id().Owner())
	})
	if ok, _ := w.Living(t.Context(), "execution/x"); !ok {
		t.Error("an owner of others is judged")
	}
}

func TestEnvironmentIsNotReadFromTheDisk(t *testing.T) {
	t.Parallel()
	w := newRig(t)
	w.put(map[string]Definition{"web": {Image: "app:1", Env: map[string]string{"KEY": "very-secret-text"}}})
	w.untilStatus("web", Running)
	if got := w.service("web").Declared.Env["KEY"]; got != "very-secret-text" {
		t.Errorf("got %q", got)
	}
	files, err := filepath.Glob(filepath.Join(w.dir, "x.db*"))
	w.must(err)
	for _, f := range files {
		b, err := os.ReadFile(f)
		w.must(err)
		if bytes.Contains(b, []byte("very-secret-text")) {
			t.Errorf("%s has the value", f)
		}
	}
}

func TestWhoMaySeeAndChange(t *testing.T) {
	t.Parallel()
	w := newRig(t)
	w.put(map[string]Definition{"web": {Image: "app:1"}})
	_, secret, err := w.access.CreateToken(t.Context(), w.admin, access.NewToken{Name: "reader", Scopes: []access.Scope{access.Workspace, access.StackRead}})
	w.must(err)
	reader, err := w.access.Authenticate(t.Context(), secret, "")
	w.must(err)
	if _, err := w.Get(t.Context(), reader, w.id()); err != nil {
		t.Error(err)
	}
	if _, err := w.Put(t.Context(), reader, w.id(), Declaration{}); !errdefs.IsPermissionDenied(err) {
		t.Errorf("got %v", err)
	}
	if _, err := w.Get(t.Context(), access.Actor{}, w.id()); !errdefs.IsNotFound(err) {
		t.Errorf("got %v", err)
	}
	if _, err := w.Put(t.Context(), access.Actor{}, w.id(), Declaration{}); !errdefs.IsNotFound(err) {
		t.Errorf("got %v", err)
	}
	if len(w.get().Services) != 1 {
		t.Error("somebody changed it")
	}
}

func TestNoRoomRefusesNewServicesOnly(t *testing.T) {
	t.Parallel()
	w := newRig(t)
	w.put(map[string]Definition{"web": {Image: "app:1"}})
	web := w.untilStatus("web", Running)
	w.stop()
	w.cfg.Room = func() error { return errdefs.ErrResourceExhausted }
	w.run()
	_, err := w.Put(t.Context(), w.admin, w.id(), Declaration{Services: map[string]Declared{
		"web": {Definition: Definition{Image: "app:2"}}, "more": {Definition: Definition{Image: "app:1"}},
	}})
	if !errdefs.IsResourceExhausted(err) {
		t.Errorf("got %v", err)
	}
	w.put(map[string]Definition{"web": {Image: "app:2"}})
	w.must(w.Recreate(t.Context(), w.admin, w.id(), web.ShortID))
	w.until("what is there goes on", func() bool { return w.service("web").Deployed.Image == "app:2" })
}

func TestReplacementThatDoesNotStartLeavesTheOldOne(t *testing.T) {
	t.Parallel()
	w := newRig(t)
	w.put(map[string]Definition{"web": {Image: "app:1"}})
	web := w.untilStatus("web", Running)
	w.put(map[string]Definition{"web": {Image: "app:2", Entrypoint: []string{"missing-program"}}})
	w.must(w.Recreate(t.Context(), w.admin, w.id(), web.ShortID))
	s := w.untilStatus("web", Error)
	if !s.RequiresRecreate || s.Deployed.Image != "app:1" || !strings.Contains(s.Message, "still serves") {
		t.Errorf("got %+v", s)
	}
	if !slices.ContainsFunc(w.have(), func(i engine.Instance) bool { return number(i.ID) == 1 && i.State == engine.Running }) {
		t.Errorf("got %+v", w.have())
	}
	w.put(map[string]Definition{"web": {Image: "app:2"}})
	w.must(w.Recreate(t.Context(), w.admin, w.id(), web.ShortID))
	if s := w.untilStatus("web", Running); s.RequiresRecreate || s.Deployed.Image != "app:2" {
		t.Errorf("got %+v", s)
	}
}
