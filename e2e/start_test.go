package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	_ "modernc.org/sqlite"
)

// ended is how a run of the program ended by itself.
type ended struct {
	code      int
	out, errs string
}

// command runs the program with an environment (nil is ours) to its end.
func command(t *testing.T, environ []string, args ...string) ended {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	c := exec.CommandContext(ctx, binary, args...)
	var out, errs bytes.Buffer
	c.Stdout, c.Stderr, c.Env, c.WaitDelay = &out, &errs, environ, time.Second
	err := c.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) || ctx.Err() != nil {
		t.Fatalf("%v: %v, %v\n%s%s", args, err, context.Cause(ctx), &out, &errs)
	}
	return ended{c.ProcessState.ExitCode(), out.String(), errs.String()}
}

// refuses fails unless the program ended with a code and one line that has all
// the words.
func (e ended) refuses(t *testing.T, code int, words ...string) {
	t.Helper()
	line := strings.TrimSuffix(e.errs, "\n")
	if e.code != code || e.out != "" || !strings.HasPrefix(line, "slipway: ") || strings.Contains(line, "\n") || len(line) > 500 {
		t.Errorf("it ended with %d, not %d and one line; stdout %q, stderr:\n%s", e.code, code, e.out, e.errs)
	}
	for _, w := range words {
		if !strings.Contains(line, w) {
			t.Errorf("%q is not in %q", w, line)
		}
	}
}

// TestStartSettings gives settings that no server can have.
func TestStartSettings(t *testing.T) {
	t.Parallel()
	data := filepath.Join(t.TempDir(), "data")
	for _, c := range []struct {
		name  string
		args  []string
		env   string
		words []string
	}{
		{"unknown flag", []string{"serve", "--nope"}, "", []string{"--nope", "serve --help"}},
		{"unknown command", []string{"srve"}, "", []string{`"srve"`, "--help"}},
		{"argument", []string{"serve", "now"}, "", []string{`"now"`, "--help"}},
		{"no value", []string{"serve", "--listen"}, "", []string{"--listen", "argument"}},
		{"address", []string{"serve", "--listen", "8080"}, "", []string{"--listen", `"8080"`, "host:port"}},
		{"port", []string{"serve", "--ingress-http", "127.0.0.1:99999"}, "", []string{"--ingress-http", "99999"}},
		{"URL", []string{"serve", "--public-url", "ftp://x"}, "", []string{"--public-url", `"ftp://x"`}},
		{"number", []string{"serve", "--free-min", "much"}, "", []string{"--free-min", "much"}},
		{"range", []string{"serve", "--free-min", "99"}, "", []string{"--free-min", "99", "90"}},
		{"size", []string{"serve", "--cache-max", "some"}, "", []string{"--cache-max", `"some"`, "500MiB"}},
		{"duration", []string{"serve", "--log-keep", "week"}, "", []string{"--log-keep", "week"}},
		{"level", []string{"serve", "--log-level", "loud"}, "", []string{"--log-level", `"loud"`, "debug"}},
		{"half of TLS", []string{"serve", "--tls-cert", "/x"}, "", []string{"--tls-cert", "--tls-key"}},
		{"file of an authority", []string{"serve", "--registry-ca", "/nonexistent.pem"}, "", []string{"--registry-ca", "/nonexistent.pem"}},
		{"no config file", []string{"serve", "--config", "/nonexistent.yaml"}, "", []string{"--config", "/nonexistent.yaml"}},
		{"environment", []string{"serve"}, "SLIPWAY_FREE_MIN=much", []string{"free-min", "environment", "much"}},
		{"everything", []string{"serve", "--data-dir", "/"}, "", []string{"--data-dir"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			env := append(os.Environ(), "SLIPWAY_DATA_DIR="+data)
			if c.env != "" {
				env = append(env, c.env)
			}
			command(t, env, c.args...).refuses(t, 2, c.words...)
			if _, err := os.Lstat(data); err == nil {
				t.Error("the data directory was made")
			}
		})
	}
}

