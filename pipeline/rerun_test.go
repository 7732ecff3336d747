package pipeline

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"slipway/db"
	"slipway/engine"
)

// reruns is the front door.
func (w *world) reruns() *Reruns { return NewReruns(w.Pipelines, w.eng) }

// rerun begins an execution with the action of a step of another one.
func (w *world) rerun(x Execution, i int, in RerunInput) Execution {
	w.t.Helper()
	in.From = w.now(x).Steps[i].ID
	n, err := w.reruns().Rerun(w.t.Context(), w.admin, x.ID, in)
	w.must(err)
	return n
}

// noRerun tells why none can be begun.
func (w *world) noRerun(x Execution, i int) string {
	w.t.Helper()
	_, err := w.reruns().Rerun(w.t.Context(), w.admin, x.ID, RerunInput{From: w.now(x).Steps[i].ID})
	if !errdefs.IsConflict(err) {
		w.t.Errorf("a rerun from action %d: %v", i, err)
		return ""
	}
	return err.Error()
}

func text(s string) *string { return &s }

// said are the lines of a step that its container wrote.
func (w *world) said(x Execution, i int) string {
	w.t.Helper()
	return strings.Join(slices.DeleteFunc(w.lines(x, i), func(l string) bool { return strings.HasPrefix(l, "The file system is") }), "|")
}

// TestRerun: an execution begins with an action of another one, with the files as
// they were before it, and its own commands and variables.
func TestRerun(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	w.commit("tracked", "1")
	p := w.pipeline(Pipeline{Variables: []Variable{{Key: "WHO", Value: "pipeline"}}}, sh("echo made > f"), sh("cat f; echo $WHO; echo changed > f"), sh("cat f"))
	x := w.expect(w.start(p, Start{Comment: "first"}), "SUCCESSFUL SUCCESSFUL SUCCESSFUL SUCCESSFUL")
	w.commit("tracked", "2") // of no interest to it
	r := w.expect(w.rerun(x, 1, RerunInput{}), "SUCCESSFUL SUCCESSFUL SUCCESSFUL SUCCESSFUL")
	if r.Number != 2 || r.Commit.Revision != x.Commit.Revision || r.Comment != "first" || !r.Steps[0].Carried || r.Steps[1].Carried || r.Rerun.Of != 1 {
		t.Errorf("%+v", r)
	}
	if got := w.said(r, 1); got != "made|pipeline" {
		t.Errorf("it saw %s", got)
	}
	if got := w.account(r).whys(); got != "CARRIED_OVER RUN RUN" {
		t.Error(got)
	}
	// Edited, by the number of the action, and from a rerun.
	e, err := w.reruns().Rerun(t.Context(), w.admin, r.ID, RerunInput{
		From: fmt.Sprint(r.Steps[1].Action.ID), Commands: text("cat f; cat tracked; echo $WHO; echo again > f"), Comment: text("edited"),
		Variables: []Variable{{Key: "WHO", Value: "me-alone", Encrypted: true}},
	})
	w.must(err)
	e = w.expect(e, "SUCCESSFUL SUCCESSFUL SUCCESSFUL SUCCESSFUL")
	if a, b := w.said(e, 1), w.said(e, 2); a != "made|1|***" || b != "again" || e.Comment != "edited" {
		t.Errorf("edited: %q %q %q", a, b, e.Comment)
	}
	if a, err := w.Action(t.Context(), w.admin, p.ID, e.Steps[1].Action.ID); err != nil || !strings.Contains(a.Run.Commands, "changed") {
		t.Errorf("the action of the pipeline: %+v %v", a.Run, err)
	}
	if why := w.noRerun(e, 0); !strings.Contains(why, "taken over from execution 2") {
		t.Error(why)
	}
	// What the next run begins with is what the first has left.
	if got := w.files(p); got != "f=changed tracked=1" {
		t.Errorf("the files of the pipeline: %s", got)
	}
	// A variable stays when that run is run again, and others do not get it.
	again := w.expect(w.rerun(e, 1, RerunInput{}), "SUCCESSFUL SUCCESSFUL SUCCESSFUL SUCCESSFUL")
	if got := w.said(again, 1); got != "made|1|***" {
		t.Error(got)
	}
	if pl, err := w.Get(t.Context(), w.admin, p.ID); err != nil || pl.LastRevision != x.Commit.Revision {
		t.Errorf("%+v %v", pl.LastRevision, err)
	}
	w.stop()
	w.until("their files go", func() bool { return len(w.volumes()) == 1 })
}

