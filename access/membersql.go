package access

import (
	"database/sql"
	"fmt"
	"strconv"

	"github.com/containerd/errdefs"

	"slipway/db"
)

// roleColumn is the role of a member, from the table members as m.
const roleColumn = `CASE WHEN m.role = 'MEMBER' AND m.admin THEN 'ADMIN' ELSE m.role END`

const selectMember = `SELECT u.id, u.uuid, u.username, u.name, u.email, u.created, ` + roleColumn + `,
	m.auto_assign, COALESCE(m.auto_permission, 0), m.created FROM members m JOIN users u ON u.id = m.user_id `

func memberFields(m *MemberOf, created, since *sql.NullInt64) []any {
	return []any{
		&m.User.ID, &m.User.UUID, &m.User.Username, &m.User.Name, &m.User.Email, created, &m.Role, &m.AutoAssign, &m.AutoPermission, since,
	}
}

func scanMember(scan db.Scan, more ...any) (MemberOf, error) {
	var m MemberOf
	var created, since sql.NullInt64
	err := scan(append(memberFields(&m, &created, &since), more...)...)
	m.User.Created, m.Since = db.Time(created), db.Time(since)
	return m, err
}

func members(tx *db.Tx, workspace string) ([]MemberOf, error) {
	return db.List(tx, func(scan db.Scan) (MemberOf, error) { return scanMember(scan) },
		selectMember+`WHERE m.workspace = ? ORDER BY m.created, u.id`, workspace)
}

func member(tx *db.Tx, workspace string, user int64) (MemberOf, error) {
	m, err := scanMember(tx.QueryRow(selectMember+`WHERE m.workspace = ? AND u.id = ?`, workspace, user).Scan)
	return m, db.NotFound(err, "member %d", user)
}

// userOfEmail finds the user of an e-mail address, whatever its case, or makes
// one without a name.
func userOfEmail(tx *db.Tx, email string) (User, error) {
	var id int64
	err := tx.QueryRow(`SELECT id FROM users WHERE email = ? COLLATE NOCASE ORDER BY id LIMIT 1`, email).Scan(&id)
	if err = db.NotFound(err, "user %s", email); err == nil {
		return LoadUser(tx, id)
	}
	if !errdefs.IsNotFound(err) {
		return User{}, err
	}
	base := usernameOf(email)
	for n := 1; ; n++ {
		name := base
		if n > 1 {
			name += "-" + strconv.Itoa(n)
		}
		var taken int
		if err := tx.QueryRow(`SELECT COUNT(*) FROM users WHERE username = ?`, name).Scan(&taken); err != nil {
			return User{}, err
		}
		if taken == 0 {
			return AddUser(tx, User{Username: name, Email: email})
		}
	}
}

const selectGroup = `SELECT g.id, g.workspace, g.name, g.description, g.auto_assign, COALESCE(g.auto_permission, 0) FROM member_groups g `

func scanGroup(scan db.Scan) (g Group, err error) {
	err = scan(&g.ID, &g.Workspace, &g.Name, &g.Description, &g.AutoAssign, &g.AutoPermission)
	return g, err
}

func loadGroup(tx *db.Tx, workspace string, id int64) (Group, error) {
	g, err := scanGroup(tx.QueryRow(selectGroup+`WHERE g.workspace = ? AND g.id = ?`, workspace, id).Scan)
	return g, db.NotFound(err, "group %d", id)
}

func scanInGroup(scan db.Scan) (g InGroup, err error) {
	g.MemberOf, err = scanMember(scan, &g.Manager)
	return g, err
}

// selectInGroup takes workspace and group.
const selectInGroup = `SELECT u.id, u.uuid, u.username, u.name, u.email, u.created, ` + roleColumn + `,
	m.auto_assign, COALESCE(m.auto_permission, 0), m.created, i.manager
	FROM members m JOIN users u ON u.id = m.user_id JOIN group_members i ON i.user_id = u.id
	WHERE m.workspace = ? AND i.group_id = ? `

const setColumns = `s.id, COALESCE(s.workspace, ''), s.kind, s.name, s.description, s.pipeline, s.repository, s.sandbox, s.environment, s.target, s.team`

func setFields(p *PermissionSet) []any {
	r := &p.Rights
	return []any{
		&p.ID, &p.Workspace, &p.Kind, &p.Name, &p.Description, &r.Pipeline, &r.Repository, &r.Sandbox, &r.Environment, &r.Target, &r.Team,
	}
}

func scanSet(scan db.Scan) (p PermissionSet, err error) {
	err = scan(setFields(&p)...)
	return p, err
}

// loadSet reads a permission set that a workspace has.
func loadSet(tx *db.Tx, workspace string, id int64) (PermissionSet, error) {
	p, err := scanSet(tx.QueryRow(`SELECT `+setColumns+` FROM permission_sets s WHERE s.id = ? AND (s.workspace IS NULL OR s.workspace = ?)`, id, workspace).Scan)
	return p, db.NotFound(err, "permission set %d", id)
}

