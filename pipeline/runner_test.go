package pipeline

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"slipway/db"
	"slipway/engine"
	"slipway/event"
	"slipway/secret"
	"slipway/source"
)

func TestRun(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	c := w.commit("greeting", "hello")
	p := w.pipeline(Pipeline{Variables: []Variable{{Key: "WHO", Value: "world"}}},
		sh("cat greeting\necho $WHO $BUDDY_RUN_COMMIT $BUDDY_EXECUTION_REVISION\npwd"), sh("echo made > made"), sh("cat made"))
	x := w.expect(w.start(p, Start{Variables: []Variable{{Key: "WHO", Value: "you"}}}), "SUCCESSFUL SUCCESSFUL SUCCESSFUL SUCCESSFUL")
	got := w.lines(x, 0)
	want := []string{"hello", "you " + c.Revision + " " + c.Revision, "/buddy/web"}
	if len(got) < 3 || !slices.Equal(got[len(got)-3:], want) {
		t.Errorf("got %q, want to end with %q", got, want)
	}
	if got := w.lines(x, 2); !slices.Equal(got, []string{"made"}) {
		t.Errorf("the third action says %q", got)
	}
	if x.Number != 1 || x.Branch != "main" || x.Commit.Revision != c.Revision || x.Commit.Subject == "" {
		t.Errorf("execution: %+v", x)
	}
	// What files of git are changed by a run are as in the commit in the next
	// one; others stay.
	w.commit("greeting", "hi")
	x = w.expect(w.start(p, Start{}), "SUCCESSFUL SUCCESSFUL SUCCESSFUL SUCCESSFUL")
	if got := w.lines(x, 0); !slices.Contains(got, "hi") {
		t.Errorf("second run: %q", got)
	}
	spec, ok := w.eng.RunSpec(engineID(x, 0, 1))
	if ok {
		t.Errorf("the engine still knows %+v", spec)
	}
	pl, err := w.Get(t.Context(), w.admin, p.ID)
	w.must(err)
	if pl.LastStatus != Successful || pl.LastRevision != x.Commit.Revision {
		t.Errorf("pipeline: %s %s", pl.LastStatus, pl.LastRevision)
	}
	as, err := w.Actions(t.Context(), w.admin, p.ID)
	w.must(err)
	if as[2].LastStatus != Successful || as[2].LastRevision != x.Commit.Revision {
		t.Errorf("action: %s %s", as[2].LastStatus, as[2].LastRevision)
	}
	l, n, err := w.Executions(t.Context(), w.admin, p.ID, 0, 10)
	w.must(err)
	if n != 2 || len(l) != 2 || l[0].Number != 2 {
		t.Errorf("list: %d %+v", n, l)
	}
}

