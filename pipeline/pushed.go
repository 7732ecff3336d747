package pipeline

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"

	"slipway/crash"
	"slipway/db"
	"slipway/project"
	"slipway/source"
)

// A push may change a file that says when a pipeline starts, and such a file says
// whether the push starts the pipeline. It is read after the push, which waits for
// that in a row of its own: those of a project one after the other.

// Readers is the table that Read handles.
const Readers = "definition_readers"

// atOnce is how many files are read at the same time for one push, readers how many
// projects have some read.
const atOnce, readers = 4, 8

// reads tells whether what starts a pipeline is in a file that can be read.
func (p *Pipelines) reads(pl Pipeline) bool { return pl.outside() && p.cfg.Language.Read != nil }

// readFor has the files read that a push concerns, if there may be any; list are the
// pipelines of its project.
func (p *Pipelines) readFor(tx *db.Tx, pr project.ID, list []Pipeline, push source.Push) error {
	if p.cfg.Language.Read == nil {
		return nil
	}
	if !slices.ContainsFunc(list, p.reads) {
		var any bool
		if err := tx.QueryRow(`SELECT EXISTS (SELECT 1 FROM pipelines p WHERE p.workspace = (SELECT workspace FROM projects WHERE id = ?) AND `+elsewhereToo+`)`, pr).Scan(&any); err != nil || !any {
			return err
		}
	}
	return readLater(tx, pr, 0, asked{Push: push})
}

// elsewhereToo are pipelines p whose files may be in other projects, as the index has it.
const elsewhereToo = `p.deleted IS NULL
	AND (json_extract(CAST(p.spec AS TEXT), '$.GitConfigRef') = 'FIXED' OR json_extract(CAST(p.spec AS TEXT), '$.DefinitionSource') = 'REMOTE'
		OR json_extract(CAST(p.spec AS TEXT), '$.Said.Places[0]') IS NOT NULL)`

// readSoon has the file of a pipeline read that was made, or is in another place now.
func (p *Pipelines) readSoon(tx *db.Tx, pl Pipeline) error {
	if !p.reads(pl) {
		return nil
	}
	return readLater(tx, pl.Project, pl.ID, asked{})
}

func readLater(tx *db.Tx, pr project.ID, id ID, a asked) error {
	text, err := json.Marshal(a)
	if err != nil {
		return err
	}
	if _, err := tx.Exec(`INSERT INTO definition_reads (project, pipeline, push) VALUES (?, nullif(?, 0), ?)`, pr, id, string(text)); err != nil {
		return err
	}
	if _, err := tx.Exec(`INSERT INTO definition_readers (id) VALUES (?) ON CONFLICT (id) DO NOTHING`, pr); err != nil {
		return err
	}
	return tx.Due(Readers, string(pr), tx.Now)
}

// asked is a push for which files are to be read; it may be one to a pull request.
type asked struct {
	source.Push
	Pull *source.Pull `json:"pull,omitempty"`
}

// reading is a row that waits for files to be read.
type reading struct {
	id   int64
	of   ID // 0: all
	push source.Push
	pull *source.Pull
}

// met tells whether a pipeline asks for what there was.
func (r reading) met(by Pipeline) bool {
	if r.pull != nil {
		return by.wantsPull(*r.pull)
	}
	return by.wants(r.push)
}

// isPush tells whether there was a push; else a pipeline was made, or changed.
func (r reading) isPush() bool { return r.push.Ref != "" }

// commit is what a push is of; nil without one.
func (r reading) commit() *source.Commit {
	switch {
	case !r.isPush():
		return nil
	case none(r.push.New):
		return &source.Commit{Revision: r.push.Old}
	}
	return &source.Commit{Revision: r.push.New}
}

