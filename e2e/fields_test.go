package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/crane"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
)

// shown is an action that shows what one of its fields does. The field is the
// name of the action and of the test; what comes behind a space tells apart
// those of the same field.
type shown struct {
	action map[string]any
	status string // "" is SUCCESSFUL
	says   string // in its log or its message
	never  string // in neither
}

// TestFields shows what each field of an action does, in a container or a build.
// docs/buddy.md names these tests.
func TestFields(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	o := newOutside(t, ca, "", "")
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, ca.pem(), 0o600); err != nil {
		t.Fatal(err)
	}
	s := newServer(t, "--registry-ca", file)
	s.give(noted(t, "one"), "default/shell:1")
	s.give(noted(t, "two"), "default/shell:2")
	s.give(noted(t, "other"), "default/other:1")
	t.Run("run", s.showRuns)
	t.Run("stages", s.showStages)
	t.Run("approval", s.showApproval)
	t.Run("asked", s.showAsked)
	t.Run("build", func(t *testing.T) { s.showBuilds(t, "builds", "DOCKERFILE", o) })
	t.Run("multi", func(t *testing.T) { s.showBuilds(t, "multi", "DOCKER_BUILD_MULTI_ARCH", o) })
	t.Run("copies", s.showCopies)
	t.Run("pipeline", s.showPipeline)
	t.Run("cache_scope", s.showCacheScopes)
}

// noted is the image with a shell, and a note in it.
func noted(t *testing.T, note string) v1.Image {
	t.Helper()
	layer, err := crane.Layer(map[string][]byte{"note": []byte("the note is " + note + "\n")})
	if err != nil {
		t.Fatal(err)
	}
	img, err := mutate.AppendLayers(shell(t), layer)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// sh runs commands in the image with a shell.
func sh(name, commands string, more ...any) map[string]any {
	return runs("slipway.local/default/shell", "1", "", append([]any{"name", name, "inline_commands", commands}, more...)...)
}

func variable(key, value string) map[string]any { return map[string]any{"key": key, "value": value} }

// show runs the actions in a project with these files and holds each to what it
// is to come to. alter changes the pipeline before it is started.
func (s *server) show(t *testing.T, project string, files map[string]string, all []shown, alter func(*job)) (*job, execution) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	j := s.job(project)
	for _, a := range all {
		j.actions = append(j.actions, a.action)
	}
	e := j.started(ctx, t, files, alter)
	steps := map[string]step{}
	for _, st := range e.Steps {
		steps[st.Action.Name] = st
	}
	for _, a := range all {
		name := a.action["name"].(string)
		t.Run(name, func(t *testing.T) {
			st, ok := steps[name]
			if !ok {
				t.Fatalf("it is not in %s", e)
			}
			l, err := j.log(ctx, e.ID, st)
			if err != nil {
				t.Fatal(err)
			}
			text := strings.Join(append(l, st.ErrorMessage), "\n")
			if a.status == "" {
				a.status = "SUCCESSFUL"
			}
			if st.Status != a.status || !strings.Contains(text, a.says) || a.never != "" && strings.Contains(text, a.never) {
				t.Errorf("it is %s, not %s with %q and without %q: %s", st.Status, a.status, a.says, a.never, text)
			}
		})
	}
	return j, e
}

// started makes the project with its files and its pipeline, and runs that once.
func (j *job) started(ctx context.Context, t *testing.T, files map[string]string, alter func(*job)) (e execution) {
	t.Helper()
	for _, f := range []func() error{
		func() error { return j.commit(ctx, files) },
		func() error { return j.makeProject(ctx) },
		func() error { return j.push(ctx) },
		func() error { return j.makePipeline(ctx) },
		func() error {
			if alter != nil {
				alter(j)
			}
			return nil
		},
		func() (err error) { e, err = j.again(ctx, nil); return err },
	} {
		if err := f(); err != nil {
			t.Fatal(err)
		}
	}
	return e
}

