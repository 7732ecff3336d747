package image

import (
	"database/sql"
	"encoding/json"
	"fmt"

	"github.com/containerd/errdefs"

	"slipway/db"
	"slipway/project"
)

// repository is a row.
type repository struct {
	id        int64
	workspace string
	Repository
}

const repositoryColumns = `id, workspace, name, public, pulls, pushes, pulled, pushed`

func scanRepository(scan db.Scan) (r repository, err error) {
	var pulled, pushed sql.NullInt64
	err = scan(&r.id, &r.workspace, &r.Name, &r.Public, &r.Pulls, &r.Pushes, &pulled, &pushed)
	r.Pulled, r.Pushed = db.Time(pulled), db.Time(pushed)
	return r, err
}

func findRepository(tx *db.Tx, name string) (repository, error) {
	r, err := scanRepository(tx.QueryRow(`SELECT `+repositoryColumns+` FROM image_repositories WHERE name = ?`, name).Scan)
	return r, db.NotFound(err, "repository %s", name)
}

// What a deleted project's executions tagged is out of reach until the project is
// restored, or removed with its tags. living is true of a tag t that is in reach;
// anchor of a manifest m that gives reach to itself and to all that it leads to:
// it has such a tag, or never had one and is no part of another and about none.
const (
	living = `NOT EXISTS (SELECT 1 FROM projects p WHERE p.id = t.project AND p.deleted IS NOT NULL)`
	anchor = `(EXISTS (SELECT 1 FROM image_tags t WHERE t.repository = m.repository AND t.digest = m.digest AND ` + living + `)
		OR NOT EXISTS (SELECT 1 FROM image_tags t WHERE t.repository = m.repository AND t.digest = m.digest)
		AND NOT EXISTS (SELECT 1 FROM image_links l WHERE l.repository = m.repository AND l.blob = m.digest)
		AND NOT EXISTS (SELECT 1 FROM image_manifests s WHERE s.repository = m.repository AND s.digest = m.subject))`
)

// inReach tells whether something in reach leads to a manifest or a blob of a
// repository: the manifest itself, an index of it, what it is about.
func inReach(tx *db.Tx, repo int64, digest string) (is bool, err error) {
	err = tx.QueryRow(`WITH RECURSIVE up(digest) AS (
			SELECT ?
			UNION SELECT l.manifest FROM up JOIN image_links l ON l.repository = ? AND l.blob = up.digest
			UNION SELECT m.subject FROM up JOIN image_manifests m ON m.repository = ? AND m.digest = up.digest WHERE m.subject <> '')
		SELECT EXISTS (SELECT 1 FROM up JOIN image_manifests m ON m.repository = ? AND m.digest = up.digest WHERE `+anchor+`)`,
		digest, repo, repo, repo).Scan(&is)
	return is, err
}

// listRepositories lists those with an image in reach; workspace "" is all of them.
func listRepositories(tx *db.Tx, workspace, after string) (list []repository, err error) {
	return db.List(tx, scanRepository, `SELECT `+repositoryColumns+` FROM image_repositories r WHERE (? = '' OR workspace = ?) AND name > ?
		AND EXISTS (SELECT 1 FROM image_manifests m WHERE m.repository = r.id AND `+anchor+`) ORDER BY name`, workspace, workspace, after)
}

// ensureRepository finds a repository or makes it.
func ensureRepository(tx *db.Tx, workspace, name string) (repository, error) {
	r, err := findRepository(tx, name)
	if !errdefs.IsNotFound(err) {
		return r, err
	}
	r = repository{workspace: workspace, Repository: Repository{Name: name}}
	r.id, err = tx.Insert(`INSERT INTO image_repositories (workspace, name, created) VALUES (?, ?, ?)`, workspace, name, db.Micros(tx.Now))
	return r, err
}

// manifest is a row.
type manifest struct {
	repo         int64
	digest       string
	mediaType    string
	size         int64
	config       string
	subject      string
	artifactType string
	annotations  map[string]string
	expanded     bool
}

const manifestColumns = `repository, digest, media_type, size, config, subject, artifact_type, annotations, expanded`

func scanManifest(scan db.Scan) (m manifest, err error) {
	var notes string
	err = scan(&m.repo, &m.digest, &m.mediaType, &m.size, &m.config, &m.subject, &m.artifactType, &notes, &m.expanded)
	if err == nil && notes != "" {
		err = json.Unmarshal([]byte(notes), &m.annotations)
	}
	return m, err
}

