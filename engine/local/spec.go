package local

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/containerd/containerd/v2/contrib/seccomp"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/moby/sys/user"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"slipway/engine"
)

const (
	defaultPids = 4096
	defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	cpuPeriod   = 100000 // microseconds
	maxFiles    = 1 << 20
	softFiles   = 1 << 16
	hostNameMax = 63
	// etcMax is how much a container may write to the files of its own in /etc,
	// in bytes.
	etcMax = 256 << 10
)

// plan of one container: what run and instance specs have in common.
type container struct {
	rec        record
	image      ocispec.ImageConfig
	entrypoint []string
	command    []string
	env        []string
	dir        string
	user       string
	mounts     []engine.Mount
	files      []engine.File
	output     string // path of the file that it may write; "": none
	limits     engine.Limits
	noNew      bool // no new privileges
	oom        int  // oom_score_adj
	host       string
	netns      string // path; "" is a new one with nothing but its loopback
	resolv     []byte // nil: none
	addr       netip.Addr
}

func (c *container) rootfs() string { return filepath.Join(c.rec.Bundle, "rootfs") }

// arguments of the program: those of the image where the spec has none.
func (c *container) arguments() []string {
	switch {
	case len(c.entrypoint) > 0:
		return slices.Concat(c.entrypoint, c.command)
	case c.command != nil:
		return slices.Concat(c.image.Entrypoint, c.command)
	}
	return slices.Concat(c.image.Entrypoint, c.image.Cmd)
}

// badStart is a fault of what was asked for: it is the result of the container,
// not an error of ours.
type badStart struct {
	code int
	msg  string
}

func (b *badStart) Error() string { return b.msg }

// build writes the bundle: the mounts, the files and config.json, all of it in
// memory. The file system is mounted already. What is mounted is added to the
// record, also on an error.
func (e *Engine) build(c *container) error {
	args := c.arguments()
	if len(args) == 0 {
		return &badStart{127, "the image has no command and none is given"}
	}
	who := c.user
	if who == "" {
		who = c.image.User
	}
	u, err := lookUser(c.rootfs(), who)
	if errors.Is(err, errNoUser) {
		return &badStart{126, fmt.Sprintf("user %q is not in the image", who)}
	}
	if err != nil {
		return &badStart{126, "user: " + err.Error()}
	}
	dir := c.dir
	if dir == "" {
		dir = c.image.WorkingDir
	}
	dir = path.Clean("/" + dir)
	if err := makeDirIn(c.rootfs(), dir, u.Uid, u.Gid); err != nil {
		return err
	}
	s, err := e.baseSpec(c.rec.Name)
	if err != nil {
		return err
	}
	s.Root = &specs.Root{Path: c.rootfs()}
	s.Hostname = c.host
	p := s.Process
	p.Args, p.Cwd = args, dir
	p.Env = environment(c.image.Env, append([]string{"HOSTNAME=" + c.host, "HOME=" + u.Home}, c.env...))
	p.NoNewPrivileges = c.noNew
	p.OOMScoreAdj = &c.oom
	p.User = specs.User{UID: uint32(u.Uid), GID: uint32(u.Gid), AdditionalGids: groups(u)}
	s.Linux.CgroupsPath = c.rec.Cgroup
	setNetwork(s, c.netns)
	e.setLimits(s.Linux.Resources, c.limits)
	mounts, err := e.bindFiles(c, u)
	if err != nil {
		return err
	}
	if c.output != "" {
		m, err := e.bindOutput(c, u)
		if err != nil {
			return err
		}
		mounts = append(mounts, m)
	}
	volumes, err := e.bindVolumes(c, u)
	if err != nil {
		return err
	}
	s.Mounts = slices.Concat(s.Mounts, mounts, volumes)
	// Those nearer to the root first, so that none hides another.
	slices.SortStableFunc(s.Mounts, func(a, b specs.Mount) int {
		return strings.Count(path.Clean(a.Destination), "/") - strings.Count(path.Clean(b.Destination), "/")
	})
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(c.rec.Bundle, "config.json"), b, 0o600)
}

