package secret

import (
	"context"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/uuid"

	"slipway/access"
	"slipway/db"
	"slipway/project"
)

// Secrets is the front door.
type Secrets struct {
	db       *db.DB
	box      *Box
	projects *project.Projects
}

// New makes the front door. See Box.Guard for what comes before.
func New(d *db.DB, b *Box, p *project.Projects) *Secrets { return &Secrets{d, b, p} }

// Box gives the box, for rooms that seal columns of their own.
func (s *Secrets) Box() *Box { return s.box }

// allow tells whether the actor may do something with the variables of a scope.
func allow(tx *db.Tx, by access.Actor, at Scope, right access.Scope) error {
	if at.Project == "" {
		if (at.Pipeline != 0 || at.Action != 0) && !by.Runs(at.Workspace) { // it is that of a project, and nobody says which
			return fmt.Errorf("variables: %w", errdefs.ErrNotFound)
		}
		return by.May(at.Workspace, right)
	}
	if err := by.MayIn(at.Workspace, string(at.Project), right); err != nil {
		return err
	}
	p, err := project.Load(tx, at.Project)
	if err == nil && p.Workspace != at.Workspace {
		err = fmt.Errorf("project %s: %w", at.Project, errdefs.ErrNotFound)
	}
	return err
}

var nothingKept = &project.Invalid{Fields: []project.Field{{
	Path: "value", Kind: "required", Message: "there is no value yet that " + Encrypted + " could stand for",
}}}

// CreateVariable makes a variable. A key that its scope has already is
// errdefs.ErrAlreadyExists.
func (s *Secrets) CreateVariable(ctx context.Context, by access.Actor, v Variable) (Variable, error) {
	v = v.whole()
	err := s.db.Write(ctx, func(tx *db.Tx) (err error) {
		if v.Scope, err = placed(tx, v.Scope); err != nil {
			return err
		}
		if err := allow(tx, by, v.Scope, access.VariableAdd); err != nil {
			return err
		}
		if err := v.Validate(); err != nil {
			return err
		}
		if v.Encrypted && v.Value == Encrypted {
			return nothingKept
		}
		if err := s.giveKey(tx, v.Scope); err != nil {
			return err
		}
		v, err = s.insertWhole(tx, v)
		return err
	})
	if err != nil {
		return Variable{}, err
	}
	return v.hidden(), nil
}

// insertWhole writes a new variable with its value.
func (s *Secrets) insertWhole(tx *db.Tx, v Variable) (_ Variable, err error) {
	v.Updated = tx.Now
	if v.ID, err = insertVariable(tx, v); err != nil {
		return Variable{}, err
	}
	return v, s.saveVariable(tx, v)
}

// Variables lists the variables of exactly that scope, oldest first. A new
// workspace or project has one, a key of its own.
func (s *Secrets) Variables(ctx context.Context, by access.Actor, at Scope) (list []Variable, err error) {
	var has bool
	err = s.db.Read(ctx, func(tx *db.Tx) (err error) {
		if at, err = placed(tx, at); err != nil {
			return err
		}
		if err := allow(tx, by, at, access.VariableInfo); err != nil {
			return err
		}
		if has, err = hasKey(tx, at); err != nil {
			return err
		}
		list, err = s.variables(tx, `WHERE workspace = ? AND place = ? ORDER BY id`, at.Workspace, at.place())
		return err
	})
	if err == nil && !has {
		err = s.db.Write(ctx, func(tx *db.Tx) (err error) {
			list, err = s.withKey(tx, by, at)
			return err
		})
	}
	for i := range list {
		list[i] = list[i].hidden()
	}
	return list, err
}

// Variable gives one variable.
func (s *Secrets) Variable(ctx context.Context, by access.Actor, id int64) (v Variable, err error) {
	err = s.db.Read(ctx, func(tx *db.Tx) (err error) {
		v, err = s.seen(tx, by, id, access.VariableInfo)
		return err
	})
	return v.hidden(), err
}

