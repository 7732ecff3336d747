package db

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// work runs the loop until the test stops it.
func work(t *testing.T, d *DB, w Work) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancelCause(context.Background())
	done := make(chan error, 1)
	go func() { done <- d.Work(ctx, w) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel(errors.New("stopped"))
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
	t.Cleanup(stop)
	return stop
}

func due(t testing.TB, d *DB, id string, at time.Time) {
	t.Helper()
	if err := d.Write(context.Background(), func(tx *Tx) error { return tx.Due("jobs", id, at) }); err != nil {
		t.Fatal(err)
	}
}

func TestWork(t *testing.T) {
	t.Parallel()
	d := store(t)
	for i := range 30 {
		write(t, d, `INSERT INTO jobs (id, due_at) VALUES (?, ?)`, fmt.Sprint(i), time.Now().UnixMicro())
	}
	var seen sync.Map
	var most, now atomic.Int64
	work(t, d, Work{Table: "jobs", Owner: "me", N: 4, Handle: func(ctx context.Context, l Lease) (time.Time, error) {
		if n := now.Add(1); n > most.Load() {
			most.Store(n)
		}
		defer now.Add(-1)
		if _, twice := seen.LoadOrStore(l.ID, true); twice {
			t.Errorf("%s was handled twice", l.ID)
		}
		return time.Time{}, d.Write(ctx, func(tx *Tx) error { return tx.Check(l) })
	}})
	until(t, "all are asleep", func() bool {
		return count(t, d, `SELECT COUNT(*) FROM jobs WHERE due_at IS NULL AND lease_owner IS NULL`) == 30
	})
	if n := most.Load(); n > 4 {
		t.Errorf("%d at the same time", n)
	}
}

// A row that is made due is handled at once, one that is due later then.
func TestDue(t *testing.T) {
	t.Parallel()
	d := store(t)
	write(t, d, `INSERT INTO jobs (id) VALUES ('a')`)
	ran := make(chan time.Time, 10)
	again := time.Time{}
	work(t, d, Work{Table: "jobs", Owner: "me", N: 1, Handle: func(context.Context, Lease) (time.Time, error) {
		ran <- time.Now()
		return again, nil
	}})
	start := time.Now()
	due(t, d, "a", start)
	if took := (<-ran).Sub(start); took > 500*time.Millisecond {
		t.Errorf("a wake took %v", took)
	}
	until(t, "asleep", func() bool { return count(t, d, `SELECT COUNT(*) FROM jobs WHERE due_at IS NULL`) == 1 })
	at := time.Now().Add(300 * time.Millisecond)
	due(t, d, "a", at.Add(time.Hour))
	due(t, d, "a", at) // the earlier wins
	due(t, d, "a", at.Add(time.Minute))
	if got := <-ran; got.Before(at.Truncate(time.Microsecond)) || got.After(at.Add(2*time.Second)) {
		t.Errorf("ran %v after its time", got.Sub(at))
	}
	if err := d.Write(t.Context(), func(tx *Tx) error { return tx.Due("jobs", "unknown", at) }); err != nil {
		t.Error(err)
	}
	if err := d.Write(t.Context(), func(tx *Tx) error { return tx.Due("jobs", "a", time.Time{}) }); err == nil {
		t.Error("the zero time was taken")
	}
}

// What is made due while it is handled is looked at again, whatever the handler
// says.
func TestDueWhileHandled(t *testing.T) {
	t.Parallel()
	d := store(t)
	write(t, d, `INSERT INTO jobs (id, due_at) VALUES ('a', 1)`)
	var runs atomic.Int64
	work(t, d, Work{Table: "jobs", Owner: "me", N: 2, Handle: func(context.Context, Lease) (time.Time, error) {
		if runs.Add(1) == 1 {
			due(t, d, "a", time.Now().Add(time.Hour))
		}
		return time.Time{}, nil
	}})
	until(t, "asleep after two runs", func() bool {
		return runs.Load() == 2 && count(t, d, `SELECT COUNT(*) FROM jobs WHERE due_at IS NULL`) == 1
	})
}

func TestAgain(t *testing.T) {
	t.Parallel()
	d := store(t)
	write(t, d, `INSERT INTO jobs (id, due_at) VALUES ('a', 1)`)
	ran := make(chan struct{}, 100)
	work(t, d, Work{Table: "jobs", Owner: "me", N: 1, Handle: func(context.Context, Lease) (time.Time, error) {
		ran <- struct{}{}
		return time.Now().Add(10 * time.Millisecond), nil
	}})
	for range 5 {
		<-ran
	}
}

