package pipeline

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"slipway/access"
	"slipway/db"
	"slipway/project"
	"slipway/source"
)

// What a pipeline does may be written in a file of a repository. The pipeline of
// the store then says what starts it and who may use it, and where the file is;
// the file is read for each execution, which gets a frozen copy of it as of
// actions in the store. Actions are known by name and kind: they have their row,
// and so their id, from the first file that names them on.

// Language is how pipelines are written in files.
type Language struct {
	Dialect string // whose words they are
	// Read reads the pipeline of a file that has the identifier or the name of one
	// of the store, or is the only one in it. What the file does not say is as in
	// that one. All that is wrong is a *project.Invalid; ignored are the members that
	// nobody reads. with are values for the parameters of a template, nil for a file
	// that is none.
	Read func(text []byte, of Pipeline, with []Parameter) (d Definition, ignored []string, err error)
}

// Words for where the definition of a pipeline is.
const (
	fixedFile   = "FIXED"
	dynamicFile = "DYNAMIC"
	remoteFile  = "REMOTE"
)

// GitConfig is the file of a pipeline's definition.
type GitConfig struct {
	Project string // name; "" is the pipeline's own
	Branch  string // "" is the default one
	Path    string
}

// Remote is the file of a template for the definition of a pipeline.
type Remote struct {
	Project    string // name; "" is the pipeline's own
	Ref        string // branch or tag; "" is the default branch
	Path       string
	Parameters []Parameter
}

// Parameter is what stands for a word of a template.
type Parameter struct{ Key, Value string }

// inGit tells whether the definition is in a file of the project or of another
// one, outside whether it is in any file.
func (p Pipeline) inGit() bool   { return p.GitConfigRef == fixedFile || p.GitConfigRef == dynamicFile }
func (p Pipeline) outside() bool { return p.inGit() || p.DefinitionSource == remoteFile }

func (p Pipeline) validateOrigin(inv *project.Invalid) {
	if c := p.GitConfig; c != nil {
		inv.Text("git_config.project", c.Project, textMax)
		inv.Text("git_config.branch", c.Branch, textMax)
		inv.Text("git_config.path", c.Path, textMax)
		repositoryFile(inv, "git_config.path", c.Path)
	}
	if p.GitConfigRef == fixedFile && (p.GitConfig == nil || strings.Trim(p.GitConfig.Path, "/") == "") {
		inv.Add("git_config.path", "required", "is required with git_config_ref FIXED: the file of the definition")
	}
	r := p.Remote
	inv.Text("remote_project_name", r.Project, textMax)
	inv.Text("remote_branch", r.Ref, textMax)
	inv.Text("remote_path", r.Path, textMax)
	repositoryFile(inv, "remote_path", r.Path)
	if p.DefinitionSource == remoteFile && strings.Trim(r.Path, "/") == "" {
		inv.Add("remote_path", "required", "is required with definition_source REMOTE: the file of the template")
	}
	keys := map[string]bool{}
	for i, q := range r.Parameters {
		at := "remote_parameters." + strconv.Itoa(i)
		if keys[q.Key] {
			inv.Add(at+".key", "conflict", "is there twice")
		}
		keys[q.Key] = true
		if !variableKey.MatchString(q.Key) {
			inv.Add(at+".key", "format", "must be letters, digits and _, not beginning with a digit")
		}
		notLonger(inv, nameMax, at+".key", q.Key)
		if inv.NoNUL(at+".value", q.Value); len(q.Value) > maxVariable {
			inv.Add(at+".value", "maximum", fmt.Sprintf("must be at most %d bytes", maxVariable))
		}
	}
}

// origins are the places of a definition that are in a project by its name, by the
// field that names it.
func (p Pipeline) origins() map[string]GitConfig {
	m := map[string]GitConfig{}
	if p.GitConfigRef == fixedFile && p.GitConfig != nil && p.GitConfig.Project != "" {
		m["git_config.project"] = *p.GitConfig
	}
	if r := p.Remote; p.DefinitionSource == remoteFile && r.Project != "" {
		m["remote_project_name"] = GitConfig{r.Project, r.Ref, r.Path}
	}
	return m
}

