package source

import (
	"bytes"
	"compress/gzip"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"slipway/access"
	"slipway/project"
)

func TestPushAndClone(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	p := w.project("web")
	c := newClone(t)
	c.write("a.txt", "one\n")
	one := c.commit("first\n\nwith a body")
	c.git("push", "-q", w.at("web"), "HEAD:refs/heads/trunk")
	c.git("tag", "-a", "v1", "-m", "a tag")
	c.git("push", "-q", w.at("web"), "v1", "HEAD:refs/heads/dev")

	want := []Push{
		{Ref: "refs/heads/trunk", Old: zeros, New: one, User: w.ann.User.ID},
		{Ref: "refs/heads/dev", Old: zeros, New: one, User: w.ann.User.ID},
		{Ref: "refs/tags/v1", Old: zeros, New: one, User: w.ann.User.ID},
	}
	check := func() {
		t.Helper()
		got := w.pushes()
		if len(got) != len(want) {
			t.Fatalf("events %v, want %v", got, want)
		}
		for i, text := range got {
			var p Push
			must(t, json.Unmarshal([]byte(text), &p))
			if p != want[i] {
				t.Errorf("event %d is %+v, want %+v", i, p, want[i])
			}
		}
	}
	check()
	if b, err := w.sources.DefaultBranch(t.Context(), p.ID); b != "trunk" || err != nil {
		t.Errorf("default branch %q, %v", b, err)
	}
	refs, err := w.sources.Refs(t.Context(), w.ann, p.ID)
	must(t, err)
	if fmt.Sprint(refs) != fmt.Sprintf("[{refs/heads/dev %[1]s false} {refs/heads/trunk %[1]s true} {refs/tags/v1 %[1]s false}]", one) {
		t.Errorf("refs %v", refs)
	}

	// Forced back, deleted, moved.
	c.write("a.txt", "two\n")
	c.git("commit", "-qam", "other", "--amend")
	two := c.git("rev-parse", "HEAD")
	c.git("push", "-q", "-f", w.at("web"), "HEAD:refs/heads/trunk", ":refs/heads/dev")
	want = append(want,
		Push{Ref: "refs/heads/dev", Old: one, New: zeros, User: w.ann.User.ID},
		Push{Ref: "refs/heads/trunk", Old: one, New: two, User: w.ann.User.ID})
	check()
	c.git("push", "-q", w.at("web"), "HEAD:refs/heads/trunk") // nothing new
	check()

	d := newClone(t)
	d.git("pull", "-q", w.at("web"), "trunk")
	if got := read(t, filepath.Join(d.dir, "a.txt")); got != "two\n" {
		t.Errorf("pulled %q", got)
	}
	for _, version := range []string{"0", "1", "2"} {
		out := d.git("-c", "protocol.version="+version, "ls-remote", "--symref", w.at("web"))
		contains(t, out, "ref: refs/heads/trunk\tHEAD")
		contains(t, out, one+"\trefs/tags/v1^{}")
		if strings.Contains(out, "refs/heads/dev") {
			t.Error("a deleted branch is listed")
		}
	}
	d.git("clone", "-q", "--depth=1", "--filter=blob:none", w.at("web"), "sub")

	// An earlier name of the project leads to it.
	name := "site"
	_, err = w.projects.Update(t.Context(), w.ann, p.ID, project.Change{Name: &name})
	must(t, err)
	contains(t, d.git("ls-remote", w.at("web")), two)
	contains(t, d.git("ls-remote", w.at("site")), two)
}

func TestPushRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{MaxPush: 1_500_000})
	w.project("web")
	c := newClone(t)
	c.write("a", "x")
	c.commit("one")
	c.git("push", "-q", w.at("web"), "HEAD:main")

	t.Run("other refs", func(t *testing.T) {
		out, err := c.try("push", w.at("web"), "HEAD:refs/slipway/x", "HEAD:refs/notes/commits")
		if err == nil {
			t.Error("pushed")
		}
		contains(t, out, "refs/slipway/x (deny updating a hidden ref)")
	})
	t.Run("too large", func(t *testing.T) {
		big := make([]byte, 3<<20)
		_, _ = rand.Read(big)
		must(t, os.WriteFile(filepath.Join(c.dir, "big"), big, 0o644))
		c.commit("big")
		for _, buffer := range []string{"1000", "100000000"} { // chunked and in one piece
			out, err := c.try("-c", "http.postBuffer="+buffer, "push", w.at("web"), "HEAD:main")
			if err == nil {
				t.Error("pushed")
			}
			contains(t, out, "pack exceeds maximum allowed size (1.43 MiB)")
		}
		c.git("reset", "-q", "--hard", "HEAD~1")
	})
	t.Run("bad object", func(t *testing.T) {
		tree := c.git("mktree", "--missing")
		_ = tree
		raw := "tree 4b825dc642cb6eb9a060e54bf8d69288fbee4904\nauthor x 1 +0000\ncommitter x <x> 1 +0000\n\nbad\n"
		must(t, os.WriteFile(filepath.Join(c.dir, "raw"), []byte(raw), 0o644))
		hash := c.git("hash-object", "-t", "commit", "-w", "--literally", "raw")
		must(t, os.Remove(filepath.Join(c.dir, "raw")))
		out, err := c.try("push", w.at("web"), hash+":refs/heads/bad")
		if err == nil {
			t.Error("pushed")
		}
		contains(t, out, "missingEmail")
	})
	if n := len(w.pushes()); n != 1 {
		t.Errorf("%d events", n)
	}
}

func TestHooksAreNotRun(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	p := w.project("web")
	dir, err := w.sources.own(p.ID)
	must(t, err)
	ran := filepath.Join(t.TempDir(), "ran")
	must(t, os.Mkdir(filepath.Join(dir, "hooks"), 0o755))
	for _, h := range []string{"pre-receive", "update", "post-receive", "post-update", "reference-transaction", "proc-receive"} {
		must(t, os.WriteFile(filepath.Join(dir, "hooks", h), []byte("#!/bin/sh\ntouch "+ran+"\n"), 0o755))
	}
	c := newClone(t)
	c.commit("one")
	c.git("push", "-q", w.at("web"), "HEAD:main")
	if _, err := os.Stat(ran); err == nil {
		t.Error("a hook was run")
	}
}

func TestWho(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	p := w.project("web")
	c := newClone(t)
	one := c.commit("one")
	c.git("push", "-q", w.at("web"), "HEAD:main")

	_, reads, err := w.access.CreateToken(t.Context(), w.ann, access.NewToken{Name: "r", Scopes: []access.Scope{access.RepositoryRead}})
	must(t, err)
	status := func(token, path string) int {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, w.url+path, nil)
		must(t, err)
		if token != "" {
			r.SetBasicAuth("x", token)
		}
		a, err := http.DefaultClient.Do(r)
		must(t, err)
		_, _ = io.Copy(io.Discard, a.Body)
		_ = a.Body.Close()
		if a.StatusCode == http.StatusUnauthorized && !strings.HasPrefix(a.Header.Get("WWW-Authenticate"), "Basic ") {
			t.Errorf("%s: 401 without a challenge", path)
		}
		if a.StatusCode == http.StatusOK && a.Header.Get("WWW-Authenticate") != "" {
			t.Errorf("%s: a challenge without need", path)
		}
		return a.StatusCode
	}
	const up, receive = "/info/refs?service=git-upload-pack", "/info/refs?service=git-receive-pack"
	public := true
	for _, step := range []struct {
		what  string
		token string
		path  string
		want  int
	}{
		{"stranger", "", "/git/acme/web.git" + up, 401},
		{"stranger, unknown", "", "/git/acme/nothing.git" + up, 401},
		{"wrong token", "slw_no", "/git/acme/web.git" + up, 401},
		{"known", w.token, "/git/acme/web.git" + up, 200},
		{"known, unknown project", w.token, "/git/acme/nothing.git" + up, 404},
		{"known, unknown workspace", w.token, "/git/nobody/web.git" + receive, 404},
		{"reader", reads, "/git/acme/web.git" + up, 200},
		{"reader pushes", reads, "/git/acme/web.git" + receive, 403},
		{"dumb", w.token, "/git/acme/web.git/info/refs", 403},
		{"other service", w.token, "/git/acme/web.git/info/refs?service=git-upload-archive", 403},
		{"file", w.token, "/git/acme/web.git/config", 404},
		{"no .git", w.token, "/git/acme/web" + up, 404},
		{"public", "", "", 0},
		{"stranger reads", "", "/git/acme/web.git" + up, 200},
		{"stranger pushes", "", "/git/acme/web.git" + receive, 401},
	} {
		if step.what == "public" {
			_, err := w.projects.Update(t.Context(), w.ann, p.ID, project.Change{Public: &public})
			must(t, err)
			continue
		}
		if got := status(step.token, step.path); got != step.want {
			t.Errorf("%s: %d, want %d", step.what, got, step.want)
		}
	}
	contains(t, c.git("ls-remote", w.url+URL("acme", "web")), one)
	out, err := c.try("push", strings.Replace(w.at("web"), w.token, reads, 1), "HEAD:x")
	if err == nil {
		t.Error("a reader pushed")
	}
	contains(t, out, "403")
	contains(t, out, "REPOSITORY_WRITE")
}

