package source

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/crypto/ssh"

	"slipway/project"
	"slipway/secret"
)

// linked is a project of one server that is linked to one of another.
type linked struct {
	*shop        // the outside
	here  *world // the server that mirrors
	q     project.Project
	tree  string
	asked atomic.Int64 // requests that the outside answered
}

func newLinked(t *testing.T) *linked {
	t.Helper()
	l := &linked{shop: newShop(t), here: newWorld(t, Config{Private: true}), tree: t.TempDir()}
	l.q = l.here.project("copy")
	count := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		l.asked.Add(1)
		l.sources.Handler(l.authenticate).ServeHTTP(w, r)
	}))
	t.Cleanup(count.Close)
	l.url = count.URL
	must(t, l.here.sources.SetRemote(t.Context(), l.here.ann, l.q.ID, &Remote{URL: l.url + URL("acme", "web"), Username: "x", Password: l.token}))
	return l
}

func (l *linked) out(revision string, depth int) {
	l.t.Helper()
	must(l.t, l.here.sources.Checkout(l.t.Context(), l.q.ID, CheckoutSpec{Revision: revision, Branch: "main", Depth: depth, Dir: l.tree, Key: "tree"}))
	g := &clone{l.t, l.tree}
	if out := g.git("status", "--porcelain", "--untracked-files=no"); out != "" {
		l.t.Errorf("git status:\n%s", out)
	}
	if head := g.git("rev-parse", "HEAD"); head != revision {
		l.t.Errorf("HEAD is %s, want %s", head, revision)
	}
}

func TestMirror(t *testing.T) {
	t.Parallel()
	l := newLinked(t)
	if c, err := l.here.sources.Resolve(t.Context(), l.q.ID, "", "HEAD"); c != nil || err != nil {
		t.Errorf("head of nothing: %v, %v", c, err)
	}
	var hashes []string
	for i := range 5 {
		l.c.write("f", fmt.Sprint(i))
		hashes = append(hashes, l.push(fmt.Sprint(i)))
	}
	l.c.git("tag", "-a", "-m", "t", "v1", hashes[2])
	l.c.git("push", "-q", l.at("web"), "v1", hashes[1]+":refs/heads/old")
	for _, step := range []struct{ branch, revision, want string }{
		{"", "", hashes[4]},
		{"", "HEAD", hashes[4]},
		{"old", "HEAD", hashes[1]},
		{"", "v1", hashes[2]},
		{"", "refs/tags/v1", hashes[2]},
		{"", "old", hashes[1]},
		{"", hashes[0], hashes[0]},
		{"main", hashes[3][:9], hashes[3]},
	} {
		c, err := l.here.sources.Resolve(t.Context(), l.q.ID, step.branch, step.revision)
		if err != nil || c.Revision != step.want {
			t.Errorf("%+v: %v, %v", step, c, err)
		}
	}
	for _, unknown := range []string{"nothing", "0123456789012345678901234567890123456789", "a b", "v1^", "--upload-pack=x"} {
		if _, err := l.here.sources.Resolve(t.Context(), l.q.ID, "", unknown); !errdefs.IsNotFound(err) {
			t.Errorf("%s: %v", unknown, err)
		}
	}
	// A mirror that has only what it needs, then more, then less.
	must(t, l.here.sources.forget(t.Context(), l.q.ID))
	for _, step := range []struct{ at, depth, commits int }{{4, 1, 1}, {3, 3, 3}, {4, 2, 2}, {4, 0, 5}, {2, 1, 1}, {1, 0, 2}} {
		l.out(hashes[step.at], step.depth)
		if n := (&clone{t, l.tree}).git("rev-list", "--count", "HEAD"); n != fmt.Sprint(step.commits) {
			t.Errorf("%+v: %s commits", step, n)
		}
	}
	contains(t, read(t, filepath.Join(l.tree, ".git", "config")), "url = \""+l.url+"/git/acme/web.git\"")
	if strings.Contains(read(t, filepath.Join(l.tree, ".git", "config")), l.token) {
		t.Error("the token is in the tree")
	}
	// What is there is not asked for again.
	before := l.asked.Load()
	l.out(hashes[1], 0)
	if n := l.asked.Load() - before; n != 0 {
		t.Errorf("%d requests for nothing", n)
	}
	if got, want := untar(t, l.here, l.q.ID, hashes[4], ""), "-rw-r--r-- f \"4\"\n"; got != want {
		t.Errorf("archive %q, want %q", got, want)
	}
	b, err := l.here.sources.Read(t.Context(), l.here.ann, l.q.ID, "v1", "f")
	if err != nil || string(b.Data) != "2" {
		t.Errorf("read %q, %v", b.Data, err)
	}
	refs, err := l.here.sources.Refs(t.Context(), l.here.ann, l.q.ID)
	if err != nil || len(refs) != 3 || !refs[0].Default || refs[2].Commit != hashes[2] {
		t.Errorf("refs %v, %v", refs, err)
	}

	// To git it is a repository that can be read.
	c := newClone(t)
	c.git("clone", "-q", l.here.at("copy"), "x")
	if n := (&clone{t, filepath.Join(c.dir, "x")}).git("rev-list", "--count", "--all"); n != "5" {
		t.Errorf("%s commits cloned", n)
	}
	out, err := (&clone{t, filepath.Join(c.dir, "x")}).try("push", "origin", "HEAD:x")
	if err == nil {
		t.Error("pushed to a mirror")
	}
	contains(t, out, l.url+"/git/acme/web.git: push there")
	if _, err := l.here.sources.Write(t.Context(), l.here.ann, l.q.ID, "main", "f", []byte("x"), ""); !errdefs.IsConflict(err) {
		t.Errorf("write: %v", err)
	}
	if n := len(l.here.pushes()); n != 0 {
		t.Errorf("%d events", n)
	}
}

