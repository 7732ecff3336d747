package enginetest

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"slipway/engine"
)

func (s *suite) volumes(t *testing.T) {
	vs := s.Engine.Volumes
	owner := engine.Owner("pipeline/77002")
	defer func() { _ = s.Engine.Remove(t.Context(), owner) }()
	t.Run("put and get", func(t *testing.T) {
		v := s.volume(t, owner)
		s.ok(t, vs().Ensure(t.Context(), v, owner))
		s.ok(t, vs().Put(t.Context(), v, "/new/dir", bytes.NewReader(Tar(t, nil, map[string]string{"l": "a/b"}, map[string][]byte{"a/b": []byte("one"), "c": []byte("two")}))))
		r, err := vs().Get(t.Context(), v, "/")
		s.ok(t, err)
		defer r.Close()
		all := entries(t, r)
		if all["new/dir/a/b"] != "one" || all["new/dir/c"] != "two" || all["new/dir/l"] != "-> a/b" || all["new/dir"] != "dir" {
			t.Errorf("got %v", all)
		}
		if got := s.file(t, v, "new/dir/c"); got != "two" {
			t.Errorf("one file: %q", got)
		}
		if n, err := vs().Usage(t.Context(), v); err != nil || n < 6 {
			t.Errorf("usage %d %v", n, err)
		}
		s.ok(t, vs().Put(t.Context(), v, "new/dir", bytes.NewReader(Tar(t, nil, nil, map[string][]byte{"c": []byte("three")}))))
		if got := s.file(t, v, "new/dir/c"); got != "three" {
			t.Errorf("put over it: %q", got)
		}
	})
	t.Run("what is not there", func(t *testing.T) {
		v := s.volume(t, owner)
		if _, err := vs().Get(t.Context(), v, "nothing"); !errdefs.IsNotFound(err) {
			t.Errorf("a path: %v", err)
		}
		_, err := vs().Get(t.Context(), "never-made", "/")
		err2 := vs().Put(t.Context(), "never-made", "/", bytes.NewReader(Tar(t, nil, nil, nil)))
		_, err3 := vs().Usage(t.Context(), "never-made")
		if !errdefs.IsNotFound(err) || !errdefs.IsNotFound(err2) || !errdefs.IsNotFound(err3) {
			t.Errorf("a volume: %v; %v; %v", err, err2, err3)
		}
		if err := vs().Ensure(t.Context(), "", owner); !errdefs.IsInvalidArgument(err) {
			t.Errorf("no id: %v", err)
		}
	})
	t.Run("remove", func(t *testing.T) {
		v := s.volume(t, owner)
		s.ok(t, vs().Put(t.Context(), v, "/", bytes.NewReader(Tar(t, nil, nil, map[string][]byte{"a": []byte("one")}))))
		for range 2 {
			s.ok(t, vs().Remove(t.Context(), v))
		}
		s.ok(t, vs().Ensure(t.Context(), v, owner))
		if got := s.file(t, v, "a"); got != "" {
			t.Errorf("made again it has %q", got)
		}
	})
	t.Run("they outlive a restart", func(t *testing.T) {
		v := s.volume(t, owner)
		s.ok(t, vs().Put(t.Context(), v, "/", bytes.NewReader(Tar(t, nil, nil, map[string][]byte{"a": []byte("one")}))))
		s.reopen(t)
		if got := s.file(t, v, "a"); got != "one" {
			t.Errorf("it has %q", got)
		}
	})
	s.hostile(t, owner)
	s.clones(t, owner)
	s.snapshots(t)
}

