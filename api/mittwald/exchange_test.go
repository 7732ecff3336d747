package mittwald

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"slipway/api/apitest"
)

// TestExchanges replays testdata/*.txtar. <P>, <p> and <W> are the id and short
// id of a project and the id of its workspace. Every answer is held against the
// vendor's schema too.
func TestExchanges(t *testing.T) {
	t.Parallel()
	apitest.Files(t, func(t *testing.T, file string) {
		w := newWorld(t)
		ref := loadReference(t)
		r := apitest.Replay{
			T: t, Handler: w.server, Vars: map[string]string{"P": string(w.pr.ID), "p": w.pr.ShortID, "W": w.home.ID},
			Header: http.Header{"X-Access-Token": {w.token}, "Content-Type": {"application/json"}},
			Check: func(method, path string, rec *httptest.ResponseRecorder) error {
				if rec.Header().Get("ETag") != "" {
					return errors.New("there is an ETag")
				}
				path, _, _ = strings.Cut(path, "?")
				if err := ref.check(method, path, rec.Code, rec.Header().Get("Content-Type"), rec.Body.Bytes()); err != nil {
					return fmt.Errorf("against the reference: %w in %s", err, rec.Body)
				}
				return nil
			},
		}
		r.Run(file)
	})
}

// TestUnservedPathsAnswerTheVendors404: no stub, and nothing for strangers.
func TestUnservedPathsAnswerTheVendors404(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ref := loadReference(t)
	for _, path := range []string{
		"/v2/container-template-statistics", "/v2/container-templates",
		"/v2/stacks/" + string(w.pr.ID) + "/nothing", "/v2/nowhere",
	} {
		resp, body := w.do(http.MethodGet, path, w.token, "")
		if err := ref.checkError(resp.StatusCode, body); err != nil || resp.StatusCode != 404 {
			t.Errorf("%s: %d %s %v", path, resp.StatusCode, body, err)
		}
		if resp, body := w.do(http.MethodGet, path, "", ""); resp.StatusCode != 401 {
			t.Errorf("%s: a stranger got %d %s", path, resp.StatusCode, body)
		}
	}
}

// TestEveryRouteIsInTheReference: no path of our own making.
func TestEveryRouteIsInTheReference(t *testing.T) {
	t.Parallel()
	ref := loadReference(t)
	for pattern := range New(Rooms{}).Table {
		method, path, _ := strings.Cut(pattern, " ")
		if path != "/v2/users/self" && path != "/v2/domains" && ref.Paths[path][method] == nil {
			t.Errorf("%s is not in the reference", pattern)
		}
	}
}
