package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	killTime   = 1500 * time.Millisecond // for all processes to go after SIGKILL
	removeTime = 200 * time.Millisecond  // for the kernel to let a cgroup go
)

// cgroup is that of the container: one directory on a host with version 2 only,
// else one in every hierarchy below the root.
type cgroup struct{ root, path string }

// v2 says whether the root is the one hierarchy of version 2.
func (g cgroup) v2() bool {
	_, err := os.Stat(filepath.Join(g.root, "cgroup.controllers"))
	return err == nil
}

// tops gives the container's directories.
func (g cgroup) tops() []string {
	if p := filepath.Clean("/" + g.path); p == "/" || strings.Contains(g.path, "..") { // never the root
		return nil
	}
	if g.v2() {
		return []string{filepath.Join(g.root, g.path)}
	}
	hierarchies, _ := os.ReadDir(g.root)
	var l []string
	for _, h := range hierarchies {
		if !h.IsDir() { // links are second names of a joint one
			continue
		}
		var st unix.Stat_t
		if top := filepath.Join(g.root, h.Name(), g.path); unix.Lstat(top, &st) == nil {
			l = append(l, top)
		}
	}
	return l
}

// dirs gives all directories of the container, depth first.
func (g cgroup) dirs() []string {
	var all []string
	for _, top := range g.tops() {
		var l []string
		_ = filepath.WalkDir(top, func(p string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				l = append(l, p)
			}
			return nil
		})
		for i := len(l) - 1; i >= 0; i-- {
			all = append(all, l[i])
		}
	}
	return all
}

// thaw lets frozen processes go on: on version 1 not even SIGKILL acts before.
func (g cgroup) thaw() {
	file, word := "freezer.state", "THAWED"
	if g.v2() {
		file, word = "cgroup.freeze", "0"
	}
	dirs := g.dirs()
	for i := len(dirs) - 1; i >= 0; i-- { // from the top
		put(filepath.Join(dirs[i], file), word)
	}
}

// put writes to a file of the kernel; where it is not there, there is nothing
// to tell it.
func put(path, word string) {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return
	}
	defer f.Close()
	_, _ = f.WriteString(word)
}

// procs gives the processes of the container.
func (g cgroup) procs() map[int]bool {
	all := map[int]bool{}
	for _, d := range g.dirs() {
		b, _ := os.ReadFile(filepath.Join(d, "cgroup.procs"))
		for f := range strings.FieldsSeq(string(b)) {
			if pid, _ := strconv.Atoi(f); pid > 1 && pid != os.Getpid() {
				all[pid] = true
			}
		}
	}
	return all
}

// kill kills every process of the container until there is none.
func (g cgroup) kill() {
	if len(g.tops()) == 0 {
		return
	}
	if g.v2() {
		put(filepath.Join(g.root, g.path, "cgroup.kill"), "1") // since Linux 5.14; reaches frozen ones too
	}
	for end := time.Now().Add(killTime); ; {
		pids := g.procs()
		if len(pids) == 0 {
			return
		}
		for pid := range pids {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		g.thaw()
		if time.Now().After(end) {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// oom says whether the kernel killed a process of the container for its memory.
func (g cgroup) oom() bool {
	file := filepath.Join(g.root, "memory", g.path, "memory.oom_control")
	if g.v2() {
		file = filepath.Join(g.root, g.path, "memory.events")
	}
	b, _ := os.ReadFile(file)
	for l := range strings.Lines(string(b)) {
		if n, ok := strings.CutPrefix(l, "oom_kill "); ok {
			return strings.TrimSpace(n) != "0"
		}
	}
	return false
}

// used gives the peak of the memory in bytes, with what the kernel kept of files,
// and the time of the processors in µs; 0 for what the kernel does not tell.
func (g cgroup) used() (memory, cpu int64) {
	if g.v2() {
		dir := filepath.Join(g.root, g.path)
		b, _ := os.ReadFile(filepath.Join(dir, "cpu.stat"))
		for l := range strings.Lines(string(b)) {
			if n, ok := strings.CutPrefix(l, "usage_usec "); ok {
				cpu = number(n)
			}
		}
		return readNumber(filepath.Join(dir, "memory.peak")), cpu // since Linux 5.19
	}
	return readNumber(filepath.Join(g.root, "memory", g.path, "memory.max_usage_in_bytes")),
		readNumber(filepath.Join(g.root, "cpuacct", g.path, "cpuacct.usage")) / 1000
}

func readNumber(file string) int64 {
	b, _ := os.ReadFile(file)
	return number(string(b))
}

func number(text string) int64 {
	n, _ := strconv.ParseInt(strings.TrimSpace(text), 10, 64)
	return n
}

// remove removes the directories; that, and one of runc's, is all that "runc
// delete" does to a container whose processes are gone.
func (g cgroup) remove() bool {
	gone := true
	for _, d := range g.dirs() {
		err := unix.Rmdir(d)
		for end := time.Now().Add(removeTime); err == unix.EBUSY && time.Now().Before(end); {
			time.Sleep(2 * time.Millisecond) // the kernel is still at it
			err = unix.Rmdir(d)
		}
		gone = gone && (err == nil || err == unix.ENOENT)
	}
	return gone
}
