package image

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-containerregistry/pkg/crane"

	"slipway/db"
	"slipway/engine"
	"slipway/project"
)

func TestUntaggedManifestsGo(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	old, now := randomImage(t, 100, 1), randomImage(t, 100, 1)
	w.push(old, "team/app:v1")
	w.push(now, "team/app:v1")
	age := func() {
		w.must(w.db.Write(ctx, func(tx *db.Tx) error {
			_, err := tx.Exec(`UPDATE image_manifests SET touched = ?`, db.Micros(tx.Now.Add(-2*looseFor)))
			return err
		}))
	}
	w.must(w.images.look(ctx))
	if n := w.count(`SELECT count(*) FROM image_manifests`); n != 2 {
		t.Errorf("%d manifests, want 2: it is too early", n)
	}
	age()
	w.must(w.images.look(ctx))
	if n := w.count(`SELECT count(*) FROM image_manifests`); n != 1 {
		t.Errorf("%d manifests, want 1", n)
	}
	w.eng.Collect()
	if _, err := w.store.Inspect(ctx, imageDigest(t, old), ""); !errdefs.IsNotFound(err) {
		t.Errorf("the old one is still held: %v", err)
	}
	if got, err := crane.Digest(w.host+"/team/app:v1", w.as(w.ann)...); err != nil || got != imageDigest(t, now) {
		t.Errorf("the tag: %s, %v", got, err)
	}
}

func TestImagesOfARemovedProjectGo(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	p, err := w.projects.Create(ctx, w.annA, w.team.ID, project.New{Name: "app"})
	w.must(err)
	built, taken, run := w.eng.Image("echo built"), w.eng.Image("echo taken over"), w.eng.Image("echo of a revision")
	w.must(w.db.Write(ctx, func(tx *db.Tx) error {
		if err := Keep(tx, "revision/1", run, time.Time{}); err != nil {
			return err
		}
		for _, x := range []struct{ digest, name string }{{built, "team/app:1"}, {taken, "team/app:2"}, {taken, "team/shared:1"}, {run, "team/gone:1"}} {
			if err := w.images.TagIn(tx, w.annA, w.team.ID, p.ID, x.digest, x.name); err != nil {
				return err
			}
		}
		return nil
	}))
	w.must(w.images.SetPublic(ctx, w.annA, w.team.ID, "team/gone", true))
	w.must(w.images.Tag(ctx, w.annA, w.team.ID, taken, "team/shared:1")) // by hand: nobody's but the workspace's
	names := func() (list []string) {
		tags, err := w.images.Tags(ctx, w.annA, w.team.ID, "")
		w.must(err)
		for _, tag := range tags {
			list = append(list, tag.Repository+":"+tag.Tag)
		}
		slices.Sort(list)
		return list
	}
	age := func() {
		w.must(w.db.Write(ctx, func(tx *db.Tx) error {
			old := db.Micros(tx.Now.Add(-2 * looseFor))
			_, err := tx.Exec(`UPDATE image_manifests SET touched = ?`, old)
			if err == nil {
				_, err = tx.Exec(`UPDATE image_repositories SET created = ?, pushed = ?, emptied = MIN(emptied, ?)`, old, old, old)
			}
			return err
		}))
	}
	shared := []string{"team/shared:1"}
	w.must(w.projects.Delete(ctx, w.annA, p.ID))
	w.must(w.images.look(ctx)) // which also finds out what the images are of
	age()
	_, err = w.projects.Remove(ctx, time.Hour)
	w.must(err)
	w.must(w.images.look(ctx))
	if got := names(); !slices.Equal(got, shared) {
		t.Errorf("while it can be restored: %v", got)
	}
	if n := w.count(`SELECT count(*) FROM image_tags`); n != 4 {
		t.Errorf("%d tags, want 4: it is too early", n)
	}
	_, err = w.projects.Remove(ctx, -time.Second)
	w.must(err)
	w.must(w.images.look(ctx))
	if got := names(); !slices.Equal(got, shared) {
		t.Errorf("of a removed project: %v", got)
	}
	if n := w.count(`SELECT count(*) FROM image_repositories`); n != 3 {
		t.Errorf("%d repositories, want 3: it is too early", n)
	}
	age()
	w.must(w.images.look(ctx))
	if n := w.count(`SELECT count(*) FROM image_repositories`); n != 1 {
		t.Errorf("%d repositories, want 1", n)
	}
	for _, d := range []string{built, taken, run} {
		w.must(w.store.Release(ctx, "test/"+d))
	}
	w.eng.Collect()
	if _, err := w.store.Inspect(ctx, built, ""); !errdefs.IsNotFound(err) {
		t.Errorf("its image is still held: %v, %v", err, w.holds())
	}
	for _, d := range []string{taken, run} {
		if _, err := w.store.Inspect(ctx, d, ""); err != nil {
			t.Errorf("an image that somebody else has: %v", err)
		}
	}
	w.must(w.images.Tag(ctx, w.annA, w.team.ID, taken, "team/gone:1"))
	if _, err := w.images.Resolve(ctx, Request{Workspace: w.rivals.ID, Ref: "slipway.local/team/gone:1"}); !errdefs.IsNotFound(err) {
		t.Errorf("a new repository is as public as the one before it: %v", err)
	}
}

