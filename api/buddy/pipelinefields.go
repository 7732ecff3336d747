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
			name: "events", status: partly, note: "PULL_REQUEST and EMAIL are stored, and each run's log says so; totp true is refused",
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
			as(partly, "NONE is obeyed").answered(func(p *pipe) any {
			if p.GitConfigRef != "" {
				return p.GitConfigRef
			}
			return local("NONE")(p)
		}),
		{
			name: "git_config", status: failing, note: "goes with git_config_ref FIXED",
			in: func(d *decoder, raw json.RawMessage, _ *pipe) {
				delete(d.keep.Rest, "git_config")
				b := d.object(raw)
				for _, name := range []string{"project", "branch", "path"} {
					d.member(b, name, func(raw json.RawMessage) { d.str(raw) })
				}
				if !isNull(raw) {
					d.keep.Rest["git_config"] = compact(raw)
				}
			},
			out: func(p *pipe, k *kept) any {
				if raw, ok := k.Rest["git_config"]; ok && p.GitConfigRef == "FIXED" {
					return raw
				}
				return nil
			},
		},
		wordField("definition_source", "LOCAL", func(p *pipe) string { return p.DefinitionSource },
			func(p *pipe, s string) { p.DefinitionSource = s }).as(partly, "LOCAL is obeyed"),
		restField[pipe]("remote_project_name", aString, nil),
		restField[pipe]("remote_path", aString, nil),
		mirrored("remote_branch", "remote_ref"),
		mirrored("remote_ref", "remote_branch"),
		restField[pipe]("remote_parameters", aList, []string{}),
		wordField("git_changeset_base", "", func(p *pipe) string { return p.GitChangesetBase },
			func(p *pipe, s string) { p.GitChangesetBase = s }).as(partly, "LATEST_RUN: conditions and what the default variables tell of changes compare with the last successful run; LATEST_RUN_MATCHING_REF: with that of the same branch or tag; not given, conditions with the latter and the variables with the former; PULL_REQUEST is as LATEST_RUN_MATCHING_REF, and each run's log says so").
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
			as(noEffect, "the build cache is shared in the workspace in any case"),
		stringsField("loop", func(p *pipe) *[]string { return &p.Loop }).as(obeyed, "one start makes a run for each combination of the comma separated values of these variables").answered(func(p *pipe) any { return list(p.Loop) }),
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
		unlessNull("manage_variables_by_yaml", func(p *pipe) *bool { return &p.VariablesByYAML }),
		unlessNull("manage_permissions_by_yaml", func(p *pipe) *bool { return &p.PermissionsByYAML }),
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

// mirrored are two members of which one is answered for the other.
func mirrored(name, other string) field[pipe] {
	f := restField[pipe](name, aString, nil)
	f.out = func(_ *pipe, k *kept) any {
		for _, n := range []string{name, other} {
			if raw, ok := k.Rest[n]; ok {
				return raw
			}
		}
		return nil
	}
	return f
}

// unlessNull is a switch that the vendor's SDK sends as null in every request:
// null leaves it alone.
func unlessNull(name string, at func(*pipe) *bool) field[pipe] {
	return field[pipe]{
		name: name, status: failing,
		in: func(d *decoder, raw json.RawMessage, p *pipe) {
			if !isNull(raw) {
				*at(p) = d.bool(raw)
			}
		},
		out: func(p *pipe, _ *kept) any { return *at(p) },
	}
}
