package pipeline

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"slipway/db"
	"slipway/project"
	"slipway/secret"
	"slipway/source"
)

func TestWantsPull(t *testing.T) {
	t.Parallel()
	commit := strings.Repeat("1", 40)
	of := func(number, what, base string) source.Pull {
		p := source.Pull{Number: number, Ref: "refs/pull/" + number + "/head", Old: commit, New: commit, Base: base, What: what}
		switch what {
		case source.PullOpened:
			p.Old = strings.Repeat("0", 40)
		case source.PullClosed:
			p.New = strings.Repeat("0", 40)
		}
		return p
	}
	all := []source.Pull{of("1", "opened", "main"), of("2", "synchronize", "main"), of("3", "closed", "dev"), of("4", "labeled", "release/1"), of("12", "opened", "dev")}
	on := func(events, branches []string) Pipeline {
		return Pipeline{Events: []EventRule{{Type: EventPullRequest, Events: events, Branches: branches}}}
	}
	refs := func(kind string, refs ...string) Pipeline {
		return Pipeline{Events: []EventRule{{Type: kind, Refs: refs}}}
	}
	click, narrow := on(nil, nil), on(nil, nil)
	click.On, narrow.Refs = "CLICK", []string{"refs/heads/main", "refs/pull/1/*"}
	for i, c := range []struct {
		p    Pipeline
		want string
	}{
		{on(nil, nil), "[1 2 12]"},
		{on([]string{"closed", "labeled"}, nil), "[3 4]"},
		{on([]string{"opened", "labeled"}, []string{"release/*", "refs/heads/dev"}), "[4 12]"},
		{on(nil, []string{"main"}), "[1 2]"},
		{click, "[]"},
		{narrow, "[1]"},
		{refs(EventPush, "refs/pull/*"), "[1 2 12]"},
		{refs(EventPush, "*"), "[]"},
		{refs(EventCreateRef, "refs/pull/*"), "[1 12]"},
		{refs(EventDeleteRef, "refs/pull/*"), "[3]"},
		{Pipeline{On: "EVENT", Refs: []string{"refs/pull/1*"}}, "[1 12]"},
		{Pipeline{Refs: []string{"refs/pull/*"}}, "[]"},
	} {
		var got []string
		for _, p := range all {
			if c.p.wantsPull(p) {
				got = append(got, p.Number)
			}
		}
		if fmt.Sprint(got) != c.want {
			t.Errorf("%d: %v, want %s", i, got, c.want)
		}
	}
}

func TestBadPullEvents(t *testing.T) {
	t.Parallel()
	var inv project.Invalid
	validateEvents([]EventRule{{Type: EventPullRequest, Events: []string{"opened", "OPENED"}, Branches: []string{"main", strings.Repeat("x", 5000)}, Refs: []string{"x"}}}, &inv)
	if got := refusedMembers(inv.Err()); !slices.Equal(got, []string{"events.0.events.1", "events.0.branches.1", "events.0.refs"}) {
		t.Errorf("%v", got)
	}
}

// pulls tells of a pull request, and gives what it starts.
func (w *world) pulls(pull source.Pull) (all []Execution) {
	w.t.Helper()
	pull.Number, pull.User = prNumber(pull.Ref), w.admin.User.ID
	known := len(w.ofPulls())
	w.must(w.db.Write(w.t.Context(), func(tx *db.Tx) error { _, err := w.Pulled(tx, w.pr.ID, pull); return err }))
	w.settled()
	return w.ofPulls()[known:]
}

func (w *world) ofPulls() (all []Execution) {
	w.t.Helper()
	w.must(w.db.Read(w.t.Context(), func(tx *db.Tx) error {
		ids, err := db.Column[ExecutionID](tx, `SELECT id FROM executions WHERE mode = ? ORDER BY rowid`, ByPull)
		if err != nil {
			return err
		}
		for _, id := range ids {
			x, err := loadExecution(tx, id)
			if err != nil {
				return err
			}
			all = append(all, x)
		}
		return nil
	}))
	return all
}

