package local

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"slipway/engine"
)

// spoil damages a file in one of several ways.
var spoil = map[string]func(t *testing.T, file string){
	"cut": func(t *testing.T, file string) {
		st, err := os.Stat(file)
		if err == nil {
			err = os.Truncate(file, st.Size()/2)
		}
		if err != nil {
			t.Fatal(err)
		}
	},
	"empty": func(t *testing.T, file string) {
		if err := os.Truncate(file, 0); err != nil {
			t.Fatal(err)
		}
	},
	"zeros": func(t *testing.T, file string) { overwrite(t, file, 0x00) },
	"noise": func(t *testing.T, file string) { overwrite(t, file, 0xa5) },
}

func overwrite(t *testing.T, file string, with byte) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for i := 2 * 4096; i < len(b); i++ { // behind the meta pages
		b[i] = with
	}
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestDamagedStores(t *testing.T) {
	for _, db := range []string{"meta.db", filepath.Join(snapshotter, "metadata.db")} {
		for how, f := range spoil {
			t.Run(db+" "+how, func(t *testing.T) {
				b := open(t)
				svc := b.serve("p", answers)
				if x, _ := b.do("exit 4"); x.Code != 4 {
					t.Fatalf("%+v", x)
				}
				if err := b.Close(); err != nil {
					t.Fatal(err)
				}
				// As after the loss of power: the mark is there.
				if err := os.WriteFile(b.path(dirtyMark), nil, 0o600); err != nil {
					t.Fatal(err)
				}
				f(t, b.path("core", db))
				b.reopen()
				d := b.damage
				if d == nil || !slices.Contains(d.recovered, b.base) || len(d.lost) != 0 {
					t.Fatalf("%+v", d)
				}
				if got := b.instance("stack/p", svc.ID); got.State != engine.Running {
					t.Errorf("%+v", got)
				}
				until(t, "the service answers", func() bool { return ask(svc.Addr.String()) == "hello" })
				if err := b.Images().Hold(t.Context(), "again", b.base); err != nil {
					t.Error(err)
				}
				if x, _ := b.do("exit 5"); x.Code != 5 {
					t.Errorf("%+v", x)
				}
				b.restart()
				if d := b.damage; d != nil {
					t.Errorf("still %+v", d)
				}
				if err := b.Engine.Remove(t.Context(), "stack/p"); err != nil {
					t.Error(err)
				}
				until(t, "nothing is left", func() bool { return b.traces() == noTraces })
				b.restart()
				if left, _ := filepath.Glob(b.path("broken-*")); len(left) > 0 {
					t.Errorf("%v", left)
				}
			})
		}
	}
}

func TestDamagedBlob(t *testing.T) {
	b := open(t)
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	dir := b.path("core", "content", "blobs", "sha256")
	ents, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	bad := ""
	for _, d := range ents {
		if st, _ := d.Info(); st.Size() > 100000 { // the layer
			bad = d.Name()
			f, err := os.OpenFile(filepath.Join(dir, bad), os.O_RDWR, 0)
			if err != nil {
				_ = os.Chmod(filepath.Join(dir, bad), 0o600)
				if f, err = os.OpenFile(filepath.Join(dir, bad), os.O_RDWR, 0); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := f.WriteAt([]byte("damage"), 50000); err != nil {
				t.Fatal(err)
			}
			_ = f.Close()
		}
	}
	if err := os.WriteFile(b.path(dirtyMark), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	spoil["cut"](t, b.path("core", "meta.db"))
	b.reopen()
	if d := b.damage; d == nil || !slices.Contains(d.lost, "sha256:"+bad) || slices.Contains(d.recovered, b.base) {
		t.Errorf("%+v", d)
	}
}

func TestCheckDB(t *testing.T) {
	b := open(t)
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if code := CheckDB(b.databases()); code != 0 {
		t.Errorf("whole ones: %d", code)
	}
	if code := CheckDB([]string{filepath.Join(t.TempDir(), "cache.db")}); code != 0 {
		t.Errorf("none: %d", code)
	}
	if code := CheckDB(b.databases()[:1]); code != 0 {
		t.Errorf("meta.db alone: %d", code)
	}
	b.reopen()
	// A start after a kill without damage.
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(b.path(dirtyMark), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	b.reopen()
	if b.damage != nil {
		t.Errorf("%+v", b.damage)
	}
	if _, err := b.Images().Inspect(context.Background(), b.base, ""); err != nil {
		t.Error(err)
	}
}
