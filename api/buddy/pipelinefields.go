package buddy

import (
	"encoding/json"
	"slices"

	"slipway/pipeline"
)

// pipelineFields are the members of a pipeline, in the order of the answers.
func pipelineFields() []field[pipe] {
	return slices.Concat(startFields(), definitionFields(), stateFields())
}

// startFields say what starts a pipeline, and how.
func startFields() []field[pipe] {
	return []field[pipe]{
		{
			name: "name", status: obeyed,
			in:  func(d *decoder, raw json.RawMessage, p *pipe) { p.Name = d.str(raw) },
			out: func(p *pipe, _ *kept) any { return p.Name },
		},
		{
			name: "identifier", status: obeyed, note: "made from the name if none is given",
			in: func(d *decoder, raw json.RawMessage, p *pipe) {
				if s := d.str(raw); s != "" {
					p.Identifier = s
				}
			},
			out: func(p *pipe, _ *kept) any { return p.Identifier },
		},
		{
			name: "on", status: obeyed, note: "derived from events unless it is given",
			in:  func(d *decoder, raw json.RawMessage, p *pipe) { p.On = d.str(raw) },
			out: func(p *pipe, _ *kept) any { return p.Trigger() },
		},
		{
			name: "refs", status: obeyed, note: "start by a push with on EVENT",
			in:  func(d *decoder, raw json.RawMessage, p *pipe) { p.Refs = d.strings(raw) },
			out: func(p *pipe, _ *kept) any { return list(p.Refs) },
		},
		{
			name: "events", status: partly, note: "EMAIL and totp true are refused",
			in:  func(d *decoder, raw json.RawMessage, p *pipe) { p.Events = d.events(raw) },
			out: func(p *pipe, _ *kept) any { return fromEvents(p.Events) },
		},
		{
			name: "trigger_conditions", status: obeyed, note: "asked of runs that nobody starts by hand",
			in:  func(d *decoder, raw json.RawMessage, p *pipe) { p.Conditions = d.conditions(raw) },
			out: func(p *pipe, _ *kept) any { return fromConditions(p.Conditions) },
		},
		wordField("priority", string(pipeline.Normal), func(p *pipe) string { return string(p.Priority) },
			func(p *pipe, s string) { p.Priority = pipeline.Priority(s) }),
		boolField("always_from_scratch", func(p *pipe) *bool { return &p.FromScratch }),
		boolField("auto_clear_cache", func(p *pipe) *bool { return &p.ClearCache }),
		boolField("no_skip_to_most_recent", func(p *pipe) *bool { return &p.NoSkip }).as(obeyed, "without it a run that still waits for an earlier one of its pipeline ends as SKIPPED when a newer one of the same branch or tag is started; the error_message of its first action says which"),
		boolField("concurrent_pipeline_runs", func(p *pipe) *bool { return &p.Concurrent }).
			as(obeyed, "each run has a copy of the pipeline's files; those of the latest started one that was successful are what the next ones begin with"),
		boolField("description_required", func(p *pipe) *bool { return &p.CommentRequired }),
		{
			name: "clone_depth", status: obeyed, note: "0 or none is the whole history",
			in:  func(d *decoder, raw json.RawMessage, p *pipe) { p.CloneDepth = clampInt(d.int(raw)) },
			out: func(p *pipe, _ *kept) any { return p.CloneDepth },
		},
		boolField("fetch_all_refs", func(p *pipe) *bool { return &p.FetchAllRefs }).as(obeyed, "clone_depth has no effect with it"),
	}
}

