package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

// rerun begins an execution with an action of another one, once for a key, and gives
// its number.
func (j *job) rerun(ctx context.Context, n int64, key string, body map[string]any) (number int64, err error) {
	text, err := json.Marshal(body)
	if err != nil {
		return 0, err
	}
	err = keep(ctx, "rerun", time.Minute, func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, "POST", fmt.Sprintf("%s/slipway/v1%s/executions/%d/rerun", j.s.URL, j.pipelinePath(), n), bytes.NewReader(text))
		if err != nil {
			return err
		}
		req.SetBasicAuth("x", j.s.Token)
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Idempotency-Key", key)
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		defer res.Body.Close()
		var a struct {
			Number int64
			Errors []struct{ Message string }
		}
		if err := json.NewDecoder(res.Body).Decode(&a); err != nil {
			return err
		}
		switch number = a.Number; {
		case res.StatusCode == http.StatusServiceUnavailable:
			return fmt.Errorf("status %d", res.StatusCode)
		case res.StatusCode != http.StatusCreated:
			return wrong("status %d: %+v", res.StatusCode, a.Errors)
		}
		return nil
	})
	return number, err
}

// rerunWhole is the execution of rerun at its end, with what its actions said.
func (j *job) rerunWhole(ctx context.Context, n int64, key string, body map[string]any) (e execution, said []string, err error) {
	n, err = j.rerun(ctx, n, key, body)
	if err != nil {
		return e, nil, err
	}
	err = keep(ctx, "rerun's end", 2*time.Minute, func(ctx context.Context) error {
		if e, err = j.execution(ctx, n); err == nil && !over(e.Status) {
			err = fmt.Errorf("it is %s", e)
		}
		return err
	})
	for _, st := range e.Steps {
		if err == nil {
			var l []string
			l, err = j.log(ctx, n, st)
			said = append(said, strings.Join(l, "|"))
		}
	}
	return e, said, err
}

// TestRerun begins runs with actions of others, in real containers: with the files
// as they were, other commands, the image of a build that is not done again, and
// whatever user had changed what.
func TestRerun(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.give(shell(t), "default/shell:1")
	sh := func(name, commands string, more ...any) map[string]any {
		return with(runs("slipway.local/default/shell", "1", "", "name", name, "inline_commands", commands), more...)
	}
	d := s.one("again", map[string]string{"Dockerfile": "FROM slipway.local/default/shell:1\nRUN echo built > /built\n", "tracked": "committed\n"},
		sh("Make", "echo made > made; mkdir dir; echo deep > dir/deep; chmod 700 dir; ln -s made link"),
		with(build(), "dockerfile_path", "Dockerfile"),
		sh("Change", "cat made dir/deep; echo changed > made; echo changed > tracked; rm -r dir; test ! -e never", "run_as_user", "1234"),
		with(run("Use", "/bin/sh"), "inline_commands", "cat /built made tracked"),
	)
	if d.Status != "SUCCESSFUL" {
		t.Fatal(d.text())
	}
	ctx := t.Context()
	e, said, err := d.rerunWhole(ctx, 1, "one", map[string]any{"from": d.Steps[2].ID})
	if err != nil {
		t.Fatal(err)
	}
	if len(said) != 4 || e.Status != "SUCCESSFUL" || !strings.HasSuffix(said[2], "made|deep") || !strings.HasSuffix(said[3], "built|changed|changed") {
		t.Errorf("as it was: %s %q", e, said)
	}
	e, said, err = d.rerunWhole(ctx, 1, "two", map[string]any{
		"from": d.Steps[2].Action.ID, "inline_commands": "cat link tracked; ls -ld dir; echo $X", "variables": []any{map[string]any{"key": "X", "value": "edited"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if e.Status != "SUCCESSFUL" || !strings.Contains(said[2], "made|committed|drwx------") || !strings.HasSuffix(said[2], "edited") || !strings.HasSuffix(said[3], "built|made|committed") {
		t.Errorf("edited: %s %q", e, said)
	}
	e, said, err = d.rerunWhole(ctx, 1, "three", map[string]any{"from": d.Steps[3].ID})
	if err != nil {
		t.Fatal(err)
	}
	if e.Status != "SUCCESSFUL" || !strings.HasSuffix(said[3], "built|changed|changed") {
		t.Errorf("the last: %s %q", e, said)
	}
}
