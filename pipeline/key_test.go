package pipeline

import (
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"slipway/db"
	"slipway/project"
)

func TestSameKeyIsOneExecution(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	p, other := w.pipeline(Pipeline{Name: "a"}, sh("true")), w.pipeline(Pipeline{Name: "b"}, sh("true"))
	in := Start{Key: "k-1", Comment: "once", Variables: []Variable{{Key: "A", Value: "open sesame", Encrypted: true}}}
	first := w.start(p, in)
	w.expect(first, "SUCCESSFUL SUCCESSFUL")
	if again := w.start(p, in); again.ID != first.ID || again.Number != 1 || again.Status != Successful {
		t.Errorf("again: %d %s", again.Number, again.Status)
	}
	for name, change := range map[string]func(*Start){
		"comment":  func(in *Start) { in.Comment = "twice" },
		"variable": func(in *Start) { in.Variables = []Variable{{Key: "A", Value: "close sesame", Encrypted: true}} },
		"revision": func(in *Start) { in.Revision = "HEAD" },
	} {
		in := in
		change(&in)
		if _, err := w.Start(t.Context(), w.admin, p.ID, in); !errors.Is(err, ErrKeyUsed) {
			t.Errorf("another %s: %v", name, err)
		}
	}
	if x := w.start(other, in); x.ID == first.ID {
		t.Error("a key holds for its pipeline")
	}
	stranger := w.admin
	stranger.Token.ID = "another"
	if x, err := w.Start(t.Context(), stranger, p.ID, in); err != nil || x.ID == first.ID {
		t.Errorf("a key holds for its token: %v", err)
	}
	// A day later it is as new, and nothing of it is left.
	w.must(w.db.Write(t.Context(), func(tx *db.Tx) error {
		_, err := tx.Exec(`UPDATE execution_keys SET created = ?`, db.Micros(time.Now().Add(-keyTime-time.Minute)))
		return err
	}))
	in.Comment = "the next day"
	if x := w.start(p, in); x.ID == first.ID {
		t.Error("a key holds for a day")
	}
	var n int
	w.must(w.db.Read(t.Context(), func(tx *db.Tx) error { return tx.QueryRow(`SELECT COUNT(*) FROM execution_keys`).Scan(&n) }))
	if n != 1 {
		t.Errorf("%d keys are kept", n)
	}
	for _, bad := range []string{strings.Repeat("k", nameMax+1), "a\nb"} {
		_, err := w.Start(t.Context(), w.admin, p.ID, Start{Key: bad})
		if inv, ok := project.AsInvalid(err); !ok || inv.Fields[0].Path != "Idempotency-Key" {
			t.Errorf("%q: %v", bad, err)
		}
	}
	// A start that was refused has used no key.
	if _, err := w.Start(t.Context(), w.admin, p.ID, Start{Key: "k-2", Only: []ActionID{99}}); err == nil {
		t.Error("an unknown action")
	}
	w.start(p, Start{Key: "k-2"})
}

func TestSameKeyAtTheSameTime(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	p := w.pipeline(Pipeline{}, sh("true"))
	var wg sync.WaitGroup
	ids := make([]ExecutionID, 8)
	for i := range ids {
		wg.Go(func() {
			x, err := w.Start(t.Context(), w.admin, p.ID, Start{Key: "k"})
			if err != nil {
				t.Error(err)
			}
			ids[i] = x.ID
		})
	}
	wg.Wait()
	for _, id := range ids {
		if id != ids[0] {
			t.Errorf("started twice: %s, %s", id, ids[0])
		}
	}
}
