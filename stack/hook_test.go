package stack

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"

	"slipway/db"
)

func TestWebhookPulls(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newRig(t)
		const app = "docker.io/library/app:1"
		w.put(map[string]Definition{"web": {Image: "app:1"}, "other": {Image: "app:1"}})
		web, other := w.untilStatus("web", Running), w.untilStatus("other", Running)
		old, err := w.RotateHook(t.Context(), w.admin, w.id(), web.ShortID)
		w.must(err)
		token, err := w.RotateHook(t.Context(), w.admin, w.id(), string(web.ID))
		w.must(err)
		w.rest()
		w.eng.Publish(app, w.eng.Image("echo newer"))
		before := w.get().Generation
		for _, wrong := range []string{"", old, token + "x", token[1:]} {
			if err := w.CallHook(t.Context(), w.id(), wrong); !errdefs.IsNotFound(err) {
				t.Errorf("%q: %v", wrong, err)
			}
		}
		if err := w.CallHook(t.Context(), "nobody", token); !errdefs.IsNotFound(err) {
			t.Errorf("another stack: %v", err)
		}
		if got := w.get().Generation; got != before {
			t.Errorf("a wrong token changed something: %d, then %d", before, got)
		}
		w.must(w.CallHook(t.Context(), w.id(), token))
		w.until("the new image runs", func() bool {
			s := w.service("web")
			return s.Status == Running && s.DeployedDigest != web.DeployedDigest
		})
		if s := w.service("other"); s.DeployedDigest != other.DeployedDigest || !s.StatusSet.Equal(other.StatusSet) {
			t.Errorf("another service was touched: %+v", s)
		}
		time.Sleep(time.Until(time.Now().Truncate(time.Minute).Add(time.Minute)))
		for i := range hookCalls + 2 {
			if err := w.CallHook(t.Context(), w.id(), token); errors.Is(err, ErrTooOften) != (i >= hookCalls) {
				t.Errorf("call %d in a minute: %v", i+1, err)
			}
		}
		time.Sleep(time.Minute)
		w.must(w.CallHook(t.Context(), w.id(), token))
		// The token ends with its service.
		w.put(map[string]Definition{"other": {Image: "app:1"}})
		if err := w.CallHook(t.Context(), w.id(), token); !errdefs.IsNotFound(err) {
			t.Errorf("of a removed service: %v", err)
		}
		w.until("the row is gone", func() bool {
			var n int
			w.must(w.store.Read(t.Context(), func(tx *db.Tx) error { return tx.QueryRow(`SELECT count(*) FROM service_hooks`).Scan(&n) }))
			return n == 0
		})
		w.stop()
	})
}
