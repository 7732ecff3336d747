package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"slipway/cli"
)

// binary is the program under test, built once with the race detector, and
// probeProgram what it runs.
var binary, probeProgram string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "slipway-e2e-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		// Without the last a program of the race detector sleeps a second at its end.
		if err := os.Setenv("GORACE", "halt_on_error=1 atexit_sleep_ms=0"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		if binary = os.Getenv("SLIPWAY_BINARY"); binary == "" {
			binary = filepath.Join(dir, "slipway")
			build := exec.Command("go", "build", "-race", "-o", binary, "slipway")
			build.Env = append(os.Environ(), "CGO_ENABLED=1")
			if out, err := build.CombinedOutput(); err != nil {
				fmt.Fprintf(os.Stderr, "build: %v\n%s", err, out)
				return 1
			}
		}
		probeProgram = filepath.Join(dir, "probe")
		build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", probeProgram, "slipway/e2e/probe")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "build the probe: %v\n%s", err, out)
			return 1
		}
		return m.Run()
	}())
}

// server is one data directory with, most of the time, a server on it.
type server struct {
	*cli.Client
	t       *testing.T
	dir     string // of the test; data is below it
	data    string
	listen  string
	ingress string
	tls     string
	environ []string // of the process; nil is ours

	mu   sync.Mutex
	cmd  *exec.Cmd
	gone chan struct{} // closed when cmd has ended
	logs bytes.Buffer
}

// newServer starts a server in a directory of its own. At the end of the test
// everything is stopped, and what is left on the host is an error.
func newServer(t *testing.T, flags ...string) *server {
	t.Helper()
	s := noServer(t)
	s.start(nil, flags...)
	return s
}

// noServer is newServer before the start.
func noServer(t *testing.T) *server {
	t.Helper()
	s := &server{t: t, dir: t.TempDir()}
	s.data = filepath.Join(s.dir, "data")
	s.listen, s.ingress, s.tls = freePort(t), freePort(t), freePort(t)
	s.Client = cli.NewClient("http://"+s.listen, "")
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the server said:\n%s", tail(s.said(), 80))
		}
		s.stopAll()
		b, _ := os.ReadFile(filepath.Join(s.data, "ingress", "ingress.log"))
		for who, text := range map[string]string{"server": s.said(), "ingress process": string(b)} {
			if i := max(strings.Index(text, "DATA RACE"), strings.Index(text, "panic: "), strings.Index(text, "fatal error: ")); i >= 0 {
				t.Errorf("the %s said: %s", who, text[max(0, i-100):min(len(text), i+4000)])
			}
		}
		if left := s.leaks(); len(left) > 0 {
			t.Errorf("left on the host after stop --all:\n%s", strings.Join(left, "\n"))
		}
	})
	return s
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func tail(s string, n int) string {
	l := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(l[max(0, len(l)-n):], "\n")
}

// Write collects what the server says.
func (s *server) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.logs.Write(b)
}

func (s *server) said() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.logs.String()
}

// args are the arguments of the process.
func (s *server) args(level string) []string {
	return []string{"serve", "--data-dir", s.data, "--listen", s.listen, "--ingress-http", s.ingress, "--ingress-https", s.tls, "--log-level", level}
}

// launch starts the process and does not wait for it to be ready.
func (s *server) launch(env []string, flags ...string) {
	s.t.Helper()
	cmd := exec.Command(binary, append(s.args("debug"), flags...)...)
	cmd.Env = append(os.Environ(), env...)
	if s.environ != nil {
		cmd.Env = append(slices.Clone(s.environ), env...)
	}
	cmd.Stdout, cmd.Stderr = s, s
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	cmd.WaitDelay = time.Second // the ingress process may hold our pipes
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	gone := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(gone) // after it, cmd.ProcessState is there
	}()
	s.mu.Lock()
	s.cmd, s.gone = cmd, gone
	s.mu.Unlock()
}

// start starts the process and waits until it is ready.
func (s *server) start(env []string, flags ...string) {
	s.t.Helper()
	s.launch(env, flags...)
	s.ready()
}

// ready waits until the server is, and learns its token.
func (s *server) ready() {
	s.t.Helper()
	until(s.t, time.Minute, "the server is ready", func() error {
		select {
		case <-s.gone:
			s.t.Fatalf("the server ended at its start (%v):\n%s", s.cmd.ProcessState, tail(s.said(), 30))
		default:
		}
		res, err := http.Get(s.URL + "/readyz")
		if err != nil {
			return err
		}
		defer res.Body.Close()
		if res.StatusCode != http.StatusOK {
			return errors.New(res.Status)
		}
		return nil
	})
	b, err := os.ReadFile(filepath.Join(s.data, "admin-token"))
	if err != nil {
		s.t.Fatal(err)
	}
	if s.Token == "" { // clients of an earlier life may be reading it
		s.Token = strings.TrimSpace(string(b))
	}
}

// kill is kill -9.
func (s *server) kill() {
	_ = s.cmd.Process.Signal(syscall.SIGKILL)
	<-s.gone
}

// terminate is SIGTERM; it must be enough within the ten seconds promised.
func (s *server) terminate() {
	s.t.Helper()
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-s.gone:
	case <-time.After(10 * time.Second):
		s.t.Error("the server did not end within 10 s of SIGTERM")
		s.kill()
	}
}

// runs tells whether a server is there.
func (s *server) runs() bool {
	select {
	case <-s.gone:
		return false
	default:
		return true
	}
}

// end is terminate for a server that may have ended.
func (s *server) end() {
	s.t.Helper()
	if s.cmd == nil {
		return
	}
	select {
	case <-s.gone:
	default:
		s.terminate()
	}
}

func (s *server) stopAll() {
	s.t.Helper()
	s.end()
	if out, err := exec.Command(binary, "stop", "--all", "--data-dir", s.data).CombinedOutput(); err != nil {
		s.t.Errorf("stop --all: %v: %s", err, out)
	}
}

// must is Do without an error.
func (s *server) must(method, path string, body, out any) {
	s.t.Helper()
	if err := s.Do(context.Background(), method, path, body, out); err != nil {
		s.t.Fatal(err)
	}
}

// until tries f until it gives no error.
func until(t *testing.T, long time.Duration, what string, f func() error) {
	t.Helper()
	deadline := time.NewTimer(long)
	defer deadline.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("not within %s: %s: %v", long, what, err)
		}
	}
}
