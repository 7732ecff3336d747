package alauda

import (
	"net/http"
	"testing"

	"slipway/api/apitest"
)

// TestExchanges replays testdata/*.txtar. A section "wait" names a build whose
// end is waited for. <git> is an outside git server, <head> the commit of its
// branch master, <first> that of its tag 1.0, <wrong> that of broken.
func TestExchanges(t *testing.T) {
	t.Parallel()
	apitest.Files(t, func(t *testing.T, file string) {
		w := newWorld(t)
		w.vars["TOKEN"] = w.token
		r := apitest.Replay{T: t, Handler: w.serve, Vars: w.vars, Header: http.Header{"Authorization": {"Token " + w.token}}, Wait: func(id string) { w.wait(id) }}
		r.Run(file)
	})
}
