package stack

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"

	"slipway/access"
	"slipway/db"
	"slipway/project"
)

// Volume finds a volume of a stack by UUID.
func (s *Stacks) Volume(ctx context.Context, by access.Actor, id ID, volume VolumeID) (out Volume, err error) {
	err = s.read(ctx, by, id, func(w *world, _ project.Project) error {
		v, err := w.findVolume(volume)
		if err == nil {
			out = w.viewVolume(v)
		}
		return err
	})
	return out, err
}

func (w *world) findVolume(id VolumeID) (*volume, error) {
	for _, v := range w.volumes {
		if v.ID == id && v.Removed.IsZero() {
			return v, nil
		}
	}
	return nil, fmt.Errorf("volume %s: %w", id, errdefs.ErrNotFound)
}

// DeleteVolume removes a volume with its data. One that a service mounts, or
// shall mount, is errdefs.ErrFailedPrecondition.
func (s *Stacks) DeleteVolume(ctx context.Context, by access.Actor, id ID, volume VolumeID) error {
	err := s.write(ctx, by, id, func(tx *db.Tx, w *world, p project.Project) error {
		v, err := w.findVolume(volume)
		if err != nil {
			return err
		}
		for _, sv := range w.services {
			if sv.Removed.IsZero() && w.uses(sv, v.Key) {
				return fmt.Errorf("volume %s is used by service %s: %w", v.Name, sv.Name, errdefs.ErrFailedPrecondition)
			}
		}
		v.Removed = tx.Now
		if err := v.save(tx); err != nil {
			return err
		}
		return w.bump(tx, p, nil)
	})
	if err != nil {
		return fmt.Errorf("delete volume: %w", err)
	}
	return nil
}
