package image

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-containerregistry/pkg/crane"

	"slipway/access"
	"slipway/db"
	"slipway/engine"
	"slipway/project"
)

func TestNormalize(t *testing.T) {
	t.Parallel()
	const d = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	for ref, want := range map[string]string{
		"nginx":                         "docker.io/library/nginx:latest",
		"nginx:1.29":                    "docker.io/library/nginx:1.29",
		"team/app":                      "docker.io/team/app:latest",
		"ghcr.io/a/b/c:V1":              "ghcr.io/a/b/c:V1",
		"localhost/x":                   "localhost/x:latest",
		"localhost:5000/x":              "localhost:5000/x:latest",
		"index.docker.io/library/nginx": "docker.io/library/nginx:latest",
		"nginx@" + d:                    "docker.io/library/nginx@" + d,
		"nginx:1.29@" + d:               "docker.io/library/nginx@" + d,
		"slipway.local/team/app":        "slipway.local/team/app:latest",
	} {
		if got, err := Normalize(ref); err != nil || got != want {
			t.Errorf("%s: %s, %v; want %s", ref, got, err, want)
		}
	}
	for ref, part := range map[string]string{
		"": "needed", "Nginx": "lower case", "ghcr.io/A/b": "lower case", "a b": "no image reference", "a:": "no image reference", ":x": "no image reference",
		"a@sha256:12": "no image reference", "https://x/y": "no image reference", strings.Repeat("a/", 400): "at most", d[7:]: "no image reference",
	} {
		_, err := Normalize(ref)
		inv, ok := project.AsInvalid(err)
		if !ok || len(inv.Fields) != 1 || inv.Fields[0].Path != "" || !strings.Contains(err.Error(), part) {
			t.Errorf("%q: %v", ref, err)
		}
	}
}

func FuzzNormalize(f *testing.F) {
	for _, s := range []string{"nginx", "a/b:c", "localhost:5000/x@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", "[::1]:80/a", "UP/x", "a//b"} {
		f.Add(s)
	}
	i := New(Config{Hosts: []string{"slipway.local"}}, nil, nil, nil, nil)
	f.Fuzz(func(t *testing.T, ref string) {
		n, err := Normalize(ref)
		if err != nil {
			if !errdefs.IsInvalidArgument(err) {
				t.Errorf("%q: %v", ref, err)
			}
			return
		}
		again, err := Normalize(n)
		if err != nil || again != n {
			t.Errorf("%q became %q and then %q, %v", ref, n, again, err)
		}
		if !strings.Contains(n, "/") || !strings.ContainsAny(n, ":@") {
			t.Errorf("%q is not whole: %q", ref, n)
		}
		name, tag, digest, own := i.Own(ref)
		if own != strings.HasPrefix(n, "slipway.local/") || own && (name == "" || (tag == "") == (digest == "")) {
			t.Errorf("%q: own %q %q %q %v", ref, name, tag, digest, own)
		}
	})
}

func TestOwn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for ref, want := range map[string]string{
		"slipway.local/team/app":                  "team/app latest  true",
		"registry.example:5000/team/a/b:v1":       "team/a/b v1  true",
		"REGISTRY.example:5000/team/a/b:v1":       "team/a/b v1  true",
		"registry.example/team/app":               "   false",
		"team/app":                                "   false",
		"docker.io/team/app":                      "   false",
		"slipway.local/Team/app":                  "   false",
		"slipway.local/team/app@" + digestOf(nil): "team/app  " + digestOf(nil) + " true",
	} {
		name, tag, digest, own := w.images.Own(ref)
		if got := fmt.Sprint(name, " ", tag, " ", digest, " ", own); got != want {
			t.Errorf("%s: %q, want %q", ref, got, want)
		}
	}
}

