package stack

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/google/uuid"

	"slipway/access"
	"slipway/db"
	"slipway/project"
)

// Put declares what a stack shall be: services it does not name are removed,
// volumes it does not name are detached and keep their data. The same
// declaration again changes nothing. A new service is started at once, a
// changed one when it is recreated. A mount of a volume that is not declared is
// errdefs.ErrFailedPrecondition.
func (s *Stacks) Put(ctx context.Context, by access.Actor, id ID, d Declaration) (out Stack, err error) {
	room := s.cfg.Room()
	err = s.write(ctx, by, id, func(tx *db.Tx, w *world, p project.Project) error {
		c := change{tx: tx, w: w, p: p, room: room}
		if err := c.declare(s, d); err != nil {
			return err
		}
		return c.finish(&out, d.Ignored)
	})
	if err != nil {
		return Stack{}, fmt.Errorf("put stack %s: %w", id, err)
	}
	return out, nil
}

// Patch changes a part of what is declared.
func (s *Stacks) Patch(ctx context.Context, by access.Actor, id ID, patch Patch) (out Stack, err error) {
	room := s.cfg.Room()
	err = s.write(ctx, by, id, func(tx *db.Tx, w *world, p project.Project) error {
		c := change{tx: tx, w: w, p: p, room: room}
		have, orphans := w.declaration()
		var renamed error
		if patch.Description != nil && *patch.Description != w.stack.Description {
			renamed = w.rename(*patch.Description)
			c.changed = true
		}
		if patch.Schedule != nil {
			renamed = together(renamed, c.schedule(*patch.Schedule))
		}
		if err := c.declare(s, patch.merge(have, orphans)); err != nil || renamed != nil {
			return together(renamed, err)
		}
		for _, sv := range w.services {
			if patch.Recreate && sv.Removed.IsZero() && w.pending(sv) {
				if err := c.recreate(sv); err != nil {
					return err
				}
			}
		}
		return c.finish(&out, patch.Ignored)
	})
	if err != nil {
		return Stack{}, fmt.Errorf("patch stack %s: %w", id, err)
	}
	return out, nil
}

// together joins bad fields; another error than those of fields is for later.
func together(a, b error) error {
	x, ok1 := project.AsInvalid(a)
	y, ok2 := project.AsInvalid(b)
	switch {
	case ok1 && ok2:
		return &project.Invalid{Fields: append(x.Fields, y.Fields...)}
	case ok1:
		return a
	}
	return b
}

func (w *world) rename(to string) error {
	bad := &project.Invalid{}
	switch {
	case to == "":
		bad.Add("description", "required", "must not be empty")
	case string(w.stack.ID) == string(w.stack.Project):
		bad.Add("description", "unsupported", "the default stack keeps its description")
	default:
		bad.Text("description", to, maxText)
	}
	w.stack.Description = to
	return bad.Err()
}

// declaration is what is declared now, and the volumes that only are kept.
func (w *world) declaration() (d Declaration, orphans map[string]string) {
	d = Declaration{Services: map[string]Declared{}, Volumes: map[string]string{}}
	orphans = map[string]string{}
	for _, s := range w.services {
		if s.Removed.IsZero() {
			d.Services[s.Name] = Declared{Description: s.Description, Restart: s.Restart, Definition: w.definitions[s.Declared].Definition}
		}
	}
	for _, v := range w.volumes {
		switch {
		case !v.Removed.IsZero():
		case v.Orphaned:
			orphans[v.Key] = v.Name
		default:
			d.Volumes[v.Key] = v.Name
		}
	}
	return d, orphans
}

// change is one change of what is declared, in its transaction.
type change struct {
	tx      *db.Tx
	w       *world
	p       project.Project
	room    error // why there is none for new services
	changed bool
}

// finish counts the generation up if anything is different, and gives the stack.
func (c *change) finish(out *Stack, ignored []string) error {
	if c.changed {
		if err := c.w.bump(c.tx, c.p, ignored); err != nil {
			return err
		}
	}
	*out = c.w.view(c.p)
	return nil
}

func (c *change) declare(s *Stacks, d Declaration) error {
	if err := c.check(d); err != nil {
		return err
	}
	if err := c.volumes(d.Volumes); err != nil {
		return err
	}
	for _, have := range c.w.services {
		if _, ok := d.Services[have.Name]; !ok && have.Removed.IsZero() {
			if err := c.remove(have); err != nil {
				return err
			}
		}
	}
	for _, name := range sortedKeys(d.Services) {
		var err error
		if have := c.w.service(name); have == nil {
			err = c.add(s, name, d.Services[name])
		} else {
			err = c.update(s, have, d.Services[name])
		}
		if err != nil {
			return fmt.Errorf("service %s: %w", name, err)
		}
	}
	return nil
}

