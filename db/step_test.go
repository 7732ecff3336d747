package db

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"path/filepath"
	"testing"
	"testing/fstest"
)

// steps are the migrations with the sums of their texts. A store that has been
// through a step never sees it again, so that a step is never edited: what is
// to be different is one more.
var steps = map[string]string{
	"001_access.sql":   "fbb735208dea66433d1fbf5b54229a09d23687be9ef3944b30f9183a9a1b39f5",
	"002_project.sql":  "ac34f4805ab438177d69d48eb4d342eabef4c76eb8ad6e05d9f778ff2536333f",
	"003_secret.sql":   "7ce0ce76e927493fa93ae79f84c0186aca19051dec1447ba886536715281379a",
	"004_event.sql":    "0fbc5733f3dcf7aa16efcfc249a629b2504a24dcc5c2d4a9d7e233e7d48455df",
	"005_source.sql":   "39ba5e30da6178bea7376c11ce53812336acc84071750001934cc5fd14872413",
	"006_image.sql":    "4e291290bc399ccb40a1150326932ef984585efb64ea28b2cfe535b9c50bea30",
	"007_ingress.sql":  "045845ba3f19f2a245ebadde0318ca2c6ecb27aa9d2553823b1ff9500ebdd3ce",
	"008_stack.sql":    "3dbab4d3af11d71fff5ef3077a14ece4aac5068b90aaf35e88a03723a6eaf7ec",
	"009_pipeline.sql": "4048e4d9a2fd01286c5a04553de1fc8834903d799278414a7b2236eb04324a28",
	"013_pipeline.sql": "95cec763ac50cf4a09742b1ecc133e8dd176106dcc26233966f1d4b9dc84d7a3",
	"010_image.sql":    "74d46d179e772519924585487c9702e92c7af3663849e9bcc02e142f6b63eba9",
	"011_access.sql":   "5e1c36ff37ab3110db36947ccd9656f791d43ff9fcc52b59a423472fc99ee6bd",
	"014_secret.sql":   "5a597bb66d7fd974b10b0975fa6e5b7e6b7b819f914436e1677cf50e2a4f4ea6",
	"015_event.sql":    "0edbee0d6e7e70b283bada9ea53b8643701d9568471765554c02a32553c3230d",
	"016_trigger.sql":  "90018ceba6bf8b3f29355b3358e5c0a2f53ac2c505600c9ad97d4e7ac324269d",
	"017_pipeline.sql": "ad958fb038720f8c853c24f9ebe2bdaf97f1334d018db3d86b05c31a793c1557",
	"018_pipeline.sql": "ca638f00836f52b60ddeaf1ef16469fd7f9ef2aee4086dd395961247a83010d8",
	"019_access.sql":   "2c463d789118acc7a186a0f8593e00499888f743ef3c814e0b1e4eb539ccca13",
	"020_pipeline.sql": "e692bf20e0ec0290c31c40f736ff3f2f60b046116c41466e391443192cd2bcc7",
	"021_pipeline.sql": "8a3908a6a113649bf4bca7a8e210cd5eed9a25ab545a2d5055d6bb3fde9791a3",
	"022_access.sql":   "b8b637d1812a3bb760a6d5e06974343621e9b90b222e298bf4d8502e6f204d9c",
	"025_stack.sql":    "831c486da703609b8f83de8f14478a7931dd0ed6796df745c016c21391283b1e",
	"029_stack.sql":    "7d36476ee57d819dec1ac3a6e9b6205a7bbc0d2667266b2684f56015299238c4",
	"023_pipeline.sql": "9a4f338bc0c8f352fbe7ae6973589e10b775b9e05b039dbbe4c52427f7c5fe93",
	"024_source.sql":   "090b8dd94a8c5777e54e8a56ec32fd5d82bd2ec55c69be020ea52f5c80ff0a60",
	"026_pipeline.sql": "91a6711b0757745e0af0f2f7f725fb25c85b9c9b93334b69ea6ddf51f5a725e1",
	"027_pipeline.sql": "4a22a8589e1f8c559a734c7d4bb2e7e6d545420e51d0b5c0dd4faa4400578b8c",
	"030_project.sql":  "6f0b96862857902bb0be10e14196862ec8c669765ec2ac5f0daa819780fe0b38",
	"012_secret.sql":   "0bde0fb77ee4dbd3674acb4e50adece48863b8189986288b2e38d4a0349fd74b",
	"028_secret.sql":   "971efee60765ec0b38058892523abd04a345d773846df8ba2dea188c9362442b",
}