// TestStartWithoutServer runs the commands that need none.
func TestStartWithoutServer(t *testing.T) {
	t.Parallel()
	data := filepath.Join(t.TempDir(), "data")
	t.Run("version", func(t *testing.T) {
		e := command(t, nil, "version", "--json")
		var v map[string]string
		if err := json.Unmarshal([]byte(e.out), &v); err != nil || e.code != 0 || e.errs != "" {
			t.Fatalf("%+v, %v", e, err)
		}
		for _, k := range []string{"version", "go", "containerd", "buildkit", "runc"} {
			if v[k] == "" {
				t.Errorf("no %s in %s", k, e.out)
			}
		}
	})
	t.Run("doctor", func(t *testing.T) {
		e := command(t, nil, "doctor", "--data-dir", data)
		needs := strings.Contains("\n"+e.out, "\nNEEDS")
		if e.code != 0 && e.code != 1 || needs != (e.code == 1) {
			t.Errorf("it ended with %d:\n%s%s", e.code, e.out, e.errs)
		}
		for _, what := range []string{"platform", "kernel", "overlayfs", "cgroup", "git", "disk"} {
			if !strings.Contains(e.out, what) {
				t.Errorf("%s was not looked at:\n%s", what, e.out)
			}
		}
		// Without git on the path it says so, and how to mend it.
		e = command(t, []string{"PATH=/nonexistent"}, "doctor", "--data-dir", data)
		if e.code != 1 || !strings.Contains(e.out, "install -y git") || !strings.HasPrefix(e.errs, "slipway: ") {
			t.Errorf("without git it ended with %d:\n%s%s", e.code, e.out, e.errs)
		}
	})
	t.Run("stop", func(t *testing.T) {
		for _, dir := range []string{data, t.TempDir()} {
			for _, args := range [][]string{{"stop", "--data-dir", dir}, {"stop", "--all", "--data-dir", dir}} {
				if e := command(t, nil, args...); e.code != 0 || e.out != "nothing to stop: no server ever used "+dir+" (--data-dir)\n" || e.errs != "" {
					t.Errorf("%v: %+v", args, e)
				}
			}
			if l, _ := os.ReadDir(dir); len(l) > 0 {
				t.Errorf("it left %v", l)
			}
		}
	})
	if _, err := os.Lstat(data); err == nil {
		t.Error("the data directory was made")
	}
}

// TestStartPlaces gives data directories where no server can be.
func TestStartPlaces(t *testing.T) {
	t.Parallel()
	s := noServer(t)
	serve := func(t *testing.T, dir string) ended {
		return command(t, nil, append(s.args("info"), "--data-dir", dir)...)
	}
	t.Run("file", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "data")
		if err := os.WriteFile(file, []byte("mine"), 0o600); err != nil {
			t.Fatal(err)
		}
		serve(t, file).refuses(t, 1, "data directory", file, "not a directory")
		if b, err := os.ReadFile(file); err != nil || string(b) != "mine" {
			t.Errorf("it became %q, %v", b, err)
		}
	})
	t.Run("read-only", func(t *testing.T) {
		dir := memory(t, unix.MS_RDONLY, "size=64m")
		serve(t, dir).refuses(t, 1, "data directory", dir, "read-only")
	})
	t.Run("below read-only", func(t *testing.T) {
		dir := memory(t, unix.MS_RDONLY, "size=64m")
		serve(t, dir+"/data").refuses(t, 1, "data directory", dir, "read-only")
	})
	t.Run("full", func(t *testing.T) {
		dir := memory(t, 0, "size=4m")
		serve(t, dir).refuses(t, 1, "data directory", dir, "make room")
		if l := names(t, dir); !slices.Equal(l, []string{"lock"}) {
			t.Errorf("it left %v", l)
		}
	})
}

