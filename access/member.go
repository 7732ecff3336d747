package access

import (
	"net/mail"
	"strings"
	"time"
)

// Numbers of the permission sets that every workspace has.
const (
	readOnlySet  int64 = 1
	developerSet int64 = 2
	managerSet   int64 = 3
)

// custom is the kind of permission sets that were made by somebody.
const custom = "CUSTOM"

// Longest texts, in characters.
const (
	maxName = 255
	maxText = 4096
)

// MemberOf is a user in a workspace.
type MemberOf struct {
	User           User
	Role           Role
	AutoAssign     bool  // to every new project
	AutoPermission int64 // with this permission set; 0: that of developers
	Since          time.Time
}

// Group is some members of a workspace.
type Group struct {
	ID             int64
	Workspace      string
	Name           string // of one group in the workspace
	Description    string
	AutoAssign     bool  // to every new project
	AutoPermission int64 // with this permission set; 0: that of developers
}

// InGroup is a member in a group.
type InGroup struct {
	MemberOf
	Manager bool // a word: nothing more comes of it
}

// PermissionSet is what a member or group may do in a project, under a name.
type PermissionSet struct {
	ID          int64
	Workspace   string // "": of all workspaces, and never changed
	Kind        string // READ_ONLY, DEVELOPER, PROJECT_MANAGER, CUSTOM
	Name        string
	Description string
	Rights      Rights
}

// InProject is a member or a group in a project.
type InProject struct {
	Member     MemberOf // of a member
	Group      Group    // of a group
	Permission PermissionSet
}

// validate notes what is wrong, paths in wire form.
func (g Group) validate(bad *Invalid) {
	name(bad, g.Name)
	bad.Text("description", g.Description, maxText)
}

func (p PermissionSet) validate(bad *Invalid) {
	name(bad, p.Name)
	bad.Text("description", p.Description, maxText)
	for _, l := range []struct {
		path  string
		level Level
	}{
		{"pipeline_access_level", p.Rights.Pipeline},
		{"repository_access_level", p.Rights.Repository},
		{"sandbox_access_level", p.Rights.Sandbox},
		{"environment_access_level", p.Rights.Environment},
		{"target_access_level", p.Rights.Target},
		{"project_team_access_level", p.Rights.Team},
	} {
		if !l.level.known() {
			bad.Add(l.path, "enum", "must be one of DENIED, READ_ONLY, USE_ONLY, RUN_ONLY, READ_WRITE, MANAGE")
		}
	}
}

func name(bad *Invalid, s string) {
	if strings.TrimSpace(s) == "" {
		bad.Add("name", "required", "must not be empty")
	}
	bad.Text("name", s, maxName)
}

func validEmail(bad *Invalid, s string) {
	bad.Text("email", s, maxName)
	switch a, err := mail.ParseAddress(s); {
	case s == "":
		bad.Add("email", "required", "must not be empty")
	case err != nil || a.Address != s:
		bad.Add("email", "format", "must be an e-mail address")
	}
}

// usernameOf makes a user name of an e-mail address: what a user name may not
// hold becomes a dash.
func usernameOf(email string) string {
	var b strings.Builder
	gap := rune(0)
	for _, r := range strings.ToLower(email) {
		switch {
		case r >= 'a' && r <= 'z' || r >= '0' && r <= '9':
			if gap != 0 && b.Len() > 0 {
				b.WriteRune(gap)
			}
			gap = 0
			b.WriteRune(r)
		case gap == 0 && strings.ContainsRune("._@+-", r):
			gap = r
		default:
			gap = '-'
		}
	}
	s := strings.TrimRight(b.String()[:min(b.Len(), 100)], "._@+-")
	if s == "" {
		return "user"
	}
	return s
}
