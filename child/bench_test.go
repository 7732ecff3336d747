package main

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"slipway/engine/local/wire"
)

// memory is what a process has for itself alone, in KiB.
func memory(pid int) float64 {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	for l := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(l, "RssAnon:"); ok {
			n, _ := strconv.Atoi(strings.Fields(rest)[0])
			return float64(n)
		}
	}
	return 0
}

// cpu is what a process has used.
func cpu(pid int) time.Duration {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, rest, _ := strings.Cut(string(b), ") ")
	f := strings.Fields(rest)
	u, _ := strconv.Atoi(f[11])
	s, _ := strconv.Atoi(f[12])
	return time.Duration(u+s) * 10 * time.Millisecond
}

// BenchmarkLines is 1,000,000 lines of 100 bytes with 20 secrets to be masked,
// from the start to the exit record.
func BenchmarkLines(b *testing.B) {
	t := &testing.T{}
	for b.Loop() {
		b.StopTimer()
		w := newWorld(t, "exec cat text")
		line := "2026/11/21 10:12:13 INFO request served path=/api/v1/items status=200 bytes=5321 took=3.4ms id=abcd\n"
		w.file("b/text", string(bytes.Repeat([]byte(line), 1_000_000)))
		for i := range 20 {
			w.cfg.Mask = append(w.cfg.Mask, fmt.Appendf(nil, "s3cr3t-%02d-%x", i, uint64(i)*0x9e3779b97f4a7c15))
		}
		b.StartTimer()
		w = w.start()
		x := w.wait()
		b.StopTimer()
		if x.Lines != 1_000_000 || x.Lost > 0 {
			b.Fatalf("%+v", x)
		}
		b.ReportMetric(float64(cpu(w.pid).Milliseconds()), "ms-cpu")
		w.delete()
		_ = os.RemoveAll(w.dir)
		b.StartTimer()
	}
}

// BenchmarkIdle is a short container, and the memory of its child while it runs.
func BenchmarkIdle(b *testing.B) {
	t := &testing.T{}
	var sum float64
	for b.Loop() {
		w := newWorld(t, "echo started; exec sleep 1000").start()
		b.StopTimer()
		time.Sleep(1500 * time.Millisecond) // it gives back what the start took after a second
		sum += memory(w.pid)
		b.StartTimer()
		w.must(wire.Request{Op: wire.OpKill})
		w.wait()
		w.delete()
		_ = os.RemoveAll(w.dir)
	}
	b.ReportMetric(sum/float64(b.N), "KiB")
}
