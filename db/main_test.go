package db

import (
	"context"
	"database/sql/driver"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"testing/fstest"
	"time"

	"go.uber.org/goleak"
	"modernc.org/sqlite"
)

// Roles of the test binary when it runs itself, to be killed.
const role = "DB_TEST_ROLE"

func TestMain(m *testing.M) {
	// slay() in a migration is a kill -9 in the middle of it.
	sqlite.MustRegisterScalarFunction("slay", 0, func(*sqlite.FunctionContext, []driver.Value) (driver.Value, error) {
		if os.Getenv(role) == "slain" {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
		return int64(1), nil
	})
	if r := os.Getenv(role); r != "" {
		os.Exit(play(r))
	}
	goleak.VerifyTestMain(m)
}

const tables = `-- +goose Up
CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE, CHECK (text <> 'bad'));
CREATE TABLE pages (note INTEGER NOT NULL REFERENCES notes(id));
CREATE TABLE jobs (
  id TEXT PRIMARY KEY, due_at INTEGER, due_seq INTEGER NOT NULL DEFAULT 0,
  lease_owner TEXT, lease_until INTEGER, lease_fence INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX jobs_due ON jobs(due_at) WHERE due_at IS NOT NULL;
`

func schema(more ...string) fstest.MapFS {
	m := fstest.MapFS{"001_first.sql": {Data: []byte(tables)}}
	for i, s := range more {
		m["00"+string(rune('2'+i))+"_more.sql"] = &fstest.MapFile{Data: []byte("-- +goose Up\n" + s + "\n")}
	}
	return m
}

func store(t testing.TB) *DB {
	t.Helper()
	d, err := open(t.Context(), filepath.Join(t.TempDir(), "test.db"), schema())
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

func write(t testing.TB, d *DB, query string, args ...any) {
	t.Helper()
	if err := d.Write(t.Context(), func(tx *Tx) error { _, err := tx.Exec(query, args...); return err }); err != nil {
		t.Fatal(err)
	}
}

func count(t testing.TB, d *DB, query string, args ...any) (n int) {
	t.Helper()
	if err := d.Read(context.Background(), func(tx *Tx) error { return tx.QueryRow(query, args...).Scan(&n) }); err != nil {
		t.Fatal(err)
	}
	return n
}

// until waits for what must become true.
func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	end := time.Now().Add(20 * time.Second)
	for !ok() {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}
