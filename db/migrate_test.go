package db

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/errdefs"
)

const (
	second = `ALTER TABLE notes ADD COLUMN size INTEGER NOT NULL DEFAULT 0;`
	third  = `CREATE TABLE more (id INTEGER PRIMARY KEY); INSERT INTO more (id) SELECT id + slay() FROM notes; DROP TABLE pages;`
)

// play opens the store that DB_TEST_FILE names with the newest schema, or, as
// "writer", writes to it for ever and says what it wrote.
func play(r string) int {
	if r == "writer" {
		return writeForEver()
	}
	d, err := open(context.Background(), os.Getenv("DB_TEST_FILE"), schema(second, third))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	_ = d.Close()
	return 0
}

func writeForEver() int {
	d, err := open(context.Background(), os.Getenv("DB_TEST_FILE"), schema())
	if err != nil {
		return 1
	}
	for i := range 8 {
		go func() {
			for k := 0; ; k++ {
				text := fmt.Sprint(i, "-", k)
				if d.Write(context.Background(), func(tx *Tx) error {
					_, err := tx.Exec(`INSERT INTO notes (text) VALUES (?), (?)`, text, text+"b")
					return err
				}) == nil {
					_, _ = os.Stdout.WriteString(text + "\n") // one write, whole
				}
			}
		}()
	}
	select {}
}

