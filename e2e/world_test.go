package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"slipway/cli"
)

// errYet says that something is not so yet.
var errYet = errors.New("not yet")

// keep repeats a step of a client until it succeeds. A server that does not
// answer or has no room is tried again, an answer that refuses is the end: each
// step looks first and then does what is missing, as a client has to that got
// no answer.
func keep(ctx context.Context, what string, long time.Duration, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, long)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	var last error
	for {
		err := f(ctx)
		if err == nil {
			return nil
		}
		var r *cli.Refused
		if errors.As(err, &r) && r.Status != http.StatusServiceUnavailable {
			return fmt.Errorf("%s: %w", what, err)
		}
		if ctx.Err() == nil {
			last = err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%s: not within %s: %w", what, long, last)
		}
	}
}

// job is a project with one pipeline.
type job struct {
	s        *server
	name     string
	id       string // of the project in mittwald's words
	pipeline int64
	actions  []map[string]any
	// concurrent says that each run of the pipeline has files of its own.
	concurrent bool
	// inFile says that the actions are in a file of the repository.
	inFile bool
}

func (s *server) job(name string, actions ...map[string]any) *job {
	return &job{s: s, name: name, actions: actions}
}

func (j *job) path() string { return "/workspaces/default/projects/" + j.name }

func (j *job) pipelinePath() string { return fmt.Sprintf("%s/pipelines/%d", j.path(), j.pipeline) }

// makeProject makes the project if it is not there; more are its other fields.
func (j *job) makeProject(ctx context.Context, more ...map[string]any) error {
	return keep(ctx, "project", time.Minute, func(ctx context.Context) error {
		err := j.s.Do(ctx, "GET", j.path(), nil, nil)
		if cli.IsStatus(err, http.StatusNotFound) {
			body := map[string]any{"name": j.name, "display_name": j.name}
			for _, m := range more {
				for k, v := range m {
					body[k] = v
				}
			}
			err = j.s.Do(ctx, "POST", "/workspaces/default/projects", body, nil)
		}
		if err != nil {
			return err
		}
		var l []struct{ ID, Description string }
		if err := j.s.Do(ctx, "GET", "/v2/projects?searchTerm="+j.name, nil, &l); err != nil {
			return err
		}
		for _, p := range l {
			if p.Description == j.name {
				j.id = p.ID
				return nil
			}
		}
		return errors.New("the project is not in mittwald's list")
	})
}

// onMain are the events of a push to main.
func onMain() []any {
	return []any{map[string]any{"type": "PUSH", "refs": []string{"refs/heads/main"}}}
}

// makePipeline makes the pipeline and what is missing of its actions.
func (j *job) makePipeline(ctx context.Context) error {
	return keep(ctx, "pipeline", time.Minute, func(ctx context.Context) error {
		var l struct {
			Pipelines []struct {
				ID   int64
				Name string
			}
		}
		if err := j.s.Do(ctx, "GET", j.path()+"/pipelines", nil, &l); err != nil {
			return err
		}
		if len(l.Pipelines) > 1 {
			return fmt.Errorf("there are %d pipelines", len(l.Pipelines))
		}
		if len(l.Pipelines) == 0 {
			body := map[string]any{"name": "Work", "events": onMain(), "concurrent_pipeline_runs": j.concurrent}
			if j.inFile { // which says what starts it
				body["git_config_ref"] = "DYNAMIC"
				delete(body, "events")
			}
			if err := j.s.Do(ctx, "POST", j.path()+"/pipelines", body, nil); err != nil {
				return err
			}
			return errYet // look for its id
		}
		j.pipeline = l.Pipelines[0].ID
		var have struct{ Actions []struct{ Name string } }
		if err := j.s.Do(ctx, "GET", j.pipelinePath()+"/actions", nil, &have); err != nil {
			return err
		}
		for i, a := range j.actions {
			if i < len(have.Actions) || j.inFile {
				continue
			}
			if err := j.s.Do(ctx, "POST", j.pipelinePath()+"/actions", a, nil); err != nil {
				return err
			}
		}
		if j.concurrent {
			return j.putFile(ctx)
		}
		return nil
	})
}

