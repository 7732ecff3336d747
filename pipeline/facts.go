package pipeline

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"slipway/access"
	"slipway/db"
	"slipway/source"
)

// itself stands for the pipeline among the steps whose conditions are judged.
const itself = -1

// unjudged tells whether an execution may only come into the queue if the
// conditions of its pipeline are met: those of one that somebody starts by hand
// are not asked.
func (x Execution) unjudged() bool {
	return x.Mode != Manual && !x.local() && x.Verdict == nil && conditional(x.Frozen.Conditions)
}

// judge judges the conditions of steps, or of the pipeline itself.
func (h *handling) judge(ctx context.Context, steps []int) map[int]Verdict {
	changed := sync.OnceValues(func() (difference, error) { return h.difference(ctx) })
	all := map[int]Verdict{}
	for _, i := range steps {
		s := ActionExecution{Action: Action{Conditions: h.x.Frozen.Conditions}}
		if i != itself {
			s = h.x.Steps[i]
		}
		f, err := h.facts(ctx, s, changed)
		if err != nil {
			all[i] = Verdict{At: f.Now, Error: h.masked(fmt.Sprintf("the trigger conditions could not be judged: %v", err))}
			continue
		}
		all[i] = Judge(s.Action.Conditions, f)
	}
	return all
}

// facts gathers what the conditions of a step ask for.
func (h *handling) facts(ctx context.Context, s ActionExecution, changed func() (difference, error)) (Facts, error) {
	f := Facts{Now: time.Now().UTC(), Source: h.x.Commit != nil, Latest: map[string]Status{}, Groups: map[string]bool{}}
	asks := func(kinds ...string) bool {
		return slices.ContainsFunc(s.Action.Conditions, func(c Condition) bool { return slices.Contains(kinds, c.Kind) })
	}
	if f.Source && asks(onChange, onChangeAt) {
		c, err := changed()
		if err != nil {
			return f, err
		}
		f.Base, f.Changed = c.base, c.files.Paths()
	}
	if asks(varIs, varIsNot, varHas, varHasNot) {
		v, err := h.values(ctx, s)
		if err != nil {
			return f, err
		}
		f.Variables, f.Secret, h.mask = v.byKey, v.secret, v.mask
	}
	if asks(userIs, userIsNot) && h.x.By != 0 {
		u, err := h.p.access.User(ctx, h.x.By)
		if err != nil && !errdefs.IsNotFound(err) {
			return f, fmt.Errorf("find who started the execution: %w", err)
		}
		f.Email = u.Email
	}
	return f, h.p.db.Read(ctx, func(tx *db.Tx) error {
		for _, c := range s.Action.Conditions {
			switch c.Kind {
			case userIn, userNotIn:
				is, err := access.IsInGroup(tx, h.x.Workspace, h.x.By, c.Group)
				if err != nil {
					return err
				}
				f.Groups[c.Group] = is
			case afterSuccess:
				status, err := h.latest(tx, c)
				if err != nil && !errdefs.IsNotFound(err) && !errdefs.IsPermissionDenied(err) {
					return err
				}
				if err == nil {
					f.Latest[c.latestKey()] = status
				}
			}
		}
		return nil
	})
}

// latest is the status of the last execution of the pipeline that a condition
// names, in a project of the same workspace; without a project in the same one.
// One of another project is there only if who started the execution may see how
// it goes.
func (h *handling) latest(tx *db.Tx, c Condition) (Status, error) {
	var id ID
	err := tx.QueryRow(`SELECT p.id FROM pipelines p JOIN projects j ON j.id = p.project
		WHERE j.workspace = ? AND j.name = ? AND j.deleted IS NULL AND (p.name = ? OR p.identifier = ?) AND p.deleted IS NULL
		ORDER BY p.name = ? DESC, p.id LIMIT 1`, h.x.Workspace, cmp.Or(c.Project, h.project.Name), c.Pipeline, c.Pipeline, c.Pipeline).Scan(&id)
	if err != nil {
		return "", db.NotFound(err, "pipeline %s", c.Pipeline)
	}
	pl, err := loadPipeline(tx, id)
	if err != nil || pl.Project == h.x.Project {
		return pl.LastStatus, err
	}
	by, err := access.As(tx, h.x.By, access.ExecutionInfo)
	if err != nil {
		return "", err
	}
	return pl.LastStatus, errors.Join(by.MayIn(pl.Workspace, string(pl.Project), access.ExecutionInfo), permit(by, pl, access.ExecutionInfo))
}

// difference is which files of an execution's commit are not as they were.
type difference struct {
	base  string // the commit with which it is compared; "": all files are new
	files source.Changelog
}

// difference compares the commit with the one that the execution was started from,
// or else with that of the last successful execution, of the same branch or tag
// unless the pipeline's git_changeset_base says LATEST_RUN, or with PULL_REQUEST that at
// which the pull request has left its branch.
func (h *handling) difference(ctx context.Context) (c difference, err error) {
	x := h.x
	switch {
	case x.From != nil:
		c.base = x.From.Revision
	case !x.Refresh && x.sinceBase():
		if c.base, err = h.p.sources.MergeBase(ctx, x.Project, x.Base, x.Commit.Revision); err != nil {
			return c, fmt.Errorf("find where the pull request has left %s: %w", x.Base, err)
		}
	case !x.Refresh:
		if c.base, err = h.p.lastSuccess(ctx, x, x.Frozen.GitChangesetBase != latestRun && !x.local()); err != nil {
			return c, fmt.Errorf("find the last successful execution: %w", err)
		}
	}
	c.files, err = h.p.sources.Changes(ctx, x.Project, c.base, x.Commit.Revision)
	if c.base != "" && errdefs.IsNotFound(err) { // it is gone: nothing is known to be as it was
		c.base = ""
		c.files, err = h.p.sources.Changes(ctx, x.Project, "", x.Commit.Revision)
	}
	return c, err
}

// What git_changeset_base compares with. Without one conditions compare with the
// last successful execution of the same branch or tag, and what is told of changes
// with that of any.
const (
	latestRun   = "LATEST_RUN"
	matchingRef = "LATEST_RUN_MATCHING_REF"
	ofPull      = "PULL_REQUEST"
)

// sinceBase tells whether changes are those of a pull request: since it has left the
// branch that it goes to.
func (x Execution) sinceBase() bool {
	return x.Frozen.GitChangesetBase == ofPull && x.PullRequest != "" && x.Base != ""
}

// lastSuccess is the commit of the last successful execution before one, of the
// same branch, tag or pull request if sameRef; "" if there is none. Those of
// working trees do not count.
func (p *Pipelines) lastSuccess(ctx context.Context, x Execution, sameRef bool) (revision string, err error) {
	err = p.db.Read(ctx, func(tx *db.Tx) error {
		return tx.QueryRow(`SELECT revision FROM executions WHERE pipeline = ? AND status = 'SUCCESSFUL' AND number < ? AND rerun = 0 AND revision <> '' AND mode <> 'LOCAL'
			AND (? OR branch = ? AND coalesce(json_extract(input, '$.Start.Tag'), '') = ?
				AND coalesce(json_extract(input, '$.Start.PullRequest'), '') = ?)
			ORDER BY number DESC LIMIT 1`, x.Pipeline, x.like(), !sameRef, x.Branch, x.Tag, x.PullRequest).Scan(&revision)
	})
	if errors.Is(err, sql.ErrNoRows) {
		err = nil
	}
	return revision, err
}
