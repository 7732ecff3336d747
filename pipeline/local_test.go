package pipeline

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"slipway/access"
	"slipway/project"
	"slipway/source"
)

// tree pushes a working tree with these files, which stands on the head of the
// project if that has one, and gives its commit.
func (w *world) tree(files map[string]string) string {
	w.t.Helper()
	srv := httptest.NewServer(w.sources.Handler(func(http.ResponseWriter, *http.Request) (access.Actor, bool) { return w.admin, true }))
	defer srv.Close()
	dir := w.t.TempDir()
	git := func(args ...string) string {
		w.t.Helper()
		cmd := exec.Command("git", append([]string{"-C", dir}, args...)...)
		cmd.Env = []string{
			"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1",
			"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@b", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@b",
		}
		var out, said bytes.Buffer
		if cmd.Stdout, cmd.Stderr = &out, &said; cmd.Run() != nil {
			w.t.Fatalf("git %q: %s", args, said.String())
		}
		return strings.TrimSpace(out.String())
	}
	git("init", "-q", "-b", "main")
	at := srv.URL + source.URL(w.home.Domain, w.pr.Name)
	commit := []string{"commit-tree", "-m", "Working tree"}
	if git("ls-remote", at, "main") != "" {
		git("pull", "-q", at, "main")
		commit = append(commit, "-p", "HEAD")
	}
	for name, text := range files {
		w.must(os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755))
		w.must(os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
	}
	git("add", "-A")
	hash := git(append(commit, git("write-tree"))...)
	git("push", "-q", at+"/local/"+hash, hash+":refs/slipway/local")
	return hash
}

// TestRunOfAWorkingTree: it has the files of the tree and those of the pipeline,
// and leaves nothing that a later run or anybody else would take for a result of
// the project.
func TestRunOfAWorkingTree(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	w.commit("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")
	base := w.commit("tracked", "1")
	p := w.pipeline(Pipeline{Variables: []Variable{{Key: "LEVEL", Value: "1", Settable: true}}},
		sh("cat tracked\necho $WHO >> runs\ncat runs\nexport LEVEL=$WHO\necho $BUDDY_RUN_REF_TYPE/$BUDDY_RUN_BRANCH"), Action{Build: &Build{Dockerfile: "Dockerfile"}})
	by := func(who string, in Start) Start {
		in.Variables = []Variable{{Key: "WHO", Value: who}}
		return in
	}
	first := w.expect(w.start(p, by("first", Start{})), "SUCCESSFUL SUCCESSFUL SUCCESSFUL")
	tag := func() string {
		d, err := w.images.Lookup(t.Context(), w.home.ID, "slipway.local/"+w.home.Domain+"/web:latest")
		w.must(err)
		return d
	}
	latest := tag()
	hash := w.tree(map[string]string{"tracked": "2", "Dockerfile": "FROM scratch\nCOPY tracked /\n"})
	x := w.expect(w.start(p, by("ann", Start{Mode: ByLocal, Revision: hash})), "SUCCESSFUL SUCCESSFUL SUCCESSFUL")
	if l := w.lines(x, 0); !slices.Contains(l, "2") || !slices.Contains(l, "first") || !slices.Contains(l, "ann") || !slices.Contains(l, "Note: "+localNote) || !slices.Contains(l, "LOCAL/") {
		t.Errorf("%q", l)
	}
	if x.Commit.Revision != hash || x.Branch != "" || x.Tag != "" || x.Mode != ByLocal {
		t.Errorf("%+v", x)
	}
	if s := x.Steps[1]; s.Image != "slipway.local/"+w.home.Domain+"/web:local-1" || s.Digest == latest {
		t.Errorf("built %s %s", s.Image, s.Digest)
	}
	if now := tag(); now != latest {
		t.Errorf("latest is %s, was %s", now, latest)
	}
	if got := w.files(p); got != "Dockerfile=FROM scratch\nCOPY Dockerfile / runs=first tracked=1" {
		t.Errorf("files of the pipeline: %q", got)
	}
	pl, err := w.Get(t.Context(), w.admin, p.ID)
	w.must(err)
	if pl.LastRevision != base.Revision || pl.LastStatus != Successful || pl.Variables[0].Value != "first" {
		t.Errorf("%s %s %+v", pl.LastStatus, pl.LastRevision, pl.Variables)
	}
	if since, err := w.lastSuccess(t.Context(), w.start(p, by("next", Start{})), false); err != nil || since != base.Revision {
		t.Errorf("the next one is compared with %s, %v", since, err)
	}

	// One that fails says nothing of the pipeline either.
	bad := w.expect(w.start(w.pipeline(Pipeline{Name: "bad"}, sh("false")), Start{Mode: ByLocal, Revision: hash}), "FAILED FAILED(ended with exit code 1)")
	if pl, err := w.Get(t.Context(), w.admin, bad.Pipeline); err != nil || pl.LastStatus != Initial {
		t.Errorf("%s %v", pl.LastStatus, err)
	}

	// It is kept as long as somebody may look at it, or try it again.
	w.must(w.SweepLocal(t.Context()))
	if _, err := w.sources.Local(t.Context(), w.pr.ID, hash); err != nil {
		t.Errorf("swept too early: %v", err)
	}
	w.must(w.sources.RemoveLocal(source.LocalTree{Project: w.pr.ID, Commit: hash}))
	_, err = w.Operate(t.Context(), w.admin, bad.ID, OpRetry)
	w.must(err)
	if again := w.wait(bad); !strings.Contains(again.Steps[0].Error, "is not kept any more: run it anew") {
		t.Errorf("without its tree: %s", w.words(again))
	}
	_ = first
}

