package main

import (
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"slipway/engine/local/wire"
)

func TestLogOnFullDisk(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "yes 'a line of the container' | head -n 200000; echo $? > ended; while ! test -e go; do sleep 0.01; done; echo last")
	w.small("log", 4<<20)
	filler := w.path("log/filler") // more than what a pipe and its pump hold
	if err := os.WriteFile(filler, make([]byte, 3<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	w = w.start()
	w.pidFileOrZero("ended")
	_ = os.Remove(filler) // somebody makes room
	w.file("b/go", "")
	x := w.wait()
	if x.Code != 0 || x.Lost < 1<<20 {
		t.Errorf("%+v", x)
	}
	lines := w.lines()
	noted := slices.ContainsFunc(lines, func(l string) bool {
		return strings.HasPrefix(l, "m ") && strings.HasSuffix(l, " bytes of output could not be written: no space left on device")
	})
	if n := len(lines); n < 2 || lines[n-1] != "o last" || !noted {
		t.Errorf("%d lines, the last ones %q", n, lines[max(0, n-3):])
	}
	w.delete()
}

func (w *world) pidFileOrZero(name string) {
	w.t.Helper()
	until(w.t, name, func() bool {
		b, _ := os.ReadFile(w.path("b/" + name))
		return strings.HasSuffix(string(b), "\n")
	})
}

func TestRecordOnFullDisk(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "read x < fifo; exit 6")
	w.cfg.Linger = 10
	if err := unix.Mkfifo(w.path("b/fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	w.small("data", 64<<10)
	w = w.start()
	filler := w.fill("data")
	w.file("b/fifo", "\n")
	if x := w.wait(); x.Code != 6 { // known all the same
		t.Errorf("%+v", x)
	}
	if w.record() != nil {
		t.Fatal("the disk is not full")
	}
	l := w.dial()
	if x := l.must(wire.Request{Op: wire.OpState}).Exit; x == nil || x.Code != 6 {
		t.Errorf("%+v", x)
	}
	_, _ = w.conn.Close(), l.conn.Close()
	_ = os.Remove(filler)
	w.left() // it waited with that for the record, though nobody was connected
	if x := w.record(); x == nil || x.Code != 6 {
		t.Errorf("%+v", x)
	}
}

func TestRecordNobodyWants(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "read x < fifo; exit 6")
	if err := unix.Mkfifo(w.path("b/fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	w.cfg.Linger = 10
	w = w.start()
	if err := os.Remove(w.cfg.Dir); err != nil {
		t.Fatal(err)
	}
	w.file("b/fifo", "\n")
	w.wait()
	_ = w.conn.Close()
	w.left()
}

func TestMask(t *testing.T) {
	t.Parallel()
	w := newWorld(t, `printf 'a tr0ub4'; sleep 0.1; echo 'dor-hunter b'; echo dHIwdWI0ZG9yLWh1bnRlcg== c >&2; echo tr0ub4 alone`)
	w.cfg.Mask = [][]byte{[]byte("tr0ub4dor-hunter")}
	w = w.start()
	w.wait()
	got := strings.Join(w.lines(), "|")
	for _, l := range []string{"o a *** b", "e ***== c", "o tr0ub4 alone"} {
		if !strings.Contains(got, l) {
			t.Errorf("no %q in %q", l, got)
		}
	}
	w.delete()
}