// OpenKey gives the private key that a variable of a workspace holds, for the
// server to use: whoever may use the variable in a pipeline may have it used. One
// that is not there, or holds no key, is errdefs.ErrNotFound.
func (s *Secrets) OpenKey(ctx context.Context, by access.Actor, workspace string, id int64) (key string, err error) {
	err = s.db.Read(ctx, func(tx *db.Tx) error {
		v, err := s.seen(tx, by, id, access.VariableInfo)
		if err == nil && (v.Scope.Workspace != workspace || v.Type != SSHKey) {
			err = fmt.Errorf("key %d: %w", id, errdefs.ErrNotFound)
		}
		key = v.Value
		return err
	})
	if err != nil {
		return "", err
	}
	return key, nil
}

// seen loads a variable for an actor that may do something with it.
func (s *Secrets) seen(tx *db.Tx, by access.Actor, id int64, right access.Scope) (Variable, error) {
	l, err := s.variables(tx, `WHERE id = ?`, id)
	if err != nil {
		return Variable{}, err
	}
	gone := fmt.Errorf("variable %d: %w", id, errdefs.ErrNotFound)
	if len(l) == 0 || !by.Sees(l[0].Scope.Workspace) {
		return Variable{}, gone
	}
	if err := allow(tx, by, l[0].Scope, right); errdefs.IsNotFound(err) { // its project is deleted
		return Variable{}, gone
	} else if err != nil {
		return Variable{}, err
	}
	return l[0], nil
}

// UpdateVariable changes a variable by change, which gets it as it is (a hidden
// value as Encrypted) and must do nothing slow; what it does to id, scope and
// what is read only does not count. A value left as Encrypted stays. A value that
// was hidden does not come to light by this: to end its encryption a new one is
// needed.
func (s *Secrets) UpdateVariable(ctx context.Context, by access.Actor, id int64, change func(*Variable) error) (v Variable, err error) {
	err = s.db.Write(ctx, func(tx *db.Tx) error {
		old, err := s.seen(tx, by, id, access.VariableManage)
		if err != nil {
			return err
		}
		v = old.hidden()
		if err := change(&v); err != nil {
			return err
		}
		v.ID, v.Scope, v.Updated, v.Public = old.ID, old.Scope, tx.Now, Public{}
		v = v.whole()
		if v.Value == Encrypted {
			if old.Encrypted && !v.Encrypted {
				return &project.Invalid{Fields: []project.Field{{
					Path: "value", Kind: "required", Message: "must be given anew when the variable is no longer encrypted",
				}}}
			}
			if v.Encrypted {
				v.Value = old.Value
			}
		}
		if err := v.Validate(); err != nil {
			return err
		}
		return s.saveVariable(tx, v)
	})
	if err != nil {
		return Variable{}, err
	}
	return v.hidden(), nil
}

// DeleteVariable removes a variable.
func (s *Secrets) DeleteVariable(ctx context.Context, by access.Actor, id int64) error {
	return s.db.Write(ctx, func(tx *db.Tx) error {
		if _, err := s.seen(tx, by, id, access.VariableManage); err != nil {
			return err
		}
		_, err := tx.Exec(`DELETE FROM variables WHERE id = ?`, id)
		return err
	})
}

// Drop removes the variables of exactly that scope, in the transaction in which
// its room removes the pipeline or action. Those of a project go with it.
func Drop(tx *db.Tx, at Scope) error {
	_, err := tx.Exec(`DELETE FROM variables WHERE workspace = ? AND place = ?`, at.Workspace, at.place())
	return err
}

// Effective gives the variables that hold at a scope with their true values,
// narrower ones winning, by key. It is for the runner, at the moment of a call.
func (s *Secrets) Effective(ctx context.Context, at Scope) (list []Variable, err error) {
	err = s.db.Read(ctx, func(tx *db.Tx) (err error) {
		list, err = s.effective(tx, at)
		return err
	})
	return list, err
}

// EffectiveIn is Effective in a transaction of the caller's.
func (s *Secrets) EffectiveIn(tx *db.Tx, at Scope) ([]Variable, error) { return s.effective(tx, at) }