func TestMirrorGoneBad(t *testing.T) {
	t.Parallel()
	l := newLinked(t)
	l.c.write("f", "1")
	one := l.push("one")
	l.out(one, 1)
	dir := l.here.sources.mirrorPath(l.q.ID)
	harm := map[string]func(){
		"stale locks": func() {
			for _, n := range []string{"shallow.lock", "packed-refs.lock", "HEAD.lock", "refs/slipway/x.lock"} {
				must(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, n)), 0o755))
				must(t, os.WriteFile(filepath.Join(dir, n), nil, 0o644))
			}
			must(t, os.WriteFile(l.here.sources.mirrorLock(l.q.ID), []byte("0\n"), 0o600))
		},
		"packs cut off": func() {
			packs, _ := filepath.Glob(filepath.Join(dir, "objects/pack/*.pack"))
			for _, p := range packs {
				must(t, os.Chmod(p, 0o600))
				must(t, os.Truncate(p, 40))
			}
		},
		"packs gone":   func() { must(t, os.RemoveAll(filepath.Join(dir, "objects/pack"))) },
		"objects gone": func() { must(t, os.RemoveAll(filepath.Join(dir, "objects"))) },
		"refs nonsense": func() {
			must(t, os.WriteFile(filepath.Join(dir, "refs/heads/x"), []byte("nonsense\n"), 0o644))
			must(t, os.WriteFile(filepath.Join(dir, "shallow"), []byte("nonsense\n"), 0o644))
		},
		"config nonsense": func() { must(t, os.WriteFile(filepath.Join(dir, "config"), []byte("[[["), 0o644)) },
		"half of it":      func() { must(t, os.Remove(filepath.Join(dir, "HEAD"))) },
		"all gone":        func() { must(t, os.RemoveAll(dir)) },
	}
	// An archive finds it out while it is read; the next one is whole.
	breakBlob(t, dir)
	r, err := l.here.sources.Archive(t.Context(), l.q.ID, one, "")
	if err == nil {
		_, err = io.Copy(io.Discard, r)
		must(t, r.Close())
	}
	if err == nil {
		t.Error("an archive out of broken packs")
	}
	contains(t, untar(t, l.here, l.q.ID, one, ""), "f \"1\"")
	i := 0
	for name, do := range harm {
		for _, fresh := range []bool{true, false} {
			i++
			hash := one
			if fresh {
				l.c.write("f", fmt.Sprint("x", i))
				hash = l.push(name)
			}
			do()
			l.out(hash, 1)
			must(t, os.RemoveAll(filepath.Join(l.here.sources.cfg.Dir, "work")))
			one = hash
			if t.Failed() {
				t.Fatal(name, fresh)
			}
		}
	}
}