// What Write returned for is there after a kill, and no transaction is half
// there.
func TestKilledWriter(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "x.db")
	told := map[string]bool{}
	for round := range 5 {
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env = append(os.Environ(), role+"=writer", "DB_TEST_FILE="+file)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		in := bufio.NewScanner(out)
		n := 0
		for in.Scan() {
			told[in.Text()] = true
			if n++; n == 200+37*round {
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		_ = cmd.Wait()
		d, err := open(t.Context(), file, schema())
		if err != nil {
			t.Fatal(err)
		}
		for text := range told {
			if n := count(t, d, `SELECT COUNT(*) FROM notes WHERE text IN (?, ?)`, text, text+"b"); n != 2 {
				t.Errorf("%d rows of %s", n, text)
			}
		}
		if n := count(t, d, `SELECT COUNT(*) % 2 FROM notes`); n != 0 {
			t.Error("half a transaction")
		}
		if err := d.Check(t.Context()); err != nil {
			t.Error(err)
		}
		write(t, d, `DELETE FROM notes`)
		clear(told)
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestKilledMigration(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ role, at string }{
		{"slain", ""},
		{"plain", "db: a migration is applied"},
		{"plain", "db: a migration is applied#2"},
		{"plain", "db: the new schema is written"},
		{"plain", "db: the new schema is in place"},
	} {
		t.Run(c.role+" "+c.at, func(t *testing.T) {
			t.Parallel()
			file := filepath.Join(t.TempDir(), "x.db")
			d, err := open(t.Context(), file, schema())
			if err != nil {
				t.Fatal(err)
			}
			write(t, d, `INSERT INTO notes (text) VALUES ('kept')`)
			if err := d.Close(); err != nil {
				t.Fatal(err)
			}
			cmd := exec.CommandContext(t.Context(), os.Args[0])
			cmd.Env = append(os.Environ(), role+"="+c.role, "DB_TEST_FILE="+file, "SLIPWAY_CRASH="+c.at)
			out, _ := cmd.CombinedOutput()
			if s, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || s.Signal() != syscall.SIGKILL {
				t.Fatalf("%v: %s", cmd.ProcessState, out)
			}
			// The old version still works with the old schema, or refuses the new.
			old, err := open(t.Context(), file, schema())
			if done := strings.HasSuffix(c.at, "in place"); done != (err != nil) {
				t.Fatal(err)
			}
			if err == nil {
				if n := count(t, old, `SELECT COUNT(*) FROM pragma_table_info('notes')`); n != 2 {
					t.Errorf("%d columns", n)
				}
				write(t, old, `INSERT INTO notes (text) VALUES ('kept too')`)
				if err := old.Close(); err != nil {
					t.Error(err)
				}
			} else if !errdefs.IsFailedPrecondition(err) {
				t.Error(err)
			}
			d, err = open(t.Context(), file, schema(second, third))
			if err != nil {
				t.Fatal(err)
			}
			if n := count(t, d, `SELECT COUNT(*) FROM notes WHERE text = 'kept' AND size = 0`); n != 1 {
				t.Errorf("%d rows", n)
			}
			if err := d.Close(); err != nil {
				t.Error(err)
			}
			if l, _ := filepath.Glob(file + "?*"); len(l) > 0 {
				t.Error(l)
			}
		})
	}
}

// A log that a killed server left is part of the store that is migrated.
func TestMigrationAfterAKill(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	d, err := open(t.Context(), filepath.Join(dir, "x.db"), schema())
	if err != nil {
		t.Fatal(err)
	}
	write(t, d, `INSERT INTO notes (text) VALUES ('in the log')`)
	left := filepath.Join(t.TempDir(), "x.db")
	for _, s := range []string{"", "-wal"} { // as a kill leaves them
		b, err := os.ReadFile(d.file + s)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(left+s, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	d, err = open(t.Context(), left, schema(second))
	if err != nil {
		t.Fatal(err)
	}
	if n := count(t, d, `SELECT COUNT(*) FROM notes WHERE size = 0`); n != 1 {
		t.Errorf("%d rows", n)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
}

func TestFailedMigrationLeavesTheOldStore(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "x.db")
	d, err := open(t.Context(), file, schema())
	if err != nil {
		t.Fatal(err)
	}
	write(t, d, `INSERT INTO notes (text) VALUES ('a'), ('b')`)
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, broken := range []string{
		`CREATE TABLE notes (id INTEGER);`,
		`INSERT INTO pages (note) VALUES (77);`, // refers to nothing
		`nonsense;`,
	} {
		if _, err := open(t.Context(), file, schema(second, broken)); err == nil {
			t.Errorf("%s: no error", broken)
		}
		after, err := os.ReadFile(file)
		if err != nil || !bytes.Equal(before, after) {
			t.Errorf("%s: the store was changed (%v)", broken, err)
		}
	}
	if l, _ := filepath.Glob(file + "?*"); len(l) > 0 {
		t.Error(l)
	}
}

func TestNewerSchemaIsRefusedUntouched(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "x.db")
	d, err := open(t.Context(), file, schema(second, third))
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	_, err = open(t.Context(), file, schema(second))
	if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "newer version (schema 3)") || strings.Contains(err.Error(), "\n") {
		t.Error(err)
	}
	after, err := os.ReadFile(file)
	if err != nil || !bytes.Equal(before, after) {
		t.Errorf("the store was changed (%v)", err)
	}
	if l, _ := filepath.Glob(file + "?*"); len(l) > 0 {
		t.Error(l)
	}
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	put := func(name string, b []byte) string {
		f := filepath.Join(dir, name)
		if err := os.WriteFile(f, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return f
	}
	good, err := open(t.Context(), filepath.Join(dir, "good"), schema())
	if err != nil {
		t.Fatal(err)
	}
	write(t, good, `INSERT INTO notes (text) VALUES ('x')`)
	if err := good.Close(); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(good.file)
	if err != nil {
		t.Fatal(err)
	}
	torn := bytes.Clone(whole)
	copy(torn[100:], bytes.Repeat([]byte{0xee}, 4096))
	for name, c := range map[string]struct {
		file string
		is   func(error) bool
		says string
	}{
		"text":      {put("text", []byte("hello, this is not a database")), errdefs.IsDataLoss, "not a database"},
		"short":     {put("short", []byte("SQLite")), errdefs.IsDataLoss, "not a database"},
		"cut":       {put("cut", whole[:4096]), errdefs.IsDataLoss, "damaged"},
		"torn":      {put("torn", torn), errdefs.IsDataLoss, "damaged"},
		"folder":    {dir, func(error) bool { return true }, "is a directory"},
		"no folder": {filepath.Join(dir, "missing", "x.db"), func(error) bool { return true }, "no such file"},
		"in a file": {filepath.Join(dir, "text", "x.db"), func(error) bool { return true }, "not a directory"},
	} {
		d, err := Open(t.Context(), c.file)
		if err == nil {
			_ = d.Close()
			t.Errorf("%s: no error", name)
			continue
		}
		if !c.is(err) || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "\n") || !strings.Contains(err.Error(), c.file) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestOddFileNames(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"a b", "a?b=c", "50%", "a#b", "ü", "x%41", ":memory:"} {
		file := filepath.Join(t.TempDir(), name)
		for range 2 {
			d, err := open(t.Context(), file, schema())
			if err != nil {
				t.Fatal(name, err)
			}
			if err := d.Close(); err != nil {
				t.Error(err)
			}
		}
		if s, err := os.Stat(file); err != nil || s.Mode().Perm() != 0o600 {
			t.Error(name, err)
		}
	}
}

// small mounts a small file system.
func small(t *testing.T, size string) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// fill leaves no room on a disk.
func fill(t *testing.T, file string) {
	t.Helper()
	f, err := os.Create(file)
	for err == nil {
		_, err = f.Write(make([]byte, 4096))
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	_ = f.Close()
}

// On a disk that another has filled the store can be written for a while.
func TestLogRoom(t *testing.T) {
	dir := small(t, "32m")
	file := filepath.Join(dir, "x.db")
	for _, again := range []bool{false, true} {
		d, err := open(t.Context(), file, schema())
		if err != nil {
			t.Fatal(again, err)
		}
		fill(t, filepath.Join(dir, "fill"))
		for n := range 200 { // each writes two pages or more
			write(t, d, `INSERT INTO notes (text) VALUES (?)`, n)
		}
		write(t, d, `DELETE FROM notes`)
		if err := os.Remove(filepath.Join(dir, "fill")); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(d.Check(t.Context()), d.Close()); err != nil {
			t.Error(again, err)
		}
	}
}

// A full disk: a small file system of its own, filled.
func TestDiskFull(t *testing.T) {
	dir := small(t, "1m")
	d, err := open(t.Context(), filepath.Join(dir, "x.db"), schema())
	if err != nil {
		t.Fatal(err)
	}
	big := strings.Repeat("x", 100_000)
	n := 0
	for ; n < 100 && err == nil; n++ {
		err = d.Write(t.Context(), func(tx *Tx) error {
			_, err := tx.Exec(`INSERT INTO notes (text) VALUES (?)`, fmt.Sprint(n, big))
			return err
		})
	}
	if !errdefs.IsResourceExhausted(err) || !strings.Contains(err.Error(), "no space left") || strings.Contains(err.Error(), "\n") {
		t.Error(err)
	}
	if got := count(t, d, `SELECT COUNT(*) FROM notes`); got != n-1 {
		t.Errorf("%d rows of %d", got, n-1)
	}
	if err := syscall.Mount("", dir, "", syscall.MS_REMOUNT, "size=4m"); err != nil {
		t.Fatal(err)
	}
	write(t, d, `INSERT INTO notes (text) VALUES ('room again')`)
	if err := d.Check(t.Context()); err != nil {
		t.Error(err)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	// Not even a new store fits: it says so and leaves nothing.
	fill(t, filepath.Join(dir, "fill"))
	if _, err := open(t.Context(), filepath.Join(dir, "new.db"), schema()); !errdefs.IsResourceExhausted(err) {
		t.Error(err)
	}
	if l, _ := filepath.Glob(filepath.Join(dir, "new*")); len(l) > 0 {
		t.Error(l)
	}
}

// The migrations that are shipped.
func TestMigrations(t *testing.T) {
	t.Parallel()
	d, err := Open(t.Context(), filepath.Join(t.TempDir(), "x.db"))
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Check(t.Context()); err != nil {
		t.Error(err)
	}
	if n := count(t, d, `SELECT COUNT(*) FROM sqlite_schema WHERE sql LIKE '%DEFERR%'`); n > 0 {
		t.Error("a deferred constraint fails the commit of others")
	}
	// Each work table has its columns and its index.
	if n := count(t, d, `SELECT COUNT(*) FROM sqlite_schema s WHERE type = 'table' AND sql LIKE '%lease_fence%' AND (
		(SELECT COUNT(*) FROM pragma_table_info(s.name) WHERE name IN ('id', 'due_at', 'due_seq', 'lease_owner', 'lease_until', 'lease_fence')) <> 6
		OR NOT EXISTS (SELECT 1 FROM pragma_index_list(s.name) l, pragma_index_info(l.name) i WHERE i.seqno = 0 AND i.name = 'due_at'))`); n > 0 {
		t.Errorf("%d work tables without the columns of work, or without an index on due_at", n)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
}
