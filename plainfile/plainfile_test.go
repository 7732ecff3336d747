package plainfile

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestNothingElseIsOpened asks for device nodes without a driver: an open of
// one says ENXIO.
func TestNothingElseIsOpened(t *testing.T) {
	dir := t.TempDir()
	node := filepath.Join(dir, "node")
	if err := unix.Mknod(node, unix.S_IFCHR|0o666, int(unix.Mkdev(60, 7))); err != nil { // 60 is for local use
		t.Fatalf("no device nodes can be made here: %v", err)
	}
	if _, err := os.Open(node); !errors.Is(err, unix.ENXIO) {
		t.Fatalf("an open of the node says %v", err)
	}
	if err := errors.Join(
		os.Symlink("node", filepath.Join(dir, "link")),
		unix.Mkfifo(filepath.Join(dir, "pipe"), 0o644),
		os.Mkdir(filepath.Join(dir, "sub"), 0o755),
	); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	for _, name := range []string{"node", "link", "pipe", "sub", "."} {
		if _, err := Open(root, name); !errors.Is(err, ErrIrregular) {
			t.Errorf("open %s: %v", name, err)
		}
	}
	for _, name := range []string{"node", "link", "pipe"} {
		if _, err := Dir(root, name); !errors.Is(err, unix.ENOTDIR) {
			t.Errorf("directory %s: %v", name, err)
		}
		if _, err := Below(root, name); !errors.Is(err, unix.ENOTDIR) {
			t.Errorf("root %s: %v", name, err)
		}
		if _, err := fs.ReadDir(Tree(root), name); !errors.Is(err, unix.ENOTDIR) {
			t.Errorf("list %s: %v", name, err)
		}
	}
}

func TestOpen(t *testing.T) {
	dir := t.TempDir()
	if err := errors.Join(
		os.WriteFile(filepath.Join(dir, "out"), []byte("theirs"), 0o600),
		os.MkdirAll(filepath.Join(dir, "in", "sub"), 0o755),
		os.WriteFile(filepath.Join(dir, "in", "sub", "file"), []byte("ours"), 0o600),
		os.Symlink("sub", filepath.Join(dir, "in", "way")),
		os.Symlink("sub/../way/file", filepath.Join(dir, "in", "link")),
		os.Symlink("../out", filepath.Join(dir, "in", "up")),
		os.Symlink(filepath.Join(dir, "out"), filepath.Join(dir, "in", "absolute")),
	); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(filepath.Join(dir, "in"))
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	below, err := Below(root, "way")
	if err != nil {
		t.Fatal(err)
	}
	defer below.Close()
	for name, in := range map[string]*os.Root{"sub/file": root, "link": root, "file": below} {
		f, err := Open(in, name)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if b, err := io.ReadAll(f); string(b) != "ours" || err != nil {
			t.Errorf("%s: %q, %v", name, b, err)
		}
		_ = f.Close()
	}
	for _, name := range []string{"up", "absolute", "../out"} {
		if _, err := Open(root, name); !errors.Is(err, errOut) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, want := range map[string]error{"none": fs.ErrNotExist, "link/x": unix.ENOTDIR} {
		if _, err := Open(root, name); !errors.Is(err, want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if list, err := fs.ReadDir(Tree(root), "way"); err != nil || len(list) != 1 || list[0].Name() != "file" {
		t.Errorf("listed: %v, %v", list, err)
	}
}
