package pipeline

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"

	"slipway/access"
	"slipway/crash"
	"slipway/db"
	"slipway/engine"
	"slipway/image"
	"slipway/logs"
	"slipway/project"
	"slipway/secret"
	"slipway/source"
)

// Config is what the room is told by serve.
type Config struct {
	Limits    Limits
	PublicURL string // for links in variables; without a slash at its end
	// Room refuses new work when the disk is nearly full; nil never does.
	Room func() error
	// LogMax bounds the log of one action, in bytes before compression. 0 is
	// 256 MiB.
	LogMax int64
}

// Pipelines is the front door.
type Pipelines struct {
	cfg      Config
	db       *db.DB
	access   *access.Access
	projects *project.Projects
	secrets  *secret.Secrets
	sources  *source.Sources
	images   *image.Images
	logs     *logs.Logs
}

// New makes the front door.
func New(cfg Config, d *db.DB, a *access.Access, p *project.Projects, s *secret.Secrets, src *source.Sources, img *image.Images, l *logs.Logs) *Pipelines {
	if cfg.LogMax <= 0 {
		cfg.LogMax = 256 << 20
	}
	return &Pipelines{cfg, d, a, p, s, src, img, l}
}

func (p *Pipelines) room() error {
	if p.cfg.Room == nil {
		return nil
	}
	return p.cfg.Room()
}

// project finds a project that the actor may do something in.
func (p *Pipelines) project(ctx context.Context, by access.Actor, id project.ID, s access.Scope) (project.Project, error) {
	pr, err := p.projects.Get(ctx, by, string(id))
	if err != nil {
		return pr, err
	}
	return pr, by.May(pr.Workspace, s)
}

// Create makes a pipeline; its identifier is made from the name if none is
// given.
func (p *Pipelines) Create(ctx context.Context, by access.Actor, in project.ID, n Pipeline) (Pipeline, error) {
	pr, err := p.project(ctx, by, in, access.ExecutionManage)
	if err != nil {
		return Pipeline{}, err
	}
	var inv project.Invalid
	n.Validate(&inv)
	if err := inv.Err(); err != nil {
		return Pipeline{}, err
	}
	n.Project, n.Workspace, n.CreatedBy = pr.ID, pr.Workspace, by.User.ID
	err = p.db.Write(ctx, func(tx *db.Tx) error {
		n.Created = tx.Now
		if n.Identifier, err = freeIdentifier(tx, pr.ID, 0, n.Identifier, n.Name); err != nil {
			return err
		}
		secrets, err := hideVariables(n.Variables, nil)
		if err != nil {
			return err
		}
		spec, err := specOf(n)
		if err != nil {
			return err
		}
		id, err := tx.Insert(`INSERT INTO pipelines (project, workspace, name, identifier, spec, dialects, created, created_by)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?)`, n.Project, n.Workspace, n.Name, n.Identifier, spec, dialects(n.Attrs), db.Micros(n.Created), n.CreatedBy)
		if err != nil {
			return err
		}
		n.ID = ID(id)
		return p.seal(tx, "pipelines", n.ID.row(), secrets, id)
	})
	if err != nil {
		return Pipeline{}, fmt.Errorf("create pipeline %q: %w", n.Name, err)
	}
	crash.At("pipeline: created")
	n.LastStatus = Initial
	return n, nil
}

// List lists the pipelines of a project, oldest first.
func (p *Pipelines) List(ctx context.Context, by access.Actor, in project.ID) ([]Pipeline, error) {
	pr, err := p.project(ctx, by, in, access.ExecutionInfo)
	if err != nil {
		return nil, err
	}
	var l []Pipeline
	err = p.db.Read(ctx, func(tx *db.Tx) error { l, err = loadPipelines(tx, pr.ID); return err })
	return l, err
}

// Get gives a pipeline.
func (p *Pipelines) Get(ctx context.Context, by access.Actor, id ID) (Pipeline, error) {
	return p.get(ctx, by, id, access.ExecutionInfo)
}

