// Package db opens the store and knows nothing of what is in it but the columns
// of work.
//
// Writes go through one writer that puts waiting transactions into one commit
// (group commit): when Write returns, what it wrote is on disk. Reads have
// connections of their own and see the last commit.
//
// Times are kept as INTEGER microseconds since 1970, UTC (Micros, Time).
// Statements keep to the SQL that SQLite and PostgreSQL share. Constraints are
// checked by each statement: a DEFERRED one would fail the commit that others
// share, so there is none.
//
// # Work
//
// A row of a work table is in one of three states:
//
//	          Due                claim
//	asleep ---------> due_at ---------------> leased --+
//	  ^     (due_at    passed   (lease_owner,          | the handler returns
//	  |      NULL)               fence + 1)            |
//	  +------------------------------------------------+
//	     due_at = when it asked to be called again, or at once
//	     if due_seq moved while it worked
//
// While a row is leased its due_at is lease_until: one index on due_at finds
// what is due and what a dead process has left behind. A work table needs that
// index and nothing more:
//
//	CREATE INDEX <table>_due ON <table>(due_at) WHERE due_at IS NOT NULL;
//
// # Errors
//
// A broken UNIQUE or PRIMARY KEY is errdefs.ErrAlreadyExists, another broken
// constraint ErrRefused, a full disk errdefs.ErrResourceExhausted, a locked store
// errdefs.ErrUnavailable, a damaged one errdefs.ErrDataLoss.
package db
