package event

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"slipway/access"
	"slipway/crash"
	"slipway/db"
)

// Outbox reads events.
type Outbox struct {
	db *db.DB
}

// New makes the reader.
func New(d *db.DB) *Outbox { return &Outbox{db: d} }

// Filter is what Tail selects; empty fields select everything.
type Filter struct {
	Workspace string // UUID
	Project   string // UUID
	Subject   string
	Kinds     []Kind
}

// After gives up to limit events after seq, oldest first.
func (o *Outbox) After(ctx context.Context, seq int64, limit int) (list []Event, err error) {
	err = o.db.Read(ctx, func(tx *db.Tx) (err error) {
		list, err = fetch(tx, seq, limit, "")
		return err
	})
	return list, err
}

// page is how many events are read at a time.
const page = 500

// Follow calls handle for every event of the given kinds (none: all) after the
// cursor of that name, in order, until ctx ends, whose cause it returns. handle
// gets the transaction that also moves the cursor, so an event is handled
// exactly once; an error is logged here and tried again in a second, and the
// events after it wait. A new cursor begins at the beginning.
func (o *Outbox) Follow(ctx context.Context, cursor string, kinds []Kind, handle func(*db.Tx, Event) error) error {
	wake, stop := o.db.Watch(Topic)
	defer stop()
	failed := 0
	for {
		more, err := o.step(ctx, cursor, kinds, handle)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			if failed%60 == 0 { // then once a minute
				slog.ErrorContext(ctx, "event not handled", "room", "event", "cursor", cursor, "error", err)
			}
			failed++
			select { // more events do not mend it
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
			continue
		}
		failed = 0
		if more {
			continue
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-wake:
		}
	}
}

// lag is how far a cursor may stay behind events that it does not want: to move
// it costs a write, and what it has passed can be pruned.
const lag = 256

// step handles what is there now, up to a page, and tells whether there may be
// more.
func (o *Outbox) step(ctx context.Context, cursor string, kinds []Kind, handle func(*db.Tx, Event) error) (more bool, err error) {
	var at, last int64
	var list []Event
	err = o.db.Read(ctx, func(tx *db.Tx) (err error) {
		if at, err = position(tx, cursor); err != nil {
			return err
		}
		if err := tx.QueryRow(`SELECT COALESCE(MAX(seq), 0) FROM events`).Scan(&last); err != nil {
			return err
		}
		where, args := ofKinds(kinds)
		list, err = fetch(tx, at, page, where, args...)
		return err
	})
	if err != nil {
		return false, err
	}
	for _, e := range list {
		moved := false
		err := o.db.Write(ctx, func(tx *db.Tx) error {
			if moved, err = move(tx, cursor, at, e.Seq); err != nil || !moved {
				return err
			}
			return handle(tx, e)
		})
		if err != nil {
			return false, fmt.Errorf("%s %d of %s: %w", e.Kind, e.Seq, e.Subject, err)
		}
		if !moved { // somebody else uses this cursor: see where it is now
			return true, nil
		}
		crash.At("event: an event is handled")
		at = e.Seq
	}
	if len(list) < page && last-at > lag {
		err = o.db.Write(ctx, func(tx *db.Tx) error { _, err := move(tx, cursor, at, last); return err })
	}
	return len(list) == page, err
}

// Tail calls send for the events after seq that the filter selects and the
// actor sees, in order, and then for new ones as they come, until ctx ends,
// whose cause it returns, or send fails. after < 0 means: only new ones. It
// keeps no cursor: who comes back says what it saw last. Events that were pruned
// meanwhile are left out.
func (o *Outbox) Tail(ctx context.Context, by access.Actor, after int64, f Filter, send func(Event) error) error {
	if !by.Known() {
		return by.Has(access.Workspace)
	}
	if f.Workspace != "" {
		if err := by.May(f.Workspace, access.Workspace); err != nil {
			return err
		}
	}
	where, args := f.where(by)
	wake, stop := o.db.Watch(Topic)
	defer stop()
	for {
		var last int64
		var list []Event
		err := o.db.Read(ctx, func(tx *db.Tx) (err error) {
			if err := tx.QueryRow(`SELECT COALESCE(MAX(seq), 0) FROM events`).Scan(&last); err != nil || after < 0 {
				return err
			}
			list, err = fetch(tx, after, page, where, args...)
			return err
		})
		if err != nil {
			return err
		}
		for _, e := range list {
			if err := send(e); err != nil {
				return err
			}
			after = e.Seq
		}
		if len(list) == page {
			continue
		}
		after = max(after, last) // what is not for this reader is not looked at again
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-wake:
		}
	}
}

