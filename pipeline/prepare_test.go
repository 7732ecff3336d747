package pipeline

import (
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestSecretIsNoFile has what an action may have made where the file of a
// secret is to be. An open of the pipe would wait; the device has no driver, an
// open of it says "no such device or address".
func TestSecretIsNoFile(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	for name, mode := range map[string]uint32{"pipe": syscall.S_IFIFO, "device": syscall.S_IFCHR} {
		a := Action{Name: name, Build: &Build{Dockerfile: "x", Secrets: []BuildSecret{{ID: "s", Value: name}}}}
		p := w.pipeline(Pipeline{Name: name}, a)
		w.must(w.eng.Volumes().Ensure(t.Context(), p.ID.Volume(), p.ID.Owner()))
		dir, err := w.eng.Dir(t.Context(), p.ID.Volume())
		w.must(err)
		if err := syscall.Mknod(filepath.Join(dir, name), mode|0o666, 60<<8|7); err != nil {
			t.Fatalf("no %s can be made here: %v", name, err)
		}
		x := w.wait(w.start(p, Start{}))
		if x.Status != Failed || !strings.Contains(x.Steps[0].Error, "it is no regular file") {
			t.Errorf("%s: %s", name, w.words(x))
		}
	}
}
