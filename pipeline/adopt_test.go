package pipeline

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/containerd/errdefs"

	"slipway/db"
	"slipway/project"
	"slipway/secret"
	"slipway/source"
)

// plainLanguage is a language for tests: the JSON of a definition.
func plainLanguage() Language {
	return Language{Dialect: "test", Read: func(text []byte, of Pipeline, _ []Parameter) (d Definition, _ []string, err error) {
		d.Pipeline = of
		if err := json.Unmarshal(text, &d); err != nil {
			var inv project.Invalid
			inv.Add("", "format", err.Error())
			return d, nil, inv.Err()
		}
		for _, s := range starters() {
			if !s.same(d.Pipeline, Pipeline{}) {
				d.Says = append(d.Says, s.name)
			}
		}
		return d, nil, nil
	}}
}

// file commits a definition to a branch.
func (w *world) file(branch string, p Pipeline, actions ...Action) {
	w.t.Helper()
	text, err := json.Marshal(Definition{Pipeline: p, Actions: actions})
	w.must(err)
	_, err = w.sources.Write(w.t.Context(), w.admin, w.pr.ID, branch, "buddy.yml", text, "definition")
	w.must(err)
}

// push starts what a push to a branch asks for, once the files are read that say so.
func (w *world) push(branch string) Execution {
	w.t.Helper()
	all := w.pushes(branch)
	if len(all) != 1 {
		w.t.Fatalf("started: %+v", all)
	}
	return all[0]
}

// pushes are the executions that a push to a branch starts.
func (w *world) pushes(branch string) (all []Execution) {
	w.t.Helper()
	c, err := w.sources.Resolve(w.t.Context(), w.pr.ID, branch, "HEAD")
	w.must(err)
	last := ""
	w.must(w.db.Write(w.t.Context(), func(tx *db.Tx) error {
		if err := tx.QueryRow(`SELECT coalesce(max(rowid), 0) FROM executions`).Scan(&last); err != nil {
			return err
		}
		_, err = w.Triggered(tx, w.pr.ID, source.Push{Ref: "refs/heads/" + branch, Old: c.Revision, New: c.Revision, User: w.admin.User.ID})
		return err
	}))
	w.settled()
	var ids []ExecutionID
	w.must(w.db.Read(w.t.Context(), func(tx *db.Tx) error {
		ids, err = db.Column[ExecutionID](tx, `SELECT id FROM executions WHERE rowid > ? AND mode = ? ORDER BY rowid`, last, ByPush)
		return err
	}))
	for _, id := range ids {
		x, err := w.Execution(w.t.Context(), w.admin, id)
		w.must(err)
		all = append(all, x)
	}
	return all
}

// settled waits until no file is to be read any more.
func (w *world) settled() {
	w.t.Helper()
	w.until("all files are read", func() bool {
		var n int
		w.must(w.db.Read(w.t.Context(), func(tx *db.Tx) error {
			return tx.QueryRow(`SELECT count(*) FROM definition_reads`).Scan(&n)
		}))
		return n == 0
	})
}

func ofFile(more Pipeline) Pipeline {
	more.GitConfigRef, more.Events = dynamicFile, []EventRule{{Type: EventPush, Refs: []string{"*"}}}
	return more
}

