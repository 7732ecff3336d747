package stack

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/uuid"

	"slipway/access"
	"slipway/crash"
	"slipway/db"
	"slipway/engine"
	"slipway/event"
	"slipway/image"
	"slipway/ingress"
	"slipway/logs"
	"slipway/project"
	"slipway/secret"
)

// table is the work table, and the topic that is woken with it.
const table = "stacks"

// Engine is the part of an engine that stacks need. One with networks of its
// own is an engine.Networks too.
type Engine interface {
	engine.Workloads
	Volumes() engine.Volumes
	Images() engine.Images
	Remove(ctx context.Context, owner engine.Owner) error
}

// Config is what the room is told by serve.
type Config struct {
	// Room tells why there is no room for a new service (too little free disk),
	// or nil.
	Room func() error
	// Keep is how long a deleted stack can be restored before its volumes go.
	// 0 is seven days.
	Keep time.Duration
	// LogKeep is how many bytes of a service's log are kept. 0 is 256 MiB.
	LogKeep int64
	// CheckLogins is how often it is looked which logins of registries are to be
	// checked again. 0 is five minutes.
	CheckLogins time.Duration
}

// Rooms are those that stacks are made of.
type Rooms struct {
	DB        *db.DB
	Projects  *project.Projects
	Secrets   *secret.Secrets
	Events    *event.Outbox
	Images    *image.Images
	Ingresses *ingress.Ingresses
	Logs      *logs.Logs
	Engine    Engine
	Router    ingress.Router
}

// Stacks is the front door, and with Run the loop behind it.
type Stacks struct {
	cfg      Config
	db       *db.DB
	projects *project.Projects
	secrets  *secret.Secrets
	box      *secret.Box
	events   *event.Outbox
	images   *image.Images
	ingress  *ingress.Ingresses
	logs     *logs.Logs
	engine   Engine
	router   ingress.Router
	jobs     *jobs
	routes   *routes
}

// New makes the front door. Nothing is carried out before Run.
func New(cfg Config, r Rooms) *Stacks {
	if cfg.Room == nil {
		cfg.Room = func() error { return nil }
	}
	if cfg.Keep == 0 {
		cfg.Keep = 7 * 24 * time.Hour
	}
	if cfg.LogKeep == 0 {
		cfg.LogKeep = 256 << 20
	}
	if cfg.CheckLogins == 0 {
		cfg.CheckLogins = 5 * time.Minute
	}
	return &Stacks{
		cfg: cfg, db: r.DB, projects: r.Projects, secrets: r.Secrets, box: r.Secrets.Box(), events: r.Events,
		images: r.Images, ingress: r.Ingresses, logs: r.Logs, engine: r.Engine, router: r.Router,
		jobs: newJobs(), routes: newRoutes(),
	}
}

// open loads a stack for somebody who needs a right in its workspace.
func (s *Stacks) open(tx *db.Tx, by access.Actor, id ID, right access.Scope) (*world, project.Project, error) {
	w, err := load(tx, s.box, id)
	if err != nil {
		return nil, project.Project{}, err
	}
	p, err := project.Load(tx, w.stack.Project)
	if err != nil || !w.stack.Deleted.IsZero() {
		if err == nil || errdefs.IsNotFound(err) {
			err = fmt.Errorf("stack %s: %w", id, errdefs.ErrNotFound)
		}
		return nil, project.Project{}, err
	}
	if err := by.MayIn(p.Workspace, string(p.ID), right); err != nil {
		return nil, project.Project{}, fmt.Errorf("stack %s: %w", id, err)
	}
	return w, p, nil
}

// read runs f on a stack that somebody may read.
func (s *Stacks) read(ctx context.Context, by access.Actor, id ID, f func(*world, project.Project) error) error {
	return s.withDefault(ctx, by, id, func() error {
		return s.db.Read(ctx, func(tx *db.Tx) error {
			w, p, err := s.open(tx, by, id, access.StackRead)
			if err != nil {
				return err
			}
			return f(w, p)
		})
	})
}

// write runs f on a stack that somebody may change.
func (s *Stacks) write(ctx context.Context, by access.Actor, id ID, f func(*db.Tx, *world, project.Project) error) error {
	err := s.withDefault(ctx, by, id, func() error {
		return s.db.Write(ctx, func(tx *db.Tx) error {
			w, p, err := s.open(tx, by, id, access.StackWrite)
			if err != nil {
				return err
			}
			return f(tx, w, p)
		})
	})
	if err == nil {
		crash.At("stack: wish written")
	}
	return err
}

