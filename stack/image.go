package stack

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"slipway/access"
	"slipway/crash"
	"slipway/db"
	"slipway/engine"
	"slipway/image"
	"slipway/project"
)

const (
	pullTime     = 30 * time.Minute
	measureAfter = 15 * time.Minute
)

// resolve finds the image of a definition, in the background. What it finds is
// written by id and only if nothing was found before, so it may be done twice.
func (s *Stacks) resolve(r row, p project.Project, d *definition) {
	s.jobs.start("image "+d.ID, func(ctx context.Context) {
		digest, err := s.find(ctx, r, p, d)
		if ctx.Err() != nil {
			return
		}
		problem := ""
		if err != nil {
			problem = missing(d.Image, err) + s.hint(ctx, p.ID, d.Image)
			slog.Warn("an image is not there yet", "room", "stack", "stack", r.ID, "service", d.Service, "image", d.Image, "error", err)
		}
		if err := s.found(ctx, r.ID, d, digest, problem); ctx.Err() != nil {
			return
		} else if err != nil {
			slog.Error("an image cannot be noted", "room", "stack", "stack", r.ID, "image", d.Image, "error", err)
		} else {
			crash.At("stack: image found")
		}
	})
}

func (s *Stacks) find(ctx context.Context, r row, p project.Project, d *definition) (string, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, pullTime, fmt.Errorf("the pull took longer than %s", pullTime))
	defer cancel()
	own, err := s.secrets.OpenLogins(ctx, p.ID)
	if err != nil {
		return "", fmt.Errorf("registry logins: %w", err)
	}
	logins := make([]engine.Login, 0, len(own))
	for _, l := range own {
		logins = append(logins, forEngine(l))
	}
	found, err := s.images.Resolve(ctx, image.Request{
		Workspace: p.Workspace, Ref: d.Image, Refresh: d.Refresh, Logins: logins,
		Warn: func(line string) {
			slog.Warn(line, "room", "stack", "stack", r.ID, "service", d.Service)
		},
	})
	return found.Digest, err
}

// found writes down how the search ended and has the stack looked at.
func (s *Stacks) found(ctx context.Context, id ID, d *definition, digest, problem string) error {
	return s.db.Write(ctx, func(tx *db.Tx) error {
		defer s.jobs.done("image " + d.ID) // before anybody looks
		var n int64
		var err error
		if problem == "" {
			if n, err = tx.Exec(`UPDATE service_definitions SET digest = ?, refresh = 0, problem = '', retry_at = NULL WHERE id = ? AND digest = ''`, digest, d.ID); err != nil {
				return err
			}
			if n > 0 {
				if err := image.Keep(tx, d.hold(), digest, time.Time{}); err != nil {
					return err
				}
			}
		} else {
			wait := min(firstDelay<<min(d.Tries, 10), longDelay)
			if n, err = tx.Exec(`UPDATE service_definitions SET tries = ?, retry_at = ?, problem = ? WHERE id = ? AND digest = ''`,
				d.Tries+1, db.Micros(tx.Now.Add(wait)), problem, d.ID); err != nil {
				return err
			}
		}
		if n == 0 {
			return nil
		}
		return tx.Due(table, string(id), tx.Now)
	})
}

// missing says for people why an image is not there.
func missing(ref string, err error) string {
	if errdefs.IsNotFound(err) {
		return "the image " + ref + " does not exist yet; it is looked for again"
	}
	return "the image " + ref + " cannot be had: " + err.Error() + "; it is tried again"
}

// hint helps whoever wrote a registry of the project by half.
func (s *Stacks) hint(ctx context.Context, id project.ID, ref string) string {
	all, err := s.secrets.Logins(ctx, access.System(access.User{}), id)
	if err != nil {
		return "" // it is no more than a help
	}
	first, rest, path := strings.Cut(ref, "/")
	for _, l := range all {
		if path && resembles(first, l.Host) {
			return fmt.Sprintf(" (%q is no host, so this is an image of Docker Hub; the registry %s would be meant by %s/%s)", first, l.Host, l.Host, rest)
		}
	}
	return ""
}

// resembles tells whether the first part of an image's name, which is no host,
// is how that host begins.
func resembles(first, host string) bool {
	return first != "localhost" && !strings.ContainsAny(first, ".:") && (strings.HasPrefix(host, first+".") || strings.HasPrefix(host, first+":"))
}

// retryImages has missing images looked for at once: something was pushed, or
// a login changed.
func retryImages(tx *db.Tx, workspace string) error {
	ids, err := db.Column[string](tx, `SELECT DISTINCT s.stack FROM service_definitions d JOIN services s ON s.id = d.service
		JOIN stacks t ON t.id = s.stack JOIN projects p ON p.id = t.project
		WHERE d.digest = '' AND d.retry_at IS NOT NULL AND s.removed IS NULL AND p.workspace = ?`, workspace)
	if err != nil {
		return err
	}
	for _, id := range ids {
		if _, err := tx.Exec(`UPDATE service_definitions SET retry_at = NULL WHERE digest = '' AND service IN (SELECT id FROM services WHERE stack = ?)`, id); err != nil {
			return err
		}
		if err := tx.Due(table, id, tx.Now); err != nil {
			return err
		}
	}
	return nil
}

// measure looks how much the volumes hold, in the background and not often.
func (s *Stacks) measure(w *world) {
	var old []VolumeID
	for _, v := range w.volumes {
		if v.Removed.IsZero() && (time.Since(v.BytesSet) > measureAfter || v.BytesSet.Equal(v.Created)) {
			old = append(old, v.ID)
		}
	}
	if len(old) == 0 || !w.stack.Deleted.IsZero() {
		return
	}
	s.jobs.start("measure "+string(w.stack.ID), func(ctx context.Context) {
		sizes := map[VolumeID]int64{}
		for _, id := range old {
			n, err := s.engine.Volumes().Usage(ctx, id.Engine())
			if err != nil && !errdefs.IsNotFound(err) {
				if ctx.Err() == nil {
					slog.Warn("a volume cannot be measured", "room", "stack", "volume", id, "error", err)
				}
				continue
			}
			sizes[id] = n
		}
		err := s.db.Write(ctx, func(tx *db.Tx) error {
			for id, n := range sizes {
				if _, err := tx.Exec(`UPDATE volumes SET bytes = ?, bytes_set = ? WHERE id = ?`, n, db.Micros(tx.Now), string(id)); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil && ctx.Err() == nil {
			slog.Warn("sizes of volumes cannot be noted", "room", "stack", "stack", w.stack.ID, "error", err)
		}
	})
}
