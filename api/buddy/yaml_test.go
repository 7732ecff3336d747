package buddy

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"slipway/pipeline"
	"slipway/project"
)

// example is a file as the vendor's pages have them.
const example = `
- pipeline: build
  name: Build & try
  events:
  - type: PUSH
    refs:
    - refs/heads/main
  - type: SCHEDULE
    cron: "0 9 * * 1-5"
    timezone: Europe/Warsaw
  priority: HIGH
  clone_depth: 10
  fail_on_prepare_env_warning: true
  trigger_conditions:
  - trigger_condition: ALWAYS
  variables:
  - key: LEVEL
    value: "3"
  actions:
  - action: Image
    type: DOCKERFILE
    dockerfile_path: Dockerfile
    build_args: &args
    - LEVEL=$LEVEL
  - action: Try it
    type: RUN_DOCKER_CONTAINER
    use_image_from_action: true
    docker_build_action_name: Image
    inline_commands: |-
      set -x
      ./try --level "$LEVEL"
    trigger_time: ON_SUCCESS
- pipeline: "Deploy it!"
  refs: [refs/heads/main]
`

func TestReadYAML(t *testing.T) {
	t.Parallel()
	list, ignored, err := ReadYAML([]byte(example))
	if err != nil || len(ignored) != 0 || len(list) != 2 {
		t.Fatal(list, ignored, err)
	}
	p, run := list[0].Pipeline, list[0].Actions[1]
	if p.Identifier != "build" || p.Name != "Build & try" || p.Priority != pipeline.High || p.CloneDepth != 10 || len(p.Events) != 2 ||
		p.Events[1].Timezone != "Europe/Warsaw" || p.Variables[0].Value != "3" || p.Conditions[0].Kind != "ALWAYS" {
		t.Errorf("pipeline %+v", p)
	}
	if run.Name != "Try it" || run.Run.Commands != "set -x\n./try --level \"$LEVEL\"" || !run.Run.From.Use || run.When != pipeline.OnSuccess {
		t.Errorf("action %+v %+v", run, run.Run)
	}
	if p := list[1].Pipeline; p.Identifier != "" || p.Name != "Deploy it!" || p.Refs[0] != "refs/heads/main" {
		t.Errorf("an older file's pipeline %+v", p)
	}
	text, err := WriteYAML(list...)
	if err != nil {
		t.Fatal(err)
	}
	const want = `- pipeline: build
  name: Build & try
  events:
    - type: PUSH
      refs:
        - refs/heads/main
    - type: SCHEDULE
      cron: 0 9 * * 1-5
      timezone: Europe/Warsaw
  trigger_conditions:
    - trigger_condition: ALWAYS
  priority: HIGH
  clone_depth: 10
  variables:
    - key: LEVEL
      value: "3"
      type: VAR
  actions:
    - action: Image
      type: DOCKERFILE
      dockerfile_path: Dockerfile
      build_args:
        - LEVEL=$LEVEL
    - action: Try it
      type: RUN_DOCKER_CONTAINER
      trigger_time: ON_SUCCESS
      use_image_from_action: true
      docker_build_action_name: Image
      inline_commands: |-
        set -x
        ./try --level "$LEVEL"
- pipeline: Deploy it!
  refs:
    - refs/heads/main
`
	if got := strings.Replace(string(text), "      fail_on_prepare_env_warning: true\n", "", 1); got != want {
		t.Errorf("written as\n%s", got)
	}
}

