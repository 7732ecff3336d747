package pipeline

import (
	"context"
	"fmt"
	"slices"

	"github.com/containerd/errdefs"

	"slipway/access"
	"slipway/db"
)

// level gives what permissions leave to a user who is in some groups: its own
// grant, else the highest of its groups', else that of all others. "" narrows
// nothing.
func (p *Permissions) level(user int64, groups []int64) access.Level {
	if p == nil {
		return ""
	}
	for _, g := range p.Users {
		if g.ID == user {
			return narrowing(g.Level)
		}
	}
	best := -1
	for _, g := range p.Groups {
		if slices.Contains(groups, g.ID) {
			best = max(best, slices.Index(levels(), narrowing(g.Level)))
		}
	}
	if best >= 0 {
		return levels()[best]
	}
	return narrowing(p.Others)
}

// levels are what permissions leave, the highest last.
func levels() []access.Level {
	return []access.Level{access.Denied, access.ReadOnly, access.RunOnly, access.ReadWrite, ""}
}

// lowest is the lowest of some words of permissions.
func lowest(words ...string) string {
	return slices.MinFunc(words, func(a, b string) int {
		return slices.Index(levels(), narrowing(a)) - slices.Index(levels(), narrowing(b))
	})
}

// both are permissions that leave nobody more than either of two. Who is in which
// group is not known: whoever is named in one alone is left the least that the other
// leaves to anybody who is not named in it.
func both(a, b *Permissions) *Permissions {
	switch {
	case a.Empty():
		return b
	case b.Empty():
		return a
	}
	of := func(p *Permissions, named []Grant, id int64) string {
		if i := slices.IndexFunc(named, func(g Grant) bool { return g.ID == id }); i >= 0 {
			return named[i].Level
		}
		words := []string{p.Others}
		for _, g := range p.Groups {
			words = append(words, g.Level)
		}
		return lowest(words...)
	}
	grants := func(named func(*Permissions) []Grant) (l []Grant) {
		for _, g := range slices.Concat(named(a), named(b)) {
			if !slices.ContainsFunc(l, func(had Grant) bool { return had.ID == g.ID }) {
				l = append(l, Grant{g.ID, lowest(of(a, named(a), g.ID), of(b, named(b), g.ID))})
			}
		}
		return l
	}
	return &Permissions{
		Others: lowest(a.Others, b.Others),
		Users:  grants(func(p *Permissions) []Grant { return p.Users }),
		Groups: grants(func(p *Permissions) []Grant { return p.Groups }),
	}
}

// narrowest is both for the permissions of all actions; nil if none has any.
func narrowest(all []Action) (p *Permissions) {
	for _, a := range all {
		p = both(p, a.Permissions)
	}
	return p
}

// narrowing gives the level that a word of permissions stands for, "" for those
// that leave it at what the project gives.
func narrowing(word string) access.Level {
	switch l := access.Level(word); l {
	case access.Denied, access.ReadOnly, access.RunOnly, access.ReadWrite:
		return l
	}
	return "" // DEFAULT, ALLOWED
}

// narrow tells whether a level that permissions leave is enough for what a scope
// stands for: nil, errdefs.ErrNotFound for what is hidden, or
// errdefs.ErrPermissionDenied.
func narrow(l access.Level, s access.Scope) error {
	enough := false
	switch l {
	case "", access.ReadWrite:
		enough = true
	case access.Denied:
		return errdefs.ErrNotFound
	case access.RunOnly:
		enough = s == access.ExecutionInfo || s == access.ExecutionRun
	case access.ReadOnly:
		enough = s == access.ExecutionInfo
	}
	if !enough {
		return fmt.Errorf("its permissions leave %s to the user: %w", l, errdefs.ErrPermissionDenied)
	}
	return nil
}

// permitted tells whether permissions leave to the actor what a scope stands
// for. Whoever runs the workspace is not narrowed: it could undo it.
func permitted(by access.Actor, workspace string, p *Permissions, s access.Scope) error {
	if p.Empty() || by.Runs(workspace) {
		return nil
	}
	return narrow(p.level(by.User.ID, by.Groups()), s)
}