func TestFailures(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	no := false
	for name, c := range map[string]struct {
		action Action
		want   string
	}{
		"code":       {sh("exit 3"), "ended with exit code 3"},
		"no image":   {Action{Run: &Run{Image: "nowhere", Tag: "1", Commands: "x"}}, "image nowhere:1"},
		"timeout":    {func() Action { a := sh("sleep 60"); a.Timeout = time.Second; return a }(), "ended after its timeout of 1s"},
		"dockerfile": {Action{Build: &Build{Dockerfile: "Dockerfile", BuildKit: &no}}, "Dockerfile"},
		"no build":   {Action{Run: &Run{From: ImageFrom{Use: true}}}, "no build action before"},
		"mapping":    {Action{Run: &Run{Image: "busybox", Tag: "latest", Mounts: []string{"/:$X"}}}, "volume_mappings"},
		"secret":     {Action{Build: &Build{Dockerfile: "x", Secrets: []BuildSecret{{ID: "s", Value: "etc/passwd"}}}}, "secret s"},
		"env secret": {Action{Build: &Build{Dockerfile: "x", Secrets: []BuildSecret{{ID: "s", Value: "NO", Type: "ENV"}}}}, "there is no variable NO"},
		"name":       {Action{Build: &Build{Dockerfile: "x", Tag: "$F"}, Variables: []Variable{{Key: "F", Value: "feature/x"}}}, "the image cannot be called acme/web:feature/x"},
		"words":      {Action{Run: &Run{Image: "busybox", Tag: "latest", Entrypoint: "$F"}, Variables: []Variable{{Key: "F", Value: `a "b`}}}, "entrypoint"},
		"machinery":  {sh("fail-machinery"), "run busybox:latest"},
		"no program": {Action{Run: &Run{Image: "busybox", Tag: "latest", Entrypoint: "/nothing"}}, "could not start"},
		"oom":        {sh("oom"), "memory"},
	} {
		c.action.Name = name
		x := w.wait(w.start(w.pipeline(Pipeline{Name: name}, c.action, sh("true")), Start{}))
		if x.Status != Failed || x.Steps[0].Status != Failed || x.Steps[1].Status != NotExecuted || !strings.Contains(x.Steps[0].Error, c.want) {
			t.Errorf("%s: %s", name, w.words(x))
		}
	}
	x := w.wait(w.start(w.pipeline(Pipeline{Name: "unsupported", Worker: "mine"}, sh("true")), Start{}))
	if x.Status != Failed || !strings.Contains(x.Steps[0].Error, "does not obey: worker") {
		t.Error(w.words(x))
	}
}

func TestStages(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	on := func(when When, words string) Action { a := sh(words); a.When = when; return a }
	warn := sh("exit 1")
	warn.IgnoreErrors = true
	off := sh("exit 9")
	off.Disabled = true
	p := w.pipeline(Pipeline{}, warn, off, on(OnFailure, "true"), on(OnWarning, "echo warned"), sh("test -f flag"), on(OnBackToSuccess, "echo back"))
	w.expect(w.start(p, Start{}), "FAILED FAILED(ended with exit code 1) SKIPPED SUCCESSFUL SUCCESSFUL FAILED(ended with exit code 1) NOT_EXECUTED")
	w.commit("flag", "")
	w.expect(w.start(p, Start{}), "SUCCESSFUL FAILED(ended with exit code 1) SKIPPED NOT_EXECUTED SUCCESSFUL SUCCESSFUL SUCCESSFUL")
	w.expect(w.start(p, Start{}), "SUCCESSFUL FAILED(ended with exit code 1) SKIPPED NOT_EXECUTED SUCCESSFUL SUCCESSFUL NOT_EXECUTED")
}

func TestRetries(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	a := sh("test -f there && exit 0; touch there; exit 1")
	a.Retries, a.RetryInterval = 2, 0
	x := w.expect(w.start(w.pipeline(Pipeline{}, a), Start{}), "SUCCESSFUL SUCCESSFUL")
	if x.Steps[0].Attempt != 2 {
		t.Errorf("attempts: %d", x.Steps[0].Attempt)
	}
	first := x
	b := sh("exit 1")
	b.Retries, b.RetryInterval = 1, time.Second
	x = w.expect(w.start(w.pipeline(Pipeline{}, b), Start{}), "FAILED FAILED(ended with exit code 1)")
	if took := x.Finished.Sub(x.Started); x.Steps[0].Attempt != 2 || took < time.Second {
		t.Errorf("attempts: %d in %s", x.Steps[0].Attempt, took)
	}
	w.stop()
	for n := range 2 {
		if spec, ok := w.eng.RunSpec(engineID(first, 0, n+1)); ok {
			t.Errorf("the engine still knows try %d: %+v", n+1, spec)
		}
	}
}

