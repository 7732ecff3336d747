package source

import (
	"fmt"

	"slipway/access"
	"slipway/db"
	"slipway/project"
)

// CreateIn makes a project that is linked to an outside repository, if remote is
// given, in a transaction of the caller's.
func (s *Sources) CreateIn(tx *db.Tx, by access.Actor, workspace string, n project.New, remote *Remote) (project.Project, error) {
	p, err := project.CreateIn(tx, by, workspace, n)
	if err != nil || remote == nil {
		return p, err
	}
	r := *remote
	if err := r.normalize(nil, s.cfg.Private); err != nil {
		return p, err
	}
	if err := s.writeRemote(tx, p.ID, &r); err != nil {
		return p, fmt.Errorf("link project %s: %w", p.Name, err)
	}
	return p, nil
}