// definitionFields say where its definition comes from.
func definitionFields() []field[pipe] {
	local := func(word string) func(*pipe) any {
		return func(p *pipe) any {
			if p.DefinitionSource == "REMOTE" {
				return ""
			}
			return word
		}
	}
	return []field[pipe]{
		wordField("git_config_ref", "", func(p *pipe) string { return p.GitConfigRef }, func(p *pipe, s string) { p.GitConfigRef = s }).
			as(obeyed, "the actions are in a file of a repository, see below").answered(func(p *pipe) any {
			if p.GitConfigRef != "" {
				return p.GitConfigRef
			}
			return local("NONE")(p)
		}),
		{
			name: "git_config", status: obeyed, note: "goes with git_config_ref FIXED: project (its own without one), branch (the default one), path",
			in: func(d *decoder, raw json.RawMessage, p *pipe) { p.GitConfig = d.gitConfig(raw) },
			out: func(p *pipe, _ *kept) any {
				if c := p.GitConfig; c != nil {
					return object{{"project", c.Project}, {"branch", c.Branch}, {"path", c.Path}}
				}
				return nil
			},
		},
		wordField("definition_source", "LOCAL", func(p *pipe) string { return p.DefinitionSource },
			func(p *pipe, s string) { p.DefinitionSource = s }).as(obeyed, "REMOTE: the actions are in a template, see below"),
		strField("remote_project_name", func(p *pipe) *string { return &p.Remote.Project }).as(obeyed, "of the workspace; its own project without one"),
		strField("remote_path", func(p *pipe) *string { return &p.Remote.Path }),
		strField("remote_branch", func(p *pipe) *string { return &p.Remote.Ref }).as(obeyed, "the default branch without one"),
		strField("remote_ref", func(p *pipe) *string { return &p.Remote.Ref }).as(obeyed, "another name of remote_branch; a tag, too"),
		{
			name: "remote_parameters", status: obeyed, note: "key and value, for !key in the template",
			in:  func(d *decoder, raw json.RawMessage, p *pipe) { p.Remote.Parameters = d.parameters(raw) },
			out: func(p *pipe, _ *kept) any { return fromParameters(p.Remote.Parameters) },
		},
		wordField("git_changeset_base", "", func(p *pipe) string { return p.GitChangesetBase },
			func(p *pipe, s string) { p.GitChangesetBase = s }).as(partly, "LATEST_RUN: conditions and what the default variables tell of changes compare with the last successful run; LATEST_RUN_MATCHING_REF: with that of the same branch or tag; not given, conditions with the latter and the variables with the former; PULL_REQUEST: a run of a pull request whose branch is known compares with where it has left that; others are as with LATEST_RUN_MATCHING_REF, and the log of one of a pull request says so. What is not given is answered as LATEST_RUN, and stays so when that is sent back by PATCH").
			answered(func(p *pipe) any { return or(p.GitChangesetBase, local("LATEST_RUN")(p).(string)) }),
		wordField("filesystem_changeset_base", "", func(p *pipe) string { return p.FilesChangesetBase },
			func(p *pipe, s string) { p.FilesChangesetBase = s }).as(noEffect, "belongs to conditions").
			answered(func(p *pipe) any { return or(p.FilesChangesetBase, local("DATE_MODIFIED")(p).(string)) }),
	}
}

