package main

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// daemon is a process of a peer; it is ended by its pid.
type daemon struct {
	cmd  *exec.Cmd
	gone chan struct{}
}

func start(ctx context.Context, logFile, socket, name string, args ...string) (*daemon, error) {
	f, err := os.Create(logFile)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = f, f
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	d := &daemon{cmd, make(chan struct{})}
	go func() { _ = cmd.Wait(); close(d.gone) }()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		if c, err := net.Dial("unix", socket); err == nil {
			c.Close()
			return d, nil
		}
		select {
		case <-d.gone:
			b, _ := os.ReadFile(logFile)
			return nil, fmt.Errorf("%s ended: %s", filepath.Base(name), tail(string(b)))
		case <-ctx.Done():
			return nil, fmt.Errorf("%s does not listen", filepath.Base(name))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func tail(s string) string { return s[max(0, len(s)-2000):] }

func (d *daemon) stop() {
	if d == nil {
		return
	}
	_ = d.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-d.gone:
	case <-time.After(20 * time.Second):
		_ = d.cmd.Process.Kill()
		<-d.gone
	}
}

func output(ctx context.Context, name string, args ...string) (string, error) {
	var out, errs bytes.Buffer
	c := exec.CommandContext(ctx, name, args...)
	c.Stdout, c.Stderr = &out, &errs
	if err := c.Run(); err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", filepath.Base(name), args[0], err, tail(errs.String()))
	}
	return out.String(), nil
}

// docker is a dockerd of our own with containerd below it.
type docker struct {
	*daemon
	client, host string
}

func startDocker(ctx context.Context, p programs, dir string) (*docker, error) {
	d := &docker{client: p.docker, host: "unix://" + dir + "/s"}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if err := os.WriteFile(dir+"/daemon.json", []byte("{}"), 0o600); err != nil {
		return nil, err
	}
	_ = exec.Command("ip", "link", "add", "swbench0", "type", "bridge").Run()
	_ = exec.Command("ip", "addr", "replace", "172.30.255.1/24", "dev", "swbench0").Run()
	_ = exec.Command("ip", "link", "set", "swbench0", "up").Run()
	var err error
	d.daemon, err = start(ctx, dir+"/log", dir+"/s", p.dockerd, "--config-file", dir+"/daemon.json", "--data-root", dir+"/data", "--exec-root", dir+"/run",
		"--pidfile", dir+"/pid", "--host", d.host, "--iptables=false", "--bridge", "swbench0", "--storage-driver", "overlay2")
	return d, err
}

func (d *docker) cli(ctx context.Context, args ...string) (string, error) {
	return output(ctx, d.client, append([]string{"--host", d.host}, args...)...)
}

func (d *docker) close() {
	if d == nil {
		return
	}
	d.daemon.stop()
	_ = exec.Command("ip", "link", "del", "swbench0").Run()
}

// buildkit is a buildkitd of the version in go.mod.
type buildkit struct {
	*daemon
	ctl, addr string
}

func startBuildkit(ctx context.Context, p programs, dir string) (*buildkit, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	k := &buildkit{ctl: p.buildctl, addr: "unix://" + dir + "/s"}
	var err error
	k.daemon, err = start(ctx, dir+"/log", dir+"/s", p.buildkitd, "--root", dir+"/root", "--addr", k.addr, "--oci-worker-binary", p.runc,
		"--oci-worker-snapshotter", "overlayfs", "--oci-worker-net", "host")
	return k, err
}

func (k *buildkit) build(ctx context.Context, dir string) (string, error) {
	return output(ctx, k.ctl, "--addr", k.addr, "build", "--frontend", "dockerfile.v0", "--local", "context="+dir, "--local", "dockerfile="+dir)
}

// runc runs a bundle that was made beforehand: the least that a container costs.
type runc struct {
	program, root, bundle string
	n                     int
}

// benchNetns is the network namespace of bare containers. Making one costs time,
// and ours are made ahead; so theirs is too.
const benchNetns = "swbench"

