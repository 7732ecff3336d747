package pipeline

import (
	"slices"
	"strings"
	"testing"
	"time"

	"slipway/access"
	"slipway/db"
	"slipway/project"
	"slipway/source"
)

func TestJudge(t *testing.T) {
	t.Parallel()
	friday := time.Date(2026, 1, 2, 23, 30, 0, 0, time.UTC) // Saturday in Tokyo, and 0 o'clock in Berlin
	changed := Facts{Source: true, Base: "0123456789", Changed: []string{"docs/a.md", "src/lib/x.go", "README.md"}}
	vars := Facts{Variables: map[string]string{"A": "one two", "E": ""}}
	user := Facts{Email: "Ann@example.com", Groups: map[string]bool{"team": true}}
	latest := Facts{Latest: map[string]Status{"web/build": Successful, "/test": Failed}}
	for _, c := range []struct {
		c    Condition
		f    Facts
		want bool
	}{
		{Condition{Kind: always}, Facts{}, true},
		{Condition{Kind: onChange}, changed, true},
		{Condition{Kind: onChange}, Facts{Source: true, Base: "0123456789"}, false},
		{Condition{Kind: onChange}, Facts{}, false},
		{Condition{Kind: onChangeAt, Paths: []string{"/src/"}}, changed, true},
		{Condition{Kind: onChangeAt, Paths: []string{"src/lib/x.go"}}, changed, true},
		{Condition{Kind: onChangeAt, Paths: []string{"sr"}}, changed, false},
		{Condition{Kind: onChangeAt, Paths: []string{"/lib"}}, changed, false},
		{Condition{Kind: onChangeAt, Paths: []string{"**/*.go"}}, changed, true},
		{Condition{Kind: onChangeAt, Paths: []string{"*.go"}}, changed, false},
		{Condition{Kind: onChangeAt, Paths: []string{"x", "*.md"}}, changed, true},
		{Condition{Kind: onChangeAt, Paths: []string{"/"}}, changed, true},
		{Condition{Kind: onChangeAt, Paths: []string{"/"}}, Facts{Source: true}, false},
		{Condition{Kind: varIs, Key: "A", Value: "one two"}, vars, true},
		{Condition{Kind: varIs, Key: "A", Value: "one"}, vars, false},
		{Condition{Kind: varIs, Key: "E"}, vars, true},
		{Condition{Kind: varIs, Key: "NONE"}, vars, true},
		{Condition{Kind: varIsNot, Key: "A", Value: "one"}, vars, true},
		{Condition{Kind: varIsNot, Key: "A", Value: "one two"}, vars, false},
		{Condition{Kind: varHas, Key: "A", Value: "e t"}, vars, true},
		{Condition{Kind: varHas, Key: "A", Value: "x"}, vars, false},
		{Condition{Kind: varHasNot, Key: "A", Value: "x"}, vars, true},
		{Condition{Kind: varHasNot, Key: "A", Value: "one"}, vars, false},
		{Condition{Kind: atTime, Days: []int{5}, Hours: []int{23}}, Facts{}, true},
		{Condition{Kind: atTime, Days: []int{5}}, Facts{}, true},
		{Condition{Kind: atTime, Hours: []int{22}}, Facts{}, false},
		{Condition{Kind: atTime, Days: []int{6}, Hours: []int{8}, Timezone: "Asia/Tokyo"}, Facts{}, true},
		{Condition{Kind: atTime, Days: []int{5}, Timezone: "Asia/Tokyo"}, Facts{}, false},
		{Condition{Kind: atTime, Hours: []int{0}, Timezone: "Europe/Berlin"}, Facts{}, true},
		{Condition{Kind: atTime, Hours: []int{0}, Timezone: "No/Where"}, Facts{}, false},
		{Condition{Kind: afterSuccess, Project: "web", Pipeline: "build"}, latest, true},
		{Condition{Kind: afterSuccess, Pipeline: "test"}, latest, false},
		{Condition{Kind: afterSuccess, Pipeline: "none"}, latest, false},
		{Condition{Kind: userIs, User: "ann@example.com"}, user, true},
		{Condition{Kind: userIs, User: "bob@example.com"}, user, false},
		{Condition{Kind: userIsNot, User: "bob@example.com"}, user, true},
		{Condition{Kind: userIsNot, User: "ann@example.com"}, user, false},
		{Condition{Kind: userIn, Group: "team"}, user, true},
		{Condition{Kind: userIn, Group: "others"}, user, false},
		{Condition{Kind: userNotIn, Group: "others"}, user, true},
		{Condition{Kind: userNotIn, Group: "team"}, user, false},
	} {
		c.f.Now = friday
		v := Judge([]Condition{c.c}, c.f)
		if v.Met != c.want || len(v.Each) != 1 || v.Each[0].Why == "" || v.Each[0].Met != c.want {
			t.Errorf("%+v: %+v", c.c, v)
		}
		if strings.Contains(v.Each[0].Why, "one two") && c.c.Value != "one two" {
			t.Errorf("a value is shown: %+v", v)
		}
	}
	// All must hold.
	both := []Condition{{Kind: varHas, Key: "A", Value: "one"}, {Kind: varHas, Key: "A", Value: "three"}}
	if v := Judge(both, vars); v.Met || len(v.Each) != 2 || !v.Each[0].Met || !strings.Contains(v.why(), `VAR_CONTAINS: the variable A does not contain "three"`) {
		t.Errorf("%+v", v)
	}
}