// breakBlob damages the content of a file in a repository, and nothing else.
func breakBlob(t *testing.T, dir string) {
	t.Helper()
	packs, _ := filepath.Glob(filepath.Join(dir, "objects/pack/*.pack"))
	for _, p := range packs {
		g := &clone{t, dir}
		for line := range strings.Lines(g.git("verify-pack", "-v", p)) {
			var hash, kind string
			var size, packed, at int64
			if n, _ := fmt.Sscan(line, &hash, &kind, &size, &packed, &at); n < 5 || kind != "blob" {
				continue
			}
			must(t, os.Chmod(p, 0o600))
			f, err := os.OpenFile(p, os.O_RDWR, 0)
			must(t, err)
			_, err = f.WriteAt([]byte{0xff, 0xff, 0xff}, at+2)
			must(t, errors.Join(err, f.Close()))
		}
	}
}

func TestRemoteRefuses(t *testing.T) {
	t.Parallel()
	l := newLinked(t)
	l.push("one")
	set := func(r Remote) error { return l.here.sources.SetRemote(t.Context(), l.here.ann, l.q.ID, &r) }
	ask := func() error {
		_, err := l.here.sources.Resolve(t.Context(), l.q.ID, "", "HEAD")
		if err == nil {
			t.Error("no error")
			return errors.New("none")
		}
		if strings.Contains(err.Error(), "secret-word") {
			t.Errorf("the password is shown: %v", err)
		}
		return err
	}
	base := l.url + "/git/acme/web.git"
	must(t, set(Remote{URL: strings.Replace(base, "://", "://bob:secret-word@", 1)}))
	r, err := l.here.sources.Remote(t.Context(), l.q.ID)
	if err != nil || r.URL != base || r.Username != "bob" || r.Password != secret.Encrypted {
		t.Errorf("remote %+v, %v", r, err)
	}
	contains(t, ask().Error(), "refuses the login of bob")
	must(t, set(Remote{URL: base, Username: "bob", Password: secret.Encrypted})) // unchanged
	contains(t, ask().Error(), "refuses the login of bob")
	must(t, set(Remote{URL: strings.Replace(base, "://", "://secret-word@", 1)})) // a token alone
	if r, err := l.here.sources.Remote(t.Context(), l.q.ID); err != nil || r.Username != secret.Encrypted || r.Password != "" {
		t.Errorf("remote %+v, %v", r, err)
	}
	must(t, set(Remote{URL: base}))
	contains(t, ask().Error(), "wants a login")
	must(t, set(Remote{URL: l.url + "/git/acme/none.git", Username: "x", Password: l.token}))
	contains(t, ask().Error(), "is no repository")
	must(t, set(Remote{URL: "http://127.0.0.1:1/x"}))
	if err := ask(); !errdefs.IsUnavailable(err) {
		t.Errorf("nobody listens: %v", err)
	}
	if err := set(Remote{URL: "http://127.0.0.2/x", Password: secret.Encrypted}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("the password follows to another host: %v", err)
	}
	must(t, l.here.sources.SetRemote(t.Context(), l.here.ann, l.q.ID, nil))
	if r, err := l.here.sources.Remote(t.Context(), l.q.ID); r != nil || err != nil {
		t.Errorf("remote %v, %v", r, err)
	}

	// A server that does not allow private addresses.
	l.here.sources.cfg.Private = false
	if err := set(Remote{URL: base}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("private address: %v", err)
	}
	must(t, set(Remote{URL: strings.Replace(base, "127.0.0.1", "localhost", 1)}))
	contains(t, ask().Error(), "private address")
	l.here.sources.cfg.Private = true

	// Redirects go where nobody looked.
	from := httptest.NewServer(http.RedirectHandler(l.url, http.StatusFound))
	defer from.Close()
	l.here.sources.cfg.Private = false
	c, done, err := l.here.sources.dialled(t.Context(), l.q.ID, &Remote{URL: "https://192.0.2.1/x"}, call{})
	must(t, err)
	done()
	if !strings.Contains(strings.Join(c.config, " "), "http.followRedirects=false") {
		t.Error("redirects are followed")
	}
}

