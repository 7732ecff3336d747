package buddy

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"slipway/api"
	"slipway/api/apitest"
)

// TestExchanges replays testdata/*.txtar. A section "wait" names an execution
// whose end is waited for.
func TestExchanges(t *testing.T) {
	t.Parallel()
	rows := readObserved(t)
	apitest.Files(t, func(t *testing.T, file string) {
		w := newWorld(t)
		w.project("company-website", "Dockerfile", "FROM scratch\nCOPY Dockerfile /\n", "dir/Dockerfile", "FROM scratch\nCOPY Dockerfile /\n",
			"path_to_secret", "hush-hush")
		receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusAccepted) }))
		t.Cleanup(receiver.Close)
		w.vars["receiver"] = receiver.URL
		r := apitest.Replay{T: t, Handler: w.h, Vars: w.vars, Header: http.Header{"Authorization": {"Bearer " + w.token}}, Open: true, Wait: func(path string) { w.wait(path) }}
		r.Check = func(method, path string, rec *httptest.ResponseRecorder) error {
			return swallowed(rows, method, path, rec)
		}
		r.Run(file)
	})
}

// swallowed tells of a member that clients send and that nobody reads. Actions
// have those of their type alone.
func swallowed(rows []observed, method, path string, rec *httptest.ResponseRecorder) error {
	path, _, _ = strings.Cut(path, "?")
	path = rewrite(strings.TrimSuffix(path, "/"))
	for _, o := range rows {
		if o.method != method || !o.path.MatchString(path) || strings.Contains(path, "/actions") {
			continue
		}
		for name := range strings.SplitSeq(rec.Header().Get(api.IgnoredHeader), ", ") {
			if slices.Contains(o.body, name) {
				return fmt.Errorf("%s is sent by clients, and nobody reads it", name)
			}
		}
	}
	return nil
}
