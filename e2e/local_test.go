package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/crane"
)

// local is `slipway pipeline run --local` in the checkout of a job, with a token
// that only the environment has.
func (j *job) local(ctx context.Context, dir string, flags ...string) (cmd *exec.Cmd, out, said *bytes.Buffer) {
	cmd = exec.CommandContext(ctx, binary, append([]string{"pipeline", "run", "--local", "--url", j.s.URL}, flags...)...)
	cmd.Dir = filepath.Join(j.s.dir, "work-"+j.name, dir)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + j.s.dir, "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null", "SLIPWAY_TOKEN=" + j.s.Token, "HIDDEN=open sesame"}
	out, said = &bytes.Buffer{}, &bytes.Buffer{}
	cmd.Stdout, cmd.Stderr = out, said
	return cmd, out, said
}

// TestRunLocal: a working tree is run as it lies there, on a server of its own, and
// leaves the project as it was.
func TestRunLocal(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.give(shell(t), "default/shell:1")
	sh := func(name, commands string) map[string]any {
		return runs("slipway.local/default/shell", "1", "", "name", name, "inline_commands", commands)
	}
	look := sh("Look", `for f in *; do test -d "$f" || echo "file:$f:$(cat "$f")"; done; test -x run.sh && echo executable; echo LEVEL=$LEVEL HIDDEN=$HIDDEN; test "$HIDDEN" != "open sesame" || echo known; test ! -e fail`)
	d := s.one("tree", map[string]string{"a": "1", "gone": "x", ".gitignore": "*.log\n", "Dockerfile": "FROM slipway.local/default/shell:1\nCOPY a /a\n"}, build(), look)
	d.ok(t, "file:a:1")
	latest := s.digestOf(t, "default/tree:latest")
	work := filepath.Join(s.dir, "work-tree")
	write := func(name, text string, mode os.FileMode) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(filepath.Join(work, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(work, name), []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	write("a", "2", 0o644)
	write("two\nlines", "n", 0o644)
	write("noise.log", "ignored", 0o644)
	write("run.sh", "#!/bin/sh\n", 0o755)
	write("sub/file", "s", 0o644)
	if err := os.Remove(filepath.Join(work, "gone")); err != nil {
		t.Fatal(err)
	}
	status, err := d.git(t.Context(), "status", "--porcelain")
	if err != nil {
		t.Fatal(err)
	}

	cmd, out, said := d.local(t.Context(), "sub", "--project", "default/tree", "--var", "LEVEL=debug", "--secret", "HIDDEN")
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v\n%s\n%s", err, out, said)
	}
	for _, want := range []string{"Build | ", "Look | file:a:2\n", "Look | file:two\nLook | lines:n\n", "Look | executable\n", "Look | LEVEL=debug", "Look | known\n", "default/tree:local-1"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in %s", want, out)
		}
	}
	for _, never := range []string{"gone", "noise.log", "open sesame", s.Token} {
		if strings.Contains(out.String()+said.String(), never) {
			t.Errorf("%q is in %s%s", never, out, said)
		}
	}
	if !strings.Contains(said.String(), "with 1 changed, 3 new, 1 deleted") || !strings.Contains(said.String(), "execution 2 is SUCCESSFUL") {
		t.Error(said)
	}
	if now, err := d.git(t.Context(), "status", "--porcelain"); err != nil || now != status {
		t.Errorf("the checkout was %s, is %s, %v", status, now, err)
	}
	if now := s.digestOf(t, "default/tree:latest"); now != latest || s.digestOf(t, "default/tree:local-1") == latest {
		t.Errorf("latest was %s, is %s", latest, now)
	}
	if refs, err := d.git(t.Context(), "ls-remote", s.URL+"/git/default/tree.git"); err != nil || strings.Contains(refs, "slipway") {
		t.Errorf("refs of the project: %s, %v", refs, err)
	}

	// A file of the tree says what is run, of a folder that git has a remote for; its
	// failure is that of the command.
	write("ci.yml", fmt.Sprintf("- pipeline: work\n  actions:\n  - {action: Other, type: RUN_DOCKER_CONTAINER, docker_image_name: slipway.local/default/shell, docker_image_tag: \"1\", inline_commands: %q}\n",
		"echo from the tree; exit 3"), 0o644)
	if _, err := d.git(t.Context(), "remote", "add", "origin", s.URL+"/git/default/tree.git"); err != nil {
		t.Fatal(err)
	}
	cmd, out, said = d.local(t.Context(), ".", "--pipeline", "ci.yml")
	if err := cmd.Run(); cmd.ProcessState.ExitCode() != 1 || !strings.Contains(out.String(), "Other | from the tree") || !strings.Contains(said.String(), "exit code 3") {
		t.Errorf("%v\n%s\n%s", err, out, said)
	}
	for _, wrong := range [][]string{{"--pipeline", "nothing"}, {"--action", "Nothing"}, {"--pipeline", "../x.yml"}, {"--project", "default/none"}} {
		cmd, out, said = d.local(t.Context(), ".", wrong...)
		if err := cmd.Run(); err == nil || out.Len() > 0 || said.Len() == 0 {
			t.Errorf("%s: %v\n%s\n%s", wrong, err, out, said)
		}
	}

	// Ctrl-C ends the run on the server.
	write("ci.yml", "- pipeline: work\n  actions:\n  - {action: Long, type: RUN_DOCKER_CONTAINER, docker_image_name: slipway.local/default/shell, docker_image_tag: \"1\", inline_commands: \"echo begun; sleep 300\"}\n", 0o644)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd, _, said = d.local(ctx, ".", "--pipeline", "ci.yml")
	pipe := &signalled{word: "begun", then: func() { _ = cmd.Process.Signal(syscall.SIGINT) }}
	cmd.Stdout = pipe
	if err := cmd.Run(); cmd.ProcessState.ExitCode() != 1 || !strings.Contains(said.String(), "is TERMINATED") {
		t.Errorf("%v\n%s\n%s", err, pipe.b.String(), said)
	}

	// What failed and was ended says nothing of the pipeline.
	var p struct {
		Status string `json:"last_execution_status"`
	}
	if s.must("GET", d.pipelinePath(), nil, &p); p.Status != "SUCCESSFUL" {
		t.Errorf("the pipeline is %s", p.Status)
	}
}

// signalled does something when a word is written.
type signalled struct {
	b    bytes.Buffer
	word string
	then func()
}

func (s *signalled) Write(p []byte) (int, error) {
	s.b.Write(p)
	if s.then != nil && strings.Contains(s.b.String(), s.word) {
		s.then()
		s.then = nil
	}
	return len(p), nil
}

// digestOf is the digest of an image in the server's own registry.
func (s *server) digestOf(t *testing.T, name string) string {
	t.Helper()
	d, err := crane.Digest(s.listen+"/"+name, s.own()...)
	if err != nil {
		t.Fatal(err)
	}
	return d
}