func TestHandlerErrors(t *testing.T) {
	t.Parallel()
	d := store(t)
	write(t, d, `INSERT INTO jobs (id, due_at) VALUES ('fails', 1), ('panics', 1), ('works', 1)`)
	var mu sync.Mutex
	runs := map[string][]time.Time{}
	work(t, d, Work{Table: "jobs", Owner: "me", N: 3, Handle: func(_ context.Context, l Lease) (time.Time, error) {
		mu.Lock()
		runs[l.ID] = append(runs[l.ID], time.Now())
		mu.Unlock()
		switch l.ID {
		case "fails":
			return time.Now(), errors.New("no")
		case "panics":
			panic("no")
		}
		return time.Time{}, nil
	}})
	times := func(id string) []time.Time { mu.Lock(); defer mu.Unlock(); return runs[id] }
	until(t, "two tries each", func() bool { return len(times("fails")) == 2 && len(times("panics")) == 2 })
	for _, id := range []string{"fails", "panics"} {
		if r := times(id); r[1].Sub(r[0]) < time.Second {
			t.Errorf("%s again after %v", id, r[1].Sub(r[0]))
		}
		until(t, "asleep", func() bool {
			return count(t, d, `SELECT COUNT(*) FROM jobs WHERE id = ? AND lease_owner IS NULL`, id) == 1
		})
		at := count(t, d, `SELECT due_at FROM jobs WHERE id = ?`, id)
		if p := time.UnixMicro(int64(at)).Sub(times(id)[1]); p < 1500*time.Millisecond || p > 4*time.Second {
			t.Errorf("%s: the second pause is %v", id, p)
		}
	}
	if n := len(times("works")); n != 1 {
		t.Errorf("%d runs", n)
	}
}

// The rows of a dead process of our name are ours at once, those of another
// when its lease is over.
func TestTakingOver(t *testing.T) {
	t.Parallel()
	d := store(t)
	later := time.Now().Add(time.Hour).UnixMicro()
	soon := time.Now().Add(1500 * time.Millisecond).UnixMicro()
	write(t, d, `INSERT INTO jobs (id, due_at, lease_owner, lease_until, lease_fence) VALUES
		('mine', ?, 'me', ?, 7), ('lapsed', 1, 'other', 1, 3), ('lapses', ?, 'other', ?, 3), ('held', ?, 'other', ?, 3)`,
		later, later, soon, soon, later, later)
	ran := make(chan Lease, 10)
	start := time.Now()
	work(t, d, Work{Table: "jobs", Owner: "me", N: 4, Handle: func(_ context.Context, l Lease) (time.Time, error) {
		ran <- l
		return time.Time{}, nil
	}})
	got := map[string]int64{}
	for range 2 {
		l := <-ran
		got[l.ID] = l.Fence
	}
	if took := time.Since(start); took > time.Second {
		t.Errorf("took %v", took)
	}
	if l := <-ran; l.ID != "lapses" || time.Now().UnixMicro() < soon {
		t.Error(l)
	}
	if got["mine"] != 8 || got["lapsed"] != 4 {
		t.Error(got)
	}
	if n := count(t, d, `SELECT COUNT(*) FROM jobs WHERE lease_owner = 'other'`); n != 1 {
		t.Errorf("%d rows held by the other", n)
	}
}

func TestLostLease(t *testing.T) {
	t.Parallel()
	d := store(t)
	write(t, d, `INSERT INTO jobs (id, due_at) VALUES ('a', 1), ('gone', 1)`)
	held := make(chan Lease, 2)
	cause := make(chan error, 2)
	work(t, d, Work{Table: "jobs", Owner: "me", N: 2, Handle: func(ctx context.Context, l Lease) (time.Time, error) {
		held <- l
		<-ctx.Done()
		cause <- context.Cause(ctx)
		return time.Time{}, d.Write(context.Background(), func(tx *Tx) error { return tx.Check(l) })
	}})
	l := <-held
	<-held
	write(t, d, `UPDATE jobs SET lease_owner = 'other', lease_fence = lease_fence + 1, lease_until = lease_until + 60000000, due_at = due_at + 60000000 WHERE id = 'a'`)
	write(t, d, `DELETE FROM jobs WHERE id = 'gone'`)
	for range 2 {
		if err := <-cause; !errors.Is(err, ErrLeaseLost) {
			t.Error(err)
		}
	}
	if err := d.Write(t.Context(), func(tx *Tx) error { return tx.Check(l) }); !errors.Is(err, ErrLeaseLost) {
		t.Error(err)
	}
	if n := count(t, d, `SELECT COUNT(*) FROM jobs WHERE lease_owner = 'other'`); n != 1 {
		t.Error("the other's lease was touched")
	}
}

