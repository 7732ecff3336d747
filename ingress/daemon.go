package ingress

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Exit codes of the process.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
	exitLocked = 3 // another ingress process of this data dir runs
)

// quiet is how long a draining process waits for clients to come back on open
// connections, to tell them to close; stopGrace how long a stopped one lets
// requests finish.
const (
	quiet     = 3 * time.Second
	stopGrace = time.Second
)

type options struct {
	dataDir, runDir, http, https, log string
	wantHTTP, wantHTTPS               string
	build                             string
	successor                         bool
	readyFD                           int
	drain                             time.Duration
	trusted                           []netip.Prefix
	resolv                            string
}

func parseOptions(args []string) (o options, err error) {
	f := flag.NewFlagSet("ingress", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.StringVar(&o.dataDir, "data-dir", "", "data dir")
	f.StringVar(&o.runDir, "run-dir", "", "directory of the control socket")
	f.StringVar(&o.http, "http", "", "HTTP listen address")
	f.StringVar(&o.https, "https", "", "HTTPS listen address")
	f.StringVar(&o.wantHTTP, "want-http", "", "HTTP listen address as configured")
	f.StringVar(&o.wantHTTPS, "want-https", "", "HTTPS listen address as configured")
	f.StringVar(&o.log, "log", "", "log file")
	f.StringVar(&o.build, "build", "", "identity of the program")
	f.BoolVar(&o.successor, "successor", false, "take the sockets of the process that runs")
	f.IntVar(&o.readyFD, "ready-fd", -1, "descriptor that is told when the process serves")
	f.DurationVar(&o.drain, "drain", 10*time.Minute, "how long a replaced process lets requests finish")
	f.StringVar(&o.resolv, "resolv-conf", resolvFile, "where the resolvers of this host are listed")
	f.Func("trusted-proxies", "prefixes whose X-Forwarded headers are believed", func(s string) error {
		for p := range strings.SplitSeq(s, ",") {
			pre, err := netip.ParsePrefix(p)
			if err != nil {
				return err
			}
			o.trusted = append(o.trusted, pre.Masked())
		}
		return nil
	})
	if err = f.Parse(args); err != nil {
		return o, err
	}
	if o.dataDir == "" || o.runDir == "" {
		return o, errors.New("--data-dir and --run-dir are needed")
	}
	if o.wantHTTP == "" && o.wantHTTPS == "" {
		o.wantHTTP, o.wantHTTPS = o.http, o.https
	}
	if o.log == "" {
		o.log = filepath.Join(o.dataDir, "ingress.log")
	}
	return o, nil
}

// Main is the ingress process itself; args are those after "ingress". It gives
// the exit code.
func Main(args []string) int {
	o, err := parseOptions(args)
	if err != nil {
		fmt.Fprintln(os.Stderr, "slipway ingress:", err)
		return exitUsage
	}
	d, err := startDaemon(o)
	if err != nil {
		report(o.readyFD, err)
		fmt.Fprintln(os.Stderr, "slipway ingress:", err)
		if errors.Is(err, errLocked) {
			return exitLocked
		}
		return exitFailed
	}
	report(o.readyFD, nil)
	d.wait()
	return exitOK
}

var errLocked = errors.New("another ingress process of this data dir runs")

// started is the line on the ready descriptor.
type started struct {
	OK    bool   `json:"ok"`
	Error string `json:"error,omitempty"`
}

func report(fd int, err error) {
	if fd < 0 {
		return
	}
	f := os.NewFile(uintptr(fd), "ready")
	s := started{OK: err == nil}
	if err != nil {
		s.Error = err.Error()
	}
	_ = json.NewEncoder(f).Encode(s)
	_ = f.Close()
}

// daemon is a running ingress process.
type daemon struct {
	o       options
	log     *slog.Logger
	logFile *logFile
	proxy   *proxy
	dns     *resolver
	lock    *os.File
	pred    *control // of the process before this one, while it drains

	listeners map[string]*net.TCPListener // by sockHTTP, sockHTTPS
	servers   map[string]*http.Server
	conns     atomic.Int64
	control   *net.UnixListener
	serving   sync.WaitGroup

	setting sync.Mutex
	state   atomic.Int32
	end     chan string // "drain" or "stop"
	left    chan struct{}
}

const (
	stateServing = iota
	stateDraining
	stateStopping
)

func startDaemon(o options) (_ *daemon, err error) {
	d := &daemon{
		o: o, listeners: map[string]*net.TCPListener{}, servers: map[string]*http.Server{},
		end: make(chan string, 8), left: make(chan struct{}),
	}
	if err := errors.Join(os.MkdirAll(o.dataDir, 0o700), os.MkdirAll(o.runDir, 0o700)); err != nil {
		return nil, err
	}
	if d.logFile, err = openLog(o.log); err != nil {
		return nil, err
	}
	d.log = slog.New(slog.NewJSONHandler(d.logFile, nil)).With("room", "ingress", "pid", os.Getpid())
	defer func() {
		if err != nil {
			d.logFile.close()
		}
	}()
	// what serve's own value is: this process is to die after it, never before
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte("0"), 0); err != nil {
		d.log.Warn("oom_score_adj is not set", "error", err)
	}
	given, want, err := d.inherit()
	if err != nil {
		return nil, err
	}
	defer closeFiles(given)
	if err := d.open(given, want); err != nil {
		return nil, err
	}
	return d, d.begin(given)
}

