package source

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
)

// A git that somebody killed says so, and what it had started ends with it.
func TestKilledGit(t *testing.T) {
	t.Parallel()
	out, err := program{path: "/bin/sh"}.run(t.Context(), call{args: []string{"-c", `sleep 100 >/dev/null 2>&1 & echo $!; kill -KILL $$`}})
	var g *gitError
	if !errors.As(err, &g) || g.code != -1 {
		t.Fatalf("%v", err)
	}
	contains(t, outside(&Remote{URL: "https://git.example/x.git"}, err).Error(), "https://git.example/x.git: it was ended by a signal: killed")
	pid := strings.TrimSpace(string(out))
	until(t, "what it started is gone", func() bool {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%s/stat", pid))
		return pid != "" && (err != nil || strings.Contains(string(stat), ") Z "))
	})
}