// Each run has the hidden values of its own file, whatever another one says
// meanwhile.
func TestHiddenValuesOfAFile(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{Language: plainLanguage()})
	with := func(value string) Action {
		a := sh("block")
		a.Variables = []Variable{{Key: "S", Value: value, Encrypted: true}}
		a.Run.Registry = Registry{Kind: OtherRegistry, URL: "docker.io", Username: "u", Password: value}
		return a
	}
	w.file("main", Pipeline{Variables: []Variable{{Key: "P", Value: "p-of-main", Encrypted: true}}}, with("s-of-main"))
	w.file("dev", Pipeline{Variables: []Variable{{Key: "P", Value: "p-of-dev", Encrypted: true}}}, with("s-of-dev"))
	p := w.pipeline(ofFile(Pipeline{VariablesByYAML: true}))
	first := w.start(p, Start{Branch: "main"})
	w.eng.Await(engineID(first, 0, 1))
	second := w.start(p, Start{Branch: "dev"})
	if s, _ := w.eng.RunSpec(engineID(first, 0, 1)); !slices.Contains(s.Env, "S=s-of-main") || !slices.Contains(s.Env, "P=p-of-main") {
		t.Errorf("%v", s.Env)
	}
	w.stop() // and what the next life of the server knows is what is kept
	w.run()
	w.eng.Exit(engineID(first, 0, 1), 1)
	w.expect(first, "FAILED FAILED(ended with exit code 1)")
	w.eng.Await(engineID(second, 0, 1))
	if s, _ := w.eng.RunSpec(engineID(second, 0, 1)); !slices.Contains(s.Env, "S=s-of-dev") || !slices.Contains(s.Env, "P=p-of-dev") {
		t.Errorf("%v", s.Env)
	}
	w.eng.Exit(engineID(second, 0, 1), 0)
	w.expect(second, "SUCCESSFUL SUCCESSFUL")
	again, err := w.Operate(t.Context(), w.admin, first.ID, OpRetry)
	w.must(err)
	w.eng.Await(engineID(again, 0, 2))
	if s, _ := w.eng.RunSpec(engineID(again, 0, 2)); !slices.Contains(s.Env, "S=s-of-main") || !slices.Contains(s.Env, "P=p-of-main") {
		t.Errorf("again: %v", s.Env)
	}
	w.eng.Exit(engineID(again, 0, 2), 0)
	w.expect(again, "SUCCESSFUL SUCCESSFUL")
	for _, x := range []Execution{first, second} {
		text, err := json.Marshal(w.wait(x))
		w.must(err)
		if strings.Contains(string(text), "-of-") {
			t.Errorf("shown: %s", text)
		}
	}
}

// A run that a push starts reads its file itself: it fails with what is wrong, can
// be tried again, and makes the rounds of the loop that the file says.
func TestRunReadsItsFile(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{Language: plainLanguage()})
	w.commit("f", "x")
	p := w.pipeline(ofFile(Pipeline{}))
	x := w.wait(w.push("main"))
	if x.Status != Failed || len(x.Steps) != 0 || !strings.HasPrefix(x.Problem, "git_config_ref: there is no file .buddy/pipe.yml, .buddy/pipe.yaml, buddy.yml, ") {
		t.Errorf("%s: %s", w.words(x), x.Problem)
	}
	x, err := w.Operate(t.Context(), w.admin, x.ID, OpRetry)
	w.must(err)
	if x = w.wait(x); x.Status != Failed || x.Problem == "" {
		t.Errorf("again: %s: %s", w.words(x), x.Problem)
	}
	w.file("main", Pipeline{Priority: High, Loop: []string{"L"}, Variables: []Variable{{Key: "L", Value: "a,b,c"}}}, sh("true"))
	w.must(updateOnly(w, p.ID, func(n *Pipeline) { n.VariablesByYAML = true }))
	x = w.expect(w.push("main"), "SUCCESSFUL SUCCESSFUL")
	if x.Priority != High {
		t.Errorf("priority %s", x.Priority)
	}
	l, total, err := w.Executions(t.Context(), w.admin, p.ID, 0, 10)
	w.must(err)
	var rounds []string
	for _, x := range l {
		if len(x.Variables) == 1 {
			rounds = append(rounds, x.Variables[0].Value)
			w.wait(x)
		}
	}
	if total != 4 || fmt.Sprint(rounds) != "[c b a]" {
		t.Errorf("%d executions, rounds %v", total, rounds)
	}
	// Of what is not valid beyond the file's own words the run tells, too.
	w.file("main", Pipeline{}, Action{Name: "x", Run: &Run{}})
	x = w.wait(w.push("main"))
	if x.Status != Failed || !strings.Contains(x.Problem, "buddy.yml at commit ") || !strings.Contains(x.Problem, "actions.0 (x): docker_image_name: is required") || x.Steps[0].Status != Failed {
		t.Errorf("%s: %s", w.words(x), x.Problem)
	}
	// One that is cancelled before it knew has nothing to run.
	w.must(updateOnly(w, p.ID, func(n *Pipeline) { n.GitConfigRef = "" }))
	if _, err := w.CreateAction(t.Context(), w.admin, p.ID, sh("true"), nil); err != nil {
		t.Error(err)
	}
}