// baseSpec is the safe default of every container: the capabilities that
// Docker gives, its seccomp filter, masked and read-only paths.
func (e *Engine) baseSpec(id string) (*specs.Spec, error) {
	ctx := nsctx(context.Background())
	s, err := oci.GenerateSpec(ctx, nil, &containers.Container{ID: id},
		oci.WithDefaultSpecForPlatform(platforms.DefaultString()), oci.WithDefaultUnixDevices, oci.WithoutRunMount)
	if err != nil {
		return nil, err
	}
	// A view of the control groups of its own, by which programs find out what
	// they may use.
	s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.CgroupNamespace})
	s.Mounts = append(s.Mounts, specs.Mount{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"ro", "nosuid", "noexec", "nodev"}})
	if e.nofile > 0 {
		s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Hard: e.nofile, Soft: min(e.nofile, softFiles)}}
	}
	// Last, it looks at the capabilities; these are always the same.
	if e.seccomp == nil {
		e.seccomp = seccomp.DefaultProfile(s)
		// Without x32, which next to no kernel speaks: who tries it is killed.
		// Each architecture costs a start some milliseconds.
		e.seccomp.Architectures = slices.DeleteFunc(e.seccomp.Architectures, func(a specs.Arch) bool { return a == specs.ArchX32 })
	}
	s.Linux.Seccomp = e.seccomp
	return s, nil
}

// openSpec looks up what all containers have in common.
func (e *Engine) openSpec() error {
	var lim unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &lim); err != nil {
		return err
	}
	e.nofile = min(lim.Max, maxFiles)
	if _, err := e.baseSpec("x"); err != nil { // sets the filter, before there are several callers
		return err
	}
	e.memory = hostMemory()
	if !e.cgroups.unified {
		_, err := os.Stat(filepath.Join(e.cgroups.root, "memory", "memory.memsw.limit_in_bytes"))
		e.noSwapLimit = err != nil
	}
	e.oomServe = lowestOOM()
	return nil
}

// lowestOOM is the least oom_score_adj, from 0 on, that containers can have:
// root without CAP_SYS_RESOURCE may not go below what it was given.
func lowestOOM() int {
	const file = "/proc/self/oom_score_adj"
	b, err := os.ReadFile(file)
	if err != nil {
		return 0
	}
	own, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || own <= 0 || os.WriteFile(file, []byte("0"), 0) != nil {
		return max(0, own)
	}
	_ = os.WriteFile(file, b, 0)
	return 0
}

// hostMemory is the memory of this machine in bytes; 0 if that is not known.
func hostMemory() int64 {
	var si unix.Sysinfo_t
	if unix.Sysinfo(&si) != nil {
		return 0
	}
	return int64(si.Totalram) * int64(si.Unit)
}

func (e *Engine) setLimits(r *specs.LinuxResources, l engine.Limits) {
	pids := l.Pids
	if pids <= 0 {
		pids = defaultPids
	}
	r.Pids = &specs.LinuxPids{Limit: &pids}
	if l.Memory > 0 {
		r.Memory = &specs.LinuxMemory{Limit: &l.Memory}
		if !e.noSwapLimit {
			r.Memory.Swap = &l.Memory
		}
	}
	if l.CPUs > 0 {
		quota, period := int64(l.CPUs*cpuPeriod), uint64(cpuPeriod)
		r.CPU = &specs.LinuxCPU{Quota: &quota, Period: &period}
	}
}

func groups(u *user.ExecUser) (l []uint32) {
	for _, g := range u.Sgids {
		l = append(l, uint32(g))
	}
	return l
}

// environment puts lists together; what comes later counts.
func environment(lists ...[]string) []string {
	out := []string{defaultPath}
	at := map[string]int{"PATH": 0}
	for _, kv := range slices.Concat(lists...) {
		k, _, ok := strings.Cut(kv, "=")
		if !ok || k == "" {
			continue
		}
		if i, there := at[k]; there {
			out[i] = kv
			continue
		}
		at[k] = len(out)
		out = append(out, kv)
	}
	return out
}

