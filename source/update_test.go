package source

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"slipway/project"
	"slipway/secret"
)

func TestRemoteChange(t *testing.T) {
	t.Parallel()
	key, _ := newKey(t)
	another, _ := newKey(t)
	is := func(s string) *string { return &s }
	const one, two = "https://one.example/a/b", "https://two.example/a/b"
	login := &Remote{URL: one, Username: "u", Password: "p", PrivateKey: key}
	token := &Remote{URL: one, Username: "token"}
	for _, c := range []struct {
		what   string
		old    *Remote
		change RemoteChange
		want   *Remote
		bad    string // paths
	}{
		{"nothing said", login, RemoteChange{}, login, ""},
		{"nothing said of nothing", nil, RemoteChange{}, nil, ""},
		{"as it is", login, RemoteChange{is(one), is("u"), is(secret.Encrypted), nil}, login, ""},
		{"nothing to unlink", nil, RemoteChange{is(""), is(""), is(""), nil}, nil, ""},
		{"unlinked", login, RemoteChange{URL: is("")}, nil, ""},
		{"unlinked, with a login", login, RemoteChange{is(""), is("v"), is("q"), nil}, nil, "username password"},
		{"a login of nothing", nil, RemoteChange{Username: is("v")}, nil, "username"},
		{"linked", nil, RemoteChange{is(two), is("v"), nil, nil}, &Remote{URL: two, Username: "v"}, ""},
		{"another user", login, RemoteChange{Username: is("v")}, &Remote{URL: one, Username: "v", Password: "p", PrivateKey: key}, ""},
		{"another password", login, RemoteChange{Password: is("q")}, &Remote{URL: one, Username: "u", Password: "q", PrivateKey: key}, ""},
		{"another key", login, RemoteChange{PrivateKey: is(string(another))}, &Remote{URL: one, Username: "u", Password: "p", PrivateKey: another}, ""},
		{"the same key", login, RemoteChange{PrivateKey: is(string(key))}, login, ""},
		{"no key", login, RemoteChange{PrivateKey: is("")}, &Remote{URL: one, Username: "u", Password: "p"}, ""},
		{"what is no key", login, RemoteChange{PrivateKey: is("k")}, nil, "private_key"},
		{"a key of nothing", nil, RemoteChange{PrivateKey: is(string(key))}, nil, "private_key"},
		{"another repository with its key", login, RemoteChange{URL: is(one + "c"), PrivateKey: is(string(key))}, &Remote{URL: one + "c", Username: "u", Password: "p", PrivateKey: key}, ""},
		{"another repository of the host", login, RemoteChange{URL: is(one + "c")}, &Remote{URL: one + "c", Username: "u", Password: "p"}, ""},
		{"another host", login, RemoteChange{URL: is(two)}, nil, "password"},
		{"another host, the password said to stay", login, RemoteChange{URL: is(two), Password: is(secret.Encrypted)}, nil, "password"},
		{"another host, no password", login, RemoteChange{URL: is(two), Password: is("")}, &Remote{URL: two, Username: "u"}, ""},
		{"a login in the URL", login, RemoteChange{URL: is("https://v:q@two.example/a/b")}, &Remote{URL: two, Username: "v", Password: "q"}, ""},
		{"a token stays with its host", token, RemoteChange{URL: is(two)}, nil, "username"},
		{"a token and another repository of the host", token, RemoteChange{URL: is(one + "c")}, &Remote{URL: one + "c", Username: "token"}, ""},
		{"a token as it was told", token, RemoteChange{Username: is(secret.Encrypted)}, token, ""},
		{"a token as it was told, elsewhere", token, RemoteChange{URL: is(two), Username: is(secret.Encrypted)}, nil, "username"},
		{"another token", token, RemoteChange{URL: is(two), Username: is("w")}, &Remote{URL: two, Username: "w"}, ""},
		{"no URL of ours", login, RemoteChange{URL: is("ftp://one.example/a")}, nil, "url"},
	} {
		got, err := c.change.of(c.old, false)
		var paths []string
		if bad, ok := project.AsInvalid(err); ok {
			for _, f := range bad.Fields {
				paths = append(paths, f.Path)
			}
		} else if err != nil {
			t.Errorf("%s: %v", c.what, err)
		}
		if strings.Join(paths, " ") != c.bad || fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", c.want) {
			t.Errorf("%s: %+v, %v; want %+v, %q", c.what, got, err, c.want, c.bad)
		}
		if c.want == c.old && got != c.old {
			t.Errorf("%s: it is another one", c.what)
		}
	}
}

// A project and what it is linked to change together, or not at all.
func TestUpdateProject(t *testing.T) {
	t.Parallel()
	l := newLinked(t)
	s := l.here.sources
	l.c.write("f", "1")
	one := l.push("one")
	l.out(one, 1)
	l.here.project("taken")
	old := mustRemote(l)
	is := func(s string) *string { return &s }
	public := true
	update := func(name, url string) error {
		_, err := s.UpdateProject(t.Context(), l.here.ann, l.q.ID, project.Change{Name: &name, Public: &public}, RemoteChange{URL: &url, Password: is("")})
		return err
	}
	unchanged := func(what string) {
		t.Helper()
		p, err := l.here.projects.Get(t.Context(), l.here.ann, string(l.q.ID))
		must(t, err)
		if now := mustRemote(l); p.Name != "copy" || p.Public || now == nil || now.URL != old.URL || now.Password != old.Password {
			t.Errorf("%s: %+v of %+v", what, now, p)
		}
	}
	err := update("A B", "ftp://x/y")
	if bad, ok := project.AsInvalid(err); !ok || len(bad.Fields) != 2 {
		t.Errorf("bad input: %v", err)
	}
	unchanged("bad input")
	if _, err := os.Stat(s.mirrorPath(l.q.ID)); err != nil {
		t.Errorf("bad input costs the mirror: %v", err)
	}
	if err := update("taken", "https://two.invalid/a/b"); !errdefs.IsAlreadyExists(err) {
		t.Errorf("a name that is taken: %v", err)
	}
	unchanged("a name that is taken")
	k, err := s.locks.take(t.Context(), s.mirrorLock(l.q.ID), false)
	must(t, err)
	s.patience = 50 * time.Millisecond
	if err := update("renamed", "https://two.invalid/a/b"); !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), "is busy: try again later") {
		t.Errorf("while it is fetched: %v", err)
	}
	unchanged("while it is fetched")
	k.release()
	s.patience = asking
	l.out(one, 1)
	must(t, update("renamed", "https://two.invalid/a/b"))
	p, err := l.here.projects.Get(t.Context(), l.here.ann, string(l.q.ID))
	must(t, err)
	if now := mustRemote(l); p.Name != "renamed" || !p.Public || now.URL != "https://two.invalid/a/b" || now.Password != "" {
		t.Errorf("%+v of %+v", now, p)
	}
	// Whoever still fetches the old one does not bring it under the new name.
	if _, err := s.fetch(t.Context(), l.q.ID, old, one, "", 1); !errdefs.IsAborted(err) {
		t.Errorf("a fetch of the old one: %v", err)
	}
	if _, err := os.Stat(s.mirrorPath(l.q.ID)); err == nil {
		t.Error("the mirror of the old one is there")
	}
	must(t, update("renamed", ""))
	if now := mustRemote(l); now != nil {
		t.Errorf("unlinked: %+v", now)
	}
	if _, err := s.Write(t.Context(), l.here.ann, l.q.ID, "main", "f", []byte("x"), ""); err != nil {
		t.Errorf("unlinked, it is its own again: %v", err)
	}
}