// again runs the pipeline once more, to its end.
func (j *job) again(ctx context.Context, start map[string]any) (e execution, err error) {
	if start == nil {
		start = map[string]any{}
	}
	if err := j.s.Do(ctx, "POST", j.pipelinePath()+"/executions", start, nil); err != nil {
		return e, err
	}
	return j.finish(ctx)
}

func (s *server) showRuns(t *testing.T) {
	const here = "/buddy/runs"
	meet := "touch %s; i=0; until test -e %s; do i=$((i + 1)); test $i -lt 200; busybox sleep 0.05; done; echo met"
	all := []shown{
		{action: runs("slipway.local/default/other", "1", "", "name", "docker_image_name", "inline_commands", "cat /note"), says: "the note is other"},
		{action: runs("slipway.local/default/shell", "2", "", "name", "docker_image_tag", "inline_commands", "cat /note"), says: "the note is two"},
		{action: sh("inline_commands", "echo first\npwd\n"), says: "first\n" + here},
		{action: sh("inline_commands long", "OUTPUT_LONG=it\n: "+strings.Repeat("x", 1<<20-100)+"\nexport OUTPUT_LONG; echo long; ("+"exit 3)\necho never", "ignore_errors", true), status: "FAILED", says: "long", never: "never"},
		{action: sh("inline_commands after", "echo long is $OUTPUT_LONG"), says: "long is it"},
		{action: sh("inline_commands fail", "echo before\nfalse\necho never\n", "ignore_errors", true), status: "FAILED", says: "before", never: "never"},
		{action: sh("entrypoint", "one 'two three'", "entrypoint", `/bin/busybox printf "[%s]"`), says: "[one][two three]"},
		{action: sh("run_as_user", "busybox id -u; echo mine > owned", "run_as_user", "$WHO", "variables", []any{variable("WHO", "4321")}), says: "4321"},
		{action: sh("run_as_user unknown", "echo never", "run_as_user", "nobody-here", "ignore_errors", true), status: "FAILED", says: "nobody-here", never: "never"},
		{action: sh("mount_filesystem_disable", "test ! -e /buddy && echo nothing is mounted", "mount_filesystem_disable", true), says: "nothing is mounted"},
		{action: sh("volume_mappings", "cat /src/hello; echo made > /out/file; test ! -e /buddy", "volume_mappings", []string{"/:/src", "/made/here:/out"}), says: "hello of the repository"},
		{action: sh("volume_mappings text", "cat /whole/made/here/file", "volume_mappings", "/:/whole"), says: "made"},
		{action: sh("export_container_path", "echo new > /of-the-container", "export_container_path", "/exports/all.tar"), says: ""},
		{action: sh("export_container_path file", "busybox tar xOf exports/all.tar of-the-container"), says: "new"},
		{action: sh("variables", "echo \"[$WORD]\"", "variables", []any{variable("WORD", "of $BUDDY_PIPELINE_NAME")}), says: "[of Work]"},
		{action: sh("variables file", "cat /etc/app.conf; echo at $CONF", "variables", []any{map[string]any{
			"key": "CONF", "type": "FILE", "value": "x=1", "file_place": "CONTAINER", "file_path": "/etc/app.conf",
		}}), says: "x=1at /etc/app.conf"},
		{action: sh("disabled", "echo never", "disabled", true), status: "SKIPPED", never: "never"},
		{action: sh("ignore_errors", "exit 3", "ignore_errors", true), status: "FAILED", says: "3"},
		{action: sh("timeout", "busybox sleep 60", "timeout", 1, "ignore_errors", true), status: "FAILED", says: "timeout of 1s"},
		{action: sh("retry_count", "echo x >> tries; test $(busybox wc -l < tries) = 3 && echo third", "retry_count", 2), says: "third"},
		{action: sh("retry_interval", "busybox cut -d. -f1 /proc/uptime >> times; busybox awk 'NR==1{a=$1} END{exit $1-a<2}' times; echo waited",
			"retry_count", 1, "retry_interval", 2), says: "waited"},
		{action: sh("loop", "echo $COLOR $SIZE", "loop", []string{"COLOR", "SIZE"}, "variables", []any{variable("COLOR", "red,blue"), variable("SIZE", "s,m")}), says: "blue m"},
		{action: sh("trigger_conditions", "echo never", "trigger_conditions", []any{map[string]any{
			"trigger_condition": "VAR_IS", "trigger_variable_key": "BUDDY_PIPELINE_NAME", "trigger_variable_value": "Play",
		}}), status: "SKIPPED", never: "never\n"},
		{action: sh("run_next", fmt.Sprintf(meet, "a", "b"), "run_next", "IN_HARD_PARALLEL"), says: "met"},
		{action: sh("run_next other", fmt.Sprintf(meet, "b", "a")), says: "met"},
		{action: sh("after_action_id", "echo begun > begun; cat hello", "after_action_id", 0), says: "hello"},
	}
	j, e := s.show(t, "runs", map[string]string{"hello": "hello of the repository\n"}, all, nil)
	if e.Status != "SUCCESSFUL" || e.Steps[0].Action.Name != "after_action_id" {
		t.Errorf("the execution is %s", e)
	}
	t.Run("current_revision", func(t *testing.T) {
		var l struct {
			Actions []struct {
				Name string
				Last string `json:"current_revision"`
			}
		}
		s.must("GET", j.pipelinePath()+"/actions", nil, &l)
		head, err := j.git(t.Context(), "rev-parse", "HEAD")
		if err != nil {
			t.Fatal(err)
		}
		wants := map[string]string{"inline_commands": strings.TrimSpace(head), "timeout": "", "disabled": ""}
		for _, a := range l.Actions {
			if want, ok := wants[a.Name]; ok && a.Last != want {
				t.Errorf("%s has %q, want %q", a.Name, a.Last, want)
			}
		}
	})
}

