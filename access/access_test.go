package access

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"slipway/db"
)

const home, other = "workspace-1", "workspace-2"

// world is a store with admin, who owns home, and guest, who owns other.
type world struct {
	*Access
	admin, guest         Actor
	adminSecret          string
	guestUser, adminUser User
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
	w := &world{Access: New(d)}
	var kept string
	w.adminSecret, err = w.Bootstrap(t.Context(), "admin", func(tx *db.Tx, u User) error {
		w.adminUser = u
		return AddMember(tx, home, u.ID, Owner)
	}, func(s string) error { kept = s; return nil })
	if err != nil || kept != w.adminSecret {
		t.Fatal(kept, err)
	}
	w.admin = w.ask(t, w.adminSecret)
	err = d.Write(t.Context(), func(tx *db.Tx) (err error) {
		if w.guestUser, err = AddUser(tx, User{Username: "guest"}); err != nil {
			return err
		}
		return AddMember(tx, other, w.guestUser.ID, Owner)
	})
	if err != nil {
		t.Fatal(err)
	}
	_, s, err := w.CreateToken(t.Context(), System(w.guestUser), NewToken{Name: "all", Scopes: Scopes()})
	if err != nil {
		t.Fatal(err)
	}
	w.guest = w.ask(t, s)
	return w
}

func (w *world) ask(t testing.TB, secret string) Actor {
	t.Helper()
	a, err := w.Authenticate(t.Context(), secret, "192.0.2.1")
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestBootstrap(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	if !strings.HasPrefix(w.adminSecret, "slw_") || len(w.adminSecret) != 47 {
		t.Error(len(w.adminSecret))
	}
	for _, s := range Scopes() {
		if err := w.admin.May(home, s); err != nil {
			t.Error(err)
		}
	}
	again, err := w.Bootstrap(t.Context(), "other", func(*db.Tx, User) error { t.Error("made again"); return nil }, nil)
	if again != "" || err != nil {
		t.Error(err)
	}
	d, err := db.Open(t.Context(), filepath.Join(t.TempDir(), "x.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	a, full := New(d), errors.New("disk full")
	for range 2 { // what could not be kept was not made
		if s, err := a.Bootstrap(t.Context(), "admin", nil, func(string) error { return full }); s != "" || !errors.Is(err, full) {
			t.Error(err)
		}
	}
}

func TestAuthenticate(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, s := range []string{"", "x", "slw_", w.adminSecret + "x", "slw_" + strings.Repeat("a", 43), strings.ToUpper(w.adminSecret)} {
		if a, err := w.Authenticate(t.Context(), s, "192.0.2.1"); !errdefs.IsUnauthorized(err) || a.Known() {
			t.Errorf("%q: %v", s, err)
		} else if len(s) > 4 && strings.Contains(err.Error(), s) {
			t.Error("the secret is in the error")
		}
	}
	for _, c := range []struct {
		ips     []string
		from    string
		allowed bool
	}{
		{nil, "", true},
		{[]string{"192.0.2.1"}, "192.0.2.1", true},
		{[]string{"192.0.2.1"}, "::ffff:192.0.2.1", true},
		{[]string{"192.0.2.1"}, "192.0.2.2", false},
		{[]string{"192.0.2.1"}, "", false},
		{[]string{"192.0.2.1"}, "nonsense", false},
		{[]string{"192.0.2.128/25", "2001:db8::/32"}, "192.0.2.200", true},
		{[]string{"192.0.2.128/25", "2001:db8::/32"}, "192.0.2.100", false},
		{[]string{"192.0.2.128/25", "2001:db8::/32"}, "2001:db8::7", true},
		{[]string{"::ffff:192.0.2.0/120"}, "192.0.2.9", true},
		{[]string{"fe80::1"}, "fe80::1%eth0", true},
	} {
		_, s, err := w.CreateToken(t.Context(), w.admin, NewToken{Name: "x", IPs: c.ips})
		if err != nil {
			t.Fatal(err)
		}
		for range 2 { // from the store, from memory
			if _, err := w.Authenticate(t.Context(), s, c.from); (err == nil) != c.allowed || (err != nil && !errdefs.IsUnauthorized(err)) {
				t.Errorf("%v from %s: %v", c.ips, c.from, err)
			}
		}
	}
	expires := time.Now().Add(time.Second)
	_, s, err := w.CreateToken(t.Context(), w.admin, NewToken{Name: "short", Expires: expires})
	if err != nil {
		t.Fatal(err)
	}
	for err == nil {
		asked := time.Now()
		if _, err = w.Authenticate(t.Context(), s, ""); err == nil && asked.After(expires) {
			t.Fatal("it is good after its end")
		}
	}
	if !errdefs.IsUnauthorized(err) || time.Now().Before(expires) {
		t.Error(err)
	}
}

func TestDeletedTokenEndsAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for range 50 {
		tok, s, err := w.CreateToken(t.Context(), w.admin, NewToken{Name: "x", Scopes: []Scope{Workspace}})
		if err != nil {
			t.Fatal(err)
		}
		w.ask(t, s)
		var all sync.WaitGroup
		stop := make(chan struct{})
		for range 4 { // others ask all the time, so that it is loaded and kept in the midst of it
			all.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
						_, _ = w.Authenticate(context.Background(), s, "")
					}
				}
			})
		}
		if err := w.DeleteToken(t.Context(), w.admin, tok.ID); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Authenticate(t.Context(), s, ""); !errdefs.IsUnauthorized(err) {
			t.Error(err)
		}
		close(stop)
		all.Wait()
	}
}