// names tells whether the pipeline, and so who may change it, says that a definition
// is in a project; its own one needs no saying.
func (p Pipeline) names(project string) bool {
	for _, o := range p.origins() {
		if o.Project == project {
			return true
		}
	}
	return project == ""
}

// mayDefine tells whether the actor may have the definition of a pipeline be where
// n says: in projects whose repositories it may read. What was so before stays: was
// are the origins of then.
func mayDefine(tx *db.Tx, by access.Actor, was map[string]GitConfig, n *Pipeline) error {
	named := n.origins()
	if len(named) == 0 || reflect.DeepEqual(named, was) {
		return nil
	}
	n.DefinedBy = by.User.ID
	var inv project.Invalid
	for at, o := range named {
		if _, err := definitionsIn(tx, by, n.Workspace, n.Project, o.Project); errdefs.IsNotFound(err) || errdefs.IsPermissionDenied(err) {
			inv.Add(at, "unknown", fmt.Sprintf("there is no project %q in the workspace, or its repository is not for you to read", o.Project))
		} else if err != nil {
			return err
		}
	}
	return inv.Err()
}

// definitionsIn finds the project in which a definition is; the actor must be
// allowed to read another one than the pipeline's own.
func definitionsIn(tx *db.Tx, by access.Actor, workspace string, own project.ID, name string) (project.ID, error) {
	if name == "" {
		return own, nil
	}
	pr, err := project.Named(tx, by, workspace, name)
	if errdefs.IsNotFound(err) {
		// Whoever may change the pipeline may have its own project's file be read.
		if p, lerr := project.Load(tx, own); lerr == nil && p.Name == name {
			return own, nil
		}
	}
	if err != nil || pr.ID == own {
		return pr.ID, err
	}
	return pr.ID, by.MayIn(pr.Workspace, string(pr.ID), access.RepositoryRead)
}

// elsewhere is what who wants to change the actions of a pipeline is told whose
// actions are in a file.
func (p Pipeline) elsewhere() error {
	var inv project.Invalid
	switch {
	case p.GitConfigRef == fixedFile && p.GitConfig != nil:
		inv.Add("git_config_ref", "conflict", fmt.Sprintf("the actions of this pipeline are those of %s in the repository: change them there, or set git_config_ref to NONE", p.GitConfig.Path))
	case p.inGit():
		inv.Add("git_config_ref", "conflict", "the actions of this pipeline are those of its file in the repository: change them there, or set git_config_ref to NONE")
	case p.outside():
		inv.Add("definition_source", "conflict", fmt.Sprintf("the actions of this pipeline are those of the template %s: change them there, or set definition_source to LOCAL", p.Remote.Path))
	}
	return inv.Err()
}

// origin is a place to read from.
type origin struct {
	at      string // the field that says so
	project string // name; "" is the own one
	ref     string // "" is the default branch
	commit  string // of the run, with own
	own     bool   // it is in the commit of the run, whose project is the own one
	paths   []string
	with    []Parameter
	theirs  bool  // only a file names the project: by must be allowed to read it, too
	by      int64 // user who started the run
}

// file is where the definition is by git_config_ref, for an execution of a commit.
func (p Pipeline) file(commit *source.Commit) origin {
	if c := p.GitConfig; p.GitConfigRef == fixedFile && c != nil {
		return origin{at: "git_config", project: c.Project, ref: c.Branch, paths: []string{c.Path}}
	}
	o := origin{at: "git_config_ref", own: true}
	if commit != nil {
		o.commit = commit.Revision
	}
	for _, name := range []string{".buddy/" + p.Identifier, "buddy", ".buddy/buddy"} {
		o.paths = append(o.paths, name+".yml", name+".yaml")
	}
	return o
}

// template is where the definition is by definition_source.
func (p Pipeline) template() origin {
	return origin{at: "remote_path", project: p.Remote.Project, ref: p.Remote.Ref, paths: []string{p.Remote.Path}, with: append([]Parameter{}, p.Remote.Parameters...)}
}

// defined is a definition as it was read from a file.
type defined struct {
	Definition
	from    found    // the file, the last one if it is a template
	places  []Place  // where it was read, but for the commit of the run
	own     Pipeline // for which it was read
	holds   bool     // the pipeline of the store is to have what it says of it
	fork    bool     // it is what strangers wrote
	notes   []string // what of it has no effect; they become lines of the log
	unknown []string // those of the notes that are about members that nobody knows
	err     error    // instead
}

