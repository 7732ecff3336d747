package stack

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"slipway/db"
	"slipway/project"
)

// asked is how often the registry was asked for an image.
func (w *rig) asked(ref string) int {
	n := 0
	for _, c := range w.eng.Calls() {
		if strings.HasPrefix(c, "Head "+ref) || strings.HasPrefix(c, "Pull "+ref) {
			n++
		}
	}
	return n
}

func (w *rig) schedule(to Schedule) {
	w.t.Helper()
	_, err := w.Patch(context.Background(), w.admin, w.id(), Patch{Schedule: &to})
	w.must(err)
}

func TestScheduledUpdate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newRig(t)
		const app, other = "docker.io/library/app:1", "docker.io/library/other:1"
		w.eng.Publish(other, w.eng.Image("echo other"))
		w.put(map[string]Definition{"web": {Image: "app:1"}, "same": {Image: "other:1"}, "off": {Image: "app:1"}, "waits": {Image: "app:1"}})
		for _, n := range []string{"web", "same", "off", "waits"} {
			w.untilStatus(n, Running)
		}
		w.must(w.Stop(t.Context(), w.admin, w.id(), string(w.service("off").ID)))
		w.untilStatus("off", Stopped)
		_, err := w.Patch(t.Context(), w.admin, w.id(), Patch{Services: map[string]ServicePatch{"waits": {Env: &map[string]string{"A": "b"}}}})
		w.must(err)
		w.rest()
		start := map[string]Service{}
		for _, s := range w.get().Services {
			start[s.Name] = s
		}

		zone := "Asia/Kolkata" // five hours and a half from UTC
		hourly := Schedule{"0 * * * *", zone}
		w.schedule(hourly)
		at := time.Now().UTC().Truncate(time.Hour).Add(30 * time.Minute)
		before := w.asked(app)
		w.eng.Publish(app, w.eng.Image("echo newer"))
		time.Sleep(time.Until(at) - time.Minute)
		synctest.Wait()
		if w.asked(app) != before || w.service("web").DeployedDigest != start["web"].DeployedDigest {
			t.Error("it came too early")
		}
		if u := w.get(); u.Schedule != hourly || u.Generation != u.ObservedGeneration {
			t.Errorf("got %+v", u)
		}
		time.Sleep(2 * time.Minute)
		w.rest()
		web := w.untilStatus("web", Running)
		if web.DeployedDigest == start["web"].DeployedDigest || web.RequiresRecreate || web.DeclaredDigest != web.DeployedDigest {
			t.Errorf("got %+v", web)
		}
		if i := w.only(web.ID); i.ID != instanceID(web.ID, 2) {
			t.Errorf("got %+v", i)
		}
		if s := w.service("waits"); s.Deployed.Env["A"] != "b" || s.RequiresRecreate || s.DeployedDigest != web.DeployedDigest {
			t.Errorf("what is declared was not applied with the new image: %+v", s)
		}
		for _, n := range []string{"same", "off"} { // the image is the same; nobody wants it to run
			if s := w.service(n); s.Status != start[n].Status || !s.StatusSet.Equal(start[n].StatusSet) || s.DeployedDigest != start[n].DeployedDigest || s.RequiresRecreate {
				t.Errorf("%s was touched: %+v", n, s)
			}
		}
		if i := w.only(start["same"].ID); i.ID != instanceID(start["same"].ID, 1) {
			t.Errorf("got %+v", i)
		}

		// Days without a server are made up for by one update.
		w.stop()
		time.Sleep(5 * 24 * time.Hour)
		n := w.asked(other)
		w.run()
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := w.asked(other) - n; got != 1 {
			t.Errorf("asked %d times after five days without a server", got)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if got := w.asked(other) - n; got != 2 {
			t.Errorf("asked %d times an hour later", got)
		}

		// The same schedule again does not begin anew, none ends it, and an image
		// that is gone leaves everything as it is.
		w.eng.Protect("docker.io", "ann", "right-4711")
		g := w.get().Generation
		w.schedule(hourly)
		if got := w.get().Generation; got != g {
			t.Errorf("the same schedule is a change: %d, then %d", g, got)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if s := w.service("same"); s.Status != Running || s.RequiresRecreate || s.Message != "" {
			t.Errorf("got %+v", s)
		}
		w.schedule(Schedule{})
		if s := w.get(); s.Schedule != (Schedule{}) {
			t.Errorf("got %+v", s.Schedule)
		}
		n = w.asked(other)
		time.Sleep(3 * time.Hour)
		synctest.Wait()
		if w.asked(other) != n {
			t.Error("it is still asked for")
		}
		// No definition is left behind.
		var left int
		w.must(w.store.Read(t.Context(), func(tx *db.Tx) error {
			return tx.QueryRow(`SELECT count(*) FROM service_definitions WHERE id NOT IN (SELECT declared FROM services UNION SELECT applied FROM services UNION SELECT serving FROM services)`).Scan(&left)
		}))
		if left != 0 {
			t.Errorf("%d definitions are left", left)
		}
		w.stop()
	})
}

