package ingress

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/google/uuid"

	"slipway/access"
	"slipway/crash"
	"slipway/db"
	"slipway/event"
	"slipway/project"
)

// Ingresses is the front door.
type Ingresses struct {
	db       *db.DB
	projects *project.Projects
	domain   string
	reserved *regexp.Regexp // hostnames of default ingresses
}

// New makes the front door; domain is that of the default ingresses.
func New(d *db.DB, p *project.Projects, domain string) *Ingresses {
	if h, err := Hostname(domain); err == nil {
		domain = h
	}
	return &Ingresses{
		db: d, projects: p, domain: domain,
		reserved: regexp.MustCompile(`^p-[a-z0-9]{6}\.` + regexp.QuoteMeta(domain) + `$`),
	}
}

// Changed is the data of event.IngressChanged.
type Changed struct {
	Hostname string `json:"hostname"`
	Deleted  bool   `json:"deleted,omitempty"`
}

// Create makes an ingress; a hostname that somebody has is
// errdefs.ErrAlreadyExists.
func (i *Ingresses) Create(ctx context.Context, by access.Actor, id project.ID, hostname string, paths []Path) (Ingress, error) {
	p, err := i.projects.Get(ctx, by, string(id))
	if err != nil {
		return Ingress{}, err
	}
	if err := by.MayIn(p.Workspace, string(p.ID), access.StackWrite); err != nil {
		return Ingress{}, err
	}
	host, err := Hostname(hostname)
	if err := both(err, ValidatePaths(paths)); err != nil {
		return Ingress{}, err
	}
	if i.reserved.MatchString(host) {
		return Ingress{}, fmt.Errorf("hostname %s is kept for the project of that id: %w", host, errdefs.ErrAlreadyExists)
	}
	in := Ingress{
		ID: ID(uuid.NewString()), Project: p.ID, Hostname: host, Paths: paths, Enabled: true,
		Verified: host == i.domain || strings.HasSuffix(host, "."+i.domain),
	}
	err = i.db.Write(ctx, func(tx *db.Tx) error {
		if _, err := project.Load(tx, p.ID); err != nil { // deleted meanwhile
			return err
		}
		if err := i.free(tx, host); err != nil {
			return err
		}
		in.Created, in.Updated = tx.Now, tx.Now
		return i.insert(tx, p, in)
	})
	if err != nil {
		return Ingress{}, fmt.Errorf("ingress %s: %w", host, err)
	}
	crash.At("ingress: created")
	return in, nil
}

// both joins the bad fields of two validations.
func both(a, b error) error {
	bad := &project.Invalid{}
	for _, err := range []error{a, b} {
		if inv, ok := project.AsInvalid(err); ok {
			bad.Fields = append(bad.Fields, inv.Fields...)
		} else if err != nil {
			return err
		}
	}
	return bad.Err()
}

// free refuses a hostname that is taken. One that is left of a deleted project
// is taken away from it.
func (i *Ingresses) free(tx *db.Tx, host string) error {
	old, err := loadByHostname(tx, host)
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if _, err := project.Load(tx, old.Project); errdefs.IsNotFound(err) {
		return remove(tx, old.ID)
	} else if err != nil {
		return err
	}
	return fmt.Errorf("the hostname is in use: %w", errdefs.ErrAlreadyExists)
}

func (i *Ingresses) insert(tx *db.Tx, p project.Project, in Ingress) error {
	if err := insert(tx, in); err != nil {
		return err
	}
	return changed(tx, p, in, false)
}

func changed(tx *db.Tx, p project.Project, in Ingress, deleted bool) error {
	return event.Write(tx, event.Event{
		Kind: event.IngressChanged, Workspace: p.Workspace, Project: string(p.ID), Subject: string(in.ID),
	}, Changed{in.Hostname, deleted})
}

// Get finds one.
func (i *Ingresses) Get(ctx context.Context, by access.Actor, id ID) (in Ingress, err error) {
	err = i.db.Read(ctx, func(tx *db.Tx) error {
		in, _, err = find(tx, by, id, access.StackRead)
		return err
	})
	return in, err
}

// find loads an ingress that the actor may use so. One of a project that is
// deleted is not there.
func find(tx *db.Tx, by access.Actor, id ID, s access.Scope) (Ingress, project.Project, error) {
	missing := fmt.Errorf("ingress %s: %w", short(string(id), 60), errdefs.ErrNotFound)
	in, err := load(tx, id)
	if errdefs.IsNotFound(err) {
		return in, project.Project{}, missing
	}
	if err != nil {
		return in, project.Project{}, err
	}
	p, err := project.Load(tx, in.Project)
	if errdefs.IsNotFound(err) {
		return in, p, missing
	}
	if err != nil {
		return in, p, err
	}
	if err := by.MayIn(p.Workspace, string(p.ID), s); errdefs.IsNotFound(err) {
		return in, p, missing
	} else if err != nil {
		return in, p, err
	}
	return in, p, nil
}

// Filter is what List selects.
type Filter struct {
	Project  project.ID
	Hostname string // part of it
	Service  string
}

