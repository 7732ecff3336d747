package e2e

import (
	"io"
	"net/http"
	"strings"
	"testing"
)

// TestSmoke starts and stops a server and hosts one service on it.
func TestSmoke(t *testing.T) {
	s := newServer(t)
	for path, want := range map[string]string{"/healthz": "ok", "/readyz": "ok", "/metrics": "slipway_request_duration_seconds"} {
		res, err := http.Get(s.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if res.StatusCode != http.StatusOK || !strings.Contains(string(b), want) || res.Header.Get("X-Request-Id") == "" {
			t.Errorf("%s: %d %.200s, request id %q", path, res.StatusCode, b, res.Header.Get("X-Request-Id"))
		}
	}
	if _, err := s.hostSteady(t.Context()); err != nil {
		t.Fatal(err)
	}
	count, pool, _ := s.footprint()
	t.Logf("with one service: %v, pool %d", count, pool)
}