// Read reads the files that the next push to a project concerns, gives what they say
// to their pipelines, and starts those that it is to start.
func (p *Pipelines) Read(ctx context.Context, lease db.Lease) (again time.Time, err error) {
	pr := project.ID(lease.ID)
	var r reading
	var all []Pipeline
	err = p.db.Read(ctx, func(tx *db.Tx) error {
		if r, err = nextReading(tx, pr); err != nil {
			return err
		}
		all, err = p.concerned(tx, pr, r)
		return err
	})
	if errors.Is(err, sql.ErrNoRows) {
		return again, nil
	}
	if err != nil {
		return again, fmt.Errorf("definitions for project %s: %w", pr, err)
	}
	main := ""
	if r.isPush() {
		if main, err = p.sources.DefaultBranch(ctx, pr); err != nil && !errdefs.IsUnavailable(err) && !errdefs.IsFailedPrecondition(err) {
			return again, fmt.Errorf("definitions for project %s: %w", pr, err)
		}
	}
	found := make([]finding, len(all))
	g, late := errgroup.WithContext(ctx)
	g.SetLimit(atOnce)
	for i, pl := range all {
		g.Go(func() (err error) {
			if found[i], err = p.lookFor(late, pr, pl, r, main); err != nil {
				err = fmt.Errorf("definition of pipeline %d: %w", pl.ID, err)
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return again, err
	}
	var started []ExecutionID
	err = p.db.Write(ctx, func(tx *db.Tx) error {
		started, err = p.wasRead(tx, lease, pr, r, found)
		if err == nil {
			again, err = moreReadings(tx, pr)
		}
		return err
	})
	if errors.Is(err, errReadAgain) {
		return time.Now(), nil
	}
	if err != nil {
		return time.Time{}, fmt.Errorf("definitions for project %s: %w", pr, err)
	}
	for _, x := range started {
		slog.Info("execution started by a push", "room", "pipeline", "execution", string(x), "project", string(pr), "ref", r.push.Ref)
	}
	crash.At("pipeline: files were read for a push")
	return again, nil
}

func nextReading(tx *db.Tx, pr project.ID) (r reading, err error) {
	var text []byte
	err = tx.QueryRow(`SELECT id, coalesce(pipeline, 0), push FROM definition_reads WHERE project = ? ORDER BY id LIMIT 1`, pr).Scan(&r.id, &r.of, &text)
	if err != nil {
		return r, err
	}
	var a asked
	err = json.Unmarshal(text, &a)
	r.push, r.pull = a.Push, a.Pull
	return r, err
}

// moreReadings is when there is more to do; zero: not now.
func moreReadings(tx *db.Tx, pr project.ID) (again time.Time, err error) {
	var more bool
	err = tx.QueryRow(`SELECT EXISTS (SELECT 1 FROM definition_reads WHERE project = ?)`, pr).Scan(&more)
	if more {
		again = tx.Now
	}
	return again, err
}

// concerned are the pipelines with definitions in files whose files the reading may be
// about: those of the project, and those of its workspace that have one elsewhere.
func (p *Pipelines) concerned(tx *db.Tx, pr project.ID, r reading) (l []Pipeline, err error) {
	if r.of != 0 {
		pl, err := loadPipeline(tx, r.of)
		if err == nil {
			l = append(l, pl)
		}
		return l, ifThere(err)
	}
	if l, err = loadPipelines(tx, pr); err != nil {
		return nil, err
	}
	l = slices.DeleteFunc(l, func(pl Pipeline) bool { return !p.reads(pl) })
	ids, err := db.Column[ID](tx, `SELECT p.id FROM pipelines p WHERE p.workspace = (SELECT workspace FROM projects WHERE id = ?) AND p.project <> ? AND `+elsewhereToo+` ORDER BY p.id`, pr, pr)
	if err != nil {
		return nil, err
	}
	for _, id := range ids {
		pl, err := loadPipeline(tx, id)
		if err != nil {
			return nil, err
		}
		l = append(l, pl)
	}
	return l, nil
}

// finding is what a look at the file of a pipeline found.
type finding struct {
	pl  Pipeline // as it was then
	d   *defined // nil: it was not read, or is wrong
	bad error    // what is wrong with the file; nil if it was not read
}

// lookFor reads the file of a pipeline, if the push may have changed it or is what it
// is asked about. An error is one of ours.
func (p *Pipelines) lookFor(ctx context.Context, pr project.ID, pl Pipeline, r reading, main string) (finding, error) {
	l := finding{pl: pl}
	of := run{commit: r.commit(), by: r.push.User}
	asked := pl.Project == pr && r.isPush() && pl.GitConfigRef == dynamicFile // by its commit
	if r.isPush() && !asked && !p.mayFollow(ctx, pr, pl, r.push, main) {
		return l, nil
	}
	if r.pull != nil {
		of.pull = strings.TrimPrefix(r.pull.Ref, "refs/")
	}
	if !asked {
		of.pull = ""
		of.by = pl.CreatedBy
		var err error
		if of.commit, err = p.head(ctx, pl.Project, ""); err != nil && ctx.Err() != nil {
			return l, err
		}
	}
	d, err := p.defineWithin(ctx, askedPatience, pl, of)
	if _, ok := project.AsInvalid(err); err != nil && !ok {
		return l, err
	}
	l.d, l.bad = d, err
	return l, nil
}

// mayFollow tells whether a push may have changed the file of a pipeline.
func (p *Pipelines) mayFollow(ctx context.Context, pr project.ID, pl Pipeline, push source.Push, main string) bool {
	if pl.Said == nil && pl.Project == pr { // it was never read
		return true
	}
	if pl.Said != nil && slices.ContainsFunc(pl.Said.Places, func(l Place) bool { return l.at(pr, push.Ref, main) }) {
		return true
	}
	return slices.ContainsFunc(pl.placed(), func(o origin) bool {
		if !(Place{pr, o.ref}).at(pr, push.Ref, main) {
			return false
		}
		in, err := p.definitionProject(ctx, pl, pl.definer(), o.project)
		return err == nil && in == pr
	})
}

// errReadAgain tells that a pipeline is not any more what it was when its file was
// read.
var errReadAgain = errors.New("a definition is to be read once more")

// wasRead is what becomes of a reading, in its transaction.
func (p *Pipelines) wasRead(tx *db.Tx, lease db.Lease, pr project.ID, r reading, found []finding) (started []ExecutionID, err error) {
	if err := tx.Check(lease); err != nil {
		return nil, err
	}
	if _, err := tx.Exec(`DELETE FROM definition_reads WHERE id = ?`, r.id); err != nil {
		return nil, err
	}
	if _, err := project.Load(tx, pr); err != nil {
		return nil, ifThere(err)
	}
	for _, l := range found {
		now, err := loadPipeline(tx, l.pl.ID)
		if errdefs.IsNotFound(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		meets, err := p.take(tx, now, l)
		if err != nil {
			return nil, err
		}
		if now.Project != pr || !r.isPush() || meets.Disabled || !r.met(meets) && !l.failing(meets, r.push) {
			continue
		}
		x, err := p.startFor(tx, meets, r)
		if err != nil {
			return nil, err
		}
		started = append(started, x.ID)
	}
	return started, nil
}

// startFor starts a pipeline for what there was.
func (p *Pipelines) startFor(tx *db.Tx, pl Pipeline, r reading) (Execution, error) {
	if r.pull != nil {
		return p.startPull(tx, pl, *r.pull)
	}
	return p.startPush(tx, pl, r.push)
}

// take gives a pipeline of the store what its file says, if the file is the one for
// it, and tells how a push meets it.
func (p *Pipelines) take(tx *db.Tx, now Pipeline, l finding) (meets Pipeline, err error) {
	switch {
	case !now.outside(), l.d == nil:
		if l.bad != nil {
			slog.Warn("the definition of a pipeline cannot be read", "room", "pipeline", "pipeline", int64(now.ID), "error", l.bad)
		}
		return now, nil
	case !l.d.holds:
		return now.onBranch(l.d), nil
	case !l.d.fresh(now):
		return now, errReadAgain
	}
	n := now.said(l.d)
	return n, p.replace(tx, now, n)
}

// failing tells whether a run is to tell what is wrong with a file that is there:
// nobody knows whether it would have asked for one.
func (l finding) failing(pl Pipeline, push source.Push) bool {
	bad, ok := project.AsInvalid(l.bad)
	return ok && pl.On != "CLICK" && !none(push.New) && !slices.ContainsFunc(bad.Fields, func(f project.Field) bool {
		return f.Kind == "unavailable" || f.Kind == "unknown"
	})
}