func TestValidateConditions(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		c    Condition
		want string
	}{
		{Condition{Kind: onChange}, ""},
		{Condition{Kind: "NEVER"}, "trigger_condition"},
		{Condition{Kind: onChangeAt}, "trigger_condition_paths"},
		{Condition{Kind: onChangeAt, Paths: []string{"[a"}}, "trigger_condition_paths"},
		{Condition{Kind: varIs}, "trigger_variable_key"},
		{Condition{Kind: varIs, Key: strings.Repeat("x", textMax+1)}, "trigger_variable_key"},
		{Condition{Kind: atTime}, "trigger_hours"},
		{Condition{Kind: atTime, Hours: []int{24}, Days: []int{0}, Timezone: "Mars"}, "trigger_days trigger_hours timezone"},
		{Condition{Kind: atTime, Hours: []int{0}, Timezone: "Europe/Warsaw"}, ""},
		{Condition{Kind: afterSuccess}, "trigger_pipeline_name"},
		{Condition{Kind: userIsNot}, "trigger_user"},
		{Condition{Kind: userIn}, "trigger_group"},
	} {
		var inv project.Invalid
		validateConditions([]Condition{c.c}, &inv)
		var got []string
		for _, f := range inv.Fields {
			got = append(got, strings.TrimPrefix(f.Path, "trigger_conditions.0."))
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%+v: %q, want %q", c.c, got, c.want)
		}
	}
}

func when(a Action, cs ...Condition) Action {
	a.Conditions = cs
	return a
}

// What changed is told by comparing with the last successful run of the branch.
func TestOnChange(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	w.commit("src/a", "1")
	p := w.pipeline(Pipeline{}, when(sh("echo src"), Condition{Kind: onChangeAt, Paths: []string{"/src"}}),
		when(sh("echo docs"), Condition{Kind: onChangeAt, Paths: []string{"docs/*.md"}}), when(sh("echo any"), Condition{Kind: onChange}), sh("test -f fine"))
	run := func(want string) Execution {
		t.Helper()
		x := w.wait(w.start(p, Start{}))
		words := strings.Split(w.words(x), " ")
		got := string(x.Status)
		for _, s := range x.Steps {
			got += " " + string(s.Status)
			if s.Index < 3 && (s.Verdict == nil || s.Verdict.Met != (s.Status == Successful)) {
				t.Errorf("step %d is %s: %+v", s.Index, s.Status, s.Verdict)
			}
		}
		if got != want {
			t.Errorf("got %s, want %s: %q", got, want, words)
		}
		return x
	}
	x := run("FAILED SUCCESSFUL SKIPPED SUCCESSFUL FAILED") // all is new
	if e := x.Steps[1].Error; !strings.Contains(e, "ON_CHANGE_AT_PATH: no file at docs/*.md changed in the first run") {
		t.Error(e)
	}
	w.commit("docs/x.md", "1")
	run("FAILED SUCCESSFUL SUCCESSFUL SUCCESSFUL FAILED") // the one before was no success
	w.commit("fine", "1")
	first := run("SUCCESSFUL SUCCESSFUL SUCCESSFUL SUCCESSFUL SUCCESSFUL")
	run("SUCCESSFUL SKIPPED SKIPPED SKIPPED SUCCESSFUL")
	w.commit("docs/deep/y.md", "1")
	run("SUCCESSFUL SKIPPED SKIPPED SUCCESSFUL SUCCESSFUL")
	w.commit("src/deep/b", "1")
	run("SUCCESSFUL SUCCESSFUL SKIPPED SUCCESSFUL SUCCESSFUL")
	// From a revision that is given.
	y := w.wait(w.start(p, Start{From: first.Commit.Revision}))
	if got := w.words(y); !strings.HasPrefix(got, "SUCCESSFUL SUCCESSFUL SKIPPED") || !strings.Contains(y.Steps[1].Error, short(first.Commit.Revision)) {
		t.Error(got)
	}
	// Another branch has no run that it could be compared with.
	w.must(w.db.Write(t.Context(), func(tx *db.Tx) error {
		_, err := tx.Exec(`UPDATE executions SET branch = 'other'`)
		return err
	}))
	run("SUCCESSFUL SUCCESSFUL SUCCESSFUL SUCCESSFUL SUCCESSFUL")
}

