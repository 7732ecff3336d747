package serve

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"slipway/cli"
)

// TestEnd has requests under way when the server is told to end: one that is
// being sent is answered, and who waits for events is let go at once.
func TestEnd(t *testing.T) {
	s, c, stop := begin(t)
	req, err := http.NewRequest(http.MethodGet, c.URL+"/slipway/v1/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+c.Token)
	events, err := c.HTTP.Do(req)
	if err != nil || events.StatusCode != http.StatusOK {
		t.Fatal(events, err)
	}
	defer events.Body.Close()
	conn, err := net.Dial("tcp", s.listen.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	body := `{"name": "late", "display_name": "Late"}`
	fmt.Fprintf(conn, "POST /workspaces/default/projects HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\nExpect: 100-continue\r\n\r\n", c.Token, len(body))
	in := bufio.NewReader(conn)
	if line, err := in.ReadString('\n'); err != nil || !strings.Contains(line, "100 Continue") { // its handler reads
		t.Fatal(line, err)
	}
	_, _ = in.ReadString('\n')

	begun, ended := time.Now(), make(chan struct{})
	go func() {
		stop()
		close(ended)
	}()
	if b, err := io.ReadAll(events.Body); err != nil {
		t.Errorf("the events end with %v after %q", err, b)
	}
	if _, err := io.WriteString(conn, body); err != nil {
		t.Fatal(err)
	}
	res, err := http.ReadResponse(in, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if b, err := io.ReadAll(res.Body); err != nil || res.StatusCode != http.StatusCreated {
		t.Errorf("%s %s %v", res.Status, b, err)
	}
	<-ended
	if took := time.Since(begun); took > drainTime-time.Second {
		t.Errorf("it took %s", took)
	}
}

// TestFullDisk has a server that takes no work, and says so.
func TestFullDisk(t *testing.T) {
	_, c, _ := begin(t, func(cfg *Config) { cfg.FreeMin = 101 })
	for path, want := range map[string]string{
		"/healthz": "ok\n", "/readyz": "ok, but less than 101 % of the disk", "/metrics": "\nslipway_takes_work 0\n",
	} {
		res, err := c.HTTP.Get(c.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if err != nil || res.StatusCode != http.StatusOK || !strings.Contains(string(b), want) {
			t.Errorf("%s: %d %.300s %v", path, res.StatusCode, b, err)
		}
	}
}

// TestCheck is only for tokens of all workspaces.
func TestCheck(t *testing.T) {
	_, c, _ := begin(t)
	const check = "/slipway/v1/server:check"
	var wg sync.WaitGroup
	for range 4 { // together
		wg.Go(func() {
			if err := c.Do(t.Context(), "POST", check, nil, nil); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	var one struct{ Token string }
	if err := c.Do(t.Context(), "POST", "/user/tokens", map[string]any{
		"name": "one", "scopes": []string{"WORKSPACE", "WORKSPACES_MANAGE"}, "expires_in": 1, "workspace_restrictions": []string{"default"},
	}, &one); err != nil || one.Token == "" {
		t.Fatal(one, err)
	}
	if err := cli.NewClient(c.URL, one.Token).Do(t.Context(), "POST", check, nil, nil); !cli.IsStatus(err, http.StatusForbidden) {
		t.Errorf("a token of one workspace: %v", err)
	}
}
