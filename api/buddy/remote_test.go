package buddy

import (
	"encoding/json"
	"strings"
	"testing"

	"slipway/secret"
	"slipway/source"
)

// What is not given of an outside repository stays, and its password goes to no
// other host.
func TestOutsideRepository(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const p = "/workspaces/acme/projects/linked"
	have := func(want source.Remote) {
		t.Helper()
		pr, err := w.rooms.Projects.Find(t.Context(), w.admin, "acme", "linked")
		w.must(err)
		r, err := w.rooms.Sources.Remote(t.Context(), pr.ID)
		w.must(err)
		if r == nil || r.URL != want.URL || r.Username != want.Username || r.Password != want.Password {
			t.Errorf("%+v instead of %+v", r, want)
		}
	}
	one := source.Remote{URL: "https://one.invalid/a/b.git", Username: "u", Password: secret.Encrypted}
	got := w.get(201, "POST", "/workspaces/acme/projects", `{"name":"linked","custom_repo_url":"https://one.invalid/a/b.git","custom_repo_user":"u","custom_repo_pass":"p"}`)
	have(one)
	got["display_name"] = "Sent back as it came"
	whole, err := json.Marshal(got)
	w.must(err)
	w.get(200, "PATCH", p, string(whole))
	have(one)
	w.get(200, "PATCH", p, `{"custom_repo_pass":"another"}`)
	have(one)
	w.get(200, "PATCH", p, `{"custom_repo_user":"v"}`)
	one.Username = "v"
	have(one)
	for body, path := range map[string]string{
		`{"custom_repo_url":"https://two.invalid/a/b.git"}`:                                "custom_repo_pass: is to be given anew",
		`{"custom_repo_url":"http://one.invalid/a/b.git","custom_repo_pass":"!encrypted"}`: "custom_repo_pass: is to be given anew",
		`{"custom_repo_url":"ftp://one.invalid/a/b.git","custom_repo_pass":""}`:            "custom_repo_url: has the scheme",
	} {
		if rec := w.ask("PATCH", p, body); rec.Code != 400 || !strings.Contains(rec.Body.String(), path) {
			t.Errorf("%s: %d %s", body, rec.Code, rec.Body)
		}
		have(one)
	}
	w.get(200, "PATCH", p, `{"custom_repo_url":"https://two.invalid/a/b.git","custom_repo_user":"","custom_repo_pass":""}`)
	have(source.Remote{URL: "https://two.invalid/a/b.git"})
}
