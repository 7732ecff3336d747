package pipeline

import (
	"bytes"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"slipway/db"
	"slipway/secret"
)

func (w *world) store(at secret.Scope, v secret.Variable) secret.Variable {
	w.t.Helper()
	at.Workspace, v.Scope = w.home.ID, at
	v.Scope.Workspace = w.home.ID
	v, err := w.secrets.CreateVariable(w.t.Context(), w.admin, v)
	w.must(err)
	return v
}

// last is the last line of a step's log.
func (w *world) last(x Execution, step int) string {
	w.t.Helper()
	l := w.lines(x, step)
	if len(l) == 0 {
		return ""
	}
	return l[len(l)-1]
}

func said(out []Output) string {
	var l []string
	for _, o := range out {
		l = append(l, o.Key+"="+o.Value)
	}
	return strings.Join(l, " ")
}

// The narrower tier wins, whether a variable stands by itself or in its place.
func TestTiers(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	show := "echo $A $B $C $D $E $F $G"
	a, b := sh(show), sh(show)
	a.Name, b.Name = "a", "b"
	a.Variables = []Variable{{Key: "G", Value: "in-action"}}
	p := w.pipeline(Pipeline{Variables: []Variable{{Key: "D", Value: "in-pipeline"}, {Key: "E", Value: "in-pipeline"}, {Key: "F", Value: "in-pipeline"}}}, a, b)
	as, err := w.Actions(t.Context(), w.admin, p.ID)
	w.must(err)
	for i, at := range []secret.Scope{
		{}, {Project: w.pr.ID}, {Project: w.pr.ID, Pipeline: int64(p.ID)}, {Project: w.pr.ID, Pipeline: int64(p.ID), Action: int64(as[0].ID)},
	} {
		tier := []string{"workspace", "project", "pipeline", "action"}[i]
		for j, key := range []string{"A", "B", "C", "D", "F"} {
			if at.Action != 0 && key != "F" && key != "G" {
				continue
			}
			if j >= i {
				w.store(at, secret.Variable{Key: key, Value: tier})
			}
		}
		if i == 3 {
			w.store(at, secret.Variable{Key: "G", Value: tier})
		}
	}
	x := w.expect(w.start(p, Start{Variables: []Variable{{Key: "E", Value: "run"}, {Key: "F", Value: "run"}, {Key: "G", Value: "run"}}}), "SUCCESSFUL SUCCESSFUL SUCCESSFUL")
	if got, want := w.last(x, 0), "workspace project pipeline in-pipeline run action in-action"; got != want {
		t.Errorf("%q instead of %q", got, want)
	}
	if got, want := w.last(x, 1), "workspace project pipeline in-pipeline run run run"; got != want {
		t.Errorf("%q instead of %q", got, want)
	}
}