const selectProjectMember = `SELECT u.id, u.uuid, u.username, u.name, u.email, u.created, ` + roleColumn + `,
	m.auto_assign, COALESCE(m.auto_permission, 0), m.created, ` + setColumns + `
	FROM project_members p JOIN members m ON m.workspace = p.workspace AND m.user_id = p.user_id
	JOIN users u ON u.id = p.user_id JOIN permission_sets s ON s.id = p.permission WHERE p.project = ? `

func scanProjectMember(scan db.Scan) (p InProject, err error) {
	p.Member, err = scanMember(scan, setFields(&p.Permission)...)
	return p, err
}

const selectProjectGroup = `SELECT g.id, g.workspace, g.name, g.description, g.auto_assign, COALESCE(g.auto_permission, 0), ` + setColumns + `
	FROM project_groups p JOIN member_groups g ON g.id = p.group_id JOIN permission_sets s ON s.id = p.permission WHERE p.project = ? `

func scanProjectGroup(scan db.Scan) (p InProject, err error) {
	g := &p.Group
	err = scan(append([]any{&g.ID, &g.Workspace, &g.Name, &g.Description, &g.AutoAssign, &g.AutoPermission}, setFields(&p.Permission)...)...)
	return p, err
}

// grants gives what a user may do in the projects that it is in, by itself or
// with a group: of each kind the higher level.
func grants(tx *db.Tx, user int64) (map[string]grant, error) {
	rows, err := tx.Query(`SELECT p.project, p.workspace, `+setColumns+` FROM project_members p
		JOIN permission_sets s ON s.id = p.permission WHERE p.user_id = ?
		UNION ALL SELECT p.project, p.workspace, `+setColumns+` FROM project_groups p JOIN group_members i ON i.group_id = p.group_id
		JOIN permission_sets s ON s.id = p.permission WHERE i.user_id = ?`, user, user)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	m := map[string]grant{}
	for rows.Next() {
		var project, workspace string
		var p PermissionSet
		if err := rows.Scan(append([]any{&project, &workspace}, setFields(&p)...)...); err != nil {
			return nil, err
		}
		m[project] = grant{workspace, m[project].rights.or(p.Rights)}
	}
	return m, rows.Err()
}

func groupsOf(tx *db.Tx, user int64) ([]int64, error) {
	return db.Column[int64](tx, `SELECT group_id FROM group_members WHERE user_id = ? ORDER BY group_id`, user)
}

// IsInGroup tells, in the caller's transaction and without asking who, whether a
// user is in the group of a name in a workspace. A name of no group has nobody
// in it.
func IsInGroup(tx *db.Tx, workspace string, user int64, name string) (bool, error) {
	var n int
	err := tx.QueryRow(`SELECT COUNT(*) FROM group_members i JOIN member_groups g ON g.id = i.group_id
		WHERE g.workspace = ? AND g.name = ? AND i.user_id = ?`, workspace, name, user).Scan(&n)
	return n > 0, err
}

// Assign puts into a new project who made it, as its manager, and the members
// and groups that are put into every one, in the caller's transaction.
func Assign(tx *db.Tx, workspace, project string, creator int64) error {
	now := tx.Now.UnixMicro()
	const (
		maker = `INSERT INTO project_members (project, workspace, user_id, permission, created)
			SELECT ?, m.workspace, m.user_id, ?, ? FROM members m WHERE m.workspace = ? AND m.user_id = ?`
		members = `INSERT OR IGNORE INTO project_members (project, workspace, user_id, permission, created)
			SELECT ?, m.workspace, m.user_id, COALESCE(m.auto_permission, ?), ? FROM members m WHERE m.workspace = ? AND m.auto_assign`
		groups = `INSERT INTO project_groups (project, workspace, group_id, permission, created)
			SELECT ?, g.workspace, g.id, COALESCE(g.auto_permission, ?), ? FROM member_groups g WHERE g.workspace = ? AND g.auto_assign`
	)
	if _, err := tx.Exec(maker, project, managerSet, now, workspace, creator); err != nil {
		return fmt.Errorf("who is in a new project: %w", err)
	}
	for _, q := range []string{members, groups} {
		if _, err := tx.Exec(q, project, developerSet, now, workspace); err != nil {
			return fmt.Errorf("who is in a new project: %w", err)
		}
	}
	tx.Wake(Topic)
	return nil
}

// RemoveWorkspace ends all memberships of a workspace, with its groups, in the
// caller's transaction.
func RemoveWorkspace(tx *db.Tx, workspace string) error {
	for _, table := range []string{"project_members", "project_groups", "members", "member_groups", "permission_sets"} {
		if _, err := tx.Exec(`DELETE FROM `+table+` WHERE workspace = ?`, workspace); err != nil {
			return fmt.Errorf("members of a workspace: %w", err)
		}
	}
	tx.Wake(Topic)
	return nil
}