// withDefault tries f, and if there is no such stack makes it in case that it
// is the default one of a project that the actor sees.
func (s *Stacks) withDefault(ctx context.Context, by access.Actor, id ID, f func() error) error {
	err := f()
	if !errdefs.IsNotFound(err) {
		return err
	}
	var p project.Project
	if e := s.db.Read(ctx, func(tx *db.Tx) (err error) {
		p, err = project.Load(tx, project.ID(id))
		return err
	}); e != nil || string(p.ID) != string(id) || !by.SeesProject(p.Workspace, string(p.ID)) {
		return err
	}
	made, e := s.ensureDefaults(ctx, []project.Project{p})
	if e != nil {
		return e
	}
	if !made {
		return err
	}
	return f()
}

// ensureDefaults makes the default stacks that are missing.
func (s *Stacks) ensureDefaults(ctx context.Context, all []project.Project) (made bool, err error) {
	var missing []project.Project
	err = s.db.Read(ctx, func(tx *db.Tx) error {
		for _, p := range all {
			var one int
			err := tx.QueryRow(`SELECT 1 FROM stacks WHERE id = ?`, string(p.ID)).Scan(&one)
			if errors.Is(err, sql.ErrNoRows) {
				missing = append(missing, p)
			} else if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil || len(missing) == 0 {
		return false, err
	}
	err = s.db.Write(ctx, func(tx *db.Tx) error {
		for _, p := range missing {
			if _, err := tx.Exec(`INSERT INTO stacks (id, project, description, prefix, observed_generation, created, updated)
				VALUES (?, ?, ?, ?, 1, ?, ?) ON CONFLICT (id) DO NOTHING`,
				string(p.ID), string(p.ID), DefaultName, p.ShortID, db.Micros(p.Created), db.Micros(p.Created)); err != nil {
				return fmt.Errorf("default stack of %s: %w", p.ID, err)
			}
		}
		return nil
	})
	if err == nil {
		crash.At("stack: default stack made")
	}
	return err == nil, err
}

// Create makes an empty stack.
func (s *Stacks) Create(ctx context.Context, by access.Actor, id project.ID, description string) (Stack, error) {
	bad := &project.Invalid{}
	if description = strings.TrimSpace(description); description == "" {
		bad.Add("description", "required", "a description is needed")
	} else {
		bad.Text("description", description, maxText)
	}
	if err := bad.Err(); err != nil {
		return Stack{}, err
	}
	var out Stack
	// The default stack owns the project's file system, which this one may mount.
	err := s.withDefault(ctx, by, ID(id), func() error {
		return s.db.Read(ctx, func(tx *db.Tx) error {
			_, _, err := s.open(tx, by, ID(id), access.StackWrite)
			return err
		})
	})
	if err != nil {
		return Stack{}, fmt.Errorf("create stack: %w", err)
	}
	err = s.db.Write(ctx, func(tx *db.Tx) error {
		p, err := project.Load(tx, id)
		if err != nil {
			return err
		}
		r := row{ID: ID(uuid.NewString()), Project: id, Description: description, Generation: 1, Observed: 1, Created: tx.Now, Updated: tx.Now}
		if r.Prefix, err = short(tx, "s-", `SELECT 1 FROM stacks WHERE prefix = ?`); err != nil {
			return err
		}
		if _, err := tx.Exec(`INSERT INTO stacks (id, project, description, prefix, observed_generation, created, updated) VALUES (?, ?, ?, ?, 1, ?, ?)`,
			string(r.ID), string(id), description, r.Prefix, db.Micros(tx.Now), db.Micros(tx.Now)); err != nil {
			return err
		}
		out = (&world{stack: r}).view(p)
		return event.Write(tx, event.Event{Kind: event.StackChanged, Workspace: p.Workspace, Project: string(id), Subject: string(r.ID)}, Changed{Generation: 1})
	})
	if err != nil {
		return Stack{}, fmt.Errorf("create stack: %w", err)
	}
	crash.At("stack: created")
	return out, nil
}

// short makes a new short id with a prefix; taken asks whether there is one.
func short(tx *db.Tx, prefix, taken string) (string, error) {
	const letters = "abcdefghijklmnopqrstuvwxyz0123456789"
	for range 100 {
		var b [6]byte
		if _, err := rand.Read(b[:]); err != nil {
			return "", err
		}
		for i := range b {
			b[i] = letters[int(b[i])%len(letters)]
		}
		id := prefix + string(b[:])
		var one int
		err := tx.QueryRow(taken, id).Scan(&one)
		if errors.Is(err, sql.ErrNoRows) {
			return id, nil
		}
		if err != nil {
			return "", err
		}
	}
	return "", fmt.Errorf("no short id is free: %w", errdefs.ErrResourceExhausted)
}

// Get finds a stack.
func (s *Stacks) Get(ctx context.Context, by access.Actor, id ID) (out Stack, err error) {
	err = s.read(ctx, by, id, func(w *world, p project.Project) error {
		out = w.view(p)
		return nil
	})
	return out, err
}

// Filter is what List selects.
type Filter struct {
	Project project.ID // "": of all that the actor sees
	Search  string     // part of the description
}

// List lists the stacks that the actor sees, oldest first.
func (s *Stacks) List(ctx context.Context, by access.Actor, f Filter) ([]Stack, error) {
	all, err := s.visible(ctx, by, f.Project)
	if err != nil {
		return nil, fmt.Errorf("list stacks: %w", err)
	}
	if _, err := s.ensureDefaults(ctx, all); err != nil {
		return nil, err
	}
	var out []Stack
	err = s.db.Read(ctx, func(tx *db.Tx) error {
		for _, p := range all {
			rows, err := stacksOf(tx, p.ID, false)
			if err != nil {
				return err
			}
			for _, r := range rows {
				w, err := load(tx, s.box, r.ID)
				if err != nil {
					return err
				}
				if strings.Contains(strings.ToLower(w.stack.Description), strings.ToLower(f.Search)) {
					out = append(out, w.view(p))
				}
			}
		}
		return nil
	})
	slices.SortStableFunc(out, func(a, b Stack) int { return a.Created.Compare(b.Created) })
	return out, err
}

// visible lists the projects whose stacks the actor may read: one, or all.
func (s *Stacks) visible(ctx context.Context, by access.Actor, id project.ID) (all []project.Project, err error) {
	if id != "" {
		err = s.db.Read(ctx, func(tx *db.Tx) error {
			p, err := project.Load(tx, id)
			all = []project.Project{p}
			return err
		})
		if err == nil {
			err = by.MayIn(all[0].Workspace, string(id), access.StackRead)
		}
		return all, err
	}
	if all, err = s.projects.List(ctx, by, project.Filter{}); err != nil {
		return nil, err
	}
	return slices.DeleteFunc(all, func(p project.Project) bool { return by.MayIn(p.Workspace, string(p.ID), access.StackRead) != nil }), nil
}

// stacksOf reads the stacks of a project, oldest first, deleted ones too if
// asked for.
func stacksOf(tx *db.Tx, id project.ID, deleted bool) (all []row, err error) {
	return db.List(tx, scanStack, `SELECT `+stackColumns+` FROM stacks WHERE project = ? AND (deleted IS NULL OR ?) ORDER BY created, id`, string(id), deleted)
}

// Delete stops and removes a stack. Its volumes are kept for a while; the
// default stack cannot be deleted (errdefs.ErrFailedPrecondition).
func (s *Stacks) Delete(ctx context.Context, by access.Actor, id ID) error {
	err := s.write(ctx, by, id, func(tx *db.Tx, w *world, p project.Project) error {
		if w.view(p).Default() {
			return fmt.Errorf("the default stack of a project cannot be deleted: %w", errdefs.ErrFailedPrecondition)
		}
		return markDeleted(tx, w.stack, p.Workspace, false)
	})
	if err != nil {
		return fmt.Errorf("delete stack %s: %w", id, err)
	}
	return nil
}

// markDeleted takes a stack out of all answers and lets its containers end.
func markDeleted(tx *db.Tx, r row, workspace string, withProject bool) error {
	if _, err := tx.Exec(`UPDATE stacks SET deleted = ?, with_project = ?, updated = ?, generation = generation + 1 WHERE id = ?`,
		db.Micros(tx.Now), withProject, db.Micros(tx.Now), string(r.ID)); err != nil {
		return err
	}
	if _, err := tx.Exec(`UPDATE services SET addr = '' WHERE stack = ?`, string(r.ID)); err != nil {
		return err
	}
	tx.Wake(routesTopic)
	if err := event.Write(tx, event.Event{Kind: event.StackChanged, Workspace: workspace, Project: string(r.Project), Subject: string(r.ID)},
		Changed{Generation: r.Generation + 1}); err != nil {
		return err
	}
	return tx.Due(table, string(r.ID), tx.Now)
}

// bump notes that something else is wished now.
func (w *world) bump(tx *db.Tx, p project.Project, ignored []string) error {
	w.stack.Generation++
	w.stack.Updated = tx.Now
	if _, err := tx.Exec(`UPDATE stacks SET description = ?, generation = ?, updated = ?, cron = ?, timezone = ?, update_at = ? WHERE id = ?`,
		w.stack.Description, w.stack.Generation, db.Micros(tx.Now), w.stack.Schedule.Cron, w.stack.Schedule.Timezone, db.Micros(w.stack.UpdateAt),
		string(w.stack.ID)); err != nil {
		return err
	}
	if err := event.Write(tx, event.Event{Kind: event.StackChanged, Workspace: p.Workspace, Project: string(p.ID), Subject: string(w.stack.ID)},
		Changed{Generation: w.stack.Generation, Ignored: ignored}); err != nil {
		return err
	}
	return tx.Due(table, string(w.stack.ID), tx.Now)
}

// Living tells whether the owner of something in the engine is still there.
// Owners of other kinds are not judged: they live.
func (s *Stacks) Living(ctx context.Context, owner engine.Owner) (bool, error) {
	id, ours := strings.CutPrefix(string(owner), "stack/")
	if !ours {
		return true, nil
	}
	living := false
	err := s.db.Read(ctx, func(tx *db.Tx) error {
		var one int
		err := tx.QueryRow(`SELECT 1 FROM stacks WHERE id = ?`, id).Scan(&one)
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		living = err == nil
		return err
	})
	return living, err
}

// view is a stack as it is told.
func (w *world) view(p project.Project) Stack {
	out := Stack{
		ID: w.stack.ID, Project: w.stack.Project, Workspace: p.Workspace, Description: w.stack.Description, Prefix: w.stack.Prefix,
		Generation: w.stack.Generation, ObservedGeneration: w.stack.Observed, Schedule: w.stack.Schedule, Created: w.stack.Created, Updated: w.stack.Updated,
	}
	for _, s := range w.services {
		if s.Removed.IsZero() {
			out.Services = append(out.Services, w.viewService(s))
		}
	}
	for _, v := range w.volumes {
		if v.Removed.IsZero() {
			out.Volumes = append(out.Volumes, w.viewVolume(v))
		}
	}
	slices.SortFunc(out.Services, func(a, b Service) int { return strings.Compare(a.Name, b.Name) })
	slices.SortStableFunc(out.Volumes, func(a, b Volume) int { return strings.Compare(a.Name, b.Name) })
	return out
}

func (w *world) viewService(s *service) Service {
	declared, applied := w.definitions[s.Declared], w.definitions[s.Applied]
	deployed := applied
	if d := w.definitions[s.Serving]; d != nil {
		deployed = d
	}
	return Service{
		ID: s.ID, ShortID: s.Short, Stack: w.stack.ID, Project: w.stack.Project, Name: s.Name, Description: s.Description,
		Restart: s.Restart, Stopped: s.Stopped, Declared: declared.Definition, DeclaredDigest: declared.Digest,
		Deployed: deployed.Definition, DeployedDigest: deployed.Digest, RequiresRecreate: w.pending(s),
		Status: s.Status, StatusSet: s.StatusSet, Message: s.Message, Created: s.Created,
	}
}

// pending tells whether what is declared is not what is applied, or what is
// applied could not take over.
func (w *world) pending(s *service) bool {
	declared, applied := w.definitions[s.Declared], w.definitions[s.Applied]
	if s.Declared != s.Applied && (!declared.Equal(applied.Definition) || declared.Digest != applied.Digest) {
		return true
	}
	return s.Failed && s.Serving != s.Applied
}

func (w *world) viewVolume(v *volume) Volume {
	out := Volume{
		ID: v.ID, Stack: w.stack.ID, Key: v.Key, Name: v.Name, Orphaned: v.Orphaned,
		Usage: v.Bytes, UsageSet: v.BytesSet, Created: v.Created,
	}
	for _, s := range w.services {
		if s.Removed.IsZero() && w.uses(s, v.Key) {
			out.Services = append(out.Services, s.ID)
		}
	}
	return out
}

// uses tells whether a service has a volume mounted, or will have.
func (w *world) uses(s *service, key string) bool {
	for _, id := range []string{s.Declared, s.Applied, s.Serving} {
		if d := w.definitions[id]; d != nil && d.mounts(key) {
			return true
		}
	}
	return false
}