// How long an outside repository that is asked for a definition may keep waiting who
// started an execution by hand, and an execution that nobody waits for.
const (
	askedPatience = 15 * time.Second
	ownPatience   = 2 * time.Minute
)

// defineWithin is define within some time.
func (p *Pipelines) defineWithin(ctx context.Context, patience time.Duration, pl Pipeline, of run) (*defined, error) {
	late, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	d, err := p.define(late, pl, of)
	if err != nil && late.Err() != nil && ctx.Err() == nil {
		var inv project.Invalid
		inv.Add("git_config", "unavailable", fmt.Sprintf("the repository of the definition did not answer within %s: try again", patience))
		err = inv.Err()
	}
	return d, err
}

// run is what of an execution matters to its definition.
type run struct {
	commit *source.Commit // nil without one
	pull   string         // the ref of the pull request that it is of, "" of none
	by     int64          // user who started it
	fork   bool           // it is of what strangers wrote
	local  bool           // it is of a working tree
	file   string         // of the working tree, which says what is run in the place of the pipeline; "" is none
}

// holds tells whether what the file of a run says of variables, permissions and when
// the pipeline starts is for the pipeline itself: who may commit to some branch need not be one who may
// change the pipeline. A default branch that cannot be told is another one.
func (p *Pipelines) holds(ctx context.Context, pl Pipeline, of run) bool {
	if of.pull != "" || of.local {
		return false
	}
	if pl.GitConfigRef != dynamicFile { // the file is at one place, whatever the run is of
		return true
	}
	head, err := p.head(ctx, pl.Project, "")
	return err == nil && head != nil && of.commit != nil && head.Revision == of.commit.Revision
}

// define reads the definition of a pipeline for a run. What is wrong with it is a *project.Invalid that names file, line
// and field.
func (p *Pipelines) define(ctx context.Context, pl Pipeline, of run) (*defined, error) {
	d := &defined{Definition: Definition{Pipeline: pl}, own: pl, holds: p.holds(ctx, pl, of), fork: of.fork}
	switch {
	case of.file != "":
		d.Pipeline.DefinitionSource = ""
		o := origin{at: "definition", own: true, commit: of.commit.Revision, paths: []string{of.file}}
		if err := p.readFrom(ctx, pl, d, o); err != nil {
			return nil, err
		}
	case pl.inGit():
		if err := p.readFrom(ctx, pl, d, pl.file(of.commit)); err != nil {
			return nil, err
		}
	}
	if d.Pipeline.DefinitionSource == remoteFile {
		if len(d.Actions) > 0 {
			d.notes = append(d.notes, "actions beside definition_source REMOTE have no effect: those of the template are run")
		}
		d.Actions = nil
		o := d.Pipeline.template()
		if !pl.names(o.project) {
			o.theirs, o.by = true, of.by
		}
		if err := p.readFrom(ctx, pl, d, o); err != nil {
			return nil, err
		}
	}
	if len(d.Actions) == 0 {
		return nil, d.idle()
	}
	if !d.holds && (pl.VariablesByYAML || pl.PermissionsByYAML) {
		d.notes = append(d.notes, "variables and permissions of the pipeline itself stay as they are: this run is not of the last commit of the default branch")
	}
	return d, nil
}

// idle is what is wrong with a definition without actions: a run of it would be
// successful and do nothing.
func (d *defined) idle() error {
	var inv project.Invalid
	// They may be written by a name that is none.
	inv.Add("actions", "required", strings.Join(append([]string{"there are none"}, d.unknown...), "; "))
	return d.from.wrong("", inv.Err())
}