func (c *change) check(d Declaration) error {
	bad, ok := project.AsInvalid(d.Validate())
	if !ok {
		bad = &project.Invalid{}
	}
	for _, name := range sortedKeys(d.Services) {
		for i, m := range d.Services[name].Mounts {
			if m.Home != "" && m.Home != c.p.ShortID && m.Home != string(c.p.ID) {
				bad.Add(fmt.Sprintf("services.%s.volumes.%d", name, i), "format", "only the file system of this project, /home/"+c.p.ShortID+", can be mounted")
			}
		}
	}
	if err := bad.Err(); err != nil {
		return err
	}
	if service, volume, found := d.missing(); found {
		return fmt.Errorf("service %s: failed to mount volume %s, it doesn't seem to exist: declare it among the volumes of the stack: %w",
			service, volume, errdefs.ErrFailedPrecondition)
	}
	return nil
}

func (c *change) volumes(want map[string]string) error {
	for _, v := range c.w.volumes {
		if _, ok := want[v.Key]; !ok && v.Removed.IsZero() && !v.Orphaned {
			v.Orphaned, c.changed = true, true
			if err := v.save(c.tx); err != nil {
				return err
			}
		}
	}
	for _, key := range sortedKeys(want) {
		name := want[key]
		if name == "" {
			name = key
		}
		v := c.w.volume(key)
		if v == nil {
			v = &volume{ID: VolumeID(uuid.NewString()), Key: key, Name: name, Created: c.tx.Now, BytesSet: c.tx.Now}
			c.w.volumes = append(c.w.volumes, v)
			c.changed = true
			if err := v.insert(c.tx, c.w.stack.ID); err != nil {
				return err
			}
		} else if v.Orphaned || v.Name != name {
			v.Orphaned, v.Name, c.changed = false, name, true
			if err := v.save(c.tx); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *change) remove(s *service) error {
	s.Removed, c.changed = c.tx.Now, true
	c.unroute(s)
	return s.save(c.tx)
}

func (c *change) add(st *Stacks, name string, d Declared) error {
	if c.room != nil {
		return c.room
	}
	short, err := short(c.tx, "c-", `SELECT 1 FROM services WHERE short = ?`)
	if err != nil {
		return err
	}
	s := &service{
		ID: ServiceID(uuid.NewString()), Short: short, Name: name, Description: d.Description, Restart: d.Restart,
		Epoch: 1, Next: 1, Status: Creating, StatusSet: c.tx.Now, Created: c.tx.Now,
	}
	if s.Description == "" {
		s.Description = name
	}
	def := &definition{ID: uuid.NewString(), Service: s.ID, Definition: d.Definition.normal()}
	s.Declared, s.Applied = def.ID, def.ID
	if err := s.insert(c.tx, c.w.stack.ID); err != nil {
		return err
	}
	if err := def.insert(c.tx, st.box); err != nil {
		return err
	}
	c.w.definitions[def.ID] = def
	c.w.services = append(c.w.services, s)
	c.changed = true
	return nil
}

func (c *change) update(st *Stacks, s *service, d Declared) error {
	if d.Description == "" {
		d.Description = s.Name
	}
	old := *s
	s.Description, s.Restart = d.Description, d.Restart
	declared, applied := c.w.definitions[s.Declared], c.w.definitions[s.Applied]
	switch {
	case declared.Equal(d.Definition):
	case applied.Equal(d.Definition): // changed back
		s.Declared = s.Applied
	default:
		def := &definition{ID: uuid.NewString(), Service: s.ID, Definition: d.Definition.normal()}
		def.inherit(declared)
		def.inherit(applied)
		if err := def.insert(c.tx, st.box); err != nil {
			return err
		}
		c.w.definitions[def.ID] = def
		s.Declared = def.ID
	}
	if old.Description == s.Description && old.Restart == s.Restart && old.Declared == s.Declared {
		return nil
	}
	c.changed = true
	return s.save(c.tx)
}

// inherit takes the image that an earlier definition has found under the same
// name: only a pull looks for it again.
func (d *definition) inherit(from *definition) {
	if d.Image == from.Image && d.Digest == "" {
		d.Digest = from.Digest
	}
}

// recreate applies what is declared, in a new container.
func (c *change) recreate(s *service) error {
	waiting := s.Status == Creating && s.Declared == s.Applied && !s.Stopped
	c.changed = true
	if waiting { // the container to come is that one; look for its image now
		_, err := c.tx.Exec(`UPDATE service_definitions SET retry_at = NULL WHERE id = ?`, s.Applied)
		return err
	}
	s.Applied = s.Declared
	return c.again(s)
}

// again makes a new container out of what is applied.
func (c *change) again(s *service) error {
	s.Epoch++
	s.Stopped, s.Failed = false, false
	to := Starting
	if !s.Ran {
		to = Creating
	}
	c.changed = true
	return c.setStatus(s, to, "")
}

// setStatus is for what is true from the moment of the wish; all else follows
// from what is observed.
func (c *change) setStatus(s *service, to Status, message string) error {
	if err := s.become(c.tx, c.w.stack, c.p.Workspace, to, message); err != nil {
		return err
	}
	return s.save(c.tx)
}

// unroute takes a service out of the routes and names.
func (c *change) unroute(s *service) {
	s.Addr = noAddr
	c.tx.Wake(routesTopic)
}