func TestBadSchedules(t *testing.T) {
	t.Parallel()
	w := newRig(t)
	w.schedule(Schedule{Cron: "0 4 * * *"})
	before := w.get()
	for in, paths := range map[Schedule][]string{
		{"", "Europe/Berlin"}:                         {"updateSchedule.cron"},
		{"0 25 * * *", ""}:                            {"updateSchedule.cron"},
		{"0 0 31 2 *", ""}:                            {"updateSchedule.cron"},
		{"@daily", "Mars/Olympus"}:                    {"updateSchedule.timezone", "updateSchedule.cron"},
		{"0 4 * * *", "Local"}:                        {"updateSchedule.timezone"},
		{strings.Repeat("1,", 999) + "1 * * * *", ""}: {"updateSchedule.cron"},
	} {
		text := "x"
		_, err := w.Patch(t.Context(), w.admin, w.id(), Patch{Schedule: &in, Services: map[string]ServicePatch{"new": {Image: &text}}})
		bad, ok := project.AsInvalid(err)
		if !ok {
			t.Errorf("%+v: %v", in, err)
			continue
		}
		var got []string
		for _, f := range bad.Fields {
			got = append(got, f.Path)
		}
		if !slices.Equal(got, paths) {
			t.Errorf("%+v: %v, want %v", in, bad, paths)
		}
	}
	if after := w.get(); after.Generation != before.Generation || after.Schedule != before.Schedule || len(after.Services) != 0 {
		t.Errorf("something was changed: %+v", after)
	}
}

// TestKilledUpdate kills a server in the midst of a scheduled update, and looks
// at what the next one makes of it.
func TestKilledUpdate(t *testing.T) {
	t.Parallel()
	for _, place := range []string{"stack: images asked for again", "stack: new images applied"} {
		t.Run(place, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			cmd := exec.CommandContext(t.Context(), os.Args[0])
			cmd.Env = append(os.Environ(), "STACK_TEST_DIR="+dir, "SLIPWAY_CRASH="+place)
			out, _ := cmd.CombinedOutput()
			if s, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || s.Signal() != syscall.SIGKILL {
				t.Fatalf("%v: %s", cmd.ProcessState, out)
			}
			w := openRig(t, dir) // on an engine that has none of the containers and images, as after a new host
			newer := w.eng.Image("echo newer")
			w.eng.Publish("docker.io/library/app:1", newer)
			w.run()
			w.untilStatus("web", Running)
			w.until("the update is over", func() bool { return w.left() == 0 })
			if web := w.untilStatus("web", Running); web.DeployedDigest != newer || web.RequiresRecreate {
				t.Errorf("got %+v", web)
			}
			w.rest()
			if s := w.get(); s.Schedule.Cron == "" {
				t.Errorf("got %+v", s)
			}
		})
	}
}

// updateChild begins an update of a service whose image is another one now.
func updateChild(dir string) {
	slog.SetDefault(slog.New(slog.DiscardHandler))
	w := openRig(&fatal{}, dir)
	w.run()
	w.put(map[string]Definition{"web": {Image: "app:1"}})
	w.untilStatus("web", Running)
	w.eng.Publish("docker.io/library/app:1", w.eng.Image("echo newer"))
	w.schedule(Schedule{Cron: "0 4 * * *"})
	w.must(w.store.Write(context.Background(), func(tx *db.Tx) error {
		if _, err := tx.Exec(`UPDATE stacks SET update_at = ?`, db.Micros(tx.Now.Add(-time.Hour))); err != nil {
			return err
		}
		return tx.Due(table, string(w.id()), tx.Now)
	}))
	time.Sleep(20 * time.Second) // it does not come to that
}

// fatal is a test of a process that is no test.
type fatal struct{ testing.TB }

func (*fatal) Helper() {}

func (*fatal) Cleanup(func()) {}

func (*fatal) Context() context.Context { return context.Background() }

func (*fatal) Fatal(args ...any) { panic(fmt.Sprint(args...)) }

func (*fatal) Fatalf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }

// left is how many services are in the midst of an update.
func (w *rig) left() (n int) {
	w.t.Helper()
	w.must(w.store.Read(w.t.Context(), func(tx *db.Tx) error {
		return tx.QueryRow(`SELECT count(*) FROM services WHERE updating <> '' OR EXISTS (SELECT 1 FROM stacks WHERE update_at <= ?)`, db.Micros(tx.Now)).Scan(&n)
	}))
	return n
}
