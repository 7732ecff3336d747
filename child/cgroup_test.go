package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"
)

// tree makes the files of a cgroup hierarchy as they are on a host with
// version 2 only: kernel 6.1, a container with one group of its own below.
func tree(t *testing.T) (cgroup, string) {
	t.Helper()
	root := t.TempDir()
	top := filepath.Join(root, "slipway-1/a-1")
	for name, text := range map[string]string{
		"cgroup.controllers":                    "cpuset cpu io memory hugetlb pids rdma misc\n",
		"cgroup.subtree_control":                "cpu io memory pids\n",
		"slipway-1/cgroup.controllers":          "cpu io memory pids\n",
		"slipway-1/cgroup.procs":                "1\n",
		"slipway-1/a-1/cgroup.controllers":      "cpu io memory pids\n",
		"slipway-1/a-1/cgroup.events":           "populated 1\nfrozen 0\n",
		"slipway-1/a-1/cgroup.freeze":           "1\n",
		"slipway-1/a-1/cgroup.kill":             "",
		"slipway-1/a-1/cgroup.procs":            "",
		"slipway-1/a-1/memory.events":           "low 0\nhigh 0\nmax 31\noom 1\noom_kill 1\noom_group_kill 0\n",
		"slipway-1/a-1/memory.peak":             "91799552\n",
		"slipway-1/a-1/cpu.stat":                "usage_usec 30855\nuser_usec 20000\nsystem_usec 10855\n",
		"slipway-1/a-1/inner/cgroup.procs":      "",
		"slipway-1/a-1/inner/cgroup.freeze":     "1\n",
		"slipway-1/a-1/inner/memory.events":     "low 0\nhigh 0\nmax 0\noom 0\noom_kill 0\noom_group_kill 0\n",
		"slipway-1/b-2/cgroup.procs":            "1\n",
		"slipway-1/b-2/cgroup.kill":             "",
		"slipway-1/b-2/memory.events":           "low 0\nhigh 0\nmax 0\noom 0\noom_kill 0\noom_group_kill 0\n",
		"system.slice/a.service/cgroup.procs":   "1\n",
		"memory/slipway-1/a-1/not.a.hierarchy":  "",
		"memory/slipway-1/a-1/memory.oom_other": "",
	} {
		p := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return cgroup{root: root, path: "/slipway-1/a-1"}, top
}

func content(t *testing.T, p string) string {
	t.Helper()
	b, err := os.ReadFile(p)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

func TestVersion2(t *testing.T) {
	t.Parallel()
	g, top := tree(t)
	if !g.v2() || !reflect.DeepEqual(g.tops(), []string{top}) || !reflect.DeepEqual(g.dirs(), []string{filepath.Join(top, "inner"), top}) {
		t.Errorf("%q %q", g.tops(), g.dirs())
	}
	if !g.oom() || (cgroup{root: g.root, path: "/slipway-1/b-2"}).oom() {
		t.Error("out of memory")
	}
	if memory, cpu := g.used(); memory != 91799552 || cpu != 30855 {
		t.Errorf("used %d bytes, %d µs", memory, cpu)
	}
	if memory, cpu := (cgroup{root: g.root, path: "/slipway-1/b-2"}).used(); memory != 0 || cpu != 0 { // an older kernel
		t.Errorf("used %d bytes, %d µs", memory, cpu)
	}
	var procs []int
	for _, d := range []string{"", "inner"} {
		cmd := exec.Command("sleep", "1000")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		procs = append(procs, cmd.Process.Pid)
		file := filepath.Join(top, d, "cgroup.procs")
		if err := os.WriteFile(file, []byte(strconv.Itoa(cmd.Process.Pid)+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		go func() { // what the kernel does
			_ = cmd.Wait()
			_ = os.Truncate(file, 0)
		}()
	}
	if got := g.procs(); len(got) != 2 || !got[procs[0]] || !got[procs[1]] {
		t.Errorf("%v", got)
	}
	t0 := time.Now()
	g.kill()
	if took := time.Since(t0); took >= killTime {
		t.Errorf("took %v", took)
	}
	for _, p := range procs {
		if alive(p) {
			t.Errorf("%d lives", p)
		}
	}
	if content(t, filepath.Join(top, "cgroup.kill")) != "1" || content(t, filepath.Join(g.root, "slipway-1/b-2/cgroup.kill")) != "" {
		t.Error("cgroup.kill")
	}
	for _, d := range []string{"", "inner"} {
		if content(t, filepath.Join(top, d, "cgroup.freeze"))[0] != '0' {
			t.Error("still frozen")
		}
	}
	if g.remove() {
		t.Error("removed, although the directories are not empty")
	}
}

// Never the root, whatever the config says.
func TestRootCgroup(t *testing.T) {
	t.Parallel()
	root, _ := tree(t)
	for _, p := range []string{"", "/", "//", "/.", "/..", "/a/../.."} {
		if l := (cgroup{root: root.root, path: p}).tops(); len(l) > 0 {
			t.Errorf("%q is %q", p, l)
		}
	}
}

func TestRemoveCgroup(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	for _, d := range []string{"pids/x/y/z", "memory/x", "unified/x/y", "pids/other"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	g := cgroup{root: root, path: "/x"}
	if !g.remove() || len(g.dirs()) > 0 || !exists(filepath.Join(root, "pids/other")) {
		t.Errorf("left %q", g.dirs())
	}
	if !g.remove() {
		t.Error("removing nothing fails")
	}
}