// hostile puts tars that try to write outside of the volume.
func (s *suite) hostile(t *testing.T, owner engine.Owner) {
	outside := t.TempDir()
	canary := filepath.Join(outside, "canary")
	if err := os.WriteFile(canary, []byte("alive"), 0o600); err != nil {
		t.Fatal(err)
	}
	file := func(name string) []tar.Header {
		return []tar.Header{{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: 4}}
	}
	link := func(name, to string) tar.Header {
		return tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: to}
	}
	hard := func(name, to string) tar.Header {
		return tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: to}
	}
	for name, hs := range map[string][]tar.Header{
		"dots":                        file("../../../../../../../../../../.." + canary),
		"an absolute name":            file(canary),
		"a link, then through it":     append([]tar.Header{link("l", outside)}, file("l/canary")...),
		"a link to the file, over it": append([]tar.Header{link("l", canary)}, file("l")...),
		"a link of links":             append([]tar.Header{link("a", "/"), link("b", "a"+outside)}, file("b/canary")...),
		"a hard link, then over it":   append([]tar.Header{hard("h", canary)}, file("h")...),
		"a hard link by dots":         append([]tar.Header{hard("h", "../../../../../../../../../.."+canary)}, file("h")...),
		"a hard link through a link":  append([]tar.Header{link("l", outside), hard("h", "l/canary")}, file("h")...),
	} {
		t.Run("a tar with "+name+" stays inside", func(t *testing.T) {
			v := s.volume(t, owner)
			var b bytes.Buffer
			w := tar.NewWriter(&b)
			for _, h := range hs {
				_ = w.WriteHeader(&h)
				if h.Typeflag == tar.TypeReg {
					_, _ = w.Write([]byte("evil"))
				}
			}
			_ = w.Close()
			err := s.Engine.Volumes().Put(t.Context(), v, "/", &b)
			if err != nil && !errdefs.IsInvalidArgument(err) {
				t.Errorf("the error is %v", err)
			}
			if got, err := os.ReadFile(canary); err != nil || string(got) != "alive" {
				t.Errorf("outside: %q %v", got, err)
			}
			if left, _ := os.ReadDir(outside); len(left) != 1 {
				t.Errorf("outside: %v", left)
			}
			for _, n := range []string{"l", "l/canary", "b/canary", "h", "a/" + outside + "/canary"} {
				if got := s.file(t, v, n); strings.Contains(got, "alive") {
					t.Errorf("Get of %s reads what is outside", n)
				}
			}
		})
	}
	t.Run("a cut tar is an error", func(t *testing.T) {
		v := s.volume(t, owner)
		b := Tar(t, nil, nil, map[string][]byte{"a": bytes.Repeat([]byte("x"), 5000)})
		if err := s.Engine.Volumes().Put(t.Context(), v, "/", bytes.NewReader(b[:3000])); !errdefs.IsInvalidArgument(err) {
			t.Errorf("the error is %v", err)
		}
	})
}

func (s *suite) clones(t *testing.T, owner engine.Owner) {
	c, ok := s.Engine.(engine.Snapshotter)
	if !ok {
		return
	}
	t.Run("a clone goes its own way", func(t *testing.T) {
		c = s.Engine.(engine.Snapshotter)
		v, to := s.volume(t, owner), s.id("clone")
		s.ok(t, s.Engine.Volumes().Put(t.Context(), v, "/", bytes.NewReader(Tar(t, nil, map[string]string{"l": "a"}, map[string][]byte{"a": []byte("one"), "d/e": []byte("two")}))))
		s.ok(t, c.Clone(t.Context(), v, to, owner))
		if s.file(t, to, "a") != "one" || s.file(t, to, "d/e") != "two" {
			t.Error("it does not have the content")
		}
		s.ok(t, s.Engine.Volumes().Put(t.Context(), to, "/", bytes.NewReader(Tar(t, nil, nil, map[string][]byte{"a": []byte("other")}))))
		if s.file(t, v, "a") != "one" {
			t.Error("a write to the clone is in the original")
		}
		if err := c.Clone(t.Context(), v, to, owner); !errdefs.IsAlreadyExists(err) {
			t.Errorf("onto one that is there: %v", err)
		}
		if err := c.Clone(t.Context(), "never-made", s.id("clone"), owner); !errdefs.IsNotFound(err) {
			t.Errorf("of one that is not there: %v", err)
		}
	})
}

