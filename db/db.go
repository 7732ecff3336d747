package db

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"runtime"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	_ "modernc.org/sqlite" // the driver
)

// DB is an open store.
type DB struct {
	file    string
	pool    *sql.DB // of the writer, one connection
	readers *sql.DB
	idle    chan *conn // the readers that nobody uses
	all     []*conn
	queue   queue
	watch   watchers

	close  sync.Once
	closed chan struct{} // no new transactions from here
	ended  chan struct{} // the writer is through
	err    error         // of Close
}

// Open opens the store in file, or makes it (0600; its folder must be there),
// and migrates it. A store of a newer schema is refused and left as it is
// (errdefs.ErrFailedPrecondition). A migration works on a copy that takes the
// place of the store when it is complete, so whatever happens in between the
// store has the old schema or the new one.
func Open(ctx context.Context, file string) (*DB, error) {
	d, err := open(ctx, file, migrations())
	if err != nil {
		return nil, fmt.Errorf("database %s: %w", file, err)
	}
	return d, nil
}

// dsn is the address of a connection. The name is escaped, so any file name
// will do.
func dsn(file string, pragmas ...string) string {
	q := url.Values{"_txlock": {"immediate"}, "_pragma": append([]string{"busy_timeout(5000)"}, pragmas...)}
	return "file:" + (&url.URL{Path: file}).EscapedPath() + "?" + q.Encode()
}

func connect(ctx context.Context, file string) (*DB, error) {
	d := &DB{file: file, closed: make(chan struct{}), ended: make(chan struct{})}
	d.queue.bell = make(chan struct{}, 1)
	var err error
	if d.pool, err = sql.Open("sqlite", dsn(file, "journal_mode(WAL)", "synchronous(FULL)", "foreign_keys(1)",
		"journal_size_limit(67108864)", "temp_store(MEMORY)")); err != nil {
		return nil, err
	}
	w, err := newConn(ctx, d.pool)
	if err != nil {
		return nil, errors.Join(explain(err), d.pool.Close())
	}
	if err := errors.Join(w.do("BEGIN IMMEDIATE"), w.do("COMMIT")); err != nil { // from here the log is there
		return nil, errors.Join(explain(err), d.pool.Close())
	}
	keepRoom(file + "-wal")
	n := max(4, runtime.GOMAXPROCS(0))
	d.idle = make(chan *conn, n)
	if d.readers, err = sql.Open("sqlite", dsn(file, "query_only(1)", "temp_store(MEMORY)")); err != nil {
		return nil, errors.Join(err, d.pool.Close())
	}
	for range n { // connections are made when they are first needed
		c := &conn{}
		d.all = append(d.all, c)
		d.idle <- c
	}
	go d.write(w)
	return d, nil
}

// logRoom is the room on the disk that the log of a store has in advance, in
// bytes. The log is folded into the store at half of that, so on a disk that is
// full the same is left for transactions; those that delete things make room.
const logRoom = 8 << 20

// keepRoom has the file system set room aside behind the end of a file. If it
// cannot, the store works as well, until the disk is full.
func keepRoom(log string) {
	f, err := os.OpenFile(log, os.O_RDWR, 0)
	if err != nil {
		return
	}
	_ = unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, 0, logRoom)
	_ = f.Close()
}

// Close ends the store after the transactions under way. Transactions that
// begin later fail with errdefs.ErrUnavailable.
func (d *DB) Close() error {
	d.close.Do(func() {
		close(d.closed)
		d.queue.ring()
		<-d.ended
		for range cap(d.idle) { // each reader, when it is given back
			<-d.idle
		}
		for _, c := range d.all {
			c.end()
		}
		d.err = errors.Join(d.readers.Close(), d.pool.Close())
	})
	return d.err
}

var errClosed = fmt.Errorf("the database is closed: %w", errdefs.ErrUnavailable)

// Read runs f on a snapshot: all that it reads is of one commit. It must not
// write. It may be called inside Write, and then sees the commit before.
func (d *DB) Read(ctx context.Context, f func(*Tx) error) (err error) {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	select { // closed wins over an idle reader
	case <-d.closed:
		return errClosed
	default:
	}
	var c *conn
	select {
	case c = <-d.idle:
	case <-d.closed:
		return errClosed
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() { d.idle <- c }()
	if err := c.start(d.readers); err != nil {
		return explain(err)
	}
	if err := c.do("BEGIN"); err != nil {
		return explain(err)
	}
	t := newTx(ctx, c, false)
	defer func() {
		t.end()
		if e := c.do("ROLLBACK"); e != nil {
			c.end() // the next one makes a new connection
			*c = conn{}
		}
		err = explain(err)
	}()
	return f(t)
}

// Micros is how a time is stored; the zero time is NULL.
func Micros(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t.UnixMicro()
}

// Time reads what Micros wrote.
func Time(v sql.NullInt64) time.Time {
	if !v.Valid {
		return time.Time{}
	}
	return time.UnixMicro(v.Int64).UTC()
}
