package e2e

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
)

// instance is the name that everything of a data directory on the host has.
func (s *server) instance() string {
	sum := sha256.Sum256([]byte(filepath.Join(s.data, "engine")))
	return hex.EncodeToString(sum[:4])
}

// leaks lists what is on this host because of the server's data directory:
// mounts, links, cgroups, processes, run directories.
func (s *server) leaks() []string {
	inst := s.instance()
	var l []string
	add := func(kind, what string) { l = append(l, kind+": "+what) }
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); len(f) > 4 && (strings.HasPrefix(f[4], s.data+"/") || strings.Contains(f[4], "slipway-"+inst)) {
			add("mount", f[4])
		}
	}
	links, _ := net.Interfaces()
	for _, i := range links {
		if strings.Contains(i.Name, inst[:6]) {
			add("link", i.Name)
		}
	}
	cgroups, _ := filepath.Glob("/sys/fs/cgroup/*/slipway-" + inst)
	v2, _ := filepath.Glob("/sys/fs/cgroup/slipway-" + inst)
	for _, c := range append(cgroups, v2...) {
		add("cgroup", c)
	}
	for _, p := range s.processes() {
		add("process", p)
	}
	if _, err := os.Stat("/run/slipway-" + inst); err == nil {
		add("run directory", "/run/slipway-"+inst)
	}
	states, _ := filepath.Glob("/run/runc/*/state.json")
	for _, f := range states {
		if b, err := os.ReadFile(f); err == nil && strings.Contains(string(b), s.data+"/") {
			add("build container", filepath.Base(filepath.Dir(f)))
		}
	}
	return l
}

// processes are those that name the data directory in their command line.
func (s *server) processes() []string {
	var l []string
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, d := range dirs {
		b, err := os.ReadFile(filepath.Join(d, "cmdline"))
		if err != nil || !strings.Contains(string(b), s.data) {
			continue
		}
		if stat, err := os.ReadFile(filepath.Join(d, "stat")); err == nil && strings.Contains(string(stat), ") Z ") {
			continue // dead, and its parent has not asked yet
		}
		l = append(l, fmt.Sprintf("%s %s", filepath.Base(d), strings.ReplaceAll(string(b), "\x00", " ")))
	}
	return l
}
