package db

import (
	"fmt"
	"path/filepath"
	"testing"
)

// TestPipelinesOfAnEarlierStore: one that was paused while that had no effect
// stays so, the clocks of the others are looked at.
func TestPipelinesOfAnEarlierStore(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "x.db")
	d, err := open(t.Context(), file, before(t, "016"))
	if err != nil {
		t.Fatal(err)
	}
	for i, spec := range []string{
		`{"Events":[{"Type":"PUSH"},{"Type":"SCHEDULE","Rest":{"cron":"0 * * * *"}}],"Attrs":{"buddy":{"rest":{"paused":true}}}}`,
		`{"Events":[{"Type":"SCHEDULE","Rest":{"cron":"0 * * * *"}}],"Attrs":{"buddy":{"rest":{"paused":false}}}}`,
		`{"Events":null,"Attrs":null}`,
	} {
		if i == 0 {
			for _, q := range []string{
				`INSERT INTO users (id, uuid, username, created) VALUES (1, 'u', 'ann', 1)`,
				`INSERT INTO workspaces (id, number, domain, name, owner, created) VALUES ('w', 1, 'team', 'Team', 1, 1)`,
				`INSERT INTO projects (id, short_id, number, workspace, name, display_name, status, public, created, updated)
					VALUES ('p', 'p-1', 1, 'w', 'app', 'App', 'ACTIVE', 0, 1, 1)`,
			} {
				write(t, d, q)
			}
		}
		err := d.Write(t.Context(), func(tx *Tx) error {
			_, err := tx.Exec(`INSERT INTO pipelines (id, project, workspace, name, identifier, spec, created, created_by) VALUES (?, 'p', 'w', ?, ?, ?, 7, 1)`,
				i+1, fmt.Sprint(i), fmt.Sprint(i), []byte(spec))
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if d, err = Open(t.Context(), file); err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	for q, want := range map[string]int{
		`SELECT COUNT(*) FROM schedules WHERE (id, pipeline) IN (VALUES ('1', 1), ('2', 2)) AND next IS NULL AND due_at = 7`: 2,
		`SELECT COUNT(*) FROM schedules`: 2,
		`SELECT COUNT(*) FROM pipelines WHERE json_extract(spec, '$.Paused') = 1 AND id = 1`:                                      1,
		`SELECT COUNT(*) FROM pipelines WHERE json_extract(spec, '$.Paused') IS NULL AND json_type(spec, '$.Events') IS NOT NULL`: 2,
	} {
		if n := count(t, d, q); n != want {
			t.Errorf("%s: %d, want %d", q, n, want)
		}
	}
}
