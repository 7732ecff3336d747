package local

import (
	"archive/tar"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"slipway/engine"
	"slipway/plainfile"
)

// devices makes nodes of a device that has no driver: an open of one says
// "no such device or address".
func devices(t testing.TB, names ...string) {
	t.Helper()
	for _, n := range names {
		if err := errors.Join(os.MkdirAll(filepath.Dir(n), 0o755), unix.Mknod(n, unix.S_IFCHR|0o666, int(unix.Mkdev(60, 7)))); err != nil {
			t.Fatal(err)
		}
	}
}

func TestDevicesOfOthers(t *testing.T) {
	b := open(t)
	const irregular = "it is no regular file"
	t.Run("build", func(t *testing.T) {
		// As an action would do it.
		id, spec := b.recipe("", nil)
		x, out := b.do("cd /v && rm Dockerfile && mknod Dockerfile c 60 7", func(s *engine.RunSpec) {
			s.Mounts = []engine.Mount{{Volume: spec.Source.Volume, Target: "/v"}}
		})
		if x.Code != 0 {
			t.Fatalf("%+v %s", x, out)
		}
		b.fails(id, spec, "Dockerfile cannot be read: "+irregular)
		spec.Dockerfile = "Dockerfile/x"
		b.fails(b.id("build"), spec, "no such file in the source")

		id, spec = b.recipe("FROM shell\nCOPY . /c\nCMD [\"/bin/ls\",\"-A\",\"/c/sub\"]\n", map[string]string{"sub/file": "x"})
		dir, err := b.Dir(t.Context(), spec.Source.Volume)
		if err != nil {
			t.Fatal(err)
		}
		devices(t, filepath.Join(dir, "sub", "node"))
		spec.Context, spec.Dockerfile = "sub/node", "Dockerfile"
		b.fails(b.id("build"), spec, "no directory of the source", "not a directory")
		spec.Context = ""
		if out := b.says(b.made(id, spec).Image.Digest); out != "file" {
			t.Errorf("the context has %q", out)
		}
		devices(t, filepath.Join(dir, "Dockerfile.dockerignore"))
		b.fails(b.id("build"), spec, "Dockerfile.dockerignore cannot be read: "+irregular)
		if err := os.RemoveAll(filepath.Join(dir, "Dockerfile.dockerignore")); err != nil {
			t.Fatal(err)
		}
		devices(t, filepath.Join(dir, ".dockerignore"))
		b.fails(b.id("build"), spec, ".dockerignore cannot be read: "+irregular)
	})
	t.Run("image", func(t *testing.T) {
		id, spec := b.recipe("FROM shell\nRUN rm -f /etc/passwd && mknod /etc/passwd c 60 7\n", nil)
		image := b.made(id, spec).Image.Digest
		id, s := b.sh("true", func(s *engine.RunSpec) { s.Image, s.User = image, "nobody" })
		x, err := b.Run(t.Context(), id, s)
		if err != nil || !strings.Contains(x.Message, "/etc/passwd cannot be read: "+irregular) {
			t.Errorf("a user of its own: %+v, %v", x, err)
		}
	})
	t.Run("for its own use", func(t *testing.T) {
		// Who fills a root directory wants it so.
		if x, out := b.do("mknod /tmp/null c 1 3 && echo x >/tmp/null && test -c /tmp/null && echo fine"); x.Code != 0 || out != "fine" {
			t.Errorf("%+v %q", x, out)
		}
	})
}

// TestDeviceInPlaceOfFile is about what was a file when it was looked at.
func TestDeviceInPlaceOfFile(t *testing.T) {
	dir := t.TempDir()
	devices(t, filepath.Join(dir, "src", "node"))
	if err := os.Mkdir(filepath.Join(dir, "dst"), 0o755); err != nil {
		t.Fatal(err)
	}
	src, err := os.OpenRoot(filepath.Join(dir, "src"))
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	dst, err := os.OpenRoot(filepath.Join(dir, "dst"))
	if err != nil {
		t.Fatal(err)
	}
	defer dst.Close()
	p := packer{root: src, t: tar.NewWriter(io.Discard), links: map[inode]string{}}
	if err := p.file("node", "node"); err != nil {
		t.Errorf("packed: %v", err)
	}
	c := cloner{ctx: t.Context(), src: src, dst: dst, links: map[inode]string{}}
	if err := c.file("node"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("cloned: %v", err)
	}
	if _, err := (contextFS{root: src}).Open("node"); !errors.Is(err, plainfile.ErrIrregular) {
		t.Errorf("sent: %v", err)
	}
}
