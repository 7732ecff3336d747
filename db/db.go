// Package db opens the store and knows nothing of what is in it but the four
// columns of work.
//
// Writes go through one writer that puts waiting transactions into one commit
// (group commit): when Write returns, what it wrote is on disk. Reads have
// connections of their own and see the last commit.
//
// Times are kept as INTEGER microseconds since 1970, UTC (Micros, Time).
// Statements keep to the SQL that SQLite and PostgreSQL share.
package db

import (
	"context"
	"database/sql"
	"errors"
	"time"
)

// ErrLeaseLost is the error of Tx.Check: somebody else holds the row now.
var ErrLeaseLost = errors.New("the lease is lost")

// DB is an open store.
type DB struct{}

// Open opens the store in file, or makes it, and migrates it. A store of a
// newer schema is refused and left as it is.
func Open(ctx context.Context, file string) (*DB, error) { panic("unwritten") }

// Close ends the store after the transactions under way.
func (d *DB) Close() error { panic("unwritten") }

// Write runs f in a transaction that is on disk when Write returns. If f gives
// an error nothing of it is kept. f may share the commit with others and must
// do nothing slow; it runs once.
func (d *DB) Write(ctx context.Context, f func(*Tx) error) error { panic("unwritten") }

// Read runs f on a snapshot.
func (d *DB) Read(ctx context.Context, f func(*Tx) error) error { panic("unwritten") }

// Watch gives a channel that is signalled after each commit that called
// Tx.Wake(topic), or Tx.Due on the table of that name. stop ends it.
func (d *DB) Watch(topic string) (c <-chan struct{}, stop func()) { panic("unwritten") }

// Tx is a transaction.
type Tx struct {
	Now time.Time // the same for all of the transaction, UTC, whole microseconds
}

// Exec runs a statement and tells how many rows it changed.
func (t *Tx) Exec(query string, args ...any) (rows int64, err error) { panic("unwritten") }

// Insert runs an INSERT and gives the integer key of the new row.
func (t *Tx) Insert(query string, args ...any) (id int64, err error) { panic("unwritten") }

// Query runs a query.
func (t *Tx) Query(query string, args ...any) (*sql.Rows, error) { panic("unwritten") }

// QueryRow runs a query for one row; errdefs.ErrNotFound from NotFound(err).
func (t *Tx) QueryRow(query string, args ...any) *sql.Row { panic("unwritten") }

// Wake signals the watchers of a topic after the commit.
func (t *Tx) Wake(topic string) { panic("unwritten") }

// Due makes a row of a work table due at a time, and counts its due_seq up, so
// that a handler that runs now is followed by another look. The earlier of two
// times wins unless the row is being handled.
func (t *Tx) Due(table, id string, at time.Time) error { panic("unwritten") }

// Check fails with ErrLeaseLost unless the lease is still held. Every write of
// a handler begins with it.
func (t *Tx) Check(l Lease) error { panic("unwritten") }

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

// Work claims due rows and handles them until ctx ends; then it waits for the
// handlers. A handler that gives a time is called again then, the zero time:
// when the row is made due again. After an error the row is due again in a
// second, doubling to a minute; a handler that panics is an error. While a
// handler runs its lease is kept; if the lease is lost its context ends with
// ErrLeaseLost as the cause.
func (d *DB) Work(ctx context.Context, w Work) error { panic("unwritten") }

// Micros is how a time is stored; the zero time is NULL.
func Micros(t time.Time) any { panic("unwritten") }

// Time reads what Micros wrote.
func Time(v sql.NullInt64) time.Time { panic("unwritten") }

// NotFound turns sql.ErrNoRows into errdefs.ErrNotFound with the name of what
// was looked for, and leaves other errors alone.
func NotFound(err error, what string, args ...any) error { panic("unwritten") }
