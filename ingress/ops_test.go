package ingress

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"slipway/access"
	"slipway/db"
	"slipway/event"
	"slipway/project"
)

type world struct {
	*Ingresses
	db         *db.DB
	projects   *project.Projects
	ann, rob   access.Actor
	shop, blog project.Project // of ann
	theirs     project.Project // of rob
}

func newWorld(t testing.TB) *world {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	ctx := t.Context()
	d, err := db.Open(ctx, filepath.Join(t.TempDir(), "x.db"))
	must(err)
	t.Cleanup(func() { _ = d.Close() })
	acc := access.New(d)
	w := &world{db: d, projects: project.NewProjects(d)}
	w.Ingresses = New(d, w.projects, "apps.example")
	owner := func(name string) (access.Actor, project.Workspace) {
		var u access.User
		var ws project.Workspace
		must(d.Write(ctx, func(tx *db.Tx) (err error) {
			if u, err = access.AddUser(tx, access.User{Username: name}); err != nil {
				return err
			}
			ws, err = project.BootstrapWorkspace(tx, name, u)
			return err
		}))
		_, secret, err := acc.CreateToken(ctx, access.System(u), access.NewToken{Name: name, Scopes: access.Scopes()})
		must(err)
		a, err := acc.Authenticate(ctx, secret, "")
		must(err)
		return a, ws
	}
	create := func(by access.Actor, ws project.Workspace, name string) project.Project {
		p, err := w.projects.Create(ctx, by, ws.ID, project.New{Name: name})
		must(err)
		return p
	}
	var mine, other project.Workspace
	w.ann, mine = owner("ann")
	w.rob, other = owner("rob")
	w.shop, w.blog, w.theirs = create(w.ann, mine, "shop"), create(w.ann, mine, "blog"), create(w.rob, other, "theirs")
	return w
}

func toPage() []Path { return []Path{{Path: "/", DefaultPage: true}} }

func TestFrontDoor(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	in, err := w.Create(ctx, w.ann, w.shop.ID, "Bücher.example.", []Path{{Path: "/", Service: webID, Port: "80/tcp"}, {Path: "/old", URL: "https://x.example"}})
	if err != nil || in.Hostname != "xn--bcher-kva.example" || !in.Enabled || in.Verified || in.Default {
		t.Fatalf("%+v, %v", in, err)
	}
	got, err := w.Get(ctx, w.ann, in.ID)
	if err != nil || len(got.Paths) != 2 || got.Paths[1].URL != "https://x.example" || !got.Created.Equal(in.Created) {
		t.Errorf("%+v, %v", got, err)
	}
	under, err := w.Create(ctx, w.ann, w.shop.ID, "hello.apps.example", toPage())
	if err != nil || !under.Verified {
		t.Errorf("%+v, %v", under, err)
	}
	for what, c := range map[string]struct {
		err error
		is  func(error) bool
	}{
		"taken by another workspace": {second(w.Create(ctx, w.rob, w.theirs.ID, "bücher.example", toPage())), errdefs.IsAlreadyExists},
		"taken by itself":            {second(w.Create(ctx, w.ann, w.shop.ID, "xn--bcher-kva.example", toPage())), errdefs.IsAlreadyExists},
		"kept for another project":   {second(w.Create(ctx, w.rob, w.theirs.ID, w.shop.ShortID+".apps.example", toPage())), errdefs.IsAlreadyExists},
		"others' project":            {second(w.Create(ctx, w.rob, w.shop.ID, "new.example", toPage())), errdefs.IsNotFound},
		"bad all over":               {second(w.Create(ctx, w.ann, w.shop.ID, "a b", nil)), errdefs.IsInvalidArgument},
		"get by a stranger":          {second(w.Get(ctx, w.rob, in.ID)), errdefs.IsNotFound},
		"get of nothing":             {second(w.Get(ctx, w.ann, "nothing")), errdefs.IsNotFound},
		"set by a stranger":          {second(w.SetPaths(ctx, w.rob, in.ID, toPage())), errdefs.IsNotFound},
		"set of nothing":             {second(w.SetPaths(ctx, w.ann, in.ID, nil)), errdefs.IsInvalidArgument},
		"delete by a stranger":       {w.Delete(ctx, w.rob, in.ID), errdefs.IsNotFound},
	} {
		if !c.is(c.err) {
			t.Errorf("%s: %v", what, c.err)
		}
	}
	inv, ok := project.AsInvalid(second(w.Create(ctx, w.ann, w.shop.ID, "a b", nil)))
	if !ok || len(inv.Fields) != 2 {
		t.Errorf("bad fields: %v", inv)
	}
	got, err = w.SetPaths(ctx, w.ann, in.ID, []Path{{Path: "/x", Service: apiID, Port: "1/tcp"}})
	if err != nil || len(got.Paths) != 1 || got.Paths[0].Service != apiID {
		t.Errorf("%+v, %v", got, err)
	}
	list, err := w.List(ctx, w.ann, Filter{Service: apiID})
	if err != nil || len(list) != 1 || list[0].ID != in.ID {
		t.Errorf("%+v, %v", list, err)
	}
	if err := w.Ingresses.Delete(ctx, w.ann, in.ID); err != nil {
		t.Error(err)
	}
	if err := w.Ingresses.Delete(ctx, w.ann, in.ID); !errdefs.IsNotFound(err) {
		t.Errorf("twice: %v", err)
	}
	if _, err := w.Create(ctx, w.rob, w.theirs.ID, "bücher.example", toPage()); err != nil {
		t.Errorf("a name that is free again: %v", err)
	}
	ev, err := event.New(w.db).After(ctx, 0, 100)
	n := 0
	for _, e := range ev {
		if e.Kind == event.IngressChanged {
			n++
		}
	}
	if err != nil || n != 7 { // the defaults of ann's two projects came with List
		t.Errorf("%d events of ingresses, %v", n, err)
	}
}

