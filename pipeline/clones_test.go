package pipeline

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"slipway/db"
)

// volumes are the file systems of pipelines that the engine has.
func (w *world) volumes() []string {
	w.t.Helper()
	base, err := w.base(w.t.Context(), 1)
	w.must(err)
	dir, err := w.eng.Dir(w.t.Context(), base)
	w.must(err)
	list, err := filepath.Glob(filepath.Join(filepath.Dir(dir), "fs-*"))
	w.must(err)
	return list
}

// files are the names and texts of the plain files that the next execution
// begins with.
func (w *world) files(p Pipeline) string {
	w.t.Helper()
	base, err := w.base(w.t.Context(), p.ID)
	w.must(err)
	dir, err := w.eng.Dir(w.t.Context(), base)
	w.must(err)
	var l []string
	list, err := os.ReadDir(dir)
	w.must(err)
	for _, e := range list {
		if e.Type().IsRegular() {
			text, err := os.ReadFile(filepath.Join(dir, e.Name()))
			w.must(err)
			l = append(l, e.Name()+"="+strings.TrimSpace(string(text)))
		}
	}
	return strings.Join(l, " ")
}

// TestConcurrentRuns: each run has a copy of what the last one left, and does not
// see what the others write; what the latest started of the successful ones has
// is what stays.
func TestConcurrentRuns(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	w.commit("tracked", "1")
	p := w.pipeline(Pipeline{Concurrent: true}, sh("echo $WHO >> runs\nblock\n$END"), sh("cat runs"))
	run := func(comment, end string) Execution {
		return w.start(p, Start{Comment: comment, Variables: []Variable{{Key: "END", Value: end}, {Key: "WHO", Value: comment}}})
	}
	first := run("first", "true")
	w.eng.Await(engineID(first, 0, 1))
	w.eng.Release(engineID(first, 0, 1))
	w.expect(first, "SUCCESSFUL SUCCESSFUL SUCCESSFUL")
	if got := w.files(p); got != "runs=first tracked=1" {
		t.Fatalf("after the first: %s", got)
	}
	begun := func(comment, end string) Execution {
		x := run(comment, end)
		w.blocked(x)
		return x
	}
	a, b, c := begun("a", "true"), begun("b", "true"), begun("c", "false")
	seen := func(x Execution, want string) {
		t.Helper()
		if l := w.lines(x, 1); !slices.Equal(l[len(l)-2:], []string{"first", want}) {
			t.Errorf("execution %d saw %q", x.Number, l)
		}
	}
	w.eng.Release(engineID(b, 0, 1))
	w.expect(b, "SUCCESSFUL SUCCESSFUL SUCCESSFUL")
	seen(b, "b")
	w.restart() // those that run go on in theirs
	w.eng.Release(engineID(a, 0, 1))
	w.expect(a, "SUCCESSFUL SUCCESSFUL SUCCESSFUL")
	seen(a, "a")
	w.eng.Release(engineID(c, 0, 1))
	w.expect(c, "FAILED FAILED(ended with exit code 1) NOT_EXECUTED")
	if got := w.files(p); got != "runs=first\nb tracked=1" {
		t.Errorf("the file system is that of the latest started: %q", got)
	}
	w.until("what nobody needs goes", func() bool { return len(w.volumes()) == 2 }) // that of b, and that of c for a retry
	w.stop()
}

// TestRetryOfConcurrent: a retry goes on in the file system of its run, as long as
// that is kept; else it begins anew.
func TestRetryOfConcurrent(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	w.commit("tracked", "1")
	p := w.pipeline(Pipeline{Concurrent: true}, sh("echo made > made"), sh("cat made\ntest -e never"), sh("cat made"))
	retry := func(x Execution) {
		t.Helper()
		_, err := w.Operate(t.Context(), w.admin, x.ID, OpRetry)
		w.must(err)
	}
	const failed = "FAILED SUCCESSFUL FAILED(ended with exit code 1) NOT_EXECUTED"
	kept := w.expect(w.start(p, Start{}), failed)
	retry(kept)
	kept = w.wait(kept)
	if kept.Steps[0].Attempt != 1 || kept.Steps[1].Attempt != 2 {
		t.Errorf("retried: %+v", kept.Steps)
	}
	var last Execution
	for range keptFiles {
		last = w.expect(w.start(p, Start{}), failed)
	}
	w.until("the oldest goes", func() bool {
		var n int
		w.must(w.db.Read(t.Context(), func(tx *db.Tx) error {
			return tx.QueryRow(`SELECT COUNT(*) FROM pipeline_volumes WHERE execution IS NOT NULL`).Scan(&n)
		}))
		return n == keptFiles
	})
	if kept.Status == Failed {
		retry(kept)
		if kept = w.wait(kept); kept.Steps[0].Attempt != 2 {
			t.Errorf("its files are gone, and it began with action %s", w.words(kept))
		}
	}
	// A file that is put there by hand is not lost to a retry.
	f, err := NewFiles(w.Pipelines, w.eng)
	w.must(err)
	w.must(f.Put(t.Context(), w.admin, p.ID, "by-hand", []byte("x"), true))
	retry(last)
	if last = w.wait(last); last.Steps[0].Attempt != 2 {
		t.Errorf("after a change by hand: %s", w.words(last))
	}
	w.stop()
}

