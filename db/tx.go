package db

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
)

// Tx is a transaction. It is used by one goroutine, and not after the function
// that got it has returned.
type Tx struct {
	Now time.Time // the same for all of the transaction, UTC, whole microseconds

	ctx    context.Context
	c      *conn
	write  bool
	over   bool
	open   []opened
	topics []string
}

type opened struct {
	query string
	rows  *sql.Rows
}

func newTx(ctx context.Context, c *conn, write bool) *Tx {
	return &Tx{Now: time.Now().UTC().Truncate(time.Microsecond), ctx: ctx, c: c, write: write}
}

// end closes what f left open.
func (t *Tx) end() {
	t.over = true
	for _, o := range t.open {
		_ = o.rows.Close()
	}
}

var errOver = errors.New("the transaction is over")

// ready tells whether a statement may run. A write under way is finished even
// if who asked for it is gone; a read is not.
func (t *Tx) ready() error {
	if t.over {
		return errOver
	}
	if !t.write && t.ctx.Err() != nil {
		return context.Cause(t.ctx)
	}
	return nil
}

// Exec runs a statement and tells how many rows it changed.
func (t *Tx) Exec(query string, args ...any) (rows int64, err error) {
	if err := t.ready(); err != nil {
		return 0, err
	}
	r, err := t.c.exec(query, args)
	if err != nil {
		return 0, explain(err)
	}
	return r.RowsAffected()
}

// Insert runs an INSERT and gives the integer key of the new row.
func (t *Tx) Insert(query string, args ...any) (id int64, err error) {
	if err := t.ready(); err != nil {
		return 0, err
	}
	r, err := t.c.exec(query, args)
	if err != nil {
		return 0, explain(err)
	}
	return r.LastInsertId()
}

// Query runs a query. Rows that are left open are closed with the transaction.
func (t *Tx) Query(query string, args ...any) (*sql.Rows, error) {
	if err := t.ready(); err != nil {
		return nil, err
	}
	var s *sql.Stmt
	var err error
	if !t.reading(query) {
		if s, err = t.c.prepare(query); err != nil {
			return nil, explain(err)
		}
	}
	var rows *sql.Rows
	if s != nil {
		rows, err = s.QueryContext(context.Background(), args...)
	} else {
		rows, err = t.c.c.QueryContext(context.Background(), query, args...)
	}
	if err != nil {
		return nil, explain(err)
	}
	t.open = append(t.open, opened{query, rows})
	return rows, nil
}

// reading tells whether rows of the same query are still open: a prepared
// statement can only be in one place at a time. It forgets closed ones.
func (t *Tx) reading(query string) bool {
	var found bool
	kept := t.open[:0]
	for _, o := range t.open {
		if _, err := o.rows.Columns(); err != nil { // closed
			continue
		}
		kept = append(kept, o)
		found = found || o.query == query
	}
	t.open = kept
	return found
}

// QueryRow runs a query for one row, which is to be scanned at once;
// errdefs.ErrNotFound from NotFound(err).
func (t *Tx) QueryRow(query string, args ...any) *sql.Row {
	if err := t.ready(); err != nil {
		return t.refused(err)
	}
	if len(t.open) == 0 || !t.reading(query) {
		// An error of prepare is found again below.
		if s, err := t.c.prepare(query); err == nil && s != nil {
			return s.QueryRowContext(context.Background(), args...)
		}
	}
	return t.c.c.QueryRowContext(context.Background(), query, args...)
}

// refused gives a row whose Scan fails with err: an sql.Row cannot be made by
// hand, so it asks with a context that has ended.
func (t *Tx) refused(err error) *sql.Row {
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(err)
	return t.c.c.QueryRowContext(ctx, "SELECT 1")
}

// Wake signals the watchers of a topic after the commit.
func (t *Tx) Wake(topic string) {
	for _, have := range t.topics {
		if have == topic {
			return
		}
	}
	t.topics = append(t.topics, topic)
}

// NotFound turns sql.ErrNoRows into errdefs.ErrNotFound with the name of what
// was looked for, and leaves other errors alone.
func NotFound(err error, what string, args ...any) error {
	if !errors.Is(err, sql.ErrNoRows) {
		return err
	}
	return fmt.Errorf(what+": %w", append(args, errdefs.ErrNotFound)...)
}

// Scan reads the columns of a row into what the pointers are to.
type Scan = func(into ...any) error

// List gives what one makes of each row that a query finds, in their order. one may
// look at nothing else in the store meanwhile.
func List[T any](tx *Tx, one func(Scan) (T, error), query string, args ...any) (l []T, err error) {
	rows, err := tx.Query(query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		v, err := one(rows.Scan)
		if err != nil {
			return nil, err
		}
		l = append(l, v)
	}
	return l, rows.Err()
}

// Column gives what a query of one column finds, in its order.
func Column[T any](tx *Tx, query string, args ...any) ([]T, error) {
	return List(tx, func(scan Scan) (v T, err error) { err = scan(&v); return v, err }, query, args...)
}