func second[T any](_ T, err error) error { return err }

func TestDefaultIngress(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	for range 2 {
		list, err := w.List(ctx, w.ann, Filter{Project: w.shop.ID})
		if err != nil || len(list) != 1 || !list[0].Default || !list[0].Verified || list[0].Hostname != w.shop.ShortID+".apps.example" || list[0].Paths[0].Path != "/" {
			t.Fatalf("%+v, %v", list, err)
		}
	}
	all, err := w.All(ctx)
	if err != nil || len(all) != 3 {
		t.Fatalf("all: %+v, %v", all, err)
	}
	mine, err := w.List(ctx, w.ann, Filter{})
	if err != nil || len(mine) != 2 {
		t.Errorf("ann sees %+v, %v", mine, err)
	}
	if l, err := w.List(ctx, w.ann, Filter{Hostname: strings.ToUpper(w.blog.ShortID)}); err != nil || len(l) != 1 {
		t.Errorf("by a part of the name: %+v, %v", l, err)
	}
	if _, err := w.List(ctx, w.ann, Filter{Project: w.theirs.ID}); !errdefs.IsNotFound(err) {
		t.Errorf("others' project: %v", err)
	}
	d := mine[0]
	if err := w.Ingresses.Delete(ctx, w.ann, d.ID); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("delete of the default one: %v", err)
	}
	got, err := w.SetPaths(ctx, w.ann, d.ID, []Path{{Path: "/api", Service: apiID, Port: "80/tcp"}})
	if err != nil || len(got.Paths) != 2 || got.Paths[1] != (Path{Path: "/", DefaultPage: true}) {
		t.Errorf("%+v, %v", got, err)
	}
	// a project that is deleted has no ingress, and its hostnames are free
	if _, err := w.Create(ctx, w.ann, w.shop.ID, "name.example", toPage()); err != nil {
		t.Fatal(err)
	}
	if err := w.projects.Delete(ctx, w.ann, w.shop.ID); err != nil {
		t.Fatal(err)
	}
	if all, err = w.All(ctx); err != nil || len(all) != 2 {
		t.Errorf("after the delete: %+v, %v", all, err)
	}
	if _, err := w.Get(ctx, w.ann, d.ID); !errdefs.IsNotFound(err) {
		t.Errorf("of a deleted project: %v", err)
	}
	if _, err := w.Create(ctx, w.rob, w.theirs.ID, "name.example", toPage()); err != nil {
		t.Errorf("the name of a deleted project: %v", err)
	}
}

// TestDefaultTaken has a hostname of a default ingress in somebody's hands, as
// it can be after a change of --domain: the others are made all the same.
func TestDefaultTaken(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	host := w.shop.ShortID + ".apps.example"
	before := New(w.db, w.projects, "before.example")
	if _, err := before.Create(t.Context(), w.rob, w.theirs.ID, host, toPage()); err != nil {
		t.Fatal(err)
	}
	list, err := w.List(t.Context(), w.ann, Filter{})
	if err != nil || len(list) != 1 || list[0].Project != w.blog.ID {
		t.Errorf("%+v, %v", list, err)
	}
	all, err := w.All(t.Context())
	if err != nil || len(all) != 3 {
		t.Errorf("%+v, %v", all, err)
	}
}
