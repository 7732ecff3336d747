package api

import (
	"errors"
	"sync"
	"time"
)

// Quota is how many requests a token may still make.
type Quota struct {
	Limit     int // in a minute
	Remaining int
	Reset     time.Time // when there are Limit again
}

var errTooMany = errors.New("the token has made too many requests in this minute; X-Rate-Limit-Reset says when it may go on")

// limiter counts the requests of each token in the minute that runs. The counts
// are of this process: a restart begins anew.
type limiter struct {
	most int

	mu    sync.Mutex
	until time.Time      // the end of the minute
	made  map[string]int // by token
}

// take counts one request of a token; ok is false for one too many.
func (l *limiter) take(token string, now time.Time) (q Quota, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !now.Before(l.until) {
		l.until, l.made = now.Truncate(time.Minute).Add(time.Minute), map[string]int{}
	}
	l.made[token]++
	left := l.most - l.made[token]
	return Quota{l.most, max(left, 0), l.until}, left >= 0
}
