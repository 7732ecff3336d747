package db

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"
)

// ErrLeaseLost is the error of Tx.Check: somebody else holds the row now.
var ErrLeaseLost = errors.New("the lease is lost")

// Lease is the right to work on a row. Fence grows with every claim of the row.
type Lease struct {
	Table, ID, Owner string
	Fence            int64
}

// Work says how the due rows of a table are handled. The table has the columns
//
//	id TEXT PRIMARY KEY, due_at INTEGER, due_seq INTEGER NOT NULL DEFAULT 0,
//	lease_owner TEXT, lease_until INTEGER, lease_fence INTEGER NOT NULL DEFAULT 0
type Work struct {
	Table  string
	Owner  string // of this process; rows it held before are claimed at once
	N      int    // how many rows are handled at the same time
	Handle func(ctx context.Context, l Lease) (again time.Time, err error)
}

// How long a claim holds without being renewed, and how often it is.
const (
	leaseTime = 15 * time.Second
	beatTime  = 5 * time.Second
)

// Pauses after errors, of a handler and of the store.
const (
	firstPause = time.Second
	longPause  = time.Minute
)

// Due makes a row of a work table due at a time, and counts its due_seq up, so
// that a handler that runs now is followed by another look. The earlier of two
// times wins unless the row is being handled: then it is looked at again as soon
// as the handler returns. A row that is not there is left alone.
func (t *Tx) Due(table, id string, at time.Time) error {
	if at.IsZero() {
		return fmt.Errorf("due %s %s: no time", table, id)
	}
	_, err := t.Exec(`UPDATE `+table+` SET due_seq = due_seq + 1, due_at = CASE
		WHEN lease_owner IS NULL AND (due_at IS NULL OR due_at > ?) THEN ? ELSE due_at END WHERE id = ?`,
		at.UnixMicro(), at.UnixMicro(), id)
	if err != nil {
		return fmt.Errorf("due %s %s: %w", table, id, err)
	}
	t.Wake(table)
	return nil
}

// Check fails with ErrLeaseLost unless the lease is still held. Every write of
// a handler begins with it.
func (t *Tx) Check(l Lease) error {
	var one int
	err := t.QueryRow(`SELECT 1 FROM `+l.Table+` WHERE id = ? AND lease_owner = ? AND lease_fence = ?`,
		l.ID, l.Owner, l.Fence).Scan(&one)
	if errors.Is(err, sql.ErrNoRows) {
		return ErrLeaseLost
	}
	return err
}

// Work claims due rows and handles them until ctx ends; then it waits for the
// handlers. A handler that gives a time is called again then, the zero time:
// when the row is made due again. After an error the row is due again in a
// second, doubling to a minute; a handler that panics is an error. While a
// handler runs its lease is kept; if the lease is lost its context ends with
// ErrLeaseLost as the cause. Errors of handlers are logged here.
func (d *DB) Work(ctx context.Context, w Work) error {
	if w.N <= 0 || w.Table == "" || w.Owner == "" || w.Handle == nil {
		return fmt.Errorf("work %q: incomplete", w.Table)
	}
	l := &loop{
		Work: w, db: d, log: slog.With("room", "db", "table", w.Table),
		running: map[string]*held{}, failed: map[string]time.Duration{}, ended: make(chan struct{}, 1),
	}
	return l.run(ctx)
}

// loop is one call of DB.Work.
type loop struct {
	Work
	db    *DB
	log   *slog.Logger
	ended chan struct{} // a handler returned; holds one signal
	wait  sync.WaitGroup

	mu      sync.Mutex
	running map[string]*held
	failed  map[string]time.Duration // the last pause of rows that failed, by id
	beaten  time.Time                // when the leases were last renewed
}

// held is a row that is being handled.
type held struct {
	Lease
	seq    int64
	cancel context.CancelCauseFunc
}