// putFile puts a file into the file system of the pipeline, which each run then
// has a copy of.
func (j *job) putFile(ctx context.Context) error {
	err := j.s.Do(ctx, "GET", j.pipelinePath()+"/files/contents/put", nil, nil)
	if !cli.IsStatus(err, http.StatusNotFound) {
		return err
	}
	return j.s.Do(ctx, "POST", j.pipelinePath()+"/files", map[string]any{"path": "put", "content": "eA=="}, nil)
}

// build is an action that builds the Dockerfile.
func build() map[string]any {
	return map[string]any{"name": "Build", "type": "DOCKERFILE", "dockerfile_path": "Dockerfile", "docker_image_tag": "latest"}
}

// run is an action that runs the image of the build.
func run(name, entrypoint string) map[string]any {
	return map[string]any{
		"name": name, "type": "RUN_DOCKER_CONTAINER", "docker_image_name": "", "docker_image_tag": "", "use_image_from_action": true,
		"docker_build_action_name": "Build", "entrypoint": entrypoint, "inline_commands": "",
	}
}

// commit makes a repository of files in the test's directory, once. Its commit
// is the same each time.
func (j *job) commit(ctx context.Context, files map[string]string) error {
	work := filepath.Join(j.s.dir, "work-"+j.name)
	if err := os.MkdirAll(work, 0o755); err != nil {
		return err
	}
	for name, text := range files {
		mode := os.FileMode(0o644)
		if strings.HasPrefix(text, "\x7fELF") {
			mode = 0o755
		}
		if err := os.MkdirAll(filepath.Dir(filepath.Join(work, name)), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(work, name), []byte(text), mode); err != nil {
			return err
		}
	}
	for _, args := range [][]string{{"init", "-q", "-b", "main"}, {"add", "-A"}, {"commit", "-q", "--allow-empty", "-m", "Work"}} {
		if _, err := j.git(ctx, args...); err != nil {
			return err
		}
	}
	return nil
}

func (j *job) git(ctx context.Context, args ...string) (string, error) {
	c := exec.CommandContext(ctx, "git", args...)
	c.Dir = filepath.Join(j.s.dir, "work-"+j.name)
	when := "2026-01-01T12:00:00Z"
	c.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + j.s.dir, "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null", "GIT_TERMINAL_PROMPT=0", "LC_ALL=C",
		"GIT_AUTHOR_NAME=Test", "GIT_AUTHOR_EMAIL=test@slipway.local", "GIT_COMMITTER_NAME=Test", "GIT_COMMITTER_EMAIL=test@slipway.local",
		"GIT_AUTHOR_DATE=" + when, "GIT_COMMITTER_DATE=" + when,
		"GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=http.extraHeader", "GIT_CONFIG_VALUE_0=Authorization: Bearer " + j.s.Token,
	}
	out, err := c.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("git %s: %w: %s", args[0], err, strings.TrimSpace(string(out)))
	}
	return string(out), nil
}

// push pushes what was committed, until the server has it.
func (j *job) push(ctx context.Context) error {
	return keep(ctx, "push", time.Minute, func(ctx context.Context) error {
		_, err := j.git(ctx, "push", "--porcelain", j.s.URL+"/git/default/"+j.name+".git", "+main:main")
		return err
	})
}

type step struct {
	ID           string `json:"action_execution_id"`
	Status       string
	ErrorMessage string `json:"error_message"`
	Action       struct {
		ID   int64
		Name string
	}
}

type execution struct {
	ID     int64
	Status string
	Steps  []step `json:"action_executions"`
}

func (e execution) String() string {
	s := e.Status
	for _, a := range e.Steps {
		s += fmt.Sprintf("; %s: %s %s", a.Action.Name, a.Status, a.ErrorMessage)
	}
	return s
}