func TestRetry(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	p := w.pipeline(Pipeline{}, sh("echo once >> count"), sh("test -f there || touch there && exit 1"), sh("cat count"))
	x := w.wait(w.start(p, Start{}))
	if x.Status != Failed {
		t.Fatal(w.words(x))
	}
	if _, err := w.Operate(t.Context(), w.admin, x.ID, OpCancel); !errdefs.IsInvalidArgument(err) {
		t.Errorf("cancel of an ended one: %v", err)
	}
	_, err := w.UpdateAction(t.Context(), w.admin, p.ID, x.Steps[1].Action.ID, func(a *Action) error { a.Run.Commands = "true"; return nil }, nil)
	w.must(err)
	y, err := w.Operate(t.Context(), w.admin, x.ID, OpRetry)
	w.must(err)
	if y.ID != x.ID || y.Number != x.Number {
		t.Errorf("retry made %v of %v", y.ID, x.ID)
	}
	// The copy is frozen: it fails again, without the first action.
	y = w.wait(y)
	if y.Status != Failed || y.Steps[0].Attempt != 1 || y.Steps[1].Attempt != 2 {
		t.Errorf("retried: %s %+v", w.words(y), y.Steps)
	}
	if l := w.lines(y, 1); !slices.Contains(l, "Note: retried: attempt 2 of this action begins here") {
		t.Errorf("the log of both attempts: %q", l)
	}
	if _, err := w.Operate(t.Context(), w.admin, x.ID, "NO"); !errdefs.IsInvalidArgument(err) {
		t.Errorf("unknown operation: %v", err)
	}
}

// What the actions before the broken one made is there when it is retried,
// though the execution began with an empty file system.
func TestRetryOfRefreshed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	p := w.pipeline(Pipeline{}, sh("echo made > made"), sh("cat made\ntest -f there && exit 0; touch there; exit 1"))
	x := w.wait(w.start(p, Start{Refresh: true}))
	if x.Status != Failed {
		t.Fatal(w.words(x))
	}
	x, err := w.Operate(t.Context(), w.admin, x.ID, OpRetry)
	w.must(err)
	w.expect(x, "SUCCESSFUL SUCCESSFUL SUCCESSFUL")
}

func TestCancel(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	after := sh("echo cleaned")
	after.When = OnTerminate
	p := w.pipeline(Pipeline{}, sh("block"), sh("true"), after)
	x := w.start(p, Start{})
	w.eng.Await(engineID(x, 0, 1))
	y, err := w.Operate(t.Context(), w.admin, x.ID, OpCancel)
	w.must(err)
	if y.Status != Terminating {
		t.Errorf("after cancel: %s", y.Status)
	}
	z := w.expect(x, "TERMINATED TERMINATED(cancelled) NOT_EXECUTED SUCCESSFUL")
	if z.CancelledBy != w.admin.User.ID || z.Cancelled.IsZero() {
		t.Errorf("cancelled by %d at %s", z.CancelledBy, z.Cancelled)
	}
}

func TestQueue(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	p := w.pipeline(Pipeline{}, sh("block"))
	a := w.start(p, Start{})
	w.eng.Await(engineID(a, 0, 1))
	b, c := w.start(p, Start{}), w.start(p, Start{})
	const newer = "SKIPPED NOT_EXECUTED(skipped: execution %d of the same branch or tag is newer; with no_skip_to_most_recent each one runs)"
	w.expect(b, fmt.Sprintf(newer, c.Number))
	d := w.start(p, Start{})
	w.expect(c, fmt.Sprintf(newer, d.Number))
	_, err := w.Operate(t.Context(), w.admin, d.ID, OpCancel)
	w.must(err)
	w.expect(d, "TERMINATED NOT_EXECUTED")
	other := w.start(p, Start{})
	w.must(w.db.Write(t.Context(), func(tx *db.Tx) error {
		_, err := tx.Exec(`UPDATE executions SET branch = 'other' WHERE id = ?`, other.ID)
		return err
	}))
	e := w.start(p, Start{})
	for _, x := range []Execution{a, other, e} {
		w.eng.Release(engineID(x, 0, 1))
	}
	for _, x := range []Execution{a, other, e} {
		w.expect(x, "SUCCESSFUL SUCCESSFUL")
	}

	q := w.pipeline(Pipeline{Name: "all", NoSkip: true}, sh("true"))
	var all []Execution
	for range 5 {
		all = append(all, w.start(q, Start{}))
	}
	for _, x := range all {
		w.expect(x, "SUCCESSFUL SUCCESSFUL")
	}
}

