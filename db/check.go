package db

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
)

// aside gives a connection for what takes long: it ends when ctx does and is in
// nobody's way.
func (d *DB) aside() (*sql.DB, error) {
	select {
	case <-d.closed:
		return nil, errClosed
	default:
		return sql.Open("sqlite", dsn(d.file, "temp_store(MEMORY)"))
	}
}

// Backup writes a copy of the store as of now to file, which must not be there
// yet (errdefs.ErrAlreadyExists). When it returns the copy is complete and on
// disk; before, there is none. Writers do not wait for it.
func (d *DB) Backup(ctx context.Context, file string) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("backup to %s: %w", file, explain(err))
		}
	}()
	if _, err := os.Lstat(file); err == nil {
		return errdefs.ErrAlreadyExists
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	next := file + ".new"
	if err := start("", next, false); err != nil { // 0600, and VACUUM takes an empty file
		return err
	}
	defer func() {
		if err != nil {
			_ = remove(next)
		}
	}()
	pool, err := d.aside()
	if err != nil {
		return err
	}
	defer pool.Close()
	if _, err := pool.ExecContext(ctx, `VACUUM INTO ?`, next); err != nil {
		return err
	}
	f, err := os.OpenFile(next, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return err
	}
	// Link, unlike Rename, does not replace what came meanwhile.
	if err := os.Link(next, file); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return errdefs.ErrAlreadyExists
		}
		return err
	}
	return errors.Join(os.Remove(next), syncDir(filepath.Dir(file)))
}

// Check reads the whole store and fails with errdefs.ErrDataLoss and what it
// found, at most ten things, if something is wrong in it.
func (d *DB) Check(ctx context.Context) error {
	pool, err := d.aside()
	if err != nil {
		return err
	}
	defer pool.Close()
	var found []error
	note := func(query string) error {
		rows, err := pool.QueryContext(ctx, query)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var s string
			if err := rows.Scan(&s); err != nil {
				return err
			}
			if s != "ok" {
				found = append(found, errors.New(s))
			}
		}
		return rows.Err()
	}
	if err := note(`PRAGMA integrity_check(10)`); err != nil {
		return fmt.Errorf("database check: %w", explain(err))
	}
	if err := note(`SELECT 'row ' || COALESCE(rowid, '?') || ' of ' || "table" || ' refers to a missing row of ' || parent
		FROM pragma_foreign_key_check LIMIT 10`); err != nil {
		return fmt.Errorf("database check: %w", explain(err))
	}
	if len(found) > 0 {
		return fmt.Errorf("database check: %w: %w", errdefs.ErrDataLoss, errors.Join(found...))
	}
	return nil
}
