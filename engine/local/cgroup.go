package local

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"slipway/engine"
)

// cgroups is the tree of control groups of a host, of version 1, 2 or both
// mixed. A group is named by its path from the top, "/slipway-1234/work", and
// is one directory in version 2, or one in each hierarchy of version 1.
type cgroups struct {
	root    string // "/sys/fs/cgroup"
	unified bool   // version 2 alone
}

// Weights of what ends against what stays, which has the default of 1024 (or
// 100 in version 2).
const (
	workShares   = 128 // version 1
	workWeight   = 12  // version 2
	workIOWeight = 10  // both; the least that version 1 takes
)

// killTime is how long processes may take to die after SIGKILL.
const killTime = 5 * time.Second

func openCgroups(root string) cgroups {
	_, err := os.Stat(filepath.Join(root, "cgroup.controllers"))
	return cgroups{root: root, unified: err == nil}
}

func (e *Engine) openCgroups() error {
	e.cgroups = openCgroups("/sys/fs/cgroup")
	if err := e.cgroups.make(e.serveCgroup()); err != nil {
		return err
	}
	if err := e.cgroups.make(e.workCgroup()); err != nil {
		return err
	}
	if lacks := e.cgroups.lower(e.workCgroup()); len(lacks) > 0 {
		e.log.Debug("what ends cannot be given a lower weight", "lacks", lacks)
	}
	return nil
}

// hierarchies are the directories in which a group may have one.
func (c cgroups) hierarchies() []string {
	if c.unified {
		return []string{c.root}
	}
	ents, _ := os.ReadDir(c.root)
	var l []string
	for _, d := range ents {
		if d.IsDir() { // links are second names of a joint one
			l = append(l, filepath.Join(c.root, d.Name()))
		}
	}
	return l
}

// dirs are the directories of a group that are there. The path "/" has none:
// it is never ours.
func (c cgroups) dirs(path string) (l []string) {
	if strings.Trim(path, "/") == "" {
		return nil
	}
	for _, h := range c.hierarchies() {
		d := filepath.Join(h, path)
		if st, err := os.Stat(d); err == nil && st.IsDir() {
			l = append(l, d)
		}
	}
	return l
}

// make makes a group. In version 2 its members get the controllers that we
// limit with, as far as the host has them.
func (c cgroups) make(path string) error {
	if !c.unified {
		for _, sub := range []string{"cpu", "blkio", "memory", "pids"} {
			if _, err := os.Stat(filepath.Join(c.root, sub)); err != nil {
				continue
			}
			if err := os.MkdirAll(filepath.Join(c.root, sub, path), 0o755); err != nil {
				return err
			}
		}
		return nil
	}
	dir := c.root
	for _, part := range append([]string{""}, strings.Split(strings.Trim(path, "/"), "/")...) {
		dir = filepath.Join(dir, part)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if err := c.passOn(dir); err != nil {
			return err
		}
	}
	return nil
}

// passOn gives the members of a group of version 2 its controllers, one at a
// time: one that the host refuses must not cost the others. Memory is the first,
// since it is refused where a group has processes of its own; cpu or pids would
// make a group of threads of that, whose members take no process any more.
func (c cgroups) passOn(dir string) error {
	b, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return err
	}
	file := filepath.Join(dir, "cgroup.subtree_control")
	passed, _ := os.ReadFile(file)
	have, there := strings.Fields(string(b)), strings.Fields(string(passed))
	for _, name := range []string{"memory", "io", "cpu", "pids"} {
		if !slices.Contains(have, name) || slices.Contains(there, name) {
			continue
		}
		err := writeExisting(file, "+"+name)
		if errors.Is(err, unix.EBUSY) && dir == c.root {
			c.vacate()
			err = writeExisting(file, "+"+name)
		}
		if err != nil && name == "memory" {
			return fmt.Errorf("the members of %s cannot have the controller memory, probably because it has processes of its own: %w", dir, err)
		}
	}
	return nil
}

