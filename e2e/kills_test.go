package e2e

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// TestKills kills what runs beside the server, and the server where no crash.At
// is. What was killed is told or comes back; nothing else is touched.
func TestKills(t *testing.T) {
	s := newServer(t)
	steady, err := s.hostSteady(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	p := s.probe(t, "steady.localhost")
	defer p.end()
	p.more(5)
	// What is made for the first container and stays is there before.
	s.one("warm", nil, runs(s.listen+"/default/steady", "latest", "/probe lines 1 1ms")).ok(t, "line 0")
	s.must("DELETE", s.job("warm").path(), nil, nil)
	want := s.quiet(t)
	for _, k := range []struct {
		name       string
		interrupts bool // the steady service
		f          func(context.Context, *testing.T)
	}{
		{"the monitor of an action", false, s.killActionMonitor},
		{"the monitor of a service", true, func(ctx context.Context, t *testing.T) { s.killServiceMonitor(ctx, t, steady) }},
		{"the ingress process", true, s.killIngress},
		{"git of the look at a commit", false, func(ctx context.Context, t *testing.T) { s.killFetch(ctx, t, "looked", 1, s.fetches) }},
		{"git of a checkout", false, func(ctx context.Context, t *testing.T) { s.killFetch(ctx, t, "fetched", 2, s.fetches) }},
		{"the program that git fetches with", false, func(ctx context.Context, t *testing.T) {
			s.killFetch(ctx, t, "helped", 2, func(cmd, url string) bool {
				return strings.Contains(cmd, "git-remote-http") && strings.Contains(cmd, url)
			})
		}},
		{"the server in an upload", false, func(ctx context.Context, t *testing.T) { s.killUpload(ctx, t, p) }},
		{"the server is asked to go", false, func(ctx context.Context, t *testing.T) { s.terminateActing(ctx, t, p) }},
	} {
		t.Run(k.name, func(t *testing.T) {
			outer, mark, begun := s.t, len(s.said()), time.Now()
			s.t = t
			defer func() {
				s.t = outer
				if t.Failed() {
					t.Logf("the server said:\n%s", tail(s.said()[mark:], 60))
				}
			}()
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			k.f(ctx, t)
			until(t, 20*time.Second, "everything has settled", func() error { return s.settled(want) })
			s.nothingPending(t)
			bad := p.failures()
			for _, b := range bad {
				if !k.interrupts {
					t.Errorf("the hosted service was interrupted: %s", b)
				}
			}
			p.more(3)
			t.Logf("all over after %s", time.Since(begun).Round(time.Millisecond))
		})
	}
}

// quiet waits until one service is hosted and nothing else is there, and gives
// what that is.
func (s *server) quiet(t *testing.T) (want map[string]int) {
	t.Helper()
	until(t, time.Minute, "there is one service and nothing else", func() error {
		count, _, all := s.footprint()
		want = count
		for kind, n := range map[string]int{"mount": 4, "process": 4, "record": 1, "veth": 1, "bundle": 1, "layer": 1, "monitor": 1, "state": 1} {
			if count[kind] != n {
				return fmt.Errorf("%s: %d, not %d\n%s", kind, count[kind], n, strings.Join(all, "\n"))
			}
		}
		return nil
	})
	return want
}

// monitor is the process that watches the only container of a kind: "r" is a
// run, "i" an instance. It is the parent of the container's first process.
func (s *server) monitor(t *testing.T, kind string) (pid int) {
	t.Helper()
	until(t, 10*time.Second, "there is one container", func() error {
		l, _ := filepath.Glob("/run/slipway-" + s.instance() + "/m/" + kind + "-*/pid")
		if len(l) != 1 {
			return fmt.Errorf("there are %v", l)
		}
		b, err := os.ReadFile(l[0])
		if err != nil {
			return err
		}
		stat, err := os.ReadFile("/proc/" + strings.TrimSpace(string(b)) + "/stat")
		if err != nil {
			return err
		}
		_, rest, _ := strings.Cut(string(stat), ") ")
		if pid, err = strconv.Atoi(strings.Fields(rest)[1]); err != nil {
			return err
		}
		if cmd := s.pids()[strconv.Itoa(pid)]; !strings.HasPrefix(cmd, "slipway-child") {
			return fmt.Errorf("its parent is %d %q", pid, cmd)
		}
		return nil
	})
	return pid
}

// killed is kill -9 for one process; it returns when that is gone.
func killed(t *testing.T, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatalf("pid %d: %v", pid, err)
	}
	until(t, 10*time.Second, "it is gone", func() error {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err == nil && !strings.Contains(string(stat), ") Z ") {
			return fmt.Errorf("pid %d is there", pid)
		}
		return nil
	})
}

