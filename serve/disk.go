package serve

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"slipway/engine/local"
)

const (
	// reserveFile is room on the disk that nothing is in. It is given up when the
	// disk is full, so that the store can still be written: what runs can be
	// ended, and what takes the room can be deleted.
	reserveFile = "reserve"
	reserveSize = 32 << 20
	// leastFree is what a start needs, and what is left to a server that goes on.
	leastFree = 16 << 20
	// mostFloor is where what runs is ended at the latest, on the largest disk.
	mostFloor = 512 << 20
	// endTime is how long what runs may take to end before the reserve is given
	// up all the same; it is more than the grace of an action.
	endTime = 15 * time.Second
)

// space is the room of a disk at one moment, in bytes.
type space struct {
	total int64
	free  int64 // beside the reserve, whether that is there or not
}

// reserve is how much is kept back of such a disk.
func (s space) reserve() int64 { return min(reserveSize, s.total/8) }

// floor is the room below which the disk is full, and what runs is ended: half
// of that below which nothing new is taken, within bounds.
func (s space) floor(percent int) int64 {
	return min(max(s.total/200*int64(percent), leastFree), mostFloor)
}

// room is errdefs.ErrResourceExhausted if nothing new may be taken.
func (s space) room(dir string, percent int) error {
	if s.total > 0 && s.free < s.total/100*int64(percent) {
		return fmt.Errorf("less than %d %% of the disk of %s is free; what runs goes on, but nothing new is taken until there is room: %w", percent, dir, errdefs.ErrResourceExhausted)
	}
	return s.full(percent)
}

// full is errdefs.ErrResourceExhausted if what is under way may not go on either.
func (s space) full(percent int) error {
	if floor := s.floor(percent); s.total > 0 && s.free < floor {
		return fmt.Errorf("the disk is full: less than %d MiB are free: %w", floor>>20, errdefs.ErrResourceExhausted)
	}
	return nil
}

// disk is the disk of the data directory.
type disk struct {
	dir     string
	percent int // --free-min
	log     *slog.Logger
	kept    atomic.Bool // the reserve is there
	cannot  bool        // this file system knows no reserve
	// low is signalled when nothing new is taken any more, and each minute from
	// then on: what is only of some use is dropped before anything is ended.
	low chan struct{}
}

// openDisk finds or makes the reserve.
func openDisk(dir string, percent int, log *slog.Logger) *disk {
	d := &disk{dir: dir, percent: percent, log: log, low: make(chan struct{}, 1)}
	if s, err := d.look(); err == nil {
		st, err := os.Stat(d.file())
		d.kept.Store(err == nil && st.Size() == s.reserve())
		d.keep()
	}
	return d
}

func (d *disk) file() string { return filepath.Join(d.dir, reserveFile) }

func (d *disk) look() (space, error) {
	total, free, err := blocks(d.dir)
	s := space{total, free}
	if err == nil && !d.kept.Load() {
		s.free -= s.reserve()
	}
	return s, err
}

// room tells whether new work may be taken: nil, or why not.
func (d *disk) room() error {
	s, err := d.look()
	if err != nil {
		return err
	}
	return s.room(d.dir, d.percent)
}

// full tells whether what is under way may go on: nil, or why not.
func (d *disk) full() error {
	s, err := d.look()
	if err != nil {
		return err
	}
	return s.full(d.percent)
}

// spell is a time for which the disk has been full; the zero one is none.
type spell struct {
	since time.Time
	free  int64 // at the last look
}

// watch looks at the disk each second. end ends what runs for a reason and says
// how much that was.
func (d *disk) watch(ctx context.Context, end func(error) int) error {
	t := time.NewTicker(time.Second)
	defer t.Stop()
	var sp spell
	var told time.Time
	for {
		now := time.Now()
		told = d.tell(told, now)
		sp = d.tend(sp, now, end)
		select {
		case <-t.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// tell signals that the disk is low, if that was not told just before, and gives
// when it was told.
func (d *disk) tell(told, now time.Time) time.Time {
	switch {
	case d.room() == nil:
		return time.Time{}
	case now.Sub(told) < time.Minute:
		return told
	}
	select {
	case d.low <- struct{}{}:
	default:
	}
	return now
}

// tend is one look in a spell, and gives what is known of it then. The reserve
// is given up when what runs has ended and the room has not become less since
// the last look: whatever still takes room would take that too.
func (d *disk) tend(sp spell, now time.Time, end func(error) int) spell {
	s, err := d.look()
	if err != nil {
		return sp // not known
	}
	why := s.full(d.percent)
	if why == nil {
		d.keep()
		return spell{}
	}
	running := end(why)
	if sp.since.IsZero() {
		d.log.Error("what runs is ended", "why", why, "actions", running)
		return spell{now, s.free}
	}
	if d.kept.Load() && s.free >= sp.free && (running == 0 || now.Sub(sp.since) > endTime) {
		d.drop()
	}
	return spell{sp.since, s.free}
}

// keep makes the reserve if there is room for it.
func (d *disk) keep() {
	s, err := d.look()
	if err != nil || d.kept.Load() || d.cannot || s.free < 2*s.floor(d.percent) {
		return
	}
	f, err := os.OpenFile(d.file(), os.O_CREATE|os.O_WRONLY, 0o600)
	if err == nil {
		err = errors.Join(unix.Fallocate(int(f.Fd()), 0, 0, s.reserve()), f.Truncate(s.reserve()), f.Close())
	}
	if err != nil {
		d.cannot = errors.Is(err, unix.ENOTSUP)
		d.log.Warn("no room is kept back for a full disk", "err", err)
		_ = os.Remove(d.file())
		return
	}
	d.kept.Store(true)
}

func (d *disk) drop() {
	if err := os.Remove(d.file()); err != nil {
		d.log.Error("the room kept back for a full disk cannot be given up", "err", err)
		return
	}
	d.kept.Store(false)
	d.log.Warn("the room kept back for a full disk was given up; delete what takes the room, so that work is taken again")
}

// makeRoom has a start on a full disk drop what is of no use any more, and the
// reserve if that is not enough. Nobody else uses the directory.
func makeRoom(dir string) error {
	for _, drop := range []func() error{
		func() error { return local.Shed(filepath.Join(dir, "engine")) },
		func() error {
			if err := os.Remove(filepath.Join(dir, reserveFile)); !errors.Is(err, os.ErrNotExist) {
				return err
			}
			return nil
		},
	} {
		total, free, err := blocks(dir)
		if err != nil || total == 0 || free >= leastFree {
			return err
		}
		if err := drop(); err != nil {
			return fmt.Errorf("make room: %w", err)
		}
	}
	return nil
}

// blocks is the size of a disk and what is free of it.
func blocks(dir string) (total, free int64, err error) {
	var st unix.Statfs_t
	err = unix.Statfs(dir, &st)
	return int64(st.Blocks) * st.Bsize, int64(st.Bavail) * st.Bsize, err
}
