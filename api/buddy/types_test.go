package buddy

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// values are some of each kind of JSON.
var values = []string{`"x"`, `5`, `-7`, `1.5`, `true`, `{}`, `{"zz":[]}`, `[]`, `[5]`, `["x"]`, `[[1]]`, `[{"zz":1}]`}

// wrongOf gives values that a field does not take. Whatever it says of a value is
// said of the field.
func wrongOf[T any](t *testing.T, what string, f field[T], fresh func() *T) (wrong []string) {
	t.Helper()
	for _, raw := range values {
		d := &decoder{keep: keptOf(nil)}
		d.at(f.name, func() { f.in(d, json.RawMessage(raw), fresh()) })
		for _, l := range d.inv.Fields {
			if l.Path != f.name && !strings.HasPrefix(l.Path, f.name+".") {
				t.Errorf("%s, %s as %s: %q is said to be wrong", what, f.name, raw, l.Path)
			}
		}
		if len(d.inv.Fields) > 0 {
			wrong = append(wrong, raw)
		}
	}
	if len(wrong) == 0 {
		t.Errorf("%s takes anything as %s", what, f.name)
	}
	return wrong
}

// TestWrongTypes: each member of actions and pipelines refuses what is of another
// kind, by its name, and nothing is stored then.
func TestWrongTypes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.project("web")
	pipelines := p[:strings.LastIndex(p, "/")]
	asked := 0
	refused := func(path, rest, name string, wrong []string) {
		t.Helper()
		before := w.ask("GET", path, "").Body.String()
		for _, raw := range wrong {
			asked++
			rec := w.ask("POST", path, fmt.Sprintf(`{%s,%q:%s}`, rest, name, raw))
			var m struct{ Errors []struct{ Message string } }
			err := json.Unmarshal(rec.Body.Bytes(), &m)
			if err != nil || rec.Code != 400 || !slices.ContainsFunc(m.Errors, func(e struct{ Message string }) bool {
				return strings.HasPrefix(e.Message, name+": ") || strings.HasPrefix(e.Message, name+".")
			}) {
				t.Errorf("POST %s with %s as %s: %d %.300s", path, name, raw, rec.Code, rec.Body)
			}
		}
		if now := w.ask("GET", path, "").Body.String(); now != before {
			t.Errorf("POST %s with a wrong %s: %s was there, and now %s", path, name, before, now)
		}
	}
	bodies := map[string]string{
		typeRun:   `"docker_image_name":"x","docker_image_tag":"1","inline_commands":"true"`,
		typeBuild: `"dockerfile_path":"Dockerfile"`,
		typeMulti: `"dockerfile_path":"Dockerfile","target_platform":"linux/amd64"`,
	}
	for typ, kind := range map[string]byte{typeRun: kindRun, typeBuild: kindBuild, typeMulti: kindMulti} {
		for _, f := range actionFields() {
			if f.in == nil || !f.has(kind) || f.name == "type" {
				continue
			}
			wrong := wrongOf(t, typ, f, func() *action { a, _ := newAction(typ); return &a })
			var rest []string
			for _, m := range strings.Split(`"name":"a","type":"`+typ+`",`+bodies[typ], `,"`) {
				if m = `"` + strings.TrimPrefix(m, `"`); !strings.HasPrefix(m, `"`+f.name+`"`) {
					rest = append(rest, m)
				}
			}
			refused(p+"/actions", strings.Join(rest, ","), f.name, wrong)
		}
	}
	for _, f := range pipelineFields() {
		if f.in == nil {
			continue
		}
		wrong := wrongOf(t, "a pipeline", f, func() *pipe { return new(pipe) })
		rest := `"name":"p"`
		if f.name == "name" {
			rest = `"identifier":"p"`
		}
		refused(pipelines, rest, f.name, wrong)
	}
	t.Logf("%d requests were refused", asked)
}