// A run that still has to read its file leaves the actions alone that were made by
// hand since.
func TestRetryOfWhatWasInAFile(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{Language: plainLanguage()})
	w.commit("f", "x")
	p := w.pipeline(ofFile(Pipeline{}))
	x := w.wait(w.push("main"))
	w.must(updateOnly(w, p.ID, func(n *Pipeline) { n.GitConfigRef = "" }))
	made, err := w.CreateAction(t.Context(), w.admin, p.ID, sh("true"), nil)
	w.must(err)
	// It reads the commit of then, which has a file now.
	w.file("main", Pipeline{}, Action{Name: "other", Run: made.Run})
	c, err := w.sources.Resolve(t.Context(), w.pr.ID, "main", "HEAD")
	w.must(err)
	w.must(w.db.Write(t.Context(), func(tx *db.Tx) error {
		_, err := tx.Exec(`UPDATE executions SET input = json_set(input, '$.Commit.Revision', ?) WHERE id = ?`, c.Revision, x.ID)
		return err
	}))
	x, err = w.Operate(t.Context(), w.admin, x.ID, OpRetry)
	w.must(err)
	if x = w.wait(x); x.Status != Failed || x.Problem != "the definition is not in a file any more: start it anew" {
		t.Errorf("%s: %s", w.words(x), x.Problem)
	}
	l, err := w.Actions(t.Context(), w.admin, p.ID)
	if err != nil || len(l) != 1 || l[0].ID != made.ID {
		t.Errorf("%+v, %v", l, err)
	}
}

// A value that was given once stays for the file that names it, whatever another one
// has instead.
func TestHiddenValuesBesideOthers(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{Language: plainLanguage()})
	p := w.pipeline(ofFile(Pipeline{VariablesByYAML: true}))
	says := func(branch, key, value, password string) {
		a := sh("true")
		v := []Variable{{Key: key, Value: value, Encrypted: true}}
		a.Variables = v
		if password != "" {
			a.Run.Registry = Registry{Kind: OtherRegistry, URL: "docker.io", Username: "u", Password: password}
		}
		w.file(branch, Pipeline{Variables: v}, a)
	}
	has := func(x Execution, key, value, password string) {
		t.Helper()
		w.must(w.db.Read(t.Context(), func(tx *db.Tx) error {
			hidden, err := w.unseal(tx, "executions", x.ID.row(), x.ID)
			action := x.Steps[0].Action.ID.row()
			if hidden[p.ID.row()+"/variables."+key] != value || hidden[action+"/variables."+key] != value || hidden[action+"/password"] != password {
				t.Errorf("execution %d has %v", x.Number, hidden)
			}
			return err
		}))
	}
	says("main", "S", "s-of-main", "p-of-main")
	has(w.wait(w.start(p, Start{})), "S", "s-of-main", "p-of-main")
	says("dev", "S", "s-of-dev", "p-of-dev")
	has(w.wait(w.start(p, Start{Branch: "dev"})), "S", "s-of-dev", "p-of-dev")
	says("dev", "T", "t-of-dev", "")
	has(w.wait(w.start(p, Start{Branch: "dev"})), "T", "t-of-dev", "")
	says("main", "U", "u-of-main", "")
	has(w.wait(w.start(p, Start{})), "U", "u-of-main", "")
	says("main", "S", secret.Encrypted, secret.Encrypted)
	has(w.wait(w.start(p, Start{})), "S", "s-of-main", "p-of-main")
	if got := overlaid(map[string]string{"password": "a", "password for": "b"}, map[string]string{"password": "c"}); len(got) != 1 {
		t.Errorf("%v", got)
	}
}

