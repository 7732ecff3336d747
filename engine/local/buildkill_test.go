package local

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"slipway/engine"
	"slipway/engine/enginetest"
)

// beBuilder is a server that builds until it is killed.
func beBuilder(dir, log, volume, base string) {
	e, err := Open(context.Background(), Options{Dir: dir})
	if err == nil {
		_, err = e.Build(context.Background(), "killed", engine.BuildSpec{
			Owner: "execution/1", Workspace: "w", Source: engine.Source{Volume: volume}, Log: log,
			Lookup: func(context.Context, string) (string, error) { return base, nil },
		})
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

func TestBuilderIsKilled(t *testing.T) {
	b := open(t)
	spec := engine.BuildSpec{Owner: "execution/1", Workspace: "w", Lookup: b.lookup, Log: filepath.Join(b.logs, "killed")}
	spec.Source = b.source(map[string]string{"Dockerfile": "FROM shell\nRUN echo first > /first\nRUN echo begun; sleep 1000\n"})
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], "be-a-builder", b.dir, spec.Log, spec.Source.Volume, b.base)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	until(t, "the step runs", func() bool {
		if _, err := os.Stat(spec.Log); err != nil {
			return false
		}
		return strings.Contains(lines(t, spec.Log), "\nbegun")
	})
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	b.reopen()
	left, _ := filepath.Glob("/run/runc/*/state.json")
	for _, f := range left {
		if s, _ := os.ReadFile(f); bytes.Contains(s, []byte(b.executorRoot())) {
			t.Errorf("a step is left: %s", f)
		}
	}
	list, err := mounts()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range list {
		if below(m.at, b.executorRoot()) || strings.Contains(m.options, b.path("core")) && !strings.Contains(m.at, "/b/") {
			t.Errorf("a mount is left: %s", m.at)
		}
	}
	if err := b.Volumes().Put(t.Context(), spec.Source.Volume, "/", bytes.NewReader(enginetest.Tar(t, nil, nil, map[string][]byte{"Dockerfile": []byte("FROM shell\nRUN echo first > /first\nRUN echo second\n")}))); err != nil {
		t.Fatal(err)
	}
	res := b.made("killed", spec)
	if log := lines(t, spec.Log); !strings.Contains(log, "begins again") || res.Cached != 1 {
		t.Errorf("%+v\n%s", res, log)
	}
}