func TestLimits(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{Limits: Limits{Runs: 1, Builds: 1}})
	w.commit("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")
	build := Action{Name: "build", Build: &Build{Dockerfile: "Dockerfile"}}
	a := w.start(w.pipeline(Pipeline{}, sh("block")), Start{})
	w.eng.Await(engineID(a, 0, 1))
	// It builds, then waits for the slot that the first one holds.
	b := w.start(w.pipeline(Pipeline{}, build, sh("echo b"), build), Start{})
	w.until("b waits", func() bool {
		x, err := w.Execution(t.Context(), w.admin, b.ID)
		w.must(err)
		return x.Steps[1].Status == Enqueued
	})
	c := w.start(w.pipeline(Pipeline{}, sh("true")), Start{})
	w.eng.Release(engineID(a, 0, 1))
	w.expect(a, "SUCCESSFUL SUCCESSFUL")
	w.expect(b, "SUCCESSFUL SUCCESSFUL SUCCESSFUL SUCCESSFUL")
	w.expect(c, "SUCCESSFUL SUCCESSFUL")
}

func TestBuildAndUse(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	w.commit("Dockerfile", "FROM scratch\nARG REV\nENV REV=built\nCOPY Dockerfile /\n")
	build := Action{Name: "build", Build: &Build{
		Dockerfile: "Dockerfile", Args: []string{"REV=$SLIPWAY_COMMIT"}, Repository: "App", Tag: "v1,v2",
	}}
	use := Action{Name: "use", Run: &Run{From: ImageFrom{Use: true}, Commands: "echo $REV"}}
	named := Action{Name: "named", Run: &Run{Location: LocationAction, From: ImageFrom{Name: "build"}, Commands: "echo $SLIPWAY_IMAGE_DIGEST"}}
	tagged := Action{Name: "tagged", Run: &Run{Image: "slipway.local/acme/app", Tag: "v2", Commands: "echo $REV"}}
	p := w.pipeline(Pipeline{}, build, use, named, tagged)
	x := w.expect(w.start(p, Start{}), "SUCCESSFUL SUCCESSFUL SUCCESSFUL SUCCESSFUL SUCCESSFUL")
	if got := w.lines(x, 1); !slices.Equal(got, []string{"built"}) {
		t.Errorf("use says %q", got)
	}
	if spec, _ := w.eng.BuildSpec(engineID(x, 0, 1)); spec.Args["REV"] != x.Commit.Revision {
		t.Errorf("build arguments: %v", spec.Args)
	}
	if got := w.lines(x, 2); !slices.Equal(got, []string{x.Steps[0].Digest}) {
		t.Errorf("named says %q", got)
	}
	if x.Steps[0].Image != "slipway.local/acme/app:v1" || !strings.HasPrefix(x.Steps[0].Digest, "sha256:") {
		t.Errorf("image %q %q", x.Steps[0].Image, x.Steps[0].Digest)
	}
	// Not run in this execution: its last success.
	y := w.expect(w.start(p, Start{Only: []ActionID{x.Steps[1].Action.ID}}), "SUCCESSFUL SKIPPED SUCCESSFUL SKIPPED SKIPPED")
	if got := w.lines(y, 1); got[len(got)-1] != "built" {
		t.Errorf("the last success says %q", got)
	}
	q := w.pipeline(Pipeline{Name: "never"}, build, use)
	as, err := w.Actions(t.Context(), w.admin, q.ID)
	w.must(err)
	z := w.wait(w.start(q, Start{Only: []ActionID{as[1].ID}}))
	if z.Status != Failed || !strings.Contains(z.Steps[1].Error, "never succeeded before") {
		t.Error(w.words(z))
	}
	// Nothing of the builds is held in the engine's own name.
	w.until("the holds of builds are released", func() bool {
		h, err := w.eng.Images().Holds(t.Context(), "build/")
		w.must(err)
		return len(h) == 0
	})
}