func TestParseURL(t *testing.T) {
	t.Parallel()
	for _, bad := range []string{
		"", "-x", "--upload-pack=x", "ext::sh -c x", "file:///etc", "/etc", "./x", "git://h/x", "ftp://h/x", "https://", "https://h", "https://h/", "https:///x",
		"https://h/x?y", "https://h/x#y", "http://h/x\n", "ssh://-oProxyCommand=x/y", "ssh://-l@h/y", "-oProxyCommand=x:y", "h:", "http://[::1/x", "http://h:99x/x", "a b:c",
	} {
		if p, _, err := parseURL(bad); err == nil {
			t.Errorf("%q: %+v", bad, p)
		}
	}
	for good, want := range map[string]place{
		"https://github.com/a/b.git":       {"https", "", "github.com", "443"},
		"http://u:p@h:3000/x":              {"http", "u", "h", "3000"},
		"ssh://git@h/x":                    {"ssh", "git", "h", "22"},
		"ssh://git@[2001:db8::1]:2222/~/x": {"ssh", "git", "2001:db8::1", "2222"},
		"git@github.com:a/b.git":           {"ssh", "git", "github.com", "22"},
		"h.example:b":                      {"ssh", "", "h.example", "22"},
	} {
		if p, _, err := parseURL(good); err != nil || p != want {
			t.Errorf("%q: %+v, %v", good, p, err)
		}
	}
}

func TestOverSSH(t *testing.T) {
	t.Parallel()
	l := newLinked(t)
	l.c.write("f", "ssh")
	one := l.push("one")
	repo, err := l.sources.own(l.p.ID)
	must(t, err)
	key, signer := newKey(t)
	other, _ := newKey(t)
	addr := serveSSH(t, signer.PublicKey(), repo)
	remote := "ssh://git@" + addr + "/web.git"
	must(t, l.here.sources.SetRemote(t.Context(), l.here.ann, l.q.ID, &Remote{URL: remote, PrivateKey: key}))
	c, err := l.here.sources.Resolve(t.Context(), l.q.ID, "", "main")
	if err != nil || c.Revision != one {
		t.Fatalf("%v, %v", c, err)
	}
	l.out(one, 0)
	hosts := read(t, filepath.Join(l.here.sources.cfg.Dir, "mirrors", string(l.q.ID)+".hosts"))
	contains(t, hosts, "ssh-ed25519")
	must(t, l.here.sources.SetRemote(t.Context(), l.here.ann, l.q.ID, &Remote{URL: remote, PrivateKey: other}))
	if _, err := l.here.sources.Resolve(t.Context(), l.q.ID, "", "main"); err == nil || !strings.Contains(err.Error(), "refuses the login") {
		t.Errorf("with another key: %v", err)
	}
	if err := l.here.sources.SetRemote(t.Context(), l.here.ann, l.q.ID, &Remote{URL: remote, PrivateKey: []byte("no key")}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("no key: %v", err)
	}
	// Another host under the same name.
	must(t, l.here.sources.SetRemote(t.Context(), l.here.ann, l.q.ID, &Remote{URL: remote, PrivateKey: key}))
	fields := strings.Fields(hosts)
	_, wrong := newKey(t)
	must(t, os.WriteFile(filepath.Join(l.here.sources.cfg.Dir, "mirrors", string(l.q.ID)+".hosts"),
		[]byte(fields[0]+" "+string(ssh.MarshalAuthorizedKey(wrong.PublicKey()))), 0o600))
	if _, err := l.here.sources.Resolve(t.Context(), l.q.ID, "", "main"); err == nil || !strings.Contains(err.Error(), "ost key verification failed") {
		t.Errorf("another host key: %v", err)
	}
}

