package buddy

import (
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"slipway/source"
)

// forge serves a repository as forges do: pull requests are refs. It gives the URL
// and a way to run git in a work tree of it.
func forge(t *testing.T) (url string, git func(args ...string) string) {
	t.Helper()
	dir := t.TempDir()
	git = func(args ...string) string {
		t.Helper()
		c := exec.CommandContext(t.Context(), "git", args...)
		c.Dir = filepath.Join(dir, "tree")
		c.Env = append(os.Environ(), "HOME="+dir, "GIT_CONFIG_NOSYSTEM=1", "GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@b", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@b")
		out, err := c.CombinedOutput()
		if err != nil {
			t.Fatalf("git %v: %v: %s", args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	if err := os.MkdirAll(filepath.Join(dir, "tree"), 0o755); err != nil {
		t.Fatal(err)
	}
	git("init", "-q", "--bare", "-b", "main", filepath.Join(dir, "r.git"))
	git("init", "-q", "-b", "main", ".")
	git("remote", "add", "origin", filepath.Join(dir, "r.git"))
	program, err := exec.LookPath("git")
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(&cgi.Handler{
		Path: program, Args: []string{"http-backend"}, Env: []string{"GIT_PROJECT_ROOT=" + dir, "GIT_HTTP_EXPORT_ALL=1", "HOME=" + dir, "GIT_CONFIG_NOSYSTEM=1"},
	})
	t.Cleanup(srv.Close)
	return srv.URL + "/r.git", git
}

// A pull request of an outside repository is run as its ref says; its image gets no
// tag that others trust.
func TestPullRequest(t *testing.T) {
	t.Parallel()
	w := newWorldWith(t, source.Config{Private: true})
	url, git := forge(t)
	commit := func(name string) string {
		t.Helper()
		if err := os.WriteFile(filepath.Join(git("rev-parse", "--show-toplevel"), name), []byte("FROM scratch\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		git("add", "-A")
		git("commit", "-q", "-m", name)
		return git("rev-parse", "HEAD")
	}
	commit("Dockerfile")
	git("push", "-q", "origin", "main")
	git("checkout", "-q", "-b", "feature")
	first := commit("one")
	git("push", "-q", "origin", "feature", "feature:refs/pull/7/head")
	second := commit("two") // of a fork
	git("push", "-q", "origin", "feature:refs/merge-requests/8/head")

	own := w.project("own", "f", "1")
	w.refused(own, `{"pull_request":{"name":"7"}}`, "pull_request.name: the project's own repository has no pull request 7")
	path := w.project("copy")
	w.get(200, "PATCH", "/workspaces/acme/projects/copy", `{"custom_repo_url":"`+url+`"}`)
	w.get(201, "POST", path+"/actions", `{"name":"Build","type":"DOCKERFILE","dockerfile_path":"Dockerfile","docker_image_tag":"latest"}`)
	w.get(200, "PATCH", path, `{"execution_message_template":"$BUDDY_RUN_PR_NO $BUDDY_RUN_PR_HEAD_BRANCH $BUDDY_RUN_REF_TYPE $BUDDY_RUN_REF_NAME $BUDDY_EXECUTION_REF"}`)
	for body, want := range map[string]string{
		`{"pull_request":{"name":"9"}}`:                                                                "pull_request.name: " + url + " shows no pull request 9",
		`{"pull_request":{"name":"feature"}}`:                                                          "is no pull request: give its number",
		`{"pull_request":{"name":"7"},"branch":{"name":"main"}}`:                                       "pull_request.name: a run is of a pull request, of a branch or of a tag",
		`{"pull_request":{"name":"7"},"to_revision":{"revision":"` + second + `"}}`:                    "to_revision.revision: the pull request is at " + first,
		`{"pull_request":{"name":"7"},"from_revision":{"revision":"` + strings.Repeat("1", 40) + `"}}`: "from_revision.revision: ",
	} {
		w.refused(path, body, want)
	}
	for _, c := range []struct{ name, ref, head, hash string }{
		{"pull/7", "pull/7/head", "feature", first},
		{"8", "merge-requests/8/head", "", second},
	} {
		x, words := w.ran(path, `{"pull_request":{"name":"`+c.name+`"},"to_revision":{"revision":"HEAD"}}`)
		want := map[string]any{
			"message":      strings.Split(c.ref, "/")[1] + " " + c.head + " PULL_REQUEST " + c.ref + " refs/" + c.ref,
			"pull_request": map[string]any{"name": c.ref}, "branch": nil, "tag": nil, "to_revision": map[string]any{"revision": c.hash},
		}
		if err := w.lacks(c.name, want, x); err != nil || words != "SUCCESSFUL, Build SUCCESSFUL" {
			t.Error(words, err)
		}
		if head, _ := x["pull_request"].(map[string]any)["head_branch"].(string); head != c.head {
			t.Errorf("%s is of %q", c.name, head)
		}
		if log := w.log(path, x, 0); !strings.Contains(log, "the image is called acme/copy:pr-"+strings.Split(c.ref, "/")[1]+", and no other tag moves") {
			t.Error(log)
		}
	}
}