// permit is permitted for a pipeline.
func permit(by access.Actor, pl Pipeline, s access.Scope) error {
	if err := permitted(by, pl.Workspace, pl.Permissions, s); err != nil {
		return fmt.Errorf("pipeline %d: %w", pl.ID, err)
	}
	return nil
}

// permitAction is permitted for an action of a pipeline that the actor may use
// so.
func permitAction(by access.Actor, pl Pipeline, a Action, s access.Scope) error {
	if err := permitted(by, pl.Workspace, a.Permissions, s); err != nil {
		return fmt.Errorf("action %d of pipeline %d: %w", a.ID, pl.ID, err)
	}
	return nil
}

// permitRun tells whether the actor may run all of some actions that are to be
// run; one that it does not see is not named.
func permitRun(by access.Actor, pl Pipeline, actions []Action, only []ActionID) error {
	for _, a := range actions {
		if len(only) > 0 && !slices.Contains(only, a.ID) || a.Disabled {
			continue
		}
		err := permitAction(by, pl, a, access.ExecutionRun)
		switch {
		case errdefs.IsNotFound(err):
			return fmt.Errorf("pipeline %d has an action that the user may not run: %w", pl.ID, errdefs.ErrPermissionDenied)
		case err != nil:
			return err
		}
	}
	return nil
}

// permitStart is permitRun for an execution that is to be started.
func (p *Pipelines) permitStart(tx *db.Tx, by access.Actor, pl Pipeline, only []ActionID) error {
	if by.Runs(pl.Workspace) {
		return nil
	}
	actions, err := loadActions(tx, pl.ID)
	if err != nil {
		return err
	}
	return permitRun(by, pl, actions, only)
}

// show tells whether the actor may do what a scope stands for with an execution
// by the permissions of its pipeline as they are now, and leaves out the actions
// that it does not see. Those of a pipeline or action that is gone are as they
// were.
func show(tx *db.Tx, by access.Actor, x *Execution, s access.Scope) error {
	if by.Runs(x.Workspace) {
		return nil
	}
	pl, err := loadPipeline(tx, x.Pipeline)
	if errdefs.IsNotFound(err) {
		pl, err = x.Frozen, nil
		pl.ID, pl.Workspace = x.Pipeline, x.Workspace
	}
	if err != nil {
		return err
	}
	if err := permit(by, pl, s); err != nil {
		return err
	}
	now, err := loadActions(tx, x.Pipeline)
	if err != nil {
		return err
	}
	x.Steps = slices.DeleteFunc(x.Steps, func(st ActionExecution) bool {
		return errdefs.IsNotFound(permitAction(by, pl, asNow(st.Action, now), access.ExecutionInfo))
	})
	return nil
}

// asNow is an action as it is now, if it is among those of now.
func asNow(a Action, now []Action) Action {
	if i := slices.IndexFunc(now, func(n Action) bool { return n.ID == a.ID }); i >= 0 {
		return now[i]
	}
	return a
}

// shown is show for an execution that was just started or found.
func (p *Pipelines) shown(ctx context.Context, by access.Actor, x Execution) (Execution, error) {
	if by.Runs(x.Workspace) {
		return x, nil
	}
	if err := p.db.Read(ctx, func(tx *db.Tx) error { return show(tx, by, &x, access.ExecutionInfo) }); err != nil {
		return Execution{}, err
	}
	return x, nil
}

// mayOperate tells whether permissions leave an operation on an execution to the
// actor: whoever makes it go on must be allowed to run all that is run then.
func (p *Pipelines) mayOperate(tx *db.Tx, by access.Actor, x Execution, op Operation) error {
	seen := x
	seen.Steps = slices.Clone(x.Steps)
	if err := show(tx, by, &seen, access.ExecutionRun); err != nil || op == OpCancel || by.Runs(x.Workspace) {
		return err
	}
	pl, err := loadPipeline(tx, x.Pipeline)
	if err != nil {
		return err
	}
	if !x.own {
		return p.permitStart(tx, by, pl, x.Only)
	}
	now, err := loadActions(tx, x.Pipeline)
	if err != nil {
		return err
	}
	var actions []Action // the file may have others by now
	for _, s := range x.Steps {
		a := asNow(s.Action, now)
		a.Disabled = s.Action.Disabled
		actions = append(actions, a)
	}
	return permitRun(by, pl, actions, x.Only)
}