// What a deleted project's executions have tagged is out of reach by every way, what
// others have put beside it is not, and it comes back with the project.
func TestImagesOfADeletedProjectAreOutOfReach(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	p, err := w.projects.Create(ctx, w.annA, w.team.ID, project.New{Name: "app"})
	w.must(err)
	built := w.eng.Image("echo built")
	w.must(w.db.Write(ctx, func(tx *db.Tx) error {
		return w.images.TagIn(tx, w.annA, w.team.ID, p.ID, built, "team/app:1", "team/both:1")
	}))
	w.must(w.images.SetPublic(ctx, w.annA, w.team.ID, "team/app", true))
	theirs := randomImage(t, 100, 1)
	w.push(theirs, "team/both:2")
	var m struct {
		Config struct{ Digest string }
	}
	w.must(json.Unmarshal([]byte(w.do(w.ann, "GET", "/v2/team/app/manifests/1", nil).body), &m))
	paths := []string{
		"/v2/team/app/tags/list", "/v2/team/app/manifests/1", "/v2/team/app/manifests/" + built, "/v2/team/app/blobs/" + m.Config.Digest,
		"/v2/team/both/manifests/1", "/v2/team/both/manifests/" + built, "/v2/team/both/blobs/" + m.Config.Digest,
	}
	refs := []string{"slipway.local/team/app:1", "slipway.local/team/app@" + built, "slipway.local/team/both:1"}
	check := func(when string, reach bool) {
		t.Helper()
		want := map[bool]int{true: 200, false: 404}[reach]
		for _, path := range paths {
			for _, method := range []string{"GET", "HEAD"} {
				if path == paths[0] && method == "HEAD" {
					continue
				}
				if a := w.do(w.ann, method, path, nil); a.code != want {
					t.Errorf("%s: %s %s: %d, want %d", when, method, path, a.code, want)
				}
			}
		}
		if a := w.do("", "GET", paths[1], nil); (a.code == 200) != reach {
			t.Errorf("%s: a stranger gets %d", when, a.code)
		}
		for _, ref := range refs {
			if _, err := w.images.Lookup(ctx, w.team.ID, ref); errdefs.IsNotFound(err) == reach || err != nil && !errdefs.IsNotFound(err) {
				t.Errorf("%s: lookup of %s: %v", when, ref, err)
			}
			if _, err := w.images.Resolve(ctx, Request{Workspace: w.team.ID, Ref: ref}); errdefs.IsNotFound(err) == reach || err != nil && !errdefs.IsNotFound(err) {
				t.Errorf("%s: resolve of %s: %v", when, ref, err)
			}
		}
		list, err := w.images.Repositories(ctx, w.annA, w.team.ID)
		w.must(err)
		named := slices.ContainsFunc(list, func(r Repository) bool { return r.Name == "team/app" })
		if catalog := w.do(w.ann, "GET", "/v2/_catalog", nil).body; named != reach || strings.Contains(catalog, `"team/app"`) != reach || !strings.Contains(catalog, `"team/both"`) {
			t.Errorf("%s: %v, %s", when, list, catalog)
		}
		if a := w.do(w.ann, "GET", "/v2/team/both/tags/list", nil); strings.Contains(a.body, `"1"`) != reach || !strings.Contains(a.body, `"2"`) {
			t.Errorf("%s: tags: %s", when, a.body)
		}
		if a := w.do(w.ann, "GET", "/v2/team/both/manifests/2", nil); a.code != 200 {
			t.Errorf("%s: what somebody pushed: %+v", when, a)
		}
	}
	check("before", true)
	w.must(w.projects.Delete(ctx, w.annA, p.ID))
	check("deleted", false)
	for _, ref := range []string{"1", built} {
		if a := w.do(w.ann, "DELETE", "/v2/team/app/manifests/"+ref, nil); a.code != 404 {
			t.Errorf("delete of %s: %+v", ref, a)
		}
	}
	if err := w.images.Untag(ctx, w.annA, w.team.ID, "team/app", "1"); !errdefs.IsNotFound(err) {
		t.Errorf("untag: %v", err)
	}
	_, err = w.projects.Restore(ctx, w.annA, p.ID)
	w.must(err)
	check("restored", true)
	w.must(w.projects.Delete(ctx, w.annA, p.ID))

	// A new project of the name begins with nothing, and keeps what it makes.
	next, err := w.projects.Create(ctx, w.annA, w.team.ID, project.New{Name: "app"})
	w.must(err)
	check("a new one", false)
	other := w.eng.Image("echo another")
	w.must(w.db.Write(ctx, func(tx *db.Tx) error {
		return w.images.TagIn(tx, w.annA, w.team.ID, next.ID, other, "team/app:1")
	}))
	if d, err := w.images.Lookup(ctx, w.team.ID, refs[0]); err != nil || d != other {
		t.Errorf("of the new one: %s, %v", d, err)
	}
	if _, err := w.images.Lookup(ctx, w.team.ID, "slipway.local/team/both@"+built); !errdefs.IsNotFound(err) {
		t.Errorf("still by its digest: %v", err)
	}
	// The same image in somebody's hands is theirs.
	w.must(w.images.Tag(ctx, w.annA, w.team.ID, built, "team/both:mine"))
	if d, err := w.images.Lookup(ctx, w.team.ID, "slipway.local/team/both@"+built); err != nil || d != built {
		t.Errorf("tagged by somebody else: %s, %v", d, err)
	}
}

