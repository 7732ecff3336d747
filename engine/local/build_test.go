package local

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"slipway/engine"
	"slipway/engine/enginetest"
)

// source is a volume with files.
func (b *bench) source(files map[string]string) engine.Source {
	b.t.Helper()
	m := map[string][]byte{}
	for n, f := range files {
		m[n] = []byte(f)
	}
	v := b.volume("execution/source")
	if err := b.Volumes().Put(context.Background(), v, "/", bytes.NewReader(enginetest.Tar(b.t, nil, nil, m))); err != nil {
		b.t.Fatal(err)
	}
	return engine.Source{Volume: v}
}

func (b *bench) lookup(_ context.Context, ref string) (string, error) {
	if ref == "docker.io/library/shell:latest" {
		return b.base, nil
	}
	return "", fmt.Errorf("%s: %w", ref, errdefs.ErrNotFound)
}

// recipe is a build of a Dockerfile, in a workspace "w".
func (b *bench) recipe(text string, files map[string]string) (string, engine.BuildSpec) {
	b.t.Helper()
	id := b.id("build")
	all := map[string]string{"Dockerfile": text}
	for n, f := range files {
		all[n] = f
	}
	return id, engine.BuildSpec{Owner: engine.Owner("execution/" + id), Workspace: "w", Source: b.source(all), Dockerfile: "Dockerfile", Lookup: b.lookup, Log: filepath.Join(b.logs, id)}
}

// made builds and fails the test if no image comes out.
func (b *bench) made(id string, spec engine.BuildSpec) engine.BuildResult {
	b.t.Helper()
	res, err := b.Build(context.Background(), id, spec)
	if err != nil || res.Failure != "" {
		b.t.Fatalf("%v; %+v\n%s", err, res, lines(b.t, spec.Log))
	}
	return res
}

// fails builds and wants a failure that says all of these.
func (b *bench) fails(id string, spec engine.BuildSpec, says ...string) {
	b.t.Helper()
	res, err := b.Build(context.Background(), id, spec)
	if err != nil || res.Failure == "" || res.Image.Digest != "" {
		b.t.Errorf("%+v %v", res, err)
		return
	}
	for _, s := range says {
		if !strings.Contains(res.Failure, s) {
			b.t.Errorf("the failure does not say %q: %s", s, res.Failure)
		}
	}
}

// says gives what a container of an image says.
func (b *bench) says(image string) string {
	b.t.Helper()
	_, out := b.do("", func(s *engine.RunSpec) { s.Image, s.Command = image, nil })
	return out
}

func TestBuildLog(t *testing.T) {
	b := open(t)
	id, spec := b.recipe("FROM shell AS one\nRUN echo to stdout; echo to stderr >&2; printf unfinished\nFROM shell\nCOPY --from=one /etc/passwd /p\nCOPY a /a\n", map[string]string{"a": "x"})
	spec.Name = "w/app:1"
	b.made(id, spec)
	log := lines(t, spec.Log)
	for _, want := range []string{"[one 2/2] RUN echo to stdout", "\nto stdout\n", "\nto stderr\n", "\nunfinished\n", "COPY --from=one /etc/passwd /p", "COPY a /a", " DONE ", "w/app:1"} {
		if !strings.Contains(log, want) {
			t.Errorf("no %q in\n%s", want, log)
		}
	}
	spec.Log += "-again"
	b.made(id, spec)
	log = lines(t, spec.Log)
	// A step whose files had to be looked at first says so in a line of its own.
	for _, want := range []string{`RUN echo to stdout; echo to stderr >&2; printf unfinished( |\n#\d )CACHED`, `COPY --from=one /etc/passwd /p( |\n#\d )CACHED`, `COPY a /a( |\n#\d )CACHED`} {
		if !regexp.MustCompile(want).MatchString(log) {
			t.Errorf("no %q in\n%s", want, log)
		}
	}
	if strings.Contains(log, "\nto stdout") || strings.Contains(log, "[internal]") {
		t.Errorf("log:\n%s", log)
	}
	t.Log(log)
}

