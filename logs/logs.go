// Package logs reads what was logged and keeps it for as long as it should be
// kept. A log is a directory of segments (logs/segment); the engines and their
// monitors write them, masked already.
//
//	DIR/executions/EXECUTION/ACTION/000000.log.zst   closed, and compressed since
//	                                000001.log       closed
//	                                000002.log       written
//	DIR/services/SERVICE/...
package logs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"slipway/logs/segment"
)

// Logs is the store below one directory. It may be used from several
// goroutines.
type Logs struct {
	dir   string
	watch watcher
	bufs  sync.Pool // *[]byte of bufSize
	zst   sync.Pool // *zstd.Decoder

	mu    sync.Mutex
	marks map[string]marks // by directory
}

// New makes the store.
func New(dir string) (*Logs, error) {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, fmt.Errorf("logs: %w", err)
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("logs: %w", err)
	}
	return &Logs{dir: dir, marks: map[string]marks{}}, nil
}

// Execution is the directory of all logs of an execution.
func (l *Logs) Execution(execution string) string {
	return filepath.Join(l.dir, "executions", name(execution))
}

// Action is the directory of the log of one action of an execution.
func (l *Logs) Action(execution, action string) string {
	return filepath.Join(l.Execution(execution), name(action))
}

// Executions lists the ids of the executions that have logs.
func (l *Logs) Executions() []string {
	var ids []string
	for _, d := range subs(filepath.Join(l.dir, "executions")) {
		ids = append(ids, filepath.Base(d))
	}
	return ids
}

// Service is the directory of the log of a service.
func (l *Logs) Service(service string) string {
	return filepath.Join(l.dir, "services", name(service))
}

// name makes a file name of an id. Ids are of letters, digits and dashes; what
// is not is written so that it is one name, no other id has it, and it leads
// nowhere.
func name(id string) string {
	var b strings.Builder
	for i := range len(id) {
		c := id[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_', c == '.' && i > 0:
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "%%%02x", c)
		}
	}
	switch n := b.String(); {
	case n == "":
		return "%"
	case len(n) > 255:
		return n[:200] + fmt.Sprintf("%%%%%x", len(n)) // refused by the file system otherwise
	default:
		return n
	}
}

// Append writes lines of ours, masked, to a log. It is durable when it returns.
func (l *Logs) Append(dir string, mask *segment.Masker, lines ...string) error {
	w, err := segment.Open(dir, segment.Options{})
	if err != nil {
		return fmt.Errorf("log: %w", err)
	}
	for _, s := range lines {
		w.Line('m', mask.Line([]byte(s)))
	}
	err = w.Close()
	if w.Lost() > 0 {
		err = errors.Join(w.Err(), err)
	}
	if err != nil {
		return fmt.Errorf("log: %w", err)
	}
	return nil
}

// Remove drops logs: that of an action or a service, or all of an execution.
func (l *Logs) Remove(dir string) error {
	rel, err := filepath.Rel(l.dir, dir)
	if err != nil || !filepath.IsLocal(rel) || !strings.ContainsRune(rel, filepath.Separator) {
		return fmt.Errorf("remove logs: %s is not the directory of a log", dir)
	}
	l.mu.Lock()
	for d := range l.marks {
		if d == dir || strings.HasPrefix(d, dir+string(filepath.Separator)) {
			delete(l.marks, d)
		}
	}
	l.mu.Unlock()
	if err := os.RemoveAll(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove logs: %w", err)
	}
	return nil
}
