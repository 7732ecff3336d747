package pipeline

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"slipway/access"
	"slipway/db"
	"slipway/project"
)

// Search selects executions of several pipelines.
type Search struct {
	Workspace string     // UUID
	Project   project.ID // "": of all projects
	Dialect   string     // of pipelines that keep fields of this dialect; "": of all
	Offset    int
	Limit     int
}

// Version names an execution by the second it was made in: "v20150528.111327",
// and the second one that its project made in that second with "-2" at the end.
func (x Execution) Version() string {
	v := "v" + x.Created.UTC().Format("20060102.150405")
	if x.Twin > 0 {
		v += "-" + strconv.Itoa(x.Twin+1)
	}
	return v
}

// twins counts the executions that a project made in the same second.
func twins(tx *db.Tx, pr project.ID, at time.Time) (n int, err error) {
	at = at.Truncate(time.Second)
	// The plus makes SQLite take the index on created.
	err = tx.QueryRow(`SELECT COUNT(*) FROM executions WHERE created >= ? AND created < ?
		AND +pipeline IN (SELECT id FROM pipelines WHERE project = ?)`, db.Micros(at), db.Micros(at.Add(time.Second)), pr).Scan(&n)
	return n, err
}

// Search lists executions with their actions, newest first, and tells how many
// there are in all.
func (p *Pipelines) Search(ctx context.Context, by access.Actor, s Search) (l []Execution, total int, err error) {
	if err := by.MayLook(s.Workspace); errdefs.IsNotFound(err) {
		return nil, 0, err
	}
	if err := by.Has(access.ExecutionInfo); err != nil {
		return nil, 0, err
	}
	which := ` FROM executions e JOIN pipelines p ON p.id = e.pipeline JOIN projects j ON j.id = p.project
		WHERE p.workspace = ? AND (? = '' OR p.project = ?) AND (? = '' OR p.dialects LIKE '%/' || ? || '/%') AND j.deleted IS NULL`
	args := []any{s.Workspace, s.Project, s.Project, s.Dialect, s.Dialect}
	err = p.db.Read(ctx, func(tx *db.Tx) error {
		if !by.Runs(s.Workspace) {
			ids, err := seenPipelines(tx, by, s.Workspace)
			if err != nil {
				return err
			}
			which += ` AND p.id IN (0` + strings.Repeat(",?", len(ids)) + `)`
			for _, id := range ids {
				args = append(args, id)
			}
		}
		if err := tx.QueryRow(`SELECT COUNT(*)`+which, args...).Scan(&total); err != nil {
			return err
		}
		ids, err := db.Column[ExecutionID](tx, `SELECT e.id`+which+` ORDER BY e.created DESC, e.number DESC LIMIT ? OFFSET ?`, append(args, s.Limit, s.Offset)...)
		if err != nil {
			return err
		}
		for _, id := range ids {
			x, err := loadExecution(tx, id)
			if err == nil {
				err = show(tx, by, &x, access.ExecutionInfo)
			}
			if err != nil {
				return err
			}
			l = append(l, x)
		}
		return nil
	})
	return l, total, err
}

// seenPipelines gives the pipelines of a workspace that an actor sees who does
// not run it.
func seenPipelines(tx *db.Tx, by access.Actor, workspace string) (ids []ID, err error) {
	projects, _ := by.Projects(workspace)
	for _, pr := range projects {
		if by.MayIn(workspace, pr, access.ExecutionInfo) != nil {
			continue
		}
		l, err := loadPipelines(tx, project.ID(pr))
		if err != nil {
			return nil, err
		}
		for _, pl := range l {
			if permit(by, pl, access.ExecutionInfo) == nil {
				ids = append(ids, pl.ID)
			}
		}
	}
	return ids, nil
}

// dialects lists those that keep fields, as "/alauda/buddy/".
func dialects(attrs map[string]json.RawMessage) string {
	l := "/"
	for _, k := range slices.Sorted(maps.Keys(attrs)) {
		l += k + "/"
	}
	return l
}