// showStages runs a pipeline that fails, fails again, succeeds, warns and is
// cancelled.
func (s *server) showStages(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	at := func(name, when string, more ...any) map[string]any {
		return sh(name, "echo here", append([]any{"trigger_time", when}, more...)...)
	}
	j := s.job("stages",
		sh("chain", `test "$HOW" != fail; test "$HOW" != hold || busybox sleep 60`),
		sh("soft", `test "$HOW" != warn`, "ignore_errors", true),
		at("success", "ON_SUCCESS"), at("back", "ON_BACK_TO_SUCCESS"), at("warning", "ON_WARNING"), at("terminate", "ON_TERMINATE"),
		at("first failure", "ON_FAILURE", "run_only_on_first_failure", true), at("failure", "ON_FAILURE", "run_only_on_first_failure", false))
	how := func(word string) map[string]any {
		return map[string]any{"variables": []any{variable("HOW", word)}}
	}
	for _, f := range []func() error{
		func() error { return j.makeProject(ctx) },
		func() error { return j.makePipeline(ctx) },
	} {
		if err := f(); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct{ how, ran string }{
		{"fail", "first failure,failure"},
		{"fail", "failure"},
		{"", "chain,soft,success,back"},
		{"", "chain,soft,success"},
		{"warn", "chain,success,warning"},
	} {
		e, err := j.again(ctx, how(c.how))
		if err != nil {
			t.Fatal(err)
		}
		if got := e.ran(); got != c.ran {
			t.Errorf("%q: %s have run, not %s: %s", c.how, got, c.ran, e)
		}
	}
	s.must("POST", j.pipelinePath()+"/executions", how("hold"), nil)
	until(t, 30*time.Second, "it runs", func() error {
		l, err := j.executions(ctx)
		if err != nil {
			return err
		}
		if e, err := j.execution(ctx, l[0]); err != nil || len(e.Steps) == 0 || e.Steps[0].Status != "INPROGRESS" {
			return fmt.Errorf("%w: %s", errYet, e)
		}
		return s.Do(ctx, "PATCH", fmt.Sprintf("%s/executions/%d", j.pipelinePath(), l[0]), map[string]any{"operation": "CANCEL"}, nil)
	})
	if e, err := j.finish(ctx); err != nil || e.Status != "TERMINATED" || e.ran() != "terminate" {
		t.Errorf("%v: %s", err, e)
	}
}

// showApproval runs a pipeline that waits to be approved.
func (s *server) showApproval(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	j := s.job("approval", sh("first", "true"), sh("gate", "echo by $BUDDY_APPROVING_ACTOR", "wait_for_approval", true),
		sh("asked", "echo please", "trigger_time", "ON_WAIT_FOR_APPROVE"))
	for _, f := range []func() error{
		func() error { return j.makeProject(ctx) },
		func() error { return j.makePipeline(ctx) },
	} {
		if err := f(); err != nil {
			t.Fatal(err)
		}
	}
	var made execution
	s.must("POST", j.pipelinePath()+"/executions", map[string]any{}, &made)
	until(t, 30*time.Second, "it waits", func() error {
		e, err := j.execution(ctx, made.ID)
		if err != nil {
			return err
		}
		if e.Status != "WAITING_FOR_APPLY" || e.ran() != "first,asked" || e.Steps[1].Status != e.Status {
			return fmt.Errorf("%w: %s", errYet, e)
		}
		return nil
	})
	s.must("PATCH", fmt.Sprintf("%s/executions/%d", j.pipelinePath(), made.ID), map[string]any{"operation": "APPLY"}, nil)
	e, err := j.finish(ctx)
	if err != nil || e.Status != "SUCCESSFUL" || e.ran() != "first,gate,asked" {
		t.Fatalf("%v: %s", err, e)
	}
	if l, err := j.log(ctx, e.ID, e.Steps[1]); err != nil || !slices.Contains(l, "by admin") {
		t.Errorf("%v: %q", err, l)
	}
}

// showAsked runs a pipeline that waits for variables.
func (s *server) showAsked(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	j := s.job("asked", sh("gate", "echo $VERSION with $TOKEN", "wait_for_variables", []string{"VERSION", "TOKEN"}), sh("then", "echo then $VERSION"))
	if err := j.makeProject(ctx); err != nil {
		t.Fatal(err)
	}
	if err := j.makePipeline(ctx); err != nil {
		t.Fatal(err)
	}
	var made execution
	s.must("POST", j.pipelinePath()+"/executions", map[string]any{}, &made)
	until(t, 30*time.Second, "it waits", func() error {
		e, err := j.execution(ctx, made.ID)
		if err != nil {
			return err
		}
		if e.Status != "WAITING_FOR_VARIABLES" || e.Steps[0].Status != e.Status {
			return fmt.Errorf("%w: %s", errYet, e)
		}
		return nil
	})
	s.must("PATCH", fmt.Sprintf("%s/executions/%d", j.pipelinePath(), made.ID), map[string]any{"operation": "APPLY_VARIABLES", "variables": []any{
		map[string]any{"key": "VERSION", "value": "1.2"}, map[string]any{"key": "TOKEN", "value": "never-shown", "encrypted": true},
	}}, nil)
	e, err := j.finish(ctx)
	if err != nil || e.Status != "SUCCESSFUL" || e.ran() != "gate,then" {
		t.Fatalf("%v: %s", err, e)
	}
	for i, want := range []string{"1.2 with ***", "then 1.2"} {
		if l, err := j.log(ctx, e.ID, e.Steps[i]); err != nil || !slices.Contains(l, want) {
			t.Errorf("%v: %q", err, l)
		}
	}
}

// ran lists the actions that succeeded.
func (e execution) ran() string {
	var l []string
	for _, st := range e.Steps {
		if st.Status == "SUCCESSFUL" {
			l = append(l, st.Action.Name)
		}
	}
	return strings.Join(l, ",")
}

// showBuilds shows the fields of builds of one of the two types.
func (s *server) showBuilds(t *testing.T, project, typ string, o *outside) {
	t.Run("pull", func(t *testing.T) { s.showPull(t, "moved-"+project, typ, o) })
	builds := func(name, dockerfile string, more ...any) map[string]any {
		return with(map[string]any{"name": name, "type": typ, "dockerfile_path": dockerfile}, more...)
	}
	from := "FROM slipway.local/default/shell:1\nENV OF=" + project + "\n" // nothing is cached of the other type
	kept := from + "ARG WHICH\nRUN echo \"kept $WHICH\"\n"
	all := []shown{
		{action: builds("dockerfile_path", "docker/Other"), says: "this is docker/Other"},
		{action: builds("context_path", "docker/Context", "context_path", "/docker/in"), says: "in the context"},
		{action: builds("target_stage", "docker/Stages", "target_stage", "one"), says: "this is stage one", never: "this is stage two"},
		{action: builds("build_args", "docker/Args", "build_args", []string{"LEVEL=$DEPTH-$PLAIN"}, "variables", []any{variable("DEPTH", "deep"), variable("PLAIN", "down")}), says: "level deep-down"},
		{action: builds("secrets", "docker/Secrets", "secrets", []any{
			map[string]any{"id": "file", "value": "hello", "type": "FILE"}, map[string]any{"id": "env", "value": "TOKEN", "type": "ENV"},
		}, "variables", []any{map[string]any{"key": "TOKEN", "value": "token-0815", "encrypted": true}}), says: "24 and 10 bytes", never: "token-0815"},
		{action: builds("secrets older", "docker/Secrets", "ignore_errors", true, "secrets", []any{
			map[string]any{"secret_id": "file", "secret_src": "hello"}, map[string]any{"secret_id": "env", "secret_src": "docker/Other"},
		}), says: " bytes"},
		{action: builds("secrets escape", "docker/Secrets", "ignore_errors", true, "variables", []any{variable("UP", "../..")}, "secrets", []any{map[string]any{"id": "file", "value": "$UP/etc/passwd", "type": "FILE"}}), status: "FAILED", never: "root:"},
		{action: builds("docker_image_tag", "docker/Kept", "repository", project+"-tags", "docker_image_tag", "first,second"), says: "sha256:"},
		{action: builds("repository", "docker/Kept", "repository", project+"-named"), says: "sha256:"},
		{action: builds("versions", "docker/Kept", "repository", project+"-versions", "versions", []string{"1.0", "1.0.3,stable"}), says: "sha256:"},
		{action: builds("package", "docker/Kept", "package", project+"-package", "versions", []string{"7"}), says: "sha256:"},
		{action: builds("provenance", "docker/Kept", "repository", project+"-proven", "provenance", "MAX"), says: "sha256:"},
		{action: builds("buildkit", "docker/Kept", "buildkit", false), says: "buildkit false has no effect"},
		{action: builds("cache_mode", "docker/Kept", "cache_mode", "MAX"), says: "cache_mode has no effect"},
		{action: builds("target_path", "docker/Kept", "target_path", "/x"), says: "target_path has no effect"},
		{action: builds("do_not_prune_images", "docker/Kept", "do_not_prune_images", true), says: "sha256:"},
		{action: builds("variables", "docker/Args", "build_args", []string{"LEVEL=$WORD"}, "variables", []any{variable("WORD", "of "+typ)}), says: "level of " + typ},
		{action: builds("disabled", "docker/Never", "disabled", true), status: "SKIPPED", never: "never"},
		{action: builds("ignore_errors", "docker/Never", "ignore_errors", true), status: "FAILED", says: "false"},
		{action: builds("timeout", "docker/Long", "timeout", 2, "ignore_errors", true), status: "FAILED", says: "timeout of 2s"},
		{action: builds("trigger_conditions", "docker/Never", "trigger_conditions", []any{map[string]any{
			"trigger_condition": "VAR_IS", "trigger_variable_key": "BUDDY_PIPELINE_NAME", "trigger_variable_value": "Play",
		}}), status: "SKIPPED"},
		{action: builds("loop", "docker/Args", "build_args", []string{"LEVEL=$SIZE"}, "loop", []string{"SIZE"}, "variables", []any{variable("SIZE", "small-"+project+",large-"+project)}), says: "level large-" + project},
	}
	if typ != "DOCKERFILE" {
		all = append(all, shown{action: builds("target_platform", "docker/Scratch", "repository", "multi-platforms", "target_platform", "linux/amd64,linux/arm64"), says: "sha256:"})
	}
	_, e := s.show(t, project, map[string]string{
		"hello": "hello of the repository\n", "docker/in/only": "in the context\n",
		"docker/Other": from + "RUN echo this is docker/Other\n", "docker/Context": from + "COPY only /only\nRUN cat /only\n",
		"docker/Stages": strings.Replace(from, "\n", " AS one\n", 1) + "RUN echo this is stage one\n" + from + "RUN echo this is stage two\n",
		"docker/Args":   from + "ARG LEVEL\nRUN echo \"level $LEVEL\"\n",
		"docker/Secrets": from + "RUN --mount=type=secret,id=file --mount=type=secret,id=env " +
			"echo \"$(busybox wc -c < /run/secrets/file) and $(busybox wc -c < /run/secrets/env) bytes\"\n",
		"docker/Kept": kept, "docker/Never": from + "RUN false\n", "docker/Long": from + "RUN busybox sleep 60\n", "docker/Scratch": "FROM scratch\nCOPY hello /\n",
	}, all, nil)
	if e.Status != "SUCCESSFUL" {
		t.Errorf("the execution is %s", e)
	}
	for repository, want := range map[string]string{"tags": "first second", "named": "latest", "versions": "1.0 1.0.3 stable", "package": "7"} {
		l, err := crane.ListTags(s.listen+"/default/"+project+"-"+repository, s.own()...)
		if got := strings.Join(l, " "); err != nil || got != want {
			t.Errorf("%s has the tags %q (%v), want %q", repository, got, err, want)
		}
	}
	if b, err := crane.Manifest(s.listen+"/default/"+project+"-proven:latest", s.own()...); err != nil || !strings.Contains(string(b), "attestation-manifest") {
		t.Errorf("there is no provenance: %v: %s", err, b)
	}
	if typ != "DOCKERFILE" {
		if got := s.platforms(t, "multi-platforms:latest"); got != "linux/amd64 linux/arm64" {
			t.Errorf("the index is of %s", got)
		}
	}
}

// platforms lists those of an index.
func (s *server) platforms(t *testing.T, name string) string {
	t.Helper()
	b, err := crane.Manifest(s.listen+"/default/"+name, s.own()...)
	if err != nil {
		t.Fatal(err)
	}
	var m v1.IndexManifest
	if err := json.Unmarshal(b, &m); err != nil {
		t.Fatal(err)
	}
	var l []string
	for _, d := range m.Manifests {
		if d.Platform != nil && d.Platform.OS != "unknown" {
			l = append(l, d.Platform.OS+"/"+d.Platform.Architecture)
		}
	}
	slices.Sort(l)
	return strings.Join(l, " ")
}

// showPull builds from a tag that moves where it is from.
func (s *server) showPull(t *testing.T, name, typ string, o *outside) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	builds := func(as string, pull bool) map[string]any {
		return map[string]any{"name": as, "type": typ, "dockerfile_path": "Dockerfile", "build_args": []string{"ROUND=$BUDDY_EXECUTION_ID " + as + typ}, "pull": pull}
	}
	o.push(noted(t, "old"), name+":1")
	j := s.job(name, builds("as it is", false), builds("anew", true))
	j.started(ctx, t, map[string]string{"Dockerfile": "FROM " + o.host + "/" + name + ":1\nARG ROUND\nRUN echo \"$ROUND\" && cat /note\n"}, nil)
	o.push(noted(t, "new"), name+":1")
	e, err := j.again(ctx, nil)
	if err != nil || e.Status != "SUCCESSFUL" {
		t.Fatalf("%v: %s", err, e)
	}
	for i, want := range []string{"the note is old", "the note is new"} {
		l, err := j.log(ctx, e.ID, e.Steps[i])
		if text := strings.Join(l, "\n"); err != nil || !strings.Contains(text, want) {
			t.Errorf("%s: %q is not in %s, %v", e.Steps[i].Action.Name, want, text, err)
		}
	}
}

