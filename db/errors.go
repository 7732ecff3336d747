package db

import (
	"errors"
	"os"
	"syscall"

	"github.com/containerd/errdefs"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// ErrRefused says that the schema does not take what a transaction writes (a
// constraint, a trigger, a size): it would not another time either. What is
// there already is errdefs.ErrAlreadyExists instead.
var ErrRefused = errors.New("refused by the schema")

// failure is an error of SQLite with its kind and a text for people.
type failure struct {
	text string // "" leaves that of the cause
	kind error
	err  error
}

func (f *failure) Error() string {
	if f.text != "" {
		return f.text
	}
	return f.err.Error()
}

func (f *failure) Unwrap() []error { return []error{f.kind, f.err} }

// explain gives an error of SQLite its kind; others stay as they are. What was
// wrapped around it stays in the text, unless the text would only confuse.
func explain(err error) error {
	if err == nil {
		return nil
	}
	var done *failure
	if errors.As(err, &done) {
		return err
	}
	if errors.Is(err, syscall.ENOSPC) {
		return &failure{full, errdefs.ErrResourceExhausted, err}
	}
	if errors.Is(err, os.ErrPermission) || errors.Is(err, syscall.EROFS) {
		return &failure{"", errdefs.ErrUnavailable, err}
	}
	var e *sqlite.Error
	if !errors.As(err, &e) {
		return err
	}
	switch e.Code() {
	case sqlite3.SQLITE_CONSTRAINT_UNIQUE, sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY, sqlite3.SQLITE_CONSTRAINT_ROWID:
		return &failure{"", errdefs.ErrAlreadyExists, err}
	case sqlite3.SQLITE_IOERR_SHMSIZE:
		return &failure{full, errdefs.ErrResourceExhausted, err}
	}
	switch e.Code() & 0xff {
	case sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_MISMATCH:
		return &failure{"", ErrRefused, err}
	case sqlite3.SQLITE_FULL:
		return &failure{full, errdefs.ErrResourceExhausted, err}
	case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED:
		return &failure{"locked by another process", errdefs.ErrUnavailable, err}
	case sqlite3.SQLITE_CORRUPT:
		return &failure{"damaged: run slipway doctor --deep, or restore a backup", errdefs.ErrDataLoss, err}
	case sqlite3.SQLITE_NOTADB:
		return &failure{notADatabase, errdefs.ErrDataLoss, err}
	case sqlite3.SQLITE_READONLY:
		return &failure{"not writable: its file or folder is read-only", errdefs.ErrUnavailable, err}
	case sqlite3.SQLITE_CANTOPEN:
		return &failure{"cannot be opened: is its folder there and writable?", errdefs.ErrUnavailable, err}
	}
	return err
}

const (
	full         = "no space left on the disk of the database: make room and try again"
	notADatabase = "not a database of ours: move the file away, or restore a backup"
)