func (p *Pipelines) get(ctx context.Context, by access.Actor, id ID, s access.Scope) (Pipeline, error) {
	var pl Pipeline
	var err error
	err = p.db.Read(ctx, func(tx *db.Tx) error { pl, err = loadPipeline(tx, id); return err })
	if err != nil {
		return Pipeline{}, err
	}
	// A project that is gone, or is not seen, takes its pipelines along.
	if _, err := p.project(ctx, by, pl.Project, s); err != nil {
		if errdefs.IsNotFound(err) {
			err = fmt.Errorf("pipeline %d: %w", id, errdefs.ErrNotFound)
		}
		return Pipeline{}, err
	}
	return pl, nil
}

// Update changes a pipeline by change, which gets it as it is (secret values
// as secret.Encrypted) and must do nothing slow; what it does to read-only
// fields does not count.
func (p *Pipelines) Update(ctx context.Context, by access.Actor, id ID, change func(*Pipeline) error) (Pipeline, error) {
	if _, err := p.get(ctx, by, id, access.ExecutionManage); err != nil {
		return Pipeline{}, err
	}
	var n Pipeline
	err := p.db.Write(ctx, func(tx *db.Tx) error {
		old, err := loadPipeline(tx, id)
		if err != nil {
			return err
		}
		if n, err = loadPipeline(tx, id); err != nil { // a copy that shares nothing with old
			return err
		}
		if err := change(&n); err != nil {
			return err
		}
		n.ID, n.Project, n.Workspace, n.Created, n.CreatedBy = old.ID, old.Project, old.Workspace, old.Created, old.CreatedBy
		n.LastStatus, n.LastRevision = old.LastStatus, old.LastRevision
		var inv project.Invalid
		n.Validate(&inv)
		if err := inv.Err(); err != nil {
			return err
		}
		if n.Identifier != old.Identifier {
			if n.Identifier, err = freeIdentifier(tx, n.Project, n.ID, n.Identifier, n.Name); err != nil {
				return err
			}
		}
		had, err := p.unseal(tx, "pipelines", id.row(), int64(id))
		if err != nil {
			return err
		}
		secrets, err := hideVariables(n.Variables, had)
		if err != nil {
			return err
		}
		spec, err := specOf(n)
		if err != nil {
			return err
		}
		if _, err := tx.Exec(`UPDATE pipelines SET name = ?, identifier = ?, spec = ?, dialects = ? WHERE id = ?`,
			n.Name, n.Identifier, spec, dialects(n.Attrs), id); err != nil {
			return err
		}
		return p.seal(tx, "pipelines", id.row(), secrets, int64(id))
	})
	if err != nil {
		return Pipeline{}, fmt.Errorf("update pipeline %d: %w", id, err)
	}
	return n, nil
}

// Delete removes a pipeline; what runs of it is cancelled, its secrets go with
// the last of that, and its file system goes with the next sweep.
func (p *Pipelines) Delete(ctx context.Context, by access.Actor, id ID) error {
	pl, err := p.get(ctx, by, id, access.ExecutionManage)
	if err != nil {
		return err
	}
	err = p.db.Write(ctx, func(tx *db.Tx) error {
		if _, err := tx.Exec(`UPDATE pipelines SET deleted = ? WHERE id = ?`, db.Micros(tx.Now), id); err != nil {
			return err
		}
		if err := cancelAll(tx, `pipeline = ?`, by.User.ID, id); err != nil {
			return err
		}
		return dropSecrets(tx, pl.Workspace, id)
	})
	if err != nil {
		return fmt.Errorf("delete pipeline %d: %w", id, err)
	}
	crash.At("pipeline: deleted")
	return nil
}

// CreateAction adds an action behind the one that after names: nil is the end,
// 0 the beginning.
func (p *Pipelines) CreateAction(ctx context.Context, by access.Actor, id ID, a Action, after *ActionID) (Action, error) {
	if _, err := p.get(ctx, by, id, access.ExecutionManage); err != nil {
		return Action{}, err
	}
	var inv project.Invalid
	a.Validate(&inv)
	if err := inv.Err(); err != nil {
		return Action{}, err
	}
	a.Pipeline, a.LastStatus, a.LastRevision = id, Initial, ""
	err := p.db.Write(ctx, func(tx *db.Tx) error {
		if _, err := loadPipeline(tx, id); err != nil {
			return err
		}
		secrets, err := hideAction(&a, nil)
		if err != nil {
			return err
		}
		spec, err := actionSpec(a)
		if err != nil {
			return err
		}
		n, err := tx.Insert(`INSERT INTO actions (pipeline, position, spec)
			VALUES (?, (SELECT COALESCE(MAX(position), 0) + 1 FROM actions WHERE pipeline = ?), ?)`, id, id, spec)
		if err != nil {
			return err
		}
		a.ID = ActionID(n)
		if err := p.seal(tx, "actions", a.ID.row(), secrets, n); err != nil {
			return err
		}
		return place(tx, id, a.ID, after)
	})
	if err != nil {
		return Action{}, fmt.Errorf("create action %q: %w", a.Name, err)
	}
	return a, nil
}