func TestConcurrentPushes(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	p := w.project("web")
	const n = 8
	var wg sync.WaitGroup
	for i := range n {
		c := newClone(t)
		c.write(fmt.Sprint(i), "x")
		c.commit(fmt.Sprint(i))
		wg.Go(func() {
			if out, err := c.try("push", "-q", w.at("web"), fmt.Sprintf("HEAD:b%d", i)); err != nil {
				t.Errorf("push %d: %v %s", i, err, out)
			}
		})
	}
	// One of the same time by the API.
	wg.Go(func() {
		if _, err := w.sources.Write(t.Context(), w.ann, p.ID, "main", "f", []byte("x"), "m"); err != nil && !errdefs.IsNotFound(err) {
			t.Error(err)
		}
	})
	wg.Wait()
	seen := map[string]bool{}
	for _, text := range w.pushes() {
		var p Push
		must(t, json.Unmarshal([]byte(text), &p))
		if seen[p.Ref] || p.User != w.ann.User.ID {
			t.Errorf("event %+v", p)
		}
		seen[p.Ref] = true
	}
	refs, err := w.sources.Refs(t.Context(), w.ann, p.ID)
	must(t, err)
	if len(refs) != len(seen) || len(seen) < n {
		t.Errorf("%d refs, %d events", len(refs), len(seen))
	}
	if st, err := os.Stat(w.sources.repoLock(p.ID)); err != nil || st.Size() != 0 {
		t.Errorf("the lock file is not clean: %v", err)
	}
}

func TestBadRequests(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	w.project("web")
	post := func(service, kind, encoding string, body []byte) (int, string) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, w.url+"/git/acme/web.git/"+service, bytes.NewReader(body))
		must(t, err)
		r.SetBasicAuth("x", w.token)
		r.Header.Set("Content-Type", kind)
		if encoding != "" {
			r.Header.Set("Content-Encoding", encoding)
		}
		a, err := http.DefaultClient.Do(r)
		if err != nil {
			return 0, err.Error()
		}
		defer func() { _ = a.Body.Close() }()
		b, _ := io.ReadAll(a.Body)
		return a.StatusCode, string(b)
	}
	const ask = "application/x-git-upload-pack-request"
	if code, _ := post("git-upload-pack", "text/plain", "", nil); code != 415 {
		t.Errorf("wrong type: %d", code)
	}
	if code, text := post("git-upload-pack", ask, "gzip", []byte("no gzip")); code != 400 {
		t.Errorf("no gzip: %d %s", code, text)
	}
	if code, _ := post("git-upload-pack", ask, "br", nil); code != 415 {
		t.Errorf("brotli: %d", code)
	}
	if code, _ := post("git-shell", ask, "", nil); code != 415 && code != 403 {
		t.Errorf("other command: %d", code)
	}
	var bomb bytes.Buffer
	z := gzip.NewWriter(&bomb)
	line := []byte("0032have 0123456789012345678901234567890123456789\n")
	for range (maxAsking + 1<<20) / len(line) {
		_, _ = z.Write(line)
	}
	_ = z.Close()
	post("git-upload-pack", ask, "gzip", bomb.Bytes()) // ends
	zip := func(text string) []byte {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		_, _ = z.Write([]byte(text))
		_ = z.Close()
		return b.Bytes()
	}
	long := strings.Repeat("0032have 0123456789012345678901234567890123456789\n", 5000)
	torn := zip(long)
	torn[len(torn)-6]++ // the checksum
	for what, body := range map[string]struct {
		encoding string
		text     []byte
		says     string
	}{
		"nonsense":                 {"", []byte("zzzz nonsense"), "bad line length"},
		"much nonsense":            {"", bytes.Repeat([]byte("zzzz nonsense"), 50_000), "bad line length"},
		"a line that is cut off":   {"", []byte("0032want 01234"), "hung up"},
		"zipped nonsense":          {"gzip", zip("zzzz nonsense"), "bad line length"},
		"a broken checksum":        {"gzip", torn, "no whole gzip"},
		"half of a gzip":           {"gzip", zip(long)[:200], "no whole gzip"},
		"more than a gzip":         {"gzip", append(zip(long), "more"...), "gzip"},
		"a gzip that becomes none": {"gzip", append(zip(long)[:100], make([]byte, 1000)...), "no whole gzip"},
	} {
		for _, command := range []string{"upload-pack", "receive-pack"} {
			code, text := post("git-"+command, "application/x-git-"+command+"-request", body.encoding, body.text)
			if code != 400 || !strings.Contains(text, body.says) && !strings.Contains(text, "protocol error") {
				t.Errorf("%s to %s: %d %s", what, command, code, text)
			}
		}
	}
	if n := len(w.pushes()); n != 0 {
		t.Errorf("%d events", n)
	}
}