// TestEmptyRepositoryStays: a repository whose last image went is what it was
// for a week more, whenever it was pushed to.
func TestEmptyRepositoryStays(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	img := randomImage(t, 100, 1)
	w.push(img, "team/app:v1")
	w.must(w.images.SetPublic(ctx, w.annA, w.team.ID, "team/app", true))
	age := func(columns ...string) {
		w.must(w.db.Write(ctx, func(tx *db.Tx) error {
			for _, c := range columns {
				if _, err := tx.Exec(`UPDATE image_repositories SET `+c+` = ?`, db.Micros(tx.Now.Add(-2*looseFor))); err != nil {
					return err
				}
			}
			_, err := tx.Exec(`DELETE FROM image_blobs`) // as after some days
			return err
		}))
	}
	age("created", "pushed")
	if a := w.do(w.ann, "DELETE", "/v2/team/app/manifests/"+imageDigest(t, img), nil); a.code != 202 {
		t.Fatalf("delete: %+v", a)
	}
	w.must(w.images.look(ctx))
	if n := w.count(`SELECT count(*) FROM image_repositories WHERE public = 1`); n != 1 {
		t.Error("it is gone at once")
	}
	age("emptied")
	w.must(w.images.look(ctx))
	if n := w.count(`SELECT count(*) FROM image_repositories`); n != 0 {
		t.Error("it is still there after two weeks")
	}
}

// An image that would be here is asked for nowhere else.
func TestOwnImageThatIsMissing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, ref := range []string{"slipway.local/team/none", "registry.example:5000/team/none:v1", "slipway.local/nobody/none", "slipway.local/rivals/none"} {
		if d, err := w.images.Lookup(t.Context(), w.team.ID, ref); d != "" || !errors.Is(err, engine.ErrNoImage) || !errdefs.IsNotFound(err) {
			t.Errorf("lookup of %s: %q, %v", ref, d, err)
		}
		want := "image " + ref + ": no such image: not found"
		if _, err := w.images.Resolve(t.Context(), Request{Workspace: w.team.ID, Ref: ref, Refresh: true}); !errors.Is(err, engine.ErrNoImage) || err.Error() != want {
			t.Errorf("resolve of %s: %v", ref, err)
		}
	}
	if _, err := w.images.Lookup(t.Context(), w.team.ID, "example.com/team/none"); !errdefs.IsNotFound(err) || errors.Is(err, engine.ErrNoImage) {
		t.Errorf("of another registry: %v", err)
	}
}
