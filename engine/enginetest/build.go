package enginetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"slipway/engine"
)

// source is a volume with these files.
func (s *suite) source(t testing.TB, files map[string]string) engine.Source {
	t.Helper()
	m := map[string][]byte{}
	for n, f := range files {
		m[n] = []byte(f)
	}
	v := s.volume(t, "execution/"+engine.Owner(s.id("src")))
	s.ok(t, s.Engine.Volumes().Put(t.Context(), v, "/", bytes.NewReader(Tar(t, nil, nil, m))))
	return engine.Source{Volume: v}
}

// lookup knows the base image as "shell", and that own.example has no other.
func (s *suite) lookup(_ context.Context, ref string) (string, error) {
	if strings.Contains(ref, "shell") {
		return s.base, nil
	}
	if strings.HasPrefix(ref, "own.example/") {
		return "", fmt.Errorf("image %s: %w", ref, engine.ErrNoImage)
	}
	return "", fmt.Errorf("image %s: %w", ref, errdefs.ErrNotFound)
}

// dockerfile is a build of one in a workspace of its own.
func (s *suite) dockerfile(t testing.TB, text string) (id string, spec engine.BuildSpec) {
	t.Helper()
	id = s.id("build")
	return id, engine.BuildSpec{
		Owner: engine.Owner("execution/" + id), Workspace: "w-" + id, Source: s.source(t, map[string]string{"Dockerfile": text, "file": "content\n"}),
		Dockerfile: "Dockerfile", Lookup: s.lookup, Log: filepath.Join(s.dir, id),
	}
}

// says runs an image and gives its lines.
func (s *suite) says(t testing.TB, image string) []string {
	t.Helper()
	id, spec := s.sh(t, "")
	spec.Image, spec.Command = image, nil
	_, err := s.Engine.Run(t.Context(), id, spec)
	s.ok(t, err)
	return Lines(t, spec.Log, "o")
}

func (s *suite) builds(t *testing.T) {
	t.Run("the result runs", func(t *testing.T) {
		id, spec := s.dockerfile(t, "FROM shell\nWORKDIR /app\nCOPY file /app/file\nRUN echo building\nENV X=1\nCMD [\"/bin/sh\",\"-c\",\"echo made $X\"]\n")
		res, err := s.Engine.Build(t.Context(), id, spec)
		s.ok(t, err)
		if res.Failure != "" || res.Image.Digest == "" || res.Image.ConfigDigest == "" || res.Image.Dir != "/app" || res.Steps == 0 || len(res.Image.Platforms) != 1 {
			t.Fatalf("got %+v", res)
		}
		if got := s.says(t, res.Image.Digest); len(got) != 1 || got[0] != "made 1" {
			t.Errorf("it says %q", got)
		}
		if log := strings.Join(Lines(t, spec.Log, "oem"), "\n"); !strings.Contains(log, "RUN echo building") || !strings.Contains(log, "COPY file") || !strings.Contains(log, "DONE") {
			t.Errorf("log:\n%s", log)
		}
		img, err := s.Engine.Images().Inspect(t.Context(), res.Image.Digest, "")
		s.ok(t, err)
		if img.ConfigDigest != res.Image.ConfigDigest {
			t.Errorf("Inspect says %+v", img)
		}
	})
	t.Run("again it takes the cache", func(t *testing.T) {
		id, spec := s.dockerfile(t, "FROM shell\nRUN echo a > /tmp/a\nCOPY file /tmp/file\n")
		a, err := s.Engine.Build(t.Context(), id, spec)
		s.ok(t, err)
		spec.Log = filepath.Join(s.dir, id+"-again")
		b, err := s.Engine.Build(t.Context(), id, spec)
		s.ok(t, err)
		if a.Used.Memory <= 0 || a.Used.CPU <= 0 || b.Used != (engine.Usage{}) {
			t.Errorf("its commands have used %+v, and from the cache %+v", a.Used, b.Used)
		}
		if a.Image.Digest != b.Image.Digest || b.Steps == 0 || b.Cached != b.Steps || a.Cached == a.Steps {
			t.Errorf("%d of %d cached, then %d of %d; %s, then %s", a.Cached, a.Steps, b.Cached, b.Steps, a.Image.Digest, b.Image.Digest)
		}
		for n, r := range []engine.BuildResult{a, b} {
			for i, text := range []string{"FROM ", "RUN echo a > /tmp/a", "COPY file /tmp/file"} {
				if len(r.List) != 3 || !strings.HasPrefix(r.List[i].Text, text) || r.List[i].Index != i+1 || r.List[i].Of != 3 || !r.List[i].Done ||
					i > 0 && (r.List[i].Cached != (n == 1) || !slices.Equal(r.List[i].After, []int{i - 1}) || r.List[i].Copies != (n == 0 && i == 2)) {
					t.Fatalf("step %d: %+v", i, r.List)
				}
			}
		}
		if log := strings.Join(Lines(t, spec.Log, "oem"), "\n"); !strings.Contains(log, "CACHED") {
			t.Errorf("log:\n%s", log)
		}
		spec.Log, spec.Workspace = filepath.Join(s.dir, id+"-other"), spec.Workspace+"-other"
		c, err := s.Engine.Build(t.Context(), s.id("build"), spec)
		s.ok(t, err)
		if c.Cached != 0 {
			t.Errorf("another workspace takes %d steps from the cache", c.Cached)
		}
		spec.Log, spec.NoCache = filepath.Join(s.dir, id+"-nocache"), true
		d, err := s.Engine.Build(t.Context(), s.id("build"), spec)
		s.ok(t, err)
		if d.Cached != 0 {
			t.Errorf("without the cache it takes %d steps from it", d.Cached)
		}
	})
	s.buildCaches(t)
	s.buildFailures(t)
	s.buildSpecs(t)
	s.buildEnds(t)
}