// TestRerunOfFailure: what failed is run again with what was before it, however often
// it was tried; a retry of a rerun goes on in its files.
func TestRerunOfFailure(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	broken := sh("cat f; echo broken > f\ntest -e never")
	broken.Retries = 1
	after := sh("cat f")
	handler := sh("cat f")
	handler.When = OnFailure
	p := w.pipeline(Pipeline{}, sh("echo made > f"), broken, after, handler)
	x := w.expect(w.start(p, Start{}), "FAILED SUCCESSFUL FAILED(ended with exit code 1) NOT_EXECUTED SUCCESSFUL")
	if got := w.said(x, 3); got != "broken" {
		t.Error(got)
	}
	r := w.expect(w.rerun(x, 1, RerunInput{Commands: text("cat f")}), "SUCCESSFUL SUCCESSFUL SUCCESSFUL SUCCESSFUL NOT_EXECUTED")
	if a, b := w.said(r, 1), w.said(r, 2); a != "made" || b != "made" {
		t.Errorf("%q %q", a, b)
	}
	h := w.expect(w.rerun(x, 3, RerunInput{}), "FAILED SUCCESSFUL FAILED(ended with exit code 1) NOT_EXECUTED SUCCESSFUL")
	if got := w.said(h, 3); got != "broken" || !h.Steps[1].Carried {
		t.Error(got)
	}
	if why := w.noRerun(x, 2); !strings.Contains(why, "was not run") {
		t.Error(why)
	}
	f := w.wait(w.rerun(x, 1, RerunInput{}))
	for range 2 {
		_, err := w.Operate(t.Context(), w.admin, f.ID, OpRetry)
		w.must(err)
		if f = w.wait(f); f.Status != Failed || f.Steps[0].Attempt != 0 {
			t.Errorf("retried: %s", w.words(f))
		}
	}
	if l := w.said(f, 1); !strings.Contains(l, "made") {
		t.Error(l)
	}
	w.until("the handler of failures has run", func() bool { return w.now(f).Steps[3].Status == Successful })
	// A retry of the first one keeps what was before the action that failed.
	_, err := w.Operate(t.Context(), w.admin, x.ID, OpRetry)
	w.must(err)
	x = w.wait(x)
	if got := w.said(w.expect(w.rerun(x, 1, RerunInput{Commands: text("cat f")}), "SUCCESSFUL SUCCESSFUL SUCCESSFUL SUCCESSFUL NOT_EXECUTED"), 1); got != "made" {
		t.Error(got)
	}
	w.stop()
}

// TestRerunTakesOver: images and variables of actions that are not run again are
// there; what is not kept is said.
func TestRerunTakesOver(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	w.commit("Dockerfile", "FROM busybox\nRUN echo one > /one\n")
	build := Action{Name: "Image", Build: &Build{Dockerfile: "Dockerfile"}}
	uses := sh("echo $OUTPUT_X; echo $SECRET; echo $SLIPWAY_IMAGE_DIGEST")
	uses.Run.Image, uses.Run.Tag, uses.Run.From = "", "", ImageFrom{Use: true}
	p := w.pipeline(Pipeline{}, build, sh("export OUTPUT_X=passed"), uses)
	x := w.expect(w.start(p, Start{Variables: []Variable{{Key: "SECRET", Value: "hidden-one", Encrypted: true}}}), "SUCCESSFUL SUCCESSFUL SUCCESSFUL SUCCESSFUL")
	r := w.expect(w.rerun(x, 2, RerunInput{}), "SUCCESSFUL SUCCESSFUL SUCCESSFUL SUCCESSFUL")
	if got := w.said(r, 2); got != "passed|***|"+x.Steps[0].Digest || r.Steps[0].Digest != x.Steps[0].Digest {
		t.Errorf("%q %q", got, r.Steps[0].Digest)
	}
	if why := w.noRerun(r, 0); !strings.Contains(why, "run that one again") {
		t.Error(why)
	}
	w.must(w.db.Write(t.Context(), func(tx *db.Tx) error {
		_, err := tx.Exec(`UPDATE action_executions SET digest = 'sha256:' || ? WHERE execution = ? AND idx = 0`, strings.Repeat("0", 64), x.ID)
		return err
	}))
	if why := w.noRerun(x, 2); !strings.Contains(why, `begin with "Image"`) {
		t.Error(why)
	}
	w.expect(w.rerun(x, 0, RerunInput{}), "SUCCESSFUL SUCCESSFUL SUCCESSFUL SUCCESSFUL")
	w.stop()
}