// inherit takes the lock of the data dir: from the process that runs, with its
// sockets, or from nobody.
func (d *daemon) inherit() (given map[string]*os.File, want [2]string, err error) {
	if d.o.successor {
		ctx, cancel := context.WithTimeoutCause(context.Background(), 10*time.Second, errors.New("the process to be followed does not answer"))
		defer cancel()
		c, err := dialControl(ctx, d.o.runDir)
		if err != nil {
			return nil, want, fmt.Errorf("handover: %w", err)
		}
		_ = c.conn.SetDeadline(time.Now().Add(10 * time.Second))
		r, err := c.call(ctx, request{Op: "handover"})
		if err == nil {
			// the answer was one line and nothing of the frames is read yet:
			// they are sent only after this
			err = writeLine(c.conn, request{V: protocol, Op: "send"})
		}
		if err == nil {
			given, err = receiveSockets(c.conn)
		}
		if err == nil {
			err = readLine(c.in, &response{}) // of "send"
		}
		if err != nil {
			c.close()
			return nil, want, fmt.Errorf("handover: %w", err)
		}
		_ = c.conn.SetDeadline(time.Time{})
		d.pred, d.lock = c, given[sockLock]
		delete(given, sockLock)
		return given, r.Want, nil
	}
	f, err := os.OpenFile(filepath.Join(d.o.dataDir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, want, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, want, errLocked
	}
	d.lock = f
	return nil, want, nil
}

// open makes everything that can fail, before anything is served.
func (d *daemon) open(given map[string]*os.File, want [2]string) (err error) {
	defer func() {
		if err != nil {
			for _, l := range d.listeners {
				_ = l.Close()
			}
		}
	}()
	for i, s := range []struct{ name, addr, want string }{
		{sockHTTP, d.o.http, d.o.wantHTTP}, {sockHTTPS, d.o.https, d.o.wantHTTPS},
	} {
		if s.addr == "" {
			continue
		}
		if f := given[s.name]; f != nil && want[i] == s.want {
			if l, err := net.FileListener(f); err == nil {
				d.listeners[s.name], _ = l.(*net.TCPListener)
				continue
			}
		}
		l, err := net.Listen("tcp", s.addr)
		if err != nil {
			return listenError(s.name, s.addr, err)
		}
		d.listeners[s.name] = l.(*net.TCPListener)
	}
	d.proxy = newProxy(d.log, d.log, d.o.trusted)
	var tc *tls.Config
	if d.listeners[sockHTTPS] != nil {
		known := func(host string) bool { _, _, ok := d.proxy.table.Load().Find(host); return ok }
		ca, err := openAuthority(d.o.dataDir, time.Now, known)
		if err != nil {
			return err
		}
		tc = &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: ca.get}
	}
	for name := range d.listeners {
		cfg := tc
		if name == sockHTTP {
			cfg = nil
		}
		s := d.proxy.server(cfg)
		s.ConnState = d.connState
		d.servers[name] = s
	}
	return nil
}

func listenError(name, addr string, err error) error {
	_, port, _ := net.SplitHostPort(addr)
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("ingress: port %s (--ingress-%s %s) is taken by another program: end that one or choose another port", port, name, addr)
	}
	return fmt.Errorf("ingress: --ingress-%s %s: %w", name, addr, err)
}