// buildCaches is about who uses whose steps. Those of the first stage are in the
// image, or lead to it.
func (s *suite) buildCaches(t *testing.T) {
	_, spec := s.dockerfile(t, "FROM shell AS one\nRUN echo one > /one\nRUN echo again > /two\nFROM shell\nCOPY --from=one /one /one\nRUN echo three\n")
	own, scope := engine.Owner(s.id("own")), engine.Owner(s.id("scope"))
	of := func(n int, take bool, give engine.Given) engine.BuildCache {
		return engine.BuildCache{Owner: engine.Owner(fmt.Sprintf("pipeline/%s-%d", own, n)), Scope: "project/" + scope, Take: take, Give: give}
	}
	build := func(t *testing.T, c engine.BuildCache, target string) engine.BuildResult {
		t.Helper()
		spec := spec
		spec.Cache, spec.Target, spec.Log = c, target, ""
		res, err := s.Engine.Build(t.Context(), s.id("build"), spec)
		s.ok(t, err)
		if res.Failure != "" {
			t.Fatal(res.Failure)
		}
		return res
	}
	all := func(t *testing.T, what string, r engine.BuildResult, hit bool) {
		t.Helper()
		if hit && r.Cached != r.Steps || !hit && r.Cached > 0 {
			t.Errorf("%s: %d of %d cached", what, r.Cached, r.Steps)
		}
	}
	t.Run("an owner's steps are its own", func(t *testing.T) {
		alone := of(1, false, engine.GiveNothing)
		alone.Scope = ""
		all(t, "the first", build(t, alone, ""), false)
		all(t, "again", build(t, alone, ""), true)
		all(t, "another owner", build(t, of(2, true, engine.GiveNothing), ""), false)
		all(t, "nobody's", build(t, engine.BuildCache{}, ""), false)
	})
	t.Run("what is given is taken", func(t *testing.T) {
		build(t, of(2, true, engine.GiveImage), "")
		res := build(t, of(3, true, engine.GiveNothing), "")
		for _, step := range res.List[len(res.List)-2:] {
			if !step.Cached {
				t.Errorf("a step of the image was not given: %+v", step)
			}
		}
		all(t, "one that does not take", build(t, of(4, false, engine.GiveNothing), ""), false)
	})
	t.Run("the steps of other stages are given only with all", func(t *testing.T) {
		all(t, "the image was given", build(t, of(5, true, engine.GiveNothing), "one"), false)
		build(t, of(2, true, engine.GiveAll), "")
		res := build(t, of(6, true, engine.GiveNothing), "one")
		if res.Cached == 0 {
			t.Errorf("all was given: %+v", res)
		}
	})
	t.Run("what one has goes with it", func(t *testing.T) {
		for _, o := range []engine.Owner{of(2, true, "").Owner, "project/" + scope} {
			owners, err := s.Engine.Owners(t.Context())
			s.ok(t, err)
			if !slices.Contains(owners, o) {
				t.Errorf("%s is not among %v", o, owners)
			}
			s.ok(t, s.Engine.Remove(t.Context(), o))
			if owners, err = s.Engine.Owners(t.Context()); err != nil || slices.Contains(owners, o) {
				t.Errorf("%s is still among %v: %v", o, owners, err)
			}
		}
		all(t, "after that", build(t, of(2, true, engine.GiveNothing), ""), false)
		c, ok := s.Engine.(engine.Cacher)
		if !ok {
			return
		}
		_, err := c.ClearCache(t.Context(), spec.Workspace, of(2, true, "").Owner)
		s.ok(t, err)
		all(t, "after it was cleared", build(t, of(2, true, engine.GiveNothing), ""), false)
		all(t, "others", build(t, of(3, true, engine.GiveNothing), ""), true)
	})
}