func TestMembership(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	if w.guest.Sees(home) || !w.guest.Sees(other) || w.guest.Sees("unknown") {
		t.Error("sees wrongly")
	}
	if err := w.guest.May(home, Workspace); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
	_, s, err := w.CreateToken(t.Context(), w.guest, NewToken{Name: "x", Scopes: Scopes()})
	if err != nil {
		t.Fatal(err)
	}
	change := func(f func(tx *db.Tx) error) {
		t.Helper()
		if err := w.db.Write(t.Context(), f); err != nil {
			t.Fatal(err)
		}
	}
	change(func(tx *db.Tx) error { return AddMember(tx, home, w.guestUser.ID, Member) })
	a := w.ask(t, s)
	if err := a.May(home, Workspace); err != nil {
		t.Error(err)
	}
	if err := a.May(home, ExecutionInfo); !errdefs.IsPermissionDenied(err) {
		t.Error(err)
	}
	if err := a.May(home, WorkspacesManage); !errdefs.IsPermissionDenied(err) {
		t.Error(err)
	}
	if a.Role(home) != Member || a.Role(other) != Owner || a.Role("unknown") != "" {
		t.Error(a.roles)
	}
	if ids, all := a.Workspaces(); !slices.Equal(ids, []string{home, other}) || all {
		t.Error(ids)
	}
	l, err := w.Members(t.Context(), w.admin, home)
	if err != nil || len(l) != 2 || l[0].User.Username != "admin" || l[0].Role != Owner || l[1].User.ID != w.guestUser.ID {
		t.Error(l, err)
	}
	change(func(tx *db.Tx) error { return AddMember(tx, home, w.guestUser.ID, Owner) })
	if a = w.ask(t, s); a.Role(home) != Owner {
		t.Error(a.Role(home))
	}
	change(func(tx *db.Tx) error { return RemoveMember(tx, home, w.guestUser.ID) })
	if a = w.ask(t, s); a.Sees(home) {
		t.Error("still sees it")
	}
	if err := w.db.Write(t.Context(), func(tx *db.Tx) error { return RemoveMember(tx, home, w.guestUser.ID) }); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
}

