package pipeline

import (
	"fmt"
	"testing"

	"github.com/containerd/errdefs"

	"slipway/access"
)

// Code gives and changes what the permissions of pipelines and actions leave to
// who asks.
func TestDefinitionsAndPermissions(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	ctx, by := t.Context(), w.member("m@example.com", 3)
	of := func(others string) *Permissions { return &Permissions{Others: others} }
	act := func(name, others string) Action {
		a := sh("true")
		a.Name, a.Permissions = name, of(others)
		return a
	}
	hidden := w.pipeline(Pipeline{Name: "hidden", Permissions: of("DENIED")}, sh("true"))
	read := w.pipeline(Pipeline{Name: "read", Permissions: of("READ_ONLY"), Events: []EventRule{{Type: EventWebhook}}}, sh("true"))
	open := w.pipeline(Pipeline{Name: "open"}, act("secret", "DENIED"), act("fixed", "RUN_ONLY"), act("free", "DEFAULT"))
	names := func(by access.Actor) string {
		t.Helper()
		d, err := w.Definition(ctx, by, open.ID)
		w.must(err)
		var l []string
		for _, a := range d.Actions {
			l = append(l, a.Name)
		}
		return fmt.Sprint(l)
	}
	if got := names(by); got != "[fixed free]" {
		t.Errorf("shown: %s", got)
	}
	if _, err := w.Definition(ctx, by, hidden.ID); !errdefs.IsNotFound(err) {
		t.Errorf("a hidden pipeline: %v", err)
	}
	if l, err := w.Hooks(ctx, by, w.pr.ID); err != nil || len(l) != 0 {
		t.Errorf("hooks of what may only be read: %v %v", l, err)
	}
	load := func(by access.Actor, d Definition) error {
		_, err := w.Import(ctx, by, w.pr.ID, "test", []Definition{d})
		return err
	}
	if err := load(by, Definition{Pipeline: read}); !errdefs.IsPermissionDenied(err) {
		t.Errorf("import of what may only be read: %v", err)
	}
	if err := load(by, Definition{Pipeline: Pipeline{Name: "x", Identifier: "hidden"}}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("import of what is hidden: %v", err)
	}
	for what, d := range map[string]Definition{
		"changed": {Pipeline: Pipeline{Name: "open"}, Actions: []Action{act("fixed", "DEFAULT"), act("free", "DEFAULT")}},
		"removed": {Pipeline: Pipeline{Name: "open"}, Actions: []Action{act("free", "DEFAULT")}},
	} {
		if err := load(by, d); !errdefs.IsPermissionDenied(err) {
			t.Errorf("an action that may only be run is %s: %v", what, err)
		}
	}
	if got := names(w.admin); got != "[secret fixed free]" {
		t.Errorf("after all that: %s", got)
	}
	w.must(load(w.admin, Definition{Pipeline: Pipeline{Name: "open"}, Actions: []Action{act("secret", "DENIED"), act("free", "DEFAULT")}}))
	w.must(load(by, Definition{Pipeline: Pipeline{Name: "open"}, Actions: []Action{act("new", "DEFAULT")}}))
	if got := names(w.admin); got != "[new secret]" {
		t.Errorf("a hidden action stays: %s", got)
	}
}
