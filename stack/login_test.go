package stack

import (
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"slipway/access"
	"slipway/db"
	"slipway/secret"
)

// TestLoginIsAskedFor: a login is kept when its registry lets the user in or
// cannot be asked, and what could not be had without it is had at once.
func TestLoginIsAskedFor(t *testing.T) {
	t.Parallel()
	w := newRig(t)
	w.eng.Protect("closed.example", "ann", "right-4711")
	w.eng.Publish("closed.example/app:1", w.eng.Image("echo"))
	w.eng.NoRegistry("page.example")
	w.eng.Unreachable("gone.example")
	w.put(map[string]Definition{"web": {Image: "closed.example/app:1"}})
	w.until("the image cannot be had", func() bool { return strings.Contains(w.service("web").Message, "wants a login") })

	login := func(host, password string) secret.Login {
		return secret.Login{Project: w.pr.ID, Host: host, Username: "ann", Password: password}
	}
	for _, c := range []struct {
		login secret.Login
		says  []string
	}{
		{login("closed.example", "wrong-0815"), []string{"closed.example", "ann"}},
		{login("page.example", "p"), []string{"page.example", "does not answer as a registry"}},
		{secret.Login{Project: w.pr.ID, Host: "page.example"}, []string{"page.example", "does not answer as a registry"}},
	} {
		_, err := w.CreateLogin(t.Context(), w.admin, c.login)
		for _, s := range c.says {
			if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), s) || strings.Contains(err.Error(), "wrong-0815") {
				t.Errorf("%s: %v", c.login.Host, err)
			}
		}
	}
	if l, err := w.secrets.Logins(t.Context(), w.admin, w.pr.ID); err != nil || len(l) != 3 {
		t.Error("a refused login is kept:", l, err)
	}
	asked := len(w.eng.Calls())
	if _, err := w.CreateLogin(t.Context(), access.Actor{}, login("gone.example", "p")); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
	if _, err := w.CreateLogin(t.Context(), w.admin, login("a/b", "p")); !errdefs.IsInvalidArgument(err) {
		t.Error(err)
	}
	for _, c := range w.eng.Calls()[asked:] {
		if strings.Contains(c, "CheckLogin") {
			t.Error("a registry was asked for nothing:", c)
		}
	}

	l, err := w.CreateLogin(t.Context(), w.admin, login("closed.example", "right-4711"))
	if err != nil || !l.Valid || l.Checked.IsZero() || l.Password != secret.Encrypted {
		t.Fatal(l, err)
	}
	w.untilStatus("web", Running)

	// Only what a registry has to do with is asked.
	w.eng.Protect("closed.example", "ann", "another")
	l.Description = "ours"
	if l, err = w.UpdateLogin(t.Context(), w.admin, l); err != nil || !l.Valid || l.Description != "ours" {
		t.Error(l, err)
	}
	wrong := l
	wrong.Password = "wrong-0815"
	if _, err := w.UpdateLogin(t.Context(), w.admin, wrong); !errdefs.IsFailedPrecondition(err) {
		t.Error(err)
	}
	if l, err = w.secrets.Login(t.Context(), w.admin, l.ID); err != nil || !l.Valid {
		t.Error("a refused change is kept:", l, err)
	}
	if valid, err := w.CheckLogin(t.Context(), w.admin, l.ID); err != nil || valid {
		t.Error("a login that the registry does not know any more is valid:", err)
	}
	if l, err = w.secrets.Login(t.Context(), w.admin, l.ID); err != nil || l.Valid {
		t.Error(l, err)
	}
	l.Password = "another"
	if l, err = w.UpdateLogin(t.Context(), w.admin, l); err != nil || !l.Valid {
		t.Error(l, err)
	}
	l.Username, l.Password = "", ""
	if l, err = w.UpdateLogin(t.Context(), w.admin, l); err != nil || l.Valid {
		t.Error(l, err)
	}
	if _, err := w.CheckLogin(t.Context(), w.admin, l.ID); !errdefs.IsFailedPrecondition(err) {
		t.Error(err)
	}
}

