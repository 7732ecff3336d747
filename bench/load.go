package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"slipway/cli"
)

// clients is how many connections ask at the same time.
const clients = 64

// loadTime is how long each kind of request is made.
const loadTime = 5 * time.Second

// load is how many requests many clients get answered together.
func (b *bench) load(ctx context.Context) error {
	var at [clients]string
	for i := range at {
		id, err := b.ours.pipeline(ctx, fmt.Sprint("load ", i))
		if err != nil {
			return err
		}
		at[i] = pipelinePath(id)
	}
	_, rate, err := b.hammer(ctx, func(c *cli.Client, i, _ int) error {
		return c.Do(ctx, "GET", at[i], nil, nil)
	})
	if err != nil {
		return err
	}
	b.rows = append(b.rows, atLeast("reads by 64 connections (GET of a pipeline)", rate, 3000, "/s"))
	took, rate, err := b.hammer(ctx, func(c *cli.Client, i, nth int) error {
		return c.Do(ctx, "PATCH", at[i], map[string]any{"description": fmt.Sprint("change ", nth)}, nil)
	})
	if err != nil {
		return err
	}
	p99 := ms(percentile(took, 99))
	b.rows = append(b.rows,
		atLeast("writes by 64 connections (PATCH of a pipeline), each on disk", rate, 500, "/s"),
		atMost("the slowest hundredth of them (p99)", p99, 100, "ms"))
	return nil
}

// hammer lets every client make one request after the other and gives how long
// each took, and how many were answered in a second.
func (b *bench) hammer(ctx context.Context, request func(c *cli.Client, client, nth int) error) ([]time.Duration, float64, error) {
	c := cli.NewClient(b.ours.URL, b.ours.Token)
	t := &http.Transport{MaxIdleConnsPerHost: clients, MaxConnsPerHost: clients}
	defer t.CloseIdleConnections()
	c.HTTP = &http.Client{Transport: t, Timeout: time.Minute}
	took, errs := make([][]time.Duration, clients), make([]error, clients)
	begin := time.Now()
	var wg sync.WaitGroup
	for i := range clients {
		wg.Go(func() {
			for n := 0; time.Since(begin) < loadTime && ctx.Err() == nil; n++ {
				t0 := time.Now()
				if errs[i] = request(c, i, n); errs[i] != nil {
					return
				}
				took[i] = append(took[i], time.Since(t0))
			}
		})
	}
	wg.Wait()
	all := slices.Concat(took...)
	return all, float64(len(all)) / time.Since(begin).Seconds(), errors.Join(append(errs, context.Cause(ctx))...)
}

func percentile(l []time.Duration, nth int) time.Duration {
	l = slices.Sorted(slices.Values(l))
	if len(l) == 0 {
		return 0
	}
	return l[(len(l)-1)*nth/100]
}

// queue is what a thousand runs that wait do to who reads meanwhile, and
// whether they begin in the order they came.
func (b *bench) queue(ctx context.Context) error {
	const n = 1000
	id, err := b.ours.pipeline(ctx, "queue", runAction("true", "true"))
	if err != nil {
		return err
	}
	if err := b.ours.Do(ctx, "PATCH", pipelinePath(id), map[string]any{"no_skip_to_most_recent": true}, nil); err != nil {
		return err
	}
	at := pipelinePath(id) + "/executions"
	made := make([]execution, n)
	for i := range made {
		if err := b.ours.Do(ctx, "POST", at, map[string]any{"to_revision": map[string]any{"revision": "HEAD"}}, &made[i]); err != nil {
			return err
		}
	}
	ended := make(chan error, 1)
	go func() {
		for _, e := range made {
			if status, err := b.ours.ends.of(ctx, ending{id, e.ID}); err != nil || status != "SUCCESSFUL" {
				ended <- errors.Join(err, fmt.Errorf("execution %d is %q", e.ID, status))
				return
			}
		}
		ended <- nil
	}()
	var took []time.Duration
	for i := 0; ; i++ {
		select {
		case err = <-ended:
		default:
			t0 := time.Now()
			if err := b.ours.Do(ctx, "GET", fmt.Sprintf("%s/%d", at, made[i%n].ID), nil, nil); err != nil {
				return err
			}
			took = append(took, time.Since(t0))
			settle(ctx, 5*time.Millisecond)
			continue
		}
		break
	}
	if err != nil {
		return err
	}
	var last time.Time
	for i := range made {
		var e execution
		if err := b.ours.Do(ctx, "GET", fmt.Sprintf("%s/%d", at, made[i].ID), nil, &e); err != nil {
			return err
		}
		begun := e.ActionExecutions[0].Start
		if begun.Before(last) {
			return fmt.Errorf("execution %d began before one that came earlier", e.ID)
		}
		last = begun
	}
	p99 := ms(percentile(took, 99))
	b.rows = append(b.rows, atMost("GET of an execution while 1,000 are queued and run in order (p99)", p99, 20, "ms"))
	return nil
}
