// Package doctor says what this machine has and lacks for Slipway, each lack
// with the command that mends it.
package doctor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"slipway/engine/local"
)

// Level says how bad a finding is.
type Level int

// Levels.
const (
	Good    Level = iota
	Lacking       // something is not possible, the rest works
	Missing       // needed: the server does not work without it
)

func (l Level) String() string { return [...]string{"ok", "lacks", "NEEDS"}[l] }

// Finding is the answer of one check.
type Finding struct {
	Level Level
	What  string
	Says  string
	Fix   []string // shell commands, in order; none: there is no command for it
}

// host is where the checks look; tests give another root.
type host struct {
	root   string
	lookup func(string) (string, error)
	run    func(ctx context.Context, name string, args ...string) (string, error)
	euid   int
	statfs func(string, *unix.Statfs_t) error
	blocks func(ctx context.Context, engineDir string) ([]local.Block, error)
}

func here() host {
	return host{
		root: "/", lookup: exec.LookPath, euid: os.Geteuid(), statfs: unix.Statfs, blocks: local.Blocks,
		run: func(ctx context.Context, name string, args ...string) (string, error) {
			out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
			return string(out), err
		},
	}
}

func (h host) read(path string) string {
	b, err := os.ReadFile(filepath.Join(h.root, path))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

func (h host) exists(path string) bool {
	_, err := os.Stat(filepath.Join(h.root, path))
	return err == nil
}

// Look runs all checks for a data directory.
func Look(ctx context.Context, dataDir string) []Finding { return here().look(ctx, dataDir) }

func (h host) look(ctx context.Context, dataDir string) []Finding {
	var l []Finding
	for _, check := range []func(context.Context, string) Finding{
		h.platform, h.privilege, h.kernel, h.overlay, h.cgroup, h.weights, h.seccomp, h.nftables, h.firewall, h.git, h.disk, h.inotify, h.emulation,
	} {
		l = append(l, check(ctx, dataDir))
	}
	return l
}

func good(what, says string) Finding { return Finding{Level: Good, What: what, Says: says} }

func (h host) platform(context.Context, string) Finding {
	if runtime.GOOS != "linux" {
		return Finding{Missing, "platform", runtime.GOOS + "; it must be linux", nil}
	}
	return good("platform", runtime.GOOS+"/"+runtime.GOARCH)
}

func (h host) privilege(context.Context, string) Finding {
	if h.euid != 0 {
		return Finding{Missing, "privilege", "not root; containers, mounts and networks need it: run it with sudo or as a system service", nil}
	}
	return good("privilege", "root")
}

// kernel wants openat2 and close_range, and pidfd, which came by 5.9.
func (h host) kernel(context.Context, string) Finding {
	r := h.read("proc/sys/kernel/osrelease")
	major, minor := 0, 0
	_, _ = fmt.Sscanf(r, "%d.%d", &major, &minor)
	if major < 5 || major == 5 && minor < 11 {
		return Finding{Missing, "kernel", r + "; 5.11 or newer is needed (openat2, close_range, pidfd)", []string{"apt-get install -y linux-image-" + runtime.GOARCH}}
	}
	return good("kernel", r)
}

func (h host) overlay(context.Context, string) Finding {
	for l := range strings.Lines(h.read("proc/filesystems")) {
		if strings.TrimSpace(l) == "nodev\toverlay" || strings.HasSuffix(strings.TrimSpace(l), "overlay") {
			return good("overlayfs", "there")
		}
	}
	// A kernel that has it as a module loads that with the first mount.
	if strings.Contains(h.read("lib/modules/"+h.read("proc/sys/kernel/osrelease")+"/modules.dep"), "/overlay.ko") {
		return good("overlayfs", "a module, loaded when it is used first")
	}
	return Finding{Missing, "overlayfs", "the kernel does not know it (yet)", []string{"modprobe overlay"}}
}

// cgroup finds the version and the controllers that limits need.
func (h host) cgroup(context.Context, string) Finding {
	if c := h.read("sys/fs/cgroup/cgroup.controllers"); h.exists("sys/fs/cgroup/cgroup.controllers") {
		for _, want := range []string{"cpu", "memory", "pids"} {
			if !strings.Contains(" "+c+" ", " "+want+" ") {
				return Finding{Missing, "cgroup", "version 2 without the controller " + want, []string{"echo +" + want + " > /sys/fs/cgroup/cgroup.subtree_control"}}
			}
		}
		return good("cgroup", "version 2: "+c)
	}
	for _, want := range []string{"cpu", "memory", "pids", "devices"} {
		if !h.exists("sys/fs/cgroup/" + want) {
			dir := "/sys/fs/cgroup/" + want
			return Finding{Missing, "cgroup", "version 1 without the controller " + want, []string{"mkdir -p " + dir, "mount -t cgroup -o " + want + " cgroup " + dir}}
		}
	}
	return good("cgroup", "version 1")
}

// weights are how builds are kept below hosted services in I/O.
func (h host) weights(context.Context, string) Finding {
	files, _ := filepath.Glob(filepath.Join(h.root, "sys/block/*/queue/scheduler"))
	var without []string
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err == nil && !bytes.Contains(b, []byte("[bfq]")) && !strings.HasPrefix(filepath.Base(filepath.Dir(filepath.Dir(f))), "loop") {
			without = append(without, filepath.Base(filepath.Dir(filepath.Dir(f))))
		}
	}
	if len(without) > 0 && len(without) == len(files) || len(files) == 0 {
		var fix []string
		for _, d := range without {
			fix = append(fix, "modprobe bfq && echo bfq > /sys/block/"+d+"/queue/scheduler")
		}
		return Finding{Lacking, "disk weights", "no disk uses the BFQ scheduler, so builds and services share the disk evenly (CPU weights work)", fix}
	}
	return good("disk weights", "BFQ")
}

