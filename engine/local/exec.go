package local

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"slipway/engine"
)

// execDrain is how long output is waited for after the end of the program: a
// process that it left behind may hold the other end.
const execDrain = 2 * time.Second

// execStart is how long a program that is not wanted any more may take to begin.
const execStart = 10 * time.Second

// Exec implements engine.Execer. It works for runs too.
func (e *Engine) Exec(ctx context.Context, id string, spec engine.ExecSpec) (int, error) {
	mon, err := e.running(id)
	if err != nil {
		return 0, wrap("exec in", id, err)
	}
	if len(spec.Command) == 0 {
		return 0, wrap("exec in", id, fmt.Errorf("no command: %w", errdefs.ErrInvalidArgument))
	}
	dir, err := os.MkdirTemp(e.monitors.run(mon.Name), "x") // in memory, as the environment is
	if err != nil {
		return 0, wrap("exec in", id, fmt.Errorf("%w: %w", errNoInstance, errdefs.ErrNotFound))
	}
	defer os.RemoveAll(dir)
	if err := e.execSpec(mon, spec, dir); err != nil {
		return 0, wrap("exec in", id, err)
	}
	x := &execution{e: e, mon: mon, dir: dir, spec: spec}
	code, err := x.run(ctx)
	return code, wrap("exec in", id, err)
}

// execSpec writes process.json: the container's own process with what the spec
// changes.
func (e *Engine) execSpec(mon *monitor, spec engine.ExecSpec, dir string) error {
	var s specs.Spec
	b, err := os.ReadFile(filepath.Join(mon.Bundle, "config.json"))
	if err != nil {
		return fmt.Errorf("%w: %w", errNoInstance, errdefs.ErrNotFound)
	}
	if err := json.Unmarshal(b, &s); err != nil {
		return err
	}
	p := s.Process
	p.Args, p.Terminal = spec.Command, spec.TTY
	if spec.Dir != "" {
		p.Cwd = path.Clean("/" + spec.Dir)
	}
	env := spec.Env
	if spec.User != "" {
		u, err := lookUser(filepath.Join(mon.Bundle, "rootfs"), spec.User)
		if errors.Is(err, errNoUser) {
			return fmt.Errorf("user %q: %w", spec.User, errdefs.ErrInvalidArgument)
		}
		if err != nil {
			return err
		}
		p.User = specs.User{UID: uint32(u.Uid), GID: uint32(u.Gid), AdditionalGids: groups(u)}
		env = append([]string{"HOME=" + u.Home}, env...)
	}
	if spec.TTY {
		env = append([]string{"TERM=xterm"}, env...)
	}
	p.Env = environment(p.Env, env)
	if b, err = json.Marshal(p); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "process.json"), b, 0o600)
}

// execution is one program that runs in a container.
type execution struct {
	e    *Engine
	mon  *monitor
	dir  string
	spec engine.ExecSpec
}

func (x *execution) run(ctx context.Context) (int, error) {
	cmd := exec.Command(x.e.runc, "--root", x.e.runcRoot, "--log", filepath.Join(x.dir, "log"), "--log-format", "json",
		"exec", "--process", filepath.Join(x.dir, "process.json"), "--pid-file", filepath.Join(x.dir, "pid"), x.mon.Name)
	cmd.Env = []string{defaultPath}
	cmd.WaitDelay = execDrain
	var finish func()
	var err error
	if x.spec.TTY {
		finish, err = x.terminal(cmd)
	} else {
		cmd.Stdout, cmd.Stderr = x.spec.Stdout, x.spec.Stderr
		finish, err = x.input(cmd)
	}
	if err != nil {
		return 0, err
	}
	defer finish()
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	gone := make(chan struct{})
	stop := context.AfterFunc(ctx, func() { x.kill(cmd, gone) })
	err = cmd.Wait()
	close(gone)
	stop()
	if ctx.Err() != nil {
		return 0, context.Cause(ctx)
	}
	var exit *exec.ExitError
	switch {
	case err == nil, errors.Is(err, exec.ErrWaitDelay):
		return 0, nil
	case !errors.As(err, &exit):
		return 0, err
	}
	if msg := runcError(filepath.Join(x.dir, "log")); msg != "" {
		if code := startCode(msg); code > 0 {
			if x.spec.Stderr != nil {
				_, _ = io.WriteString(x.spec.Stderr, startMessage(msg)+"\n")
			}
			return code, nil
		}
		return 0, errors.New(startMessage(msg))
	}
	if ws, ok := exit.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return 128 + int(ws.Signal()), nil
	}
	return exit.ExitCode(), nil
}