// stateFields are where it runs, who may, and the rest.
func stateFields() []field[pipe] {
	return []field[pipe]{
		wordField("cpu", "X64", func(p *pipe) string { return p.CPU }, func(p *pipe, s string) { p.CPU = s }).as(partly, "X64 is obeyed"),
		strField("worker", func(p *pipe) *string { return &p.Worker }).as(failing, ""),
		wordField("cache_scope", "PIPELINE", func(p *pipe) string { return p.CacheScope }, func(p *pipe, s string) { p.CacheScope = s }).
			as(obeyed, "whose builds find each other's cached steps and cache mounts; builds of pull requests find those of the pipeline and add none"),
		stringsField("loop", func(p *pipe) *[]string { return &p.Loop }).as(obeyed, "one start makes a run for each combination of the comma separated values of these variables; at most 100").answered(func(p *pipe) any { return list(p.Loop) }),
		{
			name: "permissions", status: obeyed, note: "narrow what members may do",
			in:  func(d *decoder, raw json.RawMessage, p *pipe) { p.Permissions = d.permissions(raw) },
			out: func(p *pipe, _ *kept) any { return fromPermissions(p.Permissions) },
		},
		{
			name: "variables", status: obeyed, note: "as those of an action",
			in:  func(d *decoder, raw json.RawMessage, p *pipe) { p.Variables = d.variables(raw) },
			out: func(p *pipe, _ *kept) any { return fromVariables(p.Variables) },
		},
		unlessNull("manage_variables_by_yaml", func(p *pipe) *bool { return &p.VariablesByYAML }).as(obeyed, "with a definition in a file its variables are those of the pipeline"),
		unlessNull("manage_permissions_by_yaml", func(p *pipe) *bool { return &p.PermissionsByYAML }).as(obeyed, "with a definition in a file its permissions are those of the pipeline"),
		{
			name: "pause_on_repeated_failures", status: obeyed, note: "after so many failures in a row paused becomes true; 0 is never; without it 100 with a SCHEDULE event",
			in: func(d *decoder, raw json.RawMessage, p *pipe) {
				p.PauseAfterFailures, p.PauseAfterGiven = clampInt(d.int(raw)), !isNull(raw)
			},
			out: func(p *pipe, _ *kept) any { return p.PauseAfter() },
		},
		boolField("paused", func(p *pipe) *bool { return &p.Paused }).as(obeyed, "SCHEDULE events start nothing"),
		boolField("disabled", func(p *pipe) *bool { return &p.Disabled }).as(obeyed, "it does not start"),
		strField("disabled_reason", func(p *pipe) *string { return &p.Reason }),
		{
			name: "fail_on_prepare_env_warning", status: noEffect, note: "preparing gives no warnings",
			in: restField[pipe]("fail_on_prepare_env_warning", aBool, nil).in,
			out: func(p *pipe, k *kept) any {
				if raw, ok := k.Rest["fail_on_prepare_env_warning"]; ok {
					return raw
				}
				return p.DefinitionSource != "REMOTE"
			},
		},
		restField[pipe]("do_not_create_commit_status", aBool, false),
		restField[pipe]("ignore_fail_on_project_status", aBool, false),
		restField[pipe]("target_site_url", aString, nil).as(noEffect, "for people; given back"),
		strField("execution_message_template", func(p *pipe) *string { return &p.MessageTemplate }).
			as(obeyed, "with the default variables in it, it is the message of an execution"),
		restField[pipe]("tags", someStrings, []string{}).as(noEffect, "for people; given back"),
		restField[pipe]("folder", aString, nil),
	}
}

// answered replaces how a field is written.
func (f field[T]) answered(out func(*T) any) field[T] {
	f.out = func(v *T, _ *kept) any { return out(v) }
	return f
}

// gitConfig reads where the file of a definition is.
func (d *decoder) gitConfig(raw json.RawMessage) *pipeline.GitConfig {
	if isNull(raw) || isEmpty(compact(raw)) {
		return nil
	}
	c, b := &pipeline.GitConfig{}, d.object(raw)
	for name, to := range map[string]*string{"project": &c.Project, "branch": &c.Branch, "path": &c.Path} {
		d.member(b, name, func(raw json.RawMessage) { *to = d.str(raw) })
	}
	return c
}

// mirrored makes one of two members that say the same, of which the one that is
// sent with a value holds.
func (d *decoder) mirrored(b body, p *pipe) {
	var branch, ref string
	branchRaw, hasBranch := b["remote_branch"]
	refRaw, hasRef := b["remote_ref"]
	if !hasBranch || !hasRef || json.Unmarshal(branchRaw, &branch) != nil || json.Unmarshal(refRaw, &ref) != nil {
		return
	}
	if branch != "" && ref != "" && branch != ref {
		d.inv.Add("remote_ref", "conflict", "says something else than remote_branch, which it is another name of")
	}
	p.Remote.Ref = or(branch, ref)
}

// parameters reads what stands for the words of a template.
func (d *decoder) parameters(raw json.RawMessage) (l []pipeline.Parameter) {
	d.each(raw, func(raw json.RawMessage) {
		var q pipeline.Parameter
		b := d.object(raw)
		d.member(b, "key", func(raw json.RawMessage) { q.Key = d.str(raw) })
		d.member(b, "value", func(raw json.RawMessage) { q.Value = d.str(raw) })
		l = append(l, q)
	})
	return l
}

func fromParameters(all []pipeline.Parameter) []object {
	l := []object{}
	for _, q := range all {
		l = append(l, object{{"key", q.Key}, {"value", q.Value}})
	}
	return l
}

// unlessNull is a switch that the vendor's SDK sends as null in every request:
// null leaves it alone.
func unlessNull(name string, at func(*pipe) *bool) field[pipe] {
	return field[pipe]{
		name: name, status: obeyed,
		in: func(d *decoder, raw json.RawMessage, p *pipe) {
			if !isNull(raw) {
				*at(p) = d.bool(raw)
			}
		},
		out: func(p *pipe, _ *kept) any { return *at(p) },
	}
}
