package stack

import (
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"slipway/db"
	"slipway/image"
	"slipway/project"
	"slipway/secret"
)

// world is all rows of one stack.
type world struct {
	stack       row
	services    []*service // by name, those that are being removed at the end
	definitions map[string]*definition
	volumes     []*volume // by name
}

type row struct {
	ID                   ID
	Project              project.ID
	Description, Prefix  string
	Generation, Observed int64
	Created, Updated     time.Time
	Deleted              time.Time
	WithProject          bool // deleted because the project was
	Schedule             Schedule
	UpdateAt             time.Time // the next time of the schedule
}

type service struct {
	ID                                  ServiceID
	Short                               string
	Name, Description                   string
	Restart                             RestartPolicy
	Stopped                             bool
	Removed                             time.Time
	Epoch, Next                         int64
	Declared, Applied, Serving, Message string
	Updating                            string // the definition whose image the schedule asks for
	Addr                                netip.Addr
	Status                              Status
	StatusSet                           time.Time
	Failed, Ran                         bool
	History                             History
	Created                             time.Time
}

// hash is what its instance should have.
func (s *service) hash() string { return s.Applied + "." + strconv.FormatInt(s.Epoch, 10) }

// definitionOf gives the definition that an instance was started with.
func definitionOf(hash string) string { id, _, _ := strings.Cut(hash, "."); return id }

// definition is a Definition in a row, which never changes but for what is
// known of its image.
type definition struct {
	ID      string
	Service ServiceID
	Definition
	Digest  string
	Refresh bool
	Tries   int
	RetryAt time.Time
	Problem string
}

type volume struct {
	ID        VolumeID
	Key, Name string
	Orphaned  bool
	Removed   time.Time
	Bytes     int64
	BytesSet  time.Time
	Created   time.Time
}

func (w *world) service(name string) *service {
	for _, s := range w.services {
		if s.Name == name && s.Removed.IsZero() {
			return s
		}
	}
	return nil
}

func (w *world) volume(key string) *volume {
	for _, v := range w.volumes {
		if v.Key == key && v.Removed.IsZero() {
			return v
		}
	}
	return nil
}

const stackColumns = `id, project, description, prefix, generation, observed_generation, created, updated, deleted, with_project, cron, timezone, update_at`

func scanStack(scan db.Scan) (r row, err error) {
	var created, updated, deleted, update sql.NullInt64
	err = scan(&r.ID, &r.Project, &r.Description, &r.Prefix, &r.Generation, &r.Observed, &created, &updated, &deleted, &r.WithProject,
		&r.Schedule.Cron, &r.Schedule.Timezone, &update)
	r.Created, r.Updated, r.Deleted, r.UpdateAt = db.Time(created), db.Time(updated), db.Time(deleted), db.Time(update)
	return r, err
}

// load reads a stack; errdefs.ErrNotFound if it is not there. A deleted one is.
func load(tx *db.Tx, box *secret.Box, id ID) (*world, error) {
	w := &world{}
	var err error
	if w.stack, err = scanStack(tx.QueryRow(`SELECT `+stackColumns+` FROM stacks WHERE id = ?`, string(id)).Scan); err != nil {
		return nil, db.NotFound(err, "stack %s", id)
	}
	if err := w.loadServices(tx); err != nil {
		return nil, fmt.Errorf("stack %s: services: %w", id, err)
	}
	if err := w.loadDefinitions(tx, box); err != nil {
		return nil, fmt.Errorf("stack %s: definitions: %w", id, err)
	}
	if err := w.loadVolumes(tx); err != nil {
		return nil, fmt.Errorf("stack %s: volumes: %w", id, err)
	}
	return w, nil
}

func (w *world) loadServices(tx *db.Tx) error {
	rows, err := tx.Query(`SELECT id, short, name, description, restart, stopped, removed, epoch, next, declared, applied, serving,
		addr, status, status_set, message, failed, ran, history, created, updating
		FROM services WHERE stack = ? ORDER BY removed IS NOT NULL, name, created, id`, string(w.stack.ID))
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		s := &service{}
		var removed, set, created sql.NullInt64
		var addr, history string
		if err := rows.Scan(&s.ID, &s.Short, &s.Name, &s.Description, &s.Restart, &s.Stopped, &removed, &s.Epoch, &s.Next,
			&s.Declared, &s.Applied, &s.Serving, &addr, &s.Status, &set, &s.Message, &s.Failed, &s.Ran, &history, &created, &s.Updating); err != nil {
			return err
		}
		s.Removed, s.StatusSet, s.Created = db.Time(removed), db.Time(set), db.Time(created)
		if addr != "" {
			if s.Addr, err = netip.ParseAddr(addr); err != nil {
				return err
			}
		}
		if err := json.Unmarshal([]byte(history), &s.History); err != nil {
			return err
		}
		w.services = append(w.services, s)
	}
	return rows.Err()
}

