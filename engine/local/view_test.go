package local

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"

	"slipway/engine/enginetest"
)

// TestCloseWhileUnpacking closes the engine while it unpacks an image: nothing
// goes on in the stores that are closed, and the next one begins anew.
func TestCloseWhileUnpacking(t *testing.T) {
	b := open(t)
	i := enginetest.Shell(t)
	const many = 20000
	files := map[string][]byte{}
	for n := range many {
		files[fmt.Sprintf("many/%d", n)] = nil
	}
	i.Layer = append(i.Layer[:len(i.Layer)-1024:len(i.Layer)-1024], enginetest.Tar(t, nil, nil, files)...)
	l, err := b.Images().Load(t.Context(), bytes.NewReader(enginetest.Archive(t, i)))
	if err != nil {
		t.Fatal(err)
	}
	b.base = l[0].Digest
	if err := b.Images().Hold(t.Context(), "many", b.base); err != nil {
		t.Fatal(err)
	}
	id, s := b.sh("ls /many | grep -c .")
	ran := make(chan error, 1)
	go func() {
		_, err := b.Engine.Run(context.Background(), id, s)
		ran <- err
	}()
	until(t, "it is unpacked", func() bool {
		begun := false
		err := b.snap.Walk(nsctx(t.Context()), func(_ context.Context, i snapshots.Info) error {
			begun = begun || strings.HasPrefix(i.Name, "unpack-")
			return nil
		})
		return err == nil && begun
	})
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	all := make([]byte, 4<<20)
	if all = all[:runtime.Stack(all, true)]; bytes.Contains(all, []byte("(*Engine).unpack(")) {
		t.Error("it is still unpacked")
	}
	if err := <-ran; !errors.Is(err, errClosed) {
		t.Errorf("the run: %v", err)
	}
	b.reopen()
	if x, out := b.do("ls /many | grep -c ."); x.Code != 0 || out != fmt.Sprint(many) {
		t.Errorf("%+v %q", x, out)
	}
}