// What a file says of variables and permissions is the pipeline's own from the
// default branch alone: who may push to another one does not get more by it.
func TestFileOfAnotherBranch(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{Language: plainLanguage()})
	ctx, by := t.Context(), w.member("m@example.com", 3)
	act := func(name, others string) Action {
		a := sh("true")
		a.Name, a.Permissions = name, &Permissions{Others: others}
		return a
	}
	says := func(branch, others, value, deploy string) {
		vs := []Variable{{Key: "V", Value: value, Settable: true}, {Key: "L", Value: value + "," + value + "0", Encrypted: true}}
		w.file(branch, Pipeline{Permissions: &Permissions{Others: others}, Variables: vs, Loop: []string{"L"}}, act("build", "DEFAULT"), act("deploy", deploy))
	}
	says("main", "RUN_ONLY", "1", "READ_ONLY")
	says("dev", "READ_WRITE", "2", "DEFAULT")
	p := w.pipeline(ofFile(Pipeline{VariablesByYAML: true, PermissionsByYAML: true}))
	w.wait(w.start(p, Start{}))
	build, deploy := w.actionsOf(p)[0], w.actionsOf(p)[1]
	dev, err := w.sources.Resolve(ctx, w.pr.ID, "dev", "HEAD")
	w.must(err)
	for _, in := range []Start{{Branch: "dev"}, {Revision: dev.Revision}} {
		if _, err := w.Start(ctx, by, p.ID, in); !errdefs.IsPermissionDenied(err) {
			t.Errorf("all of %+v: %v", in, err)
		}
		in.Only = []ActionID{build.ID}
		x, err := w.Start(ctx, by, p.ID, in)
		w.must(err)
		x = w.wait(x)
		v, err := (&handling{Runner: w.r, x: x, changed: new(atomic.Pointer[news])}).values(ctx, x.Steps[0])
		w.must(err)
		if v.byKey["V"] != "2" || v.byKey["L"] != "2" {
			t.Errorf("the run has V=%s L=%s", v.byKey["V"], v.byKey["L"])
		}
		pl, err := w.Get(ctx, by, p.ID)
		w.must(err)
		if pl.Permissions.Others != "RUN_ONLY" || pl.Variables[0].Value != "1" || x.Frozen.Permissions.Others != "RUN_ONLY" {
			t.Errorf("the pipeline has %+v, %+v", pl.Permissions, pl.Variables)
		}
		if now := w.actionsOf(p); len(now) != 2 || now[1].ID != deploy.ID || now[1].Permissions.Others != "READ_ONLY" {
			t.Errorf("%+v", now)
		}
	}
	head, err := w.sources.Resolve(ctx, w.pr.ID, "", "HEAD")
	w.must(err)
	for of, want := range map[run]bool{{commit: head}: true, {commit: head, pull: "pull/1/head"}: false, {commit: dev}: false, {}: false} {
		if w.holds(ctx, p, of) != want {
			t.Errorf("%+v holds: %v", of, !want)
		}
	}
	says("main", "READ_WRITE", "3", "DEFAULT")
	x, err := w.Start(ctx, by, p.ID, Start{})
	w.must(err)
	w.wait(x)
	if pl, err := w.Get(ctx, by, p.ID); err != nil || pl.Permissions.Others != "READ_WRITE" || pl.Variables[0].Value != "3" {
		t.Errorf("of the default branch: %+v, %v", pl, err)
	}
}

func (w *world) actionsOf(p Pipeline) []Action {
	w.t.Helper()
	l, err := w.Actions(w.t.Context(), w.admin, p.ID)
	w.must(err)
	return l
}

func updateOnly(w *world, id ID, change func(*Pipeline)) error {
	_, err := w.Update(w.t.Context(), w.admin, id, func(n *Pipeline) error { change(n); return nil })
	return err
}

// A settable variable of a file has what runs gave it until the file says another
// value.
func TestSettableOfAFile(t *testing.T) {
	t.Parallel()
	had := []Variable{{Key: "V", Value: "4", Settable: true, First: "1"}, {Key: "W", Value: "x"}}
	for file, want := range map[string]string{"1": "4", "2": "2"} {
		got := fromFile([]Variable{{Key: "V", Value: file, Settable: true}, {Key: "W", Value: "y"}}, had)
		if got[0].Value != want || got[0].First != file || got[1].Value != "y" || got[1].First != "" {
			t.Errorf("%s: %+v", file, got)
		}
	}
}