func TestBuildFailureTexts(t *testing.T) {
	b := open(t)
	for _, c := range []struct {
		text string
		says []string
	}{
		{"FROM shell\n\nRUN echo before && exit 9\n", []string{"RUN echo before && exit 9", "Dockerfile line 3", "exit code 9", "output"}},
		{"FROM shell\nRUN no-such-tool\n", []string{"exit code 127", "not in the image"}},
		{"FROM shell\nCOPY missing.txt /x\n", []string{"missing.txt", "not in the build context", "Dockerfile line 2"}},
		{"FROM shell\nNONSENSE x\n", []string{"NONSENSE", "line 2"}},
		{"FROM shell\nADD https://github.com/a/b.git /x\n", []string{"git repository", "RUN git clone"}},
		{"FROM 127.0.0.1:1/a/b:1\n", []string{"127.0.0.1:1", "cannot be reached"}},
	} {
		id, spec := b.recipe(c.text, nil)
		b.fails(id, spec, c.says...)
	}
}

func TestBuildContext(t *testing.T) {
	b := open(t)
	var tb bytes.Buffer
	w := tar.NewWriter(&tb)
	put := func(h tar.Header, body string) {
		h.Mode, h.Size = 0o644, int64(len(body))
		_ = w.WriteHeader(&h)
		_, _ = w.Write([]byte(body))
	}
	file := func(name, body string) { put(tar.Header{Typeflag: tar.TypeReg, Name: name}, body) }
	file("docker/Dockerfile.prod", "FROM shell\nCOPY . /ctx\nWORKDIR /ctx\nCMD [\"/bin/sh\",\"-c\",\"ls -A . sub; cat in lnk hard\"]\n")
	file("app/in", "inside\n")
	put(tar.Header{Typeflag: tar.TypeLink, Name: "app/hard", Linkname: "app/in"}, "")
	put(tar.Header{Typeflag: tar.TypeSymlink, Name: "app/lnk", Linkname: "in"}, "")
	put(tar.Header{Typeflag: tar.TypeSymlink, Name: "app/out", Linkname: "/etc/hostname"}, "")
	put(tar.Header{Typeflag: tar.TypeSymlink, Name: "app/up", Linkname: "../../../../../../etc"}, "")
	file("app/ignored.txt", "no")
	file("app/kept.txt", "yes")
	file("app/sub/deep.log", "no")
	file("app/sub/deep.txt", "yes")
	file("app/.git/config", "no")
	file("app/.dockerignore", "*.txt\n!kept.txt\n**/*.log\n")
	_ = w.Close()
	v := b.volume("execution/source")
	if err := b.Volumes().Put(t.Context(), v, "/", &tb); err != nil {
		t.Fatal(err)
	}
	id, spec := b.recipe("", nil)
	spec.Source, spec.Context, spec.Dockerfile = engine.Source{Volume: v}, "/app", "docker/Dockerfile.prod"
	out := b.says(b.made(id, spec).Image.Digest)
	for what, want := range map[string]bool{"kept.txt": true, "ignored.txt": false, "deep.txt": true, "deep.log": false, ".git": false, "inside\ninside\ninside": true, "out": true} {
		if strings.Contains(out, what) != want {
			t.Errorf("%q is %v in\n%s", what, !want, out)
		}
	}
	spec.KeepGit, spec.Log = true, spec.Log+"-git"
	if out := b.says(b.made(b.id("build"), spec).Image.Digest); !strings.Contains(out, ".git") {
		t.Errorf("with .git:\n%s", out)
	}
	t.Run("an ignore file of the Dockerfile's own", func(t *testing.T) {
		id, spec := b.recipe("FROM shell\nCOPY . /c\nCMD [\"/bin/ls\",\"/c\"]\n", map[string]string{"a": "1", "b": "2", ".dockerignore": "a\n", "Dockerfile.dockerignore": "b\n"})
		if out := b.says(b.made(id, spec).Image.Digest); !strings.Contains(out, "a") || strings.Contains(out, "b\n") {
			t.Errorf("got %q", out)
		}
	})
	t.Run("links lead nowhere", func(t *testing.T) {
		id, spec := b.recipe("", nil)
		spec.Source, spec.Context, spec.Dockerfile = engine.Source{Volume: v}, "app/up", "docker/Dockerfile.prod"
		b.fails(id, spec, "context")
		file := map[string]string{"Dockerfile": "FROM shell\nCOPY out/x /x\n"}
		src := b.source(file)
		dir, _ := b.Dir(t.Context(), src.Volume)
		if err := os.Symlink("/etc", filepath.Join(dir, "out")); err != nil {
			t.Fatal(err)
		}
		spec.Source, spec.Context = src, ""
		spec.Dockerfile = "Dockerfile"
		b.fails(id, spec)
		spec.Dockerfile = "out/hostname"
		b.fails(id, spec, "out/hostname")
	})
}