func TestActors(t *testing.T) {
	t.Parallel()
	var nobody Actor
	if nobody.Known() || nobody.Sees("") || !errdefs.IsNotFound(nobody.May(home, Workspace)) || !errdefs.IsUnauthorized(nobody.Has(UserInfo)) {
		t.Error("the zero actor may something")
	}
	sys := System(User{})
	if !sys.Known() || !sys.Sees(home) || sys.May(home, WorkspacesManage) != nil || sys.Has(TokenManage) != nil {
		t.Error("the system may not")
	}
	bound := Actor{User: User{ID: 1}, Token: Token{Scopes: []Scope{ExecutionRun}, Workspaces: []string{other}}, roles: map[string]Role{home: Owner, other: Owner}}
	if bound.Sees(home) || bound.Role(home) != "" || !bound.Sees(other) {
		t.Error("a bound token sees wrongly")
	}
	if bound.May(other, ExecutionInfo) != nil {
		t.Error("run does not include info")
	}
	err := bound.May(other, ExecutionManage)
	if !errdefs.IsPermissionDenied(err) || !strings.Contains(err.Error(), "EXECUTION_MANAGE") {
		t.Error(err)
	}
}

func TestScopes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		have, want Scope
		ok         bool
	}{
		{ExecutionManage, ExecutionInfo, true},
		{ExecutionInfo, ExecutionRun, false},
		{"PIPELINE_READ", ExecutionInfo, true},
		{"PIPELINE_MANAGE", "EXECUTION_RUN", true},
		{ExecutionManage, "PIPELINE_READ", true},
		{VariableManage, "VARIABLE_WRITE", true},
		{"VARIABLE_READ", VariableAdd, false},
		{RepositoryWrite, RepositoryRead, true},
		{RepositoryRead, Workspace, false},
		{"WEBHOOK_MANAGE", "WEBHOOK_INFO", true},
		{"NONSENSE", "NONSENSE", false},
		{"", "", false},
	} {
		if got := c.have.Includes(c.want); got != c.ok {
			t.Errorf("%s includes %s: %v", c.have, c.want, got)
		}
	}
	for s, to := range alike {
		if !KnownScope(s) || !KnownScope(to) {
			t.Errorf("%s is like %s, which is unknown", s, to)
		}
	}
	for _, l := range scopes {
		for _, s := range l {
			if _, ok := scopes[s]; !ok {
				t.Errorf("%s is unknown", s)
			}
		}
	}
}