// readFrom adds to a definition what a file says; own is the pipeline of the
// store.
func (p *Pipelines) readFrom(ctx context.Context, own Pipeline, d *defined, o origin) error {
	if p.cfg.Language.Read == nil {
		return errors.New("this server reads no definitions from files")
	}
	f, err := p.open(ctx, own, o)
	if err != nil {
		return err
	}
	before := d.Pipeline
	now, ignored, err := p.cfg.Language.Read(f.text, before, o.with)
	if err != nil {
		return f.wrong("", err)
	}
	if err := now.bounded(); err != nil {
		return f.wrong("", err)
	}
	for _, name := range ignored {
		note := fmt.Sprintf("%s: %s is not known here, and has no effect", f.name, name)
		d.notes, d.unknown = append(d.notes, note), append(d.unknown, note)
	}
	if l := now.Pipeline.keep(own, before, o.with == nil); len(l) > 0 {
		d.notes = append(d.notes, fmt.Sprintf("%s: %s have no effect in a file: what the pipeline itself says holds", f.name, strings.Join(l, ", ")))
	}
	d.Pipeline, d.Actions, d.from = now.Pipeline, now.Actions, f
	d.Says = append(d.Says, now.Says...)
	if !o.own {
		d.places = append(d.places, Place{f.project, o.ref})
	}
	d.notes = append([]string{fmt.Sprintf("the actions are those of %s", f.name)}, d.notes...)
	return nil
}

// found is a file that has a definition.
type found struct {
	at      string // the field that says where it is
	name    string // of the file, and where it is
	project project.ID
	text    []byte
}

// wrong says of everything that is wrong with a definition in which file it is;
// what is the part of it that is meant.
func (f found) wrong(what string, err error) error {
	bad, ok := project.AsInvalid(err)
	if !ok {
		return fmt.Errorf("%s: %s%w", f.name, what, err)
	}
	var inv project.Invalid
	for _, b := range bad.Fields {
		text := what + b.Message
		if b.Path != "" {
			text = what + b.Path + ": " + b.Message
		}
		inv.Add(f.at, b.Kind, f.name+": "+text)
	}
	return inv.Err()
}

// wrong says what is wrong with the place.
func (o origin) wrong(kind, format string, a ...any) error {
	var inv project.Invalid
	inv.Add(o.at, kind, fmt.Sprintf(format, a...))
	return inv.Err()
}

// open finds the file of a definition.
func (p *Pipelines) open(ctx context.Context, own Pipeline, o origin) (found, error) {
	t, err := p.look(ctx, own, o)
	if err != nil {
		return found{}, err
	}
	for _, path := range o.paths {
		text, err := p.sources.File(ctx, t.project, t.commit, path)
		if errdefs.IsNotFound(err) {
			continue
		}
		if err != nil {
			return found{}, o.unreadable(path, err)
		}
		return found{at: o.at, name: strings.Trim(path, "/") + " at " + t.name, project: t.project, text: text}, nil
	}
	return found{}, o.wrong("unknown", "there is no file %s at %s", strings.Join(o.paths, ", "), t.name)
}

// unreadable says why a file that is there could not be read.
func (o origin) unreadable(path string, err error) error {
	if _, ok := project.AsInvalid(err); ok || errdefs.IsOutOfRange(err) {
		return o.wrong("format", "%s: %v", path, err)
	}
	if errdefs.IsUnavailable(err) || errdefs.IsFailedPrecondition(err) {
		return o.wrong("unavailable", "%s: %v", path, err)
	}
	return fmt.Errorf("read %s: %w", path, err)
}

// tree is the commit whose files a definition is among.
type tree struct {
	project project.ID
	commit  string
	name    string // for people
}

// look finds the commit of an origin.
func (p *Pipelines) look(ctx context.Context, own Pipeline, o origin) (t tree, err error) {
	if o.own {
		t = tree{own.Project, o.commit, "commit " + short(o.commit)}
	} else if t, err = p.lookAt(ctx, own, o); err != nil {
		return t, err
	}
	if t.commit == "" {
		return t, o.wrong("unknown", "the repository has no commit yet, and so no file with the definition")
	}
	return t, nil
}

