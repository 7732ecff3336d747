package event

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"go.uber.org/goleak"

	"slipway/access"
	"slipway/db"
)

func TestMain(m *testing.M) {
	if child(os.Args) {
		return
	}
	goleak.VerifyTestMain(m)
}

func store(t testing.TB) *db.DB {
	t.Helper()
	d, err := db.Open(t.Context(), filepath.Join(t.TempDir(), "x.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

func put(t testing.TB, d *db.DB, k Kind, workspace, subject string) {
	t.Helper()
	err := d.Write(context.Background(), func(tx *db.Tx) error {
		return Write(tx, Event{Kind: k, Workspace: workspace, Subject: subject}, map[string]string{"of": subject})
	})
	if err != nil {
		t.Fatal(err)
	}
}

func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	end := time.Now().Add(20 * time.Second)
	for !ok() {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

func cursor(t testing.TB, d *db.DB, name string) (at int64) {
	t.Helper()
	if err := d.Read(context.Background(), func(tx *db.Tx) (err error) { at, err = position(tx, name); return err }); err != nil {
		t.Fatal(err)
	}
	return at
}

// follow runs Follow until the test ends or stop is called.
func follow(t *testing.T, d *db.DB, name string, kinds []Kind, f func(*db.Tx, Event) error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancelCause(context.Background())
	enough := errors.New("enough")
	done := make(chan error, 1)
	go func() { done <- New(d).Follow(ctx, name, kinds, f) }()
	var once atomic.Bool
	stop = func() {
		if once.Swap(true) {
			return
		}
		cancel(enough)
		if err := <-done; !errors.Is(err, enough) {
			t.Error(err)
		}
	}
	t.Cleanup(stop)
	return stop
}

func TestWriteAndAfter(t *testing.T) {
	t.Parallel()
	d := store(t)
	put(t, d, Pushed, "w", "a")
	if err := d.Write(t.Context(), func(tx *db.Tx) error {
		if err := Write(tx, Event{Kind: Pushed}, nil); err != nil {
			return err
		}
		return errors.New("rolled back")
	}); err == nil {
		t.Error("no error")
	}
	if err := d.Write(t.Context(), func(tx *db.Tx) error { return Write(tx, Event{Kind: Pushed}, make(chan int)) }); err == nil {
		t.Error("a channel is no data")
	}
	put(t, d, StackChanged, "w", "b")
	l, err := New(d).After(t.Context(), 0, 10)
	if err != nil || len(l) != 2 || l[0].Subject != "a" || l[1].Kind != StackChanged || l[1].Seq <= l[0].Seq || string(l[0].Data) != `{"of":"a"}` || l[0].At.IsZero() {
		t.Error(l, err)
	}
	if l, err := New(d).After(t.Context(), l[0].Seq, 10); err != nil || len(l) != 1 {
		t.Error(l, err)
	}
	if l, err := New(d).After(t.Context(), 0, 1); err != nil || len(l) != 1 {
		t.Error(l, err)
	}
}

// Each event once and in order, over restarts of the follower.
func TestFollow(t *testing.T) {
	t.Parallel()
	d := store(t)
	const n = 1200 // more than a page
	err := d.Write(t.Context(), func(tx *db.Tx) error {
		if _, err := tx.Exec(`CREATE TABLE seen (n INTEGER PRIMARY KEY, subject TEXT)`); err != nil {
			return err
		}
		for i := range n {
			k := Pushed
			if i%3 == 0 {
				k = StackChanged
			}
			if err := Write(tx, Event{Kind: k, Subject: fmt.Sprint(i)}, nil); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	var calls atomic.Int64
	see := func(tx *db.Tx, e Event) error {
		calls.Add(1)
		_, err := tx.Exec(`INSERT INTO seen (subject) VALUES (?)`, e.Subject)
		return err
	}
	for k := range int64(4) {
		stop := follow(t, d, "c", []Kind{Pushed}, see)
		until(t, "some were seen", func() bool { return calls.Load() > k*200 })
		stop()
	}
	follow(t, d, "c", []Kind{Pushed}, see)
	put(t, d, Pushed, "", "last")
	until(t, "all were seen", func() bool { return calls.Load() >= n-n/3+1 })
	until(t, "the cursor is at the end", func() bool { return cursor(t, d, "c") == n+1 })
	var got []string
	err = d.Read(t.Context(), func(tx *db.Tx) error {
		rows, err := tx.Query(`SELECT subject FROM seen ORDER BY n`)
		if err != nil {
			return err
		}
		for rows.Next() {
			var s string
			if err := rows.Scan(&s); err != nil {
				return err
			}
			got = append(got, s)
		}
		return rows.Err()
	})
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for i := range n {
		if i%3 != 0 {
			want = append(want, fmt.Sprint(i))
		}
	}
	if want = append(want, "last"); !slices.Equal(got, want) {
		t.Errorf("%d seen, %d wanted", len(got), len(want))
	}
}

func TestFollowTriesAgain(t *testing.T) {
	t.Parallel()
	d := store(t)
	var tries atomic.Int64
	var order []string
	follow(t, d, "c", nil, func(tx *db.Tx, e Event) error {
		switch tries.Add(1) {
		case 1:
			return errors.New("not now")
		case 2:
			panic("nor now")
		}
		order = append(order, e.Subject)
		return nil
	})
	put(t, d, Pushed, "", "a")
	put(t, d, StackChanged, "", "b")
	until(t, "both were handled", func() bool { return cursor(t, d, "c") == 2 })
	if !slices.Equal(order, []string{"a", "b"}) || tries.Load() != 4 {
		t.Error(order, tries.Load())
	}
}

// Two that use one cursor share the work, and none is done twice.
func TestTwoFollowers(t *testing.T) {
	t.Parallel()
	d := store(t)
	var calls atomic.Int64
	for range 2 {
		follow(t, d, "c", nil, func(*db.Tx, Event) error { calls.Add(1); return nil })
	}
	for i := range 100 {
		put(t, d, Pushed, "", fmt.Sprint(i))
	}
	until(t, "all were handled", func() bool { return cursor(t, d, "c") == 100 })
	if n := calls.Load(); n < 100 {
		t.Errorf("%d calls", n)
	}
}

// A cursor does not hold up pruning because of events that it does not want.
func TestCursorMovesOverOthers(t *testing.T) {
	t.Parallel()
	d := store(t)
	follow(t, d, "c", []Kind{Pushed}, func(*db.Tx, Event) error { t.Error("called"); return nil })
	for range lag + 10 {
		put(t, d, StackChanged, "", "x")
	}
	until(t, "the cursor moved", func() bool { return cursor(t, d, "c") > 0 })
}

func TestPrune(t *testing.T) {
	t.Parallel()
	d := store(t)
	o := New(d)
	for i := range 10 {
		put(t, d, Pushed, "", fmt.Sprint(i))
	}
	left := func() int {
		t.Helper()
		l, err := o.After(t.Context(), 0, 100)
		if err != nil {
			t.Fatal(err)
		}
		return len(l)
	}
	prune := func(keep time.Duration) {
		t.Helper()
		if err := o.Prune(t.Context(), keep); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Write(t.Context(), func(tx *db.Tx) error { _, err := move(tx, "slow", 0, 4); return err }); err != nil {
		t.Fatal(err)
	}
	prune(time.Hour)
	if n := left(); n != 10 {
		t.Errorf("%d are left", n)
	}
	prune(-time.Second)
	if n := left(); n != 6 {
		t.Errorf("%d are left", n)
	}
	if err := o.Forget(t.Context(), "slow"); err != nil {
		t.Fatal(err)
	}
	prune(-time.Second)
	if n := left(); n != 0 {
		t.Errorf("%d are left", n)
	}
	put(t, d, Pushed, "", "next")
	if l, err := o.After(t.Context(), 10, 10); err != nil || len(l) != 1 {
		t.Error("a number was used again", l, err)
	}
}

func TestTail(t *testing.T) {
	t.Parallel()
	d := store(t)
	a := access.New(d)
	s, err := a.Bootstrap(t.Context(), "admin", func(tx *db.Tx, u access.User) error { return access.AddMember(tx, "mine", u.ID, access.Owner) }, nil)
	if err != nil {
		t.Fatal(err)
	}
	admin, err := a.Authenticate(t.Context(), s, "")
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		put(t, d, Pushed, "mine", fmt.Sprint(i))
		put(t, d, Pushed, "another's", "no")
		put(t, d, StackChanged, "mine", "stack")
	}
	got := make(chan Event, 100)
	tail := func(by access.Actor, after int64, f Filter) (stop func() error) {
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- New(d).Tail(ctx, by, after, f, func(e Event) error { got <- e; return nil }) }()
		return func() error { cancel(); return <-done }
	}
	want := func(subjects ...string) {
		t.Helper()
		for _, s := range subjects {
			select {
			case e := <-got:
				if e.Subject != s {
					t.Errorf("%s instead of %s", e.Subject, s)
				}
			case <-time.After(10 * time.Second):
				t.Fatalf("no %s", s)
			}
		}
	}
	stop := tail(admin, 0, Filter{Kinds: []Kind{Pushed}})
	want("0", "1", "2")
	put(t, d, Pushed, "another's", "no")
	put(t, d, Pushed, "mine", "live")
	want("live")
	if err := stop(); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	stop = tail(admin, 4, Filter{Workspace: "mine"})
	want("stack", "2", "stack", "live")
	_ = stop()
	stop = tail(access.System(access.User{}), -1, Filter{Subject: "new"})
	until(t, "it hears", func() bool { put(t, d, Pushed, "", "new"); return len(got) > 0 })
	_ = stop()
	for len(got) > 0 {
		if e := <-got; e.Subject != "new" {
			t.Error(e)
		}
	}
	// What was not for it is not looked at again, even if it were for it now.
	stop = tail(admin, 0, Filter{Subject: "mark"})
	put(t, d, Pushed, "mine", "mark")
	want("mark")
	put(t, d, Pushed, "mine", "other")
	var passed int64
	until(t, "it has passed the other", func() bool {
		put(t, d, Pushed, "mine", "more")
		if err := d.Write(t.Context(), func(tx *db.Tx) error {
			if err := tx.QueryRow(`SELECT MIN(seq) FROM events WHERE subject = 'other'`).Scan(&passed); err != nil {
				return err
			}
			_, err := tx.Exec(`UPDATE events SET subject = 'mark' WHERE seq = ?`, passed)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		put(t, d, Pushed, "mine", "mark")
		e := <-got
		if e.Seq != passed { // it did not look back
			return true
		}
		<-got // the one that was put last
		put(t, d, Pushed, "mine", "other")
		return false
	})
	_ = stop()
	if err := New(d).Tail(t.Context(), admin, 0, Filter{Workspace: "another's"}, nil); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
	if err := New(d).Tail(t.Context(), access.Actor{}, 0, Filter{}, nil); !errdefs.IsUnauthorized(err) {
		t.Error(err)
	}
	broken := errors.New("broken pipe")
	if err := New(d).Tail(t.Context(), admin, 0, Filter{}, func(Event) error { return broken }); !errors.Is(err, broken) {
		t.Error(err)
	}
}

func BenchmarkFollow(b *testing.B) {
	d := store(b)
	err := d.Write(b.Context(), func(tx *db.Tx) error {
		for range b.N {
			if err := Write(tx, Event{Kind: Pushed}, nil); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
	b.ResetTimer()
	for more := true; more; {
		if more, err = New(d).step(b.Context(), "c", nil, func(*db.Tx, Event) error { return nil }); err != nil {
			b.Fatal(err)
		}
	}
}