// What a build has made before is held no longer when it is built anew, unless
// it is to stay.
func TestPrunedImages(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	for _, stays := range []bool{false, true} {
		p := w.pipeline(Pipeline{Name: fmt.Sprintf("stays %t", stays)}, Action{Name: "build", Build: &Build{Dockerfile: "Dockerfile", KeepImages: stays}})
		var made []Execution
		for i := range 2 {
			w.commit("Dockerfile", fmt.Sprintf("FROM scratch\nENV N=%d %t\n", i, stays))
			made = append(made, w.expect(w.start(p, Start{}), "SUCCESSFUL SUCCESSFUL"))
		}
		if made[0].Steps[0].Digest == made[1].Steps[0].Digest {
			t.Fatal("both have made the same")
		}
		for i, x := range made {
			want := stays || i == 1
			w.until(fmt.Sprintf("the image of run %d is held: %t", i, want), func() bool {
				w.must(w.images.Settle(t.Context()))
				h, err := w.eng.Images().Holds(t.Context(), "image/keep/execution/"+string(x.ID)+"/")
				w.must(err)
				return (len(h) > 0) == want
			})
		}
	}
}

func TestPushOutside(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	w.commit("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")
	w.eng.Protect("r.example.com", "user", "hunter22")
	reg := Registry{Kind: OtherRegistry, URL: "r.example.com", Username: "user", Password: "hunter22"}
	p := w.pipeline(Pipeline{}, Action{Name: "b", Build: &Build{Dockerfile: "Dockerfile", Repository: "team/app", Tag: "1", Registry: reg}})
	x := w.expect(w.start(p, Start{}), "SUCCESSFUL SUCCESSFUL")
	if got := w.eng.Published("r.example.com/team/app:1"); got == "" || got != x.Steps[0].Digest {
		t.Errorf("published %q, built %q", got, x.Steps[0].Digest)
	}
	a, err := w.Action(t.Context(), w.admin, p.ID, x.Steps[0].Action.ID)
	w.must(err)
	if a.Build.Registry.Password != secret.Encrypted {
		t.Errorf("the password is shown: %q", a.Build.Registry.Password)
	}
	// Sent back as it is shown it stays; a wrong one names host and user.
	_, err = w.UpdateAction(t.Context(), w.admin, p.ID, a.ID, func(n *Action) error { *n = a; return nil }, nil)
	w.must(err)
	w.expect(w.start(p, Start{}), "SUCCESSFUL SUCCESSFUL")
	_, err = w.UpdateAction(t.Context(), w.admin, p.ID, a.ID, func(n *Action) error { n.Build.Registry.Password = "wrong-one"; return nil }, nil)
	w.must(err)
	y := w.wait(w.start(p, Start{}))
	if e := y.Steps[0].Error; y.Status != Failed || !strings.Contains(e, "r.example.com") || !strings.Contains(e, "user") || strings.Contains(e, "wrong-one") {
		t.Errorf("wrong login: %s", e)
	}
}

