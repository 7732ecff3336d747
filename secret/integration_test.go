package secret

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"

	"slipway/access"
	"slipway/db"
	"slipway/project"
)

// hub is an integration of Docker Hub.
func (w *world) hub(name string) Integration {
	return Integration{
		Workspace: w.home.ID, Name: name, Type: DockerHub, AllPipelines: true, Credentials: Credentials{Username: "ann", Password: "hunter2hunter2"},
	}
}

func (w *world) integration(t testing.TB, i Integration) Integration {
	t.Helper()
	made, err := w.CreateIntegration(t.Context(), w.admin, i)
	if err != nil {
		t.Fatal(err)
	}
	return made
}

func TestIntegrations(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	one := w.integration(t, w.hub("Docker Hub"))
	if one.Identifier != "docker-hub" || len(one.ID) != 24 || one.Auth != AuthDefault || one.Permissions.Admins != Manage || one.Permissions.Others != UseOnly {
		t.Errorf("%+v", one)
	}
	if two := w.integration(t, w.hub("Docker  hub!")); two.Identifier != "docker-hub-2" {
		t.Errorf("the second is %q", two.Identifier)
	}
	named := w.hub("x")
	named.Identifier = "docker-hub"
	if _, err := w.CreateIntegration(t.Context(), w.admin, named); !errdefs.IsAlreadyExists(err) {
		t.Errorf("taken: %v", err)
	}
	got, err := w.Integration(t.Context(), w.admin, w.home.ID, one.ID)
	if err != nil || got.ID != one.ID || !got.Created.Equal(one.Created) || !cmp.Equal(got.Credentials, Credentials{}) || !cmp.Equal(one.Credentials, Credentials{}) {
		t.Errorf("%+v, %v", got, err)
	}
	// What is not given stays, and so does what is given as it is shown.
	now, err := w.UpdateIntegration(t.Context(), w.admin, w.home.ID, one.ID, func(i *Integration) error {
		if i.Credentials.Password != Encrypted || i.Credentials.Token != "" {
			t.Errorf("a change sees %+v", i.Credentials)
		}
		i.Name, i.Credentials.Username, i.Type = "Hub", "bob", Amazon
		return nil
	})
	if err != nil || now.Name != "Hub" || now.Identifier != "docker-hub" || now.Type != DockerHub {
		t.Errorf("%+v, %v", now, err)
	}
	for _, name := range []string{one.ID, "docker-hub"} {
		open, err := w.OpenIntegration(t.Context(), w.home.ID, name, w.p.ID, 7)
		if err != nil || open.Credentials.Username != "bob" || open.Credentials.Password != "hunter2hunter2" {
			t.Errorf("%s opens as %+v, %v", name, open, err)
		}
	}
	if _, err := w.UpdateIntegration(t.Context(), w.admin, w.home.ID, one.ID, func(i *Integration) error {
		i.Credentials.Token = Encrypted
		return nil
	}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a token that there is not: %v", err)
	}
	for _, s := range []string{"", "-wal"} {
		b, err := os.ReadFile(w.file + s)
		if err != nil || bytes.Contains(b, []byte("hunter2")) {
			t.Errorf("it is in the store (%q), %v", s, err)
		}
	}
	if err := w.DeleteIntegration(t.Context(), w.admin, w.home.ID, one.ID); err != nil {
		t.Error(err)
	}
	if _, err := w.OpenIntegration(t.Context(), w.home.ID, one.ID, w.p.ID, 7); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
	if l, err := w.Integrations(t.Context(), w.admin, w.home.ID); err != nil || len(l) != 1 || l[0].Identifier != "docker-hub-2" {
		t.Errorf("%+v, %v", l, err)
	}
}

