package db

import (
	"bytes"
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"github.com/pressly/goose/v3"

	"slipway/crash"
)

//go:embed migrations/*.sql
var embedded embed.FS

func migrations() fs.FS {
	f, err := fs.Sub(embedded, "migrations")
	if err != nil {
		panic(err) // the name above is wrong
	}
	return f
}

func open(ctx context.Context, file string, list fs.FS) (*DB, error) {
	if err := migrate(ctx, file, list); err != nil {
		return nil, err
	}
	return connect(ctx, file)
}

// migrate brings the store in file to the schema of list, or makes it.
func migrate(ctx context.Context, file string, list fs.FS) error {
	have, err := probe(file)
	if err != nil {
		return explain(err)
	}
	if have {
		todo, err := pending(ctx, file, list)
		if err != nil || !todo {
			return explain(err)
		}
		if err := settle(ctx, file); err != nil {
			return explain(err)
		}
	}
	next := file + ".new"
	if err := start(file, next, have); err != nil {
		return explain(err)
	}
	if err := apply(ctx, next, list); err != nil {
		_ = remove(next)
		return fmt.Errorf("migration: %w", explain(err))
	}
	if err := replace(next, file); err != nil {
		_ = remove(next)
		return explain(err)
	}
	crash.At("db: the new schema is in place")
	return nil
}

// probe tells whether there is a store, and fails if the file is something
// else or cannot be written.
func probe(file string) (bool, error) {
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	head := make([]byte, 16)
	n, err := io.ReadFull(f, head)
	if n == 0 && errors.Is(err, io.EOF) {
		return false, nil // an empty file is an empty store
	}
	if !bytes.Equal(head, []byte("SQLite format 3\x00")) {
		return false, &failure{notADatabase, errdefs.ErrDataLoss, errors.New("wrong header")}
	}
	return true, nil
}

// pending tells whether migrations are missing, and changes nothing.
func pending(ctx context.Context, file string, list fs.FS) (bool, error) {
	pool, err := sql.Open("sqlite", dsn(file, "query_only(1)"))
	if err != nil {
		return false, err
	}
	defer pool.Close()
	p, err := goose.NewProvider(goose.DialectSQLite3, pool, list, goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return false, err
	}
	known := map[int64]bool{0: true}
	for _, s := range p.ListSources() {
		known[s.Version] = true
	}
	rows, err := pool.QueryContext(ctx, `SELECT version_id FROM goose_db_version`)
	if err != nil {
		return false, fmt.Errorf("no schema of ours in it: %w", err)
	}
	defer rows.Close()
	seen := 0
	for rows.Next() {
		var v int64
		if err := rows.Scan(&v); err != nil {
			return false, err
		}
		if !known[v] {
			return false, fmt.Errorf("made by a newer version (schema %d): use that version, or restore a backup: %w",
				v, errdefs.ErrFailedPrecondition)
		}
		seen++
	}
	return seen < len(known), rows.Err()
}

// settle puts everything that was committed into the file itself.
func settle(ctx context.Context, file string) error {
	pool, err := sql.Open("sqlite", dsn(file, "synchronous(FULL)"))
	if err != nil {
		return err
	}
	_, err = pool.ExecContext(ctx, "PRAGMA wal_checkpoint(TRUNCATE)")
	if err := errors.Join(err, pool.Close()); err != nil {
		return err
	}
	// A log that outlived the last connection would be taken for the new store's.
	if s, err := os.Stat(file + "-wal"); err == nil && s.Size() > 0 {
		return fmt.Errorf("in use by another process: %w", errdefs.ErrUnavailable)
	}
	return nil
}

// start makes next a copy of file, or an empty file.
func start(file, next string, have bool) (err error) {
	if err := remove(next); err != nil {
		return err
	}
	f, err := os.OpenFile(next, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, f.Close())
		if err != nil {
			_ = os.Remove(next)
		}
	}()
	if !have {
		return nil
	}
	old, err := os.Open(file)
	if err != nil {
		return err
	}
	defer old.Close()
	_, err = io.Copy(f, old)
	return err
}

func remove(next string) error {
	for _, s := range []string{"", "-journal", "-wal", "-shm"} {
		if err := os.Remove(next + s); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// apply runs the migrations on a file that nobody else knows of. Nothing needs
// to be safe before the end, and foreign keys hold at the end only, so that a
// migration may rebuild a table.
func apply(ctx context.Context, next string, list fs.FS) (err error) {
	pool, err := sql.Open("sqlite", dsn(next, "journal_mode(DELETE)", "synchronous(OFF)", "foreign_keys(0)"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, pool.Close()) }()
	pool.SetMaxOpenConns(1)
	p, err := goose.NewProvider(goose.DialectSQLite3, pool, list, goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return err
	}
	for {
		if _, err := p.UpByOne(ctx); errors.Is(err, goose.ErrNoNextVersion) {
			break
		} else if err != nil {
			return err
		}
		crash.At("db: a migration is applied")
	}
	var table string
	var row sql.NullInt64
	err = pool.QueryRowContext(ctx, `SELECT "table", rowid FROM pragma_foreign_key_check LIMIT 1`).Scan(&table, &row)
	if !errors.Is(err, sql.ErrNoRows) {
		return errors.Join(err, fmt.Errorf("row %d of %s refers to nothing", row.Int64, table))
	}
	return nil
}

// replace puts next on the disk and in the place of file.
func replace(next, file string) error {
	f, err := os.OpenFile(next, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return err
	}
	crash.At("db: the new schema is written")
	if err := os.Rename(next, file); err != nil {
		return err
	}
	return syncDir(filepath.Dir(file))
}

func syncDir(name string) error {
	d, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
