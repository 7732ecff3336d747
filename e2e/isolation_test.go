package e2e

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/crane"
	"github.com/klauspost/compress/zstd"
)

// TestIsolation lets a run action and a RUN of a build try what they must not
// reach.
func TestIsolation(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	// A server that can be reached at every address, loopback included.
	s.terminate()
	_, port, _ := net.SplitHostPort(s.listen)
	_, ingress, _ := net.SplitHostPort(s.ingress)
	s.listen = "0.0.0.0:" + port
	s.start(nil, "--public-url", s.URL)
	s.listen = "127.0.0.1:" + port
	s.give(tool(t, "isolation"), "default/tool:1")
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()

	// Another project's service, which this host does reach.
	victim := s.job("victim")
	if err := victim.makeProject(ctx); err != nil {
		t.Fatal(err)
	}
	if err := victim.host(ctx, "web", "slipway.local/default/tool:1"); err != nil {
		t.Fatal(err)
	}
	var st struct{ Prefix string }
	s.must("GET", victim.stackPath(), nil, &st)
	if st.Prefix == "" {
		t.Fatal("the stack has no prefix")
	}
	v, err := victim.running(ctx, "web")
	if err != nil {
		t.Fatal(err)
	}
	var address string
	until(t, 20*time.Second, "the service says where it is", func() error {
		var said string
		if err := s.Do(ctx, "GET", victim.stackPath()+"/services/"+v.ID+"/logs", nil, &said); err != nil {
			return err
		}
		for line := range strings.Lines(said) {
			if _, rest, ok := strings.Cut(line, "addresses "); ok && len(strings.Fields(rest)) > 0 {
				address = strings.Trim(strings.Fields(rest)[0], `"\`)
				return nil
			}
		}
		return fmt.Errorf("it says %q", said)
	})

	// Something of the host that listens everywhere, as sshd does.
	host, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer host.Close()
	_, sshd, _ := net.SplitHostPort(host.Addr().String())

	// On this host the same program does reach them, and says so.
	open := []string{address + ":8080", "127.0.0.1:" + port, "127.0.0.1:" + ingress, "127.0.0.1:" + sshd}
	until(t, 20*time.Second, "this host reaches them", func() error {
		out, err := exec.CommandContext(ctx, probeProgram, append([]string{"dial"}, open...)...).CombinedOutput()
		if err == nil && strings.Count(string(out), "REACHED") != len(open) {
			err = fmt.Errorf("it says %s", out)
		}
		return err
	})

	list := []string{
		"127.0.0.1:" + port, "localhost:" + port, "[::1]:" + port, "127.0.0.1:" + ingress, "127.0.0.1:" + sshd, "[::1]:" + sshd, "0.0.0.0:" + port,
		"169.254.169.254:80", address + ":8080", "web:8080", "web.victim:8080", "web." + st.Prefix + ":8080",
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		ip, ok := a.(*net.IPNet)
		if !ok || ip.IP.IsLoopback() || ip.IP.IsLinkLocalUnicast() {
			continue
		}
		for _, p := range []string{port, sshd, ingress} {
			list = append(list, net.JoinHostPort(ip.IP.String(), p))
		}
	}
	shut := func(d done) {
		t.Helper()
		d.ok(t, fmt.Sprintf("tried %d", len(list)))
		for line := range strings.Lines(d.text()) {
			if strings.Contains(line, "REACHED") {
				t.Errorf("%s: %s", d.name, line)
			}
		}
	}
	shut(s.one("action", nil, runs("slipway.local/default/tool", "1", "/probe dial "+strings.Join(list, " "))))
	argv, err := json.Marshal(append([]string{"/probe", "dial"}, list...))
	if err != nil {
		t.Fatal(err)
	}
	shut(s.one("build", map[string]string{"Dockerfile": "FROM slipway.local/default/tool:1\nRUN " + string(argv) + "\n"}, build()))
	// Nor does a service of another project, on a network of its own.
	other := s.job("other")
	if err := other.makeProject(ctx); err != nil {
		t.Fatal(err)
	}
	if err := s.Do(ctx, "PUT", other.stackPath(), map[string]any{"services": map[string]any{"dial": map[string]any{
		"image": "slipway.local/default/tool:1", "description": "dial", "entrypoint": []string{"/probe"}, "command": append([]string{"dial"}, list...), "restartPolicy": "no",
	}}}, nil); err != nil {
		t.Fatal(err)
	}
	var said string
	until(t, 30*time.Second, "the service has tried all", func() error {
		l, err := other.service(ctx, "dial")
		if err != nil || l.ID == "" {
			return errYet
		}
		if err := s.Do(ctx, "GET", other.stackPath()+"/services/"+l.ID+"/logs", nil, &said); err != nil {
			return err
		}
		if !strings.Contains(said, fmt.Sprintf("tried %d", len(list))) {
			return fmt.Errorf("it says %s", said)
		}
		return nil
	})
	if strings.Contains(said, "REACHED") {
		t.Errorf("a service reaches: %s", said)
	}
}

// secrets are values that must not be seen, with what they are.
type secrets map[string]string

// in tells which of them are in a text, as they are or written otherwise.
func (l secrets) in(b []byte) []string {
	var found []string
	for what, v := range l {
		for how, w := range map[string]string{
			"plain": v, "hex": hex.EncodeToString([]byte(v)), "base64": base64.StdEncoding.EncodeToString([]byte(v)),
			"as a login": strings.TrimRight(base64.StdEncoding.EncodeToString([]byte("ann:"+v)), "="),
		} {
			if bytes.Contains(b, []byte(w)) {
				found = append(found, what+" ("+how+")")
			}
		}
	}
	slices.Sort(found)
	return found
}

// watchArgv looks at the arguments of every process until the end is called,
// which gives those that show a secret.
func (l secrets) watchArgv() (end func() []string) {
	stop := make(chan struct{})
	seen := map[string]bool{}
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(2 * time.Millisecond)
		defer tick.Stop()
		for {
			dirs, _ := os.ReadDir("/proc")
			for _, d := range dirs {
				if n := d.Name(); n[0] < '0' || n[0] > '9' {
					continue
				}
				b, err := os.ReadFile("/proc/" + d.Name() + "/cmdline")
				if found := l.in(b); err == nil && len(found) > 0 {
					seen[fmt.Sprintf("%v in %q", found, b)] = true
				}
			}
			select {
			case <-tick.C:
			case <-stop:
				return
			}
		}
	})
	return func() (all []string) {
		close(stop)
		wg.Wait()
		for s := range seen {
			all = append(all, s)
		}
		return all
	}
}

// inFile looks into a file, and into what is compressed in it.
func (l secrets) inFile(name string) []string {
	b, err := os.ReadFile(name)
	if err != nil {
		return nil // it went meanwhile
	}
	found := l.in(b)
	if r, err := gzip.NewReader(bytes.NewReader(b)); err == nil {
		text, _ := io.ReadAll(r)
		found = append(found, l.in(text)...)
	}
	if z, err := zstd.NewReader(bytes.NewReader(b)); err == nil {
		text, _ := io.ReadAll(z)
		z.Close()
		found = append(found, l.in(text)...)
	}
	return found
}

// TestSecretsStay uses a build secret, encrypted variables and a registry
// password, and looks for them everywhere.
func TestSecretsStay(t *testing.T) {
	t.Parallel()
	hidden := secrets{
		"build secret": "build-9f2c71d04be8-word", "variable": "variable-51ab77c0e39d-word", "password": "password-c7301fe9a2b4-word", "start": "start-77e0aa913f5c-word",
		"workspace": "workspace-1f7ac3d9e024-word", "project": "project-83be0f47a15d-word", "pipeline": "pipeline-d4402ac9f7b6-word", "file": "file-6a95ed13c870-word",
		"hub": "hub-20fd7be48c39-word", "amazon": "amazon-b97e5041fa2c-word", "google": "google-3c8d16a0e5f7-word", "webhook": "webhook-e81d4c06b3a9-word",
	}
	ca := newAuthority(t)
	o := newOutside(t, ca, "basic", hidden["password"])
	o.push(tool(t, "secret"), "tool:1")
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, ca.pem(), 0o600); err != nil {
		t.Fatal(err)
	}
	s := newServer(t, "--registry-ca", file)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	end := hidden.watchArgv()

	login := []any{"docker_registry", "OTHER", "registry", o.host, "login", "ann", "password", hidden["password"]}
	token := []any{
		"variables",
		[]any{map[string]any{"key": "TOKEN", "value": hidden["build secret"], "encrypted": true}},
		"secrets",
		[]any{map[string]any{"id": "token", "value": "TOKEN", "type": "ENV"}},
	}
	j := s.job("quiet",
		with(build(), append(append([]any{"repository", "made", "provenance", "MAX", "build_args", []string{"PLAIN=seen"}}, token...), login...)...),
		with(build(), append(append([]any{"name", "Again", "provenance", "MAX"}, token...), login...)...),
		runs("tool", "1", "/probe tell /etc/kept", append([]any{"variables", []any{map[string]any{"key": "QUIET", "value": hidden["variable"], "encrypted": true}}}, login...)...),
	)
	var stored []string
	for _, f := range []func() error{
		func() error { return j.makeProject(ctx) },
		func() error { return j.makePipeline(ctx) },
		func() error { stored = s.store(hidden, j); return nil },
		func() error {
			return j.commit(ctx, map[string]string{"Dockerfile": "FROM " + o.host + "/tool:1\nARG PLAIN\n" +
				"RUN --mount=type=secret,id=token [\"/probe\", \"tell\", \"/run/secrets/token\"]\n"})
		},
		func() error { return j.push(ctx) },
		func() error { _, err := j.finish(ctx); return err },
		func() error { // another one, with a secret of its own
			return s.Do(ctx, "POST", j.pipelinePath()+"/executions", map[string]any{
				"variables": []any{map[string]any{"key": "STARTED", "value": hidden["start"], "encrypted": true}},
			}, nil)
		},
	} {
		if err := f(); err != nil {
			t.Fatal(err)
		}
	}
	e, err := j.finish(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range end() {
		t.Errorf("arguments of a process: %s", l)
	}
	answers := []string{"", "/actions", "/executions"}
	for n := int64(1); n <= e.ID; n++ {
		x, err := j.execution(ctx, n)
		if err != nil || x.Status != "SUCCESSFUL" {
			t.Fatalf("%v: %s", err, x)
		}
		answers = append(answers, fmt.Sprintf("/executions/%d", n))
		for _, st := range x.Steps {
			l, err := j.log(ctx, n, st)
			if err != nil {
				t.Fatal(err)
			}
			text := strings.Join(l, "\n")
			if found := hidden.in([]byte(text)); len(found) > 0 || !strings.Contains(text, "***") && !strings.Contains(text, "CACHED") {
				t.Errorf("the log of %s shows %v: %s", st.Action.Name, found, text)
			}
			if strings.Contains(text, "!encrypted") {
				t.Errorf("the text that stands for a secret became one: %s", text)
			}
		}
	}
	for i := range answers {
		answers[i] = j.pipelinePath() + answers[i]
	}
	for _, p := range append(answers, stored...) {
		var said string
		s.must("GET", p, nil, &said)
		if found := hidden.in([]byte(said)); len(found) > 0 {
			t.Errorf("GET %s shows %v", p, found)
		}
	}
	// The image as it was pushed: config, history, layers, provenance.
	found, parts, err := hidden.inImage(o.host+"/made:latest", o.opts)
	if err != nil || len(found) > 0 || !strings.Contains(parts, "in-toto") || !strings.Contains(parts, "PLAIN") {
		t.Errorf("the image shows %v (%v), in %s", found, err, parts)
	}
	s.terminate() // what was only in memory is on disk now
	if found := hidden.in([]byte(s.said())); len(found) > 0 {
		t.Errorf("the server's log shows %v", found)
	}
	n := 0
	err = filepath.WalkDir(s.data, func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return nil //nolint:nilerr // it went meanwhile
		}
		n++
		if found := hidden.inFile(p); len(found) > 0 {
			t.Errorf("%s holds %v", strings.TrimPrefix(p, s.data), found)
		}
		return nil
	})
	if err != nil || n < 20 {
		t.Errorf("%d files, %v", n, err)
	}
}

// store has the server keep secrets of every other kind, sends what it says of
// them back as a client does that changes something else, and gives the addresses
// where it tells of them.
func (s *server) store(hidden secrets, j *job) (told []string) {
	s.t.Helper()
	heard := httptest.NewServer(http.NotFoundHandler()) // what it is sent is kept, and that it failed
	s.t.Cleanup(heard.Close)
	const of = "/workspaces/default"
	project, pipeline := map[string]any{"name": j.name}, map[string]any{"id": j.pipeline}
	for _, made := range []struct {
		list, secret string
		object       map[string]any
	}{
		{"/variables", "value", map[string]any{"key": "OF_WORKSPACE", "value": hidden["workspace"], "encrypted": true}},
		{"/variables", "value", map[string]any{"key": "OF_PROJECT", "value": hidden["project"], "encrypted": true, "project": project}},
		{"/variables", "value", map[string]any{"key": "OF_PIPELINE", "value": hidden["pipeline"], "encrypted": true, "pipeline": pipeline}},
		{"/variables", "value", map[string]any{
			"key": "OF_FILE", "value": hidden["file"], "encrypted": true, "type": "FILE", "file_place": "CONTAINER", "file_path": "/etc/kept", "file_chmod": "600", "project": project,
		}},
		{"/integrations", "password", map[string]any{"name": "hub", "type": "DOCKER_HUB", "scope": "WORKSPACE", "username": "ann", "password": hidden["hub"]}},
		{"/integrations", "secret_key", map[string]any{"name": "amazon", "type": "AMAZON", "scope": "WORKSPACE", "access_key": "AKID", "secret_key": hidden["amazon"]}},
		{"/integrations", "api_key", map[string]any{"name": "google", "type": "GOOGLE_SERVICE_ACCOUNT", "scope": "WORKSPACE", "api_key": hidden["google"]}},
		{"/webhooks", "secret_key", map[string]any{"target_url": heard.URL, "events": []string{"PUSH", "EXECUTION_FINISHED"}, "secret_key": hidden["webhook"]}},
	} {
		var it struct {
			URL string
		}
		s.must("POST", of+made.list, made.object, &it)
		at, err := url.Parse(it.URL)
		if err != nil {
			s.t.Fatal(err)
		}
		change := maps.Clone(made.object)
		change[made.secret] = "!encrypted"
		s.must("PATCH", at.Path, change, nil)
		told = append(told, of+made.list, at.Path)
	}
	return append(told, of+"/variables?projectName="+j.name, fmt.Sprintf("%s/variables?pipelineId=%d", of, j.pipeline), j.path())
}

// inImage looks into every manifest and blob of an image.
func (l secrets) inImage(ref string, opts []crane.Option) (found []string, parts string, err error) {
	var look func(ref string) error
	repo := ref[:strings.LastIndexAny(ref, ":@")]
	look = func(ref string) error {
		b, err := crane.Manifest(ref, opts...)
		if err != nil {
			return err
		}
		found = append(found, l.in(b)...)
		parts += string(b)
		var m struct {
			Manifests, Layers []struct{ Digest, MediaType string }
			Config            struct{ Digest string }
		}
		if err := json.Unmarshal(b, &m); err != nil {
			return err
		}
		for _, d := range m.Manifests {
			if err := look(repo + "@" + d.Digest); err != nil {
				return err
			}
		}
		if m.Config.Digest != "" {
			m.Layers = append(m.Layers, struct{ Digest, MediaType string }{m.Config.Digest, "config json"})
		}
		for _, d := range m.Layers {
			blob, err := crane.PullLayer(repo+"@"+d.Digest, opts...)
			if err != nil {
				return err
			}
			r, err := blob.Compressed()
			if err != nil {
				return err
			}
			b, err := io.ReadAll(r)
			_ = r.Close()
			if err != nil {
				return err
			}
			if z, err := gzip.NewReader(bytes.NewReader(b)); err == nil {
				if b, err = io.ReadAll(z); err != nil {
					return err
				}
			}
			found = append(found, l.in(b)...)
			if strings.Contains(d.MediaType, "json") {
				parts += string(b)
			}
		}
		return nil
	}
	return found, parts, look(ref)
}