// snapshots are those that the engine has of the first pipeline.
func (w *world) snapshots() []string {
	w.t.Helper()
	l, err := w.eng.Snapshots(w.t.Context(), ID(1).Owner())
	w.must(err)
	return l
}

// TestSnapshotsOfRuns: one is taken when something may have been changed since the
// last, they are kept for their time, and a full disk drops them.
func TestSnapshotsOfRuns(t *testing.T) {
	t.Parallel()
	var low atomicError
	w := newWorld(t, Config{Room: low.get})
	apart := sh("true")
	apart.Run.NoMount = true
	build := Action{Name: "Image", Build: &Build{Dockerfile: "Dockerfile"}}
	w.commit("Dockerfile", "FROM busybox\n")
	p := w.pipeline(Pipeline{}, build, apart, sh("echo 1 > f"), apart, sh("cat f"), sh("block"))
	x := w.start(p, Start{})
	w.eng.Await(engineID(x, 5, 1))
	x = w.now(x)
	var names []string
	for _, s := range x.Steps {
		names = append(names, s.Snapshot)
	}
	if a, b, c := names[0], names[3], names[5]; a == "" || a == b || b == c || a == c || !slices.Equal(names, []string{a, a, a, b, b, c}) {
		t.Errorf("%v", names)
	}
	if got := w.snapshots(); len(got) != 3 {
		t.Errorf("%v", got)
	}
	low.set(fmt.Errorf("full: %w", errdefs.ErrResourceExhausted))
	w.must(w.r.TidyFiles(t.Context()))
	if got := w.snapshots(); len(got) != 0 {
		t.Errorf("with a full disk there are %v", got)
	}
	w.eng.Release(engineID(x, 5, 1))
	x = w.wait(x)
	low.set(nil)
	if why := w.noRerun(x, 4); !strings.Contains(why, unkeptFull) {
		t.Error(why)
	}
	// A week later.
	y := w.start(p, Start{})
	w.eng.Await(engineID(y, 5, 1))
	w.eng.Release(engineID(y, 5, 1))
	w.expect(y, "SUCCESSFUL SUCCESSFUL SUCCESSFUL SUCCESSFUL SUCCESSFUL SUCCESSFUL SUCCESSFUL")
	r := w.rerun(y, 5, RerunInput{})
	w.eng.Await(engineID(r, 5, 1))
	w.must(w.db.Write(t.Context(), func(tx *db.Tx) error {
		_, err := tx.Exec(`UPDATE executions SET finished = ? WHERE id = ?`, db.Micros(tx.Now.Add(-keepTime)), y.ID)
		return err
	}))
	w.must(w.r.TidyFiles(t.Context()))
	if got := w.snapshots(); len(got) != 1 || got[0] != w.now(r).Steps[5].Snapshot {
		t.Errorf("after a week there are %v", got)
	}
	if why := w.noRerun(y, 5); !strings.Contains(why, unkeptOld) {
		t.Error(why)
	}
	w.eng.Release(engineID(r, 5, 1))
	w.wait(r)
	w.stop()
}

// TestSnapshotCannotBeTaken: the run goes on, and says so to who asks for it.
func TestSnapshotCannotBeTaken(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	p := w.pipeline(Pipeline{}, sh("echo 1 > f"), sh("cat f"))
	w.eng.FailNext("Snapshot", fmt.Errorf("more than is kept: %w", errdefs.ErrResourceExhausted))
	x := w.expect(w.start(p, Start{}), "SUCCESSFUL SUCCESSFUL SUCCESSFUL")
	for i := range x.Steps {
		if why := w.noRerun(x, i); !strings.Contains(why, "beyond what is kept") {
			t.Error(why)
		}
	}
	x = w.expect(w.start(p, Start{}), "SUCCESSFUL SUCCESSFUL SUCCESSFUL")
	w.must(w.eng.DropSnapshots(t.Context(), p.ID.Owner(), x.Steps[1].Snapshot))
	if why := w.noRerun(x, 1); !strings.Contains(why, "not there any more") {
		t.Error(why)
	}
	w.expect(w.rerun(x, 0, RerunInput{}), "SUCCESSFUL SUCCESSFUL SUCCESSFUL")
	w.stop()
}

