package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
)

// endings hears of the end of executions as a client does that listens to the
// server's events: neither side spends anything on asking again and again.
type endings struct {
	mu   sync.Mutex
	seen map[ending]string        // status of those nobody waited for yet
	wait map[ending]chan<- string // who waits
	err  error                    // why nothing is heard any more
	stop func()
	gone chan struct{}
}

type ending struct{ Pipeline, Number int64 }

// listen returns when the server has answered, so that nothing is missed after.
func (s *slipway) listen() error {
	ctx, cancel := context.WithCancelCause(context.Background())
	stop := func() { cancel(nil) }
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL+"/slipway/v1/events", nil)
	if err != nil {
		stop()
		return err
	}
	req.Header.Set("Authorization", "Bearer "+s.Token)
	res, err := http.DefaultTransport.RoundTrip(req) //nolint:bodyclose // closed below: here, or where it is read
	if err == nil && res.StatusCode != http.StatusOK {
		res.Body.Close()
		err = errors.New("events: " + res.Status)
	}
	if err != nil {
		stop()
		return err
	}
	e := &endings{seen: map[ending]string{}, wait: map[ending]chan<- string{}, stop: stop, gone: make(chan struct{})}
	s.ends = e
	go func() {
		defer close(e.gone)
		defer res.Body.Close()
		lines := bufio.NewScanner(res.Body)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			if j, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
				e.hear(j)
			}
		}
		e.mu.Lock()
		defer e.mu.Unlock()
		e.err = fmt.Errorf("the server's events ended: %w", errors.Join(lines.Err(), ctx.Err()))
		for _, c := range e.wait {
			close(c)
		}
		e.wait = nil
	}()
	return nil
}

func (e *endings) hear(j string) {
	var v struct {
		Kind string
		Data struct {
			ending
			Status string
		}
	}
	if json.Unmarshal([]byte(j), &v) != nil || v.Kind != "execution.finished" {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if c := e.wait[v.Data.ending]; c != nil {
		delete(e.wait, v.Data.ending)
		c <- v.Data.Status
		return
	}
	e.seen[v.Data.ending] = v.Data.Status
}

// of waits for the end of an execution and gives its status.
func (e *endings) of(ctx context.Context, at ending) (string, error) {
	c := make(chan string, 1)
	e.mu.Lock()
	status, ok := e.seen[at]
	delete(e.seen, at)
	if !ok && e.err == nil {
		e.wait[at] = c
	}
	err := e.err
	e.mu.Unlock()
	if ok || err != nil {
		return status, err
	}
	select {
	case status, ok = <-c:
		if !ok {
			e.mu.Lock()
			defer e.mu.Unlock()
			return "", e.err
		}
		return status, nil
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
}

func (e *endings) close() {
	if e == nil {
		return
	}
	e.stop()
	<-e.gone
}
