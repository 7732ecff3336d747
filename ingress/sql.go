package ingress

import (
	"database/sql"
	"fmt"

	"slipway/db"
	"slipway/project"
)

const columns = `id, project, hostname, is_default, enabled, verified, created, updated`

func scan(row db.Scan) (in Ingress, err error) {
	var created, updated sql.NullInt64
	err = row(&in.ID, &in.Project, &in.Hostname, &in.Default, &in.Enabled, &in.Verified, &created, &updated)
	in.Created, in.Updated = db.Time(created), db.Time(updated)
	return in, err
}

func load(tx *db.Tx, id ID) (Ingress, error) {
	return loadOne(tx, string(id), tx.QueryRow(`SELECT `+columns+` FROM ingresses WHERE id = ?`, id))
}

func loadByHostname(tx *db.Tx, host string) (Ingress, error) {
	return loadOne(tx, host, tx.QueryRow(`SELECT `+columns+` FROM ingresses WHERE hostname = ?`, host))
}

func loadOne(tx *db.Tx, what string, row *sql.Row) (Ingress, error) {
	in, err := scan(row.Scan)
	if err != nil {
		return in, db.NotFound(err, "ingress %s", what)
	}
	in.Paths, err = db.List(tx, func(scan db.Scan) (p Path, err error) {
		err = scan(&p.Path, &p.Service, &p.Port, &p.URL, &p.DefaultPage)
		return p, err
	}, `SELECT path, service, port, url, page FROM ingress_paths WHERE ingress = ? ORDER BY position`, in.ID)
	return in, err
}

// loadAll lists all, oldest first.
func loadAll(tx *db.Tx) ([]Ingress, error) {
	paths := map[ID][]Path{}
	rows, err := tx.Query(`SELECT ingress, path, service, port, url, page FROM ingress_paths ORDER BY ingress, position`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var id ID
		var p Path
		if err := rows.Scan(&id, &p.Path, &p.Service, &p.Port, &p.URL, &p.DefaultPage); err != nil {
			return nil, err
		}
		paths[id] = append(paths[id], p)
	}
	if err := rows.Err(); err != nil {
		return nil, err
	}
	list, err := db.List(tx, scan, `SELECT `+columns+` FROM ingresses ORDER BY created, id`)
	for i := range list {
		list[i].Paths = paths[list[i].ID]
	}
	return list, err
}

func hasDefault(tx *db.Tx, id project.ID) (have bool, err error) {
	var n int
	err = tx.QueryRow(`SELECT count(*) FROM ingresses WHERE project = ? AND is_default = 1`, id).Scan(&n)
	return n > 0, err
}

func insert(tx *db.Tx, in Ingress) error {
	_, err := tx.Exec(`INSERT INTO ingresses (`+columns+`) VALUES (?, ?, ?, ?, ?, ?, ?, ?)`,
		in.ID, in.Project, in.Hostname, in.Default, in.Enabled, in.Verified, db.Micros(in.Created), db.Micros(in.Updated))
	if err != nil {
		return err
	}
	return insertPaths(tx, in)
}

func insertPaths(tx *db.Tx, in Ingress) error {
	for n, p := range in.Paths {
		_, err := tx.Exec(`INSERT INTO ingress_paths (ingress, position, path, service, port, url, page) VALUES (?, ?, ?, ?, ?, ?, ?)`,
			in.ID, n, p.Path, p.Service, p.Port, p.URL, p.DefaultPage)
		if err != nil {
			return fmt.Errorf("path %d: %w", n, err)
		}
	}
	return nil
}

func setPaths(tx *db.Tx, in Ingress) error {
	if _, err := tx.Exec(`DELETE FROM ingress_paths WHERE ingress = ?`, in.ID); err != nil {
		return err
	}
	if _, err := tx.Exec(`UPDATE ingresses SET updated = ? WHERE id = ?`, db.Micros(in.Updated), in.ID); err != nil {
		return err
	}
	return insertPaths(tx, in)
}

func remove(tx *db.Tx, id ID) error {
	_, err := tx.Exec(`DELETE FROM ingresses WHERE id = ?`, id)
	return err
}
