package pipeline

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"

	"slipway/access"
	"slipway/db"
	"slipway/project"
)

// Definition is a pipeline with its actions, as code has it: ids, states and
// hidden values are none of it.
type Definition struct {
	Pipeline Pipeline
	Actions  []Action
	// Says are those of Starters that a file has.
	Says []string `json:",omitempty"`
	// Lines are where things stand in the file, by their paths in the pipeline; "" is
	// the pipeline itself. Nil if that is not known.
	Lines map[string]int `json:"-"`
}

// placed says of what is wrong with the nth definition of a list where that stands.
func (d Definition) placed(n int, err error) error {
	bad, ok := project.AsInvalid(err)
	if !ok {
		return fmt.Errorf("import pipeline %q: %w", d.Pipeline.Name, err)
	}
	var inv project.Invalid
	for _, f := range bad.Fields {
		for at := f.Path; ; at = at[:max(0, strings.LastIndexByte(at, '.'))] {
			if line, ok := d.Lines[at]; ok {
				f.Message = fmt.Sprintf("line %d: %s", line, f.Message)
				break
			}
			if at == "" {
				break
			}
		}
		inv.Add(strings.TrimSuffix(fmt.Sprintf("pipelines.%d.%s", n, f.Path), "."), f.Kind, f.Message)
	}
	return inv.Err()
}

// inside gives the paths of what is wrong with a part as those of the whole.
func inside(part string, err error) error {
	bad, ok := project.AsInvalid(err)
	if !ok {
		return err
	}
	var inv project.Invalid
	for _, f := range bad.Fields {
		inv.Add(strings.TrimSuffix(part+"."+f.Path, "."), f.Kind, f.Message)
	}
	return inv.Err()
}

// maxActions bounds the actions of a definition.
const maxActions = 200

func (d Definition) bounded() error {
	var inv project.Invalid
	if n := len(d.Actions); n > maxActions {
		inv.Add("actions", "maximum", fmt.Sprintf("there are %d, and a definition has at most %d", n, maxActions))
	}
	return inv.Err()
}

// Imported is what became of a definition.
type Imported struct {
	Pipeline Pipeline
	Created  bool // else it was there, and was changed
}

// Definition gives a pipeline as code, as far as the actor sees it. What a build action is called stands in
// place of its id.
func (p *Pipelines) Definition(ctx context.Context, by access.Actor, id ID) (Definition, error) {
	pl, err := p.Get(ctx, by, id)
	if err != nil {
		return Definition{}, err
	}
	var d Definition
	err = p.db.Read(ctx, func(tx *db.Tx) error {
		if d.Pipeline, err = loadPipeline(tx, pl.ID); err != nil {
			return err
		}
		d.Actions, err = loadActions(tx, pl.ID)
		return err
	})
	if err != nil {
		return Definition{}, err
	}
	if pl.outside() { // they are in a file already
		d.Actions = nil
	}
	d.Actions = slices.DeleteFunc(d.Actions, func(a Action) bool { return permitAction(by, pl, a, access.ExecutionInfo) != nil })
	for i := range d.Actions {
		d.Actions[i].nameImage(d.Actions)
	}
	return d, nil
}

// nameImage says by its name which build an action takes the image of.
func (a *Action) nameImage(all []Action) {
	from := &ImageFrom{}
	switch {
	case a.Run != nil:
		from = &a.Run.From
	case a.Build != nil:
		from = &a.Build.From
	}
	if from.ID == 0 {
		return
	}
	if i := slices.IndexFunc(all, func(b Action) bool { return b.ID == from.ID }); i >= 0 {
		from.ID, from.Name = 0, all[i].Name
	}
}

// Import makes a project's pipelines what definitions say, all or none of them.
// dialect is the one in whose words they are: what it keeps at an object is
// given with them, what others keep stays.
// A pipeline is known by its identifier, or by its name if none is given, an
// action by its name and kind; what is known keeps its id, its executions and
// its hidden values, what the definition does not have of it goes. Pipelines
// without a definition stay, and so do actions that the actor does not see.
func (p *Pipelines) Import(ctx context.Context, by access.Actor, in project.ID, dialect string, list []Definition) ([]Imported, error) {
	var done []Imported
	err := p.Together(ctx, by, in, func(b *Batch) error {
		done = nil
		for n, d := range list {
			made, err := b.define(dialect, d)
			if err != nil {
				return d.placed(n, err)
			}
			done = append(done, made)
		}
		return nil
	})
	return done, err
}

