package secret

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"

	"slipway/project"
)

func TestBox(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "master.key")
	var all sync.WaitGroup
	boxes := make([]*Box, 8)
	for i := range boxes { // however many begin at once, there is one key
		all.Go(func() {
			var err error
			if boxes[i], err = OpenBox(file); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if t.Failed() {
		return
	}
	sealed, err := boxes[0].Seal([]byte("hunter2"), "a/1")
	if err != nil || bytes.Contains(sealed, []byte("hunter2")) {
		t.Fatal(err)
	}
	for _, b := range boxes {
		if text, err := b.Open(sealed, "a/1"); err != nil || string(text) != "hunter2" {
			t.Error(err)
		}
		if _, err := b.Open(sealed, "a/2"); !errdefs.IsDataLoss(err) {
			t.Error("opened as another row:", err)
		}
	}
	if again, _ := boxes[0].Seal([]byte("hunter2"), "a/1"); bytes.Equal(again, sealed) {
		t.Error("sealed the same way twice")
	}
	for i := range sealed {
		broken := bytes.Clone(sealed)
		broken[i] ^= 1
		if _, err := boxes[0].Open(broken, "a/1"); err == nil {
			t.Error("opened though it was changed")
		}
	}
	for _, empty := range [][]byte{nil, {}, sealed[:4]} {
		if _, err := boxes[0].Open(empty, "a/1"); !errdefs.IsDataLoss(err) {
			t.Error(err)
		}
	}
	if _, err := boxes[0].Seal(nil, ""); err == nil {
		t.Error("sealed for no row")
	}
	s, err := os.Stat(file)
	if err != nil || s.Mode().Perm() != 0o600 {
		t.Error(s.Mode(), err)
	}
	if l, _ := filepath.Glob(file + "?*"); len(l) > 0 {
		t.Error(l)
	}
}

func TestKeyFileErrors(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	good := filepath.Join(dir, "good")
	if _, err := OpenBox(good); err != nil {
		t.Fatal(err)
	}
	key, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	put := func(name string, b []byte, mode os.FileMode) string {
		f := filepath.Join(dir, name)
		if err := os.WriteFile(f, b, mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(f, mode); err != nil {
			t.Fatal(err)
		}
		return f
	}
	for file, says := range map[string]string{
		put("open", key, 0o644):                 "chmod 600",
		put("cut", key[:len(key)/2], 0o600):     "damaged",
		put("empty", nil, 0o600):                "damaged",
		put("text", []byte("hunter2"), 0o600):   "damaged",
		put("json", []byte(`{"a":1}`), 0o600):   "damaged",
		filepath.Join(dir, "missing", "x.key"):  "no such file",
		filepath.Join(good, "below a file.key"): "not a directory",
		dir:                                     "",
	} {
		_, err := OpenBox(file)
		if err == nil || !strings.Contains(err.Error(), says) || strings.Contains(err.Error(), "\n") || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", file, err)
		}
	}
}

func TestGuard(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	if err := w.box.Guard(t.Context(), w.db); err != nil {
		t.Error(err)
	}
	same, err := OpenBox(w.box.file)
	if err != nil {
		t.Fatal(err)
	}
	if err := same.Guard(t.Context(), w.db); err != nil {
		t.Error(err)
	}
	wrong := filepath.Join(t.TempDir(), "wrong.key")
	if _, err := OpenBox(wrong); err != nil {
		t.Fatal(err)
	}
	b, err := OpenBox(wrong) // it was there
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Guard(t.Context(), w.db); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "is not the one") || strings.Contains(err.Error(), "\n") {
		t.Error(err)
	}
	if _, err := os.Stat(wrong); err != nil {
		t.Error(err)
	}
	lost := filepath.Join(t.TempDir(), "lost.key")
	if b, err = OpenBox(lost); err != nil {
		t.Fatal(err)
	}
	if err := b.Guard(t.Context(), w.db); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "lost") || strings.Contains(err.Error(), "\n") {
		t.Error(err)
	}
	if _, err := os.Stat(lost); !errors.Is(err, os.ErrNotExist) {
		t.Error("the useless new key is still there")
	}
}

func (w *world) at(p project.ID, pipeline, action int64) Scope {
	return Scope{Workspace: w.home.ID, Project: p, Pipeline: pipeline, Action: action}
}

func (w *world) variable(t testing.TB, at Scope, key, value string, encrypted bool) Variable {
	t.Helper()
	v, err := w.CreateVariable(t.Context(), w.admin, Variable{Scope: at, Key: key, Value: value, Encrypted: encrypted, Settable: true})
	if err != nil {
		t.Fatal(err)
	}
	return v
}