// A definition in another project is for who may read that one, and as long as who
// said so may.
func TestDefinitionOfAnotherProject(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{Language: plainLanguage()})
	ctx := t.Context()
	defs, err := w.projects.Create(ctx, w.admin, w.home.ID, project.New{Name: "defs"})
	w.must(err)
	text, err := json.Marshal(Definition{Actions: []Action{sh("true")}})
	w.must(err)
	_, err = w.sources.Write(ctx, w.admin, defs.ID, "main", "x.yml", text, "definition")
	w.must(err)
	by := w.member("m@example.com", 3) // of web, and not of defs
	at := Pipeline{Name: "p", GitConfigRef: fixedFile, GitConfig: &GitConfig{Project: "defs", Path: "x.yml"}}
	for _, p := range []Pipeline{at, {Name: "p", DefinitionSource: remoteFile, Remote: Remote{Project: "defs", Path: "x.yml"}}} {
		_, err := w.Create(ctx, by, w.pr.ID, p)
		if bad, ok := project.AsInvalid(err); !ok || bad.Fields[0].Kind != "unknown" {
			t.Errorf("who may not read it: %v", err)
		}
	}
	p := w.pipeline(at)
	w.expect(w.start(p, Start{}), "SUCCESSFUL SUCCESSFUL")
	if _, err := w.Update(ctx, by, p.ID, func(n *Pipeline) error { n.GitConfig.Path = "y.yml"; return nil }); err == nil {
		t.Error("another file of it, by who may not read it")
	}
	if _, err := w.Update(ctx, by, p.ID, func(n *Pipeline) error { n.Priority = Low; return nil }); err != nil {
		t.Errorf("something else: %v", err)
	}
	x, err := w.Start(ctx, by, p.ID, Start{})
	w.must(err)
	w.expect(x, "SUCCESSFUL SUCCESSFUL")
	// The one who said so has lost it.
	w.must(w.db.Write(ctx, func(tx *db.Tx) error {
		pl, err := loadPipeline(tx, p.ID)
		if err != nil {
			return err
		}
		pl.DefinedBy = by.User.ID
		spec, err := specOf(pl)
		if err == nil {
			_, err = tx.Exec(`UPDATE pipelines SET spec = ? WHERE id = ?`, spec, p.ID)
		}
		return err
	}))
	if _, err := w.Start(ctx, w.admin, p.ID, Start{}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("by who may not read it any more: %v", err)
	}
}

// A file that names another project does not have it read for who may not read that.
func TestFileNamesAnotherProject(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{Language: plainLanguage()})
	ctx, by := t.Context(), w.member("m@example.com", 3) // of web, and not of defs
	defs, err := w.projects.Create(ctx, w.admin, w.home.ID, project.New{Name: "defs"})
	w.must(err)
	text, err := json.Marshal(Definition{Actions: []Action{sh("true")}})
	w.must(err)
	_, err = w.sources.Write(ctx, w.admin, defs.ID, "main", "x.yml", text, "definition")
	w.must(err)
	w.file("main", Pipeline{DefinitionSource: remoteFile, Remote: Remote{Project: "defs", Path: "x.yml"}})
	p := w.pipeline(ofFile(Pipeline{}))
	w.expect(w.start(p, Start{}), "SUCCESSFUL SUCCESSFUL")
	_, err = w.Start(ctx, by, p.ID, Start{})
	if bad, ok := project.AsInvalid(err); !ok || !strings.Contains(bad.Fields[0].Message, `the file says remote_project_name "defs": there is no project`) {
		t.Errorf("by who may not read it: %v", err)
	}
	w.admin, by = by, w.admin // who pushes
	x := w.wait(w.push("main"))
	w.admin, by = by, w.admin
	if x.Status != Failed || !strings.Contains(x.Problem, "who started the run may not read its repository") {
		t.Errorf("%s: %s", w.words(x), x.Problem)
	}
	// What the pipeline itself names its owner has had read.
	w.must(updateOnly(w, p.ID, func(n *Pipeline) { n.Remote = Remote{Project: "defs", Path: "y.yml"}; n.DefinitionSource = remoteFile }))
	x, err = w.Start(ctx, by, p.ID, Start{})
	w.must(err)
	w.expect(x, "SUCCESSFUL SUCCESSFUL")
}