func TestTag(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	d := w.eng.Image("echo hello")
	w.must(w.images.Tag(ctx, w.annA, w.team.ID, d, "team/app:v1", "slipway.local/team/app", "team/other:x"))
	list, err := w.images.Tags(ctx, w.annA, w.team.ID, "")
	w.must(err)
	var names []string
	for _, x := range list {
		names = append(names, x.Repository+":"+x.Tag)
		if x.Digest != d || x.ConfigID == "" || !x.Own {
			t.Errorf("%+v", x)
		}
	}
	if slices.Sort(names); !slices.Equal(names, []string{"team/app:latest", "team/app:v1", "team/other:x"}) {
		t.Errorf("tags %v", names)
	}
	if h := w.holds(); len(h) != 2 {
		t.Errorf("holds %v", h)
	}
	repos, err := w.images.Repositories(ctx, w.annA, w.team.ID)
	if err != nil || len(repos) != 2 || repos[0].Pushes != 1 {
		t.Errorf("%+v, %v", repos, err)
	}
	// what was built can be pulled, and somebody's next push builds upon it
	img, err := crane.Pull(w.host+"/team/app:v1", w.as(w.ann)...)
	w.must(err)
	w.must(crane.Push(img, w.host+"/team/copy:v1", w.as(w.ann)...))
	layers, err := img.Layers()
	w.must(err)
	if _, err := layers[0].Compressed(); err != nil {
		t.Error(err)
	}
	// all or none
	for _, c := range []struct {
		by    access.Actor
		names []string
		is    func(error) bool
	}{
		{w.annA, []string{"team/none:v1", "rivals/app:v1"}, errdefs.IsInvalidArgument},
		{w.annA, []string{"team/none:v1", "team/UP:v1"}, errdefs.IsInvalidArgument},
		{w.annA, []string{"team/none:v1", "none"}, errdefs.IsInvalidArgument},
		{w.annA, []string{"team/none@" + d}, errdefs.IsInvalidArgument},
		{w.robA, []string{"team/none:v1"}, errdefs.IsNotFound},
		{access.Actor{}, []string{"team/none:v1"}, errdefs.IsNotFound},
	} {
		if err := w.images.Tag(ctx, c.by, w.team.ID, d, c.names...); !c.is(err) {
			t.Errorf("%v: %v", c.names, err)
		}
	}
	if err := w.images.Tag(ctx, w.annA, w.team.ID, digestOf([]byte("no")), "team/none:v1"); !errdefs.IsNotFound(err) {
		t.Errorf("of nothing: %v", err)
	}
	if n := w.count(`SELECT count(*) FROM image_repositories WHERE name = 'team/none'`); n != 0 {
		t.Error("something of a refused tag is left")
	}
	w.must(w.images.Untag(ctx, w.annA, w.team.ID, "app", "v1"))
	if err := w.images.Untag(ctx, w.annA, w.team.ID, "app", "v1"); !errdefs.IsNotFound(err) {
		t.Errorf("twice: %v", err)
	}
	if err := w.images.Untag(ctx, w.robA, w.team.ID, "app", "latest"); !errdefs.IsNotFound(err) {
		t.Errorf("by a stranger: %v", err)
	}
	if _, err := w.images.Lookup(ctx, w.team.ID, "slipway.local/team/app:v1"); !errdefs.IsNotFound(err) {
		t.Errorf("untagged: %v", err)
	}
}

func TestResolveOwn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	d := w.eng.Image("echo hello")
	w.must(w.images.Tag(ctx, w.annA, w.team.ID, d, "team/app:v1"))
	for _, ref := range []string{"slipway.local/team/app:v1", "registry.example:5000/team/app:v1", "slipway.local/team/app@" + d} {
		img, err := w.images.Resolve(ctx, Request{Workspace: w.team.ID, Ref: ref})
		if err != nil || img.Digest != d {
			t.Errorf("%s: %s, %v", ref, img.Digest, err)
		}
		if got, err := w.images.Lookup(ctx, w.team.ID, ref); err != nil || got != d {
			t.Errorf("%s: lookup %s, %v", ref, got, err)
		}
		if _, err := w.images.Resolve(ctx, Request{Workspace: w.rivals.ID, Ref: ref}); !errdefs.IsNotFound(err) {
			t.Errorf("%s for another workspace: %v", ref, err)
		}
	}
	if slices.ContainsFunc(w.eng.Calls(), func(c string) bool { return strings.HasPrefix(c, "Pull") || strings.HasPrefix(c, "Head") }) {
		t.Errorf("the network was asked: %v", w.eng.Calls())
	}
	w.eng.Collect()
	if _, err := w.store.Inspect(ctx, d, ""); err != nil {
		t.Errorf("collected: %v", err)
	}
}