// begin serves: first the last table, then the sockets, then the control
// socket takes the place of the predecessor's, which is told at last.
func (d *daemon) begin(given map[string]*os.File) error {
	d.dns = newResolver(d.log, d.o.resolv)
	if t := d.loadTable(); t != nil {
		d.proxy.set(t)
		d.setZones(t, given)
	}
	for name, l := range d.listeners {
		srv := d.servers[name]
		d.serving.Go(func() {
			var err error
			if srv.TLSConfig != nil {
				err = srv.ServeTLS(l, "", "")
			} else {
				err = srv.Serve(l)
			}
			if d.state.Load() == stateServing {
				d.log.Error("listener ended", "name", name, "error", err)
				d.ask("stop") // a new process is started
			}
		})
	}
	var err error
	if d.control, err = listenControl(d.o.runDir); err != nil {
		return err
	}
	d.serving.Go(d.acceptControl)
	if d.pred != nil {
		ctx, cancel := context.WithTimeoutCause(context.Background(), 5*time.Second, errors.New("the process to be followed does not answer"))
		defer cancel()
		if _, err := d.pred.call(ctx, request{Op: "took"}); err != nil {
			d.log.Warn("the predecessor is gone", "error", err)
		}
	}
	d.log.Info("serving", "build", d.o.build, "http", d.addr(sockHTTP), "https", d.addr(sockHTTPS), "successor", d.o.successor)
	return nil
}

func (d *daemon) connState(_ net.Conn, s http.ConnState) {
	switch s {
	case http.StateNew:
		d.conns.Add(1)
	case http.StateClosed, http.StateHijacked:
		d.conns.Add(-1)
	}
}

func (d *daemon) addr(name string) string {
	if l := d.listeners[name]; l != nil {
		return l.Addr().String()
	}
	return ""
}

// ask asks the process to end in a way.
func (d *daemon) ask(how string) {
	select {
	case d.end <- how:
	default:
	}
}

// wait is the rest of the process's life.
func (d *daemon) wait() {
	sig := make(chan os.Signal, 4)
	signal.Notify(sig, syscall.SIGTERM, syscall.SIGINT)
	signal.Ignore(syscall.SIGHUP, syscall.SIGPIPE)
	defer signal.Stop(sig)
	var how string
	select {
	case how = <-d.end:
	case <-sig:
		how = "stop"
	}
	if how == "drain" {
		d.state.Store(stateDraining)
		d.drain(sig)
	}
	d.stop()
}

// drain stops to accept and lets what is under way finish.
func (d *daemon) drain(sig <-chan os.Signal) {
	d.log.Info("draining", "active", d.proxy.active.Load())
	d.proxy.draining.Store(true)
	for _, l := range d.listeners {
		_ = l.Close()
	}
	_ = d.control.Close()
	_ = d.lock.Close() // the successor holds it too
	ctx, cancel := context.WithTimeoutCause(context.Background(), d.o.drain, errors.New("the time to drain is over"))
	defer cancel()
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { d.dns.close(ctx) })
	t := time.NewTicker(20 * time.Millisecond)
	defer t.Stop()
	begun, shut := time.Now(), false
	for d.conns.Load() > 0 || d.proxy.active.Load() > 0 {
		if !shut && time.Since(begun) > quiet {
			shut = true
			for _, s := range d.servers {
				wg.Go(func() { _ = s.Shutdown(ctx) })
			}
		}
		select {
		case <-t.C:
			continue
		case <-ctx.Done():
			d.log.Warn("requests are cut off", "active", d.proxy.active.Load(), "why", context.Cause(ctx))
		case how := <-d.end:
			if how != "stop" {
				continue
			}
		case <-sig:
		}
		cancel()
		return
	}
}

// stop ends everything.
func (d *daemon) stop() {
	drained := d.state.Swap(stateStopping) == stateDraining
	if d.pred != nil { // its own drain is over too
		_ = d.pred.conn.SetDeadline(time.Now().Add(2 * stopGrace))
		if writeLine(d.pred.conn, request{V: protocol, Op: "stop"}) == nil {
			_, _ = io.Copy(io.Discard, d.pred.in) // until it is gone
		}
		d.pred.close()
	}
	ctx, cancel := context.WithTimeout(context.Background(), stopGrace)
	defer cancel()
	var wg sync.WaitGroup
	for _, s := range d.servers {
		wg.Go(func() {
			if s.Shutdown(ctx) != nil {
				_ = s.Close()
			}
		})
	}
	if !drained {
		_ = d.control.Close()
		_ = os.Remove(socketPath(d.o.runDir))
		wg.Go(func() { d.dns.close(ctx) })
	}
	wg.Wait()
	d.log.Info("ended")
	d.logFile.close()
}

func (d *daemon) setZones(t *Table, given map[string]*os.File) {
	if err := d.dns.set(t.Zones, given); err != nil {
		d.log.Warn("a zone has no listener yet, trying again", "error", err)
	}
}
