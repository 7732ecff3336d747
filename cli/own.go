package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// OwnDemo starts a server of its own on free ports, runs the demo twice (the
// second time from the caches), asks the page once more, and ends everything.
func OwnDemo(ctx context.Context, out io.Writer) (err error) {
	self, err := executable()
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "slipway-own-")
	if err != nil {
		return err
	}
	data := filepath.Join(dir, "data")
	ports, err := freePorts(3)
	if err != nil {
		return err
	}
	logFile, err := os.Create(filepath.Join(dir, "serve.log"))
	if err != nil {
		return err
	}
	defer logFile.Close()
	cmd := exec.Command(self, "serve", "--data-dir", data, "--listen", ports[0], "--ingress-http", ports[1], "--ingress-https", ports[2])
	cmd.Stdout, cmd.Stderr = logFile, logFile
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := cmd.Start(); err != nil {
		return err
	}
	gone := make(chan struct{})
	var exit error // set when gone is closed
	go func() {
		exit = cmd.Wait()
		close(gone)
	}()
	defer func() {
		if err != nil {
			showTail(logFile.Name(), out)
		}
		_ = cmd.Process.Signal(syscall.SIGTERM)
		<-gone
		// Not ctx: it may be what ended the demo.
		stop := exec.Command(self, "stop", "--all", "--data-dir", data)
		stop.Stdout, stop.Stderr = out, out
		if err = errors.Join(err, stop.Run(), os.RemoveAll(dir)); err == nil {
			fmt.Fprintln(out, "\nThe page named the image that had just been built, both times. Server, ingress, containers and files are gone again.")
		}
	}()
	c := NewClient("http://"+ports[0], "")
	if err := ready(ctx, c, gone); err != nil {
		select {
		case <-gone:
			return fmt.Errorf("the server ended at its start: %w", exit)
		default:
			return err
		}
	}
	b, err := os.ReadFile(filepath.Join(data, "admin-token"))
	if err != nil {
		return err
	}
	c.Token = strings.TrimSpace(string(b))
	fmt.Fprintln(out, "first run, nothing cached:")
	if err := runDemo(ctx, c, out, "Checked"); err != nil {
		return err
	}
	fmt.Fprintln(out, "\nsecond run, from the caches:")
	return runDemo(ctx, c, out, "Checked")
}

func ready(ctx context.Context, c *Client, gone <-chan struct{}) error {
	return wait(ctx, time.Minute, "the server is not ready", func() (bool, error) {
		select {
		case <-gone:
			return false, errors.New("the server ended")
		default:
		}
		res, err := c.HTTP.Get(c.URL + "/readyz")
		if err != nil {
			return false, nil //nolint:nilerr // it does not listen yet
		}
		res.Body.Close()
		return res.StatusCode == http.StatusOK, nil
	})
}

// freePorts gives addresses that were free a moment ago.
func freePorts(n int) ([]string, error) {
	var l []string
	for range n {
		s, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer s.Close()
		l = append(l, s.Addr().String())
	}
	return l, nil
}

func showTail(file string, out io.Writer) {
	f, err := os.Open(file)
	if err != nil {
		return
	}
	defer f.Close()
	var last []string
	for s := bufio.NewScanner(f); s.Scan(); {
		if last = append(last, s.Text()); len(last) > 40 {
			last = last[1:]
		}
	}
	fmt.Fprintln(out, "the server's last lines:")
	for _, l := range last {
		fmt.Fprintln(out, "  "+l)
	}
}
