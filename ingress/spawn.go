package ingress

import (
	"bufio"
	"context"
	"debug/elf"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"slipway/crash"
)

// spawn starts a process that outlives this one, and waits until it serves.
func (p *Process) spawn(ctx context.Context, successor bool) error {
	out, err := os.OpenFile(p.cfg.Log, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o640)
	if err != nil {
		return fmt.Errorf("ingress: %w", err)
	}
	defer out.Close()
	ready, theirs, err := os.Pipe()
	if err != nil {
		return err
	}
	defer ready.Close()
	// not CommandContext: it must not end with us
	cmd := exec.Command(p.cfg.Program, p.args(successor)...)
	cmd.Dir = "/"
	cmd.Env = environment()
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = out, out, []*os.File{theirs}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	_ = theirs.Close()
	if err != nil {
		return fmt.Errorf("start the ingress process: %w", err)
	}
	pid := cmd.Process.Pid
	_ = cmd.Process.Release()
	p.mu.Lock()
	p.children = append(p.children, pid)
	p.mu.Unlock()
	crash.At("ingress: process started")
	stop := context.AfterFunc(ctx, func() { _ = ready.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	var s started
	if err := json.NewDecoder(bufio.NewReader(ready)).Decode(&s); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return fmt.Errorf("the ingress process ended while it started; see %s", p.cfg.Log)
	}
	switch {
	case s.OK:
		return nil
	case s.Error == errLocked.Error():
		return errLocked
	}
	return errors.New(s.Error)
}

func (p *Process) args(successor bool) []string {
	p.mu.Lock()
	http, https := p.cfg.HTTP, p.cfg.HTTPS
	if !successor && p.now.HTTP != "" { // a port that was chosen stays
		http = p.now.HTTP
	}
	if !successor && p.now.HTTPS != "" {
		https = p.now.HTTPS
	}
	p.mu.Unlock()
	args := []string{
		"ingress", "--data-dir", p.cfg.DataDir, "--run-dir", p.cfg.RunDir, "--http", http, "--https", https,
		"--want-http", p.cfg.HTTP, "--want-https", p.cfg.HTTPS,
		"--log", p.cfg.Log, "--build", p.cfg.build, "--ready-fd", "3",
	}
	if successor {
		args = append(args, "--successor")
	}
	if p.cfg.Drain > 0 {
		args = append(args, "--drain", p.cfg.Drain.String())
	}
	if len(p.cfg.TrustedProxies) > 0 {
		l := make([]string, len(p.cfg.TrustedProxies))
		for i, pre := range p.cfg.TrustedProxies {
			l[i] = pre.String()
		}
		args = append(args, "--trusted-proxies", strings.Join(l, ","))
	}
	return append(args, p.cfg.extra...)
}

// environment is little on purpose: settings of the server may be secrets.
func environment() []string {
	var env []string
	for _, k := range []string{"PATH", "TZ", "TMPDIR", "GODEBUG", "GOTRACEBACK", "GOCOVERDIR", "GORACE"} {
		if v, ok := os.LookupEnv(k); ok {
			env = append(env, k+"="+v)
		}
	}
	return env
}

// buildID tells programs apart: the linker's build id, else size and time.
func buildID(program string) string {
	if f, err := elf.Open(program); err == nil {
		defer f.Close()
		if s := f.Section(".note.go.buildid"); s != nil {
			if b, err := s.Data(); err == nil && len(b) > 24 {
				return strings.Trim(string(b[16:]), "\x00")
			}
		}
		if s := f.Section(".note.gnu.build-id"); s != nil {
			if b, err := s.Data(); err == nil && len(b) > 16 {
				return hex.EncodeToString(b[16:])
			}
		}
	}
	if st, err := os.Stat(program); err == nil {
		return fmt.Sprintf("%d-%d", st.Size(), st.ModTime().UnixNano())
	}
	return "unknown"
}