// vacate moves the processes of the top into a group below it. The top is not
// the host's then, which may have processes, but that of a cgroup namespace.
func (c cgroups) vacate() {
	dir := filepath.Join(c.root, "init")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return
	}
	for range 10 { // some may be born meanwhile
		b, _ := os.ReadFile(filepath.Join(c.root, "cgroup.procs"))
		if len(b) == 0 {
			return
		}
		for _, pid := range strings.Fields(string(b)) {
			if pid != "0" { // of a foreign pid namespace; it would mean ourselves
				_ = writeExisting(filepath.Join(dir, "cgroup.procs"), pid)
			}
		}
	}
}

// lower gives a group less CPU and I/O than others, as far as the host can,
// and says what it cannot.
func (c cgroups) lower(path string) (lacks []string) {
	type knob struct{ file, value string }
	try := func(what string, knobs ...knob) {
		for _, k := range knobs {
			if writeExisting(k.file, k.value) == nil {
				return
			}
		}
		lacks = append(lacks, what)
	}
	if c.unified {
		d := filepath.Join(c.root, path)
		try("cpu", knob{filepath.Join(d, "cpu.weight"), strconv.Itoa(workWeight)})
		try("io", knob{filepath.Join(d, "io.weight"), fmt.Sprintf("default %d", workIOWeight)},
			knob{filepath.Join(d, "io.bfq.weight"), strconv.Itoa(workIOWeight)})
		return lacks
	}
	try("cpu", knob{filepath.Join(c.root, "cpu", path, "cpu.shares"), strconv.Itoa(workShares)})
	try("io", knob{filepath.Join(c.root, "blkio", path, "blkio.weight"), strconv.Itoa(workIOWeight)},
		knob{filepath.Join(c.root, "blkio", path, "blkio.bfq.weight"), strconv.Itoa(workIOWeight)})
	return lacks
}

// writeExisting writes to a file of the kernel; it never makes one.
func writeExisting(file, value string) error {
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

// children are the names of the groups directly below path.
func (c cgroups) children(path string) (names []string) {
	seen := map[string]bool{}
	for _, d := range c.dirs(path) {
		ents, _ := os.ReadDir(d)
		for _, ent := range ents {
			if ent.IsDir() && !seen[ent.Name()] {
				seen[ent.Name()] = true
				names = append(names, ent.Name())
			}
		}
	}
	return names
}

// procs are the processes of a group and of those below it.
func (c cgroups) procs(path string) (pids []int) {
	seen := map[int]bool{}
	for _, top := range c.dirs(path) {
		_ = filepath.WalkDir(top, func(p string, d fs.DirEntry, err error) error {
			if err != nil || !d.IsDir() {
				return nil
			}
			b, _ := os.ReadFile(filepath.Join(p, "cgroup.procs"))
			for _, f := range strings.Fields(string(b)) {
				if n, _ := strconv.Atoi(f); n > 0 && !seen[n] {
					seen[n] = true
					pids = append(pids, n)
				}
			}
			return nil
		})
	}
	return pids
}

// kill ends every process of a group and waits until none is left. A frozen
// group is thawed, since a signal acts only then.
func (c cgroups) kill(path string) error {
	for _, d := range c.dirs(path) {
		_ = writeExisting(filepath.Join(d, "freezer.state"), "THAWED")
		_ = writeExisting(filepath.Join(d, "cgroup.freeze"), "0")
		_ = writeExisting(filepath.Join(d, "cgroup.kill"), "1")
	}
	end := time.Now().Add(killTime)
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		pids := c.procs(path)
		if len(pids) == 0 {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("cgroup %s: %d processes do not end", path, len(pids))
		}
		for _, p := range pids {
			_ = unix.Kill(p, unix.SIGKILL)
		}
		time.Sleep(wait) //nolint:forbidigo // the kernel tells of the end of a group in version 2 only
	}
}

