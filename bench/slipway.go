package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"slipway/cli"
)

// slipway is the server under test.
type slipway struct {
	*cli.Client
	program, data, ingress string
	cmd                    *exec.Cmd
	gone                   chan struct{}
	readyAfter             time.Duration
	ends                   *endings
}

func startSlipway(ctx context.Context, program, data string) (*slipway, error) {
	var addr [2]string
	for i := range addr {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		addr[i] = l.Addr().String()
		defer l.Close()
		l.Close()
	}
	s := &slipway{program: program, data: data, ingress: addr[1], gone: make(chan struct{})}
	log, err := os.Create(data + ".log")
	if err != nil {
		return nil, err
	}
	defer log.Close()
	s.cmd = exec.Command(program, "serve", "--data-dir", data, "--listen", addr[0], "--ingress-http", addr[1], "--ingress-https", "")
	s.cmd.Stdout, s.cmd.Stderr = log, log
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	t0 := time.Now()
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	go func() { _ = s.cmd.Wait(); close(s.gone) }()
	for {
		if res, err := http.Get("http://" + addr[0] + "/readyz"); err == nil {
			res.Body.Close()
			if res.StatusCode == http.StatusOK {
				break
			}
		}
		select {
		case <-s.gone:
			b, _ := os.ReadFile(log.Name())
			return nil, fmt.Errorf("serve ended: %s", tail(string(b)))
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(2 * time.Millisecond):
		}
	}
	s.readyAfter = time.Since(t0)
	b, err := os.ReadFile(filepath.Join(data, "admin-token"))
	if err != nil {
		return nil, err
	}
	s.Client = cli.NewClient("http://"+addr[0], strings.TrimSpace(string(b)))
	return s, s.listen()
}

func (s *slipway) close() error {
	if s == nil {
		return nil
	}
	s.ends.close()
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	<-s.gone
	out, err := exec.Command(s.program, "stop", "--all", "--data-dir", s.data).CombinedOutput()
	if err != nil {
		return fmt.Errorf("stop --all: %w: %s", err, out)
	}
	return nil
}

const project = "/workspaces/default/projects/bench"

func pipelinePath(id int64) string { return project + "/pipelines/" + strconv.FormatInt(id, 10) }

// pipeline makes a pipeline with actions, and gives its number.
func (s *slipway) pipeline(ctx context.Context, name string, actions ...map[string]any) (id int64, err error) {
	var ids []int64
	var made struct{ ID int64 }
	if err := s.Do(ctx, "POST", project+"/pipelines", map[string]any{"name": name}, &made); err != nil {
		return 0, err
	}
	id = made.ID
	for _, a := range actions {
		if _, ok := a["use_image_from_action"]; ok {
			a["docker_build_action_id"] = ids[len(ids)-1]
		}
		if err := s.Do(ctx, "POST", pipelinePath(id)+"/actions", a, &made); err != nil {
			return 0, err
		}
		ids = append(ids, made.ID)
	}
	return id, nil
}

type execution struct {
	ID               int64
	Status           string
	ActionExecutions []struct {
		ID         string    `json:"action_execution_id"`
		Status     string    `json:"status"`
		Start      time.Time `json:"start_date"`
		Finish     time.Time `json:"finish_date"`
		ErrMessage string    `json:"error_message"`
	} `json:"action_executions"`
}

// execute starts an execution and waits for its end; the wall time is that of
// a client, from before the request until it has heard of the end.
func (s *slipway) execute(ctx context.Context, pipeline int64) (execution, time.Duration, error) {
	t0 := time.Now()
	var e execution
	path := pipelinePath(pipeline)
	if err := s.Do(ctx, "POST", path+"/executions", map[string]any{"to_revision": map[string]any{"revision": "HEAD"}}, &e); err != nil {
		return e, 0, err
	}
	status, err := s.ends.of(ctx, ending{pipeline, e.ID})
	wall := time.Since(t0)
	if err != nil {
		return e, 0, err
	}
	if err := s.Do(ctx, "GET", path+"/executions/"+strconv.FormatInt(e.ID, 10), nil, &e); err != nil {
		return e, 0, err
	}
	if status != "SUCCESSFUL" || e.Status != status {
		var why []string
		for _, a := range e.ActionExecutions {
			why = append(why, a.Status+" "+a.ErrMessage)
		}
		return e, 0, fmt.Errorf("execution is %s: %s", status, strings.Join(why, "; "))
	}
	return e, wall, nil
}

// push pushes a folder to the project's repository.
func (s *slipway) push(ctx context.Context, dir string) error {
	git := func(args ...string) error {
		c := exec.CommandContext(ctx, "git", args...)
		c.Dir = dir
		c.Env = []string{
			"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "GIT_CONFIG_NOSYSTEM=1", "GIT_AUTHOR_NAME=b", "GIT_AUTHOR_EMAIL=b@b", "GIT_COMMITTER_NAME=b", "GIT_COMMITTER_EMAIL=b@b",
			"GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=http.extraHeader", "GIT_CONFIG_VALUE_0=Authorization: Bearer " + s.Token,
		}
		if out, err := c.CombinedOutput(); err != nil {
			return fmt.Errorf("git %s: %w: %s", args[0], err, out)
		}
		return nil
	}
	return errors.Join(git("init", "-q", "-b", "main"), git("add", "-A"), git("commit", "-q", "-m", "bench"), git("push", "-q", s.URL+"/git/default/bench.git", "main"))
}

func (s *slipway) load(ctx context.Context, name string, archive []byte) error {
	return s.Do(ctx, "POST", "/slipway/v1/images:load?workspace=default&name="+name, io.NopCloser(bytes.NewReader(archive)), nil)
}
