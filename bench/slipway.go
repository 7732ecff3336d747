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
	return s, nil
}

func (s *slipway) close() error {
	if s == nil {
		return nil
	}
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	<-s.gone
	out, err := exec.Command(s.program, "stop", "--all", "--data-dir", s.data).CombinedOutput()
	if err != nil {
		return fmt.Errorf("stop --all: %w: %s", err, out)
	}
	return nil
}

const project = "/workspaces/default/projects/bench"

// pipeline makes a pipeline with actions and gives its path.
func (s *slipway) pipeline(ctx context.Context, name string, more map[string]any, actions ...map[string]any) (string, error) {
	body := map[string]any{"name": name}
	for k, v := range more {
		body[k] = v
	}
	var made struct{ ID int64 }
	if err := s.Do(ctx, "POST", project+"/pipelines", body, &made); err != nil {
		return "", err
	}
	path := project + "/pipelines/" + strconv.FormatInt(made.ID, 10)
	for _, a := range actions {
		if err := s.Do(ctx, "POST", path+"/actions", a, nil); err != nil {
			return "", err
		}
	}
	return path, nil
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
// a client, from before the request to the answer that says it has ended.
func (s *slipway) execute(ctx context.Context, path string) (execution, time.Duration, error) {
	t0 := time.Now()
	var e execution
	if err := s.Do(ctx, "POST", path+"/executions", map[string]any{"to_revision": map[string]any{"revision": "HEAD"}}, &e); err != nil {
		return e, 0, err
	}
	at := path + "/executions/" + strconv.FormatInt(e.ID, 10)
	for {
		if err := s.Do(ctx, "GET", at, nil, &e); err != nil {
			return e, 0, err
		}
		switch e.Status {
		case "SUCCESSFUL":
			return e, time.Since(t0), nil
		case "ENQUEUED", "INPROGRESS":
		default:
			var why []string
			for _, a := range e.ActionExecutions {
				why = append(why, a.Status+" "+a.ErrMessage)
			}
			return e, 0, fmt.Errorf("execution is %s: %s", e.Status, strings.Join(why, "; "))
		}
		select {
		case <-ctx.Done():
			return e, 0, ctx.Err()
		case <-time.After(3 * time.Millisecond):
		}
	}
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