func TestResolveOutside(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	one, two := w.eng.Image("echo one"), w.eng.Image("echo two")
	w.eng.Publish("docker.io/library/web:latest", one)
	w.eng.Publish("docker.io/library/web:v1", one)
	var lines []string
	ask := func(workspace, ref string, refresh bool, logins ...engine.Login) (string, error) {
		lines = nil
		img, err := w.images.Resolve(ctx, Request{Workspace: workspace, Ref: ref, Refresh: refresh, Logins: logins, Warn: func(l string) { lines = append(lines, l) }})
		return img.Digest, err
	}
	calls := func(kind string) (n int) {
		for _, c := range w.eng.Calls() {
			if strings.HasPrefix(c, kind) {
				n++
			}
		}
		return n
	}
	want := func(digest string, err error, wanted string, pulls, heads, warnings int) {
		t.Helper()
		if err != nil || digest != wanted || calls("Pull") != pulls || calls("Head") != heads || len(lines) != warnings {
			t.Errorf("%s, %v; %d pulls, %d heads, warnings %v", digest, err, calls("Pull"), calls("Head"), lines)
		}
	}
	d, err := ask(w.team.ID, "web", false)
	want(d, err, one, 1, 0, 0)
	d, err = ask(w.team.ID, "web", false) // latest is asked for each time
	want(d, err, one, 1, 1, 0)
	d, err = ask(w.team.ID, "web:v1", false)
	want(d, err, one, 2, 1, 0)
	d, err = ask(w.team.ID, "web:v1", false) // another tag is not
	want(d, err, one, 2, 1, 0)
	d, err = ask(w.team.ID, "web:v1", true)
	want(d, err, one, 2, 2, 0)
	w.eng.Publish("docker.io/library/web:latest", two)
	d, err = ask(w.team.ID, "web", false)
	want(d, err, two, 3, 3, 0)
	w.eng.Unreachable("docker.io")
	d, err = ask(w.team.ID, "web", false)
	want(d, err, two, 3, 4, 1)
	if _, err = ask(w.team.ID, "nothere", false); err == nil {
		t.Error("an image out of nowhere")
	}
	// names pulled by one workspace are not there for another
	if _, err := ask(w.rivals.ID, "web:v1", false); err == nil {
		t.Error("another workspace's image")
	}
	if _, err := w.images.Lookup(ctx, w.rivals.ID, "docker.io/library/web:v1"); !errdefs.IsNotFound(err) {
		t.Errorf("lookup of another workspace's image: %v", err)
	}
	if _, err := w.images.Lookup(ctx, w.rivals.ID, "docker.io/library/web@"+one); !errdefs.IsNotFound(err) {
		t.Errorf("lookup by digest: %v", err)
	}
	if d, err := w.images.Lookup(ctx, w.team.ID, "web@"+one); err != nil || d != one {
		t.Errorf("own by digest: %s, %v", d, err)
	}
	list, err := w.images.Tags(ctx, w.annA, w.team.ID, "docker.io/library/web")
	if err != nil || len(list) != 2 || list[0].Own || list[0].Tag != "latest" {
		t.Errorf("%+v, %v", list, err)
	}
}

func TestRefusedLogin(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	d := w.eng.Image("echo private")
	w.eng.Publish("hub.example/team/private:latest", d)
	w.eng.Protect("hub.example", "ann", "right")
	login := func(password string) Request {
		return Request{Workspace: w.team.ID, Ref: "hub.example/team/private", Logins: []engine.Login{{Host: "hub.example", Username: "ann", Password: password}}}
	}
	if _, err := w.images.Resolve(ctx, login("wrong")); err == nil || !strings.Contains(err.Error(), "hub.example") || !strings.Contains(err.Error(), "ann") || strings.Contains(err.Error(), "wrong") {
		t.Errorf("refused: %v", err)
	}
	if _, err := w.images.Resolve(ctx, login("right")); err != nil {
		t.Error(err)
	}
	// a login that is not good any more is no reason to use what it gave
	if _, err := w.images.Resolve(ctx, login("wrong")); !errdefs.IsUnauthorized(err) {
		t.Errorf("refused with a copy: %v", err)
	}
	if _, err := w.images.Resolve(ctx, Request{Workspace: w.rivals.ID, Ref: "hub.example/team/private@" + d}); err == nil {
		t.Error("another workspace got it by its digest")
	}
}