// counting begins an action that prints numbered lines, and waits for the first
// few.
func (s *server) counting(ctx context.Context, t *testing.T, name string, n int) (j *job) {
	t.Helper()
	j = s.job(name, runs(s.listen+"/default/steady", "latest", fmt.Sprintf("/probe lines %d 20ms", n)))
	err := j.makeProject(ctx)
	if err == nil {
		err = j.makePipeline(ctx)
	}
	if err == nil {
		err = s.Do(ctx, "POST", j.pipelinePath()+"/executions", map[string]any{}, nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	until(t, 20*time.Second, "the action counts", func() error {
		if l, err := j.newestLog(ctx); err != nil || !strings.Contains(strings.Join(l, "\n"), "line 5") {
			return fmt.Errorf("%q, %w", l, err)
		}
		return nil
	})
	return j
}

// newestLog is the log of the first action of the newest execution.
func (j *job) newestLog(ctx context.Context) ([]string, error) {
	l, err := j.executions(ctx)
	if err != nil || len(l) == 0 {
		return nil, err
	}
	e, err := j.execution(ctx, l[0])
	if err != nil || len(e.Steps) == 0 {
		return nil, err
	}
	return j.log(ctx, e.ID, e.Steps[0])
}

func (s *server) killActionMonitor(ctx context.Context, t *testing.T) {
	j := s.counting(ctx, t, "watched", 3000)
	pid := s.monitor(t, "r")
	begun := time.Now()
	killed(t, pid)
	e, err := j.finish(ctx)
	took := time.Since(begun)
	if err != nil || e.Status != "FAILED" || !strings.Contains(e.String(), "its monitor was killed") {
		t.Errorf("the execution is %s (%v)", e, err)
	}
	if took > 10*time.Second {
		t.Errorf("the end was told after %s", took)
	}
	t.Logf("after %s: %s", took.Round(time.Millisecond), e)
	l, err := j.log(ctx, e.ID, e.Steps[0])
	if err == nil {
		_, err = counted(l, -1, false)
	}
	if err != nil {
		t.Errorf("the log: %v:\n%s", err, strings.Join(l, "\n"))
	}
	for pid, cmd := range s.pids() {
		if strings.Contains(cmd, "/probe lines") {
			t.Errorf("%s %s still runs", pid, cmd)
		}
	}
	s.must("DELETE", j.path(), nil, nil)
}

func (s *server) killServiceMonitor(ctx context.Context, t *testing.T, j *job) {
	before, err := s.answers(ctx, "steady.localhost", http.StatusOK, "1")
	if err != nil {
		t.Fatal(err)
	}
	pid := s.monitor(t, "i")
	begun := time.Now()
	killed(t, pid)
	until(t, 15*time.Second, "another container answers", func() error {
		a, status, err := s.visit("steady.localhost")
		if err != nil || status != http.StatusOK || a.Boot == before.Boot {
			return fmt.Errorf("%+v, %d, %w", a, status, err)
		}
		if n := len(before.Boots); len(a.Boots) != n+1 || a.Boots[n-1] != before.Boot {
			t.Errorf("its starts are %v, before %v", a.Boots, before.Boots)
		}
		return nil
	})
	t.Logf("it answers after %s", time.Since(begun).Round(time.Millisecond))
	v, err := j.running(ctx, "web")
	if err != nil || v.Message != "" {
		t.Errorf("%+v, %v", v, err)
	}
}

func (s *server) killIngress(ctx context.Context, t *testing.T) {
	before, err := s.answers(ctx, "steady.localhost", http.StatusOK, "1")
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for pid, cmd := range s.pids() {
		if strings.HasPrefix(cmd, binary+" ingress ") {
			if found != 0 {
				t.Fatalf("there are two: %v", s.pids())
			}
			found, _ = strconv.Atoi(pid)
		}
	}
	if found == 0 {
		t.Fatalf("there is none: %v", s.pids())
	}
	begun := time.Now()
	killed(t, found)
	until(t, 5*time.Second, "the service answers", func() error {
		a, status, err := s.visit("steady.localhost")
		if err == nil && status == http.StatusOK && a.Boot != before.Boot {
			t.Error("another container answers")
			return nil
		}
		if err != nil || status != http.StatusOK {
			return fmt.Errorf("%d, %w", status, err)
		}
		return nil
	})
	t.Logf("it answers after %s", time.Since(begun).Round(time.Millisecond))
}

// slowGit serves repositories and holds back half of one pack.
type slowGit struct {
	url     string
	held    chan struct{} // closed when half of it was sent
	dropped chan struct{} // closed when who asked for it has gone
}

func newSlowGit(t *testing.T, dir string, nth int64) *slowGit {
	t.Helper()
	exe, err := exec.LookPath("git")
	if err != nil {
		t.Fatal(err)
	}
	g := &slowGit{held: make(chan struct{}), dropped: make(chan struct{})}
	backend := &cgi.Handler{Path: exe, Args: []string{"http-backend"}, Env: []string{"GIT_PROJECT_ROOT=" + dir, "GIT_HTTP_EXPORT_ALL=1", "HOME=" + dir}}
	var packs atomic.Int64
	over := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		inner := r.Clone(r.Context())
		inner.Body, inner.ContentLength, inner.TransferEncoding = io.NopCloser(bytes.NewReader(body)), int64(len(body)), nil
		rec := httptest.NewRecorder()
		backend.ServeHTTP(rec, inner)
		for k, v := range rec.Header() {
			w.Header()[k] = v
		}
		w.WriteHeader(rec.Code)
		answer := rec.Body.Bytes()
		if bytes.Contains(body, []byte("command=fetch")) && packs.Add(1) == nth {
			_, _ = w.Write(answer[:len(answer)/2])
			answer = answer[len(answer)/2:]
			_ = http.NewResponseController(w).Flush()
			close(g.held)
			select {
			case <-r.Context().Done():
				close(g.dropped)
				return
			case <-over:
			}
		}
		_, _ = w.Write(answer)
	}))
	t.Cleanup(srv.Close)
	t.Cleanup(func() { close(over) }) // first
	g.url = srv.URL
	return g
}

