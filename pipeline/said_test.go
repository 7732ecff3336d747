package pipeline

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"slipway/db"
	"slipway/project"
	"slipway/source"
)

func onPush(refs ...string) []EventRule { return []EventRule{{Type: EventPush, Refs: refs}} }

// isNow is the pipeline as it is in the store once all files are read.
func (w *world) isNow(p Pipeline) Pipeline {
	w.t.Helper()
	w.settled()
	n, err := w.Get(w.t.Context(), w.admin, p.ID)
	w.must(err)
	return n
}

// refused tells which members of a change are refused.
func refusedMembers(err error) (l []string) {
	bad, _ := project.AsInvalid(err)
	for _, f := range bad.Fields {
		l = append(l, f.Path)
	}
	return l
}

// The file at the one place says what starts the pipeline: it is read when the
// pipeline is told of it, and at each push to it.
func TestFixedFileSaysWhenToStart(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{Language: plainLanguage()})
	w.file("main", Pipeline{Events: []EventRule{{Type: EventPush, Refs: []string{"dev"}}, {Type: EventSchedule, Cron: "0 4 * * *"}}, Refs: []string{"refs/heads/dev"}}, sh("true"))
	w.file("dev", Pipeline{Events: onPush("*")}, sh("true"))
	p := w.isNow(w.pipeline(Pipeline{GitConfigRef: fixedFile, GitConfig: &GitConfig{Path: "buddy.yml"}, Events: onPush("main")}))
	if len(p.Events) != 2 || p.Events[0].Refs[0] != "dev" || p.Refs[0] != "refs/heads/dev" || !strings.HasPrefix(p.Said.Name, "buddy.yml at its default branch (commit ") {
		t.Errorf("%+v", p)
	}
	next := func() (at int64) {
		w.must(w.db.Read(t.Context(), func(tx *db.Tx) error {
			return tx.QueryRow(`SELECT coalesce((SELECT next FROM schedules WHERE pipeline = ?), 0)`, p.ID).Scan(&at)
		}))
		return at
	}
	if at := time.UnixMicro(next()).UTC(); at.Hour() != 4 {
		t.Errorf("the clock starts it at %s", at)
	}
	if l := w.pushes("main"); len(l) != 0 {
		t.Errorf("a push to main starts %d", len(l))
	}
	w.wait(w.push("dev"))

	// What says when it starts is changed in the file alone; the switches are not.
	err := updateOnly(w, p.ID, func(n *Pipeline) { n.Events, n.On, n.Refs, n.Name = nil, "CLICK", []string{"x"}, "other" })
	if l := refusedMembers(err); !slices.Equal(l, []string{"refs", "events"}) || !strings.Contains(err.Error(), "is what the file buddy.yml at its default branch") {
		t.Errorf("%v", err)
	}
	w.must(updateOnly(w, p.ID, func(n *Pipeline) { n.CommentRequired = true }))
	w.must(updateOnly(w, p.ID, func(n *Pipeline) { n.Disabled, n.Reason = true, "by hand" }))
	w.file("main", Pipeline{Events: onPush("main", "dev")}, sh("true"))
	if l := w.pushes("main"); len(l) != 0 || !w.isNow(p).Disabled || len(w.isNow(p).Refs) != 0 || next() != 0 {
		t.Errorf("%d started, and it is %+v", len(l), w.isNow(p))
	}
	w.must(updateOnly(w, p.ID, func(n *Pipeline) { n.Disabled = false }))
	if x := w.wait(w.push("main")); x.Comment != "push of refs/heads/main" {
		t.Errorf("%+v", x)
	}
	w.file("main", Pipeline{Events: onPush("main"), Disabled: true, Reason: "in the file"}, sh("true"))
	if l := w.pushes("main"); len(l) != 0 || w.isNow(p).Reason != "in the file" {
		t.Errorf("%d started, and it is %+v", len(l), w.isNow(p))
	}
	w.must(updateOnly(w, p.ID, func(n *Pipeline) { n.Disabled, n.Reason = false, "" }))
	w.wait(w.push("main")) // the file says what it said before
	if w.isNow(p).Disabled {
		t.Error("it is disabled again")
	}
	// What the file says no more is not so any more, and may be set by who likes.
	w.file("main", Pipeline{}, sh("true"))
	if l := w.pushes("main"); len(l) != 0 || len(w.isNow(p).Events) != 0 {
		t.Errorf("%d started, and it is %+v", len(l), w.isNow(p))
	}
	w.must(updateOnly(w, p.ID, func(n *Pipeline) { n.Events = onPush("main") }))
	w.wait(w.push("main"))
	// A file that is wrong leaves it as it was, and the run says why.
	_, err = w.sources.Write(t.Context(), w.admin, w.pr.ID, "main", "buddy.yml", []byte("{"), "")
	w.must(err)
	if x := w.wait(w.push("main")); x.Status != Failed || !strings.Contains(x.Problem, "buddy.yml at its default branch") {
		t.Errorf("%s: %s", w.words(x), x.Problem)
	}
	w.must(updateOnly(w, p.ID, func(n *Pipeline) { n.GitConfigRef, n.GitConfig = "", nil }))
	if n := w.isNow(p); n.Said != nil {
		t.Errorf("%+v", n.Said)
	}
}