// TestChangesetBase: which successful run conditions, and what the default
// variables tell of changes, compare with.
func TestChangesetBase(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	w.commit("one", "1")
	for base, want := range map[string]struct{ status, changed string }{
		"":                        {"SUCCESSFUL SUCCESSFUL SUCCESSFUL", "two"},
		"LATEST_RUN":              {"SUCCESSFUL SUCCESSFUL SKIPPED", "two"},
		"LATEST_RUN_MATCHING_REF": {"SUCCESSFUL SUCCESSFUL SUCCESSFUL", ""},
		"PULL_REQUEST":            {"SUCCESSFUL SUCCESSFUL SUCCESSFUL", ""},
	} {
		p := w.pipeline(Pipeline{Name: "base " + base, GitChangesetBase: base}, sh("echo added $BUDDY_RUN_CHANGELOG_ADDED"),
			when(sh("true"), Condition{Kind: onChangeAt, Paths: []string{"one"}}))
		w.wait(w.start(p, Start{}))
		branch := "other" + base
		_, err := w.sources.Write(t.Context(), w.admin, w.pr.ID, branch, "two", []byte("2"), "on another branch")
		w.must(err)
		x := w.wait(w.start(p, Start{Branch: branch}))
		var got []string
		for _, s := range x.Steps {
			got = append(got, string(s.Status))
		}
		if got := string(x.Status) + " " + strings.Join(got, " "); got != want.status {
			t.Errorf("%q: %s, want %s", base, got, want.status)
		}
		if l := w.lines(x, 0); strings.TrimSpace(l[len(l)-1]) != strings.TrimSpace("added "+want.changed) {
			t.Errorf("%q: %q, want %q", base, l, want.changed)
		}
	}
}

func TestConditionsOfActions(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{Limits: Limits{Runs: 1}})
	w.must(w.db.Write(t.Context(), func(tx *db.Tx) error {
		_, err := tx.Exec(`UPDATE users SET email = 'ann@example.com' WHERE id = ?`, w.admin.User.ID)
		return err
	}))
	isVar := Condition{Kind: varIs, Key: "WHERE", Value: "here"}
	good := w.pipeline(Pipeline{Name: "Good"}, sh("true"))
	bad := w.pipeline(Pipeline{Name: "Bad"}, sh("exit 1"))
	w.wait(w.start(good, Start{}))
	w.wait(w.start(bad, Start{}))
	onFailure := when(sh("echo failed"), isVar)
	onFailure.When = OnFailure
	p := w.pipeline(Pipeline{Name: "p", Variables: []Variable{{Key: "WHERE", Value: "there"}}},
		beside(when(sh("echo 0"), isVar), InSoftParallel),
		beside(when(sh("echo 1"), Condition{Kind: afterSuccess, Project: "web", Pipeline: "Good"}, Condition{Kind: userIs, User: "Ann@example.com"}), InHardParallel),
		when(sh("echo 2"), Condition{Kind: afterSuccess, Pipeline: "bad"}),
		when(sh("echo 3"), Condition{Kind: afterSuccess, Project: "none", Pipeline: "good"}),
		when(sh("exit 4"), Condition{Kind: userIsNot, User: "bob@example.com"}),
		when(sh("echo 5"), Condition{Kind: atTime, Hours: []int{0}}),
		onFailure)
	x := w.wait(w.start(p, Start{}))
	want := []Status{Skipped, Successful, Skipped, Skipped, Failed, NotExecuted, Skipped}
	for i, s := range x.Steps {
		if s.Status != want[i] || s.Status == Skipped && !strings.HasPrefix(s.Error, "skipped: ") || s.Status == NotExecuted && s.Verdict != nil {
			t.Errorf("step %d is %s, want %s: %s %+v", i, s.Status, want[i], s.Error, s.Verdict)
		}
	}
	// What was not met is judged anew by a retry from there on; what was met is not.
	y, err := w.Operate(t.Context(), w.admin, x.ID, OpRetry)
	w.must(err)
	if s := y.Steps[4]; s.Verdict == nil || y.Steps[6].Verdict != nil || y.Steps[0].Status != Skipped {
		t.Errorf("%+v", y.Steps)
	}
	w.wait(y)
	z := w.wait(w.start(p, Start{Variables: []Variable{{Key: "WHERE", Value: "here"}}}))
	if z.Steps[0].Status != Successful || z.Steps[6].Status != Successful {
		t.Error(w.words(z))
	}

	_, err = w.access.CreateGroup(t.Context(), w.admin, w.home.ID, access.Group{Name: "team"})
	w.must(err)
	in, notIn := Condition{Kind: userIn, Group: "team"}, Condition{Kind: userNotIn, Group: "team"}
	g := w.pipeline(Pipeline{Name: "group"}, when(sh("true"), in), when(sh("true"), notIn))
	if got := w.statuses(w.wait(w.start(g, Start{}))); !slices.Equal(got, []Status{Skipped, Successful}) {
		t.Error(got)
	}
	groups, err := w.access.Groups(t.Context(), w.admin, w.home.ID)
	w.must(err)
	_, err = w.access.AddToGroup(t.Context(), w.admin, w.home.ID, groups[0].ID, w.admin.User.ID, false)
	w.must(err)
	if got := w.statuses(w.wait(w.start(g, Start{}))); !slices.Equal(got, []Status{Successful, Skipped}) {
		t.Error(got)
	}
}

