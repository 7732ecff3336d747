package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"slipway/engine/local/wire"
	"slipway/logs/segment"
)

var (
	race   bool   // so is the child, then
	binary string // of the child
	runc   string // this test program under another name
)

func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "fakerunc" {
		os.Exit(fakeRunc(os.Args[1:]))
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "child")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	binary = filepath.Join(dir, "child")
	args := []string{"build", "-trimpath", "-ldflags", "-s -w", "-o", binary}
	env := append(os.Environ(), "CGO_ENABLED=0")
	if race {
		args, env = append(args, "-race"), append(os.Environ(), "CGO_ENABLED=1")
	}
	cmd := exec.Command("go", append(args, ".")...)
	cmd.Env = env
	if out, err := cmd.CombinedOutput(); err != nil {
		panic(fmt.Sprintf("%v: %s", err, out))
	}
	self, err := os.Executable()
	if err != nil {
		panic(err)
	}
	runc = filepath.Join(dir, "fakerunc")
	if err := os.Symlink(self, runc); err != nil {
		panic(err)
	}
	return m.Run()
}

// fakeRunc does for "run --detach" and "delete" what runc does, but that the
// container is the shell script "cmd" of the bundle, without namespaces. Other
// files of the bundle: "fail" has the error of a start, "cgroups" the
// directories to go into, "pidns" asks for a pid namespace.
func fakeRunc(args []string) int {
	opt := map[string]string{}
	var words []string
	for i := 0; i < len(args); i++ {
		switch a := args[i]; a {
		case "--root", "--log", "--log-format", "--pid-file", "--bundle", "--console-socket":
			opt[a], i = args[i+1], i+1
		case "--detach", "--no-new-keyring", "--force":
		default:
			words = append(words, a)
		}
	}
	fail := func(err error) int {
		j, _ := json.Marshal(map[string]string{"level": "error", "msg": err.Error()})
		_ = os.WriteFile(opt["--log"], append([]byte(`{"level":"info","msg":"x"}`+"\n"), append(j, '\n')...), 0o600)
		return 1
	}
	state := filepath.Join(opt["--root"], words[1])
	if words[0] == "delete" {
		_ = os.RemoveAll(state)
		return 0
	}
	b := opt["--bundle"]
	if msg, err := os.ReadFile(filepath.Join(b, "fail")); err == nil {
		return fail(errors.New(string(msg)))
	}
	if err := os.MkdirAll(state, 0o700); err != nil {
		return fail(err)
	}
	cg, _ := os.ReadFile(filepath.Join(b, "cgroups"))
	for d := range strings.FieldsSeq(string(cg)) {
		if err := os.WriteFile(filepath.Join(d, "cgroup.procs"), []byte(strconv.Itoa(os.Getpid())), 0); err != nil {
			return fail(err)
		}
	}
	cmd := exec.Command("/bin/sh", filepath.Join(b, "cmd"))
	cmd.Dir = b
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if _, err := os.Stat(filepath.Join(b, "pidns")); err == nil {
		cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWPID
	}
	if p := opt["--console-socket"]; p != "" {
		tty, err := console(p)
		if err != nil {
			return fail(err)
		}
		cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
		cmd.SysProcAttr.Setctty = true
	}
	if err := cmd.Start(); err != nil {
		return fail(err)
	}
	if err := os.WriteFile(opt["--pid-file"], []byte(strconv.Itoa(cmd.Process.Pid)), 0o600); err != nil {
		return fail(err)
	}
	return 0
}

// console makes a terminal and sends its other end.
func console(path string) (*os.File, error) {
	ptmx, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	fd := int(ptmx.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		return nil, err
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		return nil, err
	}
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	defer c.Close()
	if _, _, err := c.WriteMsgUnix([]byte("/dev/ptmx"), unix.UnixRights(fd), nil); err != nil {
		return nil, err
	}
	return os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|unix.O_NOCTTY, 0)
}

// world is one container with its directories and one connection to its child.
type world struct {
	t      *testing.T
	dir    string
	cfg    wire.Config
	pid    int // of the child
	gone   chan struct{}
	stderr string
	*link
}

// link is one connection.
type link struct {
	t    *testing.T
	conn net.Conn
	mu   sync.Mutex
	n    int
	open map[int]chan wire.Reply
}

