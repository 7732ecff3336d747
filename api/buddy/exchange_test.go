package buddy

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"slipway/api/apitest"
)

// TestExchanges replays testdata/*.txtar. A section "wait" names an execution
// whose end is waited for.
func TestExchanges(t *testing.T) {
	t.Parallel()
	apitest.Files(t, func(t *testing.T, file string) {
		w := newWorld(t)
		w.project("company-website", "Dockerfile", "FROM scratch\nCOPY Dockerfile /\n", "dir/Dockerfile", "FROM scratch\nCOPY Dockerfile /\n",
			"path_to_secret", "hush-hush")
		receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusAccepted) }))
		t.Cleanup(receiver.Close)
		w.vars["receiver"] = receiver.URL
		r := apitest.Replay{T: t, Handler: w.h, Vars: w.vars, Header: http.Header{"Authorization": {"Bearer " + w.token}}, Open: true, Wait: func(path string) { w.wait(path) }}
		r.Run(file)
	})
}