// TestSameSizeAndTime changes a file so that only its content is different.
func TestSameSizeAndTime(t *testing.T) {
	b := open(t)
	id, spec := b.recipe("FROM shell\nCOPY a /a\nCMD [\"/bin/cat\",\"/a\"]\n", map[string]string{"a": "0"})
	for i, reopen := range []bool{false, false, false, true, false} {
		if reopen {
			b.restart()
		}
		text := fmt.Sprint(i)
		if err := b.Volumes().Put(t.Context(), spec.Source.Volume, "/", bytes.NewReader(enginetest.Tar(t, nil, nil, map[string][]byte{"a": []byte(text)}))); err != nil {
			t.Fatal(err)
		}
		if out := b.says(b.made(id, spec).Image.Digest); out != text {
			t.Errorf("it has %q, not %q", out, text)
		}
		spec.Log += "x"
	}
}

// TestContextInMotion builds while somebody swaps a directory for a link out of
// the volume, and a file for a pipe.
func TestContextInMotion(t *testing.T) {
	b := open(t)
	files := map[string]string{"d/secret": "ours"}
	for i := range 200 {
		files[fmt.Sprintf("many/%03d", i)] = "x"
	}
	id, spec := b.recipe("FROM shell\nCOPY . /c\nCMD [\"/bin/sh\",\"-c\",\"cat /c/d/secret\"]\n", files)
	outside := t.TempDir()
	if err := os.WriteFile(filepath.Join(outside, "secret"), []byte("THEIRS"), 0o644); err != nil {
		t.Fatal(err)
	}
	dir, err := b.Dir(t.Context(), spec.Source.Volume)
	if err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			_ = os.Rename(filepath.Join(dir, "d"), filepath.Join(dir, "e"))
			_ = os.Symlink(outside, filepath.Join(dir, "d"))
			_ = os.Remove(filepath.Join(dir, "d"))
			_ = os.Rename(filepath.Join(dir, "e"), filepath.Join(dir, "d"))
		}
	})
	for range 6 {
		spec.NoCache = true
		res, err := b.Build(t.Context(), id, spec)
		if err != nil {
			t.Logf("this one failed, as it may: %v", err)
			continue
		}
		if res.Image.Digest == "" {
			continue
		}
		var out bytes.Buffer
		if err := b.Images().Export(t.Context(), res.Image.Digest, "", &out); err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(out.Bytes(), []byte("THEIRS")) {
			t.Fatal("the image has what is outside of the volume")
		}
	}
	close(stop)
	wg.Wait()
}

func TestBuildSecrets(t *testing.T) {
	b := open(t)
	const secret = "sehr-geheim-4711-wirklich"
	id, spec := b.recipe("# syntax=docker/dockerfile:1\nFROM shell\nRUN --mount=type=secret,id=file --mount=type=secret,id=env,env=TOKEN test \"$(cat /run/secrets/file)\" = \"$TOKEN\" && echo \"it is $TOKEN\" && sleep 1\n", nil)
	spec.Secrets = []engine.BuildSecret{{ID: "file", Value: []byte(secret)}, {ID: "env", Value: []byte(secret)}}
	spec.Provenance = "max"
	done := make(chan engine.BuildResult, 1)
	go func() {
		res, err := b.Build(context.Background(), id, spec)
		if err != nil {
			t.Error(err)
		}
		done <- res
	}()
	// While the step runs it is neither in a command line nor on the disk.
	until(t, "the step runs", func() bool { return strings.Contains(lines(t, spec.Log), "it is ***") })
	procs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, p := range procs {
		if c, _ := os.ReadFile(p); bytes.Contains(c, []byte(secret)) {
			t.Errorf("%s: %q", p, c)
		}
	}
	b.nowhere(t, secret)
	res := <-done
	if res.Failure != "" {
		t.Fatal(res.Failure)
	}
	var out bytes.Buffer
	if err := b.Images().Export(t.Context(), res.Image.Digest, "", &out); err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(out.Bytes(), []byte(secret)) {
		t.Error("it is in the image or its provenance")
	}
	if !bytes.Contains(out.Bytes(), []byte("slsa.dev/provenance")) {
		t.Error("there is no provenance")
	}
	b.nowhere(t, secret)
	if strings.Contains(lines(t, spec.Log), secret) {
		t.Error("it is in the log")
	}
}

