package example

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestExample builds what is bundled as a user would, lets it check itself, and
// serves with it twice.
func TestExample(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := writeSource(dir); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"vet", "./..."}, {"build", "-trimpath", "-buildvcs=false", "-o", "bin/hello", "."}} {
		cmd := exec.Command("go", args...)
		cmd.Dir, cmd.Env = dir, append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("go %s: %v\n%s", args[0], err, out)
		}
	}
	hello := filepath.Join(dir, "bin", "hello")
	data := t.TempDir()
	env := []string{"COMMIT=0123456789abcdef", "BUILT=2026-01-02T03:04:05Z", "IMAGE=sha256:feed", "DATA=" + data, "PORT=0", "TMPDIR=" + t.TempDir()}
	check := exec.Command(hello, "check")
	check.Env = env
	out, err := check.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "all 8 checks passed") {
		t.Fatalf("check: %v\n%s", err, out)
	}
	if err := exec.Command(hello, "nonsense").Run(); err == nil || err.Error() != "exit status 2" {
		t.Errorf("nonsense: %v", err)
	}
	for visit := 1; visit <= 2; visit++ { // the count outlives the process
		text := visitOnce(t, hello, env)
		for _, want := range []string{"0123456789abcdef", "2026-01-02T03:04:05Z", "sha256:feed", fmt.Sprintf(`id="visits">%d<`, visit)} {
			if !strings.Contains(text, want) {
				t.Errorf("%s is not on the page", want)
			}
		}
	}
}

func visitOnce(t *testing.T, hello string, env []string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, hello, "serve")
	cmd.Env = env
	errs, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(errs).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(line, "listening on ")
	addr, _, _ := strings.Cut(rest, ",")
	_, port, _ := strings.Cut(addr, "]:")
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://127.0.0.1:"+port+"/", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Accept", "text/html")
	a, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(a.Body)
	_ = a.Body.Close()
	if err != nil || a.StatusCode != http.StatusOK {
		t.Fatalf("page: %d, %v", a.StatusCode, err)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("it did not stop well: %v", err)
	}
	return string(b)
}

// TestWrite is about the files of the repository as the demo pushes it.
func TestWrite(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "hello")
	err := Write(dir)
	if _, built := os.Stat("bin/hello"); built != nil {
		if err == nil {
			t.Error("written without its program")
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"main.go", "go.mod", "Dockerfile", ".dockerignore", "page.html"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			t.Error(err)
		}
	}
	if fi, err := os.Stat(filepath.Join(dir, "bin", "hello")); err != nil || fi.Mode().Perm() != 0o755 {
		t.Errorf("program: %v, %v", fi, err)
	}
}