func (l *loop) run(ctx context.Context) error {
	wake, stop := l.db.Watch(l.Table)
	defer stop()
	err := l.takeBack(ctx)
	if err != nil && ctx.Err() == nil {
		return fmt.Errorf("work %s: %w", l.Table, err)
	}
	beats := time.NewTicker(beatTime)
	defer beats.Stop()
	look := time.NewTimer(0)
	defer look.Stop()
	over := ctx.Done()
	for {
		select {
		case <-over:
			over, wake = nil, nil // from here only for the handlers
			look.Stop()
			go func() { l.wait.Wait(); close(l.ended) }()
			continue
		case _, ok := <-l.ended:
			if !ok {
				return nil
			}
		case <-wake:
		case <-look.C:
		case <-beats.C:
			l.renew(ctx)
			continue
		}
		if over == nil {
			continue
		}
		look.Stop()
		if next := l.claim(ctx); !next.IsZero() {
			look.Reset(max(0, time.Until(next)))
		}
	}
}

// takeBack frees what a dead process of the same name held.
func (l *loop) takeBack(ctx context.Context) error {
	return l.db.Write(ctx, func(t *Tx) error {
		_, err := t.Exec(`UPDATE `+l.Table+` SET lease_owner = NULL, lease_until = NULL, due_at = ? WHERE lease_owner = ?`,
			t.Now.UnixMicro(), l.Owner)
		return err
	})
}

// claim takes as many rows as there are free hands and tells when to look
// again; the zero time: when something happens.
func (l *loop) claim(ctx context.Context) (next time.Time) {
	l.mu.Lock()
	free := l.N - len(l.running)
	l.mu.Unlock()
	if free <= 0 {
		return time.Time{} // a handler that returns is followed by a look
	}
	var got []*held
	err := l.db.Write(ctx, func(t *Tx) (err error) {
		// What is ours is renewed first, so that a time without writes, or
		// without being scheduled, costs no lease.
		if err := l.beat(t); err != nil {
			return err
		}
		if got, err = l.take(t, free); err != nil || len(got) == free {
			return err
		}
		var due sql.NullInt64
		if err := t.QueryRow(`SELECT MIN(due_at) FROM ` + l.Table).Scan(&due); err != nil {
			return err
		}
		if next = Time(due); !next.IsZero() && !next.After(t.Now) {
			next = t.Now.Add(time.Second) // due, but held by somebody
		}
		return nil
	})
	if err != nil {
		if ctx.Err() == nil {
			l.log.Error("claiming failed", "error", err)
		}
		return time.Now().Add(firstPause)
	}
	for _, h := range got {
		l.start(ctx, h)
	}
	return next
}

// take claims what is due. The bound is a sum because SQLite prepares a statement
// anew for each value of a bare parameter there.
func (l *loop) take(t *Tx, n int) (got []*held, err error) {
	now, until := t.Now.UnixMicro(), t.Now.Add(leaseTime).UnixMicro()
	rows, err := t.Query(`UPDATE `+l.Table+`
		SET lease_owner = ?, lease_until = ?, due_at = ?, lease_fence = lease_fence + 1
		WHERE id IN (SELECT id FROM `+l.Table+` WHERE due_at <= ? AND (lease_owner IS NULL OR lease_until <= ?)
			ORDER BY due_at LIMIT ? + 0)
		RETURNING id, lease_fence, due_seq`, l.Owner, until, until, now, now, n)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		h := &held{Lease: Lease{Table: l.Table, Owner: l.Owner}}
		if err := rows.Scan(&h.ID, &h.Fence, &h.seq); err != nil {
			return nil, err
		}
		got = append(got, h)
	}
	return got, rows.Err()
}

func (l *loop) start(ctx context.Context, h *held) {
	ctx, h.cancel = context.WithCancelCause(ctx)
	l.mu.Lock()
	l.running[h.ID] = h
	l.mu.Unlock()
	l.wait.Go(func() {
		defer h.cancel(context.Canceled)
		again, err := l.handle(ctx, h.Lease)
		l.finish(ctx, h, again, err)
		l.mu.Lock()
		if l.running[h.ID] == h {
			delete(l.running, h.ID)
		}
		l.mu.Unlock()
		select {
		case l.ended <- struct{}{}:
		default:
		}
	})
}

