package db

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
)

func TestWriteAndRead(t *testing.T) {
	t.Parallel()
	d := store(t)
	var id int64
	err := d.Write(t.Context(), func(tx *Tx) (err error) {
		if tx.Now.Location() != time.UTC || tx.Now.Nanosecond()%1000 != 0 {
			t.Errorf("now is %v", tx.Now)
		}
		id, err = tx.Insert(`INSERT INTO notes (text) VALUES (?)`, "a")
		return err
	})
	if err != nil || id != 1 {
		t.Fatal(id, err)
	}
	err = d.Write(t.Context(), func(tx *Tx) error {
		n, err := tx.Exec(`UPDATE notes SET text = 'b'`)
		if n != 1 {
			t.Errorf("%d rows changed", n)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	err = d.Read(t.Context(), func(tx *Tx) error {
		var s string
		err := tx.QueryRow(`SELECT text FROM notes WHERE id = ?`, 7).Scan(&s)
		err = NotFound(err, "note %d", 7)
		if !errdefs.IsNotFound(err) || err.Error() != "note 7: not found" {
			t.Error(err)
		}
		if other := errors.New("x"); !errors.Is(NotFound(other, "note"), other) {
			t.Error("another error was changed")
		}
		if _, err := tx.Exec(`DELETE FROM notes`); err == nil {
			t.Error("a reader wrote")
		}
		return tx.QueryRow(`SELECT text FROM notes WHERE id = ?`, id).Scan(&s)
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestFailedWriteLeavesNothing(t *testing.T) {
	t.Parallel()
	d := store(t)
	boom := errors.New("boom")
	insert := func(tx *Tx) {
		if _, err := tx.Exec(`INSERT INTO notes (text) VALUES ('x')`); err != nil {
			t.Error(err)
		}
	}
	if err := d.Write(t.Context(), func(tx *Tx) error { insert(tx); return boom }); !errors.Is(err, boom) {
		t.Error(err)
	}
	err := d.Write(t.Context(), func(tx *Tx) error { insert(tx); panic("ouch") })
	var p *Panicked
	if !errors.As(err, &p) || err.Error() != "panic: ouch" || !strings.Contains(string(p.Stack), "db_test.go") {
		t.Error(err)
	}
	// A test that gives up inside a transaction must not take the writer along.
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		_ = d.Write(context.Background(), func(tx *Tx) error { insert(tx); runtime.Goexit(); return nil })
	}()
	<-gone
	if n := count(t, d, `SELECT COUNT(*) FROM notes`); n != 0 {
		t.Errorf("%d rows are left", n)
	}
}

func TestErrorsHaveKinds(t *testing.T) {
	t.Parallel()
	d := store(t)
	write(t, d, `INSERT INTO notes (text) VALUES ('a')`)
	for query, is := range map[string]func(error) bool{
		`INSERT INTO notes (text) VALUES ('a')`:           errdefs.IsAlreadyExists,
		`INSERT INTO notes (id, text) VALUES (1, 'b')`:    errdefs.IsAlreadyExists,
		`INSERT INTO pages (note) VALUES (99)`:            func(err error) bool { return errors.Is(err, ErrRefused) },
		`INSERT INTO notes (text) VALUES ('bad')`:         func(err error) bool { return errors.Is(err, ErrRefused) },
		`INSERT INTO nowhere (text) VALUES ('something')`: func(err error) bool { return strings.Contains(err.Error(), "nowhere") },
	} {
		err := d.Write(t.Context(), func(tx *Tx) error { _, err := tx.Exec(query); return err })
		if err == nil || !is(err) {
			t.Errorf("%s: %v", query, err)
		}
	}
	// Also where the error comes out of Scan and was wrapped by the room.
	err := d.Write(t.Context(), func(tx *Tx) error {
		var id int
		err := tx.QueryRow(`INSERT INTO notes (text) VALUES ('a') RETURNING id`).Scan(&id)
		return fmt.Errorf("note a: %w", err)
	})
	if !errdefs.IsAlreadyExists(err) || !strings.HasPrefix(err.Error(), "note a: ") {
		t.Error(err)
	}
}

// Everybody who waits while the writer is busy is in the next commit, and who
// fails in it fails alone.
func TestGroupCommit(t *testing.T) {
	t.Parallel()
	d := store(t)
	busy, let := make(chan struct{}), make(chan struct{})
	var all sync.WaitGroup
	all.Go(func() {
		_ = d.Write(context.Background(), func(*Tx) error { close(busy); <-let; return nil })
	})
	<-busy
	const n = 60
	errs := make([]error, n)
	for i := range n {
		all.Go(func() {
			errs[i] = d.Write(context.Background(), func(tx *Tx) error {
				if _, err := tx.Exec(`INSERT INTO notes (text) VALUES (?)`, fmt.Sprint(i)); err != nil {
					return err
				}
				switch i % 4 {
				case 1:
					return errors.New("mine alone")
				case 2:
					panic("mine alone")
				case 3:
					_, err := tx.Exec(`INSERT INTO notes (text) VALUES ('bad')`)
					return err
				}
				return nil
			})
		})
	}
	waiting := func() int { d.queue.mu.Lock(); defer d.queue.mu.Unlock(); return len(d.queue.jobs) }
	until(t, "all wait", func() bool { return waiting() == n })
	close(let)
	all.Wait()
	for i, err := range errs {
		if (err == nil) != (i%4 == 0) {
			t.Errorf("%d: %v", i, err)
		}
	}
	if got := count(t, d, `SELECT COUNT(*) FROM notes`); got != n/4 {
		t.Errorf("%d rows", got)
	}
}

func TestContextOfAWaitingWriter(t *testing.T) {
	t.Parallel()
	d := store(t)
	busy, let := make(chan struct{}), make(chan struct{})
	ctx, cancel := context.WithCancelCause(t.Context())
	first := make(chan error, 1)
	go func() {
		first <- d.Write(ctx, func(tx *Tx) error {
			close(busy)
			<-let
			_, err := tx.Exec(`INSERT INTO notes (text) VALUES ('under way')`)
			return err
		})
	}()
	<-busy
	second := make(chan error, 1)
	go func() { second <- d.Write(ctx, func(*Tx) error { t.Error("ran"); return nil }) }()
	tired := errors.New("tired")
	cancel(tired)
	if err := <-second; !errors.Is(err, tired) {
		t.Error(err)
	}
	close(let)
	if err := <-first; err != nil {
		t.Errorf("the one under way: %v", err)
	}
	if err := d.Write(ctx, func(*Tx) error { t.Error("ran"); return nil }); !errors.Is(err, tired) {
		t.Error(err)
	}
	if err := d.Read(ctx, func(*Tx) error { t.Error("ran"); return nil }); !errors.Is(err, tired) {
		t.Error(err)
	}
	if n := count(t, d, `SELECT COUNT(*) FROM notes`); n != 1 {
		t.Errorf("%d rows", n)
	}
}

func TestReadIsASnapshot(t *testing.T) {
	t.Parallel()
	d := store(t)
	err := d.Read(t.Context(), func(tx *Tx) error {
		var a, b int
		if err := tx.QueryRow(`SELECT COUNT(*) FROM notes`).Scan(&a); err != nil {
			return err
		}
		write(t, d, `INSERT INTO notes (text) VALUES ('later')`)
		if err := tx.QueryRow(`SELECT COUNT(*) FROM notes`).Scan(&b); err != nil {
			return err
		}
		if a != 0 || b != 0 {
			t.Errorf("%d, then %d", a, b)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	// Inside a write a read sees the commit before.
	err = d.Write(t.Context(), func(tx *Tx) error {
		if _, err := tx.Exec(`DELETE FROM notes`); err != nil {
			return err
		}
		if n := count(t, d, `SELECT COUNT(*) FROM notes`); n != 1 {
			t.Errorf("%d rows seen", n)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// The same query inside itself, left open, or after its end.
func TestQueriesInsideQueries(t *testing.T) {
	t.Parallel()
	d := store(t)
	write(t, d, `INSERT INTO notes (text) VALUES ('a'), ('b'), ('c')`)
	const q = `SELECT id FROM notes WHERE id > ? ORDER BY id`
	walk := func(tx *Tx) error {
		n := 0
		outer, err := tx.Query(q, 0)
		if err != nil {
			return err
		}
		for outer.Next() {
			inner, err := tx.Query(q, 1)
			if err != nil {
				return err
			}
			for inner.Next() {
				n++
			}
			if err := inner.Close(); err != nil {
				return err
			}
			var id int
			if err := tx.QueryRow(q, 2).Scan(&id); err != nil || id != 3 {
				return fmt.Errorf("%d %w", id, err)
			}
		}
		if n != 6 {
			t.Errorf("%d rows", n)
		}
		_, err = tx.Query(q, 0) // left open
		return err
	}
	for range 3 {
		if err := d.Read(t.Context(), walk); err != nil {
			t.Fatal(err)
		}
		if err := d.Write(t.Context(), walk); err != nil {
			t.Fatal(err)
		}
	}
	var late *Tx
	if err := d.Read(t.Context(), func(tx *Tx) error { late = tx; return nil }); err != nil {
		t.Fatal(err)
	}
	if _, err := late.Exec(`SELECT 1`); !errors.Is(err, errOver) {
		t.Error(err)
	}
	if err := late.QueryRow(`SELECT 1`).Scan(new(int)); err == nil {
		t.Error("a transaction was used after its end")
	}
}

func TestManyReadersAndWriters(t *testing.T) {
	t.Parallel()
	d := store(t)
	var all sync.WaitGroup
	for i := range 16 {
		all.Go(func() {
			for k := range 40 {
				if err := d.Write(context.Background(), func(tx *Tx) error {
					_, err := tx.Exec(`INSERT INTO notes (text) VALUES (?)`, fmt.Sprint(i, "-", k))
					tx.Wake("notes")
					return err
				}); err != nil {
					t.Error(err)
				}
			}
		})
		all.Go(func() {
			last := 0
			for range 40 {
				n := count(t, d, `SELECT COUNT(*) FROM notes`)
				if n < last {
					t.Errorf("%d after %d", n, last)
				}
				last = n
			}
		})
	}
	all.Wait()
	if n := count(t, d, `SELECT COUNT(*) FROM notes`); n != 640 {
		t.Errorf("%d rows", n)
	}
}

func TestWatch(t *testing.T) {
	t.Parallel()
	d := store(t)
	c, stop := d.Watch("topic")
	wake := func(err error) {
		_ = d.Write(t.Context(), func(tx *Tx) error { tx.Wake("topic"); tx.Wake("topic"); tx.Wake("other"); return err })
	}
	signalled := func() bool {
		select {
		case <-c:
			return true
		default:
			return false
		}
	}
	wake(errors.New("rolled back"))
	if signalled() {
		t.Error("signalled by what did not happen")
	}
	wake(nil)
	wake(nil)
	if !signalled() || signalled() {
		t.Error("not signalled once")
	}
	stop()
	wake(nil)
	if signalled() {
		t.Error("signalled after stop")
	}
}

func TestClose(t *testing.T) {
	t.Parallel()
	d, err := open(t.Context(), filepath.Join(t.TempDir(), "x.db"), schema())
	if err != nil {
		t.Fatal(err)
	}
	busy, let := make(chan struct{}), make(chan struct{})
	under := make(chan error, 2)
	go func() { under <- d.Write(context.Background(), func(*Tx) error { close(busy); <-let; return nil }) }()
	reading := make(chan struct{})
	go func() {
		under <- d.Read(context.Background(), func(tx *Tx) error {
			close(reading)
			<-let
			return tx.QueryRow(`SELECT COUNT(*) FROM notes`).Scan(new(int))
		})
	}()
	<-busy
	<-reading
	closed := make(chan error, 1)
	go func() { closed <- d.Close() }()
	<-d.closed
	close(let)
	for range 2 {
		if err := <-under; err != nil {
			t.Error(err)
		}
	}
	if err := <-closed; err != nil {
		t.Error(err)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	if err := d.Write(t.Context(), func(*Tx) error { return nil }); !errdefs.IsUnavailable(err) {
		t.Error(err)
	}
	if err := d.Read(t.Context(), func(*Tx) error { return nil }); !errdefs.IsUnavailable(err) {
		t.Error(err)
	}
	if err := d.Check(t.Context()); !errdefs.IsUnavailable(err) {
		t.Error(err)
	}
}

func TestBackupAndCheck(t *testing.T) {
	t.Parallel()
	d := store(t)
	write(t, d, `INSERT INTO notes (text) VALUES ('kept')`)
	if err := d.Check(t.Context()); err != nil {
		t.Error(err)
	}
	file := filepath.Join(t.TempDir(), "a copy?.db")
	if err := d.Backup(t.Context(), file); err != nil {
		t.Fatal(err)
	}
	if s, err := os.Stat(file); err != nil || s.Mode().Perm() != 0o600 {
		t.Error(s.Mode(), err)
	}
	if err := d.Backup(t.Context(), file); !errdefs.IsAlreadyExists(err) {
		t.Error(err)
	}
	if l, _ := filepath.Glob(file + ".*"); len(l) > 0 {
		t.Error(l)
	}
	if err := d.Backup(t.Context(), filepath.Join(file, "in a file")); err == nil {
		t.Error("no error")
	}
	b, err := open(t.Context(), file, schema())
	if err != nil {
		t.Fatal(err)
	}
	if n := count(t, b, `SELECT COUNT(*) FROM notes`); n != 1 {
		t.Errorf("%d rows", n)
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}

	pool, err := sql.Open("sqlite", dsn(d.file)) // foreign keys are off here
	if err != nil {
		t.Fatal(err)
	}
	if _, err := pool.Exec(`INSERT INTO pages (note) VALUES (99)`); err != nil {
		t.Fatal(err)
	}
	if err := pool.Close(); err != nil {
		t.Error(err)
	}
	if err := d.Check(t.Context()); !errdefs.IsDataLoss(err) || !strings.Contains(err.Error(), "pages") {
		t.Error(err)
	}
}

func TestTimes(t *testing.T) {
	t.Parallel()
	if Micros(time.Time{}) != nil || !Time(sql.NullInt64{}).IsZero() {
		t.Error("the zero time is not NULL")
	}
	at := time.Date(2026, 2, 3, 4, 5, 6, 789_012_000, time.UTC)
	if got := Time(sql.NullInt64{Int64: Micros(at).(int64), Valid: true}); !got.Equal(at) || got.Location() != time.UTC {
		t.Error(got)
	}
}

func BenchmarkWrite(b *testing.B) {
	for _, writers := range []int{1, 8, 64} {
		b.Run(fmt.Sprint(writers), func(b *testing.B) {
			d := store(b)
			var next sync.Mutex
			n := 0
			take := func() int {
				next.Lock()
				defer next.Unlock()
				if n++; n > b.N {
					return 0
				}
				return n
			}
			var all sync.WaitGroup
			b.ResetTimer()
			for range writers {
				all.Go(func() {
					for i := take(); i > 0; i = take() {
						if err := d.Write(context.Background(), func(tx *Tx) error {
							_, err := tx.Exec(`INSERT INTO notes (text) VALUES (?)`, fmt.Sprint(i))
							return err
						}); err != nil {
							b.Error(err)
						}
					}
				})
			}
			all.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "writes/s")
		})
	}
}

func BenchmarkRead(b *testing.B) {
	d := store(b)
	write(b, d, `INSERT INTO notes (text) VALUES ('a')`)
	for b.Loop() {
		count(b, d, `SELECT id FROM notes WHERE text = ?`, "a")
	}
}

func BenchmarkOpen(b *testing.B) {
	dir := b.TempDir()
	i := 0
	for b.Loop() {
		i++
		d, err := Open(b.Context(), filepath.Join(dir, fmt.Sprint(i)))
		if err != nil {
			b.Fatal(err)
		}
		if err := d.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