// Conditions that cannot be judged are a failure, and judged again by a retry.
func TestConditionsNotJudged(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	w.commit("a", "b")
	p := w.pipeline(Pipeline{}, sh("block"), when(sh("true"), Condition{Kind: onChange}))
	x := w.start(p, Start{})
	w.eng.Await(engineID(x, 0, 1))
	revision := func(text string) {
		w.must(w.db.Write(t.Context(), func(tx *db.Tx) error {
			_, err := tx.Exec(`UPDATE executions SET input = json_set(input, '$.Commit.Revision', ?) WHERE id = ?`, text, x.ID)
			return err
		}))
	}
	w.stop()
	revision("no commit")
	w.restart()
	w.eng.Release(engineID(x, 0, 1))
	y := w.wait(x)
	if y.Status != Failed || !strings.Contains(y.Steps[1].Error, "could not be judged") {
		t.Error(w.words(y))
	}
	revision(x.Commit.Revision)
	y, err := w.Operate(t.Context(), w.admin, x.ID, OpRetry)
	w.must(err)
	w.expect(y, "SUCCESSFUL SUCCESSFUL SUCCESSFUL")
}

// A server that is killed when conditions were judged has a successor that goes
// by the verdict.
func TestJudgedBefore(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	x := w.start(w.pipeline(Pipeline{}, sh("block"), when(sh("true"), Condition{Kind: varIs, Key: "X", Value: "no"})), Start{})
	w.eng.Await(engineID(x, 0, 1))
	w.stop()
	w.eng.Exit(engineID(x, 0, 1), 0)
	w.must(w.db.Write(t.Context(), func(tx *db.Tx) error {
		if _, err := tx.Exec(`UPDATE action_executions SET status = 'SUCCESSFUL' WHERE execution = ? AND idx = 0`, x.ID); err != nil {
			return err
		}
		if _, err := tx.Exec(`UPDATE executions SET runs = 0 WHERE id = ?`, x.ID); err != nil {
			return err
		}
		v := Verdict{At: tx.Now, Met: true, Each: []Outcome{{varIs, true, "it was so"}}}
		_, err := tx.Exec(`UPDATE action_executions SET verdict = ? WHERE execution = ? AND idx = 1`, v.text(), x.ID)
		return err
	}))
	w.restart()
	x = w.expect(x, "SUCCESSFUL SUCCESSFUL SUCCESSFUL")
	if v := x.Steps[1].Verdict; v == nil || v.Each[0].Why != "it was so" {
		t.Errorf("%+v", v)
	}
}

