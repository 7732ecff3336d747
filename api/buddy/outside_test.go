package buddy

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"slipway/source"
)

// All of a change is made, or nothing; what says nothing that can be done is
// refused.
func TestOutsideRepositoryChanges(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const p = "/workspaces/acme/projects/linked"
	const url = "https://one.invalid/a/b.git"
	refused := func(method, path, body, field, message string) {
		t.Helper()
		rec := w.ask(method, path, body)
		if rec.Code != 400 || !strings.Contains(rec.Body.String(), field) || !strings.Contains(rec.Body.String(), message) {
			t.Errorf("%s: %d %s", body, rec.Code, rec.Body)
		}
	}
	w.get(201, "POST", "/workspaces/acme/projects", `{"name":"linked","custom_repo_url":"`+url+`","custom_repo_user":"u","custom_repo_pass":"p"}`)
	refused("PATCH", p, `{"name":"renamed","access":"PUBLIC","custom_repo_url":"ftp://one.invalid/a/b.git","custom_repo_pass":""}`, "custom_repo_url", "has the scheme")
	refused("PATCH", p, `{"custom_repo_url":"","custom_repo_user":"u"}`, "custom_repo_user", "belongs to an outside repository")
	refused("PATCH", p, `{"custom_repo_url":null,"custom_repo_user":"u"}`, "custom_repo_user", "belongs to an outside repository")
	refused("POST", "/workspaces/acme/projects", `{"name":"x","custom_repo_user":"u"}`, "custom_repo_url", "is needed")
	if got := w.get(200, "GET", p, ""); got["name"] != "linked" || got["access"] != "PRIVATE" || got["custom_repo_url"] != url || got["custom_repo_user"] != "u" {
		t.Errorf("refused, and half done: %v", got)
	}
	for _, none := range []string{`""`, "null"} {
		got := w.get(200, "PATCH", p, `{"custom_repo_url":`+none+`}`)
		if got["custom_repo_url"] != nil || got["custom_repo_user"] != nil || got["default_branch"] != "main" {
			t.Errorf("unlinked by %s: %v", none, got)
		}
		if got := w.get(200, "PATCH", p, `{"custom_repo_url":"`+url+`"}`); got["custom_repo_url"] != url {
			t.Errorf("linked again: %v", got)
		}
	}
}

// An outside repository that cannot be asked is asked once for an answer, which
// goes without what it would say; nothing else that is wrong is passed over.
func TestOutsideRepositoryIsAskedOnce(t *testing.T) {
	t.Parallel()
	w := newWorldWith(t, source.Config{Private: true})
	var asked atomic.Int64
	var gone atomic.Pointer[context.CancelFunc]
	outside := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		if cancel := gone.Load(); cancel != nil {
			(*cancel)()
			<-r.Context().Done()
		}
		rw.WriteHeader(http.StatusServiceUnavailable)
	}))
	t.Cleanup(outside.Close)
	pipe := w.project("copy", "f", "1")
	for range 3 {
		x := w.get(201, "POST", pipe+"/executions", `{"branch":{"name":"main"}}`)
		w.wait(fmt.Sprintf("%s/executions/%v", pipe, x["id"]))
	}
	const p = "/workspaces/acme/projects/copy"
	w.get(200, "PATCH", p, fmt.Sprintf(`{"custom_repo_url":"%s/a/b.git"}`, outside.URL))
	asked.Store(0)
	if l := w.get(200, "GET", pipe+"/executions", "")["executions"].([]any); len(l) != 3 {
		t.Errorf("%d executions", len(l))
	}
	if n := asked.Load(); n != 1 {
		t.Errorf("asked %d times for one list", n)
	}
	if got := w.get(200, "GET", p, ""); got["default_branch"] != nil {
		t.Errorf("%v", got["default_branch"])
	}
	ctx, cancel := context.WithCancel(t.Context())
	gone.Store(&cancel)
	q := httptest.NewRequestWithContext(ctx, "GET", p, nil)
	q.Header.Set("Authorization", "Bearer "+w.token)
	rec := httptest.NewRecorder()
	w.h.ServeHTTP(rec, q)
	if rec.Code != 503 {
		t.Errorf("nobody asks any more: %d %s", rec.Code, rec.Body)
	}
}