func (s *suite) snapshots(t *testing.T) {
	if _, ok := s.Engine.(engine.Snapshotter); !ok {
		return
	}
	keeper := func() engine.Snapshotter { return s.Engine.(engine.Snapshotter) }
	owner := engine.Owner("pipeline/77003")
	defer func() { _ = s.Engine.Remove(t.Context(), owner) }()
	put := func(v string, files map[string][]byte) {
		t.Helper()
		s.ok(t, s.Engine.Volumes().Put(t.Context(), v, "/", bytes.NewReader(Tar(t, nil, nil, files))))
	}
	snap := func(id, v string) engine.Snapshot {
		t.Helper()
		k, err := keeper().Snapshot(t.Context(), owner, id, v, engine.SnapshotBounds{})
		s.ok(t, err)
		return k
	}
	restored := func(id string) string {
		t.Helper()
		to := s.id("restored")
		s.ok(t, keeper().Restore(t.Context(), owner, id, to))
		return to
	}
	t.Run("a snapshot stays as the volume was", func(t *testing.T) {
		v, id := s.volume(t, owner), s.id("s")
		s.ok(t, s.Engine.Volumes().Put(t.Context(), v, "/", bytes.NewReader(Tar(t, nil, map[string]string{"l": "a"}, map[string][]byte{"a": []byte("one"), "d/e": []byte("two")}))))
		if k := snap(id, v); k.Files != 4 || k.Size != 6 || k.Added != 6 {
			t.Errorf("it is told as %+v", k)
		}
		put(v, map[string][]byte{"a": []byte("other"), "new": []byte("three")})
		snap(id, v) // once more: it stays
		s.reopen(t)
		to := restored(id)
		if s.file(t, to, "a") != "one" || s.file(t, to, "d/e") != "two" || s.file(t, to, "new") != "" {
			t.Error("it does not have what was there")
		}
		r, err := s.Engine.Volumes().Get(t.Context(), to, "/")
		s.ok(t, err)
		defer r.Close()
		if all := entries(t, r); all["l"] != "-> a" {
			t.Errorf("it has %v", all)
		}
		put(to, map[string][]byte{"d/e": []byte("mine")})
		if again := restored(id); s.file(t, again, "d/e") != "two" {
			t.Error("a write to what was restored is in the snapshot")
		}
		if err := keeper().Restore(t.Context(), owner, id, to); !errdefs.IsAlreadyExists(err) {
			t.Errorf("onto one that is there: %v", err)
		}
	})
	t.Run("what others have is not kept twice", func(t *testing.T) {
		v, one, two, three := s.volume(t, owner), s.id("s"), s.id("s"), s.id("s")
		put(v, map[string][]byte{"a": []byte("a first text"), "b": []byte("a second one")})
		snap(one, v)
		if k := snap(two, v); k.Added != 0 || k.Size != 24 {
			t.Errorf("nothing was changed, and it is told as %+v", k)
		}
		put(v, map[string][]byte{"a": []byte("another")})
		if k := snap(three, v); k.Added != 7 || k.Size != 19 {
			t.Errorf("one was changed, and it is told as %+v", k)
		}
		s.ok(t, keeper().DropSnapshots(t.Context(), owner, one, two, "never-made"))
		if got := s.file(t, restored(three), "b"); got != "a second one" {
			t.Errorf("with the others dropped it has %q", got)
		}
		if err := keeper().Restore(t.Context(), owner, two, s.id("v")); !errdefs.IsNotFound(err) {
			t.Errorf("one that was dropped: %v", err)
		}
		l, err := keeper().Snapshots(t.Context(), owner)
		s.ok(t, err)
		if !slices.Contains(l, three) || slices.Contains(l, one) || slices.Contains(l, two) {
			t.Errorf("there are %v", l)
		}
	})
	t.Run("bounds", func(t *testing.T) {
		v, id := s.volume(t, owner), s.id("s")
		put(v, map[string][]byte{"x": []byte("something of length"), "y": []byte("and more of it")})
		for _, most := range []engine.SnapshotBounds{{Files: 1}, {Added: 20}} {
			if _, err := keeper().Snapshot(t.Context(), owner, id, v, most); !errdefs.IsResourceExhausted(err) {
				t.Errorf("%+v: %v", most, err)
			}
		}
		if err := keeper().Restore(t.Context(), owner, id, s.id("v")); !errdefs.IsNotFound(err) {
			t.Errorf("of it there is something: %v", err)
		}
		if k, err := keeper().Snapshot(t.Context(), owner, id, v, engine.SnapshotBounds{Files: 2, Added: 33}); err != nil || k.Added != 33 {
			t.Errorf("just enough: %+v %v", k, err)
		}
	})
	t.Run("of nothing", func(t *testing.T) {
		if _, err := keeper().Snapshot(t.Context(), owner, s.id("s"), "never-made", engine.SnapshotBounds{}); !errdefs.IsNotFound(err) {
			t.Errorf("of a volume that is not there: %v", err)
		}
		if _, err := keeper().Snapshot(t.Context(), owner, "", s.volume(t, owner), engine.SnapshotBounds{}); !errdefs.IsInvalidArgument(err) {
			t.Errorf("without an id: %v", err)
		}
		other := engine.Owner("pipeline/77004")
		if l, err := keeper().Snapshots(t.Context(), other); err != nil || len(l) != 0 {
			t.Errorf("of who has none: %v %v", l, err)
		}
		s.ok(t, keeper().DropSnapshots(t.Context(), other, "never-made"))
		v := s.volume(t, other)
		_, err := keeper().Snapshot(t.Context(), other, "its", v, engine.SnapshotBounds{})
		s.ok(t, err)
		if err := keeper().Restore(t.Context(), owner, "its", s.id("v")); !errdefs.IsNotFound(err) {
			t.Errorf("that of another owner: %v", err)
		}
		s.ok(t, s.Engine.Volumes().Remove(t.Context(), v))
		all, err := s.Engine.Owners(t.Context())
		s.ok(t, err)
		if !slices.Contains(all, other) {
			t.Error("who has snapshots alone is no owner")
		}
		s.ok(t, s.Engine.Remove(t.Context(), other))
		if err := keeper().Restore(t.Context(), other, "its", s.id("v")); !errdefs.IsNotFound(err) {
			t.Errorf("its owner was removed: %v", err)
		}
	})
}
