package source

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"slipway/db"
	"slipway/project"
)

// child is the test program as a server of its own, which a test kills.
func child(args []string) bool {
	if len(args) != 3 || args[1] != "serve-child" {
		return false
	}
	w := &world{t: &testing.T{}, dir: args[2]}
	w.open(Config{})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	go func() { _ = w.sources.Run(context.Background()) }()
	fmt.Println(l.Addr())
	panic(http.Serve(l, w.sources.Handler(w.authenticate)))
}

// serveChild starts a server on the folder of w and gives its address. It dies
// at the place named.
func (w *world) serveChild(place string) *exec.Cmd {
	w.t.Helper()
	self, err := os.Executable()
	must(w.t, err)
	cmd := exec.Command(self, "serve-child", w.dir)
	cmd.Env = append(os.Environ(), "SLIPWAY_CRASH="+place)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	must(w.t, err)
	must(w.t, cmd.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	must(w.t, err)
	w.url = "http://" + strings.TrimSpace(line)
	return cmd
}

// told checks that the events, one after the other, lead to the refs that the
// repository has.
func (w *world) told(p project.Project) map[string]string {
	w.t.Helper()
	now := map[string]string{}
	for _, text := range w.pushes() {
		var m Push
		must(w.t, json.Unmarshal([]byte(text), &m))
		was := now[m.Ref]
		if was == "" {
			was = zeros
		}
		if m.Old != was {
			w.t.Errorf("event %s: was %s", text, was)
		}
		if m.User != w.ann.User.ID {
			w.t.Errorf("event %s: of nobody", text)
		}
		now[m.Ref] = m.New
		if m.New == zeros {
			delete(now, m.Ref)
		}
	}
	tips, err := w.sources.git.tips(w.t.Context(), w.sources.repoPath(p.ID))
	must(w.t, err)
	if len(tips) != len(now) {
		w.t.Errorf("refs %v, told %v", tips, now)
	}
	for ref, tip := range tips {
		if now[ref] != tip.commit {
			w.t.Errorf("%s is %s, told %s", ref, tip.commit, now[ref])
		}
	}
	return now
}

// again opens the folder of a killed server.
func (w *world) again() {
	w.t.Helper()
	w.open(Config{})
	w.sources.catchUpAll(w.t.Context())
}

func TestServerKilledDuringPush(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	p := w.project("web")
	c := newClone(t)
	must(t, w.db.Close())
	places := []string{"source: a push has arrived", "source: git has ended a push", "source: refs have moved", "source: the push is told"}
	for i, place := range places {
		c.write("f", place)
		hash := c.commit(place)
		cmd := w.serveChild(place)
		out, err := c.try("push", w.at("web"), "HEAD:main", fmt.Sprintf("HEAD:b%d", i))
		if err == nil {
			t.Errorf("%s: the push did not fail: %s", place, out)
		}
		_ = cmd.Wait()
		if s, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || s.Signal() != syscall.SIGKILL {
			t.Fatalf("%s: the server ended with %v", place, cmd.ProcessState)
		}
		w.again()
		now := w.told(p)
		if i == 0 && len(now) != 0 || i > 0 && now["refs/heads/main"] != hash {
			t.Errorf("%s: %v", place, now)
		}
		if _, ok := w.sources.DefaultBranch(t.Context(), p.ID); ok != nil {
			t.Error(ok)
		}
		must(t, w.db.Close())
		cmd = w.serveChild("") // and goes on
		c.git("push", "-q", w.at("web"), "HEAD:main", fmt.Sprintf("HEAD:b%d", i))
		must(t, cmd.Process.Kill())
		_ = cmd.Wait()
		w.again()
		w.told(p)
		must(t, w.db.Close())
	}
}

// kill kills git processes that work on a folder, and what they started.
func kill(dir, command string) int {
	n := 0
	list, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range list {
		b, err := os.ReadFile(f)
		text := string(b)
		if err != nil || !strings.Contains(text, dir) || !strings.Contains(text, "\x00"+command) {
			continue
		}
		var pid int
		_, _ = fmt.Sscanf(filepath.Base(filepath.Dir(f)), "%d", &pid)
		if pid > 1 && syscall.Kill(pid, syscall.SIGKILL) == nil {
			n++
		}
	}
	return n
}

func TestGitKilledDuringPush(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	p := w.project("web")
	repo, err := w.sources.own(p.ID)
	must(t, err)
	c := newClone(t)
	killed := 0
	for i := range 12 {
		for n := range 40 {
			c.write(fmt.Sprintf("f%d", n), fmt.Sprint(i, n, rand.Uint64()))
		}
		hash := c.commit(fmt.Sprint(i))
		done := make(chan error, 1)
		go func() {
			_, err := c.try("push", "-q", w.at("web"), "HEAD:main", fmt.Sprintf("HEAD:b%d", i))
			done <- err
		}()
		stop := time.After(time.Duration(rand.IntN(60)) * time.Millisecond)
		<-stop
		for n := 0; n == 0 && len(done) == 0; {
			n = kill(repo, "receive-pack")
			killed += n
		}
		<-done
		w.told(p)
		out, err := c.try("push", "-q", w.at("web"), "HEAD:main")
		if err != nil {
			t.Fatalf("push after a kill: %s", out)
		}
		if w.told(p)["refs/heads/main"] != hash {
			t.Error("main is not what was pushed")
		}
	}
	if killed == 0 {
		t.Error("nothing was killed")
	}
	(&clone{t, repo}).git("fsck", "--full")
}

func TestGitKilledDuringFetch(t *testing.T) {
	t.Parallel()
	l := newLinked(t)
	dir := l.here.sources.mirrorPath(l.q.ID)
	for i := range 6 {
		for n := range 60 {
			l.c.write(fmt.Sprintf("f%d", n), fmt.Sprint(i, n, rand.Uint64()))
		}
		hash := l.push(fmt.Sprint(i))
		done := make(chan error, 1)
		go func() {
			_, err := l.here.sources.fetch(t.Context(), l.q.ID, mustRemote(l), hash, "", i%3)
			done <- err
		}()
		<-time.After(time.Duration(rand.IntN(40)) * time.Millisecond)
		for n := 0; n == 0 && len(done) == 0; {
			n = kill(dir, "fetch")
		}
		<-done
		l.out(hash, i%3)
	}
}

func mustRemote(l *linked) *Remote {
	r, _, err := l.here.sources.loadRemote(l.t.Context(), l.q.ID)
	must(l.t, err)
	return r
}

// A checkout that is killed anywhere leaves a tree that the next one mends,
// files of the old commit included.
func TestServerKilledDuringCheckout(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	s.c.write("old/a", "a")
	s.c.write("both", "1")
	one := s.push("one")
	s.c.git("rm", "-rq", "old")
	s.c.write("new/b", "b")
	s.c.write("both", "2")
	two := s.push("two")
	s.c.write("third", "3")
	s.c.git("rm", "-rq", "new")
	three := s.push("three")
	s.checkout(three, 0)
	want := list(t, s.dir)
	at := filepath.Join(s.sources.cfg.Dir, "work", string(s.p.ID), "tree")
	for _, place := range []string{"source: files of the old commit are gone", "source: files are checked out", "source: a checkout is done"} {
		must(t, os.RemoveAll(s.dir))
		must(t, os.RemoveAll(at))
		s.checkout(one, 0)
		must(t, s.db.Close())
		self, err := os.Executable()
		must(t, err)
		cmd := exec.Command(self, "checkout-child", s.world.dir, string(s.p.ID), two, s.dir)
		cmd.Env = append(os.Environ(), "SLIPWAY_CRASH="+place)
		out, err := cmd.CombinedOutput()
		if st, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || st.Signal() != syscall.SIGKILL {
			t.Fatalf("%s: %v %s", place, err, out)
		}
		s.open(Config{})
		must(t, os.MkdirAll(filepath.Join(s.dir, staging+"0b5f3f0a-0000-4000-8000-000000000000", "x"), 0o755))
		s.checkout(three, 0)
		if got := list(t, s.dir); got != want {
			t.Errorf("%s:\n%s\nwant:\n%s", place, got, want)
		}
	}
}

func checkoutChild(args []string) bool {
	if len(args) != 6 || args[1] != "checkout-child" {
		return false
	}
	w := &world{t: &testing.T{}, dir: args[2]}
	w.open(Config{})
	err := w.sources.Checkout(context.Background(), project.ID(args[3]), CheckoutSpec{
		Revision: args[4], Branch: "main", Dir: args[5], Key: "tree", Modules: &Modules{By: 1}, // the first user
	})
	fmt.Println(err)
	return true
}

// A failed telling is tried again, without a restart.
func TestTellAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	p := w.project("web")
	c := newClone(t)
	one := c.commit("one")
	// Something stands in the way of the row.
	trigger := func(sql string) {
		must(t, w.db.Write(t.Context(), func(tx *db.Tx) error { _, err := tx.Exec(sql); return err }))
	}
	trigger(`CREATE TRIGGER no BEFORE INSERT ON source_refs BEGIN SELECT RAISE(ABORT, 'no'); END`)
	if _, err := c.try("push", w.at("web"), "HEAD:main"); err == nil {
		t.Error("a push was acknowledged that is not told")
	}
	if n := len(w.pushes()); n != 0 {
		t.Errorf("%d events", n)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- w.sources.Run(ctx) }()
	trigger(`DROP TRIGGER no`)
	until(t, "the push is told", func() bool { return len(w.pushes()) == 1 })
	cancel()
	<-done
	if now := w.told(p); now["refs/heads/main"] != one {
		t.Errorf("told %v", now)
	}
}
