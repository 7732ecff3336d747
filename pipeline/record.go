package pipeline

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/errdefs"

	"slipway/db"
)

// record is advance, tried again for a while if how a step ended cannot be
// written: what a step has done is not to be done once more, or called a
// failure, because of something that passes. If the disk is full, mostly the
// step itself had filled it, and room comes when it has been cleaned up after.
// After that while the execution is handled anew, as after a restart.
//
// An end that cannot come true at any time, as that of a build whose image
// cannot have its tag, is a failure of the step.
func (h *handling) record(ctx context.Context, done *settled) (t turn, err error) {
	for pause := 250 * time.Millisecond; ; pause *= 2 {
		t, err = h.advance(ctx, done)
		switch {
		case done != nil && done.defined != nil && done.defined.err == nil && err != nil && neverTrue(err):
			done.defined = &defined{err: err}
			continue
		case done == nil || done.verdicts != nil || done.defined != nil || err == nil || ctx.Err() != nil || errors.Is(err, db.ErrLeaseLost):
			return t, err
		case !neverTrue(err):
		case done.refused:
			return t, err
		default:
			done.refused, done.tags = true, nil
			done.result = done.by.broken(ctx, done.step, fmt.Errorf("it ended as %s, which could not be kept: %w", done.result.Status, err))
			continue
		}
		if pause > 30*time.Second {
			return t, err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return t, err
		}
	}
}

// neverTrue tells of an error of a transaction that the same one would meet at
// any time. All others may pass: a disk that is full or does not answer, a store
// that is locked or being mended.
func neverTrue(err error) bool {
	return errors.Is(err, db.ErrRefused) || errdefs.IsInvalidArgument(err) || errdefs.IsNotFound(err) ||
		errdefs.IsAlreadyExists(err) || errdefs.IsPermissionDenied(err)
}
