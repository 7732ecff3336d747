package local

import (
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"slipway/engine"
	"slipway/engine/local/wire"
)

// Kinds of containers.
const (
	kindRun      = "run"
	kindInstance = "instance"
)

const (
	// hung is how long after the grace a child may take to end its container.
	hung = 10 * time.Second
	// startTime is how long a container that has all it needs may take to run.
	startTime = time.Minute
	// askTime bounds the wait for an answer that comes at once, or after a clean
	// up.
	askTime = 40 * time.Second
)

var errLost = errors.New("its monitor was killed")

// record is start.json: what a later server has to know of a container. It has
// no secrets.
type record struct {
	Name   string        `json:"name"` // of the container, for runc and in paths
	Kind   string        `json:"kind"`
	ID     string        `json:"id"` // of the run or instance
	Owner  engine.Owner  `json:"owner"`
	Boot   string        `json:"boot"`
	At     time.Time     `json:"at"`
	Bundle string        `json:"bundle"`
	Layer  string        `json:"layer"` // what it writes to its file system
	View   string        `json:"view"`  // the image below that
	Cgroup string        `json:"cgroup"`
	Mounts []string      `json:"mounts"` // to be unmounted after the end, in this order
	Log    string        `json:"log"`
	Grace  time.Duration `json:"grace"`

	Slot    int    `json:"slot,omitempty"`    // its namespace is that of the pool
	Network string `json:"network,omitempty"` // or one of its own in this network,
	Last    int    `json:"last,omitempty"`    // with this last octet
	Netns   string `json:"netns,omitempty"`

	Image    string             `json:"image"` // digest
	Platform string             `json:"platform,omitempty"`
	Export   *engine.VolumePath `json:"export,omitempty"` // of a run
	Output   bool               `json:"output,omitempty"` // of a run: there is a file for it, see takeOutput

	// Of an instance; Env, Files and the like are nowhere on the disk.
	Service string `json:"service,omitempty"`
	Hash    string `json:"hash,omitempty"`
	Host    string `json:"host,omitempty"`
}

// monitors starts containers under child processes and finds those of earlier
// servers again. Every container has one.
type monitors struct {
	e       *Engine
	mu      sync.Mutex
	by      map[string]*monitor // by name
	readers sync.WaitGroup
	patient time.Duration // startTime, but in tests
}

// monitor is the server's end of one child, or what is known of a container
// whose child is gone.
type monitor struct {
	record
	m       *monitors
	foreign int           // version of the child's protocol if it is not ours
	done    chan struct{} // closed when exit is set
	exit    *wire.Exit
	settled chan struct{} // of an instance: closed when it has been cleaned up after

	mu      sync.Mutex
	child   int // its pid
	pid     int // of the container
	started time.Time
	asked   bool // to end
	conn    net.Conn
	seq     int
	open    map[int]chan wire.Reply // requests without an answer; nil without a connection
}

func (m *monitors) dir(name string) string { return m.e.path("runs", name) }
func (m *monitors) run(name string) string { return filepath.Join(m.e.run, "m", name) }

// get gives the monitor of a name, nil if there is none.
func (m *monitors) get(name string) *monitor {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.by[name]
}

// all gives every monitor of a kind; "" is any.
func (m *monitors) all(kind string) (l []*monitor) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, mon := range m.by {
		if kind == "" || mon.Kind == kind {
			l = append(l, mon)
		}
	}
	return l
}

// hangUp lets all children alone.
func (m *monitors) hangUp() {
	for _, mon := range m.all("") {
		mon.hangUp()
	}
}

// close is hangUp when none is started any more.
func (m *monitors) close() {
	m.hangUp()
	m.readers.Wait()
}

func (m *monitors) monitor(rec record) *monitor {
	return &monitor{record: rec, m: m, done: make(chan struct{}), settled: make(chan struct{})}
}

// write writes start.json. It is not synced: of a host that lost power it is
// only read that the container was lost.
func (m *monitors) write(rec record) error {
	b, err := json.Marshal(rec)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(m.dir(rec.Name), 0o700); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(m.dir(rec.Name), wire.StartFile), b, 0o600)
}

// writeExit writes the exit record of a container that has no child to do it.
func (m *monitors) writeExit(rec record, x *wire.Exit) error {
	b, err := json.Marshal(x)
	if err != nil {
		return err
	}
	return replaceFile(filepath.Join(m.dir(rec.Name), wire.ExitFile), b)
}

// reap takes the status of a child that is about to end. One that an earlier
// server started is not ours to wait for.
func reap(pid int) {
	var ws unix.WaitStatus
	for {
		if _, err := unix.Wait4(pid, &ws, 0, nil); err != unix.EINTR {
			return
		}
	}
}

// attach begins to read from the child, says hello and gives its answer.
func (mon *monitor) attach(c net.Conn, version int) <-chan wire.Reply {
	mon.mu.Lock()
	mon.conn, mon.open = c, map[int]chan wire.Reply{}
	if mon.m.e.closing.Load() { // hangUp may have been before
		_ = c.Close()
	}
	mon.mu.Unlock()
	mon.m.readers.Go(func() { mon.read(c) })
	return mon.send(wire.Request{Op: wire.OpHello, V: version})
}