// A definition has so many actions, and one start makes so many.
func TestManyActions(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{Language: plainLanguage()})
	many := make([]Action, maxActions+1)
	for i := range many {
		many[i] = sh("true")
		many[i].Name = fmt.Sprint("a", i)
	}
	const want = "there are 201, and a definition has at most 200"
	if _, err := w.Import(t.Context(), w.admin, w.pr.ID, "test", []Definition{{Pipeline: Pipeline{Name: "x"}, Actions: many}}); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("import: %v", err)
	}
	w.file("main", Pipeline{}, many...)
	p := w.pipeline(ofFile(Pipeline{}))
	_, err := w.Start(t.Context(), w.admin, p.ID, Start{})
	if bad, ok := project.AsInvalid(err); !ok || !strings.Contains(bad.Fields[0].Message, want) {
		t.Errorf("a file: %v", err)
	}
	looped := Pipeline{Name: "looped", Loop: []string{"L"}, Variables: []Variable{{Key: "L", Value: strings.Repeat("x,", maxRuns-1) + "x"}}}
	w.must(w.db.Read(t.Context(), func(tx *db.Tx) error {
		for n, want := range map[int]string{20: "", 21: "loop: 100 runs of 21 actions are 2100, and one start makes at most 2000 actions: take fewer values of L"} {
			l, refused, err := w.startRounds(tx, adopted{pipeline: looped, actions: many[:n]}, Start{})
			if err != nil || refused != want || (want == "") != (len(l) == maxRuns) {
				t.Errorf("%d actions: %d rounds, %q, %v", n, len(l), refused, err)
			}
		}
		return nil
	}))
}

// Of actions that no file has any more some are kept, with what is secret of them, and
// those that still run.
func TestActionsThatAreGone(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{Language: plainLanguage()})
	ctx := t.Context()
	named := func(name, words string) Action {
		a := sh(words)
		a.Name = name
		return a
	}
	w.file("main", Pipeline{Concurrent: true}, named("running", "block"))
	p := w.pipeline(ofFile(Pipeline{Concurrent: true}))
	x := w.start(p, Start{})
	id := w.blocked(x)
	many := make([]Action, maxGone+10)
	for i := range many {
		many[i] = named(fmt.Sprint("a", i), "true")
		many[i].Disabled = true
	}
	w.file("main", Pipeline{Concurrent: true}, many...)
	w.wait(w.start(p, Start{}))
	oldest := w.actionsOf(p)[0]
	_, err := w.secrets.CreateVariable(ctx, w.admin, secret.Variable{
		Key: "S", Value: "s", Encrypted: true, Scope: secret.Scope{Workspace: w.home.ID, Project: w.pr.ID, Pipeline: int64(p.ID), Action: int64(oldest.ID)},
	})
	w.must(err)
	count := func(query string, args ...any) (n int) {
		t.Helper()
		w.must(w.db.Read(ctx, func(tx *db.Tx) error { return tx.QueryRow(query, args...).Scan(&n) }))
		return n
	}
	const rows = `SELECT COUNT(*) FROM actions WHERE pipeline = ? AND gone = 1`
	w.file("main", Pipeline{Concurrent: true}, named("last", "true"))
	w.wait(w.start(p, Start{}))
	if n := count(rows, p.ID); n != maxGone+1 {
		t.Errorf("%d are kept", n)
	}
	if n := count(`SELECT COUNT(*) FROM actions WHERE id = ?`, x.Steps[0].Action.ID); n != 1 {
		t.Error("the one that runs is not")
	}
	if n := count(`SELECT COUNT(*) FROM variables`); n != 0 {
		t.Errorf("%d secrets of those that are not", n)
	}
	w.must(updateOnly(w, p.ID, func(n *Pipeline) { n.Priority = High }))
	if n := count(rows, p.ID); n != maxGone+1 {
		t.Errorf("%d after another change", n)
	}
	w.must(updateOnly(w, p.ID, func(n *Pipeline) { n.GitConfigRef = "" }))
	if n := count(rows, p.ID); n != 0 {
		t.Errorf("%d when the definition is in no file", n)
	}
	w.eng.Release(id)
	w.expect(x, "SUCCESSFUL SUCCESSFUL")
}