// memory mounts a file system of its own.
func memory(t *testing.T, flags uintptr, options string) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", flags, options); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func names(t *testing.T, dir string) (l []string) {
	t.Helper()
	all, err := os.ReadDir(dir)
	if err != nil {
		t.Error(err)
	}
	for _, e := range all {
		l = append(l, e.Name())
	}
	return l
}

// TestStartTaken starts a server where another one is.
func TestStartTaken(t *testing.T) {
	t.Parallel()
	first := newServer(t)
	_, port, _ := strings.Cut(first.listen, ":")
	t.Run("data directory", func(t *testing.T) {
		second := append(first.args("info"), "--listen", freePort(t), "--ingress-http", freePort(t), "--ingress-https", freePort(t))
		command(t, nil, second...).refuses(t, 1, first.data, "in use", fmt.Sprintf("pid %d", first.cmd.Process.Pid))
	})
	t.Run("port", func(t *testing.T) {
		second := noServer(t)
		free := second.listen
		second.listen = first.listen
		command(t, nil, second.args("info")...).refuses(t, 1, "--listen", port, "address already in use")
		if l := names(t, second.data); !slices.Equal(l, []string{"lock"}) {
			t.Errorf("it left %v", l)
		}
		second.listen = free
	})
	t.Run("ingress port", func(t *testing.T) {
		second := noServer(t)
		free := second.ingress
		second.ingress = first.ingress
		_, port, _ := strings.Cut(first.ingress, ":")
		command(t, nil, second.args("error")...).refuses(t, 1, "--ingress-http", port, "is taken")
		second.ingress = free
		second.start(nil)
		second.must("GET", "/workspaces/default", nil, nil)
	})
	// The first one noticed nothing.
	first.must("GET", "/workspaces/default", nil, nil)
}