// Actions lists the actions of a pipeline in the order in which they run.
func (p *Pipelines) Actions(ctx context.Context, by access.Actor, id ID) ([]Action, error) {
	if _, err := p.Get(ctx, by, id); err != nil {
		return nil, err
	}
	var l []Action
	var err error
	err = p.db.Read(ctx, func(tx *db.Tx) error { l, err = loadActions(tx, id); return err })
	return l, err
}

// Action gives one action.
func (p *Pipelines) Action(ctx context.Context, by access.Actor, id ID, action ActionID) (Action, error) {
	if _, err := p.Get(ctx, by, id); err != nil {
		return Action{}, err
	}
	var a Action
	var err error
	err = p.db.Read(ctx, func(tx *db.Tx) error { a, err = loadAction(tx, id, action); return err })
	return a, err
}

// UpdateAction changes an action by change, as Update does; its kind stays. A
// given after moves it.
func (p *Pipelines) UpdateAction(ctx context.Context, by access.Actor, id ID, action ActionID, change func(*Action) error, after *ActionID) (Action, error) {
	if _, err := p.get(ctx, by, id, access.ExecutionManage); err != nil {
		return Action{}, err
	}
	var n Action
	err := p.db.Write(ctx, func(tx *db.Tx) error {
		old, err := loadAction(tx, id, action)
		if err != nil {
			return err
		}
		if n, err = loadAction(tx, id, action); err != nil { // a copy that shares nothing with old
			return err
		}
		if err := change(&n); err != nil {
			return err
		}
		n.ID, n.Pipeline, n.LastStatus, n.LastRevision = old.ID, old.Pipeline, old.LastStatus, old.LastRevision
		var inv project.Invalid
		if (n.Build == nil) != (old.Build == nil) || n.Build != nil && n.Build.Multi != old.Build.Multi {
			inv.Add("type", "conflict", "cannot be changed")
		}
		n.Validate(&inv)
		if err := inv.Err(); err != nil {
			return err
		}
		had, err := p.unseal(tx, "actions", action.row(), int64(action))
		if err != nil {
			return err
		}
		secrets, err := hideAction(&n, had)
		if err != nil {
			return err
		}
		spec, err := actionSpec(n)
		if err != nil {
			return err
		}
		if _, err := tx.Exec(`UPDATE actions SET spec = ? WHERE id = ?`, spec, action); err != nil {
			return err
		}
		if err := p.seal(tx, "actions", action.row(), secrets, int64(action)); err != nil {
			return err
		}
		return place(tx, id, action, after)
	})
	if err != nil {
		return Action{}, fmt.Errorf("update action %d: %w", action, err)
	}
	return n, nil
}

// DeleteAction removes an action with its secrets; executions that were started
// with it keep their copy of the rest.
func (p *Pipelines) DeleteAction(ctx context.Context, by access.Actor, id ID, action ActionID) error {
	pl, err := p.get(ctx, by, id, access.ExecutionManage)
	if err != nil {
		return err
	}
	err = p.db.Write(ctx, func(tx *db.Tx) error {
		n, err := tx.Exec(`DELETE FROM actions WHERE id = ? AND pipeline = ?`, action, id)
		if err == nil && n == 0 {
			err = fmt.Errorf("action %d of pipeline %d: %w", action, id, errdefs.ErrNotFound)
		}
		if err != nil {
			return err
		}
		return secret.Drop(tx, secret.Scope{Workspace: pl.Workspace, Action: int64(action)})
	})
	if err != nil {
		return fmt.Errorf("delete action %d: %w", action, err)
	}
	return nil
}