// With a file in each commit that of the push says whether it starts; that of the
// default branch is what the clock and people find.
func TestDynamicFileSaysWhenToStart(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{Language: plainLanguage()})
	w.commit("README", "x")
	p := w.isNow(w.pipeline(Pipeline{GitConfigRef: dynamicFile}))
	w.file("main", Pipeline{Events: onPush("main")}, sh("true"))
	w.wait(w.push("main"))
	main := w.isNow(p)
	if len(main.Events) != 1 || main.Events[0].Refs[0] != "main" {
		t.Errorf("%+v", main.Events)
	}
	w.file("dev", Pipeline{Events: onPush("dev"), PauseAfterFailures: 3, PauseAfterGiven: true}, sh("true"))
	w.wait(w.push("dev"))
	w.file("dev", Pipeline{Events: onPush("main")}, sh("true"))
	if l := w.pushes("dev"); len(l) != 0 {
		t.Errorf("%d started", len(l))
	}
	w.file("dev", Pipeline{Events: onPush("dev"), Disabled: true}, sh("true"))
	if l := w.pushes("dev"); len(l) != 0 {
		t.Errorf("%d started of a branch that disables it", len(l))
	}
	if n := w.isNow(p); fmt.Sprint(n.Events) != fmt.Sprint(main.Events) || n.PauseAfterGiven || n.Disabled {
		t.Errorf("of dev: %+v", n)
	}
	// A file that is there and wrong may have asked for it; one that is not there has not.
	_, err := w.sources.Write(t.Context(), w.admin, w.pr.ID, "dev", "buddy.yml", []byte("{"), "")
	w.must(err)
	if x := w.wait(w.push("dev")); x.Status != Failed || !strings.Contains(x.Problem, "git_config_ref: buddy.yml at commit ") {
		t.Errorf("%s: %s", w.words(x), x.Problem)
	}
	_, err = w.sources.Write(t.Context(), w.admin, w.pr.ID, "dev", "buddy.yml/none", []byte("x"), "")
	if err == nil {
		t.Error("a file is a folder")
	}
	w.must(updateOnly(w, p.ID, func(n *Pipeline) { n.Disabled = true }))
	w.file("dev", Pipeline{Events: onPush("dev")}, sh("true"))
	if l := w.pushes("dev"); len(l) != 0 {
		t.Errorf("a branch starts what is disabled: %d", len(l))
	}
}

// A push to the project of a template changes what starts the pipelines of others.
func TestTemplateSaysWhenToStart(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{Language: plainLanguage()})
	ctx := t.Context()
	defs, err := w.projects.Create(ctx, w.admin, w.home.ID, project.New{Name: "defs"})
	w.must(err)
	says := func(d Definition) {
		t.Helper()
		text, err := json.Marshal(d)
		w.must(err)
		c, err := w.sources.Write(ctx, w.admin, defs.ID, "main", "x.yml", text, "")
		w.must(err)
		w.must(w.db.Write(ctx, func(tx *db.Tx) error {
			_, err := w.Triggered(tx, defs.ID, source.Push{Ref: "refs/heads/main", Old: c.Revision, New: c.Revision, User: w.admin.User.ID})
			return err
		}))
	}
	p := w.pipeline(Pipeline{DefinitionSource: remoteFile, Remote: Remote{Project: "defs", Path: "x.yml"}})
	if n := w.isNow(p); n.Said != nil {
		t.Errorf("%+v", n)
	}
	says(Definition{Pipeline: Pipeline{Paused: true, Events: []EventRule{{Type: EventSchedule, Cron: "* * * * *"}}}, Actions: []Action{sh("true")}})
	if n := w.isNow(p); !n.Paused || len(n.Events) != 1 {
		t.Errorf("%+v", n)
	}
	says(Definition{Pipeline: Pipeline{Events: onPush("main"), Disabled: true}, Actions: []Action{sh("true")}})
	if n := w.isNow(p); n.Paused || len(n.Events) != 1 || n.Events[0].Type != EventPush || !n.Disabled {
		t.Errorf("%+v", n)
	}
	says(Definition{Pipeline: Pipeline{Events: onPush("main")}, Actions: []Action{sh("true")}})
	w.commit("f", "x")
	w.settled()
	w.wait(w.push("main"))
}

// A run that meets a file which disables the pipeline does not run.
func TestDisabledByAFile(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{Language: plainLanguage()})
	w.file("main", Pipeline{}, sh("true"))
	p := w.pipeline(Pipeline{GitConfigRef: fixedFile, GitConfig: &GitConfig{Path: "buddy.yml"}})
	w.settled()
	w.file("main", Pipeline{Disabled: true, Reason: "for now"}, sh("true"))
	if _, err := w.Start(t.Context(), w.admin, p.ID, Start{}); err == nil || !strings.Contains(err.Error(), "is disabled: for now") {
		t.Errorf("%v", err)
	}
	c, err := w.sources.Resolve(t.Context(), w.pr.ID, "", "HEAD")
	w.must(err)
	var x Execution
	w.must(w.db.Write(t.Context(), func(tx *db.Tx) error {
		x, err = w.StartIn(tx, w.admin.User.ID, p.ID, Start{Mode: ByClock, Branch: "main"}, c, nil)
		return err
	}))
	if x = w.wait(x); x.Status != Skipped || !w.isNow(p).Disabled {
		t.Errorf("%s, %+v", w.words(x), w.isNow(p))
	}
}
