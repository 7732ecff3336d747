package api

import (
	"testing"
	"time"
)

func TestLimiter(t *testing.T) {
	t.Parallel()
	l := limiter{most: 2}
	at := time.Date(2026, 1, 2, 3, 4, 30, 0, time.UTC)
	reset := time.Date(2026, 1, 2, 3, 5, 0, 0, time.UTC)
	for i, c := range []struct {
		token string
		at    time.Time
		left  int
		ok    bool
		reset time.Time
	}{
		{"a", at, 1, true, reset},
		{"a", at, 0, true, reset},
		{"a", at.Add(29 * time.Second), 0, false, reset},
		{"b", at.Add(29 * time.Second), 1, true, reset},
		{"a", reset, 1, true, reset.Add(time.Minute)},
		{"a", at, 0, true, reset.Add(time.Minute)}, // a clock that is put back
	} {
		q, ok := l.take(c.token, c.at)
		if q != (Quota{2, c.left, c.reset}) || ok != c.ok {
			t.Errorf("%d: %+v %v", i, q, ok)
		}
	}
}
