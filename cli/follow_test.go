package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
)

// script is a server that answers looks at an execution one after the other, the
// last one for ever; "" is an answer that breaks off.
type script struct {
	mu        sync.Mutex
	looks     []string // statuses
	lines     []string // what is in the log at each look
	cancelled int
	asked     func(look int)
}

func (s *script) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case r.Method == "PATCH":
		b, _ := io.ReadAll(r.Body)
		if strings.Contains(string(b), "CANCEL") {
			s.cancelled++
		}
		_, _ = io.WriteString(w, "{}")
	case strings.Contains(r.URL.Path, "/logs"):
		l := strings.Fields(s.lines[0])
		if from := r.URL.Query().Get("offset"); from != "0" {
			l = l[len(from):] // offsets of these scripts are below ten: one digit, one line
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"logs": l})
	default:
		status := s.looks[0]
		if len(s.looks) > 1 {
			s.looks, s.lines = s.looks[1:], s.lines[1:]
		}
		if s.asked != nil {
			s.asked(len(s.looks))
		}
		if status == "" {
			panic(http.ErrAbortHandler)
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"status": status, "action_executions": []any{
			map[string]any{"action_execution_id": "a", "status": status, "start_date": "2026-01-01", "error_message": "ended badly", "action": map[string]any{"name": "Test"}},
			map[string]any{"action_execution_id": "b", "status": "INITIAL", "start_date": nil, "action": map[string]any{"name": "Later"}},
		}})
	}
}

func (s *script) follow(t *testing.T, interrupts <-chan os.Signal) (*execution, string, error) {
	t.Helper()
	srv := httptest.NewServer(s)
	defer srv.Close()
	var out bytes.Buffer
	f := &follower{Client: NewClient(srv.URL, "t"), path: "/x", out: &out, shown: map[string]int{}, whole: map[string]bool{}, interrupts: interrupts}
	e, err := f.follow(t.Context())
	return e, out.String(), err
}

// TestFollow: lines come once each, also over an answer that breaks off.
func TestFollow(t *testing.T) {
	s := &script{looks: []string{"ENQUEUED", "INPROGRESS", "", "", "INPROGRESS", "FAILED"}, lines: []string{"", "", "one", "one", "one", "one"}}
	e, out, err := s.follow(t, nil)
	if err != nil || e.Status != "FAILED" || e.failure() != "Test: ended badly" {
		t.Errorf("%+v, %v", e, err)
	}
	if strings.Count(out, "Test | one\n") != 1 || strings.Count(out, "trying again") != 1 || strings.Count(out, "answers again") != 1 {
		t.Errorf("%q", out)
	}
}

// TestInterrupts: the first cancels the run and goes on to its end, the second
// leaves it.
func TestInterrupts(t *testing.T) {
	interrupts := make(chan os.Signal, 2)
	s := &script{looks: []string{"INPROGRESS", "INPROGRESS", "INPROGRESS", "TERMINATED"}, lines: []string{"", "", "", ""}}
	s.asked = func(left int) {
		if left == 3 {
			interrupts <- os.Interrupt
		}
	}
	e, _, err := s.follow(t, interrupts)
	if err != nil || e.Status != "TERMINATED" || s.cancelled != 1 {
		t.Errorf("%+v, %v, cancelled %d times", e, err, s.cancelled)
	}
	s = &script{looks: []string{"INPROGRESS"}, lines: []string{""}}
	interrupts <- os.Interrupt
	interrupts <- os.Interrupt
	if _, _, err := s.follow(t, interrupts); !errors.Is(err, errLeft) || s.cancelled != 1 {
		t.Errorf("%v, cancelled %d times", err, s.cancelled)
	}
}

// TestFollowRefused: what the server refuses is the end.
func TestFollowRefused(t *testing.T) {
	srv := httptest.NewServer(http.NotFoundHandler())
	defer srv.Close()
	f := &follower{Client: NewClient(srv.URL, "t"), path: "/x", out: io.Discard, shown: map[string]int{}, whole: map[string]bool{}}
	if _, err := f.follow(t.Context()); !IsStatus(err, http.StatusNotFound) {
		t.Error(err)
	}
}
