package buddy

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"slipway/pipeline"
	"slipway/project"
	"slipway/secret"
)

// composed are the texts in the members that are objects, or lists of them.
var composed = map[string]struct {
	shape   string // %s is a member of the object
	members []string
}{
	"trigger_conditions": {`[{%s}]`, []string{
		"trigger_condition", "trigger_condition_paths.0", "trigger_variable_key", "trigger_variable_value", "timezone",
		"trigger_project_name", "trigger_pipeline_name", "trigger_user", "trigger_group",
	}},
	"variables": {`[{%s}]`, memberNames(variableMembers(&pipeline.Variable{}), func(m struct {
		name string
		at   *string
	},
	) string {
		return m.name
	})},
	"permissions":       {`{"users":[{%s}],"groups":[]}`, []string{"access_level"}},
	"events":            {`[{%s}]`, []string{"type", "refs.0", "events.0", "branches.0", "start_date", "cron", "timezone", "prefix", "whitelist.0"}},
	"secrets":           {`[{%s}]`, []string{"id", "value", "type", "secret_id", "secret_src"}},
	"integration":       {`{%s}`, []string{"hash_id", "identifier", "id"}},
	"git_config":        {`{%s}`, []string{"project", "branch", "path"}},
	"remote_parameters": {`[{%s}]`, []string{"key", "value"}},
}

func memberNames[T any](l []T, name func(T) string) (out []string) {
	for _, m := range l {
		out = append(out, name(m))
	}
	return out
}

// longest is what a text may be, by the last name that leads to it.
func longest(path string) int {
	switch parts := strings.Split(path, "."); {
	case path == "inline_commands", path == "value", parts[0] == "variables" && slices.Contains(parts, "value"):
		return 1 << 20
	case slices.Contains([]string{"name", "identifier", "key", "display_name"}, parts[len(parts)-1]):
		return 255
	}
	return 4096
}

// memberWith is `"name": text`, or a list with it for "name.0".
func memberWith(name string, n int) string {
	text := `"` + strings.Repeat("x", n) + `"`
	if list, ok := strings.CutSuffix(name, ".0"); ok {
		return fmt.Sprintf(`%q:[%s]`, list, text)
	}
	return fmt.Sprintf(`%q:%s`, name, text)
}

// lengths looks at each text of some fields.
func lengths[T any](t *testing.T, what string, fields []field[T], fresh func() *T) {
	t.Helper()
	seen := 0
	for _, f := range fields {
		if f.in == nil {
			continue
		}
		read := func(raw string) *decoder {
			d := &decoder{keep: keptOf(nil)}
			d.at(f.name, func() { f.in(d, json.RawMessage(raw), fresh()) })
			return d
		}
		fine := func(raw string) bool { return len(read(raw).inv.Fields) == 0 }
		look := func(path string, body func(n int) string) {
			seen++
			most := longest(path)
			for n, want := range map[int]bool{most: false, most + 1: true} {
				is := slices.ContainsFunc(read(body(n)).inv.Fields, func(l project.Field) bool { return l.Kind == "maximum" && strings.HasPrefix(l.Path, f.name) })
				if is != want {
					t.Errorf("%s, %s with %d characters: refused %v", what, path, n, is)
				}
			}
		}
		c, is := composed[f.name]
		switch {
		case is:
			for _, m := range c.members {
				look(f.name+".0."+strings.TrimSuffix(m, ".0"), func(n int) string { return fmt.Sprintf(c.shape, memberWith(m, n)) })
			}
		case fine(`"x"`):
			look(f.name, func(n int) string { return `"` + strings.Repeat("x", n) + `"` })
		case fine(`["x"]`):
			look(f.name, func(n int) string { return `["` + strings.Repeat("x", n) + `"]` })
		case fine(`true`), fine(`1`):
		default:
			t.Errorf("%s, %s: say above what texts it has", what, f.name)
		}
	}
	t.Logf("%s has %d texts", what, seen)
}