// What an integration says of who may use it holds for files, whoever starts: their
// writers are not known.
func TestIntegrationOfAFile(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{Language: plainLanguage()})
	action := sh("true")
	action.Run.Registry.Integration = &Integration{Identifier: "hub"}
	w.file("main", Pipeline{}, action)
	p := w.pipeline(ofFile(Pipeline{}))
	some := secret.Integration{Workspace: w.home.ID, Name: "hub", Type: secret.DockerHub, AllPipelines: true, Credentials: secret.Credentials{Username: "u", Password: "p"}}
	made, err := w.secrets.CreateIntegration(t.Context(), w.admin, some)
	w.must(err)
	say := func(change func(*secret.Integration)) {
		t.Helper()
		_, err := w.secrets.UpdateIntegration(t.Context(), w.admin, w.home.ID, made.ID, func(i *secret.Integration) error { change(i); return nil })
		w.must(err)
	}
	deny := func(i *secret.Integration) {
		i.Permissions.Users = []secret.IntegrationGrant{{ID: 4711, Level: secret.Denied}}
	}
	say(deny)
	if _, err := w.Start(t.Context(), w.admin, p.ID, Start{}); !errdefs.IsPermissionDenied(err) || !strings.Contains(err.Error(), "allowed_pipelines") {
		t.Errorf("one that is denied to somebody, started by an administrator: %v", err)
	}
	if x := w.wait(w.push("main")); x.Status != Failed || !strings.Contains(x.Problem, "hub is denied to somebody") {
		t.Errorf("and by a push: %s %q", x.Status, x.Problem)
	}
	say(func(i *secret.Integration) { i.Pipelines = []int64{int64(p.ID)} })
	if _, err := w.Start(t.Context(), w.admin, p.ID, Start{}); err != nil {
		t.Errorf("one that names the pipeline: %v", err)
	}
	say(func(i *secret.Integration) { i.Pipelines = nil })
	if _, err := w.Start(t.Context(), w.admin, p.ID, Start{}); err != nil {
		t.Errorf("what an action named before: %v", err)
	}
	action.Name = "other"
	w.file("main", Pipeline{}, action)
	if _, err := w.Start(t.Context(), w.admin, p.ID, Start{}); !errdefs.IsPermissionDenied(err) {
		t.Errorf("another action: %v", err)
	}
	say(func(i *secret.Integration) { i.Permissions.Users = nil })
	if _, err := w.Start(t.Context(), w.admin, p.ID, Start{}); err != nil {
		t.Errorf("one that nobody is denied: %v", err)
	}
}

// An action that only the file of some branch has is as narrow as any of the pipeline:
// it may be one of those by another name.
func TestRenamedInABranch(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{Language: plainLanguage()})
	named := func(name string, p *Permissions) Action {
		a := sh("true")
		a.Name, a.Permissions = name, p
		return a
	}
	developer := w.member("d@example.com", 2)
	others := func(word string) *Permissions { return &Permissions{Others: word} }
	w.file("main", Pipeline{}, named("test", nil), named("deploy", others("DENIED")))
	p := w.pipeline(ofFile(Pipeline{}))
	w.wait(w.start(p, Start{Branch: "main"}))
	start := func(branch string) error {
		t.Helper()
		_, err := w.Start(t.Context(), developer, p.ID, Start{Branch: branch})
		return err
	}
	w.file("same", Pipeline{}, named("test", nil))
	if err := start("same"); err != nil {
		t.Errorf("what the pipeline has: %v", err)
	}
	w.file("renamed", Pipeline{}, named("test", nil), named("ship", others("READ_WRITE")))
	for range 2 { // it is there the second time
		if err := start("renamed"); !errdefs.IsPermissionDenied(err) {
			t.Errorf("another name: %v", err)
		}
		w.wait(w.start(p, Start{Branch: "renamed"}))
	}
	l, err := w.Actions(t.Context(), developer, p.ID)
	w.must(err)
	if len(l) != 1 || l[0].Name != "test" {
		t.Errorf("seen: %+v", l)
	}
	w.file("main", Pipeline{}, named("test", nil), named("ship", nil))
	w.wait(w.start(p, Start{Branch: "main"}))
	if err := start("renamed"); err != nil {
		t.Errorf("once the pipeline has it: %v", err)
	}
}

// A file of a branch makes the cache no wider than the pipeline has it.
func TestCacheScopeOfAFile(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{Language: plainLanguage()})
	w.file("main", Pipeline{}, sh("true"))
	w.file("dev", Pipeline{CacheScope: scopeWorkspace}, sh("true"))
	p := w.pipeline(ofFile(Pipeline{}))
	if x := w.wait(w.start(p, Start{Branch: "dev"})); x.Frozen.CacheScope != "" || !strings.Contains(strings.Join(w.lines(x, 0), "\n"), "cache_scope WORKSPACE has no effect") {
		t.Errorf("%q, %q", x.Frozen.CacheScope, w.lines(x, 0))
	}
	w.file("main", Pipeline{CacheScope: scopeProject}, sh("true"))
	if x := w.wait(w.start(p, Start{Branch: "main"})); x.Frozen.CacheScope != scopeProject {
		t.Errorf("%q", x.Frozen.CacheScope)
	}
}