// SetIn gives a settable variable that holds at a scope a new value, as a
// command in a container does by exporting it; with hide it is encrypted from
// then on, if it was not. Others are left alone; it tells whether there was one.
func (s *Secrets) SetIn(tx *db.Tx, at Scope, key, value string, hide bool) (found bool, err error) {
	l, err := s.effective(tx, at)
	if err != nil {
		return false, err
	}
	for _, v := range l {
		if v.Key != key || !v.Settable || v.Type != Var {
			continue
		}
		v.Value, v.Encrypted, v.Updated = value, v.Encrypted || hide, tx.Now
		if err := (Variable{Key: key, Value: value, Type: Var, FilePlace: None}).Validate(); err != nil {
			return true, fmt.Errorf("variable %s: %w", key, err)
		}
		return true, s.saveVariable(tx, v)
	}
	return false, nil
}

// CreateLoginIn makes a login of a project. A host that has one already is
// errdefs.ErrAlreadyExists. Logins are changed by who may change stacks.
func (s *Secrets) CreateLoginIn(tx *db.Tx, by access.Actor, l Login) (Login, error) {
	if err := s.newLogin(tx, by, l); err != nil {
		return Login{}, err
	}
	if err := s.giveUsual(tx, l.Project); err != nil {
		return Login{}, err
	}
	l.ID, l.Valid, l.Checked = uuid.NewString(), false, time.Time{}
	return l.hidden(), s.insertLogin(tx, l)
}

// newLogin tells whether the actor may make that login.
func (s *Secrets) newLogin(tx *db.Tx, by access.Actor, l Login) error {
	if err := s.allowLogin(tx, by, l.Project, access.StackWrite); err != nil {
		return err
	}
	var bad project.Invalid
	if l.Password == Encrypted {
		bad.Add("password", "required", nothingKept.Fields[0].Message)
	}
	l.validate(&bad)
	if err := bad.Err(); err != nil {
		return err
	}
	return hostFree(tx, l)
}

func (s *Secrets) allowLogin(tx *db.Tx, by access.Actor, id project.ID, right access.Scope) error {
	p, err := project.Load(tx, id)
	if err != nil {
		return err
	}
	if !by.SeesProject(p.Workspace, string(p.ID)) {
		return fmt.Errorf("project %s: %w", id, errdefs.ErrNotFound)
	}
	return by.MayIn(p.Workspace, string(p.ID), right)
}

// Logins lists the logins of a project, oldest first. A new project has the
// usual public registries, without credentials.
func (s *Secrets) Logins(ctx context.Context, by access.Actor, id project.ID) ([]Login, error) {
	var list []Login
	var usual bool
	err := s.db.Read(ctx, func(tx *db.Tx) (err error) {
		if err := s.allowLogin(tx, by, id, access.StackRead); err != nil {
			return err
		}
		if usual, err = hasUsual(tx, id); err != nil {
			return err
		}
		list, err = s.logins(tx, `WHERE project = ? ORDER BY created, rank, id`, string(id))
		return err
	})
	if err == nil && !usual {
		err = s.db.Write(ctx, func(tx *db.Tx) (err error) {
			if err := s.giveUsual(tx, id); err != nil {
				return err
			}
			list, err = s.logins(tx, `WHERE project = ? ORDER BY created, rank, id`, string(id))
			return err
		})
	}
	for i := range list {
		list[i] = list[i].hidden()
	}
	return list, err
}

// Login gives one login.
func (s *Secrets) Login(ctx context.Context, by access.Actor, id string) (l Login, err error) {
	err = s.db.Read(ctx, func(tx *db.Tx) (err error) {
		l, err = s.seenLogin(tx, by, id, access.StackRead)
		return err
	})
	return l.hidden(), err
}

func (s *Secrets) seenLogin(tx *db.Tx, by access.Actor, id string, right access.Scope) (Login, error) {
	list, err := s.logins(tx, `WHERE id = ?`, id)
	if err != nil {
		return Login{}, err
	}
	gone := fmt.Errorf("registry %s: %w", id, errdefs.ErrNotFound)
	if len(list) == 0 {
		return Login{}, gone
	}
	if err := s.allowLogin(tx, by, list[0].Project, right); errdefs.IsNotFound(err) {
		return Login{}, gone
	} else if err != nil {
		return Login{}, err
	}
	return list[0], nil
}

// UpdateLoginIn replaces a login but for its id and project; a password given as
// Encrypted stays unless the host becomes another one: who may change a login
// need not be one who may know its password. What the last check said is
// forgotten when the host or the credentials change. A host that has another
// login is errdefs.ErrAlreadyExists.
func (s *Secrets) UpdateLoginIn(tx *db.Tx, by access.Actor, l Login) (Login, error) {
	l, _, err := s.changedLogin(tx, by, l)
	if err != nil {
		return Login{}, err
	}
	return l.hidden(), s.updateLogin(tx, l)
}

