package trigger

import (
	"context"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"slipway/db"
	"slipway/event"
	"slipway/pipeline"
)

// In these tests the time is that of testing/synctest: an hour is over as soon as
// everybody waits.

func TestClock(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, t.TempDir())
		defer w.close()
		stop := w.run()
		clock := func(cron string) []pipeline.EventRule {
			return []pipeline.EventRule{{Type: pipeline.EventSchedule, Cron: cron, Timezone: "Asia/Kolkata"}}
		}
		p := w.pipeline(pipeline.Pipeline{Events: clock("*/10 * * * *"), CommentRequired: true, NoSkip: true})
		off := w.pipeline(pipeline.Pipeline{Events: clock("* * * * *"), Paused: true})
		began := time.Now()
		expect := func(what string, n int) {
			t.Helper()
			synctest.Wait()
			if l := w.started(p); len(l) != n {
				t.Fatalf("%s: %d executions, want %d", what, len(l), n)
			}
		}
		time.Sleep(time.Hour + time.Minute)
		expect("an hour", 6)
		for i, x := range w.started(p) {
			want := began.Truncate(10 * time.Minute).Add(time.Duration(6-i) * 10 * time.Minute)
			if x.Mode != pipeline.ByClock || x.By != w.ann.User.ID || x.Comment == "" || x.Created.Sub(want).Abs() > time.Second {
				t.Errorf("execution %d: %s by %d at %s, want %s", x.Number, x.Mode, x.By, x.Created, want)
			}
		}
		stop()
		time.Sleep(3 * time.Hour)
		expect("nobody is there", 6)
		stop = w.run()
		time.Sleep(time.Second)
		expect("18 times are made up for by one run", 7)
		time.Sleep(30 * time.Minute)
		expect("and then as before", 10)
		stop()
		stop = w.run()
		time.Sleep(time.Second)
		expect("a restart between times", 10)

		w.change(p, func(n *pipeline.Pipeline) { n.Paused = true })
		time.Sleep(5 * time.Hour)
		expect("paused", 10)
		w.change(p, func(n *pipeline.Pipeline) { n.Paused = false })
		time.Sleep(time.Second)
		expect("what passed meanwhile was not to be", 10)
		time.Sleep(10 * time.Minute)
		expect("it goes on", 11)
		w.change(p, func(n *pipeline.Pipeline) { n.Events = clock("0 4 * * *") })
		time.Sleep(24 * time.Hour)
		expect("another time", 12)
		w.change(p, func(n *pipeline.Pipeline) { n.Name = "renamed" })
		time.Sleep(24 * time.Hour)
		expect("renamed", 13)
		w.change(p, func(n *pipeline.Pipeline) { n.Refs = []string{"refs/heads/none"} })
		time.Sleep(24 * time.Hour)
		expect("a branch that is not there is left out", 13)
		w.change(p, func(n *pipeline.Pipeline) { n.Refs, n.Disabled = nil, true })
		time.Sleep(48 * time.Hour)
		expect("disabled", 13)
		w.change(p, func(n *pipeline.Pipeline) { n.Disabled = false })
		time.Sleep(24 * time.Hour)
		expect("enabled", 14)
		w.must(w.pipelines.Delete(t.Context(), w.ann, p.ID))
		time.Sleep(48 * time.Hour)
		if len(w.started(off)) != 0 {
			t.Error("a paused one was started")
		}
		var n int
		w.must(w.db.Read(t.Context(), func(tx *db.Tx) error {
			return tx.QueryRow(`SELECT COUNT(*) FROM executions WHERE pipeline = ?`, p.ID).Scan(&n)
		}))
		if n != 14 {
			t.Errorf("deleted: %d executions", n)
		}
		stop()
	})
}

func TestPausedByFailures(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, t.TempDir())
		defer w.close()
		defer w.run()()
		p := w.pipeline(pipeline.Pipeline{
			Events: []pipeline.EventRule{{Type: pipeline.EventSchedule, StartDate: "2000-01-01T00:00:00Z", Delay: 60}}, NoSkip: true,
			PauseAfterFailures: 3, PauseAfterGiven: true,
		})
		ended := func(all ...pipeline.Status) {
			t.Helper()
			for _, s := range all {
				w.must(w.db.Write(t.Context(), func(tx *db.Tx) error {
					return event.Write(tx, event.Event{Kind: event.ExecutionFinished, Workspace: w.home.ID, Project: string(w.pr.ID)}, pipeline.Ended{Pipeline: p.ID, Status: s})
				}))
			}
			synctest.Wait()
		}
		paused := func(what string, want bool) {
			t.Helper()
			n, err := w.pipelines.Get(t.Context(), w.ann, p.ID)
			w.must(err)
			before := len(w.started(p))
			time.Sleep(2 * time.Hour)
			synctest.Wait()
			if n.Paused != want || (len(w.started(p)) == before) != want {
				t.Errorf("%s: paused is %v, and there were %d runs, now %d", what, n.Paused, before, len(w.started(p)))
			}
		}
		failed, good := pipeline.Failed, pipeline.Successful
		ended(failed, failed, good, failed, pipeline.Skipped, failed, pipeline.Terminated)
		paused("two in a row", false)
		ended(failed)
		paused("three", true)
		ended(failed, failed, failed, failed)
		w.change(p, func(n *pipeline.Pipeline) { n.Paused = false })
		ended(failed, failed)
		paused("counted anew", false)
		ended(failed)
		paused("three again", true)
		w.change(p, func(n *pipeline.Pipeline) { n.Paused, n.PauseAfterFailures = false, 0 })
		ended(failed, failed, failed, failed)
		paused("never", false)
	})
}

// A server that is killed as soon as a scheduled run is started has started it,
// and the next one does not do so again.
func TestKilledClock(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), "TRIGGER_TEST_DIR="+dir, "SLIPWAY_CRASH=pipeline: started by the clock")
	out, _ := cmd.CombinedOutput()
	if s, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || s.Signal() != syscall.SIGKILL {
		t.Fatalf("%v: %s", cmd.ProcessState, out)
	}
	w := newWorld(t, dir)
	defer w.close()
	all, err := w.pipelines.List(t.Context(), w.ann, w.pr.ID)
	w.must(err)
	defer w.run()()
	held := func() (n int) {
		w.must(w.db.Read(t.Context(), func(tx *db.Tx) error {
			return tx.QueryRow(`SELECT COUNT(*) FROM schedules WHERE lease_owner IS NOT NULL OR due_at <= ?`, tx.Now.UnixMicro()).Scan(&n)
		}))
		return n
	}
	w.until("the row is given back", func() bool { return held() == 0 })
	if l := w.started(all[0]); len(l) != 1 {
		t.Errorf("%d executions", len(l))
	}
}

// clockChild starts a pipeline whose time was an hour ago.
func clockChild(dir string) {
	t := &fatal{}
	w := newWorld(t, dir)
	p := w.pipeline(pipeline.Pipeline{Events: []pipeline.EventRule{{Type: pipeline.EventSchedule, StartDate: "2000-01-01T00:00:00Z", Delay: 600}}})
	w.must(w.db.Write(context.Background(), func(tx *db.Tx) error {
		past := tx.Now.Add(-time.Hour).UnixMicro()
		_, err := tx.Exec(`UPDATE schedules SET next = ?, due_at = ? WHERE pipeline = ?`, past, past, p.ID)
		return err
	}))
	w.run()
	time.Sleep(20 * time.Second) // it does not come to that
}

// fatal is a test of a process that is no test.
type fatal struct{ testing.TB }

func (*fatal) Helper() {}

func (*fatal) Fatal(args ...any) { panic(args) }
