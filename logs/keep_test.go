package logs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"slipway/logs/segment"
)

func mode(t *testing.T, dir string) string {
	t.Helper()
	list, err := segment.List(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, s := range list {
		w := fmt.Sprint(s.K)
		if s.Plain {
			st, err := os.Stat(filepath.Join(dir, segment.Name(s.K)))
			if errors.Is(err, fs.ErrNotExist) {
				return mode(t, dir) // it was compressed just now
			}
			if err != nil {
				t.Fatal(err)
			}
			w += map[bool]string{true: "c", false: "w"}[st.Mode().Perm() == segment.ModeClosed]
		}
		if s.Zst {
			w += "z"
		}
		out = append(out, w)
	}
	return strings.Join(out, " ")
}

func fill(t testing.TB, dir string, segs int) int {
	t.Helper()
	w := writer(t, dir, segment.Options{Segment: 20 << 10})
	n := 0
	for ; ; n++ {
		w.Line('o', fmt.Appendf(nil, "line %d of this log", n))
		if list, _ := segment.List(dir); n%50 == 0 && len(list) > segs {
			break
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return n + 1
}

func TestKeep(t *testing.T) {
	t.Parallel()
	l := newLogs(t)
	k := &keeper{l: l, keep: 7 * 24 * time.Hour}
	action, service := l.Action("x", "1"), l.Service("s")
	n := fill(t, action, 3)
	fill(t, service, 3)
	before, _ := read(t, l, action, Query{})
	check := func(after time.Duration, a, s string) {
		t.Helper()
		if err := k.pass(t.Context(), time.Now().Add(after)); err != nil {
			t.Error(err)
		}
		if ga, gs := mode(t, action), mode(t, service); ga != a || gs != s {
			t.Errorf("after %v: %q and %q, should be %q and %q", after, ga, gs, a, s)
		}
	}
	check(0, "0c 1c 2c 3w", "0c 1c 2c 3w")
	check(11*time.Minute, "0z 1z 2z 3w", "0z 1z 2z 3w")
	w := writer(t, action, segment.Options{}) // somebody waits with a line that has not ended
	check(2*time.Hour, "0z 1z 2z 3w", "0z 1z 2z 3w")
	for range 300 {
		w.Line('o', []byte("a line to make it large enough"))
	}
	check(30*time.Minute, "0z 1z 2z 3w", "0z 1z 2z 3w")
	check(2*time.Hour, "0z 1z 2z 3z", "0z 1z 2z 3w")
	check(25*time.Hour, "0z 1z 2z 3z", "0z 1z 2z 3c")
	check(8*24*time.Hour, "0z 1z 2z 3z", "3c")
	w.Line('o', []byte("goes on"))
	if got := mode(t, action); got != "0z 1z 2z 3z 4w" {
		t.Error(got)
	}
	after, total := read(t, l, action, Query{})
	if total != int64(n+301) || !reflect.DeepEqual(before, after[:n]) || after[n+300].Text != "goes on" || after[n+300].N != int64(n+300) {
		t.Errorf("%d lines", total)
	}
	if st, err := os.Stat(filepath.Join(action, segment.Name(0)+segment.Suffix)); err != nil || st.Size() > 10<<10 {
		t.Errorf("%d bytes %v", st.Size(), err)
	}
	gs, total := read(t, l, service, Query{})
	if len(gs) == 0 || gs[0].N == 0 || gs[len(gs)-1].N != total-1 {
		t.Errorf("%d lines of %d", len(gs), total)
	}
	// its next writer goes on with the numbers
	if err := l.Append(service, nil, "again"); err != nil {
		t.Error(err)
	}
	if lines, now := read(t, l, service, Query{Tail: 1}); now != total+1 || lines[0].N != total {
		t.Errorf("%+v %d", lines, now)
	}
}

// A line that has begun ends where its segment is closed.
func TestKeepOpenLine(t *testing.T) {
	t.Parallel()
	l := newLogs(t)
	dir := l.Action("x", "1")
	frames(t, dir, 0, 0, "100 o "+strings.Repeat("x", leastSize), "101 O prompt> ")
	k := &keeper{l: l}
	if err := k.pass(t.Context(), time.Now().Add(2*time.Hour)); err != nil {
		t.Error(err)
	}
	if got := mode(t, dir); got != "0z" {
		t.Error(got)
	}
	if lines, total := read(t, l, dir, Query{Tail: 1}); total != 2 || lines[0].Text != "prompt> " {
		t.Errorf("%+v %d", lines, total)
	}
}

// crashDir makes this test program run one pass over logs and be killed in it.
const crashDir = "LOGS_TEST_CRASH"

func TestCrashed(t *testing.T) {
	dir := os.Getenv(crashDir)
	if dir == "" {
		return // it is run by TestCrash
	}
	l, err := New(dir)
	if err != nil {
		t.Fatal(err)
	}
	_ = (&keeper{l: l, keep: 24 * time.Hour}).pass(t.Context(), time.Now().Add(2*time.Hour))
}

func TestCrash(t *testing.T) {
	t.Parallel()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	run := func(l *Logs, env ...string) error {
		cmd := exec.Command(self, "-test.run", "^TestCrashed$")
		cmd.Env = append(os.Environ(), append(env, crashDir+"="+l.dir)...)
		return cmd.Run()
	}
	names := filepath.Join(t.TempDir(), "names")
	l := newLogs(t)
	fill(t, l.Action("x", "1"), 2)
	if err := run(l, "SLIPWAY_CRASH_LIST="+names); err != nil {
		t.Fatal(err)
	}
	b, _ := os.ReadFile(names)
	seen := map[string]bool{}
	for name := range strings.FieldsFuncSeq(string(b), func(r rune) bool { return r == '\n' }) {
		if seen[name] {
			continue
		}
		seen[name] = true
		l := newLogs(t)
		dir := l.Action("x", "1")
		fill(t, dir, 2)
		before, _ := read(t, l, dir, Query{})
		if err := run(l, "SLIPWAY_CRASH="+name); err == nil {
			t.Errorf("%s: not killed", name)
		}
		if after, total := read(t, l, dir, Query{}); !reflect.DeepEqual(before, after) || total != int64(len(before)) {
			t.Errorf("%s: %d lines of %d", name, len(after), len(before))
		}
		if err := run(l); err != nil {
			t.Error(err)
		}
		if after, _ := read(t, l, dir, Query{}); !reflect.DeepEqual(before, after) {
			t.Errorf("%s: %d lines of %d, later", name, len(after), len(before))
		}
		if left, _ := filepath.Glob(filepath.Join(dir, "*"+tmpSuffix)); len(left) > 0 || !strings.HasPrefix(mode(t, dir), "0z 1z 2") {
			t.Errorf("%s: left %q, %s", name, left, mode(t, dir))
		}
	}
	if len(seen) < 3 {
		t.Errorf("%v", seen)
	}
}

func TestRun(t *testing.T) {
	t.Parallel()
	l := newLogs(t)
	fill(t, l.Service("s"), 1)
	for _, k := range []int{0} {
		p := filepath.Join(l.Service("s"), segment.Name(k))
		old := time.Now().Add(-time.Hour)
		if err := os.Chtimes(p, old, old); err != nil {
			t.Fatal(err)
		}
	}
	done := make(chan error)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { done <- l.Run(ctx, 0) }()
	for end := time.Now().Add(10 * time.Second); mode(t, l.Service("s")) != "0z 1w" && time.Now().Before(end); {
		time.Sleep(2 * time.Millisecond)
	}
	cancel()
	if err := <-done; err != nil || mode(t, l.Service("s")) != "0z 1w" {
		t.Errorf("%v %s", err, mode(t, l.Service("s")))
	}
}
