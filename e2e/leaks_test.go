package e2e

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/nftables"
)

// instance is the name that everything of a data directory on the host has.
func (s *server) instance() string {
	sum := sha256.Sum256([]byte(filepath.Join(s.data, "engine")))
	return hex.EncodeToString(sum[:4])
}

// leaks lists what is on this host because of the server's data directory:
// mounts, links, rules, cgroups, processes, run directories.
func (s *server) leaks() []string {
	inst := s.instance()
	var l []string
	add := func(kind, what string) { l = append(l, kind+": "+what) }
	for _, m := range s.mounts() {
		add("mount", m)
	}
	for _, n := range s.links() {
		add("link", n)
	}
	for _, c := range s.cgroups() {
		add("cgroup", c)
	}
	for _, p := range s.processes() {
		add("process", p)
	}
	if c, err := nftables.New(); err == nil {
		tables, _ := c.ListTables()
		for _, t := range tables {
			if strings.Contains(t.Name, inst) {
				add("rules", t.Name)
			}
		}
	}
	if _, err := os.Stat("/run/slipway-" + inst); err == nil {
		add("run directory", "/run/slipway-"+inst)
	}
	for _, b := range s.builds() {
		add("build container", b)
	}
	return l
}

func (s *server) mounts() (l []string) {
	b, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) > 4 && (strings.HasPrefix(f[4], s.data+"/") || strings.Contains(f[4], "slipway-"+s.instance()) ||
			strings.Contains(line, "upperdir="+s.data+"/") || strings.Contains(line, "lowerdir="+s.data+"/")) {
			l = append(l, f[4])
		}
	}
	return l
}

func (s *server) links() (l []string) {
	all, _ := net.Interfaces()
	for _, i := range all {
		if strings.Contains(i.Name, s.instance()[:6]) {
			l = append(l, i.Name)
		}
	}
	return l
}

// cgroups are all groups of the instance, in version 1 those of the controller
// that the server tells processes by.
func (s *server) cgroups() (l []string) {
	name := "slipway-" + s.instance()
	var roots []string
	for _, pattern := range []string{"/sys/fs/cgroup/*/" + name, "/sys/fs/cgroup/" + name} {
		r, _ := filepath.Glob(pattern)
		roots = append(roots, r...)
	}
	for _, r := range roots {
		_ = filepath.WalkDir(r, func(p string, e fs.DirEntry, err error) error {
			if err == nil && e.IsDir() {
				l = append(l, p)
			}
			return nil
		})
	}
	return l
}

// processes are those that name the data directory in their command line, and
// those that are in its cgroups.
func (s *server) processes() (l []string) {
	for pid, cmd := range s.pids() {
		l = append(l, fmt.Sprintf("%s %s", pid, cmd))
	}
	slices.Sort(l)
	return l
}

// pids are the living processes of the data directory with their command lines.
func (s *server) pids() map[string]string {
	all := map[string]string{}
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, d := range dirs {
		b, err := os.ReadFile(filepath.Join(d, "cmdline"))
		if err != nil {
			continue
		}
		groups, _ := os.ReadFile(filepath.Join(d, "cgroup"))
		if !strings.Contains(string(b), s.data) && !strings.Contains(string(groups), "slipway-"+s.instance()) {
			continue
		}
		if stat, err := os.ReadFile(filepath.Join(d, "stat")); err != nil || strings.Contains(string(stat), ") Z ") {
			continue // dead, and its parent has not asked yet
		}
		all[filepath.Base(d)] = strings.TrimSpace(strings.ReplaceAll(string(b), "\x00", " "))
	}
	return all
}

// builds are the containers of build steps.
func (s *server) builds() (l []string) {
	states, _ := filepath.Glob("/run/runc/*/state.json")
	for _, f := range states {
		if b, err := os.ReadFile(f); err == nil && strings.Contains(string(b), s.data+"/") {
			l = append(l, filepath.Base(filepath.Dir(f)))
		}
	}
	return l
}

// footprint counts what a server has on the host and in its engine, by kind,
// without the pool of network namespaces, which is between empty and poolMax.
func (s *server) footprint() (count map[string]int, pool int, all []string) {
	count = map[string]int{}
	add := func(kind, what string) { count[kind]++; all = append(all, kind+": "+what) }
	for _, m := range s.mounts() {
		if strings.Contains(m, "/netns/pool") {
			pool++
			continue
		}
		if filepath.Base(m) == "binfmt" { // where qemu-user-static is installed
			continue
		}
		add("mount", m)
	}
	for _, n := range s.links() {
		switch {
		case strings.HasPrefix(n, "v"+s.instance()[:6]+"0-"): // of the pool
		case strings.HasPrefix(n, "v"):
			add("veth", n)
		default:
			// The bridge of a project without containers stays for some seconds.
			if ports, _ := filepath.Glob("/sys/class/net/" + n + "/brif/*"); len(ports) > 0 && !strings.HasSuffix(n, "-0") {
				add("bridge", n)
			}
		}
	}
	for _, c := range s.cgroups() {
		if filepath.Base(c) != "buildkit" { // it is made for the first build step and stays
			add("cgroup", c)
		}
	}
	for _, p := range s.processes() {
		add("process", p)
	}
	for _, b := range s.builds() {
		add("build", b)
	}
	for kind, pattern := range map[string]string{
		"record": s.data + "/engine/runs/*", "layer": s.data + "/engine/layers/*", "bundle": "/run/slipway-" + s.instance() + "/b/*",
		"monitor": "/run/slipway-" + s.instance() + "/m/*", "state": "/run/slipway-" + s.instance() + "/runc/*",
		"torn volume": s.data + "/engine/volumes/.*", "build source": s.data + "/engine/build/tmp/*", "begun build": s.data + "/engine/build/begun/*",
	} {
		l, _ := filepath.Glob(pattern)
		for _, f := range l {
			add(kind, f)
		}
	}
	slices.Sort(all)
	return count, pool, all
}

// poolMax is how many idle namespaces an engine keeps.
const poolMax = 8

// settled tells whether the footprint is that of before, and if not what is
// different.
func (s *server) settled(want map[string]int) error {
	have, pool, all := s.footprint()
	if maps.Equal(have, want) && pool <= poolMax {
		return nil
	}
	var diff []string
	kinds := slices.Sorted(maps.Keys(have))
	for k := range want {
		if !slices.Contains(kinds, k) {
			kinds = append(kinds, k)
		}
	}
	for _, k := range kinds {
		if have[k] != want[k] {
			diff = append(diff, fmt.Sprintf("%s: %d, not %d", k, have[k], want[k]))
			for _, a := range all {
				if strings.HasPrefix(a, k+": ") {
					diff = append(diff, "   "+a)
				}
			}
		}
	}
	if pool > poolMax {
		diff = append(diff, fmt.Sprintf("%d namespaces in the pool", pool))
	}
	return fmt.Errorf("on the host is not what was before:\n%s", strings.Join(diff, "\n"))
}
