package secret

import (
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"slipway/access"
	"slipway/project"
)

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
