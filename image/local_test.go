package image

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/crane"

	"slipway/access"
	"slipway/db"
	"slipway/engine/local"
	"slipway/project"
)

// TestRegistryOnTheLocalEngine pushes, pulls and deletes on the true store.
func TestRegistryOnTheLocalEngine(t *testing.T) {
	e, err := local.Open(t.Context(), local.Options{Dir: filepath.Join(t.TempDir(), "engine")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Wipe(context.Background()); err != nil {
			t.Errorf("wipe: %v", err)
		}
	})
	for what, f := range map[string]func(*testing.T, *world){"push and pull": testPushAndPull, "index": testIndex, "concurrent": testConcurrentPushes} {
		w := newWorldOn(t, e.Images(), e.Blobs())
		t.Run(what, func(t *testing.T) {
			w.t = t
			f(t, w)
		})
		for id := range w.holds() { // the next world has repositories of the same number
			w.must(w.store.Release(t.Context(), prefix+id))
		}
	}
}

// beARegistry is a server of its own: data dir, then address file.
func beARegistry(dir string) int {
	ctx := context.Background()
	fail := func(err error) int {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	e, err := local.Open(ctx, local.Options{Dir: filepath.Join(dir, "engine")})
	if err != nil {
		return fail(err)
	}
	d, err := db.Open(ctx, filepath.Join(dir, "slipway.db"))
	if err != nil {
		return fail(err)
	}
	acc, projects := access.New(d), project.NewProjects(d)
	token := filepath.Join(dir, "token")
	if _, err := acc.Bootstrap(ctx, "ann", func(tx *db.Tx, u access.User) error {
		_, err := project.BootstrapWorkspace(tx, "team", u)
		return err
	}, func(secret string) error { return os.WriteFile(token, []byte(secret), 0o600) }); err != nil {
		return fail(err)
	}
	images := New(Config{Hosts: []string{"slipway.local"}}, d, projects, e.Images(), e.Blobs())
	go func() { _ = images.Run(ctx) }()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return fail(err)
	}
	mux := http.NewServeMux()
	mux.Handle("/v2/", images.Handler(func(r *http.Request) (access.Actor, error) {
		_, secret, _ := r.BasicAuth()
		return acc.Authenticate(r.Context(), secret, "127.0.0.1")
	}, http.NotFoundHandler()))
	mux.HandleFunc("/holds", func(w http.ResponseWriter, r *http.Request) {
		h, err := e.Images().Holds(r.Context(), prefix)
		if err == nil {
			err = d.Read(r.Context(), func(tx *db.Tx) error {
				rows, err := db.Column[string](tx, `SELECT id || ' ' || digest || ' ' || state FROM image_holds`)
				for _, row := range rows {
					var id, digest, state string
					_, _ = fmt.Sscan(row, &id, &digest, &state)
					if h[id] == digest && state == "held" {
						delete(h, id)
						continue
					}
					fmt.Fprintln(w, "row without hold:", row)
				}
				for id := range h {
					fmt.Fprintln(w, "hold without row:", id)
				}
				return err
			})
		}
		if err != nil {
			fmt.Fprintln(w, err)
		}
	})
	mux.HandleFunc("/wipe", func(http.ResponseWriter, *http.Request) { _ = e.Wipe(context.Background()); os.Exit(0) })
	fmt.Println("http://" + l.Addr().String())
	return fail(http.Serve(l, mux))
}

type lifeOf struct {
	cmd *exec.Cmd
	url string
}

func live(t *testing.T, dir, crash string) lifeOf {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "be-a-registry", dir)
	cmd.Env = append(os.Environ(), "SLIPWAY_CRASH="+crash)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		_ = cmd.Wait()
		t.Fatalf("the registry does not start: %v", err)
	}
	t.Cleanup(func() { // when the test ended early
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return lifeOf{cmd, strings.TrimSpace(line)}
}

// TestKilledRegistry kills the server at each place of a push, a tag, and a
// delete, and wants the next life to have all that was acknowledged, to take
// the same push again, and to have holds and rows agree.
func TestKilledRegistry(t *testing.T) {
	dir := t.TempDir()
	img := randomImage(t, 2000, 2)
	t.Cleanup(func() { // after the cleanups of all lives
		last := live(t, dir, "")
		_, _ = http.Get(last.url + "/wipe")
		_ = last.cmd.Wait()
		http.DefaultClient.CloseIdleConnections()
	})
	first := live(t, dir, "")
	secret, err := os.ReadFile(filepath.Join(dir, "token"))
	if err != nil {
		t.Fatal(err)
	}
	opts := []crane.Option{crane.WithAuth(&authn.Basic{Username: "x", Password: string(secret)}), crane.Insecure}
	host := func(l lifeOf) string { return strings.TrimPrefix(l.url, "http://") }
	if err := crane.Push(img, host(first)+"/team/kept:v1", opts...); err != nil {
		t.Fatal(err)
	}
	_ = first.cmd.Process.Kill()
	_ = first.cmd.Wait()
	for n, place := range []string{
		"image: upload begun", "image: blob stored", "image: blob stored#3", "image: manifest stored",
		"image: held before its row", "image: manifest pushed", "image: hold released",
	} {
		killed := live(t, dir, place)
		next := randomImage(t, 2000, 2)
		ref := fmt.Sprintf("/team/app%d:v1", n)
		err := crane.Push(next, host(killed)+ref, opts...)
		if place == "image: hold released" {
			d := imageDigest(t, next)
			if err != nil {
				t.Errorf("%s: %v", place, err)
			}
			err = crane.Delete(host(killed)+"/team/app"+fmt.Sprint(n)+"@"+d, opts...)
			_ = err // it may have been answered before the kill
		} else if err == nil {
			t.Errorf("%s: the push was not interrupted", place)
		}
		_ = killed.cmd.Wait()
		if killed.cmd.ProcessState.Success() || !strings.Contains(killed.cmd.ProcessState.String(), "killed") {
			t.Errorf("%s: ended with %s", place, killed.cmd.ProcessState)
		}
		last := live(t, dir, "")
		if err := crane.Push(next, host(last)+ref, opts...); err != nil {
			t.Errorf("%s: push again: %v", place, err)
		}
		for ref, want := range map[string]string{ref: imageDigest(t, next), "/team/kept:v1": imageDigest(t, img)} {
			got, err := crane.Pull(host(last)+ref, opts...)
			if err != nil || imageDigest(t, got) != want {
				t.Errorf("%s: pull %s: %v", place, ref, err)
				continue
			}
			if err := crane.Save(got, "x:y", filepath.Join(t.TempDir(), "x.tar")); err != nil {
				t.Errorf("%s: pull %s: %v", place, ref, err)
			}
		}
		until(t, "holds and rows agree", func() bool {
			res, err := http.Get(last.url + "/holds")
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			b := make([]byte, 10000)
			k, _ := res.Body.Read(b)
			if k > 0 {
				time.Sleep(10 * time.Millisecond)
			}
			return k == 0
		})
		_ = last.cmd.Process.Kill()
		_ = last.cmd.Wait()
	}
}