// changedLogin gives a login as a change leaves it, with its password, if the
// actor may make that change. fresh tells that no check has seen it like that.
func (s *Secrets) changedLogin(tx *db.Tx, by access.Actor, l Login) (_ Login, fresh bool, err error) {
	old, err := s.seenLogin(tx, by, l.ID, access.StackWrite)
	if err != nil {
		return Login{}, false, err
	}
	l.Project, l.Valid, l.Checked = old.Project, old.Valid, old.Checked
	var bad project.Invalid
	if l.Password == Encrypted {
		if l.Password = old.Password; l.Password != "" && l.Host != old.Host {
			bad.Add("password", "required", "is to be given anew for another host")
		}
	}
	l.validate(&bad)
	if err := bad.Err(); err != nil {
		return Login{}, false, err
	}
	if l.Host != old.Host || l.Username != old.Username || l.Password != old.Password {
		l.Valid, l.Checked, fresh = false, time.Time{}, true
	}
	return l, fresh, hostFree(tx, l)
}

// TryLogin tells what CreateLoginIn, or with an ID UpdateLoginIn, would refuse.
// It gives the login with its password, for the check at its registry that
// comes before; fresh tells that it needs one.
func (s *Secrets) TryLogin(ctx context.Context, by access.Actor, l Login) (open Login, fresh bool, err error) {
	err = s.db.Read(ctx, func(tx *db.Tx) (err error) {
		if l.ID == "" {
			open, fresh = l, true
			return s.newLogin(tx, by, l)
		}
		open, fresh, err = s.changedLogin(tx, by, l)
		return err
	})
	return open, fresh, err
}

// DeleteLogin removes a login.
func (s *Secrets) DeleteLogin(ctx context.Context, by access.Actor, id string) error {
	return s.db.Write(ctx, func(tx *db.Tx) error {
		if _, err := s.seenLogin(tx, by, id, access.StackWrite); err != nil {
			return err
		}
		_, err := tx.Exec(`DELETE FROM logins WHERE id = ?`, id)
		return err
	})
}

// OpenLogins gives the logins of a project with their passwords, for the
// engine, at the moment of a call. Those without credentials are left out.
func (s *Secrets) OpenLogins(ctx context.Context, id project.ID) (list []Login, err error) {
	err = s.db.Read(ctx, func(tx *db.Tx) (err error) {
		list, err = s.logins(tx, `WHERE project = ? AND username <> '' ORDER BY created, rank, id`, string(id))
		return err
	})
	return list, err
}

// LoginsToCheck gives the logins, with their passwords, whose registries have
// not answered since a time.
func (s *Secrets) LoginsToCheck(ctx context.Context, since time.Time) (list []Login, err error) {
	err = s.db.Read(ctx, func(tx *db.Tx) (err error) {
		list, err = s.logins(tx, `WHERE username <> '' AND (checked IS NULL OR checked < ?)
			AND project IN (SELECT id FROM projects WHERE deleted IS NULL) ORDER BY checked, id`, since.UnixMicro())
		return err
	})
	return list, err
}

// Checked notes what the registry of a login, given with its password, has
// answered. A login that is another one by now, or gone, is left alone.
func (s *Secrets) Checked(ctx context.Context, l Login, valid bool) error {
	return s.db.Write(ctx, func(tx *db.Tx) error {
		_, err := s.CheckedIn(tx, l, valid)
		return err
	})
}

// CheckedIn is Checked in the caller's transaction. It tells whether the login
// is still that one.
func (s *Secrets) CheckedIn(tx *db.Tx, l Login, valid bool) (same bool, err error) {
	now, err := s.logins(tx, `WHERE id = ?`, l.ID)
	if err != nil || len(now) == 0 || now[0].Host != l.Host || now[0].Username != l.Username || now[0].Password != l.Password {
		return false, err
	}
	_, err = tx.Exec(`UPDATE logins SET valid = ?, checked = ? WHERE id = ?`, valid, tx.Now.UnixMicro(), l.ID)
	return err == nil, err
}
