package local

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"slipway/engine"
)

// kept is an engine with one volume, and where its files are.
func kept(t testing.TB) (e *Engine, dir string) {
	t.Helper()
	e = onlyVolumes(t)
	if err := e.Volumes().Ensure(t.Context(), "v", "pipeline/1"); err != nil {
		t.Fatal(err)
	}
	dir, err := e.Dir(t.Context(), "v")
	if err != nil {
		t.Fatal(err)
	}
	return e, dir
}

func (e *Engine) keepAs(t testing.TB, id string) engine.Snapshot {
	t.Helper()
	k, err := e.Snapshot(t.Context(), "pipeline/1", id, "v", engine.SnapshotBounds{})
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func (e *Engine) restored(t testing.TB, id string) (dir string) {
	t.Helper()
	to := "of-" + id
	if err := e.Restore(t.Context(), "pipeline/1", id, to); err != nil {
		t.Fatal(err)
	}
	dir, err := e.Dir(t.Context(), to)
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// objects are the contents that are kept.
func (e *Engine) objects(t testing.TB) (l []string) {
	t.Helper()
	all, err := filepath.Glob(e.path("snapshots", "*", "o", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range all {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		l = append(l, string(b))
	}
	slices.Sort(l)
	return l
}

func must(t testing.TB, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// TestSnapshotOfEverything: what a file system can have comes back as it was.
func TestSnapshotOfEverything(t *testing.T) {
	t.Parallel()
	e, dir := kept(t)
	at := func(p string) string { return filepath.Join(dir, p) }
	old := time.Unix(1_000_000_000, 5)
	large := append(bytes.Repeat([]byte("x"), 2<<20), make([]byte, 3<<20)...)
	must(
		t, os.MkdirAll(at("d/deep"), 0o750), os.WriteFile(at("d/f"), []byte("text"), 0o600), os.Link(at("d/f"), at("second")),
		os.Symlink("/etc/passwd", at("out")), os.Symlink("nowhere", at("loose")), unix.Mkfifo(at("pipe"), 0o644), os.WriteFile(at("empty"), nil, 0o644),
		os.WriteFile(at("large"), large, 0o644), os.WriteFile(at("set"), []byte("id"), 0o755), os.Chown(at("set"), 5, 6), os.Chmod(at("set"), 0o755|os.ModeSetuid),
		unix.Setxattr(at("d/f"), "user.note", []byte("kept"), 0), unix.Setxattr(at("d"), "user.note", []byte("too"), 0),
		os.Lchown(at("out"), 7, 8), os.Chtimes(at("d/f"), old, old), os.Chtimes(at("d"), old, old),
	)
	if k := e.keepAs(t, "one"); k.Files != 9 || k.Size != 4+5<<20+2 || k.Added != k.Size {
		t.Errorf("it is told as %+v", k)
	}
	got := e.restored(t, "one")
	at = func(p string) string { return filepath.Join(got, p) }
	var st, st2 unix.Stat_t
	must(t, unix.Lstat(at("d/f"), &st), unix.Lstat(at("second"), &st2))
	if st.Ino != st2.Ino || st.Mode&0o7777 != 0o600 || st.Mtim.Nano() != old.UnixNano() {
		t.Errorf("the file with two names: %+v %+v", st, st2)
	}
	must(t, unix.Lstat(at("d"), &st))
	if st.Mtim.Nano() != old.UnixNano() || st.Mode&0o7777 != 0o750 {
		t.Errorf("a directory: %+v", st)
	}
	must(t, unix.Lstat(at("set"), &st))
	if st.Uid != 5 || st.Gid != 6 || st.Mode&0o7777 != 0o4755 {
		t.Errorf("set-id: %+v", st)
	}
	must(t, unix.Lstat(at("out"), &st))
	if to, err := os.Readlink(at("out")); err != nil || to != "/etc/passwd" || st.Uid != 7 {
		t.Errorf("a link: %q %v %+v", to, err, st)
	}
	for _, name := range []string{"d", "d/f"} {
		var b [16]byte
		if n, err := unix.Getxattr(at(name), "user.note", b[:]); err != nil || n < 3 {
			t.Errorf("attribute of %s: %q %v", name, b[:max(n, 0)], err)
		}
	}
	must(t, unix.Lstat(at("large"), &st))
	if b, err := os.ReadFile(at("large")); err != nil || !bytes.Equal(b, large) || st.Blocks*512 > 3<<20 {
		t.Errorf("the large file: %d bytes in %d blocks, %v", len(b), st.Blocks, err)
	}
	if _, err := os.Lstat(at("pipe")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a pipe: %v", err)
	}
}

// TestSnapshotSeesChanges: whoever changes a file cannot make it look as if it had
// not; one that is as it was is not read again.
func TestSnapshotSeesChanges(t *testing.T) {
	t.Parallel()
	e, dir := kept(t)
	old := time.Unix(1_000_000_000, 0)
	file := filepath.Join(dir, "f")
	must(t, os.WriteFile(file, []byte("text"), 0o644), os.Chtimes(file, old, old))
	e.keepAs(t, "one")
	// Within the same moment, with the same size, and its time put back.
	must(t, os.WriteFile(file, []byte("TEXT"), 0o644), os.Chtimes(file, old, old))
	if k := e.keepAs(t, "two"); k.Added != 4 {
		t.Errorf("changed at once: %+v", k)
	}
	<-time.After(2 * slack) // the clock is what is tested
	e.keepAs(t, "three")
	k := keeper{known: map[string]entry{}, begun: time.Now()}
	m := e.chestOf(t).before("v")
	for _, b := range m {
		k.known[b.name] = b
	}
	var st unix.Stat_t
	must(t, unix.Lstat(file, &st))
	if _, same := k.same(k.entry(keptFile, "f", &st)); !same {
		t.Errorf("it is not known again: %+v", m)
	}
	must(t, os.WriteFile(file, []byte("text"), 0o644), os.Chtimes(file, old, old))
	must(t, unix.Lstat(file, &st))
	if _, same := k.same(k.entry(keptFile, "f", &st)); same {
		t.Error("a change is not seen")
	}
	for id, want := range map[string]string{"one": "text", "two": "TEXT", "three": "TEXT"} {
		if b, err := os.ReadFile(filepath.Join(e.restored(t, id), "f")); err != nil || string(b) != want {
			t.Errorf("%s: %q %v", id, b, err)
		}
	}
	// Lists without a difference are one.
	<-time.After(2 * slack)
	e.keepAs(t, "four")
	e.keepAs(t, "five")
	a, err := os.Stat(e.chestOf(t).list("four"))
	b, err2 := os.Stat(e.chestOf(t).list("five"))
	if err != nil || err2 != nil || !os.SameFile(a, b) {
		t.Errorf("they are two: %v %v", err, err2)
	}
}

func (e *Engine) chestOf(t testing.TB) chest {
	t.Helper()
	s, done := e.chest("pipeline/1")
	done()
	return s
}

// TestDroppedSnapshots: what no list has is removed, also what a kill has left, and
// nothing else.
func TestDroppedSnapshots(t *testing.T) {
	t.Parallel()
	e, dir := kept(t)
	write := func(name, text string) { must(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644)) }
	write("a", "first")
	write("b", "stays")
	e.keepAs(t, "one")
	write("a", "second")
	e.keepAs(t, "two")
	must(t, os.WriteFile(e.chestOf(t).object("left"), []byte("left"), 0o600))
	must(t, e.DropSnapshots(t.Context(), "pipeline/1", "one"))
	if got := e.objects(t); !slices.Equal(got, []string{"second", "stays"}) {
		t.Errorf("there are %q", got)
	}
	must(t, e.DropSnapshots(t.Context(), "pipeline/1", "two"))
	if got := e.objects(t); len(got) != 0 {
		t.Errorf("there are %q", got)
	}
	if last, _ := filepath.Glob(e.path("snapshots", "*", "last", "*")); len(last) != 0 {
		t.Errorf("there are %q", last)
	}
	e.keepAs(t, "three")
	if b, err := os.ReadFile(filepath.Join(e.restored(t, "three"), "b")); err != nil || string(b) != "stays" {
		t.Errorf("after that: %q %v", b, err)
	}
}

// TestBrokenSnapshot: what is not whole is never taken for what it was.
func TestBrokenSnapshot(t *testing.T) {
	t.Parallel()
	e, dir := kept(t)
	must(t, os.WriteFile(filepath.Join(dir, "a"), []byte("first"), 0o644))
	e.keepAs(t, "one")
	object, err := filepath.Glob(e.path("snapshots", "*", "o", "*"))
	if err != nil || len(object) != 1 {
		t.Fatal(object, err)
	}
	must(t, os.WriteFile(object[0], []byte("FIRST"), 0o600))
	if err := e.Restore(t.Context(), "pipeline/1", "one", "to"); !errdefs.IsDataLoss(err) || !strings.Contains(err.Error(), "a: ") {
		t.Errorf("another content: %v", err)
	}
	// A part of it, as a kill leaves it, is made anew.
	must(t, os.WriteFile(object[0], []byte("fi"), 0o600), os.WriteFile(filepath.Join(dir, "same"), []byte("first"), 0o644))
	e.keepAs(t, "two")
	if b, err := os.ReadFile(filepath.Join(e.restored(t, "two"), "a")); err != nil || string(b) != "first" {
		t.Errorf("made anew: %q %v", b, err)
	}
	list := e.chestOf(t).list("two")
	text, err := os.ReadFile(list)
	must(t, err)
	for cut := range text {
		if _, err := decodeManifest(text[:cut]); !errdefs.IsDataLoss(err) {
			t.Fatalf("cut after %d bytes: %v", cut, err)
		}
	}
	must(t, os.WriteFile(list, text[:len(text)/2], 0o600))
	if err := e.Restore(t.Context(), "pipeline/1", "two", "to"); !errdefs.IsDataLoss(err) {
		t.Errorf("a list that is cut: %v", err)
	}
	if _, err := e.Snapshot(t.Context(), "pipeline/1", "two", "v", engine.SnapshotBounds{}); !errdefs.IsDataLoss(err) {
		t.Errorf("taken again: %v", err)
	}
}

// TestSnapshotBounds: what is in the way of one leaves nothing.
func TestSnapshotBounds(t *testing.T) {
	t.Parallel()
	e, dir := kept(t)
	deep := dir
	for range deepest + 5 {
		deep = filepath.Join(deep, "d")
	}
	must(t, os.MkdirAll(deep, 0o755), os.WriteFile(filepath.Join(dir, "a"), []byte("first"), 0o644))
	if _, err := e.Snapshot(t.Context(), "pipeline/1", "one", "v", engine.SnapshotBounds{}); !errdefs.IsResourceExhausted(err) {
		t.Errorf("too deep: %v", err)
	}
	must(t, os.RemoveAll(filepath.Join(dir, "d")), os.WriteFile(filepath.Join(dir, "b"), nil, 0o644), os.Truncate(filepath.Join(dir, "b"), 1<<40))
	if _, err := e.Snapshot(t.Context(), "pipeline/1", "one", "v", engine.SnapshotBounds{Added: 1 << 20}); !errdefs.IsResourceExhausted(err) {
		t.Errorf("a tebibyte of nothing: %v", err)
	}
	if got := e.objects(t); len(got) != 0 {
		t.Errorf("there are %q", got)
	}
}

// BenchmarkSnapshot takes snapshots of volumes with so many files, of which one
// is new.
func BenchmarkSnapshot(b *testing.B) {
	for _, n := range []int{10, 6_000, 50_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			e, dir := kept(b)
			for i := range n {
				at := filepath.Join(dir, fmt.Sprint("d", i/20), "sub")
				if i%20 == 0 {
					must(b, os.MkdirAll(at, 0o755))
				}
				must(b, os.WriteFile(filepath.Join(at, fmt.Sprint("f", i)), bytes.Repeat([]byte(fmt.Sprint(i)), 700), 0o644))
			}
			<-time.After(2 * slack)
			begun := time.Now()
			e.keepAs(b, "first")
			b.ReportMetric(float64(time.Since(begun).Milliseconds()), "ms/first")
			i := 0
			for b.Loop() {
				i++
				b.StopTimer()
				_ = os.Remove(filepath.Join(dir, "changed"))
				must(b, os.WriteFile(filepath.Join(dir, "changed"), []byte(fmt.Sprint(i)), 0o644))
				b.StartTimer()
				e.keepAs(b, fmt.Sprint("s", i))
			}
			begun = time.Now()
			e.restored(b, "first")
			b.ReportMetric(float64(time.Since(begun).Milliseconds()), "ms/restore")
			begun = time.Now()
			must(b, e.DropSnapshots(b.Context(), "pipeline/1", "s1"))
			b.ReportMetric(float64(time.Since(begun).Milliseconds()), "ms/drop")
		})
	}
}