// A lease is kept while the handler runs.
func TestHeartbeat(t *testing.T) {
	t.Parallel()
	d := store(t)
	write(t, d, `INSERT INTO jobs (id, due_at) VALUES ('a', 1)`)
	started := make(chan struct{}, 2)
	let := make(chan struct{})
	work(t, d, Work{Table: "jobs", Owner: "me", N: 2, Handle: func(context.Context, Lease) (time.Time, error) {
		started <- struct{}{}
		<-let
		return time.Time{}, nil
	}})
	<-started
	first := count(t, d, `SELECT lease_until FROM jobs`)
	until(t, "renewed", func() bool { return count(t, d, `SELECT lease_until FROM jobs`) > first })
	close(let)
}

// Writes were not possible for long, and then are: what we still hold is renewed
// before anything is claimed.
func TestHeldRowsAreNotClaimedAgain(t *testing.T) {
	t.Parallel()
	d := store(t)
	write(t, d, `INSERT INTO jobs (id, due_at) VALUES ('a', 1)`)
	started := make(chan struct{}, 2)
	l := &loop{db: d, Work: Work{Table: "jobs", Owner: "me", N: 2, Handle: func(ctx context.Context, _ Lease) (time.Time, error) {
		started <- struct{}{}
		<-ctx.Done()
		return time.Time{}, nil
	}}, running: map[string]*held{}, failed: map[string]time.Duration{}, ended: make(chan struct{}, 1)}
	ctx, cancel := context.WithCancel(t.Context())
	l.claim(ctx)
	<-started
	write(t, d, `UPDATE jobs SET lease_until = 1, due_at = 1`)
	l.beaten = time.Time{}
	if next := l.claim(ctx); time.Until(next) < leaseTime/2 || len(l.running) != 1 {
		t.Error(time.Until(next))
	}
	cancel()
	l.wait.Wait()
	if len(started) > 0 {
		t.Error("handled twice at a time")
	}
}

// When the loop is stopped it waits for the handlers, and what they did not
// finish is due for the next process.
func TestWorkStops(t *testing.T) {
	t.Parallel()
	d := store(t)
	write(t, d, `INSERT INTO jobs (id, due_at) VALUES ('a', 1), ('b', 2)`)
	started := make(chan struct{}, 2)
	stop := work(t, d, Work{Table: "jobs", Owner: "me", N: 1, Handle: func(ctx context.Context, _ Lease) (time.Time, error) {
		started <- struct{}{}
		<-ctx.Done()
		return time.Time{}, context.Cause(ctx)
	}})
	<-started
	stop()
	if n := count(t, d, `SELECT COUNT(*) FROM jobs WHERE lease_owner IS NULL AND due_at <= ?`, time.Now().UnixMicro()); n != 2 {
		t.Errorf("%d rows are due", n)
	}
	if len(started) > 0 {
		t.Error("one more was started")
	}
}

func TestWorkIncomplete(t *testing.T) {
	t.Parallel()
	if err := store(t).Work(t.Context(), Work{Table: "jobs"}); err == nil {
		t.Error("no error")
	}
	if err := store(t).Work(t.Context(), Work{Table: "nowhere", Owner: "me", N: 1, Handle: func(context.Context, Lease) (time.Time, error) {
		return time.Time{}, nil
	}}); err == nil {
		t.Error("no error")
	}
}

func BenchmarkWork(b *testing.B) {
	d := store(b)
	ctx, cancel := context.WithCancelCause(context.Background())
	left := make(chan struct{}, b.N)
	for i := range b.N {
		write(b, d, `INSERT INTO jobs (id, due_at) VALUES (?, 1)`, fmt.Sprint(i))
	}
	done := make(chan error, 1)
	b.ResetTimer()
	go func() {
		done <- d.Work(ctx, Work{Table: "jobs", Owner: "me", N: 8, Handle: func(context.Context, Lease) (time.Time, error) {
			left <- struct{}{}
			return time.Time{}, nil
		}})
	}()
	for range b.N {
		<-left
	}
	b.StopTimer()
	cancel(nil)
	if err := <-done; err != nil {
		b.Error(err)
	}
}