// showCopies shows where the image of a run, or of a build without a Dockerfile,
// is from.
func (s *server) showCopies(t *testing.T) {
	builds := func(name, of string) map[string]any {
		return map[string]any{"name": name, "type": "DOCKERFILE", "dockerfile_path": "Dockerfile", "repository": "copies-" + of, "build_args": []string{"OF=" + of}}
	}
	multi := func(name, repository string, more ...any) map[string]any {
		return with(map[string]any{"name": name, "type": "DOCKER_BUILD_MULTI_ARCH", "repository": repository}, more...)
	}
	uses := func(name string, more ...any) map[string]any {
		return runs("", "", "", append([]any{"name", name, "inline_commands", "cat /of"}, more...)...)
	}
	const own = "slipway.local/default/"
	all := []shown{
		{action: builds("docker_build_action_name", "named"), says: "sha256:"},
		{action: builds("docker_build_action_id", "numbered"), says: "sha256:"},
		{action: uses("use_image_from_action", "use_image_from_action", true), says: "numbered"},
		{action: uses("docker_build_action_id zero", "use_image_from_action", true, "docker_build_action_id", 0), says: "numbered"},
		{action: uses("docker_build_action_name run", "use_image_from_action", true, "docker_build_action_name", "docker_build_action_name"), says: "named"},
		{action: uses("image_location ACTION", "image_location", "ACTION", "docker_build_action_name", "docker_build_action_name"), says: "named"},
		{action: runs(own+"shell", "2", "", "name", "image_location PUBLIC_REGISTRY", "inline_commands", "cat /note", "image_location", "PUBLIC_REGISTRY"), says: "the note is two"},
		{action: multi("image_location multi", "copy-located", "image_location", "ACTION", "docker_build_action_name", "docker_build_action_name"), says: "No Dockerfile is run"},
		{action: multi("use_image_from_action multi", "copy-used", "use_image_from_action", true, "docker_build_action_id", 0), says: "No Dockerfile is run"},
		{action: multi("docker_image_name multi", "copy-of-image", "image_location", "PUBLIC_REGISTRY", "docker_image_name", own+"shell", "docker_image_tag", "2"), says: "No Dockerfile is run"},
		{action: uses("docker_build_action_id run", "use_image_from_action", true), says: "named"},
	}
	digest := func(name string) string {
		d, err := crane.Digest(s.listen+"/default/"+name, s.own()...)
		if err != nil {
			t.Error(err)
		}
		return d
	}
	_, e := s.show(t, "copies", map[string]string{"Dockerfile": "FROM slipway.local/default/shell:1\nARG OF\nRUN echo $OF > /of\n"}, all, func(j *job) {
		var l struct {
			Actions []struct {
				ID   int64
				Name string
			}
		}
		s.must("GET", j.pipelinePath()+"/actions", nil, &l)
		first, last := l.Actions[0], l.Actions[len(l.Actions)-1]
		s.must("PATCH", fmt.Sprintf("%s/actions/%d", j.pipelinePath(), last.ID), map[string]any{"docker_build_action_id": first.ID}, nil)
	})
	if e.Status != "SUCCESSFUL" {
		t.Errorf("the execution is %s", e)
	}
	for name, of := range map[string]string{"copy-located:latest": "copies-named:latest", "copy-used:latest": "copies-named:latest", "copy-of-image:2": "shell:2"} {
		if a, b := digest(name), digest(of); a != b {
			t.Errorf("%s is %s, %s is %s", name, a, of, b)
		}
	}
}

