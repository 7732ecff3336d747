package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

const imageName = "bench.invalid/probe:1"

// dockerfile has five steps and needs no base image.
const dockerfile = `FROM scratch
COPY probe /probe
COPY a.txt /a.txt
COPY b.txt /b.txt
RUN ["/probe", "true"]
RUN ["/probe", "now"]
ENTRYPOINT ["/probe"]
`

func (b *bench) up(ctx context.Context) (err error) {
	tree := filepath.Join(b.dir, "tree")
	if err := os.MkdirAll(tree, 0o755); err != nil {
		return err
	}
	if err := copyFile(b.probe, filepath.Join(tree, "probe")); err != nil {
		return err
	}
	for name, text := range map[string]string{"Dockerfile": dockerfile, "a.txt": "a\n", "b.txt": "b\n"} {
		if err := os.WriteFile(filepath.Join(tree, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	image, err := archive(b.probe, imageName)
	if err != nil {
		return err
	}
	if b.docker, err = startDocker(ctx, b.programs, filepath.Join(b.dir, "docker")); err != nil {
		return err
	}
	file := filepath.Join(b.dir, "image.tar")
	if err := os.WriteFile(file, image, 0o600); err != nil {
		return err
	}
	if _, err := b.docker.cli(ctx, "load", "-i", file); err != nil {
		return err
	}
	if b.kit, err = startBuildkit(ctx, b.programs, filepath.Join(b.dir, "kit")); err != nil {
		return err
	}
	if b.ours, err = startSlipway(ctx, b.slipway, filepath.Join(b.dir, "data")); err != nil {
		return err
	}
	if err := b.ours.load(ctx, url.QueryEscape(imageName), image); err != nil {
		return err
	}
	if err := b.ours.Do(ctx, "POST", "/workspaces/default/projects", map[string]any{"name": "bench", "display_name": "bench"}, nil); err != nil {
		return err
	}
	if err := b.ours.push(ctx, tree); err != nil {
		return err
	}
	if err := b.bundle(ctx); err != nil {
		return fmt.Errorf("copy a bundle: %w", err)
	}
	return nil
}

func (b *bench) down() error {
	b.kit.stopIf()
	b.docker.close()
	b.runc.close()
	return b.ours.close()
}

// bundle copies the bundle of a run action for bare runc, while it runs.
func (b *bench) bundle(ctx context.Context) error {
	ctx, stop := context.WithTimeout(ctx, 30*time.Second)
	defer stop()
	id, err := b.ours.pipeline(ctx, "bundle", runAction("sleep", "sleep"))
	if err != nil {
		return err
	}
	var e execution
	if err := b.ours.Do(ctx, "POST", pipelinePath(id)+"/executions", map[string]any{"to_revision": map[string]any{"revision": "HEAD"}}, &e); err != nil {
		return err
	}
	for b.runc == nil {
		files, _ := filepath.Glob("/run/slipway-*/b/*/config.json")
		for _, f := range files {
			config, err := os.ReadFile(f)
			// It is one of ours if it mounts something of our data directory.
			if err != nil || !bytes.Contains(config, []byte(b.ours.data)) || !json.Valid(config) {
				continue
			}
			if b.runc, err = newRunc(b.programs, filepath.Join(b.dir, "runc"), config); err != nil {
				return err
			}
		}
		if settle(ctx, 10*time.Millisecond); ctx.Err() != nil {
			return errors.New("no container of ours was seen")
		}
	}
	at := fmt.Sprintf("%s/executions/%d", pipelinePath(id), e.ID)
	if err := b.ours.Do(ctx, "PATCH", at, map[string]any{"operation": "CANCEL"}, nil); err != nil {
		return err
	}
	_, err = b.ours.ends.of(ctx, ending{id, e.ID})
	return err
}

func (k *buildkit) stopIf() {
	if k != nil {
		k.daemon.stop()
	}
}

func runAction(name string, args ...string) map[string]any {
	return map[string]any{
		"name": name, "type": "RUN_DOCKER_CONTAINER", "docker_image_name": strings.TrimSuffix(imageName, ":1"), "docker_image_tag": "1",
		"entrypoint": "/probe " + strings.Join(args, " "), "inline_commands": "",
	}
}

// action is the price of one run action, beside docker and bare runc.
func (b *bench) action(ctx context.Context) error {
	const n = 20
	var actions []map[string]any
	for i := range n {
		actions = append(actions, runAction(fmt.Sprint("true ", i), "true"))
	}
	id, err := b.ours.pipeline(ctx, "action", actions...)
	if err != nil {
		return err
	}
	if _, _, err := b.ours.execute(ctx, id); err != nil { // not counted
		return err
	}
	if err := b.runc.args("true"); err != nil {
		return err
	}
	var ours, docker, runc []float64
	for range b.rounds {
		_, wall, err := b.ours.execute(ctx, id)
		if err != nil {
			return err
		}
		ours = append(ours, ms(wall)/n)
		for range 5 {
			t0 := time.Now()
			if _, err := b.docker.cli(ctx, "run", "--rm", imageName, "true"); err != nil {
				return err
			}
			docker = append(docker, ms(time.Since(t0)))
		}
		for range n {
			t0 := time.Now()
			if _, err := b.runc.run(ctx); err != nil {
				return err
			}
			runc = append(runc, ms(time.Since(t0)))
		}
	}
	b.compare("run action `true` in a pipeline of 20, per action", "`docker run --rm`", ours, docker, "ms", 0.20)
	b.compare("the same", "`runc run` of the same bundle", ours, runc, "ms", 2.0)
	more := median(ours) - median(runc)
	b.rows = append(b.rows, atMost("what is more than `runc run` of the same bundle", more, 25, "ms"))
	return nil
}

// build is a cached build as an action, with its checkout.
func (b *bench) build(ctx context.Context) error {
	id, err := b.ours.pipeline(ctx, "build", map[string]any{"name": "build", "type": "DOCKERFILE", "dockerfile_path": "Dockerfile"})
	if err != nil {
		return err
	}
	tree := filepath.Join(b.dir, "tree")
	for range 2 {
		if _, _, err := b.ours.execute(ctx, id); err != nil {
			return err
		}
		if _, err := b.kit.build(ctx, tree); err != nil {
			return err
		}
	}
	var ours, kit []float64
	for range 4 * b.rounds {
		_, wall, err := b.ours.execute(ctx, id)
		if err != nil {
			return err
		}
		ours = append(ours, ms(wall))
		t0 := time.Now()
		if _, err := b.kit.build(ctx, tree); err != nil {
			return err
		}
		kit = append(kit, ms(time.Since(t0)))
	}
	b.compare("cached 5-step build as an action, checkout included", "`buildctl build`", ours, kit, "ms", 0.4)
	return nil
}

// handover is from the end of a build to the first line of a container of it.
func (b *bench) handover(ctx context.Context) error {
	run := runAction("now", "now")
	delete(run, "docker_image_name")
	delete(run, "docker_image_tag")
	run["use_image_from_action"] = true
	id, err := b.ours.pipeline(ctx, "handover", map[string]any{"name": "build", "type": "DOCKERFILE", "dockerfile_path": "Dockerfile"}, run)
	if err != nil {
		return err
	}
	if err := b.runc.args("now"); err != nil {
		return err
	}
	var ours, runc []float64
	for i := range 2*b.rounds + 1 {
		e, _, err := b.ours.execute(ctx, id)
		if err != nil {
			return err
		}
		var l struct{ Logs []string }
		at := fmt.Sprintf("%s/executions/%d/action_executions/%s/logs?limit=1000", pipelinePath(id), e.ID, e.ActionExecutions[1].ID)
		if err := b.ours.Do(ctx, "GET", at, nil, &l); err != nil {
			return err
		}
		first, err := stamp(l.Logs)
		if err != nil {
			return err
		}
		t0 := time.Now()
		out, err := b.runc.run(ctx)
		if err != nil {
			return err
		}
		bare, err := stamp(strings.Fields(out))
		if err != nil {
			return err
		}
		if i > 0 {
			ours = append(ours, ms(first.Sub(e.ActionExecutions[0].Finish)))
			runc = append(runc, ms(bare.Sub(t0)))
		}
	}
	b.compare("build end to the first line of a container of it", "`runc run` of the same bundle", ours, runc, "ms", 1.6)
	return nil
}

// stamp finds the line that the probe printed.
func stamp(lines []string) (time.Time, error) {
	for _, l := range lines {
		if us, err := strconv.ParseInt(strings.TrimSpace(l), 10, 64); err == nil && len(l) == 16 {
			return time.UnixMicro(us), nil
		}
	}
	return time.Time{}, errors.New("the container printed no time")
}

// start is the time from nothing to ready on an empty data directory.
func (b *bench) start(ctx context.Context) error {
	var ours []float64
	for i := range b.rounds + 1 {
		s, err := startSlipway(ctx, b.slipway, filepath.Join(b.dir, fmt.Sprint("start", i)))
		if err != nil {
			return err
		}
		if err := s.close(); err != nil {
			return err
		}
		if i > 0 {
			ours = append(ours, ms(s.readyAfter))
		}
	}
	m := median(ours)
	b.rows = append(b.rows, atMost("start of `serve` to ready, empty data directory", m, 500, "ms"))
	return nil
}

// memory is what is held ten seconds after the last of 120 containers, and
// what each hosted service adds.
func (b *bench) memory(ctx context.Context) error {
	var actions []map[string]any
	for i := range 20 {
		actions = append(actions, runAction(fmt.Sprint("true ", i), "true"))
	}
	id, err := b.ours.pipeline(ctx, "memory", actions...)
	if err != nil {
		return err
	}
	for range 6 {
		if _, _, err := b.ours.execute(ctx, id); err != nil {
			return err
		}
	}
	for range 120 {
		if _, err := b.docker.cli(ctx, "run", "--rm", imageName, "true"); err != nil {
			return err
		}
	}
	settle(ctx, 10*time.Second)
	idle, theirs := pss(b.oursPids()...), pss(b.docker.cmd.Process.Pid)
	b.compare("memory of all our processes, idle after 120 run actions (PSS)", "dockerd + containerd", []float64{idle}, []float64{theirs}, "MiB", 1.0)
	return b.services(ctx)
}

func (b *bench) services(ctx context.Context) error {
	const n = 10
	services := map[string]any{}
	for i := range n {
		services[fmt.Sprint("s", i)] = map[string]any{"image": imageName, "command": []string{"sleep"}, "description": "bench"}
	}
	var l []struct{ ID, Description string }
	if err := b.ours.Do(ctx, "GET", "/v2/projects?searchTerm=bench", nil, &l); err != nil || len(l) == 0 {
		return errors.Join(err, errors.New("the project is not listed"))
	}
	stack := "/v2/stacks/" + l[0].ID
	if err := b.ours.Do(ctx, "PUT", stack, map[string]any{"services": services}, nil); err != nil {
		return err
	}
	for {
		var s struct {
			Services []struct{ Status, Message string }
		}
		if err := b.ours.Do(ctx, "GET", stack, nil, &s); err != nil {
			return err
		}
		running := 0
		for _, v := range s.Services {
			if v.Status == "running" {
				running++
			}
			if v.Status == "error" {
				return errors.New("a service is in error: " + v.Message)
			}
		}
		if running == n {
			break
		}
		settle(ctx, 100*time.Millisecond)
	}
	settle(ctx, 10*time.Second)
	with := pss(b.oursPids()...)
	if err := b.ours.Do(ctx, "PUT", stack, map[string]any{"services": map[string]any{}}, nil); err != nil {
		return err
	}
	settle(ctx, 10*time.Second)
	each := (with - pss(b.oursPids()...)) / n * 1.048576
	b.rows = append(b.rows, atMost("and for each hosted service, its own program included", each, 4, "MB"))
	return nil
}

// oursPids are the server and every process that names the data directory.
func (b *bench) oursPids() []int {
	pids := []int{b.ours.cmd.Process.Pid}
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, d := range dirs {
		if c, err := os.ReadFile(d + "/cmdline"); err == nil && strings.Contains(string(c), b.ours.data) {
			pid, _ := strconv.Atoi(filepath.Base(d))
			pids = append(pids, pid)
		}
	}
	return pids
}

func settle(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// lines is a million lines from a container until the last one was read back.
// The peer's client reads while the lines are written: that is its faster way.
func (b *bench) lines(ctx context.Context) error {
	const n = 1_000_000
	a := runAction("lines", "lines", strconv.Itoa(n))
	var variables []any
	var secrets [][]byte
	for i := range 20 {
		v := fmt.Sprintf("s3cr3t-%d-%x", i, i*7919)
		secrets = append(secrets, []byte(v))
		variables = append(variables, map[string]any{"key": fmt.Sprint("SECRET_", i), "value": v, "encrypted": true})
	}
	a["variables"] = variables
	id, err := b.ours.pipeline(ctx, "lines", a)
	if err != nil {
		return err
	}
	var ours, docker []float64
	for range b.rounds {
		e, wall, err := b.ours.execute(ctx, id)
		if err != nil {
			return err
		}
		t0 := time.Now()
		var text bytes.Buffer
		text.Grow(n * 101)
		if err := b.ours.Do(ctx, "GET", "/slipway/v1/logs/actions/"+e.ActionExecutions[0].ID, nil, &text); err != nil {
			return err
		}
		ours = append(ours, ms(wall+time.Since(t0)))
		if err := complete(text.Bytes(), n, secrets); err != nil {
			return err
		}
		t0 = time.Now()
		if _, err := b.docker.cli(ctx, "run", "--name", "lines", "--log-driver", "json-file", "--detach", imageName, "lines", strconv.Itoa(n)); err != nil {
			return err
		}
		out, err := b.docker.cli(ctx, "logs", "--follow", "lines")
		if err != nil {
			return err
		}
		docker = append(docker, ms(time.Since(t0)))
		if err := complete([]byte(out), n, nil); err != nil {
			return fmt.Errorf("docker: %w", err)
		}
		if _, err := b.docker.cli(ctx, "rm", "lines"); err != nil {
			return err
		}
	}
	b.compare("1,000,000 lines of 100 bytes, 20 masked secrets, until read back", "docker json-file, `docker logs --follow`", ours, docker, "ms", 0.33)
	return nil
}

// complete looks whether all lines are there, in their order, and no secret.
func complete(text []byte, n int, secrets [][]byte) error {
	next := 0
	for l := range bytes.Lines(text) {
		if number, err := strconv.Atoi(string(l[:min(9, len(l))])); err == nil && number == next {
			next++
		}
	}
	if next != n {
		return fmt.Errorf("line %d of %d is missing", next, n)
	}
	for i, s := range secrets {
		if bytes.Contains(text, s) {
			return fmt.Errorf("secret %d is not masked", i)
		}
	}
	return nil
}