// TestWorkingTreesAreSwept: those that nobody started after a day, those of runs
// when these have been over for a week.
func TestWorkingTreesAreSwept(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	p := w.pipeline(Pipeline{}, sh("true"))
	started, idle, fresh := w.tree(map[string]string{"f": "1"}), w.tree(map[string]string{"f": "2"}), w.tree(map[string]string{"f": "3"})
	w.expect(w.start(p, Start{Mode: ByLocal, Revision: started}), "SUCCESSFUL SUCCESSFUL")
	old := time.Now().Add(-2 * unstarted)
	for _, hash := range []string{started, idle} {
		w.must(os.Chtimes(filepath.Join(w.git, "local", string(w.pr.ID), hash+".git"), old, old))
	}
	w.must(w.SweepLocal(t.Context()))
	for hash, kept := range map[string]bool{started: true, idle: false, fresh: true} {
		if _, err := w.sources.Local(t.Context(), w.pr.ID, hash); kept != (err == nil) {
			t.Errorf("%s kept: %v", hash, err)
		}
	}
}

// TestDefinitionOfAWorkingTree: a file of the tree says what is run, of this run
// alone.
func TestDefinitionOfAWorkingTree(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{Language: plainLanguage()})
	w.commit("f", "1")
	secret := Variable{Key: "TOKEN", Value: "open sesame", Encrypted: true}
	stored := sh("echo stored")
	stored.Name, stored.Variables = "Test", []Variable{secret}
	p := w.pipeline(Pipeline{}, stored)
	test, more := sh("test \"$TOKEN\" = 'open sesame' && echo from the tree"), sh("echo more")
	test.Name, test.Variables, more.Name = "Test", []Variable{{Key: "TOKEN", Value: "!encrypted", Encrypted: true}}, "More"
	text, err := json.Marshal(Definition{Pipeline: Pipeline{Name: "pipe"}, Actions: []Action{test, more}})
	w.must(err)
	hash := w.tree(map[string]string{"ci/pipe.yml": string(text)})
	in := Start{Mode: ByLocal, Revision: hash, Definition: "ci/pipe.yml"}
	x := w.expect(w.start(p, in), "SUCCESSFUL SUCCESSFUL SUCCESSFUL")
	if l := w.lines(x, 0); !slices.Contains(l, "from the tree") {
		t.Errorf("%q", l)
	}
	again := w.expect(w.start(p, in), "SUCCESSFUL SUCCESSFUL SUCCESSFUL")
	have := w.actionsOf(p)
	if len(have) != 1 || have[0].Run.Commands != "echo stored" || x.Steps[0].Action.ID != have[0].ID || again.Steps[1].Action.ID != x.Steps[1].Action.ID {
		t.Errorf("%+v, %+v, %+v", have, x.Steps, again.Steps)
	}
	w.expect(w.start(p, Start{}), "SUCCESSFUL SUCCESSFUL")
	in.Named = []string{"More"}
	w.expect(w.start(p, in), "SUCCESSFUL SKIPPED SUCCESSFUL")
	for _, bad := range []struct {
		in   Start
		path string
	}{
		{Start{Mode: ByLocal, Revision: hash, Named: []string{"Nothing"}}, "actions"},
		{Start{Mode: ByLocal, Revision: hash, Definition: "ci/other.yml"}, "definition"},
		{Start{Mode: ByLocal, Revision: hash, Definition: "../f"}, "definition"},
		{Start{Mode: ByLocal, Revision: strings.Repeat("1", 40)}, "commit"},
		{Start{Mode: ByLocal, Revision: "HEAD"}, "commit"},
	} {
		_, err := w.Start(t.Context(), w.admin, p.ID, bad.in)
		if inv, ok := project.AsInvalid(err); !ok || len(inv.Fields) != 1 || inv.Fields[0].Path != bad.path {
			t.Errorf("%+v: %v", bad.in, err)
		}
	}
}

// TestWhoMayRunAWorkingTree: who may push and run; with a definition in it who may
// change the pipeline.
func TestWhoMayRunAWorkingTree(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{Language: plainLanguage()})
	p := w.pipeline(Pipeline{}, sh("true"))
	hash := w.tree(map[string]string{"f": "1"})
	as := func(scopes ...access.Scope) access.Actor {
		_, token, err := w.access.CreateToken(t.Context(), w.admin, access.NewToken{Name: "x", Scopes: scopes})
		w.must(err)
		by, err := w.access.Authenticate(t.Context(), token, "")
		w.must(err)
		return by
	}
	in := Start{Mode: ByLocal, Revision: hash}
	if _, err := w.Start(t.Context(), as(access.ExecutionRun), p.ID, in); !errdefs.IsPermissionDenied(err) {
		t.Errorf("who may not push: %v", err)
	}
	pushes := as(access.ExecutionRun, access.RepositoryWrite)
	if _, err := w.Start(t.Context(), pushes, p.ID, in); err != nil {
		t.Error(err)
	}
	in.Definition = "f"
	if _, err := w.Start(t.Context(), pushes, p.ID, in); !errdefs.IsPermissionDenied(err) {
		t.Errorf("who may not change the pipeline: %v", err)
	}
}