func newKey(t *testing.T) ([]byte, ssh.Signer) {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	block, err := ssh.MarshalPrivateKey(private, "")
	must(t, err)
	signer, err := ssh.NewSignerFromKey(private)
	must(t, err)
	return pem.EncodeToMemory(block), signer
}

// serveSSH is a host that serves one repository for one key.
func serveSSH(t *testing.T, key ssh.PublicKey, repo string) string {
	t.Helper()
	_, host := newKey(t)
	cfg := &ssh.ServerConfig{PublicKeyCallback: func(_ ssh.ConnMetadata, k ssh.PublicKey) (*ssh.Permissions, error) {
		if string(k.Marshal()) != string(key.Marshal()) {
			return nil, errors.New("no")
		}
		return nil, nil
	}}
	cfg.AddHostKey(host)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go serveConn(c, cfg, repo)
		}
	}()
	return l.Addr().String()
}

func serveConn(c net.Conn, cfg *ssh.ServerConfig, repo string) {
	defer func() { _ = c.Close() }()
	_, channels, requests, err := ssh.NewServerConn(c, cfg)
	if err != nil {
		return
	}
	go ssh.DiscardRequests(requests)
	for n := range channels {
		ch, reqs, err := n.Accept()
		if err != nil {
			return
		}
		for r := range reqs {
			if r.Type != "exec" {
				_ = r.Reply(r.Type == "env", nil)
				continue
			}
			_ = r.Reply(true, nil)
			cmd := exec.Command("git", "-c", "safe.directory=*", "upload-pack", repo)
			cmd.Env = gitEnv("GIT_PROTOCOL=version=2")
			cmd.Stdout, cmd.Stderr = ch, ch.Stderr()
			in, _ := cmd.StdinPipe()
			go func() { _, _ = io.Copy(in, ch); _ = in.Close() }()
			status := byte(0)
			if cmd.Run() != nil {
				status = 1
			}
			_, _ = ch.SendRequest("exit-status", false, []byte{0, 0, 0, status})
			_ = ch.Close()
		}
	}
}

// A work tree of all refs knows what the outside has, whatever was fetched of it
// before.
func TestAllRefsOfTheOutside(t *testing.T) {
	t.Parallel()
	l := newLinked(t)
	l.c.write("f", "1")
	one := l.push("1")
	l.c.write("f", "2")
	two := l.push("2")
	l.c.git("push", "-q", l.at("web"), one+":refs/heads/old", one+":refs/tags/v1")
	for _, all := range []bool{false, true, true} {
		must(t, l.here.sources.Checkout(t.Context(), l.q.ID, CheckoutSpec{Revision: two, Branch: "main", AllRefs: all, Dir: l.tree, Key: "tree"}))
		g := &clone{t, l.tree}
		_, err := g.try("rev-parse", "--verify", "-q", "refs/remotes/origin/old")
		if all != (err == nil) {
			t.Errorf("all refs %v: %v", all, err)
		}
		if all && (g.git("rev-parse", "v1") != one || g.git("log", "-1", "--format=%s", "origin/old") != "1") {
			t.Error("what the other refs have is not there")
		}
	}
}
