package buddy

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"slipway/source"
)

// What a project says of submodules is so in its runs, in the name of who starts
// them; a pull request from elsewhere gets nothing for which that is needed.
func TestFetchSubmodules(t *testing.T) {
	t.Parallel()
	w := newWorldWith(t, source.Config{Private: true, Public: "https://ci.example"})
	lib := w.project("lib", "l", "lib")
	head := w.get(200, "GET", strings.Replace(lib, "/pipelines/", "/repository/commits?of=", 1), "")["commits"].([]any)[0].(map[string]any)["revision"].(string)
	url, git := forge(t)
	commit := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(git("rev-parse", "--show-toplevel"), name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		git("add", name)
		git("commit", "-q", "-m", name)
	}
	commit("Dockerfile", "FROM scratch\n")
	git("update-index", "--add", "--cacheinfo", "160000,"+head+",vendor/lib")
	commit(".gitmodules", "[submodule \"lib\"]\n\tpath = vendor/lib\n\turl = https://ci.example/git/acme/lib.git\n")
	git("push", "-q", "origin", "main", "main:refs/pull/7/head")
	commit("more", "of a fork")
	git("push", "-q", "origin", "main:refs/pull/8/head")
	git("update-index", "--add", "--cacheinfo", "160000,"+head+",over/ssh")
	commit(".gitmodules", "[submodule \"lib\"]\n\tpath = vendor/lib\n\turl = https://ci.example/git/acme/lib.git\n[submodule \"s\"]\n\tpath = over/ssh\n\turl = git@127.0.0.1:lib.git\n")
	git("push", "-q", "origin", "main:ssh")

	path := w.project("copy")
	const p = "/workspaces/acme/projects/copy"
	if got := w.get(200, "PATCH", p, `{"custom_repo_url":"`+url+`"}`); got["fetch_submodules"] != false || got["fetch_submodules_env_key"] != nil {
		t.Errorf("at first: %v", got)
	}
	w.get(201, "POST", path+"/actions", `{"name":"Build","type":"DOCKERFILE","dockerfile_path":"Dockerfile"}`)
	run := func(body, words, says string) {
		t.Helper()
		x, got := w.ran(path, body)
		if log := w.log(path, x, 0); got != words || !strings.Contains(log, says) {
			t.Errorf("%s: %s, and %q is not in %s", body, got, says, log)
		}
	}
	const good, bad = "SUCCESSFUL, Build SUCCESSFUL", "FAILED, Build FAILED"
	const main = `{"branch":{"name":"main"},"to_revision":{"revision":"HEAD"}}`
	run(main, good, "Submodule vendor/lib is not fetched: its folder stays empty (fetch_submodules of the project is off)")
	if got := w.get(200, "PATCH", p, `{"fetch_submodules":true,"fetch_submodules_env_key":"DEPLOY"}`); got["fetch_submodules"] != true || got["fetch_submodules_env_key"] != "DEPLOY" {
		t.Errorf("changed: %v", got)
	}
	run(main, good, "Submodule vendor/lib: checked out "+head+" of project lib")
	run(`{"pull_request":{"name":"7"}}`, good, "Submodule vendor/lib: checked out "+head+" of project lib")
	run(`{"pull_request":{"name":"8"}}`, bad, "submodule vendor/lib: there is no project acme/lib, or its repository is not for who started the run to read")
	run(`{"branch":{"name":"ssh"}}`, bad, `fetch_submodules_env_key: there is no variable "DEPLOY" in the project or its workspace`)
	if rec := w.ask("PATCH", p, `{"fetch_submodules":false,"fetch_submodules_env_key":"no name"}`); rec.Code != 400 || !strings.Contains(rec.Body.String(), "fetch_submodules_env_key: must be the name of a variable") {
		t.Errorf("%d %s", rec.Code, rec.Body)
	}
	if got := w.get(200, "PATCH", p, `{"name":"copy"}`); got["fetch_submodules"] != true || got["fetch_submodules_env_key"] != "DEPLOY" {
		t.Errorf("what was not sent: %v", got)
	}
	if got := w.get(200, "PATCH", p, `{"fetch_submodules_env_key":null,"fetch_submodules":false}`); got["fetch_submodules"] != false || got["fetch_submodules_env_key"] != nil {
		t.Errorf("cleared: %v", got)
	}
	run(main, good, "Submodule vendor/lib is not fetched")
	made := w.get(201, "POST", "/workspaces/acme/projects", `{"name":"third","fetch_submodules":true,"fetch_submodules_env_key":"K"}`)
	if made["fetch_submodules"] != true || made["fetch_submodules_env_key"] != "K" {
		t.Errorf("made: %v", made)
	}
}