// TestSnapshotsAreKeptForATime: of a pipeline so many executions keep theirs, and
// none for longer than its time.
func TestSnapshotsAreKeptForATime(t *testing.T) {
	t.Parallel()
	var all []keeps
	for i := range 15 {
		all = append(all, keeps{ExecutionID(fmt.Sprint(i)), Successful, noon.Add(-time.Duration(i) * time.Hour), false})
	}
	all[0].Status, all[1].Begins, all[1].Status = InProgress, true, Enqueued
	all[4].Finished = noon.Add(-keepTime)
	gone := outdated(all, false, noon)
	if len(gone) != 3 || gone["4"] != unkeptOld || gone["13"] != unkeptLater || gone["14"] != unkeptLater {
		t.Errorf("%v", gone)
	}
	if gone := outdated(all, true, noon); len(gone) != 14 || gone["1"] != "" || gone["0"] != unkeptFull {
		t.Errorf("with a full disk: %v", gone)
	}
}

// TestRerunIsAsked: it is one with the same key, and what is wrong with it is said.
func TestRerunIsAsked(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	p := w.pipeline(Pipeline{}, sh("echo 1 > f"), Action{Name: "Image", Build: &Build{Dockerfile: "Dockerfile"}})
	x := w.wait(w.start(p, Start{}))
	ask := func(in RerunInput) (Execution, error) {
		return w.reruns().Rerun(t.Context(), w.admin, x.ID, in)
	}
	in := RerunInput{From: x.Steps[0].ID, Key: "k", Commands: text("echo 2 > f")}
	one, err := ask(in)
	w.must(err)
	two, err := ask(in)
	w.must(err)
	if one.ID != two.ID {
		t.Errorf("they are two: %d %d", one.Number, two.Number)
	}
	in.Commands = text("echo 3 > f")
	if _, err := ask(in); !errdefs.IsConflict(err) {
		t.Errorf("the same key with another one: %v", err)
	}
	if _, err := w.Start(t.Context(), w.admin, p.ID, Start{Key: "k"}); !errdefs.IsConflict(err) {
		t.Errorf("the same key with a start: %v", err)
	}
	for path, in := range map[string]RerunInput{
		"from":              {From: "none"},
		"from ":             {},
		"inline_commands":   {From: x.Steps[1].ID, Commands: text("true")},
		"inline_commands ":  {From: x.Steps[0].ID, Commands: text(strings.Repeat("x", maxCommands+1))},
		"comment":           {From: x.Steps[0].ID, Comment: text(strings.Repeat("x", textMax+1))},
		"variables.0.key":   {From: x.Steps[0].ID, Variables: []Variable{{Key: "1", Value: "x"}}},
		"variables.0.value": {From: x.Steps[0].ID, Variables: []Variable{{Key: "A", Value: "!encrypted", Encrypted: true}}},
	} {
		if _, err := ask(in); err == nil || !strings.Contains(err.Error(), strings.TrimSpace(path)+":") {
			t.Errorf("%s: %v", path, err)
		}
	}
	b := w.start(p, Start{})
	w.wait(one)
	w.wait(b)
	w.stop()
}

// TestRerunBesideOthers: it takes the place of no other run of its branch, nor is its
// place taken.
func TestRerunBesideOthers(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	p := w.pipeline(Pipeline{Variables: []Variable{{Key: "WAIT", Value: "true"}}}, sh("$WAIT"))
	x := w.expect(w.start(p, Start{}), "SUCCESSFUL SUCCESSFUL")
	busy := w.start(p, Start{Variables: []Variable{{Key: "WAIT", Value: "block"}}})
	w.blocked(busy)
	first := w.start(p, Start{})
	again := w.rerun(x, 0, RerunInput{})
	last := w.start(p, Start{})
	w.eng.Release(engineID(busy, 0, 1))
	for _, want := range []struct {
		x Execution
		s Status
	}{{busy, Successful}, {first, Skipped}, {again, Successful}, {last, Successful}} {
		if got := w.wait(want.x); got.Status != want.s {
			t.Errorf("execution %d: %s", got.Number, got.Status)
		}
	}
	w.stop()
}