func TestNewTokenIsWithinItsMaker(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	end := time.Now().Add(time.Hour).UTC().Truncate(time.Microsecond)
	_, s, err := w.CreateToken(t.Context(), w.admin, NewToken{
		Name: "narrow", Scopes: []Scope{TokenManage, "PIPELINE_RUN"}, Workspaces: []string{home}, IPs: []string{"192.0.2.0/24"}, Expires: end,
	})
	if err != nil {
		t.Fatal(err)
	}
	by := w.ask(t, s)
	got, _, err := w.CreateToken(t.Context(), by, NewToken{Name: "heir", Scopes: []Scope{ExecutionInfo}})
	if err != nil || !got.Expires.Equal(end) || !slices.Equal(got.IPs, []string{"192.0.2.0/24"}) || !slices.Equal(got.Workspaces, []string{home}) {
		t.Error(got, err)
	}
	if got, _, err := w.CreateToken(t.Context(), by, NewToken{Name: "narrower", IPs: []string{"192.0.2.7", "192.0.2.128/25"}, Expires: end.Add(time.Hour)}); err != nil || !got.Expires.Equal(end) {
		t.Error(got, err)
	}
	for name, c := range map[string]struct {
		n  NewToken
		is func(error) bool
	}{
		"scope":     {NewToken{Name: "x", Scopes: []Scope{ExecutionManage}}, errdefs.IsPermissionDenied},
		"workspace": {NewToken{Name: "x", Workspaces: []string{other}}, errdefs.IsNotFound},
		"address":   {NewToken{Name: "x", IPs: []string{"198.51.100.1"}}, errdefs.IsPermissionDenied},
		"prefix":    {NewToken{Name: "x", IPs: []string{"192.0.0.0/16"}}, errdefs.IsPermissionDenied},
	} {
		if _, _, err := w.CreateToken(t.Context(), by, c.n); !c.is(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, _, err = w.CreateToken(t.Context(), by, NewToken{Name: " ", Scopes: []Scope{Workspace, "NO"}, IPs: []string{"", "1.2.3.4/99"}, Expires: time.Now().Add(-time.Second)})
	var bad *Invalid
	if !errors.As(err, &bad) || !errdefs.IsInvalidArgument(err) {
		t.Fatal(err)
	}
	var paths []string
	for _, f := range bad.Fields {
		paths = append(paths, f.Path)
	}
	if want := []string{"name", "scopes.1", "ip_restrictions.0", "ip_restrictions.1", "expires_at"}; !slices.Equal(paths, want) {
		t.Error(paths)
	}

	if err := (NewToken{Name: "a\x00"}).Validate(time.Now()); !errors.As(err, &bad) || len(bad.Fields) != 1 || bad.Fields[0].Path != "name" {
		t.Error(err)
	}

	_, s, err = w.CreateToken(t.Context(), w.admin, NewToken{Name: "weak", Scopes: []Scope{Workspace}})
	if err != nil {
		t.Fatal(err)
	}
	weak := w.ask(t, s)
	if _, _, err := w.CreateToken(t.Context(), weak, NewToken{Name: "x"}); !errdefs.IsPermissionDenied(err) {
		t.Error(err)
	}
	if _, err := w.Tokens(t.Context(), weak); !errdefs.IsPermissionDenied(err) {
		t.Error(err)
	}
	if err := w.DeleteToken(t.Context(), weak, by.Token.ID); !errdefs.IsPermissionDenied(err) {
		t.Error(err)
	}
	if err := w.DeleteToken(t.Context(), weak, weak.Token.ID); err != nil {
		t.Error(err)
	}
	if _, _, err := w.CreateToken(t.Context(), System(User{}), NewToken{Name: "x"}); !errdefs.IsInvalidArgument(err) {
		t.Error(err)
	}
	// A request whose token was deleted meanwhile.
	if err := w.DeleteToken(t.Context(), w.admin, by.Token.ID); err != nil {
		t.Error(err)
	}
	if _, _, err := w.CreateToken(t.Context(), by, NewToken{Name: "late"}); !errdefs.IsUnauthorized(err) {
		t.Error(err)
	}
}

func TestTokens(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	made, s, err := w.CreateToken(t.Context(), w.admin, NewToken{Name: "second", Scopes: []Scope{"PIPELINE_READ"}})
	if err != nil {
		t.Fatal(err)
	}
	w.ask(t, s)
	l, err := w.Tokens(t.Context(), w.admin)
	if err != nil || len(l) != 2 || l[0].Name != "admin" || l[1].ID != made.ID || l[1].Scopes[0] != "PIPELINE_READ" {
		t.Fatal(l, err)
	}
	if l[1].LastUsed.IsZero() || l[1].Created.IsZero() || !l[1].Expires.IsZero() {
		t.Error(l[1])
	}
	for range 3 { // not again within a minute
		w.ask(t, s)
	}
	if again, _ := w.Tokens(t.Context(), w.admin); !again[1].LastUsed.Equal(l[1].LastUsed) {
		t.Error("noted again")
	}
	if err := w.DeleteToken(t.Context(), w.guest, made.ID); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
	if l, err := w.Tokens(t.Context(), w.guest); err != nil || len(l) != 1 {
		t.Error(l, err)
	}
	u, err := w.User(t.Context(), w.admin.User.ID)
	if err != nil || u.Username != "admin" || u.UUID == "" {
		t.Error(u, err)
	}
	if _, err := w.User(t.Context(), 99); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
	for _, name := range []string{"", "A", "a b", ".a", "admin"} {
		err := w.db.Write(t.Context(), func(tx *db.Tx) error { _, err := AddUser(tx, User{Username: name}); return err })
		if name == "admin" && !errdefs.IsAlreadyExists(err) || name != "admin" && !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %v", name, err)
		}
	}
}

// The secret is nowhere in the store.
func TestSecretIsNotStored(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	if n := query(t, w, `SELECT COUNT(*) FROM tokens WHERE hash = CAST(? AS BLOB) OR name LIKE ? OR id = ?`, w.adminSecret, w.adminSecret, w.adminSecret); n != 0 {
		t.Error("it is")
	}
	if n := query(t, w, `SELECT COUNT(*) FROM tokens WHERE length(hash) <> 32`); n != 0 {
		t.Error("a hash is not one")
	}
}

func query(t *testing.T, w *world, q string, args ...any) (n int) {
	t.Helper()
	if err := w.db.Read(t.Context(), func(tx *db.Tx) error { return tx.QueryRow(q, args...).Scan(&n) }); err != nil {
		t.Fatal(err)
	}
	return n
}

func BenchmarkAuthenticate(b *testing.B) {
	w := newWorld(b)
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			if _, err := w.Authenticate(b.Context(), w.adminSecret, "192.0.2.1"); err != nil {
				b.Error(err)
			}
		}
	})
}

