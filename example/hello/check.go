package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// check is the test of the image: it serves on a port of its own, with data of
// its own, and looks at what it answers.
func check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	data := filepath.Join(env("TMPDIR", "/"), fmt.Sprintf("hello-check-%d", os.Getpid()))
	defer os.RemoveAll(data)
	serving, cancelServing := context.WithCancelCause(ctx)
	stop := func() { cancelServing(errors.New("the check is over")) }
	defer stop()
	addr, ended := make(chan string, 1), make(chan error, 1)
	go func() { ended <- serve(serving, "127.0.0.1:0", data, func(a string) { addr <- a }) }()
	var at string
	select {
	case err := <-ended:
		return err
	case at = <-addr:
	}
	steps := []struct {
		what, path, accept string
		status             int
		want               string
	}{
		{"it is alive", "/healthz", "", 200, "ok"},
		{"the page counts", "/", "", 200, "visits  1"},
		{"the count goes on", "/", "", 200, "visits  2"},
		{"programs can read it", "/", "application/json", 200, `"visits":3`},
		{"the page is for people", "/", "text/html", 200, "<!doctype html>"},
		{"the page names its commit", "/", "text/html", 200, env("COMMIT", "unknown")},
		{"other pages are not there", "/nothing", "", 404, ""},
	}
	failed := 0
	for _, s := range steps {
		err := look(ctx, "http://"+at+s.path, s.accept, s.status, s.want)
		if err != nil {
			failed++
			fmt.Printf("FAIL  %s: %v\n", s.what, err)
			continue
		}
		fmt.Printf("ok    %s\n", s.what)
	}
	stop()
	if err := <-ended; err != nil {
		return fmt.Errorf("it does not stop well: %w", err)
	}
	fmt.Println("ok    it stops when asked to")
	if failed > 0 {
		return fmt.Errorf("%d of %d checks failed", failed, len(steps)+1)
	}
	fmt.Printf("all %d checks passed\n", len(steps)+1)
	return nil
}

func look(ctx context.Context, url, accept string, status int, want string) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	r.Header.Set("Accept", accept)
	a, err := http.DefaultClient.Do(r)
	if err != nil {
		return err
	}
	defer a.Body.Close()
	b, err := io.ReadAll(a.Body)
	if err != nil {
		return err
	}
	if a.StatusCode != status {
		return fmt.Errorf("status %d instead of %d", a.StatusCode, status)
	}
	if !strings.Contains(string(b), want) {
		return errors.New("the answer does not hold " + want)
	}
	return nil
}