// TestRerunOfGroup: of those that run beside each other the one that is asked for is
// run, and those whose changes of the files would be missing.
func TestRerunOfGroup(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	w.commit("Dockerfile", "FROM busybox\n")
	build := Action{Name: "Image", Build: &Build{Dockerfile: "Dockerfile"}, RunNext: InHardParallel}
	a, b := sh("echo a > a\nblock"), sh("echo b > b\nblock")
	a.RunNext = InHardParallel
	p := w.pipeline(Pipeline{}, sh("echo 0 > zero"), build, a, b, sh("cat a; cat b"))
	run := func(x Execution, steps ...int) Execution {
		t.Helper()
		for _, i := range steps {
			w.eng.Await(engineID(x, i, 1))
		}
		for _, i := range steps {
			w.eng.Release(engineID(x, i, 1))
		}
		return w.expect(x, "SUCCESSFUL SUCCESSFUL SUCCESSFUL SUCCESSFUL SUCCESSFUL SUCCESSFUL")
	}
	x := run(w.start(p, Start{}), 2, 3)
	if s := x.Steps; s[1].Snapshot != s[2].Snapshot || s[2].Snapshot != s[3].Snapshot || s[4].Snapshot == s[3].Snapshot || s[0].Snapshot == s[1].Snapshot {
		t.Errorf("%+v", s)
	}
	r := run(w.rerun(x, 3, RerunInput{}), 2, 3)
	if got := w.account(r).whys(); got != "CARRIED_OVER CARRIED_OVER RUN RUN RUN" {
		t.Error(got)
	}
	if got := w.said(r, 4); got != "a|b" {
		t.Error(got)
	}
	w.stop()
}

// TestRerunAfterRestart: a server that ends in the middle loses nothing of it.
func TestRerunAfterRestart(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	p := w.pipeline(Pipeline{Variables: []Variable{{Key: "WAIT", Value: "true"}}}, sh("echo made > f"), sh("cat f; echo more >> f\n$WAIT"), sh("cat f"))
	x := w.expect(w.start(p, Start{}), "SUCCESSFUL SUCCESSFUL SUCCESSFUL SUCCESSFUL")
	r := w.rerun(x, 1, RerunInput{Variables: []Variable{{Key: "WAIT", Value: "block"}}})
	w.eng.Await(engineID(r, 1, 1))
	w.restart()
	w.eng.Release(engineID(r, 1, 1))
	r = w.expect(r, "SUCCESSFUL SUCCESSFUL SUCCESSFUL SUCCESSFUL")
	if got := w.said(r, 2); got != "made|more" {
		t.Error(got)
	}
	// What was taken for a run that is not known any more is dropped.
	_, err := w.eng.Snapshot(t.Context(), p.ID.Owner(), "stray", p.ID.Volume(), engine.SnapshotBounds{})
	w.must(err)
	w.must(w.r.TidyFiles(t.Context()))
	if slices.Contains(w.snapshots(), "stray") {
		t.Error("it is there")
	}
	w.stop()
}

func TestBefore(t *testing.T) {
	t.Parallel()
	at := func(m int) time.Time { return noon.Add(time.Duration(m) * time.Minute) }
	run, build := Action{Run: &Run{}}, Action{Build: &Build{}}
	began := func(a Action, s Status, m int, snapshot string) ActionExecution {
		return ActionExecution{Action: a, Status: s, Started: at(m), Snapshot: snapshot}
	}
	next := ActionExecution{Action: run}
	for name, c := range map[string]struct {
		steps []ActionExecution
		want  string
	}{
		"the first":                  {nil, ""},
		"after a run":                {[]ActionExecution{began(run, Successful, 1, "a")}, ""},
		"after a build":              {[]ActionExecution{began(build, Successful, 1, "a")}, "a"},
		"after a run, then a build":  {[]ActionExecution{began(run, Successful, 1, "a"), began(build, Successful, 2, "b")}, "b"},
		"beside a run":               {[]ActionExecution{began(run, InProgress, 1, "a"), began(run, Successful, 2, "a")}, "a"},
		"beside a build":             {[]ActionExecution{began(build, InProgress, 1, "a"), began(run, Successful, 2, "a")}, ""},
		"beside a run in it":         {[]ActionExecution{began(run, Successful, 1, "a"), began(build, Successful, 1, "a"), began(build, InProgress, 2, "b")}, "b"},
		"without one":                {[]ActionExecution{{Action: run, Status: Successful, Started: at(1), Unkept: "-"}}, "-"},
		"after one that was carried": {[]ActionExecution{{Action: run, Status: Successful, Started: at(1), Carried: true}}, ""},
	} {
		x := Execution{Steps: append(slices.Clone(c.steps), next)}
		snapshot, unkept := x.before(len(c.steps))
		if snapshot+unkept != c.want {
			t.Errorf("%s: %q %q", name, snapshot, unkept)
		}
	}
}
