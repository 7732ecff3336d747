package api

import (
	"fmt"
	"testing"

	"github.com/containerd/errdefs"
)

// TestText says errors without the words of the machinery.
func TestText(t *testing.T) {
	row := fmt.Errorf("constraint failed: UNIQUE constraint failed: things.name (2067): %w", errdefs.ErrAlreadyExists)
	for _, c := range []struct {
		err  error
		want string
	}{
		{fmt.Errorf("registry %s: %w", "nope", errdefs.ErrNotFound), "registry nope does not exist"},
		{fmt.Errorf("read: %w", errdefs.ErrNotFound.WithMessage("nothing is served at /x")), "read: nothing is served at /x"},
		{fmt.Errorf("project app: %w", errdefs.ErrAlreadyExists.WithMessage("the name is taken")), "project app: the name is taken"},
		{fmt.Errorf("the hostname is in use: %w", errdefs.ErrAlreadyExists), "the hostname is in use"},
		{fmt.Errorf("thing a: %w", row), "thing a is taken"},
		{row, "it is there already"},
		{fmt.Errorf("cannot start it, it is running: %w", errdefs.ErrFailedPrecondition), "cannot start it, it is running"},
		{fmt.Errorf("the token lacks the scope A: %w", errdefs.ErrPermissionDenied), "the token lacks the scope A"},
		{errdefs.ErrNotFound, "not found"},
	} {
		if got := Text(c.err); got != c.want {
			t.Errorf("%v: %q, not %q", c.err, got, c.want)
		}
	}
}
