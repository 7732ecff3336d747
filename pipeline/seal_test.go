package pipeline

import (
	"strings"
	"testing"

	"slipway/db"
	"slipway/project"
	"slipway/secret"
)

// Who may change an action but does not know its registry's password cannot
// have it sent elsewhere.
func TestPasswordStaysWithItsRegistry(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	w.commit("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")
	w.eng.Protect("good.example", "user", "hunter22")
	w.eng.Protect("other.example", "user", "hunter33")
	good := Registry{Kind: OtherRegistry, URL: "good.example", Username: "user", Password: "hunter22"}
	build := func(r Registry) Action {
		return Action{Name: "b", Build: &Build{Dockerfile: "Dockerfile", Repository: "team/app", Registry: r}}
	}
	p := w.pipeline(Pipeline{}, build(good))
	as, err := w.Actions(t.Context(), w.admin, p.ID)
	w.must(err)
	update := func(change func(*Registry)) error {
		_, err := w.UpdateAction(t.Context(), w.admin, p.ID, as[0].ID, func(a *Action) error { change(&a.Build.Registry); return nil }, nil)
		return err
	}
	for name, change := range map[string]func(*Registry){
		"another host":            func(r *Registry) { r.URL = "evil.example" },
		"another port":            func(r *Registry) { r.URL = "good.example:444" },
		"a host by a variable":    func(r *Registry) { r.URL = "$HOST" },
		"without TLS":             func(r *Registry) { r.URL = "http://good.example" },
		"any certificate":         func(r *Registry) { r.Insecure = true },
		"another kind":            func(r *Registry) { r.Kind, r.URL = DockerHub, "" },
		"none, for a second step": func(r *Registry) { r.Kind = RegistryNone },
	} {
		inv, ok := project.AsInvalid(update(change))
		if !ok || len(inv.Fields) != 1 || inv.Fields[0].Path != "password" {
			t.Errorf("%s: %v", name, inv)
		}
	}
	w.must(update(func(r *Registry) { r.URL = "https://good.example/" })) // the same one
	w.expect(w.start(p, Start{}), "SUCCESSFUL SUCCESSFUL")

	// A copy that was frozen with another registry does not get what came later.
	w.must(update(func(r *Registry) { r.URL, r.Password = "evil.example", "made-up" }))
	w.eng.Protect("evil.example", "user", "hunter33") // fails until it is given the password of other.example
	x := w.wait(w.start(p, Start{}))
	if x.Status != Failed {
		t.Fatal(w.words(x))
	}
	w.must(update(func(r *Registry) { r.URL, r.Password = "other.example", "hunter33" }))
	x, err = w.Operate(t.Context(), w.admin, x.ID, OpRetry)
	w.must(err)
	if x = w.wait(x); x.Status != Failed || !strings.Contains(x.Steps[0].Error, "was changed after the execution started") {
		t.Error(w.words(x))
	}
	if got := w.eng.Published("evil.example/team/app:latest"); got != "" {
		t.Error("the password went to the earlier host")
	}
}

func TestAllHiddenFieldsAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	p := w.pipeline(Pipeline{})
	a := sh("true")
	a.Run.Registry = Registry{Kind: OtherRegistry, URL: "r.example", Username: "u", Password: secret.Encrypted}
	a.Variables = []Variable{{Key: "A", Value: secret.Encrypted}}
	_, err := w.CreateAction(t.Context(), w.admin, p.ID, a, nil)
	inv, ok := project.AsInvalid(err)
	if !ok || len(inv.Fields) != 2 {
		t.Errorf("%v", err)
	}
	// They are on the disk in no other form than sealed.
	a.Run.Registry.Password = "hunter-registry"
	a.Variables = []Variable{{Key: "A", Value: "hunter-value", Encrypted: true}}
	a, err = w.CreateAction(t.Context(), w.admin, p.ID, a, nil)
	w.must(err)
	_, err = w.UpdateAction(t.Context(), w.admin, p.ID, a.ID, func(n *Action) error { *n = a; return nil }, nil)
	w.must(err)
	w.must(w.db.Read(t.Context(), func(tx *db.Tx) error {
		var spec string
		if err := tx.QueryRow(`SELECT spec FROM actions WHERE id = ?`, a.ID).Scan(&spec); err != nil {
			return err
		}
		if strings.Contains(spec, "hunter") {
			t.Errorf("it is in the store: %s", spec)
		}
		had, err := w.unseal(tx, "actions", a.ID.row(), int64(a.ID))
		if had["password"] != "hunter-registry" || had["variables.A"] != "hunter-value" {
			t.Errorf("sealed: %v", had)
		}
		return err
	}))
}

// What was deleted leaves no secret behind, but what still ends may use it.
func TestSecretsOfDeleted(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	hidden := func(key string) []Variable { return []Variable{{Key: key, Value: "hunter-" + key, Encrypted: true}} }
	last := sh("test $P$A$S = hunter-Phunter-Ahunter-S")
	last.When, last.Variables = OnTerminate, hidden("A")
	gone := func() Action { a := sh("true"); a.Variables = hidden("A"); return a }
	p := w.pipeline(Pipeline{Variables: hidden("P")}, sh("block"), last, gone())
	as, err := w.Actions(t.Context(), w.admin, p.ID)
	w.must(err)
	at := secret.Scope{Workspace: w.home.ID, Project: w.pr.ID}
	for _, s := range []secret.Scope{{Pipeline: int64(p.ID)}, {Pipeline: int64(p.ID), Action: int64(as[1].ID)}, {Pipeline: int64(p.ID), Action: int64(as[2].ID)}, {}} {
		s.Workspace, s.Project = at.Workspace, at.Project
		_, err := w.secrets.CreateVariable(t.Context(), w.admin, secret.Variable{Scope: s, Key: "STORED", Value: "x", Encrypted: true})
		w.must(err)
	}
	left := func() (variables, sealed int) {
		w.must(w.db.Read(t.Context(), func(tx *db.Tx) error {
			return tx.QueryRow(`SELECT (SELECT COUNT(*) FROM variables WHERE name = 'STORED'), (SELECT COUNT(*) FROM pipelines WHERE sealed IS NOT NULL) +
				(SELECT COUNT(*) FROM actions WHERE sealed IS NOT NULL) + (SELECT COUNT(*) FROM executions WHERE sealed IS NOT NULL)`).Scan(&variables, &sealed)
		}))
		return variables, sealed
	}
	w.must(w.DeleteAction(t.Context(), w.admin, p.ID, as[2].ID))
	if v, s := left(); v != 3 || s != 2 {
		t.Errorf("after the action: %d variables, %d sealed rows", v, s)
	}
	x := w.start(p, Start{Variables: hidden("S")})
	w.eng.Await(engineID(x, 0, 1))
	w.must(w.Delete(t.Context(), w.admin, p.ID))
	w.expect(x, "TERMINATED TERMINATED(cancelled) SUCCESSFUL")
	if v, s := left(); v != 1 || s != 0 {
		t.Errorf("after the pipeline: %d variables, %d sealed rows", v, s)
	}
	// One of which nothing runs.
	q := w.pipeline(Pipeline{Name: "idle", Variables: hidden("P")}, gone())
	w.must(w.Delete(t.Context(), w.admin, q.ID))
	if v, s := left(); v != 1 || s != 0 {
		t.Errorf("after the idle pipeline: %d variables, %d sealed rows", v, s)
	}
}
