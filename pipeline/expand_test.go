package pipeline

import (
	"strings"
	"testing"
	"time"

	"slipway/source"
)

// TestDefaultsCanBeGiven looks at the variables that other people's words are in.
func TestDefaultsCanBeGiven(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("ä", 100<<10)
	x := Execution{Comment: "one\x00two", Commit: &source.Commit{Subject: long, Message: long}}
	got := map[string]string{}
	for _, v := range defaults(x, ActionExecution{}, about{Now: time.Now()}) {
		if strings.Contains(v[1], "\x00") || len(v[1]) > maxDefault || strings.ToValidUTF8(v[1], "") != v[1] {
			t.Errorf("%s cannot be given: %d bytes", v[0], len(v[1]))
		}
		got[v[0]] = v[1]
	}
	if got["BUDDY_RUN_COMMENT"] != "one" || len(got["BUDDY_EXECUTION_REVISION_MESSAGE"]) != maxDefault || got["CI"] != "true" {
		t.Errorf("%d bytes of message, comment %q", len(got["BUDDY_EXECUTION_REVISION_MESSAGE"]), got["BUDDY_RUN_COMMENT"])
	}
}