// TestFilesOfConcurrentRuns: what is put there by hand stays with clear_cache, and
// goes with refresh.
func TestFilesOfConcurrentRuns(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	w.commit("tracked", "1")
	p := w.pipeline(Pipeline{Concurrent: true}, sh("touch made"))
	f, err := NewFiles(w.Pipelines, w.eng)
	w.must(err)
	w.expect(w.start(p, Start{}), "SUCCESSFUL SUCCESSFUL")
	w.must(f.Put(t.Context(), w.admin, p.ID, "by-hand", []byte("x"), true))
	_, err = w.Update(t.Context(), w.admin, p.ID, func(p *Pipeline) error { p.ClearCache = true; return nil })
	w.must(err)
	w.expect(w.start(p, Start{}), "SUCCESSFUL SUCCESSFUL")
	if got := w.files(p); got != "by-hand=x made= tracked=1" {
		t.Errorf("cleared: %s", got)
	}
	w.expect(w.start(p, Start{Refresh: true}), "SUCCESSFUL SUCCESSFUL")
	if got := w.files(p); got != "made= tracked=1" {
		t.Errorf("refreshed: %s", got)
	}
	// A file that the commit does not have any more goes from the copies, too.
	w.commit("other", "2")
	_, err = w.sources.Write(t.Context(), w.admin, w.pr.ID, "main", "tracked", nil, "remove it")
	w.must(err)
	_, err = w.Update(t.Context(), w.admin, p.ID, func(p *Pipeline) error { p.ClearCache = false; return nil })
	w.must(err)
	w.expect(w.start(p, Start{}), "SUCCESSFUL SUCCESSFUL")
	if got := w.files(p); got != "made= other=2" {
		t.Errorf("of the new commit: %s", got)
	}
	w.until("what nobody needs goes", func() bool { return len(w.volumes()) == 1 })
	w.stop()
}

// TestSequentialAfterConcurrent: a pipeline whose runs do not go beside each other
// any more goes on with what the last of them left, and has it to itself.
func TestSequentialAfterConcurrent(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	p := w.pipeline(Pipeline{Concurrent: true}, sh("echo x >> runs\nblock"))
	one := w.start(p, Start{})
	w.eng.Await(engineID(one, 0, 1))
	_, err := w.Update(t.Context(), w.admin, p.ID, func(p *Pipeline) error { p.Concurrent = false; return nil })
	w.must(err)
	two := w.start(p, Start{})
	w.eng.Release(engineID(one, 0, 1))
	w.expect(one, "SUCCESSFUL SUCCESSFUL")
	w.eng.Await(engineID(two, 0, 1))
	if two = w.now(two); two.Started.Before(w.now(one).Finished) {
		t.Error("it did not wait")
	}
	w.eng.Release(engineID(two, 0, 1))
	w.expect(two, "SUCCESSFUL SUCCESSFUL")
	if got := w.files(p); got != "runs=x\nx" {
		t.Errorf("%q", got)
	}
	w.stop()
}

func (w *world) now(x Execution) Execution {
	w.t.Helper()
	x, err := w.Execution(w.t.Context(), w.admin, x.ID)
	w.must(err)
	return x
}

// TestCopyFails: a run whose files cannot be copied says so, and leaves nothing.
func TestCopyFails(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	p := w.pipeline(Pipeline{Concurrent: true}, sh("true"))
	w.expect(w.start(p, Start{}), "SUCCESSFUL SUCCESSFUL")
	w.eng.FailNext("Clone", errors.New("no space left on device"))
	x := w.wait(w.start(p, Start{}))
	if x.Status != Failed || !strings.Contains(x.Steps[0].Error, "make a copy of the pipeline's file system for the run") {
		t.Error(w.words(x))
	}
	if n := len(w.volumes()); n != 1 {
		t.Errorf("%d file systems", n)
	}
}

func TestUnwanted(t *testing.T) {
	t.Parallel()
	at := func(h int) time.Time { return noon.Add(time.Duration(-h) * time.Hour) }
	var all []ownVolume
	for i, s := range []Status{InProgress, Failed, Successful, Terminated, Enqueued, Failed, Failed, ""} {
		all = append(all, ownVolume{fmt.Sprint(i), s, at(i)})
	}
	all = append(all, ownVolume{"old", Failed, at(8 * 24)})
	if got := unwanted(all, keptFiles, noon); !slices.Equal(got, []string{"2", "6", "7", "old"}) {
		t.Error(got)
	}
	if got := unwanted(all[1:2], 0, noon); !slices.Equal(got, []string{"1"}) {
		t.Error(got)
	}
}