// lookAt is look for a branch or tag of a project.
func (p *Pipelines) lookAt(ctx context.Context, own Pipeline, o origin) (t tree, err error) {
	hidden := func(err error) bool { return errdefs.IsNotFound(err) || errdefs.IsPermissionDenied(err) }
	if o.theirs {
		_, err := p.definitionProject(ctx, own, o.by, o.project)
		if hidden(err) {
			return t, o.wrong("unknown", "the file says remote_project_name %[1]q: there is no project %[1]q in the workspace, or who started the run may not read its repository; the pipeline itself may name it", o.project)
		}
		if err != nil {
			return t, err
		}
	}
	t.project, err = p.definitionProject(ctx, own, own.definer(), o.project)
	if hidden(err) {
		return t, o.wrong("unknown", "there is no project %q in the workspace, or who said that the definition is there may not read its repository", o.project)
	}
	if err != nil {
		return t, err
	}
	where, of := cmp.Or(o.ref, "its default branch"), cmp.Or(o.project, "the pipeline")
	c, err := p.head(ctx, t.project, o.ref)
	switch {
	case errdefs.IsNotFound(err):
		return t, o.wrong("unknown", "there is no %s in the repository of project %s", where, of)
	case errdefs.IsUnavailable(err):
		return t, o.wrong("unavailable", "%v", err)
	case err != nil:
		return t, o.wrong("format", "%s of project %s: %v", where, of, err)
	}
	t.name = where
	if c != nil {
		t.commit = c.Revision
		t.name = fmt.Sprintf("%s (commit %s)", where, short(c.Revision))
	}
	if o.project != "" {
		t.name += " of project " + o.project
	}
	return t, nil
}

// head is the commit of a branch or tag, "" being the default branch.
func (p *Pipelines) head(ctx context.Context, in project.ID, ref string) (*source.Commit, error) {
	return p.sources.Resolve(ctx, in, "", cmp.Or(ref, "HEAD"))
}

// definitionProject finds the project of a definition, in the name of a user.
func (p *Pipelines) definitionProject(ctx context.Context, own Pipeline, user int64, name string) (id project.ID, err error) {
	err = p.db.Read(ctx, func(tx *db.Tx) error {
		by, err := access.As(tx, user, access.ProjectRead, access.RepositoryRead)
		if err != nil {
			return err
		}
		id, err = definitionsIn(tx, by, own.Workspace, own.Project, name)
		return err
	})
	return id, err
}

// keep puts back what a file does not say of a pipeline, and gives the names of
// what it said all the same. own is the pipeline of the store, before the one that
// the file was read over; where it is a template it may be said in a file.
func (p *Pipeline) keep(own, before Pipeline, chain bool) (vain []string) {
	p.ID, p.Project, p.Workspace, p.Name, p.Identifier = own.ID, own.Project, own.Workspace, own.Name, own.Identifier
	p.Created, p.CreatedBy, p.DefinedBy = own.Created, own.CreatedBy, own.DefinedBy
	p.LastStatus, p.LastRevision, p.Attrs, p.Said = own.LastStatus, own.LastRevision, own.Attrs, own.Said
	putBack(&vain, "git_config_ref", &p.GitConfigRef, own.GitConfigRef, before.GitConfigRef)
	putBack(&vain, "git_config", &p.GitConfig, own.GitConfig, before.GitConfig)
	putBack(&vain, "manage_variables_by_yaml", &p.VariablesByYAML, own.VariablesByYAML, before.VariablesByYAML)
	putBack(&vain, "manage_permissions_by_yaml", &p.PermissionsByYAML, own.PermissionsByYAML, before.PermissionsByYAML)
	if !own.VariablesByYAML {
		putBack(&vain, "variables (without manage_variables_by_yaml)", &p.Variables, own.Variables, before.Variables)
	}
	if !own.PermissionsByYAML {
		putBack(&vain, "permissions (without manage_permissions_by_yaml)", &p.Permissions, own.Permissions, before.Permissions)
	}
	if !chain {
		putBack(&vain, "definition_source", &p.DefinitionSource, before.DefinitionSource, before.DefinitionSource)
		putBack(&vain, "remote_project_name, remote_branch, remote_path, remote_parameters", &p.Remote, before.Remote, before.Remote)
	}
	return vain
}

// putBack gives a field the value of the pipeline of the store, and notes its name
// if the file says something else than before.
func putBack[T any](vain *[]string, name string, to *T, own, before T) {
	if !same(*to, before) {
		*vain = append(*vain, name)
	}
	*to = own
}

// same tells whether two values of a field say the same: no list is an empty one.
func same(a, b any) bool {
	x, y := reflect.ValueOf(a), reflect.ValueOf(b)
	if x.Kind() == reflect.Slice && x.Len() == 0 && y.Len() == 0 {
		return true
	}
	return reflect.DeepEqual(a, b)
}