func TestSecretsAreMasked(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	a := sh("echo $A $B $C")
	a.Variables = []Variable{{Key: "A", Value: "open-sesame", Encrypted: true}}
	p := w.pipeline(Pipeline{Variables: []Variable{{Key: "B", Value: "second-secret", Encrypted: true}}}, a)
	x := w.expect(w.start(p, Start{Variables: []Variable{{Key: "C", Value: "third-secret", Encrypted: true}}}), "SUCCESSFUL SUCCESSFUL")
	if got := w.lines(x, 0); got[len(got)-1] != "*** *** ***" {
		t.Errorf("the log says %q", got)
	}
	if x.Variables[0].Value != secret.Encrypted || x.Frozen.Variables[0].Value != secret.Encrypted || x.Steps[0].Action.Variables[0].Value != secret.Encrypted {
		t.Errorf("the frozen copy shows a value: %+v", x)
	}
	// In an error message.
	b := Action{Name: "b", Run: &Run{Image: "$A", Tag: "1", Commands: "true"}, Variables: []Variable{{Key: "A", Value: "open-sesame", Encrypted: true}}}
	y := w.wait(w.start(w.pipeline(Pipeline{}, b), Start{}))
	if e := y.Steps[0].Error; y.Status != Failed || strings.Contains(e, "sesame") || !strings.Contains(e, "***") {
		t.Errorf("the error says %q", e)
	}
}

func TestRestart(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	p := w.pipeline(Pipeline{}, sh("echo before\nblock\necho after"), sh("echo next"))
	x := w.start(p, Start{})
	w.eng.Await(engineID(x, 0, 1))
	w.restart()
	w.eng.Release(engineID(x, 0, 1))
	x = w.expect(x, "SUCCESSFUL SUCCESSFUL SUCCESSFUL")
	if got := w.lines(x, 0); !slices.Equal(got[len(got)-2:], []string{"before", "after"}) {
		t.Errorf("the log says %q", got)
	}
	// Ended while nobody looked; and cancelled while nobody looked.
	y := w.start(p, Start{})
	w.eng.Await(engineID(y, 0, 1))
	w.stop()
	w.eng.Exit(engineID(y, 0, 1), 4)
	w.restart()
	w.expect(y, "FAILED FAILED(ended with exit code 4) NOT_EXECUTED")
	z := w.start(p, Start{})
	w.eng.Await(engineID(z, 0, 1))
	w.stop()
	_, err := w.Operate(t.Context(), w.admin, z.ID, OpCancel)
	w.must(err)
	w.restart()
	w.expect(z, "TERMINATED TERMINATED(cancelled) NOT_EXECUTED")
}

func TestNoRoom(t *testing.T) {
	t.Parallel()
	var full error
	w := newWorld(t, Config{Room: func() error { return full }})
	p := w.pipeline(Pipeline{}, sh("true"))
	full = fmt.Errorf("less than 5 %% of the disk is free: %w", errdefs.ErrResourceExhausted)
	if _, err := w.Start(t.Context(), w.admin, p.ID, Start{}); !errdefs.IsResourceExhausted(err) {
		t.Errorf("on a full disk: %v", err)
	}
}

func TestTriggered(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	c := w.commit("a", "b")
	w.pipeline(Pipeline{Name: "other", Events: []EventRule{{Type: EventPush, Refs: []string{"refs/heads/dev"}}}}, sh("true"))
	p := w.pipeline(Pipeline{Name: "main", Events: []EventRule{{Type: EventPush, Refs: []string{"refs/heads/main"}}}}, sh("echo $BUDDY_RUN_COMMIT_SUBJECT"))
	var ids []ExecutionID
	w.must(w.db.Write(t.Context(), func(tx *db.Tx) (err error) {
		ids, err = w.Triggered(tx, w.pr.ID, source.Push{Ref: "refs/heads/main", Old: strings.Repeat("0", 40), New: c.Revision, User: w.admin.User.ID})
		return err
	}))
	if len(ids) != 1 {
		t.Fatalf("started %v", ids)
	}
	x := w.expect(Execution{ID: ids[0]}, "SUCCESSFUL SUCCESSFUL")
	if got := w.lines(x, 0); got[len(got)-1] != c.Subject || x.Pipeline != p.ID || x.Mode != ByPush || x.Commit.Subject != c.Subject {
		t.Errorf("%q %+v", got, x.Commit)
	}
	w.must(w.db.Write(t.Context(), func(tx *db.Tx) (err error) {
		ids, err = w.Triggered(tx, w.pr.ID, source.Push{Ref: "refs/heads/main", Old: c.Revision, New: strings.Repeat("0", 40)})
		return err
	}))
	if len(ids) != 0 {
		t.Errorf("a deleted branch started %v", ids)
	}
}

