// Package logs reads what was logged and keeps it for as long as it should be
// kept. A log is a directory of segments (logs/segment); the engines and their
// monitors write them, masked already.
package logs

import (
	"context"
	"time"

	"slipway/logs/segment"
)

// Logs is the store below one directory.
type Logs struct {
	dir string
}

// New makes the store.
func New(dir string) (*Logs, error) { return &Logs{dir: dir}, nil }

// Action is the directory of the log of one action of an execution.
func (l *Logs) Action(execution, action string) string { panic("unwritten") }

// Service is the directory of the log of a service.
func (l *Logs) Service(service string) string { panic("unwritten") }

// Line is one whole line.
type Line struct {
	N      int64 // number in the log, from 0
	Time   time.Time
	Stream byte // o, e or m
	Text   string
}

// Query selects lines. Zero values select all.
type Query struct {
	Offset int64 // of the first line
	Limit  int   // 0: no limit
	Tail   int   // the last lines; excludes Offset
	Since  time.Time
	Until  time.Time
}

// Read gives the lines of a log and how many there are in all. A log that is
// not there has none.
func (l *Logs) Read(ctx context.Context, dir string, q Query) (lines []Line, total int64, err error) {
	panic("unwritten")
}

// Follow calls f with the lines from offset on, as they come, until ctx ends
// or ended is closed and all is read. The lines of a call are those of one
// read; they may be kept.
func (l *Logs) Follow(ctx context.Context, dir string, offset int64, ended <-chan struct{}, f func([]Line) error) error {
	panic("unwritten")
}

// Append writes one line of ours, masked, to a log that nobody else writes at
// that moment. It is durable when it returns.
func (l *Logs) Append(dir string, mask *segment.Masker, lines ...string) error { panic("unwritten") }

// Remove drops logs: a whole execution, or a service.
func (l *Logs) Remove(dir string) error { panic("unwritten") }

// Run compresses closed segments and drops what is too old, until ctx ends.
func (l *Logs) Run(ctx context.Context, keep time.Duration) error { panic("unwritten") }