// List lists those the actor sees, oldest first. The default ingress of a
// project is made when it is first looked for.
func (i *Ingresses) List(ctx context.Context, by access.Actor, f Filter) ([]Ingress, error) {
	var projects []project.Project
	if f.Project != "" {
		p, err := i.projects.Get(ctx, by, string(f.Project))
		if err != nil {
			return nil, err
		}
		if err := by.MayIn(p.Workspace, string(p.ID), access.StackRead); err != nil {
			return nil, err
		}
		projects = []project.Project{p}
	} else {
		all, err := i.projects.List(ctx, by, project.Filter{})
		if err != nil {
			return nil, err
		}
		for _, p := range all {
			if by.MayIn(p.Workspace, string(p.ID), access.StackRead) == nil {
				projects = append(projects, p)
			}
		}
	}
	all, err := i.of(ctx, projects)
	if err != nil {
		return nil, err
	}
	part := strings.ToLower(f.Hostname)
	return slices.DeleteFunc(all, func(in Ingress) bool {
		return !strings.Contains(in.Hostname, part) ||
			f.Service != "" && !slices.ContainsFunc(in.Paths, func(p Path) bool { return p.Service == f.Service })
	}), nil
}

// of lists the ingresses of projects and makes the default ones that are
// missing.
func (i *Ingresses) of(ctx context.Context, projects []project.Project) ([]Ingress, error) {
	want := make(map[project.ID]bool, len(projects))
	for _, p := range projects {
		want[p.ID] = true
	}
	var list []Ingress
	read := func() (missing []project.Project, err error) {
		have := map[project.ID]bool{}
		err = i.db.Read(ctx, func(tx *db.Tx) error {
			all, err := loadAll(tx)
			list = slices.DeleteFunc(all, func(in Ingress) bool { return !want[in.Project] })
			return err
		})
		for _, in := range list {
			have[in.Project] = have[in.Project] || in.Default
		}
		for _, p := range projects {
			if !have[p.ID] {
				missing = append(missing, p)
			}
		}
		return missing, err
	}
	missing, err := read()
	if err != nil {
		return nil, fmt.Errorf("list ingresses: %w", err)
	}
	if len(missing) == 0 {
		return list, nil
	}
	if err := i.db.Write(ctx, func(tx *db.Tx) error { return i.makeDefaults(tx, missing) }); err != nil {
		return nil, fmt.Errorf("default ingress: %w", err)
	}
	crash.At("ingress: default made")
	_, err = read()
	return list, err
}

// makeDefaults makes those that are missing. One whose hostname another has
// (by a change of the domain) stays missing; that is nobody else's harm.
func (i *Ingresses) makeDefaults(tx *db.Tx, projects []project.Project) error {
	for _, p := range projects {
		if have, err := hasDefault(tx, p.ID); have || err != nil {
			if err != nil {
				return err
			}
			continue
		}
		if _, err := project.Load(tx, p.ID); errdefs.IsNotFound(err) {
			continue // deleted meanwhile
		} else if err != nil {
			return err
		}
		host := p.ShortID + "." + i.domain
		if err := i.free(tx, host); errdefs.IsAlreadyExists(err) {
			continue
		} else if err != nil {
			return err
		}
		err := i.insert(tx, p, Ingress{
			ID: ID(uuid.NewString()), Project: p.ID, Hostname: host, Default: true, Enabled: true, Verified: true,
			Paths: []Path{{Path: "/", DefaultPage: true}}, Created: tx.Now, Updated: tx.Now,
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// SetPaths replaces the paths. The default ingress of a project always has the
// path /: where it is left out it leads to the default page.
func (i *Ingresses) SetPaths(ctx context.Context, by access.Actor, id ID, paths []Path) (in Ingress, err error) {
	if err := i.db.Read(ctx, func(tx *db.Tx) error {
		_, _, err := find(tx, by, id, access.StackWrite)
		return err
	}); err != nil {
		return in, err
	}
	if err := ValidatePaths(paths); err != nil {
		return in, err
	}
	err = i.db.Write(ctx, func(tx *db.Tx) error {
		var p project.Project
		if in, p, err = find(tx, by, id, access.StackWrite); err != nil {
			return err
		}
		in.Paths = slices.Clone(paths)
		if in.Default && !slices.ContainsFunc(paths, func(p Path) bool { return trimPath(p.Path) == "/" }) {
			in.Paths = append(in.Paths, Path{Path: "/", DefaultPage: true})
		}
		in.Updated = tx.Now
		if err := setPaths(tx, in); err != nil {
			return err
		}
		return changed(tx, p, in, false)
	})
	if err != nil {
		return Ingress{}, err
	}
	crash.At("ingress: paths set")
	return in, nil
}

// Delete removes one; the default one is errdefs.ErrFailedPrecondition.
func (i *Ingresses) Delete(ctx context.Context, by access.Actor, id ID) error {
	err := i.db.Write(ctx, func(tx *db.Tx) error {
		in, p, err := find(tx, by, id, access.StackWrite)
		if err != nil {
			return err
		}
		if in.Default {
			return fmt.Errorf("ingress %s is the default one of its project and stays: %w", in.Hostname, errdefs.ErrFailedPrecondition)
		}
		if err := remove(tx, in.ID); err != nil {
			return err
		}
		return changed(tx, p, in, true)
	})
	if err == nil {
		crash.At("ingress: deleted")
	}
	return err
}

// All lists every ingress of every project that is not deleted, without asking
// who, for Build.
func (i *Ingresses) All(ctx context.Context) ([]Ingress, error) {
	projects, err := i.projects.List(ctx, access.System(access.User{}), project.Filter{})
	if err != nil {
		return nil, fmt.Errorf("list ingresses: %w", err)
	}
	return i.of(ctx, projects)
}
