// Command hello is the example that Slipway takes from source to a hosted page. It is
// plain Go without dependencies, in an image of nothing but this program.
//
//	hello serve   serves the page on :8080 (PORT), counting visits in /data (DATA)
//	hello check   starts itself, looks at its own page and says what it found
package main

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"log"
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

//go:embed page.html
var pageText string

func main() {
	log.SetFlags(0)
	os.Exit(run())
}

func run() int {
	command := "serve"
	if len(os.Args) > 1 {
		command = os.Args[1]
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	var err error
	switch command {
	case "serve":
		err = serve(ctx, net.JoinHostPort("", env("PORT", "8080")), env("DATA", "/data"), nil)
	case "check":
		err = check(ctx)
	default:
		log.Printf("usage: hello [serve|check]")
		return 2
	}
	if err != nil {
		log.Printf("hello: %v", err)
		return 1
	}
	return 0
}

func env(name, otherwise string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return otherwise
}

// serve answers until ctx ends, then lets the requests under way finish.
func serve(ctx context.Context, addr, data string, ready func(addr string)) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	c := &counter{file: filepath.Join(data, "visits")}
	if err := c.load(); err != nil {
		return err
	}
	s := &http.Server{Handler: handler(c), ReadHeaderTimeout: 10 * time.Second}
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(l) }()
	log.Printf("hello is listening on %s, commit %s, %d visits so far", l.Addr(), short(env("COMMIT", "unknown")), c.n)
	if ready != nil {
		ready(l.Addr().String())
	}
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	log.Print("hello is stopping")
	end, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return s.Shutdown(end)
}

func handler(c *counter) http.Handler {
	m := http.NewServeMux()
	m.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte("ok\n"))
	})
	m.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		n, err := c.visit()
		if err != nil {
			log.Printf("count: %v", err)
			http.Error(w, "the visit could not be counted", http.StatusInternalServerError)
			return
		}
		log.Printf("visit %d from %s", n, r.RemoteAddr)
		show(w, r, n)
	})
	return m
}

// facts are what the page says of itself.
type facts struct {
	Commit string `json:"commit"`
	Image  string `json:"image"`
	Built  string `json:"built"`
	Host   string `json:"host"`
	Visits int    `json:"visits"`
}

func show(w http.ResponseWriter, r *http.Request, visits int) {
	host, _ := os.Hostname()
	f := facts{env("COMMIT", "unknown"), env("IMAGE", "unknown"), env("BUILT", "unknown"), host, visits}
	w.Header().Set("Cache-Control", "no-store")
	accept := r.Header.Get("Accept")
	if strings.Contains(accept, "application/json") {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(f)
		return
	}
	if !strings.Contains(accept, "text/html") {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = fmt.Fprintf(w, "Hello from Slipway\ncommit  %s\nimage   %s\nbuilt   %s\nvisits  %d\n", f.Commit, f.Image, f.Built, f.Visits)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
	// Without html/template, which would make the program half as large again.
	_, _ = strings.NewReplacer(
		"{{commit}}", html.EscapeString(f.Commit), "{{image}}", html.EscapeString(f.Image), "{{built}}", html.EscapeString(f.Built),
		"{{host}}", html.EscapeString(f.Host), "{{visits}}", strconv.Itoa(f.Visits),
	).WriteString(w, pageText)
}

func short(s string) string {
	if len(s) > 12 {
		return s[:12]
	}
	return s
}

// counter counts visits in a file, so that the count outlives the container.
type counter struct {
	file string
	mu   sync.Mutex
	n    int
}

func (c *counter) load() error {
	b, err := os.ReadFile(c.file)
	if errors.Is(err, os.ErrNotExist) {
		return os.MkdirAll(filepath.Dir(c.file), 0o755)
	}
	if err != nil {
		return err
	}
	if c.n, err = strconv.Atoi(strings.TrimSpace(string(b))); err != nil {
		return fmt.Errorf("%s holds no number", c.file)
	}
	return nil
}

func (c *counter) visit() (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	tmp := c.file + ".new"
	if err := os.WriteFile(tmp, []byte(strconv.Itoa(c.n+1)+"\n"), 0o644); err != nil {
		return 0, err
	}
	if err := os.Rename(tmp, c.file); err != nil {
		return 0, err
	}
	c.n++
	return c.n, nil
}