// The conditions of a pipeline are asked of what others start than people by
// hand, before it takes anybody's place.
func TestConditionsOfPipelines(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	c := w.commit("docs/a", "1")
	events := []EventRule{{Type: EventPush, Refs: []string{"refs/heads/*"}}}
	p := w.pipeline(Pipeline{Events: events, Conditions: []Condition{{Kind: onChangeAt, Paths: []string{"src"}}}}, sh("true"), sh("true"))
	push := func(c source.Commit) Execution {
		t.Helper()
		var ids []ExecutionID
		w.must(w.db.Write(t.Context(), func(tx *db.Tx) (err error) {
			ids, err = w.Triggered(tx, w.pr.ID, source.Push{Ref: "refs/heads/main", Old: strings.Repeat("0", 40), New: c.Revision, User: w.admin.User.ID})
			return err
		}))
		if len(ids) != 1 {
			t.Fatal(ids)
		}
		return w.wait(Execution{ID: ids[0]})
	}
	x := push(c)
	if x.Status != Skipped || x.Verdict == nil || x.Verdict.Met || x.Steps[0].Status != NotExecuted || !strings.Contains(x.Steps[0].Error, "no file at src") {
		t.Error(w.words(x))
	}
	y := push(w.commit("src/a", "1"))
	if y.Status != Successful || y.Verdict == nil || !y.Verdict.Met {
		t.Error(w.words(y))
	}
	if z := push(w.commit("docs/b", "1")); z.Status != Skipped {
		t.Error(w.words(z))
	}
	if z := w.wait(w.start(p, Start{})); z.Status != Successful || z.Verdict != nil {
		t.Error(w.words(z))
	}
}

// A delayed execution is not in the queue before its time, or before somebody
// says so; and holds no worker.
func TestDelay(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	p := w.pipeline(Pipeline{}, sh("true"))
	far := time.Now().Add(time.Hour)
	x := w.start(p, Start{Delay: far})
	if x.Status != Enqueued || !x.Delayed.Equal(far.Truncate(time.Microsecond)) {
		t.Errorf("%s until %s", x.Status, x.Delayed)
	}
	soon := w.start(p, Start{Delay: time.Now().Add(300 * time.Millisecond)})
	w.expect(w.start(p, Start{}), "SUCCESSFUL SUCCESSFUL") // it is in nobody's way
	soon = w.expect(soon, "SUCCESSFUL SUCCESSFUL")
	if soon.Started.Before(soon.Delayed) {
		t.Errorf("started %s, delayed until %s", soon.Started, soon.Delayed)
	}
	w.restart()
	x, err := w.Execution(t.Context(), w.admin, x.ID)
	w.must(err)
	if x.Status != Enqueued {
		t.Errorf("after a restart: %s", x.Status)
	}
	x, err = w.Operate(t.Context(), w.admin, x.ID, OpRunDelayed)
	w.must(err)
	w.expect(x, "SUCCESSFUL SUCCESSFUL")
	if _, err := w.Operate(t.Context(), w.admin, x.ID, OpRunDelayed); err == nil {
		t.Error("an ended one is run now")
	}
	y := w.start(p, Start{Delay: far})
	_, err = w.Operate(t.Context(), w.admin, y.ID, OpCancel)
	w.must(err)
	w.expect(y, "TERMINATED NOT_EXECUTED")
	if past := w.start(p, Start{Delay: time.Now().Add(-time.Hour)}); !past.Delayed.IsZero() {
		t.Errorf("delayed until %s", past.Delayed)
	}
}

// How the pipelines of another project go is not told to who may not see them.
func TestAfterSuccessOfAnother(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	ctx := t.Context()
	closed, err := w.projects.Create(ctx, w.admin, w.home.ID, project.New{Name: "closed"})
	w.must(err)
	theirs, err := w.Create(ctx, w.admin, closed.ID, Pipeline{Name: "good"})
	w.must(err)
	_, err = w.CreateAction(ctx, w.admin, theirs.ID, sh("true"), nil)
	w.must(err)
	w.expect(w.start(theirs, Start{}), "SUCCESSFUL SUCCESSFUL")
	p := w.pipeline(Pipeline{}, when(sh("true"), Condition{Kind: afterSuccess, Project: "closed", Pipeline: "good"}))
	w.expect(w.start(p, Start{}), "SUCCESSFUL SUCCESSFUL")
	x, err := w.Start(ctx, w.member("dev@example.com", 2), p.ID, Start{})
	w.must(err)
	w.expect(x, `SUCCESSFUL SKIPPED(skipped: the trigger conditions are not met: SUCCESS_PIPELINE: there is no pipeline "good" in the project "closed")`)
}