// TestLoginIsKeptWhole: a login is kept with what the registry said of it and
// with the wake of what waits for it, or not at all; a host that is taken is
// asked about nothing.
func TestLoginIsKeptWhole(t *testing.T) {
	t.Parallel()
	w := newRig(t)
	w.eng.Protect("closed.example", "ann", "right-4711")
	w.eng.Publish("closed.example/app:1", w.eng.Image("echo"))
	w.put(map[string]Definition{"web": {Image: "closed.example/app:1"}})
	w.until("the image cannot be had", func() bool { return strings.Contains(w.service("web").Message, "wants a login") })
	change := func(query string) {
		w.must(w.store.Write(t.Context(), func(tx *db.Tx) error { _, err := tx.Exec(query); return err }))
	}
	change(`CREATE TRIGGER no_wake BEFORE UPDATE OF retry_at ON service_definitions WHEN NEW.retry_at IS NULL BEGIN SELECT RAISE(ABORT, 'no wake'); END`)
	l := secret.Login{Project: w.pr.ID, Host: "closed.example", Username: "ann", Password: "right-4711"}
	if got, err := w.CreateLogin(t.Context(), w.admin, l); err == nil || got.ID != "" {
		t.Fatal(got, err)
	}
	if list, err := w.secrets.Logins(t.Context(), w.admin, w.pr.ID); err != nil || len(list) != 3 {
		t.Error("half of it is kept:", list, err)
	}
	change(`DROP TRIGGER no_wake`)
	kept, err := w.CreateLogin(t.Context(), w.admin, l)
	if err != nil || !kept.Valid || kept.Checked.IsZero() {
		t.Fatal(kept, err)
	}
	w.untilStatus("web", Running)

	change(`CREATE TRIGGER no_check BEFORE UPDATE OF checked ON logins WHEN NEW.checked IS NOT NULL BEGIN SELECT RAISE(ABORT, 'no check'); END`)
	w.eng.Protect("closed.example", "ann", "another")
	changed := kept
	changed.Description, changed.Password = "ours", "another"
	if _, err := w.UpdateLogin(t.Context(), w.admin, changed); err == nil {
		t.Error("no error")
	}
	if got, err := w.secrets.Login(t.Context(), w.admin, kept.ID); err != nil || got.Description != "" || !got.Valid {
		t.Error("half of it is changed:", got, err)
	}

	asked := len(w.eng.Calls())
	for _, host := range []string{"closed.example", "ghcr.io"} {
		l.Host = host
		if _, err := w.CreateLogin(t.Context(), w.admin, l); !errdefs.IsAlreadyExists(err) {
			t.Errorf("%s: %v", host, err)
		}
	}
	for _, c := range w.eng.Calls()[asked:] {
		if strings.Contains(c, "CheckLogin") {
			t.Error("a registry was asked for nothing:", c)
		}
	}
}

// TestLoginIsAskedAgain: a registry that could not be asked is asked again.
func TestLoginIsAskedAgain(t *testing.T) {
	t.Parallel()
	w := newRig(t)
	w.stop()
	w.cfg.CheckLogins = 5 * time.Millisecond
	w.run()
	w.eng.Unreachable("away.example")
	l, err := w.CreateLogin(t.Context(), w.admin, secret.Login{Project: w.pr.ID, Host: "away.example", Username: "ann", Password: "right-4711"})
	if err != nil || l.Valid || !l.Checked.IsZero() {
		t.Fatal(l, err)
	}
	if valid, err := w.CheckLogin(t.Context(), w.admin, l.ID); err != nil || valid {
		t.Error(valid, err)
	}
	w.eng.Protect("away.example", "ann", "right-4711")
	w.until("the login is valid", func() bool {
		l, err = w.secrets.Login(t.Context(), w.admin, l.ID)
		return err == nil && l.Valid && !l.Checked.IsZero()
	})
}

// TestHalfARegistry: whoever leaves out the end of a registry's name is told.
func TestHalfARegistry(t *testing.T) {
	t.Parallel()
	w := newRig(t)
	w.put(map[string]Definition{"web": {Image: "ghcr/team/app:1"}, "none": {Image: "registry"}})
	w.until("the image is not there", func() bool {
		return strings.Contains(w.service("web").Message, "does not exist yet") && strings.Contains(w.service("none").Message, "does not exist yet")
	})
	if m := w.service("web").Message; !strings.Contains(m, "ghcr.io/team/app:1") {
		t.Error(m)
	}
	if m := w.service("none").Message; strings.Contains(m, "(") {
		t.Error(m)
	}
	for _, c := range []struct{ first, host string }{{"ghcr.io", "ghcr.io"}, {"localhost", "localhost:5000"}, {"gh", "ghcr.io"}, {"nginx:1", "nginx:1.example"}} {
		if resembles(c.first, c.host) {
			t.Errorf("%+v", c)
		}
	}
}
