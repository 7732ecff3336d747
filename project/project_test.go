package project

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"slipway/access"
	"slipway/db"
	"slipway/event"
)

// world has a workspace home of admin's and a workspace other of guest's.
type world struct {
	*Projects
	access             *access.Access
	admin, guest, weak access.Actor
	home, other        Workspace
}

func newWorld(t testing.TB) *world {
	t.Helper()
	d, err := db.Open(t.Context(), filepath.Join(t.TempDir(), "x.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	w := &world{Projects: NewProjects(d), access: access.New(d)}
	s, err := w.access.Bootstrap(t.Context(), "admin", func(tx *db.Tx, u access.User) (err error) {
		w.home, err = BootstrapWorkspace(tx, "home", u)
		return err
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	w.admin = w.ask(t, s)
	var guest access.User
	err = d.Write(t.Context(), func(tx *db.Tx) (err error) {
		if guest, err = access.AddUser(tx, access.User{Username: "guest"}); err != nil {
			return err
		}
		w.other, err = BootstrapWorkspace(tx, "other", guest)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	w.guest = w.token(t, access.System(guest), access.Scopes()...)
	w.weak = w.token(t, w.admin)
	return w
}

func (w *world) ask(t testing.TB, secret string) access.Actor {
	t.Helper()
	a, err := w.access.Authenticate(t.Context(), secret, "")
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func (w *world) token(t testing.TB, by access.Actor, scopes ...access.Scope) access.Actor {
	t.Helper()
	_, s, err := w.access.CreateToken(t.Context(), by, access.NewToken{Name: "test", Scopes: scopes})
	if err != nil {
		t.Fatal(err)
	}
	return w.ask(t, s)
}

func (w *world) create(t testing.TB, n New) Project {
	t.Helper()
	p, err := w.Create(t.Context(), w.admin, w.home.ID, n)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func ptr[T any](v T) *T { return &v }

func TestSlug(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"Hello World":                  "hello-world",
		"  --Müller & Söhne!! ":        "muller-sohne",
		"v1.0 rc_2":                    "v1.0-rc_2",
		"a--b..c__d":                   "a-b-c-d",
		"":                             "project",
		"日本":                           "project",
		"日本 2":                         "2",
		"Ünïcödé":                      "unicode",
		"CamelCase":                    "camelcase",
		strings.Repeat("a", 90):        strings.Repeat("a", 63),
		strings.Repeat("ab ", 9):       "ab-ab-ab-ab-ab-ab-ab-ab-ab",
		strings.Repeat("a", 62) + " b": strings.Repeat("a", 62),
	} {
		if got := Slug(in); got != want {
			t.Errorf("%q: %q", in, got)
		}
	}
}

func FuzzSlug(f *testing.F) {
	for _, s := range []string{"Hello World", "a.b", "Ü", "--", "\xff", strings.Repeat("x.", 50)} {
		f.Add(s, 2)
	}
	f.Fuzz(func(t *testing.T, s string, n int) {
		if n < 1 || n > 1_000_000 {
			n = 7
		}
		for _, name := range []string{Slug(s), numbered(Slug(s), n)} {
			var bad Invalid
			if CheckName(&bad, "name", name); bad.Err() != nil {
				t.Errorf("%q makes %q: %v", s, name, bad.Err())
			}
		}
	})
}

func TestCreate(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.create(t, New{DisplayName: "My App", Attrs: map[string]json.RawMessage{"buddy": []byte(`{"x":1}`), "none": nil}})
	if a.Name != "my-app" || a.DisplayName != "My App" || a.Status != Active || a.Domain != "home" || a.CreatedBy != w.admin.User.ID ||
		len(a.ShortID) != 8 || a.Number != 1 || a.Created.IsZero() || len(a.Attrs) != 1 {
		t.Errorf("%+v", a)
	}
	if b := w.create(t, New{DisplayName: "my app"}); b.Name != "my-app-2" || b.Number != 2 {
		t.Errorf("%+v", b)
	}
	if c := w.create(t, New{DisplayName: "My: App"}); c.Name != "my-app-3" {
		t.Errorf("%+v", c)
	}
	if _, err := w.Create(t.Context(), w.admin, w.home.ID, New{Name: "my-app"}); !errdefs.IsAlreadyExists(err) {
		t.Error(err)
	}
	if d := w.create(t, New{Name: "given"}); d.Name != "given" || d.DisplayName != "given" {
		t.Errorf("%+v", d)
	}
	// The same name in another workspace, found by its domain.
	if e, err := w.Create(t.Context(), w.guest, "other", New{Name: "given"}); err != nil || e.Domain != "other" {
		t.Error(e, err)
	}
	for name, c := range map[string]struct {
		by access.Actor
		ws string
		is func(error) bool
	}{
		"stranger":          {access.Actor{}, w.home.ID, errdefs.IsNotFound},
		"unknown workspace": {w.admin, "nowhere", errdefs.IsNotFound},
		"another's":         {w.guest, w.home.ID, errdefs.IsNotFound},
		"powerless":         {w.weak, w.home.ID, errdefs.IsPermissionDenied},
	} {
		if _, err := w.Create(t.Context(), c.by, c.ws, New{Name: "x"}); !c.is(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for want, n := range map[string]New{
		"display_name":      {},
		"name":              {Name: "Upper"},
		"name display_name": {Name: "a..b", DisplayName: "a\x00b"},
		"name ":             {Name: strings.Repeat("x", 64)},
		"display_name ":     {DisplayName: strings.Repeat("x", 256)},
	} {
		_, err := w.Create(t.Context(), w.admin, w.home.ID, n)
		bad, ok := AsInvalid(err)
		var paths []string
		for _, f := range fields(bad) {
			paths = append(paths, f.Path)
		}
		if !ok || !errdefs.IsInvalidArgument(err) || strings.Join(paths, " ") != strings.TrimSpace(want) {
			t.Errorf("%q: %v", want, err)
		}
	}
}

func fields(i *Invalid) []Field {
	if i == nil {
		return nil
	}
	return i.Fields
}

func TestManyAtOnceGetNamesOfTheirOwn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			if _, err := w.Create(t.Context(), w.admin, w.home.ID, New{DisplayName: "same"}); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	l, err := w.List(t.Context(), w.admin, Filter{Search: "SAME"})
	names := map[string]bool{}
	for _, p := range l {
		names[p.Name] = true
	}
	if err != nil || len(names) != 20 || !names["same"] || !names["same-20"] {
		t.Error(names, err)
	}
}

func TestFinding(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.create(t, New{Name: "app"})
	info := w.token(t, w.admin, access.ExecutionInfo)
	user := w.token(t, w.admin, access.UserInfo)
	for _, ref := range []string{string(p.ID), p.ShortID} {
		if got, err := w.Get(t.Context(), w.admin, ref); err != nil || got.ID != p.ID {
			t.Error(got, err)
		}
		if _, err := w.Get(t.Context(), info, ref); err != nil {
			t.Error(err)
		}
		if _, err := w.Get(t.Context(), user, ref); !errdefs.IsPermissionDenied(err) {
			t.Error(err)
		}
		if got, err := w.Get(t.Context(), w.guest, ref); !errdefs.IsNotFound(err) || got.ID != "" || err.Error() != "project "+ref+": not found" {
			t.Error(got, err)
		}
	}
	for _, ref := range []string{"", "p-", "p-zzzzzz", "app", "../x"} {
		if _, err := w.Get(t.Context(), w.admin, ref); !errdefs.IsNotFound(err) {
			t.Error(err)
		}
	}
	for _, ws := range []string{"home", w.home.ID} {
		if got, err := w.Find(t.Context(), w.admin, ws, "app"); err != nil || got.ID != p.ID {
			t.Error(got, err)
		}
	}
	for _, c := range [][2]string{{"home", "App"}, {"home", ""}, {"other", "app"}, {"", "app"}} {
		if _, err := w.Find(t.Context(), w.admin, c[0], c[1]); !errdefs.IsNotFound(err) {
			t.Error(c, err)
		}
	}
	if _, err := w.Find(t.Context(), w.weak, "home", "app"); !errdefs.IsPermissionDenied(err) {
		t.Error(err)
	}
	for by, want := range map[*access.Actor]int{&w.admin: 1, &w.guest: 0, &info: 1} {
		if l, err := w.List(t.Context(), *by, Filter{}); err != nil || len(l) != want {
			t.Error(l, err)
		}
	}
	if l, err := w.List(t.Context(), access.System(access.User{}), Filter{}); err != nil || len(l) != 1 {
		t.Error(l, err)
	}
	if l, err := w.List(t.Context(), access.Actor{}, Filter{}); err != nil || len(l) != 0 {
		t.Error(l, err)
	}
	if _, err := w.List(t.Context(), w.guest, Filter{Workspace: w.home.ID}); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
	if _, err := w.List(t.Context(), w.weak, Filter{}); !errdefs.IsPermissionDenied(err) {
		t.Error(err)
	}
	if l, err := w.List(t.Context(), w.admin, Filter{Workspace: w.home.ID, Status: Closed}); err != nil || len(l) != 0 {
		t.Error(l, err)
	}
}

func TestUpdate(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.create(t, New{Name: "one", Attrs: map[string]json.RawMessage{"a": []byte(`1`), "b": []byte(`2`)}})
	w.create(t, New{Name: "taken"})
	change := func(c Change) Project {
		t.Helper()
		got, err := w.Update(t.Context(), w.admin, p.ID, c)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := w.Get(t.Context(), w.admin, string(p.ID)); err != nil || fmt.Sprint(again) != fmt.Sprint(got) {
			t.Errorf("%v is stored as %v (%v)", got, again, err)
		}
		return got
	}
	got := change(Change{
		DisplayName: ptr("One more"), Status: ptr(Closed), Public: ptr(true),
		Attrs: map[string]json.RawMessage{"a": []byte(`3`), "b": nil, "c": []byte(`"x"`)},
	})
	if got.Name != "one" || got.DisplayName != "One more" || got.Status != Closed || !got.Public || string(got.Attrs["a"]) != "3" || len(got.Attrs) != 2 {
		t.Errorf("%+v", got)
	}
	find := func(name string) ID {
		f, err := w.Find(t.Context(), w.admin, "home", name)
		if err != nil && !errdefs.IsNotFound(err) {
			t.Error(err)
		}
		return f.ID
	}
	change(Change{Name: ptr("two")})
	change(Change{Name: ptr("three")})
	for _, name := range []string{"one", "two", "three"} {
		if find(name) != p.ID {
			t.Errorf("not found as %s", name)
		}
	}
	// Taken by another, and taken back.
	q := w.create(t, New{Name: "one"})
	if find("one") != q.ID || find("two") != p.ID {
		t.Error("the new owner of the name is not found")
	}
	change(Change{Name: ptr("two")})
	if find("two") != p.ID || find("three") != p.ID {
		t.Error("not found after it took its old name")
	}
	if _, err := w.Update(t.Context(), w.admin, p.ID, Change{Name: ptr("taken")}); !errdefs.IsAlreadyExists(err) {
		t.Error(err)
	}
	change(Change{Name: ptr("two")}) // its own
	_, err := w.Update(t.Context(), w.admin, p.ID, Change{Name: ptr(""), DisplayName: ptr(" "), Status: ptr("OPEN")})
	if bad, ok := AsInvalid(err); !ok || len(bad.Fields) != 3 {
		t.Error(err)
	}
	for by, is := range map[*access.Actor]func(error) bool{&w.guest: errdefs.IsNotFound, &w.weak: errdefs.IsPermissionDenied} {
		if _, err := w.Update(t.Context(), *by, p.ID, Change{Name: ptr("x")}); !is(err) {
			t.Error(err)
		}
		if err := w.Delete(t.Context(), *by, p.ID); !is(err) {
			t.Error(err)
		}
	}
}

func TestDeleteRestoreRemove(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.create(t, New{Name: "app"})
	if _, err := w.Update(t.Context(), w.admin, p.ID, Change{Name: ptr("app2")}); err != nil {
		t.Fatal(err)
	}
	if err := w.Delete(t.Context(), w.admin, p.ID); err != nil {
		t.Fatal(err)
	}
	gone := func() {
		t.Helper()
		for _, f := range []func() error{
			func() error { _, err := w.Get(t.Context(), w.admin, string(p.ID)); return err },
			func() error { _, err := w.Get(t.Context(), w.admin, p.ShortID); return err },
			func() error { _, err := w.Find(t.Context(), w.admin, "home", "app"); return err },
			func() error { _, err := w.Update(t.Context(), w.admin, p.ID, Change{}); return err },
			func() error { return w.Delete(t.Context(), w.admin, p.ID) },
			func() error {
				return w.db.Read(t.Context(), func(tx *db.Tx) error { _, err := Load(tx, p.ID); return err })
			},
		} {
			if err := f(); !errdefs.IsNotFound(err) {
				t.Error(err)
			}
		}
		if l, err := w.List(t.Context(), w.admin, Filter{Search: "app2"}); err != nil || slices.ContainsFunc(l, func(x Project) bool { return x.ID == p.ID }) {
			t.Error(l, err)
		}
	}
	gone()
	if _, err := w.Find(t.Context(), w.admin, "home", "app2"); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
	if err := w.db.Read(t.Context(), func(tx *db.Tx) error { _, err := LoadAny(tx, p.ID); return err }); err != nil {
		t.Error(err)
	}
	q := w.create(t, New{Name: "app2"}) // the name is free
	if _, err := w.Restore(t.Context(), w.guest, p.ID); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
	back, err := w.Restore(t.Context(), w.admin, p.ID)
	if err != nil || back.Name != "app2-2" {
		t.Error(back, err)
	}
	if f, err := w.Find(t.Context(), w.admin, "home", "app"); err != nil || f.ID != p.ID {
		t.Error(f, err)
	}
	if _, err := w.Restore(t.Context(), w.admin, q.ID); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
	if err := w.Delete(t.Context(), w.admin, p.ID); err != nil {
		t.Fatal(err)
	}
	if n, err := w.Remove(t.Context(), time.Hour); n != 0 || err != nil {
		t.Error(n, err)
	}
	if n, err := w.Remove(t.Context(), -time.Second); n != 1 || err != nil {
		t.Error(n, err)
	}
	gone()
	if _, err := w.Restore(t.Context(), w.admin, p.ID); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
	if r := w.create(t, New{Name: "next"}); r.Number <= q.Number {
		t.Error("an integer was used twice")
	}
	l, err := event.New(w.db).After(t.Context(), 0, 100)
	if err != nil {
		t.Fatal(err)
	}
	var kinds []string
	for _, e := range l {
		if e.Subject == string(p.ID) && e.Workspace == w.home.ID && e.Project == string(p.ID) {
			kinds = append(kinds, strings.TrimPrefix(string(e.Kind), "project."))
		}
	}
	if got := strings.Join(kinds, " "); got != "created changed deleted restored deleted removed" {
		t.Error(got)
	}
}

func BenchmarkCreate(b *testing.B) {
	w := newWorld(b)
	for i := 0; b.Loop(); i++ {
		w.create(b, New{Name: fmt.Sprint("p", i)})
	}
}

func BenchmarkFind(b *testing.B) {
	w := newWorld(b)
	for i := range 1000 {
		w.create(b, New{Name: fmt.Sprint("p", i)})
	}
	for b.Loop() {
		if _, err := w.Find(b.Context(), w.admin, "home", "p500"); err != nil {
			b.Fatal(err)
		}
	}
}