func (s *suite) buildFailures(t *testing.T) {
	for name, c := range map[string]struct{ text, says string }{
		"a step that fails":          {"FROM shell\nRUN echo trying && exit 7\n", "7"},
		"a file that is not there":   {"FROM shell\nCOPY no-such-file /x\n", "no-such-file"},
		"an unknown instruction":     {"FROM shell\nHELLO world\n", "HELLO"},
		"an empty Dockerfile":        {"\n", ""},
		"an image that is not there": {"FROM localhost:1/nobody/nothing:1\n", "nobody/nothing"},
		"one that would be here":     {"FROM own.example/nobody/nothing\n", "no such image"},
	} {
		t.Run(name+" is a result", func(t *testing.T) {
			id, spec := s.dockerfile(t, c.text)
			if strings.HasPrefix(c.text, "FROM localhost") {
				if f, ok := s.Engine.(interface{ Unreachable(host string) }); ok {
					f.Unreachable("localhost:1")
				}
			}
			res, err := s.Engine.Build(t.Context(), id, spec)
			s.ok(t, err)
			if res.Failure == "" || !strings.Contains(res.Failure, c.says) || res.Image.Digest != "" || res.Reason != "" {
				t.Errorf("got %+v", res)
			}
			if log := strings.Join(Lines(t, spec.Log, "oem"), "\n"); !strings.Contains(log, c.says) {
				t.Errorf("log:\n%s", log)
			}
			if held, err := s.Engine.Images().Holds(t.Context(), "build/"+id); err != nil || len(held) > 0 {
				t.Errorf("held: %v %v", held, err)
			}
		})
	}
	t.Run("no Dockerfile is a result", func(t *testing.T) {
		id, spec := s.dockerfile(t, "FROM shell\n")
		spec.Dockerfile = "docker/Dockerfile.prod"
		res, err := s.Engine.Build(t.Context(), id, spec)
		s.ok(t, err)
		if !strings.Contains(res.Failure, "docker/Dockerfile.prod") || !strings.Contains(res.Failure, "no such file") {
			t.Errorf("got %+v", res)
		}
	})
}

func (s *suite) buildSpecs(t *testing.T) {
	t.Run("arguments and target", func(t *testing.T) {
		id, spec := s.dockerfile(t, "ARG BASE=nothing\nFROM $BASE AS one\nARG WHO=nobody\nRUN echo \"for $WHO\"\nCMD [\"/bin/echo\",\"one\"]\nFROM shell\nCMD [\"/bin/echo\",\"two\"]\n")
		spec.Args, spec.Target = map[string]string{"BASE": "shell", "WHO": "us"}, "one"
		res, err := s.Engine.Build(t.Context(), id, spec)
		s.ok(t, err)
		if got := s.says(t, res.Image.Digest); len(got) != 1 || got[0] != "one" {
			t.Errorf("%+v; it says %q", res, got)
		}
		if log := strings.Join(Lines(t, spec.Log, "oem"), "\n"); !strings.Contains(log, "for us") {
			t.Errorf("log:\n%s", log)
		}
	})
	t.Run("secrets are in no layer, history or log", func(t *testing.T) {
		const secret = "tiefes-geheimnis-0815"
		id, spec := s.dockerfile(t, "FROM shell\nRUN --mount=type=secret,id=token cat /run/secrets/token && echo ok\n")
		spec.Secrets = []engine.BuildSecret{{ID: "token", Value: []byte(secret)}}
		spec.Mask = [][]byte{[]byte(secret)}
		spec.Provenance = "max"
		res, err := s.Engine.Build(t.Context(), id, spec)
		s.ok(t, err)
		log := strings.Join(Lines(t, spec.Log, "oem"), "\n")
		if res.Failure != "" || strings.Contains(log, secret) || !strings.Contains(log, "***") {
			t.Errorf("%+v; log:\n%s", res, log)
		}
		var out bytes.Buffer
		s.ok(t, s.Engine.Images().Export(t.Context(), res.Image.Digest, "", &out))
		if bytes.Contains(out.Bytes(), []byte(secret)) {
			t.Error("the secret is in the image")
		}
	})
	t.Run("a source can be an archive", func(t *testing.T) {
		id, spec := s.dockerfile(t, "")
		r, err := s.Engine.Volumes().Get(t.Context(), s.source(t, map[string]string{"app/Dockerfile": "FROM shell\nCOPY f /f\nCMD [\"/bin/cat\",\"/f\"]\n", "app/f": "from a tar\n"}).Volume, "/")
		s.ok(t, err)
		defer r.Close()
		spec.Source, spec.Context, spec.Dockerfile = engine.Source{Archive: archive(t, r)}, "app", "app/Dockerfile"
		res, err := s.Engine.Build(t.Context(), id, spec)
		s.ok(t, err)
		if res.Failure != "" || res.Image.Digest == "" {
			t.Errorf("got %+v", res)
		}
	})
	t.Run("a lone file that differs in case is taken", func(t *testing.T) {
		id, spec := s.dockerfile(t, "")
		spec.Source = s.source(t, map[string]string{"dockerFile": "FROM shell\nRUN true\n"})
		res, err := s.Engine.Build(t.Context(), id, spec)
		s.ok(t, err)
		if log := strings.Join(Lines(t, spec.Log, "oem"), "\n"); res.Failure != "" || !strings.Contains(log, "dockerFile") {
			t.Errorf("%+v; log:\n%s", res, log)
		}
	})
	t.Run("the result is held until it is released", func(t *testing.T) {
		id, spec := s.dockerfile(t, "FROM shell\nRUN echo held > /tmp/held\n")
		res, err := s.Engine.Build(t.Context(), id, spec)
		s.ok(t, err)
		held, err := s.Engine.Images().Holds(t.Context(), "build/"+id)
		s.ok(t, err)
		if held["build/"+id] != res.Image.Digest {
			t.Errorf("held: %v", held)
		}
		if s.Collect != nil {
			s.Collect(t)
		}
		_, err = s.Engine.Images().Inspect(t.Context(), res.Image.Digest, "")
		s.ok(t, err)
		s.ok(t, s.Engine.Images().Release(t.Context(), "build/"+id))
		if held, err = s.Engine.Images().Holds(t.Context(), "build/"+id); err != nil || len(held) > 0 {
			t.Errorf("held: %v %v", held, err)
		}
	})
}

