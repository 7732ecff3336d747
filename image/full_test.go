package image

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/containerd/errdefs"
)

// TestDiskBecomesFull has the disk become full while something comes: the
// answer says so, and nothing of it is kept.
func TestDiskBecomesFull(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var full atomic.Bool
	w.images.full = func() error {
		if full.Load() {
			return fmt.Errorf("the disk is full: %w", errdefs.ErrResourceExhausted)
		}
		return nil
	}
	body := []byte("0123456789")
	d := digestOf(body)
	for _, c := range []struct{ method, query string }{{"PATCH", ""}, {"PUT", "?digest=" + d}} {
		loc := w.url + w.do(w.ann, "POST", "/v2/team/up/blobs/uploads/", nil).header.Get("Location")
		if a := w.do(w.ann, "PATCH", loc, body[:4]); a.code != 202 {
			t.Fatal(a)
		}
		full.Store(true)
		if a := w.do(w.ann, c.method, loc+c.query, body[4:]); a.code != 507 || !strings.Contains(a.body, "the disk is full") {
			t.Errorf("%s: %+v", c.method, a)
		}
		full.Store(false)
		if a := w.do(w.ann, "GET", loc, nil); a.code != 404 || a.errCode() != "BLOB_UPLOAD_UNKNOWN" {
			t.Errorf("%s: it is still there: %+v", c.method, a)
		}
	}
	full.Store(true)
	if a := w.do(w.ann, "POST", "/v2/team/up/blobs/uploads/?digest="+d, body); a.code != 507 {
		t.Errorf("%+v", a)
	}
	aborted := 0
	for _, c := range w.eng.Calls() {
		if strings.HasPrefix(c, "Abort ") {
			aborted++
		}
	}
	if aborted < 3 {
		t.Errorf("%d uploads were dropped: %q", aborted, w.eng.Calls())
	}
	if _, err := w.images.Load(t.Context(), w.annA, w.team.ID, "", strings.NewReader("an archive")); !errdefs.IsResourceExhausted(err) {
		t.Errorf("an archive: %v", err)
	}
}
