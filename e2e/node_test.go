package e2e

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestNodeClient has the vendor's client for Node.js, in the version that
// package-lock.json names with the sums of all that it needs, make, run and delete a
// pipeline.
func TestNodeClient(t *testing.T) {
	s := newServer(t)
	s.give(noted(t, "node"), "default/shell:1")
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	dir := filepath.Join(s.dir, "node")
	if err := os.CopyFS(dir, os.DirFS("testdata/buddyworksapi")); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier", "--cache", filepath.Join(s.dir, "npm")},
		{"node", "drive.js"},
	} {
		cmd := exec.CommandContext(ctx, args[0], args[1:]...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "SLIPWAY_URL="+s.URL, "SLIPWAY_TOKEN="+s.Token, "NO_PROXY=127.0.0.1")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", strings.Join(args[:2], " "), err, out)
		}
		t.Logf("%s", out)
	}
}