// bindFiles writes what is put into the container as files, in memory. Those
// that it may write to lie in a file system of a size of its own, lest it fill
// that of everybody.
func (e *Engine) bindFiles(c *container, u *user.ExecUser) ([]specs.Mount, error) {
	hosts := "127.0.0.1\tlocalhost\n"
	if c.addr.IsValid() {
		hosts += c.addr.String() + "\t" + c.host + "\n"
	} else {
		hosts += "127.0.0.1\t" + c.host + "\n"
	}
	files := []engine.File{
		{Path: "/etc/hosts", Mode: 0o644, Content: []byte(hosts)},
		{Path: "/etc/hostname", Mode: 0o644, Content: []byte(c.host + "\n")},
	}
	if c.resolv != nil {
		files = append(files, engine.File{Path: "/etc/resolv.conf", Mode: 0o644, Content: c.resolv})
	}
	own := len(files)
	files = append(files, c.files...)
	etc := filepath.Join(c.rec.Bundle, "etc")
	if err := os.Mkdir(etc, 0o755); err != nil {
		return nil, err
	}
	if err := unix.Mount("slipway", etc, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, fmt.Sprintf("mode=0755,size=%d", etcMax)); err != nil {
		return nil, fmt.Errorf("a file system in memory on %s: %w", etc, err)
	}
	c.rec.Mounts = append(c.rec.Mounts, etc)
	var l []specs.Mount
	for i, f := range files {
		if isRootPath(f.Path) {
			return nil, fmt.Errorf("a file without a path: %w", errdefs.ErrInvalidArgument)
		}
		from := filepath.Join(c.rec.Bundle, "f"+strconv.Itoa(i))
		if i < own {
			from = filepath.Join(etc, filepath.Base(f.Path))
		}
		mode := fs.FileMode(f.Mode) & fs.ModePerm
		if mode == 0 {
			mode = 0o444
		}
		if err := os.WriteFile(from, f.Content, mode); err != nil {
			return nil, err
		}
		if err := os.Chmod(from, mode); err != nil { // whatever the umask is
			return nil, err
		}
		opts := []string{"bind", "rprivate", "nosuid", "nodev", "ro"}
		if i >= own { // who runs in the container shall be able to read it
			if err := os.Chown(from, u.Uid, u.Gid); err != nil {
				return nil, err
			}
		} else {
			opts = opts[:len(opts)-1] // programs write to these, as elsewhere
		}
		l = append(l, specs.Mount{Destination: path.Clean("/" + f.Path), Type: "bind", Source: from, Options: opts})
	}
	return l, nil
}

// bindVolumes mounts the parts of volumes. One that is not the volume itself is
// first bound to the bundle by its descriptor: by its name, links that a
// container makes meanwhile could lead elsewhere.
func (e *Engine) bindVolumes(c *container, u *user.ExecUser) ([]specs.Mount, error) {
	var l []specs.Mount
	for i, m := range c.mounts {
		if isRootPath(m.Target) {
			return nil, fmt.Errorf("a mount on the root of the container: %w", errdefs.ErrInvalidArgument)
		}
		from, err := e.volumeDir(m.Volume)
		if err != nil {
			return nil, err
		}
		if !isRootPath(m.Path) {
			f, err := e.openMount(m.Volume, m.Path)
			if err != nil {
				return nil, err
			}
			from = filepath.Join(c.rec.Bundle, "m"+strconv.Itoa(i))
			err = bindFile(f, from)
			_ = f.Close()
			if err != nil {
				return nil, err
			}
			c.rec.Mounts = append(c.rec.Mounts, from)
		}
		if m.Own && !m.ReadOnly {
			if err := own(from, u.Uid, u.Gid); err != nil {
				return nil, fmt.Errorf("make user %d the owner of what is mounted on %s: %w", u.Uid, m.Target, err)
			}
		}
		opts := []string{"bind", "rprivate", "nodev"}
		if m.ReadOnly {
			opts = append(opts, "ro")
		}
		l = append(l, specs.Mount{Destination: path.Clean("/" + m.Target), Type: "bind", Source: from, Options: opts})
	}
	return l, nil
}

// stopSignal reads the name or number of a signal; "" is SIGTERM.
func stopSignal(name string) (syscall.Signal, error) {
	s := strings.ToUpper(strings.TrimSpace(name))
	if s == "" {
		return unix.SIGTERM, nil
	}
	if n, err := strconv.Atoi(s); err == nil && n > 0 && n < 65 {
		return syscall.Signal(n), nil
	}
	s = "SIG" + strings.TrimPrefix(s, "SIG")
	if n := unix.SignalNum(s); n != 0 {
		return n, nil
	}
	const rtMin, rtMax = 34, 64
	for prefix, base := range map[string]int{"SIGRTMIN+": rtMin, "SIGRTMAX-": rtMax} {
		if v, ok := strings.CutPrefix(s, prefix); ok {
			if n, err := strconv.Atoi(v); err == nil && n >= 0 && n <= rtMax-rtMin {
				if base == rtMax {
					n = -n
				}
				return syscall.Signal(base + n), nil
			}
		}
	}
	return 0, fmt.Errorf("signal %q: %w", name, errdefs.ErrInvalidArgument)
}

// hostName makes a host name out of any text.
func hostName(s string) string {
	b := []byte(s)
	for i, c := range b {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '.') {
			b[i] = '-'
		}
	}
	if len(b) > hostNameMax {
		b = b[:hostNameMax]
	}
	if s = strings.Trim(string(b), "-."); s == "" {
		return "container"
	}
	return s
}
