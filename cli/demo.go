package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"slipway/example"
)

// demo takes the bundled example from source to a hosted page, through the
// public API only. It is safe to repeat.
type demo struct {
	*Client
	out     io.Writer
	start   time.Time
	verdict string
	server  struct {
		IngressHTTP string `json:"ingress_http"`
		Domain      string `json:"domain"`
	}
	project   string // mittwald's id
	pipeline  int64
	execution int64
	digest    string
}

const (
	demoWorkspace = "default"
	demoProject   = "hello"
	demoPath      = "/workspaces/" + demoWorkspace + "/projects/" + demoProject
)

// Demo runs the demo against a server and writes its progress to out, at the
// end where the page is.
func Demo(ctx context.Context, c *Client, out io.Writer) error {
	return runDemo(ctx, c, out, "Demo")
}

// runDemo is Demo; verdict is the first word of the line about the page.
func runDemo(ctx context.Context, c *Client, out io.Writer, verdict string) error {
	d := &demo{Client: c, out: out, start: time.Now(), verdict: verdict}
	steps := []struct {
		name string
		do   func(context.Context) (string, error)
	}{
		{"server", d.look},
		{"project", d.makeProject},
		{"pipeline", d.makePipeline},
		{"push", d.push},
		{"build and test", d.run},
		{"host", d.host},
		{"route", d.route},
	}
	for _, s := range steps {
		t0 := time.Now()
		said, err := s.do(ctx)
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		fmt.Fprintf(out, "  %-15s %s (%s)\n", s.name, said, time.Since(t0).Round(time.Millisecond))
	}
	return d.visit(ctx)
}

func (d *demo) look(ctx context.Context) (string, error) {
	if err := d.Do(ctx, "GET", "/slipway/v1/server", nil, &d.server); err != nil {
		return "", err
	}
	if d.server.IngressHTTP == "" {
		return "", errors.New("the server has no --ingress-http, so the page could not be reached")
	}
	return d.URL, nil
}

func (d *demo) makeProject(ctx context.Context) (string, error) {
	said := "made"
	err := d.Do(ctx, "GET", demoPath, nil, nil)
	if IsStatus(err, http.StatusNotFound) {
		err = d.Do(ctx, "POST", "/workspaces/"+demoWorkspace+"/projects", map[string]any{"name": demoProject, "display_name": "Hello"}, nil)
	} else if err == nil {
		said = "is there"
	}
	if err != nil {
		return "", err
	}
	var l []struct{ ID, Description string }
	if err := d.Do(ctx, "GET", "/v2/projects?searchTerm=Hello", nil, &l); err != nil {
		return "", err
	}
	for _, p := range l {
		if p.Description == "Hello" {
			d.project = p.ID
			return demoWorkspace + "/" + demoProject + " " + said, nil
		}
	}
	return "", errors.New("the project is not in the list of projects")
}

type demoAction map[string]any

func demoActions() []demoAction {
	return []demoAction{
		{
			"name": "Build", "type": "DOCKERFILE", "dockerfile_path": "Dockerfile", "docker_image_tag": "latest",
			"build_args": []string{"COMMIT=$BUDDY_RUN_COMMIT", "BUILT=$SLIPWAY_TIME"},
		},
		{
			"name": "Test the image", "type": "RUN_DOCKER_CONTAINER", "docker_image_name": "", "docker_image_tag": "",
			"use_image_from_action": true, "docker_build_action_name": "Build", "entrypoint": "/hello check", "inline_commands": "",
		},
	}
}

