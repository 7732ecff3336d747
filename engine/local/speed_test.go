package local

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"slipway/engine"
)

func median(l []time.Duration) time.Duration {
	slices.Sort(l)
	return l[len(l)/2]
}

// BenchmarkRun compares a run with a bare "runc run" of the same image and
// program, one after the other in turn.
func BenchmarkRun(b *testing.B) {
	e := open(b)
	v, err := e.view(b.Context(), e.base, "")
	if err != nil {
		b.Fatal(err)
	}
	bundle := b.TempDir()
	c := &container{rec: record{Name: "bare", Bundle: bundle, Cgroup: e.workCgroup() + "/bare"}, command: []string{"/bin/true"}, image: v.image.Config, host: "bare"}
	c.rec.Layer = filepath.Join(bundle, "layer")
	for _, d := range []string{c.rootfs(), c.rec.Layer + "/u", c.rec.Layer + "/w"} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			b.Fatal(err)
		}
	}
	if err := v.overlay(c.rec.Layer, c.rootfs()); err != nil {
		b.Fatal(err)
	}
	defer exec.Command("umount", "-l", c.rootfs()).Run()
	if err := e.build(c); err != nil {
		b.Fatal(err)
	}
	var ours, none, bare []time.Duration
	for i := range b.N {
		for _, network := range []string{"", "none"} {
			id, s := e.sh("")
			s.Command, s.Network = []string{"/bin/true"}, network
			t0 := time.Now()
			if x, err := e.Run(b.Context(), id, s); err != nil || x.Code != 0 {
				b.Fatal(x, err)
			}
			if network == "" {
				ours = append(ours, time.Since(t0))
			} else {
				none = append(none, time.Since(t0))
			}
			if err := e.Forget(b.Context(), id); err != nil {
				b.Fatal(err)
			}
		}
		t0 := time.Now()
		if out, err := exec.Command(e.runc, "--root", filepath.Join(bundle, "root"), "run", "--bundle", bundle, fmt.Sprint("bare", i)).CombinedOutput(); err != nil {
			b.Fatalf("%v %s", err, out)
		}
		bare = append(bare, time.Since(t0))
	}
	b.ReportMetric(float64(median(ours).Microseconds())/1000, "ms/run")
	b.ReportMetric(float64(median(none).Microseconds())/1000, "ms/nonet")
	b.ReportMetric(float64(median(bare).Microseconds())/1000, "ms/runc")
}

// BenchmarkService is the start, the stop and the removal of a service.
func BenchmarkService(b *testing.B) {
	e := open(b)
	var start, stop, remove []time.Duration
	for range b.N {
		t0 := time.Now()
		i := e.serve("p", "exec sleep 1000")
		start = append(start, time.Since(t0))
		t0 = time.Now()
		e.apply("stack/p", engine.Change{Stop: &engine.StopSpec{ID: i.ID}})
		stop = append(stop, time.Since(t0))
		t0 = time.Now()
		e.apply("stack/p", engine.Change{Remove: i.ID})
		remove = append(remove, time.Since(t0))
	}
	b.ReportMetric(float64(median(start).Microseconds())/1000, "ms/start")
	b.ReportMetric(float64(median(stop).Microseconds())/1000, "ms/stop")
	b.ReportMetric(float64(median(remove).Microseconds())/1000, "ms/remove")
}

// BenchmarkOpen is the start of the engine on a directory that is there.
func BenchmarkOpen(b *testing.B) {
	e := open(b)
	var all []time.Duration
	for range b.N {
		if err := e.Close(); err != nil {
			b.Fatal(err)
		}
		t0 := time.Now()
		e.reopen()
		all = append(all, time.Since(t0))
	}
	b.ReportMetric(float64(median(all).Microseconds())/1000, "ms/open")
}

// BenchmarkSpec is the making of a bundle's config.json.
func BenchmarkSpec(b *testing.B) {
	e := &Engine{cgroups: openCgroups("/sys/fs/cgroup")}
	if err := e.openSpec(); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		s, err := e.baseSpec("x")
		if err != nil {
			b.Fatal(err)
		}
		if _, err := json.Marshal(s); err != nil {
			b.Fatal(err)
		}
	}
}
