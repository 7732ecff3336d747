package serve

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

func TestRoom(t *testing.T) {
	t.Parallel()
	if err := room(t.TempDir(), 0); err != nil {
		t.Error(err)
	}
	// No disk has more free than it has.
	if err := room(t.TempDir(), 101); !errdefs.IsResourceExhausted(err) || !strings.Contains(err.Error(), "less than 101 %") {
		t.Error(err)
	}
}