func TestStepsAreOnlyAdded(t *testing.T) {
	t.Parallel()
	have, err := fs.Glob(migrations(), "*")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range have {
		text, err := fs.ReadFile(migrations(), name)
		if err != nil {
			t.Fatal(err)
		}
		sum := fmt.Sprintf("%x", sha256.Sum256(text))
		switch steps[name] {
		case sum:
		case "":
			t.Errorf("%s is new: note its sum above, %s; from then on it stays as it is", name, sum)
		default:
			t.Errorf("%s is another one than before: stores that have been through it do not get the change; put it back and add a step", name)
		}
	}
	if len(have) < len(steps) {
		t.Errorf("there were %d steps, now there are %d", len(steps), len(have))
	}
}

// before gives the steps up to one.
func before(t *testing.T, last string) fs.FS {
	t.Helper()
	list := fstest.MapFS{}
	for name := range steps {
		text, err := fs.ReadFile(migrations(), name)
		if err != nil {
			t.Fatal(err)
		}
		if name < last {
			list[name] = &fstest.MapFile{Data: text}
		}
	}
	return list
}

// TestTagsOfAnEarlierStore: a store from before tags had a project, and one of
// the time when step 6 had made that column already, keep their tags.
func TestTagsOfAnEarlierStore(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		extra []string
		of    int // tags that have a project afterwards
	}{
		"without the column": {nil, 0},
		"with the column": {[]string{
			`ALTER TABLE image_tags ADD COLUMN project TEXT REFERENCES projects(id) ON DELETE CASCADE`,
			`CREATE INDEX image_tags_project ON image_tags(project) WHERE project IS NOT NULL`,
			`UPDATE image_tags SET project = 'p' WHERE tag = 'built'`,
		}, 1},
	} {
		file := filepath.Join(t.TempDir(), "x.db")
		d, err := open(t.Context(), file, before(t, "010"))
		if err != nil {
			t.Fatal(err)
		}
		for _, q := range append([]string{
			`INSERT INTO users (id, uuid, username, created) VALUES (1, 'u', 'ann', 1)`,
			`INSERT INTO workspaces (id, number, domain, name, owner, created) VALUES ('w', 1, 'team', 'Team', 1, 1)`,
			`INSERT INTO projects (id, short_id, number, workspace, name, display_name, status, public, created, updated)
				VALUES ('p', 'p-1', 1, 'w', 'app', 'App', 'ACTIVE', 0, 1, 1)`,
			`INSERT INTO image_repositories (id, workspace, name, public, created) VALUES (1, 'w', 'team/app', 1, 1)`,
			`INSERT INTO image_manifests (repository, digest, expanded, touched) VALUES (1, 'sha256:1', 1, 1), (1, 'sha256:2', 1, 1)`,
			`INSERT INTO image_tags (repository, tag, digest, user_id, updated) VALUES (1, 'built', 'sha256:1', 1, 5), (1, 'pushed', 'sha256:2', 1, 6)`,
		}, c.extra...) {
			write(t, d, q)
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		if d, err = Open(t.Context(), file); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if n := count(t, d, `SELECT COUNT(*) FROM image_tags WHERE (tag, digest, user_id, updated) IN (VALUES ('built', 'sha256:1', 1, 5), ('pushed', 'sha256:2', 1, 6))`); n != 2 {
			t.Errorf("%s: %d tags of 2", name, n)
		}
		if n := count(t, d, `SELECT COUNT(*) FROM image_tags WHERE project = 'p' AND tag = 'built'`); n != c.of {
			t.Errorf("%s: %d tags are the project's, want %d", name, n, c.of)
		}
		write(t, d, `UPDATE image_tags SET project = 'p' WHERE tag = 'built'`)
		write(t, d, `DELETE FROM projects WHERE id = 'p'`)
		write(t, d, `DELETE FROM image_manifests WHERE digest = 'sha256:2'`)
		if n := count(t, d, `SELECT COUNT(*) FROM image_tags`); n != 0 {
			t.Errorf("%s: %d tags are left without what they were of", name, n)
		}
		if n := count(t, d, `SELECT COUNT(*) FROM sqlite_schema WHERE name IN ('image_tags_digest', 'image_tags_project') AND tbl_name = 'image_tags'`); n != 2 {
			t.Errorf("%s: %d indexes of 2", name, n)
		}
		if err := d.Check(t.Context()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestMembersOfAnEarlierStore: who could do everything in a project goes on
// doing so.
func TestMembersOfAnEarlierStore(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "x.db")
	d, err := open(t.Context(), file, before(t, "011"))
	if err != nil {
		t.Fatal(err)
	}
	for _, q := range []string{
		`INSERT INTO users (id, uuid, username, created) VALUES (1, 'a', 'ann', 1), (2, 'b', 'bob', 1), (3, 'c', 'cid', 1)`,
		`INSERT INTO workspaces (id, number, domain, name, owner, created) VALUES ('w', 1, 'team', 'Team', 1, 1), ('v', 2, 'other', 'Other', 3, 1)`,
		`INSERT INTO members (workspace, user_id, role, created) VALUES ('w', 1, 'OWNER', 1), ('w', 2, 'MEMBER', 1), ('v', 3, 'OWNER', 1)`,
		`INSERT INTO projects (id, short_id, number, workspace, name, display_name, status, public, created_by, created, updated)
			VALUES ('p', 'p-1', 1, 'w', 'app', 'App', 'ACTIVE', 0, 1, 1, 1), ('q', 'p-2', 2, 'v', 'app', 'App', 'ACTIVE', 0, 0, 1, 1)`,
	} {
		write(t, d, q)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if d, err = Open(t.Context(), file); err != nil {
		t.Fatal(err)
	}
	if n := count(t, d, `SELECT COUNT(*) FROM project_members WHERE permission = 3 AND (project, workspace, user_id) IN (VALUES ('p', 'w', 1), ('p', 'w', 2))`); n != 2 {
		t.Errorf("%d of 2 are in the project", n)
	}
	if n := count(t, d, `SELECT COUNT(*) FROM project_members`); n != 2 {
		t.Errorf("%d rows", n)
	}
	if err := d.Check(t.Context()); err != nil {
		t.Error(err)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
}

// TestSlotsOfAnEarlierStore: what held a slot, or waited for one, before there
// could be several still does.
func TestSlotsOfAnEarlierStore(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "x.db")
	d, err := open(t.Context(), file, before(t, "013"))
	if err != nil {
		t.Fatal(err)
	}
	for _, q := range []string{
		`INSERT INTO users (id, uuid, username, created) VALUES (1, 'u', 'ann', 1)`,
		`INSERT INTO workspaces (id, number, domain, name, owner, created) VALUES ('w', 1, 'team', 'Team', 1, 1)`,
		`INSERT INTO projects (id, short_id, number, workspace, name, display_name, status, public, created, updated)
			VALUES ('p', 'p-1', 1, 'w', 'app', 'App', 'ACTIVE', 0, 1, 1)`,
		`INSERT INTO pipelines (id, project, workspace, name, identifier, spec, created, created_by) VALUES (1, 'p', 'w', 'x', 'x', '{}', 1, 1)`,
		`INSERT INTO executions (id, pipeline, number, status, priority, mode, created_by, created, queued, input, frozen, waiting, class, slot) VALUES
			('run', 1, 1, 'INPROGRESS', 'NORMAL', 'MANUAL', 1, 1, 1, '{}', '{}', 0, 'RUN', 'RUN'),
			('build', 1, 2, 'INPROGRESS', 'NORMAL', 'MANUAL', 1, 1, 1, '{}', '{}', 0, '', 'BUILD'),
			('waits', 1, 3, 'ENQUEUED', 'NORMAL', 'MANUAL', 1, 1, 1, '{}', '{}', 1, 'BUILD', ''),
			('ended', 1, 4, 'FAILED', 'NORMAL', 'MANUAL', 1, 1, 1, '{}', '{}', 0, 'RUN', '')`,
	} {
		write(t, d, q)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if d, err = Open(t.Context(), file); err != nil {
		t.Fatal(err)
	}
	if n := count(t, d, `SELECT COUNT(*) FROM executions WHERE (id, runs, builds, wants) IN
		(VALUES ('run', 1, 0, ''), ('build', 0, 1, ''), ('waits', 0, 0, 'B'), ('ended', 0, 0, ''))`); n != 4 {
		t.Errorf("%d executions of 4 have the slots that they had", n)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
}

// TestDefinitionsOfAnEarlierStore: where the definition of a pipeline is was kept
// with what has no effect, and has one now.
func TestDefinitionsOfAnEarlierStore(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "x.db")
	d, err := open(t.Context(), file, before(t, "020"))
	if err != nil {
		t.Fatal(err)
	}
	for _, q := range []string{
		`INSERT INTO users (id, uuid, username, created) VALUES (1, 'u', 'ann', 1)`,
		`INSERT INTO workspaces (id, number, domain, name, owner, created) VALUES ('w', 1, 'team', 'Team', 1, 1)`,
		`INSERT INTO projects (id, short_id, number, workspace, name, display_name, status, public, created, updated)
			VALUES ('p', 'p-1', 1, 'w', 'app', 'App', 'ACTIVE', 0, 1, 1)`,
		`INSERT INTO pipelines (id, project, workspace, name, identifier, spec, created, created_by) VALUES
			(1, 'p', 'w', 'a', 'a', CAST('{"Refs":null,"GitConfigRef":"FIXED","Attrs":{"buddy":{"rest":{"git_config":{"project":"app","branch":"main"},"tags":["t"]}}}}' AS BLOB), 1, 1),
			(2, 'p', 'w', 'b', 'b', CAST('{"Attrs":{"buddy":{"rest":{"remote_ref":"dev","remote_path":"x.yml","remote_parameters":[{"key":"a","value":1},3,{"key":"b"}]}}}}' AS BLOB), 1, 1),
			(3, 'p', 'w', 'c', 'c', '{"Attrs":{"buddy":{"rest":{"tags":[]}}}}', 1, 1),
			(4, 'p', 'w', 'd', 'd', '{}', 1, 1)`,
	} {
		write(t, d, q)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if d, err = Open(t.Context(), file); err != nil {
		t.Fatal(err)
	}
	for id, want := range map[int]string{
		1: `{"Refs":null,"GitConfigRef":"FIXED","Attrs":{"buddy":{"rest":{"tags":["t"]}}},"GitConfig":{"Project":"app","Branch":"main","Path":""}}`,
		2: `{"Attrs":{"buddy":{"rest":{}}},"Remote":{"Project":"","Ref":"dev","Path":"x.yml","Parameters":[{"Key":"a","Value":"1"},{"Key":"b","Value":""}]}}`,
		3: `{"Attrs":{"buddy":{"rest":{"tags":[]}}}}`,
		4: `{}`,
	} {
		var got string
		err := d.Read(t.Context(), func(tx *Tx) error {
			return tx.QueryRow(`SELECT CAST(spec AS TEXT) FROM pipelines WHERE id = ?`, id).Scan(&got)
		})
		if err != nil || got != want {
			t.Errorf("pipeline %d: %v\n got %s\nwant %s", id, err, got, want)
		}
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
}
