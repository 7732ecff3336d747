package e2e

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// zeros never end.
type zeros struct{}

func (zeros) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}

// TestFullDisk has all of a server on a small disk, which a push and an action
// fill. What did it is told so, and by the API alone there is room again.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	disk := memory(t, 0, "size=300m")
	s := noServer(t)
	s.data = filepath.Join(disk, "data")
	s.start(nil)
	free := func() int64 {
		var st unix.Statfs_t
		if err := unix.Statfs(disk, &st); err != nil {
			t.Error(err)
		}
		return int64(st.Bavail) * st.Bsize
	}
	reserve := filepath.Join(s.data, "reserve")
	takesWork := func() error {
		text, err := s.raw("GET", "/readyz", "", nil, http.StatusOK)
		if err == nil && text != "ok\n" {
			err = errors.New(text)
		}
		st, serr := os.Stat(reserve)
		if serr == nil && st.Size() == 0 {
			serr = errors.New("the reserve is being made")
		}
		return errors.Join(err, serr)
	}
	if err := takesWork(); err != nil {
		t.Fatal(err)
	}
	s.give(tool(t, "full"), "default/tool:1")

	t.Run("push", func(t *testing.T) {
		before, had := free(), s.blobs()
		for _, method := range []string{"PUT", "PATCH"} {
			res, err := s.request(t.Context(), "POST", "/v2/default/large/blobs/uploads/", nil)
			if err != nil {
				t.Fatal(err)
			}
			_ = res.Body.Close()
			at := strings.TrimPrefix(res.Header.Get("Location"), s.URL)
			to := at
			if method == "PUT" {
				to += "?digest=sha256:" + strings.Repeat("0", 64)
			}
			body, in := io.Pipe()
			go func() { // the rest is not wanted any more once there is an answer
				_, err := io.CopyN(in, zeros{}, before+(20<<20))
				_ = in.CloseWithError(err)
			}()
			res, err = s.request(t.Context(), method, to, body)
			if err != nil {
				t.Fatalf("%s: %v", method, err)
			}
			said, _ := io.ReadAll(res.Body)
			_, _ = res.Body.Close(), body.Close()
			if res.StatusCode != http.StatusInsufficientStorage || !strings.Contains(string(said), "the disk is full") && !strings.Contains(string(said), "no space left") || strings.Contains(string(said), s.data) {
				t.Errorf("%s: %s: %s", method, res.Status, said)
			}
			if said, err := s.raw("GET", at, "", nil, http.StatusNotFound); err != nil {
				t.Errorf("%s: it is kept: %v: %s", method, err, said)
			}
		}
		s.same(t, had)
		until(t, 10*time.Second, "work is taken", takesWork)
		if now := free(); now < before-(2<<20) {
			t.Errorf("%d bytes were free, and %d are", before, now)
		}
	})

	t.Run("action", func(t *testing.T) {
		j := s.job("fills", runs("slipway.local/default/tool", "1", "/probe fill /buddy/fills/big"))
		for _, f := range []func() error{
			func() error { return j.makeProject(t.Context()) }, func() error { return j.makePipeline(t.Context()) },
			func() error { return s.Do(t.Context(), "POST", j.pipelinePath()+"/executions", map[string]any{}, nil) },
		} {
			if err := f(); err != nil {
				t.Fatal(err)
			}
		}
		e, err := j.finish(t.Context())
		if err != nil || e.Status != "FAILED" || !strings.Contains(e.String(), "the disk is full: less than 16 MiB are free") {
			t.Fatalf("%s, %v", e, err)
		}
		until(t, 10*time.Second, "the reserve is given up", func() error {
			if _, err := os.Stat(reserve); err == nil {
				return fmt.Errorf("%d bytes are free", free())
			}
			return nil
		})
		if err := s.Do(t.Context(), "POST", j.pipelinePath()+"/executions", map[string]any{}, nil); err == nil || !strings.Contains(err.Error(), "free") {
			t.Errorf("new work: %v", err)
		}
		// A start is possible, and what takes the room can be deleted.
		s.kill()
		s.start(nil)
		s.must("DELETE", j.pipelinePath(), nil, nil)
		until(t, 10*time.Second, "the file system is gone, and work is taken", takesWork)
	})

	t.Run("cancel", func(t *testing.T) {
		j := s.job("runs", runs("slipway.local/default/tool", "1", "/probe serve"))
		for _, f := range []func() error{
			func() error { return j.makeProject(t.Context()) }, func() error { return j.makePipeline(t.Context()) },
			func() error { return s.Do(t.Context(), "POST", j.pipelinePath()+"/executions", map[string]any{}, nil) },
		} {
			if err := f(); err != nil {
				t.Fatal(err)
			}
		}
		// Another than the server fills the disk, and does not let go.
		f, err := os.Create(filepath.Join(disk, "filler"))
		for err == nil {
			_, err = f.Write(make([]byte, 1<<20))
		}
		if !errors.Is(err, unix.ENOSPC) {
			t.Fatal(err)
		}
		e, err := j.finish(t.Context())
		if err != nil || e.Status != "FAILED" && e.Status != "TERMINATED" {
			t.Errorf("%s, %v", e, err)
		}
		if _, err := s.raw("PATCH", fmt.Sprintf("%s/executions/%d", j.pipelinePath(), e.ID), "application/json", []byte(`{"operation":"CANCEL"}`), 200, 400); err != nil {
			t.Error(err)
		}
		s.must("DELETE", j.pipelinePath(), nil, nil)
		s.must("DELETE", j.path(), nil, nil)
		// Killed, with not one byte free but the reserve, it starts.
		_ = f.Close()
		if err := os.Remove(f.Name()); err != nil {
			t.Fatal(err)
		}
		until(t, 10*time.Second, "work is taken", takesWork)
		s.kill()
		if f, err = os.Create(f.Name()); err != nil {
			t.Fatal(err)
		}
		for err == nil {
			_, err = f.Write(make([]byte, 1<<20))
		}
		_ = f.Close()
		s.start(nil)
		s.must("GET", "/workspaces/default", nil, nil)
		if err := os.Remove(f.Name()); err != nil {
			t.Fatal(err)
		}
		until(t, 10*time.Second, "work is taken", takesWork)
	})
}