// newRunc makes a bundle of the config.json of one of our containers, so that
// both do the same: mounts, filter, limits. Only what lies on the host is its own.
func newRunc(p programs, dir string, config []byte) (*runc, error) {
	r := &runc{program: p.runc, root: dir + "/root", bundle: dir + "/bundle"}
	rootfs := filepath.Join(r.bundle, "rootfs")
	if err := os.MkdirAll(rootfs, 0o755); err != nil {
		return nil, err
	}
	if err := copyFile(p.probe, filepath.Join(rootfs, "probe")); err != nil {
		return nil, err
	}
	var spec map[string]any
	if err := json.Unmarshal(config, &spec); err != nil {
		return nil, err
	}
	spec["root"].(map[string]any)["path"] = rootfs
	for i, m := range spec["mounts"].([]any) {
		m := m.(map[string]any)
		if m["type"] != "bind" {
			continue
		}
		own := filepath.Join(r.bundle, fmt.Sprint("mount", i))
		at, err := os.Stat(m["source"].(string))
		switch {
		case err != nil:
		case at.IsDir():
			err = os.Mkdir(own, 0o755)
		default:
			err = copyFile(m["source"].(string), own)
		}
		if err != nil {
			return nil, err
		}
		m["source"] = own
	}
	linux := spec["linux"].(map[string]any)
	linux["cgroupsPath"] = "/" + benchNetns
	if out, err := exec.Command("ip", "netns", "add", benchNetns).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("ip netns add: %w: %s", err, out)
	}
	for _, n := range linux["namespaces"].([]any) {
		if n := n.(map[string]any); n["type"] == "network" {
			n["path"] = "/run/netns/" + benchNetns
		}
	}
	b, err := json.Marshal(spec)
	if err != nil {
		return nil, err
	}
	return r, os.WriteFile(r.config(), b, 0o600)
}

func (r *runc) config() string { return filepath.Join(r.bundle, "config.json") }

func (r *runc) close() {
	if r != nil {
		_ = exec.Command("ip", "netns", "del", benchNetns).Run()
	}
}

// args says what the next containers run.
func (r *runc) args(args ...string) error {
	b, err := os.ReadFile(r.config())
	if err != nil {
		return err
	}
	var spec map[string]any
	if err := json.Unmarshal(b, &spec); err != nil {
		return err
	}
	spec["process"].(map[string]any)["args"] = append([]string{"/probe"}, args...)
	if b, err = json.Marshal(spec); err != nil {
		return err
	}
	return os.WriteFile(r.config(), b, 0o600)
}

// run gives what the probe printed.
func (r *runc) run(ctx context.Context) (string, error) {
	r.n++
	return output(ctx, r.program, "--root", r.root, "run", "--bundle", r.bundle, fmt.Sprintf("bench-%d", r.n))
}

func copyFile(from, to string) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, b, 0o755)
}

// archive is a docker archive of one layer with the probe, for all of them.
func archive(probe, name string) ([]byte, error) {
	b, err := os.ReadFile(probe)
	if err != nil {
		return nil, err
	}
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	put := func(w *tar.Writer, name string, b []byte, mode int64) error {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: mode, Size: int64(len(b)), Typeflag: tar.TypeReg}); err != nil {
			return err
		}
		_, err := w.Write(b)
		return err
	}
	if err := put(w, "probe", b, 0o755); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	sum := sha256.Sum256(layer.Bytes())
	config, _ := json.Marshal(map[string]any{
		"architecture": "amd64", "os": "linux", "config": map[string]any{"Entrypoint": []string{"/probe"}, "Cmd": []string{"true"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + hex.EncodeToString(sum[:])}},
	})
	id := sha256.Sum256(config)
	manifest, _ := json.Marshal([]map[string]any{{"Config": hex.EncodeToString(id[:]) + ".json", "RepoTags": []string{name}, "Layers": []string{"layer.tar"}}})
	var all bytes.Buffer
	w = tar.NewWriter(&all)
	for _, f := range []struct {
		name string
		b    []byte
	}{{hex.EncodeToString(id[:]) + ".json", config}, {"layer.tar", layer.Bytes()}, {"manifest.json", manifest}} {
		if err := put(w, f.name, f.b, 0o644); err != nil {
			return nil, err
		}
	}
	return all.Bytes(), w.Close()
}

// pss is the proportional memory of processes and all below them, in MiB.
func pss(pids ...int) float64 {
	children := map[int][]int{}
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, d := range dirs {
		var pid, parent int
		b, err := os.ReadFile(d + "/stat")
		if err != nil {
			continue
		}
		_, _ = fmt.Sscanf(filepath.Base(d), "%d", &pid)
		_, _ = fmt.Sscanf(string(b[strings.LastIndexByte(string(b), ')')+1:]), " %c %d", new(rune), &parent)
		children[parent] = append(children[parent], pid)
	}
	seen := map[int]bool{}
	total := 0.0
	for len(pids) > 0 {
		p := pids[0]
		pids = append(pids[1:], children[p]...)
		if seen[p] {
			continue
		}
		seen[p] = true
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", p))
		for l := range strings.Lines(string(b)) {
			var kb float64
			if n, _ := fmt.Sscanf(l, "Pss: %f kB", &kb); n == 1 {
				total += kb / 1024
			}
		}
	}
	return total
}