func findManifest(tx *db.Tx, repo int64, digest string) (manifest, error) {
	m, err := scanManifest(tx.QueryRow(`SELECT `+manifestColumns+` FROM image_manifests WHERE repository = ? AND digest = ?`, repo, digest).Scan)
	return m, db.NotFound(err, "manifest %s", digest)
}

// reachManifest is findManifest that does not find what is out of reach.
func reachManifest(tx *db.Tx, repo int64, digest string) (manifest, error) {
	m, err := findManifest(tx, repo, digest)
	if err != nil {
		return m, err
	}
	is, err := inReach(tx, repo, digest)
	if err == nil && !is {
		err = fmt.Errorf("manifest %s: %w", digest, errdefs.ErrNotFound)
	}
	return m, err
}

func findManifests(tx *db.Tx, where string, args ...any) (list []manifest, err error) {
	return db.List(tx, scanManifest, `SELECT `+manifestColumns+` FROM image_manifests WHERE `+where+` ORDER BY repository, digest`, args...)
}

// saveManifest writes a manifest with what it links to. One that is there
// already is touched.
func saveManifest(tx *db.Tx, m manifest, links []string) error {
	notes := ""
	if len(m.annotations) > 0 {
		b, err := json.Marshal(m.annotations)
		if err != nil {
			return err
		}
		notes = string(b)
	}
	_, err := tx.Exec(`INSERT INTO image_manifests (`+manifestColumns+`, touched) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (repository, digest) DO UPDATE SET media_type = excluded.media_type, size = excluded.size, config = excluded.config,
			subject = excluded.subject, artifact_type = excluded.artifact_type, annotations = excluded.annotations,
			expanded = excluded.expanded, touched = excluded.touched
			WHERE excluded.expanded = 1`,
		m.repo, m.digest, m.mediaType, m.size, m.config, m.subject, m.artifactType, notes, m.expanded, db.Micros(tx.Now))
	if err != nil {
		return err
	}
	for _, l := range links {
		_, err := tx.Exec(`INSERT INTO image_links (repository, manifest, blob) VALUES (?, ?, ?) ON CONFLICT DO NOTHING`, m.repo, m.digest, l)
		if err != nil {
			return err
		}
	}
	return nil
}

// removeManifest removes it with its tags and its hold. A repository that is
// empty then notes since when it is.
func removeManifest(tx *db.Tx, repo int64, digest string) error {
	for _, table := range []string{
		`DELETE FROM image_tags WHERE repository = ? AND digest = ?`,
		`DELETE FROM image_links WHERE repository = ? AND manifest = ?`,
		`DELETE FROM image_manifests WHERE repository = ? AND digest = ?`,
	} {
		if _, err := tx.Exec(table, repo, digest); err != nil {
			return err
		}
	}
	if _, err := tx.Exec(`UPDATE image_repositories AS r SET emptied = ? WHERE id = ?
		AND NOT EXISTS (SELECT 1 FROM image_manifests m WHERE m.repository = r.id)`, db.Micros(tx.Now), repo); err != nil {
		return err
	}
	return drop(tx, manifestHold(repo, digest))
}

// hasBlob tells whether a repository may serve a blob.
func hasBlob(tx *db.Tx, repo int64, digest string) (bool, error) {
	var uploaded bool
	err := tx.QueryRow(`SELECT EXISTS (SELECT 1 FROM image_blobs WHERE repository = ? AND digest = ?)`, repo, digest).Scan(&uploaded)
	if err != nil || uploaded {
		return uploaded, err
	}
	return inReach(tx, repo, digest)
}

func addBlob(tx *db.Tx, repo int64, digest string) error {
	_, err := tx.Exec(`INSERT INTO image_blobs (repository, digest, created) VALUES (?, ?, ?)
		ON CONFLICT (repository, digest) DO UPDATE SET created = excluded.created`, repo, digest, db.Micros(tx.Now))
	return err
}

// findTag finds the digest of a tag in reach.
func findTag(tx *db.Tx, repo int64, tag string) (digest string, err error) {
	err = tx.QueryRow(`SELECT digest FROM image_tags t WHERE repository = ? AND tag = ? AND `+living, repo, tag).Scan(&digest)
	return digest, db.NotFound(err, "tag %s", tag)
}