func TestBadYAML(t *testing.T) {
	t.Parallel()
	deep := strings.Repeat("[", 70) + strings.Repeat("]", 70)
	laughs := "- pipeline: p\n  a: &a [x,x,x,x,x,x,x,x,x,x]\n"
	for i := 'b'; i < 'j'; i++ {
		laughs += fmt.Sprintf("  %c: &%[1]c [*%[2]c,*%[2]c,*%[2]c,*%[2]c,*%[2]c,*%[2]c,*%[2]c,*%[2]c,*%[2]c,*%[2]c]\n", i, i-1)
	}
	for text, want := range map[string][]string{
		"":                                               {"pipelines: must be a list"},
		"pipeline: x":                                    {"pipelines: line 1: must be a list"},
		"- x":                                            {"pipelines.0: line 1: must be a pipeline"},
		"- name: x":                                      {"pipelines.0.pipeline: line 1: is required"},
		"- pipeline: x\n  tags: [a\n":                    {": line 1: "},
		"- pipeline: x\n  name: 5":                       {"pipelines.0.name: line 2: must be a string"},
		"- pipeline: x\n  priority: SOON":                {"pipelines.0.priority: line 2: must be one of"},
		"- pipeline: x\n  actions: 5":                    {"pipelines.0.actions: line 2: must be a list"},
		"- pipeline: x\n  actions:\n  - a":               {"pipelines.0.actions.0: line 3: must be an action"},
		"- pipeline: x\n  disabled: yes":                 {"pipelines.0.disabled: line 2: must be true or false"},
		"- pipeline: x\n  tags: a\n  tags: b":            {"pipelines.0.tags: line 3: is there twice"},
		"- pipeline: x\n  <<: {tags: [a]}":               {"pipelines.0.<<: line 2: is not supported"},
		"- pipeline: x\n  clone_depth: .inf":             {"pipelines.0.clone_depth: line 2: is no value"},
		"- pipeline: x\n  loop: !!binary aGk=":           {"pipelines.0.loop: line 2: is no value"},
		"- pipeline: x\n- pipeline: x":                   {"pipelines.1.pipeline: line 2: is there twice"},
		"- pipeline: x\n  loop: " + deep:                 {"there is too much in the file"},
		laughs:                                           {"there is too much in the file"},
		"- pipeline: x\n  name: " + string([]byte{0xff}): {"UTF-8"},
		"- pipeline: x\n  ? " + strings.Repeat("y", maxWord+1) + "\n  : 1": {"pipelines.0: line 1: the word before a : has at most"},
		strings.Repeat("#", maxYAML+1):                                     {"a file has at most"},
		`- pipeline: x
  events:
  - type: PUSH
  - type: SCHEDULE
    cron: "* * *"
  actions:
  - action: one
    type: DOCKERFILE
    timeout: a while
  - action: two
    type: BUILD
  - action: three
    type: RUN_DOCKER_CONTAINER
    docker_image_name: x
    docker_image_tag: 3.20
`: {
			"pipelines.0.events.1.cron: line 5: must be minute", "pipelines.0.actions.0.dockerfile_path: line 7: ", "pipelines.0.actions.0.timeout: line 9: must be an integer",
			"pipelines.0.actions.1.type: line 11: must be one of", "pipelines.0.actions.2.docker_image_tag: line 15: must be a string", "pipelines.0.actions.2.inline_commands: line 12: is required",
		},
	} {
		_, _, err := ReadYAML([]byte(text))
		inv, ok := project.AsInvalid(err)
		if !ok {
			t.Errorf("%.60q: %v", text, err)
			continue
		}
		var all []string
		for _, f := range inv.Fields {
			all = append(all, f.Path+": "+f.Message)
		}
		got := strings.Join(all, "\n")
		for _, w := range want {
			if !strings.Contains(got, w) {
				t.Errorf("%.60q: no %q in\n%s", text, w, got)
			}
		}
		if len(all) != len(want) {
			t.Errorf("%.60q: %d errors, want %d:\n%s", text, len(all), len(want), got)
		}
	}
	_, ignored, err := ReadYAML([]byte("- pipeline: x\n  colour: red\n  actions:\n  - {action: a, type: DOCKER_BUILD_MULTI_ARCH, shape: round}"))
	if err != nil || fmt.Sprint(ignored) != "[pipelines.0.colour pipelines.0.actions.0.shape]" {
		t.Errorf("unknown members: %v, %v", ignored, err)
	}
}

