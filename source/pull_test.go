package source

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"slipway/event"
	"slipway/project"
)

// pulled are the events of pull requests.
func (w *world) pulled() (l []Pull) {
	w.t.Helper()
	all, err := w.events.After(w.t.Context(), 0, 10000)
	must(w.t, err)
	for _, e := range all {
		if e.Kind == event.PullPushed {
			var p Pull
			must(w.t, json.Unmarshal(e.Data, &p))
			l = append(l, p)
		}
	}
	return l
}

func (w *world) allowPulls(p project.Project) {
	w.t.Helper()
	yes := true
	_, err := w.projects.Update(w.t.Context(), w.ann, p.ID, project.Change{PullRequests: &yes})
	must(w.t, err)
}

// The own repository takes pull requests as forges show them, if the project allows
// them; they are no branches.
func TestPulls(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	p := w.project("web")
	c := newClone(t)
	c.write("f", "1")
	one := c.commit("one")
	c.git("push", "-q", w.at("web"), "HEAD:main")
	if out, err := c.try("push", w.at("web"), "HEAD:refs/pull/7/head"); err == nil || !strings.Contains(out, "hidden ref") {
		t.Errorf("%v: %s", err, out)
	}
	w.allowPulls(p)
	before := len(w.pushes())
	c.git("checkout", "-q", "-b", "feature")
	c.write("f", "2")
	two := c.commit("two")
	c.git("push", "-q", "-o", "base=dev", w.at("web"), "HEAD:refs/pull/7/head", "HEAD:refs/pull/7/merge", "HEAD:refs/pull/07/head")
	c.write("f", "3")
	three := c.commit("three")
	c.git("push", "-q", "-o", "other", "-o", "base=../x", w.at("web"), "HEAD:refs/pull/7/head", "HEAD:refs/heads/feature")
	c.git("push", "-q", w.at("web"), one+":refs/pull/8/head", ":refs/pull/7/head")
	at := func(p Pull) Pull { p.User = w.ann.User.ID; return p }
	want := []Pull{
		at(Pull{Number: "7", Ref: "refs/pull/7/head", Old: zeros, New: two, Base: "dev", What: PullOpened}),
		at(Pull{Number: "7", Ref: "refs/pull/7/head", Old: two, New: three, Base: "dev", Head: "feature", What: PullPushed}),
		at(Pull{Number: "7", Ref: "refs/pull/7/head", Old: three, New: zeros, Base: "dev", Head: "feature", What: PullClosed}),
		at(Pull{Number: "8", Ref: "refs/pull/8/head", Old: zeros, New: one, Base: "main", Head: "main", What: PullOpened}),
	}
	if got := w.pulled(); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("told\n%+v, want\n%+v", got, want)
	}
	if got := w.pushes()[before:]; len(got) != 1 || !strings.Contains(got[0], "refs/heads/feature") {
		t.Errorf("pushes %v", got)
	}
	refs, err := w.sources.Refs(t.Context(), w.ann, p.ID)
	if must(t, err); len(refs) != 2 {
		t.Errorf("refs %v", refs)
	}
	if out := c.git("ls-remote", w.at("web")); strings.Contains(out, "refs/pull") {
		t.Errorf("shown to who fetches: %s", out)
	}
	if b, err := w.sources.DefaultBranch(t.Context(), p.ID); b != "main" || err != nil {
		t.Errorf("%s, %v", b, err)
	}
	got, err := w.sources.PullRequest(t.Context(), p.ID, "8")
	if must(t, err); got.Ref != "refs/pull/8/head" || got.Base != "main" || got.Head != "main" || got.Commit.Revision != one {
		t.Errorf("%+v", got)
	}
	if _, err := w.sources.PullRequest(t.Context(), p.ID, "7"); err == nil || !strings.Contains(err.Error(), "no pull request 7") {
		t.Errorf("%v", err)
	}
	for commit, want := range map[string]string{three: one, one: one} {
		if base, err := w.sources.MergeBase(t.Context(), p.ID, "main", commit); base != want || err != nil {
			t.Errorf("%s: %s, %v", commit, base, err)
		}
	}
	if base, err := w.sources.MergeBase(t.Context(), p.ID, "dev", one); base != "" || err != nil {
		t.Errorf("of no branch: %s, %v", base, err)
	}
	c.git("checkout", "-q", "--orphan", "alone")
	c.git("push", "-q", w.at("web"), c.commit("alone")+":refs/pull/9/head")
	alone := w.pulled()[4]
	if base, err := w.sources.MergeBase(t.Context(), p.ID, "main", alone.New); base != "" || err != nil || !alone.Fork() {
		t.Errorf("of nothing in common: %s, %v", base, err)
	}
	// A mirror sends all that it has, and takes back what it has no more.
	c.git("remote", "add", "--mirror=push", "to", w.at("web"))
	c.git("update-ref", "refs/pull/8/head", three)
	c.git("push", "-q", "to")
	var last []string
	for _, p := range w.pulled()[5:] {
		last = append(last, p.Number+" "+p.What)
	}
	if fmt.Sprint(last) != "[8 synchronize 9 closed]" {
		t.Errorf("%v", last)
	}
}

// Which branch a pull request goes to is not lost with a server that is killed before
// it has told what was pushed.
func TestServerKilledDuringPullRequest(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	w.allowPulls(w.project("web"))
	c := newClone(t)
	c.write("f", "1")
	hash := c.commit("one")
	must(t, w.db.Close())
	for i, place := range []string{"source: git has ended a push", "source: refs have moved", "source: the push is told"} {
		cmd := w.serveChild(place)
		if out, err := c.try("push", "-o", "base=dev", w.at("web"), fmt.Sprintf("HEAD:refs/pull/%d/head", i+1)); err == nil {
			t.Errorf("%s: the push did not fail: %s", place, out)
		}
		_ = cmd.Wait()
		w.again()
		got := w.pulled()
		if len(got) != i+1 || got[i].Base != "dev" || got[i].New != hash || got[i].What != PullOpened || got[i].User != w.ann.User.ID {
			t.Errorf("%s: %+v", place, got)
		}
		must(t, w.db.Close())
	}
	w.again()
}