// nowhere looks for a text in all of the engine's files.
func (b *bench) nowhere(t *testing.T, text string) {
	t.Helper()
	_ = filepath.WalkDir(b.dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return nil
		}
		if c, _ := os.ReadFile(p); bytes.Contains(c, []byte(text)) {
			t.Errorf("%s has it", p)
		}
		return nil
	})
}

func TestBuildBounds(t *testing.T) {
	b := open(t)
	t.Run("cgroup, score, processes", func(t *testing.T) {
		id, spec := b.recipe("FROM shell\nRUN cat /proc/self/oom_score_adj /proc/self/cgroup; grep NoNewPrivs /proc/self/status; grep Seccomp: /proc/self/status; cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null; cat /sys/fs/cgroup/pids.max /sys/fs/cgroup/memory.max 2>/dev/null; echo --\n", nil)
		spec.Limits = engine.Limits{Memory: 64 << 20, Pids: 77, CPUs: 0.5}
		b.made(id, spec)
		log := lines(t, spec.Log)
		for _, want := range []string{"\n900\n", "\n77\n", "\n67108864\n"} {
			if !strings.Contains(log, want) {
				t.Errorf("no %q in\n%s", want, log)
			}
		}
		// The same with other limits is the same step.
		spec.Limits, spec.Log = engine.Limits{Memory: 32 << 20}, spec.Log+"-again"
		if res := b.made(b.id("build"), spec); res.Cached != res.Steps {
			t.Errorf("%+v", res)
		}
	})
	t.Run("memory", func(t *testing.T) {
		id, spec := b.recipe("FROM shell\nRUN dd if=/dev/zero of=/dev/null bs=128M count=1\n", nil)
		spec.Limits = engine.Limits{Memory: 32 << 20}
		b.fails(id, spec, "memory")
	})
	t.Run("no network", func(t *testing.T) {
		id, spec := b.recipe("FROM shell\nRUN --network=default ip link | grep -c eth0 || true\nRUN ip link | grep -c eth0; true\n", nil)
		spec.NoNetwork = true
		b.made(id, spec)
		if log := lines(t, spec.Log); strings.Contains(log, "\n1\n") {
			t.Errorf("log:\n%s", log)
		}
	})
	t.Run("neither the host's network nor more rights", func(t *testing.T) {
		for _, flag := range []string{"--network=host", "--security=insecure"} {
			id, spec := b.recipe("FROM shell\nRUN "+flag+" true\n", nil)
			b.fails(id, spec)
		}
	})
	t.Run("ADD does not reach this host", func(t *testing.T) {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { t.Errorf("it came: %s", r.URL) }))
		defer s.Close()
		for _, url := range []string{s.URL + "/x", "http://localhost:" + s.URL[strings.LastIndex(s.URL, ":")+1:] + "/x", "http://169.254.169.254/latest/meta-data"} {
			id, spec := b.recipe("FROM shell\nADD "+url+" /x\n", nil)
			b.fails(id, spec, "may not reach")
		}
	})
}

func TestBuildEnds(t *testing.T) {
	b := open(t)
	id, spec := b.recipe("FROM shell\nRUN trap '' TERM; echo begun; sleep 1000\n", nil)
	ctx, cancel := context.WithCancelCause(t.Context())
	done := make(chan time.Duration, 1)
	var from time.Time
	go func() {
		res, err := b.Build(ctx, id, spec)
		if err != nil || res.Reason != engine.ReasonCancel {
			t.Errorf("%+v %v", res, err)
		}
		done <- time.Since(from)
	}()
	until(t, "the step runs", func() bool { return strings.Contains(lines(t, spec.Log), "\nbegun") })
	from = time.Now()
	cancel(errors.New("stop"))
	took := <-done
	t.Logf("cancelled in %s", took)
	if took > 2*time.Second {
		t.Errorf("it took %s", took)
	}
	if left, _ := filepath.Glob("/run/runc/*/state.json"); len(left) > 0 {
		for _, f := range left {
			if s, _ := os.ReadFile(f); bytes.Contains(s, []byte(b.executorRoot())) {
				t.Error("a container is left")
			}
		}
	}
}

