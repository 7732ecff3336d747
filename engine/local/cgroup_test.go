package local

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"slipway/engine"
)

// recorded is a copy of the tree of a host with version 2.
func recorded(t *testing.T) cgroups {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(filepath.Join("testdata", "cgroup2"))); err != nil {
		t.Fatal(err)
	}
	return openCgroups(dir)
}

func TestCgroupVersion2(t *testing.T) {
	t.Parallel()
	c := recorded(t)
	read := func(name string) string {
		b, err := os.ReadFile(filepath.Join(c.root, name))
		if err != nil {
			t.Error(err)
		}
		return strings.TrimSpace(string(b))
	}
	if !c.unified {
		t.Fatal("not seen as version 2")
	}
	const work = "/slipway-00000001/work"
	if err := c.make(work); err != nil {
		t.Fatal(err)
	}
	// What the parents have already is not asked for again, nor what we do not
	// limit with; each one is a write of its own, of which a plain file keeps the
	// last.
	for file, want := range map[string]string{"cgroup.subtree_control": "+io", work + "/cgroup.subtree_control": "+pids"} {
		if got := read(file); got != want {
			t.Errorf("%s: %q", file, got)
		}
	}
	if lacks := c.lower(work); lacks != nil || read(work+"/cpu.weight") != "12" || read(work+"/io.weight") != "default 10" {
		t.Errorf("%v %q %q", lacks, read(work+"/cpu.weight"), read(work+"/io.weight"))
	}
	if lacks := c.lower(work + "/r-one"); !slices.Equal(lacks, []string{"io"}) {
		t.Errorf("%v", lacks)
	}
	if got := c.children("/slipway-00000001"); !slices.Equal(got, []string{"serve", "work"}) {
		t.Errorf("%v", got)
	}
	pids := c.procs("/slipway-00000001")
	slices.Sort(pids)
	if !slices.Equal(pids, []int{4242, 4243, 4250}) {
		t.Errorf("%v", pids)
	}
	u, err := c.usage(work + "/r-one")
	if want := (usage{memory: 50 << 20, limit: 128 << 20, pids: 7, cpu: 2500 * time.Millisecond, oomKills: 1}); err != nil || u != want {
		t.Errorf("%+v %v", u, err)
	}
	if u, _ := c.usage("/slipway-00000001/serve/i-two"); u.limit != 0 {
		t.Errorf("%+v", u)
	}
	one := filepath.Join(c.root, work, "r-one")
	if err := os.WriteFile(filepath.Join(one, "memory.peak"), []byte("91799552\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got := c.used(work + "/r-one"); got != (engine.Usage{Memory: 91799552, CPU: 2500 * time.Millisecond}) {
		t.Errorf("used %+v", got)
	}
	if got := c.used("/no-such"); got != (engine.Usage{}) {
		t.Errorf("what is not there has used %+v", got)
	}
	if _, err := c.usage("/no-such"); err == nil {
		t.Error("no error")
	}
	// An empty group is thawed and told to die, which is all there is to do.
	_ = os.WriteFile(filepath.Join(c.root, work, "r-one", "cgroup.procs"), nil, 0o644)
	if err := c.kill(work + "/r-one"); err != nil || read(work+"/r-one/cgroup.kill") != "1" || read(work+"/r-one/cgroup.freeze") != "0" {
		t.Errorf("%v", err)
	}
	for _, p := range []string{"", "/", "//"} {
		if d := c.dirs(p); d != nil {
			t.Errorf("%q: %v", p, d)
		}
	}
}

// TestCgroupRemove is on a tree of empty directories: in the kernel's, files do
// not hinder.
func TestCgroupRemove(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	for _, d := range []string{"cpu/a/b/c", "memory/a/b", "memory/other"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("cpu", filepath.Join(root, "cpuacct")); err != nil {
		t.Fatal(err)
	}
	c := openCgroups(root)
	if c.unified || len(c.dirs("/a")) != 2 {
		t.Fatalf("%+v %v", c, c.dirs("/a"))
	}
	c.remove("/a")
	if len(c.dirs("/a")) != 0 || len(c.dirs("/other")) != 1 {
		t.Errorf("%v", c.dirs("/a"))
	}
}
