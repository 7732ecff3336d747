package e2e

import (
	"context"
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestPassed commits by the API, which starts a pipeline like a push does, and
// looks at what its actions export for those after them and for the next run.
func TestPassed(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.give(shell(t), "default/shell:1")
	sh := func(name, commands string) map[string]any {
		return runs("slipway.local/default/shell", "1", "", "name", name, "inline_commands", commands)
	}
	j := s.job("passed",
		sh("Give", "echo \"count was $COUNT\"\nexport COUNT=$((COUNT + 1))\nexport OUTPUT_WORDS=\"two\nlines 'quoted'\"\nexport LOST=yes\n"),
		sh("Take", "printf '[%s][%s][%s]\\n' \"$OUTPUT_WORDS\" \"$COUNT\" \"$LOST\"\n"),
		sh("Fail", "export OUTPUT_CODE=3\nexit 3\n"))
	if err := j.makeProject(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := j.makePipeline(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.must("POST", "/workspaces/default/variables", map[string]any{
		"key": "COUNT", "value": "1", "settable": true, "pipeline": map[string]any{"id": j.pipeline},
	}, nil)
	for i := range 2 {
		s.must("POST", j.path()+"/repository/contents", map[string]any{
			"path": fmt.Sprintf("/notes/%d.txt", i), "message": "A note", "content": base64.StdEncoding.EncodeToString([]byte("note\n")),
		}, nil)
		err := keep(t.Context(), "the commit starts a run", time.Minute, func(ctx context.Context) error {
			l, err := j.executions(ctx)
			if err == nil && len(l) != i+1 {
				err = fmt.Errorf("there are %v", l)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		e, err := j.finish(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if e.Status != "FAILED" || len(e.Steps) != 3 || e.Steps[2].Status != "FAILED" || !strings.Contains(e.Steps[2].ErrorMessage, "3") {
			t.Fatalf("run %d: %s", i, e)
		}
		for n, want := range []string{fmt.Sprintf("count was %d", i+1), fmt.Sprintf("[two\nlines 'quoted'][%d][]", i+2)} {
			l, err := j.log(t.Context(), e.ID, e.Steps[n])
			if text := strings.Join(l, "\n"); err != nil || !strings.Contains(text, want) {
				t.Errorf("run %d, action %d: %q is not in %q, %v", i, n, want, text, err)
			}
		}
	}
}
