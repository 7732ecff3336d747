package e2e

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// cacheUse is what a build had of the cache: "3/5", and why not all.
func (j *job) cacheUse(t *testing.T, n int64) (had, why string) {
	t.Helper()
	var a account
	j.s.must("GET", fmt.Sprintf("/slipway/v1%s/executions/%d", j.pipelinePath(), n), nil, &a)
	if len(a.Actions) == 0 || len(a.Actions[0].Tries) != 1 || a.Actions[0].Tries[0].Build == nil {
		t.Fatalf("execution %d of %s: %+v", n, j.name, a)
	}
	b := a.Actions[0].Tries[0].Build
	if b.FirstMiss != nil {
		why = b.FirstMiss.Reason
	}
	return fmt.Sprintf("%d/%d", b.Cached, b.Steps), why
}

// showCacheScopes builds the same in several pipelines, and looks what they have of
// each other.
func (s *server) showCacheScopes(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	const text = "FROM slipway.local/default/shell:1 AS made\nRUN echo first > /first\nRUN echo made > /made\n" +
		"FROM slipway.local/default/shell:1\nCOPY --from=made /made /made\nRUN echo last\n"
	files := map[string]string{
		"Same": text, "Begin": strings.Replace(text, "echo made", "echo other", 1), "End": strings.Replace(text, "echo last", "echo end", 1),
		"Third": strings.Replace(text, "echo made", "echo third", 1),
	}
	projects := map[string]*job{}
	for _, name := range []string{"scopes", "scopes-other"} {
		j := s.job(name)
		projects[name] = j
		for _, f := range []func(context.Context) error{
			func(ctx context.Context) error { return j.commit(ctx, files) },
			func(ctx context.Context) error { return j.makeProject(ctx) }, j.push,
		} {
			if err := f(ctx); err != nil {
				t.Fatal(err)
			}
		}
	}
	n := 0
	pipeline := func(project, scope, mode, typ string) *job {
		n++
		j := s.job(project)
		*j = *projects[project]
		body := map[string]any{"name": fmt.Sprintf("Pipeline %d", n)}
		if scope != "" {
			body["cache_scope"] = scope
		}
		var made struct{ ID int64 }
		s.must("POST", j.path()+"/pipelines", body, &made)
		j.pipeline = made.ID
		action := map[string]any{"name": "build", "type": typ, "dockerfile_path": "$FILE"}
		if mode != "" {
			action["cache_mode"] = mode
		}
		s.must("POST", j.pipelinePath()+"/actions", action, nil)
		return j
	}
	expect := func(what string, j *job, file string, start map[string]any, want, why string) {
		t.Helper()
		e, err := j.again(ctx, with(map[string]any{"variables": []any{variable("FILE", file)}, "branch": map[string]any{"name": "main"}}, "clear_cache", start["clear_cache"] == true))
		if err != nil || e.Status != "SUCCESSFUL" {
			t.Fatalf("%s: %v: %s", what, err, e)
		}
		had, miss := j.cacheUse(t, e.ID)
		l, err := j.log(ctx, e.ID, e.Steps[0])
		if log := strings.Join(l, "\n"); err != nil || had != want || miss != why || (want == "0/4") == strings.Contains(log, "CACHED") {
			t.Errorf("%s: the cache had %s (%s), want %s (%s); %v\n%s", what, had, miss, want, why, err, log)
		}
	}
	const build, multi = "DOCKERFILE", "DOCKER_BUILD_MULTI_ARCH"

	one := pipeline("scopes", "", "", build)
	expect("the first", one, "Same", nil, "0/4", "FIRST_BUILD")
	expect("again", one, "Same", nil, "4/4", "")
	expect("another pipeline", pipeline("scopes", "", "MAX", multi), "Same", nil, "0/4", "FIRST_BUILD")
	expect("PIPELINE as it is said", pipeline("scopes", "PIPELINE", "", build), "Same", nil, "0/4", "FIRST_BUILD")

	giver := pipeline("scopes", "PROJECT", "MIN", build)
	expect("PROJECT, nobody gave", giver, "Same", nil, "0/4", "FIRST_BUILD")
	expect("PROJECT, the same", pipeline("scopes", "PROJECT", "", multi), "Same", nil, "4/4", "")
	taker := pipeline("scopes", "PROJECT", "MAX", multi)
	expect("PROJECT MIN, another end", taker, "End", nil, "3/4", "FIRST_BUILD")
	expect("PROJECT MIN, another begin", taker, "Begin", nil, "0/4", "NOT_IN_CACHE")
	expect("PROJECT MAX, that begin", pipeline("scopes", "PROJECT", "", build), "Begin", nil, "4/4", "")
	expect("PROJECT MAX, its first step", pipeline("scopes", "PROJECT", "", build), "Third", nil, "1/4", "FIRST_BUILD")
	expect("another project", pipeline("scopes-other", "PROJECT", "", build), "Same", nil, "0/4", "FIRST_BUILD")
	expect("WORKSPACE, nobody gave", pipeline("scopes", "WORKSPACE", "", build), "Same", nil, "0/4", "FIRST_BUILD")
	expect("WORKSPACE, another project", pipeline("scopes-other", "WORKSPACE", "MAX", build), "Same", nil, "4/4", "")

	clear := map[string]any{"clear_cache": true}
	expect("cleared", one, "Same", clear, "0/4", "NOT_IN_CACHE")
	expect("after it", one, "Same", nil, "4/4", "")
	expect("cleared, and not taken from the project", giver, "Same", clear, "0/4", "NOT_IN_CACHE")
	s.must("DELETE", one.pipelinePath(), nil, nil)
	until(t, 30*time.Second, "the cache of the deleted pipeline is gone", func() error {
		left, err := filepath.Glob(filepath.Join(s.data, "engine", "build", "w", "*", "keys", fmt.Sprintf("pipeline-%d.db", one.pipeline)))
		if err == nil && len(left) > 0 {
			err = errYet
		}
		return err
	})
}