// define makes one pipeline what its definition says.
func (b *Batch) define(dialect string, d Definition) (done Imported, err error) {
	all, err := b.List()
	if err != nil {
		return done, err
	}
	if err := d.bounded(); err != nil {
		return done, err
	}
	if len(d.Actions) > 0 {
		if err := d.Pipeline.elsewhere(); err != nil {
			return done, err
		}
	}
	i := slices.IndexFunc(all, func(have Pipeline) bool {
		if errdefs.IsNotFound(permit(b.by, have, access.ExecutionInfo)) {
			return false
		}
		if d.Pipeline.Identifier == "" {
			return have.Name == d.Pipeline.Name
		}
		return have.Identifier == d.Pipeline.Identifier
	})
	if i < 0 {
		if done.Pipeline, err = b.p.createIn(b.tx, b.by, b.project, d.Pipeline); err != nil {
			return done, err
		}
		done.Created = true
	} else {
		if err := permit(b.by, all[i], access.ExecutionManage); err != nil {
			return done, err
		}
		done.Pipeline, err = b.p.updateIn(b.tx, all[i].ID, func(n *Pipeline) error {
			d.Pipeline.Attrs = withOthers(dialect, d.Pipeline.Attrs, n.Attrs)
			if d.Pipeline.Identifier == "" {
				d.Pipeline.Identifier = n.Identifier
			}
			old := *n
			*n = d.Pipeline
			n.Project, n.Workspace, n.DefinedBy = old.Project, old.Workspace, old.DefinedBy
			return mayDefine(b.tx, b.by, old.origins(), n)
		})
		if err != nil {
			return done, err
		}
	}
	if d.Pipeline.outside() {
		return done, nil
	}
	return done, b.defineActions(dialect, done.Pipeline, d.Actions)
}

// withOthers adds what other dialects keep at an object to what is given.
func withOthers(dialect string, given, had map[string]json.RawMessage) map[string]json.RawMessage {
	all := map[string]json.RawMessage{}
	for name, v := range had {
		if name != dialect {
			all[name] = v
		}
	}
	maps.Copy(all, given)
	return all
}

// isOne tells whether a definition's action is one that is there: of the same name
// and kind.
func (a Action) isOne(old Action) bool {
	return old.Name == a.Name && (old.Build == nil) == (a.Build == nil) && (a.Build == nil || old.Build.Multi == a.Build.Multi)
}

// defineActions makes the actions of a pipeline those of a definition.
func (b *Batch) defineActions(dialect string, pl Pipeline, want []Action) error {
	have, err := loadActions(b.tx, pl.ID)
	if err != nil {
		return err
	}
	have = slices.DeleteFunc(have, func(a Action) bool { return errdefs.IsNotFound(permitAction(b.by, pl, a, access.ExecutionInfo)) })
	first := ActionID(0)
	last := &first // each goes behind the one before
	for n, a := range want {
		i := slices.IndexFunc(have, a.isOne)
		var now, old Action
		if i < 0 {
			now, err = b.p.createActionIn(b.tx, pl.ID, a, last)
		} else if err = permitAction(b.by, pl, have[i], access.ExecutionManage); err == nil {
			old = have[i]
			now, err = b.p.updateActionIn(b.tx, pl.ID, have[i].ID, func(n *Action) error {
				a.Attrs = withOthers(dialect, a.Attrs, n.Attrs)
				*n = a
				return nil
			}, last)
			have = slices.Delete(have, i, i+1)
		}
		if err == nil {
			err = b.p.mayName(b.tx, b.by, pl.Workspace, *old.registry(), *now.registry())
		}
		if err != nil {
			return inside("actions."+strconv.Itoa(n), fmt.Errorf("action %q: %w", a.Name, err))
		}
		id := now.ID
		last = &id
	}
	for _, old := range have {
		if err := permitAction(b.by, pl, old, access.ExecutionManage); err != nil {
			return err
		}
		if err := deleteAction(b.tx, pl, old.ID); err != nil {
			return err
		}
	}
	return nil
}
