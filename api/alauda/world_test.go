package alauda

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"slipway/access"
	"slipway/api"
	"slipway/api/apitest"
	"slipway/engine/fake"
	"slipway/project"
	"slipway/source"
)

func TestMain(m *testing.M) {
	slog.SetDefault(slog.New(slog.DiscardHandler))
	goleak.VerifyTestMain(m)
}

// site is what a server answers with, under this public URL.
const site = "https://slipway.test"

// world is a server with this dialect, real rooms, a fake engine, and a git
// server beside it.
type world struct {
	t     testing.TB
	dir   string
	h     *Handlers
	eng   *fake.Engine
	admin access.Actor
	home  project.Workspace
	token string
	serve http.Handler
	vars  map[string]string // of exchanges
}

func newWorld(t testing.TB) *world {
	t.Helper()
	r := apitest.NewRooms(t, "alauda", "alauda", source.Config{Private: true})
	w := &world{t: t, dir: r.Dir, eng: r.Engine, admin: r.Admin, home: r.Home, token: r.Token}
	w.h = &Handlers{PublicURL: site, Access: r.Access, Projects: r.Projects, Sources: r.Sources, Pipelines: r.Pipelines(site), Images: r.Images}
	s := api.NewServer(r.Access, api.Options{})
	s.Mount(w.h.Dialect())
	w.serve = s
	w.repository()
	return w
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// files are the commits of the outside repository: the first has the tag 1.0,
// the second is the head of master, the third of broken.
var files = []struct{ ref, name, text string }{
	{"first", "Dockerfile", "FROM scratch\nCOPY Dockerfile /\n"},
	{"head", "aa/Dockerfile", "FROM scratch\nCOPY Dockerfile /aa\n"},
	{"wrong", "Dockerfile", "FROM scratch\nCOPY nothing /\n"},
}

// repository makes an outside repository and serves it over HTTP, below /open/
// to everybody, below /closed/ to ann with her password.
func (w *world) repository() {
	w.t.Helper()
	dir := filepath.Join(w.dir, "outside", "o", "test")
	git := func(args ...string) string {
		cmd := exec.Command("git", append([]string{"-C", dir, "-c", "user.name=Ann", "-c", "user.email=ann@example.com"}, args...)...)
		cmd.Env = append(os.Environ(), "HOME="+w.dir, "GIT_CONFIG_NOSYSTEM=1")
		out, err := cmd.CombinedOutput()
		if err != nil {
			w.t.Fatalf("git %v: %v: %s", args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	w.must(os.MkdirAll(filepath.Join(dir, "aa"), 0o755))
	git("init", "-q", "-b", "master")
	w.vars = map[string]string{}
	for _, f := range files {
		if f.ref == "wrong" {
			git("checkout", "-q", "-b", "broken")
		}
		w.must(os.WriteFile(filepath.Join(dir, f.name), []byte(f.text), 0o644))
		git("add", ".")
		git("commit", "-q", "-m", f.ref)
		w.vars[f.ref] = git("rev-parse", "HEAD")
		if f.ref == "first" {
			git("tag", "1.0")
		}
	}
	exe, err := exec.LookPath("git")
	w.must(err)
	backend := &cgi.Handler{
		Path: exe, Args: []string{"http-backend"},
		Env: []string{"GIT_PROJECT_ROOT=" + filepath.Join(w.dir, "outside"), "GIT_HTTP_EXPORT_ALL=1", "HOME=" + w.dir},
	}
	s := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		_, rest, _ := strings.Cut(r.URL.Path[1:], "/")
		if strings.HasPrefix(r.URL.Path, "/closed/") {
			if u, p, _ := r.BasicAuth(); u != "ann" || p != "hush-hush" {
				rw.Header().Set("WWW-Authenticate", `Basic realm="x"`)
				http.Error(rw, "who?", http.StatusUnauthorized)
				return
			}
		}
		r.URL.Path = "/" + rest
		backend.ServeHTTP(rw, r)
	}))
	w.t.Cleanup(s.Close)
	w.vars["git"] = s.URL
}

// ask sends a request with the admin's token and gives the answer.
func (w *world) ask(method, path, body string) *httptest.ResponseRecorder {
	w.t.Helper()
	q := httptest.NewRequestWithContext(w.t.Context(), method, path, strings.NewReader(body))
	q.Header.Set("Authorization", "Token "+w.token)
	rec := httptest.NewRecorder()
	w.serve.ServeHTTP(rec, q)
	return rec
}

// get asks and decodes, and fails unless the status is the one wanted.
func (w *world) get(status int, method, path, body string) map[string]any {
	w.t.Helper()
	rec := w.ask(method, path, body)
	if rec.Code != status {
		w.t.Fatalf("%s %s: %d %s", method, path, rec.Code, rec.Body)
	}
	var m map[string]any
	w.must(json.Unmarshal(rec.Body.Bytes(), &m))
	return m
}

// wait waits for the end of a build.
func (w *world) wait(id string) map[string]any {
	w.t.Helper()
	return apitest.Until(w.t, "build "+id+" ends", func() (map[string]any, bool) {
		b := w.get(200, "GET", "/v1/builds/"+id, "")
		return b, strings.Contains("SFD", b["status"].(string))
	})
}

// simple makes the repository alauda/<name> of the outside one.
func (w *world) simple(name, config string) map[string]any {
	w.t.Helper()
	return w.get(201, "POST", "/v1/repositories/alauda", fmt.Sprintf(`{"repo_name":%q,"build_config":{"code_repo_client":"Simple",
		"code_repo_clone_url":"%s/open/o/test","tag_configs":[%s]}}`, name, w.vars["git"], config))
}

const master = `{"code_repo_type":"branch","code_repo_type_value":"master","docker_repo_tag":"latest","dockerfile_location":"/"}`
