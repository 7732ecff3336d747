package doctor

import (
	"context"
	"path/filepath"
	"strings"
	"testing"

	"slipway/access"
	"slipway/db"
	"slipway/engine/local"
	"slipway/project"
)

// A tag whose image is not in the store is found, though the store itself is
// whole.
func TestDeepFollowsTags(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "slipway.db")
	d, err := db.Open(t.Context(), file)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := access.New(d).Bootstrap(t.Context(), "ann", func(tx *db.Tx, u access.User) error {
		ws, err := project.BootstrapWorkspace(tx, "team", u)
		if err != nil {
			return err
		}
		for _, s := range []string{
			`INSERT INTO image_repositories (id, workspace, name, created) VALUES (1, '` + ws.ID + `', 'team/web', 0)`,
			`INSERT INTO image_manifests (repository, digest, expanded, touched) VALUES (1, 'sha256:` + strings.Repeat("a", 64) + `', 0, 0)`,
			`INSERT INTO image_tags (repository, tag, digest, user_id, updated) VALUES (1, 'v1', 'sha256:` + strings.Repeat("a", 64) + `', 0, 0)`,
		} {
			if _, err := tx.Exec(s); err != nil {
				return err
			}
		}
		return nil
	}, nil); err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	at := filepath.Join(dir, "engine")
	t.Cleanup(func() { // the look has left a mount and handlers, as that at a server's does
		e, err := local.Open(context.Background(), local.Options{Dir: at})
		if err == nil {
			err = e.Wipe(context.Background())
		}
		if err != nil {
			t.Error(err)
		}
	})
	l := Deep(t.Context(), file, at)
	if len(l) != 2 || l[0].Level != Good || l[1].Level != Missing || !strings.Contains(l[1].Says, "the tag team/web:v1") {
		t.Errorf("%+v", l)
	}
}
