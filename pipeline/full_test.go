package pipeline

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"slipway/db"
)

// TestNoRoomForTheEnd lets the disk be full when an action ends, and have room
// again a little later: its end is written then, by the same handler.
func TestNoRoomForTheEnd(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	p := w.pipeline(Pipeline{}, sh("block"))
	x := w.start(p, Start{})
	w.eng.Await(engineID(x, 0, 1))
	fence := func() (n int64) {
		w.must(w.db.Read(t.Context(), func(tx *db.Tx) error {
			return tx.QueryRow(`SELECT lease_fence FROM executions WHERE id = ?`, x.ID).Scan(&n)
		}))
		return n
	}
	before := fence()
	w.must(w.db.Write(t.Context(), func(tx *db.Tx) error {
		if _, err := tx.Exec(`CREATE TABLE filler (text TEXT)`); err != nil {
			return err
		}
		// Whatever ends brings the disk to its end.
		_, err := tx.Exec(`CREATE TRIGGER fill AFTER UPDATE ON action_executions BEGIN INSERT INTO filler VALUES ('` + strings.Repeat("x", 64<<10) + `'); END`)
		return err
	}))
	var pages int64
	w.must(w.db.Write(t.Context(), func(tx *db.Tx) error {
		if err := tx.QueryRow(`PRAGMA page_count`).Scan(&pages); err != nil {
			return err
		}
		var got int64
		return tx.QueryRow(fmt.Sprintf(`PRAGMA max_page_count = %d`, pages+4)).Scan(&got)
	}))
	w.eng.Release(engineID(x, 0, 1))
	<-time.After(400 * time.Millisecond) // long enough to be refused; a write that is refused tells nobody
	w.must(w.db.Write(t.Context(), func(tx *db.Tx) error {
		var got int64
		return tx.QueryRow(`PRAGMA max_page_count = 1000000`).Scan(&got)
	}))
	w.expect(x, "SUCCESSFUL SUCCESSFUL")
	if after := fence(); after != before {
		t.Errorf("it was begun again: fence %d, then %d", before, after)
	}
}
