package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"
)

// answer is what the probe program says.
type answer struct {
	Boot    string
	Version string
	Boots   []string
}

// visit asks a hosted service by its hostname, over a new connection.
func (s *server) visit(host string) (a answer, status int, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, s.ingress)
		},
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+host+"/", nil)
	if err != nil {
		return a, 0, err
	}
	res, err := client.Do(req)
	if err != nil {
		return a, 0, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		return a, 0, err
	}
	if res.StatusCode == http.StatusOK {
		err = json.Unmarshal(b, &a)
	}
	return a, res.StatusCode, err
}

// prober asks a service all the time and allows no failure and no other
// process behind it.
type prober struct {
	t    *testing.T
	s    *server
	host string
	stop chan struct{}
	done sync.WaitGroup

	mu      sync.Mutex
	boot    string
	good    int
	changed chan struct{} // closed and made anew at each answer
	slowest time.Duration
	bad     []string
}

// probe begins to ask; the test fails if any answer is not what it should be.
func (s *server) probe(t *testing.T, host string) *prober {
	p := &prober{t: t, s: s, host: host, stop: make(chan struct{}), changed: make(chan struct{})}
	p.done.Go(func() {
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			p.ask()
			select {
			case <-tick.C:
			case <-p.stop:
				return
			}
		}
	})
	return p
}

func (p *prober) ask() {
	begun := time.Now()
	a, status, err := p.s.visit(p.host)
	took := time.Since(begun)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.slowest = max(p.slowest, took)
	switch {
	case err != nil:
		p.bad = append(p.bad, fmt.Sprintf("%s: %v", begun.Format("15:04:05.000"), err))
	case status != http.StatusOK:
		p.bad = append(p.bad, fmt.Sprintf("%s: status %d", begun.Format("15:04:05.000"), status))
	case p.boot != "" && a.Boot != p.boot:
		p.bad = append(p.bad, fmt.Sprintf("%s: another process answers", begun.Format("15:04:05.000")))
		p.boot = a.Boot
	default:
		p.boot = a.Boot
		p.good++
		close(p.changed)
		p.changed = make(chan struct{})
	}
}

// more waits for n more good answers, or for a bad one.
func (p *prober) more(n int) {
	deadline := time.After(20 * time.Second)
	p.mu.Lock()
	want := p.good + n
	p.mu.Unlock()
	for {
		p.mu.Lock()
		enough, changed := p.good >= want || len(p.bad) > 0, p.changed
		p.mu.Unlock()
		if enough {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			p.t.Errorf("%s does not answer", p.host)
			return
		}
	}
}

// failures gives what was bad since the last call.
func (p *prober) failures() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	l := p.bad
	p.bad = nil
	return l
}

func (p *prober) end() {
	close(p.stop)
	p.done.Wait()
	for _, b := range p.failures() {
		p.t.Errorf("%s was interrupted: %s", p.host, b)
	}
	p.t.Logf("%s answered %d times, at the slowest in %s", p.host, p.good, p.slowest.Round(time.Millisecond))
}
