package secret

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"slipway/access"
	"slipway/db"
	"slipway/project"
)

type world struct {
	*Secrets
	file               string // of the store
	access             *access.Access
	admin, guest, weak access.Actor
	home               project.Workspace
	p, q               project.Project
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{file: filepath.Join(t.TempDir(), "x.db")}
	d, err := db.Open(t.Context(), w.file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	box, err := OpenBox(filepath.Join(t.TempDir(), "master.key"))
	if err != nil {
		t.Fatal(err)
	}
	if err := box.Guard(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	w.Secrets = New(d, box, project.NewProjects(d))
	w.access = access.New(d)
	s, err := w.access.Bootstrap(t.Context(), "admin", func(tx *db.Tx, u access.User) (err error) {
		w.home, err = project.BootstrapWorkspace(tx, "home", u)
		return err
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	w.admin = w.ask(t, s)
	var guest access.User
	if err := d.Write(t.Context(), func(tx *db.Tx) (err error) {
		if guest, err = access.AddUser(tx, access.User{Username: "guest"}); err != nil {
			return err
		}
		_, err = project.BootstrapWorkspace(tx, "other", guest)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	w.guest = w.token(t, access.System(guest), access.Scopes()...)
	w.weak = w.token(t, w.admin, access.UserInfo)
	for _, x := range []*project.Project{&w.p, &w.q} {
		if *x, err = w.projects.Create(t.Context(), w.admin, w.home.ID, project.New{DisplayName: "app"}); err != nil {
			t.Fatal(err)
		}
	}
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

func TestVariables(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	at := w.at(w.p.ID, 0, 0)
	clear := w.variable(t, at, "CLEAR", "seen", false)
	hidden := w.variable(t, at, "HIDDEN", "hunter2", true)
	key, err := w.CreateVariable(t.Context(), w.admin, Variable{
		Scope: at, Key: "id_key", Value: "-----BEGIN", Type: SSHKey, FilePlace: Container, FilePath: "~/.ssh/id", FileMode: "600",
	})
	if err != nil {
		t.Fatal(err)
	}
	if clear.Value != "seen" || clear.Type != Var || clear.FilePlace != None || clear.Updated.IsZero() || hidden.Value != Encrypted || key.Value != Encrypted || !key.Encrypted {
		t.Error(clear, hidden, key)
	}
	l, err := w.Variables(t.Context(), w.admin, at)
	if err != nil || len(l) != 3 || l[0] != clear || l[1] != hidden || l[2] != key {
		t.Error(l, err)
	}
	for _, other := range []Scope{w.at("", 0, 0), w.at(w.q.ID, 0, 0), w.at(w.p.ID, 1, 0), w.at(w.p.ID, 0, 1)} {
		if l, err := w.Variables(t.Context(), w.admin, other); err != nil || len(l) != 0 {
			t.Error(other, l, err)
		}
	}
	if _, err := w.CreateVariable(t.Context(), w.admin, Variable{Scope: at, Key: "CLEAR"}); !errdefs.IsAlreadyExists(err) {
		t.Error(err)
	}
	w.variable(t, w.at(w.q.ID, 0, 0), "CLEAR", "in another project", false)

	opened := func(key string) string {
		t.Helper()
		l, err := w.Effective(t.Context(), at)
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range l {
			if v.Key == key {
				return v.Value
			}
		}
		return ""
	}
	update := func(v Variable) Variable {
		t.Helper()
		got, err := w.UpdateVariable(t.Context(), w.admin, v)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	// Sent back as it came.
	hidden.Description = "now with a text"
	if got := update(hidden); got.Value != Encrypted || got.Description != hidden.Description || got.Key != "HIDDEN" || opened("HIDDEN") != "hunter2" {
		t.Error(got)
	}
	update(Variable{ID: hidden.ID, Value: "new", Encrypted: true})
	if opened("HIDDEN") != "new" {
		t.Error(opened("HIDDEN"))
	}
	if _, err := w.UpdateVariable(t.Context(), w.admin, Variable{ID: hidden.ID, Value: Encrypted}); !errdefs.IsInvalidArgument(err) {
		t.Error("a hidden value came to light:", err)
	}
	if got := update(Variable{ID: hidden.ID, Value: "shown"}); got.Value != "shown" || got.Encrypted {
		t.Error(got)
	}
	if got := update(Variable{ID: clear.ID, Value: Encrypted, Encrypted: true}); got.Value != Encrypted || opened("CLEAR") != "seen" {
		t.Error(got)
	}
	if _, err := w.UpdateVariable(t.Context(), w.admin, Variable{ID: clear.ID, Key: "HIDDEN", Encrypted: true, Value: "x"}); !errdefs.IsAlreadyExists(err) {
		t.Error(err)
	}
	if _, err := w.CreateVariable(t.Context(), w.admin, Variable{Scope: at, Key: "NEW", Encrypted: true, Value: Encrypted}); !errdefs.IsInvalidArgument(err) {
		t.Error(err)
	}
	if err := w.DeleteVariable(t.Context(), w.admin, clear.ID); err != nil {
		t.Error(err)
	}
	if _, err := w.Variable(t.Context(), w.admin, clear.ID); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
	if v, err := w.Variable(t.Context(), w.admin, key.ID); err != nil || v != key {
		t.Error(v, err)
	}
}

func TestVariableRights(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	at := w.at(w.p.ID, 0, 0)
	v := w.variable(t, at, "A", "x", false)
	info, add := w.token(t, w.admin, access.VariableInfo), w.token(t, w.admin, access.VariableAdd)
	do := func(by access.Actor, at Scope, id int64) (create, list, one, update, remove error) {
		_, create = w.CreateVariable(t.Context(), by, Variable{Scope: at, Key: "B"})
		_, list = w.Variables(t.Context(), by, at)
		_, one = w.Variable(t.Context(), by, id)
		_, update = w.UpdateVariable(t.Context(), by, Variable{ID: id, Value: "y"})
		return create, list, one, update, w.DeleteVariable(t.Context(), by, id)
	}
	ok := func(err error) bool { return err == nil }
	check := func(name string, by access.Actor, at Scope, id int64, is [5]func(error) bool) {
		t.Helper()
		a, b, c, d, e := do(by, at, id)
		for i, err := range []error{a, b, c, d, e} {
			if !is[i](err) {
				t.Errorf("%s: %d: %v", name, i, err)
			}
		}
	}
	no, gone := errdefs.IsPermissionDenied, errdefs.IsNotFound
	check("stranger", access.Actor{}, at, v.ID, [5]func(error) bool{gone, gone, gone, gone, gone})
	check("guest", w.guest, at, v.ID, [5]func(error) bool{gone, gone, gone, gone, gone})
	check("powerless", w.weak, at, v.ID, [5]func(error) bool{no, no, no, no, no})
	check("info", info, at, v.ID, [5]func(error) bool{no, ok, ok, no, no})
	check("add", add, at, v.ID, [5]func(error) bool{ok, ok, ok, no, no})
	check("unknown", w.admin, w.at("nowhere", 0, 0), 999, [5]func(error) bool{gone, gone, gone, gone, gone})
	// A project of ours in a workspace that is not its own.
	mine := w.token(t, w.admin, access.Scopes()...)
	third, err := w.projects.CreateWorkspace(t.Context(), mine, "third", "")
	if err != nil {
		t.Fatal(err)
	}
	mine = w.token(t, w.admin, access.Scopes()...)
	if _, err := w.Variables(t.Context(), mine, Scope{Workspace: third.ID, Project: w.p.ID}); !gone(err) {
		t.Error(err)
	}
	if err := w.projects.Delete(t.Context(), w.admin, w.p.ID); err != nil {
		t.Fatal(err)
	}
	check("deleted project", w.admin, at, v.ID, [5]func(error) bool{gone, gone, gone, gone, gone})
	if n, err := w.projects.Remove(t.Context(), -1e9); n != 1 || err != nil { // takes them along
		t.Error(n, err)
	}
}

func TestEffective(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for value, at := range map[string]Scope{
		"workspace": w.at("", 0, 0), "project": w.at(w.p.ID, 0, 0), "pipeline": w.at(w.p.ID, 7, 0), "action": w.at(w.p.ID, 7, 70),
		"another": w.at(w.q.ID, 0, 0), "another pipeline": w.at(w.p.ID, 8, 0), "another action": w.at(w.p.ID, 7, 71),
	} {
		w.variable(t, at, "V", value, true)
		w.variable(t, at, "ONLY_"+strings.ToUpper(strings.ReplaceAll(value, " ", "_")), value, false)
	}
	for want, at := range map[string]Scope{
		"ONLY_WORKSPACE V=workspace":                                     w.at("", 0, 0),
		"ONLY_PROJECT ONLY_WORKSPACE V=project":                          w.at(w.p.ID, 0, 0),
		"ONLY_PIPELINE ONLY_PROJECT ONLY_WORKSPACE V=pipeline":           w.at(w.p.ID, 7, 0),
		"ONLY_ACTION ONLY_PIPELINE ONLY_PROJECT ONLY_WORKSPACE V=action": w.at(w.p.ID, 7, 70),
		"ONLY_PIPELINE ONLY_PROJECT ONLY_WORKSPACE V=pipeline ":          w.at(w.p.ID, 7, 99),
		"": {Workspace: "nowhere", Project: w.p.ID},
	} {
		l, err := w.Effective(t.Context(), at)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, v := range l {
			if v.Key == "V" {
				v.Key += "=" + v.Value
			}
			got = append(got, v.Key)
		}
		if s := strings.Join(got, " "); s != strings.TrimSpace(want) && want != "" {
			t.Errorf("%q, not %q", s, want)
		}
	}
	if found, err := w.Set(t.Context(), w.at(w.p.ID, 7, 70), "V", "set"); !found || err != nil {
		t.Error(found, err)
	}
	if found, err := w.Set(t.Context(), w.at(w.p.ID, 7, 70), "UNKNOWN", "set"); found || err != nil {
		t.Error(found, err)
	}
	l, err := w.Effective(t.Context(), w.at(w.p.ID, 7, 70))
	if err != nil || l[len(l)-1].Value != "set" {
		t.Error(l, err)
	}
	if err := w.db.Write(t.Context(), func(tx *db.Tx) error { return Drop(tx, w.at(w.p.ID, 7, 70)) }); err != nil {
		t.Error(err)
	}
	if l, err := w.Effective(t.Context(), w.at(w.p.ID, 7, 70)); err != nil || len(l) != 4 {
		t.Error(l, err)
	}
}

func TestVariableInput(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for paths, v := range map[string]Variable{
		"key":                                  {},
		"key ":                                 {Key: "1A"},
		"key type":                             {Key: "a b", Type: "WRONG"},
		"type":                                 {Key: "A", Type: "GPG_KEY"},
		"value":                                {Key: "A", Value: "a\x00"},
		"value ":                               {Key: "A", Value: strings.Repeat("x", maxValue+1)},
		"value  ":                              {Key: "A", Value: strings.Repeat("x", MaxWord-1)}, // with A=
		"description":                          {Key: "A", Description: "a\x00"},
		"file_place":                           {Key: "A", FilePlace: "THERE"},
		"file_place ":                          {Key: "A", FilePlace: Container, FilePath: "/x"},
		"file_place  ":                         {Key: "A", Type: File},
		"file_place   ":                        {Key: "A", Type: SSHKey, FilePath: "/x"},
		"file_path":                            {Key: "A", Type: File, FilePlace: Container},
		"file_path ":                           {Key: "A", Type: File, FilePlace: Container, FilePath: "x"},
		"key type value file_place file_chmod": {Type: "?", Value: "\xff", FilePlace: "?", FileMode: "999"},
	} {
		v.Scope = w.at("", 0, 0)
		_, err := w.CreateVariable(t.Context(), w.admin, v)
		bad, ok := project.AsInvalid(err)
		if !ok {
			t.Errorf("%q: %v", paths, err)
			continue
		}
		var got []string
		for _, f := range bad.Fields {
			got = append(got, f.Path)
		}
		if s := strings.Join(got, " "); s != strings.TrimSpace(paths) {
			t.Errorf("%q instead of %q", s, paths)
		}
	}
}

func TestLongestVariable(t *testing.T) {
	t.Parallel()
	for _, v := range []Variable{
		{Key: "A", Type: Var, FilePlace: None, Value: strings.Repeat("x", MaxWord-2)},
		{Key: "A", Type: File, FilePlace: None, Value: strings.Repeat("x", maxValue)},
	} {
		if err := v.Validate(); err != nil {
			t.Error(err)
		}
	}
}

func (w *world) createLogin(ctx context.Context, by access.Actor, l Login) (made Login, err error) {
	err = w.db.Write(ctx, func(tx *db.Tx) (err error) {
		made, err = w.CreateLoginIn(tx, by, l)
		return err
	})
	return made, err
}

func (w *world) updateLogin(ctx context.Context, by access.Actor, l Login) (now Login, err error) {
	err = w.db.Write(ctx, func(tx *db.Tx) (err error) {
		now, err = w.UpdateLoginIn(tx, by, l)
		return err
	})
	return now, err
}

func TestLogins(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	l, err := w.Logins(t.Context(), w.admin, w.p.ID)
	if err != nil || len(l) != 3 || l[0].Host != "index.docker.io" || l[2].Host != "registry.gitlab.com" || l[0].Password != "" {
		t.Fatal(l, err)
	}
	if err := w.DeleteLogin(t.Context(), w.admin, l[1].ID); err != nil {
		t.Fatal(err)
	}
	made, err := w.createLogin(t.Context(), w.admin, Login{Project: w.p.ID, Description: "ours", Host: "registry.example:5000", Username: "u", Password: "hunter2"})
	if err != nil || made.Password != Encrypted || made.ID == "" || made.Valid {
		t.Fatal(made, err)
	}
	if l, err = w.Logins(t.Context(), w.admin, w.p.ID); err != nil || len(l) != 3 || l[2] != made {
		t.Error("the deleted one is back:", l, err)
	}
	if _, err := w.createLogin(t.Context(), w.admin, Login{Project: w.p.ID, Host: "registry.example:5000"}); !errdefs.IsAlreadyExists(err) {
		t.Error(err)
	}
	opened := func() Login {
		t.Helper()
		l, err := w.OpenLogins(t.Context(), w.p.ID)
		if err != nil || len(l) != 1 {
			t.Fatal(l, err)
		}
		return l[0]
	}
	if o := opened(); o.Password != "hunter2" || o.Username != "u" {
		t.Error(o)
	}
	toCheck := func(since time.Duration) int {
		t.Helper()
		l, err := w.LoginsToCheck(t.Context(), time.Now().Add(-since))
		if err != nil || len(l) > 1 || len(l) == 1 && l[0] != opened() {
			t.Error(l, err)
		}
		return len(l)
	}
	other := opened()
	other.Password = "hunter1"
	if err := w.Checked(t.Context(), other, true); err != nil || opened().Valid || toCheck(time.Hour) != 1 {
		t.Error("what was said to another password counts:", err)
	}
	if err := w.Checked(t.Context(), opened(), true); err != nil || toCheck(time.Hour) != 0 || toCheck(-time.Hour) != 1 {
		t.Error(err)
	}
	made.Description = "theirs"
	got, err := w.updateLogin(t.Context(), w.admin, made)
	if err != nil || !got.Valid || got.Checked.IsZero() || opened().Password != "hunter2" || opened().Description != "theirs" {
		t.Error(got, err)
	}
	if o, fresh, err := w.TryLogin(t.Context(), w.admin, made); err != nil || fresh || o != opened() {
		t.Error(o, fresh, err)
	}
	// Somebody who does not know the password does not get it sent to a host of
	// theirs.
	moved := made
	moved.Host, moved.Username = "registry.example", "a:b"
	_, err = w.updateLogin(t.Context(), w.admin, moved)
	if bad, ok := project.AsInvalid(err); !ok || len(bad.Fields) != 2 || bad.Fields[0].Path != "password" || opened().Host != "registry.example:5000" {
		t.Error(err)
	}
	moved.Username, moved.Password = "u", "another"
	if _, err = w.updateLogin(t.Context(), w.admin, moved); err != nil || opened().Host != "registry.example" || opened().Password != "another" {
		t.Error(err)
	}
	made.Password = "changed"
	if got, err = w.updateLogin(t.Context(), w.admin, made); err != nil || got.Valid || !got.Checked.IsZero() || opened().Password != "changed" {
		t.Error(got, err)
	}
	made.Username, made.Password = "", "" // null
	if got, err = w.updateLogin(t.Context(), w.admin, made); err != nil || got.Password != "" {
		t.Error(got, err)
	}
	if l, err := w.OpenLogins(t.Context(), w.p.ID); err != nil || len(l) != 0 {
		t.Error(l, err)
	}
	moved.ID, moved.Password = "", "p"
	if _, _, err := w.TryLogin(t.Context(), w.admin, moved); err != nil {
		t.Error(err)
	}
	moved.Host = made.Host
	if _, _, err := w.TryLogin(t.Context(), w.admin, moved); !errdefs.IsAlreadyExists(err) {
		t.Error("a host that is taken:", err)
	}
	taken := made
	taken.Host = "index.docker.io"
	if _, _, err := w.TryLogin(t.Context(), w.admin, taken); !errdefs.IsAlreadyExists(err) {
		t.Error("a change to a host that is taken:", err)
	}
	// Of a project where nobody looked yet.
	if _, _, err := w.TryLogin(t.Context(), w.admin, Login{Project: w.q.ID, Host: "ghcr.io", Username: "u", Password: "p"}); !errdefs.IsAlreadyExists(err) {
		t.Error(err)
	}
	if _, err := w.createLogin(t.Context(), w.admin, Login{Project: w.q.ID, Host: "ghcr.io", Username: "u", Password: "p"}); !errdefs.IsAlreadyExists(err) {
		t.Error(err)
	}
	for name, c := range map[string]struct {
		by           access.Actor
		read, change func(error) bool
	}{
		"stranger":  {access.Actor{}, errdefs.IsNotFound, errdefs.IsNotFound},
		"guest":     {w.guest, errdefs.IsNotFound, errdefs.IsNotFound},
		"powerless": {w.weak, errdefs.IsPermissionDenied, errdefs.IsPermissionDenied},
		"reader":    {w.token(t, w.admin, access.StackRead), func(err error) bool { return err == nil }, errdefs.IsPermissionDenied},
	} {
		_, list := w.Logins(t.Context(), c.by, w.p.ID)
		_, one := w.Login(t.Context(), c.by, made.ID)
		_, create := w.createLogin(t.Context(), c.by, Login{Project: w.p.ID, Host: "x"})
		_, update := w.updateLogin(t.Context(), c.by, made)
		_, _, try := w.TryLogin(t.Context(), c.by, Login{Project: w.p.ID, Host: "x"})
		_, _, again := w.TryLogin(t.Context(), c.by, made)
		if !c.read(list) || !c.read(one) || !c.change(try) || !c.change(again) || !c.change(create) || !c.change(update) || !c.change(w.DeleteLogin(t.Context(), c.by, made.ID)) {
			t.Errorf("%s: %v, %v, %v, %v", name, list, one, create, update)
		}
	}
	if _, err := w.Login(t.Context(), w.admin, "nowhere"); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
}

func TestLoginInput(t *testing.T) {
	t.Parallel()
	for _, host := range []string{"a", "a.b-c.example", "registry.example:5000", "127.0.0.1:5000", "localhost:80", "[::1]:5000", "[::1]", "10.0.0.1"} {
		if err := (Login{Host: host}).Validate(); err != nil {
			t.Error(err)
		}
	}
	for _, host := range []string{"", "https://a.example", "a.example/path", "a b", "-a", "a..b", "a:0", "a:99999", "a:b", ":80", "u@a", "A", "a:80:90", "::1", "[1.2.3.4]", "[::1", "::1]:80", "fe80::1%eth0", strings.Repeat("a.", 200)} {
		if err := (Login{Host: host}).Validate(); !errdefs.IsInvalidArgument(err) || !strings.HasPrefix(err.Error(), "host: ") {
			t.Errorf("%q: %v", host, err)
		}
	}
	err := Login{Host: "a/b", Username: "a:b"}.Validate()
	if bad, ok := project.AsInvalid(err); !ok || len(bad.Fields) != 3 {
		t.Error(err)
	}
	if err := (Login{Host: "a", Password: "p"}).Validate(); !errdefs.IsInvalidArgument(err) {
		t.Error(err)
	}
}

// What is secret is nowhere on the disk.
func TestNothingInTheOpen(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.variable(t, w.at(w.p.ID, 0, 0), "A", "hunter2hunter2", true)
	w.variable(t, w.at(w.p.ID, 0, 0), "B", "hunter2hunter2", false)
	if _, err := w.createLogin(t.Context(), w.admin, Login{Project: w.p.ID, Host: "a", Username: "u", Password: "hunter2hunter2"}); err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{"", "-wal"} {
		b, err := os.ReadFile(w.file + s)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(b, []byte("hunter2")) {
			t.Errorf("it is in the store (%q)", s)
		}
	}
	// Moved to another row it does not open.
	if err := w.db.Write(t.Context(), func(tx *db.Tx) error {
		_, err := tx.Exec(`UPDATE variables SET value = (SELECT value FROM variables WHERE name = 'A') WHERE name = 'B'`)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Effective(t.Context(), w.at(w.p.ID, 0, 0)); !errdefs.IsDataLoss(err) {
		t.Error(err)
	}
}

func FuzzHost(f *testing.F) {
	f.Add("registry.example:5000")
	f.Fuzz(func(t *testing.T, s string) {
		if checkHost(s) == "" && strings.ContainsAny(s, "/@ \n?#") {
			t.Errorf("took %q", s)
		}
	})
}

func BenchmarkEffective(b *testing.B) {
	w := newWorld(b)
	for _, k := range []string{"A", "B", "C", "D", "E", "F", "G", "H"} {
		w.variable(b, w.at(w.p.ID, 0, 0), k, "value", true)
	}
	for b.Loop() {
		if _, err := w.Effective(b.Context(), w.at(w.p.ID, 7, 70)); err != nil {
			b.Fatal(err)
		}
	}
}