// A client may have to wait for long, but not keep others waiting.
func TestPatience(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	p := w.project("web")
	w.sources.idle = 300 * time.Millisecond
	c := newClone(t)
	one := c.commit("one")

	// One that stops in the middle of its push.
	u, err := url.Parse(w.url)
	must(t, err)
	conn, err := net.Dial("tcp", u.Host)
	must(t, err)
	defer func() { _ = conn.Close() }()
	_, err = fmt.Fprintf(conn, "POST /git/acme/web.git/git-receive-pack HTTP/1.1\r\nHost: x\r\nAuthorization: Basic %s\r\nContent-Type: application/x-git-receive-pack-request\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n00aaz\r\n",
		base64.StdEncoding.EncodeToString([]byte("x:"+w.token)))
	must(t, err)

	// One that waits for the lock longer than it may be silent.
	k, err := w.sources.locks.take(t.Context(), w.sources.repoLock(p.ID), false)
	must(t, err)
	defer func() {
		if k != nil {
			k.release()
		}
	}()
	done := make(chan string, 1)
	go func() {
		out, err := c.try("push", w.at("web"), "HEAD:main")
		if err == nil {
			out = ""
		}
		done <- out
	}()
	select {
	case out := <-done:
		t.Fatalf("an end under the lock: %s", out)
	case <-time.After(3 * w.sources.idle):
	}
	k.release()
	k = nil
	if out := <-done; out != "" {
		t.Errorf("push: %s", out)
	}
	if w.told(p)["refs/heads/main"] != one {
		t.Error("not pushed")
	}
	_ = conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.Copy(io.Discard, conn); err != nil {
		t.Errorf("the silent client is still connected: %v", err)
	}
}

func TestPushWithoutRoom(t *testing.T) {
	t.Parallel()
	full := atomic.Bool{}
	w := newWorld(t, Config{Room: func() error {
		if full.Load() {
			return fmt.Errorf("the disk is nearly full: %w", errdefs.ErrResourceExhausted)
		}
		return nil
	}})
	p := w.project("web")
	c := newClone(t)
	c.write("a", "1")
	hash := c.commit("one")
	c.git("push", "-q", w.at("web"), "HEAD:main")
	full.Store(true)
	c.write("a", "2")
	c.commit("two")
	out, err := c.try("push", w.at("web"), "HEAD:main")
	if err == nil {
		t.Error("the push was taken")
	}
	contains(t, out, "nearly full")
	if w.told(p)["refs/heads/main"] != hash {
		t.Error("main has moved")
	}
	c.git("fetch", "-q", w.at("web"), "main") // reading goes on
}
