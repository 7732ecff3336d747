package source

import (
	"strings"
	"testing"

	"slipway/access"
)

// What git does for members by the repository level of their permission set.
func TestGitByLevel(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	p := w.project("web")
	c := newClone(t)
	c.commit("one")
	c.git("push", "-q", w.at("web"), "main")
	m, err := w.access.Invite(t.Context(), w.ann, p.Workspace, "bob@example.com", func(*access.MemberOf) error { return nil })
	must(t, err)
	_, token, err := w.access.CreateToken(t.Context(), access.System(m.User), access.NewToken{Name: "all", Scopes: access.Scopes()})
	must(t, err)
	at := strings.Replace(w.url, "://", "://x:"+token+"@", 1) + URL("acme", "web")
	try := func(level string, mayRead, mayWrite bool, says string) {
		t.Helper()
		out, err := c.try("ls-remote", at)
		if (err == nil) != mayRead {
			t.Errorf("%s, read: %s", level, out)
		}
		c.commit(level)
		more, err := c.try("push", "-q", at, "main")
		if (err == nil) != mayWrite {
			t.Errorf("%s, write: %s", level, more)
		}
		contains(t, out+more, says)
	}
	try("not in it", false, false, "not found")
	denied, err := w.access.CreatePermissionSet(t.Context(), w.ann, p.Workspace, access.PermissionSet{Name: "none", Rights: access.Rights{
		Pipeline: access.Manage, Repository: access.Denied, Sandbox: access.Denied, Environment: access.Denied, Target: access.Denied, Team: access.Denied,
	}})
	must(t, err)
	_, err = w.access.AddProjectMember(t.Context(), w.ann, p.Workspace, string(p.ID), m.User.ID, denied.ID)
	must(t, err)
	try("denied", false, false, "not found")
	for _, c := range []struct {
		set   int64
		level string
		write bool
		says  string
	}{{1, "read only", false, "READ_ONLY"}, {2, "developer", true, ""}} {
		_, err = w.access.SetProjectMember(t.Context(), w.ann, p.Workspace, string(p.ID), m.User.ID, c.set)
		must(t, err)
		try(c.level, true, c.write, c.says)
	}
}
