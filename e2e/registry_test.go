package e2e

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/crane"

	"slipway/cli"
)

// TestRegistries pulls, builds from, pushes to and hosts from registries of
// others.
func TestRegistries(t *testing.T) {
	t.Parallel()
	ca, strange := newAuthority(t), newAuthority(t)
	open := newOutside(t, ca, "", "")
	basic := newOutside(t, ca, "basic", "pass-basic-word")
	bearer := newOutside(t, ca, "bearer", "pass-bearer-word")
	unknown := newOutside(t, strange, "", "")
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, ca.pem(), 0o600); err != nil {
		t.Fatal(err)
	}
	s := newServer(t, "--registry-ca", file, "--registry-mirror", "mirrored.example=https://"+open.host, "--registry-mirror", "docker.io=https://"+open.host)
	img := tool(t, "outside")
	for _, n := range []string{"tool:1", "library/tool:1", "far/tool:1"} {
		open.push(img, n)
	}
	for _, o := range []*outside{basic, bearer, unknown} {
		for _, n := range []string{"tool:1", "other:1", "third:1", "forge:1", "hosted:1", "hosted:2"} {
			o.push(img, n)
		}
	}
	other := func(o *outside, more ...any) []any {
		return append([]any{"docker_registry", "OTHER", "registry", o.host}, more...)
	}
	ann := func(o *outside, password string) []any { return other(o, "login", "ann", "password", password) }
	builds := func(repository string, more ...any) map[string]any {
		return with(build(), append([]any{"repository", repository, "docker_image_tag", "made"}, more...)...)
	}
	from := func(ref string) map[string]string {
		return map[string]string{"Dockerfile": "FROM " + ref + "\nRUN [\"/probe\", \"true\", \"" + ref + "\"]\n"}
	}

	t.Run("open", func(t *testing.T) {
		s.one("open-run", nil, runs("tool", "1", "/probe true", other(open)...)).ok(t, "it is true")
		s.one("open-from", from(open.host+"/tool:1"), build()).ok(t, "it is true")
		s.one("open-push", from(open.host+"/tool:1"), builds("team/Made", other(open)...)).ok(t, "Pushed "+open.host+"/team/made:made")
		open.digest("team/made:made")
		if n := open.asked("/blobs/sha256:"); n > 12 { // once each, not for every use
			t.Errorf("%d requests for blobs", n)
		}
	})
	t.Run("logins", func(t *testing.T) {
		for name, o := range map[string]*outside{"basic": basic, "bearer": bearer} {
			good := "pass-" + name + "-word"
			s.one(name+"-run", nil, runs("tool", "1", "/probe true", ann(o, good)...)).ok(t, "it is true")
			d := s.one(name+"-push", from(o.host+"/other:1"), builds("made", ann(o, good)...))
			d.ok(t, "Pushed "+o.host+"/made:made")
			if strings.Contains(d.text(), good) || o.digest("made:made") == "" {
				t.Error(d.text())
			}
			refused := []string{o.host, "ann"}
			s.one(name+"-wrong-run", nil, runs("third", "1", "/probe true", ann(o, "wrong-"+good)...)).failed(t, refused, good)
			s.one(name+"-wrong-from", from(o.host+"/third:1"), builds("made", ann(o, "wrong-"+good)...)).failed(t, refused, good)
			s.one(name+"-wrong-push", from(open.host+"/tool:1"), builds("never", ann(o, "wrong-"+good)...)).failed(t, refused, good)
			s.one(name+"-none", nil, runs("third", "1", "/probe true", other(o)...)).failed(t, []string{o.host, "login"})
			if _, err := crane.Digest(o.host+"/never:made", o.opts...); err == nil {
				t.Error("an image was pushed with a wrong login")
			}
		}
	})
	t.Run("integration", func(t *testing.T) {
		integration := func(name, token string) map[string]any {
			s.must("POST", "/workspaces/default/integrations", map[string]any{
				"name": name, "type": "GIT_HUB_ENTERPRISE", "scope": "WORKSPACE", "server_url": "https://" + bearer.host, "username": "ann", "token": token,
			}, nil)
			return map[string]any{"identifier": name}
		}
		forge := []any{"registry", bearer.host, "integration", integration("forge", "pass-bearer-word")}
		s.one("forge-run", nil, runs("forge", "1", "/probe true", forge...)).ok(t, "it is true")
		d := s.one("forge-push", from(bearer.host+"/forge:1"), builds("forged", forge...), with(build(), "name", "Copy", "type", "DOCKER_BUILD_MULTI_ARCH",
			"use_image_from_action", true, "repository", "copied", "docker_image_tag", "again", "registry", bearer.host, "integration", map[string]any{"identifier": "forge"}))
		d.ok(t, "Pushed "+bearer.host+"/copied:again")
		if a, b := bearer.digest("forged:made"), bearer.digest("copied:again"); a != b || a == "" {
			t.Errorf("the copy is %s, what was built %s", b, a)
		}
		wrong := []any{"registry", bearer.host, "integration", integration("forger", "wrong-bearer-word")}
		s.one("forger-push", from(open.host+"/tool:1"), builds("never", wrong...)).failed(t, []string{bearer.host, "ann"}, "wrong-bearer-word")
		s.one("forge-elsewhere", nil, runs("tool", "1", "/probe true", "registry", basic.host, "integration", map[string]any{"identifier": "forge"})).failed(t, []string{"forge", basic.host})
		s.one("forge-none", nil, runs("tool", "1", "/probe true", "integration", map[string]any{"hash_id": "5ddb7c18"})).failed(t, []string{"5ddb7c18"})
	})
	t.Run("certificates", func(t *testing.T) {
		s.one("strange-run", nil, runs("tool", "1", "/probe true", other(unknown)...)).failed(t, []string{unknown.host, "certificate"})
		s.one("insecure-run", nil, runs("tool", "1", "/probe true", other(unknown, "insecure_registry", true)...)).ok(t, "it is true")
		s.one("insecure-push", from(open.host+"/tool:1"), builds("made", other(unknown, "insecure_registry", true)...)).ok(t, "Pushed "+unknown.host+"/made:made")
		unknown.digest("made:made")
	})
	t.Run("nothing there", func(t *testing.T) {
		s.one("no-image", nil, runs("none", "7", "/probe true", other(open)...)).failed(t, []string{open.host + "/none:7", "not found"})
		s.one("no-from", from(open.host+"/none:7"), build()).failed(t, []string{open.host + "/none:7", "not found"})
		closed := freePort(t)
		s.one("no-registry", nil, runs("tool", "1", "/probe true", "docker_registry", "OTHER", "registry", closed)).failed(t, []string{closed, "refused"})
		s.one("no-registry-from", from(closed+"/tool:1"), build()).failed(t, []string{closed, "refused"})
		s.one("no-registry-push", from(open.host+"/tool:1"), builds("made", "docker_registry", "OTHER", "registry", closed)).failed(t, []string{closed, "refused"})
	})
	t.Run("mirror", func(t *testing.T) {
		s.one("mirror-run", nil, runs("mirrored.example/far/tool", "1", "/probe true")).ok(t, "it is true")
		s.one("mirror-from", from("tool:1"), build()).ok(t, "it is true")
		if open.asked("/far/tool/") == 0 || open.asked("/library/tool/") == 0 {
			t.Error("the mirror was not asked")
		}
	})
	t.Run("host", func(t *testing.T) {
		s.hosts(t, "open", open.host+"/far/tool:1")
		s.hostsWithLogin(t, "basic", basic, "pass-basic-word")
		s.hostsWithLogin(t, "bearer", bearer, "pass-bearer-word")
		// An unknown certificate is one that a login is not given to.
		j := s.job("strange")
		if err := j.makeProject(t.Context()); err != nil {
			t.Fatal(err)
		}
		if r, err := j.registry(t.Context(), unknown.host, "ann", "pass-basic-word"); err != nil || r.Credentials.Valid {
			t.Errorf("%v: %+v", err, r)
		}
		if err := j.host(t.Context(), "web", unknown.host+"/hosted:1"); err != nil {
			t.Fatal(err)
		}
		j.says(t, "web", unknown.host, "certificate")
	})
	if said := s.said(); strings.Contains(said, "pass-basic-word") || strings.Contains(said, "pass-bearer-word") {
		t.Error("a password is in what the server says")
	}
}