func (f Filter) where(by access.Actor) (where string, args []any) {
	where, args = ofKinds(f.Kinds)
	for _, c := range [][2]string{{"workspace", f.Workspace}, {"project", f.Project}, {"subject", f.Subject}} {
		if c[1] != "" {
			where += " AND " + c[0] + " = ?"
			args = append(args, c[1])
		}
	}
	ids, all := by.Workspaces()
	if all {
		return where, args
	}
	where += " AND (0"
	for _, id := range ids { // of a workspace that it does not run, an actor sees the projects that it is in
		where += " OR workspace = ?"
		args = append(args, id)
		if in, every := by.Projects(id); !every {
			where += " AND project IN (''" + strings.Repeat(",?", len(in)) + ")"
			for _, p := range in {
				args = append(args, p)
			}
		}
	}
	return where + ")", args
}

// Prune drops events older than keep that every cursor and every webhook has
// passed.
func (o *Outbox) Prune(ctx context.Context, keep time.Duration) error {
	for more := true; more; { // in pieces, so that writers wait for none of them long
		err := o.db.Write(ctx, func(tx *db.Tx) error {
			n, err := tx.Exec(`DELETE FROM events WHERE seq IN (SELECT seq FROM events
				WHERE at < ? AND seq <= COALESCE((SELECT MIN(seq) FROM (SELECT seq FROM cursors UNION ALL SELECT seq FROM webhooks)), seq) ORDER BY seq LIMIT 1000)`,
				tx.Now.Add(-keep).UnixMicro())
			more = n == 1000
			return err
		})
		if err != nil {
			return fmt.Errorf("prune events: %w", err)
		}
	}
	return nil
}

// Forget drops a cursor that nobody follows any more.
func (o *Outbox) Forget(ctx context.Context, cursor string) error {
	return o.db.Write(ctx, func(tx *db.Tx) error {
		_, err := tx.Exec(`DELETE FROM cursors WHERE name = ?`, cursor)
		return err
	})
}

func position(tx *db.Tx, cursor string) (seq int64, err error) {
	err = tx.QueryRow(`SELECT seq FROM cursors WHERE name = ?`, cursor).Scan(&seq)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, nil
	}
	return seq, err
}

// move moves a cursor if it is still where it was.
func move(tx *db.Tx, cursor string, from, to int64) (bool, error) {
	at, err := position(tx, cursor)
	if err != nil || at != from {
		return false, err
	}
	_, err = tx.Exec(`INSERT INTO cursors (name, seq) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET seq = excluded.seq`, cursor, to)
	return err == nil, err
}

func ofKinds(kinds []Kind) (where string, args []any) {
	if len(kinds) == 0 {
		return "", nil
	}
	for _, k := range slices.Sorted(slices.Values(kinds)) {
		args = append(args, string(k))
	}
	return " AND kind IN (" + marks(len(kinds)) + ")", args
}

func marks(n int) string { return strings.TrimSuffix(strings.Repeat("?,", n), ",") }

// fetch reads events in their order. The bound is a sum because SQLite prepares a
// statement anew for each value of a bare parameter there.
func fetch(tx *db.Tx, seq int64, limit int, where string, args ...any) (list []Event, err error) {
	rows, err := tx.Query(`SELECT seq, at, kind, workspace, project, subject, data FROM events WHERE seq > ?`+where+
		` ORDER BY seq LIMIT ? + 0`, slices.Concat([]any{seq}, args, []any{limit})...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var e Event
		var at sql.NullInt64
		var data string
		if err := rows.Scan(&e.Seq, &at, &e.Kind, &e.Workspace, &e.Project, &e.Subject, &data); err != nil {
			return nil, err
		}
		e.At, e.Data = db.Time(at), json.RawMessage(data)
		list = append(list, e)
	}
	return list, rows.Err()
}