func TestDeleted(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	p := w.pipeline(Pipeline{}, sh("block"))
	x := w.start(p, Start{})
	w.eng.Await(engineID(x, 0, 1))
	living := func(o engine.Owner, want bool) {
		t.Helper()
		if ok, err := w.Living(t.Context(), o); err != nil || ok != want {
			t.Errorf("%s: %v %v", o, ok, err)
		}
	}
	living(x.ID.Owner(), true)
	living(p.ID.Owner(), true)
	w.must(w.Delete(t.Context(), w.admin, p.ID))
	if _, err := w.Get(t.Context(), w.admin, p.ID); !errdefs.IsNotFound(err) {
		t.Errorf("get: %v", err)
	}
	w.expect(x, "TERMINATED TERMINATED(cancelled)")
	living(x.ID.Owner(), false)
	living(p.ID.Owner(), false)
	living("execution/nobody", false)

	y := w.start(w.pipeline(Pipeline{}, sh("block")), Start{})
	w.eng.Await(engineID(y, 0, 1))
	w.stop()
	w.must(w.projects.Delete(t.Context(), w.admin, w.pr.ID))
	w.restart()
	w.until("the execution of a deleted project ends", func() bool {
		ok, err := w.Living(t.Context(), y.ID.Owner())
		return err == nil && !ok
	})
}

// What a shutdown leaves running is not disturbed by the next server, whatever
// that finds out before it attaches.
func TestAttachedLogIsLeftAlone(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	w.commit("a", "b")
	a := sh("echo one\nblock\necho two")
	a.Run.Registry.Region = "eu" // has a note
	x := w.start(w.pipeline(Pipeline{}, a), Start{})
	w.eng.Await(engineID(x, 0, 1))
	w.stop()
	w.eng.Unreachable("docker.io")
	w.restart()
	w.eng.Release(engineID(x, 0, 1))
	x = w.expect(x, "SUCCESSFUL SUCCESSFUL")
	got := w.lines(x, 0)
	if len(got) != 4 || !strings.HasPrefix(got[0], "Note: region") || got[2] != "one" || got[3] != "two" {
		t.Errorf("the log says %q", got)
	}
}

func TestEvents(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	x := w.expect(w.start(w.pipeline(Pipeline{}, sh("true")), Start{}), "SUCCESSFUL SUCCESSFUL")
	l, err := event.New(w.db).After(t.Context(), 0, 100)
	w.must(err)
	var got []string
	for _, e := range l {
		if e.Subject == string(x.ID) {
			got = append(got, string(e.Kind)+" "+string(e.Data))
		}
	}
	if len(got) != 2 || !strings.Contains(got[0], "INPROGRESS") || !strings.Contains(got[1], "SUCCESSFUL") {
		t.Errorf("events: %q", got)
	}
}

// A commit of its own for each of: the start, its claim, the begin, the file
// system, every end of an action together with the begin of the next one, and
// giving the row back.
func BenchmarkAction(b *testing.B) {
	w := newWorld(b, Config{})
	var l []Action
	for range 20 {
		l = append(l, sh("true"))
	}
	p := w.pipeline(Pipeline{}, l...)
	w.wait(w.start(p, Start{}))
	b.ResetTimer()
	for range b.N {
		w.wait(w.start(p, Start{}))
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/20, "µs/action")
}

func TestWaitGivesUp(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	x := w.start(w.pipeline(Pipeline{}, sh("block")), Start{})
	w.eng.Await(engineID(x, 0, 1))
	ctx, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("no more")
	cancel(cause)
	if _, err := w.Wait(ctx, w.admin, x.ID); err == nil {
		t.Error("no error")
	}
	w.eng.Release(engineID(x, 0, 1))
	w.wait(x)
}