// A run of a pull request has its commit, its branches, and the changes since it has
// left the one that it goes to.
func TestRunOfAPullRequest(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	ctx := t.Context()
	w.commit("one", "1")
	write := func(branch, path string) source.Commit {
		c, err := w.sources.Write(ctx, w.admin, w.pr.ID, branch, path, []byte(path), "")
		w.must(err)
		return c
	}
	c := write("feature", "two")
	w.commit("three", "3") // main goes on
	p := w.pipeline(Pipeline{
		GitChangesetBase: ofPull, CommentRequired: true, NoSkip: true,
		Events: []EventRule{{Type: EventPullRequest, Events: []string{"opened", "closed"}, Branches: []string{"main"}}},
	}, sh("echo $BUDDY_RUN_PR_NO $BUDDY_RUN_PR_HEAD_BRANCH $BUDDY_RUN_PR_BASE_BRANCH $BUDDY_EXECUTION_EVENT_TYPE $BUDDY_RUN_CHANGELOG_ADDED"),
		when(sh("true"), Condition{Kind: onChangeAt, Paths: []string{"one", "three"}}), when(sh("true"), Condition{Kind: onChangeAt, Paths: []string{"two"}}))
	pull := source.Pull{Ref: "refs/pull/5/head", Old: strings.Repeat("0", 40), New: c.Revision, Base: "main", Head: "feature", What: source.PullOpened}
	l := w.pulls(pull)
	if len(l) != 1 {
		t.Fatalf("%+v", l)
	}
	x := w.wait(l[0])
	if got := w.words(x); !strings.HasPrefix(got, "SUCCESSFUL SUCCESSFUL SKIPPED(") || !strings.HasSuffix(got, " SUCCESSFUL") || x.Pipeline != p.ID {
		t.Error(got)
	}
	if got := w.last(x, 0); got != "5 feature main PULL_REQUEST two" || x.Comment != "pull request 5: opened" || x.PullRequest != "pull/5/head" || x.Branch != "" {
		t.Errorf("%q %+v", got, x)
	}
	pull.What, pull.Old, pull.New = source.PullClosed, c.Revision, strings.Repeat("0", 40)
	if l := w.pulls(pull); len(l) != 1 || w.wait(l[0]).Commit.Revision != c.Revision {
		t.Errorf("closed: %+v", l)
	}
	pull.Base = "dev"
	if l := w.pulls(pull); len(l) != 0 {
		t.Errorf("to dev: %+v", l)
	}
}

// What strangers wrote runs without what is hidden, and leaves nothing behind.
func TestForkHasNoSecrets(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{Language: plainLanguage(), Forks: true})
	c := w.commit("one", "1")
	w.store(secret.Scope{}, secret.Variable{Key: "A", Value: "a-hidden", Encrypted: true})
	w.store(secret.Scope{Project: w.pr.ID}, secret.Variable{Key: "B", Value: "open", Settable: true})
	act := sh("echo a=$A c=$C d=$D $B\nexport B=poisoned")
	act.Variables = []Variable{{Key: "D", Value: "d-hidden", Encrypted: true}}
	p := w.pipeline(Pipeline{Events: []EventRule{{Type: EventPullRequest}}, Variables: []Variable{{Key: "C", Value: "c-hidden", Encrypted: true}}}, act)
	pull := source.Pull{Ref: "refs/pull/5/head", Old: strings.Repeat("0", 40), New: c.Revision, Base: "main", What: source.PullOpened}
	last := func(x Execution) string {
		l := w.lines(x, 0)
		return l[len(l)-1]
	}
	x := w.wait(w.pulls(pull)[0])
	if got := last(x); got != "a= c= d= open" || !strings.Contains(strings.Join(w.lines(x, 0), "\n"), "hidden values, integrations, logins and the files of the pipeline are not given to this run") {
		t.Errorf("%q", w.lines(x, 0))
	}
	if own := w.filesOf(x); own == p.ID.Volume() || w.baseOf(p) != p.ID.Volume() {
		t.Errorf("it works in %q, and the next one begins with %q", own, w.baseOf(p))
	}
	pull.Head = "main"
	if got := last(w.wait(w.pulls(pull)[0])); got != "a=*** c=*** d=*** open" {
		t.Errorf("of a branch: %q", got)
	}
	a := w.actionsOf(p)[0]
	a.Run.Registry.Integration = &Integration{HashID: "x"}
	_, err := w.UpdateAction(t.Context(), w.admin, p.ID, a.ID, func(n *Action) error { n.Run.Registry.Integration = &Integration{HashID: "x"}; return nil }, nil)
	w.must(err)
	pull.Head = ""
	if x := w.wait(w.pulls(pull)[0]); x.Status != Failed || !strings.Contains(x.Steps[0].Error, "integration x: hidden values, integrations, logins and the files of the pipeline are not given") {
		t.Error(w.words(x))
	}
}