func TestPlatforms(t *testing.T) {
	b := open(t)
	id, spec := b.recipe("FROM scratch\nARG TARGETARCH\nCOPY $TARGETARCH /it\nCMD [\"/it\"]\n", map[string]string{"amd64": "a", "arm64": "b"})
	spec.Platforms, spec.Provenance = []string{"linux/amd64", "linux/arm64"}, "min"
	res := b.made(id, spec)
	if got := strings.Join(res.Image.Platforms, " "); got != "linux/amd64 linux/arm64" {
		t.Errorf("platforms: %q", got)
	}
	for _, p := range spec.Platforms {
		img, err := b.Images().Inspect(t.Context(), res.Image.Digest, p)
		if err != nil || img.ConfigDigest == "" {
			t.Errorf("%s: %+v %v", p, img, err)
		}
		if _, _, err := b.rootfs(t.Context(), res.Image.Digest, p); err != nil {
			t.Errorf("%s: %v", p, err)
		}
	}
	id, spec = b.recipe("FROM shell\nRUN true\n", nil)
	spec.Platforms = []string{"linux/arm64"}
	b.fails(id, spec, "shell") // is there for amd64 only
}

// TestCachesApart builds in two workspaces at the same time with a cache mount
// of the same id.
func TestCachesApart(t *testing.T) {
	b := open(t)
	var wg sync.WaitGroup
	for _, w := range []string{"one", "two"} {
		id, spec := b.recipe("FROM shell\nARG WHO\nRUN --mount=type=cache,target=/cache for i in 1 2 3 4 5 6 7 8 9 10; do echo $WHO >> /cache/who; sleep 0.1; done; echo \"cache of $WHO:\" $(cat /cache/who)\n", nil)
		spec.Workspace, spec.Args = w, map[string]string{"WHO": w}
		wg.Go(func() {
			if res, err := b.Build(context.Background(), id, spec); err != nil || res.Failure != "" {
				t.Errorf("%+v %v", res, err)
			}
			log := lines(t, spec.Log)
			other := map[string]string{"one": "two", "two": "one"}[w]
			_, said, _ := strings.Cut(log, "\ncache of ")
			if strings.Contains(said, other) || strings.Count(said, w) < 10 {
				t.Errorf("%s:\n%s", w, log)
			}
		})
	}
	wg.Wait()
	id, spec := b.recipe("FROM shell\nRUN --mount=type=cache,target=/cache echo \"still:\" $(cat /cache/who)\n", nil)
	spec.Workspace = "one"
	b.made(id, spec)
	if log := lines(t, spec.Log); !strings.Contains(log, "still: one one") {
		t.Errorf("the next build of the workspace has\n%s", log)
	}
}

func TestBaseImages(t *testing.T) {
	o := startRegistry(t, true, "token")
	b := open(t, func(opts *Options) { opts.CAs = [][]byte{o.ca} })
	ctx := t.Context()
	ref := o.host + "/team/base"
	for _, tag := range []string{":1", ":latest"} {
		if err := b.Images().Push(ctx, b.base, ref+tag, o.login(rightPassword)); err != nil {
			t.Fatal(err)
		}
	}
	build := func(tag, workspace string, logins []engine.Login) (engine.BuildResult, string) {
		id, spec := b.recipe("FROM "+ref+tag+"\nRUN echo from outside\n", nil)
		spec.Workspace, spec.Logins = workspace, logins
		res, err := b.Build(ctx, id, spec)
		if err != nil {
			t.Fatal(err)
		}
		return res, lines(t, spec.Log)
	}
	if res, log := build(":1", "a", o.login("wrong-0815")); !strings.Contains(res.Failure, "user ann") || !strings.Contains(res.Failure, o.host) || strings.Contains(res.Failure+log, "wrong-0815") {
		t.Errorf("a wrong login: %+v\n%s", res, log)
	}
	if res, _ := build(":1", "a", nil); !strings.Contains(res.Failure, "without a login") {
		t.Errorf("no login: %+v", res)
	}
	if res, log := build(":1", "a", o.login(rightPassword)); res.Failure != "" || !strings.Contains(log, "pulled") {
		t.Errorf("%+v\n%s", res, log)
	}
	// It is there now, so nobody is asked; but not for another workspace.
	n := o.requests("HEAD")
	if res, log := build(":1", "a", nil); res.Failure != "" || o.requests("HEAD") != n || strings.Contains(log, "pull") {
		t.Errorf("again: %+v\n%s", res, log)
	}
	if res, _ := build(":1", "b", nil); res.Failure == "" {
		t.Errorf("another workspace uses it without a login: %+v", res)
	}
	if res, _ := build("@"+b.base, "b", nil); res.Failure == "" {
		t.Errorf("another workspace uses it by its digest: %+v", res)
	}
	// latest is asked for every time, and taken as it is if nobody answers.
	if res, _ := build(":latest", "a", o.login(rightPassword)); res.Failure != "" {
		t.Errorf("latest: %+v", res)
	}
	n = o.requests("HEAD")
	if res, _ := build("", "a", o.login(rightPassword)); res.Failure != "" || o.requests("HEAD") == n {
		t.Errorf("latest again: %+v", res)
	}
	o.stop(true)
	if res, log := build(":latest", "a", o.login(rightPassword)); res.Failure != "" || !strings.Contains(log, "is taken as it is here") {
		t.Errorf("latest of a registry that is down: %+v\n%s", res, log)
	}
	if res, _ := build(":2", "a", o.login(rightPassword)); !strings.Contains(res.Failure, "out of order") {
		t.Errorf("another tag of a registry that is down: %+v", res)
	}
}