// fetches tells whether a command line is that of a fetch from outside.
func (s *server) fetches(cmd, _ string) bool {
	return strings.Contains(cmd, "--git-dir="+s.data) && strings.Contains(cmd, " fetch ")
}

// killFetch kills a program in the middle of the nth pack from outside.
func (s *server) killFetch(ctx context.Context, t *testing.T, name string, nth int64, victim func(cmd, url string) bool) {
	j := s.job(name, runs(s.listen+"/default/steady", "latest", "/probe cat /buddy/"+name+"/word"))
	noise := make([]byte, 1<<20)
	_, _ = rand.Read(noise)
	if err := j.commit(ctx, map[string]string{"word": "arrived\n", "noise": string(noise)}); err != nil {
		t.Fatal(err)
	}
	g := newSlowGit(t, s.dir, nth)
	err := j.makeProject(ctx, map[string]any{"custom_repo_url": g.url + "/work-" + name + "/.git"})
	if err == nil {
		err = j.makePipeline(ctx)
	}
	if err != nil {
		t.Fatal(err)
	}
	started := make(chan error, 1)
	go func() { started <- s.Do(ctx, "POST", j.pipelinePath()+"/executions", map[string]any{}, nil) }()
	select {
	case <-g.held:
	case <-ctx.Done():
		t.Fatal("no pack was asked for")
	}
	begun := time.Now()
	killed(t, processOf(t, func(cmd string) bool { return victim(cmd, g.url) }))
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	e, err := j.finish(ctx)
	took := time.Since(begun)
	switch {
	case err != nil:
		t.Fatal(err)
	case e.Status == "SUCCESSFUL":
	case e.Status != "FAILED" || !strings.Contains(e.String(), g.url) || !strings.Contains(e.String(), "kill"):
		t.Errorf("the execution does not say what happened: %s", e)
	}
	if took > 15*time.Second {
		t.Errorf("the end was told after %s", took)
	}
	t.Logf("after %s: %s", took.Round(time.Millisecond), e)
	select { // nothing of it is left, so nobody waits for the pack
	case <-g.dropped:
	case <-time.After(5 * time.Second):
		t.Error("something still waits for the rest of the pack")
	}
	// The next one finds nothing in its way.
	s.must("POST", j.pipelinePath()+"/executions", map[string]any{"refresh": true}, nil)
	if e, err = j.finish(ctx); err != nil || e.Status != "SUCCESSFUL" {
		t.Fatalf("the next execution is %s, %v", e, err)
	}
	if l, err := j.log(ctx, e.ID, e.Steps[0]); err != nil || !strings.Contains(strings.Join(l, "\n"), "arrived") {
		t.Errorf("the next one says %q, %v", l, err)
	}
	left, _ := filepath.Glob(filepath.Join(s.data, "git", "mirrors", "*", "objects", "pack", "*tmp*"))
	more, _ := filepath.Glob(filepath.Join(s.data, "git", "mirrors", "*", "*.lock"))
	if left = append(left, more...); len(left) > 0 {
		t.Errorf("left in the mirror: %v", left)
	}
	s.must("DELETE", j.path(), nil, nil)
}