// TestLongTexts: names have at most 255 characters, commands and values 1 MiB, all
// other texts 4,096 characters.
func TestLongTexts(t *testing.T) {
	t.Parallel()
	for typ, kind := range map[string]byte{typeRun: kindRun, typeBuild: kindBuild, typeMulti: kindMulti} {
		fields := slices.DeleteFunc(actionFields(), func(f field[action]) bool { return !f.has(kind) })
		lengths(t, typ, fields, func() *action { a, _ := newAction(typ); return &a })
	}
	lengths(t, "a pipeline", pipelineFields(), func() *pipe { return new(pipe) })
}

// TestLongTextsOfRoutes: what is too long is refused by its name, and nothing is
// stored.
func TestLongTextsOfRoutes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.project("web")
	const at = "/workspaces/acme"
	integration := []string{"name", "identifier", "type", "auth_type", "server_url", "scope", "project_name"}
	own := memberNames(credentials(&secret.Integration{}), func(c credential) string { return c.name }) // they have bounds of their own
	for path, c := range map[string]struct {
		rest  string // of a body that is fine
		texts []string
	}{
		p[:strings.LastIndex(p, "/")]: {`"name":"p"`, []string{"name", "identifier", "execution_message_template", "disabled_reason", "worker", "folder", "target_site_url", "refs.0"}},
		p + "/actions": {`"name":"a","type":"RUN_DOCKER_CONTAINER","docker_image_name":"x","docker_image_tag":"1","inline_commands":"true"`, []string{
			"name", "docker_image_name", "docker_image_tag", "inline_commands", "entrypoint", "run_as_user", "login", "registry", "volume_mappings.0", "loop.0", "wait_for_variables.0",
		}},
		p + "/executions":    {``, []string{"comment", "priority"}},
		at + "/variables":    {`"key":"K","value":"v"`, []string{"key", "value", "description", "type", "file_path", "file_place", "file_chmod"}},
		at + "/integrations": {`"name":"i","type":"DOCKER_HUB","scope":"WORKSPACE","username":"u","password":"p"`, integration},
		at + "/webhooks":     {`"target_url":"https://example.com/","events":["PUSH"]`, []string{"target_url", "secret_key", "events.0", "projects.0"}},
		at + "/projects":     {`"name":"other"`, []string{"name", "display_name", "custom_repo_url", "custom_repo_user", "custom_repo_pass"}},
		at + "/groups":       {`"name":"g"`, []string{"name", "description"}},
		at + "/permissions":  {`"name":"s"`, []string{"name", "description"}},
		at + "/environments": {`"name":"e"`, []string{"name", "identifier"}},
		"/user/tokens":       {`"name":"t"`, []string{"name", "ip_restrictions.0"}},
	} {
		before := w.ask("GET", path, "").Body.String()
		if path == p+"/executions" {
			before = ""
		}
		for _, name := range c.texts {
			var b map[string]json.RawMessage
			w.must(json.Unmarshal([]byte("{"+c.rest+"}"), &b))
			var long map[string]json.RawMessage
			w.must(json.Unmarshal([]byte("{"+memberWith(name, longest(name)+1)+"}"), &long))
			maps.Copy(b, long)
			text, err := json.Marshal(b)
			w.must(err)
			rec := w.ask("POST", path, string(text))
			var m struct{ Errors []struct{ Message string } }
			err = json.Unmarshal(rec.Body.Bytes(), &m)
			if err != nil || rec.Code != 400 || !slices.ContainsFunc(m.Errors, func(e struct{ Message string }) bool { return strings.HasPrefix(e.Message, name+": ") }) {
				t.Errorf("POST %s with a long %s: %d %.300s", path, name, rec.Code, rec.Body)
			}
			if rec.Body.Len() > 10_000 {
				t.Errorf("POST %s with a long %s: the answer has %d bytes", path, name, rec.Body.Len())
			}
		}
		if now := w.ask("GET", path, "").Body.String(); before != "" && now != before {
			t.Errorf("%s: %s was there, and now %s", path, before, now)
		}
	}
	for _, name := range own {
		body := fmt.Sprintf(`{"name":"i","type":"DOCKER_HUB","scope":"WORKSPACE",%s}`, memberWith(name, 1<<20+1))
		if rec := w.ask("POST", at+"/integrations", body); rec.Code != 400 || !strings.Contains(rec.Body.String(), ": must be at most ") {
			t.Errorf("an integration with a long %s: %d %.300s", name, rec.Code, rec.Body)
		}
	}
}