// TestStartDamaged takes from a data directory what a start needs, and gives it
// back.
func TestStartDamaged(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	j := s.job("kept")
	if err := j.makeProject(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.terminate()
	key, store := filepath.Join(s.data, "master.key"), filepath.Join(s.data, "slipway.db")
	whole, err := os.ReadFile(key)
	if err != nil {
		t.Fatal(err)
	}
	put := func(file string, text []byte, mode fs.FileMode) {
		t.Helper()
		if err := errors.Join(os.WriteFile(file, text, mode), os.Chmod(file, mode)); err != nil {
			t.Fatal(err)
		}
	}
	execute := func(query string) {
		t.Helper()
		pool, err := sql.Open("sqlite", store)
		if err == nil {
			_, err = pool.Exec(query)
			err = errors.Join(err, pool.Close())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name         string
		damage, mend func()
		words        []string
	}{
		{
			"newer schema",
			func() { execute(`INSERT INTO goose_db_version (version_id, is_applied) VALUES (99001, 1)`) },
			func() { execute(`DELETE FROM goose_db_version WHERE version_id = 99001`) },
			[]string{"newer version", "99001", "backup"},
		},
		{
			"key damaged",
			func() { put(key, whole[:len(whole)/2], 0o600) }, func() { put(key, whole, 0o600) },
			[]string{"master key", key, "damaged", "backup"},
		},
		{
			"key that others may read",
			func() { put(key, whole, 0o644) }, func() { put(key, whole, 0o600) },
			[]string{"master key", key, "chmod 600"},
		},
		{
			"key lost",
			func() { _ = os.Remove(key) }, func() { put(key, whole, 0o600) },
			[]string{"master key", key, "lost", "backup"},
		},
		{
			"store overwritten",
			func() { put(store+".mine", read(t, store), 0o600); put(store, []byte("this is no database"), 0o600) },
			func() {
				if err := os.Rename(store+".mine", store); err != nil {
					t.Fatal(err)
				}
			},
			[]string{"store", "not a database", "backup"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.damage()
			before := fmt.Sprintf("%x", sha256.Sum256(read(t, store)))
			files := names(t, s.data)
			command(t, nil, s.args("info")...).refuses(t, 1, c.words...)
			if after := fmt.Sprintf("%x", sha256.Sum256(read(t, store))); after != before {
				t.Error("the store was changed")
			}
			left := slices.DeleteFunc(names(t, s.data), func(n string) bool { return slices.Contains(files, n) })
			if len(left) > 0 {
				t.Errorf("it left %v", left)
			}
			c.mend()
		})
	}
	s.start(nil)
	s.must("GET", j.path(), nil, nil)
}

func read(t *testing.T, file string) []byte {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Error(err)
	}
	return b
}

// TestStartBare starts a server that is told nothing but where programs are,
// and has it do everything once.
func TestStartBare(t *testing.T) {
	t.Parallel()
	s := noServer(t)
	s.environ = []string{"PATH=" + os.Getenv("PATH")}
	s.start(nil)
	if _, err := s.hostSteady(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// TestStartTerminated asks servers to go before they are ready: that is no
// failure, whatever they were about to do.
func TestStartTerminated(t *testing.T) {
	t.Parallel()
	s := noServer(t)
	for _, sign := range []string{"lock", "slipway.db", "admin-token", "engine", "ingress", "git"} {
		s.launch(nil)
		until(t, 20*time.Second, sign+" is there", func() error {
			if b, err := os.ReadFile(filepath.Join(s.data, "lock")); err != nil || strings.TrimSpace(string(b)) != strconv.Itoa(s.cmd.Process.Pid) {
				return fmt.Errorf("the lock says %q, %w", b, err) // before it no signal is heard
			}
			_, err := os.Lstat(filepath.Join(s.data, sign))
			return err
		})
		s.terminate()
		if code := s.cmd.ProcessState.ExitCode(); code != 0 {
			t.Errorf("asked when %s was there it ended with %s:\n%s", sign, s.cmd.ProcessState, tail(s.said(), 5))
		}
	}
	s.start(nil)
	if strings.Contains(s.said(), "slipway: ") {
		t.Errorf("it complained:\n%s", s.said())
	}
}

// TestStartKilled kills the first start at every place that it comes to. The
// next one is as good as a first.
func TestStartKilled(t *testing.T) {
	t.Parallel()
	whole := noServer(t)
	list := filepath.Join(whole.dir, "places")
	whole.start([]string{"SLIPWAY_CRASH_LIST=" + list})
	files := names(t, whole.data)
	whole.must("GET", "/workspaces/default", nil, nil)
	whole.terminate()
	var kills []place
	for name, n := range reached(t, list) {
		kills = append(kills, place{name, 1, true})
		if n > 1 {
			kills = append(kills, place{name, n, true})
		}
	}
	for _, room := range []string{"db: ", "secret: ", "access: "} {
		if !slices.ContainsFunc(kills, func(k place) bool { return strings.HasPrefix(k.name, room) }) {
			t.Errorf("no place of %sis reached: %v", room, kills)
		}
	}
	for _, k := range kills {
		t.Run(k.String(), func(t *testing.T) {
			s := noServer(t)
			s.launch([]string{"SLIPWAY_CRASH=" + k.String()})
			select {
			case <-s.gone:
			case <-time.After(30 * time.Second):
				t.Fatal("the place was not reached")
			}
			if ws, ok := s.cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || ws.Signal() != syscall.SIGKILL {
				t.Fatalf("the server ended by itself: %v", s.cmd.ProcessState)
			}
			s.start(nil)
			s.must("GET", "/workspaces/default", nil, nil)
			if err := s.job("first").makeProject(t.Context()); err != nil {
				t.Error(err)
			}
			left := slices.DeleteFunc(names(t, s.data), func(n string) bool { return slices.Contains(files, n) })
			if len(left) > 0 {
				t.Errorf("the data directory has %v, that of a whole start has not", left)
			}
			res, err := http.Get(s.URL + "/readyz")
			if err != nil {
				t.Fatal(err)
			}
			_ = res.Body.Close()
			if res.StatusCode != http.StatusOK {
				t.Errorf("it is not ready: %s", res.Status)
			}
		})
	}
}
