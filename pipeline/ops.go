package pipeline

import (
	"context"
	"fmt"
	"reflect"
	"regexp"
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
	"slipway/registry"
	"slipway/secret"
	"slipway/source"
)

// Config is what the room is told by serve.
type Config struct {
	Limits    Limits
	PublicURL string // for links in variables; without a slash at its end
	// Room refuses new work when the disk is nearly full; nil never does.
	Room func() error
	// Registries turns integrations into logins; nil asks the vendors themselves.
	Registries *registry.Exchange
	// LogMax bounds the log of one action, in bytes before compression. 0 is
	// 256 MiB.
	LogMax int64
	// Forks lets events of pull requests start what a stranger may have written. Such
	// runs get no secrets, but they still share names with trusted ones: images of the
	// workspace, how the last run of a pipeline went, rows of its actions.
	Forks bool
	// Language is how definitions in files of repositories are written; without one
	// none is read.
	Language Language
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
	if cfg.Registries == nil {
		cfg.Registries = registry.New(registry.Config{})
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
	return pr, by.MayIn(pr.Workspace, string(pr.ID), s)
}

// Create makes a pipeline; its identifier is made from the name if none is
// given.
func (p *Pipelines) Create(ctx context.Context, by access.Actor, in project.ID, n Pipeline) (Pipeline, error) {
	pr, err := p.project(ctx, by, in, access.ExecutionManage)
	if err != nil {
		return Pipeline{}, err
	}
	var made Pipeline
	err = p.db.Write(ctx, func(tx *db.Tx) error {
		made, err = p.createIn(tx, by, pr, n)
		return err
	})
	if err != nil {
		return Pipeline{}, fmt.Errorf("create pipeline %q: %w", n.Name, err)
	}
	crash.At("pipeline: created")
	return made, nil
}

func (p *Pipelines) createIn(tx *db.Tx, by access.Actor, pr project.Project, n Pipeline) (Pipeline, error) {
	var inv project.Invalid
	n.Validate(&inv)
	if err := inv.Err(); err != nil {
		return Pipeline{}, err
	}
	n.Project, n.Workspace, n.CreatedBy, n.Created, n.Said = pr.ID, pr.Workspace, by.User.ID, tx.Now, nil
	if err := mayDefine(tx, by, nil, &n); err != nil {
		return Pipeline{}, err
	}
	var err error
	if n.Identifier, err = freeIdentifier(tx, pr.ID, 0, n.Identifier, n.Name); err != nil {
		return Pipeline{}, err
	}
	secrets, err := hideVariables(n.Variables, nil)
	if err != nil {
		return Pipeline{}, err
	}
	spec, err := specOf(n)
	if err != nil {
		return Pipeline{}, err
	}
	id, err := tx.Insert(`INSERT INTO pipelines (project, workspace, name, identifier, spec, dialects, created, created_by)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?)`, n.Project, n.Workspace, n.Name, n.Identifier, spec, dialects(n.Attrs), db.Micros(n.Created), n.CreatedBy)
	if err != nil {
		return Pipeline{}, err
	}
	n.ID, n.LastStatus = ID(id), Initial
	if err := p.arm(tx, nil, n); err != nil {
		return Pipeline{}, err
	}
	if err := p.readSoon(tx, n); err != nil {
		return Pipeline{}, err
	}
	return n, p.seal(tx, "pipelines", n.ID.row(), secrets, id)
}

// List lists the pipelines of a project that the actor sees, oldest first.
func (p *Pipelines) List(ctx context.Context, by access.Actor, in project.ID) ([]Pipeline, error) {
	pr, err := p.project(ctx, by, in, access.ExecutionInfo)
	if err != nil {
		return nil, err
	}
	var l []Pipeline
	err = p.db.Read(ctx, func(tx *db.Tx) error { l, err = loadPipelines(tx, pr.ID); return err })
	return slices.DeleteFunc(l, func(pl Pipeline) bool { return permit(by, pl, access.ExecutionInfo) != nil }), err
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
	_, err = p.projects.Get(ctx, by, string(pl.Project))
	if hidden := permit(by, pl, access.ExecutionInfo); err == nil && errdefs.IsNotFound(hidden) {
		err = hidden
	}
	if err == nil {
		err = by.MayIn(pl.Workspace, string(pl.Project), s)
	}
	if err == nil {
		err = permit(by, pl, s)
	}
	if errdefs.IsNotFound(err) {
		err = fmt.Errorf("pipeline %d: %w", id, errdefs.ErrNotFound)
	}
	if err != nil {
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
	err := p.db.Write(ctx, func(tx *db.Tx) (err error) {
		n, err = p.updateIn(tx, id, func(n *Pipeline) error {
			old, was := *n, n.origins()
			if err := change(n); err != nil {
				return err
			}
			n.Project, n.Workspace, n.DefinedBy = old.Project, old.Workspace, old.DefinedBy
			return mayDefine(tx, by, was, n)
		})
		return err
	})
	if err != nil {
		return Pipeline{}, fmt.Errorf("update pipeline %d: %w", id, err)
	}
	return n, nil
}

func (p *Pipelines) updateIn(tx *db.Tx, id ID, change func(*Pipeline) error) (Pipeline, error) {
	old, err := loadPipeline(tx, id)
	if err != nil {
		return Pipeline{}, err
	}
	n, err := loadPipeline(tx, id) // a copy that shares nothing with old
	if err != nil {
		return Pipeline{}, err
	}
	if err := change(&n); err != nil {
		return Pipeline{}, err
	}
	if n.Said = old.Said; !reflect.DeepEqual(n.where(), old.where()) {
		n.Said = nil
	}
	if err := n.leaves(old); err != nil {
		return Pipeline{}, err
	}
	n.ID, n.Project, n.Workspace, n.Created, n.CreatedBy = old.ID, old.Project, old.Workspace, old.Created, old.CreatedBy
	n.LastStatus, n.LastRevision = old.LastStatus, old.LastRevision
	var inv project.Invalid
	n.Validate(&inv)
	if err := inv.Err(); err != nil {
		return Pipeline{}, err
	}
	if n.Identifier != old.Identifier {
		if n.Identifier, err = freeIdentifier(tx, n.Project, n.ID, n.Identifier, n.Name); err != nil {
			return Pipeline{}, err
		}
	}
	had, err := p.unseal(tx, "pipelines", id.row(), int64(id))
	if err != nil {
		return Pipeline{}, err
	}
	secrets, err := hideVariables(n.Variables, had)
	if err != nil {
		return Pipeline{}, err
	}
	spec, err := specOf(n)
	if err != nil {
		return Pipeline{}, err
	}
	if _, err := tx.Exec(`UPDATE pipelines SET name = ?, identifier = ?, spec = ?, dialects = ? WHERE id = ?`,
		n.Name, n.Identifier, spec, dialects(n.Attrs), id); err != nil {
		return Pipeline{}, err
	}
	if err := p.arm(tx, &old, n); err != nil {
		return Pipeline{}, err
	}
	if n.refiled(old) {
		if err := p.readSoon(tx, n); err != nil {
			return Pipeline{}, err
		}
	}
	if old.outside() && !n.outside() { // no file can have them any more
		if err := dropGone(tx, n, 0); err != nil {
			return Pipeline{}, err
		}
	}
	return n, p.seal(tx, "pipelines", id.row(), secrets, int64(id))
}

// Delete removes a pipeline; what runs of it is cancelled, its secrets go with
// the last of that, and its file system soon after it: see Gone.
func (p *Pipelines) Delete(ctx context.Context, by access.Actor, id ID) error {
	pl, err := p.get(ctx, by, id, access.ExecutionManage)
	if err != nil {
		return err
	}
	err = p.db.Write(ctx, func(tx *db.Tx) error { return deleteIn(tx, by, pl) })
	if err != nil {
		return fmt.Errorf("delete pipeline %d: %w", id, err)
	}
	crash.At("pipeline: deleted")
	return nil
}

func deleteIn(tx *db.Tx, by access.Actor, pl Pipeline) error {
	if _, err := tx.Exec(`UPDATE pipelines SET deleted = ? WHERE id = ?`, db.Micros(tx.Now), pl.ID); err != nil {
		return err
	}
	if err := disarm(tx, pl.ID); err != nil {
		return err
	}
	if err := cancelAll(tx, `pipeline = ?`, by.User.ID, pl.ID); err != nil {
		return err
	}
	return dropSecrets(tx, pl.Workspace, pl.ID)
}

// IsIdentifier tells whether a text can be the identifier of a pipeline.
func IsIdentifier(s string) bool { return len(s) <= nameMax && identifierText.MatchString(s) }

var identifierText = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$`)

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
		if err != nil {
			return "", err
		}
		var inv project.Invalid
		switch {
		case is:
			inv.Add("identifier", "conflict", "is taken by another pipeline of the project")
		case len(given) > nameMax:
			inv.Add("identifier", "maximum", fmt.Sprintf("must have at most %d characters", nameMax))
		case !identifierText.MatchString(given):
			inv.Add("identifier", "format", "must be letters, digits, and - _ . between them")
		}
		return given, inv.Err()
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
				strings.TrimSuffix(strings.TrimSuffix(id, asideSuffix), strangerSuffix)).Scan(&n)
		}
		return nil
	})
	return n > 0, err
}

// SweepLogs removes the logs of executions that are gone with their project.
func (p *Pipelines) SweepLogs(ctx context.Context) error {
	ids := p.logs.Executions() // before the rows are read: a log is made after its row
	err := p.db.Read(ctx, func(tx *db.Tx) (err error) {
		ids, err = unknownExecutions(tx, ids)
		return err
	})
	if err != nil {
		return fmt.Errorf("sweep logs: %w", err)
	}
	for _, id := range ids {
		if err := p.logs.Remove(p.logs.Execution(id)); err != nil {
			return err
		}
	}
	return nil
}