func ExampleScope_Includes() {
	fmt.Println(ExecutionManage.Includes("PIPELINE_READ"))
	// Output: true
}

func TestTextsOfInput(t *testing.T) {
	t.Parallel()
	var bad Invalid
	bad.NoNUL("good", "a", "bad", "a\x00b", "empty", "")
	bad.Text("short", "äöü", 3)
	bad.Text("long", "äöüx", 3)
	bad.Text("both", "äöü\x00", 3)
	var got []string
	for _, f := range bad.Fields {
		got = append(got, f.Path+" "+f.Kind)
	}
	if want := []string{"bad format", "long maximum", "both maximum", "both format"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestUpdateToken(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	end := time.Now().Add(time.Hour).UTC().Truncate(time.Second)
	tok, s, err := w.CreateToken(t.Context(), w.admin, NewToken{Name: "short", Scopes: []Scope{TokenManage}, Expires: end})
	if err != nil {
		t.Fatal(err)
	}
	by, err := w.Authenticate(t.Context(), s, "")
	if err != nil {
		t.Fatal(err)
	}
	never, later, sooner := time.Time{}, end.Add(time.Minute), end.Add(-time.Minute)
	for _, to := range []*time.Time{&never, &later} {
		if err := w.UpdateToken(t.Context(), by, tok.ID, "longer", to); !errdefs.IsPermissionDenied(err) {
			t.Errorf("until %s: %v", to, err)
		}
	}
	if err := w.UpdateToken(t.Context(), w.guest, tok.ID, "mine", nil); !errdefs.IsNotFound(err) {
		t.Errorf("of somebody else: %v", err)
	}
	if err := w.UpdateToken(t.Context(), by, tok.ID, "sooner", &sooner); err != nil {
		t.Fatal(err)
	}
	if by, err = w.Authenticate(t.Context(), s, ""); err != nil || by.Token.Name != "sooner" || !by.Token.Expires.Equal(sooner) {
		t.Errorf("got %+v, %v", by.Token, err)
	}
	if err := w.UpdateToken(t.Context(), by, tok.ID, "named", nil); err != nil {
		t.Fatal(err)
	}
	if by, err = w.Authenticate(t.Context(), s, ""); err != nil || by.Token.Name != "named" || !by.Token.Expires.Equal(sooner) {
		t.Errorf("got %+v, %v", by.Token, err)
	}
}