func (w *world) loadDefinitions(tx *db.Tx, box *secret.Box) error {
	w.definitions = map[string]*definition{}
	rows, err := tx.Query(`SELECT d.id, d.service, d.spec, d.env, d.digest, d.refresh, d.tries, d.retry_at, d.problem
		FROM service_definitions d JOIN services s ON s.id = d.service WHERE s.stack = ?`, string(w.stack.ID))
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		d := &definition{}
		var spec string
		var env []byte
		var retry sql.NullInt64
		if err := rows.Scan(&d.ID, &d.Service, &spec, &env, &d.Digest, &d.Refresh, &d.Tries, &retry, &d.Problem); err != nil {
			return err
		}
		d.RetryAt = db.Time(retry)
		if err := json.Unmarshal([]byte(spec), &d.Definition); err != nil {
			return err
		}
		plain, err := box.Open(env, envRow(d.ID))
		if err != nil {
			return err
		}
		if err := json.Unmarshal(plain, &d.Env); err != nil {
			return errors.New("the environment of a service is damaged") // the error would show it
		}
		w.definitions[d.ID] = d
	}
	return rows.Err()
}

// envRow is what the sealed environment of a definition is bound to.
func envRow(id string) string { return "service_definitions/" + id + "/env" }

func (w *world) loadVolumes(tx *db.Tx) (err error) {
	w.volumes, err = db.List(tx, func(scan db.Scan) (*volume, error) {
		v := &volume{}
		var removed, set, created sql.NullInt64
		err := scan(&v.ID, &v.Key, &v.Name, &v.Orphaned, &removed, &v.Bytes, &set, &created)
		v.Removed, v.BytesSet, v.Created = db.Time(removed), db.Time(set), db.Time(created)
		return v, err
	}, `SELECT id, key, name, orphaned, removed, bytes, bytes_set, created FROM volumes
		WHERE stack = ? ORDER BY name, created, id`, string(w.stack.ID))
	return err
}

// save writes all of a service but its id, stack and what never changes.
func (s *service) save(tx *db.Tx) error {
	history, err := json.Marshal(s.History)
	if err != nil {
		return err
	}
	addr := ""
	if s.Addr.IsValid() {
		addr = s.Addr.String()
	}
	_, err = tx.Exec(`UPDATE services SET description = ?, restart = ?, stopped = ?, removed = ?, epoch = ?, next = ?, declared = ?,
		applied = ?, serving = ?, addr = ?, status = ?, status_set = ?, message = ?, failed = ?, ran = ?, history = ?, updating = ? WHERE id = ?`,
		s.Description, string(s.Restart), s.Stopped, db.Micros(s.Removed), s.Epoch, s.Next, s.Declared, s.Applied, s.Serving, addr,
		string(s.Status), db.Micros(s.StatusSet), s.Message, s.Failed, s.Ran, string(history), s.Updating, string(s.ID))
	return err
}

func (s *service) insert(tx *db.Tx, stack ID) error {
	_, err := tx.Exec(`INSERT INTO services (id, short, stack, name, description, restart, declared, applied, status, status_set, created)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`, string(s.ID), s.Short, string(stack), s.Name, s.Description, string(s.Restart),
		s.Declared, s.Applied, string(s.Status), db.Micros(s.StatusSet), db.Micros(s.Created))
	return err
}

func (d *definition) insert(tx *db.Tx, box *secret.Box) error {
	env, err := json.Marshal(d.Env)
	if err != nil {
		return err
	}
	sealed, err := box.Seal(env, envRow(d.ID))
	if err != nil {
		return err
	}
	open := d.Definition
	open.Env = nil
	spec, err := json.Marshal(open)
	if err != nil {
		return err
	}
	if _, err := tx.Exec(`INSERT INTO service_definitions (id, service, spec, env, digest, refresh, created) VALUES (?, ?, ?, ?, ?, ?, ?)`,
		d.ID, string(d.Service), string(spec), sealed, d.Digest, d.Refresh, db.Micros(tx.Now)); err != nil {
		return err
	}
	if d.Digest == "" {
		return nil
	}
	return image.Keep(tx, d.hold(), d.Digest, time.Time{})
}

// hold is the name under which the image of a definition is kept.
func (d *definition) hold() string { return "service/" + string(d.Service) + "/" + d.ID }

// drop removes a definition that nothing refers to.
func (d *definition) drop(tx *db.Tx) error {
	if err := image.Drop(tx, d.hold()); err != nil {
		return err
	}
	_, err := tx.Exec(`DELETE FROM service_definitions WHERE id = ?`, d.ID)
	return err
}

func (v *volume) insert(tx *db.Tx, stack ID) error {
	_, err := tx.Exec(`INSERT INTO volumes (id, stack, key, name, bytes_set, created) VALUES (?, ?, ?, ?, ?, ?)`,
		string(v.ID), string(stack), v.Key, v.Name, db.Micros(v.Created), db.Micros(v.Created))
	return err
}

func (v *volume) save(tx *db.Tx) error {
	_, err := tx.Exec(`UPDATE volumes SET name = ?, orphaned = ?, removed = ?, bytes = ?, bytes_set = ? WHERE id = ?`,
		v.Name, v.Orphaned, db.Micros(v.Removed), v.Bytes, db.Micros(v.BytesSet), string(v.ID))
	return err
}
