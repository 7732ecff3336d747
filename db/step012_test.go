package db

import (
	"path/filepath"
	"testing"
)

// TestVariablesOfAnEarlierStore: they stay as they are, and a number that was
// given once is not given again.
func TestVariablesOfAnEarlierStore(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "x.db")
	d, err := open(t.Context(), file, before(t, "012"))
	if err != nil {
		t.Fatal(err)
	}
	const columns = `(id, workspace, project, place, name, value, type, description, encrypted, settable, file_place, file_path, file_mode, updated)`
	for _, q := range []string{
		`INSERT INTO users (id, uuid, username, created) VALUES (1, 'u', 'ann', 1)`,
		`INSERT INTO workspaces (id, number, domain, name, owner, created) VALUES ('w', 1, 'team', 'Team', 1, 1)`,
		`INSERT INTO projects (id, short_id, number, workspace, name, display_name, status, public, created, updated)
			VALUES ('p', 'p-1', 1, 'w', 'app', 'App', 'ACTIVE', 0, 1, 1)`,
		`INSERT INTO variables ` + columns + ` VALUES (7, 'w', NULL, 'workspace', 'A', x'01', 'VAR', 'd', 1, 1, 'NONE', '', '', 5)`,
		`INSERT INTO variables ` + columns + ` VALUES (8, 'w', 'p', 'project/p', 'B', x'02', 'FILE', '', 0, 0, 'CONTAINER', '/f', '644', 6)`,
		`INSERT INTO variables ` + columns + ` VALUES (90, 'w', NULL, 'workspace', 'C', x'03', 'VAR', '', 0, 0, 'NONE', '', '', 7)`,
		`DELETE FROM variables WHERE id = 90`,
	} {
		write(t, d, q)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if d, err = Open(t.Context(), file); err != nil {
		t.Fatal(err)
	}
	if n := count(t, d, `SELECT COUNT(*) FROM variables WHERE run_settable = 0 AND environment IS NULL AND
		(id, workspace, COALESCE(project, ''), place, name, value, type, description, encrypted, settable, file_place, file_path, file_mode, updated) IN
		(VALUES (7, 'w', '', 'workspace', 'A', x'01', 'VAR', 'd', 1, 1, 'NONE', '', '', 5), (8, 'w', 'p', 'project/p', 'B', x'02', 'FILE', '', 0, 0, 'CONTAINER', '/f', '644', 6))`); n != 2 {
		t.Errorf("%d variables of 2", n)
	}
	write(t, d, `INSERT INTO variables (workspace, place, name, value, type, encrypted, settable, file_place, updated)
		VALUES ('w', 'workspace', 'N', x'01', 'GPG_KEY', 1, 0, 'NONE', 8)`)
	if n := count(t, d, `SELECT MAX(id) FROM variables`); n != 91 {
		t.Errorf("the next number is %d", n)
	}
	write(t, d, `DELETE FROM projects WHERE id = 'p'`)
	if n := count(t, d, `SELECT COUNT(*) FROM variables`); n != 2 {
		t.Errorf("%d variables after their project went", n)
	}
	if err := d.Check(t.Context()); err != nil {
		t.Error(err)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
}
