package source

import (
	"errors"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"slipway/plainfile"
)

// TestDeviceInPlaceOfFile is about a path that was a file when it was looked
// at. The device has no driver: an open of it says ENXIO.
func TestDeviceInPlaceOfFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := unix.Mknod(filepath.Join(dir, "node"), unix.S_IFCHR|0o666, int(unix.Mkdev(60, 7))); err != nil {
		t.Fatalf("no device nodes can be made here: %v", err)
	}
	must(t, unix.Symlink("node", filepath.Join(dir, "link")))
	w, err := openWalker(dir)
	must(t, err)
	defer w.close()
	for name, want := range map[string]error{"node": plainfile.ErrIrregular, "link": unix.ELOOP, "none": unix.ENOENT} {
		if _, err := openat(w.root, name); !errors.Is(err, want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