// read takes the answers until the connection ends.
func (mon *monitor) read(c net.Conn) {
	dec := json.NewDecoder(c)
	for {
		var r wire.Reply
		if err := dec.Decode(&r); err != nil {
			break
		}
		mon.mu.Lock()
		ch := mon.open[r.N]
		delete(mon.open, r.N)
		mon.mu.Unlock()
		if ch != nil {
			ch <- r
		}
	}
	_ = c.Close()
	mon.mu.Lock()
	pid := mon.child
	if mon.conn == c { // and not yet another
		for _, ch := range mon.open {
			close(ch)
		}
		mon.open = nil
	}
	mon.mu.Unlock()
	if pid > 0 && !mon.m.e.closing.Load() {
		go reap(pid)
	}
}

// running says whether its container runs.
func (mon *monitor) running() bool {
	mon.mu.Lock()
	defer mon.mu.Unlock()
	return mon.pid > 0
}

func (mon *monitor) hangUp() {
	mon.mu.Lock()
	defer mon.mu.Unlock()
	if mon.conn != nil {
		_ = mon.conn.Close()
	}
}

// send sends one request. The channel gives the answer, or is closed when the
// child is gone.
func (mon *monitor) send(q wire.Request) <-chan wire.Reply {
	ch := make(chan wire.Reply, 1)
	mon.mu.Lock()
	defer mon.mu.Unlock()
	if mon.open == nil {
		close(ch)
		return ch
	}
	mon.seq++
	q.N = mon.seq
	b, err := json.Marshal(q)
	if err == nil {
		_ = mon.conn.SetWriteDeadline(time.Now().Add(askTime)) // a child that hangs does not read
		_, err = mon.conn.Write(append(b, '\n'))
	}
	if err != nil {
		_ = mon.conn.Close() // it may have got half of it
		close(ch)
		return ch
	}
	mon.open[q.N] = ch
	return ch
}

// ask sends a request and waits for the answer.
func (mon *monitor) ask(q wire.Request) (wire.Reply, error) {
	t := time.NewTimer(askTime)
	defer t.Stop()
	select {
	case r, ok := <-mon.send(q):
		if !ok {
			return r, errLost
		}
		if r.Error != "" {
			return r, errors.New(r.Error)
		}
		return r, nil
	case <-t.C:
		return wire.Reply{}, errors.New("the monitor does not answer")
	}
}

// wait waits in the background for the exit. A child that goes without a
// record was killed; then the container is ended too.
func (mon *monitor) wait() {
	ch := mon.send(wire.Request{Op: wire.OpWait})
	mon.m.readers.Go(func() {
		r, ok := <-ch
		x := r.Exit
		if !ok || x == nil {
			if x = readExit(mon.m.dir(mon.Name)); x == nil {
				if mon.m.e.closing.Load() {
					return // the server goes; the container stays
				}
				x = mon.m.lost(mon.record, engine.ReasonLost)
			}
		}
		mon.ended(x)
	})
}

func (mon *monitor) ended(x *wire.Exit) {
	mon.exit = x
	close(mon.done)
}

// kill asks for an end; after the grace the cgroup is killed. The child does
// it, also when the server goes meanwhile.
func (mon *monitor) kill(grace time.Duration, why engine.Reason) {
	mon.killMillis(millis(grace), why)
}

// killMillis is kill with a grace as the child takes it: below 0 is the one it
// was started with.
func (mon *monitor) killMillis(ms int64, why engine.Reason) {
	mon.mu.Lock()
	mon.asked = true
	mon.mu.Unlock()
	grace := time.Duration(ms) * time.Millisecond
	if ms < 0 {
		grace = mon.Grace
	}
	t := time.AfterFunc(grace+hung, func() { // a child that does not do it is itself at fault
		mon.mu.Lock()
		pid := mon.child
		mon.mu.Unlock()
		select {
		case <-mon.done:
		default:
			if !mon.m.e.closing.Load() {
				mon.m.e.log.Error("a monitor did not end its container and is killed", "id", mon.ID)
				killChild(pid)
			}
		}
	})
	go func() {
		select {
		case <-mon.done:
		case <-mon.m.e.closed:
		}
		t.Stop()
	}()
	_, _ = mon.ask(wire.Request{Op: wire.OpKill, Grace: ms, Reason: string(why)})
}

// dismiss lets the child of an ended container go, when it has cleaned up; if
// there is none, that is done here. The record stays.
func (mon *monitor) dismiss() error {
	_, err := mon.ask(wire.Request{Op: wire.OpDelete})
	if mon.m.e.closing.Load() {
		return errClosed // the next server does it
	}
	if err != nil {
		if !errors.Is(err, errLost) {
			mon.m.e.log.Warn("a monitor does not go and is killed", "id", mon.ID, "err", err)
			killChild(mon.child)
		}
		err = mon.m.e.clear(mon.record)
	}
	mon.hangUp()
	return errors.Join(err, os.RemoveAll(mon.m.run(mon.Name)))
}

// forget drops the record of a container whose child is gone.
func (m *monitors) forget(name string) {
	m.mu.Lock()
	delete(m.by, name)
	m.mu.Unlock()
	if err := os.RemoveAll(m.dir(name)); err != nil {
		m.e.log.Error("a record could not be removed", "name", name, "err", err)
	}
}

func readExit(dir string) *wire.Exit {
	b, err := os.ReadFile(filepath.Join(dir, wire.ExitFile))
	x := &wire.Exit{}
	if err != nil || json.Unmarshal(b, x) != nil {
		return nil
	}
	return x
}