func archive(t testing.TB, w *world, d, name string) []byte {
	t.Helper()
	var b bytes.Buffer
	w.must(w.store.Export(t.Context(), d, name, &b))
	return b.Bytes()
}

func TestLoad(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	d := w.eng.Image("echo loaded")
	tarball := archive(t, w, d, "docker.io/library/base:1")
	got, err := w.images.Load(ctx, w.annA, w.team.ID, "", bytes.NewReader(tarball))
	if err != nil || len(got) != 1 || got[0].Repository != "docker.io/library/base" || got[0].Tag != "1" || got[0].Digest != d || got[0].Own {
		t.Fatalf("%+v, %v", got, err)
	}
	got, err = w.images.Load(ctx, w.annA, w.team.ID, "hub.example/x/y", bytes.NewReader(tarball))
	if err != nil || got[0].Repository != "hub.example/x/y" || got[0].Tag != "latest" {
		t.Fatalf("%+v, %v", got, err)
	}
	got, err = w.images.Load(ctx, w.annA, w.team.ID, "slipway.local/team/app:v1", bytes.NewReader(tarball))
	if err != nil || got[0].Repository != "team/app" || got[0].Tag != "v1" || !got[0].Own {
		t.Fatalf("%+v, %v", got, err)
	}
	w.eng.Unreachable("docker.io")
	w.eng.Unreachable("hub.example")
	for _, ref := range []string{"base:1", "hub.example/x/y", "slipway.local/team/app:v1"} {
		if img, err := w.images.Resolve(ctx, Request{Workspace: w.team.ID, Ref: ref}); err != nil || img.Digest != d {
			t.Errorf("%s: %v", ref, err)
		}
	}
	for what, c := range map[string]struct {
		by   access.Actor
		name string
		tar  []byte
		is   func(error) bool
	}{
		"bad name":      {w.annA, "No Name", tarball, errdefs.IsInvalidArgument},
		"digest":        {w.annA, "a@" + d, tarball, errdefs.IsInvalidArgument},
		"cut":           {w.annA, "a", tarball[:700], errdefs.IsInvalidArgument},
		"empty":         {w.annA, "a", emptyTar(t), errdefs.IsInvalidArgument},
		"stranger":      {w.robA, "a", tarball, errdefs.IsNotFound},
		"others' names": {w.annA, "slipway.local/rivals/app", tarball, errdefs.IsInvalidArgument},
	} {
		if _, err := w.images.Load(ctx, c.by, w.team.ID, c.name, bytes.NewReader(c.tar)); !c.is(err) {
			t.Errorf("%s: %v", what, err)
		}
	}
	w.must(w.images.Untag(ctx, w.annA, w.team.ID, "docker.io/library/base", "1"))
	if _, err := w.images.Lookup(ctx, w.team.ID, "base:1"); !errdefs.IsNotFound(err) {
		t.Errorf("untagged: %v", err)
	}
}

func emptyTar(t testing.TB) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestKeepAndDrop(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	stop := w.run()
	defer func() { stop() }()
	one, two := w.eng.Image("echo one"), w.eng.Image("echo two")
	keep := func(id, d string, until time.Time) {
		w.must(w.db.Write(ctx, func(tx *db.Tx) error { return Keep(tx, id, d, until) }))
	}
	keep("revision/1", one, time.Time{})
	until(t, "it is held", func() bool { return w.holds()["keep/revision/1"] == one })
	keep("revision/1", two, time.Time{})
	until(t, "the hold moved", func() bool { return w.holds()["keep/revision/1"] == two })
	keep("execution/1/0", two, time.Now().Add(time.Hour))
	w.must(w.images.Settle(ctx))
	if w.holds()["keep/execution/1/0"] != two {
		t.Error("not held after Settle")
	}
	w.must(w.db.Write(ctx, func(tx *db.Tx) error { return Drop(tx, "revision/1") }))
	w.must(w.db.Write(ctx, func(tx *db.Tx) error { return Drop(tx, "never") }))
	until(t, "it is released", func() bool { return w.holds()["keep/revision/1"] == "" })
	until(t, "its row is gone", func() bool { return w.count(`SELECT count(*) FROM image_holds WHERE id LIKE '%revision%'`) == 0 })
	// a transaction that fails keeps nothing
	boom := errors.New("boom")
	if err := w.db.Write(ctx, func(tx *db.Tx) error { return errors.Join(Keep(tx, "x", one, time.Time{}), boom) }); !errors.Is(err, boom) {
		t.Error(err)
	}
	w.must(w.images.Settle(ctx))
	if w.holds()["keep/x"] != "" {
		t.Error("held by a transaction that failed")
	}
	// dropped and kept again before anybody looked
	w.must(w.db.Write(ctx, func(tx *db.Tx) error {
		return errors.Join(Drop(tx, "execution/1/0"), Keep(tx, "execution/1/0", two, time.Time{}))
	}))
	w.must(w.images.Settle(ctx))
	if w.holds()["keep/execution/1/0"] != two {
		t.Error("lost when it was dropped and kept again")
	}
}