// A token is not sent to another server by who may not know it.
func TestTokenStaysWithItsServer(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	i := w.integration(t, Integration{Workspace: w.home.ID, Name: "ghe", Type: GitHubEnterprise, ServerURL: "https://git.example", Credentials: Credentials{Token: "t"}})
	move := func(token string) error {
		_, err := w.UpdateIntegration(t.Context(), w.admin, w.home.ID, i.ID, func(i *Integration) error {
			i.ServerURL = "https://evil.example"
			if token != "" {
				i.Credentials.Token = token
			}
			return nil
		})
		return err
	}
	if err := move(""); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "token") {
		t.Errorf("moved: %v", err)
	}
	if err := move("another"); err != nil {
		t.Errorf("with a new token: %v", err)
	}
}

// Where an integration may be used: in its project, by its pipelines.
func TestWhoMayUse(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	i := w.hub("narrow")
	i.Project, i.AllPipelines, i.Pipelines = w.p.ID, false, []int64{7, 9}
	i = w.integration(t, i)
	for _, c := range []struct {
		in       project.ID
		pipeline int64
		ok       bool
	}{{w.p.ID, 7, true}, {w.p.ID, 9, true}, {w.p.ID, 8, false}, {w.q.ID, 7, false}} {
		if _, err := w.OpenIntegration(t.Context(), w.home.ID, "narrow", c.in, c.pipeline); (err == nil) != c.ok || !c.ok && !errdefs.IsPermissionDenied(err) {
			t.Errorf("%+v: %v", c, err)
		}
	}
	if _, err := w.OpenIntegration(t.Context(), w.guestHome(t), "narrow", w.p.ID, 7); !errdefs.IsNotFound(err) {
		t.Errorf("of another workspace: %v", err)
	}
	if err := w.projects.Delete(t.Context(), w.admin, w.p.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Integration(t.Context(), w.admin, w.home.ID, i.ID); !errdefs.IsNotFound(err) {
		t.Errorf("of a deleted project: %v", err)
	}
}

func (w *world) guestHome(t testing.TB) string {
	t.Helper()
	l, _ := w.guest.Workspaces()
	if len(l) != 1 {
		t.Fatal(l)
	}
	return l[0]
}

func TestIntegrationRights(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	i := w.integration(t, w.hub("all"))
	ok, no, gone := func(err error) bool { return err == nil }, errdefs.IsPermissionDenied, errdefs.IsNotFound
	check := func(name string, by access.Actor, id string, is ...func(error) bool) {
		t.Helper()
		_, create := w.CreateIntegration(t.Context(), by, w.hub(name))
		_, list := w.Integrations(t.Context(), by, w.home.ID)
		_, one := w.Integration(t.Context(), by, w.home.ID, id)
		_, update := w.UpdateIntegration(t.Context(), by, w.home.ID, id, func(*Integration) error { return nil })
		remove := w.DeleteIntegration(t.Context(), by, w.home.ID, id)
		for n, err := range []error{create, list, one, update, remove} {
			if !is[n](err) {
				t.Errorf("%s: %d: %v", name, n, err)
			}
		}
	}
	check("stranger", access.Actor{}, i.ID, gone, gone, gone, gone, gone)
	check("guest", w.guest, i.ID, gone, gone, gone, gone, gone)
	check("powerless", w.weak, i.ID, no, no, no, no, no)
	check("info", w.token(t, w.admin, access.IntegrationInfo), i.ID, no, ok, ok, no, no)
	check("add", w.token(t, w.admin, access.IntegrationAdd), i.ID, ok, ok, ok, no, no)
	check("unknown", w.admin, "0123", ok, ok, gone, gone, gone)

	// What the integration itself says about who may what.
	if err := w.db.Write(t.Context(), func(tx *db.Tx) error { return access.AddMember(tx, w.home.ID, w.guest.User.ID, access.Member) }); err != nil {
		t.Fatal(err)
	}
	in, err := w.access.CreateGroup(t.Context(), w.admin, w.home.ID, access.Group{Name: "in"})
	if err == nil {
		_, err = w.access.AddToGroup(t.Context(), w.admin, w.home.ID, in.ID, w.guest.User.ID, false)
	}
	if err != nil {
		t.Fatal(err)
	}
	group := in.ID
	member := w.token(t, access.System(w.guest.User), access.Scopes()...)
	may := func(i Integration) error {
		return w.db.Read(t.Context(), func(tx *db.Tx) error { return w.MayUseIntegration(tx, member, w.home.ID, i.Identifier) })
	}
	for _, c := range []struct {
		name string
		p    IntegrationPermissions
		is   []func(error) bool
		use  func(error) bool
	}{
		{"usual", IntegrationPermissions{}, []func(error) bool{no, ok, ok, no, no}, ok},
		{"others manage", IntegrationPermissions{Others: Manage}, []func(error) bool{no, ok, ok, ok, ok}, ok},
		{"others denied", IntegrationPermissions{Others: Denied}, []func(error) bool{no, ok, gone, gone, gone}, no},
		{"one of them", IntegrationPermissions{Others: Denied, Users: []IntegrationGrant{{member.User.ID, UseOnly}}}, []func(error) bool{no, ok, ok, no, no}, ok},
		{"its group", IntegrationPermissions{Others: Denied, Groups: []IntegrationGrant{{group, UseOnly}, {group + 1, Manage}}}, []func(error) bool{no, ok, ok, no, no}, ok},
	} {
		x := w.hub(c.name)
		x.Permissions = c.p
		x = w.integration(t, x)
		if err := may(x); !c.use(err) {
			t.Errorf("%s: to use it: %v", c.name, err)
		}
		l, err := w.Integrations(t.Context(), member, w.home.ID)
		if seen := slices.ContainsFunc(l, func(y Integration) bool { return y.ID == x.ID }); err != nil || seen != (c.p.Others != Denied || len(c.p.Users)+len(c.p.Groups) > 0) {
			t.Errorf("%s: in the list: %v, %v", c.name, seen, err)
		}
		check(c.name, member, x.ID, c.is...)
	}
	if err := may(Integration{Identifier: "nowhere"}); err != nil {
		t.Errorf("one that is not there: %v", err)
	}
}

func TestIntegrationInput(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", maxValue+1)
	grants := []IntegrationGrant{{0, "ALL"}}
	for _, c := range []struct {
		i    Integration
		want string
	}{
		{Integration{}, "name type"},
		{Integration{Name: "x", Type: "QUAY"}, "type"},
		{Integration{Name: strings.Repeat("x", 256), Type: "SENTRY", Identifier: "-x", Auth: "MAGIC"}, "auth_type identifier name"},
		{Integration{Name: "x", Type: DockerHub}, "password username"},
		{Integration{Name: "x", Type: Amazon}, "access_key secret_key"},
		{Integration{Name: "x", Type: Amazon, Auth: AuthOIDC}, ""},
		{Integration{Name: "x", Type: Google}, "api_key"},
		{Integration{Name: "x", Type: GitHub}, "token"},
		{Integration{Name: "x", Type: GitHubEnterprise, Credentials: Credentials{Token: "t"}}, "server_url"},
		{Integration{Name: "x", Type: GitHubEnterprise, ServerURL: "https://a:b@c", Credentials: Credentials{Token: "t"}}, "server_url"},
		{Integration{Name: "x", Type: "SENTRY", Credentials: Credentials{Token: long, Email: "a\x00", Roles: []Role{{Seconds: 1}, {ARN: "a", Seconds: -1}}}}, "email role_assumptions.0.arn role_assumptions.1.duration token"},
		{
			Integration{Name: "x", Type: "SENTRY", Pipelines: []int64{0}, Permissions: IntegrationPermissions{Admins: "A", Others: "B", Users: grants}},
			"allowed_pipelines.0.id permissions.admins permissions.others permissions.users.0.access_level permissions.users.0.id",
		},
	} {
		var inv project.Invalid
		c.i.Validate(&inv)
		var got []string
		for _, f := range inv.Fields {
			got = append(got, f.Path)
		}
		slices.Sort(got)
		if strings.Join(got, " ") != c.want {
			t.Errorf("%s: %q, want %q", fmt.Sprintf("%.80v", c.i), strings.Join(got, " "), c.want)
		}
	}
}