// showPipeline changes fields of a pipeline that say what its file system is
// like, and looks what it finds there.
func (s *server) showPipeline(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	j := s.job("tree", sh("look", strings.Join([]string{
		"test -e left && echo it was here before || echo it was never here",
		"echo x > left",
		"test -e .git/shallow && echo the history is cut || echo the history is whole",
		"test -e itself/hello && echo the submodule is here || echo the folder of the submodule is empty",
		"busybox grep -rqs . .git/refs/heads/other .git/refs/remotes/origin/other || busybox grep -qs other .git/packed-refs && echo the other branch is here",
	}, "\n")))
	modules := "[submodule \"itself\"]\n\tpath = itself\n\turl = ../tree.git\n"
	e := j.started(ctx, t, map[string]string{"hello": "hello\n", ".gitmodules": modules}, func(j *job) {
		first, err := j.git(ctx, "rev-parse", "HEAD")
		if err != nil {
			t.Fatal(err)
		}
		for _, args := range [][]string{
			{"update-index", "--add", "--cacheinfo", "160000," + strings.TrimSpace(first) + ",itself"},
			{"commit", "-q", "-m", "Second"},
			{"branch", "other"},
			{"push", "-q", s.URL + "/git/default/tree.git", "main", "other"},
		} {
			if _, err := j.git(ctx, args...); err != nil {
				t.Fatal(err)
			}
		}
	})
	told := func(e execution) string {
		l, err := j.log(ctx, e.ID, e.Steps[0])
		if err != nil {
			t.Fatal(err)
		}
		return strings.Join(l, "\n")
	}
	for _, c := range []struct {
		field, value string
		says         []string
	}{
		{"", "", []string{"it was here before", "the history is whole", "the folder of the submodule is empty"}},
		{"always_from_scratch", "true", []string{"it was never here"}},
		{"always_from_scratch", "false", []string{"it was here before"}},
		{"auto_clear_cache", "true", []string{"it was never here"}},
		{"auto_clear_cache", "false", []string{"it was here before"}},
		{"clone_depth", "1", []string{"the history is cut"}},
		{"fetch_all_refs", "true", []string{"the other branch is here", "the history is whole"}},
		{"execution_message_template", `"$BUDDY_PIPELINE_NAME for a test"`, nil},
	} {
		if c.field != "" {
			s.must("PATCH", j.pipelinePath(), map[string]any{c.field: json.RawMessage(c.value)}, nil)
		}
		var err error
		if e, err = j.again(ctx, nil); err != nil {
			t.Fatal(err)
		}
		for _, w := range c.says {
			if text := told(e); !strings.Contains(text, w) {
				t.Errorf("%s %s: %q is not in %s", c.field, c.value, w, text)
			}
		}
	}
	for _, fetch := range []bool{true, false} {
		s.must("PATCH", j.path(), map[string]any{"fetch_submodules": fetch}, nil)
		want := map[bool]string{true: "the submodule is here", false: "the folder of the submodule is empty"}[fetch]
		var err error
		if e, err = j.again(ctx, nil); err != nil || !strings.Contains(told(e), want) {
			t.Errorf("fetch_submodules %v: %v, and %q is not in %s", fetch, err, want, told(e))
		}
	}
	var x struct{ Message string }
	s.must("GET", fmt.Sprintf("%s/executions/%d", j.pipelinePath(), e.ID), nil, &x)
	if x.Message != "Work for a test" {
		t.Errorf("the message is %q", x.Message)
	}
	s.must("PATCH", j.pipelinePath(), map[string]any{"disabled": true, "disabled_reason": "not today"}, nil)
	if _, err := j.again(ctx, nil); err == nil || !strings.Contains(err.Error(), "not today") {
		t.Errorf("a pipeline that is disabled: %v", err)
	}
}