// What a settable variable is given holds in later actions and in later runs,
// wherever it is kept; OUTPUT_* and what is settable for the run in later
// actions; anything else nowhere.
func TestExportsGoOn(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	first := sh("echo $OF_WORKSPACE $IN_PIPELINE $OWN $FOR_RUN $FIXED\nexport OF_WORKSPACE=2 IN_PIPELINE=2 OWN=2 FOR_RUN=2 FIXED=2 OTHER=2 OUTPUT_X=2 OF_RUN=2")
	first.Variables = []Variable{{Key: "OWN", Value: "1", Settable: true}}
	show := sh("echo $OF_WORKSPACE $IN_PIPELINE $DERIVED $FOR_RUN $FIXED $OUTPUT_X $OF_RUN own=$OWN other=$OTHER")
	show.Name = "show"
	p := w.pipeline(Pipeline{Variables: []Variable{
		{Key: "IN_PIPELINE", Value: "1", Settable: true}, {Key: "DERIVED", Value: "d$IN_PIPELINE"}, {Key: "FOR_RUN", Value: "1", RunOnlySettable: true}, {Key: "FIXED", Value: "1"},
	}}, first, show)
	v := w.store(secret.Scope{}, secret.Variable{Key: "OF_WORKSPACE", Value: "1", Settable: true})
	in := Start{Variables: []Variable{{Key: "OF_RUN", Value: "1", Settable: true}}}
	x := w.expect(w.start(p, in), "SUCCESSFUL SUCCESSFUL SUCCESSFUL")
	if got := w.last(x, 0); got != "1 1 1 1 1" {
		t.Errorf("the first action was given %q", got)
	}
	if got, want := w.last(x, 1), "2 2 d2 2 1 2 2 own= other="; got != want {
		t.Errorf("%q instead of %q", got, want)
	}
	if got := said(x.Steps[0].Outputs); got != "FOR_RUN=2 IN_PIPELINE=2 OF_RUN=2 OF_WORKSPACE=2 OUTPUT_X=2 OWN=2" {
		t.Errorf("outputted: %s", got)
	}
	if got := said(x.Passed(x.Steps[1])); got != "FOR_RUN=2 IN_PIPELINE=2 OF_RUN=2 OF_WORKSPACE=2 OUTPUT_X=2" {
		t.Errorf("passed: %s", got)
	}
	if len(x.Passed(x.Steps[0])) > 0 || len(x.Steps[1].Outputs) > 0 {
		t.Errorf("passed %v, outputted %v", x.Passed(x.Steps[0]), x.Steps[1].Outputs)
	}
	if v, err := w.secrets.Variable(t.Context(), w.admin, v.ID); err != nil || v.Value != "2" || v.Encrypted {
		t.Error(v, err)
	}
	x = w.expect(w.start(p, in), "SUCCESSFUL SUCCESSFUL SUCCESSFUL")
	if got := w.last(x, 0); got != "2 2 2 1 1" {
		t.Errorf("the next run was given %q", got)
	}
}

// A run that was started before another one has set a variable, and begins
// after it, has the new value.
func TestExportsReachRunsThatWait(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	p := w.pipeline(Pipeline{NoSkip: true, Variables: []Variable{{Key: "N", Value: "1", Settable: true}}}, sh("block; echo $N; export N=\"$N\"1"))
	x, y := w.start(p, Start{}), w.start(p, Start{})
	w.eng.Await(engineID(x, 0, 1))
	w.eng.Release(engineID(x, 0, 1))
	w.wait(x)
	w.eng.Release(engineID(y, 0, 1))
	if got := w.last(w.wait(y), 0); got != "11" {
		t.Errorf("%q", got)
	}
}

// What is secret stays it: nowhere on the disk, in no log, and hidden in
// answers; what a secret is put into becomes one.
func TestSecretExports(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	p := w.pipeline(Pipeline{Variables: []Variable{
		{Key: "KEY", Value: "hunter-old-one", Encrypted: true, Settable: true}, {Key: "OPEN", Value: "o", Settable: true},
	}}, sh("export KEY=hunter-new-one OPEN=\"with $STORED\" OUTPUT_COPY=\"$STORED\" STORED=hunter-newer-one"),
		sh("test $KEY = hunter-new-one && test \"$OPEN\" = 'with hunter-stored-one' && test $OUTPUT_COPY = hunter-stored-one && test $STORED = hunter-newer-one && echo $KEY $OPEN $OUTPUT_COPY $STORED"))
	stored := w.store(secret.Scope{Project: w.pr.ID}, secret.Variable{Key: "STORED", Value: "hunter-stored-one", Encrypted: true, Settable: true})
	x := w.expect(w.start(p, Start{}), "SUCCESSFUL SUCCESSFUL SUCCESSFUL")
	if got := w.last(x, 1); got != "*** *** *** ***" {
		t.Errorf("log: %q", got)
	}
	for _, o := range slices.Concat(x.Steps[0].Outputs, x.Passed(x.Steps[1])) {
		if o.Value != secret.Encrypted || !o.Encrypted {
			t.Errorf("%+v", o)
		}
	}
	pl, err := w.Get(t.Context(), w.admin, p.ID)
	w.must(err)
	for _, v := range pl.Variables {
		if v.Value != secret.Encrypted || !v.Encrypted {
			t.Errorf("%+v", v)
		}
	}
	if v, err := w.secrets.Variable(t.Context(), w.admin, stored.ID); err != nil || v.Value != secret.Encrypted {
		t.Error(v, err)
	}
	var file string
	w.must(w.db.Read(t.Context(), func(tx *db.Tx) error {
		return tx.QueryRow(`SELECT file FROM pragma_database_list WHERE name = 'main'`).Scan(&file)
	}))
	for _, s := range []string{"", "-wal"} {
		b, err := os.ReadFile(file + s)
		if err != nil || bytes.Contains(b, []byte("hunter")) {
			at := max(0, bytes.Index(b, []byte("hunter"))-200)
			// Commands are no secrets; what stands in them is there.
			for line := range bytes.SplitSeq(b[at:], []byte("\x00")) {
				if bytes.Contains(line, []byte("hunter")) && !bytes.Contains(line, []byte("Commands")) {
					t.Errorf("it is in the store (%q): %v %.400q", s, err, line)
				}
			}
		}
	}
}