// place moves an action behind another one.
func place(tx *db.Tx, pl ID, a ActionID, after *ActionID) error {
	if after == nil || *after == a {
		return nil
	}
	rows, err := tx.Query(`SELECT id FROM actions WHERE pipeline = ? AND id <> ? ORDER BY position, id`, pl, a)
	if err != nil {
		return err
	}
	defer rows.Close()
	var l []ActionID
	for rows.Next() {
		var id ActionID
		if err := rows.Scan(&id); err != nil {
			return err
		}
		l = append(l, id)
	}
	if err := rows.Err(); err != nil {
		return err
	}
	_ = rows.Close()
	at := 0
	if *after != 0 {
		if at = slices.Index(l, *after) + 1; at == 0 {
			var inv project.Invalid
			inv.Add("after_action_id", "unknown", fmt.Sprintf("there is no action %d in this pipeline", *after))
			return inv.Err()
		}
	}
	for i, id := range slices.Insert(l, at, a) {
		if _, err := tx.Exec(`UPDATE actions SET position = ? WHERE id = ?`, i+1, id); err != nil {
			return err
		}
	}
	return nil
}

// freeIdentifier checks a given identifier or makes one from the name.
func freeIdentifier(tx *db.Tx, pr project.ID, self ID, given, name string) (string, error) {
	taken := func(s string) (bool, error) {
		var n int
		err := tx.QueryRow(`SELECT COUNT(*) FROM pipelines WHERE project = ? AND identifier = ? AND id <> ? AND deleted IS NULL`,
			pr, s, self).Scan(&n)
		return n > 0, err
	}
	if given != "" {
		is, err := taken(given)
		if err == nil && is {
			var inv project.Invalid
			inv.Add("identifier", "conflict", "is taken by another pipeline of the project")
			err = inv.Err()
		}
		return given, err
	}
	base := slug(name)
	for i := 1; ; i++ {
		s := base
		if i > 1 {
			s += "-" + strconv.Itoa(i)
		}
		if is, err := taken(s); err != nil || !is {
			return s, err
		}
	}
}

func slug(name string) string {
	var b strings.Builder
	for _, r := range strings.ToLower(name) {
		switch {
		case r >= 'a' && r <= 'z' || r >= '0' && r <= '9':
			b.WriteRune(r)
		case b.Len() > 0 && !strings.HasSuffix(b.String(), "-"):
			b.WriteByte('-')
		}
	}
	s := strings.Trim(b.String(), "-")
	if len(s) > 60 {
		s = strings.Trim(s[:60], "-")
	}
	if s == "" {
		return "pipeline"
	}
	return s
}

// Living tells whether what an owner has in the engine is still wanted.
func (p *Pipelines) Living(ctx context.Context, owner engine.Owner) (bool, error) {
	kind, id, _ := strings.Cut(string(owner), "/")
	var n int
	err := p.db.Read(ctx, func(tx *db.Tx) error {
		switch kind {
		case "execution":
			return tx.QueryRow(`SELECT COUNT(*) FROM executions WHERE id = ?
				AND status IN ('ENQUEUED', 'INPROGRESS', 'TERMINATING')`, id).Scan(&n)
		case "pipeline":
			return tx.QueryRow(`SELECT COUNT(*) FROM pipelines p WHERE p.id = ? AND (p.deleted IS NULL OR EXISTS
				(SELECT 1 FROM executions e WHERE e.pipeline = p.id AND e.status IN ('ENQUEUED', 'INPROGRESS', 'TERMINATING')))`,
				id).Scan(&n)
		}
		return nil
	})
	return n > 0, err
}

// SweepLogs removes the logs of executions that are gone with their project.
func (p *Pipelines) SweepLogs(ctx context.Context) error {
	for _, id := range p.logs.Executions() { // a log is made after the row
		var n int
		err := p.db.Read(ctx, func(tx *db.Tx) error {
			return tx.QueryRow(`SELECT COUNT(*) FROM executions WHERE id = ?`, id).Scan(&n)
		})
		if err != nil {
			return fmt.Errorf("sweep logs: %w", err)
		}
		if n > 0 {
			continue
		}
		if err := p.logs.Remove(p.logs.Execution(id)); err != nil {
			return err
		}
	}
	return nil
}