// kill ends the program, not only runc, which waits for it; gone is closed when
// runc has ended. The program may be running a moment before its pid is written
// down: without runc nobody would know of it any more.
func (x *execution) kill(cmd *exec.Cmd, gone <-chan struct{}) {
	look := time.NewTicker(5 * time.Millisecond)
	defer look.Stop()
	last := time.After(execStart)
	for {
		b, err := os.ReadFile(filepath.Join(x.dir, "pid"))
		if pid, perr := strconv.Atoi(strings.TrimSpace(string(b))); err == nil && perr == nil && pid > 1 {
			_ = unix.Kill(pid, unix.SIGKILL)
			return
		}
		select {
		case <-look.C:
		case <-gone:
			return
		case <-last:
			_ = cmd.Process.Kill()
			return
		}
	}
}

// input feeds the program. It is not waited for: who reads from a connection
// may never come to an end.
func (x *execution) input(cmd *exec.Cmd) (func(), error) {
	if x.spec.Stdin == nil {
		return func() {}, nil
	}
	w, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	go func() {
		_, _ = io.Copy(w, x.spec.Stdin)
		_ = w.Close()
	}()
	return func() { _ = w.Close() }, nil
}

// terminal gives runc a terminal of ours; it makes another in the container and
// passes on what comes and goes, and the size.
func (x *execution) terminal(cmd *exec.Cmd) (func(), error) {
	master, slave, err := openPTY()
	if err != nil {
		return nil, fmt.Errorf("terminal: %w", err)
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	read := make(chan struct{})
	go func() {
		defer close(read)
		if out := x.spec.Stdout; out != nil {
			_, _ = io.Copy(out, master) // ends with EIO when all of the other side is closed
		} else {
			_, _ = io.Copy(io.Discard, master)
		}
	}()
	if x.spec.Stdin != nil {
		go func() { _, _ = io.Copy(master, x.spec.Stdin) }()
	}
	gone := make(chan struct{})
	if x.spec.Resize != nil {
		go func() {
			for {
				select {
				case s, ok := <-x.spec.Resize:
					if !ok {
						return
					}
					resize(master, s)
				case <-gone:
					return
				}
			}
		}()
	}
	return func() {
		_ = slave.Close()
		select {
		case <-read:
		case <-time.After(execDrain):
		}
		close(gone)
		_ = master.Close()
		<-read
	}, nil
}

func resize(f *os.File, size [2]uint16) {
	c, err := f.SyscallConn()
	if err != nil {
		return
	}
	_ = c.Control(func(fd uintptr) {
		_ = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Col: size[0], Row: size[1]})
	})
}

// openPTY makes a pair of terminals.
func openPTY() (master, slave *os.File, err error) {
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, err
	}
	master = os.NewFile(uintptr(fd), "terminal")
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		slave, err = os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err != nil {
		return nil, nil, errors.Join(err, master.Close())
	}
	return master, slave, nil
}

// runcError finds runc's own words in its log; "" if there are none.
func runcError(file string) (msg string) {
	b, _ := os.ReadFile(file)
	for l := range bytes.Lines(b) {
		var e struct{ Level, Msg string }
		if json.Unmarshal(l, &e) == nil && (e.Level == "error" || e.Level == "fatal") {
			msg = e.Msg
		}
	}
	return msg
}
