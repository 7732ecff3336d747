package local

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// full gives the errors of a disk without room their kind, and leaves out where
// on this host that was. Not all who pass them on keep what they wrap.
func full(err error) error {
	for _, e := range []unix.Errno{unix.ENOSPC, unix.EDQUOT} {
		if err != nil && (errors.Is(err, e) || strings.Contains(err.Error(), e.Error())) {
			return fmt.Errorf("%w: %w", e, errdefs.ErrResourceExhausted)
		}
	}
	return err
}

// Shed removes from the directory of an engine that is not open what is of no
// use to the next one: unfinished uploads, and volumes on their way out or in.
// What was uploaded in part has to be sent anew.
func Shed(dir string) error {
	var errs []error
	for _, pattern := range []string{"core/content/ingest/*", "volumes/.gone-*", "volumes/.new-*"} {
		list, _ := filepath.Glob(filepath.Join(dir, pattern))
		for _, f := range list {
			errs = append(errs, os.RemoveAll(f))
		}
	}
	return errors.Join(errs...)
}