func newLink(t *testing.T, c net.Conn) *link {
	l := &link{t: t, conn: c, open: map[int]chan wire.Reply{}}
	go func() {
		dec := json.NewDecoder(c)
		for {
			var r wire.Reply
			if dec.Decode(&r) != nil {
				break
			}
			l.mu.Lock()
			if ch := l.open[r.N]; ch != nil {
				ch <- r
			}
			l.mu.Unlock()
		}
		l.mu.Lock()
		for _, ch := range l.open {
			close(ch)
		}
		l.open = nil
		l.mu.Unlock()
	}()
	return l
}

func (l *link) send(q wire.Request) chan wire.Reply {
	l.mu.Lock()
	defer l.mu.Unlock()
	ch := make(chan wire.Reply, 2)
	if l.open == nil {
		close(ch)
		return ch
	}
	l.n++
	q.N = l.n
	l.open[q.N] = ch
	j, _ := json.Marshal(q)
	_, _ = l.conn.Write(append(j, '\n'))
	return ch
}

// ask sends a request and gives the answer; N is -1 when the child left.
func (l *link) ask(q wire.Request) wire.Reply {
	l.t.Helper()
	select {
	case r, ok := <-l.send(q):
		if !ok {
			return wire.Reply{N: -1}
		}
		return r
	case <-time.After(30 * time.Second):
		l.t.Fatalf("no answer to %q", q.Op)
		panic("unreachable")
	}
}

func (l *link) must(q wire.Request) wire.Reply {
	l.t.Helper()
	r := l.ask(q)
	if r.Error != "" || r.N == -1 {
		l.t.Fatalf("%s: %+v", q.Op, r)
	}
	return r
}

func hello() wire.Request { return wire.Request{Op: wire.OpHello, V: wire.Version} }

// newWorld makes the directories of a container that runs the script.
func newWorld(t *testing.T, script string) *world {
	t.Helper()
	dir, err := os.MkdirTemp("", "w") // short: a socket is in it
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, dir: dir}
	w.cfg = wire.Config{
		ID: "c1", Dir: w.path("data"), Run: w.path("run"), Bundle: w.path("b"), Runc: runc, Root: w.path("root"),
		Log: w.path("log"), Grace: 5000,
	}
	for _, d := range []string{w.cfg.Dir, w.cfg.Run, w.cfg.Bundle, w.cfg.Root} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	w.file("b/cmd", script)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return w
}

func (w *world) path(name string) string { return filepath.Join(w.dir, name) }

func (w *world) file(name, text string) {
	w.t.Helper()
	if err := os.WriteFile(w.path(name), []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

// spawn starts a child as the server does.
func (w *world) spawn() *world {
	w.t.Helper()
	p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		w.t.Fatal(err)
	}
	ours, theirs := os.NewFile(uintptr(p[0]), "ours"), os.NewFile(uintptr(p[1]), "theirs")
	defer ours.Close()
	defer theirs.Close()
	errs, err := os.CreateTemp(w.dir, "err")
	if err != nil {
		w.t.Fatal(err)
	}
	defer errs.Close()
	cmd := exec.Command(binary)
	cmd.Args = wire.Args("test", w.cfg.Dir)
	cmd.Env = []string{"GORACE=halt_on_error=1"}
	cmd.Stderr = errs
	cmd.ExtraFiles = []*os.File{theirs}
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	conn, err := net.FileConn(ours)
	if err != nil {
		w.t.Fatal(err)
	}
	n := &world{t: w.t, dir: w.dir, cfg: w.cfg, pid: cmd.Process.Pid, gone: make(chan struct{}), stderr: errs.Name(), link: newLink(w.t, conn)}
	go func() { _ = cmd.Wait(); close(n.gone) }()
	w.t.Cleanup(func() {
		_ = conn.Close()
		_ = syscall.Kill(n.pid, syscall.SIGKILL)
		<-n.gone
		if b, _ := os.ReadFile(n.stderr); strings.Contains(string(b), "DATA RACE") || strings.Contains(string(b), "panic") {
			w.t.Errorf("stderr of the child: %s", b)
		}
	})
	return n
}

// start starts the container too.
func (w *world) start() *world {
	w.t.Helper()
	n := w.spawn()
	n.must(hello())
	n.must(wire.Request{Op: wire.OpStart, Config: &n.cfg})
	return n
}

// dial connects as a later server does.
func (w *world) dial() *link {
	w.t.Helper()
	c, err := net.Dial("unix", filepath.Join(w.cfg.Run, wire.SocketFile))
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = c.Close() })
	l := newLink(w.t, c)
	l.must(hello())
	return l
}