// executions are the numbers of all, newest first.
func (j *job) executions(ctx context.Context) (n []int64, err error) {
	var l struct{ Executions []struct{ ID int64 } }
	if err := j.s.Do(ctx, "GET", j.pipelinePath()+"/executions?per_page=100", nil, &l); err != nil {
		return nil, err
	}
	for _, e := range l.Executions {
		n = append(n, e.ID)
	}
	return n, nil
}

func (j *job) execution(ctx context.Context, n int64) (e execution, err error) {
	return e, j.s.Do(ctx, "GET", fmt.Sprintf("%s/executions/%d", j.pipelinePath(), n), nil, &e)
}

func over(status string) bool {
	return slices.Contains([]string{"SUCCESSFUL", "FAILED", "TERMINATED", "SKIPPED", "NOT_EXECUTED"}, status)
}

// finish waits until the newest execution is over.
func (j *job) finish(ctx context.Context) (e execution, err error) {
	err = keep(ctx, "execution", 2*time.Minute, func(ctx context.Context) error {
		l, err := j.executions(ctx)
		if err != nil {
			return err
		}
		if len(l) == 0 {
			return errors.New("none was started")
		}
		if e, err = j.execution(ctx, l[0]); err != nil {
			return err
		}
		if !over(e.Status) {
			return fmt.Errorf("it is %s", e)
		}
		return nil
	})
	return e, err
}

// log gives the whole log of a step.
func (j *job) log(ctx context.Context, n int64, st step) (l []string, err error) {
	for {
		var part struct {
			Logs  []string
			Total int `json:"total_element_count"`
		}
		path := fmt.Sprintf("%s/executions/%d/action_executions/%s/logs?offset=%d&limit=1000", j.pipelinePath(), n, st.ID, len(l))
		if err := j.s.Do(ctx, "GET", path, nil, &part); err != nil {
			return nil, err
		}
		if l = append(l, part.Logs...); len(l) >= part.Total || len(part.Logs) == 0 {
			return l, nil
		}
	}
}

// counted checks the lines of the probe program: one beginning, n lines in
// order (n < 0: any number), each once, and one end if whole.
func counted(l []string, n int, whole bool) (begin string, err error) {
	next, ends := 0, 0
	for _, s := range l {
		switch f := strings.Fields(s); {
		case len(f) == 0:
		case f[0] == "begin":
			if begin != "" {
				return begin, errors.New("it began twice")
			}
			begin = f[1]
		case f[0] == "line":
			if i, err := strconv.Atoi(f[1]); err != nil || i != next {
				return begin, fmt.Errorf("line %s came where %d should", f[1], next)
			}
			next++
		case f[0] == "end":
			ends++
		}
	}
	if begin == "" || n >= 0 && next != n || whole && ends != 1 {
		return begin, fmt.Errorf("it has %d lines of %d and %d ends", next, n, ends)
	}
	return begin, nil
}

type service struct {
	ID, ServiceName, Status, Message string
	RequiresRecreate                 bool
	DeployedState                    struct{ Envs map[string]string }
	PendingState                     struct{ Envs map[string]string }
}

func (j *job) stackPath() string { return "/v2/stacks/" + j.id }

// services are those of the default stack.
func (j *job) services(ctx context.Context) ([]service, error) {
	var st struct{ Services []service }
	return st.Services, j.s.Do(ctx, "GET", j.stackPath(), nil, &st)
}

func (j *job) service(ctx context.Context, name string) (service, error) {
	l, err := j.services(ctx)
	for _, v := range l {
		if v.ServiceName == name {
			return v, err
		}
	}
	return service{}, err
}

// running waits until a service runs as it is declared.
func (j *job) running(ctx context.Context, name string) (v service, err error) {
	err = keep(ctx, "service "+name, time.Minute, func(ctx context.Context) error {
		if v, err = j.service(ctx, name); err != nil {
			return err
		}
		if v.Status != "running" || v.RequiresRecreate {
			return fmt.Errorf("it is %q (%s)", v.Status, v.Message)
		}
		return nil
	})
	return v, err
}

