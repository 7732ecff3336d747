package db

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"
)

// A commit takes at most this much along, so that the first of it does not wait
// for a flood.
const (
	batchJobs = 256
	batchTime = 20 * time.Millisecond
)

// job is one Write: it waits, is given its turn, runs in the goroutine of its
// caller, and waits for the commit.
type job struct {
	state atomic.Int32 // one of the below
	turn  chan *Tx
	ran   chan error // f's result
	done  chan error // the commit's
	tx    *Tx
}

const (
	waiting = iota
	running
	gone // the caller did not wait
)

type queue struct {
	mu   sync.Mutex
	jobs []*job
	bell chan struct{} // holds one signal
}

func (q *queue) ring() {
	select {
	case q.bell <- struct{}{}:
	default:
	}
}

func (q *queue) put(j *job) {
	q.mu.Lock()
	q.jobs = append(q.jobs, j)
	q.mu.Unlock()
	q.ring()
}

// next gives the first job that is still wanted.
func (q *queue) next() *job {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.jobs) > 0 {
		j := q.jobs[0]
		q.jobs[0] = nil
		q.jobs = q.jobs[1:]
		if j.state.CompareAndSwap(waiting, running) {
			return j
		}
	}
	q.jobs = nil
	return nil
}

// Write runs f in a transaction that is on disk when Write returns. If f gives
// an error or panics nothing of it is kept, and that is the error. f may share
// the commit with others and must do nothing slow, nor call Write; it runs once.
// If ctx ends before its turn nothing happens; a transaction under way is
// finished.
func (d *DB) Write(ctx context.Context, f func(*Tx) error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	j := &job{turn: make(chan *Tx, 1), ran: make(chan error, 1), done: make(chan error, 1)}
	d.queue.put(j)
	select {
	case j.tx = <-j.turn:
	case err := <-j.done: // it could not begin
		return err
	case <-ctx.Done():
		if j.state.CompareAndSwap(waiting, gone) {
			return context.Cause(ctx)
		}
		select {
		case j.tx = <-j.turn:
		case err := <-j.done:
			return err
		}
	case <-d.ended: // put after the writer's last look
		if j.state.CompareAndSwap(waiting, gone) {
			return errClosed
		}
		select {
		case j.tx = <-j.turn:
		case err := <-j.done:
			return err
		}
	}
	j.call(f)
	return <-j.done
}

// Panicked is the error of a transaction or a handler that panicked.
type Panicked struct {
	Value any
	Stack []byte
}

func (p *Panicked) Error() string { return fmt.Sprintf("panic: %v", p.Value) }

var errExit = errors.New("the goroutine of the transaction ended")

// call runs f. Whatever becomes of the goroutine, the writer hears of it.
func (j *job) call(f func(*Tx) error) {
	err := errExit // unless f returns or panics: runtime.Goexit
	defer func() {
		if p := recover(); p != nil {
			err = &Panicked{p, debug.Stack()}
		}
		j.tx.end()
		j.ran <- err
	}()
	err = f(j.tx)
}

// write is the writer: it takes what waits, gives each its turn, commits once
// and tells all of them.
func (d *DB) write(c *conn) {
	defer func() {
		c.end()
		close(d.ended)
	}()
	for {
		if j := d.queue.next(); j != nil {
			d.batch(c, j)
			continue
		}
		select {
		case <-d.closed:
			return
		case <-d.queue.bell:
		}
	}
}

// batch runs j and what waits behind it in one commit.
func (d *DB) batch(c *conn, j *job) {
	if err := c.do("BEGIN IMMEDIATE"); err != nil {
		_ = c.do("ROLLBACK") // in case that one could not be ended
		j.done <- explain(err)
		return
	}
	start := time.Now()
	var kept []*job
	for n := 0; j != nil; j = d.queue.next() {
		broken, err := d.turn(c, j, len(kept) > 0)
		switch {
		case broken: // with it went all that had been done before
			for _, k := range append(kept, j) {
				k.done <- explain(err)
			}
			_ = c.do("ROLLBACK") // most often it is rolled back already
			return
		case err != nil:
			j.done <- explain(err)
			if len(kept) == 0 { // it was alone in the transaction and took it along
				return
			}
		default:
			kept = append(kept, j)
		}
		if n++; n >= batchJobs || time.Since(start) > batchTime {
			break
		}
	}
	err := c.do("COMMIT")
	if err != nil {
		_ = c.do("ROLLBACK")
		err = fmt.Errorf("commit: %w", explain(err))
	}
	for _, k := range kept {
		if err == nil {
			d.watch.signal(k.tx.topics)
		}
		k.done <- err
	}
}

// turn lets one job work. The first of a batch needs no savepoint: if it fails
// the transaction is empty again. broken says that SQLite has given up the whole
// transaction (a full disk).
func (d *DB) turn(c *conn, j *job, others bool) (broken bool, err error) {
	if others {
		if err := c.do("SAVEPOINT job"); err != nil {
			return true, err
		}
	}
	t := newTx(context.Background(), c, true)
	j.turn <- t
	err = <-j.ran
	switch {
	case err == nil && others:
		if e := c.do("RELEASE job"); e != nil {
			return true, e
		}
	case err != nil && others:
		if e := c.do("ROLLBACK TO job"); e != nil {
			return true, err
		}
		if e := c.do("RELEASE job"); e != nil {
			return true, err
		}
	case err != nil:
		_ = c.do("ROLLBACK")
	}
	return false, err
}
