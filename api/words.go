package api

import (
	"errors"
	"strings"

	"github.com/containerd/errdefs"
)

// Text is an error in the words of an answer: without the name of its kind,
// which the status says, and without what the database said of a row that is
// there already. Of an errdefs.ErrNotFound that ends with a noun it says that
// this does not exist; an error that is a whole sentence is made by
// errdefs.ErrNotFound.WithMessage.
func Text(err error) string {
	s := err.Error()
	if cut, _, ok := strings.Cut(s, "constraint failed: "); ok && errdefs.IsAlreadyExists(err) {
		if cut = strings.TrimSuffix(cut, ": "); cut == "" {
			return "it is there already"
		}
		return cut + " is taken"
	}
	for _, kind := range []error{
		errdefs.ErrNotFound, errdefs.ErrAlreadyExists, errdefs.ErrPermissionDenied, errdefs.ErrInvalidArgument,
		errdefs.ErrResourceExhausted, errdefs.ErrConflict, errdefs.ErrFailedPrecondition, errdefs.ErrUnauthenticated,
		errdefs.ErrAborted, errdefs.ErrOutOfRange, errdefs.ErrUnavailable,
	} {
		cut, ok := strings.CutSuffix(s, ": "+kind.Error())
		switch {
		case !ok || !errors.Is(err, kind):
			continue
		case errors.Is(kind, errdefs.ErrNotFound):
			return cut + " does not exist"
		}
		return cut
	}
	return s
}
