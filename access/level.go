package access

import (
	"fmt"
	"slices"

	"github.com/containerd/errdefs"
)

// Level is how much somebody may do with one kind of things in a project.
type Level string

// Levels, each with all that the ones before it have; USE_ONLY and RUN_ONLY are
// the same for different kinds of things. Denied are things that one does not
// even see.
const (
	Denied    Level = "DENIED"
	ReadOnly  Level = "READ_ONLY"
	UseOnly   Level = "USE_ONLY"
	RunOnly   Level = "RUN_ONLY"
	ReadWrite Level = "READ_WRITE"
	Manage    Level = "MANAGE"
)

// rank puts levels in order; what is none is as Denied.
func (l Level) rank() int {
	switch l {
	case ReadOnly:
		return 1
	case UseOnly, RunOnly:
		return 2
	case ReadWrite:
		return 3
	case Manage:
		return 4
	}
	return 0
}

// known tells whether it is a level.
func (l Level) known() bool { return l == Denied || l.rank() > 0 }

// Rights are the levels of somebody in a project.
type Rights struct {
	Pipeline    Level // pipelines, executions, variables, integrations, webhooks
	Repository  Level // git, and the project's own settings
	Sandbox     Level // nothing here is one
	Environment Level // stacks: services, volumes, hostnames
	Target      Level // nothing here is one
	Team        Level // who else is in the project
}

// or gives the higher one of each.
func (r Rights) or(o Rights) Rights {
	higher := func(a, b Level) Level {
		if b.rank() > a.rank() {
			return b
		}
		return a
	}
	return Rights{
		higher(r.Pipeline, o.Pipeline), higher(r.Repository, o.Repository), higher(r.Sandbox, o.Sandbox),
		higher(r.Environment, o.Environment), higher(r.Target, o.Target), higher(r.Team, o.Team),
	}
}

// need is what a scope asks for in a project.
type need struct {
	kind  string
	of    func(Rights) Level
	level Level
}

func needs(s Scope) (need, bool) {
	pipeline := func(l Level) need { return need{"pipeline", func(r Rights) Level { return r.Pipeline }, l} }
	repository := func(l Level) need { return need{"repository", func(r Rights) Level { return r.Repository }, l} }
	environment := func(l Level) need { return need{"environment", func(r Rights) Level { return r.Environment }, l} }
	switch canonical(s) {
	case RepositoryRead:
		return repository(ReadOnly), true
	case RepositoryWrite:
		return repository(ReadWrite), true
	case ProjectWrite, ProjectManage:
		return repository(Manage), true
	case ExecutionInfo, VariableInfo, "INTEGRATION_INFO", "WEBHOOK_INFO", "ENVIRONMENT_INFO":
		return pipeline(ReadOnly), true
	case ExecutionRun:
		return pipeline(RunOnly), true
	case ExecutionManage, VariableAdd, VariableManage, "INTEGRATION_ADD", "INTEGRATION_MANAGE", "WEBHOOK_ADD", "WEBHOOK_MANAGE":
		return pipeline(ReadWrite), true
	case StackRead:
		return environment(ReadOnly), true
	case StackWrite, "ENVIRONMENT_ADD", "ENVIRONMENT_MANAGE":
		return environment(ReadWrite), true
	}
	return need{}, false
}

// may tells whether the rights in a project are enough for what a scope stands
// for: nil, errdefs.ErrNotFound for things that are denied, or
// errdefs.ErrPermissionDenied.
func (r Rights) may(s Scope) error {
	switch canonical(s) {
	case Workspace, ProjectRead:
		return nil // whoever has rights in a project sees it
	}
	n, ok := needs(s)
	if !ok {
		return errOnlyAdmins
	}
	return n.met(r)
}

func (n need) met(r Rights) error {
	switch have := n.of(r); {
	case have.rank() == 0:
		return fmt.Errorf("what the %s access level %s hides: %w", n.kind, Denied, errdefs.ErrNotFound)
	case have.rank() < n.level.rank():
		return fmt.Errorf("the %s access level of the user in this project is %s; %s is needed: %w", n.kind, have, n.level, errdefs.ErrPermissionDenied)
	}
	return nil
}

// mayTeam tells whether they are enough to say who else is in the project.
func (r Rights) mayTeam() error {
	n := need{"project team", func(r Rights) Level { return r.Team }, Manage}
	if r.Team.rank() == 0 {
		return errOnlyAdmins // a project's members are no secret to one of them
	}
	return n.met(r)
}

var (
	errOnlyAdmins = fmt.Errorf("only the owner and administrators of the workspace may: %w", errdefs.ErrPermissionDenied)
	errNoImages   = fmt.Errorf("to change images takes the pipeline access level %s in a project of the workspace, which the user has in none: %w", ReadWrite, errdefs.ErrPermissionDenied)
)

// mayWhole tells whether a member who is no administrator may do in the whole of
// a workspace what a scope stands for: read what belongs to no project, make
// projects, whose manager it is then, and write images if a pipeline of its
// could do that.
func mayWhole(all []Rights, s Scope) error {
	switch canonical(s) {
	case Workspace, ProjectRead, ProjectWrite, ProjectManage, MemberRead, GroupRead, PermissionRead, ImageRead, VariableInfo,
		"INTEGRATION_INFO", "ENVIRONMENT_INFO", "TARGET_INFO", "ZONE_READ", "MEMBER_EMAIL":
		return nil
	case ImageWrite:
		if slices.ContainsFunc(all, func(r Rights) bool { return r.Pipeline.rank() >= ReadWrite.rank() }) {
			return nil
		}
		return errNoImages
	}
	return errOnlyAdmins
}