func (s *suite) buildEnds(t *testing.T) {
	sleeping := func(t *testing.T) (string, engine.BuildSpec) {
		return s.dockerfile(t, "FROM shell\nRUN echo sleeping && sleep 60\n")
	}
	begin := func(t *testing.T, ctx context.Context, id string, spec engine.BuildSpec) <-chan error {
		c := make(chan error, 1)
		e := s.Engine
		go func() {
			res, err := e.Build(ctx, id, spec)
			if err == nil {
				err = fmt.Errorf("reason %s", res.Reason)
			}
			c <- err
		}()
		until(t, "the step has begun", func() bool {
			for _, l := range Lines(t, spec.Log, "o") {
				if l == "sleeping" || strings.HasSuffix(l, " sleeping") && !strings.Contains(l, "RUN") {
					return true
				}
			}
			return false
		})
		return c
	}
	t.Run("a cause ends it", func(t *testing.T) {
		id, spec := sleeping(t)
		ctx, cancel := context.WithCancelCause(t.Context())
		c := begin(t, ctx, id, spec)
		within(t, 2*time.Second, "cancelling", func() {
			cancel(errStop)
			if err := <-c; err.Error() != "reason cancel" {
				t.Error(err)
			}
		})
	})
	t.Run("its time is over", func(t *testing.T) {
		id, spec := sleeping(t)
		spec.Timeout = 500 * time.Millisecond
		within(t, 10*time.Second, "the build", func() {
			res, err := s.Engine.Build(t.Context(), id, spec)
			s.ok(t, err)
			if res.Reason != engine.ReasonTimeout || res.Failure == "" {
				t.Errorf("got %+v", res)
			}
		})
	})
	t.Run("ErrDetach ends the call, the next one does the work", func(t *testing.T) {
		id, spec := sleeping(t)
		ctx, cancel := context.WithCancelCause(t.Context())
		c := begin(t, ctx, id, spec)
		cancel(engine.ErrDetach)
		if err := <-c; !errors.Is(err, engine.ErrDetach) {
			t.Error(err)
		}
		spec.Source = s.source(t, map[string]string{"Dockerfile": "FROM shell\nRUN echo again\n"})
		res, err := s.Engine.Build(t.Context(), id, spec)
		s.ok(t, err)
		if res.Image.Digest == "" {
			t.Errorf("got %+v", res)
		}
	})
	t.Run("after a restart it is done again", func(t *testing.T) {
		id, spec := s.dockerfile(t, "FROM shell\nRUN echo z > /tmp/z\n")
		a, err := s.Engine.Build(t.Context(), id, spec)
		s.ok(t, err)
		s.reopen(t)
		spec.Log += "-again"
		b, err := s.Engine.Build(t.Context(), id, spec)
		s.ok(t, err)
		if a.Image.Digest != b.Image.Digest || b.Cached != b.Steps {
			t.Errorf("%+v, then %+v", a, b)
		}
	})
}
