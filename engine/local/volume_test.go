package local

import (
	"archive/tar"
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/errdefs"

	"slipway/engine"
)

// onlyVolumes is an engine of which only the volumes are used.
func onlyVolumes(t testing.TB) *Engine {
	e := &Engine{dir: t.TempDir()}
	if err := os.MkdirAll(e.path("volumes"), 0o700); err != nil {
		t.Fatal(err)
	}
	return e
}

func pack(t testing.TB, hs ...tar.Header) io.Reader {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range hs {
		body := ""
		if h.Typeflag == tar.TypeReg {
			body = h.Linkname
			h.Linkname, h.Size = "", int64(len(body))
		}
		if h.Mode == 0 {
			h.Mode = 0o644
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, body); err != nil {
			t.Fatal(err)
		}
	}
	_ = w.Close()
	return &b
}

// file is an entry; its body is in Linkname.
func file(name, body string) tar.Header {
	return tar.Header{Typeflag: tar.TypeReg, Name: name, Linkname: body}
}

func TestUnpackStaysInside(t *testing.T) {
	e := onlyVolumes(t)
	v := e.Volumes()
	outside := filepath.Join(e.path("volumes"), "outside")
	if err := os.WriteFile(outside, []byte("whole"), 0o600); err != nil {
		t.Fatal(err)
	}
	link := func(name, to string) tar.Header {
		return tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: to}
	}
	for what, list := range map[string][]tar.Header{
		"a name with dots":         {file("../../outside", "x")},
		"dots within":              {file("a/../../../outside", "x")},
		"through a link":           {link("l", "../.."), file("l/outside", "x")},
		"through an absolute link": {link("l", filepath.Dir(outside)), file("l/outside", "x")},
		"through a link to it":     {link("l", outside), file("l", "x")},
		"a hard link":              {{Typeflag: tar.TypeLink, Name: "h", Linkname: "../../outside"}, file("h", "x")},
		"a hard link by a link":    {link("l", "../.."), {Typeflag: tar.TypeLink, Name: "h", Linkname: "l/outside"}, file("h", "x")},
		"a device":                 {{Typeflag: tar.TypeChar, Name: "d", Devmajor: 1, Devminor: 3}},
		"a directory by a link":    {link("l", "../../made"), {Typeflag: tar.TypeDir, Name: "l/x", Mode: 0o755}},
		"modes by a link":          {link("l", outside), {Typeflag: tar.TypeDir, Name: "l", Mode: 0o777}},
	} {
		id := strings.ReplaceAll(what, " ", "-")
		if err := v.Ensure(t.Context(), id, "o"); err != nil {
			t.Fatal(err)
		}
		err := v.Put(t.Context(), id, "/", pack(t, list...))
		if err != nil && !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", what, err)
		}
		if b, _ := os.ReadFile(outside); string(b) != "whole" {
			t.Fatalf("%s: the file outside is %q", what, b)
		}
		if _, err := os.Lstat(filepath.Join(e.path("volumes"), "made")); err == nil {
			t.Errorf("%s: made something outside", what)
		}
		if st, _ := os.Stat(outside); st.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode %v", what, st.Mode())
		}
	}
	// A link out of the volume cannot be read through.
	if err := v.Put(t.Context(), "a-device", "/", pack(t, link("out", "/etc/passwd"), link("up", "../../../volumes/outside"))); err != nil {
		t.Fatal(err)
	}
	for _, n := range []string{"out", "up"} {
		if r, err := v.Get(t.Context(), "a-device", n); err == nil {
			b, _ := io.ReadAll(r)
			t.Errorf("%s: %q", n, b)
		}
	}
	for _, dir := range []string{"out", "up"} {
		if err := v.Put(t.Context(), "a-device", dir, pack(t, file("x", "x"))); err == nil {
			t.Errorf("put below %s", dir)
		}
	}
}

