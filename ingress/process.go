package ingress

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"slipway/crash"
)

// Router takes a whole table, every time.
type Router interface {
	Set(ctx context.Context, t Table) error
}

// Config is how the process is started.
type Config struct {
	Program string // path of this program, started as "slipway ingress ..."
	DataDir string // its own: last table, private CA, lock
	RunDir  string // of its socket; short
	HTTP    string // listen address, "" is off
	HTTPS   string
	Log     string // its log file; "" is ingress.log in DataDir
	// TrustedProxies may say in X-Forwarded headers whom they speak for.
	TrustedProxies []netip.Prefix
	// Drain is how long a replaced process lets requests and WebSockets finish;
	// 0 is 10 minutes.
	Drain time.Duration

	build string   // identity of Program, "" is found out
	extra []string // more arguments, for tests
}

// Process starts the ingress process, or takes over the one that runs, and
// keeps it running. It is the Router of the local engine.
type Process struct {
	cfg    Config
	log    *slog.Logger
	ctx    context.Context
	cancel context.CancelCauseFunc
	done   chan struct{}

	setting sync.Mutex // one Set at a time

	mu       sync.Mutex
	last     *Table
	now      response // of the process that serves
	children []int    // to be reaped
	closed   bool
}

// Bounds of waiting for the process.
const (
	startTimeout  = 10 * time.Second
	answerTimeout = 5 * time.Second
	reviveFirst   = 50 * time.Millisecond
	reviveMax     = time.Second
	pollEvery     = 20 * time.Millisecond
)

// Start gives a Process when its listeners are open. One that runs is taken
// over if it is of the same program and listens where it should, else followed
// by a new one without a gap. A port that is taken is an error that names the
// port.
func Start(ctx context.Context, cfg Config) (*Process, error) {
	var err error
	for _, p := range []*string{&cfg.Program, &cfg.DataDir, &cfg.RunDir} {
		if *p, err = filepath.Abs(*p); err != nil {
			return nil, err
		}
	}
	if cfg.Log == "" {
		cfg.Log = filepath.Join(cfg.DataDir, "ingress.log")
	}
	if err := errors.Join(os.MkdirAll(filepath.Dir(cfg.Log), 0o700), os.MkdirAll(cfg.RunDir, 0o700)); err != nil {
		return nil, fmt.Errorf("ingress: %w", err)
	}
	if n := len(socketPath(cfg.RunDir)) + len(".4194304"); n > 107 {
		return nil, fmt.Errorf("ingress: the run dir %s is too long a path for a socket", cfg.RunDir)
	}
	if cfg.build == "" {
		cfg.build = buildID(cfg.Program)
	}
	p := &Process{cfg: cfg, log: slog.Default().With("room", "ingress"), done: make(chan struct{})}
	p.ctx, p.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	ctx, cancel := context.WithTimeoutCause(ctx, 2*startTimeout, errors.New("the ingress process did not start in time"))
	defer cancel()
	if err := p.ensure(ctx); err != nil {
		p.cancel(nil)
		return nil, err
	}
	go p.supervise()
	return p, nil
}

var errClosed = errors.New("the ingress is closed")

// ensure makes a process of our build serve.
func (p *Process) ensure(ctx context.Context) error {
	r, err := p.hello(ctx)
	switch {
	case err != nil:
		err = p.spawn(ctx, false)
	case r.V == protocol && r.Build == p.cfg.build && r.Want == [2]string{p.cfg.HTTP, p.cfg.HTTPS}:
		p.log.Info("taken over", "pid", r.PID)
	default:
		p.log.Info("replacing the process", "pid", r.PID, "build", r.Build)
		err = p.spawn(ctx, true)
	}
	if errors.Is(err, errLocked) { // it is just starting, or just ending
		err = p.afterLocked(ctx)
	}
	if err != nil {
		return err
	}
	if r, err = p.hello(ctx); err != nil {
		return fmt.Errorf("ingress process: %w", err)
	}
	p.mu.Lock()
	p.now = r
	p.mu.Unlock()
	return nil
}