// processOf waits for a process by its command line.
func processOf(t *testing.T, f func(cmd string) bool) (pid int) {
	t.Helper()
	until(t, 10*time.Second, "the process is there", func() error {
		l, _ := filepath.Glob("/proc/[0-9]*/cmdline")
		for _, name := range l {
			b, err := os.ReadFile(name)
			if err == nil && f(strings.ReplaceAll(string(b), "\x00", " ")) {
				pid, err = strconv.Atoi(filepath.Base(filepath.Dir(name)))
				return err
			}
		}
		return errYet
	})
	return pid
}

// terminateActing sends SIGTERM while an action runs; the next server goes on
// with it.
func (s *server) terminateActing(ctx context.Context, t *testing.T, p *prober) {
	const n = 200
	j := s.counting(ctx, t, "adopted", n)
	pid := s.monitor(t, "r")
	begun := time.Now()
	s.terminate() // or it is an error after 10 s
	t.Logf("the server ended %s after SIGTERM, %v", time.Since(begun).Round(time.Millisecond), s.cmd.ProcessState)
	if code := s.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("it ended with %d", code)
	}
	p.more(5)
	if cmd := s.pids()[strconv.Itoa(pid)]; cmd == "" {
		t.Error("the monitor of the action ended with the server")
	}
	s.start(nil)
	e, err := j.finish(ctx)
	if err != nil || e.Status != "SUCCESSFUL" {
		t.Fatalf("the execution is %s, %v", e, err)
	}
	l, err := j.log(ctx, e.ID, e.Steps[0])
	if err == nil {
		_, err = counted(l, n, true)
	}
	if err != nil {
		t.Errorf("the log: %v:\n%s", err, strings.Join(l, "\n"))
	}
	s.must("DELETE", j.path(), nil, nil)
}
