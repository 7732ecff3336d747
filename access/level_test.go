package access

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

// What the levels of a project leave to somebody, for every scope that is about
// things of a project, and for every one that is not.
func TestLevels(t *testing.T) {
	t.Parallel()
	const ok, no, hidden = "ok", "no", "hidden"
	say := func(err error) string {
		switch {
		case err == nil:
			return ok
		case errdefs.IsNotFound(err):
			return hidden
		case errdefs.IsPermissionDenied(err):
			return no
		}
		return err.Error()
	}
	everywhere := func(l Level) Rights { return Rights{l, l, l, l, l, l} }
	levels := []Level{"", Denied, ReadOnly, UseOnly, RunOnly, ReadWrite, Manage}
	for s, want := range map[Scope][7]string{ // for each of the levels
		Workspace:       {ok, ok, ok, ok, ok, ok, ok},
		ProjectRead:     {ok, ok, ok, ok, ok, ok, ok},
		RepositoryRead:  {hidden, hidden, ok, ok, ok, ok, ok},
		RepositoryWrite: {hidden, hidden, no, no, no, ok, ok},
		ProjectWrite:    {hidden, hidden, no, no, no, no, ok},
		ExecutionInfo:   {hidden, hidden, ok, ok, ok, ok, ok},
		"PIPELINE_READ": {hidden, hidden, ok, ok, ok, ok, ok},
		ExecutionRun:    {hidden, hidden, no, ok, ok, ok, ok},
		ExecutionManage: {hidden, hidden, no, no, no, ok, ok},
		VariableInfo:    {hidden, hidden, ok, ok, ok, ok, ok},
		VariableAdd:     {hidden, hidden, no, no, no, ok, ok},
		StackRead:       {hidden, hidden, ok, ok, ok, ok, ok},
		StackWrite:      {hidden, hidden, no, no, no, ok, ok},
		ProjectDelete:   {no, no, no, no, no, no, no},
		MemberManage:    {no, no, no, no, no, no, no},
		TokenManage:     {no, no, no, no, no, no, no},
		"NONSENSE":      {no, no, no, no, no, no, no},
	} {
		for i, l := range levels {
			if got := say(everywhere(l).may(s)); got != want[i] {
				t.Errorf("%s with %q: %s, want %s", s, l, got, want[i])
			}
		}
	}
	for i, want := range [7]string{no, no, no, no, no, no, ok} {
		if got := say(everywhere(levels[i]).mayTeam()); got != want {
			t.Errorf("the team with %q: %s, want %s", levels[i], got, want)
		}
	}
	// Each kind of things has its own level.
	one := Rights{Pipeline: RunOnly, Repository: ReadOnly, Environment: Denied}
	for s, want := range map[Scope]string{
		ExecutionRun: ok, ExecutionManage: no, RepositoryRead: ok, RepositoryWrite: no, StackRead: hidden,
	} {
		if got := say(one.may(s)); got != want {
			t.Errorf("%s: %s, want %s", s, got, want)
		}
	}
	if got := (Rights{Pipeline: RunOnly, Repository: Manage}).or(Rights{Pipeline: ReadWrite, Repository: ReadOnly, Team: Denied}); got != (Rights{Pipeline: ReadWrite, Repository: Manage, Team: ""}) {
		t.Error(got)
	}
	for s, want := range map[Scope]string{
		Workspace: ok, MemberRead: ok, GroupRead: ok, ImageRead: ok, VariableInfo: ok, VariableAdd: no, ExecutionInfo: no, RepositoryRead: no,
		StackRead: no, ImageWrite: no, ProjectWrite: ok, MemberManage: no, WorkspacesManage: no, "WEBHOOK_INFO": no, "INTEGRATION_ADD": no,
	} {
		if got := say(mayWhole([]Rights{one}, s)); got != want {
			t.Errorf("%s in the whole: %s, want %s", s, got, want)
		}
	}
	if err := mayWhole([]Rights{one, {Pipeline: ReadWrite}}, ImageWrite); err != nil {
		t.Error(err)
	}
	// Who may not is told what would do, and that differs.
	for s, want := range map[Scope]string{ImageWrite: "the pipeline access level READ_WRITE", MemberManage: "only the owner and administrators"} {
		if err := mayWhole([]Rights{one}, s); !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", s, err)
		}
	}
}

func TestUsernames(t *testing.T) {
	t.Parallel()
	for email, want := range map[string]string{
		"ann@example.com": "ann@example.com", "Ann.Lee+x@Example.com": "ann.lee+x@example.com", "a__b@x": "a-b@x", "ä!@x.y": "x.y", "@": "user", "-a-": "a",
	} {
		got := usernameOf(email)
		if got != want || !usernames.MatchString(got) {
			t.Errorf("%s: %s, want %s", email, got, want)
		}
	}
}