// afterLocked waits until the other process answers or is gone. One that hangs
// serves nobody, and is ended.
func (p *Process) afterLocked(ctx context.Context) error {
	t := time.NewTicker(5 * pollEvery)
	defer t.Stop()
	for {
		if r, err := p.hello(ctx); err == nil {
			return nil
		} else if errors.Is(err, errSilent) {
			p.log.Warn("the ingress process does not answer and is killed", "pid", r.PID, "err", kill(r.PID))
		}
		if err := p.spawn(ctx, false); !errors.Is(err, errLocked) {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w, and does not answer: %w", errLocked, context.Cause(ctx))
		case <-t.C:
		}
	}
}

func (p *Process) hello(ctx context.Context) (response, error) {
	return askSoon(ctx, p.cfg.RunDir, request{Op: "hello"})
}

var errSilent = errors.New("the ingress process does not answer")

// askSoon is ask of what is answered at once, else it is errSilent, and the
// response has the PID of the process that was asked.
func askSoon(ctx context.Context, runDir string, q request) (response, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, answerTimeout, errSilent)
	defer cancel()
	c, err := dialControl(ctx, runDir)
	if err != nil {
		return response{}, err
	}
	defer c.close()
	r, err := c.call(ctx, q)
	if err != nil && r.PID == 0 {
		var perr error
		if r.PID, perr = c.peer(); perr != nil {
			return r, fmt.Errorf("%w; and it is not known which process it is: %w", err, perr)
		}
	}
	return r, err
}

// supervise starts the process again when it dies.
func (p *Process) supervise() {
	defer close(p.done)
	pause := reviveFirst
	for {
		p.watch()
		p.reap()
		if p.ctx.Err() != nil {
			return
		}
		begun := time.Now()
		if err := p.revive(); err != nil && p.ctx.Err() == nil {
			p.log.Error("the ingress process is down", "error", err)
		} else if err == nil {
			pause = reviveFirst
			continue
		}
		select {
		case <-p.ctx.Done():
			return
		case <-time.After(max(0, pause-time.Since(begun))):
		}
		pause = min(2*pause, reviveMax)
	}
}

// watch returns when the process is gone, or we are.
func (p *Process) watch() {
	c, err := dialControl(p.ctx, p.cfg.RunDir)
	if err != nil {
		return
	}
	defer c.close()
	if _, err := c.call(p.ctx, request{Op: "hello"}); err != nil {
		return
	}
	stop := context.AfterFunc(p.ctx, c.close)
	defer stop()
	_, _ = c.in.ReadByte()
}

// revive starts the process again, with the last table.
func (p *Process) revive() error {
	ctx, cancel := context.WithTimeoutCause(p.ctx, startTimeout, errors.New("the ingress process did not start in time"))
	defer cancel()
	p.mu.Lock()
	pid := p.now.PID
	p.mu.Unlock()
	r, err := p.hello(ctx)
	if err != nil {
		p.log.Warn("the ingress process is gone, starting it again", "pid", pid)
		if err = p.spawn(ctx, false); errors.Is(err, errLocked) {
			err = p.afterLocked(ctx)
		}
		if err != nil {
			return err
		}
		if r, err = p.hello(ctx); err != nil {
			return err
		}
	}
	p.mu.Lock()
	p.now = r
	p.mu.Unlock()
	// it has read the last table from disk; this is for a disk that was full
	p.setting.Lock()
	defer p.setting.Unlock()
	if t := p.lastTable(); t != nil {
		_, err = ask(ctx, p.cfg.RunDir, request{Op: "set", Table: t})
	}
	return err
}

// reap takes the zombies of our own starts.
func (p *Process) reap() {
	p.mu.Lock()
	defer p.mu.Unlock()
	var left []int
	for _, pid := range p.children {
		if got, err := unix.Wait4(pid, nil, unix.WNOHANG, nil); err == nil && got == 0 {
			left = append(left, pid)
		}
	}
	p.children = left
}

func (p *Process) lastTable() *Table {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.last
}