// hosted describes a service of the probe program.
func hosted(version string, volumes ...string) map[string]any {
	env := map[string]string{"VERSION": version, "EVERY": "20ms"}
	v := map[string]any{
		"image": "slipway.local/default/steady:latest", "description": "probe", "entrypoint": []string{"/probe"}, "command": []string{"serve"},
		"ports": []string{"8080/tcp"}, "environment": env,
	}
	if len(volumes) > 0 {
		v["volumes"] = volumes
		env["BOOTS"] = "/data/boots"
	}
	return v
}

// route leads a hostname to a service of the default stack.
func (j *job) route(ctx context.Context, host, service string) error {
	return keep(ctx, "ingress", time.Minute, func(ctx context.Context) error {
		v, err := j.service(ctx, service)
		if err != nil {
			return err
		}
		var l []struct{ ID, Hostname string }
		if err := j.s.Do(ctx, "GET", "/v2/ingresses?projectId="+j.id, nil, &l); err != nil {
			return err
		}
		paths := []any{map[string]any{"path": "/", "target": map[string]any{"container": map[string]any{"id": v.ID, "portProtocol": "8080/tcp"}}}}
		for _, i := range l {
			if i.Hostname == host {
				return j.s.Do(ctx, "PATCH", "/v2/ingresses/"+i.ID+"/paths", paths, nil)
			}
		}
		return j.s.Do(ctx, "POST", "/v2/ingresses", map[string]any{"projectId": j.id, "hostname": host, "paths": paths}, nil)
	})
}

// unroute removes the ingress of a hostname.
func (j *job) unroute(ctx context.Context, host string) error {
	return keep(ctx, "remove the ingress", time.Minute, func(ctx context.Context) error {
		var l []struct{ ID, Hostname string }
		if err := j.s.Do(ctx, "GET", "/v2/ingresses?projectId="+j.id, nil, &l); err != nil {
			return err
		}
		for _, i := range l {
			if i.Hostname != host {
				continue
			}
			if err := j.s.Do(ctx, "DELETE", "/v2/ingresses/"+i.ID, nil, nil); !cli.IsStatus(err, http.StatusNotFound) {
				return err
			}
		}
		return nil
	})
}

// answers waits until a hostname is answered with a status and, if it is given,
// a version.
func (s *server) answers(ctx context.Context, host string, status int, version string) (a answer, err error) {
	err = keep(ctx, host, time.Minute, func(context.Context) error {
		var got int
		if a, got, err = s.visit(host); err != nil {
			return err
		}
		if got != status || version != "" && a.Version != version {
			return fmt.Errorf("it answers %d, version %q", got, a.Version)
		}
		return nil
	})
	return a, err
}

// host builds the probe program into default/steady by a pipeline and hosts it
// under steady.localhost.
func (s *server) hostSteady(ctx context.Context) (*job, error) {
	j := s.job("steady", build())
	program, err := os.ReadFile(probeProgram)
	if err != nil {
		return nil, err
	}
	err = j.commit(ctx, map[string]string{"probe": string(program), "Dockerfile": "FROM scratch\nCOPY probe /probe\n"})
	for _, f := range []func() error{
		func() error { return err },
		func() error { return j.makeProject(ctx) },
		func() error { return j.makePipeline(ctx) },
		func() error { return j.push(ctx) },
		func() error {
			e, err := j.finish(ctx)
			if err == nil && e.Status != "SUCCESSFUL" {
				err = fmt.Errorf("the build is %s", e)
			}
			return err
		},
		func() error {
			return s.Do(ctx, "PUT", j.stackPath(), map[string]any{"services": map[string]any{"web": hosted("1", "data:/data")}, "volumes": map[string]any{"data": map[string]any{"name": "data"}}}, nil)
		},
		func() error { _, err := j.running(ctx, "web"); return err },
		func() error { return j.route(ctx, "steady.localhost", "web") },
		func() error { _, err := s.answers(ctx, "steady.localhost", http.StatusOK, "1"); return err },
	} {
		if err := f(); err != nil {
			return nil, fmt.Errorf("the steady service: %w", err)
		}
	}
	return j, nil
}