// hosts makes a project whose service is an image of somebody's, and reaches it.
func (s *server) hosts(t *testing.T, name, ref string) {
	t.Helper()
	j := s.job(name + "-hosted")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for _, f := range []func() error{
		func() error { return j.makeProject(ctx) },
		func() error { return j.host(ctx, "web", ref) },
		func() error { _, err := j.running(ctx, "web"); return err },
		func() error { return j.route(ctx, name+".localhost", "web") },
		func() error { _, err := s.answers(ctx, name+".localhost", 200, "tool"); return err },
	} {
		if err := f(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
}

// hostsWithLogin hosts from a registry that wants a login, and goes on when its
// password changes there.
func (s *server) hostsWithLogin(t *testing.T, name string, o *outside, good string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	j := s.job(name + "-hosted")
	if err := j.makeProject(ctx); err != nil {
		t.Fatal(err)
	}
	_, err := j.registry(ctx, o.host, "ann", "wrong-"+good)
	if !cli.IsStatus(err, http.StatusPreconditionFailed) || !strings.Contains(err.Error(), o.host) || !strings.Contains(err.Error(), "user ann") || strings.Contains(err.Error(), good) {
		t.Errorf("%s: a wrong login: %v", name, err)
	}
	if err := j.host(ctx, "web", o.host+"/hosted:1"); err != nil {
		t.Fatal(err)
	}
	j.says(t, "web", o.host, "login")
	r, err := j.registry(ctx, o.host, "ann", good)
	if err != nil || r.URI != o.host || r.Credentials.Username != "ann" || !r.Credentials.Valid {
		t.Fatalf("%s: %v: %+v", name, err, r)
	}
	s.hosts(t, name, o.host+"/hosted:1")

	// The password is changed where it is from: the login that is kept is wrong.
	o.change("new-" + good)
	defer o.change(good)
	if err := j.host(ctx, "next", o.host+"/hosted:2"); err != nil {
		t.Fatal(err)
	}
	if m := j.says(t, "next", o.host, "user ann"); strings.Contains(m, good) {
		t.Errorf("%s: a password is in %q", name, m)
	}
	if err := s.Do(ctx, "PATCH", "/v2/registries/"+r.ID, map[string]any{"credentials": map[string]string{"username": "ann", "password": "new-" + good}}, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := j.running(ctx, "next"); err != nil {
		t.Errorf("%s: with the new password: %v", name, err)
	}
	var all string
	if err := s.Do(ctx, "GET", "/v2/projects/"+j.id+"/registries", nil, &all); err != nil || strings.Contains(all, good) {
		t.Errorf("%s: %v: %s", name, err, all)
	}
}

// host declares a service of an image.
func (j *job) host(ctx context.Context, service, ref string) error {
	v := map[string]any{"image": ref, "description": service, "ports": []string{"8080/tcp"}}
	return j.s.Do(ctx, "PATCH", j.stackPath(), map[string]any{"services": map[string]any{service: v}}, nil)
}

type registryLogin struct {
	ID, URI     string
	Credentials struct {
		Username string
		Valid    bool
	}
}

// registry makes a login of a registry.
func (j *job) registry(ctx context.Context, host, user, password string) (r registryLogin, err error) {
	return r, j.s.Do(ctx, "POST", "/v2/projects/"+j.id+"/registries", map[string]any{
		"description": host, "uri": host, "credentials": map[string]string{"username": user, "password": password},
	}, &r)
}

// says waits until the message of a service has all the words, and gives it.
func (j *job) says(t *testing.T, service string, words ...string) (message string) {
	t.Helper()
	until(t, 20*time.Second, service+" says why it does not run", func() error {
		v, err := j.service(t.Context(), service)
		message = v.Message
		for _, w := range words {
			if err == nil && !strings.Contains(message, w) {
				err = fmt.Errorf("%q is not in %q", w, message)
			}
		}
		return err
	})
	return message
}

// TestStandardClient pushes to and pulls from the server's own registry.
func TestStandardClient(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	img := tool(t, "own")
	want, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	s.give(img, "default/some/tool:1")
	s.give(img, "default/some/tool:2")
	// What it was given runs, is built from, and comes back the same.
	s.one("use", map[string]string{"Dockerfile": "FROM slipway.local/default/some/tool:2\nRUN [\"/probe\", \"true\"]\n"}, build(),
		runs(s.listen+"/default/some/tool", "1", "/probe true")).ok(t, "it is true")
	got, err := crane.Pull(s.listen+"/default/some/tool:1", s.own()...)
	if err != nil {
		t.Fatal(err)
	}
	if d, err := got.Digest(); err != nil || d != want {
		t.Errorf("%v (%v), want %v", d, err, want)
	}
	built, err := crane.Pull(s.listen+"/default/use:latest", s.own()...)
	if err != nil {
		t.Fatal(err)
	}
	if err := crane.Save(built, "x", filepath.Join(t.TempDir(), "x.tar")); err != nil { // reads all, and checks every digest
		t.Error(err)
	}
	if l, err := crane.ListTags(s.listen+"/default/some/tool", s.own()...); err != nil || fmt.Sprint(l) != "[1 2]" {
		t.Errorf("%v, %v", l, err)
	}
	if l, err := crane.Catalog(s.listen, s.own()...); err != nil || fmt.Sprint(l) != "[default/some/tool default/use]" {
		t.Errorf("%v, %v", l, err)
	}
	if err := crane.Copy(s.listen+"/default/some/tool:1", s.listen+"/default/copy:3", s.own()...); err != nil {
		t.Error(err)
	}
	if err := crane.Delete(s.listen+"/default/some/tool:2", s.own()...); err != nil {
		t.Error(err)
	}
	if l, err := crane.ListTags(s.listen+"/default/some/tool", s.own()...); err != nil || fmt.Sprint(l) != "[1]" {
		t.Errorf("after a delete: %v, %v", l, err)
	}
	for name, err := range map[string]error{
		"pull of a stranger": func() error { _, err := crane.Digest(s.listen + "/default/some/tool:1"); return err }(),
		"push of a stranger": crane.Push(img, s.listen+"/default/some/tool:4"),
		"push elsewhere":     crane.Push(img, s.listen+"/nobody/tool:4", s.own()...),
	} {
		if err == nil {
			t.Errorf("%s succeeds", name)
		}
	}
}