// answers are definitions as the API answers them, without what a file leaves
// out.
func answers(t fataler, list []pipeline.Definition) string {
	var all []object
	for i := range list {
		d := &list[i]
		all = append(all, write(pipelineFields(), 0, &d.Pipeline, said(d.Pipeline.Attrs)))
		for j := range d.Actions {
			a := &d.Actions[j]
			all = append(all, write(actionFields(), kindOf(a), a, said(a.Attrs)))
		}
	}
	b, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

type fataler interface{ Fatal(...any) }

// same holds a definition against what is read of its file.
func same(t fataler, d pipeline.Definition) {
	text, err := WriteYAML(d)
	if err != nil {
		t.Fatal(err)
	}
	list, ignored, err := ReadYAML(text)
	if err != nil || len(ignored) > 0 {
		t.Fatal(fmt.Sprintf("%v %v of\n%s", err, ignored, text))
	}
	if d.Pipeline.Identifier == "" {
		d.Pipeline.Identifier = list[0].Pipeline.Identifier
	}
	if want, got := answers(t, []pipeline.Definition{d}), answers(t, list); want != got {
		t.Fatal(fmt.Sprintf("want %s\n got %s\n  of\n%s", want, got, text))
	}
	again, err := WriteYAML(list...)
	if err != nil || !bytes.Equal(again, text) {
		t.Fatal(fmt.Sprintf("written again: %v\n%s\nfirst\n%s", err, again, text))
	}
}

// Whatever the API takes can be written as a file that gives the same again.
func TestYAMLGivesTheSameAgain(t *testing.T) {
	t.Parallel()
	words := func(l ...string) *rapid.Generator[string] { return rapid.SampledFrom(l) }
	plain := words("", "a", "true", "null", "3", "1e3", "~", "a: b", "# x", "- y", "'", `"`, " a ", "a\nb", "\n a", "a\n\n", "é\u2028", "\ttab", "$X", "0x1f", "2026-11-21", "!encrypted", "a\r\nb", "*x", "&y", "a \nb", "\x7f", "😀")
	texts := rapid.SliceOfN(plain, 0, 3)
	flag, number := rapid.Bool(), rapid.IntRange(0, 100)
	condition := rapid.Custom(func(t *rapid.T) map[string]any {
		kind, paths := words("ALWAYS", "ON_CHANGE_AT_PATH", "VAR_IS").Draw(t, "kind"), texts.Draw(t, "paths")
		if kind == "ON_CHANGE_AT_PATH" { // obeyed, and so they must be some
			paths = []string{"a/**", "b: c"}
		}
		return map[string]any{
			"trigger_condition": kind, "trigger_condition_paths": paths, "trigger_variable_key": "KEY", "trigger_variable_value": plain.Draw(t, "value"), "trigger_hours": []int{3},
		}
	})
	variable := rapid.Custom(func(t *rapid.T) map[string]any {
		return map[string]any{"key": words("A", "B").Draw(t, "key"), "value": plain.Draw(t, "value"), "encrypted": flag.Draw(t, "encrypted"), "description": plain.Draw(t, "description")}
	})
	event := rapid.SampledFrom([]map[string]any{
		{"type": "PUSH", "refs": []string{"refs/heads/*"}},
		{"type": "DELETE_REF"},
		{"type": "SCHEDULE", "cron": "0 9 * * 1-5", "timezone": "Asia/Tokyo"},
		{"type": "SCHEDULE", "start_date": "2016-11-18T12:38:16.000Z", "delay": 5},
		{"type": "WEBHOOK", "totp": false},
	})
	value := func(t *rapid.T, name string) any {
		switch name {
		case "name":
			return words("x", "3", "Deploy it!", "true").Draw(t, name)
		case "identifier":
			return words("", "x", "1.0").Draw(t, name)
		case "trigger_conditions":
			return rapid.SliceOfN(condition, 0, 2).Draw(t, name)
		case "variables":
			return rapid.SliceOfNDistinct(variable, 0, 2, func(v map[string]any) any { return v["key"] }).Draw(t, name)
		case "events":
			return rapid.SliceOfN(event, 0, 3).Draw(t, name)
		case "permissions":
			return map[string]any{"others": words("DENIED", "DEFAULT").Draw(t, name), "users": []any{map[string]any{"id": 1, "access_level": "READ_ONLY"}}}
		case "git_config":
			return map[string]any{"project": "p", "branch": "b", "path": "x.yml"}
		case "remote_parameters":
			return []any{map[string]any{"key": "a", "value": plain.Draw(t, name)}}
		case "secrets":
			return []any{map[string]any{"id": "s", "value": "p", "type": words("FILE", "ENV").Draw(t, name)}}
		case "build_args":
			return []string{"A=" + plain.Draw(t, name)}
		case "volume_mappings":
			return rapid.SampledFrom([]any{"/:/x", []string{"/:/x", "/a:/b"}}).Draw(t, name)
		case "integration":
			return map[string]any{"hash_id": "5ddb7c18"}
		case "timeout", "retry_count", "retry_interval", "clone_depth", "pause_on_repeated_failures", "docker_build_action_id":
			return number.Draw(t, name)
		case "docker_image_name", "docker_image_tag", "dockerfile_path", "inline_commands", "package", "repository":
			return words("a", "1.0").Draw(t, name)
		case "entrypoint":
			return words("/bin/sh -c", "[\"/x\", \"-y\"]").Draw(t, name)
		case "registry", "login", "password":
			return "r.example.com"
		}
		enums := map[string][]string{
			"on": {"EVENT", "CLICK"}, "priority": {"LOW", "NORMAL"}, "git_config_ref": {"NONE", "FIXED", "DYNAMIC"}, "definition_source": {"LOCAL", "REMOTE"},
			"git_changeset_base": {"LATEST_RUN", "PULL_REQUEST"}, "filesystem_changeset_base": {"CONTENTS"}, "cpu": {"X64", "ARM"}, "cache_scope": {"PIPELINE", "PROJECT"},
			"trigger_time": {"ON_FAILURE"}, "run_next": {"IN_SOFT_PARALLEL"}, "docker_registry": {"OTHER"}, "image_location": {"ACTION"}, "provenance": {"MIN"}, "cache_mode": {"MAX"},
		}
		if l := enums[name]; l != nil {
			return words(l...).Draw(t, name)
		}
		for _, f := range []string{"remote_project_name", "remote_path", "remote_branch", "remote_ref", "target_site_url", "execution_message_template", "disabled_reason", "folder", "worker", "run_as_user", "export_container_path", "context_path", "target_stage", "target_platform", "target_path", "region", "docker_build_action_name"} {
			if f == name {
				return plain.Draw(t, name)
			}
		}
		if name == "wait_for_variables" {
			return []string{"VERSION", "TOKEN"}
		}
		if name == "loop" {
			return rapid.SliceOfNDistinct(words("A", "$B", "c"), 0, 3, rapid.ID).Draw(t, name)
		}
		if name == "versions" {
			return rapid.SliceOfN(words("1.0", "b"), 0, 2).Draw(t, name)
		}
		if name == "tags" || name == "refs" {
			return texts.Draw(t, name)
		}
		return flag.Draw(t, name)
	}
	fill := func(t *rapid.T, names []string, needed string) body {
		b := body{}
		for _, name := range names {
			if strings.Contains(needed, " "+name+" ") || flag.Draw(t, "has "+name) {
				b[name], _ = json.Marshal(value(t, name))
			}
		}
		return b
	}
	rapid.Check(t, func(t *rapid.T) {
		var d pipeline.Definition
		dec := &decoder{}
		b := fill(t, names(pipelineFields(), 0), " name git_config ")
		if string(b["git_config_ref"]) != `"FIXED"` { // goes with that alone
			delete(b, "git_config")
		}
		if string(b["definition_source"]) == `"REMOTE"` {
			b["remote_path"] = json.RawMessage(`"x.yml"`)
		}
		if b["remote_branch"] != nil { // which is another name of it
			delete(b, "remote_ref")
		}
		if _, err := readPipeline(dec, b, &d.Pipeline); err != nil {
			t.Fatal(err)
		}
		if err := dec.checked(d.Pipeline.Validate); err != nil {
			t.Fatal(err)
		}
		for range rapid.IntRange(0, 2).Draw(t, "actions") {
			a, _ := newAction(words(typeRun, typeBuild, typeMulti).Draw(t, "type"))
			dec := &decoder{}
			b := fill(t, names(actionFields(), kindOf(&a)), " name dockerfile_path docker_image_name docker_image_tag inline_commands registry login password ")
			if string(b["run_only_on_first_failure"]) == "true" { // goes with that alone
				b["trigger_time"] = json.RawMessage(`"ON_FAILURE"`)
			}
			if when := string(b["trigger_time"]); when == `"ON_WAIT_FOR_APPROVE"` || when == `"ON_TERMINATE"` { // what they do not go with
				delete(b, "wait_for_approval")
				delete(b, "wait_for_variables")
			}
			if _, err := readAction(dec, b, &a, kindOf(&a)); err != nil {
				t.Fatal(err)
			}
			if err := dec.checked(a.Validate); err != nil {
				t.Fatal(err)
			}
			d.Actions = append(d.Actions, a)
		}
		same(t, d)
	})
}

func names[T any](fields []field[T], kind byte) (l []string) {
	for _, f := range fields {
		if f.has(kind) {
			l = append(l, f.name)
		}
	}
	return l
}

func FuzzYAML(f *testing.F) {
	f.Add([]byte(example))
	f.Add([]byte("- pipeline: &a x\n  name: *a\n  tags: [*a, ? x]\n"))
	f.Add([]byte("- {pipeline: x, actions: [{action: a, type: DOCKER_BUILD_MULTI_ARCH, secrets: [{secret_id: a, secret_src: b}]}]}"))
	f.Fuzz(func(t *testing.T, text []byte) {
		list, _, err := ReadYAML(text)
		if err != nil {
			if _, ok := project.AsInvalid(err); !ok {
				t.Fatal(err)
			}
			return
		}
		for _, d := range list {
			same(t, d)
		}
	})
}

// Of a file with very much wrong in it the first is told, and how much more there is.
func TestMuchIsWrong(t *testing.T) {
	t.Parallel()
	missing := strings.Repeat("\n#!{NONE}", 60)
	_, _, err := ReadDefinition([]byte(missing), pipe{}, []pipeline.Parameter{})
	inv, ok := project.AsInvalid(err)
	if !ok || len(inv.Fields) != maxTold+1 || !strings.Contains(inv.Fields[49].Message, "line 51: the parameter NONE") || inv.Fields[50].Message != "and 10 more" {
		t.Errorf("parameters: %v", err)
	}
	_, _, err = ReadYAML([]byte("- pipeline: x\n  actions:" + strings.Repeat("\n  - 1", 60)))
	if inv, ok = project.AsInvalid(err); !ok || len(inv.Fields) != maxTold+1 || inv.Fields[50].Message != "and 10 more" {
		t.Errorf("actions: %v", err)
	}
	text := "- pipeline: x"
	for i := range 60 {
		text += fmt.Sprintf("\n  x%d: 1", i)
	}
	_, ignored, err := ReadYAML([]byte(text))
	if err != nil || len(ignored) != maxTold+1 || ignored[50] != "and each of 10 more" {
		t.Errorf("ignored: %v, %v", ignored, err)
	}
}