func (w *world) wait() *wire.Exit {
	w.t.Helper()
	r := w.must(wire.Request{Op: wire.OpWait})
	if r.Exit == nil || r.Phase != wire.Exited {
		w.t.Fatalf("wait: %+v", r)
	}
	return r.Exit
}

func (w *world) record() *wire.Exit {
	b, err := os.ReadFile(filepath.Join(w.cfg.Dir, wire.ExitFile))
	if err != nil {
		return nil
	}
	x := &wire.Exit{}
	if err := json.Unmarshal(b, x); err != nil {
		w.t.Fatal(err)
	}
	return x
}

// delete ends the child and says whether it is gone.
func (w *world) delete() {
	w.t.Helper()
	w.must(wire.Request{Op: wire.OpDelete})
	w.left()
}

func (w *world) left() {
	w.t.Helper()
	select {
	case <-w.gone:
	case <-time.After(20 * time.Second):
		w.t.Fatal("the child is still there")
	}
}

// lines gives the whole lines of the log, as "o text".
func (w *world) lines() []string {
	w.t.Helper()
	list, err := segment.List(w.cfg.Log)
	if err != nil {
		w.t.Fatal(err)
	}
	var out []string
	part := map[byte]string{}
	for _, s := range list {
		b, err := os.ReadFile(filepath.Join(w.cfg.Log, segment.Name(s.K)))
		if err != nil {
			w.t.Fatal(err)
		}
		first := true
		for l := range strings.SplitSeq(strings.TrimSuffix(string(b), "\n"), "\n") {
			f, ok := segment.Parse([]byte(l))
			if !ok {
				w.t.Fatalf("bad frame %q", l)
			}
			if !first {
				part[f.Stream] += string(f.Bytes)
				if !f.Partial {
					out = append(out, string(f.Stream)+" "+part[f.Stream])
					part[f.Stream] = ""
				}
			}
			first = false
		}
	}
	return out
}

// cgroup makes one for the container in every hierarchy that is used.
func (w *world) cgroup() {
	w.t.Helper()
	w.cfg.Cgroup = fmt.Sprintf("/slipway-child-%d-%s", os.Getpid(), filepath.Base(w.dir))
	g := cgroup{root: "/sys/fs/cgroup", path: w.cfg.Cgroup}
	var dirs []string
	if g.v2() {
		dirs = []string{filepath.Join(g.root, g.path)}
	} else {
		for _, h := range []string{"pids", "freezer", "memory", "unified"} {
			if d := filepath.Join(g.root, h); exists(filepath.Join(d, "cgroup.procs")) {
				dirs = append(dirs, filepath.Join(d, g.path))
			}
		}
	}
	for _, d := range dirs {
		if err := os.Mkdir(d, 0o755); err != nil {
			w.t.Fatal(err)
		}
	}
	w.t.Cleanup(func() { g.kill(); g.remove() })
	w.file("b/cgroups", strings.Join(dirs, "\n"))
}

func exists(p string) bool {
	_, err := os.Lstat(p)
	return err == nil
}

// small mounts a file system of so many bytes at a directory of the world.
func (w *world) small(name string, size int) {
	w.t.Helper()
	p := w.path(name)
	_ = os.Mkdir(p, 0o700)
	if err := unix.Mount("tmpfs", p, "tmpfs", 0, fmt.Sprintf("size=%d", size)); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = unix.Unmount(p, unix.MNT_DETACH) })
}

// fill takes all space of a directory.
func (w *world) fill(name string) string {
	w.t.Helper()
	p := filepath.Join(w.path(name), "filler")
	f, err := os.Create(p)
	if err != nil {
		w.t.Fatal(err)
	}
	defer f.Close()
	for {
		if _, err := f.Write(make([]byte, 4096)); err != nil {
			return p
		}
	}
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("never: " + what)
		}
	}
}

// alive says whether a process is there and not only its status.
func alive(pid int) bool {
	f, err := os.Open(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	defer f.Close()
	b, _ := io.ReadAll(f)
	_, rest, _ := strings.Cut(string(b), ") ")
	return rest != "" && rest[0] != 'Z' && rest[0] != 'X'
}

// pidFile waits for a number that the container writes to a file of its bundle.
func (w *world) pidFile(name string) int {
	w.t.Helper()
	pid := 0
	until(w.t, name, func() bool {
		b, _ := os.ReadFile(w.path("b/" + name))
		if !strings.HasSuffix(string(b), "\n") {
			return false
		}
		pid, _ = strconv.Atoi(strings.TrimSpace(string(b)))
		return pid > 0
	})
	return pid
}
