package pipeline

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/containerd/errdefs"

	"slipway/crash"
	"slipway/db"
	"slipway/plainfile"
	"slipway/source"
)

// prepare brings the pipeline's file system to the commit of the execution; say
// gets the lines that open the log of the first action.
func (h *handling) prepare(ctx context.Context, say func(string)) error {
	x := &h.x
	if x.Commit != nil && x.Commit.CommitDate.IsZero() { // started by a push, or by who could not wait for it
		c, err := h.p.sources.Commit(ctx, x.Project, x.Commit.Revision)
		if err != nil {
			return fmt.Errorf("find commit %s of project %s: %w", x.Commit.Revision, h.project.Name, err)
		}
		x.Commit = c
	}
	volume := x.Pipeline.Volume()
	// A retry goes on with what the actions before it have made.
	goesOn := slices.ContainsFunc(x.Steps, func(s ActionExecution) bool { return s.Status == Successful })
	cleared := false // but for some files
	switch {
	case goesOn:
	case x.Refresh || x.Frozen.FromScratch:
		say("Starting with an empty file system")
		if err := h.removeFiles(ctx, volume); err != nil {
			return fmt.Errorf("empty the file system of the pipeline: %w", err)
		}
	case x.ClearCache || x.Frozen.ClearCache:
		var err error
		if cleared, err = h.clearFiles(ctx, volume); err != nil {
			return fmt.Errorf("empty the file system of the pipeline: %w", err)
		}
		if say("Starting with an empty file system"); cleared {
			say("Files that were put there are kept")
		}
	}
	if err := h.eng.Volumes().Ensure(ctx, volume, x.Pipeline.Owner()); err != nil {
		return fmt.Errorf("make the file system of the pipeline: %w", err)
	}
	dir, err := h.dirs.Dir(ctx, volume)
	if err != nil {
		return fmt.Errorf("open the file system of the pipeline: %w", err)
	}
	if x.Commit != nil {
		fresh, err := isEmpty(dir)
		if err != nil {
			return fmt.Errorf("open the file system of the pipeline: %w", err)
		}
		spec := source.CheckoutSpec{
			Revision: x.Commit.Revision, Branch: x.Branch, Depth: x.Frozen.CloneDepth, AllRefs: x.Frozen.FetchAllRefs,
			Dir: dir, Key: volume, Fresh: fresh || cleared, Out: say,
		}
		if spec.AllRefs {
			spec.Depth = 0
		}
		err = h.p.sources.Checkout(ctx, x.Project, spec)
		if err != nil {
			return fmt.Errorf("check out commit %s of project %s: %w", x.Commit.Revision, h.project.Name, err)
		}
	}
	return nil
}

// prepared writes down that the file system is ready, and the lines about it
// are in the log: a second look at the same run leaves both alone, containers
// may be using them.
func (h *handling) prepared(ctx context.Context) error {
	err := h.p.db.Write(ctx, func(tx *db.Tx) error {
		if err := tx.Check(h.lease); err != nil {
			return err
		}
		var text []byte
		if err := tx.QueryRow(`SELECT input FROM executions WHERE id = ?`, h.x.ID).Scan(&text); err != nil {
			return err
		}
		var in input
		if err := json.Unmarshal(text, &in); err != nil {
			return err
		}
		in.Commit = toCommitRow(h.x.Commit)
		text, err := json.Marshal(in)
		if err != nil {
			return err
		}
		_, err = tx.Exec(`UPDATE executions SET prepared = 1, input = ? WHERE id = ?`, text, h.x.ID)
		return err
	})
	if err != nil {
		return err
	}
	h.x.prepared = true
	crash.At("pipeline: file system prepared")
	return nil
}

func isEmpty(dir string) (bool, error) {
	f, err := os.Open(dir)
	if err != nil {
		return false, err
	}
	defer f.Close()
	_, err = f.Readdirnames(1)
	if errors.Is(err, io.EOF) {
		return true, nil
	}
	return false, err
}

// maxSecret bounds a build secret that is a file.
const maxSecret = 1 << 20

// secretFile reads a file below the file system of the pipeline; no link of it
// leads out.
func (h *handling) secretFile(ctx context.Context, path string) ([]byte, error) {
	dir, err := h.dirs.Dir(ctx, h.x.Pipeline.Volume())
	if err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	f, err := plainfile.Open(root, path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
	if err == nil && len(b) > maxSecret {
		err = fmt.Errorf("%s is larger than %d bytes: %w", path, maxSecret, errdefs.ErrInvalidArgument)
	}
	return b, err
}

// lines writes lines of ours into a step's log before its container does, a
// few at a time so that a long checkout is seen while it goes on.
type lines struct {
	h       *handling
	dir     string
	pending []string
	flushed time.Time
	err     error
}

func (l *lines) say(s string) {
	l.pending = append(l.pending, s)
	if time.Since(l.flushed) > 500*time.Millisecond {
		l.flush()
	}
}

func (l *lines) flush() {
	if len(l.pending) > 0 && l.err == nil {
		l.err = l.h.p.logs.Append(l.dir, nil, l.pending...)
	}
	l.pending, l.flushed = nil, time.Now()
}