// TestHoldsAfterAKill makes what a kill leaves at each place and lets the next
// life of the server repair it.
func TestHoldsAfterAKill(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	img := randomImage(t, 100, 1)
	w.push(img, "team/app:v1")
	d := imageDigest(t, img)
	one := w.eng.Image("echo one")
	// held, and killed before the row
	w.must(w.store.Hold(ctx, "image/repo/99/"+one, one))
	w.must(w.store.Hold(ctx, "build/other", one))
	// a row, and killed before its hold
	w.must(w.db.Write(ctx, func(tx *db.Tx) error { return Keep(tx, "late", one, time.Time{}) }))
	// dropped, and killed before the release
	w.must(w.db.Write(ctx, func(tx *db.Tx) error { return Keep(tx, "old", one, time.Time{}) }))
	w.must(w.images.Settle(ctx))
	w.must(w.db.Write(ctx, func(tx *db.Tx) error { return Drop(tx, "old") }))
	w.must(w.store.Release(ctx, keepHold("late"))) // somebody lost it
	// its time is over
	w.must(w.db.Write(ctx, func(tx *db.Tx) error { return Keep(tx, "over", one, tx.Now.Add(-time.Second)) }))
	// an upload that nobody finished
	if a := w.do(w.ann, "POST", "/v2/team/app/blobs/uploads/", nil); a.code != 202 {
		t.Fatal(a)
	}
	w.must(w.db.Write(ctx, func(tx *db.Tx) error {
		_, err := tx.Exec(`UPDATE image_uploads SET created = ?`, db.Micros(tx.Now.Add(-2*uploadFor)))
		return err
	}))
	w.must(w.db.Close())
	w.open()
	stop := w.run()
	until(t, "all is repaired", func() bool {
		h := w.holds()
		return len(h) == 2 && h["keep/late"] == one && w.count(`SELECT count(*) FROM image_holds WHERE state <> 'held'`) == 0
	})
	if n := w.count(`SELECT count(*) FROM image_uploads`); n != 0 {
		t.Error("the old upload is still there")
	}
	stop()
	w.eng.Collect()
	if got, err := crane.Digest(w.host+"/team/app:v1", w.as(w.ann)...); err != nil || got != d {
		t.Errorf("after the repair: %s, %v", got, err)
	}
	if h, err := w.store.Holds(ctx, "build/"); err != nil || len(h) != 1 {
		t.Errorf("somebody else's hold is gone: %v, %v", h, err)
	}
}

func TestLostImage(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	gone := digestOf([]byte("gone"))
	w.must(w.db.Write(ctx, func(tx *db.Tx) error { return Keep(tx, "lost", gone, time.Time{}) }))
	w.must(w.images.Settle(ctx))
	if n := w.count(`SELECT count(*) FROM image_holds WHERE state = 'lost'`); n != 1 {
		t.Error("not noted as lost")
	}
	w.eng.FailNext("Hold", errors.New("disk on fire"))
	one := w.eng.Image("echo one")
	w.must(w.db.Write(ctx, func(tx *db.Tx) error { return Keep(tx, "one", one, time.Time{}) }))
	if err := w.images.Settle(ctx); err == nil {
		t.Error("no error")
	}
	w.must(w.images.Settle(ctx))
	if w.holds()["keep/one"] != one {
		t.Error("not tried again")
	}
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	if err := w.images.Settle(cancelled); err == nil {
		t.Error("no error with an ended context")
	}
}
