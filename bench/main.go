// Command bench measures Slipway beside its peers and prints one table. Every
// figure is the median of interleaved runs on the same machine; absolute times
// are those of a noisy machine, the ratios are what counts.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

type programs struct{ slipway, probe, runc, buildkitd, buildctl, dockerd, docker string }

// row is one line of the table.
type row struct {
	what, beside, target string
	ours, theirs         float64
	unit                 string
	ratio                float64 // what the target speaks of, if it is a ratio
	met                  bool
}

// atMost and atLeast are rows of what has no peer, with a bound of its own.
func atMost(what string, is, most float64, unit string) row {
	return row{what: what, beside: "-", target: fmt.Sprintf("≤ %g %s", most, unit), ours: is, unit: unit, met: is <= most}
}

func atLeast(what string, is, least float64, unit string) row {
	return row{what: what, beside: "-", target: fmt.Sprintf("≥ %g %s", least, unit), ours: is, unit: unit, met: is >= least}
}

// bench is everything that is measured, up and running.
type bench struct {
	programs
	dir    string
	rounds int
	ours   *slipway
	docker *docker
	kit    *buildkit
	runc   *runc
	rows   []row
}

func main() {
	var b bench
	var only string
	flag.StringVar(&b.slipway, "slipway", "bin/slipway", "program under test")
	flag.StringVar(&b.probe, "probe", "", "program run in containers")
	flag.StringVar(&b.programs.runc, "runc", "", "peer")
	flag.StringVar(&b.buildkitd, "buildkitd", "", "peer")
	flag.StringVar(&b.buildctl, "buildctl", "", "peer")
	flag.StringVar(&b.dockerd, "dockerd", "", "peer")
	flag.StringVar(&b.programs.docker, "docker", "", "peer's client")
	flag.IntVar(&b.rounds, "rounds", 5, "interleaved rounds")
	flag.StringVar(&only, "only", "", "names of measurements: action,build,handover,start,memory,lines,load,queue")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := b.run(ctx, only); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		stop()
		os.Exit(1) // run has cleaned up
	}
}

func (b *bench) run(ctx context.Context, only string) (err error) {
	b.sweep()
	if b.dir, err = os.MkdirTemp("", dirPrefix); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(b.dir, "pid"), []byte(strconv.Itoa(os.Getpid())), 0o600); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	for _, p := range []*string{&b.slipway, &b.probe, &b.programs.runc, &b.buildkitd, &b.buildctl} {
		if *p, err = filepath.Abs(*p); err != nil {
			return err
		}
	}
	defer func() {
		if err != nil && b.ours != nil {
			text, _ := os.ReadFile(b.ours.data + ".log")
			fmt.Fprintf(os.Stderr, "the server's last lines:\n%s\n", tail(string(text)))
		}
		err = errors.Join(err, b.down())
	}()
	if err := b.up(ctx); err != nil {
		return err
	}
	all := []struct {
		name string
		f    func(context.Context) error
	}{{"action", b.action}, {"build", b.build}, {"handover", b.handover}, {"memory", b.memory}, {"lines", b.lines}, {"start", b.start}, {"load", b.load}, {"queue", b.queue}}
	for _, m := range all {
		if only != "" && !slices.Contains(strings.Split(only, ","), m.name) {
			continue
		}
		fmt.Fprintf(os.Stderr, "measuring %s\n", m.name)
		if err := m.f(ctx); err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
	}
	b.print()
	return nil
}

const dirPrefix = "slipway-bench-"

// sweep takes away what a run left that was killed.
func (b *bench) sweep() {
	dirs, _ := filepath.Glob(filepath.Join(os.TempDir(), dirPrefix+"*"))
	for _, d := range dirs {
		text, err := os.ReadFile(filepath.Join(d, "pid"))
		if pid, _ := strconv.Atoi(string(text)); err != nil || pid > 0 && syscall.Kill(pid, 0) == nil {
			continue
		}
		if out, err := exec.Command(b.slipway, "stop", "--all", "--data-dir", filepath.Join(d, "data")).CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "left by an earlier run: stop --all: %v: %s\n", err, out)
		}
		mounts, _ := os.ReadFile("/proc/self/mounts")
		for l := range strings.Lines(string(mounts)) {
			if f := strings.Fields(l); strings.HasPrefix(f[1], d+"/") {
				_ = syscall.Unmount(f[1], syscall.MNT_DETACH)
			}
		}
		_ = os.RemoveAll(d)
	}
	_ = exec.Command("ip", "netns", "del", benchNetns).Run()
}

func (b *bench) print() {
	var u syscall.Utsname
	_ = syscall.Uname(&u)
	fmt.Printf("\n%s; %d cores; Linux %s; %d rounds\n", time.Now().UTC().Format(time.DateOnly), runtime.NumCPU(), text(u.Release[:]), b.rounds)
	for _, v := range [][]string{{b.programs.docker, "--version"}, {b.programs.runc, "--version"}, {b.buildkitd, "--version"}} {
		if out, err := exec.Command(v[0], v[1]).Output(); err == nil {
			line, _, _ := strings.Cut(string(out), "\n")
			fmt.Println(line)
		}
	}
	fmt.Println("\n| what | Slipway | beside | peer | ratio | target | met |\n|---|---|---|---|---|---|---|")
	for _, r := range b.rows {
		peer, ratio := "-", "-"
		if r.theirs > 0 {
			peer, ratio = fmt.Sprintf("%.1f %s", r.theirs, r.unit), fmt.Sprintf("%.2f", r.ratio)
		}
		met := "no"
		if r.met {
			met = "yes"
		}
		fmt.Printf("| %s | %.1f %s | %s | %s | %s | %s | %s |\n", r.what, r.ours, r.unit, r.beside, peer, ratio, r.target, met)
	}
}

// compare adds a row whose target is a ratio.
func (b *bench) compare(what, beside string, ours, theirs []float64, unit string, most float64) {
	o, t := median(ours), median(theirs)
	b.rows = append(b.rows, row{what, beside, fmt.Sprintf("≤ %.2f", most), o, t, unit, o / t, o/t <= most})
}

func median(l []float64) float64 {
	l = slices.Clone(l)
	slices.Sort(l)
	if len(l) == 0 {
		return 0
	}
	return l[len(l)/2]
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// text is a string of C.
func text(c []int8) string {
	var b []byte
	for _, v := range c {
		if v == 0 {
			break
		}
		b = append(b, byte(v))
	}
	return string(b)
}