// Set gives it a table; it is served when Set returns. While the process is
// being started again Set waits for it.
func (p *Process) Set(ctx context.Context, t Table) error {
	p.setting.Lock()
	defer p.setting.Unlock()
	p.mu.Lock()
	p.last = &t
	closed := p.closed
	p.mu.Unlock()
	if closed {
		return errClosed
	}
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		r, err := ask(ctx, p.cfg.RunDir, request{Op: "set", Table: &t})
		if err == nil {
			crash.At("ingress: table set")
			return nil
		}
		if r.Error != "" && r.Error != "this process is being replaced" || ctx.Err() != nil {
			return fmt.Errorf("ingress table: %w", err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("ingress table: %w", context.Cause(ctx))
		case <-p.ctx.Done():
			return errClosed
		case <-tick.C:
		}
	}
}

// Addrs are the addresses of the listeners.
func (p *Process) Addrs() (http, https string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.now.HTTP, p.now.HTTPS
}

// PID is that of the process that serves.
func (p *Process) PID() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.now.PID
}

// CA is the file of the certificate that clients have to trust for the
// hostnames of this data dir.
func (p *Process) CA() string { return filepath.Join(p.cfg.DataDir, caCertFile) }

// Metrics asks the process for what it has counted.
func (p *Process) Metrics(ctx context.Context) (Metrics, error) {
	r, err := ask(ctx, p.cfg.RunDir, request{Op: "metrics"})
	if err != nil {
		return Metrics{}, fmt.Errorf("ingress metrics: %w", err)
	}
	if r.Metrics == nil {
		return Metrics{}, errors.New("ingress metrics: none in the answer")
	}
	return *r.Metrics, nil
}

// Collector shows the metrics of the process to Prometheus.
func (p *Process) Collector() prometheus.Collector {
	return newCollector(func() (Metrics, error) {
		ctx, cancel := context.WithTimeout(p.ctx, 2*time.Second)
		defer cancel()
		return p.Metrics(ctx)
	})
}

// Close lets the process run; Stop ends it.
func (p *Process) Close() error {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.cancel(errClosed)
	<-p.done
	return nil
}

// Stop ends the process and those it followed that still drain.
func (p *Process) Stop(ctx context.Context) error {
	_ = p.Close()
	if err := StopRunning(ctx, p.cfg); err != nil {
		return err
	}
	t := time.NewTicker(pollEvery)
	defer t.Stop()
	for {
		p.reap()
		p.mu.Lock()
		n := len(p.children)
		p.mu.Unlock()
		if n == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("stop the ingress process: %w", context.Cause(ctx))
		case <-t.C:
		}
	}
}

// StopRunning ends the ingress process of a run dir, if one runs, and waits
// until it is gone.
func StopRunning(ctx context.Context, cfg Config) error {
	r, err := askSoon(ctx, cfg.RunDir, request{Op: "stop"})
	switch {
	case errors.Is(err, errSilent):
		err = kill(r.PID)
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ECONNREFUSED):
		return nil // nobody listens there
	case errors.Is(err, io.EOF), errors.Is(err, unix.ECONNRESET), errors.Is(err, unix.EPIPE):
		// It was about to end by itself; or somebody else listens there.
		var stop context.CancelFunc
		ctx, stop = context.WithTimeoutCause(ctx, answerTimeout, err)
		defer stop()
		err = nil
	}
	if err != nil {
		return fmt.Errorf("stop the ingress process: %w", cause(ctx, err))
	}
	t := time.NewTicker(pollEvery)
	defer t.Stop()
	for !gone(r.PID) {
		select {
		case <-ctx.Done():
			return fmt.Errorf("stop the ingress process %d: %w", r.PID, context.Cause(ctx))
		case <-t.C:
		}
	}
	return nil
}

// kill kills a process that does not answer. One that went meanwhile is no
// error.
func kill(pid int) error {
	if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill %d: %w", pid, err)
	}
	return nil
}

// gone tells whether a process has ended; one that waits to be reaped has.
func gone(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return true
	}
	_, rest, ok := strings.Cut(string(b), ") ")
	return ok && strings.HasPrefix(rest, "Z")
}