// filesOf is the file system that an execution has to itself, baseOf that with which
// the next one begins.
func (w *world) filesOf(x Execution) (volume string) {
	w.t.Helper()
	w.must(w.db.Read(w.t.Context(), func(tx *db.Tx) (err error) { volume, err = ownFiles(tx, x.ID); return err }))
	return volume
}

func (w *world) baseOf(p Pipeline) string {
	w.t.Helper()
	volume, err := w.base(w.t.Context(), p.ID)
	w.must(err)
	return volume
}

// With a definition in each commit that of the pull request says whether it starts.
func TestPullRequestWithItsFile(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{Language: plainLanguage(), Forks: true})
	w.file("main", Pipeline{Events: onPush("main")}, sh("true"))
	p := w.pipeline(Pipeline{GitConfigRef: dynamicFile, NoSkip: true})
	w.settled()
	at := func(what string) source.Pull {
		c, err := w.sources.Resolve(t.Context(), w.pr.ID, "feature", "HEAD")
		w.must(err)
		return source.Pull{Ref: "refs/pull/5/head", Old: strings.Repeat("0", 40), New: c.Revision, Base: "main", Head: "feature", What: what}
	}
	w.file("feature", Pipeline{Events: onPush("main")}, sh("true"))
	if l := w.pulls(at(source.PullOpened)); len(l) != 0 {
		t.Errorf("%+v", l)
	}
	w.file("feature", Pipeline{Events: []EventRule{{Type: EventPullRequest, Events: []string{"synchronize"}}}}, sh("true"))
	if l := w.pulls(at(source.PullOpened)); len(l) != 0 {
		t.Errorf("%+v", l)
	}
	w.expect(w.pulls(at(source.PullPushed))[0], "SUCCESSFUL SUCCESSFUL")
	// That of strangers is run, and changes nothing of the pipeline.
	before := w.actionsOf(p)
	foreign := sh("echo $X")
	foreign.Name, foreign.Variables = "foreign", []Variable{{Key: "X", Value: "hidden", Encrypted: true}}
	changed := before[0]
	changed.Run = &Run{Image: "busybox", Tag: "latest", Commands: "echo theirs"}
	w.file("feature", Pipeline{Events: []EventRule{{Type: EventPullRequest}}}, foreign, changed)
	fork := at(source.PullPushed)
	fork.Head = ""
	x := w.expect(w.pulls(fork)[0], "SUCCESSFUL SUCCESSFUL SUCCESSFUL")
	if l := w.lines(x, 1); l[len(l)-1] != "theirs" || w.filesOf(x) == w.baseOf(p) {
		t.Errorf("%q", l)
	}
	if after := w.actionsOf(p); fmt.Sprintf("%+v", after[0].Run) != fmt.Sprintf("%+v", before[0].Run) || len(after) != len(before) {
		t.Errorf("%+v instead of %+v", after, before)
	}
}

// What a stranger may have written starts nothing by itself, unless it is wished.
func TestForkStartsNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{Language: plainLanguage()})
	c := w.commit("one", "1")
	w.pipeline(Pipeline{Events: []EventRule{{Type: EventPullRequest}}}, sh("true"))
	pull := source.Pull{Ref: "refs/pull/5/head", Old: strings.Repeat("0", 40), New: c.Revision, Base: "main", What: source.PullOpened}
	if !pull.Fork() {
		t.Fatal("it is no fork's")
	}
	if l := w.pulls(pull); len(l) != 0 {
		t.Errorf("%d runs", len(l))
	}
	pull.Head = "main"
	if l := w.pulls(pull); pull.Fork() || len(l) != 1 {
		t.Errorf("of the own repository: %d runs", len(l))
	}
}
