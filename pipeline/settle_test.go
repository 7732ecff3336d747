package pipeline

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"slipway/db"
	"slipway/project"
)

// An end that the store does not take is the step's failure, not begun again
// for ever.
func TestEndThatCannotBeKept(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	w.commit("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")
	w.must(w.db.Write(t.Context(), func(tx *db.Tx) error {
		_, err := tx.Exec(`CREATE TRIGGER never BEFORE INSERT ON image_tags BEGIN SELECT RAISE(ABORT, 'no tag can be made'); END`)
		return err
	}))
	build := func(retries int) Action {
		return Action{
			Name: "build", Build: &Build{Dockerfile: "Dockerfile", Tag: "t1"}, Retries: retries,
		}
	}
	after := sh("echo over")
	after.When = OnFailure
	for tries, a := range map[int]Action{1: build(0), 2: build(1)} {
		x := w.wait(w.start(w.pipeline(Pipeline{Name: a.Name}, a, after), Start{}))
		s := x.Steps[0]
		if x.Status != Failed || s.Status != Failed || s.Attempt != tries || x.Steps[1].Status != Successful ||
			!strings.Contains(s.Error, "no tag can be made") || !strings.Contains(s.Error, "it ended as SUCCESSFUL") {
			t.Errorf("%d tries: %s after %d", tries, w.words(x), s.Attempt)
		}
		if l := w.lines(x, 0); l[len(l)-1] != s.Error {
			t.Errorf("the log ends with %q", l[len(l)-1])
		}
	}
	w.until("the holds of builds are released", func() bool {
		h, err := w.eng.Images().Holds(t.Context(), "build/")
		w.must(err)
		return len(h) == 0
	})
}

// What passes is waited for: a step that has succeeded is neither a failure nor
// done once more.
func TestEndThatIsKeptLater(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	w.commit("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")
	w.must(w.db.Write(t.Context(), func(tx *db.Tx) error {
		_, err := tx.Exec(`CREATE TRIGGER later BEFORE INSERT ON image_tags WHEN NEW.tag = 'later' BEGIN SELECT passing(); END`)
		return err
	}))
	x := w.wait(w.start(w.pipeline(Pipeline{}, Action{Name: "build", Build: &Build{Dockerfile: "Dockerfile", Tag: "later"}}), Start{}))
	if s := x.Steps[0]; x.Status != Successful || s.Attempt != 1 || s.Error != "" {
		t.Errorf("%s after %d: %s", w.words(x), s.Attempt, s.Error)
	}
	if n := passings.Load(); n != 2 {
		t.Errorf("tried %d times, want 2", n)
	}
	if l := strings.Join(w.lines(x, 0), "\n"); strings.Contains(l, "could not be kept") {
		t.Error(l)
	}
}

func TestNeverTrue(t *testing.T) {
	t.Parallel()
	for err, want := range map[error]bool{
		db.ErrRefused:                true,
		errdefs.ErrAlreadyExists:     true,
		errdefs.ErrNotFound:          true,
		errdefs.ErrPermissionDenied:  true,
		&project.Invalid{}:           true,
		errors.New("disk I/O error"): false,
		errdefs.ErrDataLoss:          false,
		errdefs.ErrUnavailable:       false,
		errdefs.ErrResourceExhausted: false,
	} {
		if got := neverTrue(fmt.Errorf("execution x: %w", err)); got != want {
			t.Errorf("%v: %v", err, got)
		}
	}
}

// A server that is killed after an action has begun, and before what there is
// to say about it is in its log, has its successor say it.
func TestNotesAfterKill(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	w.commit("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")
	noted := sh("echo one\nblock\necho two")
	noted.Run.Registry.Region = "eu"
	build := Action{Name: "build", Build: &Build{Dockerfile: "Dockerfile", Repository: "APP", Registry: Registry{Region: "eu"}}}
	push := Action{Name: "push", Build: &Build{Dockerfile: "Dockerfile", Repository: "team/app", Registry: Registry{Kind: OtherRegistry, URL: "r.example.com"}}}
	for name, c := range map[string]struct {
		a    Action
		want []string
	}{
		"run":   {noted, []string{"Note: region has no effect", "one", "two"}},
		"build": {build, []string{"Note: region has no effect", "Note: the repository is called acme/app"}},
		"push":  {push, []string{"Pushed r.example.com/team/app:latest"}},
	} {
		x := w.start(w.pipeline(Pipeline{Name: name}, sh("block"), c.a), Start{})
		w.eng.Await(engineID(x, 0, 1))
		w.stop()
		w.must(w.db.Write(t.Context(), func(tx *db.Tx) error { // as if it had ended, and nothing more
			if _, err := tx.Exec(`UPDATE action_executions SET status = 'SUCCESSFUL', finished = ? WHERE execution = ? AND idx = 0`, db.Micros(tx.Now), x.ID); err != nil {
				return err
			}
			_, err := tx.Exec(`UPDATE action_executions SET status = 'INPROGRESS', attempt = 1, started = ? WHERE execution = ? AND idx = 1`, db.Micros(tx.Now), x.ID)
			return err
		}))
		w.eng.Release(engineID(x, 0, 1))
		w.restart()
		if c.a.Run != nil { // once more, now beside its container: nothing is said twice
			w.eng.Await(engineID(x, 1, 1))
			w.restart()
			w.eng.Release(engineID(x, 1, 1))
		}
		x = w.expect(x, "SUCCESSFUL SUCCESSFUL SUCCESSFUL")
		got := w.lines(x, 1)
		for _, want := range c.want {
			n := 0
			for _, l := range got {
				if strings.HasPrefix(l, want) {
					n++
				}
			}
			if n != 1 {
				t.Errorf("%s: %q is there %d times: %q", name, want, n, got)
			}
		}
	}
}
