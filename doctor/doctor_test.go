package doctor

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"slipway/engine/local"
)

// machine is a host made of files.
func machine(t *testing.T, files map[string]string) host {
	t.Helper()
	h := host{
		root: t.TempDir(), euid: 0,
		lookup: func(name string) (string, error) { return "/usr/bin/" + name, nil },
		run: func(_ context.Context, name string, args ...string) (string, error) {
			if name == "git" {
				return "git version 2.39.5", nil
			}
			return "", nil
		},
		statfs: func(path string, st *unix.Statfs_t) error {
			st.Blocks, st.Bavail, st.Bsize = 100, 50, 4096
			return nil
		},
		blocks: func(context.Context, string) ([]local.Block, error) { return nil, nil },
	}
	for name, text := range files {
		p := filepath.Join(h.root, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return h
}

var good2 = map[string]string{
	"proc/sys/kernel/osrelease": "6.1.0-30-amd64", "proc/filesystems": "nodev\tsysfs\nnodev\toverlay\n", "sys/fs/cgroup/cgroup.controllers": "cpuset cpu io memory pids",
	"sys/block/sda/queue/scheduler": "none [bfq]", "proc/sys/kernel/seccomp/actions_avail": "kill", "proc/sys/net/netfilter/x": "", "proc/sys/fs/inotify/max_user_instances": "512",
	"usr/lib/binfmt.d/qemu-aarch64.conf": "", "usr/lib/binfmt.d/qemu-x86_64.conf": "",
}

func levels(l []Finding) map[string]Finding {
	m := map[string]Finding{}
	for _, f := range l {
		m[f.What] = f
	}
	return m
}

func TestAGoodHostLacksNothing(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	l := machine(t, good2).look(t.Context(), "/var/lib/slipway")
	if Print(&out, l) || strings.Contains(out.String(), "lacks") || strings.Contains(out.String(), "#") {
		t.Error(out.String())
	}
}

func TestEveryLackIsNamedWithItsMend(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(*host, map[string]string)
		what   string
		level  Level
		says   string
		fixed  bool
	}{
		"kernel":     {func(_ *host, f map[string]string) { f["proc/sys/kernel/osrelease"] = "5.4.0" }, "kernel", Missing, "5.11", true},
		"overlay":    {func(_ *host, f map[string]string) { f["proc/filesystems"] = "nodev\tproc\n" }, "overlayfs", Missing, "kernel", true},
		"controller": {func(_ *host, f map[string]string) { f["sys/fs/cgroup/cgroup.controllers"] = "cpu memory" }, "cgroup", Missing, "pids", true},
		"not root":   {func(h *host, _ map[string]string) { h.euid = 1000 }, "privilege", Missing, "root", false},
		"no git": {func(h *host, _ map[string]string) {
			h.lookup = func(string) (string, error) { return "", errors.New("none") }
		}, "git", Missing, "not installed", true},
		"old git": {func(h *host, _ map[string]string) {
			h.run = func(context.Context, string, ...string) (string, error) { return "git version 2.30.2", nil }
		}, "git", Missing, "2.37", true},
		"firewall": {func(h *host, _ map[string]string) {
			h.blocks = func(_ context.Context, dir string) ([]local.Block, error) {
				return []local.Block{{Chain: "ip filter FORWARD", What: "containers of " + dir + " have no way out", Mend: []string{"true"}}}, nil
			}
		}, "firewall", Lacking, "so containers of /var/lib/slipway/engine have no way out", true},
		"firewall unseen": {func(h *host, _ map[string]string) {
			h.blocks = func(context.Context, string) ([]local.Block, error) { return nil, errors.New("the lock is held") }
		}, "firewall", Lacking, "cannot be looked at: the lock is held", false},
		"firewall half seen": {func(h *host, _ map[string]string) {
			h.blocks = func(context.Context, string) ([]local.Block, error) {
				return []local.Block{{Chain: "ip filter INPUT", What: "names fail", Mend: []string{"true"}}}, errors.New("the lock is held")
			}
		}, "firewall", Lacking, "so names fail; it cannot be looked at: the lock is held", true},
		"disk": {func(h *host, _ map[string]string) {
			h.statfs = func(_ string, st *unix.Statfs_t) error {
				st.Blocks, st.Bavail, st.Bsize = 100, 3, 4096
				return nil
			}
		}, "disk", Missing, "below 5 %", false},
		"scheduler": {func(_ *host, f map[string]string) { f["sys/block/sda/queue/scheduler"] = "[none] mq-deadline" }, "disk weights", Lacking, "BFQ", true},
		"emulation": {func(_ *host, f map[string]string) {
			delete(f, "usr/lib/binfmt.d/qemu-aarch64.conf")
			delete(f, "usr/lib/binfmt.d/qemu-x86_64.conf")
		}, "emulation", Lacking, "not possible", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			files := map[string]string{}
			for k, v := range good2 {
				files[k] = v
			}
			probe := host{}
			c.change(&probe, files)
			h := machine(t, files)
			c.change(&h, files)
			f := levels(h.look(t.Context(), "/var/lib/slipway"))[c.what]
			if f.Level != c.level || !strings.Contains(f.Says, c.says) || (len(f.Fix) > 0) != c.fixed {
				t.Errorf("%+v", f)
			}
		})
	}
}

func TestFixRunsCommandsInOrder(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "made")
	var out bytes.Buffer
	err := Fix(t.Context(), &out, []Finding{{Missing, "x", "", []string{"echo one > " + file, "echo two >> " + file}}, good("y", "")})
	b, _ := os.ReadFile(file)
	if err != nil || string(b) != "one\ntwo\n" {
		t.Error(err, string(b))
	}
	if err := Fix(t.Context(), &out, []Finding{{Missing, "x", "", []string{"exit 3"}}}); err == nil || !strings.Contains(err.Error(), "exit 3") {
		t.Error(err)
	}
}

func TestDeepOnNothing(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	missing, err := lookDeep(t.Context(), &out, t.TempDir(), "127.0.0.1:1")
	if missing || err != nil {
		t.Error(missing, err)
	}
}