// An action is tried again, and the server goes, as if nothing were passed on;
// what an attempt that did not count has exported is nowhere.
func TestExportsOfAttempts(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	a := sh("test -f there && export OUTPUT_A=second && exit 0; touch there; export OUTPUT_A=first OUTPUT_B=first; exit 1")
	a.Retries = 1
	fails := sh("test -f well")
	p := w.pipeline(Pipeline{}, a, sh("block; echo $OUTPUT_A $OUTPUT_B."), fails)
	x := w.start(p, Start{})
	w.eng.Await(engineID(x, 1, 1))
	w.restart()
	w.eng.Release(engineID(x, 1, 1))
	x = w.wait(x)
	if got := w.last(x, 1); got != "second ." {
		t.Errorf("%q", got)
	}
	w.commit("well", "")
	x, err := w.Operate(t.Context(), w.admin, x.ID, OpRetry)
	w.must(err)
	x = w.wait(x)
	if got := said(x.Passed(x.Steps[2])); got != "OUTPUT_A=second" {
		t.Errorf("after the retry: %q", got)
	}
}

// A server that goes while commands run is told by the next one what they
// exported.
func TestExportsOverRestart(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	v := w.store(secret.Scope{}, secret.Variable{Key: "N", Value: "1", Settable: true})
	p := w.pipeline(Pipeline{}, sh("block; export N=2; exit 3"))
	x := w.start(p, Start{})
	w.eng.Await(engineID(x, 0, 1))
	w.restart()
	_, err := w.secrets.UpdateVariable(t.Context(), w.admin, v.ID, func(v *secret.Variable) error { v.Description = "x"; return nil })
	w.must(err)
	w.eng.Release(engineID(x, 0, 1))
	w.expect(x, "FAILED FAILED(ended with exit code 3)")
	if v, err := w.secrets.Variable(t.Context(), w.admin, v.ID); err != nil || v.Value != "2" || v.Description != "x" {
		t.Error(v, err)
	}
}

// A variable that is gone, or not settable any more, is left alone.
func TestExportsOfWhatIsGone(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	gone := w.store(secret.Scope{}, secret.Variable{Key: "GONE", Value: "1", Settable: true})
	fixed := w.store(secret.Scope{}, secret.Variable{Key: "FIXED", Value: "1", Settable: true})
	p := w.pipeline(Pipeline{Variables: []Variable{{Key: "IN", Value: "1", Settable: true}}}, sh("block; export GONE=2 FIXED=2 IN=2"))
	x := w.start(p, Start{})
	w.eng.Await(engineID(x, 0, 1))
	w.must(w.secrets.DeleteVariable(t.Context(), w.admin, gone.ID))
	_, err := w.secrets.UpdateVariable(t.Context(), w.admin, fixed.ID, func(v *secret.Variable) error { v.Settable = false; return nil })
	w.must(err)
	_, err = w.Update(t.Context(), w.admin, p.ID, func(p *Pipeline) error { p.Variables = nil; return nil })
	w.must(err)
	w.eng.Release(engineID(x, 0, 1))
	w.expect(x, "SUCCESSFUL SUCCESSFUL")
	if v, err := w.secrets.Variable(t.Context(), w.admin, fixed.ID); err != nil || v.Value != "1" {
		t.Error(v, err)
	}
	pl, err := w.Get(t.Context(), w.admin, p.ID)
	w.must(err)
	if len(pl.Variables) > 0 {
		t.Error(pl.Variables)
	}
}

