package pipeline

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"slipway/db"
	"slipway/project"
	"slipway/source"
)

func TestHookStartsAPipeline(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{PublicURL: "https://slipway.test"})
	hook := []EventRule{{Type: EventWebhook}}
	p := w.pipeline(Pipeline{Name: "hooked", Events: hook, Refs: []string{"refs/heads/*", "refs/heads/main"}, CommentRequired: true}, sh("echo $BUDDY_EXECUTION_EVENT_TYPE"))
	w.pipeline(Pipeline{Name: "not hooked"})
	code := func() string {
		t.Helper()
		l, err := w.Hooks(t.Context(), w.admin, w.pr.ID)
		w.must(err)
		if len(l) == 0 {
			return ""
		}
		if len(l) != 1 || l[0].Pipeline != p.ID || l[0].Name != "hooked" {
			t.Fatalf("hooks: %+v", l)
		}
		return strings.TrimPrefix(l[0].URL, "https://slipway.test/hooks/")
	}
	one := code()
	if _, err := w.StartByHook(t.Context(), one); err == nil {
		t.Error("a branch that is not there was run")
	}
	c := w.commit("f", "1")
	x, err := w.StartByHook(t.Context(), one)
	w.must(err)
	x = w.expect(x, "SUCCESSFUL SUCCESSFUL")
	if x.Mode != ByHook || x.By != w.admin.User.ID || x.Branch != "main" || x.Commit.Revision != c.Revision {
		t.Errorf("%+v", x)
	}
	if got := w.lines(x, 0); got[len(got)-1] != "WEBHOOK" {
		t.Errorf("log: %q", got)
	}
	change := func(f func(*Pipeline)) {
		t.Helper()
		_, err := w.Update(t.Context(), w.admin, p.ID, func(n *Pipeline) error { f(n); return nil })
		w.must(err)
	}
	change(func(n *Pipeline) { n.Name = "hooked" })
	if code() != one {
		t.Error("another URL after a change of something else")
	}
	change(func(n *Pipeline) { n.Disabled = true })
	if _, err := w.StartByHook(t.Context(), one); !errdefs.IsInvalidArgument(err) {
		t.Errorf("disabled: %v", err)
	}
	change(func(n *Pipeline) { n.Disabled, n.Events = false, nil })
	if code() != "" {
		t.Error("a URL without a hook")
	}
	gone := func(what string) {
		t.Helper()
		for _, code := range []string{one, "", "x"} {
			if _, err := w.StartByHook(t.Context(), code); !errdefs.IsNotFound(err) {
				t.Errorf("%s: %v", what, err)
			}
		}
	}
	gone("taken away")
	change(func(n *Pipeline) { n.Events = hook })
	if two := code(); two == one || two == "" {
		t.Errorf("the next URL: %q", two)
	} else {
		one = two
	}
	// Neither URL nor code is in the store.
	w.must(w.db.Read(t.Context(), func(tx *db.Tx) error {
		var n int
		err := tx.QueryRow(`SELECT COUNT(*) FROM pipeline_hooks WHERE instr(sealed, ?) > 0 OR instr(sum, ?) > 0`, []byte(one), []byte(one)).Scan(&n)
		if n != 0 {
			t.Error("the code is in the store")
		}
		return err
	}))
	stranger := w.admin
	stranger.Token.Scopes = nil
	if _, err := w.Hooks(t.Context(), stranger, w.pr.ID); !errdefs.IsPermissionDenied(err) {
		t.Errorf("hooks without a right: %v", err)
	}
	w.must(w.Delete(t.Context(), w.admin, p.ID))
	gone("deleted")
}

// A pipeline of a store from before there were hooks gets its URL when it is
// asked for, but none that would need no second word.
func TestHookOfAnEarlierStore(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	p := w.pipeline(Pipeline{Events: []EventRule{{Type: EventWebhook}}})
	w.must(w.db.Write(t.Context(), func(tx *db.Tx) error { return disarm(tx, p.ID) }))
	l, err := w.Hooks(t.Context(), w.admin, w.pr.ID)
	w.must(err)
	if len(l) != 1 {
		t.Fatalf("hooks: %v", l)
	}
	p.Events[0].TOTP = true
	if p.hooked() {
		t.Error("a hook with a second word")
	}
	var inv project.Invalid
	if p.Validate(&inv); len(inv.Fields) != 1 {
		t.Errorf("totp: %v", inv.Fields)
	}
}

func TestIdentifier(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	for _, bad := range []string{"a b", "-a", "a/b", strings.Repeat("a", nameMax+1), "é"} {
		_, err := w.Create(t.Context(), w.admin, w.pr.ID, Pipeline{Name: "x", Identifier: bad})
		if inv, ok := project.AsInvalid(err); !ok || inv.Fields[0].Path != "identifier" {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if p := w.pipeline(Pipeline{Name: "Deploy it!"}); p.Identifier != "deploy-it" {
		t.Errorf("made from the name: %q", p.Identifier)
	}
	if p := w.pipeline(Pipeline{Name: "x", Identifier: "My_pipe.2"}); p.Identifier != "My_pipe.2" {
		t.Errorf("as given: %q", p.Identifier)
	}
}

// What a deleted ref starts runs at the commit that it was last at, under its
// name.
func TestRunOfADeletedRef(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	old := w.commit("f", "old")
	w.commit("f", "new")
	w.pipeline(Pipeline{Events: []EventRule{{Type: EventDeleteRef, Refs: []string{"refs/heads/feature/*"}}}}, sh("cat f\necho $BUDDY_RUN_BRANCH"))
	var ids []ExecutionID
	w.must(w.db.Write(t.Context(), func(tx *db.Tx) (err error) {
		ids, err = w.Triggered(tx, w.pr.ID, source.Push{Ref: "refs/heads/feature/a", Old: old.Revision, New: strings.Repeat("0", 40), User: w.admin.User.ID})
		return err
	}))
	if len(ids) != 1 {
		t.Fatalf("started %v", ids)
	}
	x := w.expect(Execution{ID: ids[0]}, "SUCCESSFUL SUCCESSFUL")
	if got := w.lines(x, 0); strings.Join(got[len(got)-2:], " ") != "old feature/a" {
		t.Errorf("log %q", got)
	}
}
