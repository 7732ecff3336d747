// Command probe is what the end-to-end tests run in containers: it counts,
// serves, dials, and tells who it is and what it was given.
package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) < 2 {
		fail(fmt.Errorf("usage: probe serve | lines N EVERY [FILE] | cat FILE | fill FILE | dial ADDRESS... | tell [FILE] | web | true"))
	}
	switch os.Args[1] {
	case "serve":
		fail(serve())
	case "lines":
		fail(lines(os.Args[2:]))
	case "cat":
		for _, file := range os.Args[2:] {
			b, err := os.ReadFile(file)
			_, _ = os.Stdout.Write(b)
			fail(err)
		}
	case "fill":
		fail(fill(os.Args[2]))
	case "dial":
		dial(os.Args[2:])
	case "tell":
		fail(tell(os.Args[2:]))
	case "web":
		fail(web())
	case "true":
		fmt.Println("it is true")
	default:
		fail(fmt.Errorf("no such thing: %s", os.Args[1]))
	}
}

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "probe:", err)
		os.Exit(1)
	}
}

// fill writes to a file as long as it lives: a disk that is full does not stop it.
func fill(file string) error {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	for b := make([]byte, 1<<20); ; {
		if _, err := f.Write(b); err != nil {
			time.Sleep(10 * time.Millisecond)
		}
	}
}

// lines says who it is, in FILE too, and then N numbered lines.
func lines(args []string) error {
	n, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	every, err := time.ParseDuration(args[1])
	if err != nil {
		return err
	}
	me := rand.Text()
	if len(args) > 2 {
		if err := note(args[2], me); err != nil {
			return err
		}
	}
	fmt.Printf("begin %s %d\n", me, os.Getpid())
	tick := time.NewTicker(every)
	for i := range n {
		<-tick.C
		fmt.Printf("line %d\n", i)
	}
	fmt.Println("end")
	return nil
}

// note appends a line to a file and sees to it that it is on disk.
func note(file, line string) error {
	f, err := os.OpenFile(file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.WriteString(line + "\n"); err != nil {
		return err
	}
	return f.Sync()
}

// serve answers on port 8080 with what it is: its boot id, its VERSION, and the
// boots that BOOTS, a file in a volume, has seen. It counts lines meanwhile,
// every EVERY, so that its log can be checked for gaps.
func serve() error {
	boot := rand.Text()
	answer := map[string]any{"boot": boot, "version": os.Getenv("VERSION")}
	if f := os.Getenv("BOOTS"); f != "" {
		if err := note(f, boot); err != nil {
			return err
		}
		b, err := os.ReadFile(f)
		if err != nil {
			return err
		}
		var boots []string
		for _, l := range bytes.Fields(b) {
			boots = append(boots, string(l))
		}
		answer["boots"] = boots
	}
	body, err := json.Marshal(answer)
	if err != nil {
		return err
	}
	fmt.Println("begin", boot)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	var wg sync.WaitGroup
	if every, err := time.ParseDuration(os.Getenv("EVERY")); err == nil {
		wg.Go(func() {
			tick := time.NewTicker(every)
			for i := 0; ; i++ {
				select {
				case <-tick.C:
					fmt.Printf("line %d\n", i)
				case <-ctx.Done():
					return
				}
			}
		})
	}
	srv := &http.Server{Addr: ":8080", ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(body)
	})}
	go func() {
		<-ctx.Done()
		end, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		_ = srv.Shutdown(end)
	}()
	if err := srv.ListenAndServe(); err != http.ErrServerClosed {
		return err
	}
	wg.Wait()
	fmt.Println("end")
	return nil
}
