package pipeline

import (
	"bytes"
	"cmp"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"slipway/db"
	"slipway/project"
)

// When a pipeline starts may be written in the file with its definition. What the
// file says then holds for the pipeline in the store, so that the clock, its URL and
// pushes find it there. The switches (disabled, paused) are set when the file says
// another value than before: who must stop a pipeline at once can, and it stays so.

// Said is what of a pipeline its file said when it was read last for the pipeline
// itself.
type Said struct {
	Name    string   // of the file, and where it was
	Members []string // that it has, of those of starters
	Places  []Place  // where it was read
	// The switches as the file said them.
	Disabled bool
	Reason   string
	Paused   bool
}

// Place is a branch or tag whose files say what a pipeline is.
type Place struct {
	Project project.ID
	Ref     string // "" is the default branch
}

// starter is a member of a definition that says when a pipeline starts.
type starter struct {
	name   string
	toggle bool // who may change the pipeline may set it, too
	field  func(*Pipeline) []any
}

// starters are these members.
func starters() []starter {
	return []starter{
		{"on", false, func(p *Pipeline) []any { return []any{&p.On} }},
		{"refs", false, func(p *Pipeline) []any { return []any{&p.Refs} }},
		{"events", false, func(p *Pipeline) []any { return []any{&p.Events} }},
		{"pause_on_repeated_failures", false, func(p *Pipeline) []any { return []any{&p.PauseAfterFailures, &p.PauseAfterGiven} }},
		{"disabled", true, func(p *Pipeline) []any { return []any{&p.Disabled} }},
		{"disabled_reason", true, func(p *Pipeline) []any { return []any{&p.Reason} }},
		{"paused", true, func(p *Pipeline) []any { return []any{&p.Paused} }},
	}
}

// Starters are the names of the members of a definition that say when a pipeline
// starts.
func Starters() (l []string) {
	for _, s := range starters() {
		l = append(l, s.name)
	}
	return l
}

// put gives a pipeline the member of another one.
func (s starter) put(to *Pipeline, from Pipeline) {
	t, f := s.field(to), s.field(&from)
	for i := range t {
		reflect.ValueOf(t[i]).Elem().Set(reflect.ValueOf(f[i]).Elem())
	}
}

// starts lets a pipeline start when another one does.
func (p *Pipeline) starts(as Pipeline) {
	for _, s := range starters() {
		s.put(p, as)
	}
}

// same tells whether two pipelines have the same value of the member.
func (s starter) same(a, b Pipeline) bool {
	x, y := s.field(&a), s.field(&b)
	for i := range x {
		if !same(reflect.ValueOf(x[i]).Elem().Interface(), reflect.ValueOf(y[i]).Elem().Interface()) {
			return false
		}
	}
	return true
}

// said is the pipeline of the store once it has what its file says of when it
// starts. What the file says no more is as if nobody had said it.
func (p Pipeline) said(d *defined) Pipeline {
	was := p.Said
	if was == nil {
		was = &Said{}
	}
	then := Pipeline{Disabled: was.Disabled, Reason: was.Reason, Paused: was.Paused}
	file := Pipeline{}
	now := &Said{Name: d.from.name, Places: d.places}
	for _, s := range starters() {
		is, had := slices.Contains(d.Says, s.name), slices.Contains(was.Members, s.name)
		if is {
			now.Members = append(now.Members, s.name)
			s.put(&file, d.Pipeline)
		}
		if is && (!s.toggle || !had) || had && !s.same(file, then) || had && !is && !s.toggle {
			s.put(&p, file)
		}
	}
	now.Disabled, now.Reason, now.Paused = file.Disabled, file.Reason, file.Paused
	p.Said = now
	return p
}

// onBranch is the pipeline of the store as a push to a branch meets it that has a file
// of its own: that says which pushes start it, and cannot start what is disabled.
func (p Pipeline) onBranch(d *defined) Pipeline {
	n := p.said(d)
	n.Disabled, n.Paused, n.Said = p.Disabled || slices.Contains(d.Says, "disabled") && d.Pipeline.Disabled, p.Paused, p.Said
	if p.Disabled || !n.Disabled {
		n.Reason = p.Reason
	}
	return n
}

// leaves tells whether a change of a pipeline leaves alone what its file says of
// when it starts.
func (p Pipeline) leaves(old Pipeline) error {
	if p.Said == nil {
		return nil
	}
	var inv project.Invalid
	for _, s := range starters() {
		if !s.toggle && slices.Contains(p.Said.Members, s.name) && !s.same(p, old) {
			inv.Add(s.name, "conflict", fmt.Sprintf("is what the file %s says: change it there", p.Said.Name))
		}
	}
	return inv.Err()
}

// where is all that says where the definition of a pipeline is.
func (p Pipeline) where() []any {
	if !p.outside() {
		return nil
	}
	return []any{p.GitConfigRef, p.GitConfig, p.DefinitionSource, p.Remote}
}

// refiled tells whether a pipeline is another part of a file, or of another one, than it
// was.
func (p Pipeline) refiled(old Pipeline) bool {
	return p.Name != old.Name || p.Identifier != old.Identifier || !reflect.DeepEqual(p.where(), old.where())
}

// at tells whether the place is a ref of a project whose default branch is main.
func (l Place) at(pr project.ID, ref, main string) bool {
	if l.Project != pr {
		return false
	}
	name := strings.TrimPrefix(l.Ref, "refs/heads/")
	if l.Ref == "" {
		name = main
	}
	return ref == l.Ref || ref == "refs/heads/"+name || ref == "refs/tags/"+name
}

// placed are the branches and tags at which the pipeline itself says that its
// definition is.
func (p Pipeline) placed() (l []origin) {
	if p.GitConfigRef == fixedFile {
		l = append(l, p.file(nil))
	}
	if p.DefinitionSource == remoteFile {
		l = append(l, p.template())
	}
	return l
}

// definer is in whose name a definition elsewhere is read.
func (p Pipeline) definer() int64 { return cmp.Or(p.DefinedBy, p.CreatedBy) }

// fresh tells whether what was read is for the pipeline as it is in the store now:
// nobody has given it what another look at its file found, or another file.
func (d *defined) fresh(pl Pipeline) bool {
	return d.holds && reflect.DeepEqual(d.own.Said, pl.Said) && !pl.refiled(d.own)
}

// replace gives a pipeline of the store its members anew; its hidden values stay.
func (p *Pipelines) replace(tx *db.Tx, old, n Pipeline) error {
	was, err := specOf(old)
	if err != nil {
		return err
	}
	spec, err := specOf(n)
	if err != nil || bytes.Equal(spec, was) {
		return err
	}
	if _, err := tx.Exec(`UPDATE pipelines SET spec = ? WHERE id = ?`, spec, n.ID); err != nil {
		return err
	}
	return p.arm(tx, &old, n)
}