func TestVolumeKeepsWhatWasPut(t *testing.T) {
	e := onlyVolumes(t)
	v := e.Volumes()
	if err := v.Ensure(t.Context(), "v/with slash", "execution/1"); err != nil {
		t.Fatal(err)
	}
	list := []tar.Header{
		{Typeflag: tar.TypeDir, Name: "d/", Mode: 0o1777, Uid: 5, Gid: 6},
		{Typeflag: tar.TypeReg, Name: "d/f", Linkname: "body", Mode: 0o4755, Uid: 1000, Gid: 1001},
		{Typeflag: tar.TypeLink, Name: "d/g", Linkname: "d/f"},
		{Typeflag: tar.TypeSymlink, Name: "l", Linkname: "/abs/olute"},
		file("replaced", "old"), file("replaced", "new"),
	}
	if err := v.Put(t.Context(), "v/with slash", "sub", pack(t, list...)); err != nil {
		t.Fatal(err)
	}
	if err := e.Clone(t.Context(), "v/with slash", "copy", "execution/2"); err != nil {
		t.Fatal(err)
	}
	if err := e.Clone(t.Context(), "v/with slash", "copy", "execution/2"); !errdefs.IsAlreadyExists(err) {
		t.Errorf("%v", err)
	}
	for _, id := range []string{"v/with slash", "copy"} {
		dir, err := e.Dir(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		var d, f, g syscall.Stat_t
		for p, s := range map[string]*syscall.Stat_t{"sub/d": &d, "sub/d/f": &f, "sub/d/g": &g} {
			if err := syscall.Lstat(filepath.Join(dir, p), s); err != nil {
				t.Fatal(err)
			}
		}
		if d.Mode&0o7777 != 0o1777 || d.Uid != 5 || f.Mode&0o7777 != 0o4755 || f.Uid != 1000 || f.Gid != 1001 || f.Ino != g.Ino {
			t.Errorf("%s: %o %d %o %d", id, d.Mode, d.Uid, f.Mode, f.Uid)
		}
		if to, _ := os.Readlink(filepath.Join(dir, "sub", "l")); to != "/abs/olute" {
			t.Errorf("%s: link to %q", id, to)
		}
		if b, _ := os.ReadFile(filepath.Join(dir, "sub", "replaced")); string(b) != "new" {
			t.Errorf("%s: %q", id, b)
		}
		if n, err := v.Usage(t.Context(), id); err != nil || n <= 0 || n > 8192 {
			t.Errorf("%s: %d bytes, %v", id, n, err)
		}
		r, err := v.Get(t.Context(), id, "sub")
		if err != nil {
			t.Fatal(err)
		}
		names := ""
		for tr := tar.NewReader(r); ; {
			h, err := tr.Next()
			if err != nil {
				break
			}
			names += h.Name + string(h.Typeflag) + " "
		}
		if names != "d/5 d/f0 d/g1 l2 replaced0 " {
			t.Errorf("%s: %s", id, names)
		}
	}
	owners := map[string]engine.Owner{}
	l, _ := volumes{e}.records()
	for _, r := range l {
		owners[r.ID] = r.Owner
	}
	if len(owners) != 2 || owners["copy"] != "execution/2" || owners["v/with slash"] != "execution/1" {
		t.Errorf("%v", owners)
	}
	if err := v.Remove(t.Context(), "copy"); err != nil {
		t.Error(err)
	}
	if err := v.Remove(t.Context(), "copy"); err != nil {
		t.Error(err)
	}
	if ents, _ := os.ReadDir(e.path("volumes")); len(ents) != 1 {
		t.Errorf("%v", ents)
	}
	if _, err := v.Get(t.Context(), "copy", "/"); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(io.ErrUnexpectedEOF)
	if err := v.Put(ctx, "v/with slash", "/", pack(t, file("x", "y"))); err == nil {
		t.Error("put by somebody who has gone")
	}
}

func TestMountsStayInside(t *testing.T) {
	b := open(t)
	v := b.volume("o")
	dir, _ := b.Dir(t.Context(), v)
	host := t.TempDir()
	if err := os.WriteFile(filepath.Join(host, "secret"), []byte("secret"), 0o644); err != nil {
		t.Fatal(err)
	}
	link := func(to, name string) {
		t.Helper()
		if err := os.Symlink(to, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	link(host, "abs")
	link("../../../../../../../../../.."+host, "up")
	link("/proc/self/root", "magic")
	link("/inside", "good")
	if err := os.MkdirAll(filepath.Join(dir, "inside"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "inside", "f"), []byte("mine"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{"abs", "up", "magic", "magic" + host, "abs/x", "pipe"} {
		id, s := b.sh("cat /m/secret; ls /m", func(s *engine.RunSpec) {
			s.Mounts = []engine.Mount{{Volume: v, Path: p, Target: "/m"}}
		})
		if _, err := b.Run(t.Context(), id, s); err != nil {
			if !errdefs.IsInvalidArgument(err) {
				t.Errorf("%s: %v", p, err)
			}
			continue
		}
		if out, _ := os.ReadFile(filepath.Join(s.Log, "000000.log")); strings.Contains(string(out), "o secret") || strings.Contains(string(out), "etc") {
			t.Errorf("%s: %s", p, out)
		}
	}
	if ents, _ := os.ReadDir(host); len(ents) != 1 {
		t.Errorf("the host's directory: %v", ents)
	}
	for _, p := range []string{"good/f", "inside/f"} { // a file is mounted as one
		x, out := b.do("cat /m; ls -la / | grep -c ' m$'", func(s *engine.RunSpec) {
			s.Mounts = []engine.Mount{{Volume: v, Path: p, Target: "/m", ReadOnly: true}}
		})
		if x.Code != 0 || !strings.HasPrefix(out, "mine") {
			t.Errorf("%s: %+v %q", p, x, out)
		}
	}
	// Links in the image lead nowhere but into the image.
	x, out := b.do("ln -s " + host + " /out; cat /out/secret 2>/dev/null || echo nothing")
	if x.Code != 0 || out != "nothing" {
		t.Errorf("%q", out)
	}
	id, s := b.sh("sleep 0.1", func(s *engine.RunSpec) {
		s.Mounts = []engine.Mount{{Volume: v, Target: "/vol"}}
		s.Export = &engine.VolumePath{Volume: v, Path: "abs/stolen.tar"}
	})
	if _, err := b.Run(t.Context(), id, s); !errdefs.IsInvalidArgument(err) {
		t.Errorf("export by a link: %v", err)
	}
	if err := b.Forget(t.Context(), id); err != nil {
		t.Error(err)
	}
	if ents, _ := os.ReadDir(host); len(ents) != 1 {
		t.Errorf("the host's directory: %v", ents)
	}
	until(t, "nothing is left", func() bool { return b.traces() == noTraces })
}
