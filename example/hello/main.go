// Command hello is a page that says what it was built from.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// page is what is shown.
type page struct {
	Commit string `json:"commit"`
	Image  string `json:"image"`
	Built  string `json:"built"`
	Host   string `json:"host"`
	Visits int    `json:"visits"`
}

// site counts its visits in a file, which lies in a volume when it is hosted.
type site struct {
	mu   sync.Mutex
	file string
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "hello:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	what := "serve"
	if len(args) > 0 {
		what = args[0]
	}
	switch what {
	case "serve":
		return serve()
	case "check":
		return check()
	}
	return fmt.Errorf("usage: hello [serve|check], not %q", what)
}

func serve() error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	s := &site{file: "/data/visits"}
	l, err := net.Listen("tcp", ":8080")
	if err != nil {
		return err
	}
	srv := &http.Server{Handler: s.handler(), ReadHeaderTimeout: 5 * time.Second}
	fmt.Println("serving on", l.Addr(), "built from", env("COMMIT"))
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	fmt.Println("stopping")
	end, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return srv.Shutdown(end)
}

// check is the test that the pipeline runs in a container of the new image.
func check() error {
	dir, err := os.MkdirTemp("/", "check")
	if err != nil {
		return err
	}
	s := &site{file: filepath.Join(dir, "visits")}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	srv := &http.Server{Handler: s.handler(), ReadHeaderTimeout: 5 * time.Second}
	go func() { _ = srv.Serve(l) }()
	defer srv.Close()
	for want := 1; want <= 2; want++ {
		req, err := http.NewRequest(http.MethodGet, "http://"+l.Addr().String()+"/", nil)
		if err != nil {
			return err
		}
		req.Header.Set("Accept", "application/json")
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		var p page
		err = json.NewDecoder(res.Body).Decode(&p)
		res.Body.Close()
		switch {
		case err != nil:
			return err
		case p.Visits != want:
			return fmt.Errorf("visit %d was counted as %d", want, p.Visits)
		case p.Commit == "" || p.Commit == "unknown":
			return errors.New("the image does not know its commit")
		}
		fmt.Printf("ok: visit %d, commit %s\n", p.Visits, p.Commit)
	}
	return nil
}

func env(name string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return "unknown"
}

func (s *site) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /{$}", s.show)
	return mux
}

func (s *site) show(w http.ResponseWriter, r *http.Request) {
	host, _ := os.Hostname()
	p := page{Commit: env("COMMIT"), Image: env("IMAGE"), Built: env("BUILT"), Host: host, Visits: s.visit()}
	if strings.Contains(r.Header.Get("Accept"), "application/json") {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(p)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_ = html.Execute(w, p)
}

// visit counts one more; a volume that cannot be written is no reason to show
// nothing.
func (s *site) visit() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, _ := os.ReadFile(s.file)
	n, _ := strconv.Atoi(strings.TrimSpace(string(b)))
	n++
	if err := os.WriteFile(s.file, []byte(strconv.Itoa(n)), 0o644); err != nil {
		fmt.Fprintln(os.Stderr, "count:", err)
	}
	return n
}

var html = template.Must(template.New("page").Parse(`<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Hello from Slipway</title>
<style>
  :root { color-scheme: light dark; --ink: #14213d; --paper: #f6f7fb; --card: #fff; --line: #dfe3ee; --accent: #1c7c8c; }
  @media (prefers-color-scheme: dark) { :root { --ink: #e8ecf6; --paper: #0e1524; --card: #172136; --line: #2a3652; --accent: #5cc4d3; } }
  body { margin: 0; min-height: 100vh; display: grid; place-items: center; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
  main { width: min(44rem, calc(100vw - 3rem)); background: var(--card); border: 1px solid var(--line); border-radius: 14px; padding: 2.5rem; box-sizing: border-box; }
  svg { display: block; color: var(--accent); }
  h1 { margin: 1rem 0 .25rem; font-size: 1.9rem; line-height: 1.2; }
  p { margin: 0 0 1.75rem; opacity: .8; }
  dl { display: grid; grid-template-columns: 6rem 1fr; gap: .6rem 1rem; margin: 0; padding-top: 1.5rem; border-top: 1px solid var(--line); }
  dt { opacity: .65; }
  dd { margin: 0; font-family: ui-monospace, monospace; font-size: .88rem; overflow-wrap: anywhere; align-self: center; }
  strong { color: var(--accent); }
</style>
<main>
  <svg width="56" height="40" viewBox="0 0 56 40" fill="none" stroke="currentColor" stroke-width="3" stroke-linecap="round" stroke-linejoin="round" aria-hidden="true">
    <path d="M4 36 52 22M14 20h26l-4 9-17 5zM24 20v-8h9l3 8M28 12V5"/>
  </svg>
  <h1>It was pushed, built, tested and hosted.</h1>
  <p>By one program, on this machine, a moment ago. You are visit <strong>{{.Visits}}</strong>.</p>
  <dl>
    <dt>commit</dt><dd>{{.Commit}}</dd>
    <dt>image</dt><dd>{{.Image}}</dd>
    <dt>built</dt><dd>{{.Built}}</dd>
    <dt>container</dt><dd>{{.Host}}</dd>
  </dl>
</main>
</html>
`))