// setTag points a tag at a manifest of the repository. It goes with the project
// when that is removed; "" is none.
func setTag(tx *db.Tx, repo int64, tag, digest string, user int64, of project.ID) error {
	// what loses the tag may be removed only after a while
	if _, err := tx.Exec(`UPDATE image_manifests SET touched = ? WHERE repository = ? AND digest IN
		(SELECT digest FROM image_tags WHERE repository = ? AND tag = ?)`, db.Micros(tx.Now), repo, repo, tag); err != nil {
		return err
	}
	_, err := tx.Exec(`INSERT INTO image_tags (repository, tag, digest, user_id, project, updated) VALUES (?, ?, ?, ?, NULLIF(?, ''), ?)
		ON CONFLICT (repository, tag) DO UPDATE SET digest = excluded.digest, user_id = excluded.user_id, project = excluded.project,
			updated = excluded.updated`, repo, tag, digest, user, string(of), db.Micros(tx.Now))
	return err
}

// removeTag removes a tag; the manifest stays for a while.
func removeTag(tx *db.Tx, repo int64, tag string) error {
	if _, err := tx.Exec(`UPDATE image_manifests SET touched = ? WHERE repository = ? AND digest IN
		(SELECT digest FROM image_tags WHERE repository = ? AND tag = ?)`, db.Micros(tx.Now), repo, repo, tag); err != nil {
		return err
	}
	_, err := tx.Exec(`DELETE FROM image_tags WHERE repository = ? AND tag = ?`, repo, tag)
	return err
}

func countPush(tx *db.Tx, repo int64) error {
	_, err := tx.Exec(`UPDATE image_repositories SET pushes = pushes + 1, pushed = ? WHERE id = ?`, db.Micros(tx.Now), repo)
	return err
}

// listTags lists the tags of the own repositories of a workspace, newest first;
// name "" is all of them.
func listTags(tx *db.Tx, workspace, name string) (list []Tag, err error) {
	return db.List(tx, func(scan db.Scan) (Tag, error) {
		t := Tag{Own: true}
		var config string
		var updated sql.NullInt64
		err := scan(&t.Repository, &t.Tag, &t.Digest, &config, &updated)
		t.ConfigID, t.Updated = hexOf(config), db.Time(updated)
		return t, err
	}, `SELECT r.name, t.tag, t.digest, m.config, t.updated
		FROM image_tags t JOIN image_repositories r ON r.id = t.repository
		JOIN image_manifests m ON m.repository = t.repository AND m.digest = t.digest
		WHERE r.workspace = ? AND (? = '' OR r.name = ?) AND `+living+` ORDER BY t.updated DESC, r.name, t.tag`, workspace, name, name)
}

// outside is a row: a name of another registry that a workspace has.
type outside struct {
	id        int64
	workspace string
	name      string
	digest    string
	config    string
	loaded    bool
	used      sql.NullInt64
	updated   sql.NullInt64
}

const outsideColumns = `id, workspace, name, digest, config, source = 'loaded', updated, used`

func scanOutside(scan db.Scan) (o outside, err error) {
	err = scan(&o.id, &o.workspace, &o.name, &o.digest, &o.config, &o.loaded, &o.updated, &o.used)
	return o, err
}

func findOutside(tx *db.Tx, workspace, name string) (outside, error) {
	o, err := scanOutside(tx.QueryRow(`SELECT `+outsideColumns+` FROM image_outside WHERE workspace = ? AND name = ?`, workspace, name).Scan)
	return o, db.NotFound(err, "image %s", name)
}

func listOutside(tx *db.Tx, workspace string) (list []outside, err error) {
	return db.List(tx, scanOutside, `SELECT `+outsideColumns+` FROM image_outside WHERE workspace = ? ORDER BY updated DESC, name`, workspace)
}

// saveOutside writes a name and has its image held.
func saveOutside(tx *db.Tx, o outside) error {
	source := "pulled"
	if o.loaded {
		source = "loaded"
	}
	now := db.Micros(tx.Now)
	if _, err := tx.Exec(`INSERT INTO image_outside (workspace, name, digest, config, source, updated, used) VALUES (?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (workspace, name) DO UPDATE SET digest = excluded.digest, config = excluded.config, source = excluded.source,
			updated = excluded.updated, used = excluded.used`, o.workspace, o.name, o.digest, o.config, source, now, now); err != nil {
		return err
	}
	have, err := findOutside(tx, o.workspace, o.name)
	if err != nil {
		return err
	}
	return want(tx, outsideHold(have.id), o.digest, noEnd())
}

func removeOutside(tx *db.Tx, id int64) error {
	if _, err := tx.Exec(`DELETE FROM image_outside WHERE id = ?`, id); err != nil {
		return err
	}
	return drop(tx, outsideHold(id))
}
