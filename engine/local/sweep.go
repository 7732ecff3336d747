package local

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// sweep takes away what a killed server left: all that belongs to no record.
// Containers with a child were adopted before it, so what they use is known.
func (e *Engine) sweep() error {
	used := map[string]bool{}
	for _, mon := range e.monitors.all("") {
		used[mon.Name] = true
	}
	if err := e.sweepBuilds(); err != nil {
		return err
	}
	e.sweepCgroups(e.workCgroup(), used)
	e.sweepCgroups(e.serveCgroup(), used)
	if err := e.sweepMounts(used); err != nil {
		return err
	}
	ents, _ := os.ReadDir(filepath.Join(e.run, "b"))
	for _, d := range ents {
		if !used[d.Name()] {
			if err := removeBundle(filepath.Join(e.run, "b", d.Name())); err != nil {
				e.log.Error("sweep", "err", err)
			}
		}
	}
	for _, dir := range []string{filepath.Join(e.run, "m"), filepath.Join(e.run, "o"), e.runcRoot, e.path("layers")} {
		sweepDir(dir, used)
	}
	for _, pat := range []string{".new-*", ".gone-*"} {
		left, _ := filepath.Glob(e.path("volumes", pat))
		for _, d := range left {
			_ = os.RemoveAll(d)
		}
	}
	return nil
}

// sweepDir removes what has the name of no container.
func sweepDir(dir string, used map[string]bool) {
	ents, _ := os.ReadDir(dir)
	for _, d := range ents {
		if !used[d.Name()] {
			_ = os.RemoveAll(filepath.Join(dir, d.Name()))
		}
	}
}

// sweepBuilds ends the build steps. BuildKit's executor cannot be given a place
// for runc's state, so its containers are in the common one; ours are told by
// their bundle.
func (e *Engine) sweepBuilds() error {
	const root = "/run/runc"
	ents, _ := os.ReadDir(root)
	for _, d := range ents {
		st, err := os.ReadFile(filepath.Join(root, d.Name(), "state.json"))
		if err != nil || !strings.Contains(string(st), "bundle="+e.executorRoot()+"/") {
			continue
		}
		e.log.Info("a build step of a killed server is ended", "container", d.Name())
		if out, err := exec.Command(e.runc, "--root", root, "delete", "--force", d.Name()).CombinedOutput(); err != nil {
			e.log.Error("a build step could not be ended", "container", d.Name(), "err", err, "output", string(out))
		}
	}
	return nil
}

// sweepCgroups kills and removes the groups of no container.
func (e *Engine) sweepCgroups(parent string, used map[string]bool) {
	for _, name := range e.cgroups.children(parent) {
		if used[name] {
			continue
		}
		if err := e.cgroups.kill(parent + "/" + name); err != nil {
			e.log.Error("sweep", "err", err)
		}
		e.cgroups.remove(parent + "/" + name)
	}
}

// sweepMounts unmounts what no container uses: bundles, network namespaces, and
// what a killed server had mounted for a moment.
func (e *Engine) sweepMounts(used map[string]bool) error {
	spaces := map[string]bool{}
	for _, mon := range e.monitors.all("") {
		if mon.Slot > 0 {
			spaces[filepath.Base((&pool{n: &network{e: e}}).slot(mon.Slot).path)] = true
		}
		if mon.Netns != "" {
			spaces[filepath.Base(mon.Netns)] = true
		}
	}
	list, err := mounts()
	if err != nil {
		return err
	}
	for _, m := range slices.Backward(list) { // those within others first
		switch {
		case below(m.at, filepath.Join(e.run, "b")):
			name, _, _ := strings.Cut(strings.TrimPrefix(m.at, filepath.Join(e.run, "b")+"/"), "/")
			// An export that was interrupted is done again.
			if used[name] && filepath.Base(m.at) != "export" {
				continue
			}
		case below(m.at, filepath.Join(e.run, "netns")):
			if spaces[filepath.Base(m.at)] {
				continue
			}
		case below(m.at, e.path("build")), below(m.at, e.executorRoot()):
		case strings.Contains(m.options, e.path("core")+"/") && (strings.Contains(m.at, "/containerd-mount") || strings.Contains(m.at, "/buildkit-mount")):
		default:
			continue
		}
		_ = unix.Unmount(m.at, unix.MNT_DETACH)
		if strings.HasPrefix(m.at, os.TempDir()+"/") {
			_ = os.Remove(m.at)
		}
	}
	sweepDir(filepath.Join(e.run, "netns"), spaces)
	return nil
}

func below(path, dir string) bool { return strings.HasPrefix(path, dir+"/") }

// mountLine is one line of mountinfo.
type mountLine struct{ at, options string }

// mounts lists what is mounted in this namespace, oldest first.
func mounts() (l []mountLine, err error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	s := bufio.NewScanner(f)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		w := strings.Fields(s.Text())
		if len(w) >= 7 {
			l = append(l, mountLine{unescape.Replace(w[4]), unescape.Replace(w[len(w)-1])})
		}
	}
	return l, s.Err()
}

// sweepLinks removes bridges and host's ends of this instance that are in
// nobody's use. It comes after the networks are up.
func (n *network) sweepLinks() {
	links, err := netlink.LinkList()
	if err != nil {
		n.e.log.Error("sweep", "err", err)
		return
	}
	n.mu.Lock()
	keep := map[string]bool{}
	for name, number := range n.plan.Numbers {
		keep[n.bridgeName(number)] = true
		for last := range n.taken[name] {
			keep[n.vethName(number, last)] = true
		}
	}
	n.mu.Unlock()
	n.pool.mu.Lock()
	for last := range n.pool.busy {
		keep[n.vethName(0, last)] = true
	}
	n.pool.mu.Unlock()
	for _, l := range links {
		name := l.Attrs().Name
		if (strings.HasPrefix(name, "sw"+n.e.inst[:6]+"-") || strings.HasPrefix(name, "v"+n.e.inst[:6])) && !keep[name] {
			_ = netlink.LinkDel(l)
		}
	}
}
