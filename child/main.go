package main

import (
	"errors"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"slipway/engine/local/wire"
	"slipway/logs/segment"
)

const (
	drainTime     = 2 * time.Second // for output after the end of the first process
	defaultGrace  = 10 * time.Second
	defaultLinger = 10 * time.Minute
	retryTime     = time.Second // of an exit record that cannot be written
)

type child struct {
	cfg   wire.Config
	cg    cgroup
	reap  *reaper
	log   *segment.Writer
	mask  *segment.Masker
	lock  *os.File
	l     *net.UnixListener
	pumps sync.WaitGroup
	ended chan struct{} // closed when the container has ended and its record was tried to be written
	saved chan struct{} // closed when the record is on disk, or nobody wants it any more
	no    chan struct{} // closed when the start was refused
	host  chan struct{} // closed when the host goes down
	clean chan struct{} // closed when runc's state, the cgroup and the mounts are gone too

	mu      sync.Mutex
	phase   string
	pid     int
	started time.Time
	over    bool // nothing is started any more
	reaped  bool // the first process is gone; exit follows
	exit    *wire.Exit
	reason  string
	conns   int
	idle    time.Time  // since then no server is connected
	outs    []*os.File // what the pumps read
	tty     *os.File
}

func main() {
	if len(os.Args) == 2 && os.Args[1] == "version" {
		_, _ = os.Stdout.WriteString("protocol " + strconv.Itoa(wire.Version) + "\n")
		return
	}
	debug.SetGCPercent(25)
	runtime.GOMAXPROCS(2)
	_, _ = unix.Setsid()
	name := []byte("slipway-child\x00")
	_ = unix.Prctl(unix.PR_SET_NAME, uintptr(unsafe.Pointer(&name[0])), 0, 0, 0)
	// The container's first process has runc as its parent, which ends at once.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		fatal(err)
	}
	_ = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0) // there may be secrets in the memory
	sig := make(chan os.Signal, 4)
	// Caught and not ignored: what is ignored stays so in the container.
	signal.Notify(sig, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGPIPE)
	_ = unix.CloseRange(wire.Descriptor, 1<<20, unix.CLOSE_RANGE_CLOEXEC) // nothing of ours goes into the container
	f := os.NewFile(wire.Descriptor, "server")
	conn, err := net.FileConn(f)
	if err != nil {
		fatal(errors.New("this program is started by the server only: " + err.Error()))
	}
	_ = f.Close()
	c := &child{
		phase: wire.New, reap: newReaper(), no: make(chan struct{}), host: make(chan struct{}),
		ended: make(chan struct{}), saved: make(chan struct{}), clean: make(chan struct{}),
	}
	go c.signals(sig)
	gone := make(chan struct{})
	go func() { c.serve(conn); close(gone) }()
	select {
	case <-gone:
		if c.never() { // the server went away without a word
			return
		}
	case <-c.ended:
	}
	select {
	case <-c.ended:
		c.linger()
	case <-c.no:
	}
}

// signals waits for the one that means that the host goes down.
func (c *child) signals(sig <-chan os.Signal) {
	down := false
	for s := range sig {
		if s != syscall.SIGTERM || down {
			continue
		}
		if c.never() {
			os.Exit(0)
		}
		down = true
		close(c.host)
		c.kill(-1, wire.ReasonHost)
	}
}

// never says that nothing was started, and that nothing will be.
func (c *child) never() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.phase == wire.New {
		c.over = true
	}
	return c.over
}

func fatal(err error) {
	complain(err.Error())
	os.Exit(1)
}

// complain writes to the file that the server looks into when a child is gone.
func complain(msg string) { _, _ = os.Stderr.WriteString("child: " + msg + "\n") }

// linger waits for "delete", or leaves when no server comes for a long time:
// the record is on disk. When the host goes down it leaves at once.
func (c *child) linger() {
	wait := defaultLinger
	if c.cfg.Linger > 0 {
		wait = time.Duration(c.cfg.Linger) * time.Millisecond
	}
	<-c.clean
	<-c.saved
	for {
		c.mu.Lock()
		left := wait - time.Since(c.idle)
		if c.conns > 0 {
			left = wait
		}
		c.mu.Unlock()
		if left <= 0 {
			c.leave()
		}
		select {
		case <-time.After(left):
		case <-c.host:
			time.Sleep(100 * time.Millisecond) // for the answers on their way
			c.leave()
		}
	}
}

func (c *child) leave() {
	_ = os.Remove(c.run(wire.SocketFile))
	os.Exit(0)
}

func (c *child) run(name string) string { return filepath.Join(c.cfg.Run, name) }
