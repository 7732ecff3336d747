package local

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
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
	id, spec := b.recipe("FROM shell AS one\nRUN echo to stdout; echo to stderr >&2; printf unfinished\nFROM shell\nMAINTAINER nobody\nCOPY --from=one /etc/passwd /p\nCOPY a /a\n", map[string]string{"a": "x"})
	spec.Name = "w/app:1"
	b.made(id, spec)
	log := lines(t, spec.Log)
	for _, want := range []string{"[one 2/2] RUN echo to stdout", "\nto stdout\n", "\nto stderr\n", "\nunfinished\n", "COPY --from=one /etc/passwd /p", "COPY a /a", " DONE ", "w/app:1", "warning: MaintainerDeprecated", "(line 4)"} {
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
	if text := base64.StdEncoding.EncodeToString([]byte("# syntax=docker/dockerfile:1\nFROM shell\n"))[:40]; !bytes.Contains(out.Bytes(), []byte(text)) {
		t.Error("the provenance has no Dockerfile")
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
	if res, log := build(":1", "a", o.login("wrong-0815")); !res.Refused || !strings.Contains(res.Failure, "user ann") || !strings.Contains(res.Failure, o.host) || strings.Contains(res.Failure+log, "wrong-0815") {
		t.Errorf("a wrong login: %+v\n%s", res, log)
	}
	if res, _ := build(":1", "a", nil); !res.Refused || !strings.Contains(res.Failure, "without a login") {
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
	if res, _ := build(":2", "a", o.login(rightPassword)); res.Refused || !strings.Contains(res.Failure, "out of order") {
		t.Errorf("another tag of a registry that is down: %+v", res)
	}
}

// TestBuildUsage: what the commands of a build needed is told, and their groups
// are gone.
func TestBuildUsage(t *testing.T) {
	b := open(t)
	id, spec := b.recipe("FROM shell\nRUN head -c 100000000 /dev/zero | tail -c 90000000 | wc -c\nRUN true\n", nil)
	res := b.made(id, spec)
	if res.Used.Memory < 90_000_000 || res.Used.CPU <= 0 || res.Used.CPU > time.Minute {
		t.Errorf("%+v", res.Used)
	}
	if left := b.cgroups.children(b.workCgroup()); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	bad := b.id("build")
	spec.Source = b.source(map[string]string{"Dockerfile": "FROM shell\nRUN head -c 50000000 /dev/zero | tail -c 40000000 >/dev/null; exit 3\n"})
	failed, err := b.Build(t.Context(), bad, spec)
	if err != nil || failed.Failure == "" || failed.Used.Memory < 40_000_000 {
		t.Errorf("one that fails: %+v %v", failed, err)
	}
}

// TestBuildSteps: which steps the cache had, what each takes, and which files
// were written since the build before.
func TestBuildSteps(t *testing.T) {
	b := open(t)
	const text = "ARG Z=1\nFROM shell AS one\nARG A=x\nRUN echo $A > /made\nFROM shell\nCOPY --from=one /made /made\nCOPY page sub/*.txt /page/\nRUN true\n"
	id, spec := b.recipe(text, map[string]string{"page/a": "1", "page/b": "1", "sub/c.txt": "1", "sub/d.md": "1"})
	words := func(r engine.BuildResult) string {
		var l []string
		for i, s := range r.List {
			word := fmt.Sprintf("%d %s %d/%d %s after%v", i, s.Stage, s.Index, s.Of, s.Text, s.After)
			if s.Cached {
				word += " cached"
			}
			if s.Copies {
				word += " from " + s.From
			}
			if s.Written != nil {
				word += fmt.Sprint(" written ", s.Written)
			}
			l = append(l, word)
		}
		return strings.Join(l, "\n")
	}
	first := b.made(id, spec)
	expect := func(r engine.BuildResult, want string) {
		t.Helper()
		got := regexp.MustCompile(`docker.io/library/shell\S*`).ReplaceAllString(words(r), "shell")
		if got = strings.TrimSuffix(got, " cached"); strings.TrimSpace(got) != strings.TrimSpace(want) {
			t.Errorf("steps\n%s\nwant\n%s", got, want)
		}
	}
	expect(first, `
0 one 1/2 FROM shell after[]
1 one 2/2 RUN echo x > /made after[0]
2 stage-1 2/4 COPY --from=one /made /made after[0 1] from one
3 stage-1 3/4 COPY page sub/*.txt /page/ after[2] from 
4 stage-1 4/4 RUN true after[3]`)
	for _, f := range []string{"page/b", "sub/c.txt", "sub/d.md"} {
		if err := b.Volumes().Put(t.Context(), spec.Source.Volume, "/", bytes.NewReader(enginetest.Tar(t, nil, nil, map[string][]byte{f: []byte("22")}))); err != nil {
			t.Fatal(err)
		}
	}
	expect(b.made(b.id("build"), spec), `
0 one 1/2 FROM shell after[]
1 one 2/2 RUN echo x > /made after[0] cached
2 stage-1 2/4 COPY --from=one /made /made after[0 1] cached
3 stage-1 3/4 COPY page sub/*.txt /page/ after[2] from  written [page/b sub/c.txt]
4 stage-1 4/4 RUN true after[3]`)
	spec.Args = map[string]string{"A": "y"}
	arg := b.made(b.id("build"), spec)
	if fmt.Sprint(arg.Args) != "[Z A]" || !strings.HasPrefix(arg.Text, "sha256:") || arg.List[1].Text != "RUN echo y > /made" || arg.List[1].Cached {
		t.Errorf("another argument: %v\n%s", arg.Args, words(arg))
	}
}
