package e2e

import (
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"
)

// TestDialects starts a build by one dialect, reads it by the second and hosts
// its image by the third.
func TestDialects(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	ctx := t.Context()
	program, err := os.ReadFile(probeProgram)
	if err != nil {
		t.Fatal(err)
	}
	// The code is in a repository elsewhere, which wants a login: another
	// project of this server.
	code := s.job("code")
	for _, f := range []func() error{
		func() error { return code.makeProject(ctx) },
		func() error {
			return code.commit(ctx, map[string]string{"probe": string(program), "Dockerfile": "FROM scratch\nCOPY probe /probe\n"})
		},
		func() error { return code.push(ctx) },
	} {
		if err := f(); err != nil {
			t.Fatal(err)
		}
	}
	login := strings.Replace(s.URL, "http://", "http://x:"+s.Token+"@", 1)
	var made struct {
		RepoPath    string `json:"repo_path"`
		BuildConfig struct {
			CodeRepoPath string `json:"code_repo_path"`
		} `json:"build_config"`
	}
	s.must("POST", "/v1/repositories/default", map[string]any{"repo_name": "app", "is_public": false, "build_config": map[string]any{
		"code_repo_client": "Simple", "code_repo_clone_url": login + "/git/default/code.git", "tag_configs": []any{map[string]any{
			"code_repo_type": "branch", "code_repo_type_value": "main", "docker_repo_tag": "latest", "dockerfile_location": "/", "is_active": false,
			"build_cache_enabled": true, "version_tagging": 1,
		}},
	}}, &made)
	if made.RepoPath != "default/app" || made.BuildConfig.CodeRepoPath != s.URL+"/git/default/code.git" {
		t.Errorf("%+v", made)
	}
	type alauda struct {
		BuildID    string `json:"build_id"`
		Status     string
		Commit     string  `json:"code_head_commit"`
		ImageID    *string `json:"image_id"`
		VersionTag string  `json:"docker_repo_version_tag"`
		Detail     string
	}
	var b alauda
	s.must("POST", "/v1/builds", map[string]any{"namespace": "default", "repo_name": "app", "tag": "latest"}, &b)
	if b.Status != "W" {
		t.Errorf("%+v", b)
	}
	until(t, time.Minute, "the build ends", func() error {
		s.must("GET", "/v1/builds/"+b.BuildID, nil, &b)
		if !strings.Contains("SFD", b.Status) {
			return fmt.Errorf("it is %s", b.Status)
		}
		return nil
	})
	if b.Status != "S" || b.ImageID == nil {
		t.Fatalf("%+v", b)
	}

	// Buddy: the same execution, its action and its log.
	app := s.job("app")
	if err := app.makeProject(ctx); err != nil { // it is there: finds its id
		t.Fatal(err)
	}
	var pipelines struct {
		Pipelines []struct {
			ID   int64
			Name string
		}
	}
	s.must("GET", app.path()+"/pipelines", nil, &pipelines)
	if len(pipelines.Pipelines) != 1 || pipelines.Pipelines[0].Name != "latest" {
		t.Fatalf("%+v", pipelines)
	}
	app.pipeline = pipelines.Pipelines[0].ID
	e, err := app.finish(ctx)
	if err != nil || e.ID != 1 || e.Status != "SUCCESSFUL" || len(e.Steps) != 1 {
		t.Fatalf("%v: %+v", err, e)
	}
	var full struct {
		ToRevision struct{ Revision string } `json:"to_revision"`
	}
	s.must("GET", app.pipelinePath()+"/executions/1", nil, &full)
	if full.ToRevision.Revision != b.Commit {
		t.Errorf("Buddy says commit %s, Alauda %s", full.ToRevision.Revision, b.Commit)
	}
	lines, err := app.log(ctx, 1, e.Steps[0])
	if err != nil || !strings.Contains(strings.Join(lines, "\n"), "COPY probe") {
		t.Errorf("%v: %v", err, lines)
	}
	var said []struct{ Message string }
	s.must("GET", "/v1/builds/"+b.BuildID+"/logs", nil, &said)
	if len(said) <= len(lines) || said[len(said)-1].Message != lines[len(lines)-1] {
		t.Errorf("Alauda's log %v, Buddy's %v", said, lines)
	}

	// mittwald: the image as a service of the project's default stack, behind an
	// ingress that answers. The version tag leads to the same image.
	web := hosted("3")
	web["image"] = "slipway.local/default/app:" + b.VersionTag
	if err := s.Do(ctx, "PUT", app.stackPath(), map[string]any{"services": map[string]any{"web": web}}, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := app.running(ctx, "web"); err != nil {
		t.Fatal(err)
	}
	if err := app.route(ctx, "app.localhost", "web"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.answers(ctx, "app.localhost", http.StatusOK, "3"); err != nil {
		t.Fatal(err)
	}
	if said := s.said(); strings.Contains(said, s.Token) {
		t.Error("the token is in what the server says")
	}
}