func (l *loop) handle(ctx context.Context, lease Lease) (again time.Time, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = &Panicked{p, debug.Stack()}
		}
	}()
	return l.Handle(ctx, lease)
}

// finish gives the row back and says when it is due again.
func (l *loop) finish(ctx context.Context, h *held, again time.Time, err error) {
	if errors.Is(err, ErrLeaseLost) || errors.Is(context.Cause(ctx), ErrLeaseLost) {
		l.log.Warn("lease lost", "id", h.ID)
		return
	}
	stopped := err != nil && ctx.Err() != nil // we are shutting down, and it heard of it
	pause := l.pause(h.ID, err != nil && !stopped)
	if err != nil && !stopped {
		a := []any{"id", h.ID, "error", err, "again", pause}
		if p := (*Panicked)(nil); errors.As(err, &p) {
			a = append(a, "stack", string(p.Stack))
		}
		l.log.Error("handler failed", a...)
	}
	for try := 0; ; try++ {
		e := l.db.Write(context.WithoutCancel(ctx), func(t *Tx) error { return l.giveBack(t, h, again, pause, stopped) })
		if e == nil || errors.Is(e, ErrLeaseLost) {
			return
		}
		if try == 0 {
			l.log.Error("giving a row back failed", "id", h.ID, "error", e)
		}
		select { // the lease is renewed meanwhile, if it can be
		case <-ctx.Done():
			return // the next process of our name takes it back
		case <-time.After(firstPause):
		}
	}
}

func (l *loop) giveBack(t *Tx, h *held, again time.Time, pause time.Duration, stopped bool) error {
	now := t.Now.UnixMicro()
	due, moved := Micros(again), any(now)
	if pause > 0 { // news shorten the pause, but not to nothing
		due, moved = t.Now.Add(pause).UnixMicro(), t.Now.Add(firstPause).UnixMicro()
	}
	if stopped {
		due = now
	}
	n, err := t.Exec(`UPDATE `+h.Table+` SET lease_owner = NULL, lease_until = NULL,
		due_at = CASE WHEN due_seq = ? THEN ? ELSE ? END
		WHERE id = ? AND lease_owner = ? AND lease_fence = ?`, h.seq, due, moved, h.ID, h.Owner, h.Fence)
	if err == nil && n == 0 {
		return ErrLeaseLost
	}
	return err
}

// pause counts how long a failing row waits; 0 when it did not fail.
func (l *loop) pause(id string, failed bool) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !failed {
		delete(l.failed, id)
		return 0
	}
	p := min(longPause, max(firstPause, 2*l.failed[id]))
	l.failed[id] = p
	return p
}

func (l *loop) renew(ctx context.Context) {
	if l.idle() {
		return
	}
	if err := l.db.Write(context.WithoutCancel(ctx), l.beat); err != nil {
		l.log.Error("renewing leases failed", "error", err)
	}
}

func (l *loop) idle() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.running) == 0
}

// beat renews the leases of all running handlers, at most once in a while, and
// ends those whose lease is lost.
func (l *loop) beat(t *Tx) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if t.Now.Sub(l.beaten) < beatTime/2 {
		return nil
	}
	until := t.Now.Add(leaseTime).UnixMicro()
	for _, h := range l.running {
		n, err := t.Exec(`UPDATE `+h.Table+` SET lease_until = ?, due_at = ? WHERE id = ? AND lease_owner = ? AND lease_fence = ?`,
			until, until, h.ID, h.Owner, h.Fence)
		if err != nil {
			return err
		}
		if n == 0 {
			h.cancel(ErrLeaseLost)
		}
	}
	l.beaten = t.Now
	return nil
}
