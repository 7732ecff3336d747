package buddy

import (
	"encoding/json"
	"fmt"
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

// The key of an outside repository is that of a variable.
func TestOutsideRepositoryByKey(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := func(path string) any {
		t.Helper()
		return w.get(200, "GET", path, "")["variables"].([]any)[0].(map[string]any)["id"]
	}
	of := id("/workspaces/acme/variables")
	w.get(201, "POST", "/workspaces/acme/projects", fmt.Sprintf(`{"name":"linked","custom_repo_url":"git@one.invalid:a/b.git","custom_repo_ssh_key_id":%v}`, of))
	has := func(want bool) {
		t.Helper()
		pr, err := w.rooms.Projects.Find(t.Context(), w.admin, "acme", "linked")
		w.must(err)
		r, err := w.rooms.Sources.Remote(t.Context(), pr.ID)
		w.must(err)
		if r == nil || (string(r.PrivateKey) == secret.Encrypted) != want {
			t.Errorf("%+v, want a key: %v", r, want)
		}
	}
	const p = "/workspaces/acme/projects/linked"
	has(true)
	w.get(200, "PATCH", p, `{"access":"PUBLIC"}`)
	has(true)
	w.get(200, "PATCH", p, `{"custom_repo_ssh_key_id":null}`)
	has(false)
	w.get(200, "PATCH", p, fmt.Sprintf(`{"custom_repo_ssh_key_id":%v}`, id("/workspaces/acme/variables?projectName=linked")))
	has(true)
	w.get(200, "PATCH", p, `{"custom_repo_url":"git@one.invalid:a/c.git"}`)
	has(false)
	plain := w.get(201, "POST", "/workspaces/acme/variables", `{"key":"A","value":"x"}`)["id"]
	other, err := w.rooms.Projects.CreateWorkspace(t.Context(), w.admin, "other", "")
	w.must(err)
	token := w.token
	admin, err := w.rooms.Access.Authenticate(t.Context(), token, "")
	w.must(err)
	l, err := w.rooms.Secrets.Variables(t.Context(), admin, secret.Scope{Workspace: other.ID})
	w.must(err)
	for _, bad := range []any{plain, l[0].ID, 99999} {
		rec := w.ask("PATCH", p, fmt.Sprintf(`{"custom_repo_ssh_key_id":%v}`, bad))
		if rec.Code != 400 || !strings.Contains(rec.Body.String(), "custom_repo_ssh_key_id: there is no variable") {
			t.Errorf("%v: %d %s", bad, rec.Code, rec.Body)
		}
	}
	if rec := w.ask("POST", "/workspaces/acme/projects", fmt.Sprintf(`{"name":"bare","custom_repo_ssh_key_id":%v}`, of)); rec.Code != 400 {
		t.Errorf("%d %s", rec.Code, rec.Body)
	}
}