func (d *demo) makePipeline(ctx context.Context) (string, error) {
	var l struct {
		Pipelines []struct {
			ID   int64
			Name string
		}
	}
	if err := d.Do(ctx, "GET", demoPath+"/pipelines?per_page=100", nil, &l); err != nil {
		return "", err
	}
	for _, p := range l.Pipelines {
		if p.Name == "Build and test" {
			d.pipeline = p.ID
			return "is there", nil
		}
	}
	var made struct{ ID int64 }
	err := d.Do(ctx, "POST", demoPath+"/pipelines", map[string]any{
		"name": "Build and test", "events": []any{map[string]any{"type": "PUSH", "refs": []string{"refs/heads/main"}}},
	}, &made)
	if err != nil {
		return "", err
	}
	d.pipeline = made.ID
	for _, a := range demoActions() {
		if err := d.Do(ctx, "POST", d.pipelinePath()+"/actions", a, nil); err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("made, with %d actions, started by a push", len(demoActions())), nil
}

func (d *demo) pipelinePath() string { return fmt.Sprintf("%s/pipelines/%d", demoPath, d.pipeline) }

// latest is the newest execution of the pipeline, or 0.
func (d *demo) latest(ctx context.Context) (int64, error) {
	var l struct{ Executions []struct{ ID int64 } }
	if err := d.Do(ctx, "GET", d.pipelinePath()+"/executions?per_page=1", nil, &l); err != nil || len(l.Executions) == 0 {
		return 0, err
	}
	return l.Executions[0].ID, nil
}

// push pushes the example with the git program and an identity of its own. The
// commit is the same every time, so only the first push moves the branch.
func (d *demo) push(ctx context.Context) (string, error) {
	before, err := d.latest(ctx)
	if err != nil {
		return "", err
	}
	dir, err := os.MkdirTemp("", "slipway-demo-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	work := filepath.Join(dir, "hello")
	if err := example.Write(work); err != nil {
		return "", err
	}
	git := func(args ...string) (string, error) {
		c := exec.CommandContext(ctx, "git", args...)
		c.Dir = work
		when := "2026-01-01T12:00:00Z"
		c.Env = []string{
			"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null", "GIT_TERMINAL_PROMPT=0", "LC_ALL=C",
			"GIT_AUTHOR_NAME=Slipway Demo", "GIT_AUTHOR_EMAIL=demo@slipway.local", "GIT_COMMITTER_NAME=Slipway Demo", "GIT_COMMITTER_EMAIL=demo@slipway.local",
			"GIT_AUTHOR_DATE=" + when, "GIT_COMMITTER_DATE=" + when,
			// The token goes by the environment, never by an argument.
			"GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=http.extraHeader", "GIT_CONFIG_VALUE_0=Authorization: Bearer " + d.Token,
		}
		b, err := c.CombinedOutput()
		if err != nil {
			return "", fmt.Errorf("git %s: %w: %s", args[0], err, strings.TrimSpace(string(b)))
		}
		return strings.TrimSpace(string(b)), nil
	}
	for _, args := range [][]string{{"init", "-q", "-b", "main"}, {"add", "-A", "-f"}, {"commit", "-q", "-m", "A page that says what it was built from"}} {
		if _, err := git(args...); err != nil {
			return "", err
		}
	}
	to := d.URL + "/git/" + demoWorkspace + "/" + demoProject + ".git"
	has, err := git("ls-remote", to, "refs/heads/main")
	if err != nil {
		return "", err
	}
	note := "nothing new"
	if has != "" { // what is there stays: somebody may have pushed to it
		own, err := git("rev-parse", "HEAD")
		if err != nil {
			return "", err
		}
		if !strings.HasPrefix(has, own) {
			note = "the repository has commits of its own, which stay"
		}
	} else {
		if _, err := git("push", "-q", to, "main:main"); err != nil {
			return "", err
		}
		if d.execution, err = d.started(ctx, before); err != nil {
			return "", err
		}
		return fmt.Sprintf("pushed, which started execution %d", d.execution), nil
	}
	var e struct{ ID int64 }
	body := map[string]any{"to_revision": map[string]any{"revision": "HEAD"}, "comment": "demo"}
	if err := d.Do(ctx, "POST", d.pipelinePath()+"/executions", body, &e); err != nil {
		return "", err
	}
	d.execution = e.ID
	return fmt.Sprintf("%s; execution %d was started by hand", note, d.execution), nil
}

// started waits for the execution that the push starts.
func (d *demo) started(ctx context.Context, before int64) (n int64, err error) {
	return n, wait(ctx, 30*time.Second, "the push started no execution", func() (bool, error) {
		n, err = d.latest(ctx)
		return n > before, err
	})
}

// run follows the execution and shows its logs.
func (d *demo) run(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, 15*time.Minute, errors.New("the execution does not end within 15 minutes"))
	defer cancel()
	f := &follower{Client: d.Client, path: fmt.Sprintf("%s/executions/%d", d.pipelinePath(), d.execution), out: d.out, indent: "    ", shown: map[string]int{}, whole: map[string]bool{}}
	e, err := f.follow(ctx)
	if err != nil {
		return "", err
	}
	if e.Status != "SUCCESSFUL" {
		return "", fmt.Errorf("execution %d is %s", d.execution, strings.TrimSuffix(e.Status+": "+e.failure(), ": "))
	}
	return fmt.Sprintf("execution %d is SUCCESSFUL", d.execution), nil
}

type demoService struct {
	ID, ServiceName, Status, Message string
	RequiresRecreate                 bool
}

// host declares the service with the digest that was built, and waits until it runs.
func (d *demo) host(ctx context.Context) (string, error) {
	h, err := d.do(ctx, "HEAD", "/v2/"+demoWorkspace+"/"+demoProject+"/manifests/latest", nil, nil)
	if err != nil {
		return "", err
	}
	if d.digest = h.Get("Docker-Content-Digest"); d.digest == "" {
		return "", errors.New("the registry names no digest for the tag latest")
	}
	body := map[string]any{
		"services": map[string]any{"web": map[string]any{
			"image": "slipway.local/" + demoWorkspace + "/" + demoProject + "@" + d.digest, "description": "web",
			"ports": []string{"8080/tcp"}, "volumes": []string{"data:/data"}, "environment": map[string]string{"IMAGE": d.digest},
		}},
		"volumes": map[string]any{"data": map[string]any{"name": "data"}},
	}
	path := "/v2/stacks/" + d.project
	var s struct{ Services []demoService }
	if err := d.Do(ctx, "PATCH", path+"?recreate=true", body, &s); err != nil {
		return "", err
	}
	err = wait(ctx, 2*time.Minute, "the service does not run", func() (bool, error) {
		if err := d.Do(ctx, "GET", path, nil, &s); err != nil {
			return false, err
		}
		for _, v := range s.Services {
			if v.ServiceName == "web" && v.Status == "error" {
				return false, errors.New("the service is in error: " + v.Message)
			}
			if v.ServiceName == "web" && v.Status == "running" && !v.RequiresRecreate {
				return true, nil
			}
		}
		return false, nil
	})
	return "service web runs " + short(d.digest), err
}

func short(digest string) string { return digest[:min(len(digest), 19)] }

func (d *demo) hostname() string { return demoProject + "." + d.server.Domain }

func (d *demo) route(ctx context.Context) (string, error) {
	var s struct{ Services []demoService }
	if err := d.Do(ctx, "GET", "/v2/stacks/"+d.project, nil, &s); err != nil {
		return "", err
	}
	var service string
	for _, v := range s.Services {
		if v.ServiceName == "web" {
			service = v.ID
		}
	}
	paths := []any{map[string]any{"path": "/", "target": map[string]any{"container": map[string]any{"id": service, "portProtocol": "8080/tcp"}}}}
	var l []struct{ ID, Hostname string }
	if err := d.Do(ctx, "GET", "/v2/ingresses?projectId="+url.QueryEscape(d.project), nil, &l); err != nil {
		return "", err
	}
	for _, i := range l {
		if i.Hostname == d.hostname() {
			return d.hostname() + " leads to web", d.Do(ctx, "PATCH", "/v2/ingresses/"+i.ID+"/paths", paths, nil)
		}
	}
	err := d.Do(ctx, "POST", "/v2/ingresses", map[string]any{"projectId": d.project, "hostname": d.hostname(), "paths": paths}, nil)
	return d.hostname() + " leads to web", err
}

// visit asks the page until it says what was just built, and prints the line
// that scripts look for.
func (d *demo) visit(ctx context.Context) error {
	_, port, err := net.SplitHostPort(d.server.IngressHTTP)
	if err != nil {
		return err
	}
	page := "http://" + net.JoinHostPort(d.hostname(), port) + "/"
	if port == "80" {
		page = "http://" + d.hostname() + "/"
	}
	dial := d.server.IngressHTTP
	if host, _, _ := net.SplitHostPort(dial); host == "" || host == "0.0.0.0" || host == "::" {
		dial = net.JoinHostPort("127.0.0.1", port)
	}
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, dial)
		},
	}}
	defer client.CloseIdleConnections()
	var status int
	var body map[string]any
	err = wait(ctx, 30*time.Second, "the page does not say what was built", func() (bool, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, page, nil)
		if err != nil {
			return false, err
		}
		req.Header.Set("Accept", "application/json")
		res, err := client.Do(req)
		if err != nil {
			return false, err
		}
		defer res.Body.Close()
		status, body = res.StatusCode, nil
		b, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
		if err != nil || status != http.StatusOK || json.Unmarshal(b, &body) != nil {
			return false, err
		}
		return body["image"] == d.digest, nil
	})
	if err != nil {
		return fmt.Errorf("%s: %w (last answer %d)", page, err, status)
	}
	fmt.Fprintf(d.out, "  done in %s\n\n%s: %s -> %d\n", time.Since(d.start).Round(time.Millisecond), d.verdict, page, status)
	for _, k := range []string{"commit", "image", "built", "visits"} {
		fmt.Fprintf(d.out, "  %-7s %v\n", k, body[k])
	}
	return nil
}

// wait calls f until it says yes or fails; progress is looked for ten times a
// second, as a person at a terminal would want it.
func wait(ctx context.Context, long time.Duration, late string, f func() (bool, error)) error {
	ctx, cancel := context.WithTimeoutCause(ctx, long, errors.New(late+" within "+long.String()))
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		ok, err := f()
		if ok || err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
