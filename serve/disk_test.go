package serve

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

func TestSpace(t *testing.T) {
	t.Parallel()
	const mib, gib = 1 << 20, 1 << 30
	for _, c := range []struct {
		s              space
		percent        int
		floor, reserve int64
		room, full     bool
	}{
		{space{100 * gib, 6 * gib}, 5, 512 * mib, 32 * mib, true, false},
		{space{100 * gib, 4 * gib}, 5, 512 * mib, 32 * mib, false, false},
		{space{100 * gib, 500 * mib}, 5, 512 * mib, 32 * mib, false, true},
		{space{10 * gib, 300 * mib}, 5, 256 * mib, 32 * mib, false, false},
		{space{200 * mib, 15 * mib}, 5, 16 * mib, 25 * mib, false, true},
		{space{200 * mib, 17 * mib}, 5, 16 * mib, 25 * mib, true, false},
		{space{200 * mib, -20 * mib}, 0, 16 * mib, 25 * mib, false, true},
		{space{100 * gib, 1 * gib}, 0, 16 * mib, 32 * mib, true, false},
		{space{}, 5, 16 * mib, 0, true, false}, // a file system that says nothing
	} {
		room, full := c.s.room("/d", c.percent), c.s.full(c.percent)
		floor := c.s.floor(c.percent)
		if d := floor - c.floor; d < -mib || d > mib || c.s.reserve() != c.reserve || (room == nil) != c.room || (full != nil) != c.full {
			t.Errorf("%+v, %d %%: floor %d, reserve %d, room %v, full %v", c.s, c.percent, floor, c.s.reserve(), room, full)
		}
		for _, err := range []error{room, full} {
			if err != nil && !errdefs.IsResourceExhausted(err) {
				t.Error(err)
			}
		}
	}
}

// small mounts a file system of 128 MiB.
func small(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=128m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// fill leaves no room at all.
func fill(t *testing.T, dir string) (file string) {
	t.Helper()
	f, err := os.Create(filepath.Join(dir, "filler"))
	for err == nil {
		_, err = f.Write(make([]byte, 1<<20))
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
	_ = f.Close()
	return f.Name()
}

// TestReserve fills a disk and makes room on it again.
func TestReserve(t *testing.T) {
	t.Parallel()
	dir := small(t)
	d := openDisk(dir, 5, slog.New(slog.DiscardHandler))
	reserve := func() int64 {
		var st unix.Stat_t
		if err := unix.Stat(filepath.Join(dir, reserveFile), &st); err != nil {
			return 0
		}
		return st.Blocks * 512
	}
	if got := reserve(); got != 16<<20 || d.room() != nil {
		t.Fatalf("the reserve takes %d bytes; %v", got, d.room())
	}
	running := 2
	var why error
	end := func(err error) int { why = err; return running }
	now := time.Now()
	sp := d.tend(spell{}, now, end)
	if !sp.since.IsZero() || why != nil {
		t.Errorf("with room: %v, %v", sp, why)
	}
	filler := fill(t, dir)
	if err := os.Truncate(filler, 104<<20); err != nil { // a little is left
		t.Fatal(err)
	}
	sp = d.tend(sp, now, end)
	if sp.since != now || why == nil || !strings.Contains(why.Error(), "the disk is full: less than 16 MiB are free") {
		t.Errorf("without room: %v, %v", sp, why)
	}
	if sp = d.tend(sp, now.Add(time.Second), end); reserve() == 0 {
		t.Error("it was given up to what still runs")
	}
	running = 0
	fill(t, dir)
	if sp = d.tend(sp, now.Add(2*time.Second), end); reserve() == 0 {
		t.Error("it was given up to what still took room")
	}
	sp = d.tend(sp, now.Add(3*time.Second), end)
	if _, free, err := blocks(dir); reserve() != 0 || free < 15<<20 || err != nil {
		t.Errorf("it was not given up: %d bytes are free, %v", free, err)
	}
	// What became free with it is for nothing new.
	if err := d.room(); !errdefs.IsResourceExhausted(err) {
		t.Errorf("new work is taken: %v", err)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	if sp = d.tend(sp, now.Add(4*time.Second), end); !sp.since.IsZero() || reserve() == 0 || d.room() != nil {
		t.Errorf("after room was made: %v, %d, %v", sp, reserve(), d.room())
	}
	// A later server finds it; what does not end holds it up for a while only.
	d = openDisk(dir, 5, slog.New(slog.DiscardHandler))
	fill(t, dir)
	running = 1
	sp = d.tend(d.tend(spell{}, now, end), now.Add(endTime), end)
	if reserve() == 0 {
		t.Error("given up too early")
	}
	if d.tend(sp, now.Add(endTime+time.Second), end); reserve() != 0 {
		t.Error("not given up")
	}
}

// TestMakeRoom begins on a full disk: what is of no use goes first, the reserve
// only if it has to.
func TestMakeRoom(t *testing.T) {
	t.Parallel()
	dir := small(t)
	openDisk(dir, 5, slog.New(slog.DiscardHandler))
	ingest, gone := filepath.Join(dir, "engine/core/content/ingest/abc"), filepath.Join(dir, "engine/volumes/.gone-x/data")
	for d, size := range map[string]int{ingest: 20 << 20, gone: 1 << 20} {
		if err := errors.Join(os.MkdirAll(d, 0o700), os.WriteFile(filepath.Join(d, "data"), make([]byte, size), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	there := func(path string) bool { _, err := os.Stat(path); return err == nil }
	if err := makeRoom(dir); err != nil || !there(ingest) || !there(gone) {
		t.Errorf("with room: %v", err)
	}
	filler := fill(t, dir)
	if err := makeRoom(dir); err != nil || there(ingest) || there(gone) || !there(filepath.Join(dir, reserveFile)) {
		t.Errorf("without room: %v", err)
	}
	_ = os.Remove(filler)
	fill(t, dir)
	l, err := takeLock(dir)
	if err != nil || there(filepath.Join(dir, reserveFile)) {
		t.Fatalf("with nothing but the reserve: %v", err)
	}
	defer l.Close()
	if err := writable(dir); err != nil && !strings.Contains(err.Error(), "make room") { // 16 MiB, less the lock's page
		t.Error(err)
	}
}