func TestWhere(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	p, q := w.pipeline(Pipeline{Name: "p"}, sh("true")), w.pipeline(Pipeline{Name: "q"})
	as, err := w.Actions(t.Context(), w.admin, p.ID)
	w.must(err)
	want := secret.Scope{Workspace: w.home.ID, Project: w.pr.ID, Pipeline: int64(p.ID)}
	if at, err := w.Where(t.Context(), w.admin, w.home.ID, p.ID, 0); err != nil || at != want {
		t.Error(at, err)
	}
	want.Action = int64(as[0].ID)
	for _, id := range []ID{0, p.ID} {
		if at, err := w.Where(t.Context(), w.admin, w.home.ID, id, as[0].ID); err != nil || at != want {
			t.Error(at, err)
		}
	}
	w.must(w.Delete(t.Context(), w.admin, q.ID))
	for name, f := range map[string]func() (secret.Scope, error){
		"another workspace": func() (secret.Scope, error) { return w.Where(t.Context(), w.admin, "other", p.ID, 0) },
		"unknown":           func() (secret.Scope, error) { return w.Where(t.Context(), w.admin, w.home.ID, 999, 0) },
		"unknown action":    func() (secret.Scope, error) { return w.Where(t.Context(), w.admin, w.home.ID, 0, 999) },
		"deleted":           func() (secret.Scope, error) { return w.Where(t.Context(), w.admin, w.home.ID, q.ID, 0) },
	} {
		if at, err := f(); !errdefs.IsNotFound(err) {
			t.Errorf("%s: %v %v", name, at, err)
		}
	}
}

// What has changed since the last successful run, or since what the start says,
// and what the action that failed has written.
func TestChangelogAndFailedLog(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	after := sh("echo \"$BUDDY_FAILED_ACTION_LOGS\"")
	after.When = OnFailure
	p := w.pipeline(Pipeline{}, sh("test -f bad && echo broken && exit 1; echo \"$BUDDY_RUN_CHANGELOG $BUDDY_EXECUTION_CHANGELOG_ADDED $BUDDY_RUN_CHANGELOG_CHANGED $BUDDY_RUN_CHANGELOG_DELETED.\""), after)
	first := w.commit("a", "1")
	x := w.wait(w.start(p, Start{}))
	if got := w.last(x, 0); got != "   ." {
		t.Errorf("the first run: %q", got)
	}
	w.commit("b", "1")
	w.commit("c", "1")
	last := w.commit("a", "2")
	told := regexp.MustCompile(`\[` + last.Revision[:7] + `\] [^|]+ \| [^|]+ \| \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\n\[[^\n]*\n\[[^\n]* b,c a \.$`)
	x = w.wait(w.start(p, Start{}))
	if got := strings.Join(w.lines(x, 0), "\n"); !told.MatchString(got) {
		t.Errorf("%q", got)
	}
	x = w.wait(w.start(p, Start{}))
	if got := w.last(x, 0); got != "   ." {
		t.Errorf("nothing new: %q", got)
	}
	x = w.wait(w.start(p, Start{From: first.Revision}))
	if got := strings.Join(w.lines(x, 0), "\n"); !told.MatchString(got) {
		t.Errorf("since the first: %q", got)
	}
	w.commit("bad", "")
	x = w.wait(w.start(p, Start{}))
	if got := w.lines(x, 1); !slices.Contains(got, "broken") {
		t.Errorf("log of the failed one: %q", got)
	}
}