// remove removes a group and those below it, the deepest first. One with a
// process in it stays.
func (c cgroups) remove(path string) {
	for _, top := range c.dirs(path) {
		var dirs []string
		_ = filepath.WalkDir(top, func(p string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, p)
			}
			return nil
		})
		for i := len(dirs) - 1; i >= 0; i-- {
			for n := 0; unix.Rmdir(dirs[i]) == unix.EBUSY && n < 50; n++ {
				time.Sleep(2 * time.Millisecond) //nolint:forbidigo // the kernel is still at it, and tells nobody when it is not
			}
		}
	}
}

// controllers gives the directories of a group by the controllers that they are
// of; in version 2 the only one has the name "".
func (c cgroups) controllers(path string) map[string]string {
	dirs := map[string]string{}
	for _, d := range c.dirs(path) {
		if c.unified {
			dirs[""] = d
			continue
		}
		rel, _ := filepath.Rel(c.root, d)
		first, _, _ := strings.Cut(rel, "/")
		for name := range strings.SplitSeq(first, ",") {
			dirs[name] = d
		}
	}
	return dirs
}

// usage is what a group uses.
type usage struct {
	memory, limit, pids int64
	cpu                 time.Duration
	oomKills            int64
}

// used is what a group has used by now, with those below it.
func (c cgroups) used(path string) (u engine.Usage) {
	dirs := c.controllers(path)
	if d := dirs[""]; c.unified && d != "" {
		u.Memory = readNumber(d, "memory.peak") // since Linux 5.19
		u.CPU = time.Duration(readField(d, "cpu.stat", "usage_usec")) * time.Microsecond
		return u
	}
	if d := dirs["memory"]; d != "" {
		u.Memory = readNumber(d, "memory.max_usage_in_bytes")
	}
	if d := dirs["cpuacct"]; d != "" {
		u.CPU = time.Duration(readNumber(d, "cpuacct.usage"))
	}
	return u
}

// errNoCgroup says that a group is not there (any more).
var errNoCgroup = errors.New("there is no such cgroup")

// usage reads what a group uses now. Memory is without the page cache that can
// be dropped at once, as docker stats counts it.
func (c cgroups) usage(path string) (u usage, err error) {
	dirs := c.controllers(path)
	if len(dirs) == 0 {
		return u, errNoCgroup
	}
	if c.unified {
		d := dirs[""]
		u.memory = readNumber(d, "memory.current") - readField(d, "memory.stat", "inactive_file")
		u.limit = readNumber(d, "memory.max")
		u.pids = readNumber(d, "pids.current")
		u.cpu = time.Duration(readField(d, "cpu.stat", "usage_usec")) * time.Microsecond
		u.oomKills = readField(d, "memory.events", "oom_kill")
	} else {
		m := dirs["memory"]
		u.memory = readNumber(m, "memory.usage_in_bytes") - readField(m, "memory.stat", "total_inactive_file")
		u.limit = readNumber(m, "memory.limit_in_bytes")
		u.pids = readNumber(dirs["pids"], "pids.current")
		u.cpu = time.Duration(readNumber(dirs["cpuacct"], "cpuacct.usage"))
		u.oomKills = readField(m, "memory.oom_control", "oom_kill")
	}
	u.memory = max(u.memory, 0)
	if u.limit >= 1<<62 { // version 1 says the greatest number for none
		u.limit = 0
	}
	return u, nil
}

// readNumber is the number that is a file's only word; 0 for "max".
func readNumber(dir, name string) int64 {
	b, _ := os.ReadFile(filepath.Join(dir, name))
	n, _ := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
	return n
}

// readField is a number of a file of lines "name number".
func readField(dir, file, name string) int64 {
	f, err := os.Open(filepath.Join(dir, file))
	if err != nil {
		return 0
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if v, ok := strings.CutPrefix(s.Text(), name+" "); ok {
			n, _ := strconv.ParseInt(strings.TrimSpace(v), 10, 64)
			return n
		}
	}
	return 0
}