func (h host) seccomp(context.Context, string) Finding {
	if !h.exists("proc/sys/kernel/seccomp") {
		return Finding{Missing, "seccomp", "the kernel was built without seccomp filters", nil}
	}
	return good("seccomp", "there")
}

func (h host) nftables(context.Context, string) Finding {
	if h.exists("proc/net/netfilter") && (h.exists("sys/module/nf_tables") || strings.Contains(h.read("proc/modules"), "nf_tables")) || h.exists("proc/sys/net/netfilter") {
		return good("nf_tables", "there")
	}
	return Finding{Missing, "nf_tables", "the kernel does not know it (yet)", []string{"modprobe nf_tables", "modprobe nft_masq"}}
}

// firewall finds chains of the host that drop what containers send.
func (h host) firewall(ctx context.Context, dataDir string) Finding {
	l, err := h.blocks(ctx, filepath.Join(dataDir, "engine"))
	f := Finding{Level: Lacking, What: "firewall"}
	var says []string
	for _, b := range l {
		says = append(says, b.Chain+" drops by default, so "+b.What)
		f.Fix = append(f.Fix, b.Mend...)
	}
	if err != nil {
		says = append(says, "it cannot be looked at: "+err.Error())
	}
	if len(says) == 0 {
		return good("firewall", "lets packets of containers pass")
	}
	f.Says = strings.Join(says, "; ")
	return f
}

func (h host) git(ctx context.Context, _ string) Finding {
	const fix = "apt-get install -y git"
	if _, err := h.lookup("git"); err != nil {
		return Finding{Missing, "git", "not installed", []string{fix}}
	}
	out, err := h.run(ctx, "git", "--version")
	f := strings.Fields(out)
	if err != nil || len(f) < 3 {
		return Finding{Missing, "git", "does not answer: " + strings.TrimSpace(out), []string{fix}}
	}
	major, rest, _ := strings.Cut(f[2], ".")
	minor, _, _ := strings.Cut(rest, ".")
	if a, _ := strconv.Atoi(major); a < 2 {
		return Finding{Missing, "git", f[2] + "; 2.37 or newer is needed", []string{fix}}
	} else if b, _ := strconv.Atoi(minor); a == 2 && b < 37 {
		return Finding{Missing, "git", f[2] + "; 2.37 or newer is needed", []string{fix}}
	}
	return good("git", f[2])
}

func (h host) disk(_ context.Context, dataDir string) Finding {
	dir := dataDir
	for !exists(dir) && dir != "/" {
		dir = filepath.Dir(dir)
	}
	var st unix.Statfs_t
	if err := h.statfs(dir, &st); err != nil || st.Blocks == 0 {
		return Finding{Missing, "disk", fmt.Sprintf("%s: %v", dir, err), nil}
	}
	percent := st.Bavail * 100 / st.Blocks
	says := fmt.Sprintf("%d GiB (%d %%) free for %s", int64(st.Bavail)*st.Bsize>>30, percent, dataDir)
	if percent < 5 {
		return Finding{Missing, "disk", says + "; below 5 % no new work is taken", nil}
	}
	if percent < 15 {
		return Finding{Lacking, "disk", says + "; that is soon too little", nil}
	}
	return good("disk", says)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func (h host) inotify(context.Context, string) Finding {
	n, _ := strconv.Atoi(h.read("proc/sys/fs/inotify/max_user_instances"))
	if n > 0 && n < 64 {
		return Finding{Lacking, "inotify", fmt.Sprintf("%d instances a user; services inside may want more", n), []string{"sysctl -w fs.inotify.max_user_instances=512"}}
	}
	return good("inotify", fmt.Sprintf("%d instances a user", n))
}

// emulation is what builds for another architecture need.
func (h host) emulation(context.Context, string) Finding {
	foreign := map[string]string{"amd64": "aarch64", "arm64": "x86_64"}[runtime.GOARCH]
	if h.exists("proc/sys/fs/binfmt_misc/qemu-"+foreign) || h.exists("usr/lib/binfmt.d/qemu-"+foreign+".conf") {
		return good("emulation", "builds for "+foreign+" are possible")
	}
	return Finding{Lacking, "emulation", "builds for " + foreign + " are not possible", []string{"apt-get install -y qemu-user-static"}}
}

// Print writes findings and says whether something needed is missing.
func Print(w io.Writer, l []Finding) (missing bool) {
	for _, f := range l {
		fmt.Fprintf(w, "%-5s  %-13s %s\n", f.Level, f.What, f.Says)
		for _, c := range f.Fix {
			fmt.Fprintf(w, "       %-13s   # %s\n", "", c)
		}
		missing = missing || f.Level == Missing
	}
	return missing
}

// Fix runs the commands of all findings that have some.
func Fix(ctx context.Context, w io.Writer, l []Finding) error {
	var errs []error
	for _, f := range l {
		for _, c := range f.Fix {
			if f.Level == Good {
				continue
			}
			fmt.Fprintf(w, "# %s\n", c)
			out, err := exec.CommandContext(ctx, "sh", "-c", c).CombinedOutput()
			_, _ = w.Write(out)
			if err != nil {
				errs = append(errs, fmt.Errorf("%s: %s: %w", f.What, c, err))
				break
			}
		}
	}
	return errors.Join(errs...)
}