func TestCacheBounds(t *testing.T) {
	b := open(t)
	for i := range 3 {
		id, spec := b.recipe(fmt.Sprintf("FROM shell\nRUN dd if=/dev/zero of=/big bs=1M count=%d\n", 20+i), nil)
		spec.Workspace = fmt.Sprintf("w%d", i)
		b.made(id, spec)
		if err := b.Images().Release(t.Context(), "build/"+id); err != nil {
			t.Fatal(err)
		}
	}
	usage := func(w string) (n int64) {
		list, err := b.CacheUsage(t.Context(), w)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range list {
			n += r.Size
		}
		return n
	}
	a, c := usage("w0"), usage("w2")
	if a < 20<<20 || c < 20<<20 {
		t.Fatalf("usage %d and %d", a, c)
	}
	if err := b.builder.collect(t.Context(), 60<<20); err != nil {
		t.Fatal(err)
	}
	a2, c2 := usage("w0"), usage("w2")
	if a2 >= a || c2 != c {
		t.Errorf("the oldest had %d, now %d; the newest %d, now %d", a, a2, c, c2)
	}
	n, err := b.ClearCache(t.Context(), "w2")
	if err != nil || n < 20<<20 || usage("w2") > 1<<20 {
		t.Errorf("cleared %d, left %d: %v", n, usage("w2"), err)
	}
	if list, err := b.CacheUsage(t.Context(), "never built"); err != nil || len(list) > 0 {
		t.Errorf("%v %v", list, err)
	}
}

// TestDamagedCache opens a workspace whose databases are broken.
func TestDamagedCache(t *testing.T) {
	b := open(t)
	id, spec := b.recipe("FROM shell\nRUN echo x > /x\nCMD [\"/bin/cat\",\"/x\"]\n", nil)
	first := b.made(id, spec)
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{"cache.db", "metadata_v2.db"} {
		if err := os.WriteFile(b.path("build", "w", "w", f), bytes.Repeat([]byte("broken"), 10000), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(b.path(dirtyMark), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	b.reopen()
	if out := b.says(first.Image.Digest); out != "x" {
		t.Errorf("the image of before says %q", out)
	}
	spec.Log += "-again"
	if res := b.made(id, spec); res.Cached != 0 {
		t.Errorf("%+v", res)
	}
}

func TestBlobsOfManifests(t *testing.T) {
	b := open(t)
	ctx := t.Context()
	d := b.tiny("subject")
	upload := func(body string) string {
		w, err := b.Blobs().Create(ctx, b.id("up"))
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		_, _ = io.WriteString(w, body)
		sum := digestOf(body)
		if err := w.Commit(ctx, sum); err != nil {
			t.Fatal(err)
		}
		return sum
	}
	cfg := upload("{}")
	size, err := b.Blobs().Stat(ctx, d)
	if err != nil {
		t.Fatal(err)
	}
	body := fmt.Sprintf(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","artifactType":"test/signature","config":{"mediaType":"application/vnd.oci.empty.v1+json","digest":%q,"size":2},"layers":[],"subject":{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":%q,"size":%d}}`, cfg, d, size)
	signature, err := b.Blobs().PutManifest(ctx, "application/vnd.oci.image.manifest.v1+json", []byte(body))
	if err != nil {
		t.Fatal(err)
	}
	b.collectNow(t)
	if _, err := b.Blobs().Stat(ctx, signature); err != nil {
		t.Errorf("the signature went while its subject is held: %v", err)
	}
	if err := b.Images().Release(ctx, "test/"+d); err != nil {
		t.Fatal(err)
	}
	b.collectNow(t)
	if _, err := b.Blobs().Stat(ctx, signature); !errdefs.IsNotFound(err) {
		t.Errorf("the signature outlives its subject: %v", err)
	}
}
