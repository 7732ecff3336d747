package secret

import (
	"bytes"
	"cmp"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

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

func TestVariables(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	at := w.at(w.p.ID, 0, 0)
	clear := w.variable(t, at, "CLEAR", "seen", false)
	hidden := w.variable(t, at, "HIDDEN", "hunter2", true)
	private, err := newKey("test")
	if err != nil {
		t.Fatal(err)
	}
	key, err := w.CreateVariable(t.Context(), w.admin, Variable{
		Scope: at, Key: "id_key", Value: private, Type: SSHKey, FilePlace: Container, FilePath: "~/.ssh/id", FileMode: "600",
	})
	if err != nil {
		t.Fatal(err)
	}
	if clear.Value != "seen" || clear.Type != Var || clear.FilePlace != None || clear.Updated.IsZero() || hidden.Value != Encrypted || key.Value != Encrypted || !key.Encrypted {
		t.Error(clear, hidden, key)
	}
	l, err := w.Variables(t.Context(), w.admin, at)
	if err != nil || len(l) != 4 || l[0].Key != "id_project" || l[1] != clear || l[2] != hidden || l[3] != key {
		t.Error(l, err)
	}
	for other, first := range map[Scope]int{w.at("", 0, 0): 1, w.at(w.q.ID, 0, 0): 1, w.at(w.p.ID, 1, 0): 0, w.at(w.p.ID, 0, 1): 0} {
		if l, err := w.Variables(t.Context(), w.admin, other); err != nil || len(l) != first {
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
		got, err := w.update(t, w.admin, v)
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
	if _, err := w.update(t, w.admin, Variable{ID: hidden.ID, Value: Encrypted}); !errdefs.IsInvalidArgument(err) {
		t.Error("a hidden value came to light:", err)
	}
	if got := update(Variable{ID: hidden.ID, Value: "shown"}); got.Value != "shown" || got.Encrypted {
		t.Error(got)
	}
	if got := update(Variable{ID: clear.ID, Value: Encrypted, Encrypted: true}); got.Value != Encrypted || opened("CLEAR") != "seen" {
		t.Error(got)
	}
	if _, err := w.update(t, w.admin, Variable{ID: clear.ID, Key: "HIDDEN", Encrypted: true, Value: "x"}); !errdefs.IsAlreadyExists(err) {
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

// update makes a variable what v says, but for an empty key or type.
func (w *world) update(t testing.TB, by access.Actor, v Variable) (Variable, error) {
	t.Helper()
	return w.UpdateVariable(t.Context(), by, v.ID, func(have *Variable) error {
		key, typ := have.Key, have.Type
		*have = v
		have.Key, have.Type = cmp.Or(v.Key, key), cmp.Or(v.Type, typ)
		return nil
	})
}

// setVariable is SetIn in a transaction of its own.
func (w *world) setVariable(t testing.TB, at Scope, key, value string, hide bool) (found bool) {
	t.Helper()
	err := w.db.Write(t.Context(), func(tx *db.Tx) (err error) {
		found, err = w.SetIn(tx, at, key, value, hide)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
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
		_, update = w.update(t, by, Variable{ID: id, Value: "y"})
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
			if v.Type == SSHKey { // the first ones
				continue
			}
			if v.Key == "V" {
				v.Key += "=" + v.Value
			}
			got = append(got, v.Key)
		}
		if s := strings.Join(got, " "); s != strings.TrimSpace(want) && want != "" {
			t.Errorf("%q, not %q", s, want)
		}
	}
	if !w.setVariable(t, w.at(w.p.ID, 7, 70), "V", "set", false) || w.setVariable(t, w.at(w.p.ID, 7, 70), "UNKNOWN", "set", false) {
		t.Error("set")
	}
	l, err := w.Effective(t.Context(), w.at(w.p.ID, 7, 70))
	if err != nil || l[4].Key != "V" || l[4].Value != "set" {
		t.Error(l, err)
	}
	if err := w.db.Write(t.Context(), func(tx *db.Tx) error { return Drop(tx, w.at(w.p.ID, 7, 70)) }); err != nil {
		t.Error(err)
	}
	if l, err := w.Effective(t.Context(), w.at(w.p.ID, 7, 70)); err != nil || len(l) != 6 {
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
		"type":                                 {Key: "A", Type: "IOS_KEYCHAIN"},
		"settable run_only_settable":           {Key: "A", Type: File, FilePlace: None, Settable: true, RunOnlySettable: true},
		"value   ":                             {Key: "A", Type: SSHKey, FilePlace: None, Value: "-----BEGIN"},
		"value":                                {Key: "A", Value: "a\x00"},
		"value ":                               {Key: "A", Value: strings.Repeat("x", maxValue+1)},
		"value  ":                              {Key: "A", Value: strings.Repeat("x", MaxWord-1)}, // with A=
		"description":                          {Key: "A", Description: "a\x00"},
		"file_place":                           {Key: "A", FilePlace: "THERE"},
		"file_place ":                          {Key: "A", FilePlace: Container, FilePath: "/x"},
		"file_place  ":                         {Key: "A", Type: File},
		"file_place   ":                        {Key: "A", Type: PublicKey, FilePath: "/x"},
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
		if HostProblem(s) == "" && strings.ContainsAny(s, "/@ \n?#") {
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
