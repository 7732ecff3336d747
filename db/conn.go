package db

import (
	"context"
	"database/sql"
)

// conn is a connection with the statements that were prepared on it. One
// transaction at a time uses it.
type conn struct {
	c     *sql.Conn
	stmts map[string]*sql.Stmt
}

// Statements that are put together for a call (lists of keys) are not kept
// beyond this many.
const keptStatements = 512

func newConn(ctx context.Context, pool *sql.DB) (*conn, error) {
	c, err := pool.Conn(ctx)
	if err != nil {
		return nil, err
	}
	return &conn{c, map[string]*sql.Stmt{}}, nil
}

// start connects a reader at its first use.
func (c *conn) start(pool *sql.DB) error {
	if c.c != nil {
		return nil
	}
	n, err := newConn(context.Background(), pool)
	if err == nil {
		*c = *n
	}
	return err
}

func (c *conn) end() {
	if c.c == nil {
		return
	}
	for _, s := range c.stmts {
		_ = s.Close()
	}
	_ = c.c.Close()
}

// prepare gives the statement of a query, or nil when it is not to be kept.
func (c *conn) prepare(query string) (*sql.Stmt, error) {
	if s := c.stmts[query]; s != nil {
		return s, nil
	}
	if len(c.stmts) >= keptStatements {
		return nil, nil
	}
	s, err := c.c.PrepareContext(context.Background(), query)
	if err != nil {
		return nil, err
	}
	c.stmts[query] = s
	return s, nil
}

func (c *conn) exec(query string, args []any) (sql.Result, error) {
	s, err := c.prepare(query)
	if err != nil {
		return nil, err
	}
	if s == nil {
		return c.c.ExecContext(context.Background(), query, args...)
	}
	return s.ExecContext(context.Background(), args...)
}

// do runs a statement without arguments and results.
func (c *conn) do(query string) error {
	_, err := c.exec(query, nil)
	return err
}
